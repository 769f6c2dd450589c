"""Integration windows: curves over lags, medians over depth beside controls, and steps at sentence starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from topobrain._checks import InputError, require_choice, unknown
from topobrain.integration.result import MAPS, Integration
from topobrain.plot.alignment import drawn_as
from topobrain.plot.named_results import named_results
from topobrain.plot.scores import plain_axes
from topobrain.plot.style import (
    CEILING,
    COLUMN_INCHES,
    NULL_MEAN,
    PAGE_INCHES,
    Look,
    model_looks,
    null_bars,
    place_legend,
    short_layers,
    simulated_mark,
)
from topobrain.plot.window_maps import SEQUENTIAL, SHOWN, shown_maps
from topobrain.stats.integration_windows.forms import FORMS, window_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DEPTH_NAMES = {
    "c": "c, power-law weight",
    "a": "a, power-law exponent",
    "b": "b, decay rate (1/word)",
    "width": "half width (words)",
    "yoking": "yoking index",
}
PLAIN_FORMS = {"exponential": "exponential", "power": "power law", "mixture": "mixture"}
FITTED = "fitted window, median"
BAND = "middle 50 % of units"
LAYOUT_NULL = "units in other places, 95 %"
FEW = "pale: fewer than half of the units known"
STARTS = "first word of a sentence"
MANY_LAYERS = 5
"""Layers of yoking steps up to which each is named."""

LEAST_SHARE = 0.5
"""Share of a layer's units that must be known for a marker in full colour."""

LAG_TICKS = (0, 1, 2, 5, 10, 20, 50, 100)
MOST_STARTS = 10
"""Sentence starts up to which each has a tick."""

TITLE_LETTER = 0.052
"""Inches of a letter in a panel's title."""

LEGEND_LETTER, LEGEND_LINE = 0.047, 0.13
"""Inches of a letter and of a line in the legend of yoking steps."""


def integration_curves(
    result: Integration,
    ax: Axes | np.ndarray | None = None,
    *,
    layers: Sequence[str] | str | None = None,
    controls: Mapping[str, Integration] | None = None,
    lag: Literal["linear", "log"] = "linear",
    legend: bool = True,
    title: str | None = None,
    width: float | None = None,
) -> Any:
    """Draw how the influence of a word falls off over the words after it, layer by layer.

    Parameters
    ----------
    result
        From `topobrain.integrate`.
    ax
        Where to draw: one Axes for one layer, or one a layer. Made if not given.
    layers
        Layers to draw (default: all).
    controls
        Name -> result drawn beside: ``"untrained"``, ``"twin"``, or another model's name. They have the same layers.
    lag
        Lags on a linear axis, or on a logarithmic one, of lag + 1.
    legend
        Name what is drawn.
    title
        Title instead of the model's name.
    width
        Width of the figure in inches: 3.5 (a column) up to two layers, 7.2 (a page) beyond.

    Returns
    -------
    Axes, or an array of them (one a layer)
        Markers: the median curve of the units whose curve is reliable, joined for controls. Bands: the middle half of them.
        Dashes: the median of the fitted windows of those that have one, for the result itself. Above each panel: the form
        that predicts held-out sequences best for most units.

    Raises
    ------
    InputError
        Other layers, another number of axes, two-sided lags on a logarithmic axis.
    """
    if not isinstance(result, Integration):
        raise InputError(f"plot.integration_curves draws integration windows (integrate), got {type(result).__name__}")
    require_choice("lag axis", lag, ("linear", "log"))
    if lag == "log" and (result.lags < 0).any():
        raise InputError("lags on both sides have no logarithm: draw them on a linear axis (lag='linear')")
    chosen = _chosen_layers(result, layers)
    beside = _controls(result, controls, chosen)
    axes = _axes(ax, len(chosen), width, 1.75)
    model = str(result.provenance.get("model", {}).get("name", "model"))
    looks = _looks(model, [model, *beside])
    names = short_layers(chosen) if len(chosen) > 1 else chosen
    for panel, layer, short in zip(axes, chosen, names, strict=True):
        _curve(panel, result, layer, looks[model], model, lag=lag, fitted=True)
        for name, one in beside.items():
            _curve(panel, one, layer, looks[name], name, lag=lag, fitted=False)
        plain_axes(panel, "influence relative to lag 0", "lag (words)")
        _lag_axis(panel, result.lags, lag)
        panel.set_ylim(min(0.0, panel.get_ylim()[0]), 1.03)
        head = f"layer {short}" if short.isdecimal() else short
        panel.set_title("\n".join([head, *_best_form(result, layer, panel)]), fontsize=7, pad=3)
    _finish(axes, ax, title or model, [result, *beside.values()], legend)
    return axes[0] if len(axes) == 1 else axes


def integration_depth(
    results: Integration | Mapping[str, Integration] | Iterable[Integration],
    ax: Axes | np.ndarray | None = None,
    *,
    maps: Sequence[str] | str | None = None,
    what: Literal["median", "morans_i"] = "median",
    legend: bool = True,
    title: str | None = None,
    width: float | None = None,
) -> Any:
    """Draw how windows change with depth, or how patchy their maps are: a model, its twin and its untrained self.

    Parameters
    ----------
    results
        One result, several with as many layers, or names of one's own and results. ``"twin"`` and ``"untrained"`` look like
        those of the first model.
    ax
        Where to draw: one Axes for one map, or one a map. Made if not given.
    maps
        Of ``"c"``, ``"a"``, ``"b"``, ``"width"`` and ``"yoking"`` (default: all that a result has).
    what
        ``"median"`` over the units whose value is known, or ``"morans_i"`` of their map.
    legend
        Name what is drawn.
    title
        Title of the figure.
    width
        Width of the figure in inches: 3.5 (a column) up to two maps, 7.2 (a page) beyond.

    Returns
    -------
    Axes, or an array of them (one a map)
        Medians with the middle half of the units as bars, pale where fewer than half of a layer's units are known. Moran's I
        over the known units, with the middle 95 % of its layout null (mean and 1.96 standard deviations) in grey behind.

    Raises
    ------
    InputError
        Results of different depth, a map that none of them has, another number of axes.
    """
    require_choice("quantity over depth", what, ("median", "morans_i"))
    found = named_results(results, Integration)
    counts = sorted({len(one.layers) for one in found.values()})
    if len(counts) > 1:
        raise InputError(f"results drawn together need the same number of layers, got {counts}; draw a panel each")
    shown = _maps_of(found.values(), maps)
    axes = _axes(ax, len(shown), width, 1.6, per_row=len(shown))
    looks = _looks(next(iter(found)), list(found))
    layers = next(iter(found.values())).layers
    places, step = np.arange(len(layers)), min(0.8 / len(found), 0.22)
    for panel, name in zip(axes, shown, strict=True):
        for number, (model, one) in enumerate(found.items()):
            x = places + (number - (len(found) - 1) / 2) * step
            if what == "median":
                _medians(panel, x, one, name, looks[model], model)
            else:
                _morans(panel, x, step, one, name, looks[model], model)
        plain_axes(panel, "", "layer")
        panel.set_title(DEPTH_NAMES[name], fontsize=7, pad=3)
        panel.set_xlim(-0.6, len(layers) - 0.4)
        _depth_ticks(panel, short_layers(layers))
        if panel.get_subplotspec() is None or panel.get_subplotspec().is_first_col():
            panel.set_ylabel("median over units" if what == "median" else "Moran's I", fontsize=7)
    _finish(axes, ax, title or "", list(found.values()), legend)
    return axes[0] if len(axes) == 1 else axes


def yoking_steps(
    result: Integration,
    ax: Axes | None = None,
    *,
    layers: Sequence[str] | str | None = None,
    legend: bool = True,
    title: str | None = None,
) -> Axes:
    """Draw by how much windows shorten or lengthen from each word to the next, with the sentence starts marked.

    Parameters
    ----------
    result
        From `topobrain.integrate` with sequences of sentences of equal length.
    ax
        Where to draw; made if not given.
    layers
        Layers to draw (default: all).
    legend
        Name the layers, each with its yoking index (the median over units) and the middle 95 % of it over draws of sequences.
    title
        Title instead of the model's name.

    Returns
    -------
    Axes
        A line a layer, dark to light with depth: the median over units of f, the mean influence of a swap of this word over
        the words that follow, less that of a swap of the word before, relative to lag 0. Windows that stop at the end of a
        sentence jump up at its first word; windows that only count words give 0 everywhere.

    Raises
    ------
    InputError
        Sequences without sentence structure, an unknown layer.
    """
    import matplotlib.pyplot as plt

    if not isinstance(result, Integration):
        raise InputError(f"plot.yoking_steps draws integration windows (integrate), got {type(result).__name__}")
    chosen = _chosen_layers(result, layers)
    steps = np.asarray(result.data["yoking_step"].values, dtype=float)
    if not np.isfinite(steps).any():
        raise InputError(
            "no yoking was measured: it needs sequences of sentences of equal length, as in load_stimuli('sentence-sequences')"
        )
    own = ax is None
    if ax is None:
        named = min(len(chosen), MANY_LAYERS) if legend else 0
        _, ax = plt.subplots(figsize=(COLUMN_INCHES, 2.3 + LEGEND_LINE * named), layout="constrained")
    positions = np.asarray(result.data["position"].values)
    length = int(result.provenance.get("integrate", {}).get("sentence_words", 0))
    known = np.isfinite(steps).any(axis=1)
    starts = [one for one in positions if length and one and one % length == 0 and known[one]]
    for number, start in enumerate(starts):
        ax.axvline(start, color=NULL_MEAN, linewidth=0.6, linestyle=":", zorder=0, label=None if number else STARTS)
    colours = plt.get_cmap(SEQUENTIAL)(np.linspace(0, 0.92, len(result.layers)))
    for layer, short in zip(chosen, short_layers(chosen), strict=True):
        at = result.layers.index(layer)
        name = (f"layer {short}" if short.isdecimal() else short) + _index(result, layer)
        ax.plot(positions, steps[:, at], color=colours[at], linewidth=0.9, marker=".", markersize=2.5, label=name)
    plain_axes(ax, "step of influence, f", "word in the sequence (from 0)")
    if starts:
        ax.set_xticks(starts[:: -(-len(starts) // MOST_STARTS)])
    ax.set_xlim(positions[known][0] - 1, positions[known][-1] + 1)
    ax.set_title(
        (title or str(result.provenance.get("model", {}).get("name", "model"))) + simulated_mark(result.simulated),
        fontsize=8,
    )
    if legend:
        _name_layers(ax, own=own)
    return ax


def _index(result: Integration, layer: str) -> str:
    """Return the yoking index of a layer with its interval, as far as they are known."""
    units = result.values(layer, "yoking")
    if not np.isfinite(units).any():
        return ""
    ends = result.layer_interval(layer, "yoking") if "layer_draws" in result.data else (np.nan, np.nan)
    said = f": yoking {_plain(float(np.nanmedian(units)))}"
    return said + (f" [{', '.join(map(_plain, ends))}]" if np.isfinite(ends).all() else "")


def _plain(value: float) -> str:
    said = f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"
    return said.replace("-.000", ".000").replace("-", "\N{MINUS SIGN}")


def _name_layers(ax: Axes, *, own: bool) -> None:
    """Name the layers, of many only the first, the middle and the last: colours run on between them."""
    every = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    start = every.pop(STARTS, None)
    names = list(every)
    if len(names) > MANY_LAYERS:
        names = [names[0], names[len(names) // 2], names[-1]]
    handles = [every[name] for name in names]
    if start is not None:
        handles, names = [*handles, start], [*names, STARTS]
    style: dict[str, Any] = {"fontsize": 6.5, "columnspacing": 1.0, "edgecolor": "none", "framealpha": 1.0}
    box, dots = (ax.figure if own else ax).bbox, float(ax.figure.dpi)
    wide, tall = box.width / dots, box.height / dots
    columns = min(max(1, int(wide / (LEGEND_LETTER * max(map(len, names)) + 0.35))), len(names))
    if own:
        ax.figure.legend(handles, names, loc="outside lower center", ncols=columns, **style)
        return
    low, high = ax.get_ylim()
    lines = -(-len(names) // columns)
    above = min(
        max(0.22, (LEGEND_LINE * lines + 0.08) / tall), 0.6
    )  # share of the height for the names above the lines
    ax.set_ylim(low, high + above / (1 - above) * (high - low))
    ax.legend(handles, names, loc="upper center", ncols=columns, handlelength=1.4, borderpad=0.1, **style)


def _chosen_layers(result: Integration, layers: Sequence[str] | str | None) -> list[str]:
    chosen = result.layers if layers is None else [layers] if isinstance(layers, str) else list(layers)
    for one in chosen:
        if one not in result.layers:
            raise unknown("layer", one, result.layers)
    if not chosen or len(set(chosen)) < len(chosen):
        raise InputError(f"each layer is drawn once, and at least one; got {chosen}")
    return chosen


def _controls(
    result: Integration, controls: Mapping[str, Integration] | None, layers: Sequence[str]
) -> dict[str, Integration]:
    beside = named_results(controls, Integration) if controls else {}
    for name, one in beside.items():
        for layer in layers:
            if layer not in one.layers:
                raise unknown("layer", layer, one.layers, f"(in the control {name!r})")
        if (one.lags < 0).any() != (result.lags < 0).any():
            raise InputError(f"the control {name!r} has lags on other sides than the model: draw them apart")
    return beside


def _looks(model: str, names: Sequence[str]) -> dict[str, Look]:
    """Return the look of each name; ``"twin"`` and ``"untrained"`` are those of the model."""
    drawn = {name: drawn_as(model, name) if name != model else model for name in names}
    looks = model_looks(drawn.values())
    return {name: looks[one] for name, one in drawn.items()}


def _maps_of(results: Iterable[Integration], maps: Sequence[str] | str | None) -> list[str]:
    every = list(results)
    if maps is None:
        there = {name for one in every for name in shown_maps(one)}
        return [name for name in SHOWN if name in there]
    asked = [maps] if isinstance(maps, str) else list(maps)
    for one in asked:
        if one not in MAPS:
            raise unknown("map of integration windows", one, SHOWN)
    for name in asked:
        if not any(np.isfinite(one.data[name].values).any() for one in every):
            shown_maps(every[0], name)  # raises, and says why
    if not asked:
        raise InputError("name at least one map to draw")
    return asked


def _axes(
    ax: Axes | np.ndarray | None, n: int, width: float | None, height: float, *, per_row: int | None = None
) -> np.ndarray:
    """Return one Axes a panel: those given, checked, or those of a new figure."""
    import matplotlib.pyplot as plt

    if ax is not None:
        axes = np.ravel(np.asarray(ax, dtype=object))
        if len(axes) != n:
            raise InputError(f"{len(axes)} axes for {n} panels: give one each, or name fewer")
        return axes
    wide = width or (COLUMN_INCHES if n <= 2 else PAGE_INCHES)
    columns = min(n, max(1, int(wide / 1.7)) if per_row is None or wide < 5 else per_row)
    rows = -(-n // columns)
    figure, every = plt.subplots(rows, columns, figsize=(wide, height * rows + 0.75), squeeze=False,
                                 layout="constrained", sharey=per_row is None)  # fmt: skip
    for unused in every.ravel()[n:]:
        unused.set_axis_off()
    figure.get_layout_engine().set(w_pad=0.03)
    return np.asarray(every.ravel()[:n])


def _finish(axes: np.ndarray, given: Any, title: str, results: Sequence[Integration], legend: bool) -> None:
    """Give a figure of one's own its title, and the panels their legend."""
    mark = simulated_mark(any(one.simulated for one in results))
    first = axes[0]
    if given is None:
        if title or mark:
            first.figure.suptitle((title + mark).strip(), fontsize=8)
        for panel in axes:
            if not panel.get_subplotspec().is_first_col():
                panel.set_ylabel("")
    if not legend:
        return
    if given is not None:
        place_legend(first, beside=False)
        return
    handles: dict[str, Any] = {}
    for panel in axes:
        drawn, names = panel.get_legend_handles_labels()
        handles |= {name: one for one, name in zip(drawn, names, strict=True) if name not in handles}
    entry = 0.06 * max(map(len, handles), default=1) + 0.3
    columns = max(1, int(first.figure.bbox.width / first.figure.dpi / entry))
    first.figure.legend(list(handles.values()), list(handles), fontsize=6.5, frameon=False, columnspacing=1.0,
                        ncols=columns, loc="outside lower center")  # fmt: skip


def _curve(ax: Axes, result: Integration, layer: str, look: Look, name: str, *, lag: str, fitted: bool) -> None:
    """Draw the median curve of a layer, its quartiles and, of the result itself, its fitted windows."""
    x = result.lags + (1 if lag == "log" else 0)
    kept = result.reliable(layer) & np.isfinite(result.curves(layer)).all(axis=0)
    known = ax.get_legend_handles_labels()[1]
    label = None if name in known else name
    if not kept.any():
        ax.plot([], [], color=look.colour, marker=look.marker, markersize=3, markerfacecolor=look.face, label=label)
        ax.text(0.97, 0.9, f"{name}:\nno curve is reliable", transform=ax.transAxes, ha="right", va="top", fontsize=6)
        return
    low, middle, high = np.percentile(result.curves(layer)[:, kept], [25, 50, 75], axis=1)
    ax.fill_between(x, low, high, color=look.colour, alpha=0.22, linewidth=0, zorder=2)
    style: dict[str, Any] = {"linestyle": "none", "markersize": 3, "zorder": 4}
    if not fitted:
        style = {"linewidth": 0.9, "markersize": 2.2, "zorder": 3}
    ax.plot(x, middle, color=look.colour, marker=look.marker, markerfacecolor=look.face, markeredgewidth=0.6,
            label=label, **style)  # fmt: skip
    if BAND not in known and fitted:
        ax.fill_between([], [], [], color=CEILING, alpha=0.22, linewidth=0, label=BAND)
    if fitted and result.causal:
        a, b, c = (result.values(layer, one, masked=False) for one in ("a", "b", "c"))
        told = kept & np.isfinite(result.values(layer, "c")) & np.isfinite([a, b]).all(axis=0)
        if told.any():
            fine = np.linspace(0, result.lags.max(), 201)
            curve = np.median(window_curve(a[told], b[told], c[told], fine), axis=1)
            ax.plot(fine + (1 if lag == "log" else 0), curve, color=CEILING, linestyle="--", linewidth=0.8, zorder=5,
                    label=None if FITTED in known else FITTED)  # fmt: skip


def _best_form(result: Integration, layer: str, ax: Axes) -> list[str]:
    """Return which form is best for most units, as a line that fits above a panel."""
    shares = result.forms(layer) if result.causal else {}
    if not shares or not np.isfinite(list(shares.values())).all():
        return []
    best = max(FORMS, key=lambda one: shares[one])
    said = f"{PLAIN_FORMS[best]} ({100 * shares[best]:.0f} %)"
    long = f"best on held-out sequences: {said}"
    return [long if TITLE_LETTER * len(long) <= ax.bbox.width / ax.figure.dpi else f"held out: {said}"]


def _lag_axis(ax: Axes, lags: np.ndarray, kind: str) -> None:
    if kind == "linear":
        return
    ax.set_xscale("log")
    ticks = [one for one in LAG_TICKS if one <= lags.max()]
    ax.set_xticks([one + 1 for one in ticks], [str(one) for one in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("lag (words), log of lag + 1", fontsize=7)


def _medians(ax: Axes, x: np.ndarray, result: Integration, name: str, look: Look, label: str) -> None:
    """Draw medians over units with their quartiles, pale where few units are known."""
    rows = [result.values(layer, name) for layer in result.layers]  # type: ignore[arg-type]
    if not any(np.isfinite(row).any() for row in rows):
        return
    share = np.array([np.isfinite(row).mean() for row in rows])
    ends = np.array(
        [np.percentile(row[np.isfinite(row)], [25, 50, 75]) if np.isfinite(row).any() else [np.nan] * 3 for row in rows]
    ).T
    sure = share >= LEAST_SHARE
    style: dict[str, Any] = {"linestyle": "none", "marker": look.marker, "color": look.colour, "markersize": 3.5}
    ax.plot(x, ends[1], color=look.colour, linewidth=0.6, alpha=0.5, zorder=2)
    for mask, alpha in ((sure, 1.0), (~sure, 0.35)):
        ax.vlines(x[mask], ends[0][mask], ends[2][mask], color=look.colour, linewidth=1, alpha=alpha, zorder=3)
        ax.plot(x[mask], ends[1][mask], markerfacecolor=look.face, alpha=alpha, zorder=4, **style)
    ax.plot([], [], markerfacecolor=look.face, label=label, **style)
    if BAND not in ax.get_legend_handles_labels()[1]:
        ax.plot([], [], marker="|", linestyle="none", color=CEILING, markersize=6, label=BAND)
    if (~sure & (share > 0)).any() and FEW not in ax.get_legend_handles_labels()[1]:
        ax.plot([], [], marker="o", linestyle="none", color=CEILING, alpha=0.35, markersize=3.5, label=FEW)


def _morans(ax: Axes, x: np.ndarray, step: float, result: Integration, name: str, look: Look, label: str) -> None:
    """Draw Moran's I of a map in each layer, over its layout null."""
    cells = [result.spatial(layer, name) for layer in result.layers]
    value, mean, sd = (np.array([cell[one] for cell in cells]) for one in ("morans_i", "null_mean", "null_sd"))
    told = np.isfinite(value)
    if not told.any():
        return
    known = ax.get_legend_handles_labels()[1]
    null_bars(ax, x[told], (mean - 1.96 * sd)[told], (mean + 1.96 * sd)[told], 0.9 * step,
              label=None if LAYOUT_NULL in known else LAYOUT_NULL)  # fmt: skip
    ax.plot(x[told], value[told], linestyle="none", marker=look.marker, markersize=3.5, color=look.colour,
            markerfacecolor=look.face, label=label, zorder=4)  # fmt: skip


def _depth_ticks(ax: Axes, names: Sequence[str]) -> None:
    """Name the layers; where there is no room stand the names upright, and only every second or third of them."""
    room = ax.bbox.width / ax.figure.dpi
    upright = 0.065 * sum(len(one) + 1.5 for one in names) > room
    every = max(1, int(np.ceil(0.1 * len(names) / room))) if upright else 1
    places = np.arange(0, len(names), every)
    ax.set_xticks(places, [names[int(place)] for place in places], rotation=90 if upright else 0, fontsize=6)
