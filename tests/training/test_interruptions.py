"""Runs that are killed, interrupted, out of disk, or not alone, in processes of their own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy_runs
from toy_runs import long_run, rows_of, weights_hash

pytestmark = pytest.mark.slow

Start = Callable[..., Any]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Any]]:
    """Weights and metrics of the run that nothing disturbs."""
    directory = tmp_path_factory.mktemp("undisturbed")
    module, _ = long_run(str(directory))
    return weights_hash(module), rows_of(directory)


def ended(process: Any) -> int:
    process.join(120)
    assert process.exitcode is not None, "the process did not end"
    return int(process.exitcode)


def wait_for(path: Path, process: Any) -> None:
    while not path.exists():
        assert process.is_alive(), "the process ended before it came so far"
        time.sleep(0.02)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "checkpoints").iterdir())


def resumed(directory: Path) -> tuple[str, list[Any]]:
    module, _ = long_run(str(directory))
    assert not [name for name in names(directory) if not name.startswith("step-")]
    return weights_hash(module), rows_of(directory)


@pytest.mark.parametrize("at", [1, 4, 8])
def test_killed_in_the_middle_of_a_step(at: int, start: Start, expected: Any, tmp_path: Path) -> None:
    process = start(toy_runs.killed_in_a_step, tmp_path, at)
    assert ended(process) == -signal.SIGKILL
    last = (at - 1) // 2 * 2
    assert names(tmp_path)[-1] == f"step-{last:08d}"
    assert [row[0] for row in rows_of(tmp_path) if row[1] == "training"] == list(range(1, at))
    assert resumed(tmp_path) == expected


@pytest.mark.parametrize(
    ("what", "number", "last"),
    [
        ("file", 5, "step-00000002"),  # the model of step 4, half written
        ("file", 6, "step-00000002"),  # its optimiser
        ("folder", 3, "step-00000002"),  # all of it, before it gets its name
        ("file", 1, None),  # the very first
    ],
)
def test_killed_in_the_middle_of_a_save(
    what: str, number: int, last: str | None, start: Start, expected: Any, tmp_path: Path
) -> None:
    process = start(toy_runs.killed_in_a_save, tmp_path, what, number)
    assert ended(process) == -signal.SIGKILL
    left = names(tmp_path)
    assert any(name.startswith(".part-") for name in left)
    assert [name for name in left if name.startswith("step-")][-1:] == ([last] if last else [])
    assert resumed(tmp_path) == expected


def test_ctrl_c_ends_a_run_that_can_go_on(start: Start, expected: Any, tmp_path: Path) -> None:
    process = start(toy_runs.interrupted, tmp_path / "run", tmp_path / "mark")
    wait_for(tmp_path / "mark", process)
    os.kill(process.pid, signal.SIGINT)
    assert ended(process) == 130
    assert names(tmp_path / "run") == ["step-00000000", "step-00000004"]  # the step it was told in is the one kept
    assert resumed(tmp_path / "run") == expected


@pytest.mark.parametrize(("limit", "what"), [(3000, "checkpoint of step 4"), (600, "metrics")])
def test_a_full_disk_is_an_error_and_the_last_checkpoint_is_whole(
    limit: int, what: str, start: Start, expected: Any, tmp_path: Path
) -> None:
    """No file may grow beyond some bytes from the third step on: the model's, or already that of the metrics."""
    report = tmp_path / "report"
    process = start(toy_runs.on_a_full_disk, tmp_path / "run", report, limit)
    assert ended(process) == 2
    message = report.read_text()
    assert message.startswith("DataFileError: cannot ")
    assert what in message
    assert "too large" in message.lower()
    if what.startswith("checkpoint"):
        assert f"the last good one is {tmp_path / 'run' / 'checkpoints' / 'step-00000002'}" in message
    assert names(tmp_path / "run") == ["step-00000000", "step-00000002"]
    assert resumed(tmp_path / "run") == expected


def test_a_second_process_is_told_to_go_elsewhere(start: Start, expected: Any, tmp_path: Path) -> None:
    directory, mark, go = tmp_path / "run", tmp_path / "mark", tmp_path / "go"
    first = start(toy_runs.holding, directory, mark, go)
    wait_for(mark, first)
    second = start(toy_runs.told, tmp_path / "report", long_run, str(directory))
    assert ended(second) == 2
    assert (tmp_path / "report").read_text() == (
        f"InputError: another process is training in {directory}; choose another directory"
    )
    go.write_text("")
    assert ended(first) == 0
    assert resumed(directory) == expected


def test_a_killed_process_leaves_no_lock(start: Start, expected: Any, tmp_path: Path) -> None:
    directory, mark = tmp_path / "run", tmp_path / "mark"
    process = start(toy_runs.holding, directory, mark, tmp_path / "never")
    wait_for(mark, process)
    process.kill()
    assert ended(process) == -signal.SIGKILL
    assert resumed(directory) == expected
