"""Maps on a model's cortical sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from topobrain._checks import InputError
from topobrain.plot.style import DIVERGING, short_layer, simulated_mark
from topobrain.selectivity import SPATIAL, Selectivity
from topobrain.stats.contrast import select_top

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def sheet(
    result: Selectivity,
    ax: Axes | None = None,
    *,
    layer: str | None = None,
    contrast: str | None = None,
    limit: float | None = None,
    outline: float | int | None = 0.1,
    colourbar: bool = True,
    title: str | None = None,
) -> Any:
    """Draw the t-map of one layer, or of all, on its sheet.

    Parameters
    ----------
    result
        From `topobrain.localize`.
    ax
        Where to draw one layer; without it a figure is made, with a panel a layer unless ``layer`` is given.
    layer
        The layer to draw.
    contrast
        The contrast, if there are several.
    limit
        The colour scale runs from -limit to limit; by default to the 99th percentile of absolute t of what is drawn, the
        same for all panels.
    outline
        Outline the most selective units: a share or a count, None for no outline.
    colourbar
        Draw the colour bar.
    title
        Title instead of the layer's name.

    Returns
    -------
    Axes, or an array of them (one a layer)
        Above each map stand Moran's I and its layout null: how patchy the map is, and how patchy it would be if units
        kept their t but not their places.
    """
    import matplotlib.pyplot as plt

    name = result.contrast(contrast)
    drawable = [one for one in result.layers if result.sheet(one).has_layout]
    if layer is not None:
        result.sheet(layer).require_layout(f"a map of layer {layer!r}")
    elif not drawable:
        raise InputError("no layer of this result has a layout to draw; give the model's layers sheets")
    chosen = [layer] if layer is not None else drawable
    if limit is None:
        every = np.concatenate([result.values(one, contrast=name) for one in chosen])
        limit = float(np.nanpercentile(np.abs(every), 99)) if np.isfinite(every).any() else 1.0
    if ax is not None:
        if len(chosen) > 1 and layer is None:
            chosen = chosen[:1] if len(drawable) == 1 else _one_of(drawable)
        return _one(result, ax, chosen[0], name, limit, outline, colourbar, title)
    columns = min(len(chosen), 3)
    rows = -(-len(chosen) // columns)
    _, axes = plt.subplots(
        rows, columns, figsize=(2.6 * columns + 0.4, 2.9 * rows), squeeze=False, layout="constrained"
    )
    for panel, one in zip(axes.ravel(), chosen, strict=False):
        _one(result, panel, one, name, limit, outline, colourbar, title)
    for panel in axes.ravel()[len(chosen) :]:
        panel.set_axis_off()
    return axes.ravel()[0] if len(chosen) == 1 else axes.ravel()[: len(chosen)]


def _one_of(layers: list[str]) -> list[str]:
    raise InputError(f"name the layer to draw into one Axes (layer=...): {layers}")


def _one(
    result: Selectivity,
    ax: Axes,
    layer: str,
    contrast: str,
    limit: float,
    outline: float | int | None,
    colourbar: bool,
    title: str | None,
) -> Axes:
    place = result.sheet(layer)
    t = result.values(layer, contrast=contrast)
    ax.set_facecolor("#DDDDDD")  # holes and units without a t-value
    drawn = ax.imshow(place.to_image(t), cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
    if outline is not None and np.isfinite(t).sum() > 1:
        chosen = place.to_image(select_top(t, outline).astype(float)) == 1
        _outline(ax, chosen)
    ax.set_xticks([0, place.width - 1])
    ax.set_yticks([0, place.height - 1])
    ax.tick_params(labelsize=7, length=2)
    head = (short_layer(layer) if title is None else title) + simulated_mark(result.simulated)
    cell = {name: float(result.data[name].sel(contrast=contrast, layer_name=layer)) for name in SPATIAL}
    if np.isfinite(cell["morans_i"]):
        null = f"null {_signed(cell['null_mean'])} $\\pm$ {cell['null_sd']:.2f}"
        foot = f"Moran's I {_signed(cell['morans_i'])}, p {_p(cell['p_layout'])}\n{null}"
    else:
        foot = "no layout null: says nothing on topography"
    ax.set_title(f"{head}\n{foot}" if head else foot, fontsize=7)
    ax.set_xlabel("column (grid steps)", fontsize=7)
    ax.set_ylabel("row (grid steps)", fontsize=7)
    if colourbar:
        bar = ax.figure.colorbar(drawn, ax=ax, shrink=0.75)
        bar.set_label(f"t, {contrast}", fontsize=7)
        bar.ax.tick_params(labelsize=7)
    return ax


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


def _p(value: float) -> str:
    return f"= {value:.3f}" if value >= 0.001 else "< .001"


def _outline(ax: Axes, mask: np.ndarray) -> None:
    """Draw the border of a set of grid cells along their edges."""
    lines = []
    for row, column in np.argwhere(mask):
        for down, right, edge in (
            (-1, 0, ((column - 0.5, column + 0.5), (row - 0.5, row - 0.5))),
            (1, 0, ((column - 0.5, column + 0.5), (row + 0.5, row + 0.5))),
            (0, -1, ((column - 0.5, column - 0.5), (row - 0.5, row + 0.5))),
            (0, 1, ((column + 0.5, column + 0.5), (row - 0.5, row + 0.5))),
        ):
            r, c = row + down, column + right
            if not (0 <= r < mask.shape[0] and 0 <= c < mask.shape[1]) or not mask[r, c]:
                lines.append(edge)
    for x, y in lines:
        ax.plot(x, y, color="black", linewidth=0.8, solid_capstyle="butt")
