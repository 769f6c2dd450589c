"""Generalised cross-validation: one rotation of the responses, then no product a penalty. Loads torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from topobrain.stats.ridge.features import Features
from topobrain.stats.ridge.selection import Choice
from topobrain.stats.ridge.spectrum import Basis
from topobrain.stats.ridge.targets import Targets
from topobrain.stats.ridge.workers import Workers

Chosen = Callable[[slice, torch.Tensor, np.ndarray], None]


@runtime_checkable
class Turned(Protocol):
    """Standardised responses in an eigenbasis, a tile at a time."""

    def tile(self, voxels: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Return responses in the basis (rank, voxel) and the sum of their squares over the training rows (voxel,)."""
        ...


class Projected:
    """Responses of training rows projected on the basis of those rows.

    Parameters
    ----------
    left
        (training row, rank).
    rows
        The training rows.
    """

    def __init__(self, left: torch.Tensor, rows: np.ndarray, targets: Targets, fold: int, dtype: torch.dtype) -> None:
        self.turn = left.to(dtype).T.contiguous()
        self.rows, self.targets, self.fold, self.dtype = rows, targets, fold, dtype

    def tile(self, voxels: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Return responses in the basis, and the sum of their squares."""
        y = self.targets.standard(self.fold, self.rows, voxels, self.dtype)
        turned = self.turn @ y
        return turned, y.mul_(y).sum(dim=0)


class Crossed:
    """The same from products of features and responses, which need no decomposition: they are made beside it.

    A decomposition keeps one core busy. Where there are many more training rows than features, these products are most of
    the work, and turning them takes fewer operations than projecting rows.
    """

    def __init__(self, features: Features, rows: np.ndarray, targets: Targets, fold: int, dtype: torch.dtype) -> None:
        self.features, self.rows, self.targets, self.fold, self.dtype = features, rows, targets, fold, dtype
        self.products = torch.empty(features.p, targets.n, dtype=dtype, device=features.device)
        self.squares = torch.empty(targets.n, dtype=dtype, device=features.device)
        self.turn = torch.empty(0)

    def tasks(self, tile: int) -> list[Callable[[], None]]:
        """Return what is to be done before `ready`, in any order, at the same time or not."""
        assert self.features.centred is not None
        known = self.features.centred[self.features.index(self.rows)]
        known = known.sub_(known.mean(dim=0)).to(self.dtype).T

        def make(voxels: slice) -> None:
            y = self.targets.standard(self.fold, self.rows, voxels, self.dtype)
            self.products[:, voxels] = known @ y
            self.squares[voxels] = y.mul_(y).sum(dim=0)

        return [lambda voxels=voxels: make(voxels) for voxels in self.targets.tiles(tile)]  # type: ignore[misc]

    def ready(self, basis: Basis) -> Crossed:
        """Take the basis."""
        assert basis.loading is not None
        self.turn = basis.loading.to(self.dtype).T.contiguous()
        return self

    def tile(self, voxels: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Return responses in the basis, and the sum of their squares."""
        return self.turn @ self.products[:, voxels], self.squares[voxels]


def choose_gcv(
    basis: Basis, responses: Turned, n_rows: int, grid: np.ndarray, targets: Targets, fold: int, workers: Workers,
    tile_size: int, then: Chosen | None = None,
) -> Choice:  # fmt: skip
    """Choose each voxel's penalty by generalised cross-validation.

    ``then`` is called with each tile's voxels, its standardised responses in the basis (rank, voxel), and its choices.
    """
    alphas = torch.from_numpy(grid).to(basis.rows.device)
    keep = alphas[:, None] / (basis.eigenvalues + alphas[:, None])
    keep = torch.where(torch.isnan(keep), 0.0, keep)
    # share of free rows, the intercept taking one; as a sum of what is kept, it cancels at no penalty
    freedom = ((max(n_rows - 1 - basis.rank, 0) + keep.sum(dim=1)) / n_rows).cpu().numpy()
    relative = keep / torch.from_numpy(np.where(freedom > 0, freedom, 1.0)).to(keep)[:, None]
    square = relative**2
    index, loss = np.zeros(targets.n, dtype=np.int64), np.full(targets.n, np.inf)
    factor = 1 / np.where(freedom > 0, freedom, 1.0) ** 2

    def tile(columns: slice) -> None:
        turned, squares = responses.tile(columns)
        inside = turned * turned
        # with as many directions as free rows nothing is outside, and rounding must not look like it
        outside = (squares - inside.sum(dim=0)).clamp_(min=0) * (basis.rank < n_rows - 1)
        score = (square.to(inside) @ inside).double().cpu().numpy() + outside.double().cpu().numpy() * factor[:, None]
        score /= n_rows
        score[freedom <= 0] = np.inf
        index[columns] = score.argmin(axis=0)
        loss[columns] = score[index[columns], np.arange(score.shape[1])]
        if then is not None:
            then(columns, turned, index[columns])

    workers.each(tile, targets.tiles(tile_size))
    return Choice(index, loss * targets.size(fold, slice(0, targets.n)) ** 2, "closed form")
