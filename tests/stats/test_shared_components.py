import numpy as np
import pytest
import scipy.linalg
from sklearn.cross_decomposition import CCA, PLSSVD
from sklearn.decomposition import PCA

from topobrain._checks import InputError, UnknownNameError
from topobrain.stats.components import fix_signs
from topobrain.stats.folds import Folds, make_folds
from topobrain.stats.shared_components import (
    cca,
    component_null,
    held_out_components,
    most_components,
    pls_svd,
)

SHAPES = [(60, 8, 30), (60, 30, 8), (300, 280, 330), (300, 330, 280), (50, 90, 120), (50, 120, 90), (300, 400, 320)]
"""Stimuli, units, voxels: cross-products decomposed, one Gram matrix, two."""


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def study(n, p, v, seed=0, scales=(8.0, 6.0, 4.0, 3.0)):
    """Responses that share four latents of falling strength, columns on different scales."""
    latent = noise(n, 4, seed=seed)
    unit_axes, voxel_axes = (np.linalg.qr(noise(k, 4, seed=seed + i))[0] for i, k in ((1, p), (2, v)))
    X = 3 + latent * scales @ unit_axes.T + noise(n, p, seed=seed + 3)
    Y = 50 + latent * scales @ voxel_axes.T + noise(n, v, seed=seed + 4)
    return X * np.linspace(0.5, 2, p), Y * np.linspace(3, 1, v)


def rotation(k, seed=9):
    return np.linalg.qr(noise(k, k, seed=seed))[0]


def standardised(values, scale=True):
    centred = values - values.mean(axis=0)
    return centred / values.std(axis=0, ddof=1) if scale else centred


def same_up_to_joint_signs(ours, theirs, close):
    signs = np.sign((ours[0] * theirs[0]).sum(axis=0))
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(one * signs - other).max() < close


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [True, False])
def test_pls_equals_scikit_learn_by_every_route(shape, scale):
    X, Y = study(*shape)
    found, theirs = pls_svd(X, Y, 4, scale=scale), PLSSVD(4, scale=scale).fit(X, Y)
    same_up_to_joint_signs((found.x_weights, found.y_weights), (theirs.x_weights_, theirs.y_weights_), 1e-8)
    exact = scipy.linalg.svdvals(standardised(X, scale).T @ standardised(Y, scale))[:4]
    assert np.allclose(found.singular_values, exact, rtol=1e-10)
    assert (fix_signs(found.x_weights.T) == 1).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.slow
def test_blocks_of_columns_and_float32_change_nothing(shape):
    X, Y = (values.astype(np.float32) for values in study(*shape))
    whole, blocks = pls_svd(X.astype(float), Y.astype(float), 3), pls_svd(X, Y, 3, max_memory="30 kB")
    for name in ("x_weights", "y_weights", "singular_values"):
        assert getattr(blocks, name).dtype == np.float64
        assert np.allclose(
            getattr(blocks, name), getattr(whole, name), rtol=0, atol=1e-9 * abs(getattr(whole, name)).max()
        )
    folds = make_folds(range(shape[0]), 3)
    whole, blocks = (held_out_components(X, Y, folds, 3, max_memory=bound) for bound in (None, 20_000))
    assert np.abs(whole.r - blocks.r).max() < 1e-9
    assert np.abs(whole.y_weights - blocks.y_weights).max() < 1e-9


@pytest.mark.parametrize("method", ["pls", "cca", "pca"])
def test_a_side_agrees_with_itself(method):
    for X in (noise(60, 9), noise(40, 90)):
        held = held_out_components(X, X, make_folds(range(len(X)), 4), 5, method=method)
        assert held.r.min() > 1 - 1e-10
        assert np.allclose(held.x_scores / held.x_scores.std(0), held.y_scores / held.y_scores.std(0))


def test_a_side_agrees_with_itself_in_training():
    X = noise(60, 9)
    found = pls_svd(X, X, 5)
    assert np.allclose(found.x_weights, found.y_weights)
    assert np.allclose(cca(X, X, 5, regularization=0).singular_values, 1)


def test_planted_components_are_found_in_order():
    n, latent = 400, noise(400, 3)
    axes = [np.linalg.qr(noise(k, 3, seed=k))[0] for k in (40, 300)]
    strength = np.array([9.0, 6.0, 4.0])
    X, Y = (latent * strength @ side.T + 0.3 * noise(n, len(side), seed=5 + i) for i, side in enumerate(axes))
    held = held_out_components(X, Y, make_folds(range(n), 5), 3, scale=False)
    for component in range(3):
        assert abs(held.x_weights[component] @ axes[0][:, component]) > 0.98
        assert abs(held.y_weights[component] @ axes[1][:, component]) > 0.98
        assert abs(np.corrcoef(held.x_scores[:, component], latent[:, component])[0, 1]) > 0.98
    assert held.r.min() > 0.95
    assert (np.diff(held.singular_values, axis=1) < 0).all()


@pytest.mark.parametrize("shape", [(60, 8, 30), (50, 90, 120)])
@pytest.mark.parametrize("method", ["pls", "cca", "pca"])
def test_rotating_units_and_voxels_turns_weights_and_changes_no_score(shape, method):
    X, Y = study(*shape)
    folds = make_folds(range(shape[0]), 4)
    turn_x, turn_y = rotation(shape[1]), rotation(shape[2], seed=10)
    plain = held_out_components(X, Y, folds, 3, method=method, scale=False)
    turned = held_out_components(X @ turn_x, Y @ turn_y, folds, 3, method=method, scale=False)
    assert np.abs(plain.r - turned.r).max() < 1e-8
    assert np.allclose(plain.singular_values, turned.singular_values)
    back = (turned.x_weights @ turn_x.T).T, (turned.y_weights @ turn_y.T).T
    same_up_to_joint_signs(back, (plain.x_weights.T, plain.y_weights.T), 1e-8)


@pytest.mark.parametrize("method", ["pls", "cca", "pca"])
def test_shuffling_units_over_their_places_shuffles_weights_and_changes_no_score(method):
    X, Y = study(80, 20, 12)
    folds, order = make_folds(range(80), 4), np.random.default_rng(1).permutation(20)
    plain, shuffled = (held_out_components(given, Y, folds, 3, method=method) for given in (X, X[:, order]))
    assert np.abs(plain.r - shuffled.r).max() < 1e-9
    assert np.abs(plain.x_weights[:, order] - shuffled.x_weights).max() < 1e-9
    moved = np.random.default_rng(2).permutation(80)
    place = np.argsort(moved)
    other = Folds(tuple((place[train], place[test]) for train, test in folds), "given")
    assert np.abs(held_out_components(X[moved], Y[moved], other, 3, method=method).r - plain.r).max() < 1e-9


@pytest.mark.parametrize("method", ["pls", "cca", "pca"])
def test_test_stimuli_change_no_weight_and_no_scale(method):
    X, Y = study(60, 10, 14)
    folds = Folds(make_folds(range(60), 4).splits[:1], "given")
    test = folds.splits[0][1]
    spoilt_x, spoilt_y = X.copy(), Y.copy()
    spoilt_x[test[0]], spoilt_y[test[1]] = 1e6, -1e7
    one = held_out_components(X, Y, folds, 3, method=method)
    other = held_out_components(spoilt_x, spoilt_y, folds, 3, method=method)
    assert np.array_equal(one.x_weights, other.x_weights)
    assert np.array_equal(one.y_weights, other.y_weights)
    assert np.allclose(one.x_scores[test[2:]], other.x_scores[test[2:]])
    assert np.abs(one.r - other.r).max() > 0.1


def test_held_out_scores_are_those_of_a_slow_computation():
    X, Y = study(80, 15, 25)
    folds = make_folds(range(80), 4)
    held = held_out_components(X, Y, folds, 3)
    for number, (train, test) in enumerate(folds):
        model = PLSSVD(3).fit(X[train], Y[train])
        x, y = model.transform(X[test], Y[test])
        r = [np.corrcoef(x[:, c], y[:, c])[0, 1] for c in range(3)]
        assert np.allclose(held.r[number], r, atol=1e-10)
        assert np.allclose(np.abs(held.x_scores[test]), np.abs(x))
        assert np.allclose(np.abs(held.y_scores[test]), np.abs(y))
        again = [np.corrcoef(held.x_scores[test, c], held.y_scores[test, c])[0, 1] for c in range(3)]
        assert np.allclose(again, r, atol=1e-10)


def test_constant_columns_carry_nothing_even_where_they_vary_in_test():
    X, Y = study(40, 6, 9)
    folds = make_folds(range(40), 4)
    train, test = folds.splits[0]
    wide_x, wide_y = np.insert(X, 2, 7.1, axis=1), np.insert(Y, [0, 5], 1e8 / 3, axis=1)
    wide_x[test, 2], wide_y[test[0], 0] = noise(test.size) * 100, -5.0
    one_fold = Folds(((train, test),), "given")
    for method in ("pls", "cca", "pca"):
        plain = held_out_components(X, Y, one_fold, 3, method=method)
        wide = held_out_components(wide_x, wide_y, one_fold, 3, method=method)
        assert np.allclose(plain.r, wide.r, atol=1e-10)
        assert (wide.x_weights[:, 2] == 0).all()
        assert (wide.y_weights[:, [0, 6]] == 0).all()
        assert np.allclose(np.delete(wide.x_weights, 2, axis=1), plain.x_weights)


def test_components_beyond_the_rank_are_zero_and_score_zero():
    X = np.repeat(noise(40, 2), 3, axis=1).astype(np.float32)
    Y = (noise(40, 2, seed=1) @ noise(2, 300, seed=2)).astype(np.float32)
    folds = make_folds(range(40), 4)
    for one, other, method in ((X, Y, "pls"), (Y, X, "pls"), (np.tile(X, 100), Y, "pls"), (X, Y, "cca"), (X, Y, "pca")):
        held = held_out_components(one, other, folds, 4, method=method)
        assert (held.r[:, 2:] == 0).all()
        assert (held.singular_values[:, 2:] == 0).all()
        assert (held.x_weights[2:] == 0).all()
        assert (held.y_weights[2:] == 0).all()
        assert (held.r[:, :2] != 0).all()
        null = component_null(one, other, folds, 4, method=method, n_permutations=5)
        assert (null[:, :, 2:] == 0).all()
        assert (null[:, :, :2] != 0).all()


def test_pca_projects_on_the_models_own_axes():
    X, Y = study(60, 12, 20)
    train, test = make_folds(range(60), 4).splits[1]
    held = held_out_components(X, Y, Folds(((train, test),), "given"), 3, method="pca")
    mean, sd = X[train].mean(axis=0), X[train].std(axis=0, ddof=1)
    scaled, tested = (X[train] - mean) / sd, (X[test] - mean) / sd
    axes = PCA(3).fit(scaled).components_
    signs = fix_signs(axes)
    assert np.allclose(held.x_weights, axes * signs[:, None])
    mean, sd = Y[train].mean(axis=0), Y[train].std(axis=0, ddof=1)
    along = ((Y[train] - mean) / sd).T @ scaled @ held.x_weights.T
    assert np.allclose(held.singular_values[0], np.linalg.norm(along, axis=0))
    assert np.allclose(held.y_weights.T, along / np.linalg.norm(along, axis=0))
    scores = tested @ held.x_weights.T, (Y[test] - mean) / sd @ held.y_weights.T
    assert np.allclose(held.r[0], [np.corrcoef(scores[0][:, c], scores[1][:, c])[0, 1] for c in range(3)])


def closed_form_cca(X, Y, count, regularization):
    """Generalised eigenproblem of the joint covariance."""
    A, B = standardised(X), standardised(Y)
    n, p, v = len(A), A.shape[1], B.shape[1]
    cx, cy, cxy = A.T @ A / (n - 1), B.T @ B / (n - 1), A.T @ B / (n - 1)
    cx += regularization * np.trace(cx) / min(p, n - 1) * np.eye(p)
    cy += regularization * np.trace(cy) / min(v, n - 1) * np.eye(v)
    left = np.block([[np.zeros((p, p)), cxy], [cxy.T, np.zeros((v, v))]])
    values, vectors = scipy.linalg.eigh(left, scipy.linalg.block_diag(cx, cy))
    top = np.sqrt(2) * vectors[:, ::-1][:, :count]
    return values[::-1][:count], top[:p], top[p:]


@pytest.mark.parametrize(
    ("shape", "regularization"),
    [
        *(((60, 8, 13), penalty) for penalty in (0.0, 0.01, 1.0, 30.0)),
        *(((60, 13, 8), penalty) for penalty in (0.0, 1.0)),
        *((shape, penalty) for shape in ((40, 70, 90), (40, 12, 90), (40, 90, 12)) for penalty in (0.01, 1.0)),
    ],
)
def test_cca_equals_the_generalised_eigenproblem(shape, regularization):
    X, Y = study(*shape)
    values, x_weights, y_weights = closed_form_cca(X, Y, 3, regularization)
    found = cca(X, Y, 3, regularization=regularization)
    assert np.allclose(found.singular_values, values, rtol=1e-9)
    same_up_to_joint_signs((found.x_weights, found.y_weights), (x_weights, y_weights), 1e-7)


def test_cca_without_penalty_equals_scikit_learn_and_is_invariant_to_any_linear_map():
    X, Y = study(500, 6, 7)
    found = cca(X, Y, 3, regularization=0)
    x, y = CCA(3, tol=1e-12, max_iter=20_000).fit_transform(X, Y)
    assert np.allclose(found.singular_values, [np.corrcoef(x[:, c], y[:, c])[0, 1] for c in range(3)], atol=1e-6)
    scores = standardised(X) @ found.x_weights, standardised(Y) @ found.y_weights
    assert np.allclose(scores[0].std(axis=0, ddof=1), 1)
    assert np.allclose([np.corrcoef(scores[0][:, c], scores[1][:, c])[0, 1] for c in range(3)], found.singular_values)
    folds = make_folds(range(500), 5)
    plain = held_out_components(X, Y, folds, 3, method="cca", regularization=0)
    mapped = held_out_components(X @ noise(6, 6, seed=8), Y, folds, 3, method="cca", regularization=0)
    assert np.abs(plain.r - mapped.r).max() < 1e-8


def test_cca_with_a_large_penalty_becomes_pls():
    X, Y = study(60, 12, 80)
    found, pls = cca(X, Y, 3, regularization=1e7), pls_svd(X, Y, 3)
    x, y = (w / np.linalg.norm(w, axis=0) for w in (found.x_weights, found.y_weights))
    same_up_to_joint_signs((x, y), (pls.x_weights, pls.y_weights), 1e-5)


def test_cca_without_penalty_needs_more_stimuli_than_dimensions():
    X, Y = noise(30, 6), noise(30, 40, seed=1)
    with pytest.raises(InputError, match="Y has 29 over 30 stimuli"):
        cca(X, Y, 2, regularization=0)
    with pytest.raises(InputError, match="X has 29 over 30"):
        cca(noise(30, 29), X, 2, regularization=0)
    few = noise(30, 5, seed=2) @ noise(5, 40, seed=3)  # many voxels of few dimensions
    assert 0 < cca(X, few, 2, regularization=0).singular_values[0] < 1


def test_signs_of_folds_are_aligned_before_maps_are_averaged():
    X, Y = study(200, 12, 15)
    folds = make_folds(range(200), 5)
    held = held_out_components(X, Y, folds, 3)
    whole = pls_svd(X, Y, 3)
    for component in range(3):
        length = np.linalg.norm(held.x_weights[component])
        assert 0.9 < length <= 1 + 1e-12  # maps that cancel would be short
        assert held.x_weights[component] @ whole.x_weights[:, component] / length > 0.9
        assert held.y_weights[component] @ whole.y_weights[:, component] > 0.9
    assert (fix_signs(held.x_weights) == 1).all()


def test_procrustes_undoes_components_that_change_places_and_leaves_r_alone():
    n = 200
    latent = noise(n, 2)
    unit_axes, voxel_axes = (np.linalg.qr(noise(k, 2, seed=k))[0] for k in (15, 20))
    strength = np.ones((n, 2)) * 6.0
    strength[:100, 0], strength[100:, 1] = 10.0, 10.0  # each half has another leading component
    X = latent * strength @ unit_axes.T + 0.1 * noise(n, 15, seed=4)
    Y = latent * strength @ voxel_axes.T + 0.1 * noise(n, 20, seed=5)
    folds = make_folds(range(n), 2)
    sign, turned = (held_out_components(X, Y, folds, 2, scale=False, align_by=by) for by in ("sign", "procrustes"))
    assert np.array_equal(sign.r, turned.r)
    assert np.linalg.norm(sign.x_weights, axis=1).max() < 0.85
    assert np.linalg.norm(turned.x_weights, axis=1).min() > 0.98
    assert np.linalg.norm(turned.y_weights, axis=1).min() > 0.98
    assert np.allclose(np.linalg.norm(sign.x_scores, axis=1), np.linalg.norm(turned.x_scores, axis=1))


def test_stimuli_never_tested_have_no_score():
    X, Y = study(40, 6, 9)
    folds = Folds(((np.arange(20), np.arange(20, 30)),), "given")
    held = held_out_components(X, Y, folds, 2)
    tested = np.isfinite(held.x_scores).all(axis=1) & np.isfinite(held.y_scores).all(axis=1)
    assert np.flatnonzero(tested).tolist() == list(range(20, 30))
    assert np.isnan(held.x_scores[~tested]).all()


def test_one_voxel_and_one_component():
    X, Y = study(60, 8, 30)
    folds = make_folds(range(60), 3)
    held = held_out_components(X, Y[:, :1], folds, 1)
    assert held.y_weights.tolist() in ([[1.0]], [[-1.0]])
    assert most_components(X.shape, (60, 1), folds) == 1
    assert most_components((60, 100), (60, 100), folds) == 39


def test_bad_input_is_told():
    X, Y = study(30, 6, 9)
    folds = make_folds(range(30), 3)
    broken = Y.copy()
    broken[3, 2] = np.nan
    for call in (
        lambda x, y, k: pls_svd(x, y, k),
        lambda x, y, k: cca(x, y, k),
        lambda x, y, k: held_out_components(x, y, folds, k),
        lambda x, y, k: component_null(x, y, folds, k, n_permutations=2),
    ):
        with pytest.raises(InputError, match="missing or infinite values in 1 of 9 voxels"):
            call(X, broken, 2)
        with pytest.raises(InputError, match="the largest possible number is 6"):
            call(X, Y, 7)
        with pytest.raises(InputError, match="30 stimuli and Y has 29"):
            call(X, Y[:-1], 2)
        with pytest.raises(InputError, match="none of the 6 columns of X varies"):
            call(np.ones_like(X), Y, 2)
        with pytest.raises(InputError, match=r"shape \(30,\)"):
            call(X, Y[:, 0], 1)
        with pytest.raises(InputError, match="real numbers"):
            call(X.astype(complex), Y, 1)
        for wrong in (0, True, 1.5):
            with pytest.raises(InputError, match="whole number"):
                call(X, Y, wrong)
    with pytest.raises(InputError, match="largest possible number is 4"):
        pls_svd(noise(5, 20), noise(5, 20), 5)
    with pytest.raises(InputError, match="tests 2 stimuli"):
        held_out_components(X, Y, make_folds(range(30), 15), 2)
    with pytest.raises(UnknownNameError, match="pls"):
        held_out_components(X, Y, folds, 2, method="plz")
    with pytest.raises(UnknownNameError, match="procrustes"):
        held_out_components(X, Y, folds, 2, align_by="procruste")
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="regularization"):
            cca(X, Y, 2, regularization=wrong)
