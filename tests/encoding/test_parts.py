"""Parts of an encoding add up to what one run over all voxels and layers gives."""

import numpy as np
import pytest

from topobrain._checks import InputError
from topobrain.activations import Activations
from topobrain.encoding.assembling import assemble, region_numbers
from topobrain.encoding.matching import layer_features
from topobrain.encoding.parts import encode_part, join_voxels
from topobrain.encoding.scoring import encode, prepare
from topobrain.responses import BrainResponses
from topobrain.stimuli import StimulusSet

OPTIONS = {"alphas": [1.0, 100.0, 1e4], "n_bootstrap": 40, "n_permutations": 30, "seed": 3}


@pytest.fixture(scope="module")
def study_data():
    rng = np.random.default_rng(0)
    stimuli = StimulusSet([f"text number {i}" for i in range(90)])
    features = {"a": rng.standard_normal((90, 8)), "b": rng.standard_normal((90, 130))}
    Y = features["a"] @ rng.standard_normal((8, 7)) + 4 * rng.standard_normal((90, 7))
    Y[5, 2] = np.nan
    acts = Activations.from_arrays(features, stimuli)
    brain = BrainResponses.from_arrays(Y, stimuli, roi=["p", "q", "q", "p", "q", "p", "r"], ceiling=0.7)
    return acts, brain


def in_parts(acts, brain, cuts):
    study = prepare(acts, brain, **OPTIONS)
    regions, roi = region_numbers(brain)
    parts = {}
    for layer in study.layers:
        X = layer_features(acts, layer, study.rows, study.mask)
        pieces = [
            encode_part(
                X,
                brain.values[:, first:last],
                study.design,
                roi[first:last],
                n_regions=len(regions),
                options=study.options,
            )
            for first, last in zip(cuts, [*cuts[1:], len(roi)], strict=True)
        ]
        parts[layer] = join_voxels(pieces)
    return assemble(parts, brain, study.design, study.options, source=acts.provenance, further=study.further)


@pytest.mark.parametrize("cuts", [[0], [0, 3], [0, 1, 2, 3, 6]])
def test_voxels_scored_apart_give_the_result_of_one_run(study_data, cuts):
    whole, joined = encode(*study_data, **OPTIONS), in_parts(*study_data, cuts)
    for name in whole.data.data_vars:
        one, other = whole.data[name].values, joined.data[name].values
        if one.dtype == object:
            assert np.array_equal(one, other), name
        else:
            assert np.allclose(one, other, rtol=0, atol=1e-6, equal_nan=True), name
    assert joined.summary()["p_max"].notna().all()
    assert joined.provenance["encoding"] == whole.provenance["encoding"]


def test_parts_are_plain_arrays(study_data, tmp_path):
    acts, brain = study_data
    study = prepare(acts, brain, **OPTIONS)
    _, roi = region_numbers(brain)
    X = layer_features(acts, "a", study.rows, study.mask)
    part = encode_part(X, brain.values, study.design, roi, n_regions=3, options=study.options)
    np.savez(tmp_path / "part.npz", **part)
    with np.load(tmp_path / "part.npz", allow_pickle=False) as kept:
        assert {name: kept[name].tobytes() for name in kept} == {name: array.tobytes() for name, array in part.items()}


def test_parts_of_unlike_studies_are_not_joined(study_data):
    acts, brain = study_data
    study = prepare(acts, brain, **OPTIONS)
    X = layer_features(acts, "a", study.rows, study.mask)
    _, roi = region_numbers(brain)
    one, other = (encode_part(X, brain.values, study.design, roi, n_regions=n, options=study.options) for n in (3, 4))
    with pytest.raises(InputError, match="parts of different studies"):
        join_voxels([one, other])
    with pytest.raises(InputError, match="no part"):
        join_voxels([])
    with pytest.raises(InputError, match="parts cover"):
        assemble({"a": join_voxels([one, one])}, brain, study.design, study.options, source={})
