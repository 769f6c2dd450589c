"""Pearson correlation column by column."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from topobrain._checks import InputError


def unit_norm(values: Float[np.ndarray, "stimulus voxel"]) -> Float[np.ndarray, "stimulus voxel"]:
    """Return columns centred and scaled to length one; a constant column becomes zeros."""
    centred = np.asarray(values, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    length = np.sqrt((centred**2).sum(axis=0))
    # a column whose spread is rounding error beside its own size is constant: its direction is noise
    size = np.sqrt((np.asarray(values, dtype=np.float64) ** 2).sum(axis=0))
    length[length <= 1e-12 * size] = np.inf
    return np.asarray(centred / length)


def column_correlation(
    prediction: Float[np.ndarray, "stimulus voxel"], target: Float[np.ndarray, "stimulus voxel"]
) -> Float[np.ndarray, " voxel"]:
    """Return Pearson r of each column of ``prediction`` with the same column of ``target``.

    A constant prediction scores 0 (it predicts nothing); a constant target, or one with a missing value, has no
    score: NaN.

    Examples
    --------
    >>> target = np.array([[1.0], [2.0], [4.0]])
    >>> float(column_correlation(2 * target - 7, target)[0])
    1.0
    """
    if prediction.shape != target.shape or prediction.ndim != 2:
        raise InputError(f"prediction {prediction.shape} and target {target.shape} must both be (stimulus, voxel)")
    to = unit_norm(target)
    r = (unit_norm(prediction) * to).sum(axis=0)
    r = np.clip(r, -1.0, 1.0)
    r[(to == 0).all(axis=0)] = np.nan
    return np.asarray(r, dtype=np.float64)
