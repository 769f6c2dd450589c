"""How figures look and how they are saved: a picture, and beside it the numbers it shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")

import pandas as pd

from topobrain.results import Result, load_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE_INCHES = 7.2
DPI = 200


@dataclass(frozen=True)
class Drawing:
    """A figure, the numbers it shows, and the sentence that goes under it."""

    figure: Figure
    numbers: pd.DataFrame
    caption: str


def load_all(results: Path, prefix: str) -> dict[str, Result]:
    """Return the results whose file names start with a prefix: model name -> result, in the order they were made."""
    found = [load_result(path) for path in sorted(results.glob(f"{prefix}_*.nc"), key=lambda p: p.stat().st_mtime)]
    return {str(one.provenance.get("model", {}).get("name", "model")): one for one in found}


def model_order(name: str) -> tuple[int, str]:
    """Sort a topographic model first, then its twin, then untrained ones, then the rest."""
    if name.startswith("topoformer"):
        return (2 if "(untrained" in name else 1 if name.endswith("-control") else 0, name)
    return (4 if "(untrained" in name else 3, name)


def save(drawing: Drawing, directory: Path, name: str) -> Path:
    """Write ``name.png``, ``name.csv`` and ``name.txt`` (the caption); return the picture's path."""
    import matplotlib.pyplot as plt

    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.png"
    drawing.figure.savefig(path, dpi=DPI)
    plt.close(drawing.figure)
    drawing.numbers.to_csv(directory / f"{name}.csv", index=False, float_format="%.6g")
    (directory / f"{name}.txt").write_text(drawing.caption + "\n")
    return path
