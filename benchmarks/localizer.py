"""How fast are label permutations and streamed t-maps?

First, 10,000 label permutations of a 3,072-unit map (240 + 240 stimuli) beside ``scipy.stats.permutation_test`` and
``nilearn.mass_univariate.permuted_ols``, on one thread and turn by turn. scipy gets the cheapest statistic that has the
same p, the sum over one side, and the layout and batch that were fastest of those tried; a row of its own has it in
float32, where its sums and so its ties are less certain. The peers are linear in the number of permutations; they may run
fewer, and their time is then scaled and the measured one kept. Second, a million units x 500
stimuli x 10 contrasts from a float32 memory map in one pass, in blocks of units and in batches of stimuli, each in a
process of its own whose memory is watched. Times are CPU times of the process.

    python -m benchmarks.localizer
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from topobrain import stats

RESULT = Path(__file__).parent / "results" / "localizer.json"
N_SIDE, N_UNITS, N_PERMUTATIONS = 240, 3072, 10_000
CATEGORIES, PER_CATEGORY = 10, 50
UNIT_BLOCK, STIMULUS_BATCH = 16_384, 50
SCIPY_WAYS = tuple((axis, batch) for axis in (0, -1) for batch in (1, 2, 4, 16))
"""Axis of the stimuli, and permutations at a time."""


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return CPU seconds and the result of a call."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def contrast(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return two sides (stimulus, unit): units that hang together, a tenth of them selective."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((2 * N_SIDE, 40)) @ rng.standard_normal((40, N_UNITS)) / 6
    values = common + rng.standard_normal((2 * N_SIDE, N_UNITS))
    values[:N_SIDE, ::10] += 0.3 * values[:, ::10].std(axis=0)
    return values[:N_SIDE], values[N_SIDE:]


def sum_of_one_side(on: np.ndarray, off: np.ndarray, axis: int) -> np.ndarray:
    """Return the cheapest statistic of which Student's t is a rising function."""
    return np.asarray(on.sum(axis=axis))


def by_scipy(on: np.ndarray, off: np.ndarray, n: int, axis: int, batch: int) -> np.ndarray:
    """Return p of every unit."""
    from scipy.stats import permutation_test

    sides = (on, off) if axis == 0 else (np.ascontiguousarray(on.T), np.ascontiguousarray(off.T))
    rng = np.random.default_rng(1)
    found = permutation_test(sides, sum_of_one_side, vectorized=True, n_resamples=n, batch=batch, axis=axis, rng=rng)
    return np.asarray(found.pvalue)


def fastest_scipy(on: np.ndarray, off: np.ndarray) -> tuple[int, int]:
    """Return the axis and batch that take scipy the least time."""
    return min(SCIPY_WAYS, key=lambda way: min(timed(lambda: by_scipy(on, off, 32, *way))[0] for _ in range(2)))


def by_nilearn(on: np.ndarray, off: np.ndarray, n: int) -> np.ndarray:
    """Return the family-wise p of every unit."""
    from nilearn.mass_univariate import permuted_ols

    side = np.repeat([1.0, -1.0], N_SIDE)[:, None]
    values = np.concatenate([on, off])
    found = permuted_ols(side, values, n_perm=n, two_sided_test=True, n_jobs=1, random_state=1, output_type="dict")
    return np.asarray(10.0 ** -found["logp_max_t"][0])


def disagreement(p: np.ndarray, other: np.ndarray, n: int, n_other: int, *, two_tails: bool) -> dict[str, float]:
    """Return how far two Monte Carlo p lie apart, plainly and in standard errors of their difference.

    A p that is twice the smaller tail p/2 has the variance p (2 - p) / n.
    """
    middle = (p + other) / 2
    variance = middle * ((2 if two_tails else 1) - middle)
    error = np.sqrt(np.maximum(variance, 1 / n_other) * (1 / n + 1 / n_other))
    return {
        "largest": round(float(np.abs(p - other).max()), 5),
        "root_mean_square_in_standard_errors": round(float(np.sqrt(np.mean(((p - other) / error) ** 2))), 3),
        "correlation": round(float(np.corrcoef(p, other)[0, 1]), 6),
    }


def permutations(repeats: int, n_scipy: int, n_nilearn: int) -> dict[str, Any]:
    """Return times, ratios and agreement of the three."""
    on, off = contrast()
    stats.label_permutation_test(on[:, :64], off[:, :64], n_permutations=2000)  # imports
    by_nilearn(on[:, :8], off[:, :8], 10)
    rounded = on.astype(np.float32), off.astype(np.float32)
    ways = {"scipy": fastest_scipy(on, off), "scipy float32": fastest_scipy(*rounded)}
    drawn = {"topobrain": N_PERMUTATIONS, "scipy": n_scipy, "scipy float32": n_scipy, "nilearn": n_nilearn}
    calls: dict[str, Callable[[], Any]] = {
        "topobrain": lambda: stats.label_permutation_test(on, off, n_permutations=N_PERMUTATIONS),
        "scipy": lambda: by_scipy(on, off, n_scipy, *ways["scipy"]),
        "scipy float32": lambda: by_scipy(*rounded, n_scipy, *ways["scipy float32"]),
        "nilearn": lambda: by_nilearn(on, off, n_nilearn),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    found: dict[str, Any] = {}
    for _ in range(repeats):
        for name, call in calls.items():
            cpu, found[name] = timed(call)
            seconds[name].append(cpu)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    scaled = {name: value * N_PERMUTATIONS / drawn[name] for name, value in median.items()}
    ours = found["topobrain"]
    return {
        "case": f"{N_PERMUTATIONS:,} label permutations, {N_UNITS} units, {N_SIDE} + {N_SIDE} stimuli",
        "permutations_run": drawn,
        "cpu_seconds": {name: round(value, 3) for name, value in median.items()},
        "cpu_seconds_range": {name: [round(min(v), 3), round(max(v), 3)] for name, v in seconds.items()},
        "cpu_seconds_scaled": {name: round(value, 2) for name, value in scaled.items()},
        "ratio": {name: round(value / scaled["topobrain"], 1) for name, value in scaled.items()},
        "scipy_axis_and_batch": ways,
        "p_beside_scipy": disagreement(ours.p, found["scipy"], N_PERMUTATIONS, n_scipy, two_tails=True),
        "p_max_beside_nilearn": disagreement(ours.p_max, found["nilearn"], N_PERMUTATIONS, n_nilearn, two_tails=False),
    }


def write_activations(path: Path, n_units: int) -> None:
    """Write float32 activations (stimulus, unit) of ten categories, stimulus by stimulus."""
    rng = np.random.default_rng(0)
    preferred = np.arange(n_units) % (4 * CATEGORIES)  # a quarter of the units prefer a category
    with path.open("wb") as file:
        for stimulus in range(CATEGORIES * PER_CATEGORY):
            row = rng.standard_normal(n_units, dtype=np.float32)
            row += 0.5 * (preferred == stimulus % CATEGORIES)
            file.write(row.tobytes())


def stream(path: Path, n_units: int, by: str) -> dict[str, Any]:
    """Test each category against all others, in one pass over the file; check some units against scipy."""
    from scipy.stats import ttest_ind

    n = CATEGORIES * PER_CATEGORY
    codes = np.arange(n) % CATEGORIES
    values = np.memmap(path, dtype=np.float32, mode="r", shape=(n, n_units))
    others = [[other for other in range(CATEGORIES) if other != one] for one in range(CATEGORIES)]

    def tested(moments: stats.Moments, t: np.ndarray, p: np.ndarray) -> None:
        for one in range(CATEGORIES):
            t[one], p[one] = stats.t_from_moments(moments.side(one), moments.side(others[one]))

    def maps() -> tuple[np.ndarray, np.ndarray]:
        t, p = np.empty((CATEGORIES, n_units)), np.empty((CATEGORIES, n_units))
        if by == "units":
            for start in range(0, n_units, UNIT_BLOCK):
                block = slice(start, start + UNIT_BLOCK)
                tested(stats.group_moments(values[:, block], codes, CATEGORIES), t[:, block], p[:, block])
        else:
            gathered = stats.StreamedMoments(CATEGORIES, n_units)
            for start in range(0, n, STIMULUS_BATCH):
                batch = slice(start, start + STIMULUS_BATCH)
                gathered.add(values[batch], codes[batch])
            tested(gathered.result(), t, p)
        return t, p

    tracemalloc.start()
    wall = time.perf_counter()
    cpu, (t, p) = timed(maps)
    wall = time.perf_counter() - wall
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sample = np.random.default_rng(1).choice(n_units, size=min(2000, n_units), replace=False)
    some = np.asarray(values[:, np.sort(sample)], dtype=np.float64)
    worst = {"t": 0.0, "p": 0.0}
    for one in range(CATEGORIES):
        expected = ttest_ind(some[codes == one], some[codes != one], equal_var=False)
        for name, ours, theirs in (("t", t, expected.statistic), ("p", p, expected.pvalue)):
            difference = np.abs(ours[one, np.sort(sample)] / theirs - 1).max()
            worst[name] = max(worst[name], float(difference))
    return {
        "cpu_seconds": round(cpu, 2),
        "wall_seconds": round(wall, 2),
        "allocated_peak_mb": round(peak / 1e6),
        "resident_peak_mb_with_mapped_file": round(resident / 1e6),
        "result_mb": round((t.nbytes + p.nbytes) / 1e6),
        "largest_relative_difference_from_scipy": {name: float(f"{value:.2g}") for name, value in worst.items()},
    }


def streams(n_units: int) -> list[dict[str, Any]]:
    """Return one row a way of streaming, each from a process of its own."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "activations.float32"
        write_activations(path, n_units)
        for by in ("units", "stimuli"):
            command = [sys.executable, "-m", "benchmarks.localizer", "--stream", str(path), by, str(n_units)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
            rows.append(
                {
                    "case": f"{n_units:,} units x {CATEGORIES * PER_CATEGORY} stimuli x {CATEGORIES} contrasts, one pass",
                    "blocks_of": f"{UNIT_BLOCK} units" if by == "units" else f"{STIMULUS_BATCH} stimuli",
                    "file_mb": round(path.stat().st_size / 1e6),
                    **json.loads(done.stdout),
                }
            )
    return rows


def main() -> None:
    """Measure, print a table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scipy-permutations", type=int, default=1000)
    parser.add_argument("--nilearn-permutations", type=int, default=2000)
    parser.add_argument("--units", type=int, default=1_000_000, help="units of the streamed t-maps")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--stream", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with threadpool_limits(1):
        if options.stream:
            path, by, n_units = options.stream
            sys.stdout.write(json.dumps(stream(Path(path), int(n_units), by)))
            return
        from benchmarks.topo_loss import machine

        before = machine()
        one = permutations(options.repeats, options.scipy_permutations, options.nilearn_permutations)
        rows = streams(options.units)
    result = {
        "benchmark": "label permutations and streamed t-maps, CPU seconds, medians",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "repeats": options.repeats,
        "machine": before,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "scipy", "nilearn", "topobrain")},
        },
        "rows": [one, *rows],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    lines = [one["case"], f"{'':14}{'run':>8}{'CPU s':>10}{'scaled s':>10}{'ratio':>8}"]
    for name, drawn in one["permutations_run"].items():
        times = f"{one['cpu_seconds'][name]:10.2f}{one['cpu_seconds_scaled'][name]:10.1f}"
        lines.append(f"{name:14}{drawn:8}{times}{one['ratio'][name]:8.1f}")
    for key in ("p_beside_scipy", "p_max_beside_nilearn"):
        lines.append(f"{key.replace('_', ' ')}: {one[key]}")
    lines += ["", rows[0]["case"]]
    for row in rows:
        memory = f"{row['allocated_peak_mb']} MB allocated (results {row['result_mb']} MB)"
        times = f"{row['cpu_seconds']:.1f} s CPU, {row['wall_seconds']:.1f} s"
        lines.append(
            f"in blocks of {row['blocks_of']:14}{times}, {memory}, "
            f"t within {row['largest_relative_difference_from_scipy']['t']:.0e} of scipy's"
        )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
