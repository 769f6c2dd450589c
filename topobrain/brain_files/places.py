"""Where voxels lie: the attributes and coordinates that let a result become an image again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from topobrain._checks import InputError, listed
from topobrain.responses import BrainResponses
from topobrain.surface.spaces import HEMISPHERES, space_of

VOLUME_COORDS = ("i", "j", "k")
SURFACE_COORDS = ("hemisphere", "vertex")


def in_volume(
    responses: BrainResponses, affine: np.ndarray, shape: Sequence[int], space: str | None = None
) -> BrainResponses:
    """Return responses that know their grid: attributes ``affine`` (16 numbers, row by row), ``shape``, ``space``."""
    attributes: dict[str, Any] = {
        "affine": np.asarray(affine, dtype=np.float64).ravel(),
        "shape": np.asarray(shape[:3], dtype=np.int64),
        "space": space or "volume (space not stated)",
    }
    return BrainResponses(responses.data.assign_attrs(attributes))


def on_surface(responses: BrainResponses, n_vertices: Mapping[str, int], space: str | None = None) -> BrainResponses:
    """Return responses that know their mesh: attributes ``n_vertices_left``, ``n_vertices_right``, ``space``."""
    counts = {f"n_vertices_{side}": int(n) for side, n in n_vertices.items()}
    known = space or space_of(next(iter(n_vertices.values())))
    return BrainResponses(responses.data.assign_attrs({**counts, "space": known}))


def side_by_side(parts: Sequence[BrainResponses]) -> BrainResponses:
    """Put responses to the same stimuli beside each other: voxels of the first, then of the second, ...

    Rows of the later ones are brought into the order of the first. A voxel coordinate that some lack is filled with NaN,
    -1 or ``""``; attributes that differ (the grids of two subjects) are kept only if they are equal.

    Raises
    ------
    InputError
        Nothing is given, or the stimuli are not the same: those on one side only are named.
    """
    import xarray as xr

    if not parts:
        raise InputError("there are no responses to put together")
    first = parts[0]
    ids, texts = first.labels("stimulus").tolist(), first.labels("text")
    names = {n: c.dtype for part in parts for n, c in part.data.coords.items() if c.dims == ("voxel",)}
    aligned = []
    for part in parts:
        own = part.labels("stimulus").tolist()
        if set(own) != set(ids):
            lacks = [label for label in ids if label not in set(own)]
            more = [label for label in own if label not in set(ids)]
            raise InputError(
                f"responses of {listed(first.subjects, 3)} and of {listed(part.subjects, 3)} are to different stimuli: only "
                f"the first have {listed(lacks, 5)}, only the second {listed(more, 5)}"
            )
        place = {label: row for row, label in enumerate(own)}
        rows = [place[label] for label in ids]
        if (part.labels("text")[rows] != texts).any():
            row = int(np.flatnonzero(part.labels("text")[rows] != texts)[0])
            raise InputError(
                f"stimulus {ids[row]!r} is {texts[row]!r} for {listed(first.subjects, 3)} and "
                f"{part.labels('text')[rows[row]]!r} for {listed(part.subjects, 3)}: expected one text"
            )
        data = part.data[["value"]].isel(stimulus=rows)
        n_voxels = data.sizes["voxel"]
        filler = {name: _filler(dtype, n_voxels) for name, dtype in names.items() if name not in data.coords}
        on_rows = [n for n, c in data.coords.items() if c.dims == ("stimulus",) and n not in first.data.coords]
        aligned.append(data.drop_vars(on_rows).assign_coords({n: ("voxel", array) for n, array in filler.items()}))
    # Columns of the stimuli are the first's: another subject's rows may carry other labels of the same stimulus.
    rows_of_first = {n: c for n, c in first.data.coords.items() if c.dims == ("stimulus",)}
    aligned = [data.drop_vars([n for n in rows_of_first if n in data.coords and n != "stimulus"]) for data in aligned]
    joined = xr.concat(aligned, dim="voxel", coords="minimal", compat="override", join="override")
    joined = joined.assign_coords(rows_of_first).assign_coords(voxel=np.arange(joined.sizes["voxel"]))
    joined.attrs = {
        key: value
        for key, value in first.data.attrs.items()
        if all(key in part.data.attrs and np.array_equal(part.data.attrs[key], value) for part in parts[1:])
        or key == "provenance"
    }
    return BrainResponses(joined)


def _filler(dtype: np.dtype[Any], n: int) -> np.ndarray:
    """Return a coordinate that says "not known" in a given type."""
    if dtype.kind in "iu":
        return np.full(n, -1, dtype=np.int64)
    return np.full(n, np.nan) if dtype.kind == "f" else np.full(n, "", dtype=object)


def hemisphere_name(given: str) -> str:
    """Return ``"left"`` or ``"right"`` for ``L``, ``lh``, ``left``, ``CortexLeft``, ...

    >>> hemisphere_name("lh"), hemisphere_name("R")
    ('left', 'right')
    """
    word = given.strip().lower().removeprefix("hemi-")
    for side in HEMISPHERES:
        if word in (side, side[0], f"{side[0]}h", f"cortex{side}", f"cortex_{side}", f"cifti_structure_cortex_{side}"):
            return side
    raise InputError(f"unknown hemisphere {given!r}: expected left (L, lh) or right (R, rh)")
