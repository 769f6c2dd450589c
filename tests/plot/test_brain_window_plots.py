from __future__ import annotations

import numpy as np
import pytest
from made_brain_windows import KERNELS, ROIS, make_brain_windows
from made_integrations import make_integration
from matplotlib import pyplot as plt

import topobrain as tb
from topobrain._checks import InputError, UnknownNameError
from topobrain.plot.brain_windows import (
    BEYOND,
    CHOSEN,
    NO_MEMORY,
    NO_MEMORY_NULL,
    NOTHING_NULL,
    WidthAxis,
    null_of,
    region_of,
)
from topobrain.plot.style import COLUMN_INCHES, PAGE_INCHES


def drawn(ax, label):
    handles, names = ax.get_legend_handles_labels()
    return handles[names.index(label)]


def test_every_region_has_its_profile_its_choice_and_both_nulls():
    result = make_brain_windows()
    axes = tb.plot.brain_windows(result)
    assert [ax.get_title() for ax in axes] == ["LATL\ngain .080, p .010", "LPTL\ngain .000, p .600"]
    ax = axes[0]
    assert ax.figure.get_size_inches()[0] == pytest.approx(COLUMN_INCHES)
    profile = result.profile("LATL")
    for form, rows in (
        ("exponential", profile["c"] == 0), ("power law", profile["c"] == 1), ("mixture", profile["c"] == 0.5),
    ):  # fmt: skip
        line = drawn(ax, form)
        assert np.allclose(line.get_xdata(), np.log2(profile["half"][rows]))
        assert np.allclose(line.get_ydata(), profile["r"][rows])
    assert drawn(ax, "exponential").get_ydata().max() == pytest.approx(0.46)
    assert drawn(ax, NO_MEMORY).get_ydata()[0] == 0.3
    cross = drawn(ax, CHOSEN)
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == pytest.approx(
        (2, 0.38)
    )  # 4 words; chosen without its own scores
    across, up = ([s for c in ax.collections for s in c.get_segments() if s[0, k] == s[1, k]] for k in (1, 0))
    assert np.allclose(across, [[[0, 0.38], [4, 0.38]]])  # 1 to 16 words
    assert np.allclose(up, [[[2, 0.36], [2, 0.40]]])  # the gain's interval, from no memory on
    low, high = null_of(result, "LATL", "words", "gain", (0.025, 0.975))
    band = drawn(ax, NO_MEMORY_NULL)
    assert np.allclose([band.get_y(), band.get_y() + band.get_height()], [0.3 + low, 0.3 + high])
    nothing = drawn(ax, NOTHING_NULL).get_ydata()[0]
    assert nothing == pytest.approx(np.quantile(result.data["region_null_r"].values[0, 0], 0.95))


def test_over_seconds_no_memory_stands_at_zero():
    result = make_brain_windows()
    ax = tb.plot.brain_windows(result, clock="seconds", rois="LPTL", title="mine")
    assert ax.get_title().startswith("mine\n")
    assert ax.get_xlabel() == "half width of the window (s)"
    ticks = dict(zip([one.get_text() for one in ax.get_xticklabels()], ax.get_xticks(), strict=True))
    cross = drawn(ax, CHOSEN)
    assert cross.get_xdata()[0] == ticks["0"]
    assert ticks["0"] < ticks["1"] == 0
    assert region_of(result, "LATL", "gain", "seconds") == pytest.approx(0.04)
    assert region_of(result, "LATL", "p_max", "seconds") == 0.01
    assert "mixture" not in ax.get_legend_handles_labels()[1]


def test_windows_without_an_end_stand_beyond_the_last():
    scale = WidthAxis.of(np.array([0.5, 1.0, 16.0, np.nan]), "words")
    assert scale.place([0.5, 2.0, np.nan]).tolist() == [-1.0, 1.0, 5.0]
    seconds = WidthAxis.of(np.array([0.0, 0.5, 8.0]), "seconds")
    assert seconds.place([0.0, 8.0]).tolist() == [-2.0, 3.0]
    _, ax = plt.subplots(figsize=(4, 3))
    scale.name(ax, beyond=True, largest=16.0)
    assert [one.get_text() for one in ax.get_xticklabels()] == [".5", "1", "2", "4", "8", "16", BEYOND]
    assert WidthAxis.of(np.array([np.nan]), "seconds").place(np.nan).tolist() == [1.0]


def test_a_region_without_a_score_says_so():
    axes = tb.plot.brain_windows(make_brain_windows((0.05, np.nan)), legend=False)
    assert axes[1].get_title() == "LPTL\nno voxel can be scored"
    assert not axes[1].get_legend_handles_labels()[1]
    assert not axes[0].figure.legends


def test_without_nulls_and_draws_there_are_no_bands():
    result = make_brain_windows(n_permutations=0, p=(np.nan, np.nan), interval=np.nan, widths=(np.nan, np.nan))
    ax = tb.plot.brain_windows(result, rois=["LATL"])
    assert ax.get_title() == "LATL\ngain .080"
    names = ax.get_legend_handles_labels()[1]
    assert NO_MEMORY_NULL not in names
    assert NOTHING_NULL not in names
    assert not [s for c in ax.collections for s in c.get_segments()]


def test_many_regions_fill_a_page_and_own_axes_are_kept():
    rois = tuple("ABCDEF")
    many = make_brain_windows((0.05,) * 6, rois=rois, p=(0.2,) * 6, chosen=("exp 1 words",) * 6,
                              chosen_seconds=("exp 1 s",) * 6, simulated=True)  # fmt: skip
    axes = tb.plot.brain_windows(many, title="a story")
    figure = axes[0].figure
    assert figure.get_size_inches()[0] == pytest.approx(PAGE_INCHES)
    assert figure.get_suptitle() == "a story (simulated)"
    assert [bool(ax.get_ylabel()) for ax in axes] == [True, False, False] * 2
    assert [bool(ax.get_xlabel()) for ax in axes] == [False] * 3 + [True] * 3
    assert len(figure.legends[0].get_texts()) == 7
    _, mine = plt.subplots(1, 2)
    assert tb.plot.brain_windows(many, mine, rois=["A", "F"])[1] is mine[1]


def test_bad_input_is_named():
    result = make_brain_windows()
    with pytest.raises(InputError, match=r"draws windows of brain regions \(brain_windows\), got Integration"):
        tb.plot.brain_windows(make_integration())
    with pytest.raises(UnknownNameError, match="ROI 'LAT'"):
        tb.plot.brain_windows(result, rois="LAT")
    with pytest.raises(UnknownNameError, match="clock"):
        tb.plot.brain_windows(result, clock="minutes")
    with pytest.raises(InputError, match="drawn once"):
        tb.plot.brain_windows(result, rois=["LATL", "LATL"])
    with pytest.raises(InputError, match="1 axes for 2 regions"):
        tb.plot.brain_windows(result, plt.subplots()[1], rois=list(ROIS))
    assert len(KERNELS) == len(result.kernels)
