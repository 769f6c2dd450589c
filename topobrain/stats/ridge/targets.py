"""Responses, read in tiles of voxels and centred and scaled fold by fold. Loads torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from topobrain.stats.ridge.workers import Workers

Columns = slice | np.ndarray

SMALLEST, LARGEST = 1e-30, 1e30
"""Standard deviations whose inverse float32 holds with all its digits."""


class Targets:
    """Responses of the usable voxels, never copied whole.

    A voxel is usable when it has no missing or infinite value in the rows that any fold uses, and is not constant over
    the training rows of any fold.

    Attributes
    ----------
    usable
        (voxel,) bool.
    n
        Number of usable voxels; they are numbered 0 to n below.
    mean, variance
        Over the training rows (fold, usable voxel), float64.
    """

    def __init__(
        self, Y: Any, trains: Sequence[np.ndarray], used: np.ndarray, device: torch.device, workers: Workers, tile: int
    ) -> None:
        self._source, self.device = Y, device
        self._single = Y.dtype in (torch.float32, np.float32)
        n_voxels = Y.shape[1]
        mean, variance = (np.full((len(trains), n_voxels), np.nan) for _ in range(2))
        usable = np.zeros(n_voxels, dtype=bool)

        counts = np.zeros((len(trains), len(used)))
        for k, train in enumerate(trains):
            np.add.at(counts[k], np.searchsorted(used, train), 1.0)
        size = counts.sum(axis=1, keepdims=True)
        shares = torch.from_numpy(counts / size).to(device)

        def moments(columns: slice) -> None:
            block = self._read(used, columns)
            middle = block.mean(dim=0)
            block -= middle
            average = shares @ block  # a product with the folds' indicators: no copy of rows for each fold
            block *= block
            spread = shares @ block - average**2
            # what may be constant up to the rounding of this difference is looked at itself
            doubtful = (spread <= 1e-9 * block.mean(dim=0)).any(dim=0) & torch.isfinite(middle)
            good = torch.isfinite(middle) & ~doubtful
            mean[:, columns], variance[:, columns] = (average + middle).cpu().numpy(), spread.cpu().numpy()
            usable[columns] = good.cpu().numpy()
            for column in (columns.start + np.flatnonzero(doubtful.cpu().numpy())).tolist():
                values = [self._read(train, slice(column, column + 1)) for train in trains]
                usable[column] = all(bool(y.amax() > y.amin()) for y in values)
                mean[:, column] = [float(y.mean()) for y in values]
                variance[:, column] = [float(y.var(correction=0)) for y in values]

        workers.each(moments, [slice(a, min(a + tile, n_voxels)) for a in range(0, n_voxels, tile)])
        self.usable = usable
        self._voxels = np.flatnonzero(usable)
        self.n = len(self._voxels)
        self.mean, self.variance = mean[:, usable], variance[:, usable]

    def tiles(self, width: int) -> Iterator[slice]:
        """Yield runs of usable voxels."""
        for start in range(0, self.n, width):
            yield slice(start, min(start + width, self.n))

    def columns(self, voxels: Columns) -> Columns:
        """Return where usable voxels stand among all voxels."""
        chosen = self._voxels[voxels]
        first, last = (int(chosen[0]), int(chosen[-1])) if len(chosen) else (0, -1)
        return slice(first, last + 1) if last - first + 1 == len(chosen) and isinstance(voxels, slice) else chosen

    def read(self, rows: np.ndarray, voxels: Columns) -> torch.Tensor:
        """Return responses (row, voxel) as given, in float64, on the device."""
        return self._read(rows, self.columns(voxels))

    def standard(self, fold: int, rows: np.ndarray, voxels: Columns, dtype: torch.dtype) -> torch.Tensor:
        """Return responses (row, voxel) with the training mean taken off, divided by the training standard deviation."""
        size = self.size(fold, voxels)
        ordinary = bool(((size >= SMALLEST) & (size <= LARGEST)).all())
        block = self.centred(fold, rows, voxels, dtype if ordinary else torch.float64)
        return block.mul_(torch.from_numpy(1 / size).to(self.device, block.dtype)).to(dtype)

    def centred(self, fold: int, rows: np.ndarray, voxels: Columns, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """Return responses (row, voxel) with the training mean taken off: float64, or those given in float32 as such."""
        mean = torch.from_numpy(self.mean[fold, voxels])
        if dtype == torch.float32 and self._single:
            block = self._read(rows, self.columns(voxels), torch.float32)
            near = mean.float()  # the mean taken off in two parts, nothing is lost
            return block.sub_(near.to(self.device)).sub_((mean - near).float().to(self.device))
        return self.read(rows, voxels).sub_(mean.to(self.device))

    def size(self, fold: int, voxels: Columns) -> np.ndarray:
        """Return the training standard deviation (voxel,), 1 where it is too small for a number."""
        spread = np.sqrt(self.variance[fold, voxels])
        return np.asarray(np.where(spread > 0, spread, 1.0))

    def _read(self, rows: np.ndarray, columns: Columns, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        block = self._source[:, columns]
        if isinstance(block, torch.Tensor):
            block = block[_index(rows, block.device)]
        else:
            block = torch.from_numpy(
                np.asarray(block[rows], dtype=np.float32 if dtype == torch.float32 else np.float64)
            )
        return block.to(device=self.device, dtype=dtype)


def _index(rows: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows, dtype=np.int64)).to(device)
