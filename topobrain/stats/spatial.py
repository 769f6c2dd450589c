"""Spatial statistics of maps on a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from topobrain._checks import InputError
from topobrain.stats.correlation import unit_norm
from topobrain.stats.nulls import layout_permutations


@runtime_checkable
class Layout(Protocol):
    """What spatial statistics need of a `topobrain.Sheet`: this floor lies below it."""

    @property
    def n_units(self) -> int:
        """Number of units."""
        ...

    @property
    def height(self) -> int:
        """Rows of the grid."""
        ...

    @property
    def width(self) -> int:
        """Columns of the grid."""
        ...

    @property
    def spacing(self) -> float:
        """Distance between neighbouring units."""
        ...

    def distances(self) -> np.ndarray:
        """Return distances between all units (unit, unit)."""
        ...

    def neighbours(self, kind: Literal["queen", "rook"] = "queen") -> Any:
        """Return the sparse binary adjacency (unit, unit)."""
        ...


RADII = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Radii of the generic topography statistic, as shares of the sheet's side."""


def morans_i(
    values: Float[np.ndarray, " unit"] | Float[np.ndarray, "map unit"],
    sheet: Layout,
    *,
    neighbours: Literal["queen", "rook"] = "queen",
) -> float | Float[np.ndarray, " map"]:
    r"""How alike are neighbouring units of a map?

    :math:`I = \frac{n}{S_0} \frac{\sum_{ij} w_{ij} z_i z_j}{\sum_i z_i^2}` with binary weights between neighbours,
    :math:`z = x - \bar x` and :math:`S_0 = \sum_{ij} w_{ij}`. Expected without structure: -1 / (n - 1). Smoothing
    alone raises it (noise smoothed at 2 grid steps FWHM has 0.60): read it beside a layout null only.

    Parameters
    ----------
    values
        One map (unit,) or several (map, unit). Units that are NaN leave the graph.
    sheet
        Places of the units.
    neighbours
        ``"queen"`` (8 neighbours) or ``"rook"`` (4); a wrapped sheet closes on itself.

    Returns
    -------
    float or array (map,)

    Raises
    ------
    InputError
        A sheet without layout, a constant map, fewer than three units with values.

    References
    ----------
    Moran (1950), Biometrika 37:17.

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> stripes, checks = np.repeat([0.0, 1.0], 18), np.indices((6, 6)).sum(axis=0).ravel() % 2.0
    >>> [round(morans_i(m, Sheet.grid(6, 6), neighbours="rook"), 3) for m in (stripes, checks)]
    [0.8, -1.0]
    """
    maps = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if maps.ndim != 2 or maps.shape[1] != sheet.n_units:
        raise InputError(f"values have shape {np.shape(values)}, expected one value for each of {sheet.n_units} units")
    weights = sheet.neighbours(neighbours)
    result = np.empty(len(maps))
    missing = np.isnan(maps)
    if (missing == missing[0]).all():
        keep = np.flatnonzero(~missing[0])
        result[:] = _morans_i(maps[:, keep], weights[keep][:, keep])
    else:
        for row, (one, gone) in enumerate(zip(maps, missing, strict=True)):
            keep = np.flatnonzero(~gone)
            result[row] = _morans_i(one[None, keep], weights[keep][:, keep])[0]
    return float(result[0]) if np.ndim(values) == 1 else result


def _morans_i(maps: np.ndarray, weights: Any) -> np.ndarray:
    n = maps.shape[1]
    if n < 3:
        raise InputError(f"Moran's I needs at least three units with values, got {n}")
    total = weights.sum()
    if total == 0:
        raise InputError("no two units with values are neighbours: Moran's I is not defined")
    centred = maps - maps.mean(axis=1, keepdims=True)
    spread = (centred**2).sum(axis=1)
    if (spread <= 1e-24 * (maps**2).sum(axis=1)).any():
        raise InputError("a map is constant: Moran's I is not defined")
    return np.asarray(n / total * ((weights @ centred.T).T * centred).sum(axis=1) / spread)


def layout_null(
    values: Float[np.ndarray, " unit"], sheet: Layout, *, n_null: int = 1000, seed: int = 0
) -> Float[np.ndarray, " null"]:
    """Return Moran's I of a map after ``n_null`` permutations of the units' places (NaN units stay where they are)."""
    maps = np.tile(np.asarray(values, dtype=np.float64), (n_null, 1))
    present = np.flatnonzero(np.isfinite(maps[0]))
    maps[:, present] = maps[0, present][layout_permutations(present.size, n_null, seed=seed)]
    return np.asarray(morans_i(maps, sheet))


def generic_topography(
    responses: Float[np.ndarray, "stimulus unit"], sheet: Layout, *, radii: Sequence[float] = RADII
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
        Activations (stimulus, unit).
    sheet
        Places of the units.
    radii
        Shares of the sheet's longer side. Radii that hold fewer than two different distances are skipped.

    Returns
    -------
    float

    References
    ----------
    BinHuraib, Tuckute & Blauch (2024), Topoformer, ICLR Re-Align workshop, arXiv 2510.18745.
    """
    return float(_Pairs(sheet, radii).topography(_unit_correlation(responses, sheet)))


def generic_topography_null(
    responses: Float[np.ndarray, "stimulus unit"],
    sheet: Layout,
    *,
    n_null: int,
    seed: int = 0,
    radii: Sequence[float] = RADII,
) -> Float[np.ndarray, " permutation"]:
    """Return the generic topography statistic of the same responses with the units' places permuted.

    Distances and correlations are computed once for all permutations.

    Parameters
    ----------
    responses, sheet, radii
        As for `generic_topography`.
    n_null, seed
        Number of permutations, and their seed.
    """
    correlation, pairs = _unit_correlation(responses, sheet), _Pairs(sheet, radii)
    orders = layout_permutations(sheet.n_units, n_null, seed=seed)
    return np.array([pairs.topography(correlation[np.ix_(order, order)]) for order in orders])


def _unit_correlation(responses: np.ndarray, sheet: Layout) -> np.ndarray:
    values = np.asarray(responses, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != sheet.n_units or len(values) < 3:
        raise InputError(f"responses have shape {values.shape}, expected (3 stimuli or more, {sheet.n_units} units)")
    normed = unit_norm(values)  # constant units correlate at 0
    return np.asarray(normed.T @ normed)


class _Pairs:
    """The pairs of units within each radius, with the ranks of their distances: the same for every permutation."""

    def __init__(self, sheet: Layout, radii: Sequence[float]) -> None:
        from scipy.stats import rankdata

        side = max(sheet.height, sheet.width) * sheet.spacing
        self.pair = np.triu_indices(sheet.n_units, k=1)
        distance = (sheet.distances() / side)[self.pair]
        self.rings: list[tuple[np.ndarray, np.ndarray]] = []
        for radius in radii:
            near = np.flatnonzero(distance <= radius + 1e-12)  # several distances equal a radius exactly
            rounded = distance[near].round(12)
            if np.unique(rounded).size >= 2:
                ranks = rankdata(rounded)
                self.rings.append((near, (ranks - ranks.mean()) / ranks.std()))
        if not self.rings:
            raise InputError(f"no radius of {list(radii)} holds two different distances on this sheet")

    def topography(self, correlation: np.ndarray) -> float:
        """Return minus Spearman's correlation of distance and response correlation, averaged over radii."""
        from scipy.stats import rankdata

        values = correlation[self.pair]
        found = []
        for near, distance_ranks in self.rings:
            ranks = rankdata(values[near])
            spread = ranks.std()
            found.append(-float(distance_ranks @ (ranks - ranks.mean())) / (len(ranks) * spread) if spread > 0 else 0.0)
        return float(np.mean(found))
