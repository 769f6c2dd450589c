"""How much faster is the topographic weight loss than the authors' package?

Both sides compute loss and gradient of the same layers, turn by turn, each in a process of its own (the package needs an
older typeguard), on one thread. The time is CPU time of the process, so a busy machine disturbs it less.

    python -m benchmarks.topo_loss
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ORACLES = Path(sys.prefix) / "oracles"
RESULT = Path(__file__).parent / "results" / "topo_loss.json"
LAYERS: dict[str, tuple[int, ...]] = {"c_fc": (3072, 768), "c_proj": (768, 3072), "conv": (512, 512, 3, 3)}
CASES = [
    *(("c_fc", factor) for factor in (2, 3, 4, 5, 8)),
    *(("c_proj", factor) for factor in (3, 4, 8)),
    *(("conv", factor) for factor in (3, 4)),
]
PARTS = ("forward", "forward and backward")


def layer(name: str) -> nn.Module:
    """Return a layer of GPT-2 small or of the last stage of a ResNet, seeded."""
    torch.manual_seed(0)
    outputs, inputs, *kernel = LAYERS[name]
    return nn.Conv2d(inputs, outputs, kernel[0], bias=False) if kernel else nn.Linear(inputs, outputs)


def timed(loss: Callable[[], Tensor], weight: Tensor, part: str) -> dict[str, float]:
    """Return CPU milliseconds and the value of one loss."""
    weight.grad = None
    start = time.process_time()
    if part == "forward":
        with torch.no_grad():
            value = loss()
    else:
        value = loss()
        value.backward()
    return {"ms": 1e3 * (time.process_time() - start), "loss": value.item()}


def serve() -> None:
    """Answer questions (name, factor, part) on standard input with the package's time: the other process."""
    from topoloss import LaplacianPyramid, TopoLoss

    torch.set_num_threads(1)
    models = {name: nn.Sequential(layer(name)) for name in LAYERS}
    for line in sys.stdin:
        name, factor, part = json.loads(line)
        model = models[name]
        losses = TopoLoss([LaplacianPyramid("0", float(factor), float(factor))])
        sys.stdout.write(json.dumps(timed(lambda: losses.compute(model), model[0].weight, part)) + "\n")  # noqa: B023
        sys.stdout.flush()


def measure(repeats: int) -> list[dict[str, Any]]:
    """Return one row a layer, factor and part: medians of both sides and their ratio."""
    from topobrain.nn import topo_loss

    torch.set_num_threads(1)
    weights = {name: layer(name).weight for name in LAYERS}
    command = [sys.executable, "-m", "benchmarks.topo_loss", "--serve"]
    path = os.pathsep.join([str(ORACLES), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    rows = []
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        for name, factor in CASES:
            for part in PARTS:
                sides: dict[str, list[dict[str, float]]] = {"topobrain": [], "topoloss": []}
                for _ in range(repeats + 1):
                    weight = weights[name]
                    sides["topobrain"].append(timed(lambda: topo_loss(weight, factor=factor), weight, part))  # noqa: B023
                    other.stdin.write(json.dumps([name, factor, part]) + "\n")
                    other.stdin.flush()
                    sides["topoloss"].append(json.loads(other.stdout.readline()))
                # the first of each side builds its operator and warms the caches
                ms = {side: [turn["ms"] for turn in turns[1:]] for side, turns in sides.items()}
                median = {side: statistics.median(values) for side, values in ms.items()}
                rows.append(
                    {
                        "layer": name,
                        "weight": list(LAYERS[name]),
                        "factor": factor,
                        "part": part,
                        "ms": {side: round(value, 2) for side, value in median.items()},
                        "ms_range": {side: [round(min(v), 2), round(max(v), 2)] for side, v in ms.items()},
                        "ratio": round(median["topoloss"] / median["topobrain"], 2),
                        "loss_difference": abs(sides["topobrain"][0]["loss"] - sides["topoloss"][0]["loss"]),
                    }
                )
        other.stdin.close()
    return rows


def machine() -> dict[str, Any]:
    """Return what the numbers were measured on."""
    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [line.split(":", 1)[1].strip() for line in information.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "n_cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": round(os.getloadavg()[0], 2),
        "threads": 1,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def main() -> None:
    """Measure, print a table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve()
    if not (ORACLES / "topoloss").is_dir():
        parser.error(f"the authors' package is not in {ORACLES}; make setup installs it")
    before = machine()
    rows = measure(options.repeats)
    package = next(ORACLES.glob("topoloss-*.dist-info")).name.removeprefix("topoloss-").removesuffix(".dist-info")
    result = {
        "benchmark": "loss and gradient of the topographic weight loss, CPU milliseconds, medians",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "repeats": options.repeats,
        "machine": before,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "topobrain": version("topobrain"),
            "topoloss": package,
        },
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    lines = [f"{'layer':8}{'factor':>6}  {'part':22}{'topoloss ms':>12}{'topobrain ms':>14}{'ratio':>8}{'|dL|':>10}"]
    for row in rows:
        ms = row["ms"]
        numbers = f"{ms['topoloss']:12.1f}{ms['topobrain']:14.1f}{row['ratio']:8.1f}{row['loss_difference']:10.1e}"
        lines.append(f"{row['layer']:8}{row['factor']:>6}  {row['part']:22}{numbers}")
    sys.stdout.write("\n".join(lines) + "\n")
    return None


if __name__ == "__main__":
    main()
