"""What each localizer is: its stimuli, its contrasts, what to hold out, and what to know before using it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from topobrain._checks import InputError, require_choice
from topobrain.data.floc import DOMAINS
from topobrain.data.syntaxgym import OTHER
from topobrain.stimuli import Contrast, StimulusSet

ODD_EVEN = "odd-even"
"""Hold out every other stimulus of each condition."""

Built = tuple[StimulusSet, tuple[Contrast, ...]]


@dataclass(frozen=True)
class Recipe:
    """What is known of a localizer without its stimuli.

    Parameters
    ----------
    title, reference, notes, split
        As in `Localizer`.
    stimuli
        Name of its stimuli in `load_stimuli`.
    conditions
        Values that the contrasts compare, with the default options.
    n
        Number of stimuli with the default options.
    contrasts
        The contrasts, if its stimuli are those of `load_stimuli` as they are.
    build
        Else: options -> stimuli and contrasts.
    kind
        ``"text"`` or ``"image"``.
    """

    title: str
    stimuli: str
    conditions: tuple[str, ...]
    n: int
    reference: str
    contrasts: tuple[Contrast, ...] = ()
    build: Callable[..., Built] | None = None
    split: str = "half"
    notes: str = ""
    kind: str = "text"


# --- stimuli that need another column, or whose contrasts depend on the options


def _noun_verb_words() -> Built:
    stimuli = _load("moseley")
    cells = [
        f"{kind} {word}" for kind, word in zip(stimuli.column("category"), stimuli.column("condition"), strict=True)
    ]
    return with_column(stimuli, "cell", cells), (
        Contrast("noun-verb", on="noun", off="verb"),
        Contrast("concrete noun-verb", on="concrete noun", off="concrete verb", by="cell"),
        Contrast("abstract noun-verb", on="abstract noun", off="abstract verb", by="cell"),
        Contrast("concrete-abstract", on="concrete", off="abstract", by="category"),
    )


def _plausibility(suite: str = "eventsadapt") -> Built:
    contrasts = {
        "eventsadapt": (
            # Reversible events are plausible both ways: they are the control, not part of the contrast.
            Contrast(
                "plausibility",
                on=("AI plausible", "AAN plausible"),
                off=("AI implausible", "AAN implausible"),
                by="cell",
            ),
            *(
                Contrast(kind, on=f"{kind} plausible", off=f"{kind} implausible", by="cell")
                for kind in ("AI", "AAN", "AAR")
            ),
        ),
        "eventsrev": (Contrast("plausibility", on="plausible", off="implausible"),),
        "dtfit": (Contrast("plausibility", on="plausible", off="implausible"),),
        "ryskin2021": (
            Contrast("semantic", on="control", off="semantic"),
            Contrast("semantic_critical", on="control", off="semantic_critical"),
            Contrast("syntactic", on="control", off="syntactic"),
        ),
        "warren2015": (
            Contrast("possible-impossible", on="possible", off=("impossible", "selectional_violation")),
            Contrast("impossible", on="possible", off="impossible"),
            Contrast("selectional_violation", on="possible", off="selectional_violation"),
        ),
    }
    require_choice("plausibility suite", suite, list(contrasts))
    return _load(suite), contrasts[suite]


def _blimp(
    by: str = "linguistics_term", uid: str | Sequence[str] | None = None, n_pairs: int | None = 50, seed: int = 0
) -> Built:
    """Return ``n_pairs`` drawn pairs of each paradigm, with one contrast over all and one a value of ``by``.

    Pairs with a text that stands on both sides (seven of the 67,000, in which the two sentences are the same) are left
    out; the next drawn pair takes their place.
    """
    require_choice("grouping of BLiMP", by, ("field", "linguistics_term", "uid"))
    stimuli = _load("blimp", uid=uid)
    uids = stimuli.column("uid")[::2]  # two rows a pair
    good, bad = stimuli.items[::2], stimuli.items[1::2]
    both = set(good) & set(bad)
    usable = np.array([first not in both and second not in both for first, second in zip(good, bad, strict=True)])
    pairs = np.flatnonzero(usable)
    if n_pairs is not None:
        generator = np.random.default_rng(seed)
        kept = []
        for paradigm in dict.fromkeys(uids.tolist()):
            there = np.flatnonzero(uids == paradigm)
            most = int(usable[there].sum())
            if not 2 <= n_pairs <= most:
                raise InputError(f"n_pairs is 2 to {most} for the paradigm {paradigm!r}, got {n_pairs}")
            # Drawn from all and then sieved: leaving a pair out changes no other paradigm's draw.
            order = generator.permutation(there)
            kept.append(np.sort(order[usable[order]][:n_pairs]))
        pairs = np.concatenate(kept)
    stimuli = stimuli.take(np.stack([2 * pairs, 2 * pairs + 1], axis=1).ravel())
    if n_pairs is not None:
        stimuli.provenance = {**stimuli.provenance, "n_pairs": n_pairs, "seed": seed}
    # The source spells one paradigm's field with a slash.
    groups = [str(value).replace("/", "_") for value in stimuli.column(by)]
    cells = [f"{group} {side}" for group, side in zip(groups, stimuli.column("condition"), strict=True)]
    stimuli = with_column(stimuli, "cell", cells)
    # Paradigm by paradigm, so that every contrast has both halves.
    halves = ["even" if (position // 2) % 2 else "odd" for position in range(len(stimuli))]
    stimuli = with_column(stimuli, "half", halves)
    names = dict.fromkeys(groups)
    return stimuli, (
        Contrast("grammaticality", on="good", off="bad"),
        *(Contrast(group, on=f"{group} good", off=f"{group} bad", by="cell") for group in names),
    )


def _syntaxgym(suite: str | Sequence[str] | None = None) -> Built:
    """Return suites with a contrast of grammar, one of ambiguity, and one a circuit, as far as they have both sides.

    Every text is there once: copies in several suites would count as independent stimuli.
    """
    stimuli = _load("syntaxgym", suite=suite)
    # A stable sort puts the copies that are in a contrast first: what is other in one suite has a side in the next.
    first: dict[str, int] = {}
    for position in np.argsort(stimuli.column("condition") == OTHER, kind="stable"):
        first.setdefault(stimuli.items[position], int(position))
    stimuli = stimuli.take(sorted(first.values()))
    present = set(stimuli.column("condition"))
    contrasts = []
    if "good" in present:
        contrasts.append(Contrast("grammaticality", on="good", off="bad"))
    if "ambiguous" in present:
        contrasts.append(Contrast("ambiguity", on="ambiguous", off="unambiguous"))
    cells = set(stimuli.column("cell"))
    circuits = [circuit for circuit in dict.fromkeys(stimuli.column("circuit")) if f"{circuit} good" in cells]
    contrasts += [Contrast(circuit, on=f"{circuit} good", off=f"{circuit} bad", by="cell") for circuit in circuits]
    return stimuli, tuple(contrasts)


def _sentiment(part: str = "sst-test", n: int | None = None, n_words: int | None = None, seed: int = 0) -> Built:
    """Return sentences, or with ``part="imdb-test"`` or ``"imdb-train"`` film reviews."""
    contrast = (Contrast("sentiment", on="positive", off="negative"),)
    if part.startswith("imdb-"):
        split = part.removeprefix("imdb-")
        return _load("imdb-sentiment", split=split, n=500 if n is None else n, n_words=n_words, seed=seed), contrast
    if n_words is not None:
        raise InputError(f"n_words={n_words} shortens the reviews of 'imdb-test' and 'imdb-train', not {part!r}")
    return _load("sentiment", part=part, n=n, seed=seed), contrast


def _floc(size: int | None = None, n_per_category: int | None = None, scrambled: bool = False, seed: int = 0) -> Built:
    """Return images with one contrast a domain against all others."""
    domains = [domain for domain in dict.fromkeys(DOMAINS.values()) if scrambled or domain != "scrambled"]
    stimuli = _load("floc", size=size, domains=domains, n_per_category=n_per_category, seed=seed)
    return stimuli, tuple(
        Contrast(domain, on=domain, off=tuple(other for other in domains if other != domain)) for domain in domains
    )


def _floc_animacy(size: int | None = None, n_per_category: int | None = None, seed: int = 0) -> Built:
    domains = ["faces", "bodies", "places", "objects"]
    stimuli = _load("floc", size=size, domains=domains, n_per_category=n_per_category, seed=seed)
    return stimuli, (Contrast("animacy", on="animate", off="inanimate", by="animacy"),)


def _floc_size(size: int | None = None, n_per_category: int | None = None, seed: int = 0) -> Built:
    stimuli = _load("floc", size=size, domains=["places", "objects"], n_per_category=n_per_category, seed=seed)
    return stimuli, (
        Contrast("real-world size", on="big", off="small", by="real_size"),
        Contrast("car-instrument", on="car", off="instrument", by="category"),
    )


def _load(name: str, **options: Any) -> StimulusSet:
    from topobrain.data import load_stimuli

    return load_stimuli(name, **options)


def with_column(stimuli: StimulusSet, name: str, values: Sequence[Any]) -> StimulusSet:
    """Return a set with another column."""
    return StimulusSet(
        stimuli.items, stimuli.table.assign(**{name: values}), name=stimuli.name, provenance=stimuli.provenance
    )


_TOPOFORMER_SUITE = (
    "Sentences generated by topobrain from templates; the contrast is one of Topoformer's (BinHuraib et al., 2024), whose own "
    "sentences are not public."
)
_SHARED_WORDS = (
    "The two halves (column 'half') share {}: a held-out profile is held out by sentence, not by word, so it does not show "
    "that the selectivity holds for other words."
)


def _suite(on: str, off: str, name: str, title: str, notes: str = "") -> Recipe:
    contrasts = (Contrast(name, on=on, off=off),)
    return Recipe(title, f"suite-{name}", (on, off), 160, _TOPOFORMER_SUITE, contrasts, notes=notes)


LOCALIZERS: dict[str, Recipe] = {
    "language": Recipe(
        "Language: sentences against nonword strings",
        "langloc",
        ("sentence", "nonword"),
        480,
        "Fedorenko et al. (2010) J Neurophysiol 104:1177",
        (Contrast("language", on="sentence", off="nonword"),),
        split="set",
        notes="Nonword strings have about twice as many tokens: give length='tokens' and 'words' beside the full length.",
    ),
    "swjn": Recipe(
        "Words apart from structure: sentences, word lists, Jabberwocky, nonword strings",
        "swjn",
        ("sentence", "word_list", "jabberwocky", "nonword"),
        640,
        "Fedorenko et al. (2010) J Neurophysiol 104:1177",
        (
            Contrast("sentence-nonword", on="sentence", off="nonword"),
            Contrast("sentence-word_list", on="sentence", off="word_list"),
            Contrast("jabberwocky-nonword", on="jabberwocky", off="nonword"),
            Contrast("word_list-nonword", on="word_list", off="nonword"),
        ),
        split=ODD_EVEN,
        notes="One text occurs twice. Better measured with units found by 'language' than split in two.",
    ),
    "multiple-demand": Recipe(
        "Multiple demand: hard against easy arithmetic",
        "multiple-demand",
        ("hard", "easy"),
        200,
        "AlKhamissi et al. (2025) NAACL",
        (Contrast("multiple demand", on="hard", off="easy"),),
        notes="GPT-2 reads both sides with 11 tokens each; a tokenizer that splits numbers does not: see token_counts.",
    ),
    "theory-of-mind": Recipe(
        "Theory of mind: false beliefs against false photographs",
        "theory-of-mind",
        ("belief", "photo"),
        20,
        "Dodell-Feder et al. (2011) NeuroImage 55:705",
        (Contrast("theory of mind", on="belief", off="photo"),),
        notes="Ten stories a side. Photo stories are harder, and belief stories differ from them in wording.",
    ),
    "noun-verb": Recipe(
        "Pairs of nouns against pairs of verbs, eight semantic categories",
        "elli",
        ("noun", "verb"),
        576,
        "Elli et al. (2019); Hauptman et al. (2024); used by TopoLM (Rathi et al., 2025)",
        (Contrast("noun-verb", on="noun", off="verb"),),
        split="run",
        notes="Nouns come with 'the', verbs with 'to': function words differ with the condition.",
    ),
    "noun-verb-words": Recipe(
        "Single nouns against verbs, concrete and abstract",
        "moseley",
        ("noun", "verb", "concrete", "abstract"),
        160,
        "Moseley & Pulvermueller (2014); used by TopoLM (Rathi et al., 2025)",
        build=_noun_verb_words,
        split=ODD_EVEN,
        notes="One word each: in a causal model the first token has no context.",
    ),
    "plausibility": Recipe(
        "Plausible against implausible events (EventsAdapt; suite= names others)",
        "eventsadapt",
        ("plausible", "implausible"),
        1564,
        "Kauf et al. (2023) Cognitive Science 47:e13386",
        build=_plausibility,
        notes="The words of a pair are equal. Reversible events (AAR) are plausible both ways: their contrast is a control.",
    ),
    "animacy-sentences": Recipe(
        "Animate against inanimate subjects, rated by people",
        "animacy-fed2020",
        ("animate", "inanimate"),
        100,
        "Fedorenko et al. (2020) Cognition 203:104348",
        (Contrast("animacy", on="animate", off="inanimate", by="subject"),),
        notes="Sentences with inanimate subjects are implausible: the two cannot be told apart in these pairs.",
    ),
    "blimp": Recipe(
        "BLiMP: acceptable against unacceptable sentences, by phenomenon",
        "blimp",
        ("good", "bad"),
        6700,
        "Warstadt et al. (2020) TACL 8:377",
        build=_blimp,
        notes="50 pairs of each of the 67 paradigms; n_pairs=None gives all 66,993, by='uid' a contrast a paradigm. The "
        "seven pairs of the source whose two sentences are the same text, on both sides at once, are left out. All pairs "
        "together hold 48 texts a second time, on the same side; the default draw holds none.",
    ),
    "syntaxgym": Recipe(
        "SyntaxGym: expected against unexpected, and garden paths",
        "syntaxgym",
        ("good", "bad", "ambiguous", "unambiguous"),
        2878,
        "Hu et al. (2020) ACL",
        build=_syntaxgym,
        notes="One copy of each text: suites share sentences, 3,132 with the copies. A text on both sides of its contrast "
        "(item 5 of mvrr and mvrr_mod) is in none. Which condition is on which side: topobrain.data.syntaxgym.SIDES.",
    ),
    "sentiment": Recipe(
        "Positive against negative sentences (SST test; part= names others, IMDB among them)",
        "sentiment",
        ("positive", "negative"),
        1821,
        "Socher et al. (2013) EMNLP",
        build=_sentiment,
        notes="Sentences are tokenised and in lower case. part='imdb-test' gives 500 film reviews a side (n=).",
    ),
    "intactness": _suite("intact", "scrambled", "intactness", "Intact sentences against the same words in disorder"),
    "animacy": _suite(
        "animate",
        "inanimate",
        "animacy",
        "Animate against inanimate subjects in the same frames",
        _SHARED_WORDS.format("nouns and frames"),
    ),
    "concreteness": _suite(
        "concrete",
        "abstract",
        "concreteness",
        "Concrete against abstract nouns in the same frames",
        _SHARED_WORDS.format("nouns and frames"),
    ),
    "visuomotor": _suite(
        "visual",
        "motor",
        "visuomotor",
        "Seeing against acting, on the same objects",
        _SHARED_WORDS.format("verbs, objects and frames"),
    ),
    "acceptability": _suite("acceptable", "anomalous", "acceptability", "Sense against nonsense, from the same words"),
    "agreement": _suite("grammatical", "ungrammatical", "agreement", "Subject-verb agreement kept against broken"),
    "licensing": _suite(
        "grammatical", "ungrammatical", "licensing", "Polarity items and reflexives licensed against not"
    ),
    "gardenpath": _suite("ambiguous", "unambiguous", "gardenpath", "Garden paths against unambiguous sentences"),
    "floc": Recipe(
        "fLoc: each domain of images against all others",
        "floc",
        ("faces", "bodies", "places", "characters", "objects"),
        1440,
        "Stigliani et al. (2015) J Neurosci 35:12412",
        build=_floc,
        notes="Scrambled images are left out, as in TDANN; scrambled=True adds them as a sixth domain. 217 MB at 224 pixels.",
        kind="image",
    ),
    "floc-animacy": Recipe(
        "fLoc: faces and bodies against places and objects",
        "floc",
        ("animate", "inanimate"),
        1152,
        "Stigliani et al. (2015) J Neurosci 35:12412",
        build=_floc_animacy,
        notes="Animacy goes with category here: no animal is shown. Labels are those of the categories.",
        kind="image",
    ),
    "floc-size": Recipe(
        "fLoc: rooms, buildings, cars against instruments (real-world size)",
        "floc",
        ("big", "small"),
        576,
        "Stigliani et al. (2015) J Neurosci 35:12412; labels by topobrain, see topobrain.data.floc.REAL_SIZE",
        build=_floc_size,
        notes="The small side is one category: read it together with 'car-instrument', the contrast among objects.",
        kind="image",
    ),
    "objects92": Recipe(
        "92 pictures: animate against inanimate, faces, humans, artefacts",
        "objects92",
        ("animate", "inanimate"),
        92,
        "Kriegeskorte et al. (2008) Neuron 60:1126",
        (
            Contrast("animacy", on="animate", off="inanimate"),
            Contrast("face-body", on="face", off="body", by="part"),
            Contrast(
                "human-nonhuman",
                on=("human face", "human bodypart"),
                off=("nonhuman face", "nonhuman bodypart"),
                by="category",
            ),
            Contrast("natural-artificial", on="natural inanimate", off="artificial inanimate", by="category"),
        ),
        notes="What each picture shows is not in the store, so there is no contrast of real-world size.",
        kind="image",
    ),
}
"""Every localizer by name."""
