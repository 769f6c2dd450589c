"""Encoding: the result of `encode`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from topobrain._checks import InputError, listed
from topobrain.results import Result

if TYPE_CHECKING:
    import pandas as pd

REGION = ("r", "low", "high", "p", "p_max", "null_low", "null_high")
"""What is known of each layer and region, as variables ``region_<name> (layer, region)``."""

BEST = ("r", "low", "high", "p")
"""What is known of the layer chosen inside the training folds, as variables ``best_<name> (region)``."""


class Encoding(Result):
    """Encoding scores of every layer.

    Voxels: ``r alpha loss (layer, fold, voxel)``: Pearson r on held-out stimuli, the penalty chosen and its inner loss;
    ``edge`` of the same shape is -1 where the penalty is the lowest of the grid, 1 where it is the highest. ``ceiling
    (voxel)``; ``normalized (layer, voxel)``: mean r over folds divided by the ceiling, never clipped; ``p q p_max
    (layer, voxel)``: one-sided permutation p of the mean r, the same after Benjamini and Hochberg over the voxels of a
    layer, and against the largest score of any voxel (family-wise).

    Regions: ``region_r region_low region_high region_p region_p_max region_null_low region_null_high
    region_normalized (layer, region)``: mean over folds and over the usable voxels of an ROI, its 95 % bootstrap interval
    over stimuli (a t interval over folds where each holds out one group), and where permutations were asked for, its
    one-sided p, the p against the largest score of any layer and region, and the middle 95 % of the permuted scores.
    ``region_draws (layer, region, draw)`` and ``region_null (layer, region, permutation)`` are the draws behind them: two
    results with the same stimuli, folds and seed have paired draws.

    The best layer: ``best_layer (fold, region)`` is the layer with the highest inner R2, chosen from training stimuli
    only ("" where no penalty was chosen); ``best_r best_low best_high best_p (region)`` is what these layers scored on
    the held-out stimuli, ``best_draws (region, draw)`` its draws.
    """

    kind: ClassVar[str] = "encoding"
    schema: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "r": ("layer", "fold", "voxel"),
        "alpha": ("layer", "fold", "voxel"),
        "loss": ("layer", "fold", "voxel"),
        "ceiling": ("voxel",),
        "normalized": ("layer", "voxel"),
        "p": ("layer", "voxel"),
        "roi": ("voxel",),
        "subject": ("voxel",),
        **{f"region_{name}": ("layer", "region") for name in REGION},
        "region_normalized": ("layer", "region"),
        "region_ceiling": ("region",),
        "best_layer": ("fold", "region"),
        **{f"best_{name}": ("region",) for name in BEST},
    }

    @property
    def layers(self) -> list[str]:
        """The layers, in depth order."""
        return [str(layer) for layer in self.data["layer"].values]

    @property
    def regions(self) -> list[str]:
        """The regions, in order of first appearance."""
        return [str(region) for region in self.data["region"].values]

    @property
    def normalized(self) -> xr.DataArray:
        """Mean r over folds divided by the voxel's noise ceiling (layer, voxel), never clipped; NaN without a ceiling above 0."""
        return self.data["normalized"]

    def summary(self) -> pd.DataFrame:
        """Return one row a layer and ROI: ``layer roi n_voxels r ceiling normalized low high p p_max null_low null_high``.

        ``normalized`` is the region's r divided by its mean ceiling; ``low`` and ``high`` bound r, not ``normalized``. With
        shuffled folds ``r_contiguous`` stands beside.
        """
        import pandas as pd

        rows = []
        for i, layer in enumerate(self.layers):
            for j, region in enumerate(self.regions):
                value = {name: float(self.data[f"region_{name}"].values[i, j]) for name in REGION}
                rows.append(
                    {
                        "layer": layer,
                        "roi": region,
                        "n_voxels": int(self.data["region_voxels"].values[j]),
                        "r": value.pop("r"),
                        "ceiling": float(self.data["region_ceiling"].values[j]),
                        "normalized": float(self.data["region_normalized"].values[i, j]),
                        **value,
                        **self._contiguous(i, j),
                    }
                )
        return pd.DataFrame(rows)

    def _contiguous(self, layer: int, region: int) -> dict[str, float]:
        """Return the score of contiguous folds, where the result is one of shuffled folds."""
        if "region_r_contiguous" not in self.data:
            return {}
        return {"r_contiguous": float(self.data["region_r_contiguous"].values[layer, region])}

    def best(self) -> pd.DataFrame:
        """Return one row an ROI: how the layer chosen inside the training folds scores on the stimuli held out.

        Returns
        -------
        DataFrame
            ``roi``, ``layers`` (the choice of each fold, most frequent first), ``r``, ``ceiling``, ``normalized``,
            ``low``, ``high``, ``p``. Choosing the layer costs nothing here: no held-out stimulus took part in it. ``p``
            keeps the choice of the true responses.
        """
        import pandas as pd

        rows = []
        for j, region in enumerate(self.regions):
            chosen = [str(layer) for layer in self.data["best_layer"].values[:, j] if str(layer)]
            by_count = sorted(dict.fromkeys(chosen), key=lambda layer: -chosen.count(layer))
            value = {name: float(self.data[f"best_{name}"].values[j]) for name in BEST}
            ceiling = float(self.data["region_ceiling"].values[j])
            rows.append(
                {
                    "roi": region,
                    "layers": ", ".join(f"{layer} ({chosen.count(layer)})" for layer in by_count),
                    "r": value.pop("r"),
                    "ceiling": ceiling,
                    "normalized": float(self.data["best_r"].values[j]) / ceiling if ceiling > 0 else np.nan,
                    **value,
                }
            )
        return pd.DataFrame(rows)

    def best_layer(self, roi: str) -> str:
        """Return the layer of the highest r in an ROI.

        It is chosen on the scores it reports, so its own score is optimistic: `best` gives the score of layers chosen
        inside the training folds.
        """
        if roi not in self.regions:
            raise InputError(f"no ROI {roi!r} in this result; it has {listed(self.regions)}")
        scores = self.data["region_r"].values[:, self.regions.index(roi)]
        if not np.isfinite(scores).any():
            raise InputError(f"ROI {roi!r} has no voxel that can be scored (missing or constant values)")
        return self.layers[int(np.nanargmax(scores))]
