"""The penalty of every voxel: least loss in inner folds, leave-one-out, or generalised cross-validation. Loads torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from topobrain.stats.ridge.memory import MIXED_AT_ONCE
from topobrain.stats.ridge.skeleton import Skeleton, every_penalty, filter_skeleton, make_skeleton
from topobrain.stats.ridge.spectrum import Basis
from topobrain.stats.ridge.targets import Columns, Targets
from topobrain.stats.ridge.workers import Workers

BLOCKS = 16
"""Block rows of a triangle: its product costs (1 + 1/16) of the triangle's own operations."""

TINY_LOSS = 0.05
"""Below this share of the variance a loss is computed at every penalty from its residuals: short cuts would blur it."""

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
"""What interpolation over penalties may leave out, beside the responses' variance."""

FILTER_TOLERANCE = 3e-6
"""What interpolation of filters over penalties may leave out in float32."""

Route = Literal["triangular", "rotated"]

Chosen = Callable[[slice, torch.Tensor, np.ndarray], None]


@dataclass(frozen=True)
class Part:
    """One inner fold: rows number within the outer fold's training rows.

    Attributes
    ----------
    basis
        Of the training rows, with the validation rows in it.
    train, validation
        Row numbers.
    make_left
        Gives the basis (training row, rank) of the responses; only some routes need it.
    """

    basis: Basis
    train: torch.Tensor
    validation: torch.Tensor
    make_left: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Inner:
    """All that the choice of an outer fold's penalties needs, whatever the voxels.

    Attributes
    ----------
    parts
        Inner folds; for leave-one-out one part whose validation rows are its training rows.
    leave_one_out
        Residuals are divided by one minus the leverage.
    rows
        The outer fold's training rows, numbered in the whole.
    dtype
        Of the products.
    features
        Features (training row, feature), if responses may be rotated through their products with the features: bases have
        loadings, and the validation rows of the parts make up the rows, each part training on all others.
    """

    parts: tuple[Part, ...]
    leave_one_out: bool
    rows: np.ndarray
    dtype: torch.dtype
    features: torch.Tensor | None = None

    @property
    def n_validated(self) -> int:
        """Number of validation rows over all parts."""
        return sum(len(part.validation) for part in self.parts)

    def weights(self, alphas: torch.Tensor) -> torch.Tensor | None:
        """Return the factor (alpha, row) of each residual, float64; infinite where the fit passes through every row."""
        if not self.leave_one_out:
            return None
        basis = self.parts[0].basis
        keep = basis.eigenvalues / (basis.eigenvalues + alphas[:, None])
        free = 1 - 1 / len(self.rows) - keep @ (basis.rows.double() ** 2).T
        return torch.where(free > 1e-10, 1 / free, torch.inf)


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
    route: Route | None = None,
) -> Choice:
    """Choose each voxel's penalty by its squared error over the validation rows; ties go to the lowest penalty."""
    alphas = torch.from_numpy(grid).to(inner.parts[0].basis.rows.device)
    weights = inner.weights(alphas)
    possible = np.ones(grid.size, bool) if weights is None else torch.isfinite(weights).all(dim=1).cpu().numpy()
    total = np.full((grid.size, targets.n), np.inf)
    if not possible.any():
        return Choice(np.zeros(targets.n, dtype=np.int64), total[0], "none")
    skeleton = _skeleton(inner, grid[possible])
    few = np.flatnonzero(possible)[skeleton.rows]
    route = cheaper_route(inner, len(few), targets.n) if room.alphas else "rotated"
    losses = triangular_losses if route == "triangular" else rotated_losses
    everything = slice(0, targets.n)
    found = losses(inner, alphas[few], targets, fold, everything, workers, room)
    total[possible] = found if skeleton.weights is None else skeleton.weights @ found
    if skeleton.weights is not None or (route == "rotated" and inner.dtype == torch.float32):
        tiny = np.flatnonzero(total.min(axis=0) < TINY_LOSS * inner.n_validated)
        if tiny.size:
            total[np.ix_(possible, tiny)] = rotated_losses(
                inner, alphas[possible], targets, fold, tiny, workers, room, exact=True
            )
    index = total.argmin(axis=0)
    loss = total[index, np.arange(targets.n)] / inner.n_validated
    return Choice(index, loss * targets.size(fold, everything) ** 2, f"{route} {len(few)}/{grid.size}")


def _skeleton(inner: Inner, grid: np.ndarray) -> Skeleton:
    values = [part.basis.eigenvalues for part in inner.parts if part.basis.rank]
    if not values or inner.leave_one_out:  # the leverages of leave-one-out leave the span
        return every_penalty(grid.size)
    lowest, highest = min(float(v[0]) for v in values), max(float(v[-1]) for v in values)
    return make_skeleton(grid, lowest, highest, tolerance=TOLERANCE[inner.dtype])


def cheaper_route(inner: Inner, n_alphas: int, n_voxels: int) -> Route:
    """Return the route with fewer operations.

    With n training rows, r directions, m validation rows and v voxels, an inner fold's residuals are an operator on the
    responses at each penalty. ``"triangular"`` multiplies the n x n triangular factor of all inner folds' operators with
    the responses: (1 + 1/16) n^2 v operations a penalty, after 2 m r n for the operators and about 2.7 n^3 for their QR
    decomposition. ``"rotated"`` rotates the responses of each inner fold (2 n r v; with fewer features p than stimuli 2 p r v,
    after 2 n p v for their products with the features) and multiplies by 2 min(m, r) r v a penalty.
    """
    n = len(inner.rows)
    height = min(inner.n_validated, n)
    triangular = n_alphas * (n_voxels * (2 * n - height) * height * (1 + 1 / BLOCKS) + 2.7 * n * n * height)
    rotated = 0.0
    for part in inner.parts:
        train, validation, rank = len(part.train), len(part.validation), part.basis.rank
        triangular += n_alphas * 2.0 * validation * rank * train
        height = validation if inner.leave_one_out else min(validation, rank)
        turning = train if inner.features is None else inner.features.shape[1] * (1 + validation / max(rank, 1))
        rotated += 2.0 * rank * n_voxels * (turning + n_alphas * (height + 10))  # 10: forming the shrunk responses
    if inner.leave_one_out and inner.dtype == torch.float32:
        return "triangular"  # residuals of fitted rows cancel; the operator is made in the basis' own precision
    return "triangular" if triangular < rotated else "rotated"


def triangular_losses(
    inner: Inner, alphas: torch.Tensor, targets: Targets, fold: int, voxels: slice, workers: Workers, room: Room
) -> np.ndarray:
    r"""Return summed squared errors (alpha, voxel) through one triangle a penalty.

    Residuals of all inner folds are :math:`T_\alpha y`, with one operator for all voxels, so their sum of squares is
    :math:`\|R_\alpha y\|^2` with the triangular factor R of T. Triangles of all penalties are stacked block row by block
    row, so that one product serves them all.
    """
    n = len(inner.rows)
    height = min(inner.n_validated, n)
    device, weights = alphas.device, inner.weights(alphas)
    lefts = workers.each(lambda part: part.make_left(), inner.parts)
    bounds = np.linspace(0, height, min(BLOCKS, height) + 1).astype(int).tolist()
    total = np.empty((len(alphas), voxels.stop - voxels.start))
    for start in range(0, len(alphas), room.alphas):
        group = range(start, min(start + room.alphas, len(alphas)))
        stack = [
            torch.empty(len(group), low - high, n - high, dtype=inner.dtype, device=device)
            for high, low in itertools.pairwise(bounds)
        ]

        def fill(number: int, stack: list[torch.Tensor] = stack, start: int = start) -> None:
            factor = None if weights is None else weights[number]
            operator = residual_operator(inner, lefts, alphas[number : number + 1], factor)
            triangle = torch.linalg.qr(operator, mode="r").R
            for high, low, block in zip(bounds[:-1], bounds[1:], stack, strict=True):
                block[number - start] = triangle[high:low, high:]

        def tile(columns: slice, stack: list[torch.Tensor] = stack, group: range = group) -> None:
            y = targets.standard(fold, inner.rows, columns, inner.dtype)
            width = y.shape[1]
            loss = torch.zeros(len(group), width, dtype=torch.float64, device=device)
            for high, block in zip(bounds[:-1], stack, strict=True):
                product = block.view(-1, block.shape[2]) @ y[high:]
                loss += product.mul_(product).view(len(group), -1, width).sum(dim=1)
            total[group.start : group.stop, columns] = loss.cpu().numpy()

        workers.each(fill, group)
        workers.each(tile, targets.tiles(room.tile))
    return total


def residual_operator(
    inner: Inner, lefts: Sequence[torch.Tensor], alpha: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor:
    """Return the matrix (validation row, training row) that turns responses into residuals of all inner folds."""
    operator = torch.zeros(inner.n_validated, len(inner.rows), dtype=lefts[0].dtype, device=lefts[0].device)
    top = 0
    for part, left in zip(inner.parts, lefts, strict=True):
        m = len(part.validation)
        predicts = (part.basis.rows * part.basis.filters(alpha)).to(left.dtype) @ left.T
        block = operator[top : top + m]
        block.index_add_(1, part.train, predicts.add_(1 / len(part.train)), alpha=-1)
        block[torch.arange(m, device=left.device), part.validation] += 1
        top += m
    if weights is not None:
        operator *= weights[:, None]
    return operator.to(inner.dtype)


@dataclass(frozen=True)
class _Rotated:
    """An inner fold made ready for many tiles of voxels.

    Attributes
    ----------
    rows
        Validation rows in the basis (row, rank), or their triangular factor where they outnumber the directions.
    across
        (validation row, rank): turns the validation rows' responses into those of the triangle; None without one.
    filters
        (rank, penalty evaluated).
    mix
        (penalty, 1 + penalty evaluated): residuals are its product with the responses and the predictions evaluated; None
        where every penalty is evaluated.
    turn
        (rank, training row) or, through the features, (rank, feature).
    """

    rows: torch.Tensor
    across: torch.Tensor | None
    filters: torch.Tensor
    mix: torch.Tensor | None
    turn: torch.Tensor

    @classmethod
    def of(cls, part: Part, inner: Inner, alphas: torch.Tensor, exact: bool) -> _Rotated:
        rows, across = part.basis.rows.to(inner.dtype), None
        if len(rows) > 1.2 * part.basis.rank and not inner.leave_one_out and not exact:
            across, rows = torch.linalg.qr(rows)
        turn = part.make_left() if inner.features is None else part.basis.loading
        assert turn is not None
        chosen, mix = torch.arange(len(alphas), device=alphas.device), None
        values = part.basis.eigenvalues
        if inner.dtype == torch.float32 and part.basis.rank and not inner.leave_one_out and not exact:
            few = filter_skeleton(alphas.cpu().numpy(), float(values[0]), float(values[-1]), tolerance=FILTER_TOLERANCE)
            if few.weights is not None:
                chosen = torch.from_numpy(few.rows).to(alphas.device)
                mix = torch.from_numpy(np.hstack([np.ones((len(alphas), 1)), -few.weights])).to(values).to(inner.dtype)
        filters = part.basis.filters(alphas[chosen]).T.to(inner.dtype).contiguous()
        return cls(rows, across, filters, mix, turn.T.to(inner.dtype))

    def residuals(self, turned: torch.Tensor, wanted: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the residuals (row, voxel) at each penalty by its number; they are overwritten by the next."""
        n_evaluated = self.filters.shape[1]
        shrunk = torch.empty_like(turned)
        if self.mix is None:
            error = torch.empty_like(wanted)
            for index in range(n_evaluated):
                torch.mul(turned, self.filters[:, index : index + 1], out=shrunk)
                torch.addmm(wanted, self.rows, shrunk, beta=-1, out=error)
                yield index, error
            return
        known = wanted.new_empty(1 + n_evaluated, *wanted.shape)
        known[0] = wanted
        for index in range(n_evaluated):
            torch.mul(turned, self.filters[:, index : index + 1], out=shrunk)
            torch.mm(self.rows, shrunk, out=known[1 + index])
        for start in range(0, len(self.mix), MIXED_AT_ONCE):
            some = self.mix[start : start + MIXED_AT_ONCE]
            for offset, error in enumerate((some @ known.view(1 + n_evaluated, -1)).view(len(some), *wanted.shape)):
                yield start + offset, error


def rotated_losses(
    inner: Inner, alphas: torch.Tensor, targets: Targets, fold: int, voxels: Columns, workers: Workers, room: Room,
    *, exact: bool = False,
) -> np.ndarray:  # fmt: skip
    """Return summed squared errors (alpha, voxel) from responses in the eigenbasis of each inner fold.

    Validation rows that outnumber the directions r are turned into r rows, and what lies outside is a difference of sums of
    squares; ``exact`` keeps all rows.
    """
    weights = inner.weights(alphas)
    ready = workers.each(lambda part: _Rotated.of(part, inner, alphas, exact), inner.parts)
    seen = [inner.features[part.validation] for part in inner.parts] if inner.features is not None else []
    numbers = np.arange(targets.n)[voxels]
    total = np.empty((len(alphas), len(numbers)))

    def tile(start: int) -> None:
        stop = min(start + room.tile, len(numbers))
        columns: Columns = numbers[start:stop] if isinstance(voxels, np.ndarray) else slice(start, stop)
        y = targets.standard(fold, inner.rows, columns, inner.dtype)
        loss = torch.zeros(len(alphas), y.shape[1], dtype=torch.float64, device=y.device)
        products = [rows.T @ y[part.validation] for rows, part in zip(seen, inner.parts, strict=True)] if seen else []
        together = torch.stack(products).sum(dim=0) if products else None
        for number, (part, own) in enumerate(zip(inner.parts, ready, strict=True)):
            wanted = y[part.validation]
            if together is None:
                known = y[part.train]
                turned, mean = own.turn @ known, known.mean(dim=0)
            else:
                assert part.basis.mean is not None
                mean = (y.sum(dim=0) - wanted.sum(dim=0)) / len(part.train)
                product = together - products[number]
                turned = own.turn @ product.addr_(part.basis.mean.to(y.dtype), mean, alpha=-float(len(part.train)))
            wanted = wanted - mean
            if own.across is not None:
                energy = (wanted * wanted).sum(dim=0)
                wanted = own.across.T @ wanted
                loss += (energy - (wanted * wanted).sum(dim=0)).clamp_(min=0)
            for index, error in own.residuals(turned, wanted):
                if weights is not None:
                    error *= weights[index, :, None].to(error.dtype)
                loss[index] += error.mul_(error).sum(dim=0)
        total[:, start:stop] = loss.cpu().numpy()

    workers.each(tile, range(0, len(numbers), room.tile))
    return total


def choose_gcv(
    basis: Basis, left: torch.Tensor, rows: np.ndarray, grid: np.ndarray, targets: Targets, fold: int, workers: Workers,
    dtype: torch.dtype, room: Room, then: Chosen | None = None,
) -> Choice:  # fmt: skip
    """Choose each voxel's penalty by generalised cross-validation: one rotation, then no product a penalty.

    ``then`` is called with each tile's voxels, its standardised responses in the basis (rank, voxel), and its choices.
    """
    n = len(rows)
    alphas = torch.from_numpy(grid).to(left.device)
    keep = alphas[:, None] / (basis.eigenvalues + alphas[:, None])
    keep = torch.where(torch.isnan(keep), 0.0, keep)
    # share of free rows, the intercept taking one; as a sum of what is kept, it cancels at no penalty
    freedom = ((max(n - 1 - basis.rank, 0) + keep.sum(dim=1)) / n).cpu().numpy()
    relative = keep / torch.from_numpy(np.where(freedom > 0, freedom, 1.0)).to(keep)[:, None]
    square, turn = (relative**2).to(dtype), left.to(dtype).T.contiguous()
    index, loss = np.zeros(targets.n, dtype=np.int64), np.full(targets.n, np.inf)
    factor = 1 / np.where(freedom > 0, freedom, 1.0) ** 2

    def tile(columns: slice) -> None:
        y = targets.standard(fold, rows, columns, dtype)
        turned = turn @ y
        inside = turned * turned
        # with as many directions as free rows nothing is outside, and rounding must not look like it
        outside = (y.mul_(y).sum(dim=0) - inside.sum(dim=0)).clamp_(min=0) * (basis.rank < n - 1)
        score = (square @ inside).double().cpu().numpy() + outside.double().cpu().numpy() * factor[:, None]
        score /= n
        score[freedom <= 0] = np.inf
        index[columns] = score.argmin(axis=0)
        loss[columns] = score[index[columns], np.arange(score.shape[1])]
        if then is not None:
            then(columns, turned, index[columns])

    workers.each(tile, targets.tiles(room.tile))
    return Choice(index, loss * targets.size(fold, slice(0, targets.n)) ** 2, "closed form")
