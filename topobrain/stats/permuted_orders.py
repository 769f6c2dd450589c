"""Random orders of rows: all rows, rows shifted round, or groups of rows as wholes."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Int

from topobrain._checks import InputError, require_choice
from topobrain.stats.folds import duplicate_groups

Scheme = Literal["stimuli", "circular"]

DEFAULT_MEMORY = 2**30
"""Bytes that nulls of permuted rows may take where no bound is given."""

MOST_FIXED = 0.2
"""Share of rows in groups that no other group has the size of, up to which whole groups can be permuted."""


def permuted_rows(n: int, n_permutations: int, scheme: Scheme, seed: int) -> Int[np.ndarray, "permutation stimulus"]:
    """Return, for each permutation, the row whose response each stimulus is given.

    ``"stimuli"`` permutes all rows; ``"circular"`` shifts them round by a random number of rows, from none to all but
    one. There are only ``n`` shifts, and the true order is one of them: without it, p would go below the ``1 / n`` that
    so few shifts allow.
    """
    require_choice("permutation scheme", scheme, ("stimuli", "circular"))
    if n_permutations < 1:
        raise InputError(f"n_permutations must be 1 or more, got {n_permutations}")
    rng = np.random.default_rng(seed)
    if scheme == "stimuli":
        return rng.permuted(np.tile(np.arange(n), (n_permutations, 1)), axis=1)
    return np.asarray((np.arange(n) + rng.integers(0, n, size=(n_permutations, 1))) % n)


def permuted_groups(
    groups: np.ndarray, n_permutations: int, rng: np.random.Generator
) -> Int[np.ndarray, "permutation row"] | None:
    """Return orders that permute groups of equal size as wholes, rows within each in order; None where too few can move.

    Parameters
    ----------
    groups
        Group of each row (passage, repeated stimulus).
    n_permutations, rng
        Number of orders, and where they come from.
    """
    codes = duplicate_groups(np.asarray(groups).tolist())
    members = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    orders = np.tile(np.arange(len(codes)), (n_permutations, 1))
    n_fixed = 0
    for size in sorted({len(rows) for rows in members}):
        alike = np.stack([rows for rows in members if len(rows) == size])
        if len(alike) < 2:
            n_fixed += alike.size
            continue
        drawn = rng.permuted(np.tile(np.arange(len(alike)), (n_permutations, 1)), axis=1)
        orders[:, alike.ravel()] = alike[drawn].reshape(n_permutations, -1)
    return None if n_fixed > MOST_FIXED * len(codes) else orders
