from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_runs import CONFIG, causal, gpt

from topobrain._checks import DataFileError, InputError
from topobrain.training import Run, train
from topobrain.training.metrics import COLUMNS, Metrics


def table(directory: Path) -> list[dict[str, Any]]:
    """Return the rows of the CSV, read as the values they stand for."""
    with open(directory / "metrics.csv", encoding="utf-8", newline="") as stream:
        rows = [{key: json.loads(v) if key != "split" and v else v or None for key, v in row.items()}
                for row in csv.DictReader(stream)]  # fmt: skip
    return rows


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def filled(directory: Path, steps: int = 3) -> Metrics:
    metrics = Metrics(directory)
    metrics.add(step=0, split="held-out", loss=2.5, accuracy=0.1, seconds=0.0)
    for step in range(1, steps + 1):
        metrics.add(
            step=step, split="training", loss=1 / step, accuracy=0.3, gradient_norm=step / 3, seconds=step * 1.0
        )
    return metrics


def test_both_files_hold_the_same_rows(tmp_path: Path) -> None:
    train(gpt(), causal(), CONFIG, run=Run(directory=tmp_path))
    rows = table(tmp_path)
    assert rows == lines(tmp_path)
    assert tuple(rows[0]) == COLUMNS
    assert [(row["step"], row["split"]) for row in rows] == [
        (0, "held-out"), (1, "training"), (2, "training"), (3, "training"), (3, "held-out"), (4, "training"),
        (5, "training"), (6, "training"), (6, "held-out"),
    ]  # fmt: skip
    assert all(row["learning_rate"] is None for row in rows if row["split"] == "held-out")


def test_rows_are_on_the_disk_as_they_come(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    for step in range(3):
        metrics.add(step=step, split="training", loss=float(step))
        assert lines(tmp_path) == table(tmp_path) == metrics.rows
        assert len(metrics.rows) == step + 1


def test_numbers_that_json_lacks_are_left_empty(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    metrics.add(step=1, split="training", loss=1.0, gradient_norm=float("inf"), accuracy=float("nan"))
    assert "Infinity" not in (tmp_path / "metrics.jsonl").read_text()
    assert lines(tmp_path)[0]["gradient_norm"] is None
    assert table(tmp_path)[0]["accuracy"] is None


def test_a_resumed_run_goes_on_after_its_checkpoint(tmp_path: Path) -> None:
    filled(tmp_path, 5)
    again = Metrics(tmp_path)
    again.resume(3)
    assert [row["step"] for row in again.rows] == [0, 1, 2, 3]
    again.add(step=4, split="training", loss=9.0)
    assert lines(tmp_path) == table(tmp_path) == again.rows
    assert [row["loss"] for row in lines(tmp_path)] == [2.5, 1.0, 0.5, 1 / 3, 9.0]


@pytest.mark.parametrize("keep", range(1, 60, 7))
def test_a_half_written_last_line_is_left_out(keep: int, tmp_path: Path) -> None:
    filled(tmp_path)
    path = tmp_path / "metrics.jsonl"
    *whole, last = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole) + last[:keep])
    (tmp_path / "metrics.csv").write_text("step,spl")
    again = Metrics(tmp_path)
    again.resume(2)
    assert [row["step"] for row in again.rows] == [0, 1, 2]
    assert lines(tmp_path) == table(tmp_path) == again.rows


def test_lost_or_damaged_rows_are_told(tmp_path: Path) -> None:
    filled(tmp_path)
    path = tmp_path / "metrics.jsonl"
    text = path.read_text()
    path.write_text(text.replace('"step": 1', '"stop": 1'))
    with pytest.raises(DataFileError, match=f"line 2 of {path} is damaged"):
        Metrics(tmp_path).resume(3)
    path.write_text("".join(text.splitlines(keepends=True)[:-1]))
    with pytest.raises(DataFileError, match="holds 2 training steps, the checkpoint was made at step 3"):
        Metrics(tmp_path).resume(3)
    path.unlink()
    with pytest.raises(DataFileError, match="cannot read"):
        Metrics(tmp_path).resume(3)


def test_only_one_of_several_processes_writes(tmp_path: Path) -> None:
    filled(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    other = Metrics(tmp_path, writes=False, tensorboard=True)
    other.resume(2)
    assert [row["step"] for row in other.rows] == [0, 1, 2]
    other.add(step=3, split="training", loss=1.0)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataFileError, match=r"cannot write metrics to .*file"):
        Metrics(tmp_path / "file").add(step=0, split="training")


def test_tensorboard_is_asked_for_in_vain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="need a directory"):
        train(gpt(), causal(), CONFIG, run=Run(tensorboard=True))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"TensorBoard is not installed: pip install 'topobrain\[tensorboard\]'"):
        train(gpt(), causal(), CONFIG, run=Run(directory=tmp_path, tensorboard=True))


def test_tensorboard_reads_what_the_files_hold(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = Run(directory=tmp_path, tensorboard=True)

    def stop(step: int, steps: int, loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(gpt(), causal(), CONFIG, run=replace(run, progress=stop))
    train(gpt(), causal(), CONFIG, run=run)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {
        f"{split}/{name}"
        for split in ("training", "held-out")
        for name in (*COLUMNS[2:4], *(COLUMNS[4:7] if split == "training" else ()))
    }
    for tag, split in (("training/loss", "training"), ("held-out/loss", "held-out")):
        shown = {event.step: event.value for event in events.Scalars(tag)}
        assert shown == pytest.approx({row["step"]: row["loss"] for row in lines(tmp_path) if row["split"] == split})
