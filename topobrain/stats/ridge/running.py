"""A whole fit: plan, read the responses once, go through the folds. Loads torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from topobrain._checks import InputError
from topobrain.stats.folds import Split
from topobrain.stats.ridge.design import is_tensor
from topobrain.stats.ridge.engine import (
    Selection,
    Task,
    fit_fold,
    score_fold,
    shrunk_targets,
    write,
)
from topobrain.stats.ridge.features import Features
from topobrain.stats.ridge.fitting import RidgeFit, choose_device, tensor_like
from topobrain.stats.ridge.memory import FoldSizes, is_dual, memory_plan, parse_memory
from topobrain.stats.ridge.nested import NestedFit
from topobrain.stats.ridge.spectrum import Accuracy
from topobrain.stats.ridge.targets import Targets
from topobrain.stats.ridge.workers import Workers, check_threads, working

SMALL_FLOPS = 2e9
"""Below this a fit runs on one thread: starting others would take longer."""

Fill = Callable[[np.ndarray], np.ndarray]


def fold_sizes(
    shape: tuple[int, int], n_voxels: int, n_alphas: int, outer: Sequence[Split], inner: Sequence[Sequence[Split]]
) -> FoldSizes:
    """Return the sizes of the largest folds."""
    pairs = [pair for splits in inner for pair in splits]
    return FoldSizes(
        *shape,
        n_voxels=n_voxels,
        n_alphas=n_alphas,
        n_train=max(len(train) for train, _ in outer),
        n_test=max(len(test) for _, test in outer),
        inner_train=max((len(train) for train, _ in pairs), default=max(len(train) for train, _ in outer)),
        inner_validation=max((len(validation) for _, validation in pairs), default=0),
        n_outer=len(outer),
        n_inner=max((len(splits) for splits in inner), default=0),
    )


def make_task(
    shape: tuple[int, int], n_voxels: int, grid: np.ndarray, outer: Sequence[Split], inner: Sequence[Sequence[Split]], *,
    selection: Selection, standardize: bool, precision: Literal["auto", "float64", "mixed", "float32"],
    max_memory: int | str | None, weights: bool = False, threads: int | None = None, accelerator: bool = False,
) -> Task:  # fmt: skip
    """Plan a fit."""
    sizes = fold_sizes(shape, n_voxels, grid.size, outer, inner)
    wanted = check_threads(threads)
    options: dict[str, Any] = {
        "selection": selection, "standardize": standardize, "precision": precision, "max_memory": max_memory,
        "weights": weights, "accelerator": accelerator,
    }  # fmt: skip
    plan = memory_plan(sizes, threads=1 if accelerator else wanted, **options)
    if plan.flops < SMALL_FLOPS:
        wanted = 1
    return Task(grid, selection, standardize, plan, sizes, 1 if accelerator else wanted)


def make_features(task: Task, X: Any, device: torch.device, workers: Workers) -> Features:
    """Put features where they are worked on, in the form that suits their shape."""
    return Features(X, standardize=task.standardize, dual=is_dual(task.sizes), device=device, workers=workers)


def fit_weights(task: Task, X: Any, Y: Any, split: Split, inner: Sequence[Split], device: Any) -> RidgeFit:
    """Fit all rows and return weights."""
    where = choose_device(device, Y, X)
    rows = split[0]
    with working(task.threads, bounded=task.plan.bounded) as workers:
        targets = Targets(Y, [rows], rows, where, workers, task.plan.tile)
        features = make_features(task, X, where, workers)
        fitted = fit_fold(task, features, targets, 0, split, inner, workers)
        coef, intercept = _empty((X.shape[1], Y.shape[1]), task, Y), _empty((1, Y.shape[1]), task, Y)

        def tile(voxels: slice) -> None:
            shrunk = shrunk_targets(task, fitted, targets, 0, rows, voxels)
            block = torch.empty(X.shape[1], shrunk.shape[1], dtype=task.fitting, device=where)
            at_mean = features.weights(fitted.basis, rows, shrunk, block)
            columns = targets.columns(voxels)
            mean = torch.from_numpy(targets.mean[0, voxels]).to(where)
            write(coef, np.arange(X.shape[1]), columns, block)
            write(intercept, np.zeros(1, dtype=np.int64), columns, (mean - at_mean)[None])

        workers.each(tile, targets.tiles(task.plan.tile))
    for block in (coef, intercept):
        _leave_out(block, np.zeros(0, dtype=np.int64), targets.usable)
    spread = _spreader(targets.usable)
    index = fitted.choice.index
    return RidgeFit(
        coef=coef,
        intercept=intercept[0],
        alpha=tensor_like(spread(task.grid[index]), Y),
        loss=tensor_like(spread(fitted.choice.loss), Y),
        edge=tensor_like(spread(edges(index, task.grid.size)), Y),
    )


def fit_nested(
    task: Task, X: Any, Y: Any, targets: Targets, outer: Sequence[Split], inner: Sequence[Sequence[Split]],
    device: torch.device, workers: Workers,
) -> NestedFit:  # fmt: skip
    """Go through the outer folds."""
    features = make_features(task, X, device, workers)
    prediction = _empty((X.shape[0], Y.shape[1]), task, Y)
    kept: dict[str, list[np.ndarray]] = {name: [] for name in ("r", "alpha", "loss", "variance", "edge")}
    spread, routes = _spreader(targets.usable), []
    for fold, (split, within) in enumerate(zip(outer, inner, strict=True)):
        choice, r = score_fold(task, features, targets, fold, split, within, prediction, workers)
        index = choice.index
        values = (r, task.grid[index], choice.loss, targets.variance[fold], edges(index, task.grid.size))
        for name, value in zip(kept, values, strict=True):
            kept[name].append(spread(value))
        routes.append(choice.route)
    _leave_out(prediction, np.setdiff1d(np.arange(len(X)), np.concatenate([test for _, test in outer])), targets.usable)
    scores = {name: tensor_like(np.array(value), Y) for name, value in kept.items()}
    return NestedFit(
        prediction=prediction,
        **scores,
        precision=task.plan.precision,
        route=f"{'dual' if features.dual else 'primal'}, {', '.join(dict.fromkeys(routes))}",
        n_unusable=int((~targets.usable).sum()),
    )


@dataclass(frozen=True)
class Run:
    """A nested fit of one or more layers to the same responses.

    Attributes
    ----------
    grid
        Penalties, low to high.
    outer, inner
        Checked folds.
    selection, standardize, precision, device, max_memory, threads
        As in `nested_ridge`.
    """

    grid: np.ndarray
    outer: Sequence[Split]
    inner: Sequence[Sequence[Split]]
    selection: Selection
    standardize: bool
    precision: Literal["auto", "float64", "mixed", "float32"]
    device: Any
    max_memory: int | str | None
    threads: int | None

    def task(self, shape: tuple[int, int], n_voxels: int, accelerator: bool, *, beside: int = 1) -> Task:
        """Plan one layer of which ``beside`` run at the same time, each on one thread if there are several."""
        bound = parse_memory(self.max_memory)
        return make_task(
            shape, n_voxels, self.grid, self.outer, self.inner,
            selection=self.selection, standardize=self.standardize, precision=self.precision,
            max_memory=None if bound is None else bound // beside,
            threads=1 if beside > 1 else self.threads, accelerator=accelerator,
        )  # fmt: skip

    def layers(self, features: Mapping[str, Any], Y: Any) -> Iterator[tuple[str, NestedFit]]:
        """Yield each layer's fit."""
        where = choose_device(self.device, Y, *features.values())
        accelerator = where.type != "cpu"
        alone = {name: self.task(tuple(X.shape), Y.shape[1], accelerator) for name, X in features.items()}
        threads = max(task.threads for task in alone.values())
        used = np.unique(np.concatenate([rows for split in self.outer for rows in split]))
        bounded = self.max_memory is not None
        with working(threads, bounded=bounded) as workers:
            targets = Targets(
                Y, [train for train, _ in self.outer], used, where, workers, min(t.plan.tile for t in alone.values())
            )
        names = list(features)
        while names:
            batch = names[:threads]
            tasks = self._beside(features, batch, Y.shape[1]) if len(batch) == threads > 1 else None
            if tasks is None:
                batch, tasks = batch[:1], {batch[0]: alone[batch[0]]}
            with working(threads, bounded=bounded) as workers:
                serial = Workers(1)

                def fit(name: str, tasks: dict[str, Task] = tasks, serial: Workers = serial) -> NestedFit:
                    return fit_nested(tasks[name], features[name], Y, targets, self.outer, self.inner, where, serial)

                if len(batch) > 1:
                    fits = workers.each(fit, batch)
                else:
                    fits = [fit(batch[0], serial=workers if tasks[batch[0]].threads > 1 else serial)]
            names = names[len(batch) :]
            yield from zip(batch, fits, strict=True)

    def _beside(self, features: Mapping[str, Any], batch: list[str], n_voxels: int) -> dict[str, Task] | None:
        """Plan layers side by side, or return None where the bound on memory has room for one only."""
        try:
            return {name: self.task(tuple(features[name].shape), n_voxels, False, beside=len(batch)) for name in batch}
        except InputError:
            return None


def operators(
    X: np.ndarray, X_new: np.ndarray, alphas: Sequence[float], standardize: bool, single: bool
) -> dict[float, np.ndarray]:
    """Return prediction operators (new row, row) of each penalty."""
    n = len(X)
    with working(1):
        features = Features(
            np.concatenate([X, X_new]), standardize=standardize, dual=X.shape[1] >= n, device=torch.device("cpu")
        )
        train, new = np.arange(n), np.arange(n, n + len(X_new))
        basis = features.basis(train, new, Accuracy(single, min(alphas, default=0.0)))
        left = features.left(basis, train).T
        keep = basis.filters(torch.tensor(alphas, dtype=torch.float64))
        return {alpha: ((basis.rows * keep[i]) @ left).numpy() for i, alpha in enumerate(alphas)}


def edges(index: np.ndarray, n_alphas: int) -> np.ndarray:
    """Return -1 at the lowest penalty, 1 at the highest, else 0; 0 where there is no choice."""
    if n_alphas == 1:
        return np.zeros(len(index))
    return np.where(index == 0, -1.0, np.where(index == n_alphas - 1, 1.0, 0.0))


def _spreader(usable: np.ndarray) -> Fill:
    def spread(values: np.ndarray) -> np.ndarray:
        full = np.full(len(usable), np.nan)
        full[usable] = values
        return full

    return spread


def _empty(shape: tuple[int, int], task: Task, like: Any) -> Any:
    if is_tensor(like):
        return torch.empty(shape, dtype=task.fitting, device=like.device)
    return np.empty(shape, dtype=np.float32 if task.fitting == torch.float32 else np.float64)


def _leave_out(block: Any, rows: np.ndarray, usable: np.ndarray) -> None:
    """Write NaN into rows, and into the columns of unusable voxels."""
    columns = np.flatnonzero(~usable)
    if is_tensor(block):
        block[torch.from_numpy(rows).to(block.device)] = torch.nan
        block[:, torch.from_numpy(columns).to(block.device)] = torch.nan
    else:
        block[rows] = np.nan
        block[:, columns] = np.nan
