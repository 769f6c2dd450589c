"""Moran's I of maps and its layout null."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, TypedDict, Unpack, cast

import numpy as np
from jaxtyping import Float, Int

from topobrain._checks import InputError, require_choice
from topobrain.stats.clusters import adjacency
from topobrain.stats.layout import Layout, Neighbourhood
from topobrain.stats.nulls import (
    MOST_TOGETHER,
    NullTest,
    PermutationProducts,
    Tail,
    compare_with_null,
    product_permutations,
)

Neighbours = Literal["queen", "rook", "distance"]


class Weighting(TypedDict, total=False):
    """Which units count as neighbours, and how much: see `spatial_weights`."""

    neighbours: Neighbours | None
    reach: float | None
    row_standardised: bool
    weights: Any


def spatial_weights(
    sheet: Neighbourhood,
    *,
    neighbours: Neighbours | None = None,
    reach: float | None = None,
    row_standardised: bool = False,
    weights: Any = None,
) -> Any:
    """Return spatial weights (unit, unit) as a sparse matrix.

    Parameters
    ----------
    sheet
        Places of the units: a sheet, or a surface, whose neighbours are those of its mesh.
    neighbours
        None: the layout's own neighbours, queen on a sheet and the mesh on a surface, weight 1. ``"queen"`` (8 places
        around) or ``"rook"`` (4): of sheets. ``"distance"``: 1 / distance up to ``reach``.
    reach
        Largest distance that counts, in the unit of the layout's spacing. Needed for ``"distance"``, refused otherwise.
    row_standardised
        Divide every unit's weights by their sum; a unit without neighbours keeps none.
    weights
        Your own weights (unit, unit), sparse or dense, instead of ``neighbours``: finite, not negative.

    Raises
    ------
    InputError
        Options that contradict each other, weights of another shape, a sheet without layout.

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> spatial_weights(Sheet.grid(1, 3), neighbours="distance", reach=2).toarray().tolist()
    [[0.0, 1.0, 0.5], [1.0, 0.0, 1.0], [0.5, 1.0, 0.0]]
    """
    if neighbours is not None:
        require_choice("neighbourhood", neighbours, ("queen", "rook", "distance"))
    if weights is not None:
        if neighbours is not None or reach is not None:
            raise InputError("give either weights of your own or neighbours, not both")
        found = _own_weights(weights, sheet.n_units)
    elif neighbours == "distance":
        found = _inverse_distance(sheet, reach)
    elif reach is not None:
        raise InputError(f"reach={reach} goes with neighbours='distance'")
    else:
        found = adjacency(sheet, neighbours)
    return _row_standardised(found) if row_standardised else found


def _own_weights(weights: Any, n_units: int) -> Any:
    from scipy.sparse import csr_array

    found = csr_array(weights, dtype=np.float64)
    if found.shape != (n_units, n_units):
        raise InputError(f"weights have shape {found.shape}, expected one row and column for each of {n_units} units")
    if not (np.isfinite(found.data).all() and (found.data >= 0).all()):
        raise InputError("weights between units must be finite and not negative")
    return found


def _inverse_distance(sheet: Neighbourhood, reach: float | None) -> Any:
    from scipy.sparse import csr_array

    if reach is None or not reach > 0 or not math.isfinite(reach):
        raise InputError(f"neighbours='distance' needs reach, the largest distance that counts; got {reach!r}")
    if not hasattr(sheet, "distances"):
        raise InputError("neighbours='distance' needs distances, which this layout does not have")
    distance = np.asarray(sheet.distances(), dtype=np.float64)
    # a diagonal step is a rounded root: a reach of that many steps must hold it
    pair = np.nonzero((distance <= reach * (1 + 1e-12)) & (distance > 0))
    return csr_array((1 / distance[pair], pair), shape=distance.shape)


def _row_standardised(weights: Any) -> Any:
    from scipy.sparse import diags_array

    total = np.asarray(weights.sum(axis=1)).ravel()
    share = np.divide(1.0, total, out=np.zeros_like(total, dtype=np.float64), where=total > 0)
    return (diags_array(share) @ weights).tocsr()


NEAR = 1e-5
"""Draws of Moran's I within this distance of the index are computed in float64."""


@dataclass(frozen=True)
class _Form:
    """Weights as the quadratic form of Moran's I: z'Wz = z'Uz with U upper triangular, half the entries."""

    n: int
    total: float
    row: np.ndarray
    column: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, weights: Any, *, symmetric: bool = False) -> _Form:
        from scipy.sparse import csr_array

        n, total = weights.shape[0], float(weights.data.sum())
        if n < 3:
            raise InputError(f"Moran's I needs at least three units with values, got {n}")
        if total <= 0:
            raise InputError("no two units with values are neighbours: Moran's I is not defined")
        row, column = _entries(weights)
        if symmetric:  # and without a diagonal
            above = column > row
            return cls(n, total, row[above], column[above], 2.0 * weights.data[above])
        ends = (np.minimum(row, column), np.maximum(row, column))
        upper = csr_array((np.asarray(weights.data, dtype=np.float64), ends), shape=(n, n))  # adds up equal ends
        return cls(n, total, *_entries(upper), upper.data)

    @cached_property
    def upper(self) -> Any:
        """U as a sparse matrix."""
        from scipy.sparse import csr_array

        start = np.zeros(self.n + 1, dtype=np.int32)
        np.cumsum(np.bincount(self.row, minlength=self.n), out=start[1:])
        return csr_array((self.weight, self.column, start), shape=(self.n, self.n))

    @cached_property
    def shifts(self) -> _Shifts | None:
        """U as shifts of the map, where it is of that kind."""
        return _Shifts.of(self)

    def index(self, maps: np.ndarray) -> np.ndarray:
        """Return Moran's I of each map (map, unit)."""
        centred, spread = _centred(maps)
        return np.asarray(self._scale / spread * self._products(np.ascontiguousarray(centred.T)))

    def permuted(self, one: np.ndarray, orders: PermutationProducts | np.ndarray) -> tuple[float, np.ndarray]:
        """Return Moran's I of a map (unit,) as it is, and after each of the permutations (null,)."""
        centred, spread = _centred(one[None])
        values, scale = centred[0], self._scale / spread[0]
        if isinstance(orders, PermutationProducts):
            if self.shifts is None:
                found = scale * self._table(values, orders).T.ravel()
                return float(found[0]), found[orders.cell]  # the first product is the identity
            return self._shifted(values, scale, orders)
        found = np.empty(len(orders))
        for start in range(0, len(orders), MOST_TOGETHER):
            block = slice(start, start + MOST_TOGETHER)
            found[block] = scale * self._products(np.ascontiguousarray(values[orders[block]].T))
        return float(scale * self._products(values[:, None])[0]), found

    def _shifted(self, values: np.ndarray, scale: float, orders: PermutationProducts) -> tuple[float, np.ndarray]:
        """Return the index and its permuted values (null,), computed in float32 where that cannot change a p.

        float32 moves a draw by about 1e-7; those that come near the index, ties of discrete maps among them, are computed
        again in float64.
        """
        assert self.shifts is not None
        index = float(scale * self._products(values[:, None])[0])
        table = self.shifts.table(values.astype(np.float32), orders)
        found = scale * table.T.ravel().astype(np.float64)
        found = found[orders.cell]
        near = np.flatnonzero(np.abs(found - index) < NEAR)
        if near.size:
            i, j = np.divmod(orders.cell[near], len(orders.second))
            again = np.stack([values[orders.first[a]][orders.second[b]] for a, b in zip(i, j, strict=True)], axis=1)
            found[near] = scale * self._products(np.ascontiguousarray(again))
        return index, found

    @property
    def _scale(self) -> float:
        return self.n / self.total

    def _products(self, columns: np.ndarray) -> np.ndarray:
        return _column_dots(columns, self.upper @ columns)

    def _table(self, values: np.ndarray, orders: PermutationProducts) -> np.ndarray:
        columns = np.ascontiguousarray(_permuted_maps(values, orders.first).T)
        buffer, table = np.empty_like(columns), np.empty((len(orders.second), columns.shape[1]))
        for row, order in enumerate(orders.second):
            # all products with this order in one go: rows of the buffer are short and lie together in memory
            np.take(columns, order, axis=0, out=buffer, mode="clip")
            weighted = self.upper @ buffer  # kept until the next is there: memory just given back costs time to get
            table[row] = _column_dots(buffer, weighted)
        return table


@dataclass(frozen=True)
class _Shifts:
    """A form of one weight whose entries lie on few diagonals, as a grid's do: products of a map and its shifts.

    A shift by one also joins the end of every row of the grid to the start of the next, and a torus has neighbours at
    its borders that no such shift joins. ``corrections`` are such pairs, first all the starts and then all the ends, with
    the sign with which they count: -1 and 1.
    """

    weight: float
    offsets: tuple[int, ...]
    corrections: tuple[tuple[float, np.ndarray], ...]

    @classmethod
    def of(cls, form: _Form) -> _Shifts | None:
        """Return the shifts that make up a form; None if it is of another kind."""
        n, weight = form.n, float(form.weight[0])
        if (form.weight != weight).any():
            return None
        offset = form.column - form.row
        offsets = np.flatnonzero(np.bincount(offset, minlength=n) > (n - np.arange(n)) / 2)
        if not offsets.size:
            return None
        other = np.ones(offset.size, dtype=bool)
        starts, ends = [], []
        for d in offsets:
            joined = offset == d
            other &= ~joined
            absent = np.ones(n - d, dtype=bool)
            absent[form.row[joined]] = False
            starts.append(np.flatnonzero(absent))
            ends.append(starts[-1] + d)
        pairs = (-1.0, np.concatenate([*starts, *ends])), (1.0, np.concatenate([form.row[other], form.column[other]]))
        if sum(ends.size for _, ends in pairs) > n / 2:  # with many holes the sparse product is the quicker one
            return None
        return cls(weight, tuple(offsets.tolist()), tuple(pair for pair in pairs if pair[1].size))

    def table(self, values: np.ndarray, orders: PermutationProducts) -> np.ndarray:
        """Return z'Uz of every product of permutations (second, first)."""
        maps, n = _permuted_maps(values, orders.first), values.size
        buffer, table = np.empty_like(maps), np.zeros((len(orders.second), len(maps)), dtype=maps.dtype)
        for total, order in zip(table, orders.second, strict=True):
            np.take(maps, order, axis=1, out=buffer, mode="clip")
            for d in self.offsets:
                total += np.vecdot(buffer[:, : n - d], buffer[:, d:])
            for sign, pairs in self.corrections:
                ends = np.take(buffer, pairs, axis=1, mode="clip")
                total += sign * np.vecdot(ends[:, : pairs.size // 2], ends[:, pairs.size // 2 :])
        return self.weight * table


def _entries(weights: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column of every entry of a sparse matrix, as short numbers."""
    rows = np.arange(weights.shape[0], dtype=np.int32)
    return np.repeat(rows, np.diff(weights.indptr)), weights.indices.astype(np.int32, copy=False)


def _permuted_maps(values: np.ndarray, orders: np.ndarray) -> np.ndarray:
    maps = np.empty(orders.shape, dtype=values.dtype)
    for row, order in enumerate(orders):
        np.take(values, order, out=maps[row], mode="clip")
    return maps


def _column_dots(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    n, m = first.shape
    fold = math.gcd(n, 32)  # sums over long rows are quicker than over many short ones
    rows = (n // fold, fold * m)
    sums = np.einsum("us,us->s", first.reshape(rows), second.reshape(rows))
    return np.asarray(sums.reshape(fold, m).sum(axis=0))


def _centred(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centred = maps - maps.mean(axis=1, keepdims=True)
    spread = (centred**2).sum(axis=1)
    if (spread <= 1e-24 * (maps**2).sum(axis=1)).any():
        raise InputError("a map is constant: Moran's I is not defined")
    return centred, spread


def _checked(values: np.ndarray, sheet: Neighbourhood) -> np.ndarray:
    maps = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if maps.ndim != 2 or maps.shape[1] != sheet.n_units:
        raise InputError(f"values have shape {np.shape(values)}, expected one value for each of {sheet.n_units} units")
    if np.isinf(maps).any():
        raise InputError("a map holds infinite values; units without a value are NaN")
    return maps


def _groups(maps: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return rows of maps that miss the same units, with the units they have."""
    missing = np.isnan(maps)
    if (missing == missing[0]).all():
        return [(np.arange(len(maps)), np.flatnonzero(~missing[0]))]
    patterns, group = np.unique(missing, axis=0, return_inverse=True)
    return [(np.flatnonzero(group.ravel() == g), np.flatnonzero(~gone)) for g, gone in enumerate(patterns)]


def _form(sheet: Neighbourhood, keep: np.ndarray, weighting: Weighting) -> _Form:
    if keep.size == sheet.n_units and _is_plain(weighting) and isinstance(sheet, Layout) and _is_hashable(sheet):
        return _kept_form(cast(Hashable, sheet), weighting.get("neighbours"))
    standardised = bool(weighting.get("row_standardised", False))
    plain: Weighting = {**weighting, "row_standardised": False}
    weights = spatial_weights(sheet, **plain)
    if keep.size < sheet.n_units:
        weights = weights[keep][:, keep]  # before rows are standardised: who is gone has no weight
    if standardised:
        weights = _row_standardised(weights)
    return _Form.of(weights, symmetric=not standardised and weighting.get("weights") is None)


def _is_plain(weighting: Weighting) -> bool:
    other = weighting.get("weights") is not None or weighting.get("reach") is not None
    return not (other or weighting.get("row_standardised") or weighting.get("neighbours") == "distance")


def _is_hashable(sheet: Neighbourhood) -> bool:
    try:
        hash(sheet)
    except TypeError:
        return False
    return True


@lru_cache(maxsize=16)
def _kept_form(sheet: Hashable, neighbours: Neighbours | None) -> _Form:
    """Keep the forms of whole grids: the layers of a model mostly have equal ones."""
    return _Form.of(spatial_weights(cast(Layout, sheet), neighbours=neighbours), symmetric=True)


def morans_i(
    values: Float[np.ndarray, " unit"] | Float[np.ndarray, "map unit"],
    sheet: Neighbourhood,
    *,
    neighbours: Neighbours | None = None,
    reach: float | None = None,
    row_standardised: bool = False,
    weights: Any = None,
) -> float | Float[np.ndarray, " map"]:
    r"""How alike are neighbouring units of a map?

    :math:`I = \frac{n}{S_0} \frac{\sum_{ij} w_{ij} z_i z_j}{\sum_i z_i^2}` with :math:`z = x - \bar x`,
    :math:`S_0 = \sum_{ij} w_{ij}` and, unless another weighting is asked for, weight 1 between neighbours. Expected
    without structure: -1 / (n - 1). Smoothing alone raises it (noise smoothed at 2 grid steps FWHM has 0.60, see
    `smoothing_floor`): read it beside a layout null only.

    Parameters
    ----------
    values
        One map (unit,) or several (map, unit). Units that are NaN leave the graph.
    sheet
        Places of the units: a sheet (a wrapped one closes on itself) or a surface.
    neighbours, reach, row_standardised, weights
        Who counts as a neighbour, and how much: see `spatial_weights`. By default the eight places around a unit of a
        sheet, the mesh's edges on a surface. Rows are standardised after missing units have left.

    Returns
    -------
    float or array (map,)

    Raises
    ------
    InputError
        A sheet without layout, a constant map, fewer than three units with values, no neighbours among them.

    References
    ----------
    Moran (1950), Biometrika 37:17; Cliff & Ord (1981), Spatial Processes.

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> stripes, checks = np.repeat([0.0, 1.0], 18), np.indices((6, 6)).sum(axis=0).ravel() % 2.0
    >>> [round(morans_i(m, Sheet.grid(6, 6), neighbours="rook"), 3) for m in (stripes, checks)]
    [0.8, -1.0]
    """
    weighting = Weighting(neighbours=neighbours, reach=reach, row_standardised=row_standardised, weights=weights)
    maps = _checked(values, sheet)
    result = np.empty(len(maps))
    for rows, keep in _groups(maps):
        result[rows] = _form(sheet, keep, weighting).index(maps[rows][:, keep])
    return float(result[0]) if np.ndim(values) == 1 else result


def layout_null(
    values: Float[np.ndarray, " unit"] | Float[np.ndarray, "map unit"],
    sheet: Neighbourhood,
    *,
    n_null: int = 1000,
    seed: int = 0,
    orders: PermutationProducts | Int[np.ndarray, "null unit"] | None = None,
    **weighting: Unpack[Weighting],
) -> Float[np.ndarray, " null"] | Float[np.ndarray, "map null"]:
    """What would Moran's I of a map be if its units lay in other places?

    The places of the units are permuted, without smoothing; a map that was smoothed must be permuted *before* it is
    smoothed. NaN units stay where they are. Maps that have the same units share their permutations.

    Parameters
    ----------
    values
        One map (unit,) or several (map, unit).
    sheet
        Places of the units.
    n_null, seed
        Number and seed of the permutations, drawn by `product_permutations`.
    orders
        Your own permutations instead, for instance of `layout_permutations`: (null, unit), of the units with a value,
        in their order.
    weighting
        As for `morans_i`: ``neighbours``, ``reach``, ``row_standardised``, ``weights``.

    Returns
    -------
    array (null,) or (map, null)

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> noise = np.random.default_rng(0).standard_normal(400)
    >>> layout_null(noise, Sheet.grid(20, 20), n_null=200).mean().round(2)
    np.float64(-0.0)
    """
    maps = _checked(values, sheet)
    found: np.ndarray | None = None
    for rows, keep in _groups(maps):
        form = _form(sheet, keep, weighting)
        drawn = product_permutations(keep.size, n_null, seed=seed) if orders is None else _own_orders(orders, keep.size)
        for row in rows:
            null = form.permuted(maps[row, keep], drawn)[1]
            found = np.empty((len(maps), null.size)) if found is None else found
            found[row] = null
    assert found is not None
    return np.asarray(found[0] if np.ndim(values) == 1 else found)


def _own_orders(orders: PermutationProducts | np.ndarray, n_units: int) -> PermutationProducts | np.ndarray:
    table = orders.first if isinstance(orders, PermutationProducts) else np.asarray(orders)
    if table.ndim != 2 or table.shape[1] != n_units or table.dtype.kind not in "iu":
        raise InputError(
            f"orders are permutations (null, unit) of the {n_units} units with a value; got {table.dtype} of shape {table.shape}"
        )
    if isinstance(orders, PermutationProducts):
        if (orders.first[0] != np.arange(n_units)).any() or (orders.second[0] != np.arange(n_units)).any():
            raise InputError(
                "the first of each table of permutations must be the identity, as product_permutations has it"
            )
        return orders
    if not (np.sort(table, axis=1) == np.arange(n_units)).all():
        raise InputError(f"every row of orders must hold each of 0 to {n_units - 1} once")
    return table


def morans_i_test(
    values: Float[np.ndarray, " unit"],
    sheet: Neighbourhood,
    *,
    n_null: int = 1000,
    seed: int = 0,
    alternative: Tail = "greater",
    orders: PermutationProducts | Int[np.ndarray, "null unit"] | None = None,
    **weighting: Unpack[Weighting],
) -> NullTest:
    """Are neighbouring units of a map more alike than units in random places?

    `morans_i` beside `layout_null`: value, mean and sd of the null, z, p with the +1 rule, and the floor-corrected
    index. For one map; of many, compare each with its row of `layout_null`.

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> found = morans_i_test(np.repeat([0.0, 1.0], 18), Sheet.grid(6, 6), n_null=99)
    >>> round(found.value, 2), found.p
    (0.71, 0.01)
    """
    maps = _checked(values, sheet)
    if np.ndim(values) != 1:
        raise InputError("morans_i_test takes one map (unit,); of many, compare morans_i with the rows of layout_null")
    keep = _groups(maps)[0][1]
    drawn = product_permutations(keep.size, n_null, seed=seed) if orders is None else _own_orders(orders, keep.size)
    value, null = _form(sheet, keep, weighting).permuted(maps[0, keep], drawn)
    return compare_with_null(value, null, alternative=alternative)
