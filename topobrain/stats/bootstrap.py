"""Bootstrap intervals of cross-validated correlations, as matrix products."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from topobrain.stats.correlation import unit_norm
from topobrain.stats.folds import Folds, duplicate_groups
from topobrain.stats.regions import check_regions, region_columns, region_means

VOXEL_TILE = 1024
"""Voxels worked on at a time: wide enough for full-speed products, small enough to stay in a processor's cache."""

FLOAT32_BLOCKS = 30
"""Blocks a fold must test for its bootstrap to run in float32: draws of very few stimuli cancel too much."""


class ScoreDraws(NamedTuple):
    """Bootstrap draws of region scores, as sums, so that the draws of voxel chunks add up.

    Attributes
    ----------
    sums
        Sum over a region's usable voxels of Pearson r in the drawn stimuli (fold, region, draw).
    n_usable
        Voxels in each sum (region,).
    """

    sums: np.ndarray
    n_usable: np.ndarray


def _usable(prediction: np.ndarray, target: np.ndarray, folds: Folds) -> np.ndarray:
    """Return a mask (voxel,) of voxels that have a correlation in every fold, the ones a region's score averages."""
    usable = np.ones(target.shape[1], dtype=bool)
    for _, test in folds:
        usable &= np.isfinite(target[test]).all(axis=0) & np.isfinite(prediction[test]).all(axis=0)
        usable &= (unit_norm(np.where(usable, target[test], 0.0)) != 0).any(axis=0)
    return usable


def bootstrap_counts(
    folds: Folds, n_rows: int, *, n_bootstrap: int, blocks: np.ndarray | None = None, seed: int = 0
) -> list[np.ndarray]:
    """Return, for each fold, how often each test row is drawn (bootstrap, test row).

    Blocks of rows are drawn with replacement inside each test fold. The draws depend on seed, folds and blocks only,
    so scores of several models on the same folds can be compared draw by draw.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(n_rows) if blocks is None else np.asarray(blocks)
    counts = []
    for _, test in folds:
        codes = duplicate_groups(labels[test].tolist())
        n_blocks = int(codes.max()) + 1
        counts.append(rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=n_bootstrap)[:, codes])
    return counts


def bootstrap_scores(
    prediction: Float[np.ndarray, "stimulus voxel"],
    target: Float[np.ndarray, "stimulus voxel"],
    folds: Folds,
    roi: Int[np.ndarray, " voxel"],
    *,
    n_regions: int,
    n_bootstrap: int = 1000,
    blocks: Int[np.ndarray, " stimulus"] | None = None,
    seed: int = 0,
) -> ScoreDraws:
    """Resample stimuli, fold by fold: what each region would have scored on other test stimuli.

    As `bootstrap_correlation`, before the means over folds and voxels are taken. Moments of a draw are products of its
    counts with the responses, the predictions and their products; in float32 where every fold tests at least
    `FLOAT32_BLOCKS` blocks (within 1e-6 of float64), else in float64.

    Parameters
    ----------
    prediction, target, folds, n_bootstrap, blocks, seed
        As in `bootstrap_correlation`.
    roi
        Region number of each voxel, from 0 to ``n_regions - 1``.
    n_regions
        Number of regions, also of those that have no voxel here.

    Returns
    -------
    ScoreDraws
    """
    roi = check_regions(roi, target.shape[1], n_regions)
    counts = bootstrap_counts(folds, len(target), n_bootstrap=n_bootstrap, blocks=blocks, seed=seed)
    labels = np.arange(len(target)) if blocks is None else np.asarray(blocks)
    few = any(len(np.unique(labels[test])) < FLOAT32_BLOCKS for _, test in folds)
    dtype, least = (np.float64, 1e-12) if few else (np.float32, 1e-5)
    voxels = np.flatnonzero(_usable(prediction, target, folds))
    sums = np.zeros((len(folds), n_regions, n_bootstrap))
    for number, ((_, test), count) in enumerate(zip(folds, counts, strict=True)):
        share = (count / count.sum(axis=1, keepdims=True)).astype(dtype)
        for start in range(0, voxels.size, VOXEL_TILE):
            tile = voxels[start : start + VOXEL_TILE]
            # centred first: sums of squares of raw values would cancel badly for responses with a large offset
            p, y = (unit_norm(values[np.ix_(test, tile)]).astype(dtype) for values in (prediction, target))
            r = _drawn_correlation(share, p, y, least)
            sums[number] += (r @ region_columns(roi[tile], n_regions)).T
    return ScoreDraws(sums, np.bincount(roi[voxels], minlength=n_regions))


def _drawn_correlation(share: np.ndarray, p: np.ndarray, y: np.ndarray, least: float) -> np.ndarray:
    """Return Pearson r (draw, voxel) of two (stimulus, voxel) arrays with stimuli weighted by (draw, stimulus)."""
    moments = share @ np.hstack([p, y, p * p, y * y, p * y])
    mean_p, mean_y, square_p, square_y, product = np.split(moments, 5, axis=1)
    # a draw that repeats one value has no variance, whatever rounding leaves
    var_p, var_y = square_p - mean_p**2, square_y - mean_y**2
    told = (var_p > least * square_p) & (var_y > least * square_y)
    size = np.sqrt(np.where(told, var_p * var_y, 1.0))
    return np.asarray(np.where(told, (product - mean_p * mean_y) / size, 0.0), dtype=np.float64)


def bootstrap_correlation(
    prediction: Float[np.ndarray, "stimulus voxel"],
    target: Float[np.ndarray, "stimulus voxel"],
    folds: Folds,
    roi: Int[np.ndarray, " voxel"],
    *,
    n_bootstrap: int = 1000,
    blocks: Int[np.ndarray, " stimulus"] | None = None,
    seed: int = 0,
) -> Float[np.ndarray, "bootstrap roi"]:
    """Resample stimuli to see how far the mean score of a region could lie.

    Stimuli (or whole blocks of them) are drawn with replacement inside each test fold; every draw gives Pearson r of
    every voxel and fold, averaged over folds and over the voxels of a region. Predictions are not refitted, so the
    interval covers the sampling of test stimuli, not of training stimuli.

    Parameters
    ----------
    prediction
        Held-out predictions (stimulus, voxel); rows never tested may be NaN.
    target
        Responses (stimulus, voxel).
    folds
        The outer folds behind the predictions.
    roi
        Region number of each voxel, 0, 1, ...
    n_bootstrap
        Number of draws.
    blocks
        Rows with equal numbers are drawn together (groups, duplicates, stretches of a time series).
    seed
        Seed of the draws.

    Returns
    -------
    array (bootstrap, roi)
        NaN for a region without usable voxels.
    """
    draws = bootstrap_scores(
        prediction, target, folds, roi, n_regions=int(np.max(roi)) + 1, n_bootstrap=n_bootstrap, blocks=blocks,
        seed=seed,
    )  # fmt: skip
    return np.asarray(region_means(draws.sums, draws.n_usable).mean(axis=0).T)
