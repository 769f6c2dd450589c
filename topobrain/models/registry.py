"""Models by name: built in, from other distributions, from the hub, from a directory, or one's own."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from topobrain._checks import InputError, unknown
from topobrain.models import published
from topobrain.models.protocol import Model

GROUP = "topobrain.models"
"""Entry-point group in which another distribution names its models."""

RECIPES = ("topoformer-imdb", "topoformer-bert", "toponet-resnet18", "toponet-nanogpt", "topolm")
"""Recipes whose tiny models have names here (`topobrain.training.recipes` lies above this room)."""

BUILTIN = {
    "topoformer-tiny": "topobrain.training.tiny:load_tiny",
    "topoformer-tiny-control": "topobrain.training.tiny:load_tiny_control",
    "topoformer-tiny-brown": "topobrain.training.tiny:load_tiny_brown",
    "topoformer-tiny-brown-control": "topobrain.training.tiny:load_tiny_brown_control",
    "stories260k": "topobrain.models.llama2c:load_stories260k",
    "minilm": "topobrain.models.huggingface:load_minilm",
    **{
        f"{recipe}-tiny{twin}": f"topobrain.training.recipe_models:{recipe}-tiny{twin}"
        for recipe in RECIPES
        for twin in ("", "-control")
    },
    **{name: f"topobrain.models.published:{name}" for name in published.DESCRIPTIONS},
}
"""Name -> ``module:attr``, resolved only when asked for. The attribute is called with ``weights=`` and ``device=``."""

DESCRIPTIONS = {
    "topoformer-tiny": "one-layer Topoformer (spatial querying and reweighting), trained here on first use",
    "topoformer-tiny-control": "its non-topographic twin: same data, seed and size, standard attention",
    "topoformer-tiny-brown": "the same, trained here on sentences of the Brown corpus (from the data store)",
    "topoformer-tiny-brown-control": "its non-topographic twin",
    "stories260k": "pretrained language model of 260,032 parameters, from the data store",
    "minilm": "pretrained sentence encoder all-MiniLM-L6-v2, from the extra topobrain[minilm]",
    **{
        f"{recipe}-tiny{twin}": what
        for recipe in RECIPES
        for twin, what in (
            ("", f"the recipe {recipe} in its tiny size, trained here on first use (some minutes)"),
            ("-control", "its non-topographic twin"),
        )
    },
    **published.DESCRIPTIONS,
}


def _plugins() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.name in BUILTIN:
            raise InputError(
                f"the distribution {_owner(point)} names a model {point.name!r}, which is built in: rename it"
            )
        if point.name in found and found[point.name].value != point.value:
            raise InputError(
                f"two distributions name a model {point.name!r}: {_owner(found[point.name])} and {_owner(point)}; "
                "uninstall or rename one"
            )
        found[point.name] = point
    return found


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def list_models() -> dict[str, str]:
    """Return every registered model name with one line on it (hub ids and directories come on top)."""
    plugins = {name: f"from {_owner(point)} ({point.value})" for name, point in _plugins().items()}
    return {**DESCRIPTIONS, **dict(sorted(plugins.items()))}


def load_model(name: Any, *, weights: str | None = None, device: str = "auto") -> Model:
    """Load a model by name.

    Parameters
    ----------
    name
        A registered name (`list_models`), ``hf:<hub id or directory>``, a directory written by topobrain or
        transformers, ``module:attr`` for a factory of your own, or a factory or model object itself.
    weights
        None for the model's own weights; ``"untrained"`` or ``"untrained:SEED"`` for the same architecture with random
        weights.
    device
        ``"auto"`` (CUDA, MPS, else CPU) or a torch device.

    Returns
    -------
    Model

    Raises
    ------
    UnknownNameError
        No such name; near names are offered.
    InputError
        The factory gave something that is no model.
    """
    if not isinstance(name, str | os.PathLike):
        return _own(name, repr(name), weights, device)
    text = os.fspath(name)
    if text in ("", "hf:"):
        raise InputError("no model was named; `topobrain models` lists the names")
    if text.startswith("hf:"):
        from topobrain.models.huggingface import load_huggingface

        return load_huggingface(text.removeprefix("hf:"), weights=weights, device=device)
    plugins = _plugins()
    if text in BUILTIN:
        return _built(_attribute(BUILTIN[text]), text, weights, device)
    if text in plugins:
        try:
            factory = plugins[text].load()
        except (ImportError, AttributeError) as error:
            where = f"{plugins[text].value} of the distribution {_owner(plugins[text])}"
            raise InputError(f"model {text!r} is named by {where}, which cannot be loaded: {error}") from error
        return _own(factory, text, weights, device)
    directory = Path(text).expanduser()
    if directory.is_dir():
        from topobrain.models.directories import is_model_directory, load_directory

        if is_model_directory(directory):
            return load_directory(directory, weights=weights, device=device)
        from topobrain.models.huggingface import load_huggingface

        return load_huggingface(str(directory.absolute()), weights=weights, device=device)
    if ":" in text and os.sep not in text:
        return _own(_attribute(text), text, weights, device)
    raise unknown(
        "model",
        text,
        [*BUILTIN, *plugins],
        "Or give hf:<hub id or directory>, a model directory, or module:attr of your own factory.",
    )


def _attribute(path: str) -> Any:
    module_name, _, attribute = path.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # a factory of one's own lies where the command is typed
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise InputError(f"model {path!r}: there is no module {module_name!r} here or installed") from error
    if not hasattr(module, attribute):
        raise unknown(
            f"attribute of module {module_name!r}", attribute, [n for n in vars(module) if not n.startswith("_")]
        )
    return getattr(module, attribute)


def _built(factory: Any, label: str, weights: str | None, device: str) -> Model:
    is_model = not isinstance(factory, type) and hasattr(factory, "record")
    if is_model and weights is not None:
        raise InputError(f"{label} is already a model: it cannot be loaded with weights={weights!r}")
    if is_model:
        model = factory
    elif not isinstance(factory, type) and hasattr(factory, "named_modules"):
        raise InputError(
            f"{label.splitlines()[0]} is a torch module: wrap it with topobrain.TorchModel, which needs to know how to "
            "encode stimuli and which layers to record"
        )
    elif callable(factory):
        wanted = {key: value for key, value in (("weights", weights), ("device", device)) if _takes(factory, key)}
        if weights is not None and "weights" not in wanted:
            raise InputError(f"the factory of {label} takes no `weights`, so it has no {weights!r} variant")
        if device != "auto" and "device" not in wanted:
            raise InputError(f"the factory of {label} takes no `device`, so it cannot be put on {device!r}")
        model = factory(**wanted)
    else:
        raise InputError(f"{label} is a {type(factory).__name__}: expected a model, or a factory that returns one")
    missing = [part for part in ("name", "sheets", "record") if not hasattr(model, part)]
    if missing:
        raise InputError(
            f"{label} gave a {type(model).__name__} without {', '.join(missing)}: a model has `name`, `sheets` and "
            "`record(stimuli, layers)`; topobrain.TorchModel wraps any torch module"
        )
    return model  # type: ignore[no-any-return]


def _own(factory: Any, label: str, weights: str | None, device: str) -> Model:
    """Build a stranger's model; its untrained variant must be another model, and must not pass under the same name."""
    model = _built(factory, label, weights, device)
    if weights is None:
        return model
    usual = _built(factory, label, None, device)
    if (
        hasattr(model, "weights_hash")
        and hasattr(usual, "weights_hash")
        and model.weights_hash() == usual.weights_hash()
    ):
        raise InputError(
            f"the factory of {label} gives the same weights with weights={weights!r} as without: it ignores them"
        )
    if model.name == usual.name:
        named: Any = model
        named.name = f"{usual.name} ({weights})"
    return model


def _takes(factory: Any, keyword: str) -> bool:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # compiled code without a signature: let it say so itself
        return True
    named = parameters.get(keyword)
    if named is not None:
        return named.kind in (named.POSITIONAL_OR_KEYWORD, named.KEYWORD_ONLY)
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
