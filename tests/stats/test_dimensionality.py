import numpy as np
import pytest

from topobrain import stats
from topobrain._checks import InputError


def with_spectrum(eigenvalues, n_stimuli, n_units, seed=0):
    """Responses whose covariance has exactly these eigenvalues."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n_stimuli, len(eigenvalues)))
    rows = np.linalg.qr(rows - rows.mean(axis=0))[0]
    columns = np.linalg.qr(rng.standard_normal((n_units, len(eigenvalues))))[0]
    return rows * np.sqrt(np.asarray(eigenvalues) * (n_stimuli - 1)) @ columns.T


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (20, 20)])
@pytest.mark.parametrize("eigenvalues", [[3.0], [1.0, 1.0, 1.0, 1.0], [5.0, 2.0, 0.5, 0.1, 0.01]])
def test_participation_ratio_of_a_known_spectrum(shape, eigenvalues):
    values = with_spectrum(eigenvalues, *shape)
    expected = sum(eigenvalues) ** 2 / sum(one**2 for one in eigenvalues)
    assert stats.participation_ratio(values) == pytest.approx(expected, rel=1e-9)
    assert stats.participation_ratio(values + 1e4) == pytest.approx(expected, rel=1e-6)
    covariance = np.cov(values.T)
    assert stats.participation_ratio(values) == pytest.approx(np.trace(covariance) ** 2 / np.sum(covariance**2))


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_it_ignores_scale_rotation_and_offset(scale):
    rng = np.random.default_rng(1)
    values = rng.standard_normal((30, 20)) * np.linspace(0.1, 3, 20)
    rotation = np.linalg.qr(rng.standard_normal((20, 20)))[0]
    expected = stats.participation_ratio(values)
    assert stats.participation_ratio(scale * (values @ rotation + rng.standard_normal(20))) == pytest.approx(expected)


def test_isotropic_noise_has_as_many_dimensions_as_the_sample_allows():
    values = np.random.default_rng(0).standard_normal((400, 60))
    # of white noise with n degrees of freedom in p units, n p / (n + p + 1)
    assert stats.participation_ratio(values) == pytest.approx(399 * 60 / (399 + 60 + 1), rel=0.02)
    assert stats.participation_ratio(values.T) == pytest.approx(59 * 400 / (59 + 400 + 1), rel=0.02)


def test_unbiased_estimates_find_the_dimensionality_of_few_stimuli():
    scale = np.sqrt(np.array([8.0] * 4 + [1.0] * 36))
    truth = (scale**2).sum() ** 2 / (scale**4).sum()
    rng = np.random.default_rng(2)
    samples = [rng.standard_normal((25, 40)) * scale for _ in range(300)]
    plain = np.mean([stats.participation_ratio(one) for one in samples])
    unbiased = np.mean([stats.participation_ratio(one, unbiased=True) for one in samples])
    assert plain < 0.75 * truth
    assert unbiased == pytest.approx(truth, rel=0.06)
    many = rng.standard_normal((20_000, 40)) * scale
    assert stats.participation_ratio(many, unbiased=True) == pytest.approx(truth, rel=0.01)


def test_unbiased_estimate_equals_its_formula():
    values = np.random.default_rng(3).standard_normal((9, 30))
    s, n = np.cov(values.T), 8
    c = n**2 / ((n - 1) * (n + 2)) * (np.trace(s @ s) - np.trace(s) ** 2 / n)
    expected = (np.trace(s) ** 2 - 2 * c / n) / c
    assert stats.participation_ratio(values, unbiased=True) == pytest.approx(expected)


def test_responses_without_variance_have_no_dimensionality():
    assert np.isnan(stats.participation_ratio(np.full((5, 3), 0.1)))
    assert np.isnan(stats.participation_ratio(np.full((5, 3), 1e9 + 1 / 3)))
    one = np.full((5, 3), 1e9 + 1 / 3)
    one[:, 1] = np.arange(5)
    assert stats.participation_ratio(one) == pytest.approx(1.0)
    assert np.isnan(stats.rank_matched_null(np.ones((5, 3)), 2, n_null=4)).all()


@pytest.mark.parametrize("values", [np.zeros(5), np.zeros((1, 5)), np.zeros((5, 0)), np.full((5, 3), np.nan)])
def test_responses_that_do_not_fit_are_refused(values):
    with pytest.raises(InputError):
        stats.participation_ratio(values)
    with pytest.raises(InputError):
        stats.rank_matched_null(values, 2)


def test_an_unbiased_estimate_needs_four_stimuli():
    with pytest.raises(InputError, match="four stimuli"):
        stats.participation_ratio(np.eye(3), unbiased=True)


def test_rank_matched_null_is_the_ratio_of_projected_responses():
    values = with_spectrum([4.0, 3.0, 2.0, 1.0, 0.5], 30, 12)
    null = stats.rank_matched_null(values, 3, n_null=200, seed=1)
    # the same law, drawn in unit space: a random subspace of the row space
    rng, slow = np.random.default_rng(9), []
    rows = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)[2][:5]
    for _ in range(400):
        basis = np.linalg.qr(rng.standard_normal((5, 3)))[0]
        slow.append(stats.participation_ratio(values @ rows.T @ basis))
    assert null.mean() == pytest.approx(np.mean(slow), abs=0.08)
    assert null.std() == pytest.approx(np.std(slow), rel=0.2)
    assert null.max() <= 3 + 1e-9
    assert null.min() >= 1 - 1e-9


def test_rank_matched_null_has_its_limits_and_follows_the_seed():
    values = with_spectrum([4.0, 3.0, 2.0, 1.0, 0.5], 30, 12)
    np.testing.assert_allclose(stats.rank_matched_null(values, 1, n_null=5), 1.0)
    for rank in (5, 12, 1000):
        np.testing.assert_allclose(stats.rank_matched_null(values, rank, n_null=3), stats.participation_ratio(values))
    isotropic = with_spectrum([1.0] * 6, 30, 12)
    np.testing.assert_allclose(stats.rank_matched_null(isotropic, 4, n_null=5), 4.0)
    first, again, other = (stats.rank_matched_null(values, 3, n_null=5, seed=s) for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    for rank in (0, 2.5):
        with pytest.raises(InputError, match="rank"):
            stats.rank_matched_null(values, rank)
    with pytest.raises(InputError, match="n_null"):
        stats.rank_matched_null(values, 2, n_null=1)


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (16, 4, 3, 3)])
@pytest.mark.parametrize("rank", [1, 5, 100])
def test_project_rank_is_the_nearest_weight_of_that_rank(shape, rank):
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    found = stats.project_rank(weight, rank)
    assert found.shape == shape
    assert found.dtype == np.float32
    matrix = weight.reshape(shape[0], -1).astype(float)
    singular = np.linalg.svd(matrix, compute_uv=False)
    assert np.linalg.matrix_rank(found.reshape(shape[0], -1), tol=1e-3) == min(rank, len(singular))
    # Eckart & Young: the squared distance is what the dropped singular values hold
    assert np.sum((found - weight) ** 2.0) == pytest.approx((singular[rank:] ** 2).sum(), rel=1e-4, abs=1e-6)
    np.testing.assert_allclose(stats.project_rank(found, rank), found, atol=1e-5)


def test_project_rank_can_keep_the_norm():
    weight = np.random.default_rng(1).standard_normal((12, 9))
    plain, kept = stats.project_rank(weight, 3), stats.project_rank(weight, 3, keep_norm=True)
    assert np.linalg.norm(plain) < np.linalg.norm(weight)
    assert np.linalg.norm(kept) == pytest.approx(np.linalg.norm(weight))
    np.testing.assert_allclose(kept / np.linalg.norm(kept), plain / np.linalg.norm(plain))
    assert (stats.project_rank(np.zeros((3, 4)), 2, keep_norm=True) == 0).all()
    assert stats.project_rank(np.eye(3, dtype=int), 3).tolist() == np.eye(3).tolist()


@pytest.mark.parametrize("weight", [np.zeros(5), np.zeros((0, 3)), np.full((3, 3), np.nan)])
def test_weights_without_a_rank_are_refused(weight):
    with pytest.raises(InputError, match="weight"):
        stats.project_rank(weight, 1)
    with pytest.raises(InputError, match="rank"):
        stats.project_rank(np.eye(3), 0)
