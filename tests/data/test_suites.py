"""The linguistic suites: well-formed sentences, matched conditions, balanced words, and nothing global."""

import random
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from topobrain._checks import InputError, UnknownNameError
from topobrain.data import suites
from topobrain.data.suites import acceptability, ambiguous_frames, animacy, concreteness, noun_pairs, visuomotor
from topobrain.data.suites.intactness import scramble
from topobrain.data.suites.pairs import draw_evenly, shares
from topobrain.stimuli import StimulusSet

CONDITIONS = {
    "intactness": ("intact", "scrambled"),
    "animacy": ("animate", "inanimate"),
    "concreteness": ("concrete", "abstract"),
    "visuomotor": ("visual", "motor"),
    "acceptability": ("acceptable", "anomalous"),
    "agreement": ("grammatical", "ungrammatical"),
    "licensing": ("grammatical", "ungrammatical"),
    "gardenpath": ("ambiguous", "unambiguous"),
}
EVERY = sorted(CONDITIONS)
BALANCED = ["intactness", "acceptability", "agreement", "licensing"]


@pytest.fixture(scope="module")
def loaded():
    return {name: suites.load_suite(name) for name in EVERY}


@pytest.fixture(scope="module")
def table():
    return suites.suite_table().set_index("suite")


def split(text):
    """Words in lower case, without punctuation; written apart from the package's own splitting."""
    return re.findall(r"[a-z]+", text.lower())


def pairs_of(stimuli):
    """Rows (on, off) of each pair, by item, in order."""
    rows = stimuli.table.assign(text=stimuli.texts).to_dict("records")
    assert all(first["item"] == second["item"] for first, second in zip(rows[::2], rows[1::2], strict=True))
    return list(zip(rows[::2], rows[1::2], strict=True))


def counts(stimuli, condition):
    return Counter(word for text in stimuli.where(condition=condition).texts for word in split(text))


# --- every suite ---------------------------------------------------------------------------------------------------


def test_the_eight_suites_are_registered():
    assert list(suites.SUITES) == list(CONDITIONS)
    assert {name: (s.on, s.off) for name, (s, _) in suites.SUITES.items()} == CONDITIONS


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.slow
def test_layout(loaded, name):
    stimuli = loaded[name]
    on, off = CONDITIONS[name]
    assert isinstance(stimuli, StimulusSet)
    assert stimuli.name == f"suite-{name}"
    assert len(stimuli) >= 76
    assert Counter(stimuli.column("condition")) == {on: 80, off: 80}
    assert {"item", "template", "n_words", "mean_word_length"} <= set(stimuli.table.columns)
    assert all((first["condition"], second["condition"]) == (on, off) for first, second in pairs_of(stimuli))
    assert len(set(stimuli.column("item"))) == 80
    assert all(first["template"] == second["template"] for first, second in pairs_of(stimuli))
    assert not stimuli.table.isna().any().any()
    on_mask, off_mask = suites.suite_contrast(name).masks(stimuli.column("condition"))
    assert on_mask.sum() == off_mask.sum() == 80


@pytest.mark.parametrize("name", EVERY)
def test_sentences_are_well_formed_and_distinct(loaded, name):
    stimuli = loaded[name]
    assert len(set(stimuli.texts)) == len(stimuli)
    for text, n_words, letters in zip(
        stimuli.texts, stimuli.column("n_words"), stimuli.column("mean_word_length"), strict=True
    ):
        assert re.fullmatch(r"[A-Z][a-z]*(,? [A-Za-z]+)*\.", text), text
        assert 6 <= len(split(text)) <= 12, text
        assert n_words == len(split(text))
        assert letters == pytest.approx(np.mean([len(word) for word in split(text)]))
        capitals = set(re.findall(r"\b[A-Z]\w*", text)[1:])
        assert capitals <= {"I", "Monday", "Friday", "Sunday"}, text


@pytest.mark.parametrize("name", EVERY)
def test_no_word_is_doubled_and_articles_fit(loaded, name):
    for row, other in pairs_of(loaded[name]):
        for text in [row["text"]] if name == "intactness" else [row["text"], other["text"]]:
            words = split(text)
            assert all(first != second for first, second in pairwise(words)), text
            for article, after in pairwise(words):
                if article in ("a", "an"):
                    assert (after[0] in "aeiou") == (article == "an"), text


@pytest.mark.parametrize("name", EVERY)
def test_provenance_says_whose_sentences_these_are(loaded, name):
    provenance = loaded[name].provenance
    assert provenance["generated"] is True
    assert (provenance["suite"], provenance["seed"], provenance["n_pairs"]) == (name, 0, 80)
    assert provenance["version"] >= 1
    assert "not the suites of the Topoformer paper" in provenance["source"]
    assert "simulated" not in provenance


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.slow
def test_equal_seeds_give_equal_sets_and_others_another_draw(loaded, name):
    again, other = suites.load_suite(name, seed=0), suites.load_suite(name, seed=1)
    assert again.digest() == loaded[name].digest()
    assert again.table.equals(loaded[name].table)
    assert len(set(other.texts) & set(loaded[name].texts)) < 0.5 * len(other)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.slow
def test_the_pool_holds_twice_the_default(name):
    stimuli = suites.load_suite(name, n=160, seed=3)
    assert len(set(stimuli.texts)) == 320
    assert stimuli.column("n_words").min() >= 6
    assert stimuli.column("n_words").max() <= 12


@pytest.mark.slow
def test_global_generators_neither_matter_nor_move(loaded):
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    before, before_python = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    for name in EVERY:
        assert suites.load_suite(name).digest() == loaded[name].digest()
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert random.getstate() == before_python


@pytest.mark.parametrize("name", EVERY)
def test_wrong_counts_are_told(name):
    for n in (0, 1, -4, 2.0, True, "80", None):
        with pytest.raises(InputError, match=f"n of the {name} suite must be a whole number"):
            suites.load_suite(name, n=n)


@pytest.mark.parametrize(("name", "n"), [("acceptability", 41), ("agreement", 79), ("licensing", 78)])
def test_counts_that_cannot_be_balanced_are_told(name, n):
    with pytest.raises(InputError, match=r"a multiple of [24], which its words are balanced over"):
        suites.load_suite(name, n=n)


@pytest.mark.parametrize(("name", "n"), [("animacy", 801), ("concreteness", 801), ("gardenpath", 254)])
def test_more_pairs_than_the_pool_are_told(name, n):
    assert len(set(suites.load_suite(name, n=n - 1 - (n % 2 == 0)).texts)) == 2 * (n - 1 - (n % 2 == 0))
    with pytest.raises(InputError, match="ask for a smaller n"):
        suites.load_suite(name, n=n)


@pytest.mark.parametrize("seed", [-1, 0.5, True, "0"])
def test_wrong_seeds_are_told(seed):
    with pytest.raises(InputError, match="seed"):
        suites.load_suite("animacy", seed=seed)


def test_unknown_names_and_options_offer_near_ones():
    with pytest.raises(UnknownNameError, match="Did you mean 'animacy'"):
        suites.load_suite("animcy")
    with pytest.raises(UnknownNameError, match="licensing"):
        suites.suite_contrast("licencing")
    with pytest.raises(UnknownNameError, match="variant"):
        suites.load_suite("gardenpath", variants="lexical")
    assert suites.load_suite("suite-animacy").digest() == suites.load_suite("animacy").digest()


# --- balance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BALANCED)
@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.slow
def test_every_word_is_equally_frequent_in_both_conditions(name, seed):
    stimuli = suites.load_suite(name, seed=seed, n=32)
    on, off = CONDITIONS[name]
    assert counts(stimuli, on) == counts(stimuli, off)


@pytest.mark.parametrize("name", ["acceptability", "agreement", "licensing"])
def test_every_quartet_is_balanced_by_itself(loaded, name):
    stimuli = loaded[name]
    on, off = CONDITIONS[name]
    sizes = Counter(stimuli.column("quartet"))
    assert set(sizes.values()) == ({2, 4} if name == "licensing" else {4})
    for quartet in sizes:
        part = stimuli.where(quartet=quartet)
        assert counts(part, on) == counts(part, off)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "gardenpath"])
@pytest.mark.slow
def test_conditions_agree_in_words_and_letters(table, name):
    assert table.loc[name, "words_on"] == table.loc[name, "words_off"]
    assert abs(table.loc[name, "letters_on"] - table.loc[name, "letters_off"]) < 0.02


@pytest.mark.slow
def test_suite_table_says_what_was_counted_here(loaded, table):
    assert table.index.tolist() == list(CONDITIONS)
    for row in table.reset_index().to_dict("records"):
        stimuli, (on, off) = loaded[row["suite"]], CONDITIONS[row["suite"]]
        assert row["contrast"] == f"{on} > {off}"
        assert row["n"] == len(stimuli)
        for side, condition in (("on", on), ("off", off)):
            words = counts(stimuli, condition)
            assert row[f"words_{side}"] == pytest.approx(words.total() / 80)
            letters = sum(len(word) * count for word, count in words.items()) / words.total()
            assert row[f"letters_{side}"] == pytest.approx(letters)
        types = [set(counts(stimuli, condition)) for condition in (on, off)]
        assert row["shared_types"] == pytest.approx(len(types[0] & types[1]) / len(types[0] | types[1]))
        assert (row["shared_words"] == 1.0) == (row["suite"] in BALANCED)
        assert 0.8 < row["shared_words"] <= 1.0


# --- intactness ----------------------------------------------------------------------------------------------------

ARTICLES = {"the", "a", "an", "my", "our"}
PREPOSITIONS = {"of", "in", "to", "for", "with", "on", "at", "by", "from", "under", "over", "near", "before", "behind"}
PREPOSITIONS |= {"about", "across", "after", "along", "through"}


def strays(words):
    """Articles and possessives at the end, or before another one or a preposition."""
    return sum(word in ARTICLES and after in ARTICLES | PREPOSITIONS | {"."} for word, after in pairwise([*words, "."]))


def test_scrambled_sentences_keep_words_and_lose_order(loaded):
    for intact, scrambled in pairs_of(loaded["intactness"]):
        old, new = split(intact["text"]), split(scrambled["text"])
        assert sorted(old) == sorted(new)
        assert all(first != second for first, second in zip(old, new, strict=True))
        assert not set(pairwise(old)) & set(pairwise(new))
        assert strays(old) == 0
        assert strays(new) >= 2


def test_scramble_is_seeded_and_tells_what_it_cannot_do():
    text = "The old farmer carried a heavy basket of apples to the market."
    orders = {scramble(text, np.random.default_rng(seed)) for seed in range(20)}
    assert len(orders) == 20
    assert scramble(text, np.random.default_rng(3)) == scramble(text, np.random.default_rng(3))
    with pytest.raises(InputError, match="Dogs bark loudly"):
        scramble("Dogs bark loudly.", np.random.default_rng(0))


# --- one word differs: animacy, concreteness, visuomotor -------------------------------------------------------------


@pytest.mark.parametrize("name", ["animacy", "concreteness"])
def test_only_the_noun_differs_and_it_has_equally_many_letters(loaded, name):
    for first, second in pairs_of(loaded[name]):
        old, new = split(first["text"]), split(second["text"])
        different = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
        assert different == [(first["noun"], second["noun"])]
        assert len(first["noun"]) == len(second["noun"])


@pytest.mark.parametrize("name", ["animacy", "concreteness"])
def test_nouns_and_frames_are_used_evenly(loaded, name):
    stimuli = loaded[name].where(condition=CONDITIONS[name][0])
    for column, levels, share in (("noun", 40, 2), ("template", 20, 4)):
        used = Counter(stimuli.column(column))
        assert len(used) == levels
        assert all(abs(count - share) <= 1 for count in used.values())


@pytest.mark.parametrize("table", [noun_pairs.animate_inanimate(), noun_pairs.concrete_abstract()])
def test_noun_pairs_are_matched(table):
    nouns = [noun for pair in table for noun in pair[:2]]
    assert len(table) == 40
    assert len(set(nouns)) == 80
    assert all(len(pair.on) == len(pair.off) for pair in table)
    logs = np.log10([[pair.brown_on, pair.brown_off] for pair in table])
    assert abs(np.diff(logs.mean(axis=0)).item()) < 0.1
    assert np.corrcoef(logs.T)[0, 1] > 0.85
    assert min(min(pair[2:]) for pair in table) >= 5


@pytest.mark.parametrize("module", [animacy, concreteness])
def test_frames_hold_no_noun_of_the_table(module):
    table = noun_pairs.animate_inanimate() if module is animacy else noun_pairs.concrete_abstract()
    nouns = {noun for pair in table for noun in pair[:2]}
    for frame in module.FRAMES:
        assert frame.count("{}") == 1
        assert not nouns & set(split(frame))


def test_brown_counts_are_those_of_the_corpus(real_data):
    text = (real_data / "text_corpora" / "brown.txt").read_text().lower()
    found = Counter(re.findall(r"[a-z]+(?:'[a-z]+)?", text))
    for pair in (*noun_pairs.animate_inanimate(), *noun_pairs.concrete_abstract()):
        assert (found[pair.on], found[pair.off]) == (pair.brown_on, pair.brown_off), pair


def test_visual_and_motor_sentences_differ_in_the_verb_phrase_only(loaded):
    for first, second in pairs_of(loaded["visuomotor"]):
        seeing, acting = first["verb"], second["verb"]
        assert first["text"].replace(seeing, acting) == second["text"] != first["text"]
        assert len(seeing.split()) == len(acting.split())
        assert abs(len(seeing) - len(acting)) <= 1
        assert first["object"] == second["object"]
        if seeing == "looked into":
            assert first["object"] in {"bag", "box", "basket", "bucket", "sack", "suitcase"}


def test_no_verb_phrase_is_both_visual_and_motor():
    seeing, acting = ({verbs[side] for verbs in visuomotor.VERBS} for side in (0, 1))
    assert len(seeing) == len(acting) == len(visuomotor.VERBS)
    assert not seeing & acting


# --- acceptability -------------------------------------------------------------------------------------------------


def test_objects_are_exchanged_within_a_quartet(loaded):
    table = loaded["acceptability"].table.assign(text=loaded["acceptability"].texts)
    for _, quartet in table.groupby("quartet"):
        fits, clashes = (quartet[quartet["condition"] == c] for c in ("acceptable", "anomalous"))
        assert fits["object"].tolist() == clashes["object"].tolist()[::-1]
        assert len(set(fits["object"])) == len(set(fits["template"])) == 2
        frames = [
            [t.replace(o, "_") for t, o in zip(part["text"], part["object"], strict=True)] for part in (fits, clashes)
        ]
        assert frames[0] == frames[1]


def test_acceptable_objects_are_of_the_verbs_class_and_anomalous_ones_of_a_class_that_clashes(loaded):
    owner = {thing: name for name, kind in acceptability.KINDS.items() for thing in kind.objects}
    assert len(owner) == sum(len(kind.objects) for kind in acceptability.KINDS.values())
    for row in loaded["acceptability"].table.to_dict("records"):
        verb, thing = row["template"].removeprefix("verb-"), owner[row["object"]]
        assert (verb == thing) == (row["condition"] == "acceptable")
        assert thing not in acceptability.KINDS[verb].mixes_with


def test_classes_that_mix_are_named_in_both_directions():
    for name, kind in acceptability.KINDS.items():
        assert (len(kind.frames), len(set(kind.objects))) == (4, 6)
        for other in kind.mixes_with:
            assert name in acceptability.KINDS[other].mixes_with
    assert ("drink", "plant") not in acceptability.clashing_kinds()
    assert ("drink", "wear") in acceptability.clashing_kinds()


# --- agreement -----------------------------------------------------------------------------------------------------


def test_subject_and_verb_agree_where_they_should(loaded):
    # All singular verb forms of the suite end in s (is, was, has, sings), no plural one does; nouns the other way round.
    for row in loaded["agreement"].table.assign(text=loaded["agreement"].texts).to_dict("records"):
        assert row["noun"].endswith("s") == (row["subject_number"] == "plural")
        agrees = row["verb"].endswith("s") != row["noun"].endswith("s")
        assert agrees == (row["condition"] == "grammatical"), row["text"]
        words = split(row["text"])
        assert words.index(row["noun"]) < words.index(row["verb"])


def test_numbers_and_structures_are_crossed(loaded):
    table = loaded["agreement"].table
    counted = table.groupby(["condition", "subject_number", "template", "attractor_number"]).size()
    assert set(counted) == {8}
    assert len(counted) == 2 * 2 * 5


def test_attractors_stand_between_subject_and_verb(loaded):
    for row in loaded["agreement"].table.assign(text=loaded["agreement"].texts).to_dict("records"):
        words = split(row["text"])
        between = words[words.index(row["noun"]) + 1 : words.index(row["verb"])]
        if row["template"] == "none":
            assert between == []
            continue
        noun = between[2]
        assert (between[0] == "that") == (row["template"] == "relative")
        assert between[1] == "the"
        assert noun.endswith("s") == (row["attractor_number"] == "plural")


# --- licensing -----------------------------------------------------------------------------------------------------

MASCULINE = {"man", "boy", "king", "prince", "actor", "waiter", "brother", "father", "son", "uncle", "husband"}
FEMININE = {"woman", "girl", "queen", "princess", "actress", "waitress", "sister", "mother", "daughter", "aunt", "wife"}
PLURALS = {"men", "boys", "kings", "princes", "actors", "waiters", "brothers", "fathers"}
PLURALS |= {"women", "girls", "queens", "princesses", "actresses", "waitresses", "sisters", "mothers"}


def test_polarity_items_are_licensed_from_the_subject_only(loaded):
    part = loaded["licensing"].where(phenomenon="polarity")
    for row in part.table.assign(text=part.texts).to_dict("records"):
        words = split(row["text"])
        assert words.count(row["licensed"]) == 1
        assert sum(word in {"no", "nobody", "none"} for word in words) == 1
        assert (words[0] in {"no", "nobody", "none"}) == (row["condition"] == "grammatical")


def test_reflexives_agree_with_the_head_of_the_subject(loaded):
    part = loaded["licensing"].where(phenomenon="reflexive")
    for row in part.table.assign(text=part.texts).to_dict("records"):
        head = next(word for word in split(row["text"]) if word in MASCULINE | FEMININE | PLURALS)
        right = "themselves" if head in PLURALS else "himself" if head in MASCULINE else "herself"
        assert (row["licensed"] == right) == (row["condition"] == "grammatical"), row["text"]
        assert split(row["text"]).count(row["licensed"]) == 1


def test_licensing_templates_are_used_equally(loaded):
    assert set(Counter(loaded["licensing"].column("template")).values()) == {20}
    assert len(set(loaded["licensing"].column("template"))) == 8


# --- garden paths --------------------------------------------------------------------------------------------------

NO_PAST_FORM = {"given", "thrown", "shown", "ridden", "taken", "driven", "seen", "hidden", "broken", "forgotten"}
NO_PAST_FORM |= {"eaten", "worn", "chosen"}


def test_marked_and_lexical_pairs_differ_as_described(loaded):
    for first, second in pairs_of(loaded["gardenpath"]):
        old, new = split(first["text"]), split(second["text"])
        if first["variant"] == "lexical":
            assert [(a, b) for a, b in zip(old, new, strict=True) if a != b] == [(first["verb"], second["verb"])]
            assert "," not in first["text"] + second["text"]
        elif first["construction"] == "np-z":
            assert old == new
            assert second["text"].replace(f"{second['verb']},", second["verb"]) == first["text"]
        else:
            be = next(word for word in ("was", "were") if f"that {word} {first['verb']}" in second["text"])
            assert second["text"].replace(f"that {be} ", "", 1) == first["text"]


def test_four_kinds_of_garden_paths_come_equally_often(loaded):
    assert set(Counter(loaded["gardenpath"].column("template")).values()) == {40}
    assert Counter(suites.load_suite("gardenpath", n=10).column("variant")) == {"marked": 12, "lexical": 8}


def test_lexical_variant_is_matched_in_words_and_punctuation():
    lexical = suites.load_gardenpath(variant="lexical")
    assert set(lexical.column("variant")) == {"lexical"}
    for first, second in pairs_of(lexical):
        assert first["n_words"] == second["n_words"]
        assert abs(first["mean_word_length"] - second["mean_word_length"]) < 0.5
    marked = suites.load_gardenpath(variant="marked")
    means = marked.table.groupby("condition")["n_words"].mean()
    assert means["unambiguous"] - means["ambiguous"] == 1.0  # two words more in the half that is mv-rr
    with pytest.raises(UnknownNameError, match="Did you mean 'lexical'"):
        suites.load_gardenpath(variant="lexicl")


def test_unambiguous_words_cannot_be_read_both_ways():
    assert {frame.participle for frame in ambiguous_frames.MV_RR} == NO_PAST_FORM
    assert not {frame.verb for frame in ambiguous_frames.MV_RR} & NO_PAST_FORM
    objects_taken = {frame.verb for frame in ambiguous_frames.NP_Z}
    assert not objects_taken & {frame.intransitive for frame in ambiguous_frames.NP_Z}


def test_frames_are_complete_and_agree_in_number():
    assert len(ambiguous_frames.NP_Z) == len(ambiguous_frames.MV_RR) == 42
    for frame in (*ambiguous_frames.NP_Z, *ambiguous_frames.MV_RR):
        assert len(set(frame.subjects)) == 3
        assert all(len(subject.split()) in (2, 3) for subject in frame.subjects)
    for frame in ambiguous_frames.MV_RR:
        for subject in frame.subjects:
            word = subject.split()[-1]
            plural = word in {"men", "women", "children", "sheep"} or (word[-1] == "s" and word[-2] != "s")
            assert frame.be == ("were" if plural else "was"), subject


# --- drawing -------------------------------------------------------------------------------------------------------


def test_draws_are_even_distinct_and_complete():
    factors = [["a", "b", "c", "d"], range(6)]
    drawn = draw_evenly(np.random.default_rng(0), 12, factors)
    assert len(set(drawn)) == 12
    assert set(Counter(number for _, number in drawn).values()) == {2}
    assert set(draw_evenly(np.random.default_rng(1), 24, factors)) == {(x, i) for x in factors[0] for i in range(6)}
    with pytest.raises(InputError, match="24 different combinations where 25 were needed"):
        draw_evenly(np.random.default_rng(0), 25, factors)


def test_draws_keep_to_what_is_allowed_and_exclusive():
    rng = np.random.default_rng(0)
    drawn = draw_evenly(rng, 5, [range(9), range(9)], allowed=lambda a, b: a < b, exclusive=lambda a, b: [("a", a)])
    assert all(a < b for a, b in drawn)
    assert len({a for a, _ in drawn}) == 5


def test_large_pools_are_thinned_and_stay_even():
    drawn = draw_evenly(np.random.default_rng(0), 60, [range(30), range(30), range(30)])
    for place in range(3):
        used = Counter(row[place] for row in drawn)
        assert len(used) == 30
        assert max(used.values()) <= 3


@pytest.mark.parametrize(("n", "parts", "step"), [(80, 5, 2), (7, 3, 1), (0, 4, 2), (36, 8, 4)])
def test_shares_add_up_and_are_even(n, parts, step):
    split_up = shares(n, parts, step)
    assert sum(split_up) == n
    assert max(split_up) - min(split_up) <= step
    assert all(share % step == 0 for share in split_up)
