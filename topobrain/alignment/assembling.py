"""From the scores of all layers and controls to one alignment result."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import xarray as xr

from topobrain.activations import Activations, sheets_attribute, unit_coords
from topobrain.alignment.ceilings import OF, Ceiling, ceiling_from_voxels
from topobrain.alignment.result import COMPONENT, CONTROL, DIFFERENCE, Alignment
from topobrain.alignment.scoring import SIMILARITIES, LayerScores, Options, digest
from topobrain.encoding.cross_validation import Design
from topobrain.responses import BrainResponses
from topobrain.stats.group_tests import t_interval

QUANTILES = (0.025, 0.975)


def _p_value(r: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Return one-sided p of values (...,) against draws (..., permutation)."""
    count = (null >= r[..., None] - 1e-12).sum(axis=-1)
    return np.asarray(np.where(np.isfinite(r), (1 + count) / (1 + null.shape[-1]), np.nan))


def _tests(scores: Mapping[str, LayerScores], over_folds: bool) -> dict[str, np.ndarray]:
    """Return r, interval and p of one model (layer, component), its draws and its null."""
    fold_r = np.stack([one.r for one in scores.values()])
    draws, null = (np.stack([getattr(one, name) for one in scores.values()]) for name in ("draws", "null"))
    r = fold_r.mean(axis=1)
    found = {name: np.full(r.shape, np.nan) for name in ("low", "high", "p", "p_max", "null_low", "null_high")}
    if over_folds and fold_r.shape[1] > 1:
        found["low"], found["high"] = t_interval(np.moveaxis(fold_r, 1, 0))
    elif draws.shape[-1]:
        found["low"], found["high"] = _quantiles(draws)
    if null.shape[-1]:
        found["null_low"], found["null_high"] = _quantiles(null)
        found["p"] = _p_value(r, null)
        # over layers and components: the same permutations everywhere
        largest = np.nan_to_num(null, nan=-np.inf).max(axis=(0, 1))
        found["p_max"] = _p_value(r, np.broadcast_to(largest, null.shape))
    return {"r": r, "fold_r": fold_r, "draws": draws, "null": null, **found}


def _quantiles(draws: np.ndarray) -> np.ndarray:
    """Return the bounds of the middle 95 % of draws; draws of very few stimuli may have no score, and are passed over."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return np.asarray(np.nanquantile(draws, QUANTILES, axis=-1))


def _differences(
    model: Mapping[str, np.ndarray], control: Mapping[str, np.ndarray], over_folds: bool
) -> list[np.ndarray]:
    """Return the model less a control and its interval, each (layer, component)."""
    difference = model["r"] - control["r"]
    low = high = np.full(difference.shape, np.nan)
    if over_folds and model["fold_r"].shape[1] > 1:
        low, high = t_interval(np.moveaxis(model["fold_r"] - control["fold_r"], 1, 0))
    elif model["draws"].shape[-1]:
        low, high = _quantiles(model["draws"] - control["draws"])
    return [difference, low, high]


def assemble(
    scored: Sequence[Mapping[str, LayerScores]], controls: Sequence[str], activations: Activations,
    responses: BrainResponses, design: Design, mask: np.ndarray, usable: np.ndarray, options: Options, limit: Ceiling,
    features_sha256: Mapping[str, str],
) -> Alignment:  # fmt: skip
    """Build the result: the model's scores first, then those of the controls."""
    layers, over_folds = list(scored[0]), design.one_block_a_fold
    tests = [_tests(scores, over_folds) for scores in scored]
    model, axes = tests[0], ("layer", "component")
    ceiling = _ceilings(scored[0], responses, usable, options, limit)
    with np.errstate(invalid="ignore"):
        model["ceiling"], model["normalized"] = ceiling, model["r"] / np.where(ceiling > 0, ceiling, np.nan)
    shape = (0, len(layers), options.n_components)
    beside = {f"control_{name}": np.array([one[name] for one in tests[1:]]).reshape(-1, *shape[1:]) for name in CONTROL}
    differences = [_differences(model, one, over_folds) for one in tests[1:]]
    for number, name in enumerate(DIFFERENCE):
        beside[name] = np.array([one[number] for one in differences]).reshape(-1, *shape[1:])
    data = {
        **{name: (axes, model[name]) for name in COMPONENT},
        **{name: (("control", *axes), values) for name, values in beside.items()},
        "fold_r": (("layer", "fold", "component"), model["fold_r"]),
        "draws": ((*axes, "draw"), model["draws"].astype(np.float32)),
        "null": ((*axes, "permutation"), model["null"].astype(np.float32)),
        "test_fold": (("stimulus",), design.outer.test_fold(len(design.groups))),
        "usable": (("voxel",), usable),
    }
    if options.method not in SIMILARITIES:
        data |= _weights(scored[0], activations, mask, usable)
    own = {
        "ceiling",
        "layer",
        "component",
        "control",
        "fold",
        *data,
    }  # names that columns of stimuli and voxels cannot have
    sheets = {layer: activations.sheet(layer) for layer in layers}
    coords: dict[str, Any] = {
        "layer": ("layer", np.array(layers, dtype=object)),
        "component": ("component", np.arange(1, options.n_components + 1)),
        "control": ("control", np.array(list(controls), dtype=object)),
        "fold": ("fold", np.arange(model["fold_r"].shape[1])),
        **{
            str(name): (coord.dims[0], coord.values)
            for name, coord in responses.data.coords.items()
            if coord.dims in (("voxel",), ("stimulus",)) and str(name) not in own
        },
        "voxel_ceiling": ("voxel", responses.data["ceiling"].values),
    }
    if options.method not in SIMILARITIES:
        units = unit_coords(sheets)
        coords |= {"unit_layer" if name == "layer" else name: value for name, value in units.items()}
    attrs = {
        **sheets_attribute(sheets),
        **Alignment.attributes(
            _provenance(layers, controls, activations, responses, design, mask, usable, options, limit, features_sha256)
        ),
    }
    for name in ("space", "affine", "shape", "n_vertices_left", "n_vertices_right"):  # for maps in brain space
        if name in responses.data.attrs:
            attrs[name] = responses.data.attrs[name]
    return Alignment(xr.Dataset(data, coords=coords, attrs=attrs))


def _ceilings(
    scores: Mapping[str, LayerScores], responses: BrainResponses, usable: np.ndarray, options: Options, limit: Ceiling
) -> np.ndarray:
    """Return the ceiling (layer, component)."""
    if limit.value is not None:
        return np.tile(limit.value, (len(scores), 1))
    if limit.method == "none" or options.method in SIMILARITIES:
        return np.full((len(scores), options.n_components), np.nan)
    Y = responses.values[:, usable].astype(np.float64)
    Y = Y - Y.mean(axis=0)
    if options.scale:
        Y /= Y.std(axis=0)
    known = responses.data["ceiling"].values[usable].astype(float)
    weights = [one.voxel_weight for one in scores.values() if one.voxel_weight is not None]
    return np.stack([ceiling_from_voxels(Y, known, np.nan_to_num(weight)) for weight in weights])


def _weights(
    scores: Mapping[str, LayerScores], activations: Activations, mask: np.ndarray, usable: np.ndarray
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Return weights over all units and voxels, NaN where one was left out, and the held-out scores."""
    unit, voxel, stimulus = [], [], []
    for layer, one in scores.items():
        assert one.unit_weight is not None
        assert one.voxel_weight is not None
        assert one.unit_score is not None
        assert one.voxel_score is not None
        unit.append(_spread(one.unit_weight, mask[activations.unit_slice(layer)]))
        voxel.append(_spread(one.voxel_weight, usable))
        stimulus.append((one.unit_score, one.voxel_score))
    axes = ("layer", "stimulus", "component")
    return {
        "unit_weight": (("component", "unit"), np.concatenate(unit, axis=1)),
        "voxel_weight": (("layer", "component", "voxel"), np.stack(voxel)),
        "unit_score": (axes, np.stack([units for units, _ in stimulus])),
        "voxel_score": (axes, np.stack([voxels for _, voxels in stimulus])),
    }


def _spread(weights: np.ndarray, kept: np.ndarray) -> np.ndarray:
    full = np.full((len(weights), len(kept)), np.nan)
    full[:, kept] = weights
    return full


def _provenance(
    layers: Sequence[str], controls: Sequence[str], activations: Activations, responses: BrainResponses, design: Design,
    mask: np.ndarray, usable: np.ndarray, options: Options, limit: Ceiling,
    features_sha256: Mapping[str, str],
) -> dict[str, Any]:  # fmt: skip
    fields = {key: value for key, value in activations.provenance.items() if key not in ("versions", "stimuli")}
    brain = {key: value for key, value in responses.provenance.items() if key != "versions"}
    return {
        **fields,
        "responses": brain,
        "alignment": {
            **asdict(options),
            "layers": list(layers),
            "controls": list(controls),
            "folds": design.outer.scheme,
            "n_folds": len(design.outer),
            "gap": design.gap,
            "n_groups": len(np.unique(design.groups)),
            "permutation_scheme": f"{design.exchange}, among stimuli that train and test in the same folds",
            "n_units_used": int(mask.sum()),
            "n_unusable_voxels": int((~usable).sum()),
            "ceiling": limit.method,
            "ceiling_of": OF[limit.method],
            "features_sha256": dict(features_sha256),
            "responses_sha256": digest(responses.values),
        },
    }
