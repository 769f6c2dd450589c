"""Bootstrap intervals and permutation nulls of cross-validated correlations, as matrix products."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from topobrain._checks import InputError, require_choice
from topobrain.stats.correlation import unit_norm
from topobrain.stats.folds import Folds, duplicate_groups
from topobrain.stats.ridge import hat_matrices

VOXEL_TILE = 2048

PERMUTED_COLUMNS = 4096
"""Permuted response columns refitted at a time: bounds memory."""


def _regions(roi: np.ndarray, usable: np.ndarray) -> tuple[np.ndarray, int]:
    """Return weights (voxel, region) averaging usable voxels, and the number of regions."""
    n_regions = int(roi.max()) + 1
    weights = (roi[:, None] == np.arange(n_regions)) & usable[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        average: np.ndarray = weights / weights.sum(axis=0)
    return average, n_regions


def _usable(prediction: np.ndarray, target: np.ndarray, folds: Folds) -> np.ndarray:
    """Return a mask (voxel,) of voxels that have a correlation in every fold, the ones a region's score averages."""
    usable = np.ones(target.shape[1], dtype=bool)
    for _, test in folds:
        usable &= np.isfinite(target[test]).all(axis=0) & np.isfinite(prediction[test]).all(axis=0)
        usable &= (unit_norm(np.where(usable, target[test], 0.0)) != 0).any(axis=0)
    return usable


def _spread(mean_square: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return variances; a draw that repeats one value has none, whatever rounding leaves."""
    variance = mean_square - mean**2
    return np.asarray(np.where(variance > 1e-12 * mean_square, variance, 0.0))


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
    rng = np.random.default_rng(seed)
    labels = np.arange(len(target)) if blocks is None else np.asarray(blocks)
    counts = []
    for _, test in folds:
        codes = duplicate_groups(labels[test].tolist())
        n_blocks = int(codes.max()) + 1
        drawn = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=n_bootstrap)
        counts.append(drawn[:, codes].astype(np.float64))
    usable = _usable(prediction, target, folds)
    average, n_regions = _regions(roi, usable)
    score = np.zeros((n_bootstrap, n_regions))
    for start in range(0, target.shape[1], VOXEL_TILE):
        tile = np.arange(start, min(start + VOXEL_TILE, target.shape[1]))
        tile = tile[usable[tile]]
        if tile.size == 0:
            continue
        r = np.zeros((n_bootstrap, tile.size))
        for (_, test), count in zip(folds, counts, strict=True):
            # centred first: sums of squares of raw values would cancel badly for responses with a large offset
            p, y = unit_norm(prediction[np.ix_(test, tile)]), unit_norm(target[np.ix_(test, tile)])
            n = count.sum(axis=1, keepdims=True)
            mean_p, mean_y = count @ p / n, count @ y / n
            cov = count @ (p * y) / n - mean_p * mean_y
            var = _spread(count @ (p * p) / n, mean_p) * _spread(count @ (y * y) / n, mean_y)
            with np.errstate(invalid="ignore", divide="ignore"):
                r += np.where(var > 0, cov / np.sqrt(var), 0.0)
        score += r / len(folds) @ average[tile]
    score[:, np.isnan(average).any(axis=0)] = np.nan
    return score


def permutation_null(
    X: Float[np.ndarray, "stimulus feature"],
    Y: Float[np.ndarray, "stimulus voxel"],
    folds: Folds,
    alpha: Float[np.ndarray, "fold voxel"],
    roi: Int[np.ndarray, " voxel"],
    *,
    standardize: bool = False,
    n_permutations: int = 1000,
    scheme: Literal["stimuli", "circular"] = "stimuli",
    seed: int = 0,
) -> Float[np.ndarray, "permutation roi"]:
    """Give the stimuli wrong responses, fit again, and score again: what a region would score by chance.

    Responses change places over all rows, and every fold is refitted to the permuted training responses with the
    penalties chosen for the true ones. (Permuting held-out rows under fixed predictions would be cheaper, but it misses
    that folds share training rows, and its p-values are too small.) At a given penalty predictions are linear in the
    responses, so a refit is one matrix product a fold and penalty.

    Parameters
    ----------
    X, Y
        Features and responses.
    folds
        The outer folds.
    alpha
        Penalty of each fold and voxel; NaN leaves a voxel out.
    roi
        Region number of each voxel, 0, 1, ...
    standardize
        As in `ridge_cv`.
    n_permutations
        Number of permutations.
    scheme
        ``"stimuli"`` for independent stimuli; ``"circular"`` shifts all responses round by a random number of rows and
        so keeps the order within passages and time series.
    seed
        Seed of the permutations.

    Returns
    -------
    array (permutation, roi)
        Null scores; NaN for a region without usable voxels.
    """
    require_choice("permutation scheme", scheme, ("stimuli", "circular"))
    if n_permutations < 1:
        raise InputError(f"n_permutations must be 1 or more, got {n_permutations}")
    rng = np.random.default_rng(seed)
    n = len(Y)
    if scheme == "stimuli":
        orders = rng.permuted(np.tile(np.arange(n), (n_permutations, 1)), axis=1)
    else:
        orders = (np.arange(n) + rng.integers(1, n, size=(n_permutations, 1))) % n
    usable = np.isfinite(Y).all(axis=0) & np.isfinite(alpha).all(axis=0)
    average, n_regions = _regions(roi, usable)
    voxels = np.flatnonzero(usable)
    null = np.zeros((n_permutations, n_regions))
    if voxels.size == 0:
        return np.full((n_permutations, n_regions), np.nan)
    # float32 is enough for a null, once columns are centred and of unit size
    targets = Y[:, voxels] - Y[:, voxels].mean(axis=0)
    spread = targets.std(axis=0)
    targets = (targets / np.where(spread > 0, spread, 1.0)).astype(np.float32)
    batch = max(1, PERMUTED_COLUMNS // voxels.size)
    for number, (train, test) in enumerate(folds):
        chosen = alpha[number, voxels]
        hats = hat_matrices(X[train], X[test], np.unique(chosen), standardize=standardize)
        for start in range(0, n_permutations, batch):
            part = orders[start : start + batch]
            wanted = targets[part[:, test]]
            given = targets[part[:, train]]
            r = np.empty((len(part), voxels.size))
            for penalty, hat in hats.items():
                own = chosen == penalty
                predicted = np.matmul(hat.astype(np.float32), given[:, :, own])
                r[:, own] = _row_correlation(predicted, wanted[:, :, own])
            null[start : start + batch] += r @ average[voxels] / len(folds)
    null[:, np.isnan(average).any(axis=0)] = np.nan
    return null


def _row_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Pearson r over the middle axis of two (permutation, stimulus, voxel) arrays; 0 where one is constant."""
    a = a - a.mean(axis=1, keepdims=True)
    b = b - b.mean(axis=1, keepdims=True)
    size = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.asarray(np.divide((a * b).sum(axis=1), size, out=np.zeros_like(size), where=size > 1e-12))
