"""Two kinds of integration window, and their mixture."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from topobrain._checks import InputError

Form = Literal["exponential", "power", "mixture"]

FORMS: tuple[Form, ...] = ("exponential", "power", "mixture")
"""Forms of a window, fewest parameters first."""

N_PARAMETERS: dict[Form, int] = {"exponential": 1, "power": 1, "mixture": 3}
"""Free parameters of each form: b; a; a, b and c."""

Numbers = int | float | ArrayLike
"""One number for all units, or one a unit."""

HIGHEST = 10.0
"""Upper bound of a and b: a window that is all but over at the next word."""


def window_curve(a: Numbers, b: Numbers, c: Numbers, lags: ArrayLike) -> Float[np.ndarray, "lag unit"]:
    r"""How much of a swapped word is left so many words later, by the law of a window?

    .. math:: \theta(\mathrm{lag}) = c\,(\mathrm{lag} + 1)^{-a} + (1 - c)\,e^{-b\,\mathrm{lag}}

    Parameters
    ----------
    a
        Exponent of the power law, one a unit or one for all. It does not matter, and may be NaN, where c is 0.
    b
        Rate of the exponential, per word. It does not matter, and may be NaN, where c is 1.
    c
        Weight of the power law, 0 (exponential) to 1 (power law).
    lags
        Words since the swapped word, (lag,), 0 or more.

    Returns
    -------
    array (lag, unit)
        1 at lag 0. NaN for units without parameters.

    Raises
    ------
    InputError
        Parameters of different numbers of units, or lags that no window has.

    References
    ----------
    Skrill & Norman-Haignere (2023), NeurIPS 36:638.

    Examples
    --------
    >>> window_curve(1.0, 1.0, [1.0, 0.0], [0, 1, 3]).round(3).tolist()
    [[1.0, 1.0], [0.5, 0.368], [0.25, 0.05]]
    """
    given = [np.atleast_1d(np.asarray(x, np.float64)) for x in (a, b, c)]
    try:
        power_exponent, rate, weight = np.broadcast_arrays(*given)
    except ValueError:
        a_units, b_units, c_units = (x.size for x in given)
        raise InputError(
            f"a is of {a_units} units, b of {b_units}, c of {c_units}: expected one number for all, or one a unit"
        ) from None
    if weight.ndim != 1:
        raise InputError(f"a, b and c must be numbers, one a unit; they have shape {weight.shape} together")
    lag = checked_lags(lags)[:, None]
    with np.errstate(over="ignore", invalid="ignore"):
        power = np.where(weight == 0, 0.0, weight * np.exp(-power_exponent * np.log1p(lag)))
        exponential = np.where(weight == 1, 0.0, (1 - weight) * np.exp(-rate * lag))
    return np.asarray(power + exponential)


def checked_lags(lags: ArrayLike) -> Float[np.ndarray, " lag"]:
    """Return lags as float64, or raise for lags no window has: negative ones, or lags out of order."""
    given = np.asarray(lags, dtype=np.float64)
    if given.ndim != 1 or not given.size:
        raise InputError(f"lags have shape {given.shape}, expected one number of words a row of the curves")
    if not np.isfinite(given).all() or (np.diff(given) <= 0).any() or given[0] < 0:
        raise InputError(
            f"lags are words since the swapped word, 0 or more and rising; got {given[0]:g} to {given[-1]:g}. "
            "Curves with lags on both sides have no window of this kind"
        )
    return given


def own_lags(curves: np.ndarray, lags: ArrayLike | None) -> Float[np.ndarray, " lag"]:
    """Return the lags of the rows of curves (lag, unit): those given, or 0, 1, 2, ..."""
    if curves.ndim != 2 or not len(curves):
        raise InputError(f"curves have shape {curves.shape}, expected (lag, unit): one column a unit")
    if lags is None:
        return np.arange(len(curves), dtype=np.float64)
    given = np.asarray(lags, dtype=np.float64)
    if given.shape != (len(curves),):
        raise InputError(f"curves have {len(curves)} rows, but there are {given.size} lags: one lag a row")
    return given
