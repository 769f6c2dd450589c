"""Losses of inner folds at any of many penalties, for a tile of voxels at a time. Loads torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch

from topobrain.stats.ridge.features import products_within
from topobrain.stats.ridge.memory import MIXED_AT_ONCE
from topobrain.stats.ridge.skeleton import filter_skeleton
from topobrain.stats.ridge.spectrum import Basis
from topobrain.stats.ridge.workers import Workers

BLOCK_ROWS, BLOCKS = 64, 16
"""Rows at least, and number at most, of a triangle's block rows: of 16, its product costs 1 + 1/16 of its own operations."""

FILTER_TOLERANCE = 3e-6
"""What interpolation of filters over penalties may leave out in float32."""

BLOCK_ERROR = {torch.float32: 1e-4, torch.float64: 1e-10}
"""Rounding of what a fit of all rows leaves, beside what it leaves of a fold's rows in any direction, up to which inner folds are
left out of that fit: so far may the residuals of such a direction be wrong, beside the response."""

LARGEST_SQUARE = 100.0
"""Largest sum of squares of what one response adds to the residuals, beside its own square, up to which losses are products of
the responses with squares of the operator: these have rounding errors of that many times the responses' variance."""

DECOMPOSITION = 12.0
"""Operations of an eigen-decomposition beside the cube of its side: measured, as long as a product of so many takes."""

Route = Literal["triangular", "rotated"]


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
    splits
        (training, validation) row numbers of each inner fold, within the outer fold's training rows.
    make_parts
        Gives the inner folds with their bases; for leave-one-out one whose validation rows are its training rows. Not every
        route needs them.
    rank
        Directions that a basis has at most.
    leave_one_out
        Residuals are divided by one minus the leverage.
    rows
        The outer fold's training rows, numbered in the whole.
    dtype
        Of the products.
    features
        Features (training row, feature), if responses may be rotated through their products with the features: bases have
        loadings, and the validation rows of the parts make up the rows, each part training on all others. Their mean is taken
        off before they lose digits: rows far from the origin would be blurred otherwise.
    middle
        That mean (feature,), float64.
    whole
        Basis of all training rows with its ``left``, if inner folds left out of it are the inner folds: their validation rows
        make up the rows, each fold training on all others, and nothing about a feature depends on the fold.
    """

    splits: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    make_parts: Callable[[], list[Part]]
    rank: int
    leave_one_out: bool
    rows: np.ndarray
    dtype: torch.dtype
    features: torch.Tensor | None = None
    middle: torch.Tensor | None = None
    whole: Basis | None = None

    @cached_property
    def parts(self) -> list[Part]:
        """The inner folds."""
        return self.make_parts()

    @property
    def n_validated(self) -> int:
        """Number of validation rows over all parts."""
        return sum(len(validation) for _, validation in self.splits)

    def weights(self, alphas: torch.Tensor) -> torch.Tensor | None:
        """Return the factor (alpha, row) of each residual, float64; infinite where the fit passes through every row."""
        if not self.leave_one_out:
            return None
        basis = self.parts[0].basis
        keep = basis.eigenvalues / (basis.eigenvalues + alphas[:, None])
        free = 1 - 1 / len(self.rows) - keep @ (basis.rows.double() ** 2).T
        return torch.where(free > 1e-10, 1 / free, torch.inf)


@runtime_checkable
class TileLosses(Protocol):
    """The losses of one tile of voxels, made as they are asked for."""

    def at(self, numbers: Sequence[int] | None, columns: torch.Tensor | None = None) -> torch.Tensor:
        """Return summed squared errors (penalty, voxel), float64.

        Parameters
        ----------
        numbers
            Which penalties; None for all.
        columns
            Which voxels of the tile; None for all.
        """


@runtime_checkable
class Losses(Protocol):
    """What is made ready once for all voxels.

    Attributes
    ----------
    blurred
        Losses far below the responses' variance have few digits.
    """

    blurred: bool

    def tile(self, y: torch.Tensor) -> TileLosses:
        """Make the responses (training row, voxel) of a tile ready."""


def block_rows(height: int) -> int:
    """Return into how many block rows a triangle of so many rows is cut."""
    return max(1, min(BLOCKS, height // BLOCK_ROWS))


def cheaper_route(inner: Inner, n_alphas: int, n_voxels: int, n_tried: float | None = None) -> Route:
    """Return the route with fewer operations, for ``n_tried`` of the penalties (default: all) at each voxel.

    With n training rows, r directions, m validation rows and v voxels, an inner fold's residuals are an operator on the
    responses at each penalty. ``"triangular"`` multiplies the n x n triangular factor of all inner folds' operators with
    the responses: at best (1 + 1/16) n^2 v operations a penalty, after 2 m r n for the operators and about 2.7 n^3 for their QR
    decomposition. ``"rotated"`` rotates the responses of each inner fold (2 n r v; with fewer features p than stimuli 2 p r v,
    after 2 n p v for their products with the features) and multiplies by 2 min(m, r) r v a penalty.
    """
    n = len(inner.rows)
    height = min(inner.n_validated, n)
    rotated = 0.0
    tried = n_alphas if n_tried is None else n_tried
    triangular = (
        tried * n_voxels * (2 * n - height) * height * (1 + 1 / block_rows(height)) + n_alphas * 2.7 * n * n * height
    )
    for known, held in inner.splits:
        train, validation = len(known), len(held)
        rank = min(inner.rank, train)
        if inner.whole is None:
            triangular += n_alphas * 2.0 * validation * rank * train
        else:  # no decompositions of the inner folds
            triangular += n_alphas * 2.0 * validation * (n + validation) * n
            rotated += DECOMPOSITION * rank**3
        height = validation if inner.leave_one_out else min(validation, rank)
        turning = train if inner.features is None else inner.features.shape[1] * (1 + validation / max(rank, 1))
        rotated += 2.0 * rank * n_voxels * (turning + tried * (height + 10))  # 10: forming the shrunk responses
    if inner.leave_one_out and inner.dtype == torch.float32:
        return "triangular"  # residuals of fitted rows cancel; the operator is made in the basis' own precision
    return "triangular" if triangular < rotated else "rotated"


class Triangles:
    r"""Losses through one triangle a penalty.

    Residuals of all inner folds are :math:`T_\alpha y`, with one operator for all voxels, so their sum of squares is
    :math:`\|R_\alpha y\|^2` with the triangular factor R of T, or twice the upper half of :math:`T'T`, its diagonal once,
    between y and y, which is quicker to make and blurs small losses (``blurred``). Triangles are stacked block row by block
    row, so that one product serves several penalties.
    """

    def __init__(self, inner: Inner, alphas: torch.Tensor, weights: torch.Tensor | None, workers: Workers) -> None:
        n = len(inner.rows)
        height = min(inner.n_validated, n)
        bounds = np.linspace(0, height, block_rows(height) + 1).astype(int).tolist()
        self._tops = bounds[:-1]
        self._stack = [
            torch.empty(len(alphas), low - high, n - high, dtype=inner.dtype, device=alphas.device)
            for high, low in itertools.pairwise(bounds)
        ]
        self._leading: tuple[list[int], list[torch.Tensor]] = ([], [])
        operator = _operators(inner, alphas, weights, workers)
        short = inner.dtype == torch.float32 and not inner.leave_one_out and inner.n_validated >= n
        # residuals are largest at the lowest penalty
        self.blurred = short and float(operator(0).square().sum(dim=0).amax()) <= LARGEST_SQUARE

        def fill(number: int) -> None:
            made = operator(number)
            triangle = products_within([made]) if self.blurred else torch.linalg.qr(made, mode="r").R
            for high, low, block in zip(bounds[:-1], bounds[1:], self._stack, strict=True):
                block[number] = triangle[high:low, high:]
                if self.blurred:
                    block[number, :, low - high :] *= 2

        workers.each(fill, range(len(alphas)))

    def lead(self, numbers: Sequence[int]) -> None:
        """Put some penalties' triangles beside each other, to be multiplied together."""
        self._leading = (list(numbers), [block[list(numbers)] for block in self._stack])

    def blocks(self, numbers: Sequence[int] | None) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield block rows (penalty, row, training row from the first that counts) and the number of that row."""
        if numbers is None:
            stack = self._stack
        elif list(numbers) == self._leading[0]:
            stack = self._leading[1]
        elif len(numbers) == 1:
            stack = [block[numbers[0] : numbers[0] + 1] for block in self._stack]
        else:
            stack = [block[list(numbers)] for block in self._stack]
        return zip(self._tops, stack, strict=True)

    def tile(self, y: torch.Tensor) -> TileLosses:
        """Make a tile ready."""
        return _TriangleTile(self, y)


@dataclass(frozen=True)
class _TriangleTile:
    triangles: Triangles
    y: torch.Tensor

    def at(self, numbers: Sequence[int] | None, columns: torch.Tensor | None = None) -> torch.Tensor:
        y = self.y if columns is None else self.y.index_select(1, columns.to(self.y.device))
        loss: torch.Tensor | None = None
        for top, block in self.triangles.blocks(numbers):
            product = (block.reshape(-1, block.shape[2]) @ y[top:]).view(*block.shape[:2], -1)
            product *= y[top : top + block.shape[1]] if self.triangles.blurred else product
            part = product.sum(dim=1).double()
            loss = part if loss is None else loss.add_(part)
        assert loss is not None
        return loss.clamp_(min=0)


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


def _operators(
    inner: Inner, alphas: torch.Tensor, weights: torch.Tensor | None, workers: Workers
) -> Callable[[int], torch.Tensor]:
    """Return what makes the residual operator of a penalty by its number."""
    if inner.whole is not None:
        rest = outside(inner.whole, inner.dtype)
        whole = inner.whole
        if left_out_operator(inner, whole, rest, float(alphas.min())) is not None:  # the worst of them

            def left_out(number: int) -> torch.Tensor:
                made = left_out_operator(inner, whole, rest, float(alphas[number]))
                assert made is not None
                return made

            return left_out
    lefts = workers.each(lambda part: part.make_left(), inner.parts)

    def residual(number: int) -> torch.Tensor:
        factor = None if weights is None else weights[number]
        return residual_operator(inner, lefts, alphas[number : number + 1], factor)

    return residual


def outside(whole: Basis, dtype: torch.dtype) -> torch.Tensor | None:
    """Return the projection (row, row) on what neither a basis of rows nor the constant spans; None if nothing is left."""
    left = whole.left
    assert left is not None
    n = len(left)
    if whole.rank >= n - 1:
        return None
    wide = left.double()
    return (torch.eye(n, dtype=torch.float64, device=left.device) - 1 / n - wide @ wide.T).to(dtype)


def left_out_operator(inner: Inner, whole: Basis, rest: torch.Tensor | None, alpha: float) -> torch.Tensor | None:
    r"""Return the matrix (validation row, training row) that turns responses into residuals of all inner folds.

    From the decomposition of all rows alone: with :math:`M = U\,\mathrm{diag}(1 / (s + \alpha))\,U^\top + P / \alpha`, what a
    fit of all rows leaves, the residuals of rows k in a fit of the others are :math:`M_{kk}^{-1} M_k y`, intercept included.
    It is the formula of leave-one-out for blocks of rows. None where rounding would show: rows of a fold that are far out in
    a direction that no other fold has.
    """
    left = whole.left
    assert left is not None
    left = left.to(inner.dtype)
    lowest = float(whole.eigenvalues[0]) if rest is None and whole.rank else 0.0
    keep = ((lowest + alpha) / (whole.eigenvalues + alpha)).sqrt().to(inner.dtype)
    remains = products_within([(left * keep).T])
    if rest is not None:
        remains += rest
    blocks, most = [], BLOCK_ERROR[inner.dtype] / torch.finfo(inner.dtype).eps
    for _, held in inner.splits:
        rows = remains[held]
        factor, failed = torch.linalg.cholesky_ex(rows[:, held])
        if int(failed):
            return None
        # twice the root's inverse, not the inverse once: its rounding errors would be those of the square
        root = torch.linalg.solve_triangular(factor, torch.eye(len(held)).to(factor), upper=False)
        if not float(root.square().sum(dim=0).amax()) <= most:
            return None
        blocks.append(root.T @ (root @ rows))
    return torch.cat(blocks)


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
    def of(cls, part: Part, inner: Inner, alphas: torch.Tensor, exact: bool, mixed: bool) -> _Rotated:
        rows, across = part.basis.rows.to(inner.dtype), None
        if len(rows) > 1.2 * part.basis.rank and not inner.leave_one_out and not exact:
            across, rows = torch.linalg.qr(rows)
        turn = part.make_left() if inner.features is None else part.basis.loading
        assert turn is not None
        chosen, mix = torch.arange(len(alphas), device=alphas.device), None
        values = part.basis.eigenvalues
        if mixed and inner.dtype == torch.float32 and part.basis.rank and not inner.leave_one_out and not exact:
            few = filter_skeleton(alphas.cpu().numpy(), float(values[0]), float(values[-1]), tolerance=FILTER_TOLERANCE)
            if few.weights is not None:
                chosen = torch.from_numpy(few.rows).to(alphas.device)
                mix = torch.from_numpy(np.hstack([np.ones((len(alphas), 1)), -few.weights])).to(values).to(inner.dtype)
        filters = part.basis.filters(alphas[chosen]).T.to(inner.dtype).contiguous()
        return cls(rows, across, filters, mix, turn.T.to(inner.dtype))

    def residuals(
        self, turned: torch.Tensor, wanted: torch.Tensor, numbers: Sequence[int] | None
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the residuals (row, voxel) at each penalty asked for, counted from 0; they are overwritten by the next."""
        n_evaluated = self.filters.shape[1]
        shrunk = torch.empty_like(turned)
        if self.mix is None:
            error = torch.empty_like(wanted)
            for index, number in enumerate(range(n_evaluated) if numbers is None else numbers):
                torch.mul(turned, self.filters[:, number : number + 1], out=shrunk)
                torch.addmm(wanted, self.rows, shrunk, beta=-1, out=error)
                yield index, error
            return
        assert numbers is None, "mixed penalties come all at once"
        known = wanted.new_empty(1 + n_evaluated, *wanted.shape)
        known[0] = wanted
        for index in range(n_evaluated):
            torch.mul(turned, self.filters[:, index : index + 1], out=shrunk)
            torch.mm(self.rows, shrunk, out=known[1 + index])
        for start in range(0, len(self.mix), MIXED_AT_ONCE):
            some = self.mix[start : start + MIXED_AT_ONCE]
            for offset, error in enumerate((some @ known.view(1 + n_evaluated, -1)).view(len(some), *wanted.shape)):
                yield start + offset, error


class Rotations:
    """Losses from responses in the eigenbasis of each inner fold.

    Validation rows that outnumber the directions r are turned into r rows, and what lies outside is a difference of sums of
    squares; ``exact`` keeps all rows. With ``mixed`` all penalties are asked for at once, and predictions at most of them
    follow from those at a few.
    """

    def __init__(
        self, inner: Inner, alphas: torch.Tensor, weights: torch.Tensor | None, workers: Workers, *,
        exact: bool = False, mixed: bool = True,
    ) -> None:  # fmt: skip
        self.inner, self.weights, self.n_alphas = inner, weights, len(alphas)
        self.blurred = inner.dtype == torch.float32
        self.ready = workers.each(lambda part: _Rotated.of(part, inner, alphas, exact, mixed), inner.parts)
        self.seen = [inner.features[part.validation] for part in inner.parts] if inner.features is not None else []

    def tile(self, y: torch.Tensor) -> TileLosses:
        """Make a tile ready: rotate it."""
        return _RotatedTile(self, y)


class _RotatedTile:
    def __init__(self, rotations: Rotations, y: torch.Tensor) -> None:
        self._of = rotations
        self._outside = torch.zeros(y.shape[1], dtype=torch.float64, device=y.device)
        self._sides: list[tuple[torch.Tensor, torch.Tensor]] = []
        parts, seen = rotations.inner.parts, rotations.seen
        products = [rows.T @ y[part.validation] for rows, part in zip(seen, parts, strict=True)] if seen else []
        together = torch.stack(products).sum(dim=0) if products else None
        for number, (part, own) in enumerate(zip(parts, rotations.ready, strict=True)):
            wanted = y[part.validation]
            if together is None:
                known = y[part.train]
                turned, mean = own.turn @ known, known.mean(dim=0)
            else:
                assert part.basis.mean is not None
                assert rotations.inner.middle is not None
                aside = (part.basis.mean - rotations.inner.middle).to(y.dtype)
                mean = (y.sum(dim=0) - wanted.sum(dim=0)) / len(part.train)
                product = together - products[number]
                turned = own.turn @ product.addr_(aside, mean, alpha=-float(len(part.train)))
            wanted = wanted - mean
            if own.across is not None:
                energy = (wanted * wanted).sum(dim=0)
                wanted = own.across.T @ wanted
                self._outside += (energy - (wanted * wanted).sum(dim=0)).clamp_(min=0)
            self._sides.append((turned, wanted))

    def at(self, numbers: Sequence[int] | None, columns: torch.Tensor | None = None) -> torch.Tensor:
        asked = None if numbers is None else list(numbers)
        columns = None if columns is None else columns.to(self._outside.device)
        outside = self._outside if columns is None else self._outside[columns]
        loss = outside.repeat(self._of.n_alphas if asked is None else len(asked), 1)
        weights = self._of.weights
        for own, (turned, wanted) in zip(self._of.ready, self._sides, strict=True):
            if columns is not None:
                turned, wanted = turned.index_select(1, columns), wanted.index_select(1, columns)
            for index, error in own.residuals(turned, wanted, asked):
                if weights is not None:
                    error *= weights[index if asked is None else asked[index], :, None].to(error.dtype)
                loss[index] += error.mul_(error).sum(dim=0)
        return loss
