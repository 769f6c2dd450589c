"""Surface: where the vertices of a cortical mesh lie."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from topobrain._checks import InputError, require_choice
from topobrain.surface.files import read_freesurfer, read_gifti
from topobrain.surface.spaces import HEMISPHERES, other_space, space_of

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from scipy.sparse import csr_array

    from topobrain.stats.surface_nulls import NearestUnits

MAX_DENSE = 5000
"""Most vertices `Surface.distances` works for: the full matrix of 10,242 vertices would take 840 MB and minutes."""

_BATCH = 256  # sources whose distances to all vertices are held at once


@dataclass(frozen=True, eq=False)
class Surface:
    """One hemisphere's cortical mesh: a sheet whose units are vertices.

    It has what spatial statistics need of a layout: `n_units`, `neighbours`, and for small meshes `distances`. All
    distances run along the edges of the mesh (never through a sulcus); the zigzag of edges makes them about 7 % longer
    than the shortest way over the triangles, 24 % at most on an icosphere.

    Parameters
    ----------
    name
        What the mesh is called, for titles and errors.
    coordinates
        Places of the vertices (vertex, 3), in mm; x to the right, y to the front, z up.
    faces
        Triangles (face, 3) of vertex numbers from 0.
    sphere
        The same vertices on a sphere about the origin (vertex, 3), for spins; None if not known.
    hemisphere
        ``"left"`` or ``"right"``.
    medial_wall
        True (vertex,) where there is no cortex; None if not known.
    allow_isolated
        Accept vertices that belong to no triangle. They have no neighbours, lie infinitely far from all others and
        are never smoothed; a mesh read from a file with such vertices is usually damaged, so they are refused unless
        allowed. `restricted` allows them.

    Examples
    --------
    >>> ball = Surface.icosphere(2)
    >>> ball.n_units, int(ball.neighbours().sum()) // 2
    (162, 480)
    """

    name: str
    coordinates: Float[np.ndarray, "vertex 3"]
    faces: Int[np.ndarray, "face 3"]
    sphere: Float[np.ndarray, "vertex 3"] | None = None
    hemisphere: str = "left"
    medial_wall: Bool[np.ndarray, " vertex"] | None = None
    allow_isolated: bool = False

    def __post_init__(self) -> None:
        require_choice("hemisphere", self.hemisphere, HEMISPHERES)
        places = self._places("coordinates", self.coordinates)
        object.__setattr__(self, "coordinates", places)
        object.__setattr__(self, "faces", self._checked_faces(np.asarray(self.faces), len(places)))
        if self.sphere is not None:
            object.__setattr__(self, "sphere", self._places("sphere", self.sphere))
            if len(self.sphere) != len(places):
                raise other_space(f"the sphere of {self.name!r}", len(self.sphere), "the mesh", len(places))
        if self.medial_wall is not None:
            object.__setattr__(self, "medial_wall", _read_only(self.mask("medial_wall", self.medial_wall)))
        n_isolated = len(places) - np.unique(self.faces).size
        if n_isolated and not self.allow_isolated:
            first = int(np.setdiff1d(np.arange(len(places)), self.faces)[0])
            raise InputError(
                f"mesh {self.name!r}: {n_isolated} of {len(places)} vertices belong to no triangle (the first is {first}). "
                "Are the faces numbered from 0, and of this mesh? If such vertices are meant, allow_isolated=True"
            )

    def _places(self, what: str, given: Any) -> np.ndarray:
        places = np.array(given, dtype=np.float64)
        if places.ndim != 2 or places.shape[1] != 3 or len(places) < 3:
            raise InputError(f"{what} of mesh {self.name!r} have shape {places.shape}, expected (vertex, 3), in mm")
        if not np.isfinite(places).all():
            bad = int(np.flatnonzero(~np.isfinite(places).all(axis=1))[0])
            raise InputError(f"{what} of mesh {self.name!r} are not finite, first at vertex {bad}")
        return _read_only(places)

    def _checked_faces(self, faces: np.ndarray, n: int) -> np.ndarray:
        if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu" or not len(faces):
            raise InputError(
                f"faces of mesh {self.name!r} are {faces.dtype} of shape {faces.shape}, expected whole numbers (face, 3)"
            )
        if faces.min() < 0 or faces.max() >= n:
            raise InputError(
                f"faces of mesh {self.name!r} name vertices {int(faces.min())} to {int(faces.max())}, but its {n:,} "
                f"vertices ({space_of(n)}) run from 0 to {n - 1}"
            )
        repeated = (faces == np.roll(faces, 1, axis=1)).any(axis=1)
        if repeated.any():
            raise InputError(f"face {int(repeated.argmax())} of mesh {self.name!r} names one vertex twice")
        return _read_only(faces.astype(np.int64))

    @classmethod
    def icosphere(cls, subdivisions: int = 3, *, radius: float = 100.0) -> Surface:
        """Return a sphere of ``10 * 4 ** subdivisions + 2`` vertices: a cortex without folds, for tests and examples.

        As on fsaverage the meshes nest: the first vertices of a finer sphere are the coarser one.
        """
        if not 0 <= subdivisions <= 7 or not (radius > 0 and math.isfinite(radius)):
            raise InputError(f"a sphere takes 0 to 7 subdivisions and a radius in mm, got {subdivisions} and {radius}")
        golden = (1 + math.sqrt(5)) / 2
        corners = [(0.0, s, t * golden) for s in (-1, 1) for t in (-1, 1)]
        places = np.array([np.roll(corner, turn) for turn in range(3) for corner in corners])
        gaps = np.linalg.norm(places[:, None] - places[None], axis=2)
        near = np.abs(gaps - 2) < 1e-9  # an icosahedron of edge 2
        faces = np.array(
            [(a, b, c) for a in range(12) for b in range(a + 1, 12) for c in range(b + 1, 12)
             if near[a, b] and near[b, c] and near[a, c]]
        )  # fmt: skip
        outward = np.einsum("fi,fi->f", np.cross(places[faces[:, 0]], places[faces[:, 1]]), places[faces[:, 2]]) > 0
        faces = np.where(outward[:, None], faces, faces[:, ::-1])
        for _ in range(subdivisions):
            places, faces = _subdivided(places, faces)
        places = radius * places / np.linalg.norm(places, axis=1, keepdims=True)
        return cls(f"icosphere-{subdivisions}", places, faces, sphere=places)

    @classmethod
    def from_gifti(cls, path: str | os.PathLike[str], *, name: str | None = None, hemisphere: str | None = None,
                   sphere: str | os.PathLike[str] | None = None) -> Surface:  # fmt: skip
        """Read a mesh from a GIFTI file (``.surf.gii``, also compressed).

        Parameters
        ----------
        path
            The file.
        name
            Name of the mesh; by default that of the file.
        hemisphere
            ``"left"`` or ``"right"``; by default what the file says.
        sphere
            GIFTI file of the sphere of the same mesh, for spins.

        Raises
        ------
        DataFileError
            The file is missing or no GIFTI mesh.
        InputError
            The file does not say which hemisphere it is and ``hemisphere`` was not given, or the mesh is not valid.
        """
        places, faces, said = read_gifti(Path(path))
        if hemisphere is None and said is None:
            raise InputError(f"{path} does not say which hemisphere it is: give hemisphere='left' or 'right'")
        ball = None if sphere is None else read_gifti(Path(sphere))[0]
        return cls(name or Path(path).name, places, faces, ball, hemisphere or str(said))

    @classmethod
    def from_freesurfer(cls, path: str | os.PathLike[str], *, name: str | None = None, hemisphere: str | None = None,
                        sphere: str | os.PathLike[str] | None = None) -> Surface:  # fmt: skip
        """Read a mesh from a FreeSurfer geometry file (``lh.white``, ``rh.inflated``, ...).

        Parameters and errors as for `from_gifti`; the hemisphere is read from the file's name (``lh.`` or ``rh.``).
        """
        places, faces = read_freesurfer(Path(path))
        said = {"lh": "left", "rh": "right"}.get(Path(path).name.split(".")[0])
        if hemisphere is None and said is None:
            raise InputError(
                f"the name {Path(path).name!r} does not say which hemisphere it is: give hemisphere='left'"
            )
        ball = None if sphere is None else read_freesurfer(Path(sphere))[0]
        return cls(name or Path(path).name, places, faces, ball, hemisphere or str(said))

    @property
    def n_vertices(self) -> int:
        """Number of vertices."""
        return len(self.coordinates)

    @property
    def n_units(self) -> int:
        """Number of vertices: the units of a cortical map."""
        return len(self.coordinates)

    @property
    def space(self) -> str:
        """The usual space with as many vertices."""
        return space_of(self.n_vertices)

    def require_values(self, what: str, values: np.ndarray) -> np.ndarray:
        """Return values (..., vertex) as numbers, or raise an error that names both spaces."""
        values = np.asarray(values)
        if values.ndim < 1 or values.shape[-1] != self.n_vertices:
            n_given = values.shape[-1] if values.ndim else 1
            raise other_space(what, n_given, f"mesh {self.name!r}", self.n_vertices)
        return values

    def mask(self, what: str, given: np.ndarray) -> Bool[np.ndarray, " vertex"]:
        """Return a yes or no a vertex, checked."""
        chosen = np.asarray(given)
        if chosen.ndim != 1 or chosen.dtype != bool:
            raise InputError(
                f"{what} is one yes or no a vertex, bool of shape ({self.n_vertices},); "
                f"got {chosen.dtype} of shape {chosen.shape}"
            )
        return self.require_values(what, chosen).copy()

    @cached_property
    def edges(self) -> Int[np.ndarray, "edge 2"]:
        """Every edge once (edge, 2), the smaller vertex number first."""
        sides = np.sort(self.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        codes = np.unique(sides[:, 0] * self.n_vertices + sides[:, 1])
        return _read_only(np.stack([codes // self.n_vertices, codes % self.n_vertices], axis=1))

    @cached_property
    def edge_lengths(self) -> Float[np.ndarray, " edge"]:
        """Length of each of `edges`, in mm."""
        ends = self.coordinates[self.edges]
        return _read_only(np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1))

    def _graph(self, weights: np.ndarray) -> csr_array:
        from scipy.sparse import coo_array

        a, b = self.edges.T
        both = (np.concatenate([a, b]), np.concatenate([b, a]))
        return coo_array((np.concatenate([weights, weights]), both), shape=(self.n_units, self.n_units)).tocsr()

    @cached_property
    def _adjacency(self) -> csr_array:
        return self._graph(np.ones(len(self.edges)))

    @cached_property
    def _lengths(self) -> csr_array:
        # Sparse graphs read an entry of 0 as "no edge": two vertices at one place stay joined.
        return self._graph(np.maximum(self.edge_lengths, 1e-9))

    def neighbours(self, kind: Literal["queen", "rook"] = "queen") -> csr_array:
        """Return the binary symmetric adjacency (vertex, vertex): vertices joined by an edge.

        A mesh of triangles has this one neighbourhood, so ``kind`` may only be ``"queen"``, the default of sheets.
        The matrix is computed once: do not change it in place.
        """
        if kind != "queen":
            raise InputError(
                f"the vertices of a mesh have one neighbourhood, those joined by an edge; got kind={kind!r}"
            )
        return self._adjacency

    def geodesic_distances(
        self, sources: Sequence[int] | np.ndarray, *, limit: float = math.inf
    ) -> Float[np.ndarray, "source vertex"]:
        """Return distances along the edges from some vertices to all, in mm; inf beyond ``limit`` or out of reach."""
        from scipy.sparse.csgraph import dijkstra

        numbers = np.atleast_1d(np.asarray(sources))
        if numbers.dtype.kind not in "iu" or numbers.ndim != 1 or not numbers.size:
            raise InputError(f"sources are vertex numbers, got {numbers.dtype} of shape {numbers.shape}")
        if numbers.min() < 0 or numbers.max() >= self.n_vertices:
            raise InputError(f"sources run from 0 to {self.n_vertices - 1}, got {numbers.min()} to {numbers.max()}")
        found: np.ndarray = dijkstra(self._lengths, directed=False, indices=numbers, limit=limit)
        return found

    def distances(self) -> Float[np.ndarray, "vertex vertex"]:
        """Return distances along the edges between all vertices, in mm; refused above `MAX_DENSE` vertices."""
        if self.n_vertices > MAX_DENSE:
            size = self.n_vertices**2 * 8 / 1e9
            raise InputError(
                f"all distances between {self.n_vertices:,} vertices would take {size:.1f} GB; at most {MAX_DENSE:,} "
                "vertices are done at once. Use geodesic_distances(sources), nearest(n) or a coarser mesh"
            )
        return self.geodesic_distances(np.arange(self.n_vertices))

    def nearest(self, n_nearest: int, *, within: np.ndarray | None = None) -> NearestUnits:
        """Return the nearest vertices of every vertex along the surface, itself first, for `variogram_surrogates`.

        About 1 s for 1,000 neighbours on 1,000 vertices of an fsaverage5 hemisphere.

        Parameters
        ----------
        n_nearest
            Vertices kept for each, itself among them.
        within
            True (vertex,) for the vertices to use; paths through the others are closed, and vertices are then numbered
            among those used, as `restricted` does. Without it the medial wall, where it is known, is left out.
        """
        from topobrain.stats.surface_nulls import NearestUnits

        if within is None and self.medial_wall is not None:
            within = ~self.medial_wall
        mesh = self if within is None else self.restricted(within)
        n = mesh.n_vertices
        if not 2 <= n_nearest <= n:
            raise InputError(f"n_nearest must lie between 2 and the {n} vertices, got {n_nearest}")
        # Distances are searched within a disc that holds the neighbours with room to spare, and everywhere if it does not.
        area = mesh.area() / n
        reach = 1.6 * math.sqrt(n_nearest * area / math.pi) + 2 * float(mesh.edge_lengths.max(initial=0.0))
        index, distance = np.empty((n, n_nearest), dtype=np.int32), np.empty((n, n_nearest), dtype=np.float32)
        for start in range(0, n, _BATCH):
            rows = np.arange(start, min(start + _BATCH, n))
            found = mesh.geodesic_distances(rows, limit=reach)
            short = np.flatnonzero(np.isfinite(found).sum(axis=1) < n_nearest)
            if short.size:
                found[short] = mesh.geodesic_distances(rows[short])
            near = np.argpartition(found, n_nearest - 1, axis=1)[:, :n_nearest]
            lengths = np.take_along_axis(found, near, axis=1)
            order = np.lexsort((near, lengths), axis=1)
            index[rows] = np.take_along_axis(near, order, axis=1)
            distance[rows] = np.take_along_axis(lengths, order, axis=1)
        return NearestUnits(index, distance)

    def area(self) -> float:
        """Return the area of all triangles, in mm^2."""
        a, b, c = np.moveaxis(self.coordinates[self.faces], 1, 0)
        return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)

    def restricted(self, mask: Bool[np.ndarray, " vertex"]) -> Surface:
        """Return the part of the mesh with these vertices, numbered anew in the same order.

        Two kept vertices that shared an edge still do, even where no whole triangle is left; vertices left alone stay,
        so that ``values[mask]`` fits.
        """
        keep = self.mask("the mask", mask)
        if keep.sum() < 3:
            raise InputError(f"a surface needs three vertices or more, the mask keeps {int(keep.sum())}")
        if keep.all():
            return self
        number = np.cumsum(keep) - 1
        faces = number[self.faces[keep[self.faces].all(axis=1)]]
        if not len(faces):
            raise InputError(f"no triangle of {self.name!r} lies within the {int(keep.sum())} vertices of the mask")
        part = replace(
            self,
            name=f"part of {self.name}",
            coordinates=self.coordinates[keep],
            faces=faces,
            sphere=None if self.sphere is None else self.sphere[keep],
            medial_wall=None if self.medial_wall is None else self.medial_wall[keep],
            allow_isolated=True,
        )
        # The edges are those of the whole mesh, as in a graph from which units without a value were taken out.
        part.__dict__["edges"] = _read_only(number[self.edges[keep[self.edges].all(axis=1)]])
        return part

    def smoothing(self, fwhm: float) -> csr_array:
        """Return the Gaussian smoothing matrix (vertex, vertex) over distances along the surface: every row sums to one.

        ``fwhm`` is the full width at half maximum in mm, 0 for none; the kernel is cut at three standard deviations.
        """
        from scipy.sparse import csr_array, eye_array, vstack

        if not (fwhm >= 0 and math.isfinite(fwhm)):
            raise InputError(f"fwhm must be a length of at least 0 mm, got {fwhm}")
        if fwhm == 0:
            return csr_array(eye_array(self.n_vertices))
        sigma = fwhm / math.sqrt(8 * math.log(2))
        blocks = []
        for start in range(0, self.n_vertices, _BATCH):
            found = self.geodesic_distances(np.arange(start, min(start + _BATCH, self.n_vertices)), limit=3 * sigma)
            blocks.append(csr_array(np.exp(-(found**2) / (2 * sigma**2))))
        kernel = csr_array(vstack(blocks))
        return csr_array(kernel.multiply(1 / kernel.sum(axis=1)[:, None]))

    def smooth(self, values: Float[np.ndarray, "*map vertex"], fwhm: float) -> Float[np.ndarray, "*map vertex"]:
        """Return maps smoothed along the surface with a Gaussian kernel of ``fwhm`` mm.

        A missing vertex (NaN) stays missing and counts for nothing: the kernel is normalised over the vertices with
        values, so that values do not fade toward the medial wall.
        """
        maps = np.asarray(self.require_values("the map", values), dtype=np.float64)
        kernel, flat = self.smoothing(fwhm), maps.reshape(-1, self.n_vertices)
        present = np.isfinite(flat)
        with np.errstate(invalid="ignore"):
            smoothed = (kernel @ np.where(present, flat, 0.0).T).T / (kernel @ present.T.astype(np.float64)).T
        return np.asarray(np.where(present, smoothed, np.nan)).reshape(maps.shape)

    def outline(self, mask: Bool[np.ndarray, " vertex"]) -> list[Float[np.ndarray, "point 3"]]:
        """Return the border of a set of vertices as lines in space, in mm.

        The line runs through the middle of every edge that joins a vertex inside to one outside, straight across the
        triangles between. On a closed mesh every line is closed (its last point is its first); a set with two pieces
        or with a hole has several. The edge of an open mesh is no border.
        """
        inside = self.mask("the mask", mask)
        votes = inside[self.faces].sum(axis=1)
        crossed = self.faces[(votes == 1) | (votes == 2)]
        # Of the three vertices one stands alone; the line cuts the two edges at it.
        lone = np.where(
            inside[crossed].sum(axis=1) == 1, inside[crossed].argmax(axis=1), (~inside[crossed]).argmax(axis=1)
        )
        row = np.arange(len(crossed))
        alone = crossed[row, lone]
        codes = []
        for step in (1, 2):
            other = crossed[row, (lone + step) % 3]
            codes.append(np.minimum(alone, other) * self.n_vertices + np.maximum(alone, other))
        known, ends = np.unique(np.stack(codes, axis=1), return_inverse=True)
        middles = (self.coordinates[known // self.n_vertices] + self.coordinates[known % self.n_vertices]) / 2
        return [middles[path] for path in _chained(ends.reshape(-1, 2))]


def _read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


def _subdivided(places: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a mesh with every triangle cut into four; old vertices come first."""
    n = len(places)
    sides = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=2), axis=2)  # (face, side, end)
    codes, middle = np.unique(sides[..., 0] * n + sides[..., 1], return_inverse=True)
    middle = middle.reshape(-1, 3) + n
    new = (places[codes // n] + places[codes % n]) / 2
    new *= np.linalg.norm(places[0]) / np.linalg.norm(new, axis=1, keepdims=True)
    (a, b, c), (ab, bc, ca) = faces.T, middle.T
    quarters = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    return np.concatenate([places, new]), np.concatenate([np.stack(quarter, axis=1) for quarter in quarters])


def _chained(segments: np.ndarray) -> list[list[int]]:
    """Join segments (segment, 2) of point numbers end to end into as few paths as they allow."""
    at: dict[int, list[int]] = {}
    for number, (a, b) in enumerate(segments.tolist()):
        at.setdefault(a, []).append(number)
        at.setdefault(b, []).append(number)
    used, paths = np.zeros(len(segments), dtype=bool), []
    # Paths that end somewhere (at the edge of an open mesh) are begun at their ends, closed ones anywhere.
    for start in sorted(at, key=lambda point: len(at[point]) % 2 == 0):
        point, path = start, [start]
        while (step := next((s for s in at[point] if not used[s]), None)) is not None:
            used[step] = True
            a, b = segments[step].tolist()
            point = b if point == a else a
            path.append(point)
        if len(path) > 1:
            paths.append(path)
    return paths
