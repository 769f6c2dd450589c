"""Sheet: where units sit. The only owner of geometry: positions, distances, neighbours, images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from topobrain._checks import InputError, require_choice

if TYPE_CHECKING:
    from jaxtyping import Float
    from scipy.sparse import csr_array

MAX_ASPECT = 2.0
"""Widest exact grid `Sheet.for_width` accepts (columns / rows) before it pads the grid with holes instead."""


@dataclass(frozen=True, eq=False)
class Sheet:
    """The places of a layer's units on a two-dimensional sheet.

    A grid sheet puts unit ``u`` at row ``u // width``, column ``u % width``; cells from ``n_units`` on are holes.
    Build one with `Sheet.grid`, `Sheet.for_width` or `Sheet.none`.

    Parameters
    ----------
    n_units
        Number of units.
    height, width
        Rows and columns of the grid; both 0 for units without a layout.
    wrapped
        True for a torus: both axes close on themselves.
    spacing
        Distance between neighbouring units, in the caller's length unit (grid steps by default, or mm).

    Examples
    --------
    >>> sheet = Sheet.grid(4, 6, wrapped=True)
    >>> sheet.n_units, float(sheet.distances().max().round(3))
    (24, 3.606)
    """

    n_units: int
    height: int
    width: int
    wrapped: bool = False
    spacing: float = 1.0

    def __post_init__(self) -> None:
        if self.n_units < 1:
            raise InputError(f"a sheet needs at least one unit, got {self.n_units}")
        if self.spacing <= 0 or not math.isfinite(self.spacing):
            raise InputError(f"spacing must be a positive length, got {self.spacing}")
        if self.has_layout and not self.n_units <= self.height * self.width:
            raise InputError(
                f"{self.n_units} units do not fit a grid of {self.height} x {self.width} = {self.height * self.width} "
                f"places; Sheet.for_width({self.n_units}) finds a grid that fits"
            )
        if self.wrapped and self.n_units != self.height * self.width:
            raise InputError("a wrapped sheet (torus) cannot have holes: give height x width = n_units")

    @classmethod
    def grid(cls, height: int, width: int, *, wrapped: bool = False, spacing: float = 1.0) -> Sheet:
        """Return a full ``height`` x ``width`` grid."""
        if height < 1 or width < 1:
            raise InputError(f"a grid needs at least one row and one column, got {height} x {width}")
        return cls(height * width, height, width, wrapped, spacing)

    @classmethod
    def for_width(cls, n_units: int, *, spacing: float = 1.0) -> Sheet:
        """Return the most square grid for any number of units.

        The most square exact factorisation is used while it is at most twice as wide as high; other counts
        (primes among them) get the smallest nearly square grid with holes at its end, never 1 x n.

        >>> [(s.height, s.width) for s in map(Sheet.for_width, (784, 768, 3072, 11))]
        [(28, 28), (24, 32), (48, 64), (3, 4)]
        """
        if n_units < 1:
            raise InputError(f"a sheet needs at least one unit, got {n_units}")
        root = math.isqrt(n_units)
        height = next(h for h in range(root, 0, -1) if n_units % h == 0)
        if n_units // height > MAX_ASPECT * height:
            height = max(root, 2)
        return cls(n_units, height, -(-n_units // height), False, spacing)

    @classmethod
    def none(cls, n_units: int) -> Sheet:
        """Return a sheet for units without a layout: spatial statistics refuse it."""
        return cls(n_units, 0, 0)

    @property
    def has_layout(self) -> bool:
        """Whether the units have places."""
        return self.height > 0 and self.width > 0

    def require_layout(self, purpose: str) -> None:
        """Raise unless the units have places; ``purpose`` names what needed them."""
        if not self.has_layout:
            raise InputError(
                f"{purpose} needs a layout, but these {self.n_units} units have none (Sheet.none). "
                f"Give the layer a sheet, for instance Sheet.for_width({self.n_units})."
            )

    @cached_property
    def x(self) -> Float[np.ndarray, " unit"]:
        """Column position of each unit, in the unit of ``spacing``; NaN without a layout."""
        if not self.has_layout:
            return np.full(self.n_units, np.nan)
        return np.asarray(np.arange(self.n_units) % self.width * self.spacing, dtype=float)

    @cached_property
    def y(self) -> Float[np.ndarray, " unit"]:
        """Row position of each unit (row 0 is drawn at the top), in the unit of ``spacing``; NaN without a layout."""
        if not self.has_layout:
            return np.full(self.n_units, np.nan)
        return np.asarray(np.arange(self.n_units) // self.width * self.spacing, dtype=float)

    def distances(self) -> Float[np.ndarray, "unit unit"]:
        """Return Euclidean distances between all units, the short way round on a torus. Unit of ``spacing``."""
        self.require_layout("a distance")
        gap_x = np.abs(self.x[:, None] - self.x[None, :])
        gap_y = np.abs(self.y[:, None] - self.y[None, :])
        if self.wrapped:
            gap_x = np.minimum(gap_x, self.width * self.spacing - gap_x)
            gap_y = np.minimum(gap_y, self.height * self.spacing - gap_y)
        return np.asarray(np.hypot(gap_x, gap_y))

    def neighbours(self, kind: Literal["queen", "rook"] = "queen") -> csr_array:
        """Return the binary symmetric adjacency (unit, unit) as a sparse matrix.

        ``queen`` joins the eight surrounding places, ``rook`` the four sharing an edge; a torus wraps, holes have
        no neighbours.
        """
        from scipy.sparse import coo_array

        self.require_layout("a neighbourhood")
        require_choice("neighbourhood", kind, ("queen", "rook"))
        steps = [(0, 1), (1, 0)] + ([(1, 1), (1, -1)] if kind == "queen" else [])
        unit = np.arange(self.n_units)
        row, column = unit // self.width, unit % self.width
        pairs: set[tuple[int, int]] = set()
        for down, right in steps:
            to_row, to_column = row + down, column + right
            if self.wrapped:
                to_row, to_column = to_row % self.height, to_column % self.width
            target = to_row * self.width + to_column
            inside = (to_row < self.height) & (to_column >= 0) & (to_column < self.width) & (target < self.n_units)
            for a, b in zip(unit[inside].tolist(), target[inside].tolist(), strict=True):
                if a != b:  # a torus one or two places wide would join a unit to itself, or twice to one neighbour
                    pairs.update(((a, b), (b, a)))
        ends = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
        ones = np.ones(len(ends))
        return coo_array((ones, (ends[:, 0], ends[:, 1])), shape=(self.n_units, self.n_units)).tocsr()

    def smoothing(self, fwhm: float) -> Float[np.ndarray, "unit unit"]:
        """Return the edge-normalised Gaussian smoothing matrix: every row sums to one.

        ``fwhm`` is the kernel's full width at half maximum, in the unit of ``spacing``; 0 gives the identity.
        """
        if fwhm < 0 or not math.isfinite(fwhm):
            raise InputError(f"fwhm must be a length of at least 0, got {fwhm}")
        if fwhm == 0:
            return np.eye(self.n_units)
        sigma = fwhm / math.sqrt(8 * math.log(2))
        kernel = np.exp(-(self.distances() ** 2) / (2 * sigma**2))
        normalised: np.ndarray = kernel / kernel.sum(axis=1, keepdims=True)
        return normalised

    def to_image(self, values: np.ndarray) -> Float[np.ndarray, "height width"]:
        """Return per-unit values as an image (height, width) with NaN in the holes."""
        self.require_layout("an image")
        values = np.asarray(values, dtype=float)
        if values.shape != (self.n_units,):
            raise InputError(f"expected one value a unit, shape ({self.n_units},), got {values.shape}")
        image = np.full(self.height * self.width, np.nan)
        image[: self.n_units] = values
        return image.reshape(self.height, self.width)

    def to_dict(self) -> dict[str, Any]:
        """Return the sheet as plain JSON values, for results and config files."""
        return {
            "n_units": self.n_units,
            "height": self.height,
            "width": self.width,
            "wrapped": self.wrapped,
            "spacing": self.spacing,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Sheet:
        """Rebuild a sheet from `to_dict`."""
        try:
            return cls(**{key: fields[key] for key in ("n_units", "height", "width", "wrapped", "spacing")})
        except KeyError as error:
            raise InputError(f"a sheet needs {error.args[0]!r}; got fields {sorted(fields)}") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sheet) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(tuple(self.to_dict().values()))
