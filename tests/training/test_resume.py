from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toy_runs import (
    CONFIG,
    N_TOKENS,
    TOPOLOSS,
    causal,
    gpt,
    images,
    masked,
    resnet,
    rows_of,
    sequences,
    topoformer,
    weights_hash,
)

from topobrain._checks import DataFileError, InputError
from topobrain.training import CausalLM, MaskedLM, Penalty, Run, TrainingConfig, train
from topobrain.training.checkpoints import list_checkpoints, load_checkpoint, newest_checkpoint, save_checkpoint
from topobrain.training.masking import MaskRule

LAST = "step-00000006"

KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], dict[str, Any], list[Penalty]]] = {
    "adamw, dropout, accumulation, penalty": (gpt, causal, {"micro_batch": 3}, [TOPOLOSS]),
    "sgd": (gpt, causal, {"optimiser": "sgd", "learning_rate": 0.1}, []),
    "sgd without momentum": (gpt, causal, {"optimiser": "sgd", "momentum": 0.0}, []),
    "masks, ramp": (topoformer, masked, {"ramp_steps": 5, "micro_batch": 2}, []),
    "bf16, two groups": (topoformer, masked, {"mixed_precision": "bf16", "decayed": "matrices"}, []),
    "drawn neighbourhoods": (
        gpt, causal, {}, [Penalty("correlation", ("blocks.*.mlp",), radius=2, n_neighbourhoods=1, schedule="linear")],
    ),
    "normalisation, augmentation": (resnet, images, {"optimiser": "sgd"}, []),
}  # fmt: skip


def stopped(at: int) -> Callable[[int, int, float], None]:
    def progress(step: int, steps: int, loss: float) -> None:
        if step == at:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize(
    "kind", [*list(KINDS)[:2], *(pytest.param(kind, marks=pytest.mark.slow) for kind in list(KINDS)[2:])]
)
def test_a_run_that_was_stopped_ends_like_one_that_was_not(kind: str, tmp_path: Path) -> None:
    make, objective, changes, penalties = KINDS[kind]
    config = replace(CONFIG, checkpoint_every=2, **changes)
    through, parts = tmp_path / "through", tmp_path / "parts"
    expected = make()
    log = train(expected, objective(), config, penalties=penalties, run=Run(directory=through))
    for at in (1, 3, 5):  # before the first checkpoint after the start, and twice between two checkpoints
        with pytest.raises(KeyboardInterrupt):
            train(make(), objective(), config, penalties=penalties, run=Run(directory=parts, progress=stopped(at)))
    torch.manual_seed(at)
    module = make()
    resumed = train(module, objective(), config, penalties=penalties, run=Run(directory=parts))
    assert weights_hash(module) == weights_hash(expected)
    for file in ("model.safetensors", "optimiser.safetensors"):
        kept, same = (place / "checkpoints" / LAST / file for place in (through, parts))
        assert kept.read_bytes() == same.read_bytes(), file
    assert rows_of(parts) == rows_of(through)
    for name in log.data.data_vars:
        np.testing.assert_array_equal(resumed.data[name].values, log.data[name].values)


def test_the_optimiser_s_moments_are_kept(tmp_path: Path) -> None:
    """They matter: without them the run would end elsewhere."""
    train(gpt(), causal(), CONFIG, run=Run(directory=tmp_path))
    newest = newest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    module = gpt()
    optimiser = torch.optim.AdamW(module.parameters())
    fields = load_checkpoint(newest, module, optimiser)
    assert fields["step"] == newest.step == 6
    state = optimiser.state_dict()["state"]
    assert len(state) == len(list(module.parameters()))
    assert all(float(values["step"]) == 6 for values in state.values())
    assert all(float(values["exp_avg"].abs().sum()) > 0 for values in state.values())


def test_the_caller_s_weights_do_not_matter_once_there_is_a_checkpoint(tmp_path: Path) -> None:
    module = gpt()
    train(module, causal(), CONFIG, run=Run(directory=tmp_path))
    other = gpt()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    rows = rows_of(tmp_path)
    log = train(other, causal(), CONFIG, run=Run(directory=str(tmp_path)))  # type: ignore[arg-type]
    assert weights_hash(other) == weights_hash(module)
    assert rows_of(tmp_path) == rows  # nothing was trained or evaluated again
    assert log.data["step"].values.tolist() == [1, 2, 3, 4, 5, 6]


def test_tied_and_random_buffers_are_kept_too(tmp_path: Path) -> None:
    """Permuted positions are part of the weights: they come from the checkpoint, not from the module given."""
    expected = gpt(positions="permuted", position_seed=1)
    train(expected, causal(), CONFIG, run=Run(directory=tmp_path))
    other = gpt(positions="permuted", position_seed=2)
    train(other, causal(), CONFIG, run=Run(directory=tmp_path))
    assert torch.equal(other.cells, expected.cells)  # type: ignore[arg-type]


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    config = replace(CONFIG, checkpoint_every=1, keep_checkpoints=2)
    train(gpt(), causal(), config, run=Run(directory=tmp_path))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000005", "step-00000006"]


def test_no_file_is_a_pickle(tmp_path: Path) -> None:
    train(gpt(), causal(), CONFIG, run=Run(directory=tmp_path))
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {
        ".lock", "metrics.csv", "metrics.jsonl", "model.safetensors", "optimiser.safetensors", "state.json",
    }  # fmt: skip


@pytest.mark.parametrize("file", ["model.safetensors", "optimiser.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "missing"])
def test_a_damaged_newest_checkpoint_is_named_and_not_passed_over(file: str, damage: str, tmp_path: Path) -> None:
    module = gpt()
    train(module, causal(), CONFIG, run=Run(directory=tmp_path))
    path = tmp_path / "checkpoints" / LAST / file
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        if damage == "flipped":
            content[-9 if file != "state.json" else 0] ^= 0x10
        path.write_bytes(content if damage == "flipped" else content[:-9])
    other = gpt()
    before = weights_hash(other)
    with pytest.raises(DataFileError, match=rf"{LAST} cannot be read: .*; remove it to go on from step-00000003"):
        train(other, causal(), CONFIG, run=Run(directory=tmp_path))
    assert weights_hash(other) == before
    shutil.rmtree(path.parent)
    train(other, causal(), CONFIG, run=Run(directory=tmp_path))
    assert weights_hash(other) == weights_hash(module)


def test_leftovers_of_a_killed_save_are_removed(tmp_path: Path) -> None:
    train(gpt(), causal(), CONFIG, run=Run(directory=tmp_path))
    checkpoints = tmp_path / "checkpoints"
    for name in (".part-1-step-00000009", ".part-1-old-step-00000001"):
        (checkpoints / name).mkdir()
        (checkpoints / name / "model.safetensors").write_bytes(b"half")
    train(gpt(), causal(), CONFIG, run=Run(directory=tmp_path))
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-00000000", "step-00000003", LAST]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seed": 1}, "training: seed was 0, now 1"),
        ({"steps": 12}, "training: steps was 6, now 12"),
        ({"betas": (0.8, 0.9)}, "training: betas: 1 was 0.9, now 0.8"),
    ],
)
def test_another_configuration_is_another_run(changes: dict[str, Any], difference: str, tmp_path: Path) -> None:
    train(gpt(), causal(), CONFIG, run=Run(directory=tmp_path))
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = gpt()
    before = weights_hash(other)
    with pytest.raises(InputError, match=f"{tmp_path} holds another run \\({difference}\\); choose another directory"):
        train(other, causal(), replace(CONFIG, **changes), run=Run(directory=tmp_path))
    assert weights_hash(other) == before
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_another_model_penalty_or_text_is_another_run(tmp_path: Path) -> None:
    train(gpt(), causal(), CONFIG, penalties=[TOPOLOSS], run=Run(directory=tmp_path))
    others: list[tuple[Any, Any, Any, str]] = [
        (gpt(width=32), causal(), TOPOLOSS, r"parameters: tokens\.weight: 2 was 16, now 32"),
        (gpt(n_layers=2), causal(), TOPOLOSS, r"parameters: blocks\.1\.norm_attention\.weight was None"),
        (gpt(), causal(), replace(TOPOLOSS, strength=2.0), r"penalties: 1: strength was 1\.0, now 2\.0"),
        (gpt(), causal(10), TOPOLOSS, "objective: context was 12, now 10"),
    ]
    for module, objective, penalty, difference in others:
        with pytest.raises(InputError, match=difference):
            train(module, objective, CONFIG, penalties=[penalty], run=Run(directory=tmp_path))
    same = causal()
    tokens = (np.asarray(same.tokens) + 1) % N_TOKENS  # as many other tokens
    with pytest.raises(InputError, match="first batch was"):
        train(gpt(), CausalLM(tokens.astype(np.uint16), same.held_out, 12, same.corpus), CONFIG, penalties=[TOPOLOSS],
              run=Run(directory=tmp_path))  # fmt: skip


def test_other_masks_are_another_run(tmp_path: Path) -> None:
    train(topoformer(), masked(), CONFIG, run=Run(directory=tmp_path))
    other = MaskedLM(sequences(100, 0), sequences(20, 1), MaskRule(1, N_TOKENS, 0.3), {"name": "toy"})
    with pytest.raises(InputError, match="first batch was"):
        train(topoformer(), other, CONFIG, run=Run(directory=tmp_path))


def test_a_lost_metrics_file_is_told(tmp_path: Path) -> None:
    train(gpt(), causal(), CONFIG, run=Run(directory=tmp_path))
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(DataFileError, match=r"cannot read .*metrics\.jsonl"):
        train(gpt(), causal(), CONFIG, run=Run(directory=tmp_path))


def test_a_half_written_metric_comes_again(tmp_path: Path) -> None:
    expected = tmp_path / "expected"
    train(gpt(), causal(), CONFIG, run=Run(directory=expected))
    with pytest.raises(KeyboardInterrupt):
        train(gpt(), causal(), CONFIG, run=Run(directory=tmp_path / "half", progress=stopped(4)))
    with open(tmp_path / "half" / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 5, "split": "trai')
    train(gpt(), causal(), CONFIG, run=Run(directory=tmp_path / "half"))
    assert rows_of(tmp_path / "half") == rows_of(expected)


def test_a_failing_save_keeps_the_earlier_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    module = gpt()
    optimiser = torch.optim.AdamW(module.parameters())
    first = save_checkpoint(tmp_path, 1, module, optimiser, {"a": 1}, keep=1)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(
        DataFileError,
        match=f"cannot save the checkpoint of step 2 in .*: No space left on device; the last good one is {first.path}",
    ):  # fmt: skip
        save_checkpoint(tmp_path, 2, module, optimiser, {}, keep=1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    with pytest.raises(DataFileError, match="there is no earlier one"):
        save_checkpoint(tmp_path / "empty", 2, module, optimiser, {}, keep=1)


def test_a_checkpoint_of_another_model_changes_nothing(tmp_path: Path) -> None:
    module = gpt()
    saved = save_checkpoint(tmp_path, 1, module, torch.optim.AdamW(module.parameters()), {}, keep=1)
    other = gpt(width=32)
    before = weights_hash(other)
    with pytest.raises(DataFileError):
        load_checkpoint(saved, other, None)
    assert weights_hash(other) == before
    assert list_checkpoints(tmp_path) == [saved]
    assert json.loads((saved.path / "state.json").read_text())["step"] == 1


@pytest.mark.parametrize("place", ["a file", "in a file", "nowhere to make it"])
def test_a_directory_that_cannot_be_written_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    directory = {
        "a file": tmp_path / "file", "in a file": tmp_path / "file" / "run", "nowhere to make it": Path("/proc/run"),
    }[place]  # fmt: skip
    with pytest.raises(DataFileError, match=f"cannot write to {directory}"):
        train(gpt(), causal(), CONFIG, run=Run(directory=directory))
    assert (tmp_path / "file").read_text() == "kept"


def test_a_directory_in_use_is_told(tmp_path: Path) -> None:
    """Also to the same process; afterwards it is free again."""
    seen: list[str] = []

    def second(step: int, steps: int, loss: float) -> None:
        if step == 2:
            with pytest.raises(InputError, match="another process is training in") as told:
                train(gpt(), causal(), CONFIG, run=Run(directory=tmp_path))
            seen.append(str(told.value))

    expected, module = gpt(), gpt()
    train(expected, causal(), CONFIG)
    train(module, causal(), CONFIG, run=Run(directory=tmp_path, progress=second))
    assert len(seen) == 1
    assert str(tmp_path) in seen[0]
    assert weights_hash(module) == weights_hash(expected)
    train(gpt(), causal(), CONFIG, run=Run(directory=tmp_path))


def test_from_dict_gives_the_run_back(tmp_path: Path) -> None:
    """The configuration of a checkpoint is enough to go on."""
    with pytest.raises(KeyboardInterrupt):
        train(gpt(), causal(), CONFIG, run=Run(directory=tmp_path, progress=stopped(4)))
    state = json.loads((tmp_path / "checkpoints" / "step-00000003" / "state.json").read_text())
    module, expected = gpt(), gpt()
    train(module, causal(), TrainingConfig.from_dict(state["recipe"]["training"]), run=Run(directory=tmp_path))
    train(expected, causal(), CONFIG)
    assert weights_hash(module) == weights_hash(expected)
