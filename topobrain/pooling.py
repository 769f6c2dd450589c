"""Pooling: from a value a token to a row a stimulus, a word or a token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import numpy as np

from topobrain._checks import InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Pooling = Literal["mean", "last", "word", "none"]


@dataclass(frozen=True)
class Rows:
    """Where each pooled row comes from, one entry a row.

    Attributes
    ----------
    stimulus
        Position of its stimulus.
    part, word
        Number of the row within its stimulus, and the word it belongs to (0 where a row is a whole stimulus).
    n_tokens, n_words
        Tokens of words that its stimulus has, and words of which every token counts.
    """

    stimulus: np.ndarray
    part: np.ndarray
    word: np.ndarray
    n_tokens: np.ndarray
    n_words: np.ndarray

    def at(self, batch: np.ndarray) -> Rows:
        """Return the rows of a batch with the stimuli's positions in the whole set."""
        return Rows(batch[self.stimulus], self.part, self.word, self.n_tokens, self.n_words)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the columns by name, for a file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def joined(rows: Sequence[Rows]) -> Rows:
    """Return the rows of several batches as one."""
    return Rows(*(np.concatenate([getattr(r, field.name) for r in rows]) for field in fields(Rows)))


def cut_words(word: Int[np.ndarray, "stimulus token"], max_tokens: int) -> Int[np.ndarray, "stimulus token"]:
    """Return the word numbers with -1 from the ``max_tokens + 1``-th token of a word on.

    >>> cut_words(np.array([[-1, 0, 1, 1, 2]]), 2).tolist()
    [[-1, 0, 1, -1, -1]]
    """
    if max_tokens < 1:
        raise InputError(f"max_tokens must be 1 or more, got {max_tokens}")
    return np.asarray(np.where(np.cumsum(word >= 0, axis=1) <= max_tokens, word, -1))


def whole_words(word: Int[np.ndarray, "stimulus token"], cut: Int[np.ndarray, "stimulus token"]) -> np.ndarray:
    """Return how many words of each stimulus lost no token to a cut (stimulus,)."""
    if cut is word:  # nothing was cut: no loop over the stimuli
        ordered = np.sort(word, axis=1)
        return np.asarray(((np.diff(ordered, axis=1, prepend=-1) != 0) & (ordered >= 0)).sum(axis=1), dtype=np.int64)
    counts = [np.setdiff1d(full, full[kept < 0]).size for full, kept in zip(word, cut, strict=True)]
    return np.array(counts, dtype=np.int64)


def pooling_weights(
    word: Int[np.ndarray, "stimulus token"], pooling: Pooling, max_tokens: int | None = None
) -> tuple[Float[np.ndarray, "row token"], Rows]:
    """Return what each row takes from each token.

    Parameters
    ----------
    word
        int (stimulus, token), -1 for padding and special tokens.
    pooling
        ``"mean"``: one row a stimulus, the mean of its tokens; ``"last"``: its last token; ``"word"``: one row a word, the
        mean of its tokens; ``"none"``: one row a token.
    max_tokens
        Count only the first so many tokens of each stimulus.

    Returns
    -------
    weights, rows
        Weights (row, token) that sum to one, and the rows' origin.
    """
    counted = word if max_tokens is None else cut_words(word, max_tokens)
    inside = counted >= 0
    if pooling == "mean":
        weights, stimulus = inside / inside.sum(axis=1, keepdims=True), np.arange(len(counted))
        part = kept = np.zeros(len(counted), dtype=int)
    elif pooling == "last":
        last = counted.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)
        weights, stimulus = np.eye(counted.shape[1])[last], np.arange(len(counted))
        part = kept = np.zeros(len(counted), dtype=int)
    elif pooling == "none":
        stimulus, token = np.nonzero(inside)
        weights, kept = np.eye(counted.shape[1])[token], counted[stimulus, token]
        part = np.concatenate([np.arange(n) for n in inside.sum(axis=1)])
    else:
        pairs = [(s, w) for s in range(len(counted)) for w in np.unique(counted[s][inside[s]]).tolist()]
        stimulus, kept = np.array([s for s, _ in pairs]), np.array([w for _, w in pairs])
        match = counted[stimulus] == kept[:, None]
        weights, part = match / match.sum(axis=1, keepdims=True), kept
    n_tokens, n_words = inside.sum(axis=1), whole_words(word, counted)
    return weights.astype(np.float32), Rows(stimulus, part, kept, n_tokens[stimulus], n_words[stimulus])
