from __future__ import annotations

import numpy as np
import pytest
from made_results import NULL, make_selectivity
from matplotlib import pyplot as plt
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb

import topobrain as tb
from topobrain._checks import InputError, UnknownNameError
from topobrain.plot.style import MISSING, SMALLEST
from topobrain.sheet import Sheet

GRID = Sheet.grid(6, 8)
TWO = {"blocks.0.mlp.c_fc": GRID, "blocks.1.mlp.c_fc": GRID}


def lines_of(ax):
    return [one for one in ax.collections if isinstance(one, LineCollection)]


def patch(sheet, rows, columns):
    """q of a sheet on which a block of units is significant."""
    image = np.ones((sheet.height, sheet.width))
    image[rows, columns] = 0.01
    return image.ravel()[sheet.cells]


def shown(ax):
    return np.ma.filled(ax.images[0].get_array().astype(float), np.nan)


def words(ax):
    return " ".join([ax.get_title(), ax.get_xlabel(), *(text.get_text() for text in ax.texts)])


def test_a_map_shows_the_values_on_a_scale_with_zero_in_its_middle():
    found = make_selectivity(TWO)
    ax = tb.plot.sheet(found, layer="blocks.1.mlp.c_fc")
    t = found.values("blocks.1.mlp.c_fc")
    assert np.array_equal(shown(ax), GRID.to_image(t))
    low, high = ax.images[0].get_clim()
    assert low == -high
    assert high == pytest.approx(max(np.percentile(np.abs(t), 99), 3.0))
    assert np.allclose(ax.images[0].cmap(ax.images[0].norm(0.0))[:3], 0.97, atol=0.01)


def test_morans_i_stands_beside_its_null():
    title = tb.plot.sheet(make_selectivity(TWO), layer="blocks.0.mlp.c_fc").get_title()
    assert title == "blocks.0.mlp.c_fc\nMoran's I 0.31, p = .012\nlayout null -0.01 $\\pm$ 0.04"


def test_small_numbers_are_written_as_papers_do():
    tiny = make_selectivity({"l": GRID}, null=NULL | {"p_layout": 0.0009, "null_mean": -0.001})
    assert "p < .001" in tb.plot.sheet(tiny).get_title()
    assert "null 0.00" in tb.plot.sheet(tiny).get_title()


def test_localized_maps_carry_their_own_numbers():
    rng = np.random.default_rng(0)
    stimuli = tb.StimulusSet([f"text {i}" for i in range(24)], {"condition": ["a", "b"] * 12})
    acts = tb.Activations.from_arrays({"l": rng.standard_normal((24, 48))}, stimuli, sheets={"l": GRID})
    found = tb.localize(acts, tb.Contrast("language", on="a", off="b"), n_null=50)
    row = found.summary().iloc[0]
    assert f"Moran's I {row.morans_i:.2f}".replace("-0.00", "0.00") in tb.plot.sheet(found).get_title()


def test_a_map_without_null_shows_no_morans_i():
    for null in (None, NULL | {"null_mean": np.nan}, NULL | {"p_layout": np.nan}):
        title = tb.plot.sheet(make_selectivity({"l": GRID}, null=null)).get_title()
        assert "Moran" not in title
        assert "0.31" not in title
        assert "says nothing on topography" in title
    assert tb.plot.sheet(make_selectivity({"l": GRID}), null=False).get_title() == "l"


def test_a_claim_needs_a_null():
    with pytest.raises(InputError, match=r"has no layout null.*n_null=1000"):
        tb.plot.sheet(make_selectivity({"l": GRID}, null=None), null="require")
    assert "Moran's I 0.31" in tb.plot.sheet(make_selectivity({"l": GRID}), null="require").get_title()
    assert len(plt.get_fignums()) == 1  # the refused one made no figure


def test_a_map_that_does_not_vary_says_so():
    title = tb.plot.sheet(make_selectivity({"l": GRID}, t=np.zeros(48), null=None)).get_title()
    assert "does not vary" in title


def test_all_panels_share_one_scale_and_one_colour_bar():
    t = np.concatenate([np.linspace(-1, 1, 48), np.linspace(-30, 30, 48)])
    axes = tb.plot.sheet(make_selectivity(TWO, t=t))
    assert [ax.get_title().split("\n")[0] for ax in axes] == ["0.c_fc", "1.c_fc"]
    limit = np.percentile(abs(t), 99)
    assert axes[0].images[0].get_clim() == axes[1].images[0].get_clim() == pytest.approx((-limit, limit))
    bars = [ax for ax in axes[0].figure.axes if ax.get_label() == "<colorbar>"]
    assert len(bars) == 1
    assert bars[0].get_ylabel().startswith("t, language")


def test_layers_are_drawn_in_the_order_asked_for():
    sheets = {f"l{i}": GRID for i in range(3)}
    axes = tb.plot.sheet(make_selectivity(sheets), layers=["l2", "l0"])
    assert [ax.get_title().split("\n")[0] for ax in axes] == ["l2", "l0"]
    assert len(tb.plot.sheet(make_selectivity({**sheets, "flat": Sheet.none(4)}))) == 3


def test_each_contrast_of_one_layer_gets_a_panel():
    found = make_selectivity(TWO, contrasts=("faces", "places"))
    axes = tb.plot.sheet(found, layer="blocks.0.mlp.c_fc")
    assert [ax.get_title().split("\n")[0] for ax in axes] == ["faces", "places"]
    for ax, name in zip(axes, ("faces", "places"), strict=True):
        assert np.array_equal(shown(ax), GRID.to_image(found.values("blocks.0.mlp.c_fc", contrast=name)))
    assert axes[0].figure.get_suptitle() == "blocks.0.mlp.c_fc"
    with pytest.raises(InputError, match="several contrasts"):
        tb.plot.sheet(found)
    with pytest.raises(InputError, match="several contrasts"):
        tb.plot.sheet(found, plt.subplots()[1], layer="blocks.0.mlp.c_fc")
    assert len(tb.plot.sheet(found, contrast="places")) == 2


def test_lines_surround_the_significant_units_of_each_sign():
    q = patch(GRID, slice(1, 3), slice(2, 5)) * patch(GRID, slice(4, 6), slice(0, 1))
    t = np.ones(48)
    t[GRID.cells >= 32] = -1  # the lower patch prefers the other condition
    ax = tb.plot.sheet(make_selectivity({"l": GRID}, t=t, q=q))
    solid, dotted = lines_of(ax)
    assert len(solid.get_segments()) == 4
    assert np.ptp(np.concatenate(solid.get_segments()), axis=0).tolist() == [3, 2]
    assert np.ptp(np.concatenate(dotted.get_segments()), axis=0).tolist() == [1, 2]
    assert solid.get_linestyle()[0][1] is None
    assert dotted.get_linestyle()[0][1] is not None
    assert "outlined: q < .05 (dotted: t < 0)" in ax.figure.axes[-1].get_ylabel()


def test_the_level_of_significance_can_be_set():
    q = np.full(48, 0.5)
    q[:3] = 0.03, 0.003, np.nan
    found = make_selectivity({"l": GRID}, t=np.ones(48), q=q)
    extents = [
        np.ptp(np.concatenate(lines_of(tb.plot.sheet(found, significance=level))[0].get_segments())[:, 0])
        for level in (0.05, 0.01)
    ]
    assert extents == [2, 1]
    assert lines_of(tb.plot.sheet(found, significance=None)) == []
    assert lines_of(tb.plot.sheet(found, significance=0.001)) == []
    with pytest.raises(InputError, match="between 0 and 1"):
        tb.plot.sheet(found, significance=1.0)


def test_the_outline_surrounds_exactly_the_top_units():
    found = make_selectivity({"l": GRID}, t=np.arange(48))
    segments = lines_of(tb.plot.sheet(found, outline=2))[0].get_segments()
    assert np.concatenate(segments).min(axis=0).tolist() == [5.5, 4.5]
    assert len(segments) == 4
    both = tb.plot.sheet(make_selectivity({"l": GRID}, t=np.arange(48), q=np.zeros(48)), outline=0.1)
    assert len(lines_of(both)) == 2  # 47 significant units (t 0 has no sign) and the top tenth
    assert len({tuple(one.get_color()[0]) for one in lines_of(both)}) == 2
    assert "yellow: top 10%" in both.figure.axes[-1].get_ylabel()


def test_a_torus_has_a_dashed_frame_and_no_line_across_its_border():
    torus = Sheet.grid(6, 8, wrapped=True)
    q = patch(torus, slice(2, 4), [0, 7])
    ax = tb.plot.sheet(make_selectivity({"l": torus}, t=np.ones(48), q=q))
    ends = np.array(lines_of(ax)[0].get_segments())
    assert not np.isin(ends[:, :, 0], (-0.5, 7.5)).all(axis=1).any()
    assert "torus" in ax.get_xlabel()
    assert all(spine.get_linestyle() != "-" for spine in ax.spines.values())
    open_ax = tb.plot.sheet(make_selectivity({"l": GRID}, t=np.ones(48), q=q))
    ends = np.array(lines_of(open_ax)[0].get_segments())
    assert np.isin(ends[:, :, 0], (-0.5, 7.5)).all(axis=1).sum() == 2
    assert "open border" in open_ax.get_xlabel()
    assert all(spine.get_linestyle() in ("-", "solid") for spine in open_ax.spines.values())


def test_holes_and_units_without_t_are_grey_and_counted():
    sheet = Sheet.for_width(11)
    t = np.ones(11)
    t[3:5] = np.nan
    ax = tb.plot.sheet(make_selectivity({"l": sheet}, t=t), scale_bar=False)
    assert np.isnan(shown(ax)).sum() == 3
    assert "grey: 1 hole, 2 units without t" in ax.get_xlabel()
    ax.figure.canvas.draw()
    pixels = np.asarray(ax.figure.canvas.buffer_rgba())[::-1, :, :3] / 255
    for column, row in ((3, 0), (0, 1), (3, 2)):  # units 3 and 4, and the hole
        x, y = ax.transData.transform((column, row)).astype(int)
        assert np.allclose(pixels[y, x], to_rgb(MISSING), atol=0.01)
    assert "grey" not in tb.plot.sheet(make_selectivity({"l": GRID})).get_xlabel()


def test_a_map_without_any_value_is_grey_and_does_not_warn():
    ax = tb.plot.sheet(make_selectivity({"l": GRID}, t=np.full(48, np.nan), q=np.full(48, np.nan), null=None))
    assert ax.images[0].get_clim() == (-3.0, 3.0)
    ax.figure.canvas.draw()


def test_units_in_places_of_their_own_are_drawn_there():
    sheet = Sheet.grid(1, 3).with_places([2, 0, 1])
    ax = tb.plot.sheet(make_selectivity({"l": sheet}, t=[1.0, 2.0, 3.0], q=[0.01, 1.0, 1.0]))
    assert shown(ax).tolist() == [[2.0, 3.0, 1.0]]
    assert np.concatenate(lines_of(ax)[0].get_segments())[:, 0].min() == 1.5


def test_infinite_values_are_refused_by_name():
    t = np.ones(96)
    t[60] = np.inf
    with pytest.raises(InputError, match=r"layer 'blocks.1.mlp.c_fc' has 1 infinite"):
        tb.plot.sheet(make_selectivity(TWO, t=t))
    assert tb.plot.sheet(make_selectivity(TWO, t=t), layer="blocks.0.mlp.c_fc") is not None


@pytest.mark.parametrize(("width", "spacing", "steps", "said"), [
    (28, 1.0, 5, "5 grid steps"), (64, 1.0, 20, "20 grid steps"), (8, 0.5, 2, "2 grid steps = 1"), (3, 1.0, 1, "1 grid step"),
])  # fmt: skip
def test_the_scale_bar_has_the_length_it_says(width, spacing, steps, said):
    sheet = Sheet.grid(width, width, spacing=spacing)
    ax = tb.plot.sheet(make_selectivity({"l": sheet}))
    bar = next(line for line in ax.get_lines() if line.get_label() == "scale bar")
    ax.figure.canvas.draw()
    ends = bar.get_transform().transform(bar.get_xydata())
    pixels = np.ptp(ax.transData.transform([[0, 0], [steps, 0]])[:, 0])
    assert np.ptp(ends[:, 0]) == pytest.approx(pixels)
    assert ends[:, 1].max() < ax.get_window_extent().y0  # under the map
    assert [text.get_text() for text in ax.texts] == [said]
    assert len(ax.get_xticks()) == len(ax.get_yticks()) == 0
    assert ax.get_xlim() == (-0.5, width - 0.5)


def test_ticks_instead_of_a_scale_bar():
    ax = tb.plot.sheet(make_selectivity({"l": GRID}), scale_bar=False)
    assert ax.get_xticks().tolist() == [0, 7]
    assert "column (grid steps)" in ax.get_xlabel()
    assert not ax.texts


def test_simulated_stands_in_the_title_if_and_only_if_the_data_are():
    assert "(simulated)" in tb.plot.sheet(make_selectivity({"l": GRID}, simulated=True)).get_title()
    assert "(simulated)" not in tb.plot.sheet(make_selectivity({"l": GRID})).get_title()


def test_titles_go_where_they_belong():
    assert tb.plot.sheet(make_selectivity({"l": GRID}), title="mine").get_title().startswith("mine\n")
    axes = tb.plot.sheet(make_selectivity(TWO), title="mine")
    assert axes[0].figure.get_suptitle() == "mine"
    assert axes[0].get_title().startswith("0.c_fc\n")


def test_a_map_is_drawn_into_an_axes_that_is_given():
    figure, ax = plt.subplots()
    found = make_selectivity(TWO)
    assert tb.plot.sheet(found, ax, layer="blocks.0.mlp.c_fc", colourbar=False, limit=3.0) is ax
    assert figure.axes == [ax]
    assert ax.images[0].get_clim() == (-3, 3)
    assert plt.get_fignums() == [figure.number]


def test_bad_requests_name_what_would_do():
    found = make_selectivity({**TWO, "flat": Sheet.none(5)})
    with pytest.raises(InputError, match="name the layer"):
        tb.plot.sheet(found, plt.subplots()[1])
    with pytest.raises(UnknownNameError, match=r"Did you mean 'blocks\.1\.mlp\.c_fc'"):
        tb.plot.sheet(found, layer="blocks.1.mlp.cfc")
    with pytest.raises(InputError, match="needs a layout"):
        tb.plot.sheet(found, layer="flat")
    with pytest.raises(InputError, match="no layer of this result has a layout"):
        tb.plot.sheet(make_selectivity({"flat": Sheet.none(5)}))
    with pytest.raises(InputError, match="not both"):
        tb.plot.sheet(found, layer="flat", layers=["flat"])
    with pytest.raises(InputError, match="drawn once"):
        tb.plot.sheet(found, layers=["blocks.0.mlp.c_fc"] * 2)
    with pytest.raises(UnknownNameError, match="Did you mean 'outline'"):
        tb.plot.sheet(found, outlines=0.1)
    with pytest.raises(UnknownNameError, match="way to show the null"):
        tb.plot.sheet(found, null="maybe")
    with pytest.raises(InputError, match="above 0"):
        tb.plot.sheet(found, limit=-1)
    with pytest.raises(InputError, match="width in inches"):
        tb.plot.sheet(found, width=0)


@pytest.mark.parametrize("width", [3.5, 7.2])
@pytest.mark.parametrize(
    "sheet", [Sheet.grid(28, 28), Sheet.grid(20, 20, wrapped=True), Sheet(45, 7, 7), Sheet.grid(24, 32)]
)
@pytest.mark.slow
def test_nothing_overlaps_and_no_letter_is_too_small(width, sheet):
    found = make_selectivity({f"layer{i}.1.conv2": sheet for i in range(4)})
    axes = tb.plot.sheet(found, width=width, outline=0.05)
    figure = axes[0].figure
    assert figure.get_size_inches()[0] == width
    figure.canvas.draw()
    texts = [text for ax in axes for text in (ax.title, ax.xaxis.label, *ax.texts) if text.get_text().strip()]
    texts.append(figure.axes[-1].yaxis.label)
    assert min(text.get_fontsize() for text in texts) >= SMALLEST
    boxes = [text.get_window_extent() for text in texts]
    for number, box in enumerate(boxes):
        assert box.x0 >= -1
        assert box.x1 <= figure.bbox.width + 1
        assert box.y0 >= -1
        assert box.y1 <= figure.bbox.height + 1
        # the line of an empty first row above "torus" is no ink: labels are compared by their last line
        for other in boxes[number + 1 :]:
            overlap = min(box.x1, other.x1) - max(box.x0, other.x0), min(box.y1, other.y1) - max(box.y0, other.y0)
            assert min(overlap) <= 1.0


def test_maps_in_which_nothing_is_selective_stay_pale_and_strong_ones_are_cut_at_their_own_height():
    quiet = tb.plot.sheet(make_selectivity({"l": GRID}, t=np.linspace(-1, 1, 48), q=np.ones(48)))
    assert quiet.images[0].get_clim() == (-3.0, 3.0)
    t = np.linspace(-20, 20, 48)
    loud = tb.plot.sheet(make_selectivity({"l": GRID}, t=t, q=np.zeros(48)))
    assert loud.images[0].get_clim()[1] == pytest.approx(np.percentile(np.abs(t), 99))
