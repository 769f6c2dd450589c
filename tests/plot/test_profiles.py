from __future__ import annotations

import numpy as np
import pytest
from made_results import make_profile, make_topography
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

import topobrain as tb
from topobrain._checks import InputError, UnknownNameError
from topobrain.plot.style import model_colour

SWJN = {"S": 3.0, "W": 1.5, "J": 1.0, "N": -0.5}


def drawn(ax, label):
    """Return a model's line and the ends of its intervals."""
    container = next(one for one in ax.containers if one.get_label() == label)
    stems = container.lines[2]
    ends = [segment[:, 1] for segment in stems[0].get_segments() if len(segment)] if stems else None
    return container.lines[0], None if ends is None else np.array(ends)


def test_a_profile_shows_means_intervals_and_random_units():
    ax = tb.plot.profiles(make_profile(SWJN, name="topoformer-tiny", interval=0.1, control=0.3))
    line, interval = drawn(ax, "topoformer-tiny, 7 units")
    means = np.array(list(SWJN.values()))
    assert np.allclose(line.get_ydata(), means)
    assert np.allclose(interval, np.stack([means - 0.1, means + 0.2], axis=1))
    assert to_hex(line.get_color()).upper() == model_colour("topoformer-tiny")
    band = [(patch.get_y(), patch.get_y() + patch.get_height()) for patch in ax.patches]
    assert np.allclose(band, [(-0.3, 0.3)] * 4)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(SWJN)
    assert "held-out" in ax.get_ylabel()
    assert ax.get_title() == "language"
    assert any(np.allclose(one.get_ydata(), 0) and len(one.get_ydata()) == 2 for one in ax.lines)  # the zero line


def test_what_was_not_measured_is_not_drawn():
    ax = tb.plot.profiles(make_profile(SWJN, interval=None, control=None))
    line, interval = drawn(ax, "m, 7 units")
    assert interval is None
    assert not ax.patches
    assert ax.get_legend_handles_labels()[1] == ["m, 7 units"]
    assert np.allclose(line.get_ydata(), list(SWJN.values()))


def test_a_condition_without_stimuli_leaves_a_gap():
    line, interval = drawn(tb.plot.profiles(make_profile({**SWJN, "W": np.nan})), "m, 7 units")
    assert len(interval) == 3
    assert np.isnan(np.asarray(line.get_ydata(), dtype=float)).tolist() == [False, True, False, False]


def test_conditions_are_drawn_in_the_order_asked_for():
    ax = tb.plot.profiles(make_profile(SWJN), conditions=["N", "S"])
    assert np.allclose(drawn(ax, "m, 7 units")[0].get_ydata(), [-0.5, 3.0])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["N", "S"]
    with pytest.raises(UnknownNameError, match="unknown condition of 'm' 'X'"):
        tb.plot.profiles(make_profile(SWJN), conditions=["X"])
    with pytest.raises(InputError, match="no condition to draw"):
        tb.plot.profiles(make_profile(SWJN), conditions=[])


def test_models_stand_side_by_side():
    found = {
        "stories260k": make_profile(SWJN, n_units=1),
        "stories260k (untrained)": make_profile(dict.fromkeys(reversed(SWJN), 0.1)),
    }
    ax = tb.plot.profiles(found)
    first, _ = drawn(ax, "stories260k, 1 unit")
    second, _ = drawn(ax, "stories260k (untrained), 7 units")
    assert (np.asarray(second.get_xdata()) - np.asarray(first.get_xdata()) > 0.1).all()
    assert np.allclose(first.get_ydata(), list(SWJN.values()))  # each model's conditions are looked up by name
    assert second.get_markerfacecolor() == "white"
    assert ax.get_legend_handles_labels()[1].count("as many random units, middle 95 %") == 1


def test_folds_may_select_different_numbers_of_units():
    profile = make_profile(SWJN)
    profile.data["selected"].values[1, 7:9] = True
    assert "m, 7-9 units" in tb.plot.profiles(profile).get_legend_handles_labels()[1]


def test_bad_profiles_are_refused():
    with pytest.raises(InputError, match="infinite"):
        tb.plot.profiles(make_profile({"S": np.inf}))
    with pytest.raises(InputError, match="got a topography result"):
        tb.plot.profiles(make_topography({"l": 0.1}))
    with pytest.raises(UnknownNameError, match="unknown condition of 'b' 'W'"):
        tb.plot.profiles([make_profile(SWJN, name="a"), make_profile({"S": 1.0}, name="b")])
    assert plt.get_fignums() == []


def test_a_profile_is_drawn_into_an_axes_that_is_given():
    figure, ax = plt.subplots()
    assert tb.plot.profiles(make_profile(SWJN), ax, title="S/W/J/N", legend=False) is ax
    assert ax.get_title() == "S/W/J/N"
    assert ax.get_legend() is None
    assert plt.get_fignums() == [figure.number]


def test_a_measured_profile_is_drawn():
    rng = np.random.default_rng(0)
    labels = ["a", "b"] * 12
    stimuli = tb.StimulusSet([f"text {i}" for i in range(24)], {"condition": labels})
    values = rng.standard_normal((24, 30)) + 3 * np.outer(np.array(labels) == "a", np.arange(30) < 5)
    acts = tb.Activations.from_arrays({"l": values}, stimuli)
    found = tb.response_profile(acts, tb.Contrast("language", on="a", off="b"), top=5, n_control=20, n_bootstrap=20)
    line, interval = drawn(tb.plot.profiles(found), "model, 5 units")
    table = found.summary()
    assert np.allclose(line.get_ydata(), table["response"])
    assert np.allclose(interval, table[["low", "high"]])
    assert line.get_ydata()[0] > 2
