"""Score every layer of a model on brain responses, and the topography of the same activations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import topobrain as tb
from analyses.localize_language import file_label
from topobrain.data.surface_features import length_and_frequency


@dataclass(frozen=True)
class Config:
    """A model, a response set and the options of the encoding analysis."""

    model: str = "topoformer-tiny"
    weights: str | None = None
    responses: str = "simulated"
    out: Path = Path("results/encoding")
    pooling: Literal["mean", "last"] = "mean"
    n_permutations: int = 200
    n_bootstrap: int = 1000
    n_null: int = 20
    seed: int = 0


def run(config: Config, model: tb.Model | None = None) -> list[Path]:
    """Write ``encoding_<model>.nc`` and ``topography_<model>.nc``; return their paths."""
    model = model or tb.load_model(config.model, weights=config.weights)
    responses = tb.load_responses(config.responses)
    activations = tb.extract(model, responses.stimuli, pooling=config.pooling)
    scores = encode(config, activations, responses)
    spatial = tb.topography(activations, measures=["generic"], n_null=config.n_null, seed=config.seed)
    label = file_label(model.name)
    return [
        scores.save(config.out / f"encoding_{label}.nc"),
        spatial.save(config.out / f"topography_{label}.nc"),
    ]


def run_baseline(config: Config, corpus: str) -> list[Path]:
    """Score 13 length and frequency features the same way; frequencies come from ``corpus``."""
    responses = tb.load_responses(config.responses)
    features = length_and_frequency(responses.stimuli, tb.load_text(corpus), corpus_name=corpus)
    return [encode(config, features, responses).save(config.out / "encoding_length_and_frequency.nc")]


def encode(config: Config, activations: tb.Activations, responses: tb.BrainResponses) -> tb.Encoding:
    """Encode with the configuration's options."""
    return tb.encode(
        activations,
        responses,
        n_permutations=config.n_permutations,
        n_bootstrap=config.n_bootstrap,
        seed=config.seed,
    )


if __name__ == "__main__":
    import tyro

    for path in run(tyro.cli(Config)):
        print(path)
