"""What every suite is made of: matched pairs of sentences, drawn evenly from a pool, and laid out as a stimulus set."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from topobrain._checks import InputError
from topobrain.stimuli import Contrast, StimulusSet

VERSION = 2
"""Version of the sentences; it goes up whenever a list, a template or the way of drawing changes."""
MAX_CANDIDATES = 6000
"""Combinations a draw chooses from; larger pools are thinned at random first, which costs no evenness."""


class Suite(NamedTuple):
    """A suite's short name, its title, its two conditions, and how many pairs go together (2: sets of four sentences)."""

    name: str
    title: str
    on: str
    off: str
    step: int = 1

    @property
    def contrast(self) -> Contrast:
        """The contrast of the suite."""
        return Contrast(self.name, on=self.on, off=self.off)


@dataclass(frozen=True)
class Pair:
    """Two matched sentences.

    ``columns`` maps a column to its value in both sentences, or to a pair of values (on, off). ``quartet`` names the
    sentences within which words are balanced, where one pair is not enough for that.
    """

    template: str
    on: str
    off: str
    columns: Mapping[str, str | tuple[str, str]] = field(default_factory=dict)
    quartet: str = ""


def sentence(*parts: str) -> str:
    """Return parts joined by blanks, with a capital at the start and a period at the end.

    >>> sentence("the dog", "", "barked")
    'The dog barked.'
    """
    text = " ".join(part for part in parts if part)
    return text[0].upper() + text[1:] + "."


def words_of(text: str) -> list[str]:
    """Return the words of a sentence in lower case, without punctuation.

    >>> words_of("While he ate, it rained.")
    ['while', 'he', 'ate', 'it', 'rained']
    """
    return text.lower().replace(",", "").rstrip(".").split()


def check_count(suite: Suite, n: int) -> int:
    """Return the number of pairs asked for, if the suite can be balanced with it."""
    least = max(2, suite.step)  # a contrast needs two sentences a condition
    whole = isinstance(n, int | np.integer) and not isinstance(n, bool)
    if not whole or n < least or n % suite.step:
        multiple = f" and a multiple of {suite.step}, which its words are balanced over" if suite.step > 1 else ""
        raise InputError(f"n of the {suite.name} suite must be a whole number of at least {least}{multiple}; got {n!r}")
    return int(n)


def shares(n: int, parts: int, step: int = 1) -> list[int]:
    """Return ``n`` split into parts that are as equal as they can be, each a multiple of ``step``.

    >>> shares(80, 5, 2), shares(10, 4, 2)
    ([16, 16, 16, 16, 16], [4, 2, 2, 2])
    """
    units = n // step
    return [step * (units // parts + (part < units % parts)) for part in range(parts)]


def draw_evenly(
    rng: np.random.Generator,
    n: int,
    factors: Sequence[Sequence[Any]],
    *,
    allowed: Callable[..., bool] | None = None,
    exclusive: Callable[..., Sequence[Hashable]] | None = None,
    levels: Callable[..., Sequence[Hashable]] | None = None,
) -> list[tuple[Any, ...]]:
    """Return ``n`` different combinations of factor levels in which every level is used about equally often.

    Each draw takes, at random, one of the combinations whose levels have been used least so far (relative to how often
    they occur in the pool).

    Parameters
    ----------
    rng
        Source of chance.
    n
        Number of combinations.
    factors
        The levels of each factor.
    allowed
        Which combinations may be drawn; all if not given.
    exclusive
        Keys of a combination, of which no two drawn combinations may share one.
    levels
        What is used evenly; each factor's level if not given.

    Returns
    -------
    list of tuple
        One level of each factor a combination, in random order.

    Raises
    ------
    InputError
        The pool holds fewer combinations.

    Examples
    --------
    >>> drawn = draw_evenly(np.random.default_rng(0), 4, [["a", "b"], [1, 2, 3, 4]])
    >>> sorted(letter for letter, _ in drawn), sorted(number for _, number in drawn)
    (['a', 'a', 'b', 'b'], [1, 2, 3, 4])
    """
    sizes = [len(factor) for factor in factors]
    total = math.prod(sizes)
    if total <= MAX_CANDIDATES:
        places = [*itertools.product(*map(range, sizes))]
    else:
        kept = rng.choice(total, size=MAX_CANDIDATES, replace=False)
        places = [tuple(row) for row in np.column_stack(np.unravel_index(kept, sizes)).tolist()]
    pool = [tuple(factor[i] for factor, i in zip(factors, place, strict=True)) for place in places]
    if allowed is not None:
        kept_rows = [row for row, combination in enumerate(pool) if allowed(*combination)]
        pool, places = [pool[row] for row in kept_rows], [places[row] for row in kept_rows]
    features = _encode([levels(*c) for c in pool] if levels else [[*enumerate(place)] for place in places])
    keys = _encode([exclusive(*c) for c in pool]) if exclusive else np.arange(len(pool))[:, None]
    in_pool = np.bincount(features.ravel())
    used = np.zeros(len(in_pool))
    free = np.ones(len(pool), dtype=bool)
    drawn: list[tuple[Any, ...]] = []
    while len(drawn) < n:
        open_rows = np.flatnonzero(free)
        if not len(open_rows):
            raise InputError(
                f"the pool gives {len(drawn)} different combinations where {n} were needed: ask for a smaller n"
            )
        cost = (used / in_pool)[features[open_rows]].sum(axis=1)
        least = open_rows[cost <= cost.min() * (1 + 1e-9)]
        row = int(least[int(rng.integers(len(least)))])
        used[features[row]] += 1
        free &= ~np.isin(keys, keys[row]).any(axis=1)
        drawn.append(pool[row])
    return [drawn[i] for i in rng.permutation(n)]


def _encode(rows: Sequence[Sequence[Hashable]]) -> np.ndarray:
    """Return keys as whole numbers (combination, key); equal keys get equal numbers."""
    codes: dict[Hashable, int] = {}
    table = [[codes.setdefault(key, len(codes)) for key in row] for row in rows]
    return np.array(table, dtype=np.int64).reshape(len(rows), -1)


def numbered(groups: Sequence[Sequence[Pair]]) -> list[Pair]:
    """Return pairs in order, each named by the group within which its words are balanced."""
    return [
        replace(pair, quartet=f"quartet-{number:03d}") for number, group in enumerate(groups, start=1) for pair in group
    ]


def stimulus_set(suite: Suite, pairs: Sequence[Pair], *, seed: int, **options: Any) -> StimulusSet:
    """Return pairs of sentences as a stimulus set, the two sentences of a pair below each other.

    Columns: ``condition``, ``item`` (shared by the two sentences of a pair), ``template``, ``quartet`` (where the suite
    has them), those of the pairs, ``n_words`` and ``mean_word_length`` (letters).
    """
    items: list[str] = []
    rows: list[dict[str, Any]] = []
    for number, pair in enumerate(pairs, start=1):
        item = f"{suite.name}-{number:03d}"
        for side, (condition, text) in enumerate(((suite.on, pair.on), (suite.off, pair.off))):
            words = words_of(text)
            row = {"stimulus": f"{item}-{condition}", "condition": condition, "item": item, "template": pair.template}
            if pair.quartet:
                row["quartet"] = pair.quartet
            row |= {name: given if isinstance(given, str) else given[side] for name, given in pair.columns.items()}
            rows.append({**row, "n_words": len(words), "mean_word_length": sum(map(len, words)) / len(words)})
            items.append(text)
    table = {name: [row[name] for row in rows] for name in rows[0]}
    provenance = {
        "generated": True,
        "suite": suite.name,
        "name": f"suite-{suite.name}",
        "seed": int(seed),
        "version": VERSION,
        "n_pairs": len(pairs),
        **options,
        "source": "sentences made by topobrain from its own templates and word lists; "
        "not the suites of the Topoformer paper, which are not public",
        "licence": "BSD-3-Clause",
        "citation": "topobrain (generated stimuli)",
    }
    return StimulusSet(items, table, name=f"suite-{suite.name}", provenance=provenance)
