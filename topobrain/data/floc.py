"""The functional localizer of high-level visual cortex: faces, bodies, places, characters, objects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from topobrain._checks import DataFileError, InputError, listed, unknown
from topobrain.stimuli import StimulusSet
from topobrain.store.files import fetch, find_manifest

DOMAINS = {
    "adult": "faces",
    "child": "faces",
    "body": "bodies",
    "limb": "bodies",
    "corridor": "places",
    "house": "places",
    "number": "characters",
    "word": "characters",
    "car": "objects",
    "instrument": "objects",
    "scrambled": "scrambled",
}
"""Category (a folder of the data set) -> domain."""

ANIMACY = {"faces": "animate", "bodies": "animate", "places": "inanimate", "objects": "inanimate"}
"""Domain -> animacy; characters and scrambled images are ``neither``."""

REAL_SIZE = {"corridor": "big", "house": "big", "car": "big", "instrument": "small"}
"""Category -> real-world size of what is shown, among inanimate things; all others are ``neither``.

The label is that of the category, given by topobrain: rooms, buildings and cars are larger than a person; the instruments
are guitars, violins, mandolins, held in two hands. On the size scale of the THINGS norms a car has 361, a guitar 277, a
violin 261; corridor and house are not among their concepts. The small side is one category only, so that a size effect
cannot be told from one of instruments.
"""

NEITHER = "neither"


def load_floc(
    size: int | None = None,
    *,
    domains: str | Sequence[str] | None = None,
    n_per_category: int | None = None,
    seed: int = 0,
) -> StimulusSet:
    """Load the images that localize category-selective areas of visual cortex.

    Parameters
    ----------
    size
        Height and width in pixels (default 224, as they are in the store); others are resized with a Lanczos filter.
    domains
        One or several of ``"faces"``, ``"bodies"``, ``"places"``, ``"characters"``, ``"objects"``, ``"scrambled"``
        (default: all).
    n_per_category
        How many of the 144 images of each category, drawn with the seed (default: all). Only these are read.
    seed
        Of the draw.

    Returns
    -------
    StimulusSet
        Grey images as uint8 (size, size, 3), sorted by category. Columns: ``condition`` (the domain), ``category`` (two
        a domain, ``scrambled`` is its own), ``animacy`` (``animate``: faces and bodies, ``inanimate``: places and
        objects, ``neither``), ``real_size`` (``big``, ``small``, ``neither``, see `REAL_SIZE`), ``half`` (``odd``,
        ``even``, alternating within a category). All 1,584 images take 150,528 bytes each at 224 pixels, 238 MB together.

    Raises
    ------
    UnknownNameError
        No such domain.
    DataFileError
        A file is missing, altered, or no image.
    InputError
        The size or the number of images cannot be had.

    References
    ----------
    Stigliani, Weiner & Grill-Spector (2015) J Neurosci 35:12412.
    """
    import pandas as pd

    if size is not None and size < 1:
        raise InputError(f"size is a number of pixels, 1 or more; got {size}")
    manifest, paths = find_manifest("floc")
    chosen = _chosen(paths, domains, n_per_category, seed)
    files = fetch("floc", chosen)
    images, rows = [], []
    seen: dict[str, int] = {}
    for path in chosen:
        category = PurePosixPath(path).parent.name
        domain = DOMAINS[category]
        images.append(_read(files[path], size))
        number = seen[category] = seen.get(category, -1) + 1
        rows.append(
            {
                "stimulus": PurePosixPath(path).stem,
                "condition": domain,
                "category": category,
                "animacy": ANIMACY.get(domain, NEITHER),
                "real_size": REAL_SIZE.get(category, NEITHER),
                "half": "even" if number % 2 else "odd",
            }
        )
    provenance: dict[str, Any] = (
        manifest.provenance()
    )  # 1,584 hashes would swamp every result: the digest has the pixels
    if size is not None:
        provenance["size_pixels"] = size
    if n_per_category is not None:
        provenance |= {"n_per_category": n_per_category, "seed": seed}
    return StimulusSet(images, pd.DataFrame(rows), name="floc", provenance=provenance)


def _chosen(
    paths: Sequence[str], domains: str | Sequence[str] | None, n_per_category: int | None, seed: int
) -> list[str]:
    """Return the paths of the images that are asked for, sorted by category and number."""
    names = list(dict.fromkeys(DOMAINS.values()))
    wanted = names if domains is None else [domains] if isinstance(domains, str) else list(domains)
    if not wanted:
        raise InputError(f"no domain was asked for. Domains: {listed(names)}")
    for domain in wanted:
        if domain not in names:
            raise unknown("domain of fLoc", domain, names)
    generator = np.random.default_rng(seed)
    chosen: list[str] = []
    # Every category draws, wanted or not: the images of one do not depend on which others are asked for.
    for category, domain in DOMAINS.items():
        there = sorted((path for path in paths if PurePosixPath(path).parent.name == category), key=_number)
        if n_per_category is not None:
            if not 1 <= n_per_category <= len(there):
                raise InputError(f"n_per_category={n_per_category}: category {category!r} has {len(there)} images")
            drawn = np.sort(generator.permutation(len(there))[:n_per_category])
            there = [there[position] for position in drawn.tolist()]
        if domain in wanted:
            chosen += there
    return chosen


def _number(path: str) -> int:
    match = re.search(r"(\d+)\.\w+$", path)
    return int(match[1]) if match else 0


def _read(path: Path, size: int | None) -> np.ndarray:
    """Return an image as uint8 (height, width, 3)."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            image = opened.convert("L")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataFileError(f"{path} cannot be read as an image: {error}") from error
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    # Models of images take three channels.
    return np.repeat(np.asarray(image, dtype=np.uint8)[:, :, None], 3, axis=2)
