"""The penalty of least loss from losses at a few penalties: which ones to compute for a voxel. Loads torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from topobrain.stats.ridge.losses import TileLosses

PILOT = 256
"""Voxels whose losses are computed at every penalty, to learn how the losses of others hang together."""

CAUTION = 4.0
"""A prediction may be wrong by so many times the largest error seen among pilot voxels that it was not learned from; a voxel
may lie so many times as far out among them as the farthest pilot voxel."""

REACH = 2
"""Computed penalties on either side of the best that tell the losses between them."""

ROUNDING = 1e-6
"""Losses of float32 products differ by so much of the responses' variance, whatever the prediction."""


class Counted:
    """A tile's losses, and how many of them were computed."""

    def __init__(self, tile: TileLosses) -> None:
        self._tile, self.count = tile, 0

    def at(self, numbers: Sequence[int] | None, columns: torch.Tensor | None = None) -> torch.Tensor:
        """Return what the tile returns."""
        found = self._tile.at(numbers, columns)
        self.count += found.numel()
        return found


@dataclass(frozen=True)
class PenaltySearch:
    r"""Which penalties to try for a voxel, learned from the curves of pilot voxels.

    A loss is a smooth function of the penalty, and the curves of many voxels have much in common: the losses at a few
    penalties predict the others by least squares. For every voxel the losses at the *first* penalties are computed, the
    others predicted; those that may be the least, as far as predictions can be wrong, are computed too, and so are the
    neighbours of the best, as a check. A voxel unlike the pilot voxels (by its leverage in that least-squares fit), or one whose
    check fails, has all its losses computed. So the loss that is reported is computed, not predicted.

    Attributes
    ----------
    first
        Penalties that every voxel is tried at.
    weights
        (penalty, 1 + first): predicts all losses from ``scale`` and the losses at the first.
    margin
        How far a prediction may be wrong (penalty,).
    spread, farthest
        ``a' spread a`` of ``scale`` and a voxel's first losses is how far out it lies; beyond ``farthest`` it is unlike the
        pilots.
    scale
        Loss of a prediction by nothing.
    """

    first: np.ndarray
    weights: np.ndarray
    margin: np.ndarray
    spread: np.ndarray
    farthest: float
    scale: float

    @classmethod
    def learn(cls, losses: np.ndarray, scale: float) -> PenaltySearch | None:
        """Learn from losses at every penalty (penalty, pilot voxel); None if it saves nothing.

        Every other voxel is learned from, the rest tell the errors. The first penalties are added one by one, each time the
        one with which the fewest losses would have to be computed.

        Parameters
        ----------
        losses
            Of the pilot voxels.
        scale
            Loss of a prediction by nothing: losses are compared beside it.
        """
        n = len(losses)
        first: list[int] = []
        best: tuple[float, PenaltySearch] | None = None
        while len(first) < n // 2:
            tries = []
            for number in sorted(set(range(n)) - set(first)):
                search = cls._with(sorted([*first, number]), losses, scale)
                tries.append((float(search._computed(losses).sum(axis=0).mean()), number, search))
            count, number, search = min(tries, key=lambda one: one[:2])
            first.append(number)
            if best is None or count < best[0]:
                best = (count, search)
            elif len(first) > len(best[1].first) + 1:
                break
        return None if best is None or best[0] > 0.8 * n else best[1]

    @classmethod
    def _with(cls, first: list[int], losses: np.ndarray, scale: float) -> PenaltySearch:
        given = np.vstack([np.full(losses.shape[1], scale), losses[first]])
        weights, missed, spread = _regress(given, losses)
        margin = CAUTION * missed + ROUNDING * scale
        out = np.einsum("iv,ij,jv->v", given, spread, given)
        return cls(np.array(first), weights, margin, spread, CAUTION * float(out.max()), scale)

    def wanted(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which penalties are to be computed next (penalty, voxel), and the losses predicted at all.

        Parameters
        ----------
        found
            Losses at the first penalties (first, voxel).
        """
        given = np.vstack([np.full(found.shape[1], self.scale), found])
        predicted = self.weights @ given
        out = np.einsum("iv,ij,jv->v", given, self.spread, given)
        wanted = predicted - self.margin[:, None] <= found.min(axis=0)
        voxels, best = np.arange(found.shape[1]), self.first[found.argmin(axis=0)]
        for neighbour in (best - 1, best + 1):
            inside = (neighbour >= 0) & (neighbour < len(wanted))
            wanted[neighbour[inside], voxels[inside]] = True
        wanted[:, out > self.farthest] = True
        wanted[self.first] = False
        return wanted, predicted

    def wrong(self, predicted: np.ndarray, computed: np.ndarray) -> np.ndarray:
        """Return the voxels (voxel,) with a loss that its prediction missed by more than the margin."""
        return np.asarray((np.abs(computed - predicted) > self.margin[:, None]).any(axis=0))

    def _computed(self, losses: np.ndarray) -> np.ndarray:
        """Return which of these losses a search would compute (penalty, voxel)."""
        wanted, predicted = self.wanted(losses[self.first])
        wanted[:, self.wrong(predicted, np.where(wanted, losses, predicted))] = True
        wanted[self.first] = True
        return wanted

    def run(self, tile: TileLosses) -> tuple[np.ndarray, np.ndarray]:
        """Return a tile's losses (penalty, voxel), infinite where not computed, which is never where they are least; twice."""
        losses, _ = self.computed_and_predicted(tile)
        return losses, losses

    def computed_and_predicted(self, tile: TileLosses) -> tuple[np.ndarray, np.ndarray]:
        """Return a tile's losses, as `run` does, and those predicted at all penalties."""
        found = tile.at(self.first.tolist()).cpu().numpy()
        wanted, predicted = self.wanted(found)
        losses = np.full(predicted.shape, np.inf)
        losses[self.first] = found
        compute(tile, losses, wanted)
        again = self.wrong(predicted, np.where(wanted, losses, predicted))
        if again.any():
            compute(tile, losses, np.isinf(losses) & again)
        return losses, predicted


CELL_ERROR = 1e-5
"""Largest error, beside the responses' variance, seen in a loss between penalties where the least loss is looked for there."""


@dataclass(frozen=True)
class Cell:
    """Losses between two penalties that were computed, from those around them.

    Attributes
    ----------
    near
        Computed penalties that tell the most (near,).
    between
        Penalties of the long grid that lie around the middle one of these (between,).
    weights
        (between, 1 + near); None where they miss by more than `CELL_ERROR`.
    """

    near: np.ndarray
    between: np.ndarray
    weights: np.ndarray | None


@dataclass(frozen=True)
class LongSearch:
    """A search on a long grid, whose losses are all interpolated from those at a few of its penalties, the nodes.

    The node of least loss is searched for first. The losses between its neighbours then follow from the nodes nearest to it and
    from the first ones, by least squares over the pilot voxels, so that the other nodes are not needed. Where that misses by
    more than `CELL_ERROR` in pilot voxels it was not learned from, for voxels unlike these, and where there is a second valley
    that may be as deep between its nodes, all nodes are computed.

    Attributes
    ----------
    nodes
        The search among the nodes.
    cells
        One for each node.
    interpolation
        (penalty, node).
    depth
        How far a loss between nodes may lie below those at the nodes.
    """

    nodes: PenaltySearch
    cells: tuple[Cell, ...]
    interpolation: np.ndarray
    depth: float

    @property
    def first(self) -> np.ndarray:
        """Nodes that every voxel is tried at."""
        return self.nodes.first

    @classmethod
    def learn(cls, losses: np.ndarray, scale: float, rows: np.ndarray, interpolation: np.ndarray) -> LongSearch | None:
        """Learn from the losses of pilot voxels at the nodes (node, pilot voxel), which are these ``rows`` of the grid."""
        search = PenaltySearch.learn(losses, scale)
        if search is None:
            return None
        fine, n = interpolation @ losses, len(losses)
        cells = []
        for node in range(n):
            close = range(max(node - REACH, 0), min(node + REACH + 1, n))
            near = np.array(sorted({*close, *search.first.tolist()}))
            between = np.arange(rows[max(node - 1, 0)], rows[min(node + 1, n - 1)] + 1)
            given = np.vstack([np.full(losses.shape[1], scale), losses[near]])
            weights, missed, _ = _regress(given, fine[between])
            cells.append(Cell(near, between, weights if missed.max() <= CELL_ERROR * scale else None))
        depth = CAUTION * float((losses.min(axis=0) - fine.min(axis=0)).max())
        return cls(search, tuple(cells), interpolation, depth)

    def run(self, tile: TileLosses) -> tuple[np.ndarray, np.ndarray]:
        """Return a tile's losses (penalty, voxel), infinite where they cannot be least, and the computed ones (node, voxel)."""
        found, predicted = self.nodes.computed_and_predicted(tile)
        best = found.argmin(axis=0)
        strange = np.isfinite(found).all(axis=0) | self._second_valley(
            np.where(np.isinf(found), predicted, found), best
        )
        losses = np.full((len(self.interpolation), found.shape[1]), np.inf)
        for node in np.unique(best[~strange]).tolist():
            cell, voxels = self.cells[node], np.flatnonzero((best == node) & ~strange)
            if cell.weights is None:
                strange[voxels] = True
                continue
            wanted = np.zeros(found.shape, dtype=bool)
            wanted[np.ix_(cell.near, voxels)] = True
            compute(tile, found, wanted & np.isinf(found))
            given = np.vstack([np.full(len(voxels), self.nodes.scale), found[np.ix_(cell.near, voxels)]])
            losses[np.ix_(cell.between, voxels)] = cell.weights @ given
        compute(tile, found, np.isinf(found) & strange)
        losses[:, strange] = self.interpolation @ found[:, strange]
        return losses, found

    def _second_valley(self, curves: np.ndarray, best: np.ndarray) -> np.ndarray:
        """Return a mask (voxel,) of curves (node, voxel) with another minimum nearly as deep as the best."""
        walls = np.pad(curves, ((1, 1), (0, 0)), constant_values=np.inf)
        valley = (curves <= walls[:-2]) & (curves <= walls[2:])
        valley &= np.abs(np.arange(len(curves))[:, None] - best) > 1
        return np.asarray(
            (valley & (curves - self.nodes.margin[:, None] <= curves.min(axis=0) + self.depth)).any(axis=0)
        )


def compute(tile: TileLosses, losses: np.ndarray, wanted: np.ndarray) -> None:
    """Write the losses that are wanted (penalty, voxel) into ``losses``."""
    for number in np.flatnonzero(wanted.any(axis=1)).tolist():
        columns = np.flatnonzero(wanted[number])
        losses[number, columns] = tile.at([number], torch.from_numpy(columns)).cpu().numpy()[0]


def _regress(given: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return least-squares weights from every other voxel, the largest errors in the rest (row of ``wanted``,), and the spread.

    The spread (given, given) is the inverse of the products of the voxels learned from: what gives a voxel's leverage.
    """
    left, sizes, right = np.linalg.svd(given[:, ::2], full_matrices=False)
    keep = sizes > 1e-9 * sizes[0]
    left, sizes, right = left[:, keep], sizes[keep], right[keep]
    weights = wanted[:, ::2] @ ((right.T / sizes) @ left.T)
    return weights, np.abs(weights @ given[:, 1::2] - wanted[:, 1::2]).max(axis=1), (left / sizes**2) @ left.T
