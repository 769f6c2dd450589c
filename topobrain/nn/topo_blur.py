"""Blur operators on a sheet: what a unit's weights are compared with in the topographic weight loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topobrain._checks import InputError, require_choice
from topobrain.sheet import Sheet

INTERPOLATIONS = ("bilinear", "nearest", "nearest-exact", "area", "bicubic")
BLURS = ("anchor", "gaussian")
FWHM_TO_SIGMA = 1 / math.sqrt(8 * math.log(2))
MIN_MASS = 1e-6
"""A unit whose kernel meets less than this share of existing units has nothing to be compared with."""


def topo_sheet(n_units: int) -> Sheet:
    """Return the sheet a layer's units have in the topographic weight loss when none is given.

    The most square exact grid, row-major, as the reference lays units out; counts without one (primes), which would
    be a line of 1 x n, get the padded grid of `Sheet.for_width`.

    >>> [(s.height, s.width) for s in map(topo_sheet, (10, 768, 3072, 50257, 11))]
    [(2, 5), (24, 32), (48, 64), (29, 1733), (3, 4)]
    """
    if n_units < 1:
        raise InputError(f"a sheet needs at least one unit, got {n_units}")
    height = next(h for h in range(math.isqrt(n_units), 0, -1) if n_units % h == 0)
    return Sheet.grid(height, n_units // height) if height > 1 else Sheet.for_width(n_units)


def pair(value: object, what: str) -> tuple[float, float]:
    """Return one number or a (down the sheet, across the sheet) pair as two finite floats."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    try:
        if any(isinstance(number, str) for number in values):
            raise TypeError
        first, second = (float(number) for number in values)
    except (TypeError, ValueError):
        raise InputError(f"{what} is one number or a pair (down, across the sheet), got {value!r}") from None
    if not (math.isfinite(first) and math.isfinite(second)):
        raise InputError(f"{what} must be finite, got {value!r}")
    return first, second


def check_recipe(factor: object, interpolation: str, blur: str, fwhm: object) -> None:
    """Raise unless factor, interpolation, blur and fwhm make sense on some sheet."""
    require_choice("interpolation", interpolation, INTERPOLATIONS)
    require_choice("blur", blur, BLURS)
    factors = pair(factor, "factor")
    if min(factors) < 1:
        raise InputError(
            f"a factor is the pitch of the blur in units, at least 1 (1 leaves the sheet as it is), got {factor}"
        )
    if fwhm is None:
        return
    if blur != "gaussian":
        raise InputError(f"fwhm is the width of the Gaussian blur: give blur='gaussian' with it, got blur={blur!r}")
    if min(pair(fwhm, "fwhm")) <= 0:
        raise InputError(f"fwhm is a width in grid steps, above 0, got {fwhm}")


@lru_cache(maxsize=256)
def anchor_axis(n: int, factor: float, interpolation: str = "bilinear") -> tuple[np.ndarray, np.ndarray]:
    """Return the two resizes of one axis as matrices: down (cell, unit) and up (unit, cell), in float64.

    Down by ``factor``, up by the true ratio of ``n`` to the number of cells, no corner alignment, no antialias: a
    cell of the bilinear blur reads at most two units whatever the factor (an odd whole factor copies one).

    >>> down, up = anchor_axis(9, 3.0)
    >>> down.argmax(axis=1).tolist(), (up @ down)[3, [1, 4]].round(3).tolist()
    ([1, 4, 7], [0.333, 0.667])
    """
    resize = torch.nn.functional.interpolate
    # interpolating the columns of an identity gives the matrix itself, exactly, for every mode
    with torch.inference_mode(False), torch.no_grad():
        eye = torch.eye(n, dtype=torch.float64, device="cpu")[None, :, :, None]
        # 1 / factor can round so that the last cell of a sheet is lost; one cell is the least there can be
        size = {"scale_factor": (1 / factor, 1.0)} if math.floor(n * (1 / factor)) else {"size": (1, 1)}
        down = resize(eye.transpose(1, 2), **size, mode=interpolation)[0, :, :, 0]
        cells = torch.eye(down.shape[1], dtype=torch.float64, device="cpu")[None, :, :, None]
        up = resize(cells, size=(n, 1), mode=interpolation)[0, :, :, 0]
        return down.T.contiguous().numpy(), up.T.contiguous().numpy()


@lru_cache(maxsize=256)
def gaussian_axis(n: int, fwhm: float, wrapped: bool) -> np.ndarray:
    """Return the Gaussian low-pass of one axis (unit, unit) in float64; rows sum to one.

    Distances go the short way round on a torus; on an open sheet the kernel is renormalised at the edges, so that a
    constant stays constant. The product of both axes equals `Sheet.smoothing`.
    """
    gap = np.abs(np.arange(n)[:, None] - np.arange(n)[None, :]).astype(float)
    gap = np.minimum(gap, n - gap) if wrapped else gap
    kernel = np.exp(-(gap**2) / (2 * (fwhm * FWHM_TO_SIGMA) ** 2))
    return np.asarray(kernel / kernel.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class BlurRecipe:
    """Everything that fixes a blur: grid, places of the units, kernel. Hashable, so that operators are built once.

    ``cells`` holds the cell of each unit, or None where unit u is in cell u and no cell is empty.
    """

    height: int
    width: int
    cells: tuple[int, ...] | None
    wrapped: bool
    kernel: str
    size: tuple[float, float]

    @classmethod
    def of(cls, sheet: Sheet, factor: object, interpolation: str, blur: str, fwhm: object) -> BlurRecipe:
        """Check the arguments of a loss against its sheet and return the recipe."""
        check_recipe(factor, interpolation, blur, fwhm)
        sheet.require_layout("a topographic weight loss")
        filled = sheet.places is None and sheet.n_units == sheet.height * sheet.width
        cells = None if filled else tuple(sheet.cells.tolist())
        if blur == "gaussian":
            size = pair(factor if fwhm is None else fwhm, "fwhm")
            return cls(sheet.height, sheet.width, cells, sheet.wrapped, blur, size)
        size = pair(factor, "factor")
        for axis, value, length in zip(("height", "width"), size, (sheet.height, sheet.width), strict=True):
            if value > length:
                raise InputError(
                    f"factor {value:g} exceeds the sheet's {axis}: {sheet.n_units} units lie on {sheet.height} x "
                    f"{sheet.width}; the largest factors are ({sheet.height}, {sheet.width}) for (down, across)"
                )
        return cls(sheet.height, sheet.width, cells, False, interpolation, size)  # anchors never wrap

    def axes(self) -> list[tuple[np.ndarray | None, np.ndarray]]:
        """Return (down or None, up) for the sheet's rows and columns, in float64."""
        lengths = (self.height, self.width)
        if self.kernel == "gaussian":
            return [(None, gaussian_axis(n, w, self.wrapped)) for n, w in zip(lengths, self.size, strict=True)]
        return [anchor_axis(n, f, self.kernel) for n, f in zip(lengths, self.size, strict=True)]

    def mass(self) -> np.ndarray:
        """Return how much of each cell's kernel (height, width) falls on existing units; 1 without holes."""
        exists = np.zeros(self.height * self.width)
        exists[slice(None) if self.cells is None else list(self.cells)] = 1
        rows, columns = (up if down is None else up @ down for down, up in self.axes())
        return np.asarray(rows @ exists.reshape(self.height, self.width) @ columns.T)


class Blur:
    """A blur b = B w of unit vectors w (unit, anything), its parts on one device in one precision.

    B = U D acts along rows and columns separately: D reads the low-resolution cells from a few anchor units, U
    spreads them over the sheet. Where cells are empty, the kernel is renormalised over existing units.

    Parameters
    ----------
    recipe
        The grid, the places of the units and the kernel.
    device, dtype
        Where, and in which precision.
    """

    def __init__(self, recipe: BlurRecipe, device: torch.device, dtype: torch.dtype) -> None:
        def tensor(values: Any, kind: torch.dtype = dtype) -> Tensor:
            return torch.as_tensor(np.ascontiguousarray(values), dtype=kind, device="cpu").to(device)

        self.height, self.width = recipe.height, recipe.width
        self.cells = None if recipe.cells is None else tensor(recipe.cells, torch.int64)
        (down_h, up_h), (down_w, up_w) = recipe.axes()
        self.up_h, self.up_w = tensor(up_h), tensor(up_w)
        self.down_h = self.down_w = self.anchors = None
        if down_h is not None and down_w is not None:
            # most units are never read: gather the anchors and forget the empty columns of D
            read_h, read_w = np.flatnonzero(down_h.any(axis=0)), np.flatnonzero(down_w.any(axis=0))
            self.down_h, self.down_w = tensor(down_h[:, read_h]), tensor(down_w[:, read_w])
            if len(read_h) * len(read_w) < self.height * self.width:
                self.anchors = tensor((read_h[:, None] * self.width + read_w).ravel(), torch.int64)
        mass = recipe.mass()
        exists = np.zeros(self.height * self.width, dtype=bool)
        exists[slice(None) if recipe.cells is None else list(recipe.cells)] = True
        counted = exists.reshape(mass.shape) & (np.abs(mass) > MIN_MASS)
        self.n_counted = int(counted.sum())
        if not self.n_counted:
            raise InputError(
                f"no unit of this sheet ({recipe.height} x {recipe.width}, {int(exists.sum())} units) has an existing "
                f"unit inside its kernel: take a smaller factor than {recipe.size} or blur='gaussian'"
            )
        share = np.divide(1.0, mass, out=np.zeros_like(mass), where=counted)
        self.renormalise = None if recipe.cells is None else tensor(share)
        # a cosine sees only the sign of the renormalisation, and whether a unit takes part at all
        self.sign = None if recipe.cells is None else tensor(np.sign(share))

    def to_grid(self, rows: Tensor) -> Tensor:
        """Return unit vectors (unit, e) in their cells (height, width, e), zeros in the holes."""
        if self.cells is None:
            return rows.contiguous().view(self.height, self.width, -1)
        grid = rows.new_zeros(self.height * self.width, rows.shape[1])
        return grid.index_copy(0, self.cells, rows).view(self.height, self.width, -1)

    def to_units(self, grid: Tensor) -> Tensor:
        """Return the vectors of the units (unit, e) from cells (height, width, e)."""
        flat = grid.reshape(self.height * self.width, -1)
        return flat if self.cells is None else flat.index_select(0, self.cells)

    def gather(self, grid: Tensor) -> Tensor:
        """Return D w for one value a cell and entry: low-resolution cells (cell row, cell column, e)."""
        if self.down_h is None or self.down_w is None:
            return grid
        n_entries = grid.shape[2]
        read = grid if self.anchors is None else grid.view(-1, n_entries).index_select(0, self.anchors)
        rows = self.down_h @ read.reshape(self.down_h.shape[1], -1)
        return torch.bmm(stacked(self.down_w, len(rows)), rows.view(len(rows), -1, n_entries))

    def scatter_add(self, grid: Tensor, low: Tensor) -> None:
        """Add D' g to a grid (height, width, e) in place, g (cell row, cell column, e)."""
        if self.down_h is None or self.down_w is None:
            grid += low
            return
        n_entries = grid.shape[2]
        rows = (self.down_h.T @ low.reshape(len(low), -1)).view(self.down_h.shape[1], -1, n_entries)
        back = stacked(self.down_w.T, len(rows))
        if self.anchors is None:
            grid.baddbmm_(back, rows)
        else:
            grid.view(-1, n_entries).index_add_(0, self.anchors, torch.bmm(back, rows).view(-1, n_entries))

    def spread_rows(self, low: Tensor) -> Tensor:
        """Return cells spread down the sheet: (cell row, cell column, e) to (height, cell column, e)."""
        return (self.up_h @ low.reshape(len(low), -1)).view(self.height, -1, low.shape[2])

    def spread_columns(self, rows: Tensor) -> Tensor:
        """Return rows of cells spread across the sheet: (row, cell column, e) to (row, width, e)."""
        return torch.bmm(stacked(self.up_w, len(rows)), rows)

    def __call__(self, grid: Tensor) -> Tensor:
        """Return the blurred sheet (height, width, e), before any renormalisation at holes."""
        return self.spread_columns(self.spread_rows(self.gather(grid)))


def stacked(matrix: Tensor, n: int) -> Tensor:
    """Return a matrix as a batch of n, without copying it."""
    return matrix.expand(n, *matrix.shape)


@lru_cache(maxsize=128)
def blur_on(recipe: BlurRecipe, device: torch.device, dtype: torch.dtype) -> Blur:
    """Return the operator of a recipe; built once a recipe, device and precision."""
    with torch.inference_mode(False), torch.no_grad():  # a tensor born in inference mode could never train later
        return Blur(recipe, device, dtype)


def blur_matrix(
    sheet: Sheet,
    factor: float | tuple[float, float],
    interpolation: str = "bilinear",
    *,
    blur: str = "anchor",
    fwhm: float | tuple[float, float] | None = None,
) -> np.ndarray:
    """Return the blur of `topo_loss` as one dense matrix (unit, unit) in float64: to look at, to test, to draw.

    Rows sum to one, at the sheet's edges and beside holes too.

    >>> blur_matrix(Sheet.grid(1, 8), (1, 3))[0].tolist()
    [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    recipe = BlurRecipe.of(sheet, factor, interpolation, blur, fwhm)
    rows, columns = (up if down is None else up @ down for down, up in recipe.axes())
    dense = np.kron(rows, columns)[np.ix_(sheet.cells, sheet.cells)]
    mass = recipe.mass().ravel()[sheet.cells][:, None]
    return np.asarray(np.divide(dense, mass, out=np.zeros_like(dense), where=np.abs(mass) > MIN_MASS))
