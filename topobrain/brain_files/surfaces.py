"""Surface files (GIFTI, MGH, CIFTI-2, nilearn's SurfaceImage) become responses: one column a vertex or a region."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from topobrain._checks import DataFileError, InputError, listed, near, require_choice
from topobrain.brain_files.cleaning import clean_series
from topobrain.brain_files.images import ImageLike, as_list, filled, image_data, named, open_image, require_rows
from topobrain.brain_files.places import hemisphere_name, on_surface
from topobrain.brain_files.repeats import average_repeats
from topobrain.responses import BrainResponses, real_numbers
from topobrain.stimuli import StimulusSet
from topobrain.surface.spaces import HEMISPHERES

MARKS = {"{hemi}": {"left": "L", "right": "R"}, "{h}": {"left": "lh", "right": "rh"}}
"""What stands for the hemisphere in a template: BIDS' letter, or FreeSurfer's prefix."""


def responses_from_surface(
    images: ImageLike | Mapping[str, Any],
    stimuli: StimulusSet,
    *,
    mask: Mapping[str, Any] | None = None,
    labels: Mapping[str, Any] | None = None,
    average: bool = False,
    medial_wall: Literal["drop", "keep"] = "drop",
    order: Sequence[str] | None = None,
    subject: str = "group",
    ceiling: float | np.ndarray | Mapping[str, float] | None = None,
    design: Literal["events", "timeseries"] = "events",
    space: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    **options: Any,
) -> BrainResponses:
    """Which responses do surface files hold: one row an image, one column a vertex or a region?

    Parameters
    ----------
    images
        Hemisphere (``left``, ``L``, ``lh``, ...) -> its images: one file with an array or a frame a stimulus
        (``.func.gii``, ``.shape.gii``, ``.mgh``, ``.mgz``), one file a stimulus in order, a mapping of stimulus identifiers
        to files, or an array (stimulus, vertex). Or a template with ``{hemi}`` (``L``, ``R``) or ``{h}`` (``lh``, ``rh``),
        and ``{stimulus}`` where there is one file each: both hemispheres must be there. Or a CIFTI-2 file
        (``.dtseries.nii``, ``.dscalar.nii``; its cortex is read, other structures are counted and left out). Or nilearn's
        `SurfaceImage`.
    stimuli
        The stimuli of the rows, in order.
    mask
        Hemisphere -> vertices to read: boolean (vertex,), or a file whose values are not 0 there.
    labels
        Hemisphere -> atlas: a ``.label.gii`` or ``.annot`` file. A vertex's region becomes its ``roi``; vertices without a
        region (``???``, ``unknown``, ``Medial_wall``, label 0 of a GIFTI) are left out.
    average
        Whether to give the mean of each region and hemisphere (what nilearn's `SurfaceLabelsMasker` gives) instead of its
        vertices. A vertex without a value in any one image is left out of its region's mean in all of them; a region of
        such vertices alone is NaN.
    medial_wall
        ``"drop"`` leaves out vertices that are 0 or missing in every image: that is how files mark the medial wall.
        ``"keep"`` keeps every vertex.
    order
        Stimulus identifier of each row, where stimuli were repeated: see `responses_from_nifti`.
    subject, design, provenance
        As for `responses_from_nifti`.
    ceiling
        Noise ceiling in Pearson r: one number, one a column, or region -> number.
    space
        Name of the mesh; by default what the number of vertices says (10,242 = fsaverage5).
    **options
        ``detrend``, ``standardize``, ``t_r``, ``high_pass``, ... of `nilearn.signal.clean`, applied to all rows together.

    Returns
    -------
    BrainResponses
        Voxel coordinates ``hemisphere`` and ``vertex`` (-1 for regions), attributes ``n_vertices_left``,
        ``n_vertices_right``, ``space``: what `save_map` needs.

    Raises
    ------
    DataFileError
        A file is missing, truncated, or holds no data.
    InputError
        A hemisphere is missing, the hemispheres have different numbers of rows, there are not as many rows as stimuli, no
        vertex is left, or a label file has another number of vertices.
    """
    require_choice("medial_wall", medial_wall, ("drop", "keep"))
    sides, files, left_out = open_surfaces(images, stimuli)
    counts = {side: len(rows) for side, rows in sides.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"the hemispheres have different numbers of images: {counts}")
    taken = SurfaceColumns(mask or {}, labels or {}, average, medial_wall == "drop")
    values = taken.columns(sides)
    values = clean_series(values, options)
    rows = list(order) if order is not None else stimuli.ids
    require_rows(len(values), rows, files)
    if order is not None:
        values, from_repeats, _ = average_repeats(values, rows, stimuli.ids)
        ceiling = from_repeats if ceiling is None else ceiling
    if isinstance(ceiling, Mapping):
        for name in ceiling:
            if name not in taken.roi:
                close = near(name, dict.fromkeys(taken.roi))
                guess = f" Did you mean {close[0]!r}?" if close else ""
                raise InputError(f"a ceiling is given for {name!r}, which is no region.{guess}")
        ceiling = real_numbers("ceiling", [ceiling.get(name, np.nan) for name in taken.roi])
    responses = BrainResponses.from_arrays(
        values,
        stimuli,
        roi=taken.roi,
        subject=subject,
        ceiling=ceiling,
        design=design,
        voxel_coords={
            "hemisphere": np.array(taken.hemisphere, dtype=object),
            "vertex": np.array(taken.vertex, dtype=np.int64),
        },
        provenance={
            "files": [Path(named(file)).name for file in files][:1000],
            "extraction": {
                "medial_wall": f"{medial_wall}: vertices that are 0 or missing in every image",
                "n_vertices_left_out": taken.n_left_out,
                **({"structures_left_out": left_out} if left_out else {}),
                **{k: v for k, v in options.items() if v is not None},
            },
            **({"space": space} if space else {}),
            **(provenance or {}),
        },
    )
    return on_surface(responses, {side: rows.shape[1] for side, rows in sides.items()}, space)


@dataclass
class SurfaceColumns:
    """Which vertices or regions become columns; after `columns` it knows what they are."""

    mask: Mapping[str, Any]
    labels: Mapping[str, Any]
    average: bool
    drop: bool
    roi: list[str] = field(default_factory=list)
    hemisphere: list[str] = field(default_factory=list)
    vertex: list[int] = field(default_factory=list)
    n_left_out: dict[str, int] = field(default_factory=dict)

    def columns(self, sides: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the columns (row, column) of all hemispheres, left first."""
        if self.average and not self.labels:
            raise InputError("average=True needs labels: the mean of which regions?")
        masks = by_side(self.mask, "mask", sides)
        atlases = by_side(self.labels, "labels", sides)
        parts: list[np.ndarray] = []
        for side, rows in sides.items():
            n = rows.shape[1]
            inside = np.ones(n, dtype=bool)
            if side in masks:
                inside &= _vertex_mask(masks[side], n, side)
            if self.drop:
                inside &= ~np.all((rows == 0) | np.isnan(rows), axis=0)
            names: np.ndarray = np.full(n, "all", dtype=object)
            if side in atlases:
                names = read_labels(atlases[side], n)
                inside &= names != ""
            self.n_left_out[side] = int((~inside).sum())
            parts += (
                self._regions(rows, inside, names, side) if self.average else self._vertices(rows, inside, names, side)
            )
        if not self.roi:
            raise InputError("no vertex is left: all are outside the mask or labels, or 0 or missing in every image")
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _vertices(self, rows: np.ndarray, inside: np.ndarray, names: np.ndarray, side: str) -> Iterator[np.ndarray]:
        where = np.flatnonzero(inside)
        self.roi += names[where].tolist()
        self.hemisphere += [side] * len(where)
        self.vertex += where.tolist()
        yield rows[:, where] if len(where) < rows.shape[1] else rows

    def _regions(self, rows: np.ndarray, inside: np.ndarray, names: np.ndarray, side: str) -> Iterator[np.ndarray]:
        for name in dict.fromkeys(sorted(names[inside].tolist())):
            part = rows[:, inside & (names == name)]
            complete = np.isfinite(part).all(axis=0)
            self.roi.append(name)
            self.hemisphere.append(side)
            self.vertex.append(-1)
            some = part[:, complete] if complete.any() else np.full((len(rows), 1), np.nan, dtype=rows.dtype)
            yield some.mean(axis=1, keepdims=True, dtype=np.float64).astype(rows.dtype)


def open_surfaces(images: Any, stimuli: StimulusSet) -> tuple[dict[str, np.ndarray], list[Any], dict[str, int]]:
    """Return hemisphere -> values (image, vertex), left first; the files; and what a CIFTI holds beside the cortex."""
    if hasattr(images, "data") and hasattr(images.data, "parts"):  # nilearn.surface.SurfaceImage keeps (vertex, image)
        parts = {
            hemisphere_name(name): _numbers(np.atleast_2d(np.asarray(array).T), hemisphere_name(name))
            for name, array in images.data.parts.items()
        }
        return {side: parts[side] for side in HEMISPHERES if side in parts}, [images], {}
    if isinstance(images, str | os.PathLike):
        text = os.fspath(images)
        mark = next((mark for mark in MARKS if mark in text), None)
        if mark is not None:
            images = {side: text.replace(mark, letter) for side, letter in MARKS[mark].items()}
        elif text.endswith((".dtseries.nii", ".dscalar.nii")):
            sides, others = read_cifti(text)
            return sides, [text], others
        else:
            raise InputError(
                f"{text} is one hemisphere, or none: give both as {{'left': ..., 'right': ...}}, or a template with {{hemi}} "
                "(L, R) or {h} (lh, rh); one hemisphere alone is {'left': ...}"
            )
    if not isinstance(images, Mapping):
        raise InputError(
            f"surface images are {type(images).__name__}: expected hemisphere -> files, a template, or a CIFTI file"
        )
    given = {hemisphere_name(str(name)): files for name, files in images.items()}
    for side, what in given.items():
        if what is None:
            raise InputError(f"the {side} hemisphere is missing: leave it out to read the other one alone")
    found = {side: _side(given[side], stimuli, side) for side in HEMISPHERES if side in given}
    return {side: rows for side, (rows, _) in found.items()}, [f for _, files in found.values() for f in files], {}


def _side(given: Any, stimuli: StimulusSet, side: str) -> tuple[np.ndarray, list[Any]]:
    """Return the values (image, vertex) of one hemisphere and their files."""
    if isinstance(given, np.ndarray):
        if given.ndim != 2:
            raise InputError(f"surface values have shape {given.shape}: expected (stimulus, vertex)")
        return _numbers(given, side), [given]
    if isinstance(given, str) and "{stimulus}" in given:
        given = filled(given, stimuli.ids)
    files = as_list(given, stimuli)
    arrays = [read_surface_values(file) for file in files]
    for file, array in zip(files, arrays, strict=True):
        if array.shape[1] != arrays[0].shape[1]:
            raise InputError(
                f"{named(file)} has {array.shape[1]:,} vertices, {named(files[0])} has {arrays[0].shape[1]:,}: expected one mesh"
            )
    return (arrays[0] if len(arrays) == 1 else np.concatenate(arrays)), files


def _numbers(array: np.ndarray, side: str) -> np.ndarray:
    """Return an array as floats (means of whole numbers are none), or raise if it holds anything but numbers."""
    if array.dtype.kind not in "fiub":
        raise InputError(
            f"values of the {side} hemisphere are an array of {array.dtype}: expected real numbers (stimulus, vertex)"
        )
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def read_surface_values(file: ImageLike) -> np.ndarray:
    """Return the values (image, vertex) of a GIFTI or MGH file of one hemisphere.

    Raises
    ------
    DataFileError
        No such file, a truncated one, one without data (a mesh), or one of another format.
    """
    image = open_image(file, "surface file")
    if hasattr(image, "darrays"):
        arrays = [
            np.asarray(d.data) for d in image.darrays if d.intent not in (1008, 1009)
        ]  # points and triangles of a mesh
        if not arrays:
            raise DataFileError(f"{named(file)} holds a mesh, or nothing: expected arrays of values, one a stimulus")
        lengths = {array.shape for array in arrays}
        if len(lengths) > 1 or arrays[0].ndim > 2:
            raise DataFileError(f"{named(file)} holds arrays of different shapes: {listed(sorted(map(str, lengths)))}")
        if arrays[0].ndim == 2 and len(arrays) == 1:
            return np.ascontiguousarray(arrays[0].T).astype(_kept(arrays[0]), copy=False)
        stacked = np.stack([array.ravel() for array in arrays])
        return stacked.astype(_kept(stacked), copy=False)
    if type(image).__name__ != "MGHImage":
        raise DataFileError(
            f"{named(file)} is a {type(image).__name__}: expected GIFTI or MGH. A volume is read with responses_from_nifti"
        )
    data = image_data(image)
    frames = data.shape[3] if data.ndim == 4 else 1
    if max(data.shape[:3]) != int(np.prod(data.shape[:3])):
        raise DataFileError(f"{named(file)} is a volume of {data.shape}: expected a surface (vertices along one axis)")
    return np.ascontiguousarray(data.reshape(-1, frames, order="F").T)


def _kept(array: np.ndarray) -> type[np.floating[Any]]:
    return np.float64 if array.dtype == np.float64 else np.float32


def read_cifti(file: ImageLike) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Return hemisphere -> values (image, vertex) of a CIFTI-2 file, NaN off its vertices, and what else it holds.

    Raises
    ------
    DataFileError
        The file cannot be read, or is no dense CIFTI-2 file.
    InputError
        It holds no cortex.
    """
    from nibabel import cifti2

    image = open_image(file, "CIFTI file")
    if not isinstance(image, cifti2.Cifti2Image):
        raise DataFileError(f"{named(file)} is no CIFTI-2 file, but a {type(image).__name__}")
    axes = [image.header.get_axis(n) for n in range(image.ndim)]
    if len(axes) != 2 or not isinstance(axes[1], cifti2.BrainModelAxis):
        raise DataFileError(f"{named(file)} is a CIFTI-2 file of another kind: expected .dtseries.nii or .dscalar.nii")
    data = image_data(image)
    sides: dict[str, np.ndarray] = {}
    others: dict[str, int] = {}
    for name, span, model in axes[1].iter_structures():
        if name in ("CIFTI_STRUCTURE_CORTEX_LEFT", "CIFTI_STRUCTURE_CORTEX_RIGHT"):
            rows = np.full((len(data), model.nvertices[name]), np.nan, dtype=data.dtype)
            rows[:, model.vertex] = data[:, span]
            sides[hemisphere_name(name)] = rows
        else:
            others[name.removeprefix("CIFTI_STRUCTURE_").lower()] = len(model)
    if not sides:
        raise InputError(f"{named(file)} holds no cortex, only {listed(others)}")
    return {side: sides[side] for side in HEMISPHERES if side in sides}, others


def by_side(given: Mapping[str, Any], what: str, sides: Mapping[str, Any]) -> dict[str, Any]:
    """Return hemisphere -> value with our names; every hemisphere of the images must be there, if any is."""
    found = {hemisphere_name(str(name)): value for name, value in given.items()}
    lacking = [side for side in sides if side not in found]
    if found and lacking:
        raise InputError(f"{what} has no {lacking[0]} hemisphere: expected {listed(sides)}, got {listed(given)}")
    return found


def _vertex_mask(given: Any, n: int, side: str) -> np.ndarray:
    values = np.asarray(given) if isinstance(given, np.ndarray) else np.nan_to_num(read_surface_values(given)[0])
    if values.shape != (n,):
        raise InputError(
            f"the mask of the {side} hemisphere has shape {values.shape}: expected one value for each of {n:,} vertices"
        )
    return np.asarray(values != 0)


NO_REGION = ("", "???", "unknown", "medial_wall", "medialwall", "medial wall", "none")


def read_labels(given: Any, n_vertices: int) -> np.ndarray:
    """Return the region's name of each vertex (vertex,), ``""`` for none, from a ``.label.gii`` or ``.annot`` file.

    Raises
    ------
    DataFileError
        The file is missing or cannot be read.
    InputError
        It has another number of vertices, or no table of names.
    """
    if isinstance(given, np.ndarray | list | tuple):
        names = np.array([str(name) for name in given], dtype=object)
    elif isinstance(given, str | os.PathLike) and os.fspath(given).endswith(".annot"):
        import nibabel.freesurfer

        if not Path(given).is_file():
            raise DataFileError(f"no annotation file {given}")
        try:
            numbers, _, words = nibabel.freesurfer.read_annot(str(given))
        except Exception as error:  # whatever the bytes of another format do to the reader
            raise DataFileError(f"{given} cannot be read as a FreeSurfer annotation: {error}") from error
        decoded = [word.decode() if isinstance(word, bytes) else str(word) for word in words]
        names = np.array([decoded[number] if number >= 0 else "" for number in numbers], dtype=object)
    else:
        image = open_image(given, "label file")
        if not hasattr(image, "labeltable") or not image.labeltable.labels:
            raise InputError(f"{named(given)} has no table of names: expected a .label.gii or .annot file")
        table = image.labeltable.get_labels_as_dict()
        keys = np.asarray(image.darrays[0].data).ravel()
        names = np.array([table.get(int(key), "") if key else "" for key in keys], dtype=object)
    if names.shape != (n_vertices,):
        raise InputError(
            f"{given if isinstance(given, str | os.PathLike) else 'the atlas'} labels {names.size:,} vertices, the images have "
            f"{n_vertices:,}: they lie on different meshes"
        )
    return np.array(["" if name.strip().lower() in NO_REGION else name for name in names], dtype=object)
