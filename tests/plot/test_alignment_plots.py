from __future__ import annotations

import numpy as np
import pytest
from made_alignments import SHEET, make_alignment, make_components, make_spatial
from matplotlib import pyplot as plt
from matplotlib.collections import TriMesh
from matplotlib.colors import to_hex, to_rgba

import topobrain as tb
from topobrain._checks import InputError, UnknownNameError
from topobrain.plot.alignment import (
    CEILING_LABEL,
    FLOOR_LABEL,
    NULL_LABEL,
    STAR,
    STARRED,
    UNITS_LABEL,
    VOXELS_LABEL,
    VOXELS_TONE,
    ZERO_LABEL,
    drawn_as,
    series_of,
)
from topobrain.plot.style import COLUMN_INCHES, NULL, PAGE_INCHES, TWIN_MARKER, UNTRAINED, model_colour, model_marker
from topobrain.plot.weight_maps import MANY_REGIONS, places_of

R = {"blocks.0.attention.query": [0.4, 0.2, 0.1], "blocks.0.attention.key": [0.3, 0.1, 0.05]}
QUERY, KEY = R
CONTROLS = {"untrained": 0.15, "twin": 0.05}


def line(ax, label):
    handles, names = ax.get_legend_handles_labels()
    return handles[names.index(label)]


def heights(ax, label):
    return np.asarray(line(ax, label).get_ydata(), dtype=float)


def stems(ax):
    """Ends of the solid vertical lines: intervals."""
    return sorted(
        (round(float(one[0, 1]), 4), round(float(one[1, 1]), 4))
        for group in ax.collections
        if group.get_linestyle()[0][1] is None
        for one in group.get_segments()
        if one[0, 0] == one[1, 0]
    )


def dashes(ax):
    return {
        round(float(one[0, 1]), 4)
        for group in ax.collections
        if group.get_linestyle()[0][1] is not None
        for one in group.get_segments()
    }


def stars(ax):
    """Places along x of the stars at the upper border."""
    return [float(one.get_xdata()[0]) for one in ax.lines if one.get_marker() == STAR and len(one.get_xdata())]


def words(ax):
    return [text.get_text() for text in ax.texts]


def test_components_of_a_layer_stand_beside_controls_null_and_ceiling():
    ax = tb.plot.alignment_scores(make_alignment(R, name="topolm-tiny", controls=CONTROLS), layer=QUERY)
    assert np.allclose(heights(ax, "topolm-tiny"), [0.4, 0.2, 0.1])
    assert np.allclose(heights(ax, "untrained"), [0.25, 0.05, -0.05])
    assert np.allclose(heights(ax, "twin"), [0.35, 0.15, 0.05])
    wanted = [(round(v - 0.05, 4), round(v + 0.1, 4)) for loss in (0, 0.15, 0.05) for v in np.array(R[QUERY]) - loss]
    assert stems(ax) == sorted(wanted)
    assert dashes(ax) == {0.6}
    bars = [(round(bar.get_y(), 4), round(bar.get_height(), 4)) for bar in ax.patches]
    assert bars == [(-0.08, 0.16)] * 3
    assert line(ax, NULL_LABEL) is not None
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2", "3"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("component", "held-out r, PLS")
    assert ax.get_title() == QUERY
    assert ax.get_ylim()[0] < -0.1


def test_the_same_model_has_the_same_colour_and_its_controls_are_known():
    ax = tb.plot.alignment_scores(make_alignment(R, name="topolm-tiny", controls=CONTROLS), layer=QUERY)
    assert to_hex(line(ax, "topolm-tiny").get_color()).upper() == model_colour("topolm-tiny")
    grey = line(ax, "untrained")
    assert to_hex(grey.get_color()).upper() == UNTRAINED
    assert grey.get_marker() == model_marker("topolm-tiny")
    assert line(ax, "twin").get_marker() == TWIN_MARKER
    assert drawn_as("m", "minilm") == "minilm"


def test_stars_are_of_components_below_the_largest_permuted_score():
    ax = tb.plot.alignment_scores(make_alignment(R, p_max=[0.001, 0.049, 0.051]), layer=QUERY)
    assert len(stars(ax)) == 2
    assert line(ax, STARRED).get_marker() == STAR
    assert line(ax, STARRED).get_markersize() == ax.lines[-2].get_markersize()
    none = tb.plot.alignment_scores(make_alignment(R, null=None), layer=QUERY)
    assert not stars(none)
    assert not none.patches


def test_every_layer_has_a_panel_and_one_component_one_panel_of_layers():
    axes = tb.plot.alignment_scores(make_alignment(R, simulated=True))
    assert [ax.get_title() for ax in axes] == ["query (simulated)", "key (simulated)"]
    assert axes[0].figure.get_size_inches()[0] == PAGE_INCHES
    ax = tb.plot.alignment_scores(make_alignment(R), component=2)
    assert np.allclose(heights(ax, "m"), [0.2, 0.1])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["query", "key"]
    assert ax.get_title() == "component 2"
    assert ax.figure.get_size_inches()[0] == COLUMN_INCHES


def test_whole_set_similarities_are_drawn_by_layer():
    rsa = make_alignment({layer: values[:1] for layer, values in R.items()}, method="rsa", weights=False, ceiling=None)
    ax = tb.plot.alignment_scores(rsa)
    assert np.allclose(heights(ax, "m"), [0.4, 0.3])
    assert ax.get_ylabel() == "RSA, Spearman"
    assert "noise ceiling" not in ax.get_legend_handles_labels()[1]


def test_several_results_are_told_apart_and_their_controls_with_them():
    one, other = (
        make_alignment(R, controls={"untrained": 0.1}),
        make_alignment(R, name="n", controls={"untrained": 0.2}),
    )
    ax = tb.plot.alignment_scores({"first": one, "second": other}, component=1)
    assert np.allclose(heights(ax, "second: untrained"), [0.2, 0.1])
    drawn = [line(ax, name).get_xdata()[0] for name in ("first", "first: untrained", "second", "second: untrained")]
    assert len({round(float(x), 6) for x in drawn}) == 4
    assert [s.name for s in series_of(one, "m", layer=KEY)] == ["m", "untrained"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"component": 4}, "components 1 to 3"),
        ({"component": 1, "layer": QUERY}, "not both"),
        ({"layer": "blocks.0.attention.kye"}, "Did you mean 'blocks.0.attention.key'"),
    ],
)
def test_what_cannot_be_drawn_is_told(options, told):
    with pytest.raises((InputError, UnknownNameError), match=told):
        tb.plot.alignment_scores(make_alignment(R), **options)


def test_one_axes_takes_one_layer_and_one_scale_one_method():
    _, ax = plt.subplots()
    with pytest.raises(InputError, match="name the layer"):
        tb.plot.alignment_scores(make_alignment(R), ax)
    rsa = make_alignment(R, name="n", method="rsa", weights=False)
    with pytest.raises(InputError, match="no common scale"):
        tb.plot.alignment_scores([make_alignment(R), rsa])
    deep = make_alignment(R | {"blocks.1": [0.1, 0.1, 0.1]}, name="n")
    with pytest.raises(InputError, match="same number of layers"):
        tb.plot.alignment_scores([make_alignment(R), deep], component=1)
    with pytest.raises(InputError, match="draws alignment results"):
        tb.plot.alignment_scores({"a": make_components(R)})


def test_weights_are_drawn_on_the_sheet_beside_bars_of_regions_and_sentences():
    rois = ("IFG", "MFG", "AntTemp")
    axes = tb.plot.paired_maps(make_alignment(R, rois=rois, simulated=True), layer=KEY, components=[1, 3], n_ends=2)
    assert axes.shape == (2, 3)
    (image,) = axes[1, 0].images
    weights = np.asarray(image.get_array())
    assert weights.shape == (4, 6)
    assert np.allclose(weights.ravel(), 3 * np.linspace(-1, 1, 24))
    assert image.get_clim()[0] == -image.get_clim()[1]
    assert "torus" in axes[0, 0].get_xlabel()
    bars = [bar.get_width() for bar in axes[1, 1].patches]
    assert np.allclose(bars, [3, 0, -3])
    assert [tick.get_text() for tick in axes[0, 1].get_yticklabels()] == list(rois)
    said = words(axes[0, 2])
    assert said[0] == "high end"
    assert said[1].startswith("+11  she sells sea shells 11")
    assert said[4].startswith("+0  the dog sleeps 0")
    assert "r 0.30" in axes[0, 0].get_title(loc="left")
    assert "says nothing on topography" in axes[0, 0].get_title(loc="left")
    assert axes[0, 0].figure.get_suptitle() == f"m, {KEY} (simulated)"


def test_voxels_with_a_vertex_are_drawn_on_the_cortex():
    vertices = {"vertex": np.arange(100, 140)}
    axes = tb.plot.paired_maps(make_alignment(R, rois=("IFG",), voxels=40, voxel_coords=vertices), layer=KEY, n_ends=0)
    assert axes.shape == (1, 2)
    assert axes[0, 0].figure.get_size_inches()[0] == COLUMN_INCHES
    assert any(isinstance(one, TriMesh) for one in axes[0, 1].collections)


def test_places_are_found_in_every_way_responses_have_them():
    two = {"vertex": [5, 7], "hemisphere": np.array(["left", "right"], dtype=object)}
    found = places_of(make_alignment(R, voxel_coords=two, attrs={"n_vertices_left": 10242}))
    assert (found.kind, found.vertex.tolist(), found.inside.tolist(), found.n_vertices) == (
        "surface",
        [5],
        [True, False],
        10242,
    )
    assert places_of(make_alignment(R, voxel_coords=two), "right").vertex.tolist() == [7]
    with pytest.raises(InputError, match="no voxel lies on the left"):
        places_of(make_alignment(R, voxel_coords=two | {"hemisphere": np.array(["right"] * 2, dtype=object)}))
    in_mm = {"x_mm": [-40.0, -50.0], "y_mm": [1.0, 2.0], "z_mm": [3.0, np.nan]}
    points = places_of(make_alignment(R, voxel_coords=in_mm))
    assert (points.kind, points.inside.tolist()) == ("points", [True, False])
    grid = {"i": [1, 2], "j": [0, 1], "k": [0, 0]}
    moved = np.array([[2.0, 0, 0, 10], [0, 2, 0, 20], [0, 0, 2, 30], [0, 0, 0, 1]])
    volume = places_of(make_alignment(R, voxel_coords=grid, attrs={"affine": moved.ravel()}))
    assert volume.points.tolist() == [[12, 20, 30], [14, 22, 30]]
    assert places_of(make_alignment(R)).kind == "regions"


def test_points_in_mm_are_drawn_as_seen_from_the_left():
    in_mm = {"x_mm": np.linspace(-50, -30, 40), "y_mm": np.linspace(-60, 30, 40), "z_mm": np.linspace(0, 40, 40)}
    axes = tb.plot.paired_maps(make_alignment(R, rois=("IFG",), voxels=40, voxel_coords=in_mm), layer=KEY, n_ends=0)
    low, high = axes[0, 1].get_xlim()
    assert low > high
    assert "mm" in axes[0, 1].get_xlabel()


def test_a_layer_without_layout_has_its_weights_in_order():
    axes = tb.plot.paired_maps(make_alignment(R, sheet=tb.Sheet.none(24)), layer=KEY, n_ends=0)
    assert not axes[0, 0].images
    assert "no layout" in axes[0, 0].get_xlabel()


def test_of_many_regions_those_of_the_largest_weights_are_drawn():
    many = make_alignment(R, rois=[f"roi {i}" for i in range(MANY_REGIONS + 4)])
    axes = tb.plot.paired_maps(many, layer=KEY, n_ends=0)
    assert len(axes[0, 1].patches) == MANY_REGIONS
    assert "4 regions of smaller weight not drawn" in axes[0, 1].get_xlabel()


def test_long_sentences_are_cut_and_odd_letters_are_drawn():
    texts = ["word " * 60 + "$x_1$"] + [f"costs $ {i} and more $" for i in range(11)]
    axes = tb.plot.paired_maps(make_alignment(R, texts=texts), layer=KEY)
    axes[0, 0].figure.canvas.draw()
    low = words(axes[0, 2])[5]
    assert low.endswith("...")
    assert len(low) < 90


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "name the layer"),
        ({"layer": "blocks.0.attention.qery"}, "Did you mean"),
        ({"layer": KEY, "components": 4}, "components 1 to 3"),
        ({"layer": KEY, "view": "above"}, "view"),
    ],
)
def test_maps_that_cannot_be_drawn_are_told(options, told):
    with pytest.raises((InputError, UnknownNameError), match=told):
        tb.plot.paired_maps(make_alignment(R), **options)


def test_similarities_have_no_maps():
    rsa = make_alignment({KEY: [0.2]}, method="rsa", weights=False)
    with pytest.raises(InputError, match="no components"):
        tb.plot.paired_maps(rsa)


def without_the_third(made):
    """The result as it is where the data are of rank two: component 3 is NaN everywhere."""
    kept = made.data["component"] != 3
    data = {name: one.where(kept) for name, one in made.data.data_vars.items() if "component" in one.dims}
    return type(made)(made.data.assign({name: one.transpose(*made.data[name].dims) for name, one in data.items()}))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("places", [{}, {"x_mm": np.arange(6.0), "y_mm": np.arange(6.0), "z_mm": np.arange(6.0)}])
def test_components_beyond_the_rank_are_passed_over(places):
    made = without_the_third(make_alignment(R, controls=CONTROLS, voxels=3, voxel_coords=places))
    ax = tb.plot.alignment_scores(made, layer=KEY)
    assert np.allclose(heights(ax, "m"), [0.3, 0.1, np.nan], equal_nan=True)
    assert len(stars(ax)) == 2
    ax.figure.canvas.draw()
    axes = tb.plot.paired_maps(made, layer=KEY, components=[1, 3])
    axes[0, 0].figure.canvas.draw()
    assert axes[1, 0].get_title(loc="left").startswith("component 3, beyond the rank")
    bare = without_the_third(make_alignment(R, sheet=tb.Sheet.none(24)))
    tb.plot.paired_maps(bare, layer=KEY, components=3)
    tb.plot.alignment_scores(made, component=3).figure.canvas.draw()


def test_principal_components_show_variance_smoothness_and_sentences():
    axes = tb.plot.components(make_components(R, simulated=True), layer=KEY, n_components=2, n_ends=2)
    assert axes.shape == (2, 2)
    assert axes[1, 0].get_title(loc="left") == "PC 2"
    said = words(axes[0, 1])
    assert said[0] == "50.0 % of the variance"
    assert said[1] == "Moran's I 0.40, p = .010, layout null 0.00"
    assert said[2] == "halves r 0.90, p = .020, torus null 0.00"
    assert np.asarray(axes[0, 0].images[0].get_array()).shape == (SHEET.height, SHEET.width)
    assert said[3] == "high end"
    assert axes[0, 0].figure.get_size_inches()[0] == COLUMN_INCHES
    assert axes[0, 0].figure.get_suptitle().endswith("(simulated)")


def test_components_of_a_brain_are_drawn_for_one_subject_in_regions_or_on_the_cortex():
    axes = tb.plot.components(make_components({"sub-1": 2, "sub-2": 2}, brain=True), layer="sub-2", n_components=1)
    assert len(axes[0, 0].patches) == 2
    assert "says nothing on topography" in words(axes[0, 1])[1]
    on_mesh = make_components({"sub-1": 2}, brain=True, vertices=True)
    axes = tb.plot.components(on_mesh, n_components=1)
    assert any(isinstance(one, TriMesh) for one in axes[0, 0].collections)
    with pytest.raises(InputError, match="this result has 3"):
        tb.plot.components(on_mesh, n_components=4)
    with pytest.raises(InputError, match="got Alignment"):
        tb.plot.components(make_alignment(R))


def flats(ax):
    """Heights of short horizontal lines."""
    return sorted(
        round(float(one[0, 1]), 4)
        for group in ax.collections
        for one in group.get_segments()
        if one[0, 1] == one[1, 1] and one[0, 0] != one[1, 0]
    )


def test_the_map_from_sheet_to_cortex_stands_beside_both_nulls_and_controls():
    made = make_spatial({QUERY: 0.3, KEY: 0.2}, name="topolm-tiny", controls={"untrained": 0.15}, p_max=[0.01, 0.06])
    ax = tb.plot.spatial_alignment(made)
    assert np.allclose(heights(ax, "topolm-tiny"), [0.3, 0.2])
    assert np.allclose(heights(ax, "untrained"), [0.15, 0.05])
    assert stems(ax) == [(0.03, 0.07), (0.13, 0.17), (0.18, 0.22), (0.28, 0.32)]
    bars = sorted((round(bar.get_y(), 4), round(bar.get_y() + bar.get_height(), 4)) for bar in ax.patches)
    assert bars == [(0.0025, 0.0975)] * 2 + [(0.005, 0.195)] * 2  # middle 95 % of 0 to .1 and of 0 to .2
    assert {bar.get_hatch() for bar in ax.patches} == {None, "//////"}
    assert {bar.get_facecolor() for bar in ax.patches} == {to_rgba(NULL), to_rgba(VOXELS_TONE)}
    assert all(bar.get_linewidth() > 0 and bar.get_edgecolor()[3] == 1 for bar in ax.patches)
    assert flats(ax) == [0.1, 0.1, 0.6, 0.6]  # r of a control less its excess is the mean of its null; r / normalized
    floor, ceiling = line(ax, FLOOR_LABEL), line(ax, CEILING_LABEL)
    assert (floor.get_segments()[0][0, 1], ceiling.get_segments()[0][0, 1]) == pytest.approx((0.1, 0.6))
    on, off = floor.get_linestyle()[0][1]
    assert on < off  # dotted
    assert len(stars(ax)) == 1
    names = ax.get_legend_handles_labels()[1]
    assert {UNITS_LABEL, VOXELS_LABEL, FLOOR_LABEL} <= set(names)
    assert ax.get_ylabel() == "held-out r, sheet to cortex"
    assert to_hex(line(ax, "untrained").get_color()).upper() == UNTRAINED


def test_smoothness_of_paired_maps_is_drawn_for_one_component():
    made = make_spatial({QUERY: 0.3, KEY: 0.2}, controls={"twin": 0.1}, simulated=True)
    ax = tb.plot.spatial_alignment(made, measure="smoothness", component=2)
    assert np.allclose(heights(ax, "m"), [0.25, 0.25])
    assert np.allclose(heights(ax, "twin"), [0, 0])
    assert len(stars(ax)) == 2
    assert heights(ax, ZERO_LABEL).tolist() == [0, 0]
    assert ZERO_LABEL == "0 = mean of shuffled places"
    assert ax.get_title() == "paired weight maps, component 2 (simulated)"
    with pytest.raises(InputError, match="components 1 to 3"):
        tb.plot.spatial_alignment(made, measure="smoothness", component=4)
    with pytest.raises(UnknownNameError, match="measure"):
        tb.plot.spatial_alignment(made, measure="smothness")


def test_spatial_results_of_several_models_share_an_axes_if_they_are_equally_deep():
    two = {"a": make_spatial({QUERY: 0.3}), "b": make_spatial({QUERY: 0.2}, controls={"untrained": 0.1})}
    ax = tb.plot.spatial_alignment(two)
    assert np.allclose(heights(ax, "b: untrained"), [0.1])
    with pytest.raises(InputError, match="same number of layers"):
        tb.plot.spatial_alignment(two | {"c": make_spatial({QUERY: 0.3, KEY: 0.1})})
    with pytest.raises(InputError, match=r"draws spatial_alignment results .*, got an alignment result"):
        tb.plot.spatial_alignment({"a": make_alignment(R)})


def test_paired_maps_say_how_smooth_both_are_where_that_was_measured():
    spatial = make_spatial({KEY: 0.3}, n_components=2)
    axes = tb.plot.paired_maps(make_alignment(R), layer=KEY, components=[2, 3], spatial=spatial, n_ends=0)
    assert axes[0, 0].get_title(loc="left").endswith("\nMoran's I 0.45, p = .010")
    assert axes[0, 1].get_title(loc="left").endswith("\nMoran's I 0.40, p = .010")
    assert "smoothness measured of 2 components" in axes[1, 0].get_title(loc="left")
    with pytest.raises(UnknownNameError, match="in the spatial alignment"):
        tb.plot.paired_maps(make_alignment(R), layer=QUERY, spatial=spatial)
