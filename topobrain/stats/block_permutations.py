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

    @property
    def n_entries(self) -> int:
        """Rows of a `table`: a place each of every block, and likewise of the rows left over."""
        return len(self.blocks) ** 2 + self.rest.size**2

    def entries(self) -> Int[np.ndarray, "permutation entry"]:
        """Return the rows of `table` that each permutation adds up."""
        n_blocks, n_rest = len(self.blocks), self.rest.size
        first = np.arange(n_blocks) * n_blocks + self.block_orders
        second = n_blocks**2 + np.arange(n_rest) * n_rest + self.rest_orders
        return np.hstack([first, second])

    def placed(self, weights: torch.Tensor) -> list[torch.Tensor]:
        """Return what each row counts (output, row) by places: (place, output, row of it), and so for rows left over."""
        return [weights[:, rows].transpose(0, 1).contiguous() for rows in self._kinds(weights)]

    def dealt(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Return one value a row (row, column) by blocks: (row of it, block, column), and so for rows left over."""
        return [values[rows].transpose(0, 1).contiguous() for rows in self._kinds(values)]

    def table(
        self, placed: list[torch.Tensor], dealt: list[torch.Tensor], dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """Return what each block adds at each place to ``weights @ values`` (entry, output, column).

        Parameters
        ----------
        placed, dealt
            What `placed` makes of the weights, and `dealt` of the values.
        dtype
            Of the table (default: that of the values).
        """
        import torch

        shape = placed[0].shape[1], dealt[0].shape[2]
        table = torch.empty(self.n_entries, *shape, dtype=dtype or dealt[0].dtype, device=dealt[0].device)
        first = 0
        for left, right in zip(placed, dealt, strict=True):
            n, n_outputs, size = left.shape
            # (place, output, row) x (row, block, column): one product for all pairs of places and blocks
            product = (left.view(-1, size) @ right.view(size, -1)).view(n, n_outputs, n, -1)
            table[first : first + n * n].view(n, n, *shape).copy_(product.transpose(1, 2))
            first += n * n
        return table

    def _kinds(self, like: torch.Tensor) -> list[torch.Tensor]:
        """Return the rows of blocks, and of what is left over as blocks of one row, if any (block, row of it)."""
        import torch

        kinds = [self.blocks, self.rest[:, None]] if self.rest.size else [self.blocks]
        return [torch.from_numpy(rows).to(like.device) for rows in kinds]


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
