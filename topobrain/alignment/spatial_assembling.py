"""From the scores of all layers and controls to one result of spatial alignment."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import xarray as xr

from topobrain.activations import Activations
from topobrain.alignment.spatial_result import CONTROL, MAPPING, SMOOTHNESS, SpatialAlignment
from topobrain.alignment.spatial_scoring import Brain, LayerSpatial, SpatialOptions
from topobrain.encoding.cross_validation import Design
from topobrain.responses import BrainResponses
from topobrain.stats.group_tests import t_interval
from topobrain.stats.paired_smoothness import exceedance

QUANTILES = (0.025, 0.975)


def _interval(fold_r: np.ndarray, draws: np.ndarray, over_folds: bool) -> tuple[float, float]:
    """Return the 95 % interval over stimuli, or, where a fold tests one group, over folds."""
    if over_folds:
        low, high = t_interval(fold_r)
        return float(low), float(high)
    if not draws.size:
        return np.nan, np.nan
    return float(np.quantile(draws, QUANTILES[0])), float(np.quantile(draws, QUANTILES[1]))


def _mapping(scores: Mapping[str, LayerSpatial], ceiling: np.ndarray, over_folds: bool) -> dict[str, np.ndarray]:
    """Return what is known of each layer's map, as arrays (layer,)."""
    every = list(scores.values())
    found = {name: np.full(len(every), np.nan) for name in MAPPING}
    for i, one in enumerate(every):
        found["r"][i], found["excess"][i] = one.r, one.excess
        found["low"][i], found["high"][i] = _interval(one.fold_r, one.draws, over_folds)
        found["p_units"][i], found["p_voxels"][i] = one.p("units"), one.p("voxels")
    found["p"] = np.maximum(found["p_units"], found["p_voxels"])
    limit = ceiling.mean()
    found["normalized"] = found["r"] / (limit if limit > 0 else np.nan)
    p_max = []
    for side in ("units", "voxels"):  # layers are compared by how far they are above the mean of their own null
        null = np.stack([one.null(side) for one in every])
        mean = null.mean(axis=1)
        largest = (null - mean[:, None]).max(axis=0)
        p_max.append(exceedance(found["r"] - mean, np.broadcast_to(largest, null.shape)))
    found["p_max"] = np.maximum(*p_max)
    return found


def _beside(
    model: Mapping[str, LayerSpatial], control: Mapping[str, LayerSpatial], over_folds: bool
) -> dict[str, np.ndarray]:
    """Return the difference of excess between the model and a control, with its interval (layer,)."""
    rows = []
    for layer, one in model.items():
        other = control[layer]
        shift = one.floor - other.floor
        low, high = _interval(one.fold_r - other.fold_r - shift, one.draws - other.draws - shift, over_folds)
        rows.append((one.excess - other.excess, low, high))
    return dict(zip(("difference", "difference_low", "difference_high"), np.array(rows).T, strict=True))


def assemble(
    scored: Sequence[Mapping[str, LayerSpatial]], controls: Sequence[str], activations: Activations,
    responses: BrainResponses, brain: Brain, design: Design, options: SpatialOptions,
) -> SpatialAlignment:  # fmt: skip
    """Build the result: the model's scores, and those of the controls beside them."""
    over_folds = design.one_block_a_fold
    model, names = scored[0], list(scored[0])
    every = list(model.values())
    mapped = [_mapping(one, brain.ceiling, over_folds) for one in scored]
    smooth = {name: np.stack([one.smoothness[name] for one in every]) for name in every[0].smoothness}
    n_components = smooth["smoothness"].shape[1]
    voxel_r = np.full((len(names), brain.values.shape[1]), np.nan)
    for i, one in enumerate(every):
        for own, made in zip(brain.columns.values(), one.mapping, strict=True):
            voxel_r[i, own] = made.voxel_r
    beside: dict[str, np.ndarray] = {}
    for name in CONTROL:
        rows = [
            _beside(model, other, over_folds)[name] if name.startswith("difference") else found[name]
            for other, found in zip(scored[1:], mapped[1:], strict=True)
        ]
        beside[f"control_{name}"] = np.array(rows).reshape(-1, len(names))
    data: dict[str, Any] = {
        **{name: (("layer",), values) for name, values in mapped[0].items()},
        **{
            f"null_{side}": (("layer", "null"), np.stack([one.null(side) for one in every]))
            for side in ("units", "voxels")
        },
        **{
            f"subject_{name}": (
                ("layer", "subject"),
                np.array([[getattr(s, name) for s in one.mapping] for one in every]),
            )
            for name in ("r", "excess", "p")
        },
        "draws": (("layer", "draw"), np.stack([one.draws for one in every]).astype(np.float32)),
        "voxel_r": (("layer", "voxel"), voxel_r),
        "ceiling": (("subject",), brain.ceiling),
        "n_voxels": (("subject",), np.array([own.size for own in brain.columns.values()])),
        "component_r": (("layer", "component"), np.stack([one.weights.r for one in every])),
        **{
            name: (("layer", "subject", "component") if name.startswith("voxel") else ("layer", "component"), values)
            for name, values in smooth.items()
        },
        **{name: (("control", "layer"), values) for name, values in beside.items()},
        **{
            f"control_{name}": (
                ("control", "layer", "component"),
                np.array([[one.smoothness[name] for one in other.values()] for other in scored[1:]]).reshape(
                    -1, len(names), n_components
                ),
            )
            for name in SMOOTHNESS
        },
    }
    coords: dict[str, Any] = {
        "layer": ("layer", np.array(names, dtype=object)),
        "component": ("component", np.arange(1, n_components + 1)),
        "subject": ("subject", np.array(list(brain.columns), dtype=object)),
        "control": ("control", np.array(list(controls), dtype=object)),
        **{
            {"subject": "voxel_subject", "ceiling": "voxel_ceiling"}.get(str(name), str(name)): ("voxel", coord.values)
            for name, coord in responses.data.coords.items()
            if coord.dims == ("voxel",)
        },
    }
    attrs: dict[str, Any] = SpatialAlignment.attributes(
        _provenance(model, controls, activations, responses, brain, design, options)
    )
    for name in ("space", "affine", "shape", "n_vertices_left", "n_vertices_right"):  # for maps in brain space
        if name in responses.data.attrs:
            attrs[name] = responses.data.attrs[name]
    return SpatialAlignment(xr.Dataset(data, coords=coords, attrs=attrs))


def _provenance(
    model: Mapping[str, LayerSpatial], controls: Sequence[str], activations: Activations, responses: BrainResponses,
    brain: Brain, design: Design, options: SpatialOptions,
) -> dict[str, Any]:  # fmt: skip
    fields = {key: value for key, value in activations.provenance.items() if key not in ("versions", "stimuli")}
    first = next(iter(model.values())).mapping
    return {
        **fields,
        "responses": {key: value for key, value in responses.provenance.items() if key != "versions"},
        "spatial_alignment": {
            **asdict(options),
            "layers": list(model),
            "controls": list(controls),
            "places": brain.places.source,
            "folds": design.outer.scheme,
            "n_folds": len(design.outer),
            "gap": design.gap,
            "n_groups": len(np.unique(design.groups)),
            "sheet_modes_used": {layer: one.mapping[0].n_sheet_modes for layer, one in model.items()},
            "units_used": {layer: one.mapping[0].n_units for layer, one in model.items()},
            "cortex_modes_used": {
                subject: one.n_cortex_modes for subject, one in zip(brain.columns, first, strict=True)
            },
            "n_voxels_left_out": int(brain.values.shape[1] - brain.used.size),
            "responses_sha256": hashlib.sha256(np.ascontiguousarray(responses.values).tobytes()).hexdigest(),
        },
    }
