"""Maps of integration windows on their sheets: what is known in colour, what is not in grey, Moran's I under each."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from topobrain._checks import InputError, unknown
from topobrain.integration.result import MAPS, RELIABLE, Integration
from topobrain.plot.style import COLUMN_INCHES, DIVERGING, MISSING, PAGE_INCHES, SMALLEST, short_layers, simulated_mark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

SHOWN = ("c", "a", "b", "width", "yoking")
"""Maps in the order in which they are drawn."""

MAP_NAMES = {
    "c": "c: weight of the\npower law",
    "a": "a: exponent of the\npower law",
    "b": "b: rate of the\nexponential (1/word)",
    "width": "width at one half\n(words)",
    "yoking": "yoking to\nsentence starts",
}
"""What a map shows, with its unit, in two lines."""

NARROW_NAMES = {
    "c": "c: power-\nlaw weight",
    "a": "a: power-law\nexponent",
    "b": "b: exp. rate\n(1/word)",
    "width": "width at ½\n(words)",
    "yoking": "sentence\nyoking",
}
"""The same over narrow panels."""

RANGES = {"c": (0.0, 1.0), "a": (0.0, 1.5), "b": (0.0, 12.0)}
"""Ends of the colour scales: of c and a unless more than 1 % of the units lie beyond, of b at the most."""

LEAST_WIDTH, LEAST_YOKING = 0.02, 0.02
"""The scale of width is at least so long, that of yoking reaches so far: maps in which nothing differs stay plain."""

STEEPEST = 10
"""Bound of the exponent in fits."""

PLAIN_STEPS = (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10)
"""Ends of a scale, times a power of ten."""

SEQUENTIAL = "viridis"
ROOM_FOR_WORDS = 1.1
"""Inches of a panel from which on its lines are written out."""

WIDEST_PANEL = 1.6
"""Inches: one or two maps of many layers would fill a page and more otherwise."""

LEAST_KNOWN = 0.25
"""Share of a layer's units that must be known for a Moran's I."""

LEFT_INCHES, RIGHT_INCHES, GAP_INCHES = 0.38, 0.06, 0.09
BAR_INCHES = 0.56
"""Height of a colour bar with its ticks and its name."""

TITLE_INCHES = 0.2
LINE_INCHES = 0.105
LETTER_INCHES = 0.047
"""Of a line, and of a letter, in the smallest size."""

FIT_KNOWN_FROM, FIT_KNOWN_TO = ".05", ".95"


def integration_maps(
    result: Integration,
    ax: Axes | np.ndarray | None = None,
    *,
    layers: Sequence[str] | str | None = None,
    maps: Sequence[str] | str | None = None,
    limits: Mapping[str, tuple[float, float]] | None = None,
    legend: bool = True,
    title: str | None = None,
    width: float = PAGE_INCHES,
) -> np.ndarray:
    """Draw the windows of all units where they lie: a small sheet for each layer and each map.

    Parameters
    ----------
    result
        From `topobrain.integrate`.
    ax
        Where to draw: one Axes for one map of one layer, or an array of them (layer, map). Made if not given.
    layers
        Layers to draw, in this order; by default all that have a layout.
    maps
        Of ``"c"``, ``"a"``, ``"b"``, ``"width"`` and ``"yoking"``; by default all that this result has.
    limits
        Map -> ends of its colour scale, as from `map_limits` of several results. By default c runs from 0 to 1 and a to
        1.5, unless the data go beyond; b over nearly all values of the layers in which it varies, at most to 12; width over
        nearly all of its values, yoking evenly round 0.
    legend
        Say what is grey (on a figure of its own: below the maps).
    title
        Title instead of the model's name.
    width
        Width of the figure in inches, at the most: maps are no wider than 1.6 inches, and the figure of few maps is narrower.

    Returns
    -------
    array of Axes (layer, map)
        Grey units: not known, because the curve is not reliable or the parameter cannot be told. Places without a unit are
        white. Under each map its Moran's I over the known units with its layout null, and the share of grey units. A dashed
        frame is a torus. Units whose curve never comes down to one half have the colour of the upper end of the scale.

    Raises
    ------
    InputError
        A layer without layout, a map that this result does not have, axes of another shape.
    """
    import matplotlib.pyplot as plt

    if not isinstance(result, Integration):
        raise InputError(f"plot.integration_maps draws integration windows (integrate), got {type(result).__name__}")
    shown, chosen = shown_maps(result, maps), _layers_with_layout(result, layers)
    scales = {**map_limits([result], shown), **(limits or {})}
    names = short_layers(chosen) if len(chosen) > 1 else chosen
    rows = [MapRow(short, result, layer) for short, layer in zip(names, chosen, strict=True)]
    if ax is not None:
        axes = np.atleast_2d(np.asarray(ax, dtype=object))
        if axes.shape != (len(chosen), len(shown)):
            raise InputError(
                f"axes of shape {axes.shape} for {len(chosen)} layers and {len(shown)} maps: expected "
                f"({len(chosen)}, {len(shown)}), or name fewer with layers= and maps="
            )
        for line, row in zip(axes, rows, strict=True):
            for one, name in zip(line, shown, strict=True):
                draw_window_map(one, result, row.layer, name, scales[name], wide=_inches(one) >= ROOM_FOR_WORDS)
            _name_row(line[0], row)
        for column, name in zip(axes.T, shown, strict=True):
            map_colourbar(column[0].figure, name, scales[name], rows, over=list(column))
        return np.asarray(axes)
    if not (np.isfinite(width) and width >= 1):
        raise InputError(f"width is the figure's width in inches, at least 1; got {width}")
    width = min(width, max(COLUMN_INCHES, _row_inches(len(shown), WIDEST_PANEL)))
    words = grey_lines(rows, shown, width) if legend else []
    below = LINE_INCHES * len(words) + 0.08 * bool(words)
    height = rows_inches(rows, len(shown), width) + TITLE_INCHES + below
    figure = plt.figure(figsize=(width, height))
    axes = draw_map_rows(figure, rows, shown, scales, top=TITLE_INCHES)
    head = title or str(result.provenance.get("model", {}).get("name", "model"))
    figure.suptitle(head + simulated_mark(result.simulated), fontsize=8, y=1 - 0.05 / height, va="top")
    if words:
        write_grey(figure, words)
    return axes


class MapRow(NamedTuple):
    """A row of maps: one layer of one model, and what stands at its left."""

    label: str
    result: Integration
    layer: str


def rows_inches(rows: Sequence[MapRow], n_maps: int, width: float) -> float:
    """Return the height that rows of maps take on a part of a figure, in inches, with the colour bars above them."""
    panel = _panel_inches(n_maps, width)
    return BAR_INCHES + sum(_tall(row) * panel + _under_inches(panel) for row in rows)


def draw_map_rows(
    part: Figure | SubFigure, rows: Sequence[MapRow], maps: Sequence[str],
    limits: Mapping[str, tuple[float, float]], *, top: float = 0.0,
) -> np.ndarray:  # fmt: skip
    """Fill a part of a figure with rows of maps under one colour bar a column.

    Parameters
    ----------
    part
        Figure or subfigure, at least as high as `rows_inches` says.
    rows
        From top to bottom.
    maps
        From left to right.
    limits
        Map -> ends of its colour scale, as from `map_limits`.
    top
        Inches left free at the top.

    Returns
    -------
    array of Axes (row, map)
    """
    wide_inches, high = part.bbox.width / part.figure.dpi, part.bbox.height / part.figure.dpi
    panel = _panel_inches(len(maps), wide_inches)
    wide = panel >= ROOM_FOR_WORDS
    spare = (wide_inches - _row_inches(len(maps), panel)) / 2
    lefts = [spare + LEFT_INCHES + number * (panel + GAP_INCHES) for number in range(len(maps))]

    def place(left: float, down: float, width: float, height: float) -> Axes:
        return part.add_axes(
            (left / wide_inches, 1 - (down + height) / high, width / wide_inches, height / high)
        )  # fmt: skip

    down = top + BAR_INCHES
    axes = np.empty((len(rows), len(maps)), dtype=object)
    for number, row in enumerate(rows):
        for column, name in enumerate(maps):
            axes[number, column] = place(lefts[column], down, panel, _tall(row) * panel)
            draw_window_map(axes[number, column], row.result, row.layer, name, limits[name], wide=wide)
        _name_row(axes[number, 0], row)
        down += _tall(row) * panel + _under_inches(panel)
    for left, name in zip(lefts, maps, strict=True):
        inside = place(left + 0.06 * panel, top + BAR_INCHES - 0.12, 0.88 * panel, 0.06)
        map_colourbar(part, name, limits[name], rows, inside=inside, wide=wide)
    return axes


def _panel_inches(n_maps: int, width: float) -> float:
    return min((width - _row_inches(n_maps, 0.0)) / n_maps, WIDEST_PANEL)


def _row_inches(n_maps: int, panel: float) -> float:
    """Return the width of a row of maps with its name."""
    return LEFT_INCHES + RIGHT_INCHES + GAP_INCHES * (n_maps - 1) + n_maps * panel


def _tall(row: MapRow) -> float:
    """Return a panel's height as a share of its width."""
    place = row.result.sheet(row.layer)
    return min(max(place.height / place.width, 0.25), 2.0)


def _under_inches(panel: float) -> float:
    """Return what the lines under a map take."""
    return LINE_INCHES * (3 if panel >= ROOM_FOR_WORDS else 4) + 0.09


def _name_row(ax: Axes, row: MapRow) -> None:
    place = row.result.sheet(row.layer)
    name = f"layer {row.label}" if row.label.isdecimal() else row.label
    ax.set_ylabel(f"{name}\n{place.height} x {place.width} units", fontsize=SMALLEST, labelpad=3)


def shown_maps(result: Integration, maps: Sequence[str] | str | None = None) -> list[str]:
    """Return the maps to draw, checked; by default all that hold a value anywhere."""
    there = [one for one in SHOWN if np.isfinite(result.data[one].values).any()]
    if maps is None:
        if not there:
            raise InputError("no map of this result holds a value: every curve is constant or missing")
        return there
    asked = [maps] if isinstance(maps, str) else list(maps)
    for one in asked:
        if one not in MAPS:
            raise unknown("map of integration windows", one, SHOWN)
        if one not in there:
            why = {"yoking": "its sequences are no sentences of equal length (sentence-sequences)"}.get(
                one, "the model reads both ways, so no window was fitted" if not result.causal else "no curve has one"
            )
            raise InputError(f"this result has no map of {one!r}: {why}. It has {', '.join(there) or 'none'}")
    if len(set(asked)) < len(asked) or not asked:
        raise InputError(f"each map is drawn once, and at least one; got {asked}")
    return asked


def _layers_with_layout(result: Integration, layers: Sequence[str] | str | None) -> list[str]:
    if layers is None:
        chosen = [one for one in result.layers if result.sheet(one).has_layout]
        if not chosen:
            raise InputError("no layer of this result has a layout to draw; give the model's layers sheets")
        return chosen
    chosen = [layers] if isinstance(layers, str) else list(layers)
    for one in chosen:
        result.sheet(one).require_layout(f"a map of layer {one!r}")
    if len(set(chosen)) < len(chosen) or not chosen:
        raise InputError(f"each layer is drawn once, and at least one; got {chosen}")
    return chosen


def map_limits(results: Iterable[Integration], maps: Sequence[str] = SHOWN) -> dict[str, tuple[float, float]]:
    """Return the ends of the colour scale of each map, the same for several results.

    Parameters
    ----------
    results
        Models drawn together.
    maps
        Which maps.

    Returns
    -------
    dict
        Map -> (low, high): c from 0 to 1, a to 1.5, or further where more than 1 % of the known units of these results lie
        beyond; b from 0 to its 99th percentile, at most to 12, without layers in which it does not vary (in embeddings it
        is at the bound of fits, and would hide all differences elsewhere); width from its 1st to its 99th percentile, yoking
        evenly round 0.
    """
    every = list(results)
    limits = {}
    for name in maps:
        parts = [_known(one, layer, name) for one in every for layer in one.layers]
        found = np.abs(np.concatenate([one for one in parts if name != "b" or _varies(one)] or [np.empty(0)]))
        if name == "width":
            limits[name] = _width_limits(found)
            continue
        end = float(np.percentile(found, 99)) if found.size else 0.0
        if name == "yoking":
            limits[name] = (-_rounded_up(max(end, LEAST_YOKING)), _rounded_up(max(end, LEAST_YOKING)))
        elif name == "b":
            low, high = RANGES[name]
            limits[name] = (low, min(high, _rounded_up(end)) if end > 0 else high)
        else:
            low, high = RANGES[name]
            limits[name] = (low, high if end <= high else _rounded_up(end))
    return limits


def _known(result: Integration, layer: str, name: str) -> np.ndarray:
    """Return the values of a map that are known (unit,)."""
    found = result.values(layer, name)  # type: ignore[arg-type]
    return np.asarray(found[np.isfinite(found)])


def _varies(known: np.ndarray) -> bool:
    """Return whether values differ by more than rounding."""
    return bool(known.size and np.ptp(known) > 1e-6 * max(1.0, float(np.abs(known).max())))


def _width_limits(found: np.ndarray) -> tuple[float, float]:
    """Return hundredths of a word that hold nearly all widths: half a word is no memory, so a scale from 0 would hide all."""
    if not found.size:
        return 0.5, 1.0
    low, high = np.percentile(found, [1, 99])
    first = float(np.floor(100 * low + 1e-9) / 100)
    return first, max(float(np.ceil(100 * high - 1e-9) / 100), round(first + LEAST_WIDTH, 2))


def _rounded_up(value: float) -> float:
    """Return a plain number, no smaller."""
    power = 10.0 ** np.floor(np.log10(value) + 1e-9)
    end = next(step for step in PLAIN_STEPS if value <= step * power * (1 + 1e-9))
    return float(np.round(end * power, 10))


def draw_window_map(
    ax: Axes, result: Integration, layer: str, name: str, limits: tuple[float, float], *, wide: bool = True
) -> None:
    """Draw one map of one layer, with its Moran's I and layout null below.

    Parameters
    ----------
    ax
        Where to draw.
    result, layer, name
        Which map.
    limits
        Ends of the colour scale.
    wide
        Write the lines below out, for panels of more than an inch.
    """
    from matplotlib.colors import ListedColormap

    place = result.sheet(layer)
    values = drawn_values(result, layer, name, limits)
    grey = np.where(np.isnan(values), 1.0, np.nan)
    if np.isnan(values).any():
        ax.imshow(place.to_image(grey), cmap=ListedColormap([MISSING]), interpolation="nearest")
    ax.imshow(
        place.to_image(values), cmap=_colours(name), vmin=limits[0], vmax=limits[1], interpolation="nearest"
    )  # fmt: skip
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set(linewidth=0.8, linestyle=(0, (4, 3)) if place.wrapped else "solid", zorder=4)
    share = float(np.isnan(values).mean())
    lines = _spatial_lines(result, layer, name, wide=wide) if share < 1 else ["nothing known"]
    if 0 < share < 1:
        lines.append(f"{'< 1' if share < 0.01 else '> 99' if share > 0.99 else f'{100 * share:.0f}'} % grey")
    ax.set_xlabel("\n".join(lines), fontsize=SMALLEST, labelpad=2, linespacing=1.15)


def drawn_values(result: Integration, layer: str, name: str, limits: tuple[float, float]) -> np.ndarray:
    """Return what is drawn of a layer (unit,): NaN where grey, beyond the scale where a curve never comes down to one half."""
    values = result.values(layer, name)  # type: ignore[arg-type]
    if name == "width":
        values[_endless(result, layer)] = 2 * limits[1] + 1
    return values


def _endless(result: Integration, layer: str) -> np.ndarray:
    """Return the units (unit,) whose curve is reliable and never comes down to one half."""
    return np.asarray(np.isnan(result.values(layer, "width", masked=False)) & result.reliable(layer))


def map_colourbar(
    figure: Figure | SubFigure, name: str, limits: tuple[float, float], rows: Sequence[MapRow], *,
    inside: Axes | None = None, over: Sequence[Axes] = (), wide: bool = True,
) -> Any:  # fmt: skip
    """Draw the colour bar of a map ``inside`` given axes or ``over`` others; it has a pointed end where units lie beyond."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    drawn = np.concatenate([drawn_values(row.result, row.layer, name, limits) for row in rows])
    low, high = bool((drawn < limits[0]).any()), bool((drawn > limits[1]).any())
    extend = "both" if low and high else "max" if high else "min" if low else "neither"
    where: dict[str, Any] = {"cax": inside, "orientation": "horizontal"}
    if inside is None:
        where = {"ax": list(over), "location": "top", "shrink": 0.85, "aspect": 14, "pad": 0.01}
    bar = figure.colorbar(ScalarMappable(Normalize(*limits), _colours(name)), extend=extend, extendfrac=0.07, **where)
    bar.ax.xaxis.set_ticks_position("top")
    bar.ax.xaxis.set_label_position("top")
    words = (MAP_NAMES if wide else NARROW_NAMES)[name]
    bar.set_label(words, fontsize=6.5 if wide else SMALLEST, labelpad=3)
    ticks = [limits[0], (limits[0] + limits[1]) / 2, limits[1]]
    names = [f"{one:g}".replace("-", "\N{MINUS SIGN}") for one in ticks]
    bar.set_ticks(ticks, labels=names if wide else [names[0], "", names[2]])
    bar.ax.tick_params(labelsize=SMALLEST, length=2, pad=1)
    if not wide:  # the ends of neighbouring bars are close
        first, *_, last = bar.ax.get_xticklabels()
        first.set_horizontalalignment("left")
        last.set_horizontalalignment("right")
    return bar


def grey_lines(rows: Sequence[MapRow], maps: Sequence[str], width: float) -> list[str]:
    """Return what grey means and what stands under the maps, in lines that fit a width in inches."""
    letters = int((width - LEFT_INCHES) / LETTER_INCHES)
    endless = any(_endless(row.result, row.layer).any() for row in rows) and "width" in maps
    wrapped = any(row.result.sheet(row.layer).wrapped for row in rows)
    note = "I: Moran's I of the known units; null: the same with units in other places (mean \N{PLUS-MINUS SIGN} sd)."
    note += " Pointed end of the width: also curves that never come down to one half." if endless else ""
    note += " Dashed frame: a torus." if wrapped else ""
    return [*textwrap.wrap(grey_words(rows[0].result, maps) + ".", letters), *textwrap.wrap(note, letters)]


def write_grey(part: Figure | SubFigure, lines: Sequence[str]) -> None:
    """Write what grey means at the bottom of a part of a figure, a grey patch before it."""
    from matplotlib.patches import Rectangle

    wide, high = part.bbox.width / part.figure.dpi, part.bbox.height / part.figure.dpi
    for number, line in enumerate(lines):
        y = LINE_INCHES * (len(lines) - number) / high
        part.text(LEFT_INCHES / wide, y, line, fontsize=SMALLEST, ha="left", va="center")
    first = LINE_INCHES * len(lines)
    patch = Rectangle(
        ((LEFT_INCHES - 0.16) / wide, (first - 0.035) / high), 0.11 / wide, 0.07 / high, facecolor=MISSING,
        transform=part.transSubfigure, label="grey",
    )  # fmt: skip
    part.add_artist(patch)


def grey_words(result: Integration, maps: Sequence[str]) -> str:
    """Return what grey means in these maps."""
    worst = result.provenance.get("integrate", {}).get("max_se")
    said = []
    fitted = [one for one in ("c", "a", "b") if one in maps]
    if "a" in maps:
        said.append(f"a where c < {FIT_KNOWN_FROM}")
    if "a" in maps or "c" in maps:
        both = _joined([one for one in ("a", "c") if one in maps])
        said.append(f"{both} where a is at its bound of {STEEPEST:g}")
    if "b" in maps:
        said.append(f"b where c > {FIT_KNOWN_TO}")
    if fitted:
        limit = "too large" if worst is None else f"above {worst:g}".replace(" 0.", " .")
        said.append(f"{_joined(fitted)} where the curve's standard error is {limit}")
    halves = [one for one in ("width", "yoking") if one in maps]
    if halves:
        cut = f"{RELIABLE:g}".removeprefix("0")
        said.append(f"{_joined(halves)} where the curve's split-half reliability is below {cut}")
    return f"Grey, not known: {'; '.join(said)}"


def _joined(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _colours(name: str) -> str:
    return DIVERGING if name == "yoking" else SEQUENTIAL


def _inches(ax: Axes) -> float:
    """Return the width of a panel."""
    return float(ax.bbox.width / ax.figure.dpi)


def _spatial_lines(result: Integration, layer: str, name: str, *, wide: bool) -> list[str]:
    """Return Moran's I beside its null, or why there is none."""
    cell = result.spatial(layer, name)
    value, mean, sd, p = (cell[one] for one in ("morans_i", "null_mean", "null_sd", "p_layout"))
    if not np.isfinite([value, mean, p]).all():
        known = _known(result, layer, name)
        few = known.size < LEAST_KNOWN * result.values(layer, name).size  # type: ignore[arg-type]
        if not few and not _varies(known):
            return ["does not vary"] if wide else ["does not", "vary"]
        if few or result.provenance.get("integrate", {}).get("n_null"):  # known units may also have no neighbours
            return ["too few known", "for Moran's I"] if wide else ["too few", "known"]
        return ["no layout null: says", "nothing on topography"] if wide else ["no null"]
    if wide:
        return [f"Moran's I {_signed(value)}, p {_p(p)}", f"null {_signed(mean)} \N{PLUS-MINUS SIGN} {sd:.2f}"]
    return [f"I {_signed(value)}", f"null {_signed(mean)}", f"p {_p(p)}"]


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


def _p(value: float) -> str:
    return f"= {value:.3f}".replace("0.", ".") if value >= 0.001 else "< .001"
