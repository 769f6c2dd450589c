"""Checks of features, penalties, responses and folds; works on arrays and on tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from topobrain._checks import InputError
from topobrain.stats.folds import Split, make_folds

if TYPE_CHECKING:
    import torch

BLOCK_BYTES = 32 * 2**20
"""Bytes looked at a time, so that large arrays are never copied whole."""


def is_tensor(values: object) -> TypeGuard[torch.Tensor]:
    """Return whether this is a torch tensor, without loading torch."""
    return type(values).__module__.startswith("torch") and hasattr(values, "is_cuda")


def check_features(X: np.ndarray) -> np.ndarray:
    """Return features as float64, or raise naming the first missing or infinite value."""
    return np.asarray(in_memory(check_matrix(X)), dtype=np.float64)


def real_numbers(values: Any, what: str) -> Any:
    """Return real numbers as an array or as a tensor without a gradient, not copied, or raise."""
    if is_tensor(values):
        if str(values.layout) != "torch.strided" or values.is_complex():
            raise InputError(f"{what} must be dense real numbers, got a {values.layout} tensor of {values.dtype}")
        if values.is_meta:
            raise InputError(f"{what} are a tensor on the meta device, which holds no numbers")
        return values.detach()
    if hasattr(values, "toarray"):
        raise InputError(f"{what} must be a dense array, got a sparse one; its .toarray() is one")
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} must be an array of numbers: {error}") from error
    if array.dtype.kind == "O":
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"{what} must be real numbers: {error}") from error
    if array.dtype.kind not in "fiub":
        raise InputError(f"{what} must be real numbers, got {array.dtype}")
    return array


def in_memory(values: Any) -> np.ndarray:
    """Return an array, also from a tensor on any device."""
    return np.asarray(values.cpu() if is_tensor(values) else values)


def check_matrix(X: Any) -> Any:
    """Return features (an array or a tensor, not copied), or raise naming the first missing or infinite value."""
    X = real_numbers(X, "features")
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
    Y = real_numbers(Y, "responses")
    if Y.ndim != 2 or len(Y) != n_stimuli:
        raise InputError(f"responses have shape {tuple(Y.shape)}, expected (stimulus, voxel) with {n_stimuli} stimuli")
    return Y


def check_alphas(alphas: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return penalties sorted from low to high, or raise."""
    given = real_numbers(alphas.cpu() if is_tensor(alphas) else alphas, "alphas")
    grid = np.unique(np.asarray(given, dtype=np.float64))
    if grid.size == 0 or not np.isfinite(grid).all() or (grid < 0).any():
        raise InputError(f"alphas must be finite and at least 0, one or more of them; got {grid.tolist()}")
    return grid


def check_folds(folds: Any, n_rows: int) -> list[Split]:
    """Return inner folds from their number (contiguous ones) or from (train, validation) rows, or raise."""
    if isinstance(folds, int | np.integer) and not isinstance(folds, bool):
        pairs = list(make_folds(np.arange(n_rows), int(folds)))
    else:
        pairs = _listed(folds, "folds must be a number or (train, validation) pairs")
    if not pairs:
        raise InputError("folds must be a number or one or more (train, validation) pairs, got none")
    return check_splits(pairs, n_rows, "inner fold")


def check_nested(
    outer: Sequence[Split], inner: Sequence[Sequence[Split]], n_rows: int, *, choosing: bool
) -> tuple[list[Split], list[list[Split]]]:
    """Return outer folds, and the inner folds of each (none where they choose nothing), or raise.

    Parameters
    ----------
    outer
        (train, test) rows.
    inner
        For each outer fold, (train, validation) rows that count within its training rows.
    n_rows
        Number of rows that ``outer`` counts in.
    choosing
        Penalties are chosen by the inner folds.
    """
    folds = check_splits(_listed(outer, "outer must be (train, test) pairs"), n_rows, "outer fold")
    sets = _listed(inner, "inner must be a list of (train, validation) pairs for each outer fold")
    if not folds or (len(sets) != len(folds) and (sets or choosing)):
        raise InputError(
            f"{len(folds)} outer folds need as many sets of inner folds (and at least one), got {len(sets)}"
        )
    within = []
    for k, ((train, _), splits) in enumerate(zip(folds, sets, strict=False)):
        what = f"inner fold (of outer fold {k})"
        within.append(check_splits(_listed(splits, f"{what} must be (train, validation) pairs"), len(train), what))
        if choosing and not within[-1]:
            raise InputError(f"outer fold {k} has no inner folds to choose a penalty by")
    return folds, within if choosing else [[] for _ in folds]


def _listed(values: Any, expected: str) -> list[Any]:
    try:
        return list(values)
    except TypeError as error:
        raise InputError(f"{expected}, got {values!r}") from error


def check_splits(splits: Sequence[Split], n_rows: int, what: str, *, tested: bool = True) -> list[Split]:
    """Return (train, test) row numbers as integers, or raise naming the fold that cannot be used.

    A fold may not test a row that it trains on.

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
        both = np.intersect1d(train, test)
        if both.size:
            raise InputError(
                f"{what} {number} has {both.size} rows in training and in test (row {both[0]} first): a row that was "
                "trained on tests nothing"
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
