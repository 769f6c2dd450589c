"""Read the plain fields that lie beside weights (``config.json``, a script's ``model_args``), or say which is wrong."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topobrain._checks import DataFileError

NOT_KEPT = ("optimizer", "scaler", "lr_scheduler", "scheduler")
"""Training state: large, and of no use to a model that is only recorded."""

DEEPEST_VALUE, MOST_VALUES = 32, 1_000_000
"""Levels of a plain value beside the weights, and plain values kept of a file. A pickle may hold itself, or one list a
million times over: what goes beyond is no training script's."""


def read_fields(path: Path) -> dict[str, Any]:
    """Return the fields of a JSON file, or raise a `DataFileError` that names it."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataFileError(f"cannot read {path}: {error}") from error
    if not isinstance(fields, dict):
        raise DataFileError(f"{path} holds a {type(fields).__name__}, expected named fields")
    return fields


def read_number(fields: Mapping[str, Any], key: str, default: float | None = None, *, path: str | Path) -> float:
    """Return a number that a file's fields give under ``key``, or the default where they do not have it.

    >>> read_number({"dropout": 0.1}, "dropout", path="config.json")
    0.1

    Raises
    ------
    DataFileError
        The field is missing and has no default, or is not a finite number (null, text, true, NaN).
    """
    value = fields.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        raise DataFileError(f"{path} gives {key} = {reprlib.repr(value)}, expected a finite number")
    return float(value)


def read_numbers(fields: Mapping[str, Any], key: str, *, path: str | Path) -> tuple[float, ...]:
    """Return the numbers that a file's fields list under ``key``; the error is that of `read_number`."""
    values = fields.get(key)
    if not isinstance(values, list | tuple):
        raise DataFileError(f"{path} gives {key} = {reprlib.repr(values)}, expected a list of numbers")
    return tuple(read_number({key: value}, key, path=path) for value in values)


def read_whole(fields: Mapping[str, Any], key: str, *, path: str | Path) -> int | None:
    """Return a whole number of at least 1 that a file's fields give under ``key``, or None where they give none.

    Raises
    ------
    DataFileError
        The field is something else: text, true, 2.0.
    """
    value = fields.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DataFileError(f"{path} gives {key} = {reprlib.repr(value)}, expected a whole number of at least 1")
    return value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number too large for a float
        return False


def key_text(key: object) -> str:
    """Return a key as text; one that is no text or number has a description that may be endless."""
    return str(key) if key is None or isinstance(key, str | float) or _is_short(key) else f"a {type(key).__name__}"


def _is_short(value: object) -> bool:
    """Whether a value is a whole number that fits a float; pickles hold longer ones, of hundreds of digits."""
    return isinstance(value, int) and value.bit_length() < 1024


_MISSING = object()


class _TooMuch(Exception):
    """A value beside the weights goes deeper, or has more parts, than any metadata."""


class PlainValues:
    """Keeps the plain values of one file, as JSON would know them; a value too deep or too large goes as a whole."""

    def __init__(self) -> None:
        self.left = MOST_VALUES

    def of_file(self, values: Mapping[Any, Any]) -> dict[str, Any]:
        """Return what is plain among the values of one dictionary of the file."""
        kept: dict[str, Any] = {}
        for key, value in values.items():
            with contextlib.suppress(_TooMuch):
                kept.update(self._of_mapping({key: value}, DEEPEST_VALUE))
        return kept

    def _of_mapping(self, values: Mapping[Any, Any], levels: int) -> dict[str, Any]:
        wanted = ((key_text(key), value) for key, value in values.items())
        kept = {key: self._of(value, levels) for key, value in wanted if key not in NOT_KEPT}
        return {key: value for key, value in kept.items() if value is not _MISSING}

    def _of(self, value: Any, levels: int) -> Any:
        self.left -= 1
        if self.left < 0 or levels < 0:
            raise _TooMuch
        if isinstance(value, argparse.Namespace):
            value = vars(value)
        if value is None or isinstance(value, float | str) or _is_short(value):  # True and False are whole numbers
            return value
        if isinstance(value, Mapping):
            return self._of_mapping(value, levels - 1)
        if isinstance(value, list | tuple):
            items = [self._of(item, levels - 1) for item in value]
            return _MISSING if any(item is _MISSING for item in items) else items
        if isinstance(value, Tensor) and value.ndim == 0 and _is_readable(value):  # a loss kept on some device
            return value.item()
        return _MISSING


def _is_readable(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_complex()
