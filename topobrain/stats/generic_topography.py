"""Generic topography: do units that respond alike lie close together, whatever they respond to?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from topobrain._checks import InputError, require_choice
from topobrain.stats.correlation import unit_norm
from topobrain.stats.layout import Layout
from topobrain.stats.nulls import layout_permutations

RADII = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Radii of the generic topography statistic, as shares of the sheet's side."""

FORMS = ("spearman", "pearson", "ratio")

LEVELS = 8192
"""Rank levels that correlations are sorted into for a null. Sheets with fewer different correlations (up to about 128
units) keep them all; beyond that a null value moves by less than 0.001."""

Form = Literal["spearman", "pearson", "ratio"]


@runtime_checkable
class Distances(Protocol):
    """Places of units, as far as measures of pairs of units need them: a sheet, or a cortical mesh of moderate size."""

    @property
    def n_units(self) -> int:
        """Number of units."""
        ...

    def distances(self) -> np.ndarray:
        """Return distances between all units (unit, unit)."""
        ...


class TopographyByRadius(NamedTuple):
    """The generic topography statistic of each radius.

    Attributes
    ----------
    radius
        Radii (radius,), as asked for; ``max_distance`` stands alone.
    value
        The statistic (radius,); NaN where a radius holds fewer than two different distances.
    n_pairs
        Pairs of units within each radius, or those drawn from them.
    """

    radius: np.ndarray
    value: np.ndarray
    n_pairs: np.ndarray


def generic_topography(
    responses: Float[np.ndarray, "stimulus unit"],
    sheet: Distances,
    *,
    radii: Sequence[float] = RADII,
    max_distance: float | None = None,
    form: Form = "spearman",
    n_pairs: int | None = None,
    seed: int = 0,
) -> float:
    r"""Do units that respond alike lie close together, whatever they respond to?

    :math:`t_g = \mathrm{mean}_m\,[-\rho_s(D_{ij}, C_{ij})]` over pairs of units no further apart than ``m`` sides of
    the sheet, with C the correlation of responses over stimuli, D the distance (the short way round on a wrapped
    sheet) and :math:`\rho_s` Spearman's correlation over all pairs, ties ranked by their average. Between -1 and 1; 0
    without topography. It is blind to what is encoded and rewards blur: show it beside its permuted and its untrained
    value.

    Parameters
    ----------
    responses
        Activations (stimulus, unit). A unit that does not vary correlates at 0 with every other; a unit with a missing
        value (NaN) leaves.
    sheet
        Places of the units: a sheet, or with ``max_distance`` a surface.
    radii
        Shares of the sheet's longer side. Radii that hold fewer than two different distances are skipped.
    max_distance
        One radius in the length unit of the sheet, instead of ``radii``; ``math.inf`` takes all pairs.
    form
        ``"spearman"`` as above; ``"pearson"``, minus Pearson's correlation of D and C; ``"ratio"``, the mean over
        pairs of C, standardised over the pairs of that radius, divided by D (in sides for ``radii``, in the sheet's
        length unit for ``max_distance``). A ratio has no upper limit.
    n_pairs
        None takes all pairs. A number draws at most so many different pairs for each radius: 100,000 make a noise of
        about 0.003.
    seed
        Seed of that draw.

    Returns
    -------
    float

    Raises
    ------
    InputError
        A sheet without layout, responses of another size, no radius with two different distances.

    References
    ----------
    BinHuraib, Tuckute & Blauch (2024), Topoformer, ICLR Re-Align workshop, arXiv 2510.18745: Spearman, mean over radii.
    Blauch, Behrmann & Plaut (2022), PNAS 119: the ratio over 100,000 pairs (``max_distance=math.inf``).

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> sheet = Sheet.grid(9, 9, wrapped=True)
    >>> noise = np.random.default_rng(0).standard_normal((500, 81))
    >>> values = noise @ sheet.smoothing(2.0)
    >>> [round(generic_topography(v, sheet), 1) + 0 for v in (noise, values)]
    [0.0, 0.8]
    """
    found = generic_topography_by_radius(
        responses, sheet, radii=radii, max_distance=max_distance, form=form, n_pairs=n_pairs, seed=seed
    )
    return float(np.nanmean(found.value))


def generic_topography_by_radius(
    responses: Float[np.ndarray, "stimulus unit"],
    sheet: Distances,
    *,
    radii: Sequence[float] = RADII,
    max_distance: float | None = None,
    form: Form = "spearman",
    n_pairs: int | None = None,
    seed: int = 0,
) -> TopographyByRadius:
    """Return the generic topography statistic of each radius by itself; parameters as for `generic_topography`."""
    problem = _Problem.of(responses, sheet, _Radii.of(sheet, radii, max_distance), form)
    pair_sets = problem.pair_sets(n_pairs, seed)
    matrix, n_levels = problem.correlation, 0
    if form == "spearman":
        matrix, count = _dense_ranks(problem.correlation)
        n_levels = len(count)
    value = np.concatenate([pairs.statistic(matrix.ravel()[pairs.flat], form, n_levels) for pairs in pair_sets])
    return TopographyByRadius(problem.radii.given, value, np.concatenate([pairs.n_pairs for pairs in pair_sets]))


def generic_topography_null(
    responses: Float[np.ndarray, "stimulus unit"],
    sheet: Distances,
    *,
    n_null: int,
    seed: int = 0,
    radii: Sequence[float] = RADII,
    max_distance: float | None = None,
    form: Form = "spearman",
    n_pairs: int | None = None,
) -> Float[np.ndarray, " permutation"]:
    """Return the generic topography statistic of the same responses with the units' places permuted.

    Parameters
    ----------
    responses, sheet, radii, max_distance, form, n_pairs
        As for `generic_topography`. Units with a missing value stay where they are.
    n_null, seed
        Number of permutations, and their seed (also of the draw of pairs).

    Returns
    -------
    array (permutation,)

    Notes
    -----
    Distances are ranked once and correlations are sorted once into `LEVELS` rank levels, so that a permutation costs
    two counts over the pairs of units instead of a sort; the value of `generic_topography` itself is exact. 1,000
    permutations take about 4 s for 784 units and a minute for 3,072 (all pairs, one core).
    """
    by_radius = generic_topography_null_by_radius(
        responses,
        sheet,
        n_null=n_null,
        seed=seed,
        radii=radii,
        max_distance=max_distance,
        form=form,
        n_pairs=n_pairs,
    )
    return np.asarray(np.nanmean(by_radius, axis=1))


def generic_topography_null_by_radius(
    responses: Float[np.ndarray, "stimulus unit"],
    sheet: Distances,
    *,
    n_null: int,
    seed: int = 0,
    radii: Sequence[float] = RADII,
    max_distance: float | None = None,
    form: Form = "spearman",
    n_pairs: int | None = None,
) -> Float[np.ndarray, "permutation radius"]:
    """Return `generic_topography_null` for each radius by itself: the null band of a curve over radii."""
    problem = _Problem.of(responses, sheet, _Radii.of(sheet, radii, max_distance), form)
    pair_sets = problem.pair_sets(n_pairs, seed)
    if form == "spearman":
        matrix, n_levels = _rank_levels(problem.correlation)
    else:
        matrix, n_levels = problem.correlation.astype(np.float32), 0  # half the memory to move, 1e-7 of rounding
    null = np.empty((n_null, len(problem.radii.given)))
    for row, order in enumerate(layout_permutations(len(matrix), n_null, seed=seed)):
        moved = matrix.take(order, axis=0).take(order, axis=1).ravel()
        null[row] = np.concatenate([p.statistic(moved.take(p.flat), form, n_levels) for p in pair_sets])
    return null


def response_correlation(
    responses: Float[np.ndarray, "stimulus unit"], n_units: int
) -> tuple[Float[np.ndarray, "unit unit"], np.ndarray]:
    """Return Pearson correlations of units that have all values, and which units these are (ascending).

    Units that do not vary correlate at 0 with every other.
    """
    values = np.asarray(responses, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != n_units or len(values) < 3:
        raise InputError(f"responses have shape {values.shape}, expected (3 stimuli or more, {n_units} units)")
    keep = np.flatnonzero(np.isfinite(values).all(axis=0))
    if keep.size < 3:
        raise InputError(f"{keep.size} of {n_units} units have no missing or infinite value; at least 3 are needed")
    normed = unit_norm(values if keep.size == n_units else values[:, keep])
    return np.asarray(normed.T @ normed), keep


class _Radii(NamedTuple):
    """Radii as given, and in the sheet's length unit; distances are divided by ``unit`` in a ratio."""

    given: np.ndarray
    length: np.ndarray
    unit: float

    @classmethod
    def of(cls, sheet: Distances, radii: Sequence[float], max_distance: float | None) -> _Radii:
        if max_distance is not None:
            length = np.array([float(max_distance)])
            given, unit = length, 1.0
        else:
            if not isinstance(sheet, Layout):
                raise InputError(
                    "radii are shares of a sheet's side, and a surface has none: give max_distance, a length"
                )
            unit = max(sheet.height, sheet.width) * sheet.spacing
            given = np.asarray(radii, dtype=np.float64)
            length = given * unit
        if given.ndim != 1 or given.size == 0 or not (given > 0).all():
            raise InputError(f"radii must be positive numbers, got {given.tolist()}")
        return cls(given, length, unit)


@dataclass(frozen=True)
class _Problem:
    """Correlations and distances of the units that have values."""

    correlation: np.ndarray
    distance: np.ndarray
    radii: _Radii
    form: str

    @classmethod
    def of(cls, responses: np.ndarray, sheet: Distances, radii: _Radii, form: str) -> _Problem:
        require_choice("form of the generic topography statistic", form, FORMS)
        correlation, keep = response_correlation(responses, sheet.n_units)
        distance = sheet.distances()
        if keep.size < sheet.n_units:
            distance = distance[np.ix_(keep, keep)]
        return cls(correlation, distance, radii, form)

    def pair_sets(self, n_pairs: int | None, seed: int) -> list[_Pairs]:
        """Return one set of pairs for nested radii, or one drawn set a radius."""
        n = len(self.distance)
        first, second = np.triu_indices(n, k=1)
        flat = first * n + second
        distance = self.distance.ravel()[flat]
        # several distances equal a radius exactly; rounding keeps equal distances equal
        edges = self.radii.length * (1 + 1e-12) + 1e-12 * self.radii.unit
        distance = (distance / self.radii.unit).round(12)
        edges = edges / self.radii.unit
        if n_pairs is None:
            sets = [_Pairs.of(flat, distance, edges)]
        else:
            if n_pairs < 2:
                raise InputError(f"n_pairs must be 2 or more, got {n_pairs}")
            rng = np.random.default_rng(seed)
            sets = []
            for edge in edges:
                near = np.flatnonzero(distance <= edge)
                if near.size > n_pairs:
                    near = np.sort(rng.choice(near, size=n_pairs, replace=False))
                sets.append(_Pairs.of(flat[near], distance[near], np.array([edge])))
        if not any(pairs.defined.any() for pairs in sets):
            raise InputError(f"no radius of {self.radii.given.tolist()} holds two different distances on this sheet")
        return sets


@dataclass(frozen=True)
class _Pairs:
    """Pairs of units within nested radii, sorted by the smallest radius that holds them.

    Because the radii are nested by distance itself, the rank of a distance is the same in every radius that holds it.
    Everything a correlation with distance needs is then a sum over rings, added up from the innermost ring outwards.
    """

    flat: np.ndarray  # (pair,) first * n_units + second
    distance: np.ndarray  # (pair,)
    rank: np.ndarray  # (pair,) of the distance, ties averaged, less the mean rank
    rank_spread: np.ndarray  # (ring,) root of the sum of squares of ranks about their mean within the radius
    bounds: np.ndarray  # ring k lies between bounds[k] and bounds[k + 1]
    order: np.ndarray  # rings from the inside, as the radii were given
    defined: np.ndarray  # (ring,) two different distances or more

    @classmethod
    def of(cls, flat: np.ndarray, distance: np.ndarray, edges: np.ndarray) -> _Pairs:
        order = np.argsort(edges, kind="stable")  # radii may be given in any order
        lengths, code, count = np.unique(distance, return_inverse=True, return_counts=True)
        ring_of = np.searchsorted(edges[order], lengths)
        ring = ring_of.astype(np.min_scalar_type(len(edges)))[code]
        chosen = np.argsort(ring, kind="stable")[: count[ring_of < len(edges)].sum()]
        rank_of = np.cumsum(count) - count / 2  # average of tied ranks, up to a constant
        rank = rank_of[code[chosen]]
        rank -= rank.mean() if rank.size else 0.0
        bounds = np.concatenate([[0], np.cumsum(np.bincount(ring[chosen], minlength=len(edges)))])
        spread = np.array([_spread(rank[:end]) for end in bounds[1:]])
        defined = np.array([np.count_nonzero(lengths <= edge) >= 2 for edge in edges[order]])
        return cls(flat[chosen], distance[chosen], rank, spread, bounds, order, defined)

    @property
    def n_pairs(self) -> np.ndarray:
        """Pairs within each radius, in the order the radii were given."""
        return self._as_given(self.bounds[1:])

    def statistic(self, values: np.ndarray, form: str, n_levels: int) -> np.ndarray:
        """Return the statistic of each radius for the pairs' correlations, or for their levels if it is of ranks."""
        found = self._rank_correlation(values, n_levels) if form == "spearman" else self._linear(values, form)
        found[~self.defined] = np.nan
        return self._as_given(found)

    def _as_given(self, by_ring: np.ndarray) -> np.ndarray:
        out = np.empty(len(by_ring), dtype=by_ring.dtype)
        out[self.order] = by_ring
        return out

    def _rank_correlation(self, levels: np.ndarray, n_levels: int) -> np.ndarray:
        """Return minus Spearman's correlation, from counts of levels and sums of distance ranks at each level."""
        count, rank_sum = np.zeros(n_levels), np.zeros(n_levels)
        found = np.zeros(len(self.order))
        for k, (start, end) in enumerate(zip(self.bounds[:-1], self.bounds[1:], strict=True)):
            codes = levels[start:end].astype(np.intp)
            count += np.bincount(codes, minlength=n_levels)
            rank_sum += np.bincount(codes, weights=self.rank[start:end], minlength=n_levels)
            middle = np.cumsum(count) - count / 2 - end / 2  # average rank of a level, less the mean rank
            spread = math.sqrt(float((count * middle) @ middle)) * self.rank_spread[k]
            if spread > 0:
                found[k] = -float(rank_sum @ middle) / spread
        return found

    def _linear(self, values: np.ndarray, form: str) -> np.ndarray:
        """Return minus Pearson's correlation with distance, or the mean of standardised value over distance."""
        x = values.astype(np.float64)
        x -= x.mean() if x.size else 0.0
        weight = -self.distance if form == "pearson" else 1 / self.distance
        total = {"x": 0.0, "xx": 0.0, "w": 0.0, "ww": 0.0, "xw": 0.0}
        found = np.zeros(len(self.order))
        for k, (start, end) in enumerate(zip(self.bounds[:-1], self.bounds[1:], strict=True)):
            inside, w = x[start:end], weight[start:end]
            total["x"] += float(inside.sum())
            total["w"] += float(w.sum())
            total["xx"] += float(inside @ inside)
            total["ww"] += float(w @ w)
            total["xw"] += float(inside @ w)
            n = max(int(end), 1)
            covariance = total["xw"] / n - total["x"] * total["w"] / n**2
            variance = total["xx"] / n - (total["x"] / n) ** 2
            if form == "pearson":
                variance *= total["ww"] / n - (total["w"] / n) ** 2
            if variance > 1e-30:
                found[k] = covariance / math.sqrt(variance)
        return found


def _spread(values: np.ndarray) -> float:
    """Return the root of the sum of squares about the mean."""
    return math.sqrt(max(float(values @ values) - float(values.sum()) ** 2 / values.size, 0.0)) if values.size else 0.0


def _dense_ranks(correlation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rank of each correlation among the different ones (unit, unit), and how many pairs have each."""
    pair = np.triu_indices(len(correlation), k=1)
    _, rank, count = np.unique(correlation[pair], return_inverse=True, return_counts=True)
    ranks = np.zeros(correlation.shape, dtype=np.int32)
    ranks[pair] = rank
    ranks.T[pair] = rank  # mirrored, so that a permutation cannot meet another rounding of the same correlation
    return ranks, count


def _rank_levels(correlation: np.ndarray) -> tuple[np.ndarray, int]:
    """Return a level of each correlation (unit, unit), equal shares of pairs in each, and the number of levels."""
    ranks, count = _dense_ranks(correlation)
    level = np.arange(len(count))
    if len(count) > LEVELS:
        middle = np.cumsum(count) - count / 2
        _, level = np.unique((middle / count.sum() * LEVELS).astype(int), return_inverse=True)
    return level.astype(np.uint16)[ranks], int(level.max()) + 1
