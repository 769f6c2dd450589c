"""The penalty of every voxel: least loss in inner folds, or leave-one-out. Loads torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from topobrain.stats.ridge.losses import Inner, Losses, Rotations, Route, Triangles, cheaper_route
from topobrain.stats.ridge.memory import FEWEST_PENALTIES, FEWEST_VOXELS, SEARCHED
from topobrain.stats.ridge.penalty_search import PILOT, Counted, LongSearch, PenaltySearch
from topobrain.stats.ridge.skeleton import Skeleton, every_penalty, make_skeleton
from topobrain.stats.ridge.targets import Columns, Targets
from topobrain.stats.ridge.workers import Workers

TINY_LOSS = 0.05
"""Below this share of the variance a loss is computed at every penalty from its residuals: short cuts would blur it."""

SMALL_SHARE = 0.01
"""The same for interpolated losses, beside the largest of any voxel: it tells how large residuals can be made."""

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
"""What interpolation over penalties may leave out, beside the responses' variance."""

HARDLY_FEWER = 0.5
"""Where interpolation needs more than this share of the penalties, a search does with fewer."""


@dataclass(frozen=True)
class Choice:
    """The chosen penalty (its number in the grid) and the loss there, of each usable voxel."""

    index: np.ndarray
    loss: np.ndarray
    route: str


@dataclass(frozen=True)
class Room:
    """How much is done at a time.

    Attributes
    ----------
    tile
        Voxels.
    alphas
        Triangles held at once; 0 for the route without them.
    """

    tile: int
    alphas: int


def choose(
    inner: Inner,
    grid: np.ndarray,
    targets: Targets,
    fold: int,
    workers: Workers,
    room: Room,
) -> Choice:
    """Choose each voxel's penalty by its squared error over the validation rows; ties go to the lowest penalty."""
    alphas = torch.from_numpy(grid).to(targets.device)
    weights = inner.weights(alphas)
    possible = np.ones(grid.size, bool) if weights is None else torch.isfinite(weights).all(dim=1).cpu().numpy()
    total = np.full((grid.size, targets.n), np.inf)
    if not possible.any():
        return Choice(np.zeros(targets.n, dtype=np.int64), total[0], "none")
    job = _Job(inner, alphas[possible], None if weights is None else weights[possible], targets, fold, workers, room)
    total[possible], blur, told = job.losses()
    doubtful = np.flatnonzero(total.min(axis=0) < blur)
    if doubtful.size:
        total[np.ix_(possible, doubtful)] = job.exact(doubtful)
    index = total.argmin(axis=0)
    loss = total[index, np.arange(targets.n)] / inner.n_validated
    return Choice(index, loss * targets.size(fold, slice(0, targets.n)) ** 2, f"{told}/{grid.size}")


@dataclass(frozen=True)
class _Job:
    """One outer fold's losses at its possible penalties."""

    inner: Inner
    alphas: torch.Tensor
    weights: torch.Tensor | None
    targets: Targets
    fold: int
    workers: Workers
    room: Room

    def losses(self) -> tuple[np.ndarray, np.ndarray, str]:
        """Return losses (penalty, voxel), the loss of each voxel (voxel,) below which they are blurred, and how they were made.

        Every penalty is computed for few voxels; for many, those that a search asks for (the others are infinite); on a
        long grid, a few for all, and the others interpolated.
        """
        n, n_voxels = len(self.alphas), self.targets.n
        skeleton = self._skeleton()
        few = skeleton.rows
        if n >= FEWEST_PENALTIES and n_voxels >= FEWEST_VOXELS:
            if len(few) > HARDLY_FEWER * n:
                skeleton = every_penalty(n)
                few = skeleton.rows
            route = cheaper_route(self.inner, len(few), n_voxels, SEARCHED * len(few))
            if route == "rotated" or self.room.alphas >= len(few):
                some = torch.from_numpy(few).to(self.alphas.device)
                weights = None if self.weights is None else self.weights[some]
                losses = self._ready(route, self.alphas[some], weights, mixed=False)
                found, blur, tried = self._searched(losses, skeleton)
                return found, blur, f"{route} {tried:.1f}"
        route = cheaper_route(self.inner, len(few), n_voxels) if self.room.alphas else "rotated"
        found, blurred = self._everywhere(route, few)
        blur = self._blur(found, blurred, skeleton)
        return found if skeleton.weights is None else skeleton.weights @ found, blur, f"{route} {len(few)}"

    def _blur(self, found: np.ndarray, blurred: bool, skeleton: Skeleton) -> np.ndarray:
        """Return the loss (voxel,) below which losses have too few digits: beside the variance, beside the largest of all.

        ``found`` are losses (penalty, voxel), infinite where not computed.
        """
        blur = np.full(found.shape[1], TINY_LOSS * self.inner.n_validated * (blurred or skeleton.weights is not None))
        if skeleton.weights is None:
            return blur
        return np.asarray(np.maximum(blur, SMALL_SHARE * found.max(where=np.isfinite(found), initial=0.0)))

    def exact(self, voxels: np.ndarray) -> np.ndarray:
        """Return losses (penalty, voxel) from residuals at every penalty, without any short cut."""
        losses = Rotations(self.inner, self.alphas, self.weights, self.workers, exact=True, mixed=False)
        found = np.empty((len(self.alphas), len(voxels)))

        def tile(start: int) -> None:
            some = slice(start, start + self.room.tile)
            found[:, some] = losses.tile(self._responses(voxels[some])).at(None).cpu().numpy()

        self.workers.each(tile, range(0, len(voxels), self.room.tile))
        return found

    def _skeleton(self) -> Skeleton:
        grid, tolerance = self.alphas.cpu().numpy(), TOLERANCE[self.inner.dtype]
        whole = self.inner.whole
        bases = [part.basis for part in self.inner.parts] if whole is None else [whole]
        values = [basis.eigenvalues for basis in bases if basis.rank]
        if not values or self.inner.leave_one_out:  # the leverages of leave-one-out leave the span
            return every_penalty(grid.size)
        lowest, highest = min(float(v[0]) for v in values), max(float(v[-1]) for v in values)
        if whole is not None and whole.rank < len(self.inner.rows) - 1:
            # rows left out may leave next to nothing of a direction; below this the filters are proportional to each other
            lowest = min(lowest, float(grid.min()) * tolerance**0.5)
        return make_skeleton(grid, lowest, highest, tolerance=tolerance)

    def _responses(self, voxels: Columns) -> torch.Tensor:
        return self.targets.standard(self.fold, self.inner.rows, voxels, self.inner.dtype)

    def _ready(
        self, route: Route, alphas: torch.Tensor, weights: torch.Tensor | None, *, mixed: bool
    ) -> Triangles | Rotations:
        if route == "triangular":
            return Triangles(self.inner, alphas, weights, self.workers)
        return Rotations(self.inner, alphas, weights, self.workers, mixed=mixed)

    def _everywhere(self, route: Route, few: np.ndarray) -> tuple[np.ndarray, bool]:
        """Return losses (penalty, voxel) at some penalties, as many at once as there is room for, and whether blurred."""
        step = self.room.alphas if route == "triangular" else len(few)
        total, blurred = np.empty((len(few), self.targets.n)), False
        for start in range(0, len(few), step):
            some = torch.from_numpy(few[start : start + step]).to(self.alphas.device)
            weights = None if self.weights is None else self.weights[some]
            losses = self._ready(route, self.alphas[some], weights, mixed=True)
            blurred |= losses.blurred

            def tile(voxels: slice, losses: Losses = losses, start: int = start) -> None:
                found = losses.tile(self._responses(voxels)).at(None).cpu().numpy()
                total[start : start + len(found), voxels] = found

            self.workers.each(tile, self.targets.tiles(self.room.tile))
        return total, blurred

    def _searched(self, losses: Triangles | Rotations, skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray, float]:
        """Return losses (penalty, voxel), infinite where they cannot be least, their blur, and how many a voxel were computed."""
        pilots = np.unique(np.linspace(0, self.targets.n - 1, PILOT).astype(int))
        known, scale = losses.tile(self._responses(pilots)).at(None).cpu().numpy(), float(self.inner.n_validated)
        search: PenaltySearch | LongSearch | None
        if skeleton.weights is None:
            search = PenaltySearch.learn(known, scale)
        else:
            search = LongSearch.learn(known, scale, skeleton.rows, skeleton.weights)
        if search is not None and isinstance(losses, Triangles):
            losses.lead(search.first.tolist())
        total, blur = np.empty((len(self.alphas), self.targets.n)), np.empty(self.targets.n)

        def tile(voxels: slice) -> float:
            ready = Counted(losses.tile(self._responses(voxels)))
            if search is None:
                found = ready.at(None).cpu().numpy()
                total[:, voxels] = found if skeleton.weights is None else skeleton.weights @ found
            else:
                total[:, voxels], found = search.run(ready)
            blur[voxels] = self._blur(found, losses.blurred, skeleton)
            return ready.count

        return total, blur, sum(self.workers.each(tile, self.targets.tiles(self.room.tile))) / self.targets.n
