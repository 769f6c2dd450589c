"""Activations: what a model's units did for each stimulus, with every unit's layer and place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr

from topobrain._checks import InputError, unknown
from topobrain.results import Result
from topobrain.sheet import Sheet
from topobrain.stimuli import StimulusSet

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float

RESERVED = ("stimulus", "unit", "layer", "x", "y", "value", "text", "n_tokens_read", "n_words_read")
"""Names on the activation axes that a stimulus column may not take."""


def stimulus_coords(stimuli: StimulusSet) -> dict[str, tuple[str, np.ndarray]]:
    """Return the stimulus axis of a dataset: identifiers, texts and every table column that does not clash."""
    coords = {
        "stimulus": ("stimulus", np.array(stimuli.ids, dtype=object)),
        "text": ("stimulus", np.array(stimuli.texts, dtype=object)),
    }
    for name in stimuli.table.columns:
        if str(name) not in RESERVED:
            column = stimuli.table[name]
            values = (
                column.to_numpy() if column.dtype.kind in "iufb" else np.array([str(v) for v in column], dtype=object)
            )
            coords[str(name)] = ("stimulus", values)
    return coords


def unit_coords(sheets: Mapping[str, Sheet]) -> dict[str, tuple[str, np.ndarray]]:
    """Return the unit axis of a dataset for layers in order: number, layer, x, y."""
    total = sum(sheet.n_units for sheet in sheets.values())
    return {
        "unit": ("unit", np.arange(total)),
        "layer": ("unit", np.repeat(np.array(list(sheets), dtype=object), [s.n_units for s in sheets.values()])),
        "x": ("unit", np.concatenate([sheet.x for sheet in sheets.values()])),
        "y": ("unit", np.concatenate([sheet.y for sheet in sheets.values()])),
    }


def sheets_attribute(sheets: Mapping[str, Sheet]) -> dict[str, str]:
    """Return the dataset attribute that carries the sheets' geometry."""
    return {"sheets": json.dumps({layer: sheet.to_dict() for layer, sheet in sheets.items()})}


class UnitResult(Result):
    """A result with a ``unit`` axis: knows its layers and their sheets."""

    @property
    def sheets(self) -> dict[str, Sheet]:
        """The sheet of each layer, in depth order."""
        fields: dict[str, Any] = json.loads(self.data.attrs["sheets"])
        return {layer: Sheet.from_dict(sheet) for layer, sheet in fields.items()}

    @property
    def layers(self) -> list[str]:
        """The layers, in depth order."""
        return list(self.sheets)

    def sheet(self, layer: str) -> Sheet:
        """Return the sheet of one layer, or raise with near names."""
        sheets = self.sheets
        if layer not in sheets:
            raise unknown("layer", layer, sheets)
        return sheets[layer]

    def unit_slice(self, layer: str) -> slice:
        """Return the run of the unit axis that holds one layer (layers are contiguous)."""
        start = 0
        for name, sheet in self.sheets.items():
            if name == layer:
                return slice(start, start + sheet.n_units)
            start += sheet.n_units
        raise unknown("layer", layer, self.layers)


class Activations(UnitResult):
    """Activations of a model, one row a stimulus and one column a unit.

    ``value (stimulus, unit)`` float32; coordinates ``text`` and the stimulus table's columns on the stimulus axis,
    ``layer``, ``x``, ``y`` on the unit axis. With ``pooling="word"`` or ``"none"`` a row is one word or token and
    the coordinate ``sentence`` names the stimulus it came from.
    """

    kind: ClassVar[str] = "activations"
    schema: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "value": ("stimulus", "unit"),
        "text": ("stimulus",),
        "layer": ("unit",),
        "x": ("unit",),
        "y": ("unit",),
    }

    @classmethod
    def from_arrays(
        cls,
        values: Mapping[str, np.ndarray],
        stimuli: StimulusSet,
        *,
        sheets: Mapping[str, Sheet] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Activations:
        """Build activations from arrays of one's own: layer -> (stimulus, unit).

        Parameters
        ----------
        values
            Layer name -> array (stimulus, unit), in depth order; stored as float32.
        stimuli
            The stimuli of the rows.
        sheets
            Layer name -> sheet; layers without one get no layout.
        provenance
            Anything worth keeping with the numbers (model name, weight hash, ...).
        """
        if not values:
            raise InputError("activations need at least one layer, got none")
        arrays = {layer: np.asarray(array, dtype=np.float32) for layer, array in values.items()}
        places = {layer: (sheets or {}).get(layer) for layer in arrays}
        full: dict[str, Sheet] = {}
        for layer, array in arrays.items():
            if array.ndim != 2 or len(array) != len(stimuli):
                raise InputError(
                    f"layer {layer!r} has shape {array.shape}, expected (stimulus, unit) with {len(stimuli)} stimuli"
                )
            sheet = places[layer] or Sheet.none(array.shape[1])
            if sheet.n_units != array.shape[1]:
                raise InputError(f"the sheet of layer {layer!r} has {sheet.n_units} places for {array.shape[1]} units")
            full[layer] = sheet
        data = xr.Dataset(
            {"value": (("stimulus", "unit"), np.concatenate(list(arrays.values()), axis=1))},
            coords={**stimulus_coords(stimuli), **unit_coords(full)},
            attrs={
                **sheets_attribute(full),
                **cls.attributes({"stimuli": stimuli_fields(stimuli), **(provenance or {})}),
            },
        )
        return cls(data)

    def values(self, layer: str, units: slice | None = None) -> Float[np.ndarray, "stimulus unit"]:
        """Return one layer's activations (stimulus, unit), float32, or those of a run of its units.

        Only what is returned is read from disk.
        """
        whole = self.unit_slice(layer)
        first, stop, _ = (units or slice(None)).indices(whole.stop - whole.start)
        return np.asarray(self.data["value"][:, whole.start + first : whole.start + stop].values, dtype=np.float32)

    def read_lengths(self, by: str | None = "condition") -> pd.DataFrame:
        """Return how much text each condition gave: mean word tokens and whole words a stimulus.

        Parameters
        ----------
        by
            Stimulus column of the conditions, None for all stimuli together.

        Returns
        -------
        DataFrame
            ``condition``, ``n``, ``tokens``, ``words``; no rows where lengths are not known (arrays of one's own).
        """
        import pandas as pd

        columns = ["condition", "n", "tokens", "words"]
        if "n_tokens_read" not in self.data.coords:
            return pd.DataFrame(columns=columns)
        labels = np.full(self.data.sizes["stimulus"], "all stimuli", dtype=object) if by is None else self.labels(by)
        tokens, words = (np.asarray(self.data[name].values) for name in ("n_tokens_read", "n_words_read"))
        rows = [
            (label, int((labels == label).sum()), tokens[labels == label].mean(), words[labels == label].mean())
            for label in dict.fromkeys(labels.tolist())
        ]
        return pd.DataFrame(rows, columns=columns)

    def only(self, *layers: str) -> Activations:
        """Return the activations of some layers, in the order given."""
        sheets = {layer: self.sheet(layer) for layer in layers}
        keep = np.concatenate([np.arange(self.data.sizes["unit"])[self.unit_slice(layer)] for layer in layers])
        data = self.data.isel(unit=keep).assign_coords(unit=np.arange(len(keep)))
        return Activations(data.assign_attrs(sheets_attribute(sheets)))

    def summary(self) -> pd.DataFrame:
        """Return one row a layer: units, mean, standard deviation, units that never change."""
        import pandas as pd

        rows = []
        for layer in self.layers:
            values = self.values(layer)
            rows.append(
                {
                    "layer": layer,
                    "n_stimuli": values.shape[0],
                    "n_units": values.shape[1],
                    "mean": float(values.mean()),
                    "sd": float(values.std()),
                    "n_constant_units": int((np.ptp(values, axis=0) == 0).sum()),
                }
            )
        return pd.DataFrame(rows)


def stimuli_fields(stimuli: StimulusSet) -> dict[str, Any]:
    """Return what provenance keeps of a stimulus set."""
    return {**stimuli.provenance, "name": stimuli.name, "n_stimuli": len(stimuli), "sha256": stimuli.digest()}
