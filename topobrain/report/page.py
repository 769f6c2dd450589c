"""Collect results, pictures and provenance of a folder, and write them into one HTML page."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from topobrain import __version__
from topobrain._checks import DataFileError, InputError
from topobrain.encoding import Encoding
from topobrain.results import Result, load_result
from topobrain.selectivity import Profile, Selectivity
from topobrain.topography import DistanceCurve, Topography

if TYPE_CHECKING:
    import pandas as pd

TITLES = {
    "encoding": "Encoding of brain responses",
    "selectivity": "Selectivity of units, and its topography",
    "profile": "Held-out responses of selected units",
    "topography": "Topography of maps and responses, beside its nulls",
    "distance_curve": "Likeness of units at each distance",
    "training": "Training",
    "responses": "Brain responses",
    "activations": "Activations",
}


@dataclass(frozen=True)
class Picture:
    """A picture of the page: PNG bytes, caption, and the numbers it shows as an HTML table."""

    name: str
    data: bytes
    caption: str
    table: str = ""

    @property
    def uri(self) -> str:
        """The picture as a data address: nothing to load."""
        return "data:image/png;base64," + base64.b64encode(self.data).decode()


@dataclass
class _Section:
    title: str
    table: str
    results: list[tuple[str, str]] = field(default_factory=list)
    simulated: bool = False


def build_report(
    directory: str | os.PathLike[str], *, title: str = "topobrain report", pictures: Sequence[Path] | None = None
) -> Path:
    """Write ``report.html`` into a folder of results.

    Parameters
    ----------
    directory
        Folder with ``.nc`` results, and perhaps ``figures/*.png`` (each with ``.csv`` numbers and a ``.txt`` caption) and
        ``run.json`` (what was run).
    title
        Title of the page.
    pictures
        Pictures to show, in order (default: those in ``figures/``; without any, each result's own plot).

    Returns
    -------
    Path
        The page: one file that holds everything it shows, every number with its provenance.

    Raises
    ------
    DataFileError
        No such folder, or it cannot be written.
    InputError
        The folder holds no result.
    """
    import jinja2

    folder = Path(directory)
    if not folder.is_dir():
        raise DataFileError(f"no results folder {folder}")
    files = sorted(folder.glob("*.nc"))
    if not files:
        raise InputError(f"{folder} holds no result (.nc); `topobrain encode ... --out {folder}` would write one")
    results = {path.name: load_result(path, lazy=True) for path in files}
    drawn = [_from_file(path) for path in (sorted(folder.glob("figures/*.png")) if pictures is None else pictures)]
    if not drawn:
        drawn = [picture for name, result in results.items() if (picture := _own_plot(name, result)) is not None]
    run_file = folder / "run.json"
    try:
        run = json.loads(run_file.read_text()) if run_file.is_file() else {}
    except ValueError as error:
        raise DataFileError(f"{run_file} is damaged ({error}): delete it, or run the reproduction again") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("template.html").render(
        title=title,
        version=__version__,
        simulated=[name for name, result in results.items() if result.simulated],
        n_results=len(results),
        citations=_citations(results.values()),
        run=run,
        headline=_headline(results.values()),
        pictures=drawn,
        sections=_sections(results),
        provenance=[(name, json.dumps(result.provenance, indent=2)) for name, result in results.items()],
    )
    target = folder / "report.html"
    part = target.with_name(f".report.{os.getpid()}.part")
    try:
        part.write_text(page, encoding="utf-8")
        os.replace(part, target)
    except OSError as error:
        raise DataFileError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
        for result in results.values():
            result.data.close()
    return target


def _from_file(path: Path) -> Picture:
    import pandas as pd

    caption, numbers = path.with_suffix(".txt"), path.with_suffix(".csv")
    table = to_html(pd.read_csv(numbers)) if numbers.is_file() else ""
    return Picture(path.stem, path.read_bytes(), caption.read_text().strip() if caption.is_file() else path.stem, table)


def _own_plot(name: str, result: Result) -> Picture | None:
    from matplotlib import pyplot as plt

    from topobrain import plot

    caption = ""
    if isinstance(result, Encoding):
        axes = plot.encoding(result)
        caption = "Held-out r a layer, with noise ceiling, 95 % interval and permuted scores where they were asked for."
    elif isinstance(result, Selectivity) and any(result.sheet(layer).has_layout for layer in result.layers):
        axes = plot.sheet(result, contrast=result.contrasts[0])
        caption = (
            f"t-maps of the contrast {result.contrasts[0]!r} (1 of {len(result.contrasts)}), with Moran's I beside its layout "
            "null."
        )
    elif isinstance(result, Profile):
        axes = plot.profiles(result)
        caption = "Selected units in stimuli that took no part in their selection, with random units beside."
    elif isinstance(result, Topography):
        measure = str(result.data["measure"].values[0])
        cells = result.data["value"].sel(measure=measure).notnull().any("layer")
        contrasts = [str(name) for name in result.data["contrast"].values[cells.values]]
        if not contrasts or bool((result.data["value"].notnull() & result.data["p"].isnull()).any()):
            return None  # a value without a test beside it is not drawn
        axes = plot.topography(result, measure=measure, contrast=contrasts[0])
        caption = f"{measure} of {contrasts[0]!r} beside its null; other measures are in the tables."
    elif isinstance(result, DistanceCurve):
        axes = plot.distance_curve(result)
        caption = f"Mean {result.quantity} at each distance on the sheet, with units in other places beside."
    else:
        return None
    figure = np.ravel(axes)[0].figure
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    plt.close(figure)
    return Picture(name, stream.getvalue(), f"{name}: {caption}{' Simulated data.' if result.simulated else ''}")


def model_of(result: Result) -> str:
    """Return the name of the model behind a result."""
    return str(result.provenance.get("model", {}).get("name", "-"))


def _headline(results: Any) -> str:
    """Return the table of the page's top: each model's best layer in each ROI."""
    import pandas as pd

    rows = []
    for result in results:
        if isinstance(result, Encoding):
            table = result.summary()
            scored = table.dropna(subset=["r"])
            best = scored.loc[scored.groupby("roi", sort=False)["r"].idxmax()]
            rows.append(
                best.assign(model=model_of(result))[["model", *[c for c in best if not str(c).startswith("null_")]]]
            )
    return to_html(pd.concat(rows)) if rows else ""


def _sections(results: dict[str, Result]) -> list[_Section]:
    import pandas as pd

    sections = []
    for kind, title in TITLES.items():
        members = {name: result for name, result in results.items() if result.kind == kind}
        if not members:
            continue
        tables = []
        for result in members.values():
            table = result.summary()
            tables.append(table if "model" in table else table.assign(model=model_of(result)))
        joined = pd.concat(tables)
        joined = joined[["model", *[c for c in joined if c != "model"]]]
        sections.append(
            _Section(
                title,
                to_html(joined),
                [(name, model_of(result)) for name, result in members.items()],
                any(result.simulated for result in members.values()),
            )
        )
    return sections


def to_html(table: pd.DataFrame) -> str:
    """Return a table as HTML, numbers to three decimals (small p-values as they are)."""

    def shown(value: float) -> str:
        if value != value:
            return "-"
        return f"{value:.2g}" if 0 < abs(value) < 0.001 else f"{value:.3f}"

    return table.to_html(index=False, border=0, float_format=shown, na_rep="-", classes="numbers", escape=True)


def _citations(results: Any) -> list[tuple[str, str]]:
    """Return (data set, citation) of everything the results were made from."""
    found: dict[str, str] = {}

    def look(fields: Any) -> None:
        if isinstance(fields, dict):
            if fields.get("citation") and fields.get("name"):
                mark = " (simulated)" if fields.get("simulated") else ""
                found[f"{fields['name']}{mark}"] = str(fields["citation"])
            for value in fields.values():
                look(value)
        elif isinstance(fields, list):
            for value in fields:
                look(value)

    for result in results:
        look(result.provenance)
    return sorted(found.items())
