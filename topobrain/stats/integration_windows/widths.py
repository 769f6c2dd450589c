"""What windows tell without a law, and how far their laws can be believed: width, reliability, masks, choice of form."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import ArrayLike

from topobrain._checks import InputError
from topobrain.stats.ceiling import spearman_brown
from topobrain.stats.integration_windows.fitting import ROUNDING, fit_windows
from topobrain.stats.integration_windows.forms import FORMS, HIGHEST, checked_lags, own_lags

HALF = 0.5


class WindowWidth(NamedTuple):
    """Width of a window without a law, in words.

    Attributes
    ----------
    half
        Lag at which the curve first is down to one half, by linear interpolation (unit,); NaN where it never is, and where it
        does not start above one half.
    centre
        Mean of the lags above 0, weighted by the curve (unit,); NaN where nothing of it is above 0.
    beyond
        Whether the curve stays above one half at all lags (unit,): the window is wider than was measured.
    """

    half: Float[np.ndarray, " unit"]
    centre: Float[np.ndarray, " unit"]
    beyond: Bool[np.ndarray, " unit"]


def window_width(theta: Shaped[np.ndarray, "lag unit"], lags: ArrayLike | None = None) -> WindowWidth:
    """How many words wide is a unit's window, whatever its law?

    Parameters
    ----------
    theta
        Influence relative to that at lag 0 (lag, unit). Units with a missing value are NaN.
    lags
        Lag of each row, rising, with lag 0; rows at negative lags do not count. 0, 1, 2, ... if not given.

    Returns
    -------
    WindowWidth
        The centre counts negative values, which are noise, as zero: it lies between lag 1 and the last lag.

    Raises
    ------
    InputError
        Lags that do not match, do not start at 0, or end there.

    Examples
    --------
    >>> width = window_width(np.array([[1.0, 1.0], [0.7, 0.9], [0.2, 0.9]]))
    >>> width.half.round(3).tolist(), width.beyond.tolist(), width.centre.round(3).tolist()
    ([1.4, nan], [False, True], [1.222, 1.5])
    """
    curves = np.asarray(theta, dtype=np.float64)
    given = own_lags(curves, lags)
    curves, lag = curves[given >= 0], checked_lags(given[given >= 0])
    if lag[0] != 0 or lag.size < 2:
        raise InputError(f"a width needs lag 0 and later ones; the lags are {lag[0]:g} to {lag[-1]:g}")
    known = np.isfinite(curves).all(axis=0)
    down = curves <= HALF
    starts = known & ~down[0]
    beyond = starts & ~down.any(axis=0)
    after = np.maximum(down.argmax(axis=0), 1)
    units = np.arange(curves.shape[1])
    high, low = curves[after - 1, units], curves[after, units]
    with np.errstate(invalid="ignore", divide="ignore"):
        half = lag[after - 1] + (lag[after] - lag[after - 1]) * (high - HALF) / (high - low)
        left = np.maximum(curves[1:], 0.0)
        centre = (lag[1:, None] * left).sum(axis=0) / left.sum(axis=0)
    return WindowWidth(np.where(starts & ~beyond, half, np.nan), np.where(known, centre, np.nan), beyond)


class Identifiable(NamedTuple):
    """Which parameters of a window its curve tells (unit,) each: a map shows these, and the rest grey."""

    a: Bool[np.ndarray, " unit"]
    b: Bool[np.ndarray, " unit"]
    c: Bool[np.ndarray, " unit"]


STEEPEST = HIGHEST - 0.01
"""Exponent from which a power law is at the bound of its fit."""


def identifiable(
    c: Shaped[np.ndarray, " unit"],
    theta_se: Shaped[np.ndarray, "lag unit"] | None = None,
    *,
    a: Shaped[np.ndarray, " unit"] | None = None,
    lags: ArrayLike | None = None,
    low: float = 0.05,
    high: float = 0.95,
    max_se: float = 0.005,
) -> Identifiable:
    r"""Which parameters of a fitted window mean something?

    Without a power law (c below ``low``) its exponent a is arbitrary, without an exponential (c above ``high``) its rate b;
    and no parameter is known of a unit whose curve is too noisy: the root mean square of its standard errors over lags
    above 0 is over ``max_se``. From a noise of .01 a lag on, interquartile ranges of c reach .03 to .08 and those of b a half
    of its value; at .03 they are useless for maps. A power law at the steepest exponent is none: nothing of it is left at lag
    1, so that it stands for the swapped word alone, an exponential does so as well, and c would weigh the one against the
    other; neither a nor c is known then.

    Parameters
    ----------
    c
        Weight of the power law (unit,), from `fit_windows`. NaN: nothing is known.
    a
        Its exponent (unit,), NaN where there is none; None to leave the last rule out.
    theta_se
        Standard errors of the curves (lag, unit), from a bootstrap; None if they have none (an exact curve).
    lags
        Lag of each row of ``theta_se``; 0, 1, 2, ... if not given.
    low, high
        Bounds of c.
    max_se
        Largest standard error; ``inf`` for any.

    Returns
    -------
    Identifiable

    Examples
    --------
    >>> known = identifiable(np.array([0.01, 0.5, 0.99, 0.5]), np.array([[0.0] * 4, [0.001, 0.001, 0.001, 0.02]]))
    >>> known.a.tolist(), known.b.tolist(), known.c.tolist()
    ([False, True, True, False], [True, True, False, False], [True, True, True, False])
    """
    weight = np.asarray(c, dtype=np.float64)
    if weight.ndim != 1:
        raise InputError(f"c has shape {weight.shape}, expected one weight a unit")
    if not (0 <= low <= high <= 1 and max_se >= 0):
        raise InputError(f"expected 0 <= low <= high <= 1 and max_se of 0 or more, got {low}, {high} and {max_se}")
    known = np.isfinite(weight)
    if theta_se is not None:
        errors = np.asarray(theta_se, dtype=np.float64)
        lag = own_lags(errors, lags)
        if errors.shape[1] != weight.size:
            raise InputError(f"c is of {weight.size} units, theta_se {errors.shape} of {errors.shape[1]}: one a column")
        if not (lag > 0).any():
            raise InputError("theta_se has no lag above 0, and at lag 0 every curve is 1")
        known &= np.sqrt((errors[lag > 0] ** 2).mean(axis=0)) <= max_se  # NaN is not
    told = known
    if a is not None:
        exponent = np.asarray(a, dtype=np.float64)
        if exponent.shape != weight.shape:
            raise InputError(f"a has shape {exponent.shape}, expected one exponent for each of {weight.size} units")
        with np.errstate(invalid="ignore"):
            told = known & ~((exponent >= STEEPEST) & (weight >= low))
    return Identifiable(told & (weight >= low), known & (weight <= high), told)


def split_half(
    first: Shaped[np.ndarray, "lag unit"], second: Shaped[np.ndarray, "lag unit"], lags: ArrayLike | None = None
) -> Float[np.ndarray, " unit"]:
    """How well would each unit's curve come back from as many new sequences?

    Pearson r of the curves of two halves of the sequences over lags other than 0, lengthened by Spearman-Brown's formula to
    all of them. All windows fall, so even unlike units agree: the floor is the reliability between units, not 0.

    Parameters
    ----------
    first, second
        Curves of each half (lag, unit).
    lags
        Lag of each row; 0, 1, 2, ... if not given.

    Returns
    -------
    array (unit,)
        1 at most. Below 0 the halves contradict each other, and -1 stands for anything lower. NaN where a curve has a missing
        value or is constant.

    Raises
    ------
    InputError
        Halves of different shape; fewer than three lags.

    Examples
    --------
    >>> first = np.array([[1.0], [0.6], [0.4], [0.1]])
    >>> split_half(first, first - 0.05).round(6).tolist()
    [1.0]
    """
    one, two = _halves(first, second, lags)
    return _lengthened(one, two)


def split_half_matrix(
    first: Shaped[np.ndarray, "lag unit"], second: Shaped[np.ndarray, "lag unit"], lags: ArrayLike | None = None
) -> float:
    """How well would the windows of a whole layer come back from as many new sequences?

    As `split_half`, with one correlation over all lags and units: differences between units count too. Units with a missing
    value are left out; NaN if none is left.

    >>> first = np.array([[1.0, 1.0], [0.6, 0.2], [0.4, 0.1], [0.1, 0.05]])
    >>> round(split_half_matrix(first, 0.9 * first), 6)
    1.0
    """
    one, two = _halves(first, second, lags)
    known = np.isfinite(one).all(axis=0) & np.isfinite(two).all(axis=0)
    return float(_lengthened(one[:, known].reshape(-1, 1), two[:, known].reshape(-1, 1))[0]) if known.any() else np.nan


def _halves(first: np.ndarray, second: np.ndarray, lags: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    one, two = (np.asarray(half, dtype=np.float64) for half in (first, second))
    if one.shape != two.shape:
        raise InputError(f"the halves have shapes {one.shape} and {two.shape}, expected the same (lag, unit)")
    rows = own_lags(one, lags) != 0
    if rows.sum() < 3:
        raise InputError(f"{rows.sum()} lags other than 0: a correlation over lags needs 3 or more")
    return one[rows], two[rows]


def _lengthened(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return Spearman-Brown reliabilities (column,) of Pearson r over rows."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        centred = [half - half.mean(axis=0) for half in (one, two)]
        length = [np.sqrt((half**2).sum(axis=0)) for half in centred]
        constant = [
            size <= 1e-12 * np.sqrt((half**2).sum(axis=0)) for size, half in zip(length, (one, two), strict=True)
        ]
        r = np.clip((centred[0] * centred[1]).sum(axis=0) / (length[0] * length[1]), -1.0, 1.0)
        r[constant[0] | constant[1]] = np.nan
        return np.asarray(np.maximum(spearman_brown(r), -1.0))


class FormChoice(NamedTuple):
    """Forms of a window compared on sequences that did not fit them.

    Attributes
    ----------
    loss
        Squared error on test curves, summed over lags and averaged over folds (form, unit), in the order of `FORMS`; NaN for
        units without a fit in some fold.
    best
        Index into `FORMS` of the form with the least (unit,); -1 for units without a loss.
    """

    loss: Float[np.ndarray, "form unit"]
    best: Int[np.ndarray, " unit"]


def choose_form(
    train: Shaped[np.ndarray, "fold lag unit"],
    test: Shaped[np.ndarray, "fold lag unit"],
    lags: ArrayLike | None = None,
) -> FormChoice:
    r"""Is a unit's window exponential, a power law or a mixture of both, judged by sequences left out?

    Every form is fitted to the curves of each fold's training sequences (`fit_windows`) and scored on those of its test
    sequences, :math:`\sum_{lag} (\theta_{test} - \hat\theta_{train})^2`. Losses equal but for rounding go to the form with
    fewer parameters.

    Parameters
    ----------
    train, test
        Curves of the training and of the test sequences of each fold (fold, lag, unit).
    lags
        Lag of each row; 0, 1, 2, ... if not given.

    Returns
    -------
    FormChoice

    Raises
    ------
    InputError
        Arrays of different shape, or lags that `fit_windows` cannot use.

    Examples
    --------
    >>> from topobrain.stats.integration_windows import window_curve
    >>> curves = window_curve([0.6, 0.6, 0.6], 1.0, [0.0, 1.0, 0.4], np.arange(12))[None]
    >>> [FORMS[best] for best in choose_form(curves, curves).best]
    ['exponential', 'power', 'mixture']
    """
    fitted, left = (np.asarray(curves, dtype=np.float64) for curves in (train, test))
    if fitted.ndim != 3 or fitted.shape != left.shape or not len(fitted):
        raise InputError(f"train {fitted.shape} and test {left.shape} must both be (fold, lag, unit), one fold or more")
    n_folds, n_lags, n_units = fitted.shape
    flat = fitted.transpose(1, 0, 2).reshape(n_lags, -1)  # folds side by side: one fit for all
    answers = left.transpose(1, 0, 2).reshape(n_lags, -1)
    loss = np.stack([((answers - fit_windows(flat, lags=lags, form=form).fitted) ** 2).sum(axis=0) for form in FORMS])
    loss = loss.reshape(len(FORMS), n_folds, n_units).mean(axis=1)
    known = np.isfinite(loss).all(axis=0)
    floor = ROUNDING * (left**2).sum(axis=1).mean(axis=0)
    best = np.argmin(np.where(known, np.maximum(loss, floor), 0.0), axis=0)
    return FormChoice(np.where(known, loss, np.nan), np.where(known, best, -1))
