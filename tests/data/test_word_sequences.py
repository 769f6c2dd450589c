"""Sequences of words: cleaning on planted sentences, runs and sentences against the corpus read another way."""

import gzip
import os
import random

import numpy as np
import pytest

from topobrain import data
from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.data import word_sequences
from topobrain.data.brown_tagged import TaggedSentence, load_brown_tagged, read_tagged
from topobrain.data.lexicon import lexicon
from topobrain.data.word_sequences import (
    CleanSentence,
    _cleaned,
    clean_brown,
    load_sentence_sequences,
    load_word_runs,
    tagged_words,
    template_tags,
)


def tagged(text, document="d1", genre="news"):
    words, tags = zip(*(pair.rsplit("/", 1) for pair in text.split()), strict=True)
    return TaggedSentence(words, tags, genre, document)


def clean(words, document="d1", follows=True):
    words = tuple(words)
    return CleanSentence(words, ("nn",) * len(words), ("",) * len(words), document, follows)


def numbered(n, start=0):
    """Return words that differ from each other and tell their place."""
    letters = "abcdefghij"
    return ["w" + "".join(letters[int(digit)] for digit in f"{i:05d}") for i in range(start, start + n)]


@pytest.fixture(scope="module")
def brown():
    if not os.environ.get("TOPOBRAIN_DATA"):
        pytest.skip("TOPOBRAIN_DATA is not set: the real data sets are not on this machine")
    return load_brown_tagged()


# the tagged corpus


def test_brown_has_its_sentences_documents_and_genres(brown):
    assert len(brown) == 57340
    assert len({sentence.document for sentence in brown}) == 500
    assert len({sentence.genre for sentence in brown}) == 15
    assert brown[0].words[:4] == ("The", "Fulton", "County", "Grand")
    assert brown[0].tags[:4] == ("at", "np-tl", "nn-tl", "jj-tl")
    assert all(len(sentence.words) == len(sentence.tags) for sentence in brown)


def test_one_genre_of_brown(brown):
    news = load_brown_tagged("news")
    assert news == [sentence for sentence in brown if sentence.genre == "news"]
    with pytest.raises(UnknownNameError, match=r"unknown genre 'nws'.*Did you mean 'news'"):
        load_brown_tagged("nws")


@pytest.mark.parametrize("line", ["ca01\tnews", "ca01\tnews\tThe/at dog", "ca01\tnews\t/at", "ca01\tnews\t"])
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "tagged.tsv.gz"
    path.write_bytes(gzip.compress(f"ca01\tnews\tThe/at dog/nn\n{line}\n".encode()))
    with pytest.raises(DataFileError, match=r"line 2 of .*tagged.tsv.gz"):
        read_tagged(path)


def test_a_file_that_is_no_gzip(tmp_path):
    path = tmp_path / "tagged.tsv.gz"
    path.write_text("ca01\tnews\tThe/at")
    with pytest.raises(DataFileError, match="cannot be read as tagged text"):
        read_tagged(path)


def test_a_slash_within_a_word_stays(tmp_path):
    path = tmp_path / "tagged.tsv.gz"
    path.write_bytes(gzip.compress(b"ca01\tnews\t1/2/cd cup/nn"))
    assert read_tagged(path)[0].words == ("1/2", "cup")


# cleaning


def test_words_are_lower_case_and_hyphens_split_them():
    (sentence,) = _cleaned((tagged("The/at Well-known/jj-tl dog/nn ran/vbd ./."),))
    assert sentence.words == ("the", "well", "known", "dog", "ran")
    assert sentence.tags == ("at", "jj", "jj", "nn", "vbd")
    assert sentence.marks == ("", "", "", "", ".")


@pytest.mark.parametrize(
    "text",
    [
        "Mary/np ran/vbd ./.",
        "the/at Smiths/nps ran/vbd ./.",
        "Mary's/np$ dog/nn ran/vbd ./.",
        "the/at Court/np-tl ran/vbd ./.",
        "Mary's/np+bez here/rb ./.",
        "la/fw-at France/fw-np ran/vbd",
        "don't/do* run/vb ./.",
        "in/in 1961/cd he/pps ran/vbd",
        "dogs/nns &/cc cats/nns",
    ],
)
def test_sentences_with_proper_nouns_or_other_signs_are_dropped(text):
    assert _cleaned((tagged(text),)) == ()


def test_similar_tags_are_no_proper_nouns():
    (sentence,) = _cleaned((tagged("nobody/pn saw/vbd Friday/nr"),))
    assert sentence.words == ("nobody", "saw", "friday")


def test_marks_hang_on_the_word_before_and_quotes_and_dashes_go():
    text = "``/`` well/uh ,/, ''/'' said/vbd (/( the/at dog/nn )/) --/-- run/vb ;/. ;/. now/rb ?/. ?/."
    (sentence,) = _cleaned((tagged(text),))
    written = " ".join(word + mark for word, mark in zip(sentence.words, sentence.marks, strict=True))
    assert written == "well, said the dog run; now?"


def test_which_sentences_follow_each_other():
    sentences = [
        tagged("one/cd dog/nn ./."),
        tagged("two/cd dogs/nns ./."),
        tagged("Mary/np ran/vbd"),
        tagged("three/cd dogs/nns"),
        tagged("``/``"),
        tagged("four/cd dogs/nns"),
        tagged("Mary/np ran/vbd"),
        tagged(")/)"),
        tagged("five/cd dogs/nns"),
        tagged("six/cd dogs/nns", "d2"),
    ]
    kept = _cleaned(tuple(sentences))
    assert [sentence.words[0] for sentence in kept] == ["one", "two", "three", "four", "five", "six"]
    assert [sentence.follows for sentence in kept] == [False, True, False, True, False, False]


@pytest.mark.slow
def test_what_is_left_of_brown_is_letters_in_lower_case(brown):
    kept = clean_brown()
    assert 25_000 < len(kept) < 35_000
    words = {word for sentence in kept for word in sentence.words}
    assert all(word.isalpha() and word == word.lower() for word in words)
    assert not any(tag.startswith("np") for sentence in kept for tag in sentence.tags)


# runs


def plain_documents(brown):
    """Return each document as one text, with a bar where a word has other signs than letters and hyphens."""
    documents = {}
    for sentence in brown:
        for word in sentence.words:
            if any(c.isalnum() for c in word):
                text = word.lower().replace("-", " ")
                documents.setdefault(sentence.document, []).append(text if text.replace(" ", "").isalpha() else "|")
    return {name: " ".join(" ".join(words).split()) for name, words in documents.items()}


def test_runs_stand_in_the_corpus_as_they_are(brown):
    runs = load_word_runs(seed=3)
    assert len(runs) == 114
    assert not runs.provenance["over_gaps"]
    documents = plain_documents(brown)
    for text, document in zip(runs.texts, runs.column("document"), strict=True):
        assert len(text.split()) == 40
        assert f" {text} " in f" {documents[document]} "


def test_runs_are_not_aligned_to_sentences(brown):
    starts = {sentence.words[:6] for sentence in clean_brown()}
    at_start = [tuple(text.split()[:6]) in starts for text in load_word_runs().texts]
    assert np.mean(at_start) < 0.2


def test_runs_do_not_overlap_and_do_not_reach_over_gaps(monkeypatch):
    words = numbered(300)
    sentences = (clean(words[:47], follows=False), clean(words[47:130]), clean(words[130:], follows=False))
    monkeypatch.setattr(word_sequences, "clean_brown", lambda: sentences)
    monkeypatch.setattr(word_sequences, "find_manifest", lambda name: (_Provenance(), []))
    runs = load_word_runs(n=16, n_words=15)
    assert runs.provenance["n_qualified"] == 130 // 15 + 170 // 15
    seen = [word for text in runs.texts for word in text.split()]
    assert len(set(seen)) == len(seen) == 16 * 15
    for text in runs.texts:
        at = words.index(text.split()[0])
        assert text.split() == words[at : at + 15]
        assert at + 15 <= 130 or at >= 130
    with pytest.raises(InputError, match="has 20 runs of 15 words, 21 were asked for"):
        load_word_runs(n=21, n_words=15)


class _Provenance:
    def provenance(self, *paths):
        return {"simulated": False}


def test_words_that_are_not_allowed_end_a_run(monkeypatch):
    words = numbered(100)
    monkeypatch.setattr(word_sequences, "clean_brown", lambda: (clean(words, follows=False),))
    monkeypatch.setattr(word_sequences, "find_manifest", lambda name: (_Provenance(), []))
    allowed = [word.upper() for word in words if word != words[50]]
    runs = load_word_runs(n=8, n_words=12, allowed=allowed)
    assert words[50] not in {word for text in runs.texts for word in text.split()}
    assert not runs.provenance["over_gaps"]


def test_too_few_runs_without_gaps_reach_over_them(monkeypatch):
    words = numbered(100)
    sentences = tuple(clean(words[i : i + 10], follows=False) for i in range(0, 100, 10))
    monkeypatch.setattr(word_sequences, "clean_brown", lambda: sentences)
    monkeypatch.setattr(word_sequences, "find_manifest", lambda name: (_Provenance(), []))
    runs = load_word_runs(n=2, n_words=30, allowed=[word for word in words if word != words[15]])
    assert runs.provenance["over_gaps"]
    left = words[:10] + words[20:]  # the sentence of the word that is not allowed is gone as a whole
    for text in runs.texts:
        at = left.index(text.split()[0])
        assert text.split() == left[at : at + 30]


def test_documents_are_never_joined(monkeypatch):
    words = numbered(60)
    sentences = (clean(words[:30], "d1", False), clean(words[30:], "d2", False))
    monkeypatch.setattr(word_sequences, "clean_brown", lambda: sentences)
    with pytest.raises(InputError, match="has 0 runs of 40 words, 1 were asked for: ask for fewer or shorter ones"):
        load_word_runs(n=1, n_words=40)


# sentences


def test_sentences_are_whole_and_of_one_length(brown):
    sequences = load_sentence_sequences(n=30, n_sentences=3, sentence_words=8)
    whole = {sentence.words for sentence in clean_brown()}
    assert sequences.column("n_words").tolist() == [24] * 30
    assert sequences.column("sentence_words").tolist() == [8] * 30
    for text, documents in zip(sequences.texts, sequences.column("document"), strict=True):
        parts = [tuple(text.split()[i : i + 8]) for i in (0, 8, 16)]
        assert all(part in whole for part in parts)
        assert len(set(parts)) == 3
        assert len(documents.split()) == 3


def test_defaults_are_the_published_ones(brown):
    sequences = load_sentence_sequences()
    assert len(sequences) == 250
    assert {len(text.split()) for text in sequences.texts} == {60}


@pytest.mark.parametrize("load", [load_word_runs, load_sentence_sequences])
@pytest.mark.parametrize("source", ["brown", "template"])
def test_every_word_has_its_tag(load, source, request):
    if source == "brown":
        request.getfixturevalue("brown")
    sequences = load(n=10, source=source)
    known = tagged_words(source)
    for text, tags in zip(sequences.texts, sequences.column("tags"), strict=True):
        assert len(text.split()) == len(tags.split())
        assert all(word in known[tag] for word, tag in zip(text.split(), tags.split(), strict=True))
    assert sequences.provenance["source"] == source
    assert sequences.provenance.get("simulated", False) is (source == "template")


@pytest.mark.parametrize("load", [load_word_runs, load_sentence_sequences])
@pytest.mark.parametrize("source", ["brown", "template"])
def test_marks_change_nothing_else(load, source, request):
    if source == "brown":
        request.getfixturevalue("brown")
    plain, marked = load(n=10, source=source), load(n=10, source=source, punctuation=True)
    assert any(text.rstrip()[-1] in ".?" for text in marked.texts) or load is load_word_runs
    assert any("." in text for text in marked.texts)
    assert [" ".join(word.strip(".,:;?!") for word in text.split()) for text in marked.texts] == plain.texts


@pytest.mark.parametrize("load", [load_word_runs, load_sentence_sequences])
def test_seeds(load):
    state = random.getstate(), str(np.random.mtrand._rand.get_state())
    one, same, other = (load(n=20, source="template", seed=seed) for seed in (1, 1, 2))
    assert one.items == same.items
    assert one.items != other.items
    assert (random.getstate(), str(np.random.mtrand._rand.get_state())) == state


def test_allowed_words_of_the_template_language():
    allowed = [word for word in lexicon() if word not in ("the", "chef", "is")]
    for sequences in (
        load_word_runs(n=30, source="template", allowed=allowed),
        load_sentence_sequences(n=20, source="template", sentence_words=9, allowed=allowed),
    ):
        assert set(" ".join(sequences.texts).split()) <= set(allowed)


# tags and names


def test_every_word_of_the_template_language_has_a_tag():
    assert set(template_tags()) == set(lexicon())
    found = tagged_words("template")
    assert sum(len(words) for words in found.values()) == len(lexicon())
    assert {"dog", "chef", "kitchen"} <= set(found["nn"])
    assert {"dogs", "men", "days"} <= set(found["nns"])
    assert {"eat", "read", "run"} <= set(found["vb"])
    assert {"eaten", "written"} <= set(found["vbn"])


def test_tagged_words_of_brown_are_counted(brown):
    found = tagged_words("brown")
    n = sum(word == "the" and tag == "at" for s in clean_brown() for word, tag in zip(s.words, s.tags, strict=True))
    assert found["at"]["the"] == n > 10_000
    assert list(found) == sorted(found)
    with pytest.raises(UnknownNameError, match="Known: brown, template"):
        tagged_words("browne")


def test_names_of_the_registry():
    runs = data.load_stimuli("simulated-word-runs", n=3, n_words=20)
    assert runs.items == load_word_runs(n=3, n_words=20, source="template").items
    assert runs.name == "simulated-word-runs"
    sequences = data.load_stimuli("simulated-sentence-sequences", n=3, punctuation=True)
    assert sequences.items == load_sentence_sequences(n=3, source="template", punctuation=True).items
    rows = data.list_data().set_index("name")
    assert rows.loc["simulated-word-runs", "access"] == "generated"
    assert rows.loc[["word-runs", "sentence-sequences"], "n_files"].tolist() == [1, 1]
    with pytest.raises(InputError, match="Did you mean 'n_words'"):
        data.load_stimuli("word-runs", n_word=3)


def test_sequences_of_brown_by_name(brown):
    assert data.load_stimuli("word-runs", n=2).items == load_word_runs(n=2).items
    assert data.load_stimuli("sentence-sequences", n=2).name == "sentence-sequences"


@pytest.mark.parametrize("name", ["word-runs", "sentence-sequences"])
def test_where_there_is_no_brown_the_simulated_set_is_named(store, name):
    with pytest.raises(DataFileError, match=rf"brown_tagged.tsv.gz.*'simulated-{name}'"):
        data.load_stimuli(name)
    assert len(data.load_stimuli(f"simulated-{name}", n=2)) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_word_runs(n=0, source="template"), "n must be a whole number of at least 1, got 0"),
        (lambda: load_word_runs(n_words=2.5, source="template"), "n_words must be a whole number"),
        (lambda: load_sentence_sequences(n_sentences=True, source="template"), "n_sentences must be a whole number"),
        (lambda: load_word_runs(source="template", allowed="the dog"), "allowed must be a collection of words"),
        (
            lambda: load_word_runs(source="template", allowed=["the"]),
            "the template language, with 1 words allowed, has 0",
        ),
        (lambda: load_sentence_sequences(source="template", sentence_words=30), "n_words must lie in 4-16"),
        (
            lambda: load_sentence_sequences(source="template", allowed=["the", "dog"]),
            "has 0 sentences of exactly 12 words, a sequence needs 5 different ones.*allow more words",
        ),
        (lambda: load_word_runs(source="template", seed=-1), "seed must be a whole number"),
        (lambda: load_word_runs(source="template", seed="x"), "seed must be a whole number of 0 or more, got 'x'"),
        (lambda: load_word_runs(source="template", seed=None), "seed must be a whole number of 0 or more, got None"),
        (lambda: load_sentence_sequences(source="template", seed=2.7), "seed must be a whole number"),
        (lambda: load_sentence_sequences(source="template", seed=True), "seed must be a whole number"),
        (lambda: load_word_runs(source="template", punctuation="no"), "punctuation must be True or False, got 'no'"),
        (lambda: load_word_runs(source="template", allowed=5), "allowed must be a collection of words, got 5"),
        (lambda: load_word_runs(source="template", allowed=["the", 1]), "allowed must hold words, got 1"),
    ],
)
def test_bad_options(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_an_unknown_source():
    with pytest.raises(UnknownNameError, match=r"unknown source 'browm'. Did you mean 'brown'"):
        load_word_runs(source="browm")
