"""Seven measures of topography on the same smoothed noise: what each reads where smoothing is all there is.

Independent values for 500 fields of white noise smoothed at seven widths, on an open sheet and on a torus.
"""

import math
from functools import lru_cache

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from topobrain import stats
from topobrain.nn import correlation_loss
from topobrain.sheet import Sheet

PLANE, TORUS = Sheet.grid(28, 28), Sheet.grid(28, 28, wrapped=True)
TOLERANCE = 0.01

MEASURES = ("morans_i", "tdann", "toponets", "pearson", "spearman_8", "loss", "t_g")
TABLE = {
    ("planar", 0): (0.000, 0.02, 0.002, 0.002, 0.004, 0.499, 0.001),
    ("planar", 1): (0.070, 0.05, 0.073, 0.033, 0.093, 0.450, 0.105),
    ("planar", 2): (0.606, 0.39, 0.610, 0.233, 0.439, 0.199, 0.289),
    ("planar", 3): (0.805, 0.57, 0.805, 0.361, 0.738, 0.110, 0.420),
    ("planar", 4): (0.889, 0.67, 0.888, 0.467, 0.903, 0.067, 0.517),
    ("planar", 6): (0.953, 0.78, 0.952, 0.633, 0.973, 0.037, 0.637),
    ("planar", 8): (0.974, 0.83, 0.959, 0.756, 0.977, 0.037, 0.666),
    ("torus", 0): (-0.001, 0.01, 0.002, 0.000, 0.002, 0.500, 0.001),
    ("torus", 1): (0.068, 0.05, 0.071, 0.039, 0.074, 0.449, 0.109),
    ("torus", 2): (0.595, 0.38, 0.603, 0.293, 0.380, 0.188, 0.323),
    ("torus", 3): (0.788, 0.56, 0.798, 0.456, 0.689, 0.097, 0.491),
    ("torus", 4): (0.870, 0.66, 0.881, 0.588, 0.879, 0.054, 0.635),
    ("torus", 6): (0.935, 0.77, 0.948, 0.781, 0.970, 0.029, 0.842),
    ("torus", 8): (0.958, 0.82, 0.957, 0.894, 0.982, 0.038, 0.939),
}
QUICK = [("planar", 0), ("planar", 2), ("torus", 4)]


@lru_cache(maxsize=1)
def noise():
    return np.random.default_rng(0).standard_normal((500, 28, 28))


def fields(mode, fwhm):
    if fwhm == 0:
        return noise().reshape(500, 784)
    sigma, border = fwhm / math.sqrt(8 * math.log(2)), "wrap" if mode == "torus" else "constant"
    return np.stack([gaussian_filter(one, sigma, truncate=8, mode=border) for one in noise()]).reshape(500, 784)


def measured(values, sheet):
    return {
        "morans_i": np.mean(stats.morans_i(values, sheet)),
        "tdann": np.mean(stats.smoothness_tdann(values[:40], sheet)),
        "toponets": stats.smoothness_toponets(values, sheet),
        "pearson": stats.generic_topography(values, sheet, form="pearson", max_distance=math.inf),
        "spearman_8": stats.generic_topography(values, sheet, max_distance=8),
        "loss": correlation_loss(torch.from_numpy(values), sheet).item(),
        "t_g": stats.generic_topography(values, TORUS),
    }


def check(mode, fwhm):
    found = measured(fields(mode, fwhm), TORUS if mode == "torus" else PLANE)
    expected = dict(zip(MEASURES, TABLE[mode, fwhm], strict=True))
    assert found == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize(("mode", "fwhm"), QUICK)
@pytest.mark.slow
def test_measures_read_what_was_measured_independently(mode, fwhm):
    check(mode, fwhm)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "fwhm"), [row for row in TABLE if row not in QUICK])
def test_measures_read_what_was_measured_independently_at_every_width(mode, fwhm):
    check(mode, fwhm)


def test_the_default_bins_are_those_of_the_table():
    assert stats.distance_bins(PLANE) == stats.distance_bins(TORUS) == stats.DistanceBins(1.0, 14.0, 20)


@pytest.mark.parametrize("mode", ["planar", "torus"])
@pytest.mark.slow
def test_every_measure_is_zero_within_its_null_band_once_positions_are_permuted(mode):
    """Structure in the units' correlations is not topography: only places make it so."""
    sheet = TORUS if mode == "torus" else PLANE
    values = fields(mode, 4)[:, np.random.default_rng(1).permutation(784)]
    options = {"n_null": 60, "seed": 3}
    nulls = {
        "morans_i": stats.layout_null(values[0], sheet, **options),
        "tdann": stats.smoothness_tdann_null(values[0], sheet, **options),
        "toponets": stats.smoothness_toponets_null(values, sheet, **options),
        "pearson": stats.generic_topography_null(values, sheet, form="pearson", max_distance=math.inf, **options),
        "spearman_8": stats.generic_topography_null(values, sheet, max_distance=8, **options),
        "t_g": stats.generic_topography_null(values, sheet, **options),
    }
    found = measured(values, sheet)
    found["morans_i"], found["tdann"] = stats.morans_i(values[0], sheet), stats.smoothness_tdann(values[0], sheet)
    for name, null in nulls.items():
        beside = stats.compare_with_null(found[name], null)
        assert abs(beside.z) < 3.5, name
        assert beside.p > 1 / 61, name
        # the highest of twenty bins lies above the first by noise alone
        assert abs(beside.null_mean) < (0.03 if name in ("tdann", "toponets") else 0.005), name
    assert found["loss"] == pytest.approx(0.5, abs=0.01)
