"""Cross-validation folds that never split a group, a duplicated stimulus or the memory of a time series."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from topobrain._checks import InputError, listed, require_choice

Split = tuple[np.ndarray, np.ndarray]
MadeScheme = Literal["contiguous", "shuffled", "leave-one-out", "within-runs"]
Scheme = Literal["contiguous", "shuffled", "leave-one-out", "within-runs", "given"]


@dataclass(frozen=True)
class Folds:
    """Train and test rows of each fold.

    Parameters
    ----------
    splits
        One (train, test) pair of row numbers a fold.
    scheme
        How they were made: ``"contiguous"`` (blocks in the order of the rows), ``"shuffled"``, ``"leave-one-out"`` (a group
        a fold), ``"within-runs"`` (a block of every run a fold) or ``"given"``.
    gap
        Training rows dropped on either side of a test block.
    """

    splits: tuple[Split, ...]
    scheme: Scheme
    gap: int | float = 0

    def __iter__(self) -> Iterator[Split]:
        return iter(self.splits)

    def __len__(self) -> int:
        return len(self.splits)

    def test_fold(self, n_rows: int) -> np.ndarray:
        """Return the number of the fold in which each row is tested (row,), -1 where it never is."""
        fold = np.full(n_rows, -1)
        for number, (_, test) in enumerate(self.splits):
            fold[test] = number
        return fold


def duplicate_groups(items: Sequence[Hashable]) -> np.ndarray:
    """Return a group number a row; identical items (texts, ignoring case and white space) share one."""
    keys = [" ".join(item.split()).casefold() if isinstance(item, str) else item for item in items]
    first: dict[Hashable, int] = {}
    return np.array([first.setdefault(key, len(first)) for key in keys])


def merge_groups(*labels: Sequence[Hashable] | np.ndarray) -> np.ndarray:
    """Return groups that keep together every pair of rows which any of the given labellings keeps together.

    >>> merge_groups(["a", "a", "b", "c"], [0, 1, 1, 2]).tolist()
    [0, 0, 0, 1]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(labels[0])
    links: list[np.ndarray] = []
    for labelling in labels:
        if len(labelling) != n:
            raise InputError(f"group labels have {len(labelling)} rows, expected {n}")
        codes = duplicate_groups([str(label) for label in labelling])
        representative = np.unique(codes, return_index=True)[1]
        links.append(np.stack([np.arange(n), representative[codes]]))
    ends = np.concatenate(links, axis=1)
    graph = coo_array((np.ones(ends.shape[1]), (ends[0], ends[1])), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    return duplicate_groups(component.tolist())


def make_folds(
    groups: Sequence[Hashable] | np.ndarray,
    n_folds: int | None = None,
    *,
    scheme: MadeScheme = "contiguous",
    gap: int | float = 0,
    positions: Sequence[float] | np.ndarray | None = None,
    runs: Sequence[Hashable] | np.ndarray | None = None,
    seed: int = 0,
) -> Folds:
    """Divide rows into folds, keeping every group whole and, with a gap, test rows apart from their neighbours in time.

    Parameters
    ----------
    groups
        One label a row; rows that share a label stay together. ``range(n)`` for independent rows, passages or runs where
        stimuli hang together, subjects where rows of several people are stacked. `merge_groups` joins several of them
        (duplicated stimuli and passages).
    n_folds
        Number of folds, 2 to the number of groups. ``"leave-one-out"`` needs none: it makes one a group.
    scheme
        ``"contiguous"``: groups in the order of their first row, cut into blocks of about equal size. ``"shuffled"``: the
        groups' order is drawn with ``seed`` first; neighbours in time leak, so callers must ask for it.
        ``"leave-one-out"``: each fold tests one group (a run, a passage, a subject). ``"within-runs"``: every run is
        cut into ``n_folds`` blocks and fold k tests the k-th block of each run, so that all runs train and test.
    gap
        Rows of the same run within this distance of a test row (in ``positions``) are dropped from training: for time
        series, the reach of the haemodynamic response.
    positions
        Place of each row in time, in the unit of ``gap``, if rows are a subset (inner folds) or not evenly spaced; default
        0, 1, 2, ...
    runs
        Run of each row, if there are several: the clock stops between runs, so a gap never reaches from one into another.
    seed
        Seed of the shuffled order.

    Returns
    -------
    Folds
        Every row is tested exactly once.

    Raises
    ------
    InputError
        A number of folds that is not whole, fewer groups than folds, a fold left without training rows by the gap, a group
        that lies in two runs where runs are cut, or labels that do not fit the rows.

    Examples
    --------
    >>> [test.tolist() for _, test in make_folds(["a", "a", "b", "c"], scheme="leave-one-out")]
    [[0, 1], [2], [3]]
    >>> make_folds(range(8), 2, scheme="within-runs", runs=[1, 1, 1, 1, 2, 2, 2, 2]).splits[0][1].tolist()
    [0, 1, 4, 5]
    """
    require_choice("fold scheme", scheme, get_args(MadeScheme))
    codes = duplicate_groups(list(np.asarray(groups).tolist()))
    n, sizes = len(codes), np.bincount(codes)
    if len(sizes) < 2:
        raise InputError(
            f"all {n} rows belong to one group (duplicated stimuli count as one): none can be held out. Are all stimuli or all "
            "features equal? Stimuli repeated in every run on purpose need allow_duplicates=True"
        )
    if not gap >= 0:
        raise InputError(f"gap must be 0 or more rows, got {gap}")
    if n_folds is not None and (isinstance(n_folds, bool) or not isinstance(n_folds, int | np.integer)):
        raise InputError(f"n_folds must be a whole number, 2 to {len(sizes)}, got {n_folds!r}")
    place, run = _places(n, positions, runs)
    if scheme == "leave-one-out":
        if n_folds not in (None, len(sizes)):
            raise InputError(
                f"leave-one-out makes one fold a group: {len(sizes)} groups, but n_folds={n_folds}; leave n_folds out, or "
                "ask for scheme='contiguous'"
            )
        fold = codes
    elif n_folds is None:
        raise InputError(
            f"scheme {scheme!r} needs a number of folds, 2 to {len(sizes)}; only 'leave-one-out' needs none"
        )
    elif scheme == "within-runs":
        if runs is None:
            raise InputError("scheme 'within-runs' cuts every run into blocks: give runs=, one label a row")
        fold = _fold_within_runs(codes, run, n_folds)
    else:
        if not 2 <= n_folds <= len(sizes):
            raise InputError(
                f"cannot make {n_folds} folds of {n} rows in {len(sizes)} groups (duplicated stimuli count as one group): "
                f"expected 2 to {len(sizes)} folds"
            )
        order = np.arange(len(sizes))
        if scheme == "shuffled":
            order = np.random.default_rng(seed).permutation(order)
        fold_of_group = np.empty(len(sizes), dtype=int)
        fold_of_group[order] = _cut(sizes[order], n_folds)
        fold = fold_of_group[codes]
    splits = []
    for number in range(fold.max() + 1):
        test = np.flatnonzero(fold == number)
        train = np.flatnonzero(fold != number)
        if gap:
            train = train[_distance(place, run, train, test) > gap]
        if train.size < 2:
            raise InputError(
                f"fold {number} has {train.size} training rows left: use fewer folds or a smaller gap ({gap})"
            )
        splits.append((train, test))
    return Folds(tuple(splits), scheme, gap)


def given_folds(splits: Any, n_rows: int) -> Folds:
    """Return folds that the caller made, checked.

    Parameters
    ----------
    splits
        (train, test) pairs of row numbers, or one fold number a row: a row is tested in that fold and trains all others;
        rows with -1 are never tested.
    n_rows
        Number of rows there are.

    Raises
    ------
    InputError
        A pair that is none, rows that are no whole numbers, do not exist, occur on both sides or twice in training, a row
        tested twice; the fold is named.

    Examples
    --------
    >>> [test.tolist() for _, test in given_folds(np.array([0, 1, 1, -1]), 4)]
    [[0], [1, 2]]
    """
    if isinstance(splits, Folds):
        splits = splits.splits
    numbers = np.asarray(splits) if isinstance(splits, np.ndarray) else None
    if numbers is not None and numbers.ndim == 1 and numbers.dtype.kind in "iu":
        if len(numbers) != n_rows:
            raise InputError(f"folds number {len(numbers)} rows, expected {n_rows}")
        splits = [
            (np.flatnonzero(numbers != k), np.flatnonzero(numbers == k)) for k in np.unique(numbers[numbers >= 0])
        ]
    pairs: list[Split] = []
    for number, pair in enumerate(splits):
        try:
            train, test = (_row_numbers(rows) for rows in pair)
        except (TypeError, ValueError) as error:
            raise InputError(f"fold {number} is no (train, test) pair of row numbers: {error}") from error
        if (
            train.size < 2
            or test.size == 0
            or min(train.min(), test.min()) < 0
            or max(train.max(), test.max()) >= n_rows
        ):
            raise InputError(f"fold {number} is empty or names rows outside 0..{n_rows - 1}")
        both = np.intersect1d(train, test)
        if both.size:
            raise InputError(f"fold {number} has rows in both training and test: {listed(both, 5)}")
        rows, count = np.unique(train, return_counts=True)
        if (count > 1).any():
            raise InputError(
                f"fold {number} names training rows more than once: {listed(rows[count > 1], 5)}; expected each row once"
            )
        pairs.append((train, test))
    tested = np.concatenate([test for _, test in pairs]) if pairs else np.zeros(0)
    if not pairs or len(np.unique(tested)) != len(tested):
        raise InputError("folds must be one or more (train, test) pairs whose test rows do not overlap")
    return Folds(tuple(pairs), "given")


def _row_numbers(rows: Any) -> np.ndarray:
    """Return row numbers as integers, or raise ValueError: numbers that are not whole would be cut to other rows."""
    given = np.asarray(rows).reshape(-1)
    if given.size == 0:
        return np.zeros(0, dtype=np.int64)
    if given.dtype.kind == "b":
        raise ValueError("got a mask of True and False; np.flatnonzero(mask) gives its row numbers")
    if given.dtype.kind not in "iuf":
        raise ValueError(f"got values of type {given.dtype}")
    broken = given[~np.isfinite(given) | (np.floor(given) != given)] if given.dtype.kind == "f" else given[:0]
    if broken.size:
        raise ValueError(f"rows must be whole numbers, got {listed(broken, 3)}")
    return given.astype(np.int64)


def _places(
    n: int, positions: Sequence[float] | np.ndarray | None, runs: Sequence[Hashable] | np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the place in time and the run number of each row."""
    place = np.arange(n) if positions is None else np.asarray(positions)
    if place.shape != (n,) or place.dtype.kind not in "iuf" or not np.isfinite(place).all():
        raise InputError(
            f"positions are one finite number a row: expected {n}, got {place.dtype} of shape {place.shape}"
        )
    run = np.zeros(n, dtype=int) if runs is None else duplicate_groups(list(np.asarray(runs).tolist()))
    if len(run) != n:
        raise InputError(f"runs have {len(run)} labels for {n} rows: expected one each")
    return place, run


def _distance(place: np.ndarray, run: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return how far each training row is from the nearest test row of its run, infinite where its run has none."""
    nearest = np.full(len(train), np.inf)
    for number in np.unique(run[test]):
        there = np.sort(place[test[run[test] == number]])
        rows = np.flatnonzero(run[train] == number)
        at = place[train[rows]]
        after = np.searchsorted(there, at)
        left = np.where(after > 0, np.abs(at - there[np.maximum(after - 1, 0)]), np.inf)
        right = np.where(after < len(there), np.abs(there[np.minimum(after, len(there) - 1)] - at), np.inf)
        nearest[rows] = np.minimum(left, right)
    return nearest


def _fold_within_runs(codes: np.ndarray, run: np.ndarray, n_folds: int) -> np.ndarray:
    """Return the fold of each row: the k-th block of every run, groups whole."""
    fold = np.empty(len(codes), dtype=int)
    for number in range(run.max() + 1):
        rows = np.flatnonzero(run == number)
        elsewhere = np.intersect1d(codes[rows], codes[run != number])
        if elsewhere.size:
            raise InputError(
                f"the group of row {int(np.flatnonzero(codes == elsewhere[0])[0])} lies in two runs, so runs cannot be cut "
                "one by one; hold out whole runs: groups=runs, scheme='leave-one-out'"
            )
        inside = duplicate_groups(codes[rows].tolist())
        sizes = np.bincount(inside)
        if not 2 <= n_folds <= len(sizes):
            raise InputError(
                f"cannot cut a run of {len(rows)} rows in {len(sizes)} groups into {n_folds} folds: expected 2 to "
                f"{len(sizes)}"
            )
        fold[rows] = _cut(sizes, n_folds)[inside]
    return fold


def _cut(sizes: np.ndarray, n_folds: int) -> np.ndarray:
    """Return the fold of each group: cut where the running size passes k/n_folds, at least one group a fold."""
    middle = np.cumsum(sizes) - sizes / 2
    fold: np.ndarray = np.minimum((middle / sizes.sum() * n_folds).astype(int), n_folds - 1)
    for rank in range(len(fold)):  # large groups can skip a fold number: close the holes, leave room for the rest
        lowest = fold[rank - 1] if rank else 0
        highest = min(lowest + 1, n_folds - 1) if rank else 0
        remaining = len(fold) - rank
        fold[rank] = max(min(fold[rank], highest), lowest, n_folds - remaining)
    return fold


def check_gap(
    folds: Folds,
    gap: int | float,
    runs: Sequence[Hashable] | np.ndarray | None,
    positions: Sequence[float] | np.ndarray | None = None,
) -> None:
    """Raise if a fold trains on rows that lie within a gap of its test rows: neighbours in time share their signal.

    Parameters
    ----------
    folds
        Folds, usually made by the caller (`given_folds`).
    gap
        Distance, in the unit of ``positions``, that training rows must exceed; 0 asks for none.
    runs
        Run of each row, or None for one run: rows of different runs are never near.
    positions
        Place of each row in time, default 0, 1, 2, ... (of all rows, not of each run).

    Raises
    ------
    InputError
        A fold trains on a row too near a test row of its run: fold, rows and gap are named.

    Examples
    --------
    >>> check_gap(given_folds([([4, 5], [0, 1])], 6), 2, None)
    >>> check_gap(given_folds([([2, 3], [0, 1])], 4), 2, runs=["a", "a", "b", "b"])
    """
    if not gap >= 0:
        raise InputError(f"gap must be 0 or more rows, got {gap}")
    if gap == 0:
        return
    given = runs if runs is not None else positions
    highest = max(int(max(rows.max() for rows in pair)) for pair in folds)
    place, run = _places(highest + 1 if given is None else len(given), positions, runs)
    if len(place) <= highest:
        raise InputError(f"folds name row {highest}, but runs or positions have {len(place)} rows: expected one each")
    for number, (train, test) in enumerate(folds):
        distance = _distance(place, run, train, test)
        close = np.flatnonzero(distance <= gap)
        if close.size == 0:
            continue
        row = int(train[close[np.argmin(distance[close])]])
        beside = test[run[test] == run[row]]
        neighbour = int(beside[np.argmin(np.abs(place[beside] - place[row]))])
        raise InputError(
            f"fold {number} trains on {close.size} row(s) within the gap of {gap} around its test rows: row {row} is "
            f"{distance[close].min():g} from test row {neighbour} of the same run. Neighbours in time share their signal, so "
            "scores would be inflated; leave these rows out of training, let folds be made (contiguous, with this gap), or "
            "say gap=0 if they are meant to be there"
        )


def check_leaks(folds: Folds, alike: np.ndarray, texts: Sequence[str], groups: Sequence[Hashable] | None) -> None:
    """Raise if a fold has the same stimulus, or the same group, among its training and its test rows.

    ``alike`` numbers rows that count as the same stimulus, ``texts`` name them, ``groups`` labels passages or runs.
    """
    for what, codes, names in (
        ("stimulus", alike, texts),
        ("group", None if groups is None else duplicate_groups(list(groups)), groups),
    ):
        if codes is None or names is None:
            continue
        for number, (train, test) in enumerate(folds):
            shared = np.intersect1d(codes[train], codes[test])
            if shared.size:
                shown = [str(names[int(np.flatnonzero(codes == code)[0])]) for code in shared]
                raise InputError(
                    f"fold {number} has {shared.size} {what}(s) in both training and test rows: {listed(shown, 3)}. "
                    "Scores would be inflated; keep duplicates and groups on one side, or pass allow_duplicates=True"
                )
