from __future__ import annotations

import numpy as np
import pytest
from made_integrations import SHEET, WINDOWS, make_integration, window
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

import topobrain as tb
from topobrain._checks import InputError, UnknownNameError
from topobrain.plot.integration import BAND, FEW, FITTED, LAYOUT_NULL, STARTS
from topobrain.plot.style import COLUMN_INCHES, MISSING, PAGE_INCHES, TWIN_MARKER, UNTRAINED, model_colour
from topobrain.plot.window_maps import DIVERGING, SEQUENTIAL, drawn_values, map_limits
from topobrain.sheet import Sheet

LAYERS = list(WINDOWS)
YOKING = {"blocks.0": 0.0, "blocks.1": 0.03, "blocks.2": 0.07}


def yoked(**options):
    return make_integration(yoking=YOKING, sentence_words=12, **options)


def line(ax, label):
    handles, names = ax.get_legend_handles_labels()
    return handles[names.index(label)]


def words_of(figure):
    return " ".join(text.get_text() for text in figure.texts)


# ---- maps


def test_every_layer_and_map_has_a_sheet_with_its_values():
    result = yoked(spread=0.5)
    axes = tb.plot.integration_maps(result)
    assert axes.shape == (3, 5)
    assert axes[0, 0].figure.get_size_inches()[0] == pytest.approx(PAGE_INCHES)
    for row, layer in zip(axes, LAYERS, strict=True):
        for ax, name in zip(row, ("c", "a", "b", "width", "yoking"), strict=True):
            (image,) = ax.images
            assert np.allclose(image.get_array().filled(np.nan), SHEET.to_image(result.values(layer, name)))
            assert image.get_cmap().name == (DIVERGING if name == "yoking" else SEQUENTIAL)
    assert axes[1, 0].get_ylabel() == "layer 1\n4 x 6 units"


def test_scales_are_the_same_for_all_models_unless_the_data_go_beyond():
    axes = tb.plot.integration_maps(yoked(), layers="blocks.0")
    assert [image.get_clim() for ax in axes[0, :3] for image in ax.images] == [(0, 1), (0, 1.5), (0, 12)]
    widths = np.concatenate([yoked().values(layer, "width") for layer in LAYERS])
    ends = axes[0, 3].images[0].get_clim()
    assert ends[0] <= np.percentile(widths, 1) < ends[0] + 0.01
    assert ends[1] - 0.01 < np.percentile(widths, 99) <= ends[1]
    low, high = axes[0, 4].images[0].get_clim()
    assert low == -high == pytest.approx(-0.08)
    steep = make_integration({"x": (3.21, 4.0, 0.5)})
    assert map_limits([steep], ["a", "b"]) == {"a": (0.0, 4.0), "b": (0.0, 12.0)}
    assert map_limits([make_integration()], ["a"]) == {"a": (0.0, 1.5)}
    few = make_integration({"x": (1.0, 20.0, 0.5)}, sheet=Sheet.grid(1, 1))
    assert map_limits([few, make_integration(sheet=Sheet.grid(10, 20))], ["b"]) == {
        "b": (0.0, 12.0)
    }  # one in 601 units
    silent = make_integration(unreliable=24)
    assert map_limits([silent], ["c", "width", "yoking"]) == {"c": (0, 1), "width": (0.5, 1.0), "yoking": (-0.02, 0.02)}


def test_units_that_are_not_known_are_grey_and_it_is_said():
    result = yoked(unreliable=3, noisy=2)
    axes = tb.plot.integration_maps(result, layers="blocks.1")
    for ax, n_grey in zip(axes[0], (5, 5, 5, 3, 3), strict=True):
        grey, values = ax.images
        shown = grey.get_array()
        assert to_hex(grey.get_cmap()(0)).upper() == MISSING
        assert int((~np.ma.getmaskarray(shown)).sum()) == n_grey
        # a place is either grey or has a colour
        assert (np.ma.getmaskarray(values.get_array()) == ~np.ma.getmaskarray(shown)).all()
        assert f"{100 * n_grey / 24:.0f} % grey" in ax.get_xlabel()
    said = words_of(axes[0, 0].figure)
    for words in ("a where c < .05", "b where c > .95", "standard error is above .005", "reliability is below .5"):
        assert words in said
    bare = tb.plot.integration_maps(result, maps=["width"])
    assert "c < .05" not in words_of(bare[0, 0].figure)


def test_a_parameter_that_cannot_be_told_is_grey_in_its_own_map_alone():
    axes = tb.plot.integration_maps(make_integration({"low": (0.5, 4.0, 0.01), "high": (0.5, 4.0, 0.99)}))
    under = [[ax.get_xlabel() for ax in row] for row in axes]
    assert "nothing known" in under[0][1]
    assert "nothing known" in under[1][2]
    assert not any("grey" in under[row][column] for row, column in ((0, 0), (0, 2), (1, 0), (1, 1)))


def test_places_without_a_unit_are_white_and_not_grey():
    result = make_integration({"x": (0.5, 1.0, 0.3)}, sheet=Sheet(10, 3, 4), unreliable=1)
    ax = tb.plot.integration_maps(result, maps="c")[0, 0]
    grey, values = (~np.ma.getmaskarray(image.get_array()) for image in ax.images)
    assert (grey.sum(), values.sum()) == (1, 9)
    assert to_hex(ax.get_facecolor()) == "#ffffff"


def test_curves_that_never_come_down_have_the_upper_colour_and_a_pointed_end():
    result = make_integration(beyond=2)
    limits = map_limits([result], ["width"])["width"]
    assert (drawn_values(result, "blocks.0", "width", limits) > limits[1]).sum() == 2
    axes = tb.plot.integration_maps(result, maps="width", layers="blocks.0")
    assert "% grey" not in axes[0, 0].get_xlabel()
    assert "never come down to one half" in words_of(axes[0, 0].figure)
    assert "never come down" not in words_of(tb.plot.integration_maps(make_integration(), maps="width")[0, 0].figure)


def test_morans_i_and_its_null_stand_under_every_map():
    axes = tb.plot.integration_maps(yoked(morans=0.34))
    assert all("Moran's I 0.34, p = .001\nnull 0.00 ± 0.02" in ax.get_xlabel() for ax in axes.ravel())
    narrow = tb.plot.integration_maps(yoked(morans=0.34), width=COLUMN_INCHES)
    assert all("I 0.34\nnull 0.00\np = .001" in ax.get_xlabel() for ax in narrow.ravel())
    assert narrow[0, 0].figure.get_size_inches()[0] == COLUMN_INCHES
    none = tb.plot.integration_maps(make_integration(spread=0.5, n_null=0), maps=["c", "a"])
    assert all("says\nnothing on topography" in ax.get_xlabel() for ax in none.ravel())


def test_a_map_without_a_null_says_why():
    same = make_integration(morans=np.nan)
    assert "does not vary" in tb.plot.integration_maps(same, maps="c", layers="blocks.0")[0, 0].get_xlabel()
    few = make_integration(spread=0.5, noisy=22, morans=np.nan)
    assert "too few known" in tb.plot.integration_maps(few, maps="c", layers="blocks.0")[0, 0].get_xlabel()


def test_equal_to_rounding_does_not_vary_and_hardly_any_known_is_not_equal():
    result = make_integration({"x": (0.5, 1.0, 0.3)}, morans=np.nan)
    values = result.data["c"].values
    values += 1e-11 * np.arange(values.size)
    assert "does not vary" in tb.plot.integration_maps(result, maps="c")[0, 0].get_xlabel()
    one = make_integration({"x": (0.5, 1.0, 0.3)}, sheet=Sheet.grid(10, 20), noisy=199, morans=np.nan)
    under = tb.plot.integration_maps(one, maps="c")[0, 0].get_xlabel()
    assert "too few known" in under
    assert "> 99 % grey" in under


def test_few_maps_are_no_larger_than_many():
    for maps, width in (("width", COLUMN_INCHES), (["c", "a"], 3.73)):
        figure = (axes := tb.plot.integration_maps(make_integration(sheet=Sheet.grid(8, 8)), maps=maps))[0, 0].figure
        assert figure.get_size_inches()[0] == pytest.approx(width)
        assert figure.get_size_inches()[1] < 8
        assert all(ax.get_position().width * figure.get_size_inches()[0] == pytest.approx(1.6) for ax in axes.ravel())


def test_the_scale_of_b_leaves_out_layers_at_the_bound():
    windows = {"embeddings": (1.0, 10.0, 0.5), "block": (1.0, 2.0, 0.5)}
    result = make_integration(windows)
    assert map_limits([result], ["b"]) == {"b": (0.0, 12.0)}  # nothing varies
    block = result.unit_slice("block")
    result.data["b"].values[block] = np.linspace(1, 2.9, 24)
    assert map_limits([result], ["b"]) == {"b": (0.0, 3.0)}
    result.data["b"].values[block] = np.linspace(1, 50, 24)
    assert map_limits([result], ["b"]) == {"b": (0.0, 12.0)}


def test_no_words_run_into_each_other_at_both_widths():
    for width in (COLUMN_INCHES, PAGE_INCHES):
        result = yoked(unreliable=2, noisy=2, sheet=Sheet.grid(8, 12))
        axes = tb.plot.integration_maps(result, width=width)
        figure = axes[0, 0].figure
        drawer = figure.canvas.get_renderer()
        figure.draw_without_rendering()
        boxes = [ax.xaxis.label.get_window_extent(drawer) for ax in axes.ravel()]
        panels = [ax.get_window_extent(drawer) for ax in axes.ravel()]
        notes = [text.get_window_extent(drawer) for text in figure.texts]
        whole = figure.bbox
        for number, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in panels)
            assert not any(box.overlaps(other) for other in boxes[number + 1 :] + notes)
            assert box.x0 >= -1
            assert box.x1 <= whole.x1 + 1


def test_maps_that_a_result_does_not_have_are_left_out_or_told():
    assert tb.plot.integration_maps(make_integration()).shape == (3, 4)
    two_sided = make_integration(causal=False)
    assert tb.plot.integration_maps(two_sided).shape == (3, 1)
    for result, name, told in (
        (make_integration(), "yoking", "sentence-sequences"),
        (two_sided, "c", "reads both ways"),
    ):
        with pytest.raises(InputError, match=told):
            tb.plot.integration_maps(result, maps=name)


def test_given_axes_are_filled_and_a_wrong_number_is_told():
    figure, every = plt.subplots(2, 2)
    axes = tb.plot.integration_maps(make_integration(), every, layers=LAYERS[:2], maps=["c", "width"])
    assert axes[0, 0] is every[0, 0]
    assert len(figure.axes) == 6  # a colour bar a column
    assert figure.get_suptitle() == ""
    _, ax = plt.subplots()
    assert tb.plot.integration_maps(make_integration(), ax, layers="blocks.0", maps="b")[0, 0] is ax
    with pytest.raises(InputError, match=r"\(3, 4\)"):
        tb.plot.integration_maps(make_integration(), every)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"layers": "blocks.9"}, "unknown layer 'blocks.9'"),
        ({"maps": "widht"}, "Did you mean 'width'"),
        ({"maps": ["c", "c"]}, "drawn once"),
        ({"layers": []}, "at least one"),
        ({"width": 0.1}, "at least 1"),
    ],
)
def test_maps_that_cannot_be_drawn_are_told(options, told):
    with pytest.raises((InputError, UnknownNameError), match=told):
        tb.plot.integration_maps(make_integration(), **options)


def test_layers_without_places_have_no_map():
    flat = make_integration(sheet=Sheet.none(24))
    with pytest.raises(InputError, match="no layer of this result has a layout"):
        tb.plot.integration_maps(flat)
    with pytest.raises(InputError, match="needs a layout"):
        tb.plot.integration_maps(flat, layers="blocks.0")
    with pytest.raises(InputError, match="integration windows"):
        tb.plot.integration_maps({"m": flat})


def test_simulated_data_say_so_everywhere():
    made = yoked(simulated=True, name="m")
    assert tb.plot.integration_maps(made)[0, 0].figure.get_suptitle() == "m (simulated)"
    assert tb.plot.integration_curves(made)[0].figure.get_suptitle() == "m (simulated)"
    assert tb.plot.integration_depth(made)[0].figure.get_suptitle() == "(simulated)"
    assert tb.plot.yoking_steps(made).get_title() == "m (simulated)"


# ---- curves


def test_medians_quartiles_and_fits_are_those_of_reliable_units():
    result = make_integration(spread=0.4, unreliable=5, noisy=3)
    ax = tb.plot.integration_curves(result, layers="blocks.1")
    kept = result.curves("blocks.1")[:, 5:]
    drawn = line(ax, "m")
    assert np.allclose(drawn.get_xdata(), result.lags)
    assert np.allclose(drawn.get_ydata(), np.median(kept, axis=1))
    band = next(one for one in ax.collections if len(one.get_paths()[0].vertices) > 10)
    ends = band.get_paths()[0].vertices[:, 1]
    assert ends.min() == pytest.approx(np.percentile(kept, 25, axis=1).min())
    fit = line(ax, FITTED)
    a, b, c = (result.values("blocks.1", name, masked=False)[8:] for name in "abc")
    assert np.allclose(fit.get_ydata(), np.median(window(a, b, c, fit.get_xdata()), axis=1))
    assert BAND in ax.get_legend_handles_labels()[1]
    assert ax.get_xlabel() == "lag (words)"
    assert "best on held-out sequences: mixture (75 %)" in ax.get_title()
    narrow = tb.plot.integration_curves(result)[1]
    assert narrow.get_title().endswith("\nheld out: mixture (75 %)")


def test_controls_stand_beside_in_their_colours():
    model = make_integration(name="topolm-tiny")
    untrained = make_integration(dict.fromkeys(LAYERS, (1.0, 8.0, 0.02)), name="topolm-tiny (untrained)")
    axes = tb.plot.integration_curves(model, controls={"untrained": untrained, "twin": model})
    assert len(axes) == 3
    assert to_hex(line(axes[0], "untrained").get_color()).upper() == UNTRAINED
    assert line(axes[0], "twin").get_marker() == TWIN_MARKER
    assert to_hex(line(axes[0], "topolm-tiny").get_color()).upper() == model_colour("topolm-tiny")
    assert np.allclose(line(axes[2], "untrained").get_ydata(), np.median(untrained.curves("blocks.2"), axis=1))
    assert sum(one.get_linestyle() == "--" for one in axes[0].lines) == 1  # the fit of the model alone
    with pytest.raises(UnknownNameError, match="in the control 'untrained'"):
        tb.plot.integration_curves(model, controls={"untrained": make_integration({"other": (1, 1, 0.5)})})


def test_lags_on_a_logarithmic_axis_keep_their_names():
    result = make_integration()
    ax = tb.plot.integration_curves(result, layers="blocks.0", lag="log")
    assert ax.get_xscale() == "log"
    assert np.allclose(line(ax, "m").get_xdata(), result.lags + 1)
    assert dict(zip(ax.get_xticks(), [t.get_text() for t in ax.get_xticklabels()], strict=True))[6] == "5"
    with pytest.raises(InputError, match="both sides"):
        tb.plot.integration_curves(make_integration(causal=False), lag="log")


def test_two_sided_curves_have_no_fit():
    result = make_integration(causal=False)
    ax = tb.plot.integration_curves(result, layers="blocks.0")
    assert line(ax, "m").get_xdata().min() == -20
    assert FITTED not in ax.get_legend_handles_labels()[1]
    assert ax.get_title() == "blocks.0"


def test_a_layer_without_a_reliable_curve_says_so():
    ax = tb.plot.integration_curves(make_integration(unreliable=24), layers="blocks.0")
    assert [text.get_text() for text in ax.texts] == ["m:\nno curve is reliable"]


# ---- depth


def test_medians_over_known_units_run_over_depth():
    result = make_integration(spread=0.4, unreliable=5, name="topolm-tiny")
    axes = tb.plot.integration_depth({"topolm-tiny": result, "untrained": make_integration()})
    assert [ax.get_title()[:2] for ax in axes] == ["c,", "a,", "b,", "ha"]
    for ax, name in zip(axes, ("c", "a", "b", "width"), strict=True):
        marks = [one for one in ax.lines if one.get_linestyle() == "None" and len(one.get_xdata()) == 3]
        for drawn, one in zip(marks, (result, make_integration()), strict=True):
            assert np.allclose(drawn.get_ydata(), [np.nanmedian(one.values(layer, name)) for layer in LAYERS])
    assert to_hex(line(axes[0], "untrained").get_color()).upper() == UNTRAINED
    ends = sorted(float(y) for group in axes[0].collections for seg in group.get_segments() for y in seg[:, 1])
    assert np.nanpercentile(result.values("blocks.2", "c"), 75) == pytest.approx(ends[-1])
    assert [tick.get_text() for tick in axes[0].get_xticklabels()] == ["0", "1", "2"]
    (legend,) = axes[0].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["topolm-tiny", BAND, "untrained"]


def test_layers_of_which_little_is_known_are_pale():
    ax = tb.plot.integration_depth(make_integration(noisy=13), maps="c")
    assert FEW in ax.get_legend_handles_labels()[1]
    assert {one.get_alpha() for one in ax.lines if len(one.get_xdata()) == 3 and one.get_linestyle() == "None"} == {
        0.35
    }
    assert FEW not in tb.plot.integration_depth(make_integration(noisy=11), maps="c").get_legend_handles_labels()[1]


def test_patchiness_over_depth_stands_beside_its_null():
    ax = tb.plot.integration_depth(yoked(morans=0.3), maps="yoking", what="morans_i")
    assert ax.get_ylabel() == "Moran's I"
    assert np.allclose(line(ax, "m").get_ydata(), 0.3)
    assert {(round(bar.get_y(), 4), round(bar.get_height(), 4)) for bar in ax.patches} == {(-0.0392, 0.0784)}
    assert LAYOUT_NULL in ax.get_legend_handles_labels()[1]
    none = tb.plot.integration_depth(yoked(n_null=0), maps="c", what="morans_i")
    assert not none.patches


def test_depth_keeps_its_panels_at_both_widths_and_in_given_axes():
    for width, columns in ((COLUMN_INCHES, 2), (PAGE_INCHES, 5)):
        axes = tb.plot.integration_depth(yoked(), width=width)
        assert len(axes) == 5
        assert axes[0].get_subplotspec().get_gridspec().ncols == columns
        assert axes[0].figure.get_size_inches()[0] == pytest.approx(width)
    _, given = plt.subplots(1, 2)
    assert tb.plot.integration_depth(make_integration(), given, maps=["c", "b"])[1] is given[1]
    with pytest.raises(InputError, match="2 axes for 4 panels"):
        tb.plot.integration_depth(make_integration(), given)


@pytest.mark.parametrize(
    ("results", "options", "told"),
    [
        ([make_integration(), make_integration({"x": (1, 1, 0.5)}, name="n")], {}, r"got \[1, 3\]"),
        (make_integration(), {"maps": "yoking"}, "sentence-sequences"),
        (make_integration(), {"maps": "d"}, "unknown map"),
        (make_integration(), {"what": "mean"}, "unknown quantity over depth"),
        ([make_integration(), make_integration()], {}, "two results are of model 'm'"),
    ],
)
def test_depth_that_cannot_be_drawn_is_told(results, options, told):
    with pytest.raises((InputError, UnknownNameError), match=told):
        tb.plot.integration_depth(results, **options)


# ---- yoking


def test_steps_stand_at_their_words_with_sentence_starts_marked():
    result = yoked()
    ax = tb.plot.yoking_steps(result)
    drawn = line(ax, "layer 2: yoking .070")
    steps = dict(zip(drawn.get_xdata(), drawn.get_ydata(), strict=True))
    assert {at: round(float(steps[at]), 4) for at in (11, 12, 13, 24, 36, 48)} == {
        11: -0.001, 12: 0.07, 13: -0.001, 24: 0.07, 36: 0.07, 48: 0.07,
    }  # fmt: skip
    starts = [one.get_xdata()[0] for one in ax.lines if one.get_linestyle() == ":"]
    assert starts == [12, 24, 36, 48]
    assert STARTS in ax.get_legend_handles_labels()[1]
    assert list(ax.get_xticks()) == starts
    names = [f"layer {i}: yoking {at}" for i, at in enumerate((".000", ".030", ".070"))]
    assert len({to_hex(line(ax, name).get_color()) for name in names}) == 3


def test_layers_are_named_with_their_index_and_its_interval():
    result = make_integration(yoking=dict(YOKING, **{"blocks.2": -0.006}), sentence_words=12)
    draws = np.full((len(result.data["map"]), 41, 3), np.nan)
    draws[list(result.data["map"].values).index("yoking"), :, 2] = np.linspace(-0.0102, -0.0018, 41)
    data = result.data.assign(layer_draws=(("map", "draw", "layer_name"), draws))
    said = tb.plot.yoking_steps(type(result)(data)).get_legend_handles_labels()[1]
    assert [one.replace("\N{MINUS SIGN}", "-") for one in said[-3:]] == [
        "layer 0: yoking .000", "layer 1: yoking .030", "layer 2: yoking -.006 [-.010, -.002]",
    ]  # fmt: skip


def test_of_many_layers_the_ends_and_the_middle_are_named():
    layers = [f"blocks.{i}" for i in range(9)]
    deep = make_integration(
        dict.fromkeys(layers, (1, 1, 0.5)), yoking=dict.fromkeys(layers, 0.1), sentence_words=4, n_sentences=3
    )
    (legend,) = tb.plot.yoking_steps(deep).figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *(f"layer {i}: yoking .100" for i in (0, 4, 8)),
        STARTS,
    ]
    _, ax = plt.subplots()
    tb.plot.yoking_steps(deep, ax, layers=layers[:2])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "layer 0: yoking .100",
        "layer 1: yoking .100",
        STARTS,
    ]


def test_steps_need_sentences():
    with pytest.raises(InputError, match="sentence-sequences"):
        tb.plot.yoking_steps(make_integration())
    with pytest.raises(UnknownNameError, match="Did you mean 'blocks"):
        tb.plot.yoking_steps(yoked(), layers="blocks.l")
