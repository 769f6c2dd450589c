"""The search for the least loss against all losses, and inner folds left out of one decomposition against refits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from topobrain import stats
from topobrain.stats.ridge import engine, losses, memory, nested_ridge, penalty_search, running, selection, spectrum
from topobrain.stats.ridge.penalty_search import PILOT, LongSearch, PenaltySearch
from topobrain.stats.ridge.skeleton import make_skeleton

GRID = np.logspace(-1, 6, 20)
N_VOXELS = 2600
LONG = np.logspace(-1, 6, 100)
CURVES = np.logspace(-1, 6, 20)[:, None]


class Curves:
    """Known losses (penalty, voxel) as a tile that counts what it is asked for."""

    def __init__(self, values):
        self.values, self.asked = values, np.zeros(values.shape, dtype=bool)

    def at(self, numbers, columns=None):
        rows = np.arange(len(self.values)) if numbers is None else np.array(numbers)
        voxels = np.arange(self.values.shape[1]) if columns is None else columns.numpy()
        self.asked[np.ix_(rows, voxels)] = True
        return torch.from_numpy(self.values[np.ix_(rows, voxels)])


def ordinary(n, seed=0, spectrum=None):
    """Losses of ridge in ten directions: bias plus variance, exactly what a fit would have on average."""
    rng = np.random.default_rng(seed)
    s = np.geomspace(0.3, 1e5, 10)
    signal = rng.exponential(size=(10, n)) * (np.ones((10, 1)) if spectrum is None else spectrum[:, None])
    signal *= rng.uniform(0, 0.6, n) / signal.sum(axis=0)
    noise = 1 - signal.sum(axis=0)
    shrunk = CURVES / (CURVES + s)
    return shrunk**2 @ signal + (1 + 0.08 * ((1 - shrunk) ** 2).sum(axis=1, keepdims=True)) * noise


def test_few_losses_are_computed_and_the_least_is_found():
    search = PenaltySearch.learn(ordinary(PILOT), 1.0)
    curves = Curves(ordinary(3000, seed=1))
    found, _ = search.run(curves)
    assert np.array_equal(found.argmin(axis=0), curves.values.argmin(axis=0))
    assert np.array_equal(np.isfinite(found), curves.asked)
    assert np.array_equal(found[curves.asked], curves.values[curves.asked])
    assert curves.asked.sum(axis=0).mean() < 10


@pytest.mark.parametrize("kind", ["two valleys", "another spectrum", "rising", "a step"])
def test_voxels_unlike_the_pilots_have_all_their_losses_computed(kind):
    """Planted curves that no pilot voxel has (their least loss lies where the pilots' curves predict none)."""
    search = PenaltySearch.learn(ordinary(PILOT), 1.0)
    step = np.arange(20.0)[:, None]
    strange = {
        "two valleys": 1 - 0.3 * np.exp(-((step - 2) ** 2)) - 0.35 * np.exp(-((step - 17) ** 2)),
        "another spectrum": ordinary(1, seed=3, spectrum=np.r_[np.ones(1), np.zeros(9)]) * 2,
        "rising": 0.001 + 0.05 * step,
        "a step": np.full((20, 1), 1.0) - 0.3 * (step == 19),
    }[kind]
    curves = Curves(np.hstack([ordinary(500, seed=1), strange]))
    found, _ = search.run(curves)
    assert np.array_equal(found.argmin(axis=0), curves.values.argmin(axis=0))
    assert curves.asked[:, -1].all()
    assert curves.asked[:, :-1].sum(axis=0).mean() < 10


def test_losses_that_cannot_be_predicted_are_not_searched():
    assert PenaltySearch.learn(np.random.default_rng(0).standard_normal((20, PILOT)), 1.0) is None


def data(shape, seed=0):
    """Features with a steep spectrum; voxels with much, little and no signal, and some with no noise at all."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal(shape) * np.arange(1, shape[1] + 1) ** -0.5 * 10 + 3
    Y = X @ rng.standard_normal((shape[1], N_VOXELS)) * np.where(rng.random((1, N_VOXELS)) < 0.9, 1, 0)
    Y = Y / np.maximum(Y.std(axis=0), 1) * rng.uniform(0, 2, N_VOXELS) + rng.standard_normal(Y.shape)
    weak = X[:, -1:] * 30
    Y[:, 7], Y[:, 1311:1313] = weak[:, 0], X[:, :1] + [0.0, 1e-3] * rng.standard_normal((shape[0], 2))
    outer = list(stats.make_folds(range(shape[0]), 3))
    inner = [list(stats.make_folds(range(len(train)), 4)) for train, _ in outer]
    return X, Y, {"alphas": GRID, "outer": outer[:1], "inner": inner[:1]}


@pytest.mark.parametrize("shape", [(120, 30), (90, 75), (75, 150)], ids=["primal", "as many", "dual"])
@pytest.mark.parametrize("precision", ["float64", "mixed"])
@pytest.mark.parametrize("how", ["triangular", "rotated", "loo"])
def test_searched_fits_equal_fits_with_every_loss(shape, precision, how, monkeypatch):
    X, Y, options = data(shape)
    monkeypatch.setattr(memory, "needs_triangles", lambda *_: None)
    if how != "loo":
        monkeypatch.setattr(selection, "cheaper_route", lambda *_: how)
    options |= {"selection": "loo" if how == "loo" else "kfold", "precision": precision}
    searched = nested_ridge(X, Y, **options)
    assert float(searched.route.split()[-1].split("/")[0]) < 12
    monkeypatch.setattr(selection, "FEWEST_VOXELS", 10**9)
    every = nested_ridge(X, Y, **options)
    close = 1e-9 if precision == "float64" else 1e-5
    assert np.allclose(searched.loss, every.loss, rtol=close)
    same = searched.alpha == every.alpha
    assert same.all() if precision == "float64" else same.mean() > 0.999
    assert np.allclose(searched.r[same], every.r[same], atol=1e-9)


def test_a_search_gives_the_same_bits_on_any_number_of_threads(monkeypatch):
    X, Y, options = data((90, 75))
    monkeypatch.setattr(running, "SMALL_FLOPS", 0)
    once, again = (nested_ridge(X, Y, precision="mixed", threads=n, **options) for n in (1, 2))
    assert np.array_equal(once.alpha, again.alpha)
    assert np.array_equal(once.loss, again.loss)
    assert np.array_equal(once.r, again.r)


@pytest.mark.parametrize("shape", [(60, 20), (45, 43), (40, 90)])
@pytest.mark.parametrize("alpha", [0.01, 1.0, 1e4])
def test_residuals_of_rows_left_out_equal_refits(shape, alpha):
    """One decomposition of all rows against a fit of each fold's training rows, the intercept refitted."""
    rng = np.random.default_rng(1)
    X, y = rng.standard_normal(shape) + 2, rng.standard_normal(shape[0])
    centred = X - X.mean(axis=0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    keep = size > 1e-10
    whole = engine.Basis(torch.from_numpy(size[keep] ** 2), torch.empty(0), torch.from_numpy(left[:, keep]))
    cuts = np.split(rng.permutation(shape[0]), [7, 18, 31])  # uneven, not contiguous
    splits = tuple((torch.from_numpy(np.setdiff1d(np.arange(shape[0]), cut)), torch.from_numpy(cut)) for cut in cuts)
    inner = losses.Inner(splits, list, 0, False, np.arange(shape[0]), torch.float64, whole=whole)
    found = losses.left_out_operator(inner, whole, losses.outside(whole, torch.float64), alpha) @ torch.from_numpy(y)
    wanted = [y[held] - Ridge(alpha).fit(X[known], y[known]).predict(X[held]) for known, held in splits]
    assert np.allclose(found.numpy(), np.concatenate(wanted), rtol=1e-8, atol=1e-10)


def decompositions(monkeypatch, X, Y, **options):
    sides, eigh = [], spectrum.eigh
    with monkeypatch.context() as patch:
        patch.setattr(spectrum, "eigh", lambda gram: sides.append(len(gram)) or eigh(gram))
        fit = nested_ridge(X, Y, threads=1, **options)
    return sides, fit


def few(shape=(75, 150), n=40, seed=6):
    """Few voxels, none with a loss so small that it is computed anew."""
    X, Y, options = data(shape)
    return X, Y[:, 20 : 20 + n] + np.random.default_rng(seed).standard_normal((shape[0], n)), options


def test_inner_folds_need_no_decomposition_where_one_of_all_rows_tells(monkeypatch):
    X, Y, options = few(n=1500)
    sides, fit = decompositions(monkeypatch, X, Y, precision="float64", **options)
    assert sides == [50]
    monkeypatch.setattr(losses, "left_out_operator", lambda *_: None)
    sides, every = decompositions(monkeypatch, X, Y, precision="float64", **options)
    assert len(sides) == 5
    assert np.array_equal(fit.alpha, every.alpha)
    assert np.allclose(fit.loss, every.loss, rtol=1e-9)


@pytest.mark.parametrize("change", ["gap", "standardize", "a row far out"])
def test_inner_folds_are_decomposed_where_they_are_not_left_out_of_the_same_fit(change, monkeypatch):
    X, Y, options = few()
    if change == "gap":
        train = options["outer"][0][0]
        options["inner"] = [list(stats.make_folds(range(len(train)), 4, gap=2))]
    elif change == "standardize":
        options["standardize"] = True
    else:
        X[options["outer"][0][0][3]] *= 1e5
    assert len(decompositions(monkeypatch, X, Y, precision="float64", **options)[0]) >= 5


def all_losses(X, Y, options):
    """Mean squared errors (penalty, voxel) of the first outer fold, each inner fold by its own singular values."""
    train = options["outer"][0][0]
    X, Y, total = X[train], Y[train], 0.0
    for known, held in options["inner"][0]:
        x, y = X[known].mean(axis=0), Y[known].mean(axis=0)
        left, size, right = np.linalg.svd(X[known] - x, full_matrices=False)
        keep = size > 1e-11 * size[0]
        left, size, right = left[:, keep], size[keep], right[keep]
        shrink = size / (size**2 + options["alphas"][:, None])
        weights = right.T @ (shrink[:, :, None] * (left.T @ (Y[known] - y)))
        total = total + (((X[held] - x) @ weights - (Y[held] - y)) ** 2).sum(axis=1)
    return total / len(train)


def awkward(kind):
    X, Y, options = few()
    rng, train = np.random.default_rng(2), options["outer"][0][0]
    if kind.startswith("rows"):
        X[train[[3, 40]]] *= float(kind.split()[1])
    elif kind == "low rank":
        X = rng.standard_normal((75, 12)) @ rng.standard_normal((12, 150))
    elif kind == "repeated images":
        X = X[np.repeat(np.arange(15), 5)]
    elif kind == "weak outside one fold":
        X = rng.standard_normal((75, 10)) @ rng.standard_normal((10, 150))
        extra = rng.standard_normal(75) * 0.01
        extra[train[options["inner"][0][1][1]]] *= 100
        X += np.outer(extra, rng.standard_normal(150))
    return X, Y, options


@pytest.mark.parametrize("route", ["triangular", "rotated"])
@pytest.mark.parametrize("precision", ["float64", "mixed"])
@pytest.mark.parametrize(
    ("kind", "grid"),
    [("rows 1e2", GRID), ("rows 1e2", LONG), ("rows 1e4", GRID), ("low rank", GRID), ("low rank", LONG),
     ("repeated images", LONG), ("weak outside one fold", GRID), ("weak outside one fold", LONG),
     ("no penalty", np.r_[0.0, GRID])],
)  # fmt: skip
def test_awkward_features_have_the_losses_of_their_folds(kind, grid, precision, route, monkeypatch):
    """Rows far out, ranks below the number of rows, directions that one fold carries."""
    X, Y, options = awkward(kind)
    options["alphas"] = grid
    monkeypatch.setattr(memory, "needs_triangles", lambda *_: None)
    monkeypatch.setattr(selection, "cheaper_route", lambda *_: route)
    found = nested_ridge(X, Y, precision=precision, **options)
    assert route in found.route
    truth = all_losses(X, Y, options)
    at = np.searchsorted(grid, found.alpha[0] * (1 - 1e-9))
    variance = Y[options["outer"][0][0]].var(axis=0)
    there = truth[at, np.arange(Y.shape[1])]
    near = 1e-8 if precision == "float64" else 5e-5
    assert ((there - truth.min(axis=0)) / variance).max() < near
    assert np.allclose(found.loss[0], there, rtol=near, atol=near * variance.min())


@pytest.mark.parametrize("left", [{"leverage", "check"}, {"leverage"}, {"check"}, set()])
def test_either_guard_finds_a_voxel_unlike_the_pilots(left, monkeypatch):
    search = PenaltySearch.learn(ordinary(PILOT), 1.0)
    step = np.arange(20.0)[:, None]
    strange = 1 - 0.3 * np.exp(-((step - 2) ** 2)) - 0.35 * np.exp(-((step - 17) ** 2))
    if "leverage" not in left:
        search = replace(search, farthest=np.inf)
    if "check" not in left:
        monkeypatch.setattr(PenaltySearch, "wrong", lambda *_: np.zeros(1, dtype=bool))
    curves = Curves(strange)
    search.run(curves)
    assert curves.asked.all() == bool(left)


def test_losses_of_voxels_without_noise_keep_their_digits():
    X, Y, options = data((75, 150))
    Y[:, ::50] = X[:, :2] @ np.random.default_rng(2).standard_normal((2, Y[:, ::50].shape[1]))
    Y[:, ::50] += 1e-3 * Y[:, 1::50]
    exact = nested_ridge(X, Y, precision="float64", **options)
    single = nested_ridge(X, Y, precision="mixed", **options)
    assert np.median(exact.loss[0, ::50] / exact.variance[0, ::50]) < 0.04
    assert np.allclose(single.loss, exact.loss, rtol=1e-4)


@pytest.mark.parametrize("shape", [(120, 30), (75, 150)], ids=["primal", "dual"])
def test_a_long_grid_is_searched_between_a_few_of_its_penalties(shape, monkeypatch):
    X, Y, options = data(shape)
    options |= {"alphas": LONG, "precision": "mixed"}
    searched = nested_ridge(X, Y, **options)
    tried = float(searched.route.split()[-1].split("/")[0])
    monkeypatch.setattr(selection, "FEWEST_VOXELS", 10**9)
    every = nested_ridge(X, Y, **options)
    nodes = float(every.route.split()[-1].split("/")[0])
    assert tried < 0.8 * nodes < 30
    assert np.allclose(searched.loss / searched.variance, every.loss / every.variance, atol=2e-5, rtol=1e-5)
    assert (searched.alpha == every.alpha).mean() > 0.97  # near ties: a step of the grid is a sixth
    assert np.quantile(np.abs(searched.r - every.r), 0.99) < 1e-3


def long_curves(n, seed):
    rng = np.random.default_rng(seed)
    s = np.geomspace(0.3, 1e5, 10)
    signal = rng.exponential(size=(10, n))
    signal *= rng.uniform(0.05, 0.6, n) / signal.sum(axis=0)
    shrunk = LONG[:, None] / (LONG[:, None] + s)
    return shrunk**2 @ signal + (1 + 0.08 * ((1 - shrunk) ** 2).sum(axis=1, keepdims=True)) * (1 - signal.sum(axis=0))


def interpolated():
    """Nodes, and the weights that give the losses at all penalties from them."""
    skeleton = make_skeleton(LONG, 0.3, 1e5, tolerance=1e-6)
    assert skeleton.weights is not None
    return skeleton.rows, skeleton.weights


def test_the_least_of_a_long_grid_is_found_from_a_third_of_the_nodes():
    rows, weights = interpolated()
    search = LongSearch.learn(long_curves(PILOT, 0)[rows], 1.0, rows, weights)
    truth = long_curves(2000, 1)
    curves = Curves(truth[rows])
    found, _ = search.run(curves)
    best = truth[found.argmin(axis=0), np.arange(2000)]
    assert (best - truth.min(axis=0)).max() < 1e-5
    assert np.abs(found.min(axis=0) - truth.min(axis=0)).max() < 2e-5
    assert curves.asked.sum(axis=0).mean() < 0.6 * len(rows)


def test_a_strange_voxel_of_a_long_grid_has_all_nodes_computed():
    rows, weights = interpolated()
    search = LongSearch.learn(long_curves(PILOT, 0)[rows], 1.0, rows, weights)
    shrunk = LONG[:, None] / (LONG[:, None] + 0.3)
    truth = np.hstack([long_curves(50, 1), shrunk**2 * 2])
    curves = Curves(truth[rows])
    found, _ = search.run(curves)
    assert curves.asked[:, -1].all()
    assert np.allclose(found[:, -1], truth[:, -1], atol=1e-5)


def test_cells_that_miss_are_given_up(monkeypatch):
    rows, weights = interpolated()
    monkeypatch.setattr(penalty_search, "CELL_ERROR", 1e-14)
    search = LongSearch.learn(long_curves(PILOT, 0)[rows], 1.0, rows, weights)
    assert all(cell.weights is None for cell in search.cells)
    curves = Curves(long_curves(40, 1)[rows])
    assert np.allclose(search.run(curves)[0], weights @ curves.values)
