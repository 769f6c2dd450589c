"""encode_all: score many models, layers, subjects and voxels as jobs, on this machine or on a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, overload

from topobrain._checks import InputError, unknown
from topobrain.activations import Activations
from topobrain.encoding.result import Encoding
from topobrain.jobs.cluster import check_scheduler
from topobrain.jobs.parts_store import PartsStore
from topobrain.jobs.plan import Costing, Plan, PlannedJob
from topobrain.jobs.running import Backend, require_count, run_jobs
from topobrain.jobs.studies import ReadyStudy, made_ready
from topobrain.responses import BrainResponses
from topobrain.results import load_result
from topobrain.store.cache import cache_directory

Progress = Callable[[int, int], None]

NO_MODEL = "no model was given: expected names, models or activations, one or more"

LOADING = ("weights", "device")
"""Options of extraction that belong to `load_model`."""


def default_store() -> Path:
    """Return where parts are kept if nothing is said: ``encoding`` in the cache folder."""
    return cache_directory() / "encoding"


@overload
def encode_all(
    models: Iterable[Any], responses: BrainResponses, *, dry_run: Literal[False] = False, **options: Any
) -> list[Encoding]: ...
@overload
def encode_all(models: Iterable[Any], responses: BrainResponses, *, dry_run: Literal[True], **options: Any) -> Plan: ...
def encode_all(
    models: Iterable[Any],
    responses: BrainResponses,
    *,
    layers: Sequence[str] | str | None = None,
    subjects: Sequence[str] | str | None = None,
    voxel_chunk: int | None = None,
    scheduler: str | None = None,
    n_workers: int = 1,
    backend: Backend = "loky",
    store: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    extraction: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> list[Encoding] | Plan:
    """Score several models as `encode` does, divided into jobs: a layer and a run of one subject's voxels each.

    Every job's scores are written to the store once, under a name that is a hash of everything that decides them, and
    used again: after a crash, by another run, for a model that is scored among others next time. A job uses one thread;
    with the same chunks the result is the same to the last bit wherever the jobs run.

    Parameters
    ----------
    models
        Activations, activation files (``.nc``), models, or names for `load_model`; names and models are extracted first.
        One or more; they are taken one at a time, after the cluster has answered.
    responses
        Brain responses (stimulus, voxel).
    layers
        Layers to score, in every model (default: all).
    subjects
        Subjects to score (default: all). Not together with ``targets={"subject": ...}``.
    voxel_chunk
        At most so many voxels of a subject a job (default: all of a subject's).
    scheduler
        A Dask cluster: ``"tcp://HOST:PORT"``, or ``"local:4"`` for four processes started here. Its workers read
        activations, responses and the store under the paths they have here. A worker that is lost is replaced.
    n_workers
        Without a scheduler: processes on this machine; 1 runs everything in this process.
    backend
        ``"loky"`` for processes, ``"threading"`` for threads of this process.
    store
        Folder of the parts (default: ``encoding`` in the cache folder). It may be deleted when results are saved.
    dry_run
        Return the plan: jobs, memory, disk, hours. Nothing is extracted, fitted or written.
    extraction
        Options of `extract` and ``weights``, ``device`` of `load_model`, for models given by name.
    progress
        Called with (jobs done, jobs in all).
    **options
        Further options of `encode` (``alphas``, ``folds``, ``n_permutations``, ``seed``, ...).

    Returns
    -------
    list of Encoding
        One a model, in the order given; a `Plan` with ``dry_run``.

    Raises
    ------
    InputError
        What `encode` raises; a worker with another version of topobrain; out of memory, with advice.
    ClusterError
        The scheduler cannot be reached, or was lost.
    JobError, DataFileError
        What went wrong in a job; the message names model, layer, subject and voxels.
    """
    if isinstance(models, str | os.PathLike | Activations) or not isinstance(models, Iterable):
        raise InputError("encode_all scores several models: expected a list of names, models or activations")
    require_count("n_workers", n_workers)
    if voxel_chunk is not None:
        require_count("voxel_chunk", voxel_chunk)
    if scheduler is not None:
        check_scheduler(scheduler)
    if layers is not None and not len(layers):
        raise InputError("layers=[] leaves nothing to score: name one layer or more, or None for all")
    _check_options(options)
    options = {**options, "layers": layers, "targets": _targets(options.get("targets"), subjects)}
    place = PartsStore(default_store() if store is None else store)
    ready_for: dict[str, Any] = {"voxel_chunk": voxel_chunk, "options": options}
    if dry_run:
        return _plan(models, responses, place, scheduler or n_workers, extraction or {}, ready_for)
    place.open()
    with ExitStack() as stack:
        client = None
        if scheduler is not None:
            client = stack.enter_context(_cluster(scheduler, place))
        ready: list[ReadyStudy] = []
        for label, activations in _each(models, responses, layers, extraction or {}):
            ready.append(made_ready(activations, responses, place, label=label, **ready_for))
        if not ready:
            raise InputError(NO_MODEL)
        jobs = list({job.key: job for study in ready for job in study.jobs}.values())
        left = [job for job in jobs if place.part(job.key) is None]
        if progress is not None:
            progress(len(jobs) - len(left), len(jobs))
        run_jobs(
            left, n_workers=n_workers, backend=backend, client=client, progress=progress, n_done=len(jobs) - len(left)
        )
    return [_finished(study, place) for study in ready]


def _check_options(options: Mapping[str, Any]) -> None:
    """Raise with near names for an option that `encode` does not know."""
    import inspect

    from topobrain.encoding.scoring import encode

    known = [
        name for name in inspect.signature(encode).parameters if name not in ("activations", "responses", "progress")
    ]
    for name in options:
        if name not in known:
            raise unknown("option of encode_all", name, known)


def _targets(targets: Mapping[str, Any] | None, subjects: Sequence[str] | str | None) -> dict[str, Any]:
    chosen = dict(targets or {})
    if subjects is None:
        return chosen
    if "subject" in chosen:
        raise InputError("subjects= and targets={'subject': ...} say the same: give one of them")
    return {**chosen, "subject": [subjects] if isinstance(subjects, str) else list(subjects)}


def _read(model: Any) -> Activations | None:
    """Return activations that are given as such or as a file, None for a model."""
    if isinstance(model, Activations):
        return model
    if isinstance(model, str | os.PathLike) and str(model).endswith(".nc"):
        result = load_result(model, lazy=True)
        if not isinstance(result, Activations):
            raise InputError(f"{model} holds a {result.kind} result, expected activations")
        return result
    return None


def _label(activations: Activations, model: Any) -> str:
    named = activations.provenance.get("model", {}).get("name")
    return str(named or (Path(model).stem if isinstance(model, str | os.PathLike) else "activations"))


def _each(
    models: Iterable[Any], responses: BrainResponses, layers: Any, extraction: Mapping[str, Any]
) -> Iterator[tuple[str, Activations]]:
    """Yield each model's label and activations; one model is in memory at a time."""
    from topobrain.extract import extract
    from topobrain.models import load_model

    options = {key: value for key, value in extraction.items() if key not in LOADING}
    loading = {key: extraction[key] for key in LOADING if key in extraction}
    for given in models:
        activations = _read(given)
        if activations is None:
            model = given if hasattr(given, "record") else load_model(given, **loading)
            activations = extract(model, responses.stimuli, **{"layers": layers, **options})
        yield _label(activations, given), activations


@contextmanager
def _cluster(scheduler: str, place: PartsStore) -> Iterator[Any]:
    from topobrain.jobs.cluster import check_workers, connected

    with connected(scheduler) as client:
        check_workers(client, str(place.mark))
        yield client


def _plan(
    models: Iterable[Any], responses: BrainResponses, place: PartsStore, workers: str | int,
    extraction: Mapping[str, Any], ready_for: Mapping[str, Any],
) -> Plan:  # fmt: skip
    """Return the plan, from activations where they are given and from a model's sheets where they are not."""
    jobs: list[PlannedJob] = []
    input_bytes, costing = 0, Costing.measured()
    given_any = False
    for given in models:
        given_any = True
        activations = _read(given)
        if activations is None:
            jobs += costing.of_name(
                given, responses, weights=extraction.get("weights"), voxel_chunk=ready_for["voxel_chunk"],
                options=ready_for["options"],
            )  # fmt: skip
            continue
        ready = made_ready(activations, responses, place, label=_label(activations, given), write=False, **ready_for)
        jobs += costing.of_study(ready, place)
        input_bytes += ready.input_bytes(activations)
    if not given_any:
        raise InputError(NO_MODEL)
    return Plan(tuple(jobs), _number_of(workers), costing.rates, input_bytes, str(place.directory))


def _number_of(workers: str | int) -> int:
    """Return the number of workers: a cluster of this machine says its own, a real one is asked."""
    if isinstance(workers, int):
        return workers
    from topobrain.jobs.cluster import connected, n_threads

    local = check_scheduler(workers)
    if local is not None:
        return local
    with connected(workers) as client:
        return n_threads(client)


def _finished(study: ReadyStudy, place: PartsStore) -> Encoding:
    result = study.result(place)
    if study.activations is not None:
        from topobrain.encoding.leakage import against_contiguous

        return against_contiguous(result, study.study, study.activations)
    return result
