"""Scores of one layer of one model against the cortex of every subject, with places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from topobrain._checks import InputError
from topobrain.activations import Activations
from topobrain.alignment.cortical_places import VoxelPlaces, voxel_places
from topobrain.encoding.cross_validation import Design
from topobrain.encoding.parts import scorable
from topobrain.responses import BrainResponses
from topobrain.sheet import Sheet
from topobrain.stats.bootstrap import bootstrap_scores
from topobrain.stats.paired_smoothness import corrected_for, exceedance, paired, paired_smoothness
from topobrain.stats.regions import region_means
from topobrain.stats.shared_components import held_out_components, most_components
from topobrain.stats.sheet_to_cortex import (
    LEAST_VOXELS,
    MappingScore,
    induced_orders,
    sheet_to_cortex_score,
    shuffled_within,
)

DEFAULT_COMPONENTS = 3
"""Components whose maps are measured where no number is given."""


@dataclass(frozen=True)
class SpatialOptions:
    """What decides the numbers; see `spatial_alignment`."""

    n_components: int | None
    n_voxel_folds: int
    n_sheet_modes: int | None
    n_cortex_modes: int | None
    alphas: tuple[float, ...]
    within_regions: bool
    n_null: int
    n_bootstrap: int
    seed: int
    method: Literal["pls", "cca", "pca"] = "pls"
    regularization: float = 1.0
    scale: bool = True


@dataclass(frozen=True)
class Brain:
    """The responses, subject by subject: the voxels with a place and a value for every stimulus."""

    values: np.ndarray
    places: VoxelPlaces
    columns: dict[str, np.ndarray]
    regions: np.ndarray
    ceiling: np.ndarray

    @classmethod
    def of(cls, responses: BrainResponses, design: Design) -> Brain:
        """Choose the voxels of each subject, or raise where a subject has too few."""
        places, Y = voxel_places(responses), np.asarray(responses.values, dtype=np.float64)
        useful = scorable(Y, design) & np.isfinite(places.coordinates).all(axis=1)
        owner, columns = responses.labels("subject"), {}
        for subject in responses.subjects:
            columns[subject] = np.flatnonzero((owner == subject) & useful)
            if columns[subject].size < LEAST_VOXELS:
                raise InputError(
                    f"subject {subject!r} has {columns[subject].size} voxels with a place and usable values (of "
                    f"{int((owner == subject).sum())}): spatial alignment needs {LEAST_VOXELS} or more. Averages of ROIs are no "
                    "map; leave subjects out with targets={'subject': [...]}"
                )
        known = responses.data["ceiling"].values.astype(np.float64)
        number = {roi: i for i, roi in enumerate(responses.rois)}
        regions = np.array([number[roi] for roi in responses.labels("roi")])
        ceiling = np.array([known[own].mean() for own in columns.values()])
        return cls(Y, places, columns, regions, ceiling)

    @property
    def used(self) -> np.ndarray:
        """All voxels that are used."""
        return np.sort(np.concatenate(list(self.columns.values())))

    def orders(self, n_null: int, *, within_regions: bool, seed: int) -> list[np.ndarray]:
        """Return the orders (null, voxel) in which each subject's voxels are shuffled: together, over the places of all.

        One permutation of the union of places a draw; each subject takes the order it induces on its own voxels. So subjects
        that share a map have it shuffled alike, whichever voxels each of them lacks. (Six simulated subjects share a rough map
        and lack 0 to 5 of 60 voxels: sd of z over 48 data sets .94; with the same voxels .86; each shuffled by itself 1.22.)
        Where no place is shared, subjects are shuffled independently.
        """
        number: dict[tuple[object, ...], int] = {}
        labels, own = [], []
        for columns in self.columns.values():
            seen: dict[tuple[object, ...], int] = {}
            mine = []
            for column in columns:
                region = int(self.regions[column]) if within_regions else 0
                place = (region, *(self.places.coordinates[column] + 0.0).tolist())
                seen[place] = seen.get(place, -1) + 1  # several voxels in one place stay several
                key = (*place, seen[place])
                if key not in number:
                    number[key] = len(number)
                    labels.append(region)
                mine.append(number[key])
            own.append(np.array(mine))
        if len(number) == sum(map(len, own)):
            seeds = [seed, *np.random.SeedSequence([seed, 1]).generate_state(len(own) - 1).tolist()]
            return [
                shuffled_within(np.array(labels)[mine], n_null, seed=of) for mine, of in zip(own, seeds, strict=True)
            ]
        orders = shuffled_within(np.array(labels), n_null, seed=seed)
        return [induced_orders(orders, mine) for mine in own]


@dataclass(frozen=True)
class WeightMaps:
    """Weight maps of shared components over all units of a layer and all voxels, NaN where left out; their held-out r."""

    unit: np.ndarray
    voxel: np.ndarray
    r: np.ndarray


@dataclass(frozen=True)
class LayerSpatial:
    """What one layer of one model scored: arrays with the subjects first, then as in `SpatialAlignment`."""

    mapping: list[MappingScore]
    draws: np.ndarray
    weights: WeightMaps
    smoothness: dict[str, np.ndarray]

    @property
    def r(self) -> float:
        """Held-out r of the map, mean over subjects."""
        return float(np.mean([one.r for one in self.mapping]))

    @property
    def fold_r(self) -> np.ndarray:
        """The same of each stimulus fold."""
        return np.asarray(np.mean([one.fold_r for one in self.mapping], axis=0))

    def null(self, side: str) -> np.ndarray:
        """Return the draws of a null, means over subjects: every draw shuffles the places of all of them."""
        return np.asarray(np.mean([getattr(one, f"null_{side}") for one in self.mapping], axis=0))

    @property
    def floor(self) -> float:
        """The mean of the higher null."""
        return max(float(self.null(side).mean()) for side in ("units", "voxels"))

    @property
    def excess(self) -> float:
        """What r has above the floor."""
        return self.r - self.floor

    def p(self, side: str) -> float:
        """Return the one-sided p against one null."""
        return float(exceedance(self.r, self.null(side)))


@dataclass(frozen=True)
class Model:
    """A model or control: for each layer of the model, its features and sheet."""

    name: str
    features: dict[str, np.ndarray]
    sheets: dict[str, Sheet]
    kept: dict[str, np.ndarray]

    def used(self, layer: str) -> np.ndarray:
        """Return the units of a layer that are asked for (stimulus, unit), float32 as they were given."""
        return self.features[layer][:, self.kept[layer]].astype(np.float32)

    @classmethod
    def of(
        cls, name: str, activations: Activations, layers: Sequence[str], own: Sequence[str], rows: np.ndarray,
        mask: np.ndarray,
    ) -> Model:  # fmt: skip
        """Read the layers, or raise naming one without a layout."""
        features, sheets, chosen = {}, {}, {}
        for layer, of in zip(layers, own, strict=True):
            sheets[layer] = activations.sheet(of)
            if not sheets[layer].has_layout:
                raise InputError(
                    f"layer {of!r} of {name} has no layout (Sheet.none): spatial alignment asks where its units lie. Leave the "
                    f"layer out with layers=, give it a sheet (Sheet.for_width({sheets[layer].n_units})), or use align, which "
                    "needs no places"
                )
            kept = chosen[layer] = mask[activations.unit_slice(of)]
            # units that are not asked for are made constant, which leaves them out while the sheet stays whole
            features[layer] = np.where(kept, activations.values(of)[rows].astype(np.float64), 0.0)
            if (features[layer] == features[layer][:1]).all():
                raise InputError(
                    f"layer {of!r} of {name} answers every stimulus alike: it has no map; leave it out with layers="
                )
        return cls(name, features, sheets, chosen)


def fitted_weights(
    X: np.ndarray, brain: Brain, design: Design, count: int | None, options: SpatialOptions
) -> WeightMaps:
    """Fit the components that a layer shares with all voxels of all subjects, by the method of the options."""
    varies = np.ptp(X, axis=0) > 0
    known, wanted = X[:, varies], brain.values[:, brain.used]
    if count is None:
        count = min(DEFAULT_COMPONENTS, most_components(known.shape, wanted.shape, design.outer))
    held = held_out_components(
        known, wanted, design.outer, count,
        method=options.method, regularization=options.regularization, scale=options.scale,
    )  # fmt: skip
    unit, voxel = np.full((count, X.shape[1]), np.nan), np.full((count, brain.values.shape[1]), np.nan)
    unit[:, varies], voxel[:, brain.used] = held.x_weights, held.y_weights
    return WeightMaps(unit, voxel, held.r.mean(axis=0))


def score_layer(
    model: Model, layer: str, brain: Brain, design: Design, options: SpatialOptions, weights: WeightMaps | None,
    count: int | None,
) -> LayerSpatial:  # fmt: skip
    """Score one layer of one model, subject by subject."""
    X, sheet = model.features[layer], model.sheets[layer]
    if weights is None:
        weights = fitted_weights(X, brain, design, count, options)
    mapping, draws, smooth = [], [], []
    orders = brain.orders(options.n_null, within_regions=options.within_regions, seed=options.seed)
    for own, order in zip(brain.columns.values(), orders, strict=True):
        Y, places = brain.values[:, own], brain.places.coordinates[own]
        made = sheet_to_cortex_score(
            X, sheet, Y, places,
            stimulus_folds=design.outer, inner_folds=design.inner_splits, n_voxel_folds=options.n_voxel_folds,
            n_sheet_modes=options.n_sheet_modes, n_cortex_modes=options.n_cortex_modes, alphas=options.alphas,
            voxel_orders=order, n_null=options.n_null, seed=options.seed,
        )  # fmt: skip
        mapping.append(made)
        if options.n_bootstrap and not design.one_block_a_fold:
            found = bootstrap_scores(
                made.prediction, Y, design.outer, np.zeros(own.size, dtype=np.int64),
                n_regions=1, n_bootstrap=options.n_bootstrap, blocks=design.blocks, seed=options.seed,
            )  # fmt: skip
            draws.append(region_means(found.sums, found.n_usable).mean(axis=(0, 1)))
        smooth.append(paired_smoothness(weights.unit, sheet, weights.voxel[:, own], places, seed=options.seed))
    first = smooth[0]
    voxel_i, voxel_null = (np.stack([getattr(one, name) for one in smooth]) for name in ("voxel_i", "voxel_null"))
    together_p = exceedance(voxel_i.mean(axis=0), voxel_null.mean(axis=0))
    corrected = corrected_for(voxel_i, voxel_null)
    smoothness = {
        "smoothness": paired(first.unit_corrected[None], corrected).mean(axis=0),
        "smoothness_p": np.maximum(first.unit_p, together_p),
        "unit_smoothness": first.unit_i,
        "unit_smoothness_corrected": first.unit_corrected,
        "unit_smoothness_p": first.unit_p,
        "voxel_smoothness": voxel_i,
        "voxel_smoothness_corrected": corrected,
        "voxel_smoothness_p": np.stack([one.voxel_p for one in smooth]),
    }
    return LayerSpatial(mapping, np.mean(draws, axis=0) if draws else np.zeros(0), weights, smoothness)
