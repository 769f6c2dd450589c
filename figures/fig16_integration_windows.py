"""Figure 16: how far back units listen, where on the sheet, whether windows stop at sentences; twin and untrained beside."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from figures.beside_nulls import ShownModel, models_of, panel_letter
from figures.style import PAGE_INCHES, Drawing, load_all
from topobrain.integration.result import Integration
from topobrain.plot import integration_curves, integration_depth, short_layers, yoking_steps
from topobrain.plot.integration import FEW
from topobrain.plot.style import simulated_mark
from topobrain.plot.window_maps import (
    LINE_INCHES,
    SHOWN,
    MapRow,
    draw_map_rows,
    grey_lines,
    grey_words,
    map_limits,
    rows_inches,
    write_grey,
)

STREAM = re.compile(r"(blocks|layers)\.\d+")
"""Names of the residual stream behind each block."""

MOST_CURVES = 4
"""Layers whose curves are drawn, evenly spaced in depth."""

LETTER_INCHES = 0.12
"""Space for a part's letter above it."""

CURVE_INCHES, DEPTH_INCHES, STEP_INCHES = 1.75, 1.6, 1.7


class Family(NamedTuple):
    """The models of one family, the trained one first.

    Attributes
    ----------
    name
        Of the trained model.
    models
        Role -> which model.
    runs
        Role -> windows over runs of words.
    sentences
        Role -> windows over sentences of equal length; empty without such results.
    """

    name: str
    models: Mapping[str, ShownModel]
    runs: Mapping[str, Integration]
    sentences: Mapping[str, Integration]

    @property
    def first(self) -> Integration:
        """The trained model over runs of words."""
        return next(iter(self.runs.values()))

    def named(self, results: Mapping[str, Integration]) -> dict[str, Integration]:
        """Return results under the names by which they are drawn: the model's own, ``"twin"``, ``"untrained"``."""
        return {self.name if role in ("topographic", "pretrained") else role: one for role, one in results.items()}


def draw(results: Path) -> Drawing | None:
    """Draw the saved windows of a folder.

    ``models.csv`` says which model is which; ``integration_*.nc`` hold their windows over runs of words, ``yoking_*.nc``
    those over sentences of equal length (without them the yoking of ``integration_*.nc`` is drawn, if there is any).
    """
    families = families_of(results)
    if not families:
        return None
    shown = most_topographic(families)
    rows, maps, layer = map_rows_of(shown, laid_out(results, shown))
    deep = [one for one in families if len(one.first.layers) > 1]
    stepped = _stepped(shown)
    grey = grey_lines(rows, maps, PAGE_INCHES) if rows else []
    below = LINE_INCHES * len(grey) + 0.1
    heights = [rows_inches(rows, len(maps), PAGE_INCHES) + LETTER_INCHES + below] if rows else []
    heights += [DEPTH_INCHES + LETTER_INCHES + 0.35] if rows else []
    heights += [DEPTH_INCHES * len(deep) + LETTER_INCHES + 0.35] if deep else []
    curved = curves_of(families, shown)
    heights += [CURVE_INCHES * len(curved) + LETTER_INCHES + 0.35]
    heights += [STEP_INCHES + LETTER_INCHES] if stepped is not None else []
    title = 0.28
    figure = plt.figure(figsize=(PAGE_INCHES, sum(heights) + title), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    parts = iter(figure.subfigures(len(heights) + 1, 1, height_ratios=[title, *heights]))
    simulated = any(one.first.simulated for one in families)
    next(parts).suptitle("Integration windows of language models" + simulated_mark(simulated), fontsize=9)
    letters = iter("abcde")
    if rows:
        part = _lettered(next(parts), letters)
        draw_map_rows(part, rows, maps, map_limits([row.result for row in rows], maps), top=LETTER_INCHES)
        write_grey(part, grey)
        _morans(_lettered(next(parts), letters), shown)
    if deep:
        _depths(_lettered(next(parts), letters), deep)
    _curves(_lettered(next(parts), letters), curved)
    if stepped is not None:
        ax = _lettered(next(parts), letters).subplots()
        yoking_steps(
            stepped, ax, layers=stream_of(stepped),
            title=f"{shown.name}: windows that stop at sentence ends would jump up at first words",
        )  # fmt: skip
        ax.set_title(ax.get_title(), fontsize=7, pad=4)
    return Drawing(figure, numbers_of(families), _caption(families, shown, maps, layer, bool(rows), stepped))


def families_of(results: Path) -> list[Family]:
    """Return the families of a folder in the order of ``models.csv``."""
    models = models_of(results)
    if not models:
        return []
    runs, sentences = (
        {
            name: cast(Integration, one)
            for name, one in load_all(results, prefix).items()
            if isinstance(one, Integration)
        }
        for prefix in ("integration", "yoking")
    )
    found = []
    for name in dict.fromkeys(one.family for one in models):
        members: dict[str, ShownModel] = {}
        for one in models:
            if one.family == name and one.model in runs:
                members.setdefault(one.role, one)  # of several untrained selves the first
        if any(role in members for role in ("topographic", "pretrained")):
            found.append(
                Family(
                    name,
                    members,
                    {role: runs[one.model] for role, one in members.items()},
                    {role: sentences[one.model] for role, one in members.items() if one.model in sentences},
                )
            )
    return found


def most_topographic(families: Sequence[Family]) -> Family:
    """Return the family whose maps are drawn: the first with a topographic model, else the first."""
    return next((one for one in families if "topographic" in one.models), families[0])


def laid_out(results: Path, family: Family) -> list[str]:
    """Return the layers of a family that can have maps: those ``layers.csv`` says training laid out, else all on a sheet.

    The residual stream lies on a sheet too, in the order of its units, which is arbitrary.
    """
    placed = [layer for layer in family.first.layers if family.first.sheet(layer).has_layout]
    path = results / "layers.csv"
    if not path.is_file():
        return placed
    table = pd.read_csv(path)
    trained = set(table.loc[(table["family"] == family.name) & table["laid_out"].astype(bool), "layer"])
    return [layer for layer in placed if layer in trained] or placed


def map_rows_of(family: Family, placed: Sequence[str]) -> tuple[list[MapRow], list[str], str]:
    """Return a row of maps for each model of a family, the maps there are, and the layer: the middle one of those placed."""
    if not placed:
        return [], [], ""
    layer = placed[len(placed) // 2]
    joined = {role: _with_yoking(one, family.sentences.get(role)) for role, one in family.runs.items()}
    maps = [
        name
        for name in SHOWN
        if any(np.isfinite(one.values(layer, name)).any() for one in joined.values())  # type: ignore[arg-type]
    ]
    rows = [MapRow(role, one, layer) for role, one in joined.items() if layer in one.layers]
    return (rows, maps, layer) if maps else ([], [], layer)


def _with_yoking(runs: Integration, sentences: Integration | None) -> Integration:
    """Return windows over runs of words with the yoking over sentences, and that yoking's reliability, beside them."""
    if sentences is None or sentences.layers != runs.layers:
        return runs
    data = runs.data.drop_vars("yoking_step").drop_dims("position", errors="ignore").copy()
    yoked = sentences.data
    # a unit whose curve over sentences is not reliable is grey in the map of yoking
    kept = np.concatenate([sentences.reliable(layer) for layer in sentences.layers])
    data["yoking"] = ("unit", np.where(kept, yoked["yoking"].values, np.nan))
    data["yoking_step"] = yoked["yoking_step"]
    for name in ("morans_i", "null_mean", "null_sd", "z", "p_layout", "corrected"):
        values = np.array(runs.data[name].transpose("map", "layer_name").values)
        row = [str(one) for one in runs.data["map"].values].index("yoking")
        values[row] = yoked[name].sel(map="yoking").values
        data[name] = (("map", "layer_name"), values)
    return Integration(data)


def _stepped(family: Family) -> Integration | None:
    """Return the result whose steps at sentence starts are drawn."""
    for one in (*list(family.sentences.values())[:1], family.first):
        if np.isfinite(one.data["yoking_step"].values).any():
            return one
    return None


def _joined(family: Family) -> dict[str, Integration]:
    """Return the results of a family under the names by which they are drawn, yoking over sentences beside."""
    return family.named({role: _with_yoking(one, family.sentences.get(role)) for role, one in family.runs.items()})


def _lettered(part: Any, letters: Any) -> Any:
    panel_letter(part, next(letters))
    return part


def _morans(part: Any, family: Family) -> None:
    """Draw Moran's I of every map in every layer beside its layout null: model, twin and untrained self."""
    found = _joined(family)
    maps = [name for name in SHOWN if any(np.isfinite(one.data[name].values).any() for one in found.values())]
    axes = part.subplots(1, len(maps), squeeze=False)[0]
    integration_depth(found, axes, maps=maps, what="morans_i", legend=False)
    _tidy(part, axes)


def _depths(part: Any, families: Sequence[Family]) -> None:
    """Draw medians over depth, a row a family."""
    handles: dict[str, Any] = {}
    rows = part.subplots(len(families), len(SHOWN), squeeze=False)
    for number, (axes, family) in enumerate(zip(rows, families, strict=True)):
        found = _joined(family)
        maps = [name for name in SHOWN if any(np.isfinite(one.data[name].values).any() for one in found.values())]
        drawn = [ax for ax, name in zip(axes, SHOWN, strict=True) if name in maps]
        for ax, name in zip(axes, SHOWN, strict=True):
            if name not in maps:
                ax.set_axis_off()
        integration_depth(found, np.array(drawn, dtype=object), maps=maps, legend=False)
        drawn[0].set_ylabel(f"{family.name}\nmedian over units", fontsize=6.5)
        for ax in drawn:
            ax.set_title(ax.get_title() if number == 0 else "", fontsize=7, pad=3)
            ax.set_xlabel("layer" if number == len(families) - 1 else "", fontsize=7)
            found_handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
            handles |= {name: one for name, one in found_handles.items() if name not in handles}
    if FEW in handles:
        handles[FEW] = handles.pop(FEW)
    _name(part, handles)


def _tidy(part: Any, axes: np.ndarray) -> None:
    """Name what is drawn below a row of panels."""
    handles: dict[str, Any] = {}
    for ax in axes:
        handles |= {n: h for h, n in zip(*ax.get_legend_handles_labels(), strict=True) if n not in handles}
    _name(part, handles)


def _name(part: Any, handles: Mapping[str, Any]) -> None:
    part.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=min(5, len(handles)),
                fontsize=6.5, frameon=False, columnspacing=1.2)  # fmt: skip


def curves_of(families: Sequence[Family], shown: Family) -> list[Family]:
    """Return the families whose curves are drawn: the one with maps, and the first without a topographic model."""
    other = [one for one in families if one is not shown and "topographic" not in one.models]
    return [shown, *other[:1]]


def stream_of(result: Integration) -> list[str]:
    """Return the residual stream behind each block, all layers of a model without such."""
    return [layer for layer in result.layers if STREAM.fullmatch(layer)] or result.layers


def _curves(part: Any, families: Sequence[Family]) -> None:
    """Draw the curves of some layers, controls beside, a row a family; embeddings know no other word and have none."""
    handles: dict[str, Any] = {}
    rows = part.subplots(len(families), MOST_CURVES, sharey=True, squeeze=False)
    for number, (axes, family) in enumerate(zip(rows, families, strict=True)):
        found = family.named(family.runs)
        model = found.pop(family.name)
        layers = spaced([layer for layer in model.layers if layer != "embeddings"] or model.layers)
        controls = {name: one for name, one in found.items() if all(layer in one.layers for layer in layers)}
        integration_curves(model, axes[: len(layers)], layers=layers, controls=controls, legend=False)
        for ax in axes[len(layers) :]:
            ax.set_axis_off()
        for ax in axes[: len(layers)]:
            ax.set_ylabel("")
            ax.set_xlabel("lag (words)" if number == len(families) - 1 else "", fontsize=7)
            handles |= {n: h for h, n in zip(*ax.get_legend_handles_labels(), strict=True) if n not in handles}
        axes[0].set_ylabel(f"{family.name}\ninfluence, lag 0 = 1", fontsize=6.5)
    _name(part, handles)


def spaced(layers: Sequence[str]) -> list[str]:
    """Return some layers, the first and the last among them."""
    places = np.unique(np.linspace(0, len(layers) - 1, min(MOST_CURVES, len(layers))).round().astype(int))
    return [layers[place] for place in places]


def numbers_of(families: Sequence[Family]) -> pd.DataFrame:
    """Return every number of the figure: a row a family, role, layer and quantity."""
    rows: list[dict[str, Any]] = []
    for family in families:
        joined = {role: _with_yoking(one, family.sentences.get(role)) for role, one in family.runs.items()}
        for role, one in joined.items():
            lead = {"family": family.name, "role": role, "model": family.models[role].model}
            for layer, short in zip(one.layers, short_layers(one.layers), strict=True):
                where = {**lead, "layer": layer, "short": short}
                rows += [{**where, "part": "map", **_of_map(one, layer, name)} for name in SHOWN]
                rows += [{**where, "part": "curve", **row} for row in _of_curve(one, layer)]
                rows += [{**where, "part": "step", **row} for row in _of_steps(one, layer)]
    table = pd.DataFrame(rows)
    return table[table["median"].notna() | table["morans_i"].notna()].reset_index(drop=True)


def _of_map(one: Integration, layer: str, name: str) -> dict[str, Any]:
    values = one.values(layer, name)  # type: ignore[arg-type]
    known = values[np.isfinite(values)]
    ends = np.percentile(known, [25, 50, 75]) if known.size else np.full(3, np.nan)
    said = one.spatial(layer, name)
    return {
        "what": name, "median": ends[1], "low": ends[0], "high": ends[2], "share_known": known.size / values.size,
        **{key: said[key] for key in ("morans_i", "null_mean", "null_sd", "p_layout")},
    }  # fmt: skip


def _of_curve(one: Integration, layer: str) -> list[dict[str, Any]]:
    kept = one.reliable(layer)
    curves = one.curves(layer)[:, kept]
    if not curves.size:
        return []
    low, middle, high = np.nanpercentile(curves, [25, 50, 75], axis=1)
    return [
        {"what": "theta", "at": int(lag), "median": middle[i], "low": low[i], "high": high[i], "share_known": kept.mean(),
         "morans_i": np.nan}
        for i, lag in enumerate(one.lags)
    ]  # fmt: skip


def _of_steps(one: Integration, layer: str) -> list[dict[str, Any]]:
    steps = one.data["yoking_step"].sel(layer_name=layer).values
    return [
        {"what": "f", "at": position, "median": float(value), "morans_i": np.nan}
        for position, value in enumerate(steps)
        if np.isfinite(value)
    ]


def _caption(
    families: Sequence[Family],
    shown: Family,
    maps: Sequence[str],
    layer: str,
    mapped: bool,
    stepped: Integration | None,
) -> str:
    first = shown.first
    options, stimuli = (first.provenance.get(name, {}) for name in ("integrate", "stimuli"))
    rule = options.get("swap", {})
    rule = rule.get("rule", "") if isinstance(rule, Mapping) else rule
    said = [
        f"Integration windows{simulated_mark(any(one.first.simulated for one in families))}: every word of "
        f"{stimuli.get('n_stimuli', 0)} sequences ({stimuli.get('name', 'sequences')}) was swapped once (rule: {rule}); curves "
        "are medians over measured words of the mean absolute change, relative to a swap of the word itself; "
        "c (lag + 1)^-a + (1 - c) exp(-b lag) is fitted."
    ]
    letters = iter("abcde")
    if mapped:
        said.append(
            f"{next(letters)}: units of {shown.name}, layer {layer} (the middle one of those laid out), its twin and its "
            f"untrained self as far as there are such, on the same colour scales. {grey_words(first, maps)}. Under each map "
            "Moran's I over the known units and its layout null (mean and standard deviation with units in other places)."
        )
        said.append(
            f"{next(letters)}: Moran's I of every layer; grey: middle 95 % of the layout null (mean and 1.96 sd). Smooth maps "
            "need a layout that training decided: a twin's units lie in an arbitrary order, and so do those of the residual "
            "stream (embeddings, 0, 1, ...)."
        )
    if any(len(one.first.layers) > 1 for one in families):
        said.append(
            f"{next(letters)}: medians over the known units of each layer, bars from the lower to the upper quartile. Where a "
            "slow exponential carries the tail, c is the weight of what ends at once, near 1: long bars hold both kinds of units."
        )
    said.append(
        f"{next(letters)}: median curves over the units with a reliable curve, the middle half of them, and the fitted windows."
    )
    if stepped is not None:
        sentences = stepped.provenance.get("integrate", {}).get("sentence_words", 0)
        said.append(
            f"{next(letters)}: step of the mean influence from each word to the next in sequences of sentences of {sentences} "
            "words; its mean over first words from the second sentence on is the yoking index."
        )
    return " ".join(said)
