"""Spatial querying: attention whose queries are pooled over neighbouring units of the sheet."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from topobrain._checks import InputError
from topobrain.sheet import Sheet


def square_torus(d: int) -> Sheet:
    """Return the wrapped square sheet of ``d`` units that queries, keys, values and the output share."""
    side = math.isqrt(d)
    if side * side != d:
        near = side if d - side * side <= (side + 1) ** 2 - d else side + 1
        raise InputError(
            f"a topographic attention layer needs a square number of units, got {d}; nearest: {near * near}"
        )
    return Sheet.grid(side, side, wrapped=True)


def disc(sheet: Sheet, fraction: float) -> np.ndarray:
    """Return the 0/1 disc mask (unit, unit): pairs no further apart than ``sqrt(fraction / pi)`` sides of the sheet.

    ``fraction`` is an *area* (share of the unit square), not a radius. The diagonal is always 1; from ``pi / 2`` on
    the disc covers the whole torus.
    """
    if not fraction > 0 or not math.isfinite(fraction):
        raise InputError(f"fraction is the disc's share of the sheet's area, above 0; got {fraction}")
    radius = math.sqrt(fraction / math.pi) * sheet.width * sheet.spacing
    return np.asarray(sheet.distances() <= radius + 1e-9, dtype=np.float32)


class SpatialQuerying(nn.Module):
    r"""Pool queries over a disc of neighbouring units before they meet the keys.

    :math:`S = (q \tilde M) k^T / \sqrt d` with :math:`\tilde M = M / \|M\|_F`, M the disc mask on a torus. The pool
    runs over units, not tokens. It folds into the query weight (`fold`), so it costs nothing at inference.

    Parameters
    ----------
    d
        Units of the (single) head; a square number.
    fraction
        The disc's share of the sheet's area; its radius is ``sqrt(fraction / pi)`` sides.

    References
    ----------
    BinHuraib, Tuckute & Blauch (2024), Topoformer, arXiv 2510.18745.
    """

    pool: Tensor

    def __init__(self, d: int, fraction: float) -> None:
        super().__init__()
        self.sheet = square_torus(d)
        self.fraction = float(fraction)
        mask = disc(self.sheet, fraction)
        self.register_buffer("pool", torch.from_numpy(mask / np.linalg.norm(mask)))

    def forward(self, queries: Tensor) -> Tensor:
        """Return pooled queries; the last axis is the unit."""
        return queries @ self.pool.to(queries.dtype)

    def fold(self, weight: Tensor) -> Tensor:
        """Return the query weight (unit out, unit in) that gives pooled queries directly."""
        return self.pool.to(weight.dtype).T @ weight

    def extra_repr(self) -> str:
        """Return the pool's recipe."""
        return f"d={self.sheet.n_units}, fraction={self.fraction}"
