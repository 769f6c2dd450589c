"""Run a recipe: data, tokenizer, model, training, test, and a model directory at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import nn

from topobrain._checks import DataFileError, InputError
from topobrain.models.architectures import build, build_config, find_architecture
from topobrain.models.directories import is_model_directory, save_model
from topobrain.models.torch_model import pick_device
from topobrain.results import load_result
from topobrain.training.corpora import describe_corpus, documents, is_held_out, require_corpus, token_streams
from topobrain.training.log import TrainingLog
from topobrain.training.loop import Progress, Run, Tell, difference, train
from topobrain.training.masking import MaskRule, token_table
from topobrain.training.objectives import (
    CausalLM,
    ImageClassification,
    MaskedLM,
    Objective,
    SentenceClassification,
    evaluate,
)
from topobrain.training.recipes import Recipe
from topobrain.training.vocabularies import make_vocabulary

LOG_FILE, RECIPE_FILE = "training.nc", "recipe.json"
MOST_HELD_OUT = 5000
"""Held-out sentences of a masked language model."""

WORDS = ("source", "notes")
"""Fields of a recipe that only describe it."""

SPLIT_SEED = 0
"""The held-out part is the same for every seed of a run."""


class Data(NamedTuple):
    """A recipe's data, read.

    Attributes
    ----------
    tokenizer
        Of texts; None for images.
    objective, test
        What is learnt, with a held-out part for evaluation; and the same with the official test set in its place, which
        is scored once at the end (None where a corpus has none).
    """

    tokenizer: Any
    objective: Objective
    test: Objective | None


def read_data(recipe: Recipe) -> Data:
    """Read a recipe's corpus and make its tokenizer: the same for every seed, strength and variant.

    Raises
    ------
    InputError
        A corpus that is too small.
    UnknownNameError
        A corpus that is not in the store.
    """
    _require_known(recipe)
    if recipe.objective == "images":
        return Data(None, *_images(recipe))
    return Data(*_texts(recipe))


def build_module(recipe: Recipe, tokenizer: Any) -> nn.Module:
    """Build a recipe's model with the random weights of its seed.

    Raises
    ------
    InputError
        A field that does not fit the architecture.
    """
    sizes: dict[str, Any] = {}
    if tokenizer is not None:
        sizes["vocab_size"] = max(len(tokenizer), recipe.vocab_size if recipe.vocabulary == "gpt2" else 0)
    config = build_config(find_architecture(recipe.architecture), {**recipe.model, **sizes})
    return build(recipe.architecture, config, seed=recipe.training.seed)


def run_recipe(
    recipe: Recipe,
    directory: str | Path,
    *,
    data: Data | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    tell: Tell | None = None,
    tensorboard: bool = False,
) -> Path:
    """Train what a recipe says, or go on where an earlier process stopped; return the model directory.

    The directory holds the model (`load_model(directory)`), ``training.nc`` (a `TrainingLog`), ``recipe.json``,
    ``metrics.jsonl``, ``metrics.csv`` and ``checkpoints/``. A finished run is not run again.

    Parameters
    ----------
    recipe
        From `find_recipe`, changed as you like.
    directory
        Of this run alone.
    data
        From `read_data`, where several runs share it; read here if not given.
    device
        ``"auto"`` or a torch device.
    progress
        Called with (step, steps, loss).
    tell
        Called with a line on each stage that may take long.
    tensorboard
        Also write event files for TensorBoard.

    Raises
    ------
    InputError
        The directory holds another run; training diverged; a field does not fit.
    DataFileError
        A file is missing, or the disk is full.
    """
    target = Path(directory)
    asked = json.loads(json.dumps(recipe.to_dict()))
    if is_finished(target):
        kept, now = ({k: v for k, v in fields.items() if k not in WORDS} for fields in (_kept_recipe(target), asked))
        if kept != now:
            raise InputError(
                f"{target} holds another finished run ({difference(kept, now)}); choose another directory, or remove "
                "this one (a finished run cannot be lengthened: its learning rate follows its length)"
            )
        return target
    pick_device(device)
    if data is None:
        _require_known(recipe)
    if tell is not None and data is None:
        tell(f"reading {recipe.corpus}" + ("" if recipe.objective == "images" else " and making its vocabulary"))
    tokenizer, objective, test = data or read_data(recipe)
    if tell is not None:
        tell(f"training on {objective.n_examples} examples, {objective.n_held_out} are held out")
    module = build_module(recipe, tokenizer)
    sheets = _sheets(recipe, module, tokenizer)
    corpus = describe_corpus(recipe.corpus)
    run = Run(
        recipe.model_name, target, {"corpus": corpus, "recipe": asked}, tensorboard=tensorboard, device=device,
        progress=progress, tell=tell,
    )  # fmt: skip
    log = train(module, objective, recipe.training, penalties=recipe.penalties, sheets=sheets, run=run)
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not several or torch.distributed.get_rank() == 0:
        if test is not None:
            if tell is not None:
                tell(f"scoring {test.n_held_out} test examples")
            log = with_test(log, module, test, micro_batch=recipe.training.micro_batch)
        provenance = {
            "recipe": {"name": recipe.name, "size": recipe.size, "seed": recipe.training.seed},
            "corpus": corpus,
        }
        save_model(target, recipe.model_name, module, tokenizer, trained_on=recipe.corpus, provenance=provenance)
        try:
            (target / RECIPE_FILE).write_text(json.dumps(asked, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise DataFileError(f"cannot write to {target}: {error.strerror or error}") from error
        log.save(target / LOG_FILE)  # the last: it makes the run finished
    if several:
        torch.distributed.barrier()
    return target


def is_finished(directory: str | Path) -> bool:
    """Whether a directory holds a run that came to its end."""
    return is_model_directory(directory) and (Path(directory) / LOG_FILE).is_file()


def load_log(directory: str | Path) -> TrainingLog:
    """Read the training log of a finished run."""
    log = load_result(Path(directory) / LOG_FILE)
    if not isinstance(log, TrainingLog):
        raise DataFileError(f"{Path(directory) / LOG_FILE} is no training log")
    return log


def with_test(log: TrainingLog, module: nn.Module, test: Objective, *, micro_batch: int | None = None) -> TrainingLog:
    """Return a log with loss and accuracy on a test set added."""
    device = next(module.parameters()).device
    loss, right, count = evaluate(module, test, device=device, micro_batch=micro_batch)
    scores = {"test_loss": ((), loss / count), "test_accuracy": ((), right / count), "n_test": ((), count)}
    return TrainingLog(xr.merge([log.data, xr.Dataset(scores)], combine_attrs="override"))


def _kept_recipe(target: Path) -> Mapping[str, Any]:
    try:
        kept: dict[str, Any] = json.loads((target / RECIPE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataFileError(f"{target} holds a model without a readable {RECIPE_FILE}: {error}") from error
    return kept


def _sheets(recipe: Recipe, module: nn.Module, tokenizer: Any) -> dict[str, Any]:
    """Return the sheets of the layers the wrapped model records, by dotted path: penalties use the same."""
    architecture = find_architecture(recipe.architecture)
    given = (tokenizer,) if architecture.reads == "text" else ()
    model = architecture.wrap(recipe.model_name, module, *given, device="cpu")
    return {model.paths[layer]: sheet for layer, sheet in model.sheets.items()}


def _require_known(recipe: Recipe) -> None:
    """Raise unless the corpus can be had here: told before anything long begins."""
    if recipe.objective == "sentences" and recipe.corpus != "imdb":
        raise InputError(f"sentence classification knows the corpus 'imdb', got {recipe.corpus!r}")
    if recipe.objective == "images" and recipe.corpus != "cifar10":
        raise InputError(
            f"images to train on are 'cifar10', got {recipe.corpus!r}; for other images build an ImageClassification of your "
            "arrays and call topobrain.training.train"
        )
    if recipe.objective in ("causal", "masked"):
        require_corpus(recipe.corpus)


def _texts(recipe: Recipe) -> tuple[Any, Objective, Objective | None]:
    if recipe.objective == "sentences":
        return _sentences(recipe)
    corpus = describe_corpus(recipe.corpus)
    training_texts = (text for text in documents(recipe.corpus) if not is_held_out(text))
    tokenizer = make_vocabulary(recipe.vocabulary, training_texts, recipe.vocab_size)
    if recipe.objective == "causal":
        streams = token_streams(recipe.corpus, tokenizer)
        return tokenizer, CausalLM(streams.training, streams.held_out, recipe.length, streams.description), None
    parts: tuple[list[str], list[str]] = ([], [])
    for text in documents(recipe.corpus):
        parts[is_held_out(text)].extend(_sentences_of(text, recipe.n_words))
    learnt = {_plain(text) for text in parts[0]}  # other documents may hold the same sentence
    unseen = [text for text in parts[1] if _plain(text) not in learnt]
    texts = _shuffled(list(dict.fromkeys(parts[0])), recipe.max_examples)
    held_out = _shuffled(list(dict.fromkeys(unseen)), MOST_HELD_OUT)
    if not texts or not held_out:
        fewest, most = recipe.n_words
        raise InputError(f"corpus {recipe.corpus!r} has too few lines of {fewest} to {most} words")
    if tokenizer.mask_token_id is None:
        raise InputError(
            f"the vocabulary {recipe.vocabulary!r} has no mask token: a masked language model needs another"
        )
    rule = MaskRule(int(tokenizer.mask_token_id), len(tokenizer), recipe.mask_share)
    tables = [token_table(part, tokenizer, recipe.length) for part in (texts, held_out)]
    return tokenizer, MaskedLM(tables[0], tables[1], rule, corpus), None


def _sentences(recipe: Recipe) -> tuple[Any, Objective, Objective | None]:
    from topobrain.data.corpora import load_imdb_sentiment

    corpus = {**describe_corpus(recipe.corpus), "labels": ["negative", "positive"]}
    texts, labels = load_imdb_sentiment("train")
    order = np.random.default_rng(SPLIT_SEED).permutation(len(texts))
    held, rest = order[: len(order) // 4], order[len(order) // 4 :][: recipe.max_examples]
    tokenizer = make_vocabulary(recipe.vocabulary, (texts[i] for i in rest), recipe.vocab_size)
    table, held_out = (token_table([texts[i] for i in part], tokenizer, recipe.length) for part in (rest, held))
    objective = SentenceClassification(table, labels[rest], held_out, labels[held], corpus)
    test_texts, test_labels = load_imdb_sentiment("test")
    chosen = np.random.default_rng(SPLIT_SEED).permutation(len(test_texts))[: recipe.max_test]
    tested = token_table([test_texts[i] for i in chosen], tokenizer, recipe.length)
    return tokenizer, objective, SentenceClassification(table, labels[rest], tested, test_labels[chosen], corpus)


def _images(recipe: Recipe) -> tuple[Objective, Objective]:
    from topobrain.data.cifar10 import load_cifar10

    images, labels, classes = load_cifar10("train")
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    held, rest = order[: len(order) // 10], order[len(order) // 10 :][: recipe.max_examples]
    options: dict[str, Any] = {
        "mean": recipe.model["mean"], "std": recipe.model["std"], "augment": recipe.augment,
        "label_smoothing": recipe.label_smoothing, "corpus": {**describe_corpus(recipe.corpus), "labels": list(classes)},
    }  # fmt: skip
    tested, test_labels, _ = load_cifar10("test", limit=recipe.max_test)
    training = images[rest], labels[rest]
    return (
        ImageClassification(*training, images[held], labels[held], **options),
        ImageClassification(*training, tested, test_labels, **options),
    )


def _sentences_of(document: str, n_words: tuple[int, int]) -> list[str]:
    fewest, most = n_words
    return [line.strip() for line in document.splitlines() if fewest <= len(line.split()) <= most]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _shuffled(texts: list[str], limit: int | None) -> list[str]:
    order = np.random.default_rng(SPLIT_SEED).permutation(len(texts))[:limit]
    return [texts[i] for i in order]
