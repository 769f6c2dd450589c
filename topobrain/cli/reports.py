"""Verbs that make pages: report and reproduce."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from topobrain._checks import InputError
from topobrain.cli.output import Json


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

        root = Path(__file__).resolve().parents[2]
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
