"""The verb that scores models on brain responses: encode, here or as jobs on many machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from topobrain._checks import InputError, unknown
from topobrain.cli.output import ExtractionProgress, finish, print_rows
from topobrain.cli.verbs import Running, named

if TYPE_CHECKING:
    import topobrain

TABLES = (".csv", ".tsv", ".txt", ".parquet")
HIDDEN = ("null_low", "null_high")
"""Columns of the summary that are only in the JSON."""


@dataclass(frozen=True, kw_only=True)
class Encode(Running):
    """Score how well a model's layers predict brain responses: held-out r, ceiling, interval, permutation p."""

    model: tuple[str, ...]
    """One model or several: registered names (topobrain models), hf:<id or directory>, model directories, module:factory, or
    activation files (.nc)."""
    data: str
    """Brain responses (topobrain data list), or a table or result file of your own."""
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
    """Outer folds."""
    inner_folds: int = 5
    """Folds inside the training stimuli, on which penalties are chosen."""
    selection: Literal["kfold", "gcv", "loo"] = "kfold"
    """How penalties are chosen: on inner folds, or in closed form (gcv, loo: faster, blind to groups and time)."""
    fit_precision: Literal["auto", "float64", "mixed", "float32"] = "auto"
    """Arithmetic of the fits: mixed chooses penalties in float32; auto takes float64 where that is cheap."""
    max_memory: str | None = None
    """Bound on what a fit allocates beyond its inputs, as in "2 GiB"."""
    n_permutations: int = 1000
    """Permutations of the responses, each fitted again, for p and the null band."""
    n_bootstrap: int = 1000
    """Bootstrap draws of the interval."""
    seed: int = 0
    """Seed of everything drawn at random."""
    dry_run: bool = False
    """Print the jobs, their memory, disk and hours, and start nothing."""
    workers: int = 1
    """Processes on this machine that jobs (a layer, a subject, a run of voxels each) are spread over."""
    scheduler: str | None = None
    """A Dask cluster to run the jobs on: tcp://HOST:PORT, or local:N for N worker processes here."""
    voxel_chunk: int | None = None
    """At most so many voxels of a subject a job (default: all of them)."""
    store: Path | None = None
    """Folder where finished jobs are kept and found again after a crash (default: in the cache; a cluster's workers must
    see it)."""

    def run(self) -> int:
        """Encode and save, or print the plan."""
        import topobrain as tb

        if not self.model:
            raise InputError("name one model or several: --model NAME [NAME ...]")
        is_table = Path(self.data).suffix in TABLES
        chosen = {"roi": named("--roi", self.roi), "subject": named("--subject", self.subject)}
        responses = self.responses(is_table)
        targets = {axis: names for axis, names in chosen.items() if names}
        scored = responses.where(**targets) if targets else responses  # an unknown ROI is told before a model runs
        if not self.as_json:
            tell_about(scored, is_table)
        if self.dry_run:
            return self.plan(responses, targets)
        if self.as_jobs:
            return self.fan_out(responses, targets)
        ((path, activations),) = self.recorded(responses)
        from topobrain.jobs.work import memory_advice

        with (
            memory_advice(scored.data.sizes["voxel"]),
            ExtractionProgress(f"encoding {len(activations.layers)} layers") as told,
        ):
            result = tb.encode(activations, responses, **self.options(targets), progress=told)
        return finish(result, path, self.as_json, hide=HIDDEN)

    def responses(self, is_table: bool) -> topobrain.BrainResponses:
        """Load the responses with the groups asked for."""
        import topobrain as tb

        if is_table:
            return tb.load_responses(self.data, text=self.text or "sentence", group=self.group)
        if self.text is not None:
            raise InputError(
                f"--text {self.text!r} names a column of a table ({', '.join(TABLES)}); {self.data} is none and has its "
                "texts already: leave --text out"
            )
        loaded = tb.load_responses(self.data)
        return loaded if self.group is None else grouped(loaded, self.group)

    @property
    def as_jobs(self) -> bool:
        """Whether the work is divided into jobs; one model on one machine needs no store."""
        named = any(given is not None for given in (self.scheduler, self.voxel_chunk, self.store))
        return named or self.workers != 1 or len(self.model) > 1

    def options(self, targets: dict[str, Any]) -> dict[str, Any]:
        """Return the options of `encode`."""
        same = ("folds", "n_folds", "inner_folds", "selection", "max_memory", "n_permutations", "n_bootstrap", "seed")
        fields = {name: getattr(self, name) for name in same}
        return {**fields, "precision": self.fit_precision, "targets": targets, "layers": self.chosen()}

    def jobs(self) -> dict[str, Any]:
        """Return the options of `encode_all` that say how the work is divided."""
        fields = {"voxel_chunk": self.voxel_chunk, "scheduler": self.scheduler, "store": self.store}
        return {**fields, "n_workers": self.workers}

    def recorded(self, responses: topobrain.BrainResponses) -> Iterator[tuple[Path, topobrain.Activations]]:
        """Yield the result's path and the activations of each model; one model is in memory at a time."""
        import topobrain as tb

        taken = set()
        for name in self.model:
            source = tb.load_result(name, lazy=True) if name.endswith(".nc") else self.loaded(name)
            if isinstance(source, tb.Result):
                if not isinstance(source, tb.Activations):
                    raise InputError(f"{name} holds a {source.kind} result, expected activations")
                label = str(source.provenance.get("model", {}).get("name") or Path(name).stem)
            else:
                label = source.name
            path = self.target("encoding", label, Path(self.data).stem)  # told before the model runs
            if path in taken:
                raise InputError(f"two of the models are named {label!r} and would both be written to {path}")
            taken.add(path)
            yield path, source if isinstance(source, tb.Activations) else self.activations(source, responses.stimuli)

    def plan(self, responses: topobrain.BrainResponses, targets: dict[str, Any]) -> int:
        """Print what would run."""
        from topobrain.jobs import encode_all

        plan = encode_all(
            self.model, responses, dry_run=True, extraction={"weights": self.weights, "device": self.device},
            **self.jobs(), **self.options(targets),
        )  # fmt: skip
        if self.as_json:
            from topobrain.results import to_plain

            print(json.dumps(to_plain({"rows": plan.rows(), "totals": plan.totals()}), indent=1))
        else:
            print_rows(plan.rows(), False)
            print(plan)
        return 0

    def fan_out(self, responses: topobrain.BrainResponses, targets: dict[str, Any]) -> int:
        """Score all models as jobs and save every result under its path."""
        from topobrain.jobs import encode_all

        paths: list[Path] = []

        def each() -> Iterator[
            topobrain.Activations
        ]:  # read when the cluster answers, so that a wrong address is told first
            for path, activations in self.recorded(responses):
                paths.append(path)
                yield activations

        with ExitStack() as stack:
            bars: list[Callable[[int, int], None]] = []

            def told(done: int, total: int) -> None:  # the bar of extraction is gone when that of the jobs comes
                if not bars:
                    bars.append(stack.enter_context(ExtractionProgress(f"encoding {len(paths)} models")))
                bars[0](done, total)

            results = encode_all(each(), responses, progress=told, **self.jobs(), **self.options(targets))
        if not self.as_json:
            for result, path in zip(results, paths, strict=True):
                finish(result, path, False, hide=HIDDEN)
            return 0
        if len(results) == 1:
            return finish(results[0], paths[0], True)
        from topobrain.results import to_plain

        rows = [
            {
                "result": str(result.save(path).resolve()),
                "model": result.provenance.get("model", {}).get("name", ""),
                "simulated": result.simulated,
                "rows": result.summary().to_dict("records"),
                "best": result.best().to_dict("records"),
            }
            for result, path in zip(results, paths, strict=True)
        ]
        print(json.dumps(to_plain(rows), indent=1))
        return 0


def grouped(responses: topobrain.BrainResponses, column: str) -> topobrain.BrainResponses:
    """Return responses whose groups, which folds must not split, are the values of a stimulus column.

    Raises
    ------
    UnknownNameError
        There is no such column.
    InputError
        A stimulus has no value there.
    """
    coords = responses.data.coords
    columns = [str(name) for name in coords if coords[name].dims == ("stimulus",) and name not in ("stimulus", "text")]
    if column not in columns:
        raise unknown("stimulus column", column, columns, "(--group)")
    labels = coords[column].to_series()
    absent = labels.isna() | labels.astype(str).str.strip().isin(["", "nan", "None", "<NA>"])
    if absent.any():
        raise InputError(
            f"--group {column}: {int(absent.sum())} of {len(labels)} stimuli have no value there, the first of them "
            f"{labels.index[absent][0]!r}; folds need the group of every stimulus"
        )
    return type(responses)(responses.data.assign_coords(group=("stimulus", labels.astype(str).to_numpy(dtype=object))))


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
