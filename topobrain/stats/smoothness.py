"""Smoothness: how a pairwise quantity of units changes with their distance on the sheet, as a curve and as one number."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from topobrain._checks import InputError
from topobrain.stats.generic_topography import Distances, response_correlation
from topobrain.stats.layout import Layout
from topobrain.stats.nulls import layout_permutations

N_BINS = 20
"""Bins of a distance curve, as in TDANN's library; fewer on small sheets."""

NARROWEST = 0.6
"""Width, in grid steps, from which on no bin of a grid is empty: 2, sqrt(5) and sqrt(8) are 0.24 and 0.59 apart. A curve is
cut at its first empty bin, so narrower bins would measure the nearest neighbours only."""


@dataclass(frozen=True)
class DistanceBins:
    """Equal bins of distance: what a curve and its smoothness depend on, so record them with the value.

    Parameters
    ----------
    low, high
        Limits, in the length unit of the sheet. A bin holds its lower edge; the last one holds ``high`` too.
    n_bins
        Number of bins.

    Examples
    --------
    >>> DistanceBins(0.0, 6.0, 3).edges.tolist(), DistanceBins(0.0, 6.0, 3).centres.tolist()
    ([0.0, 2.0, 4.0, 6.0], [1.0, 3.0, 5.0])
    """

    low: float
    high: float
    n_bins: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and 0 <= self.low < self.high):
            raise InputError(f"distance bins need lengths 0 <= low < high, got low {self.low} and high {self.high}")
        if self.n_bins < 2:
            raise InputError(f"a curve needs at least two bins of distance, got {self.n_bins}")

    @property
    def edges(self) -> np.ndarray:
        """Edges (n_bins + 1,)."""
        return np.linspace(self.low, self.high, self.n_bins + 1)

    @property
    def centres(self) -> np.ndarray:
        """Middle of each bin (n_bins,)."""
        return np.asarray((self.edges[:-1] + self.edges[1:]) / 2)

    def index(self, distance: np.ndarray) -> np.ndarray:
        """Return the bin of each distance, -1 outside the limits."""
        width = (self.high - self.low) / self.n_bins
        place = (distance - self.low) / width
        found = np.floor(place + 1e-9).astype(np.int64)  # a distance that equals an edge up to rounding is on it
        found[(place >= self.n_bins - 1e-9) & (place <= self.n_bins + 1e-9)] = self.n_bins - 1
        found[(found < 0) | (found >= self.n_bins)] = -1
        return found


class Curve(NamedTuple):
    """Mean of a pairwise quantity at each distance.

    Attributes
    ----------
    distance
        Centre of each bin (bin,), in the length unit of the sheet.
    value
        Mean over the pairs of units in the bin, (bin,) or (map, bin); NaN in a bin without pairs.
    n_pairs
        Pairs behind each mean, shape of ``value``.
    """

    distance: np.ndarray
    value: np.ndarray
    n_pairs: np.ndarray


def distance_bins(
    sheet: Distances, *, n_bins: int | None = None, low: float | None = None, high: float | None = None
) -> DistanceBins:
    """Return equal bins of distance for a sheet.

    By default there are 20, on a small sheet as many as are 0.6 grid steps wide, and they run from the spacing of the
    sheet (the distance of neighbours) to half its shorter side: [1, 14] on 28 x 28. Farther apart an open sheet has few
    pairs, all of them across its corners, and a torus has no distances in some directions. On a surface, and on a sheet
    narrower than four rows, they run from the smallest distance to half the largest. TDANN's own: ``low=0, high=60``
    (mm). The choice moves the smoothness by 0.1 to 0.15.

    Parameters
    ----------
    sheet
        Places of the units.
    n_bins
        Number of bins, instead of the default one.
    low, high
        Limits in the sheet's length unit, instead of the default ones.

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> [distance_bins(Sheet.grid(side, side)) for side in (28, 10)]
    [DistanceBins(low=1.0, high=14.0, n_bins=20), DistanceBins(low=1.0, high=5.0, n_bins=6)]
    """
    if low is None or high is None:
        if isinstance(sheet, Layout) and min(sheet.height, sheet.width) >= 4:
            nearest, half = sheet.spacing, min(sheet.height, sheet.width) * sheet.spacing / 2
        else:
            distance = sheet.distances()
            apart = distance[distance > 0]
            if apart.size == 0:
                raise InputError(f"{sheet.n_units} unit(s) have no distances between them")
            nearest, half = float(apart.min()), max(float(apart.max()) / 2, 2 * float(apart.min()))
        low, high = nearest if low is None else low, half if high is None else high
    if n_bins is None:
        fitting = (high - low) / (NARROWEST * sheet.spacing) if isinstance(sheet, Layout) else math.inf
        n_bins = int(max(2.0, min(fitting + 1e-9, N_BINS)))
    return DistanceBins(float(low), float(high), n_bins)


def distance_curve(
    similarity: Float[np.ndarray, "unit unit"], sheet: Distances, *, bins: DistanceBins | None = None
) -> Curve:
    """How does a pairwise quantity of units change with their distance?

    Parameters
    ----------
    similarity
        Symmetric matrix (unit, unit); the diagonal is not used, pairs that are NaN leave.
    sheet
        Places of the units.
    bins
        Bins of distance; None takes `distance_bins` of the sheet.

    Returns
    -------
    Curve
        ``value`` and ``n_pairs`` (bin,).

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> sheet = Sheet.grid(5, 5)
    >>> curve = distance_curve(-sheet.distances(), sheet, bins=DistanceBins(1.0, 3.0, 2))
    >>> curve.distance.tolist(), curve.value.round(2).tolist(), curve.n_pairs.tolist()
    ([1.5, 2.5], [-1.18, -2.4], [72, 116])
    """
    matrix, pairs = _checked_similarity(similarity, sheet), _BinnedPairs.of(sheet, bins)
    return pairs.curve(matrix[pairs.first, pairs.second])


def distance_curve_null(
    similarity: Float[np.ndarray, "unit unit"],
    sheet: Distances,
    *,
    n_null: int,
    seed: int = 0,
    bins: DistanceBins | None = None,
) -> Float[np.ndarray, "null bin"]:
    """Return the curve of `distance_curve` with the units' places permuted, once a draw: its null band.

    Units without any value stay where they are. Its mean over draws is the chance level by which TDANN divides curves.

    Parameters
    ----------
    similarity, sheet, bins
        As for `distance_curve`.
    n_null, seed
        Number of permutations, and their seed.
    """
    matrix = _checked_similarity(similarity, sheet)
    off_diagonal = ~np.eye(len(matrix), dtype=bool)
    keep = np.flatnonzero((np.isfinite(matrix) & off_diagonal).any(axis=1))
    pairs = _BinnedPairs.of(sheet, bins, keep)
    if keep.size < len(matrix):
        matrix = matrix[np.ix_(keep, keep)]
    return _similarity_null(matrix, pairs, n_null, seed)


def response_correlation_curve(
    responses: Float[np.ndarray, "stimulus unit"], sheet: Distances, *, bins: DistanceBins | None = None
) -> Curve:
    """How does the correlation of two units' responses change with their distance?

    Parameters
    ----------
    responses
        Activations (stimulus, unit), three stimuli or more. Units that do not vary correlate at 0; units with a
        missing value leave.
    sheet
        Places of the units.
    bins
        Bins of distance; None takes `distance_bins` of the sheet.

    Returns
    -------
    Curve
        ``value`` and ``n_pairs`` (bin,).
    """
    correlation, keep = response_correlation(responses, sheet.n_units)
    pairs = _BinnedPairs.of(sheet, bins, keep)
    return pairs.curve(correlation[pairs.first, pairs.second], complete=True)


def response_correlation_curve_null(
    responses: Float[np.ndarray, "stimulus unit"],
    sheet: Distances,
    *,
    n_null: int,
    seed: int = 0,
    bins: DistanceBins | None = None,
) -> Float[np.ndarray, "null bin"]:
    """Return `response_correlation_curve` with the units' places permuted, once a draw."""
    correlation, keep = response_correlation(responses, sheet.n_units)
    return _similarity_null(correlation, _BinnedPairs.of(sheet, bins, keep), n_null, seed)


def selectivity_difference_curve(
    tuning: Float[np.ndarray, " unit"] | Float[np.ndarray, "map unit"],
    sheet: Distances,
    *,
    bins: DistanceBins | None = None,
) -> Curve:
    """How does the absolute difference of two units' selectivity change with their distance?

    Parameters
    ----------
    tuning
        One value a unit (a t-value, a tuning strength), (unit,) or (map, unit). Units that are NaN leave, map by map.
    sheet
        Places of the units.
    bins
        Bins of distance; None takes `distance_bins` of the sheet.

    Returns
    -------
    Curve
        ``value`` and ``n_pairs`` (bin,) or (map, bin).

    References
    ----------
    Margalit et al. (2024), TDANN, Neuron 112.
    """
    maps, pairs = _checked_maps(tuning, sheet), _BinnedPairs.of(sheet, bins)
    curves = [pairs.curve(pairs.differences(one), complete=not np.isnan(one).any()) for one in maps]
    if np.ndim(tuning) == 1:
        return curves[0]
    return Curve(curves[0].distance, np.stack([c.value for c in curves]), np.stack([c.n_pairs for c in curves]))


def selectivity_difference_curve_null(
    tuning: Float[np.ndarray, " unit"],
    sheet: Distances,
    *,
    n_null: int,
    seed: int = 0,
    bins: DistanceBins | None = None,
) -> Float[np.ndarray, "null bin"]:
    """Return `selectivity_difference_curve` of one map with the units' places permuted; NaN units stay in place."""
    one = _checked_maps(tuning, sheet)
    if len(one) != 1:
        raise InputError(f"a null is drawn for one map at a time, got {len(one)}")
    keep = np.flatnonzero(np.isfinite(one[0]))
    pairs, values = _BinnedPairs.of(sheet, bins, keep), one[0, keep]
    null = np.empty((n_null, pairs.bins.n_bins))
    for row, order in enumerate(layout_permutations(keep.size, n_null, seed=seed)):
        null[row] = pairs.means(pairs.differences(values[order]))
    return null


def smoothness_tdann(
    tuning: Float[np.ndarray, " unit"] | Float[np.ndarray, "map unit"],
    sheet: Distances,
    *,
    n_bins: int | None = None,
    low: float | None = None,
    high: float | None = None,
    n_samples: int | None = None,
    sample_size: int = 500,
    seed: int = 424,
) -> float | Float[np.ndarray, " map"]:
    r"""How much more alike in selectivity are near units than far ones?

    :math:`S = (\max x - x_0) / \max x` of the curve :math:`x(d)`, the mean absolute difference of selectivity at
    distance d. Near 0 without topography, 1 if neighbours are equal. The curve is cut at its first empty bin, and a
    curve that is exactly flat has S = 1, as in TDANN. Because of the maximum, S of noise lies a little above 0: read it
    beside its null.

    Parameters
    ----------
    tuning
        One value a unit, (unit,) or (map, unit). Units that are NaN leave: set those to NaN that should not count
        (TDANN leaves out units with a mean response up to 0.5).
    sheet
        Places of the units.
    n_bins, low, high
        Bins of distance, see `distance_bins`. TDANN's categories: 9 bins from 0 to 60 mm.
    n_samples
        None takes all pairs of units once. A number draws so many samples of units, computes S of each and averages
        them, as TDANN does (500 in its library, 25 for its figure); S of a small sample is higher by its noise.
    sample_size, seed
        Units in a sample, at most those there are, and the seed of the samples.

    Returns
    -------
    float or array (map,)
        NaN where the first bin is empty.

    References
    ----------
    Margalit et al. (2024), TDANN, Neuron 112.

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> sheet = Sheet.grid(28, 28)
    >>> maps = np.random.default_rng(0).standard_normal((10, 784))
    >>> [bool(smoothness_tdann(m, sheet).mean() > 0.5) for m in (maps, maps @ sheet.smoothing(4.0).T)]
    [False, True]
    """
    maps = _checked_maps(tuning, sheet)
    bins = distance_bins(sheet, n_bins=n_bins, low=low, high=high)
    if n_samples is None:
        found = _smoothness(selectivity_difference_curve(maps, sheet, bins=bins).value)
    else:
        if n_samples < 1 or sample_size < 2:
            raise InputError(f"samples need n_samples >= 1 and sample_size >= 2, got {n_samples} and {sample_size}")
        index, rng = bins.index(sheet.distances()), np.random.default_rng(seed)
        found = np.array([_sampled_smoothness(one, index, bins.n_bins, n_samples, sample_size, rng) for one in maps])
    return float(found[0]) if np.ndim(tuning) == 1 else found


def smoothness_tdann_null(
    tuning: Float[np.ndarray, " unit"],
    sheet: Distances,
    *,
    n_null: int,
    seed: int = 0,
    n_bins: int | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Float[np.ndarray, " null"]:
    """Return `smoothness_tdann` (all pairs) of one map with the units' places permuted, once a draw."""
    bins = distance_bins(sheet, n_bins=n_bins, low=low, high=high)
    return _smoothness(selectivity_difference_curve_null(tuning, sheet, n_null=n_null, seed=seed, bins=bins))


def smoothness_toponets(
    responses: Float[np.ndarray, "stimulus unit"],
    sheet: Distances,
    *,
    n_bins: int | None = None,
    low: float | None = None,
    high: float | None = None,
) -> float:
    """How far does the mean response correlation fall with distance: highest bin minus lowest bin?

    0 without topography; above 1 if far units are anticorrelated. Bins are not published: record yours.

    Parameters
    ----------
    responses, sheet
        As for `response_correlation_curve`.
    n_bins, low, high
        Bins of distance, see `distance_bins`.

    References
    ----------
    Deb et al. (2025), TopoNets, ICLR 2025; the definition is the one reading that fits its values.

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> sheet = Sheet.grid(12, 12, wrapped=True)
    >>> noise = np.random.default_rng(0).standard_normal((300, 144))
    >>> [round(smoothness_toponets(v, sheet), 1) for v in (noise, noise @ sheet.smoothing(3.0))]
    [0.0, 0.8]
    """
    bins = distance_bins(sheet, n_bins=n_bins, low=low, high=high)
    return float(_fall(response_correlation_curve(responses, sheet, bins=bins).value[None])[0])


def smoothness_toponets_null(
    responses: Float[np.ndarray, "stimulus unit"],
    sheet: Distances,
    *,
    n_null: int,
    seed: int = 0,
    n_bins: int | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Float[np.ndarray, " null"]:
    """Return `smoothness_toponets` with the units' places permuted, once a draw."""
    bins = distance_bins(sheet, n_bins=n_bins, low=low, high=high)
    return _fall(response_correlation_curve_null(responses, sheet, n_null=n_null, seed=seed, bins=bins))


def _checked_maps(tuning: np.ndarray, sheet: Distances) -> np.ndarray:
    maps = np.atleast_2d(np.asarray(tuning, dtype=np.float64))
    if maps.ndim != 2 or maps.shape[1] != sheet.n_units or len(maps) == 0:
        raise InputError(f"values have shape {np.shape(tuning)}, expected one value for each of {sheet.n_units} units")
    return np.where(np.isfinite(maps), maps, np.nan)


def _checked_similarity(similarity: np.ndarray, sheet: Distances) -> np.ndarray:
    matrix = np.asarray(similarity, dtype=np.float64)
    if matrix.shape != (sheet.n_units, sheet.n_units):
        raise InputError(f"similarity has shape {matrix.shape}, expected ({sheet.n_units}, {sheet.n_units})")
    if not np.allclose(matrix, matrix.T, equal_nan=True):
        raise InputError("similarity must be symmetric: one value for each pair of units")
    return matrix


@dataclass(frozen=True)
class _BinnedPairs:
    """Pairs of units within the limits of the bins, sorted by bin: the same for every permutation."""

    bins: DistanceBins
    first: np.ndarray
    second: np.ndarray
    n_pairs: np.ndarray  # (bin,)

    @classmethod
    def of(cls, sheet: Distances, bins: DistanceBins | None, keep: np.ndarray | None = None) -> _BinnedPairs:
        bins = distance_bins(sheet) if bins is None else bins
        if keep is not None and keep.size < sheet.n_units:
            return cls.within(sheet.distances()[np.ix_(keep, keep)], bins)
        if isinstance(sheet, Layout) and isinstance(sheet, Hashable):
            return _all_pairs(sheet, bins)
        return cls.within(sheet.distances(), bins)

    @classmethod
    def within(cls, distance: np.ndarray, bins: DistanceBins) -> _BinnedPairs:
        """Sort the pairs of a matrix of distances (unit, unit)."""
        first, second = np.triu_indices(len(distance), k=1)
        index = bins.index(distance[first, second])
        order = np.argsort(index.astype(np.int16), kind="stable")[np.count_nonzero(index < 0) :]
        if order.size == 0:
            raise InputError(f"no two units are {bins.low} to {bins.high} apart: give other limits of the bins")
        return cls(bins, first[order], second[order], np.bincount(index[order], minlength=bins.n_bins))

    def means(self, values: np.ndarray) -> np.ndarray:
        """Return the mean of each bin (bin,) of one value a pair, none missing; NaN in empty bins."""
        starts = np.cumsum(self.n_pairs) - self.n_pairs
        full = self.n_pairs > 0
        found = np.full(self.bins.n_bins, np.nan)
        found[full] = np.add.reduceat(values, starts[full], dtype=np.float64) / self.n_pairs[full]
        return found

    def differences(self, values: np.ndarray) -> np.ndarray:
        """Return the absolute difference of a map's values (unit,) over each pair."""
        found = values.take(self.first)
        found -= values.take(self.second)
        return np.asarray(np.abs(found, out=found))

    def curve(self, values: np.ndarray, *, complete: bool = False) -> Curve:
        """Return the curve of one value a pair; missing ones leave, unless it is ``complete``."""
        if complete:
            return Curve(self.bins.centres, self.means(values), self.n_pairs.copy())
        there = np.isfinite(values)
        index = np.repeat(np.arange(self.bins.n_bins), self.n_pairs)[there]
        total = np.bincount(index, weights=values[there], minlength=self.bins.n_bins)
        n_pairs = np.bincount(index, minlength=self.bins.n_bins)
        return Curve(self.bins.centres, np.where(n_pairs > 0, total / np.maximum(n_pairs, 1), np.nan), n_pairs)


@lru_cache(maxsize=2)
def _all_pairs(sheet: Layout, bins: DistanceBins) -> _BinnedPairs:
    """Return the pairs of a whole sheet, kept because nulls measure one sheet many times."""
    return _BinnedPairs.within(sheet.distances(), bins)


def _similarity_null(matrix: np.ndarray, pairs: _BinnedPairs, n_null: int, seed: int) -> np.ndarray:
    null = np.empty((n_null, pairs.bins.n_bins))
    flat, n, complete = matrix.ravel(), len(matrix), bool(np.isfinite(matrix).all())
    for row, order in enumerate(layout_permutations(n, n_null, seed=seed)):
        values = flat.take(order.take(pairs.first) * n + order.take(pairs.second))
        null[row] = pairs.curve(values, complete=complete).value
    return null


def _smoothness(curves: np.ndarray) -> np.ndarray:
    """Return (max x - x[0]) / max x of each curve (curve, bin), cut at its first NaN; 1 if flat, NaN if cut to nothing."""
    inside = ~np.maximum.accumulate(np.isnan(curves), axis=1)
    first = curves[:, 0]
    highest = np.where(inside, curves, -np.inf).max(axis=1)
    lowest = np.where(inside, curves, np.inf).min(axis=1)
    found = np.full(len(curves), np.nan)
    curved = inside[:, 0] & (highest > lowest)
    found[inside[:, 0] & (highest == lowest)] = 1.0
    found[curved] = (highest[curved] - first[curved]) / highest[curved]
    return found


def _fall(curves: np.ndarray) -> np.ndarray:
    """Return the highest minus the lowest bin of each curve (curve, bin), bins without pairs apart."""
    return np.asarray(np.nanmax(curves, axis=1) - np.nanmin(curves, axis=1))


def _sampled_smoothness(
    values: np.ndarray, index: np.ndarray, n_bins: int, n_samples: int, sample_size: int, rng: np.random.Generator
) -> float:
    """Return S averaged over random samples of units; ``index`` is the bin of every pair of units, -1 outside."""
    present = np.flatnonzero(np.isfinite(values))
    size = min(sample_size, present.size)
    first, second = np.triu_indices(size, k=1)
    curves = np.empty((n_samples, n_bins))
    for row in range(n_samples):
        units = rng.choice(present, size=size, replace=False)
        bins = index[np.ix_(units, units)][first, second] + 1  # bin 0 collects the pairs outside the limits
        difference = np.abs(values[units[first]] - values[units[second]])
        count = np.bincount(bins, minlength=n_bins + 1)[1:]
        total = np.bincount(bins, weights=difference, minlength=n_bins + 1)[1:]
        curves[row] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return float(np.nanmean(_smoothness(curves)))
