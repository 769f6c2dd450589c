"""From the parts of all layers to one encoding result: region scores, best layers, p-values, provenance."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import xarray as xr

from topobrain._checks import InputError
from topobrain.encoding.cross_validation import Design
from topobrain.encoding.parts import Part, PartOptions
from topobrain.encoding.result import REGION, Encoding
from topobrain.responses import BrainResponses
from topobrain.stats.contrast import fdr_bh
from topobrain.stats.group_tests import t_interval
from topobrain.stats.regions import region_means

QUANTILES = (0.025, 0.975)

OVER_STIMULI = "95 % bootstrap over stimuli"

OVER_GROUPS = "95 % t interval over held-out groups"
"""How the provenance tells the two intervals apart."""


def region_numbers(responses: BrainResponses) -> tuple[list[str], np.ndarray]:
    """Return the regions in order of first appearance and the region number of each voxel."""
    regions = responses.rois
    number = {region: index for index, region in enumerate(regions)}
    return regions, np.array([number[label] for label in responses.labels("roi")])


def assemble(
    parts: Mapping[str, Part],
    responses: BrainResponses,
    design: Design,
    options: PartOptions,
    *,
    source: Mapping[str, Any],
    further: Mapping[str, Any] | None = None,
) -> Encoding:
    """Build the result from one part a layer.

    Parameters
    ----------
    parts
        Layer -> part over all voxels of the responses, in depth order.
    responses
        The responses that were scored.
    design
        Their folds.
    options
        The options behind the parts.
    source
        Provenance of the activations.
    further
        Further options to keep with the result.
    """
    names = list(parts)
    regions, roi = region_numbers(responses)
    every = [parts[name] for name in names]
    if any(part["r"].shape[1] != len(roi) for part in every):
        raise InputError(f"parts cover {[part['r'].shape[1] for part in every]} voxels, the responses have {len(roi)}")
    stacked = {name: np.stack([part[name] for part in every]) for name in ("r", "alpha", "loss", "variance", "edge")}
    usable, n_usable = every[0]["usable"], every[0]["n_usable"]
    for name, r in zip(names, stacked["r"], strict=True):
        if usable.any() and not r[:, usable].any():  # a prediction that is constant correlates with nothing
            warnings.warn(
                f"layer {name!r} predicts all stimuli alike (r = 0): are its features constant?", stacklevel=2
            )
    by_fold = np.stack([_region_sums(part["r"], roi, usable, len(regions)) for part in every])
    with np.errstate(invalid="ignore", divide="ignore"):
        fold_r = by_fold / np.where(n_usable > 0, n_usable, np.nan)
    draws = np.stack([region_means(part["draws"], n_usable) for part in every])
    null = np.stack([region_means(part["null"], n_usable) for part in every])
    over_folds = design.one_block_a_fold
    region = _region_statistics(fold_r, draws.mean(axis=1), null.mean(axis=1), over_folds)
    best = _best_layers(names, stacked, roi, usable, fold_r, draws, null, over_folds)
    ceiling = np.asarray(responses.data["ceiling"].values, dtype=float)
    region_ceiling = np.array([_mean_ceiling(ceiling[(roi == j) & usable]) for j in range(len(regions))])
    voxel = _voxel_statistics(stacked["r"].mean(axis=1), every, usable, options.n_permutations)
    with np.errstate(invalid="ignore"):
        normalized = stacked["r"].mean(axis=1) / np.where(ceiling > 0, ceiling, np.nan)
        region_normalized = region["r"] / np.where(region_ceiling > 0, region_ceiling, np.nan)
    data = xr.Dataset(
        {
            **{name: (("layer", "fold", "voxel"), stacked[name]) for name in ("r", "alpha", "loss")},
            "edge": (("layer", "fold", "voxel"), np.nan_to_num(stacked["edge"]).astype(np.int8)),
            "ceiling": (("voxel",), ceiling),
            "normalized": (("layer", "voxel"), normalized),
            **{name: (("layer", "voxel"), values) for name, values in voxel.items()},
            **{f"region_{name}": (("layer", "region"), region[name]) for name in REGION},
            "region_normalized": (("layer", "region"), region_normalized),
            "region_ceiling": (("region",), region_ceiling),
            "region_voxels": (("region",), n_usable.astype(int)),
            "region_draws": (("layer", "region", "draw"), draws.mean(axis=1).astype(np.float32)),
            "region_null": (("layer", "region", "permutation"), null.mean(axis=1).astype(np.float32)),
            **best,
            "test_fold": (("stimulus",), design.outer.test_fold(len(design.groups))),
            "group": (("stimulus",), design.groups),
        },
        coords={
            "layer": ("layer", np.array(names, dtype=object)),
            "fold": ("fold", np.arange(len(design.outer))),
            "region": ("region", np.array(regions, dtype=object)),
            "stimulus": ("stimulus", responses.labels("stimulus")),
            **{
                str(name): ("voxel", coord.values)
                for name, coord in responses.data.coords.items()
                if coord.dims == ("voxel",) and name != "ceiling"
            },
        },
        attrs=Encoding.attributes(
            _provenance(
                names,
                stacked["edge"],
                responses,
                design,
                options,
                source,
                {**(further or {}), "precision_used": {name: "+".join(parts[name]["precision"]) for name in names}},
                usable,
            )
        ),
    )
    # where the voxels lie, for maps in brain space
    for name in ("space", "affine", "shape", "n_vertices_left", "n_vertices_right"):
        if name in responses.data.attrs:
            data.attrs[name] = responses.data.attrs[name]
    return Encoding(data)


def _region_sums(r: np.ndarray, roi: np.ndarray, usable: np.ndarray, n_regions: int) -> np.ndarray:
    members = (roi[:, None] == np.arange(n_regions)) & usable[:, None]
    return np.asarray(np.where(usable, r, 0.0) @ members)


def _mean_ceiling(values: np.ndarray) -> float:
    """Return a region's ceiling: known for all of its usable voxels, or not known."""
    return float(values.mean()) if values.size else np.nan


def _interval(fold_r: np.ndarray, draws: np.ndarray, over_folds: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % interval of region scores: of their draws (..., draw), or, where folds are drawn, of (fold, ...).

    Draws of folds have the same quantiles but for their number.
    """
    if over_folds:
        return t_interval(fold_r)
    low, high = np.quantile(draws, QUANTILES, axis=-1)
    return low, high


def _region_statistics(
    fold_r: np.ndarray, draws: np.ndarray, null: np.ndarray, over_folds: bool
) -> dict[str, np.ndarray]:
    """Return score, interval and p of each layer and region from draws and null (layer, region, n)."""
    r = fold_r.mean(axis=1)
    found = {name: np.full(r.shape, np.nan) for name in REGION} | {"r": r}
    if draws.shape[-1]:
        found["low"], found["high"] = _interval(np.moveaxis(fold_r, 1, 0), draws, over_folds)
    if null.shape[-1]:
        found["null_low"], found["null_high"] = np.quantile(null, QUANTILES, axis=-1)
        found["p"] = _p_value(r, null)
        scored = np.isfinite(r)
        if scored.any():
            largest = np.max(null[scored], axis=0)  # over layers and regions: the same permutations everywhere
            found["p_max"] = _p_value(r, np.broadcast_to(largest, null.shape))
    return found


def _p_value(r: np.ndarray, null: np.ndarray) -> np.ndarray:
    count = (null >= r[..., None] - 1e-12).sum(axis=-1)
    return np.asarray(np.where(np.isfinite(r), (1 + count) / (1 + null.shape[-1]), np.nan))


def _voxel_statistics(
    r: np.ndarray, parts: Sequence[Part], usable: np.ndarray, n_permutations: int
) -> dict[str, np.ndarray]:
    """Return p, q over voxels, and family-wise p of each layer and voxel."""
    found = {name: np.full(r.shape, np.nan) for name in ("p", "q", "p_max")}
    if not n_permutations or not usable.any():
        return found
    for i, part in enumerate(parts):
        found["p"][i, usable] = (1 + part["at_least"][usable]) / (1 + n_permutations)
        found["q"][i, usable] = fdr_bh(found["p"][i, usable])
        largest = np.sort(part["largest"])
        count = n_permutations - np.searchsorted(largest, r[i, usable] - 1e-12, side="left")
        found["p_max"][i, usable] = (1 + count) / (1 + n_permutations)
    return found


def _best_layers(
    names: Sequence[str], stacked: Mapping[str, np.ndarray], roi: np.ndarray, usable: np.ndarray,
    fold_r: np.ndarray, draws: np.ndarray, null: np.ndarray, over_folds: bool,
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:  # fmt: skip
    """Choose each region's layer in every fold from the inner loss, and score the choice on the held-out stimuli."""
    n_folds, n_regions = fold_r.shape[1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        inner_r2 = 1 - stacked["loss"] / stacked["variance"]
    chosen = np.full((n_folds, n_regions), "", dtype=object)
    value = {name: np.full(n_regions, np.nan) for name in ("r", "low", "high", "p")}
    best_draws = np.full((n_regions, draws.shape[-1]), np.nan)
    folds = np.arange(n_folds)
    for j in range(n_regions):
        inside = (roi == j) & usable
        if not inside.any():
            continue
        merit = inner_r2[:, :, inside].mean(axis=2)
        if not np.isfinite(merit).all():
            continue  # one penalty, nothing chosen inside: no inner score to go by
        layer = merit.argmax(axis=0)
        chosen[:, j] = [names[index] for index in layer]
        value["r"][j] = fold_r[layer, folds, j].mean()
        if draws.shape[-1]:
            best_draws[j] = draws[layer, folds, j].mean(axis=0)
            value["low"][j], value["high"][j] = _interval(fold_r[layer, folds, j], best_draws[j], over_folds)
        if null.shape[-1]:
            value["p"][j] = _p_value(value["r"][j : j + 1], null[layer, folds, j].mean(axis=0)[None])[0]
    return {
        "best_layer": (("fold", "region"), chosen),
        **{f"best_{name}": (("region",), array) for name, array in value.items()},
        "best_draws": (("region", "draw"), best_draws.astype(np.float32)),
    }


def _provenance(
    names: Sequence[str], edge: np.ndarray, responses: BrainResponses, design: Design, options: PartOptions,
    source: Mapping[str, Any], further: dict[str, Any], usable: np.ndarray,
) -> dict[str, Any]:  # fmt: skip
    fields = {key: value for key, value in source.items() if key not in ("versions", "stimuli")}
    brain = {key: value for key, value in responses.provenance.items() if key != "versions"}
    chose = edge[:, :, usable]
    share = {
        side: dict(zip(names, (chose == side).mean(axis=(1, 2)).round(4).tolist(), strict=True))
        if usable.any()
        else dict.fromkeys(names)
        for side in (-1, 1)
    }
    made = asdict(options)
    ignores = f"{options.selection} treats stimuli as independent when it chooses penalties: it ignores groups and time"
    return {
        **fields,
        "responses": brain,
        "encoding": {
            **made,
            "layers": list(names),
            "alphas": list(options.alphas),
            **further,
            "folds": design.outer.scheme,
            "n_folds": len(design.outer),
            "inner_folds": design.inner_folds,
            "gap": design.gap,
            "n_groups": len(np.unique(design.groups)),
            "permutation_scheme": design.exchange,
            "interval": OVER_GROUPS if design.one_block_a_fold else OVER_STIMULI,
            **({} if options.selection == "kfold" else {"selection_note": ignores}),
            "n_unusable_voxels": int((~usable).sum()),
            "responses_sha256": hashlib.sha256(np.ascontiguousarray(responses.values).tobytes()).hexdigest(),
            "share_at_lowest_alpha": share[-1],
            "share_at_highest_alpha": share[1],
        },
    }
