"""How much faster is Moran's I with its layout null than esda?

Both sides score the same maps, turn by turn, on one thread. esda gets its weights ready made, as our side gets its sheet;
both are warm. Every turn has a new seed, so that permutations are drawn anew, but for the row that says otherwise: our side
keeps those of a seed for the next map. esda draws each permutation independently; `product_permutations` says in what sense
ours are as good. The time is CPU time of the process.

    python -m benchmarks.morans
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from topobrain import stats
from topobrain.sheet import Sheet
from topobrain.surface import Surface

RESULT = Path(__file__).parent / "results" / "morans.json"
N_NULL = 1000
NO_NULL = (np.nan, np.nan, np.nan)


@dataclass(frozen=True)
class Case:
    """Maps (map, unit), their places, and how neighbours are weighed."""

    name: str
    maps: np.ndarray
    layout: Sheet | Surface
    n_null: int = N_NULL
    row_standardised: bool = False
    one_seed: bool = False
    repeats: int = 21


def cases() -> list[Case]:
    """Return the maps to score; smooth, so that the index is far from its null."""
    rng = np.random.default_rng(0)
    sheet, torus = Sheet.grid(48, 64), Sheet.grid(48, 64, wrapped=True)
    noise = rng.standard_normal((24, 3072))
    maps = noise + sheet.smooth(noise, 6)
    holes = np.where(rng.random(3072) < 0.2, np.nan, maps[0])
    mesh = Surface.icosphere(5)
    return [
        Case("48 x 64", maps[:1], sheet),
        Case("48 x 64, the same seed again", maps[:1], sheet, one_seed=True),
        Case("48 x 64, rows standardised", maps[:1], sheet, row_standardised=True),
        Case("48 x 64, torus", maps[:1], torus),
        Case("48 x 64, a fifth of the units missing", holes[None], sheet),
        Case("48 x 64, 24 maps", maps, sheet, repeats=3),
        Case("48 x 64, no permutations", maps[:1], sheet, n_null=0),
        Case("28 x 28", rng.standard_normal((1, 784)), Sheet.grid(28, 28)),
        Case(f"mesh of {mesh.n_units:,} vertices", rng.standard_normal((1, mesh.n_units)), mesh, repeats=5),
    ]


def ours(case: Case) -> Callable[[int], Any]:
    """Return what scores the maps of a case: index, and mean, sd and p of the null."""
    maps, layout, n = case.maps, case.layout, case.n_null
    layout.neighbours()  # computed once a layout

    def score(seed: int) -> list[tuple[float, ...]]:
        if n == 0:
            return [(stats.morans_i(maps[0], layout, row_standardised=case.row_standardised), *NO_NULL)]
        if len(maps) == 1:
            found = [stats.morans_i_test(maps[0], layout, n_null=n, seed=seed, row_standardised=case.row_standardised)]
        else:
            values = stats.morans_i(maps, layout, row_standardised=case.row_standardised)
            nulls = stats.layout_null(maps, layout, n_null=n, seed=seed, row_standardised=case.row_standardised)
            found = [stats.compare_with_null(float(value), null) for value, null in zip(values, nulls, strict=True)]
        return [(one.value, one.null_mean, one.null_sd, one.p) for one in found]

    return score


def esdas(case: Case) -> Callable[[int], Any]:
    """Return the same with esda."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from esda import Moran
        from libpysal.weights import WSP

        keep = np.flatnonzero(np.isfinite(case.maps[0]))
        weights = WSP(case.layout.neighbours()[keep][:, keep]).to_W(silence_warnings=True)
    transformation = "R" if case.row_standardised else "B"

    def score(seed: int) -> list[tuple[float, ...]]:
        np.random.seed(seed)  # noqa: NPY002 - esda draws from the global generator
        found = []
        for one in case.maps:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                moran = Moran(one[keep], weights, transformation=transformation, permutations=case.n_null)
            null = (moran.EI_sim, moran.seI_sim, moran.p_sim) if case.n_null else NO_NULL
            found.append((moran.I, *null))
        return found

    return score


def measure(case: Case) -> dict[str, Any]:
    """Return one row: medians of both sides, their ratio, and how far their answers lie apart."""
    calls = {"topobrain": ours(case), "esda": esdas(case)}
    ms: dict[str, list[float]] = {side: [] for side in calls}
    found: dict[str, Any] = {}
    for turn in range(case.repeats + 1):
        for side, call in calls.items():
            start = time.process_time()
            found[side] = call(0 if case.one_seed else turn)
            if turn:  # the first one warms the caches
                ms[side].append(1e3 * (time.process_time() - start))
    median = {side: statistics.median(values) for side, values in ms.items()}
    answers = {side: np.array(values) for side, values in found.items()}
    apart = np.abs(answers["topobrain"] - answers["esda"]).max(axis=0)
    sd = answers["esda"][:, 2]
    return {
        "case": case.name,
        "units": int(np.isfinite(case.maps[0]).sum()),
        "maps": len(case.maps),
        "permutations": case.n_null,
        "ms": {side: round(value, 2) for side, value in median.items()},
        "ms_range": {side: [round(min(v), 2), round(max(v), 2)] for side, v in ms.items()},
        "ratio": round(median["esda"] / median["topobrain"], 1),
        "index_difference": float(f"{apart[0]:.1e}"),
        "null_mean_difference_in_sd": None if case.n_null == 0 else round(float((apart[1] / sd).max()), 3),
        "null_sd_ratio": None if case.n_null == 0 else round(float((answers["topobrain"][:, 2] / sd).mean()), 3),
    }


def main() -> None:
    """Measure, print a table, write the result."""
    from benchmarks.topo_loss import machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    before = machine()
    with threadpool_limits(1):
        rows = [measure(case) for case in cases()]
    result = {
        "benchmark": "Moran's I and its layout null, CPU milliseconds, medians",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": before,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "scipy", "esda", "libpysal", "topobrain")},
        },
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    lines = [f"{'maps':40}{'permutations':>13}{'esda ms':>10}{'topobrain ms':>14}{'ratio':>8}{'|dI|':>9}"]
    for row in rows:
        times = f"{row['ms']['esda']:10.1f}{row['ms']['topobrain']:14.1f}{row['ratio']:8.1f}"
        lines.append(f"{row['case']:40}{row['permutations']:>13}{times}{row['index_difference']:9.0e}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
