"""Shared components scored on stimuli left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import scipy.linalg
from jaxtyping import Float

from topobrain._checks import InputError, require_choice
from topobrain.stats.components import fix_signs
from topobrain.stats.folds import Folds
from topobrain.stats.shared_components.fitting import (
    SharedComponents,
    block_values,
    both_sides,
    check_components,
    check_regularization,
    check_responses,
    fit_sides,
    prepared,
)

Method = Literal["pls", "cca", "pca"]
Alignment = Literal["sign", "procrustes"]

LEAST_TEST = 3
"""Test stimuli of a fold: over two, every correlation is 1 or -1."""


@dataclass(frozen=True)
class HeldOut:
    """Shared components fitted on each fold's training stimuli and scored on its test stimuli.

    Attributes
    ----------
    r
        (fold, component): Pearson r of the two scores over the test stimuli; 0 where a score is constant.
    x_scores, y_scores
        (stimulus, component): score of each stimulus in the fold that tests it, signs as those of the weights; NaN for
        stimuli never tested.
    x_weights
        (component, unit): mean over folds of the aligned weights.
    y_weights
        (component, voxel): likewise.
    singular_values
        (fold, component), as in `SharedComponents`; for ``"pca"`` the length of :math:`Y' X u`.
    """

    r: Float[np.ndarray, "fold component"]
    x_scores: Float[np.ndarray, "stimulus component"]
    y_scores: Float[np.ndarray, "stimulus component"]
    x_weights: Float[np.ndarray, "component unit"]
    y_weights: Float[np.ndarray, "component voxel"]
    singular_values: Float[np.ndarray, "fold component"]


def most_components(X_shape: tuple[int, ...], Y_shape: tuple[int, ...], folds: Folds) -> int:
    """Return the largest possible number of components: the least of units, voxels and training stimuli less one.

    >>> folds = Folds(((np.arange(4), np.arange(4, 8)),), "given")
    >>> most_components((8, 100), (8, 5), folds)
    3
    """
    return int(min(X_shape[1], Y_shape[1], min(train.size for train, _ in folds) - 1))


def held_out_components(
    X: Float[np.ndarray, "stimulus unit"],
    Y: Float[np.ndarray, "stimulus voxel"],
    folds: Folds,
    n_components: int,
    *,
    method: Method = "pls",
    regularization: float = 1.0,
    scale: bool = True,
    align_by: Alignment = "sign",
    max_memory: int | str | None = None,
) -> HeldOut:
    r"""How well do the directions that two sets of responses share in some stimuli agree on others?

    In each fold, means, standard deviations and weights come from the training stimuli alone;
    :math:`r_{fc} = \mathrm{corr}(X_{test} u_c, Y_{test} v_c)`. X = Y scores 1. Weights are unique up to a joint sign, which is
    fixed within a fold by `fix_signs`; to average maps over folds they are aligned, which r does not notice.

    None of this depends on where units or voxels lie (see `pls_svd`).

    Parameters
    ----------
    X, Y, n_components, scale, max_memory
        As in `pls_svd`; the bound on ``n_components`` holds for the smallest training set.
    folds
        Training and test stimuli, three or more test stimuli a fold.
    method
        ``"pls"``: as `pls_svd`. ``"cca"``: as `cca`. ``"pca"``: :math:`u_c` are the leading principal axes of the training
        stimuli of X, and :math:`v_c \propto Y' X u_c` the direction of voxels that covaries most with each: how strongly do
        the model's own main dimensions show in the brain?
    regularization
        Penalty of ``"cca"``.
    align_by
        ``"sign"``: components of a fold are turned round where they point away from the mean of all folds.
        ``"procrustes"``: they are rotated onto it, units and voxels together, which also undoes components that changed
        places; weights and scores then belong to no single component of a fold, and r is still that of the unrotated ones.

    Returns
    -------
    HeldOut

    Raises
    ------
    InputError
        As `pls_svd` and `cca`; fewer than three test stimuli in a fold.
    UnknownNameError
        An unknown method or alignment.

    References
    ----------
    McIntosh & Lobaugh (2004), NeuroImage 23:S250 (Procrustes alignment of resampled components).

    Examples
    --------
    >>> from topobrain.stats import make_folds
    >>> X = np.random.default_rng(0).standard_normal((40, 6))
    >>> held_out_components(X, X, make_folds(range(40), 4), 2).r.round(6).min()
    np.float64(1.0)
    """
    require_choice("alignment of folds", align_by, get_args(Alignment))
    X, Y, penalty = check_study(X, Y, folds, n_components, method, regularization)
    block = block_values(max_memory)
    r, values = np.zeros((len(folds), n_components)), np.zeros((len(folds), n_components))
    fits: list[SharedComponents] = []
    scores = np.full((2, len(X), n_components), np.nan)
    for number, (train, test) in enumerate(folds):
        x, y = both_sides(X, Y, train, test, scale, block)
        fit = fit_sides(*prepared(x, y, train.size, method, penalty), n_components, train.size, method)
        r[number] = score_correlation(fit.x_scores.T, fit.y_scores.T)
        values[number] = fit.components.singular_values
        fits.append(fit.components)
        scores[:, test] = fit.x_scores, fit.y_scores
    turns = _turns_onto_mean(fits, align_by)
    for (_, test), turn in zip(folds, turns, strict=True):
        scores[:, test] = scores[:, test] @ turn
    x_weights = np.mean([fit.x_weights @ turn for fit, turn in zip(fits, turns, strict=True)], axis=0).T
    y_weights = np.mean([fit.y_weights @ turn for fit, turn in zip(fits, turns, strict=True)], axis=0).T
    signs = fix_signs(x_weights)
    return HeldOut(
        r, scores[0] * signs, scores[1] * signs, x_weights * signs[:, None], y_weights * signs[:, None], values
    )


def check_study(
    X: np.ndarray, Y: np.ndarray, folds: Folds, n_components: int, method: str, regularization: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return both sets of responses and the penalty, or raise for what cannot be scored."""
    require_choice("alignment method", method, get_args(Method))
    X, Y = check_responses(X, Y)
    fewest = min(test.size for _, test in folds)
    if fewest < LEAST_TEST:
        raise InputError(
            f"a fold tests {fewest} stimuli: a held-out correlation needs {LEAST_TEST} or more; use fewer folds"
        )
    check_components(n_components, X.shape[1], Y.shape[1], min(train.size for train, _ in folds))
    return X, Y, check_regularization(regularization)


def score_correlation(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return Pearson r over the last axis, in float64; 0 where one of them is constant."""
    sides = []
    for values in (one, two):
        given = np.asarray(values, dtype=np.float64)
        centred = given - given.mean(axis=-1, keepdims=True)
        length = np.linalg.norm(centred, axis=-1, keepdims=True)
        constant = length <= 1e-12 * np.linalg.norm(given, axis=-1, keepdims=True)
        sides.append(centred / np.where(constant, np.inf, length))
    return np.asarray(np.clip((sides[0] * sides[1]).sum(axis=-1), -1.0, 1.0))


def _turns_onto_mean(fits: list[SharedComponents], align_by: str) -> list[np.ndarray]:
    """Return, for each fold, the orthogonal matrix (component, component) that turns its components onto those of all.

    The first fold is the first reference, the mean of all folds turned onto it the second. Units and voxels count alike.
    """
    stacks = [np.concatenate([_unit_length(fit.x_weights), _unit_length(fit.y_weights)]) for fit in fits]
    reference, turns = stacks[0], [np.eye(stacks[0].shape[1]) for _ in stacks]
    for _ in range(2):
        turns = [_turn(stack, reference, align_by) for stack in stacks]
        reference = np.mean([stack @ turn for stack, turn in zip(stacks, turns, strict=True)], axis=0)
    return turns


def _turn(stack: np.ndarray, reference: np.ndarray, align_by: str) -> np.ndarray:
    if align_by == "sign":
        return np.diag(np.where((stack * reference).sum(axis=0) < 0, -1.0, 1.0))
    left, _, right = scipy.linalg.svd(stack.T @ reference)
    return np.asarray(left @ right)


def _unit_length(weights: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(weights, axis=0)
    return np.asarray(weights / np.where(length > 0, length, 1.0))
