"""How well could any model do, component by component?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np

from topobrain._checks import InputError, require_choice
from topobrain.responses import BrainResponses
from topobrain.stats.ceiling import spearman_brown
from topobrain.stats.folds import Folds, duplicate_groups

CeilingChoice = Literal["auto", "subjects", "split-half", "voxels", "none"]

Score = Callable[[np.ndarray, np.ndarray, Folds], np.ndarray]
"""Aligns two sets of responses over the same stimuli on some folds: held-out r (component,)."""

OF = {
    "subjects": "between subjects: each subject's voxels aligned with those of all others; a model can do better",
    "split-half": "halves of the repeats, aligned with each other, lengthened by Spearman-Brown",
    "voxels": "noise ceilings of the voxels, their noise taken to be correlated as their responses are",
    "none": "not known",
}
"""What each ceiling is, for the record."""


class Ceiling(NamedTuple):
    """A ceiling and how it was made.

    Attributes
    ----------
    value
        (component,) for all layers alike; None where it follows from each layer's own voxel weights, or is not known.
    method
        ``"subjects"``, ``"split-half"``, ``"voxels"`` or ``"none"``.
    """

    value: np.ndarray | None
    method: str


def component_ceiling(
    choice: str, responses: BrainResponses, usable: np.ndarray, folds: Folds, n_components: int, score: Score,
    method: str = "pls",
) -> Ceiling:  # fmt: skip
    """Return the ceiling of each component.

    Parameters
    ----------
    choice
        ``"subjects"``; ``"split-half"``; ``"voxels"``; ``"none"``; or ``"auto"``: the first of them that the responses allow.
    responses
        The responses.
    usable
        Which voxels are aligned (voxel,).
    folds
        The outer folds.
    n_components
        Length of what comes back; NaN for components that subjects or halves do not have.
    score
        Aligns two sets of responses.
    method
        Of the alignment.

    Raises
    ------
    InputError
        A choice that the responses do not allow.
    """
    allowed = allowed_ceilings(choice, responses, usable, method)
    for one in allowed:
        try:
            if one == "subjects":
                return Ceiling(_between_subjects(responses, usable, folds, n_components, score), one)
            if one == "split-half":
                return Ceiling(_between_halves(responses, usable, folds, n_components, score), one)
        except InputError as error:  # too few stimuli or voxels in a subject or half
            if choice != "auto":
                raise InputError(f"ceiling={choice!r}: {error}") from error
            continue
        return Ceiling(None, one)
    return Ceiling(None, "none")


def allowed_ceilings(choice: str, responses: BrainResponses, usable: np.ndarray, method: str) -> list[str]:
    """Return the ceilings to try, the best first, or raise for one that the responses do not allow.

    Halves of repeats say nothing of RSA and CKA over all rows, which count pairs of repeats.
    """
    require_choice("ceiling", choice, get_args(CeilingChoice))
    of_components = method not in ("rsa", "cka")
    has = {
        "subjects": len(responses.subjects) > 1,
        "split-half": of_components and _halves_of(responses) is not None,
        "voxels": of_components and bool(np.isfinite(responses.data["ceiling"].values[usable].astype(float)).all()),
        "none": True,
    }
    if choice == "auto":
        return [name for name, there in has.items() if there]
    if not has[choice]:
        why = {
            "subjects": "needs several subjects, the responses have one: use 'auto'",
            "split-half": "needs components (pls, cca, pca) and every stimulus at least twice, with the same text: use 'auto'",
            "voxels": "needs components (pls, cca, pca) and the noise ceiling of every voxel: tb.estimate_ceiling fills it in",
        }
        raise InputError(f"ceiling={choice!r} {why[choice]}")
    return [choice]


def ceiling_from_voxels(values: np.ndarray, voxel_ceiling: np.ndarray, weights: np.ndarray) -> np.ndarray:
    r"""Return the ceiling (component,) of weighted sums of voxels whose noise is correlated as their responses are.

    :math:`\sqrt{1 - w^\top N w / w^\top C w}` with the covariance C of the responses and
    :math:`N_{jk} = C_{jk} \sqrt{(1 - c_j^2)(1 - c_k^2)}`: where all voxels have one ceiling, so has every sum of them. How noise
    is really correlated cannot be known from the ceilings of single voxels: several subjects, or repeats, give a better
    ceiling.

    Parameters
    ----------
    values
        (stimulus, voxel), on the scale of the weights.
    voxel_ceiling
        Noise ceilings in r (voxel,).
    weights
        (component, voxel).
    """
    centred = values - values.mean(axis=0)
    whole = ((centred @ weights.T) ** 2).sum(axis=0)
    noise = ((centred @ (weights * np.sqrt(1 - voxel_ceiling**2)).T) ** 2).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.sqrt(np.clip(1 - noise / whole, 0.0, None)))


def _between_subjects(
    responses: BrainResponses, usable: np.ndarray, folds: Folds, n_components: int, score: Score
) -> np.ndarray:
    owner, Y = responses.labels("subject"), responses.values
    found = np.full((len(responses.subjects), n_components), np.nan)
    for number, subject in enumerate(responses.subjects):
        own, others = (owner == subject) & usable, (owner != subject) & usable
        if own.any() and others.any():
            r = score(Y[:, others], Y[:, own], folds)[:n_components]
            found[number, : len(r)] = r
    return _mean_known(found)


def _halves_of(responses: BrainResponses) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return the first row of each stimulus and the row numbers of two halves of its repeats, as (stimulus, repeat)."""
    if responses.design == "timeseries":
        return None
    codes = duplicate_groups(responses.labels("text").tolist())
    fewest = int(np.bincount(codes).min())
    if fewest < 2:
        return None
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    starts = np.cumsum(counts) - counts
    half = fewest // 2
    rows = starts[:, None] + np.arange(2 * half)
    return order[starts], order[rows[:, ::2]], order[rows[:, 1::2]]


def _between_halves(
    responses: BrainResponses, usable: np.ndarray, folds: Folds, n_components: int, score: Score
) -> np.ndarray:
    found = _halves_of(responses)
    assert found is not None
    first, one, two = found
    Y = responses.values[:, usable]
    place = np.full(len(Y), -1)
    place[first] = np.arange(len(first))

    def kept(rows: np.ndarray) -> np.ndarray:  # repeats of a stimulus are on one side of every split
        return np.asarray(place[rows][place[rows] >= 0])

    reduced = Folds(tuple((kept(train), kept(test)) for train, test in folds), folds.scheme)
    r = score(Y[one].mean(axis=1), Y[two].mean(axis=1), reduced)[:n_components]
    # from the agreement of means of some repeats to the reliability of one
    reliability = spearman_brown(r, 1.0 / one.shape[1])
    full = np.full(n_components, np.nan)
    full[: len(r)] = np.sqrt(np.where(reliability > 0, reliability, np.nan))
    return full


def _mean_known(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(
            np.where(known, values, 0.0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
        )
