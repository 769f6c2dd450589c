"""partition_variance: what does the model explain beyond length, frequency and surprisal?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import xarray as xr

from topobrain._checks import InputError, listed, near, require_choice
from topobrain.activations import Activations
from topobrain.encoding.assembling import region_numbers
from topobrain.encoding.cross_validation import Design, FoldChoice, make_design
from topobrain.encoding.matching import chosen_voxels, equal_rows, layer_features, match_stimuli, row_keys, unit_mask
from topobrain.encoding.parts import scorable, without_unusable
from topobrain.responses import BrainResponses
from topobrain.results import Result
from topobrain.stats import variance_partitioning
from topobrain.stats.ridge import check_alphas
from topobrain.stats.ridge.banded import check_bands, nested_banded_models
from topobrain.stats.ridge.memory import parse_memory
from topobrain.stats.variance_partitioning import VariancePartition, product_measure, sub_models

if TYPE_CHECKING:
    import pandas as pd

ALPHAS = tuple(float(a) for a in np.logspace(-3, 5, 17))
"""Default penalties, for bands scaled to unit total variance: from almost none to almost constant predictions."""

QUANTILES = (0.025, 0.975)

TOTAL = "total"
"""Name of the full model's row in `Partition.summary`."""

CHUNK_BYTES = 2**30
"""Bytes that the predictions of one chunk of voxels may take where no bound is given."""


class Partition(Result):
    """Held-out variance of brain responses divided between bands of features.

    A component is a set of bands: one band names its unique part, ``a & b`` what a and b share and no other band has.
    ``variance low high normalized (component, voxel)``: the part (R2, mean over folds), its 95 % bootstrap interval over
    stimuli, and the part divided by the squared noise ceiling; parts add up to ``total (voxel)``, the R2 of all bands
    together. ``r2 r (model, fold, voxel)``: scores of every model made of the bands. ``unique_r (band, voxel)``: what r
    loses without the band. ``product (band, voxel)``: the band's share of the full model's prediction. ``alpha weight
    (band, fold, voxel)``: the full model's penalties and kernel shares.

    Regions: ``region_variance region_low region_high region_normalized (component, region)`` and the like for ``total``
    and ``unique_r``, means over usable voxels; ``region_draws (component, region, draw)`` are the draws behind them.

    Nothing is clipped: held-out parts can be negative.
    """

    kind: ClassVar[str] = "partition"
    schema: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **dict.fromkeys(("variance", "low", "high", "normalized"), ("component", "voxel")),
        "total": ("voxel",),
        "r2": ("model", "fold", "voxel"),
        "r": ("model", "fold", "voxel"),
        "unique_r": ("band", "voxel"),
        "product": ("band", "voxel"),
        "alpha": ("band", "fold", "voxel"),
        "weight": ("band", "fold", "voxel"),
        "ceiling": ("voxel",),
        "roi": ("voxel",),
        "subject": ("voxel",),
        **{f"region_{name}": ("component", "region") for name in ("variance", "low", "high", "normalized")},
        **{f"region_total{name}": ("region",) for name in ("", "_low", "_high", "_normalized")},
        **{f"region_unique_r{name}": ("band", "region") for name in ("", "_low", "_high")},
        "region_product": ("band", "region"),
        "region_r2": ("model", "region"),
        "region_ceiling_squared": ("region",),
    }

    @property
    def bands(self) -> list[str]:
        """The bands, in the order given."""
        return [str(band) for band in self.data["band"].values]

    def summary(self) -> pd.DataFrame:
        """Return one row a component and ROI: ``component part roi n_voxels variance low high normalized unique_r ...``.

        ``part`` is ``"unique"``, ``"shared"`` or ``"total"``; ``unique_r`` with ``unique_r_low`` and ``unique_r_high`` and
        ``product`` are given for single bands.
        """
        import pandas as pd

        rows = []
        names = ("variance", "low", "high", "normalized")
        for j, region in enumerate(self.labels("region")):
            size = {"roi": region, "n_voxels": int(self.data["region_voxels"].values[j])}
            for i, component in enumerate(self.labels("component")):
                alone = i < len(self.bands)  # single bands come first
                row = {"component": component, "part": "unique" if alone else "shared", **size}
                row |= {name: float(self.data[f"region_{name}"].values[i, j]) for name in names}
                for name in ("unique_r", "unique_r_low", "unique_r_high", "product"):
                    row[name] = float(self.data[f"region_{name}"].values[i, j]) if alone else np.nan
                rows.append(row)
            total = {
                name: float(self.data["region_total" + ("" if name == "variance" else f"_{name}")].values[j])
                for name in names
            }
            rows.append({"component": TOTAL, "part": "total", **size, **total})
        return pd.DataFrame(rows)

    def models(self) -> pd.DataFrame:
        """Return one row a model and ROI: ``model roi n_voxels r2 r``, means over folds and usable voxels."""
        import pandas as pd

        rows = []
        roi = self.labels("roi")
        for i, model in enumerate(self.labels("model")):
            for j, region in enumerate(self.labels("region")):
                r = self.data["r"].values[i].mean(axis=0)[roi == region]
                rows.append(
                    {
                        "model": model,
                        "roi": region,
                        "n_voxels": int(self.data["region_voxels"].values[j]),
                        "r2": float(self.data["region_r2"].values[i, j]),
                        "r": float(np.nanmean(r)) if np.isfinite(r).any() else np.nan,
                    }
                )
        return pd.DataFrame(rows)


def partition_variance(
    features: Mapping[str, Activations],
    responses: BrainResponses,
    *,
    layers: Mapping[str, str] | None = None,
    alphas: Any = ALPHAS,
    folds: FoldChoice = "auto",
    n_folds: int = 5,
    inner_folds: int = 5,
    selection: Literal["kfold", "gcv", "loo"] = "kfold",
    n_weights: int = 20,
    standardize: bool = True,
    about: Literal["training", "test"] = "training",
    targets: Mapping[str, Any] | None = None,
    gap: int | None = None,
    n_bootstrap: int = 1000,
    allow_duplicates: bool = False,
    precision: Literal["auto", "float64", "mixed", "float32"] = "auto",
    max_memory: int | str | None = None,
    device: str | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Partition:
    """Divide held-out variance of brain responses into what is unique to bands of features and what they share.

    Every set of bands is a model: banded ridge regression with a penalty a band and voxel, chosen inside the training
    stimuli (`topobrain.stats.nested_banded_models`). Their scores on held-out stimuli give, by inclusion and exclusion,
    the part that only the model explains, only word length, both, and so on. The parts add up to the R2 of all bands
    together. Bands are scaled to equal total variance first, so that a band of 768 units and one of 1 start alike.

    The work is that of ``n_weights`` nested fits for every set of two bands or more; ``selection="gcv"`` is many times faster.

    Parameters
    ----------
    features
        Band name -> activations, 2 to 4 bands; each holds exactly the stimuli of ``responses``, in any order. Measures of
        stimuli (length, frequency, surprisal) become a band by ``Activations.from_arrays({"length": column}, stimuli)``.
    responses
        Brain responses (stimulus, voxel). Voxels with a missing value and constant voxels come back as NaN, counted.
    layers
        Band -> layer, for bands with several layers.
    alphas
        Penalties to choose from, in units of one stimulus, for bands scaled to unit total variance.
    folds, n_folds, inner_folds, targets, gap, allow_duplicates
        As in `encode`; two stimuli count as duplicates where all bands are equal.
    selection
        ``"kfold"``, ``"gcv"`` or ``"loo"``; the last two are closed forms that treat stimuli as independent.
    n_weights
        Candidate shares of bands for every set of bands.
    standardize
        Scale each feature to unit variance over the training stimuli.
    about
        What R2 is taken about: ``"training"``, the mean of the training responses, or ``"test"``; see
        `topobrain.stats.held_out_r2`.
    n_bootstrap
        Draws of the intervals over stimuli, the same for all models; 0 for none.
    precision, device, max_memory
        As in `encode`; the bound also decides how many voxels are fitted at a time.
    seed
        Seed of shuffled folds, candidate shares and bootstrap.
    progress
        Called with (voxels done, voxels in all).

    Returns
    -------
    Partition

    Raises
    ------
    InputError
        One band or more than four, a constant band, missing values (named), stimuli that differ, leaking folds.

    References
    ----------
    de Heer et al. (2017), J. Neurosci. 37:6539 (variance partitioning); Dupre la Tour et al. (2022), NeuroImage
    264:119728 (banded ridge regression and how to decompose its R2).
    """
    if min(n_bootstrap, seed) < 0:
        raise InputError(f"n_bootstrap and seed must be 0 or more; got {n_bootstrap} and {seed}")
    require_choice("about", about, ("training", "test"))
    responses = chosen_voxels(responses, targets)
    chosen = _layers(features, layers)
    models = sub_models(list(chosen))
    bands = _read(features, chosen, responses)
    repeats = np.arange(len(next(iter(bands.values()))))
    if not allow_duplicates:
        repeats = equal_rows([row_keys(values) for values in bands.values()])
    grid = check_alphas(alphas)
    design = make_design(
        responses, repeats, folds,
        n_folds=n_folds, inner_folds=inner_folds, gap=gap, allow_duplicates=allow_duplicates, seed=seed,
    )  # fmt: skip
    options = {
        "alphas": grid.tolist(), "selection": selection, "n_weights": n_weights, "standardize": standardize,
        "precision": precision, "max_memory": max_memory, "device": device, "seed": seed,
    }  # fmt: skip
    regions, roi = region_numbers(responses)
    run = _Run(check_bands(bands), models, design, options, roi, len(regions), about, n_bootstrap)
    chunks = run.over(responses.values, _chunk(responses.values.shape, len(models), len(bands), max_memory), progress)
    kept = {
        **options, "layers": chosen, "about": about, "n_bootstrap": n_bootstrap, "targets": dict(targets or {}),
        "allow_duplicates": allow_duplicates, "scale": "trace",
    }  # fmt: skip
    sources = {band: activations.provenance for band, activations in features.items()}
    return _result(chunks, responses, design, regions, roi, kept, sources)


def _layers(features: Mapping[str, Activations], layers: Mapping[str, str] | None) -> dict[str, str]:
    """Return the layer of each band."""
    if not isinstance(features, Mapping) or not all(isinstance(a, Activations) for a in features.values()):
        raise InputError("features map a band's name to its Activations, e.g. {'model': acts, 'length': lengths}")
    extra = [name for name in layers or {} if name not in features]
    if extra:
        guess = near(extra[0], features)
        raise InputError(
            f"layers name the band {extra[0]!r}, the bands are {listed(features)}"
            + (f"; did you mean {guess[0]!r}?" if guess else "")
        )
    chosen = {}
    for band, activations in features.items():
        if not isinstance(band, str) or not band.strip() or "&" in band or band == TOTAL:
            raise InputError(
                f"{band!r} cannot name a band: names are text without '&' (which joins bands) and not {TOTAL!r}"
            )
        known = activations.layers
        if len(known) > 1 and band not in (layers or {}):
            raise InputError(
                f"band {band!r} has {len(known)} layers ({listed(known, 4)}); name one: layers={{{band!r}: ...}}"
            )
        chosen[band] = (layers or {}).get(band, known[0])
        activations.sheet(chosen[band])  # an unknown layer raises with near names
    return chosen


def _read(
    features: Mapping[str, Activations], chosen: Mapping[str, str], responses: BrainResponses
) -> dict[str, np.ndarray]:
    """Return each band's features in the order of the responses, or raise naming the band."""
    bands = {}
    for band, activations in features.items():
        try:
            rows = match_stimuli(activations, responses)
            values = layer_features(activations, chosen[band], rows, unit_mask(activations, None))
        except InputError as error:
            raise InputError(f"band {band!r}: {error}") from error
        if not np.isfinite(values).all():
            row, unit = np.argwhere(~np.isfinite(values))[0]
            label = responses.labels("stimulus")[row]
            raise InputError(f"band {band!r} holds {values[row, unit]} for stimulus {label!r}, unit {unit}")
        if (np.ptp(values, axis=0) == 0).all():
            raise InputError(f"band {band!r} is the same for every stimulus: it can explain nothing, leave it out")
        bands[band] = values
    return bands


def _chunk(shape: tuple[int, ...], n_models: int, n_bands: int, max_memory: int | str | None) -> int:
    """Return how many voxels to fit at a time: their predictions take at most a third of the bound."""
    given = parse_memory(max_memory)
    bound = CHUNK_BYTES if given is None else given // 3
    return max(1, min(shape[1], int(bound // (8 * shape[0] * (n_models + n_bands + 2)))))


@dataclass(frozen=True)
class _Chunk:
    """What one chunk of voxels came to."""

    scores: VariancePartition
    product: np.ndarray
    alpha: np.ndarray
    weight: np.ndarray
    edge: np.ndarray
    precision: str


@dataclass(frozen=True)
class _Run:
    """A partition before its voxels are gone through."""

    bands: dict[str, np.ndarray]
    models: list[tuple[str, ...]]
    design: Design
    options: dict[str, Any]
    roi: np.ndarray
    n_regions: int
    about: Literal["training", "test"]
    n_bootstrap: int

    def over(self, Y: np.ndarray, size: int, progress: Callable[[int, int], None] | None) -> list[_Chunk]:
        chunks = []
        for start in range(0, Y.shape[1], size):
            chunks.append(self.chunk(Y[:, start : start + size], self.roi[start : start + size]))
            if progress is not None:
                progress(min(start + size, Y.shape[1]), Y.shape[1])
        return chunks

    def chunk(self, Y: np.ndarray, roi: np.ndarray) -> _Chunk:
        target = without_unusable(Y, scorable(Y, self.design))
        outer = self.design.outer
        inner = self.design.inner_splits if self.options["selection"] == "kfold" else [()] * len(outer)
        fits = nested_banded_models(
            self.bands, target, self.models,
            outer=outer.splits, inner=inner, scale="trace", band_predictions=True, **self.options,
        )  # fmt: skip
        scores = variance_partitioning.partition_variance(
            {model: fit.prediction for model, fit in fits.items()}, target, outer,
            roi=roi, n_regions=self.n_regions, about=self.about, n_bootstrap=self.n_bootstrap,
            blocks=self.design.blocks, seed=self.options["seed"],
        )  # fmt: skip
        full = fits[self.models[-1]]
        assert full.band_prediction is not None
        product = product_measure(full.band_prediction, target, outer).mean(axis=1)
        return _Chunk(scores, product, full.alpha, full.weight, full.edge, full.precision)


def _result(
    chunks: list[_Chunk], responses: BrainResponses, design: Design, regions: list[str], roi: np.ndarray,
    options: dict[str, Any], sources: Mapping[str, Any],
) -> Partition:  # fmt: skip
    first = chunks[0].scores

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(chunk.scores, name) for chunk in chunks], axis=-1)

    def fitted(name: str) -> np.ndarray:
        return np.concatenate([getattr(chunk, name) for chunk in chunks], axis=-1)

    usable = joined("usable")
    n_usable = np.sum([chunk.scores.n_usable for chunk in chunks], axis=0)
    members = (roi[:, None] == np.arange(len(regions))) & usable[:, None]
    count = np.where(n_usable > 0, n_usable, np.nan)

    def by_region(values: np.ndarray) -> np.ndarray:
        return np.asarray(np.where(usable, values, 0.0) @ members / count)

    def draws(name: str) -> np.ndarray:
        return np.asarray(np.sum([getattr(chunk.scores, name) for chunk in chunks], axis=0) / count[:, None])

    def interval(values: np.ndarray) -> np.ndarray:
        if not values.shape[-1]:
            return np.full((2, *values.shape[:-1]), np.nan)
        return np.asarray(np.quantile(values, QUANTILES, axis=-1))

    variance, unique_r = joined("part").mean(axis=1), joined("unique_r").mean(axis=1)
    r2, product = joined("r2"), fitted("product")
    total = r2[-1].mean(axis=0)
    ceiling = np.asarray(responses.data["ceiling"].values, dtype=float)
    squared = np.where(ceiling > 0, ceiling, np.nan) ** 2
    # a region's ceiling is known for all of its usable voxels, or not known
    region_squared = np.array(
        [squared[(roi == j) & usable].mean() if n_usable[j] else np.nan for j in range(len(regions))]
    )
    part_draws, r_draws = draws("part_sums"), draws("unique_r_sums")
    (low, high), (r_low, r_high) = interval(part_draws), interval(r_draws)
    total_low, total_high = interval(part_draws.sum(axis=0))
    each, models = ("component", "region"), [" & ".join(model) for model in first.models]
    data = xr.Dataset(
        {
            "variance": (("component", "voxel"), variance),
            "low": (("component", "voxel"), joined("low")),
            "high": (("component", "voxel"), joined("high")),
            "normalized": (("component", "voxel"), variance / squared),
            "total": (("voxel",), total),
            "r2": (("model", "fold", "voxel"), r2),
            "r": (("model", "fold", "voxel"), joined("r")),
            "unique_r": (("band", "voxel"), unique_r),
            "product": (("band", "voxel"), product),
            "alpha": (("band", "fold", "voxel"), fitted("alpha").transpose(1, 0, 2)),
            "weight": (("band", "fold", "voxel"), fitted("weight").transpose(1, 0, 2)),
            "edge": (("fold", "voxel"), fitted("edge")),
            "ceiling": (("voxel",), ceiling),
            "region_variance": (each, by_region(variance)),
            "region_low": (each, low),
            "region_high": (each, high),
            "region_normalized": (each, by_region(variance) / region_squared),
            "region_total": (("region",), by_region(total)),
            "region_total_low": (("region",), total_low),
            "region_total_high": (("region",), total_high),
            "region_total_normalized": (("region",), by_region(total) / region_squared),
            "region_unique_r": (("band", "region"), by_region(unique_r)),
            "region_unique_r_low": (("band", "region"), r_low),
            "region_unique_r_high": (("band", "region"), r_high),
            "region_product": (("band", "region"), by_region(product)),
            "region_r2": (("model", "region"), by_region(r2.mean(axis=1))),
            "region_ceiling_squared": (("region",), region_squared),
            "region_voxels": (("region",), n_usable.astype(int)),
            "region_draws": (("component", "region", "draw"), part_draws.astype(np.float32)),
            "test_fold": (("stimulus",), design.outer.test_fold(len(design.groups))),
        },
        coords={
            "component": ("component", np.array(models, dtype=object)),
            "model": ("model", np.array(models, dtype=object)),
            "band": ("band", np.array(first.bands, dtype=object)),
            "fold": ("fold", np.arange(len(design.outer))),
            "region": ("region", np.array(regions, dtype=object)),
            "stimulus": ("stimulus", responses.labels("stimulus")),
            **{
                str(name): ("voxel", coord.values)
                for name, coord in responses.data.coords.items()
                if coord.dims == ("voxel",) and name != "ceiling"
            },
        },
        attrs=Partition.attributes(_provenance(chunks, responses, design, options, sources, usable)),
    )
    # where the voxels lie, for maps in brain space
    for name in ("space", "affine", "shape", "n_vertices_left", "n_vertices_right"):
        if name in responses.data.attrs:
            data.attrs[name] = responses.data.attrs[name]
    return Partition(data)


def _provenance(
    chunks: list[_Chunk], responses: BrainResponses, design: Design, options: dict[str, Any],
    sources: Mapping[str, Any], usable: np.ndarray,
) -> dict[str, Any]:  # fmt: skip
    edge = np.concatenate([chunk.edge for chunk in chunks], axis=-1)[:, usable]
    return {
        "bands": {band: {k: v for k, v in fields.items() if k != "versions"} for band, fields in sources.items()},
        "responses": {k: v for k, v in responses.provenance.items() if k != "versions"},
        "partition": {
            **options,
            "precision": chunks[0].precision,
            "folds": design.outer.scheme,
            "n_folds": len(design.outer),
            "inner_folds": design.inner_folds,
            "gap": design.gap,
            "n_groups": len(np.unique(design.groups)),
            "interval": "95 % bootstrap over stimuli, paired over models",
            "n_unusable_voxels": int((~usable).sum()),
            "share_at_lowest_alpha": float((edge == -1).mean()) if edge.size else None,
            "share_at_highest_alpha": float((edge == 1).mean()) if edge.size else None,
        },
    }
