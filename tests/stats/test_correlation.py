import numpy as np
import pytest
from scipy.stats import pearsonr

from topobrain import stats
from topobrain._checks import InputError


def test_equals_scipy_column_by_column():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((20, 6)) + 1e4, rng.standard_normal((20, 6)) * 1e-6
    assert np.allclose(stats.column_correlation(a, b), [pearsonr(x, y)[0] for x, y in zip(a.T, b.T, strict=True)])


def test_constant_predictions_score_zero_and_constant_targets_have_no_score():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 7, 4))
    a[:, 0], b[:, 1], b[2, 2] = 0.1, 0.1, np.nan
    r = stats.column_correlation(a, b)
    assert r[0] == 0
    assert np.isnan(r[1:3]).all()
    assert r[3] == pytest.approx(pearsonr(a[:, 3], b[:, 3])[0])


def test_never_leaves_the_range():
    a = np.random.default_rng(0).standard_normal((5, 200))
    assert (np.abs(stats.column_correlation(a, 3 * a)) <= 1).all()


def test_shapes_must_agree():
    with pytest.raises(InputError, match="both be"):
        stats.column_correlation(np.zeros((3, 2)), np.zeros((3, 1)))
