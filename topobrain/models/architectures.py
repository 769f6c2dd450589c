"""Architectures: every network this project can build from a configuration, train, save and load again."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from torch import nn

from topobrain._checks import InputError, unknown
from topobrain.models.huggingface import initialise
from topobrain.models.torch_model import TorchModel


class Architecture(NamedTuple):
    """One kind of network.

    Attributes
    ----------
    name
        Its name in configurations.
    config
        Frozen dataclass of plain values; ``config.tiny(...)`` is a small one where the class has it.
    module
        ``module(config)`` builds the network; it keeps ``module.config``.
    wrap
        ``wrap(name, module, tokenizer, device=...)`` (or without tokenizer, for images) makes a model of it.
    reads
        ``"text"`` or ``"images"``.
    """

    name: str
    config: type[Any]
    module: type[nn.Module]
    wrap: Callable[..., TorchModel]
    reads: str


_PLACES = {
    "topoformer": ("topoformer", "TopoformerConfig", "Topoformer", "wrap_topoformer", "text"),
    "topoformer-classifier": (
        "topoformer",
        "TopoformerConfig",
        "TopoformerClassifier",
        "wrap_topoformer_classifier",
        "text",
    ),
    "topoformer-bert": ("topoformer_bert", "TopoformerBertConfig", "TopoformerBert", "wrap_topoformer_bert", "text"),
    "gpt": ("gpt", "GPTConfig", "GPT", "wrap_gpt", "text"),
    "gpt-neo": ("gpt_neo", "GPTNeoConfig", "GPTNeo", "wrap_gpt_neo", "text"),
    "resnet": ("resnet", "ResNetConfig", "ResNet", "wrap_resnet", "images"),
    "vit": ("vit", "ViTConfig", "ViT", "wrap_vit", "images"),
}
"""Name -> module, configuration, network, wrapper, what it reads; resolved only when asked for."""

ARCHITECTURES = tuple(_PLACES)


def find_architecture(name: str) -> Architecture:
    """Return an architecture by name.

    Raises
    ------
    UnknownNameError
        No such architecture; near names are offered.
    """
    if name not in _PLACES:
        raise unknown("architecture", name, _PLACES)
    place, config, module, wrap, reads = _PLACES[name]
    room = importlib.import_module(f"topobrain.models.{place}")
    return Architecture(name, getattr(room, config), getattr(room, module), getattr(room, wrap), reads)


def architecture_of(module: nn.Module) -> Architecture:
    """Return the architecture of a network.

    Raises
    ------
    InputError
        A network that none of them describes.
    """
    for name, (place, _, network, _, _) in _PLACES.items():
        if type(module).__name__ == network and type(module).__module__ == f"topobrain.models.{place}":
            return find_architecture(name)
    raise InputError(
        f"{type(module).__name__} is none of this project's networks ({', '.join(_PLACES)}), so it cannot be rebuilt from a "
        "configuration; save it in your own way and wrap it with TorchModel"
    )


def build_config(architecture: Architecture, values: Mapping[str, Any]) -> Any:
    """Return a configuration from plain values (lists become tuples).

    Raises
    ------
    InputError
        A field that the configuration does not have, one without a default that is missing, or a value of another kind.
    """
    kinds = get_type_hints(architecture.config)
    known = {field.name: kinds[field.name] for field in fields(architecture.config)}
    for name, value in values.items():
        if name not in known:
            raise InputError(str(unknown(f"field of the {architecture.name} configuration", name, known)))
        if not _is_a(value, known[name]):
            raise InputError(
                f"the field {name!r} of the {architecture.name} configuration takes {_said(known[name])}, got {value!r}"
            )
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return architecture.config(**plain)
    except TypeError as error:
        raise InputError(f"the {architecture.name} configuration is not complete: {error}") from None


def build(name: str, config: Any, *, seed: int = 0) -> nn.Module:
    """Build a network with random weights from a seed; the global random state is left alone.

    Raises
    ------
    UnknownNameError
        No such architecture.
    InputError
        A configuration of another architecture, or a seed that is no whole number of at least 0.
    """
    architecture = find_architecture(name)
    if type(config) is not architecture.config:
        raise InputError(f"a {name} is built from a {architecture.config.__name__}, got a {type(config).__name__}")
    weights = f"untrained:{seed}"
    require_weights(weights)
    return initialise(lambda: architecture.module(config), weights)


def require_weights(weights: str | None) -> None:
    """Raise unless ``weights`` is None, ``"untrained"`` or ``"untrained:SEED"`` with a seed that torch takes."""
    if weights is None or re.fullmatch(r"untrained(:[0-9]{1,18})?", weights):
        return
    raise InputError(
        f"weights must be None, 'untrained' or 'untrained:SEED' (a whole number of at least 0), got {weights!r}"
    )


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a plain value, as JSON has it, is of a field's type."""
    inner = get_args(kind)
    if get_origin(kind) is Literal:  # the configuration offers near names itself
        return isinstance(value, str)
    if get_origin(kind) in (UnionType, Union):
        return any(_is_a(value, one) for one in inner)
    if get_origin(kind) is tuple:
        kinds = inner[:1] * len(value) if isinstance(value, list | tuple) and inner[1:] == (...,) else inner
        return isinstance(value, list | tuple) and len(value) == len(kinds) and all(map(_is_a, value, kinds))
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, kind)


def _said(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")


def plain_config(module: nn.Module) -> dict[str, Any]:
    """Return a network's configuration as plain JSON values."""
    config: Any = module.config
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}
