"""Length and frequency of a sentence's words: the baseline that a language model has to beat."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from topobrain._checks import InputError
from topobrain.activations import Activations
from topobrain.stimuli import StimulusSet

NAME = "length and frequency"

FEATURES = (
    "n_words",
    "n_characters",
    "mean_word_length",
    "longest_word",
    "shortest_word",
    "sd_word_length",
    "last_word_length",
    "mean_log_frequency",
    "lowest_log_frequency",
    "highest_log_frequency",
    "sd_log_frequency",
    "last_word_log_frequency",
    "share_of_unseen_words",
)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", text.lower())


def length_and_frequency(stimuli: StimulusSet, corpus: list[str], *, corpus_name: str) -> Activations:
    """Return 13 length and word-frequency features of each stimulus, as activations of one layer ``features``.

    Parameters
    ----------
    stimuli
        Texts.
    corpus
        Texts whose word counts give the frequencies; log10 of counts per million, plus one for every word.
    corpus_name
        Name of the corpus, for provenance.

    Returns
    -------
    Activations
        One layer ``features`` with the columns of `FEATURES`, in that order, without layout.
    """
    counts = Counter(word for text in corpus for word in _words(text))
    total = sum(counts.values())
    if total == 0:
        raise InputError(f"corpus {corpus_name!r} has no words")
    rows = []
    for text in stimuli.texts:
        words = _words(text) or [text.strip()]
        length = np.array([len(word) for word in words], dtype=float)
        frequency = np.log10(np.array([counts[word] + 1 for word in words]) / total * 1e6)
        rows.append(
            [
                len(words),
                len(text),
                length.mean(),
                length.max(),
                length.min(),
                length.std(),
                length[-1],
                frequency.mean(),
                frequency.min(),
                frequency.max(),
                frequency.std(),
                frequency[-1],
                float(np.mean([counts[word] == 0 for word in words])),
            ]
        )
    fields = {"model": {"name": NAME, "features": list(FEATURES), "frequencies_from": corpus_name}}
    return Activations.from_arrays({"features": np.array(rows)}, stimuli, provenance=fields)
