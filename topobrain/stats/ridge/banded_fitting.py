"""The fits of banded ridge, fold by fold: memory planned, candidates searched, chosen ones kept. Loads torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from topobrain._checks import InputError
from topobrain.stats.correlation import column_correlation
from topobrain.stats.folds import Split
from topobrain.stats.ridge.band_search import Bands, Design, Refit, Search
from topobrain.stats.ridge.banded import BandedFit, NestedBandedFit
from topobrain.stats.ridge.design import check_folds, check_nested, usable_voxels
from topobrain.stats.ridge.kernel_search import STACK_BYTES, TILE, Choice, tiles
from topobrain.stats.ridge.memory import FLOAT64_FLOPS, parse_memory, readable
from topobrain.stats.ridge.workers import check_threads, working

CACHE_BYTES = 2**30
"""Bytes of inner designs that are kept where no bound is given."""


@dataclass(frozen=True)
class BandedTask:
    """A banded fit of one or several models, with all its options; they are checked before.

    Attributes
    ----------
    bands
        Band name -> (stimulus, feature), float64.
    grid
        Penalties, low to high.
    weights, models
        Candidates (candidate, band), and which of them each model may take (model, candidate).
    selection, standardize, scale, precision, max_memory, device
        As in `nested_banded_ridge`; ``scale`` is true for ``"trace"``.
    """

    bands: Mapping[str, np.ndarray]
    grid: np.ndarray
    weights: np.ndarray
    models: np.ndarray
    selection: str
    standardize: bool
    scale: bool
    precision: str
    max_memory: int | str | None
    device: str

    def nested(
        self, Y: np.ndarray, outer: Sequence[Split], inner: Sequence[Sequence[Split]], band_predictions: bool
    ) -> list[NestedBandedFit]:
        """Return the fit of each model."""
        outer, inner = check_nested(outer, inner, len(Y), choosing=self._choosing)
        splits = [[(train[a], train[b]) for a, b in within] for (train, _), within in zip(outer, inner, strict=True)]
        usable = _usable(Y, [train for train, _ in outer])
        voxels = np.flatnonzero(usable)
        held = self.weights[:, None] * self.models.T[:, :, None] > 0  # (candidate, model, band)
        parts = [band_predictions and bool(of_model.all()) for of_model in held.any(axis=0)]
        kept = (len(parts) + len(self.bands) * sum(parts)) * Y.shape[0] * Y.shape[1] * 8
        search, bands, precision = self._prepare(voxels.size, outer, splits, kept)
        fits = [_Held.empty(self.bands, Y.shape, len(outer), kept_parts) for kept_parts in parts]
        for k, (train, test) in enumerate(outer):
            choice = self._choose(search, bands, Y, voxels, train, splits[k])
            sizes = bands.sizes(train) if self.scale else torch.ones(len(self.bands))
            design = bands.design(train, test, sizes if self.scale else None)
            mean, variance = _moments(Y, train, voxels)
            for model, held in enumerate(fits):
                weight = self.weights[choice.candidate[model]].T
                held.weight[k][:, voxels] = weight
                held.alpha[k][:, voxels] = _penalties(self.grid[choice.penalty[model]], weight, sizes)
                held.loss[k, voxels] = choice.loss[model]
                held.edge[k, voxels] = _edge(choice.penalty[model], len(self.grid))
                held.intercept[k, voxels], held.variance[k, voxels] = mean, variance
            for refit in search.refits(design, Y, voxels, train, choice):
                fits[refit.model].keep(refit, design, test, voxels[refit.places], mean[refit.places])
            for held in fits:
                held.score(k, Y, test, voxels)
        return [held.fit(precision, int((~usable).sum())) for held in fits]

    @property
    def _choosing(self) -> bool:
        """Whether anything is chosen by inner folds."""
        return self.selection == "kfold" and (len(self.grid) > 1 or bool((self.models.sum(axis=1) > 1).any()))

    def fit(self, Y: np.ndarray, folds: int | Sequence[Split]) -> BandedFit:
        """Return the fit of one model to all rows."""
        splits = check_folds(folds, len(Y)) if self._choosing else []
        rows, none = np.arange(len(Y)), np.arange(0)
        voxels = np.flatnonzero(_usable(Y, [rows]))
        p = [array.shape[1] for array in self.bands.values()]
        search, bands, _ = self._prepare(voxels.size, [(rows, none)], [list(splits)], sum(p) * Y.shape[1] * 8)
        choice = self._choose(search, bands, Y, voxels, rows, splits)
        sizes = bands.sizes(rows) if self.scale else torch.ones(len(p))
        design = bands.design(rows, none, sizes if self.scale else None)
        mean, _ = _moments(Y, rows, voxels)
        centre, scale = (values.cpu().numpy() for values in bands.scaling(rows))
        if self.scale:
            scale = scale * bands.each(sizes).sqrt().cpu().numpy()
        coef = np.full((sum(p), Y.shape[1]), np.nan)
        for refit in search.refits(design, Y, voxels, rows, choice):
            primal = design.band_weights(refit.dual, refit.weights).double().cpu().numpy()
            coef[:, voxels[refit.places]] = primal / scale[:, None]
        weight = self.weights[choice.candidate[0]].T

        def spread(values: np.ndarray) -> np.ndarray:
            full = np.full((*values.shape[:-1], Y.shape[1]), np.nan)
            full[..., voxels] = values
            return full

        return BandedFit(
            coef={band: coef[columns] for band, columns in zip(self.bands, bands.columns, strict=True)},
            intercept=spread(mean) - centre @ coef,
            alpha=spread(_penalties(self.grid[choice.penalty[0]], weight, sizes)),
            weight=spread(weight),
            loss=spread(choice.loss[0]),
            edge=spread(_edge(choice.penalty[0], len(self.grid))),
        )

    def _choose(
        self, search: Search, bands: Bands, Y: np.ndarray, voxels: np.ndarray, train: np.ndarray,
        splits: Sequence[Split],
    ) -> Choice:  # fmt: skip
        with working(check_threads(None)) as workers:
            return search.choose(bands, Y, voxels, train, splits, workers)

    def _prepare(
        self, n_voxels: int, outer: Sequence[Split], splits: Sequence[Sequence[Split]], kept: int
    ) -> tuple[Search, Bands, str]:
        """Settle precision and memory."""
        pairs = [pair for part in splits for pair in part]
        p = sum(array.shape[1] for array in self.bands.values())
        precision = self.precision
        if precision == "auto":
            precision = "float64" if self._flops(p, n_voxels, pairs) <= FLOAT64_FLOPS else "mixed"
        # designs and spectra in float64 whatever the precision: float32 does not resolve small penalties
        bands = Bands.of(list(self.bands.values()), self.standardize, torch.float64, self.device)
        n = max(len(train) + len(test) for train, test in outer)
        rank = min(n, p)
        validated = max((len(b) for part in splits for _, b in part), default=0)
        tile, threads = min(TILE, max(n_voxels, 1)), check_threads(None)
        stack = min(STACK_BYTES, 8 * len(self.grid) * validated * max(rank, tile))
        # features and one scaled copy, a kernel with its eigenvectors, every inner fold's spectrum, tiles, choices
        work = 16 * n * p + 32 * rank * (n + rank)
        work += max((8 * rank * sum(len(a) + len(b) for a, b in part) for part in splits), default=0)
        work += threads * (8 * 6 * n * tile + 2 * stack) + 20 * len(self.models) * n_voxels
        cache = CACHE_BYTES
        bound = parse_memory(self.max_memory)
        if bound is not None:
            if kept + work > bound:
                raise InputError(
                    f"max_memory={self.max_memory!r} is too little: predictions or weights take {readable(kept)} and the work "
                    f"{readable(work)}, so the least bound is {readable(kept + work)}; fewer voxels at a time take less"
                )
            cache = bound - kept - work
        dtype = torch.float64 if precision == "float64" else torch.float32
        search = Search(self.weights, self.models, self.grid, self.selection, self.scale, dtype, cache)
        return search, bands, precision

    def _flops(self, p: int, n_voxels: int, pairs: Sequence[Split]) -> float:
        """Return about how many operations the K-fold search takes."""
        total = 0.0
        for train, validation in pairs:
            rank = min(len(train), p)
            products = 2 * rank * n_voxels * (len(train) + len(self.grid) * len(validation))
            total += 10 * rank**3 + products
        return total * len(self.weights)


@dataclass(frozen=True)
class _Held:
    """Held-out results of one model while folds go by."""

    bands: tuple[str, ...]
    prediction: np.ndarray
    r: np.ndarray
    alpha: np.ndarray
    weight: np.ndarray
    loss: np.ndarray
    variance: np.ndarray
    edge: np.ndarray
    intercept: np.ndarray
    parts: np.ndarray | None

    @classmethod
    def empty(cls, bands: Mapping[str, np.ndarray], shape: tuple[int, ...], n_folds: int, parts: bool) -> _Held:
        each = np.full((n_folds, len(bands), shape[1]), np.nan)
        r, loss, variance, edge, intercept = np.full((5, n_folds, shape[1]), np.nan)
        held_out = np.full((len(bands), *shape), np.nan) if parts else None
        return cls(
            tuple(bands), np.full(shape, np.nan), r, each, each.copy(), loss, variance, edge, intercept, held_out
        )

    def keep(self, refit: Refit, design: Design, test: np.ndarray, voxels: np.ndarray, mean: np.ndarray) -> None:
        where = np.ix_(test, voxels)
        self.prediction[where] = refit.prediction.double().cpu().numpy() + mean
        if self.parts is not None:
            primal = design.band_weights(refit.dual, refit.weights)
            for part, columns in zip(self.parts, design.columns, strict=True):
                part[where] = (design.new[:, columns] @ primal[columns]).double().cpu().numpy()

    def score(self, k: int, Y: np.ndarray, test: np.ndarray, voxels: np.ndarray) -> None:
        for part in _parts(voxels):
            where = np.ix_(test, part)
            self.r[k, part] = column_correlation(self.prediction[where], Y[where].astype(np.float64))

    def fit(self, precision: str, n_unusable: int) -> NestedBandedFit:
        return NestedBandedFit(
            self.bands, self.prediction, self.r, self.alpha, self.weight, self.loss, self.variance, self.edge,
            self.intercept, self.parts, precision, n_unusable,
        )  # fmt: skip


def _parts(voxels: np.ndarray) -> Iterator[np.ndarray]:
    for tile in tiles(len(voxels)):
        yield voxels[tile]


def _usable(Y: np.ndarray, training: Sequence[np.ndarray]) -> np.ndarray:
    """Return a mask of voxels without missing values that vary in the training rows of every fold."""
    usable = np.zeros(Y.shape[1], dtype=bool)
    for tile in tiles(Y.shape[1]):
        values = np.asarray(Y[:, tile], dtype=np.float64)
        good = usable_voxels(values)
        for rows in training:
            good &= np.ptp(np.where(good, values[rows], 0.0), axis=0) > 0
        usable[tile] = good
    return usable


def _moments(Y: np.ndarray, rows: np.ndarray, voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of usable voxels over training rows."""
    mean, variance = np.empty(len(voxels)), np.empty(len(voxels))
    for tile in tiles(len(voxels)):
        values = Y[np.ix_(rows, voxels[tile])].astype(np.float64)
        mean[tile], variance[tile] = values.mean(axis=0), values.var(axis=0)
    return mean, variance


def _penalties(alpha: np.ndarray, weight: np.ndarray, sizes: torch.Tensor) -> np.ndarray:
    """Return each band's own penalty (band, voxel); infinite where its weight is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        each = alpha * sizes.cpu().numpy()[:, None] / weight
    return np.asarray(np.where(weight > 0, each, np.inf))


def _edge(penalty: np.ndarray, n_penalties: int) -> np.ndarray:
    if n_penalties == 1:
        return np.zeros(len(penalty))
    return np.select([penalty == 0, penalty == n_penalties - 1], [-1.0, 1.0], 0.0)
