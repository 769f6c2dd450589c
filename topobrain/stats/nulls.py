"""Matched nulls: what a statistic would be if there were nothing to find."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from topobrain._checks import InputError


class NullTest(NamedTuple):
    """A value beside its null.

    Attributes
    ----------
    value, null_mean, null_sd
        The statistic, and mean and standard deviation of its null.
    z
        (value - null_mean) / null_sd.
    p
        One-sided, value or more: (1 + number of null values at least as high) / (1 + number of null values).
    corrected
        (value - null_mean) / (1 - null_mean): 0 at the floor of the null, 1 at the statistic's highest value.
    """

    value: float
    null_mean: float
    null_sd: float
    z: float
    p: float
    corrected: float


def compare_with_null(value: float, null: Float[np.ndarray, " null"]) -> NullTest:
    """Set a statistic beside draws of its null (NaN in, NaN out).

    >>> compare_with_null(3.0, np.array([0.0, 1.0, 2.0])).p
    0.25
    """
    draws = np.asarray(null, dtype=np.float64)
    if draws.ndim != 1 or draws.size < 2:
        raise InputError(f"a null needs at least two draws, got shape {draws.shape}")
    mean, sd = float(draws.mean()), float(draws.std(ddof=1))
    if not np.isfinite(value) or not np.isfinite(mean):
        return NullTest(float(value), mean, sd, np.nan, np.nan, np.nan)
    # 1e-12: draws that rearrange the same numbers differ from the value in rounding only
    p = (1 + int((draws >= value - 1e-12).sum())) / (1 + draws.size)
    z = (value - mean) / sd if sd > 0 else np.nan
    corrected = (value - mean) / (1 - mean) if mean < 1 else np.nan
    return NullTest(float(value), mean, sd, float(z), float(p), float(corrected))


def layout_permutations(n_units: int, n_null: int, *, seed: int = 0) -> Int[np.ndarray, "null unit"]:
    """Return ``n_null`` random permutations of units over the places of their sheet (null, unit)."""
    if n_null < 2:
        raise InputError(f"n_null must be 2 or more, got {n_null}")
    rng = np.random.default_rng(seed)
    return rng.permuted(np.tile(np.arange(n_units), (n_null, 1)), axis=1)
