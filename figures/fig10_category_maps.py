"""Figure 10: maps of faces, bodies, places, characters and objects on a network with a topographic loss, its twin, untrained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from figures.beside_nulls import LABELS, LAYOUT, UNTRAINED_RANGE, ShownModel, models_of
from figures.style import PAGE_INCHES, Drawing, load_all
from topobrain.plot import distance_curve, profiles, sheet, short_layers
from topobrain.plot.style import CEILING, NULL, NULL_MEAN, simulated_mark
from topobrain.selectivity import Profile, Selectivity
from topobrain.topography import DistanceCurve, Topography

DOMAINS = ("faces", "bodies", "places", "characters", "objects")
MEASURE = "morans_i"
BAR = 0.8


def draw(results: Path) -> Drawing | None:
    """Draw the results of `analyses/map_categories.py`: maps, Moran's I beside its nulls, and what held-out images say."""
    models = models_of(results)
    if not models:
        return None
    maps = {name: cast(Selectivity, one) for name, one in load_all(results, "selectivity-floc").items()}
    found = {name: cast(Topography, one) for name, one in load_all(results, "topography-floc").items()}
    held = {
        domain: {name: cast(Profile, one) for name, one in load_all(results, f"profile-{domain}").items()}
        for domain in DOMAINS
    }
    halves = {name: cast(Topography, one) for name, one in load_all(results, "halves").items()}
    curves = {name: cast(DistanceCurve, one) for name, one in load_all(results, "distance").items()}
    main = models[0].model
    layer = str(held[DOMAINS[0]][main].provenance["profile"]["layer"])

    figure = plt.figure(figsize=(PAGE_INCHES, 10.2), layout="constrained")
    parts = figure.subfigures(4, 1, height_ratios=(5.0, 2.25, 1.65, 1.85))
    _draw_maps(parts[0], models, maps, layer)
    _draw_index(parts[1], models, found, layer)
    _draw_profiles(parts[2], held, main)
    _draw_held_out(parts[3], models, held, halves, curves, layer)
    heads = (
        f"t-maps of {layer}: each domain against the other four",
        "Moran's I beside its nulls",
        f"what units of {layer} that one half of the images selects do in the other half ({main})",
        "reliability of selection and of maps, and response correlation by distance",
    )
    for part, letter, head in zip(parts, "abcd", heads, strict=True):
        part.suptitle(f"$\\bf{{{letter}}}$  {head}", fontsize=7.5, x=0.01, ha="left")
    stimuli = maps[main].provenance["stimuli"]
    figure.suptitle(
        f"Category maps of {main}{simulated_mark(maps[main].simulated)}: a small network trained on CIFAR-10, not the paper's "
        f"on ImageNet\n{stimuli['name']}, {stimuli['n_stimuli']} images{_training_line(results, models)}",
        fontsize=8,
    )
    return Drawing(figure, _numbers(models, maps, found, held, halves, curves), _caption(maps[main], held, layer))


def _draw_maps(part: Any, models: Sequence[ShownModel], maps: Mapping[str, Selectivity], layer: str) -> None:
    """Draw a row a model and a column a domain, on one colour scale."""
    values = [np.abs(maps[m.model].values(layer, contrast=domain)) for m in models for domain in DOMAINS]
    limit = float(np.nanpercentile(np.concatenate(values), 99))
    axes = part.subplots(len(models), len(DOMAINS), squeeze=False)
    for number, (line, row) in enumerate(zip(axes, models, strict=True)):
        for ax, domain in zip(line, DOMAINS, strict=True):
            sheet(maps[row.model], ax, layer=layer, contrast=domain, limit=limit, colourbar=False,
                  null="require", title=domain if number == 0 else "")  # fmt: skip
        line[0].set_ylabel(row.title, fontsize=7.5)
    bar = part.colorbar(axes[0, 0].images[0], ax=axes, orientation="horizontal", shrink=0.4, aspect=35, pad=0.01)
    bar.set_label("t, domain against the other four; outlined: q < .05 (dotted: t < 0)", fontsize=6.5)
    bar.ax.tick_params(labelsize=6.5)


def _draw_index(part: Any, models: Sequence[ShownModel], found: Mapping[str, Topography], layer: str) -> None:
    """Draw Moran's I of the shown layer for every contrast, and of all layers for the domains."""
    left, right = part.subplots(1, 2, width_ratios=(1.25, 1), sharey=True)
    _draw_contrasts(left, models, found, layer)
    _draw_layers(right, models, found)
    handles, names = left.get_legend_handles_labels()
    part.legend(handles, names, fontsize=6.5, frameon=False, loc="outside lower center", ncols=3)


def _draw_contrasts(ax: Any, models: Sequence[ShownModel], found: Mapping[str, Topography], layer: str) -> None:
    """Draw Moran's I of the shown layer for every contrast, beside both nulls."""
    first = found[models[0].model]
    values = first.data["value"].sel(measure=MEASURE, layer=layer)
    contrasts = [str(name) for name in values["contrast"].values[np.isfinite(values.values)]]
    group = len(models) + 1
    for place, contrast in enumerate(contrasts):
        for shift, row in enumerate(models):
            x = place * group + shift
            said = {null: _cell(found[row.model], null, layer, contrast) for null in ("layout", "labels")}
            _band(ax, x, said["layout"], LAYOUT, color=NULL, linewidth=0)
            _band(ax, x, said["labels"], LABELS, facecolor="none", edgecolor=NULL_MEAN, linewidth=0.7, hatch="//////")
            _mark(ax, x, said["layout"]["value"], row, size=4.5)
            if row.role == "untrained":
                _range(ax, x, _cell(first, "untrained", layer, contrast))
    middles = np.arange(len(contrasts)) * group + (len(models) - 1) / 2
    ax.set_xticks(middles, contrasts, rotation=30, ha="right", rotation_mode="anchor", fontsize=6.5)
    ax.set_xlim(-1, group * len(contrasts) - 1)
    ax.set_ylabel("Moran's I of the t-map", fontsize=7)
    ax.set_title(layer, fontsize=7.5)
    _plain(ax)


def _draw_layers(ax: Any, models: Sequence[ShownModel], found: Mapping[str, Topography]) -> None:
    """Draw Moran's I of all five domains in every layer, beside their layout nulls."""
    layers = [str(name) for name in found[models[0].model].labels("layer")]
    group = len(models) + 1
    for place, layer in enumerate(layers):
        for shift, row in enumerate(models):
            x = place * group + shift
            for domain in DOMAINS:
                said = _cell(found[row.model], "layout", layer, domain)
                _band(ax, x, said, None, color=NULL, linewidth=0, alpha=0.35)
                _mark(ax, x, said["value"], row, size=2.5)
    middles = np.arange(len(layers)) * group + (len(models) - 1) / 2
    ax.set_xticks(middles, short_layers(layers), rotation=30, ha="right", rotation_mode="anchor", fontsize=6.5)
    ax.set_xlim(-1, group * len(layers) - 1)
    ax.set_title("all five domains in every layer", fontsize=7.5)
    _plain(ax)


def _draw_profiles(part: Any, held: Mapping[str, Mapping[str, Profile]], main: str) -> None:
    """Draw what the units that one half of the images selects do in the other half: topographic network only."""
    axes = part.subplots(1, len(DOMAINS), sharey=True)
    for ax, domain in zip(axes, DOMAINS, strict=True):
        one = held[domain][main]
        n = int(one.data["selected"].values[0].sum())
        profiles(one, ax, conditions=DOMAINS, legend=False, title=f"{n} units for {domain}")
        ax.title.set_fontsize(7)
        ax.set_xlabel("")
        ax.set_ylabel("mean activation (sd)" if ax is axes[0] else "", fontsize=6.5)
        ax.set_xticks(range(len(DOMAINS)), DOMAINS, rotation=45, ha="right", rotation_mode="anchor", fontsize=6)
        ax.get_xticklabels()[DOMAINS.index(domain)].set_fontweight("bold")


def _draw_held_out(
    part: Any, models: Sequence[ShownModel], held: Mapping[str, Mapping[str, Profile]], halves: Mapping[str, Topography],
    curves: Mapping[str, DistanceCurve], layer: str,
) -> None:  # fmt: skip
    """Draw what is true of every network: held-out t and agreement of halves; and what is not: the distance curve."""
    first, second, third = part.subplots(1, 3, width_ratios=(1, 1, 1.15))
    group = len(models) + 1
    for place, domain in enumerate(DOMAINS):
        for shift, row in enumerate(models):
            x = place * group + shift
            _mark(first, x, float(held[domain][row.model].data["t"].values.mean()), row, size=4)
            said = _cell(halves[row.model], "layout", layer, domain, measure="map_correlation")
            _band(second, x, said, None, color=NULL, linewidth=0)
            _mark(second, x, said["value"], row, size=4)
    for ax, name in (
        (first, "held-out t of\nthe selected units"),
        (second, "correlation of maps of\nodd and even images"),
    ):
        middles = np.arange(len(DOMAINS)) * group + (len(models) - 1) / 2
        ax.set_xticks(middles, DOMAINS, rotation=30, ha="right", rotation_mode="anchor", fontsize=6.5)
        ax.set_ylabel(name, fontsize=7)
        _plain(ax)
    called = {"twin": "{}-control", "untrained": "{} (untrained)"}  # a twin may have been trained under any name
    named = {called.get(row.role, "{}").format(row.family): curves[row.model] for row in models}
    distance_curve(named, third, layer=layer, legend=False, title="")


def _cell(result: Topography, null: str, layer: str, contrast: str, measure: str = MEASURE) -> dict[str, float]:
    said = result.beside(null).sel(measure=measure, layer=layer, contrast=contrast)
    return {str(name): float(said[name]) for name in said.data_vars}


def _band(ax: Any, x: float, said: Mapping[str, float], label: str | None, **style: Any) -> None:
    """Draw the middle 95 % of a null."""
    if np.isfinite(said["null_low"]):
        known = label in ax.get_legend_handles_labels()[1]
        height = said["null_high"] - said["null_low"]
        ax.bar(x, height, BAR, bottom=said["null_low"], zorder=1, label=None if known else label, **style)


def _range(ax: Any, x: float, said: Mapping[str, float]) -> None:
    known = UNTRAINED_RANGE in ax.get_legend_handles_labels()[1]
    ax.vlines(
        x,
        said["null_low"],
        said["null_high"],
        color=CEILING,
        linewidth=0.8,
        zorder=3,
        label=None if known else UNTRAINED_RANGE,
    )


def _mark(ax: Any, x: float, value: float, row: ShownModel, *, size: float) -> None:
    known = row.title in ax.get_legend_handles_labels()[1]
    ax.plot(x, value, linestyle="none", marker=row.look.marker, markersize=size, color=row.look.colour, zorder=4,
            markerfacecolor=row.look.face, markeredgewidth=0.7, label=None if known else row.title)  # fmt: skip


def _plain(ax: Any) -> None:
    ax.axhline(0, color=CEILING, linewidth=0.5, zorder=0)
    ax.tick_params(labelsize=6.5, length=2)
    ax.spines[["top", "right"]].set_visible(False)


def _training_line(results: Path, models: Sequence[ShownModel]) -> str:
    """Return how long the networks were trained, and how well they classify."""
    logs = {name: one.summary().iloc[0] for name, one in load_all(results, "training").items()}
    known = [row for row in models if "test_accuracy" in logs.get(row.model, {})]
    if not known:
        return ""
    scores = ", ".join(f"{row.title} {logs[row.model]['test_accuracy']:.2f}" for row in known)
    return f"; {logs[known[0].model]['steps']} training steps, CIFAR-10 test accuracy {scores}"


def _numbers(
    models: Sequence[ShownModel], maps: Mapping[str, Selectivity], found: Mapping[str, Topography],
    held: Mapping[str, Mapping[str, Profile]], halves: Mapping[str, Topography], curves: Mapping[str, DistanceCurve],
) -> pd.DataFrame:  # fmt: skip
    """Return every number of the figure, and those of the layers that are not drawn: a row a value and null."""
    frames = []
    for row in models:
        model, who = row.model, {"model": row.model, "role": row.role}
        one = maps[model].summary()
        for name in ("n_units", "n_selective", "n_opposite", "max_t"):
            frames.append(one[["contrast", "layer"]].assign(part="t", what=name, value=one[name].astype(float), **who))
        for part, results in (("topography", found), ("odd against even images", halves)):
            frames.append(results[model].summary().rename(columns={"measure": "what"}).assign(part=part, **who))
        for domain in DOMAINS:
            profile = held[domain][model]
            layer = profile.provenance["profile"]["layer"]
            names = {"condition": "what", "response": "value", "low": "value_low", "high": "value_high",
                     "random_units": "null_mean", "random_low": "null_low", "random_high": "null_high"}  # fmt: skip
            frames.append(profile.summary().rename(columns=names).assign(
                part="profile", contrast=domain, layer=layer, null="random units", **who))  # fmt: skip
        curve = curves[model].summary().rename(columns={"bin": "what"})
        frames.append(curve.assign(part="distance curve", null="layout", **who))
    table = pd.concat(frames, ignore_index=True)
    first: Sequence[str] = (
        "part",
        "model",
        "role",
        "layer",
        "contrast",
        "what",
        "value",
        "value_low",
        "value_high",
        "null",
    )
    return table[[*first, *(name for name in table if name not in first)]]


def _caption(maps: Selectivity, held: Mapping[str, Mapping[str, Profile]], layer: str) -> str:
    fields = maps.provenance["localize"]
    n_units = maps.sheet(layer).n_units
    one = next(iter(held[DOMAINS[0]].values()))
    n_selected = int(one.data["selected"].values[0].sum())
    return (
        f"a: t of every unit (channel) of {layer}, {n_units} units, one domain of images against the other four; one colour "
        "scale. Moran's I of each map stands beside its layout null (mean and sd of "
        f"{fields['n_null']} permutations of the units' places). The twin has the same size, data, order and seed without "
        "topographic loss. b: Moran's I beside two nulls; the label null asks whether this contrast is more patchy than any "
        "other split of the same images. Size sets corridors, houses and cars against instruments only, so it stands beside "
        "cars against instruments. Right: dots are the five domains. "
        f"c: mean activation (every unit scaled to sd 1 over all images) of the {n_selected} units of the topographic network "
        "with the highest t in one half of the images, measured in the other half, mean over both ways round (95 % bootstrap "
        "interval over images; grey: as many random units of the layer). d: t of the selected units of each network in the "
        "other half, and the correlation of maps from odd and from even images beside their layout null: how reliable maps "
        "are, which needs no topography. Right: how alike two channels respond by their distance on the sheet, with the middle "
        "95 % of the same units in other places. A channel's value is its mean over the picture, before normalisation and "
        "rectification."
    )
