"""The language localizer and three further stimulus sets on sentences, nouns and verbs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from topobrain._checks import InputError, listed
from topobrain.data.tables import read_columns
from topobrain.stimuli import StimulusSet
from topobrain.store.files import fetch, find_manifest

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

N_WORDS = 12
"""Words of a localizer stimulus; they stand in the columns stim2 to stim13, the condition in stim14."""

LOCALIZER_CONDITIONS = {"S": "sentence", "N": "nonword"}
SWJN_CONDITIONS = {"S": "sentence", "W": "word_list", "J": "jabberwocky", "N": "nonword"}


def load_langloc() -> StimulusSet:
    """Load the language localizer as it is shown in the scanner, to ask which units answer to language.

    Returns
    -------
    StimulusSet
        240 sentences and 240 nonword strings of 12 words, in lower case. Columns: ``condition`` (``sentence``,
        ``nonword``), ``run`` (1, 2) and ``set`` (1 to 5; a participant sees one set).

    Raises
    ------
    DataFileError
        The files are missing or altered.
    InputError
        A file lacks a column or holds an unknown condition.

    References
    ----------
    Fedorenko et al. (2010) J Neurophysiol 104:1177.
    """
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
        texts += [" ".join(row).lower() for row in frame[words].astype(str).itertuples(index=False)]
        rows += [
            {"stimulus": f"run{run}-set{part}-{number:02d}", "condition": condition, "run": run, "set": part}
            for number, condition in enumerate(conditions, start=1)
        ]
    return _stimuli("langloc", texts, rows)


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


def _stimuli(name: str, texts: list[str], rows: Sequence[Mapping[str, Any]]) -> StimulusSet:
    import pandas as pd

    manifest, paths = find_manifest(name)
    return StimulusSet(texts, pd.DataFrame(rows), name=name, provenance=manifest.provenance(*paths))
