"""Values of vertices on the cortical surface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from topobrain._checks import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REACH_MM = 6.0
"""A vertex takes the value of the nearest measured vertex within this distance: fsaverage4's spacing on fsaverage5."""

N_VERTICES = 10242


def surface(
    values: np.ndarray,
    vertices: np.ndarray,
    ax: Axes | None = None,
    *,
    limit: float | None = None,
    label: str = "held-out r",
    title: str = "",
    view: str = "lateral",
) -> Any:
    """Draw values of left-hemisphere vertices on nilearn's bundled inflated fsaverage5 (no network).

    Parameters
    ----------
    values, vertices
        One value a vertex, and the vertices' fsaverage5 numbers (0 to 10,241). A vertex given twice (several subjects)
        takes the mean.
    ax
        A 3-D Axes; made if not given.
    limit
        The colour scale runs from 0 to limit (default: the largest value).
    label, title
        Of the colour bar and the panel.
    view
        ``"lateral"``, ``"medial"``, ``"ventral"``, ...
    """
    import matplotlib.pyplot as plt
    from nilearn import datasets, plotting
    from nilearn import surface as meshes
    from scipy.spatial import cKDTree

    vertices, values = np.asarray(vertices, dtype=int), np.asarray(values, dtype=float)
    if values.shape != vertices.shape or values.ndim != 1:
        raise InputError(f"expected one value a vertex, got {values.shape} values for {vertices.shape} vertices")
    if vertices.min() < 0 or vertices.max() >= N_VERTICES:
        raise InputError(
            f"vertices are fsaverage5 numbers from 0 to {N_VERTICES - 1}, got {vertices.min()} to {vertices.max()}"
        )
    mesh = datasets.fetch_surf_fsaverage("fsaverage5")
    white = meshes.load_surf_mesh(mesh["white_left"]).coordinates
    known = np.unique(vertices)
    mean = np.array(
        [np.nanmean(values[vertices == v]) if np.isfinite(values[vertices == v]).any() else np.nan for v in known]
    )
    distance, nearest = cKDTree(white[known]).query(white)
    painted = np.where(distance <= REACH_MM, mean[nearest], np.nan)
    if ax is None:
        _, ax = plt.subplots(figsize=(3.5, 2.8), subplot_kw={"projection": "3d"}, layout="constrained")
    top = float(np.nanmax(mean)) if limit is None else limit
    plotting.plot_surf(
        mesh["infl_left"], painted, hemi="left", view=view, bg_map=mesh["sulc_left"], bg_on_data=False,
        cmap="viridis", vmin=0.0, vmax=top, axes=ax, figure=ax.figure, colorbar=False,
    )  # fmt: skip
    scale = plt.cm.ScalarMappable(norm=plt.Normalize(0.0, top), cmap="viridis")
    bar = ax.figure.colorbar(scale, ax=ax, shrink=0.6)
    bar.set_label(label, fontsize=7)
    bar.ax.tick_params(labelsize=7)
    ax.set_title(title, fontsize=8)
    return ax
