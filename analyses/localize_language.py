"""Find the language-selective units of a model, and test them on stimuli that took no part in finding them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import topobrain as tb

CONTRAST = tb.Contrast("sentence - nonword", on="sentence", off="nonword")


@dataclass(frozen=True)
class Config:
    """A model, a localizer and the options of the two analyses."""

    model: str = "topoformer-tiny"
    weights: str | None = None
    stimuli: str = "simulated-langloc"
    out: Path = Path("results/language")
    top: float = 0.01
    n_null: int = 1000
    seed: int = 0


def run(config: Config, model: tb.Model | None = None) -> list[Path]:
    """Write ``selectivity_<model>.nc`` and ``profile_<model>.nc``; return their paths."""
    model = model or tb.load_model(config.model, weights=config.weights)
    activations = tb.extract(model, tb.load_stimuli(config.stimuli))
    found = tb.localize(activations, CONTRAST, n_null=config.n_null, seed=config.seed)
    profile = tb.response_profile(activations, CONTRAST, split="odd-even", top=config.top)
    label = file_label(model.name)
    return [
        found.save(config.out / f"selectivity_{label}.nc"),
        profile.save(config.out / f"profile_{label}.nc"),
    ]


def file_label(name: str) -> str:
    """Return a model's name as part of a file name."""
    return "".join(c if c.isalnum() or c in "-." else "_" for c in name).strip("_")


if __name__ == "__main__":
    import tyro

    for path in run(tyro.cli(Config)):
        print(path)
