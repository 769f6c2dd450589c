"""Verbs on few dimensions: align (a model's with a brain's), components (of a model, or of a brain)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from topobrain._checks import InputError
from topobrain.cli.encoding import TABLES, grouped, tell_about
from topobrain.cli.output import ExtractionProgress, finish, print_rows
from topobrain.cli.verbs import Extraction, Running, named

if TYPE_CHECKING:
    import topobrain

HIDDEN = ("null_low", "null_high")
"""Columns of the summary that are only in the JSON."""


@dataclass(frozen=True, kw_only=True)
class Align(Extraction):
    """Find the few dimensions a model and a brain share: held-out r of each component, null, ceiling, controls beside."""

    data: str
    """Brain responses (topobrain data list), or a table or result file of your own."""
    controls: tuple[str, ...] = ()
    """Models scored beside on the same folds: "untrained" or "untrained:SEED" (the same architecture with random weights), or
    other models with the same layers, or as many."""
    method: Literal["pls", "cca", "pca", "rsa", "cka"] = "pls"
    """PLS-SVD, regularised CCA, the model's principal components; RSA and CKA compare whole sets of stimuli."""
    n_components: int | None = None
    """Components (default: 10, or as many as the data allow)."""
    text: str | None = None
    """Text column of a table of your own (default: sentence)."""
    group: str | None = None
    """Stimulus column whose values (passages, runs) folds must not split, in place of the data's own groups."""
    roi: str | None = None
    """ROIs separated by commas (default: all)."""
    subject: str | None = None
    """Subjects separated by commas (default: all)."""
    folds: Literal["auto", "contiguous", "shuffled", "leave-one-out"] = "auto"
    """leave-one-out holds out each group once. Shuffled folds leak between neighbours in time: never the default."""
    n_folds: int = 5
    """Folds."""
    regularization: float = 1.0
    """Of cca: 0 is classical canonical correlation."""
    ceiling: Literal["auto", "subjects", "split-half", "voxels", "none"] = "auto"
    """Where the noise ceiling comes from; auto takes the first of these that the responses allow."""
    n_permutations: int = 1000
    """Permutations of the stimuli, for p and the null band."""
    n_bootstrap: int = 1000
    """Bootstrap draws of the intervals."""
    max_memory: str | None = None
    """Bound on the working arrays of the null, as in "2 GiB"."""
    spatial: bool = False
    """Also test what depends on where units lie (spatial_*.nc): needs sheets, and voxels with places."""
    n_null: int = 200
    """Shuffles of places (with --spatial)."""
    seed: int = 0
    """Seed of everything drawn at random."""

    def run(self) -> int:
        """Align and save."""
        import topobrain as tb
        from topobrain.alignment import align

        responses = loaded_responses(self.data, self.text, self.group)
        targets = chosen_targets(self.roi, self.subject)
        chosen = responses.where(**targets) if targets else responses  # an unknown ROI is told before a model runs
        if not self.as_json:
            tell_about(chosen, Path(self.data).suffix in TABLES)
        if self.spatial:
            self.require_places(chosen)
        model = self.load()
        others = self.others()
        label: tuple[str, ...] = (model.name, Path(self.data).stem)
        label += () if self.method == "pls" else (self.method,)
        path = self.target("alignment", *label)
        stimuli: tb.StimulusSet = chosen.stimuli
        activations = self.activations(model, stimuli)
        beside = {name: self.extracted(other, stimuli) for name, other in others.items()}
        options = ("method", "n_components", "folds", "n_folds", "regularization", "ceiling", "n_permutations",
                   "n_bootstrap", "max_memory", "seed")  # fmt: skip
        with ExtractionProgress(f"aligning {len(activations.layers)} layers") as told:
            result = align(
                activations, chosen, controls=beside, progress=told, **{name: getattr(self, name) for name in options}
            )
        if not self.spatial:
            return finish(result, path, self.as_json, hide=HIDDEN)
        result.save(path)  # kept, whatever the second test says
        from topobrain.alignment.spatial import spatial_alignment

        with ExtractionProgress(f"mapping {len(activations.layers)} sheets to the cortex") as told:
            placed = spatial_alignment(
                activations, chosen, alignment=result, controls=beside, folds=self.folds, n_folds=self.n_folds,
                n_null=self.n_null, seed=self.seed, progress=told,
            )  # fmt: skip
        return finish_all({path: result, self.target("spatial", *label): placed}, self.as_json)

    def require_places(self, responses: topobrain.BrainResponses) -> None:
        """Tell before a model runs that voxels without places, or a method without weights, allow no spatial test."""
        from topobrain.alignment.cortical_places import voxel_places

        voxel_places(responses)
        if self.method in ("rsa", "cka"):
            raise InputError(
                f"--spatial takes the weights of components, which {self.method} has none of: use pls, cca or pca"
            )

    def others(self) -> dict[str, topobrain.Model]:
        """Load the controls by name; a wrong one is told before anything runs."""
        import topobrain as tb

        found: dict[str, tb.Model] = {}
        for name in self.controls:
            untrained = name.split(":")[0] == "untrained"
            if untrained and self.weights is not None:
                raise InputError(f"--weights {self.weights} is untrained already: leave {name} out of --controls")
            source = (self.model, name) if untrained else (name, None)
            other = tb.load_model(source[0], weights=source[1], device=self.device)
            label = name if untrained else other.name
            if label in found:
                raise InputError(f"two controls are named {label!r}: name each once")
            found[label] = other
        return found

    def extracted(self, model: topobrain.Model, stimuli: topobrain.StimulusSet) -> topobrain.Activations:
        """Extract a control: the layers asked for where it has them, else all."""
        import topobrain as tb

        wanted = self.chosen()
        layers = wanted if wanted is not None and all(layer in model.sheets for layer in wanted) else None
        with ExtractionProgress(f"extracting {model.name}") as told:
            return tb.extract(
                model, stimuli, layers=layers, pooling=self.pooling, max_tokens=self.max_tokens,
                precision=self.precision, batch_tokens=self.batch_tokens, cache=self.cache, progress=told,
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Components(Running):
    """Find the main dimensions of a model's activations, or of brain responses: variance, smoothness, sentences at both ends."""

    model: str | None = None
    """A model, as in extract; without one the brain responses of --data are decomposed."""
    stimuli: str | None = None
    """What the model reads: a stimulus set (topobrain data list), or a CSV or text file of your own."""
    data: str | None = None
    """Brain responses, or the data set whose stimuli the model reads."""
    text: str | None = None
    """Text column of a table of your own (default: sentence)."""
    roi: str | None = None
    """ROIs separated by commas (default: all; brain responses only)."""
    subject: str | None = None
    """Subjects separated by commas (default: all; brain responses only)."""
    n_components: int | None = None
    """Components (default: 10, or as many as the data allow)."""
    scale: bool = False
    """Divide units or voxels by their standard deviation first."""
    n_null: int = 1000
    """Shuffles of places behind the smoothness of each map."""
    ends: int = 0
    """Print so many sentences at both ends of each component."""
    seed: int = 0
    """Seed of the shuffles."""

    def run(self) -> int:
        """Decompose and save."""
        from topobrain.alignment.principal import components

        source, label = self.source()
        path = self.target("components", *label)
        options: dict[str, Any] = {"n_components": self.n_components, "scale": self.scale, "n_null": self.n_null}
        result = components(source, layers=self.chosen() if self.model else None, seed=self.seed, **options)
        code = finish(result, path, self.as_json)
        if self.ends and not self.as_json:
            for layer in result.layers:
                for component in range(1, result.data.sizes["component"] + 1):
                    print(f"{layer}, component {component}:")
                    print_rows(result.ends(layer, component, n=self.ends).to_dict("records"), False)
        return code

    def source(self) -> tuple[Any, tuple[str, ...]]:
        """Return what is decomposed, and the parts of the result's name."""
        import topobrain as tb

        if self.model is None:
            if self.data is None or self.stimuli is not None:
                raise InputError("give --model with --stimuli (or --data), or --data alone for brain responses")
            responses = loaded_responses(self.data, self.text, None)
            targets = chosen_targets(self.roi, self.subject)
            return (responses.where(**targets) if targets else responses), ("brain", Path(self.data).stem)
        if self.roi is not None or self.subject is not None:
            raise InputError("--roi and --subject choose voxels: leave them out, or leave --model out")
        if self.stimuli is not None and self.data is None:
            stimuli = tb.load_stimuli(self.stimuli, **({"text": self.text} if self.text else {}))
            name = stimuli.name
        elif self.data is not None and self.stimuli is None:
            stimuli, name = loaded_responses(self.data, self.text, None).stimuli, Path(self.data).stem
        else:
            raise InputError("give the model's stimuli with --stimuli, or with --data the data set they belong to")
        model = self.loaded(self.model)
        return self.activations(model, stimuli), (model.name, name)


def loaded_responses(data: str, text: str | None, group: str | None) -> topobrain.BrainResponses:
    """Load brain responses by name or from a file, with the groups asked for."""
    import topobrain as tb

    if Path(data).suffix in TABLES:
        return tb.load_responses(data, text=text or "sentence", group=group)
    if text is not None:
        raise InputError(
            f"--text {text!r} names a column of a table ({', '.join(TABLES)}); {data} is none: leave it out"
        )
    found = tb.load_responses(data)
    return found if group is None else grouped(found, group)


def chosen_targets(roi: str | None, subject: str | None) -> dict[str, list[str]]:
    """Return the ROIs and subjects asked for."""
    chosen = {"roi": named("--roi", roi), "subject": named("--subject", subject)}
    return {axis: names for axis, names in chosen.items() if names}


def finish_all(results: dict[Path, topobrain.Result], as_json: bool, hide: tuple[str, ...] = HIDDEN) -> int:
    """Save several results and print their summaries: one after the other, or a list of objects."""
    if not as_json:
        return max(finish(result, path, False, hide=hide) for path, result in results.items())
    from topobrain.results import to_plain

    rows = [
        {
            "result": str(result.save(path).resolve()),
            "kind": result.kind,
            "model": result.provenance.get("model", {}).get("name", ""),
            "simulated": result.simulated,
            "rows": result.summary().to_dict("records"),
        }
        for path, result in results.items()
    ]
    print(json.dumps(to_plain(rows), indent=1))
    return 0
