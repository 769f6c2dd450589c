"""Pools: which units of a sheet are averaged together, and with what weights."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from topobrain._checks import InputError, require_choice
from topobrain.sheet import Sheet

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

PoolKind = Literal["disc", "gaussian", "learned"]
POOL_KINDS = ("disc", "gaussian", "learned")

MAX_FRACTION = 2 * math.pi
"""Largest area fraction that means anything: its radius, the square root of 2 sides, reaches across any square sheet."""


def nearest_square(n: int) -> int:
    """Return the square number nearest to ``n`` (the smaller of two equally near).

    >>> nearest_square(768), nearest_square(2)
    (784, 1)
    """
    side = math.isqrt(n)
    return max(1, side**2 if n - side**2 <= (side + 1) ** 2 - n else (side + 1) ** 2)


def is_square(n: int) -> bool:
    """Whether ``n`` units fill a square sheet."""
    return n > 0 and math.isqrt(n) ** 2 == n


def require_units(d: int) -> None:
    """Raise unless ``d`` can be a number of units."""
    if isinstance(d, bool) or not isinstance(d, int | np.integer) or d < 1:
        raise InputError(f"the number of units is a whole number of at least 1, got {d!r}")


def same_recipe(own: Tensor, given: Tensor | None, name: str, recipe: str, errors: list[str]) -> None:
    """Add to torch's list of loading errors if a state dict brings another pool than the layer's recipe says."""
    if given is None or own.is_meta or given.is_meta or own.shape != given.shape:
        return  # torch tells of missing tensors and other shapes
    if float((own.cpu().double() - given.cpu().double()).abs().max()) > 1e-3 * float(own.abs().max()):
        errors.append(f"{name} is of another recipe than this layer's ({recipe}): the weights belong to another model")


def square_sheet(d: int, *, wrapped: bool = True) -> Sheet:
    """Return the square sheet of ``d`` units that queries, keys, values and the output share: a torus unless told."""
    require_units(d)
    if not is_square(d):
        raise InputError(
            f"a topographic attention layer needs a square number of units, got {d}; nearest: {nearest_square(d)}"
        )
    return Sheet.grid(math.isqrt(d), math.isqrt(d), wrapped=wrapped)


def square_torus(d: int) -> Sheet:
    """Return the wrapped square sheet of ``d`` units."""
    return square_sheet(d)


def disc_radius(fraction: float) -> float:
    r"""Return the radius, in sides of the sheet, of the disc that covers an area ``fraction`` of it.

    :math:`r = \sqrt{f / \pi}`. The published settings are fractions. Whoever reads them as radii gets 0.3 almost right
    (r = 0.309), but with 0.1 for r = 0.178 takes less than a third of the units that are meant.

    Raises
    ------
    InputError
        A fraction that is no number, not above 0, or above ``2 pi`` (no sheet is that large: most likely a radius in
        grid steps or a number of units). From ``pi / 2`` on a disc covers the whole torus, from ``2 pi`` on the whole
        open sheet; both are allowed.

    Examples
    --------
    >>> [round(disc_radius(f), 3) for f in (0.1, 0.3)]
    [0.178, 0.309]
    """
    if isinstance(fraction, bool | str) or not isinstance(fraction, int | float | np.floating | np.integer):
        raise InputError(f"fraction is a number, the disc's share of the sheet's area; got {fraction!r}")
    if not 0 < fraction <= MAX_FRACTION * (1 + 1e-9):
        raise InputError(
            "fraction is the disc's share of the sheet's area: above 0 and at most 2 pi (pi / 2 covers a torus); got "
            f"{fraction}. The radius in sides is sqrt(fraction / pi)"
        )
    return math.sqrt(fraction / math.pi)


def disc(sheet: Sheet, fraction: float) -> Float[np.ndarray, "unit unit"]:
    """Return the 0/1 disc mask (unit, unit): pairs no further apart than ``sqrt(fraction / pi)`` sides of the sheet.

    ``fraction`` is an *area* (share of the unit square), not a radius (see `disc_radius`). The diagonal is always 1.
    On a torus every unit has the same number of neighbours; on an open sheet discs are cut off at the border.
    """
    return kernel_on("disc", sheet, float(fraction)).astype(np.float32)


def gaussian(sheet: Sheet, fraction: float) -> Float[np.ndarray, "unit unit"]:
    r"""Return the Gaussian kernel (unit, unit) as wide as the disc of the same ``fraction``, 1 at distance 0.

    :math:`K_{ij} = \exp(-D_{ij}^2 / 2\sigma^2)` with :math:`\sigma = r / 2`: along each axis a uniform disc of radius r
    has the variance :math:`r^2 / 4`, so both spread a query equally far. On a torus the kernel is summed over all ways
    round. Cutting it off at half the sheet instead would break what it is here for: all its eigenvalues are positive
    (zero within rounding, where it is wide), whereas half of a disc's are negative, because a disc rings in Fourier
    space. The price: a smooth kernel damps fine detail to nothing, a disc stays invertible.
    """
    return kernel_on("gaussian", sheet, float(fraction)).copy()


# The layers of a deep model share one kernel, which takes longer to make than all their weights.
@functools.lru_cache(maxsize=4)
def kernel_on(kind: Literal["disc", "gaussian"], sheet: Sheet, fraction: float) -> Float[np.ndarray, "unit unit"]:
    """Return the kernel of `disc` or `gaussian`, read-only."""
    side = sheet.width * sheet.spacing
    radius = disc_radius(fraction) * side
    if kind == "disc":
        kernel = np.asarray(sheet.distances() <= radius + 1e-9 * side, dtype=float)
    else:
        kernel = np.ones((sheet.n_units, sheet.n_units))
        for place, n_places in ((sheet.x, sheet.width), (sheet.y, sheet.height)):
            period = n_places * sheet.spacing if sheet.wrapped else None
            kernel *= _bell(place[:, None] - place[None, :], radius / 2, period)
        kernel /= kernel.max()
    kernel.flags.writeable = False
    return kernel


def _bell(gap: np.ndarray, sigma: float, period: float | None) -> np.ndarray:
    """Return a normal curve of gaps along one axis, summed over all ways round an axis that closes on itself."""
    turns = 0 if period is None else math.ceil(9 * sigma / period) + 1
    ways = np.arange(-turns, turns + 1) * (period or 0.0)
    return np.asarray(sum(np.exp(-((gap + way) ** 2) / (2 * sigma**2)) for way in ways))


def normalised_pool(kind: PoolKind, sheet: Sheet, fraction: float) -> Float[np.ndarray, "unit unit"]:
    """Return a pool divided by its Frobenius norm, float32 (a learned pool starts as a disc)."""
    require_choice("pool", kind, POOL_KINDS)
    kernel = kernel_on("gaussian" if kind == "gaussian" else "disc", sheet, float(fraction))
    return np.asarray(kernel / np.linalg.norm(kernel), dtype=np.float32)
