"""localize: which units prefer one condition, and whether they lie together on the sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import xarray as xr

from topobrain._checks import InputError, require_choice, unknown
from topobrain.activations import Activations, UnitResult, sheets_attribute, unit_coords
from topobrain.results import Result
from topobrain.sheet import Sheet
from topobrain.stats.contrast import Alternative, fdr_bh, select_top, student_t, welch_t
from topobrain.stats.nulls import compare_with_null, layout_permutations
from topobrain.stats.spatial import layout_null, morans_i
from topobrain.stimuli import Contrast

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Bool

Test = Literal["welch", "student"]
TESTS = {"welch": welch_t, "student": student_t}
SPATIAL = ("morans_i", "null_mean", "null_sd", "z", "p_layout", "corrected")


class Selectivity(UnitResult):
    """t-values of every unit for one or more contrasts, each layer's Moran's I beside its layout null.

    ``t p q (contrast, unit)``: signed t, its p-value, and Benjamini-Hochberg q over all units of a contrast.
    ``morans_i null_mean null_sd z p_layout corrected (contrast, layer_name)``: how far neighbouring units of a layer
    are alike, beside the same map with its units' places permuted; NaN for a layer without layout.
    """

    kind: ClassVar[str] = "selectivity"
    schema: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "t": ("contrast", "unit"),
        "p": ("contrast", "unit"),
        "q": ("contrast", "unit"),
        "layer": ("unit",),
        **dict.fromkeys(SPATIAL, ("contrast", "layer_name")),
    }

    @property
    def contrasts(self) -> list[str]:
        """Names of the contrasts."""
        return [str(name) for name in self.data["contrast"].values]

    def contrast(self, name: str | None = None) -> str:
        """Return a contrast's name, checked; the only one if none is given."""
        if name is None:
            if len(self.contrasts) > 1:
                raise InputError(f"this result has several contrasts, name one: {self.contrasts}")
            return self.contrasts[0]
        if name not in self.contrasts:
            raise unknown("contrast", name, self.contrasts)
        return name

    def values(self, layer: str, variable: str = "t", *, contrast: str | None = None) -> np.ndarray:
        """Return one layer's values of ``t``, ``p`` or ``q`` (unit,)."""
        require_choice("variable", variable, ("t", "p", "q"))
        row = self.data[variable].sel(contrast=self.contrast(contrast))
        return np.asarray(row.values[self.unit_slice(layer)], dtype=np.float64)

    def select(
        self,
        *,
        top: float | int | None = None,
        q: float | None = None,
        contrast: str | None = None,
        layer: str | None = None,
    ) -> Bool[np.ndarray, " unit"]:
        """Return a mask over all units (unit,): the ``top`` units by signed t, or those with positive t and q below ``q``.

        Parameters
        ----------
        top
            A share of units (0.01 = the top 1 %) or an exact count; ties never enlarge the mask.
        q
            False discovery rate.
        contrast
            Name of the contrast, if there are several.
        layer
            Rank the units of this layer only (default: all layers jointly).
        """
        if (top is None) == (q is None):
            raise InputError("select by exactly one of top= and q=")
        t = np.array(self.data["t"].sel(contrast=self.contrast(contrast)).values, dtype=np.float64)
        inside = np.zeros(t.size, dtype=bool)
        inside[slice(None) if layer is None else self.unit_slice(layer)] = True
        if q is not None:
            if not 0 < q < 1:
                raise InputError(f"q is a false discovery rate between 0 and 1, got {q}")
            found = np.asarray(self.data["q"].sel(contrast=self.contrast(contrast)).values)
            return np.asarray((found < q) & (t > 0) & inside)
        mask = np.zeros(t.size, dtype=bool)
        mask[inside] = select_top(t[inside], top if top is not None else 0)
        return mask

    def summary(self) -> pd.DataFrame:
        """Return one row a contrast and layer: selective units, extreme t, Moran's I beside its layout null."""
        import pandas as pd

        rows = []
        for contrast in self.contrasts:
            for layer in self.layers:
                t, q = self.values(layer, contrast=contrast), self.values(layer, "q", contrast=contrast)
                spatial = self.data[list(SPATIAL)].sel(contrast=contrast, layer_name=layer)
                rows.append(
                    {
                        "contrast": contrast,
                        "layer": layer,
                        "n_units": t.size,
                        "n_selective": int(((q < 0.05) & (t > 0)).sum()),
                        "n_opposite": int(((q < 0.05) & (t < 0)).sum()),
                        "max_t": float(np.nanmax(t)) if np.isfinite(t).any() else np.nan,
                        **{name: float(spatial[name]) for name in SPATIAL},
                    }
                )
        return pd.DataFrame(rows)


def localize(
    activations: Activations,
    contrast: Contrast | Sequence[Contrast],
    *,
    test: Test = "welch",
    rectify: bool = False,
    alternative: Alternative = "two-sided",
    smooth: float | None = None,
    n_null: int = 1000,
    seed: int = 0,
) -> Selectivity:
    """Find the units that respond more to one condition than to another.

    Parameters
    ----------
    activations
        One row a stimulus, with the contrast's condition among the stimulus columns.
    contrast
        One contrast or several.
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
    n_null
        Layout permutations for Moran's I, 0 for none.
    seed
        Seed of the permutations.

    Returns
    -------
    Selectivity
        A unit that is constant within both conditions has t, p and q of NaN.

    References
    ----------
    Fedorenko et al. (2010), J. Neurophysiol. 104:1177; AlKhamissi et al. (2025), NAACL (localizers for language models).
    """
    contrasts = [contrast] if isinstance(contrast, Contrast) else list(contrast)
    require_choice("test", test, tuple(TESTS))
    names = [one.name for one in contrasts]
    if not contrasts or len(set(names)) != len(names):
        raise InputError(f"contrasts need different names, one or more of them; got {names}")
    if n_null < 0 or n_null == 1 or seed < 0:
        raise InputError(f"n_null must be 0 (no null) or at least 2, and seed at least 0; got {n_null} and {seed}")
    sheets = activations.sheets
    n_units = activations.data.sizes["unit"]
    t, p = np.full((len(contrasts), n_units), np.nan), np.full((len(contrasts), n_units), np.nan)
    spatial = {name: np.full((len(contrasts), len(sheets)), np.nan) for name in SPATIAL}
    for column, (layer, sheet) in enumerate(sheets.items()):
        raw = np.asarray(activations.values(layer), dtype=np.float64)
        values = np.abs(raw) if rectify else raw
        kernel = None
        if smooth:
            sheet.require_layout(f"smoothing layer {layer!r}")
            kernel = sheet.smoothing(smooth)
            values = values @ kernel.T
        for row, one in enumerate(contrasts):
            on, off = one.masks(stimulus_labels(activations, one.by))
            result = TESTS[test](values[on], values[off], alternative=alternative)
            units = activations.unit_slice(layer)
            t[row, units], p[row, units] = result
            if n_null and sheet.has_layout and _varies(result.t):
                null = _layout_null(
                    np.abs(raw) if rectify else raw, result.t, on, off, sheet, kernel, test, n_null, seed
                )
                found = compare_with_null(float(morans_i(result.t, sheet)), null)
                for name, value in zip(SPATIAL, found, strict=True):
                    spatial[name][row, column] = value
    data = xr.Dataset(
        {
            "t": (("contrast", "unit"), t),
            "p": (("contrast", "unit"), p),
            "q": (("contrast", "unit"), np.stack([fdr_bh(row) for row in p])),
            **{name: (("contrast", "layer_name"), array) for name, array in spatial.items()},
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
                        "contrasts": [{"name": c.name, "on": c.on, "off": c.off, "by": c.by} for c in contrasts],
                        "test": test, "rectify": rectify, "alternative": alternative, "smooth": smooth,
                        "null": "layout", "n_null": n_null, "seed": seed,
                    },
                }
            ),
        },
    )  # fmt: skip
    return Selectivity(data)


def stimulus_labels(activations: Activations, column: str) -> np.ndarray:
    """Return a column of the stimuli (stimulus,), or raise with near names."""
    columns = [str(name) for name, coord in activations.data.coords.items() if coord.dims == ("stimulus",)]
    if column not in columns:
        raise unknown("stimulus column", column, columns)
    return activations.labels(column)


def _varies(t: np.ndarray) -> bool:
    finite = t[np.isfinite(t)]
    return finite.size >= 3 and bool(np.ptp(finite) > 0)


def _layout_null(
    values: np.ndarray, t: np.ndarray, on: np.ndarray, off: np.ndarray, sheet: Sheet, kernel: np.ndarray | None,
    test: Test, n_null: int, seed: int,
) -> np.ndarray:  # fmt: skip
    if kernel is None:
        return layout_null(t, sheet, n_null=n_null, seed=seed)
    maps = np.empty((n_null, sheet.n_units))
    for draw, order in enumerate(layout_permutations(sheet.n_units, n_null, seed=seed)):
        smoothed = values[:, order] @ kernel.T
        maps[draw] = TESTS[test](smoothed[on], smoothed[off]).t
    return np.asarray(morans_i(maps, sheet))


class Profile(Result):
    """Responses of selected units to every condition, in stimuli that took no part in their selection.

    ``response (fold, condition)``: mean activation of the selected units; ``t (fold, contrast)``: t of their mean
    response in the held-out stimuli; ``selected (fold, unit)``: the units.
    """

    kind: ClassVar[str] = "profile"
    schema: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "response": ("fold", "condition"),
        "t": ("fold",),
        "p": ("fold",),
        "selected": ("fold", "unit"),
    }

    def summary(self) -> pd.DataFrame:
        """Return one row a condition: mean held-out response over folds; the contrast's held-out t in every row."""
        import pandas as pd

        return pd.DataFrame(
            {
                "condition": self.labels("condition"),
                "response": np.nanmean(self.data["response"].values, axis=0),  # a part may lack a condition
                "held_out_t": float(self.data["t"].values.mean()),
                "n_units": int(self.data["selected"].values[0].sum()),
            }
        )


def response_profile(
    activations: Activations,
    contrast: Contrast,
    *,
    split: Literal["odd-even"] | str = "odd-even",
    top: float | int = 0.01,
    layer: str | None = None,
    test: Test = "welch",
) -> Profile:
    """Select units on one part of the stimuli and measure them on the other.

    Parameters
    ----------
    activations, contrast, test
        As in `localize`.
    split
        ``"odd-even"``: every other stimulus of each condition; or a stimulus column (``"set"``, ``"run"``): leave one of
        its values out.
    top
        Units to select by signed t: a share or an exact count.
    layer
        Select within this layer only.

    Returns
    -------
    Profile
        Without true selectivity the held-out t is about 0, however large t is in the stimuli of the selection.
    """
    labels = stimulus_labels(activations, contrast.by)
    on, off = contrast.masks(labels)
    if split == "odd-even":
        part = np.zeros(len(labels), dtype=object)
        for condition in np.unique(labels):
            rows = np.flatnonzero(labels == condition)
            part[rows] = np.arange(rows.size) % 2
    else:
        part = stimulus_labels(activations, split)
    parts = list(dict.fromkeys(part.tolist()))
    if len(parts) < 2:
        raise InputError(f"split {split!r} has one value only: nothing would be held out")
    layers = [layer] if layer else activations.layers
    values = np.concatenate([activations.values(name) for name in layers], axis=1).astype(np.float64)
    conditions = list(dict.fromkeys(labels.tolist()))
    response, t, p, chosen = [], [], [], []
    for held_out in parts:
        test_rows = part == held_out
        for side, mask in (("on", on), ("off", off)):
            for where, rows in (("held-out", test_rows), ("selection", ~test_rows)):
                if (mask & rows).sum() < 2:
                    raise InputError(
                        f"split {split!r} leaves fewer than two {side!r} stimuli in the {where} part {held_out!r}"
                    )
        found = TESTS[test](values[on & ~test_rows], values[off & ~test_rows])
        mask = select_top(found.t, top)
        mean = values[:, mask].mean(axis=1, keepdims=True)
        outcome = TESTS[test](mean[on & test_rows], mean[off & test_rows])
        shown = [test_rows & (labels == condition) for condition in conditions]
        response.append([float(mean[rows].mean()) if rows.any() else np.nan for rows in shown])
        t.append(float(outcome.t[0]))
        p.append(float(outcome.p[0]))
        chosen.append(mask)
    fields: dict[str, Any] = {key: value for key, value in activations.provenance.items() if key != "versions"}
    fields["profile"] = {
        "contrast": {"name": contrast.name, "on": contrast.on, "off": contrast.off, "by": contrast.by},
        "split": split, "top": top, "layer": layer, "test": test,
    }  # fmt: skip
    data = xr.Dataset(
        {
            "response": (("fold", "condition"), np.array(response)),
            "t": (("fold",), np.array(t)),
            "p": (("fold",), np.array(p)),
            "selected": (("fold", "unit"), np.array(chosen)),
        },
        coords={
            "fold": ("fold", np.array([str(name) for name in parts], dtype=object)),
            "condition": ("condition", np.array(conditions, dtype=object)),
        },
        attrs=Profile.attributes(fields),
    )
    return Profile(data)
