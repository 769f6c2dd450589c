"""Joining activations and brain responses stimulus by stimulus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from topobrain._checks import InputError, listed
from topobrain.activations import Activations
from topobrain.responses import BrainResponses
from topobrain.stats.folds import duplicate_groups


def match_stimuli(activations: Activations, responses: BrainResponses) -> np.ndarray:
    """Return, for each stimulus of the responses, its row in the activations; both must hold the same stimuli.

    Raises
    ------
    InputError
        A stimulus missing on one side, or one whose text differs; it is named.
    """
    have = {str(label): row for row, label in enumerate(activations.labels("stimulus"))}
    want = responses.labels("stimulus").tolist()
    missing, extra = [s for s in want if s not in have], sorted(set(have) - set(want))
    if missing or extra:
        parts = []
        if missing:
            parts.append(f"{len(missing)} stimuli of the responses have no activations: {listed(missing, 3)}")
        if extra:
            parts.append(f"{len(extra)} stimuli of the activations have no response: {listed(extra, 3)}")
        raise InputError("; ".join(parts) + ". Extract from responses.stimuli to make them match")
    rows = np.array([have[s] for s in want])
    shown, seen = responses.labels("text"), activations.labels("text")[rows]
    differs = np.flatnonzero(shown != seen)
    if differs.size:
        first = int(differs[0])
        raise InputError(
            f"{differs.size} stimuli have other texts in the activations than in the responses; {want[first]!r} is "
            f"{str(seen[first])!r} to the model and {str(shown[first])!r} to the people"
        )
    return rows


def chosen_layers(activations: Activations, layers: Sequence[str] | str | None) -> list[str]:
    """Return the layers to score, checked: all of them for None and ``"all"``."""
    wanted = activations.layers if layers is None or layers == "all" else layers
    names = [wanted] if isinstance(wanted, str) else [str(layer) for layer in wanted]
    if not names:
        raise InputError(f"no layer to score; the activations have {listed(activations.layers)}")
    known = activations.sheets
    for name in names:
        if name not in known:
            activations.sheet(name)  # raises with near names
    return names


def chosen_voxels(responses: BrainResponses, targets: Mapping[str, Any] | None) -> BrainResponses:
    """Return the voxels of some ROIs and subjects, all of them without targets."""
    if not targets:
        return responses
    unknown_keys = set(targets) - {"roi", "subject"}
    if unknown_keys:
        raise InputError(f"targets may name 'roi' and 'subject', got {sorted(unknown_keys)}")
    return responses.where(**targets)


def unit_mask(activations: Activations, units: np.ndarray | None) -> np.ndarray:
    """Return a mask over all units, checked."""
    n_units = activations.data.sizes["unit"]
    if units is None:
        return np.ones(n_units, dtype=bool)
    mask = np.asarray(units)
    if mask.dtype != bool or mask.shape != (n_units,):
        raise InputError(
            f"units must be a boolean mask over all {n_units} units, got {mask.dtype} of shape {mask.shape}"
        )
    return mask


def layer_features(activations: Activations, layer: str, rows: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return one layer's features (stimulus, unit), float32, in the order of the responses."""
    kept = mask[activations.unit_slice(layer)]
    if not kept.any():
        raise InputError(f"the unit mask keeps no unit of layer {layer!r}; name the layers to score with layers=")
    values = activations.values(layer)[rows]
    return np.asarray(values if kept.all() else values[:, kept])


def row_keys(features: np.ndarray) -> list[bytes]:
    """Return the bytes of each row: rows with equal keys are equal stimuli to the model."""
    values = np.ascontiguousarray(features) + np.float32(0)  # -0.0 and 0.0 are equal, their bytes are not
    return [row.tobytes() for row in values]


def equal_rows(keys: Sequence[Sequence[bytes]]) -> np.ndarray:
    """Return a group number a row from the keys of each layer; rows that are equal in every layer share one."""
    return duplicate_groups(list(zip(*keys, strict=True)))
