"""Topography measures and distance curves, each beside its null; without one nothing is drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from topobrain._checks import InputError, unknown
from topobrain.plot.named_results import named_results
from topobrain.plot.style import (
    CEILING,
    COLUMN_INCHES,
    NULL,
    NULL_MEAN,
    PAGE_INCHES,
    Look,
    model_looks,
    null_bars,
    place_legend,
    short_layers,
    simulated_mark,
)
from topobrain.topography import MEASURES, DistanceCurve, Topography
from topobrain.topography.result import require_null

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


class _Values(NamedTuple):
    """What is drawn of one result: columns in order, the null in a band, other models as markers."""

    value: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    null: str | None
    references: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]


def topography(
    result: Topography | Mapping[str, Topography] | Iterable[Topography],
    ax: Axes | None = None,
    *,
    measure: str | None = None,
    contrast: str | None = None,
    null: str | None = None,
    legend: bool = True,
    title: str | None = None,
) -> Any:
    """Draw a topography measure layer by layer, each value beside its null.

    Parameters
    ----------
    result
        From `topobrain.topography`: one result, several, or names of one's own and results.
    ax
        Where to draw; made if not given.
    measure
        The measure to draw (default: the first of the result).
    contrast
        The contrast, if there are several. A result of one layer shows all its contrasts side by side instead.
    null
        The null in the band; by default the first that says something on the measure and is no other model.
    legend
        Name the models and the null.
    title
        Title instead of the contrast's name (of a result of one layer: the layer's).

    Returns
    -------
    Axes
        Markers: values. Grey bars: middle 95 % of the null, with its mean as a line. Small markers with a stem: the
        models that the values were set beside (``references=``), e.g. the untrained ones.

    Raises
    ------
    InputError
        A value without a null: it makes no claim on topography.
    """
    import matplotlib.pyplot as plt

    results = named_results(result, Topography)
    if measure is None:
        measure = str(next(iter(results.values())).data["measure"].values[0])
    for one in results.values():
        _require_measure(one, measure)
    across, fixed, columns = _columns(results, measure, contrast)
    values = {model: _values(one, measure, across, fixed, columns, null) for model, one in results.items()}
    own = ax is None
    if ax is None:
        wide = len(columns) * len(results) > 16
        _, ax = plt.subplots(figsize=(PAGE_INCHES if wide else COLUMN_INCHES, 2.9), layout="constrained")
    looks = model_looks([*results, *(reference for one in values.values() for reference in one.references)])
    places = np.arange(len(columns))
    width = min(0.8 / len(results), 0.3)
    for number, (model, shown) in enumerate(values.items()):
        _draw(ax, places + (number - (len(results) - 1) / 2) * width, 0.85 * width, model, shown, looks)
    ax.axhline(0, color=CEILING, linewidth=0.5, zorder=0)
    names = [str(column) for column in columns] if across == "contrast" else short_layers(columns)
    slanted = sum(len(one) + 2 for one in names) > 18 * ax.bbox.width / ax.figure.dpi
    ax.set_xticks(places, names, rotation=45 if slanted else 0, ha="right" if slanted else "center", fontsize=6.5)
    ax.set_xlim(-0.5, len(columns) - 0.5)
    _plain(ax, "contrast" if across == "contrast" else "layer", _title_of(measure))
    head = fixed if title is None else title
    ax.set_title(head + simulated_mark(any(one.simulated for one in results.values())), fontsize=8)
    if legend:
        place_legend(ax, beside=own)
    return ax


def distance_curve(
    curve: DistanceCurve | Mapping[str, DistanceCurve] | Iterable[DistanceCurve],
    ax: Axes | None = None,
    *,
    layer: str | None = None,
    legend: bool = True,
    title: str | None = None,
) -> Any:
    """Draw how alike units are at each distance on their sheet, with the band of the same units in other places.

    Parameters
    ----------
    curve
        From `topobrain.distance_curve`: one result, several of the same quantity, or names of one's own and results.
    ax
        Where to draw one layer; without it a figure is made, with a panel a layer unless ``layer`` is given.
    layer
        The layer to draw.
    legend
        Name the models and the null.
    title
        Title instead of the layer's name.

    Returns
    -------
    Axes, or an array of them (one a layer)
        Lines: the mean over the pairs of units of a bin of distances. Band: middle 95 % of the layout null, dashed its
        mean; grey, or of several models each in the model's colour.

    Raises
    ------
    InputError
        A curve without a null, curves of different quantities, several layers for one Axes.
    """
    import matplotlib.pyplot as plt

    curves = named_results(curve, DistanceCurve)
    quantities = {one.quantity for one in curves.values()}
    if len(quantities) > 1:
        raise InputError(f"curves drawn together are of one quantity, got {', '.join(sorted(quantities))}")
    first = next(iter(curves.values()))
    layers = [layer] if layer is not None else first.layers
    for one in curves.values():
        for name in layers:
            if name not in one.layers:
                raise unknown("layer", name, one.layers)
            _require_band(one, name)
    if ax is not None and len(layers) > 1:
        raise InputError(f"name the layer to draw into one Axes (layer=...): {layers}")
    if ax is None:
        rows = -(-len(layers) // 4)
        columns = -(-len(layers) // rows)
        size = (COLUMN_INCHES, 2.9) if len(layers) == 1 else (PAGE_INCHES, 2.0 * rows + 0.5)
        _, every = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
        axes = every.ravel()
        for unused in axes[len(layers) :]:
            unused.set_axis_off()
        axes = axes[: len(layers)]
    else:
        axes = np.array([ax])
    looks = model_looks(curves)
    names = short_layers(layers) if len(layers) > 1 else layers
    for panel, name, short in zip(axes, layers, names, strict=True):
        for model, one in curves.items():
            _draw_curve(panel, one, name, model, looks[model], alone=len(curves) == 1)
        _plain(panel, "distance on the sheet (grid steps)", _quantity(next(iter(quantities))))
        if len(axes) > 1 and not panel.get_subplotspec().is_first_col():
            panel.set_ylabel("")
        if next(iter(quantities)) == "response correlation":
            panel.axhline(0, color=CEILING, linewidth=0.5, zorder=0)
        head = title if title is not None and len(axes) == 1 else short
        panel.set_title(head + simulated_mark(any(one.simulated for one in curves.values())), fontsize=8)
    if len(axes) > 1 and title is not None:
        axes[0].figure.suptitle(title, fontsize=8)
    if legend:
        place_legend(axes[0], beside=ax is None)
    return axes[0] if len(axes) == 1 else axes


def _require_measure(result: Topography, measure: str) -> None:
    """Raise unless a measure is in the result, and every value of it stands beside a null."""
    known = [str(name) for name in result.data["measure"].values]
    if measure not in known:
        raise unknown("topography measure", measure, known, "(in this result)")
    part = result.data.sel(measure=[measure])
    if np.isinf(part["value"].values).any():
        raise InputError(f"measure {measure!r} has infinite values in this result, which no plot shows")
    if not np.isfinite(part["value"].values).any():
        raise InputError(f"measure {measure!r} has no value in this result")
    require_null(Topography(part))


def _columns(results: Mapping[str, Topography], measure: str, contrast: str | None) -> tuple[str, str, list[str]]:
    """Return what runs along the x axis (``"layer"`` or ``"contrast"``), the name of the other, and what is on the axis."""
    every = []
    for one in results.values():
        measured = np.isfinite(one.data["value"].sel(measure=measure).transpose("layer", "contrast").values)
        layers = one.labels("layer")[measured.any(axis=1)].tolist()
        every.append((layers, one.labels("contrast")[measured.any(axis=0)].tolist()))
    layers, contrasts = every[0]
    for model, (others, _) in zip(results, every, strict=True):
        if len(others) != len(layers):
            raise InputError(
                f"results drawn together need the same layers; {next(iter(results))!r} has {len(layers)} with "
                f"{measure!r}, {model!r} has {len(others)}: draw a panel each"
            )
    if contrast is not None:
        if contrast not in contrasts:
            raise unknown("contrast", contrast, contrasts, f"(with measure {measure!r})")
        return "layer", contrast, layers
    if len(contrasts) == 1:
        return "layer", contrasts[0], layers
    if len(layers) == 1:
        return "contrast", layers[0], contrasts
    raise InputError(f"this result has several contrasts, name one: {contrasts}")


def _values(
    result: Topography, measure: str, across: str, fixed: str, columns: Sequence[str], null: str | None
) -> _Values:
    """Return the values along the x axis, and what nulls say of them."""
    references = result.provenance.get("topography", {}).get("references", {})
    spoken = {name: _along(result, result.beside(name), measure, across, fixed, columns) for name in result.nulls}
    spoken = {name: one for name, one in spoken.items() if np.isfinite(one["null_mean"]).any()}
    if null is not None and null not in spoken:
        raise unknown("null", null, spoken, f"(that says something on {measure!r} in this result)")
    own = [name for name in spoken if name not in references]
    chosen = null or (own[0] if own else None)
    if chosen is not None and chosen in references and not np.isfinite(spoken[chosen]["null_low"]).any():
        chosen = None  # a single model has no band: it is drawn as a marker
    beside = {
        name: (one["null_mean"], one["null_low"], one["null_high"])
        for name, one in spoken.items()
        if name in references and name != chosen
    }
    nothing = np.full(len(columns), np.nan)
    band = spoken[chosen] if chosen is not None else dict.fromkeys(("null_mean", "null_low", "null_high"), nothing)
    value = _along(result, result.data[["value"]], measure, across, fixed, columns)["value"]
    return _Values(value, band["null_mean"], band["null_low"], band["null_high"], chosen, beside)


def _along(
    result: Topography, table: xr.Dataset, measure: str, across: str, fixed: str, columns: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return the columns of a table along the x axis."""
    said = table.sel(measure=measure)
    if across == "layer":
        said = said.sel(contrast=fixed)
        measured = said.isel(layer=np.flatnonzero(result.data["value"].sel(measure=measure).notnull().any("contrast")))
    else:
        measured = said.isel(layer=np.flatnonzero(said["value"].notnull().any("contrast"))[0]).sel(
            contrast=list(columns)
        )
    return {str(name): np.asarray(measured[name].values, dtype=np.float64) for name in measured.data_vars}


def _draw(ax: Axes, x: np.ndarray, width: float, model: str, one: _Values, looks: Mapping[str, Look]) -> None:
    """Draw one model's values at their places."""
    known = set(ax.get_legend_handles_labels()[1])
    if np.isfinite(one.mean).any():
        label = f"{one.null} null, middle 95 %"
        null_bars(ax, x, one.low, one.high, width, label=None if label in known else label)
        ax.hlines(one.mean, x - width / 2, x + width / 2, color=NULL_MEAN, linewidth=0.8, zorder=2)
    for reference, (mean, low, high) in one.references.items():
        look = looks[reference]
        interval = np.nan_to_num(np.stack([mean - low, high - mean]))
        ax.errorbar(
            x, mean, yerr=interval, linestyle="none", marker=look.marker, markersize=3.5, color=look.colour,
            markerfacecolor=look.face, elinewidth=0.8, zorder=3, label=None if reference in known else reference,
        )  # fmt: skip
    look = looks[model]
    ax.plot(x, one.value, linestyle="none", marker=look.marker, markersize=5, color=look.colour,
            markerfacecolor=look.face, label=model, zorder=4)  # fmt: skip


def _require_band(curve: DistanceCurve, layer: str) -> None:
    one = curve.data.sel(layer=layer)
    value, mean = one["value"].values, one["null_mean"].values
    if np.isinf(value).any():
        raise InputError(f"the distance curve of layer {layer!r} has infinite values, which no plot shows")
    if not np.isfinite(value).any():
        raise InputError(f"the distance curve of layer {layer!r} has no values")
    if (np.isfinite(value) & ~np.isfinite(mean)).any():
        raise InputError(
            f"the distance curve of layer {layer!r} has no null, so it makes no claim on topography. Measure again with "
            "distance_curve(..., n_null=200)"
        )


def _draw_curve(ax: Axes, curve: DistanceCurve, layer: str, model: str, look: Look, *, alone: bool) -> None:
    """Draw one layer's curve and its null, which has the model's colour where there are several."""
    one = curve.data.sel(layer=layer)
    kept = np.isfinite(one["value"].values)  # bins without pairs
    x, value, mean, low, high = (
        np.asarray(one[name].values, dtype=np.float64)[kept]
        for name in ("distance", "value", "null_mean", "null_low", "null_high")
    )
    known = set(ax.get_legend_handles_labels()[1])
    band, middle = "layout null, middle 95 %", "its mean"
    shade, line = (NULL, NULL_MEAN) if alone else (look.colour, look.colour)
    ax.fill_between(x, low, high, color=shade, alpha=0.6 if alone else 0.15, linewidth=0, zorder=1,
                    label=None if band in known else band)  # fmt: skip
    ax.plot(x, mean, color=line, linewidth=0.8, linestyle="--", zorder=2, label=None if middle in known else middle)
    ax.plot(x, value, color=look.colour, marker=look.marker, markersize=3, markerfacecolor=look.face, linewidth=1,
            label=model, zorder=3)  # fmt: skip


def _plain(ax: Axes, x: str, y: str) -> None:
    ax.tick_params(labelsize=6.5)
    ax.set_xlabel(x, fontsize=7)
    ax.set_ylabel(y, fontsize=7)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _title_of(measure: str) -> str:
    title = MEASURES[measure].title if measure in MEASURES else measure.replace("_", " ")
    return textwrap.fill(title, 30).replace("t_g", "$t_g$")


def _quantity(name: str) -> str:
    return {
        "response correlation": "mean response correlation",
        "difference of t": "mean absolute difference of t",
    }.get(name, name)
