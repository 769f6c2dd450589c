"""Map similarity: do two maps of one sheet look alike, and more so than their smoothness alone explains?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float

from topobrain._checks import InputError, require_choice
from topobrain.stats.layout import Layout
from topobrain.stats.nulls import layout_permutations, torus_shifts

K1, K2 = 0.01, 0.03
"""Constants of SSIM (Wang et al. 2004): they keep its ratios defined where a window is dark or flat."""

TRUNCATE = 3.5
"""Standard deviations after which the Gaussian window ends: 11 x 11 places for sigma 1.5."""

BATCH = 256
"""Maps compared at a time: bounds memory."""

Smoothing = Callable[[np.ndarray], np.ndarray]


def map_correlation(
    a: Float[np.ndarray, " unit"], b: Float[np.ndarray, " unit"] | Float[np.ndarray, "map unit"]
) -> float | Float[np.ndarray, " map"]:
    """Return Pearson's r of map ``a`` with one map ``b`` (unit,), or with each of several (map, unit).

    Units missing (NaN) in either map leave; NaN with fewer than three units, or where a map is constant. Units of
    smooth maps are not independent: take p from `map_similarity_null`, never from the number of units.

    >>> round(map_correlation(np.array([1.0, 2.0, 3.0, np.nan]), np.array([2.0, 4.0, 6.0, 9.0])), 12)
    1.0
    """
    one, others = _checked_pair(a, b)
    both = np.isfinite(one) & np.isfinite(others)
    weight = both.astype(np.float64)
    n = weight.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        # means are taken out first: sums of squares of large values would lose the digits that matter
        x = np.where(both, others, 0.0)
        x = np.where(both, x - (x.sum(axis=1) / n)[:, None], 0.0)
        y = np.where(np.isfinite(one), one, 0.0)
        y = np.where(np.isfinite(one), y - y.sum() / max(1, np.isfinite(one).sum()), 0.0)
        mean = weight @ y / n
        spread = weight @ y**2 - n * mean**2
        length = (x**2).sum(axis=1)
        r = (x @ y - x.sum(axis=1) * mean) / np.sqrt(length * spread)
    flat = (length <= 1e-24 * (np.where(both, others, 0.0) ** 2).sum(axis=1)) | (
        spread <= 1e-24 * np.maximum(weight @ np.where(np.isfinite(one), one, 0.0) ** 2, weight @ y**2)
    )
    found = np.where((n < 3) | flat, np.nan, np.clip(r, -1.0, 1.0))
    return float(found[0]) if np.ndim(b) == 1 else found


def ssim(
    a: Float[np.ndarray, " unit"],
    b: Float[np.ndarray, " unit"] | Float[np.ndarray, "map unit"],
    sheet: Layout,
    *,
    sigma: float = 1.5,
    data_range: float | None = None,
    level: Literal["lowest", "zero"] = "lowest",
    border: Literal["normalised", "valid"] = "normalised",
) -> float | Float[np.ndarray, " map"]:
    r"""Do two maps have the same structure, place by place: SSIM, the mean structural similarity.

    :math:`\frac{(2 \mu_a \mu_b + C_1)(2 \sigma_{ab} + C_2)}{(\mu_a^2 + \mu_b^2 + C_1)(\sigma_a^2 + \sigma_b^2 + C_2)}`
    with means, variances and covariance in a Gaussian window, :math:`C_1 = (0.01 L)^2`, :math:`C_2 = (0.03 L)^2` and L
    the data range, averaged over windows. 1 for equal maps, about 0 for unrelated ones, below 0 for opposed ones.

    Parameters
    ----------
    a
        A map (unit,).
    b
        Another map (unit,), or several (map, unit).
    sheet
        Places of the units. Windows close over the border of a wrapped sheet.
    sigma
        Standard deviation of the window, in the unit of the sheet's spacing; it ends after 3.5 of them.
    data_range
        L; None takes the highest less the lowest value of both maps together. SSIM depends on it: compare maps at
        one range.
    level
        What counts as dark. ``"lowest"``: the lowest value of both maps, as when they are drawn as images. ``"zero"``:
        values are taken as they are, as scikit-image takes them. SSIM is made for values that are not negative: with
        signed ones (t-values) both of its factors change sign, and a map *resembles its own negative*.
    border
        ``"normalised"``: a window at every unit, its weights divided by their sum over units that have a value in both
        maps (so borders, holes and NaN do not darken it). ``"valid"``: only windows that lie on the sheet entirely and
        hold a value everywhere, as scikit-image averages.

    Returns
    -------
    float or array (map,)
        NaN if no window is left.

    Raises
    ------
    InputError
        A sheet without layout, maps of another size, two constant maps without a data range.

    References
    ----------
    Wang, Bovik, Sheikh & Simoncelli (2004), IEEE Transactions on Image Processing 13:600, equation 13.

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> sheet = Sheet.grid(12, 12)
    >>> a, b = np.random.default_rng(0).standard_normal((2, 144)) @ sheet.smoothing(3.0).T
    >>> ssim(a, a, sheet), bool(abs(ssim(a, b, sheet)) < 0.4)
    (1.0, True)
    """
    require_choice("border", border, ("normalised", "valid"))
    require_choice("level", level, ("lowest", "zero"))
    if not (sigma > 0 and math.isfinite(sigma)):
        raise InputError(f"sigma must be a positive length, got {sigma}")
    if data_range is not None and not (data_range > 0 and math.isfinite(data_range)):
        raise InputError(f"data_range must be a positive number, got {data_range}")
    one, others = _checked_pair(a, b, sheet)
    place = np.nan_to_num(sheet.to_image(np.arange(sheet.n_units, dtype=float)), nan=-1).astype(np.int64)
    window = _Window(sigma / sheet.spacing, sheet.wrapped)
    found = np.empty(len(others))
    for start in range(0, len(others), BATCH):
        batch = others[start : start + BATCH]
        lowest, highest = _limits(one, batch)
        if data_range is None and (highest == lowest).any():
            raise InputError("both maps are one constant: SSIM needs a data range, give data_range")
        ranges = highest - lowest if data_range is None else np.full(len(batch), data_range)
        dark = lowest if level == "lowest" else np.zeros(len(batch))
        images = [np.where(place >= 0, maps[:, np.maximum(place, 0)], np.nan) for maps in (one[None], batch)]
        found[start : start + BATCH] = _mean_ssim((images[0], images[1]), ranges, dark, window, border)
    return float(found[0]) if np.ndim(b) == 1 else found


def map_similarity_null(
    a: Float[np.ndarray, " unit"],
    b: Float[np.ndarray, " unit"],
    sheet: Layout,
    *,
    measure: Literal["correlation", "ssim"] = "correlation",
    null: Literal["layout", "torus"] = "layout",
    n_null: int = 1000,
    seed: int = 0,
    smooth: Smoothing | None = None,
) -> Float[np.ndarray, " null"]:
    """How alike would two maps be if they had nothing to do with each other?

    Parameters
    ----------
    a, b
        Maps (unit,). Units without a value in ``a`` stay where they are.
    sheet
        Places of the units.
    measure
        ``"correlation"`` (`map_correlation`) or ``"ssim"`` (`ssim` with its defaults).
    null
        ``"layout"`` permutes the units of ``a`` over their places. Two *smooth* maps need the smoothing done after the
        permutation: give the unsmoothed ``a`` and ``smooth``. ``"torus"`` shifts ``b`` by every number of rows and
        columns, which keeps the autocorrelation of both maps exactly; it needs a wrapped sheet, draws nothing and
        leaves out the shift by nothing.
    n_null, seed
        Number of permutations, and their seed; not used by ``"torus"``.
    smooth
        Function of maps (map, unit) that smooths each, for instance ``lambda maps: maps @ sheet.smoothing(2.0).T``,
        applied to the permuted maps.

    Returns
    -------
    array (null,)

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> sheet = Sheet.grid(10, 10, wrapped=True)
    >>> kernel = sheet.smoothing(4.0)
    >>> a, b = np.random.default_rng(0).standard_normal((2, 100))
    >>> plain = map_similarity_null(a, kernel @ b, sheet, n_null=500)
    >>> smoothed = map_similarity_null(a, kernel @ b, sheet, n_null=500, smooth=lambda maps: maps @ kernel.T)
    >>> shifted = map_similarity_null(kernel @ a, kernel @ b, sheet, null="torus")
    >>> bool(plain.std() < 0.12 < 0.2 < min(smoothed.std(), shifted.std())), shifted.size
    (True, 99)
    """
    require_choice("measure of map similarity", measure, ("correlation", "ssim"))
    require_choice("null", null, ("layout", "torus"))
    one, others = _checked_pair(a, b, sheet)
    other = others[0]
    if null == "layout":
        maps = np.tile(one, (n_null, 1))
        present = np.flatnonzero(np.isfinite(one))
        maps[:, present] = one[present][layout_permutations(present.size, n_null, seed=seed)]
        if smooth is not None:
            maps = np.asarray(smooth(maps), dtype=np.float64)
        return np.asarray(map_correlation(other, maps) if measure == "correlation" else ssim(other, maps, sheet))
    if smooth is not None:
        raise InputError("shifts keep the smoothness of the maps as they are: give smoothed maps, and no smooth=")
    if not sheet.wrapped:
        raise InputError("a shift would tear a map at the border of an open sheet: null='torus' needs a wrapped one")
    images = sheet.to_image(one), sheet.to_image(other)
    if measure == "correlation":
        return np.asarray(torus_shifts(*images).ravel()[1:])
    shifts = np.array([(dy, dx) for dy in range(sheet.height) for dx in range(sheet.width)][1:])
    rows, columns = np.arange(sheet.height)[:, None], np.arange(sheet.width)[None, :]
    unit_cell = np.argsort(sheet.to_image(np.arange(sheet.n_units, dtype=float)).ravel())
    found = []
    for start in range(0, len(shifts), BATCH):
        part = shifts[start : start + BATCH, :, None, None]
        moved = images[1][(rows - part[:, 0]) % sheet.height, (columns - part[:, 1]) % sheet.width]
        found.append(ssim(one, moved.reshape(len(moved), -1)[:, unit_cell], sheet))
    return np.concatenate(found)


def _checked_pair(a: np.ndarray, b: np.ndarray, sheet: Layout | None = None) -> tuple[np.ndarray, np.ndarray]:
    one, others = np.asarray(a, dtype=np.float64), np.atleast_2d(np.asarray(b, dtype=np.float64))
    n_units = one.size if sheet is None else sheet.n_units
    if one.shape != (n_units,) or others.ndim != 2 or others.shape[1] != n_units or len(others) == 0:
        raise InputError(
            f"maps have shapes {one.shape} and {np.shape(b)}, expected one value for each of {n_units} units"
        )
    return np.where(np.isfinite(one), one, np.nan), np.where(np.isfinite(others), others, np.nan)


def _limits(one: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest value of both maps (map,), over units that both have; NaN without any."""
    there = np.isfinite(one) & np.isfinite(others)
    lowest = np.minimum(np.where(there, one, np.inf), np.where(there, others, np.inf)).min(axis=1)
    highest = np.maximum(np.where(there, one, -np.inf), np.where(there, others, -np.inf)).max(axis=1)
    some = there.any(axis=1)
    return np.where(some, lowest, np.nan), np.where(some, highest, np.nan)


class _Window:
    """A separable Gaussian window, moved over images (map, height, width)."""

    def __init__(self, sigma: float, wrapped: bool) -> None:
        self.reach = int(TRUNCATE * sigma + 0.5)
        steps = np.arange(-self.reach, self.reach + 1)
        weights = np.exp(-(steps**2) / (2 * sigma**2))
        self.weights = weights / weights.sum()
        self.mode: Literal["wrap", "constant"] = "wrap" if wrapped else "constant"

    def sums(self, images: np.ndarray) -> np.ndarray:
        """Return the weighted sum around each place; nothing lies beyond an open border."""
        from scipy.ndimage import correlate1d

        across = correlate1d(images, self.weights, axis=1, mode=self.mode)
        return np.asarray(correlate1d(across, self.weights, axis=2, mode=self.mode))


def _mean_ssim(
    images: tuple[np.ndarray, np.ndarray], data_range: np.ndarray, dark: np.ndarray, window: _Window, border: str
) -> Float[np.ndarray, " map"]:
    a, b = images
    there = np.isfinite(a) & np.isfinite(b)
    weight = window.sums(there.astype(float))
    safe = np.where(weight > 0, weight, 1.0)
    # values of both maps less one offset: moments of values with a large one would cancel badly
    offset = np.where(there, a, 0.0).sum(axis=(1, 2), keepdims=True) / np.maximum(
        there.sum(axis=(1, 2), keepdims=True), 1
    )
    a, b = np.where(there, a - offset, 0.0), np.where(there, b - offset, 0.0)
    mean_a, mean_b = window.sums(a) / safe, window.sums(b) / safe
    variance_a = window.sums(a * a) / safe - mean_a**2
    variance_b = window.sums(b * b) / safe - mean_b**2
    covariance = window.sums(a * b) / safe - mean_a * mean_b
    shift = offset - dark[:, None, None]
    mean_a, mean_b = mean_a + shift, mean_b + shift
    c1, c2 = ((k * data_range[:, None, None]) ** 2 for k in (K1, K2))
    with np.errstate(invalid="ignore"):  # a pair of maps without a common unit has no data range
        similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
            (mean_a**2 + mean_b**2 + c1) * (np.maximum(variance_a + variance_b, 0.0) + c2)
        )
    counted = there if border == "normalised" else weight > 1 - 1e-9
    n = counted.sum(axis=(1, 2))
    return np.where(n > 0, np.where(counted, similarity, 0.0).sum(axis=(1, 2)) / np.maximum(n, 1), np.nan)
