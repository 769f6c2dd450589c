"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from topobrain._checks import InputError
from topobrain.models.topoformer import Topoformer
from topobrain.models.torch_model import pick_device
from topobrain.training.log import TrainingLog
from topobrain.training.masking import IGNORED, mask_tokens, token_table

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class TrainingConfig:
    """Optimisation of a masked language model.

    Parameters
    ----------
    steps, batch_size
        Optimiser steps, and texts a step.
    learning_rate, weight_decay, clip
        AdamW's, and the largest gradient norm. Learning rate warms up over the first tenth of the steps, then falls as
        a cosine to a tenth.
    mask_share
        Share of tokens predicted.
    evaluate_every
        Steps between evaluations on the held-out texts.
    seed
        Seed of the order of texts, masks and dropout. Equal seeds give twins the same data.
    """

    steps: int = 600
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    clip: float = 0.1
    mask_share: float = 0.15
    evaluate_every: int = 100
    seed: int = 0


def train_masked_lm(
    module: Topoformer,
    tokenizer: Any,
    texts: Sequence[str],
    held_out: Sequence[str],
    config: TrainingConfig,
    *,
    name: str = "topoformer",
    provenance: Mapping[str, Any] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> TrainingLog:
    """Train a Topoformer in place to predict masked tokens.

    Parameters
    ----------
    module, tokenizer
        The model and its tokenizer.
    texts, held_out
        Training texts, and texts that only evaluate.
    config
        Optimisation.
    name, provenance
        What the log says of the model and the texts.
    device
        ``"auto"`` or a torch device.
    progress
        Called with (step, steps, loss).

    Raises
    ------
    InputError
        No texts, or a loss that is no longer finite (says at which step).
    """
    where = pick_device(device)
    table, lengths = token_table(texts, tokenizer, module.config.max_length)
    test = token_table(held_out, tokenizer, module.config.max_length)
    mask = {"mask_id": int(tokenizer.mask_token_id), "vocab_size": module.config.vocab_size, "share": config.mask_share}
    module.to(where)
    optimiser = torch.optim.AdamW(module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, config.steps))
    losses: list[float] = []
    evaluations: list[tuple[int, float, float]] = []
    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        torch.manual_seed(config.seed)  # dropout draws from the global generator
        draws = torch.Generator().manual_seed(config.seed)
        for step in range(config.steps + 1):
            if step % config.evaluate_every == 0 or step == config.steps:
                evaluations.append((step, *_evaluate(module, test, config, mask, where)))
            if step == config.steps:
                break
            module.train()
            rows = torch.randint(len(table), (config.batch_size,), generator=draws)
            loss, _, _ = _step_loss(module, table[rows], lengths[rows], mask, draws, where)
            if not torch.isfinite(loss):
                raise InputError(
                    f"training diverged: the loss of {name} is {float(loss.detach())} at step {step}; lower the rate"
                )
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(module.parameters(), config.clip)
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
            if progress is not None:
                progress(step + 1, config.steps, losses[-1])
    module.eval()
    steps, held_out_loss, accuracy = (np.array(column) for column in zip(*evaluations, strict=True))
    data = xr.Dataset(
        {
            "train_loss": (("step",), np.array(losses)),
            "held_out_loss": (("evaluation",), held_out_loss),
            "held_out_accuracy": (("evaluation",), accuracy),
        },
        coords={"step": np.arange(1, len(losses) + 1), "evaluation": steps.astype(int)},
        attrs=TrainingLog.attributes(
            {
                **(provenance or {}),
                "model": {"name": name, "config": asdict(module.config)},
                "training": {**asdict(config), "objective": "masked language model", "device": str(where)},
            }
        ),
    )
    return TrainingLog(data)


def _rate(step: int, steps: int) -> float:
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return 0.1 + 0.45 * (1 + float(np.cos(np.pi * min(share, 1.0))))


def _step_loss(
    module: Topoformer,
    ids: Tensor,
    lengths: Tensor,
    mask: Mapping[str, Any],
    draws: torch.Generator,
    where: torch.device,
) -> tuple[Tensor, int, int]:
    """Return the mean loss of predicted tokens, how many were predicted, and how many rightly."""
    ids = ids[:, : int(lengths.max())]
    visible = torch.arange(ids.shape[1])[None, :] < lengths[:, None]
    corrupted, targets = mask_tokens(ids, visible, generator=draws, **mask)
    states = module(corrupted.to(where), visible.to(where))
    chosen = (targets != IGNORED).to(where)  # only predicted positions reach the vocabulary: most of the cost is there
    logits, wanted = module.logits(states[chosen]), targets.to(where)[chosen]
    loss = torch.nn.functional.cross_entropy(logits, wanted)
    return loss, len(wanted), int((logits.argmax(dim=-1) == wanted).sum())


@torch.no_grad()
def _evaluate(
    module: Topoformer,
    test: tuple[Tensor, Tensor],
    config: TrainingConfig,
    mask: Mapping[str, Any],
    where: torch.device,
) -> tuple[float, float]:
    module.eval()
    draws = torch.Generator().manual_seed(config.seed + 1)  # the same masks at every evaluation, and for twins
    table, lengths = test
    total = right = count = 0.0
    for start in range(0, len(table), 256):
        part = slice(start, start + 256)
        loss, n, hits = _step_loss(module, table[part], lengths[part], mask, draws, where)
        total, right, count = total + float(loss) * n, right + hits, count + n
    return total / count, right / count
