from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.gifti import GiftiDataArray, GiftiImage, GiftiMetaData

from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.surface import CorticalMap, Parcels, Surface, space_of


@pytest.fixture(scope="module")
def ball() -> Surface:
    return Surface.icosphere(3)


def patch(side: int = 5) -> Surface:
    """A flat open mesh of side x side places, 1 mm apart."""
    y, x = np.indices((side, side))
    number = np.arange(side * side).reshape(side, side)
    a, b, c, d = number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([b, d, c], -1).reshape(-1, 3)])
    return Surface("patch", np.stack([x, y, 0 * x], -1).reshape(-1, 3).astype(float), faces)


def brute_edges(faces: np.ndarray) -> set[tuple[int, int]]:
    return {tuple(sorted(pair)) for face in faces.tolist() for pair in itertools.combinations(face, 2)}


@pytest.mark.parametrize("subdivisions", [0, 1, 3])
def test_an_icosphere_is_a_closed_sphere_whose_coarser_ones_come_first(subdivisions):
    ball = Surface.icosphere(subdivisions, radius=50.0)
    assert ball.n_vertices == ball.n_units == 10 * 4**subdivisions + 2
    assert ball.n_vertices - len(ball.edges) + len(ball.faces) == 2  # Euler
    assert np.allclose(np.linalg.norm(ball.coordinates, axis=1), 50)
    finer = Surface.icosphere(subdivisions + 1, radius=50.0)
    assert np.allclose(finer.coordinates[: ball.n_vertices], ball.coordinates)
    corners = finer.coordinates[finer.faces]
    outward = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (np.einsum("fi,fi->f", outward, corners.mean(axis=1)) > 0).all()
    assert finer.area() == pytest.approx(4 * np.pi * 50**2, rel=0.3 / 4**subdivisions)


def test_neighbours_are_the_edges_of_the_faces(ball):
    adjacency = ball.neighbours()
    assert (adjacency != adjacency.T).nnz == 0
    assert set(np.unique(adjacency.data)) == {1.0}
    assert adjacency.diagonal().sum() == 0
    assert set(zip(*(axis.tolist() for axis in np.nonzero(np.triu(adjacency.toarray()))), strict=True)) == brute_edges(
        ball.faces
    )
    assert Counter(adjacency.sum(axis=1).astype(int).tolist()) == {5: 12, 6: ball.n_vertices - 12}
    assert ball.neighbours() is adjacency
    with pytest.raises(InputError, match="one neighbourhood"):
        ball.neighbours("rook")


def test_edge_lengths_are_those_of_the_edges():
    mesh = patch()
    lengths = {tuple(edge): length for edge, length in zip(mesh.edges.tolist(), mesh.edge_lengths, strict=True)}
    assert lengths.keys() == brute_edges(mesh.faces)
    assert Counter(np.round(list(lengths.values()), 6).tolist()) == {1.0: 40, round(2**0.5, 6): 16}


def test_geodesics_run_along_the_edges(ball):
    sources = np.array([0, 100, 641])
    found = ball.geodesic_distances(sources)
    unit = ball.coordinates / 100
    along_the_circle = 100 * np.arccos(np.clip(unit[sources] @ unit.T, -1, 1))
    assert (found >= 0.98 * along_the_circle).all()  # chords of edges are a little shorter than arcs
    assert (found <= 1.25 * along_the_circle + 1e-9).all()
    assert found.mean() / along_the_circle.mean() == pytest.approx(1.07, abs=0.01)
    assert np.allclose(ball.distances(), ball.distances().T)
    near = ball.geodesic_distances(sources, limit=30.0)
    assert np.array_equal(near, np.where(found <= 30, found, np.inf))
    flat = patch()
    # The diagonals of the patch run one way only: with them 4 steps of sqrt 2, against them 8 of 1.
    assert flat.geodesic_distances([4])[0, 20] == pytest.approx(4 * 2**0.5)
    assert flat.geodesic_distances([0])[0, 24] == pytest.approx(8.0)
    with pytest.raises(InputError, match="0 to 24"):
        flat.geodesic_distances([25])
    with pytest.raises(InputError, match="vertex numbers"):
        flat.geodesic_distances([0.5])


def test_all_distances_of_a_large_mesh_are_refused():
    with pytest.raises(InputError, match=r"0\.8 GB.*nearest"):
        Surface.icosphere(5).distances()


def test_nearest_equals_sorting_all_distances():
    ball = Surface.icosphere(2)
    every = ball.distances()
    for n_nearest in (2, 20, 162):
        units, distance = ball.nearest(n_nearest)
        assert np.array_equal(units[:, 0], np.arange(162))
        assert np.allclose(distance, np.sort(every, axis=1)[:, :n_nearest], rtol=1e-6)
        assert np.allclose(np.take_along_axis(every, units, axis=1), distance, rtol=1e-6)
    with pytest.raises(InputError, match="between 2 and the 162"):
        ball.nearest(163)


def test_nearest_leaves_the_medial_wall_out_and_goes_round_it():
    ball = Surface.icosphere(2)
    wall = np.abs(ball.coordinates[:, 2]) < 30  # a belt that parts the two poles
    parted = Surface("parted", ball.coordinates, ball.faces, medial_wall=wall)
    units, distance = parted.nearest(60)
    north = ball.coordinates[~wall, 2] > 0
    assert len(units) == (~wall).sum()
    assert np.isinf(distance[:, -1]).all()  # fewer than 60 on one side
    reached = np.isfinite(distance)
    assert (north[units] == north[:, None])[reached].all()
    assert np.array_equal(units, ball.nearest(60, within=~wall).units)


def test_a_part_keeps_edges_without_a_triangle_and_lone_vertices():
    mesh = patch(3)
    part = mesh.restricted(np.array([1, 1, 0, 1, 0, 0, 1, 0, 1], dtype=bool))
    assert part.edges.tolist() == [[0, 1], [0, 2], [1, 2], [2, 3]]  # 3-6 has no triangle left, 8 has no edge
    assert part.neighbours().sum(axis=1).tolist() == [2, 2, 3, 1, 0]
    everything = np.ones(9, dtype=bool)
    assert mesh.restricted(everything) is mesh
    with pytest.raises(InputError, match="three vertices"):
        mesh.restricted(np.arange(9) < 2)
    with pytest.raises(InputError, match="no triangle"):
        mesh.restricted(np.isin(np.arange(9), [0, 2, 8]))
    with pytest.raises(InputError, match="bool"):
        mesh.restricted(np.ones(9))


def test_smoothing_is_a_gaussian_along_the_surface():
    ball = Surface.icosphere(2)
    distance, sigma = ball.distances(), 60 / np.sqrt(8 * np.log(2))
    kernel = np.where(distance <= 3 * sigma, np.exp(-(distance**2) / (2 * sigma**2)), 0)
    assert np.allclose(ball.smoothing(60.0).toarray(), kernel / kernel.sum(axis=1, keepdims=True), atol=1e-12)
    assert np.array_equal(ball.smoothing(0.0).toarray(), np.eye(162))
    maps = np.random.default_rng(0).standard_normal((2, 3, 162))
    assert np.allclose(ball.smooth(maps, 60.0)[1, 2], ball.smoothing(60.0) @ maps[1, 2])
    with pytest.raises(InputError, match="fwhm"):
        ball.smoothing(-1.0)


def test_missing_vertices_stay_missing_and_fade_nothing():
    ball = Surface.icosphere(2)
    values = np.full(162, 3.0)
    values[ball.coordinates[:, 2] > 50] = np.nan
    smoothed = ball.smooth(values, 40.0)
    assert np.array_equal(np.isnan(smoothed), np.isnan(values))
    assert np.allclose(smoothed[np.isfinite(values)], 3.0)


def test_an_outline_runs_through_the_middles_of_the_edges_it_cuts(ball):
    mask = ball.coordinates[:, 2] > 5.0
    (line,) = ball.outline(mask)
    assert np.array_equal(line[0], line[-1])
    cut = ball.edges[mask[ball.edges].sum(axis=1) == 1]
    middles = {tuple(np.round(p, 6)) for p in ball.coordinates[cut].mean(axis=1)}
    assert {tuple(np.round(p, 6)) for p in line} == middles
    assert len(line) == len(cut) + 1
    length = np.linalg.norm(np.diff(line, axis=0), axis=1).sum()
    assert 1.0 <= length / (2 * np.pi * 100) <= 1.3
    (complement,) = ball.outline(~mask)
    assert {tuple(np.round(p, 6)) for p in complement} == middles


def test_an_outline_has_a_line_for_every_piece_and_hole(ball):
    height = ball.coordinates[:, 2]
    assert len(ball.outline(np.abs(height) > 60)) == 2
    assert len(ball.outline(np.abs(height) < 60)) == 2
    assert ball.outline(np.zeros(ball.n_vertices, dtype=bool)) == []
    assert ball.outline(np.ones(ball.n_vertices, dtype=bool)) == []
    single = np.arange(ball.n_vertices) == 600
    assert [len(line) for line in ball.outline(single)] == [7]  # six edges, closed


def test_an_outline_ends_at_the_edge_of_an_open_mesh():
    mesh = patch()
    (line,) = mesh.outline(mesh.coordinates[:, 0] < 2)
    assert sorted([line[0, 1], line[-1, 1]]) == [0.0, 4.0]
    assert np.allclose(line[:, 0], 1.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"faces": np.array([[0, 1, 9]])}, r"0 to 9, but its 9 vertices"),
        ({"faces": np.array([[0.0, 1.0, 2.0]])}, "whole numbers"),
        ({"faces": np.array([[0, 1, 1]])}, "face 0 .* twice"),
        ({"faces": np.array([[0, 1, 3]])}, "6 of 9 vertices belong to no triangle .the first is 2"),
        ({"coordinates": np.full((9, 3), np.nan)}, "not finite, first at vertex 0"),
        ({"coordinates": np.zeros((9, 2))}, r"expected \(vertex, 3\)"),
        ({"sphere": np.zeros((10, 3))}, "10 values"),
        ({"medial_wall": np.zeros(9)}, "bool"),
        ({"medial_wall": np.zeros(8, dtype=bool)}, "8 values"),
    ],
)
def test_meshes_that_cannot_be_are_refused(change, message):
    good = patch(3)
    fields = {"coordinates": good.coordinates, "faces": good.faces} | change
    with pytest.raises(InputError, match=message):
        Surface("bad", **fields)


def test_an_unknown_hemisphere_is_told():
    with pytest.raises(UnknownNameError, match="Did you mean 'left'"):
        Surface("bad", np.eye(3), np.array([[0, 1, 2]]), hemisphere="Left")


def test_a_mesh_keeps_a_copy_that_nobody_changes():
    places, faces = np.eye(3), np.array([[0, 1, 2]])
    mesh = Surface("copy", places, faces)
    places[0] = 7
    assert mesh.coordinates[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        mesh.coordinates[0] = 7


def test_values_of_another_mesh_name_both_spaces(ball):
    with pytest.raises(
        InputError, match=r"32,492 values \(fsLR-32k\).*642 vertices \(fsaverage3\).*10,242 = fsaverage5"
    ):
        ball.require_values("the map", np.zeros(32492))
    assert space_of(163842) == "fsaverage"


def gifti(path: Path, mesh: Surface, structure: str | None = "CortexRight") -> Path:
    meta = GiftiMetaData({"AnatomicalStructurePrimary": structure} if structure else {})
    points = GiftiDataArray(mesh.coordinates.astype(np.float32), intent="NIFTI_INTENT_POINTSET", meta=meta)
    triangles = GiftiDataArray(mesh.faces.astype(np.int32), intent="NIFTI_INTENT_TRIANGLE")
    nibabel.save(GiftiImage(darrays=[points, triangles]), path)
    return path


def test_gifti_meshes_are_read(tmp_path, ball):
    path = gifti(tmp_path / "right.surf.gii", ball)
    read = Surface.from_gifti(path, sphere=path)
    assert (read.hemisphere, read.name) == ("right", "right.surf.gii")
    assert np.allclose(read.coordinates, ball.coordinates, atol=1e-4)
    assert np.array_equal(read.faces, ball.faces)
    assert np.array_equal(read.sphere, read.coordinates)
    unsaid = gifti(tmp_path / "unsaid.surf.gii", ball, None)
    assert Surface.from_gifti(unsaid, hemisphere="left").hemisphere == "left"
    with pytest.raises(InputError, match="which hemisphere"):
        Surface.from_gifti(unsaid)


def test_freesurfer_meshes_are_read(tmp_path, ball):
    path = tmp_path / "rh.white"
    nibabel.freesurfer.write_geometry(str(path), ball.coordinates, ball.faces)
    read = Surface.from_freesurfer(path)
    assert read.hemisphere == "right"
    assert np.allclose(read.coordinates, ball.coordinates, atol=1e-4)
    other = path.rename(tmp_path / "white")
    with pytest.raises(InputError, match="which hemisphere"):
        Surface.from_freesurfer(other)


@pytest.mark.parametrize("read", [Surface.from_gifti, Surface.from_freesurfer])
def test_files_that_are_no_mesh_are_told(tmp_path, read):
    with pytest.raises(DataFileError, match="no mesh file"):
        read(tmp_path / "lh.gii")
    (tmp_path / "lh.gii").write_bytes(b"not a mesh at all")
    with pytest.raises(DataFileError, match="cannot be read"):
        read(tmp_path / "lh.gii")


def test_a_gifti_file_without_triangles_is_told(tmp_path):
    values = GiftiDataArray(np.zeros(5, dtype=np.float32), intent="NIFTI_INTENT_SHAPE")
    nibabel.save(GiftiImage(darrays=[values]), tmp_path / "map.gii")
    with pytest.raises(DataFileError, match="one array of points and one of triangles, got 0 and 0"):
        Surface.from_gifti(tmp_path / "map.gii")


def test_parcels_answer_by_name():
    parcels = Parcels("toy", "toy space", {"left": np.array([0, 2, 2, 1])}, {1: "one", 2: "two"})
    assert parcels.counts() == {"one": 1, "two": 2}
    assert parcels.mask("two").tolist() == [False, True, True, False]
    with pytest.raises(UnknownNameError, match="parcel of 'toy'"):
        parcels.mask("three")
    with pytest.raises(UnknownNameError, match="hemisphere of 'toy'"):
        parcels.mask("two", "right")


def test_a_cortical_map_knows_its_mesh(ball):
    t, p = np.arange(642.0), np.r_[np.full(10, 1e-6), np.full(632, 0.5)]
    t[600:], p[600:] = np.nan, np.nan
    found = CorticalMap("toy", {"t": t}, "fsaverage3", "left", {"t": p})
    found.require_surface(ball)
    assert np.flatnonzero(found.significant("t")).tolist() == list(range(10))
    right = Surface("right", ball.coordinates, ball.faces, hemisphere="right")
    with pytest.raises(InputError, match="left hemisphere"):
        found.require_surface(right)
    with pytest.raises(InputError, match=r"642 values.*162 vertices \(no space"):
        found.require_surface(Surface.icosphere(2))
    with pytest.raises(UnknownNameError, match="p-values"):
        found.significant("z")
    with pytest.raises(InputError, match="said to lie on fsaverage5"):
        CorticalMap("toy", {"t": t}, "fsaverage5", "left")
    with pytest.raises(InputError, match="one value a vertex"):
        CorticalMap("toy", {"t": t, "u": t[:5]}, "fsaverage3", "left")
