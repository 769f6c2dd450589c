from __future__ import annotations

import numpy as np
import pytest
from made_scores import make_comparison, make_encoding
from matplotlib import pyplot as plt

import topobrain as tb
from topobrain._checks import InputError, UnknownNameError
from topobrain.encoding.comparison import Comparison

DIFFERENCE = {"IFG": [0.1], "MFG": [-0.2], "AntTemp": [0.02]}
P = np.array([[0.01, 0.049, 0.2]])


def marks(ax):
    return [(one.get_text(), float(one.xy[0])) for one in ax.texts]


def markers(ax, face):
    """Values of the markers that are filled, or open."""
    kept = [one for one in ax.lines if one.get_marker() == "o" and len(one.get_xdata())]
    found = [one for one in kept if (one.get_markerfacecolor() == "white") == (face == "open")]
    return [float(value) for one in found for value in one.get_ydata()]


def stems(ax):
    return sorted({(float(one[0, 1]), float(one[1, 1])) for group in ax.collections for one in group.get_segments()})


def test_differences_have_intervals_and_those_that_survive_correction_are_marked():
    ax = tb.plot.comparison(make_comparison(DIFFERENCE, p=P))
    assert markers(ax, "open") == [0.1, -0.2, 0.02]
    assert markers(ax, "filled") == [0.1, -0.2]  # over the open ones
    assert np.allclose(stems(ax), [(-0.25, -0.15), (-0.03, 0.07), (0.05, 0.15)])
    assert [text for text, _ in marks(ax)] == ["*", "*"]
    assert ax.get_legend_handles_labels()[1] == ["filled: p over stimuli < .05, corrected over regions"]
    assert ax.get_title() == "one - other"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(DIFFERENCE)


def test_the_level_decides_what_is_marked():
    assert markers(tb.plot.comparison(make_comparison(DIFFERENCE, p=P), level=0.02), "filled") == [0.1]
    none = tb.plot.comparison(make_comparison(DIFFERENCE, p=P), level=0.001)
    assert markers(none, "filled") == []
    assert none.get_legend_handles_labels()[1] == []


def test_the_corrected_p_is_what_counts():
    made = make_comparison(DIFFERENCE, p=0.5)
    data = made.data.assign(p=made.data["p"] * 0 + 0.001)
    assert markers(tb.plot.comparison(Comparison(data)), "filled") == []


def test_subjects_are_dots_and_have_a_mark_of_their_own():
    made = make_comparison(DIFFERENCE, p=P, subjects=[0.0, 0.1, 0.3], subjects_p=np.array([[0.5, 0.01, 0.01]]))
    ax = tb.plot.comparison(made)
    dots = next(one for one in ax.lines if one.get_marker() == ".")
    assert np.allclose(dots.get_ydata(), [0.0, 0.1, 0.3] * 3)
    assert [text for text, _ in marks(ax)] == ["*", "*†", "†"]
    assert "p over subjects < .05, corrected over regions" in ax.get_legend_handles_labels()[1]


def test_several_comparisons_stand_side_by_side():
    made = {"twin": make_comparison(DIFFERENCE), "untrained": make_comparison({k: [0.3] for k in DIFFERENCE})}
    ax = tb.plot.comparison(made)
    assert ax.get_legend_handles_labels()[1][:2] == ["twin", "untrained"]
    with pytest.raises(InputError, match="of the same models"):
        tb.plot.comparison(list(made.values()))
    with pytest.raises(InputError, match="same regions"):
        tb.plot.comparison({**made, "third": make_comparison({"STG": [0.1]})})
    with pytest.raises(InputError, match="no comparison"):
        tb.plot.comparison([])


def test_a_pair_of_layers_can_be_chosen():
    made = make_comparison({"IFG": [0.1, 0.4], "MFG": [0.2, 0.3]}, layers=("blocks.1", "blocks.2"), p=0.5)
    assert tb.plot.comparison(made).get_legend_handles_labels()[1] == ["layer 1", "layer 2"]
    assert markers(tb.plot.comparison(made, layer="blocks.2"), "open") == [0.4, 0.3]
    with pytest.raises(UnknownNameError, match=r"Did you mean 'blocks\.1'"):
        tb.plot.comparison(made, layer="block.1")


def test_without_names_the_models_are_named():
    assert tb.plot.comparison(make_comparison(DIFFERENCE, names=None)).get_title() == "model a - model b"


def test_simulated_data_and_wrong_results_are_told():
    assert tb.plot.comparison(make_comparison(DIFFERENCE, simulated=True)).get_title() == "one - other (simulated)"
    with pytest.raises(InputError, match="draws comparison results"):
        tb.plot.comparison(make_encoding({"IFG": [0.1]}))
    _, ax = plt.subplots()
    assert tb.plot.comparison(make_comparison(DIFFERENCE), ax) is ax
