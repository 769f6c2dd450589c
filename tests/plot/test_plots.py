from __future__ import annotations

import numpy as np
import pytest

import topobrain as tb
from topobrain._checks import InputError


def activations(layers=("l.0", "l.1"), provenance=None, sheet=None):
    rng = np.random.default_rng(0)
    stimuli = tb.StimulusSet([f"text {i}" for i in range(36)], {"condition": ["a", "b"] * 18}, provenance=provenance)
    place = sheet or tb.Sheet.grid(4, 5)
    values = {layer: rng.standard_normal((36, place.n_units)) for layer in layers}
    return tb.Activations.from_arrays(
        values, stimuli, sheets=dict.fromkeys(layers, place), provenance={"model": {"name": "m"}}
    )


def encoding(name="m", rois=("IFG", "MFG"), ceiling=0.8, n_permutations=50, layers=("l.0", "l.1")):
    acts = activations(layers)
    stimuli = tb.StimulusSet([f"text {i}" for i in range(36)], {"condition": ["a", "b"] * 18})
    Y = np.random.default_rng(1).standard_normal((36, len(rois)))
    responses = tb.BrainResponses.from_arrays(Y, stimuli, roi=list(rois), ceiling=ceiling)
    acts = tb.Activations.from_arrays(
        {n: acts.values(n) for n in layers}, stimuli, provenance={"model": {"name": name}}
    )
    return tb.encode(acts, responses, n_permutations=n_permutations, n_bootstrap=50, n_folds=3)


def test_what_encode_returns_can_be_drawn():
    result = encoding()
    ax = tb.plot.encoding(result, roi="IFG")
    assert set(ax.get_legend_handles_labels()[1]) == {
        "m",
        "noise ceiling",
        "permuted, 95 %",
        "chosen in training folds",
    }
    assert np.allclose(ax.lines[0].get_ydata(), result.data["region_r"].values[:, 0])
    assert tb.plot.encoding_voxels(result).get_title() == "2 voxels"


@pytest.mark.slow
def test_the_cortex_is_painted_where_there_are_values():
    vertices = np.array([268, 1627, 1627])
    ax = tb.plot.surface(np.array([0.2, 0.1, 0.3]), vertices, title="somewhere")
    assert ax.get_title() == "somewhere"
    with pytest.raises(InputError, match="fsaverage5 numbers"):
        tb.plot.surface(np.array([0.2]), np.array([10242]))
    with pytest.raises(InputError, match="one value a vertex"):
        tb.plot.surface(np.array([0.2, 0.1]), np.array([1]))
