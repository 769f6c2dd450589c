"""Bounded least squares of integration windows, all units at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped
from numpy.typing import ArrayLike

from topobrain._checks import InputError, require_choice
from topobrain.stats.integration_windows.forms import (
    FORMS,
    HIGHEST,
    N_PARAMETERS,
    Form,
    Numbers,
    checked_lags,
    own_lags,
    window_curve,
)

UNIT_BLOCK = 4096
"""Units fitted at a time: enough that the few slow ones do not take steps of their own, few enough for the cache."""

MOST_STEPS = 30
"""Steps of one fit. Most curves need five; two of 10,000 noisy ones gain 1e-8 in loss or more from further steps."""

PRECISION = 1e-10
"""A fit ends when its next step promises less than this share of the loss: about 1e-5 standard errors of a parameter."""

NEAR = 0.01
"""Fits this close together, in the values at lag 1 of both parts, are on their way to the same minimum."""

HOPE = 3.0
"""A second fit is given up when this many times what its last step promised leaves it too far above the first."""

SLACK = 3.84
"""Two fits are as good where their losses differ by less than this share over the degrees of freedom: 5 % of chi square."""

ROUNDING = float(np.finfo(np.float64).eps)

LARGEST = 1e100
"""Curves beyond it have no loss in float64, and no meaning."""

# Inside, a window is told by the values of its two parts at lag 1: fall = 2^-a and decay = e^-b. Curves are closer to
# linear in them than in a and b, above all where a part is over at once: b = 8 and b = 10 differ by 3e-4 at lag 1.
LEAST_FALL, LEAST_DECAY = 2.0**-HIGHEST, float(np.exp(-HIGHEST))

START_FALL = np.array([LEAST_FALL, 0.06, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.74, 0.82, 0.89, 0.95, 1.0])
START_DECAY = np.array([LEAST_DECAY, 0.06, 0.15, 0.25, 0.36, 0.48, 0.6, 0.7, 0.79, 0.86, 0.92, 0.96, 1.0])

WEIGHTS: dict[Form, tuple[float, float]] = {"exponential": (0.0, 0.0), "power": (1.0, 1.0), "mixture": (0.0, 1.0)}


class WindowFit(NamedTuple):
    """Integration windows fitted to curves; NaN throughout for a unit whose curve cannot be fitted.

    Attributes
    ----------
    a
        Exponent of the power law (unit,), 0 to 10; NaN for the exponential form.
    b
        Rate of the exponential, per word (unit,), 0 to 10; NaN for the power form.
    c
        Weight of the power law (unit,), 0 to 1; 0 and 1 for the pure forms.
    r2
        Share of the curve's variance over lags that the fit explains (unit,); negative where a constant does better.
    loss
        Sum of squares over lags (unit,).
    bic
        Bayesian information criterion (unit,): the lowest of the forms is the best.
    fitted
        The fitted curves (lag, unit).
    ambiguous
        Whether a slow exponential and a fast power law would fit as well (unit,); never for the pure forms.
    """

    a: Float[np.ndarray, " unit"]
    b: Float[np.ndarray, " unit"]
    c: Float[np.ndarray, " unit"]
    r2: Float[np.ndarray, " unit"]
    loss: Float[np.ndarray, " unit"]
    bic: Float[np.ndarray, " unit"]
    fitted: Float[np.ndarray, "lag unit"]
    ambiguous: Bool[np.ndarray, " unit"]


def fit_windows(
    theta: Shaped[np.ndarray, "lag unit"],
    *,
    lags: ArrayLike | None = None,
    form: Form = "mixture",
    starts: tuple[Numbers, Numbers] | None = None,
) -> WindowFit:
    r"""How fast, and by which law, does each unit forget a word?

    Least squares over lags of :math:`c\,(\mathrm{lag}+1)^{-a} + (1-c)\,e^{-b\,\mathrm{lag}}` with
    :math:`0 \le a, b \le 10` and :math:`0 \le c \le 1`. Given a and b, the best c is known in closed form, so only two
    parameters are searched (variable projection): a grid of them gives the starts, and damped Gauss-Newton steps inside the
    bounds end them, for all units together. The criterion is :math:`\mathrm{BIC} = n \ln(\mathrm{loss}/n) + k \ln n`
    with n lags and k = 1, 1 or 3 parameters; losses below rounding count as rounding.

    At a = 0, or b = 0, a part is constant; at 10 it is over at the next word. Where c is near 0 the curve says nothing about
    a, and near 1 nothing about b: `identifiable` tells these units.

    Most curves have two minima: a slow power law beside a fast exponential, and a slow exponential beside a fast power law,
    with c near one minus that of the first. Which is lower is chance where the loss is noise: with 1 % noise on windows of
    (a, b, c) = (.5, 4.2, .1) it is the second in a third of the units, at c = .95. So the first is taken unless its loss is
    above the second's by more than noise explains (by 3.84 / (n - 3) of it, 5 % of chi square with one degree of freedom),
    as the published fits did by their start; `WindowFit.ambiguous` tells the units in which the second does as well.

    Parameters
    ----------
    theta
        Influence of a word so many words later, relative to that at lag 0 (lag, unit). A unit with a missing value, or whose
        curve is constant (also zero), is NaN in everything.
    lags
        Words since the swapped word, one a row of ``theta``, 0 or more and rising; 0, 1, 2, ... if not given.
    form
        ``"exponential"`` (c = 0), ``"power"`` (c = 1) or ``"mixture"``.
    starts
        a and b near the best ones, (unit,) each, from a fit of nearly the same curves: the search then begins there, and
        takes the grid for units that have none (NaN). It saves a few steps of a bootstrap and hardly ever
        changes a result; the pure forms have no use for it.

    Returns
    -------
    WindowFit

    Raises
    ------
    InputError
        Fewer lags than parameters; lags that are negative or do not match; starts of another number of units.
    UnknownNameError
        An unknown form.

    References
    ----------
    Skrill & Norman-Haignere (2023), NeurIPS 36:638 (the mixture). Golub & Pereyra (1973), SIAM J. Numer. Anal. 10:413
    (variable projection); Kaufman (1975), BIT 15:49 (its approximate Jacobian).

    Examples
    --------
    >>> theta = window_curve([0.6, 0.5], [1.0, 4.2], [0.3, 0.1], np.arange(21))
    >>> fit = fit_windows(theta)
    >>> fit.a.round(6).tolist(), fit.b.round(6).tolist(), fit.c.round(6).tolist()
    ([0.6, 0.5], [1.0, 4.2], [0.3, 0.1])
    """
    require_choice("form of a window", form, FORMS)
    curves = np.asarray(theta, dtype=np.float64)
    lag = checked_lags(own_lags(curves, lags))
    n_lags, n_units = curves.shape
    if n_lags < N_PARAMETERS[form]:
        raise InputError(
            f"{n_lags} lags cannot tell the {N_PARAMETERS[form]} parameters of the form {form!r}: more lags"
        )
    begin = None if starts is None else _given_starts(starts, n_units)
    fall, decay, c, loss = np.full((4, n_units), np.nan)
    ambiguous = np.zeros(n_units, dtype=bool)
    usable = np.flatnonzero(_has_window(curves))
    for first in range(0, usable.size, UNIT_BLOCK):
        block = usable[first : first + UNIT_BLOCK]
        problem = _Problem(curves[:, block], lag[:, None], np.log2(lag + 1)[:, None], WEIGHTS[form])
        end, ambiguous[block] = _fit(problem, None if begin is None else begin[:, block])
        fall[block], decay[block], c[block], loss[block] = end
    a = np.full(n_units, np.nan) if form == "exponential" else np.clip(-np.log2(fall), 0.0, HIGHEST) + 0.0
    b = np.full(n_units, np.nan) if form == "power" else np.clip(-np.log(decay), 0.0, HIGHEST) + 0.0
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        r2 = 1 - loss / ((curves - curves.mean(axis=0)) ** 2).sum(axis=0)
        least = np.maximum(loss, ROUNDING * (curves**2).sum(axis=0))  # NaN stays NaN
        bic = n_lags * np.log(least / n_lags) + N_PARAMETERS[form] * np.log(n_lags)
    return WindowFit(a, b, c, r2, loss, bic, window_curve(a, b, c, lag), ambiguous)


class _Problem(NamedTuple):
    """Curves to fit, with what every evaluation needs."""

    curves: np.ndarray  # (lag, unit)
    lags: np.ndarray  # (lag, 1)
    octaves: np.ndarray  # (lag, 1): log2(lag + 1), so that the power law is fall ** octaves
    weights: tuple[float, float]  # bounds of c

    def of(self, units: np.ndarray) -> _Problem:
        return self._replace(curves=self.curves[:, units])


class _State(NamedTuple):
    """Where fits stand, and the normal equations of their next step; the last axis is the unit."""

    fall: np.ndarray
    decay: np.ndarray
    c: np.ndarray
    loss: np.ndarray
    slope: np.ndarray  # (2, unit): of half the loss, downhill, along fall and decay
    bend: np.ndarray  # (3, unit): fall with itself, decay with itself, fall with decay

    def of(self, units: np.ndarray) -> _State:
        return _State(*(values[..., units] for values in self))


End = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""fall, decay, c and loss, (unit,) each."""


def _has_window(curves: np.ndarray) -> np.ndarray:
    """Return which units (unit,) have a curve that can be fitted: numbers that are not all the same."""
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.abs(curves).max(axis=0)
        return np.asarray((size < LARGEST) & (curves.max(axis=0) - curves.min(axis=0) > 1e-12 * size))


def _given_starts(starts: tuple[Numbers, Numbers], n_units: int) -> np.ndarray:
    """Return fall and decay (2, unit) of starts given as a and b."""
    given = [np.asarray(values, dtype=np.float64) for values in starts]
    if len(given) != 2 or any(values.shape not in ((), (n_units,)) for values in given):
        shapes = " and ".join(str(values.shape) for values in given)
        raise InputError(f"starts are a and b, one number a unit ({n_units} units); they have shapes {shapes}")
    a, b = (np.broadcast_to(np.clip(values, 0.0, HIGHEST), (n_units,)) for values in given)
    return np.stack([2.0**-a, np.exp(-b)])


def _fit(problem: _Problem, begin: np.ndarray | None) -> tuple[End, np.ndarray]:
    """Fit curves, from given starts (2, unit) where they are numbers; return the ends, and which are ambiguous."""
    low, high = problem.weights
    if low == high:  # one parameter: the grid is as good a start as any
        place = _best_nodes(problem)[0]
        return _descend(problem, place[0], place[1]), np.zeros(problem.curves.shape[1], dtype=bool)
    slower, faster = _best_nodes(problem)
    if begin is not None:
        known = np.isfinite(begin).all(axis=0)
        slower, faster = (
            np.where(known & (begin[0] >= begin[1]), begin, slower),
            np.where(known & (begin[0] < begin[1]), begin, faster),
        )
    return _better_order(problem, slower, faster)


def _better_order(problem: _Problem, slower: np.ndarray, faster: np.ndarray) -> tuple[End, np.ndarray]:
    """Fit from a start of each order (2, unit); take the power law as the slower part unless the other fits better.

    Nearly every curve has two minima: a slow power law with a fast exponential, and a slow exponential with a fast power
    law. The least of noisy curves jumps between them, c with it, while their losses do not differ beyond noise.
    """
    noise = 1 + SLACK / max(len(problem.lags) - N_PARAMETERS["mixture"], 1)
    one = _descend(problem, slower[0], slower[1])
    other = _descend(problem, faster[0], faster[1], rival=(one[0], one[1], noise * one[3]))
    # a descent may cross over, so it is the end that counts
    orders = [_power_is_slower(end) for end in (one, other)]
    mixed = orders[0] != orders[1]
    handicap = [np.where(mixed & ~order, noise, 1.0) for order in orders]
    takes = handicap[1] * other[3] < handicap[0] * one[3]
    ambiguous = mixed & (np.maximum(one[3], other[3]) <= noise * np.minimum(one[3], other[3]))
    fall, decay, c, loss = (np.where(takes, new, old) for new, old in zip(other, one, strict=True))
    return (fall, decay, c, loss), ambiguous


def _power_is_slower(end: End) -> np.ndarray:
    """Return whether the power law is the slower of the two parts at lag 1; a pure window has no order."""
    fall, decay, c, _ = end
    return np.asarray((fall >= decay) | (c == 0) | (c == 1))


def _best_nodes(problem: _Problem) -> list[np.ndarray]:
    """Return the grid's best node, fall and decay (2, unit); for a mixture the best of each order, slow power law first."""
    fall, decay = _grid(problem.weights)
    loss = _grid_loss(problem)
    if problem.weights[0] < problem.weights[1]:
        orders = [fall[:, None] >= decay, fall[:, None] <= decay]
    else:
        orders = [np.ones(loss.shape[:2], dtype=bool)]
    found = []
    for order in orders:
        at_fall, at_decay = np.nonzero(order)
        node = loss[order].argmin(axis=0)
        found.append(np.stack([fall[at_fall[node]], decay[at_decay[node]]]))
    return found


def _grid(weights: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the nodes of fall and decay; a parameter that does not matter has one."""
    low, high = weights
    return START_FALL if high > 0 else START_FALL[-1:], START_DECAY if low < 1 else START_DECAY[-1:]


def _grid_loss(problem: _Problem) -> np.ndarray:
    """Return the loss (fall, decay, unit) of every node with its best c, through two matrix products."""
    fall, decay = _grid(problem.weights)
    power = fall[:, None] ** problem.octaves[:, 0]
    exponential = decay[:, None] ** problem.lags[:, 0]
    across = power[:, None] - exponential
    length = np.sqrt((across**2).sum(axis=2))
    across /= np.where(length > 0, length, 1.0)[:, :, None]
    # along: how far the curve lies from the exponential in the direction of the power law; stop: where c ends that way
    along = (across.reshape(-1, len(problem.lags)) @ problem.curves).reshape(*length.shape, -1)
    along -= (across * exponential).sum(axis=2)[:, :, None]
    stop = np.clip(along, problem.weights[0] * length[:, :, None], problem.weights[1] * length[:, :, None])
    along *= 2
    np.subtract(stop, along, out=along)
    stop *= along
    stop += (problem.curves**2).sum(axis=0) - 2 * exponential @ problem.curves + (exponential**2).sum(axis=1)[:, None]
    return np.asarray(stop)


def _evaluate(problem: _Problem, fall: np.ndarray, decay: np.ndarray) -> _State:
    """Return the best c, the loss and the normal equations at a place."""
    low, high = problem.weights
    power = np.exp(problem.octaves * np.log(fall))
    exponential = np.exp(problem.lags * np.log(decay))
    across = power - exponential
    left = problem.curves - exponential
    length = _dot(across, across)
    apart = length > 0
    length = np.where(apart, length, 1.0)
    c = np.clip(np.where(apart, _dot(across, left) / length, 0.5), low, high)
    left -= c * across
    loss = _dot(left, left)
    # now the curve's derivatives by fall and by decay
    power *= problem.octaves
    power *= c / fall
    exponential *= problem.lags
    exponential *= (1 - c) / decay
    # c follows a step unless it sits at a bound: what it can follow is no derivative any more
    follows = np.where((c > low) & (c < high) & apart, 1 / length, 0.0)
    by_fall, by_decay = _dot(across, power), _dot(across, exponential)
    slope = np.stack([_dot(left, power), _dot(left, exponential)])
    bend = np.stack(
        [
            np.maximum(_dot(power, power) - by_fall**2 * follows, 0.0),
            np.maximum(_dot(exponential, exponential) - by_decay**2 * follows, 0.0),
            _dot(power, exponential) - by_fall * by_decay * follows,
        ]
    )
    return _State(fall, decay, c, loss, slope, bend)


def _dot(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("lu,lu->u", one, other))


def _next_step(state: _State, damping: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the damped step along fall and decay that stays inside the bounds, and the fall of the loss it promises."""
    (down_fall, down_decay), (fall_fall, decay_decay, mixed) = state.slope, state.bend
    # a floor far below any curve's: a parameter that does not matter (a where c = 0) stays where it is
    stiff_fall = np.maximum(fall_fall * (1 + damping), 1e-30)
    stiff_decay = np.maximum(decay_decay * (1 + damping), 1e-30)
    determinant = np.maximum(stiff_fall * stiff_decay - mixed**2, 1e-13 * stiff_fall * stiff_decay)
    free_fall = (stiff_decay * down_fall - mixed * down_decay) / determinant
    free_decay = (stiff_fall * down_decay - mixed * down_fall) / determinant
    along_fall = np.clip(free_fall, LEAST_FALL - state.fall, 1 - state.fall)
    along_decay = np.clip(free_decay, LEAST_DECAY - state.decay, 1 - state.decay)
    # where one runs into its bound, the other makes the best of it
    fall_stops, decay_stops = along_fall != free_fall, along_decay != free_decay
    instead_decay = (down_decay - mixed * along_fall) / stiff_decay
    instead_fall = (down_fall - mixed * along_decay) / stiff_fall
    along_decay = np.where(fall_stops, np.clip(instead_decay, LEAST_DECAY - state.decay, 1 - state.decay), along_decay)
    along_fall = np.where(
        decay_stops & ~fall_stops, np.clip(instead_fall, LEAST_FALL - state.fall, 1 - state.fall), along_fall
    )
    promised = 2 * (down_fall * along_fall + down_decay * along_decay) - (
        fall_fall * along_fall**2 + decay_decay * along_decay**2 + 2 * mixed * along_fall * along_decay
    )
    return along_fall, along_decay, promised


def _descend(
    problem: _Problem, fall: np.ndarray, decay: np.ndarray, rival: tuple[np.ndarray, ...] | None = None
) -> End:
    """Take damped Gauss-Newton steps from a place (unit,) until nothing is left to gain.

    With a rival (fall, decay, loss), units stop that have come to its place, or that promise to stay above its loss.
    """
    state = _evaluate(problem, fall, decay)
    end = (state.fall.copy(), state.decay.copy(), state.c.copy(), state.loss.copy())
    units = np.arange(fall.size)
    rounding = 0.01 * ROUNDING**2 * _dot(problem.curves, problem.curves)
    damping = np.full(fall.size, 1e-3)
    for count in range(MOST_STEPS):
        along_fall, along_decay, promised = _next_step(state, damping)
        trial = _evaluate(problem, state.fall + along_fall, state.decay + along_decay)
        over = (promised <= PRECISION * state.loss + rounding) | (damping > 1e10)
        better = trial.loss < state.loss
        state = _State(*(np.where(better, new, old) for new, old in zip(trial, state, strict=True)))
        damping = np.where(better, np.maximum(0.1 * damping, 1e-12), 10 * damping)
        for values, now in zip(end, state[:4], strict=True):
            values[units] = now
        if rival is not None:
            there = rival[2][units]
            over |= np.maximum(abs(state.fall - rival[0][units]), abs(state.decay - rival[1][units])) < NEAR
            if count >= 2:
                over |= better & (state.loss - HOPE * promised > there)
        if over.any():
            on = np.flatnonzero(~over)
            if not on.size:
                break
            units, damping, rounding = units[on], damping[on], rounding[on]
            state, problem = state.of(on), problem.of(on)
    return end
