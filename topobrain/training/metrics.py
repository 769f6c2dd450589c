"""Metrics of a run, written as they come: one JSON object a line, and the same as a table."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from topobrain._checks import DataFileError, InputError

JSONL, TABLE = "metrics.jsonl", "metrics.csv"
COLUMNS = ("step", "split", "loss", "accuracy", "topography_loss", "learning_rate", "gradient_norm", "seconds")


class Metrics:
    """Rows of a run, in memory and on the disk.

    Parameters
    ----------
    directory
        Where the files are kept; None keeps them in memory only.
    writes
        Whether this process writes them: one of several does.
    tensorboard
        Also write event files for TensorBoard into ``directory/tensorboard``.

    Raises
    ------
    InputError
        TensorBoard is asked for without a directory, or is not installed.
    """

    def __init__(self, directory: Path | None, *, writes: bool = True, tensorboard: bool = False) -> None:
        self.directory = directory
        self.writes = writes and directory is not None
        self.rows: list[dict[str, Any]] = []
        self._writer = _summary_writer(directory) if tensorboard and writes else None
        self._board: Any = None
        self._resumed_at: int | None = None

    def resume(self, step: int) -> None:
        """Read what an earlier process wrote, up to a step; what came after it will come again.

        Raises
        ------
        DataFileError
            The file is missing or damaged, so that rows of earlier steps are lost.
        """
        if self.directory is None:
            return
        path = self.directory / JSONL
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            raise DataFileError(f"cannot read {path}: {error.strerror or error}") from error
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                if not isinstance(row, dict) or not set(COLUMNS) <= set(row):
                    raise ValueError("a row has other columns")
            except ValueError as error:
                if number == len(lines):
                    break  # the last line of a process that was killed while it wrote
                raise DataFileError(f"line {number} of {path} is damaged: {error}") from error
            if row["step"] <= step:
                rows.append({name: row[name] for name in COLUMNS})
        steps = [row["step"] for row in rows if row["split"] == "training"]
        if steps != list(range(1, step + 1)):
            raise DataFileError(
                f"{path} holds {len(steps)} training steps, the checkpoint was made at step {step}: restore the file, or "
                "remove the directory to start anew"
            )
        self.rows = rows
        self._resumed_at = step
        self._rewrite()

    def add(self, **values: Any) -> None:
        """Add a row; the columns are `COLUMNS`, those not given (or not finite) are empty."""
        row = {name: _finite(values.get(name)) for name in COLUMNS}
        self.rows.append(row)
        if not self.writes or self.directory is None:
            return
        try:
            self._show(row)
            if len(self.rows) == 1:
                self._rewrite()
            else:
                with open(self.directory / JSONL, "a", encoding="utf-8") as stream:
                    stream.write(json.dumps(row) + "\n")
                with open(self.directory / TABLE, "a", encoding="utf-8", newline="") as stream:
                    csv.writer(stream).writerow(row.values())
        except OSError as error:
            raise DataFileError(f"cannot write metrics to {self.directory}: {error.strerror or error}") from error

    def sync(self) -> None:
        """Wait until the rows are on the disk: a checkpoint must not outlive them."""
        if self.writes and self.directory is not None:
            with open(self.directory / JSONL, "rb") as stream:
                os.fsync(stream.fileno())

    def close(self) -> None:
        """Finish the event files."""
        if self._board is not None:
            self._board.close()

    def of(self, split: str) -> list[dict[str, Any]]:
        """Return the rows of one split, ``"training"`` or ``"held-out"``."""
        return [row for row in self.rows if row["split"] == split]

    def _show(self, row: dict[str, Any]) -> None:
        """Add a row to the event files; those of steps that come again are hidden."""
        if self._writer is None:
            return
        if self._board is None:
            self._board = self._writer(purge_step=None if self._resumed_at is None else self._resumed_at + 1)
        for name in COLUMNS[2:-1]:
            if row[name] is not None:
                self._board.add_scalar(f"{row['split']}/{name}", row[name], row["step"])

    def _rewrite(self) -> None:
        if not self.writes or self.directory is None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        with _replaced(self.directory / JSONL) as stream:
            stream.writelines(json.dumps(row) + "\n" for row in self.rows)
        with _replaced(self.directory / TABLE) as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            writer.writerows(row.values() for row in self.rows)


@contextmanager
def _replaced(path: Path) -> Iterator[TextIO]:
    """Write a file under another name and rename it at the end: killed in between, the old one is still whole."""
    part = path.with_name(f".{path.name}.part")
    with open(part, "w", encoding="utf-8", newline="") as stream:
        yield stream
    os.replace(part, path)


def _finite(value: Any) -> Any:
    """Return None for numbers that JSON does not have (the norm of a step that fp16 skips)."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _summary_writer(directory: Path | None) -> Callable[..., Any]:
    if directory is None:
        raise InputError("TensorBoard's event files need a directory to be kept in, this run has none")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("TensorBoard is not installed: pip install 'topobrain[tensorboard]'") from error
    return partial(SummaryWriter, str(directory / "tensorboard"))
