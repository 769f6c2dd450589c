"""Sums over the voxels of numbered regions."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from topobrain._checks import InputError


def check_regions(roi: np.ndarray, n_voxels: int, n_regions: int) -> np.ndarray:
    """Return the region number of each voxel as an array, or raise."""
    numbers = np.asarray(roi)
    if numbers.shape != (n_voxels,) or (numbers.size and (numbers.min() < 0 or numbers.max() >= n_regions)):
        raise InputError(
            f"roi has shape {numbers.shape}: expected a region number from 0 to {n_regions - 1} for each of "
            f"{n_voxels} voxels"
        )
    return numbers


def region_columns(roi: np.ndarray, n_regions: int) -> np.ndarray:
    """Return a matrix (voxel, region) whose product sums voxels into regions."""
    return np.asarray(roi[:, None] == np.arange(n_regions), dtype=np.float64)


def region_means(sums: Float[np.ndarray, "fold region draw"], n_usable: np.ndarray) -> np.ndarray:
    """Return means over usable voxels (fold, region, draw); NaN for a region without usable voxels."""
    count = np.where(n_usable > 0, n_usable, np.nan)
    return np.asarray(sums / count[:, None])
