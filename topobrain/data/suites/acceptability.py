"""Semantic acceptability: verbs with objects that fit, and with objects that make no sense.

Construction: frames and objects come in twelve classes (drinking and drinks, reading and texts, ...). Two frames of
classes that clash, and an object of each, make a quartet: both frames with their own object (*The tired boy drank the
milk* / *The old woman read the letter*) are acceptable, and with the objects exchanged (*The tired boy drank the
letter* / *The old woman read the milk*) anomalous. Every frame and every object thus occurs equally often in both
conditions: all words are balanced over the set. Classes whose objects could be exchanged (one can read a song) are never
combined. Grammar is intact in both.

Published analogues: the semantic-acceptability suite of the Topoformer study, whose sentences are not public; plausibility
sets such as those of Warren et al. (2015) and EventsAdapt. Limits: all violations are of selectional restrictions of the
verb, so they are impossible rather than merely unlikely; pairs of words, not single words, carry the contrast, and a
count of neighbouring content words could tell the conditions apart.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

from topobrain.data.nonwords import stream
from topobrain.data.suites.pairs import Pair, Suite, check_count, draw_evenly, numbered, stimulus_set
from topobrain.stimuli import StimulusSet

SUITE = Suite("acceptability", "Objects that fit the verb or make no sense", "acceptable", "anomalous", step=2)


class Kind(NamedTuple):
    """A class of verbs: frames for its objects, the objects, and the classes whose objects it could also take."""

    frames: tuple[str, ...]
    objects: tuple[str, ...]
    mixes_with: tuple[str, ...] = ()


KINDS = {
    "drink": Kind(
        (
            "The tired boy drank the {} after the game.",
            "My sister drank the {} very slowly.",
            "The old man drank the {} from a tall glass.",
            "Our guest drank the {} in the garden.",
        ),
        ("milk", "water", "juice", "coffee", "tea", "lemonade"),
        ("feed", "plant"),
    ),
    "eat": Kind(
        (
            "The hungry girl ate the {} at noon.",
            "My brother ate the {} in the kitchen.",
            "The men at the table ate the {}.",
            "The old woman ate the {} for supper.",
        ),
        ("bread", "cake", "pie", "sandwich", "apples", "potatoes"),
        ("plant", "feed"),
    ),
    "read": Kind(
        (
            "The old woman read the {} by the fire.",
            "My father read the {} to all of us.",
            "The student learned the {} by heart.",
            "The clerk typed the {} in the office.",
        ),
        ("letter", "story", "poem", "report", "speech", "list"),
        ("sing", "solve", "attend", "plant"),
    ),
    "sing": Kind(
        (
            "The little girl sang the {} in the church.",
            "My mother sang the {} to the baby.",
            "The children hummed the {} on the way home.",
            "The whole school sang the {} in the morning.",
        ),
        ("song", "tune", "hymn", "melody", "ballad", "chorus"),
        ("read", "attend"),
    ),
    "wear": Kind(
        (
            "The young woman wore the {} to the office.",
            "My uncle wore the {} in the snow.",
            "The maid wore the {} to the market.",
            "The little girl wore the {} to school.",
        ),
        ("coat", "dress", "shirt", "jacket", "hat", "sweater"),
        ("plant",),
    ),
    "drive": Kind(
        (
            "The young man parked the {} near the church.",
            "My cousin parked the {} behind the house.",
            "The woman steered the {} around the corner.",
            "Our neighbor steered the {} into the yard.",
        ),
        ("car", "bus", "truck", "tractor", "taxi", "jeep"),
        ("climb", "feed", "spend"),
    ),
    "climb": Kind(
        (
            "The two friends climbed the {} on Sunday.",
            "My grandfather climbed the {} in the rain.",
            "The soldiers climbed the {} before noon.",
            "A brave girl climbed the {} all by herself.",
        ),
        ("mountain", "hill", "ladder", "tower", "stairs", "cliff"),
        ("drive", "feed", "plant"),
    ),
    "solve": Kind(
        (
            "The clever boy solved the {} in ten minutes.",
            "My teacher solved the {} without any help.",
            "The girl solved the {} on the first try.",
            "Nobody in the class solved the {} in time.",
        ),
        ("problem", "riddle", "puzzle", "mystery", "equation", "crime"),
        ("read",),
    ),
    "feed": Kind(
        (
            "The farmer fed the {} early in the morning.",
            "My sister fed the {} twice a day.",
            "The old shepherd fed the {} before sunset.",
            "The boy fed the {} after school.",
        ),
        ("dog", "horse", "cat", "cow", "goat", "donkey"),
        ("drink", "eat", "drive", "climb", "attend", "plant"),
    ),
    "spend": Kind(
        (
            "The young man spent the {} in one day.",
            "My cousin spent the {} on a new bicycle.",
            "The actor spent the {} on fine food.",
            "The workers spent the {} at the fair.",
        ),
        ("money", "dollars", "cash", "savings", "wages", "salary"),
        ("drive", "attend", "plant"),
    ),
    "attend": Kind(
        (
            "The whole family attended the {} on Friday.",
            "My parents attended the {} in the city.",
            "The mayor attended the {} in the town hall.",
            "Many people attended the {} last night.",
        ),
        ("wedding", "meeting", "concert", "lecture", "funeral", "party"),
        ("read", "sing", "feed", "spend"),
    ),
    "plant": Kind(
        (
            "The gardener planted the {} near the wall.",
            "My grandmother planted the {} in the spring.",
            "The children planted the {} behind the school.",
            "The farmer planted the {} in long rows.",
        ),
        ("roses", "trees", "beans", "seeds", "bushes", "corn"),
        ("drink", "eat", "read", "wear", "climb", "feed", "spend"),
    ),
}
"""The twelve classes. ``mixes_with`` was judged by reading every exchange."""


def load_acceptability(*, seed: int = 0, n: int = 80) -> StimulusSet:
    """Return sentences whose object fits the verb or makes no sense.

    Parameters
    ----------
    seed
        Seed of the draw; equal seeds give equal sets.
    n
        Number of pairs, an even number from 2 to 240.

    Returns
    -------
    StimulusSet
        ``2 n`` sentences of 7 to 10 words. Columns: ``condition`` (``acceptable``, ``anomalous``), ``item`` (of the
        pair: one frame with two objects), ``template`` (class of the verb), ``quartet`` (of the two pairs that share
        their objects), ``object``, ``n_words``, ``mean_word_length``. All words occur equally often in both conditions.

    Raises
    ------
    InputError
        ``n`` is no even number in that range.

    Examples
    --------
    >>> words = {c: load_acceptability(n=4).where(condition=c).texts for c in ("acceptable", "anomalous")}
    >>> sorted(" ".join(words["acceptable"]).split()) == sorted(" ".join(words["anomalous"]).split())
    True
    """
    rng = stream(seed, SUITE.name)
    places = range(4)
    drawn = draw_evenly(
        rng,
        check_count(SUITE, n) // 2,
        [clashing_kinds(), places, places, range(6), range(6)],
        exclusive=_sentences,
        levels=_levels,
    )
    quartets = []
    for (first, second), *chosen in drawn:
        frames = KINDS[first].frames[chosen[0]], KINDS[second].frames[chosen[1]]
        objects = KINDS[first].objects[chosen[2]], KINDS[second].objects[chosen[3]]
        quartet = []
        for kind, frame, (fits, clashes) in zip((first, second), frames, (objects, objects[::-1]), strict=True):
            columns = {"object": (fits, clashes)}
            quartet.append(Pair(f"verb-{kind}", frame.format(fits), frame.format(clashes), columns))
        quartets.append(quartet)
    return stimulus_set(SUITE, numbered(quartets), seed=seed)


def clashing_kinds() -> list[tuple[str, str]]:
    """Return the pairs of classes of which neither takes the objects of the other."""
    return [
        (first, second)
        for first, second in combinations(KINDS, 2)
        if second not in KINDS[first].mixes_with and first not in KINDS[second].mixes_with
    ]


def _sentences(kinds: tuple[str, str], frame: int, other_frame: int, thing: int, other: int) -> list[tuple[str, ...]]:
    """Return keys of the four sentences of a quartet: none may occur twice in a set."""
    first, second = (f"{kinds[0]}{frame}", f"{kinds[1]}{other_frame}")
    own, swapped = (f"{kinds[0]}{thing}", f"{kinds[1]}{other}")
    return [(first, own), (second, swapped), (first, swapped), (second, own)]


def _levels(kinds: tuple[str, str], frame: int, other_frame: int, thing: int, other: int) -> list[str]:
    """Return what is used evenly: the frames and the objects, whichever place of the quartet they take."""
    first, second = kinds
    return [
        f"frame {first}{frame}",
        f"frame {second}{other_frame}",
        f"object {first}{thing}",
        f"object {second}{other}",
    ]
