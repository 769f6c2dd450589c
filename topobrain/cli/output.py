"""What the command line prints: tables or JSON on standard output, progress on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    import pandas as pd

    import topobrain

Json = Annotated[bool, tyro.conf.arg(name="json", help="Print JSON on standard output instead of a table.")]

SECONDS_BETWEEN_LINES = 10.0


def print_rows(rows: Any, as_json: bool) -> None:
    """Print rows (mappings with equal keys) as a table, or as JSON."""
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


def finish(result: topobrain.Result, path: Path, as_json: bool, hide: tuple[str, ...] = ()) -> int:
    """Save a result and print its summary."""
    return say(result, path, as_json, hide=hide, what="result", place=result.save(path).resolve())


def say(
    result: topobrain.Result, path: Path, as_json: bool, *, what: str, place: Path, hide: tuple[str, ...] = ()
) -> int:
    """Print the summary of a saved result, and where it is."""
    table: pd.DataFrame = result.summary()
    model = result.provenance.get("model", {}).get("name", "")
    best: pd.DataFrame | None = getattr(result, "best", lambda: None)()  # of an encoding
    if as_json:
        from topobrain.results import to_plain

        fields = {
            what: str(place), "result": str(path.resolve()), "model": model, "simulated": result.simulated,
            "rows": table.to_dict("records"), **({} if best is None else {"best": best.to_dict("records")}),
        }  # fmt: skip
        print(json.dumps(to_plain(fields), indent=1))
        return 0
    mark = " (simulated data)" if result.simulated else ""
    print(f"{result.kind} of {model}{mark}")
    print_rows(table.drop(columns=[c for c in hide if c in table]).to_dict("records"), False)
    if best is not None and (best["layers"] != "").any():
        print("the layer chosen inside the training folds (and in how many of them), on held-out stimuli:")
        print_rows(best.to_dict("records"), False)
    print(f"{what}: {place}")
    return 0


class ExtractionProgress:
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


class TrainingProgress:
    """Steps, loss and time left on standard error: a live bar in a terminal, a line now and then elsewhere."""

    def __init__(self, label: str, *, shown: bool) -> None:
        self.label, self.shown = label, shown
        self.live = shown and sys.stderr.isatty()
        self.last = 0.0

    def __enter__(self) -> Callable[[int, int, float], None]:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("loss {task.fields[loss]}"), TimeRemainingColumn(),
        )  # fmt: skip
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not self.live)
        self.bar.start()
        self.task = self.bar.add_task(self.label, loss="-")
        return self.tell

    def tell(self, step: int, steps: int, loss: float) -> None:
        """Show one step."""
        import time

        self.bar.update(self.task, completed=step, total=steps, loss=f"{loss:.3f}")
        if self.shown and not self.live and (step == steps or time.monotonic() - self.last > SECONDS_BETWEEN_LINES):
            self.last = time.monotonic()
            print(f"{self.label}: step {step}/{steps}, loss {loss:.3f}", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
