"""Sequences of words: runs of natural text, and sentences of equal length one after the other, each word with its tag.

Question answered: on what are integration windows measured? Swapping one word of a sequence and looking at the words after
it needs sequences of one length, words that a model reads as one token, and, for windows that may end with a sentence,
sentences that all have the same number of words.

Words are lower-case and separated by single blanks. Brown is cleaned as in the published procedure: hyphens split words,
and a sentence with a proper noun or a word that is not made of letters is dropped. Marks are dropped too, or, with
``punctuation=True``, full stops, commas, colons, semicolons, question and exclamation marks hang on the word before them.
(Quotes, brackets and dashes are always dropped: they stand before words and change their tokens.) The same sequences can be
had from the template language, which needs no file and is **simulated**.

References
----------
Skrill & Norman-Haignere (2023) NeurIPS 36:638.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from topobrain._checks import InputError, require_choice
from topobrain.data import lexicon
from topobrain.data.brown_tagged import FILE, TaggedSentence, read_tagged
from topobrain.data.nonwords import stream
from topobrain.data.template_language import MAX_WORDS, MIN_WORDS, generate_sentences
from topobrain.stimuli import StimulusSet
from topobrain.store.files import fetch, find_manifest

SOURCES = ("brown", "template")
MARKS = frozenset(".,:;?!")
"""Marks that may hang on the word before them."""
NO_MARKS = frozenset("`'\"()[]-")
"""Quotes, brackets and dashes, which are dropped."""
PROPER_NOUNS = ("np", "nnp")
"""Beginnings of the tags of proper nouns (``np``, ``nps``, ``np$``, ``np-tl``, ...)."""
TEXT_PARTS = ("-tl", "-hl", "-nc")
"""Endings of tags for words in titles, headlines and citations; they tell nothing of the word's part of speech."""
TEMPLATE_POOL = 2000
"""Different sentences of the template language from which sequences are drawn."""


class CleanSentence(NamedTuple):
    """A sentence as sequences use it.

    Attributes
    ----------
    words, tags, marks
        Lower-case words, their tags, and the mark behind each word (or nothing); of equal number.
    document
        Name of the text it is from.
    follows
        Whether the sentence before it in the list is the one before it in the text.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    marks: tuple[str, ...]
    document: str
    follows: bool


class _Options(NamedTuple):
    """What both kinds of sequences take, checked."""

    source: str
    punctuation: bool
    allowed: frozenset[str] | None
    seed: int


def load_word_runs(
    *,
    n: int = 114,
    n_words: int = 40,
    source: str = "brown",
    punctuation: bool = False,
    allowed: Collection[str] | None = None,
    seed: int = 0,
) -> StimulusSet:
    """Return runs of natural words that begin and end anywhere in a sentence: for integration over words as such.

    Runs do not overlap. If enough runs exist without a gap, no run reaches over a sentence that was dropped, and words that are
    not allowed end a run. Otherwise (long runs, few allowed words) sentences with words that are not allowed are dropped
    whole, and runs reach over dropped sentences within a document; ``provenance["over_gaps"]`` says so. Sentences of the
    template language have nothing to do with their neighbours, so there its runs always do.

    Parameters
    ----------
    n
        Number of runs; the published demonstration has 114.
    n_words
        Words a run, exactly.
    source
        ``"brown"``, or ``"template"`` for the template language (simulated; no file is needed).
    punctuation
        Whether marks hang on the words before them.
    allowed
        Words that may occur (in any case), such as those that are one token for a model (default: all).
    seed
        Seed of where runs begin and which are taken.

    Returns
    -------
    StimulusSet
        Columns ``tags`` (one a word, separated by blanks), ``n_words``, ``sentence_words`` (0: no run is aligned to
        sentences) and ``document``.

    Raises
    ------
    InputError
        A number below 1, an unknown option, or fewer runs than asked for.
    DataFileError
        Brown with tags is not in the store; the message names the set that needs no file.
    """
    options = _checked(source, punctuation, allowed, seed, n=n, n_words=n_words)
    rng = stream(seed, "word-runs")
    attempts: list[tuple[bool, int]] = [(False, 0), (True, 0)]
    if source == "template":  # the more words are forbidden, the more sentences it takes
        needed = math.ceil(n * n_words / (MIN_WORDS + 3)) + 50
        attempts = [(True, needed), (True, 4 * needed)] if options.allowed else [(True, needed)]
    runs: list[tuple[list[_Piece], int]] = []
    for over_gaps, n_pool in attempts:
        runs = []
        for stretch in _stretches(_pool(options, n_pool), options.allowed, over_gaps):
            n_runs, spare = divmod(sum(piece.stop - piece.start for piece in stretch), n_words)
            start = int(rng.integers(spare + 1)) if n_runs else 0
            runs += [(stretch, start + i * n_words) for i in range(n_runs)]
        if len(runs) >= n:
            break
    if len(runs) < n:
        raise InputError(
            f"{_named(options)} has {len(runs)} runs of {n_words} words, {n} were asked for: ask for fewer or shorter ones"
            f"{', or allow more words' if options.allowed is not None else ''}"
        )
    taken = [runs[i] for i in rng.permutation(len(runs))[:n]]
    chosen = [_piece_of(stretch, start, n_words) for stretch, start in taken]
    return _sequences(chosen, 0, "word-runs", options, n_qualified=len(runs), over_gaps=over_gaps)


def load_sentence_sequences(
    *,
    n: int = 250,
    n_sentences: int = 5,
    sentence_words: int = 12,
    source: str = "brown",
    punctuation: bool = False,
    allowed: Collection[str] | None = None,
    seed: int = 0,
) -> StimulusSet:
    """Return sequences of sentences that all have the same number of words: for windows that may end with a sentence.

    The sentences of a sequence are drawn at random from all texts and differ from each other; a sentence may occur in
    several sequences.

    Parameters
    ----------
    n, n_sentences, sentence_words
        Sequences, sentences a sequence, words a sentence. The defaults are the published ones; the template language
        writes sentences of 4 to 16 words.
    source, punctuation, allowed, seed
        As in `load_word_runs`; a sentence with a word that is not allowed is left out.

    Returns
    -------
    StimulusSet
        Columns ``tags`` (one a word, separated by blanks), ``n_words``, ``sentence_words`` and ``document`` (of each
        sentence, separated by blanks).

    Raises
    ------
    InputError
        A number below 1, an unknown option, or fewer different sentences than a sequence has.
    DataFileError
        Brown with tags is not in the store; the message names the set that needs no file.
    """
    options = _checked(source, punctuation, allowed, seed, n=n, n_sentences=n_sentences, sentence_words=sentence_words)
    rng = stream(seed, "sentence-sequences")
    pool = [s for s in _pool(options, TEMPLATE_POOL, sentence_words) if len(s.words) == sentence_words]
    pool = list({s.words: s for s in pool if _is_allowed(s, options.allowed)}.values())
    if len(pool) < n_sentences:
        raise InputError(
            f"{_named(options)} has {len(pool)} sentences of exactly {sentence_words} words, a sequence needs {n_sentences} "
            f"different ones: choose another length{', or allow more words' if options.allowed is not None else ''}"
        )
    chosen = []
    for _ in range(n):
        drawn = rng.choice(len(pool), n_sentences, replace=False)
        chosen.append([_Piece(pool[i], 0, sentence_words) for i in drawn])
    return _sequences(chosen, sentence_words, "sentence-sequences", options, n_qualified=len(pool))


def load_simulated_word_runs(
    *,
    n: int = 114,
    n_words: int = 40,
    punctuation: bool = False,
    allowed: Collection[str] | None = None,
    seed: int = 0,
) -> StimulusSet:
    """Return `load_word_runs` of the template language: simulated, and no file is needed."""
    return load_word_runs(n=n, n_words=n_words, source="template", punctuation=punctuation, allowed=allowed, seed=seed)


def load_simulated_sentence_sequences(
    *,
    n: int = 250,
    n_sentences: int = 5,
    sentence_words: int = 12,
    punctuation: bool = False,
    allowed: Collection[str] | None = None,
    seed: int = 0,
) -> StimulusSet:
    """Return `load_sentence_sequences` of the template language: simulated, and no file is needed."""
    return load_sentence_sequences(
        n=n, n_sentences=n_sentences, sentence_words=sentence_words, source="template", punctuation=punctuation,
        allowed=allowed, seed=seed,
    )  # fmt: skip


def tagged_words(source: str) -> Mapping[str, Mapping[str, int]]:
    """Return which words a tag has, and how often: what a word may be swapped for.

    Parameters
    ----------
    source
        ``"brown"`` (all sentences that are left after cleaning) or ``"template"`` (every word of the language).

    Returns
    -------
    Mapping
        Tag -> word -> number of times it occurs with the tag (1 for every word of the template language); tags and words
        in alphabetical order. A word with several tags is found under each.

    Raises
    ------
    UnknownNameError
        No such source.
    DataFileError
        Brown with tags is not in the store.

    Examples
    --------
    >>> list(tagged_words("template")["ql"])
    ['quite', 'rather', 'really', 'very']
    """
    require_choice("source", source, SOURCES)
    counts: dict[str, Counter[str]] = {}
    if source == "template":
        for word, tag in template_tags().items():
            counts.setdefault(tag, Counter())[word] = 1
    else:
        for sentence in clean_brown():
            for word, tag in zip(sentence.words, sentence.tags, strict=True):
                counts.setdefault(tag, Counter())[word] += 1
    return MappingProxyType({tag: MappingProxyType(dict(sorted(counts[tag].items()))) for tag in sorted(counts)})


def clean_brown() -> tuple[CleanSentence, ...]:
    """Return the sentences of Brown that have neither proper nouns nor words of other signs than letters, in order."""
    return _cleaned_file(fetch("text_corpora", [FILE])[FILE])


@functools.lru_cache(maxsize=1)
def _cleaned_file(path: Path) -> tuple[CleanSentence, ...]:
    return _cleaned(read_tagged(path))


def _cleaned(sentences: Iterable[TaggedSentence]) -> tuple[CleanSentence, ...]:
    kept: list[CleanSentence] = []
    document, follows = "", False
    for sentence in sentences:
        follows = follows and sentence.document == document
        document = sentence.document
        clean = _clean(sentence, follows)
        if clean is None:
            follows = False
        elif clean.words:  # a bracket alone on its line is no gap, and closes none
            kept.append(clean)
            follows = True
    return tuple(kept)


def _clean(sentence: TaggedSentence, follows: bool) -> CleanSentence | None:
    """Return a sentence without what is no word (maybe nothing is left), or None if it holds a word that it must not."""
    words: list[str] = []
    tags: list[str] = []
    marks: list[str] = []
    for written, tag in zip(sentence.words, sentence.tags, strict=True):
        found = _token(written, tag)
        if found is None:
            return None
        parts, tag, mark = found
        if mark and words:
            marks[-1] = mark  # of two marks (a comma within quotes, a full stop behind) the last one counts
        words += parts
        tags += [tag] * len(parts)
        marks += [""] * len(parts)
    return CleanSentence(tuple(words), tuple(tags), tuple(marks), sentence.document, follows)


@functools.lru_cache(maxsize=2**17)  # words come again and again
def _token(written: str, tag: str) -> tuple[tuple[str, ...], str, str] | None:
    """Return the words in a word as written, their tag and its mark; None for what no sentence may hold."""
    if not any(character.isalnum() for character in written):
        if not (MARKS | NO_MARKS).issuperset(written):  # & and / stand for words
            return None
        return (), tag, written[-1] if written[-1] in MARKS else ""
    parts = tuple(part for part in written.lower().split("-") if part)
    proper = any(part.removeprefix("fw-").startswith(PROPER_NOUNS) for part in tag.split("+"))
    if proper or not all(part.isalpha() for part in parts):
        return None
    while tag.endswith(TEXT_PARTS):
        tag = tag[:-3]
    return parts, tag, ""


@functools.lru_cache(maxsize=1)
def template_tags() -> Mapping[str, str]:
    """Return the tag of every word of the template language, in the notation of Brown.

    >>> [template_tags()[word] for word in "the chefs laughed very quietly".split()]
    ['at', 'nns', 'vbd', 'ql', 'rb']
    """
    tags = {
        **dict.fromkeys(("the", "a", "an", "every", "each", "last"), "at"),
        **dict.fromkeys(("this", "these", "some", "many", "two"), "dt"),
        **dict.fromkeys(("my", "our"), "pp$"),
        **dict.fromkeys(("is", "are", "was", "were"), "be"),
        **dict.fromkeys(("does", "do", "did"), "do"),
        **dict.fromkeys(("by", "in", "on", "at", "near", "behind", "before", "after"), "in"),
        **dict.fromkeys(lexicon.INTENSIFIERS, "ql"),
        "and": "cc",
        "that": "cs",
        "who": "wps",
    }
    topics = lexicon.topics().values()
    for topic in topics:
        for noun in (*topic.agents, *topic.things, *topic.abstracts):
            tags[noun.singular] = "nn"
            if noun.plural:
                tags[noun.plural] = "nns"
    verbs = [verb for topic in topics for verb in (*topic.transitive, *topic.intransitive)]
    for verb in (*verbs, *lexicon.clause_verbs(), *lexicon.cause_verbs()):
        # written in this order, a form that is two of them (run, praised) goes by the more frequent use
        tags |= {verb.participle: "vbn", verb.past: "vbd", verb.third: "vbz", verb.base: "vb"}
    classes = {"noun": "nn", "adjective": "jj", "adverb": "rb"}
    for word, form in lexicon.content_forms().items():
        if word not in tags:  # places, times, adjectives and adverbs
            tags[word] = "nns" if form.word_class == "noun" and form.suffix else classes[form.word_class]
    return MappingProxyType(tags)


class _Piece(NamedTuple):
    """Words of a sentence, from one place to before another."""

    sentence: CleanSentence
    start: int
    stop: int


def _piece_of(stretch: Sequence[_Piece], start: int, n_words: int) -> list[_Piece]:
    """Return so many words of a stretch."""
    pieces = []
    for piece in stretch:
        length = piece.stop - piece.start
        first, last = max(start, 0), min(start + n_words, length)
        if first < last:
            pieces.append(_Piece(piece.sentence, piece.start + first, piece.start + last))
        start -= length
        if start + n_words <= 0:
            break
    return pieces


def _checked(source: str, punctuation: bool, allowed: Collection[str] | None, seed: int, **numbers: int) -> _Options:
    require_choice("source", source, SOURCES)
    for what, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
            raise InputError(f"{what} must be a whole number of at least 1, got {number!r}")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed must be a whole number of 0 or more, got {seed!r}")
    if not isinstance(punctuation, bool | np.bool_):
        raise InputError(f"punctuation must be True or False, got {punctuation!r}")
    if isinstance(allowed, str):
        raise InputError("allowed must be a collection of words, got one string; split it into words")
    if allowed is not None and not isinstance(allowed, Iterable):
        raise InputError(f"allowed must be a collection of words, got {allowed!r}")
    given = None if allowed is None else list(allowed)
    for word in given or ():
        if not isinstance(word, str):
            raise InputError(f"allowed must hold words, got {word!r}")
    words = None if given is None else frozenset(word.lower() for word in given)
    return _Options(source, bool(punctuation), words, int(seed))


def _named(options: _Options) -> str:
    what = "Brown" if options.source == "brown" else "the template language"
    return what if options.allowed is None else f"{what}, with {len(options.allowed)} words allowed,"


def _is_allowed(sentence: CleanSentence, allowed: frozenset[str] | None) -> bool:
    return allowed is None or allowed.issuperset(sentence.words)


def _pool(options: _Options, n_pool: int, sentence_words: int | None = None) -> Sequence[CleanSentence]:
    """Return all sentences of the source, with marks if they are wanted."""
    if options.source == "brown":
        sentences = clean_brown()
        if options.punctuation:
            return sentences
        return [sentence._replace(marks=("",) * len(sentence.words)) for sentence in sentences]
    lengths = sentence_words or (MIN_WORDS, MAX_WORDS - 3)
    written = generate_sentences(n_pool, seed=options.seed, n_words=lengths, name="simulated-sequences")
    tags = template_tags()
    found = []
    for text, template in zip(written.texts, written.column("template"), strict=True):
        words = tuple(text.split())
        last = ("?" if template == "question" else ".") if options.punctuation else ""
        marks = ("",) * (len(words) - 1) + (last,)
        found.append(CleanSentence(words, tuple(tags[word] for word in words), marks, "simulated", False))
    return found


def _stretches(
    sentences: Iterable[CleanSentence], allowed: frozenset[str] | None, over_gaps: bool
) -> list[list[_Piece]]:
    """Return text in which runs may lie: cut at every gap, or only where a document ends."""
    stretches: list[list[_Piece]] = [[]]
    document = ""
    for sentence in sentences:
        whole = _is_allowed(sentence, allowed)
        if over_gaps and not whole:
            continue
        if sentence.document != document or not (over_gaps or sentence.follows):
            stretches.append([])
        document, start = sentence.document, 0
        if not whole:
            for place, word in enumerate(sentence.words):
                if allowed is not None and word not in allowed:
                    stretches[-1].append(_Piece(sentence, start, place))
                    stretches.append([])
                    start = place + 1
        stretches[-1].append(_Piece(sentence, start, len(sentence.words)))
    return stretches


def _sequences(
    chosen: Sequence[Sequence[_Piece]], sentence_words: int, name: str, options: _Options, **found: Any
) -> StimulusSet:
    """Return sequences with their table and where they come from."""
    words = [[s.words[i] + s.marks[i] for s, start, stop in run for i in range(start, stop)] for run in chosen]
    table: dict[str, Sequence[Any]] = {
        "tags": [" ".join(tag for s, start, stop in run for tag in s.tags[start:stop]) for run in chosen],
        "n_words": [len(run) for run in words],
        "sentence_words": [sentence_words] * len(chosen),
        "document": [" ".join(s.document for s, _, _ in (run if sentence_words else run[:1])) for run in chosen],
    }
    if options.source == "brown":
        manifest, _ = find_manifest("text_corpora")
        provenance = manifest.provenance(FILE)
    else:
        name = f"simulated-{name}"
        provenance = {
            "simulated": True,
            "generator": "topobrain template language",
            "licence": "BSD-3-Clause, generated by topobrain",
            "citation": "topobrain (simulated stimuli; no published data)",
        }
    provenance |= {
        "name": name,
        "source": options.source,
        "punctuation": options.punctuation,
        "n_allowed": None if options.allowed is None else len(options.allowed),
        "seed": options.seed,
        **found,
    }
    texts = [" ".join(run) for run in words]
    return StimulusSet(texts, table, name=name, provenance=provenance)
