"""What every architecture promises: the model contract, a sheet for each layer, and training with any loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from every_architecture import small_network, small_tokenizer, wrapped
from torch import Tensor, nn

from topobrain import Sheet
from topobrain._checks import InputError
from topobrain.models.architectures import ARCHITECTURES
from topobrain.models.topoformer import VARIANTS, as_variant
from topobrain.testing import TEXTS, check_model
from topobrain.training import (
    CausalLM,
    ImageClassification,
    MaskedLM,
    Penalty,
    SentenceClassification,
    TrainingConfig,
    train,
)
from topobrain.training.masking import MaskRule, token_table
from topobrain.training.penalties import Penalties

KINDS = ("topoloss", "neighbour_cosine", "wiring", "correlation")
WEIGHTS = {
    "topoformer": "blocks.*.feed_forward.0",
    "topoformer-classifier": "blocks.*.attention.query",
    "topoformer-bert": "blocks.*.feed_forward.expand",
    "gpt": "blocks.*.mlp.c_fc",
    "gpt-neo": "transformer.h.*.mlp.c_fc",
    "resnet": "layer?.?.conv?",
    "vit": "encoder.layers.*.mlp.0",
}
"""Architecture -> layers that the losses on weights lay out."""
OUTPUTS = {
    **WEIGHTS,
    "topoformer-bert": "blocks.*.attention.key",
    "gpt": "blocks.?.attention",
    "gpt-neo": "transformer.h.?.attn",
}
"""Architecture -> layers whose outputs the correlation loss lays out; branch outputs for GPTs, as in TopoLM."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return small_tokenizer()


def objective(name: str, tokenizer: Any) -> Any:
    texts = list(TEXTS) * 2
    if name in ("resnet", "vit"):
        rng = np.random.default_rng(0)
        images, labels = rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8), rng.integers(0, 5, 8)
        return ImageClassification(images, labels, images[:4], labels[:4], mean=(0.5,) * 3, std=(0.25,) * 3)
    if name.startswith("gpt"):
        ids = np.concatenate([tokenizer(text)["input_ids"] for text in texts]).astype(np.uint16)
        return CausalLM(ids, ids[:20], 12)
    table = token_table(texts, tokenizer, 12)
    if name == "topoformer-classifier":
        labels = np.arange(len(texts)) % 2
        return SentenceClassification(table, labels, table, labels)
    return MaskedLM(table, table, MaskRule(int(tokenizer.mask_token_id), len(tokenizer)))


def penalty(kind: Any, name: str, **options: Any) -> Penalty:
    layers = (OUTPUTS if kind == "correlation" else WEIGHTS)[name]
    factor = {"factor": (2.0, 2.0)} if kind == "topoloss" else {}  # the smallest sheet here has 2 x 4 units
    radius = None if name == "resnet" else 3  # no neighbourhood fits into 2 x 4
    return Penalty(kind, (layers,), **{**factor, "radius": radius, "n_neighbourhoods": 2, **options})


def own_sheets(name: str, module: nn.Module, tokenizer: Any) -> dict[str, Sheet]:
    model = wrapped(name, module, tokenizer)
    return {model.paths[layer]: sheet for layer, sheet in model.sheets.items()}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_contract_is_kept(name: str, tokenizer: Any) -> None:
    module = small_network(name, len(tokenizer)).train()
    model = wrapped(name, module, tokenizer)
    assert check_model(model).ok
    assert module.training  # recording switches dropout off and on again


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_layer_has_a_sheet_that_holds_its_units(name: str, tokenizer: Any) -> None:
    model = wrapped(name, small_network(name, len(tokenizer)), tokenizer)
    stimuli = list(TEXTS[:2]) if name not in ("resnet", "vit") else [np.zeros((32, 32, 3), dtype=np.uint8)] * 2
    values = model.record(stimuli, list(model.sheets)).values
    for layer, sheet in model.sheets.items():
        assert sheet.n_units == values[layer].shape[-1]
        assert sheet.height > 1
        assert len(set(sheet.cells.tolist())) == sheet.n_units


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_trains_with_any_loss_by_configuration(name: str, kind: str, tokenizer: Any) -> None:
    """Its gradient reaches every layer it names; two steps run through, and lower the losses on weights."""
    module = small_network(name, len(tokenizer), seed=1)
    sheets = own_sheets(name, module, tokenizer)
    given = penalty(kind, name, strength=3.0)
    before = measured(module, given, sheets, objective(name, tokenizer))
    config = TrainingConfig(steps=2, batch_size=4, learning_rate=1e-3, warm_up=0.0, evaluate_every=2)
    log = train(module, objective(name, tokenizer), config, penalties=[given], sheets=sheets).data
    for column in ("train_loss", "topography_loss", "held_out_loss", "gradient_norm"):
        assert np.isfinite(log[column].values).all()
    assert (log["gradient_norm"].values > 0).all()
    assert log["topography_loss"].values[0] != 0
    if kind != "correlation":  # of weights alone, whatever the batch
        assert float(log["topography_loss"].values[0]) == pytest.approx(before, rel=1e-4)
        assert float(log["topography_loss"].values[1]) < before


def measured(module: nn.Module, given: Penalty, sheets: dict[str, Sheet], examples: Any) -> float:
    """Return a penalty before training, after asserting that its gradient reaches every layer it names."""
    penalties = Penalties(module, [given], sheets)
    module.zero_grad()
    loss = of_outputs(module, penalties, examples) if given.kind == "correlation" else penalties.on_weights(1.0)
    assert isinstance(loss, Tensor)
    loss.backward()
    for path, part in penalties.layers[0].items():
        reached = [p.grad for p in part.parameters() if p.grad is not None]
        assert reached, path
        assert any(bool(gradient.abs().sum() > 0) for gradient in reached), path
    module.zero_grad()
    return float(loss.detach())


def of_outputs(module: nn.Module, penalties: Penalties, examples: Any) -> Any:
    batch = examples.batch(np.arange(4), held_out=False, seed=0)
    with penalties.watching():
        examples.loss(module, batch)
        visible = None
        if "lengths" in batch:
            visible = torch.arange(int(batch["lengths"].max()))[None, :] < batch["lengths"][:, None]
        return penalties.on_outputs(1.0, visible, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_of_strength_zero_changes_nothing(kind: str, tokenizer: Any) -> None:
    config = TrainingConfig(steps=2, batch_size=4, warm_up=0.0, evaluate_every=2)
    plain, silent = (small_network("gpt", len(tokenizer), seed=1) for _ in range(2))
    train(plain, objective("gpt", tokenizer), config)
    train(silent, objective("gpt", tokenizer), config, penalties=[penalty(kind, "gpt", strength=0.0)])
    for (name, one), other in zip(plain.named_parameters(), silent.parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_of_a_topoformer_trains_with_a_loss(variant: str, tokenizer: Any) -> None:
    from topobrain.models.architectures import build
    from topobrain.models.topoformer import TopoformerConfig

    config = as_variant(TopoformerConfig.tiny(len(tokenizer)), variant)
    module: Any = build("topoformer", config)
    strong = Penalty("correlation", ("blocks.0.attention.output",), strength=1.0, radius=3)
    training = TrainingConfig(steps=2, batch_size=4, evaluate_every=2)
    sheets = own_sheets("topoformer", module, tokenizer)
    log = train(module, objective("topoformer", tokenizer), training, penalties=[strong], sheets=sheets).data
    assert np.isfinite(log["topography_loss"].values).all()


def test_a_layer_without_weights_is_refused_before_training(tokenizer: Any) -> None:
    module = small_network("gpt", len(tokenizer))
    config = TrainingConfig(steps=1, batch_size=4)
    with pytest.raises(InputError, match=r"'blocks\.0\.mlp' is a MLP, whose .* inside it \(c_fc, c_proj\)"):
        train(module, objective("gpt", tokenizer), config, penalties=[Penalty("topoloss", ("blocks.0.mlp",))])
