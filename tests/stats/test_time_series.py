import numpy as np
import pytest
from nilearn.glm.first_level.hemodynamic_models import compute_regressor, glover_hrf, spm_hrf
from nilearn.signal import clean

from topobrain._checks import InputError, UnknownNameError
from topobrain.stats.time_series import (
    convolve_events,
    convolve_hrf,
    drift_basis,
    fir_delays,
    hrf_kernel,
    remove_drift,
    run_slices,
    sampling_weights,
    zscore_runs,
)

RUNS = np.repeat(["one", "two", "three"], [20, 15, 25])


def events(seed=0, n=12):
    rng = np.random.default_rng(seed)
    return np.sort(rng.uniform(-10, 80, n)), rng.uniform(0.3, 6, n), rng.normal(size=n)


# --- delays


def test_delays_equal_a_slow_loop_and_stop_at_runs():
    rng = np.random.default_rng(0)
    X, delays = rng.normal(size=(60, 3)), [0, 2, -3, 17]
    found = fir_delays(X, delays, RUNS)
    for t in range(60):
        for number, d in enumerate(delays):
            inside = 0 <= t - d < 60 and RUNS[t - d] == RUNS[t]
            np.testing.assert_array_equal(found[t, 3 * number : 3 * number + 3], X[t - d] if inside else 0)


def test_runs_apart_give_the_same_as_runs_together():
    X = np.random.default_rng(1).normal(size=(60, 2))
    together = fir_delays(X, range(7), RUNS)
    apart = [fir_delays(X[part], range(7)) for part in run_slices(60, RUNS)]
    np.testing.assert_array_equal(together, np.concatenate(apart))


def test_delays_keep_the_dtype_and_carry_a_missing_value_only_where_it_reaches():
    X = np.ones((10, 2), dtype=np.float32)
    X[4, 1] = np.nan
    found = fir_delays(X, [0, 3])
    assert found.dtype == np.float32
    assert np.argwhere(np.isnan(found)).tolist() == [[4, 1], [7, 3]]


@pytest.mark.parametrize(
    ("delays", "message"),
    [
        ([0.5, 1.0], "whole numbers of volumes"),
        ([], "whole numbers of volumes"),
        ([1, 2, 1], "given twice"),
        ([0, 25, -30], r"delays of 25, -30 volumes reach out of every run: the longest run has 25"),
    ],
)
def test_impossible_delays_are_named(delays, message):
    with pytest.raises(InputError, match=message):
        fir_delays(np.ones((60, 1)), delays, RUNS)


def test_runs_that_are_mixed_are_refused():
    with pytest.raises(InputError, match=r"run 'a' goes on at row 2"):
        fir_delays(np.ones((3, 1)), [0], ["a", "b", "a"])
    with pytest.raises(InputError, match="2 labels for 3 rows"):
        zscore_runs(np.ones((3, 1)), ["a", "a"])
    with pytest.raises(InputError, match="two axes"):
        fir_delays(np.ones(3), [0])


# --- haemodynamic responses


@pytest.mark.parametrize(("model", "oracle"), [("spm", spm_hrf), ("glover", glover_hrf)])
@pytest.mark.parametrize(("tr", "oversampling"), [(2.0, 50), (1.5, 16), (2.5, 1), (0.72, 10)])
def test_kernels_equal_nilearn(model, oracle, tr, oversampling):
    found = hrf_kernel(tr, model=model, oversampling=oversampling)
    np.testing.assert_allclose(found, oracle(tr, oversampling=oversampling), atol=1e-14)
    assert found.sum() == pytest.approx(1)


@pytest.mark.parametrize("model", ["spm", "glover"])
@pytest.mark.parametrize("options", [{"tr_s": 40.0}, {"tr_s": 2.0, "length_s": 1.0}, {"tr_s": 15.0}])
def test_grids_that_miss_the_response_are_refused(model, options):
    with pytest.raises(InputError, match="which miss its peak"):
        hrf_kernel(model=model, **options)


@pytest.mark.parametrize("model", ["spm", "glover"])
def test_events_equal_nilearn_where_its_grid_is_fine(model):
    onset, duration, amplitude = events()
    frames = 2.0 * np.arange(60)
    oracle = compute_regressor(np.array([onset, duration, amplitude]), model, frames, oversampling=1000)[0][:, 0]
    found = convolve_events(onset, duration, amplitude, frames, model=model)
    np.testing.assert_allclose(found, oracle, atol=1e-3)
    assert np.abs(found).max() > 0.3


def test_impulses_have_an_area_of_one_second():
    onset, _, amplitude = events(1)
    frames = 2.0 * np.arange(60)
    oracle = compute_regressor(np.array([onset, 0 * onset, amplitude]), "spm", frames, oversampling=1000)[0][:, 0]
    step = 2.0 / 1000  # on a grid an impulse lasts a step
    np.testing.assert_allclose(convolve_events(onset, 0.0, amplitude, frames), oracle / step, atol=1e-3)
    short = convolve_events(onset, 0.01, amplitude / 0.01, frames)
    np.testing.assert_allclose(convolve_events(onset, 0.0, amplitude, frames), short, atol=1e-3)


def test_an_event_that_lasts_is_answered_by_its_amplitude_and_features_by_columns():
    frames = np.arange(0.0, 100.0, 2.0)
    two = convolve_events([10.0], [200.0], np.array([[3.0, -1.0]]), frames)
    assert two.shape == (50, 2)
    np.testing.assert_allclose(two[-1], [3.0, -1.0], rtol=1e-6)
    assert np.all(two[frames <= 10] == 0)
    np.testing.assert_allclose(two[:, 0], convolve_events([10.0], [200.0], [3.0], frames), rtol=1e-12)


def test_events_can_be_split_and_moved():
    frames = 2.0 * np.arange(60)
    whole = convolve_events([4.0], [9.0], [1.0], frames)
    np.testing.assert_allclose(convolve_events([4.0, 7.0], [3.0, 6.0], [1.0, 1.0], frames), whole, atol=1e-12)
    np.testing.assert_allclose(convolve_events([10.0], [9.0], [1.0], frames)[3:], whole[:-3], atol=1e-12)


def test_many_events_are_taken_in_blocks():
    rng = np.random.default_rng(2)
    frames = 2.0 * np.arange(3000)
    onset, amplitude = np.sort(rng.uniform(0, 6000, 800)), rng.normal(size=800)
    halves = [convolve_events(onset[i::2], 1.0, amplitude[i::2], frames) for i in (0, 1)]
    np.testing.assert_allclose(convolve_events(onset, 1.0, amplitude, frames), sum(halves), atol=1e-10)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (([0.0, np.nan], [1.0, 1.0], [1.0, 1.0]), "onsets hold a missing"),
        (([0.0, 1.0], [1.0, -1.0], [1.0, 1.0]), "durations are seconds, 0 or more; the shortest given is -1"),
        (([0.0, 1.0], [1.0, 1.0], [1.0]), r"one onset, duration and amplitude each"),
        (([0.0, 1.0], [1.0, 1.0], [1.0, np.inf]), "amplitudes hold"),
    ],
)
def test_events_that_make_no_sense_are_named(given, message):
    with pytest.raises(InputError, match=message):
        convolve_events(*given, np.arange(5.0))
    with pytest.raises(UnknownNameError, match="Did you mean 'spm'"):
        convolve_events([0.0], [1.0], [1.0], np.arange(5.0), model="smp")


def test_volume_features_are_boxes_of_a_volume():
    X = np.random.default_rng(3).normal(size=(60, 2))
    frames = 2.0 * np.arange(60)
    found = convolve_hrf(X, 2.0)
    for column in range(2):
        np.testing.assert_allclose(found[:, column], convolve_events(frames, 2.0, X[:, column], frames), atol=1e-12)
    runs = convolve_hrf(X, 2.0, runs=RUNS)
    np.testing.assert_array_equal(runs[20:35], convolve_hrf(X[20:35], 2.0))
    np.testing.assert_allclose(convolve_hrf(np.ones((40, 1)), 2.0, model="glover")[-1], 1.0)
    X[30, 0] = np.nan
    missing = np.flatnonzero(np.isnan(convolve_hrf(X, 2.0)[:, 0]))
    assert missing.tolist() == list(range(31, 47))  # 32 s of response


# --- drift and scale


def test_cosine_and_linear_drift_equal_nilearn():
    series = np.random.default_rng(4).normal(size=(120, 5)).cumsum(axis=0)
    oracle = clean(series, detrend=False, standardize=None, filter="cosine", high_pass=1 / 64, t_r=2.0)
    oracle -= oracle.mean(axis=0)  # nilearn leaves the mean
    np.testing.assert_allclose(remove_drift(series, cutoff_s=64, tr_s=2.0), oracle, atol=1e-10)
    np.testing.assert_allclose(remove_drift(series, order=1), clean(series, detrend=True, standardize=None), atol=1e-10)


def test_polynomial_drift_is_removed_run_by_run():
    rng = np.random.default_rng(5)
    series = rng.normal(size=(60, 3))
    drifting = series.copy()
    for part in run_slices(60, RUNS):
        time = np.linspace(0, 1, part.stop - part.start)
        drifting[part] += np.polynomial.polynomial.polyval(time, rng.normal(size=4) * 50)[:, None]
    expected, found = remove_drift(series, order=3, runs=RUNS), remove_drift(drifting, order=3, runs=RUNS)
    np.testing.assert_allclose(found, expected, atol=1e-10)
    for part in run_slices(60, RUNS):
        np.testing.assert_allclose(np.vander(np.arange(part.stop - part.start) / 10, 4).T @ found[part], 0, atol=1e-8)


def test_both_kinds_of_drift_can_go_at_once():
    series = np.random.default_rng(6).normal(size=(100, 2))
    basis = drift_basis(100, order=2, cutoff_s=100, tr_s=2.0)
    assert basis.shape == (100, 3 + 4)
    np.testing.assert_allclose(basis.T @ remove_drift(series, order=2, cutoff_s=100, tr_s=2.0), 0, atol=1e-10)


def test_what_is_only_drift_becomes_nothing_and_missing_values_stay_in_their_column_and_run():
    series = np.random.default_rng(7).normal(size=(60, 3))
    series[:, 1] = 1e6 + 3e4 * np.arange(60)
    series[25, 2] = np.nan
    found = remove_drift(series, order=1, runs=RUNS)
    np.testing.assert_array_equal(found[:, 1], 0)
    assert np.isnan(found[20:35, 2]).all()
    assert np.isfinite(np.delete(found[:, 2], np.s_[20:35])).all()
    alone = remove_drift(series[:, :1], order=1, runs=RUNS)
    np.testing.assert_allclose(found[:, 0], alone[:, 0], atol=1e-13)
    scored = zscore_runs(found, RUNS)
    np.testing.assert_array_equal(scored[:, 1], 0)
    assert np.isnan(scored[20:35, 2]).all()
    for part in run_slices(60, RUNS):
        np.testing.assert_allclose([scored[part, 0].mean(), scored[part, 0].std()], [0, 1], atol=1e-12)


def test_drift_that_leaves_nothing_is_refused():
    with pytest.raises(InputError, match=r"order= .* cutoff_s="):
        remove_drift(np.ones((9, 1)))
    with pytest.raises(InputError, match="needs tr_s"):
        remove_drift(np.ones((9, 1)), cutoff_s=100)
    with pytest.raises(InputError, match="6 drift regressors leave nothing of 6 volumes"):
        remove_drift(np.ones((6, 1)), order=5)
    for order in (1.5, -1, "1", True):
        with pytest.raises(InputError, match="order of the drift must be a whole number"):
            drift_basis(9, order=order)
    assert drift_basis(9, order=np.int64(1)).shape == (9, 2)
    with pytest.raises(InputError, match="0 rows"):
        zscore_runs(np.ones((0, 3)))


# --- words to volumes


def test_sums_and_means_equal_a_slow_loop():
    rng = np.random.default_rng(8)
    times, starts, values = rng.uniform(-5, 45, 200), 2.0 * np.arange(20), rng.normal(size=(200, 2))
    total, mean = (sampling_weights(times, starts, 2.0, method=m) @ values for m in ("sum", "mean"))
    for v, start in enumerate(starts):
        inside = (times >= start) & (times < start + 2)
        np.testing.assert_allclose(total[v], values[inside].sum(axis=0), atol=1e-12)
        np.testing.assert_allclose(mean[v], values[inside].mean(axis=0) if inside.any() else 0, atol=1e-12)


def test_borders_belong_to_the_later_volume_and_pauses_to_none():
    weights = sampling_weights(np.array([0.0, 2.0, 4.0, 9.9, 12.0]), np.array([0.0, 2.0, 10.0]), 2.0).toarray()
    assert weights.tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    empty = sampling_weights(np.array([5.0]), np.array([0.0, 2.0]), 2.0, method="mean")
    assert (empty @ np.ones((1, 1))).tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize("tr", [0.72, 0.8, 1.1, 2.2])
@pytest.mark.parametrize("method", ["sum", "mean"])
@pytest.mark.parametrize("delay", [0, 1, 4])
def test_events_locked_to_the_volumes_stay_in_them(tr, method, delay):
    n = 400
    starts = tr * np.arange(n)
    onsets = np.round(starts, 3)  # as a table of events has them
    found = sampling_weights(onsets, starts - delay * tr, tr, method=method).toarray()
    np.testing.assert_array_equal(found, np.eye(n, k=-delay))
    summed = np.cumsum(np.full(n, tr)) - tr  # a clock that adds up its own rounding
    np.testing.assert_array_equal(sampling_weights(onsets, summed, tr, method=method).toarray(), np.eye(n))


@pytest.mark.parametrize("method", ["sum", "mean"])
def test_volume_times_that_jitter_lose_no_event(method):
    rng = np.random.default_rng(10)
    starts = 0.8 * np.arange(300) + rng.uniform(-0.003, 0.003, 300)
    times = rng.uniform(1, 235, 20_000)
    found = sampling_weights(times, starts, 0.8, method=method)
    assert np.diff(found.tocsc().indptr).tolist() == [1] * 20_000  # each in one volume, none in the cracks
    volume = found.tocsc().indices
    assert ((times >= starts[volume]) & (times < starts[volume + 1])).all()


def test_lanczos_equals_its_formula_and_keeps_each_word_whole():
    rng = np.random.default_rng(9)
    times, starts = rng.uniform(30, 80, 60), 2.0 * np.arange(60)
    found = sampling_weights(times, starts, 2.0, method="lanczos").toarray()
    u = (starts[:, None] + 1.0 - times) / 2.0
    with np.errstate(invalid="ignore", divide="ignore"):
        formula = 3 * np.sin(np.pi * u) * np.sin(np.pi * u / 3) / (np.pi * u) ** 2
    np.testing.assert_allclose(found, np.where(np.abs(u) < 3, formula, 0), atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=0.011)
    rate = sampling_weights(times, starts, 2.0) @ np.ones((60, 1))
    assert found.sum() == pytest.approx(rate.sum(), rel=0.01)


def test_lanczos_keeps_slow_changes_and_drops_fast_ones():
    times, starts = np.arange(0, 400, 0.1), 2.0 * np.arange(200)
    weights = sampling_weights(times, starts, 2.0, method="lanczos")
    inside = slice(10, 190)
    for frequency, gain in ((0.02, 1.0), (0.1, 1.0), (0.45, 0.0)):
        middle = starts + 1.0
        got = (weights @ np.cos(2 * np.pi * frequency * times)) * 0.1 / 2.0
        kept = np.linalg.norm(got[inside]) / np.linalg.norm(np.cos(2 * np.pi * frequency * middle)[inside])
        assert kept == pytest.approx(gain, abs=0.05)
    slow = sampling_weights(times, starts, 2.0, method="lanczos", cutoff_hz=0.05)
    assert np.linalg.norm(slow @ np.cos(2 * np.pi * 0.15 * times)) < 0.05 * np.linalg.norm(
        weights @ np.cos(2 * np.pi * 0.15 * times)
    )


def test_a_missing_value_reaches_its_volume_only():
    values = np.ones((4, 1))
    values[2] = np.nan
    found = sampling_weights(np.array([0.5, 2.5, 4.5, 6.5]), 2.0 * np.arange(4), 2.0) @ values
    assert np.isnan(found[:, 0]).tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tr_s": 0.0}, "must be above 0"),
        ({"volume_times": np.array([0.0, 0.0])}, "volume_times must rise"),
        ({"times": np.array([np.nan])}, "one finite number"),
        ({"method": "lanczos", "cutoff_hz": -1.0}, "must be above 0"),
    ],
)
def test_sampling_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        sampling_weights(**{"times": np.array([1.0]), "volume_times": np.array([0.0, 2.0]), "tr_s": 2.0, **options})
    with pytest.raises(UnknownNameError, match="lanczos"):
        sampling_weights(np.array([1.0]), np.array([0.0]), 2.0, method="lanczo")
