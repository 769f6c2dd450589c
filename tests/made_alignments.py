"""Alignment results with known content, made through their constructors: what is drawn is compared with what went in."""

from __future__ import annotations

import numpy as np
import xarray as xr

from topobrain.activations import sheets_attribute, unit_coords
from topobrain.alignment import Alignment
from topobrain.alignment.principal import PrincipalComponents
from topobrain.alignment.result import COMPONENT, CONTROL, DIFFERENCE
from topobrain.alignment.spatial import SpatialAlignment
from topobrain.sheet import Sheet

SHEET = Sheet.grid(4, 6, wrapped=True)
TEXTS = ("the dog sleeps", "a grey cat runs", "rain fell for days", "she sells sea shells")


def make_alignment(
    r, *, name="m", controls=None, interval=0.05, null=0.08, ceiling=0.6, p_max=None, sheet=SHEET, rois=("IFG", "MFG"),
    voxels=1, voxel_coords=None, n_stimuli=12, method="pls", simulated=False, attrs=None, weights=True, texts=None,
    n_permutations=500,
):  # fmt: skip
    """``r``: layer -> r of each component. ``controls``: name -> how much less than the model each of them scores.

    ``interval``, ``null`` and ``ceiling`` are None where not known. Weights of component k run up to k along the units and
    fall from 1 to -1 along the voxels; the scores of stimulus i are i times the component.
    """
    layers = list(r)
    value = np.array(list(r.values()), dtype=float)
    n_layers, n_components = value.shape
    nothing = np.full(value.shape, np.nan)
    own = dict.fromkeys(COMPONENT, nothing) | {"r": value}
    if interval is not None:
        own |= {"low": value - interval, "high": value + 2 * interval}
    if null is not None:
        p = np.where(value > null, 0.001, 0.5)
        own |= {"null_low": np.full(value.shape, -null), "null_high": np.full(value.shape, null), "p": p,
                "p_max": p if p_max is None else np.broadcast_to(p_max, value.shape)}  # fmt: skip
    if ceiling is not None:
        own |= {"ceiling": np.full(value.shape, ceiling), "normalized": value / ceiling}
    lost = np.array(list((controls or {}).values()), dtype=float).reshape(-1, 1, 1)
    other = value - lost
    shift = np.nan if interval is None else interval
    beside = {"r": other, "low": other - shift, "high": other + 2 * shift, "p": np.full(other.shape, 0.2)}
    gap = np.broadcast_to(lost, other.shape)
    differences = dict(zip(DIFFERENCE, (gap, gap - shift, gap + 2 * shift), strict=True))
    sheets = dict.fromkeys(layers, sheet)
    roi = np.repeat(np.array(rois, dtype=object), voxels)
    axes = ("layer", "component")
    data = {
        **{key: (axes, array) for key, array in own.items()},
        **{f"control_{key}": (("control", *axes), beside[key]) for key in CONTROL},
        **{key: (("control", *axes), array) for key, array in differences.items()},
        "fold_r": (("layer", "fold", "component"), np.repeat(value[:, None], 5, axis=1)),
    }
    coords = {
        "layer": np.array(layers, dtype=object),
        "component": np.arange(1, n_components + 1),
        "control": np.array(list(controls or {}), dtype=object),
        "roi": ("voxel", roi),
        "subject": ("voxel", np.full(len(roi), "group", dtype=object)),
        "stimulus": np.array([f"s{i}" for i in range(n_stimuli)], dtype=object),
        "text": ("stimulus", np.array(texts or [f"{TEXTS[i % 4]} {i}" for i in range(n_stimuli)], dtype=object)),
        **{key: ("voxel", np.asarray(array)) for key, array in (voxel_coords or {}).items()},
    }
    if weights:
        number = np.arange(1, n_components + 1)[:, None]
        unit = number * np.tile(np.linspace(-1, 1, sheet.n_units), n_layers)
        voxel = np.tile(number * np.linspace(1, -1, len(roi)), (n_layers, 1, 1))
        score = np.tile(np.arange(n_stimuli)[:, None] * number.T, (n_layers, 1, 1)).astype(float)
        data |= {
            "unit_weight": (("component", "unit"), unit),
            "voxel_weight": (("layer", "component", "voxel"), voxel),
            "unit_score": (("layer", "stimulus", "component"), score),
            "voxel_score": (("layer", "stimulus", "component"), -score),
        }
        coords |= {"unit_layer" if key == "layer" else key: one for key, one in unit_coords(sheets).items()}
    fields = {
        "model": {"name": name},
        "responses": {"name": "toy", "simulated": simulated},
        "alignment": {
            "method": method, "folds": "contiguous", "n_folds": 5, "seed": 0, "n_bootstrap": 1000,
            "n_permutations": 0 if null is None else n_permutations, "controls": list(controls or {}),
            "ceiling": "voxels" if ceiling is not None else "none", "ceiling_of": "noise ceilings of the voxels",
        },
    }  # fmt: skip
    return Alignment(
        xr.Dataset(
            data, coords=coords, attrs={**sheets_attribute(sheets), **Alignment.attributes(fields), **(attrs or {})}
        )
    )


def make_components(layers, *, name="m", brain=False, vertices=False, simulated=False, n_components=3, n_stimuli=12):
    """``layers``: names; with ``brain`` they are subjects of two voxels each. Moran's I .4 and agreement .9 beside nulls of 0."""
    names, n = list(layers), n_components
    shape = (len(names), n)
    nulls = ["layout", "variogram" if brain else "torus"]
    said = {
        "": [0.4, 0.9],
        "_null_mean": [0.0, 0.0],
        "_null_sd": [0.1, 0.1],
        "_p": [0.01, 0.02],
        "_corrected": [0.4, 0.9],
    }
    placeless = brain and not vertices
    tests = {
        f"smoothness{key}": (
            ("layer", "component", "null"),
            np.broadcast_to(np.nan if placeless else values, (*shape, 2)),
        )
        for key, values in said.items()
    }
    place, n_places = ("voxel", 2 * len(names)) if brain else ("unit", SHEET.n_units * len(names))
    coords = {
        "layer": np.array(names, dtype=object), "component": np.arange(1, n + 1), "null": np.array(nulls, dtype=object),
        "stimulus": np.array([f"s{i}" for i in range(n_stimuli)], dtype=object),
        "text": ("stimulus", np.array([f"{TEXTS[i % 4]} {i}" for i in range(n_stimuli)], dtype=object)),
    }  # fmt: skip
    attrs = {}
    if brain:
        coords |= {
            "roi": ("voxel", np.tile(np.array(["IFG", "MFG"], dtype=object), len(names))),
            "subject": ("voxel", np.repeat(np.array(names, dtype=object), 2)),
            **({"vertex": ("voxel", np.arange(100, 100 + n_places))} if vertices else {}),
        }
    else:
        sheets = dict.fromkeys(names, SHEET)
        coords |= {"unit_layer" if key == "layer" else key: one for key, one in unit_coords(sheets).items()}
        attrs = sheets_attribute(sheets)
    number = np.arange(1, n + 1)
    data = {
        "weight": (("component", place), number[:, None] * np.linspace(-1, 1, n_places)),
        "score": (
            ("layer", "stimulus", "component"),
            np.tile(np.arange(n_stimuli)[:, None] * number, (len(names), 1, 1)) * 1.0,
        ),
        "explained": (("layer", "component"), np.broadcast_to(0.5 / number, shape)),
        **tests,
    }
    fields = {"model": {"name": name}, "stimuli": {"simulated": simulated}}
    return PrincipalComponents(
        xr.Dataset(data, coords=coords, attrs={**attrs, **PrincipalComponents.attributes(fields)})
    )


def make_spatial(
    r, *, name="m", controls=None, interval=0.02, null=0.1, p_max=0.01, n_voxels=40, n_components=3, smoothness=0.5,
    simulated=False, n_null=41,
):  # fmt: skip
    """``r``: layer -> mapping score. ``controls``: name -> how much less each scores, its null as the model's.

    The null of units runs evenly from 0 to 2 ``null``, that of voxels from 0 to ``null``. Moran's I of component k is
    .9 / k on the sheet and .8 / k on the cortex.
    """
    layers, value = list(r), np.array(list(r.values()), dtype=float)
    lost = np.array(list((controls or {}).values()), dtype=float)[:, None]
    n, number = len(layers), np.arange(1, n_components + 1)
    by_component = np.broadcast_to(1.0 / number, (n, n_components))
    small = np.where(by_component > 0.4, 0.01, 0.4)
    beside = {
        "r": value - lost, "low": value - lost - interval, "high": value - lost + interval, "excess": value - lost - null,
        "p": np.full((len(lost), n), 0.4), "difference": np.broadcast_to(lost, (len(lost), n)),
        "difference_low": np.broadcast_to(lost - interval, (len(lost), n)),
        "difference_high": np.broadcast_to(lost + interval, (len(lost), n)),
    }  # fmt: skip
    own = {
        "r": value, "low": value - interval, "high": value + interval, "normalized": value / 0.6, "excess": value - null,
        **dict.fromkeys(("p_units", "p_voxels", "p", "p_max"), np.broadcast_to(p_max, n)),
    }  # fmt: skip
    some = np.broadcast_to(value[:, None], (n, 1))
    each = ("layer", "component")
    data = {
        **{key: ("layer", array) for key, array in own.items()},
        "null_units": (("layer", "null"), np.tile(np.linspace(0, 2 * null, n_null), (n, 1))),
        "null_voxels": (("layer", "null"), np.tile(np.linspace(0, null, n_null), (n, 1))),
        **{f"subject_{key}": (("layer", "subject"), some) for key in ("r", "excess", "p")},
        "voxel_r": (("layer", "voxel"), np.zeros((n, n_voxels))),
        "ceiling": ("subject", [0.6]),
        "n_voxels": ("subject", [n_voxels]),
        "smoothness": (each, smoothness * by_component),
        "smoothness_p": (each, small),
        "component_r": (each, value[:, None] * by_component),
        "unit_smoothness": (each, 0.9 * by_component),
        "unit_smoothness_corrected": (each, 0.9 * by_component),
        "unit_smoothness_p": (each, small),
        "voxel_smoothness": (("layer", "subject", "component"), 0.8 * by_component[:, None]),
        "voxel_smoothness_corrected": (("layer", "subject", "component"), 0.8 * by_component[:, None]),
        "voxel_smoothness_p": (("layer", "subject", "component"), small[:, None]),
        **{f"control_{key}": (("control", "layer"), array) for key, array in beside.items()},
        "control_smoothness": (("control", *each), np.zeros((len(lost), n, n_components))),
        "control_smoothness_p": (("control", *each), np.full((len(lost), n, n_components), 0.5)),
    }
    coords = {
        "layer": np.array(layers, dtype=object), "component": number, "subject": np.array(["sub-1"], dtype=object),
        "control": np.array(list(controls or {}), dtype=object), "roi": ("voxel", np.full(n_voxels, "IFG", dtype=object)),
    }  # fmt: skip
    fields = {
        "model": {"name": name},
        "responses": {"name": "toy", "simulated": simulated},
        "spatial_alignment": {"n_null": n_null, "n_bootstrap": 1000, "seed": 0},
    }
    return SpatialAlignment(xr.Dataset(data, coords=coords, attrs=SpatialAlignment.attributes(fields)))
