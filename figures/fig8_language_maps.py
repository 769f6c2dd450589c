"""Figure 8: language maps of a topographic model, its twin and its untrained self; their topography; what the units do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib import pyplot as plt

from figures.beside_nulls import ShownModel, beside_nulls, map_rows, models_of, numbers_of, panel_letter
from figures.style import PAGE_INCHES, Drawing, load_all
from topobrain.plot.style import CEILING, NULL, simulated_mark
from topobrain.selectivity import Profile, Selectivity
from topobrain.topography import DistanceCurve, Topography

VARIANTS = {"full": "full length", "tokens": "token-matched"}
MARKERS = {"full": "o", "tokens": "D"}
PLACES = {
    "sets": {"sentence": 0.0, "nonword": 1.0},
    "swjn": {"sentence": 2.6, "word_list": 3.6, "jabberwocky": 4.6, "nonword": 5.6},
}
"""Where each condition stands in a profile: of the localizer's left-out sets, and of the other stimuli."""
LETTERS = {"sentence": "S", "word_list": "W", "jabberwocky": "J", "nonword": "N"}
RANDOM = "as many random units, middle 95 %"


def draw(results: Path) -> Drawing | None:
    """Draw maps, topography beside its nulls, and response profiles, of every model in the folder."""
    models = models_of(results)
    found = {v: cast(dict[str, Selectivity], load_all(results, f"selectivity-{v}")) for v in VARIANTS}
    found = {v: one for v, one in found.items() if one}
    if not models or not found:
        return None
    topography = {v: cast(dict[str, Topography], load_all(results, f"topography-{v}")) for v in found}
    profiles = {
        (v, kind): cast(dict[str, Profile], load_all(results, f"{name}-{v}"))
        for v in found
        for kind, name in (("sets", "sets"), ("swjn", "profile"))
    }
    families = {
        family: [one for one in models if one.family == family] for family in dict.fromkeys(m.family for m in models)
    }
    name, pair = next(iter(families.items()))
    simulated = any(one.simulated for one in found["full"].values())
    layer = found["full"][pair[0].model].layers[-1]
    contrast = found["full"][pair[0].model].contrasts[0]
    heights = [1.85 * len(found) + 0.2, 2.2, 2.0]
    figure = plt.figure(figsize=(PAGE_INCHES, sum(heights)), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=heights)
    rows = [
        (VARIANTS[v], [(one.title if v == "full" else "", found[v][one.model], layer) for one in pair]) for v in found
    ]
    map_rows(top, rows, "sentences - nonword strings")
    top.suptitle(f"Language localizer{simulated_mark(simulated)}: {name}, layer {layer}", fontsize=8)
    panels = middle.subplots(1, len(families) + 1, width_ratios=[1.2, *([1.7] * (len(families) - 1)), 1.0])
    for ax, (family, members) in zip(panels[:-1], families.items(), strict=True):
        beside_nulls(ax, members, topography, "morans_i", contrast)
        ax.set_title(family, fontsize=7)
    panels[0].set_ylabel("Moran's I of the map", fontsize=7)
    _draw_curves(panels[-1], pair, cast(dict[str, DistanceCurve], load_all(results, "distance")), layer)
    drawn = {label: h for ax in panels[:-1] for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    middle.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=3, fontsize=6.5, frameon=False)
    places = bottom.subplots(1, len(models), squeeze=False)[0]
    for ax, one in zip(places, models, strict=True):
        _draw_profile(ax, {key: group[one.model] for key, group in profiles.items()}, one)
    places[0].set_ylabel("mean activation of\nselected units", fontsize=7)
    drawn = dict(zip(*reversed(places[0].get_legend_handles_labels()), strict=True))
    bottom.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=3, fontsize=6.5, frameon=False)
    for part, letter in zip((top, middle, bottom), "abc", strict=True):
        panel_letter(part, letter)
    named = {f"{variant}, {kind}": one for (variant, kind), one in profiles.items()}
    return Drawing(figure, numbers_of(models, found, topography, named), _caption(topography, profiles, simulated))


def _draw_curves(ax: Any, pair: Sequence[ShownModel], curves: Mapping[str, DistanceCurve], layer: str) -> None:
    """Draw how alike units respond at each distance, with the looks of the pair."""
    for row in pair:
        one = curves[row.model].data.sel(layer=layer)
        x, value, low, high = (one[name].values for name in ("distance", "value", "null_low", "null_high"))
        ax.fill_between(x, low, high, color=NULL, alpha=0.6, linewidth=0, zorder=1)
        ax.plot(x, value, color=row.look.colour, marker=row.look.marker, markerfacecolor=row.look.face, markersize=2.5,
                linewidth=0.9, zorder=3)  # fmt: skip
    ax.axhline(0, color=CEILING, linewidth=0.5, zorder=0)
    ax.set_xlabel("distance (grid steps)", fontsize=7)
    ax.set_ylabel("response correlation", fontsize=7)
    ax.set_title(f"responses, {layer}", fontsize=7)
    ax.tick_params(labelsize=6.5, length=2)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _draw_profile(ax: Any, profiles: Mapping[tuple[str, str], Profile], row: ShownModel) -> None:
    """Draw what one model's selected units do in stimuli that did not select them."""
    t = {}
    for number, ((variant, kind), one) in enumerate(profiles.items()):
        names = [name for name in PLACES[kind] if name in one.labels("condition").tolist()]
        index = [one.labels("condition").tolist().index(name) for name in names]
        columns = ("mean", "low", "high", "control_low", "control_high")
        mean, low, high, random_low, random_high = (one.data[name].values[index] for name in columns)
        shift = 0.0 if len(profiles) <= len(PLACES) else (-0.2 if variant == "full" else 0.2)
        x = np.array([PLACES[kind][name] for name in names]) + shift
        ax.bar(x, random_high - random_low, 0.36, bottom=random_low, color=NULL, linewidth=0, zorder=1,
               label=RANDOM if number == 0 else None)  # fmt: skip
        ax.errorbar(x, mean, yerr=[mean - low, high - mean], linestyle="none", marker=MARKERS[variant], markersize=3,
                    color=row.look.colour, markerfacecolor=row.look.face, elinewidth=0.8, zorder=3,
                    label=f"selected on the localizer, {VARIANTS[variant]}" if kind == "sets" else None)  # fmt: skip
        t[variant, kind] = float(np.mean(one.data["t"].values))
    every = {name: x for places in PLACES.values() for name, x in places.items()}
    ax.set_xticks([*PLACES["sets"].values(), *PLACES["swjn"].values()],
                  [LETTERS[name] for places in PLACES.values() for name in places], fontsize=6.5)  # fmt: skip
    ax.set_xlim(-0.6, max(every.values()) + 0.6)
    ax.axvline(1.8, color=CEILING, linewidth=0.5, linestyle=":")
    ax.axhline(0, color=CEILING, linewidth=0.5, zorder=0)
    ax.tick_params(labelsize=6, length=2)
    n = int(next(iter(profiles.values())).data["selected"].values[0].sum())
    shown = (
        "/".join(f"{t[key]:.1f}" for key in t if key[1] == "sets"),
        "/".join(f"{t[key]:.1f}" for key in t if key[1] == "swjn"),
    )
    head = row.title.replace(", ", "\n") + ("" if ", " in row.title else "\n")
    ax.set_title(f"{head} ({n} units)\nt {shown[0]} | {shown[1]}", fontsize=6.5)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _caption(
    topography: Mapping[str, Mapping[str, Topography]],
    profiles: Mapping[tuple[str, str], Mapping[str, Profile]], simulated: bool,
) -> str:  # fmt: skip
    any_topography = next(iter(next(iter(topography.values())).values()))
    fields = any_topography.provenance["topography"]
    first = next(iter(next(iter(profiles.values())).values()))
    return (
        f"Language localizer{simulated_mark(simulated)}. a: t of every unit for sentences minus nonword strings, one colour "
        "scale, the localizer in full and with nonword strings cut to as many tokens as the sentences have. b: Moran's I of "
        f"these maps in every mapped layer (F: full length, T: token-matched) beside {fields['n_null']:,} layout and label "
        "permutations, and the untrained selves. A value inside the label null says that random splits of the same stimuli "
        "give maps as patchy: the sheet is topographic, but not for this contrast in particular. Right: "
        "correlation of the units' responses to all stimuli at each distance. c: mean activation, with 95 % bootstrap "
        f"intervals over stimuli, of the top {first.provenance['profile']['top']:.0%} of units, selected on the localizer: "
        "left of the dotted line in sets of the localizer that were left out of the selection, right of it in other "
        "stimuli (S sentences, W word lists, J Jabberwocky, N nonword strings). Above: t of sentences minus nonword "
        "strings in the held-out stimuli, mean over folds"
        f"{', full length / token-matched' if len(topography) > 1 else ''}."
    )
