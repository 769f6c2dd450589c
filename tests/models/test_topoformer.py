from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from topobrain import Sheet
from topobrain._checks import InputError, UnknownNameError
from topobrain.models.directories import load_directory, save_model
from topobrain.models.huggingface import initialise
from topobrain.models.topoformer import (
    Topoformer,
    TopoformerConfig,
    TopographicAttention,
    as_variant,
    variant,
    wrap_topoformer,
)
from topobrain.nn import SpatialQuerying, SpatialReweighting
from topobrain.testing import TEXTS, check_model
from topobrain.training.vocabularies import train_bpe

CONFIG = TopoformerConfig(vocab_size=300, width=16, n_layers=2, ffn_width=24, max_length=64, querying=0.3)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_bpe(list(TEXTS) * 3, 300)


def built(tokenizer: Any, **changes: Any) -> Topoformer:
    config = replace(CONFIG, vocab_size=len(tokenizer), **changes)
    module = initialise(lambda: Topoformer(config), "untrained:5")
    assert isinstance(module, Topoformer)
    with torch.no_grad():  # small published starts would leave the layers almost equal
        module.tokens.weight.mul_(20)
    return module.eval()


def attention(n_tokens: int = 6, seed: int = 0, **options: Any) -> tuple[TopographicAttention, torch.Tensor]:
    """Return an attention in double precision, all weights drawn, and states to attend over."""
    config = TopoformerConfig(**{"vocab_size": 11, "width": 144, "querying": 0.2, **options})
    module = initialise(lambda: TopographicAttention(config), f"untrained:{seed}").double()
    assert isinstance(module, TopographicAttention)
    states = torch.randn(2, n_tokens, config.width, generator=torch.Generator().manual_seed(seed)).double()
    return module, states


def values(model: Any, texts: Sequence[str] = TEXTS) -> dict[str, np.ndarray]:
    return {layer: np.asarray(array) for layer, array in model.record(list(texts), list(model.sheets)).values.items()}


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


def test_the_tiny_configuration_lies_on_squares(tokenizer: Any) -> None:
    config = TopoformerConfig.tiny(300, n_layers=2)
    assert (config.width, config.n_layers, config.querying, config.reweighting) == (64, 2, 0.1, 0.3)
    assert variant("control", **{**asdict(TopoformerConfig.tiny(9)), "width": 36}).width == 36


def test_masks_are_saved_with_the_weights_and_move_with_the_module(tokenizer: Any) -> None:
    state = built(tokenizer).state_dict()
    assert {"blocks.0.attention.pool.pool", "blocks.0.attention.output.mask"} <= set(state)


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


OPTIONS: list[dict[str, Any]] = [
    {"n_heads": 4},
    {"n_heads": 4, "shared_sheet": True},
    {"pool": "gaussian"},
    {"pool": "learned"},
    {"wrapped": False},
    {"n_heads": 2, "querying": None, "reweighting": None},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_reaches_the_layers_keeps_the_contract_and_survives_saving(
    options: dict[str, Any], tokenizer: Any, tmp_path: Path
) -> None:
    module = built(tokenizer, **options)
    model = wrap_topoformer("x", module, tokenizer, device="cpu")
    assert check_model(model).ok
    part: Any = module.blocks[0].attention
    if module.config.querying is not None:
        assert isinstance(part.pool, SpatialQuerying)
        assert part.pool.kind == module.config.pool
        assert (part.pool.n_heads, part.pool.shared_sheet) == (module.config.n_heads, module.config.shared_sheet)
        assert part.pool.sheet.wrapped == part.output.sheet.wrapped == module.config.wrapped
    again = load_directory(save_model(tmp_path / "x", "x", module, tokenizer), device="cpu")
    assert again.weights_hash() == model.weights_hash()


def test_with_a_sheet_a_head_each_head_is_a_layer_of_its_own(tokenizer: Any) -> None:
    module = built(tokenizer, n_heads=4)
    model = wrap_topoformer("x", module, tokenizer, device="cpu")
    heads = [f"blocks.1.attention.{stream}_heads.{head}" for stream in ("query", "key") for head in range(4)]
    rest = ["blocks.1.attention.value", "blocks.1.attention.output", "blocks.1"]
    assert list(model.sheets)[-11:] == heads + rest
    assert {model.sheets[layer] for layer in heads} == {Sheet.grid(2, 2, wrapped=True)}
    assert {model.sheets[layer] for layer in rest} == {Sheet.grid(4, 4, wrapped=True)}
    found = model.record(list(TEXTS), [*heads, "blocks.0"]).values
    with torch.no_grad():
        queries = module.blocks[1].attention.query(found["blocks.0"])  # type: ignore[union-attr,operator]
    torch.testing.assert_close(torch.cat([torch.as_tensor(found[layer]) for layer in heads[:4]], dim=-1), queries)
    shared = wrap_topoformer("x", built(tokenizer, n_heads=4, shared_sheet=True), tokenizer)
    assert list(shared.sheets) == list(wrap_topoformer("x", built(tokenizer), tokenizer).sheets)


def test_units_that_fill_no_square_are_laid_out_for_show(tokenizer: Any) -> None:
    control = built(tokenizer, width=24, n_heads=3, querying=None, reweighting=None)
    model = wrap_topoformer("x", control, tokenizer)
    assert set(model.sheets.values()) == {Sheet.for_width(24)}
    with pytest.raises(InputError, match="5 heads do not divide 16"):
        built(tokenizer, n_heads=5, querying=None, reweighting=None)


# the attention itself


@pytest.mark.parametrize("n_heads", [1, 4])
@pytest.mark.parametrize("padded", [False, True])
def test_the_control_is_standard_attention(n_heads: int, padded: bool) -> None:
    module, states = attention(querying=None, reweighting=None, n_heads=n_heads)
    visible = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]).bool() if padded else None
    by_token = states.transpose(0, 1)
    streams: list[Any] = [module.query, module.key, module.value]
    expected, _ = torch.nn.functional.multi_head_attention_forward(
        by_token, by_token, by_token, 144, n_heads,
        torch.cat([stream.weight for stream in streams]), torch.cat([stream.bias for stream in streams]),
        None, None, False, 0.0, module.output.weight, module.output.bias,
        key_padding_mask=None if visible is None else ~visible, need_weights=False,
    )  # fmt: skip
    found = module(states, None if visible is None else visible[:, None])
    torch.testing.assert_close(found, expected.transpose(0, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"n_heads": 4}, {"n_heads": 4, "shared_sheet": True}, {"wrapped": False}])
def test_attention_equals_its_formula(options: dict[str, Any]) -> None:
    module, states = attention(**options)
    pool: Any = module.pool
    output: Any = module.output
    real = torch.tensor([True, True, True, True, False, False])
    n_heads = options.get("n_heads", 1)
    width = 144 // n_heads
    queries = (states[0] @ module.query.weight.T + module.query.bias) @ pool.matrix
    mixed = []
    for head in range(n_heads):
        own = slice(head * width, (head + 1) * width)
        logits = queries[:, own] @ module.key(states)[0][:, own].T / math.sqrt(width)
        mixed.append(logits.masked_fill(~real, -math.inf).softmax(dim=-1) @ module.value(states)[0][:, own])
    expected = torch.cat(mixed, dim=-1) @ (output.raw_weight.abs() * output.mask).T + output.bias
    visible = real.expand(2, 1, 6)
    torch.testing.assert_close(module(states, visible)[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"n_heads": 4}, {"pool": "gaussian"}, {"pool": "learned"}])
def test_attention_with_folded_queries_is_the_same_attention(options: dict[str, Any]) -> None:
    module, states = attention(**options)
    expected = module(states)
    pool: Any = module.pool
    with torch.no_grad():
        if pool.gain is not None:
            pool.gain.copy_(torch.linspace(0.5, 2, 144))
            expected = module(states)
        weight, bias = pool.fold(module.query.weight, module.query.bias)
        module.query.weight.copy_(weight)
        module.query.bias.copy_(bias)
    module.pool = torch.nn.Identity()
    torch.testing.assert_close(module(states), expected, rtol=0, atol=1e-12)


def test_one_head_is_the_same_with_and_without_a_shared_sheet() -> None:
    (one, states), (shared, _) = attention(), attention(shared_sheet=True)
    assert torch.equal(one(states), shared(states))


def test_without_a_mask_all_tokens_are_visible(tokenizer: Any) -> None:
    module = built(tokenizer)
    ids = torch.randint(3, 50, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(module(ids), module(ids, torch.ones(2, 7)), rtol=0, atol=1e-6)
        assert (module(ids) - module(ids, torch.tensor([[1] * 4 + [0] * 3] * 2))).abs().max() > 1e-3


def test_ids_and_masks_that_do_not_fit_are_refused(tokenizer: Any) -> None:
    module = built(tokenizer)
    with pytest.raises(InputError, match="at most 64 tokens"):
        module(torch.zeros(1, 65, dtype=torch.long))
    with pytest.raises(InputError, match="expected that of input_ids"):
        module(torch.zeros(2, 5, dtype=torch.long), torch.ones(2, 6))


# variants


@pytest.mark.parametrize(
    ("name", "querying", "reweighting", "signed"),
    [
        ("control", None, None, False),
        ("querying", 0.1, None, False),
        ("reweighting", None, 0.3, False),
        ("both", 0.1, 0.3, False),
        ("signed", None, 0.3, True),
        ("signed-both", 0.1, 0.3, True),
    ],
)
def test_variants_have_the_published_fractions(
    name: str, querying: float | None, reweighting: float | None, signed: bool
) -> None:
    config = variant(name, vocab_size=30)
    assert (config.querying, config.reweighting, config.signed) == (querying, reweighting, signed)
    assert replace(config, querying=0.1, reweighting=0.3, signed=False) == TopoformerConfig(vocab_size=30)
    assert TopoformerConfig(**json.loads(json.dumps(asdict(config)))) == config
    assert as_variant(replace(CONFIG, signed=True), name).querying == (None if querying is None else CONFIG.querying)


def test_an_unknown_or_impossible_variant_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'querying'"):
        variant("querryng", vocab_size=30)
    with pytest.raises(InputError, match="needs a disc's area fraction in 'querying'"):
        as_variant(TopoformerConfig(vocab_size=30, querying=None), "both")


def test_the_published_degenerate_control_attends_with_rank_one() -> None:
    config = variant("both", vocab_size=30, querying=math.pi / 2, reweighting=math.pi / 2)
    module, states = attention(querying=config.querying, reweighting=config.reweighting)
    logits = module.pool(module.query(states[0])) @ module.key(states[0]).T
    singular = torch.linalg.svdvals(logits.detach())
    assert singular[1] < 1e-6 * singular[0]
    assert isinstance(module.output, SpatialReweighting)
    assert module.output.mask.all()
