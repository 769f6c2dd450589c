"""Figure 15: does where units and voxels lie matter? Planted cases, models on a cortex, and paired weight maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from analyses.localize_language import file_label
from figures.beside_nulls import panel_letter
from figures.style import PAGE_INCHES, Drawing
from topobrain.alignment import Alignment
from topobrain.alignment.spatial import SpatialAlignment
from topobrain.plot import paired_maps, spatial_alignment
from topobrain.plot.alignment import NULL_LABEL, ZERO_LABEL, place_nulls, star
from topobrain.plot.scores import plain_axes, points
from topobrain.plot.style import CEILING, NULL_MEAN, PALETTE, Look, null_bars, simulated_mark
from topobrain.results import load_result

CASES = {
    "topographic": "topographic",
    "shuffled units": "units\nshuffled",
    "shuffled voxels": "voxels\nshuffled",
    "unrelated": "unrelated\nbrain",
    "blurred": "shuffled,\nthen blurred",
}
"""Planted case -> what it is called under an axis, in the order drawn."""

NAMES = {"family": str, "layer": str}
"""Columns of tables that hold names, which may look like numbers."""

FOUND, SILENT = Look(PALETTE[0], "o"), Look(PALETTE[4], "X")
"""Looks of cases that are topographically aligned, and of those that are not."""


class Family(NamedTuple):
    """The results of one family of models."""

    name: str
    aligned: Alignment
    spatial: SpatialAlignment


def draw(results: Path) -> Drawing | None:
    """Draw the results of `analyses/align_language_network.py` on voxels with places."""
    families, planted = families_of(results), planted_of(results)
    if not families:
        return None
    shown = next((one for one in families if one.name.startswith("topoformer")), families[0])
    n_maps = min(2, shown.spatial.data.sizes["component"])
    heights = [*([2.0] if planted else []), 2.35, 1.5 * n_maps + 0.3]
    figure = plt.figure(figsize=(PAGE_INCHES, sum(heights) + 0.3), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights)
    if planted:
        _planted(parts[0], planted)
    _families(parts[-2], families)
    first = shown.spatial.data["component_r"].values[:, 0]
    layer = shown.spatial.layers[int(np.argmax(np.where(np.isfinite(first), first, -np.inf)))]
    paired_maps(shown.aligned, layer=layer, components=range(1, n_maps + 1), spatial=shown.spatial, n_ends=3,
                figure=parts[-1], title=f"{shown.name}, {layer}")  # fmt: skip
    for part, letter in zip(parts, "abc", strict=False):
        panel_letter(part, letter)
    simulated = any(one.spatial.simulated for one in families)
    brain = families[0].spatial.provenance.get("responses", {}).get("name", "responses")
    figure.suptitle(f"Alignment that depends on places ({brain}){_marked(brain, simulated)}", fontsize=9)
    return Drawing(figure, numbers_of(families, planted), _caption(families, planted, shown, layer, simulated))


def _marked(brain: str, simulated: bool) -> str:
    return "" if "simulated" in brain else simulated_mark(simulated)


def families_of(results: Path) -> list[Family]:
    """Return the families of a folder that have a spatial alignment, in the order of ``layers.csv``."""
    table = results / "layers.csv"
    if not table.is_file():
        return []
    found = []
    for name in dict.fromkeys(pd.read_csv(table, dtype=NAMES)["family"]):
        label = file_label(name)
        places = [results / f"{kind}_{label}.nc" for kind in ("alignment", "spatial")]
        if all(path.is_file() for path in places):
            aligned, spatial = (load_result(path) for path in places)
            found.append(Family(name, cast(Alignment, aligned), cast(SpatialAlignment, spatial)))
    return found


def planted_of(results: Path) -> dict[str, tuple[Alignment, SpatialAlignment]]:
    """Return planted case -> both results."""
    found = {}
    for case in CASES:
        places = [results / f"planted-{kind}_{file_label(case)}.nc" for kind in ("alignment", "spatial")]
        if all(path.is_file() for path in places):
            aligned, spatial = (load_result(path) for path in places)
            found[case] = (cast(Alignment, aligned), cast(SpatialAlignment, spatial))
    return found


def _planted(part: Any, planted: Mapping[str, tuple[Alignment, SpatialAlignment]]) -> None:
    """Draw of every planted case the score that knows no places, the smoothness of its maps, and the mapping score."""
    axes = part.subplots(1, 3)
    for x, (case, (aligned, spatial)) in enumerate(planted.items()):
        look = FOUND if case == "topographic" else SILENT
        first = {
            name: float(aligned.data[name].values[0, 0])
            for name in ("r", "low", "high", "null_low", "null_high", "p_max")
        }
        null_bars(axes[0], np.array([x]), np.array([first["null_low"]]), np.array([first["null_high"]]), 0.6,
                  label=None if x else NULL_LABEL)  # fmt: skip
        points(axes[0], [x], ([first[name]] for name in ("r", "low", "high")), look)
        _starred(axes[0], x, first["p_max"])
        smooth, p = (float(spatial.data[name].values[0, 0]) for name in ("smoothness", "smoothness_p"))
        points(axes[1], [x], ([smooth], [np.nan], [np.nan]), look)
        _starred(axes[1], x, p)
        nulls = (spatial.data[f"null_{side}"].values[:1] for side in ("units", "voxels"))
        place_nulls(axes[2], np.array([x]), 0.65, *nulls)
        points(axes[2], [x], ([float(spatial.data[name].values[0])] for name in ("r", "low", "high")), look)
        _starred(axes[2], x, float(spatial.data["p"].values[0]))
    axes[1].axhline(0, color=NULL_MEAN, linestyle=":", linewidth=1, zorder=1, label=ZERO_LABEL)
    heads = (
        ("held-out r, PLS", "knows no places:\nPLS, component 1"),
        ("smoothness,\ncorrected", "paired weight maps,\ncomponent 1"),
        ("held-out r", "smooth map from\nsheet to cortex"),
    )
    for ax, (y, head) in zip(axes, heads, strict=True):
        plain_axes(ax, y, "")
        ax.set_xticks(np.arange(len(planted)), [CASES[case] for case in planted], fontsize=6, rotation=35, ha="right",
                      rotation_mode="anchor")  # fmt: skip
        ax.set_xlim(-0.6, len(planted) - 0.4)
        ax.set_title(f"{head} (simulated)", fontsize=7, pad=5)
    handles: dict[str, Any] = {}
    for ax in axes:
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    part.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3, fontsize=6.5, frameon=False)


def _starred(ax: Any, x: float, p: float) -> None:
    if p < 0.05:
        star(ax, x, CEILING)


def _families(part: Any, families: Sequence[Family]) -> None:
    """Draw the mapping score of every family, a panel each, on one scale."""
    widths = [len(one.spatial.layers) + 1 for one in families]
    axes = part.subplots(1, len(families), sharey=True, squeeze=False, width_ratios=widths)[0]
    handles: dict[str, Any] = {}
    for ax, one in zip(axes, families, strict=True):
        spatial_alignment({one.name: one.spatial}, ax, legend=False, title=one.name)
        ax.title.set_fontsize(7)
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        if ax is not axes[0]:
            ax.set_ylabel("")
    part.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3, fontsize=6.5, frameon=False)


def numbers_of(families: Sequence[Family], planted: Mapping[str, tuple[Alignment, SpatialAlignment]]) -> pd.DataFrame:
    """Return every number of the figure: planted cases, mapping scores of layers, smoothness of components."""
    frames = []
    for case, (aligned, spatial) in planted.items():
        first = aligned.summary().iloc[[0]].drop(columns=["layer", "component"]).add_prefix("pls_")
        frames.append(
            spatial.summary()
            .reset_index(drop=True)
            .join(first.reset_index(drop=True))
            .assign(part="planted", family=case)
        )
    for one in families:
        frames.append(one.spatial.summary().assign(part="mapping", family=one.name))
        frames.append(one.spatial.smoothness().assign(part="smoothness", family=one.name))
    table = pd.concat(frames, ignore_index=True)
    lead = ["part", "family", "layer"]
    return table[[*lead, *(name for name in table if name not in lead)]]


def _caption(families: Sequence[Family], planted: Mapping[str, Any], shown: Family, layer: str, simulated: bool) -> str:
    first = families[0].spatial
    options = first.provenance.get("spatial_alignment", {})
    brain = first.provenance.get("responses", {}).get("name", "responses")
    n_null = first.data.sizes["null"]
    cases = (
        "a: planted cases, simulated: a smooth map takes the sheet's tuning to the cortex (topographic); the same with units, or "
        "voxels, in random places; a brain with latents of its own; units shuffled and then blurred over the sheet. Blue: "
        "topographically aligned, orange crosses: not. The score of shared components stays when units change places; smooth "
        "maps on both sides prove nothing; here the map from sheet to cortex alone tells the first case from the "
        f"{len(planted) - 1} others drawn. It cannot tell a smooth sheet from one whose "
        "signal was blurred under noise that stays rough. "
        if planted
        else ""
    )
    letter, last = ("b", "c") if planted else ("a", "b")
    return (
        f"Alignment with {brain}{_marked(brain, simulated)}, {len(first.subjects)} subjects, "
        f"{int(first.data['n_voxels'].sum()):,} voxels with places. {cases}{letter}: a smooth map from the sheet to the cortex "
        "is fitted on training stimuli and training voxels and predicts other voxels' responses to other stimuli; means over "
        f"subjects, 95 % intervals over test stimuli ({options.get('n_bootstrap', 0):,} draws). Grey and pale hatched bars: "
        f"middle 95 % of the same with the places of units, or of voxels, shuffled and fitted again ({n_null} draws each). "
        "Controls: untrained selves in grey, twins as squares, each with the mean of its own higher null (dotted). Dashes: noise "
        "ceiling, where known. A star: p < .05 beside both "
        f"nulls and the largest of all layers. Layers: those whose places training decided. {last}: weights of components of "
        f"{shown.name} in {layer} (the layer with the highest r of component 1) on the sheet and on the cortex, with Moran's I "
        "and its p beside places shuffled (of voxels: mean over subjects, largest p); right: sentences of the "
        "highest and lowest scores."
    )
