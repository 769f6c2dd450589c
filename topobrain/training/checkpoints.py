"""Checkpoints of a run: whole or not there, free of pickles, enough to go on bit for bit.

A checkpoint is a folder written under another name and renamed when everything in it is on the disk. What was killed in
the middle of writing leaves a folder nobody reads; the next run removes it. The state, written last, holds the hashes of
the other files: what was damaged afterwards is told, not trained on.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from topobrain._checks import DataFileError
from topobrain.models.directories import file_sha256, restore, untied

STATE_FILE, MODEL_FILE, OPTIMISER_FILE = "state.json", "model.safetensors", "optimiser.safetensors"
_NAME = re.compile(r"step-(\d{8,})")
_PART = ".part-"


class Checkpoint(NamedTuple):
    """A checkpoint on the disk.

    Attributes
    ----------
    step
        Optimiser steps done.
    path
        Its folder.
    """

    step: int
    path: Path


def save_checkpoint(
    directory: Path, step: int, module: nn.Module, optimiser: torch.optim.Optimizer, fields: dict[str, Any], keep: int
) -> Checkpoint:
    """Write a checkpoint, then remove all but the ``keep`` newest.

    Raises
    ------
    DataFileError
        The disk is full or cannot be written; earlier checkpoints are untouched.
    """
    from safetensors import SafetensorError

    target = directory / f"step-{step:08d}"
    part = directory / f"{_PART}{os.getpid()}-{target.name}"
    try:
        part.mkdir(parents=True)
        tensors, groups = _optimiser_state(optimiser)
        hashes = {
            MODEL_FILE: _write(part / MODEL_FILE, untied(module)),
            OPTIMISER_FILE: _write(part / OPTIMISER_FILE, tensors),
        }
        with open(part / STATE_FILE, "w", encoding="utf-8") as stream:
            json.dump({**fields, "step": step, "optimiser": groups, "sha256": hashes}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        _sync_folder(part)
        os.replace(part, target)
        _sync_folder(directory)
    except (OSError, SafetensorError) as error:
        last = newest_checkpoint(directory)
        kept = f"the last good one is {last.path}" if last else "there is no earlier one"
        reason = getattr(error, "strerror", None) or error
        raise DataFileError(f"cannot save the checkpoint of step {step} in {directory}: {reason}; {kept}") from error
    finally:  # also after Ctrl-C; renamed, it is no longer there
        shutil.rmtree(part, ignore_errors=True)
    for old in list_checkpoints(directory)[:-keep]:
        _discard(old.path)
    return Checkpoint(step, target)


def list_checkpoints(directory: Path) -> list[Checkpoint]:
    """Return the checkpoints of a folder, oldest first."""
    if not directory.is_dir():
        return []
    found = [(int(match[1]), path) for path in directory.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [Checkpoint(step, path) for step, path in sorted(found)]


def newest_checkpoint(directory: Path) -> Checkpoint | None:
    """Return the newest checkpoint, or None."""
    found = list_checkpoints(directory)
    return found[-1] if found else None


def remove_unfinished(directory: Path) -> None:
    """Remove what a killed run left behind while it was saving."""
    for path in directory.glob(f"{_PART}*") if directory.is_dir() else ():
        shutil.rmtree(path, ignore_errors=True)


def read_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the plain fields of a checkpoint.

    Raises
    ------
    DataFileError
        They are missing or damaged; says which checkpoint is the one before.
    """
    try:
        fields: dict[str, Any] = json.loads((checkpoint.path / STATE_FILE).read_text(encoding="utf-8"))
        if fields["step"] != checkpoint.step or not {MODEL_FILE, OPTIMISER_FILE} <= fields["sha256"].keys():
            raise ValueError(f"{STATE_FILE} is not that of step {checkpoint.step}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(checkpoint, error) from error
    return fields


def load_checkpoint(
    checkpoint: Checkpoint, module: nn.Module, optimiser: torch.optim.Optimizer | None
) -> dict[str, Any]:
    """Put weights and the optimiser's state back; return the other fields. Nothing is changed unless all of it fits.

    Raises
    ------
    DataFileError
        A file is missing or damaged, or belongs to another model. An older checkpoint never takes its place silently.
    """
    from safetensors import SafetensorError

    fields = read_state(checkpoint)
    try:
        weights = _read(checkpoint.path / MODEL_FILE, fields["sha256"][MODEL_FILE])
        moments = _read(checkpoint.path / OPTIMISER_FILE, fields["sha256"][OPTIMISER_FILE]) if optimiser else {}
    except (OSError, ValueError, SafetensorError) as error:
        raise _damaged(checkpoint, error) from error
    restore(module, weights, checkpoint.path)
    if optimiser is not None:
        _restore_optimiser(optimiser, moments, fields["optimiser"])
    return fields


def _damaged(checkpoint: Checkpoint, error: Exception) -> DataFileError:
    earlier = [other for other in list_checkpoints(checkpoint.path.parent) if other.step < checkpoint.step]
    advice = f"remove it to go on from {earlier[-1].path.name}" if earlier else "remove it to start anew"
    return DataFileError(f"the checkpoint {checkpoint.path} cannot be read: {error}; {advice}")


def _discard(path: Path) -> None:
    """Remove a checkpoint; killed in between, what is left is no checkpoint."""
    leaving = path.with_name(f"{_PART}{os.getpid()}-old-{path.name}")
    try:
        os.replace(path, leaving)
    except OSError:
        return  # it costs space, nothing else
    shutil.rmtree(leaving, ignore_errors=True)


def _write(path: Path, tensors: dict[str, Tensor]) -> str:
    from safetensors.torch import save_file

    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
    return file_sha256(path)


def _read(path: Path, sha256: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    found = file_sha256(path)
    if found != sha256:
        raise ValueError(f"{path.name} was altered: its sha256 is {found}, expected {sha256}")
    tensors: dict[str, Tensor] = load_file(path)
    return tensors


def _sync_folder(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _optimiser_state(optimiser: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state's tensors by ``number.name``, and its plain values."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for number, values in optimiser.state_dict()["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{number}.{name}"] = value
            else:
                plain[f"{number}.{name}"] = value
    return tensors, plain


def _restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **plain}.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
