"""Permutations that move blocks of random rows as wholes, so that a thousand of them cost a few dozen products."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Int

from topobrain._checks import InputError

if TYPE_CHECKING:
    import torch

BLOCKS = range(20, 26)
"""Numbers of blocks to choose from. The spread of a null from k blocks rests on about (k - 1)**2 values, whose own error
(4 % at 20) is that of the spread of a thousand free permutations."""

FEWEST_ROWS = 400
"""Rows from which permuting blocks pays, and blocks are not too small."""


class BlockOrders(NamedTuple):
    r"""Permutations of rows from a group of few elements, drawn at random itself.

    Rows are dealt at random into blocks of equal size. A permutation puts whole blocks in each other's places (and the rows
    that are left over, fewer than there are blocks, in each other's). For any dealing these permutations are a group, so
    that a permutation test among them, the true order counted in, is exact where all orders are equally likely. And a sum
    over rows, :math:`\sum_i g_i y_{\pi(i)}`, is a sum over blocks of what a block adds at a place: a table of (place, block),
    from which every permutation adds up its own entries.

    On average one block stays in its place, and with it what is true of its rows: the null of responses that are predicted
    well lies a little above 0, by less than a twentieth of their score, so that tests err on the safe side.

    Attributes
    ----------
    blocks
        Rows of each block (block, row): what lies at place p in the true order.
    rest
        Rows in no block (row,).
    block_orders
        Block at each place (permutation, place).
    rest_orders
        Which of the left over rows lies in the place of each (permutation, row).
    """

    blocks: np.ndarray
    rest: np.ndarray
    block_orders: np.ndarray
    rest_orders: np.ndarray

    @property
    def rows(self) -> Int[np.ndarray, "permutation row"]:
        """The row whose value each row is given."""
        orders = np.empty((len(self.block_orders), self.blocks.size + self.rest.size), dtype=np.int64)
        orders[:, self.blocks.ravel()] = self.blocks[self.block_orders].reshape(len(orders), -1)
        orders[:, self.rest] = self.rest[self.rest_orders]
        return orders

    def entries(self) -> Int[np.ndarray, "permutation entry"]:
        """Return the rows of `table` that each permutation adds up."""
        n_blocks, n_rest = len(self.blocks), self.rest.size
        first = np.arange(n_blocks) * n_blocks + self.block_orders
        second = n_blocks**2 + np.arange(n_rest) * n_rest + self.rest_orders
        return np.hstack([first, second])

    def table(self, weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return what each block adds at each place to ``weights @ values`` (entry, output, column).

        Parameters
        ----------
        weights
            What each row counts (output, row).
        values
            One value a row (row, column).
        """
        import torch

        parts = []
        for places in (self.blocks, self.rest[:, None]):
            n, size = places.shape
            if not n:
                continue
            at = torch.from_numpy(places).to(values.device)
            # (place, output, row) x (row, block, column): one product for all pairs of places and blocks
            left = weights[:, at].permute(1, 0, 2).reshape(n * len(weights), size)
            right = values[at].permute(1, 0, 2).reshape(size, -1)
            product = (left @ right).view(n, len(weights), n, -1)
            parts.append(product.transpose(1, 2).reshape(n * n, len(weights), -1))
        return torch.cat(parts)


def block_orders(n_rows: int, n_permutations: int, seed: int) -> BlockOrders:
    """Deal rows into blocks and draw permutations of them.

    >>> orders = block_orders(450, 3, seed=0)
    >>> orders.blocks.shape, orders.rest.size
    ((25, 18), 0)

    Raises
    ------
    InputError
        Fewer rows than blocks, or fewer than one permutation.
    """
    if n_rows < BLOCKS[0]:
        raise InputError(f"{n_rows} rows cannot be dealt into {BLOCKS[0]} blocks")
    if isinstance(n_permutations, bool) or not isinstance(n_permutations, int | np.integer) or n_permutations < 1:
        raise InputError(f"n_permutations must be a whole number of 1 or more, got {n_permutations!r}")
    possible = [n for n in BLOCKS if n <= n_rows]
    n_blocks = min(possible, key=lambda n: (n_rows % n, n))
    rng = np.random.default_rng(seed)
    dealt = rng.permutation(n_rows)
    n_rest = n_rows % n_blocks
    moves = [rng.permuted(np.tile(np.arange(n), (n_permutations, 1)), axis=1) for n in (n_blocks, n_rest)]
    return BlockOrders(dealt[n_rest:].reshape(n_blocks, -1), dealt[:n_rest], *moves)
