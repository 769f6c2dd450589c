"""The measures of topography: what each needs, which nulls speak on it, and which way is more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from topobrain._checks import unknown
from topobrain.sheet import Sheet
from topobrain.stats.clusters import grow_clusters
from topobrain.stats.dimensionality import participation_ratio, rank_matched_null
from topobrain.stats.generic_topography import generic_topography, generic_topography_null
from topobrain.stats.islands import island_morans_i
from topobrain.stats.map_similarity import map_correlation, ssim
from topobrain.stats.morans import morans_i
from topobrain.stats.smoothness import (
    smoothness_tdann,
    smoothness_toponets,
    smoothness_toponets_null,
)
from topobrain.stats.spectrum import low_frequency_share

Needs = Literal["map", "t and p", "responses", "two maps"]
MapFunction = Callable[..., np.ndarray]
"""(maps (map, unit), sheet, **options) -> one value a map."""


@dataclass(frozen=True)
class Measure:
    """A measure of topography.

    Attributes
    ----------
    title
        What it asks, for axes and tables.
    needs
        ``"map"``: one value a unit (a t-map); ``"t and p"``: also its p-values; ``"responses"``: activations
        (stimulus, unit); ``"two maps"``: a map and the one it is set against.
    of
        The measure itself.
    null
        For measures of responses: draws of the layout null, (values, sheet, n_null, seed, **options) -> (null,).
    nulls
        Which nulls say something on it, the one that its plain columns show first.
    unfair
        Nulls that break what two maps agree by anyway (their smoothness), unless maps are smoothed after units have changed
        places: their mean and spread are kept, no z, p or corrected index is given.
    bounded
        Whether 1 is its highest value, so that (value - null) / (1 - null) means something.
    two_sided
        Whether neither direction is more topographic.
    source
        Where it comes from.
    own_options
        What ``options={name: {...}}`` may set (draws and seed are those of the whole measurement).
    """

    title: str
    needs: Needs
    of: Callable[..., Any]
    source: str
    null: Callable[..., np.ndarray] | None = None
    nulls: tuple[str, ...] = ("layout", "labels")
    unfair: tuple[str, ...] = ()
    bounded: bool = True
    two_sided: bool = False
    own_options: tuple[str, ...] = ()

    def check_options(self, name: str, given: Mapping[str, Any]) -> None:
        """Raise for an option the measure does not have."""
        for option in given:
            if option not in self.own_options:
                raise unknown(f"option of the measure {name!r}", option, self.own_options)


def _each(function: Callable[..., float]) -> MapFunction:
    """Return a measure of many maps from a measure of one."""

    def measured(maps: np.ndarray, sheet: Sheet, **options: Any) -> np.ndarray:
        return np.array([function(one, sheet, **options) for one in maps], dtype=np.float64)

    return measured


def _largest_cluster(t: np.ndarray, sheet: Sheet, **options: Any) -> float:
    sizes = grow_clusters(t, sheet, **options).sizes
    return float(max(sizes)) if len(sizes) else 0.0


def _n_clusters(t: np.ndarray, sheet: Sheet, **options: Any) -> float:
    return float(len(grow_clusters(t, sheet, **options).sizes))


def _low_frequency_share(maps: np.ndarray, sheet: Sheet, *, below: float | None = None) -> Any:
    """Return the share below a tenth of a cycle a grid step: patches of five units and more."""
    return low_frequency_share(maps, sheet, below=0.1 / sheet.spacing if below is None else below, fill="mean")


def _ssim(maps: np.ndarray, other: np.ndarray, sheet: Sheet, **options: Any) -> Any:
    return ssim(other, maps, sheet, **options)


def _map_correlation(maps: np.ndarray, other: np.ndarray, sheet: Sheet) -> Any:
    return map_correlation(other, maps)


def _generic(form: str) -> dict[str, Any]:
    def value(responses: np.ndarray, sheet: Sheet, **options: Any) -> float:
        return generic_topography(responses, sheet, form=form, **options)  # type: ignore[arg-type]

    def null(responses: np.ndarray, sheet: Sheet, *, n_null: int, seed: int, **options: Any) -> np.ndarray:
        return generic_topography_null(responses, sheet, n_null=n_null, seed=seed, form=form, **options)  # type: ignore[arg-type]

    return {"of": value, "null": null}


_WEIGHTING = ("neighbours", "reach", "row_standardised", "weights")
_BINS = ("n_bins", "low", "high")
_PAIRS = ("radii", "max_distance", "n_pairs")
_GROWTH = ("seed_threshold", "grow_threshold", "min_size", "neighbours")

MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "morans_i": Measure("Moran's I of the map", "map", morans_i, "Moran 1950; TopoLM", own_options=_WEIGHTING),
        "smoothness_tdann": Measure(
            "smoothness S of the map",
            "map",
            smoothness_tdann,
            "TDANN",
            own_options=(*_BINS, "n_samples", "sample_size", "seed"),
        ),
        "generic": Measure(
            "generic topography t_g of responses",
            "responses",
            source="Topoformer",
            nulls=("layout",),
            own_options=_PAIRS,
            **_generic("spearman"),
        ),
        "generic_pearson": Measure(
            "generic topography of responses, Pearson's form",
            "responses",
            source="Topoformer",
            nulls=("layout",),
            own_options=_PAIRS,
            **_generic("pearson"),
        ),
        "generic_ratio": Measure(
            "mean correlation / distance of responses",
            "responses",
            source="ITN",
            nulls=("layout",),
            bounded=False,
            own_options=_PAIRS,
            **_generic("ratio"),
        ),
        "smoothness_toponets": Measure(
            "response correlation, nearest minus farthest",
            "responses",
            smoothness_toponets,
            "TopoNets",
            null=smoothness_toponets_null,
            own_options=_BINS,
            nulls=("layout",),
            bounded=False,
        ),
        "low_frequency_share": Measure(
            "share of the map's variance at low frequency",
            "map",
            _low_frequency_share,
            "All-TNN",
            own_options=("below",),
        ),
        "n_clusters": Measure(
            "clusters of the map",
            "map",
            _each(_n_clusters),
            "TopoLM",
            bounded=False,
            two_sided=True,
            own_options=_GROWTH,
        ),
        "largest_cluster": Measure(
            "units in the largest cluster", "map", _each(_largest_cluster), "TopoLM", bounded=False, own_options=_GROWTH
        ),
        "island_morans_i": Measure(
            "mean Moran's I inside islands of significant units",
            "t and p",
            island_morans_i,
            "Topo-Omni",
            nulls=("layout",),
            own_options=("q", "top", "min_size"),
        ),
        "ssim": Measure(
            "structural similarity of two maps",
            "two maps",
            _ssim,
            "TopoNets",
            nulls=("torus", "labels", "layout"),
            unfair=("layout",),
            own_options=("sigma", "data_range", "level", "border"),
        ),
        "map_correlation": Measure(
            "correlation of two maps",
            "two maps",
            _map_correlation,
            "",
            nulls=("torus", "labels", "layout"),
            unfair=("layout",),
        ),
        "participation_ratio": Measure(
            "effective dimensionality of responses",
            "responses",
            participation_ratio,
            "TDANN, TopoNets",
            null=rank_matched_null,
            nulls=("rank",),
            own_options=("rank", "unbiased"),
            bounded=False,
            two_sided=True,
        ),
    }
)
"""The measures by name."""

DEFAULT = ("morans_i", "generic", "smoothness_tdann", "smoothness_toponets")
