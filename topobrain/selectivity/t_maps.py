"""From activations to t-maps: one way of computing them for values, nulls and held-out tests alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from topobrain._checks import InputError, unknown
from topobrain.activations import Activations
from topobrain.sheet import Sheet, SmoothingEdges
from topobrain.stats.contrast import TMap, TTest
from topobrain.stats.label_permutations import permuted_t_maps
from topobrain.stats.moments import Moments, StreamedMoments, group_moments
from topobrain.stimuli import Contrast

UNIT_BLOCK = 16_384
"""Units read and tested at a time: a million units never lie in memory at once."""

SMOOTHED_VALUES = 8_000_000
"""Values smoothed at a time, in float64 (nulls are smoothed in float32)."""

NULL_VALUES = 4_000_000
"""Values of null maps held at a time."""

MAP_BLOCK = 50
"""Null maps handed on at a time."""


@dataclass(frozen=True)
class Recipe:
    """Everything that changes the numbers of a t-map."""

    test: TTest
    smooth: float = 0.0
    edges: SmoothingEdges = "normalised"

    def prepare(self, values: np.ndarray, sheet: Sheet) -> np.ndarray:
        """Rectify and smooth activations (stimulus, unit), as far as the recipe says so."""
        ready = np.abs(values) if self.test.rectify else values
        return sheet.smooth(ready, self.smooth, edges=self.edges) if self.smooth else ready


@dataclass(frozen=True)
class Sides:
    """The two sides of several contrasts over the same stimuli, as groups of stimuli that no contrast tells apart."""

    codes: np.ndarray
    on: tuple[tuple[int, ...], ...]
    off: tuple[tuple[int, ...], ...]
    masks: tuple[tuple[np.ndarray, np.ndarray], ...]

    @classmethod
    def of(cls, activations: Activations, contrasts: Sequence[Contrast]) -> Sides:
        """Find the groups; a contrast whose conditions are not there raises."""
        masks = tuple(one.masks(stimulus_labels(activations, one.by)) for one in contrasts)
        side = np.stack([on.astype(int) - off.astype(int) for on, off in masks], axis=1)
        patterns, codes = np.unique(side, axis=0, return_inverse=True)
        codes = np.where((side == 0).all(axis=1), -1, codes.ravel())
        on, off = (
            tuple(tuple(np.flatnonzero(patterns[:, c] == sign).tolist()) for c in range(len(masks))) for sign in (1, -1)
        )
        return cls(codes, on, off, masks)

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return 1 + max(max(groups) for groups in (*self.on, *self.off))

    def t_maps(self, values: np.ndarray, test: TTest) -> TMap:
        """Return t and p (contrast, unit) of prepared activations (stimulus, unit)."""
        return self.of_moments(group_moments(values, self.codes, self.n_groups), test)

    def of_moments(self, moments: Moments, test: TTest) -> TMap:
        """Return t and p (contrast, unit) of the groups' moments."""
        maps = [test.of_moments(moments.side(on), moments.side(off)) for on, off in zip(self.on, self.off, strict=True)]
        return TMap(np.stack([one.t for one in maps]), np.stack([one.p for one in maps]))


def stimulus_labels(activations: Activations, column: str) -> np.ndarray:
    """Return a column of the stimuli (stimulus,), or raise with near names."""
    columns = [str(name) for name, coord in activations.data.coords.items() if coord.dims == ("stimulus",)]
    if column not in columns:
        raise unknown("stimulus column", column, columns)
    return activations.labels(column)


def varies(t: np.ndarray) -> bool:
    """Whether a map has at least three values, not all the same: less has no Moran's I."""
    finite = t[np.isfinite(t)]
    return finite.size >= 3 and bool(np.ptp(finite) > 0)


def layer_t_maps(activations: Activations, layer: str, sides: Sides, recipe: Recipe) -> TMap:
    """Return t and p (contrast, unit) of one layer, read block by block from disk unless it is smoothed."""
    sheet = activations.sheet(layer)
    if recipe.smooth:
        sheet.require_layout(f"smoothing layer {layer!r}")
        values = activations.values(layer)
        moments = StreamedMoments(sides.n_groups, sheet.n_units)
        rows = max(1, SMOOTHED_VALUES // sheet.n_units)
        for start in range(0, len(values), rows):
            batch = slice(start, start + rows)
            moments.add(recipe.prepare(values[batch].astype(np.float64), sheet), sides.codes[batch])
        return sides.of_moments(moments.result(), recipe.test)
    blocks = [
        sides.t_maps(recipe.prepare(activations.values(layer, slice(start, start + UNIT_BLOCK)), sheet), recipe.test)
        for start in range(0, sheet.n_units, UNIT_BLOCK)
    ]
    return TMap(np.concatenate([b.t for b in blocks], axis=1), np.concatenate([b.p for b in blocks], axis=1))


def layout_null_maps(
    t: np.ndarray, sheet: Sheet, *, n_null: int, seed: int, values: np.ndarray | None = None,
    sides: Sides | None = None, recipe: Recipe | None = None,
) -> Iterator[np.ndarray]:  # fmt: skip
    """Yield blocks (null, contrast, unit) of t-maps whose units have changed places.

    Where activations are smoothed, units change places *before* smoothing: smoothing alone makes patches. Otherwise the
    t-values themselves change places, and units without a t-value stay where they are.

    Parameters
    ----------
    t
        The maps (contrast, unit).
    sheet
        Places of the units.
    n_null, seed
        Number of permutations, and their seed.
    values, sides, recipe
        Activations (stimulus, unit) and how they become t-maps, needed where the recipe smooths.
    """
    smoothed = recipe is not None and recipe.smooth > 0
    if smoothed and (values is None or sides is None):
        raise InputError(
            "the map was smoothed: its layout null permutes places before smoothing and needs the activations"
        )
    for part in order_blocks(sheet.n_units, n_null, seed=seed, n_maps=len(t)):
        if smoothed:
            assert recipe is not None
            assert values is not None
            assert sides is not None
            yield np.stack([sides.t_maps(recipe.prepare(values[:, order], sheet), recipe.test).t for order in part])
        else:
            yield permuted_places(t, part)


def order_blocks(n_units: int, n_null: int, *, seed: int, n_maps: int = 1) -> Iterator[np.ndarray]:
    """Yield the permutations of `layout_permutations` a block at a time, so that large sheets do not fill the memory."""
    rng = np.random.default_rng(seed)
    block = int(np.clip(NULL_VALUES // (n_units * n_maps), 1, MAP_BLOCK))
    for start in range(0, n_null, block):
        yield rng.permuted(np.tile(np.arange(n_units), (min(block, n_null - start), 1)), axis=1)


def permuted_places(maps: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Return maps (map, unit) with their values in each order (order, unit) of places: (order, map, unit).

    Missing values stay where they are.
    """
    result = np.repeat(maps[None], len(orders), axis=0)
    for row, one in enumerate(maps):
        present = np.isfinite(one)
        if present.all():
            result[:, row] = one[orders]
        else:
            result[:, row, present] = one[orders[present[orders]].reshape(len(orders), -1)]
    return result


def label_null_maps(
    values: np.ndarray, sheet: Sheet, sides: Sides, recipe: Recipe, *, n_null: int, seed: int
) -> Iterator[np.ndarray]:
    """Yield blocks (null, contrast, unit) of t-maps whose stimuli have changed sides.

    Units keep their places and their correlations: the null of "is this contrast more patchy than any contrast".
    """
    ready = recipe.prepare(values, sheet)
    every = [
        permuted_t_maps(ready, on, off, n_permutations=n_null, seed=seed, test=recipe.test) for on, off in sides.masks
    ]
    for start in range(0, n_null, MAP_BLOCK):
        yield np.stack([maps[start : start + MAP_BLOCK] for maps in every], axis=1)


def recipe_of(fields: dict[str, Any]) -> Recipe:
    """Return the recipe that a result's provenance records."""
    known = {
        name: fields[name] for name in ("test", "ddof", "rectify", "alternative", "zero_variance") if name in fields
    }
    return Recipe(TTest(**known), float(fields.get("smooth") or 0.0), fields.get("edges", "normalised"))
