"""The language localizer and three further stimulus sets on sentences, nouns and verbs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from topobrain._checks import InputError, listed, require_choice
from topobrain.data.tables import read_columns
from topobrain.data.token_counts import Tokenizer, text_cutter, text_tokenizer
from topobrain.stimuli import StimulusSet
from topobrain.store.files import fetch, find_manifest

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

N_WORDS = 12
"""Words of a localizer stimulus; they stand in the columns stim2 to stim13, the condition in stim14."""

LOCALIZER_CONDITIONS = {"S": "sentence", "N": "nonword"}
SWJN_CONDITIONS = {"S": "sentence", "W": "word_list", "J": "jabberwocky", "N": "nonword"}


LENGTHS = ("full", "words", "tokens", "cut")
"""Variants of the localizer's length."""

MAX_TOKENS = 12
"""Tokens at which the published language-model localizers cut a stimulus."""


def load_langloc(
    length: str = "full",
    *,
    n_words: int | None = None,
    tokenizer: str | Tokenizer | None = None,
    max_tokens: int = MAX_TOKENS,
) -> StimulusSet:
    """Load the language localizer as it is shown in the scanner, to ask which units answer to language.

    Both conditions have 12 words, but a nonword string has about twice as many tokens as a sentence (GPT-2: 24.3 against
    12.8). Where a model reads tokens, the variants say how much of an effect is length: give ``"full"``, ``"words"`` and
    ``"tokens"`` side by side.

    Parameters
    ----------
    length
        ``"full"``: all 12 words. ``"words"``: the first ``n_words`` of both conditions. ``"tokens"``: sentences as they
        are, each nonword string cut after a whole word such that the strings have as many tokens as the sentences: the
        k-th string of a list is matched to its k-th sentence, and what is left over is carried to the next string, so
        that the means of the conditions agree within a token over a whole list (a string that is no longer than its
        sentence stays whole). ``"cut"``: both cut after ``max_tokens`` tokens, also inside a word, as published; that
        keeps 11.4 words of a sentence but 6.0 of a nonword string.
    n_words
        For ``"words"``: how many words, 1 to 12.
    tokenizer
        For ``"tokens"`` and ``"cut"``: ``"gpt2"``, the tokenizer of the model at hand, or (``"tokens"`` only) any
        callable text -> sequence of tokens.
    max_tokens
        For ``"cut"``: how many tokens are kept.

    Returns
    -------
    StimulusSet
        240 sentences and 240 nonword strings of 12 words, in lower case. Columns: ``condition`` (``sentence``,
        ``nonword``), ``run`` (1, 2) and ``set`` (1 to 5; a participant sees one set); with ``"tokens"`` and ``"cut"``
        also ``n_tokens``, of the text that is left.

    Raises
    ------
    UnknownNameError
        There is no such length.
    DataFileError
        The files are missing or altered.
    InputError
        A file lacks a column or holds an unknown condition, or an option is missing or does not belong to the length.

    References
    ----------
    Fedorenko et al. (2010) J Neurophysiol 104:1177. The cut: AlKhamissi et al. (2025) NAACL.
    """
    _check_length(length, n_words, tokenizer, max_tokens)
    # Made once: reading GPT-2's vocabulary takes longer than the localizer itself.
    tokenize = None if tokenizer is None else text_tokenizer(tokenizer)
    cut = text_cutter(tokenizer) if tokenizer is not None and length == "cut" else None
    paths = fetch("langloc")
    words = [f"stim{column}" for column in range(2, 2 + N_WORDS)]
    last = f"stim{2 + N_WORDS}"
    texts, rows = [], []
    for name, path in paths.items():
        match = re.search(r"run(\d+)_stim_set(\d+)", name)
        if match is None:
            raise InputError(
                f"{path} is no localizer file: expected a name with run and set, like ..._run1_stim_set1.csv"
            )
        run, part = int(match[1]), int(match[2])
        frame = read_columns(path, [*words, last])
        conditions = _conditions(frame[last], LOCALIZER_CONDITIONS, last, path)
        listed_texts = [" ".join(row).lower() for row in frame[words].astype(str).itertuples(index=False)]
        if length == "words":
            listed_texts = [" ".join(text.split(" ")[:n_words]) for text in listed_texts]
        elif length == "tokens" and tokenize is not None:
            listed_texts = _matched_in_tokens(listed_texts, conditions, tokenize)
        elif cut is not None:
            listed_texts = [cut(text, max_tokens) for text in listed_texts]
        texts += listed_texts
        rows += [
            {"stimulus": f"run{run}-set{part}-{number:02d}", "condition": condition, "run": run, "set": part}
            for number, condition in enumerate(conditions, start=1)
        ]
    if length == "full":
        return _stimuli("langloc", texts, rows)
    options: dict[str, Any] = {"length": length}
    if length == "words":
        options["n_words"] = n_words
    if tokenize is not None:
        rows = [{**row, "n_tokens": len(tokenize(text))} for row, text in zip(rows, texts, strict=True)]
        options["tokenizer"] = tokenizer if isinstance(tokenizer, str) else getattr(tokenizer, "name_or_path", "given")
    if length == "cut":
        options["max_tokens"] = max_tokens
    return _stimuli("langloc", texts, rows, options)


def _check_length(length: str, n_words: int | None, tokenizer: Any, max_tokens: int) -> None:
    """Raise unless the options of `load_langloc` fit together."""
    require_choice("length of the language localizer", length, LENGTHS)
    if length == "words":
        if n_words is None or not 1 <= n_words <= N_WORDS:
            raise InputError(f"length='words' needs n_words from 1 to {N_WORDS}, got {n_words}")
    elif n_words is not None:
        raise InputError(f"n_words={n_words} belongs to length='words', not to length={length!r}")
    if length in ("tokens", "cut"):
        if tokenizer is None:
            raise InputError(
                f"length={length!r} needs the tokenizer that will read the text: tokenizer='gpt2', or that of the model"
            )
    elif tokenizer is not None:
        raise InputError(f"tokenizer belongs to length='tokens' or 'cut', not to length={length!r}")
    if max_tokens < 1:
        raise InputError(f"max_tokens is 1 or more, got {max_tokens}")
    if length != "cut" and max_tokens != MAX_TOKENS:
        raise InputError(f"max_tokens={max_tokens} belongs to length='cut', not to length={length!r}")


def _matched_in_tokens(texts: Sequence[str], conditions: Sequence[str], tokenize: Tokenizer) -> list[str]:
    """Return the texts of a list, each nonword string cut to about the tokens of the sentence of the same rank."""
    of = {name: [i for i, condition in enumerate(conditions) if condition == name] for name in ("sentence", "nonword")}
    if len(of["sentence"]) != len(of["nonword"]):
        raise InputError(
            f"length='tokens' pairs sentences and nonword strings, got {len(of['sentence'])} and {len(of['nonword'])} of them"
        )
    matched = list(texts)
    left_over = 0
    for sentence, nonword in zip(of["sentence"], of["nonword"], strict=True):
        target = len(tokenize(texts[sentence])) + left_over
        words = texts[nonword].split(" ")
        counts = [len(tokenize(" ".join(words[: n + 1]))) for n in range(len(words))]
        best = min(range(len(words)), key=lambda n: (abs(counts[n] - target), n))
        matched[nonword] = " ".join(words[: best + 1])
        left_over = target - counts[best]
    return matched


def load_swjn() -> StimulusSet:
    """Load sentences, word lists, Jabberwocky sentences and nonword strings: words apart from structure.

    Returns
    -------
    StimulusSet
        640 stimuli of 11 or 12 words, 160 a condition; one text occurs twice in the source and is kept twice. Column
        ``condition``: ``sentence``, ``word_list``, ``jabberwocky``, ``nonword``.

    Raises
    ------
    DataFileError
        The file is missing or altered.
    InputError
        The file lacks a column or holds an unknown condition.
    """
    path = _only("swjn")
    frame = read_columns(path, ["sentence", "condition"])
    conditions = _conditions(frame["condition"], SWJN_CONDITIONS, "condition", path)
    rows = [{"stimulus": f"swjn-{i:03d}", "condition": condition} for i, condition in enumerate(conditions)]
    return _stimuli("swjn", frame["sentence"].astype(str).tolist(), rows)


def load_elli() -> StimulusSet:
    """Load pairs of nouns and pairs of verbs of eight semantic categories.

    Returns
    -------
    StimulusSet
        576 pairs such as "the garage the rink". Columns: ``condition`` (``noun``, ``verb``), ``category`` (``bird``,
        ``mammal``, ``manmade``, ``natural``; ``hand``, ``light``, ``mouth``, ``sound``), ``run`` (``odd``, ``even``),
        ``block``.

    Raises
    ------
    DataFileError
        The file is missing or altered.
    InputError
        The file lacks a column.
    """
    path = _only("elli")
    frame = read_columns(path, ["run", "block", "class", "category", "pair"])
    rows = [
        {"stimulus": f"elli-{i:03d}", "condition": row[2], "category": row[3], "run": row[0], "block": row[1]}
        for i, row in enumerate(frame[["run", "block", "class", "category"]].itertuples(index=False, name=None))
    ]
    return _stimuli("elli", frame["pair"].astype(str).tolist(), rows)


def load_moseley() -> StimulusSet:
    """Load single nouns and verbs, concrete and abstract.

    Returns
    -------
    StimulusSet
        160 words, 40 a combination. Columns: ``condition`` (``noun``, ``verb``), ``category`` (``concrete``,
        ``abstract``).

    Raises
    ------
    DataFileError
        The file is missing or altered.
    InputError
        The file lacks a column.

    References
    ----------
    Moseley & Pulvermueller (2014).
    """
    path = _only("moseley")
    frame = read_columns(path, ["word", "category", "class"])
    rows = [
        {"stimulus": f"moseley-{i:03d}", "condition": row[1], "category": row[0]}
        for i, row in enumerate(frame[["category", "class"]].itertuples(index=False, name=None))
    ]
    return _stimuli("moseley", frame["word"].astype(str).tolist(), rows)


def _only(name: str) -> Path:
    """Return the path of a set that is one file."""
    (path,) = fetch(name).values()
    return path


def _conditions(codes: pd.Series, names: dict[str, str], column: str, path: Path) -> list[str]:
    """Return the conditions of a column of codes, in words."""
    for row, code in enumerate(codes, start=1):
        if code not in names:
            raise InputError(f"row {row} of {path} has {column} {code!r}, expected one of {listed(names)}")
    return [names[code] for code in codes]


def _stimuli(
    name: str, texts: list[str], rows: Sequence[Mapping[str, Any]], options: Mapping[str, Any] | None = None
) -> StimulusSet:
    """Return the set of a name with its source; options that changed it are kept in its name and provenance."""
    import pandas as pd

    manifest, paths = find_manifest(name)
    provenance = {**manifest.provenance(*paths), **(options or {})}
    shown = f"{name}-{options['length']}" if options else name
    return StimulusSet(texts, pd.DataFrame(rows), name=shown, provenance=provenance)
