"""Studies made ready for jobs: stimuli matched, folds made, inputs in files, voxels divided."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from topobrain._checks import DataFileError
from topobrain.activations import Activations
from topobrain.encoding.assembling import assemble, region_numbers
from topobrain.encoding.cross_validation import Design
from topobrain.encoding.matching import layer_features
from topobrain.encoding.parts import PER_FOLD, PER_VOXEL, Part, PartOptions, join_voxels
from topobrain.encoding.result import Encoding
from topobrain.encoding.scoring import Study, prepare
from topobrain.jobs.costs import ridge_plan
from topobrain.jobs.orders import Order, to_arrays
from topobrain.jobs.parts_store import PartsStore
from topobrain.jobs.running import require_count
from topobrain.jobs.sealed_files import digest_of, file_digest, write_whole
from topobrain.jobs.work import Job, decision_digest, features_digest, part_key, responses_digest
from topobrain.responses import BrainResponses
from topobrain.results import Result


@dataclass(frozen=True)
class Chunk:
    """A run of one subject's voxels.

    Attributes
    ----------
    subject
        Whose.
    start, stop
        Run of the voxel axis, with every subject's voxels together.
    first
        Where the subject's voxels begin.
    """

    subject: str
    start: int
    stop: int
    first: int

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        return self.stop - self.start


def together(responses: BrainResponses) -> np.ndarray:
    """Return an order of the voxels in which every subject's lie together, subjects and voxels in the order they come."""
    number = {subject: index for index, subject in enumerate(responses.subjects)}
    return np.argsort([number[subject] for subject in responses.labels("subject")], kind="stable")


def chunks_of(responses: BrainResponses, voxel_chunk: int | None) -> list[Chunk]:
    """Divide the voxels of each subject into runs of at most ``voxel_chunk`` (None: one run a subject)."""
    if voxel_chunk is not None:
        require_count("voxel_chunk", voxel_chunk)
    labels, found, first = responses.labels("subject"), [], 0
    for subject in responses.subjects:
        n_voxels = int((labels == subject).sum())
        n_chunks = 1 if voxel_chunk is None else -(-n_voxels // voxel_chunk)
        # of nearly equal size: the last worker does not wait for a chunk of its own
        edges = np.linspace(first, first + n_voxels, n_chunks + 1).astype(int).tolist()
        found += [Chunk(subject, a, b, first) for a, b in itertools.pairwise(edges)]
        first += n_voxels
    return found


@dataclass(frozen=True)
class ReadyStudy:
    """One model's study with its jobs.

    Attributes
    ----------
    label
        The model, for messages and tables.
    study
        What `prepare` made of it.
    source
        Provenance of the activations.
    n_units
        Features of each layer.
    jobs
        One a layer and chunk, layers first.
    chunks
        The chunks of every layer.
    order
        What the jobs share.
    options
        The options of each layer, with nothing left to be chosen from the number of voxels.
    activations
        The activations, kept only where a check needs them again (shuffled folds are compared with contiguous ones).
    """

    label: str
    study: Study
    source: Mapping[str, Any]
    n_units: Mapping[str, int]
    jobs: tuple[Job, ...]
    chunks: tuple[Chunk, ...]
    order: Order
    options: Mapping[str, PartOptions]
    activations: Activations | None = None

    def input_bytes(self, activations: Activations) -> int:
        """Return the bytes of what is written into the store before the jobs start."""
        Y = self.study.responses.data["value"]
        return int(Y.nbytes) + (0 if file_of(activations) is not None else int(activations.data["value"].nbytes))

    def parts(self, store: PartsStore) -> Iterator[tuple[str, Part]]:
        """Yield (layer, part over all voxels in the order of the responses)."""
        back = np.argsort(together(self.study.responses), kind="stable")
        for i, layer in enumerate(self.study.layers):
            mine = self.jobs[i * len(self.chunks) : (i + 1) * len(self.chunks)]
            found = []
            for job in mine:
                part = store.part(job.key)
                if part is None:
                    raise DataFileError(
                        f"{job}: its part is not in {store.directory}. Do all workers see that folder under this path?"
                    )
                found.append(part)
            joined = join_voxels(found)
            yield layer, joined | {name: joined[name][..., back] for name in (*PER_FOLD, *PER_VOXEL)}

    def result(self, store: PartsStore) -> Encoding:
        """Put the parts together."""
        study = self.study
        return assemble(
            dict(self.parts(store)), study.responses, study.design, study.options,
            source=self.source, further=study.further,
        )  # fmt: skip


def made_ready(
    activations: Activations,
    responses: BrainResponses,
    store: PartsStore,
    *,
    label: str,
    voxel_chunk: int | None,
    write: bool = True,
    options: Mapping[str, Any] | None = None,
) -> ReadyStudy:
    """Match stimuli, make folds, put what workers read into files, and divide the work into jobs.

    Parameters
    ----------
    activations, responses
        As in `topobrain.encode`.
    store
        Where files go; activations and responses read from a file stay where they are.
    label
        Name of the model in messages.
    voxel_chunk
        Voxels of one subject a job.
    write
        Whether files are written; without, only the plan is made.
    options
        Options of `topobrain.encode`.
    """
    from topobrain import __version__

    study = prepare(activations, responses, **(options or {}))
    chosen = study.responses
    turn = together(chosen)
    regions, roi = region_numbers(chosen)
    Y = chosen.values
    chunks = tuple(chunks_of(chosen, voxel_chunk))
    features, n_units = {}, {}
    for layer in study.layers:
        X = layer_features(activations, layer, study.rows, study.mask)
        features[layer], n_units[layer] = features_digest(X), X.shape[1]
    runs = [turn[chunk.start : chunk.stop] for chunk in chunks]
    seen = [responses_digest(Y[:, run], roi[run]) for run in runs]
    settled = settled_options(study.design, n_units, len(turn), study.options)
    order = Order("", "", study.rows, study.mask, roi[turn], len(regions), study.design, study.options)
    if write:
        order = replace(
            order,
            activations=str(_activations_file(activations, store, features)),
            responses=str(_responses_file(chosen, turn, store, seen)),
        )
    arrays = to_arrays(order)
    order_key = digest_of(arrays)
    if write:
        store.keep_order(order_key, arrays)
    decides = {one.precision: decision_digest(study.design, one, len(regions)) for one in set(settled.values())}
    jobs = tuple(
        Job(
            key=part_key(features[layer], part, layer, chunk.start, chunk.stop, decides[settled[layer].precision]),
            store=str(store.directory), order=order_key, model=label, layer=layer, subject=chunk.subject,
            start=chunk.start, stop=chunk.stop, first=chunk.first, features=features[layer], responses=part,
            version=__version__, precision=settled[layer].precision,
        )
        for layer in study.layers
        for chunk, part in zip(chunks, seen, strict=True)
    )  # fmt: skip
    again = activations if study.design.outer.scheme == "shuffled" else None
    return ReadyStudy(label, study, activations.provenance, n_units, jobs, chunks, order, settled, again)


def settled_options(
    design: Design, n_units: Mapping[str, int], n_voxels: int, options: PartOptions
) -> dict[str, PartOptions]:
    """Return each layer's options with the precision chosen as for all voxels at once, so that chunks do not change it."""
    if options.precision != "auto":
        return dict.fromkeys(n_units, options)
    unbound = replace(options, max_memory=None)  # the bound is on a job, not on the whole
    return {
        layer: replace(options, precision=ridge_plan(design, width, n_voxels, unbound).precision)  # type: ignore[arg-type]
        for layer, width in n_units.items()
    }


def file_of(result: Result) -> Path | None:
    """Return the file that a result was opened from and is still read from, None for one in memory.

    What was taken out of a file (some layers, some voxels) has no file of its own.
    """
    source = result.data.encoding.get("source")
    variable = result.data["value"].variable
    whole = variable.encoding.get("original_shape") == variable.shape
    lazy = not variable._in_memory  # what is in memory may have been changed since
    path = Path(source) if source else None
    return path.absolute() if path is not None and whole and lazy and path.is_file() else None


def _activations_file(activations: Activations, store: PartsStore, features: Mapping[str, str]) -> Path:
    """Return the file workers read activations from; those in memory are written into the store."""
    there = file_of(activations)
    if there is not None:
        return there
    whole = {layer: features_digest(activations.values(layer)) for layer in activations.layers}
    path = store.inputs / f"activations_{digest_of({}, layers=whole)[:32]}.nc"
    return _kept(activations, path)


def _responses_file(responses: BrainResponses, turn: np.ndarray, store: PartsStore, seen: Sequence[str]) -> Path:
    """Return the file workers read responses from, with every subject's voxels together."""
    path = store.inputs / f"responses_{digest_of({}, chunks=list(seen))[:32]}.nc"
    return _kept(BrainResponses(responses.data.isel(voxel=turn)), path)


def _kept(result: Result, path: Path) -> Path:
    """Write an input into the store with a hash of the file beside it, unless both are there and agree."""
    beside = path.with_name(f"{path.name}.sha256")
    if path.is_file():
        if _read_text(beside) == file_digest(path):
            return path
        warnings.warn(f"{path} was altered or not finished. It is written again", stacklevel=2)
    result.save(path)
    write_whole(beside, file_digest(path).encode())
    return path


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text()
    except (OSError, ValueError):  # missing, or damaged itself
        return None
