"""Spatial reweighting: what its weights may become, how they start, and what that does to topography."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from topobrain._checks import InputError
from topobrain.nn import SpatialReweighting
from topobrain.nn.pools import disc
from topobrain.stats import generic_topography


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(*arguments, seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SpatialReweighting(*arguments, **options)


def test_number_of_active_weights():
    reweighting = layer(784, 0.3)
    assert int((reweighting.weight != 0).sum()) == 784 * 241 == 188_944
    assert sum(p.numel() for p in reweighting.parameters()) == 784 * 785


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    "optimiser",
    [
        lambda p: torch.optim.AdamW(p, lr=0.3, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, weight_decay=0.01),
        lambda p: torch.optim.Adam(p, lr=0.3, weight_decay=0.1),
    ],
    ids=["AdamW", "SGD with momentum", "Adam"],
)
def test_weights_keep_their_constraints_after_every_step(signed, optimiser):
    reweighting = layer(64, 0.2, signed=signed)
    outside = reweighting.mask == 0
    before, step = reweighting.weight.detach().clone(), optimiser(reweighting.parameters())
    inputs, wanted = normal(32, 64), normal(32, 64, seed=1)
    for _ in range(5):
        step.zero_grad()
        ((reweighting(inputs) - wanted) ** 2).mean().backward()
        assert (reweighting.raw_weight.grad[outside] == 0).all()
        step.step()
        assert (reweighting.weight[outside] == 0).all()
        assert (reweighting.raw_weight[outside] == 0).all()
        assert signed or (reweighting.weight >= 0).all()
    assert (reweighting.weight - before).abs().max() > 0.03
    assert not signed or (reweighting.weight < 0).any()
    assert signed or (reweighting.raw_weight < 0).any()  # the constraint did have something to do


def test_weights_stored_outside_the_disc_count_for_nothing():
    reweighting, values = layer(64, 0.2), normal(5, 64)
    expected = reweighting(values)
    with torch.no_grad():
        reweighting.raw_weight += (1 - reweighting.mask) * 3
    assert torch.equal(reweighting(values), expected)


@pytest.mark.parametrize("wrapped", [True, False])
def test_outputs_depend_on_the_disc_around_them_only(wrapped):
    reweighting = layer(100, 0.1, wrapped=wrapped)
    assert reweighting.sheet.wrapped == wrapped
    reached = torch.autograd.functional.jacobian(lambda v: reweighting(v), normal(100)) != 0
    assert np.array_equal(reached.numpy(), disc(reweighting.sheet, 0.1) == 1)


def test_a_full_signed_disc_is_an_ordinary_linear_layer():
    reweighting, linear = layer(64, 2.0, signed=True), nn.Linear(64, 64)
    with torch.no_grad():
        reweighting.raw_weight.copy_(linear.weight)
        reweighting.bias.copy_(linear.bias)
    values = normal(5, 3, 64)
    assert torch.equal(reweighting(values), linear(values))


def test_the_start_is_that_of_a_linear_layer_or_ten_times_its_size():
    signed, positive, named = layer(400, 0.3, signed=True), layer(400, 0.3), layer(400, 0.3, initial_gain=4)
    assert signed.weight.max().item() == pytest.approx(1 / 20, rel=0.01)
    assert signed.weight.min().item() == pytest.approx(-1 / 20, rel=0.01)
    inside = positive.mask == 1
    for reweighting, top in ((positive, 10 / 20), (named, 4 / 20)):
        assert reweighting.weight.max().item() == pytest.approx(top, rel=0.01)
        assert reweighting.weight[inside].mean().item() == pytest.approx(top / 2, rel=0.01)
        assert reweighting.weight[inside].min() < 0.001
        assert reweighting.bias.abs().max().item() == pytest.approx(1 / 20, rel=0.02)


def test_a_normal_start_is_half_normal_unless_signed():
    half, signed = layer(400, 0.3, initial_sd=0.02), layer(400, 0.3, True, initial_sd=0.02)
    inside = half.mask == 1
    assert (half.weight >= 0).all()
    assert half.weight[inside].mean().item() == pytest.approx(0.02 * np.sqrt(2 / np.pi), rel=0.02)
    assert half.weight[inside].square().mean().sqrt().item() == pytest.approx(0.02, rel=0.02)
    assert signed.weight[inside].mean().item() == pytest.approx(0, abs=0.0005)
    assert signed.weight[inside].std().item() == pytest.approx(0.02, rel=0.02)
    assert not half.bias.any()
    with pytest.raises(InputError, match="not both"):
        SpatialReweighting(100, 0.2, initial_gain=1.0, initial_sd=0.02)


@pytest.mark.parametrize("signed", [False, True])
def test_forward_leaves_the_stored_state_unchanged_and_the_state_restores_the_layer(signed):
    one, other, values = layer(100, 0.2, signed, seed=1), layer(100, 0.2, signed, seed=2), normal(4, 100)
    with torch.no_grad():
        one.raw_weight -= 0.1  # negative entries, as a step may leave them
    before = {name: value.clone() for name, value in one.state_dict().items()}
    expected = one(values)
    one.eval()(values)
    assert all(torch.equal(before[name], value) for name, value in one.state_dict().items())
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(values), expected)
    assert set(before) == {"mask", "raw_weight", "bias"}
    assert "fraction=0.2" in repr(one)


def test_mask_follows_the_module_to_another_type_and_device():
    assert layer(100, 0.2).double()(normal(4, 100).double()).dtype == torch.float64
    moved = layer(100, 0.2).to("meta")
    assert {tensor.device.type for tensor in moved.state_dict().values()} == {"meta"}
    assert moved(torch.empty(4, 100, device="meta")).shape == (4, 100)
    with torch.device("meta"):
        assert SpatialReweighting(100, 0.2).mask.is_meta


# topography of untrained layers on white input


def untrained(d, fraction, seed, **options):
    reweighting = layer(d, fraction, seed=seed, **options)
    with torch.no_grad():
        return generic_topography(reweighting(normal(1000, d, seed=10 + seed)).numpy(), reweighting.sheet)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("d", "fraction", "uniform", "half_normal", "n_seeds"),
    [
        (400, 0.1, 0.733, 0.688, 3),
        (400, 0.3, 0.900, 0.846, 3),
        (784, 0.1, 0.754, 0.713, 3),  # single draws vary by 0.01
        (784, 0.3, 0.915, 0.871, 1),
    ],
)
def test_untrained_non_negative_reweighting_is_smooth(d, fraction, uniform, half_normal, n_seeds):
    starts = ({}, {"initial_sd": 0.02})
    found = [[untrained(d, fraction, seed, **start) for start in starts] for seed in range(n_seeds)]
    assert np.mean(found, axis=0) == pytest.approx([uniform, half_normal], abs=0.01)


@pytest.mark.parametrize(("d", "fraction"), [(400, 0.1), (400, 0.3), (784, 0.3)])
@pytest.mark.parametrize("start", [{}, {"initial_sd": 0.02}], ids=["uniform", "normal"])
def test_local_connectivity_alone_makes_no_topography(d, fraction, start):
    assert untrained(d, fraction, 0, signed=True, **start) == pytest.approx(0, abs=0.01)


@pytest.mark.slow
def test_topography_of_all_pairs_agrees_with_a_sample_and_vanishes_when_units_are_permuted():
    reweighting, rng = layer(784, 0.3), np.random.default_rng(0)
    with torch.no_grad():
        values = reweighting(normal(1000, 784)).numpy()
    found = generic_topography(values, reweighting.sheet)
    far, alike = reweighting.sheet.distances() / 28, np.corrcoef(values.T)
    first, second = rng.integers(784, size=(2, 100_000))
    first, second = first[first != second], second[first != second]
    sampled = []
    for radius in np.arange(1, 9) / 10:
        near = far[first, second] <= radius + 1e-12
        sampled.append(-spearmanr(far[first, second][near], alike[first, second][near])[0])
    assert found == pytest.approx(np.mean(sampled), abs=0.01)
    assert generic_topography(values[:, rng.permutation(784)], reweighting.sheet) == pytest.approx(0, abs=0.01)


def test_non_negative_weights_are_absolute_values_so_that_none_that_crosses_zero_dies():
    layer = SpatialReweighting(16, 0.3)
    with torch.no_grad():
        layer.raw_weight[::2] *= -1
    assert torch.equal(layer.weight, layer.raw_weight.abs() * layer.mask)
    layer(torch.randn(3, 16, generator=torch.Generator().manual_seed(0))).sum().backward()
    inside = (layer.mask > 0) & (layer.raw_weight < 0)
    assert inside.sum() > 10
    assert (layer.raw_weight.grad[inside] != 0).all()


def test_weights_of_another_recipe_are_refused():
    with pytest.raises(RuntimeError, match=r"mask is of another recipe than this layer's \(d=16, fraction=0.3"):
        SpatialReweighting(16, 0.3).load_state_dict(SpatialReweighting(16, 0.6).state_dict())
    SpatialReweighting(16, 0.3).half().load_state_dict(SpatialReweighting(16, 0.3).state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial_sd": -1.0}, "initial_sd must be a number of at least 0"),
        ({"initial_gain": float("nan")}, "initial_gain must be a number of at least 0"),
    ],
)
def test_a_start_that_makes_no_weights_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        SpatialReweighting(16, 0.3, **options)


def test_values_of_another_width_are_told():
    with pytest.raises(InputError, match="values have 9 units in their last axis, this layer 16"):
        SpatialReweighting(16, 0.3)(torch.zeros(2, 9))
