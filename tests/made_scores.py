"""Encoding results with known content, made through their constructors: what is drawn is compared with what went in."""

from __future__ import annotations

import numpy as np
import xarray as xr

from topobrain.encoding import Encoding, Leakage
from topobrain.encoding.result import REGION


def make_encoding(
    scores, *, name="m", interval=0.05, null=0.08, ceiling=0.6, best=True, voxels=1, spread=0.0, q=None, folds=5,
    simulated=False, further=None, options=None, layers=None, sources=None,
):  # fmt: skip
    """``scores``: ROI -> r of each layer. ``interval``, ``null`` and ``ceiling`` are None where not known.

    ``voxels`` a region, whose scores are spread evenly by +- ``spread`` around the region's. ``best``: the layer of the
    highest score is chosen in every fold, and scores 0.01 less than that; None: no layer chosen.
    """
    regions = list(scores)
    r = np.array(list(scores.values()), dtype=float).T  # layer, region
    layers = [f"blocks.{i}" for i in range(len(r))] if layers is None else layers
    roi = np.repeat(np.array(regions, dtype=object), voxels)
    nothing = np.full(r.shape, np.nan)
    value = dict.fromkeys(REGION, nothing) | {"r": r}
    if interval is not None:
        value |= {"low": r - interval, "high": r + 2 * interval}
    if null is not None:
        value |= {
            "null_low": np.full(r.shape, -null),
            "null_high": np.full(r.shape, null),
            "p": np.where(r > null, 0.001, 0.5),
        }
    ceilings = np.full(len(regions), np.nan if ceiling is None else ceiling, dtype=float)
    by_voxel = np.repeat(r, voxels, axis=1) + np.tile(np.linspace(-spread, spread, voxels), len(regions))
    by_fold = np.repeat(by_voxel[:, None], folds, axis=1)
    highest = [np.nanargmax(column) if np.isfinite(column).any() else 0 for column in r.T]
    best_r = r[highest, range(len(regions))] - 0.01 if best else np.full(len(regions), np.nan)
    shift = np.nan if interval is None else interval
    data = xr.Dataset(
        {
            **dict.fromkeys(("r", "alpha", "loss"), (("layer", "fold", "voxel"), by_fold)),
            "ceiling": ("voxel", np.repeat(ceilings, voxels)),
            "normalized": (("layer", "voxel"), by_voxel / np.repeat(ceilings, voxels)),
            **{
                one: (("layer", "voxel"), np.broadcast_to(np.nan if q is None else q, by_voxel.shape))
                for one in ("p", "q", "p_max")
            },
            **{f"region_{one}": (("layer", "region"), array) for one, array in value.items()},
            "region_normalized": (("layer", "region"), r / ceilings),
            "region_ceiling": ("region", ceilings),
            "region_voxels": ("region", np.full(len(regions), voxels)),
            "best_layer": (
                ("fold", "region"),
                np.array([[layers[one] if best else "" for one in highest]] * folds, dtype=object),
            ),
            "best_r": ("region", best_r),
            "best_low": ("region", best_r - shift),
            "best_high": ("region", best_r + 2 * shift),
            "best_p": ("region", np.where(np.isfinite(best_r) & (null is not None), 0.001, np.nan)),
            **{key: (("layer", "region"), array) for key, array in (further or {}).items()},
        },
        coords={
            "layer": ("layer", np.array(layers, dtype=object)),
            "region": ("region", np.array(regions, dtype=object)),
            "roi": ("voxel", roi),
            "subject": ("voxel", np.full(len(roi), "group", dtype=object)),
            "stimulus": ("stimulus", np.array([f"s{i}" for i in range(20)], dtype=object)),
        },
        attrs=Encoding.attributes(
            {
                "model": {"name": name},
                "responses": {"name": "toy", "simulated": simulated},
                "encoding": {
                    "folds": "contiguous", "n_folds": folds, "inner_folds": 5, "seed": 0, "n_bootstrap": 1000,
                    "n_permutations": 0 if null is None else 500, "selection": "kfold",
                    "share_at_lowest_alpha": dict.fromkeys(layers, 0.0),
                    "share_at_highest_alpha": dict.fromkeys(layers, 0.0), **(options or {}),
                },
                **(sources or {}),
            }
        ),
    )  # fmt: skip
    return Encoding(data)


def make_leakage(shuffled, contiguous, *, interval=0.05, name="m"):
    """``shuffled`` and ``contiguous``: ROI -> r of each layer; ``interval`` of the difference, None where not known."""
    first, second = (np.array(list(one.values()), dtype=float).T for one in (shuffled, contiguous))
    gap = first - second
    ends = (
        {"low": gap - interval, "high": gap + interval}
        if interval is not None
        else dict.fromkeys(("low", "high"), gap * np.nan)
    )
    values = {"shuffled": first, "contiguous": second, "difference": gap, **ends}
    return Leakage(
        xr.Dataset(
            {key: (("layer", "region"), array) for key, array in values.items()},
            coords={
                "layer": ("layer", np.array([f"blocks.{i}" for i in range(len(first))], dtype=object)),
                "region": ("region", np.array(list(shuffled), dtype=object)),
            },
            attrs=Leakage.attributes({"model": {"name": name}}),
        )
    )


def make_partition(
    unique, shared, *, bands=("model", "baseline"), interval=0.01, ceiling=0.6, name="m", simulated=False
):
    """Partition of two bands: ``unique``: ROI -> unique part of each band; ``shared``: ROI -> shared part."""
    from topobrain.encoding.partition import Partition

    regions, components = list(unique), [*bands, " & ".join(bands)]
    value = np.array([[*unique[roi], shared[roi]] for roi in regions], dtype=float).T  # component, region
    shift = np.nan if interval is None else interval
    ceilings = np.broadcast_to(np.nan if ceiling is None else np.asarray(ceiling, dtype=float), len(regions))
    each, band = ("component", "region"), ("band", "region")
    total, squared = value.sum(axis=0), ceilings**2
    parts = {"variance": value, "low": value - shift, "high": value + 2 * shift, "normalized": value / squared}
    sums = {"": total, "_low": total - shift, "_high": total + shift, "_normalized": total / squared}
    some, by_fold = np.full((2, len(regions)), np.nan), np.full((3, 2, len(regions)), np.nan)
    data = xr.Dataset(
        {
            **{key: (("component", "voxel"), array) for key, array in parts.items()},
            **{f"region_{key}": (each, array) for key, array in parts.items()},
            **{f"region_total{key}": ("region", array) for key, array in sums.items()},
            **{f"region_unique_r{key}": (band, some) for key in ("", "_low", "_high")},
            **dict.fromkeys(("r", "r2"), (("model", "fold", "voxel"), by_fold)),
            **dict.fromkeys(("alpha", "weight"), (("band", "fold", "voxel"), by_fold[:2])),
            **dict.fromkeys(("unique_r", "product"), (("band", "voxel"), some)),
            "total": ("voxel", total), "ceiling": ("voxel", ceilings), "region_product": (band, some),
            "region_r2": (("model", "region"), by_fold[:, 0]), "region_ceiling_squared": ("region", squared),
            "region_voxels": ("region", np.ones(len(regions), dtype=int)),
        },
        coords={
            "component": np.array(components, dtype=object), "model": np.array(components, dtype=object),
            "band": np.array(bands, dtype=object), "region": np.array(regions, dtype=object),
            "roi": ("voxel", np.array(regions, dtype=object)),
            "subject": ("voxel", np.full(len(regions), "group", dtype=object)),
        },
        attrs=Partition.attributes(
            {
                "bands": {bands[0]: {"model": {"name": name}}, bands[1]: {"model": {"name": bands[1]}}},
                "responses": {"name": "toy", "simulated": simulated},
                "partition": {"folds": "contiguous", "n_folds": 5, "seed": 0, "n_bootstrap": 1000,
                              "layers": {bands[0]: "blocks.1", bands[1]: "features"}},
            }
        ),
    )  # fmt: skip
    return Partition(data)


def make_comparison(
    difference, *, interval=0.05, p=0.01, subjects=None, subjects_p=np.nan, names=("one", "other"), layers=("best",),
    simulated=False,
):  # fmt: skip
    """``difference``: ROI -> difference of each pair of layers; ``subjects``: differences of the subjects in all regions."""
    from topobrain.encoding.comparison import PER_REGION, PER_SUBJECTS, Comparison

    value = np.array(list(difference.values()), dtype=float).T.reshape(len(layers), len(difference))
    nothing = np.full(value.shape, np.nan)
    each = dict.fromkeys(PER_REGION, nothing) | {
        "r_a": value + 0.2, "r_b": nothing * 0 + 0.2, "difference": value, "low": value - interval,
        "high": value + interval, "p": np.broadcast_to(p, value.shape), "p_max": np.broadcast_to(p, value.shape),
    }  # fmt: skip
    of_subjects = dict.fromkeys(PER_SUBJECTS, nothing) | {"p_max": np.broadcast_to(subjects_p, value.shape)}
    own = np.array([np.nan] if subjects is None else subjects, dtype=float)
    by_subject = np.broadcast_to(own[None, :, None], (len(layers), len(own), len(difference)))
    return Comparison(
        xr.Dataset(
            {
                **{name: (("layer", "region"), array) for name, array in each.items()},
                "subject_difference": (("layer", "subject", "region"), by_subject),
                **{f"subjects_{name}": (("layer", "region"), array) for name, array in of_subjects.items()},
            },
            coords={
                "layer": np.array(layers, dtype=object), "region": np.array(list(difference), dtype=object),
                "layer_a": ("layer", np.array(layers, dtype=object)), "layer_b": ("layer", np.array(layers, dtype=object)),
                "subject": np.array([f"sub-{i}" for i in range(len(own))], dtype=object),
            },
            attrs=Comparison.attributes(
                {
                    **{
                        side: {"name": side if names is None else name, "model": {"name": f"model {side}"}}
                        for side, name in zip("ab", names or ("", ""), strict=True)
                    },
                    "responses": {"simulated": simulated},
                }
            ),
        )
    )  # fmt: skip
