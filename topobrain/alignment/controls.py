"""Which layer of a control stands beside which layer of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from topobrain._checks import InputError, listed
from topobrain.activations import Activations


def named_controls(controls: Any) -> dict[str, Any]:
    """Return controls by name, or raise for what is no mapping."""
    if controls is None:
        return {}
    if not isinstance(controls, Mapping):
        raise InputError(f"controls are named, got {type(controls).__name__}: controls={{'untrained': activations}}")
    if "model" in controls:
        raise InputError("a control cannot be called 'model': that is what it is compared with")
    return dict(controls)


def control_layers(name: str, control: Any, layers: Sequence[str]) -> list[str]:
    """Return the layers of a control that stand beside the model's: those of the same names, else of the same places.

    Raises
    ------
    InputError
        No activations, or a control with other layers and another number of them.
    """
    if not isinstance(control, Activations):
        raise InputError(f"control {name!r} must be Activations, got {type(control).__name__}")
    own = control.layers
    if all(layer in own for layer in layers):
        return list(layers)
    if len(own) == len(layers):
        return list(own)
    raise InputError(
        f"control {name!r} has the layers {listed(own)}, the model {listed(layers)}: expected the same names, or as many "
        "layers in the same order (choose them with Activations.only)"
    )
