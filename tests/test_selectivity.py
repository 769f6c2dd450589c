import numpy as np
import pytest
from scipy import stats as scipy_stats

import topobrain as tb
from topobrain import stats
from topobrain._checks import InputError, UnknownNameError
from topobrain.activations import Activations
from topobrain.results import load_result
from topobrain.selectivity import Profile, Selectivity, localize, response_profile
from topobrain.sheet import Sheet
from topobrain.stimuli import Contrast, StimulusSet

LANGUAGE = Contrast("language", on="sentence", off="nonword")
PATCH = np.zeros((12, 12), dtype=bool)
PATCH[3:8, 4:9] = True


def stimuli(n_per_condition=60, conditions=("sentence", "nonword")):
    labels = np.tile(conditions, n_per_condition)
    sets = np.repeat(np.arange(n_per_condition // 6), 6 * len(conditions))
    return StimulusSet([f"text {i}" for i in range(len(labels))], {"condition": labels, "set": sets}, name="toy")


def noise(n_stimuli, n_units=144, seed=0):
    return np.random.default_rng(seed).standard_normal((n_stimuli, n_units))


def planted(effect=1.0, seed=0, n_per_condition=60):
    shown = stimuli(n_per_condition)
    values = noise(len(shown), seed=seed) * np.random.default_rng(99).uniform(0.5, 2, 144) + 3
    sd = values.std(axis=0)
    on = shown.column("condition") == "sentence"
    values[np.ix_(on, PATCH.ravel())] += effect * sd[PATCH.ravel()]
    return Activations.from_arrays({"layer": values}, shown, sheets={"layer": Sheet.grid(12, 12)})


def auroc(score, truth):
    ranks = scipy_stats.rankdata(score)
    n = truth.sum()
    return (ranks[truth].sum() - n * (n + 1) / 2) / (n * (~truth).sum())


def test_planted_units_are_recovered():
    found = localize(planted(), LANGUAGE, n_null=0)
    assert auroc(found.values("layer"), PATCH.ravel()) > 0.99
    assert found.select(top=25)[PATCH.ravel()].mean() > 0.9
    significant = found.select(q=0.05)
    assert significant[PATCH.ravel()].mean() > 0.95
    assert significant[~PATCH.ravel()].mean() < 0.05


@pytest.mark.parametrize(("test", "equal_var"), [("welch", False), ("student", True)])
@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("rectify", [False, True])
def test_t_p_and_q_equal_scipy(test, equal_var, alternative, rectify):
    acts = planted()
    values = acts.values("layer").astype(float)
    values = np.abs(values - 3) if rectify else values
    acts.data["value"].values[:] = acts.data["value"].values - (3 if rectify else 0)
    on = acts.labels("condition") == "sentence"
    expected = scipy_stats.ttest_ind(values[on], values[~on], equal_var=equal_var, alternative=alternative)
    found = localize(acts, LANGUAGE, test=test, alternative=alternative, rectify=rectify, n_null=0)
    assert np.allclose(found.values("layer"), expected.statistic, rtol=1e-4, atol=1e-5)
    assert np.allclose(found.values("layer", "p"), expected.pvalue, rtol=1e-3, atol=1e-12)
    assert np.allclose(found.values("layer", "q"), scipy_stats.false_discovery_control(found.values("layer", "p")))


def test_swapping_conditions_negates_the_map_and_keeps_morans_i():
    acts = planted()
    there = localize(acts, LANGUAGE, n_null=20)
    back = localize(acts, Contrast("c", on="nonword", off="sentence"), n_null=20)
    assert np.array_equal(there.values("layer"), -back.values("layer"))
    assert np.array_equal(there.values("layer", "p"), back.values("layer", "p"))
    assert there.data["morans_i"].item() == pytest.approx(back.data["morans_i"].item())


def test_order_of_stimuli_does_not_matter():
    shown, values = stimuli(), noise(120)
    order = np.random.default_rng(1).permutation(120)
    one = Activations.from_arrays({"layer": values}, shown)
    two = Activations.from_arrays({"layer": values[order]}, shown.take(order))
    assert np.allclose(localize(one, LANGUAGE).values("layer"), localize(two, LANGUAGE).values("layer"), rtol=1e-9)


@pytest.mark.slow
def test_shuffled_labels_give_uniform_p_and_hardly_any_discovery():
    values, discoveries, p = planted().values("layer"), 0, []
    for seed in range(40):
        labels = np.random.default_rng(seed).permutation(np.repeat(["sentence", "nonword"], 60))
        shown = StimulusSet([f"t{i}" for i in range(120)], {"condition": labels})
        found = localize(Activations.from_arrays({"l": values}, shown), LANGUAGE, n_null=0)
        p.append(found.values("l", "p")[~PATCH.ravel()])
        discoveries += bool((found.values("l", "q") < 0.05).any())
    assert (np.concatenate(p) < 0.05).mean() == pytest.approx(0.05, abs=0.01)
    assert scipy_stats.kstest(np.concatenate(p), "uniform").statistic < 0.03
    assert discoveries <= 6


def test_q_is_corrected_over_all_layers_jointly():
    shown = stimuli()
    acts = Activations.from_arrays({"a": noise(120), "b": noise(120, 50, seed=1)}, shown)
    found = localize(acts, LANGUAGE)
    p = np.r_[found.values("a", "p"), found.values("b", "p")]
    assert np.allclose(np.r_[found.values("a", "q"), found.values("b", "q")], stats.fdr_bh(p))


def test_the_mask_has_exactly_the_size_asked_for_also_with_ties():
    shown, values = stimuli(), noise(120)
    values[:, 10:90] = values[:, [10]]
    acts = Activations.from_arrays({"a": values, "b": values[:, ::-1]}, shown)
    found = localize(acts, LANGUAGE)
    for k in (1, 7, 100, 288):
        assert found.select(top=k).sum() == k
    assert found.select(top=0.1).sum() == 29
    inside = found.select(top=0.1, layer="b")
    assert inside.sum() == 14
    assert not inside[:144].any()
    t = found.data["t"].values[0]
    assert t[found.select(top=20)].min() >= t[~found.select(top=20)].max()


def test_selection_by_q_takes_units_above_zero_only():
    acts = planted()
    back = localize(acts, Contrast("c", on="nonword", off="sentence"), n_null=0)
    assert back.select(q=0.001).sum() == 0
    assert (back.values("layer", "q") < 0.001).sum() >= 20


@pytest.mark.parametrize("how", [{}, {"top": 3, "q": 0.05}, {"q": 0.0}, {"q": 1.0}, {"top": 0}, {"top": 1.5}])
def test_other_selections_are_refused(how):
    with pytest.raises(InputError):
        localize(planted(), LANGUAGE, n_null=0).select(**how)


def test_a_planted_patch_has_a_high_index_and_unstructured_units_have_none():
    patch = localize(planted(2.0), LANGUAGE, n_null=200).summary().iloc[0]
    assert patch["morans_i"] > 0.4
    assert patch["p_layout"] == 1 / 201
    assert patch["corrected"] > 0.4
    flat = localize(planted(0.0), LANGUAGE, n_null=200).summary().iloc[0]
    assert abs(flat["corrected"]) < 0.15
    assert flat["p_layout"] > 0.01


def test_summary_holds_the_index_beside_the_null_of_the_same_map():
    found = localize(planted(), LANGUAGE, n_null=50, seed=4)
    row, t, sheet = found.summary().iloc[0], found.values("layer"), Sheet.grid(12, 12)
    null = stats.layout_null(t, sheet, orders=stats.layout_permutations(144, 50, seed=4))
    expected = stats.compare_with_null(stats.morans_i(t, sheet), null)
    for name, value in zip(["morans_i", "null_mean", "null_sd", "z", "p_layout", "corrected"], expected, strict=True):
        assert row[name] == pytest.approx(value), name
    assert row["n_units"] == 144
    assert row["n_selective"] == found.select(q=0.05).sum()
    assert row["max_t"] == t.max()


@pytest.mark.slow
def test_smoothing_alone_is_not_read_as_structure():
    shown, indices, nulls, p = stimuli(30), [], [], []
    sheet = Sheet.grid(12, 12, wrapped=True)
    for seed in range(25):
        values = noise(60, seed=seed) * np.random.default_rng(seed).uniform(0.5, 2, 144)
        acts = Activations.from_arrays({"layer": values}, shown, sheets={"layer": sheet})
        row = localize(acts, LANGUAGE, smooth=2.0, n_null=39, seed=seed).summary().iloc[0]
        indices.append(row["morans_i"])
        nulls.append(row["null_mean"])
        p.append(row["p_layout"])
    assert np.mean(indices) == pytest.approx(0.57, abs=0.04)  # the closed form for 144 units
    assert np.mean(nulls) == pytest.approx(np.mean(indices), abs=0.04)
    assert scipy_stats.kstest(p, "uniform").pvalue > 0.01


def test_smoothing_smooths_activations_before_the_test():
    acts, sheet = planted(), Sheet.grid(12, 12)
    values = acts.values("layer").astype(float) @ sheet.smoothing(2.0).T
    on = acts.labels("condition") == "sentence"
    found = localize(acts, LANGUAGE, smooth=2.0, n_null=0)
    assert np.allclose(found.values("layer"), stats.welch_t(values[on], values[~on]).t)
    with pytest.raises(InputError, match="smoothing layer 'l' needs a layout"):
        localize(Activations.from_arrays({"l": noise(120)}, stimuli()), LANGUAGE, smooth=2.0)


def test_layers_without_layout_have_t_but_no_index():
    shown = stimuli()
    acts = Activations.from_arrays({"a": noise(120), "b": noise(120, 16)}, shown, sheets={"b": Sheet.grid(4, 4)})
    summary = localize(acts, LANGUAGE, n_null=20).summary().set_index("layer")
    assert np.isfinite(summary["max_t"]).all()
    assert summary.loc["a", ["morans_i", "null_mean", "z", "p_layout", "corrected"]].isna().all()
    assert np.isfinite(summary.loc["b", "morans_i"])


def test_constant_units_have_no_t_and_leave_the_index_of_the_others():
    shown, values = stimuli(), noise(120)
    values[:, [0, 77]] = 0.1
    acts = Activations.from_arrays({"l": values}, shown, sheets={"l": Sheet.grid(12, 12)})
    found = localize(acts, LANGUAGE, n_null=20)
    for variable in ("t", "p", "q"):
        assert np.flatnonzero(np.isnan(found.values("l", variable))).tolist() == [0, 77]
    assert np.isfinite(found.summary().iloc[0]["morans_i"])
    assert not found.select(top=100)[[0, 77]].any()


def test_several_contrasts_stand_side_by_side():
    shown = stimuli(30, ("sentence", "nonword", "list"))
    acts = Activations.from_arrays({"l": noise(90, 25)}, shown, sheets={"l": Sheet.grid(5, 5)})
    both = localize(acts, [LANGUAGE, Contrast("syntax", on="sentence", off=("list", "nonword"))], n_null=20)
    assert both.contrasts == ["language", "syntax"]
    assert np.array_equal(both.values("l", contrast="language"), localize(acts, LANGUAGE).values("l"))
    assert both.summary()["contrast"].tolist() == ["language", "syntax"]
    for name in both.contrasts:
        assert np.array_equal(both.values("l", "q", contrast=name), stats.fdr_bh(both.values("l", "p", contrast=name)))
    with pytest.raises(InputError, match="several contrasts"):
        both.values("l")
    with pytest.raises(UnknownNameError, match="Did you mean 'syntax'"):
        both.select(top=3, contrast="sintax")
    with pytest.raises(InputError, match="different names"):
        localize(acts, [LANGUAGE, LANGUAGE])
    with pytest.raises(InputError, match="one or more"):
        localize(acts, [])


def test_unknown_names_are_answered_with_near_ones():
    acts = planted()
    with pytest.raises(UnknownNameError, match="Did you mean 'nonword'"):
        localize(acts, Contrast("c", on="sentence", off="nonwords"))
    with pytest.raises(UnknownNameError, match="Did you mean 'condition'"):
        localize(acts, Contrast("c", on="sentence", off="nonword", by="conditions"))
    with pytest.raises(UnknownNameError, match="welch"):
        localize(acts, LANGUAGE, test="welsh")
    found = localize(acts, LANGUAGE, n_null=0)
    with pytest.raises(UnknownNameError, match="Did you mean 'layer'"):
        found.values("layers")
    with pytest.raises(UnknownNameError, match="variable"):
        found.values("layer", "tt")


def test_result_records_its_options_and_survives_a_file(tmp_path):
    found = localize(planted(), LANGUAGE, test="student", n_null=20, seed=7)
    again = load_result(found.save(tmp_path / "s.nc"))
    assert isinstance(again, Selectivity)
    assert again.summary().equals(found.summary())
    options = again.provenance["localize"]
    assert (options["test"], options["seed"], options["n_null"], options["smooth"]) == ("student", 7, 20, None)
    assert options["contrasts"] == [
        {"name": "language", "on": ["sentence"], "off": ["nonword"], "by": "condition", "read": []}
    ]
    assert again.provenance["stimuli"]["name"] == "toy"
    assert again.sheets == found.sheets


def test_the_null_follows_the_seed():
    acts = planted()
    one, same, other = (localize(acts, LANGUAGE, n_null=20, seed=s).data["null_mean"].item() for s in (1, 1, 2))
    assert one == same != other


# profiles


@pytest.mark.slow
def test_null_data_give_no_held_out_t_though_the_selection_looks_strong():
    held_out, in_sample = [], []
    for seed in range(60):
        acts = Activations.from_arrays({"l": noise(120, seed=seed)}, stimuli())
        profile = response_profile(acts, LANGUAGE, top=10)
        held_out.append(profile.data["t"].values.mean())
        t = localize(acts, LANGUAGE, n_null=0)
        in_sample.append(t.values("l")[t.select(top=10)].mean())
    assert abs(np.mean(held_out)) < 0.4
    assert np.mean(in_sample) > 1.5


def test_planted_units_keep_their_preference_in_held_out_stimuli():
    profile = response_profile(planted(), LANGUAGE, top=20)
    summary = profile.summary().set_index("condition")
    assert profile.data["t"].values.min() > 5
    assert profile.data["p"].values.max() < 1e-4
    assert summary.loc["sentence", "response"] - summary.loc["nonword", "response"] > 0.8
    assert profile.data["selected"].values[:, PATCH.ravel()].sum() > 0.9 * 40


def test_odd_even_halves_equal_a_slow_computation():
    acts = planted(0.3)
    profile = response_profile(acts, LANGUAGE, top=5)
    values, on = acts.values("layer").astype(float), acts.labels("condition") == "sentence"
    half = np.empty(120, dtype=int)
    half[on], half[~on] = np.arange(60) % 2, np.arange(60) % 2
    for fold in (0, 1):
        select, measure = half != fold, half == fold
        best = stats.select_top(stats.welch_t(values[on & select], values[~on & select]).t, 5)
        mean = values[:, best].mean(axis=1)
        assert np.array_equal(profile.data["selected"].values[fold], best)
        expected = scipy_stats.ttest_ind(mean[on & measure], mean[~on & measure], equal_var=False)
        assert profile.data["t"].values[fold] == pytest.approx(expected.statistic)
        assert profile.data["p"].values[fold] == pytest.approx(expected.pvalue)
        assert profile.data["response"].values[fold] == pytest.approx(
            [mean[on & measure].mean(), mean[~on & measure].mean()]
        )


def test_leaving_one_set_out_never_selects_on_the_set_it_measures():
    acts = planted()
    profile = response_profile(acts, LANGUAGE, split="set", top=10)
    assert profile.labels("fold").tolist() == [str(i) for i in range(10)]
    spoiled = acts.data.copy(deep=True)
    rows = acts.labels("set") == "3"
    spoiled["value"].values[rows] = 1e3 * noise(rows.sum(), seed=5)
    other = response_profile(Activations(spoiled), LANGUAGE, split="set", top=10)
    assert np.array_equal(other.data["selected"].values[3], profile.data["selected"].values[3])
    assert not np.array_equal(other.data["selected"].values[4], profile.data["selected"].values[4])


def test_conditions_outside_the_contrast_are_measured_too_also_if_a_part_lacks_them():
    labels = np.array(["sentence", "nonword", "list", "sentence", "nonword", "list"] * 10)
    part = np.repeat([1, 2], 30)
    labels[(part == 2) & (labels == "list")] = "sentence"
    shown = StimulusSet([f"t{i}" for i in range(60)], {"condition": labels, "part": part})
    acts = Activations.from_arrays({"l": noise(60, 20)}, shown)
    summary = response_profile(acts, LANGUAGE, split="part", top=3).summary().set_index("condition")
    assert np.isfinite(summary["response"]).all()
    assert set(summary.index) == {"sentence", "nonword", "list"}


def test_impossible_splits_are_refused():
    acts = planted()
    with pytest.raises(UnknownNameError, match="Did you mean 'set'"):
        response_profile(acts, LANGUAGE, split="sets")
    shown = StimulusSet([f"t{i}" for i in range(6)], {"condition": ["sentence", "nonword"] * 3, "one": [1] * 6})
    small = Activations.from_arrays({"l": noise(6, 9)}, shown)
    with pytest.raises(InputError, match="one value only"):
        response_profile(small, LANGUAGE, split="one")
    with pytest.raises(InputError, match="fewer than two"):
        response_profile(small, LANGUAGE)


def test_profile_survives_a_file(tmp_path):
    profile = response_profile(planted(), LANGUAGE, split="set", layer="layer", top=10)
    again = Profile.load(profile.save(tmp_path / "p.nc"))
    assert again.summary().equals(profile.summary())
    assert again.provenance["profile"]["split"] == "set"


def test_a_contrast_is_over_stimuli_not_over_places():
    acts = tb.Activations.from_arrays(
        {"l": np.random.default_rng(0).standard_normal((4, 4))},
        tb.StimulusSet(list("abcd"), {"kind": ["p", "p", "q", "q"]}),
        sheets={"l": tb.Sheet.grid(2, 2)},
    )
    with pytest.raises(LookupError, match="unknown stimulus column 'x'"):
        tb.localize(acts, tb.Contrast("c", on="0.0", off="1.0", by="x"))


@pytest.mark.parametrize("options", [{"n_null": -1}, {"n_null": 1}, {"seed": -1}])
def test_options_that_make_no_sense_are_refused(options):
    acts = tb.Activations.from_arrays(
        {"l": np.random.default_rng(0).standard_normal((4, 4))}, tb.StimulusSet(list("abcd"), {"kind": list("ppqq")})
    )
    with pytest.raises(ValueError, match="n_null must be"):
        tb.localize(acts, tb.Contrast("c", on="p", off="q", by="kind"), **options)
