import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from topobrain import stats
from topobrain._checks import InputError, UnknownNameError
from topobrain.activations import Activations
from topobrain.results import load_result
from topobrain.sheet import Sheet
from topobrain.stimuli import StimulusSet
from topobrain.topography import Topography, topography

SHEET = Sheet.grid(10, 10, wrapped=True)
WHITE = np.random.default_rng(0).standard_normal((300, 10, 10))
SMOOTH = np.stack([gaussian_filter(one, 1.5, mode="wrap") for one in WHITE]).reshape(300, 100)


@pytest.fixture(scope="module")
def acts():
    stimuli = StimulusSet([f"t{i}" for i in range(300)], provenance={"simulated": True})
    layers = {"white": WHITE.reshape(300, 100), "smooth": SMOOTH, "nowhere": SMOOTH[:, :30]}
    return Activations.from_arrays(layers, stimuli, sheets={"white": SHEET, "smooth": SHEET})


@pytest.fixture(scope="module")
def found(acts):
    return topography(acts, n_null=39, seed=1)


def test_smooth_units_stand_out_from_their_null_and_white_ones_do_not(found):
    rows = found.summary().set_index("layer")
    assert rows.loc["smooth", "value"] > 0.6
    assert rows.loc["smooth", "p"] == 1 / 40
    assert rows.loc["smooth", "z"] > 10
    assert abs(rows.loc["smooth", "null_mean"]) < 0.03
    assert abs(rows.loc["white", "value"]) < 0.03
    assert rows.loc["white", "p"] > 0.02


def test_values_equal_the_statistic_beside_its_permuted_layouts(acts, found):
    row = found.summary().set_index("layer").loc["smooth"]
    values = acts.values("smooth")
    null = [stats.generic_topography(values[:, o], SHEET) for o in stats.layout_permutations(100, 39, seed=1)]
    expected = stats.compare_with_null(stats.generic_topography(values, SHEET), np.array(null))
    for name in ("value", "null_mean", "null_sd", "z", "p", "corrected"):
        assert row[name] == pytest.approx(getattr(expected, name)), name


def test_layers_without_layout_have_no_value(found):
    row = found.summary().set_index("layer").loc["nowhere"]
    assert row[["value", "null_mean", "null_sd", "z", "p", "corrected"]].isna().all()


def test_result_survives_a_file_and_remembers_where_it_came_from(found, tmp_path):
    again = load_result(found.save(tmp_path / "t.nc"))
    assert isinstance(again, Topography)
    assert again.summary().equals(found.summary())
    assert again.simulated
    assert again.provenance["topography"] == {"measures": ["generic"], "null": "layout", "n_null": 39, "seed": 1}


def test_unknown_measures_and_too_few_permutations_are_refused(acts):
    with pytest.raises(UnknownNameError, match="generic"):
        topography(acts, measures=["generik"])
    with pytest.raises(InputError, match="no topography measure"):
        topography(acts, measures=[])
    with pytest.raises(InputError, match="n_null"):
        topography(acts, n_null=1)
