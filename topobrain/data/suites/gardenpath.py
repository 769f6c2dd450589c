"""Garden-path ambiguity: sentences that mislead the reader for a while, and sentences with equal structure that do not.

Construction: two well-known ambiguities.

* *np-z* (is the noun phrase the object of the first clause or the subject of the second?): *While the man ate the soup
  grew cold on the table*.
* *mv-rr* (is the verb the main verb or a reduced relative clause?): *The horse raced past the barn stopped at the
  river*.

Each is undone in two ways. ``marked``: a comma after the first clause (equal words), or *that was* before the
participle (two words more). ``lexical``: the misleading verb is replaced by one that cannot mislead, an intransitive verb
(*While the man slept the soup grew cold on the table*) or a participle that is no past form (*The horse ridden past the
barn ...*), so that both sentences have equally many words, the same punctuation, and differ in one word. In the whole
set the unambiguous sentences of *mv-rr* are longer on average, by one word; ``variant="lexical"`` is matched throughout.
Pool: 84 sentence frames with three subjects each.

Published analogues: the garden-path suite of the Topoformer study, whose sentences are not public; the NP/Z and MV/RR
suites of SyntaxGym, whose sentences these are not. Limits: the ambiguity lies in the first half, the surprise in the
second, so a mean over words mixes both; the lexical variants change the meaning of one verb, and with it its frequency.
"""

from __future__ import annotations

from typing import Any

from topobrain._checks import require_choice
from topobrain.data.nonwords import stream
from topobrain.data.suites.ambiguous_frames import MV_RR, NP_Z, MainVerbOrRelative, ObjectOrSubject
from topobrain.data.suites.pairs import Pair, Suite, check_count, draw_evenly, sentence, shares, stimulus_set
from topobrain.stimuli import StimulusSet

SUITE = Suite("gardenpath", "Ambiguous or unambiguous for a while", "ambiguous", "unambiguous")

VARIANTS = {"all": ("marked", "lexical"), "marked": ("marked",), "lexical": ("lexical",)}


def load_gardenpath(*, seed: int = 0, n: int = 80, variant: str = "all") -> StimulusSet:
    """Return sentences with a temporary ambiguity and sentences without it.

    Parameters
    ----------
    seed
        Seed of the draw; equal seeds give equal sets.
    n
        Number of pairs, 2 to 252; half *np-z*, half *mv-rr*, and of each half marked, half lexical.
    variant
        ``lexical`` for pairs that differ in one word only, ``marked`` for pairs that differ in a comma or *that was*,
        ``all`` for both.

    Returns
    -------
    StimulusSet
        ``2 n`` sentences of 8 to 12 words. Columns: ``condition`` (``ambiguous``, ``unambiguous``), ``item`` (of the
        pair), ``template`` (``np-z-marked``, ``np-z-lexical``, ``mv-rr-marked``, ``mv-rr-lexical``), ``construction``,
        ``variant``, ``verb`` (of the first clause, or the participle), ``n_words``, ``mean_word_length``.

    Raises
    ------
    InputError
        ``n`` is no whole number in that range.
    UnknownNameError
        No such variant.

    Examples
    --------
    >>> lexical = load_gardenpath(n=12, variant="lexical")
    >>> lexical.table.groupby("condition")["n_words"].mean().nunique()
    1
    """
    require_choice("garden-path variant", variant, [*VARIANTS])
    variants = VARIANTS[variant]
    rng = stream(seed, SUITE.name)
    pairs: list[Pair] = []
    frames: tuple[tuple[ObjectOrSubject | MainVerbOrRelative, ...], ...] = (NP_Z, MV_RR)
    for pool, count in zip(frames, shares(check_count(SUITE, n), 2), strict=True):
        # One draw for all variants: they share their ambiguous sentences, and no text may come twice.
        drawn = draw_evenly(rng, count, [pool, range(3)])
        of_variant = [
            name for name, share in zip(variants, shares(count, len(variants)), strict=True) for _ in range(share)
        ]
        pairs += [_pair(frame, subject, name) for (frame, subject), name in zip(drawn, of_variant, strict=True)]
    return stimulus_set(SUITE, [pairs[i] for i in rng.permutation(len(pairs))], seed=seed, variant=variant)


def _pair(frame: ObjectOrSubject | MainVerbOrRelative, place: int, variant: str) -> Pair:
    subject = frame.subjects[place]
    verb: Any
    if isinstance(frame, ObjectOrSubject):
        construction = "np-z"
        on = sentence(frame.link, subject, frame.verb, frame.noun, frame.rest)
        verb = (frame.verb, frame.verb if variant == "marked" else frame.intransitive)
        off = sentence(frame.link, subject, verb[1] + "," * (variant == "marked"), frame.noun, frame.rest)
    else:
        construction = "mv-rr"
        on = sentence(subject, frame.verb, frame.phrase, frame.rest)
        verb = (frame.verb, frame.verb if variant == "marked" else frame.participle)
        that = f"that {frame.be}" if variant == "marked" else ""
        off = sentence(subject, that, verb[1], frame.phrase, frame.rest)
    columns = {"construction": construction, "variant": variant, "verb": verb}
    return Pair(f"{construction}-{variant}", on, off, columns)
