"""Variance of brain responses divided between bands of features: unique and shared parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from topobrain._checks import InputError, unknown
from topobrain.encoding.partition import TOTAL, Partition
from topobrain.plot.scores import plain_axes, points
from topobrain.plot.style import (
    CEILING,
    COLUMN_INCHES,
    NULL_MEAN,
    PAGE_INCHES,
    PALETTE,
    Look,
    place_legend,
    simulated_mark,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAND_LOOKS = (Look(PALETTE[0], "o"), Look(PALETTE[4], "s"), Look(PALETTE[2], "^"), Look(PALETTE[3], "D"))
SHARED_MARKERS = ("P", "X", "*", "h", "v", "<", ">", "p", "d", "8", "H")
GAP = 1.5
"""Space between regions, in components."""


def partition(
    result: Partition,
    ax: Axes | None = None,
    *,
    components: Sequence[str] | None = None,
    normalized: bool = False,
    legend: bool = True,
    title: str | None = None,
) -> Axes:
    """Draw what each band of features explains in every region that no other band does, and what bands share.

    Parameters
    ----------
    result
        From `topobrain.encoding.partition.partition_variance`.
    ax
        Where to draw; made if not given.
    components
        The parts to draw, in order: bands, sets of bands joined by `` & ``, and ``"total"`` (default: all of them).
    normalized
        Divide by the squared noise ceiling: the share of the variance that noise leaves to be explained.
    legend
        Name the parts.
    title
        Title instead of the model's name.

    Returns
    -------
    Axes
        Coloured markers: unique parts. Grey markers: shared parts. Ring: all bands together. Bars: 95 % bootstrap
        interval over stimuli. Negative values are drawn as they are. c2 below a region: its squared noise ceiling, which
        is also a dashed line where that lies near the values.

    Raises
    ------
    InputError
        An unknown part, or ``normalized`` without a ceiling.
    """
    import matplotlib.pyplot as plt

    if not isinstance(result, Partition):
        raise InputError(f"this plot draws partition results (Partition), got {type(result).__name__}")
    table = result.summary()
    every = list(dict.fromkeys(table["component"]))
    shown = every if components is None else list(components)
    for one in shown:
        if one not in every:
            raise unknown("part", one, every, "(in this partition)")
    regions = result.labels("region").tolist()
    squared = np.asarray(result.data["region_ceiling_squared"].values, dtype=float)
    if normalized and not (squared > 0).any():
        raise InputError("no noise ceiling is known here: draw the variance as it is (normalized=False)")
    own, width = ax is None, len(shown) + GAP
    if ax is None:
        wide = len(shown) * len(regions) > 16
        _, ax = plt.subplots(figsize=(PAGE_INCHES if wide else COLUMN_INCHES, 3.0), layout="constrained")
    looks = _looks(result)
    scale = 1 / squared if normalized else np.ones(len(regions))
    starts = width * np.arange(len(regions))
    for number, one in enumerate(shown):
        rows = table[table["component"] == one].set_index("roi").loc[regions]
        scores = [rows[name].to_numpy(dtype=float) * scale for name in ("variance", "low", "high")]
        kind = {"markerfacecolor": "white", "markeredgewidth": 1.2} if one == TOTAL else {}
        points(ax, starts + number, scores, looks[one], label=_named(one, rows["part"].iloc[0]), **kind)
    _regions(ax, regions, starts, len(shown), squared, normalized)
    plain_axes(ax, "variance / ceiling²" if normalized else "held-out variance ($R^2$)", "")
    if np.isfinite(squared).any() and not normalized:
        ax.set_xlabel("c²: squared noise ceiling", fontsize=6.5)
    ax.set_title((models_behind(result) if title is None else title) + simulated_mark(result.simulated), fontsize=8)
    if legend:
        place_legend(ax, beside=own)
    return ax


def _looks(result: Partition) -> dict[str, Look]:
    """Return the look of every part: bands in colours, shared parts in grey."""
    shared = [one for one in result.labels("component").tolist() if one not in result.bands]
    return {
        **dict(zip(result.bands, BAND_LOOKS, strict=False)),
        **{one: Look(NULL_MEAN, marker) for one, marker in zip(shared, SHARED_MARKERS, strict=False)},
        TOTAL: Look(CEILING, "o"),
    }


def _named(component: str, part: str) -> str:
    return (
        "all bands together" if part == TOTAL else f"only {component}" if part == "unique" else f"shared: {component}"
    )


def models_behind(result: Partition) -> str:
    """Return the names of the models behind the bands, where they say more than the bands' own names."""
    sources = result.provenance.get("bands", {})
    names = [str(sources.get(band, {}).get("model", {}).get("name", band)) for band in result.bands]
    return ", ".join(dict.fromkeys(name for name in names if name not in result.bands))


def _regions(
    ax: Axes, regions: Sequence[str], starts: np.ndarray, size: int, squared: np.ndarray, normalized: bool
) -> None:
    """Name the regions, with their squared ceiling, and draw it where it does not dwarf what is there."""
    middle = starts + (size - 1) / 2
    known = np.isfinite(squared) & (not normalized)
    names = [f"{name}\nc² {c:.2f}" if one else name for name, c, one in zip(regions, squared, known, strict=True)]
    ax.set_xticks(middle, names, fontsize=6.5)
    ax.set_xlim(-GAP, starts[-1] + size - 1 + GAP)
    _, high = ax.get_ylim()
    label: Any = "squared noise ceiling"
    for start, c, one in zip(starts, squared, known, strict=True):
        if one and c < 1.5 * high:
            ax.hlines(c, start - 0.5, start + size - 0.5, color=CEILING, linestyle="--", linewidth=1, label=label)
            label = None
    for start in starts[1:]:
        ax.axvline(start - (GAP + 1) / 2, color=CEILING, linewidth=0.4, linestyle=":")
