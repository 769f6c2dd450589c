"""People that sentences are about, with their plurals, and verbs of relative clauses whose past form shows no number."""

from __future__ import annotations

from typing import NamedTuple


class Person(NamedTuple):
    """A noun for a person in singular and plural."""

    singular: str
    plural: str

    def form(self, number: str) -> str:
        """Return the form of that number: ``singular`` or ``plural``."""
        return self.plural if number == "plural" else self.singular


def _people(text: str) -> tuple[Person, ...]:
    return tuple(Person(*entry.split("/")) if "/" in entry else Person(entry, entry + "s") for entry in text.split())


WORKERS = _people("teacher doctor farmer sailor singer driver lawyer hunter waiter painter soldier baker nurse student")
"""People by what they do; they say nothing of gender here."""
MEN = _people("man/men boy king prince actor waiter brother father")
WOMEN = _people("woman/women girl queen princess/princesses actress/actresses waitress/waitresses sister mother")
"""People whose gender the noun tells; place by place the counterparts of `MEN`."""

KNOWING = ("liked", "loved", "knew", "visited", "thanked", "followed", "trusted", "met", "invited")
"""Past forms for object relative clauses. None takes a bare infinitive (*helped sing*), which could rescue a verb that
does not agree; past forms show no number."""
