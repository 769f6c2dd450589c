"""Opening brain images: every complaint names the file, and images that do not lie on one grid are never mixed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from topobrain._checks import DataFileError, InputError, listed, near
from topobrain.stimuli import StimulusSet

ImageLike: TypeAlias = "str | os.PathLike[str] | Any"
"""A file, or an image that is already open (nibabel)."""

AFFINE_TOLERANCE_MM = 1e-3
"""Affines that differ by less are the same grid: headers keep them in single precision."""


def named(image: ImageLike) -> str:
    """Return what to call an image in a message: its file, or that it has none."""
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    file = getattr(image, "get_filename", lambda: None)()
    return str(file) if file else f"an image in memory of shape {getattr(image, 'shape', '?')}"


def open_image(image: ImageLike, what: str = "image") -> Any:
    """Open a brain image with nibabel.

    Parameters
    ----------
    image
        A file, or an open image (returned as it is).
    what
        What it is, for messages.

    Raises
    ------
    DataFileError
        The file is missing (those beside it with near names are listed), truncated, or of no format nibabel reads.
    """
    if not isinstance(image, str | os.PathLike):
        return image
    import nibabel

    source = Path(image).expanduser()
    if not source.is_file():
        beside = sorted(p.name for p in source.parent.iterdir()) if source.parent.is_dir() else None
        where = "its folder does not exist" if beside is None else f"that folder holds {listed(beside, 8)}"
        close = near(source.name, beside or [])
        raise DataFileError(
            f"no {what} {source}.{f' Did you mean {close[0]!r}?' if close else ''} {where[0].upper()}{where[1:]}"
        )
    try:
        return nibabel.load(source)
    except Exception as error:  # nibabel, gzip, zlib and expat each have errors of their own
        raise DataFileError(f"{source} cannot be read as a brain image: {error}") from error


def image_data(image: Any) -> np.ndarray:
    """Return an image's values: float64 where they are stored so, float32 otherwise.

    Raises
    ------
    DataFileError
        The file ends before its values do.
    """
    try:
        data = np.asanyarray(image.dataobj)
    except Exception as error:  # a truncated gzip stream, a file shorter than its header says, ...
        raise DataFileError(f"{named(image)} cannot be read to its end (truncated?): {error}") from error
    stored = image.get_data_dtype()
    if np.iscomplexobj(data):
        raise InputError(f"{named(image)} holds complex numbers: expected real ones")
    return np.asarray(data.astype(np.float64 if stored == np.float64 else np.float32, copy=False))


def same_grid(first: Any, other: Any) -> bool:
    """Return whether two volumes have the same shape in space and the same affine."""
    return first.shape[:3] == other.shape[:3] and bool(
        np.allclose(first.affine, other.affine, atol=AFFINE_TOLERANCE_MM)
    )


def grid_words(image: Any) -> str:
    """Return the grid of a volume in words: shape, voxel size, origin."""
    size = np.sqrt((np.asarray(image.affine)[:3, :3] ** 2).sum(axis=0))
    origin = np.asarray(image.affine)[:3, 3]
    return (
        f"{' x '.join(str(n) for n in image.shape[:3])} voxels of {' x '.join(f'{x:g}' for x in size.round(3))} mm, "
        f"origin {' '.join(f'{x:g}' for x in origin.round(2))}"
    )


def stacked_volumes(images: Sequence[ImageLike]) -> Any:
    """Return volumes of one grid as one image (i, j, k, volume), held in memory once.

    Raises
    ------
    InputError
        An image has another grid than the first, or fewer than three axes: its file and both grids are named.
    """
    import nibabel

    opened = [open_image(image) for image in images]
    first = opened[0]
    for image in opened:
        if len(getattr(image, "shape", ())) not in (3, 4) or not hasattr(image, "affine"):
            raise InputError(
                f"{named(image)} has shape {getattr(image, 'shape', '?')}: expected a volume (3D) or volumes (4D)"
            )
        if not same_grid(first, image):
            raise InputError(
                f"{named(image)} lies on another grid than {named(first)}: {grid_words(image)}, against "
                f"{grid_words(first)}. Resample it first (nilearn.image.resample_to_img)"
            )
    arrays = [image_data(image) for image in opened]
    volumes = [array if array.ndim == 4 else array[..., np.newaxis] for array in arrays]
    data = volumes[0] if len(volumes) == 1 else np.concatenate(volumes, axis=3)
    return nibabel.Nifti1Image(data, first.affine)


def image_of_each(images: Mapping[str, ImageLike], ids: Sequence[str]) -> list[ImageLike]:
    """Return the images of stimuli in their order, from a mapping of identifiers to images.

    Raises
    ------
    InputError
        A stimulus has no image, or an image no stimulus.
    """
    missing = [label for label in ids if label not in images]
    if missing:
        close = near(missing[0], images)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        raise InputError(f"{len(missing)} stimuli have no image: {listed(missing, 5)}.{guess}")
    more = [label for label in images if label not in set(ids)]
    if more:
        raise InputError(f"{len(more)} images belong to no stimulus: {listed(more, 5)}")
    return [images[label] for label in ids]


def filled(template: str, ids: Sequence[str]) -> dict[str, str]:
    """Return identifier -> file for a template such as ``"betas/{stimulus}.nii.gz"``."""
    return {label: template.replace("{stimulus}", label) for label in ids}


def as_list(images: Any, stimuli: StimulusSet) -> list[ImageLike]:
    """Return what was given for images as a list in stimulus order: one, several, a mapping, or a template."""
    if isinstance(images, str) and "{stimulus}" in images:
        images = filled(images, stimuli.ids)
    if isinstance(images, Mapping):
        return image_of_each({str(key): image for key, image in images.items()}, stimuli.ids)
    given = list(images) if isinstance(images, list | tuple) else [images]
    if not given:
        raise InputError("no image was given: expected one 4D image, or one image a stimulus")
    return given


def require_rows(n_rows: int, order: Sequence[str], images: Sequence[ImageLike]) -> None:
    """Raise unless there is one volume a stimulus."""
    if n_rows == len(order):
        return
    source = named(images[0]) if len(images) == 1 else f"{len(images)} images"
    hint = (
        ". It is one volume (3D): expected 4D, or one image a stimulus"
        if len(images) == 1 and n_rows == 1
        else ". If stimuli were repeated, say with order= which stimulus each volume belongs to"
        if n_rows > len(order)
        else ""
    )
    raise InputError(f"{source}: {n_rows} volumes for {len(order)} stimuli, expected one each{hint}")
