"""The best layer is chosen inside the training folds, so that its score is honest."""

import numpy as np
import pytest

from topobrain.activations import Activations
from topobrain.encoding import encode
from topobrain.responses import BrainResponses
from topobrain.stimuli import StimulusSet

QUICK = {"alphas": [1.0, 100.0, 1e4], "n_bootstrap": 50}


def study(layers, Y, **options):
    stimuli = StimulusSet([f"text number {i}" for i in range(len(Y))])
    return Activations.from_arrays(layers, stimuli), BrainResponses.from_arrays(Y, stimuli, **options)


def planted(n=200, seed=0):
    rng = np.random.default_rng(seed)
    X = {layer: rng.standard_normal((n, 6)) for layer in "abc"}
    Y = np.hstack([X[layer] @ rng.standard_normal((6, 3)) for layer in "ba"]) + rng.standard_normal((n, 6))
    return study(X, Y, roi=["p"] * 3 + ["q"] * 3, ceiling=0.9)


def test_the_layer_behind_the_responses_is_chosen_in_every_fold():
    found = encode(*planted(), n_permutations=19, **QUICK)
    assert found.data["best_layer"].values.tolist() == [["b", "a"]] * 5
    best, summary = found.best().set_index("roi"), found.summary().set_index(["layer", "roi"])
    for roi, layer in (("p", "b"), ("q", "a")):
        row, expected = best.loc[roi], summary.loc[(layer, roi)]
        assert row["layers"] == f"{layer} (5)"
        for name in ("r", "low", "high", "p", "normalized", "ceiling"):
            assert row[name] == pytest.approx(expected[name], rel=1e-6)


@pytest.mark.slow
def test_choosing_among_layers_of_noise_gains_nothing():
    chosen, largest = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        layers = {f"layer{i}": rng.standard_normal((100, 5)) for i in range(12)}
        found = encode(*study(layers, rng.standard_normal((100, 1))), alphas=[1.0, 100.0, 1e4], n_bootstrap=0)
        chosen.append(found.best()["r"].iloc[0])
        largest.append(found.summary()["r"].max())
    assert abs(np.mean(chosen)) < 0.06
    assert np.mean(largest) > 0.1  # what choosing on the held-out scores would have reported


def test_held_out_stimuli_take_no_part_in_the_choice():
    acts, brain = planted(60)
    folds = [(np.arange(40), np.arange(40, 60))]
    plain = encode(acts, brain, folds=folds, **QUICK)
    values = brain.values.copy()
    values[40:] = acts.values("c")[40:]  # on the held-out stimuli layer c is perfect
    other = encode(
        acts, BrainResponses.from_arrays(values, brain.stimuli, roi=brain.labels("roi")), folds=folds, **QUICK
    )
    assert np.array_equal(plain.data["best_layer"].values, other.data["best_layer"].values)
    assert not np.allclose(plain.data["best_r"].values, other.data["best_r"].values)


def test_without_a_choice_of_penalty_there_is_no_best_layer():
    found = encode(*planted(), alphas=[10.0], n_bootstrap=20)
    assert (found.data["best_layer"].values == "").all()
    assert found.best()[["r", "low", "p"]].isna().all(axis=None)
    assert found.best()["layers"].tolist() == ["", ""]


def test_family_wise_p_is_never_below_the_single_one():
    acts, brain = planted(80, seed=4)
    found = encode(acts, brain, n_permutations=60, **QUICK)
    data = found.data
    assert (data["p_max"].values >= data["p"].values).all()
    assert (data["q"].values >= data["p"].values - 1e-12).all()
    assert (data["region_p_max"].values >= data["region_p"].values).all()
    assert data["p"].values[1, :3].max() == pytest.approx(1 / 61)
    assert data["p_max"].values[1, :3].max() == pytest.approx(1 / 61)
    assert data["p_max"].values[2].min() > 0.05


def test_the_layer_is_chosen_by_shares_of_variance_not_by_errors():
    rng = np.random.default_rng(0)
    X = {layer: rng.standard_normal((200, 4)) for layer in "ab"}
    loud = 100 * (0.3 * X["b"] @ rng.standard_normal((4, 1)) + rng.standard_normal((200, 1)))
    quiet = X["a"] @ rng.standard_normal((4, 5)) + 0.5 * rng.standard_normal((200, 5))
    found = encode(*study(X, np.hstack([loud, quiet])), **QUICK)
    loss = found.data["loss"].values.mean(axis=2)
    assert (loss[1] < loss[0]).all()  # one loud voxel decides the sum of squares
    assert found.data["best_layer"].values.tolist() == [["a"]] * 5


def test_family_wise_p_of_regions_takes_the_largest_of_layers_and_regions():
    rng = np.random.default_rng(2)
    X = {layer: rng.standard_normal((60, 5)) for layer in "abc"}
    Y = rng.standard_normal((60, 4))
    found = encode(*study(X, Y, roi=["p", "p", "q", "s"]), n_permutations=200, **QUICK).data
    null, r = found["region_null"].values.astype(float), found["region_r"].values
    expected = (1 + (null.max(axis=(0, 1)) >= r[..., None] - 1e-7).sum(axis=-1)) / 201
    assert found["region_p_max"].values == pytest.approx(expected)
    for fewer in (null.max(axis=0)[None], null.max(axis=1)[:, None]):  # over layers or over regions alone
        assert ((1 + (fewer >= r[..., None] - 1e-7).sum(axis=-1)) / 201 < expected).any()


def test_no_p_is_smaller_than_the_number_of_shifts_allows():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((24, 4))
    stimuli = StimulusSet([f"text {i}" for i in range(24)], {"group": np.repeat(range(12), 2)})
    acts = Activations.from_arrays({"a": X, "b": X + 0.1 * rng.standard_normal((24, 4))}, stimuli)
    brain = BrainResponses.from_arrays(X[:, :3] + 0.1 * rng.standard_normal((24, 3)), stimuli)
    found = encode(acts, brain, n_folds=3, n_permutations=999, **QUICK).data
    for name in ("p", "p_max", "region_p", "region_p_max", "best_p"):
        assert found[name].values.min() > 0.02, name  # one of 24 shifts is the true order
