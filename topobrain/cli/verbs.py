"""Verbs that run a model for its activations or its encoding scores: extract, encode. What they share."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from topobrain._checks import DataFileError, unknown
from topobrain.cli.output import ExtractionProgress, Json, finish

if TYPE_CHECKING:
    import topobrain


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """Options shared by the verbs that run a model."""

    model: str
    """A registered name (topobrain models), hf:<id or directory>, a model directory, or module:factory."""
    weights: str | None = None
    """"untrained" for the same architecture with random weights."""
    layers: str = "all"
    """Layers separated by commas, or "all"."""
    pooling: Literal["mean", "last"] = "mean"
    """Mean over the tokens of all words, or the last such token."""
    max_tokens: int | None = None
    """Count only the first so many word tokens of each text (default: all)."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16 is faster and a little less exact."""
    device: str = "auto"
    """auto (CUDA, MPS, else CPU), cpu, cuda, cuda:1, mps."""
    batch_tokens: int = 2048
    """Tokens a batch; lower it if memory runs out."""
    cache: bool = True
    """Keep activations and reuse them."""
    out: Path = Path("results")
    """Folder of the result files."""
    as_json: Json = False

    def load(self) -> topobrain.Model:
        """Load the model and check the layers."""
        import topobrain as tb

        model = tb.load_model(self.model, weights=self.weights, device=self.device)
        for layer in self.chosen() or ():
            if layer not in model.sheets:
                raise unknown("layer", layer, model.sheets, f"(in model {model.name!r})")
        return model

    def chosen(self) -> list[str] | None:
        """Return the layers named, None for all."""
        return None if self.layers == "all" else [name.strip() for name in self.layers.split(",") if name.strip()]

    def activations(self, model: topobrain.Model, stimuli: topobrain.StimulusSet) -> topobrain.Activations:
        """Extract, with progress."""
        import topobrain as tb

        with ExtractionProgress(f"extracting {model.name}") as told:
            return tb.extract(
                model,
                stimuli,
                layers=self.chosen(),
                pooling=self.pooling,
                max_tokens=self.max_tokens,
                precision=self.precision,
                batch_tokens=self.batch_tokens,
                cache=self.cache,
                progress=told,
            )

    def target(self, verb: str, *names: str) -> Path:
        """Return the result's path, after making sure that the folder can be written."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            probe = self.out / f".writable.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise DataFileError(
                f"cannot write to {self.out}: {error.strerror or error}; choose another with --out"
            ) from error
        label = "_".join(names)
        return self.out / f"{verb}_{''.join(c if c.isalnum() or c in '-.' else '_' for c in label).strip('_')}.nc"


@dataclass(frozen=True, kw_only=True)
class Extract(Extraction):
    """Record a model's activations for a stimulus set, as a result file."""

    stimuli: str
    """A stimulus set (topobrain data list), or a CSV or text file of your own."""

    def run(self) -> int:
        """Extract and save."""
        import topobrain as tb

        stimuli = tb.load_stimuli(self.stimuli)
        model = self.load()
        path = self.target("activations", model.name, stimuli.name)
        result = self.activations(model, stimuli)
        return finish(result, path, self.as_json)


@dataclass(frozen=True, kw_only=True)
class Encode(Extraction):
    """Score how well a model's layers predict brain responses: held-out r, ceiling, interval, permutation p."""

    data: str
    """Brain responses (topobrain data list), or a table or result file of your own."""
    text: str = "sentence"
    """Text column of a table of your own."""
    group: str | None = None
    """Column of a table of your own whose values (passages, runs) folds must not split."""
    roi: str | None = None
    """ROIs separated by commas (default: all)."""
    subject: str | None = None
    """Subjects separated by commas (default: all)."""
    folds: Literal["auto", "contiguous", "shuffled"] = "auto"
    """Shuffled folds leak between neighbours in time: never the default."""
    n_folds: int = 5
    """Outer folds."""
    n_permutations: int = 1000
    """Permutations of the responses, each fitted again, for p and the null band."""
    n_bootstrap: int = 1000
    """Bootstrap draws of the interval."""
    seed: int = 0
    """Seed of everything drawn at random."""

    def run(self) -> int:
        """Encode and save."""
        import topobrain as tb

        is_table = Path(self.data).suffix in (".csv", ".tsv", ".txt", ".parquet")
        responses = tb.load_responses(self.data, **({"text": self.text, "group": self.group} if is_table else {}))
        chosen = {"roi": split_names(self.roi), "subject": split_names(self.subject)}
        targets = {axis: names for axis, names in chosen.items() if names}
        if targets:
            responses.where(**targets)  # an unknown ROI is told before the model runs
        if not self.as_json:
            tell_about(responses.where(**targets) if targets else responses, is_table)
        model = self.load()
        path = self.target("encoding", model.name, Path(self.data).stem)
        activations = self.activations(model, responses.stimuli)
        with ExtractionProgress(f"encoding {len(activations.layers)} layers") as told:
            result = tb.encode(
                activations,
                responses,
                folds=self.folds,
                n_folds=self.n_folds,
                targets=targets,
                n_permutations=self.n_permutations,
                n_bootstrap=self.n_bootstrap,
                seed=self.seed,
                progress=told,
            )
        return finish(result, path, self.as_json, hide=("null_low", "null_high"))


def tell_about(responses: topobrain.BrainResponses, is_table: bool) -> None:
    """Say on standard error which columns are taken for ROIs, and which cannot be scored."""
    table = responses.summary()
    if is_table:
        print(f"responses: {', '.join(table['roi'])} ({responses.data.sizes['stimulus']} stimuli)", file=sys.stderr)
    for _, row in table[table["n_unusable_voxels"] > 0].iterrows():
        print(
            f"note: {row.n_unusable_voxels} of {row.n_voxels} voxels of {row.roi} have missing or constant values and "
            "cannot be scored",
            file=sys.stderr,
        )


def split_names(names: str | None) -> list[str]:
    """Return names that were separated by commas."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]
