"""Losses and predictions at many penalties from those at a few."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GRID = 40
"""Eigenvalues that stand for the spectrum: the loss is smooth in their logarithm."""

PER_DECADE = 6
"""At least so many of them a decade."""

LARGEST_WEIGHT = 8.0
"""Interpolation that multiplies rounding errors by more than this is not used."""


@dataclass(frozen=True)
class Skeleton:
    """A few penalties, and how the losses, or the predictions, at all of them follow.

    Attributes
    ----------
    rows
        Which penalties are evaluated.
    weights
        ``loss(all) = weights @ loss(rows)``; None where every penalty is evaluated.
    """

    rows: np.ndarray
    weights: np.ndarray | None


def every_penalty(n_alphas: int) -> Skeleton:
    """Evaluate all penalties."""
    return Skeleton(np.arange(n_alphas), None)


def filter_skeleton(alphas: np.ndarray, lowest: float, highest: float, *, tolerance: float) -> Skeleton:
    """Choose penalties whose predictions determine the predictions at all penalties, which are linear in the filters.

    Parameters and source as in `make_skeleton`; fewer penalties are needed than for losses.
    """
    n = len(alphas)
    if n < 6 or not 0 < lowest <= highest < np.inf:
        return every_penalty(n)
    s = np.geomspace(lowest, highest, 2 * GRID)
    return _interpolated(s / (s + alphas[:, None]), tolerance)


def make_skeleton(
    alphas: np.ndarray,
    lowest: float,
    highest: float,
    *,
    tolerance: float,
) -> Skeleton:
    r"""Choose penalties whose losses determine the losses at all penalties.

    A squared error of ridge predictions is, for any responses, a combination of the functions
    :math:`1,\ d_s,\ d_s d_{s'}` with :math:`d_s(\alpha) = s / (s + \alpha)` over the eigenvalues s. They are smooth, so
    a matrix (penalty, function) has a low numerical rank, and an interpolative decomposition (pivoted QR) finds rows
    that span it.

    Parameters
    ----------
    alphas
        All penalties.
    lowest, highest
        Range of the eigenvalues.
    tolerance
        Largest error of a function, all of which lie between 0 and 1.

    References
    ----------
    Cheng, Gimbutas, Martinsson & Rokhlin (2005), SIAM J. Sci. Comput. 26:1389 (interpolative decomposition).
    """
    n = len(alphas)
    if n < 6 or not 0 < lowest <= highest < np.inf:
        return every_penalty(n)
    size = max(GRID, int(PER_DECADE * np.log10(highest / lowest)))
    s = np.geomspace(lowest, highest, size)
    d = s / (s + alphas[:, None])
    first, second = np.triu_indices(size)
    return _interpolated(np.hstack([np.ones((n, 1)), d, d[:, first] * d[:, second]]), tolerance)


def _interpolated(functions: np.ndarray, tolerance: float) -> Skeleton:
    """Choose rows of (penalty, function) that span all rows."""
    from scipy.linalg import lstsq, qr

    n = len(functions)
    triangle, order = qr(functions.T, mode="r", pivoting=True, check_finite=False)
    diagonal = np.abs(np.diag(triangle[:n]))
    for rank in range(int((diagonal > tolerance * diagonal[0]).sum()), int(0.9 * n) + 1):
        rows = np.sort(order[:rank])
        weights = lstsq(functions[rows].T, functions.T)[0].T
        weights[rows] = np.eye(rank)
        missed = np.abs(weights @ functions[rows] - functions).max()
        if missed <= tolerance and np.abs(weights).sum(axis=1).max() <= LARGEST_WEIGHT:
            return Skeleton(rows, weights)
    return every_penalty(n)
