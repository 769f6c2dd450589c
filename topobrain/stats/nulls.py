"""Matched nulls: what a statistic would be if there were nothing to find."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from topobrain._checks import InputError, require_choice
from topobrain.stats.layout import Layout

Tail = Literal["greater", "less", "two-sided"]

ROUNDING = 1e-12
"""Draws that rearrange the same numbers differ from the value by rounding only: they count as ties."""

MOST_TOGETHER = 24
"""Permuted maps worked on together: of a sheet of some thousand units, they stay in the processor's cache."""

MOST_KEPT = 2**14
"""Permutations of up to so many units are kept for the next map; they are a few megabytes."""


class NullTest(NamedTuple):
    """A value beside its null.

    Attributes
    ----------
    value, null_mean, null_sd
        The statistic, and mean and standard deviation of its null.
    z
        (value - null_mean) / null_sd.
    p
        One-sided, value or more, unless another alternative was asked for: (1 + number of null values at least as
        high) / (1 + number of null values).
    corrected
        (value - null_mean) / (1 - null_mean): 0 at the floor of the null, 1 at the statistic's highest value.
    """

    value: float
    null_mean: float
    null_sd: float
    z: float
    p: float
    corrected: float


def compare_with_null(value: float, null: Float[np.ndarray, " null"], *, alternative: Tail = "greater") -> NullTest:
    """Set a statistic beside draws of its null (NaN in, NaN out).

    Parameters
    ----------
    value
        The statistic.
    null
        At least two draws of it under the null.
    alternative
        Which values speak against the null: ``"greater"`` ones, ``"less"``, or ``"two-sided"`` (twice the smaller of
        both one-sided p, at most 1). The value itself counts as one draw, so p is never 0.

    Examples
    --------
    >>> null = np.array([0.0, 1.0, 2.0])
    >>> [compare_with_null(3.0, null, alternative=side).p for side in ("greater", "less", "two-sided")]
    [0.25, 1.0, 0.5]
    """
    require_choice("alternative", alternative, ("greater", "less", "two-sided"))
    draws = np.asarray(null, dtype=np.float64)
    if draws.ndim != 1 or draws.size < 2:
        raise InputError(f"a null needs at least two draws, got shape {draws.shape}")
    mean, sd = float(draws.mean()), float(draws.std(ddof=1))
    if not np.isfinite(value) or not np.isfinite(mean):
        return NullTest(float(value), mean, sd, np.nan, np.nan, np.nan)
    above = (1 + int((draws >= value - ROUNDING).sum())) / (1 + draws.size)
    below = (1 + int((draws <= value + ROUNDING).sum())) / (1 + draws.size)
    p = {"greater": above, "less": below, "two-sided": min(1.0, 2 * min(above, below))}[alternative]
    # draws that are all one number differ in rounding only: there is nothing to scale a distance by
    z = (value - mean) / sd if sd > ROUNDING * max(1.0, abs(mean)) else np.nan
    corrected = (value - mean) / (1 - mean) if mean < 1 else np.nan
    return NullTest(float(value), mean, sd, float(z), float(p), float(corrected))


def layout_permutations(n_units: int, n_null: int, *, seed: int = 0) -> Int[np.ndarray, "null unit"]:
    """Return ``n_null`` independent random permutations of units over the places of their sheet (null, unit)."""
    if n_null < 2:
        raise InputError(f"n_null must be 2 or more, got {n_null}")
    rng = np.random.default_rng(seed)
    return rng.permuted(np.tile(np.arange(n_units), (n_null, 1)), axis=1)


class PermutationProducts(NamedTuple):
    """Many permutations as products of few, as `product_permutations` draws them.

    Attributes
    ----------
    first, second
        Permutations (i, unit) and (j, unit); the first of each is the identity.
    cell
        The pairs used as draws (null,), ``i * len(second) + j``.
    """

    first: np.ndarray
    second: np.ndarray
    cell: np.ndarray

    def orders(self) -> Int[np.ndarray, "null unit"]:
        """Return the permutations one by one (null, unit): draw (i, j) is ``first[i][second[j]]``."""
        i, j = np.divmod(self.cell, len(self.second))
        return np.asarray(np.take_along_axis(self.first[i], self.second[j], axis=1))


def product_permutations(n_units: int, n_null: int, *, seed: int = 0) -> PermutationProducts:
    r"""Draw many permutations of units for a test from few, so that drawing them costs next to nothing.

    With small sets of uniform random permutations :math:`\alpha_i, \beta_j, \gamma_k, \delta_l`, the first of each set
    the identity, the draws are the products :math:`\alpha_i \beta_j \gamma_k \delta_l` except the identity itself:
    1,000 draws from 19 permutations. Every draw is uniform over all permutations and any two draws are independent, so
    means of draws and counts of draws scatter exactly as those of independent permutations do. The p-value with
    the +1 rule is exact too: seen from any one of its products, a table of all products looks like every other table.

    Parameters
    ----------
    n_units
        Number of units.
    n_null
        Number of draws, at least 2. Where it is not one less than a full table, draws are left out at random.
    seed
        Seed of the draws.

    References
    ----------
    Hemerik & Goeman (2018), TEST 27:811 (random transformations in exact tests); Ramdas et al. (2023), Sankhya A 85:1156
    (arbitrary sets of permutations).

    Examples
    --------
    >>> drawn = product_permutations(6, 999)
    >>> drawn.first.shape, drawn.second.shape, drawn.orders().shape
    ((24, 6), (42, 6), (999, 6))
    """
    if n_null < 2:
        raise InputError(f"n_null must be 2 or more, got {n_null}")
    return (_kept_products if n_units <= MOST_KEPT else _products)(n_units, n_null, seed)


def _products(n_units: int, n_null: int, seed: int) -> PermutationProducts:
    rng = np.random.default_rng(seed)
    first = _table(n_units, min(math.isqrt(n_null) + 1, MOST_TOGETHER), rng)
    second = _table(n_units, -(-(n_null + 1) // len(first)), rng)
    cell = np.arange(1, len(first) * len(second))
    if cell.size > n_null:
        cell = np.sort(rng.choice(cell, n_null, replace=False))
    for array in (first, second, cell):
        array.flags.writeable = False  # they may be kept, and handed out again
    return PermutationProducts(first, second, cell)


_kept_products = lru_cache(maxsize=8)(_products)
"""The layers of a model mostly have sheets of one size and are tested with one seed."""


def _table(n_units: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``n`` permutations (rarely a few more) as products of about 2 sqrt(n), the identity first."""
    root = math.isqrt(n)
    rows = min(range(root // 2 + 1, root + 1), key=lambda rows: (rows * -(-n // rows), -rows))
    factors = []
    for size in (rows, -(-n // rows)):
        factor = np.tile(np.arange(n_units), (size, 1))
        for order in factor[1:]:
            rng.shuffle(order)
        factors.append(factor)
    # short numbers: at some thousand units the tables are as large as the maps they permute
    return np.take(factors[0].astype(np.int32), factors[1], axis=1).reshape(-1, n_units)


def torus_shifts(
    first: Float[np.ndarray, "height width"], second: Float[np.ndarray, "height width"]
) -> Float[np.ndarray, "height width"]:
    r"""Return the correlation of a map with every shift of another over a torus, by Fourier transform.

    :math:`r[\Delta] = \mathrm{Pearson}(a(x),\, b(x - \Delta))`; ``[0, 0]`` is the correlation of the maps as they lie.

    Parameters
    ----------
    first, second
        Images (height, width) of two maps on one wrapped sheet, no value missing, neither constant.

    Returns
    -------
    array (height, width)
        Pearson r for every shift of ``second`` by so many rows and columns.

    Examples
    --------
    >>> image = np.random.default_rng(0).standard_normal((4, 5))
    >>> np.unravel_index(torus_shifts(np.roll(image, (1, 3), axis=(0, 1)), image).argmax(), (4, 5))
    (np.int64(1), np.int64(3))
    """
    images = [np.asarray(image, dtype=np.float64) for image in (first, second)]
    if images[0].ndim != 2 or images[0].shape != images[1].shape:
        raise InputError(
            f"the maps are images of shape {images[0].shape} and {images[1].shape}, expected two of one shape"
        )
    spectra = []
    for image in images:
        if not np.isfinite(image).all():
            raise InputError("a shift needs a value in every place of the torus, but values are missing or infinite")
        centred = image - image.mean()
        length = np.sqrt((centred**2).sum())
        if length <= ROUNDING * np.sqrt((image**2).sum()):
            raise InputError("a map is constant: it correlates with nothing")
        spectra.append(np.fft.rfft2(centred / length))
    r = np.fft.irfft2(spectra[0] * spectra[1].conj(), s=images[0].shape)
    return np.asarray(np.clip(r, -1.0, 1.0))


def torus_test(
    first: Float[np.ndarray, " unit"],
    second: Float[np.ndarray, " unit"],
    sheet: Layout,
    *,
    alternative: Tail = "two-sided",
) -> NullTest:
    """Do two maps on a wrapped sheet agree more than their smoothness alone explains?

    The null shifts one map over the torus by every number of rows and columns: it keeps both maps' values and
    autocorrelation exactly. Nothing is drawn. The p-value is the rank of the shift (0, 0) among all shifts, itself
    counted once, so it is exact and at least 1 / n_units.

    Parameters
    ----------
    first, second
        Maps (unit,) on the same sheet, no value missing.
    sheet
        Their wrapped sheet.
    alternative
        ``"two-sided"``, ``"greater"`` (they agree) or ``"less"`` (they are opposed).

    Returns
    -------
    NullTest
        ``value`` is Pearson's r of the maps as they lie.

    Raises
    ------
    InputError
        An open sheet: a shift would tear the map at its border.

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> sheet = Sheet.grid(12, 12, wrapped=True)
    >>> maps = sheet.smooth(np.random.default_rng(0).standard_normal((2, 144)), 4)
    >>> found = torus_test(maps[0], maps[0] + maps[1], sheet)
    >>> round(found.value, 2), found.p < 0.05
    (0.74, True)
    """
    if not (isinstance(sheet, Layout) and sheet.wrapped):  # a mesh has no shifts either
        raise InputError(
            "a shift would tear a map at the border of an open sheet: toroidal shifts need a wrapped one. On an open sheet "
            "permute the units' places before smoothing; on cortex use spin or variogram-matched surrogates"
        )
    maps = [np.asarray(values, dtype=np.float64) for values in (first, second)]
    for values in maps:
        if values.shape != (sheet.n_units,):
            raise InputError(f"a map has shape {values.shape}, expected one value for each of {sheet.n_units} units")
    r = torus_shifts(sheet.to_image(maps[0]), sheet.to_image(maps[1])).ravel()
    return compare_with_null(float(r[0]), r[1:], alternative=alternative)


def smoothing_floor(fwhm: float, n_units: int) -> float:
    r"""What Moran's I (queen) does smoothing alone give to unstructured values?

    With the kernel g at whole numbers, :math:`\rho = \sum_k g_k g_{k+1} / \sum_k g_k^2`,
    :math:`F = (\rho + \rho^2) / 2`, and the variance of the map's mean in units of the map's variance,
    :math:`v = ((\sum_k g_k)^2 / \sum_k g_k^2)^2 / n`, the index is :math:`(F - v) / (1 - v)`. On a torus this holds
    within 0.003; on an open sheet within 0.02. A layout null smoothed the same way says it for a given sheet and map.

    Parameters
    ----------
    fwhm
        Full width at half maximum of the Gaussian kernel, in grid steps.
    n_units
        Number of units of the sheet.

    Raises
    ------
    InputError
        A kernel so wide that the whole sheet is one blob.

    Examples
    --------
    >>> [round(smoothing_floor(fwhm, 784), 3) for fwhm in (0, 1, 2, 4)]
    [-0.001, 0.068, 0.596, 0.873]
    """
    if fwhm < 0 or not math.isfinite(fwhm):
        raise InputError(f"fwhm must be a length of at least 0, got {fwhm}")
    if n_units < 3:
        raise InputError(f"Moran's I needs at least three units, got {n_units}")
    sigma = fwhm / math.sqrt(8 * math.log(2))
    reach = math.ceil(10 * sigma) + 1
    steps = np.arange(-reach, reach + 1)
    kernel = np.exp(-((steps / sigma) ** 2) / 2) if sigma > 0 else (steps == 0).astype(float)
    power = float(kernel @ kernel)
    rho = float(kernel[:-1] @ kernel[1:]) / power
    likeness = (rho + rho**2) / 2
    mean_variance = (kernel.sum() ** 2 / power) ** 2 / n_units
    if mean_variance >= 0.5:
        raise InputError(f"a kernel of FWHM {fwhm} leaves a sheet of {n_units} units as one blob: no floor is defined")
    return float((likeness - mean_variance) / (1 - mean_variance))
