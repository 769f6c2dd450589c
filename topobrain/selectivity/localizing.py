"""localize: the t-value of every unit for one or more contrasts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from topobrain._checks import InputError, require_choice
from topobrain.activations import Activations, sheets_attribute, unit_coords
from topobrain.selectivity.result import SPATIAL, Selectivity
from topobrain.selectivity.t_maps import Recipe, Sides, layer_t_maps, layout_null_maps, varies
from topobrain.sheet import Sheet, SmoothingEdges
from topobrain.stats.contrast import Alternative, TTest, fdr_bh
from topobrain.stats.morans import morans_i
from topobrain.stats.nulls import compare_with_null
from topobrain.stimuli import Contrast

Correction = Literal["joint", "sheet"]

LENGTH_RATIO = 1.25
"""Conditions whose mean token counts differ by more are worth a warning: length alone then makes units selective."""


def localize(
    activations: Activations,
    contrast: Contrast | Sequence[Contrast],
    *,
    test: Literal["welch", "student"] = "welch",
    rectify: bool = False,
    alternative: Alternative = "two-sided",
    smooth: float | None = None,
    edges: SmoothingEdges = "normalised",
    ddof: Literal[0, 1] = 1,
    zero_variance: Literal["nan", "zero"] = "nan",
    fdr: Correction = "joint",
    n_null: int = 1000,
    seed: int = 0,
) -> Selectivity:
    """Find the units that respond more to one condition than to another.

    The defaults are the plain ones: unbiased Welch t, sign kept, two-sided, activations as they are. Published variants
    are options, collected in `PUBLISHED`.

    Parameters
    ----------
    activations
        One row a stimulus, with the contrast's condition among the stimulus columns. Those on disk are read in blocks of
        units.
    contrast
        One contrast or several (a localizer's ``.contrasts``).
    test
        ``"welch"`` (unequal variances) or ``"student"`` (pooled variance).
    rectify
        Take absolute activations first (a published variant; the default keeps their sign).
    alternative
        ``"two-sided"``, ``"greater"`` (on > off) or ``"less"``.
    smooth
        Smooth each stimulus's activations over the sheet first, with a Gaussian of this full width at half maximum (in
        the unit of the sheet's spacing). The layout null then permutes places *before* smoothing, because smoothing
        alone makes patches.
    edges
        What smoothing does at the border: see `Sheet.smooth`.
    ddof
        1 for unbiased variances, 0 for population variances.
    zero_variance
        What a unit that is constant within both conditions gets: ``"nan"`` (no t-value) or ``"zero"`` (t 0, p 1).
    fdr
        Correct p over all units of a contrast (``"joint"``) or over each layer's sheet by itself (``"sheet"``).
    n_null
        Layout permutations for Moran's I, 0 for none (such a map supports no claim on topography).
    seed
        Seed of the permutations.

    Returns
    -------
    Selectivity

    Raises
    ------
    UnknownNameError
        A condition or stimulus column that the activations do not have.
    InputError
        A side with fewer than two stimuli, two contrasts of one name, smoothing without a layout.

    Warns
    -----
    UserWarning
        The two sides differ in tokens by more than a quarter, so units may respond to length.

    References
    ----------
    Fedorenko et al. (2010), J. Neurophysiol. 104:1177; AlKhamissi et al. (2025), NAACL (localizers for language models).
    """
    if not isinstance(activations, Activations):
        raise InputError(
            f"localize takes activations (extract, or Activations.from_arrays), got {type(activations).__name__}"
        )
    contrasts = _contrasts(contrast)
    names = [one.name for one in contrasts]
    if not contrasts or len(set(names)) != len(names):
        raise InputError(f"contrasts need different names, one or more of them; got {names}")
    if isinstance(n_null, bool) or not isinstance(n_null, int | np.integer):
        raise InputError(f"n_null is a whole number of draws, got {n_null!r}")
    if n_null < 0 or n_null == 1 or seed < 0:
        raise InputError(f"n_null must be 0 (no null) or at least 2, and seed at least 0; got {n_null} and {seed}")
    require_choice("correction", fdr, get_args(Correction))
    require_choice("treatment of edges", edges, get_args(SmoothingEdges))
    if smooth is not None and not (np.isfinite(smooth) and smooth >= 0):
        raise InputError(f"smooth is a full width at half maximum of at least 0, or None; got {smooth}")
    tests = TTest(test=test, ddof=ddof, rectify=rectify, alternative=alternative, zero_variance=zero_variance)
    recipe = Recipe(tests, float(smooth or 0.0), edges)
    sides = Sides.of(activations, contrasts)
    _warn_of_lengths(activations, contrasts, sides)
    sheets = activations.sheets
    n_units = activations.data.sizes["unit"]
    t, p = np.full((len(contrasts), n_units), np.nan), np.full((len(contrasts), n_units), np.nan)
    spatial = np.full((len(SPATIAL), len(contrasts), len(sheets)), np.nan)
    for column, (layer, sheet) in enumerate(sheets.items()):
        units = activations.unit_slice(layer)
        t[:, units], p[:, units] = layer_t_maps(activations, layer, sides, recipe)
        if n_null and sheet.has_layout:
            values = activations.values(layer) if recipe.smooth else None
            spatial[:, :, column] = _morans_i_tests(t[:, units], sheet, values, sides, recipe, n_null, seed)
    groups = np.repeat(np.arange(len(sheets)), [sheet.n_units for sheet in sheets.values()])
    data = xr.Dataset(
        {
            "t": (("contrast", "unit"), t),
            "p": (("contrast", "unit"), p),
            "q": (("contrast", "unit"), np.stack([fdr_bh(row, groups if fdr == "sheet" else None) for row in p])),
            **{name: (("contrast", "layer_name"), spatial[index]) for index, name in enumerate(SPATIAL)},
        },
        coords={
            "contrast": ("contrast", np.array(names, dtype=object)),
            "layer_name": ("layer_name", np.array(list(sheets), dtype=object)),
            **unit_coords(sheets),
        },
        attrs={
            **sheets_attribute(sheets),
            **Selectivity.attributes(
                {
                    **{key: value for key, value in activations.provenance.items() if key != "versions"},
                    "localize": {
                        "contrasts": [_contrast_fields(activations, one) for one in contrasts],
                        "test": test, "ddof": ddof, "rectify": rectify, "alternative": alternative,
                        "smooth": smooth, "edges": edges, "zero_variance": zero_variance, "fdr": fdr,
                        "null": "layout", "n_null": n_null, "seed": seed,
                    },
                }
            ),
        },
    )  # fmt: skip
    return Selectivity(data)


def _contrasts(given: Any) -> list[Contrast]:
    """Return one contrast, several, or those of a localizer as a list."""
    if isinstance(given, Contrast):
        return [given]
    several = getattr(given, "contrasts", given)
    if (
        isinstance(several, str)
        or not isinstance(several, Sequence)
        or not all(isinstance(c, Contrast) for c in several)
    ):
        raise InputError(
            f"contrast is a Contrast, several of them or a localizer, got {given!r}: for instance "
            "Contrast('language', on='sentence', off='nonword')"
        )
    return list(several)


def _morans_i_tests(
    t: np.ndarray, sheet: Sheet, values: np.ndarray | None, sides: Sides, recipe: Recipe, n_null: int, seed: int
) -> np.ndarray:
    """Return the spatial statistics (statistic, contrast) of one layer's maps; NaN for a map that does not vary."""
    found = np.full((len(SPATIAL), len(t)), np.nan)
    usable = np.flatnonzero([varies(one) for one in t])
    if usable.size == 0:
        return found
    null = np.concatenate(
        [
            np.stack([np.asarray(morans_i(block[:, row], sheet)) for row in usable], axis=1)
            for block in layout_null_maps(t, sheet, n_null=n_null, seed=seed, values=values, sides=sides, recipe=recipe)
        ]
    )
    for column, row in enumerate(usable):
        found[:, row] = compare_with_null(float(morans_i(t[row], sheet)), null[:, column])
    return found


def _contrast_fields(activations: Activations, contrast: Contrast) -> dict[str, Any]:
    lengths = activations.read_lengths(contrast.by)
    shown = lengths[lengths["condition"].isin([*contrast.on, *contrast.off])]
    return {
        "name": contrast.name, "on": contrast.on, "off": contrast.off, "by": contrast.by,
        "read": shown.to_dict("records"),
    }  # fmt: skip


def _warn_of_lengths(activations: Activations, contrasts: Sequence[Contrast], sides: Sides) -> None:
    """Warn where one side of a contrast is much longer: nonwords are cut into twice the tokens of words."""
    if "n_tokens_read" not in activations.data.coords:
        return
    tokens = np.asarray(activations.data["n_tokens_read"].values, dtype=float)
    for one, (on, off) in zip(contrasts, sides.masks, strict=True):
        a, b = tokens[on].mean(), tokens[off].mean()
        if max(a, b) > LENGTH_RATIO * min(a, b):
            warnings.warn(
                f"contrast {one.name!r} compares {a:.1f} tokens a stimulus ({', '.join(one.on)}) with {b:.1f} "
                f"({', '.join(one.off)}): units may tell their length apart. A length-matched set, or "
                "extract(max_tokens=...), shows what is left",
                stacklevel=3,
            )
