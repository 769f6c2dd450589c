import numpy as np
import pytest

from topobrain._checks import InputError, UnknownNameError
from topobrain.activations import Activations
from topobrain.encoding.partition import TOTAL, Partition, partition_variance
from topobrain.responses import BrainResponses
from topobrain.results import load_result
from topobrain.stats.variance_partitioning import sub_models
from topobrain.stimuli import StimulusSet

QUICK = {"n_bootstrap": 0, "alphas": [0.01, 1.0, 100.0, 1e4], "n_weights": 4, "n_folds": 3, "inner_folds": 3}


def white(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def shown(n, **columns):
    return StimulusSet([f"text number {i}" for i in range(n)], columns or None, name="toy")


def band(values, stimuli=None):
    return Activations.from_arrays({"values": values}, stimuli or shown(len(values)))


def planted(n=240, v=8, seed=0):
    """A model of 30 units that knows a word's length too; half of the voxels follow length, half its other units."""
    length = white(n, 1, seed=seed)
    own = white(n, 24, seed=seed + 1)
    model = np.hstack([own, length + 0.3 * white(n, 6, seed=seed + 2)])
    follow = np.arange(v) < v // 2
    meaning = own @ white(24, v, seed=seed + 3) / np.sqrt(24)
    Y = np.where(follow, length, meaning) + 0.5 * white(n, v, seed=seed + 4)
    return {"model": model, "length": length}, Y, np.where(follow, "length", "meaning").tolist()


def scored(features, Y, stimuli=None, *, roi="all", ceiling=None, design="events", **options):
    stimuli = stimuli or shown(len(Y))
    brain = BrainResponses.from_arrays(Y, stimuli, roi=roi, ceiling=ceiling, design=design)
    return partition_variance({k: band(X, stimuli) for k, X in features.items()}, brain, **{**QUICK, **options})


def test_what_a_model_explains_beyond_length_is_found():
    features, Y, roi = planted()
    found = scored(features, Y, roi=roi, ceiling=0.9, n_bootstrap=200)
    rows = found.summary().set_index(["roi", "component"])
    length, meaning = rows.loc["length"], rows.loc["meaning"]
    assert meaning.loc["model", "variance"] > 0.5
    assert meaning.loc["model", "low"] > 0.4
    assert abs(meaning.loc["length", "variance"]) < 0.03
    assert abs(meaning.loc["model & length", "variance"]) < 0.05
    assert length.loc["model & length", "variance"] > 0.5  # the model knows the length, too
    assert abs(length.loc["model", "variance"]) < 0.05
    for region in (length, meaning):
        parts = region[region["part"] != "total"]
        assert parts["part"].tolist() == ["unique", "unique", "shared"]
        assert parts["variance"].sum() == pytest.approx(region.loc[TOTAL, "variance"], abs=1e-9)
        assert np.allclose(region["normalized"], region["variance"] / 0.81)
        assert (region["low"] <= region["variance"]).all()
        assert (region["high"] >= region["variance"]).all()
    assert meaning.loc["model", "unique_r"] > 0.5
    assert (
        meaning.loc["model", "unique_r_low"] < meaning.loc["model", "unique_r"] < meaning.loc["model", "unique_r_high"]
    )
    assert meaning.loc[["model", "length"], "product"].sum() == pytest.approx(meaning.loc[TOTAL, "variance"])
    models = found.models().set_index(["roi", "model"])
    assert models.loc[("length", "length"), "r2"] > 0.5
    assert models.loc[("meaning", "model"), "r"] > 0.7


def test_parts_add_up_in_every_voxel_and_nothing_is_clipped():
    features, _, _ = planted()
    features["noise"] = white(240, 5, seed=44)
    Y = white(240, 30, seed=9)
    found = scored(features, Y, selection="gcv")
    data = found.data
    assert data.sizes["component"] == 7
    assert np.allclose(data["variance"].sum("component"), data["total"])
    assert np.allclose(data["r2"].sel(model="model & length & noise").mean("fold"), data["total"])
    assert np.allclose(data["product"].sum("band"), data["total"], atol=1e-9)
    assert (data["variance"].values < 0).any()
    assert abs(float(data["unique_r"].mean())) < 0.06
    assert found.bands == ["model", "length", "noise"]
    assert data["component"].values.tolist() == [" & ".join(m) for m in sub_models(found.bands)]


def test_order_of_stimuli_in_a_band_does_not_matter():
    features, Y, roi = planted(n=90, v=4)
    stimuli = shown(90)
    plain = scored(features, Y, stimuli, roi=roi)
    order = np.random.default_rng(0).permutation(90)
    turned = StimulusSet([stimuli.texts[i] for i in order], {"stimulus": [stimuli.ids[i] for i in order]}, name="toy")
    mixed = {
        "model": band(features["model"][order], turned),
        "length": band(features["length"], stimuli),
    }
    found = partition_variance(mixed, BrainResponses.from_arrays(Y, stimuli, roi=roi), **QUICK)
    assert np.allclose(found.data["variance"], plain.data["variance"])


@pytest.mark.slow
def test_chunks_of_voxels_seeds_and_a_file_give_the_same_result(tmp_path, monkeypatch):
    features, Y, roi = planted(n=90, v=7)
    options = {"roi": roi, "n_bootstrap": 25, "seed": 3}
    whole = scored(features, Y, **options)
    steps = []
    monkeypatch.setattr("topobrain.encoding.partition.CHUNK_BYTES", 3 * 8 * 90 * 7)
    parts = scored(features, Y, **options, progress=lambda done, n: steps.append((done, n)))
    assert steps == [(3, 7), (6, 7), (7, 7)]
    for name in whole.data.data_vars:
        assert np.allclose(whole.data[name], parts.data[name], atol=1e-6, equal_nan=True), name
    back = load_result(whole.save(tmp_path / "partition.nc"))
    assert isinstance(back, Partition)
    assert back.summary().equals(whole.summary())
    options = back.provenance["partition"]
    assert options["layers"] == {"model": "values", "length": "values"}
    assert options["seed"] == 3
    assert options["folds"] == "contiguous"
    assert options["precision"] == "float64"
    assert not np.allclose(scored(features, Y, **{**options_of(roi), "seed": 4}).data["low"], whole.data["low"])


def options_of(roi):
    return {"roi": roi, "n_bootstrap": 25}


def test_ceilings_normalise_by_their_square_where_they_are_known():
    features, Y, _ = planted(n=90, v=4)
    found = scored(features, Y, roi=["a", "a", "b", "b"], ceiling=np.array([0.5, 0.8, np.nan, 0.9]))
    data = found.data
    known = data["variance"].values / np.array([0.25, 0.64, np.nan, 0.81])
    assert np.allclose(data["normalized"], known, equal_nan=True)
    assert data["region_ceiling_squared"].values[0] == pytest.approx((0.25 + 0.64) / 2)
    assert np.isnan(data["region_ceiling_squared"].values[1])
    assert np.allclose(
        data["region_normalized"][:, 0], data["variance"].values[:, :2].mean(axis=1) / ((0.25 + 0.64) / 2)
    )


def test_unusable_voxels_are_nan_and_counted():
    features, Y, _ = planted(n=90, v=5)
    clean = scored(features, Y)
    spoiled = Y.copy()
    spoiled[3, 1], spoiled[:, 2] = np.nan, 7.0
    found = scored(features, spoiled)
    assert np.isnan(found.data["variance"].values[:, [1, 2]]).all()
    assert np.allclose(found.data["variance"].values[:, [0, 3, 4]], clean.data["variance"].values[:, [0, 3, 4]])
    assert found.provenance["partition"]["n_unusable_voxels"] == 2
    assert found.summary()["n_voxels"].eq(3).all()


def test_time_series_keep_a_gap_and_groups_stay_together():
    features, Y, _ = planted(n=120, v=3)
    found = scored(features, Y, design="timeseries", n_bootstrap=10)
    assert found.provenance["partition"]["gap"] == 6
    stimuli = shown(120, group=np.repeat(np.arange(12), 10))
    found = scored(features, Y, stimuli)
    fold = found.data["test_fold"].values.reshape(12, 10)
    assert (fold == fold[:, :1]).all()


def test_duplicated_stimuli_stay_on_one_side():
    features, Y, _ = planted(n=60, v=2)
    twice = {name: np.repeat(X, 2, axis=0) for name, X in features.items()}
    found = scored(twice, np.repeat(Y, 2, axis=0))
    fold = found.data["test_fold"].values.reshape(60, 2)
    assert (fold[:, 0] == fold[:, 1]).all()


def test_a_band_may_be_one_layer_of_many():
    features, Y, _ = planted(n=90, v=3)
    stimuli = shown(90)
    deep = Activations.from_arrays({"early": white(90, 4, seed=8), "late": features["model"]}, stimuli)
    brain = BrainResponses.from_arrays(Y, stimuli)
    bands = {"model": deep, "length": band(features["length"], stimuli)}
    found = partition_variance(bands, brain, layers={"model": "late"}, **QUICK)
    assert np.allclose(found.data["variance"], scored(features, Y, stimuli).data["variance"])
    with pytest.raises(InputError, match=r"2 layers \(early, late\); name one"):
        partition_variance(bands, brain, **QUICK)
    with pytest.raises(UnknownNameError, match="late"):
        partition_variance(bands, brain, layers={"model": "lat"}, **QUICK)
    with pytest.raises(InputError, match="did you mean 'model'"):
        partition_variance(bands, brain, layers={"modell": "late"}, **QUICK)


def test_impossible_input_is_named():
    features, Y, _ = planted(n=60, v=3)
    model, length = features["model"], features["length"]
    with pytest.raises(InputError, match="2 to 4 bands"):
        scored({"model": model}, Y)
    with pytest.raises(InputError, match="join some of them"):
        scored({f"band{i}": white(60, 2, seed=i) for i in range(5)}, Y)
    with pytest.raises(InputError, match="band 'constant' is the same for every stimulus"):
        scored({"model": model, "constant": np.full((60, 2), 3.0)}, Y)
    spoiled = length.copy()
    spoiled[7, 0] = np.nan
    with pytest.raises(InputError, match="band 'length' holds nan for stimulus 's0007', unit 0"):
        scored({"model": model, "length": spoiled}, Y)
    for name in ("a & b", "total", " ", 3):
        with pytest.raises(InputError, match="cannot name a band"):
            scored({"model": model, name: length}, Y)
    brain = BrainResponses.from_arrays(Y, shown(60))
    with pytest.raises(InputError, match="band 'length': 1 stimuli of the responses have no activations: s0059"):
        partition_variance({"model": band(model), "length": band(length[:59])}, brain, **QUICK)
    with pytest.raises(InputError, match="features map a band's name"):
        partition_variance({"model": model, "length": length}, brain, **QUICK)
    with pytest.raises(InputError, match="n_weights of 3 or more"):
        scored(features, Y, n_weights=2)
    with pytest.raises(InputError, match="max_memory"):
        scored(features, Y, max_memory="1 KiB")
    with pytest.raises(InputError, match="0 or more"):
        scored(features, Y, seed=-1)
    with pytest.raises(UnknownNameError, match="training"):
        scored(features, Y, about="mean")
