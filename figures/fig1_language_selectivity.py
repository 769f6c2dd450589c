"""Figure 1: sentence-versus-nonword t-maps of a topographic model, its twin and its untrained self."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from figures.style import PAGE_INCHES, Drawing, load_all, model_order
from topobrain.plot import sheet
from topobrain.plot.style import short_layer
from topobrain.selectivity import Selectivity

STREAMS = ("query", "key", "value", "output")


def draw(results: Path) -> Drawing | None:
    """Draw one row a Topoformer and one column an attention stream, all on one colour scale."""
    found = {n: cast(Selectivity, r) for n, r in load_all(results, "selectivity").items() if n.startswith("topoformer")}
    if not found:
        return None
    names = sorted(found, key=model_order)
    layers = [layer for layer in found[names[0]].layers if short_layer(layer) in STREAMS]
    limit = float(np.nanpercentile(np.abs(np.concatenate([found[n].values(one) for n in names for one in layers])), 99))
    figure, axes = plt.subplots(
        len(names), len(layers), figsize=(PAGE_INCHES, 1.95 * len(names) + 0.3), layout="constrained", squeeze=False
    )
    for row, name in enumerate(names):
        for column, layer in enumerate(layers):
            ax = sheet(found[name], axes[row, column], layer=layer, limit=limit, colourbar=False, title="")
            ax.set_title(f"{short_layer(layer)}\n{_spatial(found[name], layer)}", fontsize=6.5)
            ax.set_xlabel("column (grid steps)" if row == len(names) - 1 else "", fontsize=7)
            ax.set_ylabel(f"{name}\nrow (grid steps)" if column == 0 else "", fontsize=7)
    bar = figure.colorbar(axes[0, 0].images[0], ax=axes, shrink=0.5, pad=0.01)
    bar.set_label("t, sentence - nonword", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    simulated = any(one.simulated for one in found.values())
    words = "simulated localizer" if simulated else "language localizer"
    figure.suptitle(f"Language selectivity on the sheet ({words})", fontsize=9)
    numbers = pd.concat([found[name].summary().assign(model=name) for name in names])
    caption = (
        f"Language selectivity ({words}): t of every unit for sentences minus nonword strings, on one colour scale; the "
        "outlined units are the tenth of each sheet with the highest t. Moran's I of each map stands beside its layout null "
        "(mean and sd over permutations of the units' places). The twin has the same data, seed and size but standard "
        "attention; an untrained output stream is already smooth, because non-negative local weights blur."
    )
    return Drawing(figure, numbers, caption)


def _spatial(result: Selectivity, layer: str) -> str:
    row = result.summary().set_index("layer").loc[layer]
    return f"I {row.morans_i:.2f}, null {row.null_mean:.2f} $\\pm$ {row.null_sd:.2f}".replace("-0.00", "0.00")
