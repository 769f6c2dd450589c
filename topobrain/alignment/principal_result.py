"""PrincipalComponents: the result of `components`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from topobrain._checks import InputError, unknown
from topobrain.activations import UnitResult

if TYPE_CHECKING:
    import pandas as pd

SMOOTHNESS = (
    "smoothness", "smoothness_null_mean", "smoothness_null_sd", "smoothness_p", "smoothness_corrected",
)  # fmt: skip
"""What each null says of a weight map, as variables (layer, component, null)."""


class PrincipalComponents(UnitResult):
    """Principal components of each layer of a model, or of each subject's brain responses.

    ``weight (component, unit)`` over the units of all layers, or ``weight (component, voxel)`` over the voxels of all
    subjects: the weight map of each component, of length one within a layer or subject, its largest weight positive; NaN
    for units and voxels that were left out. ``score (layer, stimulus, component)``: the stimuli along each component;
    ``explained (layer, component)``: share of variance. For brain responses the axis ``layer`` holds the subjects. Layers
    with fewer components of any variance than others have NaN for the rest.

    ``smoothness`` with ``smoothness_null_mean smoothness_null_sd smoothness_p smoothness_corrected (layer, component,
    null)``, NaN where a null says nothing:

    * ``null="layout"``: Moran's I of the weight map (among the eight places around a unit, or the six nearest voxels on the
      sphere of the cortex) beside maps with its units in other places. Is it a map at all? Blur of
      the responses makes it one too.
    * ``null="torus"`` (wrapped sheets of which every unit is used): of *two* maps, those of two halves of the stimuli, the
      absolute correlation, beside that with one of them shifted to every place of the torus. Shifts keep Moran's I of one
      map as it is; the test asks whether other stimuli give the same map, more than two maps as smooth as these agree by
      chance. For each component of the first half it takes the component of the second half that agrees best, under every
      shift too.
    * ``null="variogram"`` (cortex or any sheet, 20 places or more): the same, one map replaced by surrogates with its
      variogram.

    None of them shows that a map has to do with a brain: see `align` and `spatial_alignment`.
    """

    kind: ClassVar[str] = "principal_components"
    schema: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "score": ("layer", "stimulus", "component"),
        "explained": ("layer", "component"),
        **dict.fromkeys(SMOOTHNESS, ("layer", "component", "null")),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        dims = self.data["weight"].dims if "weight" in self.data else None
        if dims not in (("component", "unit"), ("component", "voxel")):
            raise InputError(
                f"weight of a {self.kind} result has axes {dims}, expected (component, unit) or (component, voxel)"
            )

    @property
    def layers(self) -> list[str]:
        """The layers in depth order; for brain responses the subjects."""
        return [str(layer) for layer in self.data["layer"].values]

    @property
    def places(self) -> str:
        """What the weight maps are maps of: ``"unit"`` or ``"voxel"``."""
        return str(self.data["weight"].dims[1])

    def weights(self, layer: str) -> np.ndarray:
        """Return the weight maps (component, unit) of a layer, or (component, voxel) of a subject; NaN where left out."""
        self._row(layer)
        where = (
            self.unit_slice(layer) if self.places == "unit" else np.flatnonzero(self.labels("subject") == str(layer))
        )
        return np.asarray(self.data["weight"].values[:, where])

    def summary(self) -> pd.DataFrame:
        """Return one row a layer and component.

        ``layer component explained explained_so_far``; Moran's I as ``smoothness smoothness_null smoothness_p
        smoothness_corrected`` (layout null); the agreement of halves as ``agreement agreement_null agreement_p agreement_of``
        (the first of the other nulls that says something, named in the last column). Components count from 1.
        """
        import pandas as pd

        columns = {name: self.data[name].values for name in SMOOTHNESS}
        nulls, rows = [str(name) for name in self.data["null"].values], []
        for i, layer in enumerate(self.layers):
            so_far = 0.0
            for k in range(self.data.sizes["component"]):
                explained = float(self.data["explained"].values[i, k])
                so_far += explained

                def cell(name: str, null: str, at: tuple[int, int] = (i, k)) -> float:
                    return float(columns[name][(*at, nulls.index(null))]) if null in nulls else np.nan

                pairs = [null for null in nulls if null != "layout"]
                pair = next((null for null in pairs if np.isfinite(cell("smoothness", null))), "")
                rows.append(
                    {
                        "layer": layer, "component": k + 1, "explained": explained, "explained_so_far": so_far,
                        "smoothness": cell("smoothness", "layout"),
                        "smoothness_null": cell("smoothness_null_mean", "layout"),
                        "smoothness_p": cell("smoothness_p", "layout"),
                        "smoothness_corrected": cell("smoothness_corrected", "layout"),
                        "agreement": cell("smoothness", pair), "agreement_null": cell("smoothness_null_mean", pair),
                        "agreement_p": cell("smoothness_p", pair), "agreement_of": pair,
                    }
                )  # fmt: skip
        return pd.DataFrame(rows)

    def ends(self, layer: str, component: int = 1, n: int = 5) -> pd.DataFrame:
        """Return the stimuli at both ends of a component.

        Parameters
        ----------
        layer
            The layer; the subject, for brain responses.
        component
            Its number, from 1.
        n
            Stimuli at each end, at most half of all.

        Returns
        -------
        DataFrame
            ``end`` (``"high"``, ``"low"``), ``rank`` (1 for the most extreme), ``stimulus``, ``text``, ``score``.

        Raises
        ------
        InputError
            No such component.
        UnknownNameError
            No such layer.
        """
        import pandas as pd

        row, n_components = self._row(layer), self.data.sizes["component"]
        if isinstance(component, bool) or component not in range(1, n_components + 1):
            raise InputError(f"component {component!r}: this result has components 1 to {n_components}")
        if n < 1:
            raise InputError(f"n must be 1 or more stimuli at each end, got {n}")
        score = self.data["score"].values[row, :, component - 1]
        if not np.isfinite(score).all():
            raise InputError(f"layer {layer!r} has no component {component}")
        order = np.argsort(score, kind="stable")
        n = min(n, len(order) // 2)
        text, label = self.labels("text"), self.labels("stimulus")
        rows = [
            {"end": end, "rank": rank, "stimulus": label[i], "text": text[i], "score": float(score[i])}
            for end, chosen in (("high", order[::-1][:n]), ("low", order[:n]))
            for rank, i in enumerate(chosen, 1)
        ]
        return pd.DataFrame(rows, columns=["end", "rank", "stimulus", "text", "score"])

    def _row(self, layer: str) -> int:
        if layer not in self.layers:
            raise unknown("layer" if self.places == "unit" else "subject", layer, self.layers)
        return self.layers.index(layer)
