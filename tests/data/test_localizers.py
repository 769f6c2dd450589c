from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import topobrain.data as data
from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.data.localizers import LOCALIZERS, ODD_EVEN, Localizer
from topobrain.stimuli import Contrast, StimulusSet

FAST = {name: {"size": 8, "n_per_category": 12} for name in ("floc", "floc-animacy", "floc-size")}
"""Options that make a localizer quick to load: a twelfth of the 144 images of each category."""

SUITES = (
    "intactness",
    "animacy",
    "concreteness",
    "visuomotor",
    "acceptability",
    "agreement",
    "licensing",
    "gardenpath",
)
GENERATED = (*SUITES, "multiple-demand")


# --- the list


def test_the_list_reads_no_stimuli(store: Path) -> None:
    table = data.list_localizers()
    assert list(table.columns) == ["name", "title", "kind", "conditions", "n", "access", "status"]
    assert table["name"].tolist() == list(LOCALIZERS)
    rows = table.set_index("name")
    assert rows.loc["language", ["conditions", "n", "status"]].tolist() == ["sentence, nonword", 480, "missing"]
    assert rows.loc["theory-of-mind", ["access", "status"]].tolist() == ["request", "missing"]
    assert set(rows.loc[list(GENERATED), "status"]) == {"generated"}
    assert set(table["kind"]) == {"text", "image"}
    assert set(rows.index[rows["kind"] == "image"]) == {"floc", "floc-animacy", "floc-size", "objects92"}


@pytest.mark.slow
def test_the_list_sees_what_is_in_the_store(real_data: Path) -> None:
    rows = data.list_localizers().set_index("name")
    assert rows.loc["language", "status"] == "verified"


# --- every localizer


@pytest.mark.parametrize("name", [name for name in LOCALIZERS if name != "theory-of-mind" and name not in GENERATED])
@pytest.mark.slow
def test_every_localizer_of_the_store_is_what_the_list_says(name: str, real_data: Path) -> None:
    check(name, data.load_localizer(name, **FAST.get(name, {})), share=1 / 12 if name in FAST else 1)


@pytest.mark.parametrize("name", GENERATED)
def test_every_generated_localizer_is_what_the_list_says(name: str, store: Path) -> None:
    check(name, data.load_localizer(name))


def check(name: str, localizer: Localizer, share: float = 1) -> None:
    recipe = LOCALIZERS[name]
    stimuli = localizer.stimuli
    assert len(stimuli) == recipe.n * share
    assert localizer.title == recipe.title
    assert localizer.reference
    compared = {value for contrast in localizer.contrasts for value in contrast.on + contrast.off}
    used = {part for value in compared for part in (value, *value.split(" "))}
    assert set(recipe.conditions) <= used
    assert len({contrast.name for contrast in localizer.contrasts}) == len(localizer.contrasts)
    for contrast in localizer.contrasts:
        labels = stimuli.column(contrast.by)
        on, off = contrast.masks(labels)
        assert not (on & off).any()
        # Enough on each side of every part that is held out, and of what is left, to select and to measure.
        for part in parts(localizer, labels):
            for side in (on, off):
                assert (side & part).sum() >= 2
                assert (side & ~part).sum() >= 2


def parts(localizer: Localizer, labels: np.ndarray) -> list[np.ndarray]:
    if localizer.split != ODD_EVEN:
        values = localizer.stimuli.column(localizer.split)
        return [values == value for value in set(values.tolist())]
    odd = np.zeros(len(labels), dtype=bool)
    for value in set(labels.tolist()):
        odd[np.flatnonzero(labels == value)[::2]] = True
    return [odd, ~odd]


@pytest.mark.slow
def test_matched_sentences_stay_in_one_half(real_data: Path) -> None:
    for name, column in [("agreement", "quartet"), ("animacy", "item"), ("blimp", "pair"), ("plausibility", "group")]:
        table = data.load_localizer(name).stimuli.table
        assert (table.groupby(column)["half"].nunique() == 1).all(), name
        assert table["half"].nunique() == 2


@pytest.mark.parametrize("name", SUITES)
def test_the_contrasts_of_the_suites_are_the_suites_own(name: str) -> None:
    from topobrain.data.suites import suite_contrast

    assert LOCALIZERS[name].contrasts == (suite_contrast(name),)


# --- options and contrasts of single localizers


def test_options_reach_the_stimuli(real_data: Path) -> None:
    shortened = data.load_localizer("language", length="words", n_words=6)
    assert {len(text.split()) for text in shortened.stimuli.items} == {6}
    assert data.load_localizer("animacy", n=40).stimuli.provenance["suite"] == "animacy"


def test_profiles_of_sentences_word_lists_jabberwocky_and_nonwords(real_data: Path) -> None:
    names = [contrast.name for contrast in data.load_localizer("swjn").contrasts]
    assert names == ["sentence-nonword", "sentence-word_list", "jabberwocky-nonword", "word_list-nonword"]


def test_nouns_and_verbs_apart_for_concrete_and_abstract_words(real_data: Path) -> None:
    localizer = data.load_localizer("noun-verb-words")
    contrast = localizer.contrast("abstract noun-verb")
    on, off = contrast.masks(localizer.stimuli.column(contrast.by))
    assert (on.sum(), off.sum()) == (40, 40)
    assert set(localizer.stimuli.column("category")[on | off]) == {"abstract"}


def test_reversible_events_are_not_part_of_plausibility(real_data: Path) -> None:
    localizer = data.load_localizer("plausibility")
    main = localizer.contrast()
    on, off = main.masks(localizer.stimuli.column(main.by))
    assert on.sum() == off.sum() == 2 * (128 + 129)
    assert set(localizer.stimuli.column("trial_type")[on | off]) == {"AI", "AAN"}
    for suite, names in {
        "eventsrev": ["plausibility"],
        "dtfit": ["plausibility"],
        "ryskin2021": ["semantic", "semantic_critical", "syntactic"],
        "warren2015": ["possible-impossible", "impossible", "selectional_violation"],
    }.items():
        assert [contrast.name for contrast in data.load_localizer("plausibility", suite=suite).contrasts] == names


@pytest.mark.parametrize(("by", "n_groups"), [("field", 4), ("linguistics_term", 13), ("uid", 67)])
@pytest.mark.slow
def test_minimal_pairs_by_group(by: str, n_groups: int, real_data: Path) -> None:
    localizer = data.load_localizer("blimp", by=by, n_pairs=4)
    assert len(localizer.stimuli) == 67 * 4 * 2
    assert len(localizer.contrasts) == n_groups + 1
    table = localizer.stimuli.table
    assert (table.groupby("pair")["condition"].nunique() == 2).all()
    assert (table.groupby(["uid", "half"])["condition"].count() == 4).all()


@pytest.mark.slow
def test_minimal_pairs_are_drawn_with_the_seed(real_data: Path) -> None:
    draws = [data.load_localizer("blimp", uid="adjunct_island", n_pairs=10, seed=seed).stimuli for seed in (0, 0, 1)]
    assert draws[0].digest() == draws[1].digest() != draws[2].digest()
    every = data.load_localizer("blimp", uid="adjunct_island", n_pairs=None)
    assert len(every.stimuli) == 2000
    with pytest.raises(InputError, match=r"n_pairs is 2 to 1000 for the paradigm 'adjunct_island', got 1001"):
        data.load_localizer("blimp", uid="adjunct_island", n_pairs=1001)
    with pytest.raises(UnknownNameError, match=r"unknown grouping of BLiMP 'term'\. Did you mean 'linguistics_term'"):
        data.load_localizer("blimp", by="term")


def test_suites_of_syntaxgym_have_the_contrasts_they_can_have(real_data: Path) -> None:
    whole = data.load_localizer("syntaxgym")
    assert [contrast.name for contrast in whole.contrasts][:2] == ["grammaticality", "ambiguity"]
    assert len(whole.contrasts) == 2 + 5
    garden = data.load_localizer("syntaxgym", suite=["mvrr", "npz_obj"])
    assert [contrast.name for contrast in garden.contrasts] == ["ambiguity"]
    with pytest.raises(UnknownNameError, match=r"unknown contrast of localizer 'syntaxgym' 'grammaticality'"):
        garden.contrast("grammaticality")
    one = data.load_localizer("syntaxgym", suite="number_orc")
    assert [contrast.name for contrast in one.contrasts] == ["grammaticality", "agreement"]


def test_syntaxgym_shows_every_text_once_and_in_its_contrast(real_data: Path) -> None:
    source, shown = data.load_stimuli("syntaxgym"), data.load_localizer("syntaxgym").stimuli
    assert (len(source), len(shown)) == (3132, 2878)
    assert len(set(shown.items)) == len(shown)
    assert set(shown.items) == set(source.items)
    # A text that is on a side anywhere keeps it: only copies go.
    for condition in ("good", "bad", "ambiguous", "unambiguous"):
        assert set(shown.where(condition=condition).items) == set(source.where(condition=condition).items)
    counts = shown.table["condition"].value_counts().to_dict()
    assert counts == {"good": 1142, "bad": 1160, "ambiguous": 112, "unambiguous": 150, "other": 314}
    # Alone, a suite keeps what another one would have held a copy of.
    assert len(data.load_localizer("syntaxgym", suite="npz_obj").stimuli) == 96


@pytest.mark.slow
def test_no_minimal_pair_has_one_text_on_both_sides(real_data: Path) -> None:
    source = data.load_stimuli("blimp")
    equal = [first == second for first, second in zip(source.items[::2], source.items[1::2], strict=True)]
    assert sum(equal) == 7
    paradigms = source.column("uid")[::2][equal]
    assert sorted(paradigms.tolist()) == ["passive_1"] * 2 + ["principle_A_case_2"] * 5
    shown = data.load_localizer("blimp").stimuli
    assert not set(shown.where(condition="good").items) & set(shown.where(condition="bad").items)
    assert len(set(shown.items)) == len(shown) == 6700
    every = data.load_localizer("blimp", uid="principle_A_case_2", n_pairs=None).stimuli
    assert len(every) == 2 * 995
    assert not set(every.where(condition="good").items) & set(every.where(condition="bad").items)
    with pytest.raises(InputError, match=r"n_pairs is 2 to 995 for the paradigm 'principle_A_case_2', got 996"):
        data.load_localizer("blimp", uid="principle_A_case_2", n_pairs=996)


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("animacy", ["noun", "template"]),
        ("concreteness", ["noun", "template"]),
        ("visuomotor", ["verb", "object", "template"]),
    ],
)
def test_halves_that_share_words_are_said_to(name: str, columns: list[str]) -> None:
    localizer = data.load_localizer(name)
    table = localizer.stimuli.table
    for column in columns:
        odd, even = (set(table[table["half"] == half][column]) for half in ("odd", "even"))
        assert len(odd & even) >= len(odd | even) / 2, column
    assert "held out by sentence, not by word" in localizer.notes


def test_sentiment_of_sentences_and_of_reviews(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(data.load_localizer("sentiment", part="sst-dev", n=30).stimuli) == 60
    with pytest.raises(InputError, match=r"n_words=5 shortens the reviews of 'imdb-test'"):
        data.load_localizer("sentiment", n_words=5)
    texts = [f"review {i} is long" for i in range(8)]
    monkeypatch.setattr("topobrain.data.sentiment.load_imdb_sentiment", lambda _: (texts, np.arange(8) % 2))
    localizer = data.load_localizer("sentiment", part="imdb-test", n=3, n_words=2)
    assert len(localizer.stimuli) == 6
    assert localizer.stimuli.items[0].split()[0] == "review"


def test_domains_against_all_others(real_data: Path) -> None:
    localizer = data.load_localizer("floc", size=8, n_per_category=4)
    assert [contrast.name for contrast in localizer.contrasts] == ["faces", "bodies", "places", "characters", "objects"]
    assert localizer.contrast("faces").off == ("bodies", "places", "characters", "objects")
    assert "scrambled" not in set(localizer.stimuli.column("condition"))
    six = data.load_localizer("floc", size=8, n_per_category=4, scrambled=True)
    assert len(six.contrasts) == 6
    assert six.contrast("faces").off[-1] == "scrambled"
    assert (len(localizer.stimuli), len(six.stimuli)) == (40, 44)


def test_real_world_size_compares_inanimate_things_only(real_data: Path) -> None:
    localizer = data.load_localizer("floc-size", size=8, n_per_category=4)
    assert set(localizer.stimuli.column("animacy")) == {"inanimate"}
    contrast = localizer.contrast("car-instrument")
    on, _ = contrast.masks(localizer.stimuli.column(contrast.by))
    assert set(localizer.stimuli.column("real_size")[on]) == {"big"}


def test_theory_of_mind_from_files_placed_by_hand(store: Path) -> None:
    with pytest.raises(DataFileError, match=r"data set 'theory_of_mind' lacks .*must be requested"):
        data.load_localizer("theory-of-mind")
    folder = store / "theory_of_mind" / "text_files"
    folder.mkdir(parents=True)
    for item in range(1, 11):
        for code in "bp":
            (folder / f"{item}{code}_story.txt").write_text(f"Story {item}{code}.")
            (folder / f"{item}{code}_question.txt").write_text("It was so. True False")
    check("theory-of-mind", data.load_localizer("theory-of-mind", answer="seeded", seed=2))


# --- bad input


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown localizer 'languge'\. Did you mean 'language'") as caught:
        data.load_localizer("languge")
    assert "list_localizers() shows them all." in str(caught.value)
    with pytest.raises(UnknownNameError, match=r"\('langloc' are the stimuli of the localizer 'language'\.\)"):
        data.load_localizer("langloc")


def test_an_unknown_option_is_answered_with_those_there_are() -> None:
    with pytest.raises(
        InputError, match=r"localizer 'floc' has no option 'scramble'\. Did you mean 'scrambled'\?.*size"
    ):
        data.load_localizer("floc", scramble=True)
    with pytest.raises(InputError, match=r"cannot load 'langloc': .*Did you mean 'length'\?"):
        data.load_localizer("language", lenght="words")


def test_a_localizer_must_fit_its_stimuli() -> None:
    stimuli = StimulusSet(["a", "b", "c", "d"], {"condition": ["x", "x", "y", "y"], "half": ["odd", "even"] * 2})
    good = Localizer("mine", "Mine", stimuli, (Contrast("x-y", on="x", off="y"),), "half", "nobody")
    assert good.contrast().name == "x-y"
    with pytest.raises(UnknownNameError, match=r"unknown condition of contrast 'x-z' 'z'"):
        Localizer("mine", "Mine", stimuli, (Contrast("x-z", on="x", off="z"),), "half", "nobody")
    with pytest.raises(UnknownNameError, match=r"unknown stimulus column 'run'"):
        Localizer("mine", "Mine", stimuli, good.contrasts, "run", "nobody")
    with pytest.raises(InputError, match=r"localizer 'mine' has no contrast"):
        Localizer("mine", "Mine", stimuli, (), "half", "nobody")


def test_every_localizer_names_stimuli_that_can_be_loaded() -> None:
    for recipe in LOCALIZERS.values():
        assert recipe.stimuli in data.STIMULI
        assert recipe.kind in ("text", "image")
