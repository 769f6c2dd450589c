"""Response profiles: what selected units do in each condition of held-out stimuli."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from topobrain._checks import InputError, unknown
from topobrain.plot.named_results import named_results
from topobrain.plot.style import (
    CEILING,
    COLUMN_INCHES,
    NULL_MEAN,
    PAGE_INCHES,
    Look,
    model_looks,
    null_bars,
    place_legend,
    simulated_mark,
)
from topobrain.selectivity import Profile
from topobrain.selectivity.profiles import BY_CONDITION

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def profiles(
    profile: Profile | Mapping[str, Profile] | Iterable[Profile],
    ax: Axes | None = None,
    *,
    conditions: Sequence[str] | None = None,
    legend: bool = True,
    title: str | None = None,
) -> Any:
    """Draw what selected units do in each condition, in stimuli that took no part in their selection.

    Parameters
    ----------
    profile
        From `topobrain.response_profile`: one result, several, or names of one's own and results.
    ax
        Where to draw; made if not given.
    conditions
        Conditions to draw, in this order; by default all, in the order of the stimuli.
    legend
        Name the models, with the number of units selected in each.
    title
        Title instead of the contrast's name.

    Returns
    -------
    Axes
        Markers: mean activation of the selected units. Lines: 95 % bootstrap interval over stimuli. Grey bars: as many
        random units of the same layers, middle 95 % of the draws, with their mean as a line.

    Raises
    ------
    InputError
        No profile, no conditions, infinite values.
    UnknownNameError
        A condition that was not measured.
    """
    import matplotlib.pyplot as plt

    results = named_results(profile, Profile)
    if conditions is None:
        names = list(dict.fromkeys(name for one in results.values() for name in one.labels("condition").tolist()))
    else:
        names = [conditions] if isinstance(conditions, str) else list(conditions)
    if not names:
        raise InputError("there is no condition to draw")
    for model, one in results.items():
        for name in names:
            if name not in one.labels("condition"):
                raise unknown(f"condition of {model!r}", name, one.labels("condition"))
        if np.isinf(one.data["mean"].values).any():
            raise InputError(f"the profile of {model!r} has infinite values, which no plot shows")
    own = ax is None
    if ax is None:
        wide = len(names) * len(results) > 12
        _, ax = plt.subplots(figsize=(PAGE_INCHES if wide else COLUMN_INCHES, 2.9), layout="constrained")
    places = np.arange(len(names))
    width = min(0.8 / len(results), 0.4)
    for (number, (model, one)), look in zip(enumerate(results.items()), model_looks(results).values(), strict=True):
        x = places + (number - (len(results) - 1) / 2) * width
        _draw(ax, x, 0.85 * width, one, names, model, look)
    ax.axhline(0, color=CEILING, linewidth=0.5, zorder=0)
    slanted = max(map(len, names)) * len(names) > 40
    ax.set_xticks(places, names, fontsize=7, rotation=30 if slanted else 0, ha="right" if slanted else "center")
    ax.set_xlim(-0.5, len(names) - 0.5)
    ax.tick_params(axis="y", labelsize=6.5)
    ax.set_ylabel("mean activation of selected units,\nheld-out stimuli", fontsize=7)
    ax.set_xlabel("condition", fontsize=7)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    contrasts = {str(one.provenance.get("profile", {}).get("contrast", {}).get("name", "")) for one in results.values()}
    head = title if title is not None else next(iter(contrasts)) if len(contrasts) == 1 else ""
    ax.set_title(head + simulated_mark(any(one.simulated for one in results.values())), fontsize=8)
    if legend:
        place_legend(ax, beside=own)
    return ax


def _draw(
    ax: Axes, x: np.ndarray, width: float, profile: Profile, names: Sequence[str], model: str, look: Look
) -> None:
    """Draw one model's conditions at their places."""
    rows = [profile.labels("condition").tolist().index(name) for name in names]
    mean, low, high, control, control_low, control_high = (profile.data[name].values[rows] for name in BY_CONDITION)
    if np.isfinite(control_low).any():
        label = "as many random units, middle 95 %"
        known = label in ax.get_legend_handles_labels()[1]
        null_bars(ax, x, control_low, control_high, width, label=None if known else label)
        ax.hlines(control, x - width / 2, x + width / 2, color=NULL_MEAN, linewidth=0.8, zorder=2)
    interval = np.stack([np.maximum(mean - low, 0), np.maximum(high - mean, 0)]) if np.isfinite(low).any() else None
    n = profile.data["selected"].values.sum(axis=1)
    units = f"{n.min()}" if n.min() == n.max() else f"{n.min()}-{n.max()}"
    ax.errorbar(
        x, mean, yerr=interval, linestyle="none", marker=look.marker, markersize=4.5, color=look.colour,
        markerfacecolor=look.face, elinewidth=1, capsize=2, zorder=3, label=f"{model}, {units} unit{'s' * (units != '1')}",
    )  # fmt: skip
