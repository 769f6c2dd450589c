"""The verb `align`: planted components, invariances, ceilings, controls, and what it refuses."""

import numpy as np
import pytest

from topobrain._checks import InputError, UnknownNameError
from topobrain.activations import Activations
from topobrain.alignment import Alignment, align
from topobrain.alignment.ceilings import ceiling_from_voxels
from topobrain.responses import BrainResponses
from topobrain.results import load_result
from topobrain.sheet import Sheet
from topobrain.stats import held_out_components, make_folds
from topobrain.stats.group_tests import t_interval
from topobrain.stimuli import StimulusSet

QUICK = {"n_permutations": 60, "n_bootstrap": 60}
N = 120


def stimuli(n=N, repeats=1):
    return StimulusSet([f"sentence {i // repeats}" for i in range(n)])


def planted(n=N, n_units=36, n_voxels=20, noise=1.0, seed=0, strengths=(3.0, 2.0)):
    """Units and voxels that share a few scores, the first the strongest, and noise."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n, len(strengths)))
    sides = []
    for width in (n_units, n_voxels):
        directions = np.linalg.qr(rng.standard_normal((width, len(strengths))))[0].T
        sides.append((shared * strengths * np.sqrt(width) / 3) @ directions + noise * rng.standard_normal((n, width)))
    return sides[0], sides[1]


def labelled(X, Y, shown=None, layers=None, **responses):
    shown = shown or stimuli(len(Y))
    sheets = {"a": Sheet.grid(6, 6)} if X.shape[1] == 36 else None
    return Activations.from_arrays(layers or {"a": X}, shown, sheets=sheets), BrainResponses.from_arrays(
        Y, shown, **responses
    )


def scores(X, Y, **options):
    return align(*labelled(X, Y), **{**QUICK, **options})


@pytest.mark.parametrize("method", ["pls", "cca", "pca"])
def test_planted_components_are_found(method):
    found = scores(*planted(), method=method, n_components=4)
    assert (found.data["r"].values[0, :2] > 0.6).all()
    assert (found.data["p_max"].values[0, :2] == 1 / 61).all()
    assert (np.abs(found.data["r"].values[0, 2:]) < 0.35).all()
    table = found.summary()
    assert list(table["component"]) == [1, 2, 3, 4]
    assert ((table["low"] < table["r"]) & (table["r"] < table["high"])).all()
    assert (table["null_high"] < 0.4).all()


@pytest.mark.parametrize("method", ["pls", "cca", "pca", "rsa", "cka"])
def test_the_data_align_with_themselves(method):
    X = planted(noise=0.3)[0]
    found = scores(X, X.copy(), method=method, n_components=None if method in ("rsa", "cka") else 3, n_bootstrap=0)
    assert np.allclose(found.data["r"].values, 1, atol=1e-6)


@pytest.mark.parametrize("method", ["pls", "cca", "pca", "rsa", "cka"])
@pytest.mark.slow
def test_unrelated_data_stay_in_their_band(method):
    p = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        found = scores(
            rng.standard_normal((60, 20)), rng.standard_normal((60, 8)), method=method, seed=seed,
            n_components=None if method in ("rsa", "cka") else 2, n_bootstrap=0,
        )  # fmt: skip
        p.append(found.data["p"].values[0, 0])
        if method not in ("rsa", "cka"):
            assert (found.data["p_max"].values >= found.data["p"].values).all()
    assert min(p) < 0.6
    assert np.median(p) > 0.15
    assert np.mean(np.array(p) < 0.05) <= 2 / 12


def test_places_of_units_and_rotations_of_voxels_change_no_score():
    X, Y = planted()
    rng = np.random.default_rng(1)
    rotation = np.linalg.qr(rng.standard_normal((Y.shape[1], Y.shape[1])))[0]
    plain = scores(X, Y, scale=False, n_components=3)
    for one in (scores(X[:, rng.permutation(36)], Y, scale=False, n_components=3),
                scores(X, (Y - Y.mean(axis=0)) @ rotation, scale=False, n_components=3)):  # fmt: skip
        assert np.allclose(one.data["r"].values, plain.data["r"].values, atol=1e-7)
        assert np.allclose(one.data["null"].values, plain.data["null"].values, atol=1e-4)


def test_the_order_of_the_activations_does_not_matter():
    X, Y = planted()
    order = np.random.default_rng(0).permutation(N)
    acts, brain = labelled(X, Y)
    moved = Activations(acts.data.isel(stimulus=order))
    a, b = (align(one, brain, n_components=2, **QUICK) for one in (acts, moved))
    assert np.array_equal(a.data["r"].values, b.data["r"].values)


def test_missing_voxels_are_left_out_and_the_others_score_the_same():
    X, Y = planted()
    whole = scores(X, Y, n_components=2)
    more = np.concatenate([Y[:, :7], np.full((N, 1), np.nan), Y[:, 7:], np.ones((N, 1))], axis=1)
    more[:, 7] = np.where(np.arange(N) == 3, np.nan, 1.0)
    found = scores(X, more, n_components=2)
    assert np.allclose(found.data["r"].values, whole.data["r"].values, atol=1e-12)
    weight = found.data["voxel_weight"].values[0]
    assert np.isnan(weight[:, [7, 21]]).all()
    assert np.isfinite(np.delete(weight, [7, 21], axis=1)).all()
    assert found.provenance["alignment"]["n_unusable_voxels"] == 2


def test_a_constant_unit_carries_no_weight():
    X, Y = planted()
    X[:, 5] = 2.0
    found = scores(X, Y, n_components=2)
    assert (np.abs(np.nan_to_num(found.unit_weights("a")[:, 5])) < 1e-12).all()


def test_weights_give_back_the_planted_directions():
    rng = np.random.default_rng(3)
    shared = rng.standard_normal(N)
    X, Y = rng.standard_normal((N, 36)), rng.standard_normal((N, 20))
    X[:, :6] += 3 * shared[:, None]
    Y[:, -4:] += 3 * shared[:, None]
    found = scores(X, Y, n_components=1)
    weight = np.abs(found.unit_weights("a")[0])
    assert set(np.argsort(weight)[-6:]) == set(range(6))
    assert set(np.argsort(np.abs(found.data["voxel_weight"].values[0, 0]))[-4:]) == {16, 17, 18, 19}
    ends = found.ends("a", 1, n=3)
    truth = dict(zip(stimuli().ids, shared, strict=True))
    means = ends.assign(truth=[truth[s] for s in ends["stimulus"]]).groupby("end")["truth"].mean()
    assert abs(means["high"] - means["low"]) > 2
    assert list(ends["end"]) == ["high"] * 3 + ["low"] * 3
    assert ends["score"][:3].is_monotonic_decreasing
    assert ends["score"][3:].is_monotonic_increasing


def test_ends_of_what_is_not_there():
    found = scores(*planted(), n_components=2)
    with pytest.raises(UnknownNameError, match="'b'"):
        found.ends("b")
    with pytest.raises(InputError, match="components 1 to 2"):
        found.ends("a", 3)
    with pytest.raises(InputError, match="'model' or 'brain'"):
        found.ends("a", 1, side="left")
    with pytest.raises(InputError, match="no components"):
        scores(*planted(), method="rsa").ends("a")


def test_controls_score_on_the_same_folds_with_paired_draws():
    X, Y = planted()
    acts, brain = labelled(X, Y, layers={"a": X, "b": X[:, ::-1].copy()})
    noise = Activations.from_arrays(
        {"first": np.random.default_rng(9).standard_normal((N, 36)), "second": X}, stimuli()
    )
    found = align(acts, brain, controls={"untrained": noise, "itself": acts}, n_components=2, **QUICK)
    assert found.controls == ["untrained", "itself"]
    difference = found.data["difference"].values
    assert (difference[0, 0] > 0.4).all()
    assert np.allclose(difference[1], 0)
    assert np.allclose(found.data["difference_low"].values[1], 0)
    assert (found.data["difference_low"].values[0, 0] > 0).all()
    assert np.allclose(difference[0, 1], 0, atol=1e-6)  # the same units in another order
    alone = align(noise, brain, n_components=2, **QUICK)
    assert np.array_equal(found.data["control_r"].values[0], alone.data["r"].values)
    assert np.array_equal(found.data["control_p"].values[0], alone.data["p"].values)
    assert "difference_untrained" in found.summary()


def test_controls_that_do_not_fit_are_told():
    acts, brain = labelled(*planted())
    two = Activations.from_arrays({"x": planted()[0], "y": planted()[0]}, stimuli())
    with pytest.raises(InputError, match="control 'twin' has the layers"):
        align(acts, brain, controls={"twin": two}, **QUICK)
    fewer = Activations.from_arrays({"a": planted()[0][:100]}, stimuli(100))
    with pytest.raises(InputError, match="control 'twin': 20 stimuli"):
        align(acts, brain, controls={"twin": fewer}, **QUICK)
    with pytest.raises(InputError, match="must be Activations, got ndarray"):
        align(acts, brain, controls={"twin": np.zeros(3)}, **QUICK)


def test_more_components_than_the_data_have():
    X, Y = planted()
    with pytest.raises(InputError, match="n_components=21, but stimuli, units and voxels allow 20"):
        scores(X, Y, n_components=21)
    assert scores(X, Y[:, :3]).data.sizes["component"] == 3
    assert scores(X, Y[:, :1]).data.sizes["component"] == 1
    with pytest.raises(InputError, match="whole number of 1 or more, got 0"):
        scores(X, Y, n_components=0)
    with pytest.raises(InputError, match="has no components"):
        scores(X, Y, method="cka", n_components=4)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": "ccaa"}, "method"),
        ({"n_permutations": -1}, "n_permutations must be a whole number"),
        ({"n_bootstrap": 2.5}, "n_bootstrap must be a whole number"),
        ({"method": "cca", "regularization": -1}, "regularization must be"),
        ({"ceiling": "subjects"}, "needs several subjects"),
        ({"ceiling": "split-half"}, "at least twice"),
        ({"ceiling": "voxels"}, "estimate_ceiling"),
        ({"layers": "z"}, "'z'"),
    ],
)
def test_impossible_options_are_told(options, told):
    with pytest.raises((InputError, UnknownNameError), match=told):
        scores(*planted(), **options)


def test_responses_that_cannot_be_aligned():
    X, Y = planted()
    with pytest.raises(InputError, match="none of 20 voxels"):
        scores(X, np.ones_like(Y))
    acts, brain = labelled(X, Y)
    with pytest.raises(InputError, match="activations come first"):
        align(brain, acts)


def test_no_draws_give_no_interval_and_no_p():
    found = scores(*planted(), n_components=1, n_permutations=0, n_bootstrap=0)
    assert np.isfinite(found.data["r"].values).all()
    for name in ("p", "p_max", "low", "high", "null_low"):
        assert np.isnan(found.data[name].values).all()


@pytest.mark.slow
def test_results_are_saved_and_loaded(tmp_path):
    found = scores(*planted(), n_components=2)
    loaded = load_result(found.save(tmp_path / "a.nc"))
    assert isinstance(loaded, Alignment)
    assert loaded.summary().equals(found.summary())
    assert loaded.sheet("a") == Sheet.grid(6, 6)
    assert loaded.provenance["alignment"]["ceiling"] == "none"
    assert loaded.method == "pls"


def test_groups_stay_together_and_time_series_are_shifted():
    X, Y = planted()
    shown = StimulusSet([f"s{i}" for i in range(N)], {"group": np.repeat(np.arange(12), 10)})
    acts, brain = labelled(X, Y, shown)
    found = align(acts, brain, n_components=1, **QUICK)
    fold = found.data["test_fold"].values
    assert all(len(set(fold[shown.table["group"] == g])) == 1 for g in range(12))
    assert found.provenance["alignment"]["permutation_scheme"].startswith("circular")


# --- ceilings ---------------------------------------------------------------------------------------------------------


def test_the_ceiling_between_equal_subjects_is_one():
    X, Y = planted(noise=0.2)
    both = np.concatenate([Y, Y], axis=1)
    acts, brain = labelled(X, both, subject=["s1"] * 20 + ["s2"] * 20)
    found = align(acts, brain, n_components=2, **QUICK)
    assert found.provenance["alignment"]["ceiling"] == "subjects"
    assert np.allclose(found.data["ceiling"].values, 1, atol=1e-9)
    assert np.allclose(found.data["normalized"].values, found.data["r"].values, atol=1e-9)


def test_the_ceiling_of_halves_is_the_reliability_of_one_trial():
    rng = np.random.default_rng(0)
    n, signal = 300, 2.0
    shared = rng.standard_normal((n, 1))
    direction = np.ones((1, 15)) / np.sqrt(15)
    X = np.repeat(shared @ direction, 2, axis=0)
    Y = signal * np.repeat(shared @ direction, 2, axis=0) + rng.standard_normal((2 * n, 15))
    acts, brain = labelled(X + 1e-3 * rng.standard_normal(X.shape), Y, stimuli(2 * n, repeats=2))
    found = align(acts, brain, n_components=1, method="pls", scale=False, n_permutations=0, n_bootstrap=0)
    assert found.provenance["alignment"]["ceiling"] == "split-half"
    truth = np.sqrt(signal**2 / (signal**2 + 1))  # the signal's share of one trial's score, and its root
    assert found.data["ceiling"].values[0, 0] == pytest.approx(truth, abs=0.03)
    assert found.data["r"].values[0, 0] == pytest.approx(truth, abs=0.03)


def test_the_ceiling_from_voxels_takes_noise_to_be_correlated_as_the_responses_are():
    rng = np.random.default_rng(1)
    n = 4000
    mixing = rng.standard_normal((12, 12))
    signal, noise = rng.standard_normal((n, 12)) @ mixing, rng.standard_normal((n, 12)) @ mixing
    acts, brain = labelled(np.repeat(signal, 3, axis=1), signal + 0.75 * noise, ceiling=0.8)
    found = align(acts, brain, n_components=3, n_permutations=0, n_bootstrap=0)
    assert found.provenance["alignment"]["ceiling"] == "voxels"
    assert np.allclose(found.data["ceiling"].values, 0.8)
    assert np.allclose(found.data["r"].values, 0.8, atol=0.02)


def test_voxels_of_different_ceilings_give_sums_between_them():
    values = np.random.default_rng(0).standard_normal((500, 3))
    known = np.array([0.2, 0.5, 0.9])
    ceiling = ceiling_from_voxels(values, known, np.array([[1.0, 0, 0], [0, 0, 1], [1, 1, 1]]))
    assert np.allclose(ceiling[:2], [0.2, 0.9])
    assert 0.2 < ceiling[2] < 0.9


def test_progress_counts_layers_and_controls():
    acts, brain = labelled(*planted())
    told = []
    align(acts, brain, controls={"self": acts}, n_components=1, n_permutations=0, n_bootstrap=0,
          progress=lambda *at: told.append(at))  # fmt: skip
    assert told == [(1, 2), (2, 2)]


# --- what a sceptic found ---------------------------------------------------------------------------------------------


def two_layers(seed=0):
    X, Y = planted(seed=seed)
    other = np.random.default_rng(seed + 50).standard_normal((N, 36))
    return labelled(X, Y, layers={"a": X, "b": other})


def test_p_max_is_against_the_largest_of_all_layers_and_components():
    found = align(*two_layers(), n_components=3, **QUICK)
    largest = found.data["null"].values.max(axis=(0, 1))
    r = found.data["r"].values
    wanted = (1 + (largest >= r[..., None] - 1e-6).sum(axis=-1)) / 61
    assert np.allclose(found.data["p_max"].values, wanted)


def test_a_region_that_is_the_mean_of_others_adds_no_component():
    X, Y = planted(n_voxels=4)
    found = scores(X, np.concatenate([Y, Y.mean(axis=1, keepdims=True)], axis=1), scale=False)
    assert found.data.sizes["component"] == 5
    for name in ("r", "low", "p", "p_max", "null_low"):
        assert np.isnan(found.data[name].values[0, 4])
        assert np.isfinite(found.data[name].values[0, :4]).all()
    assert np.isnan(found.unit_weights("a")[4]).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pls", "rsa", "cka"])
def test_p_is_fair_with_repeated_stimuli(method):
    p = []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        X, Y = (np.repeat(rng.standard_normal((30, 6)), 3, axis=0) for _ in range(2))
        Y = Y + 0.3 * rng.standard_normal(Y.shape)
        found = align(
            *labelled(X, Y, stimuli(90, repeats=3)), method=method, n_components=1, n_permutations=99, n_bootstrap=0,
            ceiling="none", seed=seed,
        )  # fmt: skip
        p.append(found.data["p"].values[0, 0])
    assert np.mean(np.array(p) <= 0.1) <= 0.2  # 8 of 80 are expected, 17 or more come in less than 1 % of runs


def test_groups_of_many_sizes_have_no_fair_null_for_whole_set_similarities():
    X, Y = planted()
    sizes = [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 18]
    shown = StimulusSet([f"s{i}" for i in range(N)], {"group": np.repeat(np.arange(13), sizes)})
    with pytest.raises(InputError, match="cannot change places as wholes"):
        align(*labelled(X, Y, shown), method="rsa", n_bootstrap=0, n_permutations=20)
    assert np.isfinite(
        align(*labelled(X, Y, shown), method="rsa", n_bootstrap=0, n_permutations=0).data["r"].values
    ).all()


def test_the_interval_draws_groups_as_wholes():
    rng = np.random.default_rng(2)
    passage = np.repeat(rng.standard_normal((24, 2)), 10, axis=0)
    X = passage @ rng.standard_normal((2, 36)) + 0.5 * rng.standard_normal((240, 36))
    own = np.repeat(2 * rng.standard_normal((24, 20)), 10, axis=0)
    Y = passage @ rng.standard_normal((2, 20)) + own + 0.5 * rng.standard_normal((240, 20))
    widths = {}
    for name, table in (("together", {"group": np.repeat(np.arange(24), 10)}), ("alone", None)):
        acts, brain = labelled(X, Y, StimulusSet([f"s{i}" for i in range(240)], table))
        found = align(acts, brain, n_components=1, n_permutations=0, n_bootstrap=300)
        widths[name] = float((found.data["high"] - found.data["low"]).values[0, 0])
    assert widths["together"] > 1.5 * widths["alone"]


def test_where_a_fold_holds_one_group_the_interval_is_over_folds():
    X, Y = planted()
    shown = StimulusSet([f"s{i}" for i in range(N)], {"group": np.repeat(np.arange(8), 15)})
    acts, brain = labelled(X, Y, shown)
    noise = Activations.from_arrays({"a": np.random.default_rng(4).standard_normal((N, 36))}, shown)
    found = align(acts, brain, folds="leave-one-out", n_components=2, controls={"noise": noise}, n_permutations=0)
    low, high = t_interval(np.moveaxis(found.data["fold_r"].values, 1, 0))
    assert np.allclose(found.data["low"].values, low)
    assert np.allclose(found.data["high"].values, high)
    assert np.isfinite(found.data["difference_low"].values).all()


def test_regularization_reaches_the_fit():
    X, Y = (values.astype(np.float32).astype(float) for values in planted())
    given = held_out_components(X, Y, make_folds(range(N), 5), 2, method="cca", regularization=100.0)
    found = scores(X, Y, method="cca", n_components=2, regularization=100.0)
    assert np.allclose(found.data["fold_r"].values[0], given.r)


def test_controls_of_the_same_layer_names_stand_beside_them_whatever_their_order():
    acts, brain = two_layers()
    found = align(acts, brain, n_components=1, controls={"turned": acts.only("b", "a")}, **QUICK)
    assert np.allclose(found.data["control_r"].values[0], found.data["r"].values)


def test_ends_of_the_brain_are_those_of_its_scores():
    found = scores(*planted(), n_components=1)
    score = dict(zip(found.labels("stimulus"), found.data["voxel_score"].values[0, :, 0], strict=True))
    ends = found.ends("a", 1, n=4, side="brain")
    assert all(score[one] == value for one, value in zip(ends["stimulus"], ends["score"], strict=True))
    for wrong in ({"component": 1.5}, {"n": -3}, {"n": "a"}):
        with pytest.raises(InputError, match="whole number of 1 or more"):
            found.ends("a", **{"component": 1, **wrong})


def test_a_subject_of_pure_noise_lowers_the_ceiling_of_subjects():
    X, Y = planted(noise=0.2)
    noise = np.random.default_rng(8).standard_normal(Y.shape)
    acts, brain = labelled(X, np.concatenate([Y, Y, noise], axis=1), subject=["s1"] * 20 + ["s2"] * 20 + ["s3"] * 20)
    found = align(acts, brain, n_components=1, n_permutations=0, n_bootstrap=0)
    assert found.data["ceiling"].values[0, 0] == pytest.approx(2 / 3, abs=0.12)


def test_halves_of_four_repeats_give_the_reliability_of_one_trial():
    rng = np.random.default_rng(5)
    shared = np.repeat(rng.standard_normal((200, 1)), 4, axis=0) @ np.ones((1, 15)) / np.sqrt(15)
    Y = 1.5 * shared + rng.standard_normal((800, 15))
    acts, brain = labelled(shared + 1e-3 * rng.standard_normal(Y.shape), Y, stimuli(800, repeats=4))
    found = align(acts, brain, n_components=1, scale=False, n_permutations=0, n_bootstrap=0)
    assert found.data["ceiling"].values[0, 0] == pytest.approx(np.sqrt(1.5**2 / (1.5**2 + 1)), abs=0.04)


def test_too_few_stimuli_for_halves_do_not_break_an_alignment():
    X, Y = planted(n=30)
    found = align(*labelled(X, Y, stimuli(30, repeats=3)), n_components=1, n_permutations=0, n_bootstrap=0)
    assert found.provenance["alignment"]["ceiling"] == "none"


def test_voxels_of_very_different_scale_are_scaled_for_the_ceiling_too():
    rng = np.random.default_rng(6)
    Y = rng.standard_normal((N, 2)) + rng.standard_normal((N, 1))
    ceilings = []
    for scale in (1, 1000):
        acts, brain = labelled(planted()[0], Y * [1, scale], ceiling=np.array([0.9, 0.3]))
        ceilings.append(align(acts, brain, n_components=1, n_permutations=0, n_bootstrap=0).data["ceiling"].values)
    assert np.allclose(*ceilings)


@pytest.mark.parametrize("column", ["r", "test_fold", "unit_score", "fold", "component", "control"])
def test_columns_of_stimuli_may_have_the_names_of_scores(column):
    X, Y = planted()
    shown = StimulusSet([f"s{i}" for i in range(N)], {column: np.arange(N)})
    assert len(align(*labelled(X, Y, shown), n_components=1, **QUICK).summary()) == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"controls": ["untrained"]}, "controls are named"),
        ({"regularization": "a", "method": "cca"}, "regularization must be"),
        ({"scale": "yes"}, "scale must be True or False"),
        ({"ceiling": "subjectss"}, "subjects"),
    ],
)
def test_more_impossible_options(options, told):
    with pytest.raises((InputError, UnknownNameError), match=told):
        scores(*planted(), **options)


def test_a_layer_that_cannot_be_aligned_is_named():
    X, Y = planted()
    holed = X.copy()
    holed[3, 2] = np.nan
    for wrong, told in ((np.ones_like(X), "layer 'b' answers every stimulus alike"), (holed, "layer 'b' has missing")):
        with pytest.raises(InputError, match=told):
            align(*labelled(X, Y, layers={"a": X, "b": wrong}), **QUICK)
    with pytest.raises(InputError, match="rsa compares patterns over 3 voxels"):
        scores(X, Y[:, :2], method="rsa")
