"""components: along which few dimensions do a model's units, or a brain's voxels, vary most, and do these form maps?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from topobrain._checks import InputError, listed, require_choice
from topobrain.activations import Activations, sheets_attribute, unit_coords
from topobrain.alignment.cortical_places import voxel_places
from topobrain.alignment.principal_result import SMOOTHNESS
from topobrain.alignment.principal_result import PrincipalComponents as PrincipalComponents
from topobrain.encoding.matching import chosen_layers, chosen_voxels, unit_mask
from topobrain.responses import BrainResponses
from topobrain.sheet import Sheet
from topobrain.stats.components import principal_components
from topobrain.stats.map_similarity import map_correlation
from topobrain.stats.morans import layout_null, morans_i
from topobrain.stats.nulls import compare_with_null, torus_shifts
from topobrain.stats.spatial_modes import PlaceGraph
from topobrain.stats.surface_nulls import NearestUnits, nearest_by_coordinates, variogram_surrogates

if TYPE_CHECKING:
    from jaxtyping import Bool

DEFAULT_COMPONENTS = 10
"""Components where no number is given, or as many as the data allow."""

NULLS = ("layout", "torus", "variogram")
"""One map with its places permuted; a pair of maps, one shifted round a torus; a pair, one replaced by surrogates."""

N_NEIGHBOURS = 6
"""Neighbours of a voxel, the nearest ones: as many as a vertex of a mesh has."""

N_NEAREST = 1000
"""Nearest voxels that variograms look at."""

MIN_PLACES = 4
"""Fewer units make no map."""

MOST_SURROGATES = 200
"""A thousand of each of ten maps of 340 voxels take 20 s: this many draws do for the null ``"variogram"``."""

MIN_SURROGATE = 20
"""Fewer places have too few pairs for a variogram."""


def components(
    result: Activations | BrainResponses,
    *,
    n_components: int | None = None,
    layers: Sequence[str] | str | None = None,
    targets: Mapping[str, Any] | None = None,
    units: Bool[np.ndarray, " unit"] | None = None,
    scale: bool = False,
    nulls: Sequence[str] | None = None,
    n_null: int = 1000,
    seed: int = 0,
) -> PrincipalComponents:
    """Find the few dimensions along which units or voxels vary most, and say how smooth their weight maps are.

    Each layer, or each subject's brain responses, is decomposed by itself (`topobrain.stats.principal_components`). The sign
    of a component is fixed so that its largest weight is positive. Neither shares of variance nor scores depend on where
    units lie; smoothness does.

    Parameters
    ----------
    result
        Activations, or brain responses.
    n_components
        Components; by default 10, or as many as the layers allow.
    layers
        Layers of the activations (default: all).
    targets
        Of brain responses: ``{"roi": ..., "subject": ...}``, one name or several of each; all without it.
    units
        Of activations: boolean mask over all units.
    scale
        Divide each unit by its standard deviation over stimuli: units with large responses then count no more than others.
    nulls
        Of ``"layout"``, ``"torus"`` and ``"variogram"``: what each tests is said at `PrincipalComponents`. By default the
        first two for activations, and ``"layout"`` and ``"variogram"`` for brain responses.
    n_null
        Draws of the nulls ``"layout"`` and ``"variogram"`` (200 at most of the latter), 0 for no null (such maps support no
        claim on topography). ``"torus"`` draws nothing.
    seed
        Seed of the nulls and of the halves.

    Returns
    -------
    PrincipalComponents
        Units and voxels that are constant or have a missing value are left out: their weights are NaN, their numbers are in
        the provenance.

    Raises
    ------
    InputError
        More components than a layer has (the largest number is told), options of the other kind of data, no unit that varies.

    Warns
    -----
    UserWarning
        Layers or subjects whose places are not known (`Sheet.none`, regions): they have no smoothness.

    Examples
    --------
    >>> from topobrain.stimuli import StimulusSet
    >>> rng, sheet = np.random.default_rng(0), Sheet.grid(10, 10, wrapped=True)
    >>> values = rng.standard_normal((60, 3)) @ sheet.smooth(rng.standard_normal((3, 100)), 3)
    >>> acts = Activations.from_arrays({"l": values}, StimulusSet([f"t{i}" for i in range(60)]), sheets={"l": sheet})
    >>> found = components(acts, n_components=3, n_null=99).summary()
    >>> bool((found.smoothness_p < 0.05).all()), round(float(found.explained.sum()), 6)
    (True, 1.0)
    """
    asked = _checked_nulls(result, nulls, n_null, seed)
    if isinstance(result, Activations):
        parts, coords, attrs = _layers_of(result, layers, targets, units)
    else:
        parts, coords, attrs = _subjects_of(result, layers, targets, units)
    count = _n_components(n_components, parts)
    group = result.labels("group") if "group" in result.data.coords else None
    first_half = _halves(result.labels("stimulus"), group, seed)
    place = "unit" if isinstance(result, Activations) else "voxel"
    tests = np.full((len(SMOOTHNESS), len(parts), count, len(asked)), np.nan)
    weight = np.full((count, sum(part.kept.size for part in parts)), np.nan)
    score = np.full((len(parts), len(first_half), count), np.nan)
    explained = np.full((len(parts), count), np.nan)
    for row, part in enumerate(parts):
        values = part.read()[:, part.kept]
        fit = principal_components(values, min(count, part.most), scale=scale)
        n = int((fit.explained > 0).sum())  # copies of stimuli, and a region that is the sum of others, lower the rank
        weight[:n, part.columns[part.kept]] = fit.weights[:n]
        score[row, :, :n], explained[row, :n] = fit.scores[:, :n], fit.explained[:n]
        if part.places is not None and values.shape[1] >= MIN_PLACES:
            pair = _half_maps(values, first_half, n, scale) if set(asked) - {"layout"} else None
            tests[:, row] = _tests(part, fit.weights[:n], pair, asked, count, n_null, seed)
    _warn_of_places(parts, isinstance(result, Activations))
    if n_components is None:
        count = int(np.isfinite(explained).any(axis=0).sum())
        weight, score, explained, tests = weight[:count], score[..., :count], explained[:, :count], tests[:, :, :count]
    data = xr.Dataset(
        {
            "weight": (("component", place), weight),
            "score": (("layer", "stimulus", "component"), score),
            "explained": (("layer", "component"), explained),
            **{name: (("layer", "component", "null"), tests[i]) for i, name in enumerate(SMOOTHNESS)},
        },
        coords={
            "layer": ("layer", np.array([part.name for part in parts], dtype=object)),
            "component": ("component", np.arange(1, count + 1)),
            "null": ("null", np.array(asked, dtype=object)),
            **{
                str(n): ("stimulus", c.values)
                for n, c in result.data.coords.items()
                if c.dims == ("stimulus",) and n not in ("component", "null")  # a column of one's own with an axis' name
            },
            **coords,
        },
        attrs={
            **attrs,
            **PrincipalComponents.attributes(
                {
                    **{key: value for key, value in result.provenance.items() if key != "versions"},
                    "components": {
                        "of": place, "layers": [part.name for part in parts], "n_components": count, "scale": scale,
                        "nulls": asked, "n_null": n_null, "seed": seed, "targets": dict(targets or {}),
                        "sign": "the largest weight of each component is positive",
                        "n_left_out": {part.name: int((~part.kept).sum()) for part in parts},
                        "neighbours": {part.name: part.neighbours for part in parts},
                    },
                }
            ),
        },
    )  # fmt: skip
    return PrincipalComponents(data)


@dataclass(frozen=True)
class _Part:
    """One layer, or one subject's voxels: which are used, how to read their responses, and where they lie.

    ``kept`` marks, of all units of the part, those that are used; ``columns`` are their places on the result's axis;
    ``neighbours`` says who counts as a neighbour, or why nobody does.
    """

    name: str
    read: Callable[[], np.ndarray]
    n_stimuli: int
    kept: np.ndarray
    columns: np.ndarray
    places: Sheet | PlaceGraph | None
    neighbours: str

    @property
    def most(self) -> int:
        """The largest number of components."""
        return min(self.n_stimuli - 1, int(self.kept.sum()))


def _layers_of(
    activations: Activations, layers: Any, targets: Any, units: Any
) -> tuple[list[_Part], dict[str, Any], dict[str, Any]]:
    """Return the layers, the coordinates of the unit axis and the attributes of the sheets."""
    if targets is not None:
        raise InputError(
            "targets= names ROIs and subjects of brain responses; of activations choose layers= and units="
        )
    names, mask = chosen_layers(activations, layers), unit_mask(activations, units)
    parts, start = [], 0
    for name in names:
        sheet, read = activations.sheet(name), partial(activations.values, name)
        columns, chosen = start + np.arange(sheet.n_units), mask[activations.unit_slice(name)]
        parts.append(_part("layer", name, read, chosen, columns, partial(_sheet_or_none, sheet)))
        start += sheet.n_units
    sheets = {name: activations.sheet(name) for name in names}
    coords = {"unit_layer" if key == "layer" else key: value for key, value in unit_coords(sheets).items()}
    return parts, coords, dict(sheets_attribute(sheets))


def _subjects_of(
    responses: BrainResponses, layers: Any, targets: Any, units: Any
) -> tuple[list[_Part], dict[str, Any], dict[str, Any]]:
    """Return the subjects, the coordinates of the voxel axis and what says where voxels lie."""
    for name, given in (("layers", layers), ("units", units)):
        if given is not None:
            raise InputError(f"{name}= is an option of activations; of brain responses choose targets={{'roi': ...}}")
    responses = chosen_voxels(responses, targets)
    owner, parts = responses.labels("subject"), []
    for subject in responses.subjects:
        columns = np.flatnonzero(owner == subject)
        read = partial(_voxels, responses, columns)
        every = np.ones(columns.size, dtype=bool)
        parts.append(_part("subject", subject, read, every, columns, partial(_places_of, responses)))
    coords = {
        "voxel_ceiling" if name == "ceiling" else str(name): ("voxel", coord.values)
        for name, coord in responses.data.coords.items()
        if coord.dims == ("voxel",)
    }
    spatial = ("space", "affine", "shape", "n_vertices_left", "n_vertices_right")
    return parts, coords, {name: responses.data.attrs[name] for name in spatial if name in responses.data.attrs}


def _voxels(responses: BrainResponses, columns: np.ndarray) -> np.ndarray:
    return responses.values[:, columns]


def _part(
    what: str, name: str, read: Callable[[], np.ndarray], chosen: np.ndarray, columns: np.ndarray,
    places_of: Callable[[np.ndarray], tuple[Sheet | PlaceGraph | None, str]],
) -> _Part:  # fmt: skip
    """Look through a part's responses for units to use; ``places_of`` tells where those on some columns lie."""
    values = read()
    kept = _usable(values) & chosen
    if len(values) < 2 or not kept.any():
        raise InputError(
            f"{what} {name!r} has no components: {int(kept.sum())} of its {kept.size} units vary over {len(values)} stimuli "
            "without a missing value"
        )
    return _Part(name, read, len(values), kept, columns, *places_of(columns[kept]))


def _usable(values: np.ndarray) -> np.ndarray:
    """Return which units have a value for every stimulus, and not always the same."""
    finite = np.isfinite(values).all(axis=0)
    filled = np.where(finite, values, 0.0).astype(np.float64)
    spread = np.abs(filled - filled.mean(axis=0)).max(axis=0, initial=0.0)
    return np.asarray(finite & (spread > 1e-12 * np.abs(filled).max(axis=0, initial=0.0)))


def _sheet_or_none(sheet: Sheet, _: np.ndarray) -> tuple[Sheet | None, str]:
    return (sheet, "queen") if sheet.has_layout else (None, "no layout")


def _places_of(responses: BrainResponses, voxels: np.ndarray) -> tuple[PlaceGraph | None, str]:
    """Return where voxels lie, and in what; None and why, for regions."""
    try:
        found = voxel_places(BrainResponses(responses.data.isel(voxel=voxels)))
    except InputError as error:
        return None, str(error)
    if not np.isfinite(found.coordinates).all():
        return None, "some voxels have no place"
    if len(voxels) <= N_NEIGHBOURS:
        return None, f"{len(voxels)} voxels make no map"
    return PlaceGraph(found.coordinates, N_NEIGHBOURS), f"the {N_NEIGHBOURS} nearest voxels, {found.source}"


def _checked_nulls(result: Any, nulls: Sequence[str] | None, n_null: int, seed: int) -> list[str]:
    if not isinstance(result, Activations | BrainResponses):
        raise InputError(
            f"components takes activations (extract) or brain responses (load_responses), got {type(result).__name__}"
        )
    if isinstance(n_null, bool) or not isinstance(n_null, int | np.integer) or n_null < 0 or n_null == 1 or seed < 0:
        raise InputError(f"n_null must be 0 (no null) or at least 2, and seed at least 0; got {n_null!r} and {seed}")
    if nulls is None:
        return ["layout", "torus"] if isinstance(result, Activations) else ["layout", "variogram"]
    asked = list(dict.fromkeys([nulls] if isinstance(nulls, str) else nulls))
    for name in asked:
        require_choice("null", name, NULLS)
    return asked


def _n_components(given: int | None, parts: Sequence[_Part]) -> int:
    """Return the number of components, checked against what the smallest part allows."""
    if given is None:
        return min(DEFAULT_COMPONENTS, max(part.most for part in parts))
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 1:
        raise InputError(f"n_components must be a whole number of 1 or more, got {given!r}")
    least = min(parts, key=lambda part: part.most)
    if given > least.most:
        raise InputError(
            f"n_components={given}, but {least.name!r} has {least.most} at most: the smaller of its {int(least.kept.sum())} "
            f"units that vary and of {least.n_stimuli} stimuli less one"
        )
    return int(given)


def _halves(stimuli: np.ndarray, group: np.ndarray | None, seed: int) -> np.ndarray:
    """Return which stimuli make up the first half, whatever their order; groups stay together where there are a few."""
    labels = stimuli if group is None or len(set(group.tolist())) < 4 else group
    names = sorted(set(labels.tolist()))
    chosen = np.random.default_rng(seed).permutation(len(names))[: len(names) // 2]
    return np.asarray(np.isin(labels, np.array(names, dtype=object)[chosen]))


def _tests(
    part: _Part, weights: np.ndarray, pair: tuple[np.ndarray, np.ndarray] | None, nulls: Sequence[str], count: int,
    n_null: int, seed: int,
) -> np.ndarray:  # fmt: skip
    """Return what the nulls say of one part's weight maps (variable, component, null)."""
    tests = np.full((len(SMOOTHNESS), count, len(nulls)), np.nan)
    wrapped = isinstance(part.places, Sheet) and part.places.wrapped
    for column, null in enumerate(nulls):
        if null == "layout":
            cells = _morans_tests(part, weights, n_null, seed)
        elif pair is None or (null == "torus" and not wrapped):
            continue
        else:
            cells = _agreement_tests(part, *pair, null, n_null, seed)
        tests[:, : cells.shape[1], column] = cells
    return tests


def _morans_tests(part: _Part, weights: np.ndarray, n_null: int, seed: int) -> np.ndarray:
    """Return Moran's I of weight maps (component, kept unit) beside its layout null (variable, component)."""
    places, cells = part.places, np.full((len(SMOOTHNESS), len(weights)), np.nan)
    assert places is not None
    usable = np.flatnonzero(np.ptp(weights, axis=1) > 0)
    where = part.kept if isinstance(places, Sheet) else np.ones(places.n_units, dtype=bool)
    if not usable.size or places.neighbours()[where][:, where].nnz == 0:
        return cells
    full = np.full((usable.size, where.size), np.nan)
    full[:, where] = weights[usable]
    value = np.asarray(morans_i(full, places))
    cells[0, usable] = value
    if n_null:
        null = np.asarray(layout_null(full, places, n_null=n_null, seed=seed))
        for row, one, draws in zip(usable, value, null, strict=True):
            cells[:, row] = _said(float(one), draws)
    return cells


def _said(value: float, draws: np.ndarray) -> list[float]:
    found = compare_with_null(value, draws)
    return [found.value, found.null_mean, found.null_sd, found.p, found.corrected]


def _half_maps(values: np.ndarray, first: np.ndarray, count: int, scale: bool) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the weight maps (component, unit) of two halves of the stimuli; None where these are too few.

    Units that do not vary in one half have weight 0 there.
    """
    halves = [values[first], values[~first]]
    most = min(*(len(half) - 1 for half in halves), *(int(_usable(half).sum()) for half in halves), count)
    if most < 1:
        return None
    one, other = (principal_components(half, most, scale=scale).weights for half in halves)
    return one, other


def _agreement_tests(part: _Part, one: np.ndarray, other: np.ndarray, null: str, n_null: int, seed: int) -> np.ndarray:
    """Return the agreement of each map of one half with the best of the other half's (variable, component).

    The null makes the same choice of the best. Correlations are absolute, because signs of components are arbitrary.
    """
    cells = np.full((len(SMOOTHNESS), len(one)), np.nan)
    places = part.places
    assert places is not None
    if (null == "torus" and not part.kept.all()) or (null == "variogram" and part.kept.sum() < MIN_SURROGATE):
        return cells  # a torus with holes cannot be shifted
    vary = np.ptp(one, axis=1) > 0, np.ptp(other, axis=1) > 0
    if not vary[1].any():
        return cells
    nearest = None
    for row in np.flatnonzero(vary[0]):
        r = np.abs(np.asarray(map_correlation(one[row], other[vary[1]])))
        cells[0, row] = value = float(r.max())
        if null == "torus":
            assert isinstance(places, Sheet)
            image = places.to_image(one[row])
            shifted = [np.abs(torus_shifts(places.to_image(two), image)).ravel()[1:] for two in other[vary[1]]]
            cells[:, row] = _said(value, np.max(shifted, axis=0))
        elif n_null:
            nearest = _nearest(part) if nearest is None else nearest
            surrogates = variogram_surrogates(one[row], nearest, n_null=min(n_null, MOST_SURROGATES), seed=seed)
            agreement = [np.abs(np.asarray(map_correlation(two, surrogates))) for two in other[vary[1]]]
            cells[:, row] = _said(value, np.max(agreement, axis=0))
    return cells


def _nearest(part: _Part) -> NearestUnits:
    """Return the nearest of the units used, for surrogates."""
    if isinstance(part.places, Sheet):
        # as the crow flies, also on a torus: surrogates are then a little rougher across its seam
        points = np.stack([part.places.x[part.kept], part.places.y[part.kept]], axis=1)
    else:
        assert part.places is not None
        points = part.places.places
    return nearest_by_coordinates(points, min(N_NEAREST, len(points)))


def _warn_of_places(parts: Sequence[_Part], of_model: bool) -> None:
    """Warn once of all parts whose weights cannot be drawn as maps."""
    bare = [part for part in parts if part.places is None]
    if bare:
        names = listed((repr(part.name) for part in bare), 4)
        why = "no layout: give the layers sheets, for instance Sheet.for_width(n)" if of_model else bare[0].neighbours
        warnings.warn(f"components of {names} have no smoothness: {why}", stacklevel=3)
