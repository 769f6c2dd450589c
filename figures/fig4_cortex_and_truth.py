"""Figure 4: scores on the cortex, and weights recovered against the truth, where the responses have both."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from figures.style import PAGE_INCHES, Drawing, load_all, model_order
from topobrain.encoding import Encoding
from topobrain.plot import surface
from topobrain.plot.style import CEILING, PALETTE


def draw(results: Path) -> Drawing | None:
    """Draw the best layer's scores on fsaverage5 beside recovered and true weights (simulated cohort only)."""
    found = {n: cast(Encoding, r) for n, r in load_all(results, "encoding").items()}
    weights = results / "recovered_weights.csv"
    oracle = found.pop("true features", None)
    placed = [n for n in sorted(found, key=model_order) if "vertex" in found[n].data.coords]
    if oracle is None or not weights.is_file() or not placed:
        return None
    name = placed[0]
    scores = found[name].data["r"].mean("fold")
    layer = found[name].layers[int(np.argmax(scores.mean("voxel").values))]
    table = pd.read_csv(weights)
    figure = plt.figure(figsize=(PAGE_INCHES, 2.8), layout="constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=[1.25, 1])
    left = figure.add_subplot(grid[0], projection="3d")
    vertices = found[name].data["vertex"].values
    surface(scores.sel(layer=layer).values, vertices, left, title=f"{name}, {layer}", label="held-out r", limit=0.6)
    right = figure.add_subplot(grid[1])
    right.plot(
        table.true_weight, table.recovered_weight, ".", markersize=1, alpha=0.3, color=PALETTE[5], rasterized=True
    )
    edge = float(np.abs(table[["true_weight", "recovered_weight"]].to_numpy()).max())
    right.plot([-edge, edge], [-edge, edge], color=CEILING, linewidth=0.8, linestyle="--")
    r = float(np.corrcoef(table.true_weight, table.recovered_weight)[0, 1])
    right.set_xlabel("true weight", fontsize=8)
    right.set_ylabel("recovered weight", fontsize=8)
    right.set_title(f"from the true features: r = {r:.3f}", fontsize=8)
    right.set_aspect("equal")
    right.tick_params(labelsize=7)
    figure.suptitle("Scores on the cortex, and the truth recovered (simulated cohort)", fontsize=9)
    numbers = oracle.summary().assign(model="true features", weight_correlation=r)
    caption = (
        "Simulated cohort. Left: held-out r of the best layer at every simulated vertex (mean over subjects) on inflated "
        "fsaverage5, colour scale from 0 to the noise ceiling. Right: ridge weights recovered from the features that made the "
        "responses, against the true weights; the dashed line is identity. The true features' scores by ROI are in the table."
    )
    return Drawing(figure, numbers, caption)
