"""How fast are influence curves and the fits of integration windows?

Influence: four-layer GPTs (random weights, the residual stream) at the sizes of the published demos, every word swapped once:
250 sequences of five 12-word sentences with the lags that yoking needs, and 114 runs of 40 words with lags to 20. Ours is the
whole verb `integrate` without bootstrap and null; beside it the published procedure, one swapped sequence at a time at batch
size one, with the whole array (swap, word, unit) of each sequence; the curves must agree. Memory: a GPT of GPT-2 small's size
in a process of its own, 30 sequences, peak resident memory with the model in it. Fits: 1,000 units beside scipy's curve_fit.
CPU times of the process, one thread.

    python -m benchmarks.integration [--sequences N]
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

RESULT = Path(__file__).parent / "results" / "integration.json"
DEMOS = {"yoking": (250, 60, 10), "runs": (114, 40, 20)}
"""Sequences, words a sequence, longest lag."""
WIDTHS = (64, 128, 256)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return CPU seconds and the result of a call."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def make_model(n_layers: int, width: int) -> Any:
    """Return a GPT of this project with random weights and GPT-2's tokenizer."""
    import torch

    from topobrain.models.gpt import GPT, GPTConfig, wrap_gpt
    from topobrain.models.gpt2_tokenizer import load_gpt2_bpe

    torch.manual_seed(0)
    config = GPTConfig(n_layers=n_layers, width=width, n_heads=width // 32 if width < 768 else 12)
    model = wrap_gpt(f"{n_layers} layers of {width}", GPT(config).eval(), load_gpt2_bpe(), device="cpu")
    model.sheets = {name: sheet for name, sheet in model.sheets.items() if name.count(".") < 2}  # the residual stream
    return model


def one_at_a_time(model: Any, sequences: Any, swaps: Any, max_lag: int) -> np.ndarray:
    """Return curves (lag, unit) by reading each swapped sequence alone and keeping every swap, word and unit."""
    import torch

    layers, n_words = list(model.sheets), swaps.words.shape[1]

    def words(text: str) -> np.ndarray:
        with torch.inference_mode():
            found = model.record([text], layers)
        values = torch.cat([found.values[layer] for layer in layers], dim=2)[0].numpy()
        return np.stack([values[found.word[0] == n].mean(axis=0) for n in range(n_words)])

    mean = np.zeros((n_words, n_words, sum(model.sheets[layer].n_units for layer in layers)), dtype=np.float32)
    for s, text in enumerate(sequences.texts):
        original = words(text)
        mean += np.stack([np.abs(words(swapped) - original) for swapped in swaps.texts(s)]) / len(sequences)
    measured = np.arange(max_lag + 2, n_words)
    ratio = np.stack([mean[measured - lag, measured] / mean[measured, measured] for lag in range(max_lag + 1)])
    return np.median(ratio, axis=1)


def influence(demo: str, width: int, n_sequences: int | None) -> dict[str, Any]:
    """Return CPU times, ratio and agreement of both procedures."""
    import topobrain as tb

    usual, n_words, max_lag = DEMOS[demo]
    n = n_sequences or usual
    model = make_model(4, width)
    name, options = ("sentence-sequences", {}) if demo == "yoking" else ("word-runs", {"n_words": n_words})
    sequences = tb.load_stimuli(name, n=n, **options)
    swaps = tb.make_swaps(model, sequences, "same-tag")
    quick: dict[str, Any] = {"max_lag": max_lag, "n_bootstrap": 0, "n_null": 0, "held_out_folds": 0}
    few = sequences.take(range(4))
    tb.integrate(model, few, swap=tb.make_swaps(model, few), **quick)
    ours, result = timed(lambda: tb.integrate(model, sequences, swap=swaps, **quick))
    theirs, curves = timed(lambda: one_at_a_time(model, sequences, swaps, max_lag))
    found = result.data["theta"].values
    known = np.isfinite(found) & np.isfinite(curves)
    return {
        "case": f"{demo}: {n} x {n_words} words, lags 0-{max_lag}, {model.name}",
        "n_units": int(found.shape[1]),
        "cpu_seconds": {"topobrain": round(ours, 2), "one at a time": round(theirs, 2)},
        "ratio": round(theirs / ours, 1),
        "largest_difference_in_theta": float(f"{np.abs(found - curves)[known].max():.1g}"),
    }


def memory() -> dict[str, Any]:
    """Return the peak memory of a GPT-2 small in a process of its own."""
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.integration", "--memory"], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


def measure_memory() -> None:
    """Print the peak memory before and after curves of a GPT-2 small are made."""
    import topobrain as tb

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    model = make_model(12, 768)
    sequences = tb.load_stimuli("word-runs", n=30)
    before = peak()
    took, result = timed(lambda: tb.integrate(model, sequences, n_bootstrap=10, n_null=0))
    told = {
        "case": "memory, GPT of 12 layers of 768, 30 x 40 words",
        "n_units": result.data.sizes["unit"],
        "n_groups": result.provenance["integrate"]["n_groups"],
        "weights_mb": round(sum(p.numel() for p in model.module.parameters()) * 4 / 2**20),
        "peak_mb_before": round(before),
        "peak_mb": round(peak()),
        "cpu_seconds": round(took, 1),
    }
    sys.stdout.write(json.dumps(told) + "\n")


def main() -> None:
    """Measure, print a table, write the result."""
    from threadpoolctl import threadpool_limits

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=None, help="fewer than the demos have")
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    with threadpool_limits(1):
        if options.memory:
            return measure_memory()
        from benchmarks.integration_fits import bench_fits
        from benchmarks.topo_loss import machine

        before = machine()
        rows = [influence(demo, width, options.sequences) for demo in DEMOS for width in WIDTHS]
        rows += [memory(), bench_fits()]
    result = {
        "benchmark": "integration windows, CPU seconds on one thread",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": before,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "scipy", "torch", "transformers", "topobrain")},
        },
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write("\n".join(json.dumps(row) for row in rows) + "\n")


if __name__ == "__main__":
    main()
