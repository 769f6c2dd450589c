from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_files import (
    ARGUMENTS,
    CONTEXT,
    HEADS,
    LAYERS,
    SHEETS,
    VOCAB,
    WIDTH,
    Trap,
    nanogpt_tensors,
    shuffled,
    write_nanogpt,
    write_topolm,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.models.gpt import GPT, GPTConfig, wrap_gpt
from topobrain.models.gpt_checkpoints import cells_of, convert_gpt, detect_layout, gpt_from_checkpoint, read_positions
from topobrain.models.gpt_neo import GPTNeo
from topobrain.testing import check_model


def oracle(tensors: dict[str, Tensor], ids: Tensor) -> Tensor:
    """Logits of the same weights by transformers' GPT-2: linear layers transposed, exact GELU, biases 0 where none."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCAB, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=CONTEXT, activation_function="gelu",
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    state = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    for name, tensor in tensors.items():
        state[name] = tensor.T if ".h." in name and tensor.ndim == 2 else tensor
    model.load_state_dict(state)
    with torch.no_grad():
        logits: Tensor = model(ids).logits
    return logits


def some_ids(n: int = 20) -> Tensor:
    return torch.randint(VOCAB, (2, n), generator=torch.Generator().manual_seed(1))


def logits_of(module: GPT | GPTNeo, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return module.logits(module(ids))


@pytest.mark.parametrize("bias", [False, True])
def test_a_published_nanogpt_gives_the_logits_of_transformers(bias: bool, tmp_path: Path) -> None:
    tensors = nanogpt_tensors(bias)
    module = gpt_from_checkpoint(write_nanogpt(tmp_path / "tau_50.0.pt", tensors, bias=bias))
    assert isinstance(module, GPT)
    assert module.config == GPTConfig(VOCAB, WIDTH, LAYERS, HEADS, CONTEXT, bias=bias)
    assert not module.training
    expected = oracle(tensors, some_ids())
    assert expected.std() > 0.1
    torch.testing.assert_close(logits_of(module, some_ids()), expected, rtol=0, atol=1e-4)


def test_every_way_of_saving_the_same_weights_gives_the_same_state(tmp_path: Path) -> None:
    tensors = nanogpt_tensors()
    expected = convert_gpt(write_nanogpt(tmp_path / "a.pt", tensors)).state
    bare = {name: tensor.clone() for name, tensor in tensors.items() if name != "lm_head.weight"}
    mask = torch.tril(torch.ones(CONTEXT, CONTEXT)).view(1, 1, CONTEXT, CONTEXT)
    save_file(bare, tmp_path / "b.safetensors")
    torch.save(tensors, tmp_path / "c.bin")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}, tmp_path / "d.pth")
    torch.save({**tensors, "transformer.h.0.attn.bias": mask, "transformer.h.1.attn.bias": mask}, tmp_path / "e.pt")
    torch.save({name: tensor.bfloat16() for name, tensor in tensors.items()}, tmp_path / "half.pt")
    for name in ("b.safetensors", "c.bin", "d.pth", "e.pt"):
        config, state = convert_gpt(tmp_path / name, n_heads=HEADS)
        assert config == GPTConfig(VOCAB, WIDTH, LAYERS, HEADS, CONTEXT)
        assert set(state) == set(expected)
        assert all(torch.equal(state[key], expected[key]) for key in state)
    half = convert_gpt(tmp_path / "half.pt", n_heads=HEADS).state
    assert {tensor.dtype for tensor in half.values()} == {torch.float32}


def test_what_was_converted_keeps_the_contract(tokenizers: Callable[[str], Any], tmp_path: Path) -> None:
    module = gpt_from_checkpoint(
        write_nanogpt(tmp_path / "x.pt", nanogpt_tensors(context=128), vocab_size=None, block_size=128)
    )
    assert isinstance(module, GPT)
    assert check_model(wrap_gpt("converted", module, tokenizers("gpt2"), device="cpu")).ok


@pytest.mark.parametrize("way", ["npz", "stacked npz", "npy", "safetensors", "tensors", "inside"])
def test_a_topolm_with_the_places_of_its_units(way: str, tmp_path: Path) -> None:
    tensors, coordinates = nanogpt_tensors(), shuffled()
    stacked = np.stack([coordinates[name] for name in SHEETS])
    places: Path | None = tmp_path / f"positions.{ {'npz': 'npz', 'stacked npz': 'npz', 'npy': 'npy'}.get(way, 'pt') }"
    as_tensors = {name: torch.from_numpy(array.copy()) for name, array in coordinates.items()}
    if way == "npz":
        np.savez(places, **coordinates)  # type: ignore[arg-type]
    elif way == "stacked npz":
        np.savez(places, coordinates=stacked)  # type: ignore[arg-type]
    elif way == "npy":
        np.save(places, stacked)  # type: ignore[arg-type]
    elif way == "safetensors":
        save_file(as_tensors, places)  # type: ignore[arg-type]
    elif way == "tensors":
        torch.save({f"{name}.coordinates": tensor for name, tensor in as_tensors.items()}, places)  # type: ignore[arg-type]
    else:
        tensors.update({f"positions.{name}.coordinates": tensor for name, tensor in as_tensors.items()})
        places = None
    path = write_topolm(tmp_path / "ckpt-311.pt", tensors)
    module = gpt_from_checkpoint(path, positions=places)
    assert isinstance(module, GPT)
    assert module.config.positions == "permuted"
    for i in range(LAYERS):
        for branch, name in (("attention", "attn"), ("mlp", "mlp")):
            sheet = module.branch_sheet(i, branch)
            np.testing.assert_array_equal(np.stack([sheet.x, sheet.y], axis=1), coordinates[f"layer.{i}.{name}"])
    torch.testing.assert_close(logits_of(module, some_ids()), oracle(nanogpt_tensors(), some_ids()), rtol=0, atol=1e-4)


def test_a_topolm_without_places_says_how_to_get_them(tmp_path: Path) -> None:
    path = write_topolm(tmp_path / "ckpt.pt")
    with pytest.raises(DataFileError, match=r"without the places of its units.*savez.*layout='nanogpt'"):
        convert_gpt(path)
    config, _ = convert_gpt(path, "nanogpt")
    assert config == GPTConfig(VOCAB, WIDTH, LAYERS, HEADS, CONTEXT)
    with pytest.raises(InputError, match="positions belong to TopoLM"):
        convert_gpt(write_nanogpt(tmp_path / "nano.pt"), positions=tmp_path / "positions.npz")


def test_pickled_places_are_refused_and_do_not_run(tmp_path: Path) -> None:
    path, trace = write_topolm(tmp_path / "ckpt.pt"), tmp_path / "it ran"
    folder = tmp_path / "gpt2-positions"
    folder.mkdir()
    for place in (folder / "layer.0.attn.pkl", tmp_path / "all.pt"):
        place.write_bytes(pickle.dumps(Trap(trace)))
    np.save(tmp_path / "objects.npy", np.array([Trap(trace)], dtype=object), allow_pickle=True)
    for place, what in (
        (folder, "own classes, which are not read here"),
        (folder / "layer.0.attn.pkl", "own classes, which are not read here"),
        (tmp_path / "all.pt", "holds code"),
        (tmp_path / "objects.npy", "cannot read the places"),
        (tmp_path / "none.npz", "cannot read the places"),
        (tmp_path / "none.pt", "there is no weight file"),
    ):
        with pytest.raises(DataFileError, match=what):
            convert_gpt(path, positions=place)
    assert not trace.exists()


def test_places_that_make_no_sheet_are_refused() -> None:
    good = shuffled()
    assert cells_of(good, LAYERS, WIDTH, path="p").shape == (LAYERS, 2, WIDTH)

    def changed(place: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
        return {**good, "layer.1.mlp": place(good["layer.1.mlp"].copy())}

    def doubled(array: np.ndarray) -> np.ndarray:
        array[3] = array[5]
        return array

    for coordinates, what in (
        ({name: good[name] for name in SHEETS[:-1]}, r"missing layer\.1\.mlp"),
        ({**good, "layer.2.attn": good["layer.0.attn"]}, r"not expected layer\.2\.attn"),
        (changed(lambda a: a[:-1]), r"layer\.1\.mlp should have whole coordinates of shape \(16, 2\)"),
        (changed(lambda a: a / 4), r"layer\.1\.mlp .* but 24 of 32 values are not whole numbers: 0\.\d+"),
        (changed(lambda a: a * np.nan), r"but 32 of 32 values are not whole numbers: nan, nan"),
        (changed(lambda a: a + np.inf), r"but 32 of 32 values are not whole numbers: inf"),
        (changed(lambda a: a.astype(complex)), r"layer\.1\.mlp should have coordinates that are real .* complex128"),
        (changed(lambda a: a.astype(str)), r"real numbers, has values of type <U"),
        (changed(lambda a: a > 0), r"real numbers, has values of type bool"),
        (changed(lambda a: a + 1), "run from 0 to 3 .*found 1 to 4"),
        (changed(doubled), r"layer\.1\.mlp: two units cannot sit in one cell"),
    ):
        with pytest.raises(DataFileError, match=what):
            cells_of(coordinates, LAYERS, WIDTH, path="p")
    with pytest.raises(DataFileError, match="fill none; nearest: 9"):
        cells_of(good, LAYERS, 12, path="p")


def test_one_stacked_array_is_read_sheet_by_sheet(tmp_path: Path) -> None:
    array = np.stack(list(shuffled().values()))
    np.save(tmp_path / "p.npy", array)
    found = read_positions(tmp_path / "p.npy")
    assert list(found) == SHEETS
    np.testing.assert_array_equal(found["layer.1.attn"], array[2])


def test_files_of_places_that_promise_more_than_they_hold_are_refused(tmp_path: Path) -> None:
    endless = torch.zeros(0).reshape(0, 2).as_strided((10**6, 0, 2), (0, 2, 1))  # a million sheets of no unit
    path = write_topolm(tmp_path / "ckpt.pt")
    torch.save({"coordinates": endless}, tmp_path / "p.pt")
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**13, 2)}  # 160 terabytes, of which none follow
    with (tmp_path / "cut.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    np.savez_compressed(tmp_path / "damaged.npz", coordinates=np.stack(list(shuffled().values())))
    raw = bytearray((tmp_path / "damaged.npz").read_bytes())
    raw[30 + sum(np.frombuffer(raw[26:30], "<u2"))] = 0x07  # first byte of the data: a block of a kind there is not
    (tmp_path / "damaged.npz").write_bytes(raw)
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("layer.0.attn", "no array")
    for name, what in (
        ("p.pt", r"should place the units of 4 sheets .* not expected coordinates$"),
        ("cut.npy", "cannot read the places"),
        ("damaged.npz", "cannot read the places"),
        ("text.npz", r"text\.npz holds what are no arrays: layer\.0\.attn"),
    ):
        with pytest.raises(DataFileError, match=what):
            convert_gpt(path, positions=tmp_path / name)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo"])
@pytest.mark.parametrize("way", ["directory", "file beside its config", "headless", "torch file"])
def test_transformers_models_give_their_own_logits(
    family: str, way: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    import transformers as tf

    classes = {"gpt2": tf.GPT2LMHeadModel, "gpt_neo": tf.GPTNeoForCausalLM}
    original: Any = classes[family].from_pretrained(checkpoint(family)).eval()
    source = Path(shutil.copytree(checkpoint(family), tmp_path / "copy"))
    state = dict(original.state_dict())
    if way == "file beside its config":
        source = source / "model.safetensors"
    elif way == "headless":  # as the bare model saves itself, with the masks of older versions
        mask = "attn.bias" if family == "gpt2" else "attn.attention.bias"
        bare = {name.removeprefix("transformer."): t for name, t in state.items() if name != "lm_head.weight"}
        bare[f"h.0.{mask}"] = torch.ones(1, 1, 64, 64)
        bare[f"h.0.{mask.replace('bias', 'masked_bias')}"] = torch.tensor(-1e9)
        save_file({name: t.clone() for name, t in bare.items()}, source / "model.safetensors")
    elif way == "torch file":
        (source / "model.safetensors").unlink()
        torch.save(state, source / "pytorch_model.bin")
    module = gpt_from_checkpoint(source)
    assert isinstance(module, GPT if family == "gpt2" else GPTNeo)
    with torch.no_grad():
        expected = original(some_ids()).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(logits_of(module, some_ids()), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo"])
def test_heads_are_asked_for_where_nothing_tells_them(
    family: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    shutil.copy(checkpoint(family) / "model.safetensors", path)
    with pytest.raises(DataFileError, match=r"does not say how many attention heads.*n_heads"):
        convert_gpt(path)
    assert convert_gpt(path, n_heads=2).config.n_heads == 2
    with pytest.raises(DataFileError, match="does not divide into 5 heads"):
        convert_gpt(path, n_heads=5)
    with pytest.raises(InputError, match="was made with 2 heads, n_heads=3 was asked for"):
        convert_gpt(checkpoint(family), n_heads=3)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"activation_function": "relu"}, "activation 'relu'; known: gelu, gelu_new"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon = 1e-06"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"model_type": "bert"}, "describes a 'bert'"),
        ({"vocab_size": 331}, "vocab_size is 331 by config.json, 330 by the tensors"),
        ({"vocab_size": "330"}, "vocab_size is '330' by config.json, 330 by the tensors"),
        ({"resid_pdrop": None}, r"config\.json gives resid_pdrop = None, expected a finite number"),
        ({"resid_pdrop": "x"}, r"config\.json gives resid_pdrop = 'x'"),
        ({"n_head": True}, r"config\.json gives n_head = True, expected a whole number"),
        ({"n_head": "2"}, r"config\.json gives n_head = '2'"),
    ],
)
def test_a_gpt2_that_this_one_is_not_is_refused(
    changes: dict[str, Any], what: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    source = Path(shutil.copytree(checkpoint("gpt2"), tmp_path / "copy"))
    fields = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**fields, **changes}))
    with pytest.raises(DataFileError, match=what):
        convert_gpt(source)


def without(*names: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in nanogpt_tensors().items() if key not in names}


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        (without("transformer.h.1.mlp.c_fc.weight"), r"1 tensors are missing \(blocks\.1\.mlp\.c_fc\.weight\)"),
        (without("transformer.ln_f.weight"), r"norm\.weight"),
        (without("transformer.wpe.weight"), r"lacks the embedding transformer\.wpe\.weight"),
        ({**nanogpt_tensors(), "transformer.h.0.attn_proj.weight": torch.zeros(1)}, r"not expected \(h\.0\.attn_proj"),
        ({**nanogpt_tensors(), "extra": torch.zeros(1)}, r"not expected \(extra\)"),
        (
            {**nanogpt_tensors(), "transformer.h.1.mlp.c_proj.weight": torch.zeros(WIDTH, 3 * WIDTH)},
            r"blocks\.1\.mlp\.c_proj\.weight should be \(16, 64\), is \(16, 48\)",
        ),
        ({**nanogpt_tensors(), "transformer.h.3000000.x": torch.zeros(1)}, r"names 3 blocks.* lacks 2 and has 3000000"),
        ({**nanogpt_tensors(), "transformer.h.²": torch.zeros(1)}, r"not expected \(h\.²\)"),
        ({**nanogpt_tensors(), "transformer.h.².x": torch.zeros(1)}, r"not expected \(h\.²\.x\)"),
        (
            {**nanogpt_tensors(), "transformer.wpe.weight": torch.zeros(1).expand(10**9, WIDTH)},
            r"transformer\.wpe\.weight has shape \(1000000000, 16\), but only 4 bytes",
        ),
        (
            {**nanogpt_tensors(), "transformer.h.0.mlp.c_fc.weight": torch.ones(64, 16, dtype=torch.complex64)},
            r"transformer\.h\.0\.mlp\.c_fc\.weight is of the type torch\.complex64",
        ),
        (
            {**nanogpt_tensors(), "transformer.h.0.mlp.c_fc.weight": torch.full((64, 16), torch.nan)},
            r"damaged.*transformer\.h\.0\.mlp\.c_fc\.weight has 1024 of 1024 values that are NaN",
        ),
        (
            dict.fromkeys(("transformer.wte.weight", "lm_head.weight"), torch.full((VOCAB, WIDTH), torch.inf))
            | without("transformer.wte.weight", "lm_head.weight"),
            r"transformer\.wte\.weight has 5280 of 5280 values",
        ),
        (
            {**nanogpt_tensors(), "lm_head.weight": torch.zeros(VOCAB, WIDTH)},
            r"head of its own: lm_head\.weight \(330, 16\) has other values than wte\.weight",
        ),
        (
            {**nanogpt_tensors(), "lm_head.weight": torch.zeros(VOCAB + 7, WIDTH)},
            r"lm_head\.weight \(337, 16\) has another shape than wte\.weight \(330, 16\)",
        ),
    ],
)
def test_tensors_that_do_not_make_a_gpt_are_named(tensors: dict[str, Tensor], what: str, tmp_path: Path) -> None:
    path = write_nanogpt(tmp_path / "x.pt", tensors)
    with pytest.raises(DataFileError, match=what) as caught:
        convert_gpt(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"vocab_size": 50304}, "vocab_size is 50304 by model_args, 330 by the tensors"),
        ({"n_layer": 3}, "n_layers is 3 by model_args, 2"),
        ({"block_size": 1024}, "context is 1024 by model_args, 24"),
        ({"bias": True}, "bias is True by model_args, False"),
        ({"n_embd": 768}, "width is 768 by model_args, 16"),
        ({"n_head": 3}, "does not divide into 3 heads"),
        ({"n_head": "leave out"}, "does not say how many attention heads"),
        ({"n_head": "four"}, r"x\.pt \(model_args\) gives n_head = 'four', expected a whole number of at least 1"),
        ({"n_head": True}, r"gives n_head = True"),
        ({"n_head": 4.0}, r"gives n_head = 4\.0"),
        ({"n_head": 0}, r"gives n_head = 0"),
        ({"n_layer": "2"}, r"n_layers is '2' by model_args, 2 by the tensors"),
        ({"dropout": "abc"}, r"x\.pt \(model_args\) gives dropout = 'abc', expected a finite number"),
        ({"dropout": [1]}, r"gives dropout = \[1\]"),
        ({"dropout": True}, r"gives dropout = True"),
        ({"dropout": float("nan")}, r"gives dropout = nan"),
        ({"dropout": 7.0}, r"dropout is a share from 0 to below 1, got 7\.0"),
    ],
)
def test_sizes_at_odds_with_the_tensors_are_named(changes: dict[str, Any], what: str, tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=what):
        convert_gpt(write_nanogpt(tmp_path / "x.pt", **changes))


@pytest.mark.parametrize("n_heads", [0, -2, True, 2.0, "4"])
def test_heads_that_are_no_count_are_the_askers_fault(n_heads: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"n_heads is a whole number of at least 1, got {n_heads!r}"):
        convert_gpt(write_nanogpt(tmp_path / "x.pt", n_head="leave out"), n_heads=n_heads)


@pytest.mark.parametrize(
    "changes", [{"n_heads": True}, {"n_layers": 2.0}, {"width": "16"}, {"dropout": "0"}, {"dropout": None}]
)
def test_sizes_of_another_type_make_no_config(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(changes))} .*got {next(iter(changes.values()))!r}"):
        GPTConfig(**changes)


def test_no_dropout_and_infinite_masks_are_nothing_wrong(tmp_path: Path) -> None:
    mask = torch.full((1, 1, CONTEXT, CONTEXT), -torch.inf)
    tensors = {**nanogpt_tensors(), "transformer.h.0.attn.masked_bias": mask, "transformer.h.0.attn.bias": mask}
    assert convert_gpt(write_nanogpt(tmp_path / "x.pt", tensors, dropout=None)).config == GPTConfig(
        VOCAB, WIDTH, LAYERS, HEADS, CONTEXT
    )


def test_nan_and_odd_shapes_in_a_gpt_neo_are_named(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    source = Path(shutil.copytree(checkpoint("gpt_neo"), tmp_path / "copy"))
    state = load_file(source / "model.safetensors")
    name = next(name for name in state if name.endswith("h.1.mlp.c_fc.weight"))
    for tensor, what in (
        (torch.full_like(state[name], torch.nan), rf"{name} has {state[name].numel()} of "),
        (state[name].bool(), None),
        (torch.ones(()), "have another shape"),
    ):
        save_file({**state, name: tensor}, source / "model.safetensors")
        if what is None:
            convert_gpt(source)
        else:
            with pytest.raises(DataFileError, match=what):
                convert_gpt(source)
    first = name.replace("h.1.", "h.0.")
    save_file({**state, first: torch.ones(())}, source / "model.safetensors")
    with pytest.raises(DataFileError, match="gpt_neo, but no usable tensor"):
        convert_gpt(source)
    save_file({**state, name.replace("h.1.", "h.70.") + "x": torch.ones(1)}, source / "model.safetensors")
    with pytest.raises(DataFileError, match="lacks 2 and has 70"):
        convert_gpt(source)


def test_layouts_are_told_from_the_names(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    from topobrain.models.checkpoint_files import read_checkpoint

    files = {
        "nanogpt": write_nanogpt(tmp_path / "nano.pt"),
        "topolm": write_topolm(tmp_path / "topolm.pt"),
        "gpt2": checkpoint("gpt2") / "model.safetensors",
        "gpt_neo": checkpoint("gpt_neo") / "model.safetensors",
    }
    for layout, path in files.items():
        assert detect_layout(read_checkpoint(path), path=path) == layout


def test_an_unknown_layout_tells_what_was_seen(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"none of the layouts nanogpt, topolm, gpt2, gpt_neo.*embed_tokens"):
        convert_gpt(checkpoint("llama"))
    module = GPT(GPTConfig.tiny(50))
    torch.save({"model": module.state_dict(), "iter_num": 3}, tmp_path / "own.pt")
    with pytest.raises(DataFileError, match=r"topobrain's own names already.*iter_num"):
        convert_gpt(tmp_path / "own.pt")
    with pytest.raises(UnknownNameError, match=r"unknown layout 'nano'.*nanogpt"):
        convert_gpt(tmp_path / "own.pt", "nano")  # type: ignore[arg-type]
    with pytest.raises(DataFileError):
        convert_gpt(checkpoint("gpt_neo"), "nanogpt")
    with pytest.raises(DataFileError, match="gpt_neo, but no usable tensor"):
        convert_gpt(write_nanogpt(tmp_path / "nano.pt", without("transformer.wpe.weight")), "gpt_neo")


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "tau_50.0.pt", tmp_path / "it ran"
    torch.save({"model": nanogpt_tensors(), "model_args": ARGUMENTS, "config": Trap(trace)}, path)
    with pytest.raises(DataFileError, match=r"holds code.*mkdir"):
        convert_gpt(path)
    assert not trace.exists()


def test_a_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    path = write_nanogpt(tmp_path / "tau_0.5.pt")
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) * 2 // 3])
    with pytest.raises(DataFileError, match=r"tau_0\.5\.pt is truncated"):
        convert_gpt(path)
