"""Principal components against scikit-learn, and what must not change them."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from topobrain._checks import InputError
from topobrain.sheet import Sheet
from topobrain.stats.components import fix_signs, principal_components


def spread(n_stimuli, n_units, seed=0):
    """Return responses whose variances all differ, with means far from 0."""
    rng = np.random.default_rng(seed)
    rank = min(n_stimuli, n_units)
    axes = np.linalg.qr(rng.standard_normal((n_units, rank)))[0].T
    scores = rng.standard_normal((n_stimuli, rank)) * np.geomspace(10, 0.1, rank)
    return scores @ axes + rng.normal(5, 3, n_units)


@pytest.mark.parametrize(("n_stimuli", "n_units"), [(60, 20), (20, 60), (30, 30), (31, 30), (30, 31)])
@pytest.mark.parametrize("scale", [False, True])
def test_equal_to_scikit_learn_up_to_sign(n_stimuli, n_units, scale):
    X = spread(n_stimuli, n_units)
    given = (X - X.mean(axis=0)) / X.std(axis=0, ddof=1) if scale else X
    oracle, found = PCA(8, svd_solver="full").fit(given), principal_components(X, 8, scale=scale)
    signs = fix_signs(oracle.components_)
    assert found.weights == pytest.approx(oracle.components_ * signs[:, None], abs=1e-8)
    assert found.scores == pytest.approx(oracle.transform(given) * signs, abs=1e-8)
    assert found.explained == pytest.approx(oracle.explained_variance_ratio_, abs=1e-12)
    assert found.project(X) == pytest.approx(found.scores, abs=1e-10)


def test_all_components_explain_everything_and_rebuild_the_responses():
    for shape in ((12, 30), (30, 12)):
        X = spread(*shape)
        found = principal_components(X, min(shape[0] - 1, shape[1]))
        assert found.explained.sum() == pytest.approx(1, abs=1e-12)
        assert found.scores @ found.weights + found.mean == pytest.approx(X, abs=1e-10)
        assert found.weights @ found.weights.T == pytest.approx(np.eye(len(found.weights)), abs=1e-12)


def test_the_route_over_stimuli_and_the_route_over_units_agree():
    # a copy of every stimulus doubles all sums and changes no direction: 40 stimuli of 50 units against 80
    X = spread(40, 50)
    by_stimuli, by_units = principal_components(X, 10), principal_components(np.repeat(X, 2, axis=0), 10)
    assert by_units.weights == pytest.approx(by_stimuli.weights, abs=1e-9)
    assert by_units.scores[::2] == pytest.approx(by_stimuli.scores, abs=1e-9)
    assert by_units.explained == pytest.approx(by_stimuli.explained, abs=1e-12)


def test_order_of_stimuli_and_units_only_moves_rows_and_columns():
    X, rng = spread(40, 25), np.random.default_rng(3)
    rows, columns = rng.permutation(40), rng.permutation(25)
    plain, moved = principal_components(X, 5), principal_components(X[rows][:, columns], 5)
    assert moved.weights == pytest.approx(plain.weights[:, columns], abs=1e-10)
    assert moved.scores == pytest.approx(plain.scores[rows], abs=1e-10)


def test_rolling_units_over_a_torus_rolls_the_weight_maps():
    sheet = Sheet.grid(6, 8, wrapped=True)
    X = sheet.smooth(spread(50, 48), 2.0)
    rolled = np.roll(X.reshape(-1, 6, 8), (2, 3), axis=(1, 2)).reshape(-1, 48)
    plain, moved = principal_components(X, 4), principal_components(rolled, 4)
    images = np.stack([np.roll(sheet.to_image(one), (2, 3), axis=(0, 1)) for one in plain.weights])
    assert moved.weights.reshape(-1, 6, 8) == pytest.approx(images, abs=1e-10)
    assert moved.scores == pytest.approx(plain.scores, abs=1e-9)


def test_scale_and_offset_of_single_units_matter_only_without_scaling():
    X, rng = spread(40, 12), np.random.default_rng(1)
    other = X * rng.uniform(0.1, 9, 12) + rng.normal(0, 100, 12)
    plain, scaled = principal_components(X, 3, scale=True), principal_components(other, 3, scale=True)
    assert scaled.weights == pytest.approx(plain.weights, abs=1e-10)
    assert scaled.sd == pytest.approx(other.std(axis=0, ddof=1))
    unscaled = principal_components(other, 3).weights
    assert np.abs(unscaled - principal_components(X, 3).weights).max() > 0.1


def test_float32_and_extreme_sizes():
    X = spread(30, 20)
    plain = principal_components(X, 3)
    assert principal_components(X.astype(np.float32), 3).weights == pytest.approx(plain.weights, abs=1e-4)
    for size in (1e-200, 1e200):
        found = principal_components(X * size, 3)
        assert found.weights == pytest.approx(plain.weights, abs=1e-9)
        assert found.explained == pytest.approx(plain.explained, abs=1e-12)
        assert found.scores == pytest.approx(plain.scores * size, rel=1e-8)


def test_constant_units_have_weight_zero():
    X = spread(30, 20)
    X[:, [4, 7]] = 0.1, 1e6
    for scale in (False, True):
        found = principal_components(X, 5, scale=scale)
        assert (found.weights[:, [4, 7]] == 0).all()
        rest = principal_components(np.delete(X, [4, 7], axis=1), 5, scale=scale)
        assert np.delete(found.weights, [4, 7], axis=1) == pytest.approx(rest.weights, abs=1e-12)


def test_components_beyond_the_rank_are_zero():
    X = np.tile(spread(3, 10), (5, 1))  # fifteen stimuli, three different ones: rank two
    for values in (X, np.tile(X, (1, 3))):
        found = principal_components(values, 4)
        assert found.explained[:2].sum() == pytest.approx(1, abs=1e-12)
        assert (found.explained[2:] == 0).all()
        assert (found.weights[2:] == 0).all()
        assert (found.scores[:, 2:] == 0).all()


def test_signs():
    weights = np.array([[0.2, -0.9, 0.4], [-0.5, 0.5, 0.1], [0.0, 0.0, 0.0], [np.nan, -0.3, 0.1]])
    assert fix_signs(weights).tolist() == [-1.0, -1.0, 1.0, -1.0]
    # a tie that rounding broke is still a tie
    assert fix_signs([[0.5, -0.5 - 1e-15]]).tolist() == [1.0]
    assert fix_signs([[0.5, -0.5 - 1e-6]]).tolist() == [-1.0]
    for found in (principal_components(spread(*shape), 5) for shape in ((30, 20), (20, 30))):
        largest = np.abs(found.weights).argmax(axis=1)
        assert (found.weights[np.arange(5), largest] > 0).all()
    X = spread(30, 20)
    assert principal_components(-X, 5).weights == pytest.approx(principal_components(X, 5).weights, abs=1e-12)
    with pytest.raises(InputError, match="component, unit"):
        fix_signs(np.ones(3))


def test_bad_input():
    X = spread(10, 20)
    with pytest.raises(InputError, match="at most 9"):
        principal_components(X, 10)
    with pytest.raises(InputError, match="at most 4"):
        principal_components(np.hstack([X[:, :4], np.ones((10, 3))]), 5)
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(InputError, match="whole number"):
            principal_components(X, wrong)
    broken = X.copy()
    broken[3, 4] = np.nan
    with pytest.raises(InputError, match="1 of 20 units"):
        principal_components(broken, 2)
    with pytest.raises(InputError, match="none of 4 units varies"):
        principal_components(np.ones((10, 4)), 1)
    with pytest.raises(InputError, match="2 stimuli or more"):
        principal_components(X[:1], 1)
    with pytest.raises(InputError, match="20 units"):
        principal_components(X, 2).project(X[:, :3])
    assert principal_components(X[:, :1], 1).explained[0] == pytest.approx(1)
