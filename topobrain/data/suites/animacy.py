"""Animacy: the same sentence about a person or an animal, and about a thing.

Construction: the subject noun of one of 20 frames is a person or animal in one sentence of a pair and a thing in the
other (*The sailor / The shovel was still there when we came back*). Every frame holds for both, so everything but one
word is equal within a pair. The two nouns have equally many letters and close counts in the Brown corpus
(`noun_pairs`). Pool: 20 frames x 40 noun pairs.

Published analogue: the animacy suite of the Topoformer study, whose sentences are not public; the idea of matched nouns
is that of picture and word norms. Limits: frames that suit both kinds of noun are about being seen, found or moved, so
agency, which goes with animacy in natural text, is not in them; people and animals are mixed on purpose. The two halves
(column ``half``) of the localizer share nouns and frames: a held-out profile is held out by sentence, not by word.
"""

from __future__ import annotations

from topobrain.data.nonwords import stream
from topobrain.data.suites.noun_pairs import NounPair, animate_inanimate
from topobrain.data.suites.pairs import Pair, Suite, check_count, draw_evenly, stimulus_set
from topobrain.stimuli import StimulusSet

SUITE = Suite("animacy", "Animate or inanimate subjects in equal frames", "animate", "inanimate")

FRAMES = (
    "The {} was still there when we came back.",
    "The {} was gone when they opened the door.",
    "The {} by the fence seemed very familiar.",
    "The {} near the house looked strange in the dark.",
    "The {} was seen by everyone on the street.",
    "The {} was behind the house all afternoon.",
    "The {} disappeared during the storm last night.",
    "The {} was covered with dust after the long trip.",
    "The {} was brought to the village by train.",
    "The {} looked much smaller from the top of the hill.",
    "The {} was right in the middle of the road.",
    "The {} came from a little town near the sea.",
    "The {} was hidden behind a tall tree.",
    "The {} was left behind at the station.",
    "The {} made the children laugh all day long.",
    "The {} looked beautiful in the morning sun.",
    "The {} was not far from the old bridge.",
    "The {} arrived on the island in early spring.",
    "The {} had not been seen since Monday morning.",
    "The {} could be seen from the kitchen window.",
)


def load_animacy(*, seed: int = 0, n: int = 80) -> StimulusSet:
    """Return matched sentences with animate and inanimate subjects.

    Parameters
    ----------
    seed
        Seed of the draw; equal seeds give equal sets.
    n
        Number of pairs, 2 to 800.

    Returns
    -------
    StimulusSet
        ``2 n`` sentences of 8 to 11 words. Columns: ``condition`` (``animate``, ``inanimate``), ``item`` (of the pair),
        ``template`` (frame), ``noun``, ``n_words``, ``mean_word_length``.

    Raises
    ------
    InputError
        ``n`` is no whole number in that range.

    Examples
    --------
    >>> len(load_animacy(n=10).where(condition="animate"))
    10
    """
    rng = stream(seed, SUITE.name)
    frames = [*enumerate(FRAMES, start=1)]
    drawn = draw_evenly(rng, check_count(SUITE, n), [frames, animate_inanimate()])
    return stimulus_set(SUITE, [_pair(number, frame, nouns) for (number, frame), nouns in drawn], seed=seed)


def _pair(number: int, frame: str, nouns: NounPair) -> Pair:
    on, off = nouns.on, nouns.off
    return Pair(f"frame-{number:02d}", frame.format(on), frame.format(off), {"noun": (on, off)})
