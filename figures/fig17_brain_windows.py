"""Figure 17: how far back brain regions listen, as far as a recording can tell, beside the windows of model units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from figures.beside_nulls import panel_letter
from figures.fig16_integration_windows import Family, families_of
from figures.style import PAGE_INCHES, Drawing
from topobrain.integration.brain_kernels import CLOCKS, Clock
from topobrain.integration.brain_result import BrainWindows
from topobrain.integration.result import Integration
from topobrain.plot import brain_windows, short_layers
from topobrain.plot.brain_windows import LEGEND, UNITS, WidthAxis, null_of, region_of
from topobrain.plot.scores import plain_axes
from topobrain.plot.style import CEILING, PALETTE, UNTRAINED, Look, null_bars, simulated_mark
from topobrain.results import load_result

MEAN, EACH = "mean of listeners", "each listener"
SHAPES = {"fir": PALETTE[0], "spm": PALETTE[1], "glover": PALETTE[2]}
CALLED = {"fir": "response from delays (FIR)", "spm": "response assumed (SPM)", "glover": "response assumed (Glover)"}
NULL_LABEL = "if no memory were true, 95 %"
LEVEL = 0.05
ENDS = ("low", "median", "high")

MOST_LAYERS = 6
"""Layers of a model that are drawn, evenly spaced in depth."""

FEW = 0.5
"""Share of reliable units below which a layer is pale."""

PANEL_INCHES, GAIN_INCHES, REGION_INCHES, MODEL_INCHES = 1.6, 1.9, 0.34, 0.27


class Search(NamedTuple):
    """One search over windows: of whom, with which haemodynamic response."""

    target: str
    response: str
    found: BrainWindows

    @property
    def look(self) -> Look:
        """Colour of the response; see `face` for the target."""
        return Look(SHAPES.get(self.response, PALETTE[3]), "o" if self.target == MEAN else "s")

    @property
    def face(self) -> str:
        """Filled for the mean of listeners."""
        return self.look.colour if self.target == MEAN else "white"

    @property
    def label(self) -> str:
        """What it is called in the legend."""
        return f"{self.target}, {CALLED.get(self.response, self.response)}"


def draw(results: Path) -> Drawing | None:
    """Draw the saved windows of `analyses/map_brain_windows.py`: the smaller regions, where a folder holds both sizes.

    ``story.csv`` holds the time of a word; models.csv and ``integration_*.nc`` of `analyses/map_integration_windows.py` are
    drawn beside where they are in the folder.
    """
    searches, size = searches_of(results)
    if not searches:
        return None
    first = searches[0]
    families = families_of(results)
    s_per_word = time_of_a_word(results, first.found)
    widths = model_widths(families, s_per_word)
    max_lag = max((int(one.first.lags.max()) for one in families), default=0)
    regions = first.found.regions
    groups = sum(len(one.runs) for one in families)
    columns = min(3, len(regions))
    heights = [
        0.28, PANEL_INCHES * -(-len(regions) // columns) + 0.5, GAIN_INCHES + 0.35,
        REGION_INCHES * len(regions) + MODEL_INCHES * groups + 1.0,
    ]  # fmt: skip
    figure = plt.figure(figsize=(PAGE_INCHES, sum(heights)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    top, *parts = figure.subfigures(4, 1, height_ratios=heights)
    simulated = any(one.found.simulated for one in searches) or any(one.first.simulated for one in families)
    top.suptitle(
        f"Integration windows of brain regions ({size.replace('mm', ' mm')})" + simulated_mark(simulated), fontsize=9
    )
    for part, letter in zip(parts, "abc", strict=True):
        panel_letter(part, letter)
    _profiles(parts[0], first, columns)
    _gains(parts[1], searches)
    _widths(parts[2], searches, widths, families)
    return Drawing(
        figure, numbers_of(searches, widths), _caption(searches, size, s_per_word, max_lag, simulated=simulated)
    )


def searches_of(results: Path) -> tuple[list[Search], str]:
    """Return the searches of a folder, the mean of listeners first, and the size of the regions."""
    found: dict[str, list[Search]] = {}
    for path in results.glob("brain_windows_*.nc"):
        shape, target, size = path.stem.removeprefix("brain_windows_").split("_")
        one = cast(BrainWindows, load_result(path))
        found.setdefault(size, []).append(Search(target.replace("-", " "), shape, one))
    if not found:
        return [], ""
    size = min(found, key=lambda name: (len(name), name))
    known = [*SHAPES, *sorted({one.response for one in found[size]} - set(SHAPES))]
    return sorted(found[size], key=lambda one: (one.target != MEAN, known.index(one.response))), size


def time_of_a_word(results: Path, found: BrainWindows) -> float:
    """Return the story's mean time a word in seconds; without ``story.csv`` that of its median pace."""
    path = results / "story.csv"
    if path.is_file():
        return float(pd.read_csv(path)["mean_s"].iloc[0])
    return 1 / float(found.provenance["brain_windows"]["words_per_s"])


def model_widths(families: Sequence[Family], s_per_word: float) -> pd.DataFrame:
    """Return the half widths of every layer of every model, in words and in seconds: quartiles over reliable units.

    A unit whose curve never comes down to one half within the lags measured counts as wider than all others.
    """
    rows: list[dict[str, Any]] = []
    for family in families:
        for role, one in family.runs.items():
            for layer, short in zip(one.layers, short_layers(one.layers), strict=True):
                reliable = one.reliable(layer)
                known = one.values(layer, "width")[reliable]
                known = np.where(np.isnan(known), np.inf, known)
                ends = (
                    np.quantile(known, [0.25, 0.5, 0.75], method="inverted_cdf") if known.size else np.full(3, np.nan)
                )
                rows.append({
                    "family": family.name, "role": role, "model": family.models[role].model, "layer": layer, "short": short,
                    "layout": one.sheet(layer).has_layout, "share_reliable": reliable.mean(),
                    "share_beyond": np.isinf(known).mean() if known.size else np.nan,
                    **{f"{name}_words": value for name, value in zip(ENDS, ends, strict=True)},
                    **{f"{name}_seconds": value * s_per_word for name, value in zip(ENDS, ends, strict=True)},
                })  # fmt: skip
    return pd.DataFrame(rows)


def shown_layers(one: Integration) -> list[str]:
    """Return the layers of a model that are drawn: some, evenly spaced, without embeddings, which know no other word."""
    layers = [layer for layer in one.layers if layer != "embeddings"] or one.layers
    places = np.unique(np.linspace(0, len(layers) - 1, min(MOST_LAYERS, len(layers))).round().astype(int))
    return [layers[place] for place in places]


def _profiles(part: Any, first: Search, columns: int) -> None:
    """Draw each window's score in each region, over words."""
    regions = first.found.regions
    axes = part.subplots(-(-len(regions) // columns), columns, sharey=True, squeeze=False)
    for ax in axes.ravel()[len(regions) :]:
        ax.set_axis_off()
    brain_windows(first.found, axes.ravel()[: len(regions)], clock="words", legend=False)
    for number, ax in enumerate(axes.ravel()[: len(regions)]):
        if number % columns:
            ax.set_ylabel("")
        if number + columns < len(regions):
            ax.set_xlabel("")
    _name(part, [axes[0, 0]], 3, LEGEND)
    part.suptitle(f"{first.label}, windows over words", fontsize=7)


def _gains(part: Any, searches: Sequence[Search]) -> None:
    """Draw what choosing a window gains over no memory, in every search, beside its null."""
    axes = part.subplots(1, 2, sharey=True)
    regions = searches[0].found.regions
    step = 0.8 / len(searches)
    for ax, clock in zip(axes, CLOCKS, strict=True):
        for number, one in enumerate(searches):
            x = np.arange(len(regions)) + (number - (len(searches) - 1) / 2) * step
            gain, low, high, p = (
                np.array([region_of(one.found, roi, name, clock) for roi in one.found.regions])
                for name in ("gain", "gain_low", "gain_high", "p_max")
            )
            null = np.array([null_of(one.found, roi, clock, "gain", (0.025, 0.975)) for roi in one.found.regions]).T
            if np.isfinite(null).any():
                known = ax.get_legend_handles_labels()[1]
                null_bars(ax, x, null[0], null[1], 0.8 * step, label=None if NULL_LABEL in known else NULL_LABEL)
            ax.vlines(x, low, high, color=one.look.colour, linewidth=0.9, zorder=3)
            ax.plot(x, gain, linestyle="none", marker=one.look.marker, markersize=3.2, color=one.look.colour, zorder=4,
                    markerfacecolor=one.face, markeredgewidth=0.8, label=one.label)  # fmt: skip
            for place, top, value in zip(x, np.fmax(high, gain), p, strict=True):
                if value <= LEVEL:
                    ax.annotate("*", (place, top), xytext=(0, -1), textcoords="offset points", ha="center", fontsize=8,
                                color=one.look.colour)  # fmt: skip
        plain_axes(ax, "gain over no memory (r)" if clock == "words" else "", "")
        ax.set_xticks(range(len(regions)), regions, fontsize=6.5)
        ax.set_xlim(-0.55, len(regions) - 0.45)
        ax.set_title(f"windows over {clock}", fontsize=7, pad=3)
    _name(part, axes, 2)


def _widths(part: Any, searches: Sequence[Search], widths: pd.DataFrame, families: Sequence[Family]) -> None:
    """Draw half widths of regions and of model units on one axis, in words and in seconds."""
    axes = part.subplots(1, 2)
    regions = searches[0].found.regions
    shown = _model_rows(widths, families)
    labels = [*regions, *(label for label, *_ in shown)]
    sizes = [*[1.0] * len(regions), *[MODEL_INCHES / REGION_INCHES] * len(shown)]
    places = np.cumsum(sizes) - np.array(sizes) / 2
    for ax, clock in zip(axes, CLOCKS, strict=True):
        scale = _axis(searches, shown, clock)
        for number, one in enumerate(searches):
            shift = (number - (len(searches) - 1) / 2) * 0.78 / len(searches)
            for place, roi in zip(places, regions, strict=False):
                if roi not in one.found.regions:
                    continue
                ends = [region_of(one.found, roi, name, clock) for name in ("width", "width_low", "width_high")]
                _interval(ax, scale, place + shift, ends, one.look, one.face)
        for (_, rows, look, face), place in zip(shown, places[len(regions) :], strict=True):
            for number, row in enumerate(rows.to_dict("records")):
                shift = (number - (len(rows) - 1) / 2) * 0.62 / max(len(rows), 3)
                ends = [row[f"{name}_{clock}"] for name in ("median", "low", "high")]
                sure = row["share_reliable"] >= FEW
                _interval(ax, scale, place + shift, ends, look, face, alpha=1.0 if sure else 0.35)
        if shown:
            ax.axhline(len(regions), color=CEILING, linewidth=0.5)
        ax.set_ylim(sum(sizes) + 0.05, -0.05)
        ax.set_yticks(places, labels if clock == "words" else [], fontsize=6.5)
        ax.tick_params(axis="y", length=0)
        ax.axvline(scale.none, color=CEILING, linewidth=0.6, linestyle="--", zorder=0)
        ax.grid(axis="x", color="#E8E8E8", linewidth=0.5)
        ax.set_axisbelow(True)
        largest = float(2 ** (scale.end - 1))
        scale.name(ax, beyond=_beyond(shown), largest=largest)
        ax.set_xlabel(f"half width ({UNITS[clock]}); dashed: no memory", fontsize=7)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)


class ModelRow(NamedTuple):
    """One model: its name, the widths of its layers from first to last, and how it is drawn."""

    label: str
    widths: pd.DataFrame
    look: Look
    face: str


def _model_rows(widths: pd.DataFrame, families: Sequence[Family]) -> list[ModelRow]:
    found = []
    for family in families:
        for role, one in family.runs.items():
            shown = family.models[role]
            layers = shown_layers(one)
            own = widths.query("family == @family.name and role == @role").set_index("layer").loc[layers].reset_index()
            trained = role in ("topographic", "pretrained")
            name = family.name if trained else f"{role} self" if role == "untrained" else role
            label = f"{name},\n{len(layers)} layer{'s' * (len(layers) > 1)}" if trained else name
            face = "white" if role == "untrained" else shown.look.colour
            found.append(
                ModelRow(label, own, shown.look._replace(colour=UNTRAINED) if role == "untrained" else shown.look, face)
            )
    return found


def _beyond(shown: Sequence[ModelRow]) -> bool:
    return any(
        np.isinf(row.widths[["low_words", "median_words", "high_words"]].to_numpy(dtype=float)).any() for row in shown
    )


def _axis(searches: Sequence[Search], shown: Sequence[ModelRow], clock: Clock) -> WidthAxis:
    """Make an axis on which every region and layer has room."""
    every = [
        region_of(one.found, roi, name, clock)
        for one in searches
        for roi in one.found.regions
        for name in ("width", "width_low", "width_high")
    ]
    for row in shown:
        every += (
            row.widths[[f"{name}_{clock}" for name in ("low", "median", "high")]].to_numpy(dtype=float).ravel().tolist()
        )
    return WidthAxis.of(np.array(every), clock)


def _interval(
    ax: Any, scale: WidthAxis, y: float, ends: Sequence[float], look: Look, face: str, *, alpha: float = 1.0
) -> None:
    """Draw a width, its lower and its upper bound; what never comes down to one half stands at the right end."""
    half, low, high = ends
    if np.isnan(half):
        return
    value, *bounds = scale.place([np.nan if np.isinf(one) else one for one in ends])
    if np.isfinite(low) or np.isfinite(high):
        ax.hlines(y, *bounds, color=look.colour, linewidth=0.9, alpha=alpha, zorder=2)
    ax.plot([value], [y], marker=look.marker, markersize=3.2, color=look.colour, markerfacecolor=face, markeredgewidth=0.8,
            alpha=alpha, zorder=3)  # fmt: skip


def _name(part: Any, axes: Sequence[Any], columns: int, order: Sequence[str] = ()) -> None:
    handles: dict[str, Any] = {}
    for ax in axes:
        handles |= {n: h for h, n in zip(*ax.get_legend_handles_labels(), strict=True) if n not in handles}
    handles = {name: handles[name] for name in (order or handles) if name in handles}
    part.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns, fontsize=6.5,
                frameon=False, columnspacing=1.2)  # fmt: skip


def numbers_of(searches: Sequence[Search], widths: pd.DataFrame) -> pd.DataFrame:
    """Return every number of the figure: regions, their profiles, and the models' layers."""
    frames = []
    for one in searches:
        lead = {"target": one.target, "response": one.response}
        nulls = [_null_row(one.found, roi) for roi in one.found.regions]
        frames.append(one.found.summary().merge(pd.DataFrame(nulls), on="roi").assign(part="region", **lead))
        for roi in one.found.regions:
            for clock in CLOCKS:
                frames.append(one.found.profile(roi, clock).assign(part="profile", roi=roi, clock=clock, **lead))
    if len(widths):
        frames.append(widths.assign(part="model"))
    joined = pd.concat(frames, ignore_index=True)
    first = ["part", "target", "response", "roi"]
    return joined[[*first, *(name for name in joined if name not in first)]]


def _null_row(found: BrainWindows, roi: str) -> Mapping[str, Any]:
    row: dict[str, Any] = {"roi": roi}
    for clock in CLOCKS:
        ends = null_of(found, roi, clock, "gain", (0.025, 0.975))
        row |= {f"null_gain_low_{clock}": ends[0], f"null_gain_high_{clock}": ends[1]}
    return row


def _caption(searches: Sequence[Search], size: str, s_per_word: float, max_lag: int, *, simulated: bool) -> str:
    first = searches[0]
    options = first.found.provenance["brain_windows"]
    brain = first.found.provenance.get("name", "responses")
    features = " and ".join(options["features"])
    each = next((one for one in searches if one.target == EACH), None)
    n = "" if each is None else f" {len(set(each.found.labels('subject')))} listeners;"
    told = [
        f"Windows of brain regions ({size.replace('mm', ' mm')}) in {brain}{simulated_mark(simulated)}:{n} word {features} seen "
        "through windows c (lag + 1)^-a + (1 - c) exp(-b lag) over words, or over seconds, predict held-out volumes by ridge "
        f"regression ({options['n_folds']} contiguous folds with gaps of {options['gap']} volumes); word rate stands beside "
        "without a window.",
        f"a: {first.target}, haemodynamic response {first.response!r}: r of every window by its half width; dashed: without "
        "memory; cross: r of windows chosen inside the training folds, drawn at the width of the profile's highest point, with "
        "95 % intervals of its gain and of that width; grey: middle 95 % of the cross if no memory were true (fit without "
        f"memory, residuals shifted, {options['n_permutations']:,} times, the whole search repeated); dots: 95 % of the cross "
        "lies below if nothing were true. p: gain beside the largest of all regions.",
        "b: gain of chosen windows over no memory in every search, with 95 % intervals (filled: mean of listeners, drawn over "
        "stretches of the story; open: each listener, drawn over listeners) and null; star: family-wise p over regions <= .05. "
        "What delays of 0 to 12 s take over from a window does not count as gain.",
        "c: half widths of the highest window, 95 % over the same draws, from no memory on.",
    ]
    if max_lag:
        told.append(
            "Below the line model units over runs of natural words: medians over the reliable units of a layer, middle half as "
            "bars, layers from first (top) to last, embeddings left out, pale where fewer than half of the units are reliable; "
            f"beyond: not at one half within {max_lag} words. A unit without memory has a half width of .5 words. In seconds at "
            f"the story's mean time a word, {s_per_word:.3f} s, pauses included."
        )
    told.append(f"{options['n_bootstrap']:,} draws, seed {options['seed']}.")
    return " ".join(told)
