"""Toy data, models and runs of the training tests; also imported by the processes that they start."""

from __future__ import annotations

import functools
import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401  (imported before processes part, so that each starts quickly)
import numpy as np
import safetensors.torch
import torch
import torch._dynamo
from torch import nn

from topobrain._checks import TopobrainError
from topobrain.models.architectures import build
from topobrain.models.gpt import GPTConfig
from topobrain.models.resnet import ResNetConfig
from topobrain.models.topoformer import TopoformerConfig
from topobrain.training import (
    CausalLM,
    ImageClassification,
    MaskedLM,
    Penalty,
    Run,
    SentenceClassification,
    TrainingConfig,
    TrainingLog,
    train,
)
from topobrain.training.masking import MaskRule

N_TOKENS, MASK = 40, 2
HALF = (0.5, 0.5, 0.5)

CONFIG = TrainingConfig(
    steps=6, batch_size=8, learning_rate=1e-2, clip=1.0, evaluate_every=3, checkpoint_every=3, keep_checkpoints=10
)
TOPOLOSS = Penalty("topoloss", ("blocks.*.mlp.c_fc",), strength=1.0, factor=(2.0, 2.0))


def sequences(n: int, seed: int, longest: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a table of texts of several lengths in which a token tells the next one, and their lengths."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, longest + 1, n)
    ids = (rng.integers(0, 6, (n, 1)) + 2 * np.arange(longest)) % (N_TOKENS - 3) + 3
    ids[np.arange(longest)[None, :] >= lengths[:, None]] = 0
    return torch.from_numpy(ids).int(), torch.from_numpy(lengths)


def causal(context: int = 12) -> CausalLM:
    tokens = np.concatenate([row.numpy() for row in sequences(200, 0)[0]]).astype(np.uint16)
    held_out = np.concatenate([row.numpy() for row in sequences(30, 1)[0]]).astype(np.uint16)
    return CausalLM(tokens, held_out, context, {"name": "toy", "simulated": True})


def masked(share: float = 0.3) -> MaskedLM:
    return MaskedLM(sequences(100, 0), sequences(20, 1), MaskRule(MASK, N_TOKENS, share), {"name": "toy"})


def sentences() -> SentenceClassification:
    parts = [sequences(n, seed) for n, seed in ((100, 0), (20, 1))]
    (training, labels), (held_out, held_out_labels) = (((ids, n), ids[:, 0].numpy() % 2) for ids, n in parts)
    return SentenceClassification(training, labels, held_out, held_out_labels, {"name": "toy"})


def images(side: int = 8, **options: Any) -> ImageClassification:
    """Pictures of three classes, each brightest in one channel."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    pictures = rng.integers(0, 128, (60, side, side, 3), dtype=np.uint8)
    pictures[np.arange(60), :, :, labels] += 100
    kept = {"mean": HALF, "std": HALF, "corpus": {"name": "toy"}, **options}
    return ImageClassification(pictures[:45], labels[:45], pictures[45:], labels[45:], **kept)


def gpt(dropout: float = 0.1, **changes: Any) -> nn.Module:
    size = {"width": 16, "n_layers": 1, "n_heads": 2, "context": 16, "dropout": dropout, **changes}
    return build("gpt", GPTConfig(vocab_size=N_TOKENS, **size), seed=0)


def topoformer(dropout: float = 0.1, *, topographic: bool = True, kind: str = "topoformer") -> nn.Module:
    shape = TopoformerConfig(
        vocab_size=N_TOKENS, width=16, ffn_width=32, max_length=16, dropout=dropout,
        querying=0.3 if topographic else None, reweighting=0.5 if topographic else None,
    )  # fmt: skip
    return build(kind, shape, seed=0)


def resnet(width: int = 4) -> nn.Module:
    shape = ResNetConfig(n_classes=3, stem="small", width=width, image_size=8, mean=HALF, std=HALF)
    return build("resnet", shape, seed=0)


def weights_hash(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def rows_of(log_or_directory: Any) -> list[tuple[Any, ...]]:
    """Return a run's metrics without the seconds."""
    import json

    lines = (Path(log_or_directory) / "metrics.jsonl").read_text().splitlines()
    return [tuple(value for key, value in json.loads(line).items() if key != "seconds") for line in lines]


# What follows runs in processes of its own.

LONG = replace(CONFIG, steps=8, micro_batch=3, checkpoint_every=2, evaluate_every=4)


def long_run(directory: str, config: TrainingConfig | None = None, **options: Any) -> tuple[nn.Module, TrainingLog]:
    """Train a GPT with dropout, accumulation and a penalty: the run that is interrupted."""
    module = gpt()
    config = config or LONG
    run = Run("toy", Path(directory), device="cpu", **options)
    return module, train(module, causal(), config, penalties=[TOPOLOSS], run=run)


def killed_in_a_step(directory: str, at: int) -> None:
    """Die in the middle of a step, between the first micro-batch's gradient and the optimiser."""
    optimise, steps = torch.optim.AdamW.step, []

    @functools.wraps(optimise)
    def step(self: Any, *rest: Any, **options: Any) -> Any:
        steps.append(1)
        if len(steps) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return optimise(self, *rest, **options)

    torch.optim.AdamW.step = step  # type: ignore[method-assign]
    long_run(directory)


def killed_in_a_save(directory: str, what: str, number: int) -> None:
    """Die in the middle of saving: while a file is written (``"file"``), or before the folder gets its name."""
    save_file, replace_, calls = safetensors.torch.save_file, os.replace, []

    def half_a_file(tensors: Any, path: Any, **options: Any) -> None:
        save_file(tensors, path, **options)
        calls.append(1)
        if len(calls) == number:
            size = Path(path).stat().st_size
            os.truncate(path, size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def no_name(source: Any, target: Any) -> None:
        if "step-" in str(target):
            calls.append(1)
            if len(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
        replace_(source, target)

    if what == "file":
        safetensors.torch.save_file = half_a_file
    else:
        os.replace = no_name  # type: ignore[assignment]
    long_run(directory)


def interrupted(directory: str, mark: str) -> None:
    """Train slowly and say when the third step is done; Ctrl-C ends the process after the step it comes in."""
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def slowly(step: int, steps: int, loss: float) -> None:
        if step == 3:
            Path(mark).write_text("3")
            time.sleep(3)

    seldom = replace(LONG, checkpoint_every=1000)  # being stopped must not cost what lies between checkpoints
    try:
        long_run(directory, seldom, progress=slowly)
    except KeyboardInterrupt:
        sys.exit(130)


def told(report: str, work: Callable[..., Any], *given: Any, **options: Any) -> None:
    """Write the message of an error down, and exit as the command line does."""
    try:
        work(*given, **options)
    except TopobrainError as error:
        Path(report).write_text(f"{type(error).__name__}: {error}")
        sys.exit(2)
    Path(report).write_text("done")


def on_a_full_disk(directory: str, report: str, limit: int) -> None:
    """Train where no file may grow beyond some bytes, as on a disk that is full."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill_up(step: int, steps: int, loss: float) -> None:
        if step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    def work() -> None:
        long_run(directory, progress=fill_up)

    try:
        told(report + ".part", work)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.replace(report + ".part", report)


def holding(directory: str, mark: str, go: str) -> None:
    """Train, and stay in the middle of it until told to go on."""

    def wait(step: int, steps: int, loss: float) -> None:
        if step == 1:
            Path(mark).write_text("1")
            while not Path(go).exists():
                time.sleep(0.02)

    long_run(directory, progress=wait)


def tokenising(corpus: str, cache: str, report: str) -> None:
    """Tokenise a file slowly, and note whether this process did it or found it done."""
    from topobrain.training import corpora
    from topobrain.training.vocabularies import train_bpe

    os.environ["TOPOBRAIN_CACHE"] = cache
    tokenise, did = corpora._tokenise, []

    def slowly(*given: Any) -> None:
        did.append(1)
        time.sleep(0.5)
        tokenise(*given)

    corpora._tokenise = slowly
    streams = corpora.token_streams(corpus, train_bpe(["one two three"], 280))
    digest = hashlib.sha256(np.asarray(streams.training).tobytes()).hexdigest()
    Path(report).write_text(f"{len(did)} {digest}")
