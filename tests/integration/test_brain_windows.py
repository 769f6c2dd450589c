"""Windows of brain regions, where the windows behind the responses are known."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

import topobrain as tb
from topobrain import results
from topobrain._checks import InputError, UnknownNameError
from topobrain.data.alice import load_words
from topobrain.integration.brain import brain_windows, word_features
from topobrain.integration.brain_inference import shifted_rows
from topobrain.integration.brain_kernels import WindowKernels
from topobrain.integration.brain_result import BrainWindows
from topobrain.integration.brain_search import narrowed, scaled, search
from topobrain.stats.folds import make_folds
from topobrain.stats.integration_windows import window_curve
from topobrain.stats.time_series import convolve_events

TR = 2.0
GRID = WindowKernels.grid()
FEW = WindowKernels.grid(
    half_lives=(2, 8, 32), exponents=(1.0, 0.4), mixed=False, half_lives_s=(1, 4, 16), exponents_s=(0.5,)
)
EXPONENTIAL = WindowKernels.grid(half_lives=(1, 2, 4, 8, 16, 32), exponents=(), mixed=False, exponents_s=())


def speech(n_volumes=360, seed=0):
    """Onsets of words as in a story: three a second, with pauses."""
    rng = np.random.default_rng(seed)
    step = rng.uniform(0.15, 0.45, int(6.5 * n_volumes))
    step += (rng.random(len(step)) < 0.05) * rng.uniform(0.5, 2.0, len(step))
    onset = np.cumsum(step)
    return onset[onset < TR * n_volumes]


def heard(onset, **columns):
    return tb.StimulusSet([f"w{i}" for i in range(len(onset))], {"onset_s": onset, **columns})


def recording(values, *, roi="A", subject="s1", **columns):
    """Responses of consecutive volumes from 0 s on."""
    n = len(values)
    table = {"time_s": TR * np.arange(n), **columns}
    stimuli = tb.StimulusSet([f"v{i}" for i in range(n)], table)
    return tb.BrainResponses.from_arrays(
        values, stimuli, roi=roi, subject=subject, design="timeseries", provenance={"tr_s": TR}
    )


def planted(kernels, windows, noise, *, copies=1, n_volumes=360, seed=0):
    """Words with one feature, and its response through each window and a haemodynamic response: (volume, window x copy)."""
    rng = np.random.default_rng(seed)
    onset = speech(n_volumes, seed)
    feature = rng.normal(size=len(onset))
    columns = []
    for window in windows:
        seen = kernels.apply(window, feature[:, None], onset)[:, 0]
        signal = convolve_events(onset, 0.0, seen, TR * np.arange(n_volumes))
        columns += [signal / signal.std() + noise * rng.normal(size=n_volumes) for _ in range(copies)]
    return np.stack(columns, axis=1), heard(onset), {"feature": feature}


def quick(responses, words, features, **options):
    given = {"n_bootstrap": 0, "n_permutations": 0, "choose": "voxel", **options}
    return brain_windows(responses, words, features=features, **given)


# windows


def test_windows_are_those_of_model_units():
    lags = np.arange(50.0)
    for i in np.flatnonzero(np.array(GRID.clock) == "words")[1:]:
        expected = window_curve(GRID.a[i], GRID.b[i], GRID.c[i], lags)[:, 0]
        np.testing.assert_allclose(GRID.curve(i, lags), expected, rtol=1e-12)
    np.testing.assert_array_equal(GRID.curve(0, lags), lags == 0)
    assert GRID.names[0] == "delta"
    assert len(set(GRID.names)) == len(GRID)


def test_widths_are_half_lives_and_grow_along_the_grid():
    half = dict(zip(GRID.names, GRID.half, strict=True))
    assert half["delta"] == 0.5  # between the word and the next, as for a unit
    assert half["exp 8 words"] == pytest.approx(8)
    assert half["exp 4 s"] == pytest.approx(4, abs=1e-3)
    assert half["power 1 s"] == pytest.approx(0.3, abs=1e-3)
    assert half["power 0.5 words"] == pytest.approx(3)
    for clock in ("words", "seconds"):
        windows = GRID.of(clock)
        assert windows[0] == 0
        assert (np.diff(GRID.half[windows[1:]]) >= 0).all()
    assert GRID.half_of("seconds")[0] == 0


@pytest.mark.parametrize("clock", ["words", "seconds"])
def test_a_window_sums_what_came_before_within_its_run(clock):
    rng = np.random.default_rng(1)
    onset = np.concatenate([np.cumsum(rng.uniform(0.1, 3.0, 30)), np.cumsum(rng.uniform(0.1, 3.0, 20))])
    runs = np.repeat(["a", "b"], [30, 20])
    values = rng.normal(size=(50, 2))
    kernels = WindowKernels(
        (np.nan, 0.7), (np.inf, 0.3), (0.0, 0.4), ("words", clock), n_lags=12, reach_s=9.0, t0_s=0.5
    )
    expected = np.zeros_like(values)
    for m in range(50):
        for k in range(m + 1):
            lag = m - k if clock == "words" else (onset[m] - onset[k]) / 1.0
            within = lag < 12 if clock == "words" else lag <= 9.0
            if runs[m] == runs[k] and within:
                power = (lag + 1) ** -0.7 if clock == "words" else (lag / 0.5 + 1) ** -0.7
                expected[m] += (0.4 * power + 0.6 * np.exp(-0.3 * lag)) * values[k]
    found = kernels.apply(1, values, onset, runs)
    scale = found[0, 0] / expected[0, 0]
    np.testing.assert_allclose(found, scale * expected, rtol=1e-10, atol=1e-12)
    if clock == "words":
        assert scale == pytest.approx(1 / np.linalg.norm(kernels.curve(1, np.arange(12))))
    np.testing.assert_array_equal(kernels.apply(0, values, onset, runs), values)


def test_windows_that_are_none_are_refused():
    with pytest.raises(InputError, match="the one without memory"):
        WindowKernels((np.nan,), (1.0,), (0.0,), ("words",))
    with pytest.raises(InputError, match="one value a window"):
        WindowKernels((np.nan, 1.0), (np.inf,), (0.0,), ("words",))
    with pytest.raises(InputError, match="window 1 has a = -1"):
        WindowKernels((np.nan, -1.0), (np.inf, np.nan), (0.0, 1.0), ("words", "words"))
    with pytest.raises(InputError, match="half-lives are above 0"):
        WindowKernels.grid(half_lives=(0,))
    with pytest.raises(UnknownNameError, match="clock"):
        WindowKernels((np.nan,), (np.inf,), (0.0,), ("minutes",))


# the search


def test_search_equals_ridge_regressions_one_by_one():
    rng = np.random.default_rng(2)
    n, alphas = 90, np.array([0.5, 20.0, 800.0])
    designs = [rng.normal(size=(n, 4)), rng.normal(size=(n, 130))]
    Y = designs[0] @ rng.normal(size=(4, 3)) + 2 * rng.normal(size=(n, 3)) + 5
    folds = make_folds(range(n), 3, gap=3)
    inner = [make_folds(range(len(train)), 2, gap=3, positions=train).splits for train, _ in folds]
    found = search([narrowed(X) for X in designs], Y, folds.splits, inner, alphas, predict=True)
    assert narrowed(designs[1]).shape == (n, n)
    for k, X in enumerate(designs):
        for fold, (train, test) in enumerate(folds):
            for column in range(3):
                y = Y[:, column]
                error, score = np.zeros(3), np.zeros(3)
                for a, alpha in enumerate(alphas):
                    for fit, check in inner[fold]:
                        model = Ridge(alpha).fit(X[train][fit], y[train][fit])
                        ahead = model.predict(X[train][check])
                        error[a] += ((ahead - y[train][check]) ** 2).sum()
                        score[a] += np.corrcoef(ahead, y[train][check])[0, 1] / len(inner[fold])
                best = int(error.argmin())
                ahead = Ridge(alphas[best]).fit(X[train], y[train]).predict(X[test])
                assert found.penalty[fold, k, column] == best
                assert found.inner[fold, k, column] == pytest.approx(score[best], abs=1e-9)
                assert found.r[fold, k, column] == pytest.approx(np.corrcoef(ahead, y[test])[0, 1], abs=1e-9)
                np.testing.assert_allclose(found.prediction[k, test, column], ahead, atol=1e-9)


def test_single_precision_scores_are_close_to_double():
    rng = np.random.default_rng(3)
    X = scaled(rng.normal(size=(120, 6)))
    Y = rng.normal(size=(120, 40)) + X[:, :1]
    folds = make_folds(range(120), 4, gap=2)
    inner = [make_folds(range(len(train)), 3, gap=2, positions=train).splits for train, _ in folds]
    args = (folds.splits, inner, np.array([1.0, 100.0]))
    double, single = search([X], Y, *args), search([X], Y.astype(np.float32), *args)
    same = double.penalty == single.penalty
    assert same.mean() > 0.99
    np.testing.assert_allclose(single.r[same], double.r[same], atol=1e-5)


# planted truth


def test_every_window_comes_back_where_the_response_is_known():
    Y, words, features = planted(GRID, range(len(GRID)), 0.05)
    found = quick(recording(Y, roi=GRID.names), words, features, kernels=GRID, response="spm")
    for clock, name in (("words", "chosen"), ("seconds", "chosen_seconds")):
        windows = GRID.of(clock)
        np.testing.assert_array_equal(found.data[name].values[windows], windows)
    width = found.data["width_words"].values[GRID.of("words")]
    np.testing.assert_allclose(width, GRID.half[GRID.of("words")])
    assert (found.data["r_nested"].values[GRID.of("words")] > 0.99).all()
    assert found.data["gain"].values[0] == pytest.approx(0, abs=1e-9)
    assert found.data["gain"].values[GRID.names.index("exp 16 words")] > 0.3


def test_delays_stand_in_for_narrow_windows_but_not_for_wide_ones():
    Y, words, features = planted(EXPONENTIAL, range(7), 0.05)
    found = quick(recording(Y, roi=EXPONENTIAL.names[:7]), words, features, kernels=EXPONENTIAL)
    gain, width = found.data["gain"].values, found.data["width_words"].values
    assert width[0] == 0.5
    assert abs(gain[0]) < 1e-3
    step = np.abs(np.log2(width[1:] / EXPONENTIAL.half[1:7]))
    assert (step <= 1.01).all()  # one step of the grid
    assert (found.data["r_delta"].values[:4] > 0.97).all()
    assert (gain[1:4] < 0.012).all()
    assert gain[5] > 0.05
    assert gain[6] > 0.1


def test_wider_than_no_memory_has_a_p_and_no_memory_has_none():
    Y, words, features = planted(FEW, [0, FEW.names.index("exp 32 words")], 1.0)
    found = quick(recording(Y, roi=["none", "wide"]), words, features, kernels=FEW, n_permutations=39, n_bootstrap=200)
    none, wide = found.summary().to_dict("records")
    # some shifts are so small that much of a slow response is where it was
    assert max(wide["p"], wide["p_best"], wide["p_r"], wide["p_max"], none["p_r"], none["p_delta"]) <= 2 / 40
    assert none["p"] > 0.2
    assert none["p_best"] > 0.2
    assert wide["gain_low"] > 0
    assert wide["width_words_low"] > 2
    assert wide["width_words_low"] <= wide["width_words"] <= wide["width_words_high"]
    assert wide["centre_seconds"] > 4
    assert found.wider_than_delta().tolist() == [False, True]
    assert found.provenance["brain_windows"]["region_intervals_over"] == "blocks of time"


def test_noise_scores_nothing():
    _, words, features = planted(FEW, [0], 0.0)
    rng = np.random.default_rng(5)
    noise = recording(rng.normal(size=(360, 24)), roi="A", subject=[f"s{i}" for i in range(24)])
    found = quick(noise, words, features, kernels=FEW, n_permutations=40)
    assert abs(found.data["r_nested"].values.mean()) < 0.04
    assert abs(found.data["gain"].values.mean()) < 0.04
    for name in ("p", "p_best", "p_r", "p_delta"):
        p = found.data[name].values
        assert 0.3 < p.mean() < 0.75
        assert (p <= 0.1).mean() < 0.35


def test_a_region_chooses_better_together():
    window = FEW.names.index("exp 32 words")
    Y, words, features = planted(FEW, [window], 4.0, copies=20)
    brain = recording(Y, roi="A", subject=[f"s{i}" for i in range(20)])
    alone = quick(brain, words, features, kernels=FEW, choose="voxel")
    together = quick(brain, words, features, kernels=FEW, choose="roi", n_bootstrap=200)
    assert together.data["region_gain"].values[0] > alone.data["region_gain"].values[0]
    assert (together.data["chosen_in_fold"].values == together.data["chosen_in_fold"].values[:, :, :1]).all()
    row = together.summary().iloc[0]
    assert row["kernel"] == "exp 32 words"
    assert row["n_subjects"] == 20
    assert row["gain_low"] > 0.02
    assert row["width_words_low"] <= 32 <= row["width_words_high"]
    assert together.provenance["brain_windows"]["region_intervals_over"] == "subjects"


def test_regions_are_means_over_subjects_whatever_their_voxels():
    Y, words, features = planted(FEW, [0], 0.5, copies=4)
    brain = recording(Y, roi="A", subject=["s1", "s1", "s1", "s2"])
    found = quick(brain, words, features, kernels=FEW)
    r = found.data["r"].values
    expected = (r[:, :3].mean(axis=1) + r[:, 3]) / 2
    np.testing.assert_allclose(found.data["region_r"].values[:, 0], expected, atol=1e-12)


def test_what_stands_beside_is_not_seen_through_windows():
    onset = speech()
    rng = np.random.default_rng(6)
    plain, far = rng.normal(size=(2, len(onset)))
    window = FEW.names.index("exp 32 words")
    seen = FEW.apply(window, far[:, None], onset)[:, 0]
    signal = convolve_events(onset, 0.0, np.stack([plain, seen], axis=1), TR * np.arange(360))
    values = (signal / signal.std(axis=0)).sum(axis=1, keepdims=True)
    brain, words = recording(values + 0.3 * rng.normal(size=values.shape)), heard(onset)
    apart = quick(brain, words, {"far": far}, beside={"plain": plain}, kernels=FEW, response="spm")
    mixed = quick(brain, words, {"far": far, "plain": plain}, kernels=FEW, response="spm")
    assert apart.data["chosen"].values[0] == window
    assert apart.data["r_nested"].values[0] > mixed.data["r_nested"].values[0] + 0.1
    assert apart.provenance["brain_windows"]["beside"] == {"plain": 1}


# runs, missing values, files


def test_runs_are_shifted_and_held_out_as_wholes():
    runs = np.repeat(["a", "b", "c"], [4, 7, 5])
    for order in shifted_rows(16, runs, 20, seed=1):
        np.testing.assert_array_equal(runs[order], runs)
        for name in "abc":
            there = order[runs == name]
            assert (np.diff(there) % len(there) == 1).all()
    Y, words, features = planted(FEW, [FEW.names.index("exp 8 words")], 0.3)
    columns = {"run": np.repeat(["a", "b", "c"], 120), "group": np.repeat(["a", "b", "c"], 120)}
    columns["time_s"] = np.tile(TR * np.arange(120), 3)
    n = len(words)
    onset = words.column("onset_s")
    run = np.minimum((onset // 240).astype(int), 2)
    parts = heard(onset - 240 * run, run=np.array(["a", "b", "c"])[run])
    stimuli = tb.StimulusSet([f"v{i}" for i in range(360)], columns)
    brain = tb.BrainResponses.from_arrays(Y, stimuli, design="timeseries", provenance={"tr_s": TR})
    for response in ("fir", "spm"):
        found = quick(
            brain, parts, features, kernels=FEW, folds="leave-one-out", gap=0, inner_folds=2, response=response
        )
        assert found.data.sizes["fold"] == 3
        assert found.data["r_nested"].values[0] > 0.85
    assert n == len(parts)
    with pytest.raises(InputError, match="run"):
        quick(brain, words, features, kernels=FEW)


def test_voxels_without_values_are_passed_over():
    Y, words, features = planted(FEW, [0, 2, 3], 0.5)
    whole = quick(recording(Y, roi=["A", "B", "B"]), words, features, kernels=FEW, n_permutations=5, n_bootstrap=20)
    Y[3, 0], Y[:, 1] = np.nan, 7.0
    found = quick(recording(Y, roi=["A", "B", "B"]), words, features, kernels=FEW, n_permutations=5, n_bootstrap=20)
    assert np.isnan(found.data["r"].values[:, :2]).all()
    assert found.data["chosen"].values[:2].tolist() == [-1, -1]
    for name in ("r", "gain", "p", "width_words", "gain_low", "width_seconds_high"):
        np.testing.assert_allclose(found.data[name].values[..., 2], whole.data[name].values[..., 2], atol=1e-6)
    assert np.isnan(found.data["region_gain"].values[0])
    assert np.isfinite(found.data["region_p"].values[1])
    assert found.data["region_chosen"].values[0] == -1
    assert found.summary()["kernel"].tolist()[0] == ""
    assert found.provenance["brain_windows"]["n_unusable_voxels"] == 2


@pytest.mark.slow
def test_results_come_back_from_files_and_from_the_same_seed(tmp_path, monkeypatch):
    monkeypatch.setitem(results.KINDS, "brain_windows", "topobrain.integration.brain_result:BrainWindows")
    Y, words, features = planted(FEW, [0, 3], 1.0, n_volumes=200)
    brain = recording(Y, roi=["A", "B"])
    told = []
    options = {"kernels": FEW, "n_permutations": 5, "n_bootstrap": 20, "seed": 3}
    found = quick(brain, words, features, progress=lambda done, total: told.append((done, total)), **options)
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    again = BrainWindows.load(found.save(tmp_path / "windows.nc"))
    assert again.summary().equals(quick(brain, words, features, **options).summary())
    profile = again.profile("B", "seconds")
    assert profile["kernel"].tolist() == [FEW.names[i] for i in FEW.of("seconds")]
    np.testing.assert_array_equal(profile["r"], found.data["region_r"].values[FEW.of("seconds"), 1])
    with pytest.raises(UnknownNameError, match="ROI"):
        again.profile("C")


# bad input


@pytest.fixture(scope="module")
def case():
    Y, words, features = planted(FEW, [0], 0.5, n_volumes=120)
    return Y, words, features


def test_bad_words_are_named(case):
    Y, words, features = case
    brain, onset = recording(Y), words.column("onset_s")
    with pytest.raises(InputError, match=r"no column 'onset_s'.*Did you mean 'onset'"):
        quick(brain, tb.StimulusSet(words.texts, {"onset": onset}), features)
    with pytest.raises(InputError, match="no word lies in a volume"):
        quick(brain, heard(onset + 5000), features)
    with pytest.warns(UserWarning, match="lie in no volume"):
        quick(brain, heard(onset + 100), features, kernels=EXPONENTIAL)
    with pytest.raises(InputError, match="begins before the one in front of it"):
        quick(brain, heard(onset[::-1]), features)
    with pytest.raises(InputError, match="a number of seconds for each word"):
        quick(brain, heard(np.where(np.arange(len(onset)) == 3, np.nan, onset)), features)
    with pytest.raises(InputError, match="words are a StimulusSet"):
        quick(brain, onset, features)


def test_bad_features_are_named(case):
    Y, words, features = case
    brain, n = recording(Y), len(words)
    with pytest.raises(InputError, match="'rate' is the same for every word"):
        quick(brain, words, {"rate": np.ones(n)})
    broken = features["feature"].copy()
    broken[7] = np.nan
    with pytest.raises(InputError, match="'surprisal' holds nan at word 7"):
        quick(brain, words, {"surprisal": broken})
    with pytest.raises(InputError, match="one row for each of"):
        quick(brain, words, {"short": np.arange(n - 1)})
    others = tb.Activations.from_arrays({"l": np.random.default_rng(0).normal(size=(2, 3))}, tb.StimulusSet(["a", "b"]))
    with pytest.raises(InputError, match="of other stimuli than the words"):
        quick(brain, words, others)


def test_bad_recordings_and_folds_are_named(case):
    Y, words, features = case
    with pytest.raises(InputError, match="brain responses come first"):
        brain_windows(words, recording(Y))
    with pytest.raises(InputError, match="consecutive volumes"):
        quick(tb.BrainResponses.from_arrays(Y, recording(Y).stimuli), words, features)
    with pytest.raises(InputError, match="fewer than the delays reach over"):
        quick(recording(Y[:6]), words, features)
    with pytest.raises(InputError, match="without a gap"):
        quick(recording(Y), words, features, gap=0)
    with pytest.raises(InputError, match="none of 1 voxels"):
        quick(recording(np.full_like(Y, np.nan)), words, features)
    with pytest.raises(UnknownNameError, match="response"):
        quick(recording(Y), words, features, response="box")
    with pytest.raises(InputError, match="0 or more"):
        quick(recording(Y), words, features, seed=-1)


def test_activations_and_plain_features_of_words(case):
    Y, words, _ = case
    rng = np.random.default_rng(0)
    layer = tb.Activations.from_arrays({"l0": rng.normal(size=(len(words), 3))}, words)
    found = quick(recording(Y), words, layer, kernels=EXPONENTIAL)
    assert found.provenance["brain_windows"]["features"] == {"l0": 3}
    texts = tb.StimulusSet(["the", "Dog", "zyx"])
    known = word_features(texts, ["the dog saw the cat"], corpus_name="toy")
    assert known["length"].tolist() == [3, 3, 3]
    np.testing.assert_allclose(known["frequency"], np.log10(np.array([3, 2, 1]) / 5 * 1e6), rtol=1e-6)


def test_alice_is_predicted_from_the_right_onset_only(real_data):
    responses = tb.load_responses("alice").where(roi=["LATL", "LPTL"])
    words = load_words("apart")
    found = quick(responses, words, None, kernels=EXPONENTIAL, choose="roi")
    late = heard(words.column("onset_s") + 40.0)
    features = {"length": word_features(words)["length"]}
    wrong = quick(responses, late, features, kernels=EXPONENTIAL, choose="roi")
    assert (found.data["region_r_delta"].values > 0.06).all()
    assert (found.data["region_r_delta"].values > wrong.data["region_r_delta"].values + 0.05).all()
