"""What spatial statistics need to know about the places of units; this floor lies below sheets and surfaces."""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Neighbourhood(Protocol):
    """Who neighbours whom: all that Moran's I and clusters need. A sheet and a cortical mesh both have it."""

    @property
    def n_units(self) -> int:
        """Number of units."""
        ...

    def neighbours(self) -> Any:
        """Return the sparse binary symmetric adjacency (unit, unit)."""
        ...


@runtime_checkable
class Layout(Protocol):
    """A grid of places, open or closed to a torus: what measures of distance and of shifts need of a sheet."""

    @property
    def n_units(self) -> int:
        """Number of units."""
        ...

    @property
    def height(self) -> int:
        """Rows of the grid."""
        ...

    @property
    def width(self) -> int:
        """Columns of the grid."""
        ...

    @property
    def spacing(self) -> float:
        """Distance between neighbouring units."""
        ...

    @property
    def wrapped(self) -> bool:
        """Whether both axes close on themselves."""
        ...

    def distances(self) -> np.ndarray:
        """Return distances between all units (unit, unit)."""
        ...

    def neighbours(self, kind: Literal["queen", "rook"] = "queen") -> Any:
        """Return the sparse binary symmetric adjacency (unit, unit)."""
        ...

    def to_image(self, values: np.ndarray) -> np.ndarray:
        """Return one value a unit as an image (height, width), NaN in places without a unit."""
        ...
