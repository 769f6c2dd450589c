"""What summed influence of swaps says of each unit: curves, fits, errors, reliability, yoking, and maps beside their null."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from topobrain._checks import InputError
from topobrain.integration.reading import Direction
from topobrain.integration.result import MAPS, RELIABLE
from topobrain.selectivity.result import SPATIAL
from topobrain.sheet import Sheet
from topobrain.stats.integration_windows import (
    FORMS,
    InfluenceSums,
    Normalise,
    choose_form,
    fit_windows,
    identifiable,
    split_half,
    split_half_matrix,
    window_width,
    yoking_index,
    yoking_steps,
)
from topobrain.stats.morans import morans_i_test

N_HALVES = 10
"""Random halvings of the sequences that reliability is averaged over."""

SAME = 1e-9
"""Difference below which two curves are one curve, whatever their correlation, and a map has one value."""

KNOWN_SHARE = 0.25
"""Share of a sheet's units whose value must be known for a map: of scattered units few neighbours are left."""

DRAWS_AT_ONCE = 10
"""Bootstrap draws whose curves are made together."""


@dataclass(frozen=True)
class Study:
    """What was summed, and what is to be made of it."""

    sums: InfluenceSums
    sheets: dict[str, Sheet]
    normalise: Normalise
    direction: Direction
    sentence_words: int
    seed: int

    @property
    def n_groups(self) -> int:
        """Groups of sequences."""
        return len(self.sums.n_sequences)

    @property
    def forward(self) -> slice:
        """The lags from 0 on: words after the swapped one."""
        return slice(self.sums.window.zero, None)

    @property
    def lags(self) -> np.ndarray:
        """The lags from 0 on (lag,)."""
        return self.sums.window.lags[self.forward]

    def layer_units(self) -> list[slice]:
        """Return the units of each layer."""
        edges = np.cumsum([0, *(sheet.n_units for sheet in self.sheets.values())])
        return [slice(start, stop) for start, stop in itertools.pairwise(edges.tolist())]

    def curves(self, weight: np.ndarray | None = None) -> np.ndarray:
        """Return influence curves (draw, lag, unit), see `InfluenceSums.curves`."""
        return self.sums.curves(weight, normalise=self.normalise)

    @property
    def widened(self) -> float:
        """What standard errors of draws of groups are too small by: g groups drawn with replacement spread as g - 1 do."""
        return float(np.sqrt(self.n_groups / (self.n_groups - 1)))

    @property
    def yoked(self) -> bool:
        """Whether sequences have sentences to be yoked to."""
        return self.sums.ahead is not None


def measure_windows(study: Study, *, n_bootstrap: int, n_null: int, folds: int, max_se: float) -> dict[str, Any]:
    """Return all variables of an `Integration`; see `integrate` for the options."""
    theta = study.curves()[0]
    n_units = theta.shape[1]
    silent = ~np.isfinite(theta).all(axis=0)
    if silent.all():
        raise InputError(
            "no swap changes any unit at the swapped word itself: is the model's input used, and is the layer a function of "
            "the words?"
        )
    if silent.any():
        warnings.warn(
            f"{int(silent.sum())} of {n_units} units do not change with the word they are measured at; they have no curve",
            stacklevel=3,
        )
    forward = theta[study.forward]
    fit = fit_windows(forward) if study.direction.causal else None
    width = window_width(forward, study.lags)
    steps = yoking_steps(study.sums, normalise=study.normalise)[0] if study.yoked else None
    nothing = np.full(n_units, np.nan)
    unit = {
        "a": fit.a if fit else nothing, "b": fit.b if fit else nothing, "c": fit.c if fit else nothing,
        "r2": fit.r2 if fit else nothing, "width": width.half, "centre": width.centre,
        "yoking": yoking_index(steps, study.sentence_words) if steps is not None else nothing,
        "influence": study.sums.sizes()[0] / study.sums.n_sequences.sum(),
    }  # fmt: skip
    draws = _bootstrap(study, (fit.a, fit.b) if fit else None, n_bootstrap)
    unit |= {f"{name}_se": study.widened * _spread(values) for name, values in draws.maps.items()}
    known = (
        identifiable(
            fit.c, draws.theta_se[study.forward] if n_bootstrap else None, a=fit.a, lags=study.lags, max_se=max_se
        )
        if fit
        else None
    )
    reliability, layer_reliability = _reliability(study)
    unit["reliability"] = reliability
    bic = np.full((len(FORMS), n_units), np.nan)
    losses, best = np.full((len(FORMS), n_units), np.nan), np.full(n_units, -1)
    if fit is not None:
        bic = np.stack([fit_windows(forward, form=form).bic for form in FORMS])
        if folds:
            losses, best = _held_out(study, folds)
    found: dict[str, Any] = {
        "theta": (("lag", "unit"), theta),
        "theta_se": (("lag", "unit"), draws.theta_se),
        **{name: (("unit",), values) for name, values in unit.items()},
        "ambiguous": (("unit",), fit.ambiguous if fit else np.zeros(n_units, bool)),
        **{f"{name}_known": (("unit",), getattr(known, name) if known else np.zeros(n_units, bool)) for name in "abc"},
        "best_form": (("unit",), best),
        "bic": (("form", "unit"), bic),
        "held_out_loss": (("form", "unit"), losses),
        "layer_reliability": (("layer_name",), layer_reliability),
        "floor": (("layer_name",), _floor(study)),
        "yoking_step": (("position", "layer_name"), _layer_steps(study, steps)),
    }
    reliable = reliability >= RELIABLE
    told = {name: found[f"{name}_known"][1] if name in "abc" else reliable for name in MAPS}
    found["layer_draws"] = (("map", "draw", "layer_name"), _layer_draws(study, draws, told))
    return found | _spatial(study, found, told, n_null)


class _Draws(NamedTuple):
    """What draws of sequences give: standard errors of theta (lag, unit), and each map of every draw (draw, unit)."""

    theta_se: np.ndarray
    maps: dict[str, np.ndarray]


def _bootstrap(study: Study, start: tuple[np.ndarray, np.ndarray] | None, n_bootstrap: int) -> _Draws:
    """Draw groups of sequences with replacement, and make curves, windows, widths and yoking of each draw."""
    sums = study.sums
    shape = (sums.window.lags.size, sums.n_units)
    if not n_bootstrap:
        return _Draws(np.full(shape, np.nan), {name: np.full((0, shape[1]), np.nan) for name in MAPS})
    rng = np.random.default_rng((study.seed, 1))
    weight = rng.multinomial(study.n_groups, np.full(study.n_groups, 1 / study.n_groups), size=n_bootstrap)
    total, square = np.zeros(shape), np.zeros(shape)
    centre = study.curves()[0]
    draws = {name: np.full((n_bootstrap, shape[1]), np.nan) for name in MAPS}
    for first in range(0, n_bootstrap, DRAWS_AT_ONCE):
        rows = slice(first, min(first + DRAWS_AT_ONCE, n_bootstrap))
        curves = study.curves(weight[rows])
        total += (curves - centre).sum(axis=0)
        square += ((curves - centre) ** 2).sum(axis=0)
        if study.yoked:
            draws["yoking"][rows] = yoking_index(
                yoking_steps(sums, weight[rows], normalise=study.normalise), study.sentence_words
            )
        for number, curve in enumerate(curves, start=first):
            draws["width"][number] = window_width(curve[study.forward], study.lags).half
            if start is not None:
                fit = fit_windows(curve[study.forward], starts=start)
                draws["a"][number], draws["b"][number], draws["c"][number] = fit.a, fit.b, fit.c
    variance = (square - total**2 / n_bootstrap) / (n_bootstrap - 1)
    return _Draws(study.widened * np.sqrt(np.maximum(variance, 0)), draws)


def _layer_draws(study: Study, draws: _Draws, told: dict[str, np.ndarray]) -> np.ndarray:
    """Return each layer's median over the units whose value is known, in every draw (map, draw, layer)."""
    found = np.full((len(MAPS), len(draws.maps["c"]), len(study.sheets)), np.nan)
    for row, name in enumerate(MAPS):
        for column, units in enumerate(study.layer_units()):
            values = draws.maps[name][:, units][:, told[name][units]]
            if values.size:
                with warnings.catch_warnings():
                    warnings.simplefilter(
                        "ignore", RuntimeWarning
                    )  # a map that does not exist has no value in any draw
                    found[row, :, column] = np.nanmedian(values, axis=1)
    return found


def _spread(draws: np.ndarray) -> np.ndarray:
    """Return the standard deviation over the draws that have a value; NaN where fewer than half have one."""
    enough = np.isfinite(draws).sum(axis=0) > max(1, len(draws) // 2)
    found = np.full(draws.shape[1], np.nan)
    if enough.any():
        found[enough] = np.nanstd(draws[:, enough], axis=0, ddof=1)
    return found


def _reliability(study: Study) -> tuple[np.ndarray, np.ndarray]:
    """Return split-half reliability of each unit's curve, and of each layer's curves together."""
    rng, lags = np.random.default_rng((study.seed, 2)), study.sums.window.lags
    halves = np.zeros((N_HALVES, 2, study.n_groups))
    for half in halves:
        half[0, rng.permutation(study.n_groups)[: study.n_groups // 2]] = 1
        half[1] = 1 - half[0]
    curves = study.curves(halves.reshape(2 * N_HALVES, -1))
    units, layers = [], []
    for first, second in zip(curves[::2], curves[1::2], strict=True):
        alike = np.abs(first - second).max(axis=0) < SAME  # a curve of zeros has no correlation
        units.append(np.where(alike, 1.0, split_half(first, second, lags)))
        layers.append(
            [
                1.0 if alike[one].all() else split_half_matrix(first[:, one], second[:, one], lags)
                for one in study.layer_units()
            ]
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # units without a curve have no reliability
        return np.nanmean(units, axis=0), np.nanmean(layers, axis=0)


def _held_out(study: Study, folds: int) -> tuple[np.ndarray, np.ndarray]:
    """Return held-out squared errors (form, unit) of the three forms, and the best of each unit."""
    n_folds = min(folds, study.n_groups)
    rng = np.random.default_rng((study.seed, 3))
    fold = rng.permutation(np.arange(study.n_groups) % n_folds)
    test = np.stack([(fold == number).astype(float) for number in range(n_folds)])
    curves = [study.curves(weight)[:, study.forward] for weight in (1 - test, test)]
    choice = choose_form(*curves)
    return choice.loss, choice.best


def _floor(study: Study) -> np.ndarray:
    """Return the largest change without a swap, relative to the median change at a swap (layer,)."""
    assert study.sums.floor is not None
    sizes = study.sums.sizes()[0] / study.sums.n_sequences.sum()
    found = []
    for units in study.layer_units():
        typical = float(np.median(sizes[units]))
        found.append(float(study.sums.floor[units].max()) / typical if typical > 0 else np.nan)
    return np.array(found)


def _layer_steps(study: Study, steps: np.ndarray | None) -> np.ndarray:
    """Return the median over units of the yoking step at each word (position, layer)."""
    if steps is None:
        return np.full((study.sums.window.n_words, len(study.sheets)), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the first and last words have no step
        return np.stack([np.nanmedian(steps[:, units], axis=1) for units in study.layer_units()], axis=1)


def _spatial(study: Study, found: dict[str, Any], told: dict[str, np.ndarray], n_null: int) -> dict[str, Any]:
    """Return Moran's I of every map beside its layout null, over the units whose value is known."""
    spatial = np.full((len(SPATIAL), len(MAPS), len(study.sheets)), np.nan)
    for column, (sheet, units) in enumerate(zip(study.sheets.values(), study.layer_units(), strict=True)):
        if not sheet.has_layout or not n_null:
            continue
        for row, name in enumerate(MAPS):
            values = np.array(found[name][1][units], dtype=np.float64)
            values[~told[name][units]] = np.nan
            keep = np.flatnonzero(np.isfinite(values))
            few = keep.size < max(3, KNOWN_SHARE * values.size)
            if few or np.ptp(values[keep]) < SAME or not sheet.neighbours()[keep][:, keep].nnz:
                continue  # too few units are known for a map
            spatial[:, row, column] = morans_i_test(values, sheet, n_null=n_null, seed=study.seed)
    return {name: (("map", "layer_name"), spatial[index]) for index, name in enumerate(SPATIAL)}
