"""Parts of figures on maps: which model is which, maps on one scale, values beside their nulls, and their numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from topobrain.plot import model_looks, sheet, short_layers
from topobrain.plot.style import CEILING, NULL, NULL_MEAN, Look
from topobrain.selectivity import Profile, Selectivity
from topobrain.topography import Topography

LAYOUT = "layout null (units change places), middle 95 %"
LABELS = "label null (stimuli change sides), middle 95 %"
UNTRAINED_RANGE = "untrained selves, middle 95 %"
NULL_WIDTH = 0.75
GAP = 0.8
"""Space between the groups of a panel, in models."""

ROW_GAP = 0.06
"""Space between rows of maps, as a share of a row."""


class ShownModel(NamedTuple):
    """One model of a figure.

    Attributes
    ----------
    model
        Its name.
    role
        ``"topographic"``, ``"pretrained"``, ``"twin"`` or ``"untrained"``.
    family
        Name of the model it is compared with (its own, if it is the compared one).
    title
        What it is called in the figure.
    look
        Colour and marker.
    """

    model: str
    role: str
    family: str
    title: str
    look: Look


def models_of(results: Path) -> list[ShownModel]:
    """Return the models that a run's ``models.csv`` names, family by family, trained ones first; none without the file."""
    path = results / "models.csv"
    if not path.is_file():
        return []
    rows = pd.read_csv(path).to_dict("records")
    families = list(dict.fromkeys(row["family"] for row in rows))
    order = {"topographic": 0, "pretrained": 0, "twin": 1, "untrained": 2}
    rows.sort(key=lambda row: (families.index(row["family"]), order[row["role"]]))
    # A twin may have been trained under any name: it is drawn as the twin of its family.
    called = {"twin": "{}-control", "untrained": "{} (untrained)"}
    names = [called.get(row["role"], "{}").format(row["family"]) for row in rows]
    looks = model_looks(names)
    pairs = {row["family"] for row in rows if row["role"] == "topographic"}
    shown = []
    for row, name in zip(rows, names, strict=True):
        family, role = row["family"], row["role"]
        title = role if family in pairs else family if role == "pretrained" else f"{family}, {role}"
        shown.append(ShownModel(row["model"], role, family, title, looks[name]))
    return shown


def map_rows(part: Any, rows: Sequence[tuple[str, Sequence[tuple[str, Selectivity, str]]]], label: str) -> Any:
    """Draw rows of t-maps on one colour scale with one colour bar; return the axes (row, column).

    Parameters
    ----------
    part
        Figure or subfigure to fill.
    rows
        Name of each row, and title, t-maps and layer of its panels.
    label
        What t contrasts.
    """
    values = [np.abs(one.values(layer)) for _, panels in rows for _, one, layer in panels]
    limit = float(np.nanpercentile(np.concatenate(values), 99))
    axes = part.subplots(len(rows), len(rows[0][1]), squeeze=False)
    for line, (name, panels) in zip(axes, rows, strict=True):
        for ax, (title, one, layer) in zip(line, panels, strict=True):
            sheet(one, ax, layer=layer, limit=limit, colourbar=False, null="require", title=title)
        line[0].set_ylabel(name, fontsize=7)
    # The bar of grid steps hangs below its map, where the layout does not look.
    part.figure.get_layout_engine().set(hspace=ROW_GAP, h_pad=0.06)
    bar = part.colorbar(axes[0, 0].images[0], ax=axes, shrink=0.6, aspect=20, pad=0.01)
    bar.set_label(f"t, {label}\noutlined: q < .05 (dotted: t < 0)", fontsize=6.5)
    bar.ax.tick_params(labelsize=6.5)
    return axes


def beside_nulls(
    ax: Any,
    models: Sequence[ShownModel],
    found: Mapping[str, Mapping[str, Topography]],
    measure: str,
    contrast: str,
) -> None:
    """Draw a measure of every layer, variant and model beside its layout and label nulls.

    Parameters
    ----------
    ax
        Where to draw.
    models
        Of one family; the first is the one whose references the untrained selves are.
    found
        Variant -> model -> topography. Variants stand side by side, marked by the first letter of their names.
    measure, contrast
        What to draw.
    """
    values = next(iter(found.values()))[models[0].model].data["value"].sel(measure=measure, contrast=contrast)
    layers = [str(name) for name in values["layer"].values[np.isfinite(values.values)]]
    group = len(models) + GAP
    wide = len(found) * group + GAP
    ticks = {}
    for number, layer in enumerate(layers):
        for place, (variant, results) in enumerate(found.items()):
            start = number * wide + place * group
            ticks[start + (len(models) - 1) / 2] = variant[0].upper() if len(found) > 1 else ""
            for shift, one in enumerate(models):
                cell = {"measure": measure, "layer": layer, "contrast": contrast}
                _draw_value(ax, start + shift, results[one.model], cell, one)
                if one.role == "untrained":
                    _draw_range(ax, start + shift, results[models[0].model], cell)
    ax.axhline(0, color=CEILING, linewidth=0.5, zorder=0)
    ax.set_xticks(list(ticks), list(ticks.values()), fontsize=6)
    ax.tick_params(labelsize=6.5, length=2)
    for number, name in enumerate(short_layers(layers)):
        centre = number * wide + (len(found) * group - GAP - 1) / 2
        ax.annotate(name, (centre, 0), xycoords=("data", "axes fraction"), xytext=(0, -11 if len(found) > 1 else -4),
                    textcoords="offset points", ha="center", va="top", fontsize=6.5)  # fmt: skip
    ax.set_xlim(-1.2, len(layers) * wide - 0.9)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _draw_value(ax: Any, x: float, result: Topography, cell: Mapping[str, str], shown: ShownModel) -> None:
    known = ax.get_legend_handles_labels()[1]
    for null, label, style in (
        ("layout", LAYOUT, {"color": NULL, "linewidth": 0}),
        ("labels", LABELS, {"facecolor": "none", "edgecolor": NULL_MEAN, "linewidth": 0.7, "hatch": "/////"}),
    ):
        low, high = _ends(result, null, cell)
        if np.isfinite(low):
            ax.bar(x, high - low, NULL_WIDTH, bottom=low, zorder=1, label=None if label in known else label, **style)
    value = float(result.data["value"].sel(cell))
    ax.plot(x, value, linestyle="none", marker=shown.look.marker, markersize=4, color=shown.look.colour, zorder=4,
            markerfacecolor=shown.look.face, label=None if shown.title in known else shown.title)  # fmt: skip


def _draw_range(ax: Any, x: float, trained: Topography, cell: Mapping[str, str]) -> None:
    """Draw where the untrained selves lie, which the trained model was set beside, through the first one's marker."""
    low, high = _ends(trained, "untrained", cell)
    known = ax.get_legend_handles_labels()[1]
    if np.isfinite(low):
        label = None if UNTRAINED_RANGE in known else UNTRAINED_RANGE
        ax.vlines(x, low, high, color=CEILING, linewidth=0.8, zorder=3, label=label)


def _ends(result: Topography, null: str, cell: Mapping[str, str]) -> tuple[float, float]:
    if null not in result.nulls:
        return np.nan, np.nan
    said = result.beside(null).sel(cell)
    return float(said["null_low"]), float(said["null_high"])


def numbers_of(
    models: Sequence[ShownModel],
    selectivity: Mapping[str, Mapping[str, Selectivity]],
    topography: Mapping[str, Mapping[str, Topography]],
    profiles: Mapping[str, Mapping[str, Profile]],
) -> pd.DataFrame:
    """Return every number of a figure in one table: a row a value, or a value and a null.

    Parameters
    ----------
    models
        From `models_of`.
    selectivity, topography, profiles
        Variant -> model -> result.
    """
    frames = [
        table.assign(part=part, model=one.model, role=one.role, variant=variant)
        for one in models
        for part, variant, table in (
            *((p, v, t) for v, results in selectivity.items() for p, t in _of_maps(results[one.model])),
            *(("topography", v, results[one.model].summary().rename(columns={"measure": "what"}))
              for v, results in topography.items()),
            *(("profile", v, _of_profile(results[one.model])) for v, results in profiles.items()),
        )
    ]  # fmt: skip
    table = pd.concat(frames, ignore_index=True)
    first = ["part", "model", "role", "variant", "layer", "what", "value", "value_low", "value_high", "null"]
    return table[[*first, *(name for name in table if name not in first)]]


def _of_maps(result: Selectivity) -> Iterator[tuple[str, pd.DataFrame]]:
    summary = result.summary()
    for name in ("n_units", "n_selective", "n_opposite", "max_t"):
        yield "t", summary[["layer"]].assign(what=name, value=summary[name].astype(float))


def _of_profile(result: Profile) -> pd.DataFrame:
    columns = {"condition": "what", "response": "value", "low": "value_low", "high": "value_high"}
    nulls = {"random_units": "null_mean", "random_low": "null_low", "random_high": "null_high"}
    return result.summary().rename(columns={**columns, **nulls}).assign(null="random units")


def panel_letter(part: Any, letter: str) -> None:
    """Write a bold letter into the upper left corner of a part of a figure."""
    part.text(0.004, 0.985, letter, fontsize=9, fontweight="bold", ha="left", va="top")
