from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from topobrain import Sheet, load_model
from topobrain._checks import DataFileError, InputError
from topobrain.models.huggingface import initialise
from topobrain.models.topoformer import (
    Topoformer,
    TopoformerConfig,
    is_topoformer,
    load_topoformer,
    save_topoformer,
    wrap_topoformer,
)
from topobrain.models.torch_model import TorchModel
from topobrain.nn import SpatialQuerying, SpatialReweighting
from topobrain.testing import TEXTS, check_model
from topobrain.training.masking import train_tokenizer

CONFIG = TopoformerConfig(vocab_size=300, width=16, n_layers=2, ffn_width=24, max_length=64, querying=0.3)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(list(TEXTS) * 3, 300)


def built(tokenizer: Any, **changes: Any) -> Topoformer:
    config = replace(CONFIG, vocab_size=len(tokenizer), **changes)
    module = initialise(lambda: Topoformer(config), "untrained:5")
    assert isinstance(module, Topoformer)
    with torch.no_grad():  # small published starts would leave the layers almost equal
        module.tokens.weight.mul_(20)
    return module.eval()


@pytest.fixture
def saved(tokenizer: Any, tmp_path: Path) -> Path:
    return save_topoformer(tmp_path / "saved", "little", built(tokenizer), tokenizer)


def values(model: Any, texts: Sequence[str] = TEXTS) -> dict[str, np.ndarray]:
    return {layer: np.asarray(array) for layer, array in model.record(list(texts), list(model.sheets)).values.items()}


def test_what_was_saved_gives_the_same_numbers(tokenizer: Any, saved: Path) -> None:
    before = wrap_topoformer("little", built(tokenizer), tokenizer, device="cpu")
    after = load_topoformer(saved, device="cpu")
    assert after.name == "little"
    assert after.weights_hash() == before.weights_hash()
    for layer, array in values(before).items():
        np.testing.assert_array_equal(array, values(after)[layer])


def test_a_saved_directory_is_known_and_loads_by_its_path(saved: Path, tmp_path: Path) -> None:
    assert is_topoformer(saved)
    assert not is_topoformer(tmp_path)
    model = load_model(saved)
    assert isinstance(model, TorchModel)
    assert isinstance(model.module, Topoformer)


@pytest.mark.parametrize("topographic", [True, False])
def test_the_contract_is_kept(topographic: bool, tokenizer: Any) -> None:
    changes = {} if topographic else {"querying": None, "reweighting": None}
    module = built(tokenizer, **changes)
    module.train()
    assert check_model(wrap_topoformer("little", module, tokenizer, device="cpu")).ok


def test_layers_in_depth_order_lie_on_wrapped_squares(tokenizer: Any) -> None:
    model = wrap_topoformer("little", built(tokenizer), tokenizer)
    streams = [f"attention.{part}" for part in ("query", "key", "value", "output")]
    blocks = [[*(f"blocks.{i}.{stream}" for stream in streams), f"blocks.{i}"] for i in range(2)]
    assert list(model.sheets) == ["embeddings", *blocks[0], *blocks[1]]
    for sheet in model.sheets.values():
        assert sheet == Sheet.grid(4, 4, wrapped=True)
        assert sheet.distances().max() == pytest.approx(np.hypot(2, 2))  # the short way round


def test_padding_is_invisible_to_every_layer(tokenizer: Any) -> None:
    module = built(tokenizer)
    ids = torch.tensor([[5, 6, 7, 0, 0], [5, 6, 7, 9, 11]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    with torch.no_grad():
        padded = module(ids, mask)
        other = module(torch.where(mask.bool(), ids, 42), mask)
        alone = module(ids[:1, :3], mask[:1, :3])
    torch.testing.assert_close(padded[0, :3], alone[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(padded[0, :3], other[0, :3], rtol=0, atol=0)
    assert (padded[1, :3] - alone[0]).abs().max() > 1e-3  # real tokens, on the other hand, are seen


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_batch_of_any_size_runs_and_trains(n: int, tokenizer: Any) -> None:
    module = built(tokenizer).train()
    states = module(torch.randint(3, 50, (n, 2)), torch.ones(n, 2))
    module.logits(states).sum().backward()
    assert states.shape == (n, 2, 16)
    assert module.tokens.weight.grad is not None


def test_inference_leaves_the_weights_alone(tokenizer: Any) -> None:
    model = wrap_topoformer("little", built(tokenizer), tokenizer, device="cpu")
    before = model.weights_hash()
    values(model)
    assert model.weights_hash() == before


def test_masks_are_saved_with_the_weights_and_move_with_the_module(tokenizer: Any) -> None:
    state = built(tokenizer).state_dict()
    assert {"blocks.0.attention.pool.pool", "blocks.0.attention.output.mask"} <= set(state)


def test_the_untrained_variant(saved: Path, tokenizer: Any) -> None:
    rng = torch.get_rng_state()
    trained, first, again, other = (
        load_topoformer(saved, weights=weights) for weights in (None, "untrained", "untrained:0", "untrained:1")
    )
    assert torch.equal(torch.get_rng_state(), rng)
    assert first.weights_hash() == again.weights_hash()
    assert len({trained.weights_hash(), first.weights_hash(), other.weights_hash()}) == 3
    assert first.name == "little (untrained)"
    assert list(first.sheets) == list(trained.sheets)
    (saved / "model.safetensors").unlink()
    assert load_topoformer(saved, weights="untrained").weights_hash() == first.weights_hash()


def test_the_control_has_neither_pool_nor_local_weights(tokenizer: Any) -> None:
    def kinds(module: Topoformer) -> set[type]:
        return {type(part) for part in module.modules()}

    topographic, control = built(tokenizer), built(tokenizer, querying=None, reweighting=None)
    assert {SpatialQuerying, SpatialReweighting} <= kinds(topographic)
    assert not {SpatialQuerying, SpatialReweighting} & kinds(control)
    assert sum(p.numel() for p in topographic.parameters()) == sum(p.numel() for p in control.parameters())
    a, b = (wrap_topoformer("x", module, tokenizer) for module in (topographic, control))
    assert a.sheets == b.sheets
    assert a.weights_hash() != b.weights_hash()


def test_the_pool_smooths_queries_only(tokenizer: Any) -> None:
    module = built(tokenizer)
    attention = module.blocks[0].attention
    seen: dict[str, torch.Tensor] = {}
    attention.pool.register_forward_hook(lambda _, args, out: seen.update(raw=args[0], pooled=out))  # type: ignore[union-attr]
    module(torch.tensor([[5, 6]]), torch.ones(1, 2))
    pool = attention.pool.pool  # type: ignore[union-attr]
    torch.testing.assert_close(seen["pooled"], seen["raw"] @ pool)
    assert torch.linalg.matrix_norm(pool).item() == pytest.approx(1, abs=1e-6)
    model = wrap_topoformer("x", module, tokenizer, device="cpu")
    key = model.record(["dog"], ["blocks.0.attention.key"]).values["blocks.0.attention.key"]
    states = model.record(["dog"], ["embeddings"]).values["embeddings"]
    with torch.no_grad():
        torch.testing.assert_close(key, attention.key(states))  # type: ignore[union-attr,operator]


def test_a_width_that_is_no_square_names_the_nearest(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="square number of units, got 17; nearest: 16"):
        built(tokenizer, width=17)


def test_a_text_too_long_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="the model takes 64"):
        wrap_topoformer("x", built(tokenizer), tokenizer).record(["dog " * 70], ["embeddings"])


def test_a_missing_file_is_named(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(DataFileError, match=r"model\.safetensors"):
        load_model(saved)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_truncated_file_is_named(file: str, saved: Path) -> None:
    raw = (saved / file).read_bytes()
    (saved / file).write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DataFileError, match=file.replace(".", r"\.")):
        load_model(saved)


def test_a_missing_tokenizer_is_a_data_file_error(saved: Path) -> None:
    (saved / "tokenizer.json").unlink()
    with pytest.raises(DataFileError, match=str(saved)):
        load_model(saved)


def test_a_truncated_config_is_a_data_file_error(saved: Path) -> None:
    (saved / "config.json").write_text((saved / "config.json").read_text()[:30])
    assert not is_topoformer(saved)
    with pytest.raises(DataFileError, match=str(saved)):
        load_model(saved)
    with pytest.raises(DataFileError, match="no complete Topoformer directory"):
        load_topoformer(saved)


@pytest.mark.parametrize("change", [{"width": 25}, {"ffn_width": 8}, {"n_layers": 3}, {"querying": None}], ids=str)
def test_weights_that_do_not_fit_the_config_are_refused(change: dict[str, Any], saved: Path) -> None:
    fields = json.loads((saved / "config.json").read_text())
    fields["config"].update(change)
    (saved / "config.json").write_text(json.dumps(fields))
    with pytest.raises(DataFileError, match=r"cannot read the weights .*model\.safetensors"):
        load_model(saved)


@pytest.mark.parametrize("change", [{"colour": "red"}, {"vocab_size": None}], ids=str)
def test_a_config_with_an_unknown_or_missing_field_is_refused(change: dict[str, Any], saved: Path) -> None:
    fields = json.loads((saved / "config.json").read_text())
    fields["config"] = {k: v for k, v in {**fields["config"], **change}.items() if v is not None}
    (saved / "config.json").write_text(json.dumps(fields))
    with pytest.raises(DataFileError, match="no complete Topoformer directory"):
        load_model(saved)
