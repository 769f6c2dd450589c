"""Banded ridge in tensors: bands weighed into one kernel, candidates judged, chosen ones refitted. Loads torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from topobrain.stats.folds import Split
from topobrain.stats.ridge.kernel_search import Choice, Spectrum, Targets, centred_tile, tiles
from topobrain.stats.ridge.workers import Workers


@dataclass(frozen=True)
class Bands:
    """Features of all bands side by side.

    Attributes
    ----------
    features
        (stimulus, feature), float64.
    columns
        The run of columns of each band.
    standardize
        Divide each feature by its standard deviation over the training rows.
    dtype
        Precision of the designs made; means and scales are float64.
    """

    features: torch.Tensor
    columns: tuple[slice, ...]
    standardize: bool
    dtype: torch.dtype

    @classmethod
    def of(
        cls, arrays: Sequence[np.ndarray], standardize: bool, dtype: torch.dtype = torch.float64, device: str = "cpu"
    ) -> Bands:
        """Join the bands' features."""
        together = np.concatenate(arrays, axis=1)
        ends = np.cumsum([array.shape[1] for array in arrays]).tolist()
        columns = tuple(slice(end - array.shape[1], end) for end, array in zip(ends, arrays, strict=True))
        return cls(torch.from_numpy(together).to(device), columns, standardize, dtype)

    def scaling(self, train: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and scale (feature,) over training rows."""
        X = self.features[torch.from_numpy(train).to(self.features.device)]
        mean, scale = X.mean(dim=0), X.std(dim=0, correction=0)
        # a feature that is constant up to rounding carries nothing: centred it is zero, so leave its scale alone
        tiny = scale <= 1e-10 * X.abs().amax(dim=0)
        return torch.where(tiny, X[0], mean), torch.where(tiny | (not self.standardize), 1.0, scale)

    def design(self, train: np.ndarray, new: np.ndarray, sizes: torch.Tensor | None = None) -> Design:
        """Return centred and scaled rows, each band divided by the root of its size."""
        mean, scale = self.scaling(train)
        if sizes is not None:
            scale = scale * self.each(sizes).sqrt()
        device = self.features.device

        def rows(numbers: np.ndarray) -> torch.Tensor:
            return ((self.features[torch.from_numpy(numbers).to(device)] - mean) / scale).to(self.dtype)

        return Design(rows(train), rows(new), self.columns)

    def each(self, values: torch.Tensor) -> torch.Tensor:
        """Return one value a band as one a feature."""
        return torch.cat([v.expand(c.stop - c.start) for v, c in zip(values, self.columns, strict=True)])

    def sizes(self, train: np.ndarray) -> torch.Tensor:
        """Return each band's total variance over training rows, 1 for a constant band."""
        rows = self.design(train, train[:0]).train
        total = torch.stack([rows[:, c].double().square().sum() / len(train) for c in self.columns])
        return torch.where(total > 0, total, 1.0)


@dataclass
class Design:
    """Training and new rows of all bands, centred and scaled by the training rows.

    Attributes
    ----------
    train, new
        (row, feature).
    columns
        The run of columns of each band.
    """

    train: torch.Tensor
    new: torch.Tensor
    columns: tuple[slice, ...]
    _products: tuple[torch.Tensor, torch.Tensor] | None = field(default=None, repr=False)

    @property
    def dual(self) -> bool:
        """Whether there are fewer training rows than features."""
        return self.train.shape[0] < self.train.shape[1]

    @property
    def products(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What every candidate is made of: kernels of each band (band, row, row), or all features' products."""
        if self._products is None:
            if self.dual:
                parts = [(self.train[:, c], self.new[:, c]) for c in self.columns]
                self._products = (torch.stack([a @ a.T for a, _ in parts]), torch.stack([b @ a.T for a, b in parts]))
            else:
                self._products = (self.train.T @ self.train, self.train[:0])
        return self._products

    @staticmethod
    def bytes_of(n_train: int, n_new: int, columns: Sequence[slice]) -> int:
        """Return the bytes of the rows and of their products."""
        p = columns[-1].stop
        products = len(columns) * (n_train + n_new) * n_train if n_train < p else p * p
        return int(8 * ((n_train + n_new) * p + products))

    def spectrum(self, weights: np.ndarray) -> Spectrum:
        """Return the spectrum of the kernel weighed by one weight a band."""
        first, second = self.products
        each = torch.from_numpy(weights).to(first)
        if self.dual:
            on = torch.from_numpy(np.flatnonzero(weights)).to(first.device)
            return Spectrum.of_kernel(
                torch.tensordot(each[on], first[on], dims=1), torch.tensordot(each[on], second[on], dims=1)
            )
        chosen = [c for w, c in zip(weights, self.columns, strict=True) if w > 0]
        place = torch.cat([torch.arange(c.start, c.stop) for c in chosen]).to(first.device)
        root = torch.cat(
            [each[b].sqrt().expand(c.stop - c.start) for b, c in enumerate(self.columns) if weights[b] > 0]
        )
        gram = first[place[:, None], place] * root * root[:, None]
        return Spectrum.of_features(self.train[:, place] * root, self.new[:, place] * root, gram)

    def band_weights(self, dual_weights: torch.Tensor, weights: np.ndarray) -> torch.Tensor:
        """Return primal weights (feature, voxel) from dual ones."""
        primal = self.train.T @ dual_weights
        for weight, columns in zip(weights, self.columns, strict=True):
            primal[columns] *= float(weight)
        return primal


@dataclass(frozen=True)
class Search:
    """What is looked for.

    Attributes
    ----------
    weights
        Candidates (candidate, band), each on the simplex.
    models
        Which candidates each model may take (model, candidate).
    grid
        Penalties, low to high.
    selection
        ``"kfold"``, ``"gcv"`` or ``"loo"``.
    scale
        Whether bands are divided by the root of their total variance first.
    dtype
        Precision of the products of K-fold selection; everything else is in that of the bands.
    cache
        Bytes that may be kept for designs of inner folds.
    """

    weights: np.ndarray
    models: np.ndarray
    grid: np.ndarray
    selection: str
    scale: bool
    dtype: torch.dtype
    cache: int

    @property
    def trivial(self) -> bool:
        """Whether there is nothing to choose."""
        alone = self.grid.size == 1 and bool((self.models.sum(axis=1) == 1).all())
        return alone and self.selection == "kfold"  # the closed forms report their score in any case

    def choose(
        self, bands: Bands, Y: np.ndarray, voxels: np.ndarray, train: np.ndarray, splits: Sequence[Split],
        workers: Workers,
    ) -> Choice:  # fmt: skip
        """Choose weights and penalty for each model and voxel inside training rows.

        ``splits`` hold row numbers of ``Y``; workers share out inner folds, then tiles of voxels.
        """
        choice = Choice.empty(len(self.models), len(voxels))
        if self.trivial:
            choice.candidate[:] = self.models.argmax(axis=1)[:, None]
            choice.loss[:] = np.nan
            return choice
        sizes = bands.sizes(train) if self.scale else None
        device = bands.features.device
        targets = Targets(Y, voxels, train, splits, torch.from_numpy(self.grid).to(device), self.selection)
        pairs = list(splits) if self.selection == "kfold" else [(train, train[:0])]
        keep = sum(Design.bytes_of(len(a), len(b), bands.columns) for a, b in pairs) <= self.cache
        dtype = self.dtype if self.selection == "kfold" else bands.dtype
        kept: dict[int, Design] = {}

        def design(number: int) -> Design:
            made = kept.get(number) or bands.design(*pairs[number], sizes)
            if keep:
                kept[number] = made
            return made

        for candidate, weights in enumerate(self.weights):
            models = self.models[:, candidate]
            if not models.any():
                continue

            def spectrum(number: int, weights: np.ndarray = weights) -> Spectrum:
                return design(number).spectrum(weights).to(dtype)

            targets.judge(workers.each(spectrum, range(len(pairs))), candidate, models, choice, workers)
        return choice

    def refits(
        self, design: Design, Y: np.ndarray, voxels: np.ndarray, train: np.ndarray, choice: Choice
    ) -> Iterator[Refit]:
        """Fit the chosen candidates again on all training rows, one candidate and a tile of voxels at a time."""
        for candidate in np.unique(choice.candidate):
            weights = self.weights[candidate]
            spectrum = design.spectrum(weights)
            for model in range(len(self.models)):
                takers = np.flatnonzero(choice.candidate[model] == candidate)
                for tile in tiles(len(takers)):
                    places = takers[tile]
                    given, _ = centred_tile(Y, train, voxels[places], spectrum.vectors)
                    alpha = torch.from_numpy(self.grid[choice.penalty[model, places]]).to(given)
                    shrunk = spectrum.vectors.T @ given / (spectrum.eigenvalues[:, None] + alpha)
                    yield Refit(model, weights, places, spectrum.rows @ shrunk, spectrum.vectors @ shrunk)


@dataclass(frozen=True)
class Refit:
    """A candidate fitted again to the voxels that chose it.

    Attributes
    ----------
    model
        Number of the model.
    weights
        (band,).
    places
        Places of the voxels among the usable ones.
    prediction
        Of the new rows, about the training mean (row, voxel).
    dual
        Dual weights (training row, voxel).
    """

    model: int
    weights: np.ndarray
    places: np.ndarray
    prediction: torch.Tensor
    dual: torch.Tensor
