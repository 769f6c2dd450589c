import math

import numpy as np
import pytest
import torch
from torch import nn

from topobrain._checks import InputError
from topobrain.models.topoformer import Topoformer, TopoformerConfig, TopographicAttention
from topobrain.nn import SpatialQuerying, SpatialReweighting
from topobrain.nn.spatial_querying import disc, square_torus
from topobrain.stats import generic_topography


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


def layer(kind, *arguments, seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(*arguments, **options)


# A. geometry


@pytest.mark.parametrize(
    ("d", "fraction", "k"),
    [(400, 0.1, 37), (400, 0.2, 81), (400, 0.3, 121), (784, 0.1, 69), (784, 0.3, 241), (784, 1.0, 711)],
)
def test_disc_is_a_symmetric_mask_with_the_same_number_of_units_everywhere(d, fraction, k):
    mask = disc(square_torus(d), fraction)
    assert set(np.unique(mask)) == {0, 1}
    assert np.array_equal(mask, mask.T)
    assert (np.diag(mask) == 1).all()
    assert (mask.sum(axis=1) == k).all()


def test_the_torus_is_at_most_a_half_diagonal_wide_and_a_disc_of_half_pi_covers_it():
    for d in (400, 784):
        sheet = square_torus(d)
        assert sheet.distances().max() / sheet.width == pytest.approx(0.70711, abs=1e-5)
        assert (disc(sheet, math.pi / 2) == 1).all()
        assert np.array_equal(disc(sheet, 1e-4), np.eye(d))


@pytest.mark.parametrize(
    ("d", "fraction", "rank", "condition", "weak"),
    [
        (400, 0.1, 392, None, 0.090),
        (400, 0.2, 384, None, 0.170),
        (400, 0.3, 400, 2.2e3, 0.242),
        (784, 0.1, 784, 3.9e2, 0.071),
        (784, 0.3, 784, 4.0e3, 0.407),
    ],
)
def test_rank_and_condition_of_the_disc(d, fraction, rank, condition, weak):
    size = np.abs(np.linalg.eigvalsh(disc(square_torus(d), fraction).astype(float)))
    assert (size > 1e-9 * size.max()).sum() == rank
    assert (size < 0.01 * size.max()).mean() == pytest.approx(weak, abs=0.001)
    if condition is not None:
        assert size.max() / size.min() == pytest.approx(condition, rel=0.03)


@pytest.mark.parametrize(("d", "near"), [(768, 784), (399, 400), (401, 400), (2, 1), (3, 4)])
def test_other_than_square_numbers_are_answered_with_the_nearest(d, near):
    with pytest.raises(InputError, match=f"nearest: {near}$"):
        SpatialQuerying(d, 0.1)


@pytest.mark.parametrize("fraction", [0.0, -0.1, math.nan, math.inf])
def test_impossible_fractions_are_refused(fraction):
    for kind in (SpatialQuerying, SpatialReweighting):
        with pytest.raises(InputError, match="fraction"):
            kind(100, fraction)


# B to F. spatial querying


@pytest.mark.parametrize(("d", "fraction"), [(100, 0.1), (784, 0.3)])
def test_pooling_is_a_circular_convolution(d, fraction):
    pool = SpatialQuerying(d, fraction)
    queries, side = normal(5, d), math.isqrt(d)
    kernel = pool.pool[0].double().reshape(side, side)
    spectrum = torch.fft.fft2(queries.reshape(5, side, side)) * torch.fft.fft2(kernel)
    assert (pool(queries) - torch.fft.ifft2(spectrum).real.reshape(5, d)).abs().max() < 1e-10
    k = int((kernel > 0).sum())
    assert kernel.max().item() == pytest.approx(1 / math.sqrt(d * k), rel=1e-6)


def test_pooling_runs_over_units_and_not_over_tokens():
    pool, queries = SpatialQuerying(100, 0.2), normal(3, 7, 100)
    changed = queries.clone()
    changed[1, 4] += 1
    differs = (pool(queries) != pool(changed)).any(dim=-1)
    assert differs.nonzero().tolist() == [[1, 4]]


def test_pool_folds_into_the_query_weight_and_pooling_keys_is_the_same():
    pool = SpatialQuerying(144, 0.2)
    states, weight, keys = normal(9, 144), normal(144, 144, seed=1), normal(9, 144, seed=2)
    scores = pool(states @ weight.T) @ keys.T
    folded = (states @ pool.fold(weight).T) @ keys.T
    assert (scores - folded).abs().max() / scores.abs().max() < 1e-12
    other = (states @ weight.T) @ pool(keys).T
    assert (scores - other).abs().max() / scores.abs().max() < 1e-12


def test_shifts_rotations_and_flips_of_the_sheet_leave_scores_unchanged_and_random_permutations_do_not():
    pool, places = SpatialQuerying(144, 0.1), np.arange(144).reshape(12, 12)
    queries, keys = normal(6, 144), normal(6, 144, seed=1)
    scores = pool(queries) @ keys.T
    for order in (np.roll(places, (5, 3), (0, 1)), np.rot90(places).copy(), places[:, ::-1].copy(), places.T.copy()):
        same = pool(queries[:, order.ravel()]) @ keys[:, order.ravel()].T
        assert (same - scores).abs().max() / scores.abs().max() < 1e-12
    order = np.random.default_rng(0).permutation(144)
    assert (pool(queries[:, order]) @ keys[:, order].T - scores).abs().max() / scores.abs().max() > 0.3


def test_smallest_disc_is_standard_attention_and_widest_has_rank_one():
    d = 100
    queries, keys = normal(8, d), normal(8, d, seed=1)
    none, full = SpatialQuerying(d, 1e-4), SpatialQuerying(d, math.pi / 2)
    standard = queries @ keys.T / math.sqrt(d)
    assert torch.allclose(none(queries) @ keys.T / math.sqrt(d) * math.sqrt(d), standard, rtol=1e-6, atol=1e-7)
    flat = full(queries) @ keys.T / math.sqrt(d)
    assert torch.allclose(flat, torch.outer(queries.sum(-1), keys.sum(-1)) / (d * math.sqrt(d)), rtol=1e-6)
    singular = torch.linalg.svdvals(flat)
    assert singular[1] < 1e-12 * singular[0]
    assert torch.linalg.matrix_rank(standard) == 8


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.3, 0.6])
def test_pooling_white_queries_divides_their_variance_by_the_width(fraction):
    queries = normal(100_000, 100, dtype=torch.float32)
    assert (SpatialQuerying(100, fraction)(queries).var() * 100 / queries.var()).item() == pytest.approx(1, abs=0.01)


# G. spatial reweighting


def test_number_of_active_weights():
    assert int((layer(SpatialReweighting, 784, 0.3).weight != 0).sum()) == 188_944


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    "optimiser",
    [
        lambda p: torch.optim.AdamW(p, lr=0.3, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=3.0, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=0.3, weight_decay=0.1),
    ],
)
def test_weights_keep_their_constraints_after_every_step(signed, optimiser):
    reweighting = layer(SpatialReweighting, 100, 0.2, signed=signed)
    outside = reweighting.mask == 0
    before, step = reweighting.weight.detach().clone(), optimiser(reweighting.parameters())
    inputs, wanted = normal(32, 100, dtype=torch.float32), normal(32, 100, seed=1, dtype=torch.float32)
    for _ in range(5):
        step.zero_grad()
        ((reweighting(inputs) - wanted) ** 2).mean().backward()
        assert (reweighting.raw_weight.grad[outside] == 0).all()
        step.step()
        assert (reweighting.weight[outside] == 0).all()
        assert (reweighting.raw_weight[outside] == 0).all()
        assert signed or (reweighting.weight >= 0).all()
    assert (reweighting.weight - before).abs().max() > 0.05
    assert not signed or (reweighting.weight < 0).any()


def test_a_full_signed_disc_is_an_ordinary_linear_layer():
    reweighting, linear = layer(SpatialReweighting, 64, 2.0, signed=True), nn.Linear(64, 64)
    with torch.no_grad():
        reweighting.raw_weight.copy_(linear.weight)
        reweighting.bias.copy_(linear.bias)
    values = normal(5, 3, 64, dtype=torch.float32)
    assert torch.equal(reweighting(values), linear(values))


def test_the_start_is_that_of_a_linear_layer_or_ten_times_its_size():
    signed, positive = layer(SpatialReweighting, 400, 0.3, signed=True), layer(SpatialReweighting, 400, 0.3)
    assert signed.weight.max().item() == pytest.approx(1 / 20, rel=0.01)
    assert signed.weight.min().item() == pytest.approx(-1 / 20, rel=0.01)
    assert positive.weight.max().item() == pytest.approx(10 / 20, rel=0.01)
    inside = positive.mask == 1
    assert positive.weight[inside].mean().item() == pytest.approx(5 / 20, rel=0.01)


@pytest.mark.parametrize(
    "module",
    [
        lambda: SpatialQuerying(100, 0.2),
        lambda: SpatialReweighting(100, 0.2),
        lambda: SpatialReweighting(100, 0.2, True),
    ],
)
def test_forward_leaves_the_stored_state_unchanged_and_the_state_restores_the_layer(module):
    one, other, values = layer(module, seed=1), layer(module, seed=2), normal(4, 100, dtype=torch.float32)
    before = {name: value.clone() for name, value in one.state_dict().items()}
    expected = one(values)
    one.eval()(values)
    assert all(torch.equal(before[name], value) for name, value in one.state_dict().items())
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(values), expected)
    assert {"pool", "mask"} & set(before)
    assert "fraction=0.2" in repr(one)


def test_masks_follow_the_module_to_another_type():
    values = normal(4, 100)
    for module in (SpatialQuerying(100, 0.2), layer(SpatialReweighting, 100, 0.2)):
        assert module.double()(values).dtype == torch.float64


# J. topography of untrained layers


@pytest.mark.parametrize(
    ("d", "fraction", "uniform", "half_normal", "n_seeds", "tolerance"),
    [
        (400, 0.1, 0.756, 0.708, 4, 0.025),  # single draws vary by 0.01
        (400, 0.3, 0.900, 0.846, 1, 0.010),
        (784, 0.1, 0.754, 0.713, 2, 0.020),
        (784, 0.3, 0.915, 0.871, 1, 0.010),
    ],
)
def test_untrained_non_negative_reweighting_is_smooth(d, fraction, uniform, half_normal, n_seeds, tolerance):
    found = []
    for seed in range(n_seeds):
        values = normal(1000, d, dtype=torch.float32, seed=10 + seed)
        reweighting = layer(SpatialReweighting, d, fraction, seed=seed)
        with torch.no_grad():
            first = generic_topography(reweighting(values).numpy(), reweighting.sheet)
            reweighting.raw_weight.copy_(normal(d, d, seed=20 + seed))
            found.append((first, generic_topography(reweighting(values).numpy(), reweighting.sheet)))
    assert np.mean(found, axis=0) == pytest.approx([uniform, half_normal], abs=tolerance)


@pytest.mark.parametrize("fraction", [0.1, 0.3])
def test_local_connectivity_alone_makes_no_topography(fraction):
    reweighting = layer(SpatialReweighting, 400, fraction, signed=True)
    with torch.no_grad():
        values = reweighting(normal(1000, 400, dtype=torch.float32)).numpy()
    assert generic_topography(values, reweighting.sheet) == pytest.approx(0, abs=0.015)


# the layers inside the Topoformer


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_size_of_the_one_layer_encoder_and_of_its_topographic_twin():
    dense = Topoformer(TopoformerConfig(vocab_size=11, reweighting=None))
    assert parameters(dense) - dense.tokens.weight.numel() - dense.head_bias.numel() == 2_027_600
    twin = Topoformer(TopoformerConfig(vocab_size=11, querying=None, reweighting=None))
    topographic = Topoformer(TopoformerConfig(vocab_size=11))
    assert parameters(dense) == parameters(twin) == parameters(topographic)


def test_attention_with_folded_queries_is_the_same_attention():
    config = TopoformerConfig(vocab_size=11, width=100, querying=0.2)
    attention = layer(TopographicAttention, config).double()
    states, visible = normal(2, 6, 100), torch.ones(2, 1, 6, dtype=torch.bool)
    expected = attention(states, visible)
    with torch.no_grad():
        attention.query.bias.copy_(attention.pool.fold(attention.query.bias[:, None])[:, 0])
        attention.query.weight.copy_(attention.pool.fold(attention.query.weight))
    attention.pool = nn.Identity()
    assert torch.allclose(attention(states, visible), expected, atol=1e-12)


def test_attention_equals_its_formula():
    attention = layer(TopographicAttention, TopoformerConfig(vocab_size=11, width=100, querying=0.2)).double()
    states = normal(1, 6, 100)
    visible = torch.tensor([[[True, True, True, True, False, False]]])
    logits = attention.query(states)[0] @ attention.pool.pool.double() @ attention.key(states)[0].T / 10
    weights = torch.softmax(logits.masked_fill(~visible[0], -math.inf), dim=-1)
    expected = weights @ attention.value(states)[0] @ attention.output.weight.T + attention.output.bias
    assert torch.allclose(attention(states, visible)[0], expected, atol=1e-12)


def test_padding_is_invisible_and_forward_changes_no_parameter():
    model = layer(
        Topoformer, TopoformerConfig(vocab_size=30, width=64, ffn_width=128, n_layers=2, max_length=16)
    ).eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    ids = torch.randint(1, 30, (2, 9), generator=generator())
    mask = torch.ones(2, 9)
    mask[1, 4:] = 0
    with torch.no_grad():
        together = model(ids, mask)
        other = ids.clone()
        other[1, 4:] = 7
        assert torch.allclose(model(other, mask)[1, :4], together[1, :4], atol=1e-6)
        assert torch.allclose(model(ids[1:, :4], torch.ones(1, 4))[0], together[1, :4], atol=1e-6)
        assert model.logits(together).shape == (2, 9, 30)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
