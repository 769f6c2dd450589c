"""The tiny Topoformer and its non-topographic twin, trained where they are needed and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from topobrain._checks import DataFileError, InputError
from topobrain.data import load_text
from topobrain.models.architectures import build, require_weights
from topobrain.models.directories import RANDOM_WEIGHTS, is_model_directory, load_directory, save_model
from topobrain.models.topoformer import TopoformerConfig, wrap_topoformer
from topobrain.models.torch_model import TorchModel, pick_device
from topobrain.store import cache_directory
from topobrain.training.config import TrainingConfig
from topobrain.training.loop import Run, train
from topobrain.training.masking import MaskRule, token_table
from topobrain.training.objectives import MaskedLM
from topobrain.training.recipe_models import tell_first_use
from topobrain.training.recipe_run import LOG_FILE
from topobrain.training.vocabularies import train_bpe

Progress = Callable[[str, int, int, float], None]

N_HELD_OUT = 500
MAX_TEXTS = 40000
RECIPE = 2
"""Raised when the recipe changes in a way its configuration does not show: older trained models are then not used."""


@dataclass(frozen=True)
class TinyConfig:
    """The tiny Topoformer pair.

    Parameters
    ----------
    corpus
        ``"simulated-text"`` (the template language) or the name of a corpus in the store, e.g. ``"brown"``.
    vocab_size, width, ffn_width, max_length
        Size; the width is a square number.
    n_words
        Fewest and most words of a training text; others are left out (long ones cost most of the time).
    mask_share
        Share of tokens predicted.
    querying, reweighting
        Area fractions of the topographic model's discs (the published one-layer values); its twin has neither.
    training
        Optimisation.
    """

    corpus: str = "simulated-text"
    vocab_size: int = 1200
    width: int = 400
    ffn_width: int = 800
    max_length: int = 128
    n_words: tuple[int, int] = (4, 16)
    mask_share: float = 0.15
    querying: float = 0.1
    reweighting: float = 0.3
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def digest(self) -> str:
        """Return a short hash of the recipe and the library that runs it."""
        fields = [RECIPE, asdict(self), version("torch"), version("tokenizers")]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def model_name(config: TinyConfig, topographic: bool) -> str:
    """Return the name of one of the pair."""
    corpus = "" if config.corpus == TinyConfig().corpus else f"-{config.corpus}"
    return f"topoformer-tiny{corpus}" + ("" if topographic else "-control")


def train_tiny_pair(
    config: TinyConfig | None = None, *, device: str = "auto", progress: Progress | None = None
) -> dict[str, Path]:
    """Train the pair, or find it trained: name -> directory (topographic model first).

    Both start from the same seed and see the same batches and masks. A finished model is kept in the cache under a
    hash of its recipe; two processes never train or write the same one at once.
    """
    config = config or TinyConfig()
    return {
        model_name(config, topographic): _trained(config, topographic, device, progress)
        for topographic in (True, False)
    }


def is_trained(config: TinyConfig, topographic: bool) -> bool:
    """Whether the model is in the cache."""
    return is_model_directory(trained_directory(config, topographic))


def load_tiny(*, weights: str | None = None, device: str = "auto") -> TorchModel:
    """Load the topographic model of the default pair, training it on first use (a minute or two)."""
    return _load(TinyConfig(), True, weights, device)


def load_tiny_control(*, weights: str | None = None, device: str = "auto") -> TorchModel:
    """Load the non-topographic twin of the default pair, training it on first use."""
    return _load(TinyConfig(), False, weights, device)


def load_tiny_brown(*, weights: str | None = None, device: str = "auto") -> TorchModel:
    """Load the topographic model of the pair trained on Brown sentences, training it on first use (some minutes)."""
    return _load(tiny_for("brown"), True, weights, device)


def load_tiny_brown_control(*, weights: str | None = None, device: str = "auto") -> TorchModel:
    """Load the non-topographic twin trained on Brown sentences, training it on first use."""
    return _load(tiny_for("brown"), False, weights, device)


def _load(config: TinyConfig, topographic: bool, weights: str | None, device: str) -> TorchModel:
    require_weights(weights)
    pick_device(device)  # a wrong device is told before anything is trained
    if weights is None or is_trained(config, topographic):
        return load_directory(_trained(config, topographic, device, tell_first_use), weights=weights, device=device)
    tokenizer = train_bpe(corpus_texts(config)[0], config.vocab_size)  # random weights need no training
    seed = int(weights.partition(":")[2] or 0)
    module = build("topoformer", _shape(config, topographic, len(tokenizer)), seed=seed).eval()
    model = wrap_topoformer(f"{model_name(config, topographic)} ({weights})", module, tokenizer, device=device)  # type: ignore[arg-type]
    model.provenance["trained_on"] = RANDOM_WEIGHTS
    return model


def trained_directory(config: TinyConfig, topographic: bool) -> Path:
    """Return where a trained model is kept in the cache."""
    return cache_directory() / "models" / f"{model_name(config, topographic)}-{config.digest()}"


def _trained(config: TinyConfig, topographic: bool, device: str, progress: Progress | None) -> Path:
    from filelock import FileLock

    name, target = model_name(config, topographic), trained_directory(config, topographic)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):
            if is_model_directory(target):
                return target
            for left in target.parent.glob(f".{target.name}.*.part"):  # of a killed process: this one holds the lock
                shutil.rmtree(left, ignore_errors=True)
            shutil.rmtree(target, ignore_errors=True)
            try:
                _train(config, name, topographic, part, device, progress)
                os.replace(part, target)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except DataFileError:
        raise
    except OSError as error:
        raise DataFileError(f"cannot keep the trained model in {target.parent}: {error.strerror or error}") from error
    return target


def corpus_texts(config: TinyConfig) -> tuple[list[str], list[str]]:
    """Return training and held-out texts of a corpus, shuffled by the seed; repeated texts count once."""
    lines = (line.strip() for text in load_text(config.corpus) for line in text.splitlines())
    fewest, most = config.n_words
    texts = list(dict.fromkeys(line for line in lines if fewest <= len(line.split()) <= most))
    if len(texts) < 2 * N_HELD_OUT:
        raise InputError(f"corpus {config.corpus!r} has {len(texts)} texts, training needs at least {2 * N_HELD_OUT}")
    order = np.random.default_rng(config.training.seed).permutation(len(texts))[: MAX_TEXTS + N_HELD_OUT]
    chosen = [texts[i] for i in order]
    return chosen[N_HELD_OUT:], chosen[:N_HELD_OUT]


def _train(
    config: TinyConfig, name: str, topographic: bool, target: Path, device: str, progress: Progress | None
) -> None:
    texts, held_out = corpus_texts(config)
    tokenizer = train_bpe(texts, config.vocab_size)
    module = build("topoformer", _shape(config, topographic, len(tokenizer)), seed=config.training.seed)
    corpus = {"name": config.corpus, "n_texts": len(texts), "simulated": config.corpus == TinyConfig().corpus}
    objective = MaskedLM(
        token_table(texts, tokenizer, config.max_length),
        token_table(held_out, tokenizer, config.max_length),
        MaskRule(int(tokenizer.mask_token_id), len(tokenizer), config.mask_share),
        corpus,
    )
    told = None if progress is None else partial(progress, name)
    run = Run(name, provenance={"corpus": corpus}, device=device, progress=told)
    log = train(module, objective, config.training, run=run)
    save_model(target, name, module, tokenizer, trained_on=config.corpus)
    log.save(target / LOG_FILE)


def _shape(config: TinyConfig, topographic: bool, vocab_size: int) -> TopoformerConfig:
    return TopoformerConfig(
        vocab_size=vocab_size,
        width=config.width,
        ffn_width=config.ffn_width,
        max_length=config.max_length,
        querying=config.querying if topographic else None,
        reweighting=config.reweighting if topographic else None,
    )


def tiny_for(corpus: str, *, steps: int | None = None) -> TinyConfig:
    """Return the pair's configuration for a corpus; real text gets a larger vocabulary."""
    base = TinyConfig()
    config = base if corpus == base.corpus else replace(base, corpus=corpus, vocab_size=8000)
    return config if steps is None else replace(config, training=replace(config.training, steps=steps))
