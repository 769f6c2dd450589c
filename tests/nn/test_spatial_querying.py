"""Spatial querying against its formula, its limits and its symmetries."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as attend

from topobrain._checks import InputError
from topobrain.nn import SpatialQuerying

VARIANTS = [
    {},
    {"pool": "gaussian"},
    {"pool": "learned"},
    {"wrapped": False},
    {"n_heads": 4},
    {"n_heads": 4, "shared_sheet": True},
    {"n_heads": 4, "pool": "learned", "wrapped": False},
]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def with_gain(pool):
    """Give a learned pool gains that differ, as after training."""
    if pool.gain is not None:
        with torch.no_grad():
            pool.gain.copy_(1 + 0.5 * normal(pool.d, seed=9))
    return pool


@pytest.mark.parametrize(("d", "fraction"), [(100, 0.1), (400, 0.1), (784, 0.3)])
@pytest.mark.parametrize("kind", ["disc", "gaussian"])
def test_pooling_is_a_circular_convolution(d, fraction, kind):
    pool = SpatialQuerying(d, fraction, pool=kind)
    queries, side = normal(5, d), math.isqrt(d)
    kernel = pool.pool[0].double().reshape(side, side)
    spectrum = torch.fft.fft2(queries.reshape(5, side, side)) * torch.fft.fft2(kernel)
    exact = kind == "disc"  # float32 entries of the Gaussian differ from row to row by rounding
    assert (pool(queries) - torch.fft.ifft2(spectrum).real.reshape(5, d)).abs().max() < (1e-10 if exact else 1e-7)
    if exact:
        assert kernel.max().item() == pytest.approx(1 / math.sqrt(d * int((kernel > 0).sum())), rel=1e-6)


def test_pooling_runs_over_units_and_not_over_tokens():
    pool, queries = SpatialQuerying(100, 0.2), normal(3, 7, 100)
    changed = queries.clone()
    changed[1, 4] += 1
    differs = (pool(queries) != pool(changed)).any(dim=-1)
    assert differs.nonzero().tolist() == [[1, 4]]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_pool_folds_into_the_query_weight_and_bias(options):
    pool = with_gain(SpatialQuerying(144, 0.2, **options))
    states, weight, bias = normal(9, 144), normal(144, 144, seed=1), normal(144, seed=2)
    pooled = pool(states @ weight.T + bias)
    folded_weight, folded_bias = pool.fold(weight, bias)
    folded = states @ folded_weight.T + folded_bias
    assert (pooled - folded).abs().max() / pooled.abs().max() < 1e-12
    assert torch.equal(pool.fold(weight), folded_weight)
    assert torch.allclose(pool(states), states @ pool.matrix.double(), rtol=1e-6, atol=1e-8)


def test_pooling_keys_is_the_same_as_pooling_queries():
    pool = SpatialQuerying(144, 0.2)
    queries, keys = normal(9, 144), normal(9, 144, seed=2)
    scores = pool(queries) @ keys.T
    assert (scores - queries @ pool(keys).T).abs().max() / scores.abs().max() < 1e-12


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
    queries, keys, values = normal(8, d), normal(8, d, seed=1), normal(8, d, seed=2)
    none, full = SpatialQuerying(d, 1e-4), SpatialQuerying(d, math.pi / 2)
    standard = attend(queries, keys, values)
    assert torch.allclose(attend(none(queries) * math.sqrt(d), keys, values), standard, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(attend(full(queries) * math.sqrt(d), keys, values), standard, atol=0.01)
    flat = full(queries) @ keys.T / math.sqrt(d)
    assert torch.allclose(flat, torch.outer(queries.sum(-1), keys.sum(-1)) / (d * math.sqrt(d)), rtol=1e-6)
    singular = torch.linalg.svdvals(flat)
    assert singular[1] < 1e-12 * singular[0]
    assert torch.linalg.matrix_rank(queries @ keys.T) == 8


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("kind", ["disc", "gaussian"])
def test_pooling_white_queries_divides_their_variance_by_the_width(fraction, kind):
    queries = normal(40_000, 100, dtype=torch.float32)
    pooled = SpatialQuerying(100, fraction, pool=kind)(queries)
    assert (pooled.square().mean() * 100).item() == pytest.approx(1, abs=0.01)


# heads, sheets, learned gains, open borders


@pytest.mark.parametrize("kind", ["disc", "gaussian", "learned"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_sheet_a_head_equals_a_loop_over_heads(kind, wrapped):
    pool = with_gain(SpatialQuerying(144, 0.2, n_heads=4, pool=kind, wrapped=wrapped))
    one = SpatialQuerying(36, 0.2, pool="gaussian" if kind == "gaussian" else "disc", wrapped=wrapped)
    assert pool.sheet == one.sheet
    queries = normal(2, 5, 144)
    expected = torch.cat([one(part) for part in queries.chunk(4, dim=-1)], dim=-1)
    if pool.gain is not None:
        expected = expected * pool.gain.double()
    assert torch.allclose(pool(queries), expected, atol=1e-12)


def test_a_shared_sheet_is_pooled_before_it_is_split():
    queries = normal(2, 5, 144)
    single, shared = SpatialQuerying(144, 0.2), SpatialQuerying(144, 0.2, n_heads=8, shared_sheet=True)
    assert torch.equal(shared(queries), single(queries))
    assert not torch.allclose(SpatialQuerying(144, 0.2, n_heads=4)(queries), single(queries), atol=0.01)
    assert torch.equal(SpatialQuerying(144, 0.2, n_heads=1)(queries), single(queries))


def test_a_learned_pool_starts_as_a_disc_and_its_gains_scale_pooled_units():
    queries, disc, learned = normal(5, 100), SpatialQuerying(100, 0.2), SpatialQuerying(100, 0.2, pool="learned")
    assert torch.equal(learned(queries), disc(queries))
    assert [p.shape for p in learned.parameters()] == [(100,)]
    assert not list(disc.parameters())
    learned(queries).square().sum().backward()
    assert (learned.gain.grad.abs() > 0).all()
    with torch.no_grad():
        learned.gain[7] = 3.0
    ratio = learned(queries) / disc(queries)
    assert ratio[:, 7].tolist() == pytest.approx([3.0] * 5)
    assert (ratio[:, 8] == 1).all()


def test_an_open_border_pools_fewer_units_there_only():
    queries = normal(5, 400)
    torus, border = SpatialQuerying(400, 0.05), SpatialQuerying(400, 0.05, wrapped=False)
    scale = torus.pool.max().double() / border.pool.max().double()  # fewer pairs: each weighs a little more
    assert 0.8 < scale < 1
    change = (border(queries) * scale - torus(queries)).abs().amax(dim=0).reshape(20, 20)
    assert change[3:-3, 3:-3].max() < 1e-7  # the radius is 2.5 steps
    assert change[0].min() > 1e-3
    assert change[:, -1].min() > 1e-3


# masks of tokens


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_fused_attention_equals_explicit_softmax_whatever_is_masked(options):
    pool = with_gain(SpatialQuerying(144, 0.2, **options)).double()
    n_heads = pool.n_heads
    queries, keys, values = (normal(2, 6, 144, seed=seed) for seed in range(3))
    real = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]).bool()
    causal = torch.ones(6, 6, dtype=torch.bool).tril()

    def split(units):
        return units.reshape(2, 6, n_heads, -1).transpose(1, 2)

    for visible in (real[:, None, None], causal[None, None], real[:, None, None] & causal):
        fused = attend(split(pool(queries)), split(keys), split(values), attn_mask=visible)
        logits = split(queries @ pool.matrix) @ split(keys).mT / math.sqrt(144 / n_heads)
        weights = torch.softmax(logits.masked_fill(~visible, -math.inf), dim=-1)
        assert torch.allclose(fused, weights @ split(values), atol=1e-12)


def test_padding_and_the_future_never_change_results():
    pool = SpatialQuerying(100, 0.2)
    states, other = normal(1, 6, 100), normal(1, 6, 100, seed=5)
    real = torch.tensor([1, 1, 1, 1, 0, 0]).bool()
    padded = attend(pool(states), states, states, attn_mask=real[None, None])
    changed = torch.where(real[None, :, None], states, other)
    assert torch.equal(attend(pool(changed), changed, changed, attn_mask=real[None, None])[:, :4], padded[:, :4])
    alone = attend(pool(states[:, :4]), states[:, :4], states[:, :4])
    assert torch.allclose(padded[:, :4], alone, atol=1e-13)
    causal = attend(pool(states), states, states, is_causal=True)
    assert torch.allclose(attend(pool(changed), changed, changed, is_causal=True)[:, :4], causal[:, :4], atol=1e-13)
    assert not torch.allclose(causal[:, :3], padded[:, :3], atol=1e-4)


# a layer as a module


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_forward_changes_no_state_and_the_state_restores_the_layer(options):
    one, other = with_gain(SpatialQuerying(144, 0.2, **options)), SpatialQuerying(144, 0.2, **options)
    queries = normal(4, 144, dtype=torch.float32)
    before = {name: value.clone() for name, value in one.state_dict().items()}
    expected = one(queries)
    assert all(torch.equal(before[name], value) for name, value in one.state_dict().items())
    assert torch.equal(other(queries), expected) == (one.gain is None)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(queries), expected)
    assert "fraction=0.2" in repr(one)
    assert "pool" in before


def test_pool_follows_the_module_to_another_type_and_device():
    pool = SpatialQuerying(100, 0.2, pool="learned")
    assert pool.double()(normal(4, 100)).dtype == torch.float64
    assert pool.to(torch.bfloat16)(normal(4, 100).bfloat16()).dtype == torch.bfloat16
    moved = pool.to("meta")
    assert {tensor.device.type for tensor in moved.state_dict().values()} == {"meta"}
    assert moved(torch.empty(4, 100, device="meta", dtype=torch.bfloat16)).device.type == "meta"
    with torch.device("meta"):
        assert SpatialQuerying(100, 0.2).pool.is_meta


def test_heads_that_do_not_fit_are_answered_with_what_would():
    with pytest.raises(InputError, match="5 heads do not divide 144 units equally; nearest number of heads: 4"):
        SpatialQuerying(144, 0.2, n_heads=5)
    with pytest.raises(InputError, match="heads do not divide"):
        SpatialQuerying(144, 0.2, n_heads=0)
    with pytest.raises(InputError, match=r"144 / 2 = 72; nearest: 64 \(128 units in all\).*shared_sheet=True"):
        SpatialQuerying(144, 0.2, n_heads=2)
    with pytest.raises(InputError, match=r"nearest: 196$"):  # a shared sheet needs a square of all units
        SpatialQuerying(200, 0.2, n_heads=2, shared_sheet=True)
    assert SpatialQuerying(200, 0.2, n_heads=2)(normal(3, 200)).shape == (3, 200)
    with pytest.raises(InputError, match="36 units in their last axis, this pool has 144"):
        SpatialQuerying(144, 0.2, n_heads=4)(normal(2, 4, 7, 36))


@pytest.mark.parametrize("shape", [(0, 7, 64), (2, 0, 64), (0, 64)])
@pytest.mark.parametrize("n_heads", [1, 4])
def test_an_empty_batch_gives_an_empty_batch(shape, n_heads):
    assert SpatialQuerying(64, 0.2, n_heads=n_heads)(torch.zeros(shape)).shape == shape


def test_a_pool_of_another_recipe_is_refused():
    with pytest.raises(RuntimeError, match=r"pool is of another recipe than this layer's \(d=64, fraction=0.3"):
        SpatialQuerying(64, 0.3).load_state_dict(SpatialQuerying(64, 0.1).state_dict())
    SpatialQuerying(64, 0.3).load_state_dict(SpatialQuerying(64, 0.3).state_dict())


@pytest.mark.parametrize(
    ("d", "fraction", "message"),
    [
        (-4, 0.1, "whole number of at least 1, got -4"),
        (64.0, 0.1, "whole number of at least 1, got 64.0"),
        (64, None, "fraction is a number"),
        (64, "0.1", "fraction is a number"),
        (64, True, "fraction is a number"),
    ],
)
def test_arguments_of_the_wrong_kind_are_told(d, fraction, message):
    with pytest.raises(InputError, match=message):
        SpatialQuerying(d, fraction)
