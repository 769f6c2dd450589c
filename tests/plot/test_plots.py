from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib import pyplot as plt

import topobrain as tb
from topobrain._checks import InputError, UnknownNameError
from topobrain.plot.style import PALETTE, UNTRAINED, model_colour, model_marker, short_layer

LANGUAGE = tb.Contrast("language", on="a", off="b")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def activations(layers=("l.0", "l.1"), provenance=None, sheet=None):
    rng = np.random.default_rng(0)
    stimuli = tb.StimulusSet([f"text {i}" for i in range(24)], {"condition": ["a", "b"] * 12}, provenance=provenance)
    place = sheet or tb.Sheet.grid(4, 5)
    values = {layer: rng.standard_normal((24, place.n_units)) for layer in layers}
    return tb.Activations.from_arrays(
        values, stimuli, sheets=dict.fromkeys(layers, place), provenance={"model": {"name": "m"}}
    )


def selectivity(**options):
    return tb.localize(activations(**options), LANGUAGE, n_null=50)


def encoding(name="m", rois=("IFG", "MFG"), ceiling=0.8, n_permutations=50, layers=("l.0", "l.1")):
    acts = activations(layers)
    stimuli = tb.StimulusSet([f"text {i}" for i in range(24)], {"condition": ["a", "b"] * 12})
    Y = np.random.default_rng(1).standard_normal((24, len(rois)))
    responses = tb.BrainResponses.from_arrays(Y, stimuli, roi=list(rois), ceiling=ceiling)
    acts = tb.Activations.from_arrays(
        {n: acts.values(n) for n in layers}, stimuli, provenance={"model": {"name": name}}
    )
    return tb.encode(acts, responses, n_permutations=n_permutations, n_bootstrap=50, n_folds=3)


def test_a_map_shows_the_values_on_a_symmetric_scale_with_its_null_in_words():
    found = selectivity()
    ax = tb.plot.sheet(found, layer="l.1")
    image = ax.images[0]
    assert np.allclose(image.get_array(), found.sheet("l.1").to_image(found.values("l.1")))
    low, high = image.get_clim()
    assert low == -high
    row = found.summary().set_index("layer").loc["l.1"]
    assert f"{row.morans_i:.2f}".replace("-0.00", "0.00") in ax.get_title()
    assert "null" in ax.get_title()
    assert "grid steps" in ax.get_xlabel()


def test_all_layers_share_one_scale():
    axes = tb.plot.sheet(selectivity())
    assert len(axes) == 2
    assert axes[0].images[0].get_clim() == axes[1].images[0].get_clim()


def test_the_outline_surrounds_exactly_the_top_units():
    found = selectivity()
    assert len(tb.plot.sheet(found, layer="l.0", outline=1).lines) == 4
    assert len(tb.plot.sheet(found, layer="l.0", outline=None).lines) == 0


def test_a_map_without_null_says_that_it_shows_no_topography():
    found = tb.localize(activations(), LANGUAGE, n_null=0)
    assert "says nothing on topography" in tb.plot.sheet(found, layer="l.0").get_title()


def test_simulated_stands_in_the_title_if_and_only_if_the_data_are():
    assert "(simulated)" in tb.plot.sheet(selectivity(provenance={"simulated": True}), layer="l.0").get_title()
    assert "(simulated)" not in tb.plot.sheet(selectivity(), layer="l.0").get_title()


def test_units_without_a_layout_cannot_be_drawn():
    found = selectivity(sheet=tb.Sheet.none(20))
    with pytest.raises(InputError, match="no layer of this result has a layout"):
        tb.plot.sheet(found)
    with pytest.raises(InputError, match="needs a layout"):
        tb.plot.sheet(found, layer="l.0")


def test_holes_of_the_grid_stay_empty():
    ax = tb.plot.sheet(selectivity(sheet=tb.Sheet.for_width(11)), layer="l.0")
    assert np.isnan(np.ma.filled(ax.images[0].get_array(), np.nan)).sum() == 1


def test_one_axes_takes_one_layer():
    _, ax = plt.subplots()
    with pytest.raises(InputError, match="name the layer"):
        tb.plot.sheet(selectivity(), ax)
    with pytest.raises(UnknownNameError, match=r"Did you mean 'l\.1'"):
        tb.plot.sheet(selectivity(), ax, layer="l1")


def test_scores_are_drawn_with_ceiling_interval_and_null():
    result = encoding()
    ax = tb.plot.encoding(result, roi="IFG")
    labels = ax.get_legend_handles_labels()[1]
    assert {"m", "noise ceiling", "permuted, 95 %"} == set(labels)
    line = ax.containers[0].lines[0]
    assert np.allclose(line.get_ydata(), result.data["region_r"].values[:, 0])
    heights = [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "--"]
    assert heights == [0.8]


def test_what_is_not_known_is_not_drawn():
    ax = tb.plot.encoding(encoding(ceiling=None, n_permutations=0), roi="IFG")
    assert ax.get_legend_handles_labels()[1] == ["m"]


def test_every_roi_gets_a_panel():
    assert [ax.get_title() for ax in tb.plot.encoding(encoding())] == ["IFG", "MFG"]


def test_results_of_different_depth_are_not_drawn_together():
    with pytest.raises(InputError, match="same number of layers"):
        tb.plot.encoding([encoding(), encoding(layers=("l.0",))])
    with pytest.raises(UnknownNameError, match="unknown ROI"):
        tb.plot.encoding(encoding(), roi="STG")


def test_a_model_keeps_its_colour_and_the_untrained_are_grey():
    assert model_colour("topoformer-tiny") == model_colour("topoformer-tiny-brown") == PALETTE[0]
    assert model_colour("topoformer-tiny-control") == PALETTE[1]
    assert model_colour("stories260k (untrained)") == UNTRAINED
    assert model_marker("stories260k") == model_marker("stories260k (untrained)")
    assert model_colour("somebody's") == model_colour("somebody's")


def test_layers_have_short_names():
    assert short_layer("h.11") == "11"
    assert short_layer("blocks.0") == "block"


@pytest.mark.slow
def test_the_cortex_is_painted_where_there_are_values():
    vertices = np.array([268, 1627, 1627])
    ax = tb.plot.surface(np.array([0.2, 0.1, 0.3]), vertices, title="somewhere")
    assert ax.get_title() == "somewhere"
    with pytest.raises(InputError, match="fsaverage5 numbers"):
        tb.plot.surface(np.array([0.2]), np.array([10242]))
    with pytest.raises(InputError, match="one value a vertex"):
        tb.plot.surface(np.array([0.2, 0.1]), np.array([1]))
