"""Tests over subjects: bootstrap, sign flips and family-wise correction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from topobrain._checks import InputError, require_choice
from topobrain.stats.contrast import ALTERNATIVES, Alternative, fdr_bh

FLIP_BATCH = 4096
"""Sign flips worked on at a time."""

Scale = Literal["raw", "fisher-z"]


class SignFlip(NamedTuple):
    """Outcome of a sign-flip test, column by column.

    Attributes
    ----------
    mean
        Mean over subjects (column,), on the scale that was tested.
    t
        One-sample t over subjects (column,).
    p
        p of every column, not corrected.
    p_max
        p beside the most extreme t of any column in each flip: corrected for the number of columns (family-wise),
        whatever their correlations.
    q
        Benjamini-Hochberg q of ``p`` over columns.
    n_subjects
        Subjects with a value (column,).
    n_flips
        Number of sign patterns.
    exact
        Whether these are all there are.
    """

    mean: np.ndarray
    t: np.ndarray
    p: np.ndarray
    p_max: np.ndarray
    q: np.ndarray
    n_subjects: np.ndarray
    n_flips: int
    exact: bool


def sign_flip_test(
    values: Float[np.ndarray, "subject column"],
    *,
    alternative: Alternative = "two-sided",
    n_flips: int = 10_000,
    scale: Scale = "raw",
    seed: int = 0,
) -> SignFlip:
    r"""Is the mean over subjects other than 0?

    If nothing is there, each subject's values are as likely with the other sign. All columns of a subject flip
    together, so their correlations are kept and the largest t over columns gives a family-wise p. The statistic is the
    one-sample t; for one column it orders sign patterns as the mean does.

    If there are at most ``n_flips`` patterns (:math:`2^n`), all are taken and p is the share that is as extreme as what
    was found, the pattern found among them. Otherwise patterns are drawn and p is
    :math:`(1 + \#) / (1 + n_{flips})`.

    Parameters
    ----------
    values
        One value a subject and column, for instance the difference of two models' scores in a region. NaN: the subject
        does not count in that column.
    alternative
        ``"two-sided"`` (of the absolute t), ``"greater"`` or ``"less"``.
    n_flips
        Number of random patterns, and the largest number of patterns to enumerate.
    scale
        ``"fisher-z"`` tests the inverse hyperbolic tangent of correlations.
    seed
        Seed of the random patterns.

    Returns
    -------
    SignFlip
        NaN for columns with fewer than two subjects.

    References
    ----------
    Nichols & Holmes (2002), Hum. Brain Mapp. 15:1; Phipson & Smyth (2010), Stat. Appl. Genet. Mol. Biol. 9:39 (+1).

    Examples
    --------
    >>> found = sign_flip_test(np.array([[1.0], [2.0], [3.0], [4.0]]))
    >>> float(found.p[0]), found.n_flips, found.exact
    (0.125, 16, True)
    """
    require_choice("alternative", alternative, ALTERNATIVES)
    if n_flips < 1:
        raise InputError(f"n_flips must be 1 or more, got {n_flips}")
    table = _table(values, scale)
    given = np.isfinite(table)
    count = given.sum(axis=0)
    filled = np.where(given, table, 0.0)
    square = (filled**2).sum(axis=0)
    tested = count >= 2

    def statistic(total: np.ndarray) -> np.ndarray:
        """Return t (pattern, column) from sums over subjects; sums of squares are the same whatever the signs."""
        with np.errstate(invalid="ignore", divide="ignore"):
            between = square - total**2 / count
            t = total / np.sqrt(between * count / (count - 1))
            # all values equal in size and sign: t is infinite, and rounding must not decide how large
            t = np.where(between > 1e-12 * square, t, np.where(total == 0, 0.0, np.sign(total) * np.inf))
        return np.where(tested, t, np.nan)

    def extreme(t: np.ndarray) -> np.ndarray:
        return np.asarray({"two-sided": np.abs(t), "greater": t, "less": -t}[alternative])

    t = statistic(filled.sum(axis=0))
    found = extreme(t)
    reach = found - 1e-9 * np.where(np.isfinite(found), np.abs(found), 0.0)  # ties differ by rounding only
    exact = 2 ** len(table) <= n_flips
    alone, beside, n = np.zeros(len(t), dtype=int), np.zeros(len(t), dtype=int), 0
    for signs in _sign_patterns(len(table), n_flips, exact, seed):
        flipped = extreme(statistic(signs @ filled))
        n += len(signs)
        alone += (flipped >= reach).sum(axis=0)
        if tested.any():
            largest = flipped[:, tested].max(axis=1)
            beside += (largest[:, None] >= reach).sum(axis=0)
    extra = 0 if exact else 1
    p, p_max = (np.where(tested, (counted + extra) / (n + extra), np.nan) for counted in (alone, beside))
    mean = np.full(len(t), np.nan)
    np.divide(filled.sum(axis=0), count, out=mean, where=count > 0)
    return SignFlip(mean, t, p, p_max, fdr_bh(p), count, n, exact)


def _sign_patterns(n: int, n_flips: int, exact: bool, seed: int) -> Iterator[np.ndarray]:
    """Yield all 2**n sign patterns, or random ones, in batches (pattern, subject)."""
    rng = np.random.default_rng(seed)
    total = 2**n if exact else n_flips
    for start in range(0, total, FLIP_BATCH):
        stop = min(start + FLIP_BATCH, total)
        every = (np.arange(start, stop)[:, None] >> np.arange(n)) & 1
        yield 1.0 - 2.0 * (every if exact else rng.integers(0, 2, size=every.shape))


def bootstrap_subjects(
    values: Float[np.ndarray, "subject column"], *, n_bootstrap: int = 10_000, scale: Scale = "raw", seed: int = 0
) -> Float[np.ndarray, "bootstrap column"]:
    """Resample subjects: how far could the mean over subjects lie with other subjects?

    Parameters
    ----------
    values
        One value a subject and column; NaN: the subject does not count in that column.
    n_bootstrap
        Number of draws.
    scale
        ``"fisher-z"`` averages the inverse hyperbolic tangent of correlations and turns the mean back.
    seed
        Seed of the draws; all columns draw the same subjects.

    Returns
    -------
    array (bootstrap, column)
        Means of the draws; NaN where no subject with a value was drawn.
    """
    table = _table(values, scale)
    n = len(table)
    weight = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_bootstrap).astype(np.float64)
    given = np.isfinite(table)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = weight @ np.where(given, table, 0.0) / (weight @ given)
    return np.tanh(mean) if scale == "fisher-z" else np.asarray(mean)


def bootstrap_stimuli_and_subjects(
    draws: Float[np.ndarray, "subject bootstrap column"], *, scale: Scale = "raw", seed: int = 0
) -> Float[np.ndarray, "bootstrap column"]:
    """Resample stimuli and subjects at once: an interval for other subjects who see other stimuli.

    Parameters
    ----------
    draws
        For every subject, scores in bootstrap draws of the stimuli (`bootstrap_scores`), the same draw of stimuli for
        all subjects; in each draw, as many subjects are drawn with replacement.
    scale, seed
        As in `bootstrap_subjects`.

    Returns
    -------
    array (bootstrap, column)
        Spread a little too wide rather than too narrow: what varies from value to value counts on both sides.

    References
    ----------
    Owen (2007), Ann. Appl. Stat. 1:386 (the pigeonhole bootstrap of two crossed factors).
    """
    table = np.asarray(draws, dtype=np.float64)
    if table.ndim != 3 or len(table) < 2:
        raise InputError(f"draws have shape {table.shape}: expected (subject, bootstrap, column), 2 subjects up")
    table = _scaled(table, scale)
    n, n_bootstrap = table.shape[:2]
    weight = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_bootstrap).astype(np.float64)
    given = np.isfinite(table)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = np.einsum("bs,sbc->bc", weight, np.where(given, table, 0.0))
        mean = total / np.einsum("bs,sbc->bc", weight, given.astype(np.float64))
    return np.tanh(mean) if scale == "fisher-z" else np.asarray(mean)


def percentile_interval(
    draws: Float[np.ndarray, "bootstrap ..."], level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of the middle ``level`` of the draws, NaN draws left out; NaN where there is none.

    >>> [round(float(bound), 6) for bound in percentile_interval(np.arange(101.0), 0.9)]
    [5.0, 95.0]
    """
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, got {level}")
    values = np.asarray(draws, dtype=np.float64)
    bounds = np.full((2, *values.shape[1:]), np.nan)
    told = np.isfinite(values).any(axis=0)
    if np.any(told):
        bounds[:, told] = np.nanquantile(values[:, told], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return bounds[0], bounds[1]


def t_interval(values: Float[np.ndarray, "fold ..."], level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of Student's interval of the mean over the first axis; NaN with fewer than three values.

    >>> [round(float(bound), 4) for bound in t_interval(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))]
    [1.0368, 4.9632]
    """
    from scipy.stats import t

    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, got {level}")
    table = np.asarray(values, dtype=np.float64)
    n, mean = len(table), table.mean(axis=0)
    if n < 3:
        return np.full(mean.shape, np.nan), np.full(mean.shape, np.nan)
    away = t.ppf((1 + level) / 2, n - 1) * table.std(axis=0, ddof=1) / np.sqrt(n)
    return mean - away, mean + away


def max_statistic_p(
    observed: Float[np.ndarray, " column"], largest: Float[np.ndarray, " permutation"]
) -> Float[np.ndarray, " column"]:
    r"""Return family-wise p-values: how often the largest score of any column reaches each observed score.

    :math:`p = (1 + \#\{largest \ge observed\}) / (1 + n)`, NaN where there is no observed score. ``largest`` is, for
    instance, that of `permuted_scores`.

    References
    ----------
    Westfall & Young (1993), *Resampling-based multiple testing*; Nichols & Holmes (2002), Hum. Brain Mapp. 15:1.

    Examples
    --------
    >>> max_statistic_p(np.array([0.9, 0.3]), np.array([0.1, 0.2, 0.4])).tolist()
    [0.25, 0.5]
    """
    ordered = np.sort(np.asarray(largest, dtype=np.float64))
    if ordered.ndim != 1 or ordered.size == 0 or np.isnan(ordered).any():
        raise InputError("largest must be a row of one or more numbers without missing ones")
    scores = np.asarray(observed, dtype=np.float64)
    count = ordered.size - np.searchsorted(ordered, scores - 1e-12, side="left")
    return np.asarray(np.where(np.isfinite(scores), (1 + count) / (1 + ordered.size), np.nan))


def _table(values: np.ndarray, scale: str) -> np.ndarray:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or len(table) < 2:
        raise InputError(f"values have shape {table.shape}: expected (subject, column), 2 subjects up")
    if np.isinf(table).any():
        raise InputError("values hold an infinite one")
    return _scaled(table, scale)


def _scaled(table: np.ndarray, scale: str) -> np.ndarray:
    require_choice("scale", scale, ("raw", "fisher-z"))
    if scale == "raw":
        return table
    if (np.abs(table) >= 1).any():
        raise InputError("Fisher's z needs correlations between -1 and 1, ends excluded")
    return np.asarray(np.arctanh(table))
