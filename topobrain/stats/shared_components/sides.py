"""One side of an alignment, units or voxels: standardised by its training rows, a block of columns at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg

from topobrain._checks import InputError

BLOCK_VALUES = 2**22
"""Values of one standardised block of columns where no memory bound is given: 32 MiB."""

CONSTANT = 1e-12
"""A column whose spread is below this share of its size is constant: what is left of it is rounding."""


class Columns:
    """Units or voxels, less the mean (and over the standard deviation, ddof 1) of their training rows.

    Standardised values are made a block of columns at a time and never kept. Columns that are constant in training become
    zeros, in test rows too.

    Parameters
    ----------
    values
        (stimulus, column), of any float type; products are in float64.
    train, test
        Row numbers.
    scale
        Divide by the standard deviation.
    what
        Name of the side, for messages.
    block_values
        Values of one standardised block.

    Raises
    ------
    InputError
        No column varies over the training rows.
    """

    def __init__(
        self,
        values: np.ndarray,
        train: np.ndarray,
        test: np.ndarray,
        *,
        scale: bool,
        what: str,
        block_values: int = BLOCK_VALUES,
    ) -> None:
        self._values, self._train, self._test = values, train, test
        self.what = what
        self._step = max(1, block_values // max(1, train.size + test.size))
        self.width = values.shape[1]
        self._mean, self._factor = np.zeros(self.width), np.zeros(self.width)
        for columns in self._slices():
            given = np.asarray(values[train, columns], dtype=np.float64)
            mean = given.mean(axis=0)
            spread = (given - mean).std(axis=0, ddof=1)
            varies = spread > CONSTANT * np.abs(given).max(axis=0)
            self._mean[columns] = mean
            self._factor[columns] = np.where(varies, 1.0 / np.where(varies & scale, spread, 1.0), 0.0)
        if not self.varying:
            raise InputError(f"none of the {self.width} columns of {what} varies over {train.size} training stimuli")

    @property
    def varying(self) -> int:
        """Number of columns that are not constant in training."""
        return int((self._factor > 0).sum())

    def _slices(self) -> Iterator[slice]:
        for start in range(0, self.width, self._step):
            yield slice(start, min(start + self._step, self.width))

    def _block(self, rows: np.ndarray, columns: slice) -> np.ndarray:
        block = np.asarray(self._values[rows, columns], dtype=np.float64)  # a copy: rows are numbered
        block = block - self._mean[columns]
        block *= self._factor[columns]
        return block

    def dense(self) -> tuple[np.ndarray, np.ndarray]:
        """Return training rows (stimulus, column) and test rows."""
        whole = slice(0, self.width)
        return self._block(self._train, whole), self._block(self._test, whole)

    def gram(self) -> np.ndarray:
        """Return inner products of training rows (stimulus, stimulus)."""
        total = np.zeros((self._train.size, self._train.size))
        for columns in self._slices():
            block = self._block(self._train, columns)
            total += block @ block.T
        return total

    def test_gram(self) -> np.ndarray:
        """Return inner products of test rows with training rows (test stimulus, stimulus)."""
        total = np.zeros((self._test.size, self._train.size))
        for columns in self._slices():
            total += self._block(self._test, columns) @ self._block(self._train, columns).T
        return total

    def combine(self, rows: np.ndarray) -> np.ndarray:
        """Return sums of training rows (coordinate, component) with weights (stimulus, component)."""
        found = np.empty((self.width, rows.shape[1]))
        for columns in self._slices():
            found[columns] = self._block(self._train, columns).T @ rows
        return found

    def project(self, directions: np.ndarray) -> np.ndarray:
        """Return scores of the test rows (test stimulus, component) along directions (coordinate, component)."""
        total = np.zeros((self._test.size, directions.shape[1]))
        for columns in self._slices():
            total += self._block(self._test, columns) @ directions[columns]
        return total

    def weights(self, directions: np.ndarray) -> np.ndarray:
        """Return directions (coordinate, component) as weights of standardised columns (column, component)."""
        return directions * (self._factor > 0)[:, None]  # a solver may leave rounding in columns that carry nothing


@dataclass(frozen=True)
class Coordinates:
    """A side in few coordinates: rows of small matrices, and the way back to units or voxels.

    Attributes
    ----------
    train, test
        (stimulus, coordinate).
    origin
        The side they came from.
    by_rows
        (stimulus, coordinate) or None: coordinates are sums of the origin's training rows with these weights; None where
        they are the origin's own columns turned by ``turn``.
    turn
        (column, coordinate) or None.
    """

    train: np.ndarray
    test: np.ndarray
    origin: Columns = field(repr=False)
    by_rows: np.ndarray | None = None
    turn: np.ndarray | None = None

    @property
    def width(self) -> int:
        """Number of coordinates."""
        return int(self.train.shape[1])

    def dense(self) -> tuple[np.ndarray, np.ndarray]:
        """As `Columns.dense`."""
        return self.train, self.test

    def gram(self) -> np.ndarray:
        """As `Columns.gram`."""
        return np.asarray(self.train @ self.train.T)

    def test_gram(self) -> np.ndarray:
        """As `Columns.test_gram`."""
        return np.asarray(self.test @ self.train.T)

    def combine(self, rows: np.ndarray) -> np.ndarray:
        """As `Columns.combine`."""
        return np.asarray(self.train.T @ rows)

    def project(self, directions: np.ndarray) -> np.ndarray:
        """As `Columns.project`."""
        return np.asarray(self.test @ directions)

    def weights(self, directions: np.ndarray) -> np.ndarray:
        """Return directions (coordinate, component) as weights of standardised columns (column, component)."""
        if self.by_rows is not None:
            return self.origin.combine(self.by_rows @ directions)
        return self.origin.weights(directions if self.turn is None else self.turn @ directions)


Side = Columns | Coordinates


def few_coordinates(side: Side, n_train: int) -> Coordinates:
    r"""Return a side in at most as many coordinates as it has training rows, with the same inner products.

    Where columns are fewer than rows they are the coordinates. Else :math:`A A' = P \Lambda P'` gives
    :math:`P \Lambda^{1/2}`, from a matrix of rows by rows.
    """
    if isinstance(side, Coordinates):
        return side
    if side.width <= n_train:
        return Coordinates(*side.dense(), origin=side)
    vectors, sizes = _left_vectors(side, n_train)
    by_rows = vectors / sizes
    return Coordinates(vectors * sizes, side.test_gram() @ by_rows, origin=side, by_rows=by_rows)


def whitened(side: Columns, n_train: int, regularization: float) -> Coordinates:
    r"""Return a side whitened by :math:`(C + \gamma I)^{-1/2}`, in the coordinates of its principal axes.

    :math:`C = A'A / (n - 1)`; :math:`\gamma` is ``regularization`` times the mean of the at most
    :math:`\min(columns, n - 1)` eigenvalues of C that can differ from 0.

    Raises
    ------
    InputError
        No penalty, and as many dimensions as rows leave.
    """
    by_rows: np.ndarray | None = None
    turn: np.ndarray | None = None
    if side.width <= n_train:
        train, test = side.dense()
        vectors, sizes, axes = scipy.linalg.svd(train, full_matrices=False)
        kept = sizes > max(train.shape) * np.finfo(np.float64).eps * sizes.max(initial=0.0)
        vectors, sizes, turn = vectors[:, kept], sizes[kept], axes[kept].T
        rotated = test @ turn
    else:
        vectors, sizes = _left_vectors(side, n_train)
        by_rows = vectors / sizes
        rotated = side.test_gram() @ by_rows
    if regularization == 0 and sizes.size >= n_train - 1:
        raise InputError(
            f"canonical correlation without regularization needs more stimuli than dimensions: {side.what} has {sizes.size} over "
            f"{n_train} stimuli, so that any two sets would correlate perfectly; give regularization > 0"
        )
    variance = sizes**2 / (n_train - 1)
    mean = variance.sum() / min(side.varying, n_train - 1)
    factor = 1.0 / np.sqrt(variance + regularization * mean)
    return Coordinates(
        vectors * (sizes * factor),
        rotated * factor,
        origin=side,
        by_rows=None if by_rows is None else by_rows * factor,
        turn=None if turn is None else turn * factor,
    )


def _left_vectors(side: Columns, n_train: int) -> tuple[np.ndarray, np.ndarray]:
    """Return left singular vectors (stimulus, dimension) and singular values of a wide side's training rows."""
    values, vectors = scipy.linalg.eigh(side.gram())
    kept = values > n_train * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    return vectors[:, kept][:, ::-1], np.sqrt(values[kept])[::-1]
