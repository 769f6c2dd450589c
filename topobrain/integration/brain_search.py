"""Ridge regression on every window at once, with penalties and windows chosen inside the training volumes; plain arrays.

Few features answer for many time courses (listeners, regions and the shifted copies of a null), so all fitting happens
in the coordinates of the features: a fold's Gram matrix is decomposed once, and a time course enters by its products
with the features only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from topobrain.stats.folds import Split

TILE = 2048
"""Time courses worked on at a time: their products stay in a processor's cache."""

FLAT = 1e-12
"""Part of the responses' variance below which that of a prediction is rounding."""


class Searched(NamedTuple):
    """What every window predicts.

    Attributes
    ----------
    inner
        Mean r over the inner folds of each outer fold's training volumes, at the penalty of the least squared error there
        (fold, kernel, column). Windows are chosen by what they are scored by: at low signal to noise all squared errors
        are those of a prediction that hardly varies.
    r
        Pearson r on the held-out volumes with that penalty (fold, kernel, column).
    penalty
        Number of that penalty (fold, kernel, column).
    prediction
        Held-out predictions (kernel, row, column), NaN for rows never tested; empty if not asked for.
    """

    inner: np.ndarray
    r: np.ndarray
    penalty: np.ndarray
    prediction: np.ndarray


class _Spectrum(NamedTuple):
    """Training rows in the coordinates of their Gram matrix: ``z = project @ y`` and ``beta = z / (values + penalty)``."""

    values: np.ndarray
    project: np.ndarray
    basis: np.ndarray
    mean: np.ndarray

    @classmethod
    def of(cls, X: np.ndarray) -> _Spectrum:
        mean = X.mean(axis=0)
        centred = X - mean
        values, basis = np.linalg.eigh(centred.T @ centred)
        keep = values > max(values[-1], 0.0) * 1e-11
        return cls(values[keep], basis[:, keep].T @ centred.T, basis[:, keep], mean)

    def shrink(self, alphas: np.ndarray) -> np.ndarray:
        """Return what each coordinate is divided by (penalty, coordinate), as factors."""
        return np.asarray(1 / (self.values + alphas[:, None]))

    def coordinates(self, X: np.ndarray) -> np.ndarray:
        return np.asarray((X - self.mean) @ self.basis)


def scaled(X: np.ndarray) -> np.ndarray:
    """Return features (row, feature) with mean 0 and unit variance over all rows, 0 where constant.

    Scaling over all rows, test rows among them, uses the stimulus and never a response.
    """
    centred = X - X.mean(axis=0)
    sd = centred.std(axis=0)
    told = sd > 1e-9 * (np.abs(X).max(axis=0) + 1e-300)
    return np.asarray(np.where(told, centred / np.where(told, sd, 1.0), 0.0))


def narrowed(X: np.ndarray) -> np.ndarray:
    """Return features in as few columns as there are rows: a ridge regression knows them by their products only."""
    if X.shape[1] <= len(X):
        return X
    left, singular, _ = np.linalg.svd(X, full_matrices=False)
    return np.asarray(left * singular)


def search(
    designs: Sequence[np.ndarray],
    Y: np.ndarray,
    outer: Sequence[Split],
    inner: Sequence[Sequence[Split]],
    alphas: np.ndarray,
    *,
    predict: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Searched:
    """Score every window on every time course, by nested cross-validation.

    Parameters
    ----------
    designs
        Features of each window (row, feature), see `narrowed`.
    Y
        Time courses (row, column), finite, of about unit variance. Gram matrices are decomposed in float64; all that is done
        to time courses is done in their own precision.
    outer, inner
        Outer splits, and for each the splits inside its training rows, whose row numbers count within these.
    alphas
        Penalties.
    predict
        Keep the held-out predictions.
    progress
        Called with (windows done, windows in all).
    """
    n_rows, n_columns = Y.shape
    shape = (len(outer), len(designs), n_columns)
    found = Searched(
        np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=np.int8),
        np.full((len(designs), n_rows, n_columns) if predict else (0, n_rows, n_columns), np.nan),
    )  # fmt: skip
    for k, X in enumerate(designs):
        for fold, ((train, test), within) in enumerate(zip(outer, inner, strict=True)):
            fits = [_Inner.of(X[train], *split, alphas, Y.dtype) for split in within]
            whole = _Spectrum.of(X[train])
            ahead = whole.coordinates(X[test])
            centred = (ahead - ahead.mean(axis=0)).astype(Y.dtype)
            project, shrink = whole.project.astype(Y.dtype), whole.shrink(alphas).astype(Y.dtype)
            for start in range(0, n_columns, TILE):
                tile = slice(start, start + TILE)
                y = Y[train, tile]
                products = [fit.project @ y[fit.train] for fit in fits]
                errors = sum(fit.errors(y, z) for fit, z in zip(fits, products, strict=True))
                best = np.asarray(errors).argmin(axis=0)
                found.penalty[fold, k, tile] = best
                scores = [fit.correlation(y, z, best) for fit, z in zip(fits, products, strict=True)]
                found.inner[fold, k, tile] = np.mean(scores, axis=0)
                beta = (project @ y) * shrink[best].T
                found.r[fold, k, tile] = _correlation(centred @ beta, Y[test, tile])
                if predict:
                    found.prediction[k, test, tile] = ahead @ beta + y.mean(axis=0)
        if progress is not None:
            progress(k + 1, len(designs))
    return found


class _Inner(NamedTuple):
    """One inner split of one window: squared errors of all penalties from a few products."""

    train: np.ndarray
    test: np.ndarray
    project: np.ndarray
    ahead: np.ndarray
    centred: np.ndarray
    shrink: np.ndarray
    roots: np.ndarray

    @classmethod
    def of(cls, X: np.ndarray, train: np.ndarray, test: np.ndarray, alphas: np.ndarray, dtype: np.dtype[Any]) -> _Inner:
        spectrum = _Spectrum.of(X[train])
        ahead, shrink = spectrum.coordinates(X[test]), spectrum.shrink(alphas)
        root = np.asarray(np.linalg.qr(ahead, mode="r"))  # |ahead @ beta| = |root @ beta|, with fewer rows
        roots = (root[np.newaxis] * shrink[:, np.newaxis]).reshape(-1, root.shape[1])
        centred = ahead - ahead.mean(axis=0)
        arrays = (one.astype(dtype) for one in (spectrum.project, ahead, centred, shrink, roots))
        return cls(train, test, *arrays)

    def errors(self, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return squared errors (penalty, column) from the products of features and training responses."""
        ahead = y[self.test] - y[self.train].mean(axis=0)
        total = np.einsum("rc,rc->c", ahead, ahead)
        size = (self.roots @ z).reshape(len(self.shrink), -1, y.shape[1])
        squares = np.einsum("arc,arc->ac", size, size)
        return np.asarray(total - 2 * (self.shrink @ (z * (self.ahead.T @ ahead))) + squares)

    def correlation(self, y: np.ndarray, z: np.ndarray, penalty: np.ndarray) -> np.ndarray:
        """Return Pearson r (column,) at a penalty a column."""
        return _correlation(self.centred @ (z * self.shrink[penalty].T), y[self.test])


def _correlation(prediction: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Pearson r (column,); 0 where the prediction does not vary. Predictions come centred."""
    centred = y - y.mean(axis=0)
    size = np.einsum("rc,rc->c", prediction, prediction)
    total = np.einsum("rc,rc->c", centred, centred)
    told = (size > FLAT * total) & (total > 0)
    product = np.einsum("rc,rc->c", prediction, centred)
    return np.where(told, product / np.sqrt(np.where(told, size * total, 1.0)), 0.0)


def fitted(X: np.ndarray, Y: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return what a ridge regression on all rows makes of them (row, column), with a penalty a column."""
    spectrum = _Spectrum.of(X)
    beta = (spectrum.project @ Y) / (spectrum.values[:, None] + alpha)
    return np.asarray(spectrum.coordinates(X) @ beta + Y.mean(axis=0))
