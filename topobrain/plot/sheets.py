"""Maps on a model's cortical sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, Unpack

import numpy as np

from topobrain._checks import InputError, unknown
from topobrain.plot.borders import border_lines
from topobrain.plot.style import (
    COLUMN_INCHES,
    DIVERGING,
    MISSING,
    PAGE_INCHES,
    SMALLEST,
    short_layers,
    simulated_mark,
)
from topobrain.selectivity import SPATIAL, Selectivity
from topobrain.sheet import Sheet
from topobrain.stats.selection import select_top

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL_INCHES = 1.45
"""Narrowest panel under which Moran's I and its null can be read."""

TOP = "#F0E442"
"""Yellow of the most selective units, where black lines surround the significant ones."""

BAR_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
"""Lengths of a scale bar, in grid steps."""


class SheetLook(TypedDict, total=False):
    """How a map on a sheet is drawn.

    limit
        The colour scale runs from -limit to limit; by default to the 99th percentile of absolute t of what is drawn, the
        same for all panels.
    significance
        Draw a line around the units with q below this (0.05): solid where t is positive, dotted where it is negative. None
        for no line. Where hundreds of stimuli make nearly all units significant, ``outline`` says more.
    outline
        Outline the most selective units: a share or a count (None). In yellow, in black with ``significance=None``.
    scale_bar
        A bar of some grid steps under each map (True), or ticks at its ends (False).
    colourbar
        Draw the colour bar, one for all panels (True).
    title
        Title instead of the layer's name, or of the figure if it has several panels.
    width
        Width of the figure in inches: 3.5 (a column) up to two panels, 7.2 (a page) beyond.
    """

    limit: float | None
    significance: float | None
    outline: float | int | None
    scale_bar: bool
    colourbar: bool
    title: str | None
    width: float | None


class _Panel(NamedTuple):
    """One map: where it comes from, its values, and what stands above it."""

    layer: str
    contrast: str
    head: str
    sheet: Sheet
    t: np.ndarray
    q: np.ndarray


def sheet(
    result: Selectivity,
    ax: Axes | None = None,
    *,
    layer: str | None = None,
    layers: Sequence[str] | None = None,
    contrast: str | None = None,
    null: bool | Literal["require"] = True,
    **look: Unpack[SheetLook],
) -> Any:
    """Draw t-maps of one layer, of several, or of all, on their sheets.

    Parameters
    ----------
    result
        From `topobrain.localize`.
    ax
        Where to draw one map; without it a figure is made, with a panel a map.
    layer
        The layer to draw. Of several contrasts each gets a panel.
    layers
        Several layers to draw, in this order; by default all that have a layout.
    contrast
        The contrast, if there are several.
    null
        Write Moran's I and its layout null above each map (True), not (False), or refuse a map without a null
        (``"require"``): without one a map makes no claim on topography.
    **look
        Options of `SheetLook`: ``limit``, ``significance``, ``outline``, ``scale_bar``, ``colourbar``, ``title``,
        ``width``.

    Returns
    -------
    Axes, or an array of them (one a map)
        One diverging colour scale with 0 in its middle for all maps. Above each map stand Moran's I and its layout null:
        how patchy the map is, and how patchy it would be if units kept their t but not their places. A dashed frame is a
        torus, whose opposite sides are neighbours, a solid one an open border; both are said below the map. Holes of the
        grid and units without a t-value are grey and counted there.

    Raises
    ------
    InputError
        A layer without layout, infinite values, a null that is required and missing, several maps for one Axes.
    """
    import matplotlib.pyplot as plt

    if not isinstance(result, Selectivity):
        raise InputError(f"plot.sheet draws t-maps (localize), got {type(result).__name__}")
    look = _checked(look, null)
    panels = _panels(result, layer, layers, contrast, on_one=ax is not None)
    if null == "require":
        _require_null(result, panels)
    limit = look.get("limit") or _limit(panels)
    if ax is not None:
        panel = panels[0]
        title = look.get("title")
        drawn = _draw(result, ax, panel if title is None else panel._replace(head=title), limit, null, look)
        axes = np.array([ax])
    else:
        figure, every = plt.subplots(**_grid(panels, look), squeeze=False, layout="constrained")
        axes = every.ravel()[: len(panels)]
        for unused in every.ravel()[len(panels) :]:
            unused.set_axis_off()
        alone = len(panels) == 1 and look.get("title") is not None
        heads = [look.get("title") or ""] if alone else [panel.head for panel in panels]
        for place, panel, head in zip(axes, panels, heads, strict=True):
            drawn = _draw(result, place, panel._replace(head=head), limit, null, look)
        several = len({panel.contrast for panel in panels}) > 1
        words = look.get("title") or (panels[0].layer if several else None)
        if len(panels) > 1 and words:
            figure.suptitle(words, fontsize=8)
    if look.get("colourbar", True):
        figure = axes[0].figure
        bar = figure.colorbar(drawn, ax=list(axes) if ax is not None else list(every.ravel()), shrink=0.75, aspect=18)
        bar.set_label(_label(panels, look), fontsize=6.5)
        bar.ax.tick_params(labelsize=6.5)
    return axes[0] if len(axes) == 1 else axes


def _checked(look: SheetLook, null: object) -> SheetLook:
    """Return the options, or raise for one that is not known or makes no sense."""
    for name in look:
        if name not in SheetLook.__annotations__:
            raise unknown("option of a sheet's picture", name, SheetLook.__annotations__)
    if null not in (True, False, "require"):
        raise unknown("way to show the null", null, (True, False, "require"))
    limit, level, width = look.get("limit"), look.get("significance"), look.get("width")
    if limit is not None and not (np.isfinite(limit) and limit > 0):
        raise InputError(f"limit is the end of the colour scale, a number above 0; got {limit}")
    if level is not None and not 0 < level < 1:
        raise InputError(f"significance is a false discovery rate between 0 and 1, or None for no line; got {level}")
    if width is not None and not (np.isfinite(width) and width >= 1):
        raise InputError(f"width is the figure's width in inches, at least 1; got {width}")
    return look


def _panels(
    result: Selectivity, layer: str | None, layers: Sequence[str] | None, contrast: str | None, *, on_one: bool
) -> list[_Panel]:
    """Return the maps to draw, checked."""
    if layer is not None and layers is not None:
        raise InputError("give layer= or layers=, not both")
    drawable = [one for one in result.layers if result.sheet(one).has_layout]
    chosen = [layer] if layer is not None else list(layers) if layers is not None else drawable
    if isinstance(layers, str):
        chosen = [layers]
    for one in chosen:
        result.sheet(one).require_layout(f"a map of layer {one!r}")
    if not chosen:
        raise InputError("no layer of this result has a layout to draw; give the model's layers sheets")
    if len(set(chosen)) < len(chosen):
        raise InputError(f"each layer is drawn once; got {chosen}")
    if on_one and len(chosen) > 1:
        raise InputError(f"name the layer to draw into one Axes (layer=...): {chosen}")
    one_each = contrast is None and len(chosen) == 1 and not on_one
    contrasts = result.contrasts if one_each else [result.contrast(contrast)]
    heads = contrasts if len(contrasts) > 1 else short_layers(chosen) if len(chosen) > 1 else chosen
    maps = [(one, name) for one in chosen for name in contrasts]
    panels = []
    for (one, name), head in zip(maps, heads, strict=True):
        t, q = result.values(one, contrast=name), result.values(one, "q", contrast=name)
        if np.isinf(t).any():
            raise InputError(
                f"layer {one!r} has {int(np.isinf(t).sum())} infinite t-values in contrast {name!r}, which no colour shows; "
                "localize gives a unit of zero variance NaN or 0 (zero_variance=)"
            )
        panels.append(_Panel(one, name, head, result.sheet(one), t, q))
    return panels


LEAST_LIMIT = 3.0
"""The colour scale reaches at least this t: maps in which nothing is selective stay pale."""


def _limit(panels: Sequence[_Panel]) -> float:
    every = np.abs(np.concatenate([panel.t for panel in panels]))
    limit = float(np.nanpercentile(every, 99)) if np.isfinite(every).any() else 0.0
    return max(limit, LEAST_LIMIT)


def _grid(panels: Sequence[_Panel], look: SheetLook) -> dict[str, Any]:
    """Return rows, columns and size of a figure."""
    width = look.get("width") or (COLUMN_INCHES if len(panels) <= 2 else PAGE_INCHES)
    beside = 0.6 if look.get("colourbar", True) else 0.1
    fits = max(1, int((width - beside) / PANEL_INCHES))
    rows = -(-len(panels) // fits)
    columns = -(-len(panels) // rows)
    wide = (width - beside) / columns
    aspect = max(panel.sheet.height / panel.sheet.width for panel in panels)
    height = rows * (wide * min(max(aspect, 0.25), 2.0) * 0.92 + 0.75) + (
        0.25 if look.get("title") or len({panel.contrast for panel in panels}) > 1 else 0.05
    )
    return {"nrows": rows, "ncols": columns, "figsize": (width, height)}


def _draw(result: Selectivity, ax: Axes, panel: _Panel, limit: float, null: bool | str, look: SheetLook) -> Any:
    """Draw one map with what stands above and below it; return the image."""
    place = panel.sheet
    ax.set_facecolor(MISSING)
    drawn = ax.imshow(place.to_image(panel.t), cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
    level = look.get("significance", 0.05)
    if level is not None:
        significant = panel.q < level
        _contour(ax, place, significant & (panel.t > 0), "solid")
        _contour(ax, place, significant & (panel.t < 0), "dotted")
    top = look.get("outline")
    if top is not None and np.isfinite(panel.t).sum() > 1:
        _contour(ax, place, select_top(panel.t, top), "solid", "black" if level is None else TOP)
    border = "torus" if place.wrapped else "open border"
    for spine in ax.spines.values():
        spine.set(linewidth=0.8, linestyle=(0, (4, 3)) if place.wrapped else "solid", zorder=4)
    if look.get("scale_bar", True):
        ax.set_xticks([])
        ax.set_yticks([])
        narrow = _scale_bar(ax, place)
        ax.set_xlabel(border + _grey(panel), fontsize=SMALLEST, loc="right", labelpad=11 if narrow else 3)
    else:
        ax.set_xticks([0, place.width - 1])
        ax.set_yticks([0, place.height - 1])
        ax.tick_params(labelsize=6.5, length=2)
        ax.set_xlabel(f"column (grid steps), {border}{_grey(panel)}", fontsize=6.5)
        ax.set_ylabel("row (grid steps)", fontsize=6.5)
    lines = [panel.head + simulated_mark(result.simulated), *(_spatial(result, panel) if null else [])]
    ax.set_title("\n".join(line for line in lines if line), fontsize=6.5, pad=3)
    return drawn


def _contour(ax: Axes, place: Sheet, units: np.ndarray, style: str, colour: str = "black") -> None:
    """Draw a line around a set of units."""
    from matplotlib import patheffects
    from matplotlib.collections import LineCollection

    if not units.any():
        return
    lines = border_lines(place.to_image(units.astype(float)) == 1, wrapped=place.wrapped)
    solid = style == "solid"
    cell = 72 / ax.figure.dpi * min(ax.bbox.width / place.width, ax.bbox.height / place.height)  # in points
    width = float(np.clip(0.14 * cell, 0.65, 0.9))  # lines round single units must not hide them
    drawn = LineCollection(
        list(lines), colors=colour, linewidths=width, capstyle="projecting" if solid else "butt",
        linestyles="solid" if solid else [(0, (1.0, 1.2))], zorder=3,
    )  # fmt: skip
    if colour != "black":
        drawn.set_path_effects([patheffects.Stroke(linewidth=width + 1.1, foreground="black"), patheffects.Normal()])
    ax.add_collection(drawn, autolim=False)


def _scale_bar(ax: Axes, place: Sheet) -> bool:
    """Draw a bar of about a quarter of the width; return whether the panel is too narrow for words beside it."""
    from matplotlib.lines import Line2D
    from matplotlib.transforms import ScaledTranslation

    steps = min(BAR_STEPS, key=lambda one: abs(np.log(4 * one / place.width)))
    below = ax.get_xaxis_transform() + ScaledTranslation(0, -6.5 / 72, ax.figure.dpi_scale_trans)
    ax.add_artist(
        Line2D([-0.5, steps - 0.5], [0, 0], transform=below, color="black", linewidth=1.5, clip_on=False,
               solid_capstyle="butt", label="scale bar")
    )  # fmt: skip
    words = f"{steps} grid step{'s' if steps > 1 else ''}"
    if place.spacing != 1:
        words += f" = {steps * place.spacing:g}"
    beside = below + ScaledTranslation(3 / 72, 0, ax.figure.dpi_scale_trans)
    ax.text(steps - 0.5, 0, words, transform=beside, fontsize=SMALLEST, va="center", ha="left", clip_on=False)
    wide = min(ax.bbox.width, ax.bbox.height * place.width / place.height) / ax.figure.dpi
    return bool(wide < 1.35)


def _grey(panel: _Panel) -> str:
    """Return what is grey in a panel, as a line of its own."""
    holes = panel.sheet.height * panel.sheet.width - panel.sheet.n_units
    missing = int(np.isnan(panel.t).sum())
    said = [f"{holes} hole{'s' if holes > 1 else ''}"] if holes else []
    said += [f"{missing} unit{'s' if missing > 1 else ''} without t"] if missing else []
    return f"\ngrey: {', '.join(said)}" if said else ""


def _label(panels: Sequence[_Panel], look: SheetLook) -> str:
    """Return the colour bar's label, which also says what is outlined."""
    names = {panel.contrast for panel in panels}
    lines = [f"t, {next(iter(names))}" if len(names) == 1 else "t"]
    level, top = look.get("significance", 0.05), look.get("outline")
    if level is not None:
        words = f"outlined: q < {f'{level:g}'.removeprefix('0')}"
        negative = any(((panel.q < level) & (panel.t < 0)).any() for panel in panels)
        lines.append(words + (" (dotted: t < 0)" if negative else ""))
    if top is not None:
        share = f"top {top:.0%}" if isinstance(top, float) else f"top {top}"
        lines.append(f"{'outlined' if level is None else 'yellow'}: {share}")
    return "\n".join(lines)


def _cell(result: Selectivity, panel: _Panel) -> dict[str, float]:
    cell = result.data[list(SPATIAL)].sel(contrast=panel.contrast, layer_name=panel.layer)
    return {name: float(cell[name]) for name in SPATIAL}


def _has_null(cell: dict[str, float]) -> bool:
    return bool(np.isfinite([cell[name] for name in ("morans_i", "null_mean", "p_layout")]).all())


def _require_null(result: Selectivity, panels: Sequence[_Panel]) -> None:
    for panel in panels:
        if not _has_null(_cell(result, panel)):
            raise InputError(
                f"the map of layer {panel.layer!r} in contrast {panel.contrast!r} has no layout null, so it makes no claim "
                "on topography: smoothing alone gives a Moran's I of .60. Use localize(..., n_null=1000)"
            )


def _spatial(result: Selectivity, panel: _Panel) -> list[str]:
    """Return Moran's I beside its null, in two lines; without a null there is nothing to say."""
    cell = _cell(result, panel)
    if _has_null(cell):
        null = f"layout null {_signed(cell['null_mean'])} $\\pm$ {cell['null_sd']:.2f}"
        return [f"Moran's I {_signed(cell['morans_i'])}, p {_p(cell['p_layout'])}", null]
    finite = panel.t[np.isfinite(panel.t)]
    if finite.size < 3 or np.ptp(finite) == 0:
        return ["t does not vary:", "nothing on topography"]
    return ["no layout null:", "says nothing on topography"]


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


def _p(value: float) -> str:
    return f"= {value:.3f}".replace("0.", ".") if value >= 0.001 else "< .001"
