"""TrainingConfig: everything about the optimisation of a run, and the schedules of its rate and batch size."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from topobrain._checks import InputError, require_choice

SCHEDULES = ("cosine", "budget", "linear", "constant")
OPTIMISERS = ("adamw", "sgd")
PRECISIONS = ("no", "bf16", "fp16")
DECAYED = ("all", "matrices")


@dataclass(frozen=True)
class TrainingConfig:
    """Optimisation of a model.

    Parameters
    ----------
    steps
        Optimiser steps.
    batch_size
        Examples a step, over all processes and micro-batches together.
    micro_batch
        Most examples a process puts through the model at once; gradients of a step's micro-batches are added up. None:
        the process' whole share at once. The numbers do not depend on it, but for rounding, batch normalisation and
        losses on outputs.
    ramp_steps
        Steps over which the batch grows linearly to ``batch_size``.
    max_seconds
        Budget of wall-clock time; None for none. A run that used it up ends regularly, and the rate's schedule follows
        the budget where that is ahead of the steps. Such a run cannot be repeated bit for bit.
    optimiser
        ``"adamw"`` or ``"sgd"`` (with ``momentum``).
    learning_rate, final_share, warm_up
        Peak rate; the share of it left at the end; the share of the run over which it rises from zero.
    schedule
        After the warm-up: ``"cosine"`` or ``"linear"`` to the final share, ``"constant"``, or ``"budget"``: a triangle
        from a quarter of the peak, to the peak at three quarters of the run, to zero.
    weight_decay, decayed
        Decoupled weight decay (plain for SGD); of ``"all"`` parameters, or of ``"matrices"`` only (not of biases and
        norms).
    betas, eps, momentum
        AdamW's and SGD's.
    clip
        Largest norm of the gradient; None to leave it.
    mixed_precision
        ``"no"``, ``"bf16"`` or ``"fp16"``.
    evaluate_every, checkpoint_every
        Steps between evaluations on the held-out part, and between checkpoints.
    checkpoint_seconds
        A checkpoint is also written when the last one is older, in seconds.
    keep_checkpoints
        How many of the newest checkpoints to keep.
    seed
        Seed of the order of examples, masks and dropout. Equal seeds give twins the same data.
    """

    steps: int = 600
    batch_size: int = 64
    micro_batch: int | None = None
    ramp_steps: int = 0
    max_seconds: float | None = None
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    final_share: float = 0.1
    warm_up: float = 0.1
    schedule: Literal["cosine", "budget", "linear", "constant"] = "cosine"
    weight_decay: float = 0.01
    decayed: Literal["all", "matrices"] = "all"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.9
    clip: float | None = 0.1
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    evaluate_every: int = 100
    checkpoint_every: int = 500
    checkpoint_seconds: float = 60.0
    keep_checkpoints: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        for name in ("steps", "batch_size", "evaluate_every", "checkpoint_every", "keep_checkpoints"):
            _require_whole(name, getattr(self, name), 1)
        for name in ("ramp_steps", "seed"):
            _require_whole(name, getattr(self, name), 0)
        if self.micro_batch is not None:
            _require_whole("micro_batch", self.micro_batch, 1)
        require_choice("optimiser", self.optimiser, OPTIMISERS)
        require_choice("schedule", self.schedule, SCHEDULES)
        require_choice("mixed precision", self.mixed_precision, PRECISIONS)
        require_choice("decayed parameters", self.decayed, DECAYED)
        for name in ("learning_rate", "eps", "checkpoint_seconds"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(f"{name} must be a number above 0, got {getattr(self, name)}")
        for name in ("clip", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} must be a number above 0, or None for none, got {value}")
        for name in ("final_share", "warm_up", "momentum", "weight_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"betas must be two numbers from 0 to below 1, got {self.betas}")

    def rate(self, share: float) -> float:
        """Return the learning rate when a ``share`` (0 to 1) of the run is done."""
        share = min(max(share, 0.0), 1.0)
        if self.schedule == "budget":
            return self.learning_rate * (0.25 + share if share < 0.75 else 4 * (1 - share))
        if share < self.warm_up:
            return self.learning_rate * share / self.warm_up
        after = (share - self.warm_up) / (1 - self.warm_up) if self.warm_up < 1 else 1.0
        if self.schedule == "constant":
            return self.learning_rate
        left = 1 - after if self.schedule == "linear" else (1 + math.cos(math.pi * after)) / 2
        return self.learning_rate * (self.final_share + (1 - self.final_share) * left)

    def batch_at(self, step: int) -> int:
        """Return the number of examples of a step (counted from 0)."""
        if step + 1 >= self.ramp_steps:
            return self.batch_size
        return max(1, round(self.batch_size * (step + 1) / self.ramp_steps))

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain JSON values."""
        return {**asdict(self), "betas": list(self.betas)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingConfig:
        """Rebuild a configuration from `to_dict`."""
        known = {field.name for field in fields(cls)}
        if set(values) - known:
            raise InputError(f"no training option is called {sorted(set(values) - known)[0]!r}; known: {sorted(known)}")
        return cls(**values)


def _require_whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}")
