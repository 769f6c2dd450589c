"""Sums of influence equal the whole array they stand for, and yoking has its closed form."""

import numpy as np
import pytest

from topobrain._checks import InputError, UnknownNameError
from topobrain.stats.integration_windows import (
    InfluenceSums,
    LagWindow,
    group_of_sequences,
    window_curve,
    yoking_index,
    yoking_steps,
)


def summed(changes, window, n_groups, dtype="float64"):
    """Return the sums of an array of changes (sequence, swap, word, unit)."""
    sums = InfluenceSums(window, n_groups, changes.shape[-1], dtype)
    group = group_of_sequences(len(changes), n_groups)
    for s, one in enumerate(changes):
        for k in range(window.n_words):
            sums.add(int(group[s]), k, one[k, window.around(k)])
        sums.n_sequences[group[s]] += 1
    return sums


def made_changes(n_sequences=6, n_words=14, n_units=3, *, causal=True, seed=0):
    changes = np.random.default_rng(seed).uniform(0.1, 1, (n_sequences, n_words, n_words, n_units))
    if causal:
        changes *= np.triu(np.ones((n_words, n_words)))[None, :, :, None]
    return changes


@pytest.mark.parametrize("normalise", ["measured", "swapped"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_curves_are_those_of_the_whole_array(normalise, dtype):
    changes = made_changes()
    window = LagWindow(14, 5)
    sums = summed(changes, window, 3, dtype)
    weight = np.array([[1.0, 1, 1], [2, 0, 1]])
    found = sums.curves(weight, normalise=normalise)
    for draw, count in enumerate(weight):
        mean = (changes * count[np.arange(6) % 3][:, None, None, None]).sum(axis=0)
        for lag in range(6):
            measured = np.arange(7, 14)
            own = measured if normalise == "measured" else measured - lag
            expected = np.median(mean[measured - lag, measured] / mean[own, own], axis=0)
            assert np.allclose(found[draw, lag], expected, rtol=1e-6 if dtype == "float32" else 1e-12)


def test_two_sided_curves_have_the_words_before_at_negative_lags():
    changes = made_changes(causal=False)
    window = LagWindow(14, 4, two_sided=True)
    found = summed(changes, window, 2).curves()[0]
    mean, measured = changes.sum(axis=0), np.arange(6, 10)
    assert window.lags.tolist() == list(range(-4, 5))
    for row, lag in enumerate(window.lags):
        expected = np.median(mean[measured - lag, measured] / mean[measured, measured], axis=0)
        assert np.allclose(found[row], expected)


def test_a_unit_that_does_not_change_has_no_curve():
    changes = made_changes()
    changes[..., 1] = 0
    found = summed(changes, LagWindow(14, 5), 2).curves()[0]
    assert np.isnan(found[:, 1]).all()
    assert np.isfinite(found[:, [0, 2]]).all()


def test_rounding_is_taken_out_of_the_mean_change():
    rng = np.random.default_rng(0)
    window = LagWindow(14, 5)
    noise = 0.1
    truth = np.array([1.0, 0, 0, 0, 0, 0])  # a delta
    changes = np.zeros((200, 14, 14, 2))
    for k in range(14):
        for m in window.around(k):
            own = truth[m - k] + noise * rng.standard_normal((200, 2))
            changes[:, k, m] = np.abs(own)
    sums = summed(changes, window, 4)
    plain = sums.curves()[0]
    sums.floor = np.full(2, noise * np.sqrt(2 / np.pi))
    corrected = sums.curves()[0]
    assert plain[1:].mean() > 0.07
    assert corrected[1:].mean() < 0.02


@pytest.mark.parametrize(
    ("n_words", "max_lag", "two_sided", "message"),
    [
        (20, 20, False, r"sequences of 20 words are too short for lags up to 20 words: .* max_lag=17 would fit"),
        (12, 6, True, r"too short for lags up to 6 words on both sides: .* max_lag=4 would fit"),
        (3, 1, False, "take longer sequences"),
    ],
)
def test_short_sequences_are_refused_with_what_would_fit(n_words, max_lag, two_sided, message):
    with pytest.raises(InputError, match=message):
        LagWindow(n_words, max_lag, two_sided=two_sided)
    if "would fit" in message:
        LagWindow(n_words, int(message.split("max_lag=")[1].split()[0]), two_sided=two_sided)


def test_wrong_shapes_and_options_are_refused():
    sums = InfluenceSums(LagWindow(14, 5), 2, 3)
    with pytest.raises(InputError, match=r"change has shape \(4, 3\), expected 6 words x 3 units"):
        sums.add(0, 2, np.zeros((4, 3)))
    with pytest.raises(UnknownNameError, match="normalise"):
        sums.curves(normalise="both")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_lag is a whole number"):
        LagWindow(14, 0)
    with pytest.raises(InputError, match="without sentence structure"):
        yoking_steps(sums)


def test_bytes_a_group_is_what_a_group_takes():
    window = LagWindow(30, 6, step_lags=4)
    sums = InfluenceSums(window, 3, 7)
    held = sums.lagged.nbytes + sums.at_swap.nbytes + sums.ahead.nbytes
    assert 3 * InfluenceSums.bytes_a_group(window, 7) == held


def reset_changes(a, b, c, n_words=60, sentence=12):
    """Return |change| (swap, word, unit) of a kernel that starts anew with every sentence, for swaps of size 2."""
    kernel = window_curve(a, b, c, np.arange(n_words))
    found = np.zeros((1, n_words, n_words, kernel.shape[1]))
    for k in range(n_words):
        for m in range(k, n_words):
            if sentence is None or m // sentence == k // sentence:
                found[0, k, m] = 2 * kernel[m - k]
    return found


@pytest.mark.parametrize("normalise", ["measured", "swapped"])
def test_a_kernel_that_resets_has_the_closed_form_yoking(normalise):
    sums = summed(reset_changes([0.6], [1.0], [0.3]), LagWindow(60, 20, step_lags=11), 1)
    steps = yoking_steps(sums, normalise=normalise)[0, :, 0]
    assert yoking_index(steps[:, None], 12) == pytest.approx(0.137631955191, abs=1e-12)
    kernel = window_curve([0.6], [1.0], [0.3], np.arange(12))[:, 0]
    for start in (12, 24, 36, 48):
        assert steps[start] == pytest.approx(kernel[1:11].sum() / 11, abs=1e-12)
        if start < 48:
            assert steps[start + 1] == pytest.approx(0, abs=1e-12)
            for s in range(2, 12):
                assert steps[start + s] == pytest.approx(-kernel[12 - s] / 11, abs=1e-12)
    assert steps[14] == pytest.approx(-0.006473, abs=1e-6)
    assert steps[23] == pytest.approx(-0.041404, abs=1e-6)


def test_a_kernel_without_reset_has_no_yoking():
    sums = summed(reset_changes([0.6, 2], [1.0, 0.2], [0.3, 0.9], sentence=None), LagWindow(60, 20, step_lags=11), 1)
    steps = yoking_steps(sums)[0]
    assert np.abs(steps[2:50]).max() < 1e-12
    assert np.isnan(steps[:2]).all()
    assert np.isnan(steps[50:]).all()
    assert np.abs(yoking_index(steps, 12)).max() < 1e-12


def test_swaps_of_unequal_size_feign_yoking_only_where_they_are_not_divided_out():
    changes = reset_changes([0.6], [1.0], [0.3], sentence=None)
    changes[0, ::12] *= 3  # first words are swapped for words further away
    sums = summed(changes, LagWindow(60, 20, step_lags=11), 1)
    assert yoking_index(yoking_steps(sums)[0], 12)[0] > 0.1
    assert yoking_index(yoking_steps(sums, normalise="swapped")[0], 12)[0] == pytest.approx(0, abs=1e-12)


def test_one_sentence_has_no_yoking():
    with pytest.raises(InputError, match="no second sentence"):
        yoking_index(np.zeros((12, 3)), 12)
