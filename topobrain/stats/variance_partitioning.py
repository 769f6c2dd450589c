"""Variance partitioning: what of the held-out variance does one feature space explain that no other does?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from topobrain._checks import InputError, listed, require_choice
from topobrain.stats.bootstrap import bootstrap_counts, bootstrap_scores
from topobrain.stats.correlation import column_correlation
from topobrain.stats.folds import Folds

Bands = tuple[str, ...]

MAX_BANDS = 4
"""Most bands of a full partition: 15 models; 5 would be 31, and parts shared by five are hard to read."""

TILE = 256
"""Voxels whose draws are held at a time."""

About = Literal["training", "test"]


def sub_models(bands: Sequence[str]) -> list[Bands]:
    """Return every non-empty set of bands, smaller ones first; the last one is the full model.

    >>> sub_models(["a", "b"])
    [('a',), ('b',), ('a', 'b')]
    """
    names = [str(band) for band in bands]
    if not 2 <= len(names) <= MAX_BANDS or len(set(names)) < len(names):
        raise InputError(
            f"a partition needs 2 to {MAX_BANDS} bands of different names, got {listed(names)}"
            + (": join some of them into one band" if len(names) > MAX_BANDS else "")
        )
    return [subset for size in range(1, len(names) + 1) for subset in combinations(names, size)]


def commonality(scores: Mapping[Bands, np.ndarray]) -> dict[Bands, np.ndarray]:
    r"""Split the score of a full model into what is unique to each band and what sets of bands share.

    The part of a set T is what is explained by every band of T and by no other: the parts :math:`C(T)` solve
    :math:`R^2(S) = \sum_{T \cap S \neq \emptyset} C(T)` for all models S. Two bands: unique
    :math:`C(a) = R^2(ab) - R^2(b)`, shared :math:`C(ab) = R^2(a) + R^2(b) - R^2(ab)`. The parts add up to the full model
    exactly. Any of them can be negative: the shared part by suppression (two bands together explain more than each by
    itself), a unique part because held-out scores of a larger model can be lower.

    Parameters
    ----------
    scores
        Bands of a model -> its R2, an array of any shape; all sets of up to 4 bands.

    Returns
    -------
    dict
        Set of bands -> its part; one band: its unique part.

    References
    ----------
    Nimon & Oswald (2013), Organ. Res. Methods 16:650 (commonality coefficients); de Heer et al. (2017), J. Neurosci.
    37:6539 (held-out variance partitioning of three feature spaces).

    Examples
    --------
    >>> parts = commonality({("a",): np.array(0.3), ("b",): np.array(0.2), ("a", "b"): np.array(0.4)})
    >>> {" & ".join(key): round(float(value), 3) for key, value in parts.items()}
    {'a': 0.2, 'b': 0.1, 'a & b': 0.1}
    """
    models = _all_models(scores)
    stacked = np.stack([np.asarray(scores[model], dtype=np.float64) for model in models])
    return dict(zip(models, np.tensordot(_unmixing(models), stacked, axes=1), strict=True))


def _all_models(scores: Mapping[Bands, object]) -> list[Bands]:
    models = sub_models(list(dict.fromkeys(band for key in scores for band in key)))
    missing = [model for model in models if model not in scores]
    if missing:
        raise InputError(f"scores of {len(missing)} models are missing: {listed(map(' & '.join, missing))}")
    return models


def _unmixing(models: Sequence[Bands]) -> np.ndarray:
    """Return the matrix (part, model) from scores of models to parts; its entries are whole numbers."""
    meets = [[bool(set(part) & set(model)) for part in models] for model in models]
    return np.asarray(np.rint(np.linalg.inv(np.array(meets, dtype=np.float64))))


def held_out_r2(
    prediction: Float[np.ndarray, "stimulus voxel"],
    target: Float[np.ndarray, "stimulus voxel"],
    folds: Folds,
    *,
    about: About = "training",
) -> Float[np.ndarray, "fold voxel"]:
    """Return the share of held-out variance a prediction explains, 1 - SSE/SST, fold by fold; never clipped.

    Parameters
    ----------
    prediction
        Held-out predictions (stimulus, voxel).
    target
        Responses (stimulus, voxel).
    folds
        The outer folds behind the predictions.
    about
        What SST is taken about. ``"training"``: the mean of the training responses, which is what a model without any
        feature predicts, so that this model scores exactly 0. ``"test"``: the mean of the held-out responses, as
        scikit-learn's ``r2_score``, which no model knows.

    Returns
    -------
    array (fold, voxel)
        NaN where a prediction or response is missing, or the responses do not vary about that mean.

    References
    ----------
    Hawinkel, Waegeman & Maere (2023), Am. Stat. 78:15 (out-of-sample R2).
    """
    require_choice("about", about, ("training", "test"))
    _check_pair(prediction, target)
    found = np.full((len(folds), target.shape[1]), np.nan)
    for k, (train, test) in enumerate(folds):
        centred = target[test] - target[train if about == "training" else test].mean(axis=0)
        total = (centred**2).sum(axis=0)
        error = ((target[test] - prediction[test]) ** 2).sum(axis=0)
        found[k] = 1 - error / np.where(total > _rounding(target[test]), total, np.nan)
    return found


def _rounding(values: np.ndarray) -> np.ndarray:
    return np.asarray(1e-24 * (values**2).sum(axis=0))


def _check_pair(prediction: np.ndarray, target: np.ndarray) -> None:
    if prediction.shape != target.shape or prediction.ndim != 2:
        raise InputError(f"prediction {prediction.shape} and target {target.shape} must both be (stimulus, voxel)")


def product_measure(
    band_prediction: Float[np.ndarray, "band stimulus voxel"],
    target: Float[np.ndarray, "stimulus voxel"],
    folds: Folds,
) -> Float[np.ndarray, "band fold voxel"]:
    r"""Split the held-out R2 of one joint model over its bands, by how much each band's part of the prediction carries.

    With y about the training mean and the parts :math:`p_b` of the prediction, band b gets
    :math:`\sum_i p_{bi} (2 y_i - p_i) / \sum_i y_i^2`, where p is the sum of the parts. The shares add up to the
    joint R2 about the training mean exactly, and any of them can be negative. Unlike `commonality` it needs one model only,
    and says how that model divides its prediction, not what another model could have explained without the band.

    Parameters
    ----------
    band_prediction
        Parts of the held-out prediction about the training mean (band, stimulus, voxel), as in
        `NestedBandedFit.band_prediction`.
    target
        Responses (stimulus, voxel).
    folds
        The outer folds behind the predictions.

    References
    ----------
    Dupre la Tour et al. (2022), NeuroImage 264:119728 (product measure of banded ridge).
    """
    parts = np.asarray(band_prediction)
    if parts.ndim != 3 or parts.shape[1:] != target.shape:
        raise InputError(f"parts {parts.shape} must be (band, stimulus, voxel), the responses are {target.shape}")
    found = np.full((len(parts), len(folds), target.shape[1]), np.nan)
    for k, (train, test) in enumerate(folds):
        y = target[test] - target[train].mean(axis=0)
        total = (y**2).sum(axis=0)
        total = np.where(total > _rounding(target[test]), total, np.nan)
        together = parts[:, test].sum(axis=0)
        found[:, k] = (parts[:, test] * (2 * y - together)).sum(axis=1) / total
    return found


@dataclass(frozen=True)
class VariancePartition:
    """Scores and parts of all models of some bands on some voxels. Sums over regions add up over chunks of voxels.

    Attributes
    ----------
    models
        Bands of each model, which also name the parts; the last one is the full model.
    r2, r
        Held-out R2 and Pearson r (model, fold, voxel).
    part
        Unique and shared variance (part, fold, voxel); parts add up to the full model's R2.
    unique_r
        What r loses without a band: r of the full model minus r of all other bands (band, fold, voxel).
    low, high
        95 % bootstrap interval over stimuli of ``part`` averaged over folds (part, voxel), NaN without draws.
    part_sums, unique_r_sums
        Draws of ``part`` and ``unique_r``, averaged over folds and summed over a region's usable voxels
        (part, region, draw) and (band, region, draw).
    n_usable
        Usable voxels of each region (region,).
    """

    models: tuple[Bands, ...]
    r2: np.ndarray
    r: np.ndarray
    part: np.ndarray
    unique_r: np.ndarray
    low: np.ndarray
    high: np.ndarray
    part_sums: np.ndarray
    unique_r_sums: np.ndarray
    n_usable: np.ndarray

    @property
    def bands(self) -> Bands:
        """The bands."""
        return self.models[-1]

    @property
    def usable(self) -> np.ndarray:
        """Mask (voxel,) of voxels that have every score."""
        return np.asarray(np.isfinite(self.r2).all(axis=(0, 1)) & np.isfinite(self.r).all(axis=(0, 1)))


def partition_variance(
    predictions: Mapping[Bands, Float[np.ndarray, "stimulus voxel"]],
    target: Float[np.ndarray, "stimulus voxel"],
    folds: Folds,
    *,
    roi: Int[np.ndarray, " voxel"] | None = None,
    n_regions: int = 1,
    about: About = "training",
    n_bootstrap: int = 1000,
    blocks: Int[np.ndarray, " stimulus"] | None = None,
    seed: int = 0,
) -> VariancePartition:
    """Partition held-out variance between bands, from the predictions of every model made of them.

    Parameters
    ----------
    predictions
        Bands of a model -> held-out predictions (stimulus, voxel), for every set of 2 to 4 bands (`sub_models`).
    target
        Responses (stimulus, voxel).
    folds
        The outer folds behind all predictions.
    roi, n_regions
        Region number of each voxel, and number of regions (default: one region).
    about
        See `held_out_r2`. With ``"test"`` a shift of the mean between training and held-out responses counts as a (negative)
        share of all bands, because the model without features then scores below 0 and is taken as 0.
    n_bootstrap
        Draws of test stimuli behind the intervals, 0 for none. All models see the same draws, so the interval of a
        difference is that of paired differences. Predictions are not refitted.
    blocks
        Rows with equal numbers are drawn together.
    seed
        Seed of the draws; those of `bootstrap_scores` with the same seed are the same.

    Returns
    -------
    VariancePartition
        NaN for voxels that have no score in some fold.
    """
    models = _all_models(predictions)
    for model in models:
        _check_pair(predictions[model], target)
    if n_bootstrap < 0:
        raise InputError(f"n_bootstrap must be 0 or more, got {n_bootstrap}")
    numbers = np.zeros(target.shape[1], dtype=int) if roi is None else np.asarray(roi)
    r2 = np.stack([held_out_r2(predictions[model], target, folds, about=about) for model in models])
    r = np.stack(
        [[column_correlation(predictions[model][test], target[test]) for _, test in folds] for model in models]
    )
    usable = np.isfinite(r2).all(axis=(0, 1)) & np.isfinite(r).all(axis=(0, 1))
    part = np.tensordot(_unmixing(models), r2, axes=1)
    full = models[-1]
    others = [models.index(tuple(name for name in full if name != band)) for band in full]
    low, high, part_sums = _draw_parts(
        [predictions[model] for model in models], target, folds, _unmixing(models), np.flatnonzero(usable),
        numbers, n_regions, about, n_bootstrap, blocks, seed,
    )  # fmt: skip
    unique_r_sums = np.zeros((len(full), n_regions, n_bootstrap))
    if n_bootstrap and usable.any():

        def draws(model: Bands) -> np.ndarray:
            # voxels without a score in one model are left out of all
            scores = bootstrap_scores(
                np.where(usable, predictions[model], np.nan), target, folds, numbers,
                n_regions=n_regions, n_bootstrap=n_bootstrap, blocks=blocks, seed=seed,
            )  # fmt: skip
            return np.asarray(scores.sums.mean(axis=0))

        whole = draws(full)
        for place, other in enumerate(others):
            unique_r_sums[place] = whole - draws(models[other])
    return VariancePartition(
        models=tuple(models), r2=r2, r=r, part=part, unique_r=r[-1] - r[others], low=low, high=high,
        part_sums=part_sums, unique_r_sums=unique_r_sums, n_usable=np.bincount(numbers[usable], minlength=n_regions),
    )  # fmt: skip


def _draw_parts(
    predictions: Sequence[np.ndarray], target: np.ndarray, folds: Folds, unmixing: np.ndarray, voxels: np.ndarray,
    roi: np.ndarray, n_regions: int, about: str, n_bootstrap: int, blocks: np.ndarray | None, seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Return voxel intervals (part, voxel) and region sums (part, region, draw), means over folds."""
    n_models = len(predictions)
    low, high = np.full((2, n_models, target.shape[1]), np.nan)
    sums = np.zeros((n_models, n_regions, n_bootstrap))
    if not n_bootstrap or not voxels.size:
        return low, high, sums
    counts = bootstrap_counts(folds, len(target), n_bootstrap=n_bootstrap, blocks=blocks, seed=seed)
    for start in range(0, voxels.size, TILE):
        tile = voxels[start : start + TILE]
        score = np.zeros((n_models, n_bootstrap, tile.size))
        for (train, test), count in zip(folds, counts, strict=True):
            drawn = count.astype(np.float64)
            y = target[np.ix_(test, tile)]
            centred = y - (target[np.ix_(train, tile)] if about == "training" else y).mean(axis=0)
            total = drawn @ centred**2
            if about == "test":
                total -= (drawn @ centred) ** 2 / drawn.sum(axis=1, keepdims=True)
            told = total > 1e-12 * (drawn @ centred**2)  # a draw of one stimulus alone has no variance to explain
            error = drawn @ np.hstack([(y - prediction[np.ix_(test, tile)]) ** 2 for prediction in predictions])
            error = error.reshape(n_bootstrap, n_models, tile.size).transpose(1, 0, 2)
            score += np.where(told, 1 - error / np.where(told, total, 1.0), 0.0) / len(folds)
        part = np.tensordot(unmixing, score, axes=1)
        low[:, tile], high[:, tile] = np.quantile(part, [0.025, 0.975], axis=1)
        members = np.asarray(roi[tile][:, None] == np.arange(n_regions), dtype=np.float64)
        sums += (part @ members).transpose(0, 2, 1)
    return low, high, sums
