"""The Brown corpus with the part of speech of every word."""

from __future__ import annotations

import functools
import gzip
import sys
from pathlib import Path
from typing import NamedTuple

from topobrain._checks import DataFileError, require_choice
from topobrain.store.files import fetch

FILE = "brown_tagged.tsv.gz"


class TaggedSentence(NamedTuple):
    """A sentence as the corpus has it: marks are words of their own.

    Attributes
    ----------
    words, tags
        Words and their Brown tags, in lower case (``nn``, ``vbd``, ``np-tl``, ...), of equal number.
    genre
        One of fifteen (``news``, ``lore``, ``science_fiction``, ...).
    document
        Name of the sample of about 2,000 words (``ca01``, ...).
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    genre: str
    document: str


def load_brown_tagged(genre: str | None = None) -> list[TaggedSentence]:
    """Return the sentences of the Brown corpus in order, each word with its tag.

    Parameters
    ----------
    genre
        One of the fifteen genres (default: all).

    Returns
    -------
    list of TaggedSentence
        57,340 sentences in 500 documents.

    Raises
    ------
    UnknownNameError
        No such genre.
    DataFileError
        The file is missing, altered or broken.

    References
    ----------
    Francis & Kucera (1964), A Standard Corpus of Present-Day Edited American English.
    """
    sentences = read_tagged(fetch("text_corpora", [FILE])[FILE])
    if genre is None:
        return list(sentences)
    require_choice("genre", genre, sorted({sentence.genre for sentence in sentences}))
    return [sentence for sentence in sentences if sentence.genre == genre]


@functools.lru_cache(maxsize=1)  # a file of the store has one right content, so its path names it
def read_tagged(path: Path) -> tuple[TaggedSentence, ...]:
    """Return every line of a file of tagged sentences: document, genre and ``word/tag`` pairs, between tabs."""
    found = []
    apart: dict[str, tuple[str, str]] = {}  # a million pairs of which few differ: each is taken apart once and shared
    broken = False
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                fields = line.rstrip("\n").split("\t")
                pairs = fields[-1].split(" ")
                for pair in pairs:
                    if pair not in apart:
                        word, _, tag = pair.rpartition("/")
                        apart[pair] = word, tag
                        broken = broken or not word or not tag
                if broken or len(fields) != 3:
                    raise DataFileError(f"line {number} of {path} is not 'document, genre, word/tag ...' between tabs")
                words, tags = zip(*[apart[pair] for pair in pairs], strict=True)
                document, genre, _ = fields
                found.append(TaggedSentence(words, tags, sys.intern(genre), sys.intern(document)))
    except DataFileError:
        raise
    except (OSError, EOFError, ValueError) as error:
        raise DataFileError(f"{path} cannot be read as tagged text: {error}") from error
    return tuple(found)
