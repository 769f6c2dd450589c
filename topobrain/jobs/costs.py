"""What a job costs before it runs: operations, memory, disk; and how fast this machine multiplies."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from topobrain.encoding.cross_validation import Design
from topobrain.encoding.parts import PER_FOLD, PartOptions
from topobrain.stats.ridge.memory import FoldSizes, MemoryPlan, memory_plan

EFFICIENCY = 0.5
"""Share of the rate of one large product that a whole job reaches, about."""

RATE_SECONDS = 0.1
"""How long the rate of products is measured."""


@dataclass(frozen=True)
class Cost:
    """About what one job takes.

    Attributes
    ----------
    operations
        Additions and multiplications.
    memory
        Bytes held at once, inputs and the part among them.
    disk
        Bytes of the part.
    precision
        What the choice of penalties is computed in: decides the speed.
    """

    operations: float
    memory: int
    disk: int
    precision: str


def ridge_plan(design: Design, n_units: int, n_voxels: int, options: PartOptions) -> MemoryPlan:
    """Return the ridge engine's own plan for one layer on some voxels.

    Raises
    ------
    InputError
        The memory bound is too small; the message says what would fit.
    """
    inner = [split for splits in design.inner_splits for split in splits] if options.selection == "kfold" else []
    outer = design.outer.splits

    def largest(splits: Sequence[tuple[np.ndarray, np.ndarray]], side: int) -> int:
        return max((len(split[side]) for split in splits), default=0)

    sizes = FoldSizes(
        len(design.groups), n_units, n_voxels, len(options.alphas), largest(outer, 0), largest(outer, 1),
        largest(inner, 0), largest(inner, 1), len(outer), design.inner_folds,
    )  # fmt: skip
    return memory_plan(
        sizes, selection=options.selection, standardize=options.standardize, precision=options.precision,
        max_memory=options.max_memory,
    )  # fmt: skip


def job_cost(design: Design, n_units: int, n_voxels: int, n_regions: int, options: PartOptions) -> Cost:
    """Return about what one layer on some voxels takes.

    To the engine's count come, for every outer fold, one product with the fold's hat matrix a permutation, and the
    bootstrap's weighted sums (of x, y, xx, yy and xy).
    """
    plan = ridge_plan(design, n_units, n_voxels, options)
    operations = plan.flops
    for train, test in design.outer:
        operations += options.n_permutations * 2.0 * len(test) * len(train) * n_voxels
        operations += options.n_bootstrap * 2.0 * 5 * len(test) * n_voxels
    n = len(design.groups)
    disk = part_bytes(len(design.outer), n_voxels, n_regions, options)
    inputs = 4 * n * n_units + 8 * n * n_voxels
    hat = 8 * 3 * n * n if options.n_permutations else 0
    return Cost(operations, inputs + max(plan.total, hat) + disk, disk, plan.precision)


def part_bytes(n_folds: int, n_voxels: int, n_regions: int, options: PartOptions) -> int:
    """Return about the size of one part on disk."""
    per_region = n_folds * n_regions * (options.n_bootstrap + options.n_permutations)
    return 8 * (n_folds * n_voxels * len(PER_FOLD) + 2 * n_voxels + per_region + options.n_permutations) + 3000


def product_rate(precision: str = "float64", seconds: float = RATE_SECONDS) -> float:
    """Measure how many operations a second this process does in a product of matrices on one thread."""
    from threadpoolctl import threadpool_limits

    kind = np.float64 if precision == "float64" else np.float32
    a = np.random.default_rng(0).standard_normal((512, 512)).astype(kind)
    out = np.empty_like(a)
    with threadpool_limits(limits=1, user_api="blas"):
        np.matmul(a, a, out=out)  # the first call pays for starting up
        began, done = time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < seconds:
            np.matmul(a, a, out=out)
            done += 1
    return max(done, 1) * 2.0 * 512**3 / max(passed, 1e-9)


def hours(seconds: Sequence[float], n_workers: int = 1) -> float:
    """Return about how long jobs of so many seconds take: no job is divided between workers."""
    if not len(seconds):
        return 0.0
    return max(sum(seconds) / max(n_workers, 1), max(seconds)) / 3600
