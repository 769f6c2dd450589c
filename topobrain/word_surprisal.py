"""Words in context: a causal language model's surprisal at each word of a text, and its activations, however long the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topobrain._checks import InputError
from topobrain.activations import Activations
from topobrain.extract import extract
from topobrain.models.protocol import Model
from topobrain.models.text_encoder import TextEncoder
from topobrain.models.torch_model import TorchModel, _evaluating
from topobrain.stimuli import StimulusSet

LOGIT_ROWS = 1024
"""Tokens whose logits are held at once: a vocabulary of 50,000 makes them 200 MB."""

BATCH_TOKENS = 2048
"""Tokens read at once, padding included."""

FEATURES = ("mean_surprisal", "sum_of_surprisal", "highest_surprisal", "last_word_surprisal")
"""Units of `surprisal_features`, in this order."""


@dataclass(frozen=True)
class WordWindow:
    """A stretch of a long text that fits a model: words ``start`` to ``stop``, of which those from ``first`` on are new.

    Words before ``first`` are there as context only: an earlier window has them with more text before them.
    """

    start: int
    first: int
    stop: int

    def text(self, words: Sequence[str]) -> str:
        """Return the window's text, words separated by blanks."""
        return " ".join(words[self.start : self.stop])


def word_windows(
    model: Model,
    words: Sequence[str],
    *,
    context_tokens: int | None = None,
    stride_tokens: int | None = None,
) -> list[WordWindow]:
    """Cut a text that is longer than a model's context into overlapping windows; every word is new in exactly one.

    Parameters
    ----------
    model
        A model that reads text.
    words
        The words in order, none with white space in it.
    context_tokens
        Tokens a window holds at most, special tokens included (default: all that the model takes).
    stride_tokens
        New tokens a window at most: each word but the first ones has ``context_tokens - stride_tokens`` tokens before it
        or more, and at least one word. Fewer cost more windows (default: a quarter of the window).

    Returns
    -------
    list of WordWindow
        In order. One window where the text fits.

    Raises
    ------
    InputError
        The model reads no text, a word is empty or has white space in it, or is longer than a window, alone or with the one
        before it.
    """
    encoder = _encoder(model)
    for position, word in enumerate(words):
        if not isinstance(word, str) or len(word.split()) != 1 or word != word.strip():
            raise InputError(f"word {position} is {word!r}: expected one word without white space, as in text.split()")
    if not len(words):
        raise InputError("there is no word to read: expected one or more")
    limit = encoder.max_length if context_tokens is None else context_tokens
    if encoder.max_length is not None and limit is not None and limit > encoder.max_length:
        raise InputError(f"context_tokens is {limit}, but {model.name!r} takes {encoder.max_length} tokens at most")
    if limit is None:
        return [WordWindow(0, 0, len(words))]
    special = encoder.tokenizer.num_special_tokens_to_add(pair=False)
    stride = max(1, (limit - special) // 4) if stride_tokens is None else stride_tokens
    if not 1 <= stride <= limit - special:
        raise InputError(f"stride_tokens must be 1 to {limit - special} for windows of {limit} tokens, got {stride}")
    unlimited = TextEncoder(encoder.tokenizer)
    counts = np.bincount(_words_of(unlimited, " ".join(words)), minlength=len(words))

    def n_tokens(start: int, stop: int) -> int:
        return int(unlimited([" ".join(words[start:stop])]).word.shape[1])

    windows, first = [], 0
    while first < len(words):
        # A new word never stands at the start of a later window: the word before it comes along, however long the stride.
        room = limit - special if first == 0 else min(stride, limit - special - int(counts[first - 1]))
        stop = first + 1
        while stop < len(words) and counts[first : stop + 1].sum() <= room:
            stop += 1
        start, used = first, int(counts[first:stop].sum()) + special
        while start > 0 and used + counts[start - 1] <= limit:
            start -= 1
            used += int(counts[start])
        while start > 0 and n_tokens(start - 1, stop) <= limit:
            start -= 1
        latest = max(first - 1, 0)
        start = min(start, latest)
        while n_tokens(start, stop) > limit:  # the first word of a text may have other tokens than inside one
            if start < latest:
                start += 1
            elif stop > first + 1:
                stop -= 1
            elif first == 0 or n_tokens(first, stop) > limit:
                raise InputError(f"word {first} ({words[first]!r}) alone has more than the {limit} tokens of a window")
            else:
                raise InputError(
                    f"word {first} ({words[first]!r}) and the one before it have more than the {limit} tokens of a window, so "
                    "it would be read without context: use a larger context_tokens"
                )
        windows.append(WordWindow(start, first, stop))
        first = stop
    return windows


def word_surprisal(
    model: Model,
    words: Sequence[str],
    *,
    context_tokens: int | None = None,
    stride_tokens: int | None = None,
) -> np.ndarray:
    r"""Return how unexpected each word of a text is to a causal language model, in bits.

    .. math:: s(w) = -\sum_{i \in w} \log_2 p(t_i \mid t_{<i})

    over the tokens of the word. Words are joined by blanks; a text longer than the model's context is read in overlapping
    windows (`word_windows`), so that context is the text before a word as far as the window reaches.

    Parameters
    ----------
    model
        A causal language model whose next-token logits can be had: its module has ``logits(states)``, or is a transformers
        model whose output matrix is its embedding.
    words
        The words in order, none with white space in it.
    context_tokens, stride_tokens
        See `word_windows`.

    Returns
    -------
    ndarray
        (word,), float64. NaN for a first word that nothing comes before (a tokenizer without a token for the beginning of a
        text). 0 for a word whose characters all belong to a token of the word before.

    Raises
    ------
    InputError
        The model is not causal, reads no text or has no logits, or a word is none.

    References
    ----------
    Hale (2001) NAACL; Levy (2008) Cognition 106:1126.
    """
    plain = [str(word) for word in words]
    windows = word_windows(model, plain, context_tokens=context_tokens, stride_tokens=stride_tokens)
    surprisal: np.ndarray = np.concatenate(
        _new_bits(_reader(model), [window.text(plain) for window in windows], windows)
    )
    return surprisal


def surprisal_features(model: Model, stimuli: StimulusSet) -> Activations:
    """Return what a causal language model did not expect of each sentence, as activations of one layer ``surprisal``.

    Parameters
    ----------
    model
        A causal language model, see `word_surprisal`.
    stimuli
        Texts, each read by itself.

    Returns
    -------
    Activations
        One layer ``surprisal`` with the columns of `FEATURES` in bits, without layout: over the words of a text their mean,
        sum, highest and the last word's. First words that nothing comes before do not count.

    Raises
    ------
    InputError
        See `word_surprisal`; or a text has only one word, and nothing comes before it.
    """
    texts = [" ".join(text.split()) for text in stimuli.texts]
    windows, shown = [], []
    for text in texts:
        for window in word_windows(model, text.split()):
            windows.append(window)
            shown.append(window.text(text.split()))
    bits = _new_bits(_reader(model), shown, windows)
    starts = [number for number, window in enumerate(windows) if window.first == 0]
    rows = []
    for label, start, stop in zip(stimuli.ids, starts, [*starts[1:], len(windows)], strict=True):
        values = np.concatenate(bits[start:stop])
        values = values[np.isfinite(values)]
        if values.size == 0:
            raise InputError(
                f"stimulus {label!r} has one word and {model.name!r} reads nothing before it: it has no surprisal"
            )
        rows.append([values.mean(), values.sum(), values.max(), values[-1]])
    provenance = {
        "model": {
            "name": f"surprisal of {model.name}",
            "features": list(FEATURES),
            "weights_sha256": _reader(model).weights_hash(),
        }
    }
    return Activations.from_arrays({"surprisal": np.array(rows)}, stimuli, provenance=provenance)


def extract_words(
    model: Model,
    words: StimulusSet,
    *,
    layers: Sequence[str] | str | None = None,
    context_tokens: int | None = None,
    stride_tokens: int | None = None,
    cache: bool = True,
) -> Activations:
    """Record what a model's units do at each word of a running text, with the text before the word as context.

    Parameters
    ----------
    model
        A model that reads text. A masked model also sees the words of a window that come after.
    words
        The words of one text in order, one a stimulus (see `topobrain.data.alice.load_words`).
    layers
        Layers to record (default: all).
    context_tokens, stride_tokens
        See `word_windows`.
    cache
        As in `extract`.

    Returns
    -------
    Activations
        One row a word, the mean of its tokens in the window where it is new; labels and columns of ``words``.

    Raises
    ------
    InputError
        A stimulus is no single word.
    """
    plain = words.texts
    windows = word_windows(model, plain, context_tokens=context_tokens, stride_tokens=stride_tokens)
    shown = StimulusSet([window.text(plain) for window in windows], name=f"{words.name}-windows")
    found = extract(model, shown, layers=layers, pooling="word", cache=cache)
    lengths = np.array([window.stop - window.start for window in windows])
    before = np.cumsum(lengths) - lengths
    if found.data.sizes["stimulus"] != lengths.sum():
        raise InputError(
            f"some words of {words.name!r} have no token of their own in {model.name!r}: join them with others"
        )
    rows = np.concatenate([np.arange(w.first, w.stop) - w.start + at for w, at in zip(windows, before, strict=True)])
    values = {layer: found.values(layer)[rows] for layer in found.layers}
    provenance = {key: value for key, value in found.provenance.items() if key not in ("stimuli", "versions")}
    provenance["windows"] = {"n": len(windows), "context_tokens": context_tokens, "stride_tokens": stride_tokens}
    return Activations.from_arrays(values, words, sheets=found.sheets, provenance=provenance)


def language_head(model: Model) -> Callable[[Tensor], Tensor]:
    """Return the function states (..., unit) -> next-token logits (..., token of the vocabulary) of a model.

    Raises
    ------
    InputError
        The model has none that is known.
    """
    module: Any = getattr(model, "module", None)
    if callable(getattr(module, "logits", None)):
        head: Callable[[Tensor], Tensor] = module.logits
        return head
    config = getattr(module, "config", None)
    embedding = module.get_input_embeddings() if hasattr(module, "get_input_embeddings") else None
    changed = [
        name
        for name in ("final_logit_softcapping", "logit_scale", "logits_scaling")
        if getattr(config, name, None) not in (None, 1, 1.0)
    ]
    if embedding is None or not getattr(config, "tie_word_embeddings", False) or changed:
        raise InputError(
            f"{model.name!r} has no next-token logits that topobrain knows: expected a module with logits(states), or a "
            "transformers model whose output matrix is its embedding (tie_word_embeddings"
            + (f"; {', '.join(changed)} not supported)" if changed else ")")
        )

    def tied(states: Tensor) -> Tensor:
        return torch.nn.functional.linear(states, embedding.weight)

    return tied


def _reader(model: Model) -> TorchModel:
    """Return a model of texts with a tokenizer, or say that this is none."""
    if not isinstance(model, TorchModel) or not isinstance(model.encode, TextEncoder):
        raise InputError(f"{model.name!r} reads no text with a tokenizer, so words have no tokens in it")
    return model


def _encoder(model: Model) -> TextEncoder:
    encoder = _reader(model).encode
    assert isinstance(encoder, TextEncoder)
    return encoder


def _words_of(encoder: TextEncoder, text: str) -> np.ndarray:
    word = encoder([text]).word[0]
    return np.asarray(word[word >= 0])


def _states(model: TorchModel, inputs: Any) -> Tensor:
    """Return the last states (stimulus, token, unit) of a batch."""
    output = model.module(**{key: value.to(model.device) for key, value in inputs.items()})
    states = output if isinstance(output, Tensor) else output[0]
    return states.float()


def _new_bits(model: TorchModel, texts: Sequence[str], windows: Sequence[WordWindow]) -> list[np.ndarray]:
    """Return the surprisal of the new words of each window, short windows read first."""
    logits = language_head(model)
    lengths = model.survey(texts).lengths
    order = np.argsort(lengths, kind="stable")
    _require_causal(model, texts[int(order[-1])])
    found: dict[int, np.ndarray] = {}
    batch: list[int] = []
    for position in [*order.tolist(), None]:
        if batch and (position is None or lengths[position] * (len(batch) + 1) > BATCH_TOKENS):
            inputs, word = model.encoded([texts[i] for i in batch])
            bits = _token_bits(model, inputs, logits)
            for row, i in enumerate(batch):
                window, inside = windows[i], word[row] >= 0
                each = np.bincount(word[row, inside], weights=bits[row, inside], minlength=window.stop - window.start)
                found[i] = each[window.first - window.start :]
            batch = []
        if position is not None:
            batch.append(position)
    return [found[i] for i in range(len(texts))]


def _token_bits(model: TorchModel, inputs: Any, logits: Callable[[Tensor], Tensor]) -> np.ndarray:
    """Return -log2 p of each token given those before it (stimulus, token); NaN for the first."""
    ids = inputs["input_ids"].to(model.device)
    with torch.inference_mode(), _evaluating(model.module):
        states = _states(model, inputs)[:, :-1].flatten(0, 1)
        parts = zip(torch.split(states, LOGIT_ROWS), torch.split(ids[:, 1:].flatten(), LOGIT_ROWS), strict=True)
        nats = [torch.nn.functional.cross_entropy(logits(s).float(), t, reduction="none") for s, t in parts]
    bits = torch.cat(nats).double().cpu().numpy().reshape(len(ids), -1) / np.log(2)
    return np.concatenate([np.full((len(ids), 1), np.nan), bits], axis=1)


def _require_causal(model: TorchModel, text: str) -> None:
    """Raise if another last token changes what a model makes of the tokens before it: then nothing was predicted."""
    start = " ".join(text.split()[:8])
    inputs: Any = model.encoded([start, start]).inputs
    ids = inputs["input_ids"].clone()
    if ids.shape[1] < 2:
        return
    ids[1, -1] = ids[1, 0] if ids[1, -1] != ids[1, 0] else ids[1, 0] + 1
    with torch.inference_mode(), _evaluating(model.module):
        states = _states(model, {**inputs, "input_ids": ids})[:, :-1]
    if not torch.allclose(states[0], states[1], rtol=1e-3, atol=1e-3 * float(states.abs().max())):
        raise InputError(
            f"{model.name!r} reads what comes after a word too (a masked model), so it has no surprisal of words in order; "
            "use a causal language model"
        )
