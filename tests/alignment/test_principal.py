"""Principal components of activations and brain responses, and how smooth their weight maps are."""

import warnings

import numpy as np
import pytest

import topobrain
from topobrain._checks import InputError, UnknownNameError
from topobrain.activations import Activations
from topobrain.alignment.principal import PrincipalComponents, components
from topobrain.brain_files.places import on_surface
from topobrain.data.simulated_cohort import load_sentences, simulate_cohort
from topobrain.data.surfaces import load_surface
from topobrain.responses import BrainResponses
from topobrain.results import load_result
from topobrain.sheet import Sheet
from topobrain.stats import morans_i
from topobrain.stats.components import principal_components
from topobrain.stimuli import StimulusSet

SHEET = Sheet.grid(12, 12, wrapped=True)
QUICK = {"n_null": 99}


def shown(n, **columns):
    return StimulusSet([f"sentence number {i}" for i in range(n)], columns or None, name="toy")


def planted(n=80, noise=0.3, sheet=SHEET, seed=0):
    """Return responses (stimulus, unit) with two strong components whose weights are smooth over the sheet."""
    rng = np.random.default_rng(seed)
    maps = sheet.smooth(rng.standard_normal((2, sheet.n_units)), 4.0)
    maps /= np.linalg.norm(maps, axis=1, keepdims=True)
    scores = rng.standard_normal((n, 2)) * [12.0, 7.0]
    return scores @ maps + noise * rng.standard_normal((n, sheet.n_units)), maps


def acts(values, sheets=None, stimuli=None, **provenance):
    layers = values if isinstance(values, dict) else {"layer": values}
    first = next(iter(layers.values()))
    return Activations.from_arrays(
        layers, stimuli or shown(len(first)), sheets=sheets or dict.fromkeys(layers, SHEET), provenance=provenance
    )


def test_components_are_those_of_each_layer_by_itself():
    first, second = planted(seed=1)[0], planted(seed=2)[0]
    found = components(acts({"a": first, "b": second}), n_components=3, scale=True, n_null=0)
    for row, (layer, values) in enumerate((("a", first), ("b", second))):
        alone = principal_components(values.astype(np.float32), 3, scale=True)
        assert found.weights(layer) == pytest.approx(alone.weights, abs=1e-12)
        assert found.data["score"].values[row] == pytest.approx(alone.scores, abs=1e-12)
        assert found.data["explained"].values[row] == pytest.approx(alone.explained, abs=1e-12)
    assert found.layers == ["a", "b"]
    assert found.labels("unit_layer")[[0, -1]].tolist() == ["a", "b"]
    only = components(acts({"a": first, "b": second}), layers="b", n_components=3, scale=True, n_null=0)
    assert only.weights("b") == pytest.approx(found.weights("b"), abs=1e-12)
    assert only.data.sizes["unit"] == 144


def test_planted_maps_are_found_and_are_smooth():
    values, maps = planted()
    table = components(acts(values), n_components=4, **QUICK).summary()
    weights = components(acts(values), n_components=2, n_null=0).weights("layer")
    basis = np.linalg.qr(maps.T)[0]  # the two planted maps overlap a little
    assert (np.linalg.norm(weights @ basis, axis=1) > 0.99).all()
    assert table["smoothness"][:2].tolist() == pytest.approx(morans_i(weights, SHEET).tolist(), abs=1e-12)
    assert (table["smoothness_p"][:2] == 0.01).all()
    assert (table["smoothness_corrected"][:2] > 0.5).all()
    assert (table["agreement"][:2] > 0.9).all()
    assert (table["agreement_p"][:2] < 0.02).all()
    assert set(table["agreement_of"]) == {"torus"}
    # what is left is white noise over the sheet
    assert (table["smoothness_corrected"][2:].abs() < 0.25).all()
    assert table["explained_so_far"].iloc[-1] == pytest.approx(table["explained"].sum())


def test_shuffled_units_keep_scores_and_lose_smoothness():
    values, _ = planted()
    order = np.random.default_rng(1).permutation(144)
    plain, shuffled = (components(acts(v), n_components=2, **QUICK) for v in (values, values[:, order]))
    assert shuffled.data["score"].values == pytest.approx(plain.data["score"].values, abs=1e-6)
    assert shuffled.data["explained"].values == pytest.approx(plain.data["explained"].values, abs=1e-9)
    assert shuffled.weights("layer") == pytest.approx(plain.weights("layer")[:, order], abs=1e-6)
    table = shuffled.summary()
    assert (table["smoothness_p"] > 0.05).all()
    assert (table["smoothness_corrected"].abs() < 0.15).all()
    # other stimuli still give the same maps, wherever the units lie: this is no test of topography
    assert (table["agreement_p"] < 0.02).all()


@pytest.mark.slow
def test_the_torus_null_of_smooth_noise_is_fair():
    """Responses of white noise over stimuli, blurred over the sheet: smooth maps that another half does not repeat."""
    sheet, p, index_p = Sheet.grid(10, 10, wrapped=True), [], []
    for seed in range(60):
        noise = sheet.smooth(np.random.default_rng(seed).standard_normal((40, 100)), 3.0)
        table = components(acts(noise, {"layer": sheet}), n_components=3, n_null=19, seed=seed).summary()
        p.append(table["agreement_p"][0])
        index_p.append(table["smoothness_p"][0])
    assert np.mean(np.array(p) <= 0.05) < 0.14
    assert 0.35 < np.mean(p) < 0.65
    assert np.mean(np.array(index_p) <= 0.05) == 1  # blur alone is smooth: Moran's I cannot tell


def test_rolling_units_over_the_torus_rolls_the_maps_and_changes_no_test():
    values, _ = planted(noise=1.0)
    rolled = np.roll(values.reshape(-1, 12, 12), (5, 2), axis=(1, 2)).reshape(-1, 144)
    plain, moved = (components(acts(v), n_components=3, **QUICK) for v in (values, rolled))
    images = plain.weights("layer").reshape(-1, 12, 12)
    assert moved.weights("layer").reshape(-1, 12, 12) == pytest.approx(np.roll(images, (5, 2), axis=(1, 2)), abs=1e-6)
    for name in ("smoothness", "smoothness_corrected"):
        assert moved.data[name].values[..., 1] == pytest.approx(plain.data[name].values[..., 1], abs=1e-6)
    assert moved.data["smoothness"].values == pytest.approx(plain.data["smoothness"].values, abs=1e-6)


def test_the_order_of_sentences_changes_no_number():
    values, _ = planted(noise=1.0)
    order = np.random.default_rng(4).permutation(len(values))
    stimuli = StimulusSet([f"sentence number {i}" for i in order], {"stimulus": [f"s{i:02d}" for i in order]})
    plain_stimuli = StimulusSet(
        [f"sentence number {i}" for i in range(len(values))], {"stimulus": [f"s{i:02d}" for i in range(len(values))]}
    )
    plain = components(acts(values, stimuli=plain_stimuli), n_components=3, **QUICK)
    moved = components(acts(values[order], stimuli=stimuli), n_components=3, **QUICK)
    assert moved.weights("layer") == pytest.approx(plain.weights("layer"), abs=1e-9)
    assert moved.data["score"].values == pytest.approx(plain.data["score"].values[:, order], abs=1e-9)
    for name in ("smoothness", "smoothness_p", "smoothness_null_mean"):
        assert moved.data[name].values == pytest.approx(plain.data[name].values, abs=1e-9)
    assert moved.ends("layer", 2, 3)["text"].tolist() == plain.ends("layer", 2, 3)["text"].tolist()


def test_groups_of_stimuli_stay_in_one_half():
    # eight passages; the last map differs from passage to passage, and no half knows the other's passages
    rng, sheet = np.random.default_rng(0), Sheet.grid(10, 10, wrapped=True)
    group = np.repeat(np.arange(8), 10)
    own = sheet.smooth(rng.standard_normal((8, 100)), 3.0)
    values = 10 * own[group] + 0.1 * rng.standard_normal((80, 100))
    together = components(acts(values, {"layer": sheet}, shown(80, group=group)), n_components=3, n_null=0)
    apart = components(acts(values, {"layer": sheet}, shown(80)), n_components=3, n_null=0)
    assert together.summary()["agreement"].mean() < apart.summary()["agreement"].mean() - 0.1


def test_layers_without_a_layout_have_components_and_no_smoothness():
    values, _ = planted()
    layers = {"map": values, "bare": values, "none": values[:, :50]}
    with pytest.warns(UserWarning, match="'bare', 'none' have no smoothness: no layout") as told:
        found = components(acts(layers, {"map": SHEET}), n_components=2, **QUICK)
    assert len(told) == 1
    table = found.summary().set_index("layer")
    assert table.loc["bare", ["smoothness", "smoothness_p", "agreement"]].isna().all(axis=None)
    assert table.loc["map", ["smoothness", "smoothness_p", "agreement"]].notna().all(axis=None)
    assert table.loc["bare", "explained"].tolist() == table.loc["map", "explained"].tolist()


def test_open_sheets_have_no_shifts_but_surrogates():
    sheet = Sheet.grid(10, 10)
    values, _ = planted(sheet=sheet)
    table = components(acts(values, {"layer": sheet}), n_components=2, **QUICK).summary()
    assert table["agreement"].isna().all()
    assert (table["smoothness_p"] == 0.01).all()
    found = components(acts(values, {"layer": sheet}), n_components=2, nulls=["torus", "variogram"], **QUICK)
    assert found.summary()["agreement_of"].tolist() == ["variogram"] * 2
    assert (found.summary()["agreement_p"] < 0.05).all()
    assert found.summary()["smoothness"].isna().all()


def test_units_left_out_are_counted_and_change_nothing():
    values, _ = planted()
    spoiled = values.copy()
    spoiled[:, 3], spoiled[5, 7] = 0.1, np.nan
    mask = np.ones(144, dtype=bool)
    mask[20:24] = False
    found = components(acts(spoiled), n_components=3, units=mask, **QUICK)
    out = np.array([3, 7, 20, 21, 22, 23])
    assert np.flatnonzero(np.isnan(found.weights("layer")[0])).tolist() == out.tolist()
    assert found.provenance["components"]["n_left_out"] == {"layer": 6}
    alone = principal_components(np.delete(values.astype(np.float32), out, axis=1), 3)
    assert np.delete(found.weights("layer"), out, axis=1) == pytest.approx(alone.weights, abs=1e-12)
    table = found.summary()
    assert (table["smoothness_p"][:2] == 0.01).all()
    assert table["agreement"].isna().all()  # a torus with holes cannot be shifted


def test_ends_are_the_stimuli_with_the_most_extreme_scores():
    values, _ = planted()
    found = components(acts(values), n_components=2, n_null=0)
    score = found.data["score"].values[0, :, 1]
    ends = found.ends("layer", 2, n=3)
    order = np.argsort(score)
    assert ends.columns.tolist() == ["end", "rank", "stimulus", "text", "score"]
    assert ends["end"].tolist() == ["high"] * 3 + ["low"] * 3
    assert ends["rank"].tolist() == [1, 2, 3, 1, 2, 3]
    assert ends["text"].tolist() == [f"sentence number {i}" for i in [*order[::-1][:3], *order[:3]]]
    assert ends["score"].tolist() == pytest.approx([*score[order[::-1][:3]], *score[order[:3]]])
    assert len(found.ends("layer", 1, n=500)) == 80
    with pytest.raises(InputError, match="components 1 to 2"):
        found.ends("layer", 3)
    with pytest.raises(InputError, match="1 or more"):
        found.ends("layer", 1, 0)
    with pytest.raises(UnknownNameError, match="layer"):
        found.ends("lay", 1)


def test_results_are_saved_and_loaded(tmp_path):
    found = components(acts(planted()[0], model={"name": "toy"}), n_components=2, **QUICK)
    path = found.save(tmp_path / "components.nc")
    again = load_result(path)
    assert isinstance(again, PrincipalComponents)
    assert again.data.equals(found.data)
    assert again.sheet("layer") == SHEET
    assert again.places == "unit"
    assert again.provenance["components"] == found.provenance["components"]
    assert again.provenance["model"] == {"name": "toy"}
    assert not again.simulated
    assert again.summary().equals(found.summary())
    with pytest.raises(InputError, match="weight"):
        PrincipalComponents(found.data.drop_vars("weight"))
    assert topobrain.components is components


def test_layers_of_different_size():
    values, _ = planted(n=30)
    layers, sheets = {"wide": values, "narrow": values[:, :4]}, {"wide": SHEET, "narrow": Sheet.grid(2, 2)}
    found = components(acts(layers, sheets), n_null=0)
    assert found.data.sizes["component"] == 10
    assert np.isfinite(found.data["explained"].values).sum(axis=1).tolist() == [10, 4]
    assert np.isnan(found.weights("narrow")[4:]).all()
    assert found.summary()["explained"].notna().sum() == 14
    with pytest.raises(InputError, match="no component 5"):
        found.ends("narrow", 5)
    with pytest.raises(InputError, match="'narrow' has 4 at most"):
        components(acts(layers, sheets), n_components=5)
    with pytest.raises(InputError, match="29 at most"):
        components(acts(values), n_components=30)


def test_bad_input():
    values, _ = planted(n=30)
    for wrong in (0, 2.0, True):
        with pytest.raises(InputError, match="whole number"):
            components(acts(values), n_components=wrong)
    with pytest.raises(InputError, match="n_null"):
        components(acts(values), n_null=1)
    with pytest.raises(UnknownNameError, match="torus"):
        components(acts(values), nulls=["tors"])
    with pytest.raises(InputError, match="targets="):
        components(acts(values), targets={"roi": "IFG"})
    with pytest.raises(UnknownNameError, match="layer"):
        components(acts(values), layers=["lay"])
    with pytest.raises(InputError, match="0 of its 144 units vary"):
        components(acts(np.ones((10, 144))))
    with pytest.raises(InputError, match="activations"):
        components(values)
    responses = BrainResponses.from_arrays(values, shown(30))
    with pytest.raises(InputError, match="layers= is an option of activations"):
        components(responses, layers="layer")


# brain responses


def test_regions_have_components_without_maps():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((60, 1)) + 0.5 * rng.standard_normal((60, 6))
    roi = ["IFGorb", "IFG", "MFG", "AntTemp", "PostTemp", "network"]
    with pytest.warns(UserWarning, match="'group' have no smoothness: nothing says where"):
        found = components(BrainResponses.from_arrays(values, shown(60), roi=roi))
    assert found.data.sizes["component"] == 6
    assert found.layers == ["group"]
    assert found.places == "voxel"
    assert found.labels("roi").tolist() == roi
    assert (found.weights("group")[0] > 0).all()
    assert found.summary()["smoothness"].isna().all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(InputError, match="'group' has 6 at most"):
            components(BrainResponses.from_arrays(values, shown(60), roi=roi), n_components=7)
        one = components(BrainResponses.from_arrays(values[:, :1], shown(60)))
    assert one.data["explained"].values.tolist() == [[1.0]]


def test_a_region_that_is_the_sum_of_others_adds_no_component():
    values = np.random.default_rng(0).standard_normal((40, 5))
    responses = BrainResponses.from_arrays(np.hstack([values, values.mean(axis=1, keepdims=True)]), shown(40))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, asked = components(responses), components(responses, n_components=6)
    assert found.data.sizes["component"] == 5
    assert found.data["explained"].values.sum() == pytest.approx(1)
    assert np.isnan(asked.data["explained"].values[0]).tolist() == [False] * 5 + [True]
    with pytest.raises(InputError, match="no component 6"):
        asked.ends("group", 6)


def on_cortex(n=60, noise=0.3, seed=0, shuffled=False, sides=("left", "right")):
    """Return responses of a patch of fsaverage5 on each side with one smooth component, vertices in no order."""
    rng, values, vertices, hemisphere = np.random.default_rng(seed), [], [], []
    score = rng.standard_normal((n, 1))
    for side, centre in zip(sides, (2000, 3100), strict=False):
        surface = load_surface(f"fsaverage5-{side}")
        near = rng.permutation(np.argsort(surface.geodesic_distances([centre])[0])[:150])
        distance = surface.geodesic_distances(near, limit=60.0)[:, near]
        kernel = np.exp(-((distance / 15) ** 2))
        field = kernel @ rng.standard_normal(150)
        values.append(score @ field[None] + noise * field.std() * rng.standard_normal((n, 150)))
        vertices.append(near)
        hemisphere += [side] * 150
    both = np.concatenate(values, axis=1)
    if shuffled:
        both = both[:, rng.permutation(both.shape[1])]
    responses = BrainResponses.from_arrays(
        both, shown(n), voxel_coords={"vertex": np.concatenate(vertices), "hemisphere": np.array(hemisphere, object)}
    )
    return on_surface(responses, {"left": 10242, "right": 10242})


@pytest.mark.slow
def test_vertices_are_neighbours_on_the_sphere():
    responses = on_cortex()
    found = components(responses, n_components=2, n_null=49)
    assert found.provenance["components"]["neighbours"] == {"group": "the 6 nearest voxels, sphere of fsaverage5"}
    table = found.summary()
    assert table["smoothness_p"][0] == 0.02
    assert table["smoothness_corrected"][0] > 0.6
    assert table["agreement"][0] > 0.95
    assert table["agreement_p"][0] <= 0.04
    assert table["agreement_of"][0] == "variogram"
    assert table["smoothness_p"][1] > 0.02  # white noise
    # on the mesh itself, with values at the left vertices only, it is much the same
    left = components(on_cortex(sides=("left",)), n_components=1, n_null=0)
    whole = np.full(10242, np.nan)
    whole[left.data["vertex"].values] = left.weights("group")[0]
    assert left.summary()["smoothness"][0] == pytest.approx(morans_i(whole, load_surface("fsaverage5-left")), abs=0.03)
    shuffled = components(on_cortex(shuffled=True), n_components=1, nulls="layout", n_null=49).summary()
    assert shuffled["smoothness_p"][0] > 0.05
    assert shuffled["explained"][0] == pytest.approx(table["explained"][0], abs=1e-9)


@pytest.mark.slow
def test_each_subject_of_the_simulated_cohort(tmp_path):
    cohort = simulate_cohort(load_sentences().take(range(80)), n_subjects=2, voxels_per_roi=15)
    values = cohort.values.copy()
    values[0, 3] = np.nan
    cohort = BrainResponses(cohort.data.assign(value=(("stimulus", "voxel"), values)))
    found = components(cohort, n_components=2, nulls=["layout"], **QUICK)
    assert found.layers == cohort.subjects
    assert found.simulated
    fields = found.provenance["components"]
    assert fields["n_left_out"] == dict(zip(cohort.subjects, [1, 0], strict=True))
    assert set(fields["neighbours"].values()) == {"the 6 nearest voxels, x_mm y_mm z_mm"}
    assert np.isnan(found.weights(cohort.subjects[0])[:, 3]).all()
    assert (found.summary()["smoothness_p"] == 0.01).all()
    again = load_result(found.save(tmp_path / "c.nc"))
    assert again.weights(cohort.subjects[1]).shape == (2, found.data.sizes["voxel"] // 2)
    assert len(again.ends(cohort.subjects[1], 1)) == 10
    one = components(cohort, n_components=2, targets={"subject": cohort.subjects[1]}, n_null=0, nulls=["layout"])
    assert one.weights(cohort.subjects[1]) == pytest.approx(found.weights(cohort.subjects[1]))
    assert one.data["smoothness"].values[0] == pytest.approx(found.data["smoothness"].values[1])


def test_voxels_of_a_volume_have_the_nearest_ones_for_neighbours():
    rng, side = np.random.default_rng(0), 6
    i, j, k = (axis.ravel() for axis in np.indices((side, side, side)))
    field = np.sin(i / 2) + np.cos(j / 2) + k / 3
    values = rng.standard_normal((50, 1)) * field + 0.2 * rng.standard_normal((50, side**3))
    responses = BrainResponses.from_arrays(values, shown(50), voxel_coords={"i": i, "j": j, "k": k})
    responses = BrainResponses(responses.data.assign_attrs(affine=np.diag([2.0, 2, 2, 1]).ravel(), shape=[side] * 3))
    found = components(responses, n_components=1, nulls="layout", **QUICK).summary()
    assert found["smoothness_p"][0] == 0.01
    assert found["smoothness"][0] > 0.8
