"""Scores of one layer against responses, by each method."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from topobrain.encoding.cross_validation import Design
from topobrain.stats.bootstrap import bootstrap_scores
from topobrain.stats.folds import Folds
from topobrain.stats.representational_similarity import linear_cka, rsa, similarity_draws, similarity_null
from topobrain.stats.shared_components import component_null, held_out_components, most_components

Method = Literal["pls", "cca", "pca", "rsa", "cka"]

SIMILARITIES = ("rsa", "cka")
"""Methods that compare whole sets of stimuli: one number a layer, no folds."""


@dataclass(frozen=True)
class Options:
    """What decides the numbers; see `align`."""

    method: Method
    n_components: int
    regularization: float
    scale: bool
    n_permutations: int
    n_bootstrap: int
    seed: int


@dataclass(frozen=True)
class LayerScores:
    """What one layer of one model scored.

    Attributes
    ----------
    r
        (fold, component); one fold for whole-set similarities.
    draws
        (component, draw).
    null
        (component, permutation).
        As in `Alignment`, for this layer; None for whole-set similarities.
    """

    r: np.ndarray
    draws: np.ndarray
    null: np.ndarray
    unit_weight: np.ndarray | None = None
    voxel_weight: np.ndarray | None = None
    unit_score: np.ndarray | None = None
    voxel_score: np.ndarray | None = None


def score_layer(
    X: np.ndarray, Y: np.ndarray, design: Design, options: Options, max_memory: int | str | None = None
) -> LayerScores:
    """Align one layer (stimulus, unit) with responses (stimulus, voxel) that have no missing value."""
    if options.method in SIMILARITIES:
        return _similarity(X, Y, design, options)
    how: dict[str, Any] = {
        "method": options.method, "regularization": options.regularization, "scale": options.scale,
    }  # fmt: skip
    held = held_out_components(X, Y, design.outer, options.n_components, **how)
    null = np.zeros((options.n_components, 0))
    if options.n_permutations:
        permuted = component_null(
            X, Y, design.outer, options.n_components, **how, n_permutations=options.n_permutations,
            scheme=design.exchange, groups=whole_groups(design), seed=options.seed, max_memory=max_memory,
        )  # fmt: skip
        null = permuted.mean(axis=1).T
    draws = np.zeros((options.n_components, 0))
    if options.n_bootstrap and not design.one_block_a_fold:
        found = bootstrap_scores(
            held.x_scores, held.y_scores, design.outer, np.arange(options.n_components),
            n_regions=options.n_components, n_bootstrap=options.n_bootstrap, blocks=design.blocks, seed=options.seed,
        )  # fmt: skip
        draws = found.sums.mean(axis=0)
    # beyond the rank of a fold's data (a region that is the mean of others) there is no component: no score, not a score of 0
    missing = (held.singular_values == 0).any(axis=0)
    r, x_weights, y_weights = held.r.copy(), held.x_weights.copy(), held.y_weights.copy()
    x_scores, y_scores = held.x_scores.copy(), held.y_scores.copy()
    for by_component in (r.T, draws, null, x_weights, y_weights, x_scores.T, y_scores.T):
        by_component[missing] = np.nan
    return LayerScores(r, draws, null, x_weights, y_weights, x_scores, y_scores)


def _similarity(X: np.ndarray, Y: np.ndarray, design: Design, options: Options) -> LayerScores:
    """Compare all stimuli of one layer with all responses."""
    one, two = (_standard(values, options.scale) for values in (X, Y))
    how: dict[str, Any] = {"measure": options.method, "seed": options.seed}
    if options.method == "cka":
        how["unbiased"] = True
    null, draws = np.zeros((1, 0)), np.zeros((1, 0))
    if options.n_permutations:
        null = similarity_null(
            one, two, n_permutations=options.n_permutations, scheme=design.exchange, groups=whole_groups(design), **how
        )[None]
    if options.n_bootstrap:
        draws = similarity_draws(one, two, n_bootstrap=options.n_bootstrap, blocks=design.blocks, **how)[None]
    return LayerScores(np.array([[_value(one, two, options)]]), draws, null)


def _standard(values: np.ndarray, scale: bool) -> np.ndarray:
    """Return columns in float64, divided by their standard deviation if ``scale``; constant ones are left as they are."""
    values = values.astype(np.float64)
    if not scale:
        return values
    spread = values.std(axis=0)
    return np.asarray((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0))


def _value(one: np.ndarray, two: np.ndarray, options: Options) -> float:
    return rsa(one, two) if options.method == "rsa" else linear_cka(one, two, unbiased=True)


def whole_groups(design: Design) -> np.ndarray | None:
    """Return the groups whose stimuli the null keeps together; None for time series and for stimuli without groups."""
    return None if design.time_series or design.exchange == "stimuli" else design.groups


def digest(values: np.ndarray) -> str:
    """Return the SHA-256 of an array's numbers, by which a later step knows that it is given the same."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def ceiling_score(one: np.ndarray, two: np.ndarray, folds: Folds, options: Options) -> np.ndarray:
    """Align two sets of responses as the model is aligned; as many components as both have."""
    if options.method in SIMILARITIES:
        return np.array([_value(_standard(one, options.scale), _standard(two, options.scale), options)])
    count = min(options.n_components, most_components(one.shape, two.shape, folds))
    method: Any = options.method
    held = held_out_components(
        one, two, folds, count, method=method, regularization=options.regularization, scale=options.scale
    )
    return np.asarray(held.r.mean(axis=0))
