"""The leak of shuffled folds is measured and told."""

import inspect
import warnings

import numpy as np
import pytest

from topobrain._checks import InputError
from topobrain.activations import Activations
from topobrain.encoding import Leakage, encode, measure_leakage
from topobrain.encoding.leakage import _compare
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


def test_the_interval_is_that_of_independent_draws():
    acts, brain = passages(drift=0.0)
    options = {"alphas": [1.0, 100.0, 1e4], "n_bootstrap": 2000, "seed": 3}
    row = measure_leakage(acts, brain, **options).summary().iloc[0]
    draws = []
    for scheme, seed in (("shuffled", 3), ("contiguous", 4)):  # another seed: no draw is of the same stimuli
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            draws.append(
                encode(acts, brain, folds=scheme, **{**options, "seed": seed}).data["region_draws"].values[0, 0]
            )
    width = np.diff(np.quantile(draws[0] - draws[1], [0.025, 0.975]))[0]
    assert row["high"] - row["low"] == pytest.approx(width, rel=0.07)
    assert row["high"] - row["low"] == pytest.approx(3.92 * np.hypot(draws[0].std(), draws[1].std()), rel=0.07)


def test_draws_are_not_paired_by_their_seed():
    one = encode(*passages(drift=0.0), **QUICK)
    found = _compare(one, one).data
    width = np.diff(np.quantile(one.data["region_draws"].values[0, 0], [0.025, 0.975]))[0]
    assert (found["high"] - found["low"]).item() > 1.2 * width  # paired, it would be nothing


def test_every_option_of_encode_is_taken():
    acts, brain = passages()
    calls = []
    options = {
        "layers": ["layer"], "n_folds": 4, "inner_folds": 3, "selection": "gcv", "standardize": False, "gap": 1,
        "allow_duplicates": True, "precision": "float64", "device": "cpu", "max_memory": "1 GiB", "n_permutations": 50,
        "targets": {"roi": "all"}, "units": np.ones(20, bool), "progress": lambda done, n: calls.append((done, n)),
    }  # fmt: skip
    assert set(options) | {"alphas", "n_bootstrap", "seed", "folds"} == set(inspect.signature(encode).parameters) - {
        "activations",
        "responses",
    }
    found = measure_leakage(acts, brain, **options, **QUICK)
    assert calls == [(1, 2), (2, 2)]
    assert found.provenance["encoding"]["standardize"] is False
    assert found.provenance["encoding"]["gap"] == 1
    with pytest.raises(InputError, match=r"no option 'n_fold'\. Did you mean 'n_folds'"):
        measure_leakage(acts, brain, n_fold=4)


def test_a_time_series_is_measured_without_a_gap_where_folds_are_shuffled():
    rng = np.random.default_rng(0)
    slow = np.cumsum(rng.standard_normal((240, 14)), axis=0)
    stimuli = StimulusSet([f"volume {i}" for i in range(240)])
    acts = Activations.from_arrays({"layer": slow[:, :10] + rng.standard_normal((240, 10))}, stimuli)
    brain = BrainResponses.from_arrays(slow[:, 10:] + rng.standard_normal((240, 4)), stimuli, design="timeseries")
    row = measure_leakage(acts, brain, **QUICK).summary().iloc[0]
    assert row["contiguous"] == encode(acts, brain, **QUICK).data["region_r"].values[0, 0]  # with its gap of 6
    assert row["shuffled"] > row["contiguous"] + 0.2
    with pytest.raises(InputError):
        measure_leakage(acts, brain, gap=6, **QUICK)


@pytest.mark.slow
def test_one_interval_among_many_above_zero_is_no_leak():
    found = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        stimuli = StimulusSet([f"text number {i}" for i in range(120)])
        layers = {f"layer{i}": rng.standard_normal((120, 4)) for i in range(6)}
        brain = BrainResponses.from_arrays(rng.standard_normal((120, 6)), stimuli, roi=[f"roi{i}" for i in range(6)])
        found.append(measure_leakage(Activations.from_arrays(layers, stimuli), brain, **QUICK).summary())
    assert sum(table["leaks"].any() for table in found) <= 1
    assert sum((table["low"] > 0).any() for table in found) >= 1  # uncorrected, some cell is there by chance
    assert all((table["p_max"] >= 1 / 201).all() for table in found)
