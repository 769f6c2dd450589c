"""What the verbs that run a model share, and the verb that only runs it: extract."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from topobrain._checks import DataFileError, InputError, unknown
from topobrain.cli.output import ExtractionProgress, Json, finish

if TYPE_CHECKING:
    import topobrain


@dataclass(frozen=True, kw_only=True)
class ModelRun:
    """Options shared by all verbs that run one model or several."""

    weights: str | None = None
    """"untrained" for the same architecture with random weights."""
    layers: str = "all"
    """Layers separated by commas, or "all"."""
    device: str = "auto"
    """auto (CUDA, MPS, else CPU), cpu, cuda, cuda:1, mps."""
    batch_tokens: int = 2048
    """Tokens a batch; lower it if memory runs out."""
    out: Path = Path("results")
    """Folder of the result files."""
    as_json: Json = False

    def loaded(self, name: str) -> topobrain.Model:
        """Load a model and check the layers."""
        import topobrain as tb

        model = tb.load_model(name, weights=self.weights, device=self.device)
        for layer in self.chosen() or ():
            if layer not in model.sheets:
                raise unknown("layer", layer, model.sheets, f"(in model {model.name!r})")
        return model

    def chosen(self) -> list[str] | None:
        """Return the layers named, None for all."""
        return None if self.layers == "all" else named("--layers", self.layers)

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
class Running(ModelRun):
    """Options shared by the verbs that extract activations of one model or several."""

    pooling: Literal["mean", "last"] = "mean"
    """Mean over the tokens of all words, or the last such token."""
    max_tokens: int | None = None
    """Count only the first so many word tokens of each text (default: all)."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16 is faster and a little less exact."""
    cache: bool = True
    """Keep activations and reuse them."""

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


@dataclass(frozen=True, kw_only=True)
class Extraction(Running):
    """Options shared by the verbs that run one model."""

    model: str
    """A registered name (topobrain models), hf:<id or directory>, a model directory, or module:factory."""

    def load(self) -> topobrain.Model:
        """Load the model and check the layers."""
        return self.loaded(self.model)


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


def split_names(names: str | None) -> list[str]:
    """Return names that were separated by commas."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def named(option: str, names: str | None) -> list[str]:
    """Return the names an option was given, none where it was not; raise where it was given and names nothing."""
    found = split_names(names)
    if names is not None and not found:
        raise InputError(
            f"{option} {names!r} names nothing: expected names separated by commas, or no {option} for all"
        )
    return found
