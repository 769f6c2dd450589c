"""Does the pipeline find the truth where it is known? Encode the simulated cohort from its own true features.

The features that made the responses must reach the noise ceiling, and the fitted weights must be the true ones up to
the noise of the responses. The cohort is simulated: this tests the method, not a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import topobrain as tb
from analyses.encode_brain import Config as EncodeConfig
from analyses.encode_brain import encode
from topobrain.encoding import ALPHAS
from topobrain.stats import ridge_cv


@dataclass(frozen=True)
class Config:
    """Where the results go, and the options of the encoding analysis."""

    out: Path = Path("results/recovery")
    n_permutations: int = 200
    seed: int = 0


def run(config: Config) -> list[Path]:
    """Write ``encoding_true_features.nc`` and ``recovered_weights.csv`` (simulated); return their paths."""
    responses = tb.load_responses("simulated")
    features = np.asarray(responses.data["feature_value"].values)
    activations = tb.Activations.from_arrays(
        {"features": features}, responses.stimuli, provenance={"model": {"name": "true features"}}
    )
    options = EncodeConfig(n_permutations=config.n_permutations, seed=config.seed)
    scores = encode(options, activations, responses)
    fit = ridge_cv(features, responses.values, alphas=ALPHAS)
    true = np.asarray(responses.data["true_weight"].values)
    table = pd.DataFrame(
        {
            "feature": np.repeat(responses.data["feature_name"].values, true.shape[1]),
            "voxel": np.tile(np.arange(true.shape[1]), true.shape[0]),
            "roi": np.tile(responses.labels("roi"), true.shape[0]),
            "true_weight": true.ravel(),
            "recovered_weight": fit.coef.ravel(),
        }
    )
    config.out.mkdir(parents=True, exist_ok=True)
    path = config.out / "recovered_weights.csv"
    table.to_csv(path, index=False, float_format="%.5g")
    return [scores.save(config.out / "encoding_true_features.nc"), path]


if __name__ == "__main__":
    import tyro

    for written in run(tyro.cli(Config)):
        print(written)
