"""Moran's I inside islands of significant units, and the null that repeats the selection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from topobrain._checks import InputError
from topobrain.stats.clusters import Clusters, connected_clusters
from topobrain.stats.contrast import fdr_bh
from topobrain.stats.layout import Neighbourhood
from topobrain.stats.morans import morans_i_test
from topobrain.stats.nulls import product_permutations
from topobrain.stats.selection import select_top


@dataclass(frozen=True)
class Islands:
    """Moran's I inside islands of significant units; `island_morans_i` finds them.

    Parameters
    ----------
    labels
        Number of each unit's island (unit,), the largest first, -1 for units in none.
    sizes, index, p
        Units, Moran's I and permutation p of each island (island,); NaN where all units of an island have one value.
    mean, weighted_mean, significant_mean
        Mean of ``index`` over islands, the same weighted by size, and over islands with p < 0.05; NaN over none.
    n_selected
        Units that passed the selection, in islands or not.
    reason
        Why there is no island; empty where there is one.
    """

    labels: np.ndarray
    sizes: np.ndarray
    index: np.ndarray
    p: np.ndarray
    mean: float
    weighted_mean: float
    significant_mean: float
    n_selected: int
    reason: str = ""

    @property
    def n_islands(self) -> int:
        """Number of islands."""
        return int(self.sizes.size)

    @property
    def n_significant(self) -> int:
        """Number of islands with p < 0.05."""
        return int((self.p < SIGNIFICANT).sum())


SIGNIFICANT = 0.05


def island_morans_i(
    t: Float[np.ndarray, " unit"],
    p: Float[np.ndarray, " unit"],
    sheet: Neighbourhood,
    *,
    q: float = 0.05,
    top: float | int | None = 0.01,
    min_size: int = 8,
    n_null: int = 999,
    seed: int = 0,
) -> Islands:
    """How smooth is a map inside its islands of significant units?

    Units with t > 0 and a Benjamini-Hochberg q-value of at most ``q``, and among the ``top`` ones by t, are joined to
    islands of neighbours. Moran's I of t is computed inside each, with the mean and the neighbours of that island
    only. Islands are chosen by the values that are then found to be alike: read the mean beside `island_layout_null`,
    and never beside the Moran's I of a whole map.

    Parameters
    ----------
    t
        Map (unit,); NaN units (a medial wall) are in no island and count as no test.
    p
        p-value of each unit (unit,), one-sided for t > 0 (``alternative="greater"``). Two-sided ones select less.
    sheet
        Places of the units: queen neighbours on a sheet, the mesh's edges on a surface.
    q
        Highest q-value.
    top
        Share (or number) of units with the highest t that may be in islands; Topo-Omni takes 0.01 for models. None: no
        such limit, as for cortical maps; also for small sheets, on which 1 % is less than an island.
    min_size
        Units that an island needs, at least 3.
    n_null, seed
        Permutations of t inside each island for its p, and their seed.

    Returns
    -------
    Islands
        Without an island, its counts are 0, its means NaN, and ``reason`` says why.

    References
    ----------
    Topo-Omni, `epflneuroailab/topo-omni` (island Moran's I).

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> t = np.where(np.arange(100) % 10 < 3, 9.0 - np.arange(100) // 10, 0.0)
    >>> found = island_morans_i(t, np.exp(-t), Sheet.grid(10, 10), top=None)
    >>> found.n_islands, found.sizes.tolist(), round(found.mean, 2)
    (1, [15], 0.63)
    """
    values, chosen = _selected(t, p, sheet, q, top)
    if min_size < 3:
        raise InputError(f"Moran's I needs islands of at least three units, got min_size={min_size}")
    found = connected_clusters(chosen, sheet, min_size=min_size)
    if not found.sizes.size:
        return _empty(chosen, found, sheet, q, top, min_size)
    rng = np.random.default_rng(seed)
    weights = sheet.neighbours()
    index, p_island = np.full(found.sizes.size, np.nan), np.full(found.sizes.size, np.nan)
    for island in range(found.sizes.size):
        units = np.flatnonzero(found.labels == island)
        if np.ptp(values[units]) > 0:
            inside = _Piece(weights[units][:, units])
            test = morans_i_test(values[units], inside, n_null=n_null, seed=int(rng.integers(2**32)))
            index[island], p_island[island] = test.value, test.p
    return Islands(
        labels=found.labels,
        sizes=found.sizes,
        index=index,
        p=p_island,
        mean=_mean(index),
        weighted_mean=_mean(index, found.sizes),
        significant_mean=_mean(index[p_island < SIGNIFICANT]),
        n_selected=int(chosen.sum()),
    )


def island_layout_null(
    t: Float[np.ndarray, " unit"],
    p: Float[np.ndarray, " unit"],
    sheet: Neighbourhood,
    *,
    q: float = 0.05,
    top: float | int | None = 0.01,
    min_size: int = 8,
    n_null: int = 999,
    seed: int = 0,
) -> Float[np.ndarray, " null"]:
    """What would the mean Moran's I over islands be if the units of a map lay in other places?

    Every draw permutes the places of the units, t and p together, and goes through the selection of `island_morans_i`.
    A draw without an island counts as 0: none of its significant units lie together. The permutation is that of
    unsmoothed maps; a map that was smoothed has to be permuted before it is smoothed, and tested anew.

    Parameters
    ----------
    t, p, sheet, q, top, min_size
        As for `island_morans_i`.
    n_null, seed
        Number and seed of the permutations of places.

    Returns
    -------
    array (null,)
        Set it beside ``Islands.mean`` with `compare_with_null`.
    """
    values, chosen = _selected(t, p, sheet, q, top)
    present = np.flatnonzero(np.isfinite(values))
    null = np.zeros(n_null)
    weights = sheet.neighbours().tocoo()
    drawn = product_permutations(present.size, n_null, seed=seed)
    for draw, (i, j) in enumerate(zip(*np.divmod(drawn.cell, len(drawn.second)), strict=True)):
        order = drawn.first[i][drawn.second[j]]
        # ranks and q-values move with their units, so the selection itself need not be repeated
        moved, mask = values.copy(), np.zeros_like(chosen)
        moved[present], mask[present] = values[present[order]], chosen[present[order]]
        found = connected_clusters(mask, sheet, min_size=min_size)
        index = _index_inside(moved, found, weights.row, weights.col)
        if np.isfinite(index).any():
            null[draw] = _mean(index)
    return null


def _selected(
    t: np.ndarray, p: np.ndarray, sheet: Neighbourhood, q: float, top: float | int | None
) -> tuple[np.ndarray, np.ndarray]:
    values, chance = np.asarray(t, dtype=np.float64), np.asarray(p, dtype=np.float64)
    if values.shape != (sheet.n_units,) or chance.shape != values.shape:
        raise InputError(
            f"t has shape {values.shape} and p {chance.shape}, expected one value for each of {sheet.n_units} units"
        )
    if not 0 < q <= 1:
        raise InputError(f"q must lie above 0 and be at most 1, got {q}")
    values = np.where(np.isfinite(chance), values, np.nan)
    if not np.isfinite(values).any():
        raise InputError("no unit has both a t- and a p-value")
    rate = fdr_bh(np.where(np.isfinite(values), chance, np.nan))
    chosen = (rate <= q) & (values > 0)
    if top is not None:
        chosen &= select_top(values, top)
    return values, chosen


def _index_inside(values: np.ndarray, found: Clusters, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return Moran's I of every cluster with the neighbours inside it (cluster,); NaN where its values are all one."""
    n, label = found.sizes.size, found.labels
    inside = np.flatnonzero(label >= 0)
    mean = np.bincount(label[inside], values[inside], minlength=n) / found.sizes
    centred = np.zeros_like(values)
    centred[inside] = values[inside] - mean[label[inside]]
    # a boundary between two clusters is no edge of either
    edge = np.flatnonzero((label[row] >= 0) & (label[row] == label[column]))
    row, column = row[edge], column[edge]
    product = np.bincount(label[row], centred[row] * centred[column], minlength=n)
    spread = np.bincount(label[inside], centred[inside] ** 2, minlength=n)
    size = np.bincount(label[inside], values[inside] ** 2, minlength=n)
    with np.errstate(divide="ignore", invalid="ignore"):
        index = found.sizes / np.bincount(label[row], minlength=n) * product / spread
    return np.where(spread > 1e-24 * size, index, np.nan)


def _empty(
    chosen: np.ndarray, found: Clusters, sheet: Neighbourhood, q: float, top: float | int | None, min_size: int
) -> Islands:
    n_selected = int(chosen.sum())
    limit = "" if top is None else f" among the top {top:g} (top=None keeps all)"
    if n_selected == 0:
        reason = f"no unit has t > 0 at q <= {q:g}{limit}"
    else:
        largest = int(connected_clusters(chosen, sheet).sizes[0])
        reason = f"{n_selected} units have t > 0 at q <= {q:g}{limit}; the largest island has {largest}, fewer than {min_size}"
    none = np.zeros(0)
    return Islands(found.labels, found.sizes, none, none, np.nan, np.nan, np.nan, n_selected, reason)


def _mean(index: np.ndarray, sizes: np.ndarray | None = None) -> float:
    known = np.isfinite(index)
    if not known.any():
        return float("nan")
    return float(np.average(index[known], weights=None if sizes is None else sizes[known]))


@dataclass(frozen=True)
class _Piece:
    """An island as a layout of its own."""

    adjacency: Any

    @property
    def n_units(self) -> int:
        return int(self.adjacency.shape[0])

    def neighbours(self) -> Any:
        return self.adjacency
