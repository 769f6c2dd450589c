import numpy as np
import pytest
from scipy.stats import kstest

from topobrain import stats
from topobrain._checks import InputError


def test_fields_equal_their_formulas():
    null = np.random.default_rng(0).standard_normal(99) * 0.1 + 0.2
    found = stats.compare_with_null(0.5, null)
    assert found.value == 0.5
    assert found.null_mean == pytest.approx(null.mean())
    assert found.null_sd == pytest.approx(null.std(ddof=1))
    assert found.z == pytest.approx((0.5 - null.mean()) / null.std(ddof=1))
    assert found.p == (1 + (null >= 0.5).sum()) / 100
    assert found.corrected == pytest.approx((0.5 - null.mean()) / (1 - null.mean()))


def test_p_never_reaches_zero_and_ties_count_against_the_value():
    assert stats.compare_with_null(9.0, np.zeros(19)).p == 1 / 20
    assert stats.compare_with_null(0.3, np.array([0.1 + 0.2, 0.0, 0.0])).p == 2 / 4
    assert stats.compare_with_null(-1.0, np.zeros(19)).p == 1


def test_p_is_uniform_when_the_value_comes_from_the_null():
    rng = np.random.default_rng(0)
    p = [stats.compare_with_null(draw[0], draw[1:]).p for draw in rng.standard_normal((500, 200))]
    assert kstest(p, "uniform").pvalue > 0.01


def test_a_null_without_spread_has_no_z():
    found = stats.compare_with_null(1.0, np.zeros(5))
    assert np.isnan(found.z)
    assert found.corrected == 1


def test_missing_values_stay_missing():
    assert np.isnan(stats.compare_with_null(np.nan, np.arange(3.0))[3:]).all()
    assert np.isnan(stats.compare_with_null(1.0, np.array([0.0, np.nan]))[3:]).all()


@pytest.mark.parametrize("null", [np.zeros(1), np.zeros((3, 3))])
def test_a_null_needs_draws(null):
    with pytest.raises(InputError, match="two draws"):
        stats.compare_with_null(0.0, null)


def test_layout_permutations_are_permutations_that_follow_the_seed():
    orders = stats.layout_permutations(50, 200, seed=3)
    assert (np.sort(orders, axis=1) == np.arange(50)).all()
    assert np.array_equal(orders, stats.layout_permutations(50, 200, seed=3))
    assert not np.array_equal(orders, stats.layout_permutations(50, 200, seed=4))
    assert len(np.unique(orders, axis=0)) == 200
    assert np.abs(orders.mean(axis=0) - 24.5).max() < 5
    with pytest.raises(InputError, match="n_null"):
        stats.layout_permutations(5, 1)
