"""The grammar of the template language: syntactic templates, agreement, and the choice of words by topic and mood."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from topobrain._checks import InputError
from topobrain.data.lexicon import (
    BE,
    DO,
    INTENSIFIERS,
    MASS_DETERMINERS,
    PLURAL_DETERMINERS,
    SINGULAR_DETERMINERS,
    TIMES,
    VOWELS,
    Modifier,
    Noun,
    Topic,
    Verb,
    adverbs,
    cause_verbs,
    clause_verbs,
    topics,
)

GENERAL_SHARE = {"noun": 0.15, "verb": 0.2, "adjective": 0.35, "place": 0.2}
"""Share of words taken from the general pool instead of the sentence's topic; the four make topics overlap."""
PLURAL_SHARE = 0.35
MAX_TRIES = 200
MAX_REPEATS = 20000
"""Sentences already written that come up in a row before the language counts as used up."""


class _Phrase(NamedTuple):
    """A noun phrase as drawn: its words, noun and number."""

    words: list[str]
    noun: Noun
    plural: bool


@dataclass
class _Writer:
    """One sentence in the making: its topic, mood and tense, the optional slots in use, and what was said so far."""

    rng: np.random.Generator
    topic: Topic
    mood: int
    tense: str
    extras: Collection[str]
    used: set[str] = field(default_factory=set)
    polarity: list[int] = field(default_factory=list)
    concrete: list[float] = field(default_factory=list)
    main_verb: str = "other"
    subject: _Phrase | None = None

    def pick(self, options: Sequence[Any]) -> Any:
        return options[int(self.rng.random() * len(options))]

    def pool(self, what: str) -> Topic:
        """Return the topic, or now and then the general words."""
        return topics()["general"] if self.rng.random() < GENERAL_SHARE[what] else self.topic

    def toned(self, options: Sequence[Any]) -> Any:
        """Return an option that suits the mood more often than not."""
        for _ in range(8):
            chosen = self.pick(options)
            suits = 1.0 if chosen.polarity == self.mood else 0.4 if chosen.polarity * self.mood == 0 else 0.1
            if self.rng.random() < suits:
                break
        if chosen.polarity:
            self.polarity.append(chosen.polarity)
        return chosen

    def verb(self, *takes: str, main: bool = False) -> Verb:
        """Return a verb that takes such an object; clause and cause verbs are general, the others the topic's."""
        if takes == ("clause",):
            options = clause_verbs()
        elif takes == ("cause",):
            options = cause_verbs()
        else:
            words = self.pool("verb")
            options = tuple(
                v for v in (*words.transitive, *words.intransitive) if v.takes in takes and v.base not in self.used
            )
        verb: Verb = self.toned(options)
        self.used.add(verb.base)
        self.concrete.append(1.0 if verb.kind != "other" else 0.0)
        if main:
            self.main_verb = verb.kind
        return verb

    def finite(self, verb: Verb, plural: bool) -> str:
        """Return the verb as it stands after a subject of that number."""
        return verb.past if self.tense == "past" else verb.base if plural else verb.third

    def adjective(self, noun: Noun) -> str:
        fits = "animate" if noun.animate else "thing" if noun.concrete else "abstract"
        modifier: Modifier = self.toned(self.pool("adjective").adjectives[fits])
        return modifier.form

    def phrase(self, kind: str, slot: str, *, subject: bool = False) -> _Phrase:
        """Draw a noun phrase: ``kind`` is animate, thing or abstract; ``slot`` names its optional adjective."""
        for _ in range(MAX_TRIES):
            words = self.pool("noun")
            noun: Noun = self.pick({"animate": words.agents, "thing": words.things, "abstract": words.abstracts}[kind])
            if noun.singular not in self.used:
                break
        self.used.add(noun.singular)
        self.concrete.append(1.0 if noun.concrete else 0.0)
        plural = bool(noun.plural) and self.rng.random() < PLURAL_SHARE
        options = PLURAL_DETERMINERS if plural else SINGULAR_DETERMINERS if noun.plural else MASS_DETERMINERS
        found = [self.pick(options)]
        if slot in self.extras:
            found.append(self.adjective(noun))
        found.append(noun.plural if plural else noun.singular)
        if found[0] == "a" and found[1][0] in VOWELS:
            found[0] = "an"
        phrase = _Phrase(found, noun, plural)
        if subject:
            self.subject = phrase
        return phrase

    def object_of(self, verb: Verb, slot: str) -> _Phrase:
        return self.phrase(verb.takes if verb.takes in ("animate", "thing") else "animate", slot)

    def tail(self) -> list[str]:
        """Return the optional adverb, place and time that close a sentence."""
        words: list[str] = []
        if "adverb" in self.extras:
            words.append(self.toned(adverbs()).form)
        if "place" in self.extras:
            preposition, noun = self.pick(self.pool("place").places)
            words += [preposition, "the", noun]
            self.concrete.append(1.0)
        if "time" in self.extras:
            words += self.pick(TIMES[self.tense] + TIMES["any"]).split()
        return words


def _copular(w: _Writer) -> list[str]:
    """As in: the soup is (very) warm."""
    subject = w.phrase(w.pick(("animate", "thing")), "adjective0", subject=True)
    very = [w.pick(INTENSIFIERS)] if "very" in w.extras else []
    adjective = w.adjective(subject.noun)
    while adjective in subject.words:
        adjective = w.adjective(subject.noun)
    return [*subject.words, BE[w.tense, subject.plural], *very, adjective, *w.tail()]


def _intransitive(w: _Writer) -> list[str]:
    """As in: the chef laughs."""
    subject = w.phrase("animate", "adjective0", subject=True)
    return [*subject.words, w.finite(w.verb("nothing", main=True), subject.plural), *w.tail()]


def _predicate(w: _Writer, plural: bool, slot: str, *, main: bool = False) -> list[str]:
    verb = w.verb("thing", "animate", main=main)
    return [w.finite(verb, plural), *w.object_of(verb, slot).words]


def _transitive(w: _Writer) -> list[str]:
    """As in: the chef eats the pie."""
    subject = w.phrase("animate", "adjective0", subject=True)
    return [*subject.words, *_predicate(w, subject.plural, "adjective1", main=True), *w.tail()]


def _cause(w: _Writer) -> list[str]:
    """As in: hunger worries the guest."""
    subject = w.phrase("abstract", "adjective0", subject=True)
    verb = w.verb("cause", main=True)
    return [*subject.words, w.finite(verb, subject.plural), *w.phrase("animate", "adjective1").words, *w.tail()]


def _question(w: _Writer) -> list[str]:
    """As in: does the chef eat the pie."""
    subject = w.phrase("animate", "adjective0", subject=True)
    verb = w.verb("thing", "animate", main=True)
    return [DO[w.tense, subject.plural], *subject.words, verb.base, *w.object_of(verb, "adjective1").words, *w.tail()]


def _passive(w: _Writer) -> list[str]:
    """As in: the pie is eaten by the chef."""
    verb = w.verb("thing", "animate", main=True)
    subject = w.phrase(verb.takes, "adjective0", subject=True)
    agent = w.phrase("animate", "adjective1")
    return [*subject.words, BE[w.tense, subject.plural], verb.participle, "by", *agent.words, *w.tail()]


def _coordination(w: _Writer) -> list[str]:
    """As in: the chef eats the pie and serves the cake."""
    subject = w.phrase("animate", "adjective0", subject=True)
    first = _predicate(w, subject.plural, "adjective1", main=True)
    return [*subject.words, *first, "and", *_predicate(w, subject.plural, "adjective2"), *w.tail()]


def _relative(w: _Writer) -> list[str]:
    """As in: the chef who eats the pie laughs."""
    subject = w.phrase("animate", "adjective0", subject=True)
    who = "who" if subject.noun.human else "that"
    inner = _predicate(w, subject.plural, "adjective1")
    return [*subject.words, who, *inner, w.finite(w.verb("nothing", main=True), subject.plural), *w.tail()]


def _object_relative(w: _Writer) -> list[str]:
    """As in: the pie that the chef eats is warm."""
    subject = w.phrase("thing", "adjective0", subject=True)
    agent = w.phrase("animate", "adjective1")
    verb = w.verb("thing")
    very = [w.pick(INTENSIFIERS)] if "very" in w.extras else []
    adjective = w.adjective(subject.noun)
    while adjective in subject.words:
        adjective = w.adjective(subject.noun)
    be = BE[w.tense, subject.plural]
    return [*subject.words, "that", *agent.words, w.finite(verb, agent.plural), be, *very, adjective, *w.tail()]


def _complement(w: _Writer) -> list[str]:
    """As in: the chef says that the guest eats the pie."""
    speaker = w.phrase("animate", "adjective0", subject=True)
    says = w.finite(w.verb("clause", main=True), speaker.plural)
    subject = w.phrase("animate", "adjective1")
    return [*speaker.words, says, "that", *subject.words, *_predicate(w, subject.plural, "adjective2"), *w.tail()]


def _nested(w: _Writer) -> list[str]:
    """As in: the chef says that the guest who eats the pie laughs."""
    speaker = w.phrase("animate", "adjective0", subject=True)
    says = w.finite(w.verb("clause", main=True), speaker.plural)
    subject = w.phrase("animate", "adjective1")
    who = "who" if subject.noun.human else "that"
    inner = _predicate(w, subject.plural, "adjective2")
    laughs = w.finite(w.verb("nothing"), subject.plural)
    return [*speaker.words, says, "that", *subject.words, who, *inner, laughs, *w.tail()]


class Template(NamedTuple):
    """A template: its words without options, the cost of each option in words, and its depth of embedding."""

    write: Callable[[_Writer], list[str]]
    n_words: int
    options: tuple[tuple[str, int], ...]
    depth: int


def _options(n_adjectives: int, *others: str) -> tuple[tuple[str, int], ...]:
    cost = {"adverb": 1, "place": 3, "time": 2, "very": 1}
    return (*((f"adjective{i}", 1) for i in range(n_adjectives)), *((name, cost[name]) for name in others))


TEMPLATES: dict[str, Template] = {
    "copular": Template(_copular, 4, _options(1, "very", "place", "time"), 0),
    "intransitive": Template(_intransitive, 3, _options(1, "adverb", "place", "time"), 0),
    "transitive": Template(_transitive, 5, _options(2, "adverb", "place", "time"), 0),
    "cause": Template(_cause, 5, _options(2, "place", "time"), 0),
    "question": Template(_question, 6, _options(2, "adverb", "place", "time"), 0),
    "passive": Template(_passive, 7, _options(2, "adverb", "place", "time"), 0),
    "coordination": Template(_coordination, 9, _options(3, "adverb", "place", "time"), 0),
    "relative": Template(_relative, 7, _options(2, "adverb", "place", "time"), 1),
    "object_relative": Template(_object_relative, 8, _options(2, "very", "time"), 1),
    "complement": Template(_complement, 9, _options(3, "adverb", "place", "time"), 1),
    "nested": Template(_nested, 11, _options(3, "adverb", "place", "time"), 2),
}
"""The syntactic templates: name -> how it is written, its length without options, its options and its depth."""


def _templates_of(n_words: int) -> list[str]:
    """Return the templates that can be exactly ``n_words`` long."""
    return [
        name for name, t in TEMPLATES.items() if t.n_words <= n_words <= t.n_words + sum(cost for _, cost in t.options)
    ]


def _choose_extras(template: Template, n_words: int, rng: np.random.Generator) -> list[str]:
    """Return options of a template that add up to the words it still needs."""
    while True:  # ends: the options of cost 1 fill any gap of a template that fits, and every order has a chance
        left, chosen = n_words - template.n_words, []
        for place in rng.permutation(len(template.options)):
            name, cost = template.options[place]
            if cost <= left:
                chosen.append(name)
                left -= cost
        if left == 0:
            return chosen


def write_sentences(
    n: int, rng: np.random.Generator, lengths: range, exclude: Collection[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``n`` different sentences with their properties."""
    named = [topic for name, topic in topics().items() if name != "general"]
    fitting = {length: _templates_of(length) for length in lengths}
    seen, misses = set(exclude), 0
    while n > 0:
        n_words = lengths[int(rng.random() * len(lengths))]
        name = fitting[n_words][int(rng.random() * len(fitting[n_words]))]
        template, topic = TEMPLATES[name], named[int(rng.random() * len(named))]
        mood, tense = int(rng.random() * 3) - 1, "past" if rng.random() < 0.5 else "present"
        writer = _Writer(rng, topic, mood, tense, _choose_extras(template, n_words, rng))
        words = template.write(writer)
        text = " ".join(words)
        if text in seen:
            misses += 1
            if misses > MAX_REPEATS:
                raise InputError(
                    f"the template language ran out of new sentences of {lengths.start}-{lengths.stop - 1} words"
                )
            continue
        seen.add(text)
        n, misses = n - 1, 0
        assert writer.subject is not None
        yield (
            text,
            {
                "template": name,
                "topic": topic.name,
                "tense": tense,
                "verb_kind": writer.main_verb,
                "polarity": sum(writer.polarity) / max(1, len(writer.polarity)),
                "animacy": int(writer.subject.noun.animate),
                "plural": int(writer.subject.plural),
                "concreteness": sum(writer.concrete) / len(writer.concrete),
                "depth": template.depth,
                "passive": int(name == "passive"),
                "n_words": len(words),
                "mean_word_length": sum(map(len, words)) / len(words),
            },
        )
