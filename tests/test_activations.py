import numpy as np
import pytest

from topobrain._checks import InputError, UnknownNameError
from topobrain.activations import Activations
from topobrain.sheet import Sheet
from topobrain.stimuli import StimulusSet

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.standard_normal((4, 6)), RNG.standard_normal((4, 3))


@pytest.fixture
def stimuli():
    table = {
        "condition": ["s", "n", "s", "n"],
        "length": [1, 2, 3, 4],
        "layer": [9, 9, 9, 9],
        "mixed": ["a", 1, None, 2.0],
    }
    return StimulusSet(["a", "b", "c", "d"], table, name="toy", provenance={"simulated": True})


@pytest.fixture
def acts(stimuli):
    sheets = {"first": Sheet.grid(2, 3, wrapped=True, spacing=2.0)}
    return Activations.from_arrays({"first": FIRST, "second": SECOND}, stimuli, sheets=sheets)


def test_each_layer_gives_back_its_own_values_as_float32(acts):
    assert acts.layers == ["first", "second"]
    assert acts.values("first").dtype == np.float32
    assert np.array_equal(acts.values("first"), FIRST.astype(np.float32))
    assert np.array_equal(acts.values("second"), SECOND.astype(np.float32))
    assert acts.labels("layer").tolist() == ["first"] * 6 + ["second"] * 3


def test_places_follow_the_sheets_and_layers_without_one_have_none(acts):
    assert acts.sheet("first") == Sheet.grid(2, 3, wrapped=True, spacing=2.0)
    assert acts.data["x"].values[:6].tolist() == [0, 2, 4, 0, 2, 4]
    assert not acts.sheet("second").has_layout
    assert np.isnan(acts.data["y"].values[6:]).all()


def test_stimulus_columns_travel_along_but_cannot_take_an_axis_name(acts):
    assert acts.labels("condition").tolist() == ["s", "n", "s", "n"]
    assert acts.data["length"].values.tolist() == [1, 2, 3, 4]
    assert acts.data["layer"].dims == ("unit",)


def test_provenance_names_the_stimuli(acts, stimuli):
    assert acts.provenance["stimuli"] == {
        "name": "toy", "n_stimuli": 4, "sha256": stimuli.digest(), "simulated": True,
    }  # fmt: skip
    assert acts.simulated


def test_only_keeps_layers_in_the_order_asked_for(acts):
    swapped = acts.only("second", "first")
    assert swapped.layers == ["second", "first"]
    assert np.array_equal(swapped.values("first"), acts.values("first"))
    assert swapped.data["unit"].values.tolist() == list(range(9))
    assert acts.only("second").data.sizes["unit"] == 3


def test_unknown_layers_are_answered_with_near_names(acts):
    for call in (acts.values, acts.sheet, acts.unit_slice, acts.only):
        with pytest.raises(UnknownNameError, match="Did you mean 'second'"):
            call("secnd")


def test_shapes_that_do_not_fit_are_refused(stimuli):
    with pytest.raises(InputError, match="at least one layer"):
        Activations.from_arrays({}, stimuli)
    with pytest.raises(InputError, match=r"'l' has shape \(3, 6\).*4 stimuli"):
        Activations.from_arrays({"l": FIRST[:3]}, stimuli)
    with pytest.raises(InputError, match="5 places for 6 units"):
        Activations.from_arrays({"l": FIRST}, stimuli, sheets={"l": Sheet.none(5)})


def test_summary_counts_units_that_never_change(stimuli):
    values = FIRST.copy()
    values[:, 2] = 0.1
    summary = Activations.from_arrays({"l": values, "m": SECOND}, stimuli).summary().set_index("layer")
    assert summary["n_constant_units"].to_dict() == {"l": 1, "m": 0}
    assert summary.loc["m", "sd"] == pytest.approx(SECOND.std(), rel=1e-6)


def test_mixed_columns_survive_a_file(acts, tmp_path):
    again = Activations.load(acts.save(tmp_path / "a.nc"))
    assert again.labels("mixed").tolist() == acts.labels("mixed").tolist()
