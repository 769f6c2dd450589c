"""Clusters of neighbouring units: connected, grown from peaks, patches by area, and how far every label is away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from topobrain._checks import InputError, require_choice
from topobrain.stats.layout import Layout, Neighbourhood

Adjacent = Literal["queen", "rook"]


class Clusters(NamedTuple):
    """Groups of neighbouring units.

    Attributes
    ----------
    labels
        Number of each unit's cluster (unit,), -1 for units in none.
    sizes
        Units in each cluster (cluster,).
    peaks
        Unit with the highest value of each cluster (cluster,); of clusters of a mask, which has no values, the unit with
        the lowest number.
    """

    labels: np.ndarray
    sizes: np.ndarray
    peaks: np.ndarray


def connected_clusters(
    mask: Bool[np.ndarray, " unit"], sheet: Neighbourhood, *, min_size: int = 1, neighbours: Adjacent | None = None
) -> Clusters:
    """Which chosen units hang together?

    Parameters
    ----------
    mask
        The chosen units (unit,).
    sheet
        Places of the units: a sheet or a surface.
    min_size
        Units that a cluster needs.
    neighbours
        None: the layout's own neighbours, queen on a sheet and the mesh on a surface; or ``"queen"``, ``"rook"``.

    Returns
    -------
    Clusters
        The largest first; of equal ones, the one with the lowest unit number.

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> connected_clusters(np.array([True, False, True, True, False]), Sheet.grid(1, 5)).labels.tolist()
    [1, -1, 0, 0, -1]
    """
    chosen = np.asarray(mask)
    if chosen.dtype != np.bool_ or chosen.shape != (sheet.n_units,):
        raise InputError(
            f"a mask is True or False for each of {sheet.n_units} units; got {chosen.dtype} of shape {chosen.shape}"
        )
    units, component = _components(chosen, sheet, neighbours)
    sizes = np.bincount(component)
    first = np.full(sizes.size, sheet.n_units)
    np.minimum.at(first, component, units)
    return _renumbered(sheet.n_units, units, component, first, np.lexsort((first, -sizes)), min_size)


def grow_clusters(
    t: Float[np.ndarray, " unit"],
    sheet: Neighbourhood,
    *,
    seed_threshold: float = 1.0,
    grow_threshold: float = 0.0,
    min_size: int = 25,
    neighbours: Adjacent | None = None,
    mask: Bool[np.ndarray, " unit"] | None = None,
) -> Clusters:
    """Which patches of units grow from the peaks of a map?

    The unit with the highest value of all that are left starts a cluster, if it reaches ``seed_threshold``; the cluster
    takes the best of its neighbours while their value lies *above* ``grow_threshold``; then the next begins. A unit
    joins whenever it can, so the order does not matter: the clusters are the connected parts of the units above
    ``grow_threshold`` that hold a seed, and they are found as such.

    Parameters
    ----------
    t
        Map (unit,). NaN units never join.
    sheet
        Places of the units: a sheet or a surface.
    seed_threshold, grow_threshold
        Least value of a seed, and the value that every other unit must exceed. (TopoLM includes units *at* a threshold
        of 0 and so absorbs those a mask has set to 0.)
    min_size
        Units that a cluster needs.
    neighbours
        None: rook on a sheet, as in TopoLM, and the mesh on a surface; or ``"rook"``, ``"queen"``.
    mask
        Units that may join (unit,), for instance the significant ones; None for all.

    Returns
    -------
    Clusters
        The one with the highest peak first.

    References
    ----------
    Rathi et al. (2025), TopoLM, ICLR; arXiv 2410.11516, appendix on clustering.

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> grow_clusters(np.array([3.0, 0.5, 0.0, 2.0, 0.9]), Sheet.grid(1, 5), min_size=2).labels.tolist()
    [0, 0, -1, 1, 1]
    """
    values = _one_map(t, sheet)
    if not grow_threshold <= seed_threshold:
        raise InputError(f"a seed is no lower than the units around it: {seed_threshold=} lies below {grow_threshold=}")
    inside = values > grow_threshold  # NaN is not above anything
    if mask is not None:
        if np.asarray(mask).dtype != np.bool_ or np.shape(mask) != values.shape:
            raise InputError(f"mask must be True or False for each of {sheet.n_units} units, shape ({sheet.n_units},)")
        inside &= mask
    if neighbours is None and isinstance(sheet, Layout):
        neighbours = "rook"
    units, component = _components(inside, sheet, neighbours)
    by_height = np.lexsort((units, -values[units]))  # the first of a component in this order is its peak
    peaks = units[by_height][np.unique(component[by_height], return_index=True)[1]]
    order = np.lexsort((peaks, -values[peaks]))
    order = order[values[peaks[order]] >= seed_threshold]
    return _renumbered(sheet.n_units, units, component, peaks, order, min_size)


def threshold_patches(
    t: Float[np.ndarray, " unit"],
    sheet: Layout,
    *,
    threshold: float,
    min_area: float = 100.0,
    max_area: float = 4500.0,
    neighbours: Adjacent = "queen",
) -> Clusters:
    """Which patches of a map lie above a threshold and are neither specks nor half the sheet?

    Parameters
    ----------
    t
        Map (unit,), smoothed beforehand as wished (TDANN: Gaussian, sigma 2.4 mm). NaN units lie in no patch.
    sheet
        Places of the units; a unit covers ``spacing`` squared.
    threshold
        Value that every unit of a patch exceeds.
    min_area, max_area
        Least and greatest area, in the square of the spacing's unit (the defaults are mm squared).
    neighbours
        ``"queen"`` or ``"rook"``.

    Returns
    -------
    Clusters
        The one with the highest peak first.

    References
    ----------
    Margalit et al. (2024), Neuron 112:2435, methods.
    """
    if not 0 <= min_area <= max_area:
        raise InputError(f"areas must satisfy 0 <= min_area <= max_area; got {min_area} and {max_area}")
    found = grow_clusters(
        t, sheet, seed_threshold=threshold, grow_threshold=threshold, min_size=1, neighbours=neighbours
    )
    area = found.sizes * sheet.spacing**2
    keep = np.flatnonzero((area >= min_area) & (area <= max_area))
    number = np.append(np.full(area.size, -1), -1)  # the last entry serves units in no patch
    number[keep] = np.arange(keep.size)
    return Clusters(number[found.labels], found.sizes[keep], found.peaks[keep])


def radius_until_all(
    preference: Int[np.ndarray, " unit"], sheet: Layout, *, labels: Sequence[int] | None = None
) -> Float[np.ndarray, " unit"]:
    """How far must one go from each unit until every preference has been met?

    The radius of the smallest disc around a unit that holds a unit of every label; its own label is met at 0. In maps
    of preferred orientation, its mean over units is the cluster size of All-TNN.

    Parameters
    ----------
    preference
        Preferred label of each unit (unit,), from 0; -1 for units without one, which are neither measured nor met.
    sheet
        Places of the units.
    labels
        Labels to meet; None for those that occur.

    Returns
    -------
    array (unit,)
        Radius in the unit of the distances. NaN for units without a preference and for those that never meet a label.

    References
    ----------
    Lu et al. (2025), Nat. Hum. Behav., All-TNN, methods, "cluster size".

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> radius_until_all(np.array([0, 0, 1, 2]), Sheet.grid(1, 4)).tolist()
    [3.0, 2.0, 1.0, 2.0]
    """
    preferred = np.asarray(preference)
    if preferred.shape != (sheet.n_units,) or preferred.dtype.kind not in "iu":
        raise InputError(
            f"preference is one whole number a unit, shape ({sheet.n_units},); got {preferred.dtype} of shape {preferred.shape}"
        )
    wanted = np.unique(preferred[preferred >= 0]) if labels is None else np.asarray(labels)
    radius = np.full(sheet.n_units, np.nan)
    if not wanted.size or not np.isin(wanted, preferred).all():
        return radius
    distance = sheet.distances()
    farthest = np.zeros(sheet.n_units)
    for label in wanted:
        np.maximum(farthest, distance[:, preferred == label].min(axis=1), out=farthest)
    # parts of a surface that no path joins are infinitely far apart: a label there is never met
    return np.where((preferred >= 0) & np.isfinite(farthest), farthest, np.nan)


def _one_map(values: np.ndarray, sheet: Neighbourhood) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64)
    if found.shape != (sheet.n_units,):
        raise InputError(f"a map has shape {found.shape}, expected one value for each of {sheet.n_units} units")
    return found


def adjacency(sheet: Neighbourhood, kind: Adjacent | None) -> Any:
    """Return the binary adjacency (unit, unit) of a layout; None is the layout's own."""
    if kind is None:
        return sheet.neighbours()
    require_choice("neighbourhood", kind, ("queen", "rook"))
    if not isinstance(sheet, Layout):
        raise InputError(f"{kind!r} neighbours are of grids; give neighbours=None for those of this surface's mesh")
    return sheet.neighbours(kind)


def _components(inside: np.ndarray, sheet: Neighbourhood, kind: Adjacent | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the chosen units, and the number of the connected part that each lies in."""
    from scipy.sparse.csgraph import connected_components

    units = np.flatnonzero(inside)
    joined = adjacency(sheet, kind)[units][:, units]
    return units, np.asarray(connected_components(joined, directed=False)[1], dtype=np.int64)


def _renumbered(
    n_units: int, units: np.ndarray, component: np.ndarray, peaks: np.ndarray, order: np.ndarray, min_size: int
) -> Clusters:
    """Keep the components of ``order`` that are large enough, numbered in that order."""
    if min_size < 1:
        raise InputError(f"min_size must be one unit or more, got {min_size}")
    sizes = np.bincount(component, minlength=peaks.size)
    kept = order[sizes[order] >= min_size]
    number = np.full(peaks.size, -1)
    number[kept] = np.arange(kept.size)
    labels = np.full(n_units, -1)
    labels[units] = number[component]
    return Clusters(labels, sizes[kept], peaks[kept])
