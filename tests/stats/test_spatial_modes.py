"""Smooth modes of sheets and of the cortex: orthonormal, unmoved by shifts and mirrors, exact where they can be."""

import numpy as np
import pytest

from topobrain._checks import InputError
from topobrain.sheet import Sheet
from topobrain.stats import spatial_modes
from topobrain.stats.spatial_modes import PlaceGraph, cortex_modes, sheet_modes


def projector(modes):
    q = np.linalg.qr(modes)[0]
    return q @ q.T


@pytest.mark.parametrize(
    ("sheet", "asked", "found"),
    [
        (Sheet.grid(8, 8, wrapped=True), 9, 9),
        (Sheet.grid(8, 8, wrapped=True), 20, 13),  # the next eight of one frequency would be 21
        (Sheet.grid(8, 8, wrapped=True), 2, 5),  # the lowest frequency is always there
        (Sheet.grid(7, 7), 10, 9),
        (Sheet.grid(4, 4, wrapped=True), 16, 16),
        (Sheet.grid(5, 3, wrapped=True), 15, 15),
        (Sheet.grid(1, 30), 4, 4),
        (Sheet.grid(2, 40, wrapped=True), 6, 5),
        (Sheet.for_width(97), 9, 9),
    ],
)
def test_modes_are_orthonormal_and_whole_shells(sheet, asked, found):
    modes = sheet_modes(sheet, asked)
    assert modes.shape == (sheet.n_units, found)
    np.testing.assert_allclose(modes.T @ modes, np.eye(found), atol=1e-10)
    ones = np.ones(sheet.n_units)
    np.testing.assert_allclose(projector(modes) @ ones, ones, atol=1e-10)


def test_modes_of_a_torus_are_eigenvectors_of_every_smoothing():
    sheet = Sheet.grid(9, 6, wrapped=True)
    smoothing, span = sheet.smoothing(3.0), projector(sheet_modes(sheet, 9))
    np.testing.assert_allclose(smoothing @ span, span @ smoothing, atol=1e-10)
    power = np.sort(np.linalg.eigvalsh(smoothing))[::-1]
    kept = np.sort(np.linalg.eigvalsh(span @ smoothing @ span))[::-1]
    n = round(np.trace(span))
    np.testing.assert_allclose(kept[:n], power[:n], atol=1e-10)  # and no other maps are smoother


@pytest.mark.parametrize("wrapped", [True, False])
def test_span_does_not_change_when_the_sheet_is_mirrored_turned_or_shifted(wrapped):
    sheet = Sheet.grid(8, 8, wrapped=wrapped)
    image = np.arange(64).reshape(8, 8)
    modes = sheet_modes(sheet, 14)
    moves = [image[::-1], image[:, ::-1], image.T, np.rot90(image)]
    if wrapped:
        moves.append(np.roll(image, (3, 5), axis=(0, 1)))
    for move in moves:
        np.testing.assert_allclose(projector(modes[move.ravel()]), projector(modes), atol=1e-10)


def test_units_follow_their_places():
    sheet = Sheet.grid(6, 7)
    order = np.random.default_rng(0).permutation(42)
    np.testing.assert_allclose(
        projector(sheet_modes(sheet.with_places(order), 8)), projector(sheet_modes(sheet, 8)[order]), atol=1e-10
    )


def test_units_left_out_leave_smooth_modes_of_the_rest():
    sheet = Sheet.grid(8, 8, wrapped=True)
    keep = np.random.default_rng(0).random(64) < 0.6
    modes, whole = sheet_modes(sheet, 9, units=keep), sheet_modes(sheet, 9)
    assert modes.shape == (keep.sum(), 9)
    np.testing.assert_allclose(projector(modes), projector(whole[keep]), atol=1e-10)


@pytest.mark.parametrize(
    ("sheet", "n_modes", "units", "message"),
    [
        (Sheet.none(30), 5, None, "Sheet.for_width"),
        (Sheet.grid(3, 3), 1, None, "2 to 9"),
        (Sheet.grid(3, 3), 10, None, "2 to 9"),
        (Sheet.grid(3, 3), 4, np.ones(8, dtype=bool), "True or False for each of 9"),
    ],
)
def test_sheets_that_have_no_such_modes(sheet, n_modes, units, message):
    with pytest.raises(InputError, match=message):
        sheet_modes(sheet, n_modes, units=units)


def patch(n, seed=0):
    return np.random.default_rng(seed).uniform(0, 40, (n, 3)) * [1, 1, 0.2]


def test_cortex_modes_are_the_leading_eigenvectors_of_the_centred_kernel():
    places = patch(90)
    modes = cortex_modes(places, 7)
    assert modes.shape == (90, 7)
    gram = modes.T @ modes
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-8)
    np.testing.assert_allclose(modes[:, 0], 1 / np.sqrt(90))
    squared = ((places[:, None] - places[None]) ** 2).sum(axis=2)
    width = spatial_modes._width(squared, 7)
    centring = np.eye(90) - 1 / 90
    power, vectors = np.linalg.eigh(centring @ np.exp(-squared / (2 * width**2)) @ centring)
    np.testing.assert_allclose(projector(modes[:, 1:]), projector(vectors[:, -6:]), atol=1e-6)
    np.testing.assert_allclose(np.diag(gram)[1:], power[-6:][::-1] / power[-1], rtol=1e-6)
    assert 0.9 <= power[-6:].sum() / power.sum() < 0.91


def test_cortex_modes_do_not_know_where_the_brain_is():
    places = patch(60)
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    moved = places @ turn * 2.5 + [1000, -3000, 20]
    np.testing.assert_allclose(projector(cortex_modes(moved, 6)), projector(cortex_modes(places, 6)), atol=1e-4)


def test_modes_of_many_voxels_are_extended_from_landmarks(monkeypatch):
    places = patch(300)
    exact = cortex_modes(places, 6)
    monkeypatch.setattr(spatial_modes, "LANDMARKS", 80)
    approximate = cortex_modes(places, 6)
    cosines = np.linalg.svd(np.linalg.qr(exact)[0].T @ np.linalg.qr(approximate)[0], compute_uv=False)
    assert cosines.min() > 0.97


def test_two_far_patches_get_modes_of_their_own():
    places = np.concatenate([patch(40), patch(40, 1) + 1000])
    modes = cortex_modes(places, 4)
    step = np.repeat([1.0, -1.0], 40)
    step /= np.linalg.norm(step)
    assert np.linalg.norm(projector(modes) @ step) > 0.999


@pytest.mark.parametrize(
    ("places", "n_modes", "message"),
    [
        (np.zeros((10, 3)), 3, "more than one place"),
        (np.array([[0.0, 0, 0], [1, 1, 1], [np.nan, 0, 0]]), 2, "first is voxel 2"),
        (np.arange(10.0), 2, "coordinates"),
        (np.arange(30.0).reshape(10, 3), 10, "2 to 9"),
        (np.arange(30.0).reshape(10, 3), 1, "2 to 9"),
    ],
)
def test_places_that_make_no_map(places, n_modes, message):
    with pytest.raises(InputError, match=message):
        cortex_modes(places, n_modes)


def test_nearest_voxels_are_neighbours_both_ways():
    places = patch(40)
    graph = PlaceGraph(places, 4).neighbours().toarray()
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance, axis=1)[:, :4]
    expected = np.zeros((40, 40))
    np.put_along_axis(expected, near, 1.0, axis=1)
    np.testing.assert_array_equal(graph, np.maximum(expected, expected.T))


def test_voxels_at_one_place_are_not_their_own_neighbours():
    places = np.repeat(np.arange(6.0)[:, None], 4, axis=0)
    graph = PlaceGraph(places, 3).neighbours()
    assert graph.diagonal().sum() == 0
    assert (graph.sum(axis=1) >= 3).all()


def test_more_neighbours_than_voxels():
    with pytest.raises(InputError, match="1 to 4"):
        PlaceGraph(np.arange(5.0)[:, None], 5)
