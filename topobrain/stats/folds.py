"""Cross-validation folds that never split a group and never split duplicated stimuli."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from topobrain._checks import InputError, listed, require_choice

Split = tuple[np.ndarray, np.ndarray]
Scheme = Literal["contiguous", "shuffled", "given"]


@dataclass(frozen=True)
class Folds:
    """Train and test rows of each fold.

    Parameters
    ----------
    splits
        One (train, test) pair of row numbers a fold.
    scheme
        ``"contiguous"`` (blocks in the order of the rows), ``"shuffled"`` or ``"given"``.
    gap
        Training rows dropped on either side of a test block.
    """

    splits: tuple[Split, ...]
    scheme: Scheme
    gap: int = 0

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
    n_folds: int,
    *,
    scheme: Literal["contiguous", "shuffled"] = "contiguous",
    gap: int = 0,
    positions: np.ndarray | None = None,
    seed: int = 0,
) -> Folds:
    """Divide rows into folds of about equal size, keeping every group whole.

    Parameters
    ----------
    groups
        One label a row; rows that share a label stay together. ``range(n)`` for independent rows.
    n_folds
        Number of folds, 2 to the number of groups.
    scheme
        ``"contiguous"``: groups in the order of their first row, cut into blocks. ``"shuffled"``: the groups' order is
        drawn with ``seed`` first; neighbours in time leak, so callers must ask for it.
    gap
        Rows within this many of a test row (in ``positions``) are dropped from training: for time series, the reach of
        the haemodynamic response.
    positions
        Place of each row in time, if rows are a subset (inner folds); default 0, 1, 2, ...
    seed
        Seed of the shuffled order.

    Raises
    ------
    InputError
        Fewer groups than folds, or a fold left without training rows by the gap.
    """
    require_choice("fold scheme", scheme, ("contiguous", "shuffled"))
    codes = duplicate_groups(list(np.asarray(groups).tolist()))
    n, sizes = len(codes), np.bincount(codes)
    if len(sizes) < 2:
        raise InputError(f"all {n} rows belong to one group (duplicated stimuli count as one): none can be held out")
    if not 2 <= n_folds <= len(sizes):
        raise InputError(
            f"cannot make {n_folds} folds of {n} rows in {len(sizes)} groups (duplicated stimuli count as one group): "
            f"expected 2 to {len(sizes)} folds"
        )
    if gap < 0:
        raise InputError(f"gap must be 0 or more rows, got {gap}")
    order = np.arange(len(sizes))
    if scheme == "shuffled":
        order = np.random.default_rng(seed).permutation(order)
    fold_of_group = _cut(sizes[order], n_folds)
    fold = np.empty(n, dtype=int)
    for rank, group in enumerate(order):
        fold[codes == group] = fold_of_group[rank]
    place = np.arange(n) if positions is None else np.asarray(positions)
    splits = []
    for number in range(n_folds):
        test = np.flatnonzero(fold == number)
        train = np.flatnonzero(fold != number)
        if gap:
            nearest = np.abs(place[train][:, None] - place[test][None, :]).min(axis=1)
            train = train[nearest > gap]
        if train.size < 2:
            raise InputError(
                f"fold {number} has {train.size} training rows left: use fewer folds or a smaller gap ({gap})"
            )
        splits.append((train, test))
    return Folds(tuple(splits), scheme, gap)


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
