"""Influence of a swapped word on the words around it: sums over sequences, and curves over lags made from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from topobrain._checks import InputError, require_choice

Precision = Literal["float32", "float64"]

Normalise = Literal["measured", "swapped"]
"""By which swap an influence is divided: that of the measured word itself, or that of the swapped word."""

SKIPPED = 2
"""Words at the beginning of a sequence that no curve uses: a model has hardly any context there."""

UNIT_TILE = 256
"""Units whose curves are made at a time: bounds memory."""


@dataclass(frozen=True)
class LagWindow:
    """Which words of a sequence are measured, and at which lags from the swapped word.

    Parameters
    ----------
    n_words
        Words of a sequence.
    max_lag
        Longest lag, in words.
    two_sided
        Whether words before the swapped one are measured too (lags from ``-max_lag`` on).
    step_lags
        Lags, from 0 on, that the yoking index averages over; 0 for none.

    Raises
    ------
    InputError
        The sequences are too short for the lags.
    """

    n_words: int
    max_lag: int
    two_sided: bool = False
    step_lags: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.max_lag, bool) or not isinstance(self.max_lag, int) or self.max_lag < 1:
            raise InputError(f"max_lag is a whole number of words, 1 or more; got {self.max_lag!r}")
        if not self.measured.size:
            most = self.n_words - SKIPPED - 1
            most = most // 2 if self.two_sided else most
            fits = f"max_lag={most} would fit" if most >= 1 else "take longer sequences"
            raise InputError(
                f"sequences of {self.n_words} words are too short for lags up to {self.max_lag} words"
                f"{' on both sides' if self.two_sided else ''}: a measured word needs its whole window in the sequence, "
                f"after the first {SKIPPED} words; {fits}"
            )

    @property
    def lags(self) -> np.ndarray:
        """The lags (lag,), in words: how far after the swapped word the measured one comes."""
        return np.arange(-self.max_lag if self.two_sided else 0, self.max_lag + 1)

    @property
    def zero(self) -> int:
        """Position of lag 0 on the lag axis."""
        return self.max_lag if self.two_sided else 0

    @property
    def measured(self) -> np.ndarray:
        """Positions of the measured words (place,): those whose whole window lies in the sequence."""
        stop = self.n_words - (self.max_lag if self.two_sided else 0)
        return np.arange(self.max_lag + SKIPPED, stop)

    def around(self, position: int) -> np.ndarray:
        """Return the words of the sequence, as positions, that a swap at a position is measured at."""
        first = position - self.max_lag if self.two_sided else position
        return np.arange(max(first, 0), min(position + self.max_lag, self.n_words - 1) + 1)


class InfluenceSums:
    """Sums over sequences of how far swaps change each unit, by lag and measured word, in groups of sequences.

    Only what curves and yoking need is kept: never one value for every swap, word and unit. Sequences go into groups, so
    that halves, held-out parts and bootstrap draws of *sequences* are sums of groups; with as many groups as sequences they
    are exact.

    Parameters
    ----------
    window
        What is measured.
    n_groups, n_units
        Groups of sequences, and units.
    dtype
        Of the sums.

    Attributes
    ----------
    lagged
        Sum of |change| (group, lag, place, unit). In float32 too, a group sums few sequences; groups are added in float64.
    at_swap
        Sum of |change| at the swapped word itself (group, word, unit).
    ahead
        Sum over the first ``step_lags`` lags of |change| (group, word, unit); None without yoking.
    n_sequences
        Sequences summed in each group (group,); whoever adds their changes counts them here.
    floor
        Mean |change| (unit,) where nothing was swapped: rounding, which is taken out of curves as
        ``sqrt(max(mean**2 - floor**2, 0))``. None for none.
    """

    def __init__(self, window: LagWindow, n_groups: int, n_units: int, dtype: Precision = "float32") -> None:
        self.window = window
        self.lagged = np.zeros((n_groups, window.lags.size, window.measured.size, n_units), dtype=dtype)
        self.at_swap = np.zeros((n_groups, window.n_words, n_units), dtype=dtype)
        self.ahead = np.zeros_like(self.at_swap) if window.step_lags else None
        self.n_sequences = np.zeros(n_groups, dtype=np.int64)
        self.floor: np.ndarray | None = None

    @staticmethod
    def bytes_a_group(window: LagWindow, n_units: int, dtype: Precision = "float32") -> int:
        """Return the memory of one group."""
        words = window.n_words * (2 if window.step_lags else 1)
        return np.dtype(dtype).itemsize * n_units * (window.lags.size * window.measured.size + words)

    @property
    def n_units(self) -> int:
        """Number of units."""
        return self.at_swap.shape[-1]

    def add(self, group: int, position: int, change: Float[np.ndarray, "word unit"]) -> None:
        """Add what one swap changed: |original - swapped| at the words of ``window.around(position)``."""
        window, words = self.window, self.window.around(position)
        if change.shape != (words.size, self.n_units):
            raise InputError(f"change has shape {change.shape}, expected {words.size} words x {self.n_units} units")
        first, last = window.measured[0], window.measured[-1]
        inside = slice(max(int(first - words[0]), 0), max(min(int(last - words[0]) + 1, words.size), 0))
        if words[inside].size:
            self._diagonal(group, int(words[inside][0] - position + window.zero), int(words[inside][0] - first))[
                : words[inside].size
            ] += change[inside]
        here = int(position - words[0])
        self.at_swap[group, position] += change[here]
        if self.ahead is not None:
            self.ahead[group, position] += change[here : here + window.step_lags].sum(axis=0)

    def _diagonal(self, group: int, lag: int, place: int) -> np.ndarray:
        """Return a view (word, unit) of the sums of one swap: from word to word both lag and place go up by one."""
        part = self.lagged[group, lag:, place:]
        n = min(part.shape[:2])
        strides = (part.strides[0] + part.strides[1], part.strides[2])
        return np.lib.stride_tricks.as_strided(part, (n, part.shape[2]), strides)

    def curves(
        self, weight: Float[np.ndarray, "draw group"] | None = None, *, normalise: Normalise = "measured"
    ) -> Float[np.ndarray, "draw lag unit"]:
        r"""Return the influence curves of sums of groups.

        .. math:: \theta(\mathrm{lag}) = \operatorname{median}_m D[m - \mathrm{lag}, m] / D[m, m]

        over measured words m, or with :math:`D[m - \mathrm{lag}, m - \mathrm{lag}]` below (``normalise="swapped"``), which
        takes unequal sizes of swaps out exactly.

        Parameters
        ----------
        weight
            How often each group counts, in each draw; all once if not given.
        normalise
            Which.

        Returns
        -------
        array (draw, lag, unit)
            NaN for units that a swap does not change at some measured word itself.
        """
        require_choice("normalise", normalise, ("measured", "swapped"))
        counts = np.ones((1, len(self.lagged))) if weight is None else np.asarray(weight, dtype=np.float64)
        found = np.empty((len(counts), self.window.lags.size, self.n_units))
        below = self.window.measured[None, :] - self.window.lags[:, None]
        for start in range(0, self.n_units, UNIT_TILE):
            units = slice(start, min(start + UNIT_TILE, self.n_units))
            above = self._corrected(_weighted(counts, self.lagged[..., units]), counts, units)
            own = above[:, self.window.zero]
            sizes = own[:, None]
            if normalise == "swapped":
                sizes = self._corrected(_weighted(counts, self.at_swap[..., units]), counts, units)[:, below]
            with np.errstate(invalid="ignore", divide="ignore"):
                ratio = above / np.where(sizes > 0, sizes, np.nan)
            found[..., units] = np.median(ratio, axis=2)
        return found

    def _corrected(self, total: np.ndarray, counts: np.ndarray, units: slice) -> np.ndarray:
        """Return summed changes (draw, ..., unit) without what rounding alone leaves."""
        if self.floor is None or not self.floor[units].any():
            return total
        n = (counts @ self.n_sequences).reshape(-1, *[1] * (total.ndim - 1))
        noise = self.floor[units] * n
        return np.sqrt(np.maximum(total**2 - noise**2, 0))

    def sizes(self, weight: Float[np.ndarray, "draw group"] | None = None) -> Float[np.ndarray, "draw unit"]:
        """Return the median over words of the summed influence of a swap on its own word."""
        counts = np.ones((1, len(self.lagged))) if weight is None else np.asarray(weight, dtype=np.float64)
        return np.stack([np.median(np.tensordot(count, self.at_swap, axes=1)[SKIPPED:], axis=0) for count in counts])


def _weighted(counts: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Return weighted sums over groups (draw, ...), in float64: one product for all draws."""
    flat = np.ascontiguousarray(sums, dtype=np.float64).reshape(len(sums), -1)
    return (counts @ flat).reshape(len(counts), *sums.shape[1:])


def group_of_sequences(n_sequences: int, n_groups: int) -> np.ndarray:
    """Return the group of each sequence (sequence,): in turn, so that any order of sequences is spread over groups."""
    return np.arange(n_sequences) % n_groups
