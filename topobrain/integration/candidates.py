"""Which words may take the place of which: words as a tokenizer cuts them, and what enters a model for them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from topobrain._checks import InputError, listed
from topobrain.models.protocol import Model
from topobrain.models.text_encoder import TextEncoder

LEAD = "a"
"""Word before a word whose tokens are counted: words in a sequence have one before them."""
TEXTS_AT_ONCE = 2048

_EDGES = re.compile(r"^(\W*)(.*?)(\W*)$", re.DOTALL)


def split_marks(written: str) -> tuple[str, str, str]:
    """Return the marks before a word, the word, and the marks behind it; what consists of marks only is a word.

    >>> [split_marks(written) for written in ("house,", "don't", "--")]
    [('', 'house', ','), ('', "don't", ''), ('', '--', '')]
    """
    found = _EDGES.match(written)
    return (found[1], found[2], found[3]) if found and found[2] else ("", written, "")


def as_words(name: str, given: Iterable[str]) -> list[str]:
    """Return words of any iterable as a list, or raise: one string would be taken apart into letters."""
    if isinstance(given, str):
        raise InputError(f"{name} must be a collection of words, got one string; split it into words")
    if not isinstance(given, Iterable):
        raise InputError(f"{name} must be a collection of words, got {given!r}")
    return list(given)


def single_token_words(model: Model, words: Iterable[str]) -> np.ndarray:
    """Return which words are one token, with a blank before them, that the model's tokenizer knows (word,).

    Parameters
    ----------
    model
        A model that reads text. For one without a tokenizer (no `TextEncoder`) every word counts as one token.
    words
        Words without white space.

    Raises
    ------
    InputError
        ``words`` is one string or no collection, or holds something that is no text.
    """
    given = as_words("words", words)
    for word in given:
        if not isinstance(word, str):
            raise InputError(f"words must be texts, got {word!r}")
    tokens = count_tokens(model, given)
    return np.asarray((tokens.n_tokens == 1) & ~tokens.unknown)


class Tokens(NamedTuple):
    """Tokens of words (word,): how many, and whether one of them is the unknown token (or there is none)."""

    n_tokens: np.ndarray
    unknown: np.ndarray


def count_tokens(model: Model, words: Sequence[str]) -> Tokens:
    """Count the tokens of words as they stand in a sequence: with a blank and another word before them."""
    encoder = getattr(model, "encode", None)
    if not isinstance(encoder, TextEncoder):
        return Tokens(np.ones(len(words), dtype=int), np.zeros(len(words), dtype=bool))
    ids = token_ids(encoder, words)
    unknown_id = encoder.tokenizer.unk_token_id
    n_tokens = np.array([len(own) for own in ids], dtype=int)
    return Tokens(n_tokens, (n_tokens == 0) | np.array([unknown_id in own for own in ids], dtype=bool))


def token_ids(encoder: TextEncoder, words: Sequence[str]) -> list[list[int]]:
    """Return the tokens of each word behind a blank and another word; none for a word that the tokenizer leaves out."""
    tokenizer = encoder.tokenizer
    lead = tokenizer([LEAD], add_special_tokens=False)["input_ids"][0]
    found: list[list[int]] = []
    for start in range(0, len(words), TEXTS_AT_ONCE):
        part = words[start : start + TEXTS_AT_ONCE]
        read = tokenizer([f"{LEAD} {word}" for word in part], add_special_tokens=False, verbose=False)["input_ids"]
        for word, ids in zip(part, read, strict=True):
            if ids[: len(lead)] == lead:
                found.append(ids[len(lead) :])
            else:  # the blank changed how the word before it is cut: only characters tell which tokens are whose
                inputs, number = TextEncoder(tokenizer)([f"{LEAD} {word}"])
                assert isinstance(inputs, Mapping)
                found.append(inputs["input_ids"][0].numpy()[number[0] == 1].tolist())
    return found


class Places(NamedTuple):
    """Every position of every sequence, flat: the number of its word in ``words``, and the marks around it."""

    words: list[str]
    tokens: np.ndarray
    word: np.ndarray
    before: list[str]
    after: list[str]
    shape: tuple[int, int]


def take_apart(model: Model, originals: np.ndarray, unknown: str) -> Places:
    """Take the sequences apart, and raise if the model does not know one of their words."""
    before, bare, after = zip(*(split_marks(str(written)) for written in originals.ravel()), strict=True)
    words, word = np.unique(np.array(bare, dtype=object), return_inverse=True)
    tokens = count_tokens(model, words.tolist())
    if unknown == "raise" and tokens.unknown.any():
        strange = words[tokens.unknown]
        n_places = int(np.isin(word, np.flatnonzero(tokens.unknown)).sum())
        raise InputError(
            f"{len(strange)} words of the sequences ({n_places} of {word.size} positions) are not in the vocabulary of "
            f"{model.name!r}: {listed(strange, 8)}. Leave them out with allowed= of load_word_runs and "
            "load_sentence_sequences, or read them as the unknown token with unknown='keep'"
        )
    return Places(
        words.tolist(), tokens.n_tokens, word.ravel(), list(before), list(after), (len(originals), originals.shape[1])
    )


class Candidates:
    """The words that may be swapped in, by their number of tokens."""

    def __init__(self, model: Model, words: Collection[str]) -> None:
        known = np.array(sorted(dict.fromkeys(words)), dtype=object)
        tokens = count_tokens(model, known.tolist())
        self.words = known[~tokens.unknown]
        self.tokens = tokens.n_tokens[~tokens.unknown]
        keys: dict[str, int] = {}
        self.key = np.array([keys.setdefault(word.lower(), len(keys)) for word in self.words], dtype=int)
        self.keys = keys
        self.number = {word: i for i, word in enumerate(self.words)}
        self.of_length = {int(n): np.flatnonzero(self.tokens == n) for n in np.unique(self.tokens)}

    def without(self, among: np.ndarray, word: str) -> np.ndarray:
        """Return candidates but for the word itself, however it is written."""
        different: np.ndarray = among[self.key[among] != self.keys.get(word.lower(), -1)]
        return different

    def require(self, model: Model, places: Places) -> None:
        """Raise unless every word can be swapped for one of as many tokens."""
        for word, n_tokens in zip(places.words, places.tokens, strict=True):
            if self.without(self.of_length.get(int(n_tokens), np.empty(0, dtype=int)), word).size:
                continue
            single = int((places.tokens == 1).sum())
            raise InputError(
                f"the tokenizer of {model.name!r} cuts {word!r} into {n_tokens} tokens, and none of the {len(self.words)} "
                f"candidates it knows ({len(self.of_length.get(1, ()))} of them single tokens) has as many; {single} of the "
                f"{len(places.words)} words of the sequences are single tokens. Swaps of other lengths would move all later "
                "words: give more candidates=, or load sequences whose words are single tokens with allowed="
            )


def word_vectors(model: Model, words: Sequence[str]) -> Tensor:
    """Return what enters a model for each word (word, dimension): the mean input embedding of its tokens, float32.

    Raises
    ------
    InputError
        The model reads no text with a tokenizer, or has no embedding of its tokens.
    """
    encoder = getattr(model, "encode", None)
    module = getattr(model, "module", None)
    if not isinstance(encoder, TextEncoder) or not isinstance(module, nn.Module):
        raise InputError(
            f"{model.name!r} has no input embeddings that are known: use another swap rule than 'embedding'"
        )
    n_tokens = len(encoder.tokenizer)
    tables = [part for part in module.modules() if isinstance(part, nn.Embedding) and part.num_embeddings >= n_tokens]
    if not tables:
        raise InputError(
            f"{model.name!r} has no embedding of its {n_tokens} tokens: use another swap rule than 'embedding'"
        )
    weight = tables[0].weight.detach().float().cpu()
    ids = token_ids(encoder, words)
    zero = torch.zeros(weight.shape[1])
    return torch.stack([weight[own].mean(dim=0) if own else zero for own in ids])
