import itertools

import numpy as np
import pytest

from topobrain import stats
from topobrain._checks import InputError
from topobrain.stats.ceiling import inter_subject_correlation, split_half


@pytest.mark.parametrize(("n_repeats", "ceiling"), [(2, 0.3), (2, 0.7), (5, 0.5), (10, 0.9)])
def test_simulated_ceiling_is_recovered(n_repeats, ceiling):
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((2000, 60))
    noise = rng.standard_normal((n_repeats, 2000, 60)) * np.sqrt(n_repeats * (1 / ceiling**2 - 1))
    repeats = signal + noise
    found = stats.noise_ceiling(repeats)
    reached = stats.column_correlation(signal, repeats.mean(axis=0))
    assert np.sqrt((found**2).mean()) == pytest.approx(ceiling, abs=0.02)
    assert np.sqrt((found**2).mean()) == pytest.approx(reached.mean(), abs=0.02)


def test_the_ceiling_does_not_depend_on_offset_and_unit():
    repeats = np.random.default_rng(0).standard_normal((3, 50, 4)) + np.arange(50)[:, None] / 20
    assert np.allclose(stats.noise_ceiling(7 * repeats + 1000), stats.noise_ceiling(repeats))


def test_pure_noise_has_a_low_ceiling_and_no_noise_one():
    rng = np.random.default_rng(0)
    assert np.median(stats.noise_ceiling(rng.standard_normal((4, 2000, 50)))) < 0.15
    assert np.allclose(stats.noise_ceiling(np.tile(rng.standard_normal((30, 2)), (3, 1, 1))), 1)


def test_a_constant_voxel_has_no_ceiling():
    assert np.isnan(stats.noise_ceiling(np.zeros((2, 5, 1)))).all()
    for value in (0.7, 0.1, 1e8 + 0.1, -0.3):  # means over three repeats are off by rounding
        flat = np.full((3, 40, 2), value)
        flat[:, :, 1] += 1e-6 * max(1.0, abs(value)) * np.random.default_rng(0).standard_normal(40)
        assert np.isnan(stats.noise_ceiling(flat)).tolist() == [True, False]
        assert stats.noise_ceiling(flat)[1] == pytest.approx(1.0, abs=1e-3)
        flat[1, :4] = np.nan
        assert np.isnan(stats.noise_ceiling(flat)).tolist() == [True, False]


@pytest.mark.parametrize("shape", [(1, 10, 3), (2, 2, 3), (10, 3)])
def test_too_few_repeats_or_stimuli_are_refused(shape):
    with pytest.raises(InputError, match="2 repeats and 3 stimuli"):
        stats.noise_ceiling(np.zeros(shape))


def test_spearman_brown_predicts_the_reliability_of_longer_data():
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((20000, 1))

    def reliability(k):
        halves = [signal + rng.standard_normal((20000, k)).mean(axis=1, keepdims=True) for _ in range(2)]
        return stats.column_correlation(*halves)[0]

    assert float(stats.spearman_brown(reliability(1), 4)) == pytest.approx(reliability(4), abs=0.02)
    assert stats.spearman_brown(np.array([0.0, 1.0])).tolist() == [0, 1]


# unequal numbers of repeats


def planted(n_repeats, n_stimuli, n_voxels, snr, seed=0):
    """Repeats whose single trials have a signal variance ``snr`` times the noise variance, and the signal."""
    rng = np.random.default_rng(seed)
    signal = np.sqrt(snr) * rng.standard_normal((n_stimuli, n_voxels))
    return signal + rng.standard_normal((n_repeats, n_stimuli, n_voxels)), signal


def mean_ceiling(found):
    return np.sqrt(np.nanmean(found**2))


def test_stimuli_with_fewer_repeats_lower_the_ceiling_as_far_as_a_perfect_model_falls():
    repeats, signal = planted(4, 1500, 60, snr=0.5)
    repeats[1:, ::2] = np.nan  # every other stimulus was shown once
    repeats[:, :30] = np.nan  # and thirty never
    truth = np.sqrt(0.5 / (0.5 + (1 / 4 + 1) / 2))
    assert mean_ceiling(stats.noise_ceiling(repeats)) == pytest.approx(truth, abs=0.02)
    reached = stats.column_correlation(signal[30:], np.nanmean(repeats[:, 30:], axis=0))
    assert reached.mean() == pytest.approx(truth, abs=0.02)


def test_where_missing_trials_stand_does_not_matter_and_equal_repeats_are_the_plain_formula():
    repeats, _ = planted(3, 40, 5, snr=1)
    noise = repeats.var(axis=0, ddof=1).mean(axis=0) / 3
    total = repeats.mean(axis=0).var(axis=0, ddof=1)
    assert stats.noise_ceiling(repeats) == pytest.approx(np.sqrt(np.maximum(total - noise, 0) / total))
    first, last = repeats.copy(), repeats.copy()
    first[0, :7], last[0, :7], last[2, :7] = np.nan, repeats[2, :7], np.nan
    assert stats.noise_ceiling(first) == pytest.approx(stats.noise_ceiling(last))


def test_voxels_without_repeated_stimuli_have_no_ceiling():
    repeats, _ = planted(2, 20, 3, snr=1)
    repeats[1, :, 0] = np.nan
    repeats[:, 2:, 1] = np.nan
    assert np.isnan(stats.noise_ceiling(repeats)).tolist() == [True, True, False]


def test_the_ceiling_of_single_trials_is_below_that_of_their_mean():
    repeats, signal = planted(6, 2000, 40, snr=0.4)
    found = mean_ceiling(stats.noise_ceiling(repeats, averaged=1))
    assert found == pytest.approx(np.sqrt(0.4 / 1.4), abs=0.02)
    assert found == pytest.approx(stats.column_correlation(signal, repeats[0]).mean(), abs=0.02)
    assert np.allclose(stats.noise_ceiling(repeats, averaged=6), stats.noise_ceiling(repeats))
    with pytest.raises(InputError, match="above 0, got 0"):
        stats.noise_ceiling(repeats, averaged=0)


# split halves


@pytest.mark.parametrize("n_repeats", [2, 4, 5])
def test_split_half_equals_a_loop_over_all_splits(n_repeats):
    repeats, _ = planted(n_repeats, 30, 3, snr=1)
    half, r = n_repeats // 2, []
    for one in itertools.combinations(range(n_repeats), half):
        for other in itertools.combinations([i for i in range(n_repeats) if i not in one], half):
            halves = repeats[list(one)].mean(axis=0), repeats[list(other)].mean(axis=0)
            r.append([np.corrcoef(a, b)[0, 1] for a, b in zip(*(half.T for half in halves), strict=True)])
    found = split_half(repeats)
    assert found.exact
    assert 2 * found.n_splits == len(r)  # here each split came twice
    assert found.r == pytest.approx(np.mean(r, axis=0))
    assert found.reliability == pytest.approx(stats.spearman_brown(np.mean(r, axis=0), n_repeats / half))
    assert found.ceiling == pytest.approx(np.sqrt(found.reliability))


@pytest.mark.parametrize(("n_repeats", "snr"), [(4, 1.0), (7, 0.3), (12, 0.1)])
def test_a_perfect_model_reaches_the_split_half_ceiling_and_no_more(n_repeats, snr):
    repeats, signal = planted(n_repeats, 2000, 50, snr)
    found, truth = split_half(repeats, n_splits=40), np.sqrt(snr / (snr + 1 / n_repeats))
    assert found.exact == (n_repeats == 4)
    assert np.sqrt(found.reliability.mean()) == pytest.approx(truth, abs=0.02)
    assert stats.column_correlation(signal, repeats.mean(axis=0)).mean() == pytest.approx(truth, abs=0.02)
    single = split_half(repeats, n_splits=40, averaged=1)
    assert np.sqrt(single.reliability.mean()) == pytest.approx(np.sqrt(snr / (snr + 1)), abs=0.02)


def test_negative_reliabilities_are_kept_and_counted_and_have_no_ceiling():
    found = split_half(np.random.default_rng(0).standard_normal((4, 200, 300)))
    assert abs(found.r.mean()) < 0.01
    assert found.n_negative == (found.reliability < 0).sum()
    assert 100 < found.n_negative < 200
    assert np.array_equal(np.isnan(found.ceiling), found.reliability < 0)
    opposite = split_half(np.stack([np.arange(5.0)[:, None], -np.arange(5.0)[:, None]]))
    assert opposite.reliability.tolist() == [-np.inf]


def test_the_seed_decides_random_splits_and_bad_voxels_stay_alone():
    repeats, _ = planted(9, 25, 4, snr=1)
    assert np.array_equal(split_half(repeats, n_splits=7, seed=1).r, split_half(repeats, n_splits=7, seed=1).r)
    assert not np.array_equal(split_half(repeats, n_splits=7, seed=1).r, split_half(repeats, n_splits=7, seed=2).r)
    spoiled = repeats + 1e4
    spoiled[2, 3, 1], spoiled[:, :, 2] = np.nan, 0.1
    found = split_half(spoiled)
    assert np.isnan(found.ceiling).tolist() == [False, True, True, False]
    assert found.r[[0, 3]] == pytest.approx(split_half(repeats).r[[0, 3]])


# subjects


def test_inter_subject_correlation_equals_a_loop():
    responses, _ = planted(5, 30, 3, snr=1)
    found = inter_subject_correlation(responses * 7 + 3, standardize=False)
    scaled = inter_subject_correlation(responses * np.arange(1, 6)[:, None, None])
    z = (responses - responses.mean(axis=1, keepdims=True)) / responses.std(axis=1, keepdims=True)
    for data, result in ((responses, found), (z, scaled)):
        for subject, voxel in itertools.product(range(5), range(3)):
            others = np.delete(data, subject, axis=0).mean(axis=0)[:, voxel]
            own, everyone = data[subject, :, voxel], data.mean(axis=0)[:, voxel]
            assert result.lower[subject, voxel] == pytest.approx(np.corrcoef(own, others)[0, 1])
            assert result.upper[subject, voxel] == pytest.approx(np.corrcoef(own, everyone)[0, 1])


@pytest.mark.parametrize("snr", [0.3, 2.0])
def test_the_two_bounds_hold_the_ceiling_between_them(snr):
    responses, signal = planted(6, 1000, 40, snr)
    found = inter_subject_correlation(responses)
    perfect = np.mean([stats.column_correlation(signal, one) for one in responses])
    assert perfect == pytest.approx(np.sqrt(snr / (snr + 1)), abs=0.02)
    assert found.lower.mean() == pytest.approx(np.sqrt(snr / (snr + 1) * snr / (snr + 1 / 5)), abs=0.02)
    assert found.lower.mean() < perfect < found.upper.mean()


def test_subjects_that_lack_a_voxel_are_left_out_of_it():
    responses, _ = planted(4, 30, 3, snr=1)
    spoiled = responses.copy()
    spoiled[1, 5, 0], spoiled[2, :, 0], spoiled[1:, 0, 2] = np.nan, 0.1, np.nan
    found, clean = inter_subject_correlation(spoiled), inter_subject_correlation(responses)
    assert np.isnan(found.lower[:, 0]).tolist() == [False, True, True, False]
    pair = inter_subject_correlation(responses[[0, 3]])
    assert found.lower[[0, 3], 0] == pytest.approx(pair.lower[:, 0])
    assert np.allclose(found.lower[:, 1], clean.lower[:, 1])
    assert np.isnan(found.lower[:, 2]).all()


@pytest.mark.parametrize("ceiling", [split_half, inter_subject_correlation])
def test_arrays_without_repeats_or_subjects_are_refused(ceiling):
    with pytest.raises(InputError, match="3 stimuli up"):
        ceiling(np.zeros((1, 10, 3)))
    with pytest.raises(InputError, match="infinite"):
        ceiling(np.full((2, 10, 3), np.inf))
    with pytest.raises(InputError, match="n_splits must be 1 or more"):
        split_half(np.zeros((2, 10, 3)), n_splits=0)
