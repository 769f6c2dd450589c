"""CIFAR-10: 60,000 small colour pictures of ten categories, as lossy JPEG copies."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from topobrain._checks import DataFileError, InputError, require_choice
from topobrain.data.tables import read_archive
from topobrain.stimuli import StimulusSet
from topobrain.store.cache import cache_directory
from topobrain.store.files import fetch, find_manifest

NAME, FILE = "cifar10_jpeg", "cifar10_jpeg.npz"
SPLITS = ("train", "test")
SIDE = 32


class Cifar10(NamedTuple):
    """Pictures with their labels.

    Attributes
    ----------
    images
        uint8 (image, 32, 32, 3).
    labels
        int64 (image,): position of each picture's category in ``classes``.
    classes
        Names of the ten categories.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


def load_cifar10(split: str = "train", *, limit: int | None = None) -> Cifar10:
    """Load the pictures of CIFAR-10 and their categories.

    The file is sorted by category: shuffle before training. Decoding all pictures takes seconds, so they are kept
    decoded in the cache once all of a split were asked for (150 MB for ``"train"``).

    Parameters
    ----------
    split
        ``"train"`` (50,000 pictures, 5,000 a category) or ``"test"`` (10,000 and 1,000).
    limit
        Load only so many, evenly spread over the file and so over the categories.

    Returns
    -------
    Cifar10
        ``(images, labels, classes)``. The pictures are lossy copies: accuracies are not exactly those of the original.

    Raises
    ------
    DataFileError
        The file is missing, altered, or a picture in it cannot be decoded.
    InputError
        The limit is not 1 or more, or an array is missing.

    References
    ----------
    Krizhevsky (2009) Learning multiple layers of features from tiny images. Technical report, University of Toronto.
    """
    require_choice("split of CIFAR-10", split, SPLITS)
    if limit is not None and limit < 1:
        raise InputError(f"limit is a number of pictures, 1 or more; got {limit}")
    path = fetch(NAME)[FILE]
    arrays = read_archive(path, ["jpeg", "offset", "label", "is_test", "classes"])
    _check(arrays, path)
    positions = np.flatnonzero(arrays["is_test"] == (split == "test"))
    if limit is not None and limit < len(positions):
        positions = positions[np.arange(limit) * len(positions) // limit]
        images = _decoded(arrays, positions, path)
    else:
        images = _cached(arrays, positions, path, split)
    labels = arrays["label"][positions].astype(np.int64)
    return Cifar10(images, labels, tuple(str(name) for name in arrays["classes"]))


def load_stimuli(split: str = "test", limit: int | None = 1000) -> StimulusSet:
    """Load pictures of CIFAR-10 as stimuli.

    Parameters
    ----------
    split
        ``"test"`` or ``"train"``.
    limit
        How many, evenly spread over the categories (None: all).

    Returns
    -------
    StimulusSet
        Pictures (32, 32, 3); column ``condition`` is the category.

    Raises
    ------
    DataFileError
        The file is missing, altered, or a picture in it cannot be decoded.
    """
    images, labels, classes = load_cifar10(split, limit=limit)
    manifest, paths = find_manifest(NAME)
    table = {"condition": [classes[label] for label in labels]}
    return StimulusSet(list(images), table, name=f"cifar10-{split}", provenance=manifest.provenance(*paths))


def _check(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Raise unless the arrays of the archive belong together."""
    n = len(arrays["label"])
    offset = arrays["offset"]
    shapes = {"offset": (n + 1,), "is_test": (n,), "label": (n,)}
    for name, shape in shapes.items():
        if arrays[name].shape != shape or arrays[name].dtype.kind not in "iu":
            raise DataFileError(
                f"{path}: {name} is {arrays[name].dtype} of shape {arrays[name].shape}, expected {shape}"
            )
    if (
        arrays["jpeg"].dtype != np.uint8
        or offset[0] < 0
        or (np.diff(offset) <= 0).any()
        or offset[-1] > len(arrays["jpeg"])
    ):
        raise DataFileError(f"{path}: the pictures' offsets do not fit the {len(arrays['jpeg'])} bytes of pictures")
    if arrays["label"].min() < 0 or arrays["label"].max() >= len(arrays["classes"]):
        raise DataFileError(f"{path}: labels run beyond the {len(arrays['classes'])} categories")


def _decoded(arrays: dict[str, np.ndarray], positions: np.ndarray, path: Path) -> np.ndarray:
    """Return pictures of the archive as uint8 (image, 32, 32, 3)."""
    from PIL import Image, UnidentifiedImageError

    images = np.empty((len(positions), SIDE, SIDE, 3), dtype=np.uint8)
    offset = arrays["offset"]
    for row, position in enumerate(positions.tolist()):
        encoded = arrays["jpeg"][offset[position] : offset[position + 1]].tobytes()
        try:
            with Image.open(io.BytesIO(encoded)) as opened:
                pixels = np.asarray(opened.convert("RGB"))
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise DataFileError(f"{path}: picture {position} cannot be decoded: {error}") from error
        if pixels.shape != images.shape[1:]:
            raise DataFileError(f"{path}: picture {position} has shape {pixels.shape}, expected {images.shape[1:]}")
        images[row] = pixels
    return images


def _cached(arrays: dict[str, np.ndarray], positions: np.ndarray, path: Path, split: str) -> np.ndarray:
    """Return all pictures of a split from the cache, or decode them and put them there."""
    import PIL

    manifest, _ = find_manifest(NAME)
    # Another decoder may round another way, so its version is part of the name.
    mark = f"{(manifest.files[0].sha256 or '')[:16]}-{len(positions)}-pillow{PIL.__version__}"
    kept = cache_directory() / "cifar10" / f"{split}-{mark}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):  # not there, or cut short: it is made again
        images: np.ndarray = np.load(kept, allow_pickle=False)
        if images.shape == (len(positions), SIDE, SIDE, 3) and images.dtype == np.uint8:
            return images
    images = _decoded(arrays, positions, path)
    part = kept.with_name(f"{kept.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, not the data
        kept.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as stream:
                np.save(stream, images)
            part.replace(kept)
        finally:
            part.unlink(missing_ok=True)
    return images
