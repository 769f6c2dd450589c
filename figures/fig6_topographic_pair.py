"""Figure 6: the sheets of a topographic model, its non-topographic twin and its untrained self, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pandas as pd

from figures.selectivity_grid import selectivity_grid
from figures.style import Drawing, load_all
from topobrain.selectivity import Selectivity


def draw(results: Path) -> Drawing | None:
    """Draw one row a model and one column a layer, all on one colour scale."""
    found = {name: cast(Selectivity, one) for name, one in load_all(results, "selectivity").items()}
    if not found:
        return None
    names = sorted(found, key=lambda name: ("(untrained" in name, name.endswith("-control"), name))
    layers = {layer: _title(layer) for layer in found[names[0]].layers}
    contrast = str(found[names[0]].labels("contrast")[0])
    figure = selectivity_grid(found, names, layers, contrast)
    stimuli = found[names[0]].provenance["stimuli"]
    figure.suptitle(
        "A topographic model, its non-topographic twin, and the topographic one untrained\n"
        f"{stimuli['name']}, {stimuli['n_stimuli']} items; outlined: the tenth of units with the highest t; Moran's I "
        "stands beside its layout null" + _training_line(results),
        fontsize=7.5,
    )
    topography = load_all(results, "topography")
    numbers = pd.concat([found[name].summary().assign(model=name) for name in names])
    t_g = pd.concat([one.summary().assign(model=name) for name, one in topography.items()])
    numbers = numbers.merge(
        t_g[["model", "layer", "value", "null_sd"]].rename(columns={"value": "t_g", "null_sd": "t_g_null_sd"}),
        on=["model", "layer"],
    )
    caption = (
        f"Selectivity ({contrast}) of every unit on its sheet, on one colour scale; the outlined units are the tenth of each "
        "sheet with the highest t. Moran's I of each map stands beside its layout null (mean and sd over permutations of the "
        "units' places). The twin has the same size, data, order and seed without topography; the untrained model is the "
        "topographic one before training."
    )
    return Drawing(figure, numbers, caption)


def _training_line(results: Path) -> str:
    """Return a line on how long the models were trained, and how well they do."""
    logs = [one.summary().iloc[0] for one in load_all(results, "training").values()]
    if not logs:
        return ""
    scores = "; ".join(f"{log['model']} {log['held_out_loss']:.2f}" for log in logs)
    return f"\n{logs[0]['steps']} training steps; held-out loss {scores}"


def _title(layer: str) -> str:
    """Return a layer's name without the parts that all layers share."""
    return layer.removeprefix("blocks.").replace("attention.", "")
