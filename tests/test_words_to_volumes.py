"""From words to volumes, and on to `encode`."""

import numpy as np
import pytest

import topobrain as tb
from topobrain._checks import InputError, UnknownNameError
from topobrain.stats.time_series import convolve_hrf, fir_delays, sampling_weights
from topobrain.time_series import with_delays, with_hrf, words_to_volumes

TR = 2.0


def heard(n_words=300, start=0.0, seed=0, runs=None, layers=(3, 2)):
    """Words at random times, about two a second, with random features in two layers."""
    rng = np.random.default_rng(seed)
    onset = start + np.cumsum(rng.uniform(0.2, 0.8, n_words))
    table = {"stimulus": [f"w{i}" for i in range(n_words)], "onset_s": onset}
    if runs is not None:
        table["run"] = runs
    words = tb.StimulusSet([f"word{i}" for i in range(n_words)], table)
    values = {f"layer{k}": rng.normal(size=(n_words, width)) for k, width in enumerate(layers)}
    sheets = {"layer0": tb.Sheet.grid(1, layers[0])}
    return tb.Activations.from_arrays(values, words, sheets=sheets, provenance={"model": {"name": "m"}})


def recording(n_volumes=80, values=None, runs=None, start=0.0, **provenance):
    values = np.zeros((n_volumes, 1)) if values is None else values
    table = {"stimulus": [f"v{i}" for i in range(n_volumes)], "time_s": start + TR * np.arange(n_volumes)}
    if runs is not None:
        table["run"] = runs
        table["time_s"] = np.concatenate([TR * np.arange((np.array(runs) == r).sum()) for r in dict.fromkeys(runs)])
    stimuli = tb.StimulusSet(["(volume)"] * n_volumes, table)
    return tb.BrainResponses.from_arrays(values, stimuli, design="timeseries", provenance=provenance)


def test_a_volume_holds_its_words():
    words, brain = heard(), recording()
    volumes = words_to_volumes(words, brain)
    assert volumes.layers == words.layers
    assert volumes.labels("stimulus").tolist() == [f"v{i}" for i in range(80)]
    onset = words.data["onset_s"].values
    for v in (0, 17, 60):
        inside = (onset >= 2 * v) & (onset < 2 * v + 2)
        np.testing.assert_allclose(volumes.values("layer1")[v], words.values("layer1")[inside].sum(axis=0), atol=1e-5)
    assert volumes.sheet("layer0").width == 3  # units are still the model's
    steps = volumes.provenance["time_series"]
    assert (steps[0]["method"], steps[0]["tr_s"], volumes.provenance["model"]["name"]) == ("sum", 2.0, "m")
    assert volumes.provenance["words"]["n_stimuli"] == 300


@pytest.mark.parametrize("method", ["sum", "mean", "lanczos"])
def test_methods_are_those_of_the_arrays(method):
    words, brain = heard(), recording()
    weights = sampling_weights(words.data["onset_s"].values, TR * np.arange(80), TR, method=method)
    expected = weights @ words.values("layer0").astype(float)
    np.testing.assert_allclose(words_to_volumes(words, brain, method=method).values("layer0"), expected, atol=1e-5)


def test_words_before_the_first_volume_reach_in_with_delays():
    words, brain = heard(start=-10.0), recording()
    at_once = words_to_volumes(words, brain, delays=range(4))
    earlier = recording(start=-10.0, n_volumes=85)
    expected = with_delays(words_to_volumes(words, earlier), range(4)).values("layer0")[5:]
    np.testing.assert_allclose(at_once.values("layer0"), expected, atol=1e-5)
    filled = with_delays(words_to_volumes(words, brain), range(4)).values("layer0")
    assert np.abs(at_once.values("layer0")[:3] - filled[:3]).max() > 0.1
    np.testing.assert_allclose(at_once.values("layer0")[3:], filled[3:], atol=1e-5)


def test_each_run_has_a_clock_of_its_own():
    runs = np.repeat(["a", "b"], [30, 50])
    words, brain = heard(n_words=100), recording(runs=runs.tolist())
    again = heard(n_words=100, seed=1)
    labels = ["a"] * 100 + ["b"] * 100
    both = tb.Activations.from_arrays(
        {k: np.concatenate([words.values(k), again.values(k)]) for k in words.layers},
        tb.StimulusSet(
            ["w"] * 200,
            {
                "onset_s": np.concatenate([a.data["onset_s"].values for a in (words, again)]),
                "run": labels,
            },
        ),
    )
    found = with_delays(words_to_volumes(both, brain), [0, 2]).values("layer0")
    for run, alone, n in (("a", words, 30), ("b", again, 50)):
        single = with_delays(words_to_volumes(alone, recording(n_volumes=n)), [0, 2]).values("layer0")
        np.testing.assert_allclose(found[runs == run], single, atol=1e-5)
    exact = words_to_volumes(both, brain, delays=[0, 2]).values("layer0")
    np.testing.assert_allclose(exact, found, atol=1e-5)
    with pytest.raises(InputError, match="2 runs, each with its own clock"):
        words_to_volumes(words, brain)


def with_column(activations, **columns):
    table = {"onset_s": activations.data["onset_s"].values, **columns}
    words = tb.StimulusSet(["w"] * activations.data.sizes["stimulus"], table)
    return tb.Activations.from_arrays({k: activations.values(k) for k in activations.layers}, words)


def test_runs_that_only_one_side_has_are_named():
    runs = ["run-1"] * 40 + ["run-2"] * 40
    halves = with_column(heard(n_words=200), run=["run-1"] * 100 + ["run-2"] * 100)
    with pytest.raises(
        InputError, match=r"the words have 2 runs, each with its own clock, but the responses have no column"
    ):
        words_to_volumes(halves, recording())
    with pytest.raises(
        InputError, match=r"run\(s\) 'run-2' of the words are not among .*'run-1'\. Did you mean 'run-1'"
    ):
        words_to_volumes(halves, recording(runs=["run-1"] * 80))
    misspelt = with_column(heard(n_words=200), run=["run-1"] * 100 + ["run2"] * 100)
    with pytest.raises(InputError, match=r"'run2' of the words .*'run-1', 'run-2'\. Did you mean 'run-2'"):
        words_to_volumes(misspelt, recording(runs=runs))
    one = with_column(heard(n_words=200), run=["run-1"] * 200)
    with pytest.raises(InputError, match=r"'run-2' of the responses are not among the runs of the words: 'run-1'"):
        words_to_volumes(one, recording(runs=runs))
    plain = words_to_volumes(heard(n_words=200), recording()).values("layer0")
    np.testing.assert_array_equal(words_to_volumes(one, recording()).values("layer0"), plain)  # one run needs no name


def test_words_outside_all_volumes_are_counted_and_many_are_told(recwarn):
    words, brain = heard(n_words=300, start=-10.0), recording(n_volumes=80)
    onset = words.data["onset_s"].values
    n_before = int((onset < 0).sum())
    assert 0 < n_before < 30
    step = words_to_volumes(words, brain).provenance["time_series"][0]
    assert (step["n_words"], step["n_words_outside"]) == (300, n_before)
    reached = words_to_volumes(words, brain, delays=range(6)).provenance["time_series"][0]
    assert reached["n_words_outside"] == 0  # they come 5 volumes later
    assert not recwarn.list
    short = recording(n_volumes=40)
    n_late = int(((onset < 0) | (onset >= 80)).sum())
    with pytest.warns(UserWarning, match=rf"{n_late} of 300 words lie in no volume and are left out: .*80 s"):
        words_to_volumes(words, short)
    with pytest.warns(UserWarning, match="in no volume at any delay"):
        words_to_volumes(words, short, delays=[0, 1])


def test_delayed_copies_keep_layers_and_lose_sheets():
    volumes = words_to_volumes(heard(), recording())
    delayed = with_delays(volumes, [0, 3, -1])
    assert delayed.layers == volumes.layers
    np.testing.assert_array_equal(delayed.values("layer0"), fir_delays(volumes.values("layer0"), [0, 3, -1]))
    assert delayed.sheet("layer0").n_units == 9
    assert delayed.sheet("layer0").to_dict() == tb.Sheet.none(9).to_dict()
    assert delayed.data["delay"].values.tolist() == [0] * 3 + [3] * 3 + [-1] * 3 + [0] * 2 + [3] * 2 + [-1] * 2
    assert [step["step"] for step in delayed.provenance["time_series"]] == ["words to volumes", "delays"]
    assert delayed.labels("text").tolist() == volumes.labels("text").tolist()


def test_labels_of_runs_can_be_given_by_hand():
    volumes = words_to_volumes(heard(), recording())
    runs = np.repeat([1, 2], 40)
    found = with_delays(volumes, [4], runs=runs).values("layer0")
    assert (found[40:44] == 0).all()
    assert np.abs(with_delays(volumes, [4]).values("layer0")[40:44]).max() > 0


def test_a_haemodynamic_response_keeps_units_and_sheets():
    volumes = words_to_volumes(heard(), recording(tr_s=2.0))
    found = with_hrf(volumes, model="glover")
    expected = convolve_hrf(volumes.values("layer0"), 2.0, model="glover")
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found.values("layer0"), expected, atol=1e-5)
    assert found.sheet("layer0").to_dict() == volumes.sheet("layer0").to_dict()
    assert found.provenance["time_series"][-1]["tr_s"] == 2.0


@pytest.mark.parametrize("given", [False, True])
def test_a_haemodynamic_response_does_not_reach_into_the_next_run(given):
    rng = np.random.default_rng(3)
    lengths, runs = (30, 50), np.repeat(["a", "b"], (30, 50))
    values = rng.normal(size=(80, 2))

    def volumes(rows, **columns):
        table = {"time_s": TR * np.arange(len(rows)), **columns}
        return tb.Activations.from_arrays({"h": rows}, tb.StimulusSet(["v"] * len(rows), table))

    told = {"runs": runs} if given else {}
    found = with_hrf(volumes(values, **({} if given else {"run": runs.tolist()})), tr_s=TR, **told)
    alone = [with_hrf(volumes(part), tr_s=TR).values("h") for part in np.split(values, [lengths[0]])]
    np.testing.assert_array_equal(found.values("h"), np.concatenate(alone))
    assert np.abs(found.values("h") - with_hrf(volumes(values), tr_s=TR).values("h"))[30:].max() > 0.1


def test_saved_volumes_are_read_back(tmp_path):
    delayed = words_to_volumes(heard(), recording(), delays=[0, 1])
    again = tb.load_result(delayed.save(tmp_path / "volumes.nc"))
    np.testing.assert_array_equal(again.values("layer1"), delayed.values("layer1"))
    assert again.data["delay"].values.tolist() == delayed.data["delay"].values.tolist()


def planted(gain=3.0, seed=0):
    """Volumes that answer the words' features two and three volumes later, with noise of standard deviation 1."""
    words = heard(n_words=900, seed=seed)
    silent = recording(n_volumes=220)
    driven = with_delays(words_to_volumes(words, silent), [2, 3]).values("layer0").astype(float)
    rng = np.random.default_rng(seed)
    signal = driven @ rng.normal(size=(driven.shape[1], 4))
    signal *= gain / signal.std(axis=0)
    return words, recording(n_volumes=220, values=signal + rng.normal(size=signal.shape))


def test_encode_finds_a_planted_delay_and_loses_it_at_a_wrong_onset():
    words, brain = planted()

    def score(layer="layer0", **options):
        volumes = words_to_volumes(words, brain, delays=range(5), **options)
        return tb.encode(volumes, brain, layers=layer, n_bootstrap=0, n_folds=4).data["r"].mean().item()

    assert score() == pytest.approx(3 / np.sqrt(10), abs=0.06)  # the correlation of signal with signal and noise
    with pytest.warns(UserWarning, match="of 900 words lie in no volume at any delay"):
        assert abs(score(times=words.data["onset_s"].values + 60)) < 0.15
    assert abs(score("layer1")) < 0.15


def test_wrong_clocks_and_missing_times_are_named():
    words, brain = heard(), recording()
    with pytest.raises(InputError, match=r"no word lies in a volume: words run from 1000.* on the same clock"):
        words_to_volumes(words, brain, times=words.data["onset_s"].values * 0 + 1000)
    with pytest.raises(InputError, match="times have shape"):
        words_to_volumes(words, brain, times=np.zeros(3))
    with pytest.raises(UnknownNameError, match=r"time column of the activations 'onset'. Did you mean 'onset_s'"):
        words_to_volumes(words, brain, times="onset")
    with pytest.raises(InputError, match=r"column 'text' of the activations holds text, .*Columns of numbers: onset_s"):
        words_to_volumes(words, brain, times="text")
    with pytest.raises(InputError, match="times are seconds, one number a word; got values of type <U"):
        words_to_volumes(words, brain, times=np.array(["soon"] * 300))
    times = words.data["onset_s"].values.copy()
    times[7] = np.nan
    with pytest.raises(InputError, match="word 'w7' has no time"):
        words_to_volumes(words, brain, times=times)
    events = tb.BrainResponses.from_arrays(np.zeros((3, 1)), tb.StimulusSet(["a", "b", "c"]))
    with pytest.raises(UnknownNameError, match="'time_s'"):
        words_to_volumes(words, events)
    acts = tb.Activations.from_arrays({"h": np.zeros((3, 1))}, tb.StimulusSet(["a", "b", "c"]))
    with pytest.raises(InputError, match="give tr_s="):
        with_hrf(acts)
    with pytest.raises(InputError, match="above 0; got -1"):
        with_hrf(acts, tr_s=-1)
