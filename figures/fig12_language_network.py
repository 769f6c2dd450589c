"""Figure 12: how well models predict the language network, beside twins, untrained selves and baselines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

from analyses.localize_language import file_label
from figures.beside_nulls import panel_letter
from figures.style import PAGE_INCHES, Drawing
from topobrain.encoding import Encoding
from topobrain.encoding.partition import Partition
from topobrain.plot import encoding, model_looks
from topobrain.plot.scores import RAW, plain_axes, points
from topobrain.plot.style import CEILING, Look, simulated_mark
from topobrain.results import load_result

NETWORK = "netw"
"""The region of panel a, where there is one of this name."""

MODEL_BAND = "model"
"""Name of the model's band in a partition."""

ROLES = ("model", "twin", "untrained", "baseline")
GAP = 0.9
"""Space between families in panels b and c, in points."""


class Member(NamedTuple):
    """One encoding of the figure: of a model, its twin, its untrained self, or a baseline."""

    name: str
    family: str
    role: str
    result: Encoding


def draw(results: Path) -> Drawing | None:
    """Draw the results of `analyses/encode_language_network.py`."""
    members = members_of(results)
    families = list(dict.fromkeys(one.family for one in members if one.role != "baseline"))
    if not families:
        return None
    partitions = partitions_of(results, members)
    looks = model_looks(one.name for one in members)
    first = members[0].result
    region = NETWORK if NETWORK in first.regions else first.regions[0]
    n_named = len(members) + 3  # and ceiling, null, chosen layer
    heights = [2.3, 1.45 * -(-len(first.regions) // 3) + 0.45, *([2.0] if partitions else []),
               0.16 * -(-n_named // 3) + 0.1]  # fmt: skip
    figure = plt.figure(figsize=(PAGE_INCHES, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights)
    handles = _every_layer(parts[0], members, families, region, looks)
    _chosen_layers(parts[1], members, families, first.regions, looks)
    if partitions:
        _unique_variance(parts[2], members, families, partitions, looks)
    order = [*(one.name for one in members), *(name for name in handles if name not in looks)]
    parts[-1].legend([handles[name] for name in order], order, loc="center", ncols=3, fontsize=6.5, frameon=False)
    for part, letter in zip(parts[:-1], "abc", strict=False):
        panel_letter(part, letter)
    simulated = any(one.result.simulated for one in members)
    brain = first.provenance.get("responses", {}).get("name", "responses")
    figure.suptitle(f"The language network ({brain}){simulated_mark(simulated)}", fontsize=9)
    return Drawing(figure, _numbers(members, partitions), _caption(members, partitions, region, simulated))


def members_of(results: Path) -> list[Member]:
    """Return every encoding of a folder, family by family in the order of ``best.csv``, baselines last."""
    table = results / "best.csv"
    if not table.is_file():
        return []
    rows = pd.read_csv(table)
    baselines = {file_label(name): name for name in rows.loc[rows["role"] == "baseline", "family"]}
    order = list(dict.fromkeys(rows["family"]))
    members = []
    for path in sorted(results.glob("encoding_*.nc")):
        result = cast(Encoding, load_result(path))
        label = path.stem.removeprefix("encoding_")
        name = str(result.provenance.get("model", {}).get("name", label))
        if label in baselines:
            members.append(Member(baselines[label], baselines[label], "baseline", result))
        else:
            members.append(Member(name, *family_of(name), result))
    members = [one for one in members if one.family in order]
    return sorted(members, key=lambda one: (one.role == "baseline", order.index(one.family), ROLES.index(one.role)))


def family_of(name: str) -> tuple[str, str]:
    """Return a model's family and role: ``topolm-tiny-control`` is the twin of ``topolm-tiny``."""
    trained = re.sub(r"\s*\(untrained.*\)$", "", name)
    family = trained.removesuffix("-control")
    return family, "untrained" if trained != name else "twin" if family != trained else "model"


def partitions_of(results: Path, members: Sequence[Member]) -> dict[str, Partition]:
    """Return the partitions of a folder by the name of the model that is one of their bands."""
    found = {}
    for path in sorted(results.glob("partition_*.nc")):
        one = cast(Partition, load_result(path))
        name = one.provenance.get("bands", {}).get(MODEL_BAND, {}).get("model", {}).get("name")
        if MODEL_BAND in one.bands and any(name == member.name for member in members):
            found[str(name)] = one
    return found


def _every_layer(
    part: Any, members: Sequence[Member], families: Sequence[str], region: str, looks: Mapping[str, Look]
) -> dict[str, Any]:
    """Draw every layer of every model in one region, a panel a family; return what the legend names."""
    depth = {family: len(next(one.result.layers for one in members if one.family == family)) for family in families}
    axes = part.subplots(
        1, len(families), sharey=True, squeeze=False, width_ratios=[max(n, 3) + 2 for n in depth.values()]
    )[0]
    handles: dict[str, Any] = {}
    for ax, family in zip(axes, families, strict=True):
        shown = {one.name: one.result for one in members if one.family == family}
        encoding(shown, ax, roi=region, legend=False, title=family)
        ax.set_title(family, fontsize=7)
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        for one in members:
            if one.role == "baseline":
                r, low, high = _score(one.result, region)
                style: dict[str, Any] = {"color": looks[one.name].colour, "linewidth": 1, "linestyle": "-."}
                ax.axhspan(low, high, color=style["color"], alpha=0.18, linewidth=0, zorder=0.5)
                ax.axhline(r, zorder=0.6, **style)
                handles[one.name] = Line2D([], [], marker=looks[one.name].marker, markersize=4, **style)
        if ax is not axes[0]:
            ax.set_ylabel("")
    ceiling = float(members[0].result.data["region_ceiling"].values[members[0].result.regions.index(region)])
    axes[0].set_ylabel(f"{RAW}, {region}", fontsize=7)
    if ceiling > 0:
        beside = axes[-1].secondary_yaxis("right", functions=(lambda r: r / ceiling, lambda share: share * ceiling))
        beside.set_ylabel("r / noise ceiling", fontsize=7)
        beside.tick_params(labelsize=6.5)
    return handles


def _chosen_layers(
    part: Any, members: Sequence[Member], families: Sequence[str], regions: Sequence[str], looks: Mapping[str, Look]
) -> None:
    """Draw in every region what the layers chosen inside the training folds score."""
    columns = min(3, len(regions))
    axes = part.subplots(-(-len(regions) // columns), columns, sharex=True, sharey=True, squeeze=False)
    places, ticks = _places(members, families)
    for number, (ax, region) in enumerate(zip(axes.ravel(), regions, strict=False)):
        for one in members:
            points(ax, [places[one.name]], ([value] for value in _score(one.result, region)), looks[one.name])
        ceiling = float(members[0].result.data["region_ceiling"].values[members[0].result.regions.index(region)])
        if np.isfinite(ceiling):
            ax.axhline(ceiling, color=CEILING, linestyle="--", linewidth=1)
        plain_axes(ax, "" if number % columns else f"{RAW},\nchosen layer", "")
        ax.set_title(region, fontsize=7, pad=3)
        _name_families(ax, ticks, slanted=True)
    for ax in axes.ravel()[len(regions) :]:
        ax.set_axis_off()


def _unique_variance(
    part: Any, members: Sequence[Member], families: Sequence[str], partitions: Mapping[str, Partition],
    looks: Mapping[str, Look],
) -> None:  # fmt: skip
    """Draw what each model explains that no baseline does, region by region."""
    ax = part.subplots()
    shown = [one for one in members if one.name in partitions]
    regions = next(iter(partitions.values())).labels("region").tolist()
    places, _ = _places(shown, families)
    width = max(places.values()) + 2.5
    for one in shown:
        table = partitions[one.name].summary().query("component == @MODEL_BAND").set_index("roi").loc[regions]
        x = width * np.arange(len(regions)) + places[one.name]
        points(ax, x, (table[name] for name in ("variance", "low", "high")), looks[one.name], markersize=3.5)
    plain_axes(ax, "unique held-out\nvariance ($R^2$)", "")
    centre = max(places.values()) / 2
    squared = next(iter(partitions.values())).data["region_ceiling_squared"].values
    names = [f"{name}\nc² {c:.2f}" if np.isfinite(c) else name for name, c in zip(regions, squared, strict=True)]
    ax.set_xticks(width * np.arange(len(regions)) + centre, names, fontsize=6.5)
    ax.set_xlim(-1.25, width * len(regions) - 1.25)
    for number in range(1, len(regions)):
        ax.axvline(width * number - 1.25, color=CEILING, linewidth=0.4, linestyle=":")


def _places(members: Sequence[Member], families: Sequence[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Return where each member stands on the x axis, and the middle of each family."""
    places: dict[str, float] = {}
    middles, x = {}, 0.0
    for family in [*families, "baselines"]:
        own = [one for one in members if (one.role == "baseline" if family == "baselines" else one.family == family)]
        if not own:
            continue
        for one in own:
            places[one.name] = x
            x += 1
        middles[re.sub(r"-tiny$", "", family)] = x - (len(own) + 1) / 2
        x += GAP
    return places, middles


def _name_families(ax: Any, ticks: Mapping[str, float], *, slanted: bool) -> None:
    ax.set_xticks(list(ticks.values()), list(ticks), rotation=25 if slanted else 0, ha="right" if slanted else "center",
                  rotation_mode="anchor", fontsize=6.5)  # fmt: skip
    ax.margins(x=0.06)


def _score(result: Encoding, region: str) -> tuple[float, float, float]:
    """Return r and its interval of the layer chosen inside the training folds, or of the only layer."""
    column = result.regions.index(region)
    if len(result.layers) == 1:
        values = (result.data[f"region_{name}"].values[0, column] for name in ("r", "low", "high"))
    else:
        values = (result.data[f"best_{name}"].values[column] for name in ("r", "low", "high"))
    r, low, high = (float(value) for value in values)
    return r, low, high


def _numbers(members: Iterable[Member], partitions: Mapping[str, Partition]) -> pd.DataFrame:
    """Return every number of the figure: layers, chosen layers, and parts of variance."""
    frames = []
    for one in members:
        named = {"model": one.name, "family": one.family, "role": one.role}
        frames.append(one.result.summary().assign(part="layers", **named))
        frames.append(one.result.best().assign(part="chosen in training folds", **named))
        if one.name in partitions:
            frames.append(
                partitions[one.name].summary().rename(columns={"part": "kind"}).assign(part="partition", **named)
            )
    table = pd.concat(frames, ignore_index=True)
    lead = ["part", "model", "family", "role", "roi"]
    return table[[*lead, *(column for column in table if column not in lead)]]


def _caption(members: Sequence[Member], partitions: Mapping[str, Partition], region: str, simulated: bool) -> str:
    first = members[0].result
    options = first.provenance.get("encoding", {})
    brain = first.provenance.get("responses", {}).get("name", "responses")
    baselines = [one.name for one in members if one.role == "baseline"]
    subjects = sorted(set(first.labels("subject")))
    whose = ", ".join(subjects) if len(subjects) <= 3 else f"{len(subjects)} subjects"
    beyond = ""
    if partitions:
        one = next(iter(partitions.values()))
        fields = one.provenance.get("partition", {})
        others = ", ".join(band for band in one.bands if band != MODEL_BAND)
        beyond = (
            f" c: share of held-out variance that only the model explains, beyond {others}: banded ridge regression with a "
            "penalty a feature space and every subset of them fitted, of the layer that most training folds chose; "
            f"{fields.get('n_bootstrap', 0):,} paired draws. It can be negative: a larger model may predict worse. c²: squared "
            "noise ceiling, the most that could be explained."
        )
    return (
        f"Encoding of {brain}{simulated_mark(simulated)}, {first.data.sizes['stimulus']:,} sentences, "
        f"{len(first.regions)} regions, {whose}. Pearson r of held-out responses and their prediction, mean over "
        f"{options.get('n_folds')} {options.get('folds')} folds; nested ridge regression, penalties from "
        f"{options.get('inner_folds')} folds inside the training sentences. Bars: 95 % intervals, "
        f"{options.get('n_bootstrap', 0):,} bootstrap draws over sentences. Dashed line: noise ceiling. a: every "
        f"layer in {region}; grey band: middle 95 % of {options.get('n_permutations', 0):,} permutations of the responses, "
        "fitted again; dashed lines: twins without topography; grey: the same architecture untrained (seed "
        f"{options.get('seed', 0)}); coloured bands: baselines ({', '.join(baselines) or 'none'}). Right of the dotted line, and "
        "in b: the score of the layer that the inner folds of each outer fold chose, so that no held-out sentence took part "
        f"in the choice.{beyond}"
    )
