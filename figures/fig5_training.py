"""Figure 5: what topography costs in training: held-out loss of the topographic model and its twin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from figures.style import Drawing, load_all, model_order
from topobrain.plot.style import COLUMN_INCHES, model_colour, model_marker


def draw(results: Path) -> Drawing | None:
    """Draw held-out loss over training steps, one line a model."""
    found = load_all(results, "training")
    if not found:
        return None
    figure, ax = plt.subplots(figsize=(COLUMN_INCHES, 2.6), layout="constrained")
    rows = []
    for name in sorted(found, key=model_order):
        data = found[name].data
        loss = data["held_out_loss"].values
        ax.plot(data["evaluation"], loss, color=model_colour(name), marker=model_marker(name), markersize=4, label=name)
        for step, value, hits in zip(data["evaluation"].values, loss, data["held_out_accuracy"].values, strict=True):
            rows.append((name, int(step), float(value), float(hits)))
    n_tokens = np.log(found[next(iter(found))].provenance["model"]["config"]["vocab_size"])
    ax.axhline(n_tokens, color="black", linewidth=0.8, linestyle=":", label="guessing among all tokens")
    ax.set_xlabel("training step", fontsize=8)
    ax.set_ylabel("held-out loss (nats a masked token)", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.legend(fontsize=6.5, frameon=False)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    simulated = any(one.simulated for one in found.values())
    ax.set_title("Masked-token loss of the twins" + (" (simulated text)" if simulated else ""), fontsize=8)
    numbers = pd.DataFrame(rows, columns=["model", "step", "held_out_loss", "held_out_accuracy"])
    caption = (
        f"Training{' (simulated text)' if simulated else ''}: loss on held-out texts of the topographic model and its "
        "non-topographic twin, which saw the same batches and masks (one seed)."
    )
    return Drawing(figure, numbers, caption)
