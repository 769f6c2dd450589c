"""How fast are integration windows fitted to all units at once?

1,000 curves of 21 lags (the windows of five layers of GPT-2 small as published, each with three levels of noise) beside a loop
of `scipy.optimize.curve_fit` over units, as the published procedure has it: same bounds, same start. Then the refits of a
bootstrap, from the parameters of the first fit. Times are CPU times of the process, on one thread.

    python -m benchmarks.integration_fits
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from topobrain.stats.integration_windows import fit_windows, window_curve

LAYERS = np.array([[0.50, 4.2, 0.10], [0.70, 2.0, 0.26], [0.60, 0.80, 0.31], [0.55, 0.70, 0.44], [0.36, 0.75, 0.42]])
NOISE = (0.002, 0.01, 0.03)
LAGS = np.arange(21)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return CPU seconds and the result of a call."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def curves(n_units: int, seed: int = 0) -> np.ndarray:
    """Return noisy curves (lag, unit): layers and levels of noise take turns."""
    rng = np.random.default_rng(seed)
    unit = np.arange(n_units)
    noise = np.array(NOISE)[unit // len(LAYERS) % len(NOISE)]
    return window_curve(*LAYERS[unit % len(LAYERS)].T, LAGS) + noise * rng.standard_normal((LAGS.size, n_units))


def by_curve_fit(theta: np.ndarray) -> np.ndarray:
    """Return the sum of squares of each unit's fit by scipy (unit,)."""
    from scipy.optimize import curve_fit

    def mixture(lag: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
        return np.asarray(c * (lag + 1.0) ** -a + (1 - c) * np.exp(-b * lag))

    bounds = ([0, 0, 0], [10, 10, 1])
    fits = [curve_fit(mixture, LAGS, curve, p0=(1, 1, 0.5), bounds=bounds)[0] for curve in theta.T]
    return np.array([((mixture(LAGS, *fit) - curve) ** 2).sum() for fit, curve in zip(fits, theta.T, strict=True)])


def bench_fits(n_units: int = 1000, *, repeats: int = 3, n_draws: int = 100) -> dict[str, Any]:
    """Return times, ratio and agreement of both fits, and the time of a bootstrap's refits at ten times as many units."""
    theta = curves(n_units)
    fit_windows(theta[:, :10])  # imports and first calls belong to nobody
    runs = [timed(lambda: fit_windows(theta)) for _ in range(repeats)]
    ours, fit = statistics.median(seconds for seconds, _ in runs), runs[0][1]
    theirs, loss = timed(lambda: by_curve_fit(theta))
    many = curves(10 * n_units, seed=1)
    first = fit_windows(many)
    again = many + 0.003 * np.random.default_rng(2).standard_normal(many.shape)
    warm = statistics.median(timed(lambda: fit_windows(again, starts=(first.a, first.b)))[0] for _ in range(repeats))
    return {
        "case": f"mixture of exponential and power law, {n_units:,} units x {LAGS.size} lags",
        "cpu_seconds": {"topobrain": round(ours, 4), "scipy": round(theirs, 2)},
        "cpu_seconds_range": {
            "topobrain": [round(f([seconds for seconds, _ in runs]), 4) for f in (min, max)],
        },
        "ratio": round(theirs / ours, 1),
        "largest_excess_of_loss": float(f"{(fit.loss - loss).max():.1g}"),
        "largest_gain_in_loss": float(f"{(loss - fit.loss).max():.1g}"),
        "bootstrap": {
            "case": f"{n_draws} draws x {10 * n_units:,} units, from one draw",
            "cpu_seconds_a_draw": round(warm, 3),
            "cpu_seconds_scaled": round(n_draws * warm, 1),
        },
    }


def main() -> None:
    """Measure and print."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        sys.stdout.write(json.dumps(bench_fits(), indent=1) + "\n")


if __name__ == "__main__":
    main()
