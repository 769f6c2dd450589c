from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from every_architecture import CASES, NAMES, small_network, small_tokenizer, wrapped
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from topobrain import load_model
from topobrain._checks import DataFileError, InputError
from topobrain.models import directories
from topobrain.models.architectures import ARCHITECTURES, find_architecture
from topobrain.models.directories import is_model_directory, load_directory, restore, save_model, untied, wrap_tokenizer
from topobrain.models.torch_model import TorchModel
from topobrain.testing import sample_stimuli

FILES = ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return small_tokenizer()


@pytest.fixture
def saved(tokenizer: Any, tmp_path: Path) -> Path:
    """The directory of a small GPT."""
    return save_gpt(tmp_path / "saved", tokenizer)


def save_gpt(directory: Path, tokenizer: Any, *, seed: int = 0, **changes: Any) -> Path:
    sizes = {"width": 16, "n_layers": 1, **changes}
    return save_model(directory, "little", small_network("gpt", len(tokenizer), seed=seed, **sizes), tokenizer)


def recorded(model: Any) -> dict[str, np.ndarray]:
    values = model.record(sample_stimuli(model), list(model.sheets)).values
    return {layer: np.asarray(array) for layer, array in values.items()}


def same_model(before: TorchModel, after: Any) -> None:
    """The same numbers, weights, sheets and tokens, in the same order."""
    assert after.weights_hash() == before.weights_hash()
    assert list(after.sheets.items()) == list(before.sheets.items())
    assert after.paths == before.paths
    n_before, n_after = (sum(p.numel() for p in model.module.parameters()) for model in (before, after))
    assert n_after == n_before
    assert after.survey(sample_stimuli(after)).digest == before.survey(sample_stimuli(before)).digest
    for layer, array in recorded(before).items():
        np.testing.assert_array_equal(array, recorded(after)[layer])


def edit(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the fields of a config.json in place."""
    fields = json.loads((directory / "config.json").read_text())
    change(fields)
    (directory / "config.json").write_text(json.dumps(fields))


# --- what was saved


@pytest.mark.parametrize(("name", "changes"), CASES, ids=NAMES)
@pytest.mark.slow
def test_what_was_saved_is_the_same_model(name: str, changes: dict[str, Any], tokenizer: Any, tmp_path: Path) -> None:
    module = small_network(name, len(tokenizer), seed=5, **changes)
    images = find_architecture(name).reads == "images"
    target = save_model(tmp_path / "saved", "little", module, None if images else tokenizer)
    assert sorted(path.name for path in target.iterdir()) == (FILES[:2] if images else FILES)
    after = load_directory(target, device="cpu")
    assert after.name == "little"
    assert not after.module.training
    same_model(wrapped(name, module, tokenizer), after)


def test_every_architecture_is_among_them() -> None:
    assert {name for name, _ in CASES} == set(ARCHITECTURES)


def test_a_directory_loads_by_its_path(saved: Path, tmp_path: Path) -> None:
    assert is_model_directory(saved)
    assert is_model_directory(str(saved))
    assert not is_model_directory(tmp_path)
    assert not is_model_directory(saved / "config.json")
    same_model(load_directory(saved, device="cpu"), load_model(str(saved), device="cpu"))


def test_what_is_said_of_a_model_is_kept(tokenizer: Any, tmp_path: Path) -> None:
    given = {"weights_file": "x.pt", "corpus": {"path": Path("a/b"), "n": np.int64(3), "share": np.float32(0.5)}}
    target = save_model(
        tmp_path / "x", "ein Häuschen", small_network("gpt"), tokenizer, trained_on="brown", provenance=given
    )
    model = load_directory(target)
    assert model.name == "ein Häuschen"
    assert model.provenance == {
        "weights_file": "x.pt", "corpus": {"path": "a/b", "n": 3, "share": 0.5}, "trained_on": "brown",
    }  # fmt: skip
    untrained = load_directory(target, weights="untrained")
    assert untrained.provenance["trained_on"] == "nothing (random weights)"
    assert "weights_file" not in untrained.provenance


def test_the_configuration_tells_a_stranger_everything(tokenizer: Any, tmp_path: Path) -> None:
    module = small_network("topoformer", len(tokenizer))
    fields = json.loads((save_model(tmp_path / "x", "little", module, tokenizer) / "config.json").read_text())
    assert (fields["format"], fields["architecture"]) == ("topobrain-model", "topoformer")
    assert fields["config"] == asdict(module.config)
    assert {layer: sheet["wrapped"] for layer, sheet in fields["sheets"].items()}["blocks.0.attention.query"]
    assert fields["tokenizer"]["special"] == {"pad_token": "[PAD]", "mask_token": "[MASK]", "unk_token": "[UNK]"}
    assert len(fields["tokenizer"]["sha256"]) == len(fields["weights_sha256"]) == 64


def test_the_untrained_variant(saved: Path) -> None:
    rng = torch.get_rng_state()
    trained, first, again, other = (
        load_directory(saved, weights=weights, device="cpu")
        for weights in (None, "untrained", "untrained:0", "untrained:1")
    )
    assert torch.equal(torch.get_rng_state(), rng)
    assert first.weights_hash() == again.weights_hash()
    assert len({trained.weights_hash(), first.weights_hash(), other.weights_hash()}) == 3
    assert [trained.name, first.name, other.name] == ["little", "little (untrained)", "little (untrained:1)"]
    assert list(first.sheets) == list(trained.sheets)
    (saved / "model.safetensors").unlink()
    assert load_directory(saved, weights="untrained", device="cpu").weights_hash() == first.weights_hash()


@pytest.mark.parametrize(
    "weights", ["", "trained", "untrained:", "untrained:-1", "untrained:x", "untrained:²", "UNTRAINED"]
)
def test_other_weights_are_refused(weights: str, saved: Path) -> None:
    with pytest.raises(InputError, match="weights must be None, 'untrained' or 'untrained:SEED'"):
        load_directory(saved, weights=weights)


# --- tied weights


class Tied(nn.Module):
    def __init__(self, n: int = 7, width: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n, width)
        self.head = nn.Linear(width, n, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("counts", torch.arange(3))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def test_a_tied_weight_is_kept_once_and_stays_tied() -> None:
    before, after = Tied(), Tied()
    kept = {name: tensor.clone() for name, tensor in untied(before).items()}
    assert list(kept) == ["embedding.weight", "counts"]
    restore(after, kept, "here")
    assert after.head.weight is after.embedding.weight
    assert torch.equal(after.head.weight, before.head.weight)


def test_what_does_not_fit_is_told_and_nothing_is_restored() -> None:
    module = Tied()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for tensors, told in (
        ({"embedding.weight": torch.ones(7, 4)}, r"1 tensors are missing \(counts\)"),
        (
            {"embedding.weight": torch.ones(6, 4), "counts": torch.arange(3)},
            r"embedding\.weight should be \(7, 4\), is",
        ),
        ({**untied(Tied()), "head.bias": torch.ones(7)}, r"not expected \(head\.bias\)"),
    ):
        with pytest.raises(DataFileError, match=f"some/file.*{told}"):
            restore(module, tensors, "some/file")
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("name", ["topoformer", "topoformer-bert", "gpt", "gpt-neo"])
def test_an_embedding_that_is_the_head_too_is_in_the_file_once(name: str, tokenizer: Any, tmp_path: Path) -> None:
    module = small_network(name, len(tokenizer))
    with safe_open(save_model(tmp_path / "x", "x", module, tokenizer) / "model.safetensors", "pt") as file:
        shapes = [tuple(file.get_slice(key).get_shape()) for key in file.keys()]  # noqa: SIM118 (no mapping)
    assert shapes.count((len(tokenizer), 64)) == 1
    states = torch.zeros(1, 2, 64)
    assert module.logits(states).shape == (1, 2, len(tokenizer))


# --- tokenizers


def test_a_tokenizer_of_another_kind_survives(tokenizers: Callable[[str], Any], tmp_path: Path) -> None:
    for family in ("gpt2", "bert", "roberta"):
        given = tokenizers(family)
        module = small_network("gpt", len(given))
        after = load_directory(save_model(tmp_path / family, "little", module, given), device="cpu")
        same_model(wrapped("gpt", module, given), after)
        kept: Any = after.encode
        for name in ("pad_token", "eos_token", "cls_token", "sep_token", "mask_token", "unk_token"):
            assert getattr(kept.tokenizer, name) == getattr(given, name)


def test_a_tokenizer_without_special_tokens_gets_none(tokenizers: Callable[[str], Any], tmp_path: Path) -> None:
    bare = wrap_tokenizer(tokenizers("gpt2").backend_tokenizer, {})
    module = small_network("gpt", len(bare))  # not one token more than the model knows
    after = load_directory(save_model(tmp_path / "x", "little", module, bare), device="cpu")
    same_model(wrapped("gpt", module, bare), after)


# --- what is refused when loading


def flip_a_bit(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(bytes(raw))


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_case(path: Path) -> None:
    path.write_text(path.read_text().replace('"dog"', '"god"').replace("the", "hte"))


def wrong_weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """Make weights that the configuration vouches for, but that do not fit it."""

    def write(path: Path) -> None:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        change(tensors)
        save_file(tensors, path)
        edit(path.parent, lambda fields: fields.update(weights_sha256=directories.file_sha256(path)))

    return write


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("model.safetensors", flip_a_bit, r"model\.safetensors was altered or belongs to another save: its sha256 is"),
        ("model.safetensors", halve, r"model\.safetensors was altered or belongs to another save"),
        ("model.safetensors", Path.unlink, r"there is no weight file .*model\.safetensors"),
        ("model.safetensors", wrong_weights(lambda t: t.pop("norm.weight")), r"1 tensors are missing \(norm\.weight\)"),
        ("model.safetensors", wrong_weights(lambda t: t.update(x=torch.ones(2))), r"not expected \(x\)"),
        (
            "model.safetensors",
            wrong_weights(lambda t: t.update({"norm.weight": torch.ones(2)})),
            r"norm\.weight should be \(16,\), is \(2,\)",
        ),
        ("tokenizer.json", other_case, r"tokenizer\.json is not the tokenizer this model was trained with: its sha256"),
        ("tokenizer.json", halve, r"tokenizer\.json is not the tokenizer"),
        ("tokenizer.json", Path.unlink, r"cannot read .*tokenizer\.json"),
        ("config.json", halve, r"saved"),
        ("config.json", Path.unlink, r"saved.*expected config\.json"),
        ("config.json", lambda path: path.write_text("[3]"), r"saved"),
        ("config.json", lambda path: path.write_bytes(b"\xff\xfe"), r"saved"),
    ],
)
def test_a_damaged_file_is_named(file: str, change: Callable[[Path], Any], told: str, saved: Path) -> None:
    change(saved / file)
    with pytest.raises(DataFileError, match=told) as caught:
        load_model(saved)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: f.update(architecture="gtp"), r"unknown architecture 'gtp'\. Did you mean 'gpt'"),
        (lambda f: f.pop("architecture"), r"unknown architecture ''"),
        (lambda f: f.update(architecture=["gpt"]), r"unknown architecture"),
        (lambda f: f.update(architecture="gpt-neo"), r"unknown field of the gpt-neo configuration 'bias'"),
        (
            lambda f: f["config"].update(widht=3),
            r"unknown field of the gpt configuration 'widht'\. Did you mean 'width'",
        ),
        (lambda f: f["config"].update(width="16"), r"field 'width' of the gpt configuration takes int, got '16'"),
        (lambda f: f["config"].update(width=True), r"takes int, got True"),
        (lambda f: f["config"].update(width=16.0), r"takes int, got 16\.0"),
        (lambda f: f["config"].update(dropout=None), r"'dropout' of the gpt configuration takes float, got None"),
        (lambda f: f["config"].update(width=-4), r"width of a GPT is a whole number of at least 1, got -4"),
        (lambda f: f["config"].update(positions="permutated"), r"Did you mean 'permuted'"),
        (lambda f: f["config"].update(width=32), r"the weights in .* do not fit GPT"),
        (lambda f: f["config"].update(n_layers=2), r"the weights in .* do not fit GPT"),
        (lambda f: f["config"].update(vocab_size=200), r"the weights in .* do not fit GPT"),
        (lambda f: f.update(config=[1, 2]), r"expected named fields under 'config', found \[1, 2\]"),
        (lambda f: f.pop("config"), r"expected named fields under 'config', found None"),
        (lambda f: f.update(provenance="x"), r"expected named fields under 'provenance'"),
        (lambda f: f.update(tokenizer=[]), r"expected named fields under 'tokenizer'"),
        (lambda f: f["sheets"].popitem(), r"sheets in .*config\.json are not those of the gpt it describes"),
        (lambda f: f["sheets"]["embeddings"].update(wrapped=True), r"sheets in .* are not those"),
        (lambda f: f.update(sheets={}), r"sheets in .* are not those"),
    ],
)
def test_an_altered_configuration_is_refused(change: Callable[[dict[str, Any]], Any], told: str, saved: Path) -> None:
    edit(saved, change)
    with pytest.raises(DataFileError, match=told) as caught:
        load_directory(saved)
    assert str(saved) in str(caught.value)


def test_sizes_of_which_no_network_can_be_built_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    saved = save_model(tmp_path / "x", "x", small_network("topoformer", len(tokenizer)), tokenizer)
    for change in ({"ffn_width": -4}, {"width": 17}, {"querying": -1.0}, {"n_heads": 0}, {"vocab_size": -1}):
        copy = Path(shutil.copytree(saved, tmp_path / next(iter(change))))
        edit(copy, lambda fields, change=change: fields["config"].update(change))  # type: ignore[misc]
        with pytest.raises(DataFileError, match=r"config\.json describes no topoformer that can be built"):
            load_directory(copy)


def test_a_configuration_without_its_size_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    saved = save_model(tmp_path / "x", "x", small_network("topoformer", len(tokenizer)), tokenizer)
    edit(saved, lambda fields: fields["config"].pop("vocab_size"))
    with pytest.raises(DataFileError, match=r"topoformer configuration is not complete: .*vocab_size"):
        load_directory(saved)


def test_a_format_that_is_not_ours_is_no_model_directory(saved: Path) -> None:
    others: list[Any] = ["gpt2", None, ["topobrain-model"], {}]
    for wrong in others:
        edit(saved, lambda fields, wrong=wrong: fields.update(format=wrong))  # type: ignore[misc]
        assert not is_model_directory(saved)
        with pytest.raises(DataFileError, match="is not of this project"):
            load_directory(saved)


# --- the older format


@pytest.mark.parametrize("fields", ["all", "before heads and pools"])
def test_a_directory_of_the_older_format_still_loads(fields: str, tokenizer: Any, tmp_path: Path) -> None:
    module = small_network("topoformer", len(tokenizer))
    save_file(
        {name: tensor.contiguous() for name, tensor in module.state_dict().items()}, tmp_path / "model.safetensors"
    )
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    first = [
        "vocab_size",
        "width",
        "n_layers",
        "ffn_width",
        "max_length",
        "dropout",
        "querying",
        "reweighting",
        "signed",
    ]
    config = {name: value for name, value in asdict(module.config).items() if fields == "all" or name in first}
    content = {"format": "topobrain-topoformer", "name": "old", "config": config}
    (tmp_path / "config.json").write_text(json.dumps(content))
    model = load_model(tmp_path, device="cpu")
    assert model.name == "old"
    same_model(wrapped("topoformer", module, tokenizer), model)
    assert load_model(tmp_path, weights="untrained").name == "old (untrained)"
    save_model(tmp_path, "new", module, tokenizer)
    assert load_model(tmp_path).name == "new"


# --- saving


def test_saving_leaves_the_module_as_it_was(tokenizer: Any, tmp_path: Path) -> None:
    module = small_network("topoformer", len(tokenizer)).train()
    module.blocks[0].attention.eval()
    module.tokens.weight.requires_grad_(False)
    places = {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}
    values = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    rng = torch.get_rng_state()
    save_model(tmp_path / "x", "x", module, tokenizer)
    assert torch.equal(torch.get_rng_state(), rng)
    assert [part.training for part in module.modules()] == modes
    assert {name: tensor.data_ptr() for name, tensor in module.state_dict().items()} == places
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in values.items())
    assert [name for name, p in module.named_parameters() if not p.requires_grad] == ["tokens.weight"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_saving_leaves_the_module_on_its_device(tokenizer: Any, tmp_path: Path) -> None:
    for name in ("gpt", "resnet"):
        module = small_network(name, len(tokenizer)).to("cuda")
        target = save_model(tmp_path / name, name, module, tokenizer if name == "gpt" else None)
        assert {tensor.device.type for tensor in module.state_dict().values()} == {"cuda"}
        expected = wrapped(name, module, tokenizer).weights_hash()
        assert load_directory(target, device="cpu").weights_hash() == expected


def test_what_cannot_be_saved_is_told_before_anything_is_written(tokenizer: Any, tmp_path: Path) -> None:
    for module, given, told in (
        (small_network("gpt"), None, "a gpt reads text: give its tokenizer"),
        (small_network("vit"), tokenizer, "a vit reads images: it takes no tokenizer"),
        (nn.Linear(2, 2), None, "Linear is none of this project's networks"),
        (small_network("gpt", 100), tokenizer, "the tokenizer has 300 tokens, the model knows 100"),
    ):
        with pytest.raises(InputError, match=told):
            save_model(tmp_path / "x", "x", module, given)
    assert not (tmp_path / "x").exists()


def test_another_projects_model_is_never_overwritten(
    checkpoint: Callable[[str], Path], tokenizer: Any, tmp_path: Path
) -> None:
    theirs = Path(shutil.copytree(checkpoint("gpt2"), tmp_path / "theirs"))
    before = {path.name: path.read_bytes() for path in theirs.iterdir()}
    with pytest.raises(InputError, match=r"config\.json is not of this project: choose another directory"):
        save_gpt(theirs, tokenizer)
    assert {path.name: path.read_bytes() for path in theirs.iterdir()} == before


def test_a_second_save_replaces_the_first_and_nothing_else(saved: Path, tokenizer: Any) -> None:
    (saved / "training.nc").write_text("a log")
    (saved / "checkpoints").mkdir()
    module = small_network("vit")
    save_model(saved, "pictures", module)
    assert sorted(path.name for path in saved.iterdir()) == [
        "checkpoints",
        "config.json",
        "model.safetensors",
        "training.nc",
    ]
    same_model(wrapped("vit", module, None), load_directory(saved, device="cpu"))


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """Let no file grow beyond a size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("too_large", ["model.safetensors", "tokenizer.json"])
def test_a_full_disk_is_told_and_leaves_the_earlier_model(too_large: str, saved: Path, tokenizer: Any) -> None:
    before = load_directory(saved, device="cpu")
    small = {"width": 4, "n_heads": 1, "context": 4, "seed": 1}
    there = save_gpt(saved.parent / "small", tokenizer, **small)
    sizes = [(there / name).stat().st_size for name in ("model.safetensors", "tokenizer.json")]
    assert 100 < sizes[0] < sizes[1]
    limit = 100 if too_large == "model.safetensors" else sum(sizes) // 2
    told = f"cannot write the model to {saved}: .*[Ff]ile too large"
    with largest_file(limit), pytest.raises(DataFileError, match=told):
        save_gpt(saved, tokenizer, **small)
    assert sorted(path.name for path in saved.iterdir()) == FILES
    same_model(before, load_directory(saved, device="cpu"))


def test_a_place_that_cannot_be_a_directory_is_told(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataFileError, match=f"cannot write the model to {place}: "):
            save_gpt(place, tokenizer)


@pytest.mark.parametrize("stop_at", [1, 2, 3])
@pytest.mark.parametrize("format_of_the_first", ["topobrain-model", "topobrain-topoformer"])
def test_an_interrupted_save_never_leaves_a_mixed_model(
    stop_at: int, format_of_the_first: str, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "x"
    first, second = (small_network("topoformer", len(tokenizer), seed=seed) for seed in (0, 1))
    save_model(target, "first", first, tokenizer)
    edit(target, lambda fields: fields.update(format=format_of_the_first))
    if format_of_the_first != "topobrain-model":  # which knew no hashes that would notice
        edit(target, lambda fields: [fields.pop(name) for name in ("weights_sha256", "tokenizer", "sheets")])
    replace, calls = os.replace, 0

    def stopped(*paths: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr("topobrain.models.directories.os.replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        save_model(target, "second", second, tokenizer)
    monkeypatch.undo()
    assert not is_model_directory(target)
    with pytest.raises(DataFileError):
        load_model(target)
    same_model(
        wrapped("topoformer", second, tokenizer),
        load_directory(save_model(target, "second", second, tokenizer), device="cpu"),
    )
    assert sorted(path.name for path in target.iterdir()) == FILES


def test_weights_of_another_save_are_noticed(saved: Path, tokenizer: Any, tmp_path: Path) -> None:
    other = save_gpt(tmp_path / "other", tokenizer, seed=9)  # of the very same shapes
    shutil.copy(other / "model.safetensors", saved)
    with pytest.raises(DataFileError, match="was altered or belongs to another save"):
        load_model(saved)


def test_code_in_place_of_the_weights_does_not_run(saved: Path, tmp_path: Path) -> None:
    from published_files import Trap

    torch.save(Trap(tmp_path / "it ran"), saved / "model.safetensors")
    edit(saved, lambda fields: fields.update(weights_sha256=directories.file_sha256(saved / "model.safetensors")))
    with pytest.raises(DataFileError, match="holds code"):
        load_model(saved)
    assert not (tmp_path / "it ran").exists()
