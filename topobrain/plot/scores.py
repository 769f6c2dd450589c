"""Encoding scores, with their ceiling, interval and null drawn in; of regions, and of many voxels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from topobrain._checks import InputError, unknown
from topobrain.encoding import Encoding
from topobrain.plot.named_results import named_results
from topobrain.plot.style import (
    CEILING,
    COLUMN_INCHES,
    NULL,
    PAGE_INCHES,
    Look,
    model_looks,
    place_legend,
    short_layers,
    simulated_mark,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHOSEN = "chosen in training folds"
RAW, NORMALIZED = "held-out r", "held-out r / noise ceiling"
MOST_PANELS = 36
"""ROIs drawn at once, each in a panel of its own."""

SPREAD = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles over voxels: ends of the thin bar, ends of the thick one, and the marker."""


def encoding(
    result: Encoding | Mapping[str, Encoding] | Iterable[Encoding],
    ax: Axes | None = None,
    *,
    roi: str | None = None,
    normalized: bool = False,
    legend: bool = True,
    title: str | None = None,
) -> Any:
    """Draw how well each layer predicts an ROI, or every ROI in a panel of its own.

    Parameters
    ----------
    result
        One encoding result, or several whose layers have the same number (a model, its twin, its untrained self), or
        names of one's own and results.
    ax
        Where to draw one ROI; without it a figure is made, with a panel an ROI unless ``roi`` is given.
    roi
        The ROI to draw.
    normalized
        Divide everything by the ROI's noise ceiling. Nothing is clipped: a score above 1 is drawn above 1.
    legend
        Name the models.
    title
        Title instead of the ROI's name.

    Returns
    -------
    Axes, or an array of them (one an ROI)
        Points: mean r over folds and voxels. Bars: 95 % bootstrap interval over stimuli. Dashed line: noise ceiling.
        Grey band: middle 95 % of the permuted scores (of all results drawn). At the right edge, with a black rim: the
        score of the layers chosen inside the training folds, which no held-out stimulus helped to choose.

    Raises
    ------
    InputError
        Results of different depth or (without ``roi``) of different ROIs, several ROIs for one Axes, more than `MOST_PANELS`
        of them, or ``normalized`` without a ceiling above 0.
    """
    import matplotlib.pyplot as plt

    results = named_results(result, Encoding)
    _require_equal_depth(results.values())
    regions = next(iter(results.values())).regions
    for one in results.values():
        if roi is not None and roi not in one.regions:
            raise unknown("ROI", roi, one.regions)
    alone = ax is not None or roi is not None or len(regions) == 1
    if alone and roi is None and len(regions) > 1:
        raise InputError(f"name the ROI to draw into one Axes (roi=...): {regions}")
    shown = [roi or regions[0]] if alone else regions
    for name, one in results.items() if roi is None else ():
        for region in (*regions, *one.regions):
            if region not in one.regions or region not in regions:
                lacking = name if region not in one.regions else first_name(results)
                raise InputError(
                    f"the results have different ROIs: {lacking!r} has no {region!r}. Name one that all of them have "
                    "(roi=...), or draw them apart"
                )
    if normalized and not any(_ceiling(one, region) > 0 for one in results.values() for region in shown):
        raise InputError("no noise ceiling is known here: draw r as it is (normalized=False)")
    if alone:
        own = ax is None
        if ax is None:
            _, ax = plt.subplots(figsize=(COLUMN_INCHES, 2.8 + 0.15 * len(results)), layout="constrained")
        _one(results, ax, shown[0], normalized, title)
        if legend:
            place_legend(ax, beside=own)
        return ax

    if len(regions) > MOST_PANELS:
        raise InputError(
            f"{len(regions)} ROIs would be as many panels (at most {MOST_PANELS} are drawn): name one (roi=...), draw the spread "
            "over all of them (encoding_voxels), or write a map for a brain viewer (topobrain.save_map)"
        )

    def draw(panel: Axes, region: str) -> None:
        _one(results, panel, region, normalized, None)

    return region_panels(regions, draw, legend=legend, title=title)


def encoding_voxels(
    result: Encoding | Mapping[str, Encoding] | Iterable[Encoding],
    ax: Axes | None = None,
    *,
    roi: str | None = None,
    normalized: bool | None = None,
    q: float = 0.05,
    legend: bool = True,
    title: str | None = None,
) -> Axes:
    """Draw how the scores of many voxels are spread in each layer, and how many of them are above chance.

    Parameters
    ----------
    result
        As in `encoding`.
    ax
        Where to draw; made if not given.
    roi
        Only the voxels of this ROI (default: all voxels).
    normalized
        Divide r by each voxel's noise ceiling; by default where a ceiling is known. Nothing is clipped.
    q
        A voxel counts as above chance below this q (permutation p after Benjamini and Hochberg over the layer's voxels).
    legend
        Name the models.
    title
        Title instead of the ROI's name and the number of voxels.

    Returns
    -------
    Axes
        Markers: the median voxel. Thick bars: middle 50 % of the voxels. Thin bars: middle 90 %. Numbers on top: share
        of the scored voxels below ``q``.

    Raises
    ------
    InputError
        Results of different depth, ``normalized`` without ceilings, or no voxel with a score.
    """
    import matplotlib.pyplot as plt

    results = named_results(result, Encoding)
    _require_equal_depth(results.values())
    inside = {name: _voxels_of(one, roi) for name, one in results.items()}
    known = any(np.isfinite(one.data["normalized"].values[:, inside[name]]).any() for name, one in results.items())
    if normalized and not known:
        raise InputError("no voxel here has a noise ceiling above 0: draw r as it is (normalized=False)")
    divided = known if normalized is None else normalized
    scores = {
        name: (one.data["normalized"] if divided else one.data["r"].mean("fold", skipna=False)).values[:, inside[name]]
        for name, one in results.items()
    }
    first = next(iter(results.values()))
    n_scored = int(
        np.isfinite(first.data["r"].mean("fold", skipna=False).values[:, inside[first_name(results)]]).any(axis=0).sum()
    )
    n_drawn = int(np.isfinite(next(iter(scores.values()))).any(axis=0).sum())
    if not all(np.isfinite(values).any() for values in scores.values()):
        raise InputError(f"no voxel of {roi or 'this result'} has a score (missing or constant values)")
    own, n_layers = ax is None, len(first.layers)
    if ax is None:
        wide = n_layers * len(results) > 14
        _, ax = plt.subplots(figsize=(PAGE_INCHES if wide else COLUMN_INCHES, 3.0), layout="constrained")
    places, looks = np.arange(n_layers), model_looks(results)
    step = min(0.8 / len(results), 0.3)
    for number, (name, values) in enumerate(scores.items()):
        x = places + (number - (len(results) - 1) / 2) * step
        _spread(ax, x, values, looks[name], name)
        _shares(ax, places, results[name].data["q"].values[:, inside[name]], q, number, looks[name], first=number == 0)
    ax.plot([], [], color=CEILING, linewidth=3, solid_capstyle="butt", label="middle 50 % of voxels")
    ax.plot([], [], color=CEILING, linewidth=0.8, label="middle 90 %")
    if divided:
        ax.axhline(1, color=CEILING, linestyle="--", linewidth=1, label="noise ceiling")
    plain_axes(ax, NORMALIZED if divided else RAW if known else f"{RAW} (noise ceiling unknown)")
    layer_ticks(ax, short_layers(first.layers))
    ax.set_xlim(-0.6, n_layers - 0.4)
    count = f"{n_drawn:,} voxels" if n_drawn == n_scored else f"{n_drawn:,} of {n_scored:,} voxels: ceiling known"
    head = f"{roi}, {count}" if roi else count
    ax.set_title(
        (title or head) + simulated_mark(any(one.simulated for one in results.values())),
        fontsize=8, pad=6 + 7 * len(results),
    )  # fmt: skip
    if legend:
        place_legend(ax, beside=own)
    return ax


def first_name(results: Mapping[str, Any]) -> str:
    """Return the name of the first of several results."""
    return next(iter(results))


def region_panels(
    regions: Sequence[str], draw: Callable[[Axes, str], None], *, legend: bool, title: str | None
) -> np.ndarray:
    """Make a figure with a panel a region, draw each, and name once what is drawn; return the panels."""
    import matplotlib.pyplot as plt

    columns = min(3, len(regions))
    rows = -(-len(regions) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.4 * columns, 2.2 * rows + 0.5), sharey=True, squeeze=False, layout="constrained"
    )
    handles: dict[str, Any] = {}
    for number, (panel, region) in enumerate(zip(axes.ravel(), regions, strict=False)):
        draw(panel, region)
        if number % columns:
            panel.set_ylabel("")
        handles |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    free = axes.ravel()[len(regions) :]
    for panel in free:
        panel.set_axis_off()
    if title is not None:
        figure.suptitle(title, fontsize=9)
    if legend:
        where: Any = free[0] if len(free) else figure
        options = {"loc": "center"} if len(free) else {"loc": "outside lower center", "ncols": max(2, columns + 1)}
        where.legend(list(handles.values()), list(handles), fontsize=6.5, frameon=False, **options)
    return np.asarray(axes.ravel()[: len(regions)])


def plain_axes(ax: Axes, y: str, x: str = "layer") -> None:
    """Give axes their names, a line at zero, and no frame."""
    ax.axhline(0, color=CEILING, linewidth=0.5, zorder=0)
    ax.tick_params(labelsize=6.5)
    ax.set_xlabel(x, fontsize=7)
    ax.set_ylabel(y, fontsize=7)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def points(ax: Axes, x: Any, scores: Iterable[Any], look: Look, *, label: str | None = None, **style: Any) -> None:
    """Draw ``scores``, which are values, low and high ends, with the interval where it lies, around the value or not."""
    value, low, high = (np.asarray(one, dtype=float) for one in scores)
    kept: dict[str, Any] = {"linestyle": "none", "markersize": 4, "linewidth": 1, "zorder": 3}
    kept |= {"markerfacecolor": look.face, **style}
    ax.plot(x, value, marker=look.marker, color=look.colour, label=label, **kept)
    if np.isfinite(low).any():
        ax.vlines(x, low, high, color=look.colour, linewidth=1, zorder=kept["zorder"] - 1)


def _one(results: Mapping[str, Encoding], ax: Axes, roi: str, normalized: bool, title: str | None) -> None:
    """Draw one ROI of some results."""
    first = results[first_name(results)]
    looks, places, step = model_looks(results), np.arange(len(first.layers)), 0.12
    at_edge = len(places) > 1 and any(np.isfinite(one.data["best_r"].values).any() for one in results.values())
    bands, edge = [], len(places) + 0.2
    for number, (name, one) in enumerate(results.items()):
        column, scale = one.regions.index(roi), _scale(one, roi, normalized)
        shift = (number - (len(results) - 1) / 2) * step
        *scores, null_low, null_high = (
            one.data[f"region_{which}"].values[:, column] * scale
            for which in ("r", "low", "high", "null_low", "null_high")
        )
        style = "--" if name.endswith("-control") else "-"  # a twin
        points(ax, places + shift, scores, looks[name], label=name, linestyle=style)
        bands.append((null_low, null_high))
        if at_edge:
            best = (one.data[f"best_{which}"].values[[column]] * scale for which in ("r", "low", "high"))
            points(ax, [edge + 2 * shift], best, looks[name], markersize=6, markeredgecolor=CEILING)
    if np.isfinite(bands).any():
        _band(ax, places, *(find(ends) for find, ends in zip((np.fmin.reduce, np.fmax.reduce),
                                                             zip(*bands, strict=True), strict=True)))  # fmt: skip
    ceilings = dict.fromkeys(_ceiling(one, roi) * _scale(one, roi, normalized) for one in results.values())
    for number, ceiling in enumerate(one for one in ceilings if np.isfinite(one)):
        ax.axhline(ceiling, color=CEILING, linestyle="--", linewidth=1, label=None if number else "noise ceiling")
    plain_axes(ax, NORMALIZED if normalized else RAW)
    if at_edge:
        ax.plot(
            [], [], linestyle="none", marker="o", markersize=6, color="white", markeredgecolor=CEILING, label=CHOSEN
        )
        ax.axvline(edge - 0.65, color=CEILING, linewidth=0.5, linestyle=":")
    layer_ticks(ax, [*short_layers(first.layers), *(["chosen"] if at_edge else [])], [*places, edge])
    ax.set_title((title or roi) + simulated_mark(any(one.simulated for one in results.values())), fontsize=8)
    if not any(np.isfinite(one.data["region_r"].values[:, one.regions.index(roi)]).any() for one in results.values()):
        _say(ax, "no voxel can be scored")
    elif normalized and not any(_ceiling(one, roi) > 0 for one in results.values()):
        _say(ax, "noise ceiling unknown")


def _band(ax: Axes, places: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Draw the middle of the permuted scores of each layer."""
    if len(places) == 1:  # a step has no width
        places, low, high = (np.repeat(one, 2) for one in (places, low, high))
        steps = np.array([-0.4, 0.4, 0.4])
    else:
        steps = np.concatenate([places - 0.5, [places[-1] + 0.5]])
    ax.fill_between(
        steps, np.append(low, low[-1]), np.append(high, high[-1]),
        step="post", color=NULL, alpha=0.6, linewidth=0, zorder=1, label="permuted, 95 %",
    )  # fmt: skip


def _spread(ax: Axes, x: np.ndarray, values: np.ndarray, look: Look, label: str) -> None:
    """Draw the quantiles over voxels of each layer's values (layer, voxel)."""
    scored = [row[np.isfinite(row)] for row in values]
    ends = np.array([np.quantile(row, SPREAD) if row.size else np.full(len(SPREAD), np.nan) for row in scored]).T
    ax.vlines(x, ends[0], ends[4], color=look.colour, linewidth=0.8, zorder=2)
    ax.vlines(x, ends[1], ends[3], color=look.colour, linewidth=3, zorder=2)
    ax.plot(x, ends[2], linestyle="none", marker=look.marker, markersize=5, color=look.colour, zorder=3,
            markerfacecolor="white", markeredgewidth=1.2, label=label)  # fmt: skip


def _shares(ax: Axes, places: np.ndarray, values: np.ndarray, q: float, line: int, look: Look, *, first: bool) -> None:
    """Write the share of voxels below ``q`` over each layer, a line a model."""
    tested = np.isfinite(values)
    height: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "fontsize": 6}
    if not tested.any():
        if first:
            ax.annotate("significance not tested (n_permutations=0)", (places.mean(), 1), xytext=(0, 3), ha="center",
                        **height)  # fmt: skip
        return
    for x, row, known in zip(places, values, tested, strict=True):
        if known.any():
            share = 100 * np.mean(row[known] < q)
            ax.annotate(f"{share:.0f}", (x, 1), xytext=(0, 3 + 7 * line), ha="center", color=look.colour, **height)
    if first:
        label = f"{q:.3f}".rstrip("0").lstrip("0")
        ax.annotate(f"% q < {label}", (0, 1), xytext=(-4, 3), ha="right", **height | {"xycoords": "axes fraction"})


def layer_ticks(ax: Axes, names: Sequence[str], places: Sequence[float] | None = None) -> None:
    """Name the layers, slanted where there is no room."""
    slanted = sum(len(one) + 2 for one in names) > 18 * ax.bbox.width / ax.figure.dpi
    ax.set_xticks(
        np.arange(len(names)) if places is None else list(places)[: len(names)], names,
        rotation=45 if slanted else 0, ha="right" if slanted else "center", fontsize=6.5,
    )  # fmt: skip


def _say(ax: Axes, text: str) -> None:
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=7)


def _ceiling(result: Encoding, roi: str) -> float:
    return float(result.data["region_ceiling"].values[result.regions.index(roi)])


def _scale(result: Encoding, roi: str, normalized: bool) -> float:
    if not normalized:
        return 1.0
    ceiling = _ceiling(result, roi)
    return 1 / ceiling if ceiling > 0 else np.nan


def _voxels_of(result: Encoding, roi: str | None) -> np.ndarray:
    if roi is not None and roi not in result.regions:
        raise unknown("ROI", roi, result.regions)
    return np.ones(result.data.sizes["voxel"], dtype=bool) if roi is None else result.labels("roi") == roi


def _require_equal_depth(results: Iterable[Encoding]) -> None:
    counts = sorted({len(one.layers) for one in results})
    if len(counts) > 1:
        raise InputError(f"results drawn together need the same number of layers, got {counts}; draw a panel each")
