"""Results by name: one result, several, or a mapping of names of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from topobrain._checks import InputError
from topobrain.results import Result

R = TypeVar("R", bound=Result)


def named_results(given: R | Mapping[str, R] | Iterable[R], kind: type[R]) -> dict[str, R]:
    """Return results by name, those without one under the name of their model.

    Raises
    ------
    InputError
        Nothing to draw, a result of another kind, two results of one model.
    """
    if isinstance(given, Mapping):
        found = {str(name): one for name, one in given.items()}
    else:
        every = [given] if isinstance(given, Result) else list(given)
        for one in every:
            _require_kind(one, kind)
        names = [str(one.provenance.get("model", {}).get("name", "model")) for one in every]
        if len(set(names)) < len(names):
            doubled = next(name for name in names if names.count(name) > 1)
            raise InputError(f"two results are of model {doubled!r}: name them, {{'first': ..., 'second': ...}}")
        found = dict(zip(names, every, strict=True))
    if not found:
        raise InputError(f"there is no {kind.kind} result to draw")
    for one in found.values():
        _require_kind(one, kind)
    return found


def _require_kind(one: object, kind: type[Result]) -> None:
    if not isinstance(one, kind):
        what = (
            f"{'an' if one.kind[0] in 'aeiou' else 'a'} {one.kind} result"
            if isinstance(one, Result)
            else type(one).__name__
        )
        raise InputError(f"this plot draws {kind.kind} results ({kind.__name__}), got {what}")
