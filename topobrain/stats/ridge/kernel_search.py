"""Penalties chosen in kernel space: what kernel ridge and banded ridge share. Tensors in, tensors out; loads torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from topobrain._checks import InputError
from topobrain.stats.folds import Split
from topobrain.stats.ridge.spectrum import eigh
from topobrain.stats.ridge.workers import Workers

TILE = 1024
"""Voxels solved at a time: bounds memory, and is wide enough for full-speed products."""

STACK_BYTES = 32 * 2**20
"""Bytes of a stack of one prediction operator a penalty, and of the predictions it gives for a tile of voxels."""


@dataclass(frozen=True)
class Spectrum:
    r"""Eigen-decomposition of the centred kernel of some training rows, ready to predict other rows.

    With :math:`K = U S U^\top` predictions at a penalty are ``rows @ (U.T @ y / (eigenvalues + alpha))``, where ``rows`` is
    the kernel between the other rows and the training rows times U. The primal form has the same U, eigenvalues and rows.

    Attributes
    ----------
    vectors
        U (training row, rank).
    eigenvalues
        (rank,), low to high; those that are rounding error are left out.
    rows
        (other row, rank).
    """

    vectors: torch.Tensor
    eigenvalues: torch.Tensor
    rows: torch.Tensor

    @classmethod
    def of_kernel(cls, train: torch.Tensor, new: torch.Tensor) -> Spectrum:
        """Decompose a centred kernel (train, train); ``new`` is (new, train)."""
        values, vectors = eigh(train)
        if len(values) and float(values[0]) < -1e-4 * max(float(values[-1]), 0.0):
            raise InputError(
                f"a kernel must have no negative eigenvalues (after centring); this one's reach from {float(values[0]):.3g} to "
                f"{float(values[-1]):.3g}: is it a matrix of distances instead of similarities?"
            )
        keep = _above_rounding(values)
        vectors = vectors[:, keep]
        return cls(vectors, values[keep], new @ vectors)

    @classmethod
    def of_features(cls, train: torch.Tensor, new: torch.Tensor, gram: torch.Tensor) -> Spectrum:
        """Decompose centred features (train, feature) through their (feature, feature) products ``gram``."""
        values, vectors = eigh(gram)
        keep = _above_rounding(values)
        values, vectors = values[keep], vectors[:, keep]
        size = values.sqrt()
        return cls(train @ vectors / size, values, new @ vectors * size)

    def to(self, dtype: torch.dtype) -> Spectrum:
        """Return the spectrum in another precision."""
        return Spectrum(self.vectors.to(dtype), self.eigenvalues.to(dtype), self.rows.to(dtype))


def _above_rounding(values: torch.Tensor) -> torch.Tensor:
    return values > torch.clamp(values[-1], min=0.0) * torch.finfo(values.dtype).eps * len(values)


def centre_kernel(train: torch.Tensor, new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return kernels (train, train) and (new, train) as if the training rows' features had mean zero."""
    columns = train.mean(dim=0)
    grand = columns.mean()
    centred = train - columns - columns[:, None] + grand
    return centred, new - columns - new.mean(dim=1, keepdim=True) + grand


@dataclass(frozen=True)
class Choice:
    """The best candidate so far for each model and voxel.

    Attributes
    ----------
    loss
        (model, voxel), float64; infinite where nothing was tried.
    candidate, penalty
        Number of the candidate, and place of the penalty in the grid (model, voxel).
    """

    loss: np.ndarray
    candidate: np.ndarray
    penalty: np.ndarray

    @classmethod
    def empty(cls, n_models: int, n_voxels: int) -> Choice:
        """Return a choice of nothing."""
        shape = (n_models, n_voxels)
        return cls(np.full(shape, np.inf), np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int16))

    def offer(self, candidate: int, models: np.ndarray, voxels: slice, losses: torch.Tensor) -> None:
        """Take a candidate's losses (penalty, voxel) where they are lower; ties stay with the earlier one."""
        least, place = (values.cpu().numpy() for values in losses.min(dim=0))
        for model in np.flatnonzero(models):
            better = least < self.loss[model, voxels]
            self.loss[model, voxels][better] = least[better]
            self.candidate[model, voxels][better] = candidate
            self.penalty[model, voxels][better] = place[better]


def tiles(n_voxels: int, size: int = TILE) -> Iterator[slice]:
    """Cut the voxel axis."""
    for start in range(0, n_voxels, size):
        yield slice(start, min(start + size, n_voxels))


def centred_tile(
    Y: np.ndarray, rows: np.ndarray, voxels: np.ndarray, like: torch.Tensor, other: np.ndarray | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a tile of targets about the training rows' mean: training rows, and other rows; centred in float64."""
    given = Y[np.ix_(rows, voxels)].astype(np.float64)
    mean = given.mean(axis=0)
    wanted = np.zeros((0, len(voxels))) if other is None else Y[np.ix_(other, voxels)].astype(np.float64) - mean

    def as_tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(device=like.device, dtype=like.dtype)

    return as_tensor(given - mean), as_tensor(wanted)


def kfold_losses(
    spectra: Sequence[Spectrum], Y: np.ndarray, splits: Sequence[Split], voxels: np.ndarray, grid: torch.Tensor
) -> torch.Tensor:
    """Return the mean squared error over all validation rows (penalty, voxel), float64, of a tile of voxels."""
    total = torch.zeros((len(grid), len(voxels)), dtype=torch.float64, device=grid.device)
    n_rows = 0
    for spectrum, (train, validation) in zip(spectra, splits, strict=True):
        given, wanted = centred_tile(Y, train, voxels, spectrum.vectors, validation)
        rotated = spectrum.vectors.T @ given
        n_rows += len(validation)
        width = max(1, int(STACK_BYTES // max(spectrum.rows.nbytes, wanted.nbytes, 1)))
        for start in range(0, len(grid), width):
            part = grid[start : start + width].to(rotated.dtype)
            stack = spectrum.rows / (spectrum.eigenvalues + part[:, None, None])
            error = (stack.flatten(0, 1) @ rotated).view(len(part), len(wanted), -1)
            error -= wanted
            total[start : start + width] += (error.square_()).sum(dim=1).double()
    return total / n_rows


def gcv_losses(
    spectrum: Spectrum, Y: np.ndarray, train: np.ndarray, voxels: np.ndarray, grid: torch.Tensor
) -> torch.Tensor:
    """Return the generalised cross-validation score (penalty, voxel) of a tile of voxels."""
    given, _ = centred_tile(Y, train, voxels, spectrum.vectors)
    grid = grid.to(given)
    power = (spectrum.vectors.T @ given).square_()
    rank = len(spectrum.eigenvalues)
    # with as many directions as free rows nothing is outside, and rounding must not look like it
    outside = (given.square().sum(dim=0) - power.sum(dim=0)).clamp(min=0) * (rank < len(train) - 1)
    keep = grid[:, None] / (spectrum.eigenvalues + grid[:, None])
    # share of free rows, the intercept taking one; as a sum of what is kept, it cancels at no penalty
    freedom = (max(len(train) - 1 - rank, 0) + keep.sum(dim=1)) / len(train)
    score = (outside + keep.square() @ power) / len(train) / freedom[:, None] ** 2
    score[freedom <= 0] = torch.inf
    return score.double()


def loo_losses(
    spectrum: Spectrum, Y: np.ndarray, train: np.ndarray, voxels: np.ndarray, grid: torch.Tensor
) -> torch.Tensor:
    r"""Return the leave-one-out mean squared error (penalty, voxel) in closed form, :math:`e_i / (1 - h_{ii})`."""
    given, _ = centred_tile(Y, train, voxels, spectrum.vectors)
    U, s = spectrum.vectors, spectrum.eigenvalues
    rotated = U.T @ given
    squares = U.square()
    losses = torch.empty((len(grid), given.shape[1]), dtype=torch.float64, device=grid.device)
    for place, alpha in enumerate(grid.to(given)):
        fitted = s / (s + alpha)
        leverage = 1 / len(train) + squares @ fitted
        error = given - U @ (rotated * fitted[:, None])
        rest = 1 - leverage
        # a row that the fit reproduces whatever it is has no leave-one-out error: that penalty cannot be chosen
        losses[place] = torch.inf if bool((rest < 1e-10).any()) else (error / rest[:, None]).square().mean(dim=0)
    return losses


@dataclass(frozen=True)
class Targets:
    """What candidates are judged on.

    Attributes
    ----------
    Y
        Responses (stimulus, voxel), any floating type; read a tile at a time.
    voxels
        The usable ones.
    train
        Training rows, for the closed forms.
    splits
        Inner (train, validation) rows, counted in ``Y``, for ``"kfold"``.
    grid
        Penalties, low to high, float64.
    selection
        ``"kfold"``, ``"gcv"`` or ``"loo"``.
    """

    Y: np.ndarray
    voxels: np.ndarray
    train: np.ndarray
    splits: Sequence[Split]
    grid: torch.Tensor
    selection: str

    def judge(
        self, spectra: Sequence[Spectrum], candidate: int, models: np.ndarray, choice: Choice, workers: Workers
    ) -> None:
        """Offer one candidate kernel to all voxels: its losses at every penalty.

        Parameters
        ----------
        spectra
            One an inner split for ``"kfold"``; the one of all training rows for ``"gcv"`` and ``"loo"``.
        candidate, models
            Number of the candidate, and mask (model,) of the models that may take it.
        choice
            Where the best so far is kept.
        workers
            Who share out the tiles of voxels.
        """

        def judge(tile: slice) -> None:
            voxels = self.voxels[tile]
            if self.selection == "kfold":
                losses = kfold_losses(spectra, self.Y, self.splits, voxels, self.grid)
            else:
                closed = gcv_losses if self.selection == "gcv" else loo_losses
                losses = closed(spectra[0], self.Y, self.train, voxels, self.grid)
            choice.offer(candidate, models, tile, losses)

        workers.each(judge, tiles(len(self.voxels)))
