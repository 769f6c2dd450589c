"""How many tokens a text has: a cut at a number of tokens keeps more words of one condition than of another."""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from topobrain._checks import InputError
from topobrain.stimuli import StimulusSet

if TYPE_CHECKING:
    import pandas as pd

Tokenizer = Callable[[str], Sequence[Any]]
"""Text -> its tokens, in any form that has a length."""

_WORD_END = re.compile(r"\S+")


def token_counts(
    stimuli: StimulusSet,
    tokenizer: str | Tokenizer = "gpt2",
    *,
    by: str = "condition",
    cut: int = 12,
    leading_space: bool = False,
) -> pd.DataFrame:
    """Count tokens and words of each condition, to see what a cut at ``cut`` tokens would do to a contrast.

    Rare and invented words are split into more tokens than common ones. A cut at a number of tokens therefore takes more
    words from nonword strings than from sentences, and the contrast mixes lexicality with length.

    Parameters
    ----------
    stimuli
        Texts.
    tokenizer
        ``"gpt2"`` (the byte-level BPE of the store), a transformers or tokenizers object, or any callable text ->
        sequence of tokens. Special tokens that it adds are counted.
    by
        Stimulus column of the conditions; a row each, in the order of their first stimulus.
    cut
        Number of tokens of the cut that is looked at.
    leading_space
        Put a space before each text: GPT-2's first word then has the token it has inside a text.

    Returns
    -------
    DataFrame
        Index: the condition. ``n`` stimuli; ``words``, ``tokens`` (means), ``tokens_min``, ``tokens_max``;
        ``tokens_kept``, ``words_kept`` (means; whole words) after the cut. A whole word is kept if the text up to its
        end has at most ``cut`` tokens.

    Raises
    ------
    InputError
        The stimuli are images, the tokenizer cannot be used, or ``cut`` is less than 1.
    UnknownNameError
        There is no such column.
    DataFileError
        GPT-2's tokenizer is not in the store.

    Examples
    --------
    >>> stimuli = StimulusSet(["a dog barks", "fi plon"], {"condition": ["sentence", "nonword"]})
    >>> token_counts(stimuli, list, cut=5)[["tokens", "words_kept"]].to_numpy().tolist()
    [[11.0, 2.0], [7.0, 1.0]]
    """
    import pandas as pd

    if cut < 1:
        raise InputError(f"cut is a number of tokens, 1 or more; got {cut}")
    labels = [str(value) for value in stimuli.column(by)]
    tokenize = text_tokenizer(tokenizer)
    rows: dict[str, list[tuple[int, int, int, int]]] = {label: [] for label in labels}
    for label, text in zip(labels, stimuli.items, strict=True):
        if not isinstance(text, str):
            raise InputError(f"tokens are counted in texts; {stimuli.name!r} holds images")
        shown = f" {text}" if leading_space else text
        n_tokens = len(tokenize(shown))
        ends = [match.end() for match in _WORD_END.finditer(shown)]
        rows[label].append((len(ends), n_tokens, min(n_tokens, cut), _words_within(shown, ends, tokenize, cut)))
    table = {}
    for label, counts in rows.items():
        columns = list(zip(*counts, strict=True))
        words, tokens, tokens_kept, words_kept = (sum(column) / len(column) for column in columns)
        table[label] = {
            "n": len(counts),
            "words": words,
            "tokens": tokens,
            "tokens_min": min(columns[1]),
            "tokens_max": max(columns[1]),
            "tokens_kept": tokens_kept,
            "words_kept": words_kept,
        }
    whole = dict.fromkeys(("n", "tokens_min", "tokens_max"), int)
    return pd.DataFrame.from_dict(table, orient="index").astype(whole).rename_axis(by)


def text_tokenizer(tokenizer: str | Tokenizer) -> Tokenizer:
    """Return a callable text -> tokens from any of the forms that `token_counts` takes.

    Raises
    ------
    InputError
        The tokenizer is neither ``"gpt2"`` nor callable, nor has it an ``encode``.
    DataFileError
        GPT-2's tokenizer is not in the store.
    """
    return _tokenize_and_decode(tokenizer)[0]


def text_cutter(tokenizer: str | Tokenizer) -> Callable[[str, int], str]:
    """Return a callable (text, number of tokens) -> the text of the first tokens, which may end inside a word.

    Raises
    ------
    InputError
        The tokenizer cannot turn tokens back into text.
    DataFileError
        GPT-2's tokenizer is not in the store.
    """
    tokenize, decode = _tokenize_and_decode(tokenizer)
    if decode is None:
        raise InputError(
            "a cut inside a word needs a tokenizer that turns tokens back into text: give 'gpt2', or an object with "
            f"encode and decode, got {tokenizer!r}"
        )
    back = decode

    def cut(text: str, n_tokens: int) -> str:
        return back(list(tokenize(text))[:n_tokens])

    return cut


def _tokenize_and_decode(tokenizer: Any) -> tuple[Tokenizer, Callable[[list[Any]], str] | None]:
    """Return text -> tokens and, where the tokenizer has it, tokens -> text."""
    if tokenizer == "gpt2":
        from topobrain.store.gpt2_tokenizer import read_gpt2_bpe

        tokenizer = read_gpt2_bpe()
    encode = getattr(tokenizer, "encode", None)
    if callable(encode) and not isinstance(tokenizer, str):
        return lambda text: _ids(encode(text)), getattr(tokenizer, "decode", None)
    if not callable(tokenizer):
        raise InputError(
            f"tokenizer is 'gpt2', an object with encode, or a callable text -> sequence of tokens; got {tokenizer!r}"
        )
    return lambda text: _ids(tokenizer(text)), None


def _ids(encoded: Any) -> Sequence[Any]:
    """Return the tokens of an encoding, whichever library made it."""
    if hasattr(encoded, "ids"):  # of the tokenizers library
        return list(encoded.ids)
    # A transformers tokenizer that is called answers with a mapping, whose length is its number of fields.
    tokens = encoded["input_ids"] if isinstance(encoded, Mapping) and "input_ids" in encoded else encoded
    if not hasattr(tokens, "__len__"):
        raise InputError(f"the tokenizer gave a {type(tokens).__name__}, expected a sequence of tokens")
    return tokens  # type: ignore[no-any-return]


def _words_within(text: str, ends: Sequence[int], tokenize: Tokenizer, cut: int) -> int:
    """Return how many whole words lie within the first ``cut`` tokens."""
    return bisect.bisect_right(ends, cut, key=lambda end: len(tokenize(text[:end])))
