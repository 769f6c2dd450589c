"""The verb `spatial_alignment`: subjects, controls, places of voxels, and what it refuses."""

import numpy as np
import pytest

from topobrain._checks import InputError, UnknownNameError
from topobrain.activations import Activations
from topobrain.alignment import align
from topobrain.alignment.cortical_places import voxel_places
from topobrain.alignment.spatial import SpatialAlignment, spatial_alignment
from topobrain.alignment.spatial_scoring import Brain
from topobrain.brain_files.places import in_volume, on_surface
from topobrain.data.surfaces import load_surface
from topobrain.encoding.cross_validation import make_design
from topobrain.responses import BrainResponses
from topobrain.results import load_result
from topobrain.sheet import Sheet
from topobrain.stats.folds import make_folds
from topobrain.stats.planted_alignment import planted_alignment
from topobrain.stats.sheet_to_cortex import induced_orders, sheet_to_cortex_score
from topobrain.stimuli import StimulusSet

SHEET, N, V = Sheet.grid(9, 9, wrapped=True), 75, 40
QUICK = {"n_null": 39, "n_bootstrap": 60}
SHOWN = StimulusSet([f"sentence {i}" for i in range(N)])


def planted(kind="topographic", **options):
    return planted_alignment(SHEET, kind, **{"n_stimuli": N, "n_voxels": V, **options})


def activations(*sides, sheets=SHEET):
    layers = {f"layer{i}": side.X for i, side in enumerate(sides)}
    return Activations.from_arrays(layers, SHOWN, sheets=dict.fromkeys(layers, sheets) if sheets else None)


def in_mm(places):
    return {f"{axis}_mm": places[:, i] for i, axis in enumerate("xyz")}


def responses(*sides, **options):
    places = np.concatenate([side.places for side in sides])
    subject = np.repeat([f"sub-{i}" for i in range(1, len(sides) + 1)], [len(side.places) for side in sides])
    given = {"subject": subject.tolist(), "voxel_coords": in_mm(places), "provenance": {"simulated": True}, **options}
    return BrainResponses.from_arrays(np.concatenate([side.Y for side in sides], axis=1), SHOWN, **given)


CLEAR = {"unit_noise": 3.0, "voxel_noise": 1.5}


@pytest.fixture(scope="module")
def found():
    one, two, shuffled = planted(**CLEAR), planted(voxel_noise=2.0, unit_noise=3.0), planted("shuffled units", **CLEAR)
    brain = responses(one, two, ceiling=0.6)
    return spatial_alignment(
        activations(one, shuffled), brain, controls={"twin's": activations(shuffled, one)}, **QUICK
    )


@pytest.mark.slow
def test_topographic_alignment_is_found_and_shuffled_units_are_not(found):
    table = found.summary().set_index("layer")
    assert table.loc["layer0", ["p", "p_max", "p_units", "p_voxels"]].tolist() == [1 / 40] * 4
    assert table.loc["layer0", "excess"] > 0.04
    assert table.loc["layer0", "smoothness_p"] < 0.01
    assert table.loc["layer1", "p"] > 0.05
    assert table.loc["layer1", "smoothness_p"] > 0.05
    assert (table["low"] < table["r"]).all()
    assert (table["r"] < table["high"]).all()
    np.testing.assert_allclose(table["normalized"], table["r"] / 0.6)
    # scores that know no places are the same for both
    np.testing.assert_allclose(found.data["component_r"][0], found.data["component_r"][1], atol=1e-6)


def test_each_subject_is_scored_by_itself_and_kept(found):
    model, design = activations(planted(**CLEAR)), make_folds(range(N), 5)
    sides = planted(**CLEAR), planted(voxel_noise=2.0, unit_noise=3.0)
    alone = [
        sheet_to_cortex_score(
            np.asarray(model.values("layer0"), dtype=float),
            SHEET,
            side.Y,
            side.places,
            stimulus_folds=design,
            n_null=39,
        )
        for side in sides
    ]
    data = found.data
    np.testing.assert_allclose(data["subject_r"][0], [one.r for one in alone], atol=1e-9)
    np.testing.assert_allclose(data["subject_p"][0], [one.p for one in alone])
    assert data["r"].values[0] == pytest.approx(np.mean([one.r for one in alone]), abs=1e-9)
    for side in ("units", "voxels"):
        null = np.mean([getattr(one, f"null_{side}") for one in alone], axis=0)
        np.testing.assert_allclose(data[f"null_{side}"][0], null, atol=1e-9)
    np.testing.assert_allclose(data["voxel_r"][0], np.concatenate([one.voxel_r for one in alone]), atol=1e-9)
    assert found.subjects == ["sub-1", "sub-2"]


def test_controls_stand_beside_the_model(found):
    assert found.controls == ["twin's"]
    data = found.data
    # the control has the model's layers in the other order
    for name in ("r", "excess", "p", "smoothness", "smoothness_p"):
        np.testing.assert_allclose(data[f"control_{name}"][0, ::-1], data[name])
    low, difference, high = (data[f"control_difference{end}"].values[0] for end in ("_low", "", "_high"))
    assert difference[0] == pytest.approx(data["excess"].values[0] - data["excess"].values[1])
    assert difference[0] > 0 > difference[1]
    assert (low < difference).all()
    assert (difference < high).all()
    np.testing.assert_allclose(low, -high[::-1], atol=1e-6)  # stimuli are drawn for both at once
    assert {"excess_twin's", "difference_low_twin's"} <= set(found.summary().columns)


def test_components_table(found):
    table = found.smoothness()
    assert table[["layer", "component"]].values.tolist() == [[f"layer{i}", k] for i in range(2) for k in (1, 2, 3)]
    first = table.iloc[0]
    assert first["unit_smoothness"] > 0.3
    assert 0 < first["smoothness"] < 1
    assert first["smoothness_p"] <= max(first["unit_smoothness_p"], first["voxel_smoothness_p"])


@pytest.mark.slow
def test_result_survives_the_disk(found, tmp_path):
    again = load_result(found.save(tmp_path / "spatial.nc"))
    assert isinstance(again, SpatialAlignment)
    assert again.simulated
    assert again.summary().equals(found.summary())
    fields = again.provenance["spatial_alignment"]
    assert (fields["n_null"], fields["places"], fields["sheet_modes_used"]) == (
        39,
        "x_mm y_mm z_mm",
        {"layer0": 9, "layer1": 9},
    )


def test_maps_of_an_alignment_are_taken():
    one = planted()
    model, brain = activations(one), responses(one)
    alignment = align(model, brain, n_components=4, n_permutations=0, n_bootstrap=0)
    given = spatial_alignment(model, brain, alignment=alignment, n_components=2, n_null=2, n_bootstrap=0)
    own = spatial_alignment(model, brain, n_components=2, n_null=2, n_bootstrap=0)
    for name in ("component_r", "smoothness", "voxel_smoothness"):
        np.testing.assert_allclose(given.data[name], own.data[name], atol=1e-6)
    assert np.isnan(given.data["low"]).all()
    whole = align(model, brain, method="rsa", n_permutations=0, n_bootstrap=0)
    for wrong, message in (
        ({"alignment": whole}, "no weight maps"),
        ({"alignment": alignment, "n_components": 5}, "the alignment has 4"),
        ({"alignment": alignment.data}, "got Dataset"),
    ):
        with pytest.raises(InputError, match=message):
            spatial_alignment(model, brain, **wrong, **QUICK)
    with pytest.raises(InputError, match="lacks the layers layer1"):
        spatial_alignment(activations(one, one), brain, alignment=alignment, **QUICK)
    with pytest.raises(InputError, match="same targets"):
        spatial_alignment(model, responses(one, one), alignment=alignment, **QUICK)


def test_alignments_of_another_model_brain_or_folds_are_refused():
    one, other = planted(), planted(seed=1)
    mask = np.arange(81) != 5
    alignment = align(activations(one), responses(one), n_components=2, n_permutations=0, n_bootstrap=0)
    for model, brain, options, message in (
        (other, one, {}, "other activations of layer 'layer0'"),
        (one, other, {}, "other responses"),
        (one, one, {"n_folds": 4}, "other folds"),
        (one, one, {"units": mask}, "other units="),
    ):
        with pytest.raises(InputError, match=message):
            spatial_alignment(activations(model), responses(brain), alignment=alignment, **options, **QUICK)
    some = align(activations(one), responses(one), units=mask, n_components=2, n_permutations=0, n_bootstrap=0)
    made = spatial_alignment(activations(one), responses(one), alignment=some, units=mask, n_null=2, n_bootstrap=0)
    assert np.isfinite(made.data["smoothness"]).all()


def test_controls_are_fitted_as_the_alignment_was():
    one = planted()
    model, brain = activations(one), responses(one)
    alignment = align(model, brain, method="cca", n_components=3, n_permutations=0, n_bootstrap=0)
    made = spatial_alignment(
        model, brain, alignment=alignment, controls={"itself": model}, n_null=2, n_bootstrap=0
    ).data
    np.testing.assert_allclose(made["control_smoothness"].values[0], made["smoothness"], atol=1e-6)


def test_subjects_are_shuffled_together_whatever_voxels_they_lack():
    one, lacks = planted(), np.array([3, 17, 30])
    keep = np.setdiff1d(np.arange(V), lacks)
    part = one._replace(Y=one.Y[:, keep], places=one.places[keep])
    apart = one._replace(places=one.places + 500.0)

    def orders(*sides, **options):
        brain = responses(*sides, **options)
        design = make_design(brain, np.arange(N), "auto", n_folds=5, gap=None)
        return Brain.of(brain, design).orders(50, within_regions="roi" in options, seed=0)

    whole, some = orders(one, part)
    np.testing.assert_array_equal(some, induced_orders(whole, keep))
    np.testing.assert_array_equal(*orders(one, one))
    own, other = orders(one, apart)
    np.testing.assert_array_equal(own, whole)  # one subject is shuffled as it is alone
    assert (own == other).mean() < 0.1
    labels = np.where(one.places[:, 0] > 0, "right", "left")
    whole, some = orders(one, part, roi=[*labels, *labels[keep]])
    assert (labels[whole] == labels).all()
    assert (labels[keep][some] == labels[keep]).all()


def test_subjects_count_alike():
    one, rough = planted(**CLEAR), planted("shuffled voxels", **CLEAR)
    given = {"n_null": 2, "n_bootstrap": 0}
    there, back = (
        spatial_alignment(activations(one), responses(*two), **given) for two in ((one, rough), (rough, one))
    )
    assert there.data["voxel_smoothness_p"].values[0, 0, 0] < there.data["voxel_smoothness_p"].values[0, 1, 0]
    np.testing.assert_allclose(there.data["smoothness_p"], back.data["smoothness_p"])


def test_ceilings_are_those_of_each_subject():
    one = planted()
    made = spatial_alignment(
        activations(one), responses(one, one, ceiling=np.repeat([0.4, 0.8], V)), n_null=2, n_bootstrap=0
    ).data
    assert made["ceiling"].values.tolist() == pytest.approx([0.4, 0.8])
    np.testing.assert_allclose(made["normalized"], made["r"] / 0.6, rtol=1e-6)


def test_p_max_is_against_the_best_layer(found):
    data, expected = found.data, []
    for side in ("units", "voxels"):
        null = data[f"null_{side}"].values
        above, best = data["r"].values - null.mean(axis=1), (null - null.mean(axis=1, keepdims=True)).max(axis=0)
        expected.append([(1 + (best >= value - 1e-12).sum()) / 40 for value in above])
    np.testing.assert_allclose(data["p_max"], np.max(expected, axis=0))
    assert data["p_max"].values[1] > data["p"].values[1]


def test_units_of_controls():
    one, mask = planted(), np.arange(81) % 3 > 0
    given = {"units": mask, "n_null": 2, "n_bootstrap": 0}
    made = spatial_alignment(activations(one), responses(one), controls={"itself": activations(one)}, **given)
    assert made.data["control_difference"].values.tolist() == [[0.0]]
    named = Activations.from_arrays({"other": one.X}, SHOWN, sheets={"other": SHEET})
    with pytest.warns(UserWarning, match="'named', which keeps all its units"):
        spatial_alignment(activations(one), responses(one), controls={"named": named}, **given)


def test_units_that_are_asked_for():
    one = planted()
    mask = np.random.default_rng(0).random(81) < 0.7
    made = spatial_alignment(activations(one), responses(one), units=mask, n_null=9, n_bootstrap=0)
    assert made.provenance["spatial_alignment"]["units_used"] == {"layer0": int(mask.sum())}
    assert made.data["r"].values[0] > made.data["null_units"].values.max()


def test_voxels_without_a_place_or_a_value_are_left_out_and_counted():
    one = planted()
    broken = one._replace(Y=one.Y.copy(), places=one.places.copy())
    broken.Y[3, 5] = np.nan
    broken.places[7] = np.nan
    made = spatial_alignment(activations(one), responses(broken), n_null=2, n_bootstrap=0)
    assert np.flatnonzero(np.isnan(made.data["voxel_r"].values[0])).tolist() == [5, 7]
    assert made.provenance["spatial_alignment"]["n_voxels_left_out"] == 2
    assert made.data["n_voxels"].values.tolist() == [V - 2]


def test_passages_stay_whole_and_a_group_a_fold_gives_an_interval_over_folds():
    one = planted()
    groups = np.repeat(np.arange(5), 15)
    shown = StimulusSet(SHOWN.items, table={"group": groups})
    brain = BrainResponses.from_arrays(one.Y, shown, voxel_coords=in_mm(one.places))
    made = spatial_alignment(activations(one), brain, n_null=9, n_bootstrap=50)
    assert made.provenance["spatial_alignment"]["n_groups"] == 5
    assert made.data["draws"].shape == (1, 0)
    assert made.data["low"].values[0] < made.data["r"].values[0] < made.data["high"].values[0]


def test_regions_as_wholes_are_in_the_null_where_asked():
    one = planted()
    roi = np.where(one.places[:, 0] > 0, "right", "left").tolist()
    plain, within = (
        spatial_alignment(activations(one), responses(one, roi=roi), within_regions=choice, **QUICK).data["null_voxels"]
        for choice in (False, True)
    )
    assert within.values.mean() > plain.values.mean()


def test_progress_counts_layers_of_all_models():
    one, seen = planted(), []
    spatial_alignment(
        activations(one, one), responses(one), controls={"self": activations(one, one)}, n_null=2, n_bootstrap=0,
        progress=lambda *done: seen.append(done),
    )  # fmt: skip
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_layers_and_controls_without_a_layout_are_named():
    one = planted()
    brain = responses(one)
    bare = activations(one, one, sheets=None)
    with pytest.raises(InputError, match=r"layer 'layer0' of the model has no layout.*Sheet\.for_width\(81\)"):
        spatial_alignment(bare, brain, **QUICK)
    still = one._replace(X=np.ones_like(one.X))
    with pytest.raises(InputError, match="layer 'layer1' of the model answers every stimulus alike"):
        spatial_alignment(activations(one, still), brain, **QUICK)
    with pytest.raises(InputError, match="layer 'layer0' of control 'bare' has no layout"):
        spatial_alignment(activations(one, one), brain, controls={"bare": bare}, **QUICK)
    other = Activations.from_arrays(dict.fromkeys("abc", one.X), SHOWN)
    with pytest.raises(InputError, match="control 'other' has the layers a, b, c, the model layer0"):
        spatial_alignment(activations(one), brain, controls={"other": other}, **QUICK)
    mixed = Activations.from_arrays({"a": one.X, "b": one.X}, SHOWN, sheets={"b": SHEET})
    assert spatial_alignment(mixed, brain, layers="b", n_null=2, n_bootstrap=0).layers == ["b"]


def test_regions_are_no_voxels():
    one = planted(n_voxels=5)
    with pytest.raises(InputError, match=r"subject 'sub-1' has 5 voxels .* needs 20"):
        spatial_alignment(activations(one), responses(one), **QUICK)
    table = BrainResponses.from_arrays(one.Y, SHOWN, roi=["IFGorb", "IFG", "MFG", "AntTemp", "PostTemp"])
    with pytest.raises(InputError, match=r"Tuckute et al\. \(2024\), have no places"):
        spatial_alignment(activations(one), table, **QUICK)
    few = responses(planted(), one)
    with pytest.raises(InputError, match="'sub-2' has 5 voxels"):
        spatial_alignment(activations(one), few, **QUICK)
    kept = spatial_alignment(activations(one), few, targets={"subject": "sub-1"}, n_null=2, n_bootstrap=0)
    assert kept.subjects == ["sub-1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_null": 1}, "n_null must be a whole number of 2"),
        ({"n_bootstrap": -1}, "n_bootstrap"),
        ({"n_null": 2.5}, "n_null"),
        ({"alphas": 0.1}, "above 0"),
        ({"n_sheet_modes": 60}, "n_sheet_modes"),
        ({"folds": make_folds(range(N), 38)}, "at least 3"),
        ({"controls": {"c": 3}}, "control 'c' must be Activations"),
        ({"n_components": 41}, "component"),
    ],
)
def test_options_that_cannot_be(options, message):
    one = planted()
    with pytest.raises(InputError, match=message):
        spatial_alignment(activations(one), responses(one), **{**QUICK, **options})


def test_layers_and_sides_that_are_not_there():
    one = planted()
    with pytest.raises(UnknownNameError, match="layer0"):
        spatial_alignment(activations(one), responses(one), layers=["layer9"], **QUICK)
    with pytest.raises(InputError, match="activations come first"):
        spatial_alignment(responses(one), activations(one), **QUICK)
    other = Activations.from_arrays(
        {"layer0": one.X}, StimulusSet([f"other {i}" for i in range(N)]), sheets={"layer0": SHEET}
    )
    with pytest.raises(InputError, match="control 'c'"):
        spatial_alignment(activations(one), responses(one), controls={"c": other}, **QUICK)


def placed(n=30, **coords):
    values = np.random.default_rng(0).standard_normal((4, n))
    return BrainResponses.from_arrays(values, StimulusSet(list("abcd")), voxel_coords=coords)


def test_vertices_of_a_known_surface_lie_on_its_sphere():
    vertex = np.arange(0, 300, 10)
    side = np.array(["left"] * 15 + ["right"] * 15, dtype=object)
    where = voxel_places(on_surface(placed(vertex=vertex, hemisphere=side), {"left": 10242, "right": 10242}))
    assert where.source == "sphere of fsaverage5"
    sphere = load_surface("fsaverage5-left").sphere
    gap = np.linalg.norm(where.coordinates[:15, None] - where.coordinates[None, :15], axis=2)
    expected = np.linalg.norm(sphere[vertex[:15], None] - sphere[None, vertex[:15]], axis=2)
    np.testing.assert_allclose(gap, expected, atol=1e-6)
    across = np.linalg.norm(where.coordinates[:15, None] - where.coordinates[None, 15:], axis=2)
    assert across.min() > 500
    region = on_surface(placed(vertex=np.where(vertex > 100, -1, vertex), hemisphere=side), {"left": 10242})
    assert np.isnan(voxel_places(region).coordinates).any(axis=1).sum() == (vertex > 100).sum()
    with pytest.raises(InputError, match="vertex 2590 lies outside the left hemisphere's 2,562 vertices of fsaverage4"):
        voxel_places(on_surface(placed(vertex=vertex[::-1] + 2300, hemisphere=side), {"left": 2562, "right": 2562}))
    short = np.where(side == "left", "lh", "rh").astype(object)
    with pytest.raises(InputError, match="hemispheres 'lh', 'rh': expected 'left'"):
        voxel_places(on_surface(placed(vertex=vertex, hemisphere=short), {"left": 10242}))
    with pytest.raises(InputError, match="outside the right hemisphere"):
        voxel_places(on_surface(placed(vertex=vertex + 10000, hemisphere=side), {"left": 10242}))


def test_voxels_of_a_volume_lie_where_the_affine_says():
    i, j, k = np.random.default_rng(0).integers(0, 20, (3, 30))
    affine = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])
    where = voxel_places(in_volume(placed(i=i, j=j, k=k), affine, (20, 20, 20)))
    np.testing.assert_allclose(where.coordinates, np.stack([90 - 2 * i, 2 * j - 126, 3 * k - 72], axis=1))
    assert where.source == "voxels of a volume"


def test_vertices_of_an_unknown_surface():
    vertex, side = np.arange(30), np.array(["left"] * 30, dtype=object)
    brain = on_surface(placed(vertex=vertex, hemisphere=side), {"left": 5000})
    with pytest.raises(InputError, match="known: fsaverage3"):
        voxel_places(brain)
    places = np.random.default_rng(0).standard_normal((30, 3))
    known = on_surface(placed(vertex=vertex, hemisphere=side, **in_mm(places)), {"left": 5000})
    np.testing.assert_array_equal(voxel_places(known).coordinates, places)
