"""One eigen-decomposition of a training set serves every penalty and every voxel. Loads torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

LOSS_ERROR = 1e-4
"""Largest error of a float32 eigenvalue beside eigenvalue plus penalty where losses are compared; above it float64 is used.

A filter ``s / (s + alpha)`` moves by at most a quarter of it; losses of ordinary data by 1e-6 of themselves.
"""

FIT_ERROR = 7e-4
"""The same for a fit in float32: r moves by less than 1e-4 even where all signal lies in the weakest directions."""

TURN_ERROR = 2e-5
"""Largest relative error of a weak direction that is projected in float32 beside the strongest one."""

POWER_STEPS = 8
"""Multiplications that find the largest eigenvalue closely enough to know whether float32 can resolve the smallest."""


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
        Training mean (feature,) that goes with ``loading``, always float64.
    single
        It was decomposed in float32.
    """

    eigenvalues: torch.Tensor
    rows: torch.Tensor
    left: torch.Tensor | None
    loading: torch.Tensor | None = None
    mean: torch.Tensor | None = None
    single: bool = False

    @property
    def rank(self) -> int:
        """Number of directions."""
        return len(self.eigenvalues)

    @property
    def single_projects(self) -> bool:
        """Whether rows may be projected on these directions in float32."""
        return single_projects(self.eigenvalues)

    def filters(self, alphas: torch.Tensor) -> torch.Tensor:
        """Return ``s / (s + alpha)`` (alpha, rank) in the precision of the rows."""
        return (self.eigenvalues / (self.eigenvalues + alphas[:, None])).to(self.rows.dtype)

    def to(self, dtype: torch.dtype) -> Basis:
        """Return the same in another precision; eigenvalues and mean stay float64."""
        left, loading = (None if part is None else part.to(dtype) for part in (self.left, self.loading))
        return replace(self, rows=self.rows.to(dtype), left=left, loading=loading)


@dataclass(frozen=True)
class Accuracy:
    """Which precision a decomposition needs.

    Attributes
    ----------
    single
        float32 may be tried.
    lowest_alpha
        Lowest penalty of the grid.
    error
        `LOSS_ERROR` or `FIT_ERROR`.
    projects
        What the basis is to be used in: float32 lets rows be projected in it where `TURN_ERROR` allows.
    """

    single: bool
    lowest_alpha: float
    error: float = LOSS_ERROR
    projects: torch.dtype = torch.float64

    def enough(self, top: float, bottom: float) -> bool:
        """Return whether float32 resolves the lowest eigenvalue plus the lowest penalty."""
        return torch.finfo(torch.float32).eps * top <= self.error * (self.lowest_alpha + max(bottom, 0.0))


def single_projects(values: torch.Tensor) -> bool:
    """Return whether rows may be projected in float32 on directions of these eigenvalues (low to high)."""
    spread = float(values[-1] / values[0]) if len(values) else 1.0
    return bool(torch.finfo(torch.float32).eps * spread**0.5 <= TURN_ERROR)


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
    if accuracy.single and _may_resolve(gram, max_rank, accuracy):
        values, vectors = eigh(gram.float())
        if accuracy.enough(float(values[-1]), float(values[side - max_rank])):
            # penalties are far above the rounding errors here, so what is cut hardly matters
            return _real(values.double(), vectors, max_rank, size, torch.finfo(torch.float32).eps)
    if gram.dtype != torch.float64:
        gram = gram.double()
    values, vectors = eigh(gram)
    return _real(values, vectors, max_rank, size, torch.finfo(torch.float64).eps * side)


def eigh(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return eigenvalues, low to high, and vectors (columns) of a symmetric matrix.

    In float64 on a processor numpy's LAPACK takes two thirds of the time of torch's (measured on AMD), and like that lets
    other threads go on.
    """
    if matrix.dtype != torch.float64 or matrix.device.type != "cpu":
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors
    found = np.linalg.eigh(matrix.numpy())
    return torch.from_numpy(found.eigenvalues), torch.from_numpy(found.eigenvectors)


def _may_resolve(gram: torch.Tensor, max_rank: int, accuracy: Accuracy) -> bool:
    """Return False where float32 surely cannot resolve a spectrum: a Cholesky factor says so at a tenth of the cost.

    Gram minus a bound is positive definite if and only if all eigenvalues are above it.
    """
    side = len(gram)
    if max_rank < side - 1:  # eigenvalues that are zero and do not matter would decide
        return True
    shifted = gram.float()
    vector = torch.ones(side, dtype=torch.float32, device=gram.device) + torch.linspace(0, 1, side, device=gram.device)
    top = 0.0
    for _ in range(POWER_STEPS):
        vector = shifted @ (vector / vector.norm().clamp_min(torch.finfo(torch.float32).tiny))
        top = float(vector.norm())
    needed = torch.finfo(torch.float32).eps * top / accuracy.error - accuracy.lowest_alpha
    if not 0 < needed < float("inf"):
        return needed <= 0
    # a kernel centred over its rows has an eigenvalue 0 at the constant, lifted here
    lift = needed * 2 / side if max_rank == side - 1 else 0.0
    shifted = shifted + lift if lift else shifted.clone()
    shifted.diagonal().sub_(needed)
    return int(torch.linalg.cholesky_ex(shifted).info) == 0


def _real(
    values: torch.Tensor, vectors: torch.Tensor, max_rank: int, size: float, relative: float
) -> tuple[torch.Tensor, torch.Tensor]:
    keep = values > relative * max(float(values[-1]), size)
    keep[: len(values) - max_rank] = False
    return values[keep], vectors[:, keep]
