"""The verb that trains."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from topobrain._checks import InputError
from topobrain.cli.output import Json, TrainingProgress, print_rows, say


@dataclass(frozen=True)
class Train:
    """Train a topographic model, or its twin, by a recipe. Stopped at any time, the same command goes on.

    Under torchrun or accelerate launch (`torchrun --nproc-per-node 2 -m topobrain.cli train ...`) every process takes its
    share of each batch.
    """

    recipe: tyro.conf.Positional[str] = ""
    """Name of a recipe; without one, the recipes are listed."""
    size: Literal["tiny", "gpu", "paper"] = "tiny"
    """tiny: minutes on two cores. gpu: eight minutes on one large GPU. paper: what the paper states."""
    out: Path | None = None
    """Directory of the run and of the model (default: runs/NAME-seedSEED)."""
    control: bool = False
    """Train the non-topographic twin instead."""
    tau: float | None = None
    """Strength of the topographic loss."""
    variant: str | None = None
    """A Topoformer's variant: control, querying, reweighting, both, signed, signed-both."""
    corpus: str | None = None
    """Another corpus: a name (topobrain data list), a plain text file, or several joined by +."""
    steps: int | None = None
    """Optimiser steps (default: the recipe's, as for all that follows)."""
    batch_size: int | None = None
    """Examples a step, over all processes."""
    micro_batch: int | None = None
    """Most examples a process puts through the model at once; lower it if memory runs out."""
    learning_rate: float | None = None
    """Peak learning rate."""
    max_seconds: float | None = None
    """Budget of wall-clock time."""
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None
    """Arithmetic of the forward pass."""
    seed: int | None = None
    """Seed of weights, order, masks and dropout."""
    device: str = "auto"
    """auto (CUDA, MPS, else CPU), cpu, cuda, cuda:1, mps."""
    tensorboard: bool = False
    """Also write event files for TensorBoard."""
    as_json: Json = False

    def run(self) -> int:
        """Train, and print what came of it."""
        from topobrain.training.recipe_run import load_log, run_recipe
        from topobrain.training.recipes import TEXTS_OF_THE_STORE, list_recipes

        if not self.recipe:
            rows = [
                {
                    "recipe": r.name,
                    "size": r.size,
                    "architecture": r.architecture,
                    "steps": r.training.steps,
                    "batch": r.training.batch_size,
                    "tau": f"{r.penalties[0].strength:g}" if r.penalties else "",
                    "corpus": "texts of the store" if r.corpus == TEXTS_OF_THE_STORE else r.corpus,
                    "corpus here": "yes" if r.size != "paper" or r.corpus == "imdb" else "no, give --corpus",
                }
                for r in list_recipes()
            ]
            if self.as_json:
                rows = [{**row, **r.to_dict()} for row, r in zip(rows, list_recipes(), strict=True)]
            print_rows(rows, self.as_json)
            return 0
        recipe = self.chosen()
        target = self.out or Path("runs") / f"{recipe.model_name}-seed{recipe.training.seed}"
        main = os.environ.get("RANK", "0") == "0"
        try:
            with TrainingProgress(f"training {recipe.model_name}", shown=main) as told:
                run_recipe(
                    recipe, target, device=self.device, progress=told, tell=_stage if main else None,
                    tensorboard=self.tensorboard,
                )  # fmt: skip
            if main:
                log = load_log(target)
                return say(log, target / "training.nc", self.as_json, what="directory", place=target.resolve())
        finally:
            leave_process_group()
        return 0

    def chosen(self) -> Any:
        """Return the recipe with the options applied."""
        from dataclasses import replace

        from topobrain.training.recipes import find_recipe

        recipe = find_recipe(self.recipe, self.size)
        if self.control and (self.tau is not None or self.variant is not None):
            raise InputError("--control is the twin without topography: it takes neither --tau nor --variant")
        if self.variant is not None:
            recipe = recipe.variant(self.variant)
        if self.tau is not None:
            recipe = recipe.with_strength(self.tau)
        if self.control:
            recipe = recipe.control()
        if self.corpus is not None:
            recipe = replace(recipe, corpus=self.corpus)
        names = ("steps", "batch_size", "micro_batch", "learning_rate", "max_seconds", "mixed_precision", "seed")
        changes = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return recipe.with_training(**changes)


def _stage(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def leave_process_group() -> None:
    """Part from the other processes of a torchrun, which warns otherwise."""
    if "RANK" in os.environ:
        import torch

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
