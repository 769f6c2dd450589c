"""Every published way of making a t-map, and every way of choosing units from one."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

import topobrain as tb
from topobrain import stats
from topobrain._checks import InputError, UnknownNameError
from topobrain.selectivity import PUBLISHED, localize, response_profile
from topobrain.sheet import Sheet
from topobrain.stimuli import Contrast, StimulusSet

LANGUAGE = Contrast("language", on="sentence", off="nonword")
SHEET = Sheet.grid(8, 9)
LABELS = np.array(["sentence"] * 30 + ["nonword"] * 24)
VALUES = np.random.default_rng(0).standard_normal((54, 72)) * np.r_[np.full(30, 1.0), np.full(24, 2.0)][:, None] + 0.4
VALUES = VALUES.astype(np.float32).astype(np.float64)


def activations(values=VALUES, labels=LABELS, **columns):
    table = {"condition": labels, **columns}
    return tb.Activations.from_arrays(
        {"a": values, "b": values[:, ::-1]},
        StimulusSet([f"text {i}" for i in range(len(values))], table),
        sheets={"a": SHEET, "b": SHEET},
    )


def by_hand(values, name):
    """Return what each project computes, written out on its own."""
    on, off = values[:30], values[30:]
    n1, n2 = len(on), len(off)
    if name == "topoformer":
        return scipy_stats.ttest_ind(on, off, equal_var=True).statistic
    if name == "tdann":
        return (on.mean(0) - off.mean(0)) / np.sqrt(on.var(0) / n1 + off.var(0) / n2)
    if name == "topolm":
        sigma = 2 / np.sqrt(8 * np.log(2))
        kernel = np.exp(-(SHEET.distances() ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
        return scipy_stats.ttest_ind(on @ kernel, off @ kernel, equal_var=False).statistic
    if name == "llm-localization":
        return scipy_stats.ttest_ind(np.abs(on), np.abs(off), equal_var=False).statistic
    if name == "toponets":
        pooled = np.sqrt((n1 * on.var(0) + n2 * off.var(0)) / (n1 + n2))
        return (on.mean(0) - off.mean(0)) / (pooled * np.sqrt(1 / n1 + 1 / n2))
    return scipy_stats.ttest_ind(on, off, equal_var=False).statistic  # brain-score, topo-omni


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_every_published_variant_is_a_set_of_options(name):
    found = localize(activations(), LANGUAGE, n_null=0, **PUBLISHED[name])
    np.testing.assert_allclose(found.values("a"), by_hand(VALUES, name), rtol=1e-9, atol=1e-10)
    options = found.provenance["localize"]
    assert all(options[key] == value for key, value in PUBLISHED[name].items())


def test_one_sided_tests_keep_t_and_change_p():
    two, one = (localize(activations(), LANGUAGE, n_null=0, alternative=a) for a in ("two-sided", "greater"))
    np.testing.assert_array_equal(two.values("a"), one.values("a"))
    expected = scipy_stats.ttest_ind(VALUES[:30], VALUES[30:], equal_var=False, alternative="greater").pvalue
    np.testing.assert_allclose(one.values("a", "p"), expected, rtol=1e-6)


def test_topoformers_picture_is_the_signed_log_p():
    found = localize(activations(), LANGUAGE, n_null=0, **PUBLISHED["topoformer"])
    t, p = found.values("a"), found.values("a", "p")
    np.testing.assert_allclose(found.values("a", "signed_log_p"), np.sign(t) * -np.log10(p), rtol=1e-9)


def test_the_variants_of_one_contrast_differ():
    maps = {name: localize(activations(), LANGUAGE, n_null=0, **PUBLISHED[name]).values("a") for name in PUBLISHED}
    assert not np.allclose(maps["brain-score"], maps["llm-localization"])
    assert not np.allclose(maps["brain-score"], maps["topoformer"])
    assert np.abs(maps["tdann"]).mean() > np.abs(maps["brain-score"]).mean()


@pytest.mark.parametrize(("policy", "t", "p"), [("nan", np.nan, np.nan), ("zero", 0.0, 1.0)])
def test_units_that_never_change_follow_the_stated_policy_and_are_never_infinite(policy, t, p):
    values = VALUES.copy()
    values[:, 0] = 7.0
    values[:30, 1], values[30:, 1] = 1.0, 0.0  # constant within both conditions, though they differ
    found = localize(activations(values), LANGUAGE, n_null=20, zero_variance=policy)
    for unit in (0, 1):
        np.testing.assert_equal(found.values("a")[unit], t)
        np.testing.assert_equal(found.values("a", "p")[unit], p)
    assert not np.isinf(found.data["t"]).any()
    assert np.isfinite(found.data["morans_i"]).all()


def test_identical_conditions_give_no_selectivity():
    values = np.concatenate([VALUES[:24], VALUES[:24]])
    found = localize(activations(values, np.repeat(["sentence", "nonword"], 24)), LANGUAGE, n_null=0)
    assert (found.values("a") == 0).all()
    assert (found.values("a", "p") == 1).all()
    assert found.select(q=0.05).sum() == 0


def test_false_discoveries_are_corrected_jointly_or_sheet_by_sheet():
    joint, by_sheet = (localize(activations(), LANGUAGE, n_null=0, fdr=f) for f in ("joint", "sheet"))
    p = joint.data["p"].values[0]
    np.testing.assert_allclose(joint.data["q"].values[0], stats.fdr_bh(p))
    np.testing.assert_allclose(by_sheet.values("a", "q"), stats.fdr_bh(p[:72]))
    with pytest.raises(UnknownNameError, match="joint"):
        localize(activations(), LANGUAGE, n_null=0, fdr="layer")


def test_overlapping_contrasts_in_one_pass_equal_each_alone():
    labels = np.array(["s", "w", "j", "n"] * 13)
    values = np.random.default_rng(3).standard_normal((52, 72))
    acts = activations(values, labels, half=np.tile(["x", "x", "y", "y"], 13))
    contrasts = [
        Contrast("s - n", "s", "n"), Contrast("words", ("s", "w"), ("j", "n")), Contrast("s - w", "s", "w"),
        Contrast("halves", "x", "y", by="half"),
    ]  # fmt: skip
    together = localize(acts, contrasts, n_null=20)
    for one in contrasts:
        alone = localize(acts, one, n_null=20)
        for name in ("t", "p", "q"):
            np.testing.assert_allclose(
                together.data[name].sel(contrast=one.name), alone.data[name].sel(contrast=one.name), rtol=1e-10
            )
        np.testing.assert_allclose(together.data["z"].sel(contrast=one.name), alone.data["z"].sel(contrast=one.name))


def test_smoothed_maps_do_not_depend_on_how_many_stimuli_are_smoothed_at_a_time(monkeypatch):
    from topobrain.selectivity import t_maps

    whole = localize(activations(), LANGUAGE, n_null=0, smooth=2.0).data["t"].values
    monkeypatch.setattr(t_maps, "SMOOTHED_VALUES", 72 * 5)
    np.testing.assert_allclose(
        localize(activations(), LANGUAGE, n_null=0, smooth=2.0).data["t"].values, whole, rtol=1e-9
    )


def test_maps_do_not_depend_on_how_many_units_are_read_at_a_time(monkeypatch):
    from topobrain.selectivity import t_maps

    whole = localize(activations(), LANGUAGE, n_null=0).data["t"].values
    monkeypatch.setattr(t_maps, "UNIT_BLOCK", 10)
    np.testing.assert_array_equal(localize(activations(), LANGUAGE, n_null=0).data["t"].values, whole)


# choosing units


def test_bands_take_units_of_a_percentile_range_and_are_seeded():
    found = localize(activations(), LANGUAGE, n_null=0)
    t = found.data["t"].values[0]
    assert found.select(band=(100, 100), n=7).sum() == 7
    np.testing.assert_array_equal(found.select(band=(100, 100), n=7), found.select(top=7))
    assert t[found.select(band=(0, 0), n=7)].max() <= np.sort(t)[6]
    middle = found.select(band=(80, 90), n=5, seed=1)
    assert middle.sum() == 5
    assert (t[middle] >= np.percentile(t, 78)).all()
    assert (t[middle] <= np.percentile(t, 92)).all()
    np.testing.assert_array_equal(middle, found.select(band=(80, 90), n=5, seed=1))
    assert not np.array_equal(middle, found.select(band=(80, 90), n=5, seed=2))
    with pytest.raises(InputError, match="exactly one"):
        found.select(top=3, band=(0, 0), n=3)


def test_random_controls_match_the_mask_in_every_layer_and_leave_it_out():
    found = localize(activations(), LANGUAGE, n_null=0)
    mask = found.select(top=13)
    control = found.random_like(mask, seed=4)
    assert not (mask & control).any()
    for layer in ("a", "b"):
        assert control[found.unit_slice(layer)].sum() == mask[found.unit_slice(layer)].sum()


# how much text went in


def with_lengths(tokens):
    acts = activations()
    return tb.Activations(acts.data.assign_coords(
        n_tokens_read=("stimulus", tokens), n_words_read=("stimulus", np.full(54, 12))))  # fmt: skip


def test_conditions_of_unequal_length_are_told():
    with pytest.warns(UserWarning, match=r"compares 12.0 tokens a stimulus \(sentence\) with 24.0 \(nonword\)"):
        found = localize(with_lengths(np.r_[np.full(30, 12), np.full(24, 24)]), LANGUAGE, n_null=0)
    read = found.provenance["localize"]["contrasts"][0]["read"]
    assert read == [
        {"condition": "sentence", "n": 30, "tokens": 12.0, "words": 12.0},
        {"condition": "nonword", "n": 24, "tokens": 24.0, "words": 12.0},
    ]


def test_conditions_of_equal_length_are_not(recwarn):
    localize(with_lengths(np.full(54, 12)), LANGUAGE, n_null=0)
    assert not recwarn.list


# measuring selected units in another set


def swjn(effect, seed=5):
    labels = np.tile(["sentence", "word_list", "jabberwocky", "nonword"], 20)
    values = np.random.default_rng(seed).standard_normal((80, 72))
    values[labels == "sentence", :6] += effect
    return activations(values, labels)


def test_units_selected_in_one_set_are_measured_in_another():
    strong = VALUES.copy()
    strong[:30, :6] += 3
    other = swjn(2.0)
    other = tb.Activations(
        other.data.assign_coords(text=("stimulus", np.array([f"other {i}" for i in range(80)], dtype=object)))
    )
    profile = response_profile(activations(strong), LANGUAGE, measure=other, top=6, layer="a")
    assert profile.labels("condition").tolist() == ["sentence", "word_list", "jabberwocky", "nonword"]
    assert profile.data["selected"].values[0][:6].all()
    table = profile.summary().set_index("condition")
    assert table.loc["sentence", "low"] > table.loc["sentence", "random_high"]
    assert table.loc["nonword", "low"] < 0.1
    assert table.loc["nonword", "high"] > -0.1
    values = other.values("a")[:, :6].astype(float)
    for condition in table.index:
        rows = other.labels("condition") == condition
        assert table.loc[condition, "response"] == pytest.approx(values[rows].mean())
    np.testing.assert_allclose(profile.data["stimulus_response"], values.mean(axis=1), rtol=1e-6)
    assert profile.data["t"].item() > 5
    assert profile.provenance["profile"]["n_left_out"] == 0


def test_stimuli_that_selected_the_units_are_not_measured():
    profile = response_profile(activations(), LANGUAGE, measure=swjn(1.0), top=6, n_control=5)
    assert profile.provenance["profile"]["n_left_out"] == 54  # the first 54 texts are the same
    assert np.isnan(profile.data["stimulus_response"].values[:54]).all()
    with pytest.raises(InputError, match="nothing is held out"):
        response_profile(activations(), LANGUAGE, measure=activations(), top=6)


def test_the_interval_covers_the_mean_and_narrows_with_stimuli():
    rng = np.random.default_rng(0)
    widths = []
    for n in (40, 640):
        values = rng.standard_normal((n, 72))
        labels = np.tile(["sentence", "nonword"], n // 2)
        table = response_profile(activations(values, labels), LANGUAGE, top=10, n_control=0).summary()
        assert (table["low"] < table["response"]).all()
        assert (table["response"] < table["high"]).all()
        assert table["random_units"].isna().all()
        widths.append((table["high"] - table["low"]).mean())
    assert 2.5 < widths[0] / widths[1] < 6.5  # 4 in theory


def test_random_units_show_no_preference_where_selected_ones_do():
    strong = VALUES.copy()
    strong[:30, :6] += 3
    table = response_profile(activations(strong), LANGUAGE, top=6, layer="a", n_control=100).summary()
    table = table.set_index("condition")
    assert table.loc["sentence", "response"] > table.loc["sentence", "random_high"] + 1
    assert abs(table.loc["sentence", "random_units"] - table.loc["nonword", "random_units"]) < 0.3


def test_measured_activations_must_be_of_the_same_units():
    narrow = tb.Activations.from_arrays(
        {"a": VALUES[:, :50], "b": VALUES}, StimulusSet([f"o {i}" for i in range(54)], {"condition": LABELS})
    )
    with pytest.raises(InputError, match="50 where they are measured"):
        response_profile(activations(), LANGUAGE, measure=narrow)


def test_one_missing_unit_leaves_the_smoothed_map_of_the_others():
    values = VALUES.copy()
    values[:, 10] = np.nan
    acts = activations(values)
    found = localize(acts, LANGUAGE, n_null=20, smooth=2.0)
    assert np.isnan(found.values("a")).sum() == 1
    kernel = np.exp(-(SHEET.distances() ** 2) / (2 * (2 / np.sqrt(8 * np.log(2))) ** 2))
    kernel[:, 10] = 0
    smoothed = np.nan_to_num(values) @ (kernel / kernel.sum(axis=1, keepdims=True)).T
    expected = scipy_stats.ttest_ind(smoothed[:30], smoothed[30:], equal_var=False).statistic
    keep = np.arange(72) != 10
    np.testing.assert_allclose(found.values("a")[keep], expected[keep], rtol=1e-7)
    assert np.isfinite(found.data["z"]).all()


def test_random_units_are_drawn_from_all_that_have_values():
    values = VALUES.copy()
    values[:, 3] = np.nan
    table = response_profile(activations(values), LANGUAGE, top=5, layer="a", n_control=30).summary()
    assert np.isfinite(table[["random_units", "random_low", "random_high"]]).all(axis=None)
    half = response_profile(
        activations(), LANGUAGE, top=60, layer="a", n_control=30
    ).summary()  # more than are left over
    assert np.isfinite(half["random_units"]).all()


def test_selection_follows_the_side_that_was_tested():
    found = localize(
        activations(-3 * np.sign(VALUES) * (np.arange(72) < 9) + VALUES), LANGUAGE, n_null=0, alternative="less"
    )
    chosen = found.select(q=0.9)
    assert (found.data["t"].values[0][chosen] < 0).all()
    with pytest.raises(InputError, match="n= goes with band="):
        found.select(top=3, n=2)
    with pytest.raises(InputError, match="two percentiles"):
        found.select(band=(1, 2, 3), n=1)


def test_a_localizer_can_be_handed_over_as_it_is_and_other_things_are_told():
    found = localize(activations(), [LANGUAGE], n_null=0)

    class Localizer:
        contrasts = (LANGUAGE,)

    np.testing.assert_array_equal(localize(activations(), Localizer(), n_null=0).data["t"], found.data["t"])
    for wrong in ("language", None, [1]):
        with pytest.raises(InputError, match="Contrast"):
            localize(activations(), wrong, n_null=0)
    with pytest.raises(InputError, match="takes activations"):
        localize(VALUES, LANGUAGE)
    with pytest.raises(InputError, match="whole number"):
        localize(activations(), LANGUAGE, n_null=10.5)
