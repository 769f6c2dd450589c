"""Integration: how each unit's response falls off with the words before, what window fits it, and where on the sheet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np

from topobrain._checks import InputError, require_choice, unknown
from topobrain.activations import UnitResult
from topobrain.selectivity.result import SPATIAL
from topobrain.stats.integration_windows import FORMS

if TYPE_CHECKING:
    import pandas as pd

MAPS = ("a", "b", "c", "width", "yoking")
"""What is shown on a sheet and tested against the layout null."""

UnitVariable = Literal[
    "a", "b", "c", "r2", "width", "centre", "reliability", "yoking", "influence", "best_form",
    "a_se", "b_se", "c_se", "width_se", "yoking_se",
]  # fmt: skip

RELIABLE = 0.5
"""Split-half reliability below which a unit's curve is called unreliable."""


class Integration(UnitResult):
    """Integration windows of every unit, with what is known of them and what is not.

    ``theta theta_se (lag, unit)``: how far a swap changes a unit ``lag`` words later, relative to the swapped word
    itself, and its standard error over sequences. ``a b c (unit)``: the window ``c (lag + 1)**-a + (1 - c) exp(-b lag)``
    that fits it best, with ``a_se b_se c_se`` and ``r2``; ``a_known b_known c_known (unit)`` say whether each can be told
    at all, ``ambiguous (unit)`` whether a fast power law with a slow exponential fits as well as the slow power law with a
    fast exponential that is given. ``width (unit)``: the lag, in words, at which the curve is at one half (NaN beyond the last
    lag), ``centre (unit)`` its centre of mass. ``bic held_out_loss (form, unit)`` compare an exponential, a power law and
    their mixture; ``best_form (unit)`` is the best on held-out sequences. ``yoking (unit)``: how far windows stop at sentence
    starts.
    ``reliability (unit)``, ``layer_reliability (layer_name)``: split-half over sequences, Spearman-Brown. ``floor
    (layer_name)``: the largest change of a unit where nothing was swapped (rounding, in bfloat16 what it adds to small
    changes), relative to the median change at a swap. ``influence (unit)``: the median change at the swapped word.
    ``morans_i null_mean null_sd z p_layout corrected (map, layer_name)``: each map's Moran's I beside its layout null, over
    the units whose value is known (where a quarter of a layer's or more are).

    ``layer_draws (map, draw, layer_name)``: the median over the units of a layer whose value is known, in every draw of
    sequences; `layer_interval` gives its middle 95 %.

    Values that do not apply are NaN: yoking without sentences, a fitted window for a model that reads both ways.
    """

    kind: ClassVar[str] = "integration"
    schema: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "theta": ("lag", "unit"),
        "theta_se": ("lag", "unit"),
        **dict.fromkeys(get_args(UnitVariable), ("unit",)),
        **dict.fromkeys(("a_known", "b_known", "c_known"), ("unit",)),
        "bic": ("form", "unit"),
        "held_out_loss": ("form", "unit"),
        "layer_reliability": ("layer_name",),
        "floor": ("layer_name",),
        "yoking_step": ("position", "layer_name"),
        "layer": ("unit",),
        **dict.fromkeys(SPATIAL, ("map", "layer_name")),
    }

    @property
    def lags(self) -> np.ndarray:
        """The lags in words (lag,): from 0 on, or on both sides for a model that reads both ways."""
        return np.asarray(self.data["lag"].values, dtype=np.int64)

    @property
    def causal(self) -> bool:
        """Whether only the words before a word were found to matter."""
        return bool(self.provenance["integrate"]["causal"])

    def curves(self, layer: str) -> np.ndarray:
        """Return the influence curves of a layer (lag, unit)."""
        return np.asarray(self.data["theta"].values[:, self.unit_slice(layer)], dtype=np.float64)

    def values(self, layer: str, variable: UnitVariable = "c", *, masked: bool = True) -> np.ndarray:
        """Return one layer's values (unit,) of a variable.

        Parameters
        ----------
        layer, variable
            Which.
        masked
            Give NaN for parameters that cannot be told (``a`` where c is below .05, ``b`` where c is above .95, all where
            the curve is too noisy) and for widths, centres and yoking of units whose curve is unreliable.
        """
        require_choice("variable", variable, get_args(UnitVariable))
        units = self.unit_slice(layer)
        found = np.array(self.data[variable].values[units], dtype=np.float64)
        if not masked:
            return found
        parameter = variable.removesuffix("_se")
        if parameter in ("a", "b", "c"):
            found[~np.asarray(self.data[f"{parameter}_known"].values[units], dtype=bool)] = np.nan
        elif parameter in ("width", "centre", "yoking"):
            found[~self.reliable(layer)] = np.nan
        return found

    def reliable(self, layer: str) -> np.ndarray:
        """Return a mask (unit,) of the units of a layer whose curves agree between halves of the sequences."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.data["reliability"].values[self.unit_slice(layer)] >= RELIABLE)

    def forms(self, layer: str) -> dict[str, float]:
        """Return the share of a layer's fitted units for which each form predicts held-out sequences best."""
        best = np.asarray(self.data["best_form"].values[self.unit_slice(layer)])
        n = (best >= 0).sum()
        return {name: float((best == index).sum() / n) if n else np.nan for index, name in enumerate(FORMS)}

    def spatial(self, layer: str, name: str) -> dict[str, float]:
        """Return Moran's I of one map of a layer and what its layout null says of it."""
        if name not in MAPS:
            raise unknown("map", name, MAPS)
        if layer not in self.layers:
            raise unknown("layer", layer, self.layers)
        return {one: float(self.data[one].sel(map=name, layer_name=layer)) for one in SPATIAL}

    def layer_interval(self, layer: str, name: str, against: str | None = None) -> tuple[float, float]:
        """Return the middle 95 % of a layer's median over draws of sequences, or of its difference from another layer's.

        Parameters
        ----------
        layer, name
            The layer and the map.
        against
            Another layer, whose median is subtracted draw by draw.
        """
        for one in (layer, against or layer):
            if one not in self.layers:
                raise unknown("layer", one, self.layers)
        if name not in MAPS:
            raise unknown("map", name, MAPS)
        draws = np.asarray(self.data["layer_draws"].sel(map=name, layer_name=layer).values)
        if against is not None:
            draws = draws - np.asarray(self.data["layer_draws"].sel(map=name, layer_name=against).values)
        draws = draws[np.isfinite(draws)]
        if not draws.size:
            return np.nan, np.nan
        low, high = np.percentile(draws, [2.5, 97.5])
        return float(low), float(high)

    def summary(self) -> pd.DataFrame:
        """Return a row a layer: medians over units whose value is known, their quartiles for c, and Moran's I of c."""
        import pandas as pd

        rows = []
        for number, layer in enumerate(self.layers):
            known = np.asarray(self.data["c_known"].values[self.unit_slice(layer)], dtype=bool)
            c = self.values(layer, "c")
            spread = np.nanpercentile(c, [25, 75]) if np.isfinite(c).any() else (np.nan, np.nan)
            forms = self.forms(layer)
            rows.append(
                {
                    "layer": layer,
                    "n_units": known.size,
                    "share_known": float(known.mean()),
                    "reliability": float(self.data["layer_reliability"].values[number]),
                    "floor": float(self.data["floor"].values[number]),
                    "c": _median(c),
                    "c_low": float(spread[0]),
                    "c_high": float(spread[1]),
                    **{
                        name: _median(self.values(layer, name))
                        for name in ("a", "b", "r2", "width", "centre", "yoking")
                    },
                    **{f"share_{name}": share for name, share in forms.items()},
                    **{f"{one}_c": value for one, value in self.spatial(layer, "c").items()},
                }
            )
        return pd.DataFrame(rows)

    def require_fitted(self) -> None:
        """Raise where no window was fitted: the model reads both ways."""
        if not self.causal:
            raise InputError(
                "no window was fitted: the model reads the words that come after too. Its two-sided curves are in theta"
            )


def _median(values: np.ndarray) -> float:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else np.nan
