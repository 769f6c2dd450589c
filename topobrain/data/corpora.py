"""Text corpora: each a list of documents."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from typing import Literal

import numpy as np

from topobrain._checks import DataFileError, InputError, listed, require_choice
from topobrain.store.files import fetch

BLANK_LINE = re.compile(r"\n\s*\n")
LINE_BREAK = re.compile(r"(?:<br\s*/?>\s*)+", re.IGNORECASE)


def load_brown() -> list[str]:
    """Return the Brown corpus: 500 documents of about 2,000 words, one sentence a line."""
    return _documents("brown")


def load_wikitext2() -> list[str]:
    """Return the validation part of WikiText-2: headings and paragraphs, rare words as ``<unk>``."""
    return _documents("wikitext2")


def load_tinyshakespeare() -> list[str]:
    """Return Shakespeare's plays: one speech a document, the speaker's name on its first line."""
    return _documents("tinyshakespeare")


def load_abc() -> list[str]:
    """Return rural and science news of the Australian Broadcasting Commission: one item a document."""
    return _documents("abc")


def load_webtext() -> list[str]:
    """Return text of the web: bug reports, forum posts, overheard speech, a film script, reviews."""
    return _documents("webtext")


def load_inaugural() -> list[str]:
    """Return the inaugural addresses of presidents of the United States, one paragraph a document."""
    return _documents("inaugural")


def load_state_union() -> list[str]:
    """Return State of the Union addresses from 1945 on, one section a document."""
    return _documents("state_union")


def load_movie_reviews() -> list[str]:
    """Return 2,000 film reviews, tokenised and in lower case, one sentence a line."""
    return _documents("movie_reviews")


def load_imdb(split: Literal["train", "test", "unsup"] = "train") -> list[str]:
    """Return IMDB film reviews, one review a document; the pages' ``<br />`` become line breaks.

    Parameters
    ----------
    split
        ``"train"`` (25,000 reviews), ``"test"`` (25,000) or ``"unsup"`` (50,000 without a rating). 123 texts occur both
        in train and in test: remove them before claiming test accuracy.

    Raises
    ------
    UnknownNameError
        No such split.
    DataFileError
        The file is missing, altered or broken.
    InputError
        A line has no text (file and line are named).
    """
    return [text for text, _ in _imdb_reviews(split) if text]


def load_imdb_sentiment(split: Literal["train", "test"] = "train") -> tuple[list[str], np.ndarray]:
    """Return IMDB film reviews with their sentiment.

    Parameters
    ----------
    split
        ``"train"`` or ``"test"``. Repeated reviews count once, and test reviews that are also in train are left out.

    Returns
    -------
    texts, labels
        Reviews in the order of the file, and 1 for positive, 0 for negative ones (review,).

    Raises
    ------
    UnknownNameError
        No such split.
    DataFileError
        The file is missing, altered or broken.
    """
    require_choice("split", split, ("train", "test"))
    seen = {text for text, _ in _imdb_reviews("train")} if split == "test" else set()
    texts, labels = [], []
    for text, label in _imdb_reviews(split):
        if text and text not in seen:
            seen.add(text)
            texts.append(text)
            labels.append(label)
    return texts, np.array(labels)


def _imdb_reviews(split: str) -> Iterator[tuple[str, int]]:
    """Yield every review of a file with its label (1 positive, 0 negative, -1 unknown)."""
    require_choice("split", split, ("train", "test", "unsup"))
    name = f"{split}.jsonl.gz"
    path = fetch("imdb", [name])[name]
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                fields = json.loads(line)
                if "text" not in fields:
                    raise InputError(f"line {number} of {path} has no field 'text'. Fields: {listed(fields)}")
                yield LINE_BREAK.sub("\n", fields["text"]).strip(), int(fields.get("label", -1))
    except InputError:  # also a ValueError, like a broken line below
        raise
    except (OSError, EOFError, ValueError) as error:
        raise DataFileError(f"{path} cannot be read as JSON lines: {error}") from error


def _documents(name: str) -> list[str]:
    """Return what stands between the blank lines of a corpus that is one UTF-8 file."""
    (path,) = fetch(name).values()
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataFileError(f"{path} is not UTF-8 text: {error}") from error
    return [document.strip() for document in BLANK_LINE.split(text) if document.strip()]
