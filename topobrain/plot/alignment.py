"""Alignment of a model with a brain: scores of components and layers, and the scores that depend on places."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from topobrain._checks import InputError, require_choice, unknown
from topobrain.alignment import Alignment
from topobrain.alignment.spatial import SpatialAlignment
from topobrain.plot.named_results import named_results
from topobrain.plot.scores import layer_ticks, plain_axes, points
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

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCORES = {
    "pls": "held-out r, PLS",
    "cca": "held-out r, regularised CCA",
    "pca": "held-out r, model's PCs",
    "rsa": "RSA, Spearman",
    "cka": "linear CKA, unbiased",
}
"""Method -> what its score is called on an axis."""

NULL_LABEL = "stimuli permuted, 95 %"
STARRED = "model: p < .05 beside the largest of all layers and components"
UNITS_LABEL = "places of units shuffled, 95 %"
VOXELS_LABEL = "places of voxels shuffled, 95 %"
FLOOR_LABEL = "mean of a control's higher null"
ZERO_LABEL = "0 = mean of shuffled places"
CEILING_LABEL = "noise ceiling"
STAR = "$*$"
VOXELS_TONE = "#DCE6F0"
"""Fill of the bars of shuffled voxels, apart from the plain grey of other nulls."""
BELOW = "p < .05 beside both nulls, the largest of all layers"
SMOOTH_BOTH = "p < .05 on both sides"
PER_PAGE = 4
"""Panels side by side, at most."""


class Series(NamedTuple):
    """One model or control of a picture, its values along the x axis.

    Attributes
    ----------
    name
        What the legend calls it.
    model
        What it is drawn as: the name that decides colour and marker.
    value, low, high
        Scores and their interval.
    null_low, null_high, ceiling
        Middle 95 % of the permuted scores, and the noise ceiling; NaN where not known.
    p_max
        Against the largest permuted score of all layers and components; NaN where not tested.
    """

    name: str
    model: str
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    null_low: np.ndarray
    null_high: np.ndarray
    ceiling: np.ndarray
    p_max: np.ndarray


def alignment_scores(
    result: Alignment | Mapping[str, Alignment] | Iterable[Alignment],
    ax: Axes | None = None,
    *,
    layer: str | None = None,
    component: int | None = None,
    legend: bool = True,
    title: str | None = None,
) -> Any:
    """Draw how well each component of a model lines up with the brain on held-out stimuli, controls beside.

    Parameters
    ----------
    result
        From `topobrain.align`: one result, or several of one method (names of one's own and results, or several models).
    ax
        Where to draw one panel; without it a figure is made.
    layer
        Draw the components of this layer. By default each layer gets a panel.
    component
        Draw this component (from 1) of every layer in one panel instead; methods without components always are.
    legend
        Name what is drawn.
    title
        Title instead of the layer's name, or of the component's number.

    Returns
    -------
    Axes, or an array of them (one a layer)
        Markers: held-out r, mean over folds, with its 95 % interval over test stimuli. Grey bars: middle 95 % of the
        scores with permuted stimuli. Dashes: noise ceiling. The controls of a result stand beside it: its untrained self in
        grey with the same marker, its twin as a square. A star: p below .05 beside the largest permuted score of all layers
        and components. None of these scores depends on where units lie.

    Raises
    ------
    InputError
        Results of different methods or depth, several layers for one Axes.
    """
    import matplotlib.pyplot as plt

    results = named_results(result, Alignment)
    first = next(iter(results.values()))
    methods = {one.method for one in results.values()}
    if len(methods) > 1:
        raise InputError(
            f"scores of different methods have no common scale, got {', '.join(sorted(methods))}: draw apart"
        )
    if component is None and first.data.sizes["component"] == 1 and layer is None:
        component = 1
    if component is not None:
        return _by_layer(results, ax, component, layer, legend=legend, title=title)
    layers = [layer] if layer is not None else first.layers
    for one in results.values():
        for name in layers:
            if name not in one.layers:
                raise unknown("layer", name, one.layers)
    if ax is not None and len(layers) > 1:
        raise InputError(f"name the layer to draw into one Axes (layer=...), or a component: {layers}")
    own = ax is None
    n_series = sum(1 + len(one.controls) for one in results.values())
    if ax is not None:
        axes = np.array([ax])
    else:
        columns = min(PER_PAGE, len(layers))
        rows = -(-len(layers) // columns)
        wide = len(layers) > 1
        size = (
            PAGE_INCHES if wide else COLUMN_INCHES,
            1.75 * rows + 0.3 + 0.16 * n_series * (1 if wide else 1.5) + 0.5,
        )
        _, every = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
        axes = every.ravel()[: len(layers)]
        for unused in every.ravel()[len(layers) :]:
            unused.set_axis_off()
    names = short_layers(layers) if len(layers) > 1 else layers
    for panel, name, head in zip(axes, layers, names, strict=True):
        series = [
            one for model, each in results.items() for one in series_of(each, model, len(results) > 1, layer=name)
        ]
        draw_series(panel, series)
        panel.set_xticks(np.arange(len(series[0].value)), np.arange(1, len(series[0].value) + 1))
        plain_axes(panel, SCORES.get(first.method, first.method), "component")
        if own and not panel.get_subplotspec().is_first_col():
            panel.set_ylabel("")
        head = title if title is not None and len(layers) == 1 else head
        panel.set_title(head + simulated_mark(any(one.simulated for one in results.values())), fontsize=8)
    if own and len(layers) > 1 and title is not None:
        axes[0].figure.suptitle(title, fontsize=9)
    if legend:
        place_legend(axes[0], beside=own)
    return axes[0] if len(axes) == 1 else axes


def _by_layer(
    results: Mapping[str, Alignment], ax: Axes | None, component: int, layer: str | None, *, legend: bool,
    title: str | None,
) -> Axes:  # fmt: skip
    """Draw one component of every layer."""
    import matplotlib.pyplot as plt

    first = next(iter(results.values()))
    if layer is not None:
        raise InputError("give layer= or component=, not both")
    counts = sorted({len(one.layers) for one in results.values()})
    if len(counts) > 1:
        raise InputError(f"results drawn together need the same number of layers, got {counts}; draw a panel each")
    for one in results.values():
        if not 1 <= component <= one.data.sizes["component"]:
            raise InputError(f"component {component}: this result has components 1 to {one.data.sizes['component']}")
    own = ax is None
    series = [s for model, one in results.items() for s in series_of(one, model, len(results) > 1, component=component)]
    if ax is None:
        wide = len(first.layers) * len(series) > 24
        size = (PAGE_INCHES if wide else COLUMN_INCHES, 2.6 + 0.15 * len(series))
        _, ax = plt.subplots(figsize=size, layout="constrained")
    draw_series(ax, series)
    plain_axes(ax, SCORES.get(first.method, first.method), "layer")
    layer_ticks(ax, short_layers(first.layers))
    head = title or (f"component {component}" if first.data.sizes["component"] > 1 else SCORES.get(first.method, ""))
    ax.set_title(head + simulated_mark(any(one.simulated for one in results.values())), fontsize=8)
    if legend:
        place_legend(ax, beside=own)
    return ax


def series_of(
    result: Alignment, model: str, several: bool = False, *, layer: str | None = None, component: int | None = None
) -> list[Series]:
    """Return the model's values and then its controls', along the components of a layer or the layers of a component.

    Parameters
    ----------
    result
        The result.
    model
        The model's name.
    several
        Whether the names of controls must say whose they are.
    layer, component
        One of them; the other runs along the x axis.
    """
    cell: Any = {"layer": result.layers.index(layer)} if layer is not None else {"component": (component or 1) - 1}
    chosen = result.data.isel(cell)
    nothing = np.full(chosen["r"].size, np.nan)

    def of(name: str, control: int | None = None) -> np.ndarray:
        if name not in chosen:
            return nothing
        values = chosen[name] if control is None else chosen[name].isel(control=control)
        return np.broadcast_to(np.asarray(values.values, dtype=float), nothing.shape)

    own = ("r", "low", "high", "null_low", "null_high", "ceiling", "p_max")
    found = [Series(model, model, *(of(name) for name in own))]
    for number, control in enumerate(result.controls):
        beside = [of(f"control_{name}", number) for name in ("r", "low", "high")]
        name = f"{model}: {control}" if several else control
        found.append(Series(name, drawn_as(model, control), *beside, *[nothing] * 4))
    return found


def drawn_as(model: str, control: str) -> str:
    """Return the name under which a control has its colour and marker.

    >>> drawn_as("topolm-tiny", "untrained"), drawn_as("topolm-tiny", "twin"), drawn_as("topolm-tiny", "minilm")
    ('topolm-tiny (untrained)', 'topolm-tiny-control', 'minilm')
    """
    if control.startswith("untrained"):
        return f"{model} (untrained)"
    return f"{model}-control" if control in ("twin", "control") else control


def draw_series(ax: Axes, series: Sequence[Series], *, looks: Mapping[str, Look] | None = None) -> None:
    """Draw models and controls side by side at each place, the null behind the one it is of, the ceiling across."""
    known = looks or model_looks(dict.fromkeys(one.model for one in series))
    places = np.arange(len(series[0].value))
    step = min(0.8 / len(series), 0.22)
    reach = step * len(series) / 2
    starred = False
    for number, one in enumerate(series):
        x = places + (number - (len(series) - 1) / 2) * step
        taken = ax.get_legend_handles_labels()[1]
        if np.isfinite(one.null_low).any():
            null_bars(
                ax, x, one.null_low, one.null_high, 0.95 * step, label=None if NULL_LABEL in taken else NULL_LABEL
            )
        points(ax, x, (one.value, one.low, one.high), known[one.model], label=None if one.name in taken else one.name)
        for place in x[one.p_max < 0.05]:
            starred = True
            star(ax, place, known[one.model].colour)
    ceilings = {tuple(np.round(one.ceiling, 9)): one.ceiling for one in series if np.isfinite(one.ceiling).any()}
    for number, ceiling in enumerate(ceilings.values()):
        style: dict[str, Any] = {"color": CEILING, "linestyle": "--", "linewidth": 1}
        style["label"] = None if number else CEILING_LABEL
        ax.hlines(ceiling, places - reach - 0.06, places + reach + 0.06, **style)
    if starred:
        _name_star(ax, STARRED)
    ax.set_xlim(-0.6, len(places) - 0.4)
    ax.autoscale_view(scalex=False)


def star(ax: Axes, x: float, colour: str) -> None:
    """Draw at the upper border the star that the legend names."""
    ax.plot([x], [1], linestyle="none", marker=STAR, markersize=4, color=colour, transform=ax.get_xaxis_transform(),
            clip_on=False)  # fmt: skip


def _name_star(ax: Axes, label: str) -> None:
    if label not in ax.get_legend_handles_labels()[1]:
        ax.plot([], [], linestyle="none", marker=STAR, markersize=4, color=CEILING, label=label)


def spatial_alignment(
    result: SpatialAlignment | Mapping[str, SpatialAlignment] | Iterable[SpatialAlignment],
    ax: Axes | None = None,
    *,
    measure: Literal["mapping", "smoothness"] = "mapping",
    component: int = 1,
    legend: bool = True,
    title: str | None = None,
) -> Axes:
    """Draw the scores of alignment that depend on where units and voxels lie, each beside its nulls.

    Parameters
    ----------
    result
        From `topobrain.spatial_alignment`: one result, several with as many layers, or names of one's own and results.
    ax
        Where to draw; made if not given.
    measure
        ``"mapping"``: how well a smooth map from sheet to cortex predicts held-out voxels and stimuli. ``"smoothness"``: how
        smooth the weights of a component are on both sides, corrected for their nulls; blur alone makes them smooth.
    component
        Whose weights, from 1 (smoothness only).
    legend
        Name what is drawn.
    title
        Title instead of what is measured.

    Returns
    -------
    Axes
        Mapping: markers with 95 % intervals over test stimuli; behind a model's marker the middle 95 % of its score with the
        places of units (plain grey) and of voxels (pale, hatched) shuffled and fitted again; controls beside, each with a
        short dotted line at the mean of its own higher null. Dashes: the noise ceiling, where it is known. Smoothness:
        markers; 0 is the mean of shuffled places. Stars: p below .05.

    Raises
    ------
    InputError
        Results of different depth, or a component that is not there.
    """
    import matplotlib.pyplot as plt

    require_choice("measure", measure, ("mapping", "smoothness"))
    results = named_results(result, SpatialAlignment)
    counts = sorted({len(one.layers) for one in results.values()})
    if len(counts) > 1:
        raise InputError(f"results drawn together need the same number of layers, got {counts}; draw a panel each")
    own, first = ax is None, next(iter(results.values()))
    n_series = sum(1 + len(one.controls) for one in results.values())
    if ax is None:
        wide = counts[0] * n_series > 24
        _, ax = plt.subplots(
            figsize=(PAGE_INCHES if wide else COLUMN_INCHES, 2.7 + 0.14 * n_series), layout="constrained"
        )
    drawn = {name: [name, *(drawn_as(name, control) for control in one.controls)] for name, one in results.items()}
    looks = model_looks(dict.fromkeys(model for models in drawn.values() for model in models))
    step, number = min(0.8 / n_series, 0.25), 0
    for name, one in results.items():
        for place, model in enumerate(drawn[name]):
            x = np.arange(counts[0]) + (number - (n_series - 1) / 2) * step
            label = (
                name
                if place == 0
                else f"{name}: {one.controls[place - 1]}"
                if len(results) > 1
                else one.controls[place - 1]
            )
            if measure == "mapping":
                _mapping(ax, x, step, one, place, looks[model], label)
            else:
                _smoothness(ax, x, one, place, component, looks[model], label)
            number += 1
    if measure == "smoothness":
        ax.axhline(0, color=NULL_MEAN, linestyle=":", linewidth=1, zorder=1, label=ZERO_LABEL)
    plain_axes(
        ax, "held-out r, sheet to cortex" if measure == "mapping" else "smoothness of both maps\n(corrected for nulls)"
    )
    layer_ticks(ax, short_layers(first.layers))
    ax.set_xlim(-0.6, counts[0] - 0.4)
    heads = {"mapping": "smooth map from sheet to cortex", "smoothness": f"paired weight maps, component {component}"}
    ax.set_title((title or heads[measure]) + simulated_mark(any(one.simulated for one in results.values())), fontsize=8)
    if legend:
        place_legend(ax, beside=own)
    return ax


def _mapping(
    ax: Axes, x: np.ndarray, step: float, result: SpatialAlignment, place: int, look: Look, label: str
) -> None:
    """Draw the mapping score of a model (place 0) with its two nulls, or of a control with the mean of its null."""
    known = ax.get_legend_handles_labels()[1]
    if place == 0:
        place_nulls(ax, x, step, *(result.data[f"null_{side}"].values for side in ("units", "voxels")))
        ceiling = float(result.data["ceiling"].values.mean())  # r / normalized, in every layer
        if np.isfinite(ceiling):
            label_of = "_" if CEILING_LABEL in known else CEILING_LABEL
            ends = np.arange(len(x)) - 0.45, np.arange(len(x)) + 0.45
            ax.hlines(np.full(len(x), ceiling), *ends, color=CEILING, linestyle="--", linewidth=1, label=label_of)
        scores = tuple(result.data[name].values for name in ("r", "low", "high"))
        for one in x[result.data["p_max"].values < 0.05]:
            star(ax, one, look.colour)
            _name_star(ax, BELOW)
    else:
        scores = tuple(result.data[f"control_{name}"].values[place - 1] for name in ("r", "low", "high"))
        floor = scores[0] - result.data["control_excess"].values[place - 1]
        style: dict[str, Any] = {"label": None if FLOOR_LABEL in known else FLOOR_LABEL}
        style |= {"color": NULL_MEAN, "linestyle": ":", "linewidth": 1.2, "zorder": 2}
        ax.hlines(floor, x - 0.45 * step, x + 0.45 * step, **style)
    points(ax, x, scores, look, label=label)


def place_nulls(ax: Axes, x: np.ndarray, width: float, units: np.ndarray, voxels: np.ndarray) -> None:
    """Draw the middle 95 % of scores with shuffled places side by side, outlined so that a bar without height is seen.

    Parameters
    ----------
    ax
        Where to draw.
    x
        Middle of each pair of bars (place,).
    width
        Of a pair.
    units, voxels
        Scores with the places of units, and of voxels, shuffled (place, draw).
    """
    known = ax.get_legend_handles_labels()[1]
    looks: tuple[dict[str, Any], ...] = ({"edgecolor": NULL}, {"facecolor": VOXELS_TONE, "edgecolor": NULL_MEAN})
    for null, shift, name, look in zip((units, voxels), (-0.24, 0.24), (UNITS_LABEL, VOXELS_LABEL), looks, strict=True):
        low, high = np.quantile(null, (0.025, 0.975), axis=1)
        before = len(ax.patches)
        null_bars(ax, x + shift * width, low, high, 0.46 * width, label=None if name in known else name)
        for bar in ax.patches[before:]:
            bar.set(linewidth=0.8, hatch="//////" if null is voxels else None, **look)


def _smoothness(
    ax: Axes, x: np.ndarray, result: SpatialAlignment, place: int, component: int, look: Look, label: str
) -> None:
    """Draw the smoothness of the paired maps of a model (place 0) or of a control."""
    n_components = result.data.sizes["component"]
    if not 1 <= component <= n_components:
        raise InputError(f"component {component}: this result has components 1 to {n_components}")
    names = ("smoothness", "smoothness_p") if place == 0 else ("control_smoothness", "control_smoothness_p")
    value, p = (result.data[name].values for name in names)
    if place:
        value, p = value[place - 1], p[place - 1]
    nothing = np.full(len(x), np.nan)
    points(ax, x, (value[:, component - 1], nothing, nothing), look, label=label)
    for one in x[p[:, component - 1] < 0.05]:
        star(ax, one, look.colour)
        _name_star(ax, SMOOTH_BOTH)
