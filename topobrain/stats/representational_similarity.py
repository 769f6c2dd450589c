"""Representational similarity: do two sets of responses order the same stimuli alike? RSA and linear CKA.

Neither needs the same number of units on both sides, and neither depends on where units lie: any permutation of units
changes nothing, and of linear CKA neither does any rotation.
"""

from __future__ import annotations

from typing import Literal, TypedDict, Unpack, get_args

import numpy as np
import scipy.stats
from jaxtyping import Float, Int

from topobrain._checks import InputError, require_choice
from topobrain.stats.correlation import unit_norm
from topobrain.stats.folds import duplicate_groups
from topobrain.stats.nulls import product_permutations
from topobrain.stats.permuted_orders import Scheme, permuted_groups, permuted_rows

Metric = Literal["correlation", "cosine", "euclidean"]
Comparison = Literal["spearman", "pearson"]
SimilarityMeasure = Literal["rsa", "cka"]

TIES = 1e-12
"""Distances that differ by less than this share of the largest are equal: copies of a stimulus differ by rounding."""

MAX_STIMULI = 12_000
"""Matrices of stimuli by stimuli are held in memory: 1.2 GB each at this size."""

BLOCK_VALUES = 2**23
"""Values of permuted matrices held at once."""

RANK_LEVELS = 2**14
"""Most different ranks in a bootstrap draw; of more distances, near ones share a rank (it moves r by less than 1e-6)."""

MOST_DRAWS = 256
"""Bootstrap draws worked on together."""


class SimilarityOptions(TypedDict, total=False):
    """What can be chosen of a similarity: ``metric`` and ``compare`` of RSA, ``unbiased`` of CKA."""

    metric: Metric
    compare: Comparison
    unbiased: bool


def rdm(
    X: Float[np.ndarray, "stimulus unit"], *, metric: Metric = "correlation"
) -> Float[np.ndarray, "stimulus stimulus"]:
    """How different are the responses to any two stimuli: the representational dissimilarity matrix.

    Parameters
    ----------
    X
        Responses (stimulus, unit).
    metric
        ``"correlation"``: 1 - Pearson's r of the two patterns over units, from 0 to 2; it needs three units or more (with
        two, every r is 1 or -1). ``"cosine"``: the same without taking out each pattern's mean. ``"euclidean"``.

    Returns
    -------
    array (stimulus, stimulus)
        Symmetric, 0 on the diagonal; equal to `scipy.spatial.distance.pdist`.

    Raises
    ------
    InputError
        Another shape, missing values, or a stimulus whose pattern has no direction.

    References
    ----------
    Kriegeskorte, Mur & Bandettini (2008), Frontiers in Systems Neuroscience 2:4.

    Examples
    --------
    >>> rdm(np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]), metric="euclidean").round(2).tolist()
    [[0.0, 5.0, 1.0], [5.0, 0.0, 4.24], [1.0, 4.24, 0.0]]
    """
    require_choice("metric", metric, get_args(Metric))
    values = _responses("X", X, 2)
    if metric == "euclidean":
        # distances do not change with the mean, but their rounding error does
        gram = _gram(values - values.mean(axis=0))
        size = gram.diagonal()
        squared = size[:, None] + size - 2 * gram
        squared[squared <= TIES * (size[:, None] + size)] = 0.0
        distance = np.sqrt(squared)
    else:
        if metric == "correlation" and values.shape[1] < 3:
            raise InputError(
                f"correlation distance compares patterns over 3 units or more, got {values.shape[1]}: with so few, use "
                "metric='euclidean'"
            )
        patterns = unit_norm(values.T).T if metric == "correlation" else _unit_length(values)
        flat = np.flatnonzero(~patterns.any(axis=1))
        if flat.size:
            raise InputError(
                f"the patterns of {flat.size} of {len(values)} stimuli (the first is row {flat[0]}) are "
                f"{'constant over units' if metric == 'correlation' else 'zero'}: they have no {metric} distance"
            )
        distance = np.clip(1 - _gram(patterns), 0.0, 2.0)
        distance[distance <= TIES] = 0.0
    distance = (distance + distance.T) / 2
    np.fill_diagonal(distance, 0.0)
    return np.asarray(distance)


def rsa(
    X: Float[np.ndarray, "stimulus unit"],
    Y: Float[np.ndarray, "stimulus voxel"],
    *,
    metric: Metric = "correlation",
    compare: Comparison = "spearman",
) -> float:
    """Do two sets of responses find the same pairs of stimuli alike: representational similarity analysis.

    The correlation, over all pairs of stimuli, of the distances in ``X`` with those in ``Y``. Pairs share stimuli, so that
    a p-value from the number of pairs would be far too small: take it from `similarity_null`.

    Parameters
    ----------
    X, Y
        Responses to the same stimuli, three or more, in the same order.
    metric
        Distance of two patterns: see `rdm`.
    compare
        ``"spearman"`` (ranks of distances; ties share a rank) or ``"pearson"``.

    Returns
    -------
    float
        From -1 to 1.

    Raises
    ------
    InputError
        Different stimuli, missing values, or distances that are all equal.

    Examples
    --------
    >>> X = np.random.default_rng(0).standard_normal((20, 8))
    >>> round(rsa(X, 3 * X + 1), 12)
    1.0
    """
    return _score(X, Y, "rsa", {"metric": metric, "compare": compare})


def linear_cka(
    X: Float[np.ndarray, "stimulus unit"], Y: Float[np.ndarray, "stimulus voxel"], *, unbiased: bool = False
) -> float:
    r"""How much of one set of responses is a rotation and scaling of the other: linear centred kernel alignment.

    With columns centred, :math:`\|Y^\top X\|_F^2 / (\|X^\top X\|_F \|Y^\top Y\|_F)`: from 0 to 1, 1 for a rotated and
    scaled copy. With fewer stimuli than units it is far above 0 for responses that have nothing to do with each other,
    because every stimulus resembles itself on both sides. ``unbiased=True`` leaves these self-pairs out
    (:math:`\mathrm{HSIC}_1` of Song et al. in all three places): about 0 for unrelated responses, possibly negative.

    Parameters
    ----------
    X, Y
        Responses to the same stimuli: two or more, four with ``unbiased``.
    unbiased
        Compare pairs of different stimuli only.

    Raises
    ------
    InputError
        Different stimuli, too few, missing values, or responses that do not vary.

    References
    ----------
    Kornblith et al. (2019), ICML, section 3 (linear CKA); Song et al. (2012), JMLR 13:1393, equation 5 (unbiased HSIC);
    Nguyen, Raghu & Kornblith (2021), ICLR (CKA of it).

    Examples
    --------
    >>> X, Y = np.random.default_rng(0).standard_normal((2, 30, 200))
    >>> round(linear_cka(X, Y), 2), abs(round(linear_cka(X, Y, unbiased=True), 1)), round(linear_cka(X, 2 * X), 12)
    (0.87, 0.0, 1.0)
    """
    if not unbiased:
        x, y = (_centred(name, values) for name, values in (("X", X), ("Y", Y)))
        _require_same(x, y)
        if max(x.shape[1], y.shape[1]) < len(x):  # covariances of units are then smaller than those of stimuli
            norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
            return float(np.linalg.norm(y.T @ x) ** 2 / norms)
    return _score(X, Y, "cka", {"unbiased": unbiased})


def similarity_null(
    X: Float[np.ndarray, "stimulus unit"],
    Y: Float[np.ndarray, "stimulus voxel"],
    *,
    measure: SimilarityMeasure = "rsa",
    n_permutations: int = 1000,
    scheme: Scheme = "stimuli",
    groups: np.ndarray | None = None,
    seed: int = 0,
    **options: Unpack[SimilarityOptions],
) -> Float[np.ndarray, " permutation"]:
    """What would RSA or CKA be if the stimuli of one side were others?

    Permuting the stimuli of ``Y`` permutes rows and columns of its matrix of stimuli by stimuli, and the score is the
    inner product of two such matrices: the responses are never touched again. 1,000 permutations of 1,000 stimuli take
    about a second.

    Parameters
    ----------
    X, Y
        Responses to the same stimuli.
    measure
        ``"rsa"`` or ``"cka"``.
    n_permutations, seed
        Number of permutations (two or more), and their seed. The permutations depend on the number of stimuli and these
        two only, so that those of several layers and models can be compared one by one.
    scheme
        ``"stimuli"`` permutes all stimuli (by `product_permutations`); ``"circular"`` shifts them round by a random number
        of rows, which keeps the order of a time series.
    groups
        Group of each row (passages, repeats of a stimulus): with ``"circular"``, groups of equal size change places as wholes.
        Pairs within a group are alike on both sides whatever the model does, so no other null would do.
    options
        ``metric`` and ``compare`` as for `rsa`, ``unbiased`` as for `linear_cka`.

    Returns
    -------
    array (permutation,)
        Set the score beside it with `compare_with_null`.

    Examples
    --------
    >>> X, Y = np.random.default_rng(0).standard_normal((2, 20, 8))
    >>> similarity_null(X, Y, n_permutations=200).mean().round(1) == 0
    np.True_
    """
    first, second = _both_forms(X, Y, measure, options)
    n = len(first)
    if scheme != "stimuli" and groups is not None:
        whole = permuted_groups(groups, n_permutations, np.random.default_rng(seed))
        if whole is None:
            raise InputError(
                "groups of so many sizes cannot change places as wholes, and any other null would make p far too small: give "
                "n_permutations=0, or stimuli in groups of few sizes"
            )
        return np.array([np.vdot(first, second[np.ix_(order, order)]) for order in whole])
    if scheme != "stimuli":
        orders = permuted_rows(n, n_permutations, scheme, seed)
        every, at = np.unique(orders[:, 0], return_inverse=True)  # a shift is known by where it takes the first row
        rows = (every[:, None] + np.arange(n)) % n
        return np.array([np.vdot(first, second[np.ix_(order, order)]) for order in rows])[at]
    drawn = product_permutations(n, n_permutations, seed=seed)
    # <A, B[f s]> = <A[s^-1], B[f]>: all products of few permutations are one matrix product of few permuted matrices
    back = np.argsort(drawn.second, axis=1)
    table = np.zeros((len(drawn.first), len(back)))
    step = max(1, BLOCK_VALUES // (n * (len(drawn.first) + len(back))))
    for start in range(0, n, step):
        part = slice(start, start + step)
        table += _permuted(second, drawn.first, part) @ _permuted(first, back, part).T
    return np.asarray(table.ravel()[drawn.cell])


def similarity_draws(
    X: Float[np.ndarray, "stimulus unit"],
    Y: Float[np.ndarray, "stimulus voxel"],
    *,
    measure: SimilarityMeasure = "rsa",
    n_bootstrap: int = 1000,
    blocks: Int[np.ndarray, " stimulus"] | None = None,
    seed: int = 0,
    **options: Unpack[SimilarityOptions],
) -> Float[np.ndarray, " draw"]:
    """What could RSA or CKA have been for other stimuli: bootstrap draws.

    Stimuli are drawn with replacement. Two copies of one stimulus are no pair: on both sides their distance is 0, and such
    pairs would make any two sets of responses agree. They are left out, so that a draw with counts c has
    :math:`c_i c_j` copies of the pair (i, j) and none of (i, i); biased CKA, which counts every stimulus with itself, has
    :math:`c_i` of those. Unbiased CKA is centred anew in every draw, over the pairs that are left.

    Parameters
    ----------
    X, Y
        Responses to the same stimuli.
    measure
        ``"rsa"`` or ``"cka"``.
    n_bootstrap, seed
        Number of draws, and their seed. They depend on the number of stimuli, the blocks and these two only, so that draws
        of several models are paired.
    blocks
        Stimuli with equal numbers are drawn together (passages, stretches of a time series).
    options
        ``metric`` and ``compare`` as for `rsa`, ``unbiased`` as for `linear_cka`.

    Returns
    -------
    array (draw,)
        NaN where a draw holds too few different stimuli. Take percentiles of them.

    References
    ----------
    Nili et al. (2014), PLoS Computational Biology 10:e1003553 (bootstrap of stimuli, copies left out).

    Examples
    --------
    >>> X = np.random.default_rng(0).standard_normal((30, 8))
    >>> Y = X + np.random.default_rng(1).standard_normal((30, 8))
    >>> low, high = np.quantile(similarity_draws(X, Y, n_bootstrap=200), [0.025, 0.975])
    >>> bool(low < rsa(X, Y) < high)
    True
    """
    x, y = _checked(X, Y, measure, options)
    if n_bootstrap < 1:
        raise InputError(f"n_bootstrap must be 1 or more, got {n_bootstrap}")
    counts = _counts(len(x), n_bootstrap, blocks, seed)
    if measure == "cka":
        kernels = _gram(_centred("X", x)), _gram(_centred("Y", y))
        of_cka = _unbiased_cka_draws if options.get("unbiased", False) else _biased_cka_draws
        groups = [slice(s, s + MOST_DRAWS) for s in range(0, n_bootstrap, MOST_DRAWS)]
        return np.concatenate([of_cka(*kernels, counts[group].T) for group in groups])
    metric, upper = options.get("metric", "correlation"), np.triu_indices(len(x), 1)
    distances = [_condensed(name, values, metric, upper) for name, values in (("X", x), ("Y", y))]
    if options.get("compare", "spearman") == "pearson":
        return _pearson_draws(distances, upper, counts)
    return _spearman_draws(distances, upper, counts)


def _score(X: np.ndarray, Y: np.ndarray, measure: SimilarityMeasure, options: SimilarityOptions) -> float:
    one, other = _both_forms(X, Y, measure, options)
    return float(np.clip(np.vdot(one, other), -1.0, 1.0))


def _checked(
    X: np.ndarray, Y: np.ndarray, measure: SimilarityMeasure, options: SimilarityOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Return both responses in float64, or raise for what cannot be compared."""
    require_choice("measure of similarity", measure, get_args(SimilarityMeasure))
    known = ("metric", "compare") if measure == "rsa" else ("unbiased",)
    for name in options:
        if name not in known:
            raise InputError(f"{name!r} is no option of {measure!r}: RSA has metric and compare, CKA has unbiased")
    require_choice("comparison of distances", options.get("compare", "spearman"), get_args(Comparison))
    least = 3 if measure == "rsa" else 4 if options.get("unbiased") else 2
    x, y = _responses("X", X, least), _responses("Y", Y, least)
    _require_same(x, y)
    return x, y


def _both_forms(
    X: np.ndarray, Y: np.ndarray, measure: SimilarityMeasure, options: SimilarityOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Return the two matrices of stimuli by stimuli, of length one, whose inner product is the score."""
    x, y = _checked(X, Y, measure, options)
    if measure == "rsa":
        how = options.get("metric", "correlation"), options.get("compare", "spearman")
        return _rsa_form("X", x, *how), _rsa_form("Y", y, *how)
    unbiased = options.get("unbiased", False)
    return _cka_form("X", x, unbiased), _cka_form("Y", y, unbiased)


def _condensed(name: str, values: np.ndarray, metric: Metric, upper: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the distances (pair,), equal ones exactly equal."""
    distance = rdm(values, metric=metric)[upper]
    distance = np.round(distance / (distance.max() or 1.0) / TIES) * TIES
    if np.ptp(distance) == 0:
        raise InputError(f"all pairs of stimuli are equally far apart in {name}: there is no order to compare")
    return np.asarray(distance)


def _rsa_form(name: str, values: np.ndarray, metric: Metric, compare: Comparison) -> np.ndarray:
    upper = np.triu_indices(len(values), 1)
    distance = _condensed(name, values, metric, upper)
    ranks = scipy.stats.rankdata(distance) if compare == "spearman" else distance
    form = np.zeros((len(values), len(values)))
    form[upper] = unit_norm(ranks[:, None])[:, 0] / np.sqrt(2)
    return np.asarray(form + form.T)


def _cka_form(name: str, values: np.ndarray, unbiased: bool) -> np.ndarray:
    kernel = _gram(_centred(name, values))
    if unbiased:
        n = len(kernel)
        np.fill_diagonal(kernel, 0.0)
        # U-centring: the mean over different stimuli is taken out, and self-pairs stay out
        row = kernel.sum(axis=1) / (n - 2)
        kernel = kernel - row[:, None] - row + row.sum() / (n - 1)
        np.fill_diagonal(kernel, 0.0)
    length = float(np.linalg.norm(kernel))
    if length <= 1e-12 * np.sqrt(len(kernel)):
        raise InputError(f"nothing is left of {name} without self-pairs: its unbiased CKA is not defined")
    return np.asarray(kernel / length)


def _gram(values: np.ndarray) -> np.ndarray:
    if len(values) > MAX_STIMULI:
        raise InputError(
            f"{len(values):,} stimuli: matrices of all their pairs are held in memory, {MAX_STIMULI:,} stimuli at most"
        )
    return np.asarray(values @ values.T)


def _centred(name: str, values: np.ndarray) -> np.ndarray:
    """Return responses less each unit's mean, at a scale of 1 so that fourth powers neither over- nor underflow."""
    given = _responses(name, values, 2)
    centred = given - given.mean(axis=0)
    # a unit whose spread is rounding error beside its own size does not vary
    centred[:, np.abs(centred).max(axis=0) <= 1e-12 * np.abs(given).max(axis=0)] = 0.0
    largest = float(np.abs(centred).max())
    if largest == 0:
        raise InputError(f"no unit of {name} varies over its {len(given)} stimuli")
    scaled = centred / largest
    return np.asarray(scaled / np.sqrt((scaled**2).sum() / len(scaled)))


def _responses(name: str, values: np.ndarray, least: int) -> np.ndarray:
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 2 or len(given) < least or given.shape[1] == 0:
        raise InputError(f"{name} has shape {given.shape}, expected ({least} stimuli or more, 1 unit or more)")
    if not np.isfinite(given).all():
        n_bad = int((~np.isfinite(given)).any(axis=0).sum())
        raise InputError(f"{n_bad} of {given.shape[1]} units of {name} have missing or infinite values: leave them out")
    return given


def _require_same(x: np.ndarray, y: np.ndarray) -> None:
    if len(x) != len(y):
        raise InputError(
            f"X has {len(x)} stimuli and Y has {len(y)}: both must be responses to the same ones, in order"
        )


def _unit_length(values: np.ndarray) -> np.ndarray:
    scaled = values / np.maximum(np.abs(values).max(axis=1, keepdims=True), np.finfo(float).tiny)
    length = np.sqrt((scaled**2).sum(axis=1, keepdims=True))
    return np.asarray(scaled / np.where(length > 0, length, 1.0))


def _permuted(form: np.ndarray, orders: np.ndarray, rows: slice) -> np.ndarray:
    """Return some rows of a matrix under permutations of rows and columns, flat (permutation, row * column)."""
    return np.stack([form[order[rows]][:, order].ravel() for order in orders])


def _counts(n: int, n_bootstrap: int, blocks: np.ndarray | None, seed: int) -> np.ndarray:
    """Return how often each stimulus is in each draw (draw, stimulus)."""
    labels = np.arange(n) if blocks is None else np.asarray(blocks)
    if labels.shape != (n,):
        raise InputError(f"blocks have shape {labels.shape}, expected a number for each of {n} stimuli")
    codes = duplicate_groups(labels.tolist())
    n_blocks = int(codes.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=n_bootstrap)
    return np.asarray(drawn[:, codes], dtype=np.float64)


def _biased_cka_draws(K: np.ndarray, L: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return CKA of draws (stimulus, draw); each copy of a stimulus pairs with itself, not with its other copies."""
    n = c.sum(axis=0)
    sums = {"K": K @ c, "L": L @ c}

    def aligned(A: np.ndarray, a: np.ndarray, B: np.ndarray, b: np.ndarray) -> np.ndarray:
        means = (c * a).sum(axis=0) / n**2, (c * b).sum(axis=0) / n**2
        whole = (c * ((A * B) @ c)).sum(axis=0) - 2 * (c * a * b).sum(axis=0) / n + means[0] * means[1] * n**2
        selves = (A.diagonal()[:, None] - 2 * a / n + means[0]) * (B.diagonal()[:, None] - 2 * b / n + means[1])
        return np.asarray(whole - ((c**2 - c) * selves).sum(axis=0))

    return _ratio(
        aligned(K, sums["K"], L, sums["L"]), aligned(K, sums["K"], K, sums["K"]), aligned(L, sums["L"], L, sums["L"])
    )


def _unbiased_cka_draws(K: np.ndarray, L: np.ndarray, c: np.ndarray) -> np.ndarray:
    r"""Return unbiased CKA of draws (stimulus, draw), the kernels centred anew in each without pairs of copies.

    U-centring takes out of a kernel's pairs of different stimuli what is additive, :math:`a_i + a_j` by least squares. In
    a draw a pair counts :math:`c_i c_j` times: :math:`a_i (n - 2 c_i) + \sum_j c_j a_j = \sum_{j \ne i} c_j K_{ij}`.
    """
    n = c.sum(axis=0)
    rest = np.where(n == 2 * c, np.nan, n - 2 * c)
    sums, additive, kernels = [], [], []
    for kernel in (K, L):
        hollow = kernel.copy()
        np.fill_diagonal(hollow, 0.0)
        row = hollow @ c
        with np.errstate(invalid="ignore", divide="ignore"):  # a draw of one stimulus only
            whole = (c * row / rest).sum(axis=0) / (1 + (c / rest).sum(axis=0))
        kernels.append(hollow)
        sums.append(row)
        additive.append((row - whole) / rest)

    def aligned(i: int, j: int) -> np.ndarray:
        both = (c * ((kernels[i] * kernels[j]) @ c)).sum(axis=0)
        return np.asarray(both - 2 * (c * additive[i] * sums[j]).sum(axis=0))

    found = _ratio(aligned(0, 1), aligned(0, 0), aligned(1, 1))
    found[(c > 0).sum(axis=0) < 4] = np.nan
    return found


def _ratio(both: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    told = (first > 0) & (second > 0)
    return np.where(told, both / np.sqrt(np.where(told, first * second, 1.0)), np.nan)


def _pearson_draws(distances: list[np.ndarray], upper: tuple[np.ndarray, np.ndarray], counts: np.ndarray) -> np.ndarray:
    """Return the correlation of distances in draws: moments of a draw are quadratic forms of its counts."""
    n = counts.shape[1]
    x, y = (unit_norm(distance[:, None])[:, 0] * np.sqrt(distance.size) for distance in distances)
    moments = []
    for values in (np.ones_like(x), x, y, x * x, y * y, x * y):
        square = np.zeros((n, n))
        square[upper] = values
        moments.append(((counts @ square) * counts).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        weight, mx, my, xx, yy, xy = moments[0], *(moment / moments[0] for moment in moments[1:])
    return _weighted_r(weight, xy - mx * my, xx - mx**2, yy - my**2)


def _spearman_draws(
    distances: list[np.ndarray], upper: tuple[np.ndarray, np.ndarray], counts: np.ndarray
) -> np.ndarray:
    """Return the rank correlation of distances in draws: ranks are those among the pairs of each draw."""
    levels = []
    for distance in distances:
        level = np.asarray(np.unique(distance, return_inverse=True)[1], dtype=np.int64)
        n_levels = int(level.max()) + 1
        levels.append(level if n_levels <= RANK_LEVELS else level * RANK_LEVELS // n_levels)
    first, second = upper
    totals = np.empty((4, len(counts)))
    for row, count in enumerate(counts):
        weight = count[first] * count[second]
        there = np.flatnonzero(weight)
        weight = weight[there]
        ranks, spreads, whole = [], [], float(weight.sum())
        for level in levels:
            mine = level[there]
            size = np.bincount(mine, weights=weight)
            # tied pairs share the mean of their places, here counted from the middle of all
            rank = np.cumsum(size) - (size + whole) / 2
            spreads.append(float((size * rank**2).sum()))
            ranks.append(rank[mine])
        totals[:, row] = whole, np.einsum("i,i,i->", weight, *ranks), *spreads
    return _weighted_r(*totals)


def _weighted_r(weight: np.ndarray, both: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return r of draws; NaN for one with fewer than three pairs or of equal distances only."""
    told = (weight >= 3) & (first > 1e-12) & (second > 1e-12)
    return np.where(told, np.clip(both / np.sqrt(np.where(told, first * second, 1.0)), -1.0, 1.0), np.nan)
