"""Where on the cortex the voxels of brain responses lie, as coordinates whose distances mean something."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from topobrain._checks import InputError, listed
from topobrain.responses import BrainResponses

SPHERES = {
    "fsaverage3": "fsaverage5",
    "fsaverage4": "fsaverage5",
    "fsaverage5": "fsaverage5",
    "fsLR-32k": "fslr32k",
}
"""Surface spaces whose sphere topobrain has. Icosahedral meshes nest: the first vertices of fsaverage5 are fsaverage4's."""

N_VERTICES = {"fsaverage3": 642, "fsaverage4": 2562}
"""Vertices of a hemisphere of those spaces that use the first vertices of a finer sphere."""

APART_MM = 1000.0
"""Distance put between the spheres of the two hemispheres: far beyond any kernel."""


class VoxelPlaces(NamedTuple):
    """Places of voxels.

    Attributes
    ----------
    coordinates
        (voxel, 3) in mm, NaN for voxels without a place.
    source
        What they are, in words.
    """

    coordinates: np.ndarray
    source: str


def voxel_places(responses: BrainResponses) -> VoxelPlaces:
    """Return where voxels lie.

    Vertices of a known surface (coordinates ``hemisphere`` and ``vertex``, attribute ``space``) are taken to the sphere of
    that surface: distances on it run along the cortex and not across a sulcus, though the sphere stretches them here and
    there. Otherwise the coordinates ``x_mm y_mm z_mm`` count, or the grid of a volume (``i j k`` and ``affine``), as the
    crow flies.

    Raises
    ------
    InputError
        Nothing says where voxels lie.
    """
    have, attributes = responses.data.coords, responses.data.attrs
    space = str(attributes.get("space", ""))
    in_mm = [f"{axis}_mm" for axis in "xyz"]
    if "vertex" in have and "hemisphere" in have and space in SPHERES:
        return VoxelPlaces(_on_sphere(responses, space), f"sphere of {space}")
    if all(name in have for name in in_mm):
        return VoxelPlaces(_stacked(responses, in_mm), "x_mm y_mm z_mm")
    if all(name in have for name in "ijk") and "affine" in attributes:
        affine = np.asarray(attributes["affine"], dtype=np.float64).reshape(4, 4)
        cells = _stacked(responses, list("ijk"))
        return VoxelPlaces(cells @ affine[:3, :3].T + affine[:3, 3], "voxels of a volume")
    if "vertex" in have:
        known = ", ".join(SPHERES)
        raise InputError(
            f"the responses have vertex numbers, but of a surface topobrain has no mesh of (space {space!r}, known: {known}), "
            "or without a hemisphere: give the places as voxel coordinates x_mm, y_mm and z_mm"
        )
    raise InputError(
        "nothing says where the voxels of these responses lie: spatial alignment needs vertices of a surface, or the voxel "
        "coordinates x_mm, y_mm and z_mm (voxel_coords of BrainResponses.from_arrays). Averages of ROIs, as in the public table "
        "of Tuckute et al. (2024), have no places: use the voxels behind them"
    )


def _stacked(responses: BrainResponses, names: list[str]) -> np.ndarray:
    return np.stack([np.asarray(responses.data[name].values, dtype=np.float64) for name in names], axis=1)


def _on_sphere(responses: BrainResponses, space: str) -> np.ndarray:
    from topobrain.data.surfaces import load_surface

    vertex, sides = np.asarray(responses.data["vertex"].values, dtype=np.int64), responses.labels("hemisphere")
    found = np.full((len(vertex), 3), np.nan)
    unknown = sorted(set(np.asarray(sides)[vertex >= 0].tolist()) - {"left", "right"})
    if unknown:
        raise InputError(f"vertices have the hemispheres {listed(map(repr, unknown))}: expected 'left' and 'right'")
    for side, shift in (("left", -APART_MM / 2), ("right", APART_MM / 2)):
        mine = np.flatnonzero((sides == side) & (vertex >= 0))
        if not mine.size:
            continue
        surface = load_surface(f"{SPHERES[space]}-{side}")
        n_vertices = N_VERTICES.get(space, surface.n_vertices)
        if vertex[mine].max() >= n_vertices:
            raise InputError(
                f"vertex {int(vertex[mine].max())} lies outside the {side} hemisphere's {n_vertices:,} vertices of {space}"
            )
        assert surface.sphere is not None
        found[mine] = surface.sphere[vertex[mine]] + np.array([shift, 0.0, 0.0])
    return found
