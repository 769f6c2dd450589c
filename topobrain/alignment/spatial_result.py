"""SpatialAlignment: the result of `spatial_alignment`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from topobrain.results import Result

if TYPE_CHECKING:
    import pandas as pd

MAPPING = ("r", "low", "high", "normalized", "excess", "p_units", "p_voxels", "p", "p_max")
"""What is known of the map from each layer's sheet to the cortex, as variables of these names (layer)."""

SMOOTHNESS = ("smoothness", "smoothness_p")
"""What is known of the paired weight maps, as variables (layer, component)."""

CONTROL = ("r", "low", "high", "excess", "p", "difference", "difference_low", "difference_high")
"""What is known of each control, as variables ``control_<name> (control, layer)``."""


class SpatialAlignment(Result):
    """How much the places of units and voxels matter for the agreement of a model with a brain.

    The map from sheet to cortex, a number a layer, means over subjects: ``r`` on voxels and stimuli held out, ``low high`` its
    95 % interval over test stimuli, ``normalized`` (by the mean noise ceiling of the voxels, where it is known), ``null_units
    null_voxels (layer, null)`` the same with the places of units, and of voxels, shuffled and everything fitted again;
    ``excess`` is r less the mean of the higher null, ``p_units p_voxels`` the one-sided p against each, ``p`` the larger of
    both, and ``p_max`` that against the largest excess of any layer. ``subject_r subject_excess subject_p (layer, subject)``
    and ``voxel_r (layer, voxel)`` are what the means are made of.

    Paired weight maps of the components that model and brain share: ``smoothness smoothness_p (layer, component)``, made of
    ``unit_smoothness`` (Moran's I), ``unit_smoothness_corrected`` (for its layout null) and ``unit_smoothness_p (layer,
    component)`` on the sheet and ``voxel_smoothness...`` ``(layer, subject, component)`` on the cortex. ``component_r`` is the
    held-out correlation of the component, which knows no places. Smooth maps show no topographic alignment on their own: blur
    makes them too.

    ``control_r control_low control_high control_excess control_p (control, layer)`` and ``control_smoothness
    control_smoothness_p (control, layer, component)`` are those of the controls; ``control_difference`` is the model's excess
    less the control's, with an interval over stimuli drawn for both at once (means of nulls taken as known).
    """

    kind: ClassVar[str] = "spatial_alignment"
    schema: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **dict.fromkeys(MAPPING, ("layer",)),
        **dict.fromkeys(("null_units", "null_voxels"), ("layer", "null")),
        **dict.fromkeys(("subject_r", "subject_excess", "subject_p"), ("layer", "subject")),
        "voxel_r": ("layer", "voxel"),
        "ceiling": ("subject",),
        **dict.fromkeys(
            (*SMOOTHNESS, "component_r", "unit_smoothness", "unit_smoothness_corrected", "unit_smoothness_p"),
            ("layer", "component"),
        ),
        **dict.fromkeys(
            ("voxel_smoothness", "voxel_smoothness_corrected", "voxel_smoothness_p"), ("layer", "subject", "component")
        ),
        **{f"control_{name}": ("control", "layer") for name in CONTROL},
        **{f"control_{name}": ("control", "layer", "component") for name in SMOOTHNESS},
    }

    @property
    def layers(self) -> list[str]:
        """The layers, in depth order."""
        return [str(layer) for layer in self.data["layer"].values]

    @property
    def controls(self) -> list[str]:
        """The names of the controls."""
        return [str(name) for name in self.data["control"].values]

    @property
    def subjects(self) -> list[str]:
        """The subjects."""
        return [str(name) for name in self.data["subject"].values]

    def summary(self) -> pd.DataFrame:
        """Return one row a layer: how well a smooth map from its sheet predicts the cortex.

        Returns
        -------
        DataFrame
            ``layer r low high normalized excess p_units p_voxels p p_max``, ``null_units`` and ``null_voxels`` (means), for
            the first component ``component_r smoothness smoothness_p``, and for each control ``excess_<control>``,
            ``p_<control>``, ``difference_<control>`` with its interval.
        """
        import pandas as pd

        rows = []
        for i, layer in enumerate(self.layers):
            row: dict[str, Any] = {"layer": layer}
            row |= {name: float(self.data[name].values[i]) for name in MAPPING}
            row |= {name: float(self.data[name].values[i].mean()) for name in ("null_units", "null_voxels")}
            row |= {name: float(self.data[name].values[i, 0]) for name in ("component_r", *SMOOTHNESS)}
            for j, control in enumerate(self.controls):
                for name in ("excess", "p", "difference", "difference_low", "difference_high"):
                    row[f"{name}_{control}"] = float(self.data[f"control_{name}"].values[j, i])
            rows.append(row)
        return pd.DataFrame(rows)

    def smoothness(self) -> pd.DataFrame:
        """Return one row a layer and component: how smooth its weight maps are on both sides.

        Returns
        -------
        DataFrame
            ``layer component component_r smoothness smoothness_p unit_smoothness unit_smoothness_corrected
            unit_smoothness_p``, and of the voxels the means over subjects (of p the largest). Components count from 1.
        """
        import pandas as pd

        one = ("component_r", *SMOOTHNESS, "unit_smoothness", "unit_smoothness_corrected", "unit_smoothness_p")
        rows = []
        for i, layer in enumerate(self.layers):
            for k in range(self.data.sizes["component"]):
                row: dict[str, Any] = {"layer": layer, "component": k + 1}
                row |= {name: float(self.data[name].values[i, k]) for name in one}
                for name in ("voxel_smoothness", "voxel_smoothness_corrected"):
                    row[name] = float(self.data[name].values[i, :, k].mean())
                row["voxel_smoothness_p"] = float(self.data["voxel_smoothness_p"].values[i, :, k].max())
                rows.append(row)
        return pd.DataFrame(rows)
