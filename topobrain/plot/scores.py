"""Encoding scores, with their ceiling, interval and null drawn in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from topobrain._checks import InputError, unknown
from topobrain.encoding import Encoding
from topobrain.plot.style import CEILING, NULL, model_colour, model_marker, short_layer, simulated_mark

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def encoding(
    result: Encoding | Sequence[Encoding],
    ax: Axes | None = None,
    *,
    roi: str | None = None,
    legend: bool = True,
    title: str | None = None,
) -> Any:
    """Draw how well each layer predicts an ROI, or every ROI in a panel of its own.

    Parameters
    ----------
    result
        One encoding result, or several whose layers have the same number (a model, its twin, its untrained self).
    ax
        Where to draw one ROI; without it a figure is made, with a panel an ROI unless ``roi`` is given.
    roi
        The ROI to draw.
    legend
        Name the models.
    title
        Title instead of the ROI's name.

    Returns
    -------
    Axes, or an array of them (one an ROI)
        Points: mean r over folds and voxels. Bars: 95 % bootstrap interval over stimuli. Dashed line: noise ceiling.
        Grey band: middle 95 % of the permuted scores (of all results drawn).
    """
    import matplotlib.pyplot as plt

    results = [result] if isinstance(result, Encoding) else list(result)
    if not results:
        raise InputError("there is no encoding result to draw")
    counts = {len(one.layers) for one in results}
    if len(counts) > 1:
        raise InputError(
            f"results drawn together need the same number of layers, got {sorted(counts)}; draw a panel each"
        )
    regions = results[0].labels("region").tolist()
    if roi is not None and roi not in regions:
        raise unknown("ROI", roi, regions)
    if ax is not None or roi is not None or len(regions) == 1:
        if roi is None and len(regions) > 1:
            raise InputError(f"name the ROI to draw into one Axes (roi=...): {regions}")
        if ax is None:
            _, ax = plt.subplots(figsize=(3.5, 2.8), layout="constrained")
        return _one(results, ax, roi or regions[0], legend, title)
    columns = min(3, len(regions))
    rows = -(-len(regions) // columns)
    _, axes = plt.subplots(
        rows, columns, figsize=(2.4 * columns + 0.5, 2.3 * rows + 0.4), sharey=True, squeeze=False, layout="constrained"
    )
    for number, (panel, region) in enumerate(zip(axes.ravel(), regions, strict=False)):
        _one(results, panel, region, False, None)
        if number % columns:
            panel.set_ylabel("")
    free = axes.ravel()[len(regions) :]
    for panel in free:
        panel.set_axis_off()
    if legend:
        drawn, names = axes.ravel()[0].get_legend_handles_labels()
        if len(free):
            free[0].legend(drawn, names, fontsize=7, frameon=False, loc="center")
        else:
            axes.ravel()[0].figure.legend(drawn, names, fontsize=7, frameon=False, loc="outside lower center", ncols=3)
    return axes.ravel()[: len(regions)]


def _one(results: Sequence[Encoding], ax: Axes, roi: str, legend: bool, title: str | None) -> Axes:
    places = np.arange(len(results[0].layers))
    width = 0.12
    for number, one in enumerate(results):
        column = one.labels("region").tolist().index(roi)
        r, low, high = (one.data[f"region_{name}"].values[:, column] for name in ("r", "low", "high"))
        name = one.provenance.get("model", {}).get("name", "model")
        x = places + (number - (len(results) - 1) / 2) * width
        ax.errorbar(
            x, r, yerr=np.stack([np.maximum(r - low, 0), np.maximum(high - r, 0)]) if np.isfinite(low).any() else None,
            color=model_colour(name), marker=model_marker(name), markersize=4, linewidth=1, elinewidth=1, capsize=0,
            markerfacecolor="white" if "(untrained" in name else model_colour(name), label=name,
        )  # fmt: skip
    bands = [one.data[f"region_{side}"].values[:, one.labels("region").tolist().index(roi)]
             for one in results for side in ("null_low", "null_high")]  # fmt: skip
    if np.isfinite(np.concatenate(bands)).any():
        low_edge, high_edge = np.nanmin(bands, axis=0), np.nanmax(bands, axis=0)
        steps = np.concatenate([places - 0.4, [places[-1] + 0.4]])
        ax.fill_between(
            steps, np.append(low_edge, low_edge[-1]), np.append(high_edge, high_edge[-1]),
            step="post", color=NULL, alpha=0.6, linewidth=0, label="permuted, 95 %",
        )  # fmt: skip
    ceiling = float(results[0].data["region_ceiling"].values[results[0].labels("region").tolist().index(roi)])
    if np.isfinite(ceiling):
        ax.axhline(ceiling, color=CEILING, linestyle="--", linewidth=1, label="noise ceiling")
    ax.axhline(0, color=CEILING, linewidth=0.5)
    ax.set_xticks(places, [short_layer(layer) for layer in results[0].layers], fontsize=7, rotation=45, ha="right")
    ax.tick_params(labelsize=7)
    ax.set_ylabel("held-out r", fontsize=8)
    ax.set_xlabel("layer", fontsize=8)
    ax.set_title((title or roi) + simulated_mark(any(one.simulated for one in results)), fontsize=8)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    if legend:
        ax.legend(fontsize=6, frameon=False, loc="best")
    return ax
