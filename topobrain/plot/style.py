"""One look for all plots: colours that a colour-blind reader can tell apart, the same model always in the same one."""

from __future__ import annotations

import hashlib
import re

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#882255", "#117733")
"""Okabe and Ito's colours, and two of Tol's."""

UNTRAINED = "#7F7F7F"
NULL = "#BBBBBB"
CEILING = "#222222"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DIVERGING = "RdBu_r"
COLUMN_INCHES = 3.5
PAGE_INCHES = 7.2

_FIXED = {
    "topoformer": 0,
    "topoformer control": 1,
    "stories260k": 2,
    "minilm": 3,
    "length and frequency": 4,
    "true features": 5,
}


def _family(model: str) -> str:
    name = re.sub(r" \(untrained.*\)$", "", model)
    if name.startswith("topoformer-tiny"):
        return "topoformer control" if name.endswith("-control") else "topoformer"
    return name


def _slot(model: str) -> int:
    family = _family(model)
    if family in _FIXED:
        return _FIXED[family]
    return 5 + hashlib.sha256(family.encode()).digest()[0] % (len(PALETTE) - 5)


def model_colour(model: str) -> str:
    """Return a model's colour; every untrained model is grey and told apart by its marker.

    >>> model_colour("topoformer-tiny"), model_colour("topoformer-tiny (untrained)")
    ('#0072B2', '#7F7F7F')
    """
    return UNTRAINED if "(untrained" in model else PALETTE[_slot(model)]


def model_marker(model: str) -> str:
    """Return a model's marker: its family's, whether trained or not."""
    return MARKERS[_slot(model)]


def short_layer(layer: str) -> str:
    """Return a layer's name as it fits under an axis.

    >>> short_layer("blocks.0.attention.query"), short_layer("encoder.layer.3"), short_layer("embeddings")
    ('query', '3', 'emb')
    """
    stream = re.search(r"attention\.(\w+)$", layer)
    if stream:
        return stream.group(1)
    if layer == "embeddings":
        return "emb"
    if layer.startswith("blocks."):
        return "block"
    number = re.search(r"(\d+)$", layer)
    return number.group(1) if number else layer.rsplit(".", 1)[-1]


def simulated_mark(simulated: bool) -> str:
    """Return what a title ends with if its data are simulated."""
    return " (simulated)" if simulated else ""
