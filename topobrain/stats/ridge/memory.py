"""How much memory and work a nested ridge takes, before it starts."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from topobrain._checks import InputError, listed

TILE = 512
"""Voxels solved at a time on a processor: enough for full-speed products, small enough for its cache."""

SEARCH_TILE = 1024
"""The same where a penalty is tried at some voxels of a tile only (these, too, shall be many), and in closed form."""

TILES_TOGETHER = 2
"""Tiles are as many as a multiple of this."""

FEWEST_PENALTIES, FEWEST_VOXELS = 8, 2048
"""Penalties and voxels from which the least loss is searched for, instead of computing all."""

SEARCHED = 0.4
"""Share of the penalties that a search computes, about: it decides on the route."""

DEVICE_TILE = 8192
"""The same on an accelerator."""

SMALLEST_TILE = 16

EIGH_PRODUCTS = 6
"""An eigen-decomposition takes about as long as so many products of its side."""

MOST_EVALUATED = 32
"""Penalties at most whose predictions are held at once: more are no more than mixtures of these in float32."""

MIXED_AT_ONCE = 5
"""Penalties whose residuals are mixed from predictions at others in one product."""

TRIANGLE_BYTES = 512 * 2**20
"""Triangles (one a penalty) held at once where no bound is given."""

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}

FLOAT64_FLOPS = 5e10
"""``precision="auto"`` computes everything in float64 up to this many operations: a second or two on one core."""


@dataclass(frozen=True)
class FoldSizes:
    """Sizes of a nested fit: counts of stimuli, features, voxels and penalties.

    Attributes
    ----------
    n_stimuli, n_features, n_voxels, n_alphas
        Of the whole.
    n_train, n_test
        Largest outer fold.
    inner_train, inner_validation
        Largest inner fold.
    n_outer, n_inner
        Numbers of folds.
    """

    n_stimuli: int
    n_features: int
    n_voxels: int
    n_alphas: int
    n_train: int
    n_test: int
    inner_train: int
    inner_validation: int
    n_outer: int
    n_inner: int

    @classmethod
    def even(
        cls, n_stimuli: int, n_features: int, n_voxels: int, n_alphas: int, n_outer: int = 5, n_inner: int = 5
    ) -> FoldSizes:
        """Return the sizes for folds of equal size."""
        test = -(-n_stimuli // n_outer)
        train = n_stimuli - test
        validation = -(-train // n_inner)
        return cls(
            n_stimuli, n_features, n_voxels, n_alphas, train, test, train - validation, validation, n_outer, n_inner
        )


@dataclass(frozen=True)
class MemoryPlan:
    """What a nested fit allocates beyond its inputs, and how much it does at a time.

    Attributes
    ----------
    parts
        Bytes of each part.
    tile
        Voxels at a time, in each thread.
    alphas
        Triangles (one a penalty) held at once; 0 for the route without them.
    precision
        ``"float64"``, ``"mixed"`` or ``"float32"``.
    flops
        Estimated floating-point operations.
    operators
        Bytes that prediction operators (one a chosen penalty) may take, in the place of the triangles and in that of
        their own; with more of them held-out rows are predicted through the eigenbasis.
    bounded
        It was made for a bound.
    crossed
        Products of features and responses are made beside a decomposition (`topobrain.stats.ridge.closed_form`).
    """

    parts: dict[str, int]
    tile: int
    alphas: int
    precision: str
    flops: float
    operators: int = 0
    bounded: bool = False
    crossed: bool = False

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values())


def parse_memory(given: int | float | str | None) -> int | None:
    """Return bytes from a number of bytes or a text.

    >>> parse_memory("2 GiB"), parse_memory("1.5MB"), parse_memory(4096), parse_memory(None)
    (2147483648, 1500000, 4096, None)
    """
    if given is None:
        return None
    if isinstance(given, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", given)
        if match is None or match[2].upper() not in UNITS:
            raise InputError(f"max_memory {given!r} is no size; expected bytes or a text such as '2 GiB' or '500 MB'")
        given = float(match[1]) * UNITS[match[2].upper()]
    if isinstance(given, bool) or not 0 < given < float("inf"):
        raise InputError(f"max_memory must be a positive number of bytes, got {given!r}")
    return int(given)


def readable(size: float) -> str:
    """Return bytes in words.

    >>> readable(3 * 2**29)
    '1.50 GiB'
    """
    for unit, step in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= step:
            return f"{size / step:.2f} {unit}"
    return f"{size:.0f} bytes"


def estimate_flops(sizes: FoldSizes, selection: str, standardize: bool) -> float:
    """Return the floating-point operations of a nested fit: products, and decompositions as what they cost beside them.

    An eigen-decomposition of side m counts as 12 m^3 (measured: it takes as long as a product of so many operations).
    """
    s = sizes
    side, inner_side = min(s.n_train, s.n_features), min(s.inner_train, s.n_features)
    gram = 2.0 * s.n_stimuli * s.n_features * min(s.n_stimuli, s.n_features)
    refit = 12.0 * side**3 + 2.0 * s.n_test * s.n_voxels * s.n_train + 2.0 * side * s.n_test * s.n_train * s.n_alphas
    if s.n_alphas == 1:
        choice = 0.0
    elif selection == "gcv":
        choice = 2.0 * side * s.n_train * s.n_voxels
    elif selection == "loo":
        choice = s.n_alphas * s.n_train**2 * (s.n_voxels + 2.0 * side + 2.7 * s.n_train)
    else:
        choice = s.n_inner * 12.0 * inner_side**3 + min(_route_flops(s))
    if standardize:
        gram *= s.n_outer * (1 + (s.n_inner if selection == "kfold" else 0))
    return gram + s.n_outer * (choice + refit)


def _route_flops(sizes: FoldSizes) -> tuple[float, float]:
    """Return the operations of the triangular and the rotated route of `topobrain.stats.ridge.selection`."""
    s = sizes
    validated, inner_side = min(s.n_train, s.n_inner * s.inner_validation), min(s.inner_train, s.n_features)
    tried = s.n_alphas * (SEARCHED if is_searched(s, "kfold") else 1.0)
    triangular = tried * (2 * s.n_train - validated) * validated * s.n_voxels + s.n_alphas * (
        2.0 * s.n_inner * s.inner_validation * inner_side * s.inner_train + 2.7 * s.n_train**2 * validated
    )
    height = min(s.inner_validation, inner_side)
    return triangular, 2.0 * s.n_inner * inner_side * s.n_voxels * (s.inner_train + tried * height)


def is_searched(sizes: FoldSizes, selection: str) -> bool:
    """Return whether the least loss of a voxel is searched for."""
    return selection != "gcv" and sizes.n_alphas >= FEWEST_PENALTIES and sizes.n_voxels >= FEWEST_VOXELS


def needs_triangles(sizes: FoldSizes, selection: str, precision: str) -> bool | None:
    """Return whether triangles are the only way (True), no use (False), or to be weighed up (None)."""
    if selection == "gcv" or sizes.n_alphas == 1:
        return False
    if selection == "loo":
        return True if precision != "float64" else None
    triangular, rotated = _route_flops(sizes)
    return False if rotated < 0.5 * triangular else None


def memory_plan(
    sizes: FoldSizes,
    *,
    selection: Literal["kfold", "gcv", "loo"] = "kfold",
    standardize: bool = False,
    precision: Literal["auto", "float64", "mixed", "float32"] = "auto",
    max_memory: int | str | None = None,
    threads: int = 1,
    weights: bool = False,
    accelerator: bool = False,
) -> MemoryPlan:
    """Say what a nested fit will allocate beyond its inputs, part by part, and fit it under a bound.

    Parameters
    ----------
    sizes
        Stimuli, features, voxels, penalties and folds.
    selection, standardize, precision, max_memory, threads
        As in `topobrain.stats.ridge.nested_ridge`.
    weights
        Weights (feature, voxel) are wanted instead of predictions.
    accelerator
        The work is done on a GPU: wider tiles.

    Raises
    ------
    InputError
        The bound is too small; the message says the least that fits and what takes it.

    Examples
    --------
    >>> plan = memory_plan(FoldSizes.even(1000, 3072, 10_000, 20), max_memory="1 GiB")
    >>> plan.precision, plan.total < 2**30
    ('mixed', True)
    """
    bound = parse_memory(max_memory)
    flops = estimate_flops(sizes, selection, standardize)
    chosen = precision if precision != "auto" else ("float64" if flops <= FLOAT64_FLOPS else "mixed")
    searched = is_searched(sizes, selection)
    widest = DEVICE_TILE if accelerator else SEARCH_TILE if searched or selection == "gcv" else TILE
    tile = min(widest, max(sizes.n_voxels, SMALLEST_TILE))
    if sizes.n_voxels > tile and not accelerator:  # as many tiles for each of two threads
        tile = -(-sizes.n_voxels // (TILES_TOGETHER * -(-sizes.n_voxels // (TILES_TOGETHER * tile))))
    fixed = _fixed_parts(sizes, selection, standardize, chosen, weights, threads)
    need = needs_triangles(sizes, selection, chosen)
    triangle = 0 if need is False else int((8 if chosen == "float64" else 4) * sizes.n_train**2 * 0.55)
    least_alphas = 1 if need else 0

    def plan(tile: int, alphas: int) -> MemoryPlan:
        parts = {
            **fixed,
            "triangles": int(alphas * triangle * (1 + SEARCHED * searched)),
            f"tiles of {tile} voxels": threads * _tile_bytes(sizes, selection, chosen, tile, alphas),
            "operators being made": threads * 8 * triangle if alphas else 0,
        }
        parts = {name: size for name, size in parts.items() if size}
        return MemoryPlan(parts, tile, alphas, chosen, flops, bounded=bound is not None)

    room = TRIANGLE_BYTES if bound is None else bound
    alphas = max(1, min(sizes.n_alphas, room // triangle)) if triangle else 0
    if bound is None:
        most = plan(tile, alphas)
        return _with_operators(
            _with_crossed(most, sizes, selection, weights, None), sizes, weights, TRIANGLE_BYTES, threads
        )
    while (tile > SMALLEST_TILE or alphas > least_alphas) and plan(tile, alphas).total > bound:
        if alphas > least_alphas and (tile <= 128 or alphas * triangle > bound // 3):
            alphas -= 1
        else:
            tile = max(SMALLEST_TILE, tile // 2)
    least = plan(tile, alphas)
    if least.total > bound:
        largest = sorted(least.parts.items(), key=lambda item: -item[1])[:3]
        raise InputError(
            f"max_memory of {readable(bound)} is too small for {sizes.n_stimuli} stimuli x {sizes.n_features} features x "
            f"{sizes.n_voxels} voxels: at least {readable(least.total)} are needed beyond the inputs, most of it for "
            + listed(f"{name} ({readable(size)})" for name, size in largest)
            + ". Give fewer voxels at a time, or that much memory"
        )
    least = _with_crossed(least, sizes, selection, weights, bound)
    return _with_operators(least, sizes, weights, bound - least.total, threads)


def _with_crossed(plan: MemoryPlan, sizes: FoldSizes, selection: str, weights: bool, bound: int | None) -> MemoryPlan:
    """Let products of features and responses be made beside a decomposition where there is room, and work to spare.

    They pay where training rows are many: turning products takes ``p * p * v`` operations more, and saves turning rows.
    """
    s = sizes
    fewer = 2 * s.n_features <= s.n_train and s.n_voxels <= s.n_train + EIGH_PRODUCTS * s.n_features
    if selection != "gcv" or weights or plan.precision == "mixed" or is_dual(s) or not fewer:
        return plan
    more = s.n_features * (s.n_voxels + s.n_train) * (4 if plan.precision == "float32" else 8)
    if bound is not None and plan.total + more > bound:
        return plan
    return replace(plan, parts={**plan.parts, "products of features and responses": more}, crossed=True)


def _with_operators(plan: MemoryPlan, sizes: FoldSizes, weights: bool, spare: int, threads: int) -> MemoryPlan:
    """Give prediction operators the place of the triangles, which are gone by then, and what they need of the rest."""
    s = sizes
    rank = min(s.n_train, s.n_features)
    if weights or s.n_test * s.n_train >= (s.n_train + s.n_test) * rank:
        return plan  # never fewer operations than the eigenbasis
    # what one thread makes at a time: the way of predicting must not depend on the number of threads
    freed = plan.parts.get("triangles", 0) + plan.parts.get("operators being made", 0) // threads
    need = min(s.n_alphas, s.n_voxels) * s.n_test * s.n_train * (4 if plan.precision == "float32" else 8)
    more = min(max(need - freed, 0), max(spare, 0))
    parts = {**plan.parts, "prediction operators": more} if more else plan.parts
    return replace(plan, parts=parts, operators=freed + more)


def is_dual(sizes: FoldSizes) -> bool:
    """Return whether (stimulus, stimulus) products are the smaller side, in the folds that are decomposed most often."""
    return sizes.n_features >= min(sizes.n_train, sizes.inner_train)


def _fixed_parts(
    sizes: FoldSizes, selection: str, standardize: bool, precision: str, weights: bool, threads: int
) -> dict[str, int]:  # fmt: skip
    s, single = sizes, 8 if precision == "float64" else 4
    output = 4 if precision == "float32" else 8
    dual = is_dual(s)
    side, inner_side = min(s.n_train, s.n_features), min(s.inner_train, s.n_features)
    chunk = min(64 * 2**20, 8 * s.n_stimuli * s.n_features) * 3 * (threads if standardize else 1)
    if dual:
        gram = 0 if standardize else 8 * s.n_stimuli**2
        gram += 8 * 3 * s.n_train * s.n_train
    else:
        gram = 8 * 2 * s.n_stimuli * s.n_features + 8 * 4 * s.n_features**2
        chunk = 8 * (s.n_stimuli + threads * s.n_train) * s.n_features
    decompositions = 8 * side * (s.n_train + s.n_test + side)
    n_parts = {"kfold": s.n_inner, "loo": 1, "gcv": 0}[selection] if s.n_alphas > 1 else 0
    decompositions += n_parts * single * inner_side * (s.inner_train + s.inner_validation + (0 if dual else inner_side))
    kept = s.n_outer * s.n_voxels * 8 * 7 + s.n_voxels * 8 * 2
    return {
        "weights": output * s.n_features * s.n_voxels if weights else 0,
        "predictions": 0 if weights else output * s.n_stimuli * s.n_voxels,
        "scores and penalties": kept,
        "losses at every penalty": 8 * 2 * s.n_alphas * s.n_voxels if s.n_alphas > 1 else 0,
        "products of features": gram,
        "features in float64": chunk,
        "eigenvectors": decompositions,
    }


def _tile_bytes(sizes: FoldSizes, selection: str, precision: str, tile: int, alphas: int) -> int:
    s, single = sizes, 8 if precision == "float64" else 4
    reading = tile * s.n_stimuli * (8 * 2 + single)
    if selection == "gcv" or s.n_alphas == 1:
        return reading + tile * single * s.n_train * 4
    inner_side = min(s.inner_train, s.n_features)
    n_sides = max(s.n_inner, 1)
    rotated = tile * single * ((n_sides + 2) * inner_side + (n_sides + 3) * s.inner_validation)
    if precision != "float64":  # predictions at most penalties, from which those at all are mixed
        rotated += tile * single * s.inner_validation * (min(s.n_alphas, MOST_EVALUATED) + MIXED_AT_ONCE)
    if not is_dual(s):
        rotated += tile * single * s.n_features * (s.n_inner + 2)
    triangular = tile * single * (alphas * (-(-s.n_train // 16)) + s.n_train)
    return reading + max(rotated, triangular)
