"""From scores, nulls and draws to one result of brain windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from topobrain.integration.brain_inference import Choosing, Interval, NullOutcome, Outcome
from topobrain.integration.brain_kernels import CLOCKS, Clock, WindowKernels
from topobrain.integration.brain_result import BrainWindows, variable
from topobrain.integration.brain_search import Searched
from topobrain.responses import BrainResponses

NULLS = {
    "gain": "the fit without memory, its residuals shifted round within each run; the whole search repeated",
    "r": "responses shifted round within each run; the whole search repeated",
}


ROUNDING = 1e-5
"""By how much a null in float32 may miss a score that it equals, as that of the true order does."""


class Found(NamedTuple):
    """Everything a search over windows came to, for the usable voxels.

    Attributes
    ----------
    fits, observed, null
        Scores of all windows; what came of them; the same under the nulls.
    intervals, drawn_over
        Bounds, and what regions were drawn over.
    choosing
        Who chose.
    usable
        Mask over all voxels.
    """

    fits: Searched
    observed: dict[Clock, Outcome]
    null: dict[Clock, NullOutcome]
    intervals: dict[Clock, Interval]
    drawn_over: str
    choosing: Choosing
    usable: np.ndarray


def assemble(
    found: Found,
    responses: BrainResponses,
    kernels: WindowKernels,
    regions: Sequence[str],
    told: Mapping[str, Any],
) -> BrainWindows:
    """Build the result; voxels that could not be scored are NaN."""
    profile = found.fits.r.mean(axis=0)
    regional = found.choosing.regional(profile)
    chance = found.null["words"].delta
    voxels = {"r_delta": profile[0], "p_delta": _p(profile[0], chance)}
    areas = {"r_delta": regional[0], "p_delta": _p(regional[0], found.choosing.regional(chance))}
    for clock in CLOCKS:
        voxels |= _of_voxels(found, kernels, profile, clock)
        areas |= _of_regions(found, kernels, regional, clock)
    chosen = np.full((len(CLOCKS), len(found.fits.r), len(found.usable)), -1)
    chosen[:, :, found.usable] = np.stack([found.observed[clock].chosen[:, 0] for clock in CLOCKS])
    nulls = {
        f"region_null_{name}": np.stack([found.choosing.regional(getattr(found.null[clock], of)).T for clock in CLOCKS])
        for name, of in (("gain", "gain"), ("r", "nested"))
    }
    labels = {name: ("voxel", responses.data[name].values) for name in ("roi", "subject", "ceiling")}
    of_kernel = {
        "a": np.array(kernels.a), "b": np.array(kernels.b), "c": np.array(kernels.c),
        "clock": np.array(kernels.clock, dtype=object), "half": kernels.half, "centre": kernels.centre,
    }  # fmt: skip
    data = xr.Dataset(
        {
            "r": (("kernel", "voxel"), _spread(profile, found.usable)),
            **{name: ("voxel", _spread(values, found.usable)) for name, values in voxels.items()},
            "chosen_in_fold": (("clock", "fold", "voxel"), chosen),
            "region_r": (("kernel", "region"), regional),
            **{f"region_{name}": ("region", values) for name, values in areas.items()},
            **{name: (("clock", "region", "permutation"), values) for name, values in nulls.items()},
        },
        coords={
            "kernel": np.array(kernels.names, dtype=object),
            "region": np.array(list(regions), dtype=object),
            "clock": np.array(CLOCKS, dtype=object),
            **labels,
            **{f"kernel_{name}": ("kernel", values) for name, values in of_kernel.items()},
        },
        attrs=BrainWindows.attributes(
            {
                **{k: v for k, v in responses.provenance.items() if k != "versions"},
                "brain_windows": {
                    **told,
                    "kernels": {"n_lags": kernels.n_lags, "reach_s": kernels.reach_s, "t0_s": kernels.t0_s},
                    "null": NULLS,
                    "region_intervals_over": found.drawn_over,
                },
            }
        ),
    )
    for name in ("chosen", "chosen_seconds"):
        for one in (name, f"region_{name}"):
            data[one] = data[one].fillna(-1).astype(np.int64)
    return BrainWindows(data)


def _spread(values: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Return values (..., usable voxel) as (..., voxel), NaN elsewhere."""
    whole = np.full((*values.shape[:-1], len(usable)), np.nan)
    whole[..., usable] = values
    return whole


def _window(kernels: WindowKernels, profile: np.ndarray, clock: Clock) -> dict[str, np.ndarray]:
    """Return the window at the top of each profile (kernel, column) and its widths, NaN for columns without scores."""
    windows = kernels.of(clock)
    absent = np.isnan(profile[0])
    best = windows[np.where(absent, -np.inf, profile[windows]).argmax(axis=0)]
    given = {
        "chosen": np.arange(float(len(kernels))), "a": np.array(kernels.a), "b": np.array(kernels.b),
        "c": np.array(kernels.c), "width": kernels.half_of(clock), "centre": kernels.centre,
    }  # fmt: skip
    return {variable(name, clock): np.where(absent, np.nan, values[best]) for name, values in given.items()}


def _p(value: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Return one-sided p of values (column,) beside draws (permutation, column), NaN without draws."""
    if not len(null):
        return np.full(value.shape, np.nan)
    with np.errstate(invalid="ignore"):
        count = (null >= value - ROUNDING).sum(axis=0)
    return np.asarray(np.where(np.isfinite(value), (1 + count) / (1 + len(null)), np.nan))


def _of_voxels(found: Found, kernels: WindowKernels, profile: np.ndarray, clock: Clock) -> dict[str, np.ndarray]:
    one, null, interval = found.observed[clock], found.null[clock], found.intervals[clock]
    values = {
        "r_nested": one.nested[0], "gain": one.gain[0],
        "gain_low": interval.gain[0], "gain_high": interval.gain[1],
        "width_low": interval.window[0], "width_high": interval.window[1],
        "p": _p(one.gain[0], null.gain), "p_best": _p(one.best[0], null.best), "p_r": _p(one.nested[0], null.nested),
    }  # fmt: skip
    return _window(kernels, profile, clock) | {variable(name, clock): array for name, array in values.items()}


def _of_regions(found: Found, kernels: WindowKernels, regional: np.ndarray, clock: Clock) -> dict[str, np.ndarray]:
    one, null, interval = found.observed[clock], found.null[clock], found.intervals[clock]
    mean = found.choosing.regional
    nested, gain = mean(one.nested)[0], mean(one.gain)[0]
    null_gain = mean(null.gain)
    largest = np.nan_to_num(null_gain, nan=-np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    absent = np.isnan(gain)
    values = {
        "r_nested": nested, "gain": gain,
        "gain_low": interval.region_gain[0], "gain_high": interval.region_gain[1],
        "width_low": interval.region_window[0], "width_high": interval.region_window[1],
        "p": _p(gain, null_gain), "p_max": _p(gain, np.broadcast_to(largest, null_gain.shape)),
        "p_best": _p(np.where(absent, np.nan, one.region_best[0]), null.region_best),
        "p_r": _p(nested, mean(null.nested)),
    }  # fmt: skip
    return _window(kernels, regional, clock) | {variable(name, clock): array for name, array in values.items()}
