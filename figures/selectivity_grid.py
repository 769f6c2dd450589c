"""Selectivity maps of several models on one colour scale: a row a model, a column a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from figures.style import PAGE_INCHES
from topobrain.plot import sheet
from topobrain.selectivity import Selectivity

OUTLINE = 0.1
"""Share of units outlined: with hundreds of stimuli nearly all units of an unordered map are significant."""


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
        len(names), len(layers), figsize=(PAGE_INCHES, 2.15 * len(names) + 0.3), layout="constrained", squeeze=False
    )
    for row, name in enumerate(names):
        for column, (layer, title) in enumerate(layers.items()):
            ax = sheet(
                found[name], axes[row, column], layer=layer, limit=limit, significance=None, outline=OUTLINE,
                colourbar=False, title=title,
            )  # fmt: skip
            ax.set_ylabel(name if column == 0 else "", fontsize=7)
    bar = figure.colorbar(axes[0, 0].images[0], ax=axes, shrink=0.5, pad=0.01)
    bar.set_label(f"t, {contrast}\noutlined: top {OUTLINE:.0%}", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    return figure
