"""Figure 11: a map of the cortex, how clustered it is, and what its smoothness alone would give."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from figures.style import PAGE_INCHES, Drawing
from topobrain.plot import surface
from topobrain.plot.style import CEILING, DIVERGING, NULL_MEAN, PALETTE, simulated_mark
from topobrain.results import load_result
from topobrain.topography import Topography

NULLS = {
    "layout": ("layout (values change vertices)", "#BBBBBB"),
    "variogram": ("as smooth as the map (variogram)", "#7FB7DA"),
    "spin": ("turned on the sphere (spin)", "#F2C879"),
}
"""Null -> what it changes, and its colour."""

COLOURS = (PALETTE[0], PALETTE[4])
SIDES = {"noun-verb": "group t (red: verbs, blue: nouns)"}
"""Map -> what its signs mean; the TopoLM project, whose file it is, reads t < 0 as nouns."""

RUNS = {"t_all": "all runs", "t_even": "even runs"}


def draw(results: Path) -> Drawing | None:
    """Draw the results of `analyses/map_noun_verb_cortex.py`."""
    path = results / "topography.nc"
    if not path.is_file():
        return None
    found = cast(Topography, load_result(path))
    noise = pd.read_csv(results / "smoothed_noise.csv")
    with np.load(results / "maps.npz", allow_pickle=False) as kept:
        maps = {str(name): values.astype(float) for name, values in zip(kept["names"], kept["values"], strict=True)}
        hemisphere = str(kept["hemisphere"])
    figure = plt.figure(figsize=(PAGE_INCHES, 4.9), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.35))
    name = str(found.provenance["map"]["name"])
    _draw_maps(top, maps, hemisphere, SIDES.get(name, "t"))
    first, second, third, fourth = bottom.subplots(1, 4, width_ratios=(1.1, 0.8, 1.3, 0.8))
    _draw_values(first, found, "morans_i", list(maps))
    first.set_ylabel("Moran's I, all vertices", fontsize=7)
    _draw_values(second, found, "morans_i_significant", list(maps))
    second.set_ylabel("Moran's I,\nsignificant vertices only", fontsize=7)
    _draw_noise(third, found, noise, list(maps))
    _draw_values(fourth, found, "map_correlation", [next(iter(maps))])
    fourth.set_ylabel("correlation with the\nmap of even runs", fontsize=7)
    for ax, letter in zip((first, second, third, fourth), "bcde", strict=True):
        ax.set_title(f"$\\bf{{{letter}}}$", fontsize=8, loc="left")
    handles, names = _legend((first, second, third, fourth))
    bottom.legend(handles, names, fontsize=6.5, frameon=False, loc="outside lower center", ncols=3)
    figure.suptitle(
        f"Cortical map {name!r}{simulated_mark(found.simulated)}, {found.labels('layer')[0]} hemisphere", fontsize=8
    )
    numbers = pd.concat([found.summary(), _noise_rows(found, noise)], ignore_index=True)
    return Drawing(figure, numbers, _caption(found, maps, noise))


def _draw_maps(part: Any, maps: dict[str, np.ndarray], hemisphere: str, sides: str) -> None:
    """Draw both maps from the side and from the middle, on one colour scale."""
    every = np.abs(np.concatenate(list(maps.values())))
    limit = float(np.nanpercentile(every, 99))
    axes = part.subplots(1, 4)
    for number, (ax, (name, view)) in enumerate(
        zip(axes, [(name, view) for name in maps for view in ("lateral", "medial")], strict=True)
    ):
        surface(maps[name], ax=ax, hemisphere=hemisphere, view=view, limit=limit, diverging=True, colourbar=False,
                title=f"{RUNS.get(name, name)}, {view}")  # fmt: skip
        ax.set_title(ax.get_title(), fontsize=7)
        if number == 0:
            ax.text(0.0, 1.05, "a", fontweight="bold", fontsize=8, transform=ax.transAxes)
    scale = plt.cm.ScalarMappable(norm=plt.Normalize(-limit, limit), cmap=DIVERGING)
    bar = part.colorbar(scale, ax=axes, orientation="horizontal", shrink=0.3, aspect=30, pad=0.02)
    bar.set_label(sides, fontsize=7)
    bar.ax.tick_params(labelsize=6.5)


def _draw_values(ax: Any, found: Topography, measure: str, maps: list[str]) -> None:
    """Draw one measure of each map, with every null that was drawn for it beside the value."""
    for place, name in enumerate(maps):
        value, beside = np.nan, 0
        for null, (label, colour) in NULLS.items():
            if null not in found.nulls or measure not in found.labels("measure"):
                continue
            said = found.beside(null).sel(measure=measure, contrast=name).isel(layer=0)
            value, low, high = (float(said[column]) for column in ("value", "null_low", "null_high"))
            if np.isfinite(low):
                x = place + 0.18 * (beside := beside + 1)
                for bar in ax.bar(x, high - low, 0.15, bottom=low, color=colour, linewidth=0, zorder=1, label=label):
                    bar.sticky_edges.y.clear()  # the axis would end where the bar ends
                ax.hlines(float(said["null_mean"]), x - 0.1, x + 0.1, color=NULL_MEAN, linewidth=1.0, zorder=2)
        ax.plot(
            place,
            value,
            "o",
            color=COLOURS[list(RUNS).index(name) if name in RUNS else place % 2],
            markersize=5,
            zorder=3,
        )
        if np.isfinite(value):
            ax.annotate(
                f"{value:.2f}", (place, value), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=6.5
            )
    counts = found.provenance["topography"].get("n_significant") or {}
    labels = [RUNS.get(name, name) for name in maps]
    if measure == "morans_i_significant":
        labels = [f"{label}\n{counts[name]:,}\nvertices" for label, name in zip(labels, maps, strict=True)]
    ax.set_xticks([place + 0.18 for place in range(len(maps))], labels, fontsize=6.5)
    ax.set_xlim(-0.35, len(maps) - 0.15)
    ax.margins(y=0.1)
    ax.autoscale_view()
    _plain(ax)


def _draw_noise(ax: Any, found: Topography, noise: pd.DataFrame, maps: list[str]) -> None:
    """Draw Moran's I of smoothed noise by the width of the kernel, and that of the maps as lines."""
    ax.errorbar(noise["fwhm_mm"], noise["morans_i"], yerr=noise["sd"], color=CEILING, marker="s", markersize=3, linewidth=1,
                label="white noise, smoothed along the mesh (sd)")  # fmt: skip
    for place, name in enumerate(maps):
        value = float(found.data["value"].sel(measure="morans_i", contrast=name).isel(layer=0))
        ax.axhline(
            value, color=COLOURS[place], linewidth=1.0, linestyle="--", label=f"the map of {RUNS.get(name, name)}"
        )
    ax.set_xlabel("full width at half maximum (mm)", fontsize=7)
    ax.set_ylabel("Moran's I, all vertices", fontsize=7)
    _plain(ax)


def _legend(axes: tuple[Any, ...]) -> tuple[list[Any], list[str]]:
    named: dict[str, Any] = {}
    for ax in axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    return list(named.values()), list(named)


def _plain(ax: Any) -> None:
    ax.axhline(0, color=CEILING, linewidth=0.5, zorder=0)
    ax.tick_params(labelsize=6.5, length=2)
    ax.spines[["top", "right"]].set_visible(False)


def _noise_rows(found: Topography, noise: pd.DataFrame) -> pd.DataFrame:
    """Return the smoothed noise in the columns of the other numbers."""
    return pd.DataFrame(
        {
            "measure": "morans_i",
            "layer": found.labels("layer")[0],
            "contrast": [f"noise smoothed at {width:g} mm" for width in noise["fwhm_mm"]],
            "value": noise["morans_i"],
            "null": "none",
            "null_sd": noise["sd"],
            "n_null": noise["n"],
        }
    )


def _caption(found: Topography, maps: dict[str, np.ndarray], noise: pd.DataFrame) -> str:
    options = found.provenance["topography"]
    name = next(iter(maps))
    value = float(found.data["value"].sel(measure="morans_i", contrast=name).isel(layer=0))
    beyond = int((noise["morans_i"] < value).sum())  # the first width whose noise is at least as clustered as the map
    near = noise.iloc[max(beyond - 1, 0) : beyond + 1]
    smooth = ", ".join(
        f"{index:.3f} at {width:g} mm" for width, index in zip(near["fwhm_mm"], near["morans_i"], strict=True)
    )
    return (
        f"a: t of every vertex ({int(np.isfinite(maps[name]).sum()):,} have one; grey: no value), inflated surface. b: Moran's I "
        f"of the map; dots are values, bars the middle 95 % of {options['n_null']} draws of each null, their mean a line. Only "
        "the layout null asks whether the map is clustered, and any smooth map is. Spins and variogram surrogates keep the "
        "map's own smoothness, up to what resampling and the fit lose; they speak on the agreement of two maps (e), not on "
        f"Moran's I of one. c: the same index of the significant vertices alone (q < {options['q']:g}): another statistic, not "
        "to be compared with b; on a graph of clusters it can exceed 1. d: Moran's I of noise that knows nothing of the "
        f"contrast, nearest to the map's {value:.3f}: {smooth}. e: correlation of the maps of all and of even runs; even runs "
        "are among all runs, so that a high value is expected whatever the null."
    )
