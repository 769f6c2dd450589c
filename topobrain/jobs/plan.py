"""What an encoding of many models, layers, subjects and voxels would cost, before anything of it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from topobrain._checks import InputError, unknown
from topobrain.encoding.cross_validation import Design, make_design
from topobrain.encoding.matching import chosen_voxels
from topobrain.encoding.parts import PartOptions
from topobrain.encoding.scoring import ALPHAS
from topobrain.jobs.costs import EFFICIENCY, hours, job_cost, product_rate
from topobrain.jobs.parts_store import PartsStore
from topobrain.jobs.studies import Chunk, ReadyStudy, chunks_of, settled_options
from topobrain.responses import BrainResponses
from topobrain.stats.ridge import check_alphas

if TYPE_CHECKING:
    import pandas as pd

    from topobrain.models import Model

FOLD_OPTIONS = ("folds", "n_folds", "inner_folds", "gap", "allow_duplicates", "seed")
"""Options of `encode` that make the folds."""


@dataclass(frozen=True)
class PlannedJob:
    """One job of a plan.

    Attributes
    ----------
    model, layer, subject
        What is scored.
    start, stop
        Run of the subject's voxels.
    n_units
        Features of the layer.
    operations
        Additions and multiplications, about.
    seconds
        About how long one thread of this machine takes.
    memory
        Bytes held at once, about.
    disk
        Bytes of its part.
    done
        Whether its part is in the store; None where that cannot be known before activations are extracted.
    """

    model: str
    layer: str
    subject: str
    start: int
    stop: int
    n_units: int
    operations: float
    seconds: float
    memory: int
    disk: int
    done: bool | None


@dataclass(frozen=True)
class Plan:
    """The jobs of an encoding study with their estimated costs.

    Extraction of activations is not counted.

    Attributes
    ----------
    jobs
        Every job, models first, then layers, then chunks of voxels.
    n_workers
        Workers the hours are for.
    rates
        Operations a second that this process did in a product on one thread, of each precision.
    input_bytes
        Activations and responses to be written into the store.
    store
        Where parts go.
    """

    jobs: tuple[PlannedJob, ...]
    n_workers: int
    rates: Mapping[str, float]
    input_bytes: int
    store: str

    @property
    def left(self) -> tuple[PlannedJob, ...]:
        """The jobs that are not done yet."""
        return tuple(job for job in self.jobs if not job.done)

    def totals(self) -> dict[str, Any]:
        """Return the plan in a few numbers.

        ``jobs done workers operations rates hours_one_process hours memory_per_job memory_at_once disk store``: bytes,
        operations a second, hours of the jobs that are left on one process and on the workers.
        """
        seconds = [job.seconds for job in self.left]
        memory = max((job.memory for job in self.left), default=0)
        return {
            "jobs": len(self.jobs),
            "done": len(self.jobs) - len(self.left),
            "workers": self.n_workers,
            "operations": float(sum(job.operations for job in self.left)),
            "rates": dict(self.rates),
            "hours_one_process": hours(seconds),
            "hours": hours(seconds, self.n_workers),
            "memory_per_job": memory,
            "memory_at_once": memory * min(self.n_workers, max(len(self.left), 1)),
            "disk": self.input_bytes + sum(job.disk for job in self.left),
            "store": self.store,
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a model and layer: jobs, those done, units, voxels a job, GFLOP, MiB a job, hours on one process."""
        found: dict[tuple[str, str], list[PlannedJob]] = {}
        for job in self.jobs:
            found.setdefault((job.model, job.layer), []).append(job)
        return [
            {
                "model": model,
                "layer": layer,
                "units": jobs[0].n_units,
                "subjects": len({job.subject for job in jobs}),
                "jobs": len(jobs),
                "done": "?" if jobs[0].done is None else sum(bool(job.done) for job in jobs),
                "voxels_per_job": max(job.stop - job.start for job in jobs),
                "gflop": sum(job.operations for job in jobs) / 1e9,
                "mib_per_job": max(job.memory for job in jobs) / 2**20,
                "hours_one_process": hours([job.seconds for job in jobs if not job.done]),
            }
            for (model, layer), jobs in found.items()
        ]

    def to_frame(self) -> pd.DataFrame:
        """Return one row a job."""
        import pandas as pd

        return pd.DataFrame([vars(job) for job in self.jobs])

    def __str__(self) -> str:
        total = self.totals()
        known = (
            "" if all(job.done is not None for job in self.jobs) else " (of models that are not extracted: not known)"
        )
        speed = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in self.rates.items())
        return (
            f"{total['jobs']} jobs, {total['done']} done{known}; {total['operations'] / 1e12:.3g} TFLOP left\n"
            f"time: about {spoken(total['hours_one_process'])} on one process, {spoken(total['hours'])} on "
            f"{self.n_workers} worker{'s' if self.n_workers > 1 else ''} ({speed} GFLOP/s a thread, measured; "
            "extraction not counted)\n"
            f"memory: about {total['memory_per_job'] / 2**20:.0f} MiB a job, {total['memory_at_once'] / 2**20:.0f} MiB at "
            f"once; disk: {total['disk'] / 2**20:.1f} MiB in {self.store}"
        )


def spoken(number_of_hours: float) -> str:
    """Return hours in the unit one would say them in."""
    seconds = 3600 * number_of_hours
    if seconds < 1:
        return "less than a second"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{number_of_hours:.1f} h"


@dataclass(frozen=True)
class Costing:
    """How the costs of jobs are estimated: the rates of this machine, measured once.

    Attributes
    ----------
    rates
        Operations a second in a product on one thread, of each precision.
    """

    rates: Mapping[str, float]

    @classmethod
    def measured(cls) -> Costing:
        """Measure the rates."""
        return cls({precision: product_rate(precision) for precision in ("float64", "float32")})

    def jobs(
        self, label: str, n_units: Mapping[str, int], chunks: Sequence[Chunk], design: Design, n_regions: int,
        options: Mapping[str, PartOptions], done: Sequence[bool] | None,
    ) -> list[PlannedJob]:  # fmt: skip
        """Return the jobs of one model with their costs; ``options`` are those of each layer."""
        found: list[PlannedJob] = []
        for layer, width in n_units.items():
            costs = {n: job_cost(design, width, n, n_regions, options[layer]) for n in {c.n_voxels for c in chunks}}
            for chunk in chunks:
                cost = costs[chunk.n_voxels]
                rate = self.rates["float64" if cost.precision == "float64" else "float32"] * EFFICIENCY
                found.append(
                    PlannedJob(
                        label, layer, chunk.subject, chunk.start - chunk.first, chunk.stop - chunk.first, width,
                        cost.operations, cost.operations / rate, cost.memory, cost.disk,
                        None if done is None else done[len(found)],
                    )
                )  # fmt: skip
        return found

    def of_study(self, ready: ReadyStudy, store: PartsStore) -> list[PlannedJob]:
        """Return the jobs of a study whose activations are there."""
        done = [store.part(job.key) is not None for job in ready.jobs]
        return self.jobs(
            ready.label, ready.n_units, ready.chunks, ready.study.design, ready.order.n_regions, ready.options, done
        )

    def of_name(
        self,
        name: Any,
        responses: BrainResponses,
        *,
        weights: str | None,
        voxel_chunk: int | None,
        options: Mapping[str, Any],
    ) -> list[PlannedJob]:
        """Return the jobs of a model that is not extracted; nothing runs, is trained or is written.

        Folds are those of the responses alone: stimuli that only a layer cannot tell apart are not known yet.
        """
        model = _sheets_only(name, weights)
        asked = dict(options)
        layers = asked.pop("layers", None)
        names = (
            list(model.sheets) if layers is None or layers == "all" else [layers] if isinstance(layers, str) else layers
        )
        for layer in names:
            if layer not in model.sheets:
                raise unknown("layer", layer, model.sheets, f"(in model {model.name!r})")
        chosen = chosen_voxels(responses, asked.pop("targets", None))
        if asked.pop("units", None) is not None:
            raise InputError("a mask of units needs activations: give them in the place of a model's name")
        folds = {key: asked.pop(key) for key in FOLD_OPTIONS if key in asked}
        design = make_design(chosen, np.arange(chosen.data.sizes["stimulus"]), **folds)
        grid = check_alphas(asked.pop("alphas", ALPHAS))
        made = PartOptions(alphas=tuple(grid.tolist()), seed=folds.get("seed", 0), **asked)
        n_units = {layer: model.sheets[layer].n_units for layer in names}
        settled = settled_options(design, n_units, chosen.data.sizes["voxel"], made)
        # a model that is read for its sheets alone calls itself untrained
        label = model.name if weights is not None else model.name.removesuffix(" (untrained)")
        return self.jobs(label, n_units, chunks_of(chosen, voxel_chunk), design, len(chosen.rois), settled, None)


def _sheets_only(name: Any, weights: str | None) -> Model:
    """Return a model for its sheets: with random weights where it has such a variant, so that nothing is trained."""
    from topobrain.models import load_model
    from topobrain.models.registry import BUILTIN

    if hasattr(name, "record"):
        return name  # type: ignore[no-any-return]
    if weights is None:
        try:
            return load_model(name, weights="untrained", device="cpu")
        except InputError:  # a factory of one's own that knows no such variant, or no device
            if name in BUILTIN:
                raise  # its own weights may have to be trained first
    return load_model(name, weights=weights)
