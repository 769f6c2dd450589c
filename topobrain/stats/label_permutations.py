"""Label permutations of a contrast: which t-values would come out if the conditions' names meant nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from topobrain._checks import InputError, require_choice
from topobrain.stats.contrast import ALTERNATIVES, TESTS, Alternative, Test, TTest, student_t, welch_t

UNIT_BLOCK = 4096
"""Units worked on at a time."""

LABEL_BLOCK = 240
"""Permutations in one matrix product: below 256, so that counts fit a byte."""

MAX_PARTITIONS = 1_000_000
"""More partitions than this are not enumerated, even if asked for."""

FLOAT32_STIMULI = 4096
"""Up to here float32 sums are precise enough that few of them have to be decided again."""


class PermutedT(NamedTuple):
    """A t-map with p-values from permuted labels.

    Attributes
    ----------
    t
        t of every unit (unit,).
    p
        p of every unit (unit,), not corrected.
    p_max
        p of every unit beside the most extreme unit of each permutation (unit,): corrected for the number of units
        (family-wise), whatever their correlations.
    n_permutations
        Number of permutations, or of partitions if all were enumerated.
    """

    t: np.ndarray
    p: np.ndarray
    p_max: np.ndarray
    n_permutations: int


def label_permutation_test(
    on: Float[np.ndarray, "on_stimulus unit"],
    off: Float[np.ndarray, "off_stimulus unit"],
    *,
    n_permutations: int = 10_000,
    test: Test = "student",
    alternative: Alternative = "two-sided",
    seed: int = 0,
    exact: bool | Literal["auto"] = "auto",
    pairs: Shaped[np.ndarray, " stimulus"] | Sequence[object] | None = None,
) -> PermutedT:
    r"""How often does a unit's t come out as large when stimuli are given to the conditions at random?

    Both conditions are pooled, and their labels permuted, the same way for all units. Student's t is a rising function
    of the sum over the "on" side, so one product (permutation, stimulus) x (stimulus, unit) and one comparison decide
    many permutations of many units. Welch's t equals Student's for conditions of one size; otherwise it takes a second
    product with the squares. Sums are formed in float32; those within their rounding error of the observed one are
    formed again in float64, so that p is that of float64, and sums that differ by rounding only count as equal.

    Parameters
    ----------
    on, off
        Activations (stimulus, unit) of the two conditions, at least two stimuli each.
    n_permutations
        Number of random permutations.
    test
        ``"student"`` or ``"welch"``.
    alternative
        ``"two-sided"`` (twice the smaller of the one-sided p, as scipy does; the family-wise p uses the absolute t),
        ``"greater"`` (on > off) or ``"less"``.
    seed
        Seed of the permutations; they are those of `permuted_labels`.
    exact
        ``"auto"`` enumerates all partitions if there are no more than ``n_permutations``; True enumerates them whatever
        their number (to 1,000,000), False never does.
    pairs
        Name of the pair of each stimulus, those of ``on`` first: labels then change places within pairs only (minimal
        pairs, matched items). Every pair has one stimulus on each side. t stays the two-sample t; p is that of a paired
        test by sign flips.

    Returns
    -------
    PermutedT
        With random permutations p is (1 + number as extreme) / (1 + number); enumerated, it is the share as extreme,
        the observed labels among them. A unit without t (constant within both conditions, NaN, infinity) has p and p_max
        of NaN and counts in no maximum.

    Raises
    ------
    InputError
        Fewer than two stimuli in a condition, unequal numbers of units, pairs that are none.

    Notes
    -----
    Memory beside the input: ``n_permutations x n_stimuli`` bytes of labels, and blocks of 4,096 units (``n_stimuli x
    4096 x 20`` bytes) and 240 permutations.

    References
    ----------
    Nichols & Holmes (2002), Hum. Brain Mapp. 15:1 (maximum statistic); Phipson & Smyth (2010), Stat. Appl. Genet. Mol.
    Biol. 9:39 (the one added).

    Examples
    --------
    >>> on, off = np.array([[4.0], [5.0], [6.0]]), np.array([[1.0], [2.0], [3.0]])
    >>> found = label_permutation_test(on, off)
    >>> float(found.p[0]), found.n_permutations
    (0.1, 20)
    """
    require_choice("test", test, TESTS)
    require_choice("alternative", alternative, ALTERNATIVES)
    first, second = np.asarray(on), np.asarray(off)
    t = (welch_t if test == "welch" else student_t)(first, second).t
    n_on, n_off = len(first), len(second)
    labels, enumerated = _labels(n_on, n_off, n_permutations, seed, exact, pairs)
    statistic = _Welch if test == "welch" and n_on != n_off else _Sums
    n = len(labels)
    n_least, n_most = np.zeros(t.size, dtype=np.int64), np.zeros(t.size, dtype=np.int64)
    observed = np.full(t.size, np.nan)
    highest, lowest = np.full(n, -np.inf), np.full(n, np.inf)
    tolerance = np.zeros(t.size)
    original = np.arange(n_on + n_off) < n_on
    for start in range(0, t.size, UNIT_BLOCK):
        units = start + np.flatnonzero(np.isfinite(t[start : start + UNIT_BLOCK]))
        if units.size == 0:
            continue
        block = statistic(_standardised(np.concatenate([first[:, units], second[:, units]])), n_on, float32=n > 1000)
        observed[units] = block.values(original[None])[0]
        tolerance[units] = block.tolerance(observed[units])
        least, most = block.compare(labels, observed[units], tolerance[units], highest, lowest)
        n_least[units], n_most[units] = least, most
    added = 0 if enumerated else 1
    greater, less = (n_least + added) / (n + added), (n_most + added) / (n + added)
    if alternative == "two-sided":
        p = np.minimum(2 * np.minimum(greater, less), 1.0)
        extreme, size = np.maximum(highest, -lowest), np.abs(observed)
    else:
        p, extreme, size = (greater, highest, observed) if alternative == "greater" else (less, -lowest, -observed)
    reached = n - np.searchsorted(np.sort(extreme), size - tolerance, side="left")
    p_max = (reached + added) / (n + added)
    missing = ~np.isfinite(t)
    return PermutedT(t, np.where(missing, np.nan, p), np.where(missing, np.nan, p_max), n)


def permuted_labels(
    n_on: int,
    n_off: int,
    n_permutations: int,
    *,
    seed: int = 0,
    pairs: Shaped[np.ndarray, " stimulus"] | Sequence[object] | None = None,
) -> Bool[np.ndarray, "permutation stimulus"]:
    """Return random labels of pooled stimuli, True for the "on" side: those `label_permutation_test` uses.

    Parameters
    ----------
    n_on, n_off
        Stimuli of the two sides; pooled, those of the "on" side come first.
    n_permutations, seed
        Number of permutations, and their seed.
    pairs
        Name of each stimulus's pair: labels change places within pairs only.

    Examples
    --------
    >>> permuted_labels(2, 3, 100).sum(axis=1).tolist() == [2] * 100
    True
    """
    if n_permutations < 1:
        raise InputError(f"n_permutations must be 1 or more, got {n_permutations}")
    rng = np.random.default_rng(seed)
    if pairs is None:
        return rng.permuted(np.tile(np.arange(n_on + n_off) < n_on, (n_permutations, 1)), axis=1)
    partner = _partners(n_on, n_off, pairs)
    stays = rng.random((n_permutations, n_on)) < 0.5
    return _flipped(stays, partner)


def permuted_t_maps(
    values: Float[np.ndarray, "stimulus unit"],
    on: Bool[np.ndarray, " stimulus"],
    off: Bool[np.ndarray, " stimulus"],
    *,
    n_permutations: int,
    seed: int = 0,
    test: TTest | None = None,
    pairs: Shaped[np.ndarray, " stimulus"] | Sequence[object] | None = None,
) -> Float[np.ndarray, "permutation unit"]:
    """Return t-maps of a contrast whose labels are permuted: the null of "is this contrast more clustered than any?".

    The stimuli keep their activations, and so units keep their correlations, and the sheet its smoothness; only which
    stimuli are called "on" changes.

    Parameters
    ----------
    values
        Activations (stimulus, unit), smoothed over the sheet if the observed map is.
    on, off
        Masks of the two conditions; stimuli in neither take no part.
    n_permutations, seed
        Number of maps, and the seed of their labels (`permuted_labels`, stimuli in the order "on", "off").
    test
        How t is computed; by default Welch's. Its ``alternative`` plays no part.
    pairs
        Name of the pair of each stimulus of ``values``: labels change places within pairs only.

    Returns
    -------
    array (permutation, unit)
        float64, computed in blocks of 4,096 units. A unit that is constant over all stimuli, or that a permutation makes
        constant within both sides, has NaN there (0 with ``zero_variance="zero"``); one with a NaN or an infinity has NaN.

    Examples
    --------
    >>> values, on = np.arange(12.0).reshape(6, 2), np.arange(6) < 3
    >>> permuted_t_maps(values, on, ~on, n_permutations=5).shape
    (5, 2)
    """
    how = TTest() if test is None else test
    table, sides = np.asanyarray(values), (np.asarray(on), np.asarray(off))
    if table.ndim != 2 or any(side.dtype != np.bool_ or side.shape != table.shape[:1] for side in sides):
        raise InputError(
            f"values of shape {table.shape} need two masks of True and False with {len(table)} stimuli, got "
            f"{[f'{side.dtype} {side.shape}' for side in sides]}"
        )
    if (sides[0] & sides[1]).any():
        raise InputError(f"{int((sides[0] & sides[1]).sum())} stimuli are on both sides of the contrast")
    rows = np.concatenate([np.flatnonzero(side) for side in sides])
    n_on, n_off = (int(side.sum()) for side in sides)
    if min(n_on, n_off) < 2:
        raise InputError(f"the sides have {n_on} and {n_off} stimuli: a t-value needs 2 or more on each side")
    named = None if pairs is None else np.asarray(pairs, dtype=object)[rows]
    labels = permuted_labels(n_on, n_off, n_permutations, seed=seed, pairs=named).astype(np.float64)
    maps = np.empty((n_permutations, table.shape[1]))
    squared = how.test == "welch" and n_on != n_off  # for sides of one size Welch's t is Student's
    for start in range(0, table.shape[1], UNIT_BLOCK):
        block = slice(start, start + UNIT_BLOCK)
        z = _standardised(how.prepare(np.asarray(table[rows, block])))
        t = _t_of_sums(labels @ z, labels @ z**2 if squared else None, n_on, n_off, how.ddof)
        t[:, (z == 0).all(axis=0)] = np.inf
        t[np.isinf(t)] = np.nan if how.zero_variance == "nan" else 0.0
        maps[:, block] = t
    return maps


def _t_of_sums(
    sums: np.ndarray, squares: np.ndarray | None, n_on: int, n_off: int, ddof: int
) -> Float[np.ndarray, "permutation unit"]:
    """Return t from "on"-side sums (and sums of squares, for Welch's t) of standardised values.

    Standardised values sum to 0 and their squares to 1, so the "off" side follows. A side whose spread is rounding error
    makes t infinite, as a perfect separation would; 0 / 0 is NaN.
    """
    n = n_on + n_off
    difference = sums * (n / (n_on * n_off))
    # what is left of the sum of squares within each side; less than 1e-12 of the whole is rounding
    if squares is None:
        within = 1 - sums**2 * (n / (n_on * n_off))
        within[within < 1e-12] = 0.0
        variance = within / (n - 2 * ddof) * (n / (n_on * n_off))
    else:
        on, off = squares - sums**2 / n_on, 1 - squares - sums**2 / n_off
        on[on < 1e-12] = 0.0
        off[off < 1e-12] = 0.0
        variance = on / ((n_on - ddof) * n_on) + off / ((n_off - ddof) * n_off)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(difference / np.sqrt(variance))


def _standardised(values: np.ndarray) -> np.ndarray:
    """Return columns centred and of length one, float64; constant columns are 0, unusable ones NaN."""
    with np.errstate(invalid="ignore", over="ignore"):
        z = np.subtract(values, values[0].astype(np.float64), dtype=np.float64)  # exact for a constant of any size
        z -= z.mean(axis=0)
        length = np.sqrt(np.einsum("ij,ij->j", z, z))
        z /= np.where(length == 0, 1.0, length)
    z[:, length == 0] = 0.0
    z[:, ~np.isfinite(length)] = np.nan
    return np.asarray(z)


class _Sums:
    """Sums of standardised values over the "on" side: Student's t, up to a rising function that all units share."""

    def __init__(self, z: np.ndarray, n_on: int, *, float32: bool) -> None:
        self.z = z
        self.n_on = n_on
        self.rounded = z.astype(np.float32) if float32 and len(z) <= FLOAT32_STIMULI else None

    def tolerance(self, observed: np.ndarray) -> np.ndarray:
        """Return the difference up to which values count as equal: far above rounding, far below any real step."""
        return np.full(observed.shape, 1e-12 * math.sqrt(len(self.z)))

    def values(self, labels: np.ndarray) -> np.ndarray:
        """Return the statistic of labellings (labelling, unit), float64."""
        return np.asarray(labels.astype(np.float64) @ self.z)

    def compare(
        self, labels: np.ndarray, observed: np.ndarray, tolerance: np.ndarray, highest: np.ndarray, lowest: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return how many labellings reach at least, and at most, the observed value of each unit.

        ``highest`` and ``lowest`` of each labelling over units are updated in place.
        """
        at_least = np.zeros(observed.size, dtype=np.int64)
        at_most = np.zeros(observed.size, dtype=np.int64)
        rounded = None if self.rounded is None else _Rounded(self.z, self.rounded, observed, tolerance)
        for start in range(0, len(labels), LABEL_BLOCK):
            rows = slice(start, start + LABEL_BLOCK)
            if rounded is not None:
                least, most = rounded.compare(labels[rows], highest[rows], lowest[rows])
            else:
                found = self.values(labels[rows])
                least, most = _count(found >= observed - tolerance), _count(found <= observed + tolerance)
                np.maximum(highest[rows], found.max(axis=1), out=highest[rows])
                np.minimum(lowest[rows], found.min(axis=1), out=lowest[rows])
            at_least += least
            at_most += most
        return at_least, at_most


class _Welch(_Sums):
    """Welch's t of labellings, for sides of different sizes."""

    def __init__(self, z: np.ndarray, n_on: int, *, float32: bool) -> None:
        super().__init__(z, n_on, float32=False)
        self.squares = z**2

    def tolerance(self, observed: np.ndarray) -> np.ndarray:
        """Return the difference up to which values count as equal, which grows with t as its rounding error does."""
        return 1e-11 * math.sqrt(len(self.z)) * (1 + observed**2)

    def values(self, labels: np.ndarray) -> np.ndarray:
        """Return the statistic of labellings (labelling, unit), float64; infinite for a perfect separation."""
        chosen = labels.astype(np.float64)
        t = _t_of_sums(chosen @ self.z, chosen @ self.squares, self.n_on, len(self.z) - self.n_on, ddof=1)
        return np.asarray(np.nan_to_num(t, nan=0.0, posinf=np.inf, neginf=-np.inf))


class _Rounded:
    """Comparisons of float32 sums, decided again in float64 where rounding could have decided them."""

    def __init__(self, z: np.ndarray, rounded: np.ndarray, observed: np.ndarray, tolerance: np.ndarray) -> None:
        self.columns = np.ascontiguousarray(z.T)
        self.rounded = rounded
        # a float32 sum of n terms, each rounded before, is off by no more than (n + 2) u times the sum of their sizes
        error = (len(z) + 2) * 2.0**-24 * np.abs(z).sum(axis=0)
        self.error = np.float32(2.1 * error.max())
        margin = 1.01 * error + tolerance
        self.above = np.nextafter((observed + margin).astype(np.float32), np.float32(np.inf))
        self.below = np.nextafter((observed - margin).astype(np.float32), np.float32(-np.inf))
        self.least, self.most = observed - tolerance, observed + tolerance

    def compare(self, labels: np.ndarray, highest: np.ndarray, lowest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `_Sums.compare`, for one block of labellings."""
        found = labels.astype(np.float32) @ self.rounded
        above, below = found > self.above, found < self.below
        at_least, at_most = _count(above), _count(below)
        rows, columns = _where(~(above | below))
        if rows.size:
            exact = self._exact(labels, rows, columns)
            n = at_least.size
            at_least += np.bincount(columns[exact >= self.least[columns]], minlength=n)
            at_most += np.bincount(columns[exact <= self.most[columns]], minlength=n)
        # any sum that rounding could have kept from being the extreme one of its labelling
        top, bottom = found.max(axis=1), found.min(axis=1)
        rows, columns = _where(found >= (np.maximum(top, highest.astype(np.float32)) - self.error)[:, None])
        np.maximum.at(highest, rows, self._exact(labels, rows, columns))
        rows, columns = _where(found <= (np.minimum(bottom, lowest.astype(np.float32)) + self.error)[:, None])
        np.minimum.at(lowest, rows, self._exact(labels, rows, columns))
        return at_least, at_most

    def _exact(self, labels: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the float64 sums of some (labelling, unit)."""
        exact = np.empty(rows.size)
        step = max(1, 2**22 // self.columns.shape[1])
        for start in range(0, rows.size, step):
            part = slice(start, start + step)
            chosen = labels[rows[part]].astype(np.float64)
            exact[part] = np.einsum("ij,ij->i", chosen, self.columns[columns[part]])
        return exact


def _count(mask: np.ndarray) -> np.ndarray:
    """Return the number of True in each column of a mask with fewer than 256 rows; bytes are fast to add."""
    return np.asarray(mask.view(np.uint8).sum(axis=0, dtype=np.uint8).astype(np.int64))


def _where(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the few True of a mask; many times faster than `numpy.nonzero` in two dimensions."""
    rows, columns = np.divmod(np.flatnonzero(mask), mask.shape[1])
    return rows, columns


def _labels(
    n_on: int, n_off: int, n_permutations: int, seed: int, exact: bool | Literal["auto"], pairs: Any
) -> tuple[np.ndarray, bool]:
    """Return the labellings to compare with (labelling, stimulus), and whether they are all there are."""
    if exact not in (True, False, "auto"):
        raise InputError(f"exact must be True, False or 'auto', got {exact!r}")
    partner = None if pairs is None else _partners(n_on, n_off, pairs)
    n_partitions = math.comb(n_on + n_off, n_on) if partner is None else 2**n_on
    if exact is True and n_partitions > MAX_PARTITIONS:
        raise InputError(f"there are {n_partitions:.3g} partitions, too many to enumerate (at most {MAX_PARTITIONS:,})")
    if exact is False or (exact == "auto" and n_partitions > n_permutations):
        return permuted_labels(n_on, n_off, n_permutations, seed=seed, pairs=pairs), False
    if partner is not None:
        stays = np.arange(n_partitions)[:, None] >> np.arange(n_on) & 1 == 0
        return _flipped(stays, partner), True
    chosen = np.fromiter(
        itertools.chain.from_iterable(itertools.combinations(range(n_on + n_off), n_on)),
        dtype=np.intp,
        count=n_partitions * n_on,
    ).reshape(n_partitions, n_on)
    labels = np.zeros((n_partitions, n_on + n_off), dtype=bool)
    np.put_along_axis(labels, chosen, True, axis=1)
    return labels, True


def _partners(n_on: int, n_off: int, pairs: Any) -> Int[np.ndarray, " pair"]:
    """Return for each "on" stimulus the place of its partner in the pooled stimuli."""
    names = list(pairs)
    if len(names) != n_on + n_off:
        raise InputError(f"{len(names)} pair names for {n_on} + {n_off} stimuli")
    place = {name: n_on + number for number, name in enumerate(names[n_on:])}
    if n_on != n_off or len(place) != n_off or len(set(names[:n_on])) != n_on or set(names[:n_on]) != set(place):
        raise InputError("every pair needs exactly one stimulus on each side of the contrast")
    return np.array([place[name] for name in names[:n_on]])


def _flipped(stays: np.ndarray, partner: np.ndarray) -> np.ndarray:
    """Return labels in which some pairs keep their sides and the others change them."""
    n_on = len(partner)
    labels = np.empty((len(stays), 2 * n_on), dtype=bool)
    labels[:, :n_on] = stays
    labels[:, partner] = ~stays
    return labels
