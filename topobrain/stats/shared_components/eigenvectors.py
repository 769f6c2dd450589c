"""Leading eigenvectors of many symmetric operators at once, each known only by its products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg

Apply = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(numbers of operators, rows (operator, row, dimension)) -> each row times its operator, in the same shape."""

DENSE = 128
"""Dimensions up to which the whole matrix is formed."""

BLOCK = 4
"""Rows multiplied at a time: operators share large products, so few rows each cost no speed."""

TOLERANCE = 1e-7
"""Largest residual of an eigenvector, as a share of its eigenvalue."""

FLOOR = 1e-13
"""Residuals below this share of the largest eigenvalue are rounding."""


class LeadingEigenvectors:
    r"""Finds the leading eigenvectors of positive semi-definite operators, a batch of them at a time.

    Block Lanczos with full reorthogonalisation: the space spanned by :math:`Q, GQ, G^2Q, \dots` holds the leading
    eigenvectors of :math:`G` long before it is the whole space. It grows until every residual
    :math:`\|G u - \theta u\|`, which the recursion tells for nothing, is below `TOLERANCE` times the eigenvalue; operators
    that have not converged when it holds a third of all dimensions are formed and solved whole, and after a batch of which
    none has converged, all are. The first check comes where the batch before converged.

    Parameters
    ----------
    n_dimensions, n_components
        Size of an operator, and how many eigenvectors are wanted.

    Attributes
    ----------
    n_whole
        Operators so far that did not converge.
    """

    def __init__(self, n_dimensions: int, n_components: int) -> None:
        self.n_dimensions, self.n_components = n_dimensions, n_components
        self._limit = n_dimensions // 3 // BLOCK * BLOCK
        self._first_check = -(-3 * n_components // BLOCK)
        start = np.random.default_rng(0).standard_normal((n_dimensions, min(BLOCK, n_dimensions)))
        self._start = np.linalg.qr(start)[0].T
        self.n_whole = 0
        self._hopeless = False

    @property
    def by_products(self) -> bool:
        """Whether operators are large enough to be worked on by products alone."""
        return self.n_dimensions > DENSE and self._limit >= 3 * self.n_components + BLOCK

    def memory(self) -> int:
        """Return bytes that one operator of a batch takes, at the most."""
        if not self.by_products:
            return 32 * self.n_dimensions**2
        return 8 * self._limit * (self.n_dimensions + 4 * self._limit)

    def find(self, apply: Apply, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return eigenvalues (operator, component), the largest first, and eigenvectors (operator, component, dimension).

        Parameters
        ----------
        apply
            Multiplies rows by their operators.
        count
            Number of operators.
        """
        if not self.by_products:
            return self._whole(apply, np.arange(count))
        if self._hopeless:
            values = np.empty((count, self.n_components))
            vectors = np.empty((count, self.n_components, self.n_dimensions))
            converged = np.zeros(count, dtype=bool)
        else:
            values, vectors, converged = self._lanczos(apply, count)
            self._hopeless = not converged.any()
        self.n_whole += int((~converged).sum())
        for number in np.flatnonzero(~converged):
            values[number], vectors[number] = (found[0] for found in self._whole(apply, np.array([number])))
        return values, vectors

    def _whole(self, apply: Apply, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        identity = np.broadcast_to(np.eye(self.n_dimensions), (numbers.size, self.n_dimensions, self.n_dimensions))
        return _leading(apply(numbers, identity), self.n_components)

    def _lanczos(self, apply: Apply, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return eigenvalues, eigenvectors, and which operators converged."""
        numbers, n_dimensions = np.arange(count), self.n_dimensions
        basis = np.empty((count, self._limit, n_dimensions))
        projected = np.zeros((count, self._limit, self._limit))
        block = np.broadcast_to(self._start, (count, BLOCK, n_dimensions))
        check = self._first_check
        for step in range(1, self._limit // BLOCK + 1):
            size = step * BLOCK
            last = slice(size - BLOCK, size)
            basis[:, last] = block
            so_far = basis[:, :size]
            image = apply(numbers, block)
            along = image @ so_far.transpose(0, 2, 1)
            projected[:, last, :size] = along
            projected[:, :size, last] = along.transpose(0, 2, 1)
            block, left = _next_block(image - along @ so_far, so_far)
            if step < check and size < self._limit:
                continue
            values, inside = _leading(projected[:, :size, :size], self.n_components)
            residual = np.linalg.norm(inside[:, :, last] @ left, axis=2)
            allowed = np.maximum(TOLERANCE * np.abs(values), FLOOR * np.abs(values[:, :1]))
            converged = (residual <= allowed).all(axis=1)
            if converged.all() or size == self._limit:
                break
            check = step + max(2, step // 8)
        self._first_check = max(step - 1, -(-3 * self.n_components // BLOCK))
        return values, inside @ so_far, converged


def _next_block(rest: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return orthonormal rows of what is left of a product, and how they make it up (operator, row, row).

    Made orthogonal to the basis a second time: what is left may be little more than the rounding of the first.
    """
    once, first = np.linalg.qr(rest.transpose(0, 2, 1))
    rows = once.transpose(0, 2, 1)
    rows = rows - (rows @ basis.transpose(0, 2, 1)) @ basis
    twice, second = np.linalg.qr(rows.transpose(0, 2, 1))
    return twice.transpose(0, 2, 1), (second @ first).transpose(0, 2, 1)


def _leading(matrices: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest eigenvalues (matrix, component) of dense matrices and their vectors (matrix, component, dimension)."""
    size = matrices.shape[1]
    if len(matrices) == 1 and size > DENSE:  # one large matrix: only what is wanted
        one, own = scipy.linalg.eigh(matrices[0], subset_by_index=(size - count, size - 1))
        values, vectors = one[None], own[None]
    else:
        values, vectors = np.linalg.eigh(matrices)
    return values[:, : -count - 1 : -1], vectors[:, :, : -count - 1 : -1].transpose(0, 2, 1)
