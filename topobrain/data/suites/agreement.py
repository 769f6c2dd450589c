"""Agreement: subjects and verbs that agree in number, and that do not.

Construction: four sentences make a quartet: a singular and a plural subject, each with the singular and the plural verb
(*The teacher near the windows sings / sing every morning*, *The teachers near the windows sing / sings every morning*).
Each noun and verb form thus stands once in a grammatical and once in an ungrammatical sentence: all words are balanced
over the set. Between subject and verb stands nothing, or an attractor, a noun of either number in a prepositional
phrase (*near the windows*) or in a relative clause (*that the farmers liked*); attractors are balanced too, as they are
the same within a quartet. Verbs are in the present (or *was, were*), verbs of relative clauses in the past, which shows
no number. Pool: thousands of quartets.

Published analogues: the agreement suite of the Topoformer study, whose sentences are not public, and the subject-verb
agreement suites of SyntaxGym and BLiMP. Limits: within a quartet the attractor has the number of one subject and not of
the other, so conditions are balanced but items are not equally hard; subjects are people.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from topobrain.data.nonwords import stream
from topobrain.data.suites.pairs import Pair, Suite, check_count, draw_evenly, numbered, sentence, shares, stimulus_set
from topobrain.data.suites.people import KNOWING, WORKERS, Person
from topobrain.stimuli import StimulusSet

SUITE = Suite("agreement", "Subject and verb agree in number or do not", "grammatical", "ungrammatical", step=2)

ADJECTIVES = ("old", "young", "tall", "friendly", "quiet", "famous")
PREPOSITIONS = ("near", "behind", "beside")
PLACES = (
    Person("window", "windows"),
    Person("tree", "trees"),
    Person("wagon", "wagons"),
    Person("house", "houses"),
    Person("table", "tables"),
    Person("horse", "horses"),
    Person("gate", "gates"),
    Person("boat", "boats"),
)
PREDICATES = (
    ("sings", "sing", "every morning"),
    ("is", "are", "very tired"),
    ("was", "were", "late for dinner"),
    ("has", "have", "a new boat"),
    ("lives", "live", "in a small town"),
    ("walks", "walk", "to the market"),
    ("likes", "like", "to dance"),
    ("works", "work", "in the garden"),
    ("plays", "play", "in the park"),
    ("sleeps", "sleep", "until noon"),
    ("knows", "know", "a funny story"),
    ("drinks", "drink", "tea in the evening"),
    ("is", "are", "from a rich family"),
    ("was", "were", "afraid of the storm"),
    ("wants", "want", "to go home"),
    ("needs", "need", "a warm coat"),
)
"""Singular verb, plural verb, and the rest. No plural form could be a past form (as *read* or *hit* could)."""
STRUCTURES = (
    ("none", "none"),
    ("prepositional", "singular"),
    ("prepositional", "plural"),
    ("relative", "singular"),
    ("relative", "plural"),
)
"""What stands between subject and verb, and the number of the noun in it."""


def load_agreement(*, seed: int = 0, n: int = 80) -> StimulusSet:
    """Return sentences whose subject and verb agree in number or do not.

    Parameters
    ----------
    seed
        Seed of the draw; equal seeds give equal sets.
    n
        Number of pairs, an even number; multiples of 10 give equal numbers of the five structures.

    Returns
    -------
    StimulusSet
        ``2 n`` sentences of 6 to 11 words. Columns: ``condition`` (``grammatical``, ``ungrammatical``), ``item`` (of
        the pair: one subject, two verbs), ``template`` (``none``, ``prepositional``, ``relative``: where the attractor
        stands), ``quartet`` (of the two pairs that share all words), ``noun`` (subject), ``subject_number``,
        ``attractor_number`` (``singular``, ``plural``, ``none``), ``verb``, ``n_words``, ``mean_word_length``. All
        words occur equally often in both conditions.

    Raises
    ------
    InputError
        ``n`` is no even number, or larger than the pool.

    Examples
    --------
    >>> agreement = load_agreement(n=10)
    >>> agreement.table.groupby(["condition", "subject_number"]).size().tolist()
    [5, 5, 5, 5]
    """
    rng = stream(seed, SUITE.name)
    quartets: list[list[Pair]] = []
    for (template, number), count in zip(STRUCTURES, shares(check_count(SUITE, n) // 2, 5), strict=True):
        for subject, predicate, *attractor in _draw(rng, count, template):
            quartets.append(_quartet(subject, predicate, template, number, tuple(attractor)))
    order = rng.permutation(len(quartets))
    return stimulus_set(SUITE, numbered([quartets[i] for i in order]), seed=seed)


def _draw(rng: np.random.Generator, count: int, template: str) -> list[tuple[Any, ...]]:
    """Return subject, predicate and the parts of the attractor."""
    if template == "none":
        return draw_evenly(rng, count, [WORKERS, PREDICATES, ADJECTIVES])
    if template == "prepositional":
        return draw_evenly(rng, count, [WORKERS, PREDICATES, PREPOSITIONS, PLACES])
    return draw_evenly(
        rng, count, [WORKERS, PREDICATES, KNOWING, WORKERS], allowed=lambda person, _, __, other: person != other
    )


def _quartet(
    subject: Person,
    predicate: tuple[str, str, str],
    template: str,
    attractor_number: str,
    attractor: tuple[Person | str, ...],
) -> list[Pair]:
    """Return the pair with the singular and the pair with the plural subject."""
    before, after = "", ""
    if template == "none":
        before = str(attractor[0])
    else:
        link, noun = attractor
        assert isinstance(noun, Person)
        form = noun.form(attractor_number)
        after = f"{link} the {form}" if template == "prepositional" else f"that the {form} {link}"
    singular, plural, rest = predicate
    pairs = []
    for number, (agrees, clashes) in (("singular", (singular, plural)), ("plural", (plural, singular))):
        head = subject.form(number)
        on, off = (sentence("the", before, head, after, verb, rest) for verb in (agrees, clashes))
        columns: dict[str, str | tuple[str, str]] = {
            "noun": head,
            "subject_number": number,
            "attractor_number": attractor_number,
            "verb": (agrees, clashes),
        }
        pairs.append(Pair(template, on, off, columns))
    return pairs
