"""Nulls of maps on cortex: rotations of the sphere, and surrogate maps that are as smooth as the real one.

Both keep how smooth a map is. They answer "would another map that is just as smooth agree as well?" and are the nulls of
an **agreement of two maps**. They say nothing about how clustered one map is: its rotated copies are as clustered as
itself, so Moran's I needs a layout null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from topobrain._checks import InputError, require_choice
from topobrain.stats.map_similarity import map_correlation

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SHARES = (0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.5, 0.7, 0.9)
"""Shares of the known neighbours a surrogate is smoothed over; the one that fits the target best is taken."""

N_BINS = 25
MAX_PAIRS = 40_000
MAX_ROWS = 1500  # units whose neighbours are candidates for pairs
_BLOCK = 64  # maps made at once

Kernel = Literal["exponential", "gaussian", "uniform"]


class NearestUnits(NamedTuple):
    """The nearest units of every unit, itself first.

    Attributes
    ----------
    units
        Numbers of the units (unit, nearest), in order of distance.
    distance
        Their distances (unit, nearest); the first is 0.
    """

    units: Int[np.ndarray, "unit nearest"]
    distance: Float[np.ndarray, "unit nearest"]


class Variogram(NamedTuple):
    """How different two units are, by their distance.

    Attributes
    ----------
    distance
        Distances (bin,), in the unit of the distances given.
    value
        Half the mean squared difference of two units that far apart, (bin,) or (map, bin).
    """

    distance: Float[np.ndarray, " bin"]
    value: Float[np.ndarray, "*map bin"]


def nearest_by_distance(distances: Float[np.ndarray, "unit unit"], n_nearest: int | None = None) -> NearestUnits:
    """Return the nearest units of every unit from a matrix of all distances.

    Parameters
    ----------
    distances
        Distances (unit, unit), 0 on the diagonal only.
    n_nearest
        Units kept for each, itself among them; all by default.
    """
    matrix = np.asarray(distances, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or (matrix.diagonal() != 0).any():
        raise InputError(f"distances are a square matrix (unit, unit) with 0 on its diagonal, got shape {matrix.shape}")
    keep = _n_nearest(n_nearest, len(matrix))
    # -1 puts a unit before others that lie at the same place.
    index = np.argsort(matrix - np.eye(len(matrix)), axis=1, kind="stable")[:, :keep]
    return NearestUnits(index.astype(np.int32), np.take_along_axis(matrix, index, axis=1))


def nearest_by_coordinates(coordinates: Float[np.ndarray, "unit axis"], n_nearest: int) -> NearestUnits:
    """Return the nearest units of every unit, as the crow flies.

    On folded cortex the crow crosses sulci: `topobrain.surface.Surface.nearest` follows the surface.

    Parameters
    ----------
    coordinates
        Places (unit, 2 or 3).
    n_nearest
        Units kept for each, itself among them.
    """
    from scipy.spatial import cKDTree

    places = np.asarray(coordinates, dtype=np.float64)
    if places.ndim != 2 or not np.isfinite(places).all():
        raise InputError(f"coordinates are finite numbers (unit, axis), got shape {places.shape}")
    distance, units = cKDTree(places).query(places, _n_nearest(n_nearest, len(places)))
    return NearestUnits(np.asarray(units, dtype=np.int32), np.asarray(distance))


def _n_nearest(given: int | None, n: int) -> int:
    if given is not None and not 2 <= given <= n:
        raise InputError(f"n_nearest must lie between 2 and the {n} units, got {given}")
    return n if given is None else given


def random_rotations(n_null: int, *, seed: int = 0) -> Float[np.ndarray, "null 3 3"]:
    """Return rotations of space drawn uniformly (Haar measure), as matrices (null, 3, 3).

    Four normal numbers scaled to length one are a uniform unit quaternion, and that is a uniform rotation.
    """
    if n_null < 2:
        raise InputError(f"n_null must be 2 or more, got {n_null}")
    w, x, y, z = np.moveaxis(np.random.default_rng(seed).standard_normal((n_null, 4)), 1, 0)
    w, x, y, z = np.stack([w, x, y, z]) / np.sqrt(w**2 + x**2 + y**2 + z**2)
    rows = [
        [1 - 2 * (y**2 + z**2), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x**2 + z**2), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x**2 + y**2)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def spin_permutations(
    sphere: Float[np.ndarray, "vertex 3"],
    n_null: int = 1000,
    *,
    seed: int = 0,
    medial_wall: Bool[np.ndarray, " vertex"] | None = None,
    mirrored: bool = False,
) -> Int[np.ndarray, "null vertex"]:
    """Where does each vertex take its value from when a map is turned about the centre of the sphere?

    The sphere is turned by a uniformly random rotation and every vertex takes the value of the vertex that now lies
    nearest. A value may be taken twice and another not at all, so this is no permutation in the strict sense.

    A rotated map is as smooth as the map itself. Use it for the **agreement of two maps** (`spin_correlation`), never
    for Moran's I of one map.

    Parameters
    ----------
    sphere
        The vertices on a sphere about the origin (vertex, 3); `topobrain.surface.Surface.sphere`.
    n_null, seed
        Number of rotations, and their seed.
    medial_wall
        True (vertex,) where there is no cortex. A vertex that would take its value from there gets -1: no value.
    mirrored
        Turn by the mirror images of the rotations (left and right exchanged). Call once for the left and once, with the
        same seed and ``mirrored=True``, for the right hemisphere, so that both turn alike.

    Returns
    -------
    array of int32 (null, vertex)
        Vertex numbers, -1 for none: 4 bytes a rotation and vertex (41 MB for 1,000 rotations of 10,242 vertices).

    Raises
    ------
    InputError
        The vertices lie on no sphere about the origin, or the medial wall does not fit.

    References
    ----------
    Alexander-Bloch et al. (2018), NeuroImage 178:540: rotations of the sphere, mirrored for the other hemisphere.

    Examples
    --------
    >>> from topobrain.surface import Surface
    >>> spins = spin_permutations(Surface.icosphere(2).sphere, 10)
    >>> spins.shape, bool((spins[0] == np.arange(162)).all())
    ((10, 162), False)
    """
    from scipy.spatial import cKDTree

    places = np.asarray(sphere, dtype=np.float64)
    if places.ndim != 2 or places.shape[1] != 3 or not np.isfinite(places).all():
        raise InputError(f"a sphere has finite coordinates (vertex, 3), got shape {places.shape}")
    radius = np.linalg.norm(places, axis=1)
    if radius.min() < 0.98 * radius.max():
        raise InputError(
            f"these vertices lie on no sphere about the origin: their distances from it run from {radius.min():.3g} to "
            f"{radius.max():.3g}. Give the sphere of the mesh (Surface.sphere), not its white or inflated surface"
        )
    places = places / radius[:, None]
    wall = _wall(medial_wall, len(places))
    tree = cKDTree(places)
    spins = np.empty((n_null, len(places)), dtype=np.int32)
    flip = np.array([-1.0, 1.0, 1.0])
    for row, turn in enumerate(random_rotations(n_null, seed=seed)):
        if mirrored:
            turn = flip[:, None] * turn * flip
        # The map turned by R has at place p what it had at R^-1 p, and p @ R is R^-1 p.
        spins[row] = tree.query(places @ turn)[1]
    if wall is not None:
        spins[wall[spins]] = -1
    return spins


def _wall(given: np.ndarray | None, n: int) -> np.ndarray | None:
    if given is None:
        return None
    wall = np.asarray(given)
    if wall.shape != (n,) or wall.dtype != bool:
        raise InputError(f"medial_wall is a bool a vertex, shape ({n},); got {wall.dtype} of shape {wall.shape}")
    return wall


def spun(
    values: Float[np.ndarray, " vertex"], spins: Int[np.ndarray, "null vertex"]
) -> Float[np.ndarray, "null vertex"]:
    """Return the rotated copies of a map: NaN where the value would come from the medial wall or is missing."""
    one = np.asarray(values, dtype=np.float64)
    turns = np.asarray(spins)
    if one.ndim != 1 or turns.ndim != 2 or turns.shape[1] != one.size:
        raise InputError(
            f"values {one.shape} and spins {turns.shape} do not fit: expected (vertex,) and (null, vertex)"
        )
    turned: np.ndarray = np.append(one, np.nan)[turns]  # -1 is the last place
    return turned


def spin_correlation(
    values: Float[np.ndarray, " vertex"], other: Float[np.ndarray, " vertex"], spins: Int[np.ndarray, "null vertex"]
) -> Float[np.ndarray, " null"]:
    """How well would a map agree with another if it were turned at random on the sphere?

    Parameters
    ----------
    values, other
        Two maps (vertex,), NaN where there is no value. ``values`` is turned.
    spins
        From `spin_permutations`.

    Returns
    -------
    array (null,)
        Pearson's correlation of each turned map with the other one, over the vertices where both have a value. Set the
        true correlation beside it with `topobrain.stats.compare_with_null` (the absolute values of both for a
        two-sided p).

    References
    ----------
    Alexander-Bloch et al. (2018), NeuroImage 178:540.
    """
    blocks: list[np.ndarray] = [
        np.asarray(map_correlation(other, spun(values, spins[start : start + _BLOCK])))
        for start in range(0, len(spins), _BLOCK)
    ]
    return np.concatenate(blocks)


class _Pairs:
    """Pairs of units with a value, and the weight of each in each bin of the variogram.

    The same pairs serve the target and all surrogates, so that their variograms differ by the maps alone.
    """

    def __init__(self, nearest: NearestUnits, present: np.ndarray, max_distance: float | None) -> None:
        n, kept = nearest.units.shape
        # A fixed seed: which pairs are looked at is part of the ruler, not of the random draws.
        rng = np.random.default_rng(0)
        rows = np.flatnonzero(present)
        if rows.size > MAX_ROWS:
            rows = np.sort(rng.choice(rows, MAX_ROWS, replace=False))
        first = np.repeat(rows, kept - 1)
        second = nearest.units[rows, 1:].ravel().astype(np.int64)
        distance = np.asarray(nearest.distance[rows, 1:], dtype=np.float64).ravel()
        usable = present[second] & np.isfinite(distance) & (distance > 0)
        if not usable.any():
            raise InputError("no two units with values are near each other: a variogram is not defined")
        if max_distance is None:  # where every distance is known the far ones say nothing; of near ones most do
            max_distance = float(np.percentile(distance[usable], 25 if kept == n else 70))
        usable &= distance <= max_distance
        if usable.sum() < N_BINS:
            raise InputError(
                f"only {int(usable.sum())} pairs of units lie within {max_distance:.3g}: too few to compare"
            )
        first, second, distance = first[usable], second[usable], distance[usable]
        chosen = _stratified(distance, rng)
        self.first, self.second = first[chosen], second[chosen]
        distance = distance[chosen]
        self.bins = np.linspace(distance.min(), max_distance, N_BINS)
        width = max(3 * (self.bins[1] - self.bins[0]) / 2.68, 1e-12)
        weights = np.exp(-0.5 * ((self.bins[:, None] - distance) / width) ** 2)
        self.weights = weights / weights.sum(axis=1, keepdims=True)

    def variogram(self, maps: np.ndarray) -> np.ndarray:
        """Return the variogram (map, bin) of maps given as columns (unit, map)."""
        half = 0.5 * (maps[self.first] - maps[self.second]) ** 2
        return np.asarray((self.weights @ half).T)


def _stratified(distance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return up to `MAX_PAIRS` pairs, equally many at all distances: near ones are few and matter most."""
    if distance.size <= MAX_PAIRS:
        return np.arange(distance.size)
    edges = np.linspace(distance.min(), distance.max(), N_BINS + 1)[1:-1]
    stratum = np.digitize(distance, edges)
    order = rng.permutation(distance.size)
    order = order[np.argsort(stratum[order], kind="stable")]
    counts = np.bincount(stratum, minlength=N_BINS)
    rank = np.arange(distance.size) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[rank < MAX_PAIRS // N_BINS]


def _checked(values: np.ndarray, nearest: NearestUnits) -> np.ndarray:
    maps = np.asarray(values, dtype=np.float64)
    index, distance = np.shape(nearest.units), np.shape(nearest.distance)
    if len(index) != 2 or index != distance or index[1] < 2:
        raise InputError(f"nearest has units {index} and distance {distance}, expected (unit, nearest) twice")
    if maps.shape[-1:] != index[:1]:
        raise InputError(f"values have shape {maps.shape}, but the neighbours are of {index[0]} units")
    if (nearest.units[:, 0] != np.arange(index[0])).any():
        raise InputError(
            "the first of the nearest units must be the unit itself (nearest_by_distance makes such a list)"
        )
    return maps


def variogram(
    values: Float[np.ndarray, "*map unit"], nearest: NearestUnits, *, max_distance: float | None = None
) -> Variogram:
    r"""How different are two units, by their distance?

    :math:`\gamma(h) = \sum_{ij} w_{ij}(h) \frac{1}{2} (x_i - x_j)^2 / \sum_{ij} w_{ij}(h)` with a Gaussian w around
    ``d_ij = h`` whose standard deviation is 3 / 2.68 bins, at 25 distances.

    Parameters
    ----------
    values
        Maps (..., unit), missing units NaN (the same in all maps).
    nearest
        From `nearest_by_distance`, `nearest_by_coordinates` or `topobrain.surface.Surface.nearest`. Of many pairs at
        most 40,000 are looked at, equally many at all distances and always the same ones.
    max_distance
        Largest distance; by default the 25th percentile of all distances, or the 70th of the distances to the nearest
        units where not all are known.

    References
    ----------
    Viladomat et al. (2014), Biometrics 70:409.
    """
    maps = _checked(values, nearest)
    flat = maps.reshape(-1, maps.shape[-1])
    present = np.isfinite(flat)
    if (present != present[0]).any():
        raise InputError("the maps miss different units: give them one at a time")
    pairs = _Pairs(nearest, present[0], max_distance)
    value = pairs.variogram(flat.T)
    return Variogram(pairs.bins, value.reshape(*maps.shape[:-1], N_BINS))


def variogram_surrogates(
    values: Float[np.ndarray, " unit"],
    nearest: NearestUnits,
    *,
    n_null: int = 1000,
    seed: int = 0,
    shares: Sequence[float] = SHARES,
    kernel: Kernel = "exponential",
    max_distance: float | None = None,
    rank_match: bool = False,
) -> Float[np.ndarray, "null unit"]:
    r"""What other maps are as smooth as this one?

    The values are permuted over the units and smoothed over the nearest ``share`` of their neighbours, for every share;
    the variogram of each is regressed on the target's, :math:`\gamma \approx \alpha + \beta \gamma_s` with
    :math:`\alpha, \beta \ge 0`; the best share s gives the surrogate :math:`\sqrt{\beta}\, x_s + \sqrt{\alpha}\, z` with
    white noise z. Its variogram is the target's, its values are new.

    For the **agreement of two maps**, never for Moran's I of one map: surrogates are made to be as clustered as the map.

    Parameters
    ----------
    values
        The target (unit,). Units that are NaN stay NaN and take no part.
    nearest
        Neighbours of every unit. They must reach as far as values hang together, or the surrogates lack the slow part of
        the map and agree with other maps too seldom: p is then too small. On a real t-map of 29,601 vertices the null
        correlation had a standard deviation of .046, .066, .081 and .098 with 100, 300, 500 and 1,000 neighbours, and of
        .107 under spins. Memory: about 50 bytes a neighbour and unit (1.5 GB there with 1,000), and 8 a surrogate and
        unit.
    n_null, seed
        Number of surrogates, and their seed.
    shares
        Shares of the known neighbours to smooth over. The published ones, 0.1 to 0.9, cannot follow maps smoother than
        their own white noise but rougher than a tenth of the neighbours, so smaller ones are tried too.
    kernel
        Weight of a neighbour at distance d where the farthest lies at D: ``"exponential"`` exp(-d / D), ``"gaussian"``
        exp(-2 (d / D)^2), ``"uniform"``.
    max_distance
        As for `variogram`.
    rank_match
        Give the surrogate exactly the target's values, in the order of its own.

    Returns
    -------
    array (null, unit)
        Correlate them with the other map by `map_correlation`.

    Raises
    ------
    InputError
        Neighbours that do not fit, a constant map, fewer than three values, a share outside 0 to 1.

    References
    ----------
    Burt et al. (2020), NeuroImage 220:117038, after Viladomat et al. (2014), Biometrics 70:409. Different here: the
    regression keeps both coefficients from falling below 0 (published: absolute values), and all variograms use the same
    pairs of units (published: new ones for every surrogate).
    """
    target = _checked(values, nearest)
    require_choice("kernel", kernel, ("exponential", "gaussian", "uniform"))
    if target.ndim != 1:
        raise InputError(f"surrogates are made for one map (unit,), got shape {target.shape}")
    if n_null < 2:
        raise InputError(f"n_null must be 2 or more, got {n_null}")
    present = np.isfinite(target)
    known = target[present]
    if known.size < 3 or np.ptp(known) == 0:
        raise InputError(
            f"a target needs three different values or more, got {known.size} values, all of them the same"
        )
    if not len(shares) or min(shares) <= 0 or max(shares) > 1:
        raise InputError(f"shares lie above 0 and up to 1, got {list(shares)}")
    pairs = _Pairs(nearest, present, max_distance)
    wanted = pairs.variogram(target[:, None])[0]
    counts = sorted({max(2, round(share * nearest.units.shape[1])) for share in shares})
    rng = np.random.default_rng(seed)
    surrogates = np.full((n_null, target.size), np.nan)
    for start in range(0, n_null, _BLOCK):
        size = min(_BLOCK, n_null - start)
        shuffled = np.zeros((target.size, size))
        shuffled[present] = rng.permuted(np.tile(known, (size, 1)), axis=1).T
        noise = rng.standard_normal((known.size, size))
        best = np.full(size, np.inf)
        made = np.empty((known.size, size))
        for count in counts:
            smoothed = _smoothing(nearest, count, kernel, present) @ shuffled
            alpha, beta, misfit = _fitted(pairs.variogram(smoothed), wanted)
            better = misfit < best
            best[better] = misfit[better]
            made[:, better] = (np.sqrt(beta) * smoothed[present] + np.sqrt(alpha) * noise)[:, better]
        surrogates[start : start + size, present] = _ranked(made, known).T if rank_match else made.T
    return surrogates


def _smoothing(nearest: NearestUnits, count: int, kernel: Kernel, present: np.ndarray) -> csr_array:
    """Return the matrix that averages every unit over its ``count`` nearest; missing units count for nothing."""
    from scipy.sparse import csr_array

    index = nearest.units[:, :count]
    weight = np.array(nearest.distance[:, :count], dtype=np.float64)  # in place from here on: these are large
    absent = ~present[index] | ~np.isfinite(weight)
    with np.errstate(invalid="ignore"):  # inf / inf, among units that cannot reach each other
        weight /= np.maximum(weight[:, -1:], 1e-12)
    if kernel == "gaussian":
        weight *= 2 * weight
    if kernel == "uniform":
        weight[:] = 1
    else:
        np.exp(np.negative(weight, out=weight), out=weight)
    weight[absent] = 0
    total = weight.sum(axis=1, keepdims=True)
    np.divide(weight, total, out=weight, where=total > 0)
    rows = np.arange(0, index.size + 1, count)
    return csr_array((weight.ravel(), index.ravel(), rows), shape=(len(index), len(index)))


def _fitted(found: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit wanted = alpha + beta * found (map, bin) with neither below 0; return both and the sum of squared errors."""
    centred = found - found.mean(axis=1, keepdims=True)
    spread = (centred**2).sum(axis=1)
    beta = np.divide(centred @ wanted, spread, out=np.zeros(len(found)), where=spread > 0)
    alpha = wanted.mean() - beta * found.mean(axis=1)
    squares = (found**2).sum(axis=1)
    through_zero = np.divide(found @ wanted, squares, out=np.zeros(len(found)), where=squares > 0)
    beta = np.where(alpha < 0, through_zero, beta)
    alpha = np.where(alpha < 0, 0.0, alpha)
    alpha = np.where(beta < 0, wanted.mean(), alpha)
    beta = np.where(beta < 0, 0.0, beta)
    return alpha, beta, ((alpha[:, None] + beta[:, None] * found - wanted) ** 2).sum(axis=1)


def _ranked(made: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the known values in the order of the made ones (unit, map)."""
    matched = np.empty_like(made)
    np.put_along_axis(matched, np.argsort(made, axis=0, kind="stable"), np.sort(known)[:, None], axis=0)
    return matched
