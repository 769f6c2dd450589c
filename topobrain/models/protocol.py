"""The contract between a model and topobrain: nothing to inherit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from topobrain._checks import InputError
from topobrain.sheet import Sheet


@dataclass(frozen=True)
class Recording:
    """What a model's units did for one batch.

    Attributes
    ----------
    values
        Layer -> float32 array or tensor (stimulus, token, unit).
    word
        int (stimulus, token): number of the word a token belongs to, -1 for padding and special tokens. For images, one
        token with word 0.
    """

    values: Mapping[str, Any]
    word: np.ndarray

    def __post_init__(self) -> None:
        word = np.asarray(self.word)
        if word.ndim != 2 or word.dtype.kind not in "iu":
            raise InputError(f"word must be whole numbers (stimulus, token), got {word.dtype} of shape {word.shape}")
        for layer, array in self.values.items():
            if array.ndim != 3 or tuple(array.shape[:2]) != word.shape:
                raise InputError(
                    f"layer {layer!r} has shape {tuple(array.shape)}, expected (stimulus, token, unit) = "
                    f"({word.shape[0]}, {word.shape[1]}, n_units) to match `word`"
                )


class Survey(NamedTuple):
    """What `extract` needs to know of stimuli before it runs a model.

    Attributes
    ----------
    lengths
        Tokens of each stimulus (stimulus,), for batches of equal length.
    digest
        Hash of the encoded stimuli: covers the tokenizer and its options.
    """

    lengths: np.ndarray
    digest: str


@runtime_checkable
class Model(Protocol):
    """Anything that can be recorded.

    Attributes
    ----------
    name
        Name used in titles and provenance.
    sheets
        Recordable layers in depth order, each with its units' places (``Sheet.none(n)`` = no layout).

    Notes
    -----
    Four optional members make extraction faster and cacheable: ``survey(stimuli) -> Survey``, ``weights_hash() -> str``,
    ``token_counts(stimuli)`` (the survey's lengths alone, for an extraction that is not cached) and ``device`` (text or
    torch.device). `TorchModel` has them. Without ``survey`` and ``weights_hash`` nothing is cached, because a cache key
    could not cover what changes the numbers.
    """

    @property
    def name(self) -> str:
        """Name used in titles and provenance."""
        ...

    @property
    def sheets(self) -> Mapping[str, Sheet]:
        """Layers in depth order, each with its units' places."""
        ...

    def record(self, stimuli: Sequence[Any], layers: Sequence[str]) -> Recording:
        """Return the activations of some layers for a batch of stimuli."""
        ...
