from __future__ import annotations

import numpy as np
import pytest
from made_results import make_curve, make_profile, make_topography
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex, to_rgba

import topobrain as tb
from topobrain._checks import InputError, UnknownNameError
from topobrain.plot.style import NULL, SMALLEST, UNTRAINED, model_colour
from topobrain.sheet import Sheet

LAYERS = {f"blocks.{i}.mlp": 0.1 * (i + 2) for i in range(3)}


def points(ax, label):
    """Values drawn under a name."""
    handles, labels = ax.get_legend_handles_labels()
    handle = handles[labels.index(label)]
    line = handle.lines[0] if hasattr(handle, "lines") else handle
    return np.asarray(line.get_ydata(), dtype=float), line


def bars(ax):
    return [(patch.get_y(), patch.get_y() + patch.get_height()) for patch in ax.patches]


def test_every_value_stands_beside_its_null():
    found = make_topography(LAYERS, name="topoformer-tiny", nulls={"layout": (0.01, -0.05, 0.08)})
    ax = tb.plot.topography(found, measure="morans_i")
    values, line = points(ax, "topoformer-tiny")
    assert np.allclose(values, list(LAYERS.values()))
    assert to_hex(line.get_color()).upper() == model_colour("topoformer-tiny")
    assert np.allclose(bars(ax), [(-0.05, 0.08)] * 3)
    assert {to_hex(patch.get_facecolor()).upper() for patch in ax.patches} == {NULL}
    means = np.concatenate([segment[:, 1] for segment in ax.collections[0].get_segments()])
    assert np.allclose(means, 0.01)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0.mlp", "1.mlp", "2.mlp"]
    assert ax.get_ylabel() == "Moran's I of the map"
    assert ax.get_title() == "language"
    assert "layout null, middle 95 %" in ax.get_legend_handles_labels()[1]


def test_the_axis_leaves_room_for_all_of_the_band():
    ax = tb.plot.topography(make_topography(LAYERS, nulls={"layout": (0.0, -0.5, 2.0)}), measure="morans_i")
    low, high = ax.get_ylim()
    assert low < -0.5
    assert high > 2.0


def test_several_models_stand_side_by_side_in_their_own_colours():
    names = ("topoformer-tiny", "topoformer-tiny-control", "topoformer-tiny (untrained)")
    found = [make_topography({k: v * n for k, v in LAYERS.items()}, name=name) for n, name in enumerate(names)]
    ax = tb.plot.topography(found, measure="morans_i")
    places = []
    for number, name in enumerate(names):
        values, line = points(ax, name)
        assert np.allclose(values, np.array(list(LAYERS.values())) * number)
        assert to_hex(line.get_color()).upper() == model_colour(name)
        places.append(np.asarray(line.get_xdata()))
    assert (np.diff(places, axis=0) > 0.05).all()
    assert points(ax, names[2])[1].get_markerfacecolor() == "white"
    assert len(bars(ax)) == 9
    assert ax.get_legend_handles_labels()[1].count("layout null, middle 95 %") == 1


def test_other_models_stand_beside_the_values_with_markers_of_their_own():
    references = {"untrained": (0.15, np.nan, np.nan), "twin": (0.05, 0.02, 0.09)}
    ax = tb.plot.topography(make_topography(LAYERS, references=references), measure="morans_i")
    values, line = points(ax, "untrained")
    assert np.allclose(values, 0.15)
    assert to_hex(line.get_color()).upper() == UNTRAINED
    assert np.allclose(points(ax, "twin")[0], 0.05)
    stems = next(c for c in ax.containers if c.get_label() == "twin").lines[2][0].get_segments()
    assert np.allclose([segment[:, 1] for segment in stems], [[0.02, 0.09]] * 3)
    assert np.allclose(bars(ax), [(-0.1, 0.1)] * 3)


def test_the_null_in_the_band_can_be_chosen():
    nulls = {"layout": (0.0, -0.1, 0.1), "labels": (0.2, 0.15, 0.3)}
    found = make_topography(LAYERS, nulls=nulls)
    assert np.allclose(bars(tb.plot.topography(found, measure="morans_i")), [(-0.1, 0.1)] * 3)
    ax = tb.plot.topography(found, measure="morans_i", null="labels")
    assert np.allclose(bars(ax), [(0.15, 0.3)] * 3)
    assert "labels null, middle 95 %" in ax.get_legend_handles_labels()[1]
    with pytest.raises(UnknownNameError, match="Did you mean 'layout'"):
        tb.plot.topography(found, measure="morans_i", null="layouts")


def test_a_single_other_model_is_a_marker_even_where_it_is_all_there_is():
    found = make_topography(LAYERS, nulls={}, references={"untrained": (0.1, np.nan, np.nan)})
    for null in (None, "untrained"):
        ax = tb.plot.topography(found, measure="morans_i", null=null)
        assert not ax.patches
        assert np.allclose(points(ax, "untrained")[0], 0.1)


def test_values_without_a_null_are_refused():
    bare = make_topography(LAYERS, nulls={})
    with pytest.raises(InputError, match=r"has no null here.*n_null=1000"):
        tb.plot.topography(bare, measure="morans_i")
    with pytest.raises(InputError, match="has no null here"):
        tb.plot.topography([make_topography(LAYERS, name="a"), make_topography(LAYERS, name="b", nulls={})],
                           measure="morans_i")  # fmt: skip
    half = make_topography(LAYERS)
    half.data["by_null"].loc[{"statistic": "p", "layer": list(LAYERS)[1]}] = np.nan
    with pytest.raises(InputError, match="has no null here"):
        tb.plot.topography(half, measure="morans_i")
    assert plt.get_fignums() == []


def test_layers_without_the_measure_are_left_out():
    ax = tb.plot.topography(make_topography({**LAYERS, "flat": np.nan}), measure="morans_i")
    assert len(ax.get_xticks()) == 3


def test_contrasts_of_one_layer_stand_side_by_side():
    values = {("fsaverage5 left", name): v for name, v in (("noun - verb", 0.4), ("animacy", 0.2))}
    ax = tb.plot.topography(make_topography(values), measure="morans_i")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["noun - verb", "animacy"]
    assert np.allclose(points(ax, "m")[0], [0.4, 0.2])
    assert (ax.get_title(), ax.get_xlabel()) == ("fsaverage5 left", "contrast")
    one = tb.plot.topography(make_topography(values), measure="morans_i", contrast="animacy")
    assert np.allclose(points(one, "m")[0], [0.2])


@pytest.mark.slow
def test_several_contrasts_of_several_layers_must_be_named():
    values = {(layer, name): v for layer, v in LAYERS.items() for name in ("a", "b")}
    with pytest.raises(InputError, match="several contrasts"):
        tb.plot.topography(make_topography(values), measure="morans_i")
    with pytest.raises(UnknownNameError, match="unknown contrast"):
        tb.plot.topography(make_topography(values), measure="morans_i", contrast="c")
    assert tb.plot.topography(make_topography(values), measure="morans_i", contrast="b").get_title() == "b"


def test_bad_requests_name_what_would_do():
    found = make_topography(LAYERS)
    with pytest.raises(UnknownNameError, match="Did you mean 'morans_i'"):
        tb.plot.topography(found, measure="moran_i")
    with pytest.raises(InputError, match="has no value"):
        tb.plot.topography(found, measure="generic")
    with pytest.raises(InputError, match="infinite"):
        tb.plot.topography(make_topography({"l": np.inf}), measure="morans_i")
    with pytest.raises(InputError, match="need the same layers"):
        tb.plot.topography([found, make_topography({"l": 0.1}, name="n")], measure="morans_i")
    with pytest.raises(InputError, match="two results are of model 'm'"):
        tb.plot.topography([found, found], measure="morans_i")
    with pytest.raises(InputError, match="no topography result"):
        tb.plot.topography([], measure="morans_i")
    with pytest.raises(InputError, match="got a profile result"):
        tb.plot.topography(make_profile({"a": 1.0}), measure="morans_i")
    with pytest.raises(InputError, match="got dict"):
        tb.plot.topography([{"a": found}], measure="morans_i")


def test_what_topography_measures_is_drawn():
    rng = np.random.default_rng(0)
    stimuli = tb.StimulusSet([f"text {i}" for i in range(24)], {"condition": ["a", "b"] * 12})
    sheets = {name: Sheet.grid(6, 6) for name in ("l.0", "l.1")}
    acts = tb.Activations.from_arrays({n: rng.standard_normal((24, 36)) for n in sheets}, stimuli, sheets=sheets)
    maps = tb.localize(acts, tb.Contrast("language", on="a", off="b"), n_null=0)
    found = tb.topography(maps, activations=acts, measures=["morans_i", "generic"], n_null=19)
    for measure, contrast in (("morans_i", "language"), ("generic", "all stimuli")):
        ax = tb.plot.topography(found, measure=measure)
        beside = found.beside("layout").sel(measure=measure, contrast=contrast)
        assert np.allclose(points(ax, "model")[0], beside["value"])
        assert np.allclose(bars(ax), np.stack([beside["null_low"], beside["null_high"]], axis=1))
        assert ax.get_title() == contrast
    with pytest.raises(InputError, match="has no null here"):
        tb.plot.topography(tb.topography(maps, measures=["morans_i"], n_null=0), measure="morans_i")


def test_a_curve_lies_beside_its_null():
    curve = make_curve({"l.0": [0.5, 0.2, 0.1]}, name="topoformer-tiny", null=0.02)
    ax = tb.plot.distance_curve(curve)
    x, y = points(ax, "topoformer-tiny")[1].get_data()
    assert np.allclose(x, [1, 2, 3])
    assert np.allclose(y, [0.5, 0.2, 0.1])
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((-0.03, 0.07))
    assert np.allclose(points(ax, "its mean")[0], 0.02)
    assert ax.get_xlabel() == "distance on the sheet (grid steps)"
    assert ax.get_ylabel() == "mean response correlation"
    assert ax.get_title() == "l.0"


def test_every_layer_of_a_curve_gets_a_panel():
    curve = make_curve({f"blocks.{i}": [0.5 * i, 0.2] for i in range(5)})
    axes = tb.plot.distance_curve(curve)
    assert [ax.get_title() for ax in axes] == ["0", "1", "2", "3", "4"]
    assert np.allclose([ax.lines[1].get_ydata()[0] for ax in axes], [0, 0.5, 1.0, 1.5, 2.0])
    assert len({ax.get_ylim() for ax in axes}) == 1
    assert [bool(ax.get_ylabel()) for ax in axes] == [True, False, False, True, False]
    assert len(axes[0].figure.legends) == 1
    one = tb.plot.distance_curve(curve, plt.subplots()[1], layer="blocks.2")
    assert one.get_title() == "blocks.2"
    with pytest.raises(InputError, match="name the layer"):
        tb.plot.distance_curve(curve, plt.subplots()[1])


def test_the_nulls_of_several_curves_can_be_told_apart():
    curves = {"stories260k": make_curve({"l": [0.5, 0.1]}), "stories260k (untrained)": make_curve({"l": [0.1, 0.1]})}
    ax = tb.plot.distance_curve(curves)
    shades = [to_hex(band.get_facecolor()[0]).upper() for band in ax.collections]
    assert shades == [model_colour(name) for name in curves]
    alone = tb.plot.distance_curve(curves["stories260k"]).collections[0]
    assert np.allclose(alone.get_facecolor()[0], to_rgba(NULL, 0.6))


def test_bins_without_pairs_are_left_out():
    ax = tb.plot.distance_curve(make_curve({"l": [0.5, np.nan, 0.1]}))
    assert np.allclose(points(ax, "m")[1].get_xdata(), [1, 3])


def test_a_curve_without_a_null_is_refused():
    with pytest.raises(InputError, match=r"layer 'l' has no null.*n_null=200"):
        tb.plot.distance_curve(make_curve({"l": [0.5, 0.1]}, null=None))
    with pytest.raises(InputError, match="has no values"):
        tb.plot.distance_curve(make_curve({"l": [np.nan, np.nan]}))
    with pytest.raises(InputError, match="infinite"):
        tb.plot.distance_curve(make_curve({"l": [np.inf, 0.1]}))
    assert plt.get_fignums() == []


def test_curves_of_different_quantities_are_not_drawn_together():
    t = make_curve({"l": [1.0, 2.0]}, name="t", quantity="difference of t")
    assert tb.plot.distance_curve(t).get_ylabel() == "mean absolute difference of t"
    with pytest.raises(InputError, match="one quantity, got difference of t, response correlation"):
        tb.plot.distance_curve([t, make_curve({"l": [1.0, 2.0]})])
    with pytest.raises(UnknownNameError, match="unknown layer 'k'"):
        tb.plot.distance_curve(t, layer="k")
    with pytest.raises(InputError, match="draws distance_curve results"):
        tb.plot.distance_curve(make_topography(LAYERS))


@pytest.mark.parametrize("n_models", [1, 3])
@pytest.mark.slow
def test_nothing_overlaps_and_no_letter_is_too_small(n_models):
    names = ("toponet-nanogpt-tiny", "toponet-nanogpt-tiny-control", "toponet-nanogpt-tiny (untrained)")[:n_models]
    layers = {f"layer{i}.0.conv2": 0.3 for i in range(4)}
    drawn = (
        tb.plot.topography([make_topography(layers, name=name) for name in names], measure="morans_i"),
        tb.plot.distance_curve({name: make_curve({"l": [0.3, 0.2]}) for name in names}),
        tb.plot.profiles({name: make_profile({"sentences": 1.0, "Jabberwocky": 2.0}) for name in names}),
    )
    for ax in drawn:
        figure = ax.figure
        figure.canvas.draw()
        low, high = ax.get_xlim()
        shown = [text for text in ax.get_xticklabels() if low <= text.get_position()[0] <= high]
        ticks = [*shown, *ax.get_yticklabels()]
        legend = figure.legends[0]
        boxes = [ax.title.get_window_extent(), ax.xaxis.label.get_window_extent(), legend.get_window_extent()]
        boxes += [text.get_window_extent() for text in shown]
        texts = [ax.title, ax.xaxis.label, ax.yaxis.label, *ticks, *legend.get_texts()]
        assert min(text.get_fontsize() for text in texts) >= SMALLEST
        for number, box in enumerate(boxes):
            assert box.x0 >= -1
            assert box.x1 <= figure.bbox.width + 1
            for other in boxes[number + 1 :]:
                if number < 3:  # slanted tick labels have boxes larger than their letters
                    overlap = (
                        min(box.x1, other.x1) - max(box.x0, other.x0),
                        min(box.y1, other.y1) - max(box.y0, other.y0),
                    )
                    assert min(overlap) <= 1.0
