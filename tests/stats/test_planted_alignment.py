"""The simulation of planted alignments holds what it promises."""

import numpy as np
import pytest

from topobrain._checks import InputError, UnknownNameError
from topobrain.sheet import Sheet
from topobrain.stats import morans_i
from topobrain.stats.planted_alignment import planted_alignment
from topobrain.stats.spatial_modes import PlaceGraph

SHEET = Sheet.grid(14, 14, wrapped=True)


def smooth(found, sheet=SHEET):
    return morans_i(found.unit_fields, sheet).mean(), morans_i(found.voxel_fields, PlaceGraph(found.places)).mean()


def test_activations_and_responses_are_scores_times_fields_and_noise():
    found = planted_alignment(SHEET, n_stimuli=400, n_voxels=200, n_latents=5, unit_noise=0, voxel_noise=0)
    np.testing.assert_allclose(found.X, found.x_scores @ found.unit_fields / np.sqrt(5), atol=1e-12)
    np.testing.assert_allclose(found.Y, found.y_scores @ found.voxel_fields / np.sqrt(5), atol=1e-12)
    assert np.sqrt((found.X**2).mean()) == pytest.approx(1, abs=0.1)
    assert np.sqrt((found.Y**2).mean()) == pytest.approx(1, abs=0.1)
    noisy = planted_alignment(SHEET, n_stimuli=400, n_voxels=200, n_latents=5, unit_noise=2, voxel_noise=3)
    assert (noisy.X - found.X).std() == pytest.approx(2, rel=0.02)
    assert (noisy.Y - found.Y).std() == pytest.approx(3, rel=0.02)


def test_only_shuffling_makes_a_side_rough():
    sides = {
        kind: smooth(planted_alignment(SHEET, kind))
        for kind in (
            "topographic",
            "unrelated",
            "blurred",
            "blurred signal",
            "unmatched maps",
            "shuffled units",
            "shuffled voxels",
        )
    }
    for kind, (unit, voxel) in sides.items():
        assert (unit > 0.6) == (kind != "shuffled units"), kind
        assert (voxel > 0.5) == (kind != "shuffled voxels"), kind


def tuning_match(found):
    tuning = [fields / np.linalg.norm(fields, axis=0) for fields in (found.unit_fields, found.voxel_fields)]
    return tuning[1].T @ tuning[0]


def test_voxels_are_tuned_as_units_at_corresponding_places():
    found = planted_alignment(SHEET, n_latents=30)
    match = tuning_match(found)
    for kind in ("blurred signal", "unmatched maps"):
        assert tuning_match(planted_alignment(SHEET, kind, n_latents=30)).max(axis=1).mean() < 0.7, kind
    best = match.argmax(axis=1)
    assert match.max(axis=1).mean() > 0.9
    beside = PlaceGraph(found.places, 4).neighbours().tocoo()
    gap = SHEET.distances()[best[beside.row], best[beside.col]]
    assert gap.mean() < 2.5 < 0.6 * SHEET.distances().mean()


def test_shuffled_kinds_are_the_same_units_and_voxels_in_other_places():
    plain = planted_alignment(SHEET)
    for kind, side in (("shuffled units", "X"), ("shuffled voxels", "Y")):
        other = planted_alignment(SHEET, kind)
        same = "Y" if side == "X" else "X"
        np.testing.assert_array_equal(getattr(other, same), getattr(plain, same))
        assert not np.array_equal(getattr(other, side), getattr(plain, side))
        columns = [set(map(bytes, np.ascontiguousarray(getattr(one, side).T))) for one in (plain, other)]
        assert columns[0] == columns[1]


def test_unrelated_scores_and_the_same_maps():
    plain, other = planted_alignment(SHEET), planted_alignment(SHEET, "unrelated")
    np.testing.assert_array_equal(other.X, plain.X)
    np.testing.assert_array_equal(other.voxel_fields, plain.voxel_fields)
    assert np.abs(np.corrcoef(other.x_scores.T, other.y_scores.T)[:6, 6:]).max() < 0.25


def test_seed_decides_everything_and_the_global_state_is_left_alone():
    before = np.random.get_state()[1].tobytes()  # noqa: NPY002
    a, b, c = (planted_alignment(SHEET, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(a.X, b.X)
    assert not np.array_equal(a.X, c.X)
    assert np.random.get_state()[1].tobytes() == before  # noqa: NPY002


@pytest.mark.parametrize("sheet", [Sheet.for_width(97), Sheet.grid(6, 24), Sheet.grid(8, 16, wrapped=True)])
def test_other_sheets(sheet):
    found = planted_alignment(sheet, n_stimuli=20, n_voxels=37)
    assert found.X.shape == (20, sheet.n_units)
    assert found.places.shape == (37, 3)
    assert smooth(found, sheet)[0] > 0.5
    assert np.isfinite(found.X).all()
    assert np.isfinite(found.Y).all()


def test_what_cannot_be_planted():
    with pytest.raises(InputError, match="layout"):
        planted_alignment(Sheet.none(50))
    with pytest.raises(UnknownNameError, match="topographic"):
        planted_alignment(SHEET, "topografic")
    with pytest.raises(InputError, match="smoothness"):
        planted_alignment(SHEET, smoothness=0)
