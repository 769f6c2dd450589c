"""LaidOut: any frozen model on sheets of one's own choice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from topobrain._checks import InputError, unknown
from topobrain.models.protocol import Model, Recording, Survey
from topobrain.nn.layouts import Remixing
from topobrain.sheet import Sheet


class LaidOut:
    """A model whose layers lie on given sheets: its units moved to other places, or re-mixed.

    With a `Sheet`, the values stay what they are and only the places change. With a `topobrain.nn.Remixing`, the layer
    is recorded in the re-mixed basis. Other layers keep their own sheets. Everything else (tokens, words, device,
    provenance) is the model's own.

    Parameters
    ----------
    model
        Any model: anything with ``name``, ``sheets`` and ``record``.
    layouts
        Layer -> `Sheet` or `Remixing`, with as many units as the layer has.
    name
        Name used in titles and provenance; default: the model's with ``(laid out)``.

    Attributes
    ----------
    survey, token_counts, weights_hash, device, encode
        Present where the model has them. The hash covers the layouts: cached activations of other layouts are not used.

    Raises
    ------
    UnknownNameError
        A layer the model does not have; near names are offered.
    InputError
        A layout for another number of units.

    Notes
    -----
    Fit the layout on stimuli of their own: on those it was fitted to, noise looks topographic too.

    Examples
    --------
    Record, lay out, wrap; then measure on *other* stimuli (``extract`` and ``self_organising_map`` are named in full
    where they live, `topobrain.extract` and `topobrain.nn`)::

        fitted = extract(model, some_stimuli)
        layouts = {
            layer: self_organising_map(fitted.values(layer), Sheet.for_width(model.sheets[layer].n_units))
            for layer in fitted.layers
        }
        topography(extract(LaidOut(model, layouts), other_stimuli))

    >>> class Lengths:
    ...     name, sheets = "lengths", {"letters": Sheet.none(2)}
    ...     def record(self, stimuli, layers):
    ...         values = np.array([[[len(s), len(set(s))]] for s in stimuli], dtype=np.float32)
    ...         return Recording({layer: values for layer in layers}, np.zeros((len(stimuli), 1), dtype=int))
    >>> laid_out = LaidOut(Lengths(), {"letters": Sheet.grid(1, 2).with_places([1, 0])})
    >>> laid_out.name, laid_out.sheets["letters"].cells.tolist()
    ('lengths (laid out)', [1, 0])
    >>> laid_out.record(["letter"], ["letters"]).values["letters"].tolist()
    [[[6.0, 4.0]]]
    """

    survey: Callable[[Sequence[Any]], Survey]
    token_counts: Callable[[Sequence[Any]], np.ndarray]
    weights_hash: Callable[[], str]
    device: Any
    encode: Callable[[Sequence[Any]], Any]

    def __init__(self, model: Model, layouts: Mapping[str, Sheet | Remixing], name: str | None = None) -> None:
        if not layouts:
            raise InputError(f"no layout was given; the layers of {model.name!r} are {list(model.sheets)}")
        for layer, layout in layouts.items():
            if layer not in model.sheets:
                raise unknown("layer", layer, model.sheets, f"(in model {model.name!r})")
            if not isinstance(layout, Sheet | Remixing):
                raise InputError(
                    f"the layout of layer {layer!r} is a {type(layout).__name__}, expected a Sheet or a Remixing"
                )
            places, n_units = _sheet(layout).n_units, model.sheets[layer].n_units
            if places != n_units:
                raise InputError(f"the layout of layer {layer!r} has {places} places, the layer {n_units} units")
        self.model = model
        self.layouts = dict(layouts)
        self.name = f"{model.name} (laid out)" if name is None else name
        self.sheets: dict[str, Sheet] = {
            layer: _sheet(self.layouts[layer]) if layer in self.layouts else sheet
            for layer, sheet in model.sheets.items()
        }
        self.provenance: dict[str, Any] = {
            **getattr(model, "provenance", {}),
            "laid_out": {layer: _described(layout) for layer, layout in self.layouts.items()},
        }
        # optional members: a model that cannot be hashed must not look as if it could
        for member in ("survey", "token_counts", "device", "encode"):
            if hasattr(model, member):
                setattr(self, member, getattr(model, member))
        if hasattr(model, "weights_hash"):
            self.weights_hash = self._weights_hash

    def __repr__(self) -> str:
        return f"LaidOut({self.model!r}, layers {list(self.layouts)})"

    def record(self, stimuli: Sequence[Any], layers: Sequence[str]) -> Recording:
        """Return the activations of some layers for a batch, re-mixed where the layout says so.

        Raises
        ------
        UnknownNameError
            A layer that is not recordable.
        """
        for layer in layers:
            if layer not in self.sheets:
                raise unknown("layer", layer, self.sheets, f"(in model {self.name!r})")
        recording = self.model.record(stimuli, layers)
        values = dict(recording.values)
        for layer in layers:
            layout = self.layouts.get(layer)
            if isinstance(layout, Remixing):
                found = values[layer]
                if isinstance(found, torch.Tensor):
                    values[layer] = layout.apply(found)
                else:
                    values[layer] = layout.apply(np.asarray(found))
        return Recording(values, recording.word)

    def _weights_hash(self) -> str:
        sha = hashlib.sha256(str(getattr(self.model, "weights_hash")()).encode())  # noqa: B009 (optional member)
        for layer in self.sheets:
            if layer in self.layouts:
                sha.update(json.dumps([layer, _described(self.layouts[layer])], sort_keys=True).encode())
        return sha.hexdigest()


def _sheet(layout: Sheet | Remixing) -> Sheet:
    return layout.sheet if isinstance(layout, Remixing) else layout


def _described(layout: Sheet | Remixing) -> dict[str, Any]:
    """Return what tells a layout from another, short enough for the provenance of every result."""
    kind = "orthogonal re-mixing" if isinstance(layout, Remixing) else "places"
    content = json.dumps(_sheet(layout).to_dict(), sort_keys=True).encode()
    if isinstance(layout, Remixing):
        content += layout.matrix.astype("<f8").tobytes()
    return {"kind": kind, "sha256": hashlib.sha256(content).hexdigest()}
