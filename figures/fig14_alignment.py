"""Figure 14: how few dimensions of models line up with the language network, beside twins, untrained selves and nulls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from figures.beside_nulls import panel_letter
from figures.style import PAGE_INCHES, Drawing
from topobrain.alignment import Alignment
from topobrain.plot import alignment_scores, model_looks, paired_maps, short_layers
from topobrain.plot.alignment import SCORES, drawn_as
from topobrain.plot.scores import plain_axes, points
from topobrain.plot.style import CEILING, DIVERGING, SMALLEST, null_bars, simulated_mark
from topobrain.results import load_result

LAYOUT_LABEL = "units in other places, 95 %"
IN_ORDER = "units in order, not laid out"
METHODS = ("pls", "cca", "rsa", "cka")
SHORT = {"pls": "PLS", "cca": "CCA", "rsa": "RSA", "cka": "CKA"}
NAMES = {"family": str, "layer": str}
"""Columns of tables that hold names, which may look like numbers."""

PER_ROW = 2
"""Families side by side."""


class Found(NamedTuple):
    """The results of one family."""

    name: str
    pls: Alignment
    network: Alignment | None
    others: Mapping[str, Alignment]
    """Method -> result, ``"pls"`` among them."""


def draw(results: Path) -> Drawing | None:
    """Draw the results of `analyses/align_language_network.py`."""
    families = families_of(results)
    if not families:
        return None
    n_rows = -(-len(families) // PER_ROW)
    shown = most_topographic(families)
    n_maps = min(2, shown.pls.data.sizes["component"])
    smooth = smoothness_of(results)
    heights = [2.4 * n_rows, 1.3 * n_maps + 0.25, 1.6]
    figure = plt.figure(figsize=(PAGE_INCHES, sum(heights) + 0.3), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights)
    _every_layer(parts[0], families)
    placed = laid_out(results, shown.name)
    layer = best_layer(shown.pls, placed or ())
    maps = paired_maps(shown.pls, layer=layer, components=range(1, n_maps + 1), n_ends=3, figure=parts[1],
                title=f"{shown.name}, {layer}: weights on both sides, sentences of the highest and lowest scores")  # fmt: skip
    _name_smoothness(maps, smooth, shown.name, layer)
    if placed is not None and layer not in placed:
        for ax in maps[:, 0]:
            ax.set_xlabel(f"{ax.get_xlabel()}\n{IN_ORDER}", fontsize=SMALLEST, labelpad=3)
    left, right = parts[2].subfigures(1, 2, width_ratios=[1.25, 1.0]) if len(smooth) else (parts[2], None)
    _by_method(left, families)
    if right is not None:
        _smoothness(right, families, smooth)
    for part, letter in zip([*parts[:2], left, right], "abcd", strict=True):
        if part is not None:
            panel_letter(part, letter)
    simulated = any(one.pls.simulated for one in families)
    brain = families[0].pls.provenance.get("responses", {}).get("name", "responses")
    mark = "" if "simulated" in brain else simulated_mark(simulated)
    figure.suptitle(f"Low-dimensional alignment with the language network ({brain}){mark}", fontsize=9)
    return Drawing(figure, numbers_of(families, smooth), _caption(families, shown, layer, placed, simulated))


def families_of(results: Path) -> list[Found]:
    """Return the alignments of a folder, family by family in the order of ``layers.csv``."""
    table = results / "layers.csv"
    if not table.is_file():
        return []
    order = list(dict.fromkeys(pd.read_csv(table, dtype=NAMES)["family"]))
    found: dict[str, dict[str, Alignment]] = {}
    for path in sorted(results.glob("*.nc")):
        kind = path.stem.split("_")[0]
        if kind != "network" and kind.split("-")[0] != "alignment":
            continue
        one = cast(Alignment, load_result(path))
        key = "network" if kind == "network" else one.method
        found.setdefault(str(one.provenance.get("model", {}).get("name", "")), {})[key] = one
    return [
        Found(
            name,
            found[name]["pls"],
            found[name].get("network"),
            {m: found[name][m] for m in METHODS if m in found[name]},
        )
        for name in order
        if "pls" in found.get(name, {})
    ]


def most_topographic(families: Sequence[Found]) -> Found:
    """Return the family whose maps are drawn: a Topoformer if there is one, else one with a twin, else the first."""
    named = [one for one in families if one.name.startswith("topoformer")]
    paired = [one for one in families if "twin" in one.pls.controls]
    return (named or paired or list(families))[0]


def laid_out(results: Path, family: str) -> list[str] | None:
    """Return the layers of a family whose places training decided; None where the table does not say it."""
    table = pd.read_csv(results / "layers.csv", dtype=NAMES)
    if "laid_out" not in table:
        return None
    return list(dict.fromkeys(table.loc[(table["family"] == family) & table["laid_out"], "layer"]))


def smoothness_of(results: Path) -> pd.DataFrame:
    """Return how smooth unit weights are, a row a family, role, layer and component; empty without the file."""
    path = results / "smoothness.csv"
    return pd.read_csv(path, dtype=NAMES) if path.is_file() else pd.DataFrame()


def best_layer(result: Alignment, among: Sequence[str]) -> str:
    """Return the layer whose first component scores highest, among some if there are any."""
    r = result.data["r"].values[:, 0]
    inside = np.isin(result.layers, list(among))
    known = np.where(np.isfinite(r), r, -np.inf)
    return result.layers[int(np.argmax(np.where(inside, known, -np.inf) if inside.any() else known))]


def _every_layer(part: Any, families: Sequence[Found]) -> None:
    """Draw the first component of every layer beside controls and null, and under it every component of every layer."""
    n_rows = -(-len(families) // PER_ROW)
    limit = max(float(np.nanmax(np.abs(one.pls.data["r"].values))) for one in families)
    rows = part.subfigures(n_rows + 1, 1, height_ratios=[1.0] * n_rows + [0.12])
    handles: dict[str, Any] = {}
    every = []
    for row in range(n_rows):
        members = families[row * PER_ROW : (row + 1) * PER_ROW]
        widths = [len(one.pls.layers) + 4 for one in members]
        axes = rows[row].subplots(2, len(members), squeeze=False, width_ratios=widths, height_ratios=[1.5, 1.0])
        for column, one in enumerate(members):
            top, under = axes[:, column]
            alignment_scores({one.name: one.pls}, top, component=1, legend=False, title=one.name)
            top.set_title(one.name, fontsize=7)
            top.set_xticks(np.arange(len(one.pls.layers)), [])
            top.set_xlabel("")
            top.set_ylabel(f"{SCORES['pls']},\ncomponent 1" if column == 0 else "", fontsize=7)
            handles |= dict(zip(*reversed(top.get_legend_handles_labels()), strict=True))
            _strip(under, one, limit, named=column == 0)
            every.append(top)
        bar = rows[row].colorbar(
            ScalarMappable(Normalize(-limit, limit), DIVERGING), ax=list(axes[1]), shrink=0.9, aspect=9, pad=0.01
        )
        bar.set_label("held-out r", fontsize=6.5)
        bar.ax.tick_params(labelsize=6)
    low, high = min(ax.get_ylim()[0] for ax in every), max(ax.get_ylim()[1] for ax in every)
    for ax in every:
        ax.set_ylim(low, high)
    names = [one.name for one in families]
    order = [*names, *(name for name in handles if name not in names)]
    rows[-1].legend([handles[name] for name in order], order, loc="center", ncols=4, fontsize=6.5, frameon=False)


def _strip(ax: Any, one: Found, limit: float, *, named: bool) -> None:
    """Draw every component of every layer as colours, the network's mean in a row of its own, with dots where p_max < .05."""
    r, p = (one.pls.data[name].values.T for name in ("r", "p_max"))
    labels = [str(k + 1) for k in range(len(r))]
    if one.network is not None:
        r = np.vstack([r, one.network.data["r"].values.T[:1]])
        p = np.vstack([p, one.network.data["p_max"].values.T[:1]])
        labels.append("network")
    ax.imshow(r, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    y, x = np.nonzero(p < 0.05)
    ax.plot(x, y, linestyle="none", marker=".", markersize=2.5, color=CEILING)
    if one.network is not None:
        ax.axhline(len(labels) - 1.5, color="white", linewidth=1.5)
    ax.set_xlim(-0.6, len(one.pls.layers) - 0.4)
    ax.set_yticks(np.arange(len(labels)), labels, fontsize=6)
    ax.set_ylabel("component" if named else "", fontsize=7)
    names = short_layers(one.pls.layers)
    ax.set_xticks(np.arange(len(names)), names, rotation=90, fontsize=5.5)
    ax.tick_params(length=1.5, pad=1)


def _by_method(part: Any, families: Sequence[Found]) -> None:
    """Draw by each method the last layer's score less that of its controls, a panel a control."""
    controls = list(dict.fromkeys(name for one in families for name in one.pls.controls))
    methods = [method for method in METHODS if any(method in one.others for one in families)]
    if not controls:
        part.subplots().set_axis_off()
        return
    looks = model_looks(drawn_as(one.name, name) for one in families for name in ("", *controls) if name)
    looks |= model_looks(one.name for one in families)
    axes = part.subplots(1, len(controls), sharey=True, squeeze=False)[0]
    step = 0.8 / len(families)
    for ax, control in zip(axes, controls, strict=True):
        for number, one in enumerate(families):
            for place, method in enumerate(methods):
                if method not in one.others or control not in one.others[method].controls:
                    continue
                found = one.others[method]
                cell = (found.controls.index(control), -1, 0)
                scores = (
                    [float(found.data[name].values[cell])]
                    for name in ("difference", "difference_low", "difference_high")
                )
                x = place + (number - (len(families) - 1) / 2) * step
                points(ax, [x], scores, looks[one.name], label=one.name if place == 0 else None)
        plain_axes(ax, "difference of score,\nlast layer" if ax is axes[0] else "", "")
        ax.set_xticks(np.arange(len(methods)), [SHORT[method] for method in methods], fontsize=6.5)
        ax.set_xlim(-0.6, len(methods) - 0.4)
        ax.set_title(f"model less {control}", fontsize=7, pad=3)
    handles, names = axes[0].get_legend_handles_labels()
    part.legend(handles, names, loc="outside lower center", ncols=2, fontsize=6.5, frameon=False)


def _name_smoothness(axes: np.ndarray, smooth: pd.DataFrame, family: str, layer: str) -> None:
    """Write above the maps of units how smooth they are beside their null."""
    if not len(smooth):
        return
    rows = smooth[(smooth["family"] == family) & (smooth["layer"] == layer) & (smooth["role"] == "model")]
    for number, (_, row) in enumerate(rows.sort_values("component").head(len(axes)).iterrows()):
        ax = axes[number, 0]
        first = ax.get_title(loc="left").split("\n")[0]
        p = f"p = {row.p:.3f}".replace("0.", ".") if row.p >= 0.001 else "p < .001"
        null = f"{row.null_mean:.2f}".replace("-0.00", "0.00")
        ax.set_title(f"{first}\nMoran's I {row.morans_i:.2f}, {p} (null {null})", fontsize=6.5, pad=3, loc="left")


def _smoothness(part: Any, families: Sequence[Found], smooth: pd.DataFrame) -> None:
    """Draw Moran's I of the units' weights of component 1 beside the layout null: model, twin and untrained self."""
    ax = part.subplots()
    rows = smooth[smooth["component"] == 1]
    roles = ("model", "twin", "untrained")
    names = [one.name for one in families if one.name in set(rows["family"])]
    looks = model_looks(name if role == "model" else drawn_as(name, role) for name in names for role in roles)
    x, ticks = 0.0, {}
    for name in names:
        mine = rows[rows["family"] == name]
        for layer, short in zip(dict.fromkeys(mine["layer"]), short_layers(dict.fromkeys(mine["layer"])), strict=True):
            for role in roles:
                found = mine[(mine["layer"] == layer) & (mine["role"] == role)]
                if not len(found):
                    continue
                row, known = found.iloc[0], ax.get_legend_handles_labels()[1]
                null_bars(ax, np.array([x]), np.array([row.null_low]), np.array([row.null_high]), 0.85,
                          label=None if LAYOUT_LABEL in known else LAYOUT_LABEL)  # fmt: skip
                nothing = [np.nan]
                points(
                    ax,
                    [x],
                    ([row.morans_i], nothing, nothing),
                    looks[name if role == "model" else drawn_as(name, role)],
                )
                if role == "model":
                    ticks[x] = short
                x += 1
            x += 0.7
        x += 0.7
    plain_axes(ax, "Moran's I,\nunit weights", "")
    ax.set_xticks(list(ticks), list(ticks.values()), rotation=90, fontsize=5.5)
    ax.set_title("component 1, layers laid out by training", fontsize=7, pad=3)
    part.legend(*ax.get_legend_handles_labels(), loc="outside lower center", fontsize=6.5, frameon=False)


def numbers_of(families: Sequence[Found], smooth: pd.DataFrame) -> pd.DataFrame:
    """Return every number of the figure: a row a family, score, layer and component."""
    frames = []
    for one in families:
        every = {**one.others, **({"network": one.network} if one.network is not None else {})}
        for name, result in every.items():
            method = "pls" if name == "network" else name
            target = "network mean" if name == "network" else "regions"
            frames.append(result.summary().assign(family=one.name, method=method, target=target, part="score"))
    if len(smooth):
        frames.append(smooth.assign(part="smoothness of unit weights", target="regions", method="pls"))
    table = pd.concat(frames, ignore_index=True)
    lead = ["part", "family", "method", "target"]
    return table[[*lead, *(name for name in table if name not in lead)]]


def _caption(families: Sequence[Found], shown: Found, layer: str, placed: Sequence[str] | None, simulated: bool) -> str:
    among = "of the layers laid out by training" if placed else "of all layers"
    if placed is not None and layer not in placed:
        among = "whose units nobody laid out (drawn in their order), of all layers"
    first = families[0].pls
    options = first.provenance.get("alignment", {})
    brain = first.provenance.get("responses", {}).get("name", "responses")
    regions = list(dict.fromkeys(first.labels("roi").tolist()))
    alone = (
        " The mean over the network is aligned by itself (row 'network')." if families[0].network is not None else ""
    )
    return (
        f"Alignment of models with {brain}{simulated_mark(simulated)}, {first.data.sizes['stimulus']:,} stimuli, "
        f"{first.data.sizes['voxel']} columns in {len(regions)} regions ({', '.join(regions)}). PLS-SVD with means and standard "
        f"deviations of the training stimuli, {options.get('n_folds')} {options.get('folds')} folds; r of the paired scores of "
        f"stimuli held out, mean over folds.{alone} Bars: 95 % intervals, {options.get('n_bootstrap', 0):,} bootstrap draws over "
        f"test stimuli. Grey: middle 95 % of {options.get('n_permutations', 0):,} permutations of the stimuli within training "
        f"and within test stimuli. Dashes: noise ceiling ({options.get('ceiling_of', 'not known')}). a: first component of every "
        "layer and stream, untrained selves in grey, twins without topography as squares; a star: p < .05 beside the largest "
        "permuted score of all layers and components of the model; below, every component (dots: the same p). b: weights of the "
        f"components of {shown.name} in {layer}, {among} the one with the highest r of component 1 "
        "(chosen on the scores shown, so r is optimistic there), mean over folds with signs aligned so that the largest unit "
        "weight is positive: where the bars of regions are negative, sentences of the high end drive the regions less than "
        "those of the low end; Moran's I beside its layout null. c: last layer "
        "of each model less its controls, first component where there are components, stimuli drawn for both at once. "
        "None of these scores depends on where units lie. d: what does, on the model's side alone: Moran's I of the units' "
        "weights (markers as in a) beside the middle 95 % with units in other places; smooth weights show no alignment, since "
        "blur in a model makes them smooth whatever the brain does. Whether voxels answer to places on the sheet needs voxels."
    )
