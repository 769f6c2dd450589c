"""How fast are shared components and their permutation null?

1,000 permutations of a five-fold, ten-component PLS-SVD at 1,000 stimuli x 784 units x 10,000 voxels beside a loop over
`sklearn.cross_decomposition.PLSSVD`: each permutation fits every fold anew and scores its test stimuli. scikit-learn's loop
is linear in the number of permutations; it runs a few of the same ones, and its time is then scaled and the measured one
kept. Then one fit of all stimuli beside scikit-learn's. Times are CPU times of the process, on one thread.

    python -m benchmarks.alignment
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from topobrain import stats
from topobrain.stats.shared_components import component_null, component_orders, pls_svd

RESULT = Path(__file__).parent / "results" / "alignment.json"
N_STIMULI, N_UNITS, N_VOXELS = 1000, 784, 10_000
N_FOLDS, N_COMPONENTS, N_PERMUTATIONS = 5, 10, 1000


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return CPU seconds and the result of a call."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def study(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return units and voxels (stimulus, column): forty strong dimensions each, five of them shared, and noise."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((N_STIMULI, 5))
    sides = []
    for width in (N_UNITS, N_VOXELS):
        latent = np.hstack([shared, rng.standard_normal((N_STIMULI, 35))])
        sides.append(latent @ rng.standard_normal((40, width)) / 6 + rng.standard_normal((N_STIMULI, width)))
    return sides[0], sides[1]


def by_scikit_learn(X: np.ndarray, Y: np.ndarray, folds: stats.Folds, orders: np.ndarray) -> np.ndarray:
    """Return held-out r (permutation, fold, component) by fitting every permutation and fold."""
    from sklearn.cross_decomposition import PLSSVD

    found = np.empty((len(orders), len(folds), N_COMPONENTS))
    for number, order in enumerate(orders):
        moved = Y[order]
        for fold, (train, test) in enumerate(folds):
            x, y = PLSSVD(N_COMPONENTS).fit(X[train], moved[train]).transform(X[test], moved[test])
            found[number, fold] = stats.column_correlation(x, y)
    return found


def permutations(n_ours: int, n_theirs: int) -> dict[str, Any]:
    """Return times, ratio and agreement of the two nulls."""
    X, Y = study()
    folds = stats.make_folds(range(N_STIMULI), N_FOLDS)
    orders = component_orders(N_STIMULI, folds, n_ours)
    ours, null = timed(lambda: component_null(X, Y, folds, N_COMPONENTS, n_permutations=n_ours))
    theirs, loop = timed(lambda: by_scikit_learn(X, Y, folds, orders[:n_theirs]))
    # what is done once a fold does not grow with the permutations, so scaling it up is unfair to us, if anything
    scaled = {"topobrain": ours * N_PERMUTATIONS / n_ours, "scikit-learn": theirs * N_PERMUTATIONS / n_theirs}
    return {
        "case": f"{N_PERMUTATIONS:,} permutations x {N_FOLDS} folds, {N_STIMULI} x {N_UNITS} x {N_VOXELS}, "
        f"{N_COMPONENTS} components",
        "permutations_run": {"topobrain": n_ours, "scikit-learn": n_theirs},
        "cpu_seconds": {"topobrain": round(ours, 2), "scikit-learn": round(theirs, 2)},
        "cpu_seconds_scaled": {name: round(value, 1) for name, value in scaled.items()},
        "ratio": round(scaled["scikit-learn"] / scaled["topobrain"], 1),
        "largest_difference_in_r": float(f"{np.abs(null[:n_theirs] - loop).max():.1g}"),
    }


def one_fit(repeats: int) -> dict[str, Any]:
    """Return times and agreement of one fit of all stimuli."""
    from sklearn.cross_decomposition import PLSSVD

    X, Y = study(seed=1)
    calls: dict[str, Callable[[], Any]] = {
        "topobrain": lambda: pls_svd(X, Y, N_COMPONENTS),
        "scikit-learn": lambda: PLSSVD(N_COMPONENTS).fit(X, Y),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    found: dict[str, Any] = {}
    for _ in range(repeats):
        for name, call in calls.items():
            cpu, found[name] = timed(call)
            seconds[name].append(cpu)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    theirs = found["scikit-learn"].x_weights_
    signs = np.sign((found["topobrain"].x_weights * theirs).sum(axis=0))
    difference = np.abs(found["topobrain"].x_weights * signs - theirs).max()
    return {
        "case": f"one fit, {N_STIMULI} x {N_UNITS} x {N_VOXELS}, {N_COMPONENTS} components",
        "cpu_seconds": {name: round(value, 2) for name, value in median.items()},
        "cpu_seconds_range": {name: [round(min(v), 2), round(max(v), 2)] for name, v in seconds.items()},
        "ratio": round(median["scikit-learn"] / median["topobrain"], 1),
        "largest_difference_in_weights": float(f"{difference:.1g}"),
    }


def main() -> None:
    """Measure, print a table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--permutations", type=int, default=N_PERMUTATIONS, help="permutations of ours; scaled if fewer"
    )
    parser.add_argument("--peer-permutations", type=int, default=3, help="permutations of scikit-learn's loop; scaled")
    parser.add_argument("--repeats", type=int, default=3, help="runs of the single fit")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with threadpool_limits(1):
        from benchmarks.topo_loss import machine

        before = machine()
        fit = one_fit(options.repeats)
        null = permutations(options.permutations, min(options.peer_permutations, options.permutations))
    result = {
        "benchmark": "PLS-SVD and its permutation null, CPU seconds on one thread",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "repeats": options.repeats,
        "machine": before,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "scipy", "scikit-learn", "topobrain")},
        },
        "rows": [null, fit],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    lines = [null["case"], f"{'':14}{'run':>8}{'CPU s':>10}{'scaled s':>10}"]
    for name, drawn in null["permutations_run"].items():
        lines.append(f"{name:14}{drawn:8}{null['cpu_seconds'][name]:10.2f}{null['cpu_seconds_scaled'][name]:10.1f}")
    lines += [f"ratio {null['ratio']}, r within {null['largest_difference_in_r']}", "", fit["case"]]
    lines += [f"{name:14}{seconds:10.2f}" for name, seconds in fit["cpu_seconds"].items()]
    lines.append(f"ratio {fit['ratio']}, weights within {fit['largest_difference_in_weights']}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
