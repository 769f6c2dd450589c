"""SyntaxGym: sentences in conditions that a grammar tells apart, as whole sentences to be contrasted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from topobrain._checks import DataFileError, InputError, listed, require_choice
from topobrain.stimuli import StimulusSet
from topobrain.store.files import fetch, find_manifest

if TYPE_CHECKING:
    from pathlib import Path

OTHER = "other"
"""Condition of sentences that are on neither side of their suite's contrast, or whose text stands on both."""

_MATCH = {"match_sing": "good", "match_plural": "good", "mismatch_sing": "bad", "mismatch_plural": "bad"}
_LICENSED = {"neg_pos": "good", "neg_neg": "good", "pos_pos": "bad", "pos_neg": "bad"}
_CLEFT = {"np_match": "good", "vp_match": "good", "np_mismatch": "bad", "vp_mismatch": "bad"}
_GAP = {"what_gap": "good", "that_nogap": "good", "what_nogap": "bad", "that_gap": "bad"}
_CLAUSE = {"sub_matrix": "good", "no-sub_no-matrix": "good", "sub_no-matrix": "bad", "no-sub_matrix": "bad"}
_REDUCED = {"reduced_ambig": "ambiguous", "reduced_unambig": "unambiguous"}
_VERB = {"ambig_nocomma": "ambiguous", "unambig_nocomma": "unambiguous"}
_COMMA = {"no-obj_no-comma": "ambiguous", "no-obj_comma": "unambiguous"}

SIDES: dict[str, tuple[str, Mapping[str, str]]] = {
    "center_embed": ("center embedding", {"plaus": "good", "implaus": "bad"}),
    "cleft": ("long-distance dependency", _CLEFT),
    # No sentence whose gap is in the main clause is grammatical here, so those two have no partner.
    "fgd_hierarchy": (
        "long-distance dependency",
        {"what_subjgap": "good", "that_nogap": "good", "what_nogap": "bad", "that_subjgap": "bad"},
    ),
    "fgd": ("long-distance dependency", _GAP),
    "mvrr": ("garden path", _REDUCED),
    "npi": ("licensing", _LICENSED),
    "npz_ambig": ("garden path", _VERB),
    "npz_obj": ("garden path", _COMMA),
    "number": ("agreement", _MATCH),
    "reflexive": ("licensing", _MATCH),
    "subordination": ("gross syntactic state", _CLAUSE),
}
"""Beginning of a suite's name -> its circuit, and the side of each condition.

``good`` and ``bad`` follow from the suite's own predictions: the good sentence is the one in which what the prediction
looks at is expected (agreement, a licensed *any* or *ever*, a reflexive that matches its antecedent, a filler with its gap,
a subordinate clause with its main clause, the verb order that makes sense in a centre embedding). Garden paths are all
grammatical: ``ambiguous`` is the sentence that misleads, ``unambiguous`` the one next to it in words (a participle that
cannot be a main verb; an intransitive verb; a comma); the two other conditions of those suites are ``other``.
"""

CIRCUITS = tuple(dict.fromkeys(circuit for circuit, _ in SIDES.values()))
"""What the suites test, in six groups."""

_OPPOSITE = {"good": "bad", "bad": "good", "ambiguous": "unambiguous", "unambiguous": "ambiguous"}
_BEFORE_MARK = re.compile(r"\s+([,.;:!?]|'s\b)")


def load_syntaxgym(suite: str | Sequence[str] | None = None) -> StimulusSet:
    """Load the sentences of SyntaxGym's suites, joined from their regions.

    Parameters
    ----------
    suite
        One suite or several of the 31, e.g. ``"number_orc"`` (default: all).

    Returns
    -------
    StimulusSet
        3,132 sentences, 2,878 different ones: suites share some. Columns: ``condition`` (``good`` and ``bad``, in
        garden-path suites ``ambiguous`` and ``unambiguous``; ``other`` if on neither side, see `SIDES`, or if the same
        text stands on the opposite side too, as in item 5 of ``mvrr`` and ``mvrr_mod``), ``suite``,
        ``circuit`` (``agreement``, ``licensing``, ``garden path``, ...), ``syntax_condition`` (its name in the suite),
        ``item`` (number within the suite; suites of a family share their items), ``cell`` (circuit and condition,
        "agreement good"), ``half`` (``odd``, ``even`` by the number of the item). As in the source, most sentences have
        no full stop.

    Raises
    ------
    UnknownNameError
        No such suite; near names are offered.
    DataFileError
        A file is missing, altered or no JSON.
    InputError
        A file lacks a field.

    References
    ----------
    Hu et al. (2020) ACL: the suites and their circuits; Gauthier et al. (2020) ACL demonstrations.
    """
    import pandas as pd

    manifest, paths = find_manifest("syntaxgym")
    known = {path.removesuffix(".json"): path for path in paths}
    wanted = list(known) if suite is None else [suite] if isinstance(suite, str) else list(suite)
    if not wanted:
        raise InputError(f"no suite was asked for. Suites: {listed(known, 40)}")
    for name in wanted:
        require_choice("SyntaxGym suite", name, list(known))
    wanted = list(dict.fromkeys(wanted))
    files = fetch("syntaxgym", [known[name] for name in wanted])
    texts: list[str] = []
    rows: list[dict[str, Any]] = []
    for name in wanted:
        for text, row in _sentences(name, files[known[name]]):
            texts.append(text)
            rows.append(row)
    _set_aside(texts, rows)
    provenance = manifest.provenance(*files)
    title = f"syntaxgym-{wanted[0]}" if len(wanted) == 1 else "syntaxgym"
    return StimulusSet(texts, pd.DataFrame(rows), name=title, provenance=provenance)


def sides_of(suite: str) -> tuple[str, Mapping[str, str]]:
    """Return a suite's circuit and the side of its conditions: the entry of `SIDES` with the longest fitting name.

    >>> sides_of("number_orc")[1]["match_sing"]
    'good'

    Raises
    ------
    UnknownNameError
        No family of suites has a name that begins like this.
    """
    fitting = [family for family in SIDES if suite == family or suite.startswith(f"{family}_")]
    require_choice("SyntaxGym suite", suite, [suite] if fitting else list(SIDES))
    return SIDES[max(fitting, key=len)]


def _sentences(suite: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the sentences of a file with their rows of the table."""
    try:
        items = json.loads(path.read_text(encoding="utf-8"))["items"]
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataFileError(f"{path} cannot be read as JSON: {error}") from error
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is no SyntaxGym suite: it has no field 'items'") from error
    circuit, sides = sides_of(suite)
    made = []
    for position, item in enumerate(items, start=1):
        try:
            number = int(item["item_number"])
            conditions = [
                (str(condition["condition_name"]), [str(region["content"]) for region in condition["regions"]])
                for condition in item["conditions"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: item {position} lacks or misspells a field: {error}") from error
        for name, regions in conditions:
            side = sides.get(name, OTHER)
            row = {
                "stimulus": f"{suite}-{number:02d}-{name}",
                "condition": side,
                "suite": suite,
                "circuit": circuit,
                "syntax_condition": name,
                "item": number,
                "cell": f"{circuit} {side}",
                "half": "odd" if number % 2 else "even",
            }
            made.append((join_regions(regions), row))
        missing = set(sides) - {name for name, _ in conditions}
        if missing:
            raise InputError(f"{path}: item {number} lacks the condition {listed(sorted(missing))}")
    return made


def _set_aside(texts: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Make rows ``other`` whose text is on both sides of a contrast: it cannot tell one side from the other."""
    standing = {(text, row["condition"]) for text, row in zip(texts, rows, strict=True)}
    for text, row in zip(texts, rows, strict=True):
        if (text, _OPPOSITE.get(row["condition"])) in standing:
            row |= {"condition": OTHER, "cell": f"{row['circuit']} {OTHER}"}


def join_regions(regions: Sequence[str]) -> str:
    """Return regions as one sentence: single spaces, none before a mark, empty regions left out.

    >>> join_regions(["As the criminal", "shot", "", ",", "the woman", "yelled ."])
    'As the criminal shot, the woman yelled.'
    """
    return _BEFORE_MARK.sub(r"\1", " ".join(" ".join(regions).split()))
