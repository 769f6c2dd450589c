"""Concreteness: the same sentence about something that can be touched and about something that cannot.

Construction: one noun of one of 20 frames is concrete in one sentence of a pair and abstract in the other (*Nobody in
the village talked about the bridge / the answer*). Everything else is equal. The two nouns have equally many letters
and close counts in the Brown corpus (`noun_pairs`). Pool: 20 frames x 40 noun pairs.

Published analogue: the concreteness suite of the Topoformer study, whose sentences are not public, and contrasts of
concrete and abstract words such as those of Moseley and Pulvermueller (2014), which `load_stimuli("moseley")` reads.
Limits: frames that suit both kinds of noun are about talking, thinking and judging, so the concrete nouns stand in
contexts that are more abstract than usual; abstract nouns are somewhat more frequent here (by a factor of 1.2 in
the geometric mean of their counts). The two halves (column ``half``) of the localizer share nouns and frames: a held-out
profile is held out by sentence, not by word.
"""

from __future__ import annotations

from topobrain.data.nonwords import stream
from topobrain.data.suites.noun_pairs import NounPair, concrete_abstract
from topobrain.data.suites.pairs import Pair, Suite, check_count, draw_evenly, stimulus_set
from topobrain.stimuli import StimulusSet

SUITE = Suite("concreteness", "Concrete or abstract nouns in equal frames", "concrete", "abstract")

FRAMES = (
    "Nobody in the village talked about the {}.",
    "She could not stop thinking about the {}.",
    "My brother told us about the {} last night.",
    "He never asked his father about the {}.",
    "The {} was not what they had expected.",
    "The {} was more important than they thought.",
    "Everybody was surprised by the {} at first.",
    "She wrote a long letter about the {}.",
    "The {} kept everyone in the room busy.",
    "The teacher described the {} in great detail.",
    "We heard about the {} from our neighbors.",
    "The {} was forgotten after only a few years.",
    "The old man remembered the {} very well.",
    "The children were not interested in the {}.",
    "Nobody knew much about the {} at that time.",
    "The {} reminded him of his early years.",
    "They were all worried about the {} that week.",
    "The {} was mentioned only once in the report.",
    "I still do not know why the {} mattered.",
    "The {} seemed strange to most of the visitors.",
)


def load_concreteness(*, seed: int = 0, n: int = 80) -> StimulusSet:
    """Return matched sentences with concrete and abstract nouns.

    Parameters
    ----------
    seed
        Seed of the draw; equal seeds give equal sets.
    n
        Number of pairs, 2 to 800.

    Returns
    -------
    StimulusSet
        ``2 n`` sentences of 8 to 9 words. Columns: ``condition`` (``concrete``, ``abstract``), ``item`` (of the pair),
        ``template`` (frame), ``noun``, ``n_words``, ``mean_word_length``.

    Raises
    ------
    InputError
        ``n`` is no whole number in that range.

    Examples
    --------
    >>> len(load_concreteness(n=10).where(condition="abstract"))
    10
    """
    rng = stream(seed, SUITE.name)
    frames = [*enumerate(FRAMES, start=1)]
    drawn = draw_evenly(rng, check_count(SUITE, n), [frames, concrete_abstract()])
    return stimulus_set(SUITE, [_pair(number, frame, nouns) for (number, frame), nouns in drawn], seed=seed)


def _pair(number: int, frame: str, nouns: NounPair) -> Pair:
    on, off = nouns.on, nouns.off
    return Pair(f"frame-{number:02d}", frame.format(on), frame.format(off), {"noun": (on, off)})
