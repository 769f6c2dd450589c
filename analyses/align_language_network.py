"""Align models with the language network, a few dimensions at a time, beside everything a sceptic would ask for.

Every layer and stream of every model (queries, keys, values, attention output, MLP, block) is aligned by PLS-SVD with the
brain, and by CCA, RSA and CKA; its untrained self and its non-topographic twin stand beside on the same folds. None of those
scores depends on where units lie. What does (are paired weight maps smooth on both sides, does a smooth map from sheet to
cortex predict held-out voxels) needs **voxels with places**: the public table of the language network has regions only, so
those panels are drawn from a voxel-level set, one's own or the simulated cohort (``--data simulated``, marked simulated).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

import topobrain as tb
from analyses.encode_language_network import Config as Training
from analyses.encode_language_network import members, pooling_of
from analyses.localize_language import file_label
from analyses.model_families import Tell, draw, main
from analyses.model_streams import with_streams
from analyses.planted_cases import write_planted
from analyses.train_topographic_pair import trained_layers
from topobrain._checks import InputError
from topobrain.alignment import Alignment, align
from topobrain.alignment.cortical_places import voxel_places
from topobrain.alignment.principal import components
from topobrain.alignment.spatial import spatial_alignment
from topobrain.stats.morans import layout_null, morans_i
from topobrain.stats.nulls import compare_with_null

NETWORK = "netw"
"""The region that is a mean over the others: aligned by itself, not beside its own parts."""

FIGURES = {False: "fig14_alignment", True: "fig15_spatial_alignment"}
"""Whether voxels have places -> the figure."""

NO_VOXELS = (
    "{name} has regions and no voxels with places: alignment, its controls and PCA maps on sheets are drawn; weight maps on the "
    "cortex, the smoothness of paired maps and the sheet-to-cortex score need voxels. The same command draws them from a "
    "voxel-level set (--data FILE), or from simulated ones (--data simulated)"
)


@dataclass(frozen=True)
class Config:
    """Which models to align with what, and how.

    Parameters
    ----------
    data
        Brain responses by name or file; ``"simulated"`` for the simulated cohort.
    pretrained
        Models by name, each beside its untrained self.
    recipes
        Topographic models to train here (as in `topobrain train`), each beside its twin and its untrained self.
    size, steps
        Of the recipes.
    trained
        Folder of the trained models (default: ``out``); the one of `encode_language_network` holds them already.
    methods
        ``"pls"`` and what stands beside it.
    n_components
        Components (default: 10, or as many as the data allow).
    streams
        Every stream of every block, or only the layers that a model names itself.
    pooling
        ``"auto"``: the last token of causal models, the mean over tokens of others.
    out
        Folder of results, tables and the figure.
    n_permutations, n_bootstrap
        Of every score.
    n_null
        Shuffles of places behind everything spatial.
    seed
        Of training, permutations and bootstraps.
    device
        ``"auto"`` or a torch device.
    """

    data: str = "tuckute2024"
    pretrained: tuple[str, ...] = ("stories260k",)
    recipes: tuple[str, ...] = ("toponet-nanogpt", "topoformer-imdb", "topolm")
    size: str = "tiny"
    steps: int | None = None
    trained: Path | None = None
    methods: tuple[Literal["pls", "cca", "rsa", "cka"], ...] = ("pls", "cca", "rsa", "cka")
    n_components: int | None = None
    streams: bool = True
    pooling: Literal["auto", "last", "mean"] = "auto"
    out: Path = Path("results/alignment")
    n_permutations: int = 1000
    n_bootstrap: int = 1000
    n_null: int = 200
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Family:
    """A model and its controls, as activations over the stimuli of the brain responses."""

    name: str
    acts: tb.Activations
    controls: dict[str, tb.Activations]
    laid_out: tuple[str, ...]
    """Layers whose places training decided; none of models without topography."""


def run(config: Config, tell: Tell = print) -> Path:
    """Train what is not there yet, align everything, write tables, draw; return the picture."""
    responses = tb.load_responses(config.data)
    config.out.mkdir(parents=True, exist_ok=True)
    placed = has_places(responses)
    if not placed:
        tell(NO_VOXELS.format(name=config.data))
    rows: list[pd.DataFrame] = []
    smooth: list[pd.DataFrame] = []
    targets = targets_of(responses)
    for family in families(config, responses, tell):
        tell(f"aligning {family.name}: {len(family.acts.layers)} layers, controls {', '.join(family.controls)}")
        for prefix, method, options in wanted(config, targets):
            found = align(
                family.acts, responses, method=method, controls=family.controls, n_permutations=config.n_permutations,
                n_bootstrap=config.n_bootstrap, seed=config.seed, **options,
            )  # fmt: skip
            found.save(config.out / f"{prefix}_{file_label(family.name)}.nc")
            table = found.summary()
            laid_out = table["layer"].isin(family.laid_out)
            rows.append(table.assign(family=family.name, method=method, score=prefix, laid_out=laid_out))
        if family.laid_out:
            options = {**targets["alignment"], "n_components": config.n_components}
            smooth.append(smoothness_of(config, family, responses, options).assign(family=family.name))
        components(family.acts, seed=config.seed, n_null=config.n_null).save(
            config.out / f"components_{file_label(family.name)}.nc"
        )
        if placed and family.laid_out:
            write_spatial(config, family, responses, tell)
    with warnings.catch_warnings():
        if not placed:  # said already
            warnings.filterwarnings("ignore", message="components of .* have no smoothness", category=UserWarning)
        components(responses, seed=config.seed, n_null=config.n_null).save(config.out / "components_brain.nc")
    for name, tables in (("layers", rows), ("smoothness", smooth)):
        if not tables:
            continue
        joined = pd.concat(tables)
        lead = [column for column in ("family", "score", "method") if column in joined]
        joined[[*lead, *[c for c in joined if c not in lead]]].to_csv(config.out / f"{name}.csv", index=False)
    if placed:
        tell("planted alignments: what the scores say where the truth is known (simulated)")
        write_planted(config.out, n_permutations=config.n_permutations, n_null=config.n_null, seed=config.seed)
    return draw(config.out, FIGURES[placed])


def smoothness_of(
    config: Config, family: Family, responses: tb.BrainResponses, options: dict[str, Any]
) -> pd.DataFrame:
    """Return Moran's I of the unit weights of each component beside its layout null: the model, its twin, its untrained self.

    Of the layers whose places training decided. Smooth weights show no alignment: blur in a model makes them smooth whatever
    the brain does.
    """
    rows = []
    for role, acts in {"model": family.acts, **family.controls}.items():
        found = align(acts, responses, layers=list(family.laid_out), n_permutations=0, n_bootstrap=0, ceiling="none",
                      seed=config.seed, **options)  # fmt: skip
        for layer in found.layers:
            every, sheet = found.unit_weights(layer), found.sheet(layer)
            # of too low a rank the last components weigh nothing, or have no weights
            known = every[np.isfinite(every).any(axis=1)]
            maps = known[np.nanmax(known, axis=1) > np.nanmin(known, axis=1)]
            if not len(maps):
                continue
            index, null = morans_i(maps, sheet), layout_null(maps, sheet, n_null=config.n_null, seed=config.seed)
            for k, (value, draws) in enumerate(zip(np.atleast_1d(index), np.atleast_2d(null), strict=True), start=1):
                said = compare_with_null(float(value), draws)._asdict()
                low, high = np.quantile(draws, (0.025, 0.975))
                rows.append({"role": role, "layer": layer, "component": k, "morans_i": said.pop("value"), **said,
                             "null_low": low, "null_high": high})  # fmt: skip
    return pd.DataFrame(rows)


def has_places(responses: tb.BrainResponses) -> bool:
    """Return whether it is known where voxels lie."""
    try:
        return bool(np.isfinite(voxel_places(responses).coordinates).any())
    except InputError:
        return False


def targets_of(responses: tb.BrainResponses) -> dict[str, dict[str, Any]]:
    """Return name -> voxels to align with: all of them, the mean over the network apart from its regions."""
    regions = responses.rois
    if NETWORK not in regions or len(regions) == 1:
        return {"alignment": {}}
    return {
        "alignment": {"targets": {"roi": [roi for roi in regions if roi != NETWORK]}},
        "network": {"targets": {"roi": NETWORK}},
    }


def wanted(config: Config, targets: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield the beginning of a file's name, the method and the options of each alignment."""
    for method in config.methods:
        of_components = {} if method in ("rsa", "cka") else {"n_components": config.n_components}
        prefix = "alignment" if method == "pls" else f"alignment-{method}"
        yield prefix, method, {**targets["alignment"], **of_components}
    if "network" in targets:
        yield "network", "pls", targets["network"]


def families(config: Config, responses: tb.BrainResponses, tell: Tell) -> Iterator[Family]:
    """Yield every model with its controls, one family in memory at a time."""
    home = config.trained or config.out
    home.mkdir(parents=True, exist_ok=True)
    training = Training(
        pretrained=config.pretrained, recipes=config.recipes, size=config.size, steps=config.steps, out=home,
        seed=config.seed, device=config.device,
    )  # fmt: skip
    held: dict[str, Any] = {}
    for member in members(training, tell):
        if held and held["name"] != member.family:
            yield Family(**held)
            held = {}
        model = with_streams(member.model) if config.streams else member.model
        acts = tb.extract(model, responses.stimuli, pooling=pooling_of(model.name, config.pooling))
        if member.role == "model":
            place = home / model.name
            own = trained_layers(place, member.model) if place.is_dir() else ()
            held = {"name": member.family, "acts": acts, "controls": {}, "laid_out": own}
        else:
            held["controls"][member.role] = acts
    if held:
        yield Family(**held)


def write_spatial(config: Config, family: Family, responses: tb.BrainResponses, tell: Tell) -> None:
    """Write ``spatial_MODEL.nc``: what depends on places, in the layers that training laid out."""
    label = file_label(family.name)
    tell(f"from the sheets of {family.name} to the cortex: {', '.join(family.laid_out)}")
    aligned = Alignment.load(config.out / f"alignment_{label}.nc")
    spatial_alignment(
        family.acts, responses, alignment=aligned, layers=family.laid_out, controls=family.controls,
        n_null=config.n_null, seed=config.seed,
    ).save(config.out / f"spatial_{label}.nc")  # fmt: skip


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config), run)
