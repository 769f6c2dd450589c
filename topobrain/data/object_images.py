"""Pictures of single things, and norms that say of a thing's name whether it is alive and how large it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from topobrain._checks import InputError
from topobrain.data.tables import read_archive, read_columns
from topobrain.stimuli import StimulusSet
from topobrain.store.files import fetch, find_manifest

if TYPE_CHECKING:
    import pandas as pd

RATINGS = ("lives", "moves", "natural", "manmade", "heavy", "grasp", "hold")
"""Ratings of the norms that are read, each on a scale from 1 to 7."""

SIZE_EDGES = (240.0, 290.0)
"""On the size scale of THINGS (0 to 520): up to a basketball (about 240) is ``small``, from a chair (290) on ``big``."""

ANIMATE_RATING, INANIMATE_RATING = 4.5, 3.5
"""On the scale 1 to 7: what lives *and* moves is animate, what does not live inanimate; plants are neither."""


def load_objects92(size: int | None = None) -> StimulusSet:
    """Load 92 pictures of human and animal faces and bodies, natural things and artefacts.

    The store knows their categories but not what each one shows, so that real-world size cannot be given for them.

    Parameters
    ----------
    size
        Height and width in pixels (default 175, as they are in the store); others are resized with a Lanczos filter.

    Returns
    -------
    StimulusSet
        Colour pictures as uint8 (size, size, 3). Columns: ``condition`` (``animate``: 48, ``inanimate``: 44),
        ``category`` (``human face``, ``human bodypart``, ``nonhuman face``, ``nonhuman bodypart``: 12 each; ``natural
        inanimate``: 23; ``artificial inanimate``: 21), ``part`` (``face``, ``body``, ``none``), ``half`` (``odd``,
        ``even``, alternating within a category).

    Raises
    ------
    DataFileError
        The file is missing, altered or no archive.
    InputError
        An array is missing or of another form, or the size is less than 1.

    References
    ----------
    Kriegeskorte et al. (2008) Neuron 60:1126.
    """
    import numpy as np
    import pandas as pd
    from PIL import Image

    if size is not None and size < 1:
        raise InputError(f"size is a number of pixels, 1 or more; got {size}")
    ((name, path),) = fetch("objects92").items()
    arrays = read_archive(path, ["images", "category", "animal", "face"])
    images, categories = arrays["images"], [str(category) for category in arrays["category"]]
    animal, face = arrays["animal"], arrays["face"]
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise InputError(f"{path}: images are {images.dtype} {images.shape}, expected uint8 (image, height, width, 3)")
    if not len(images) == len(categories) == len(animal) == len(face):
        raise InputError(f"{path}: {len(images)} images, {len(categories)} categories, {len(animal)} labels of animals")
    rank = pd.Series(categories).groupby(categories).cumcount()
    table = {
        "stimulus": [f"object-{number:02d}" for number in range(1, len(images) + 1)],
        "condition": ["animate" if alive else "inanimate" for alive in animal],
        "category": categories,
        "part": ["face" if shown else "body" if alive else "none" for shown, alive in zip(face, animal, strict=True)],
        "half": ["even" if number % 2 else "odd" for number in rank],
    }
    items = list(images)
    if size is not None and images.shape[1:3] != (size, size):
        items = [np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS)) for image in items]
    manifest, _ = find_manifest("objects92")
    return StimulusSet(items, pd.DataFrame(table), name="objects92", provenance=manifest.provenance(name))


def load_object_norms() -> pd.DataFrame:
    """Load what people think of 1,854 object concepts: whether they live, move, and how large they are.

    Returns
    -------
    DataFrame
        Index: the concept (its identifier in THINGS with blanks, e.g. ``"palm tree"``, ``"bat1"``). Columns: means
        of the ratings ``lives``, ``moves``, ``natural``, ``manmade``, ``heavy``, ``grasp``, ``hold`` (1 to 7); ``size``
        (0 to 520, on a scale whose marks are things of known size). Seven concepts have no size (not a number): their
        rows of the source name another concept than they rate.

    Raises
    ------
    DataFileError
        A file is missing or altered.
    InputError
        A file lacks a column.

    References
    ----------
    Stoinski, Perkuhn & Hebart (2023) Behavior Research Methods: THINGSplus.
    """
    import pandas as pd

    files = fetch("things_norms", ["animacy.csv", "size_fixed.csv"])
    columns = {f"{rating}_mean": rating for rating in RATINGS}
    rated = read_columns(files["animacy.csv"], ["uniqueID", *columns])
    concepts = pd.Index([_plain(name) for name in rated["uniqueID"]], name="concept")
    norms = rated[list(columns)].astype(float).rename(columns=columns).set_index(concepts)
    sizes = read_columns(files["size_fixed.csv"], ["word", "uniqueID", "meanSize"], separator=";")
    size = {}
    for name, word, mean in zip(sizes["uniqueID"], sizes["word"], sizes["meanSize"], strict=True):
        # "bat1" is one of the meanings of "bat"; "baseball bat" in a row that was rated as "baseball" is a slip.
        if re.sub(r"\d+$", "", _plain(name)) == _plain(word):
            size[_plain(name)] = float(mean)
    norms["size"] = pd.Series(size, dtype=float).reindex(norms.index)
    return norms


def label_images(names: Sequence[str], *, size_edges: tuple[float, float] = SIZE_EDGES) -> pd.DataFrame:
    """Say of the names of things whether they are animate and whether they are big, by the norms of THINGS.

    Parameters
    ----------
    names
        Names of things, such as the class of each image. Case, hyphens and underscores do not matter.
    size_edges
        Up to the first a thing is small, from the second on big, between them ``medium`` (scale of
        `load_object_norms`).

    Returns
    -------
    DataFrame
        A row a name, in the order given: ``name``, ``concept`` (empty where there is no such concept, or where it has
        several meanings: give ``"bat1"`` for the animal then), ``animacy`` (``animate``: lives and moves of 4.5 or more;
        ``inanimate``: lives of 3.5 or less; else ``unclear``: plants, hair), ``real_size`` (``small``, ``medium``,
        ``big``), ``lives``, ``size``; without a concept ``unknown`` and not a number. The share of matched names is
        ``(labels["concept"] != "").mean()``.

    Raises
    ------
    DataFileError
        A file is missing or altered.
    InputError
        One string was given, or the edges are not in order.
    """
    import numpy as np
    import pandas as pd

    if isinstance(names, str):
        raise InputError("names must be a sequence of names, got one string; wrap it in a list")
    small, big = size_edges
    if not small <= big:
        raise InputError(f"size_edges are (small, big) with small <= big, got {size_edges}")
    norms = load_object_norms()
    concepts = [_plain(name) for name in names]
    concepts = [concept if concept in norms.index else "" for concept in concepts]
    found = norms.reindex([concept or None for concept in concepts])
    lives, moves, size = (found[column].to_numpy(dtype=float) for column in ("lives", "moves", "size"))
    animacy = np.select(
        [np.isnan(lives), (lives >= ANIMATE_RATING) & (moves >= ANIMATE_RATING), lives <= INANIMATE_RATING],
        ["unknown", "animate", "inanimate"],
        "unclear",
    )
    real_size = np.select([np.isnan(size), size <= small, size >= big], ["unknown", "small", "big"], "medium")
    return pd.DataFrame(
        {
            "name": list(names),
            "concept": concepts,
            "animacy": animacy,
            "real_size": real_size,
            "lives": lives,
            "size": size,
        }
    )


def _plain(name: object) -> str:
    """Return a name as the norms write it: lower case, blanks between words."""
    return re.sub(r"[\s_-]+", " ", str(name).strip().lower())
