"""Nested cross-validation against scikit-learn and himalaya, its routes against each other, and what may not matter."""

import numpy as np
import pytest
import torch
from himalaya.kernel_ridge import KernelRidgeCV
from himalaya.ridge import RidgeCV as HimalayaRidgeCV
from scipy import sparse
from sklearn.linear_model import Ridge
from sklearn.linear_model import RidgeCV as SklearnRidgeCV
from sklearn.preprocessing import StandardScaler

from topobrain import stats
from topobrain._checks import InputError, UnknownNameError
from topobrain.stats.ridge import check_features, nested_ridge, nested_ridge_layers, spectrum
from topobrain.stats.ridge import engine as engine_fold
from topobrain.stats.ridge import losses as engine_losses
from topobrain.stats.ridge import memory as engine_memory
from topobrain.stats.ridge import selection as engine_selection
from topobrain.stats.ridge import skeleton as engine_skeleton
from topobrain.stats.ridge.running import fold_sizes
from topobrain.stats.ridge.spectrum import Accuracy, decompose

ALPHAS = np.logspace(-1, 5, 9)
PRECISIONS = ["float64", "mixed", "float32"]
SHAPES = {"few features": (72, 12), "as many": (63, 50), "many features": (45, 110)}


def problem(shape=(90, 12), n_voxels=7, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal(shape) * rng.uniform(0.3, 3, shape[1]) + rng.standard_normal(shape[1])
    signal = X @ rng.standard_normal((shape[1], n_voxels))
    noise = rng.standard_normal(signal.shape) * np.geomspace(0.3, 8, n_voxels)
    return X, signal / signal.std(axis=0) + noise + 2.0


def folds(n, n_outer=3, n_inner=3, gap=0):
    outer = list(stats.make_folds(range(n), n_outer, gap=gap))
    return {"outer": outer, "inner": [list(stats.make_folds(range(len(a)), n_inner, gap=gap)) for a, _ in outer]}


def fit(X, Y, **options):
    given = {"alphas": ALPHAS, **folds(len(X)), "precision": "float64", "threads": 1, **options}
    return nested_ridge(X, Y, **given)


def by_hand(X, Y, splits, standardize=False, alphas=ALPHAS):
    """Predictions, penalties and losses from one scikit-learn fit a fold and penalty."""

    def predict(train, test, alpha):
        scaler = StandardScaler(with_std=standardize).fit(X[train])
        fitted = Ridge(alpha=alpha).fit(scaler.transform(X[train]), Y[train])
        return fitted.predict(scaler.transform(X[test])).reshape(len(test), -1)

    prediction, alpha, loss = np.full(Y.shape, np.nan), [], []
    for (train, test), inner in zip(splits["outer"], splits["inner"], strict=True):
        error = np.array(
            [sum(((Y[train[v]] - predict(train[t], train[v], a)) ** 2).sum(axis=0) for t, v in inner) for a in alphas]
        ) / sum(len(v) for _, v in inner)
        best = error.argmin(axis=0)
        alpha.append(np.asarray(alphas)[best])
        loss.append(error.min(axis=0))
        for i in np.unique(best):
            prediction[np.ix_(test, best == i)] = predict(train, test, alphas[i])[:, best == i]
    return prediction, np.array(alpha), np.array(loss)


def correlations(prediction, Y, outer):
    return np.array(
        [[np.corrcoef(prediction[test, v], Y[test, v])[0, 1] for v in range(Y.shape[1])] for _, test in outer]
    )


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("standardize", [False, True])
def test_a_nested_fit_equals_one_made_of_scikit_learn_fits(shape, standardize):
    X, Y = problem(shape)
    splits = folds(len(X))
    prediction, alpha, loss = by_hand(X, Y, splits, standardize)
    for precision, exact in (("float64", 1e-9), ("mixed", 1e-5), ("float32", 1e-5)):
        found = fit(X, Y, standardize=standardize, precision=precision)
        assert np.array_equal(found.alpha, alpha)
        assert np.allclose(found.loss, loss, rtol=exact)
        assert np.allclose(found.prediction, prediction, rtol=1e-6, atol=1e-4 if precision == "float32" else 0)
        assert np.allclose(found.r, correlations(prediction, Y, splits["outer"]), atol=1e-5)
        assert found.r.dtype == found.loss.dtype == np.float64
        variance = [Y[train].var(axis=0) for train, _ in splits["outer"]]
        assert np.allclose(found.variance, variance, rtol=1e-12)
    assert len(np.unique(alpha)) > 2


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("alpha", [1e-3, 1.0, 1e4])
def test_predictions_at_a_fixed_penalty_equal_scikit_learns(shape, precision, alpha):
    X, Y = problem(shape)
    found = fit(X, Y, alphas=[alpha], precision=precision)
    for train, test in folds(len(X))["outer"]:
        expected = Ridge(alpha=alpha).fit(X[train], Y[train]).predict(X[test])
        spread = np.abs(found.prediction[test] - expected).max() / expected.std()
        assert spread < (1e-6 if precision != "float32" else 1e-3)
    assert np.isnan(found.loss).all()
    assert (found.edge == 0).all()


@pytest.mark.filterwarnings("ignore:Solving")
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_losses_and_scores_equal_himalayas(shape, precision):
    X, Y = problem(shape)
    splits = folds(len(X))
    found = fit(X, Y, precision=precision)
    for k, ((train, test), inner) in enumerate(zip(*splits.values(), strict=True)):
        X_train, mean = X[train] - X[train].mean(axis=0), X[train].mean(axis=0)
        primal = HimalayaRidgeCV(alphas=ALPHAS, cv=inner, fit_intercept=True).fit(X[train], Y[train])
        dual = KernelRidgeCV(alphas=ALPHAS, cv=inner, fit_intercept=True).fit(X_train, Y[train])
        for peer, rows in ((primal, X[test]), (dual, X[test] - mean)):
            assert np.allclose(found.loss[k], -np.asarray(peer.cv_scores_).ravel(), rtol=1e-5)
            same = np.isclose(found.alpha[k], peer.best_alphas_, rtol=1e-5)
            assert same.all()
            r = correlations(peer.predict(rows), Y[test], [(None, np.arange(len(test)))])[0]
            assert np.allclose(found.r[k], r, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_leave_one_out_equals_scikit_learns(shape, precision):
    X, Y = problem(shape)
    found = fit(X, Y, selection="loo", inner=[()] * 3, precision=precision)
    for k, (train, test) in enumerate(folds(len(X))["outer"]):
        peer = SklearnRidgeCV(alphas=ALPHAS, alpha_per_target=True).fit(X[train], Y[train])
        assert np.allclose(found.alpha[k], peer.alpha_)
        assert np.allclose(found.loss[k], -peer.best_score_, rtol=1e-5)
        assert np.allclose(found.prediction[test], peer.predict(X[test]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_leave_one_out_equals_folds_of_one_stimulus(shape):
    X, Y = problem(shape)
    X, Y = X[:30], Y[:30]
    outer = list(stats.make_folds(range(30), 3))
    inner = [list(stats.make_folds(range(len(a)), len(a))) for a, _ in outer]
    singly = fit(X, Y, outer=outer, inner=inner)
    closed = fit(X, Y, outer=outer, inner=inner, selection="loo")
    assert np.array_equal(singly.alpha, closed.alpha)
    assert np.allclose(singly.loss, closed.loss, rtol=1e-8)


def test_leave_one_out_passes_over_penalties_that_interpolate():
    X, Y = problem((40, 100))
    found = fit(X, Y, alphas=[0.0, 1.0, 100.0], selection="loo", inner=[()] * 3)
    assert found.alpha.min() == 1.0
    assert np.isfinite(found.loss).all()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_gcv_equals_its_formula(shape, precision):
    X, Y = problem(shape)
    found = fit(X, Y, selection="gcv", inner=[()] * 3, precision=precision)
    for k, (train, _) in enumerate(folds(len(X))["outer"]):
        Z, n = X[train] - X[train].mean(axis=0), len(train)
        score = []
        for alpha in ALPHAS:
            hat = np.full((n, n), 1 / n) + Z @ np.linalg.solve(Z.T @ Z + alpha * np.eye(Z.shape[1]), Z.T)
            residual = Y[train] - hat @ Y[train]
            score.append((residual**2).mean(axis=0) / (1 - np.trace(hat) / n) ** 2)
        assert np.array_equal(found.alpha[k], ALPHAS[np.argmin(score, axis=0)])
        assert np.allclose(found.loss[k], np.min(score, axis=0), rtol=1e-7 if precision == "float64" else 1e-4)


@pytest.fixture
def force(monkeypatch):
    """Make the engine take one of its routes."""

    def route(name):
        monkeypatch.setattr(engine_selection, "cheaper_route", lambda *_: name)
        monkeypatch.setattr(engine_memory, "needs_triangles", lambda *_: None)

    return route


@pytest.mark.parametrize("shape", [*SHAPES.values(), (200, 5)])
@pytest.mark.parametrize("selection", ["kfold", "loo"])
@pytest.mark.parametrize("gap", [0, 2])
def test_the_routes_agree(shape, selection, gap, force):
    X, Y = problem(shape)
    splits = folds(len(X), gap=gap)
    fits = {}
    for precision in ("float64", "mixed"):
        for route in ("triangular", "rotated"):
            if (precision, route, selection) == ("mixed", "rotated", "loo"):
                continue  # never taken: it subtracts fitted values in float32
            force(route)
            fits[precision, route] = fit(X, Y, selection=selection, precision=precision, **splits)
            assert route in fits[precision, route].route
    one = fits["float64", "triangular"]
    for (precision, _), other in fits.items():
        assert np.array_equal(other.alpha, one.alpha)
        assert np.allclose(other.loss, one.loss, rtol=1e-9 if precision == "float64" else 1e-5)


def test_folds_that_leave_rows_out_or_repeat_them(force):
    X, Y = problem((60, 20))
    train, test = np.arange(10, 60), np.arange(10)
    inner = [
        (np.arange(5, 30), np.arange(35, 50)),
        (np.r_[20:50, 20:25], np.arange(5)),
        (np.arange(25), np.arange(30, 40)),
    ]
    _, alpha, loss = by_hand(X, Y, {"outer": [(train, test)], "inner": [inner]})
    for route in ("triangular", "rotated"):
        force(route)
        found = fit(X, Y, outer=[(train, test)], inner=[inner])
        assert np.array_equal(found.alpha, alpha)
        assert np.allclose(found.loss, loss, rtol=1e-9)
        assert np.isnan(found.prediction[10:]).all()
        assert np.isfinite(found.prediction[:10]).all()


@pytest.mark.parametrize("spectrum", ["flat", "falling", "steep"])
def test_many_penalties_follow_from_a_few(spectrum, force, monkeypatch):
    rng = np.random.default_rng(1)
    n, p, v = 120, 90, 300
    size = {"flat": np.ones(p), "falling": np.arange(1, p + 1) ** -0.5, "steep": 1.0 / np.arange(1, p + 1)}[spectrum]
    X = 3 * rng.standard_normal((n, p)) * size
    Y = X @ rng.standard_normal((p, v)) / np.sqrt((size**2).sum()) + rng.standard_normal((n, v)) * np.geomspace(
        0.3, 20, v
    )
    grid = np.logspace(-1, 6, 120)
    force("triangular")
    few = fit(X, Y, alphas=grid, precision="mixed")
    count = int(few.route.split()[-1].split("/")[0])
    assert count < 40
    monkeypatch.setattr(
        engine_selection, "make_skeleton", lambda alphas, *_, **__: engine_selection.every_penalty(len(alphas))
    )
    every = fit(X, Y, alphas=grid)
    assert np.allclose(few.loss, every.loss, rtol=1e-5)
    same = few.alpha == every.alpha
    assert same.mean() >= 0.995  # neighbours on so fine a grid differ by less than 1e-5 in loss
    assert np.abs(few.r - every.r)[same].max() < 1e-6
    coarse = {precision: fit(X, Y, alphas=grid[::6], precision=precision) for precision in ("mixed", "float64")}
    assert (coarse["mixed"].alpha == coarse["float64"].alpha).mean() >= 0.999


def test_voxels_without_noise_are_not_interpolated(force):
    rng = np.random.default_rng(2)
    X = rng.standard_normal((100, 20))
    Y = X @ rng.standard_normal((20, 5)) + rng.standard_normal((100, 5)) * [0, 1e-4, 1e-2, 0.1, 3]
    grid = np.logspace(-4, 4, 60)
    exact = fit(X, Y, alphas=grid)
    for route in ("triangular", "rotated"):
        force(route)
        found = fit(X, Y, alphas=grid, precision="mixed")
        assert np.allclose(found.loss[:, 4:], exact.loss[:, 4:], rtol=1e-5)
        assert (np.abs(found.loss - exact.loss) < 1e-6 * exact.variance).all()
        assert np.allclose(found.loss[:, 1:4], exact.loss[:, 1:4], rtol=[0.1, 1e-3, 1e-4], atol=0)
        assert (found.alpha[:, 0] == grid[0]).all()
        assert (found.r[:, 0] > 1 - 1e-9).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("selection", ["kfold", "gcv", "loo"])
def test_offsets_change_no_score(precision, shape, selection):
    X, Y = problem(shape)
    plain = fit(X, Y, precision=precision, selection=selection)
    moved = fit(X + 50, Y + 1000, precision=precision, selection=selection)
    assert np.array_equal(plain.alpha, moved.alpha)
    assert np.abs(plain.r - moved.r).max() < 1e-5
    assert np.allclose(moved.loss, plain.loss, rtol=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_units_of_responses_scale_predictions_only(precision):
    X, Y = problem()
    one = fit(X, Y, precision=precision)
    for unit in (1e-12, 1e12):
        other = fit(X, Y * unit, precision=precision)
        assert np.array_equal(one.alpha, other.alpha)
        assert np.allclose(one.r, other.r, atol=1e-6)
        assert np.allclose(other.loss, one.loss * unit**2, rtol=1e-5)


def test_a_dominating_feature_does_not_blur_the_others():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((120, 60))
    Y = X @ rng.standard_normal((60, 50)) + 4 * rng.standard_normal((120, 50))
    X[:, 0] *= 1e4  # eigenvalues span 1e8: float32 would not resolve the rest
    exact = fit(X, Y)
    for precision in ("mixed", "float32"):
        found = fit(X, Y, precision=precision)
        assert np.array_equal(found.alpha, exact.alpha)
        assert np.allclose(found.r, exact.r, atol=1e-4)
        assert np.allclose(found.loss, exact.loss, rtol=1e-4)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_order_of_rows_inside_folds_changes_nothing(precision):
    X, Y = problem((60, 90))
    splits = folds(60)
    rng = np.random.default_rng(0)
    inner = [[(rng.permutation(a), rng.permutation(b)) for a, b in pairs] for pairs in splits["inner"]]
    one, two = fit(X, Y, precision=precision), fit(X, Y, precision=precision, inner=inner)
    assert np.allclose(one.loss, two.loss, rtol=1e-6)
    assert np.allclose(one.r, two.r, atol=1e-6)
    order = rng.permutation(60)  # the same stimuli in another order, in the same folds
    back = np.argsort(order)
    outer = [(back[a], back[b]) for a, b in splits["outer"]]
    three = fit(X[order], Y[order], precision=precision, outer=outer)
    assert np.allclose(one.r, three.r, atol=1e-6)
    assert np.allclose(one.prediction[order], three.prediction, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("selection", ["kfold", "gcv", "loo"])
def test_missing_and_constant_voxels_are_nan_and_counted(precision, selection):
    X, Y = problem()
    clean = fit(X, Y, precision=precision, selection=selection)
    spoiled = np.insert(Y, [0, 2, 5], 0.1, axis=1)
    spoiled[4, 0], spoiled[:, 3], spoiled[2, 7] = np.nan, 0.1, np.inf
    bad, good = [0, 3, 7], [1, 2, 4, 5, 6, 8, 9]
    found = fit(X, spoiled, precision=precision, selection=selection)
    assert found.n_unusable == 3
    for name in ("prediction", "r", "alpha", "loss", "variance", "edge"):
        assert np.isnan(getattr(found, name)[:, bad]).all(), name
        assert np.allclose(getattr(found, name)[:, good], getattr(clean, name), rtol=1e-5, atol=1e-6), name


def test_a_voxel_constant_in_training_or_test_rows():
    X, Y = problem()
    train, test = folds(90)["outer"][1]
    Y[train, 0], Y[test, 1] = 0.1, 0.3
    found = fit(X, Y)
    assert found.n_unusable == 1
    assert np.isnan(found.r[:, 0]).all()
    assert np.isnan(found.r[1, 1])
    assert np.isfinite(np.delete(found.r[:, 1], 1)).all()
    assert np.isfinite(found.prediction[:, 1]).all()


def test_a_run_of_missing_rows_that_no_fold_uses_is_no_harm():
    X, Y = problem()
    outer = [(np.arange(40), np.arange(40, 60)), (np.arange(20, 60), np.arange(20))]
    inner = [list(stats.make_folds(range(40), 3))] * 2
    clean = fit(X, Y, outer=outer, inner=inner)
    Y = Y.copy()
    Y[60:] = np.nan
    found = fit(X, Y, outer=outer, inner=inner)
    assert found.n_unusable == 0
    assert np.allclose(found.r, clean.r)
    assert np.isnan(found.prediction[60:]).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("shape", [(60, 8), (40, 60)])
def test_constant_duplicated_and_dependent_features(precision, standardize, shape):
    X, Y = problem(shape)
    plain = fit(X, Y, standardize=standardize, precision=precision)
    constant = np.column_stack([np.full(len(X), 0.1), X, np.zeros(len(X)), np.full(len(X), 1e6 + 1 / 3)])
    found = fit(constant, Y, standardize=standardize, precision=precision)
    assert np.array_equal(found.alpha, plain.alpha)
    assert np.allclose(found.r, plain.r, atol=1e-5)
    twice = fit(np.hstack([X, X]), Y, alphas=2 * ALPHAS, standardize=standardize, precision=precision)
    assert np.array_equal(twice.alpha, 2 * plain.alpha)
    assert np.allclose(twice.r, plain.r, atol=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_features_constant_in_training_predict_the_mean(precision):
    _, Y = problem((40, 3))
    X = np.zeros((40, 3))
    X[30:] = np.random.default_rng(0).standard_normal((10, 3))  # they vary in the last test fold only
    found = fit(X, Y, outer=[(np.arange(30), np.arange(30, 40))], inner=[list(stats.make_folds(range(30), 3))],
                precision=precision)  # fmt: skip
    assert np.allclose(found.prediction[30:], Y[:30].mean(axis=0), rtol=1e-6)
    assert (found.r == 0).all()
    for level in np.random.default_rng(0).uniform(0, 1000, size=(5, 3)):
        nothing = fit(np.tile(level, (40, 1)), Y, precision=precision)
        assert (nothing.r == 0).all()
        assert (nothing.alpha == ALPHAS[0]).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_penalty_is_least_squares(precision):
    X, Y = problem((60, 8))
    found = fit(X, Y, alphas=[0.0], precision=precision)
    train, test = folds(60)["outer"][0]
    Z = np.column_stack([np.ones(len(X)), X])
    expected = Z[test] @ np.linalg.lstsq(Z[train], Y[train])[0]
    assert np.allclose(found.prediction[test], expected, rtol=1e-3 if precision == "float32" else 1e-6)
    assert np.isfinite(fit(*problem((40, 60)), alphas=[0.0, 1.0], precision=precision).loss).all()


@pytest.mark.slow
def test_one_voxel_one_feature_and_one_stimulus_a_fold():
    X, Y = problem((8, 1), 1)
    outer = list(stats.make_folds(range(8), 8))
    inner = [list(stats.make_folds(range(7), 7))] * 8
    found = fit(X, Y, outer=outer, inner=inner)
    assert np.isnan(found.r).all()
    assert np.isfinite(found.prediction).all()
    prediction, alpha, _ = by_hand(X, Y, {"outer": outer, "inner": inner})
    assert np.array_equal(found.alpha, alpha)
    assert np.allclose(found.prediction, prediction)


def test_noise_scores_zero_and_the_data_score_one():
    rng = np.random.default_rng(0)
    Y = rng.standard_normal((200, 400))
    noise = fit(rng.standard_normal((200, 30)), Y)
    assert abs(noise.r.mean()) < 0.02
    itself = fit(Y, Y, alphas=[1e-3, 1.0], selection="kfold")
    assert np.median(itself.r) > 0.5  # 400 features from 150 stimuli: itself among others
    planted = fit(Y[:, :20], Y[:, :20], alphas=[1e-6, 1.0])
    assert planted.r.min() > 1 - 1e-6


def test_edges_of_the_grid_are_told_for_each_voxel_and_fold():
    X, Y = problem((90, 12))
    found = fit(X, Y, alphas=[1.0, 10.0, 100.0])
    assert np.array_equal(found.edge, np.select([found.alpha == 1.0, found.alpha == 100.0], [-1, 1], 0))
    assert set(found.edge.ravel()) >= {-1.0, 1.0}


def test_penalties_may_come_in_any_order():
    X, Y = problem()
    one, two = fit(X, Y), fit(X, Y, alphas=[*ALPHAS[::-1], ALPHAS[2]])
    assert np.array_equal(one.alpha, two.alpha)
    assert np.array_equal(one.prediction, two.prediction)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32])
def test_responses_of_any_type_and_on_disk(dtype, tmp_path):
    X, Y = problem()
    Y = (10 * Y).astype(dtype)
    plain = fit(X, Y.astype(np.float64))
    path = tmp_path / "y.npy"
    np.save(path, Y)
    for given in (Y, np.load(path, mmap_mode="r"), np.asfortranarray(Y), Y[:, ::-1][:, ::-1]):
        assert np.array_equal(fit(X, given).r, plain.r)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("selection", ["kfold", "gcv"])
def test_tensors_give_tensors(precision, selection):
    X, Y = problem()
    plain = fit(X, Y, precision=precision, selection=selection)
    tensors = fit(torch.from_numpy(X), torch.from_numpy(Y), precision=precision, selection=selection)
    for name in ("prediction", "r", "alpha", "loss", "variance", "edge"):
        assert isinstance(getattr(tensors, name), torch.Tensor)
        assert np.array_equal(getattr(tensors, name).numpy(), getattr(plain, name)), name
    assert plain.prediction.dtype == (np.float32 if precision == "float32" else np.float64)
    fitted = stats.ridge_cv(torch.from_numpy(X), torch.from_numpy(Y), alphas=ALPHAS, precision=precision)
    assert isinstance(fitted.predict(torch.from_numpy(X)), torch.Tensor)
    arrays = stats.ridge_cv(X, Y, alphas=ALPHAS, precision=precision)
    assert np.allclose(fitted.predict(torch.from_numpy(X)).numpy(), arrays.predict(X), rtol=1e-4, atol=1e-5)
    assert np.array_equal(fitted.alpha.numpy(), arrays.alpha)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("route", ["triangular", "rotated"])
def test_threads_and_tiles_change_nothing(precision, route, force, monkeypatch):
    from topobrain.stats.ridge import running

    X, Y = problem((80, 40), n_voxels=300)
    force(route)
    one = fit(X, Y, precision=precision)
    again = fit(X, Y, precision=precision)
    monkeypatch.setattr(running, "SMALL_FLOPS", 0.0)
    monkeypatch.setattr(engine_memory, "TILE", 64)
    two = fit(X, Y, precision=precision, threads=2)
    for name in ("prediction", "r", "alpha", "loss"):
        assert np.array_equal(getattr(one, name), getattr(again, name)), name
    assert np.array_equal(one.alpha, two.alpha)
    assert np.abs(one.r - two.r).max() < 1.4e-6
    parts = [fit(X, Y[:, a : a + 100], precision=precision) for a in (0, 100, 200)]
    assert np.array_equal(np.hstack([part.alpha for part in parts]), one.alpha)
    assert np.abs(np.hstack([part.r for part in parts]) - one.r).max() < 1.4e-6


def test_settings_of_torch_are_put_back(monkeypatch):
    X, Y = problem()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        fit(X, Y, threads=2)
        assert torch.get_num_threads() == 3
        generator = nested_ridge_layers({"a": X, "b": X}, Y, alphas=ALPHAS, **folds(90), threads=1)
        next(generator)
        assert torch.get_num_threads() == 3
        monkeypatch.setattr("topobrain.stats.ridge.engine.choose", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fit(X, Y, threads=2)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("precision", ["float64", "mixed"])
def test_layers_equal_fits_of_one_layer(threads, precision, monkeypatch):
    from topobrain.stats.ridge import running

    monkeypatch.setattr(running, "SMALL_FLOPS", 0.0)
    X, Y = problem((80, 40))
    features = {"in": X, "few": X[:, :5], "many": np.hstack([X, X**2, X**3])}
    fits = dict(nested_ridge_layers(features, Y, alphas=ALPHAS, **folds(80), threads=threads, precision=precision))
    assert list(fits) == list(features)
    for layer, found in fits.items():
        alone = fit(features[layer], Y, precision=precision)
        for name in ("prediction", "r", "alpha", "loss"):
            assert np.array_equal(getattr(found, name), getattr(alone, name)), (layer, name)


def test_small_data_are_solved_in_float64_by_themselves():
    X, Y = problem()
    found = fit(X, Y, precision="auto")
    assert found.precision == "float64"
    assert np.array_equal(found.r, fit(X, Y).r)


def test_bad_input_is_told():
    X, Y = problem()
    good = folds(90)
    for alphas in ([], [-1.0], [np.nan]):
        with pytest.raises(InputError, match="alphas must be finite"):
            fit(X, Y, alphas=alphas)
    with pytest.raises(InputError, match="row 3, column 2"):
        fit(np.where((np.arange(90) == 3)[:, None] & (np.arange(12) == 2), np.inf, X), Y)
    with pytest.raises(InputError, match="90 stimuli"):
        fit(X, Y[:-1])
    with pytest.raises(InputError, match="3 outer folds"):
        fit(X, Y, inner=good["inner"][:-1])
    with pytest.raises(InputError, match="outer fold 2 has no inner folds"):
        fit(X, Y, inner=[*good["inner"][:2], []])
    with pytest.raises(InputError, match=r"outer fold 0 names rows outside 0\.\.89"):
        fit(X, Y, outer=[(np.arange(90), np.array([90]))], inner=good["inner"][:1])
    with pytest.raises(InputError, match="none may be empty"):
        fit(X, Y, outer=[(np.arange(90), np.arange(0))], inner=good["inner"][:1])
    with pytest.raises(UnknownNameError, match="mixed"):
        fit(X, Y, precision="single")
    with pytest.raises(UnknownNameError, match="kfold"):
        fit(X, Y, selection="cv")
    with pytest.raises(InputError, match="threads"):
        fit(X, Y, threads=0)
    with pytest.raises(InputError, match="layer 'b' has 80 stimuli"):
        list(nested_ridge_layers({"a": X, "b": X[:80]}, Y, alphas=ALPHAS, **good))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outer": []}, "at least one"),
        ({"outer": None}, "outer must be"),
        ({"inner": None}, "inner must be"),
        ({"inner": [None] * 3}, "must be .train, validation. pairs"),
        ({"inner": [[]] * 3}, "outer fold 0 has no inner folds"),
        ({"outer": [(np.arange(60), np.arange(59, 90))] * 3}, "1 rows in training and in test .row 59"),
        ({"inner": [[(np.arange(30), np.arange(29, 60))]] * 3}, "outer fold 0. 0 has 1 rows in training"),
        ({"outer": [(np.arange(-5, 60), np.arange(60, 90))] * 3}, "outside"),
        ({"threads": float("nan")}, "threads"),
        ({"threads": "two"}, "threads"),
        ({"alphas": ["low", "high"]}, "alphas must be real"),
        ({"alphas": [1 + 1j]}, "alphas must be real"),
        ({"device": "gpu"}, "device 'gpu'"),
        ({"device": "meta"}, "device 'meta'"),
        ({"device": 2.5}, "device"),
    ],
)
def test_options_that_cannot_be_used_are_told(change, message):
    X, Y = problem()
    with pytest.raises(InputError, match=message):
        fit(X, Y, **change)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told():
    with pytest.raises(InputError, match="device 'cuda'"):
        fit(*problem(), device="cuda")


def test_arrays_of_other_things_than_real_numbers_are_told():
    X, Y = problem()
    for bad in (X + 1j, X.astype(str), sparse.csr_matrix(X), torch.tensor(X).to_sparse(), torch.tensor(X) * 1j):
        with pytest.raises(InputError, match="features must be"):
            nested_ridge(bad, Y, alphas=ALPHAS, **folds(90))
    for bad in (Y + 1j, Y.astype(str), sparse.csr_matrix(Y), torch.tensor(Y).to_sparse(), [[1.0], [1.0, 2.0]]):
        with pytest.raises(InputError, match="responses must be"):
            fit(X, bad)


def test_tensors_with_a_gradient_are_taken_without_it():
    X, Y = problem()
    plain = fit(torch.tensor(X), torch.tensor(Y))
    found = fit(torch.tensor(X, requires_grad=True), torch.tensor(Y, requires_grad=True), alphas=torch.tensor(ALPHAS))
    assert torch.equal(found.prediction, plain.prediction)
    assert not found.prediction.requires_grad
    assert np.array_equal(check_features(torch.tensor(X, requires_grad=True)), X)


@pytest.mark.parametrize("shape", [(90, 12), (90, 150)])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("fill", [1e10, 1e15])
def test_a_fill_value_outside_the_training_rows_changes_nothing(shape, standardize, precision, fill):
    X, Y = problem(shape)
    X = X + 1e3
    outer = [(np.arange(60), np.arange(60, 80))]  # rows from 80 on are used by no fold
    options = {
        "outer": outer, "inner": [list(stats.make_folds(range(60), 3))], "standardize": standardize,
        "precision": precision,
    }  # fmt: skip
    spoiled = X.copy()
    spoiled[[65, 85]] = fill
    spoiled[86, 3] = -fill
    clean, found = fit(X, Y, **options), fit(spoiled, Y, **options)
    others = np.setdiff1d(np.arange(60, 80), [65])
    assert np.array_equal(found.alpha, clean.alpha)
    assert np.allclose(found.loss, clean.loss, rtol=1e-5 if precision != "float64" else 1e-8)
    atol = 1e-5 if precision == "float32" else 1e-6
    assert np.allclose(found.prediction[others], clean.prediction[others], rtol=1e-6, atol=atol)


@pytest.mark.filterwarnings("ignore:Ill-conditioned", "ignore:An ill-conditioned", "ignore:Singular matrix")
@pytest.mark.parametrize("shape", [(90, 12), (90, 150)])
def test_an_outlier_validated_in_one_inner_fold_leaves_the_other_fits_alone(shape):
    X, Y = problem(shape)
    X[7, 2] = 1e10
    splits = {"outer": [(np.arange(60), np.arange(60, 90))], "inner": [[(np.arange(20, 60), np.arange(20))]]}
    few = {"outer": [(np.arange(20, 60), np.arange(8, 20))], "inner": [[(np.arange(20), np.arange(20, 40))]]}
    _, _, loss = by_hand(X, Y, splits)
    assert np.allclose(fit(X, Y, **splits).loss, loss, rtol=1e-6)
    thirds = {"outer": splits["outer"], "inner": [list(stats.make_folds(range(60), 3))]}
    assert np.allclose(fit(X, Y, **thirds).loss, by_hand(X, Y, thirds)[2], rtol=1e-6)
    prediction, alpha, _ = by_hand(X, Y, few)
    assert np.array_equal(fit(X, Y, **few).alpha, alpha)
    assert np.allclose(fit(X, Y, **few).prediction[8:20], prediction[8:20], atol=1e-6)


def test_interpolation_that_multiplies_rounding_errors_is_not_used(monkeypatch):
    grid = np.logspace(-2, 5, 80)
    given = {"lowest": 1e-2, "highest": 1e4, "tolerance": 1e-6}
    found = engine_skeleton.make_skeleton(grid, **given)
    assert found.weights is not None
    assert np.abs(found.weights).sum(axis=1).max() <= engine_skeleton.LARGEST_WEIGHT
    monkeypatch.setattr(engine_skeleton, "LARGEST_WEIGHT", 0.5)
    every = engine_skeleton.make_skeleton(grid, **given)
    assert every.weights is None
    assert np.array_equal(every.rows, np.arange(80))


def test_no_more_directions_than_can_be_real():
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 9)))
    gram = rows @ rows.T
    for single in (False, True):
        values, vectors = decompose(gram, 4, Accuracy(single, 1.0))
        assert torch.allclose(values, torch.linalg.eigvalsh(gram)[-4:], rtol=1e-5)
        assert vectors.shape == (6, 4)
    assert len(decompose(gram, 6, Accuracy(False, 1.0))[0]) == 6


def test_sizes_are_those_of_the_largest_folds():
    rows = np.arange(90)
    outer = [(rows[:50], rows[50:]), (rows[20:], rows[:20])]
    inner = [[(rows[:40], rows[40:50])], [(rows[:30], rows[30:70]), (rows[40:70], rows[:40]), (rows[:60], rows[60:70])]]
    sizes = fold_sizes((90, 7), 5, 9, outer, inner)
    assert (sizes.n_stimuli, sizes.n_features, sizes.n_voxels, sizes.n_alphas) == (90, 7, 5, 9)
    assert (sizes.n_train, sizes.n_test, sizes.inner_train, sizes.inner_validation) == (70, 40, 60, 40)
    assert (sizes.n_outer, sizes.n_inner) == (2, 3)


def test_products_that_would_cancel_are_not_shared():
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((60, 4)))
    thirds = list(stats.make_folds(range(60), 3))
    assert engine_fold._even(rows, thirds)
    rows[7, 2] = 1e10
    assert not engine_fold._even(rows, thirds)
    rows[:, 2] = 0.0
    rows[7, 2] = 1.0  # rest is exactly zero: constant in the other folds
    assert engine_fold._even(rows, thirds)


@pytest.mark.parametrize(("lowest", "highest"), [(150.0, 8e5), (1e3, 1e4), (1e-1, 1e5)])
def test_predictions_at_a_few_penalties_give_those_at_all(lowest, highest):
    grid = np.logspace(0, 7, 60)
    found = engine_skeleton.filter_skeleton(grid, lowest, highest, tolerance=3e-6)
    assert found.weights is not None
    assert len(found.rows) <= 25
    s = np.geomspace(lowest, highest, 1000)
    filters = s / (s + grid[:, None])
    assert np.abs(found.weights @ filters[found.rows] - filters).max() < 6e-6


@pytest.mark.parametrize("shape", [(150, 40), (90, 120)], ids=["primal", "dual"])
def test_mixed_residuals_equal_those_of_every_penalty(shape, force, monkeypatch):
    X, Y = problem(shape, 200, seed=3)
    grid = np.logspace(0, 6, 30)
    force("rotated")
    calls = []
    skeleton = engine_losses.filter_skeleton
    monkeypatch.setattr(engine_losses, "filter_skeleton", lambda *a, **k: calls.append(skeleton(*a, **k)) or calls[-1])
    mixed = fit(X, Y, alphas=grid, precision="mixed")
    assert all(found.weights is not None for found in calls)
    assert calls
    every = fit(X, Y, alphas=grid)
    same = mixed.alpha == every.alpha
    assert same.mean() > 0.99
    assert np.allclose(mixed.loss, every.loss, rtol=1e-5)


@pytest.mark.parametrize("top", [10.0, 1e3, 1e5, 1e7])
def test_float32_is_refused_without_a_decomposition_only_where_it_would_not_do(top, monkeypatch):
    """The bound of the Cholesky factor against the eigenvalues themselves."""
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    gram = torch.from_numpy((rotation * np.geomspace(1, top, 60)) @ rotation.T)
    tried = []
    eigh = spectrum.eigh
    monkeypatch.setattr(spectrum, "eigh", lambda given: tried.append(given.dtype) or eigh(given))
    for lowest in (1e-3, 1.0, 100.0):
        tried.clear()
        accuracy = Accuracy(True, lowest)
        values, _ = decompose(gram, 60, accuracy)
        assert torch.allclose(values, torch.linalg.eigvalsh(gram), rtol=1e-3)
        assert tried == [torch.float32 if accuracy.enough(top, 1.0) else torch.float64]


def test_a_centred_kernel_is_judged_beside_its_empty_direction():
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((40, 90)))
    rows -= rows.mean(dim=0)
    values, vectors = decompose(rows @ rows.T, 39, Accuracy(True, 1.0))
    assert vectors.dtype == torch.float32
    assert torch.allclose(values, torch.linalg.svdvals(rows)[:39].flip(0) ** 2, rtol=1e-4)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_closed_form_in_one_pass_equals_a_fit_at_its_penalties(shape, precision):
    X, Y = problem(shape, 40, seed=5)
    splits = folds(len(X))
    found = fit(X, Y, selection="gcv", precision=precision, **splits)
    for (train, test), alpha in zip(splits["outer"], found.alpha, strict=True):
        for one in np.unique(alpha):
            voxels = alpha == one
            wanted = Ridge(alpha=one).fit(X[train], Y[train][:, voxels]).predict(X[test]).reshape(len(test), -1)
            close = 1e-4 if precision == "float32" else 1e-8
            assert np.allclose(found.prediction[np.ix_(test, voxels)], wanted, atol=close, rtol=close)
