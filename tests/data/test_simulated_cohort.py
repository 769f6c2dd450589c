"""The simulated cohort: what is stored as truth is the truth, and the ceiling is the ceiling."""

import random

import numpy as np
import pytest

from topobrain import _checks
from topobrain.data import simulated_cohort as cohort
from topobrain.data.template_language import generate_sentences, load_localizer, load_sentences
from topobrain.responses import BrainResponses
from topobrain.results import load_result
from topobrain.stimuli import StimulusSet


@pytest.fixture(scope="module")
def full():
    return cohort.load_cohort()


@pytest.fixture(scope="module")
def sentences():
    return generate_sentences(60, seed=4)


def small(stimuli, **options):
    return cohort.simulate_cohort(stimuli, **{"n_subjects": 2, "voxels_per_roi": 6, **options})


def correlations(a, b):
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))


def variable(responses, name):
    return responses.data[name].values


def test_default_cohort_has_four_subjects_and_five_regions(full):
    assert isinstance(full, BrainResponses)
    assert full.subjects == ["sub-01", "sub-02", "sub-03", "sub-04"]
    assert full.rois == ["IFGorb", "IFG", "MFG", "AntTemp", "PostTemp"]
    assert full.values.shape == (600, 4 * 340)
    assert full.stimuli.digest() == load_sentences().digest()
    assert full.summary()["n_unusable_voxels"].sum() == 0
    assert full.summary().set_index("roi")["n_voxels"].to_dict() == {
        roi: 4 * region.n_vertices for roi, region in cohort.REGIONS.items()
    }


def test_regression_on_the_signal_gives_the_true_weights(full):
    features = variable(full, "feature_value")
    assert np.allclose(features.mean(axis=0), 0)
    assert np.allclose(features.std(axis=0), 1)
    assert np.linalg.matrix_rank(features) == features.shape[1] == len(full.data["feature_name"])
    found, *_ = np.linalg.lstsq(features, variable(full, "signal"), rcond=None)
    assert np.abs(found - variable(full, "true_weight")).max() < 1e-6
    assert np.allclose(variable(full, "signal").std(axis=0), 1)


def test_regression_on_noisy_values_recovers_the_weights_roughly(full):
    found, *_ = np.linalg.lstsq(variable(full, "feature_value"), full.values, rcond=None)
    assert np.corrcoef(found.ravel(), variable(full, "true_weight").ravel())[0, 1] > 0.9


def test_feature_columns_hold_what_their_names_say(full):
    names = variable(full, "feature_name").tolist()
    stimuli, values = full.stimuli, variable(full, "feature_value")
    assert np.isclose(np.corrcoef(values[:, names.index("n_words")], stimuli.column("n_words"))[0, 1], 1)
    past = stimuli.column("tense") == "past"
    assert np.isclose(np.corrcoef(values[:, names.index("past")], past)[0, 1], 1)
    topics = sorted(set(stimuli.column("topic")))
    assert [name for name in names if name.startswith("topic_")] == [f"topic_{topic}" for topic in topics[1:]]


@pytest.mark.parametrize(("ceiling", "n_repeats"), [(0.6, 2), ((0.3, 0.8), 3), (0.4, 1)])
def test_value_correlates_with_the_signal_at_the_ceiling(ceiling, n_repeats):
    made = cohort.load_cohort(ceiling=ceiling, n_repeats=n_repeats, seed=2)
    truth = variable(made, "ceiling")
    gap = correlations(made.values, variable(made, "signal")) - truth
    error = (1 - truth**2) / np.sqrt(len(made.stimuli))  # of one correlation
    assert abs(gap.mean()) < 0.015
    assert abs((gap / error).std() - 1) < 0.25
    assert np.abs(gap / error).max() < 6


def test_ceiling_estimated_from_repeats_is_the_true_one():
    made = cohort.load_cohort(ceiling=(0.4, 0.8), n_repeats=4)
    repeats = variable(made, "repeat_value").astype(float)
    half = correlations(repeats[:2].mean(axis=0), repeats[2:].mean(axis=0))
    estimate = np.sqrt((2 * half / (1 + half)).clip(0))  # Spearman-Brown: reliability of the whole; its root is in r
    truth = variable(made, "ceiling")
    assert abs((estimate - truth).mean()) < 0.015
    assert np.corrcoef(estimate, truth)[0, 1] > 0.9


def test_value_is_the_mean_over_repeats(full):
    repeats = variable(full, "repeat_value")
    assert repeats.shape == (2, *full.values.shape)
    assert np.allclose(repeats.mean(axis=0), full.values, atol=1e-5)
    noise = repeats - variable(full, "signal")
    assert abs(correlations(noise[0], noise[1]).mean()) < 0.01


def test_ceiling_of_one_means_no_noise(sentences):
    made = small(sentences, ceiling=1.0)
    assert np.allclose(made.values, variable(made, "signal"))


def test_ceiling_range_is_filled_and_smooth():
    made = cohort.load_cohort(n_subjects=4, ceiling=(0.2, 0.9))
    ceiling = variable(made, "ceiling")
    assert 0.2 < ceiling.min() < 0.3
    assert 0.8 < ceiling.max() < 0.9
    near, far = pairs(made.where(subject="sub-01"))
    first = made.where(subject="sub-01").data["ceiling"].values
    assert np.abs(first[near[0]] - first[near[1]]).mean() < 0.6 * np.abs(first[far[0]] - first[far[1]]).mean()


def pairs(responses):
    """Near (< 6 mm) and far (> 60 mm) pairs of voxels of one subject, straight through space."""
    places = np.stack([variable(responses, f"{axis}_mm") for axis in "xyz"], axis=1)
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    upper = np.triu(np.ones_like(distance, dtype=bool), 1)
    return np.nonzero((distance < 6) & upper), np.nonzero((distance > 60) & upper)


@pytest.mark.slow
def test_neighbours_share_noise_and_weights_and_far_voxels_do_not(full):
    one = full.where(subject="sub-01")
    near, far = pairs(one)
    noise = one.values - variable(one, "signal")
    assert correlations(noise[:, near[0]], noise[:, near[1]]).mean() > 0.5
    assert abs(correlations(noise[:, far[0]], noise[:, far[1]]).mean()) < 0.02
    weight = variable(one, "true_weight")
    within = correlations(weight[:, near[0]], weight[:, near[1]]).mean()
    assert within > correlations(weight[:, far[0]], weight[:, far[1]]).mean() + 0.4


def test_without_smoothing_neighbours_share_no_noise():
    one = cohort.load_cohort(n_subjects=1, smoothness_mm=0)
    near, _ = pairs(one)
    noise = one.values - variable(one, "signal")
    assert abs(correlations(noise[:, near[0]], noise[:, near[1]]).mean()) < 0.02


def test_noise_correlation_follows_the_kernel():
    vertices = cohort.region_patches({"PostTemp": 110})["PostTemp"]
    smooth = cohort.smoothing_matrix(vertices, 12.0)
    covariance = smooth @ smooth.T
    assert np.allclose(np.diag(covariance), 1)
    # a disc's centre, far from the edge: correlation exp(-d^2 / 4 sigma^2) of Gaussian-smoothed noise
    distance = cohort._geodesic(vertices[:1])[0, vertices]
    sigma = 12.0 / np.sqrt(8 * np.log(2))
    expected = np.exp(-(distance**2) / (4 * sigma**2))
    assert np.abs(covariance[0] - expected)[distance < 15].max() < 0.15
    assert np.array_equal(cohort.smoothing_matrix(vertices, 0), np.eye(110))


def test_patches_are_disjoint_nested_discs():
    patches = cohort.region_patches({roi: region.n_vertices for roi, region in cohort.REGIONS.items()})
    together = np.concatenate(list(patches.values()))
    assert len(set(together.tolist())) == len(together) == 340
    assert together.max() < cohort.N_COARSE
    for roi, patch in patches.items():
        assert patch[0] == cohort.REGIONS[roi].centre
        assert np.array_equal(cohort.region_patches({roi: 9})[roi], patch[:9])
        distance = cohort._geodesic(patch[:1])[0]
        assert (np.diff(distance[patch]) >= 0).all()
        assert distance[patch].max() < 50


def test_large_patches_stop_at_their_neighbours():
    patches = cohort.region_patches(dict.fromkeys(cohort.REGIONS, 130))
    together = np.concatenate(list(patches.values()))
    assert len(set(together.tolist())) == len(together) == 650


def test_voxels_carry_their_place(full):
    places, _ = cohort._cortex()
    one = full.where(subject="sub-03")
    assert len(set(variable(one, "vertex").tolist())) == 340
    found = np.stack([variable(one, f"{axis}_mm") for axis in "xyz"], axis=1)
    assert np.array_equal(found, places[variable(one, "vertex")])
    assert (variable(one, "x_mm") < -20).all()  # left hemisphere, lateral
    frontal, temporal = one.where(roi="IFG"), one.where(roi="PostTemp")
    assert variable(frontal, "y_mm").mean() > 0 > variable(temporal, "y_mm").mean()


def test_subjects_share_loadings_but_differ(full):
    weight = {s: variable(full.where(subject=s), "true_weight") for s in full.subjects}
    between = correlations(weight["sub-01"], weight["sub-02"])
    assert 0.3 < between.mean() < 0.9


def test_seed_decides_and_global_generators_do_not(sentences):
    np.random.seed(1)  # noqa: NPY002
    first = small(sentences, seed=3)
    np.random.seed(2)  # noqa: NPY002
    before, before_python = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    again, other = small(sentences, seed=3), small(sentences, seed=4)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert random.getstate() == before_python
    assert first.data.identical(again.data)
    assert not np.allclose(first.values, other.values)
    assert not np.allclose(variable(first, "true_weight"), variable(other, "true_weight"))


def test_more_subjects_leave_the_first_ones_as_they_were(sentences):
    two, three = small(sentences), small(sentences, n_subjects=3)
    assert np.array_equal(two.values, three.where(subject=["sub-01", "sub-02"]).values)


def test_some_regions_can_be_chosen(sentences):
    made = cohort.simulate_cohort(sentences, n_subjects=1, voxels_per_roi={"MFG": 7, "IFG": 3})
    assert {roi: int((made.labels("roi") == roi).sum()) for roi in made.rois} == {"IFG": 3, "MFG": 7}


def test_constant_features_are_left_out():
    made = small(generate_sentences(40, seed=1, n_words=7))
    assert "n_words" not in variable(made, "feature_name")
    assert np.isfinite(made.values).all()


def test_provenance_says_simulated_with_every_option(sentences):
    made = small(sentences, ceiling=(0.5, 0.7), n_repeats=3, smoothness_mm=8, seed=9)
    fields = made.provenance
    assert made.simulated
    assert fields["simulated"] is True
    assert fields["stimuli"]["simulated"] is True
    assert fields["stimuli"]["sha256"] == sentences.digest()
    wanted = {"name": "simulated cohort", "seed": 9, "n_subjects": 2, "ceiling": [0.5, 0.7], "n_repeats": 3}
    assert {key: fields[key] for key in wanted} == wanted
    assert fields["smoothness_mm"] == 8
    assert fields["voxels_per_roi"] == dict.fromkeys(cohort.REGIONS, 6)


def test_result_file_gives_everything_back(tmp_path, sentences):
    made = small(sentences)
    loaded = load_result(made.save(tmp_path / "cohort.nc"))
    assert isinstance(loaded, BrainResponses)
    for name in ("value", "signal", "true_weight", "feature_value", "repeat_value", "ceiling", "vertex"):
        assert np.array_equal(variable(loaded, name), variable(made, name)), name
    assert variable(loaded, "feature_name").tolist() == variable(made, "feature_name").tolist()
    assert loaded.provenance == made.provenance
    assert loaded.stimuli.digest() == sentences.digest()
    assert np.array_equal(small(loaded.stimuli).values, made.values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_subjects": 0}, "n_subjects"),
        ({"n_subjects": 1.5}, "n_subjects"),
        ({"n_repeats": 0}, "n_repeats"),
        ({"ceiling": 0.0}, "ceiling"),
        ({"ceiling": 1.2}, "ceiling"),
        ({"ceiling": (0.7, 0.5)}, "ceiling"),
        ({"ceiling": float("nan")}, "ceiling"),
        ({"smoothness_mm": -1.0}, "smoothness_mm"),
        ({"smoothness_mm": float("nan")}, "smoothness_mm"),
        ({"voxels_per_roi": 0}, "at least one voxel"),
        ({"voxels_per_roi": 2000}, "has room for"),
        ({"voxels_per_roi": {}}, "no region"),
        ({"seed": -1}, "seed"),
    ],
)
def test_impossible_options_are_refused_by_name(sentences, options, message):
    with pytest.raises(_checks.InputError, match=message):
        small(sentences, **options)


def test_unknown_region_gets_a_near_name(sentences):
    with pytest.raises(_checks.UnknownNameError, match="Did you mean 'IFGorb'"):
        small(sentences, voxels_per_roi={"IFGorbital": 4})


def test_stimuli_without_the_properties_are_refused_by_column():
    with pytest.raises(_checks.InputError, match=r"no column .*polarity.*tense"):
        small(load_localizer(n=10))
    table = generate_sentences(5, seed=0).table
    with pytest.raises(_checks.InputError, match=r"'polarity'.*not numeric"):
        small(StimulusSet(["a"] * 5, table.assign(polarity="good").reset_index()))
    with pytest.raises(_checks.InputError, match=r"'polarity'.*missing"):
        small(StimulusSet(["a"] * 5, table.assign(polarity=np.nan).reset_index()))
    with pytest.raises(_checks.InputError, match="differ in no feature"):
        small(generate_sentences(1, seed=0))
