"""Features on the device, and the eigenbasis of any subset of their rows. Loads torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from topobrain.stats.ridge.spectrum import Accuracy, Basis, decompose, single_projects
from topobrain.stats.ridge.workers import Workers

CHUNK_BYTES = 64 * 2**20
"""Bytes of a block of columns of the features."""

MEDIAN_ROWS = 101
"""Rows whose median a feature is centred by: any value near the feature's serves, so not all rows are sorted."""

FAR = 1e-6
"""Products of a fold are made anew where they are below this share of those they would be subtracted from."""

LEFT_ROWS = 512
"""Rows projected on a basis at a time."""

ALONE = Workers(1)
"""The calling thread."""

SYMMETRIC = 256
"""Columns from which a product with itself is made of blocks; small ones would wait for memory instead."""

TINY = 1e-10
"""A feature whose spread is below this share of its size is constant up to rounding, and carries nothing."""


def products_within(blocks: Iterable[torch.Tensor], workers: Workers = ALONE) -> torch.Tensor:
    """Return the sum of ``block.T @ block`` over blocks of the same columns.

    What lies above the diagonal lies below it, too: five eighths of the operations.
    """
    product, bounds = torch.empty(0), [0, 0]
    for number, block in enumerate(blocks):
        if not number:
            n = block.shape[1]
            product = torch.zeros(n, n, dtype=block.dtype, device=block.device)
            bounds = [n * i // 4 for i in range(5)] if n >= SYMMETRIC else [0, n]

        def add(side: tuple[int, int], block: torch.Tensor = block, product: torch.Tensor = product) -> None:
            low, high = side
            product[low:high, low:].addmm_(block[:, low:high].T, block[:, low:])

        workers.each(add, itertools.pairwise(bounds))
    for low, high in itertools.pairwise(bounds):
        product[high:, low:high] = product[low:high, high:].T
    return product


@dataclass(frozen=True)
class Whole:
    """Products X'X (feature, feature) of a set of rows, from which those of a subset follow by subtraction."""

    rows: np.ndarray
    products: torch.Tensor


class Features:
    """Features of all stimuli, about a typical value of each in float64 (which changes no prediction).

    Rows of a fold are centred again: in kernel space where there are more features than training rows, by subtracting
    products of what is left out otherwise, and from the rows themselves where features are standardised.

    Parameters
    ----------
    X
        (stimulus, feature), checked; a numpy array or a tensor.
    standardize
        Divide by the standard deviation over the training rows of each fold.
    dual
        Work with (stimulus, stimulus) products: more features than training rows in every outer fold.
    device
        Where the work is done.
    workers
        Who share out products.

    Attributes
    ----------
    single_resolves
        False once float32 was seen not to resolve the spectrum.
    """

    def __init__(
        self, X: Any, *, standardize: bool, dual: bool, device: torch.device, workers: Workers = ALONE
    ) -> None:
        self.n, self.p = X.shape
        self.standardize, self.dual, self.device = standardize, dual, device
        self.single_resolves = True
        self._source = X
        # a median, not the mean: a fill value in a row that is not trained on must not blur the rows that are
        some = self.index(np.unique(np.linspace(0, self.n - 1, MEDIAN_ROWS).astype(int)))
        self.mean = torch.empty(self.p, dtype=torch.float64, device=device)
        for columns in self._columns():
            self.mean[columns] = self._raw(columns)[some].median(dim=0).values
        mean = self.mean
        self.centred = None if dual else self._raw(slice(0, self.p)) - mean
        self.kernel = None
        if dual and not standardize:
            self.kernel = products_within((self._block(columns).T for columns in self._columns()), workers)

    def _columns(self) -> list[slice]:
        step = max(1, CHUNK_BYTES // (8 * self.n))
        return [slice(start, min(start + step, self.p)) for start in range(0, self.p, step)]

    def _raw(self, columns: slice) -> torch.Tensor:
        block = self._source[:, columns]
        if not isinstance(block, torch.Tensor):
            block = torch.from_numpy(np.array(block, dtype=np.float64))
        return block.to(device=self.device, dtype=torch.float64)

    def _block(self, columns: slice) -> torch.Tensor:
        """Return columns about their typical value; a constant feature is zero."""
        if self.centred is not None:
            return self.centred[:, columns]
        return self._raw(columns) - self.mean[columns]

    def index(self, rows: np.ndarray) -> torch.Tensor:
        """Return row numbers as a tensor on the device."""
        return torch.from_numpy(np.ascontiguousarray(rows, dtype=np.int64)).to(self.device)

    def whole(self, rows: np.ndarray, workers: Workers = ALONE) -> Whole | None:
        """Return the products of an outer fold's training rows, where folds inside it are made from them."""
        if self.centred is None:
            return None
        block = self.centred[self.index(rows)]
        return Whole(rows, products_within([block], workers))

    def scaling(self, train: torch.Tensor, columns: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return columns (stimulus, feature), and their mean and inverse scale (feature,) over training rows.

        The inverse scale is 0 for a feature that is constant over the training rows.
        """
        block = self._block(columns)
        known = block[train]
        spread, mean = torch.std_mean(known, dim=0, correction=0)
        largest = torch.maximum(known.amax(dim=0), -known.amin(dim=0))
        constant = spread <= TINY * (largest + self.mean[columns].abs())
        scale = spread if self.standardize else torch.ones_like(spread)
        return block, mean, torch.where(constant, 0.0, 1.0 / torch.where(constant, 1.0, scale))

    def basis(self, train: np.ndarray, rows: np.ndarray, accuracy: Accuracy, whole: Whole | None = None) -> Basis:
        """Return the eigenbasis of training rows, with other rows in it."""
        if not self.dual:
            return self._primal(train, rows, accuracy, whole)
        inside, other = self.index(train), self.index(rows)
        max_rank = min(len(train) - 1, self.p)
        if self.kernel is not None:
            gram, cross = self.kernel[inside[:, None], inside], self.kernel[other[:, None], inside]
            size = float(gram.diagonal().amax())
            column = gram.mean(dim=0)
            middle = column.mean()
            gram += middle - column - column[:, None]
            cross += middle - column - cross.mean(dim=1, keepdim=True)
        else:
            gram, cross = self._standardised(inside, other, torch.float32 if accuracy.single else torch.float64)
            size = 0.0
        values, vectors = decompose(gram, max_rank, accuracy, size)
        if gram.dtype != vectors.dtype == torch.float64:  # float32 was tried and does not resolve this spectrum
            return self.basis(train, rows, replace(accuracy, single=False), whole)
        projected = (cross.to(vectors.dtype) @ vectors) / values.to(vectors.dtype)
        return Basis(values, projected, vectors, single=vectors.dtype == torch.float32)

    def _standardised(
        self, inside: torch.Tensor, other: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        both = torch.cat([inside, other])
        product = torch.zeros(len(both), len(inside), dtype=dtype, device=self.device)
        for columns in self._columns():
            block, mean, inverse = self.scaling(inside, columns)
            part = ((block[both] - mean) * inverse).to(dtype)
            product.addmm_(part, part[: len(inside)].T)
        return product[: len(inside)], product[len(inside) :]

    def _primal(self, train: np.ndarray, rows: np.ndarray, accuracy: Accuracy, whole: Whole | None) -> Basis:
        assert self.centred is not None
        inside, other = self.index(train), self.index(rows)
        _, mean, inverse = self.scaling(inside, slice(0, self.p))
        gram = self._products(train, inside, whole)
        gram = gram - len(train) * mean[:, None] * mean
        gram = gram * inverse * inverse[:, None]
        values, vectors = decompose(gram, min(len(train) - 1, self.p), accuracy)
        loading = vectors * (inverse[:, None] / values.sqrt()).to(vectors.dtype)
        if accuracy.projects == torch.float32 and single_projects(values):
            loading = loading.float()
        near = (self.centred[other] - mean).to(loading.dtype)
        single = vectors.dtype == torch.float32
        return Basis(values, near @ loading, None, loading, mean, single)

    def _products(self, train: np.ndarray, inside: torch.Tensor, whole: Whole | None) -> torch.Tensor:
        assert self.centred is not None
        if whole is not None:
            rest = np.setdiff1d(whole.rows, train)
            if len(rest) < len(train) and len(rest) + len(train) == len(whole.rows):
                if not len(rest):
                    return whole.products
                block = self.centred[self.index(rest)]
                products = whole.products - products_within([block])
                if bool((products.diagonal() >= FAR * whole.products.diagonal()).all()):
                    return products
        block = self.centred[inside]
        return products_within([block])

    def left(self, basis: Basis, train: np.ndarray, workers: Workers = ALONE) -> torch.Tensor:
        """Return the orthonormal basis (training row, rank) of responses."""
        if basis.left is not None:
            return basis.left
        assert basis.loading is not None
        assert basis.mean is not None
        assert self.centred is not None
        centred, loading, mean = self.centred, basis.loading, basis.mean
        out = loading.new_empty(len(train), basis.rank)

        def make(start: int) -> None:
            some = slice(start, min(start + LEFT_ROWS, len(train)))
            torch.mm(centred[self.index(train[some])].sub_(mean).to(out.dtype), loading, out=out[some])

        workers.each(make, range(0, len(train), LEFT_ROWS))
        return out

    def weights(self, basis: Basis, train: np.ndarray, shrunk: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Write weights (feature, voxel) on the features as given into ``out``; return their products with the mean.

        Parameters
        ----------
        basis
            Of the training rows.
        train
            The training rows.
        shrunk
            ``filters * (left.T @ y)`` (rank, voxel).
        out
            (feature, voxel).
        """
        if basis.loading is not None:
            assert basis.mean is not None
            torch.mm(basis.loading, shrunk, out=out)
            return (basis.mean + self.mean).to(out.dtype) @ out
        assert basis.left is not None
        dual = basis.left @ (shrunk / basis.eigenvalues.to(shrunk.dtype)[:, None])
        inside = self.index(train)
        at_mean = torch.zeros(out.shape[1], dtype=out.dtype, device=out.device)
        for columns in self._columns():
            block, mean, inverse = self.scaling(inside, columns)
            part = ((block[inside] - mean) * (inverse**2)).to(out.dtype)
            torch.mm(part.T, dual, out=out[columns])
            at_mean += (mean + self.mean[columns]).to(out.dtype) @ out[columns]
        return at_mean
