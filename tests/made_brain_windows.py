"""Windows of brain regions with known numbers, without a search."""

from __future__ import annotations

import numpy as np
import xarray as xr

from topobrain.integration.brain_kernels import CLOCKS, WindowKernels
from topobrain.integration.brain_result import NAMES, BrainWindows, variable

KERNELS = WindowKernels.grid(
    half_lives=(1, 4, 16), exponents=(1.0,), mixed=True, half_lives_s=(1, 8), exponents_s=(0.5,)
)
ROIS = ("LATL", "LPTL")


def make_brain_windows(
    gains=(0.08, 0.0),
    *,
    rois=ROIS,
    r_delta=0.3,
    p=(0.01, 0.6),
    chosen=("exp 4 words", "delta"),
    chosen_seconds=("exp 8 s", "delta"),
    interval=0.02,
    widths=(1.0, 16.0),
    kernels=KERNELS,
    n_permutations=200,
    subjects=1,
    simulated=False,
):
    """Every region: r without memory ``r_delta``; windows over words gain ``gains``, over seconds half of it.

    The profile is ``r_delta`` plus twice the gain at the chosen window and without it elsewhere; its width has ``widths`` as
    interval. Both nulls of the nested choice are normal: the gain's around 0 with .02, that of r around 0 with .1.
    ``p`` is every p of the gain. With NaN as a gain the region has no usable voxel.
    """
    n, names = len(rois), kernels.names
    gain, level = np.asarray(gains, dtype=float), np.asarray(p, dtype=float)
    delta = np.where(np.isnan(gain), np.nan, r_delta)
    regional = np.tile(delta, (len(kernels), 1))
    values: dict[str, np.ndarray] = {"r_delta": delta, "p_delta": np.where(np.isnan(gain), np.nan, 0.005)}
    rng = np.random.default_rng(0)
    for clock, picked, scale in (("words", chosen, 1.0), ("seconds", chosen_seconds, 0.5)):
        at = np.array([names.index(one) for one in picked])
        regional[at, np.arange(n)] += 2 * scale * gain
        of = {
            "a": np.array(kernels.a)[at], "b": np.array(kernels.b)[at], "c": np.array(kernels.c)[at],
            "width": kernels.half_of(clock)[at], "width_low": np.full(n, widths[0]), "width_high": np.full(n, widths[1]),
            "centre": kernels.centre[at], "r_nested": delta + scale * gain, "gain": scale * gain,
            "gain_low": scale * gain - interval, "gain_high": scale * gain + interval, "p": level, "p_best": level,
            "p_r": np.full(n, 0.005),
        }  # fmt: skip
        values |= {variable(name, clock): np.where(np.isnan(gain), np.nan, one) for name, one in of.items()}
        values["chosen" if clock == "words" else "chosen_seconds"] = np.where(np.isnan(gain), -1, at)
    draws = (len(CLOCKS), n, n_permutations)
    spread = np.where(np.isnan(gain), np.nan, 1.0)[:, None]
    voxel = np.repeat(np.arange(n), subjects)
    kept = ("r_delta", "p_delta", "chosen", "chosen_seconds", *NAMES)
    of_kernel = {"a": kernels.a, "b": kernels.b, "c": kernels.c, "clock": kernels.clock, "half": kernels.half}
    data = xr.Dataset(
        {
            "r": (("kernel", "voxel"), regional[:, voxel]),
            **{name: ("voxel", values[name][voxel]) for name in kept},
            "chosen_in_fold": (("clock", "fold", "voxel"), np.zeros((2, 3, len(voxel)), dtype=int)),
            "region_r": (("kernel", "region"), regional),
            **{f"region_{name}": ("region", values[name]) for name in kept},
            **{f"region_p_max{end}": ("region", np.where(np.isnan(gain), np.nan, level)) for end in ("", "_seconds")},
            "region_null_gain": (("clock", "region", "permutation"), 0.02 * spread * rng.normal(size=draws)),
            "region_null_r": (("clock", "region", "permutation"), 0.1 * spread * rng.normal(size=draws)),
        },
        coords={
            "kernel": np.array(names, dtype=object), "region": np.array(rois, dtype=object),
            "clock": np.array(CLOCKS, dtype=object), "roi": ("voxel", np.array(rois, dtype=object)[voxel]),
            "subject": ("voxel", np.array([f"s{i}" for i in range(subjects)] * n, dtype=object)),
            **{f"kernel_{name}": ("kernel", np.array(one, dtype=object if name == "clock" else float))
               for name, one in of_kernel.items()},
        },
    )  # fmt: skip
    fields = {
        "name": "a-story", "stimuli": {"name": "a-story", "n_stimuli": 300, "simulated": simulated},
        "brain_windows": {"response": "fir", "n_folds": 6, "gap": 6, "n_permutations": n_permutations, "n_bootstrap": 1000,
                          "seed": 0, "features": {"frequency": 1, "length": 1}, "words_per_s": 4.0},
    }  # fmt: skip
    return BrainWindows(data.assign_attrs(BrainWindows.attributes(fields)))
