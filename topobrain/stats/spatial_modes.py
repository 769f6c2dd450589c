"""Smooth maps of a sheet and of places on the cortex, as few orthonormal modes; who lies beside whom on the cortex."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from topobrain._checks import InputError
from topobrain.stats.layout import Layout
from topobrain.stats.surface_nulls import nearest_by_coordinates

CARRIED = 0.9
"""Share of the Gaussian kernel's variance that the modes of the cortex carry: this sets the kernel's width."""

LANDMARKS = 400
"""Voxels that the kernel is computed on exactly; the modes of more voxels are extended from as many of them."""

NEGLIGIBLE = 1e-9
"""Singular values below this share of the largest belong to modes that the places at hand cannot tell from others."""


def sheet_modes(
    sheet: Layout, n_modes: int, *, units: Bool[np.ndarray, " unit"] | None = None
) -> Float[np.ndarray, "unit mode"]:
    r"""Which maps vary most slowly over a sheet?

    On a wrapped sheet the Fourier modes :math:`\cos` and :math:`\sin` of :math:`2\pi (k y / h + l x / w)`, on an open one
    the cosine modes :math:`\cos(\pi k (y + 1/2) / h) \cos(\pi l (x + 1/2) / w)`, those of lowest spatial frequency first,
    beginning with the constant. Modes of one frequency come together or not at all, so the maps they span do not change
    when the sheet is mirrored, turned by a quarter (a square one) or, wrapped, shifted.

    Parameters
    ----------
    sheet
        Places of the units.
    n_modes
        Most modes; the constant and the lowest frequency are always there, and others while they do not exceed it.
    units
        Which units to give (unit,); the modes are made orthonormal over these. None for all.

    Returns
    -------
    array (unit, mode)
        Orthonormal columns.

    Raises
    ------
    InputError
        A sheet without layout, fewer than two modes, or more than units.

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> sheet_modes(Sheet.grid(8, 8, wrapped=True), 12).shape, sheet_modes(Sheet.grid(6, 9), 5).shape
    ((64, 9), (54, 5))
    """
    if sheet.height < 1:
        raise InputError(
            f"the modes of a sheet need a layout, but these {sheet.n_units} units have none (Sheet.none). "
            f"Give the layer a sheet, for instance Sheet.for_width({sheet.n_units})"
        )
    keep = np.ones(sheet.n_units, dtype=bool) if units is None else np.asarray(units)
    if keep.dtype != np.bool_ or keep.shape != (sheet.n_units,):
        raise InputError(f"units are True or False for each of {sheet.n_units}; got {keep.dtype} of shape {keep.shape}")
    if not 2 <= n_modes <= keep.sum():
        raise InputError(f"a sheet with {int(keep.sum())} units to use has 2 to {int(keep.sum())} modes, got {n_modes}")
    image = sheet.to_image(np.arange(sheet.n_units, dtype=float))
    there = np.isfinite(image)
    row, column = np.empty((2, sheet.n_units), dtype=np.int64)
    number = image[there].astype(np.int64)
    row[number], column[number] = np.nonzero(there)
    waves = _wrapped_waves if sheet.wrapped else _open_waves
    columns = waves(sheet, n_modes, row[keep], column[keep])
    # the waves of a full grid are orthogonal; holes and units left out undo that
    u, s, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(u[:, s > NEGLIGIBLE * s[0]])


def _wrapped_waves(sheet: Layout, n_modes: int, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return the slowest Fourier waves (unit, wave)."""
    h, w = sheet.height, sheet.width
    waves = []
    for k in range(min(n_modes, h // 2) + 1):
        for across in range(-min(n_modes, w // 2), min(n_modes, w // 2) + 1):
            wave, opposite = (k % h, across % w), (-k % h, -across % w)
            if wave > opposite or 2 * across == -w:
                continue  # the same wave as the one with the other sign
            turns = (0.0,) if wave == opposite else (0.0, 0.25)  # the sine of the constant and of the finest wave is 0
            waves += [((k / h) ** 2 + (across / w) ** 2, k, across, turn) for turn in turns]
    chosen = [waves[i] for i in _whole_shells(np.array([wave[0] for wave in waves]), n_modes)]
    return np.stack([np.cos(2 * math.pi * (k * row / h + m * column / w - turn)) for _, k, m, turn in chosen], axis=1)


def _open_waves(sheet: Layout, n_modes: int, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return the slowest cosine waves (unit, wave)."""
    h, w = sheet.height, sheet.width
    waves = [
        ((k / h) ** 2 + (across / w) ** 2, k, across)
        for k in range(min(n_modes, h - 1) + 1)
        for across in range(min(n_modes, w - 1) + 1)
    ]
    chosen = [waves[i] for i in _whole_shells(np.array([wave[0] for wave in waves]), n_modes)]
    cosines = [np.cos(math.pi * k * (row + 0.5) / h) * np.cos(math.pi * m * (column + 0.5) / w) for _, k, m in chosen]
    return np.stack(cosines, axis=1)


def _whole_shells(frequencies: np.ndarray, n_modes: int) -> list[int]:
    """Return the waves of the lowest frequencies, those of one frequency together: at most ``n_modes``, or two shells."""
    order = np.argsort(frequencies, kind="stable")
    begins = np.flatnonzero(np.diff(frequencies[order], prepend=-1.0) > 1e-12)
    ends = np.append(begins[1:], order.size)
    fitting = ends[ends <= n_modes]
    end = fitting[-1] if fitting.size > 1 else ends[min(1, ends.size - 1)]
    return [int(wave) for wave in order[:end]]


def cortex_modes(places: Float[np.ndarray, "voxel dimension"], n_modes: int) -> Float[np.ndarray, "voxel mode"]:
    r"""Which maps vary most slowly over places on the cortex?

    The constant and the leading eigenvectors of the centred Gaussian kernel
    :math:`e^{-d_{ij}^2 / 2\ell^2}` over the distances between places. Its width is not chosen: :math:`\ell` is the
    smallest for which ``n_modes`` carry 90 % of the kernel's variance, so that few modes mean broad maps and many mean
    fine ones, over one patch or several.

    Parameters
    ----------
    places
        Coordinates (voxel, dimension), in mm: usually three, on the white surface or on a sphere.
    n_modes
        Number of modes, the constant included.

    Returns
    -------
    array (voxel, mode)
        Orthogonal columns, the broadest first: of length 1 the constant and the first, the others as the roots of their
        eigenvalues, so that ridge with one penalty prefers broad maps and few modes too many cost little. Fewer than asked
        for where voxels share their places.

    Raises
    ------
    InputError
        Places that are missing or all the same, or as many modes as voxels.

    Examples
    --------
    >>> line = np.linspace(0, 30, 40)[:, None]
    >>> modes = cortex_modes(line, 4)
    >>> modes.shape, int((np.diff(np.sign(modes[:, 1])) != 0).sum())
    ((40, 4), 1)
    """
    where = require_places(places)
    n = len(where)
    if not 2 <= n_modes < n:
        raise InputError(f"{n} voxels have 2 to {n - 1} modes, got {n_modes}")
    chosen = _spread_out(where, LANDMARKS)
    between = _squared_distances(where[chosen], where[chosen])
    width = _width(between, n_modes)
    # F F' is the kernel (exactly, where all voxels are landmarks); its centred left singular vectors are the modes
    value, vector = np.linalg.eigh(np.exp(-between / (2 * width**2)))
    kept = value > NEGLIGIBLE * value[-1]
    cross = np.exp(-_squared_distances(where, where[chosen]) / (2 * width**2))
    factor = cross @ (vector[:, kept] / np.sqrt(value[kept]))
    u, s, _ = np.linalg.svd(factor - factor.mean(axis=0), full_matrices=False)
    n_smooth = min(n_modes - 1, int((s > math.sqrt(NEGLIGIBLE) * s[0]).sum()))
    weighted = u[:, :n_smooth] * (s[:n_smooth] / s[0])
    return np.concatenate([np.full((n, 1), 1 / math.sqrt(n)), weighted], axis=1)


def require_places(places: np.ndarray) -> np.ndarray:
    """Return coordinates (voxel, dimension) as float64, or raise."""
    where = np.asarray(places)
    if where.ndim != 2 or where.dtype.kind not in "fiu" or not where.shape[1]:
        raise InputError(f"places are coordinates (voxel, 3) in mm, got {where.dtype} of shape {where.shape}")
    where = where.astype(np.float64)
    if not np.isfinite(where).all():
        bad = np.flatnonzero(~np.isfinite(where).all(axis=1))
        raise InputError(f"{bad.size} voxels have no place, the first is voxel {int(bad[0])}: leave them out")
    if len(where) < 3 or (np.ptp(where, axis=0) == 0).all():
        raise InputError(f"a map needs three or more voxels at more than one place, got {len(where)} voxels")
    return where


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    centre = b.mean(axis=0)  # places far from the origin would lose their differences in the squares
    a, b = a - centre, b - centre
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * a @ b.T
    return np.asarray(np.maximum(squared, 0.0))


def _spread_out(places: np.ndarray, most: int) -> np.ndarray:
    """Return voxels that cover all places evenly: each next one is the farthest from those chosen so far."""
    if len(places) <= most:
        return np.arange(len(places))
    chosen = [int(((places - places.mean(axis=0)) ** 2).sum(axis=1).argmax())]
    gap = np.full(len(places), np.inf)
    while len(chosen) < most:
        gap = np.minimum(gap, ((places - places[chosen[-1]]) ** 2).sum(axis=1))
        farthest = int(gap.argmax())
        if gap[farthest] == 0:
            break
        chosen.append(farthest)
    return np.array(chosen)


def _width(squared: np.ndarray, n_modes: int) -> float:
    """Return the smallest width of a Gaussian kernel whose leading modes carry enough, to 1 %."""
    apart = squared[squared > 1e-9 * squared.max()]  # the others are rounding errors of one place
    low, high = math.sqrt(apart.min()) / 10, math.sqrt(apart.max())
    while high / low > 1.01:
        width = math.sqrt(low * high)
        kernel = np.exp(-squared / (2 * width**2))
        centred = kernel - kernel.mean(axis=0) - kernel.mean(axis=1)[:, None] + kernel.mean()
        power = np.linalg.eigvalsh(centred)
        if power[len(power) - n_modes + 1 :].sum() >= CARRIED * power.sum():
            high = width
        else:
            low = width
    return high


@dataclass(frozen=True, eq=False)
class PlaceGraph:
    """Who lies beside whom: each voxel and its nearest ones, as `topobrain.stats.morans_i` needs it.

    Two voxels are neighbours if either is among the nearest of the other. Voxels at unknown places are not accepted.

    Parameters
    ----------
    places
        Coordinates (voxel, dimension), in mm.
    n_nearest
        Nearest voxels of each; 6, as a vertex of a mesh has.

    Examples
    --------
    >>> PlaceGraph(np.arange(5.0)[:, None], 1).neighbours().toarray().astype(int)[1].tolist()
    [1, 0, 1, 0, 0]
    """

    places: Float[np.ndarray, "voxel dimension"]
    n_nearest: int = 6

    def __post_init__(self) -> None:
        require_places(self.places)
        if not 1 <= self.n_nearest < len(self.places):
            raise InputError(
                f"{len(self.places)} voxels have 1 to {len(self.places) - 1} neighbours each, got {self.n_nearest}"
            )

    @property
    def n_units(self) -> int:
        """Number of voxels."""
        return len(self.places)

    def neighbours(self) -> Any:
        """Return the sparse binary symmetric adjacency (voxel, voxel)."""
        return self._adjacency

    @cached_property
    def _adjacency(self) -> Any:
        from scipy.sparse import csr_array

        n = len(self.places)
        nearest = nearest_by_coordinates(self.places, self.n_nearest + 1).units
        itself = nearest == np.arange(n)[:, None]
        itself[~itself.any(axis=1), -1] = True  # of voxels at one place another may come first: leave out the last
        other = nearest[~itself].reshape(n, self.n_nearest)
        ends = (np.repeat(np.arange(n), self.n_nearest), other.ravel())
        one_way = csr_array((np.ones(ends[0].size), ends), shape=(n, n))
        return csr_array((one_way + one_way.T) > 0).astype(np.float64)
