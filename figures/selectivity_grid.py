"""Selectivity maps of several models on one colour scale: a row a model, a column a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from figures.style import PAGE_INCHES
from topobrain.plot import sheet
from topobrain.selectivity import Selectivity


def selectivity_grid(
    found: Mapping[str, Selectivity], names: Sequence[str], layers: Mapping[str, str], contrast: str
) -> Figure:
    """Draw t-maps, each with Moran's I and its layout null above it.

    Parameters
    ----------
    found
        Model name -> its selectivity.
    names
        Models, from the top.
    layers
        Layer -> its title, from the left.
    contrast
        What t contrasts, for the colour bar.
    """
    values = [np.abs(found[name].values(layer)) for name in names for layer in layers]
    limit = float(np.nanpercentile(np.concatenate(values), 99))
    figure, axes = plt.subplots(
        len(names), len(layers), figsize=(PAGE_INCHES, 1.95 * len(names) + 0.3), layout="constrained", squeeze=False
    )
    for row, name in enumerate(names):
        for column, (layer, title) in enumerate(layers.items()):
            ax = sheet(found[name], axes[row, column], layer=layer, limit=limit, colourbar=False, title="")
            ax.set_title(f"{title}\n{_spatial(found[name], layer)}", fontsize=6.5)
            ax.set_xlabel("column (grid steps)" if row == len(names) - 1 else "", fontsize=7)
            ax.set_ylabel(f"{name}\nrow (grid steps)" if column == 0 else "", fontsize=7)
    bar = figure.colorbar(axes[0, 0].images[0], ax=axes, shrink=0.5, pad=0.01)
    bar.set_label(f"t, {contrast}", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    return figure


def _spatial(result: Selectivity, layer: str) -> str:
    row = result.summary().set_index("layer").loc[layer]
    return f"I {row.morans_i:.2f}, null {row.null_mean:.2f} $\\pm$ {row.null_sd:.2f}".replace("-0.00", "0.00")
