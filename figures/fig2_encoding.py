"""Figure 2: how well each layer of each model predicts the brain, with ceiling, interval and null."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pandas as pd
from matplotlib import pyplot as plt

from figures.style import PAGE_INCHES, Drawing, load_all, model_order
from topobrain.encoding import Encoding
from topobrain.plot import encoding

PREFERRED = "netw"


def draw(results: Path) -> Drawing | None:
    """Draw one row an ROI (the network first, at most three) and one column a family of models with equal layers."""
    found = {n: cast(Encoding, r) for n, r in load_all(results, "encoding").items() if n != "true features"}
    if not found:
        return None
    names = sorted(found, key=model_order)
    families: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        families.setdefault(tuple(found[name].layers), []).append(name)
    regions = found[names[0]].labels("region").tolist()
    shown = sorted(regions, key=lambda region: region != PREFERRED)[:3]
    columns = list(families.items())
    figure, axes = plt.subplots(
        len(shown), len(columns), figsize=(PAGE_INCHES, 2.0 * len(shown) + 0.8), sharey="row", squeeze=False,
        layout="constrained", width_ratios=[max(len(layers), 2) for layers, _ in columns],
    )  # fmt: skip
    handles: dict[str, object] = {}
    for row, region in enumerate(shown):
        for column, (_, members) in enumerate(columns):
            ax = encoding([found[name] for name in members], axes[row, column], roi=region, legend=False)
            if column:
                ax.set_ylabel("")
            if row < len(shown) - 1:
                ax.set_xlabel("")
            drawn, labels = ax.get_legend_handles_labels()
            handles.update(zip(labels, drawn, strict=True))
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", fontsize=6.5, frameon=False, ncols=3
    )
    one = found[names[0]]
    brain = one.provenance["responses"].get("name", "responses")
    simulated = any(r.simulated for r in found.values())
    figure.suptitle(f"Encoding of {brain}" + (" (simulated)" if simulated else ""), fontsize=9)
    numbers = pd.concat([found[name].summary().assign(model=name) for name in names])
    folds = one.provenance["encoding"]
    caption = (
        f"Encoding of {brain}{' (simulated)' if simulated else ''}: Pearson r of held-out responses and their prediction "
        f"from each layer ({folds['n_folds']} {folds['folds']} folds, nested ridge, a penalty a voxel), mean over folds and "
        "voxels. Bars: 95 % bootstrap interval over stimuli. Dashed: noise ceiling. Grey: middle 95 % of scores after "
        "permuting the responses and fitting again. Right of the dotted line: the score of the layers that inner folds of the "
        "training stimuli chose. Untrained models are grey with open markers. "
        f"{len(shown)} of {len(regions)} ROIs are drawn, the table holds all."
    )
    return Drawing(figure, numbers, caption)
