from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from every_architecture import small_network, small_tokenizer
from published_files import (
    HEADS,
    LAYERS,
    RESNET,
    VIT,
    VOCAB,
    WIDTH,
    Trap,
    nanogpt_tensors,
    saved,
    shuffled,
    state_of,
    training_dictionary,
    transformers_resnet,
    transformers_vit,
    write_nanogpt,
    write_topolm,
)
from safetensors.torch import save_file

from topobrain import list_models, load_model
from topobrain._checks import DataFileError, InputError, TopobrainError, UnknownNameError
from topobrain.models import published
from topobrain.models.architectures import build_config, find_architecture
from topobrain.models.directories import load_directory, save_model
from topobrain.models.gpt import GPT
from topobrain.models.gpt2_tokenizer import load_gpt2_bpe
from topobrain.models.published import ARCHITECTURE_NAMES, PUBLISHED, import_checkpoint, load_published
from topobrain.store.manifest import load_manifests
from topobrain.testing import check_model

LONG: dict[str, Any] = {"context": 128}  # the sentences of check_model must fit
SMALL_VIT = replace(VIT, width=192, n_heads=3, n_layers=1, mlp_width=16)  # a width whose heads are known


@pytest.fixture
def tokenizer_beside(tokenizers: Callable[[str], Any], tmp_path: Path) -> None:
    tokenizers("gpt2").save_pretrained(tmp_path)


@pytest.fixture
def gpt2_store(real_data: Path, store: Path) -> Path:
    """A store of its own that holds GPT-2's tokenizer and nothing else."""
    (store / "gpt2_bpe").symlink_to(real_data / "gpt2_bpe")
    return store


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Point a manifest's addresses to a port where nothing answers; returns that address."""
    closed = socket.socket()  # bound and never listening
    closed.bind(("127.0.0.1", 0))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    url = f"http://127.0.0.1:{closed.getsockname()[1]}"

    def point(name: str) -> str:
        from topobrain.store import files

        manifests = dict(load_manifests())
        there = tuple(replace(file, url=f"{url}/{file.path}") for file in manifests[name].files)
        manifests[name] = replace(manifests[name], files=there)
        monkeypatch.setattr(files, "load_manifests", lambda: manifests)
        return url

    yield point
    closed.close()


def nanogpt(folder: Path) -> Path:
    return write_nanogpt(folder / "tau_50.0.pt", nanogpt_tensors(**LONG), block_size=128)


def bare_nanogpt(folder: Path) -> Path:
    tensors = {name: tensor.clone() for name, tensor in nanogpt_tensors(bias=True, **LONG).items()}
    save_file(tensors, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def topolm(folder: Path) -> Path:
    np.savez(folder / "places.npz", **shuffled())  # type: ignore[arg-type]
    return write_topolm(folder / "ckpt-311.pt", nanogpt_tensors(**LONG), block_size=128)


def ffcv_resnet(folder: Path) -> Path:
    state = state_of(replace(RESNET, blur_pool=True))
    return saved(folder / "all_topo_tau_10.0.pt", {f"module.{name}": tensor for name, tensor in state.items()})


def transformers_directory(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder / "their model")
    return folder / "their model"


VISION: dict[str, tuple[Callable[[Path], Path], dict[str, Any], str]] = {
    "ffcv resnet": (ffcv_resnet, {}, "resnet"),
    "script vit": (lambda f: saved(f / "tau_10.0.pt", training_dictionary(state_of(VIT))), {"n_heads": 4}, "vit"),
    "torchvision resnet": (lambda f: saved(f / "resnet18-f37072fd.pth", state_of(RESNET)), {}, "resnet"),
    "torchvision vit": (lambda f: saved(f / "vit_b_32-d86f8d99.pth", state_of(SMALL_VIT)), {}, "vit"),
    "transformers resnet": (lambda f: transformers_directory(transformers_resnet("basic"), f), {}, "resnet"),
    "transformers vit": (lambda f: transformers_directory(transformers_vit(), f), {}, "vit"),
    "transformers vit file": (
        lambda f: transformers_directory(transformers_vit(), f) / "model.safetensors", {}, "vit",
    ),
}  # fmt: skip
GPTS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "nanogpt": (nanogpt, {}),
    "bare nanogpt": (bare_nanogpt, {"n_heads": HEADS}),
    "topolm": (topolm, {"positions": "places.npz"}),
    "topolm without its places": (topolm, {"layout": "nanogpt"}),
}


def is_kept(directory: Path, source: Path) -> Any:
    """Load an imported directory, assert the contract, and return its module."""
    files = {path.name for path in directory.iterdir()}
    assert {"config.json", "model.safetensors"} <= files <= {"config.json", "model.safetensors", "tokenizer.json"}
    model: Any = load_model(str(directory), device="cpu")
    assert check_model(model).ok
    assert model.name == (source.name if source.is_dir() else source.stem)
    assert model.provenance["weights_file"] == source.name
    return model.module


# --- from a published file to a directory


@pytest.mark.slow
@pytest.mark.parametrize("layout", VISION)
def test_a_vision_layout_becomes_a_model(layout: str, tmp_path: Path) -> None:
    from topobrain.models.vision_checkpoints import convert_vision

    write, options, architecture = VISION[layout]
    source = write(tmp_path)
    module = is_kept(import_checkpoint(source, tmp_path / "model", **options), source)
    assert module.config.__class__ is find_architecture(architecture).config
    config, state = convert_vision(source, **options)
    assert module.config == config
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())


@pytest.mark.usefixtures("tokenizer_beside")
@pytest.mark.parametrize("layout", GPTS)
@pytest.mark.slow
def test_a_gpt_layout_becomes_a_model(layout: str, tmp_path: Path) -> None:
    write, options = GPTS[layout]
    source = write(tmp_path)
    options = {key: tmp_path / value if key == "positions" else value for key, value in options.items()}
    module = is_kept(import_checkpoint(source, tmp_path / "model", **options), source)
    assert isinstance(module, GPT)
    assert (module.config.vocab_size, module.config.width, module.config.n_layers) == (VOCAB, WIDTH, LAYERS)
    assert torch.equal(
        module.tokens.weight, nanogpt_tensors(layout == "bare nanogpt", **LONG)["transformer.wte.weight"]
    )
    if layout == "topolm":
        for i, branch in ((0, "attention"), (1, "mlp")):
            places = shuffled()[f"layer.{i}.{'attn' if branch == 'attention' else 'mlp'}"]
            sheet = module.branch_sheet(i, branch)
            np.testing.assert_array_equal(np.stack([sheet.x, sheet.y], axis=1), places)
    else:
        assert module.config.positions == "row-major"


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo"])
@pytest.mark.parametrize("way", ["directory", "file beside its config and tokenizer"])
@pytest.mark.slow
def test_a_transformers_gpt_becomes_a_model(
    family: str, way: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    import transformers as tf

    source = checkpoint(family) if way == "directory" else checkpoint(family) / "model.safetensors"
    target = import_checkpoint(source, tmp_path / "model", name="mine")
    model: Any = load_model(str(target), device="cpu")
    assert model.name == "mine"
    assert check_model(model).ok
    theirs: Any = tf.AutoModelForCausalLM.from_pretrained(checkpoint(family)).eval()
    ids = model.encode(["The dog sleeps."]).inputs["input_ids"]
    assert ids.tolist() == [tf.AutoTokenizer.from_pretrained(checkpoint(family))("The dog sleeps.")["input_ids"]]
    with torch.no_grad():
        torch.testing.assert_close(model.module.logits(model.module(ids)), theirs(ids).logits, rtol=0, atol=1e-4)


def test_an_older_transformers_directory_has_its_tokenizer_in_two_files(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    source = Path(shutil.copytree(checkpoint("gpt2"), tmp_path / "older"))
    fields = json.loads((source / "tokenizer.json").read_text())["model"]
    (source / "vocab.json").write_text(json.dumps(fields["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in fields["merges"]]
    (source / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (source / name).unlink(missing_ok=True)
    model: Any = load_directory(import_checkpoint(source, tmp_path / "model"), device="cpu")
    expected: Any = load_directory(import_checkpoint(checkpoint("gpt2"), tmp_path / "other"), device="cpu")
    assert model.survey(["The dog sleeps."]).lengths == expected.survey(["The dog sleeps."]).lengths
    assert len(model.encode.tokenizer) == VOCAB  # not GPT-2's 50,257


@pytest.mark.slow
@pytest.mark.usefixtures("gpt2_store")
def test_a_gpt_without_a_tokenizer_beside_it_reads_with_gpt2s(tmp_path: Path) -> None:
    source = write_nanogpt(
        tmp_path / "tau_1.0.pt", nanogpt_tensors(vocab_size=50304, **LONG), vocab_size=50304, block_size=128
    )
    target = import_checkpoint(source, tmp_path / "model", trained_on="FineWeb-Edu")
    is_kept(target, source)
    model: Any = load_directory(target, device="cpu")
    assert model.provenance["trained_on"] == "FineWeb-Edu"
    assert model.encode(["Hello world!"]).inputs["input_ids"].tolist() == [[15496, 995, 0]]


@pytest.mark.usefixtures("gpt2_store")
def test_gpt2s_tokenizer_is_not_given_to_a_model_of_fewer_tokens(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the tokenizer has 50257 tokens, the model knows 330"):
        import_checkpoint(nanogpt(tmp_path), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_without_gpt2s_tokenizer_the_message_says_where_it_belongs(
    offline: Callable[[str], str], store: Path, tmp_path: Path
) -> None:
    url = offline("gpt2_bpe")
    with pytest.raises(DataFileError, match=f"tried {url}/merges.txt.*save the file as {store}/gpt2_bpe/merges.txt"):
        import_checkpoint(nanogpt(tmp_path), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_broken_tokenizer_beside_is_told(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataFileError, match=f"cannot read the tokenizer in {tmp_path}"):
        import_checkpoint(nanogpt(tmp_path), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_names_come_from_the_file_or_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = transformers_directory(transformers_vit(), tmp_path)
    monkeypatch.chdir(source)
    assert load_directory(import_checkpoint(".", tmp_path / "a")).name == "their model"
    with pytest.raises(InputError, match="choose another directory"):
        import_checkpoint("model.safetensors", ".")
    dotted = Path(shutil.copytree(source, tmp_path / "vit.v2"))
    assert load_directory(import_checkpoint(dotted, tmp_path / "b")).name == "vit.v2"
    assert load_directory(import_checkpoint(dotted, tmp_path / "b", name="x")).name == "x"  # imported again


def test_the_weights_themselves_are_never_replaced(tmp_path: Path) -> None:
    state = state_of(RESNET)
    save_file(state, tmp_path / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    for directory in (tmp_path, link):
        with pytest.raises(InputError, match=r"would take the place of .*choose another directory"):
            import_checkpoint(tmp_path / "model.safetensors", directory)
    theirs = transformers_directory(transformers_vit(), tmp_path)
    with pytest.raises(InputError, match=r"config\.json is not of this project"):
        import_checkpoint(tmp_path / "model.safetensors", theirs)
    assert (tmp_path / "model.safetensors").read_bytes() == before


# --- hostile files: what is wrong is named, nothing runs, nothing is written


def without(tensors: dict[str, Any], *names: str) -> dict[str, Any]:
    assert set(names) <= set(tensors)
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def resized(tensors: dict[str, Any], name: str, *shape: int) -> dict[str, Any]:
    assert name in tensors
    return {**tensors, name: torch.zeros(shape)}


GPT_STATE, RESNET_STATE, VIT_STATE = nanogpt_tensors(), state_of(RESNET), state_of(SMALL_VIT)
MASKED = {"transformer.h.0.attn.bias": torch.ones(1, 1, 24, 24)}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (without(RESNET_STATE, "fc.weight"), r"lacks the tensor fc\.weight"),
        (without(RESNET_STATE, "layer1.0.conv1.weight"), r"1 tensors are missing \(layer1\.0\.conv1\.weight\)"),
        (without(RESNET_STATE, "conv1.weight"), r"lacks the tensor conv1\.weight"),
        (resized(RESNET_STATE, "layer2.0.conv1.weight", 3, 3, 3, 3), r"layer2\.0\.conv1\.weight should be"),
        (without(VIT_STATE, "conv_proj.weight"), r"lacks the tensor conv_proj\.weight"),
        (without(VIT_STATE, "encoder.ln.weight"), r"missing \(encoder\.ln\.weight\)"),
        (without(VIT_STATE, "heads.head.weight"), r"lacks the tensor heads\.head\.weight"),
        (resized(VIT_STATE, "class_token", 1, 1, 3), r"class_token should be \(1, 1, 192\), is \(1, 1, 3\)"),
        (without(GPT_STATE, "transformer.h.1.ln_2.weight"), r"missing \(blocks\.1\.norm_mlp\.weight\)"),
        (without(GPT_STATE, "transformer.wte.weight", "lm_head.weight"), r"none of the layouts nanogpt.*wpe\.weight"),
        (without(GPT_STATE, "transformer.wpe.weight"), r"lacks the embedding transformer\.wpe\.weight"),
        (resized(GPT_STATE, "transformer.h.1.mlp.c_fc.weight", 3, 16), r"mlp\.c_fc\.weight should be \(64, 16\), is"),
        (
            resized(GPT_STATE, "transformer.h.0.attn.c_attn.weight", 40, 16),
            r"c_attn\.weight has shape \(40, 16\); for its 16 units expected \(48, 16\)",
        ),
        ({**without(GPT_STATE, "transformer.wpe.weight"), **MASKED}, r"lacks the embedding transformer\.wpe\.weight"),
        (
            {"encoder.weight": torch.zeros(2), "head.weight": torch.zeros(2, 2, 2, 2)},
            r"none of the layouts nanogpt, .*encoder\.weight.*Nor has it the layouts of networks for images: resnet",
        ),
        (small_network("gpt").state_dict(), r"topobrain's own names already"),
        (
            {**GPT_STATE, "transformer.ln_f.weight": torch.full((16,), torch.nan)},
            r"damaged.* transformer\.ln_f\.weight has 16 of 16 values that are NaN",
        ),
        (
            {**RESNET_STATE, "bn1.running_var": -torch.ones(16)},
            r"damaged.* bn1\.running_var has 16 of 16 variances below 0",
        ),
        ({**RESNET_STATE, "fc.bias": torch.ones(5, device="meta")}, r"fc\.bias has no values here \(device meta\)"),
        ({"epoch": 3}, r"holds no tensors"),
        (torch.zeros(3), r"expected named tensors"),
    ],
)
@pytest.mark.parametrize("nest", [False, True])
def test_a_file_that_does_not_fit_says_why(content: Any, told: str, nest: bool, tmp_path: Path) -> None:
    if nest and isinstance(content, dict) and "epoch" not in content:
        content = {"model": content, "model_args": {"n_head": HEADS}, "epoch": 3}
    elif isinstance(content, dict) and "transformer.ln_f.weight" in content:
        content = {**content, "model_args": {"n_head": HEADS}}
    with pytest.raises(DataFileError, match=told) as caught:
        import_checkpoint(saved(tmp_path / "w.pt", content), tmp_path / "model")
    assert str(tmp_path / "w.pt") in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_code_in_a_file_does_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "it ran"
    for number, content in enumerate(
        [
            Trap(trace),
            {"model": GPT_STATE, "config": Trap(trace)},
            {**RESNET_STATE, "x": Trap(trace)},
            torch.nn.Linear(2, 2),
        ]
    ):
        with pytest.raises(DataFileError, match="nothing in it was run"):
            import_checkpoint(saved(tmp_path / f"{number}.pt", content), tmp_path / "model")
    assert not trace.exists()
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("write", [nanogpt, ffcv_resnet, topolm])
def test_a_truncated_file_is_told(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataFileError, match="truncated"):
        import_checkpoint(path, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_what_only_the_user_can_know_is_asked_for(tmp_path: Path) -> None:
    cases: list[tuple[Path, dict[str, Any], type[TopobrainError], str]] = [
        (saved(tmp_path / "vit.pt", state_of(VIT)), {}, InputError, "give n_heads="),
        (saved(tmp_path / "bare.pt", GPT_STATE), {}, DataFileError, "does not say how many attention heads"),
        (topolm(tmp_path), {}, DataFileError, r"without the places of its units.*layout='nanogpt'"),
        (nanogpt(tmp_path), {"positions": tmp_path / "places.npz"}, InputError, "positions belong to TopoLM"),
        (ffcv_resnet(tmp_path), {"positions": tmp_path / "places.npz"}, InputError, "positions belong to TopoLM"),
        (nanogpt(tmp_path), {"layout": "nanogtp"}, UnknownNameError, "Did you mean 'nanogpt'"),
        (nanogpt(tmp_path), {"layout": "resnet"}, DataFileError, "no vision network known here"),
        (ffcv_resnet(tmp_path), {"layout": "nanogpt"}, DataFileError, r"lacks the embedding transformer\.wte\.weight"),
        (tmp_path / "none.pt", {}, DataFileError, r"there is no weight file .*none\.pt"),
        (tmp_path, {}, DataFileError, r"expected config\.json"),
    ]
    for path, options, kind, told in cases:
        with pytest.raises(kind, match=told):
            import_checkpoint(path, tmp_path / "model", **options)
    assert not (tmp_path / "model").exists()


# --- by name


def test_names_descriptions_and_places_agree() -> None:
    from topobrain.models.registry import BUILTIN, DESCRIPTIONS

    assert list(BUILTIN) == list(DESCRIPTIONS)
    assert set(published.DESCRIPTIONS) == {*PUBLISHED, *ARCHITECTURE_NAMES}
    assert set(published.DESCRIPTIONS) <= set(list_models())
    for path in BUILTIN.values():
        module, _, attribute = path.partition(":")
        assert callable(getattr(importlib.import_module(module), attribute)), path
    for room in ("topobrain.models.published", "topobrain.training.recipe_models"):
        assert not hasattr(importlib.import_module(room), "no_such_model")


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_name_has_a_file_in_a_manifest_that_says_where_it_is(name: str) -> None:
    model = PUBLISHED[name]
    manifest = load_manifests()[model.manifest]
    assert manifest.kind == "model"
    assert model.file is None or model.file in manifest.paths()
    if name.startswith("topolm"):
        assert manifest.access == "request"
    else:
        wanted = [file for file in manifest.files if model.file in (None, file.path)]
        assert manifest.access == "public"
        assert all(
            str(file.url).startswith(("https://huggingface.co/", "https://download.pytorch.org/")) for file in wanted
        )


def test_every_file_of_a_published_model_has_a_name() -> None:
    named = {(model.manifest, model.file) for model in PUBLISHED.values()}
    for manifest in load_manifests().values():
        if manifest.name.startswith(("toponets", "topolm", "torchvision")):
            assert {(manifest.name, path) for path in manifest.paths()} <= named


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("toponet-resnet18-tau10", 11_689_512),
        ("toponet-resnet50-tau30", 25_557_032),
        ("toponet-vit-b-32-tau10", 88_224_232),
        ("toponet-nanogpt-tau0.5", 124_373_760),
        ("topolm", 128_771_216),
        ("topolm-control", 128_771_216),
        ("gpt-neo-125m", 125_198_592),
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
        ("vit-b-32", 88_224_232),
        ("nanogpt", 124_373_760),
    ],
)
def test_the_untrained_twin_has_as_many_parameters_as_the_published_model(name: str, count: int) -> None:
    kind, values = PUBLISHED[name][2:4] if name in PUBLISHED else ARCHITECTURE_NAMES[name][:2]
    architecture = find_architecture(kind)
    with torch.device("meta"):
        module: Any = architecture.module(build_config(architecture, values))
    assert sum(p.numel() for p in module.parameters()) == count


@pytest.fixture
def shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every published configuration a tiny one of the same kind."""
    sizes = {
        "resnet": {"width": 4, "n_classes": 5, "image_size": 32},
        "vit": {"width": 16, "n_heads": 2, "n_layers": 1, "mlp_width": 16, "image_size": 64},
        "gpt": {"width": 16, "n_heads": 2, "n_layers": 1, "context": 64},
        "gpt-neo": {"width": 16, "n_heads": 2, "n_layers": 1, "context": 64},
    }
    for name, model in PUBLISHED.items():
        small = {**model.config, **sizes[model.architecture]}
        monkeypatch.setitem(PUBLISHED, name, model._replace(config=small))
    for name, (kind, config, what) in ARCHITECTURE_NAMES.items():
        monkeypatch.setitem(ARCHITECTURE_NAMES, name, (kind, {**config, **sizes[kind]}, what))


@pytest.mark.slow
@pytest.mark.usefixtures("shrunk", "gpt2_store")
@pytest.mark.parametrize(
    "name", ["toponet-resnet18-tau1", "resnet50", "vit-b-32", "toponet-nanogpt-tau3", "topolm", "nanogpt"]
)
def test_the_untrained_twin_needs_no_file_and_no_network(name: str, offline: Callable[[str], str]) -> None:
    if name in PUBLISHED:
        offline(PUBLISHED[name].manifest)
    rng = torch.get_rng_state()
    model: Any = load_model(name, weights="untrained", device="cpu")
    assert torch.equal(torch.get_rng_state(), rng)
    assert model.name == f"{name} (untrained)"
    assert model.provenance == {"trained_on": "nothing (random weights)"}
    assert check_model(model).ok
    again, other = (load_model(name, weights=f"untrained:{seed}", device="cpu").weights_hash() for seed in (0, 1))  # type: ignore[attr-defined]
    assert model.weights_hash() == again != other


@pytest.mark.slow
@pytest.mark.usefixtures("shrunk", "gpt2_store")
def test_every_untrained_twin_is_built() -> None:
    for name in published.DESCRIPTIONS:
        assert load_model(name, weights="untrained", device="cpu").name == f"{name} (untrained)"


@pytest.mark.parametrize("name", ["resnet18", "nanogpt", "topolm"])
@pytest.mark.parametrize("weights", ["", "trained", "untrained:x"])
def test_other_weights_are_refused_before_anything_is_built(name: str, weights: str, store: Path) -> None:
    with pytest.raises(InputError, match="weights must be None, 'untrained' or 'untrained:SEED'"):
        load_model(name, weights=weights)
    assert list(store.iterdir()) == []


def test_a_network_that_nobody_released_says_so() -> None:
    with pytest.raises(InputError, match=r"NanoGPT of 124 million parameters has no published weights.*untrained"):
        load_model("nanogpt")


def test_an_unknown_name_offers_near_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean .*'toponet-resnet18-tau10'"):
        load_published("toponet-resnet18-tau11")


@pytest.mark.parametrize(
    "name", ["toponet-resnet18-tau10", "toponet-nanogpt-tau50", "gpt-neo-125m", "resnet18", "vit-b-32"]
)
def test_without_a_network_the_message_says_from_where_and_whereto(
    name: str, offline: Callable[[str], str], store: Path
) -> None:
    manifest = load_manifests()[PUBLISHED[name].manifest]
    url = offline(manifest.name)
    file = PUBLISHED[name].file or manifest.paths()[0]
    with pytest.raises(DataFileError) as caught:
        load_model(name)
    message = str(caught.value)
    assert f"tried {url}/{file}" in message
    assert "there is no network here, or the server is down" in message
    assert f"save the file as {store / manifest.name / file}" in message
    assert [path for path in store.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["topolm", "topolm-control"])
def test_topolm_must_be_asked_for(name: str, store: Path) -> None:
    with pytest.raises(DataFileError) as caught:
        load_model(name)
    assert "they must be requested from their authors" in str(caught.value)
    assert f"lacks {PUBLISHED[name].file} in {store / 'topolm'}" in str(caught.value)


@pytest.mark.slow
@pytest.mark.usefixtures("gpt2_store")
def test_files_placed_by_hand_are_loaded(
    store: Path, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the names of the manifests, tiny ones in the published layouts."""
    big: dict[str, Any] = {"vocab_size": 50304, **LONG}
    sizes = {"vocab_size": 50304, "block_size": 128}
    for name in ("toponets-resnet18", "toponets-vit-b-32", "toponets-nanogpt", "topolm"):
        (store / name).mkdir()
    saved(store / "toponets-resnet18" / "all_topo_tau_10.0.pt", state_of(replace(RESNET, blur_pool=True)))
    saved(store / "toponets-vit-b-32" / "tau_10.0.pt", training_dictionary(state_of(SMALL_VIT), SMALL_VIT))
    write_nanogpt(store / "toponets-nanogpt" / "tau_50.0.pt", nanogpt_tensors(**big), **sizes)
    write_topolm(store / "topolm" / "topolm.pt", nanogpt_tensors(**big), **sizes)
    np.savez(store / "topolm" / "positions.npz", **shuffled())  # type: ignore[arg-type]
    write_topolm(store / "topolm" / "control.pt", nanogpt_tensors(seed=1, **big), alpha=0.0, **sizes)
    shutil.copytree(checkpoint("gpt_neo"), store / "gpt-neo-125m")
    for path in load_manifests()["gpt-neo-125m"].paths():
        (store / "gpt-neo-125m" / path).exists() or (store / "gpt-neo-125m" / path).write_text("{}")
    names = [
        "toponet-resnet18-tau10", "toponet-vit-b-32-tau10", "toponet-nanogpt-tau50", "topolm", "topolm-control", "gpt-neo-125m",
    ]  # fmt: skip
    for name in names:
        model: Any = load_model(name, device="cpu")
        assert model.name == name
        assert check_model(model).ok
        assert model.provenance["data_set"] == PUBLISHED[name].manifest
        assert model.provenance["weights_file"] == (PUBLISHED[name].file or "gpt-neo-125m")
        assert model.provenance["citation"]
    assert load_model("topolm").module.config.positions == "permuted"  # type: ignore[attr-defined]
    assert load_model("topolm-control").module.config.positions == "row-major"  # type: ignore[attr-defined]
    assert (store / "topolm" / "topolm.pt.sha256").is_file()  # what was first used is the right one from now on
    write_topolm(store / "topolm" / "topolm.pt", nanogpt_tensors(seed=5, **big), **sizes)
    with pytest.raises(DataFileError, match="is not the file of data set 'topolm'"):
        load_model("topolm")


def test_topolm_without_its_places_says_how_to_get_them(store: Path) -> None:
    (store / "topolm").mkdir()
    write_topolm(store / "topolm" / "topolm.pt")
    with pytest.raises(DataFileError, match=r"without the places of its units.*positions\.npz"):
        load_model("topolm")


def test_a_file_of_another_hash_than_published_is_refused(store: Path) -> None:
    (store / "torchvision-resnet18").mkdir()
    saved(store / "torchvision-resnet18" / "resnet18-f37072fd.pth", RESNET_STATE)
    with pytest.raises(DataFileError, match="expected one that begins with f37072fd"):
        load_model("resnet18")


# --- the tokenizer, and what importing costs


@pytest.mark.usefixtures("gpt2_store")
def test_gpt2s_tokenizer_is_gpt2s() -> None:
    """Ids as published: https://platform.openai.com/tokenizer (GPT-3, legacy) has the same vocabulary."""
    tokenizer = load_gpt2_bpe()
    assert len(tokenizer) == 50257
    assert tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.eos_token_id == 50256
    assert tokenizer("Hello world!")["input_ids"] == [15496, 995, 0]
    assert tokenizer.decode(tokenizer("naïve café 🙂")["input_ids"]) == "naïve café 🙂"
    assert tokenizer("a<|endoftext|>b")["input_ids"] == [64, 50256, 65]


def test_a_damaged_tokenizer_is_told(real_data: Path, store: Path) -> None:
    (store / "gpt2_bpe").mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(real_data / "gpt2_bpe" / name, store / "gpt2_bpe" / name)
    os.chmod(store / "gpt2_bpe" / "vocab.json", 0o644)
    (store / "gpt2_bpe" / "vocab.json").write_text("{}")
    with pytest.raises(DataFileError, match=r"vocab\.json is not the file of data set 'gpt2_bpe': it is truncated"):
        load_gpt2_bpe()


def test_naming_the_models_loads_no_torch() -> None:
    code = "import sys; from topobrain.models import list_models; list_models(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_directory_of_this_project_is_not_imported_again(tmp_path: Path) -> None:
    target = save_model(tmp_path / "mine", "mine", small_network("gpt"), small_tokenizer())
    with pytest.raises(DataFileError, match="topobrain's own names already"):
        import_checkpoint(target, tmp_path / "again")
