"""Measure how clustered the noun-verb map of the cortex is, and how well maps of all and of even runs agree.

The map is a group's (nouns against verbs, left hemisphere, fsLR-32k). Its vertices have neighbours only on their mesh,
which is not in the store: without it the command says where it is had and stops. Three things keep a high Moran's I from
saying more than it does: the same values on other vertices, noise smoothed along the same mesh, and, for the agreement of
two maps, copies turned on the sphere and new maps as smooth as the first one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import topobrain as tb
from analyses.model_families import draw, main
from topobrain._checks import DataFileError, InputError
from topobrain.data.surfaces import load_cortical_map, load_surface
from topobrain.surface import CorticalMap, Surface


@dataclass(frozen=True)
class Config:
    """What to measure.

    Parameters
    ----------
    name
        The map, as in `topobrain.data.surfaces.load_cortical_map`.
    shown
        The map that is drawn first (all runs).
    against
        The map it is set against (even runs). The even runs are among all runs, so the two agree more than two independent
        measurements would.
    out
        Folder of results and the figure.
    n_null
        Draws of every null.
    n_nearest
        Nearest vertices that surrogates look at.
    q
        False discovery rate of the significant vertices.
    noise_mm
        Full widths at half maximum, in mm, of the kernels that noise is smoothed with along the mesh.
    n_noise
        Noise maps of each width.
    seed
        Of all nulls.
    """

    name: str = "noun-verb"
    shown: str = "t_all"
    against: str = "t_even"
    out: Path = Path("results/map-noun-verb-cortex")
    n_null: int = 1000
    n_nearest: int = 1000
    q: float = 0.05
    noise_mm: tuple[float, ...] = (2.0, 4.0, 6.0, 8.0, 10.0, 12.0)
    n_noise: int = 20
    seed: int = 0


def run(config: Config, tell: Callable[[str], None] = print, cortical: CorticalMap | None = None) -> Path:
    """Measure, and draw; return the picture.

    Parameters
    ----------
    config
        What to do.
    tell
        Called with a line on each stage.
    cortical
        Another map than that of ``config.name``.

    Raises
    ------
    DataFileError
        The map, or the mesh it lies on, is not on this machine.
    """
    if min(config.noise_mm, default=1.0) <= 0 or config.n_noise < 2:
        raise InputError(
            f"noise_mm are widths above 0 mm, n_noise is 2 or more; got {config.noise_mm}, {config.n_noise}"
        )
    cortical = load_cortical_map(config.name) if cortical is None else cortical
    surface = mesh_of(cortical)
    tell(f"{cortical.name}: {int(np.isfinite(cortical.values[config.shown]).sum())} vertices with a value; nulls of "
         f"{config.n_null} draws take about {max(1, round(config.n_null / 130))} minutes")  # fmt: skip
    found = tb.cortical_topography(
        cortical, surface, against=config.against, n_null=config.n_null, n_nearest=config.n_nearest, q=config.q,
        seed=config.seed,
    )  # fmt: skip
    found.save(config.out / "topography.nc")
    smoothed_noise(config, cortical, surface, tell).to_csv(config.out / "smoothed_noise.csv", index=False)
    write_maps(config, cortical)
    return draw(config.out, "fig11_noun_verb_cortex")


def mesh_of(cortical: CorticalMap) -> Surface:
    """Return the mesh that a map lies on (mid-thickness, where there is one), or say where it is had."""
    name = f"{cortical.space.lower().replace('-', '')}-{cortical.hemisphere}"
    try:
        return load_surface(name, kind="midthickness" if name.startswith("fslr") else "white")
    except DataFileError as error:
        raise DataFileError(
            f"{error}. Nothing was measured: without the mesh nobody knows which of the map's {cortical.n_vertices:,} "
            "vertices are neighbours, and a Moran's I from their order in the file would mean nothing. (On a mesh of your own: "
            "topobrain.cortical_topography(map, mesh).)"
        ) from None


def smoothed_noise(
    config: Config, cortical: CorticalMap, surface: Surface, tell: Callable[[str], None]
) -> pd.DataFrame:
    """Return Moran's I of white noise smoothed along the mesh, on the vertices that the map has a value for."""
    present = np.isfinite(cortical.values[config.shown])
    noise = np.random.default_rng(config.seed).standard_normal((config.n_noise, cortical.n_vertices))
    noise[:, ~present] = np.nan
    rows = []
    for fwhm in (0.0, *config.noise_mm):
        tell(f"noise smoothed at {fwhm:g} mm")
        index = np.asarray(tb.stats.morans_i(surface.smooth(noise, fwhm) if fwhm else noise, surface))
        rows.append({"fwhm_mm": fwhm, "morans_i": index.mean(), "sd": index.std(ddof=1), "n": config.n_noise})
    return pd.DataFrame(rows)


def write_maps(config: Config, cortical: CorticalMap) -> None:
    """Write the values of every vertex that the figure shows: ``maps.npz``."""
    np.savez_compressed(
        config.out / "maps.npz",
        hemisphere=np.array(cortical.hemisphere),
        names=np.array([config.shown, config.against]),
        values=np.stack([np.asarray(cortical.values[name]) for name in (config.shown, config.against)]),
    )


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config), run)
