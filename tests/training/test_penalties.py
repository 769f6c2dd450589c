from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from toy_runs import CONFIG, TOPOLOSS, causal, gpt, images, resnet, sentences, topoformer, weights_hash

from topobrain._checks import InputError, UnknownNameError
from topobrain.nn import correlation_loss, neighbour_cosine_loss, topo_loss, topo_sheet, wiring_cost
from topobrain.sheet import Sheet
from topobrain.training import Penalties, Penalty, train
from topobrain.training.penalties import unit_weights

C_FC = "blocks.0.mlp.c_fc"
KINDS = [
    Penalty("topoloss", ("blocks.*.mlp.c_fc",), factor=(2.0, 2.0)),
    Penalty("neighbour_cosine", ("blocks.*.mlp.c_fc",)),
    Penalty("wiring", ("blocks.*.mlp.c_fc",)),
    Penalty("correlation", ("blocks.*.mlp",), radius=2),
]
IDS = [penalty.kind for penalty in KINDS]


@pytest.mark.parametrize("penalty", KINDS, ids=IDS)
@pytest.mark.slow
def test_every_kind_lowers_its_own_loss_in_training(penalty: Penalty) -> None:
    """Against the same run without it: the curve falls, and ends below where the task alone would have left it."""
    config = replace(CONFIG, steps=15, evaluate_every=15, schedule="constant", warm_up=0.0)
    strength = 5.0 if penalty.kind != "wiring" else 0.05
    log = train(gpt(0.0), causal(), config, penalties=[replace(penalty, strength=strength)])
    losses = log.data["topography_loss"].values / strength
    watched = train(gpt(0.0), causal(), config, penalties=[replace(penalty, strength=1e-12)])
    alone = watched.data["topography_loss"].values / 1e-12
    assert losses[0] == pytest.approx(alone[0], rel=1e-4)  # equal start
    assert losses[-3:].mean() < 0.9 * losses[0]
    assert losses[-3:].mean() < 0.9 * alone[-3:].mean()


@pytest.mark.parametrize("kind", ["topoloss", "neighbour_cosine", "correlation"])
@pytest.mark.slow
def test_convolutions_are_laid_out_too(kind: Any) -> None:
    penalty = Penalty(kind, ("layer1.0.conv?",), strength=20.0, factor=(2.0, 2.0), radius=2)
    config = replace(CONFIG, steps=12, optimiser="sgd", learning_rate=0.05, clip=None, schedule="constant", warm_up=0.0)
    module = resnet(16)
    log = train(module, images(), config, penalties=[penalty])
    losses = log.data["topography_loss"].values / 20
    assert losses[-2:].mean() < 0.95 * losses[0]
    start = resnet(16)
    if kind == "topoloss":  # equal to the loss itself on the weights at the start
        weights = [start.get_submodule(f"layer1.0.conv{i}").weight for i in (1, 2)]
        expected = sum(float(topo_loss(w.detach(), factor=2.0)) for w in weights) / 2  # type: ignore[operator,arg-type]
        assert losses[0] == pytest.approx(expected, rel=1e-5)


def test_weights_come_with_the_unit_first() -> None:
    conv = nn.Conv2d(3, 8, 3)
    assert unit_weights(conv, "x").shape == (8, 3, 3, 3)

    assert unit_weights(nn.Embedding(30, 8), "x").shape == (8, 30)
    assert unit_weights(nn.ConvTranspose2d(3, 8, 3), "x").shape == (8, 3, 3, 3)

    from topobrain.models.resnet import BlurPoolConv

    wrapped = nn.Conv2d(16, 16, 3, stride=2)
    assert unit_weights(BlurPoolConv(wrapped), "x") is wrapped.weight
    for bad in (nn.LayerNorm(4), nn.ReLU(), nn.Sequential(nn.Linear(3, 3))):
        with pytest.raises(InputError, match=f"layer 'there' is a {type(bad).__name__}, whose units are not known"):
            unit_weights(bad, "there")


def test_penalties_reach_recurrent_weights_biases_and_effective_weights() -> None:
    from topobrain.nn import SpatialReweighting

    torch.manual_seed(0)
    holder = nn.ModuleDict({"rnn": nn.LSTM(5, 16), "linear": nn.Linear(5, 16), "local": SpatialReweighting(16, 0.3)})
    asked = (
        Penalty("topoloss", ("rnn",), parameter="weight_hh_l0", factor=(2, 2)),
        Penalty("topoloss", ("linear",), on="bias", factor=(2, 2)),
        Penalty("topoloss", ("local",), factor=(2, 2)),
    )
    gates = holder["rnn"].weight_hh_l0.view(4, 16, 16).transpose(0, 1).flatten(1)  # a unit's row of every gate
    expected = [topo_loss(w, factor=2.0) for w in (gates, holder["linear"].bias, holder["local"].weight)]
    for penalty, value in zip(asked, expected, strict=True):
        found = Penalties(holder, [penalty]).on_weights(0.0)
        torch.testing.assert_close(found, value)
    with pytest.raises(InputError, match="only topoloss can be taken on='bias'"):
        Penalty("wiring", ("linear",), on="bias")
    with pytest.raises(UnknownNameError, match="unknown side of a layer"):
        Penalty("topoloss", ("linear",), on="outputs")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["topoloss", "neighbour_cosine", "wiring"])
def test_weights_that_are_not_finite_are_left_to_the_loop_to_tell(kind: str) -> None:
    holder = nn.ModuleDict({"linear": nn.Linear(5, 16)})
    penalties = Penalties(holder, [Penalty(kind, ("linear",), factor=(2, 2))])  # type: ignore[arg-type]
    with torch.no_grad():
        holder["linear"].weight[3, 1] = float("inf")
    assert torch.isnan(torch.as_tensor(penalties.on_weights(0.0)))


def test_transformers_conv1d_is_met_as_it_is() -> None:
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    holder = nn.Sequential(Conv1D(16, 9))
    loss = Penalties(holder, [Penalty("topoloss", ("0",), factor=2.0)]).on_weights(0.0)  # type: ignore[arg-type]
    expected = topo_loss(holder[0].weight.T.detach(), factor=2.0)  # type: ignore[operator,union-attr]
    assert float(torch.as_tensor(loss).detach()) == pytest.approx(float(expected), rel=1e-6)


@torch.no_grad()
def test_values_are_those_of_the_losses_themselves() -> None:
    module = gpt()
    weight = module.get_submodule(C_FC).weight.detach()
    assert isinstance(weight, torch.Tensor)
    sheet = topo_sheet(64)
    expected = {
        "topoloss": topo_loss(weight, sheet, (2.0, 2.0)),
        "neighbour_cosine": neighbour_cosine_loss(weight, sheet),
        "wiring": wiring_cost(weight, topo_sheet(16), sheet),
    }
    for penalty in KINDS[:3]:
        value = Penalties(module, [replace(penalty, strength=3.0)]).on_weights(0.0)
        assert float(value) == pytest.approx(3 * float(expected[penalty.kind]), rel=1e-5)
    both = Penalties(module, [replace(penalty, strength=3.0) for penalty in KINDS[:3]]).on_weights(0.0)
    assert float(both) == pytest.approx(3 * sum(float(value) for value in expected.values()), rel=1e-5)


@torch.no_grad()
def test_mean_and_sum_over_layers() -> None:
    module = gpt(n_layers=3)
    parts = [
        float(Penalties(module, [replace(TOPOLOSS, layers=(f"blocks.{i}.mlp.c_fc",))]).on_weights(0)) for i in range(3)
    ]
    assert len(set(parts)) == 3
    for reduction, expected in (("mean", sum(parts) / 3), ("sum", sum(parts))):
        value = Penalties(module, [replace(TOPOLOSS, reduction=reduction)]).on_weights(0)  # type: ignore[arg-type]
        assert float(value) == pytest.approx(expected, rel=1e-6)


@torch.no_grad()
def test_input_units_and_sheets_of_one_s_own() -> None:
    module = gpt()
    weight = module.get_submodule(C_FC).weight.detach()
    on_input = Penalties(module, [replace(TOPOLOSS, on="input")]).on_weights(0)
    assert float(on_input) == pytest.approx(float(topo_loss(weight.T, factor=2.0)), rel=1e-6)  # type: ignore[arg-type,union-attr]
    ring = Sheet.grid(4, 16, wrapped=True)
    gaussian = replace(TOPOLOSS, blur="gaussian", fwhm=2.0)
    own = Penalties(module, [gaussian], {C_FC: ring}).on_weights(0)
    assert float(own) == pytest.approx(float(topo_loss(weight, ring, blur="gaussian", fwhm=2.0)), rel=1e-6)  # type: ignore[arg-type]
    assert float(own) != pytest.approx(float(Penalties(module, [gaussian]).on_weights(0)), rel=1e-3)
    with pytest.raises(InputError, match="only topoloss"):
        Penalty("wiring", (C_FC,), on="input")


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        ("constant", [4, 4, 4, 4, 4]),
        ("linear", [1, 1.75, 2.5, 3.25, 4]),
        ("cosine", [1, 1 + 3 * (1 - math.sqrt(0.5)) / 2, 2.5, 1 + 3 * (1 + math.sqrt(0.5)) / 2, 4]),
    ],
)
@torch.no_grad()
def test_strengths_follow_their_schedule(schedule: Any, values: list[float]) -> None:
    penalty = replace(TOPOLOSS, strength=4.0, start=1.0, schedule=schedule)
    assert [penalty.strength_at(share / 4) for share in range(5)] == pytest.approx(values)
    assert penalty.strength_at(9) == pytest.approx(4)
    module = gpt()
    unit = float(Penalties(module, [replace(TOPOLOSS, strength=1.0)]).on_weights(0))
    assert float(Penalties(module, [penalty]).on_weights(0.25)) == pytest.approx(values[1] * unit, rel=1e-6)


def test_a_strength_of_zero_changes_nothing_and_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from topobrain.training import penalties as room

    monkeypatch.setattr(room, "correlation_loss", None)  # not called
    silent = [replace(penalty, strength=0.0) for penalty in KINDS]
    modules = []
    for penalties in ([], silent):
        modules.append(gpt())
        log = train(modules[-1], causal(), CONFIG, penalties=penalties)
        assert (log.data["topography_loss"].values == 0).all()
    assert weights_hash(modules[0]) == weights_hash(modules[1])


@pytest.mark.parametrize("strength", [math.nan, -1.0, math.inf])
def test_a_strength_that_is_no_number_is_an_error(strength: float) -> None:
    with pytest.raises(InputError, match="strength of a penalty must be a number of at least 0"):
        Penalty("topoloss", (C_FC,), strength=strength)
    with pytest.raises(InputError, match="start of a penalty"):
        Penalty("topoloss", (C_FC,), start=strength)


def test_a_layer_that_is_not_there_offers_near_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"'blocks\.0\.mlp\.c_fx'.*Did you mean .*blocks\.0\.mlp\.c_fc"):
        train(gpt(), causal(), CONFIG, penalties=[replace(TOPOLOSS, layers=("blocks.0.mlp.c_fx",))])
    with pytest.raises(UnknownNameError, match=r"blocks\.7"):
        Penalties(gpt(), [replace(TOPOLOSS, layers=(C_FC, "blocks.7.*"))])
    with pytest.raises(InputError, match="names no layer"):
        Penalty("topoloss", ())
    with pytest.raises(UnknownNameError, match="topoloss"):
        Penalty("topolos", (C_FC,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("penalty", "sheets", "message"),
    [
        (replace(TOPOLOSS, factor=(9.0, 9.0)), {}, r"topoloss on layer 'blocks\.0\.mlp\.c_fc': .*9.* 8 x 8"),
        (replace(TOPOLOSS, factor=(math.nan, 2.0)), {}, "factor"),
        (replace(TOPOLOSS, factor=(0.5, 2.0)), {}, "factor"),
        (Penalty("topoloss", ("norm",)), {}, "'norm' is a LayerNorm, whose units are not known"),
        (
            Penalty("correlation", ("blocks.0.mlp",), radius=5), {"blocks.0.mlp": Sheet.for_width(16)},
            r"correlation on layer 'blocks\.0\.mlp': radius 5 does not fit a sheet of 4 x 4; legal: a whole number from 2 to 2",
        ),
    ],
    ids=["factor", "nan", "small", "norm", "radius"],
)  # fmt: skip
def test_what_does_not_fit_is_told_before_training(penalty: Penalty, sheets: Any, message: str) -> None:
    module = gpt()
    before = weights_hash(module)
    seen: list[int] = []
    module.register_forward_hook(lambda *_: seen.append(1))
    with pytest.raises(InputError, match=message):
        train(module, causal(), CONFIG, penalties=[penalty], sheets=sheets)
    assert not seen
    assert weights_hash(module) == before


def test_a_radius_beyond_a_sheet_that_is_met_later_names_the_layer() -> None:
    with pytest.raises(InputError, match=r"correlation on layer 'blocks\.0\.mlp': radius 5 does not fit"):
        train(gpt(), causal(), CONFIG, penalties=[Penalty("correlation", ("blocks.0.mlp",), radius=5)])


def test_padding_takes_no_part_in_the_correlation_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of a padded batch is that of its real tokens, and the mask is boolean of their shape."""
    from topobrain.training import penalties as room

    masks: list[torch.Tensor] = []
    counted: list[float] = []

    def watched(outputs: torch.Tensor, sheet: Sheet, **options: Any) -> torch.Tensor:
        masks.append(options["mask"])
        loss = correlation_loss(outputs, sheet, **options)
        real = correlation_loss(outputs[options["mask"]], sheet, radius=None)
        counted.append(float(loss.detach()) - float(real.detach()))
        return loss

    monkeypatch.setattr(room, "correlation_loss", watched)
    objective = sentences()
    penalty = Penalty("correlation", ("blocks.0.attention.output",), radius=None)
    module = topoformer(0.0, kind="topoformer-classifier")
    train(module, objective, replace(CONFIG, steps=2), penalties=[penalty])
    assert len(masks) == 2
    assert all(mask.dtype == torch.bool and mask.ndim == 2 and not bool(mask.all()) for mask in masks)
    assert counted == pytest.approx([0, 0], abs=1e-6)


def test_neighbourhoods_follow_the_seed() -> None:
    module = gpt(0.0)
    penalties = Penalties(module, [replace(KINDS[3], n_neighbourhoods=1)])
    ids = causal().batch(torch.arange(8).numpy(), held_out=False, seed=0)["ids"][:, :-1]
    with penalties.watching():
        module(ids)
        values = [float(penalties.on_outputs(0.0, None, seed).detach()) for seed in (1, 1, 2, 3, 4)]  # type: ignore[union-attr]
    assert values[0] == values[1]
    assert len(set(values)) > 2  # of four places


def test_no_hook_is_left_behind() -> None:
    module = gpt()
    train(module, causal(), replace(CONFIG, steps=2), penalties=[KINDS[3]])
    assert not any(part._forward_hooks for part in module.modules())
    with pytest.raises(InputError):
        train(module, causal(), CONFIG, penalties=[replace(KINDS[3], radius=7)])
    assert not any(part._forward_hooks for part in module.modules())
    penalties = Penalties(module, [KINDS[3]])
    with pytest.raises(RuntimeError, match="stop"), penalties.watching():
        raise RuntimeError("stop")
    assert not any(part._forward_hooks for part in module.modules())


def test_plain_values_and_back() -> None:
    for penalty in [*KINDS, replace(TOPOLOSS, factor=(2.0, 3.0), fwhm=1.5, schedule="linear", start=0.5)]:
        assert Penalty(**json.loads(json.dumps(penalty.to_dict()))) == penalty
    assert Penalty("topoloss", "a", factor=3).factor == (3.0, 3.0)  # type: ignore[arg-type]
    assert Penalty("topoloss", "a").layers == ("a",)  # type: ignore[arg-type]
