"""Windows of brain regions: what each window predicts, what choosing one gains over no memory, and how far its width wanders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from topobrain._checks import InputError, require_choice, unknown
from topobrain.integration.brain_kernels import CLOCKS, Clock
from topobrain.integration.brain_result import BrainWindows, variable
from topobrain.plot.scores import RAW, plain_axes
from topobrain.plot.style import CEILING, COLUMN_INCHES, NULL, PAGE_INCHES, PALETTE, place_legend, simulated_mark

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UNITS = {"words": "words", "seconds": "s"}
FORM_MARKERS = {"exponential": "o", "power law": "^", "mixture": "s"}
PROFILE_COLOUR, CHOSEN_COLOUR = PALETTE[0], PALETTE[4]
NO_MEMORY = "without memory"
NO_MEMORY_NULL = "the same, if no memory were true, 95 %"
NOTHING_NULL = "the same, if nothing were true, 95 % below"
CHOSEN = "chosen in training folds, gain and width 95 %"
LEGEND = (*FORM_MARKERS, NO_MEMORY, CHOSEN, NO_MEMORY_NULL, NOTHING_NULL)
BEYOND = "beyond"
"""Tick of windows that never come down to one half within their reach."""

WORD_TICKS = (0.5, 1, 2, 4, 8, 16, 32, 64, 128)
SECOND_TICKS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)
PANEL_INCHES = 1.9


class WidthAxis(NamedTuple):
    """Where half widths stand: on a scale of octaves, the window without memory at ``none``, those without end at ``end``."""

    none: float
    end: float
    clock: Clock

    @classmethod
    def of(cls, half: np.ndarray, clock: Clock) -> WidthAxis:
        """Make room for these half widths."""
        known = half[np.isfinite(half) & (half > 0)]
        logs = np.log2(known) if known.size else np.zeros(1)
        # over words the window without memory has a half width of its own, .5; over seconds it has none
        none = -1.0 if clock == "words" else float(logs.min()) - 1.0
        return cls(min(none, float(logs.min())), float(logs.max()) + 1.0, clock)

    def place(self, half: Any) -> np.ndarray:
        """Return places of half widths; NaN (never at one half) stands beyond the last."""
        values = np.atleast_1d(np.asarray(half, dtype=float))
        inside = np.isfinite(values) & (values > 0)
        found = np.where(np.isnan(values), self.end, self.none)
        found[inside] = np.log2(values[inside])
        return found

    def name(self, ax: Axes, *, beyond: bool, largest: float) -> None:
        """Give an axis ticks in words or seconds, as many as there is room for."""
        ticks = np.array(WORD_TICKS if self.clock == "words" else SECOND_TICKS)
        clear = 0.0 if self.clock == "words" else 0.9  # of the 0 of the window without memory
        ticks = ticks[(np.log2(ticks) >= self.none + clear) & (ticks <= largest)]
        room = ax.bbox.width / ax.figure.dpi
        ticks = ticks[:: max(1, int(np.ceil(0.2 * (len(ticks) + 2) / room)))]
        places, names = np.log2(ticks).tolist(), [f"{one:g}".lstrip("0") for one in ticks]
        if self.clock == "seconds":
            places, names = [self.none, *places], ["0", *names]
        if beyond:
            places, names = [*places, self.end], [*names, BEYOND]
        ax.set_xticks(places, names, fontsize=6.5)
        ax.set_xlim(self.none - 0.5, (self.end if beyond else np.log2(largest)) + 0.5)


def brain_windows(
    result: BrainWindows,
    ax: Axes | np.ndarray | None = None,
    *,
    clock: Clock = "words",
    rois: Sequence[str] | str | None = None,
    legend: bool = True,
    title: str | None = None,
    width: float | None = None,
) -> Any:
    """Draw how well each window predicts each region, and whether choosing one beats having no memory.

    Parameters
    ----------
    result
        From `topobrain.brain_windows`.
    ax
        Where to draw: one Axes for one region, or one a region. Made if not given.
    clock
        Windows over ``"words"`` or over ``"seconds"``.
    rois
        Regions to draw (default: all).
    legend
        Name what is drawn.
    title
        Title of the figure, or of the panel if there is but one.
    width
        Width of the figure in inches: 3.5 (a column) up to two regions, 7.2 (a page) beyond.

    Returns
    -------
    Axes, or an array of them (one a region)
        Small markers: mean held-out r with each window (the profile), by its half width; the highest of them is a choice made
        on the scores themselves. Dashes: r without memory. Cross: r of windows chosen inside the training folds, at the width
        of the profile's highest point; its bars are the 95 % intervals of the gain over no memory and of that width. Grey
        band: where the cross would lie, 95 %, if no memory were true; dots: 95 % below, if nothing were. Above: the gain with
        its p beside the largest of all regions.

    Raises
    ------
    InputError
        Another kind of result, another number of axes, a region drawn twice.
    UnknownNameError
        A region or clock that is not there.
    """
    if not isinstance(result, BrainWindows):
        raise InputError(
            f"plot.brain_windows draws windows of brain regions (brain_windows), got {type(result).__name__}"
        )
    require_choice("clock", clock, CLOCKS)
    shown = _chosen_regions(result, rois)
    axes = _axes(ax, len(shown), width)
    profiles = {roi: result.profile(roi, clock) for roi in shown}
    half = profiles[shown[0]]["half"].to_numpy(dtype=float)
    scale = WidthAxis.of(half[1:] if clock == "seconds" else half, clock)
    known = half[np.isfinite(half) & (half > 0)]
    for number, (panel, roi) in enumerate(zip(axes, shown, strict=True)):
        _region(panel, result, roi, clock, scale)
        plain_axes(panel, RAW, f"half width of the window ({UNITS[clock]})")
        scale.name(panel, beyond=bool(np.isnan(half).any()), largest=float(known.max(initial=1.0)))
        head = title if title is not None and len(shown) == 1 else roi
        panel.set_title(f"{head}{simulated_mark(result.simulated and len(shown) == 1)}\n{_said(result, roi, clock)}",
                        fontsize=7, pad=3)  # fmt: skip
        if ax is None and number % _columns(axes):
            panel.set_ylabel("")
        if ax is None and number + _columns(axes) < len(shown):
            panel.set_xlabel("")
    if ax is None and len(shown) > 1:
        mark = simulated_mark(result.simulated)
        if title or mark:
            axes[0].figure.suptitle(((title or "") + mark).strip(), fontsize=8)
    if legend:
        _legend(axes, own=ax is None)
    return axes[0] if len(axes) == 1 else axes


def _chosen_regions(result: BrainWindows, rois: Sequence[str] | str | None) -> list[str]:
    chosen = result.regions if rois is None else [rois] if isinstance(rois, str) else list(rois)
    for one in chosen:
        if one not in result.regions:
            raise unknown("ROI", one, result.regions)
    if not chosen or len(set(chosen)) < len(chosen):
        raise InputError(f"each region is drawn once, and at least one; got {chosen}")
    return chosen


def _axes(ax: Axes | np.ndarray | None, n: int, width: float | None) -> np.ndarray:
    """Return one Axes a region: those given, checked, or those of a new figure."""
    import matplotlib.pyplot as plt

    if ax is not None:
        axes = np.ravel(np.asarray(ax, dtype=object))
        if len(axes) != n:
            raise InputError(f"{len(axes)} axes for {n} regions: give one each, or name fewer")
        return axes
    wide = width or (COLUMN_INCHES if n <= 2 else PAGE_INCHES)
    columns = min(n, max(1, int(wide / 1.7)), 3 if n % 4 else 4)
    rows = -(-n // columns)
    figure, every = plt.subplots(rows, columns, figsize=(wide, PANEL_INCHES * rows + 0.6), squeeze=False,
                                 layout="constrained", sharey=True)  # fmt: skip
    for unused in every.ravel()[n:]:
        unused.set_axis_off()
    figure.get_layout_engine().set(w_pad=0.03)
    return np.asarray(every.ravel()[:n])


def _legend(axes: np.ndarray, *, own: bool) -> None:
    """Name what is drawn, each form of window once."""
    if not own:
        place_legend(axes[0], beside=False)
        return
    handles: dict[str, Any] = {}
    for panel in axes:
        handles |= {n: h for h, n in zip(*panel.get_legend_handles_labels(), strict=True) if n not in handles}
    handles = {name: handles[name] for name in LEGEND if name in handles}
    figure = axes[0].figure
    wide = figure.bbox.width / figure.dpi > 5
    figure.legend(list(handles.values()), list(handles), fontsize=6.5, frameon=False, columnspacing=1.0,
                  ncols=3 if wide else 1, loc="outside lower center")  # fmt: skip


def _columns(axes: np.ndarray) -> int:
    spec = axes[0].get_subplotspec()
    return int(spec.get_gridspec().ncols) if spec is not None else 1


def region_of(result: BrainWindows, roi: str, name: str, clock: Clock) -> float:
    """Return what is known of a region for one clock (a name of ``OF_CLOCK``, or ``"p_max"``)."""
    named = ("p_max" if clock == "words" else "p_max_seconds") if name == "p_max" else variable(name, clock)
    return float(result.data[f"region_{named}"].values[result.regions.index(roi)])


def null_of(result: BrainWindows, roi: str, clock: Clock, name: str, quantiles: Sequence[float]) -> np.ndarray:
    """Return quantiles of a region's null (``"gain"`` or ``"r"``); NaN where none was drawn."""
    drawn = result.data[f"region_null_{name}"].sel(clock=clock, region=roi).values
    drawn = drawn[np.isfinite(drawn)]
    return np.quantile(drawn, quantiles) if drawn.size else np.full(len(quantiles), np.nan)


def _said(result: BrainWindows, roi: str, clock: Clock) -> str:
    gain, p = (region_of(result, roi, name, clock) for name in ("gain", "p_max"))
    if not np.isfinite(gain):
        return "no voxel can be scored"
    said = f"gain {_plain(gain)}"
    return f"{said}, p {_plain(p)}" if np.isfinite(p) else said


def _plain(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1).replace("1.000", "1")


def _form(row: Any) -> str:
    return "exponential" if row.c == 0 else "power law" if row.c == 1 else "mixture"


def _region(ax: Axes, result: BrainWindows, roi: str, clock: Clock, scale: WidthAxis) -> None:
    """Draw one region."""
    profile = result.profile(roi, clock)
    delta = float(result.data["region_r_delta"].values[result.regions.index(roi)])
    if not np.isfinite(delta):
        return
    low, high = null_of(result, roi, clock, "gain", (0.025, 0.975))
    if np.isfinite(low):
        ax.axhspan(delta + low, delta + high, color=NULL, alpha=0.45, linewidth=0, zorder=0, label=NO_MEMORY_NULL)
    (nothing,) = null_of(result, roi, clock, "r", (0.95,))
    if np.isfinite(nothing):
        ax.axhline(nothing, color=CEILING, linestyle=":", linewidth=0.9, zorder=1, label=NOTHING_NULL)
    ax.axhline(delta, color=CEILING, linestyle="--", linewidth=0.8, zorder=1, label=NO_MEMORY)
    forms = np.array([_form(row) for row in profile.itertuples()])
    x = scale.place(profile["half"])
    x[0] = scale.none
    for form, marker in FORM_MARKERS.items():
        rows = np.flatnonzero(forms == form)
        if rows.size:
            ax.plot(x[rows], profile["r"].to_numpy()[rows], marker=marker, markersize=3.2, color=PROFILE_COLOUR,
                    linewidth=0.7 if form == "exponential" else 0, markeredgewidth=0.7, zorder=3,
                    markerfacecolor=PROFILE_COLOUR if form == "exponential" else "white", label=form)  # fmt: skip
    _cross(ax, result, roi, clock, scale, delta)


def _cross(ax: Axes, result: BrainWindows, roi: str, clock: Clock, scale: WidthAxis, delta: float) -> None:
    """Draw the nested choice at the width of the profile's highest point."""
    names = ("r_nested", "gain_low", "gain_high", "width", "width_low", "width_high")
    nested, gain_low, gain_high, half, low, high = (region_of(result, roi, name, clock) for name in names)
    if not np.isfinite(nested):
        return
    x = float(scale.place(half)[0])
    if np.isfinite(gain_low):
        ax.vlines(x, delta + gain_low, delta + gain_high, color=CHOSEN_COLOUR, linewidth=1.1, zorder=4)
    if np.isfinite(low) or np.isfinite(high):
        ends = scale.place([low, high])
        ax.hlines(nested, ends[0], ends[1], color=CHOSEN_COLOUR, linewidth=1.1, zorder=4)
    ax.plot([x], [nested], linestyle="none", marker="X", markersize=5.5, color=CHOSEN_COLOUR, markeredgecolor="white",
            markeredgewidth=0.5, zorder=5, label=CHOSEN)  # fmt: skip
