import itertools

import numpy as np
import pytest
from scipy.stats import kstest, permutation_test, t, ttest_1samp

from topobrain._checks import InputError, UnknownNameError
from topobrain.stats.contrast import fdr_bh
from topobrain.stats.group_tests import (
    bootstrap_stimuli_and_subjects,
    bootstrap_subjects,
    max_statistic_p,
    percentile_interval,
    sign_flip_test,
    t_interval,
)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# sign flips


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_exact_sign_flips_equal_scipy(alternative):
    values = noise(8, 3) + np.array([0.0, 0.6, -0.6])
    found = sign_flip_test(values, alternative=alternative)
    assert (found.exact, found.n_flips) == (True, 256)
    for column in range(3):
        oracle = permutation_test(
            (values[:, column],), np.mean, permutation_type="samples", alternative=alternative, n_resamples=np.inf
        )
        assert found.p[column] == pytest.approx(oracle.pvalue)
        assert found.mean[column] == pytest.approx(oracle.statistic)
    assert found.t == pytest.approx(ttest_1samp(values, 0).statistic)
    assert np.array_equal(found.q, fdr_bh(found.p))


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_the_family_wise_p_equals_an_enumeration_of_the_largest_t(alternative):
    values = noise(7, 4, seed=3) * [1, 5, 0.1, 1] + [0.5, 2.0, 0.0, 0.9]
    side = {"two-sided": np.abs, "greater": lambda t: t, "less": lambda t: -t}[alternative]
    t = side(ttest_1samp(values, 0).statistic)
    largest = np.array(
        [
            side(ttest_1samp(values * np.array(signs)[:, None], 0).statistic).max()
            for signs in itertools.product([1, -1], repeat=7)
        ]
    )
    expected = [(largest >= one - 1e-9).mean() for one in t]
    found = sign_flip_test(values, alternative=alternative)
    assert found.p_max == pytest.approx(expected)
    assert (found.p_max >= found.p).all()


def test_random_flips_come_near_the_exact_p_and_count_the_observed_one():
    values = noise(12, 5, seed=1) + 0.4
    exact, random = sign_flip_test(values, n_flips=4096), sign_flip_test(values, n_flips=4095, seed=2)
    assert (exact.exact, random.exact) == (True, False)
    assert random.p == pytest.approx(exact.p, abs=0.03)
    assert random.p_max == pytest.approx(exact.p_max, abs=0.03)
    strong = sign_flip_test(noise(40, 1) + 50, n_flips=99)
    assert strong.p.tolist() == [1 / 100]
    assert not np.array_equal(random.p, sign_flip_test(values, n_flips=4095, seed=3).p)


def test_p_is_uniform_for_noise_and_the_family_wise_rate_holds():
    p = [sign_flip_test(noise(9, 6, seed=seed), n_flips=512) for seed in range(300)]
    assert kstest([one.p[0] for one in p], "uniform").pvalue > 0.01
    assert 0.02 < np.mean([one.p_max.min() <= 0.05 for one in p]) < 0.085
    assert np.mean([one.p.min() <= 0.05 for one in p]) > 0.15  # not corrected


def test_subjects_without_a_value_do_not_count_in_that_column():
    values = noise(8, 2) + 0.5
    values[6:, 1] = np.nan
    found = sign_flip_test(values)
    assert found.n_subjects.tolist() == [8, 6]
    assert found.p[1] == pytest.approx(sign_flip_test(values[:6, 1:]).p[0])
    assert found.t[1] == pytest.approx(ttest_1samp(values[:6, 1], 0).statistic)
    values[1:, 1] = np.nan
    lonely = sign_flip_test(values)
    assert np.isnan([lonely.p[1], lonely.p_max[1], lonely.t[1], lonely.q[1]]).all()
    assert lonely.p[0] == lonely.p_max[0] == found.p[0]


def test_no_difference_at_all_has_p_one_and_equal_differences_the_smallest():
    found = sign_flip_test(np.column_stack([np.zeros(6), np.full(6, 0.1)]))
    assert found.p.tolist() == [1, 2 / 64]
    assert found.t.tolist() == [0, np.inf]


def test_fisher_z_tests_the_transformed_correlations():
    r = np.tanh(noise(7, 2) / 3)
    assert np.array_equal(sign_flip_test(r, scale="fisher-z").p, sign_flip_test(np.arctanh(r)).p)
    with pytest.raises(InputError, match="between -1 and 1"):
        sign_flip_test(np.array([[0.5], [1.0]]), scale="fisher-z")
    with pytest.raises(UnknownNameError, match="Did you mean 'fisher-z'"):
        sign_flip_test(r, scale="fisher")


# bootstrap


def test_bootstrap_over_subjects_spreads_as_the_standard_error():
    values = noise(30, 2)
    draws = bootstrap_subjects(values, n_bootstrap=20_000)
    assert draws.shape == (20_000, 2)
    assert draws.mean(axis=0) == pytest.approx(values.mean(axis=0), abs=0.01)
    assert draws.std(axis=0) == pytest.approx(values.std(axis=0) / np.sqrt(30), rel=0.03)


def test_bootstrap_draws_the_same_subjects_in_every_column_and_skips_missing_ones():
    values = noise(10, 1)
    both = bootstrap_subjects(np.hstack([values, values + 3]), n_bootstrap=50, seed=4)
    assert both[:, 1] == pytest.approx(both[:, 0] + 3)
    gone = np.where(np.arange(10)[:, None] < 2, values, np.nan)
    draws = bootstrap_subjects(gone, n_bootstrap=2000)
    told = np.isfinite(draws)
    assert told.mean() == pytest.approx(1 - 0.8**10, abs=0.03)
    assert set(draws[told].round(9)) >= set(values[:2, 0].round(9))
    z = bootstrap_subjects(np.full((3, 1), 0.4), n_bootstrap=5, scale="fisher-z")
    assert z == pytest.approx(np.full((5, 1), 0.4))


def test_the_two_way_bootstrap_adds_the_variances_of_stimuli_and_subjects():
    rng = np.random.default_rng(0)
    subject, stimulus = rng.standard_normal(200), rng.standard_normal(4000)
    draws = (subject[:, None] + 0.1 * stimulus)[:, :, None]
    found = bootstrap_stimuli_and_subjects(draws)
    assert found.shape == (4000, 1)
    assert found.std() == pytest.approx(np.sqrt(subject.var() / 200 + 0.1**2 * stimulus.var()), rel=0.05)
    same = np.repeat(noise(1, 50, 2), 3, axis=0)
    assert bootstrap_stimuli_and_subjects(same) == pytest.approx(same[0])


def test_the_interval_covers_the_truth_at_about_the_nominal_rate():
    covered = []
    for seed in range(200):
        low, high = percentile_interval(bootstrap_subjects(noise(40, 1, seed=seed) + 2, n_bootstrap=400, seed=seed))
        covered.append(low[0] <= 2 <= high[0])
    assert 0.88 <= np.mean(covered) <= 0.98


def test_intervals_leave_missing_draws_out():
    draws = np.column_stack([np.arange(101.0), np.full(101, np.nan)])
    low, high = percentile_interval(draws, 0.5)
    assert (low[0], high[0]) == (25, 75)
    assert np.isnan([low[1], high[1]]).all()


# family-wise p


def test_max_statistic_p_counts_the_largest_scores():
    rng = np.random.default_rng(0)
    largest, scores = rng.standard_normal(99), rng.standard_normal(20)
    expected = [(1 + sum(value >= score for value in largest)) / 100 for score in scores]
    assert max_statistic_p(scores, largest) == pytest.approx(expected)
    assert np.isnan(max_statistic_p(np.array([np.nan]), largest)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sign_flip_test(np.zeros(4)), "expected \\(subject, column\\)"),
        (lambda: sign_flip_test(np.zeros((1, 4))), "2 subjects up"),
        (lambda: sign_flip_test(np.full((3, 1), np.inf)), "infinite"),
        (lambda: sign_flip_test(np.zeros((3, 1)), n_flips=0), "n_flips must be 1 or more"),
        (lambda: bootstrap_stimuli_and_subjects(np.zeros((3, 4))), "expected \\(subject, bootstrap, column\\)"),
        (lambda: percentile_interval(np.zeros(4), 1.0), "between 0 and 1"),
        (lambda: max_statistic_p(np.zeros(4), np.zeros(0)), "one or more numbers"),
    ],
)
def test_impossible_requests_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


# few values


def test_the_t_interval_is_that_of_scipy_and_needs_three_values():
    values = np.random.default_rng(0).standard_normal((6, 3)) + 1
    low, high = t_interval(values, 0.9)
    for column in range(3):
        expected = ttest_1samp(values[:, column], 0).confidence_interval(0.9)
        assert (low[column], high[column]) == pytest.approx((expected.low, expected.high))
    assert np.isnan(t_interval(values[:2])).all()
    assert np.diff(t_interval(np.array([0.0, 1.0, 2.0])))[0] == pytest.approx(2 * t.ppf(0.975, 2) / 3**0.5)
    with pytest.raises(InputError, match="between 0 and 1"):
        t_interval(values, 95)
