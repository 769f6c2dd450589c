"""The windows that are tried on brain regions: over words and over seconds, from no memory to a long one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from topobrain._checks import InputError, listed, require_choice
from topobrain.stats.integration_windows import window_width
from topobrain.stats.time_series import run_slices

Clock = Literal["words", "seconds"]

CLOCKS: tuple[Clock, ...] = get_args(Clock)
"""What a window's lag is counted in."""

SHORTEST = 2
"""Fewest lags of a window over words: with one there is nothing but the word itself."""

STEPS = 3000
"""Points at which a window over seconds is read to find its width: half a percent of a window that fills the reach."""


@dataclass(frozen=True)
class WindowKernels:
    r"""Windows :math:`w(l) = c\,(l + 1)^{-a} + (1 - c)\,e^{-b l}` to choose from, the first of which has no memory.

    A window over words counts l in words, one over seconds in seconds between the onsets of two words; there the power
    law is :math:`(l / t_0 + 1)^{-a}`. With irregular speech the two are not the same: in a pause a window over words
    waits.

    Parameters
    ----------
    a
        Exponent of the power law of each window; NaN where c is 0.
    b
        Rate of the exponential, per word or per second; NaN where c is 1, infinite for the window without memory.
    c
        Weight of the power law, 0 to 1.
    clock
        ``"words"`` or ``"seconds"``, one a window. The window without memory is the same on both.
    n_lags
        Words that a window over words reaches over, the word itself included.
    reach_s
        Seconds that a window over seconds reaches over.
    t0_s
        Unit of the power law over seconds: about the time of a word.

    Raises
    ------
    InputError
        Lists of different length, values that make no window, or a first window that is not the one without memory.

    Examples
    --------
    >>> kernels = WindowKernels.grid(half_lives=[1, 8], exponents=[1], mixed=False, half_lives_s=[2], exponents_s=[])
    >>> kernels.names
    ['delta', 'exp 1 words', 'power 1 words', 'exp 8 words', 'exp 2 s']
    >>> kernels.half.round(2).tolist()
    [0.5, 1.0, 1.0, 8.0, 2.0]
    """

    a: tuple[float, ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    clock: tuple[str, ...]
    n_lags: int = 100
    reach_s: float = 30.0
    t0_s: float = 0.3

    def __post_init__(self) -> None:
        sizes = [len(self.a), len(self.b), len(self.c), len(self.clock)]
        if len(set(sizes)) > 1 or not sizes[0]:
            raise InputError(f"a, b, c and clock must have one value a window; they have {listed(sizes)}")
        for clock in self.clock:
            require_choice("clock", clock, CLOCKS)
        if self.n_lags < SHORTEST or not (self.reach_s > 0 and self.t0_s > 0):
            raise InputError(
                f"n_lags must be {SHORTEST} or more, reach_s and t0_s above 0; got {self.n_lags}, {self.reach_s} and "
                f"{self.t0_s}"
            )
        for i, (a, b, c) in enumerate(zip(self.a, self.b, self.c, strict=True)):
            if not (0 <= c <= 1 and (c == 0 or 0 <= a < np.inf) and (c == 1 or b >= 0)):
                raise InputError(
                    f"window {i} has a = {a}, b = {b}, c = {c}: expected c from 0 to 1, and a and b of 0 or more where "
                    "they count (a for c above 0, b for c below 1)"
                )
        if not (self.c[0] == 0 and np.isinf(self.b[0])):
            raise InputError(
                "the first window must be the one without memory, which all others are compared with: c = 0 and b infinite"
            )

    @classmethod
    def grid(
        cls,
        *,
        half_lives: Sequence[float] = (1, 2, 4, 8, 16, 32),
        exponents: Sequence[float] = (2.0, 1.0, 0.7, 0.5, 0.3),
        mixed: bool = True,
        half_lives_s: Sequence[float] = (0.5, 1, 2, 4, 8, 16),
        exponents_s: Sequence[float] = (1.0, 0.5, 0.3),
        n_lags: int = 100,
        reach_s: float = 30.0,
        t0_s: float = 0.3,
    ) -> WindowKernels:
        """Return a grid of windows: none, then exponentials, power laws and mixtures, each clock's narrowest first.

        Parameters
        ----------
        half_lives
            Of exponentials, in words.
        exponents
            Of power laws over words.
        mixed
            Whether to add even mixtures (c = .5) over words of the outer exponents with every second half-life.
        half_lives_s, exponents_s
            The same over seconds.
        n_lags, reach_s, t0_s
            As above.
        """
        if any(not h > 0 for h in [*half_lives, *half_lives_s]):
            raise InputError(f"half-lives are above 0; got {listed([*half_lives, *half_lives_s])}")
        words = [(np.nan, np.log(2) / h, 0.0) for h in half_lives] + [(float(x), np.nan, 1.0) for x in exponents]
        if mixed and len(exponents):
            ends = sorted({float(min(exponents)), float(sorted(exponents)[len(exponents) // 2])})
            words += [(x, np.log(2) / h, 0.5) for x in ends for h in list(half_lives)[::2]]
        seconds = [(np.nan, np.log(2) / h, 0.0) for h in half_lives_s] + [(float(x), np.nan, 1.0) for x in exponents_s]
        given = [(np.nan, np.inf, 0.0, "words"), *((*w, "words") for w in words), *((*s, "seconds") for s in seconds)]
        a, b, c, clock = zip(*given, strict=True)
        found = cls(a, b, c, clock, n_lags=n_lags, reach_s=reach_s, t0_s=t0_s)
        # equal scores then go to the narrower window
        rank = np.where(np.isnan(found.half), np.inf, found.half)
        order = [0, *sorted(range(1, len(found)), key=lambda i: (clock[i] != "words", rank[i]))]
        rows = [given[i] for i in order]
        return replace(
            found,
            a=tuple(row[0] for row in rows),
            b=tuple(row[1] for row in rows),
            c=tuple(row[2] for row in rows),
            clock=tuple(row[3] for row in rows),
        )

    def __len__(self) -> int:
        return len(self.a)

    @property
    def names(self) -> list[str]:
        """A name of each window, e.g. ``"exp 4 words"`` (its half-life) or ``"power 0.5 s"`` (its exponent)."""
        found = []
        for a, b, c, clock in zip(self.a, self.b, self.c, self.clock, strict=True):
            unit = "s" if clock == "seconds" else "words"
            life = f"{np.log(2) / b:.3g}" if b > 0 else "endless"
            if c == 0:
                found.append("delta" if np.isinf(b) else f"exp {life} {unit}")
            elif c == 1:
                found.append(f"power {a:.3g} {unit}")
            else:
                found.append(f"{c:.2g} power {a:.3g} + exp {life} {unit}")
        return found

    def of(self, clock: Clock) -> np.ndarray:
        """Return the numbers of the windows of one clock, that without memory first."""
        require_choice("clock", clock, CLOCKS)
        return np.array([i for i, one in enumerate(self.clock) if i == 0 or one == clock])

    def curve(self, window: int, lags: np.ndarray) -> np.ndarray:
        """Return w at some lags (any shape) in the window's own unit: 1 at lag 0."""
        lag = np.asarray(lags, dtype=np.float64)
        a, b, c = self.a[window], self.b[window], self.c[window]
        unit = self.t0_s if self.clock[window] == "seconds" else 1.0
        value = np.zeros(lag.shape)
        if c > 0:
            value += c * (lag / unit + 1) ** -a
        if c < 1:
            value += (1 - c) * ((lag == 0) if np.isinf(b) else np.exp(-b * lag))
        return value

    @property
    def half(self) -> np.ndarray:
        """Lag at which each window is at one half (kernel,), in its own unit; NaN where it is not within its reach.

        Over words it is found between whole words, as for model units, so that the window without memory has .5; over
        seconds time is continuous.
        """
        return self._widths(0)

    def half_of(self, clock: Clock) -> np.ndarray:
        """Return the half widths (kernel,) in the unit of a clock: over seconds, none for the window without memory."""
        found = self.half
        if clock == "seconds":
            found[0] = 0.0
        return found

    @property
    def centre(self) -> np.ndarray:
        """Centre of mass of each window (kernel,) from one word on, as for model units, or over all seconds."""
        return self._widths(1)

    def _widths(self, which: int) -> np.ndarray:
        found = np.full(len(self), np.nan)
        for clock in CLOCKS:
            over_words = clock == "words"
            rows = [i for i in range(len(self)) if self.clock[i] == clock]
            if rows:
                lags = np.arange(float(self.n_lags)) if over_words else np.linspace(0, self.reach_s, STEPS + 1)
                width = window_width(np.stack([self.curve(i, lags) for i in rows], axis=1), lags)
                found[rows] = (width.half, width.centre)[which]
        return found

    def apply(self, window: int, values: np.ndarray, onset: np.ndarray, runs: np.ndarray | None = None) -> np.ndarray:
        r"""Return word features seen through a window, :math:`h_m = \sum_k w(m - k)\, e_k / |w|`.

        Parameters
        ----------
        window
            Its number.
        values
            Features (word, feature). They should be centred: what lies before the first word counts as 0.
        onset
            Onset of each word in seconds (word,), not falling within a run.
        runs
            Run of each word; no window reaches from one into the next.

        Returns
        -------
        ndarray
            (word, feature). The norm is that of the window over its whole reach; over seconds, that of its values at
            the words of an even pace.
        """
        values, onset = np.asarray(values, dtype=np.float64), np.asarray(onset, dtype=np.float64)
        over_words = self.clock[window] == "words"
        seen = np.zeros_like(values)
        for part in run_slices(len(values), runs):
            there, when = values[part], onset[part]
            for back in range(len(there)):
                lag = when[back:] - when[: len(when) - back]
                inside = lag <= self.reach_s
                if (back >= self.n_lags) if over_words else not inside.any():
                    break
                weight = self.curve(window, np.array([back])) if over_words else self.curve(window, lag) * inside
                seen[part][back:] += weight[:, None] * there[: len(there) - back]
                if np.isinf(self.b[window]) and self.c[window] == 0:
                    break  # nothing but the word itself, even where two words have one onset
        return np.asarray(seen / self._norm(window, onset))

    def _norm(self, window: int, onset: np.ndarray) -> float:
        if self.clock[window] == "words":
            lags = np.arange(float(self.n_lags))
        else:
            steps = np.diff(onset)
            pace = float(np.median(steps[steps > 0])) if (steps > 0).any() else self.t0_s
            lags = np.arange(0.0, self.reach_s + 1e-9, pace)
        return float(np.linalg.norm(self.curve(window, lags)))
