"""The training loop: any module, any objective, any topographic penalty, on one process or many."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from topobrain._checks import DataFileError, InputError
from topobrain.models.torch_model import pick_device
from topobrain.sheet import Sheet
from topobrain.training.checkpoints import (
    load_checkpoint,
    newest_checkpoint,
    read_state,
    remove_unfinished,
    save_checkpoint,
)
from topobrain.training.config import TrainingConfig
from topobrain.training.interrupts import Interrupt, interrupts_wait
from topobrain.training.log import TrainingLog
from topobrain.training.metrics import Metrics
from topobrain.training.objectives import Batch, Objective, evaluate
from topobrain.training.penalties import Penalties, Penalty
from topobrain.training.sampling import Sampler, seed_of

Progress = Callable[[int, int, float], None]
Tell = Callable[[str], None]

CHECKPOINTS, LOCK = "checkpoints", ".lock"
BOOKKEEPING = ("checkpoint_every", "checkpoint_seconds", "keep_checkpoints")
"""Options that change no number: a run may go on with others."""


@dataclass(frozen=True)
class Run:
    """Where a run is kept, and what is said of it.

    Parameters
    ----------
    name
        Name of the model.
    directory
        Folder of checkpoints and metrics; None keeps nothing, and such a run cannot be resumed.
    provenance
        What the log should say beside the configuration.
    tensorboard
        Also write event files for TensorBoard.
    device
        ``"auto"`` or a torch device.
    progress
        Called with (step, steps, loss) by the first process.
    tell
        Called with a line on what happens beside steps: where a run goes on, or what is kept of a stopped one.
    """

    name: str = "model"
    directory: Path | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    tensorboard: bool = False
    device: str = "auto"
    progress: Progress | None = None
    tell: Tell | None = None

    def __post_init__(self) -> None:
        if self.directory is not None:
            object.__setattr__(self, "directory", Path(self.directory))


def train(
    module: nn.Module,
    objective: Objective,
    config: TrainingConfig,
    *,
    penalties: Sequence[Penalty] = (),
    sheets: Mapping[str, Sheet] | None = None,
    run: Run | None = None,
) -> TrainingLog:
    """Train a module in place.

    A run with a directory goes on from its newest checkpoint, bit for bit on a CPU. Ctrl-C waits for the end of a step and
    keeps it. Under ``torchrun`` every process takes its share of each batch, and the loss is that of one process with the
    whole batch (but for rounding, batch normalisation and losses on outputs).

    Parameters
    ----------
    module, objective, config
        The model, what it should do, and how.
    penalties
        Topographic losses to add.
    sheets
        Sheets of layers by dotted path, for the penalties (default: `topobrain.nn.topo_sheet`).
    run
        Name, directory, device and the like.

    Returns
    -------
    TrainingLog

    Raises
    ------
    InputError
        A loss that is no longer finite (says at which step, and which checkpoint is the last good one), a precision
        that the device does not have, or a directory that holds another run or is in use.
    DataFileError
        A checkpoint that cannot be written or read.
    """
    run = run or Run()
    with _accelerator(config, run.device) as accelerator, _locked(run.directory, accelerator):
        with torch.random.fork_rng(devices=[accelerator.device] if accelerator.device.type == "cuda" else []):
            loop = _Loop(module, objective, config, Penalties(module, penalties, sheets), run, accelerator)
            loop.to_the_end()
        machine = {"device": str(accelerator.device), "processes": int(accelerator.num_processes)}
    module.eval()
    fields = {
        **run.provenance,
        "model": {"name": run.name, **_module_config(module)},
        "training": {
            **config.to_dict(),
            **objective.describe(),
            "penalties": [penalty.to_dict() for penalty in penalties],
            **machine,
        },
    }
    return _log(loop.metrics, fields)


class _Step(nn.Module):
    """One forward pass with its loss, as a module: what runs under mixed precision and is shared among processes."""

    def __init__(self, module: nn.Module, objective: Objective, penalties: Penalties) -> None:
        super().__init__()
        self.module = module
        self.objective = objective
        self.penalties = penalties

    def forward(self, batch: Batch, share: float, seed: int, with_weights: bool) -> tuple[Tensor, ...]:
        """Return summed loss, right predictions, penalty on outputs, penalty on weights."""
        with self.penalties.watching():
            loss, right = self.objective.loss(self.module, batch)
            on_outputs = self.penalties.on_outputs(share, _visible(batch), seed)
        with torch.autocast(loss.device.type, enabled=False):  # weights are float32 and stay so
            on_weights = self.penalties.on_weights(share) if with_weights else 0.0
        return loss, right, *(torch.as_tensor(part, device=loss.device) for part in (on_outputs, on_weights))


class _Loop:
    def __init__(
        self, module: nn.Module, objective: Objective, config: TrainingConfig, penalties: Penalties, run: Run, acc: Any
    ) -> None:
        self.module, self.objective, self.config, self.run, self.accelerator = module, objective, config, run, acc
        self.penalties = penalties
        self.sampler = Sampler(objective.n_examples, config)
        self.metrics = Metrics(run.directory, writes=acc.is_main_process, tensorboard=run.tensorboard)
        self.checkpoints = None if run.directory is None else run.directory / CHECKPOINTS
        self.identity = {} if run.directory is None else self._identity()
        self._sum_type = torch.float32 if acc.device.type == "mps" else torch.float64
        module.to(acc.device)  # before the optimiser takes hold of the parameters
        optimiser = _optimiser(module, config)
        self.done, spent = self._resume(optimiser)
        held_out = self.metrics.of("held-out")
        self.evaluated_at: int | None = held_out[-1]["step"] if held_out else None
        self.optimiser = acc.prepare(optimiser)
        self.step_module: Any = acc.prepare(_Step(module, objective, penalties))
        self.started = time.monotonic() - spent
        self.saved = time.monotonic()
        self.stopping = self.due = False
        self.interrupt = Interrupt()
        if self.done:
            self._tell(f"going on from step {self.done} of {config.steps}")

    def to_the_end(self) -> None:
        """Run what is left of the run."""
        config = self.config
        try:
            with interrupts_wait() as self.interrupt:
                while True:
                    over = self.done >= config.steps or self._share() >= 1
                    if self.done % config.evaluate_every == 0 or over:
                        self._evaluate()
                    if self.checkpoints is not None and (self.done % config.checkpoint_every == 0 or over or self.due):
                        self._save()
                    if self.stopping:
                        if self.checkpoints is not None:
                            self._tell(f"stopped after step {self.done} of {config.steps}, which is kept")
                        raise KeyboardInterrupt
                    if over:
                        return
                    self._optimise()
        finally:
            self.metrics.close()

    def _tell(self, what: str) -> None:
        if self.run.tell is not None and self.accelerator.is_main_process:
            self.run.tell(what)

    def _share(self) -> float:
        """Return how much of the run is done: of its steps, or of its time where that is ahead."""
        share = self.done / self.config.steps
        if self.config.max_seconds is None:
            return share
        spent = torch.tensor(time.monotonic() - self.started, device=self.accelerator.device)
        spent = self.accelerator.reduce(spent, reduction="mean")  # all processes must agree on when to stop
        return max(share, float(spent) / self.config.max_seconds)

    def _optimise(self) -> None:
        config, accelerator, step = self.config, self.accelerator, self.done
        share = self._share()
        for group in self.optimiser.param_groups:
            group["lr"] = config.rate(share + 1 / config.steps if config.schedule != "budget" else share)
        rows = self.sampler.rows(step)
        batch = self.objective.batch(rows, held_out=False, seed=seed_of(config.seed, step))
        n_predictions = self.objective.count(batch)
        torch.manual_seed(seed_of(config.seed, step, accelerator.process_index, 2))  # dropout, whatever came before
        self.module.train()
        sums = torch.zeros(5, dtype=self._sum_type, device=accelerator.device)
        sums[3] = float(self.interrupt.asked)  # all processes must agree on when to stop and to save
        sums[4] = float(accelerator.is_main_process and time.monotonic() - self.saved > config.checkpoint_seconds)
        parts = list(self._my_share(batch, len(rows)))
        # gradients are averaged over processes: what a process that has examples computes counts as often as there are
        idle = accelerator.process_index >= len(rows)
        each = 0.0 if idle else accelerator.num_processes
        active = 0.0 if idle else accelerator.num_processes / min(accelerator.num_processes, len(rows))
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            with nullcontext() if last else accelerator.no_sync(self.step_module):
                loss, right, on_outputs, on_weights = self.step_module(
                    part, share, seed_of(config.seed, step, accelerator.process_index, number, 3), last
                )
                task = loss * (each / n_predictions)
                topographic = on_outputs * (active / len(parts)) + on_weights
                accelerator.backward(task + topographic)
            sums[:3] += torch.stack([task.detach(), topographic.detach(), right * each]).to(sums.dtype)
        task_loss, topographic_loss, right, stopping, due = accelerator.reduce(sums, reduction="mean").tolist()
        norm = self._gradient_norm()
        self._require_finite(step + 1, loss=task_loss, topography_loss=topographic_loss)
        if config.mixed_precision != "fp16":  # there an overflow is met by a smaller scale
            self._require_finite(step + 1, gradient_norm=norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.done += 1
        self.stopping, self.due = stopping > 0, stopping > 0 or due > 0
        self.metrics.add(
            step=self.done,
            split="training",
            loss=task_loss,
            accuracy=right / n_predictions,
            topography_loss=topographic_loss,
            learning_rate=float(self.optimiser.param_groups[0]["lr"]),
            gradient_norm=norm,
            seconds=round(time.monotonic() - self.started, 3),
        )
        if self.run.progress is not None and accelerator.is_main_process:
            self.run.progress(self.done, config.steps, task_loss)

    def _my_share(self, batch: Batch, n_rows: int) -> Iterator[Batch]:
        """Yield this process' micro-batches, on its device.

        Where there are fewer examples than processes, the last processes run one that counts nothing: all must take part
        in the exchange of gradients.
        """
        index, n_processes = self.accelerator.process_index, self.accelerator.num_processes
        first, end = (-(-n_rows * number // n_processes) for number in (index, index + 1))
        if first == end:
            first, end = 0, 1
        size = self.config.micro_batch or end - first
        for start in range(first, end, size):
            stop = min(start + size, end)
            yield {key: value[start:stop].to(self.accelerator.device) for key, value in batch.items()}

    def _gradient_norm(self) -> float:
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        limit = self.config.clip if self.config.clip is not None else float("inf")
        return float(self.accelerator.clip_grad_norm_(parameters, limit))

    def _require_finite(self, step: int, **values: float) -> None:
        for name, value in values.items():
            if not np.isfinite(value):
                last = None if self.checkpoints is None else newest_checkpoint(self.checkpoints)
                kept = f"; the last good checkpoint is {last.path}" if last else ""
                raise InputError(
                    f"training diverged: the {name.replace('_', ' ')} of {self.run.name} is {value} at step {step}{kept}. "
                    "Lower the learning rate, or the strength of the penalties"
                )

    def _evaluate(self) -> None:
        if self.done == self.evaluated_at:
            return
        accelerator = self.accelerator
        with accelerator.autocast():
            sums = evaluate(
                self.module, self.objective, seed=self.config.seed, device=accelerator.device,
                share=(accelerator.process_index, accelerator.num_processes), micro_batch=self.config.micro_batch,
            )  # fmt: skip
        total = accelerator.reduce(torch.tensor(sums, dtype=self._sum_type, device=accelerator.device), reduction="sum")
        loss, right, count = total.tolist()
        self._require_finite(self.done, **{"held-out loss": loss})
        self.evaluated_at = self.done
        self.metrics.add(
            step=self.done,
            split="held-out",
            loss=loss / count,
            accuracy=right / count,
            seconds=round(time.monotonic() - self.started, 3),
        )

    def _resume(self, optimiser: torch.optim.Optimizer) -> tuple[int, float]:
        """Go on from the newest checkpoint, if there is one; return its step and the seconds spent until then."""
        if self.checkpoints is None:
            return 0, 0.0
        if self.accelerator.is_main_process:
            remove_unfinished(self.checkpoints)
        newest = newest_checkpoint(self.checkpoints)
        if newest is None:
            return 0, 0.0
        fields = read_state(newest)
        if fields.get("recipe") != self.identity:
            changed = difference(fields.get("recipe"), self.identity)
            raise InputError(
                f"{self.run.directory} holds another run ({changed}); choose another directory, or remove this one"
            )
        self.metrics.resume(newest.step)
        load_checkpoint(newest, self.module, optimiser)
        if self.accelerator.scaler is not None and "scaler" in fields:
            self.accelerator.scaler.load_state_dict(fields["scaler"])
        return newest.step, float(fields["seconds"])

    def _save(self) -> None:
        """Write a checkpoint, unless this step has one; a model that is not finite is never kept."""
        if self.checkpoints is None:
            return
        for name, parameter in self.module.named_parameters():  # equal on all processes, so all stop here
            if not bool(torch.isfinite(parameter).all()):
                self._require_finite(self.done, **{f"parameter {name}": float("nan")})
        failure: DataFileError | None = None
        if self.accelerator.is_main_process:
            newest = newest_checkpoint(self.checkpoints)
            if newest is None or newest.step != self.done:
                failure = self._failure_to_write(self.checkpoints)
        self.saved = time.monotonic()
        failed = torch.tensor(float(failure is not None), device=self.accelerator.device)
        if float(self.accelerator.reduce(failed, reduction="sum")):  # no process may wait for one that gave up
            raise failure or DataFileError("the first process could not save its checkpoint")

    def _failure_to_write(self, checkpoints: Path) -> DataFileError | None:
        scaler = self.accelerator.scaler
        fields = {
            "recipe": self.identity,
            "seconds": time.monotonic() - self.started,
            **({"scaler": scaler.state_dict()} if scaler is not None else {}),
        }
        try:
            self.metrics.sync()
            save_checkpoint(
                checkpoints, self.done, self.module, self.optimiser.optimizer, fields, self.config.keep_checkpoints
            )
        except DataFileError as error:
            return error
        return None

    def _identity(self) -> dict[str, Any]:
        """Return what must be equal for a run to be the same run."""
        first = self.objective.batch(self.sampler.rows(0), held_out=False, seed=seed_of(self.config.seed, 0))
        digest = hashlib.sha256()
        for key in sorted(first):  # an equal number of other texts, or another tokenizer, is another run
            digest.update(first[key].contiguous().numpy().tobytes())
        fields = {
            "training": {key: value for key, value in self.config.to_dict().items() if key not in BOOKKEEPING},
            "objective": dict(self.objective.describe()),
            "penalties": [penalty.to_dict() for penalty in self.penalties.penalties],
            "parameters": {name: list(p.shape) for name, p in self.module.named_parameters()},
            "first batch": digest.hexdigest()[:16],
        }
        plain: dict[str, Any] = json.loads(json.dumps(fields))
        return plain


def _visible(batch: Batch) -> Tensor | None:
    if "lengths" not in batch:
        return None
    longest = int(batch["lengths"].max())
    return torch.arange(longest, device=batch["lengths"].device)[None, :] < batch["lengths"][:, None]


def _optimiser(module: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    parameters = [p for p in module.parameters() if p.requires_grad]
    plain = [p for p in parameters if config.decayed == "matrices" and p.ndim < 2]
    decayed = [p for p in parameters if not any(p is other for other in plain)]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        *([{"params": plain, "weight_decay": 0.0}] if plain else []),
    ]
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps)


@contextmanager
def _accelerator(config: TrainingConfig, device: str) -> Iterator[Any]:
    """Set accelerate up for one run, and leave it as it was: its state is the process', and runs may be nested."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    where = pick_device(device)
    if config.mixed_precision == "fp16" and where.type == "cpu":
        raise InputError("mixed precision fp16 needs a GPU; on a CPU take bf16 or none")
    if where.type == "cuda" and where.index is not None:
        torch.cuda.set_device(where)
    # of a process alone another device may have been asked for before; among several, the connection stays
    alone = PartialState._shared_state.get("num_processes", 1) == 1
    states: list[Any] = [AcceleratorState, GradientState, *([PartialState] if alone else [])]
    kept = [dict(state._shared_state) for state in states]
    for state in states:
        state._shared_state.clear()
    try:
        try:
            accelerator = Accelerator(cpu=where.type == "cpu", mixed_precision=config.mixed_precision)
        except ValueError as error:
            raise InputError(f"mixed precision {config.mixed_precision} does not work on {where}: {error}") from error
        yield accelerator
    finally:
        alone = PartialState._shared_state.get("num_processes", 1) == 1
        for state, values in zip(states, kept, strict=True):
            if alone or state is not PartialState:
                state._shared_state.clear()
                state._shared_state.update(values)


@contextmanager
def _locked(directory: Path | None, accelerator: Any) -> Iterator[None]:
    """Keep a second run out of the directory."""
    from filelock import FileLock, Timeout

    with ExitStack() as stack:
        if directory is not None and accelerator.is_main_process:
            try:
                directory.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(directory / LOCK, timeout=0))
            except Timeout:
                raise InputError(f"another process is training in {directory}; choose another directory") from None
            except OSError as error:
                raise DataFileError(f"cannot write to {directory}: {error.strerror or error}") from error
        yield


def _module_config(module: nn.Module) -> dict[str, Any]:
    from dataclasses import asdict, is_dataclass

    config: Any = getattr(module, "config", None)
    return {"config": asdict(config)} if is_dataclass(config) and not isinstance(config, type) else {}


def difference(kept: Any, asked: Any) -> str:
    """Say in which field two descriptions of a run differ, from the outside in.

    >>> difference({"seed": 0, "layers": [{"width": 3}]}, {"seed": 0, "layers": [{"width": 4}]})
    'layers: 1: width was 3, now 4'
    """
    if isinstance(kept, list) and isinstance(asked, list) and len(kept) == len(asked):
        kept, asked = dict(enumerate(kept, start=1)), dict(enumerate(asked, start=1))
    if not (isinstance(kept, dict) and isinstance(asked, dict)):
        return f"was {kept}, now {asked}"
    for key in [*asked, *(key for key in kept if key not in asked)]:
        if key not in kept or key not in asked or kept[key] != asked[key]:
            inner = difference(kept.get(key), asked.get(key))
            return f"{key} {inner}" if inner.startswith("was ") else f"{key}: {inner}"
    return "was equal"


def _log(metrics: Metrics, fields: Mapping[str, Any]) -> TrainingLog:
    steps, held_out = metrics.of("training"), metrics.of("held-out")

    def column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
        return np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=float)

    data = xr.Dataset(
        {
            "train_loss": (("step",), column(steps, "loss")),
            "topography_loss": (("step",), column(steps, "topography_loss")),
            "gradient_norm": (("step",), column(steps, "gradient_norm")),
            "learning_rate": (("step",), column(steps, "learning_rate")),
            "held_out_loss": (("evaluation",), column(held_out, "loss")),
            "held_out_accuracy": (("evaluation",), column(held_out, "accuracy")),
        },
        coords={"step": [row["step"] for row in steps], "evaluation": [row["step"] for row in held_out]},
        attrs=TrainingLog.attributes(fields),
    )
    return TrainingLog(data)
