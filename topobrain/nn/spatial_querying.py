"""Spatial querying: attention whose queries are pooled over neighbouring units of the sheet."""

from __future__ import annotations

from typing import Any, overload

import torch
from torch import Tensor, nn

from topobrain._checks import InputError
from topobrain.nn.pools import (
    PoolKind,
    disc,
    disc_radius,
    is_square,
    nearest_square,
    normalised_pool,
    require_units,
    same_recipe,
    square_sheet,
    square_torus,
)
from topobrain.sheet import Sheet

__all__ = ["SpatialQuerying", "disc", "head_sheet", "square_torus"]


def head_sheet(d: int, n_heads: int, *, wrapped: bool = True) -> Sheet:
    """Return the square sheet that the units of one of ``n_heads`` heads fill, of ``d`` units in all.

    Raises
    ------
    InputError
        ``n_heads`` does not divide ``d``, or a head's share is no square number.
    """
    width = head_width(d, n_heads)
    if not is_square(width):
        near = nearest_square(width)
        raise InputError(
            f"a grid for each head needs a square number of units a head, got {d} / {n_heads} = {width}; nearest: {near} "
            f"({near * n_heads} units in all), or let the heads share one sheet (shared_sheet=True)"
        )
    return square_sheet(width, wrapped=wrapped)


def head_width(d: int, n_heads: int) -> int:
    """Return the number of units of a head."""
    require_units(d)
    if isinstance(n_heads, bool) or not isinstance(n_heads, int):
        raise InputError(f"the number of heads is a whole number, got {n_heads!r}")
    if n_heads < 1 or d % n_heads:
        fits = [n for n in range(1, d + 1) if d % n == 0]
        near = min(fits, key=lambda n: (abs(n - n_heads), n))
        raise InputError(f"{n_heads} heads do not divide {d} units equally; nearest number of heads: {near}")
    return d // n_heads


class SpatialQuerying(nn.Module):
    r"""Pool queries over neighbouring units before they meet the keys.

    :math:`S = (q \tilde M) k^T / \sqrt d` with :math:`\tilde M = M / \|M\|_F`, M a disc on a torus. The pool runs over
    units, not tokens, so masks of tokens (padding, causal) act as in any attention. It folds into the query weight
    (`fold`): it constrains no function and costs nothing at inference; topography comes from training with it.

    The smallest disc is *standard* attention (logits divided by :math:`\sqrt d`), the widest is attention of *rank one*.

    Parameters
    ----------
    d
        Units of all heads together. A square number for one head or a shared sheet; else ``d / n_heads`` is one.
    fraction
        The disc's share of the sheet's *area*; its radius is ``sqrt(fraction / pi)`` sides (`pools.disc_radius`).
    n_heads
        Attention heads.
    shared_sheet
        Pool over one sheet of all ``d`` units, which is split into heads afterwards (head h takes the h-th
        share of its units). By default every head has a sheet of its own: the pool is block-diagonal.
    pool
        ``"disc"``; ``"gaussian"``, positive-definite and as wide as the disc (`pools.gaussian`); or ``"learned"``, a
        disc times a learned gain for each pooled unit, which starts at 1.
    wrapped
        False for sheets with an open border instead of tori.

    Attributes
    ----------
    sheet
        The sheet of one pool: of a head, or of all heads.
    pool
        :math:`\tilde M` of that sheet (unit, unit), a buffer.

    Raises
    ------
    InputError
        A fraction not in (0, 2 pi], units that fill no square, heads that do not divide the units.

    References
    ----------
    BinHuraib, Tuckute & Blauch (2024), Topoformer, arXiv 2510.18745.

    Examples
    --------
    >>> layer = SpatialQuerying(400, 0.1)
    >>> layer(torch.zeros(2, 7, 400)).shape, int((layer.pool[0] > 0).sum())
    (torch.Size([2, 7, 400]), 37)
    """

    pool: Tensor

    def __init__(
        self,
        d: int,
        fraction: float,
        *,
        n_heads: int = 1,
        shared_sheet: bool = False,
        pool: PoolKind = "disc",
        wrapped: bool = True,
    ) -> None:
        super().__init__()
        head_width(d, n_heads)
        one_sheet = shared_sheet or n_heads == 1
        self.sheet = square_sheet(d, wrapped=wrapped) if one_sheet else head_sheet(d, n_heads, wrapped=wrapped)
        self.d, self.n_heads, self.shared_sheet, self.kind = d, n_heads, shared_sheet, pool
        disc_radius(fraction)  # refuses what is no share of an area
        self.fraction = float(fraction)
        self.register_buffer("pool", torch.tensor(normalised_pool(pool, self.sheet, fraction)))
        self.gain = nn.Parameter(torch.ones(d)) if pool == "learned" else None

    def forward(self, queries: Tensor) -> Tensor:
        """Return pooled queries; the last axis is the unit, of all heads one after the other."""
        if queries.shape[-1] != self.d:
            raise InputError(f"queries have {queries.shape[-1]} units in their last axis, this pool has {self.d}")
        sheets = queries.reshape(*queries.shape[:-1], self.d // self.sheet.n_units, self.sheet.n_units)
        pooled = (sheets @ self.pool.to(queries.dtype)).flatten(-2)
        return pooled if self.gain is None else pooled * self.gain.to(queries.dtype)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        same_recipe(self.pool, state_dict.get(f"{prefix}pool"), f"{prefix}pool", self.extra_repr(), rest[-1])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def matrix(self) -> Tensor:
        """The whole pool (unit, unit pooled): block-diagonal with a sheet a head, columns scaled by a learned gain."""
        sheets = torch.eye(self.d // self.sheet.n_units, dtype=self.pool.dtype, device=self.pool.device)
        blocks = torch.kron(sheets, self.pool)
        return blocks if self.gain is None else blocks * self.gain

    @overload
    def fold(self, weight: Tensor) -> Tensor: ...

    @overload
    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]: ...

    def fold(self, weight: Tensor, bias: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Return the query weight (unit out, unit in), and the bias if given, that give pooled queries directly."""
        folded: Tensor = self(weight.T).T
        return folded if bias is None else (folded, self(bias))

    def extra_repr(self) -> str:
        """Return the pool's recipe."""
        heads = f", n_heads={self.n_heads}, shared_sheet={self.shared_sheet}" if self.n_heads > 1 else ""
        return f"d={self.d}, fraction={self.fraction}, pool={self.kind!r}, wrapped={self.sheet.wrapped}{heads}"
