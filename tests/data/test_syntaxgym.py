from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

import topobrain.data as data
from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.data.syntaxgym import CIRCUITS, OTHER, join_regions, sides_of


def test_every_suite_is_there(real_data: Path) -> None:
    stimuli = data.load_stimuli("syntaxgym")
    table = stimuli.table
    assert len(stimuli) == 3132
    assert len(set(stimuli.items)) == 2878
    assert len(set(table["suite"])) == 31
    assert set(table["circuit"]) == set(CIRCUITS)
    assert Counter(table["condition"]) == {"good": 1238, "bad": 1238, "ambiguous": 150, "unambiguous": 150, OTHER: 356}
    sizes = table.groupby("suite")["item"].nunique()
    assert sizes["number_orc"] == 19
    assert sizes["cleft"] == 40
    assert len(stimuli.provenance["files"]) == 31


def test_every_item_is_balanced(real_data: Path) -> None:
    table = data.load_stimuli("syntaxgym").table
    counts = table.groupby(["suite", "item"])["condition"].value_counts().unstack(fill_value=0)
    assert (counts["good"] == counts["bad"]).all()
    assert (counts["ambiguous"] == counts["unambiguous"]).all()
    sided = (counts["good"] > 0) ^ (counts["ambiguous"] > 0)
    assert sided.index[~sided].tolist() == [("mvrr", 5), ("mvrr_mod", 5)]  # one text on both sides: set aside


def test_no_text_is_on_both_sides_of_a_contrast(real_data: Path) -> None:
    stimuli = data.load_stimuli("syntaxgym")
    sides: dict[str, set[str]] = {}
    for text, side in zip(stimuli.items, stimuli.column("condition"), strict=True):
        sides.setdefault(text, set()).add(side)
    for on, off in (("good", "bad"), ("ambiguous", "unambiguous")):
        assert not [text for text, found in sides.items() if {on, off} <= found]


def test_a_text_on_both_sides_is_set_aside_and_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def item(number: int, **texts: str) -> dict[str, object]:
        conditions = [{"condition_name": name, "regions": [{"content": text}]} for name, text in texts.items()]
        return {"item_number": number, "conditions": conditions}

    path = tmp_path / "cleft.json"
    items = [
        item(1, np_match="one", np_mismatch="two", vp_match="three", vp_mismatch="one"),
        item(2, np_match="four", np_mismatch="five", vp_match="four", vp_mismatch="two"),
    ]
    path.write_text(json.dumps({"items": items}))
    monkeypatch.setattr("topobrain.data.syntaxgym.fetch", lambda *_: {"cleft.json": path})
    monkeypatch.setattr("topobrain.store.manifest.Manifest.provenance", lambda *_: {}, raising=True)
    table = data.load_stimuli("syntaxgym", suite="cleft").table
    assert table["condition"].tolist() == [OTHER, "bad", "good", OTHER, "good", "bad", "good", "bad"]
    assert table["cell"].tolist()[0] == f"long-distance dependency {OTHER}"


def test_the_sides_follow_the_suites_own_predictions(real_data: Path) -> None:
    """A prediction ``(7;%match_sing%) < (7;%mismatch_sing%)`` says which of two is the less surprising: the good one."""
    checked = 0
    for suite in sorted(path.stem for path in (real_data / "syntaxgym").glob("*.json")):
        contents = json.loads((real_data / "syntaxgym" / f"{suite}.json").read_text())
        _, sides = sides_of(suite)
        for prediction in contents["predictions"]:
            for left, sign, right in re.findall(r"%([^%]+)%\)\s*([<>])\s*\(\d+;%([^%]+)%\)", prediction["formula"]):
                less, more = (left, right) if sign == "<" else (right, left)
                if {sides.get(less), sides.get(more)} == {"good", "bad"}:
                    assert (sides[less], sides[more]) == ("good", "bad"), (suite, less, more)
                    checked += 1
                elif sides.get(more) == "ambiguous":
                    checked += 1
                else:
                    assert "ambiguous" not in sides.values()
    assert checked == 58


@pytest.mark.parametrize(
    ("suite", "condition", "side", "text"),
    [
        ("number_orc", "match_sing", "good", "The author that the senators hurt is good"),
        ("number_orc", "mismatch_sing", "bad", "The author that the senators hurt are good"),
        ("npi_src_ever", "pos_neg", "bad", "The author that liked no senators has ever been popular"),
        ("fgd_subject", "what_gap", "good", "I know who grabbed the food in front of the guests at the holiday party"),
        ("cleft", "vp_mismatch", "bad", "What he ate was prepare the meal"),
        ("npz_obj", "no-obj_comma", "unambiguous", "As the criminal shot, the woman yelled at the top of her lungs"),
        ("npz_obj", "obj_comma", "other", "As the criminal shot his gun, the woman yelled at the top of her lungs"),
        ("subordination", "sub_no-matrix", "bad", "As the doctor studied the book."),
        ("subordination", "sub_matrix", "good", "As the doctor studied the book, the nurse walked into the room."),
    ],
)
def test_a_sentence_of_each_kind(suite: str, condition: str, side: str, text: str, real_data: Path) -> None:
    stimuli = data.load_stimuli("syntaxgym", suite=suite).where(syntax_condition=condition, item=1)
    assert stimuli.items == (text,)
    assert stimuli.column("condition").tolist() == [side]


def test_no_sentence_has_a_stray_blank(real_data: Path) -> None:
    for text in data.load_stimuli("syntaxgym").items:
        assert not re.search(r"\s\s|^\s|\s$|\s[,.;:!?']", text), text


def test_sentences_shared_by_suites_are_in_one_half(real_data: Path) -> None:
    stimuli = data.load_stimuli("syntaxgym")
    halves: dict[str, set[str]] = {}
    for text, half in zip(stimuli.items, stimuli.column("half"), strict=True):
        halves.setdefault(text, set()).add(half)
    assert all(len(found) == 1 for found in halves.values())


def test_one_suite_or_several(real_data: Path) -> None:
    assert data.load_stimuli("syntaxgym", suite="cleft").name == "syntaxgym-cleft"
    both = data.load_stimuli("syntaxgym", suite=["mvrr", "cleft", "mvrr"])
    assert list(dict.fromkeys(both.column("suite"))) == ["mvrr", "cleft"]
    assert sorted(both.provenance["files"]) == ["cleft.json", "mvrr.json"]
    with pytest.raises(UnknownNameError, match=r"unknown SyntaxGym suite 'number_org'\. Did you mean 'number_orc'"):
        data.load_stimuli("syntaxgym", suite="number_org")
    with pytest.raises(InputError, match=r"no suite was asked for"):
        data.load_stimuli("syntaxgym", suite=[])


def test_regions_are_joined_as_written() -> None:
    assert join_regions(["The teacher 's", "", " class ", ", they say", "."]) == "The teacher's class, they say."
    assert join_regions(["one", "two"]) == "one two"


def test_the_longest_family_name_counts() -> None:
    assert set(sides_of("fgd_hierarchy")[1]) == {"what_subjgap", "that_nogap", "what_nogap", "that_subjgap"}
    assert "what_gap" in sides_of("fgd_object")[1]
    with pytest.raises(UnknownNameError):
        sides_of("numbers")


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("{", DataFileError, r"cleft\.json cannot be read as JSON"),
        ("{}", InputError, r"cleft\.json is no SyntaxGym suite: it has no field 'items'"),
        ('{"items": [{"item_number": 1}]}', InputError, r"item 1 lacks or misspells a field: 'conditions'"),
        ('{"items": [{"item_number": 1, "conditions": []}]}', InputError, r"item 1 lacks the condition np_match"),
    ],
)
def test_a_damaged_suite_is_explained(
    content: str, error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cleft.json"
    path.write_text(content)
    monkeypatch.setattr("topobrain.data.syntaxgym.fetch", lambda *_: {"cleft.json": path})
    with pytest.raises(error, match=message):
        data.load_stimuli("syntaxgym", suite="cleft")
