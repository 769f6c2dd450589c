from __future__ import annotations

import numpy as np
import pytest
from made_scores import make_encoding, make_partition
from matplotlib import pyplot as plt

import topobrain as tb
from topobrain._checks import InputError, UnknownNameError

UNIQUE = {"IFG": [0.04, 0.05], "MFG": [-0.03, 0.06]}
SHARED = {"IFG": 0.02, "MFG": 0.01}
PARTS = ["only model", "only baseline", "shared: model & baseline", "all bands together"]


def values(ax, label):
    handles, names = ax.get_legend_handles_labels()
    return np.asarray(handles[names.index(label)].get_ydata(), dtype=float)


def stems(ax):
    return [
        (float(one[0, 1]), float(one[1, 1]))
        for group in ax.collections
        if group.get_linestyle()[0][1] is None
        for one in group.get_segments()
    ]


def test_unique_and_shared_parts_stand_side_by_side_in_every_region():
    ax = tb.plot.partition(make_partition(UNIQUE, SHARED, name="gpt"))
    assert ax.get_legend_handles_labels()[1] == PARTS
    drawn = [values(ax, one) for one in PARTS]
    assert np.allclose(drawn, [[0.04, -0.03], [0.05, 0.06], [0.02, 0.01], [0.11, 0.04]])
    assert np.allclose(stems(ax)[:2], [(0.03, 0.06), (-0.04, -0.01)])
    assert ax.get_title() == "gpt"


def test_negative_parts_are_in_sight_and_zero_is_a_line():
    ax = tb.plot.partition(make_partition(UNIQUE, SHARED))
    assert ax.get_ylim()[0] < -0.04
    assert [0, 0] in [list(one.get_ydata()) for one in ax.lines]


def test_the_squared_ceiling_is_written_and_drawn_where_it_does_not_dwarf_the_parts():
    ax = tb.plot.partition(make_partition(UNIQUE, SHARED, ceiling=[0.3, 0.9]))
    assert [one.get_text() for one in ax.get_xticklabels()] == ["IFG\nc² 0.09", "MFG\nc² 0.81"]
    dashed = [
        one for group in ax.collections if group.get_linestyle()[0][1] is not None for one in group.get_segments()
    ]
    assert np.allclose([one[:, 1] for one in dashed], [[0.09, 0.09]])
    assert ax.get_ylim()[1] < 0.5
    unknown = tb.plot.partition(make_partition(UNIQUE, SHARED, ceiling=None))
    assert [one.get_text() for one in unknown.get_xticklabels()] == ["IFG", "MFG"]


def test_normalised_parts_are_divided_by_the_squared_ceiling():
    made = make_partition(UNIQUE, SHARED, ceiling=0.2)
    ax = tb.plot.partition(made, normalized=True)
    assert np.allclose(values(ax, "all bands together"), [2.75, 1.0])  # above 1: drawn as it is
    assert np.allclose(stems(ax)[0], (0.75, 1.5))
    with pytest.raises(InputError, match="no noise ceiling is known"):
        tb.plot.partition(make_partition(UNIQUE, SHARED, ceiling=None), normalized=True)


def test_parts_can_be_chosen():
    made = make_partition(UNIQUE, SHARED)
    ax = tb.plot.partition(made, components=["model"])
    assert ax.get_legend_handles_labels()[1] == ["only model"]
    with pytest.raises(UnknownNameError, match="Did you mean 'model'"):
        tb.plot.partition(made, components=["modle"])


def test_without_intervals_none_are_drawn():
    assert stems(tb.plot.partition(make_partition(UNIQUE, SHARED, interval=None))) == []


def test_simulated_data_and_wrong_results_are_told():
    assert tb.plot.partition(make_partition(UNIQUE, SHARED, simulated=True)).get_title().endswith("(simulated)")
    with pytest.raises(InputError, match="draws partition results"):
        tb.plot.partition(make_encoding({"IFG": [0.1]}))
    _, ax = plt.subplots()
    assert tb.plot.partition(make_partition(UNIQUE, SHARED), ax) is ax
