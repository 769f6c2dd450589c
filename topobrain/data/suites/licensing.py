"""Licensing: *ever*, *any* and reflexives where something licenses them, and where nothing does.

Construction: half of the pairs have negative polarity items, half reflexives. In the first, the same words stand in two
orders: the negation heads the subject (*No boy that the girls liked has ever seen the sea*) or is hidden in a relative
clause, from where it does not license (*The boy that no girls liked has ever seen the sea*). In the second, a reflexive
agrees or does not agree with the subject in number (*himself / themselves*) or gender (*himself / herself*), mostly
with another person in between that it would agree with; two pairs with opposite subjects make a quartet, so that each
reflexive stands equally often in both conditions. All words are balanced over the set.

Published analogues: the licensing suite of the Topoformer study, whose sentences are not public, and the licensing
suites of SyntaxGym. Limits: a negation in a relative clause often seems, for a moment, to license (an illusion known in
people), so the contrast is a hard one; with *themselves* for *himself*, a listener who takes *themselves* as singular
finds no fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from topobrain.data.nonwords import stream
from topobrain.data.suites.pairs import Pair, Suite, check_count, draw_evenly, numbered, sentence, shares, stimulus_set
from topobrain.data.suites.people import KNOWING, MEN, WOMEN, WORKERS, Person
from topobrain.stimuli import StimulusSet

SUITE = Suite("licensing", "Polarity items and reflexives, licensed or not", "grammatical", "ungrammatical", step=4)

EVER = (
    "seen the ocean",
    "won a prize",
    "been to the city",
    "told a lie",
    "climbed the mountain",
    "heard the song",
    "lost a game",
    "written a poem",
    "slept in a tent",
    "ridden a horse",
)
"""What follows *has ever*."""
ANY = (
    "had any money",
    "bought any bread",
    "found any gold",
    "made any mistakes",
    "wanted any help",
    "sang any songs",
    "caught any fish",
    "told any jokes",
    "wrote any letters",
    "heard any noise",
)
REFLEXIVE = (
    ("blamed", "for the accident"),
    ("hurt", "in the kitchen"),
    ("hid", "behind the door"),
    ("warmed", "by the fire"),
    ("washed", "in the river"),
    ("taught", "to swim"),
    ("bought", "some bread"),
    ("introduced", "to the guests"),
    ("burned", "on the stove"),
    ("dressed", "for the party"),
    ("made", "some tea"),
    ("admired", "in the mirror"),
)
"""Verb before the reflexive, and what follows it."""
ADJECTIVES = ("old", "young", "tall", "tired", "happy", "hungry")
KIN = (
    ("mother", "boy", "father", "girl"),
    ("sister", "king", "brother", "queen"),
    ("aunt", "prince", "uncle", "princess"),
    ("daughter", "man", "son", "woman"),
    ("wife", "actor", "husband", "actress"),
)
"""A woman of a man, and a man of a woman."""
POLARITY_TEMPLATES = ("no-ever", "no-any", "nobody-ever", "none-any")
REFLEXIVE_TEMPLATES = ("number", "number-relative", "gender-relative", "gender-of")


def load_licensing(*, seed: int = 0, n: int = 80) -> StimulusSet:
    """Return sentences with polarity items and reflexives that are licensed or not.

    Parameters
    ----------
    seed
        Seed of the draw; equal seeds give equal sets.
    n
        Number of pairs, a multiple of 4 up to 960; multiples of 16 give equal numbers of the eight templates.

    Returns
    -------
    StimulusSet
        ``2 n`` sentences of 7 to 12 words. Columns: ``condition`` (``grammatical``, ``ungrammatical``), ``item`` (of
        the pair), ``template`` (``no-ever``, ``no-any``, ``nobody-ever``, ``none-any``; ``number``,
        ``number-relative``, ``gender-relative``, ``gender-of``), ``quartet`` (of the two pairs over which a reflexive
        is balanced; polarity pairs stand alone), ``phenomenon`` (``polarity``, ``reflexive``), ``licensed``
        (the word that needs a licence), ``n_words``, ``mean_word_length``. All words occur equally often in both
        conditions.

    Raises
    ------
    InputError
        ``n`` is no multiple of 4, or larger than the pool.

    Examples
    --------
    >>> load_licensing(n=16).table.groupby("phenomenon").size().tolist()
    [16, 16]
    """
    rng = stream(seed, SUITE.name)
    half = check_count(SUITE, n) // 2
    groups: list[list[Pair]] = []
    for template, count in zip(POLARITY_TEMPLATES, shares(half, 4), strict=True):
        groups += [[pair] for pair in _polarity(rng, count, template)]
    for template, count in zip(REFLEXIVE_TEMPLATES, shares(half // 2, 4), strict=True):
        draw = _gender if template.startswith("gender") else _number
        groups += draw(rng, count, template)
    return stimulus_set(SUITE, numbered([groups[i] for i in rng.permutation(len(groups))]), seed=seed)


def _polarity(rng: np.random.Generator, count: int, template: str) -> list[Pair]:
    """Return pairs with *ever* or *any* under a negation that heads the subject, or that is hidden in a clause."""
    word = template.rsplit("-", 1)[1]
    rests = EVER if word == "ever" else ANY
    people = (*WORKERS, *MEN[:4], *WOMEN[:4])
    # Of nobody there is only one.
    others = (Person("nobody", ""),) if template == "nobody-ever" else people
    drawn = draw_evenly(rng, count, [people, others, KNOWING, rests], allowed=lambda person, other, *_: person != other)
    columns = {"phenomenon": "polarity", "licensed": word}
    pairs = []
    for person, other, verb, rest in drawn:
        one, many, rivals = person.singular, person.plural, other.plural
        rest = f"has ever {rest}" if word == "ever" else rest
        orders = {
            "no": (f"no {one} that the {rivals} {verb}", f"the {one} that no {rivals} {verb}"),
            "nobody": (f"nobody that the {one} {verb}", f"the {one} that nobody {verb}"),
            "none": (f"none of the {many} that the {rivals} {verb}", f"the {many} that none of the {rivals} {verb}"),
        }
        on, off = (sentence(order, rest) for order in orders[template.split("-")[0]])
        pairs.append(Pair(template, on, off, columns))
    return pairs


def _number(rng: np.random.Generator, count: int, template: str) -> list[list[Pair]]:
    """Return quartets of a singular and a plural subject with *himself* or *herself* and *themselves*."""
    by_gender = {"himself": MEN, "herself": WOMEN}
    between: Sequence[Any] = ADJECTIVES if template == "number" else range(len(MEN))
    verbs: Sequence[str] = ("",) if template == "number" else KNOWING
    drawn = draw_evenly(
        rng,
        count,
        [[*by_gender], range(len(MEN)), between, verbs, REFLEXIVE],
        allowed=lambda _, person, other, *__: person != other,
    )
    groups = []
    for one_self, place, other, verb, (action, rest) in drawn:
        person = by_gender[one_self][place]
        group = []
        for number, opposite in (("singular", "plural"), ("plural", "singular")):
            if template == "number":
                subject = f"the {other} {person.form(number)}"
            else:
                subject = f"the {person.form(number)} that the {by_gender[one_self][other].form(opposite)} {verb}"
            agrees, clashes = (one_self, "themselves") if number == "singular" else ("themselves", one_self)
            group.append(_reflexive(template, subject, action, rest, (agrees, clashes)))
        groups.append(group)
    return groups


def _gender(rng: np.random.Generator, count: int, template: str) -> list[list[Pair]]:
    """Return quartets of a woman near a man and a man near a woman, with *herself* and *himself*."""
    groups = []
    if template == "gender-of":
        for (woman, her_man, man, his_woman), (action, rest) in draw_evenly(rng, count, [KIN, REFLEXIVE]):
            subjects = (f"the {woman} of the {her_man}", f"the {man} of the {his_woman}")
            groups.append(_opposites(template, subjects, action, rest))
        return groups
    couples = range(len(MEN))
    for woman, man, verb, (action, rest) in draw_evenly(rng, count, [couples, couples, KNOWING, REFLEXIVE]):
        she, he = WOMEN[woman].singular, MEN[man].singular
        subjects = (f"the {she} that the {he} {verb}", f"the {he} that the {she} {verb}")
        groups.append(_opposites(template, subjects, action, rest))
    return groups


def _opposites(template: str, subjects: tuple[str, str], action: str, rest: str) -> list[Pair]:
    """Return the pair with a woman as its subject and the pair with a man."""
    reflexives = ("herself", "himself"), ("himself", "herself")
    return [_reflexive(template, subject, action, rest, r) for subject, r in zip(subjects, reflexives, strict=True)]


def _reflexive(template: str, subject: str, action: str, rest: str, reflexives: tuple[str, str]) -> Pair:
    on, off = (sentence(subject, action, reflexive, rest) for reflexive in reflexives)
    return Pair(template, on, off, {"phenomenon": "reflexive", "licensed": reflexives})
