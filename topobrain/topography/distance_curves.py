"""distance_curve: how alike units are at each distance on their sheet, beside the same units in other places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr

from topobrain._checks import InputError
from topobrain.activations import Activations
from topobrain.results import Result
from topobrain.selectivity.result import Selectivity
from topobrain.selectivity.t_maps import varies
from topobrain.stats.smoothness import (
    distance_bins,
    response_correlation_curve,
    response_correlation_curve_null,
    selectivity_difference_curve,
    selectivity_difference_curve_null,
)
from topobrain.topography.measuring import MAX_PAIRED_UNITS, MIN_UNITS

if TYPE_CHECKING:
    import pandas as pd

CURVE = ("value", "null_mean", "null_low", "null_high", "n_pairs", "distance")


class DistanceCurve(Result):
    """Mean of a pairwise quantity at each distance, and the same with the units' places permuted.

    ``value null_mean null_low null_high n_pairs distance (layer, bin)``: the mean over the pairs of a bin, mean and middle
    95 % of its layout null, the number of pairs, and the bin's centre in the unit of the sheet's spacing.
    """

    kind: ClassVar[str] = "distance_curve"
    schema: ClassVar[Mapping[str, tuple[str, ...]]] = dict.fromkeys(CURVE, ("layer", "bin"))

    @property
    def quantity(self) -> str:
        """What the curve averages: ``"response correlation"`` or ``"difference of t"``."""
        return str(self.provenance["distance_curve"]["quantity"])

    @property
    def layers(self) -> list[str]:
        """The layers with a curve."""
        return [str(name) for name in self.data["layer"].values]

    def summary(self) -> pd.DataFrame:
        """Return one row a layer and bin."""
        return self.data[list(CURVE)].to_dataframe().reset_index()


def distance_curve(
    result: Activations | Selectivity,
    *,
    layers: Sequence[str] | None = None,
    contrast: str | None = None,
    n_bins: int | None = None,
    low: float | None = None,
    high: float | None = None,
    n_null: int = 200,
    seed: int = 0,
) -> DistanceCurve:
    """Measure how two units' responses, or their selectivity, depend on how far apart they lie.

    Parameters
    ----------
    result
        Activations give the mean correlation of responses, a t-map the mean absolute difference of t.
    layers
        Layers to measure (default: all that have a layout).
    contrast
        The contrast of the t-maps, if there are several.
    n_bins, low, high
        Equal bins of distance, in the unit of the sheets' spacing; by default 20 from the spacing to half the shorter side
        of each sheet, fewer where they would be narrower than its places.
    n_null, seed
        Permutations of the units' places for the null band, at least 2, and their seed.

    Returns
    -------
    DistanceCurve

    Raises
    ------
    InputError
        No layer has a layout.
    """
    if not isinstance(result, Activations | Selectivity):
        raise InputError(f"distance_curve measures activations or t-maps, got {type(result).__name__}")
    wanted = [name for name in result.layers if result.sheet(name).has_layout] if layers is None else list(layers)
    if not wanted:
        raise InputError("no layer of this result has a layout: distances between its units are not defined")
    if n_null < 2 or seed < 0:
        raise InputError(f"n_null must be at least 2 and seed at least 0; got {n_null} and {seed}")
    if isinstance(result, Activations) and contrast is not None:
        raise InputError("activations have no contrast: give t-maps (localize) for the curve of one")
    for layer in wanted:
        result.sheet(layer).require_layout(f"a distance curve of layer {layer!r}")
    every = [distance_bins(result.sheet(layer), n_bins=n_bins, low=low, high=high) for layer in wanted]
    longest = max(bins.n_bins for bins in every)
    found = np.full((len(CURVE), len(wanted), longest), np.nan)  # a smaller sheet fills its first bins only
    for row, (layer, bins) in enumerate(zip(wanted, every, strict=True)):
        sheet = result.sheet(layer)
        if sheet.n_units > MAX_PAIRED_UNITS:
            raise InputError(
                f"a distance curve looks at all pairs of units, at most {MAX_PAIRED_UNITS:,} are done; layer {layer!r} has "
                f"{sheet.n_units:,}"
            )
        if isinstance(result, Activations):
            values = result.values(layer)
            alive = int((np.isfinite(values).all(axis=0) & (np.ptp(values, axis=0) > 0)).sum())
            if alive < MIN_UNITS:
                raise InputError(f"layer {layer!r} has {alive} units that respond differently to any two stimuli")
            curve = response_correlation_curve(values, sheet, bins=bins)
            null = response_correlation_curve_null(values, sheet, n_null=n_null, seed=seed, bins=bins)
        else:
            t = result.values(layer, contrast=contrast)
            if not varies(t):
                raise InputError(f"the t-map of layer {layer!r} does not vary: it has no distance curve")
            curve = selectivity_difference_curve(t, sheet, bins=bins)
            null = selectivity_difference_curve_null(t, sheet, n_null=n_null, seed=seed, bins=bins)
        low_edge, high_edge = np.percentile(null, [2.5, 97.5], axis=0)  # a bin without pairs is NaN in every draw
        found[:, row, : bins.n_bins] = [
            curve.value,
            null.mean(axis=0),
            low_edge,
            high_edge,
            curve.n_pairs,
            curve.distance,
        ]
    fields: dict[str, Any] = {key: value for key, value in result.provenance.items() if key != "versions"}
    fields["distance_curve"] = {
        "quantity": "response correlation" if isinstance(result, Activations) else "difference of t",
        "contrast": None if isinstance(result, Activations) else result.contrast(contrast),
        "bins": [{"layer": layer, **asdict(bins)} for layer, bins in zip(wanted, every, strict=True)],
        "null": "layout", "n_null": n_null, "seed": seed,
    }  # fmt: skip
    data = xr.Dataset(
        {name: (("layer", "bin"), found[index]) for index, name in enumerate(CURVE)},
        coords={"layer": ("layer", np.array(wanted, dtype=object)), "bin": ("bin", np.arange(longest))},
        attrs=DistanceCurve.attributes(fields),
    )
    return DistanceCurve(data)
