"""Correlations of refitted predictions with permuted responses, tile by tile, on several threads. Loads torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from topobrain._checks import InputError
from topobrain.stats.block_permutations import BlockOrders
from topobrain.stats.folds import Folds
from topobrain.stats.permuted_orders import DEFAULT_MEMORY
from topobrain.stats.ridge import hat_matrices
from topobrain.stats.ridge.memory import readable
from topobrain.stats.ridge.spectrum import eigh
from topobrain.stats.ridge.workers import Workers

VOXEL_TILE = 256
"""Voxels of one task: enough of them that threads do not wait for each other, few enough for many tasks."""

PRODUCT_VALUES = 2**20
"""Values of one product of permuted responses: bounds memory, and keeps products in a processor's cache."""

TABLE_VOXELS = 32
"""Voxels of one table of blocks."""

TABLE_BYTES = 2**19
"""Size of one table of blocks: it stays in a processor's second cache."""

ORDERS_AT_ONCE = 1024
"""Permutations added up from a table at a time."""

HALF_SHARE = 1e-3
"""Share of predictions that may be left out from which rounding to float16, a third of it, does not count."""

NORM_VOXELS = 64
"""Voxels whose sums of squares are added up at a time."""

BASIS_PAYS = 0.66
"""Share of the test rows below which taking permuted responses into a basis costs less than more outputs (measured)."""

Take = Callable[[int, np.ndarray, np.ndarray], None]
"""What takes the scores of a tile: number of the fold, voxels (voxel,), scores (permutation, voxel)."""


class Operator(NamedTuple):
    """What turns responses into the two sides of a correlation: ``given @ y_train`` and ``wanted @ y_test``.

    ``wanted`` is None where it is the identity. Both sides have the same inner products as centred predictions and
    centred responses; predictions are scaled to size one for white responses.
    """

    given: torch.Tensor
    wanted: torch.Tensor | None


def make_operator(hat: np.ndarray, share: float) -> Operator | None:
    """Return a prediction operator (test, train) with its means over test rows taken out, or None if nothing is left.

    ``share`` is the part of its Frobenius norm that may be left out.
    """
    centred = torch.from_numpy(np.asarray(hat, dtype=np.float64))
    centred = centred - centred.mean(dim=0)
    size = float(torch.linalg.vector_norm(centred))
    if size <= 1e-12:
        return None
    centred /= size
    if share > 0:
        products = centred @ centred.T
        left_out = torch.linalg.eigvalsh(products).clamp_min(0.0).cumsum(0)  # eigenvalues ascend, and sum to 1
        rank = max(1, int((left_out > share**2).sum()))
        if rank < BASIS_PAYS * len(centred):  # in a basis, the test responses cost a product too
            basis = eigh(products)[1][:, -rank:].T.contiguous()
            return Operator(basis @ centred, basis)
    return Operator(centred, None)


@runtime_checkable
class Permuting(Protocol):
    """What one fold's tiles have in common: permuted test and training rows, and how products with them are made."""

    def prepared(self, operator: Operator) -> list[Step]:
        """Return an operator as the products need it."""
        ...

    def norm(self, responses: torch.Tensor) -> torch.Tensor:
        """Return the norm of permuted, centred test responses (permutation, voxel); inf where they are constant."""
        ...

    def inner(self, steps: list[Step], responses: torch.Tensor) -> torch.Tensor:
        """Return inner products of predictions of size one with test responses (permutation, voxel)."""
        ...


class Step(NamedTuple):
    """Some outputs of an operator, arranged for products; ``rows`` are the permuted test rows they are compared with."""

    given: list[torch.Tensor]
    wanted: list[torch.Tensor] | None
    rows: torch.Tensor | None


class RowsOfFold:
    """Responses permuted row by row, each product made anew: any orders."""

    def __init__(self, orders: torch.Tensor, train: np.ndarray, test: np.ndarray) -> None:
        self.orders, self.n_test = orders, len(test)
        self.rows = torch.from_numpy(np.concatenate([train, test])).to(orders.device)
        self.inside = torch.zeros(orders.shape, dtype=torch.float64, device=orders.device)
        self.inside.scatter_(1, orders[:, self.rows[len(train) :]], 1.0)

    @staticmethod
    def working_bytes(n_permutations: int, n_rows: int) -> tuple[int, int]:
        """Return bytes of one fold, and of each thread at work."""
        product = max(PRODUCT_VALUES, n_rows * VOXEL_TILE)
        return 8 * n_permutations * n_rows, 12 * product + 28 * n_permutations * VOXEL_TILE

    def prepared(self, operator: Operator) -> list[Step]:
        """Return an operator as one step."""
        given = operator.given.float().to(self.orders.device)
        wanted = None if operator.wanted is None else [operator.wanted.float().to(self.orders.device)]
        return [Step([given], wanted, None)]

    def norm(self, responses: torch.Tensor) -> torch.Tensor:
        """Return the norm of permuted, centred test responses (permutation, voxel); inf where they are constant."""
        wide = responses.double()
        return _norm(self.inside @ wide, self.inside @ (wide * wide), self.n_test)

    def inner(self, steps: list[Step], responses: torch.Tensor) -> torch.Tensor:
        """Return inner products of predictions of size one with test responses (permutation, voxel)."""
        (step,) = steps
        n_voxels, n_train = responses.shape[1], len(self.rows) - self.n_test
        batch = max(1, PRODUCT_VALUES // (len(self.rows) * n_voxels))
        found = []
        for start in range(0, len(self.orders), batch):
            part = self.orders[start : start + batch].index_select(1, self.rows)
            moved = responses.index_select(0, part.T.reshape(-1)).view(len(self.rows), -1)
            predicted, wanted = step.given[0] @ moved[:n_train], moved[n_train:]
            if step.wanted is not None:
                wanted = step.wanted[0] @ wanted
            size, along = (predicted * predicted).sum(dim=0), (predicted * wanted).sum(dim=0)
            found.append(_along_predictions(along, size).view(len(part), n_voxels))
        return torch.cat(found)


class BlocksOfFold:
    """Blocks of rows permuted as wholes: what each adds at each place is worked out once, then added up by orders."""

    def __init__(
        self,
        blocks: BlockOrders,
        orders: torch.Tensor,
        entries: torch.Tensor,
        train: np.ndarray,
        test: np.ndarray,
        dtype: torch.dtype,
    ) -> None:
        self.blocks, self.entries, self.train, self.test, self.n_rows = blocks, entries, train, test, orders.shape[1]
        self.dtype = dtype
        self.outputs = _table_outputs(blocks, self.dtype)
        places = torch.from_numpy(test).to(orders.device)
        self.tested = [
            orders[:, places[first : first + self.outputs]].to(torch.int32)
            for first in range(0, len(test), self.outputs)
        ]
        inside = torch.zeros(1, self.n_rows, dtype=torch.float64, device=orders.device)
        inside[:, test] = 1.0
        self.inside = blocks.placed(inside)

    @staticmethod
    def working_bytes(n_permutations: int, n_rows: int, blocks: BlockOrders) -> tuple[int, int]:
        """Return bytes of one fold, and of each thread at work."""
        outputs, orders = _table_outputs(blocks, torch.float16), min(n_permutations, ORDERS_AT_ONCE)
        tables = 16 * blocks.n_entries * outputs * TABLE_VOXELS
        sums = 16 * orders * outputs * TABLE_VOXELS + 48 * n_permutations * NORM_VOXELS
        return 4 * n_permutations * n_rows, tables + sums + 16 * n_permutations * VOXEL_TILE

    def prepared(self, operator: Operator) -> list[Step]:
        """Return an operator as steps of as many outputs as a table has room for."""
        steps = []
        for number, first in enumerate(range(0, len(operator.given), self.outputs)):
            outputs = slice(first, first + self.outputs)
            given = self._placed(operator.given[outputs], self.train)
            if operator.wanted is None:
                steps.append(Step(given, None, self.tested[number]))
            else:
                steps.append(Step(given, self._placed(operator.wanted[outputs], self.test), None))
        return steps

    def _placed(self, weights: torch.Tensor, rows: np.ndarray) -> list[torch.Tensor]:
        """Return weights (output, row) for all rows, 0 at those that have none."""
        whole = torch.zeros(len(weights), self.n_rows, dtype=torch.float32)
        whole[:, rows] = weights.float()
        return self.blocks.placed(whole.to(self.entries.device))

    def norm(self, responses: torch.Tensor) -> torch.Tensor:
        """Return the norm of permuted, centred test responses (permutation, voxel); inf where they are constant."""
        found = torch.empty(len(self.entries), responses.shape[1], device=responses.device)
        for voxels, columns in _filled_up(responses, NORM_VOXELS):
            wide = columns.double()
            table = self.blocks.table(self.inside, self.blocks.dealt(torch.cat([wide, wide * wide], dim=1)))
            total, square = _added(self.entries, table).chunk(2, dim=1)
            found[:, voxels] = _norm(total, square, len(self.test))[:, : voxels.stop - voxels.start]
        return found

    def inner(self, steps: list[Step], responses: torch.Tensor) -> torch.Tensor:
        """Return inner products of predictions of size one with test responses (permutation, voxel)."""
        n_orders = len(self.entries)
        found = torch.empty(n_orders, responses.shape[1], device=responses.device)
        for voxels, columns in _filled_up(responses, TABLE_VOXELS):
            dealt = self.blocks.dealt(columns)
            along, size = torch.zeros(2, n_orders, TABLE_VOXELS, device=responses.device)
            for step in steps:
                self._add_step(step, columns, dealt, along, size)
            found[:, voxels] = _along_predictions(along, size)[:, : voxels.stop - voxels.start]
        return found

    def _add_step(
        self, step: Step, columns: torch.Tensor, dealt: list[torch.Tensor], along: torch.Tensor, size: torch.Tensor
    ) -> None:
        table = self.blocks.table(step.given, dealt, self.dtype)
        shape = table.shape[1:]
        other = None if step.wanted is None else self.blocks.table(step.wanted, dealt, self.dtype)
        for start in range(0, len(self.entries), ORDERS_AT_ONCE):
            orders = slice(start, start + ORDERS_AT_ONCE)
            entries = self.entries[orders]
            predicted = _added(entries, table).float().view(-1, *shape)
            if other is not None:
                target = _added(entries, other).float().view(-1, *shape)
            else:
                assert step.rows is not None
                target = columns.index_select(0, step.rows[orders].reshape(-1)).view(-1, *shape)
            along[orders] += target.mul_(predicted).sum(dim=1)
            size[orders] += predicted.square_().sum(dim=1)


def table_dtype(device: torch.device, share: float) -> torch.dtype:
    """Return the type of tables: float16 where it is added up fast (in float32), and ``share`` of predictions may be lost.

    Rounding moves a prediction by 3e-4 of its size, and so a score over n test stimuli by about 3e-4 / sqrt(n).
    """
    fast = device.type == "cuda" or torch.backends.cpu.get_cpu_capability().startswith("AVX")
    return torch.float16 if fast and share >= HALF_SHARE else torch.float32


def _table_outputs(blocks: BlockOrders, dtype: torch.dtype) -> int:
    """Return how many outputs a table has room for."""
    return max(1, TABLE_BYTES // (blocks.n_entries * TABLE_VOXELS * dtype.itemsize))


def _added(entries: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Return the sum of a table's rows that each permutation names (permutation, column)."""
    return torch.nn.functional.embedding_bag(entries, table.flatten(1), mode="sum")


def _filled_up(responses: torch.Tensor, n: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield ``n`` voxels at a time, filled up with zeros: products of one shape give a voxel the same digits anywhere."""
    for start in range(0, responses.shape[1], n):
        voxels = slice(start, min(start + n, responses.shape[1]))
        columns = torch.zeros(len(responses), n, dtype=responses.dtype, device=responses.device)
        columns[:, : voxels.stop - start] = responses[:, voxels]
        yield voxels, columns


def _norm(total: torch.Tensor, square: torch.Tensor, n: int) -> torch.Tensor:
    """Return the norm of ``n`` centred values from sums of them and of their squares; inf for constant ones."""
    variance = square - total.square() / n
    return variance.masked_fill_(variance <= 1e-12 * square, float("inf")).sqrt_().float()


def _along_predictions(along: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Return inner products with predictions scaled to size one; 0 where a prediction is rounding."""
    # predictions for white responses have size about 1
    return torch.where(size > 1e-12, along / size.clamp_min(1e-12).sqrt(), torch.zeros_like(along))


class _Part(NamedTuple):
    """Some penalties of a fold."""

    fold: int
    penalties: np.ndarray


class PermutedFits:
    """Refits to permuted responses: which permutations, how exact, where, by how many threads, within which memory.

    Parameters
    ----------
    X, folds, standardize
        As in `permutation_null`.
    orders
        The row whose response each stimulus is given (permutation, stimulus).
    blocks
        The blocks that these orders move, if any.
    share
        Part of the Frobenius norm of an operator that may be left out.
    device
        Torch device of the products.
    workers
        Threads; one for a device other than the processor.
    """

    def __init__(
        self,
        X: np.ndarray,
        folds: Folds,
        orders: np.ndarray,
        blocks: BlockOrders | None,
        *,
        standardize: bool,
        share: float,
        device: str,
        workers: Workers,
    ) -> None:
        self.X, self.folds, self.standardize, self.share, self.workers = X, list(folds), standardize, share, workers
        self.blocks, self.device = blocks, device
        self.orders = torch.from_numpy(np.ascontiguousarray(orders, dtype=np.int64)).to(device)
        self.entries = None if blocks is None else torch.from_numpy(blocks.entries().astype(np.int32)).to(device)
        self.at_once = (1, 1)

    def plan(self, n_voxels: int, n_penalties: int, max_memory: int | None) -> int:
        """Decide how many operators to hold at once, and return how many voxels can be worked on at once.

        Parameters
        ----------
        n_voxels, n_penalties
            Of all, and of the fold with the most.
        max_memory
            Bytes; None for `DEFAULT_MEMORY`, or what is needed if that is more.
        """
        (n_permutations, n), threads = self.orders.shape, self.workers.threads
        n_train, n_test = (max(len(fold[side]) for fold in self.folds) for side in (0, 1))
        rank = min(n_train, self.X.shape[1])
        decomposed = 8 * (2 * n * self.X.shape[1] + 3 * rank**2 + 2 * n * rank)
        operator = 24 * n_test * n
        if self.blocks is None:
            of_fold, at_work = RowsOfFold.working_bytes(n_permutations, n)
        else:
            of_fold, at_work = BlocksOfFold.working_bytes(n_permutations, n, self.blocks)
        fixed = 16 * self.orders.numel() + threads * at_work
        each = 20 * n + 8 * n_permutations
        least = fixed + of_fold + decomposed + operator + each
        bound = max(DEFAULT_MEMORY, 2 * least) if max_memory is None else max_memory
        if least > bound:
            raise InputError(
                f"max_memory is {readable(bound)}: {n_permutations} permutations of {n} stimuli need {readable(least)} "
                f"or more with {threads} threads"
            )
        spare = (bound - fixed) // 2
        parts = max(1, min(threads, len(self.folds), spare // (of_fold + decomposed + operator)))
        together = max(1, min(n_penalties, (spare // parts - of_fold - decomposed) // operator))
        self.at_once = parts, together
        left = bound - fixed - parts * (of_fold + decomposed + together * operator)
        return int(max(1, min(n_voxels, left // each)))

    def score(self, targets: np.ndarray, alpha: np.ndarray, take: Take) -> None:
        """Score responses (stimulus, voxel) at the penalties of each fold and voxel, and hand over tile by tile.

        Tiles of a fold come in any order, from any thread; folds in order.
        """
        n_parts, together = self.at_once
        parts = []
        for number, own in enumerate(alpha):
            penalties = np.unique(own)
            parts += [
                _Part(number, penalties[first : first + together]) for first in range(0, penalties.size, together)
            ]
        for first in range(0, len(parts), n_parts):
            some = parts[first : first + n_parts]
            for part, (permuting, operators) in zip(some, self.workers.each(self._prepared, some), strict=True):
                tiles = [
                    (operators[penalty], own[start : start + VOXEL_TILE])
                    for penalty in part.penalties.tolist()
                    for own in [np.flatnonzero(alpha[part.fold] == penalty)]
                    for start in range(0, own.size, VOXEL_TILE)
                ]
                self.workers.each(partial(self._tile, targets, part.fold, permuting, take), tiles)

    def _prepared(self, part: _Part) -> tuple[Permuting, dict[float, list[Step] | None]]:
        train, test = self.folds[part.fold]
        permuting: Permuting
        if self.blocks is None or self.entries is None:
            permuting = RowsOfFold(self.orders, train, test)
        else:
            dtype = table_dtype(self.entries.device, self.share)
            permuting = BlocksOfFold(self.blocks, self.orders, self.entries, train, test, dtype)
        hats = hat_matrices(self.X[train], self.X[test], part.penalties, standardize=self.standardize)
        ready: dict[float, list[Step] | None] = {}
        for penalty in part.penalties.tolist():
            operator = make_operator(hats.pop(penalty), self.share)
            ready[penalty] = None if operator is None else permuting.prepared(operator)
        return permuting, ready

    def _tile(
        self,
        targets: np.ndarray,
        fold: int,
        permuting: Permuting,
        take: Take,
        tile: tuple[list[Step] | None, np.ndarray],
    ) -> None:
        steps, own = tile
        if steps is None:
            take(fold, own, np.zeros((len(self.orders), own.size), dtype=np.float32))
            return
        responses = torch.from_numpy(np.ascontiguousarray(targets[:, own])).to(self.device)
        r = permuting.inner(steps, responses) / permuting.norm(responses)
        take(fold, own, r.cpu().numpy())
