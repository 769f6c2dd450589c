"""Results with known content, made through their constructors: what a plot shows is compared with what went in."""

from __future__ import annotations

import numpy as np
import xarray as xr

from topobrain.activations import sheets_attribute, unit_coords
from topobrain.selectivity import SPATIAL, Profile, Selectivity
from topobrain.selectivity.profiles import BY_CONDITION
from topobrain.topography import DistanceCurve, Topography
from topobrain.topography.result import STATISTICS, Cells

NULL = {"morans_i": 0.31, "null_mean": -0.01, "null_sd": 0.04, "z": 8.0, "p_layout": 0.012, "corrected": 0.32}


def make_selectivity(sheets, *, t=None, q=None, contrasts=("language",), null=NULL, simulated=False, n_null=1000):
    """t-maps on sheets; ``t`` and ``q`` (contrast, unit) or (unit,), random t and no significant unit by default."""
    n_units = sum(one.n_units for one in sheets.values())
    shape = (len(contrasts), n_units)
    t = np.random.default_rng(0).standard_normal(shape) if t is None else np.broadcast_to(np.asarray(t, float), shape)
    q = np.ones(shape) if q is None else np.broadcast_to(np.asarray(q, float), shape)
    cells = {
        name: (
            ("contrast", "layer_name"),
            np.full((len(contrasts), len(sheets)), np.nan if null is None else null[name]),
        )
        for name in SPATIAL
    }
    fields = {"model": {"name": "m"}, "localize": {"n_null": n_null}, "stimuli": {"simulated": simulated}}
    return Selectivity(
        xr.Dataset(
            {**{name: (("contrast", "unit"), one) for name, one in (("t", t), ("p", q), ("q", q))}, **cells},
            coords={
                "contrast": ("contrast", np.array(contrasts, dtype=object)),
                "layer_name": ("layer_name", np.array(list(sheets), dtype=object)),
                **unit_coords(sheets),
            },
            attrs={**sheets_attribute(sheets), **Selectivity.attributes(fields)},
        )
    )


def make_said(mean, low, high):
    """What one null says."""
    return dict.fromkeys(STATISTICS, np.nan) | {"null_mean": mean, "null_low": low, "null_high": high, "p": 0.5}


def make_topography(values, *, name="m", nulls=None, references=None, contrast="language", measure="morans_i"):
    """``values``: layer -> value, or (layer, contrast) -> value. ``nulls``, ``references``: name -> (mean, low, high)."""
    table = {(k if isinstance(k, tuple) else (k, contrast)): v for k, v in values.items()}
    layers, contrasts = (list(dict.fromkeys(key[i] for key in table)) for i in (0, 1))
    every = {**({"layout": (0.0, -0.1, 0.1)} if nulls is None else nulls), **(references or {})}
    cells = Cells([measure, "generic"], layers, contrasts, list(every))
    for (layer, one), value in table.items():
        cells.set(measure, layer, one, value=value)
        for null, (mean, low, high) in every.items():
            cells.set(measure, layer, one, null=null, said=make_said(mean, low, high))
    variables, coords = cells.dataset()
    fields = {"model": {"name": name}, "topography": {"references": {one: [one] for one in references or {}}}}
    return Topography(xr.Dataset(variables, coords=coords, attrs=Topography.attributes(fields)))


def make_profile(mean, *, name="m", interval=0.1, control=0.3, n_units=7, contrast="language", folds=2):
    """``mean``: condition -> response; None for no interval or no random units."""
    values = np.array(list(mean.values()), dtype=float)
    nothing = np.full(values.size, np.nan)
    low, high = (nothing, nothing) if interval is None else (values - interval, values + 2 * interval)
    random = [nothing] * 3 if control is None else [np.full(values.size, one) for one in (0.0, -control, control)]
    selected = np.tile(np.arange(20) < n_units, (folds, 1))
    return Profile(
        xr.Dataset(
            {
                "response": (("fold", "condition"), np.tile(values, (folds, 1))),
                "t": (("fold",), np.ones(folds)),
                "p": (("fold",), np.ones(folds)),
                "selected": (("fold", "unit"), selected),
                **{
                    column: (("condition",), one)
                    for column, one in zip(BY_CONDITION, (values, low, high, *random), strict=True)
                },
            },
            coords={"condition": ("condition", np.array(list(mean), dtype=object))},
            attrs=Profile.attributes({"model": {"name": name}, "profile": {"contrast": {"name": contrast}}}),
        )
    )


def make_curve(values, *, name="m", quantity="response correlation", null=0.0):
    """``values``: layer -> one value a bin; ``null``: mean of the null, with a band of 0.05 on both sides."""
    value = np.array(list(values.values()), dtype=float)
    mean = np.full(value.shape, np.nan if null is None else null)
    distance = np.broadcast_to(np.arange(1.0, value.shape[1] + 1), value.shape)
    columns = {
        "value": value, "null_mean": mean, "null_low": mean - 0.05, "null_high": mean + 0.05,
        "n_pairs": np.ones(value.shape), "distance": distance,
    }  # fmt: skip
    return DistanceCurve(
        xr.Dataset(
            {column: (("layer", "bin"), one) for column, one in columns.items()},
            coords={"layer": ("layer", np.array(list(values), dtype=object))},
            attrs=DistanceCurve.attributes({"model": {"name": name}, "distance_curve": {"quantity": quantity}}),
        )
    )
