import numpy as np
import pytest
from himalaya.ridge import RidgeCV as HimalayaRidgeCV
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from topobrain import stats
from topobrain._checks import InputError, UnknownNameError
from topobrain.stats.ridge import hat_matrices

ALPHAS = np.logspace(-2, 4, 7)
PRIMAL, DUAL = (60, 8), (40, 90)


def problem(shape, n_voxels=5, noise=2.0, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal(shape) * rng.uniform(0.2, 5, shape[1]) + rng.standard_normal(shape[1])
    Y = X @ rng.standard_normal((shape[1], n_voxels)) / np.sqrt(shape[1])
    return X, Y + noise * rng.standard_normal(Y.shape) * np.arange(1, n_voxels + 1) + 3.0


def sklearn_ridge(alpha, standardize):
    return make_pipeline(StandardScaler(with_mean=True, with_std=standardize), Ridge(alpha=alpha))


def inner_splits(n, n_folds=5):
    return list(stats.make_folds(range(n), n_folds))


def brute_force(X, Y, splits, standardize):
    """Validation loss (alpha, voxel) over all inner rows, one scikit-learn fit a voxel, alpha and fold."""
    loss = np.zeros((len(ALPHAS), Y.shape[1]))
    for a, alpha in enumerate(ALPHAS):
        for v in range(Y.shape[1]):
            for train, test in splits:
                fit = sklearn_ridge(alpha, standardize).fit(X[train], Y[train, v])
                loss[a, v] += ((Y[test, v] - fit.predict(X[test])) ** 2).sum()
    return loss / sum(len(test) for _, test in splits)


@pytest.mark.parametrize("shape", [PRIMAL, DUAL, (30, 30), (50, 1)])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("alpha", [1e-3, 1.0, 1e4])
def test_fixed_alpha_equals_scikit_learn(shape, standardize, alpha):
    X, Y = problem(shape)
    fit = stats.ridge_cv(X, Y, alphas=[alpha], standardize=standardize)
    reference = sklearn_ridge(alpha, standardize).fit(X, Y)
    scale = reference[0].scale_ if standardize else 1.0
    coef = reference[1].coef_.T / (scale[:, None] if standardize else 1.0)
    new = np.random.default_rng(9).standard_normal((11, shape[1]))
    assert np.allclose(fit.coef, coef, rtol=1e-6, atol=1e-9)
    assert np.allclose(fit.intercept, reference[1].intercept_ - reference[0].mean_ @ coef, rtol=1e-6)
    assert np.allclose(fit.predict(new), reference.predict(new), rtol=1e-6)
    assert (fit.alpha == alpha).all()
    assert (fit.edge == 0).all()


@pytest.mark.parametrize("shape", [PRIMAL, DUAL])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.slow
def test_chosen_alpha_and_loss_equal_a_brute_force_loop(shape, standardize):
    X, Y = problem(shape)
    splits = inner_splits(shape[0])
    loss = brute_force(X, Y, splits, standardize)
    fit = stats.ridge_cv(X, Y, alphas=ALPHAS, folds=splits, standardize=standardize)
    assert np.array_equal(fit.alpha, ALPHAS[loss.argmin(axis=0)])
    assert np.allclose(fit.loss, loss.min(axis=0), rtol=1e-9)
    assert len(set(fit.alpha)) > 1
    for v, alpha in enumerate(fit.alpha):
        refit = sklearn_ridge(alpha, standardize).fit(X, Y[:, v])
        assert np.allclose(fit.predict(X)[:, v], refit.predict(X), rtol=1e-6)


def test_folds_of_different_size_weigh_rows_not_folds():
    X, Y = problem(PRIMAL)
    splits = [(np.arange(3, 60), np.arange(3)), (np.arange(30), np.arange(30, 60))]
    loss = brute_force(X, Y, splits, False)
    fit = stats.ridge_cv(X, Y, alphas=ALPHAS, folds=splits)
    assert np.allclose(fit.loss, loss.min(axis=0), rtol=1e-9)


@pytest.mark.filterwarnings("ignore:Solving ridge is slower")
@pytest.mark.parametrize("shape", [PRIMAL, DUAL])
@pytest.mark.slow
def test_loss_at_himalayas_alpha_equals_himalayas(shape):
    X, Y = problem(shape)
    splits = inner_splits(shape[0])
    peer = HimalayaRidgeCV(alphas=ALPHAS, cv=splits, fit_intercept=True).fit(X, Y)
    loss = brute_force(X, Y, splits, False)
    ours = stats.ridge_cv(X, Y, alphas=ALPHAS, folds=splits)
    at_theirs = loss[np.searchsorted(ALPHAS, peer.best_alphas_ * (1 - 1e-9)), np.arange(Y.shape[1])]
    assert np.allclose(ours.loss, at_theirs, rtol=1e-5)
    assert np.allclose(ours.loss, -np.asarray(peer.cv_scores_).ravel(), rtol=1e-5)


@pytest.mark.parametrize("shape", [PRIMAL, DUAL])
@pytest.mark.parametrize("standardize", [False, True])
def test_gcv_equals_its_formula(shape, standardize):
    X, Y = problem(shape)
    n = len(X)
    Z = X - X.mean(axis=0)
    if standardize:
        Z = Z / X.std(axis=0)
    score = []
    for alpha in ALPHAS:
        hat = np.full((n, n), 1 / n) + Z @ np.linalg.solve(Z.T @ Z + alpha * np.eye(Z.shape[1]), Z.T)
        residual = Y - hat @ Y
        score.append((residual**2).mean(axis=0) / (1 - np.trace(hat) / n) ** 2)
    fit = stats.ridge_cv(X, Y, alphas=ALPHAS, selection="gcv", standardize=standardize)
    assert np.array_equal(fit.alpha, ALPHAS[np.argmin(score, axis=0)])
    assert np.allclose(fit.loss, np.min(score, axis=0), rtol=1e-7)


def test_gcv_equals_scikit_learns_leave_one_out_on_a_balanced_design():
    phase = 2 * np.pi * np.arange(48) / 48  # every row has the same leverage, so leave-one-out and GCV agree
    X = np.column_stack([s * f(k * phase) for k, s in ((1, 3.0), (2, 1.0), (5, 0.2)) for f in (np.cos, np.sin)])
    rng = np.random.default_rng(0)
    Y = X @ rng.standard_normal((6, 4)) + rng.standard_normal((48, 4)) * [0.1, 1, 3, 9]
    peer = RidgeCV(alphas=ALPHAS, alpha_per_target=True).fit(X, Y)
    fit = stats.ridge_cv(X, Y, alphas=ALPHAS, selection="gcv")
    assert np.allclose(fit.alpha, peer.alpha_)
    assert np.allclose(fit.loss, -peer.best_score_, rtol=1e-8)
    assert np.allclose(fit.coef, peer.coef_.T, rtol=1e-6, atol=1e-10)


def test_alphas_may_come_in_any_order_and_repeat():
    X, Y = problem(PRIMAL)
    ordered = stats.ridge_cv(X, Y, alphas=ALPHAS)
    mixed = stats.ridge_cv(X, Y, alphas=[*ALPHAS[::-1], 1.0])
    assert np.array_equal(ordered.alpha, mixed.alpha)
    assert np.array_equal(ordered.coef, mixed.coef)


def test_edge_says_where_the_grid_was_too_short():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 5))
    Y = np.column_stack([X @ np.ones(5), rng.standard_normal(80), X[:, 0] + 2 * rng.standard_normal(80)])
    fit = stats.ridge_cv(X, Y, alphas=[1e-3, 10.0, 1e5])
    assert fit.edge.tolist()[:2] == [-1, 1]
    assert np.array_equal(fit.edge, np.select([fit.alpha == 1e-3, fit.alpha == 1e5], [-1, 1], 0))


@pytest.mark.parametrize("selection", ["kfold", "gcv"])
@pytest.mark.parametrize("shape", [PRIMAL, DUAL])
def test_missing_and_constant_voxels_are_nan_and_leave_the_others_alone(shape, selection):
    X, Y = problem(shape)
    clean = stats.ridge_cv(X, Y, alphas=ALPHAS, selection=selection)
    spoiled = np.insert(Y, [0, 2, 5], 0.1, axis=1)
    spoiled[4, 0], spoiled[:, 3] = np.nan, 0.1
    spoiled[2, 7] = np.inf
    bad, good = [0, 3, 7], [1, 2, 4, 5, 6]
    fit = stats.ridge_cv(X, spoiled, alphas=ALPHAS, selection=selection)
    for name in ("coef", "intercept", "alpha", "loss", "edge"):
        found, expected = getattr(fit, name), getattr(clean, name)
        assert np.isnan(found[..., bad]).all(), name
        assert np.allclose(found[..., good], expected, rtol=1e-12, atol=1e-12), name


def test_only_unusable_voxels_give_only_nan():
    X, _ = problem(PRIMAL)
    fit = stats.ridge_cv(X, np.full((60, 2), 0.1), alphas=ALPHAS)
    assert np.isnan(fit.predict(X)).all()
    assert fit.coef.shape == (8, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_missing_feature_is_named_by_row_and_column(bad):
    X, Y = problem(PRIMAL)
    X[7, 3] = bad
    with pytest.raises(InputError, match="row 7, column 3"):
        stats.ridge_cv(X, Y, alphas=ALPHAS)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("shape", [PRIMAL, DUAL])
def test_constant_features_change_nothing(shape, standardize):
    X, Y = problem(shape)
    more = np.column_stack([np.full(len(X), 0.1), X, np.zeros(len(X)), np.full(len(X), 1e6 + 1 / 3)])
    plain = stats.ridge_cv(X, Y, alphas=[0.0, *ALPHAS], standardize=standardize)
    fit = stats.ridge_cv(more, Y, alphas=[0.0, *ALPHAS], standardize=standardize)
    assert np.array_equal(fit.alpha, plain.alpha)
    assert np.allclose(fit.predict(more), plain.predict(X), rtol=1e-8)
    assert np.abs(fit.coef[[0, -2, -1]]).max() < 1e-8


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 1e-12, 1.0])
def test_features_that_are_all_constant_predict_the_mean_whatever_they_are_later(standardize, alpha):
    _, Y = problem(PRIMAL)
    for level in np.random.default_rng(0).uniform(0, 1000, size=(20, 2)):  # most means are off by a rounding error
        X = np.tile(level, (60, 1))
        fit = stats.ridge_cv(X, Y, alphas=[alpha], standardize=standardize)
        assert np.allclose(fit.predict(X + 5), Y.mean(axis=0))


@pytest.mark.parametrize("standardize", [False, True])
def test_duplicated_features_share_their_weight(standardize):
    X, Y = problem(PRIMAL)
    for alpha in (0.0, 1e-6, 1.0):
        one = stats.ridge_cv(X, Y, alphas=[alpha], standardize=standardize)
        two = stats.ridge_cv(np.hstack([X, X]), Y, alphas=[2 * alpha], standardize=standardize)
        assert np.allclose(two.coef[:8], two.coef[8:], atol=1e-7)
        assert np.allclose(two.coef[:8] + two.coef[8:], one.coef, rtol=1e-5, atol=1e-7)


def test_alpha_zero_is_least_squares_and_of_least_norm_when_there_are_too_many_features():
    X, Y = problem(PRIMAL)
    Z, T = X - X.mean(axis=0), Y - Y.mean(axis=0)
    assert np.allclose(stats.ridge_cv(X, Y, alphas=[0.0]).coef, np.linalg.lstsq(Z, T)[0])
    X, Y = problem(DUAL)
    Z, T = X - X.mean(axis=0), Y - Y.mean(axis=0)
    assert np.allclose(stats.ridge_cv(X, Y, alphas=[0.0]).coef, np.linalg.lstsq(Z, T)[0], atol=1e-8)


@pytest.mark.parametrize("selection", ["kfold", "gcv"])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("shape", [PRIMAL, DUAL])
def test_offsets_change_nothing(shape, standardize, selection):
    X, Y = problem(shape)
    plain = stats.ridge_cv(X, Y, alphas=ALPHAS, selection=selection, standardize=standardize)
    moved = stats.ridge_cv(X + 50, Y + 1000, alphas=ALPHAS, selection=selection, standardize=standardize)
    assert np.array_equal(plain.alpha, moved.alpha)
    assert np.allclose(moved.predict(X + 50) - 1000, plain.predict(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [PRIMAL, DUAL])
def test_order_of_rows_inside_a_fold_changes_nothing(shape):
    X, Y = problem(shape)
    rng = np.random.default_rng(0)
    splits = inner_splits(shape[0])
    mixed = [(rng.permutation(train), rng.permutation(test)) for train, test in splits]
    one = stats.ridge_cv(X, Y, alphas=ALPHAS, folds=splits)
    two = stats.ridge_cv(X, Y, alphas=ALPHAS, folds=mixed)
    assert np.allclose(one.loss, two.loss, rtol=1e-9)
    assert np.allclose(one.coef, two.coef, rtol=1e-6)


def test_voxels_do_not_influence_each_other_across_tiles():
    X, Y = problem((30, 4), n_voxels=2200)
    together = stats.ridge_cv(X, Y, alphas=ALPHAS)
    for v in (0, 1023, 1024, 2199):
        alone = stats.ridge_cv(X, Y[:, [v]], alphas=ALPHAS)
        assert alone.alpha[0] == together.alpha[v]
        assert np.allclose(alone.coef[:, 0], together.coef[:, v])


def test_float32_input_is_solved_in_float64():
    X, Y = (a.astype(np.float32) for a in problem(PRIMAL))
    one = stats.ridge_cv(X, Y, alphas=ALPHAS)
    two = stats.ridge_cv(X.astype(float), Y.astype(float), alphas=ALPHAS)
    assert one.coef.dtype == np.float64
    assert np.array_equal(one.coef, two.coef)


@pytest.mark.parametrize("alphas", [[], [-1.0, 1.0], [np.nan], [np.inf]])
def test_impossible_penalties_are_refused(alphas):
    X, Y = problem(PRIMAL)
    with pytest.raises(InputError, match="alphas must be finite"):
        stats.ridge_cv(X, Y, alphas=alphas)


@pytest.mark.parametrize("alphas", [[-1.0], [np.nan], [1.0, np.inf], [], ["low"]])
def test_operators_at_impossible_penalties_are_refused(alphas):
    X, _ = problem(PRIMAL)
    with pytest.raises(InputError, match="alphas must be"):
        hat_matrices(X[:40], X[40:], alphas)


@pytest.mark.parametrize("folds", [None, 2.5, [], True, [(np.arange(40), np.arange(30, 60))]])
def test_folds_that_cannot_be_used_are_refused(folds):
    X, Y = problem(PRIMAL)
    with pytest.raises(InputError, match="fold"):
        stats.ridge_cv(X, Y, alphas=ALPHAS, folds=folds)


@pytest.mark.parametrize("alpha", [1e-10, 1e-13])
def test_gcv_of_tiny_penalties_does_not_cancel(alpha):
    X, Y = problem((20, 60))
    centred = X - X.mean(axis=0)
    values, vectors = np.linalg.eigh(centred @ centred.T)
    keep = alpha / (values[1:] + alpha)
    turned = vectors[:, 1:].T @ (Y - Y.mean(axis=0))
    expected = 20 * (keep[:, None] ** 2 * turned**2).sum(axis=0) / keep.sum() ** 2
    fit = stats.ridge_cv(X, Y, alphas=[alpha], selection="gcv", precision="float64")
    assert np.allclose(fit.loss, expected, rtol=1e-6)


def test_arrays_that_do_not_fit_are_refused():
    X, Y = problem(PRIMAL)
    with pytest.raises(InputError, match="60 stimuli"):
        stats.ridge_cv(X, Y[:-1], alphas=ALPHAS)
    with pytest.raises(InputError, match="60 stimuli"):
        stats.ridge_cv(X, Y[:, 0], alphas=ALPHAS)
    with pytest.raises(InputError, match="features have shape"):
        stats.ridge_cv(X[:, :0], Y, alphas=ALPHAS)
    with pytest.raises(InputError, match="the fit has 8 features"):
        stats.ridge_cv(X, Y, alphas=[1.0]).predict(X[:, :5])
    with pytest.raises(UnknownNameError, match="gcv"):
        stats.ridge_cv(X, Y, alphas=ALPHAS, selection="leave")
