"""Objectives: what a model is trained to do, on which examples, and how right it is.

An objective deals out batches as plain tensors on the CPU, drawn from a seed, and returns the *sum* of the loss over a
batch's predictions, so that any split of a batch over processes and micro-batches adds up to the same step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from topobrain._checks import InputError
from topobrain.training.masking import IGNORED, MaskRule, mask_tokens
from topobrain.training.sampling import seed_of

Batch = dict[str, Tensor]

EVALUATED_AT_ONCE = 256
"""Held-out examples whose masks are drawn from one seed."""


class Objective(Protocol):
    """What the loop needs to know."""

    name: str
    n_examples: int
    n_held_out: int

    def batch(self, rows: np.ndarray, *, held_out: bool, seed: int) -> Batch:
        """Return examples as tensors whose first axis is the example; the seed draws masks and augmentation."""
        ...

    def count(self, batch: Batch) -> int:
        """Return the number of predictions of a batch."""
        ...

    def loss(self, module: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss summed over a batch's predictions, in nats, and how many of them are right."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Return what a log should say of the objective and its examples."""
        ...


class CausalLM:
    """Predict every next token of windows of a token stream.

    Parameters
    ----------
    tokens, held_out
        Token ids (token,), e.g. memory-mapped: windows of ``context`` tokens follow one another.
    context
        Tokens a window.
    corpus
        What a log says of the corpus.

    Raises
    ------
    InputError
        A part shorter than one window and its last target.
    """

    name = "causal language model"

    def __init__(
        self, tokens: np.ndarray, held_out: np.ndarray, context: int, corpus: Mapping[str, Any] | None = None
    ) -> None:
        for label, part in (("training", tokens), ("held-out", held_out)):
            if len(part) <= context:
                raise InputError(
                    f"the {label} part of the corpus has {len(part)} tokens, one window takes {context} and the token "
                    f"after it; take a longer corpus or a context of at most {max(len(part) - 1, 0)}"
                )
        self.tokens, self.held_out, self.context = tokens, held_out, context
        self.n_examples = (len(tokens) - 1) // context
        self.n_held_out = (len(held_out) - 1) // context
        self.corpus = dict(corpus or {})

    def batch(self, rows: np.ndarray, *, held_out: bool, seed: int) -> Batch:
        """Return windows (example, token + 1)."""
        del seed  # nothing is drawn
        stream = self.held_out if held_out else self.tokens
        windows = np.stack([stream[row * self.context : (row + 1) * self.context + 1] for row in rows])
        return {"ids": torch.from_numpy(windows.astype(np.int64))}

    def count(self, batch: Batch) -> int:
        """Return the number of targets."""
        return int(batch["ids"][:, 1:].numel())

    def loss(self, module: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return summed cross-entropy, and how many tokens are predicted rightly."""
        ids = batch["ids"]
        logits = module.logits(module(ids[:, :-1]))
        return _scored(logits.flatten(0, 1), ids[:, 1:].flatten())

    def describe(self) -> Mapping[str, Any]:
        """Return corpus, context and numbers of windows."""
        windows = {"context": self.context, "n_examples": self.n_examples, "n_held_out": self.n_held_out}
        return {"objective": self.name, "corpus": self.corpus, **windows}


class MaskedLM:
    """Predict masked tokens; only the predicted positions reach the vocabulary.

    Parameters
    ----------
    texts, held_out
        Token table and lengths as `topobrain.training.masking.token_table` gives them: (text, token), (text,).
    rule
        Which tokens are predicted, and what becomes of them.
    corpus
        What a log says of the corpus.
    """

    name = "masked language model"

    def __init__(
        self,
        texts: tuple[Tensor, Tensor],
        held_out: tuple[Tensor, Tensor],
        rule: MaskRule,
        corpus: Mapping[str, Any] | None = None,
    ) -> None:
        self.texts, self.held_out, self.rule = texts, held_out, rule
        self.n_examples, self.n_held_out = len(texts[1]), len(held_out[1])
        self.corpus = dict(corpus or {})

    def batch(self, rows: np.ndarray, *, held_out: bool, seed: int) -> Batch:
        """Return corrupted texts, targets and lengths."""
        ids, lengths = _texts(self.held_out if held_out else self.texts, rows)
        visible = torch.arange(ids.shape[1])[None, :] < lengths[:, None]
        corrupted, targets = mask_tokens(ids, visible, self.rule, torch.Generator().manual_seed(seed))
        return {"ids": corrupted, "targets": targets, "lengths": lengths}

    def count(self, batch: Batch) -> int:
        """Return the number of predicted tokens."""
        return int((batch["targets"] != IGNORED).sum())

    def loss(self, module: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return summed cross-entropy of the predicted tokens, and how many are right."""
        ids, visible = _trimmed(batch)
        targets = batch["targets"][:, : ids.shape[1]]
        states = module(ids, visible)
        chosen = targets != IGNORED  # most of the cost is the vocabulary: nothing else is sent there
        return _scored(module.logits(states[chosen]), targets[chosen])

    def describe(self) -> Mapping[str, Any]:
        """Return corpus, rule and numbers of texts."""
        numbers = {"n_examples": self.n_examples, "n_held_out": self.n_held_out}
        return {"objective": self.name, "corpus": self.corpus, "mask_share": self.rule.share, **numbers}


class SentenceClassification:
    """Tell the class of a text.

    Parameters
    ----------
    texts, held_out
        Token table and lengths: (text, token), (text,).
    labels, held_out_labels
        Classes, 0 to n_classes - 1 (text,).
    corpus
        What a log says of the corpus.
    """

    name = "sentence classification"

    def __init__(
        self,
        texts: tuple[Tensor, Tensor],
        labels: np.ndarray,
        held_out: tuple[Tensor, Tensor],
        held_out_labels: np.ndarray,
        corpus: Mapping[str, Any] | None = None,
    ) -> None:
        for table, classes in ((texts, labels), (held_out, held_out_labels)):
            if len(table[1]) != len(classes):
                raise InputError(f"{len(table[1])} texts have {len(classes)} labels: expected one each")
        self.texts, self.held_out = texts, held_out
        self.labels, self.held_out_labels = torch.as_tensor(labels), torch.as_tensor(held_out_labels)
        self.n_examples, self.n_held_out = len(labels), len(held_out_labels)
        self.corpus = dict(corpus or {})

    def batch(self, rows: np.ndarray, *, held_out: bool, seed: int) -> Batch:
        """Return texts, lengths and labels."""
        del seed  # nothing is drawn
        ids, lengths = _texts(self.held_out if held_out else self.texts, rows)
        labels = (self.held_out_labels if held_out else self.labels)[torch.from_numpy(rows)]
        return {"ids": ids, "lengths": lengths, "labels": labels.long()}

    def count(self, batch: Batch) -> int:
        """Return the number of texts."""
        return len(batch["labels"])

    def loss(self, module: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return summed cross-entropy, and how many texts are classified rightly."""
        ids, visible = _trimmed(batch)
        return _scored(module.class_logits(module(ids, visible), visible), batch["labels"])

    def describe(self) -> Mapping[str, Any]:
        """Return corpus and numbers of texts."""
        numbers = {"n_examples": self.n_examples, "n_held_out": self.n_held_out}
        return {"objective": self.name, "corpus": self.corpus, **numbers}


class ImageClassification:
    """Tell the class of an image.

    Parameters
    ----------
    images, held_out
        uint8 (image, height, width, channel).
    labels, held_out_labels
        Classes, 0 to n_classes - 1 (image,).
    mean, std
        Channel normalisation, of values between 0 and 1.
    augment
        Shift training images by up to an eighth of their side and flip half of them.
    label_smoothing
        Share of the target spread over all classes, in training only.
    corpus
        What a log says of the images.
    """

    name = "image classification"

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        held_out: np.ndarray,
        held_out_labels: np.ndarray,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        augment: bool = True,
        label_smoothing: float = 0.0,
        corpus: Mapping[str, Any] | None = None,
    ) -> None:
        for pictures, classes in ((images, labels), (held_out, held_out_labels)):
            if pictures.ndim != 4 or pictures.dtype != np.uint8:
                raise InputError(
                    f"images must be uint8 (image, height, width, channel), got {pictures.dtype} {pictures.shape}"
                )
            if len(pictures) != len(classes):
                raise InputError(f"{len(pictures)} images have {len(classes)} labels: expected one each")
            if not len(mean) == len(std) == pictures.shape[3]:
                raise InputError(
                    f"images have {pictures.shape[3]} channels, their normalisation has {len(mean)} means and {len(std)} "
                    "standard deviations: expected one each"
                )
        self.images, self.held_out = torch.from_numpy(images), torch.from_numpy(held_out)
        self.labels, self.held_out_labels = torch.as_tensor(labels).long(), torch.as_tensor(held_out_labels).long()
        self.n_examples, self.n_held_out = len(images), len(held_out)
        self.mean, self.std = torch.tensor(mean).view(1, -1, 1, 1), torch.tensor(std).view(1, -1, 1, 1)
        self.augment, self.label_smoothing = augment, label_smoothing
        self.corpus = dict(corpus or {})

    def batch(self, rows: np.ndarray, *, held_out: bool, seed: int) -> Batch:
        """Return normalised float images (image, channel, height, width) and labels."""
        chosen = torch.from_numpy(rows)
        images = (self.held_out if held_out else self.images)[chosen].permute(0, 3, 1, 2).float().div(255)
        images = (images - self.mean) / self.std
        if self.augment and not held_out:
            images = _shifted(images, torch.Generator().manual_seed(seed))
        return {"images": images, "labels": (self.held_out_labels if held_out else self.labels)[chosen]}

    def count(self, batch: Batch) -> int:
        """Return the number of images."""
        return len(batch["labels"])

    def loss(self, module: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return summed cross-entropy, and how many images are classified rightly."""
        smoothing = self.label_smoothing if module.training else 0.0
        return _scored(module(batch["images"]), batch["labels"], smoothing)

    def describe(self) -> Mapping[str, Any]:
        """Return corpus, augmentation and numbers of images."""
        numbers = {"n_examples": self.n_examples, "n_held_out": self.n_held_out}
        return {"objective": self.name, "corpus": self.corpus, "augment": self.augment, **numbers}


@torch.no_grad()
def evaluate(
    module: nn.Module,
    objective: Objective,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    share: tuple[int, int] = (0, 1),
    micro_batch: int | None = None,
) -> tuple[float, float, int]:
    """Score a module on the objective's held-out part: summed loss in nats, right predictions, predictions.

    Parameters
    ----------
    module, objective
        The model, on ``device``, and what it should do.
    seed
        Draws the masks: equal at every evaluation, and for twins.
    device
        Where the module lies.
    share
        (process, processes): every process scores its own examples.
    micro_batch
        Most examples a forward pass; the scores do not depend on it.

    Raises
    ------
    InputError
        There is no held-out example.
    """
    if objective.n_held_out < 1:
        raise InputError("there is no held-out example to evaluate on")
    was_training = module.training
    module.eval()
    total = right = count = 0.0
    try:
        for number, start in enumerate(range(0, objective.n_held_out, EVALUATED_AT_ONCE)):
            if number % share[1] != share[0]:
                continue
            rows = np.arange(start, min(start + EVALUATED_AT_ONCE, objective.n_held_out))
            batch = objective.batch(rows, held_out=True, seed=seed_of(seed, number, 1))
            count += objective.count(batch)
            for first in range(0, len(rows), micro_batch or len(rows)):
                part = slice(first, first + (micro_batch or len(rows)))
                loss, hits = objective.loss(module, {key: value[part].to(device) for key, value in batch.items()})
                total, right = total + float(loss), right + float(hits)
    finally:
        module.train(was_training)
    return total, right, int(count)


def _scored(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    logits = logits.float()  # sums of thousands of half-precision losses would lose their last digits
    loss = cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    return loss, (logits.detach().argmax(dim=-1) == targets).sum()


def _texts(texts: tuple[Tensor, Tensor], rows: np.ndarray) -> tuple[Tensor, Tensor]:
    chosen = torch.from_numpy(rows)
    return texts[0][chosen].long(), texts[1][chosen]


def _trimmed(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return ids and mask without the columns that are padding in every text."""
    longest = int(batch["lengths"].max())
    ids = batch["ids"][:, :longest]
    return ids, torch.arange(longest, device=ids.device)[None, :] < batch["lengths"][:, None]


def _shifted(images: Tensor, draws: torch.Generator) -> Tensor:
    """Shift every image by up to an eighth of its side (edges filled with the mean), and flip every second one."""
    n, _, height, width = images.shape
    reach = max(height, width) // 8
    padded = nn.functional.pad(images, (reach,) * 4)
    down, right = torch.randint(0, 2 * reach + 1, (2, n), generator=draws)
    flip = torch.rand(n, generator=draws) < 0.5
    rows = down[:, None] + torch.arange(height)
    columns = right[:, None] + torch.arange(width)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    moved = padded.permute(0, 2, 3, 1)[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous()
