import numpy as np
import pytest
from himalaya.kernel_ridge import solve_multiple_kernel_ridge_random_search
from himalaya.ridge import solve_group_ridge_random_search
from sklearn.linear_model import Ridge

from topobrain import stats
from topobrain._checks import InputError, UnknownNameError
from topobrain.stats.ridge import banded_fitting, kernel_search, nested_ridge
from topobrain.stats.ridge.banded import (
    band_weights,
    banded_ridge_cv,
    nested_banded_models,
    nested_banded_ridge,
)
from topobrain.stats.variance_partitioning import sub_models

ALPHAS = np.logspace(-1, 4, 6)
PRIMAL, DUAL = (3, 9), (15, 90)
WEIGHTS = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.9, 0.1], [0.02, 0.98]])


def problem(sizes, n=64, n_voxels=6, seed=0):
    """Two bands of very different scale; the voxels go from one band to the other, with more and more noise."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, sizes[0])) * 3 + 5
    B = rng.standard_normal((n, sizes[1])) * rng.uniform(0.1, 1, sizes[1])
    share = np.linspace(0, 1, n_voxels)
    signal = [(X - X.mean(axis=0)) @ rng.standard_normal((X.shape[1], n_voxels)) for X in (A, B)]
    Y = sum(w * s / s.std(axis=0) for w, s in zip((1 - share, share), signal, strict=True))
    return {"a": A, "b": B}, Y + rng.standard_normal(Y.shape) * np.linspace(0.2, 2, n_voxels) + 7.0


def splits(n, n_outer=4, n_inner=4):
    outer = list(stats.make_folds(range(n), n_outer))
    return {"outer": outer, "inner": [list(stats.make_folds(range(len(train)), n_inner)) for train, _ in outer]}


def standardized(X, train, by):
    scale = X[train].std(axis=0) if by else 1.0
    return (X - X[train].mean(axis=0)) / scale


# what a fit means


@pytest.mark.parametrize("sizes", [PRIMAL, DUAL])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("scale", ["none", "trace"])
def test_penalties_are_those_of_ridge_on_scaled_features(sizes, standardize, scale):
    features, Y = problem(sizes)
    folds = splits(64)
    fit = nested_banded_ridge(features, Y, alphas=ALPHAS, **folds, n_weights=9, standardize=standardize, scale=scale)
    for k, (train, test) in enumerate(folds["outer"]):
        for v in range(Y.shape[1]):
            on = np.flatnonzero(np.isfinite(fit.alpha[k, :, v]))
            X = np.hstack(
                [standardized(list(features.values())[b], train, standardize) / np.sqrt(fit.alpha[k, b, v]) for b in on]
            )
            oracle = Ridge(alpha=1.0, solver="cholesky").fit(X[train], Y[train, v]).predict(X[test])
            assert np.allclose(fit.prediction[test, v], oracle, rtol=1e-6, atol=1e-9)
    assert np.isinf(fit.alpha[fit.weight == 0]).all()
    assert np.allclose(fit.weight.sum(axis=1), 1)
    assert len(np.unique(fit.weight)) > 2


@pytest.mark.parametrize("sizes", [PRIMAL, DUAL])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("selection", ["kfold", "gcv"])
def test_one_band_is_ordinary_ridge(sizes, standardize, selection):
    features, Y = problem(sizes)
    options = {"alphas": ALPHAS, **splits(64), "standardize": standardize, "selection": selection}
    one = nested_banded_ridge({"b": features["b"]}, Y, **options)
    plain = nested_ridge(features["b"], Y, **options)
    assert np.array_equal(one.alpha[:, 0], plain.alpha)
    for name in ("prediction", "r", "loss", "variance", "edge"):
        assert np.allclose(getattr(one, name), getattr(plain, name), rtol=1e-6, atol=1e-9), name


def loss_of(features, Y, train, inner, weights, alpha, standardize):
    """Validation loss of one candidate by scikit-learn, a voxel at a time."""
    errors = []
    for a, b in inner:
        fitted, judged = train[a], train[b]
        X = np.hstack(
            [np.sqrt(w) * standardized(X, fitted, standardize) for w, X in zip(weights, features.values(), strict=True)]
        )
        errors.append((Y[judged] - Ridge(alpha=alpha).fit(X[fitted], Y[fitted]).predict(X[judged])) ** 2)
    return np.concatenate(errors).mean(axis=0)


@pytest.mark.parametrize("sizes", [PRIMAL, DUAL])
@pytest.mark.parametrize(("selection", "standardize"), [("kfold", False), ("kfold", True), ("loo", False)])
def test_the_choice_is_the_best_of_all_candidates_and_penalties(sizes, standardize, selection):
    features, Y = problem(sizes, n=26)
    alphas = ALPHAS[::2]
    train, test = np.arange(6, 26), np.arange(6)
    rows = np.arange(20)
    inner = [(np.delete(rows, i), rows[i : i + 1]) for i in rows] if selection == "loo" else splits(20)["outer"]
    fit = nested_banded_ridge(
        features, Y, alphas=alphas, outer=[(train, test)], inner=[] if selection == "loo" else [inner],
        n_weights=WEIGHTS, standardize=standardize, selection=selection,
    )  # fmt: skip
    loss = np.array([[loss_of(features, Y, train, inner, w, alpha, standardize) for alpha in alphas] for w in WEIGHTS])
    flat = loss.reshape(-1, Y.shape[1])
    best = flat.argmin(axis=0)
    assert np.allclose(fit.loss[0], flat.min(axis=0), rtol=1e-8)
    assert np.array_equal(fit.weight[0], WEIGHTS[best // len(alphas)].T)
    assert np.allclose(
        fit.alpha[0], np.where(fit.weight[0] > 0, alphas[best % len(alphas)] / fit.weight[0].clip(1e-9), np.inf)
    )
    assert np.array_equal(fit.edge[0] == 1, best % len(alphas) == len(alphas) - 1)


@pytest.mark.filterwarnings("ignore:divide by zero encountered in log")
@pytest.mark.parametrize("sizes", [PRIMAL, DUAL])
@pytest.mark.parametrize("peer", ["kernels", "groups"])
def test_equals_himalayas_random_search_on_equal_weights(sizes, peer):
    features, Y = problem(sizes)
    n = len(Y)
    folds = list(stats.make_folds(range(n), 4))
    weights = WEIGHTS if peer == "kernels" else WEIGHTS[2:]  # its group solver divides by the root of a weight
    ours = banded_ridge_cv(features, Y, alphas=ALPHAS, folds=folds, n_weights=weights)
    options = {"n_iter": weights, "alphas": ALPHAS, "cv": folds, "fit_intercept": True, "progress_bar": False}
    if peer == "kernels":
        kernels = np.stack([X @ X.T for X in features.values()])
        deltas, dual, scores, intercept = solve_multiple_kernel_ridge_random_search(
            kernels, Y, return_weights="dual", **options
        )
        predicted = np.einsum("bij,jv,bv->iv", kernels, dual, np.exp(deltas)) + intercept
    else:
        deltas, coef, scores, intercept = solve_group_ridge_random_search(
            list(features.values()), Y, return_weights=True, warn=False, **options
        )
        predicted = np.hstack(list(features.values())) @ coef + intercept
    assert np.allclose(ours.loss, -np.asarray(scores).max(axis=0), rtol=1e-5)
    assert np.allclose(1 / ours.alpha, np.exp(np.asarray(deltas)), rtol=1e-6)
    assert np.allclose(ours.predict(features), predicted, rtol=1e-6, atol=1e-6)


def test_gcv_scores_are_those_of_the_formula():
    features, Y = problem(DUAL)
    fit = banded_ridge_cv(features, Y, alphas=ALPHAS, n_weights=WEIGHTS, selection="gcv")
    n, scores = len(Y), []
    for weights in WEIGHTS:
        Z = np.hstack([np.sqrt(w) * (X - X.mean(axis=0)) for w, X in zip(weights, features.values(), strict=True)])
        for alpha in ALPHAS:
            hat = np.full((n, n), 1 / n) + Z @ Z.T @ np.linalg.inv(Z @ Z.T + alpha * np.eye(n))
            scores.append(((Y - hat @ Y) ** 2).mean(axis=0) / (1 - np.trace(hat) / n) ** 2)
    assert np.allclose(fit.loss, np.min(scores, axis=0), rtol=1e-7)
    assert np.array_equal(fit.weight, WEIGHTS[np.argmin(scores, axis=0) // len(ALPHAS)].T)


@pytest.mark.parametrize("sizes", [PRIMAL, DUAL])
@pytest.mark.parametrize("scale", ["none", "trace"])
def test_parts_and_intercept_add_up_to_the_prediction(sizes, scale):
    features, Y = problem(sizes)
    folds = splits(64)
    options = {"alphas": ALPHAS, **folds, "n_weights": 9, "scale": scale}
    fit = nested_banded_ridge(features, Y, **options, band_predictions=True)
    fold = stats.Folds(tuple(folds["outer"]), "given").test_fold(64)
    assert np.allclose(fit.band_prediction.sum(axis=0) + fit.intercept[fold], fit.prediction, rtol=1e-9)
    off = fit.weight.transpose(1, 0, 2)[:, fold] == 0
    assert off.any()
    assert np.allclose(fit.band_prediction[off], 0)
    assert np.ptp(fit.band_prediction[~off]) > 1
    assert nested_banded_ridge(features, Y, **options).band_prediction is None


def test_one_level_fit_predicts_with_its_weights():
    features, Y = problem(DUAL)
    rest = {band: X[50:] for band, X in features.items()}
    given = {band: X[:50] for band, X in features.items()}
    for options in ({"standardize": True, "scale": "trace"}, {"scale": "none"}):
        fit = banded_ridge_cv(given, Y[:50], alphas=ALPHAS, folds=4, n_weights=7, **options)
        inner = [list(stats.make_folds(range(50), 4))]
        nested = nested_banded_ridge(
            features, Y, alphas=ALPHAS, outer=[(np.arange(50), np.arange(50, 64))], inner=inner, n_weights=7, **options
        )
        assert np.allclose(fit.predict(rest), nested.prediction[50:], rtol=1e-9)
        assert np.array_equal(fit.weight, nested.weight[0])
        assert np.allclose(fit.alpha, nested.alpha[0])
        parts = fit.predict_bands(rest)
        assert np.allclose(sum(parts.values()) + fit.intercept, fit.predict(rest))
        assert {band: len(coef) for band, coef in fit.coef.items()} == {"a": 15, "b": 90}


# planted truth


@pytest.mark.slow
def test_each_voxel_finds_its_own_bands():
    rng = np.random.default_rng(1)
    small, large = rng.standard_normal((200, 2)), rng.standard_normal((200, 100))
    Y = np.column_stack([small @ [1.0, -1.0], large @ rng.standard_normal(100) / 10, rng.standard_normal(200)])
    Y[:, :2] += 0.1 * rng.standard_normal((200, 2))
    folds = splits(200)
    options = {"alphas": np.logspace(-3, 4, 8), **folds, "scale": "trace"}
    fit = nested_banded_ridge({"small": small, "large": large}, Y, n_weights=12, **options)
    assert (fit.weight[:, 0, 0] > 0.7).all()
    assert (fit.weight[:, 1, 1] > 0.7).all()
    assert fit.r[:, :2].min() > 0.97
    assert abs(fit.r[:, 2].mean()) < 0.2
    noisy = Y[:, :1] + 2 * rng.standard_normal((200, 1))
    banded = nested_banded_ridge({"small": small, "large": large}, noisy, n_weights=12, **options)
    together = nested_ridge(np.hstack([small, large]), noisy, alphas=options["alphas"], **folds)
    assert banded.r.mean() > together.r.mean() + 0.1  # one penalty for all drowns the small band


def test_the_data_themselves_score_one_and_noise_zero():
    rng = np.random.default_rng(0)
    Y = rng.standard_normal((240, 40))
    folds = splits(240)
    own = nested_banded_ridge(
        {"own": Y, "noise": rng.standard_normal((240, 30))}, Y, alphas=ALPHAS / 1e3, **folds, n_weights=5
    )
    assert own.r.min() > 0.999
    noise = {name: rng.standard_normal((240, p)) for name, p in (("a", 5), ("b", 40))}
    fit = nested_banded_ridge(noise, Y, alphas=ALPHAS, **folds, n_weights=5, standardize=True)
    assert abs(fit.r.mean()) < 0.04


# models that share


def test_models_of_fewer_bands_are_fits_without_the_others():
    features, Y = problem(PRIMAL)
    features["c"] = np.random.default_rng(3).standard_normal((64, 4))
    folds = splits(64)
    options = {"alphas": ALPHAS, **folds, "scale": "trace", "standardize": True}
    models = sub_models(list(features))
    fits = nested_banded_models(features, Y, models, n_weights=6, band_predictions=True, **options)
    assert list(fits) == models
    for band in features:
        alone = nested_banded_ridge({band: features[band]}, Y, **options)
        assert np.allclose(fits[(band,)].prediction, alone.prediction, rtol=1e-9)
    for model, fit in fits.items():
        outside = [b for b, band in enumerate(features) if band not in model]
        assert (fit.weight[:, outside] == 0).all()
        assert (fit.band_prediction is None) == (len(model) < 3)
        for larger in models:
            if set(model) < set(larger):  # it may choose what the smaller one chose
                assert (fits[larger].loss <= fit.loss + 1e-12).all()
    pair = nested_banded_models({k: features[k] for k in ("a", "b")}, Y, [("b", "a")], n_weights=6, **options)
    assert np.allclose(pair["a", "b"].prediction, fits["a", "b"].prediction, rtol=1e-9)


# what must not matter


@pytest.mark.parametrize("sizes", [PRIMAL, DUAL])
def test_offsets_and_order_change_nothing(sizes):
    features, Y = problem(sizes)
    rng = np.random.default_rng(0)
    folds = splits(64)
    options = {"alphas": ALPHAS, "n_weights": 7, "scale": "trace"}
    fit = nested_banded_ridge(features, Y, **folds, **options)
    moved = nested_banded_ridge({k: X + 50 for k, X in features.items()}, Y + 1000, **folds, **options)
    assert np.abs(moved.r - fit.r).max() < 1e-5
    mixed = {"outer": [], "inner": []}
    for (train, test), inner in zip(folds["outer"], folds["inner"], strict=True):
        order = rng.permutation(len(train))
        place = np.argsort(order)
        mixed["outer"].append((train[order], test[::-1]))
        mixed["inner"].append([(rng.permutation(place[a]), place[b]) for a, b in inner])
    assert np.allclose(nested_banded_ridge(features, Y, **mixed, **options).prediction, fit.prediction, rtol=1e-6)
    turned = {"b": features["b"][:, ::-1], "a": features["a"]}
    swapped = nested_banded_ridge(turned, Y, **folds, alphas=ALPHAS, n_weights=WEIGHTS[:, ::-1], scale="trace")
    straight = nested_banded_ridge(features, Y, **folds, alphas=ALPHAS, n_weights=WEIGHTS, scale="trace")
    assert np.allclose(swapped.prediction, straight.prediction, rtol=1e-7)


def test_scale_of_a_band_does_not_matter_when_bands_are_scaled():
    features, Y = problem(DUAL)
    options = {"alphas": ALPHAS, **splits(64), "n_weights": 7, "scale": "trace"}
    fit = nested_banded_ridge(features, Y, **options)
    larger = nested_banded_ridge({"a": features["a"] * 1000, "b": features["b"] / 7}, Y, **options)
    assert np.allclose(larger.prediction, fit.prediction, rtol=1e-7)
    on = fit.weight[:, 0] > 0
    assert np.allclose(
        larger.alpha[:, 0][on], 1e6 * fit.alpha[:, 0][on]
    )  # penalties are those of the features as given
    assert np.array_equal(larger.weight, fit.weight)


def test_voxels_do_not_influence_each_other_across_tiles(monkeypatch):
    features, Y = problem(PRIMAL, n_voxels=23)
    options = {"alphas": ALPHAS, **splits(64), "n_weights": 5}
    whole = nested_banded_ridge(features, Y, **options)
    alone = nested_banded_ridge(features, Y[:, [17]], **options)
    assert np.allclose(alone.prediction[:, 0], whole.prediction[:, 17], rtol=1e-10)
    monkeypatch.setattr(kernel_search.tiles, "__defaults__", (4,))
    monkeypatch.setattr(kernel_search, "STACK_BYTES", 1)
    tiled = nested_banded_ridge(features, Y, **options)
    assert np.allclose(tiled.prediction, whole.prediction, rtol=1e-10)
    assert np.array_equal(tiled.weight, whole.weight)


@pytest.mark.parametrize("selection", ["kfold", "gcv", "loo"])
@pytest.mark.parametrize("sizes", [PRIMAL, DUAL])
def test_missing_and_constant_voxels_are_nan_and_leave_the_others_alone(sizes, selection):
    features, Y = problem(sizes, n_voxels=5)
    options = {"alphas": ALPHAS, **splits(64), "n_weights": 5, "selection": selection}
    clean = nested_banded_ridge(features, Y, **options)
    spoiled = np.insert(Y, [0, 2, 5], 0.1, axis=1)
    spoiled[4, 0], spoiled[:, 3], spoiled[2, 7] = np.nan, 0.1, np.inf
    bad, good = [0, 3, 7], [1, 2, 4, 5, 6]
    fit = nested_banded_ridge(features, spoiled, **options)
    assert fit.n_unusable == 3
    for name in ("prediction", "r", "alpha", "weight", "loss", "edge", "intercept"):
        found, expected = getattr(fit, name), getattr(clean, name)
        assert np.isnan(found[..., bad]).all(), name
        assert np.allclose(found[..., good], expected, rtol=1e-9, atol=1e-12), name
    none = nested_banded_ridge(features, np.full((64, 2), np.nan), **options)
    assert np.isnan(none.prediction).all()


def test_constant_features_and_a_constant_band_are_harmless():
    features, Y = problem(PRIMAL)
    options = {"alphas": ALPHAS, **splits(64), "standardize": True, "scale": "trace"}
    plain = nested_banded_ridge(features, Y, n_weights=WEIGHTS, **options)
    more = {"a": np.column_stack([features["a"], np.full(64, 0.1)]), "b": features["b"]}
    assert np.allclose(nested_banded_ridge(more, Y, n_weights=WEIGHTS, **options).prediction, plain.prediction)
    still = nested_banded_ridge({"a": features["a"], "none": np.full((64, 2), 3.3)}, Y, n_weights=WEIGHTS, **options)
    assert np.isfinite(still.prediction).all()


# precision, memory, randomness


@pytest.mark.parametrize("sizes", [PRIMAL, DUAL])
def test_lower_precision_chooses_as_well(sizes):
    features, Y = problem(sizes, n_voxels=40)
    options = {"alphas": ALPHAS, **splits(64), "n_weights": 8, "scale": "trace"}
    exact = nested_banded_ridge(features, Y + 1000, **options)
    assert exact.precision == "float64"  # small problems are cheap
    for precision in ("mixed", "float32"):
        fit = nested_banded_ridge(features, Y + 1000, **options, precision=precision)
        assert fit.precision == precision
        assert np.allclose(fit.loss, exact.loss, rtol=1e-5)
        same = (fit.weight == exact.weight).all(axis=1)
        assert same.mean() > 0.98
        assert np.abs(fit.r - exact.r)[same].max() < 1e-4


def test_auto_precision_is_mixed_where_float64_is_dear(monkeypatch):
    features, Y = problem(PRIMAL)
    monkeypatch.setattr(banded_fitting, "FLOAT64_FLOPS", 1.0)
    assert nested_banded_ridge(features, Y, alphas=ALPHAS, **splits(64), n_weights=3).precision == "mixed"


def test_a_memory_bound_is_kept_or_refused_with_the_least_that_fits(monkeypatch):
    features, Y = problem(DUAL)
    options = {"alphas": ALPHAS, **splits(64), "n_weights": 4}
    with pytest.raises(InputError, match=r"the work \d+.*, so the least bound is \d+"):
        nested_banded_ridge(features, Y, **options, max_memory="100 KiB")
    with pytest.raises(InputError, match="expected bytes or a text"):
        nested_banded_ridge(features, Y, **options, max_memory="much")
    plain = nested_banded_ridge(features, Y, **options, max_memory="1 GiB")
    monkeypatch.setattr(banded_fitting, "CACHE_BYTES", 0)  # designs made again for every candidate
    again = nested_banded_ridge(features, Y, **options)
    assert np.array_equal(plain.prediction, again.prediction)


def test_candidates_are_shares_and_hold_every_band_alone():
    weights = band_weights(3, 40, seed=5)
    assert weights.shape == (40, 3)
    assert (weights >= 0).all()
    assert np.allclose(weights.sum(axis=1), 1)
    assert np.array_equal(weights[:3], np.eye(3))
    assert np.allclose(weights[3], 1 / 3)
    assert np.array_equal(weights[:20], band_weights(3, 20, seed=5))  # more candidates add to fewer
    assert not np.array_equal(weights, band_weights(3, 40, seed=6))
    assert band_weights(1, 30).tolist() == [[1.0]]


def test_a_seed_gives_the_same_fit_and_leaves_the_global_generator_alone():
    features, Y = problem(PRIMAL)
    options = {"alphas": ALPHAS, **splits(64), "n_weights": 8}
    np.random.seed(3)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two = (nested_banded_ridge(features, Y, **options, seed=4) for _ in range(2))
    assert np.array_equal(one.prediction, two.prediction)
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002
    assert not np.array_equal(one.weight, nested_banded_ridge(features, Y, **options, seed=5).weight)


# bad input


@pytest.mark.parametrize("sizes", [PRIMAL, DUAL])
def test_masks_are_read_as_masks(sizes):
    features, Y = problem(sizes)
    folds = splits(64)

    def mask(rows, n):
        return np.isin(np.arange(n), rows)

    masks = {
        "outer": [(mask(a, 64), mask(b, 64)) for a, b in folds["outer"]],
        "inner": [
            [(mask(a, len(train)), mask(b, len(train))) for a, b in inner]
            for (train, _), inner in zip(folds["outer"], folds["inner"], strict=True)
        ],
    }
    options = {"alphas": ALPHAS, "n_weights": 5}
    by_row, by_mask = (nested_banded_ridge(features, Y, **given, **options) for given in (folds, masks))
    assert np.array_equal(by_row.prediction, by_mask.prediction)
    assert np.array_equal(by_row.alpha, by_mask.alpha)
    one, two = (banded_ridge_cv(features, Y, folds=given["outer"], **options) for given in (folds, masks))
    assert np.array_equal(one.loss, two.loss)
    contiguous = banded_ridge_cv(features, Y, folds=np.int64(4), **options)
    assert np.array_equal(contiguous.loss, one.loss)


ROWS = np.arange(64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outer": [], "inner": []}, "at least one"),
        ({"outer": None}, "outer must be"),
        ({"inner": None}, "inner must be"),
        ({"inner": [[]] * 4}, "outer fold 0 has no inner folds"),
        ({"outer": [(ROWS - 1, ROWS[:1])] * 4}, "outside"),
        ({"outer": [(ROWS, ROWS[:1] + 64)] * 4}, "outside"),
        ({"outer": [(ROWS, ROWS[:9])] * 4}, "9 rows in training and in test"),
        ({"inner": [[(ROWS[:30], ROWS[20:40])]] * 4}, "10 rows in training and in test"),
        ({"inner": [[(ROWS[:30], ROWS[:0])]] * 4}, "none may be empty"),
        ({"device": "gpu"}, "device 'gpu'"),
        ({"alphas": ["low"]}, "alphas must be real"),
    ],
)
def test_folds_and_options_that_cannot_be_used_are_told(change, message):
    features, Y = problem(PRIMAL)
    with pytest.raises(InputError, match=message):
        nested_banded_ridge(features, Y, **{"alphas": ALPHAS, **splits(64), "n_weights": 4, **change})


@pytest.mark.parametrize("folds", [None, 2.5, [], [(ROWS, ROWS[:9])]])
def test_folds_of_one_level_that_cannot_be_used_are_told(folds):
    features, Y = problem(PRIMAL)
    with pytest.raises(InputError, match="fold"):
        banded_ridge_cv(features, Y, alphas=ALPHAS, folds=folds, n_weights=4)


@pytest.mark.parametrize("sizes", [(3, 9), (15, 90)])
def test_float32_keeps_the_scores_at_small_penalties(sizes):
    features, Y = problem(sizes)
    features = {name: X * np.geomspace(1, 1e-3, X.shape[1]) + 100 for name, X in features.items()}
    options = {"alphas": [1e-6, 1e-4], **splits(64), "n_weights": 5}
    exact, found = (nested_banded_ridge(features, Y, **options, precision=name) for name in ("float64", "float32"))
    same = (exact.alpha == found.alpha).all(axis=1)
    assert same.mean() > 0.7
    assert np.abs(exact.r - found.r)[same].max() < 1e-6
    assert np.allclose(exact.loss, found.loss, rtol=1e-3)


@pytest.mark.parametrize("sizes", [PRIMAL, DUAL])
def test_sizes_of_scaled_bands_are_those_of_the_training_rows(sizes):
    features, Y = problem(sizes, n=40)
    train, test = np.arange(12, 40), np.arange(12)
    features["a"][test] *= 30  # the held-out rows of one band are much larger
    inner = splits(28)["outer"]
    fit = nested_banded_ridge(
        features, Y, alphas=ALPHAS, outer=[(train, test)], inner=[inner], n_weights=WEIGHTS, scale="trace"
    )
    total = {name: X[train].var(axis=0).sum() for name, X in features.items()}
    scaled = {name: X / np.sqrt(total[name]) for name, X in features.items()}
    loss = np.array([[loss_of(scaled, Y, train, inner, w, alpha, False) for alpha in ALPHAS] for w in WEIGHTS])
    best = loss.reshape(-1, Y.shape[1]).argmin(axis=0)
    assert np.allclose(fit.loss[0], loss.min(axis=(0, 1)), rtol=1e-8)
    assert np.array_equal(fit.weight[0], WEIGHTS[best // len(ALPHAS)].T)
    on = fit.weight[0] > 0
    expected = ALPHAS[best % len(ALPHAS)] * np.array(list(total.values()))[:, None] / fit.weight[0].clip(1e-9)
    assert np.allclose(fit.alpha[0][on], expected[on])


def test_impossible_input_is_named():
    features, Y = problem(PRIMAL)
    options = {"alphas": ALPHAS, **splits(64), "n_weights": 4}
    with pytest.raises(InputError, match="same stimuli; their rows: a 64, b 60"):
        nested_banded_ridge({"a": features["a"], "b": features["b"][:60]}, Y, **options)
    with pytest.raises(InputError, match="no band"):
        nested_banded_ridge({}, Y, **options)
    spoiled = features["b"].copy()
    spoiled[7, 2] = np.nan
    with pytest.raises(InputError, match=r"band 'b'.*row 7, column 2"):
        nested_banded_ridge({"a": features["a"], "b": spoiled}, Y, **options)
    with pytest.raises(InputError, match=r"band 'a'.*shape"):
        nested_banded_ridge({"a": features["a"][:, 0]}, Y, **options)
    with pytest.raises(InputError, match="band names must differ"):
        nested_banded_ridge({1: features["a"], "1": features["b"]}, Y, **options)
    with pytest.raises(InputError, match="64 stimuli"):
        nested_banded_ridge(features, Y[:60], **options)
    with pytest.raises(InputError, match="n_weights of 3 or more"):
        nested_banded_ridge(features, Y, **{**options, "n_weights": 2})
    for weights in ([[0.5, 0.6]], [[1.5, -0.5]], [[np.nan, 1.0]]):
        with pytest.raises(InputError, match="sum to 1"):
            nested_banded_ridge(features, Y, **{**options, "n_weights": np.array(weights)})
    with pytest.raises(InputError, match="with 2 bands"):
        nested_banded_ridge(features, Y, **{**options, "n_weights": np.ones((1, 3)) / 3})
    with pytest.raises(InputError, match="as many sets of inner folds"):
        nested_banded_ridge(features, Y, **{**options, "inner": options["inner"][:2]})
    with pytest.raises(InputError, match="alphas must be finite"):
        nested_banded_ridge(features, Y, **{**options, "alphas": [-1.0]})
    for name, value in (("selection", "aic"), ("scale", "sum"), ("precision", "bf16")):
        with pytest.raises(UnknownNameError, match=value):
            nested_banded_ridge(features, Y, **options, **{name: value})
    with pytest.raises(InputError, match="known bands: a, b"):
        nested_banded_models(features, Y, [("a", "z")], **options)
    with pytest.raises(InputError, match="the fit has the bands a, b"):
        banded_ridge_cv(features, Y, alphas=[1.0], n_weights=3).predict({"a": features["a"]})
