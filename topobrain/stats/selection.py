"""Which units: the top ones, those of a percentile band, and random ones to compare them with."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from topobrain._checks import InputError


def select_top(score: Float[np.ndarray, " unit"], top: float | int) -> Bool[np.ndarray, " unit"]:
    """Return a mask of exactly k units with the highest scores; ties go to the lower unit number, NaN is never chosen.

    Parameters
    ----------
    score
        One value a unit, e.g. signed t.
    top
        A share in (0, 1) of all units (rounded, at least one), or a count (an int of 1 or more).

    Examples
    --------
    >>> select_top(np.array([3.0, 3, 3, 2, 2, 1]), 2).tolist()
    [True, True, False, False, False, False]
    """
    is_count = isinstance(top, int | np.integer) and not isinstance(top, bool)
    if not is_count and not 0 < top < 1:
        raise InputError(f"top must be a share between 0 and 1, or a whole number of units, got {top!r}")
    order = _ranked(score)
    n_units = np.size(score)
    k = int(top) if is_count else max(1, round(top * n_units))
    if not 1 <= k <= order.size:
        raise InputError(f"top={top!r} asks for {k} units, but {order.size} of {n_units} units have a score")
    return _mask(n_units, order[:k])


def select_band(
    score: Float[np.ndarray, " unit"], low: float | int, high: float | int, *, n: int | None = None, seed: int = 0
) -> Bool[np.ndarray, " unit"]:
    """Return a mask of units whose score ranks between two percentiles: controls for the most selective ones.

    Units with a score are ranked once, ties in the order of `select_top`, so that bands that touch share no unit and miss
    none. Of m ranked units, a band holds those from position ``round(low m / 100)`` up to ``round(high m / 100)``,
    counted from the lowest score. A band without width holds the n units nearest to its percentile: 100-100 the n
    highest (those of `select_top`), 0-0 the n lowest, 50-50 the n in the middle.

    Parameters
    ----------
    score
        One value a unit. Units that are NaN are never chosen.
    low, high
        Percentiles, 0 (lowest score) to 100.
    n
        Number of units, drawn at random from the band; None for the whole band. A band without width needs it.
    seed
        Seed of the draw.

    Raises
    ------
    InputError
        Percentiles out of order, or a band with fewer than n units.

    References
    ----------
    AlKhamissi et al. (2025), NAACL: "100-100", "0-0" and "80-90" in the range selector of their localizers.

    Examples
    --------
    >>> score = np.array([5.0, 1, 4, 2, 3])
    >>> [np.flatnonzero(select_band(score, *band, n=2)).tolist() for band in ((100, 100), (0, 0))]
    [[0, 2], [1, 3]]
    >>> np.flatnonzero(select_band(score, 20, 60)).tolist()
    [3, 4]
    """
    if not 0 <= low <= high <= 100:
        raise InputError(f"a band lies between two percentiles, 0 <= low <= high <= 100; got {low} and {high}")
    whole = isinstance(n, int | np.integer) and not isinstance(n, bool)
    if n is not None and (not whole or n < 1):
        raise InputError(f"n must be a whole number of units, 1 or more, got {n!r}")
    rising = _ranked(score)[::-1]
    m = rising.size
    if low == high:
        if n is None or n > m:
            raise InputError(f"the band {low}-{high} has no width: say how many units, n between 1 and {m}; got {n}")
        start = min(max(round(low * m / 100 - n / 2), 0), m - n)
        return _mask(np.size(score), rising[start : start + n])
    band = rising[round(low * m / 100) : round(high * m / 100)]
    if band.size < (n or 1):
        raise InputError(f"the band {low}-{high} holds {band.size} of {m} units with a score: {n or 1} asked for")
    if n is not None:
        band = np.random.default_rng(seed).choice(np.sort(band), size=n, replace=False)
    return _mask(np.size(score), band)


def random_like(
    mask: Bool[np.ndarray, " unit"],
    groups: Int[np.ndarray, " unit"] | Shaped[np.ndarray, " unit"],
    seed: int = 0,
) -> Bool[np.ndarray, " unit"]:
    """Return random units outside a mask, as many in every group as the mask has there: its control in a lesion.

    Parameters
    ----------
    mask
        The chosen units.
    groups
        Group of each unit (numbers or names), usually its layer.
    seed
        Seed of the draw.

    Raises
    ------
    InputError
        A group with fewer units outside the mask than inside.

    Examples
    --------
    >>> random_like(np.array([True, False, False, True]), np.array(["a", "a", "b", "b"])).tolist()
    [False, True, True, False]
    """
    chosen, labels = np.asarray(mask), np.asarray(groups)
    if chosen.dtype != np.bool_ or chosen.ndim != 1 or labels.shape != chosen.shape:
        raise InputError(
            f"expected a mask of True and False and as many groups, got {chosen.dtype} {chosen.shape} and {labels.shape}"
        )
    rng = np.random.default_rng(seed)
    drawn = np.zeros(chosen.size, dtype=bool)
    for label in np.unique(labels):
        inside = labels == label
        free, wanted = np.flatnonzero(inside & ~chosen), int((inside & chosen).sum())
        if wanted > free.size:
            raise InputError(
                f"group {str(label)!r} has {wanted} units in the mask and {free.size} outside: not enough for a control"
            )
        drawn[rng.choice(free, size=wanted, replace=False)] = True
    return drawn


def _ranked(score: np.ndarray) -> np.ndarray:
    """Return the units that have a score, best first; ties in the order of their numbers."""
    values = np.asarray(score, dtype=np.float64)
    if values.ndim != 1:
        raise InputError(f"scores have shape {values.shape}, expected one value a unit")
    order = np.argsort(np.where(np.isfinite(values), -values, np.inf), kind="stable")
    return order[: int(np.isfinite(values).sum())]


def _mask(n_units: int, chosen: np.ndarray) -> np.ndarray:
    mask = np.zeros(n_units, dtype=bool)
    mask[chosen] = True
    return mask
