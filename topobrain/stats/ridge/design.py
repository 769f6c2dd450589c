"""Checks of features, penalties, responses and folds; works on arrays and on tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from topobrain._checks import InputError
from topobrain.stats.folds import Split

if TYPE_CHECKING:
    import torch

BLOCK_BYTES = 32 * 2**20
"""Bytes looked at a time, so that large arrays are never copied whole."""


def is_tensor(values: object) -> TypeGuard[torch.Tensor]:
    """Return whether this is a torch tensor, without loading torch."""
    return type(values).__module__.startswith("torch") and hasattr(values, "is_cuda")


def check_features(X: np.ndarray) -> np.ndarray:
    """Return features as float64, or raise naming the first missing or infinite value."""
    X = np.asarray(X, dtype=np.float64)
    check_matrix(X)
    return X


def check_matrix(X: Any) -> Any:
    """Return features (an array or a tensor, not copied), or raise naming the first missing or infinite value."""
    if not is_tensor(X):
        X = np.asarray(X)
        if X.dtype.kind not in "fiub":
            X = X.astype(np.float64)
    if X.ndim != 2 or 0 in X.shape:
        raise InputError(
            f"features have shape {tuple(X.shape)}, expected (stimulus, feature) with at least one of each"
        )
    step = max(1, BLOCK_BYTES // (8 * X.shape[1]))
    for start in range(0, len(X), step):
        block = X[start : start + step]
        finite = block.isfinite() if is_tensor(block) else np.isfinite(block)
        if not bool(finite.all()):
            row, column = (int(i) for i in np.argwhere(~np.asarray(finite.cpu() if is_tensor(finite) else finite))[0])
            raise InputError(
                f"features hold {float(block[row, column])} at row {start + row}, column {column}: remove or fill it first"
            )
    return X


def check_responses(Y: Any, n_stimuli: int) -> Any:
    """Return responses (an array or a tensor, not copied), or raise."""
    if not is_tensor(Y):
        Y = np.asarray(Y)
        if Y.dtype.kind not in "fiub":
            Y = Y.astype(np.float64)
    if Y.ndim != 2 or len(Y) != n_stimuli:
        raise InputError(f"responses have shape {tuple(Y.shape)}, expected (stimulus, voxel) with {n_stimuli} stimuli")
    return Y


def check_alphas(alphas: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return penalties sorted from low to high, or raise."""
    grid = np.unique(np.asarray(alphas, dtype=np.float64))
    if grid.size == 0 or not np.isfinite(grid).all() or (grid < 0).any():
        raise InputError(
            f"alphas must be finite and at least 0, one or more of them; got {np.asarray(alphas).tolist()}"
        )
    return grid


def check_splits(splits: Sequence[Split], n_rows: int, what: str, *, tested: bool = True) -> list[Split]:
    """Return (train, test) row numbers as integers, or raise naming the fold that cannot be used.

    Parameters
    ----------
    splits
        Pairs of row numbers or masks.
    n_rows
        Number of rows they count in.
    what
        The folds' name in messages.
    tested
        Test rows are needed.
    """
    checked = []
    for number, pair in enumerate(splits):
        try:
            train, test = (_rows(rows, n_rows) for rows in pair)
        except (TypeError, ValueError) as error:
            raise InputError(f"{what} {number} is no (train, test) pair of row numbers: {error}") from error
        for rows in (train, test):
            if rows.size and (rows.min() < 0 or rows.max() >= n_rows):
                raise InputError(f"{what} {number} names rows outside 0..{n_rows - 1}")
        if not train.size or (tested and not test.size):
            raise InputError(
                f"{what} {number} has {train.size} training rows and {test.size} test rows: none may be empty"
            )
        checked.append((train, test))
    return checked


def _rows(rows: Any, n_rows: int) -> np.ndarray:
    values = np.asarray(rows.cpu() if is_tensor(rows) else rows)
    if values.dtype == bool:
        if values.shape != (n_rows,):
            raise ValueError(f"a mask over {n_rows} rows has shape {values.shape}")
        return np.flatnonzero(values)
    if values.size and values.dtype.kind not in "iu":
        raise ValueError(f"row numbers of type {values.dtype}")
    return np.ascontiguousarray(values.reshape(-1), dtype=np.int64)


def usable_voxels(Y: np.ndarray) -> np.ndarray:
    """Return a mask (voxel,) of voxels without missing values that are not constant."""
    usable = np.zeros(Y.shape[1], dtype=bool)
    step = max(1, BLOCK_BYTES // (8 * max(len(Y), 1)))
    for start in range(0, Y.shape[1], step):
        block = Y[:, start : start + step]
        finite = np.isfinite(block).all(axis=0)
        if finite.all():
            usable[start : start + step] = np.ptp(block, axis=0) > 0
        else:
            columns = np.flatnonzero(finite)
            usable[start + columns] = np.ptp(block[:, columns], axis=0) > 0
    return usable
