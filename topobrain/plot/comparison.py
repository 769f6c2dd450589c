"""Differences of encoding scores: between models, and between ways of making folds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from topobrain._checks import InputError, unknown
from topobrain.encoding import Leakage
from topobrain.encoding.comparison import Comparison
from topobrain.plot.scores import RAW, layer_ticks, plain_axes, points, region_panels
from topobrain.plot.style import (
    CEILING,
    COLUMN_INCHES,
    MARKERS,
    NULL,
    PAGE_INCHES,
    PALETTE,
    Look,
    place_legend,
    short_layers,
    simulated_mark,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHUFFLED, CONTIGUOUS = Look(PALETTE[4], "X"), Look(PALETTE[0], "o")

GAP = 1.5
"""Space between regions, in differences."""

STAR, DAGGER = "*", "†"


def comparison(
    result: Comparison | Mapping[str, Comparison] | Iterable[Comparison],
    ax: Axes | None = None,
    *,
    layer: str | None = None,
    level: float = 0.05,
    legend: bool = True,
    title: str | None = None,
) -> Axes:
    """Draw by how much one model predicts each region better than another.

    Parameters
    ----------
    result
        From `topobrain.encoding.comparison.compare`: one result, several, or names of one's own and results.
    ax
        Where to draw; made if not given.
    layer
        The pair of layers to draw, where a result has several (default: all of them, side by side).
    level
        A difference is marked below this p, corrected over regions.
    legend
        Name what is drawn, where there is more than one kind of it.
    title
        Title instead of the names of the two models.

    Returns
    -------
    Axes
        Markers: paired differences of r. Bars: 95 % interval over stimuli, both models scored on the same draws. Filled
        markers with a star: family-wise p (over the regions) below ``level``; open ones are not. Grey dots: each
        subject's difference; a dagger: the sign-flip test over subjects below ``level``, family-wise as well.

    Raises
    ------
    InputError
        Results of different regions, an unknown pair of layers.
    """
    import matplotlib.pyplot as plt

    results = _named_comparisons(result)
    regions = next(iter(results.values())).labels("region").tolist()
    series = []
    for name, one in results.items():
        if one.labels("region").tolist() != regions:
            raise InputError(f"comparisons drawn together need the same regions; {name!r} has others: a figure each")
        layers = one.labels("layer").tolist()
        if layer is not None and layer not in layers:
            raise unknown("pair of layers", layer, layers, "(in this comparison)")
        kept = layers if layer is None else [layer]
        for short, pair in zip(short_layers(kept), kept, strict=True):
            label = f"layer {short}" if len(results) == 1 else name if len(kept) == 1 else f"{name}, {short}"
            series.append((label, one.data.isel(layer=layers.index(pair))))
    own, width = ax is None, len(series) + GAP
    if ax is None:
        wide = len(series) * len(regions) > 12
        _, ax = plt.subplots(figsize=(PAGE_INCHES if wide else COLUMN_INCHES, 2.9), layout="constrained")
    starts = width * np.arange(len(regions))
    marked = set()
    for number, (label, data) in enumerate(series):
        look = Look(PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)])
        marked |= _differences(ax, starts + number, data, look, level, label if len(series) > 1 else None)
    _explain(ax, marked, level)
    plain_axes(ax, "difference in held-out r", "")
    ax.margins(y=0.12)
    ax.set_xticks(starts + (len(series) - 1) / 2, regions, fontsize=6.5)
    ax.set_xlim(-GAP, starts[-1] + len(series) - 1 + GAP)
    simulated = simulated_mark(any(one.simulated for one in results.values()))
    ax.set_title((title or (next(iter(results)) if len(results) == 1 else "")) + simulated, fontsize=8)
    if legend and ax.get_legend_handles_labels()[1]:
        place_legend(ax, beside=own)
    return ax


def _named_comparisons(given: Any) -> dict[str, Comparison]:
    """Return comparisons by name: their own, or those of the two models."""
    named = dict(given) if isinstance(given, Mapping) else None
    every = list(named.values()) if named is not None else [given] if not isinstance(given, Iterable) else list(given)
    for one in every:
        if not isinstance(one, Comparison):
            raise InputError(f"this plot draws comparison results (Comparison), got {type(one).__name__}")
    if not every:
        raise InputError("there is no comparison result to draw")
    found = named if named is not None else {versus(one): one for one in every}
    if len(found) < len(every):
        raise InputError("two comparisons are of the same models: name them, {'first': ..., 'second': ...}")
    return {str(name): one for name, one in found.items()}


def versus(result: Comparison) -> str:
    """Return what a comparison sets against what: the names given to `compare`, else those of the models."""
    names = []
    for side in ("a", "b"):
        fields = result.provenance.get(side, {})
        given = str(fields.get("name", side))
        names.append(str(fields.get("model", {}).get("name", given)) if given == side else given)
    return f"{names[0]} - {names[1]}"


def _differences(ax: Axes, x: np.ndarray, data: Any, look: Look, level: float, label: str | None) -> set[str]:
    """Draw one row of differences; return the marks that were used."""
    value, low, high, p, over_subjects = (
        np.asarray(data[name].values, dtype=float) for name in ("difference", "low", "high", "p_max", "subjects_p_max")
    )
    subjects = np.asarray(data["subject_difference"].transpose("subject", "region").values, dtype=float)
    several = len(subjects) > 1
    if several:
        spread = 0.5 * (np.arange(len(subjects)) * 0.618 % 1 - 0.5)  # the golden section: neighbours lie apart
        ax.plot((x[:, None] + spread).ravel(), subjects.T.ravel(), ".", color=NULL, markersize=2.5, zorder=1)
    sure = p < level
    points(ax, x, (value, low, high), look, markersize=5, markerfacecolor="white")
    points(ax, x[sure], (value[sure], low[sure], high[sure]), look, markersize=5)
    ax.plot([], [], linestyle="none", marker=look.marker, color=look.colour, markersize=5, label=label)
    tops = np.fmax(np.fmax(value, high), np.fmax.reduce(subjects) if several else value)
    used = {"dots"} if several else set()
    for place, top, mark in zip(x, tops, zip(sure, over_subjects < level, strict=True), strict=True):
        text = "".join(sign for sign, one in zip((STAR, DAGGER), mark, strict=True) if one)
        used |= set(text)
        if text:
            ax.annotate(text, (place, top), xytext=(0, 1), textcoords="offset points", ha="center", fontsize=8,
                        color=CEILING)  # fmt: skip
    return used


def _explain(ax: Axes, marked: set[str], level: float) -> None:
    """Name the marks that were used."""
    shown = f"{level:.3f}".rstrip("0").lstrip("0")
    if "dots" in marked:
        ax.plot([], [], ".", color=NULL, markersize=4, label="a subject")
    for sign, text in ((STAR, "filled: p over stimuli"), (DAGGER, "p over subjects")):
        if sign in marked:
            ax.plot([], [], linestyle="none", marker=f"${sign}$", markersize=5, color=CEILING,
                    label=f"{text} < {shown}, corrected over regions")  # fmt: skip


def leakage(
    result: Leakage, ax: Axes | None = None, *, roi: str | None = None, legend: bool = True, title: str | None = None
) -> Any:
    """Draw what shuffled folds score above contiguous ones, layer by layer, for one ROI or each in a panel of its own.

    Parameters
    ----------
    result
        From `topobrain.encoding.measure_leakage`.
    ax
        Where to draw one ROI; without it a figure is made, with a panel an ROI unless ``roi`` is given.
    roi
        The ROI to draw.
    legend
        Name what is drawn.
    title
        Title instead of the ROI's name.

    Returns
    -------
    Axes, or an array of them (one an ROI)
        Circles: contiguous folds. Crosses: shuffled folds. Grey bars: 95 % interval of the difference, drawn from the
        contiguous score; a star marks layers that leak, whose bar does not reach down to the circle.
    """
    import matplotlib.pyplot as plt

    if not isinstance(result, Leakage):
        raise InputError(f"this plot draws leakage results (Leakage), got {type(result).__name__}")
    regions = result.labels("region").tolist()
    if roi is not None and roi not in regions:
        raise unknown("ROI", roi, regions)
    if ax is not None and roi is None and len(regions) > 1:
        raise InputError(f"name the ROI to draw into one Axes (roi=...): {regions}")
    if ax is None and roi is None and len(regions) > 1:
        return region_panels(
            regions, lambda panel, region: _leaks(result, panel, region, None), legend=legend, title=title
        )
    own = ax is None
    if ax is None:
        _, ax = plt.subplots(figsize=(COLUMN_INCHES, 2.9), layout="constrained")
    _leaks(result, ax, roi or regions[0], title)
    if legend:
        place_legend(ax, beside=own)
    return ax


def _leaks(result: Leakage, ax: Axes, roi: str, title: str | None) -> None:
    one = result.data.isel(region=result.labels("region").tolist().index(roi))
    shuffled, contiguous, low, high = (one[name].values for name in ("shuffled", "contiguous", "low", "high"))
    places = np.arange(len(shuffled))
    if np.isfinite(low).any():
        ax.vlines(places, contiguous + low, contiguous + high, color=NULL, linewidth=5, zorder=1,
                  label="contiguous + difference, 95 %")  # fmt: skip
    nothing = np.full(len(places), np.nan)
    points(ax, places, (contiguous, nothing, nothing), CONTIGUOUS, label="contiguous folds", markersize=5)
    points(ax, places, (shuffled, nothing, nothing), SHUFFLED, label="shuffled folds", markersize=5)
    tops = np.fmax.reduce([shuffled, contiguous, contiguous + high])
    for x in places[low > 0]:
        ax.annotate("*", (x, tops[x]), xytext=(0, 0), textcoords="offset points", ha="center", fontsize=9,
                    color=CEILING)  # fmt: skip
    if (low > 0).any():
        ax.plot([], [], linestyle="none", marker="$*$", markersize=5, color=CEILING, label="leaks: interval above 0")
    plain_axes(ax, RAW)
    ax.margins(y=0.12)
    layer_ticks(ax, short_layers(result.labels("layer").tolist()))
    ax.set_xlim(-0.6, len(places) - 0.4)
    ax.set_title((title or roi) + simulated_mark(result.simulated), fontsize=8)
