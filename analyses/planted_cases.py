"""What the scores of an alignment say where the truth is known: planted cases, simulated, scored by the same verbs."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import topobrain as tb
from analyses.localize_language import file_label
from topobrain.alignment import align
from topobrain.alignment.spatial import spatial_alignment
from topobrain.stats.planted_alignment import Planted, planted_alignment

SHEET = tb.Sheet.grid(16, 16, wrapped=True)
KINDS: tuple[Planted, ...] = get_args(Planted)


def planted_pair(kind: Planted, *, seed: int = 0, sheet: tb.Sheet = SHEET) -> tuple[tb.Activations, tb.BrainResponses]:
    """Return the activations and responses of one planted case, marked simulated.

    Parameters
    ----------
    kind
        What lies between sheet and cortex, see `topobrain.stats.planted_alignment`.
    seed
        Cases of one seed share latents, fields and noise.
    sheet
        Where the units sit.
    """
    made = planted_alignment(sheet, kind, seed=seed)
    stimuli = tb.StimulusSet(
        [f"stimulus {i}" for i in range(len(made.X))], name="planted", provenance={"simulated": True}
    )
    activations = tb.Activations.from_arrays(
        {"sheet": made.X}, stimuli, sheets={"sheet": sheet}, provenance={"model": {"name": kind}}
    )
    responses = tb.BrainResponses.from_arrays(
        made.Y, stimuli, roi="patch", subject="simulated",
        voxel_coords={f"{axis}_mm": made.places[:, i] for i, axis in enumerate("xyz")},
        provenance={"name": "planted alignment", "simulated": True, "planted": kind, "seed": seed},
    )  # fmt: skip
    return activations, responses


def write_planted(out: Path, *, n_permutations: int = 1000, n_null: int = 200, seed: int = 0) -> list[Path]:
    """Write ``planted-alignment_CASE.nc`` and ``planted-spatial_CASE.nc`` of every case; return their paths."""
    written = []
    for kind in KINDS:
        activations, responses = planted_pair(kind, seed=seed)
        aligned = align(activations, responses, n_components=3, n_permutations=n_permutations, seed=seed)
        spatial = spatial_alignment(activations, responses, alignment=aligned, n_null=n_null, seed=seed)
        label = file_label(kind)
        written.append(aligned.save(out / f"planted-alignment_{label}.nc"))
        written.append(spatial.save(out / f"planted-spatial_{label}.nc"))
    return written
