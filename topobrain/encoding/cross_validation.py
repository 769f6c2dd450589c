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
    check_leaks,
    duplicate_groups,
    given_folds,
    make_folds,
    merge_groups,
)

TIME_GAP = 6
"""Volumes dropped around a test block of a time series: the haemodynamic response's reach at TR 2 s."""

TIME_BLOCK = 10
"""Volumes that the bootstrap draws together in a time series."""

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
    """

    outer: Folds
    groups: np.ndarray
    inner_folds: int
    inner_scheme: Literal["contiguous", "shuffled"]
    gap: int
    time_series: bool
    seed: int
    runs: np.ndarray | None = None

    def inner(self, train: np.ndarray) -> Folds:
        """Return the folds inside some training rows; their row numbers count within ``train``."""
        groups = self.groups[train]
        n = min(self.inner_folds, len(np.unique(groups)))
        apart = {} if self.runs is None else {"runs": self.runs[train]}
        return make_folds(groups, n, scheme=self.inner_scheme, gap=self.gap, positions=train, seed=self.seed, **apart)

    @cached_property
    def inner_splits(self) -> list[tuple[Split, ...]]:
        """The inner folds of every outer fold."""
        return [self.inner(train).splits for train, _ in self.outer]

    @property
    def blocks(self) -> np.ndarray:
        """Rows the bootstrap draws together."""
        return np.arange(len(self.groups)) // TIME_BLOCK if self.time_series else self.groups

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
    reach = (TIME_GAP if time_series else 0) if gap is None else gap
    scheme: Literal["contiguous", "shuffled"] = "shuffled" if folds == "shuffled" else "contiguous"
    if isinstance(folds, int | np.integer) and not isinstance(folds, bool):
        n_folds, folds = int(folds), "contiguous"
    if not isinstance(folds, str | Sequence | Folds):
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
            outer = make_folds(groups, n_folds, scheme=scheme, gap=reach, seed=seed, **apart)
    else:
        outer = given_folds(folds, len(texts))
        if not allow_duplicates:
            check_leaks(outer, alike, texts, None if labels is None else labels.tolist())
    small = min(len(test) for _, test in outer)
    if small < 3:
        raise InputError(
            f"a fold tests {small} stimuli: a correlation needs at least 3, use fewer folds"
            + (" (leave-one-out needs groups of at least 3)" if folds == "leave-one-out" else "")
        )
    return Design(outer, groups, inner_folds, scheme, reach, time_series, seed, runs)
