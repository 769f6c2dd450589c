"""One job: score one layer on one run of voxels. What runs on a worker, wherever that is."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from topobrain._checks import DataFileError, InputError, TopobrainError
from topobrain.activations import Activations
from topobrain.encoding.cross_validation import Design
from topobrain.encoding.matching import layer_features
from topobrain.encoding.parts import PartOptions, encode_part
from topobrain.jobs.orders import Order, from_arrays, to_arrays
from topobrain.jobs.parts_store import PartsStore
from topobrain.jobs.sealed_files import digest_of
from topobrain.responses import BrainResponses
from topobrain.results import Result, load_result
from topobrain.stats.ridge.memory import parse_memory

NUMERICS = 5
"""Raised whenever a change of the code changes the numbers of a part: parts made before are then made again."""

KEPT = (
    "parts that are done are used again, but with other voxel chunks, and with another memory bound where fits are not in "
    "float64, all are made again"
)
"""What a change of these options means for a study that was begun."""

Precision = Literal["auto", "float64", "mixed", "float32"]


class JobError(TopobrainError, RuntimeError):
    """Something unforeseen that went wrong inside a job; its message names the job."""


@dataclass(frozen=True)
class Job:
    """One layer on a run of voxels. Small: everything large it needs lies in files.

    Attributes
    ----------
    key
        Name of the part: a hash of everything that decides its numbers.
    store
        Folder of the store.
    order
        Key of the order.
    model, layer, subject
        For messages; ``layer`` also names what is read.
    start, stop
        Run of the voxel axis of the responses file, where a subject's voxels lie together.
    first
        Where the subject's voxels begin.
    features, responses
        Hashes of what the job must find in its files.
    version
        Version of topobrain that made the job.
    precision
        Precision of the fit, chosen for the whole study.
    """

    key: str
    store: str
    order: str
    model: str
    layer: str
    subject: str
    start: int
    stop: int
    first: int
    features: str
    responses: str
    version: str
    precision: Precision = "float64"

    def __str__(self) -> str:
        voxels = f"voxels {self.start - self.first}-{self.stop - 1 - self.first}"
        return f"model {self.model!r}, layer {self.layer!r}, subject {self.subject!r}, {voxels}"


@dataclass(frozen=True)
class Done:
    """What a job says of itself when it is done; its part is in the store."""

    key: str
    seconds: float
    reused: bool


def features_digest(features: np.ndarray) -> str:
    """Return a hash of one layer's features (stimulus, unit)."""
    return digest_of({"features": features})


def responses_digest(responses: np.ndarray, roi: np.ndarray) -> str:
    """Return a hash of responses (stimulus, voxel) and their regions."""
    return digest_of({"responses": responses, "roi": roi})


def part_key(features: str, responses: str, layer: str, start: int, stop: int, decides: str) -> str:
    """Return the name of a part: a hash of everything that decides its numbers, and of nothing else."""
    text = "\n".join((str(NUMERICS), features, responses, layer, f"{start}:{stop}", decides))
    return hashlib.sha256(text.encode()).hexdigest()


def decision_digest(design: Design, options: PartOptions, n_regions: int) -> str:
    """Return a hash of what decides the numbers of a part beside its data: folds, groups, options.

    Of the device the kind counts (the processor, CUDA), not which one it is. The memory bound says how many voxels are
    worked on at a time. In float64 that moves scores by 1e-15, and the null by the rounding of its float32 products
    (1e-8), which its comparisons allow for: the bound is left out. Where penalties are chosen in float32 it moves the
    losses by 1e-6 of their size, which may decide between two penalties: there the bound counts.
    """
    kind = None if options.device is None else options.device.partition(":")[0]
    bound = None if options.precision == "float64" else parse_memory(options.max_memory)
    counted = replace(options, max_memory=bound, device=None if kind == "cpu" else kind)
    return digest_of(to_arrays((design, counted)), n_regions=n_regions)


def run_job(job: Job) -> Done:
    """Score one layer on a run of voxels and keep the part, unless it is there already.

    Raises
    ------
    InputError
        Out of memory, with advice; another version of topobrain than the one that made the job.
    DataFileError
        Inputs that this machine does not see or that changed, a store that cannot be written.
    JobError
        Anything unforeseen. Every message names model, layer, subject and voxels.
    """
    with named(job), memory_advice(job.stop - job.start):
        return _run(job)


def _run(job: Job) -> Done:
    from topobrain import __version__

    if __version__ != job.version:
        raise InputError(
            f"the worker has topobrain {__version__}, the job was made by {job.version}: install the same version"
        )
    began = time.perf_counter()
    store = PartsStore(job.store)
    if store.part(job.key) is not None:  # made by a worker that was lost after it had kept its part, or by another run
        return Done(job.key, time.perf_counter() - began, True)
    order = _order(job.store, job.order)
    X, Y = read_features(order, job.layer), read_responses(order, job.start, job.stop)
    roi = order.roi[job.start : job.stop]
    for what, found, wanted, path in (
        ("features", features_digest(X), job.features, order.activations),
        ("responses", responses_digest(Y, roi), job.responses, order.responses),
    ):
        if found != wanted:
            raise DataFileError(f"the {what} in {path} changed since the jobs were planned: run the command again")
    options = replace(order.options, precision=job.precision)
    from topobrain.stats.ridge.workers import one_thread_each

    # sums over more threads round differently: with one, a job gives the same bits on every machine of a kind
    with one_thread_each():
        part = encode_part(X, Y, order.design, roi, n_regions=order.n_regions, options=options)
    store.keep_part(job.key, part)
    return Done(job.key, time.perf_counter() - began, False)


@lru_cache(maxsize=4)
def _order(store: str, key: str) -> Order:
    order = from_arrays(PartsStore(store).order(key))
    if not isinstance(order, Order):
        raise DataFileError(f"{PartsStore(store).order_path(key)} holds a {type(order).__name__}, expected an order")
    return order


def read_features(order: Order, layer: str) -> np.ndarray:
    """Return one layer's features (stimulus, unit); nothing else of the file is read."""
    result = _input(order.activations)
    if not isinstance(result, Activations):
        raise DataFileError(f"{order.activations} holds a {result.kind} result, expected activations")
    return layer_features(result, layer, order.rows, order.mask)


def read_responses(order: Order, start: int, stop: int) -> np.ndarray:
    """Return the responses (stimulus, voxel) of a run of voxels; nothing else of the file is read."""
    result = _input(order.responses)
    if not isinstance(result, BrainResponses):
        raise DataFileError(f"{order.responses} holds a {result.kind} result, expected responses")
    return BrainResponses(result.data.isel(voxel=slice(start, stop))).values


def _input(path: str) -> Result:
    """Open a result file without reading its arrays, or take it from those this process has open."""
    try:
        now = Path(path).stat()
    except OSError as error:
        raise DataFileError(
            f"there is no file {path} here: activations, responses and the store must lie on a file system that every "
            "worker sees under the same paths"
        ) from error
    return _opened(path, (now.st_ino, now.st_size, now.st_mtime_ns))


@lru_cache(maxsize=4)
def _opened(
    path: str, state: tuple[int, int, int]
) -> Result:  # opening costs more than a small job; another file, another state
    return load_result(path, lazy=True)


@contextmanager
def named(job: Job) -> Iterator[None]:
    """Put the job's name before the message of any error."""
    try:
        yield
    except TopobrainError as error:
        raise type(error)(f"{job}: {error}") from error
    except Exception as error:
        raise JobError(f"{job}: {type(error).__name__}: {error}") from error


@contextmanager
def memory_advice(n_voxels: int) -> Iterator[None]:
    """Turn what says that memory ran out into advice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # on the CPU torch raises a plain RuntimeError
        if isinstance(error, TopobrainError) or not _out_of_memory(error):
            raise
        raise InputError(
            f"out of memory with {n_voxels} voxels at a time ({str(error).splitlines()[0] if str(error) else 'no detail'}): "
            f"bound the fits (--max-memory), run fewer workers on one machine, or use a smaller voxel chunk (--voxel-chunk "
            f"{max(1, n_voxels // 2)}); {KEPT}"
        ) from error


def _out_of_memory(error: BaseException) -> bool:
    text = str(error)
    if isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text:
        return True
    return type(error).__name__ in ("OutOfMemoryError", "AcceleratorError") and "memory" in text
