import numpy as np
import pytest
from scipy import stats as scipy_stats

from topobrain import stats
from topobrain._checks import InputError, UnknownNameError


@pytest.fixture
def sides():
    rng = np.random.default_rng(0)
    on = rng.standard_normal((17, 30)) * rng.uniform(0.1, 5, 30) + rng.standard_normal(30)
    return on, 2 * rng.standard_normal((9, 30))


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize(("ours", "equal_var"), [(stats.welch_t, False), (stats.student_t, True)])
def test_t_and_p_equal_scipy(sides, ours, equal_var, alternative):
    expected = scipy_stats.ttest_ind(*sides, equal_var=equal_var, alternative=alternative)
    found = ours(*sides, alternative=alternative)
    assert np.allclose(found.t, expected.statistic, rtol=1e-12, atol=0)
    assert np.allclose(found.p, expected.pvalue, rtol=1e-10, atol=0)


def test_float32_input_is_summed_in_float64():
    rng = np.random.default_rng(1)
    on, off = (rng.standard_normal((400, 5)).astype(np.float32) + np.float32(1000) for _ in range(2))
    expected = scipy_stats.ttest_ind(on.astype(float), off.astype(float), equal_var=False)
    assert np.allclose(stats.welch_t(on, off).t, expected.statistic, rtol=1e-9)


def test_swapping_the_sides_negates_t_and_keeps_p(sides):
    there, back = stats.welch_t(*sides), stats.welch_t(*sides[::-1])
    assert np.array_equal(there.t, -back.t)
    assert np.array_equal(there.p, back.p)


def test_identical_sides_give_zero(sides):
    assert (stats.welch_t(sides[0], sides[0]).t == 0).all()


@pytest.mark.parametrize("test", [stats.welch_t, stats.student_t])
@pytest.mark.parametrize("level", [0.0, 0.1, 1 / 3, 1e6 + 0.1])
@pytest.mark.parametrize("step", [0.0, 0.7])
def test_a_unit_constant_in_both_conditions_has_no_t_and_the_others_keep_theirs(sides, test, level, step):
    on, off = (side.copy() for side in sides)
    before = test(on, off)
    on[:, 4], off[:, 4] = level + step, level
    t, p = test(on, off)
    assert np.isnan([t[4], p[4]]).all()
    others = np.arange(30) != 4
    assert np.array_equal(t[others], before.t[others])
    assert np.array_equal(p[others], before.p[others])


@pytest.mark.parametrize("ours", [stats.welch_t, stats.student_t])
def test_a_unit_constant_in_one_condition_equals_scipy(sides, ours):
    on, off = sides[0], np.full_like(sides[1], 0.25)
    off[0] += 1e-7  # scipy warns of an exactly constant side
    expected = scipy_stats.ttest_ind(on, off, equal_var=ours is stats.student_t)
    assert np.allclose(ours(on, off).t, expected.statistic)
    assert np.allclose(ours(on, off).p, expected.pvalue)


def test_a_missing_value_spoils_its_own_unit_only(sides):
    on = sides[0].copy()
    on[3, 7] = np.nan
    t, p = stats.welch_t(on, sides[1])
    assert np.flatnonzero(np.isnan(t)).tolist() == [7]
    assert np.flatnonzero(np.isnan(p)).tolist() == [7]


def test_sides_that_do_not_fit_are_refused(sides):
    with pytest.raises(InputError, match="off side has shape"):
        stats.welch_t(sides[0], sides[1][:1])
    with pytest.raises(InputError, match="30 and 29 units"):
        stats.student_t(sides[0], sides[1][:, 1:])
    with pytest.raises(UnknownNameError, match="greater"):
        stats.welch_t(*sides, alternative="grater")


def test_p_is_uniform_without_an_effect():
    rng = np.random.default_rng(2)
    p = stats.welch_t(rng.standard_normal((20, 5000)), 3 * rng.standard_normal((12, 5000))).p
    assert scipy_stats.kstest(p, "uniform").pvalue > 0.01


def test_q_equals_scipy():
    rng = np.random.default_rng(3)
    for p in (rng.uniform(size=200) ** 3, np.array([0.5]), np.array([0.02, 0.02, 0.9, 1.0, 0.0])):
        assert np.allclose(stats.fdr_bh(p), scipy_stats.false_discovery_control(p), rtol=1e-12)


def test_q_ignores_missing_p_and_keeps_the_shape():
    p = np.array([[0.01, np.nan, 0.2], [0.03, 0.9, np.nan]])
    q = stats.fdr_bh(p)
    valid = np.isfinite(p)
    assert q.shape == p.shape
    assert np.isnan(q[~valid]).all()
    assert np.allclose(q[valid], scipy_stats.false_discovery_control(p[valid]))
    assert np.isnan(stats.fdr_bh(np.full(3, np.nan))).all()


def test_impossible_p_are_refused():
    for bad in (-0.1, 1.1):
        with pytest.raises(InputError, match="between 0 and 1"):
            stats.fdr_bh(np.array([0.5, bad]))


def test_select_top_is_exact_with_ties():
    score = np.array([1.0, 3, 2, 3, 3, 2, 0])
    for k in range(1, 8):
        mask = stats.select_top(score, k)
        assert mask.sum() == k
        assert score[mask].min() >= score[~mask].max(initial=-np.inf)
    assert np.flatnonzero(stats.select_top(score, 2)).tolist() == [1, 3]
    assert np.flatnonzero(stats.select_top(np.zeros(10), 4)).tolist() == [0, 1, 2, 3]


def test_select_top_by_share_counts_all_units_and_takes_at_least_one():
    score = np.arange(300.0)
    assert np.flatnonzero(stats.select_top(score, 0.01)).tolist() == [297, 298, 299]
    assert stats.select_top(score, 1e-6).sum() == 1


def test_select_top_never_takes_a_unit_without_a_score():
    score = np.array([np.nan, 1.0, np.nan, -5.0])
    assert np.flatnonzero(stats.select_top(score, 2)).tolist() == [1, 3]
    with pytest.raises(InputError, match="2 of 4 units have a score"):
        stats.select_top(score, 3)


@pytest.mark.parametrize("top", [0, -1, 0.0, 1.0, 1.5, True, float("nan")])
def test_select_top_refuses_other_shares(top):
    with pytest.raises(InputError):
        stats.select_top(np.arange(5.0), top)
