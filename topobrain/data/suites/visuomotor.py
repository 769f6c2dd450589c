"""Visuomotor: the same sentence about seeing a thing and about acting on it.

Construction: the verb phrase is one of seeing in one sentence of a pair and one of acting with hand, foot or body in
the other (*The girl stared at / tugged at the rope beside the barn*); subject, object and the rest are equal. The two
verb phrases have equally many words and differ by one letter at most. Pool: 12 verb pairs x the objects each suits
(6 to 12) x 10 subjects x 8 places, times or openings.

Published analogue: the visuomotor suite of the Topoformer study, whose sentences are not public. Limits: *visual* and
*motor* differ in verb class too (verbs of perception and of contact take different kinds of object in natural text),
and *looked into* or *glanced at* are themselves movements of the eyes. The two halves (column ``half``) of the localizer
share verbs, objects and frames: a held-out profile is held out by sentence, not by word.
"""

from __future__ import annotations

from topobrain.data.nonwords import stream
from topobrain.data.suites.pairs import Pair, Suite, check_count, draw_evenly, sentence, stimulus_set
from topobrain.stimuli import StimulusSet

SUITE = Suite("visuomotor", "Seeing a thing or acting on it", "visual", "motor")

CONTAINERS = ("bag", "box", "basket", "bucket", "sack", "suitcase")
BREAKABLE = ("box", "basket", "bucket", "chair", "suitcase", "stick")
OBJECTS = (*CONTAINERS, "rope", "blanket", "branch", "chair", "pillow", "stick")
VERBS = (
    ("saw", "hit", OBJECTS),
    ("noticed", "grabbed", OBJECTS),
    ("watched", "smashed", BREAKABLE),
    ("spotted", "dropped", OBJECTS),
    ("looked at", "pulled at", OBJECTS),
    ("stared at", "tugged at", OBJECTS),
    ("gazed at", "poked at", OBJECTS),
    ("glanced at", "stepped on", OBJECTS),
    ("peered at", "kicked at", OBJECTS),
    ("caught sight of", "caught hold of", OBJECTS),
    ("looked into", "reached into", CONTAINERS),
    ("took a look at", "took a swing at", OBJECTS),
)
"""Visual verb phrase, motor verb phrase, and the objects that suit both."""
SUBJECTS = (
    "the boy",
    "the girl",
    "the farmer",
    "the sailor",
    "the woman",
    "the hunter",
    "my uncle",
    "my cousin",
    "our neighbor",
    "the soldier",
)
PLACES = (
    "near the old well",
    "beside the barn",
    "behind the house",
    "under the tree",
    "by the front door",
    "in the back yard",
    "next to the wagon",
    "by the village store",
)
TIMES = (
    "this morning",
    "last night",
    "after dinner",
    "before lunch",
    "one day",
    "at noon",
    "on Sunday",
    "yesterday evening",
)
OPENINGS = (
    "came in and",
    "came back and",
    "turned around and",
    "went outside and",
    "stood up and",
    "walked in and",
    "came home and",
    "ran outside and",
)
TEMPLATES = ("place", "time-first", "came-and")


def load_visuomotor(*, seed: int = 0, n: int = 80) -> StimulusSet:
    """Return matched sentences about seeing and about acting.

    Parameters
    ----------
    seed
        Seed of the draw; equal seeds give equal sets.
    n
        Number of pairs, 2 to 4,000.

    Returns
    -------
    StimulusSet
        ``2 n`` sentences of 7 to 12 words. Columns: ``condition`` (``visual``, ``motor``), ``item`` (of the pair),
        ``template`` (``place``, ``time-first``, ``came-and``), ``verb`` (phrase), ``object``, ``n_words``,
        ``mean_word_length``.

    Raises
    ------
    InputError
        ``n`` is no whole number in that range.

    Examples
    --------
    >>> sorted(set(load_visuomotor(n=12).column("template")))
    ['came-and', 'place', 'time-first']
    """
    rng = stream(seed, SUITE.name)
    drawn = draw_evenly(
        rng,
        check_count(SUITE, n),
        [VERBS, OBJECTS, SUBJECTS, range(len(PLACES)), TEMPLATES],
        allowed=lambda verbs, thing, *_: thing in verbs[2],
    )
    return stimulus_set(SUITE, [_pair(*combination) for combination in drawn], seed=seed)


def _pair(verbs: tuple[str, str, tuple[str, ...]], thing: str, subject: str, setting: int, template: str) -> Pair:
    visual, motor, _ = verbs
    on, off = (_write(verb, thing, subject, setting, template) for verb in (visual, motor))
    return Pair(template, on, off, {"verb": (visual, motor), "object": thing})


def _write(verb: str, thing: str, subject: str, setting: int, template: str) -> str:
    if template == "time-first":
        return sentence(TIMES[setting], subject, verb, "the", thing)
    if template == "came-and":
        return sentence(subject, OPENINGS[setting], verb, "the", thing)
    return sentence(subject, verb, "the", thing, PLACES[setting])
