"""Dimensionality: over how many directions does the variance of responses spread, and what would a low rank alone give?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from topobrain._checks import InputError

RANK_TOLERANCE = 1e-13
"""Directions with less than this share of the largest variance are rounding error."""


def participation_ratio(values: Float[np.ndarray, "stimulus unit"], *, unbiased: bool = False) -> float:
    r"""Over how many directions does the variance of the responses spread?

    :math:`(\sum_k \lambda_k)^2 / \sum_k \lambda_k^2` with :math:`\lambda` the eigenvalues of the covariance of units
    over stimuli: 1 if all variance lies along one direction, d if it spreads evenly over d. It does not change when
    responses are shifted, rotated or all scaled by one number, but does when units are scaled by different ones.

    Parameters
    ----------
    values
        Responses (stimulus, unit), two stimuli or more.
    unbiased
        Few stimuli give too low a value, at most one less than their number. True divides unbiased estimates of
        numerator and denominator under normality (four stimuli or more): with S the covariance, n its degrees of
        freedom and :math:`c = \frac{n^2}{(n - 1)(n + 2)} [\mathrm{tr}\,S^2 - (\mathrm{tr}\,S)^2 / n]`,
        :math:`[(\mathrm{tr}\,S)^2 - 2c / n] / c`. A ratio of two noisy numbers: NaN where c is not positive.

    Returns
    -------
    float
        NaN if no unit varies.

    Raises
    ------
    InputError
        Another shape, fewer stimuli, values that are missing or infinite.

    References
    ----------
    Margalit et al. (2024), TDANN, Neuron 112 (effective dimensionality). Srivastava (2005), Journal of the Japan
    Statistical Society 35:251 (unbiased moments of a covariance).

    Examples
    --------
    >>> values = np.random.default_rng(0).standard_normal((2000, 5))
    >>> round(participation_ratio(values), 1), round(participation_ratio(values * [1, 1, 0, 0, 0]), 1)
    (5.0, 2.0)
    """
    centred = _centred(values)
    # the two Gram matrices share their eigenvalues: take the smaller. Their squares' trace is the sum of all squares.
    gram = centred @ centred.T if centred.shape[0] <= centred.shape[1] else centred.T @ centred
    total, squares = float(np.trace(gram)), float((gram**2).sum())
    if total == 0:
        return float("nan")
    if not unbiased:
        return total**2 / squares
    n = len(centred) - 1
    if n < 3:
        raise InputError(f"unbiased estimates need four stimuli or more, got {len(centred)}")
    total, squares = total / n, squares / n**2
    corrected = n**2 / ((n - 1) * (n + 2)) * (squares - total**2 / n)
    return float((total**2 - 2 * corrected / n) / corrected) if corrected > 1e-12 * squares else float("nan")


def rank_matched_null(
    values: Float[np.ndarray, "stimulus unit"], rank: int, *, n_null: int = 1000, seed: int = 0
) -> Float[np.ndarray, " null"]:
    r"""What would the dimensionality be if the same responses had passed a random bottleneck of ``rank`` dimensions?

    Each draw projects the responses on a uniformly random subspace of their row space (the directions of unit space in
    which they vary at all) and takes `participation_ratio`. Total variance shrinks with the projection; since the ratio
    does not change with scale, it is matched without any rescaling. If a topographic layer is no lower in dimension
    than this null of its non-topographic twin's responses, its weights' lower rank alone explains what was found.

    It says nothing about *which* directions a trained network of that rank keeps, and a trained one keeps large ones.
    For that, project the weights with `project_rank`, run the network, and take `participation_ratio` of its responses.

    Parameters
    ----------
    values
        Responses (stimulus, unit) of the comparison network.
    rank
        Dimensions kept; for weights regularised on a sheet of h x w at factors f, floor(h / f_h) * floor(w / f_w).
        From the rank of the responses on, nothing is taken away and every draw is their own participation ratio.
    n_null, seed
        Number of random subspaces, and their seed.

    Returns
    -------
    array (null,)
        NaN if no unit varies.

    Examples
    --------
    >>> values = np.random.default_rng(0).standard_normal((200, 50))
    >>> rank_matched_null(values, 5, n_null=20).max() <= 5
    np.True_
    """
    centred = _centred(values)
    if rank < 1 or rank != int(rank):
        raise InputError(f"rank must be a whole number of 1 or more, got {rank}")
    if n_null < 2:
        raise InputError(f"n_null must be 2 or more, got {n_null}")
    gram = centred @ centred.T if centred.shape[0] <= centred.shape[1] else centred.T @ centred
    eigenvalues = np.linalg.eigvalsh(gram)
    eigenvalues = eigenvalues[eigenvalues > RANK_TOLERANCE * max(float(eigenvalues[-1]), 0.0)]
    if eigenvalues.size == 0:
        return np.full(n_null, np.nan)
    rng, null = np.random.default_rng(seed), np.empty(n_null)
    for draw in range(n_null):
        if rank >= eigenvalues.size:
            kept = np.diag(eigenvalues)
        else:
            # in the basis of the responses' own directions their covariance is diagonal
            basis = np.linalg.qr(rng.standard_normal((eigenvalues.size, rank)))[0]
            kept = basis.T @ (eigenvalues[:, None] * basis)
        null[draw] = np.trace(kept) ** 2 / (kept**2).sum()
    return null


def project_rank(weight: Float[np.ndarray, "out ..."], rank: int, *, keep_norm: bool = False) -> np.ndarray:
    """Return the nearest weight of a rank: what is left of a layer if only its low rank is kept.

    The singular value decomposition of the weight as a matrix (out, everything else), cut after ``rank`` values: the
    closest matrix of that rank in the sense of squared differences. Applied to every regularised layer of a network
    without topography it gives the rank-matched control of a claim about dimensionality, down-sampling or pruning.

    Parameters
    ----------
    weight
        Weight (out, in) of a linear layer, or (out, in, height, width) of a convolution.
    rank
        Rank to keep; a weight of lower rank comes back as it is.
    keep_norm
        Scale the result to the norm of ``weight``: the norm-matched control, so that the layer's output is no weaker.

    Returns
    -------
    array
        Shape and floating dtype of ``weight`` (computed in float64).

    Raises
    ------
    InputError
        A weight without two axes, with missing values, or a rank below 1.

    Examples
    --------
    >>> weight = np.diag([3.0, 2.0, 1.0])
    >>> project_rank(weight, 2).round(12).diagonal().tolist()
    [3.0, 2.0, 0.0]
    """
    given = np.asarray(weight)
    if given.ndim < 2 or given.size == 0:
        raise InputError(f"weight has shape {given.shape}, expected (out, in) or (out, in, height, width)")
    if rank < 1 or rank != int(rank):
        raise InputError(f"rank must be a whole number of 1 or more, got {rank}")
    matrix = given.reshape(len(given), -1).astype(np.float64)
    if not np.isfinite(matrix).all():
        raise InputError("weight holds values that are missing or infinite")
    u, singular, v = np.linalg.svd(matrix, full_matrices=False)
    kept = (u[:, :rank] * singular[:rank]) @ v[:rank]
    norm = float(np.sqrt((singular[:rank] ** 2).sum()))
    if keep_norm and norm > 0:
        kept *= float(np.sqrt((singular**2).sum())) / norm
    dtype = given.dtype if given.dtype.kind == "f" else np.float64
    return np.asarray(kept.reshape(given.shape), dtype=dtype)


def _centred(values: np.ndarray) -> np.ndarray:
    """Return responses less their mean over stimuli, at a scale whose fourth powers neither over- nor underflow."""
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 2 or len(given) < 2 or given.shape[1] == 0:
        raise InputError(f"values have shape {given.shape}, expected (2 stimuli or more, 1 unit or more)")
    if not np.isfinite(given).all():
        n_bad = int((~np.isfinite(given)).any(axis=0).sum())
        raise InputError(f"{n_bad} of {given.shape[1]} units have missing or infinite values: leave them out first")
    centred = given - given.mean(axis=0)
    # a unit whose spread is rounding error beside its own size does not vary
    centred[:, (centred**2).sum(axis=0) <= 1e-24 * (given**2).sum(axis=0)] = 0.0
    largest = float(np.abs(centred).max())
    return np.asarray(centred / largest if largest > 0 else centred)
