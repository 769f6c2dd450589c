"""Figure 13: what words, their surprisal and a language model predict of listeners to a story, beside what should fail."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from figures.beside_nulls import panel_letter
from figures.style import PAGE_INCHES, Drawing
from topobrain.encoding import Encoding
from topobrain.encoding.partition import TOTAL, Partition
from topobrain.plot import model_look, partition, short_layers
from topobrain.plot.scores import RAW, plain_axes, points
from topobrain.plot.style import CEILING, NULL, PALETTE, UNTRAINED, Look, null_bars, simulated_mark
from topobrain.results import load_result

RATE, BASELINE = "word rate", "rate, length, frequency"
MEAN, EACH = "mean of listeners", "each listener"
RIGHT, WRONG = "right onset", "wrong onset"
WORDS, NOTES = "words", "words, as in the notes"
BESIDE = 0.19
"""How far the listeners stand to the left, and their mean to the right, of a feature set's place."""

WORD_LOOK = Look(PALETTE[4], "v")
NOTES_LOOK = Look(PALETTE[1], "v")
UNTRAINED_LOOK = Look(UNTRAINED, "v")
WRONG_LOOK = Look(PALETTE[6], "x")

Scores = Mapping[tuple[str, str, str], Encoding]
"""(family, onset, target) -> result."""


class Shown(NamedTuple):
    """One feature set of panel a: its name, the family it is scored in, its layer there (None: the chosen one), its look."""

    title: str
    family: str
    layer: str | None
    look: Look


def draw(results: Path) -> Drawing | None:
    """Draw the results of `analyses/encode_alice.py`: the smaller regions, where a folder holds both sizes."""
    tables = sorted(results.glob("encode_alice_*.csv"), key=lambda path: (len(path.stem), path.stem))
    if not tables:
        return None
    table, size = pd.read_csv(tables[0]), tables[0].stem.removeprefix("encode_alice_")
    scores = scores_of(results, table, size)
    if (WORDS, RIGHT, MEAN) not in scores or (WORDS, RIGHT, EACH) not in scores:
        return None
    regions = scores[WORDS, RIGHT, MEAN].regions
    sets = feature_sets(scores)
    rows = -(-len(regions) // 3)
    parts = partition_of(results, size)
    heights = [1.7 * rows + 1.15, 2.9, *([1.9] if parts is not None else [])]
    figure = plt.figure(figsize=(PAGE_INCHES, sum(heights)), layout="constrained")
    top, bottom, *last = figure.subfigures(len(heights), 1, height_ratios=heights)
    axes = top.subplots(rows, min(3, len(regions)), sharex=True, sharey=True, squeeze=False)
    for number, (ax, region) in enumerate(zip(axes.ravel(), regions, strict=False)):
        _draw_region(ax, scores, sets, region)
        if number % 3:
            ax.set_ylabel("")
    for ax in axes.ravel()[len(regions) :]:
        ax.set_axis_off()
    handles = dict(zip(*reversed(axes[0, 0].get_legend_handles_labels()), strict=True))
    top.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=6.5, frameon=False)
    lines = bottom.subplots(2, 1, sharex=True)
    for ax, target in zip(lines, (MEAN, EACH), strict=True):
        _draw_gains(ax, table.query("target == @target and onset == @RIGHT"), regions)
        ax.set_ylabel(f"gain in r,\n{target}", fontsize=7)
    handles = dict(zip(*reversed(lines[0].get_legend_handles_labels()), strict=True))
    bottom.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=6.5, frameon=False)
    if parts is not None:
        ax = partition(parts, last[0].subplots(), components=[*parts.bands, TOTAL], legend=False, title=" ")
        ax.set_ylabel("held-out\nvariance ($R^2$)")
        ax.set_xlabel("")
        last[0].legend(
            *ax.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=6.5, frameon=False
        )
    for part, letter in zip((top, bottom, *last), "abc", strict=False):
        panel_letter(part, letter)
    simulated = any(one.simulated for one in scores.values())
    top.suptitle(f"Listening to a story: regions of {_spaced(size)}{simulated_mark(simulated)}", fontsize=9)
    return Drawing(figure, _numbers(table, scores, sets, parts), _caption(scores, size, parts, simulated))


def scores_of(results: Path, table: pd.DataFrame, size: str) -> dict[tuple[str, str, str], Encoding]:
    """Return the encoding results that a table was made from, by (family, onset, target)."""
    found = {}
    for row in table[["family", "onset", "target"]].drop_duplicates().itertuples(index=False):
        path = results / f"{'_'.join(_slug(part) for part in row)}_{size}.nc"
        if path.is_file():
            found[str(row[0]), str(row[1]), str(row[2])] = cast(Encoding, load_result(path))
    return found


def partition_of(results: Path, size: str) -> Partition | None:
    """Return the variance of the listeners' mean divided between words, surprisal and the model, if it was saved."""
    path = results / f"partition_{size}.nc"
    return cast(Partition, load_result(path)) if path.is_file() else None


def feature_sets(scores: Scores) -> list[Shown]:
    """Return what panel a shows, in order: words, surprisal on top, models on top."""
    shown = [Shown("word rate", WORDS, RATE, WORD_LOOK), Shown("+ length, frequency", WORDS, BASELINE, WORD_LOOK)]
    if (NOTES, RIGHT, MEAN) in scores:
        shown.append(Shown("the same, one penalty", NOTES, BASELINE, NOTES_LOOK))
    for layer in scores[WORDS, RIGHT, MEAN].layers:
        if layer.startswith(f"{BASELINE} + "):
            untrained = "untrained" in layer
            title = "+ surprisal, untrained" if untrained else "+ surprisal"
            shown.append(Shown(title, WORDS, layer, UNTRAINED_LOOK if untrained else WORD_LOOK))
    models = dict.fromkeys(family for family, _, _ in scores if family not in (WORDS, NOTES))
    for family in sorted(models, key=_is_untrained):
        title = "+ untrained model" if _is_untrained(family) else f"+ {family}"
        shown.append(Shown(title, family, None, _look_of(family)))
    return shown


def _draw_region(ax: Any, scores: Scores, sets: Iterable[Shown], region: str) -> None:
    """Draw every feature set in one region: listeners to the left, their mean to the right, wrong onset as crosses."""
    titles = []
    for x, one in enumerate(sets):
        titles.append(one.title)
        each, mean = (scores.get((one.family, RIGHT, target)) for target in (EACH, MEAN))
        first = x == 0
        if each is not None:
            values = np.sort(_listeners(each, one.layer, region))
            spread = 0.22 * (np.arange(len(values)) * 0.618 % 1 - 0.5)  # the golden section: neighbours lie apart
            ax.plot(x - BESIDE + spread, values, ".", color=NULL, markersize=2.5, zorder=1,
                    label="a listener" if first else None)  # fmt: skip
            points(ax, [x - BESIDE], _values(each, one.layer, region), one.look, markersize=3.5, markerfacecolor="white",
                   label="each listener predicted, mean" if first else None)  # fmt: skip
        if mean is not None:
            if one.layer is not None:
                low, high = (_region(mean, f"null_{end}", one.layer, region) for end in ("low", "high"))
                null_bars(ax, np.array([x + BESIDE]), low, high, 0.3, label="permuted, 95 %" if first else None)
            points(ax, [x + BESIDE], _values(mean, one.layer, region), one.look, markersize=5,
                   markerfacecolor=one.look.colour, label="mean of listeners predicted" if first else None)  # fmt: skip
        for target, shift in ((EACH, -BESIDE), (MEAN, BESIDE)):
            wrong = scores.get((one.family, WRONG, target))
            if wrong is not None:
                points(ax, [x + shift], _values(wrong, one.layer, region), WRONG_LOOK, markersize=3.5,
                       label="wrong onset" if first and target == EACH else None)  # fmt: skip
    for target, style in ((MEAN, "--"), (EACH, ":")):
        ceiling = _ceiling(scores[WORDS, RIGHT, target], region)
        if np.isfinite(ceiling):
            ax.axhline(ceiling, color=CEILING, linestyle=style, linewidth=1, label=f"noise ceiling, {target}")
    plain_axes(ax, RAW, "")
    ax.set_xticks(range(len(titles)), titles, rotation=30, ha="right", rotation_mode="anchor", fontsize=6.5)
    ax.set_title(region, fontsize=7, pad=3)


def _draw_gains(ax: Any, table: pd.DataFrame, regions: list[str]) -> None:
    """Draw what surprisal and each layer add to the word features, region by region."""
    gains = table[table["features"].str.startswith(f"{BASELINE} + ")]
    added = gains["features"].str.removeprefix(f"{BASELINE} + ")
    words = list(dict.fromkeys(added[gains["family"] == WORDS]))
    layers = list(dict.fromkeys(added[gains["family"] != WORDS]))
    width = len(words) + len(layers) + 2.5
    starts = width * np.arange(len(regions))
    columns = ("gain", "gain_low", "gain_high")
    for family in sorted(gains["family"].unique(), key=lambda name: (_is_untrained(name), name)):
        own = gains[gains["family"] == family].assign(added=added)
        if family == WORDS:
            for number, name in enumerate(words):
                rows = own[own["added"] == name].set_index("roi").loc[regions]
                look = UNTRAINED_LOOK if _is_untrained(name) else WORD_LOOK
                points(ax, starts + number, (rows[column] for column in columns), look, label=name)
                _stars(ax, starts + number, rows, look)
            continue
        name = "layers, untrained model" if _is_untrained(family) else f"layers of {family}"
        for start, region in zip(starts, regions, strict=True):
            rows = own[own["roi"] == region].set_index("added").loc[layers]
            points(ax, start + len(words) + 0.8 + np.arange(len(layers)), (rows[column] for column in columns),
                   _look_of(family), markersize=3, linestyle="-", label=name if region == regions[0] else None)  # fmt: skip
            _stars(ax, start + len(words) + 0.8 + np.arange(len(layers)), rows, _look_of(family))
    plain_axes(ax, "", "")
    ax.margins(y=0.12)
    ax.set_xlim(-1.2, starts[-1] + width - 1.3)
    ticks = [start + len(words) + 0.8 + place for start in starts for place in range(len(layers))]
    short = ["e" if name == "emb" else name for name in short_layers(layers)]
    ax.set_xticks(ticks, short * len(regions), fontsize=5.5)
    ax.tick_params(axis="x", length=1.5)
    for start, region in zip(starts, regions, strict=True):
        ax.annotate(region, (start + (width - 2.5) / 2 - 0.3, 1), xycoords=("data", "axes fraction"), xytext=(0, 2),
                    textcoords="offset points", ha="center", fontsize=7)  # fmt: skip
        if start:
            ax.axvline(start - 1.25, color=CEILING, linewidth=0.4, linestyle=":")


def _stars(ax: Any, x: np.ndarray, rows: pd.DataFrame, look: Look) -> None:
    """Mark gains that hold over listeners, beside the largest of the regions."""
    for place, top, p in zip(x, rows["gain_high"], rows["gain_p_max"], strict=True):
        if p < 0.05:
            ax.annotate("*", (place, top), xytext=(0, -1), textcoords="offset points", ha="center", fontsize=8,
                        color=look.colour)  # fmt: skip


def _is_untrained(name: str) -> bool:
    return "untrained" in name


def _look_of(family: str) -> Look:
    look = model_look(family.removesuffix(" untrained"))
    return look._replace(colour=UNTRAINED) if _is_untrained(family) else look


def _spaced(size: str) -> str:
    return size.replace("mm", " mm")


def _slug(text: str) -> str:
    """Return a name as `analyses/encode_alice.py` writes it into file names; that module would import torch."""
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def _region(result: Encoding, name: str, layer: str, region: str) -> np.ndarray:
    return np.array([result.data[f"region_{name}"].values[result.layers.index(layer), result.regions.index(region)]])


def _ceiling(result: Encoding, region: str) -> float:
    return float(result.data["region_ceiling"].values[result.regions.index(region)])


def _values(result: Encoding, layer: str | None, region: str) -> list[np.ndarray]:
    """Return r and its interval of a layer, or of the one chosen inside the training folds."""
    names = ("r", "low", "high")
    if layer is not None:
        return [_region(result, name, layer, region) for name in names]
    column = result.regions.index(region)
    return [result.data[f"best_{name}"].values[[column]] for name in names]


def _listeners(result: Encoding, layer: str | None, region: str) -> np.ndarray:
    """Return the score of every listener in a region, with a layer, or with the one chosen in each fold."""
    r = result.data["r"].values[:, :, result.labels("roi") == region]
    if layer is not None:
        return np.asarray(r[result.layers.index(layer)].mean(axis=0))
    chosen = result.data["best_layer"].values[:, result.regions.index(region)]
    if not all(str(name) in result.layers for name in chosen):
        return np.full(r.shape[2], np.nan)
    picked = [r[result.layers.index(str(name)), fold] for fold, name in enumerate(chosen)]
    return np.asarray(np.mean(picked, axis=0))


def _numbers(table: pd.DataFrame, scores: Scores, sets: Iterable[Shown], parts: Partition | None) -> pd.DataFrame:
    """Return the analysis' table, the chosen layers, the score of every listener, and the parts of variance."""
    frames = [table.assign(part="feature sets")]
    if parts is not None:
        divided = parts.summary().rename(columns={"part": "kind", "component": "features"})
        frames.append(divided.assign(part="partition", target=MEAN, onset=RIGHT))
    for (family, onset, target), one in scores.items():
        named = {"family": family, "onset": onset, "target": target}
        if family not in (WORDS, NOTES):
            frames.append(
                one.best().rename(columns={"layers": "features"}).assign(part="chosen in training folds", **named)
            )
    for shown in sets:
        each = scores.get((shown.family, RIGHT, EACH))
        named = {"family": shown.family, "onset": RIGHT, "target": EACH, "features": shown.layer or "chosen layer"}
        for region in each.regions if each is not None else []:
            assert each is not None
            who = each.labels("subject")[each.labels("roi") == region]
            listeners = pd.DataFrame({"r": _listeners(each, shown.layer, region), "listener": who})
            frames.append(listeners.assign(part="listeners", roi=region, **named))
    joined = pd.concat(frames, ignore_index=True)
    lead = ["part", "target", "onset", "family", "features", "roi"]
    return joined[[*lead, *(column for column in joined if column not in lead)]]


def _caption(scores: Scores, size: str, parts: Partition | None, simulated: bool) -> str:
    first, each = scores[WORDS, RIGHT, MEAN], scores[WORDS, RIGHT, EACH]
    options = first.provenance.get("encoding", {})
    n_listeners = len(set(each.labels("subject")))
    brain = first.provenance.get("responses", {}).get("name", "responses")
    divided = (
        f" c: held-out variance of the listeners' mean that only {', only '.join(parts.bands)} explains, and that all explain "
        "together, with a penalty each; it can be negative. c²: squared noise ceiling."
        if parts is not None
        else ""
    )
    same = (
        " The same, one penalty: as in the notes of the data set, with word counts that split off clitics."
        if (NOTES, RIGHT, MEAN) in scores
        else ""
    )
    return (
        f"Encoding of {brain}{simulated_mark(simulated)}: {n_listeners} listeners, {len(first.regions)} regions of "
        f"{_spaced(size)}, {first.data.sizes['stimulus']:,} volumes. a: held-out r of {options.get('n_folds')} "
        f"{options.get('folds')} folds, {options.get('gap', 0)} volumes dropped around each, of word rate, with word length and "
        "frequency, with surprisal, "
        "and of a language model: the layer, with or without the words' features, that the inner folds of each outer fold "
        "chose. Open markers: every listener predicted by himself (dots), and their mean; filled: the mean time course of all "
        f"listeners predicted. Bars: 95 % intervals, {options.get('n_bootstrap', 0):,} bootstrap draws over stretches of the "
        f"story. Grey bars: middle 95 % of {options.get('n_permutations', 0):,} circular shifts of the responses, fitted again "
        f"(seed {options.get('seed', 0)}). Crosses: the same features with the story begun at a wrong time, which must score "
        "about 0. Lines: noise ceilings. b: gain in r over word rate, length and frequency of surprisal and of every layer "
        "(its number below, e: embeddings) with them; intervals from paired draws; star: sign-flip test over listeners, "
        f"family-wise p over regions < .05.{same}{divided}"
    )
