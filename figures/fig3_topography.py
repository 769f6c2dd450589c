"""Figure 3: topography of every stream, beside the same units with their places permuted."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from figures.style import PAGE_INCHES, Drawing, load_all, model_order
from topobrain.plot.style import model_colour, model_marker, null_bars, short_layer
from topobrain.selectivity import Selectivity
from topobrain.topography import Topography

MAP = "Moran's I of the language map"
RESPONSES = "topography statistic $t_g$ of responses"


def draw(results: Path) -> Drawing | None:
    """Draw Moran's I of the t-maps and t_g of the activations, model by model, with their layout nulls."""
    maps = {n: cast(Selectivity, r) for n, r in load_all(results, "selectivity").items() if n.startswith("topoformer")}
    units = {n: cast(Topography, r) for n, r in load_all(results, "topography").items() if n.startswith("topoformer")}
    if not maps or not units:
        return None
    names = sorted(set(maps) & set(units), key=model_order)
    rows = []
    for name in names:
        for _, one in maps[name].summary().iterrows():
            rows.append((name, MAP, one.layer, one.morans_i, one.null_mean, one.null_sd, one.p_layout))
        for _, one in units[name].summary().iterrows():
            rows.append((name, RESPONSES, one.layer, one.value, one.null_mean, one.null_sd, one.p))
    numbers = pd.DataFrame(rows, columns=["model", "measure", "layer", "value", "null_mean", "null_sd", "p"])
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_INCHES, 3.0), sharey=True, layout="constrained")
    layers = list(dict.fromkeys(numbers.layer))
    for ax, measure in zip(axes, (MAP, RESPONSES), strict=True):
        for number, name in enumerate(names):
            part = numbers[(numbers.model == name) & (numbers.measure == measure)].set_index("layer").loc[layers]
            x = np.arange(len(layers)) + (number - (len(names) - 1) / 2) * 0.2
            low, high = (np.asarray(part.null_mean + side * part.null_sd) for side in (-2, 2))
            null_bars(ax, x, low, high, 0.18, label="layout null, mean $\\pm$ 2 sd" if number == 0 else None)
            fill = "white" if "(untrained" in name else model_colour(name)
            ax.plot(x, part.value, linestyle="none", marker=model_marker(name), color=model_colour(name), markersize=5,
                    markerfacecolor=fill, label=name)  # fmt: skip
        ax.axhline(0, color="black", linewidth=0.5)
        ax.set_xticks(range(len(layers)), [short_layer(layer) for layer in layers], fontsize=7)
        ax.tick_params(labelsize=7)
        ax.set_title(measure, fontsize=8)
        ax.set_xlabel("stream", fontsize=8)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    axes[0].set_ylabel("statistic", fontsize=8)
    drawn, labels = axes[0].get_legend_handles_labels()
    figure.legend(drawn, labels, loc="outside lower center", fontsize=7, frameon=False, ncols=4)
    simulated = any(one.simulated for one in (*maps.values(), *units.values()))
    figure.suptitle("Topography and its floor" + (" (simulated stimuli)" if simulated else ""), fontsize=9)
    caption = (
        f"Topography and its floor{' (simulated stimuli)' if simulated else ''}. Left: Moran's I of the "
        "sentence-minus-nonword map. Right: the generic topography statistic (mean over radii of minus Spearman's "
        "correlation of unit distance and response correlation; BinHuraib et al. 2024) of responses to the sentences of the "
        "brain data. Grey bars: the same units with their places permuted (1,000 times left, 20 times right). Spatial "
        "querying organises queries and keys by training; the output of spatial reweighting is smooth before any training, "
        "so only its distance from the untrained model speaks of learning."
    )
    return Drawing(figure, numbers, caption)
