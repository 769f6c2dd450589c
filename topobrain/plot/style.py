"""One look for all plots: colours that a colour-blind reader can tell apart, the same model always in the same one."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#882255", "#117733")
"""Okabe and Ito's colours, and two of Tol's."""

UNTRAINED = "#7F7F7F"
NULL = "#BBBBBB"
NULL_MEAN = "#666666"
CEILING = "#222222"
MISSING = "#CFCFCF"
"""Grey of holes and of units without a value: no colour of the diverging scale, and darker than its white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p", "h", "<", ">")
DIVERGING = "RdBu_r"
COLUMN_INCHES = 3.5
PAGE_INCHES = 7.2
SMALLEST = 6.0
"""Points of the smallest letters."""

TWIN_MARKER = "s"
TWIN_COLOUR = PALETTE[1]
_TINT = 0.55
"""Share of white in the colour of a twin: lighter than its model also for those who see no red or green."""


class Look(NamedTuple):
    """How a model is drawn."""

    colour: str
    marker: str

    @property
    def face(self) -> str:
        """Fill of the marker: white for untrained models."""
        return "white" if self.colour == UNTRAINED else self.colour


_FAMILIES = {
    "topoformer": Look(PALETTE[0], "o"),
    "topoformer-imdb": Look("#004488", "h"),
    "topoformer-bert": Look("#00798C", "p"),
    "toponet-resnet18": Look(PALETTE[6], "D"),
    "toponet-resnet50": Look("#AA4499", "^"),
    "toponet-vit-b-32": Look("#332288", "v"),
    "toponet-nanogpt": Look(PALETTE[7], "P"),
    "topolm": Look("#994F00", "X"),
    "resnet18": Look("#B8336A", "<"),
    "resnet50": Look("#CC6677", ">"),
    "vit-b-32": Look("#6B7FD7", "*"),
    "nanogpt": Look("#44AA99", "*"),
    "gpt-neo-125m": Look("#999933", "D"),
    "stories260k": Look(PALETTE[2], "^"),
    "minilm": Look(PALETTE[3], "D"),
    "length and frequency": Look(PALETTE[4], "v"),
    "surprisal": Look("#CC79A7", "p"),
    "true features": Look(PALETTE[5], "P"),
    **dict.fromkeys(("twin", "control"), Look(TWIN_COLOUR, TWIN_MARKER)),
    "untrained": Look(UNTRAINED, "o"),
}
"""Known models by family: a model in each of its sizes, its twin, its untrained self."""

_FREE = tuple(Look(colour, marker) for marker in ("v", "X", "*", "p") for colour in PALETTE[2:])
"""Looks of models that are not known."""


class _Parts(NamedTuple):
    family: str
    twin: bool
    untrained: bool
    tau: float | None


def _parts(model: str) -> _Parts:
    """Take a model's name apart: ``toponet-nanogpt-tiny-tau3 (untrained 0)``."""
    untrained = "(untrained" in model or model.startswith("untrained")
    name = re.sub(r"\s*\(untrained.*\)$", "", model)
    twin = name.endswith("-control")
    name = name.removesuffix("-control")
    found = re.search(r"-tau(\d+(?:\.\d+)?)$", name)
    name = name[: found.start()] if found else name
    # what follows the size is a variant of the same family: topoformer-imdb-tiny-both
    name = re.sub(r"-(tiny|gpu|paper)(-[a-z]+)?$", "", name.removesuffix("-brown"))
    return _Parts(name, twin, untrained, float(found.group(1)) if found else None)


def model_look(model: str) -> Look:
    """Return a model's colour and marker.

    Untrained models are grey, with the marker of the trained one. Twins are squares in a lighter tint of their model's
    colour (orange for the Topoformer's). The stronger a TopoNet's loss (tau), the darker its colour.
    """
    parts = _parts(model)
    return _look(parts, _FAMILIES.get(parts.family) or _wanted(parts.family))


def _look(parts: _Parts, look: Look) -> Look:
    """Return the look of one member of a family."""
    if parts.tau is not None:
        # tau from 0.5 to 50: from three fifths white to nearly half black, in even steps of its logarithm; the plain
        # colour lies between the published values
        place = min(max(math.log10(max(parts.tau, 0.1) / 0.5) / 2, 0.0), 1.0)
        white, black = max(0.6 - place, 0.0), max(1.1 * (place - 0.6), 0.0)
        look = look._replace(colour=_mixed(_mixed(look.colour, "#FFFFFF", white), "#000000", black))
    if parts.twin:
        look = Look(TWIN_COLOUR if parts.family == "topoformer" else _mixed(look.colour, "#FFFFFF", _TINT), TWIN_MARKER)
    return look._replace(colour=UNTRAINED) if parts.untrained else look


def _wanted(family: str) -> Look:
    """Return the look that an unknown family has where nobody else has it."""
    return _FREE[hashlib.sha256(family.encode()).digest()[0] % len(_FREE)]


def model_looks(models: Iterable[str]) -> dict[str, Look]:
    """Return the look of each model of one picture: known models as ever, no two families alike.

    >>> looks = model_looks(["topoformer-tiny", "mine", "yours", "theirs"])
    >>> len({look.colour for look in looks.values()})
    4
    """
    parts = {model: _parts(model) for model in models}
    families = {one.family: _FAMILIES[one.family] for one in parts.values() if one.family in _FAMILIES}
    for one in parts.values():
        if one.family not in families:
            taken = {look.colour for look in families.values()}
            order = [_wanted(one.family), *_FREE]
            free = [look for look in order if look.colour not in taken]
            families[one.family] = (free or [look for look in order if look not in families.values()] or order)[0]
    return {model: _look(one, families[one.family]) for model, one in parts.items()}


def model_colour(model: str) -> str:
    """Return a model's colour; every untrained model is grey and told apart by its marker.

    >>> model_colour("topoformer-tiny"), model_colour("topoformer-tiny (untrained)")
    ('#0072B2', '#7F7F7F')
    """
    return model_look(model).colour


def model_marker(model: str) -> str:
    """Return a model's marker: its family's, whether trained or not."""
    return model_look(model).marker


def _mixed(colour: str, other: str, share: float) -> str:
    """Return a colour with a share of another in it."""
    pairs = zip(*([int(one[i : i + 2], 16) for i in (1, 3, 5)] for one in (colour, other)), strict=True)
    return "#" + "".join(f"{round((1 - share) * a + share * b):02X}" for a, b in pairs)


def short_layer(layer: str) -> str:
    """Return a layer's name as it fits under an axis.

    Of one block alone its streams keep their names; the parts of later blocks have the block's number.

    >>> short_layer("blocks.0.attention.query"), short_layer("encoder.layer.3"), short_layer("embeddings")
    ('query', '3', 'emb')
    >>> short_layer("blocks.3.mlp.c_fc"), short_layer("layer3.1.conv2")
    ('3.c_fc', 'layer3.1.conv2')
    """
    if layer in ("embeddings", "embedding"):
        return "emb"
    if re.fullmatch(r"blocks\.0", layer):
        return "block"
    if re.match(r"layer\d+(\.|$)", layer):  # a residual network's layers are known by their whole names
        return layer
    stream = re.fullmatch(r"blocks\.0\.attention\.(\w+(\.\d+)?)", layer)
    if stream:
        return stream.group(1)
    return _numbered(layer)


def _numbered(layer: str) -> str:
    """Return a layer's block number and what it is in the block: ``blocks.3.mlp.c_fc`` -> ``3.c_fc``."""
    words = layer.split(".")
    numbers = [re.fullmatch(r"(?:\w*layer_)?(\d+)", word) for word in words]
    at = next((place for place, found in enumerate(numbers) if found), None)
    if at is None:
        return words[-1]
    found, inside = numbers[at], words[at + 1 :]
    assert found is not None
    kept = 2 if len(inside) > 1 and inside[-1].isdecimal() else 1  # mlp.0 says more than 0
    return ".".join([found.group(1), *inside[-kept:]])


def short_layers(layers: Iterable[str]) -> list[str]:
    """Return short names of the layers of one picture, told apart by their blocks' numbers where they must be.

    >>> short_layers(["blocks.0.attention.query", "blocks.1.attention.query"]), short_layers(["blocks.0", "blocks.1"])
    (['0.query', '1.query'], ['0', '1'])
    """
    names = list(layers)
    short = [short_layer(name) for name in names]
    blocks = {found.group(1) for found in (re.match(r"blocks\.(\d+)", name) for name in names) if found}
    if len(blocks) > 1:
        short = [_numbered(name) if name.startswith("blocks.") else one for name, one in zip(names, short, strict=True)]
    doubled = {one for one in short if short.count(one) > 1}
    return [name if one in doubled else one for name, one in zip(names, short, strict=True)]


def null_bars(
    ax: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, width: float, *, label: str | None = None
) -> None:
    """Draw what a null gives in grey bars from ``low`` to ``high``."""
    bars = ax.bar(x, high - low, width, bottom=low, color=NULL, linewidth=0, zorder=1, label=label)
    for bar in bars:  # matplotlib would let the axis end where a bar ends
        bar.sticky_edges.y.clear()
    ax.autoscale_view()


def place_legend(ax: Axes, *, beside: bool) -> None:
    """Name what is drawn: under the axes where the figure is one's own (``beside``), else where there is room."""
    drawn, names = ax.get_legend_handles_labels()
    if beside:
        entry = 0.06 * max(map(len, names), default=1) + 0.3  # inches of the longest name and its marker
        columns = max(1, int(ax.figure.bbox.width / ax.figure.dpi / entry))
        ax.figure.legend(
            drawn, names, fontsize=6.5, frameon=False, columnspacing=1.0, ncols=columns, loc="outside lower center"
        )
    else:
        ax.legend(drawn, names, fontsize=6.5, framealpha=0.8, edgecolor="none", loc="best")


def simulated_mark(simulated: bool) -> str:
    """Return what a title ends with if its data are simulated."""
    return " (simulated)" if simulated else ""
