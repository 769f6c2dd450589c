"""Figure 9: sentiment on the streams of a Topoformer, its twin and its untrained self, beside nulls."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
from matplotlib import pyplot as plt

from figures.beside_nulls import beside_nulls, map_rows, models_of, numbers_of, panel_letter
from figures.style import PAGE_INCHES, Drawing, load_all
from topobrain.plot.style import short_layers, simulated_mark
from topobrain.selectivity import Profile, Selectivity
from topobrain.topography import Topography
from topobrain.topography.result import ALL_STIMULI

PANELS = (
    ("morans_i", "Moran's I of the map"),
    ("smoothness_tdann", "smoothness S of the map"),
    ("generic", "topography $t_g$ of responses"),
)


def draw(results: Path) -> Drawing | None:
    """Draw a row of maps a model and a column a stream, then three measures beside their nulls."""
    models = models_of(results)
    found = cast(dict[str, Selectivity], load_all(results, "selectivity-reviews"))
    if not models or not found:
        return None
    topography = cast(dict[str, Topography], load_all(results, "topography-reviews"))
    profiles = cast(dict[str, Profile], load_all(results, "profile-reviews"))
    first = found[models[0].model]
    layers, contrast = first.layers, first.contrasts[0]
    sheet = first.sheet(layers[0])
    across = (PAGE_INCHES - 0.9) / len(layers)
    heights = [(across * sheet.height / sheet.width * 0.9 + 0.6) * len(models) + 0.3, 2.35]
    figure = plt.figure(figsize=(PAGE_INCHES, sum(heights)), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=heights)
    rows = [
        (row.title, [(name if row is models[0] else "", found[row.model], layer)
                          for layer, name in zip(layers, short_layers(layers), strict=True)])
        for row in models
    ]  # fmt: skip
    map_rows(top, rows, contrast)
    stimuli = first.provenance["stimuli"]
    simulated = any(one.simulated for one in found.values())
    top.suptitle(
        f"Sentiment{simulated_mark(simulated)}: {models[0].family}, {stimuli['n_stimuli']:,} held-out reviews",
        fontsize=8,
    )
    axes = bottom.subplots(1, len(PANELS))
    for ax, (measure, title) in zip(axes, PANELS, strict=True):
        said = ALL_STIMULI if measure == "generic" else contrast
        beside_nulls(ax, models, {"reviews": topography}, measure, said)
        ax.set_title(title, fontsize=7)
    axes[0].set_ylabel("value", fontsize=7)
    drawn = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    bottom.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=3, fontsize=6.5, frameon=False)
    for part, letter in zip((top, bottom), "ab", strict=True):
        panel_letter(part, letter)
    held_out = ", ".join(f"{row.title} {np.mean(profiles[row.model].data['t'].values):.1f}" for row in models)
    fields = topography[models[0].model].provenance["topography"]
    share = next(iter(profiles.values())).provenance["profile"]["top"]
    caption = (
        f"Sentiment{simulated_mark(simulated)}. a: t of every unit for positive minus negative reviews that no model was "
        "trained on, one colour scale. The classifiers learnt this very distinction, so that units are selective is no "
        f"finding; where they lie may be. b: measures of each stream beside {fields['n_null']:,} layout permutations (units "
        "change places), label permutations (reviews change sides; t_g does not look at sides) and the untrained selves. A "
        "value inside the label null says that random splits of these reviews give maps as patchy. "
        f"t of the top {share:.0%} of units in the half of the reviews that did not select them, mean of both halves: "
        f"{held_out}."
    )
    return Drawing(
        figure, numbers_of(models, {"reviews": found}, {"reviews": topography}, {"halves": profiles}), caption
    )
