"""Noise ceilings: the highest correlation any model can reach with noisy responses."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from topobrain._checks import InputError
from topobrain.stats.correlation import column_correlation

VOXEL_TILE = 1024
"""Voxels whose covariances of repeats are held at a time."""


def noise_ceiling(
    repeats: Float[np.ndarray, "repeat stimulus voxel"], *, averaged: float | None = None
) -> Float[np.ndarray, " voxel"]:
    r"""How well could a perfect model predict the mean over repeats?

    The noise variance :math:`\sigma_n^2` is the variance over the repeats of a stimulus, pooled over stimuli by degrees
    of freedom; the signal variance is what remains of the variance of the stimulus means,
    :math:`\sigma_s^2 = \max(0, \mathrm{var}(\bar y) - \sigma_n^2 h)` with :math:`h` the mean over stimuli of one over
    their number of repeats. The ceiling, in Pearson r, is
    :math:`\sqrt{\sigma_s^2 / (\sigma_s^2 + \sigma_n^2 h)}`. With :math:`k` repeats of every stimulus, :math:`h = 1/k`.

    Parameters
    ----------
    repeats
        Responses (repeat, stimulus, voxel), at least two repeats of some stimuli (subjects may be seen as repeats).
        Stimuli with fewer repeats are filled up with NaN, in any place; one without any does not count.
    averaged
        Trials behind each value that is to be predicted, if it is not the mean over all repeats: 1 for single trials.

    Returns
    -------
    array (voxel,)
        NaN for a voxel that is constant, or has fewer than three stimuli or no repeated one.

    References
    ----------
    Allen et al. (2022), Nat. Neurosci. 25:116, methods, "noise ceiling", also for unequal numbers of trials.

    Examples
    --------
    >>> signal = np.arange(6.0)[None, :, None].repeat(2, axis=0)
    >>> float(noise_ceiling(signal)[0])
    1.0
    """
    values = _three_axes("repeats", repeats, "repeat")
    if averaged is not None and not averaged > 0:
        raise InputError(f"averaged must be a number of trials above 0, got {averaged}")
    given = np.isfinite(values)
    count = given.sum(axis=0)  # (stimulus, voxel)
    shown = count > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(given, values, 0.0).sum(axis=0) / count
        within = (np.where(given, values - mean, 0.0) ** 2).sum(axis=(0, 1))
        noise = within / np.maximum(count - 1, 0).sum(axis=0)
        n_stimuli = shown.sum(axis=0)
        centre = np.where(shown, mean, 0.0).sum(axis=0) / n_stimuli
        total = (np.where(shown, mean - centre, 0.0) ** 2).sum(axis=0) / (n_stimuli - 1)
        share = np.where(shown, 1 / count, 0.0).sum(axis=0) / n_stimuli
        signal = np.maximum(total - noise * share, 0.0)
        left = noise * (share if averaged is None else 1 / averaged)
        ceiling = np.sqrt(signal / (signal + left))
        # means over repeats of one value differ from it by rounding, which is no signal
        varies = (
            np.where(given, values, -np.inf).max(axis=(0, 1)) - np.where(given, values, np.inf).min(axis=(0, 1))
        ) > (1e-12 * np.abs(np.where(given, values, 0.0)).max(axis=(0, 1)))
    return np.asarray(np.where((n_stimuli >= 3) & varies, ceiling, np.nan), dtype=np.float64)


def spearman_brown(r: float | np.ndarray, factor: float = 2.0) -> np.ndarray:
    """Return the reliability of data ``factor`` times as long as those whose reliability is ``r``.

    >>> round(float(spearman_brown(0.5)), 4)
    0.6667
    """
    reliability = np.asarray(r, dtype=np.float64)
    return np.asarray(factor * reliability / (1 + (factor - 1) * reliability))


class SplitHalf(NamedTuple):
    """Split-half reliability of every voxel.

    Attributes
    ----------
    r
        Mean over splits of the correlation between the halves' means (voxel,); negative values are kept.
    reliability
        Reliability of the mean over all repeats, from `spearman_brown` (voxel,); negative values are kept.
    ceiling
        Its square root, the highest Pearson r with that mean (voxel,); NaN where the reliability is negative.
    n_negative
        Number of voxels with a negative reliability.
    n_splits
        Number of splits.
    exact
        Whether these are all splits there are.
    """

    r: np.ndarray
    reliability: np.ndarray
    ceiling: np.ndarray
    n_negative: int
    n_splits: int
    exact: bool


def split_half(
    repeats: Float[np.ndarray, "repeat stimulus voxel"],
    *,
    n_splits: int = 1000,
    seed: int = 0,
    averaged: float | None = None,
) -> SplitHalf:
    """How well do two halves of the repeats agree, and so how reliable is the mean over all of them?

    Both halves hold ``k // 2`` of the ``k`` repeats (of an odd number, one repeat sits out each split); their means are
    correlated over stimuli, r is averaged over splits, and Spearman-Brown's formula lengthens it from ``k // 2`` to
    ``k``. All correlations come from one (repeat, repeat) covariance a voxel.

    Parameters
    ----------
    repeats
        Responses (repeat, stimulus, voxel), at least two repeats. A voxel with a missing value is NaN.
    n_splits
        All splits are taken if there are no more than this, else this many random ones.
    seed
        Seed of the random splits.
    averaged
        Lengthen to this many repeats instead of all: 1 for the reliability of single trials (or subjects).

    Returns
    -------
    SplitHalf

    References
    ----------
    Spearman (1910) and Brown (1910), Br. J. Psychol. 3:271 and 3:296.

    Examples
    --------
    >>> signal = np.arange(6.0)[None, :, None].repeat(4, axis=0)
    >>> halves = split_half(signal)
    >>> float(halves.ceiling[0]), halves.n_splits, halves.exact
    (1.0, 3, True)
    """
    values = _three_axes("repeats", repeats, "repeat")
    if n_splits < 1 or (averaged is not None and not averaged > 0):
        raise InputError(f"n_splits must be 1 or more and averaged above 0, got {n_splits} and {averaged}")
    first, second, exact = _halves(len(values), n_splits, seed)
    n_voxels = values.shape[2]
    r = np.full(n_voxels, np.nan)
    usable = np.isfinite(values).all(axis=(0, 1))
    for start in range(0, n_voxels, VOXEL_TILE):
        tile = np.arange(start, min(start + VOXEL_TILE, n_voxels))
        tile = tile[usable[tile]]
        centred = values[:, :, tile] - values[:, :, tile].mean(axis=1, keepdims=True)
        rounding = 1e-12 * np.abs(values[:, :, tile]).max(axis=1, keepdims=True)
        centred = np.where(np.abs(centred).max(axis=1, keepdims=True) > rounding, centred, 0.0)  # else a constant
        covariance = np.einsum("asv,bsv->vab", centred, centred, optimize=True)
        left, right = first @ covariance, second @ covariance  # (voxel, split, repeat)
        size = (left * first).sum(axis=2) * (right * second).sum(axis=2)
        floor = 1e-20 * np.einsum("vaa->v", covariance)[:, None] ** 2
        with np.errstate(invalid="ignore", divide="ignore"):
            of_split = np.where(size > floor, (left * second).sum(axis=2) / np.sqrt(size), np.nan)
        r[tile] = np.clip(of_split, -1.0, 1.0).mean(axis=1)  # beyond 1 by rounding only
    factor = (len(values) if averaged is None else averaged) / (len(values) // 2)
    with np.errstate(divide="ignore"):
        reliability = spearman_brown(r, factor)
    reliability[1 + (factor - 1) * r <= 0] = -np.inf  # beyond the formula's pole, for r near -1
    ceiling = np.sqrt(np.where(reliability >= 0, reliability, np.nan))
    return SplitHalf(r, reliability, ceiling, int((reliability < 0).sum()), len(first), exact)


def _halves(n: int, n_splits: int, seed: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return indicators (split, repeat) of two disjoint sets of ``n // 2`` repeats, and whether all splits are there."""
    half = n // 2
    n_all = math.comb(n, half) * math.comb(n - half, half) // 2
    pairs: list[tuple[tuple[int, ...], tuple[int, ...]]]
    if n_all <= n_splits:
        pairs = [
            (one, other)
            for one in itertools.combinations(range(n), half)
            for other in itertools.combinations(sorted(set(range(n)) - set(one)), half)
            if one < other  # each split once
        ]
    else:
        orders = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (n_splits, 1)), axis=1)
        pairs = [(tuple(order[:half]), tuple(order[half : 2 * half])) for order in orders]
    first, second = np.zeros((2, len(pairs), n))
    for number, (one, other) in enumerate(pairs):
        first[number, list(one)] = second[number, list(other)] = 1.0
    return first, second, n_all <= n_splits


class InterSubject(NamedTuple):
    """Correlation of each subject with the others.

    Attributes
    ----------
    lower
        Correlation with the mean of the other subjects (subject, voxel): what a model that knows the group would reach,
        so a lower bound of the ceiling.
    upper
        Correlation with the mean of all subjects, this one included (subject, voxel). No prediction shared by all
        subjects can do better on average than a mean of their standardised responses, so with ``standardize`` its mean
        over subjects is an upper bound.
    """

    lower: np.ndarray
    upper: np.ndarray


def inter_subject_correlation(
    responses: Float[np.ndarray, "subject stimulus voxel"], *, standardize: bool = True
) -> InterSubject:
    """How far do the other subjects predict each subject?

    Parameters
    ----------
    responses
        Responses of matched voxels to the same stimuli (subject, stimulus, voxel). A subject with a missing value in a
        voxel, or one constant there, is left out of that voxel and is NaN itself.
    standardize
        Give each subject's voxels mean 0 and variance 1 before means over subjects are taken, so that none weighs more.

    Returns
    -------
    InterSubject
        NaN where fewer than two subjects have the voxel.

    References
    ----------
    Hasson et al. (2004), Science 303:1634; Nili et al. (2014), PLoS Comput. Biol. 10:e1003553 (the two bounds).

    Examples
    --------
    >>> shared = np.array([1.0, 2.0, 4.0, 3.0])[None, :, None]
    >>> inter_subject_correlation(np.repeat(shared, 3, axis=0)).lower.round(6).ravel().tolist()
    [1.0, 1.0, 1.0]
    """
    values = _three_axes("responses", responses, "subject")
    present = np.isfinite(values).all(axis=1)  # (subject, voxel)
    filled = np.where(present[:, None], values, 0.0)
    centred = filled - filled.mean(axis=1, keepdims=True)
    spread = centred.std(axis=1)
    present &= spread > 1e-12 * np.abs(filled).max(axis=1)
    if standardize:
        centred = centred / np.where(spread > 0, spread, 1.0)[:, None]
    centred = np.where(present[:, None], centred, 0.0)
    total = centred.sum(axis=0)
    lower, upper = np.full(present.shape, np.nan), np.full(present.shape, np.nan)
    shared = present.sum(axis=0) >= 2
    for subject in range(len(values)):
        told = present[subject] & shared
        own = centred[subject][:, told]
        lower[subject, told] = column_correlation(total[:, told] - own, own)
        upper[subject, told] = column_correlation(total[:, told], own)
    return InterSubject(lower, upper)


def _three_axes(what: str, values: np.ndarray, axis: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 3 or len(array) < 2 or array.shape[1] < 3:
        raise InputError(
            f"{what} have shape {array.shape}: expected ({axis}, stimulus, voxel), 2 {axis}s and 3 stimuli up"
        )
    if np.isinf(array).any():
        raise InputError(f"{what} hold an infinite value")
    return array
