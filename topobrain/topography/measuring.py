"""topography: measures of maps and of responses on a sheet, each beside its nulls."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from topobrain._checks import InputError, require_choice, unknown
from topobrain.activations import Activations
from topobrain.selectivity.result import Selectivity
from topobrain.selectivity.t_maps import label_null_maps, layout_null_maps, varies
from topobrain.sheet import Sheet
from topobrain.stats.islands import island_layout_null, island_morans_i
from topobrain.stats.map_similarity import map_similarity_null
from topobrain.stats.nulls import compare_with_null
from topobrain.topography.given import Given
from topobrain.topography.measures import DEFAULT, MEASURES, Measure
from topobrain.topography.result import ALL_STIMULI, STATISTICS, Cells, Topography

MIN_UNITS = 4
"""Fewer units have no topography to measure."""

MAX_PAIRED_UNITS = 12_000
"""Measures that look at all pairs of units hold a square matrix of them: 1.2 GB at this size."""

NULLS = ("layout", "torus", "labels", "rank")
"""Units change places; a map is shifted round the torus; stimuli change sides; responses of a lower rank."""


def topography(
    result: Selectivity | Activations,
    *,
    activations: Activations | None = None,
    against: Selectivity | str | None = None,
    twin: Activations | None = None,
    measures: Sequence[str] | None = None,
    nulls: Sequence[str] = ("layout", "torus"),
    references: Mapping[str, Topography | Sequence[Topography]] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    n_null: int = 1000,
    seed: int = 0,
) -> Topography:
    """Measure the topography of t-maps and of responses, and what each measure would be by chance.

    Parameters
    ----------
    result
        t-maps from `localize`, or activations.
    activations
        The activations behind the t-maps: needed for measures of responses, for the null ``"labels"``, and where the maps
        were smoothed (units must change places before smoothing).
    against
        Other t-maps of the same layers and contrasts (another half, another model), or the name of one of the contrasts:
        what ``"ssim"`` and ``"map_correlation"`` compare with.
    twin
        Activations of the non-topographic twin for the same stimuli: those that the null ``"rank"`` projects (default: the
        activations themselves).
    measures
        Names from `MEASURES`; by default those of ``morans_i``, ``generic``, ``smoothness_tdann`` and
        ``smoothness_toponets`` that what is given allows.
    nulls
        ``"layout"``: units change places. ``"torus"``: one of two maps is shifted to every place of a wrapped sheet, which
        keeps its smoothness exactly; it speaks on the agreement of two maps only. ``"labels"``: stimuli change sides, units
        keep places and correlations: is this contrast more patchy than any. ``"rank"``: for ``participation_ratio``,
        responses on random subspaces of as many dimensions as ``options={"participation_ratio": {"rank": r}}`` says. A
        null that says nothing on a measure leaves it out.
    references
        Topography of other models, measured alike: ``{"untrained": ..., "twin": [...]}``. Each stands beside the values
        as one more null, over as many models as it has.
    options
        Options of single measures by name, e.g. ``{"smoothness_tdann": {"n_bins": 9}}``.
    n_null
        Draws of each null; 0 measures without nulls (for a reference; such a result supports no claim and is not drawn).
    seed
        Seed of the nulls.

    Returns
    -------
    Topography

    Raises
    ------
    InputError
        A measure that needs what was not given, layers that do not match, a map without a null that was asked for.

    Examples
    --------
    >>> from topobrain.stimuli import StimulusSet
    >>> rng = np.random.default_rng(0)
    >>> acts = Activations.from_arrays({"l": rng.standard_normal((40, 36))}, StimulusSet([f"t{i}" for i in range(40)]),
    ...                                sheets={"l": Sheet.grid(6, 6)})
    >>> table = topography(acts, measures=["generic"], n_null=19).summary()
    >>> bool(abs(table.z[0]) < 3)
    True
    """
    given = Given.of(result, activations, against, twin)
    chosen = _chosen(measures, given)
    asked = list(dict.fromkeys([nulls] if isinstance(nulls, str) else nulls))
    for name in asked:
        require_choice("null", name, NULLS)
    if isinstance(n_null, bool) or not isinstance(n_null, int | np.integer):
        raise InputError(f"n_null is a whole number of draws, got {n_null!r}")
    if n_null < 0 or n_null == 1 or seed < 0:
        raise InputError(f"n_null must be 0 (no null) or at least 2, and seed at least 0; got {n_null} and {seed}")
    settings = {name: dict(fields) for name, fields in (options or {}).items()}
    for name, extra in settings.items():
        if name not in chosen:
            raise unknown("measure with options", name, chosen, "(of those measured here)")
        MEASURES[name].check_options(name, extra)
    if chosen != ["participation_ratio"] and not any(given.sheet(layer).has_layout for layer in given.layers):
        raise InputError(
            f"no layer here has a layout ({', '.join(given.layers[:4])}): topography needs places of units; give the model's "
            f"layers sheets, for instance Sheet.for_width({given.sheet(given.layers[0]).n_units})"
        )
    beside = references or {}
    if not isinstance(beside, Mapping):
        raise InputError('references are results by name: references={"untrained": topography(...)}')
    for name in beside:
        if name in NULLS:
            raise InputError(f"a reference cannot have the name of the null {name!r}")
    contrasts = [*given.contrasts, *([ALL_STIMULI] if any(MEASURES[m].needs == "responses" for m in chosen) else [])]
    _require_room(given, chosen)
    cells = Cells(chosen, given.layers, contrasts, [*(asked if n_null else []), *beside])
    for layer in given.layers:
        for name in chosen:
            measure, extra = MEASURES[name], settings.get(name, {})
            if measure.needs == "responses":
                _measure_responses(cells, given, layer, name, measure, extra, asked, n_null, seed)
        if "island_morans_i" in chosen and given.sheet(layer).has_layout:
            _measure_islands(cells, given, layer, settings.get("island_morans_i", {}), asked, n_null, seed)
        on_maps = [name for name in chosen if MEASURES[name].needs in ("map", "two maps")]
        if on_maps and given.sheet(layer).has_layout:
            _measure_maps(cells, given, layer, on_maps, settings, asked, n_null, seed)
    for name, others in beside.items():
        _set_beside(cells, name, several(others))
    variables, coords = cells.dataset({name: MEASURES[name].nulls for name in chosen})
    if n_null:
        _warn_of_silence(cells, chosen, asked)
    fields = {key: value for key, value in result.provenance.items() if key != "versions"}
    fields["topography"] = {
        "measures": chosen, "nulls": asked, "options": settings, "n_null": n_null, "seed": seed,
        "references": {name: _names(others) for name, others in beside.items()},
        "against": against.provenance if isinstance(against, Selectivity) else against,
    }  # fmt: skip
    return Topography(xr.Dataset(variables, coords=coords, attrs=Topography.attributes(fields)))


def _chosen(measures: Sequence[str] | None, given: Given) -> list[str]:
    """Return the measures asked for, or the default ones that what is given allows."""
    missing = {
        "map": None if given.maps is not None else "t-maps: localize the activations first",
        "t and p": None if given.maps is not None else "t-maps: localize the activations first",
        "responses": None if given.activations is not None else "responses: pass activations=",
        "two maps": None if given.against is not None else "a second map: pass against=",
    }
    if measures is None:
        return [name for name in DEFAULT if missing[MEASURES[name].needs] is None]
    names = list(dict.fromkeys([measures] if isinstance(measures, str) else measures))
    if not names:
        raise InputError(f"no topography measure was asked for; there are {', '.join(MEASURES)}")
    for name in names:
        if name not in MEASURES:
            raise unknown("topography measure", name, list(MEASURES))
        lack = missing[MEASURES[name].needs]
        if lack is not None:
            raise InputError(f"measure {name!r} needs {lack}")
    return names


def _require_room(given: Given, measures: Sequence[str]) -> None:
    """Raise before a measure of all pairs of units would fill the memory."""
    paired = [name for name in measures if name.startswith(("generic", "smoothness"))]
    for layer in given.layers if paired else ():
        n_units = given.sheet(layer).n_units
        if given.sheet(layer).has_layout and n_units > MAX_PAIRED_UNITS:
            raise InputError(
                f"{', '.join(paired)} of layer {layer!r} look at all pairs of its {n_units:,} units, at most "
                f"{MAX_PAIRED_UNITS:,} are done: leave them out (measures=['morans_i']) or take a part of the sheet"
            )


def _warn_of_layer(layer: str, why: str, measures: str) -> None:
    warnings.warn(f"layer {layer!r} {why}: {measures} is not measured there", stacklevel=4)


def _warn_of_silence(cells: Cells, measures: Sequence[str], nulls: Sequence[str]) -> None:
    """Warn of measures that have a value and, of the nulls asked for, none that speaks."""
    tested = cells.by_null[: len(nulls), STATISTICS.index("p")]
    for row, name in enumerate(measures):
        if np.isfinite(cells.value[row]).any() and not np.isfinite(tested[:, row]).any():
            warnings.warn(
                f"none of the nulls {', '.join(nulls) or '(none was asked for)'} is a fair test of {name!r} here "
                f"(those that can: {', '.join(MEASURES[name].nulls)}; torus needs a wrapped sheet)",
                stacklevel=3,
            )


def without_p(found: dict[str, float]) -> dict[str, float]:
    """Return what a null says, without z, p and corrected index: where it is no fair test."""
    return found | dict.fromkeys(("z", "p", "corrected"), np.nan)


def said(measure: Measure, value: float, null: np.ndarray) -> dict[str, float]:
    """Return what draws of a null say of a value."""
    draws = np.asarray(null, dtype=np.float64)
    draws = draws[np.isfinite(draws)]
    if draws.size < 2 or not np.isfinite(value):
        return dict.fromkeys(("null_mean", "null_sd", "z", "p", "corrected", "null_low", "null_high"), np.nan) | {
            "n_null": float(draws.size)
        }
    found = compare_with_null(value, draws, alternative="two-sided" if measure.two_sided else "greater")
    low, high = np.percentile(draws, [2.5, 97.5])
    return {
        "null_mean": found.null_mean, "null_sd": found.null_sd, "z": found.z, "p": found.p,
        "corrected": found.corrected if measure.bounded else np.nan,
        "null_low": float(low), "null_high": float(high), "n_null": float(draws.size),
    }  # fmt: skip


def _measure_responses(
    cells: Cells, given: Given, layer: str, name: str, measure: Measure, options: Mapping[str, Any],
    nulls: Sequence[str], n_null: int, seed: int,
) -> None:  # fmt: skip
    assert given.activations is not None
    sheet = given.sheet(layer)
    if "rank" in measure.nulls:  # of responses alone: no places are needed
        values = given.activations.values(layer)
        own = {key: value for key, value in options.items() if key != "rank"}
        value = float(measure.of(values, **own))
        cells.set(name, layer, ALL_STIMULI, value=value)
        if n_null and "rank" in nulls and measure.null is not None:
            if "rank" not in options:
                raise InputError(f"the rank null of {name!r} needs options={{{name!r}: {{'rank': ...}}}}")
            projected = values if given.twin is None else given.twin.values(layer)
            draws = measure.null(projected, options["rank"], n_null=n_null, seed=seed)
            cells.set(name, layer, ALL_STIMULI, null="rank", said=said(measure, value, draws))
        return
    if not sheet.has_layout:
        return
    values = given.activations.values(layer)
    alive = int((np.isfinite(values).all(axis=0) & (np.ptp(values, axis=0) > 0)).sum()) if len(values) else 0
    if alive < MIN_UNITS:
        _warn_of_layer(layer, f"has {alive} units that respond differently to any two stimuli", name)
        return
    value = float(measure.of(values, sheet, **options))
    cells.set(name, layer, ALL_STIMULI, value=value)
    if n_null and "layout" in nulls and measure.null is not None:
        draws = measure.null(values, sheet, n_null=n_null, seed=seed, **options)
        cells.set(name, layer, ALL_STIMULI, null="layout", said=said(measure, value, draws))


def _measure_maps(
    cells: Cells, given: Given, layer: str, names: Sequence[str], settings: Mapping[str, Mapping[str, Any]],
    nulls: Sequence[str], n_null: int, seed: int,
) -> None:  # fmt: skip
    """Measure one layer's maps, and every null map of each null once for all measures."""
    t, sheet = given.t(layer), given.sheet(layer)
    usable = np.flatnonzero([varies(one) for one in t])
    if usable.size < len(t):
        left = [name for row, name in enumerate(given.contrasts) if row not in usable]
        _warn_of_layer(layer, f"does not vary in {left}", ", ".join(names))
    if usable.size == 0:
        return
    pairs = given.other(layer)[usable] if any(MEASURES[name].needs == "two maps" for name in names) else None

    def measured(name: str, maps: np.ndarray) -> np.ndarray:
        """Return one value a map (map, contrast) of maps (map, contrast, unit)."""
        measure, options = MEASURES[name], settings.get(name, {})
        if measure.needs == "two maps":
            assert pairs is not None
            columns = [measure.of(maps[:, c], pairs[c], sheet, **options) for c in range(maps.shape[1])]
        else:
            columns = [measure.of(maps[:, c], sheet, **options) for c in range(maps.shape[1])]
        return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)

    values = {name: measured(name, t[usable][None])[0] for name in names}
    for name in names:
        for column, row in enumerate(usable):
            if given.is_itself(name, given.contrasts[row]):
                values[name][column] = np.nan
            cells.set(name, layer, given.contrasts[row], value=float(values[name][column]))
    if not n_null:
        return
    for null in nulls:
        speaks = [name for name in names if null in MEASURES[name].nulls]
        if not speaks:
            continue
        if null == "torus":
            if not sheet.wrapped:
                continue  # an open sheet cannot be shifted without tearing maps at its border
            if settings.get("ssim"):
                raise InputError("the torus null of 'ssim' is drawn with its default window: leave its options out")
            draws = {name: _torus_draws(name, t[usable], pairs, sheet) for name in speaks}
        else:
            maps = _null_maps(null, given, layer, t, n_null, seed)
            collected: dict[str, list[np.ndarray]] = {name: [] for name in speaks}
            for block in maps:
                for name in speaks:
                    collected[name].append(measured(name, block[:, usable]))
            draws = {name: np.concatenate(parts) for name, parts in collected.items()}
        for name in speaks:
            for column, row in enumerate(usable):
                if np.isfinite(values[name][column]):
                    found = said(MEASURES[name], float(values[name][column]), draws[name][:, column])
                    if null in MEASURES[name].unfair and not given.smoothed:
                        found = without_p(found)
                    cells.set(name, layer, given.contrasts[row], null=null, said=found)


def _measure_islands(
    cells: Cells, given: Given, layer: str, options: Mapping[str, Any], nulls: Sequence[str], n_null: int, seed: int
) -> None:
    """Measure Moran's I inside islands of significant units; the null goes through the same selection."""
    assert given.maps is not None
    recipe, _ = given.origin()
    if recipe.smooth and "layout" in nulls and n_null:
        raise InputError("the layout null of 'island_morans_i' is that of unsmoothed maps: localize without smooth=")
    sheet = given.sheet(layer)
    for contrast in given.contrasts:
        t, p = (given.maps.values(layer, one, contrast=contrast) for one in ("t", "p"))
        if not varies(t):
            _warn_of_layer(layer, f"does not vary in {contrast!r}", "island_morans_i")
            continue
        if recipe.test.alternative == "two-sided":
            p = np.where(t > 0, p / 2, 1 - p / 2)
        elif recipe.test.alternative == "less":
            p = 1 - p
        value = island_morans_i(t, p, sheet, n_null=2, seed=seed, **options).mean
        if not np.isfinite(value):
            continue  # no island: nothing to measure
        cells.set("island_morans_i", layer, contrast, value=value)
        if n_null and "layout" in nulls:
            draws = island_layout_null(t, p, sheet, n_null=n_null, seed=seed, **options)
            found = said(MEASURES["island_morans_i"], value, draws)
            cells.set("island_morans_i", layer, contrast, null="layout", said=found)


def _null_maps(null: str, given: Given, layer: str, t: np.ndarray, n_null: int, seed: int) -> Iterator[np.ndarray]:
    recipe, sides = given.origin()
    if null == "layout":
        values = given.activations.values(layer) if given.activations is not None and recipe.smooth else None
        if recipe.smooth and values is None:
            raise InputError(
                "these t-maps were smoothed: units must change places before smoothing, which needs activations="
            )
        return layout_null_maps(
            t, given.sheet(layer), n_null=n_null, seed=seed, values=values, sides=sides, recipe=recipe
        )
    if given.activations is None or sides is None:
        raise InputError("the null 'labels' lets stimuli change sides: pass activations=")
    return label_null_maps(given.activations.values(layer), given.sheet(layer), sides, recipe, n_null=n_null, seed=seed)


def _torus_draws(name: str, t: np.ndarray, pairs: np.ndarray | None, sheet: Sheet) -> np.ndarray:
    """Return the agreement (shift, contrast) of each map with its counterpart shifted to every place of the torus."""
    assert pairs is not None
    measure: Literal["ssim", "correlation"] = "ssim" if name == "ssim" else "correlation"
    columns = [
        map_similarity_null(one, other, sheet, measure=measure, null="torus")
        for one, other in zip(t, pairs, strict=True)
    ]
    return np.stack(columns, axis=1)


def _set_beside(cells: Cells, null: str, others: Sequence[Topography]) -> None:
    """Write what other models' values say of these, cell by cell."""
    if not others or not all(isinstance(one, Topography) for one in others):
        raise InputError(f"reference {null!r} must be one Topography result or a list of them, measured alike")
    for measure in cells.names["measure"]:
        for layer in cells.names["layer"]:
            for contrast in cells.names["contrast"]:
                value = cells.value[cells.place(measure, layer, contrast)]
                if np.isfinite(value):
                    draws = np.array([_cell(one, measure, layer, contrast, null) for one in others])
                    cells.set(measure, layer, contrast, null=null, said=_beside(MEASURES[measure], value, draws))


def _cell(one: Topography, measure: str, layer: str, contrast: str, null: str) -> float:
    for axis, name in (("measure", measure), ("layer", layer), ("contrast", contrast)):
        known = [str(v) for v in one.data[axis].values]
        if name not in known:
            raise unknown(f"{axis} of reference {null!r}", name, known, "Measure the reference with the same options.")
    return float(one.data["value"].sel(measure=measure, layer=layer, contrast=contrast))


def _beside(measure: Measure, value: float, others: np.ndarray) -> dict[str, float]:
    """Return what one or more other models say of a value; a single one has no spread, so no z."""
    if others.size >= 2:
        return said(measure, value, others)
    mean = float(others[0])
    corrected = (value - mean) / (1 - mean) if measure.bounded and mean < 1 else np.nan
    return {
        "null_mean": mean, "null_sd": np.nan, "z": np.nan, "p": np.nan, "corrected": corrected,
        "null_low": np.nan, "null_high": np.nan, "n_null": 1.0,
    }  # fmt: skip


def _names(others: Topography | Sequence[Topography]) -> list[str]:
    return [one.provenance.get("model", {}).get("name", "model") for one in several(others)]


def several(others: Topography | Sequence[Topography]) -> list[Topography]:
    """Return one result or several as a list."""
    return list(others) if isinstance(others, list | tuple) else [others]  # type: ignore[list-item]
