"""Are the weight maps of a shared component smooth on the sheet and on the cortex?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from topobrain._checks import InputError
from topobrain.stats.layout import Layout
from topobrain.stats.morans import layout_null, morans_i
from topobrain.stats.nulls import ROUNDING
from topobrain.stats.spatial_modes import PlaceGraph, require_places


class PairedSmoothness(NamedTuple):
    """How smooth the maps of each component are on both sides.

    Attributes
    ----------
    unit_i, voxel_i
        Moran's I of the unit map and of the voxel map (component,).
    unit_null, voxel_null
        The same after units, and voxels, changed places (component, null).
    unit_corrected, voxel_corrected
        (I - mean of the null) / (1 - mean of the null) (component,).
    unit_p, voxel_p
        One-sided p of each side (component,).
    corrected
        Geometric mean of both corrected indices (component,), 0 if either is not above 0.
    p
        The larger of both p (component,): both sides must be smooth.
    """

    unit_i: np.ndarray
    voxel_i: np.ndarray
    unit_null: np.ndarray
    voxel_null: np.ndarray
    unit_corrected: np.ndarray
    voxel_corrected: np.ndarray
    unit_p: np.ndarray
    voxel_p: np.ndarray
    corrected: np.ndarray
    p: np.ndarray


def paired_smoothness(
    unit_maps: Float[np.ndarray, "component unit"],
    sheet: Layout,
    voxel_maps: Float[np.ndarray, "component voxel"],
    places: Float[np.ndarray, "voxel dimension"],
    *,
    n_nearest: int = 6,
    n_null: int = 1000,
    seed: int = 0,
) -> PairedSmoothness:
    r"""Are the weights of a shared component smooth on the sheet *and* on the cortex?

    Moran's I of each map among neighbours (the eight places around a unit; each voxel's nearest), corrected for its layout
    null, :math:`c = (I - \bar I_0) / (1 - \bar I_0)`; the pair scores :math:`\sqrt{c_\text{unit} c_\text{voxel}}`, or 0
    where either is not above 0, and its p is the larger of both.

    What this cannot show: *why* maps are smooth. Blur on both sides (a smoothing layer in the model, the point spread of
    fMRI) makes every weight map smooth, also of components that predict nothing. It is necessary for topographic
    alignment and says nothing alone: read it beside the held-out r of the component and `sheet_to_cortex_score`.

    Parameters
    ----------
    unit_maps
        Weights of the units, a map a component. NaN where a unit was left out.
    sheet
        Places of the units.
    voxel_maps
        Weights of the voxels for the same components. NaN where a voxel was left out.
    places
        Coordinates of the voxels, in mm.
    n_nearest
        Nearest voxels that are neighbours.
    n_null, seed
        Draws of the nulls, and their seed.

    Returns
    -------
    PairedSmoothness

    Raises
    ------
    InputError
        A sheet without layout, voxels without places, maps of different numbers, a constant map.

    References
    ----------
    Moran (1950), Biometrika 37:17.

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> sheet, line = Sheet.grid(8, 8), np.arange(30.0)[:, None]
    >>> found = paired_smoothness(sheet.x[None], sheet, line.T, line, n_null=99)
    >>> float(found.p[0]), bool(found.corrected[0] > 0.8)
    (0.01, True)
    """
    units, voxels = (np.atleast_2d(np.asarray(maps, dtype=np.float64)) for maps in (unit_maps, voxel_maps))
    graph = PlaceGraph(require_places(places), n_nearest)
    if len(units) != len(voxels):
        raise InputError(f"{len(units)} maps of units and {len(voxels)} of voxels: expected a pair for each component")
    sides = []
    for maps, layout in ((units, sheet), (voxels, graph)):
        index = np.atleast_1d(np.asarray(morans_i(maps, layout)))
        null = np.atleast_2d(layout_null(maps, layout, n_null=n_null, seed=seed))
        sides.append((index, null, corrected_for(index, null), exceedance(index, null)))
    (unit_i, unit_null, unit_c, unit_p), (voxel_i, voxel_null, voxel_c, voxel_p) = sides
    return PairedSmoothness(
        unit_i, voxel_i, unit_null, voxel_null, unit_c, voxel_c, unit_p, voxel_p,
        paired(unit_c, voxel_c), np.maximum(unit_p, voxel_p),
    )  # fmt: skip


def corrected_for(index: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Return (index - mean null) / (1 - mean null) for an index (...,) and its null (..., null)."""
    mean = null.mean(axis=-1)
    return np.asarray((index - mean) / (1 - mean))


def exceedance(value: np.ndarray | float, null: np.ndarray) -> np.ndarray:
    """Return the one-sided p with the +1 rule of a value (...,) against its null (..., null); NaN for a missing value."""
    of = np.asarray(value, dtype=np.float64)
    count = (null >= of[..., None] - ROUNDING).sum(axis=-1)
    return np.asarray(np.where(np.isfinite(of), (1 + count) / (1 + null.shape[-1]), np.nan))


def paired(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the geometric mean of two corrected indices, 0 where either is not above 0."""
    return np.asarray(np.sqrt(np.maximum(first, 0.0) * np.maximum(second, 0.0)))
