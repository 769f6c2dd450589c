"""What a measurement of topography is given: t-maps, the activations behind them, maps to compare with; checked to fit."""

from __future__ import annotations

import warnings

import numpy as np

from topobrain._checks import InputError, unknown
from topobrain.activations import Activations
from topobrain.selectivity.result import Selectivity
from topobrain.selectivity.t_maps import Recipe, Sides, recipe_of
from topobrain.sheet import Sheet
from topobrain.stimuli import Contrast
from topobrain.topography.measures import MEASURES


class Given:
    """What there is to measure: t-maps, activations, or both, and maps to compare with."""

    def __init__(
        self, maps: Selectivity | None, activations: Activations | None, against: Selectivity | str | None,
        twin: Activations | None,
    ) -> None:  # fmt: skip
        self.maps, self.activations, self.against, self.twin = maps, activations, against, twin

    @classmethod
    def of(
        cls, result: Selectivity | Activations, activations: Activations | None, against: Selectivity | str | None,
        twin: Activations | None,
    ) -> Given:  # fmt: skip
        """Check that what is given belongs together."""
        if isinstance(result, Activations):
            if activations is not None or against is not None:
                raise InputError("activations= and against= go with t-maps: topography(localize(...), activations=...)")
            return cls(None, result, None, twin)
        if not isinstance(result, Selectivity):
            raise InputError(
                f"topography measures t-maps (localize) or activations (extract), got {type(result).__name__}; for a "
                "cortical map use cortical_topography"
            )
        if activations is not None:
            _require_origin(result, activations)
        if "contrasts" not in result.provenance.get("localize", {}):
            raise InputError("these t-maps do not say how they were made (an older file): localize again")
        if isinstance(against, str):
            result.contrast(against)
            if len(result.contrasts) == 1:
                raise InputError(f"{against!r} is the only contrast here: there is no other map to compare it with")
            _warn_of_shared_stimuli(result, against)
        elif isinstance(against, Selectivity):
            for layer in result.layers:
                if against.sheet(layer) != result.sheet(layer):
                    raise InputError(f"layer {layer!r} has another sheet in the maps to compare with")
            for name in result.contrasts:
                against.contrast(name)
        elif against is not None:
            raise InputError(f"against= is a Selectivity or the name of a contrast, got {type(against).__name__}")
        return cls(result, activations, against, twin)

    @property
    def source(self) -> Selectivity | Activations:
        """The t-maps, or the activations where there are no maps."""
        found = self.maps if self.maps is not None else self.activations
        assert found is not None
        return found

    @property
    def layers(self) -> list[str]:
        """The layers, in depth order."""
        return self.source.layers

    @property
    def contrasts(self) -> list[str]:
        """The contrasts of the maps, none for activations alone."""
        return self.maps.contrasts if self.maps is not None else []

    def sheet(self, layer: str) -> Sheet:
        """Return the sheet of a layer."""
        return self.source.sheet(layer)

    def t(self, layer: str) -> np.ndarray:
        """Return the t-maps of a layer (contrast, unit)."""
        assert self.maps is not None
        return np.stack([self.maps.values(layer, contrast=name) for name in self.contrasts])

    def other(self, layer: str) -> np.ndarray:
        """Return the maps to compare with (contrast, unit)."""
        assert self.maps is not None
        if isinstance(self.against, str):
            return np.stack([self.maps.values(layer, contrast=self.against)] * len(self.contrasts))
        assert self.against is not None
        return np.stack([self.against.values(layer, contrast=name) for name in self.contrasts])

    @property
    def smoothed(self) -> bool:
        """Whether the t-maps were smoothed: their layout null is then as smooth as they are."""
        return self.maps is not None and bool(self.maps.provenance.get("localize", {}).get("smooth"))

    def is_itself(self, measure: str, contrast: str) -> bool:
        """Whether a measure of two maps would compare a map with itself."""
        return MEASURES[measure].needs == "two maps" and self.against == contrast

    def origin(self) -> tuple[Recipe, Sides | None]:
        """Return how the t-maps were made, and the sides of their contrasts where the activations are there."""
        assert self.maps is not None
        fields = self.maps.provenance["localize"]
        recipe = recipe_of(fields)
        if self.activations is None:
            return recipe, None
        contrasts = [Contrast(c["name"], tuple(c["on"]), tuple(c["off"]), c["by"]) for c in fields["contrasts"]]
        return recipe, Sides.of(self.activations, contrasts)


def _warn_of_shared_stimuli(maps: Selectivity, against: str) -> None:
    """Warn where two contrasts use the same conditions: their maps then agree in noise too."""
    fields = {one["name"]: one for one in maps.provenance["localize"]["contrasts"]}
    other = fields[against]
    shared = [
        name
        for name, one in fields.items()
        if name != against and (one["by"] != other["by"] or {*one["on"], *one["off"]} & {*other["on"], *other["off"]})
    ]
    if shared:
        warnings.warn(
            f"{', '.join(repr(name) for name in shared)} may share stimuli with {against!r}: such maps agree in noise too. "
            "Localize each on half of the stimuli for a test",
            stacklevel=4,
        )


def _require_origin(maps: Selectivity, activations: Activations) -> None:
    """Raise unless the activations can be those behind the maps."""
    for layer in maps.layers:
        if layer not in activations.layers:
            raise unknown("layer", layer, activations.layers, "(in the activations)")
        if activations.sheet(layer) != maps.sheet(layer):
            raise InputError(f"layer {layer!r} has another sheet in the activations than in the t-maps")
    for part, field, what in (("model", "weights_sha256", "model"), ("stimuli", "sha256", "stimuli")):
        here, there = (one.provenance.get(part, {}).get(field) for one in (maps, activations))
        if here is not None and there is not None and here != there:
            raise InputError(f"the activations are not those behind the t-maps: another {what}")
    recipe, sides = Given(maps, activations, None, None).origin()
    assert sides is not None
    layer = maps.layers[0]
    first = slice(None) if recipe.smooth else slice(0, 256)
    values = recipe.prepare(activations.values(layer, first).astype(np.float64), maps.sheet(layer))
    told = np.stack([maps.values(layer, contrast=name) for name in maps.contrasts])[:, first]
    if not np.allclose(sides.t_maps(values, recipe.test).t, told, rtol=1e-5, atol=1e-6, equal_nan=True):
        raise InputError("the activations are not those behind the t-maps: they give other t-values")
