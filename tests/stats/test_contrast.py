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


def test_q_of_groups_is_q_of_each_by_itself():
    rng = np.random.default_rng(4)
    p, groups = rng.uniform(size=(6, 50)) ** 4, rng.integers(-2, 3, (6, 50))
    p[2, 7] = np.nan
    q = stats.fdr_bh(p, groups)
    for group in np.unique(groups):
        assert np.array_equal(q[groups == group], stats.fdr_bh(p[groups == group]), equal_nan=True)
    assert not np.allclose(q, stats.fdr_bh(p), equal_nan=True)
    assert np.array_equal(stats.fdr_bh(p, np.zeros_like(groups)), stats.fdr_bh(p), equal_nan=True)
    assert np.isnan(stats.fdr_bh(np.full(3, np.nan), np.arange(3))).all()


def test_groups_that_do_not_fit_are_refused():
    for groups in (np.zeros(4, dtype=int), np.zeros(5), np.zeros((1, 5), dtype=int)):
        with pytest.raises(InputError, match="a whole number for each p-value"):
            stats.fdr_bh(np.full(5, 0.5), groups)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("test", ["welch", "student"])
def test_t_from_moments_equals_scipy_from_statistics(sides, test, alternative):
    rows, codes = np.concatenate(sides), np.repeat([0, 1, 2], [10, 7, 9])
    moments = stats.group_moments(rows, codes, 3)
    found = stats.t_from_moments(moments.side([0, 1]), moments.side(2), test=test, alternative=alternative)
    described = [(one.mean(axis=0), one.std(axis=0, ddof=1), len(one)) for one in sides]
    expected = scipy_stats.ttest_ind_from_stats(
        *described[0], *described[1], equal_var=test == "student", alternative=alternative
    )
    assert np.allclose(found.t, expected.statistic, rtol=1e-11)
    assert np.allclose(found.p, expected.pvalue, rtol=1e-9)


@pytest.mark.parametrize("test", [stats.welch_t, stats.student_t])
def test_population_variances_change_t_by_their_factor_and_not_the_degrees_of_freedom(test):
    rng = np.random.default_rng(5)
    on, off = rng.standard_normal((8, 40)) + 0.5, 2 * rng.standard_normal((8, 40))
    unbiased, population = test(on, off), test(on, off, ddof=0)
    assert np.allclose(population.t, unbiased.t * np.sqrt(8 / 7), rtol=1e-13)
    if test is stats.student_t:
        assert np.allclose(population.p, 2 * scipy_stats.t.sf(np.abs(population.t), 14), rtol=1e-11)
    assert (population.p < unbiased.p).all()


@pytest.mark.parametrize("test", [stats.welch_t, stats.student_t])
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_units_without_variance_follow_the_policy_and_nothing_is_infinite(test, ddof, alternative):
    rng = np.random.default_rng(6)
    on, off = rng.standard_normal((6, 6)), rng.standard_normal((5, 6))
    on[:, 0], off[:, 0] = 3.0, 3.0  # constant
    on[:, 1], off[:, 1] = 3.0, -2.0  # constant in each
    on[:, 2] = 1.0  # constant in one
    on[2, 3] = np.nan
    off[1, 4] = np.inf
    options = {"ddof": ddof, "alternative": alternative}
    nan, zero = test(on, off, **options), test(on, off, zero_variance="zero", **options)
    assert np.isnan(nan.t).tolist() == np.isnan(nan.p).tolist() == [True, True, False, True, True, False]
    assert zero.t[:2].tolist() == [0, 0]
    assert zero.p[:2].tolist() == [1, 1]
    for found, expected in zip(zero, nan, strict=True):
        assert np.array_equal(found[2:], expected[2:], equal_nan=True)
        assert not np.isinf(found).any()


@pytest.mark.parametrize("scale", [1e-150, 1e-170, 1e-300, 1e150, 1e200, 1e308])
def test_values_of_any_size_give_a_finite_t_or_none(sides, scale):
    with np.errstate(all="raise"):
        on, off = sides[0] * (scale / 8), sides[1] * (scale / 8)
    for test in (stats.welch_t, stats.student_t):
        found = test(on, off)
        assert not np.isinf(found.t).any()
        finite = np.isfinite(found.t)
        assert np.allclose(found.t[finite], test(*sides).t[finite], rtol=1e-3)
    if scale in (1e-150, 1e150):
        assert finite.all()


def test_a_large_offset_changes_nothing():
    rng = np.random.default_rng(7)
    on, off = (rng.integers(-50, 50, (40, 6)) / 16 for _ in range(2))  # exact in float32 beside a million
    plain, shifted = (
        stats.welch_t(on, off),
        stats.welch_t((on + 1e6).astype(np.float32), (off + 1e6).astype(np.float32)),
    )
    assert np.allclose(plain.t, shifted.t, rtol=1e-8)


def test_order_of_units_and_stimuli_does_not_matter(sides):
    rng = np.random.default_rng(8)
    units, rows = rng.permutation(30), rng.permutation(17)
    found, expected = stats.welch_t(sides[0][rows][:, units], sides[1][:, units]), stats.welch_t(*sides)
    assert np.allclose(found.t, expected.t[units], rtol=1e-12)
    assert np.allclose(found.p, expected.p[units], rtol=1e-11)


@pytest.mark.parametrize("test", ["welch", "student"])
def test_equal_sides_give_zero_exactly_and_swapped_ones_minus_t(sides, test):
    rows = np.concatenate([sides[0], sides[0], sides[1]])
    moments = stats.group_moments(rows, np.repeat([0, 1, 2], [17, 17, 9]), 3)
    assert (stats.t_from_moments(moments.side(0), moments.side(1), test=test).t == 0).all()
    for ddof in (0, 1):
        there = stats.t_from_moments(moments.side(0), moments.side(2), test=test, ddof=ddof)
        back = stats.t_from_moments(moments.side(2), moments.side(0), test=test, ddof=ddof)
        assert np.array_equal(there.t, -back.t)
        assert np.array_equal(there.p, back.p)


def test_moments_that_do_not_fit_are_refused(sides):
    moments = stats.group_moments(np.concatenate(sides), np.repeat([0, 1], [1, 25]), 3)
    for groups, n in ((0, 1), (2, 0)):
        with pytest.raises(InputError, match=f"the off side has {n} stimuli"):
            stats.t_from_moments(moments.side(1), moments.side(groups))
    other = stats.group_moments(sides[0][:, 1:], np.zeros(17, dtype=int), 1)
    with pytest.raises(InputError, match="30 and 29 units"):
        stats.t_from_moments(moments.side(1), other.side(0))


def test_options_that_do_not_exist_are_refused(sides):
    for options in ({"test": "wlech"}, {"alternative": "more"}, {"zero_variance": "inf"}):
        with pytest.raises(UnknownNameError):
            stats.TTest(**options)
    for options in ({"ddof": 2}, {"ddof": True}, {"ddof": 0.5}, {"rectify": 1}):
        with pytest.raises(InputError):
            stats.TTest(**options)
    with pytest.raises(InputError, match="ddof must be"):
        stats.welch_t(*sides, ddof=-1)
    with pytest.raises(UnknownNameError, match="zero"):
        stats.student_t(*sides, zero_variance="zeros")


def test_a_test_object_is_the_function_with_its_options(sides):
    for test, function in (("welch", stats.welch_t), ("student", stats.student_t)):
        options = {"ddof": 0, "alternative": "less", "zero_variance": "zero"}
        found = stats.TTest(test=test, rectify=True, **options).of_values(*sides)
        expected = function(np.abs(sides[0]), np.abs(sides[1]), **options)
        assert np.array_equal(found.t, expected.t)
        assert np.array_equal(found.p, expected.p)


def test_rectified_values_make_swapping_signs_of_units_invisible(sides):
    test = stats.TTest(rectify=True)
    flipped = np.where(np.arange(30) % 2, 1, -1)
    assert np.array_equal(test.of_values(*sides).t, test.of_values(sides[0] * flipped, sides[1] * flipped).t)


def test_signed_log_p_is_what_it_says_and_finite(sides):
    t, p = stats.welch_t(*sides)
    found = stats.signed_log_p(t, p)
    assert np.allclose(10.0 ** -np.abs(found), p, rtol=1e-10)
    assert np.array_equal(np.sign(found), np.sign(t))
    edge = stats.signed_log_p(np.array([0.0, 2.0, 90.0, -90.0, np.nan]), np.array([1.0, 1.0, 0.0, 0.0, np.nan]))
    assert edge[:2].tolist() == [0, 0]
    assert edge[2] == -edge[3] == pytest.approx(323.3062)
    assert np.isnan(edge[4])


def test_signed_log_p_refuses_what_does_not_fit():
    with pytest.raises(InputError, match="shapes"):
        stats.signed_log_p(np.zeros(3), np.full(2, 0.5))
    with pytest.raises(InputError, match="between 0 and 1"):
        stats.signed_log_p(np.zeros(2), np.array([0.5, 1.5]))


def test_planted_units_stand_out_and_permuted_labels_show_nothing():
    rng = np.random.default_rng(9)
    mixing = rng.standard_normal((60, 400)) / 6  # units that hang together, as in a model
    planted = np.arange(400) < 40
    few, found = [], []
    for seed in range(10):
        draw = np.random.default_rng(seed)
        values = draw.standard_normal((480, 60)) @ mixing + draw.standard_normal((480, 400))
        on = draw.permutation(480) < 240
        p = stats.welch_t(values[on], values[~on]).p
        few.append((p < 0.05).mean())
        found.append((stats.fdr_bh(p) < 0.05).any())
    assert abs(np.mean(few) - 0.05) < 0.02
    assert np.mean(found) <= 0.2
    values[on] += planted * values.std(axis=0)
    t = stats.welch_t(values[on], values[~on]).t
    above = (t[planted][:, None] > t[~planted]).mean()
    assert above > 0.99
