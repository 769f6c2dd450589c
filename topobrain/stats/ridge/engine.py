"""One outer fold: choose the penalties, fit again, predict the held-out rows. Loads torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from topobrain.stats.folds import Split
from topobrain.stats.ridge.closed_form import Crossed, Projected, choose_gcv
from topobrain.stats.ridge.features import FAR, Features, Whole
from topobrain.stats.ridge.losses import Inner, Part
from topobrain.stats.ridge.memory import FoldSizes, MemoryPlan
from topobrain.stats.ridge.selection import Choice, Room, choose
from topobrain.stats.ridge.spectrum import FIT_ERROR, LOSS_ERROR, Accuracy, Basis
from topobrain.stats.ridge.targets import Targets
from topobrain.stats.ridge.workers import Workers

Selection = Literal["kfold", "gcv", "loo"]


@dataclass(frozen=True)
class Task:
    """What is the same for all folds and layers.

    Attributes
    ----------
    grid
        Penalties, low to high.
    selection, standardize
        As in `ridge_cv`.
    plan
        Precision, tile and triangles held at once.
    sizes
        Of the folds.
    threads
        To use.
    """

    grid: np.ndarray
    selection: Selection
    standardize: bool
    plan: MemoryPlan
    sizes: FoldSizes
    threads: int

    @property
    def selecting(self) -> torch.dtype:
        """Precision of the choice of penalties."""
        return torch.float64 if self.plan.precision == "float64" else torch.float32

    @property
    def fitting(self) -> torch.dtype:
        """Precision of the final fit."""
        return torch.float32 if self.plan.precision == "float32" else torch.float64

    @property
    def room(self) -> Room:
        """How much is done at a time."""
        return Room(self.plan.tile, self.plan.alphas)


@dataclass(frozen=True)
class FittedFold:
    """An outer fold after the choice: its basis, its responses' basis, and the choice."""

    basis: Basis
    left: torch.Tensor
    choice: Choice


def fit_fold(
    task: Task, features: Features, targets: Targets, fold: int, split: Split, inner: Sequence[Split], workers: Workers
) -> FittedFold:
    """Decompose the training rows and choose each usable voxel's penalty in them."""
    train, lowest = split[0], float(task.grid[0])
    whole = features.whole(train, workers)
    # the losses of inner folds may come from the basis of all rows, too
    blocks = features.kernel is not None and task.selection == "kfold" and _partition(inner, len(train))
    decompose_all = partial(_basis, task, features, split, whole, LOSS_ERROR if blocks else FIT_ERROR)

    def decompose_inner(pair: Split, resolves: bool = True) -> Basis:
        accuracy = Accuracy(resolves and task.selecting == torch.float32, lowest, projects=task.selecting)
        return features.basis(train[pair[0]], train[pair[1]], accuracy, whole).to(task.selecting)

    early: list[Basis] = []
    if blocks or task.selection != "kfold" or task.grid.size == 1:
        basis = decompose_all()
    else:  # side by side: one decomposition alone would keep one core busy
        tasks: list[Callable[[], Basis]] = [
            decompose_all,
            *(partial(decompose_inner, pair, features.single_resolves) for pair in inner),
        ]
        basis, *early = workers.each(lambda make: make(), tasks)
    left = features.left(basis, train, workers)
    if task.grid.size == 1 and task.selection != "gcv":
        choice = Choice(np.zeros(targets.n, dtype=np.int64), np.full(targets.n, np.nan), "one penalty")
    elif task.selection == "gcv":
        responses = Projected(left, train, targets, fold, task.selecting)
        choice = choose_gcv(basis, responses, len(train), task.grid, targets, fold, workers, task.plan.tile)
    else:
        if task.selection == "loo":
            everyone = torch.arange(len(train), device=left.device)
            own = Part(Basis(basis.eigenvalues, left, left), everyone, everyone, lambda: left)
            within = Inner(((everyone, everyone),), lambda: [own], basis.rank, True, train, task.selecting)
        else:
            top, bottom = (float(basis.eigenvalues[i]) for i in (-1, 0)) if basis.rank else (0.0, 0.0)
            resolves = Accuracy(True, lowest).enough(top, bottom)

            def part(number: int) -> Part:
                pair = inner[number]
                inside = early[number] if early else decompose_inner(pair, resolves)
                known, held = (features.index(numbers) for numbers in pair)
                return Part(inside, known, held, lambda: features.left(inside, train[pair[0]]))

            shared, middle, all_rows = None, None, None
            if features.centred is not None and _partition(inner, len(train)):
                known_rows = features.centred[features.index(train)]
                middle = known_rows.mean(dim=0)
                known_rows -= middle
                shared = known_rows.to(task.selecting) if _even(known_rows, inner) else None
            if blocks:
                all_rows = replace(basis, left=left)
            splits = tuple((features.index(known), features.index(held)) for known, held in inner)
            rank = min(max(len(known) for known, _ in inner) - 1, features.p)
            within = Inner(
                splits,
                lambda: workers.each(part, range(len(inner))),
                rank,
                False,
                train,
                task.selecting,
                shared,
                middle,
                all_rows,
            )
        choice = choose(within, task.grid, targets, fold, workers, task.room)
    return FittedFold(basis.to(task.fitting), left.to(task.fitting), choice)


def _basis(task: Task, features: Features, split: Split, whole: Whole | None, error: float) -> Basis:
    """Return the basis of an outer fold's training rows, in float32 where that is enough to fit with."""
    # residuals of leave-one-out are small differences: their basis is always float64
    allowed = task.fitting == torch.float32 and task.selection != "loo"
    single = allowed and features.single_resolves
    turn = torch.float32 if allowed else torch.float64
    basis = features.basis(*split, Accuracy(single, float(task.grid[0]), error, turn), whole)
    if single and basis.rank:
        features.single_resolves = basis.single  # the next folds' spectra are alike
    return basis.to(torch.float32) if allowed and basis.single_projects else basis


def _partition(inner: Sequence[Split], n_rows: int) -> bool:
    """Return whether every row is validated once, by a fit of all rows outside its own fold."""
    held = np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *(validation for _, validation in inner)]))
    return (
        len(held) > 0
        and np.array_equal(held, np.arange(n_rows))
        and all(
            len(train) + len(validation) == n_rows == len(np.union1d(train, validation)) for train, validation in inner
        )
    )


def _even(rows: torch.Tensor, inner: Sequence[Split]) -> bool:
    """Return whether products of a fold's training rows keep their digits when they are differences from all rows'."""
    squares = rows.square()
    total = squares.sum(dim=0)
    for train, _ in inner:
        rest = squares[torch.from_numpy(train).to(rows.device)].sum(dim=0)
        if not bool(((rest == 0) | (rest >= FAR * total)).all()):
            return False
    return True


def score_fold(
    task: Task, features: Features, targets: Targets, fold: int, split: Split, inner: Sequence[Split], out: Any,
    workers: Workers,
) -> tuple[Choice, np.ndarray]:  # fmt: skip
    """Fit an outer fold and write predictions of its held-out rows; return choices and correlations (usable voxel,).

    The closed form reads and rotates the responses once, for the choice and for the predictions.
    """
    if task.selection == "gcv" and task.selecting == task.fitting:
        return _score_in_one_pass(task, features, targets, fold, split, out, workers)
    fitted = fit_fold(task, features, targets, fold, split, inner, workers)
    return fitted.choice, predict_fold(task, fitted, targets, fold, split, out, workers)


def _score_in_one_pass(
    task: Task, features: Features, targets: Targets, fold: int, split: Split, out: Any, workers: Workers
) -> tuple[Choice, np.ndarray]:
    """Do what `score_fold` does where the responses in the basis serve the choice and the predictions."""
    train, test = split
    r = np.full(targets.n, np.nan)
    alphas = torch.from_numpy(task.grid).to(features.device)
    decompose = partial(_basis, task, features, split, features.whole(train, workers), FIT_ERROR)
    responses: Crossed | Projected | None = None
    if task.plan.crossed:
        crossed = Crossed(features, train, targets, fold, task.selecting)
        first: list[Callable[[], Any]] = [decompose, *crossed.tasks(task.plan.tile)]
        basis: Basis = workers.each(lambda make: make(), first)[0]
        if basis.rows.dtype == task.fitting:  # else projections need digits that these products lack
            responses = crossed.ready(basis)
    else:
        basis = decompose()
    if responses is None:
        left = features.left(basis, train, workers)
        responses = Projected(left, train, targets, fold, task.selecting)
    basis = basis.to(task.fitting)

    def predict(voxels: slice, turned: torch.Tensor, index: np.ndarray) -> None:
        keep = basis.filters(alphas)[torch.from_numpy(index).to(turned.device)].T
        size = torch.from_numpy(targets.size(fold, voxels)).to(turned)
        r[voxels] = _score(targets, fold, test, voxels, basis.rows @ (turned * keep) * size, out)

    n, tile = len(train), task.plan.tile
    return choose_gcv(basis, responses, n, task.grid, targets, fold, workers, tile, predict), r


def shrunk_targets(
    task: Task, fitted: FittedFold, targets: Targets, fold: int, rows: np.ndarray, voxels: slice
) -> torch.Tensor:
    """Return each voxel's responses in the eigenbasis, shrunk by its penalty (rank, voxel)."""
    y = targets.centred(fold, rows, voxels, task.fitting).to(task.fitting)
    alpha = torch.from_numpy(task.grid[fitted.choice.index[voxels]]).to(y.device)
    values = fitted.basis.eigenvalues[:, None]
    return (fitted.left.T @ y) * (values / (values + alpha)).to(y.dtype)


def predict_fold(
    task: Task, fitted: FittedFold, targets: Targets, fold: int, split: Split, out: Any, workers: Workers
) -> np.ndarray:
    """Write predictions of the held-out rows into ``out`` (stimulus, voxel); return their correlations (usable voxel,)."""
    train, test = split
    r = np.full(targets.n, np.nan)
    index = fitted.choice.index
    chosen = np.unique(index)
    n, m, rank = len(train), len(test), fitted.basis.rank
    device = fitted.left.device
    fits = chosen.size * m * n * fitted.left.element_size() <= task.plan.operators
    by_operator = fits and chosen.size * m * rank * n + m * n * targets.n < (n + m) * rank * targets.n
    operators: dict[int, torch.Tensor] = {}
    if by_operator:
        alphas = torch.from_numpy(task.grid).to(device)

        def operator(number: int) -> torch.Tensor:
            keep = fitted.basis.filters(alphas[number : number + 1])
            return (fitted.basis.rows * keep) @ fitted.left.T

        operators = dict(zip(chosen.tolist(), workers.each(operator, chosen.tolist()), strict=True))

    def tile(voxels: slice) -> None:
        if by_operator:
            own = index[voxels]
            order = np.argsort(own, kind="stable")
            numbers, starts = np.unique(own[order], return_index=True)
            places = torch.from_numpy(order).to(device)
            y = targets.centred(fold, train, voxels, task.fitting).to(task.fitting)[:, places]
            block = torch.empty(m, y.shape[1], dtype=task.fitting, device=device)
            for number, start, stop in zip(numbers.tolist(), starts, [*starts[1:], len(own)], strict=True):
                torch.mm(operators[number], y[:, start:stop], out=block[:, start:stop])
            predicted = torch.empty_like(block)
            predicted[:, places] = block
        else:
            predicted = fitted.basis.rows @ shrunk_targets(task, fitted, targets, fold, train, voxels)
        r[voxels] = _score(targets, fold, test, voxels, predicted, out)

    workers.each(tile, targets.tiles(task.plan.tile))
    return r


def _score(
    targets: Targets, fold: int, test: np.ndarray, voxels: slice, predicted: torch.Tensor, out: Any
) -> np.ndarray:
    """Write a tile's predictions, which lack the mean, into ``out``; return their correlations with the responses."""
    mean = torch.from_numpy(targets.mean[fold, voxels]).to(predicted.device)
    write(out, test, targets.columns(voxels), predicted + mean.to(predicted.dtype))
    return correlation(predicted.double(), targets.read(test, voxels) - mean, mean).cpu().numpy()


def correlation(prediction: torch.Tensor, target: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Return Pearson r of each column, as `column_correlation` does: 0 for a constant prediction, NaN for a constant target.

    ``offset`` was taken off both: a spread that is rounding error beside it is none.
    """

    def centred(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = values.mean(dim=0)
        values = values - mean
        square = (values * values).sum(dim=0)
        size = square + len(values) * (mean + offset) ** 2
        return values, torch.where(square <= 1e-24 * size, 0.0, square.sqrt())

    (one, length), (two, spread) = centred(prediction), centred(target)
    product = (one * two).sum(dim=0)
    r = torch.where(length > 0, product / (length * spread), 0.0).clamp(-1.0, 1.0)
    return torch.where(spread > 0, r, torch.nan)


def write(out: Any, rows: np.ndarray, columns: slice | np.ndarray, values: torch.Tensor) -> None:
    """Write a block (row, column) into an array or a tensor."""
    if isinstance(out, torch.Tensor):
        into = torch.from_numpy(np.ascontiguousarray(rows)).to(out.device)
        if isinstance(columns, slice):
            out[into, columns] = values.to(out)
        else:
            out[into[:, None], torch.from_numpy(columns).to(out.device)] = values.to(out)
    elif isinstance(columns, slice):
        out[rows, columns] = values.cpu().numpy()
    else:
        out[np.ix_(rows, columns)] = values.cpu().numpy()
