"""Orders: what all jobs of one study share, as a file of plain arrays that workers read for themselves."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from topobrain._checks import DataFileError, InputError
from topobrain.encoding.cross_validation import Design
from topobrain.encoding.parts import PartOptions

TREE = "tree"
"""Entry that holds everything of an order but its arrays, as JSON."""


@dataclass(frozen=True)
class Order:
    """One model's study on one set of responses, as the jobs see it.

    Attributes
    ----------
    activations, responses
        Paths of the result files that workers read.
    rows
        For each stimulus of the responses, its row in the activations.
    mask
        Which units predict, over all units.
    roi
        Region number of each voxel of the responses file.
    n_regions
        Number of regions.
    design
        Folds and groups.
    options
        What else decides the numbers.
    """

    activations: str
    responses: str
    rows: np.ndarray
    mask: np.ndarray
    roi: np.ndarray
    n_regions: int
    design: Design
    options: PartOptions


def to_arrays(value: Any) -> dict[str, np.ndarray]:
    """Return a tree of topobrain's dataclasses, tuples, plain values and arrays as named arrays.

    >>> options = PartOptions(alphas=(1.0, 10.0), selection="gcv")
    >>> from_arrays(to_arrays(options)) == options
    True
    """
    arrays: dict[str, np.ndarray] = {}
    tree = _plain(value, arrays)
    return {**arrays, TREE: np.frombuffer(json.dumps(tree, sort_keys=True).encode(), dtype=np.uint8)}


def _plain(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise InputError("an order holds an array of objects: expected numbers or fixed-width text")
        name = f"array_{len(arrays):05d}"
        arrays[name] = value
        return {"array": name}
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        inside = {field.name: _plain(getattr(value, field.name), arrays) for field in fields(value)}
        return {"of": f"{kind.__module__}:{kind.__qualname__}", "fields": inside}
    if isinstance(value, tuple | list):
        return {"items": [_plain(item, arrays) for item in value], "tuple": isinstance(value, tuple)}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(f"an order cannot hold a {type(value).__name__}: {value!r}")


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Any:
    """Return what `to_arrays` was given. Only dataclasses of topobrain are built, so a file cannot name other code."""
    try:
        return _built(json.loads(arrays[TREE].tobytes()), arrays)
    except (KeyError, ValueError, TypeError, AttributeError, ImportError) as error:
        raise DataFileError(
            f"an order cannot be read ({error}): it was written by another version of topobrain; delete it"
        ) from error


def _built(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if not isinstance(tree, dict):
        return tree
    if "array" in tree:
        return arrays[tree["array"]]
    if "items" in tree:
        items = [_built(item, arrays) for item in tree["items"]]
        return tuple(items) if tree["tuple"] else items
    module, _, name = tree["of"].partition(":")
    kind = getattr(importlib.import_module(module), name) if module.startswith("topobrain.") else None
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise ValueError(f"{tree['of']!r} is no dataclass of topobrain")
    return kind(**{key: _built(item, arrays) for key, item in tree["fields"].items()})
