"""cortical_topography: Moran's I of maps on a cortical mesh, and their agreement, beside nulls that fit each question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from topobrain._checks import InputError, require_choice, unknown
from topobrain.stats.map_similarity import map_correlation
from topobrain.stats.morans import morans_i
from topobrain.stats.nulls import layout_permutations
from topobrain.stats.surface_nulls import NearestUnits, spin_permutations, spun, variogram_surrogates
from topobrain.surface import CorticalMap, Surface
from topobrain.topography.measures import MEASURES, Measure
from topobrain.topography.measuring import said, without_p
from topobrain.topography.result import Cells, Topography

NULLS = ("layout", "variogram", "spin")

CORTICAL_MEASURES: dict[str, Measure] = {
    "morans_i": MEASURES["morans_i"],
    # Clusters have most of their neighbours inside and large values there: on such a graph I can exceed 1.
    "morans_i_significant": Measure("Moran's I of the significant vertices", "map", morans_i, "TopoLM", bounded=False),
    "map_correlation": MEASURES["map_correlation"],
}
"""The whole-map index and that of significant vertices are two statistics: selection alone changes it."""

MAP_BLOCK = 50


def cortical_topography(
    cortical: CorticalMap,
    surface: Surface | None = None,
    *,
    against: str | None = None,
    nulls: Sequence[str] = NULLS,
    n_null: int = 1000,
    n_nearest: int = 1000,
    q: float = 0.05,
    seed: int = 0,
) -> Topography:
    """Measure how clustered maps on the cortex are, and how well two of them agree.

    Three nulls answer different questions. ``"layout"`` (values change vertices) asks whether the map is clustered at all.
    ``"spin"`` (the map is turned on the sphere) and ``"variogram"`` (new maps as smooth as this one) keep its smoothness:
    they are the nulls of the *agreement* of two maps. Moran's I stands beside them only to show how far they keep it, with
    their mean and range but without z and p: turned maps are resampled to the nearest vertex and surrogates are fitted at
    distances beyond the first neighbours, so both are a little rougher than the map, which is no evidence of clustering.

    Parameters
    ----------
    cortical
        Maps of one hemisphere (`topobrain.data.load_cortical_map`).
    surface
        The mesh they lie on, with its sphere for spins; by default the one of the map's space, where it can be had.
    against
        Name of one of the maps: the others' correlation with it is measured too.
    nulls
        Of ``"layout"``, ``"variogram"`` and ``"spin"``.
    n_null, seed
        Draws of each null, and their seed. 1,000 draws of all three take minutes on 30,000 vertices; 100 give a first look.
    n_nearest
        Nearest vertices that variograms look at; too few make that null too narrow (on 32,000 vertices its sd is .066 with
        300, .098 with 1,000, and that of spins .107).
    q
        False discovery rate of the significant vertices, for maps with p-values.

    Returns
    -------
    Topography
        Measures ``morans_i`` (all vertices with a value), ``morans_i_significant`` (maps with p-values) and, with
        ``against``, ``map_correlation``; the layer is the space and hemisphere, a contrast is a map. Vertices without a
        value (NaN, the medial wall) leave the graph.

    Raises
    ------
    InputError
        No mesh for the map's space, or one that does not fit.
    """
    for name in nulls:
        require_choice("null of a cortical map", name, NULLS)
    if n_null < 2 or seed < 0:
        raise InputError(f"n_null must be at least 2 and seed at least 0; got {n_null} and {seed}")
    if against is not None and against not in cortical.values:
        raise unknown(f"map of {cortical.name!r}", against, cortical.values)
    if surface is None:
        from topobrain.data.surfaces import load_surface

        surface = load_surface(f"{cortical.space.lower().replace('-', '')}-{cortical.hemisphere}")
    cortical.require_surface(surface)
    if "spin" in nulls and surface.sphere is None:
        raise InputError(f"the null 'spin' turns maps on a sphere, and mesh {surface.name!r} has none: leave it out")
    names = list(cortical.values)
    measures = [
        "morans_i",
        *(["morans_i_significant"] if cortical.p else []),
        *(["map_correlation"] if against else []),
    ]
    layer = f"{cortical.space} {cortical.hemisphere}"
    cells = Cells(measures, [layer], names, list(nulls))
    draws = _Draws(surface, n_null, n_nearest, seed, _wall(cortical, surface))
    n_significant = {}
    for name in names:
        values = np.asarray(cortical.values[name], dtype=np.float64)
        if not np.isfinite(values).any() or np.ptp(values[np.isfinite(values)]) == 0:
            raise InputError(f"map {name!r} of {cortical.name!r} does not vary: it has no Moran's I")
        index = float(morans_i(values, surface))
        agreement = None if against in (None, name) else np.asarray(cortical.values[against], dtype=np.float64)
        cells.set("morans_i", layer, name, value=index)
        if agreement is not None:
            r = float(map_correlation(agreement, values))
            cells.set("map_correlation", layer, name, value=r)
        for null in nulls:
            index_draws, r_draws = draws.of(null, values, agreement)
            found = said(CORTICAL_MEASURES["morans_i"], index, index_draws)
            if null != "layout":  # keeps the map's own smoothness: no test of it
                found = without_p(found)
            cells.set("morans_i", layer, name, null=null, said=found)
            if agreement is not None:
                found = said(CORTICAL_MEASURES["map_correlation"], r, r_draws)
                if null == "layout":  # knows nothing of smoothness, which alone makes maps agree now and then
                    found = without_p(found)
                cells.set("map_correlation", layer, name, null=null, said=found)
        if name in cortical.p:
            n_significant[name] = _measure_significant(cells, cortical, draws, layer, name, q, nulls)
    variables, coords = cells.dataset({"map_correlation": ("spin", "variogram", "layout")})
    fields: dict[str, Any] = {
        # the provenance's own name is that of the data set
        "map": {**cortical.provenance, "name": cortical.name, "space": cortical.space, "hemisphere": cortical.hemisphere},
        "surface": surface.name,
        "topography": {
            "measures": measures, "nulls": list(nulls), "n_null": n_null, "n_nearest": n_nearest, "q": q, "seed": seed,
            "against": against, "n_significant": n_significant,
        },
    }  # fmt: skip
    return Topography(xr.Dataset(variables, coords=coords, attrs=Topography.attributes(fields)))


@dataclass
class _Draws:
    """Draws of the nulls of maps on one mesh; what maps share (rotations, neighbours) is found once."""

    surface: Surface
    n_null: int
    n_nearest: int
    seed: int
    wall: np.ndarray
    nearest: dict[bytes, NearestUnits] = field(default_factory=dict)

    @cached_property
    def spins(self) -> np.ndarray:
        assert self.surface.sphere is not None
        return spin_permutations(self.surface.sphere, self.n_null, seed=self.seed, medial_wall=self.wall)

    def neighbours(self, present: np.ndarray) -> NearestUnits:
        """Return the nearest vertices among those with a value."""
        key = present.tobytes()
        if key not in self.nearest:
            self.nearest[key] = self.surface.nearest(min(self.n_nearest, int(present.sum())), within=present)
        return self.nearest[key]

    def of(self, null: str, values: np.ndarray, other: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return draws (null,) of Moran's I of a map and, given another map, of their correlation."""
        present = np.isfinite(values)
        if null == "layout":
            orders = layout_permutations(int(present.sum()), self.n_null, seed=self.seed)
        elif null == "variogram":
            made = variogram_surrogates(values[present], self.neighbours(present), n_null=self.n_null, seed=self.seed)
        index, r = [], []
        for start in range(0, self.n_null, MAP_BLOCK):
            rows = slice(start, min(start + MAP_BLOCK, self.n_null))
            if null == "spin":
                maps = spun(values, self.spins[rows])
            else:
                maps = np.full((rows.stop - start, values.size), np.nan)
                maps[:, present] = values[present][orders[rows]] if null == "layout" else made[rows]
            index.append(np.asarray(morans_i(maps, self.surface)))
            if other is not None:
                r.append(np.asarray(map_correlation(other, maps)))
        return np.concatenate(index), np.concatenate(r) if r else np.empty(0)


def _wall(cortical: CorticalMap, surface: Surface) -> np.ndarray:
    """Return the vertices that have a value in no map, or lie on the mesh's medial wall."""
    every = np.stack([np.asarray(v, dtype=np.float64) for v in cortical.values.values()])
    wall = np.asarray(np.isnan(every).all(axis=0))
    return wall if surface.medial_wall is None else np.logical_or(wall, surface.medial_wall)


def _measure_significant(
    cells: Cells, cortical: CorticalMap, draws: _Draws, layer: str, name: str, q: float, nulls: Sequence[str]
) -> int:
    """Measure Moran's I of the significant vertices only, their values permuted among themselves as its null."""
    chosen = cortical.significant(name, q=q)
    values = np.where(chosen, np.asarray(cortical.values[name], dtype=np.float64), np.nan)
    if chosen.sum() < 3 or np.ptp(values[chosen]) == 0 or draws.surface.neighbours()[chosen][:, chosen].nnz == 0:
        return int(chosen.sum())
    index = float(morans_i(values, draws.surface))
    cells.set("morans_i_significant", layer, name, value=index)
    if "layout" in nulls:
        found = said(CORTICAL_MEASURES["morans_i_significant"], index, draws.of("layout", values)[0])
        cells.set("morans_i_significant", layer, name, null="layout", said=found)
    return int(chosen.sum())
