"""Train a topographic model and its non-topographic twin, and draw both sheets side by side."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import topobrain as tb
from analyses.held_out_stimuli import contrast_stimuli
from topobrain._checks import TopobrainError
from topobrain.models.directories import load_directory
from topobrain.training import Recipe, find_recipe, run_recipe
from topobrain.training.recipe_run import RECIPE_FILE, load_log


@dataclass(frozen=True)
class Config:
    """What to train and to show.

    Parameters
    ----------
    recipe, size
        Of `topobrain train`.
    out
        Folder of models, results and the figure (default: ``results/pair-RECIPE``).
    layers
        Layers to map (default: those the recipe lays out).
    steps
        Training steps, instead of the recipe's own.
    seed
        Of both models; they see the same examples in the same order.
    n_null
        Layout permutations of every map.
    device
        ``"auto"`` or a torch device.
    """

    recipe: str = "toponet-nanogpt"
    size: str = "tiny"
    out: Path | None = None
    layers: tuple[str, ...] = ()
    steps: int | None = None
    seed: int = 0
    n_null: int = 1000
    device: str = "auto"


def run(config: Config, tell: Callable[[str], None] = print) -> Path:
    """Train the pair (or find it trained), map it beside its untrained self, draw; return the picture."""
    recipe = find_recipe(config.recipe, config.size).with_training(seed=config.seed)
    if config.steps is not None:
        recipe = recipe.with_training(steps=config.steps)
    out = config.out or Path("results") / f"pair-{config.recipe}"
    places = {}
    for one in (recipe, recipe.control()):

        def told(step: int, steps: int, loss: float, name: str = one.model_name) -> None:
            if step % 50 == 0 or step == steps:
                tell(f"training {name}: step {step}/{steps}, loss {loss:.3f}")

        tell(f"{one.model_name}: {one.training.steps} steps, kept in {out / one.model_name}")
        places[one.model_name] = run_recipe(one, out / one.model_name, device=config.device, progress=told, tell=tell)
        load_log(places[one.model_name]).save(out / f"training_{one.model_name}.nc")
    models = [load_directory(place, device=config.device) for place in places.values()]
    untrained = load_directory(places[recipe.model_name], weights=f"untrained:{config.seed}", device=config.device)
    tokenizer = getattr(models[0].encode, "tokenizer", None)
    stimuli, contrast = contrast_stimuli(recipe, tokenizer)
    layers = config.layers or trained_layers(places[recipe.model_name], models[0])
    for model in (*models, untrained):
        tell(f"mapping {model.name}")
        activations = tb.extract(model, stimuli, layers=list(layers))
        label = model.name.replace(" ", "_").replace(":", "-")
        tb.localize(activations, contrast, n_null=config.n_null, seed=config.seed).save(out / f"selectivity_{label}.nc")
        tb.topography(activations, measures=["generic"], n_null=100, seed=config.seed).save(
            out / f"topography_{label}.nc"
        )
    drawing = importlib.import_module("figures.fig6_topographic_pair").draw(out)  # figures lie above analyses
    return Path(importlib.import_module("figures.style").save(drawing, out / "figures", "fig6_topographic_pair"))


def trained_layers(place: Path, model: tb.TorchModel) -> tuple[str, ...]:
    """Return the layers whose loss lays them out, or those that topographic layers act on where there is no such loss."""
    path = place / RECIPE_FILE
    penalties = Recipe.from_dict(json.loads(path.read_text(encoding="utf-8"))).penalties if path.is_file() else ()
    patterns = [pattern for penalty in penalties for pattern in penalty.layers]
    found = tuple(layer for layer in model.sheets if any(fnmatchcase(layer, pattern) for pattern in patterns))
    return found or laid_out_layers(model)


def laid_out_layers(model: tb.TorchModel) -> tuple[str, ...]:
    """Return up to four layers that topographic losses or layers act on: the last of each kind."""
    for pattern in (
        "attention.query attention.key attention.value attention.output",
        "mlp.c_fc",
        "attention mlp",
        "conv2",
    ):
        ends = tuple(f".{end}" for end in pattern.split())
        found = [layer for layer in model.sheets if layer.endswith(ends)]
        if found:
            return tuple(found[-4:])
    return tuple(model.sheets)[-4:]


if __name__ == "__main__":
    import tyro

    try:
        print(f"figure: {run(tyro.cli(Config)).resolve()}")
    except TopobrainError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped. What was finished is kept: run the same command to go on.")
