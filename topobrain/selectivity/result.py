"""Selectivity: t-values of units, masks made from them, and each map's Moran's I beside its layout null."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from topobrain._checks import InputError, require_choice, unknown
from topobrain.activations import UnitResult
from topobrain.stats.contrast import signed_log_p
from topobrain.stats.selection import random_like, select_band, select_top

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Bool

SPATIAL = ("morans_i", "null_mean", "null_sd", "z", "p_layout", "corrected")
"""Moran's I of a map and what its layout null says of it."""


class Selectivity(UnitResult):
    """t-values of every unit for one or more contrasts, each layer's Moran's I beside its layout null.

    ``t p q (contrast, unit)``: signed t, its p-value, and Benjamini-Hochberg q over all units of a contrast.
    ``morans_i null_mean null_sd z p_layout corrected (contrast, layer_name)``: how far neighbouring units of a layer
    are alike, beside the same map with its units' places permuted; NaN for a layer without layout.
    """

    kind: ClassVar[str] = "selectivity"
    schema: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "t": ("contrast", "unit"),
        "p": ("contrast", "unit"),
        "q": ("contrast", "unit"),
        "layer": ("unit",),
        **dict.fromkeys(SPATIAL, ("contrast", "layer_name")),
    }

    @property
    def contrasts(self) -> list[str]:
        """Names of the contrasts."""
        return [str(name) for name in self.data["contrast"].values]

    def contrast(self, name: str | None = None) -> str:
        """Return a contrast's name, checked; the only one if none is given."""
        if name is None:
            if len(self.contrasts) > 1:
                raise InputError(f"this result has several contrasts, name one: {self.contrasts}")
            return self.contrasts[0]
        if name not in self.contrasts:
            raise unknown("contrast", name, self.contrasts)
        return name

    def values(
        self,
        layer: str,
        variable: Literal["t", "p", "q", "signed_log_p"] = "t",
        *,
        contrast: str | None = None,
    ) -> np.ndarray:
        """Return one layer's values (unit,) of ``t``, ``p`` or ``q``, or of ``signed_log_p`` = sign(t) x -log10 p."""
        require_choice("variable", variable, ("t", "p", "q", "signed_log_p"))
        if variable == "signed_log_p":
            t, p = (self.values(layer, one, contrast=contrast) for one in ("t", "p"))
            return signed_log_p(t, p)
        row = self.data[variable].sel(contrast=self.contrast(contrast))
        return np.asarray(row.values[self.unit_slice(layer)], dtype=np.float64)

    def select(
        self,
        *,
        top: float | int | None = None,
        q: float | None = None,
        band: tuple[float, float] | None = None,
        n: int | None = None,
        seed: int = 0,
        contrast: str | None = None,
        layer: str | None = None,
    ) -> Bool[np.ndarray, " unit"]:
        """Return a mask over all units (unit,), chosen by exactly one of ``top``, ``q`` and ``band``.

        Parameters
        ----------
        top
            The highest signed t: a share of units (0.01 = the top 1 %) or an exact count; ties never enlarge the mask.
        q
            False discovery rate: the units with a q-value below it and a positive t (a negative one if ``"less"`` was tested).
        band
            Percentiles of signed t between which ``n`` units are drawn: (80, 90) draws from that decile, (100, 100) takes
            the highest, (0, 0) the lowest.
        n
            Units to take from the band.
        seed
            Seed of the draw from a band.
        contrast
            Name of the contrast, if there are several.
        layer
            Rank the units of this layer only (default: all layers jointly).
        """
        if sum(given is not None for given in (top, q, band)) != 1:
            raise InputError("select by exactly one of top=, q= and band=")
        if n is not None and band is None:
            raise InputError("n= goes with band=: give top= for the highest units")
        t = np.array(self.data["t"].sel(contrast=self.contrast(contrast)).values, dtype=np.float64)
        inside = np.zeros(t.size, dtype=bool)
        inside[slice(None) if layer is None else self.unit_slice(layer)] = True
        if q is not None:
            if not isinstance(q, float | int) or not 0 < q < 1:
                raise InputError(f"q is a false discovery rate between 0 and 1, got {q}")
            found = np.asarray(self.data["q"].sel(contrast=self.contrast(contrast)).values)
            below = self.provenance.get("localize", {}).get("alternative") == "less"
            return np.asarray((found < q) & ((t < 0) if below else (t > 0)) & inside)
        mask = np.zeros(t.size, dtype=bool)
        if band is not None:
            if len(band) != 2 or not all(isinstance(edge, float | int) for edge in band):
                raise InputError(f"band is two percentiles, such as (80, 90); got {band!r}")
            mask[inside] = select_band(t[inside], *band, n=n, seed=seed)
        else:
            mask[inside] = select_top(t[inside], top if top is not None else 0)
        return mask

    def random_like(self, mask: Bool[np.ndarray, " unit"], *, seed: int = 0) -> Bool[np.ndarray, " unit"]:
        """Return as many random units outside a mask, in each layer, as the mask has there: a lesion's control."""
        layers = np.repeat(np.arange(len(self.layers)), [sheet.n_units for sheet in self.sheets.values()])
        return random_like(mask, layers, seed=seed)

    def summary(self) -> pd.DataFrame:
        """Return one row a contrast and layer: selective units, extreme t, Moran's I beside its layout null."""
        import pandas as pd

        rows = []
        for contrast in self.contrasts:
            for layer in self.layers:
                t, q = self.values(layer, contrast=contrast), self.values(layer, "q", contrast=contrast)
                spatial = self.data[list(SPATIAL)].sel(contrast=contrast, layer_name=layer)
                rows.append(
                    {
                        "contrast": contrast,
                        "layer": layer,
                        "n_units": t.size,
                        "n_selective": int(((q < 0.05) & (t > 0)).sum()),
                        "n_opposite": int(((q < 0.05) & (t < 0)).sum()),
                        "max_t": float(np.nanmax(t)) if np.isfinite(t).any() else np.nan,
                        **{name: float(spatial[name]) for name in SPATIAL},
                    }
                )
        return pd.DataFrame(rows)
