"""extract: a model's activations for a stimulus set. The only batching, pooling and caching in the library."""

from __future__ import annotations

import errno
import functools
import hashlib
import itertools
import json
import os
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from topobrain._allocation import keep_freed_memory
from topobrain._checks import DataFileError, InputError, require_choice, unknown
from topobrain.activations import Activations, sheets_attribute, stimuli_fields, stimulus_coords, unit_coords
from topobrain.models.protocol import Model, Recording
from topobrain.pooling import Pooling, Rows, cut_words, joined, pooling_weights
from topobrain.results import Result, load_result
from topobrain.sheet import Sheet
from topobrain.stimuli import StimulusSet
from topobrain.store.cache import VARIABLE as CACHE_VARIABLE
from topobrain.store.cache import cache_directory

Precision = Literal["float32", "bf16"]
Progress = Callable[[int, int], None]

SHARD_BYTES = 32 * 2**20
"""Pooled activations are written in pieces of about this size: what an interruption can lose."""
BATCH_OVERHEAD = 32
"""What a batch more costs on a CPU, in tokens: reading all weights once, and Python (measured: 20-30, GPT-2 small)."""
CPU_BATCH_TOKENS = 768
"""The most tokens a batch on a CPU: products are as fast as they get (from about 250 on, measured with GPT-2 small), and
the memory that `keep_freed_memory` has kept holds the intermediate values."""
LAYOUT = 5
"""Raised whenever batching or pooling change the numbers: older cache entries are then not used."""


def extract(
    model: Model,
    stimuli: StimulusSet,
    *,
    layers: Sequence[str] | str | None = None,
    pooling: Pooling = "mean",
    max_tokens: int | None = None,
    precision: Precision = "float32",
    batch_tokens: int = 2048,
    cache: bool = True,
    progress: Progress | None = None,
) -> Activations:
    """Record what a model's units do for each stimulus.

    Stimuli run in batches of about equal length. Padding and special tokens never enter a pooled value.

    Parameters
    ----------
    model
        Anything with ``name``, ``sheets`` and ``record`` (see `topobrain.models.Model`).
    stimuli
        The stimuli; the result's rows keep their order.
    layers
        Layers to record (default, or ``"all"``: all), in the order wanted.
    pooling
        ``"mean"`` over the tokens of all words; ``"last"``: the last such token; ``"word"``: one row a word, the mean
        of its tokens; ``"none"``: one row a token. The last two give rows ``s0000/0, s0000/1, ...`` with coordinates
        ``sentence`` and ``word``.
    max_tokens
        Count only the first so many word tokens of each text. The model still reads the whole text, which for a causal
        model makes no difference to the tokens that count. A warning gives the tokens and whole words kept in each
        condition: nonwords are cut into more tokens than words.
    precision
        ``"bf16"`` runs the model in bfloat16 where it can: faster on a device with bfloat16 arithmetic (a GPU, a CPU
        with AMX; one with AVX2 only is warned of, it is slower), correlates with float32 at .9999 or better.
    batch_tokens
        The most tokens a batch, padding included; bounds memory (a CPU takes 768 at the most: larger is slower). Batches
        are cut where that saves more padding than one more batch costs.
    cache
        Keep the result on disk and reuse it. The key covers weights, code, encoded stimuli, layers and every option.
        An interrupted run goes on where it stopped. A model without ``survey`` and ``weights_hash`` is not cached.
    progress
        Called with (stimuli done, stimuli in all) after every batch.

    Returns
    -------
    Activations
        ``value (stimulus, unit)`` float32; ``n_tokens_read``, ``n_words_read (stimulus)``: the word tokens and whole words
        that went in. A cached result is read from disk layer by layer when it is used.

    Raises
    ------
    UnknownNameError
        A layer the model does not have; near names are offered.
    InputError
        Activations that are not finite, a model that breaks its contract, a stimulus it cannot read.
    DataFileError
        The cache cannot be written (full disk, no permission): what was done so far is kept and used next time.
    """
    if not isinstance(stimuli, StimulusSet):
        hint = (
            "pass its .stimuli" if hasattr(stimuli, "stimuli") else "make one: StimulusSet(texts, {'condition': [...]})"
        )
        raise InputError(f"extract reads a StimulusSet, got {type(stimuli).__name__}: {hint}")
    chosen = _chosen_layers(model, layers)
    require_choice("pooling", pooling, get_args(Pooling))
    require_choice("precision", precision, get_args(Precision))
    if batch_tokens < 1:
        raise InputError(f"batch_tokens must be 1 or more, got {batch_tokens}")
    if max_tokens is not None and (isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1):
        raise InputError(f"max_tokens is a whole number of 1 or more, or None for whole texts; got {max_tokens!r}")
    if precision == "bf16":
        warn_of_slow_bf16(model)
    options = {
        "layers": chosen,
        "pooling": pooling,
        "max_tokens": max_tokens,
        "precision": precision,
        "batch_tokens": batch_tokens,
    }
    job = _Job.of(model, stimuli, options, cache=cache)
    keep_freed_memory()
    if job.key is None:
        parts = [job.run(batch) for batch in job.batches(progress)]
        result = job.assemble(np.concatenate([p[0] for p in parts]), joined([p[1] for p in parts]))
    else:
        result = _cached(job, cache_directory() / "activations", progress)
    if max_tokens is not None:
        _tell_what_was_cut(result, stimuli, max_tokens)
    return result


def cache_key(model: Model, stimuli: StimulusSet) -> str | None:
    """Return a hash of everything that changes a model's activations for these stimuli, None if it cannot be had."""
    options = {
        "layers": list(model.sheets),
        "pooling": "mean",
        "max_tokens": None,
        "precision": "float32",
        "batch_tokens": 2048,
    }
    return _Job.of(model, stimuli, options, cache=True).key


@functools.cache  # reading the metadata of four packages takes as long as reading several sentences
def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("topobrain", "torch", "transformers", "numpy")}


def warn_of_slow_bf16(model: Model) -> None:
    """Warn where a model's device only imitates bfloat16."""
    import torch

    on_cpu = str(getattr(model, "device", "cpu")).startswith("cpu")
    if on_cpu and torch.backends.cpu.get_cpu_capability() == "AVX2":
        warnings.warn(
            "precision='bf16': this CPU (AVX2) has no bfloat16 arithmetic and imitates it, many times slower than "
            "float32; take precision='float32' here",
            stacklevel=3,
        )


def _tell_what_was_cut(result: Activations, stimuli: StimulusSet, max_tokens: int) -> None:
    """Warn how much of each condition a cut left: the conditions of a localizer seldom lose the same."""
    lengths = result.read_lengths("condition" if "condition" in stimuli.table.columns else None)
    kept = "; ".join(f"{row.condition}: {row.tokens:.1f} tokens, {row.words:.1f} words" for row in lengths.itertuples())
    warnings.warn(f"texts were cut after {max_tokens} tokens, mean kept of {stimuli.name!r}: {kept}", stacklevel=3)


def _chosen_layers(model: Model, layers: Sequence[str] | str | None) -> list[str]:
    known = list(model.sheets)
    if layers is None or layers == "all":
        return known
    names = [layers] if isinstance(layers, str) else list(layers)
    if not names:
        raise InputError(f"no layer was asked for; model {model.name!r} has {known}")
    for name in names:
        if name not in known:
            raise unknown("layer", name, known, f"(in model {model.name!r})")
    if len(set(names)) != len(names):
        raise InputError(f"a layer was asked for twice: {names}")
    return names


@dataclass(frozen=True)
class _Job:
    """One extraction: what to run, in which batches, under which cache key."""

    model: Model
    stimuli: StimulusSet
    options: dict[str, Any]
    order: np.ndarray
    lengths: np.ndarray
    key: str | None
    provenance: dict[str, Any]

    @classmethod
    def of(cls, model: Model, stimuli: StimulusSet, options: dict[str, Any], *, cache: bool) -> _Job:
        """Plan an extraction; only one that is cached needs a key, and so the readings that go into it."""
        survey = None
        if not cache and hasattr(model, "token_counts"):
            lengths = np.asarray(model.token_counts(stimuli.items))
        elif hasattr(model, "survey"):
            survey = model.survey(stimuli.items)
            lengths = np.asarray(survey.lengths)
        else:
            lengths = np.array([len(item.split()) if isinstance(item, str) else 1 for item in stimuli.items])
        weights = model.weights_hash() if hasattr(model, "weights_hash") else None
        device = str(getattr(model, "device", "cpu"))
        sheets = {layer: model.sheets[layer].to_dict() for layer in options["layers"]}
        key = None
        if cache and survey is not None and weights is not None:
            fields = {
                "layout": LAYOUT,
                "options": options,
                "model": [model.name, getattr(model, "provenance", {})],
                "weights": weights,
                "stimuli": stimuli.digest(),
                "encoded": survey.digest,
                "labels": [(name, v.dtype.str, repr(v.tolist())) for name, (_, v) in stimulus_coords(stimuli).items()],
                "set": [stimuli.name, stimuli.provenance],
                "sheets": sheets,
                "device": device,
                "versions": _versions(),
            }
            key = hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:32]
        provenance = {
            "model": {"name": model.name, "weights_sha256": weights, **getattr(model, "provenance", {})},
            "stimuli": stimuli_fields(stimuli),
            "extraction": {**options, "device": device},
        }
        order = np.argsort(lengths, kind="stable")
        return cls(model, stimuli, options, order, lengths, key, provenance)

    @property
    def n_units(self) -> int:
        return sum(self.sheets[layer].n_units for layer in self.sheets)

    @property
    def sheets(self) -> dict[str, Sheet]:
        return {layer: self.model.sheets[layer] for layer in self.options["layers"]}

    def batch_list(self) -> list[np.ndarray]:
        """Return positions of the stimuli of each batch, short stimuli first."""
        limit = self.options["batch_tokens"]
        on_cpu = str(getattr(self.model, "device", "cpu")).startswith("cpu")
        # an accelerator takes a full batch in hardly more time than a small one
        limit, overhead = (min(limit, CPU_BATCH_TOKENS), BATCH_OVERHEAD) if on_cpu else (limit, limit)
        return np.split(self.order, batch_cuts(self.lengths[self.order], limit, overhead))

    def batches(self, progress: Progress | None) -> Iterator[np.ndarray]:
        done = 0
        for batch in self.batch_list():
            yield batch
            done += len(batch)
            if progress is not None:
                progress(done, len(self.stimuli))

    def run(self, batch: np.ndarray) -> tuple[np.ndarray, Rows]:
        """Record one batch and pool it: rows (row, unit) and where they come from."""
        import torch

        layers = self.options["layers"]
        device = torch.device(str(getattr(self.model, "device", "cpu")))
        low = self.options["precision"] == "bf16"
        with torch.autocast(device.type, dtype=torch.bfloat16) if low else nullcontext():
            try:
                recording = self.model.record([self.stimuli.items[i] for i in batch], layers)
            except (MemoryError, RuntimeError) as error:  # on the CPU torch raises a plain RuntimeError
                full = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
                if not full:
                    raise
                raise InputError(
                    f"out of memory with a batch of {len(batch)} stimuli of up to {int(self.lengths[batch].max())} tokens on "
                    f"{device}: use a smaller batch_tokens (now {self.options['batch_tokens']})"
                ) from error
        self._check(recording, batch)
        word = np.asarray(recording.word)
        if self.options["max_tokens"] is not None:
            word = cut_words(word, self.options["max_tokens"])
        weights, rows = pooling_weights(np.asarray(recording.word), self.options["pooling"], self.options["max_tokens"])
        pooled = []
        for layer in layers:
            values = torch.as_tensor(recording.values[layer]).float()
            found = _pool(values, weights, rows)
            if not torch.isfinite(found).all():
                # a token outside every word must not enter, not even as 0 x inf: padding may hold anything
                inside = torch.as_tensor(word >= 0, device=values.device)
                values = torch.where(inside[:, :, None], values, torch.zeros((), device=values.device))
                found = _pool(values, weights, rows)
            pooled.append(found.cpu().numpy())
        result = np.concatenate(pooled, axis=1).astype(np.float32, copy=False)
        if not np.isfinite(result).all():
            row, unit = np.argwhere(~np.isfinite(result))[0]
            widths = np.cumsum([self.sheets[layer].n_units for layer in layers])
            layer = layers[int(np.searchsorted(widths, unit, side="right"))]
            label = self.stimuli.ids[batch[rows.stimulus[row]]]
            raise InputError(f"layer {layer!r} of {self.model.name!r} is {result[row, unit]} for stimulus {label!r}")
        return result, rows.at(batch)

    def _check(self, recording: Recording, batch: np.ndarray) -> None:
        word = np.asarray(recording.word)
        if len(word) != len(batch):
            raise InputError(f"model {self.model.name!r} recorded {len(word)} stimuli of a batch of {len(batch)}")
        empty = np.flatnonzero(~(word >= 0).any(axis=1))
        if empty.size:
            label = self.stimuli.ids[batch[empty[0]]]
            raise InputError(f"model {self.model.name!r} gave no token of a word for stimulus {label!r}")
        for layer in self.options["layers"]:
            if layer not in recording.values:
                raise InputError(f"model {self.model.name!r} did not record layer {layer!r}, which its sheets list")
            width, places = recording.values[layer].shape[2], self.sheets[layer].n_units
            if width != places:
                raise InputError(f"layer {layer!r} of {self.model.name!r} has {width} units, its sheet {places} places")

    def assemble(self, values: np.ndarray, rows: Rows) -> Activations:
        """Put rows in the order of the stimuli and label them."""
        import xarray as xr

        order = np.lexsort((rows.part, rows.stimulus))
        data = xr.Dataset(
            {"value": (("stimulus", "unit"), values[order])}, coords=self.coords(rows, order), attrs=self.attrs()
        )
        return Activations(data)

    def coords(self, rows: Rows, order: np.ndarray) -> dict[str, Any]:
        coords = stimulus_coords(self.stimuli)
        if self.options["pooling"] in ("word", "none"):
            source, part, word = rows.stimulus[order], rows.part[order], rows.word[order]
            ids = np.array(self.stimuli.ids, dtype=object)[source]
            coords = {name: (axis, values[source]) for name, (axis, values) in coords.items()}
            coords["stimulus"] = (
                "stimulus",
                np.array([f"{i}/{p}" for i, p in zip(ids, part, strict=True)], dtype=object),
            )
            coords["sentence"] = ("stimulus", ids)
            coords["word"] = ("stimulus", word)
        coords["n_tokens_read"] = ("stimulus", rows.n_tokens[order])
        coords["n_words_read"] = ("stimulus", rows.n_words[order])
        return {**coords, **unit_coords(self.sheets)}

    def attrs(self) -> dict[str, str]:
        return {**sheets_attribute(self.sheets), **Activations.attributes(self.provenance)}


def batch_cuts(lengths: np.ndarray, batch_tokens: int, overhead: int) -> np.ndarray:
    """Return where sorted lengths are cut into batches so that padded tokens plus ``overhead`` a batch are fewest.

    Dynamic programming over the distinct lengths: stimuli of one length stay together, a run of lengths is padded to its
    longest, and a run of more than ``batch_tokens`` is cut into equal parts.

    >>> batch_cuts(np.array([2, 2, 2, 9, 9, 10]), batch_tokens=100, overhead=4).tolist()
    [3]
    >>> batch_cuts(np.array([2, 2, 2, 9, 9, 10]), batch_tokens=20, overhead=4).tolist()
    [3, 5]
    """
    longest, first = np.unique(lengths, return_index=True)
    edge = np.append(first, len(lengths))
    rows = np.maximum(batch_tokens // np.maximum(longest, 1), 1)
    least, came_from = np.zeros(len(edge)), np.zeros(len(edge), dtype=int)
    for end in range(1, len(edge)):
        count = edge[end] - edge[:end]
        cost = least[:end] + count * longest[end - 1] + overhead * -(-count // rows[end - 1])
        came_from[end] = cost.argmin()
        least[end] = cost[came_from[end]]
    cuts: list[int] = []
    end = len(edge) - 1
    while end > 0:
        start = int(came_from[end])
        count = int(edge[end] - edge[start])
        parts = -(-count // int(rows[end - 1]))
        cuts += [int(edge[start]) + count * part // parts for part in range(parts)]
        end = start
    return np.array(sorted(cuts)[1:], dtype=int)


def _pool(values: Any, weights: np.ndarray, rows: Rows) -> Any:
    import torch

    taken = torch.as_tensor(weights, device=values.device)
    if len(taken) == len(values) and np.array_equal(rows.stimulus, np.arange(len(values))):
        return torch.einsum("st,stu->su", taken, values)
    pooled = [taken[rows.stimulus == s] @ values[s] for s in range(len(values))]
    return torch.cat(pooled)


def _cached(job: _Job, folder: Path, progress: Progress | None) -> Activations:
    """Return the cached result, finishing or making it under a lock that other processes wait for."""
    from filelock import FileLock

    finished, pieces = folder / f"{job.key}.nc", folder / f"{job.key}.parts"
    lock = FileLock(folder / f"{job.key}.lock")
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        result = _complete(finished)
        if result is None:
            with _writing(folder):
                pieces.mkdir(exist_ok=True)
            paths = _write_pieces(job, pieces, progress)
            with _writing(folder):
                _write_result(job, paths, finished)
                shutil.rmtree(pieces, ignore_errors=True)
    finally:
        lock.release()
    if result is None:
        result = load_result(finished, lazy=True)
    if not isinstance(result, Activations):
        raise DataFileError(f"{finished} is no activation file: delete it and run again")
    return result


def _complete(finished: Path) -> Result | None:
    """Return the result if it is there and opens; one that a crash left damaged is made again."""
    try:
        return load_result(finished, lazy=True)
    except (DataFileError, InputError):
        return None


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except DataFileError:
        raise
    except OSError as error:
        raise DataFileError(
            f"cannot write the activation cache in {folder}: {error.strerror or error}. What was done so far is kept and "
            f"used next time; set {CACHE_VARIABLE} to another folder, free space, or pass cache=False"
        ) from error


def _write_pieces(job: _Job, pieces: Path, progress: Progress | None) -> list[Path]:
    """Run what is not yet on disk, a piece of several batches at a time; a piece appears whole or not at all."""
    row_bytes = 4 * job.n_units
    groups: list[list[np.ndarray]] = [[]]
    filled = 0
    for batch in job.batch_list():
        n_rows = int(job.lengths[batch].sum()) if job.options["pooling"] in ("word", "none") else len(batch)
        if groups[-1] and row_bytes * (filled + n_rows) > SHARD_BYTES:
            groups.append([])
            filled = 0
        groups[-1].append(batch)
        filled += n_rows
    done = 0
    paths = [pieces / f"{number:06d}.npz" for number in range(len(groups))]
    for path, group in zip(paths, groups, strict=True):
        missing = not _readable(path, np.concatenate(group))
        parts = []
        for batch in group:
            if missing:
                parts.append(job.run(batch))
            done += len(batch)
            if progress is not None:
                progress(done, len(job.stimuli))
        if missing:
            with _writing(pieces.parent):
                _write_piece(path, np.concatenate([p[0] for p in parts]), joined([p[1] for p in parts]))
    return paths


def _write_piece(path: Path, values: np.ndarray, rows: Rows) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as stream:
            np.savez(stream, allow_pickle=False, values=values, **rows.arrays())
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _readable(path: Path, stimuli: np.ndarray) -> bool:
    """Whether a piece is there undamaged (its checksums hold) and holds these stimuli."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return False
        with np.load(path, allow_pickle=False) as piece:
            return np.array_equal(np.unique(piece["stimulus"]), np.sort(stimuli))
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        return False


def _write_result(job: _Job, paths: list[Path], finished: Path) -> None:
    """Stream the pieces into one netCDF4 file, rows in the order of the stimuli, never holding more than a piece."""
    import h5netcdf
    import xarray as xr

    origins = []
    for path in paths:
        with np.load(path, allow_pickle=False) as piece:
            origins.append(Rows(**{field.name: piece[field.name] for field in fields(Rows)}))
    rows = joined(origins)
    order = np.lexsort((rows.part, rows.stimulus))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    for left in finished.parent.glob(f".{finished.name}.*.part"):
        left.unlink(missing_ok=True)  # by a process that was killed: the lock is ours now
    needed, free = 4 * len(order) * job.n_units, shutil.disk_usage(finished.parent).free
    if free < 1.1 * needed:  # HDF5 does not survive a disk that fills up under it
        raise OSError(errno.ENOSPC, f"no space left, {needed / 2**20:.0f} MiB needed and {free / 2**20:.0f} MiB free")
    temporary = finished.with_name(f".{finished.name}.{os.getpid()}.part")
    try:
        labels = xr.Dataset(coords=job.coords(rows, order), attrs={**job.attrs(), "kind": Activations.kind})
        labels.to_netcdf(temporary, engine="h5netcdf")
        with h5netcdf.File(temporary, "a") as file:
            shape = (len(order), job.n_units)
            chunks = (min(shape[0], 256), min(shape[1], 1024))
            value = file.create_variable("value", ("stimulus", "unit"), np.float32, chunks=chunks)
            value.attrs["coordinates"] = " ".join(str(n) for n in labels.coords if n not in ("stimulus", "unit"))
            start = 0
            for path in paths:
                with np.load(path, allow_pickle=False) as piece:
                    values = piece["values"]
                target = place[start : start + len(values)]
                values = values[np.argsort(target, kind="stable")]
                for begin, end, at in _runs(target):
                    value[at : at + end - begin] = values[begin:end]
                start += len(values)
        os.replace(temporary, finished)
    finally:
        temporary.unlink(missing_ok=True)


def _runs(target: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, end, place) for stretches of sorted targets that are consecutive: one write each."""
    ordered = np.sort(target)
    breaks = np.flatnonzero(np.diff(ordered) != 1) + 1
    edges = [0, *breaks.tolist(), len(ordered)]
    for begin, end in itertools.pairwise(edges):
        yield begin, end, int(ordered[begin])
