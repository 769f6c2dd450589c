"""Sentiment: sentences and film reviews that praise or blame, to be contrasted as positive minus negative."""

from __future__ import annotations

from typing import Any

import numpy as np

from topobrain._checks import InputError, require_choice
from topobrain.data.corpora import load_imdb_sentiment
from topobrain.data.tables import read_columns
from topobrain.stimuli import StimulusSet
from topobrain.store.files import fetch, find_manifest

PARTS = {
    "sst-train": "stsa_binary_train.tsv",
    "sst-dev": "stsa_binary_dev.tsv",
    "sst-test": "stsa_binary_test.tsv",
    "mr": "rt-polarity_all.tsv",
    "customer-reviews": "custrev_all.tsv",
    "mpqa": "mpqa_all.tsv",
}
"""Sets of sentences labelled 0 (negative) or 1 (positive), and their files."""

CONDITIONS = ("negative", "positive")
"""Names of the labels 0 and 1."""


def load_sentiment(part: str = "sst-test", *, n: int | None = None, seed: int = 0) -> StimulusSet:
    """Load sentences with a sentiment.

    Parameters
    ----------
    part
        ``"sst-train"`` (6,920 sentences of film reviews), ``"sst-dev"`` (872), ``"sst-test"`` (1,821), ``"mr"``
        (10,662, of which SST took its sentences), ``"customer-reviews"`` (3,775 of products), ``"mpqa"`` (10,606
        phrases, often a word or two, 2,361 of them repeated).
    n
        Load only so many of each condition, drawn with the seed, in the order of the file (default: all).
    seed
        Of the draw.

    Returns
    -------
    StimulusSet
        Tokenised sentences in lower case. Column ``condition``: ``positive``, ``negative``; ``half`` (``odd``, ``even``,
        alternating within a condition). Of a text that occurs more than once the first is kept, empty ones are left out:
        ``customer-reviews`` has 3,765 left, ``mpqa`` 8,240, ``sst-train`` 6,911. Accents and dashes that the
        sources garbled are mended.

    Raises
    ------
    UnknownNameError
        No such part.
    DataFileError
        The file is missing or altered.
    InputError
        The file lacks a column, holds another label, or there are not ``n`` sentences of a condition.

    References
    ----------
    Socher et al. (2013) EMNLP: SST; Pang & Lee (2005) ACL: MR; Hu & Liu (2004) KDD: customer reviews; Wiebe et al. (2005):
    MPQA.
    """
    require_choice("part of the sentiment sets", part, list(PARTS))
    path = fetch("sentiment", [PARTS[part]])[PARTS[part]]
    frame = read_columns(path, ["label", "text"], separator="\t")
    first: dict[str, int] = {}
    for row, (label, text) in enumerate(zip(frame["label"], frame["text"].astype(str), strict=True), start=1):
        if str(label) not in ("0", "1"):
            raise InputError(f"row {row} of {path} has label {label!r}, expected 0 (negative) or 1 (positive)")
        if text.strip():
            first.setdefault(mended(text.strip()), int(label))
    manifest, _ = find_manifest("sentiment")
    provenance = {**manifest.provenance(PARTS[part]), "part": part}
    return _stimuli(part, list(first), np.array(list(first.values())), n, seed, provenance)


def load_imdb(split: str = "test", *, n: int | None = 500, n_words: int | None = None, seed: int = 0) -> StimulusSet:
    """Load film reviews with a sentiment, as Topoformer's sentiment contrast (positive minus negative) uses them.

    Parameters
    ----------
    split
        ``"test"`` or ``"train"``; repeated reviews count once, and test reviews that are also in train are left out.
    n
        How many reviews of each condition, drawn with the seed, in the order of the file (None: all, about 12,400).
    n_words
        Keep only the first words of each review (default: all; a review has about 230). Words are what stands between
        blanks; line breaks become blanks then.
    seed
        Of the draw.

    Returns
    -------
    StimulusSet
        Reviews. Column ``condition``: ``positive`` (label 1), ``negative`` (label 0); ``half`` (``odd``, ``even``,
        alternating within a condition).

    Raises
    ------
    UnknownNameError
        No such split.
    DataFileError
        The file is missing, altered or broken.
    InputError
        ``n_words`` is less than 1, or there are not ``n`` reviews of a condition.

    References
    ----------
    Maas et al. (2011) ACL.
    """
    if n_words is not None and n_words < 1:
        raise InputError(f"n_words is 1 or more, got {n_words}")
    require_choice("split of IMDB", split, ("train", "test"))
    texts, labels = load_imdb_sentiment("train" if split == "train" else "test")
    manifest, _ = find_manifest("imdb")
    files = [f"{split}.jsonl.gz"]
    provenance: dict[str, Any] = {**manifest.provenance(*files), "split": split}
    if n_words is not None:
        texts = [" ".join(text.split()[:n_words]) for text in texts]
        provenance["n_words"] = n_words
    return _stimuli(f"imdb-{split}", texts, labels, n, seed, provenance)


def mended(text: str) -> str:
    """Return a text whose letters were read in the wrong encoding as it was written.

    SST's file holds UTF-8 that was read as Latin-1 ("crÃ¨me"), MR's Windows dashes and quotes that were.

    >>> mended("crÃ¨me"), mended("crème")
    ('crème', 'crème')
    """
    if text.isascii():
        return text
    try:
        raw = text.encode("latin-1")
    except UnicodeEncodeError:  # letters that Latin-1 does not have were not read as Latin-1
        return text
    for encoding in ("utf-8", "cp1252"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return text


def _stimuli(
    name: str, texts: list[str], labels: np.ndarray, n: int | None, seed: int, provenance: dict[str, Any]
) -> StimulusSet:
    """Return the drawn texts of both labels, with halves that alternate within a condition."""
    import pandas as pd

    if n is not None:
        generator = np.random.default_rng(seed)
        kept = []
        for label, condition in enumerate(CONDITIONS):
            there = np.flatnonzero(labels == label)
            if not 1 <= n <= len(there):
                raise InputError(f"n={n} texts of each condition: {name} has {len(there)} {condition} ones")
            kept.append(generator.permutation(there)[:n])
        positions = np.sort(np.concatenate(kept))
        provenance = {**provenance, "n": n, "seed": seed}
    else:
        positions = np.arange(len(labels))
    conditions = [CONDITIONS[label] for label in labels[positions]]
    # Alternation within a condition: the file may be sorted by label, or may alternate itself.
    rank = pd.Series(conditions).groupby(conditions).cumcount()
    table = {
        "stimulus": [f"{name}-{position:05d}" for position in positions],
        "condition": conditions,
        "half": ["even" if number % 2 else "odd" for number in rank],
    }
    return StimulusSet([texts[i] for i in positions.tolist()], pd.DataFrame(table), name=name, provenance=provenance)
