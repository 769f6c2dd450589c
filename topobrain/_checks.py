"""One voice for every user-facing error: what was given, what was expected, the nearest right answer."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class TopobrainError(Exception):
    """Base of every error topobrain raises on purpose. The command line prints its message without a traceback."""


class InputError(TopobrainError, ValueError):
    """An argument, a file's content or a combination of options that cannot be used."""


class UnknownNameError(TopobrainError, LookupError):
    """A name that is not registered: a model, a layer, a data set, an ROI, a condition."""


class DataFileError(TopobrainError, OSError):
    """A file or directory that is missing, truncated, altered or cannot be written."""


def listed(names: Iterable[object], limit: int = 12) -> str:
    """Return names as one readable line, cut after ``limit`` with a count of the rest."""
    shown = [str(name) for name in names]
    rest = len(shown) - limit
    return ", ".join(shown[:limit]) + (f" and {rest} more" if rest > 0 else "") if shown else "none"


def near(given: object, known: Iterable[object]) -> list[str]:
    """Return up to three known names that look like the given one, best first."""
    names = [str(name) for name in known]
    lowered = {name.lower(): name for name in reversed(names)}
    text = str(given).lower()
    close = difflib.get_close_matches(text, lowered, n=3, cutoff=0.5)
    inside = [low for low in lowered if text and (text in low or low in text) and low not in close]
    return [lowered[low] for low in (close + sorted(inside))[:3]]


def unknown(what: str, given: object, known: Iterable[object], hint: str = "") -> UnknownNameError:
    """Build the error for a name that is not known, offering near names and the list of known ones."""
    names = [str(name) for name in known]
    close = near(given, names)
    guess = f" Did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
    return UnknownNameError(f"unknown {what} {given!r}.{guess} Known: {listed(names)}.{' ' + hint if hint else ''}")


def require_choice(what: str, given: str, known: Sequence[str]) -> None:
    """Raise the unknown-name error unless ``given`` is one of ``known``."""
    if given not in known:
        raise unknown(what, given, known)
