"""Pairs of nouns that differ in one property and agree in letters and roughly in frequency.

Each line gives the two nouns and how often each form occurs in the Brown corpus (1.01 million words, letter case
ignored). The two nouns of a pair have equally many letters; pairs were chosen so that their counts are close. Counts
are of word forms, so *duck* or *plan* also count as verbs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

ANIMATE_INANIMATE = """
lady rock 82 82, queen stick 41 41, sailor shovel 5 5, singer carpet 13 13, thief trunk 8 8, visitor lantern 13 13,
waiter hammer 10 10, guest piano 39 38, baker bench 36 35, dancer barrel 31 30, actor plate 25 24, painter package 23 22,
lion lamp 17 18, priest basket 16 17, cow bus 31 34, worker mirror 30 27, woman table 226 204, girl book 225 203,
nurse brick 17 19, cowboy candle 16 18, bear desk 58 65, elephant umbrella 7 8, turtle bucket 9 8, baby boat 66 76,
pig log 12 14, cat pot 24 28, goat cart 6 5, hunter ladder 25 21, chicken blanket 37 31, lawyer camera 43 36,
judge chair 79 66, monkey pillow 10 8, student picture 136 168, snake wagon 46 57, farmer guitar 25 20,
artist bottle 59 76, hen jar 21 16, dog hat 77 57, pilot truck 44 60, duck rope 9 15
"""

CONCRETE_ABSTRACT = """
bench crime 35 35, trunk rumor 8 8, book plan 203 205, kitchen failure 90 89, street reason 244 241,
painting solution 59 60, ship loss 84 86, fence error 35 36, tree goal 62 64, hat lie 57 59, bottle secret 76 79,
bowl joke 23 22, hammer custom 10 16, clock delay 21 22, cabinet miracle 17 18, forest danger 66 70, rope debt 15 14,
mirror lesson 27 29, mountain schedule 33 36, chair dream 66 72, blanket mistake 31 34, suitcase disaster 20 26,
curtain quarrel 14 20, bucket insult 8 7, car law 278 320, apartment tradition 82 95, restaurant suggestion 41 34,
carpet reward 13 16, diamond bargain 10 8, coat risk 44 54, island policy 167 229, tool task 43 60,
building decision 170 120, bridge answer 98 153, ball idea 117 196, gate rule 38 74, garden theory 60 130,
balloon promise 10 45, pillow excuse 8 28, branch choice 33 115
"""


class NounPair(NamedTuple):
    """Two nouns and how often each occurs in the Brown corpus."""

    on: str
    off: str
    brown_on: int
    brown_off: int


def _read(table: str) -> tuple[NounPair, ...]:
    fields = (entry.split() for entry in table.replace("\n", " ").split(","))
    return tuple(NounPair(on, off, int(first), int(second)) for on, off, first, second in fields)


@lru_cache(maxsize=1)
def animate_inanimate() -> tuple[NounPair, ...]:
    """Return pairs of a person or animal and a thing, both countable and singular."""
    return _read(ANIMATE_INANIMATE)


@lru_cache(maxsize=1)
def concrete_abstract() -> tuple[NounPair, ...]:
    """Return pairs of something that can be touched and something that cannot, both countable and singular."""
    return _read(CONCRETE_ABSTRACT)
