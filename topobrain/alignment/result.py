"""Alignment: the result of `align`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from topobrain._checks import InputError, listed, unknown
from topobrain.activations import UnitResult

if TYPE_CHECKING:
    import pandas as pd

COMPONENT = ("r", "low", "high", "p", "p_max", "null_low", "null_high", "ceiling", "normalized")
"""What is known of each layer and component, as variables of these names (layer, component)."""

CONTROL = ("r", "low", "high", "p")
"""What is known of each control, as variables ``control_<name> (control, layer, component)``."""

DIFFERENCE = ("difference", "difference_low", "difference_high")
"""The model less each control (control, layer, component)."""


class Alignment(UnitResult):
    """Held-out alignment of a model's layers with brain responses, component by component.

    ``r (layer, component)``: mean over folds of the held-out correlation, NaN for a component beyond the rank of the data;
    ``fold_r (layer, fold, component)``; ``low high``: its 95 % interval over test stimuli, weights held fixed (with 60 to 120
    stimuli it covers about 80 % of replications); ``p``: one-sided, against permuted stimuli; ``p_max``: against the largest of
    all components and layers; ``null_low null_high``: the middle 95 % of the permuted scores; ``ceiling``, and ``normalized``
    (never clipped). ``draws (layer, component, draw)`` and ``null (layer, component, permutation)`` are the numbers behind
    them: results with the same stimuli, folds and seed have paired draws.

    ``control_r control_low control_high control_p (control, layer, component)``: untrained selves, twins and other models
    on the same folds; ``difference difference_low difference_high``: the model less the control, stimuli drawn for both at
    once.

    ``unit_weight (component, unit)`` over the units of all layers, ``voxel_weight (layer, component, voxel)``,
    ``unit_score voxel_score (layer, stimulus, component)``: weights are averages over folds after their signs (or, where
    components turn into each other, their rotation) were aligned; scores are those of the stimuli held out. They are absent
    for whole-set similarities (``"rsa"``, ``"cka"``).

    The unit axis names the layer of each unit in ``unit_layer``.

    No score here depends on where units lie: shuffling the units of a sheet changes none of them. What does is
    `spatial_alignment`.
    """

    kind: ClassVar[str] = "alignment"
    schema: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **dict.fromkeys(COMPONENT, ("layer", "component")),
        "fold_r": ("layer", "fold", "component"),
        **{f"control_{name}": ("control", "layer", "component") for name in CONTROL},
        **dict.fromkeys(DIFFERENCE, ("control", "layer", "component")),
    }

    @property
    def layers(self) -> list[str]:
        """The layers that were aligned, in depth order."""
        return [str(layer) for layer in self.data["layer"].values]

    @property
    def controls(self) -> list[str]:
        """The names of the controls."""
        return [str(name) for name in self.data["control"].values]

    @property
    def method(self) -> str:
        """How components were found: ``"pls"``, ``"cca"``, ``"pca"``, ``"rsa"`` or ``"cka"``."""
        return str(self.provenance["alignment"]["method"])

    def summary(self) -> pd.DataFrame:
        """Return one row a layer and component: ``layer component r ceiling normalized low high p p_max null_low null_high``.

        With controls, ``r_<control>``, ``p_<control>`` and ``difference_<control>`` with its interval stand beside. Components
        count from 1.
        """
        import pandas as pd

        rows = []
        for i, layer in enumerate(self.layers):
            for k in range(self.data.sizes["component"]):
                value = {name: float(self.data[name].values[i, k]) for name in COMPONENT}
                row = {
                    "layer": layer,
                    "component": k + 1,
                    "r": value.pop("r"),
                    "ceiling": value.pop("ceiling"),
                    "normalized": value.pop("normalized"),
                    **value,
                }
                for j, control in enumerate(self.controls):
                    row[f"r_{control}"] = float(self.data["control_r"].values[j, i, k])
                    row[f"p_{control}"] = float(self.data["control_p"].values[j, i, k])
                    for name in DIFFERENCE:
                        row[f"{name}_{control}"] = float(self.data[name].values[j, i, k])
                rows.append(row)
        return pd.DataFrame(rows)

    def unit_weights(self, layer: str) -> np.ndarray:
        """Return the weight maps (component, unit) of one layer; NaN for units that were left out."""
        self._require_weights()
        return np.asarray(self.data["unit_weight"].values[:, self.unit_slice(layer)])

    def ends(self, layer: str, component: int = 1, *, n: int = 5, side: str = "model") -> pd.DataFrame:
        """Return the stimuli at both ends of a component, by their held-out scores.

        Parameters
        ----------
        layer
            The layer.
        component
            Its number, from 1.
        n
            Stimuli at each end.
        side
            ``"model"`` (scores of the units) or ``"brain"`` (scores of the voxels).

        Returns
        -------
        DataFrame
            ``end`` (``"high"``, ``"low"``), ``stimulus``, ``text``, ``score``, the most extreme first.

        Raises
        ------
        InputError
            No such layer, component or side, or a result without components.
        """
        import pandas as pd

        self._require_weights()
        if layer not in self.layers:
            raise unknown("layer", layer, self.layers)
        n_components = self.data.sizes["component"]
        for what, given in (("component", component), ("n", n)):
            if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 1:
                raise InputError(f"{what} must be a whole number of 1 or more, got {given!r}")
        if not 1 <= component <= n_components:
            raise InputError(f"component {component}: this result has components 1 to {n_components}")
        if side not in ("model", "brain"):
            raise InputError(f"side must be 'model' or 'brain', got {side!r}")
        name = "unit_score" if side == "model" else "voxel_score"
        score = self.data[name].values[self.layers.index(layer), :, component - 1]
        known = np.flatnonzero(np.isfinite(score))
        order = known[np.argsort(score[known], kind="stable")]
        n = min(n, len(order) // 2)
        text, label = self.labels("text"), self.labels("stimulus")
        rows = [
            {"end": end, "stimulus": label[row], "text": text[row], "score": float(score[row])}
            for end, chosen in (("high", order[::-1][:n]), ("low", order[:n]))
            for row in chosen
        ]
        return pd.DataFrame(rows, columns=["end", "stimulus", "text", "score"])

    def _require_weights(self) -> None:
        if "unit_weight" not in self.data:
            raise InputError(
                f"method {self.method!r} compares whole sets of stimuli and has no components; its variables: "
                f"{listed(self.data.data_vars)}"
            )
