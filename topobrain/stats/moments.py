"""Number, mean and spread of every unit's values in groups of stimuli: all that a t-value needs, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from topobrain._checks import InputError

UNIT_BLOCK = 4096
"""Units whose float64 copies are held at a time: bounds memory, and keeps the work in the processor's cache."""


class Side(NamedTuple):
    """Moments of one side of a contrast.

    Attributes
    ----------
    n
        Number of stimuli.
    mean
        Mean of every unit (unit,).
    m2
        Sum of squared deviations from that mean (unit,); ``m2 / (n - 1)`` is the unbiased variance.
    """

    n: int
    mean: np.ndarray
    m2: np.ndarray


@dataclass(frozen=True)
class Moments:
    """Moments of every unit in every group of stimuli, float64.

    Attributes
    ----------
    n
        Number of stimuli (group,).
    mean
        Means (group, unit); NaN in an empty group.
    m2
        Sums of squared deviations from the mean (group, unit); 0 exactly for a unit that is constant in the group, NaN in
        an empty group.
    """

    n: Int[np.ndarray, " group"]
    mean: Float[np.ndarray, "group unit"]
    m2: Float[np.ndarray, "group unit"]

    def __post_init__(self) -> None:
        if self.mean.ndim != 2 or self.mean.shape != self.m2.shape or self.n.shape != self.mean.shape[:1]:
            raise InputError(
                f"n, mean and m2 have shapes {self.n.shape}, {self.mean.shape} and {self.m2.shape}: "
                "expected (group,) and twice (group, unit)"
            )

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.n)

    @property
    def n_units(self) -> int:
        """Number of units."""
        return int(self.mean.shape[1])

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of stimuli together: the same groups, other stimuli.

        References
        ----------
        Chan, Golub & LeVeque (1983), Am. Stat. 37:242, eq. 2.1.

        Examples
        --------
        >>> values, codes = np.array([[1.0], [3.0], [8.0]]), np.zeros(3, dtype=int)
        >>> first, rest = group_moments(values[:1], codes[:1], 1), group_moments(values[1:], codes[1:], 1)
        >>> float(first.merge(rest).mean[0, 0]), float(first.merge(rest).m2[0, 0])
        (4.0, 26.0)
        """
        merged = Moments(self.n.copy(), self.mean.copy(), self.m2.copy())
        _merge_into(merged, other)
        return merged

    def side(self, groups: int | Sequence[int] | Int[np.ndarray, " chosen"]) -> Side:
        """Return the moments of several groups taken together, e.g. of all conditions of one side of a contrast.

        Raises
        ------
        InputError
            A group that does not exist, or one named twice.
        """
        chosen = np.atleast_1d(np.asarray(groups))
        if chosen.ndim != 1 or not np.issubdtype(chosen.dtype, np.integer) or np.unique(chosen).size != chosen.size:
            raise InputError(f"groups must be different whole numbers, got {groups!r}")
        if chosen.size and not (chosen.min() >= 0 and chosen.max() < self.n_groups):
            raise InputError(f"groups {chosen.tolist()} are not all among the {self.n_groups} groups 0, 1, ...")
        chosen = chosen[self.n[chosen] > 0]
        if chosen.size == 0:
            return Side(0, np.full(self.n_units, np.nan), np.full(self.n_units, np.nan))
        n = self.n[chosen].astype(np.float64)
        # deviations from the first group's mean: groups of one constant value then join without a rounding error
        away = self.mean[chosen] - self.mean[chosen[0]]
        shift = n @ away / n.sum()
        between = n @ (away - shift) ** 2
        return Side(int(n.sum()), self.mean[chosen[0]] + shift, self.m2[chosen].sum(axis=0) + between)


class StreamedMoments:
    """Moments gathered from batches of stimuli, as they come out of a model or off a disk.

    Parameters
    ----------
    n_groups, n_units
        Number of groups of stimuli, and of units.

    Examples
    --------
    >>> stream = StreamedMoments(1, 1)
    >>> for batch in (np.array([[1.0]]), np.array([[3.0], [8.0]])):
    ...     stream.add(batch, np.zeros(len(batch), dtype=int))
    >>> float(stream.result().mean[0, 0])
    4.0
    """

    def __init__(self, n_groups: int, n_units: int) -> None:
        empty = np.full((n_groups, n_units), np.nan)
        self._moments = Moments(np.zeros(n_groups, dtype=np.int64), empty, empty.copy())

    def add(
        self, values: Float[np.ndarray, "stimulus unit"], codes: Int[np.ndarray, " stimulus"] | Sequence[int]
    ) -> None:
        """Take in a batch (stimulus, unit) with the group of each of its stimuli, -1 for none."""
        if np.ndim(values) == 2 and np.shape(values)[1] != self._moments.n_units:
            raise InputError(f"the batch has {np.shape(values)[1]} units, those before it have {self._moments.n_units}")
        _merge_into(self._moments, group_moments(values, codes, self._moments.n_groups))

    def result(self) -> Moments:
        """Return the moments of all batches so far."""
        return Moments(self._moments.n.copy(), self._moments.mean.copy(), self._moments.m2.copy())


def group_moments(
    values: Float[np.ndarray, "stimulus unit"],
    codes: Int[np.ndarray, " stimulus"] | Sequence[int],
    n_groups: int,
) -> Moments:
    r"""What are the mean and the spread of every unit in every group of stimuli?

    With :math:`x_0` the group's first value of a unit and :math:`d = x - x_0` in float64: :math:`\bar x = x_0 + \sum
    d / n` and :math:`m_2 = \sum d^2 - (\sum d)^2 / n`. Because :math:`x_0` is one of the values, the difference loses
    no more than about n rounding errors whatever the offset of the unit, and it is 0 exactly where the unit is constant.

    Parameters
    ----------
    values
        Activations (stimulus, unit), float32 or float64; may be a memory map.
    codes
        Group of each stimulus, 0, 1, ...; -1 leaves a stimulus out.
    n_groups
        Number of groups. A group may be empty.

    Returns
    -------
    Moments
        A unit with a NaN or an infinity in a group has a mean and spread of NaN in that group. Beside the result, about
        ``group size x 4096 x 12`` bytes are held at a time.

    Raises
    ------
    InputError
        Values that are not (stimulus, unit), or codes that do not fit.

    Examples
    --------
    >>> found = group_moments(np.array([[1.0, 7.0], [3.0, 7.0], [5.0, 0.0]]), [0, 0, 1], 2)
    >>> found.n.tolist(), found.mean.tolist(), found.m2.tolist()
    ([2, 1], [[2.0, 7.0], [5.0, 0.0]], [[2.0, 0.0], [0.0, 0.0]])
    """
    table = np.asanyarray(values)
    if table.ndim != 2:
        raise InputError(f"values have shape {table.shape}, expected (stimulus, unit)")
    members = _members(codes, len(table), n_groups)
    n_units = table.shape[1]
    mean, m2 = np.full((n_groups, n_units), np.nan), np.full((n_groups, n_units), np.nan)
    for start in range(0, n_units, UNIT_BLOCK):
        block = slice(start, start + UNIT_BLOCK)
        for group, rows in enumerate(members):
            if rows is not None:
                mean[group, block], m2[group, block] = _one_group(np.asarray(table[rows, block]))
    n = np.bincount(np.asarray(codes)[np.asarray(codes) >= 0], minlength=n_groups) if len(table) else np.zeros(n_groups)
    return Moments(n.astype(np.int64), mean, m2)


def _members(
    codes: Int[np.ndarray, " stimulus"] | Sequence[int], n_stimuli: int, n_groups: int
) -> list[slice | np.ndarray | None]:
    """Return the rows of each group: a slice where they lie together (no copy is made), None where there are none."""
    labels = np.asarray(codes)
    if labels.shape != (n_stimuli,) or (n_stimuli and not np.issubdtype(labels.dtype, np.integer)):
        raise InputError(
            f"codes have shape {labels.shape} and type {labels.dtype}, expected a whole number for each of {n_stimuli} "
            "stimuli"
        )
    if n_groups < 1 or (n_stimuli and not (labels.min() >= -1 and labels.max() < n_groups)):
        raise InputError(f"codes must lie between -1 (left out) and {n_groups - 1}, for {n_groups} groups")
    found: list[slice | np.ndarray | None] = []
    for group in range(n_groups):
        rows = np.flatnonzero(labels == group)
        together = rows.size and rows[-1] - rows[0] + 1 == rows.size
        found.append(slice(int(rows[0]), int(rows[-1]) + 1) if together else rows if rows.size else None)
    return found


def _one_group(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    origin = part[0].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        away = np.subtract(part, origin, dtype=np.float64)
        total = away.sum(axis=0)
        spread = np.einsum("ij,ij->j", away, away)
        m2 = np.maximum(spread - total**2 / len(part), 0.0)
        mean = origin + total / len(part)
    unusable = ~np.isfinite(m2)
    mean[unusable] = m2[unusable] = np.nan
    return mean, m2


def _merge_into(moments: Moments, other: Moments) -> None:
    """Add the stimuli of ``other`` to the arrays of ``moments``."""
    if moments.mean.shape != other.mean.shape:
        raise InputError(
            f"moments (group, unit) of shapes {moments.mean.shape} and {other.mean.shape} cannot be merged"
        )
    for group in np.flatnonzero(other.n):
        n_old, n_new = int(moments.n[group]), int(other.n[group])
        n = n_old + n_new
        if n_old == 0:
            moments.mean[group], moments.m2[group] = other.mean[group], other.m2[group]
        else:
            step = other.mean[group] - moments.mean[group]
            moments.mean[group] += step * (n_new / n)
            moments.m2[group] += other.m2[group] + step**2 * (n_old * n_new / n)
        moments.n[group] = n
