"""Figure 1: sentence-versus-nonword t-maps of a topographic model, its twin and its untrained self."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pandas as pd

from figures.selectivity_grid import selectivity_grid
from figures.style import Drawing, load_all, model_order
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
    figure = selectivity_grid(found, names, {layer: short_layer(layer) for layer in layers}, "sentence - nonword")
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
