import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from topobrain._checks import InputError, UnknownNameError
from topobrain.nn import Schedule, TopoLoss, TopoTerm, topo_loss
from topobrain.nn.topo_loss_terms import find_layer, layers, unit_weights
from topobrain.sheet import Sheet


def seeded(build, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


@pytest.fixture
def model():
    return seeded(lambda: nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 36), nn.ReLU(), nn.Linear(36, 10)))


TERMS = [TopoTerm("0", 2, 2, 0.5), TopoTerm("2", 3, 3, 10), TopoTerm("4", 2, 2, None)]


# A. totals


def test_the_total_is_the_mean_over_the_terms_with_a_strength(model):
    losses = TopoLoss(TERMS)
    assert losses.compute(model).item() == pytest.approx(4.523493, abs=1e-6)
    scaled = {label: loss.item() for label, loss in losses.layerwise(model, scaled=True).items()}
    assert scaled == pytest.approx({"0": 0.2734349, "2": 8.7735519}, abs=2e-6)
    plain = {label: loss.item() for label, loss in losses.layerwise(model).items()}
    assert plain == pytest.approx({"0": 0.5468698, "2": 0.8773552, "4": 0.6455582}, abs=2e-6)
    assert sum(plain.values()) / 3 == pytest.approx(0.689928, abs=1e-6)
    assert TopoLoss(TERMS, "sum").compute(model).item() == pytest.approx(2 * 4.523493, abs=2e-6)


def test_gradients_reach_the_layers_with_a_strength_only(model):
    TopoLoss(TERMS).compute(model).backward()
    assert model[4].weight.grad is None
    assert all(layer.bias.grad is None for layer in (model[0], model[2]))
    weight = model[2].weight.detach().clone().requires_grad_()
    topo_loss(weight, factor=3).backward()
    assert torch.allclose(model[2].weight.grad, 10 / 2 * weight.grad, atol=1e-7)


def test_weight_and_bias_of_one_layer_are_both_kept(model):
    terms = [TopoTerm("0", 2, 2), TopoTerm("0", 2, 2, on="bias"), TopoTerm("0", 2, 2, on="input")]
    losses = TopoLoss(terms)
    values = {label: loss.item() for label, loss in losses.layerwise(model).items()}
    assert list(values) == ["0", "0:bias", "0:input"]
    assert values["0"] == pytest.approx(0.5468698, abs=2e-6)
    assert values["0:bias"] == pytest.approx(0.5995568, abs=2e-6)
    assert losses.compute(model).item() == pytest.approx(sum(values.values()) / 3, abs=1e-6)


def test_terms_that_would_share_a_label_are_numbered():
    losses = TopoLoss([TopoTerm("a", 2, 2), TopoTerm("a", 4, 4), TopoTerm("a", parameter="w"), TopoTerm("a", 3, 3)])
    assert losses.labels == ("a", "a#2", "a:output:w", "a#3")


def test_nothing_to_add_is_zero_and_no_terms_are_refused(model):
    total = TopoLoss([TopoTerm("0", strength=None)]).compute(model)
    assert total.item() == 0
    assert not total.requires_grad
    assert TopoLoss([TopoTerm("0", strength=0)]).compute(model).item() == 0
    with pytest.raises(InputError, match="at least one term"):
        TopoLoss([])
    with pytest.raises(InputError, match="TopoTerm objects, got str"):
        TopoLoss(["0"])


def test_strengths_are_multiplied_for_all_or_by_label(model):
    losses = TopoLoss(TERMS)
    half = losses.compute(model, multiplier=Schedule(0, 1, 10).at(5)).item()
    assert half == pytest.approx(4.523493 / 2, abs=1e-6)
    scaled = losses.layerwise(model, scaled=True, multiplier={"2": 0})
    assert [loss.item() for loss in scaled.values()] == pytest.approx([0.2734349, 0], abs=2e-6)
    assert [term.strength for term in losses.with_strength(3).terms] == [3, 3, None]
    with pytest.raises(UnknownNameError, match="unknown term '3'"):
        losses.compute(model, multiplier={"3": 1.0})
    with pytest.raises(InputError, match="multiplier"):
        losses.compute(model, multiplier=math.nan)


def test_options_of_a_term_reach_the_loss(model):
    sheet = Sheet.grid(4, 16).with_places(np.random.default_rng(0).permutation(64))
    term = TopoTerm("0", 2, 5, interpolation="area", sheet=sheet)
    expected = topo_loss(model[0].weight, sheet, (2, 5), "area").item()
    assert term.loss(model).item() == expected
    term = TopoTerm("0", blur="gaussian", fwhm=(2, 3), sheet=Sheet.grid(8, 8, wrapped=True))
    assert term.loss(model).item() == topo_loss(model[0].weight, term.sheet, blur="gaussian", fwhm=(2, 3)).item()


def test_losses_travel_through_json_unchanged(model):
    sheet = Sheet(30, 6, 6)
    terms = [*TERMS, TopoTerm("0", 2, 3, 1.5, "input", None, "nearest", sheet=sheet)]
    terms.append(TopoTerm("r", np.int64(2), 2, np.float32(0.5), "output", "weight_hh_l0", blur="gaussian", fwhm=(1, 2)))
    losses = TopoLoss(terms, "sum")
    fields = losses.to_dict()
    before = copy.deepcopy(fields)
    again = TopoLoss.from_dict(json.loads(json.dumps(fields)))
    assert again == losses
    assert again.terms[3].sheet == sheet
    assert losses.to_dict() == fields == before
    assert TopoLoss.from_dict({"terms": [{"layer": "0"}]}) == TopoLoss([TopoTerm("0")])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"terms": [{"layer": "0", "strenght": 1}]}, "'strength'"),
        ({"terms": [{"factor_h": 2}]}, "needs a 'layer'"),
        ({"reduction": "mean"}, "needs 'terms'"),
        ({"terms": [{"layer": "0"}], "reduce": "sum"}, "'reduction'"),
    ],
)
def test_fields_that_do_not_exist_are_told(fields, message):
    with pytest.raises((InputError, UnknownNameError), match=message):
        TopoLoss.from_dict(fields)


@pytest.mark.parametrize("strength", [math.nan, math.inf, -1, "1", True])
def test_impossible_strengths_are_refused(strength):
    with pytest.raises(InputError, match="strength of layer 'fc' is a finite number"):
        TopoTerm("fc", strength=strength)


def test_impossible_terms_are_refused():
    with pytest.raises(InputError, match="at least 1"):
        TopoTerm("fc", 0.5, 2)
    with pytest.raises(InputError, match="factor"):
        TopoTerm("fc", math.nan)
    with pytest.raises(UnknownNameError, match="'output'"):
        TopoTerm("fc", on="outputs")
    with pytest.raises(UnknownNameError, match="'bilinear'"):
        TopoTerm("fc", interpolation="linear")
    with pytest.raises(InputError, match="dotted path"):
        TopoTerm(nn.Linear(2, 2))
    with pytest.raises(UnknownNameError, match="unknown reduction 'max'"):
        TopoLoss(TERMS, "max")


def test_errors_name_the_layer(model):
    with pytest.raises(InputError, match="on layer '4': factor 3 exceeds the sheet's height: 10 units lie on 2 x 5"):
        TopoTerm("4", 3, 3).loss(model)


# B. finding layers


class Wrapper(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module


class Compiled(nn.Module):
    def __init__(self, module):
        super().__init__()
        self._orig_mod = module


def compiled(module):
    return torch.compile(module)  # wraps only: compiles at the first call


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        Wrapper,
        Compiled,
        lambda m: Wrapper(Compiled(m)),
        pytest.param(compiled, marks=pytest.mark.slow),
    ],
)
def test_layers_are_found_through_wrappers(model, wrap):
    expected = TopoTerm("2", 3, 3).loss(model).item()
    for path in ("2", "module.2", "_orig_mod.2", "module._orig_mod.2"):
        assert find_layer(wrap(model), path) is model[2]
        assert TopoTerm(path, 3, 3).loss(wrap(model)).item() == expected
    assert find_layer(model, "module.2") is model[2]


def test_wrapped_parts_inside_a_model_are_seen_through(model):
    inner = nn.ModuleDict({"block": Compiled(nn.Sequential(Compiled(model[0]), model[2]))})
    assert find_layer(inner, "block.0") is model[0]
    assert find_layer(inner, "block._orig_mod.1") is model[2]
    assert [path for path, _ in layers(inner)] == ["", "block", "block.0", "block.1"]
    assert find_layer(model[0], "") is model[0]


def test_a_layer_that_happens_to_be_called_module_is_itself():
    model = nn.ModuleDict({"module": nn.Linear(4, 4), "other": nn.Linear(4, 4)})
    assert find_layer(model, "module") is model["module"]
    assert find_layer(nn.ModuleDict({"a": model}), "a.module") is model["module"]


@pytest.mark.parametrize("path", ["1.5", "net.layer.01", "net.layer.1.weight", "nett.layer.1", "net.none"])
def test_a_layer_that_is_not_there_is_answered_with_near_names(path):
    model = nn.DataParallel(
        nn.ModuleDict({"net": nn.ModuleDict({"layer": nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))})})
    )
    model.module["net"].register_module("none", None)
    with pytest.raises(UnknownNameError, match=r"unknown layer .*Known: net\.layer\.0, net\.layer\.1"):
        find_layer(model, path)


# C. layers and their units


def test_gpt2s_linear_layer_is_a_transposed_linear():
    layer = seeded(lambda: Conv1D(48, 20))
    twin = nn.Linear(20, 48)
    twin.weight.data = layer.weight.data.T.contiguous()
    twin.bias.data.normal_(generator=torch.Generator().manual_seed(0))
    layer.bias.data = twin.bias.data
    for on, factor in (("output", 3), ("input", 2), ("bias", 3)):
        term = TopoTerm("", factor, factor, on=on)
        assert term.loss(layer).item() == pytest.approx(term.loss(twin).item(), abs=1e-7)
    TopoTerm("", 3, 3).loss(layer).backward()
    TopoTerm("", 3, 3).loss(twin).backward()
    assert torch.allclose(layer.weight.grad.T, twin.weight.grad, atol=1e-8)


def responses(layer, inputs):
    """Return what every output channel of a layer does, for any layer with channels second."""
    return layer(inputs).transpose(0, 1).flatten(1)


@pytest.mark.parametrize("groups", [1, 2])
def test_units_of_convolutions_are_their_output_channels(groups):
    """A channel's response scales with its own vector alone."""
    for kind, shape in (
        (nn.Conv1d, (7,)),
        (nn.Conv2d, (7, 6)),
        (nn.ConvTranspose1d, (7,)),
        (nn.ConvTranspose2d, (7, 6)),
    ):
        layer = seeded(lambda kind=kind: kind(4, 6, 3, groups=groups, bias=False))
        weights = unit_weights(layer)
        assert weights.shape == (6, layer.weight.numel() // 6)[:1] + tuple(weights.shape[1:])
        inputs = torch.randn(2, 4, *shape, generator=torch.Generator().manual_seed(0))
        before = responses(layer, inputs)
        with torch.no_grad():
            mask = torch.ones_like(weights)
            mask[3] = 2
            # the units' view of the weight is a permutation: send the mask back through its gradient
            leaf = layer.weight.detach().clone().requires_grad_()
            layer.weight.mul_(_back(layer, leaf, mask))
        ratio = responses(layer, inputs) / before
        assert torch.allclose(ratio[3], torch.tensor(2.0), rtol=1e-4)
        assert torch.allclose(ratio[[0, 1, 2, 4, 5]], torch.tensor(1.0), rtol=1e-4)


def _back(layer, leaf, values):
    """Return values (unit, ...) in the layout of the layer's weight."""
    twin = copy.deepcopy(layer)
    twin.weight = nn.Parameter(leaf.detach())
    with torch.enable_grad():
        (unit_weights(twin) * values).sum().backward()
    return twin.weight.grad


def test_input_units_of_layers():
    linear, conv = nn.Linear(6, 9), nn.Conv2d(6, 8, 3)
    assert torch.equal(unit_weights(linear, "input"), linear.weight.T)
    assert torch.equal(unit_weights(conv, "input"), conv.weight.transpose(0, 1))
    transposed = nn.ConvTranspose2d(6, 8, 3)
    assert torch.equal(unit_weights(transposed, "input"), transposed.weight)
    with pytest.raises(InputError, match="Conv2d with 2 groups"):
        unit_weights(nn.Conv2d(6, 8, 3, groups=2), "input")


def test_units_of_an_embedding_are_its_dimensions():
    table = nn.Embedding(50, 12)
    assert torch.equal(unit_weights(table), table.weight.T)
    assert TopoTerm("", 2, 2).loss(table).item() == topo_loss(table.weight, factor=2, on="input").item()
    with pytest.raises(InputError, match="an Embedding: its inputs are tokens"):
        unit_weights(table, "input")


@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
def test_the_gates_of_a_recurrent_unit_belong_to_it(kind, gates):
    layer = seeded(lambda: kind(5, 12))
    weights = unit_weights(layer, "output", "weight_hh_l0")
    assert weights.shape == (12, gates * 12)
    assert torch.equal(weights[7], torch.cat([layer.weight_hh_l0[gate * 12 + 7] for gate in range(gates)]))
    assert unit_weights(layer, "output", "weight_ih_l0").shape == (12, gates * 5)
    assert torch.equal(unit_weights(layer, "input", "weight_hh_l0"), layer.weight_hh_l0.T)
    losses = TopoLoss([TopoTerm("", 2, 2, parameter="weight_hh_l0")])
    assert list(losses.layerwise(layer)) == [":output:weight_hh_l0"]
    losses.compute(layer).backward()
    assert layer.weight_hh_l0.grad.abs().sum() > 0
    cell = {nn.RNN: nn.RNNCell, nn.GRU: nn.GRUCell, nn.LSTM: nn.LSTMCell}[kind](5, 12)
    assert unit_weights(cell, "output", "weight_hh").shape == (12, gates * 12)
    if gates == 1:
        assert TopoTerm("", 2, 2, on="bias", parameter="bias_hh_l0").loss(layer).item() > 0
    else:
        with pytest.raises(InputError, match="one value a unit"):
            unit_weights(layer, "bias", "bias_hh_l0")


def test_query_key_and_value_of_a_unit_belong_to_it():
    layer = nn.MultiheadAttention(12, 3)
    weights = unit_weights(layer, "output", "in_proj_weight")
    assert torch.equal(weights[5], torch.cat([layer.in_proj_weight[block * 12 + 5] for block in range(3)]))
    assert TopoTerm("out_proj", 2, 2).loss(layer).item() > 0


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        (nn.LSTM(5, 12), {}, r"'it' is a LSTM, whose units are not known.*weight_ih_l0, weight_hh_l0"),
        (nn.MultiheadAttention(12, 3), {}, "in_proj_weight"),
        (nn.LayerNorm(12), {}, "LayerNorm"),
        (nn.Sequential(nn.Linear(2, 2)), {}, "Sequential"),
        (nn.LSTM(5, 12), {"parameter": "weight_hh"}, "has no 'weight_hh'; it has weight_ih_l0"),
        (nn.Linear(4, 4, bias=False), {"on": "bias"}, "has no 'bias'"),
        (nn.Linear(4, 4), {"on": "bias", "parameter": "weight"}, "one value a unit"),
        (nn.Linear(4, 4), {"parameter": "bias"}, "on='bias'"),
        (nn.LazyLinear(4), {}, "lazy"),
    ],
)
def test_layers_without_units_are_refused_by_name(layer, options, message):
    with pytest.raises(InputError, match=message):
        unit_weights(layer, name="it", **options)


def test_a_named_tensor_of_any_layer_has_units_first():
    layer = nn.Module()
    layer.mixing = nn.Parameter(torch.ones(12, 3))
    assert unit_weights(layer, parameter="mixing") is layer.mixing


# D. schedules


@pytest.mark.parametrize("shape", ["linear", "cosine"])
@pytest.mark.parametrize(("start", "end"), [(0.0, 5.0), (5.0, 1.0), (2.0, 2.0)])
def test_schedules_stay_between_their_ends_and_at_them(shape, start, end):
    schedule = Schedule(start, end, 20, shape)
    way = [schedule.at(step) for step in range(-5, 60)]
    assert way[:6] == [start] * 6
    assert way[25:] == [end] * 40
    steps = np.diff(way) * (1 if end >= start else -1)
    assert (steps >= 0).all()
    assert schedule.at(10) == pytest.approx((start + end) / 2)


def test_schedules_follow_their_formulas():
    assert Schedule(1, 3, 8).at(2) == pytest.approx(1.5)
    assert Schedule(3, 1, 8, "cosine").at(2) == pytest.approx(1 + 2 * (1 + math.cos(math.pi / 4)) / 2)


@pytest.mark.parametrize("arguments", [(math.nan, 1, 5), (0, math.inf, 5), (-1, 1, 5), (0, 1, 0), (0, 1, math.nan)])
def test_impossible_schedules_are_refused(arguments):
    with pytest.raises(InputError, match="schedule"):
        Schedule(*arguments)
    with pytest.raises(UnknownNameError, match="'cosine'"):
        Schedule(0, 1, 5, "cosinus")
    with pytest.raises(InputError, match="NaN"):
        Schedule(0, 1, 5).at(math.nan)
