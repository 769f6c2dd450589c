"""Two-sample t-values of every unit at once, false discovery rate, and exact top-k selection."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from topobrain._checks import InputError, require_choice

Alternative = Literal["two-sided", "greater", "less"]


class TMap(NamedTuple):
    """t-values and p-values, one a unit."""

    t: np.ndarray
    p: np.ndarray


def _moments(on: np.ndarray, off: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    for side, values in (("on", on), ("off", off)):
        if values.ndim != 2 or len(values) < 2:
            raise InputError(
                f"the {side} side has shape {values.shape}: expected (stimulus, unit) with 2 stimuli or more"
            )
    if on.shape[1] != off.shape[1]:
        raise InputError(f"the two sides have {on.shape[1]} and {off.shape[1]} units")
    difference = on.mean(axis=0, dtype=np.float64) - off.mean(axis=0, dtype=np.float64)
    return difference, _variance(on), _variance(off), len(on), len(off)


def _variance(values: np.ndarray) -> np.ndarray:
    variance = values.var(axis=0, ddof=1, dtype=np.float64)
    # the mean of equal values can be off by a rounding error, which would leave a constant unit a tiny variance
    return np.asarray(np.where(np.ptp(values, axis=0) == 0, 0.0, variance))


def _p_value(t: np.ndarray, df: np.ndarray | float, alternative: Alternative) -> np.ndarray:
    from scipy.special import stdtr

    require_choice("alternative", alternative, ("two-sided", "greater", "less"))
    below = {"two-sided": -np.abs(t), "greater": -t, "less": t}[alternative]
    p = stdtr(df, below) * (2 if alternative == "two-sided" else 1)
    return np.asarray(p, dtype=np.float64)


def welch_t(
    on: Float[np.ndarray, "on_stimulus unit"],
    off: Float[np.ndarray, "off_stimulus unit"],
    *,
    alternative: Alternative = "two-sided",
) -> TMap:
    r"""Does each unit respond differently to the two conditions, without assuming equal variances?

    :math:`t = (\bar x_1 - \bar x_2) / \sqrt{s_1^2/n_1 + s_2^2/n_2}` with unbiased variances and the
    Welch-Satterthwaite degrees of freedom. Sums are accumulated in float64.

    Parameters
    ----------
    on, off
        Activations (stimulus, unit) of the two conditions, at least two stimuli each.
    alternative
        ``"two-sided"``, or the one-sided ``"greater"`` (on > off) or ``"less"``.

    Returns
    -------
    TMap
        ``t`` and ``p``, one a unit. A unit that is constant within both conditions has no t-value: both are NaN.

    References
    ----------
    Welch (1947), Biometrika 34:28.

    Examples
    --------
    >>> on, off = np.array([[1.0], [2.0], [4.0]]), np.array([[0.0], [1.0], [1.0]])
    >>> [round(float(v[0]), 4) for v in welch_t(on, off)]
    [1.7678, 0.1908]
    """
    difference, var_on, var_off, n_on, n_off = _moments(on, off)
    a, b = var_on / n_on, var_off / n_off
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(a + b > 0, difference / np.sqrt(a + b), np.nan)
        df = (a + b) ** 2 / (a**2 / (n_on - 1) + b**2 / (n_off - 1))
    return TMap(t, _p_value(t, df, alternative))


def student_t(
    on: Float[np.ndarray, "on_stimulus unit"],
    off: Float[np.ndarray, "off_stimulus unit"],
    *,
    alternative: Alternative = "two-sided",
) -> TMap:
    """Return Student's two-sample t with pooled variance; arguments, NaN policy and result as `welch_t`."""
    difference, var_on, var_off, n_on, n_off = _moments(on, off)
    pooled = ((n_on - 1) * var_on + (n_off - 1) * var_off) / (n_on + n_off - 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(pooled > 0, difference / np.sqrt(pooled * (1 / n_on + 1 / n_off)), np.nan)
    return TMap(t, _p_value(t, float(n_on + n_off - 2), alternative))


def fdr_bh(p: Float[np.ndarray, " *shape"]) -> Float[np.ndarray, " *shape"]:
    """Return Benjamini-Hochberg q-values; NaN p-values stay NaN and do not count as tests.

    Parameters
    ----------
    p
        p-values of any shape, corrected jointly.

    References
    ----------
    Benjamini & Hochberg (1995), J. R. Stat. Soc. B 57:289.

    Examples
    --------
    >>> fdr_bh(np.array([0.01, 0.04, 0.03, np.nan])).round(3).tolist()
    [0.03, 0.04, 0.04, nan]
    """
    flat = np.asarray(p, dtype=np.float64).ravel()
    if ((flat < 0) | (flat > 1)).any():
        raise InputError("p-values must lie between 0 and 1")
    q = np.full(flat.shape, np.nan)
    valid = np.flatnonzero(np.isfinite(flat))
    if valid.size:
        order = valid[np.argsort(flat[valid], kind="stable")]
        scaled = flat[order] * valid.size / np.arange(1, valid.size + 1)
        q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q.reshape(np.shape(p))


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
    score = np.asarray(score, dtype=np.float64)
    is_count = isinstance(top, int | np.integer) and not isinstance(top, bool)
    if not is_count and not 0 < top < 1:
        raise InputError(f"top must be a share between 0 and 1, or a whole number of units, got {top!r}")
    k = int(top) if is_count else max(1, round(top * score.size))
    usable = int(np.isfinite(score).sum())
    if not 1 <= k <= usable:
        raise InputError(f"top={top!r} asks for {k} units, but {usable} of {score.size} units have a score")
    order = np.argsort(np.where(np.isfinite(score), -score, np.inf), kind="stable")
    mask = np.zeros(score.size, dtype=bool)
    mask[order[:k]] = True
    return mask
