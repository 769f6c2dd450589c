import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d
from scipy.stats import kstest

from topobrain._checks import InputError, UnknownNameError
from topobrain.stats.folds import Folds, make_folds
from topobrain.stats.shared_components import component_null, component_orders, held_out_components, null
from topobrain.stats.shared_components.eigenvectors import BLOCK, DENSE, LeadingEigenvectors


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def study(n, p, v, seed=0):
    """Responses with a few strong dimensions each, one of them shared."""
    shared = noise(n, 1, seed=seed)
    X, Y = (
        np.hstack([shared, noise(n, 5, seed=seed + i)]) @ noise(6, k, seed=seed + 2 + i)
        + noise(n, k, seed=seed + 4 + i)
        for i, k in ((0, p), (1, v))
    )
    return X + 5, 2 * Y - 7


@pytest.mark.parametrize("scheme", ["stimuli", "circular"])
@pytest.mark.parametrize("method", ["pls", "cca", "pca"])
@pytest.mark.parametrize("shape", [(40, 7, 30), (40, 30, 7), (40, 60, 50), (40, 50, 60)])
@pytest.mark.slow
def test_null_equals_a_loop_of_permuted_fits(shape, method, scheme):
    X, Y = study(*shape)
    folds = make_folds(range(40), 4)
    orders = component_orders(40, folds, 6, scheme=scheme, seed=3)
    how = {"method": method, "regularization": 0.5, "scale": True}
    expected = np.stack([held_out_components(X, Y[order], folds, 4, **how).r for order in orders])
    found = component_null(X, Y, folds, 4, **how, n_permutations=6, scheme=scheme, seed=3)
    assert np.abs(found - expected).max() < 1e-7


@pytest.mark.parametrize("method", ["pls", "cca"])
@pytest.mark.parametrize("shape", [(210, 160, 700), (210, 700, 160), (190, 300, 250)])
@pytest.mark.slow
def test_null_by_products_equals_a_loop_of_permuted_fits(shape, method):
    X, Y = study(*shape)
    folds = make_folds(range(shape[0]), 3)
    orders = component_orders(shape[0], folds, 3, seed=3)
    expected = np.stack([held_out_components(X, Y[order], folds, 5, method=method, scale=False).r for order in orders])
    found = component_null(X, Y, folds, 5, method=method, scale=False, n_permutations=3, seed=3)
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("gap", [0, 2])
@pytest.mark.parametrize("scheme", ["stimuli", "circular"])
def test_orders_keep_every_fold(gap, scheme):
    folds = make_folds(range(23), 4, gap=gap)
    orders = component_orders(23, folds, 50, scheme=scheme, seed=1)
    for train, test in folds:
        for rows in (train, test):
            assert (np.sort(orders[:, rows], axis=1) == rows).all()
    assert np.array_equal(orders, component_orders(23, folds, 50, scheme=scheme, seed=1))
    assert not np.array_equal(orders, component_orders(23, folds, 50, scheme=scheme, seed=2))
    moved = (orders != np.arange(23)).mean(axis=1)
    assert moved.mean() > 0.4
    assert len(np.unique(orders, axis=0)) > 40


def test_circular_orders_are_shifts_of_each_block():
    folds = make_folds(range(20), 2)
    orders = component_orders(20, folds, 200, scheme="circular", seed=1)
    shifts = (orders - np.arange(20)) % 10
    assert (shifts[:, :10] == shifts[:, :1]).all()
    assert (shifts[:, 10:] == shifts[:, 10:11]).all()
    assert set(shifts[:, 0]) == set(range(10))  # staying in place is one of them
    assert abs(np.corrcoef(shifts[:, 0], shifts[:, 10])[0, 1]) < 0.3


def test_permutations_are_all_equally_likely():
    folds = make_folds(range(6), 2)
    orders = component_orders(6, folds, 6000, seed=4)
    codes = orders[:, :3] @ [9, 3, 1]
    _, counts = np.unique(codes, return_counts=True)
    assert len(counts) == 6
    assert np.abs(counts - 1000).max() < 150


def p_values(method, n_sets, n_units, n_voxels, scheme="stimuli"):
    """p of the mean score over folds of each component, and family-wise p, for unrelated responses."""
    folds, p = make_folds(range(36), 4), []
    for seed in range(n_sets):
        X, Y = noise(36, n_units, seed=2 * seed), noise(36, n_voxels, seed=2 * seed + 1)
        X[:, 0] *= 3
        r = held_out_components(X, Y, folds, 2, method=method).r.mean(axis=0)
        draws = component_null(X, Y, folds, 2, method=method, n_permutations=49, scheme=scheme, seed=seed).mean(axis=1)
        reached = (draws >= r - 1e-9).sum(axis=0)
        largest = (draws.max(axis=1) >= r.max() - 1e-9).sum()
        p.append((1 + np.append(reached, largest)) / 50)
    return np.array(p)


@pytest.mark.parametrize(("method", "n_voxels"), [("pls", 4), ("pls", 12), ("cca", 12), ("pca", 12)])
@pytest.mark.slow
def test_p_is_uniform_where_nothing_is_shared(method, n_voxels):
    p = p_values(method, 100, 6, n_voxels)
    ties = np.random.default_rng(0).random(p.shape) / 50  # from steps of 1/50 to a continuum
    for column in (p - ties).T:
        assert kstest(column, "uniform").pvalue > 0.003
    assert (p[:, 2] <= 0.06).mean() < 0.13


@pytest.mark.slow
def test_scores_of_folds_vary_together_under_permutation_as_under_independence():
    """Folds share training stimuli: orders drawn fold by fold would make mean scores vary too little."""
    folds = make_folds(range(60), 5)
    real, drawn, apart = [], [], []
    for seed in range(100):
        X, Y = noise(60, 1, seed=2 * seed), noise(60, 8, seed=2 * seed + 1)
        real.append(held_out_components(X, Y, folds, 1).r[:, 0])
        draws = component_null(X, Y, folds, 1, n_permutations=20, seed=seed)[:, :, 0]
        drawn.append(draws)
        apart.append(np.stack([np.roll(draws[:, k], k) for k in range(5)], axis=1))
    spread = np.mean(real, axis=1).std()
    assert np.concatenate(drawn).mean(axis=1).std() == pytest.approx(spread, rel=0.2)
    assert np.concatenate(apart).mean(axis=1).std() < 0.85 * np.concatenate(drawn).mean(axis=1).std()


@pytest.mark.slow
def test_circular_orders_hold_for_slow_responses_where_permuted_stimuli_do_not():
    folds, wrong = make_folds(range(120), 4, gap=6), {}
    for scheme in ("stimuli", "circular"):
        reached = []
        for seed in range(40):
            X, Y = (gaussian_filter1d(noise(120, k, seed=2 * seed + k % 2), 3, axis=0) for k in (4, 7))
            r = held_out_components(X, Y, folds, 2).r.mean(axis=0).max()
            draws = component_null(X, Y, folds, 2, n_permutations=39, scheme=scheme, seed=seed).mean(axis=1).max(axis=1)
            reached.append((draws >= r - 1e-9).sum())
        wrong[scheme] = ((1 + np.array(reached)) / 40 <= 0.1).mean()
    assert wrong["stimuli"] > 0.3
    assert wrong["circular"] < 0.2


@pytest.mark.parametrize("method", ["pls", "cca", "pca"])
@pytest.mark.slow
def test_independent_responses_lie_in_the_null_band_and_shared_ones_above(method):
    folds = make_folds(range(120), 4)
    X = noise(120, 30)
    X[:, :10] += 2 * noise(120, 1, seed=1)
    alone = noise(120, 60, seed=2)
    both = alone + 0.7 * X[:, :1] * noise(1, 60, seed=3)
    for Y, found in ((alone, False), (both, True)):
        r = held_out_components(X, Y, folds, 2, method=method).r.mean(axis=0)
        draws = component_null(X, Y, folds, 2, method=method, n_permutations=199, seed=5).mean(axis=1)
        low, high = np.quantile(draws, [0.005, 0.995], axis=0)
        assert ((r > low) & (r < high)).all() != found
        assert (r[0] > draws[:, 0].max()) == found


def test_layers_get_the_same_orders_whatever_their_width():
    """Copies of a layer, wider and narrower, have the same null: the maximum over layers is one permutation's."""
    X, Y = study(40, 7, 12)
    folds = make_folds(range(40), 4)
    one = component_null(X, Y, folds, 3, n_permutations=9, seed=6)
    other = component_null(np.repeat(X, 10, axis=1), Y, folds, 3, n_permutations=9, seed=6)
    assert np.abs(one - other).max() < 1e-8


def test_memory_bounds_batches_and_blocks_only(monkeypatch):
    X, Y = study(210, 160, 400)
    folds = make_folds(range(210), 3)
    plain = component_null(X, Y, folds, 3, n_permutations=4, seed=1)
    monkeypatch.setattr(null, "BATCH_BYTES", 1)  # one permutation at a time
    bounded = component_null(
        X.astype(np.float32), Y.astype(np.float32), folds, 3, n_permutations=4, max_memory="2 MB", seed=1
    )
    assert np.abs(plain - bounded).max() < 1e-4
    with pytest.raises(InputError, match="140 training and 70 test stimuli need"):
        component_null(X, Y, folds, 3, n_permutations=4, max_memory="100 kB")


def test_bad_orders_are_told():
    folds = make_folds(range(12), 3)
    with pytest.raises(InputError, match="n_permutations"):
        component_orders(12, folds, 0)
    with pytest.raises(UnknownNameError, match="circular"):
        component_orders(12, folds, 5, scheme="circle")
    single = Folds(tuple((np.delete(np.arange(6), row), np.array([row])) for row in range(6)), "given")
    with pytest.raises(InputError, match="change places"):
        component_orders(6, single, 5)


def products(matrices):
    def apply(numbers, rows):
        return rows @ matrices[numbers]

    return apply


def spectra(size, count, decay):
    turns = np.stack([np.linalg.qr(noise(size, size, seed=seed))[0] for seed in range(count)])
    return turns, np.stack([turn * decay @ turn.T for turn in turns])


@pytest.mark.parametrize(
    ("decay", "whole"),
    [(np.arange(1, 181.0) ** -2, 0), (1e3 ** np.linspace(0, -8, 180), 0), (np.linspace(1, 0.9, 180), 3)],
)
def test_eigenvectors_by_products_are_those_of_the_matrix(decay, whole):
    turns, matrices = spectra(180, 3, decay)
    solver = LeadingEigenvectors(180, 6)
    assert solver.by_products
    values, vectors = solver.find(products(matrices), 3)
    assert solver.n_whole == whole  # close eigenvalues do not converge and are solved whole
    assert np.allclose(values, decay[:6], rtol=1e-8)
    along = np.abs(np.einsum("okd,odk->ok", vectors, turns[:, :, :6]))
    assert along.min() > 1 - 1e-9


def test_operators_of_low_rank_have_eigenvalues_of_zero():
    decay = np.zeros(180)
    decay[:3] = 3, 2, 1
    turns, matrices = spectra(180, 2, decay)
    solver = LeadingEigenvectors(180, 6)
    values, vectors = solver.find(products(matrices), 2)
    assert solver.n_whole == 0  # directions made of rounding stay orthogonal to those found
    assert np.allclose(values, decay[:6], atol=1e-10)
    assert np.allclose(np.abs(np.einsum("okd,odk->ok", vectors[:, :3], turns[:, :, :3])), 1)


def test_after_a_batch_without_success_operators_are_solved_whole():
    _, matrices = spectra(180, 2, np.linspace(1, 0.9, 180))
    solver, calls = LeadingEigenvectors(180, 6), []

    def apply(numbers, rows):
        calls.append(rows.shape)
        return rows @ matrices[numbers]

    first = solver.find(apply, 2)
    assert len(calls) > 3
    calls.clear()
    second = solver.find(apply, 2)
    assert calls == [(1, 180, 180)] * 2
    assert np.allclose(first[0], second[0])
    assert solver.n_whole == 4


def test_small_operators_and_many_components_are_solved_whole():
    assert not LeadingEigenvectors(DENSE, 2).by_products
    assert not LeadingEigenvectors(DENSE + 2 * BLOCK, DENSE // 3).by_products
    decay = np.arange(20, 0, -1.0)
    _, matrices = spectra(20, 2, decay)
    values, _ = LeadingEigenvectors(20, 20).find(products(matrices), 2)
    assert np.allclose(values, decay)
