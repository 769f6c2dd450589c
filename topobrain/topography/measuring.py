"""topography: how far units that behave alike lie together, each measure beside its matched null."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import xarray as xr

from topobrain._checks import InputError, require_choice
from topobrain.activations import Activations
from topobrain.results import Result
from topobrain.sheet import Sheet
from topobrain.stats.nulls import compare_with_null
from topobrain.stats.spatial import generic_topography, generic_topography_null

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("value", "null_mean", "null_sd", "z", "p", "corrected")


class Topography(Result):
    """Topography statistics ``value null_mean null_sd z p corrected (measure, layer)``; NaN without a layout.

    ``p`` counts null values at least as high, with the +1 rule; ``corrected`` is (value - null) / (1 - null).
    """

    kind: ClassVar[str] = "topography"
    schema: ClassVar[Mapping[str, tuple[str, ...]]] = dict.fromkeys(COLUMNS, ("measure", "layer"))

    def summary(self) -> pd.DataFrame:
        """Return one row a measure and layer."""
        return self.data[list(COLUMNS)].to_dataframe().reset_index()


def topography(
    activations: Activations,
    *,
    measures: Sequence[Literal["generic"]] = ("generic",),
    n_null: int = 100,
    seed: int = 0,
) -> Topography:
    """Measure the topography of activations against the same units with their places permuted.

    The Moran's I of a *map* comes with the map: see `localize`.

    Parameters
    ----------
    activations
        Activations (stimulus, unit) of one or more layers.
    measures
        ``"generic"``: the generic topography statistic t_g (`topobrain.stats.generic_topography`).
    n_null
        Layout permutations, at least 2.
    seed
        Seed of the permutations.
    """
    names = list(measures)
    for name in names:
        require_choice("topography measure", name, ("generic",))
    if not names:
        raise InputError("no topography measure was asked for")
    sheets = activations.sheets
    found = np.full((len(COLUMNS), len(names), len(sheets)), np.nan)
    for column, (layer, sheet) in enumerate(sheets.items()):
        if sheet.has_layout:
            found[:, 0, column] = _generic(activations.values(layer), sheet, n_null, seed)
    fields = {key: value for key, value in activations.provenance.items() if key != "versions"}
    fields["topography"] = {"measures": names, "null": "layout", "n_null": n_null, "seed": seed}
    data = xr.Dataset(
        {name: (("measure", "layer"), found[index]) for index, name in enumerate(COLUMNS)},
        coords={
            "measure": ("measure", np.array(names, dtype=object)),
            "layer": ("layer", np.array(list(sheets), dtype=object)),
        },
        attrs=Topography.attributes(fields),
    )
    return Topography(data)


def _generic(values: np.ndarray, sheet: Sheet, n_null: int, seed: int) -> tuple[float, ...]:
    null = generic_topography_null(values, sheet, n_null=n_null, seed=seed)
    return tuple(compare_with_null(generic_topography(values, sheet), null))
