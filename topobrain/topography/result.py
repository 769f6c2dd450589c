"""Topography: measures of maps and responses, each beside its nulls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr

from topobrain._checks import InputError, unknown
from topobrain.results import Result

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("value", "null_mean", "null_sd", "z", "p", "corrected")
"""A value, and what its first null says of it."""

STATISTICS = ("null_mean", "null_sd", "z", "p", "corrected", "null_low", "null_high", "n_null")
"""What every null says of a value; ``null_low`` and ``null_high`` hold the middle 95 % of its draws."""

AXES = ("measure", "layer", "contrast")
ALL_STIMULI = "all stimuli"
"""The contrast of measures that look at responses to every stimulus, not at a map."""


class Topography(Result):
    """Topography statistics of each layer and contrast, beside their nulls.

    ``value (measure, layer, contrast)``; ``null_mean null_sd z p corrected`` on the same axes, of the first null that
    says something on the measure; ``by_null (null, statistic, measure, layer, contrast)``: the same of every null.

    ``p`` counts null values at least as high, with the +1 rule (both tails where the measure has no better direction);
    ``corrected`` is (value - null) / (1 - null), 0 at the null's floor and 1 at the highest value there is, missing where
    a measure has no highest value. Cells that make no sense (a map measure of all stimuli, a layer without layout) are
    NaN.
    """

    kind: ClassVar[str] = "topography"
    schema: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **dict.fromkeys(COLUMNS, AXES),
        "by_null": ("null", "statistic", *AXES),
    }

    @property
    def nulls(self) -> list[str]:
        """Names of the nulls, the references among them."""
        return [str(name) for name in self.data["null"].values]

    def beside(self, null: str) -> xr.Dataset:
        """Return ``value`` and what one null says of it, each (measure, layer, contrast)."""
        if null not in self.nulls:
            raise unknown("null", null, self.nulls, "(in this result)")
        chosen = self.data["by_null"].sel(null=null)
        columns = {name: chosen.sel(statistic=name, drop=True) for name in STATISTICS}
        return xr.Dataset({"value": self.data["value"], **columns})

    def summary(self) -> pd.DataFrame:
        """Return one row a measure, layer, contrast and null that says something on it."""
        import pandas as pd

        frames = []
        for null in self.nulls:
            frame = self.beside(null).to_dataframe().reset_index().drop(columns=["null"], errors="ignore")
            frame.insert(3, "null", null)
            said = frame["null_mean"].notna()
            frames.append(frame[said])
        alone = self.data[list(COLUMNS)].to_dataframe().reset_index()
        # every measure of every layer has a row, also where it has no null (n_null=0) or no value (no layout)
        sensible = alone["value"].notna() | (self._empty_rows(alone) if len(alone) else False)
        bare = alone[sensible & alone["null_mean"].isna()]
        bare = bare.drop(columns=list(COLUMNS[1:])).assign(null="none")
        rows = pd.concat([*frames, bare], ignore_index=True)
        order = {axis: {name: place for place, name in enumerate(self.data[axis].values.tolist())} for axis in AXES}
        keys = [rows[axis].map(order[axis]) for axis in AXES]
        rows = rows.assign(**{f"_{axis}": key for axis, key in zip(AXES, keys, strict=True)})
        rows = rows.sort_values([f"_{axis}" for axis in AXES], kind="stable")
        columns = [*AXES, "value", "null", *STATISTICS]
        return rows.reindex(columns=columns).reset_index(drop=True)

    def _empty_rows(self, table: pd.DataFrame) -> pd.Series:
        """Return which cells have no value though their measure has one for the same contrast in another layer."""
        known = table.groupby(["measure", "contrast"])["value"].transform("count") > 0
        return table["value"].isna() & known


class Cells:
    """A table of measures, layers, contrasts and nulls that is filled cell by cell."""

    def __init__(self, measures: list[str], layers: list[str], contrasts: list[str], nulls: list[str]) -> None:
        self.names = {"measure": measures, "layer": layers, "contrast": contrasts}
        self.nulls = nulls
        shape = (len(measures), len(layers), len(contrasts))
        self.value = np.full(shape, np.nan)
        self.by_null = np.full((len(nulls), len(STATISTICS), *shape), np.nan)

    def place(self, measure: str, layer: str, contrast: str) -> tuple[int, int, int]:
        """Return the indices of a cell."""
        given = {"measure": measure, "layer": layer, "contrast": contrast}
        a, b, c = (self.names[axis].index(name) for axis, name in given.items())
        return a, b, c

    def set(
        self, measure: str, layer: str, contrast: str, *, value: float | None = None, null: str | None = None,
        said: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        """Write a value, or what a null says of it."""
        cell = self.place(measure, layer, contrast)
        if value is not None:
            self.value[cell] = value
        if null is not None and said is not None:
            for column, name in enumerate(STATISTICS):
                self.by_null[(self.nulls.index(null), column, *cell)] = said[name]

    def dataset(self, order: Mapping[str, Sequence[str]] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return variables and coordinates.

        The plain columns of a cell show the first null that says something on it, in the order of ``order[measure]`` where
        given, else in the order of the nulls; a null without p comes after those with one.
        """
        first = np.zeros(self.value.shape, dtype=int)
        if self.nulls:
            mean, p = (self.by_null[:, STATISTICS.index(name)] for name in ("null_mean", "p"))
            for row, measure in enumerate(self.names["measure"]):
                wanted = (order or {}).get(measure, ())
                rank = np.array([wanted.index(null) if null in wanted else len(wanted) for null in self.nulls])
                # speaks with a p, speaks without one, is silent; then the order asked for
                silence = np.where(np.isfinite(p[:, row]), 0, np.where(np.isfinite(mean[:, row]), 1, 2))
                first[row] = (silence * 1000 + rank[:, None, None] * 10).argmin(axis=0)
        variables: dict[str, Any] = {"value": (AXES, self.value)}
        for name in COLUMNS[1:]:
            if self.nulls:
                every = self.by_null[:, STATISTICS.index(name)]
                variables[name] = (AXES, np.take_along_axis(every, first[None], axis=0)[0])
            else:
                variables[name] = (AXES, np.full(self.value.shape, np.nan))
        variables["by_null"] = (("null", "statistic", *AXES), self.by_null)
        coords: dict[str, Any] = {axis: (axis, np.array(names, dtype=object)) for axis, names in self.names.items()}
        coords["null"] = ("null", np.array(self.nulls, dtype=object))
        coords["statistic"] = ("statistic", np.array(STATISTICS, dtype=object))
        return variables, coords


def require_null(result: Topography) -> None:
    """Raise unless every value of a result stands beside a null that gives a p: one other model is none."""
    tested = result.data["by_null"].sel(statistic="p").notnull().any("null")
    bare = result.data["value"].notnull() & ~tested
    if bool(bare.any()):
        measure = str(result.data["measure"].values[np.argwhere(bare.values)[0][0]])
        raise InputError(
            f"measure {measure!r} has no null here, and a map statistic without one is no claim on topography: smoothing "
            "alone gives Moran's I of .60. Measure again with n_null=1000 and a null that speaks on it "
            "(layout and labels on one map, torus or labels on two)"
        )
