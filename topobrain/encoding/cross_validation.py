"""The outer and inner folds of an encoding study, made once for all layers and voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from topobrain._checks import InputError, require_choice
from topobrain.responses import BrainResponses
from topobrain.stats.folds import (
    Folds,
    Split,
    check_gap,
    check_leaks,
    duplicate_groups,
    given_folds,
    make_folds,
    merge_groups,
)

REACH_S = 12.0
"""Seconds dropped around a test block of a time series: the reach of the haemodynamic response."""

STRETCH_S = 20.0
"""Seconds that the bootstrap draws together in a time series."""

TIME_GAP = 6
"""The same in volumes, where the time from one volume to the next (``tr_s`` of the responses' provenance) is not known: 2 s."""

TIME_BLOCK = 10
"""Volumes that the bootstrap draws together where that time is not known."""

REPEATED_SHARE = 0.1
"""Share of a fold's volumes that may occur among its training volumes by chance (short texts, coarse features)."""

SCHEMES = ("auto", "contiguous", "shuffled", "leave-one-out")

FoldChoice = Literal["auto", "contiguous", "shuffled", "leave-one-out"] | int | Sequence[Split]


@dataclass(frozen=True)
class Design:
    """Folds and groups shared by all layers and voxels.

    Parameters
    ----------
    outer
        The folds that scores are made on.
    groups
        Group number of each stimulus: what no split may divide.
    inner_folds
        Folds inside the training stimuli, on which penalties are chosen.
    inner_scheme
        Their scheme.
    gap
        Rows dropped from training around each test block.
    time_series
        Whether rows are consecutive volumes.
    seed
        Seed of shuffled folds.
    runs
        Run number of each row of a time series of several runs: gaps do not reach from one run into another.
    block
        Volumes of a time series that the bootstrap draws together.
    """

    outer: Folds
    groups: np.ndarray
    inner_folds: int
    inner_scheme: Literal["contiguous", "shuffled"]
    gap: int
    time_series: bool
    seed: int
    runs: np.ndarray | None = None
    block: int = TIME_BLOCK

    def inner(self, train: np.ndarray) -> Folds:
        """Return the folds inside some training rows; their row numbers count within ``train``."""
        groups = self.groups[train]
        n = min(self.inner_folds, len(np.unique(groups)))
        if n < 2:
            raise InputError(
                f"the {len(train)} training stimuli of a fold are all of one group, so no penalty can be chosen on inner "
                'folds: use selection="gcv", a single alpha, or stimuli of more groups (runs, passages)'
            )
        apart = {} if self.runs is None else {"runs": self.runs[train]}
        return make_folds(groups, n, scheme=self.inner_scheme, gap=self.gap, positions=train, seed=self.seed, **apart)

    @cached_property
    def inner_splits(self) -> list[tuple[Split, ...]]:
        """The inner folds of every outer fold."""
        return [self.inner(train).splits for train, _ in self.outer]

    @property
    def blocks(self) -> np.ndarray:
        """Rows the bootstrap draws together."""
        if not self.time_series:
            return self.groups
        place = np.arange(len(self.groups)) // self.block
        return place if self.runs is None else merge_unlike(self.runs, place)

    @property
    def one_block_a_fold(self) -> bool:
        """Whether a fold tests only one group: its stimuli cannot be resampled, folds are."""
        return any(len(np.unique(self.blocks[test])) < 2 for _, test in self.outer)

    @property
    def exchange(self) -> Literal["stimuli", "circular"]:
        """How the permutation null may exchange rows."""
        independent = len(np.unique(self.groups)) == len(self.groups)
        return "stimuli" if independent and not self.time_series else "circular"


def make_design(
    responses: BrainResponses,
    repeats: np.ndarray,
    folds: Any = "auto",
    *,
    n_folds: int = 5,
    inner_folds: int = 5,
    gap: int | None = None,
    allow_duplicates: bool = False,
    seed: int = 0,
) -> Design:
    """Divide the stimuli of brain responses so that no group, no repeated stimulus and no neighbour in time leaks.

    Parameters
    ----------
    responses
        Their stimuli, groups (column ``group``), runs (column ``run``) and design.
    repeats
        A number a stimulus; stimuli that share one are the same to the model.
    folds, n_folds, inner_folds, gap, allow_duplicates, seed
        As in `encode`.

    Raises
    ------
    InputError
        Impossible or leaking folds.
    """
    texts = responses.labels("text").tolist()
    labels = responses.labels("group") if "group" in responses.data.coords else None
    time_series = responses.design == "timeseries"
    runs = (
        duplicate_groups(responses.labels("run").tolist()) if time_series and "run" in responses.data.coords else None
    )
    # a silent volume of a time series is no repeated stimulus: time is kept apart by contiguous folds and the gap
    alike = np.arange(len(texts)) if time_series else merge_groups(duplicate_groups(texts), repeats)
    if allow_duplicates and labels is not None and not time_series:
        alike = np.arange(len(texts))  # the groups alone decide: a picture may come again in another run
    groups = alike if labels is None else merge_groups(labels, alike)
    tr_s = responses.provenance.get("tr_s") if time_series else None
    reach = (volumes_of(REACH_S, tr_s, TIME_GAP) if time_series else 0) if gap is None else gap
    scheme: Literal["contiguous", "shuffled"] = "contiguous"
    if isinstance(folds, str):
        scheme = "shuffled" if folds == "shuffled" else "contiguous"
    if isinstance(folds, int | np.integer) and not isinstance(folds, bool):
        n_folds, folds = int(folds), "contiguous"
    if not isinstance(folds, str | Sequence | Folds | np.ndarray):
        raise InputError(
            f"folds must be {', '.join(map(repr, SCHEMES))}, a number or (train, test) pairs, got {folds!r}"
        )
    if inner_folds < 2:
        raise InputError(f"inner_folds must be 2 or more, got {inner_folds}")
    if isinstance(folds, str):
        require_choice("folds", folds, SCHEMES)
        apart = {} if runs is None else {"runs": runs}
        if folds == "leave-one-out":
            outer = make_folds(groups, len(np.unique(groups)), scheme="leave-one-out", gap=reach, seed=seed, **apart)
        else:
            if folds == "auto":  # a session of two or three runs has no five folds
                n_folds = min(n_folds, max(2, len(np.unique(groups))))
            outer = make_folds(groups, n_folds, scheme=scheme, gap=reach, seed=seed, **apart)
    else:
        outer = given_folds(folds, len(texts))
        if not allow_duplicates:
            check_leaks(outer, alike, texts, None if labels is None else labels.tolist())
        if time_series and reach:
            check_gap(outer, reach, np.zeros(len(texts), dtype=int) if runs is None else runs)
    if time_series and not allow_duplicates:
        _check_repeats(outer, duplicate_groups(list(zip(texts, np.asarray(repeats).tolist(), strict=True))))
    small = min(len(test) for _, test in outer)
    if small < 3:
        raise InputError(
            f"a fold tests {small} stimuli: a correlation needs at least 3, use fewer folds"
            + (" (leave-one-out needs groups of at least 3)" if folds == "leave-one-out" else "")
        )
    block = volumes_of(STRETCH_S, tr_s, TIME_BLOCK)
    return Design(outer, groups, inner_folds, scheme, reach, time_series, seed, runs, block)


def _check_repeats(outer: Folds, codes: np.ndarray) -> None:
    """Raise where a story or film comes twice: volumes equal in text and features on both sides of a split.

    The most frequent volume is silence, and no repetition.
    """
    silence = np.bincount(codes).argmax()
    for number, (train, test) in enumerate(outer):
        again = (np.isin(codes[test], codes[train]) & (codes[test] != silence)).mean()
        if again > REPEATED_SHARE:
            raise InputError(
                f"fold {number}: {again:.0%} of its volumes have the same text and features as volumes it trains on (a story "
                "heard twice?). Give the same label in the column 'group' to what must stay together, or pass "
                "allow_duplicates=True"
            )


def volumes_of(seconds: float, tr_s: float | None, otherwise: int) -> int:
    """Return how many volumes cover some seconds; ``otherwise`` where the time between volumes is not known.

    >>> volumes_of(12.0, 2.0, 6), volumes_of(12.0, 0.7, 6), volumes_of(12.0, None, 6)
    (6, 18, 6)
    """
    return otherwise if not tr_s else int(np.ceil(seconds / float(tr_s) - 1e-9))


def merge_unlike(runs: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return a number for each pair of run and place, in order of first appearance."""
    return duplicate_groups(list(zip(runs.tolist(), places.tolist(), strict=True)))
