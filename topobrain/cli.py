"""The command line: ``topobrain VERB``. Every verb answers at once to --help, tells progress on standard error, and takes --json.

Exit codes: 0 done, 1 an error that is told, 2 wrong usage, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from topobrain._checks import DataFileError, InputError, TopobrainError, unknown

if TYPE_CHECKING:
    import pandas as pd

    import topobrain

Json = Annotated[bool, tyro.conf.arg(name="json", help="Print JSON on standard output instead of a table.")]


@dataclass(frozen=True)
class Models:
    """List the models that can be loaded by name."""

    as_json: Json = False

    def run(self) -> int:
        """Print name and description of every registered model."""
        from topobrain.models import list_models

        rows = [{"name": name, "what": what} for name, what in list_models().items()]
        rows.append(
            {"name": "hf:<id or directory>", "what": "any causal or masked transformer of the Hugging Face hub"}
        )
        rows.append({"name": "<directory>", "what": "a model directory written by topobrain or transformers"})
        rows.append({"name": "<module>:<factory>", "what": "your own: a factory in an importable module"})
        _print_rows(rows, self.as_json)
        return 0


@dataclass(frozen=True)
class Data:
    """List, fetch or verify data sets."""

    action: tyro.conf.Positional[Literal["list", "fetch", "verify"]] = "list"
    """list: what there is, and what of it is verified here. fetch: download. verify: check every file's hash."""
    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Data sets to fetch or verify (verify: all that are there, if none is named)."""
    as_json: Json = False

    def run(self) -> int:
        """Do the action."""
        from topobrain.data import list_data
        from topobrain.store import fetch, find_manifest, load_manifests, status, store_directory

        if self.action == "list":
            table = list_data()
            if self.as_json:
                _print_rows(table.to_dict("records"), True)
            else:
                print(f"store: {store_directory()}")
                _print_rows(table[["name", "kind", "access", "status", "megabytes", "title"]].to_dict("records"), False)
            return 0
        if self.action == "fetch":
            if not self.names:
                raise InputError("name the data sets to fetch: topobrain data fetch NAME ...")
            found_files = [{"name": n, "file": str(path)} for n in self.names for path in fetch(n).values()]
            _print_rows(found_files, self.as_json)
            return 0
        manifests = [find_manifest(name)[0] for name in self.names] or list(load_manifests().values())
        rows: list[dict[str, Any]] = []
        wrong = False
        for manifest in manifests:
            found = status(manifest)
            rows.append({"name": manifest.name, "status": found.state, "files": len(found.files)})
            bad = {path: what for path, what in found.files.items() if what not in ("verified", "missing")}
            wrong |= bool(bad) or (bool(self.names) and found.state != "verified")
            rows.extend({"name": f"  {path}", "status": what, "files": ""} for path, what in bad.items())
        _print_rows(rows, self.as_json)
        return 1 if wrong else 0


@dataclass(frozen=True, kw_only=True)
class _Extraction:
    """Options shared by the verbs that run a model."""

    model: str
    """A registered name (topobrain models), hf:<id or directory>, a model directory, or module:factory."""
    weights: str | None = None
    """"untrained" for the same architecture with random weights."""
    layers: str = "all"
    """Layers separated by commas, or "all"."""
    pooling: Literal["mean", "last"] = "mean"
    """Mean over the tokens of all words, or the last such token."""
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

        with _progress(f"extracting {model.name}") as told:
            return tb.extract(
                model,
                stimuli,
                layers=self.chosen(),
                pooling=self.pooling,
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
class Extract(_Extraction):
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
        return _finish(result, path, self.as_json)


@dataclass(frozen=True, kw_only=True)
class Localize(_Extraction):
    """Find the units that prefer one condition, and test the patchiness of their map against its layout null."""

    stimuli: str = "langloc"
    """A stimulus set with conditions, e.g. langloc or simulated-langloc."""
    on: str = "sentence"
    """Condition(s) preferred, separated by commas."""
    off: str = "nonword"
    """Condition(s) compared with, separated by commas."""
    by: str = "condition"
    """Column of the conditions."""
    test: Literal["welch", "student"] = "welch"
    """Welch's t (unequal variances) or Student's."""
    smooth: float | None = None
    """Smooth activations over the sheet first, full width at half maximum in grid steps."""
    n_null: int = 1000
    """Layout permutations."""
    seed: int = 0
    """Seed of the permutations."""

    def run(self) -> int:
        """Localize and save."""
        import topobrain as tb

        on, off = (tuple(part.strip() for part in side.split(",")) for side in (self.on, self.off))
        contrast = tb.Contrast(f"{self.on} - {self.off}", on=on, off=off, by=self.by)
        stimuli = tb.load_stimuli(self.stimuli)
        contrast.masks(stimuli.column(self.by))  # a wrong condition is told before the model runs
        model = self.load()
        path = self.target("selectivity", model.name, stimuli.name)
        activations = self.activations(model, stimuli)
        result = tb.localize(
            activations, contrast, test=self.test, smooth=self.smooth, n_null=self.n_null, seed=self.seed
        )
        return _finish(result, path, self.as_json)


@dataclass(frozen=True, kw_only=True)
class Encode(_Extraction):
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
        chosen = {"roi": _split(self.roi), "subject": _split(self.subject)}
        targets = {axis: names for axis, names in chosen.items() if names}
        if targets:
            responses.where(**targets)  # an unknown ROI is told before the model runs
        if not self.as_json:
            _tell_about(responses.where(**targets) if targets else responses, is_table)
        model = self.load()
        path = self.target("encoding", model.name, Path(self.data).stem)
        activations = self.activations(model, responses.stimuli)
        with _progress(f"encoding {len(activations.layers)} layers") as told:
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
        return _finish(result, path, self.as_json, hide=("null_low", "null_high"))


@dataclass(frozen=True)
class Report:
    """Write one self-contained HTML page of a folder of results."""

    directory: tyro.conf.Positional[Path] = Path("results")
    """Folder with .nc results."""
    title: str = "topobrain report"
    """Title of the page."""
    as_json: Json = False

    def run(self) -> int:
        """Build the page."""
        import matplotlib

        matplotlib.use("Agg")
        from topobrain.report import build_report

        path = build_report(self.directory, title=self.title).resolve()
        print(json.dumps({"report": str(path)}) if self.as_json else f"report: {path}")
        return 0


@dataclass(frozen=True)
class Reproduce:
    """Train or load the models, localize, encode, draw the figures, write the report (in a checkout)."""

    data: str = "simulated"
    """simulated (needs nothing), tuckute2024, or a table of your own."""
    models: tuple[str, ...] = ()
    """Further models to score."""
    out: Path | None = None
    """Where results go (default: results/<data>)."""
    training_steps: int | None = None
    """Training steps of the tiny models, fewer for a quick look."""
    n_permutations: int | None = None
    """Permutations of the encoding scores (default: 100 for the simulated cohort, else 1000)."""
    seed: int = 0
    """Seed of everything drawn at random."""
    as_json: Json = False

    def run(self) -> int:
        """Hand over to analyses/reproduce.py of the checkout."""
        import importlib
        from contextlib import nullcontext, redirect_stdout

        root = Path(__file__).resolve().parents[1]
        if not (root / "analyses" / "reproduce.py").is_file():
            raise InputError(
                "the analyses and figures are not part of the installed package: clone the repository and run `make "
                "reproduce` there (or `topobrain reproduce` in its environment)"
            )
        if str(root) not in sys.path:
            sys.path.insert(0, str(root))
        script: Any = importlib.import_module("analyses.reproduce")
        fields = {
            key: getattr(self, key) for key in ("data", "models", "out", "training_steps", "n_permutations", "seed")
        }
        with redirect_stdout(sys.stderr) if self.as_json else nullcontext():
            page = script.run(script.Config(**fields))
        if self.as_json:
            print(json.dumps({"report": str(page.resolve()), "figures": str(page.parent.resolve() / "figures")}))
        return 0


@dataclass(frozen=True)
class Doctor:
    """Say whether this machine is ready: versions, device, store, cache, optional parts."""

    as_json: Json = False

    def run(self) -> int:
        """Check, print, and return 1 if something needed is wrong."""
        from topobrain.doctor import PROBLEM, diagnose

        rows = list(diagnose())
        _print_rows(rows, self.as_json)
        return 1 if any(row["state"] == PROBLEM for row in rows) else 0


def _tell_about(responses: topobrain.BrainResponses, is_table: bool) -> None:
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


def _split(names: str | None) -> list[str]:
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def _print_rows(rows: Any, as_json: bool) -> None:
    if as_json:
        from topobrain.results import to_plain

        print(json.dumps(to_plain(rows), indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in rows[0] if rows else ():
        number = all(isinstance(row[name], int | float) and not isinstance(row[name], bool) for row in rows)
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    wide = Console().width if sys.stdout.isatty() else 200
    Console(width=wide, soft_wrap=False, highlight=False).print(table, markup=False)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        if value != value:
            return "-"
        return f"{value:.2g}" if 0 < abs(value) < 0.001 else f"{value:.3f}"
    return str(value)


def _finish(result: topobrain.Result, path: Path, as_json: bool, hide: tuple[str, ...] = ()) -> int:
    """Save a result and print its summary."""
    saved = result.save(path).resolve()
    table: pd.DataFrame = result.summary()
    model = result.provenance.get("model", {}).get("name", "")
    if as_json:
        from topobrain.results import to_plain

        fields = {"result": str(saved), "model": model, "simulated": result.simulated, "rows": table.to_dict("records")}
        print(json.dumps(to_plain(fields), indent=1))
        return 0
    mark = " (simulated data)" if result.simulated else ""
    print(f"{result.kind} of {model}{mark}")
    _print_rows(table.drop(columns=[c for c in hide if c in table]).to_dict("records"), False)
    print(f"result: {saved}")
    return 0


class _progress:
    """A progress bar on standard error while the block runs; silent where that is no terminal."""

    def __init__(self, label: str) -> None:
        self.label = label

    def __enter__(self) -> Callable[[int, int], None]:
        from rich.console import Console
        from rich.progress import Progress

        self.bar = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
        self.bar.start()
        task = self.bar.add_task(self.label)
        return lambda done, total: self.bar.update(task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


Command = (
    Annotated[Models, tyro.conf.subcommand("models")]
    | Annotated[Data, tyro.conf.subcommand("data")]
    | Annotated[Extract, tyro.conf.subcommand("extract")]
    | Annotated[Localize, tyro.conf.subcommand("localize")]
    | Annotated[Encode, tyro.conf.subcommand("encode")]
    | Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if given in (["--version"], ["-V"]):
        from topobrain import __version__

        print(f"topobrain {__version__}")
        return 0
    command: Any = tyro.cli(
        Command,
        prog="topobrain",
        description="Is this model organised like the brain? Selectivity maps, topography and encoding of brain responses.",
        args=given,
    )
    try:
        return int(command.run())
    except TopobrainError as error:
        if getattr(command, "as_json", False):
            print(json.dumps({"error": str(error), "kind": type(error).__name__}))
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped. What was finished is kept: run the same command to go on.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
