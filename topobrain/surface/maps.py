"""What lies on a cortical mesh: named sets of vertices, and maps of values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from topobrain._checks import InputError, listed, require_choice, unknown
from topobrain.surface.mesh import Surface
from topobrain.surface.spaces import HEMISPHERES, SPACES, other_space

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, eq=False)
class Parcels:
    """Named sets of vertices of one or both hemispheres.

    Parameters
    ----------
    name
        Of the parcellation.
    space
        The mesh they lie on (``"fsaverage5"``).
    labels
        Hemisphere -> label of each vertex (vertex,), 0 for none.
    names
        Label -> name.
    provenance
        Source, licence, citation.
    """

    name: str
    space: str
    labels: Mapping[str, Int[np.ndarray, " vertex"]]
    names: Mapping[int, str]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def mask(self, parcel: str, hemisphere: str = "left") -> Bool[np.ndarray, " vertex"]:
        """Return which vertices belong to a parcel."""
        self.on(hemisphere)
        number = next((label for label, name in self.names.items() if name == parcel), None)
        if number is None:
            raise unknown(f"parcel of {self.name!r}", parcel, self.names.values())
        return np.asarray(self.labels[hemisphere] == number)

    def on(self, hemisphere: str) -> Int[np.ndarray, " vertex"]:
        """Return the labels of a hemisphere."""
        if hemisphere not in self.labels:
            raise unknown(f"hemisphere of {self.name!r}", hemisphere, self.labels)
        return self.labels[hemisphere]

    def counts(self, hemisphere: str = "left") -> dict[str, int]:
        """Return name -> number of vertices."""
        labels = self.on(hemisphere)
        return {name: int((labels == label).sum()) for label, name in self.names.items()}


@dataclass(frozen=True, eq=False)
class CorticalMap:
    """Maps of one hemisphere, such as the t-values of a contrast, without a mesh.

    Parameters
    ----------
    name
        Of the contrast.
    values
        Name of a map -> its values (vertex,), NaN where there is none (the medial wall).
    space, hemisphere
        The mesh they lie on.
    p
        Name of a map -> its p-values (vertex,), where known.
    provenance
        Source, licence, citation.
    """

    name: str
    values: Mapping[str, Float[np.ndarray, " vertex"]]
    space: str
    hemisphere: str
    p: Mapping[str, Float[np.ndarray, " vertex"]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_choice("hemisphere", self.hemisphere, HEMISPHERES)
        shapes = {np.shape(array) for array in (*self.values.values(), *self.p.values())}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise InputError(f"the maps of {self.name!r} must all have one value a vertex, got shapes {listed(shapes)}")
        expected = SPACES.get(self.space)
        if expected is not None and self.n_vertices != expected:
            raise other_space(
                f"map {self.name!r} is said to lie on {self.space}", self.n_vertices, self.space, expected
            )

    @property
    def n_vertices(self) -> int:
        """Number of vertices, those without a value included."""
        return int(np.shape(next(iter(self.values.values())))[0])

    def require_surface(self, surface: Surface) -> None:
        """Raise unless the mesh is of this map's space and hemisphere."""
        if surface.n_vertices != self.n_vertices:
            raise other_space(f"map {self.name!r}", self.n_vertices, f"mesh {surface.name!r}", surface.n_vertices)
        if surface.hemisphere != self.hemisphere:
            raise InputError(f"map {self.name!r} is of the {self.hemisphere} hemisphere, {surface.name!r} of the other")

    def significant(self, name: str, *, q: float = 0.05) -> Bool[np.ndarray, " vertex"]:
        """Return where a map is significant at a false discovery rate of ``q`` (Benjamini and Hochberg over vertices)."""
        from topobrain.stats import fdr_bh

        if name not in self.p:
            raise unknown(f"map of {self.name!r} with p-values", name, self.p)
        p = np.asarray(self.p[name], dtype=np.float64)
        present = np.isfinite(p)
        found = np.zeros(p.shape, dtype=bool)
        found[present] = fdr_bh(p[present]) < q
        return found
