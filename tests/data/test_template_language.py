"""The template language: exact counts, agreement, controls that keep lengths and letters, and nothing global."""

import random
from collections import Counter

import numpy as np
import pytest

from topobrain import _checks
from topobrain.data import grammar, lexicon
from topobrain.data import template_language as language
from topobrain.data.nonwords import SHORT_ENGLISH
from topobrain.stimuli import Contrast, StimulusSet

SINGULAR_ONLY, PLURAL_ONLY = {"a", "an", "this", "every", "each"}, {"these", "many", "two", "some"}


@pytest.fixture(scope="module")
def sentences():
    return language.generate_sentences(1500, seed=11)


@pytest.fixture(scope="module")
def localizer():
    return language.load_localizer()


@pytest.fixture(scope="module")
def swjn():
    return language.load_swjn()


@pytest.fixture(scope="module")
def text():
    return language.load_text(n_sentences=5000)


def all_nouns():
    return [n for t in lexicon.topics().values() for n in (*t.agents, *t.things, *t.abstracts)]


def noun_numbers():
    """Word form -> whether it is plural, written down apart from the generator's own bookkeeping."""
    numbers = {"day": False, "days": True, "morning": False, "week": False, "night": False, "winter": False}
    numbers |= {place: False for topic in lexicon.topics().values() for _, place in topic.places}
    for noun in all_nouns():
        numbers[noun.singular] = False
        if noun.plural:
            numbers[noun.plural] = True
    return numbers


def verb_forms(which):
    every = [v for t in lexicon.topics().values() for v in (*t.transitive, *t.intransitive)]
    return {getattr(verb, which) for verb in (*every, *lexicon.clause_verbs(), *lexicon.cause_verbs())}


def words_of(stimuli, condition):
    return [text.split() for text in stimuli.where(condition=condition).texts]


def lengths_of(lists):
    return [[len(word) for word in words] for words in lists]


# --- the lexicon ---------------------------------------------------------------------------------------------------


def test_every_content_form_has_one_class_and_one_topic():
    owners = {}
    for topic in lexicon.topics().values():
        entries = [("noun", f) for n in (*topic.agents, *topic.things, *topic.abstracts) for f in n[:2] if f]
        entries += [("noun", place) for _, place in topic.places]
        entries += [("verb", form) for v in (*topic.transitive, *topic.intransitive) for form in v[:4]]
        entries += [("adjective", m.form) for kind in ("animate", "thing") for m in topic.adjectives[kind]]
        for word_class, form in entries:
            owners.setdefault(form, set()).add((word_class, topic.name))
    assert {form: owner for form, owner in owners.items() if len(owner) > 1} == {}
    assert not set(owners) & lexicon.function_words()
    assert set(owners) <= set(lexicon.content_forms())
    for form, (owner,) in ((form, tuple(owner)) for form, owner in owners.items()):
        assert lexicon.content_forms()[form][:2] == owner


def test_lexicon_has_eight_topics_and_their_lemmas():
    topics = lexicon.topics()
    assert set(topics) - {"general"} == {"food", "animals", "work", "weather", "travel", "music", "family", "sport"}
    verbs = {v.base for t in topics.values() for v in (*t.transitive, *t.intransitive)}
    lemmas = {n.singular for n in all_nouns()} | verbs | lexicon.function_words()
    lemmas |= {m.form for t in topics.values() for group in t.adjectives.values() for m in group}
    assert 330 <= len(lemmas) <= 500


@pytest.mark.parametrize(
    ("form", "suffix"),
    [("pies", "s"), ("babies", "ies"), ("boxes", "s"), ("men", ""), ("ate", ""), ("dropped", "ed"), ("buried", "ied")],
)
def test_regular_endings_are_known(form, suffix):
    assert lexicon.content_forms()[form].suffix == suffix


# --- sentences -----------------------------------------------------------------------------------------------------


def test_same_seed_same_set_and_other_seed_another():
    first, again, other = (language.generate_sentences(50, seed=seed) for seed in (5, 5, 6))
    assert first.digest() == again.digest()
    assert first.table.equals(again.table)
    assert len(set(first.items) & set(other.items)) < 5


def test_global_generators_neither_matter_nor_move():
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    first = language.load_swjn(n=12)
    np.random.seed(2)  # noqa: NPY002
    random.seed(2)
    before, before_python = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    assert language.load_swjn(n=12).digest() == first.digest()
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert random.getstate() == before_python


def test_sentences_are_counted_unique_plain_words(sentences):
    assert len(sentences) == 1500 == len(set(sentences.items))
    for text, n_words, letters in zip(
        sentences.items, sentences.column("n_words"), sentences.column("mean_word_length"), strict=True
    ):
        words = text.split(" ")
        assert all(word.isascii() and word.isalpha() and word.islower() for word in words)
        assert set(words) <= lexicon.lexicon()
        assert len(words) == n_words
        assert np.isclose(np.mean([len(word) for word in words]), letters)


@pytest.mark.parametrize("n_words", range(4, 17))
def test_every_length_is_exact(n_words):
    made = language.generate_sentences(40, seed=3, n_words=n_words)
    assert {len(text.split()) for text in made.items} == {n_words}


def test_length_ranges_are_kept_and_used():
    made = language.generate_sentences(400, seed=3, n_words=(5, 8))
    assert set(made.column("n_words").tolist()) == {5, 6, 7, 8}
    assert set(language.load_sentences().column("n_words").tolist()) == set(range(5, 11))


def test_all_templates_topics_and_properties_vary(sentences):
    assert set(sentences.column("template")) == set(grammar.TEMPLATES)
    assert len(set(sentences.column("topic"))) == 8
    assert set(sentences.column("depth").tolist()) == {0, 1, 2}
    assert set(sentences.column("verb_kind")) == {"motor", "visual", "other"}
    for name in ("animacy", "plural", "passive"):
        assert set(sentences.column(name).tolist()) == {0, 1}
    polarity = sentences.column("polarity")
    assert polarity.min() == -1
    assert polarity.max() == 1
    assert abs(polarity.mean()) < 0.2
    assert 0 <= sentences.column("concreteness").min() < sentences.column("concreteness").max() <= 1


def test_determiners_agree_with_their_nouns(sentences):
    numbers, checked = noun_numbers(), 0
    for text in sentences.items:
        words = text.split()
        for position, word in enumerate(words[:-1]):
            if word in ("a", "an"):
                assert (words[position + 1][0] in "aeiou") == (word == "an"), text
            if word in SINGULAR_ONLY | PLURAL_ONLY:
                noun = next(w for w in words[position + 1 :] if w in numbers)
                assert numbers[noun] == (word in PLURAL_ONLY), text
                checked += 1
    assert checked > 1000


def test_verbs_agree_with_their_subjects(sentences):
    numbers = noun_numbers()
    third, base, past, participle = (verb_forms(which) for which in ("third", "base", "past", "participle"))
    be = {("past", 0): "was", ("past", 1): "were", ("present", 0): "is", ("present", 1): "are"}
    do = {("past", 0): "did", ("past", 1): "did", ("present", 0): "does", ("present", 1): "do"}
    table = sentences.table
    seen = Counter()
    for text, template, tense, plural in zip(
        sentences.items, table["template"], table["tense"], table["plural"], strict=True
    ):
        words = text.split()
        subject = next(i for i, word in enumerate(words) if word in numbers)
        follows = words[subject + 1]
        assert numbers[words[subject]] == bool(plural)
        expected = past if tense == "past" else base if plural else third
        seen[template] += 1
        if template in ("transitive", "intransitive", "cause", "coordination", "complement", "nested"):
            assert follows in expected, text
        if template == "coordination":
            assert words[words.index("and") + 1] in expected, text
        if template in ("copular", "passive"):
            assert follows == be[tense, plural], text
        if template == "passive":
            assert words[subject + 2] in participle, text
        if template == "question":
            assert words[0] == do[tense, plural], text
            assert follows in base, text
        if template == "relative":
            assert follows in ("who", "that"), text
            assert words[subject + 2] in expected, text
            inner = next(i for i in range(subject + 3, len(words)) if words[i] in numbers)
            assert words[inner + 1] in expected, text
        if template == "object_relative":
            assert be[tense, plural] in words, text
            inner = next(i for i in range(subject + 2, len(words)) if words[i] in numbers)
            agent = past if tense == "past" else base if numbers[words[inner]] else third
            assert words[inner + 1] in agent, text
    assert min(seen[template] for template in grammar.TEMPLATES) > 10


def test_only_people_are_who(sentences):
    human = {f for noun in all_nouns() if noun.human for f in (noun.singular, noun.plural)}
    numbers = noun_numbers()
    relatives = sentences.where(template=["relative", "nested"])
    for text, template in zip(relatives.items, relatives.column("template"), strict=True):
        words = text.split()
        nouns = [i for i, word in enumerate(words) if word in numbers]
        head = nouns[1] if template == "nested" else nouns[0]
        assert (words[head + 1] == "who") == (words[head] in human), text


def test_time_phrases_agree_with_tense(sentences):
    for text, tense in zip(sentences.items, sentences.column("tense"), strict=True):
        for other in {"past", "present"} - {tense}:
            assert not any(text.endswith(" " + phrase) for phrase in lexicon.TIMES[other]), text


def test_animacy_is_that_of_the_subject(sentences):
    animate = {f for noun in all_nouns() if noun.animate for f in (noun.singular, noun.plural)}
    numbers = noun_numbers()
    subjects = [next(w for w in text.split() if w in numbers) for text in sentences.items]
    assert [int(word in animate) for word in subjects] == sentences.column("animacy").tolist()


def test_topic_drives_the_content_words(sentences):
    forms = lexicon.content_forms()
    topics = sentences.column("topic")
    own = other = 0
    for text, topic in zip(sentences.items, topics, strict=True):
        for word in text.split():
            if word in forms:
                own += forms[word].topic == topic
                other += forms[word].topic not in (topic, "general")
    assert other == 0
    content = sum(word in forms for text in sentences.items for word in text.split())
    assert own / content > 0.5

    def information(labels):
        joint = Counter((label, w) for label, text in zip(labels, sentences.items, strict=True) for w in text.split())
        total = sum(joint.values())
        by_label, by_word = Counter(), Counter()
        for (label, word), count in joint.items():
            by_label[label] += count
            by_word[word] += count
        return sum(c / total * np.log2(c * total / (by_label[a] * by_word[w])) for (a, w), c in joint.items())

    shuffled = np.random.default_rng(0).permutation(topics)
    # 1500 sentences are few for 700 words: shuffled labels keep about 0.3 bits of chance
    assert information(topics) > 3 * information(shuffled)


def test_excluded_sentences_do_not_come():
    first = language.generate_sentences(30, seed=8, n_words=4)
    second = language.generate_sentences(30, seed=8, n_words=4, exclude=first.items)
    assert not set(first.items) & set(second.items)


@pytest.mark.parametrize("n_words", [3, 17, (8, 5), (2, 6)])
def test_impossible_lengths_are_refused(n_words):
    with pytest.raises(_checks.InputError, match="n_words must lie in 4-16"):
        language.generate_sentences(3, seed=0, n_words=n_words)


@pytest.mark.parametrize("seed", [-1, 0.5, True])
def test_impossible_seeds_are_refused(seed):
    with pytest.raises(_checks.InputError, match="seed"):
        language.generate_sentences(3, seed=seed)


def test_no_sentences_are_refused():
    with pytest.raises(_checks.InputError, match="at least 1"):
        language.load_localizer(n=0)


# --- nonwords and controls -----------------------------------------------------------------------------------------


def test_nonwords_match_lengths_and_are_no_words():
    words = ["a", "in", "the", "dogs", "farmer", "photographed"] * 40
    made = language.generate_nonwords(words, seed=4)
    assert [len(nonword) for nonword in made] == [len(word) for word in words]
    assert not set(made) & (lexicon.lexicon() | set(SHORT_ENGLISH.split()))
    long = [nonword for nonword in made if len(nonword) > 3]
    assert len(set(long)) == len(long)
    assert made == language.generate_nonwords(words, seed=4) != language.generate_nonwords(words, seed=5)
    assert [len(nonword) for nonword in language.generate_nonwords(["the", "boxes"], 5, seed=0)] == [3, 5, 3, 5, 3]


def test_nonwords_have_the_letters_of_the_lexicon():
    words = sorted(word for word in lexicon.lexicon() if len(word) > 3)
    rng = np.random.default_rng(0)

    def pairs(strings):
        marked = ["^" + string + "$" for string in strings]
        counts = Counter(string[i : i + 2] for string in marked for i in range(len(string) - 1))
        return {pair: count / sum(counts.values()) for pair, count in counts.items()}

    def divergence(p, q):  # Jensen-Shannon, bits
        middle = {pair: (p.get(pair, 0) + q.get(pair, 0)) / 2 for pair in {*p, *q}}
        return sum(v / 2 * np.log2(v / middle[pair]) for side in (p, q) for pair, v in side.items())

    nonwords = language.generate_nonwords(words, 4 * len(words), seed=1)
    shuffled = ["".join(rng.permutation(list(word))) for word in words for _ in range(4)]
    near, far = divergence(pairs(nonwords), pairs(words)), divergence(pairs(shuffled), pairs(words))
    assert near < 0.05
    assert far > 5 * near


def test_nonwords_need_words():
    for nothing in ([], ["a", ""], "text"):
        with pytest.raises(_checks.InputError, match="list of words"):
            language.generate_nonwords(nothing, seed=0)


def test_nonword_strings_match_word_by_word(sentences):
    some = sentences.take(range(40))
    made = language.nonword_strings(some, seed=2)
    assert lengths_of(t.split() for t in made.items) == lengths_of(t.split() for t in some.items)
    assert not {word for text in made.items for word in text.split()} & lexicon.lexicon()
    assert made.ids == some.ids
    assert made.provenance["simulated"] is True


def test_word_lists_keep_the_words_and_lose_the_sentences(sentences):
    some = sentences.take(range(200))
    made = language.word_lists(some, seed=2)
    assert Counter(" ".join(made.items).split()) == Counter(" ".join(some.items).split())
    assert lengths_of(t.split() for t in made.items) == lengths_of(t.split() for t in some.items)
    assert not set(made.items) & set(some.items)
    assert len(set(made.items)) == 200
    moved = np.mean(
        [a != b for x, y in zip(made.items, some.items, strict=True) for a, b in zip(x.split(), y.split(), strict=True)]
    )
    assert moved > 0.7


@pytest.mark.parametrize("make", [language.word_lists, language.jabberwocky, language.nonword_strings])
def test_controls_follow_their_seed(sentences, make):
    some = sentences.take(range(20))
    assert make(some, seed=2).items == make(some, seed=2).items != make(some, seed=3).items


def test_word_lists_of_one_sentence_are_refused():
    with pytest.raises(_checks.InputError, match="too few words of equal length"):
        language.word_lists(StimulusSet(["a dog follows"]), seed=0)


def test_jabberwocky_keeps_function_words_and_endings(sentences):
    some = sentences.take(range(300))
    made = language.jabberwocky(some, seed=2)
    forms = lexicon.content_forms()
    endings = Counter()
    for text, source in zip(made.items, some.items, strict=True):
        words = text.split()
        for position, (new, old) in enumerate(zip(words, source.split(), strict=True)):
            assert len(new) == len(old)
            if old in forms:
                assert new not in lexicon.lexicon()
                assert new.endswith(forms[old].suffix)
                endings[forms[old].suffix] += 1
            else:
                assert new == old
            if position and words[position - 1] in ("a", "an"):
                assert (new[0] in "aeiou") == (words[position - 1] == "an"), text
    assert min(endings[suffix] for suffix in ("", "s", "ies", "ed", "ied", "ly")) > 0


# --- the sets ------------------------------------------------------------------------------------------------------


def test_localizer_has_the_published_layout(localizer):
    assert localizer.name == "simulated-langloc"
    assert Counter(localizer.column("condition")) == {"sentence": 240, "nonword": 240}
    assert set(Counter(zip(localizer.column("condition"), localizer.column("set"), strict=True)).values()) == {24}
    assert set(localizer.column("set").tolist()) == set(range(1, 11))
    assert {len(text.split()) for text in localizer.items} == {12}
    assert len(set(localizer.items)) == 480
    assert lengths_of(words_of(localizer, "sentence")) == lengths_of(words_of(localizer, "nonword"))
    assert not {w for words in words_of(localizer, "nonword") for w in words} & lexicon.lexicon()
    on, off = Contrast("language", on="sentence", off="nonword").masks(localizer.column("condition"))
    assert on.sum() == off.sum() == 240


def test_swjn_crosses_words_and_syntax_at_equal_lengths(swjn):
    assert swjn.name == "simulated-swjn"
    assert Counter(swjn.column("condition")) == dict.fromkeys(("sentence", "word_list", "jabberwocky", "nonword"), 160)
    assert len(set(swjn.items)) == 640
    reference = lengths_of(words_of(swjn, "sentence"))
    known = {}
    for condition in ("sentence", "word_list", "jabberwocky", "nonword"):
        lists = words_of(swjn, condition)
        assert lengths_of(lists) == reference
        known[condition] = np.mean([word in lexicon.lexicon() for words in lists for word in words])
    assert known["sentence"] == known["word_list"] == 1
    assert 0.3 < known["jabberwocky"] < 0.7
    assert known["nonword"] == 0


@pytest.mark.parametrize("load", [language.load_localizer, language.load_swjn, language.load_sentences])
def test_sets_say_that_they_are_simulated(load):
    made = load(n=12, seed=7)
    assert made.provenance["simulated"] is True
    assert made.provenance["name"] == made.name
    assert made.provenance["seed"] == 7
    assert made.provenance["generator"] == "topobrain template language"
    assert made.provenance["licence"]
    assert made.digest() == load(n=12, seed=7).digest() != load(n=12, seed=8).digest()


def test_text_never_holds_a_default_evaluation_sentence(text, localizer, swjn):
    assert len(text) == 5000 == len(set(text))
    evaluation = {*localizer.where(condition="sentence").items, *swjn.where(condition="sentence").items}
    evaluation |= set(language.load_sentences().items)
    assert not set(text) & evaluation
    assert language._evaluation_sentences() == evaluation
    assert set(" ".join(text).split()) <= lexicon.lexicon()


@pytest.mark.slow
def test_text_leaves_out_what_it_is_told(text):
    again = language.load_text(n_sentences=5000, exclude=text[:100])
    assert not set(again) & set(text[:100])
    assert language.load_text(n_sentences=5000) == text


@pytest.mark.slow
def test_default_text_covers_the_lexicon():
    words = Counter(" ".join(language.load_text()).split())
    alone = {v.participle for t in lexicon.topics().values() for v in t.intransitive}  # they have no passive
    abstract = {v.base for v in lexicon.cause_verbs()}  # their subjects are singular
    said = {v.participle for v in lexicon.clause_verbs()}
    assert lexicon.lexicon() - set(words) <= alone | abstract | said
    assert len(words) > 700
