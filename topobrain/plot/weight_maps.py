"""Weight maps of components: on a model's sheet, on the cortex or in regions, and the sentences at both ends."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from topobrain._checks import InputError, require_choice, unknown
from topobrain.alignment import Alignment
from topobrain.alignment.principal import PrincipalComponents
from topobrain.alignment.spatial import SpatialAlignment
from topobrain.plot.cortex import VIEWS, surface
from topobrain.plot.style import (
    CEILING,
    COLUMN_INCHES,
    DIVERGING,
    MISSING,
    NULL_MEAN,
    PAGE_INCHES,
    SMALLEST,
    simulated_mark,
)
from topobrain.sheet import Sheet

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

HIGH, LOW = "#B2182B", "#2166AC"
"""Ends of the diverging scale, dark enough for bars and letters."""

ROW_INCHES = 1.55
LETTER = 0.51
"""Mean width of a letter, in font sizes."""

MANY_REGIONS = 16


class Places(NamedTuple):
    """Where the columns of a brain's weights are.

    Attributes
    ----------
    kind
        ``"surface"``, ``"points"`` (mm without a surface) or ``"regions"``.
    roi
        Region of each voxel.
    vertex
        Vertex numbers of the voxels of the drawn hemisphere, or None.
    inside
        Which voxels are drawn (voxel,).
    n_vertices
        Vertices of the hemisphere where the responses say it.
    points
        (voxel, 3) in mm, or None.
    """

    kind: Literal["surface", "points", "regions"]
    roi: np.ndarray
    inside: np.ndarray
    vertex: np.ndarray | None = None
    n_vertices: int | None = None
    points: np.ndarray | None = None


def components(
    result: PrincipalComponents,
    *,
    layer: str | None = None,
    n_components: int = 3,
    n_ends: int = 3,
    hemisphere: str = "left",
    view: str = "lateral",
    title: str | None = None,
    figure: Figure | SubFigure | None = None,
) -> np.ndarray:
    """Draw the weights of the first principal components of a layer, or of a brain, and the sentences at both ends.

    Parameters
    ----------
    result
        From `topobrain.components`.
    layer
        The layer to draw, if there are several.
    n_components
        How many components, from the first.
    n_ends
        Sentences at each end.
    hemisphere, view
        For brain responses on a surface, as in `topobrain.plot.surface`.
    title
        Title instead of the layer's name.
    figure
        Figure or part of one to fill; made if not given.

    Returns
    -------
    array of Axes (component, 2)
        Left: weights on the sheet, on the cortex, or bars of regions, on one colour scale a component. Right: its share of
        the variance; Moran's I beside its null (how smooth the weights are, and how smooth they would be had the units other
        places); how well the maps of two halves of the stimuli agree; the sentences with the highest and the lowest scores.

    Raises
    ------
    InputError
        An unknown layer, fewer components than asked for, several layers and none named.
    """
    import matplotlib.pyplot as plt

    if not isinstance(result, PrincipalComponents):
        raise InputError(f"plot.components draws principal components (components), got {type(result).__name__}")
    layer = _one_layer(result.layers, layer)
    n_known = result.data.sizes["component"]
    if not 1 <= n_components <= n_known:
        raise InputError(f"n_components={n_components}: this result has {n_known}")
    if figure is None:
        figure = plt.figure(figsize=(COLUMN_INCHES, ROW_INCHES * n_components + 0.3), layout="constrained")
    axes = figure.subplots(n_components, 2, squeeze=False, width_ratios=[1.0, 1.45])
    places = None
    if result.places == "voxel":
        places = places_of(result, hemisphere, np.flatnonzero(result.labels("subject") == layer))
    at = result.layers.index(layer)
    for number, row in enumerate(axes, start=1):
        weights = result.weights(layer)[number - 1]
        explained = float(result.data["explained"].values[at, number - 1])
        if not np.isfinite(explained):
            raise InputError(f"layer {layer!r} has no component {number}")
        if places is None:
            draw_sheet_map(row[0], weights, result.sheet(layer))
        else:
            draw_brain_map(row[0], weights, places, hemisphere=hemisphere, view=view)
        row[0].set_title(f"PC {number}", fontsize=6.5, pad=3, loc="left")
        said = [f"{100 * explained:.1f} % of the variance", *_smoothness_lines(result, at, number - 1)]
        write_ends(row[1], result.ends(layer, number, n=n_ends), width=0.59 * _width(figure), first=said)
    figure.suptitle((layer if title is None else title) + simulated_mark(result.simulated), fontsize=8)
    return np.asarray(axes)


def paired_maps(
    result: Alignment,
    *,
    layer: str | None = None,
    components: int | Sequence[int] = 1,
    spatial: SpatialAlignment | None = None,
    n_ends: int = 3,
    hemisphere: str = "left",
    view: str = "lateral",
    title: str | None = None,
    figure: Figure | SubFigure | None = None,
) -> np.ndarray:
    """Draw what a component weighs on both sides: units on their sheet beside voxels on the cortex, or beside regions.

    Parameters
    ----------
    result
        From `topobrain.align` with a method that has components.
    layer
        The layer to draw, if there are several.
    components
        Number of the component (from 1), or several.
    spatial
        From `topobrain.spatial_alignment` of the same model: what the maps' smoothness is beside its nulls. Without it two
        maps that look alike say nothing on topography, and the titles say so.
    n_ends
        Sentences at each end of the model's side, written beside; 0 for none.
    hemisphere, view
        As in `topobrain.plot.surface`.
    title
        Title instead of the model's name.
    figure
        Figure or part of one to fill; made if not given.

    Returns
    -------
    array of Axes (component, 2 or 3)
        Weights are means over folds, signs aligned; each map has a scale of its own, red and blue of both sides belong
        together. Voxels with a vertex are drawn on inflated fsaverage5 or fsLR-32k (means over subjects), those with only
        places in mm as points seen from the left, regions without places as bars.

    Raises
    ------
    InputError
        A method without components, an unknown layer or component, several layers and none named.
    """
    import matplotlib.pyplot as plt

    if not isinstance(result, Alignment):
        raise InputError(f"plot.paired_maps draws alignments (align), got {type(result).__name__}")
    layer = _one_layer(result.layers, layer)
    shown = [components] if isinstance(components, int) else list(components)
    n_known = result.data.sizes["component"]
    for one in shown:
        if not 1 <= one <= n_known:
            raise InputError(f"component {one}: this result has components 1 to {n_known}")
    units = result.unit_weights(layer)
    places = places_of(result, hemisphere)
    if figure is None:
        width = PAGE_INCHES if n_ends else COLUMN_INCHES
        figure = plt.figure(figsize=(width, (ROW_INCHES + 0.15) * len(shown) + 0.3), layout="constrained")
    ratios = [1.0, 1.3, 1.7] if n_ends else [1.0, 1.3]
    axes = figure.subplots(len(shown), len(ratios), squeeze=False, width_ratios=ratios)
    at = result.layers.index(layer)
    for row, one in zip(axes, shown, strict=True):
        draw_sheet_map(row[0], units[one - 1], result.sheet(layer))
        draw_brain_map(
            row[1], result.data["voxel_weight"].values[at, one - 1], places, hemisphere=hemisphere, view=view
        )
        above = _pair_lines(spatial, layer, one, places.kind)
        score = _score_words(result, at, one - 1)
        for ax, first, second in (
            (row[0], f"component {one}, {score}", above[0]),
            (row[1], _SIDE[places.kind], above[1]),
        ):
            ax.set_title("\n".join(line for line in (first, second) if line), fontsize=6.5, pad=3, loc="left")
        if n_ends:
            write_ends(row[2], result.ends(layer, one, n=n_ends), width=1.7 / sum(ratios) * _width(figure))
    head = title or f"{result.provenance.get('model', {}).get('name', 'model')}, {layer}"
    figure.suptitle(head + simulated_mark(result.simulated), fontsize=8)
    return np.asarray(axes)


_SIDE = {"surface": "weights of voxels", "points": "weights of voxels", "regions": "weights of regions"}


def draw_sheet_map(ax: Axes, weights: np.ndarray, sheet: Sheet, *, limit: float | None = None) -> Any:
    """Draw weights on their sheet with a colour bar; units without a place as a sorted line. Return the image, if any."""
    end = _end(weights) if limit is None else limit
    if not sheet.has_layout:
        ordered = np.sort(weights[np.isfinite(weights)])[::-1]
        ax.fill_between(np.arange(len(ordered)), ordered, color=NULL_MEAN, linewidth=0, step="mid")
        ax.axhline(0, color=CEILING, linewidth=0.5)
        ax.set_xlabel("units by weight: no layout", fontsize=SMALLEST)
        ax.set_ylabel("weight", fontsize=SMALLEST)
        ax.tick_params(labelsize=SMALLEST, length=2)
        return None
    ax.set_facecolor(MISSING)
    image = ax.imshow(sheet.to_image(weights), cmap=DIVERGING, vmin=-end, vmax=end, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set(linewidth=0.8, linestyle=(0, (4, 3)) if sheet.wrapped else "solid", zorder=4)
    border = "torus" if sheet.wrapped else "open border"
    holes = sheet.height * sheet.width - sheet.n_units
    missing = int(np.isnan(weights).sum())
    grey = [f"{holes} holes"] * bool(holes) + [f"{missing} units left out"] * bool(missing)
    under = f"{sheet.height} x {sheet.width} units, {border}" + (f"\ngrey: {', '.join(grey)}" if grey else "")
    ax.set_xlabel(under, fontsize=SMALLEST, labelpad=3)
    _colour_bar(ax, image)
    return image


def places_of(result: Any, hemisphere: str = "left", voxels: np.ndarray | None = None) -> Places:
    """Return how the voxels of a result, or some of them, can be drawn: on a surface, as points in mm, or as regions."""
    chosen = result.data if voxels is None else result.data.isel(voxel=voxels)
    coords = chosen.coords
    roi = np.array([str(one) for one in coords["roi"].values], dtype=object)
    everywhere = np.ones(len(roi), dtype=bool)
    if "vertex" in coords:
        vertex = np.asarray(coords["vertex"].values, dtype=int)
        side = np.full(len(vertex), "left", dtype=object)
        if "hemisphere" in coords:
            side = np.array([str(one) for one in coords["hemisphere"].values], dtype=object)
        inside = (side == hemisphere) & (vertex >= 0)
        if not inside.any():
            raise InputError(f"no voxel lies on the {hemisphere} hemisphere; there are voxels on {sorted(set(side))}")
        count = result.data.attrs.get(f"n_vertices_{hemisphere}")
        return Places("surface", roi, inside, vertex[inside], None if count is None else int(count))
    names = [f"{axis}_mm" for axis in "xyz"]
    affine = (
        np.asarray(result.data.attrs["affine"], dtype=float).reshape(4, 4) if "affine" in result.data.attrs else None
    )
    if affine is not None and not all(name in coords for name in names):
        names = list("ijk")
    if all(name in coords for name in names):
        points = np.stack([np.asarray(coords[name].values, dtype=float) for name in names], axis=1)
        if names == list("ijk") and affine is not None:
            points = points @ affine[:3, :3].T + affine[:3, 3]
        return Places("points", roi, np.isfinite(points).all(axis=1), points=points)
    return Places("regions", roi, everywhere)


def draw_brain_map(
    ax: Axes, weights: np.ndarray, places: Places, *, hemisphere: str = "left", view: str = "lateral"
) -> None:
    """Draw weights of voxels where they lie: on the inflated surface, as points in mm, or as bars of regions."""
    require_choice("view", view, tuple(VIEWS))
    end = _end(weights[places.inside])
    if places.kind == "surface":
        assert places.vertex is not None
        values = weights[places.inside]
        vertices: np.ndarray | None = places.vertex
        if places.n_vertices is not None:
            values, vertices = _whole(values, places.vertex, places.n_vertices), None
        surface(values, vertices, ax, hemisphere=hemisphere, view=view, diverging=True, limit=end, colourbar=False)
        _colour_bar(ax, _mappable(end))
        ax.annotate(f"{hemisphere}, {view}", (0.5, 0), xycoords="axes fraction", xytext=(0, -3), ha="center", va="top",
                    textcoords="offset points", fontsize=SMALLEST)  # fmt: skip
    elif places.kind == "points":
        assert places.points is not None
        kept = places.points[places.inside]
        order = np.argsort(-kept[:, 0])  # the nearest to a viewer on the left last
        ax.scatter(kept[order, 1], kept[order, 2], c=weights[places.inside][order], s=5, cmap=DIVERGING, vmin=-end,
                   vmax=end, linewidths=0)  # fmt: skip
        ax.set_facecolor(MISSING)
        ax.set_aspect("equal")
        ax.invert_xaxis()
        ax.set_xlabel("y (mm), front at the left", fontsize=SMALLEST)
        ax.set_ylabel("z (mm)", fontsize=SMALLEST)
        ax.tick_params(labelsize=SMALLEST, length=2)
        _colour_bar(ax, _mappable(end))
    else:
        _region_bars(ax, weights, places.roi)


def write_ends(
    ax: Axes, ends: pd.DataFrame, *, width: float, first: Sequence[str] = (), fontsize: float = SMALLEST
) -> None:
    """Write some first lines and the stimuli at both ends of a component, the score before each.

    Parameters
    ----------
    ax
        Axes that take nothing but words.
    ends
        From ``ends`` of a result.
    width
        In inches; longer stimuli are cut.
    first
        Lines above.
    fontsize
        In points.
    """
    letters = max(12, int(width * 72 / (LETTER * fontsize)) - 8)
    ax.set_axis_off()
    line, down = 1.28 * fontsize, 2 * fontsize  # in points: the first line stands beside the titles of the maps
    options: dict[str, Any] = {
        "xycoords": "axes fraction", "textcoords": "offset points", "va": "top", "fontsize": fontsize,
        "annotation_clip": False,
    }  # fmt: skip
    for words in first:
        ax.annotate(words, (0.0, 1.0), xytext=(0, down), color=NULL_MEAN, **options)
        down -= line
    down -= 0.5 * line if first else 0.0
    for end, colour in (("high", HIGH), ("low", LOW)):
        ax.annotate(f"{end} end", (0.0, 1.0), xytext=(0, down), color=colour, fontweight="bold", **options)
        down -= line
        for _, row in ends[ends["end"] == end].iterrows():
            said = " ".join(str(row["text"]).split())
            words = textwrap.shorten(said, letters, placeholder=" ...") if len(said) > letters else said
            words = f"{row['score']:+.2g}  {words}".replace("$", r"\$")
            ax.annotate(words, (0.0, 1.0), xytext=(0, down), color="black", **options)
            down -= line
        down -= 0.5 * line


def _one_layer(layers: Sequence[str], layer: str | None) -> str:
    if layer is None:
        if len(layers) > 1:
            raise InputError(f"name the layer to draw (layer=...): {list(layers)}")
        return layers[0]
    if layer not in layers:
        raise unknown("layer", layer, layers)
    return layer


def _score_words(result: Alignment, layer: int, component: int) -> str:
    """Return a component's r, and p where it was tested."""
    r, p = (float(result.data[name].values[layer, component]) for name in ("r", "p_max"))
    if not np.isfinite(r):
        return "beyond the rank of the data"
    return f"r {_signed(r)}" + (f", p_max {_p(p)}" if np.isfinite(p) else "")


def _end(values: np.ndarray) -> float:
    """Return the end of a colour scale."""
    finite = np.abs(values[np.isfinite(values)])
    return float(np.percentile(finite, 99)) if finite.size and finite.max() > 0 else 1.0


def _mappable(end: float) -> Any:
    import matplotlib.pyplot as plt

    return plt.cm.ScalarMappable(norm=plt.Normalize(-end, end), cmap=DIVERGING)


def _colour_bar(ax: Any, mappable: Any) -> None:
    bar = ax.figure.colorbar(mappable, ax=ax, shrink=0.8, aspect=14, pad=0.03)
    bar.set_label("weight", fontsize=SMALLEST, labelpad=1)
    bar.ax.tick_params(labelsize=SMALLEST, length=2, pad=1)
    bar.locator.set_params(nbins=4)
    bar.update_ticks()


def _whole(values: np.ndarray, vertices: np.ndarray, n_vertices: int) -> np.ndarray:
    """Return one value a vertex, the mean where several subjects have it, NaN where none has."""
    known = np.isfinite(values)
    count = np.bincount(vertices[known], minlength=n_vertices)
    total = np.bincount(vertices[known], weights=values[known], minlength=n_vertices)
    mean: np.ndarray = np.divide(total, count, out=np.full(n_vertices, np.nan), where=count > 0)
    return mean


def _region_bars(ax: Axes, weights: np.ndarray, roi: np.ndarray) -> None:
    """Draw the mean weight of each region, with the weights of its voxels as points where it has several."""
    regions = list(dict.fromkeys(roi.tolist()))
    means = np.array([_mean(weights[roi == one]) for one in regions])
    shown = np.argsort(-np.abs(np.nan_to_num(means)), kind="stable")[:MANY_REGIONS]
    shown = np.sort(shown)
    y = np.arange(len(shown))
    colours = [HIGH if means[i] > 0 else LOW for i in shown]
    ax.barh(y, means[shown], color=colours, height=0.65, linewidth=0, zorder=2)
    for place, i in zip(y, shown, strict=True):
        own = weights[roi == regions[i]]
        if len(own) > 1:
            ax.plot(own, np.full(len(own), place), "o", color=CEILING, markersize=2, markeredgewidth=0, zorder=3)
    ax.axvline(0, color=CEILING, linewidth=0.5)
    ax.set_yticks(y, [regions[i] for i in shown], fontsize=SMALLEST)
    ax.invert_yaxis()
    ax.tick_params(labelsize=SMALLEST, length=2)
    less = len(regions) - len(shown)
    ax.set_xlabel("weight" + (f" ({less} regions of smaller weight not drawn)" if less else ""), fontsize=SMALLEST)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else np.nan


def _width(figure: Any) -> float:
    """Return the width of a figure or of a part of one, in inches."""
    return float(figure.bbox.width / figure.get_dpi())


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


def _p(value: float) -> str:
    return f"= {value:.3f}".replace("0.", ".") if value >= 0.001 else "< .001"


def _pair_lines(spatial: SpatialAlignment | None, layer: str, component: int, kind: str) -> tuple[str, str]:
    """Return what stands above the map of units and that of voxels on how smooth they are."""
    if spatial is None:
        return "no null: says nothing on topography", ""
    if layer not in spatial.layers:
        raise unknown("layer", layer, spatial.layers, "(in the spatial alignment)")
    if component > spatial.data.sizes["component"]:
        return f"smoothness measured of {spatial.data.sizes['component']} components", ""
    cell = spatial.data.isel(layer=spatial.layers.index(layer), component=component - 1)
    lines = []
    for side in ("unit", "voxel"):
        value, p = float(cell[f"{side}_smoothness"].mean()), float(cell[f"{side}_smoothness_p"].max())
        lines.append(f"Moran's I {_signed(value)}, p {_p(p)}")
    return lines[0], lines[1]


def _smoothness_lines(result: PrincipalComponents, layer: int, component: int) -> list[str]:
    """Return Moran's I beside its layout null, and how well maps of two halves agree, as lines."""
    said = []
    for number, null in enumerate(str(one) for one in result.data["null"].values):
        value, mean, p = (
            float(result.data[f"smoothness{name}"].values[layer, component, number])
            for name in ("", "_null_mean", "_p")
        )
        if not np.isfinite(value):
            continue
        what = "Moran's I" if null == "layout" else "halves r"
        said.append(f"{what} {_signed(value)}, p {_p(p)}, {null} null {_signed(mean)}")
    return said or ["no null: says nothing on topography"]
