"""A model, its twin and its untrained selves: trained where they are not there yet, mapped and measured alike."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

import topobrain as tb
from analyses.localize_language import file_label
from analyses.train_topographic_pair import trained_layers
from topobrain._checks import InputError, TopobrainError, require_choice
from topobrain.models.directories import load_directory
from topobrain.training import find_recipe, run_recipe
from topobrain.training.recipe_run import is_finished, load_log

MEASURES = ("morans_i", "smoothness_tdann", "generic", "smoothness_toponets")
NULLS = ("layout", "labels")
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Family:
    """A model and what it is compared with: its twin, where it has one, and its untrained selves."""

    role: Literal["topographic", "pretrained"]
    model: tb.TorchModel
    twin: tb.TorchModel | None
    untrained: tuple[tb.TorchModel, ...]
    layers: tuple[str, ...]

    def shown(self) -> Iterator[tuple[str, tb.TorchModel]]:
        """Yield role and model of those that get files of their own, the compared ones first."""
        if self.untrained:
            yield "untrained", self.untrained[0]
        if self.twin is not None:
            yield "twin", self.twin
        yield self.role, self.model


@dataclass(frozen=True)
class Mapper:
    """How a family is mapped and measured, and where the files go."""

    out: Path
    contrast: tb.Contrast | Sequence[tb.Contrast]
    n_null: int
    seed: int

    def family(
        self, family: Family, variant: str, stimuli_of: Callable[[tb.TorchModel], tb.StimulusSet], tell: Tell
    ) -> dict[str, tb.Activations]:
        """Write ``selectivity-VARIANT_MODEL.nc`` and ``topography-VARIANT_MODEL.nc``; return role -> activations.

        The topographic model's measures have its untrained selves and its twin as references, besides the nulls.
        """
        references: dict[str, list[tb.Topography]] = {}
        activations = {}
        for role, model in family.shown():
            acts = tb.extract(model, stimuli_of(model), layers=list(family.layers))
            images = getattr(model.encode, "reads", "text") == "images"
            read = ", ".join(f"{row.condition} {row.tokens:.1f}" for row in acts.read_lengths().itertuples())
            tell(f"mapping {model.name} ({variant}{'' if images else f'; mean tokens: {read}'})")
            found = self.localize(acts, self.n_null)
            own = references if role == family.role else {}
            topography = self.topography(found, acts, own, n_null=self.n_null)
            label = file_label(model.name)
            found.save(self.out / f"selectivity-{variant}_{label}.nc")
            topography.save(self.out / f"topography-{variant}_{label}.nc")
            if role != family.role:
                references[role] = [topography]
            if role == "untrained":
                references[role] += [self.reference(family, one, stimuli_of) for one in family.untrained[1:]]
            activations[role] = acts
        return activations

    def reference(
        self, family: Family, model: tb.TorchModel, stimuli_of: Callable[[tb.TorchModel], tb.StimulusSet]
    ) -> tb.Topography:
        """Return the bare values of one more untrained self."""
        acts = tb.extract(model, stimuli_of(model), layers=list(family.layers))
        return self.topography(self.localize(acts, 0), acts, {}, n_null=0)

    def localize(self, acts: tb.Activations, n_null: int) -> tb.Selectivity:
        """Return the t-maps; that sides may differ in length is known here, and said for each model."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="contrast .* compares .* tokens", category=UserWarning)
            return tb.localize(acts, self.contrast, n_null=n_null, seed=self.seed)

    def topography(
        self, found: tb.Selectivity, acts: tb.Activations, references: dict[str, list[tb.Topography]], *, n_null: int
    ) -> tb.Topography:
        """Return the four measures beside their nulls."""
        return tb.topography(
            found,
            activations=acts,
            measures=MEASURES,
            nulls=NULLS,
            references=references,
            n_null=n_null,
            seed=self.seed,
        )


def pair_of(config: Any, tell: Tell) -> tuple[Path, Path]:
    """Return the directories of a topographic model and its twin: given ones, finished ones, or newly trained ones.

    Parameters
    ----------
    config
        With ``recipe size steps models out seed device`` as in `Config`.
    tell
        Called with a line on what is done.
    """
    if config.models:
        if len(config.models) != 2:
            raise InputError(
                f"models= takes a topographic model and its twin, two directories; got {len(config.models)}"
            )
        for place in config.models:
            if is_finished(place):
                load_log(place).save(config.out / f"training_{file_label(place.name)}.nc")
        return config.models[0], config.models[1]
    recipe = find_recipe(config.recipe, config.size).with_training(seed=config.seed)
    if config.steps is not None:
        recipe = recipe.with_training(steps=config.steps)
    places = []
    for one in (recipe, recipe.control()):

        def told(step: int, steps: int, loss: float, name: str = one.model_name) -> None:
            if step % 50 == 0 or step == steps:
                tell(f"training {name}: step {step}/{steps}, loss {loss:.3f}")

        tell(f"{one.model_name}: {one.training.steps} steps, kept in {config.out / one.model_name}")
        place = run_recipe(one, config.out / one.model_name, device=config.device, progress=told, tell=tell)
        load_log(place).save(config.out / f"training_{file_label(one.model_name)}.nc")
        places.append(place)
    return places[0], places[1]


def trained_family(config: Any, pair: tuple[Path, Path]) -> Family:
    """Return the models of two directories, and the first one with other random weights."""
    model, twin = (load_directory(place, device=config.device) for place in pair)
    untrained = tuple(
        load_directory(pair[0], weights=f"untrained:{config.seed + number}", device=config.device)
        for number in range(config.n_untrained)
    )
    layers = config.layers or trained_layers(pair[0], model)
    for one in (model, twin):
        for layer in layers:
            require_choice(f"layer of {one.name}", layer, tuple(one.sheets))
    return Family("topographic", model, twin, untrained, tuple(layers))


def write_roles(out: Path, families: Sequence[Family]) -> None:
    """Write ``models.csv``: which model is which, for the figure."""
    rows = [
        {"model": model.name, "file": file_label(model.name), "role": role, "family": family.model.name}
        for family in families
        for role, model in family.shown()
    ]
    pd.DataFrame(rows).to_csv(out / "models.csv", index=False)


def draw(out: Path, figure: str) -> Path:
    """Draw a figure from the results of a folder; return the picture."""
    drawing = importlib.import_module(f"figures.{figure}").draw(out)  # figures lie above analyses
    return Path(importlib.import_module("figures.style").save(drawing, out / "figures", figure))


def once_a_tokenizer(make: Callable[[Any], tb.StimulusSet]) -> Callable[[tb.TorchModel], tb.StimulusSet]:
    """Return model -> stimuli cut for its encoder, made once for all models that share a tokenizer."""
    made: dict[tuple[str, int | None], tb.StimulusSet] = {}

    def shown_to(model: tb.TorchModel) -> tb.StimulusSet:
        encode = model.encode
        key = encode.tokenizer.backend_tokenizer.to_str(), encode.max_length
        if key not in made:
            made[key] = make(encode)
        return made[key]

    return shown_to


def main(config: Any, run: Callable[[Any], Path]) -> None:
    """Run from the command line: what went wrong is a line, not a traceback."""
    try:
        print(f"figure: {run(config).resolve()}")
    except TopobrainError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped. What was finished is kept: run the same command to go on.")
