"""Intactness: sentences, and their own words in an order that is no sentence.

Construction: a subject and a predicate make the intact sentence (*The old farmer carried a heavy basket of apples to
the market*). The scrambled one has the same words in another order, drawn at random until (1) no word stands where it
stood, function words included, (2) no two words that were neighbours follow each other again, and (3) at least two
determiners stand where none can, before a function word or at the end, so that no scrambled order is grammatical by
accident. The capital at the start and the period at the end stay. Pool: 20 subjects x 36 predicates, less eight
that would use an adjective twice.

Published analogues: the intactness suite of the Topoformer study, whose sentences are not public, and the contrast of
sentences and word lists (Fedorenko et al. 2010), with which it shares that meaning goes along with syntax. Limits:
words of one sentence stay together, so a scrambled stimulus still has a topic; rule 3 makes some neighbours (*the of*)
more frequent than in a free shuffle.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from topobrain._checks import InputError
from topobrain.data.nonwords import stream
from topobrain.data.suites.pairs import Pair, Suite, check_count, draw_evenly, sentence, stimulus_set, words_of
from topobrain.stimuli import StimulusSet

SUITE = Suite("intactness", "Intact sentences or their words scrambled", "intact", "scrambled")

SUBJECTS = (
    "the old farmer",
    "the young nurse",
    "my older sister",
    "our new neighbor",
    "the tired soldier",
    "a friendly sailor",
    "my favorite uncle",
    "the tall man",
    "the shy student",
    "our music teacher",
    "the village priest",
    "a poor widow",
    "the busy waiter",
    "my grandfather",
    "the captain",
    "our gardener",
    "the rich lady",
    "a lonely hunter",
    "the clever boy",
    "my best friend",
)
PREDICATES = (
    "carried a heavy basket of apples to the market",
    "found a small bird under the kitchen table",
    "wrote a long letter to an old friend",
    "painted the front door of the house red",
    "fell asleep on the train after a long day",
    "gave the hungry dog a piece of bread",
    "told the children a story about the sea",
    "bought a warm coat for the cold winter",
    "lost the key to the garden gate",
    "waited for the bus in the heavy rain",
    "planted a row of beans behind the house",
    "cleaned the windows of the old church",
    "walked along the river with a tall stranger",
    "cooked a pot of soup for the sick child",
    "put the clean plates back on the shelf",
    "opened a little shop near the train station",
    "read the newspaper in a chair by the fire",
    "watched the ships from the top of the hill",
    "left the village before the end of the week",
    "drank a cup of tea in the quiet kitchen",
    "heard a strange noise late in the night",
    "sold the brown horse to a rich merchant",
    "learned the words of a song in one day",
    "built a wooden bridge over the narrow stream",
    "sent a box of cakes to the school",
    "followed the tracks of a fox through the snow",
    "danced with a stranger at the wedding",
    "forgot the name of the new teacher",
    "hung a picture of a ship on the wall",
    "climbed over the fence with a bag of nuts",
    "broke a window with a stone last summer",
    "brought the sheep home before the storm",
    "spent a quiet summer on a small island",
    "hid the money in a box under the bed",
    "mended the roof of the barn last spring",
    "drove a green truck across the long bridge",
)
DETERMINERS = frozenset({"the", "a", "an", "my", "our"})
PREPOSITIONS = {"about", "across", "after", "along", "at", "before", "behind", "by", "for", "from", "in", "near", "of"}
PREPOSITIONS |= {"on", "over", "through", "to", "under", "with"}
FUNCTION_WORDS = DETERMINERS | PREPOSITIONS
"""Words that cannot follow a determiner."""
MAX_TRIES = 50_000


def load_intactness(*, seed: int = 0, n: int = 80) -> StimulusSet:
    """Return sentences and the same words scrambled.

    Parameters
    ----------
    seed
        Seed of the draw and of the shuffles; equal seeds give equal sets.
    n
        Number of pairs, 2 to 712.

    Returns
    -------
    StimulusSet
        ``2 n`` stimuli of 9 to 12 words. Columns: ``condition`` (``intact``, ``scrambled``), ``item`` (of the pair),
        ``template`` (predicate), ``subject``, ``n_words``, ``mean_word_length``. The words of the two stimuli of a
        pair are the same.

    Raises
    ------
    InputError
        ``n`` is no whole number in that range.

    Examples
    --------
    >>> intact, scrambled = load_intactness(n=2).texts[:2]
    >>> sorted(intact.lower().rstrip(".").split()) == sorted(scrambled.lower().rstrip(".").split())
    True
    """
    rng = stream(seed, SUITE.name)
    predicates = [*enumerate(PREDICATES, start=1)]
    drawn = draw_evenly(rng, check_count(SUITE, n), [SUBJECTS, predicates], allowed=_no_word_twice)
    pairs = []
    for subject, (number, predicate) in drawn:
        intact = sentence(subject, predicate)
        pairs.append(Pair(f"predicate-{number:02d}", intact, scramble(intact, rng), {"subject": subject}))
    return stimulus_set(SUITE, pairs, seed=seed)


def _no_word_twice(subject: str, predicate: tuple[int, str]) -> bool:
    """Whether subject and predicate share no content word (a rich lady sold a horse to a rich merchant)."""
    return not (set(subject.split()) - FUNCTION_WORDS) & set(predicate[1].split())


def scramble(text: str, rng: np.random.Generator) -> str:
    """Return a sentence's words in an order that is no sentence; the rules are those of the module.

    Parameters
    ----------
    text
        A sentence with at least two determiners, closed by a period.
    rng
        Source of chance.

    Returns
    -------
    str
        The same words, with a capital at the start and a period at the end.

    Raises
    ------
    InputError
        No such order was found: the sentence is too short or has fewer than two determiners.
    """
    words = words_of(text)
    neighbours = set(pairwise(words))
    for _ in range(MAX_TRIES):
        order = [words[i] for i in rng.permutation(len(words))]
        if (
            all(new != old for new, old in zip(order, words, strict=True))
            and not neighbours & set(pairwise(order))
            and _stray_determiners(order) >= 2
        ):
            return sentence(*order)
    raise InputError(f"no scrambled order of {text!r} was found: it needs more words, two of them determiners")


def _stray_determiners(words: list[str]) -> int:
    """Return how many determiners stand before a function word or at the end."""
    following = [*words[1:], "the"]  # what stands at the end is as stray as what stands before a determiner
    return sum(word in DETERMINERS and after in FUNCTION_WORDS for word, after in zip(words, following, strict=True))
