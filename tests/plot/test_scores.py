from __future__ import annotations

import numpy as np
import pytest
from made_scores import make_encoding, make_leakage
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

import topobrain as tb
from topobrain._checks import InputError, UnknownNameError
from topobrain.plot.scores import CHOSEN
from topobrain.plot.style import UNTRAINED, model_colour

SCORES = {"IFG": [0.1, 0.4, 0.3], "MFG": [0.2, 0.25, 0.5]}


def labels(ax):
    return ax.get_legend_handles_labels()[1]


def line(ax, label):
    handles, names = ax.get_legend_handles_labels()
    return handles[names.index(label)]


def stems(ax):
    """Ends of every interval drawn."""
    segments = [one for group in ax.collections if hasattr(group, "get_segments") for one in group.get_segments()]
    return sorted((float(one[0, 1]), float(one[-1, 1])) for one in segments)


def texts(ax):
    return [one.get_text() for one in ax.texts]


def test_every_layer_is_drawn_with_interval_ceiling_and_null():
    ax = tb.plot.encoding(make_encoding(SCORES, ceiling=0.6), roi="IFG")
    assert np.allclose(line(ax, "m").get_ydata(), SCORES["IFG"])
    drawn = stems(ax)
    assert np.allclose([low for low, _ in drawn], [0.05, 0.25, 0.34, 0.35])  # three layers and the chosen one
    assert np.allclose([high for _, high in drawn], [0.2, 0.4, 0.49, 0.5])
    assert set(line(ax, "noise ceiling").get_ydata()) == {0.6}
    band = line(ax, "permuted, 95 %").get_paths()[0].vertices[:, 1]
    assert np.allclose([band.min(), band.max()], [-0.08, 0.08])


def test_regions_too_many_for_panels_are_refused_before_drawing():
    many = make_encoding({f"parcel {i}": [0.1, 0.2] for i in range(37)})
    with pytest.raises(InputError, match=r"37 ROIs would be as many panels.*roi=.*encoding_voxels.*save_map"):
        tb.plot.encoding(many)
    assert tb.plot.encoding(many, roi="parcel 36").get_title().startswith("parcel 36")


def test_the_layer_chosen_in_training_folds_stands_apart_at_the_right_edge():
    ax = tb.plot.encoding(make_encoding(SCORES), roi="MFG")
    assert CHOSEN in labels(ax)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "1", "2", "chosen"]
    marks = [one for one in ax.lines if len(one.get_xdata()) == 1 and one.get_marker() == "v"]
    assert len(marks) == 1
    assert marks[0].get_ydata()[0] == pytest.approx(0.49)
    assert marks[0].get_xdata()[0] > 2.5


@pytest.mark.parametrize("made", [make_encoding({"IFG": [0.4]}), make_encoding({"IFG": [0.1, 0.2]}, best=None)])
def test_where_no_layer_was_chosen_none_is_marked(made):
    ax = tb.plot.encoding(made)
    assert CHOSEN not in labels(ax)
    assert "chosen" not in [tick.get_text() for tick in ax.get_xticklabels()]


def test_normalized_scores_are_divided_by_the_ceiling_and_never_clipped():
    ax = tb.plot.encoding(make_encoding({"IFG": [0.3, 0.9]}, ceiling=0.6), normalized=True)
    assert np.allclose(line(ax, "m").get_ydata(), [0.5, 1.5])
    assert ax.get_ylim()[1] > 1.5
    assert set(line(ax, "noise ceiling").get_ydata()) == {1.0}
    assert pytest.approx(stems(ax)[0]) == (0.25 / 0.6, 0.4 / 0.6)
    assert "noise ceiling" in ax.get_ylabel()
    band = line(ax, "permuted, 95 %").get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(0.08 / 0.6)


def test_normalized_scores_need_a_ceiling():
    with pytest.raises(InputError, match="no noise ceiling is known"):
        tb.plot.encoding(make_encoding(SCORES, ceiling=None), normalized=True)
    with pytest.raises(InputError, match="no noise ceiling is known"):
        tb.plot.encoding(make_encoding(SCORES, ceiling=[0.6, np.nan]), roi="MFG", normalized=True)
    assert plt.get_fignums() == []
    panels = tb.plot.encoding(make_encoding(SCORES, ceiling=[0.6, np.nan]), normalized=True)
    assert [texts(ax) for ax in panels] == [[], ["noise ceiling unknown"]]


def test_what_is_not_known_is_not_drawn():
    ax = tb.plot.encoding(make_encoding(SCORES, ceiling=None, null=None, interval=None, best=None), roi="IFG")
    assert labels(ax) == ["m"]
    assert stems(ax) == []


def test_a_region_without_a_score_says_so():
    panels = tb.plot.encoding(make_encoding({"IFG": [0.1, 0.2], "gone": [np.nan, np.nan]}))
    assert texts(panels[1]) == ["no voxel can be scored"]


def test_twins_are_dashed_and_untrained_selves_grey():
    names = ("topoformer-tiny", "topoformer-tiny-control", "topoformer-tiny (untrained:0)")
    ax = tb.plot.encoding([make_encoding(SCORES, name=name) for name in names], roi="IFG")
    assert [line(ax, name).get_linestyle() for name in names] == ["-", "--", "-"]
    assert to_hex(line(ax, names[0]).get_color()).upper() == model_colour(names[0])
    assert to_hex(line(ax, names[2]).get_color()).upper() == UNTRAINED
    assert line(ax, names[2]).get_markerfacecolor() == "white"
    assert labels(ax).count("noise ceiling") == labels(ax).count("permuted, 95 %") == 1


def test_the_band_holds_the_null_of_every_result_drawn():
    made = [make_encoding(SCORES, name="a", null=0.1), make_encoding(SCORES, name="b", null=0.2)]
    band = line(tb.plot.encoding(made, roi="IFG"), "permuted, 95 %").get_paths()[0].vertices[:, 1]
    assert np.allclose([band.min(), band.max()], [-0.2, 0.2])


def test_panels_are_named_and_their_legend_is_drawn_once():
    panels = tb.plot.encoding(make_encoding(SCORES, simulated=True))
    assert [ax.get_title() for ax in panels] == ["IFG (simulated)", "MFG (simulated)"]
    assert len(panels[0].figure.legends) == 1


def test_results_of_different_regions_are_told_with_the_region():
    both = make_encoding(SCORES)
    one, other = make_encoding({"IFG": SCORES["IFG"]}), make_encoding({"IFG": SCORES["IFG"], "ATL": SCORES["MFG"]})
    with pytest.raises(InputError, match="different ROIs: 'b' has no 'MFG'"):
        tb.plot.encoding({"a": both, "b": one})
    with pytest.raises(InputError, match="different ROIs: 'a' has no 'MFG'"):
        tb.plot.encoding({"a": one, "b": both})
    with pytest.raises(InputError, match="different ROIs: 'b' has no 'MFG'"):
        tb.plot.encoding({"a": both, "b": other})
    assert plt.get_fignums() == []
    assert np.allclose(line(tb.plot.encoding({"a": both, "b": other}, roi="IFG"), "b").get_ydata(), SCORES["IFG"])
    turned = make_encoding(dict(reversed(SCORES.items())))  # another order is no other set
    assert len(tb.plot.encoding({"a": both, "b": turned})) == 2


def test_wrong_input_is_told():
    with pytest.raises(InputError, match="name the ROI"):
        tb.plot.encoding(make_encoding(SCORES), plt.figure().add_subplot())
    with pytest.raises(InputError, match="same number of layers"):
        tb.plot.encoding([make_encoding(SCORES, name="a"), make_encoding({"IFG": [0.1]}, name="b")])
    with pytest.raises(UnknownNameError, match="IFG"):
        tb.plot.encoding(make_encoding(SCORES), roi="IGF")
    with pytest.raises(InputError, match="got a leakage result"):
        tb.plot.encoding(make_leakage(SCORES, SCORES))


def test_voxels_are_drawn_as_quantiles_of_normalised_scores():
    made = make_encoding({"A": [0.3, 0.6]}, voxels=101, spread=0.3, ceiling=0.6)
    ax = tb.plot.encoding_voxels(made)
    assert np.allclose(line(ax, "m").get_ydata(), [0.5, 1.0])
    middle = np.array([0.25, 0.75]) + np.array([[0.0], [0.5]])
    outer = np.array([0.05, 0.95]) + np.array([[0.0], [0.5]])
    assert np.allclose(sorted(stems(ax)), sorted(map(tuple, [*middle, *outer])))
    assert ax.get_ylim()[1] > 1.45
    assert "noise ceiling" in labels(ax)
    assert ax.get_title() == "101 voxels"
    raw = tb.plot.encoding_voxels(made, normalized=False)
    assert np.allclose(line(raw, "m").get_ydata(), [0.3, 0.6])
    assert raw.get_ylabel() == "held-out r"


def test_the_share_of_significant_voxels_stands_above_each_layer():
    q = np.full((2, 100), 0.5)
    q[0, :7] = 0.01
    q[1, :40] = 0.04
    q[1, 50:] = np.nan  # not scored: no part of the share
    made = make_encoding({"A": [0.3, 0.6]}, voxels=100, spread=0.3, q=q)
    assert texts(tb.plot.encoding_voxels(made)) == ["7", "80", "% q < .05"]
    assert texts(tb.plot.encoding_voxels(made, q=0.01)) == ["0", "0", "% q < .01"]
    untested = make_encoding({"A": [0.3, 0.6]}, voxels=100, spread=0.3)
    assert texts(tb.plot.encoding_voxels(untested)) == ["significance not tested (n_permutations=0)"]


def test_without_ceilings_the_raw_scores_of_voxels_are_drawn_and_it_is_said():
    made = make_encoding({"A": [0.3], "B": [0.5]}, voxels=30, spread=0.1, ceiling=None)
    ax = tb.plot.encoding_voxels(made)
    assert "noise ceiling unknown" in ax.get_ylabel()
    assert np.allclose(line(ax, "m").get_ydata(), [0.4])
    assert np.allclose(line(tb.plot.encoding_voxels(made, roi="B"), "m").get_ydata(), [0.5])
    with pytest.raises(InputError, match="no voxel here has a noise ceiling"):
        tb.plot.encoding_voxels(made, normalized=True)


def test_voxels_whose_ceiling_is_unknown_are_counted():
    made = make_encoding({"A": [0.3], "B": [0.5]}, voxels=30, spread=0.1, ceiling=[0.6, np.nan])
    ax = tb.plot.encoding_voxels(made)
    assert ax.get_title() == "30 of 60 voxels: ceiling known"
    assert np.allclose(line(ax, "m").get_ydata(), [0.5])


def test_voxels_without_scores_are_told():
    with pytest.raises(InputError, match="no voxel of A has a score"):
        tb.plot.encoding_voxels(make_encoding({"A": [np.nan], "B": [0.5]}, voxels=3), roi="A")


def test_leakage_sets_shuffled_beside_contiguous_and_marks_what_leaks():
    made = make_leakage({"A": [0.1, 0.3]}, {"A": [0.08, 0.1]}, interval=0.05)
    ax = tb.plot.leakage(made)
    assert np.allclose(line(ax, "shuffled folds").get_ydata(), [0.1, 0.3])
    assert np.allclose(line(ax, "contiguous folds").get_ydata(), [0.08, 0.1])
    assert np.allclose(stems(ax), [(0.05, 0.15), (0.25, 0.35)])
    stars = [one for one in ax.texts if one.get_text() == "*"]
    assert [one.xy[0] for one in stars] == [1]
    assert stars[0].xy[1] == pytest.approx(0.35)


def test_leakage_without_intervals_marks_nothing():
    ax = tb.plot.leakage(make_leakage({"A": [0.1, 0.3]}, {"A": [0.08, 0.1]}, interval=None))
    assert labels(ax) == ["contiguous folds", "shuffled folds"]
    assert texts(ax) == []


def test_every_region_of_a_leakage_gets_a_panel():
    made = make_leakage(SCORES, {roi: [0.0] * 3 for roi in SCORES})
    assert [ax.get_title() for ax in tb.plot.leakage(made)] == list(SCORES)
    with pytest.raises(UnknownNameError, match="IFG"):
        tb.plot.leakage(made, roi="IGF")
    with pytest.raises(InputError, match="leakage results"):
        tb.plot.leakage(make_encoding(SCORES))
