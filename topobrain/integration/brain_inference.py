"""What the scores of all windows say: the window chosen, its gain, how far both could wander, and what chance gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from topobrain.encoding.cross_validation import Design
from topobrain.integration.brain_kernels import CLOCKS, Clock, WindowKernels
from topobrain.integration.brain_search import Searched, fitted, search
from topobrain.stats.bootstrap import bootstrap_scores
from topobrain.stats.group_tests import percentile_interval
from topobrain.stats.time_series import run_slices

COLUMNS = 2**16
"""Shifted time courses searched at once: bounds the scores of a null to some hundred MB."""

VOXELS = 512
"""Voxels whose bootstrap draws are held at once."""

SUBJECTS = 5
"""Fewest subjects that a region's interval is drawn over; with fewer, stretches of time are drawn."""


@dataclass(frozen=True)
class Choosing:
    """Who chooses windows, and who is averaged.

    Attributes
    ----------
    windows, half
        Numbers of the windows of each clock, and the half widths of all windows there.
    roi
        Region number of each voxel.
    subject
        Subject number of each voxel.
    mean
        Weights (voxel, region) of a region's mean: over its subjects, of their means over voxels.
    together
        Whether the voxels of a region choose together.
    """

    windows: dict[Clock, np.ndarray]
    half: dict[Clock, np.ndarray]
    roi: np.ndarray
    subject: np.ndarray
    mean: np.ndarray
    together: bool

    @classmethod
    def of(
        cls,
        kernels: WindowKernels,
        roi: np.ndarray,
        subject: np.ndarray,
        n_regions: int,
        choose: Literal["roi", "voxel"],
    ) -> Choosing:
        """Number the subjects and weigh the voxels."""
        number = np.unique(subject.astype(str), return_inverse=True)[1]
        mean = np.zeros((len(roi), n_regions))
        for j in range(n_regions):
            there = roi == j
            size = np.bincount(number[there], minlength=number.max() + 1)
            mean[there, j] = 1 / (size[number[there]] * max(1, int((size > 0).sum())))
        windows, half = ({clock: of(clock) for clock in CLOCKS} for of in (kernels.of, kernels.half_of))
        return cls(windows, half, roi, number, mean, choose == "roi")

    def over_subjects(self, values: np.ndarray) -> np.ndarray:
        """Return means over each subject's voxels of a region (..., subject, region); NaN where there are none."""
        n_subjects, n_regions = self.subject.max() + 1, self.mean.shape[1]
        cell = np.zeros((len(self.roi), n_subjects * n_regions))
        cell[np.arange(len(self.roi)), self.subject * n_regions + self.roi] = 1.0
        size = cell.sum(axis=0)
        found = values @ (cell / np.where(size > 0, size, np.nan))
        return np.asarray(found.reshape(*values.shape[:-1], n_subjects, n_regions))

    def regional(self, values: np.ndarray) -> np.ndarray:
        """Return means (..., region) of values (..., voxel); NaN for a region without a usable voxel."""
        return np.asarray(np.where(self.mean.any(axis=0), values @ self.mean, np.nan))


class Outcome(NamedTuple):
    """What came of one clock's windows, each (permutation, voxel) but the last.

    Attributes
    ----------
    nested
        r of the windows chosen inside the training volumes.
    gain
        That less the r without memory.
    best
        The highest mean r of any window less the r without memory.
    region_best
        The same of the regions' mean profiles (permutation, region).
    chosen
        Number of the window chosen in each fold (fold, permutation, voxel).
    """

    nested: np.ndarray
    gain: np.ndarray
    best: np.ndarray
    region_best: np.ndarray
    chosen: np.ndarray


def outcomes(inner: np.ndarray, r: np.ndarray, choosing: Choosing) -> dict[Clock, Outcome]:
    """Choose windows from inner scores, and read their held-out scores; both (fold, kernel, permutation, voxel)."""
    found = {}
    judged = inner @ choosing.mean if choosing.together else inner
    profile = r.mean(axis=0)
    of_region = profile @ choosing.mean
    for clock, windows in choosing.windows.items():
        chosen = windows[judged[:, windows].argmax(axis=1)]
        if choosing.together:
            chosen = chosen[..., choosing.roi]
        nested = np.take_along_axis(r, chosen[:, None], axis=1)[:, 0].mean(axis=0)
        best = profile[windows].max(axis=0) - profile[0]
        region_best = of_region[windows].max(axis=0) - of_region[0]
        found[clock] = Outcome(nested, nested - profile[0], best, region_best, chosen)
    return found


class NullOutcome(NamedTuple):
    """The same under the nulls, each (permutation, voxel) or (permutation, region).

    Attributes
    ----------
    gain, best, region_best
        Where no memory is true.
    nested, delta
        Where nothing is; ``delta`` is the r without memory.
    """

    gain: np.ndarray
    best: np.ndarray
    region_best: np.ndarray
    nested: np.ndarray
    delta: np.ndarray


def shifted_rows(n_rows: int, runs: np.ndarray | None, n_permutations: int, seed: int) -> np.ndarray:
    """Return orders (permutation, row) in which each run is shifted round by a number of its own, from none to all but one.

    >>> shifted_rows(6, np.array([0, 0, 0, 0, 1, 1]), 2, seed=0).tolist()
    [[3, 0, 1, 2, 5, 4], [2, 3, 0, 1, 4, 5]]
    """
    rng = np.random.default_rng(seed)
    orders = np.tile(np.arange(n_rows), (n_permutations, 1))
    for part in run_slices(n_rows, runs):
        size = part.stop - part.start
        orders[:, part] = part.start + (np.arange(size) + rng.integers(0, size, size=(n_permutations, 1))) % size
    return orders


def null_outcomes(
    designs: Sequence[np.ndarray],
    Y: np.ndarray,
    splits: tuple[Any, Any, np.ndarray],
    fits: Searched,
    choosing: Choosing,
    runs: np.ndarray | None,
    n_permutations: int,
    seed: int,
) -> dict[Clock, NullOutcome]:
    """Repeat the whole search where no memory is true (the fit without it, its residuals shifted) and where nothing is.

    Parameters
    ----------
    designs, Y, splits
        As in `search`: outer splits, inner splits and penalties.
    fits
        The search on the true responses, which says what penalty the fit without memory takes.
    choosing
        Who chooses.
    runs
        Run of each row; each run is shifted round by a number of its own.
    n_permutations, seed
        Number of shifts, and where they come from. As in `permuted_rows`, the true order is one of them.
    """
    n_voxels = Y.shape[1]
    orders = shifted_rows(len(Y), runs, n_permutations, seed)
    penalty = splits[2][np.median(fits.penalty[:, 0], axis=0).astype(int)]
    kept = fitted(designs[0], Y, penalty)
    left = Y - kept
    batch = max(1, COLUMNS // (2 * n_voxels))
    made: list[dict[Clock, NullOutcome]] = []
    for start in range(0, n_permutations, batch):
        rows = orders[start : start + batch]
        # float32: a null is far wider than its rounding
        columns = np.concatenate(
            [*(kept + left[order] for order in rows), *(Y[order] for order in rows)], axis=1, dtype=np.float32
        )
        found = search(designs, columns, *splits)
        shape = (*found.r.shape[:2], 2, len(rows), n_voxels)
        inner, r = found.inner.reshape(shape), found.r.reshape(shape)
        no_memory = outcomes(inner[:, :, 0], r[:, :, 0], choosing)
        nothing = outcomes(inner[:, :, 1], r[:, :, 1], choosing)
        made.append(
            {
                clock: NullOutcome(one.gain, one.best, one.region_best, nothing[clock].nested, r[:, 0, 1].mean(axis=0))
                for clock, one in no_memory.items()
            }
        )
    if not made:
        voxels, regions = np.zeros((0, n_voxels)), np.zeros((0, choosing.mean.shape[1]))
        return {clock: NullOutcome(voxels, voxels, regions, voxels, voxels) for clock in CLOCKS}
    return {
        clock: NullOutcome(*(np.concatenate(arrays) for arrays in zip(*(one[clock] for one in made), strict=True)))
        for clock in CLOCKS
    }


class Interval(NamedTuple):
    """The middle 95 % of draws for one clock: bounds (2, voxel) and (2, region), NaN without draws."""

    gain: np.ndarray
    window: np.ndarray
    region_gain: np.ndarray
    region_window: np.ndarray


def bootstrap(
    fits: Searched,
    observed: dict[Clock, Outcome],
    Y: np.ndarray,
    design: Design,
    choosing: Choosing,
    n_bootstrap: int,
    seed: int,
) -> tuple[dict[Clock, Interval], str]:
    """Return how far gains and half widths wander: over stretches of time for voxels, over subjects for regions of several.

    Also returned is what regions were drawn over, ``"subjects"`` or ``"blocks of time"``.
    """
    several = choosing.subject.max() + 1 >= SUBJECTS
    over = "subjects" if several else "blocks of time"
    if not n_bootstrap:
        empty = np.full((2, Y.shape[1]), np.nan), np.full((2, choosing.mean.shape[1]), np.nan)
        return {clock: Interval(empty[0], empty[0], empty[1], empty[1]) for clock in CLOCKS}, over
    found = _over_time(fits, observed, Y, design, choosing, n_bootstrap, seed)
    if several:
        regions = _over_subjects(fits, observed, choosing, n_bootstrap, seed)
        found = {
            clock: one._replace(region_gain=regions[clock][0], region_window=regions[clock][1])
            for clock, one in found.items()
        }
    return found, over


def _bounds(draws: np.ndarray) -> np.ndarray:
    return np.stack(percentile_interval(draws))


def _over_time(
    fits: Searched,
    observed: dict[Clock, Outcome],
    Y: np.ndarray,
    design: Design,
    choosing: Choosing,
    n_bootstrap: int,
    seed: int,
) -> dict[Clock, Interval]:
    """Draw stretches of held-out volumes; windows chosen inside the training volumes stay, the profile's peak is found anew."""
    n_kernels, _, n_voxels = fits.prediction.shape
    n_regions = choosing.mean.shape[1]
    profile = np.zeros((n_kernels, n_bootstrap, n_regions))
    nested = {clock: np.zeros((n_bootstrap, n_regions)) for clock in CLOCKS}
    voxel: dict[Clock, dict[str, list[np.ndarray]]] = {clock: {"gain": [], "window": []} for clock in CLOCKS}
    for start in range(0, n_voxels, VOXELS):
        part = slice(start, start + VOXELS)
        target, weight = Y[:, part], choosing.mean[part]

        def drawn(prediction: np.ndarray, target: np.ndarray = target) -> np.ndarray:
            """Return mean r over folds (draw, voxel)."""
            scores = bootstrap_scores(
                prediction, target, design.outer, np.arange(target.shape[1]), n_regions=target.shape[1],
                n_bootstrap=n_bootstrap, blocks=design.blocks, seed=seed,
            )  # fmt: skip
            return np.asarray(scores.sums.mean(axis=0).T)

        each = np.stack([drawn(prediction[:, part]) for prediction in fits.prediction])
        profile += each @ weight
        for clock, windows in choosing.windows.items():
            mixed = np.full(target.shape, np.nan)
            chosen = observed[clock].chosen[:, 0, part]
            for fold, (_, test) in enumerate(design.outer):
                mixed[test] = np.take_along_axis(fits.prediction[:, test, part], chosen[fold][None, None], axis=0)[0]
            score = drawn(mixed)
            nested[clock] += score @ weight
            voxel[clock]["gain"].append(_bounds(score - each[0]))
            voxel[clock]["window"].append(_bounds(choosing.half[clock][windows[each[windows].argmax(axis=0)]]))
    found = {}
    for clock, windows in choosing.windows.items():
        peak = windows[profile[windows].argmax(axis=0)]
        found[clock] = Interval(
            np.concatenate(voxel[clock]["gain"], axis=1),
            np.concatenate(voxel[clock]["window"], axis=1),
            _bounds(nested[clock] - profile[0]),
            _bounds(choosing.half[clock][peak]),
        )
    return found


def _over_subjects(
    fits: Searched,
    observed: dict[Clock, Outcome],
    choosing: Choosing,
    n_bootstrap: int,
    seed: int,
) -> dict[Clock, tuple[np.ndarray, np.ndarray]]:
    """Draw subjects; those drawn choose the windows of each fold (where they choose together) and the profile's peak anew."""
    inner, r = (choosing.over_subjects(values) for values in (fits.inner, fits.r))
    there = np.isfinite(r[0, 0])
    n_subjects = len(there)
    counts = np.random.default_rng(seed).multinomial(n_subjects, np.full(n_subjects, 1 / n_subjects), size=n_bootstrap)
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = counts[:, :, None] * there  # (draw, subject, region)
        weight = weight / weight.sum(axis=1, keepdims=True)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.asarray(np.einsum("bsj,...sj->...bj", weight, np.where(there, values, 0.0)))

    judged, scores = mean(inner), mean(r)  # (fold, kernel, draw, region)
    profile = scores.mean(axis=0)
    found = {}
    for clock, windows in choosing.windows.items():
        if choosing.together:
            chosen = windows[judged[:, windows].argmax(axis=1)]
            gain = np.take_along_axis(scores, chosen[:, None], axis=1)[:, 0].mean(axis=0) - profile[0]
        else:
            gain = mean(choosing.over_subjects(observed[clock].gain)[0])
        drawn = choosing.half[clock][windows[profile[windows].argmax(axis=0)]]
        empty = np.isnan(profile[0])
        found[clock] = (_bounds(np.where(empty, np.nan, gain)), _bounds(np.where(empty, np.nan, drawn)))
    return found
