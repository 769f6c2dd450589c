"""Which word takes the place of which: one swap at every position of every sequence.

Question answered: what is put where a word was, so that what a unit does later tells how far back it listens? Every rule
leaves the number of words as it is, and swaps a word for one of equally many tokens (one, where the sequences are made of
words that are single tokens). Tokens are counted without marks and behind a blank: the first word of a sequence, and a word
with marks before it, may be cut otherwise, and then its swap may change the number of tokens. A swap never is the word
itself, marks that hang on a word stay on it, and everything is drawn from a seed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from topobrain._checks import InputError, listed, require_choice
from topobrain.data.nonwords import stream
from topobrain.data.word_sequences import SOURCES, tagged_words
from topobrain.integration.candidates import Candidates, Places, as_words, single_token_words, take_apart, word_vectors
from topobrain.integration.masked_fills import MaskedFills, find_fills
from topobrain.models.protocol import Model
from topobrain.models.torch_model import TorchModel
from topobrain.stimuli import StimulusSet

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MASKED_RULES", "RULES", "Swaps", "make_swaps", "single_token_words", "words_of"]

RULES = ("random", "same-tag", "embedding", "probable", "improbable")
"""How a swap is chosen."""
MASKED_RULES = ("probable", "improbable")
"""The rules that ask a masked language model."""
MIN_TAG_WORDS = 5
"""A tag with fewer candidates shares them with the other rare tags."""
N_PROBABLE = 5
"""The probable rule draws among so many of the best fills."""
N_FILLS = 1000
"""Fills of a position that are looked at; the improbable rule draws from the last tenth of them."""
IMPROBABLE_SHARE = 0.1
N_DISTANCES = 1000
"""Candidates whose embedding distance to a word is measured first; all are, if none of those is at the right distance."""
QUANTILES = np.linspace(0.05, 0.95, 19)
"""Quantiles of all distances that are tried as the distance of all swaps."""
DISTANCE_BINS = 6
RELATIVE_HALF_WIDTH = 0.024
"""Half-width of the window of embedding distances relative to its centre: .003 of .125."""


@dataclass(frozen=True, eq=False)  # arrays have no truth value: swaps are the same by `digest`
class Swaps:
    """What takes the place of each word.

    Attributes
    ----------
    words
        Swap of each word (sequence, position), with the marks of the word it replaces.
    originals
        The words that are replaced (sequence, position), as they are written.
    rule, seed
        How and from which seed they were chosen.
    fallback
        Where the rule had no word to offer, so that another was drawn (sequence, position).
    provenance
        Further fields that results keep.
    """

    words: np.ndarray
    originals: np.ndarray
    rule: str
    seed: int
    fallback: np.ndarray
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape, originals, fallback = (_shape(name, getattr(self, name)) for name in ("words", "originals", "fallback"))
        if len(shape) != 2 or shape != originals or shape != fallback or 0 in shape:
            raise InputError(
                f"swaps have shape {shape}, originals {originals}, fallback {fallback}: "
                "expected (sequence, position) for all three"
            )
        for name in ("words", "originals"):
            array = np.asarray(getattr(self, name), dtype=object)
            for row, column in np.ndindex(*array.shape):
                word = array[row, column]
                if not isinstance(word, str) or len(word.split()) != 1 or word != word.strip():
                    raise InputError(f"{name}[{row}, {column}] is {word!r}: expected one word without white space")
            object.__setattr__(self, name, array)
        object.__setattr__(self, "fallback", np.asarray(self.fallback, dtype=bool))

    def __len__(self) -> int:
        return len(self.words)

    def texts(self, sequence: int) -> list[str]:
        """Return a sequence once for each of its positions, with the word there swapped, words joined by blanks."""
        if isinstance(sequence, bool) or not isinstance(sequence, int | np.integer) or not 0 <= sequence < len(self):
            raise InputError(f"there is no sequence {sequence!r}: these swaps are of {len(self)}, 0 to {len(self) - 1}")
        plain = [str(word) for word in self.originals[sequence]]
        swapped = []
        for position, word in enumerate(self.words[sequence]):
            swapped.append(" ".join([*plain[:position], str(word), *plain[position + 1 :]]))
        return swapped

    def to_frame(self) -> pd.DataFrame:
        """Return one row a swap: ``sequence``, ``position``, ``word``, ``swap``, ``fallback``."""
        import pandas as pd

        sequence, position = np.indices(self.words.shape).reshape(2, -1)
        return pd.DataFrame(
            {
                "sequence": sequence,
                "position": position,
                "word": self.originals.ravel(),
                "swap": self.words.ravel(),
                "fallback": self.fallback.ravel(),
            }
        )

    def digest(self) -> str:
        """Return the sha256 of the words and their swaps; the rule and the seed that led to them do not count."""
        return hashlib.sha256(json.dumps([self.originals.tolist(), self.words.tolist()]).encode()).hexdigest()


def _shape(name: str, given: ArrayLike) -> tuple[int, ...]:
    try:
        return tuple(np.shape(given))
    except ValueError:
        raise InputError(f"{name} has rows of unequal length: expected (sequence, position)") from None


def words_of(sequences: StimulusSet | Sequence[str]) -> np.ndarray:
    """Return the words of sequences (sequence, position), as white space separates them.

    Raises
    ------
    InputError
        There are none, a sequence is no text, or they differ in their number of words.
    """
    if not isinstance(sequences, Iterable):
        raise InputError(
            f"words are swapped in a StimulusSet or a list of texts, got {type(sequences).__name__}: "
            "load_stimuli('word-runs') makes one"
        )
    given = [sequences] if isinstance(sequences, str) else list(sequences)
    if not given:
        raise InputError("there is no sequence to swap words in: expected one or more")
    for number, text in enumerate(given):
        if not isinstance(text, str):
            raise InputError(f"sequence {number} is a {type(text).__name__}: words are swapped in texts")
    split = [text.split() for text in given]
    lengths = sorted({len(words) for words in split})
    if len(lengths) > 1 or lengths == [0]:
        raise InputError(
            f"the sequences have {lengths[0]} to {lengths[-1]} words: expected equally many in each, as in "
            "load_stimuli('word-runs', n_words=40) or load_stimuli('sentence-sequences')"
        )
    return np.array(split, dtype=object)


def make_swaps(
    model: Model,
    sequences: StimulusSet | Sequence[str],
    rule: str = "same-tag",
    *,
    masked_model: TorchModel | str | Path | None = None,
    candidates: Iterable[str] | None = None,
    distance: tuple[float, float] | None = None,
    unknown: str = "raise",
    seed: int = 0,
) -> Swaps:
    """Choose a swap for every word of every sequence.

    ``"random"`` draws any candidate. ``"same-tag"`` draws among the candidates with the word's tag; tags with fewer than five
    are pooled. ``"embedding"`` draws among candidates whose input embedding is at one distance (mean absolute difference)
    from the word's, so that all swaps are of equal size. ``"probable"`` draws among the five words that a masked model holds
    for most likely in the word's place, ``"improbable"`` among the last tenth of its 1,000 best.

    Parameters
    ----------
    model
        The model that will read the swapped sequences: its tokenizer decides which words can be swapped for which.
    sequences
        Texts of equally many words. ``"same-tag"`` needs their column ``tags``.
    rule
        One of `RULES`.
    masked_model
        For the last two rules: a masked language model of this project, its name or directory, or a directory or hub id in
        the format of transformers (``AutoModelForMaskedLM``).
    candidates
        Words that may be swapped in (default: all of the corpus the sequences are from; of other sequences their own words,
        and for masked models all words of theirs that are one token in lower-case letters).
    distance
        Centre and half-width of the ``"embedding"`` rule's window of distances; ``(0.125, 0.003)`` is the published one, of
        GPT-2. By default the distance at which most words of the sequences have a candidate, and 2.4 % of it (as .003 of .125).
    unknown
        ``"raise"`` if sequences have words that the tokenizer does not know, or ``"keep"`` to read them as its unknown token.
    seed
        Seed of all draws.

    Returns
    -------
    Swaps
        One swap a position. Where no word satisfies the rule, ``fallback`` is True and the swap is any candidate (for
        ``"embedding"`` the candidate nearest to the window).

    Raises
    ------
    UnknownNameError
        No such rule.
    InputError
        Sequences of different lengths, or without tags; words outside the vocabulary (named); a word for which there is no
        candidate of as many tokens; no masked model, or one that is none; a model without embeddings.
    DataFileError
        A directory holds no masked language model.

    References
    ----------
    Skrill & Norman-Haignere (2023) NeurIPS 36:638.
    """
    require_choice("swap rule", rule, RULES)
    require_choice("value of `unknown`", unknown, ("raise", "keep"))
    originals = words_of(sequences)
    if rule != "embedding" and distance is not None:
        raise InputError(f"distance belongs to the rule 'embedding', not to {rule!r}")
    if rule in MASKED_RULES and masked_model is None:
        raise InputError(
            f"the rule {rule!r} needs masked_model=: a masked language model such as 'topoformer-tiny', or a directory in the "
            "format of transformers' AutoModelForMaskedLM"
        )
    rng = stream(seed, f"swaps-{rule}")
    places = take_apart(model, originals, unknown)
    words, by_tag, known = _given_candidates(sequences, places, candidates)
    provenance: dict[str, Any] = {"rule": rule, "seed": int(seed)}
    fills = None
    if masked_model is not None and rule in MASKED_RULES:
        sentence_words = _sentence_words(sequences, originals)
        fills = find_fills(masked_model, originals, sentence_words, among=words if known else None, n=N_FILLS)
        provenance["masked_model"] = fills.name
        words = words if known else [*words, *fills.words]
    table = Candidates(model, words)
    table.require(model, places)
    provenance["n_candidates"] = len(table.words)
    if fills is not None:
        chosen = _filled(table, places, fills, rule, rng)
    elif rule == "same-tag":
        chosen = _same_tag(table, places, _tags(sequences, places.shape), by_tag, rng)
    elif rule == "embedding":
        chosen, provenance["distance"] = _embedding(table, places, model, distance, rng)
    else:
        chosen = _random(table, places, rng)
    provenance["n_fallback"] = int(chosen.fallback.sum())
    if isinstance(sequences, StimulusSet):
        provenance["sequences"] = sequences.digest()
    parts = zip(places.before, chosen.words, places.after, strict=True)
    written = np.array([before + word + after for before, word, after in parts], dtype=object)
    return Swaps(
        written.reshape(places.shape), originals, rule, int(seed), chosen.fallback.reshape(places.shape), provenance
    )


def _sentence_words(sequences: StimulusSet | Sequence[str], originals: np.ndarray) -> np.ndarray:
    """Return the words of a sentence of each sequence (sequence,), 0 where sentences are not known."""
    if not isinstance(sequences, StimulusSet) or "sentence_words" not in sequences.table.columns:
        return np.zeros(len(originals), dtype=int)
    return np.asarray(sequences.column("sentence_words"), dtype=int)


def _given_candidates(
    sequences: StimulusSet | Sequence[str], places: Places, candidates: Iterable[str] | None
) -> tuple[list[str], Mapping[str, Collection[str]], bool]:
    """Return the words that may be swapped in, those of each tag, and whether they come from more than the sequences."""
    source = sequences.provenance.get("source") if isinstance(sequences, StimulusSet) else None
    by_tag: Mapping[str, Collection[str]] = tagged_words(source) if source in SOURCES else {}
    if not by_tag and isinstance(sequences, StimulusSet) and "tags" in sequences.table.columns:
        seen: dict[str, set[str]] = {}
        for tag, word in zip(_tags(sequences, places.shape), places.word, strict=True):
            seen.setdefault(tag, set()).add(places.words[word].lower())
        by_tag = seen
    if candidates is None:
        corpus = sorted({word for words in by_tag.values() for word in words} if source in SOURCES else set())
        return corpus or sorted({word.lower() for word in places.words}), by_tag, bool(corpus)
    given = as_words("candidates", candidates)
    wrong = [word for word in given if not isinstance(word, str) or len(word.split()) != 1 or word != word.strip()]
    if wrong or not given:
        raise InputError(f"candidates must be words without white space, got {repr(wrong[0]) if wrong else 'none'}")
    return given, by_tag, True


def _tags(sequences: StimulusSet | Sequence[str], shape: tuple[int, int]) -> list[str]:
    """Return the tag of each position, flat."""
    if not isinstance(sequences, StimulusSet) or "tags" not in sequences.table.columns:
        raise InputError(
            "the rule 'same-tag' needs sequences with a column 'tags' (one tag a word, separated by blanks), as "
            "load_stimuli('word-runs') and load_stimuli('sentence-sequences') have it; other rules: "
            f"{listed(rule for rule in RULES if rule != 'same-tag')}"
        )
    rows = [str(tags).split() for tags in sequences.column("tags")]
    for label, tags in zip(sequences.ids, rows, strict=True):
        if len(tags) != shape[1]:
            raise InputError(f"sequence {label!r} has {len(tags)} tags for its {shape[1]} words: expected one each")
    return [tag for tags in rows for tag in tags]


class _Chosen(NamedTuple):
    """Swaps without marks, position by position, and where the rule had none to offer."""

    words: list[str]
    fallback: np.ndarray


def _pick(rng: np.random.Generator, among: np.ndarray) -> int:
    return int(among[int(rng.integers(len(among)))])


def _random(table: Candidates, places: Places, rng: np.random.Generator) -> _Chosen:
    pools = [table.without(table.of_length[int(n)], word) for word, n in zip(places.words, places.tokens, strict=True)]
    words = [str(table.words[_pick(rng, pools[word])]) for word in places.word]
    return _Chosen(words, np.zeros(len(words), dtype=bool))


def _same_tag(
    table: Candidates,
    places: Places,
    tags: Sequence[str],
    by_tag: Mapping[str, Collection[str]],
    rng: np.random.Generator,
) -> _Chosen:
    members = {
        tag: np.array(sorted({table.number[word] for word in words if word in table.number}), dtype=int)
        for tag, words in by_tag.items()
    }
    rare = [tag for tag in members if len(members[tag]) < MIN_TAG_WORDS]
    other = np.unique(np.concatenate([members[tag] for tag in rare])) if rare else np.empty(0, dtype=int)
    members.update(dict.fromkeys(rare, other))
    pools: dict[tuple[int, str], np.ndarray] = {}
    words, fallback = [], np.zeros(len(tags), dtype=bool)
    for place, (number, tag) in enumerate(zip(places.word, tags, strict=True)):
        key = (int(number), tag)
        if key not in pools:
            same = members.get(tag, other)
            pools[key] = table.without(same[table.tokens[same] == places.tokens[number]], places.words[number])
        pool = pools[key]
        if not pool.size:
            fallback[place] = True
            pool = table.without(table.of_length[int(places.tokens[number])], places.words[number])
        words.append(str(table.words[_pick(rng, pool)]))
    return _Chosen(words, fallback)


def _embedding(
    table: Candidates,
    places: Places,
    model: Model,
    distance: tuple[float, float] | None,
    rng: np.random.Generator,
) -> tuple[_Chosen, tuple[float, float]]:
    vectors, own = word_vectors(model, table.words.tolist()), word_vectors(model, places.words)
    near: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # word -> candidates looked at, their distances
    for n_tokens, pool in table.of_length.items():
        few = pool if len(pool) <= N_DISTANCES else np.sort(rng.choice(pool, N_DISTANCES, replace=False))
        mine = np.flatnonzero(places.tokens == n_tokens).tolist()
        for number, apart in zip(mine, _apart(own[mine], vectors[few]), strict=True):
            other = np.isin(few, table.without(few, places.words[number]), assume_unique=True)
            near[number] = few[other], apart[other]
    centre, half_width = _usual_distance(near, places) if distance is None else map(float, distance)
    if not (centre > 0 and half_width > 0):
        raise InputError(f"distance must be (centre, half-width), both above 0, got {(centre, half_width)}")
    bins: dict[int, list[np.ndarray]] = {}
    missed = set()
    for number, (few, apart) in near.items():
        bins[number] = _binned(few, apart, centre, half_width)
        if not bins[number]:
            pool = table.without(table.of_length[int(places.tokens[number])], places.words[number])
            apart = _apart(own[number][None], vectors[pool])[0]
            bins[number] = _binned(pool, apart, centre, half_width)
            if not bins[number]:
                bins[number] = [pool[[np.argmin(np.abs(apart - centre))]]]
                missed.add(number)
    words = []
    for number in places.word.tolist():
        options = bins[number]
        words.append(str(table.words[_pick(rng, options[int(rng.integers(len(options)))])]))
    return _Chosen(words, np.isin(places.word, list(missed))), (centre, half_width)


def _apart(own: Tensor, others: Tensor) -> np.ndarray:
    """Return the mean absolute differences (word, other)."""
    return np.asarray((torch.cdist(own, others, p=1) / own.shape[1]).numpy())


def _usual_distance(near: Mapping[int, tuple[np.ndarray, np.ndarray]], places: Places) -> tuple[float, float]:
    """Return the window of distances in which most words of the sequences have a candidate."""
    n_places = np.bincount(places.word, minlength=len(places.words))
    centres = np.quantile(np.concatenate([apart for _, apart in near.values()]), QUANTILES)
    covered = np.zeros(len(centres))
    for number, (_, apart) in near.items():
        inside = np.abs(apart[:, None] - centres) <= RELATIVE_HALF_WIDTH * centres
        covered += n_places[number] * inside.any(axis=0)
    best = np.flatnonzero(covered == covered.max())
    centre = float(centres[best[np.argmin(np.abs(best - len(centres) // 2))]])  # of equally good ones the most usual
    return centre, RELATIVE_HALF_WIDTH * centre


def _binned(pool: np.ndarray, apart: np.ndarray, centre: float, half_width: float) -> list[np.ndarray]:
    """Return the candidates in the window, by distance: drawn bin by bin, distances are even over the window."""
    edges = np.linspace(centre - half_width, centre + half_width, DISTANCE_BINS + 1)
    found = np.digitize(apart, edges) - 1
    return [pool[found == b] for b in range(DISTANCE_BINS) if (found == b).any()]


def _filled(
    table: Candidates,
    places: Places,
    fills: MaskedFills,
    rule: str,
    rng: np.random.Generator,
) -> _Chosen:
    """Choose among the fills of each position, best first, that are candidates of as many tokens as the word."""
    number = np.array([table.number.get(word, -1) for word in fills.words])
    tokens = np.where(number >= 0, table.tokens[number], -1)
    words, fallback = [""] * len(places.word), np.zeros(len(places.word), dtype=bool)
    for place, ranked in fills.ranked():
        own, n_tokens = places.words[places.word[place]], places.tokens[places.word[place]]
        usable = table.without(number[ranked[tokens[ranked] == n_tokens]], own)
        if not usable.size:
            fallback[place] = True
            usable = table.without(table.of_length[int(n_tokens)], own)
        elif rule == "probable":
            usable = usable[:N_PROBABLE]
        else:
            usable = usable[-max(1, round(IMPROBABLE_SHARE * len(usable))) :]
        words[place] = str(table.words[_pick(rng, usable)])
    return _Chosen(words, fallback)
