import numpy as np
import pytest
import torch
from himalaya.kernel_ridge import KernelRidgeCV
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import pairwise
from sklearn.preprocessing import KernelCenterer

from topobrain import stats
from topobrain._checks import InputError, UnknownNameError
from topobrain.stats.ridge import nested_ridge, ridge_cv
from topobrain.stats.ridge.kernels import kernel, kernel_ridge_cv, nested_kernel_ridge

ALPHAS = np.logspace(-2, 3, 6)
KINDS = {
    "linear": (pairwise.linear_kernel, {}),
    "polynomial": (pairwise.polynomial_kernel, {"degree": 3, "gamma": 0.2, "coef0": 1.0}),
    "gaussian": (pairwise.rbf_kernel, {"gamma": 0.2}),
    "cosine": (pairwise.cosine_similarity, {}),
}


def problem(shape=(50, 8), n_voxels=5, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal(shape) + rng.standard_normal(shape[1])
    Y = X @ rng.standard_normal((shape[1], n_voxels)) / np.sqrt(shape[1])
    return X, Y + rng.standard_normal(Y.shape) * np.arange(1, n_voxels + 1) / 2 + 3.0


def folds(n, k=4):
    outer = list(stats.make_folds(range(n), k))
    return {"outer": outer, "inner": [list(stats.make_folds(range(len(train)), k)) for train, _ in outer]}


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_equal_scikit_learns(kind):
    X, _ = problem()
    oracle, options = KINDS[kind]
    given = {} if kind in ("linear", "cosine") else {"gamma": 0.2}
    assert np.allclose(kernel(X, kind=kind, **given), oracle(X, **options))
    assert np.allclose(kernel(X[:30], X[30:], kind=kind, **given), oracle(X[30:], X[:30], **options))
    if kind in ("polynomial", "gaussian"):
        assert np.allclose(kernel(X, kind=kind), oracle(X, **{**options, "gamma": None}))


def test_a_row_of_zeros_is_like_nothing_to_the_cosine():
    assert kernel(np.array([[0.0, 0.0], [3.0, 4.0]]), kind="cosine").tolist() == [[0.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("shape", [(50, 8), (40, 90)])
@pytest.mark.parametrize("selection", ["kfold", "gcv"])
def test_the_linear_kernel_is_ridge(shape, selection):
    X, Y = problem(shape)
    rest = X[-10:]
    X, Y = X[:-10], Y[:-10]
    plain = ridge_cv(X, Y, alphas=ALPHAS, selection=selection)
    fit = kernel_ridge_cv(kernel(X), Y, alphas=ALPHAS, selection=selection)
    assert np.array_equal(fit.alpha, plain.alpha)
    assert np.array_equal(fit.edge, plain.edge)
    assert np.allclose(fit.loss, plain.loss, rtol=1e-6)
    assert np.allclose(fit.predict(kernel(X, rest)), plain.predict(rest), rtol=1e-6)
    assert len(set(fit.alpha)) > 1


@pytest.mark.parametrize("shape", [(50, 8), (40, 90)])
@pytest.mark.parametrize("selection", ["kfold", "gcv"])
def test_the_nested_form_is_nested_ridge(shape, selection):
    X, Y = problem(shape)
    options = {"alphas": ALPHAS, **folds(shape[0]), "selection": selection}
    plain, fit = nested_ridge(X, Y, **options), nested_kernel_ridge(kernel(X), Y, **options)
    assert np.array_equal(fit.alpha, plain.alpha)
    for name in ("prediction", "r", "loss", "variance"):
        assert np.allclose(getattr(fit, name), getattr(plain, name), rtol=1e-6, atol=1e-9), name


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_alpha_equals_scikit_learn_on_the_centred_kernel(kind):
    X, Y = problem()
    K = kernel(X, kind=kind)
    train, test = np.arange(40), np.arange(40, 50)
    centre = KernelCenterer().fit(K[:40, :40])
    oracle = KernelRidge(alpha=0.7, kernel="precomputed").fit(centre.transform(K[:40, :40]), Y[:40] - Y[:40].mean(0))
    expected = oracle.predict(centre.transform(K[40:, :40])) + Y[:40].mean(0)
    fit = kernel_ridge_cv(K[:40, :40], Y[:40], alphas=[0.7])
    assert np.allclose(fit.predict(K[40:, :40]), expected, rtol=1e-6)
    nested = nested_kernel_ridge(K, Y, alphas=[0.7], outer=[(train, test)], inner=[()])
    assert np.allclose(nested.prediction[test], expected, rtol=1e-6)
    assert np.isnan(nested.prediction[train]).all()


@pytest.mark.parametrize("kind", ["gaussian", "polynomial"])
def test_choice_and_predictions_equal_himalayas(kind):
    X, Y = problem((48, 6))
    K = kernel(X, kind=kind)
    splits = list(stats.make_folds(range(48), 4))
    peer = KernelRidgeCV(alphas=ALPHAS, kernel="precomputed", cv=splits, fit_intercept=True).fit(K, Y)
    fit = kernel_ridge_cv(K, Y, alphas=ALPHAS, folds=splits)
    assert np.allclose(fit.loss, -np.asarray(peer.cv_scores_).ravel(), rtol=1e-5)
    assert np.allclose(fit.alpha, peer.best_alphas_)
    assert np.allclose(fit.predict(K), peer.predict(K), rtol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "gaussian"])
def test_leave_one_out_is_k_fold_with_a_row_a_fold(kind):
    X, Y = problem((24, 5))
    K, rows = kernel(X, kind=kind), np.arange(24)
    one = kernel_ridge_cv(K, Y, alphas=ALPHAS, folds=[(np.delete(rows, i), rows[i : i + 1]) for i in rows])
    two = kernel_ridge_cv(K, Y, alphas=ALPHAS, selection="loo")
    assert np.array_equal(one.alpha, two.alpha)
    assert np.allclose(one.loss, two.loss, rtol=1e-8)


def test_an_interpolating_fit_has_no_leave_one_out_error():
    X, Y = problem((20, 60))
    fit = kernel_ridge_cv(kernel(X), Y, alphas=[0.0, 10.0], selection="loo")
    assert (fit.alpha == 10.0).all()


def test_a_gaussian_kernel_finds_what_a_line_cannot():
    X, _ = problem((150, 2))
    X = X - X.mean(axis=0)
    Y = np.column_stack([X[:, 0] ** 2, np.random.default_rng(1).standard_normal(150)])
    scores = {
        kind: nested_kernel_ridge(kernel(X, kind=kind), Y, alphas=np.logspace(-4, 2, 7), **folds(150)).r.mean(axis=0)
        for kind in ("linear", "gaussian")
    }
    assert scores["gaussian"][0] > 0.95
    assert scores["linear"][0] < 0.4
    assert abs(scores["gaussian"][1]) < 0.25


def test_a_constant_added_to_the_kernel_or_the_responses_changes_nothing():
    X, Y = problem()
    K = kernel(X, kind="gaussian")
    options = {"alphas": ALPHAS, **folds(50)}
    plain = nested_kernel_ridge(K, Y, **options)
    moved = nested_kernel_ridge(K + 10, Y + 1000, **options)
    assert np.allclose(moved.prediction - 1000, plain.prediction, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("selection", ["kfold", "gcv", "loo"])
def test_missing_and_constant_voxels_are_nan_and_leave_the_others_alone(selection):
    X, Y = problem()
    K = kernel(X, kind="gaussian")
    spoiled = np.insert(Y, [0, 2, 5], 0.1, axis=1)
    spoiled[4, 0], spoiled[:, 3], spoiled[2, 7] = np.nan, 0.1, np.inf
    bad, good = [0, 3, 7], [1, 2, 4, 5, 6]
    clean, fit = (kernel_ridge_cv(K, y, alphas=ALPHAS, selection=selection) for y in (Y, spoiled))
    for name in ("dual_coef", "intercept", "alpha", "loss", "edge"):
        assert np.isnan(getattr(fit, name)[..., bad]).all(), name
        assert np.allclose(getattr(fit, name)[..., good], getattr(clean, name)), name
    nested = nested_kernel_ridge(K, spoiled, alphas=ALPHAS, **folds(50), selection=selection)
    assert nested.n_unusable == 3
    assert np.isnan(nested.r[:, bad]).all()
    assert np.isfinite(nested.r[:, good]).all()


def test_impossible_input_is_named():
    X, Y = problem()
    K = kernel(X)
    for bad, message in (
        (K[:, :-1], "expected .stimulus, stimulus."),
        (np.triu(K), "not symmetric"),
        (np.where(np.eye(50) > 0, np.nan, K), "nan at row 0, column 0"),
        (pairwise.euclidean_distances(X), "distances instead of similarities"),
    ):
        with pytest.raises(InputError, match=message):
            kernel_ridge_cv(bad, Y, alphas=ALPHAS)
    with pytest.raises(InputError, match="50 stimuli"):
        kernel_ridge_cv(K, Y[:-1], alphas=ALPHAS)
    with pytest.raises(InputError, match="alphas must be finite"):
        kernel_ridge_cv(K, Y, alphas=[-1.0])
    with pytest.raises(InputError, match="50 training stimuli"):
        kernel_ridge_cv(K, Y, alphas=[1.0]).predict(K[:, :40])
    with pytest.raises(InputError, match="as many sets of inner folds"):
        nested_kernel_ridge(K, Y, alphas=ALPHAS, outer=folds(50)["outer"], inner=[])
    with pytest.raises(UnknownNameError, match="gaussian"):
        kernel(X, kind="gausian")
    with pytest.raises(InputError, match="gamma must be above 0"):
        kernel(X, kind="gaussian", gamma=-1.0)
    with pytest.raises(InputError, match="7 features, the others 8"):
        kernel(X, X[:, :7])


def test_masks_are_read_as_masks():
    X, Y = problem()
    K, given = kernel(X), folds(50)

    def mask(rows, n):
        return np.isin(np.arange(n), rows)

    masks = {
        "outer": [(mask(a, 50), mask(b, 50)) for a, b in given["outer"]],
        "inner": [
            [(mask(a, len(train)), mask(b, len(train))) for a, b in inner]
            for (train, _), inner in zip(given["outer"], given["inner"], strict=True)
        ],
    }
    by_row, by_mask = (nested_kernel_ridge(K, Y, alphas=ALPHAS, **which) for which in (given, masks))
    assert np.array_equal(by_row.prediction, by_mask.prediction)
    one, two = (kernel_ridge_cv(K, Y, alphas=ALPHAS, folds=which) for which in (masks["outer"], np.int64(4)))
    assert np.array_equal(one.loss, two.loss)


ROWS = np.arange(50)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outer": [], "inner": []}, "at least one"),
        ({"outer": None}, "outer must be"),
        ({"inner": None}, "inner must be"),
        ({"inner": [[]] * 4}, "outer fold 0 has no inner folds"),
        ({"outer": [(ROWS - 1, ROWS[:1])] * 4}, "outside"),
        ({"outer": [(ROWS, ROWS[:9])] * 4}, "9 rows in training and in test"),
        ({"inner": [[(ROWS[:30], ROWS[20:37])]] * 4}, "10 rows in training and in test"),
        ({"device": "gpu"}, "device 'gpu'"),
    ],
)
def test_folds_and_options_that_cannot_be_used_are_told(change, message):
    X, Y = problem()
    with pytest.raises(InputError, match=message):
        nested_kernel_ridge(kernel(X), Y, **{"alphas": ALPHAS, **folds(50), **change})


@pytest.mark.parametrize("given", [None, 2.5, [], [(ROWS, ROWS[:9])]])
def test_folds_of_one_level_that_cannot_be_used_are_told(given):
    X, Y = problem()
    with pytest.raises(InputError, match="fold"):
        kernel_ridge_cv(kernel(X), Y, alphas=ALPHAS, folds=given)


@pytest.mark.parametrize("alpha", [1e-10, 1e-13])
def test_gcv_of_tiny_penalties_does_not_cancel(alpha):
    X, Y = problem((20, 60))
    centred = X - X.mean(axis=0)
    values, vectors = np.linalg.eigh(centred @ centred.T)
    keep = alpha / (values[1:] + alpha)
    turned = vectors[:, 1:].T @ (Y - Y.mean(axis=0))
    expected = 20 * (keep[:, None] ** 2 * turned**2).sum(axis=0) / keep.sum() ** 2
    assert np.allclose(kernel_ridge_cv(kernel(X), Y, alphas=[alpha], selection="gcv").loss, expected, rtol=1e-6)


def test_tensors_and_other_things_than_numbers():
    X, Y = problem()
    K = kernel(X)
    found = kernel_ridge_cv(torch.tensor(K, requires_grad=True), torch.tensor(Y, requires_grad=True), alphas=ALPHAS)
    assert np.array_equal(found.dual_coef, kernel_ridge_cv(K, Y, alphas=ALPHAS).dual_coef)
    for bad in (K + 0j, K.astype(str)):
        with pytest.raises(InputError, match="the kernel must be real"):
            kernel_ridge_cv(bad, Y, alphas=ALPHAS)
