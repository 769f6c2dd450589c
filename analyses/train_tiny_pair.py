"""Train the tiny Topoformer and its non-topographic twin, and keep their training logs as results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from topobrain.training.recipe_run import load_log
from topobrain.training.tiny import tiny_for, train_tiny_pair


@dataclass(frozen=True)
class Config:
    """What to train on, and where the logs go."""

    out: Path = Path("results/tiny-pair")
    corpus: str = "simulated-text"
    steps: int | None = None


def run(config: Config, progress: Callable[[str, int, int, float], None] | None = None) -> dict[str, Path]:
    """Train both models (or find them trained); return model name -> directory."""
    trained = train_tiny_pair(tiny_for(config.corpus, steps=config.steps), progress=progress)
    for name, directory in trained.items():
        load_log(directory).save(config.out / f"training_{name}.nc")
    return trained


if __name__ == "__main__":
    import tyro

    for model, place in run(tyro.cli(Config)).items():
        print(f"{model}: {place}")
