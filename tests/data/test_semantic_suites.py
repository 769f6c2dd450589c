from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import topobrain.data as data
from topobrain._checks import DataFileError, InputError
from topobrain.data.semantic_suites import halves_of


@pytest.mark.parametrize(
    ("name", "n", "conditions", "first"),
    [
        ("eventsrev", 76, {"plausible": 38, "implausible": 38}, "The cop is arresting the criminal."),
        ("dtfit", 790, {"plausible": 395, "implausible": 395}, "The actor won the award."),
        ("eventsadapt", 1564, {"plausible": 782, "implausible": 782}, "The raider caught the illness."),
        ("animacy-fed2020", 100, {"plausible": 50, "implausible": 50}, "The uncle hung the ornament."),
        (
            "ryskin2021",
            640,
            {"control": 160, "semantic_critical": 160, "semantic": 160, "syntactic": 160},
            "Someone who has fought in a war is a veteran",
        ),
        (
            "warren2015",
            90,
            {"possible": 30, "impossible": 30, "selectional_violation": 30},
            "Corey's hamster explored a nearby backpack and filled it with sawdust.",
        ),
    ],
)
def test_counts_of_the_source(name: str, n: int, conditions: dict[str, int], first: str, real_data: Path) -> None:
    stimuli = data.load_stimuli(name)
    assert len(stimuli) == n
    assert Counter(stimuli.column("condition")) == conditions
    assert stimuli.items[0] == first
    assert len(set(stimuli.items)) == n
    assert not any("  " in text or text != text.strip() for text in stimuli.items)
    assert stimuli.provenance["citation"]
    assert len(stimuli.provenance["files"]) == 1


@pytest.mark.parametrize("name", ["eventsrev", "dtfit", "eventsadapt", "animacy-fed2020", "ryskin2021", "warren2015"])
def test_items_never_fall_into_both_halves(name: str, real_data: Path) -> None:
    table = data.load_stimuli(name).table
    assert (table.groupby("item")["half"].nunique() == 1).all()
    assert abs((table["half"] == "odd").mean() - 0.5) < 0.02
    for _, rows in table.groupby("half"):  # and both halves have the conditions equally often
        assert rows["condition"].value_counts().nunique() == 1


def test_events_with_exchanged_agent_and_patient(real_data: Path) -> None:
    stimuli = data.load_stimuli("eventsadapt")
    table = stimuli.table
    assert Counter(table["trial_type"]) == {"AI": 512, "AAN": 516, "AAR": 536}
    assert set(table["voice"]) == {"active", "passive"}
    assert (table.groupby("pair")["condition"].nunique() == 2).all()
    assert len(set(table["pair"])) == 782
    # Synonyms of an item are in its half: "the raider caught the illness", "the marauder contracted the disease".
    assert (table.groupby("group")["half"].nunique() == 1).all()
    assert set(table.groupby("group")["item"].nunique()) == {1, 2}
    pair = stimuli.where(pair="1-active")
    assert pair.items == ("The raider caught the illness.", "The illness caught the raider.")
    # The words of a pair are the same, only their order differs.
    texts = dict(zip(stimuli.ids, stimuli.items, strict=True))
    for item in (1, 100, 300):
        on, off = (texts[f"eventsadapt-{item}-active-{side}"].lower() for side in ("plausible", "implausible"))
        assert sorted(on.rstrip(".").split()) == sorted(off.rstrip(".").split())


def test_ratings_and_subjects_of_the_animacy_pairs(real_data: Path) -> None:
    table = data.load_stimuli("animacy-fed2020").table
    assert Counter(zip(table["condition"], table["subject"], strict=True)) == {
        ("plausible", "animate"): 50,
        ("implausible", "inanimate"): 50,
    }
    assert table["rating"].between(1, 7).all()
    assert (
        table.loc[table["subject"] == "animate", "rating"].min()
        > table.loc[table["subject"] == "inanimate", "rating"].max()
    )
    adapted = data.load_stimuli("eventsadapt").where(trial_type="AI")
    assert set(table["item"]) <= set(adapted.column("item"))
    assert set(data.load_stimuli("animacy-fed2020").items) <= set(adapted.items)


def test_endings_go_with_their_condition(real_data: Path) -> None:
    ryskin = data.load_stimuli("ryskin2021").where(item=6)
    assert [text.split(" by ")[1] for text in ryskin.items] == [
        "administering an antidote", "administering an anecdote", "administering a matinee", "administering an antidotes",
    ]  # fmt: skip
    verbs = [text.split()[2] for text in data.load_stimuli("warren2015").where(item=1).items]
    assert verbs == ["explored", "lifted", "entertained"]


def test_groups_alternate_whole() -> None:
    assert halves_of([3, 3, 1, 3, 2, 1]) == ["odd", "odd", "even", "odd", "odd", "even"]
    assert halves_of([]) == []


def test_a_damaged_file_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    with pytest.raises(DataFileError, match=r"data set 'semantic_suites' lacks clean_DTFit_SentenceSet\.csv"):
        data.load_stimuli("dtfit")
    path = tmp_path / "set.csv"
    monkeypatch.setattr("topobrain.data.semantic_suites.fetch", lambda *_: {"set.csv": path})
    path.write_text("ItemNum,Sentence,Plausibility\n1,A dog.,Plausible\n")
    with pytest.raises(InputError, match=r"set\.csv has no column 'Voice'"):
        data.load_stimuli("eventsrev")
    path.write_text("ItemNum,Sentence,Plausibility,Voice\n1,A dog.,Plausible,active\n1,A cat.,plausibel,active\n")
    with pytest.raises(
        InputError, match=r"row 2 of .*set\.csv has Plausibility 'plausibel', expected one of Plausible"
    ):
        data.load_stimuli("eventsrev")
