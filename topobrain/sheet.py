"""Sheet: where units sit. The only owner of geometry: positions, distances, neighbours, images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from topobrain._checks import InputError, require_choice

if TYPE_CHECKING:
    from jaxtyping import Float
    from scipy.sparse import csr_array

SmoothingEdges = Literal["normalised", "sum"]
"""What a smoothing kernel does where it hangs over the border: see `Sheet.smooth`."""

MAX_ASPECT = 2.0
"""Widest exact grid `Sheet.for_width` accepts (columns / rows) before it pads the grid with holes instead."""


def _sigma(fwhm: float) -> float:
    if fwhm < 0 or not math.isfinite(fwhm):
        raise InputError(f"fwhm must be a length of at least 0, got {fwhm}")
    return fwhm / math.sqrt(8 * math.log(2))


@dataclass(frozen=True, eq=False)
class Sheet:
    """The places of a layer's units on a two-dimensional sheet.

    A grid sheet puts unit ``u`` at row ``u // width``, column ``u % width``; cells from ``n_units`` on are holes.
    With ``places`` every unit sits in a cell of its own choice, and cells without a unit are holes.
    Build one with `Sheet.grid`, `Sheet.for_width` or `Sheet.none`, and move its units with `with_places`.

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
    places
        Cell of each unit, ``row * width + column``; None for row-major order. Places in that order become None, so
        that equal sheets are equal.

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
    places: tuple[int, ...] | None = None

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
        if self.places is not None:
            object.__setattr__(self, "places", self._checked_places(np.asarray(self.places)))

    def _checked_places(self, places: np.ndarray) -> tuple[int, ...] | None:
        self.require_layout("a place for each unit")
        if places.shape != (self.n_units,) or places.dtype.kind not in "iu":
            raise InputError(
                f"places are one whole number a unit, shape ({self.n_units},); got {places.dtype} of shape {places.shape}"
            )
        n_cells = self.height * self.width
        if places.min() < 0 or places.max() >= n_cells:
            raise InputError(
                f"places run from 0 to {n_cells - 1} on a grid of {self.height} x {self.width}; got "
                f"{int(places.min())} to {int(places.max())}"
            )
        taken = np.bincount(places, minlength=n_cells)
        if taken.max() > 1:
            cell = int(taken.argmax())
            raise InputError(f"two units cannot sit in one cell: cell {cell} is given {int(taken[cell])} times")
        return None if np.array_equal(places, np.arange(self.n_units)) else tuple(places.tolist())

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

    def with_places(self, places: np.ndarray | Sequence[int]) -> Sheet:
        """Return this sheet with every unit moved to a cell of its own (``row * width + column``), one value a unit.

        >>> Sheet.grid(1, 3).with_places([2, 0, 1]).to_image(np.array([1.0, 2.0, 3.0])).tolist()
        [[2.0, 3.0, 1.0]]
        """
        return replace(self, places=tuple(np.asarray(places).tolist()))

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
    def cells(self) -> np.ndarray:
        """Cell of each unit (unit,), ``row * width + column``."""
        self.require_layout("a cell")
        return np.arange(self.n_units) if self.places is None else np.array(self.places, dtype=np.int64)

    @cached_property
    def x(self) -> Float[np.ndarray, " unit"]:
        """Column position of each unit, in the unit of ``spacing``; NaN without a layout."""
        if not self.has_layout:
            return np.full(self.n_units, np.nan)
        return np.asarray(self.cells % self.width * self.spacing, dtype=float)

    @cached_property
    def y(self) -> Float[np.ndarray, " unit"]:
        """Row position of each unit (row 0 is drawn at the top), in the unit of ``spacing``; NaN without a layout."""
        if not self.has_layout:
            return np.full(self.n_units, np.nan)
        return np.asarray(self.cells // self.width * self.spacing, dtype=float)

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
        """Return the binary symmetric adjacency (unit, unit) as a sparse matrix, the same object at every call.

        ``queen`` joins the eight surrounding places, ``rook`` the four sharing an edge; a torus wraps, holes have
        no neighbours.
        """
        self.require_layout("a neighbourhood")
        require_choice("neighbourhood", kind, ("queen", "rook"))
        return self._queen if kind == "queen" else self._rook

    @cached_property
    def _queen(self) -> csr_array:
        return self._adjacency(((0, 1), (1, 0), (1, 1), (1, -1)))

    @cached_property
    def _rook(self) -> csr_array:
        return self._adjacency(((0, 1), (1, 0)))

    def _adjacency(self, steps: Sequence[tuple[int, int]]) -> csr_array:
        from scipy.sparse import coo_array

        row, column = self.cells // self.width, self.cells % self.width
        unit_at = np.full(self.height * self.width, -1)
        unit_at[self.cells] = np.arange(self.n_units)
        ends = []
        for down, right in steps:
            to_row, to_column = row + down, column + right
            if self.wrapped:
                to_row, to_column = to_row % self.height, to_column % self.width
            inside = np.flatnonzero((to_row < self.height) & (to_column >= 0) & (to_column < self.width))
            target = unit_at[to_row[inside] * self.width + to_column[inside]]
            # a torus one or two places wide would join a unit to itself, or twice to one neighbour
            joined = (target >= 0) & (target != inside)
            ends.append(np.stack([inside[joined], target[joined]]))
        pairs = np.concatenate(ends, axis=1)
        pairs = np.unique(np.concatenate([pairs, pairs[::-1]], axis=1), axis=1)
        shape = (self.n_units, self.n_units)
        return coo_array((np.ones(pairs.shape[1]), (pairs[0], pairs[1])), shape=shape).tocsr()

    def smoothing(self, fwhm: float) -> Float[np.ndarray, "unit unit"]:
        """Return the edge-normalised Gaussian smoothing matrix: every row sums to one. `smooth` applies it faster.

        ``fwhm`` is the kernel's full width at half maximum, in the unit of ``spacing``; 0 gives the identity.
        """
        sigma = _sigma(fwhm)
        if sigma == 0:
            return np.eye(self.n_units)
        kernel = np.exp(-(self.distances() ** 2) / (2 * sigma**2))
        normalised: np.ndarray = kernel / kernel.sum(axis=1, keepdims=True)
        return normalised

    def smooth(self, values: np.ndarray, fwhm: float, *, edges: SmoothingEdges = "normalised") -> np.ndarray:
        r"""Smooth values over the sheet with a Gaussian, whole arrays of maps at once.

        :math:`\tilde x_i = \sum_j g(d_{ij}) x_j / \sum_j g(d_{ij})` with :math:`g(d) = e^{-d^2 / 2\sigma^2}` and
        :math:`\sigma = \mathrm{fwhm} / \sqrt{8 \ln 2}`. Rows and columns are smoothed one after the other, so a sheet of
        n units costs :math:`O(n^{3/2})` a map.

        Parameters
        ----------
        values
            Values (..., unit). A value that is missing (NaN) or infinite is left out, as a hole is, and stays missing.
        fwhm
            Full width at half maximum of the kernel, in the unit of ``spacing``; 0 leaves the values as they are.
        edges
            ``"normalised"`` divides by the kernel's weight that falls on units; ``"sum"`` divides by
            :math:`2 \pi \sigma^2` (in squared grid steps) instead, so that values fade at the border and at holes: the
            read-out of TopoLM.

        Returns
        -------
        array (..., unit)
            float32 for float32 values, float64 for others.
        """
        require_choice("treatment of edges", edges, get_args(SmoothingEdges))
        self.require_layout("smoothing")
        sigma = _sigma(fwhm)
        given = np.asarray(values)
        given = given.astype(np.float32 if given.dtype == np.float32 else np.float64, copy=False)
        if given.ndim < 1 or given.shape[-1] != self.n_units:
            raise InputError(f"expected values (..., unit) for {self.n_units} units, got shape {given.shape}")
        if sigma == 0:
            return given.copy()
        there = np.isfinite(given)
        if not there.all():
            if edges == "sum":
                smoothed = self.smooth(np.where(there, given, 0), fwhm, edges="sum")
            else:  # the kernel's weight that falls on values, in the place of the one that falls on units
                weight = self.smooth(there.astype(given.dtype), fwhm)
                smoothed = self.smooth(np.where(there, given, 0), fwhm) / np.where(there, weight, 1)
            return np.where(there, smoothed, np.nan).astype(given.dtype)
        flat = given.reshape(-1, self.n_units)
        full = self.n_units == self.height * self.width
        if full and self.places is None:
            image = flat
        else:
            image = np.zeros((len(flat), self.height * self.width), dtype=given.dtype)
            image[:, self.cells] = flat
        rows, columns = (self._profile(n, sigma).astype(given.dtype) for n in (self.height, self.width))
        image = np.matmul(np.matmul(rows, image.reshape(-1, self.height, self.width)), columns).reshape(len(flat), -1)
        if edges == "sum":
            weight = np.full(self.height * self.width, 2 * math.pi * (sigma / self.spacing) ** 2)
        elif full:
            weight = np.outer(rows.sum(axis=1), columns.sum(axis=1)).ravel()
        else:
            taken = np.zeros(self.height * self.width)
            taken[self.cells] = 1.0
            weight = (rows @ taken.reshape(self.height, self.width) @ columns).ravel()
        if not (full and self.places is None):
            image, weight = image[:, self.cells], weight[self.cells]
        return np.asarray(image / weight.astype(given.dtype)).reshape(given.shape)

    def _profile(self, n: int, sigma: float) -> np.ndarray:
        """Return the kernel along one axis (place, place), not normalised."""
        gap = np.abs(np.arange(n)[:, None] - np.arange(n)[None, :]) * self.spacing
        if self.wrapped:
            gap = np.minimum(gap, n * self.spacing - gap)
        return np.asarray(np.exp(-(gap**2) / (2 * sigma**2)))

    def to_image(self, values: np.ndarray) -> Float[np.ndarray, "height width"]:
        """Return per-unit values as an image (height, width) with NaN in the holes."""
        self.require_layout("an image")
        values = np.asarray(values, dtype=float)
        if values.shape != (self.n_units,):
            raise InputError(f"expected one value a unit, shape ({self.n_units},), got {values.shape}")
        image = np.full(self.height * self.width, np.nan)
        image[self.cells] = values
        return image.reshape(self.height, self.width)

    def to_dict(self) -> dict[str, Any]:
        """Return the sheet as plain JSON values, for results and config files."""
        return {
            "n_units": self.n_units,
            "height": self.height,
            "width": self.width,
            "wrapped": self.wrapped,
            "spacing": self.spacing,
            **({} if self.places is None else {"places": list(self.places)}),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Sheet:
        """Rebuild a sheet from `to_dict`."""
        try:
            plain = {key: fields[key] for key in ("n_units", "height", "width", "wrapped", "spacing")}
            return cls(**plain, places=fields.get("places"))
        except KeyError as error:
            raise InputError(f"a sheet needs {error.args[0]!r}; got fields {sorted(fields)}") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sheet) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.n_units, self.height, self.width, self.wrapped, self.spacing, self.places))
