"""Models trained here by their tiny recipes: trained when first asked for, and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from topobrain._checks import DataFileError
from topobrain.models.architectures import find_architecture, require_weights
from topobrain.models.directories import RANDOM_WEIGHTS, load_directory
from topobrain.models.torch_model import TorchModel
from topobrain.store import cache_directory
from topobrain.training.recipe_run import WORDS, build_module, is_finished, read_data, run_recipe
from topobrain.training.recipes import Recipe, find_recipe

CONTROL = "-control"


def __getattr__(name: str) -> Any:
    # the registry names its loaders "module:attr"; names of models have hyphens in them
    if "-tiny" in name:
        return partial(load_recipe_model, name)
    raise AttributeError(f"module 'topobrain.training.recipe_models' has no attribute {name!r}")


def load_recipe_model(name: str, *, weights: str | None = None, device: str = "auto") -> TorchModel:
    """Load ``RECIPE-tiny`` or its twin ``RECIPE-tiny-control``, training it on first use (some minutes).

    Parameters
    ----------
    name
        E.g. ``"toponet-nanogpt-tiny"``.
    weights
        None for the trained ones, ``"untrained"`` or ``"untrained:SEED"`` for random ones.
    device
        ``"auto"`` or a torch device.

    Raises
    ------
    UnknownNameError
        No such recipe.
    InputError
        No such weights.
    DataFileError
        Its corpus is not in the store, or the cache cannot be written.
    """
    require_weights(weights)
    recipe = find_recipe(name.removesuffix(CONTROL).removesuffix("-tiny"), "tiny")
    if name.endswith(CONTROL):
        recipe = recipe.control()
    place = recipe_directory(recipe)
    if weights is not None and not is_finished(place):  # random weights need no training
        return _untrained(recipe, weights, device)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place}.lock"):  # a second process waits for the model instead of training it too
            run_recipe(recipe, place, device=device, progress=partial(tell_first_use, name))
    except DataFileError:
        raise
    except OSError as error:
        raise DataFileError(f"cannot keep the trained model in {place.parent}: {error.strerror or error}") from error
    return load_directory(place, weights=weights, device=device)


def _untrained(recipe: Recipe, weights: str, device: str) -> TorchModel:
    """Return what `load_directory` would give of the trained model's directory, without training it."""
    seed = int(weights.partition(":")[2] or 0)
    # images have no tokenizer: their pixels need not be read
    tokenizer = None if recipe.objective == "images" else read_data(recipe).tokenizer
    module = build_module(recipe.with_training(seed=seed), tokenizer).eval()
    given = () if tokenizer is None else (tokenizer,)
    wrap = find_architecture(recipe.architecture).wrap
    model = wrap(f"{recipe.model_name} ({weights})", module, *given, device=device)
    model.provenance["trained_on"] = RANDOM_WEIGHTS
    return model


def recipe_directory(recipe: Recipe) -> Path:
    """Return where the cache keeps the model of a recipe."""
    what = {key: value for key, value in recipe.to_dict().items() if key not in WORDS}
    fields = [what, version("torch"), version("tokenizers")]
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
    return cache_directory() / "models" / f"{recipe.model_name}-{digest}"


def tell_first_use(name: str, step: int, steps: int, loss: float) -> None:
    """Say on standard error how far the training of a model is that was asked for by name."""
    if step == 1 or step % 100 == 0 or step == steps:
        line = f"training {name} (first use only): step {step}/{steps}, loss {loss:.2f}"
        end = "\r" if sys.stderr.isatty() and step < steps else "\n"
        print(line, end=end, file=sys.stderr, flush=True)  # noqa: T201
