"""Figure 7: what topographic layers and losses do to the sheet, and what they cost, over several seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from figures.style import PAGE_INCHES, Drawing
from topobrain.plot.style import NULL, PALETTE, UNTRAINED

VARIANTS = ("control", "querying", "reweighting", "both", "signed")
STREAMS = ("query", "key", "value", "output")
SWEEPS = {
    "lm-tau": ("NanoGPT, tiny: hidden layers", "loss", "held-out loss (nats / token)"),
    "images-tau": ("ResNet-18, tiny: late convolutions", "accuracy", "CIFAR-10 accuracy (share)"),
    "imdb-tau": ("one-layer encoder: attention", "accuracy", "IMDB accuracy (share)"),
}
"""Claim -> title, its score, and the score's label."""


def draw(results: Path) -> Drawing | None:
    """Draw ``claims.csv`` of `analyses/topography_claims.py`."""
    path = results / "claims.csv"
    if not path.is_file():
        return None
    rows = pd.read_csv(path)
    variants = [claim for claim in ("toy", "variants") if (rows["claim"] == claim).any()]
    sweeps = [claim for claim in SWEEPS if (rows["claim"] == claim).any()]
    figure = plt.figure(figsize=(PAGE_INCHES, 6.6), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=(1.25, 1, 1))
    titles = {"toy": "Topoformer variants, simulated topic task", "variants": "Topoformer variants, IMDB"}
    for ax, claim in zip(np.atleast_1d(top.subplots(1, max(1, len(variants)), sharey=True)), variants, strict=False):
        _variants(ax, rows[rows["claim"] == claim])
        ax.set_title(titles[claim], fontsize=8)
    top.axes[0].set_ylabel("generic topography $t_g$", fontsize=8)
    handles, labels = top.axes[0].get_legend_handles_labels()
    top.legend(handles, labels, fontsize=6.5, loc="outside upper center", ncols=len(labels), frameon=False)
    middles = np.atleast_1d(middle.subplots(1, max(1, len(sweeps)), sharey=True))
    bottoms = np.atleast_1d(bottom.subplots(1, max(1, len(sweeps))))
    for slot, claim in enumerate(sweeps):
        title, score, label = SWEEPS[claim]
        own = rows[rows["claim"] == claim]
        for ax, column in ((middles[slot], "t_g"), (bottoms[slot], score)):
            _sweep(ax, own, column, PALETTE[list(SWEEPS).index(claim)])
        middles[slot].set_title(title, fontsize=8)
        bottoms[slot].set_xlabel(r"strength of the topographic loss, $\tau$", fontsize=7)
        bottoms[slot].set_ylabel(label, fontsize=7)
    middles[0].set_ylabel("generic topography $t_g$", fontsize=8)
    seeds = rows["seed"].nunique()
    caption = (
        f"Topography of layers and what it costs, {seeds} seeds (dots; bars and lines are means). Top: generic topography "
        "statistic of each attention stream in the variants of the one-layer Topoformer (querying: spatial querying; "
        "reweighting: non-negative spatial reweighting; signed: reweighting with free signs); grey diamonds are the same "
        "models untrained, the grey band is two sd of the layout null. Below: TopoLoss of growing strength; tau 0 is the "
        "non-topographic twin."
    )
    return Drawing(figure, rows, caption)


def _variants(ax: Any, rows: pd.DataFrame) -> None:
    shown = [variant for variant in VARIANTS if (rows["model"] == variant).any()]
    spread = 2 * float(rows["null_sd"].mean())
    ax.axhspan(-spread, spread, color=NULL, alpha=0.5, lw=0, label="layout null (2 sd)")
    width = 0.8 / len(shown)
    for slot, variant in enumerate(shown):
        for place, stream in enumerate(STREAMS):
            own = rows[(rows["model"] == variant) & (rows["stream"] == stream)]
            x = place + (slot - (len(shown) - 1) / 2) * width
            label = variant if place == 0 else None
            ax.bar(x, own["t_g"].mean(), 0.85 * width, color=PALETTE[slot], alpha=0.75, label=label)
            ax.plot(np.full(len(own), x), own["t_g"], ".", color="black", ms=2.5)
            untrained = "untrained" if (place, slot) == (0, 0) else None
            ax.plot(x, own["untrained_t_g"].mean(), "D", mfc="white", mec=UNTRAINED, ms=4, label=untrained)
    ax.set_xticks(range(len(STREAMS)), STREAMS, fontsize=7)
    ax.tick_params(labelsize=7)
    ax.spines[["top", "right"]].set_visible(False)


def _sweep(ax: Any, rows: pd.DataFrame, column: str, colour: str) -> None:
    per_run = rows.groupby(["model", "seed"], as_index=False)[
        ["t_g", "loss", "accuracy", "untrained_t_g", "null_sd"]
    ].mean()
    per_run["tau"] = per_run["model"].str.removeprefix("tau ").astype(float)
    taus = sorted(per_run["tau"].unique())
    place = {tau: i for i, tau in enumerate(taus)}
    means = per_run.groupby("tau")[column].mean()
    if column == "t_g":
        spread = 2 * float(per_run["null_sd"].mean())
        ax.axhspan(-spread, spread, color=NULL, alpha=0.5, lw=0)
        untrained = per_run.groupby("tau")["untrained_t_g"].mean()
        ax.plot([place[t] for t in untrained.index], untrained, "D", mfc="white", mec=UNTRAINED, ms=4)
    ax.plot([place[t] for t in means.index], means, "-", color=colour, lw=1.2)
    ax.plot(per_run["tau"].map(place), per_run[column], "o", color=colour, ms=3.5, alpha=0.8)
    ax.set_xticks(range(len(taus)), [f"{tau:g}" for tau in taus])
    ax.tick_params(labelsize=7)
    ax.spines[["top", "right"]].set_visible(False)
