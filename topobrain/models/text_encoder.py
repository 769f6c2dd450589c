"""TextEncoder: texts to token batches, with every token's word."""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from topobrain._checks import InputError
from topobrain.models.torch_model import Encoded

WORD = re.compile(r"\S+")


def words_of_text(text: str) -> np.ndarray:
    """Return the word number of each character (character,), -1 for white space. Words are what white space separates."""
    space = np.array([character.isspace() for character in text], dtype=bool)
    starts = ~space & np.concatenate([[True], space[:-1]])
    return np.where(space, -1, np.cumsum(starts) - 1)


def words_of_tokens(text: str, offsets: Sequence[tuple[int, int]], special: Sequence[int]) -> np.ndarray:
    """Return the word number of each token from its characters.

    A token belongs to the word of its first character that is not white space (so a leading space, punctuation and
    every piece of a split word count with their word). A token of white space only belongs to the word that follows; at
    the end of the text, and for special tokens, it is -1.

    >>> words_of_tokens("Go home.", [(0, 0), (0, 2), (2, 7), (7, 8)], [1, 0, 0, 0]).tolist()
    [-1, 0, 1, 1]
    """
    ends = [match.end() for match in WORD.finditer(text)]
    n_words = len(ends)
    found = [bisect.bisect_right(ends, start) for start, _ in offsets]
    return np.array([-1 if skip or n == n_words else n for n, skip in zip(found, special, strict=True)], dtype=np.int64)


class TextEncoder:
    """Encode texts with a fast tokenizer: right padding, attention mask, word numbers.

    Parameters
    ----------
    tokenizer
        A transformers tokenizer with character offsets (``tokenizer.is_fast``).
    max_length
        Longest sequence the model takes, in tokens. Nothing is cut silently: a longer text is an error.
    """

    def __init__(self, tokenizer: Any, max_length: int | None = None) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise InputError(
                f"{type(tokenizer).__name__} gives no character offsets, so tokens cannot be matched to words; "
                "use a fast tokenizer (one that has a tokenizer.json)"
            )
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            raise InputError("the tokenizer has no vocabulary beside its special tokens: are its files missing?")
        self.tokenizer = tokenizer
        self.max_length = max_length
        ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self.pad_id = next(int(i) for i in ids if i is not None)  # masked everywhere, so any valid id does

    def __call__(self, texts: Sequence[Any]) -> Encoded:
        """Return texts as one right-padded batch, with the word of every token."""
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"stimulus {position} is a {type(text).__name__}, but this model reads text")
        batch = self.tokenizer(
            list(texts), return_offsets_mapping=True, return_special_tokens_mask=True, padding=False, truncation=False,
            verbose=False,
        )  # fmt: skip
        longest = max(len(ids) for ids in batch["input_ids"])
        ids = np.full((len(texts), longest), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(texts), longest), dtype=np.int64)
        word = np.full((len(texts), longest), -1)
        for row, text in enumerate(texts):
            tokens = batch["input_ids"][row]
            if self.max_length is not None and len(tokens) > self.max_length:
                raise InputError(
                    f"a stimulus has {len(tokens)} tokens, the model takes {self.max_length}: {text[:60]!r}...; shorten it "
                    "(nothing is cut silently)"
                )
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
            found = words_of_tokens(text, batch["offset_mapping"][row], batch["special_tokens_mask"][row])
            if not (found >= 0).any():
                raise InputError(f"the tokenizer leaves no token of stimulus {text!r}")
            word[row, : len(tokens)] = found
        return Encoded({"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}, word)
