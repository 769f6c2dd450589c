import numpy as np
import pytest

from topobrain import stats
from topobrain._checks import InputError, UnknownNameError
from topobrain.activations import Activations
from topobrain.data import alice
from topobrain.encoding import encode
from topobrain.encoding.ceilings import estimate_ceiling
from topobrain.responses import BrainResponses
from topobrain.results import load_result
from topobrain.stats.ceiling import inter_subject_correlation, split_half
from topobrain.stimuli import StimulusSet

QUICK = {"n_bootstrap": 0, "alphas": [1.0, 100.0, 1e4]}


def shown(n, repeats=1):
    return StimulusSet([f"sentence {i}" for i in range(n)] * repeats, name="toy")


def white(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def repeated(n=400, v=20, k=3, snr=0.5):
    """Single trials of every stimulus, one presentation of all after the other, and their signal."""
    signal = np.sqrt(snr) * white(n, v, seed=1)
    return signal, BrainResponses.from_arrays(np.tile(signal, (k, 1)) + white(k * n, v), shown(n, k))


def cohort(n=300, v=4, n_subjects=6, snr=1.0, **options):
    """Subjects who share a signal."""
    signal = np.sqrt(snr) * white(n, v, seed=1)
    values = np.hstack([signal + white(n, v, seed=10 + s) for s in range(n_subjects)])
    subject = np.repeat([f"s{s}" for s in range(n_subjects)], v)
    return signal, BrainResponses.from_arrays(
        values, shown(n), subject=subject, roi=[f"roi{i % 2}" for i in range(v)] * n_subjects, **options
    )


def rms(values):
    return np.sqrt(np.nanmean(np.asarray(values) ** 2))


# repeats


@pytest.mark.parametrize("method", ["repeats", "split-half"])
@pytest.mark.parametrize("average", [False, True])
def test_the_ceiling_belongs_to_the_rows_that_come_back(method, average):
    signal, brain = repeated()
    found = estimate_ceiling(brain, method=method, average=average)
    n_rows = 400 if average else 1200
    assert found.values.shape == (n_rows, 20)
    truth = np.sqrt(0.5 / (0.5 + 1 / (3 if average else 1)))
    assert rms(found.data["ceiling"].values) == pytest.approx(truth, abs=0.03)
    reached = stats.column_correlation(signal if average else np.tile(signal, (3, 1)), found.values)
    assert reached.mean() == pytest.approx(truth, abs=0.03)
    if average:
        assert np.allclose(found.values, brain.values.reshape(3, 400, 20).mean(axis=0))
        assert found.labels("text").tolist() == list(shown(400).items)
        assert found.provenance["stimuli"]["sha256"] == found.stimuli.digest()
    else:
        assert np.array_equal(found.values, brain.values)


def test_a_perfect_model_reaches_the_ceiling_when_it_is_encoded():
    X = white(500, 6)
    signal = X @ white(6, 15, seed=3) / np.sqrt(6)
    trials = np.tile(signal, (4, 1)) + 1.5 * white(2000, 15, seed=4)
    brain = estimate_ceiling(BrainResponses.from_arrays(trials, shown(500, 4)), method="repeats", average=True)
    found = encode(Activations.from_arrays({"truth": X, "noise": white(500, 6, seed=9)}, brain.stimuli), brain, **QUICK)
    normalized = found.summary().set_index("layer")["normalized"]
    assert normalized["truth"] == pytest.approx(1, abs=0.03)
    assert abs(normalized["noise"]) < 0.06


def test_unequal_repeats_and_unrepeated_stimuli_may_stand_anywhere():
    _, brain = repeated(n=200)
    keep = np.random.default_rng(0).permutation(np.r_[0:400, 400:500])
    some = BrainResponses(brain.data.isel(stimulus=keep))
    found = estimate_ceiling(some, method="repeats")
    stacked = np.full((3, 200, 20), np.nan)
    stacked[0], stacked[1], stacked[2, :100] = brain.values[:200], brain.values[200:400], brain.values[400:500]
    assert found.data["ceiling"].values == pytest.approx(stats.noise_ceiling(stacked, averaged=1))
    assert found.provenance["noise_ceiling"]["n_repeats"] == 3
    halves = estimate_ceiling(some, method="split-half")
    assert halves.provenance["noise_ceiling"]["n_repeats"] == 2
    assert rms(halves.data["ceiling"].values) == pytest.approx(np.sqrt(0.5 / 1.5), abs=0.06)


def test_noise_has_no_split_half_ceiling_and_that_is_counted():
    brain = BrainResponses.from_arrays(white(200, 80), shown(100, 2))
    found = estimate_ceiling(brain, method="split-half")
    unknown = np.isnan(found.data["ceiling"].values)
    fields = found.provenance["noise_ceiling"]
    assert 20 < unknown.sum() < 60
    assert fields["n_negative"] == fields["n_unknown"] == unknown.sum()


def test_without_repeats_there_is_nothing_to_tell_signal_from_noise():
    with pytest.raises(InputError, match="none of 20 stimuli is repeated"):
        estimate_ceiling(BrainResponses.from_arrays(white(20, 2), shown(20)), method="repeats")
    silence = BrainResponses.from_arrays(white(20, 2), StimulusSet(["(silence)"] * 20), design="timeseries")
    with pytest.raises(InputError, match="no repeats of a stimulus: use over='subjects'"):
        estimate_ceiling(silence, method="split-half")


# subjects


def test_subjects_may_count_as_repeats():
    signal, brain = cohort(n=800)
    stacked = brain.values.reshape(800, 6, 4).transpose(1, 0, 2)
    single = estimate_ceiling(brain, method="repeats", over="subjects").data["ceiling"].values
    assert single == pytest.approx(np.tile(stats.noise_ceiling(stacked, averaged=1), 6))
    assert rms(single) == pytest.approx(np.sqrt(1 / 2), abs=0.03)
    group = estimate_ceiling(brain, method="split-half", over="subjects", average=True)
    assert group.values == pytest.approx(stacked.mean(axis=0))
    assert (group.subjects, group.labels("roi").tolist()) == (["group"], ["roi0", "roi1", "roi0", "roi1"])
    assert group.data["ceiling"].values == pytest.approx(split_half(stacked).ceiling)
    reached = stats.column_correlation(signal, group.values)
    assert rms(group.data["ceiling"].values) == pytest.approx(reached.mean(), abs=0.03)


def test_leave_one_subject_out_gives_both_bounds():
    _, brain = cohort()
    found = estimate_ceiling(brain, method="leave-one-subject-out")
    expected = inter_subject_correlation(brain.values.reshape(300, 6, 4).transpose(1, 0, 2))
    assert found.data["ceiling"].values == pytest.approx(expected.lower.ravel())
    assert found.data["ceiling_upper"].values == pytest.approx(expected.upper.ravel())
    assert (found.data["ceiling_upper"] > found.data["ceiling"]).all()


def test_voxels_correspond_by_a_coordinate_in_any_order_and_may_be_missing():
    _, brain = cohort(voxel_coords={"vertex": np.tile([11, 22, 33, 44], 6)})
    truth = estimate_ceiling(brain, method="leave-one-subject-out", match="vertex")
    assert truth.data["ceiling"].values == pytest.approx(
        estimate_ceiling(brain, method="leave-one-subject-out").data["ceiling"].values
    )
    order = np.random.default_rng(0).permutation(24)
    mixed = BrainResponses(brain.data.isel(voxel=order))
    found = estimate_ceiling(mixed, method="leave-one-subject-out", match="vertex")
    assert found.data["ceiling"].values == pytest.approx(truth.data["ceiling"].values[order])
    fewer = BrainResponses(brain.data.isel(voxel=np.arange(1, 24)))
    kept = estimate_ceiling(fewer, method="leave-one-subject-out", match="vertex").data["ceiling"].values
    same = fewer.data["vertex"].values != 11
    assert kept[same] == pytest.approx(truth.data["ceiling"].values[1:][same])
    assert not np.allclose(kept[~same], truth.data["ceiling"].values[1:][~same])
    with pytest.raises(InputError, match=r"different numbers of voxels in ROI 'roi0' \(s0: 1, s1: 2"):
        estimate_ceiling(fewer, method="leave-one-subject-out")
    with pytest.raises(InputError, match="several voxels with the same 'roi'"):
        estimate_ceiling(brain, method="leave-one-subject-out", match="roi")
    with pytest.raises(InputError, match="no coordinate of voxels"):
        estimate_ceiling(brain, method="leave-one-subject-out", match="text")


def test_other_brains_predict_what_is_shared_and_no_more():
    _, brain = cohort(n=600, n_subjects=8, snr=1.0)
    found = estimate_ceiling(brain, method="across-subjects", alphas=[1.0, 100.0, 1e4])
    # seven noisy copies of the signal: r of their mean with the signal is sqrt(7/8), and of the voxel sqrt(1/2)
    assert found.data["ceiling"].values.mean() == pytest.approx(np.sqrt(7 / 8 / 2), abs=0.03)
    assert found.provenance["noise_ceiling"]["n_folds"] == 5
    apart = BrainResponses.from_arrays(white(300, 60), shown(300), subject=np.repeat(["a", "b", "c"], 20))
    none = estimate_ceiling(apart, method="across-subjects", alphas=[1e2, 1e4])
    fields = none.provenance["noise_ceiling"]
    assert 15 < fields["n_negative"] == fields["n_unknown"] < 45
    assert np.nanmean(none.data["ceiling"].values) < 0.1


def test_across_subjects_scores_on_the_folds_of_an_encoding():
    _, brain = cohort(n=120, n_subjects=2, snr=3.0)
    own = BrainResponses(brain.data.isel(voxel=brain.labels("subject") == "s1"))
    other = Activations.from_arrays({"s0": brain.values[:, :4]}, brain.stimuli)
    scored = encode(other, own, n_folds=4, **QUICK).data["r"].values[0].mean(axis=0)
    found = estimate_ceiling(brain, method="across-subjects", n_folds=4, alphas=QUICK["alphas"])
    assert found.data["ceiling"].values[4:] == pytest.approx(scored, abs=1e-6)


def test_across_subjects_keeps_the_gap_of_its_design():
    _, brain = cohort(n=240, n_subjects=2, snr=3.0, design="timeseries")
    own = BrainResponses(brain.data.isel(voxel=brain.labels("subject") == "s1"))
    other = Activations.from_arrays({"s0": brain.values[:, :4]}, brain.stimuli)
    ceilings = {}
    for gap in (None, 0, 20):
        found = estimate_ceiling(brain, method="across-subjects", n_folds=4, gap=gap, alphas=[1.0, 100.0])
        assert found.provenance["noise_ceiling"]["gap"] == (6 if gap is None else gap)
        ceilings[gap] = found.data["ceiling"].values[4:]
        scored = encode(other, own, n_folds=4, gap=gap, alphas=[1.0, 100.0], n_bootstrap=0).data["r"].values[0]
        assert ceilings[gap] == pytest.approx(scored.mean(axis=0), abs=1e-6)
    assert np.abs(ceilings[0] - ceilings[20]).min() > 1e-5
    assert np.abs(ceilings[0] - ceilings[None]).min() > 1e-6


def test_across_subjects_may_see_a_stimulus_again_where_groups_decide():
    rng = np.random.default_rng(0)
    stimuli = StimulusSet([f"picture {i}" for i in range(10)] * 6, {"group": np.repeat(range(6), 10)})
    brain = BrainResponses.from_arrays(rng.standard_normal((60, 8)), stimuli, subject=np.repeat(["a", "b"], 4))
    options = {"method": "across-subjects", "folds": "leave-one-out", "alphas": [10.0]}
    with pytest.raises(InputError, match="one group"):
        estimate_ceiling(brain, **options)
    found = estimate_ceiling(brain, allow_duplicates=True, **options)
    assert found.provenance["noise_ceiling"]["n_folds"] == 6
    assert found.provenance["noise_ceiling"]["allow_duplicates"] is True


def test_a_voxel_that_cannot_be_used_leaves_the_others_alone():
    _, brain = cohort(n=120)
    values = brain.values
    values[5, 0], values[:, 9] = np.nan, 2.0
    spoiled = BrainResponses(brain.data.assign(value=(("stimulus", "voxel"), values)))
    for method in ("leave-one-subject-out", "across-subjects"):
        found = estimate_ceiling(spoiled, method=method, alphas=[100.0])
        assert np.flatnonzero(np.isnan(found.data["ceiling"].values)).tolist() == [0, 9]
        assert found.provenance["noise_ceiling"]["n_unknown"] == 2
        assert found.provenance["noise_ceiling"]["n_negative"] == 0


def test_one_subject_and_unknown_methods_are_refused():
    brain = BrainResponses.from_arrays(white(20, 2), shown(20))
    for method in ("leave-one-subject-out", "across-subjects"):
        with pytest.raises(InputError, match="compares subjects, and the responses have 1: group"):
            estimate_ceiling(brain, method=method)
        with pytest.raises(InputError, match="average=True goes with"):
            estimate_ceiling(brain, method=method, average=True)
    with pytest.raises(UnknownNameError, match="Did you mean 'split-half'"):
        estimate_ceiling(brain, method="splithalf")


def test_it_is_kept_with_the_file(tmp_path):
    _, brain = cohort(n=60, provenance={"citation": "Nobody (2000)"})
    found = estimate_ceiling(brain, method="leave-one-subject-out")
    again = load_result(found.save(tmp_path / "r.nc"))
    assert np.array_equal(again.data["ceiling"].values, found.data["ceiling"].values)
    assert again.provenance["noise_ceiling"]["method"] == "leave-one-subject-out"
    assert again.provenance["citation"] == "Nobody (2000)"


# real data


def test_alice_listeners_agree_as_far_as_published_with_the_data(real_data):
    brain = alice.load_responses("6mm")
    found = estimate_ceiling(brain, method="leave-one-subject-out")
    agreement = inter_subject_correlation(brain.values.reshape(-1, 27, 6).transpose(1, 0, 2)).lower.mean(axis=0)
    assert brain.rois == ["LATL", "RATL", "LPTL", "LIPL", "LPreM", "LIFG"]
    assert agreement == pytest.approx([0.33, 0.26, 0.43, 0.29, 0.26, 0.20], abs=0.006)
    raw = found.data["ceiling_raw"].values
    assert raw.reshape(27, 6).mean(axis=0) == pytest.approx(agreement)
    assert found.provenance["noise_ceiling"]["n_negative"] == (raw < 0).sum() > 0
    assert np.array_equal(np.isnan(found.data["ceiling"].values), raw < 0)
    group = estimate_ceiling(brain, method="split-half", over="subjects", average=True, n_splits=200)
    assert group.data["ceiling"].values.min() > 0.75
    assert group.data["ceiling"].values.max() < 0.95
