"""Results back to images: NIfTI for volumes, GIFTI and MGH for surfaces, so that any viewer opens them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from topobrain._checks import DataFileError, InputError, listed, unknown
from topobrain.brain_files.images import AFFINE_TOLERANCE_MM
from topobrain.brain_files.places import SURFACE_COORDS, VOLUME_COORDS
from topobrain.results import Result
from topobrain.surface.spaces import HEMISPHERES

VOLUMES = (".nii.gz", ".nii")
GIFTI = (".func.gii", ".shape.gii", ".gii")
MGH = (".mgh", ".mgz")
NUMBERS = "fiub"
"""Kinds of numpy's types that are real numbers."""
PLACE = ("affine", "shape", "space", "n_vertices_left", "n_vertices_right")
"""Attributes of a grid or mesh."""


def save_map(
    result: Result | np.ndarray,
    path: str | os.PathLike[str],
    *,
    like: Result | None = None,
    variable: str = "r",
    layer: str | None = None,
    subject: str | None = None,
    outside: float = float("nan"),
) -> list[Path]:
    """Write one number a voxel as a brain image: what does a result look like in the brain?

    The mean over folds, where the variable has folds, is written (NaN where a fold is NaN).

    Parameters
    ----------
    result
        A result with a ``voxel`` axis (an encoding), or an array (voxel,) or (map, voxel).
    path
        Where to write, and which format: ``.nii.gz``, ``.nii``; ``.func.gii``, ``.shape.gii``; ``.mgh``, ``.mgz``. A surface
        format writes one file a hemisphere: ``{hemi}`` in the path becomes ``L`` or ``R``; without it GIFTI names end in
        ``_hemi-L`` and ``_hemi-R`` (BIDS), MGH names begin with ``lh.`` and ``rh.`` (FreeSurfer).
    like
        Responses (or another result) that know where the voxels lie: needed for an array, or if the result does not know. The
        result's own places and grid are used where it has them, in its own order of voxels, and what it lacks is ``like``'s;
        an array, or a result without places, has the voxels of ``like`` in the same order.
    variable
        Which variable of the result.
    layer
        Which layer, where there are several.
    subject
        Whose voxels, where there are several people: their voxels share places.
    outside
        Value of voxels and vertices that the result does not hold: NaN (viewers leave it blank), or 0.

    Returns
    -------
    list of Path
        The files written: one, or one a hemisphere. NIfTI keeps float64, everything else is float32; values read back are
        exactly these.

    Raises
    ------
    InputError
        The voxels have no place (they are regions, or come from a table), two lie at one place, the result and ``like`` have
        other voxels or grids, the values are no real numbers, or the format does not fit volumes or surfaces.
    UnknownNameError
        No such variable, layer, or subject.
    DataFileError
        A file cannot be written.
    """
    values = _values(result, variable, layer)
    if like is None and not isinstance(result, Result):
        raise InputError("an array needs like=: the responses whose voxels these are")
    coords, attributes, people = _whereabouts(values.shape[-1], result if isinstance(result, Result) else None, like)
    if people is not None:
        if subject is not None:
            if subject not in people:
                raise unknown("subject", subject, dict.fromkeys(people.tolist()))
            mine = people == subject
            values, coords = values[..., mine], {name: array[mine] for name, array in coords.items()}
        elif len(set(people.tolist())) > 1:
            raise InputError(
                f"the voxels are of several people, whose places overlap: give subject= ({listed(dict.fromkeys(people))})"
            )
    target = Path(path)
    name = target.name.lower()
    if name.endswith(VOLUMES):
        return [_save_volume(values, coords, attributes, target, outside)]
    if name.endswith((*GIFTI, *MGH)):
        return _save_surface(values, coords, attributes, target, outside)
    raise InputError(f"{target} has no format of brain images: expected {listed([*VOLUMES, *GIFTI, *MGH])}")


def _whereabouts(
    n_values: int, result: Result | None, like: Result | None
) -> tuple[dict[str, np.ndarray], dict[str, Any], np.ndarray | None]:
    """Return the coordinates of the places, the attributes of the grid, and whose voxel each value is."""
    homes = [home for home in (result, like) if home is not None]
    for home in homes:
        if home.data.sizes.get("voxel", 0) != n_values:
            raise InputError(f"{n_values} values for {home.data.sizes.get('voxel', 0)} voxels: expected one each")
    placed = [home for home in homes if _place_names(home)]
    if len(placed) == 2:
        _require_same_places(placed[0], placed[1])
    chosen = (placed or homes)[0]
    attributes = {key: value for home in reversed(homes) for key, value in home.data.attrs.items() if key in PLACE}
    # Another's subjects are those of these voxels only if the order is the same.
    with_people = [home for home in (chosen, *homes) if "subject" in home.data.coords and _same_order(chosen, home)]
    people = with_people[0].labels("subject") if with_people else None
    coords = {
        name: chosen.data[name].values for name in (*VOLUME_COORDS, *SURFACE_COORDS) if name in chosen.data.coords
    }
    return coords, attributes, people


def _place_names(home: Result) -> tuple[str, ...]:
    """Return the coordinates that say where a result's voxels lie; none if it does not know."""
    known = {name for name, coord in home.data.coords.items() if coord.dims == ("voxel",)}
    return next((names for names in (VOLUME_COORDS, SURFACE_COORDS) if set(names) <= known), ())


def _same_order(first: Result, other: Result) -> bool:
    names = _place_names(first) if _place_names(first) == _place_names(other) else ()
    return all(np.array_equal(first.labels(name), other.labels(name)) for name in names)


def _require_same_places(result: Result, like: Result) -> None:
    """Raise unless a result and ``like`` have the same voxels of one grid, in whichever order."""
    names = _place_names(result)
    if names != _place_names(like):
        raise InputError(
            f"the result's voxels have {listed(names)}, those of like= {listed(_place_names(like))}: expected the same places"
        )
    if "subject" in result.data.coords and "subject" in like.data.coords:
        names = (*names, "subject")
    own, other = ({*zip(*(home.labels(name).tolist() for name in names), strict=True)} for home in (result, like))
    if own != other:
        example = next(iter(sorted(own - other, key=str) or sorted(other - own, key=str)))
        raise InputError(
            f"the result and like= have different voxels: {len(own - other)} of the result's are not in like=, e.g. "
            f"{', '.join(f'{name} {value}' for name, value in zip(names, example, strict=True))}"
        )
    for key in PLACE:
        mine, theirs = (home.data.attrs.get(key) for home in (result, like))
        if key == "space" or mine is None or theirs is None:
            continue
        first, second = (np.asarray(grid, dtype=np.float64).ravel() for grid in (mine, theirs))
        if first.shape != second.shape or not np.allclose(first, second, atol=AFFINE_TOLERANCE_MM):
            raise InputError(f"the result and like= lie on different grids: {key} is {mine}, against {theirs}")


def _values(result: Result | np.ndarray, variable: str, layer: str | None) -> np.ndarray:
    """Return what is to be written, as (voxel,) or (map, voxel)."""
    if not isinstance(result, Result):
        array = np.asarray(result)
        if array.ndim not in (1, 2):
            raise InputError(f"values have shape {array.shape}: expected (voxel,) or (map, voxel)")
        if array.dtype.kind not in NUMBERS:
            raise InputError(f"values are an array of {array.dtype}: expected real numbers")
        return array
    if variable not in result.data.variables or "voxel" not in result.data[variable].dims:
        known = [str(n) for n, v in result.data.variables.items() if "voxel" in v.dims and v.dtype.kind in NUMBERS]
        raise unknown(f"variable of a {result.kind} result with an axis voxel", variable, known)
    data = result.data[variable]
    if data.dtype.kind not in NUMBERS:
        raise InputError(f"variable {variable!r} holds {data.dtype}: expected real numbers")
    if "layer" in data.dims:
        names = [str(name) for name in result.data["layer"].values]
        if layer is None and len(names) > 1:
            raise InputError(f"the result has several layers: give layer= ({listed(names)})")
        if layer is not None and layer not in names:
            raise unknown("layer", layer, names)
        data = data.isel(layer=0 if layer is None else names.index(layer))
    if "fold" in data.dims:
        data = data.mean("fold", skipna=False)
    rest = [str(dim) for dim in data.dims if dim != "voxel"]
    if len(rest) > 1:
        raise InputError(f"variable {variable!r} has the axes {listed(rest)} beside voxel: choose one map first")
    return np.asarray(data.transpose(*rest, "voxel").values)


def _places(coords: Mapping[str, np.ndarray], needed: tuple[str, ...], what: str) -> np.ndarray:
    lacking = [name for name in needed if name not in coords]
    if lacking:
        other = (
            "surface" if set(SURFACE_COORDS) <= set(coords) else "volume" if set(VOLUME_COORDS) <= set(coords) else None
        )
        hint = f"; they lie in a {other}" if other else ": they are regions, or come from a table"
        raise InputError(f"the voxels have no place in a {what} (no coordinate {listed(lacking)}){hint}")
    return np.array([coords[name] for name in needed], dtype=object)


def _save_volume(
    values: np.ndarray, coords: Mapping[str, np.ndarray], attributes: Mapping[str, Any], target: Path, outside: float
) -> Path:
    import nibabel

    i, j, k = _places(coords, VOLUME_COORDS, "volume").astype(np.int64)
    if "affine" not in attributes or "shape" not in attributes:
        raise InputError(
            "the grid of the voxels is not known (attributes affine, shape): give like=, the responses read from images"
        )
    shape = tuple(int(n) for n in np.asarray(attributes["shape"]))
    for axis, places in enumerate((i, j, k)):
        if len(places) and (places.min() < 0 or places.max() >= shape[axis]):
            raise InputError(
                f"voxels lie outside the grid {shape}: {'ijk'[axis]} from {places.min()} to {places.max()}"
            )
    _require_apart(np.ravel_multi_index((i, j, k), shape))
    maps = np.atleast_2d(values)
    dtype = np.float64 if values.dtype == np.float64 else np.float32
    data = np.full((*shape, len(maps)), outside, dtype=dtype)
    data[i, j, k] = maps.T
    image = nibabel.Nifti1Image(
        data if values.ndim == 2 else data[..., 0], np.asarray(attributes["affine"]).reshape(4, 4)
    )
    mni = str(attributes.get("space", "")).startswith("MNI")
    image.header.set_sform(image.affine, code="mni" if mni else "scanner")
    image.header.set_qform(None, code="unknown")  # a qform cannot hold a sheared affine; readers take the sform
    return _write(image, target)


def _save_surface(
    values: np.ndarray, coords: Mapping[str, np.ndarray], attributes: Mapping[str, Any], target: Path, outside: float
) -> list[Path]:
    import nibabel

    side_of, vertex = _places(coords, SURFACE_COORDS, "surface")
    if (vertex.astype(np.int64) < 0).any():
        raise InputError("some columns are regions of a surface, not vertices: their means have no place")
    maps = np.atleast_2d(values).astype(np.float32)
    written = []
    for side in HEMISPHERES:
        mine = np.array([str(s) == side for s in side_of])
        key = f"n_vertices_{side}"
        if key not in attributes:
            if mine.any():
                raise InputError(f"the mesh of the {side} hemisphere is not known (attribute {key}): give like=")
            continue
        places, n = vertex[mine].astype(np.int64), int(attributes[key])
        if len(places) and places.max() >= n:
            raise InputError(f"vertex {places.max()} lies outside the {side} hemisphere's {n:,} vertices")
        _require_apart(places)
        data = np.full((len(maps), n), outside, dtype=np.float32)
        data[:, places] = maps[:, mine]
        file = _of_side(target, side)
        if target.name.lower().endswith(MGH):
            image: Any = nibabel.MGHImage(
                data.T[:, np.newaxis, np.newaxis, :] if len(data) > 1 else data.T[:, :, np.newaxis], np.eye(4)
            )
        else:
            arrays = [
                nibabel.gifti.GiftiDataArray(row, intent="NIFTI_INTENT_NONE", datatype="NIFTI_TYPE_FLOAT32")
                for row in data
            ]
            meta = nibabel.gifti.GiftiMetaData(
                {"AnatomicalStructurePrimary": "CortexLeft" if side == "left" else "CortexRight"}
            )
            image = nibabel.gifti.GiftiImage(darrays=arrays, meta=meta)
        written.append(_write(image, file))
    return written


def _of_side(target: Path, side: str) -> Path:
    """Return the file of one hemisphere."""
    letter = side[0].upper()
    if "{hemi}" in str(target):
        return Path(str(target).replace("{hemi}", letter))
    if target.name.lower().endswith(MGH):
        return target.with_name(f"{side[0]}h.{target.name}")
    ending = next(e for e in GIFTI if target.name.lower().endswith(e))
    stem = target.name[: -len(ending)]
    return target.with_name(f"{stem}_hemi-{letter}{target.name[-len(ending) :]}")


def _require_apart(places: np.ndarray) -> None:
    if len(np.unique(places)) < len(places):
        raise InputError(
            "two voxels lie at one place: an image can hold one value there. Choose one subject or region first"
        )


def _write(image: Any, target: Path) -> Path:
    """Write an image under a temporary name in its folder, then rename it: a reader never sees half a file."""
    part = target.with_name(f".{os.getpid()}.{target.name}")  # the ending decides the format
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        image.to_filename(str(part))
        os.replace(part, target)
    except OSError as error:
        raise DataFileError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # the failure being reported may be that the directory is none
            part.unlink(missing_ok=True)
    return target
