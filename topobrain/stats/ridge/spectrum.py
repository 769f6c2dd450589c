"""One eigen-decomposition of a training set serves every penalty and every voxel. Loads torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

SINGLE_ERROR = 1e-4
"""Largest error of a float32 eigenvalue beside eigenvalue plus penalty; above it the decomposition is in float64."""


@dataclass(frozen=True)
class Basis:
    r"""Training rows in their eigenbasis, and other rows beside them.

    With the centred training features :math:`X = U S^{1/2} V^\top`, predictions for other rows at a penalty are
    ``mean + (rows * filters(alpha)) @ (left.T @ y)``. The columns of ``left`` are orthonormal and orthogonal to the
    constant, so ``y`` need not be centred.

    Attributes
    ----------
    eigenvalues
        (rank,), float64, low to high.
    rows
        Other rows (row, rank): their projections on V divided by the root of the eigenvalue.
    left
        U (training row, rank); None where ``loading`` makes it.
    loading
        (feature, rank) with ``left = (X - mean) @ loading``, where there are no more features than training rows.
    mean
        Training mean (feature,) that goes with ``loading``.
    """

    eigenvalues: torch.Tensor
    rows: torch.Tensor
    left: torch.Tensor | None
    loading: torch.Tensor | None = None
    mean: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        """Number of directions."""
        return len(self.eigenvalues)

    def filters(self, alphas: torch.Tensor) -> torch.Tensor:
        """Return ``s / (s + alpha)`` (alpha, rank) in the precision of the rows."""
        return (self.eigenvalues / (self.eigenvalues + alphas[:, None])).to(self.rows.dtype)

    def to(self, dtype: torch.dtype) -> Basis:
        """Return the same in another precision; eigenvalues stay float64."""
        parts = (None if part is None else part.to(dtype) for part in (self.left, self.loading, self.mean))
        return Basis(self.eigenvalues, self.rows.to(dtype), *parts)


@dataclass(frozen=True)
class Accuracy:
    """Which precision a decomposition needs.

    Attributes
    ----------
    single
        float32 may be tried.
    lowest_alpha
        Lowest penalty of the grid.
    """

    single: bool
    lowest_alpha: float

    def enough(self, top: float, bottom: float) -> bool:
        """Return whether float32 resolves the lowest eigenvalue plus the lowest penalty."""
        return torch.finfo(torch.float32).eps * top <= SINGLE_ERROR * (self.lowest_alpha + max(bottom, 0.0))


def decompose(
    gram: torch.Tensor, max_rank: int, accuracy: Accuracy, size: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return eigenvalues (rank,) and vectors (side, rank) of a centred Gram matrix, without rounding errors.

    Parameters
    ----------
    gram
        Symmetric, of either side.
    max_rank
        No more directions than this can be real.
    accuracy
        float32 is used where it is allowed and resolves the spectrum; the vectors say which it was.
    size
        Largest entry before centring: eigenvalues that are rounding errors of it are left out.
    """
    side = len(gram)
    if max_rank < 1:
        return gram.new_zeros(0, dtype=torch.float64), gram.new_zeros(side, 0)
    if accuracy.single:
        values, vectors = torch.linalg.eigh(gram.float())
        if accuracy.enough(float(values[-1]), float(values[side - max_rank])):
            # penalties are far above the rounding errors here, so what is cut hardly matters
            return _real(values.double(), vectors, max_rank, size, torch.finfo(torch.float32).eps)
    if gram.dtype != torch.float64:
        gram = gram.double()
    values, vectors = torch.linalg.eigh(gram)
    return _real(values, vectors, max_rank, size, torch.finfo(torch.float64).eps * side)


def _real(
    values: torch.Tensor, vectors: torch.Tensor, max_rank: int, size: float, relative: float
) -> tuple[torch.Tensor, torch.Tensor]:
    keep = values > relative * max(float(values[-1]), size)
    keep[: len(values) - max_rank] = False
    return values[keep], vectors[:, keep]
