"""Architectures: every network this project can build from a configuration, train, save and load again."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any, NamedTuple

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
        A field that the configuration does not have, or one without a default that is missing.
    """
    known = [field.name for field in fields(architecture.config)]
    for name in values:
        if name not in known:
            raise InputError(str(unknown(f"field of the {architecture.name} configuration", name, known)))
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return architecture.config(**plain)
    except TypeError as error:
        raise InputError(f"the {architecture.name} configuration is not complete: {error}") from None


def build(name: str, config: Any, *, seed: int = 0) -> nn.Module:
    """Build a network with random weights from a seed; the global random state is left alone."""
    architecture = find_architecture(name)
    return initialise(lambda: architecture.module(config), f"untrained:{seed}")


def plain_config(module: nn.Module) -> dict[str, Any]:
    """Return a network's configuration as plain JSON values."""
    config: Any = module.config
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}
