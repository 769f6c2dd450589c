"""The penalty of least loss from losses at a few penalties: which ones to compute for a voxel. Loads torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from topobrain.stats.ridge.losses import TileLosses

PILOT = 256
"""Voxels whose losses are computed at every penalty, to learn how the losses of others hang together."""

CAUTION = 4.0
"""A prediction may be wrong by so many times the largest error seen among pilot voxels that it was not learned from; a voxel
may lie so many times as far out among them as the farthest pilot voxel."""

ROUNDING = 1e-6
"""Losses of float32 products differ by so much of the responses' variance, whatever the prediction."""


@dataclass(frozen=True)
class PenaltySearch:
    r"""Which penalties to try for a voxel, learned from the curves of pilot voxels.

    A loss is a smooth function of the penalty, and the curves of many voxels have much in common: the losses at a few
    penalties predict the others by least squares. For every voxel the losses at the *first* penalties are computed, the
    others predicted; those that may be the least, as far as predictions can be wrong, are computed too, and so are the
    neighbours of the best, as a check. A voxel unlike the pilot voxels (by its leverage in that least-squares fit), or one whose
    check fails, has all its losses computed. So every loss that is reported is computed, never predicted.

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
        known, held = given[:, ::2], given[:, 1::2]
        left, sizes, right = np.linalg.svd(known, full_matrices=False)
        keep = sizes > 1e-9 * sizes[0]
        inverse = (right[keep].T / sizes[keep]) @ left[:, keep].T
        weights = losses[:, ::2] @ inverse
        margin = CAUTION * np.abs(weights @ held - losses[:, 1::2]).max(axis=1) + ROUNDING * scale
        spread = (left[:, keep] / sizes[keep] ** 2) @ left[:, keep].T
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

    def run(self, tile: TileLosses) -> np.ndarray:
        """Return a tile's losses (penalty, voxel): infinite where not computed, which is never where they are least."""
        found = tile.at(self.first.tolist()).cpu().numpy()
        wanted, predicted = self.wanted(found)
        losses = np.full(predicted.shape, np.inf)
        losses[self.first] = found
        self._compute(tile, losses, wanted)
        again = self.wrong(predicted, np.where(wanted, losses, predicted))
        if again.any():
            self._compute(tile, losses, np.isinf(losses) & again)
        return losses

    @staticmethod
    def _compute(tile: TileLosses, losses: np.ndarray, wanted: np.ndarray) -> None:
        for number in np.flatnonzero(wanted.any(axis=1)).tolist():
            columns = np.flatnonzero(wanted[number])
            losses[number, columns] = tile.at([number], torch.from_numpy(columns)).cpu().numpy()[0]
