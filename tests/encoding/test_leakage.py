"""The leak of shuffled folds is measured and told."""

import warnings

import numpy as np
import pytest

from topobrain._checks import InputError
from topobrain.activations import Activations
from topobrain.encoding import Leakage, encode, measure_leakage
from topobrain.responses import BrainResponses
from topobrain.results import load_result
from topobrain.stimuli import StimulusSet

QUICK = {"alphas": [1.0, 100.0, 1e4], "n_bootstrap": 200}


def passages(seed=0, drift=1.0):
    """Passages of four sentences whose features and responses share nothing but drift within passages."""
    rng = np.random.default_rng(seed)
    X = drift * np.repeat(rng.standard_normal((60, 20)), 4, axis=0) + 0.5 * rng.standard_normal((240, 20))
    Y = drift * np.repeat(rng.standard_normal((60, 10)), 4, axis=0) + rng.standard_normal((240, 10))
    stimuli = StimulusSet([f"text number {i}" for i in range(240)])
    return Activations.from_arrays({"layer": X}, stimuli), BrainResponses.from_arrays(Y, stimuli)


def test_drift_within_passages_is_found_and_told():
    with pytest.warns(UserWarning, match=r"shuffled folds leak: layer 'layer' scores r = 0\.\d+ in all .* contiguous"):
        found = encode(*passages(), folds="shuffled", **QUICK)
    assert found.data["region_r_contiguous"].values[0, 0] < 0.06
    assert found.data["region_r"].values[0, 0] > 0.12
    assert found.data["region_r_contiguous"].values == pytest.approx(
        encode(*passages(), **QUICK).data["region_r"].values
    )


def test_where_nothing_leaks_nothing_is_told():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode(*passages(drift=0.0), folds="shuffled", **QUICK)


def test_the_measure_itself(tmp_path):
    found = measure_leakage(*passages(), **QUICK)
    row = found.summary().iloc[0]
    assert row["leaks"]
    assert row["difference"] == pytest.approx(row["shuffled"] - row["contiguous"])
    assert row["low"] < row["difference"] < row["high"]
    again = load_result(found.save(tmp_path / "leakage.nc"))
    assert isinstance(again, Leakage)
    assert again.summary().equals(found.summary())
    quiet = measure_leakage(*passages(drift=0.0), **QUICK).summary().iloc[0]
    assert not quiet["leaks"]


@pytest.mark.parametrize("options", [{"folds": "shuffled"}, {"n_bootstrap": 0}])
def test_options_without_meaning_are_refused(options):
    with pytest.raises(InputError):
        measure_leakage(*passages(), **{**QUICK, **options})
