"""Reading on from a beginning that was read before: a causal model's keys and values of it are used again."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from topobrain._checks import InputError
from topobrain.models.protocol import Model, Recording
from topobrain.models.text_encoder import TextEncoder
from topobrain.models.torch_model import Encoded, TorchModel

TAKES = ("past_key_values", "position_ids", "attention_mask", "use_cache")
"""What the forward of a module must take for its keys and values to be used again."""


class _KeptLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of texts that were read before, of which a batch sees chosen rows and tokens."""

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor, tokens: Tensor) -> None:
        super().__init__()
        self.kept_keys, self.kept_values, self.rows, self.tokens = keys, values, rows, tokens

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return the chosen keys and values with new ones after them; nothing is kept, each layer asks only once."""
        kept = (self.kept_keys, self.kept_values)
        keys, values = (all_of[self.rows[:, None], :, self.tokens].transpose(1, 2) for all_of in kept)
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)

    def get_seq_length(self) -> int:
        """Return how many tokens come before."""
        return int(self.tokens.shape[1])


class ReadBeginnings:
    """What a causal model made of some texts, for reading on from any of their tokens.

    Parameters
    ----------
    cache
        Keys and values of every block.
    batch
        The texts as they were read, padding on the right.
    recording
        The activations of the texts themselves.
    """

    def __init__(self, cache: Cache, batch: Encoded, recording: Recording) -> None:
        self.pairs = [(layer.keys, layer.values) for layer in cache.layers]
        self.batch, self.recording = batch, recording

    def cache(self, rows: Sequence[int], starts: np.ndarray) -> Cache:
        """Return the keys and values of the first ``starts`` tokens (row,) of some texts, for one batch.

        They end at the same place in every row, shorter ones have something before them that is masked: attention that sees
        a window of tokens counts places, not positions.
        """
        device = self.pairs[0][0].device
        chosen = torch.as_tensor(list(rows), dtype=torch.long, device=device)
        first = torch.as_tensor(np.asarray(starts), dtype=torch.long, device=device)
        n_before = int(first.max())
        tokens = (first[:, None] - n_before + torch.arange(n_before, device=device)).clamp_min(0)
        return Cache(layers=[_KeptLayer(keys, values, chosen, tokens) for keys, values in self.pairs])


def can_reuse_prefix(model: Model) -> bool:
    """Whether a model's module can read on from kept keys and values; whether it is causal is another question."""
    if not isinstance(model, TorchModel) or not isinstance(model.encode, TextEncoder):
        return False
    parameters = inspect.signature(model.module.forward).parameters
    return all(name in parameters for name in TAKES)


def read_beginnings(model: TorchModel, texts: Sequence[str], layers: Sequence[str]) -> ReadBeginnings:
    """Read texts and keep their keys and values.

    Raises
    ------
    InputError
        The model cannot read on (see `can_reuse_prefix`), or kept nothing.
    """
    if not can_reuse_prefix(model):
        raise InputError(f"the module of {model.name!r} takes no {', '.join(TAKES)}: it cannot read on from a prefix")
    batch = model.encoded(texts)
    cache = Cache(layer_class_to_replicate=DynamicLayer)
    recording = model.record_encoded(batch, layers, past_key_values=cache, use_cache=True)
    if not cache.layers or any(layer.keys is None for layer in cache.layers):
        raise InputError(f"the module of {model.name!r} left no keys and values in the cache it was given")
    return ReadBeginnings(cache, batch, recording)


def read_on(
    model: TorchModel,
    before: ReadBeginnings,
    rows: Sequence[int],
    starts: np.ndarray,
    batch: Encoded,
    layers: Sequence[str],
) -> Recording:
    """Return the activations of tokens that follow the first ``starts`` tokens of texts that were read before.

    Parameters
    ----------
    model, before
        A causal model and what it kept.
    rows
        For each new row, the text whose beginning it has.
    starts
        Tokens of that beginning (row,).
    batch
        The new tokens, padding on the right: ``input_ids`` and ``attention_mask`` (row, token), and their words.
    layers
        Layers to record.
    """
    inputs = batch.inputs
    assert not isinstance(inputs, Tensor)
    first = np.asarray(starts, dtype=np.int64)
    n_before = int(first.max())
    n_new = inputs["input_ids"].shape[1]
    seen = torch.from_numpy(np.arange(n_before)[None, :] >= n_before - first[:, None])
    mask = torch.cat([seen.to(inputs["attention_mask"].dtype), inputs["attention_mask"]], dim=1)
    positions = torch.from_numpy(first[:, None] + np.arange(n_new)[None, :])
    if n_before == 0:  # nothing comes before any of them
        return model.record_encoded(batch, layers)
    # a row's padding may count beyond the last position the model has
    positions = torch.where(inputs["attention_mask"] > 0, positions, torch.zeros_like(positions))
    shown = {"input_ids": inputs["input_ids"], "attention_mask": mask, "position_ids": positions}
    return model.record_encoded(
        Encoded(shown, batch.word), layers, past_key_values=before.cache(rows, first), use_cache=True
    )
