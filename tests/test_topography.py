import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from topobrain import stats
from topobrain._checks import InputError, UnknownNameError
from topobrain.activations import Activations
from topobrain.results import load_result
from topobrain.selectivity import localize
from topobrain.sheet import Sheet
from topobrain.stimuli import Contrast, StimulusSet
from topobrain.topography import MEASURES, Topography, distance_curve, topography
from topobrain.topography.result import ALL_STIMULI, require_null

SHEET = Sheet.grid(10, 10, wrapped=True)
WHITE = np.random.default_rng(0).standard_normal((300, 10, 10))
SMOOTH = np.stack([gaussian_filter(one, 1.5, mode="wrap") for one in WHITE]).reshape(300, 100)
CONTRAST = Contrast("a - b", on="a", off="b")


def stimuli(n=300):
    return StimulusSet(
        [f"t{i}" for i in range(n)], {"condition": np.tile(["a", "b"], n // 2)}, provenance={"simulated": True}
    )


@pytest.fixture(scope="module")
def acts():
    layers = {"white": WHITE.reshape(300, 100), "smooth": SMOOTH, "nowhere": SMOOTH[:, :30]}
    return Activations.from_arrays(layers, stimuli(), sheets={"white": SHEET, "smooth": SHEET})


@pytest.fixture(scope="module")
def patch():
    """A 12 x 12 sheet of noise with a 5 x 5 patch that prefers condition a."""
    values = np.random.default_rng(1).standard_normal((120, 12, 12))
    values[::2, 3:8, 4:9] += 1.5
    return Activations.from_arrays({"l": values.reshape(120, 144)}, stimuli(120), sheets={"l": Sheet.grid(12, 12)})


@pytest.fixture(scope="module")
def found(acts):
    return topography(acts, measures=["generic"], n_null=39, seed=1)


# responses


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
    assert row["value"] == pytest.approx(expected.value)
    for name in ("null_mean", "null_sd", "corrected"):
        assert row[name] == pytest.approx(getattr(expected, name), abs=2e-3), name
    assert row["p"] == expected.p


def test_contract_columns_are_those_of_the_first_null_that_speaks(found):
    assert found.data["p"].dims == ("measure", "layer", "contrast")
    for name in ("null_mean", "null_sd", "z", "p", "corrected"):
        beside = found.beside("layout")[name].sel(measure="generic", layer="smooth", contrast=ALL_STIMULI)
        assert float(found.data[name].sel(measure="generic", layer="smooth", contrast=ALL_STIMULI)) == float(beside)
    assert found.data["by_null"].sel(null="torus").isnull().all()  # a torus null is for the agreement of two maps
    with pytest.raises(UnknownNameError, match="layout"):
        found.beside("layouts")


def test_layers_without_layout_have_no_value(found):
    row = found.summary().set_index("layer").loc["nowhere"]
    assert row[["value", "null_mean", "null_sd", "z", "p", "corrected"]].isna().all()


def test_result_survives_a_file_and_remembers_where_it_came_from(found, tmp_path):
    again = load_result(found.save(tmp_path / "t.nc"))
    assert isinstance(again, Topography)
    assert again.summary().equals(found.summary())
    assert again.simulated
    options = again.provenance["topography"]
    assert (options["measures"], options["nulls"], options["n_null"], options["seed"]) == (
        ["generic"], ["layout", "torus"], 39, 1,
    )  # fmt: skip


# maps


def test_default_measures_are_those_that_what_is_given_allows(patch):
    maps = localize(patch, CONTRAST, n_null=0)
    assert topography(maps, n_null=19).summary()["measure"].tolist() == ["morans_i", "smoothness_tdann"]
    assert topography(patch, n_null=19).summary()["measure"].tolist() == ["generic", "smoothness_toponets"]
    both = topography(maps, activations=patch, n_null=19).summary()
    assert both["measure"].tolist() == ["morans_i", "generic", "smoothness_tdann", "smoothness_toponets"]
    assert both["contrast"].tolist() == ["a - b", ALL_STIMULI, "a - b", ALL_STIMULI]


@pytest.mark.slow
def test_a_planted_patch_is_found_by_every_map_measure_and_permuted_places_lose_it(patch):
    names = ["morans_i", "smoothness_tdann", "low_frequency_share", "largest_cluster", "island_morans_i"]
    options = {"largest_cluster": {"seed_threshold": 3.0, "grow_threshold": 2.0, "min_size": 4},
               "island_morans_i": {"top": None}}  # fmt: skip
    maps = localize(patch, CONTRAST, n_null=0)
    table = topography(maps, measures=names, options=options, n_null=99).summary().set_index("measure")
    for name in ("morans_i", "smoothness_tdann", "low_frequency_share", "largest_cluster"):
        assert table.loc[name, "p"] == 0.01, name
    assert table.loc["largest_cluster", "value"] == pytest.approx(25, abs=4)
    assert np.isfinite(table.loc["island_morans_i", "value"])
    p = []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(144)
        values = patch.values("l")[:, order]
        moved = Activations.from_arrays({"l": values}, stimuli(120), sheets={"l": Sheet.grid(12, 12)})
        p += topography(localize(moved, CONTRAST, n_null=0), measures=names[:3], n_null=49).summary()["p"].tolist()
    assert np.mean(np.array(p) <= 0.05) < 0.3


def test_morans_i_and_its_null_equal_those_of_localize(patch):
    told = localize(patch, CONTRAST, n_null=99, seed=4).summary().iloc[0]
    row = topography(localize(patch, CONTRAST, n_null=0), measures=["morans_i"], n_null=99, seed=4).summary().iloc[0]
    assert row["value"] == pytest.approx(told["morans_i"])
    for name in ("null_mean", "null_sd", "z", "corrected"):
        assert row[name] == pytest.approx(told[name])
    assert row["p"] == told["p_layout"]


def test_smoothed_maps_are_permuted_before_smoothing():
    values = np.random.default_rng(5).standard_normal((120, 400))
    acts = Activations.from_arrays({"l": values}, stimuli(120), sheets={"l": Sheet.grid(20, 20)})
    maps = localize(acts, CONTRAST, smooth=2.0, n_null=0)
    with pytest.raises(InputError, match="activations="):
        topography(maps, measures=["morans_i"], n_null=19)
    row = topography(maps, activations=acts, measures=["morans_i"], n_null=99).summary().iloc[0]
    assert row["value"] > 0.4  # smoothing alone
    assert row["null_mean"] == pytest.approx(0.59, abs=0.05)
    assert abs(row["corrected"]) < 0.2
    assert row["p"] > 0.02


def test_the_label_null_asks_whether_any_contrast_would_be_as_patchy(patch):
    """Units that share a smooth noise make every contrast patchy: the layout null is passed, the label null is not."""
    shared = SMOOTH.reshape(300, 100) / SMOOTH.std() + 0.3 * WHITE.reshape(300, 100)
    acts = Activations.from_arrays({"l": shared}, stimuli(), sheets={"l": SHEET})
    maps = localize(acts, CONTRAST, n_null=0)
    table = topography(maps, activations=acts, measures=["morans_i"], nulls=["layout", "labels"], n_null=199).summary()
    table = table.set_index("null")
    assert table.loc["layout", "p"] == 0.005
    assert table.loc["labels", "p"] > 0.05
    planted = topography(
        localize(patch, CONTRAST, n_null=0), activations=patch, measures=["morans_i"], nulls=["labels"], n_null=199
    )
    assert planted.summary()["p"].item() == 0.005
    with pytest.raises(InputError, match="activations="):
        topography(maps, measures=["morans_i"], nulls=["labels"])


def test_label_nulls_of_two_contrasts_equal_t_maps_of_relabelled_stimuli(patch):
    from topobrain.selectivity.t_maps import Recipe, Sides, label_null_maps
    from topobrain.stats.contrast import TTest

    sides = Sides.of(patch, [CONTRAST])
    blocks = np.concatenate(
        list(label_null_maps(patch.values("l"), patch.sheet("l"), sides, Recipe(TTest()), n_null=60, seed=2))
    )
    assert blocks.shape == (60, 1, 144)
    # over relabellings the t of unit 0 has mean 0 and the spread of a t
    assert abs(blocks[:, 0].mean()) < 0.05
    assert blocks[:, 0, 0].std() == pytest.approx(1, abs=0.3)


# agreement of two maps


def test_the_torus_null_is_exact_for_the_agreement_of_two_smooth_maps():
    half = np.arange(300) % 4 < 2
    layers = {"l": SMOOTH}
    one, two = (
        localize(Activations.from_arrays({"l": layers["l"][rows]}, stimuli().take(np.flatnonzero(rows)),
                                         sheets={"l": SHEET}), CONTRAST, n_null=0)
        for rows in (half, ~half)
    )  # fmt: skip
    table = topography(one, against=two, measures=["map_correlation", "ssim"], n_null=99).summary()
    assert set(table["null"]) == {"layout", "torus"}
    assert (table[table["null"] == "torus"]["n_null"] == 99).all()  # 10 x 10 places less the map's own
    assert (table[table["null"] == "torus"]["p"] > 0.03).all()  # two halves of noise agree on nothing
    itself = topography(one, against=one, measures=["map_correlation"], n_null=99).summary().set_index("null")
    assert itself.loc["torus", "value"] == pytest.approx(1)
    assert itself.loc["torus", "p"] == 0.01
    with pytest.raises(InputError, match="against="):
        topography(one, measures=["ssim"])


# references


def test_other_models_stand_beside_as_nulls(patch):
    plain = Activations.from_arrays(
        {"l": np.random.default_rng(8).standard_normal((120, 144))}, stimuli(120), sheets={"l": Sheet.grid(12, 12)}
    )
    bare = topography(localize(plain, CONTRAST, n_null=0), measures=["morans_i"], n_null=0)
    maps = localize(patch, CONTRAST, n_null=0)
    found = topography(maps, measures=["morans_i"], references={"untrained": bare, "twins": [bare] * 5}, n_null=19)
    table = found.summary().set_index("null")
    assert table.index.tolist() == ["layout", "untrained", "twins"]
    i, i0 = table.loc["untrained", "value"], float(bare.data["value"].item())
    assert table.loc["untrained", "corrected"] == pytest.approx((i - i0) / (1 - i0))
    assert np.isnan(table.loc["untrained", "z"])
    assert table.loc["twins", "p"] == pytest.approx(1 / 6)
    with pytest.raises(UnknownNameError, match="same options"):
        topography(maps, measures=["morans_i", "smoothness_tdann"], references={"untrained": bare}, n_null=19)
    with pytest.raises(InputError, match="Topography result"):
        topography(maps, references={"untrained": maps}, n_null=19)


def test_a_value_without_a_null_supports_no_claim(patch):
    bare = topography(localize(patch, CONTRAST, n_null=0), n_null=0)
    assert bare.summary()["null"].tolist() == ["none", "none"]
    with pytest.raises(InputError, match="no claim on topography"):
        require_null(bare)
    require_null(topography(localize(patch, CONTRAST, n_null=0), n_null=19))


# curves


def test_distance_curves_fall_for_smooth_units_and_stay_in_their_band_for_white_ones(acts):
    curve = distance_curve(acts, n_bins=8, n_null=99)
    assert curve.layers == ["white", "smooth"]
    assert curve.quantity == "response correlation"
    smooth = curve.data.sel(layer="smooth")
    assert float(smooth["value"][0]) > 0.5 > float(smooth["value"][-1])
    assert float(smooth["value"][0]) > float(smooth["null_high"][0])
    white = curve.data.sel(layer="white")
    inside = (white["value"] >= white["null_low"]) & (white["value"] <= white["null_high"])
    assert int(inside.sum()) >= 6


def test_distance_curves_of_maps_rise_around_a_patch_and_survive_a_file(patch, tmp_path):
    curve = distance_curve(localize(patch, CONTRAST, n_null=0), n_bins=6, n_null=99)
    assert curve.quantity == "difference of t"
    assert float(curve.data["value"][0, 0]) < float(curve.data["null_low"][0, 0])
    again = load_result(curve.save(tmp_path / "c.nc"))
    assert again.summary().equals(curve.summary())
    with pytest.raises(InputError, match="layout"):
        distance_curve(Activations.from_arrays({"l": SMOOTH}, stimuli()))


# bad input


def test_unknown_measures_and_too_few_permutations_are_refused(acts, patch):
    with pytest.raises(UnknownNameError, match="generic"):
        topography(acts, measures=["generik"])
    with pytest.raises(InputError, match="no topography measure"):
        topography(acts, measures=[])
    with pytest.raises(InputError, match="n_null"):
        topography(acts, n_null=1)
    with pytest.raises(InputError, match="localize"):
        topography(acts, measures=["morans_i"])
    with pytest.raises(UnknownNameError, match="layout"):
        topography(acts, nulls=["layouts"])
    with pytest.raises(InputError, match="another sheet"):
        topography(
            localize(patch, CONTRAST, n_null=0),
            activations=Activations.from_arrays({"l": patch.values("l")}, stimuli(120)),
        )
    with pytest.raises(InputError, match="rank"):
        topography(acts, measures=["participation_ratio"], nulls=["rank"], n_null=19)
    with pytest.raises(UnknownNameError, match="options"):
        topography(acts, measures=["generic"], options={"generik": {}})


def test_a_map_that_does_not_vary_is_left_out_with_a_word():
    values = np.random.default_rng(0).standard_normal((120, 144))
    values[:, :] = values[:, [0]]
    acts = Activations.from_arrays({"l": values}, stimuli(120), sheets={"l": Sheet.grid(12, 12)})
    with pytest.warns(UserWarning, match="does not vary"):
        found = topography(localize(acts, CONTRAST, n_null=0), measures=["morans_i"], n_null=19)
    assert found.data["value"].isnull().all()


def test_every_measure_says_where_it_comes_from_and_which_nulls_speak():
    for name, measure in MEASURES.items():
        assert measure.title, name
        assert measure.nulls, name


def test_a_contrast_is_not_compared_with_itself():
    labels = np.tile(["a", "b", "c"], 40)
    acts = Activations.from_arrays(
        {"l": np.random.default_rng(0).standard_normal((120, 144))},
        StimulusSet([f"t{i}" for i in range(120)], {"condition": labels}),
        sheets={"l": Sheet.grid(12, 12)},
    )
    maps = localize(acts, [Contrast("a - c", "a", "c"), Contrast("b - c", "b", "c")], n_null=0)
    with pytest.warns(UserWarning, match="share stimuli|fair test") as told:
        table = topography(maps, against="b - c", measures=["map_correlation"], n_null=19).summary()
    words = " ".join(str(one.message) for one in told)
    assert "'a - c' may share stimuli with 'b - c'" in words
    assert "none of the nulls layout, torus is a fair test of 'map_correlation'" in words
    assert table["p"].isna().all()  # shuffled places know nothing of smoothness
    assert table["contrast"].tolist() == ["a - c"]
    a, b = (maps.values("l", contrast=name) for name in maps.contrasts)
    assert table["value"].item() == pytest.approx(np.corrcoef(a, b)[0, 1])


@pytest.mark.slow
def test_unrelated_maps_of_smooth_units_agree_as_seldom_as_p_says():
    """On a torus the plain columns show the torus null; shuffled places would call 4 in 10 such pairs alike."""
    sheet = Sheet.grid(16, 16, wrapped=True)
    p = []
    for seed in range(40):
        values = sheet.smooth(np.random.default_rng(seed).standard_normal((80, 256)), 4.0)
        labels = np.tile(["a", "b", "c", "d"], 20)
        acts = Activations.from_arrays(
            {"l": values}, StimulusSet([f"t{i}" for i in range(80)], {"condition": labels}), sheets={"l": sheet}
        )
        maps = localize(acts, [Contrast("a - b", "a", "b"), Contrast("c - d", "c", "d")], n_null=0)
        found = topography(maps, activations=acts, against="c - d", measures=["map_correlation"],
                           nulls=["layout", "torus", "labels"], n_null=49)  # fmt: skip
        plain = found.data["p"].sel(contrast="a - b").item()
        assert plain == found.beside("torus")["p"].sel(contrast="a - b").item()
        assert np.isnan(found.beside("layout")["p"].sel(contrast="a - b").item())
        p.append((plain, found.beside("labels")["p"].sel(contrast="a - b").item()))
    assert (np.mean(np.array(p) < 0.05, axis=0) < 0.17).all()


def test_options_reach_the_measure_and_others_are_refused(acts):
    share = stats.low_frequency_share
    maps = localize(acts.only("smooth"), CONTRAST, n_null=0)
    found = topography(maps, measures=["low_frequency_share"], n_null=0).data["value"].item()
    assert found == pytest.approx(float(share(maps.values("smooth"), SHEET, below=0.1)))
    wide = topography(maps, measures=["low_frequency_share"], options={"low_frequency_share": {"below": 0.3}}, n_null=0)
    assert wide.data["value"].item() == pytest.approx(float(share(maps.values("smooth"), SHEET, below=0.3)))
    with pytest.raises(UnknownNameError, match="'neighbours'"):
        topography(maps, measures=["morans_i"], options={"morans_i": {"neighbors": "rook"}})
    with pytest.raises(UnknownNameError, match="option of the measure"):
        topography(acts, measures=["generic"], options={"generic": {"seed": 1}})


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_islands_are_chosen_by_one_sided_p_whatever_was_tested(patch, alternative):
    from scipy import stats as scipy_stats

    values = patch.values("l").astype(float)
    on = patch.labels("condition") == "a"
    t, p = scipy_stats.ttest_ind(values[on], values[~on], equal_var=False, alternative="greater")
    expected = stats.island_morans_i(t, p, Sheet.grid(12, 12), top=None, q=0.2, min_size=4).mean
    maps = localize(patch, CONTRAST, n_null=0, alternative=alternative)
    options = {"island_morans_i": {"top": None, "q": 0.2, "min_size": 4}}
    found = topography(maps, measures=["island_morans_i"], options=options, n_null=0).data["value"].item()
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_low_dimensional_twin_sets_the_rank_null(acts):
    values = acts.values("white")
    flat = np.outer(values[:, 0], np.linspace(1, 2, 100)) + 0.01 * values
    twin = Activations.from_arrays({"white": flat}, stimuli(), sheets={"white": SHEET})
    means = []
    for other in (None, twin):
        found = topography(acts.only("white"), twin=other, measures=["participation_ratio"], nulls=["rank"], n_null=19,
                           options={"participation_ratio": {"rank": 6}})  # fmt: skip
        means.append(found.data["null_mean"].item())
        assert found.data["value"].item() == pytest.approx(stats.participation_ratio(values))
        assert found.data["p"].item() == pytest.approx(2 / 20)  # far above either null: two-sided
    assert means[0] > 4
    assert means[1] < 2


def test_the_label_null_of_smoothed_maps_is_as_smooth_as_they_are():
    values = np.random.default_rng(5).standard_normal((120, 400))
    acts = Activations.from_arrays({"l": values}, stimuli(120), sheets={"l": Sheet.grid(20, 20)})
    maps = localize(acts, CONTRAST, smooth=2.0, n_null=0)
    row = topography(maps, activations=acts, measures=["morans_i"], nulls=["labels"], n_null=49).summary().iloc[0]
    assert row["null_mean"] == pytest.approx(0.59, abs=0.05)


def test_references_cannot_take_the_name_of_a_null_and_one_model_is_no_null(patch):
    maps = localize(patch, CONTRAST, n_null=0)
    bare = topography(maps, measures=["morans_i"], n_null=0)
    with pytest.raises(InputError, match="name of the null"):
        topography(maps, references={"layout": bare}, n_null=19)
    with pytest.raises(InputError, match="by name"):
        topography(maps, references=[bare], n_null=19)
    with pytest.warns(UserWarning, match="fair test"):
        alone = topography(maps, measures=["morans_i"], nulls=["torus"], references={"untrained": bare}, n_null=19)
    with pytest.raises(InputError, match="no claim"):
        require_null(alone)


def test_activations_of_other_stimuli_or_sides_are_refused(patch):
    maps = localize(patch, CONTRAST, n_null=0)
    swapped = StimulusSet([f"t{i}" for i in range(120)], {"condition": np.tile(["b", "a"], 60)})
    other = Activations.from_arrays({"l": patch.values("l")}, swapped, sheets={"l": Sheet.grid(12, 12)})
    with pytest.raises(InputError, match="other t-values"):
        topography(maps, activations=other, measures=["morans_i"], nulls=["labels"], n_null=9)


def test_a_small_or_dead_layer_is_left_out_with_a_word_and_the_others_are_measured():
    rng = np.random.default_rng(0)
    layers = {"ok": rng.standard_normal((40, 36)), "head": rng.standard_normal((40, 2)), "dead": np.ones((40, 36))}
    sheets = {"ok": Sheet.grid(6, 6), "head": Sheet.grid(1, 2), "dead": Sheet.grid(6, 6)}
    small = Activations.from_arrays(layers, stimuli(40), sheets=sheets)
    with pytest.warns(UserWarning, match="is not measured there") as told:
        found = topography(small, measures=["generic", "smoothness_toponets"], n_null=9)
    assert {str(one.message).split("'")[1] for one in told} == {"head", "dead"}
    assert found.data["value"].sel(layer="ok").notnull().all()
    with pytest.raises(InputError, match="'head'"):
        distance_curve(small)


def test_sheets_too_large_for_all_pairs_are_refused_before_the_memory_is():
    large = Activations.from_arrays(
        {"l": np.random.default_rng(0).standard_normal((6, 14_400)).astype(np.float32)}, stimuli(6),
        sheets={"l": Sheet.grid(120, 120)},
    )  # fmt: skip
    with pytest.raises(InputError, match="all pairs of its 14,400 units"):
        topography(large, n_null=9)
    with pytest.raises(InputError, match="all pairs"):
        distance_curve(large)
    found = topography(localize(large, CONTRAST, n_null=0), measures=["morans_i"], n_null=9)
    assert abs(found.data["z"].item()) < 6
