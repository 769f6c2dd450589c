"""Plausibility and animacy: pairs of sentences whose words are the same, or nearly, and whose events are not."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from topobrain._checks import InputError, listed
from topobrain.data.tables import read_columns
from topobrain.stimuli import StimulusSet
from topobrain.store.files import fetch, find_manifest

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

PLAUSIBILITY = {"Plausible": "plausible", "Implausible": "implausible"}
TRIAL_TYPES = {"AI": "animate-inanimate", "AAN": "animate-animate", "AAR": "reversible"}
"""EventsAdapt: who does what to whom, in words. In reversible events both sentences are plausible."""

RYSKIN = {"Control": "control", "SemCrit": "semantic_critical", "Sem": "semantic", "Synt": "syntactic"}
WARREN = {
    "verb_possible": "possible",
    "verb_impossible_no_SRV": "impossible",
    "verb_impossible_SRV": "selectional_violation",
}


def load_eventsrev() -> StimulusSet:
    """Load events of two people in the usual and in the reversed roles ("The cop is arresting the criminal.").

    Returns
    -------
    StimulusSet
        76 sentences, 38 pairs. Columns: ``condition`` (``plausible``, ``implausible``), ``item``, ``voice``, ``pair``
        (the two sentences that are compared), ``half`` (``odd``, ``even``; whole items).

    Raises
    ------
    DataFileError
        The file is missing or altered.
    InputError
        The file lacks a column or holds an unknown condition.

    References
    ----------
    Ivanova et al. (2021); Kauf et al. (2023) Cognitive Science 47:e13386.
    """
    return _load_pairs("eventsrev", ())


def load_dtfit() -> StimulusSet:
    """Load sentences with a typical or an untypical patient ("The actor won the award / battle.").

    Returns
    -------
    StimulusSet
        790 sentences, 395 pairs that differ in the last word. Columns as in `load_eventsrev`. An implausible sentence
        of this set is unusual, not impossible.

    Raises
    ------
    DataFileError
        The file is missing or altered.
    InputError
        The file lacks a column or holds an unknown condition.

    References
    ----------
    Vassallo et al. (2018); Kauf et al. (2023) Cognitive Science 47:e13386.
    """
    return _load_pairs("dtfit", ())


def load_eventsadapt() -> StimulusSet:
    """Load events with exchanged agent and patient, active and passive, with synonyms.

    Returns
    -------
    StimulusSet
        1,564 sentences: 391 items, each plausible and implausible, active and passive. Columns as in `load_eventsrev`,
        and ``trial_type`` (``AI``: a person and a thing, so that the exchange is impossible, 128 items; ``AAN``: two
        people, unlikely, 129; ``AAR``: two people and a reversible event, 134: both sentences are plausible there, and
        the label only says which is the original), ``cell`` (trial type and condition, "AI plausible"), ``group`` (items
        that are synonyms of each other share it, and a ``half``).

    Raises
    ------
    DataFileError
        The file is missing or altered.
    InputError
        The file lacks a column or holds an unknown condition.

    References
    ----------
    Fedorenko et al. (2020) Cognition 203:104348; Kauf et al. (2023) Cognitive Science 47:e13386.
    """
    return _load_pairs("eventsadapt", ("TrialType", "SynonymPair", "NumSyn"))


def load_animacy_fed2020() -> StimulusSet:
    """Load sentences whose subject is a person or, agent and patient exchanged, a thing; people rated all of them.

    Returns
    -------
    StimulusSet
        100 sentences, 50 pairs ("The uncle hung the ornament." "The ornament hung the uncle."). Columns: ``condition``
        (``plausible``, ``implausible``), ``subject`` (``animate``, ``inanimate``; the octopus and the turkey are things
        here: they are eaten), ``rating`` (mean plausibility, 1 to 7), ``item`` (as in EventsAdapt, of which these are the
        items whose ratings are furthest apart), ``pair``, ``half``. Animacy of the subject and plausibility are one and
        the same in these pairs; the words are equal.

    Raises
    ------
    DataFileError
        The file is missing or altered.
    InputError
        The file lacks a column.

    References
    ----------
    Fedorenko et al. (2020) Cognition 203:104348.
    """
    path = _only("animacy-fed2020")
    frame = read_columns(path, ["ItemNum", "PlausScore", "ImplausScore", "PlausSentence", "ImplausSentence"])
    halves = halves_of(frame["ItemNum"].tolist())
    texts, rows = [], []
    for half, row in zip(halves, frame.to_dict("records"), strict=True):
        for condition, short, subject in (("plausible", "Plaus", "animate"), ("implausible", "Implaus", "inanimate")):
            texts.append(str(row[f"{short}Sentence"]).strip())
            rows.append(
                {
                    "stimulus": f"animacy-{row['ItemNum']}-{condition}",
                    "condition": condition,
                    "subject": subject,
                    "rating": float(row[f"{short}Score"]),
                    "item": int(row["ItemNum"]),
                    "pair": str(row["ItemNum"]),
                    "half": half,
                }
            )
    return _stimuli("animacy-fed2020", texts, rows)


def load_ryskin2021() -> StimulusSet:
    """Load sentence beginnings with four endings: fitting, mistaken for a like word, unrelated, wrong in number.

    Returns
    -------
    StimulusSet
        640 sentences, 160 beginnings. Columns: ``condition`` (``control``: the word that fits; ``semantic_critical``: a
        word that sounds like it and does not fit, "an antidote / an anecdote"; ``semantic``: an unrelated word;
        ``syntactic``: the fitting word in another number), ``item``, ``half``. The source has no full stops.

    Raises
    ------
    DataFileError
        The file is missing or altered.
    InputError
        The file lacks a column.

    References
    ----------
    Ryskin et al. (2021).
    """
    return _load_continuations("ryskin2021", RYSKIN)


def load_warren2015() -> StimulusSet:
    """Load sentences with a possible verb, an impossible one, and one that its subject or object rules out.

    Returns
    -------
    StimulusSet
        90 sentences, 30 items. Columns: ``condition`` (``possible``; ``impossible``: nothing forbids the words to go
        together, but the event cannot be, "Corey's hamster lifted a nearby backpack"; ``selectional_violation``: the
        verb takes no such object, "entertained a nearby backpack"), ``item``, ``half``.

    Raises
    ------
    DataFileError
        The file is missing or altered.
    InputError
        The file lacks a column.

    References
    ----------
    Warren et al. (2015).
    """
    return _load_continuations("warren2015", WARREN)


def halves_of(groups: Sequence[Hashable]) -> list[str]:
    """Return ``odd`` or ``even`` for each element: groups alternate in the order of their first element.

    All elements of a group (a pair, an item) fall into the same half, so that what is measured in one half was not seen
    in the other.

    >>> halves_of(["a", "a", "b", "c", "b"])
    ['odd', 'odd', 'even', 'odd', 'even']
    """
    rank = {group: position for position, group in enumerate(dict.fromkeys(groups))}
    return ["even" if rank[group] % 2 else "odd" for group in groups]


def _load_pairs(name: str, more: Sequence[str]) -> StimulusSet:
    """Load one of the sets with a row a sentence; ``more`` are the further columns of EventsAdapt."""
    path = _only(name)
    frame = read_columns(path, ["ItemNum", "Sentence", "Plausibility", "Voice", *more])
    conditions = _named(frame["Plausibility"], PLAUSIBILITY, "Plausibility", path)
    if more:
        _named(frame["TrialType"], TRIAL_TYPES, "TrialType", path)
        # Items without a synonym are a group of their own.
        groups = [
            f"synonyms-{synonyms}" if str(synonyms).strip() not in ("", "NA") else f"item-{item}"
            for item, synonyms in zip(frame["ItemNum"], frame["SynonymPair"], strict=True)
        ]
    else:
        groups = [f"item-{item}" for item in frame["ItemNum"]]
    rows = []
    for condition, group, half, row in zip(
        conditions, groups, halves_of(groups), frame.to_dict("records"), strict=True
    ):
        pair = f"{row['ItemNum']}-{row['Voice']}"
        fields = {
            "stimulus": f"{name}-{pair}-{condition}",
            "condition": condition,
            "item": int(row["ItemNum"]),
            "voice": row["Voice"],
            "pair": pair,
            "half": half,
        }
        if more:
            fields |= {"trial_type": row["TrialType"], "cell": f"{row['TrialType']} {condition}", "group": group}
        rows.append(fields)
    return _stimuli(name, [str(text).strip() for text in frame["Sentence"]], rows)


def _load_continuations(name: str, endings: Mapping[str, str]) -> StimulusSet:
    """Load one of the sets with a row a beginning and a column an ending."""
    path = _only(name)
    frame = read_columns(path, ["item_id", "prefix", *endings])
    rest = "rest" in frame.columns
    texts, rows = [], []
    for half, row in zip(halves_of(frame["item_id"].tolist()), frame.to_dict("records"), strict=True):
        for column, condition in endings.items():
            parts = [row["prefix"], row[column], *([row["rest"]] if rest else [])]
            texts.append(" ".join(str(part).strip() for part in parts))
            item = int(row["item_id"])
            rows.append(
                {"stimulus": f"{name}-{item:03d}-{condition}", "condition": condition, "item": item, "half": half}
            )
    return _stimuli(name, texts, rows)


def _only(name: str) -> Path:
    (path,) = fetch(name).values()
    return path


def _named(codes: pd.Series, names: Mapping[str, str], column: str, path: Path) -> list[str]:
    """Return the names of a column of codes, or raise with the row that holds another."""
    for row, code in enumerate(codes, start=1):
        if code not in names:
            raise InputError(f"row {row} of {path} has {column} {code!r}, expected one of {listed(names)}")
    return [names[code] for code in codes]


def _stimuli(name: str, texts: list[str], rows: Sequence[Mapping[str, Any]]) -> StimulusSet:
    import pandas as pd

    manifest, paths = find_manifest(name)
    return StimulusSet(texts, pd.DataFrame(rows), name=name, provenance=manifest.provenance(*paths))
