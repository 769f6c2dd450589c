"""The words of the template language: nouns, verbs, adjectives, adverbs, phrases and function words, by topic.

Every list here was written for topobrain. Inflected forms follow the regular spelling rules unless given. No content
word form belongs to two topics or two word classes, so a form alone tells its class, topic and inflection.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

VOWELS = "aeiou"
IRREGULAR_PLURALS = {"man": "men", "woman": "women", "child": "children", "fisherman": "fishermen"}
ANIMALS = ("dog", "horse", "cat", "bird", "cow")
"""Animate nouns that take ``that``, not ``who``."""


class Noun(NamedTuple):
    """A noun: its two forms, its topic and what it stands for."""

    singular: str
    plural: str
    topic: str
    animate: bool
    human: bool
    concrete: bool


class Verb(NamedTuple):
    """A verb: its forms, polarity (-1, 0, 1), kind (``motor``, ``visual``, ``other``) and the objects it takes.

    ``takes`` is ``animate``, ``thing``, ``nothing`` (intransitive), ``clause`` (says that ...) or ``cause`` (an
    abstract subject and an animate object).
    """

    base: str
    third: str
    past: str
    participle: str
    topic: str
    polarity: int
    kind: str
    takes: str


class Modifier(NamedTuple):
    """An adjective or adverb, its polarity (-1, 0, 1) and the nouns it fits (``animate``, ``thing``, ``abstract``)."""

    form: str
    polarity: int
    fits: str


class Topic(NamedTuple):
    """The words of one topic, ready to draw from."""

    name: str
    agents: tuple[Noun, ...]
    things: tuple[Noun, ...]
    abstracts: tuple[Noun, ...]
    places: tuple[tuple[str, str], ...]
    transitive: tuple[Verb, ...]
    intransitive: tuple[Verb, ...]
    adjectives: Mapping[str, tuple[Modifier, ...]]


class Form(NamedTuple):
    """What a content word form is: class (noun, verb, adjective, adverb), topic and the suffix that inflects it."""

    word_class: str
    topic: str
    suffix: str


# One entry a topic. Nouns: singular. Verbs: base[/past[/participle]] then signs: + or - polarity, m motor, v visual.
# Adjectives: form and sign; `animate` ones describe agents, `thing` ones things.
TOPICS: dict[str, dict[str, str]] = {
    "food": {
        "agents": "chef baker waiter guest butcher grocer",
        "things": "apple cake pie sausage pancake sandwich",
        "abstract": "hunger appetite thirst",
        "places": "in:kitchen in:bakery at:market",
        "on_thing": "eat/ate/eaten:m taste: serve:m prepare:m burn:-m savour:+",
        "on_animate": "invite:+ overcharge:-",
        "alone": "dine: chew:m feast:+ starve:-",
        "animate": "hungry: thirsty: greedy:-",
        "thing": "fresh:+ delicious:+ rotten:- salty: bitter:-",
    },
    "animals": {
        "agents": "farmer shepherd dog horse cat bird cow",
        "things": "nest fence saddle bone bucket",
        "abstract": "instinct freedom danger",
        "places": "in:barn on:farm in:forest",
        "on_thing": "sniff: guard:v bury:m protect:+",
        "on_animate": "chase:m scare:- feed/fed:+m bite/bit/bitten:-m",
        "alone": "run/ran/run:m sleep/slept: jump:m growl:-",
        "animate": "wild: gentle:+ fierce:- loyal:+",
        "thing": "wooden: muddy:- sturdy:+",
    },
    "work": {
        "agents": "worker manager clerk boss lawyer secretary",
        "things": "report letter contract computer folder invoice",
        "abstract": "deadline career ambition",
        "places": "in:office at:factory in:meeting",
        "on_thing": "write/wrote/written:m sign:m read/read/read:v improve:+ lose/lost:-",
        "on_animate": "hire:+ dismiss:- supervise:v",
        "alone": "negotiate: resign:- succeed:+ type:m",
        "animate": "busy: lazy:- diligent:+",
        "thing": "important:+ boring:- urgent:",
    },
    "weather": {
        "agents": "sailor gardener forecaster fisherman hiker",
        "things": "storm cloud rainbow puddle flood icicle",
        "abstract": "climate drought humidity",
        "places": "on:hill at:coast in:valley",
        "on_thing": "observe:v predict: measure:m photograph:v welcome:+ dread:-",
        "on_animate": "rescue:+m warn:",
        "alone": "shiver:-m freeze/froze/frozen:- sail:m bask:+",
        "animate": "wet: brave:+ soaked:-",
        "thing": "dark:- bright:+ heavy: dreadful:-",
    },
    "travel": {
        "agents": "tourist driver pilot traveller passenger guide",
        "things": "suitcase map ticket passport camera backpack",
        "abstract": "journey adventure destination",
        "places": "at:station at:airport on:island",
        "on_thing": "pack:m steal/stole/stolen:-m buy/bought: examine:v recover:+",
        "on_animate": "escort: greet:+ abandon:-",
        "alone": "arrive: depart: wander:m fly/flew/flown:m",
        "animate": "weary:- curious:+ stranded:-",
        "thing": "foreign: expensive:- practical:+",
    },
    "music": {
        "agents": "singer pianist drummer composer violinist dancer",
        "things": "song melody piano guitar trumpet violin",
        "abstract": "harmony rhythm inspiration",
        "places": "on:stage in:theatre at:concert",
        "on_thing": "play:m hear/heard: record:m praise:+ ruin:-",
        "on_animate": "applaud:+m accompany: interrupt:-",
        "alone": "sing/sang/sung:m dance:m rehearse: improvise:",
        "animate": "famous:+ talented:+ nervous:-",
        "thing": "loud: beautiful:+ awful:-",
    },
    "family": {
        "agents": "mother father sister brother uncle baby",
        "things": "photo toy blanket gift diary cradle",
        "abstract": "marriage childhood affection",
        "places": "in:garden in:bedroom at:wedding",
        "on_thing": "wrap/wrapped:m keep/kept: break/broke/broken:-m treasure:+",
        "on_animate": "hug/hugged:+m kiss:+m scold:- visit:",
        "alone": "smile:+m weep/wept:- argue:- relax:+",
        "animate": "proud:+ jealous:- little: loving:+",
        "thing": "precious:+ tiny: faded:-",
    },
    "sport": {
        "agents": "player coach runner goalkeeper referee champion",
        "things": "ball trophy medal racket helmet javelin",
        "abstract": "victory defeat teamwork",
        "places": "in:stadium on:field at:gym",
        "on_thing": "throw/threw/thrown:m catch/caught:m lift:m drop/dropped:-m polish:+m",
        "on_animate": "tackle:m cheer:+ injure:-",
        "alone": "sprint:m swim/swam/swum:m celebrate:+ stumble:-m",
        "animate": "strong:+ clumsy:- athletic:",
        "thing": "round: golden:+ dirty:-",
    },
    "general": {
        "agents": "man woman child boy girl friend neighbour teacher",
        "things": "box picture chair lamp",
        "abstract": "idea silence truth",
        "places": "in:city near:river behind:house",
        "on_thing": "notice:v hold/held:m carry:m find/found:v repair:+m damage:-m",
        "on_animate": "meet/met: watch:v help:+ annoy:- follow:m",
        "alone": "laugh:+ wait: stare:v complain:-",
        "animate": "old: young: tall: happy:+ angry:-",
        "thing": "new: big: small: lovely:+ ugly:-",
    },
}
CLAUSE_VERBS = "say/said: think/thought: believe: hope:+ fear:-"
CAUSE_VERBS = "please:+ delight:+ inspire:+ worry:- frighten:- surprise:"
ABSTRACT_ADJECTIVES = "sudden: strange:- great:+"
ADVERBS = "quickly: slowly: quietly: calmly:+ happily:+ proudly:+ sadly:- angrily:- badly:-"
INTENSIFIERS = ("very", "quite", "really", "rather")
TIMES = {
    "present": ("every morning", "every day", "each week", "these days"),
    "past": ("last week", "last night", "that morning", "last winter"),
    "any": ("at noon", "before dawn", "after lunch", "in winter"),
}
SINGULAR_DETERMINERS = ("the", "the", "the", "the", "a", "a", "a", "this", "every", "my", "our")
PLURAL_DETERMINERS = ("the", "the", "the", "the", "some", "some", "these", "many", "two", "my", "our")
MASS_DETERMINERS = ("the", "the", "this", "our")
BE = {("present", False): "is", ("present", True): "are", ("past", False): "was", ("past", True): "were"}
DO = {("present", False): "does", ("present", True): "do", ("past", False): "did", ("past", True): "did"}
OTHER_FUNCTION_WORDS = ("an", "and", "by", "that", "who", "in", "on", "at", "near", "behind", "before", "after")
TIME_FUNCTION_WORDS = ("every", "each", "these", "last", "that", "at", "before", "after", "in")


def with_s(word: str) -> str:
    """Return the plural of a noun, or the third person of a verb, by the regular spelling rule.

    >>> [with_s(word) for word in ("dog", "box", "baby", "boy")]
    ['dogs', 'boxes', 'babies', 'boys']
    """
    if word.endswith(("s", "x", "ch", "sh", "z")):
        return word + "es"
    if word.endswith("y") and word[-2] not in VOWELS:
        return word[:-1] + "ies"
    return word + "s"


def with_ed(word: str) -> str:
    """Return the regular past of a verb.

    >>> [with_ed(word) for word in ("serve", "carry", "play")]
    ['served', 'carried', 'played']
    """
    if word.endswith("e"):
        return word + "d"
    if word.endswith("y") and word[-2] not in VOWELS:
        return word[:-1] + "ied"
    return word + "ed"


def _sign(marks: str) -> int:
    return ("+" in marks) - ("-" in marks)


def _verbs(text: str, topic: str, takes: str) -> tuple[Verb, ...]:
    verbs = []
    for entry in text.split():
        forms, marks = entry.split(":")
        base, *rest = forms.split("/")
        past = rest[0] if rest else with_ed(base)
        kind = "motor" if "m" in marks else "visual" if "v" in marks else "other"
        verbs.append(Verb(base, with_s(base), past, rest[-1] if rest else past, topic, _sign(marks), kind, takes))
    return tuple(verbs)


def _nouns(text: str, topic: str, *, animate: bool = False, concrete: bool = True) -> tuple[Noun, ...]:
    return tuple(
        Noun(
            word,
            IRREGULAR_PLURALS.get(word, with_s(word)) if concrete else "",
            topic,
            animate,
            animate and word not in ANIMALS,
            concrete,
        )
        for word in text.split()
    )


def _modifiers(text: str, fits: str) -> tuple[Modifier, ...]:
    return tuple(Modifier(form, _sign(marks), fits) for form, marks in (entry.split(":") for entry in text.split()))


def _place(entry: str) -> tuple[str, str]:
    preposition, noun = entry.split(":")
    return preposition, noun


@lru_cache(maxsize=1)
def topics() -> Mapping[str, Topic]:
    """Return the topics by name; the last, ``general``, holds the words that fit everywhere."""
    return MappingProxyType(
        {
            name: Topic(
                name,
                _nouns(words["agents"], name, animate=True),
                _nouns(words["things"], name),
                _nouns(words["abstract"], name, concrete=False),
                tuple(_place(entry) for entry in words["places"].split()),
                _verbs(words["on_thing"], name, "thing") + _verbs(words["on_animate"], name, "animate"),
                _verbs(words["alone"], name, "nothing"),
                {
                    "animate": _modifiers(words["animate"], "animate"),
                    "thing": _modifiers(words["thing"], "thing"),
                    "abstract": _modifiers(ABSTRACT_ADJECTIVES, "abstract"),
                },
            )
            for name, words in TOPICS.items()
        }
    )


@lru_cache(maxsize=1)
def clause_verbs() -> tuple[Verb, ...]:
    """Return the verbs that take a clause (she says that ...)."""
    return _verbs(CLAUSE_VERBS, "general", "clause")


@lru_cache(maxsize=1)
def cause_verbs() -> tuple[Verb, ...]:
    """Return the verbs that take an abstract subject and an animate object (hunger worries the guest)."""
    return _verbs(CAUSE_VERBS, "general", "cause")


@lru_cache(maxsize=1)
def adverbs() -> tuple[Modifier, ...]:
    """Return the adverbs of manner."""
    return _modifiers(ADVERBS, "any")


@lru_cache(maxsize=1)
def function_words() -> frozenset[str]:
    """Return the closed-class words: determiners, auxiliaries, prepositions, conjunctions, intensifiers."""
    words = {*SINGULAR_DETERMINERS, *PLURAL_DETERMINERS, *BE.values(), *DO.values(), *INTENSIFIERS}
    return frozenset(words | {*OTHER_FUNCTION_WORDS, *TIME_FUNCTION_WORDS})


def _ending(base: str, after_y: str, else_: str) -> str:
    """Return the ending that inflects a regular word: another one after consonant + y."""
    return after_y if base.endswith("y") and base[-2] not in VOWELS else else_


@lru_cache(maxsize=1)
def content_forms() -> Mapping[str, Form]:
    """Return every content word form with its class, topic and regular ending (empty if bare or irregular)."""
    forms: dict[str, Form] = {}
    for topic in topics().values():
        for noun in (*topic.agents, *topic.things, *topic.abstracts):
            forms[noun.singular] = Form("noun", noun.topic, "")
            if noun.plural:
                regular = noun.singular not in IRREGULAR_PLURALS
                end = _ending(noun.singular, "ies", "s") if regular else ""
                forms[noun.plural] = Form("noun", noun.topic, end)
        for _, place in topic.places:
            forms[place] = Form("noun", topic.name, "")
        for adjective in (m for group in topic.adjectives.values() for m in group):
            forms.setdefault(
                adjective.form, Form("adjective", "general" if adjective.fits == "abstract" else topic.name, "")
            )
    every = [v for topic in topics().values() for v in (*topic.transitive, *topic.intransitive)]
    for verb in (*every, *clause_verbs(), *cause_verbs()):
        for form in (verb.participle, verb.past):
            regular = form in (with_ed(verb.base), verb.base + verb.base[-1] + "ed")  # dropped doubles its p
            forms[form] = Form("verb", verb.topic, _ending(verb.base, "ied", "ed") if regular else "")
        forms[verb.base] = Form("verb", verb.topic, "")
        forms[verb.third] = Form("verb", verb.topic, _ending(verb.base, "ies", "s"))
    for adverb in adverbs():
        forms[adverb.form] = Form("adverb", "general", "ly")
    for phrase in (phrase for group in TIMES.values() for phrase in group):
        for word in phrase.split():
            if word not in TIME_FUNCTION_WORDS:
                forms[word] = Form("noun", "general", "s" if word == "days" else "")
    return MappingProxyType(forms)


@lru_cache(maxsize=1)
def lexicon() -> frozenset[str]:
    """Return every word form of the language, content and function words."""
    return function_words() | frozenset(content_forms())
