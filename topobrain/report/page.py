"""Collect results, pictures and provenance of a folder, and write them into one HTML page."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from topobrain import __version__
from topobrain._checks import DataFileError, InputError, listed
from topobrain.alignment import Alignment
from topobrain.alignment.principal import PrincipalComponents
from topobrain.alignment.spatial import SpatialAlignment
from topobrain.encoding import Encoding, Leakage
from topobrain.encoding.comparison import Comparison
from topobrain.encoding.partition import Partition
from topobrain.integration.brain_kernels import CLOCKS
from topobrain.integration.brain_result import BrainWindows, variable
from topobrain.integration.result import Integration
from topobrain.results import Result, load_result
from topobrain.selectivity import Profile, Selectivity
from topobrain.topography import DistanceCurve, Topography

if TYPE_CHECKING:
    import pandas as pd

TITLES = {
    "encoding": "Encoding of brain responses",
    "partition": "Variance of brain responses that each feature space explains",
    "comparison": "Differences between encoding models",
    "leakage": "What shuffled folds leak",
    "alignment": "Few dimensions shared with brain responses",
    "spatial_alignment": "Alignment that depends on where units and voxels lie",
    "principal_components": "Principal components",
    "integration": "Integration windows of units: how far back they listen",
    "brain_windows": "Integration windows of brain regions",
    "selectivity": "Selectivity of units, and its topography",
    "profile": "Held-out responses of selected units",
    "topography": "Topography of maps and responses, beside its nulls",
    "distance_curve": "Likeness of units at each distance",
    "training": "Training",
    "responses": "Brain responses",
    "activations": "Activations",
}


OFTEN_AT_EDGE = 0.1
"""Share of fits with a penalty at the edge of the grid from which on the page says so."""

LEVEL = 0.05
"""Family-wise p up to which a brain region's window counts as wider than none."""

MOSTLY = 0.5
"""Share of a layer's units below which the page says how few windows are known."""

ROUNDING = 1e-5
"""Numerical floor of influence, relative to lag 0, above which the page says so."""

MANY_VOXELS = 20
"""Voxels a region from which on their spread is drawn too."""

MOST_PANELS = 12
"""Regions up to which each gets a panel of its own."""

MOST_LAYERS = 6
"""Layers whose integration windows are drawn, the first and the last among them; all are in the tables."""


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
        drawn = [picture for name, result in results.items() for picture in _own_plots(name, result)]
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
        warnings=[(name, line) for name, result in results.items() for line in _warnings(result)],
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


def _own_plots(name: str, result: Result) -> Iterator[Picture]:
    """Draw a result's own pictures, one after the other."""
    from matplotlib import pyplot as plt

    for axes, caption in _drawn(result):
        figure = np.ravel(axes)[0].figure
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=150)
        plt.close(figure)
        yield Picture(name, stream.getvalue(), f"{name}: {caption}{' Simulated data.' if result.simulated else ''}")


def _drawn(result: Result) -> Iterator[tuple[Any, str]]:
    """Yield axes and caption of each plot of a result."""
    from topobrain import plot

    if isinstance(result, Encoding):
        yield from _drawn_scores(result)
    elif isinstance(result, Partition):
        yield (
            plot.partition(result),
            "Held-out variance that only one feature space explains, that several share, and that all explain together, "
            "with 95 % intervals. Parts can be negative.",
        )
    elif isinstance(result, Comparison):
        yield (
            plot.comparison(result),
            "Paired differences of r with 95 % intervals over stimuli. Filled: p below .05 after correction over regions.",
        )
    elif isinstance(result, Leakage):
        yield (
            plot.leakage(result),
            "Held-out r with shuffled and with contiguous folds. Grey: contiguous score plus the 95 % interval of the "
            "difference; starred layers leak.",
        )
    elif isinstance(result, Alignment | SpatialAlignment | PrincipalComponents):
        yield from _drawn_components(result)
    elif isinstance(result, Integration):
        yield from _drawn_windows(result)
    elif isinstance(result, BrainWindows):
        yield from _drawn_brain_windows(result)
    elif isinstance(result, Selectivity) and any(result.sheet(layer).has_layout for layer in result.layers):
        yield (
            plot.sheet(result, contrast=result.contrasts[0]),
            f"t-maps of the contrast {result.contrasts[0]!r} (1 of {len(result.contrasts)}), with Moran's I beside its "
            "layout null.",
        )
    elif isinstance(result, Profile):
        yield (
            plot.profiles(result),
            "Selected units in stimuli that took no part in their selection, with random units beside.",
        )
    elif isinstance(result, Topography):
        measure = str(result.data["measure"].values[0])
        cells = result.data["value"].sel(measure=measure).notnull().any("layer")
        contrasts = [str(name) for name in result.data["contrast"].values[cells.values]]
        if contrasts and not bool((result.data["value"].notnull() & result.data["p"].isnull()).any()):
            # a value without a test beside it is not drawn
            yield (
                plot.topography(result, measure=measure, contrast=contrasts[0]),
                f"{measure} of {contrasts[0]!r} beside its null; other measures are in the tables.",
            )
    elif isinstance(result, DistanceCurve):
        yield (
            plot.distance_curve(result),
            f"Mean {result.quantity} at each distance on the sheet, with units in other places beside.",
        )


def _drawn_components(result: Alignment | SpatialAlignment | PrincipalComponents) -> Iterator[tuple[Any, str]]:
    from topobrain import plot

    if isinstance(result, SpatialAlignment):
        yield (
            plot.spatial_alignment(result),
            "How well a smooth map from each layer's sheet to the cortex predicts held-out voxels and stimuli, beside the same "
            "with the places of units and of voxels shuffled. A star: p below .05 beside both.",
        )
    elif isinstance(result, PrincipalComponents):
        layer = result.layers[-1]
        known = int(np.isfinite(result.data["explained"].values[-1]).sum())
        yield (
            plot.components(result, layer=layer, n_components=min(3, known)),
            f"First components of {layer} (1 of {len(result.layers)}): weights, explained variance, smoothness beside its null, "
            "and the stimuli at both ends.",
        )
    else:
        yield (
            plot.alignment_scores(result, component=1),
            "Held-out score of the first component of every layer, with 95 % interval, noise ceiling, permuted stimuli and "
            "controls. It does not depend on where units lie; other components are in the tables.",
        )


def _drawn_windows(result: Integration) -> Iterator[tuple[Any, str]]:
    from topobrain import plot

    placed = [layer for layer in result.layers if result.sheet(layer).has_layout]
    known = any(np.isfinite(result.data[name].values).any() for name in ("c", "width", "yoking"))
    if placed and known:
        shown = _spaced(placed)
        yield (
            plot.integration_maps(result, layers=shown),
            f"Windows of all units where they lie ({len(shown)} of {len(result.layers)} layers), Moran's I beside its layout "
            "null under each map. Grey units are not known.",
        )
    shown = _spaced(result.layers)
    yield (
        plot.integration_curves(result, layers=shown),
        f"How the influence of a swapped word falls off ({len(shown)} of {len(result.layers)} layers): medians over reliable "
        "units, the middle half of them, and the windows fitted.",
    )
    if known:
        yield (
            plot.integration_depth(result),
            "Medians over the units whose value is known, with the middle half of them, layer by layer.",
        )
    if np.isfinite(result.data["yoking_step"].values).any():
        yield (
            plot.yoking_steps(result),
            "Step of influence from each word to the next. Windows that stop at sentence ends jump up at a first word.",
        )


def _drawn_brain_windows(result: BrainWindows) -> Iterator[tuple[Any, str]]:
    from topobrain import plot

    shown = [one for one, r in zip(result.regions, result.data["region_r_delta"].values, strict=True) if np.isfinite(r)]
    for clock in CLOCKS if len(shown) <= MOST_PANELS else ():
        if shown and np.isfinite(result.data[f"region_{variable('gain', clock)}"].values).any():
            yield (
                plot.brain_windows(result, clock=clock, rois=shown),
                f"Held-out r with each window over {clock}, by its half width, and of windows chosen inside the training folds "
                "(cross, with the 95 % intervals of its gain over no memory and of its width). Grey: where the cross would "
                "lie if no memory were true. The p stands beside the largest gain of all regions.",
            )


def _spaced(layers: Sequence[str]) -> list[str]:
    """Return some layers evenly spaced in depth."""
    places = np.unique(np.linspace(0, len(layers) - 1, min(MOST_LAYERS, len(layers))).round().astype(int))
    return [layers[place] for place in places]


def _drawn_scores(result: Encoding) -> Iterator[tuple[Any, str]]:
    from topobrain import plot

    if len(result.regions) <= MOST_PANELS:
        yield (
            plot.encoding(result),
            "Held-out r a layer, with noise ceiling, 95 % interval and permuted scores where they were asked for. With a "
            "black rim: the score of the layers chosen inside the training folds.",
        )
    many = result.data.sizes["voxel"] >= MANY_VOXELS * len(result.regions) or len(result.regions) > MOST_PANELS
    if many and np.isfinite(result.data["r"].values).any():
        yield (
            plot.encoding_voxels(result),
            "Spread over voxels of the scores of each layer, and above it the share of voxels above chance in per cent "
            "(permutation p after Benjamini and Hochberg).",
        )


def model_of(result: Result) -> str:
    """Return the name of the model behind a result, or the names of the models it compares or joins."""
    if isinstance(result, Comparison):
        from topobrain.plot.comparison import versus

        return versus(result)
    if isinstance(result, Partition):
        from topobrain.plot.partition import models_behind

        return models_behind(result) or "-"
    return str(result.provenance.get("model", {}).get("name", "-"))


def _headline(results: Iterable[Result]) -> str:
    """Return the table of the page's top: each model in each ROI, with layers chosen inside the training folds."""
    import pandas as pd

    rows = []
    for result in results:
        if isinstance(result, Encoding):
            options = result.provenance.get("encoding", {})
            table = result.best().assign(model=model_of(result), folds=options.get("folds", "-"))
            rows.append(table[["model", "folds", *[column for column in table if column not in ("model", "folds")]]])
    return to_html(pd.concat(rows)) if rows else ""


def _warnings(result: Result) -> Iterator[str]:
    """Yield what a reader of an encoding's scores, or of windows, must be told, a sentence each."""
    if isinstance(result, Integration):
        yield from _told_of_windows(result)
    if isinstance(result, BrainWindows):
        yield from _told_of_brain_windows(result)
    if not isinstance(result, Encoding):
        return
    options = result.provenance.get("encoding", {})
    if options.get("folds") == "shuffled":
        yield _told_of_leaks(result)
    if options.get("folds") == "given":
        yield (
            "Folds were given, not made here: whether neighbours in time or text stand on both sides of a split is for "
            "whoever made them to answer."
        )
    if options.get("allow_duplicates"):
        yield (
            "allow_duplicates was set: stimuli that are equal, or that look equal to every layer, may stand in training and "
            "in test, which raises scores."
        )
    if options.get("selection_note"):
        yield f"Penalties: {options['selection_note']}."
    if not np.isfinite(result.data["best_r"].values).any() and np.isfinite(result.data["region_r"].values).any():
        yield "No penalty was chosen inside the training folds, so no layer could be either: every layer is in the tables."
    for side, meaning in (
        ("lowest", "a lower penalty might fit better"),
        ("highest", "the prediction is nearly constant: the layer predicts little here, or the grid ends too early"),
    ):
        shares: Mapping[str, float | None] = options.get(f"share_at_{side}_alpha", {})
        often = {layer: share for layer, share in shares.items() if share is not None and share > OFTEN_AT_EDGE}
        if often:
            named = ", ".join(f"{layer} ({share:.0%})" for layer, share in often.items())
            yield f"The {side} penalty of the grid was chosen for more than {OFTEN_AT_EDGE:.0%} of fits in {named}: {meaning}."


def _told_of_windows(result: Integration) -> Iterator[str]:
    if not result.causal:
        yield "The model reads the words that come after too: its curves have two sides, and no window was fitted."
        return
    table = result.summary()
    few = table["layer"][table["share_known"] < MOSTLY].tolist()
    if few:
        yield (
            f"Fewer than half of the units have a window that is known in {listed(few)}: their curves are too noisy. More "
            "sequences make them known."
        )
    rough = table["layer"][table["floor"] > ROUNDING].tolist()
    if rough:
        yield f"Rounding alone changes units by more than {ROUNDING:g} of the change at the swapped word in {listed(rough)}."


def _told_of_brain_windows(result: BrainWindows) -> Iterator[str]:
    for clock, name in zip(CLOCKS, ("region_p_max", "region_p_max_seconds"), strict=True):
        p = result.data[name].values
        if not np.isfinite(p).any():
            yield f"Windows over {clock}: no null was drawn, so no window is told from none."
        elif not (p <= LEVEL).any():
            yield (
                f"Windows over {clock}: in no region does one predict better than no memory (smallest family-wise p "
                f"{np.nanmin(p):.3f}); the widths are no more than the highest points of flat profiles."
            )


def _told_of_leaks(result: Encoding) -> str:
    shuffled = "Folds were shuffled, so neighbours in time or text may leak from training into test."
    if "region_r_contiguous" not in result.data:
        return f"{shuffled} No score with contiguous folds stands beside: do not report these scores alone."
    r, plain = (result.data[name].values for name in ("region_r", "region_r_contiguous"))
    if not np.isfinite(r - plain).any():
        return f"{shuffled} No region has a score with both."
    layer, region = np.unravel_index(np.nanargmax(r - plain), r.shape)
    return (
        f"{shuffled} Largest difference: layer {result.layers[layer]} in {result.regions[region]} scores r = "
        f"{r[layer, region]:.3f} with shuffled folds and {plain[layer, region]:.3f} with contiguous ones; all contiguous "
        "scores stand in the table as r_contiguous. Report those."
    )


def _table(result: Result) -> pd.DataFrame:
    """Return a result's table with its model first; of shuffled folds with the contiguous scores beside."""
    table = result.summary()
    if {"r", "r_contiguous"} <= set(table):
        table.insert(list(table).index("r") + 1, "r_contiguous", table.pop("r_contiguous"))
    table = table if "model" in table else table.assign(model=model_of(result))
    return table[["model", *[column for column in table if column != "model"]]]


def _sections(results: dict[str, Result]) -> list[_Section]:
    import pandas as pd

    sections = []
    for kind, title in TITLES.items():
        members = {name: result for name, result in results.items() if result.kind == kind}
        if not members:
            continue
        joined = pd.concat([_table(result) for result in members.values()])
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
