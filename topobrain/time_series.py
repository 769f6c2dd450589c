"""From words to volumes: model activations on the clock of a brain recording, delayed or convolved, ready for `encode`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from topobrain._checks import InputError, listed, near, unknown
from topobrain.activations import Activations, sheets_attribute, stimuli_fields, stimulus_coords, unit_coords
from topobrain.responses import BrainResponses
from topobrain.sheet import Sheet
from topobrain.stats.time_series import (
    Kernel,
    Sampling,
    check_delays,
    convolve_hrf,
    fir_delays,
    sampling_weights,
)

RUN = "run"
"""Stimulus column that names the run of a volume or a word: each run has a clock of its own."""

TIME = "time_s"
"""Stimulus column with the start of each volume, in seconds."""

FEW = 0.1
"""Part of the words that may lie outside all volumes before a warning says so."""

Steps = list[dict[str, Any]]


def words_to_volumes(
    words: Activations,
    responses: BrainResponses,
    *,
    times: str | np.ndarray = "onset_s",
    method: Sampling = "sum",
    delays: Sequence[int] | None = None,
    tr_s: float | None = None,
    window: float = 3.0,
    cutoff_hz: float | None = None,
) -> Activations:
    """Bring features of words to the volumes of a time series: one row a volume, the rows that `encode` expects.

    Parameters
    ----------
    words
        One row a word (or any other event): a model's activations, surprisal, length.
    responses
        A time series with the column ``time_s``, the start of each volume on the words' clock. Where it has several runs
        (a column ``run``), the words need that column too, with the same runs, and times count within a run.
    times
        Stimulus column of ``words`` with each word's time in seconds, or an array (word,).
    method
        ``"sum"``: all words that begin in a volume are added up, so that a feature of 1 becomes the word rate;
        ``"mean"``: their mean, 0 in a volume without a word; ``"lanczos"``: low-passed, see
        `topobrain.stats.sampling_weights`.
    delays
        Whole volumes, as in `with_delays`, if wanted at once. Each delayed copy is sampled from the words themselves, so
        that words before the first volume count in the volumes that follow; `with_delays` can only fill in 0.
    tr_s
        Length of a volume in seconds (default: that of the responses).
    window, cutoff_hz
        Of the Lanczos filter.

    Returns
    -------
    Activations
        Stimuli, texts and columns of ``responses``; layers of ``words``, their sheets too unless there are delays. The
        history in the provenance counts the words that lie in no volume (``n_words_outside``).

    Raises
    ------
    InputError
        Responses without times, missing times, times that are text, words without runs where there are several, or runs that
        only the words or only the responses have.

    Warns
    -----
    UserWarning
        More than a tenth of the words lie in no volume, at none of the delays.

    References
    ----------
    Huth et al. (2016) Nature 532:453; LeBel et al. (2023) Sci Data 10:555.
    """
    when = _word_times(words, times)
    starts = _column(responses, TIME)
    step = _volume_length(responses, tr_s)
    volume_run, word_run = _matching_runs(words, responses)
    steps = None if delays is None else check_delays(delays)
    weights = []
    for d in steps or [0]:
        parts = []
        for run in dict.fromkeys(volume_run.tolist()):
            inside = np.flatnonzero(word_run == run)
            part = sampling_weights(
                when[inside],
                starts[volume_run == run] - d * step,
                step,
                method=method,
                window=window,
                cutoff_hz=cutoff_hz,
            ).tocoo()
            rows = np.flatnonzero(volume_run == run)
            parts.append((part.data, rows[part.coords[0]], inside[part.coords[1]]))
        weights.append(_joined(parts, (len(starts), len(when))))

    if not any(weight.nnz for weight in weights):
        raise InputError(
            f"no word lies in a volume: words run from {when.min():g} to {when.max():g} s, volumes from {starts.min():g} to "
            f"{starts.max() + step:g} s; are both on the same clock?"
        )
    reached = np.concatenate([weight.tocoo().coords[1] for weight in weights])
    n_outside = len(when) - len(np.unique(reached))
    if n_outside > FEW * len(when):
        warnings.warn(
            f"{n_outside} of {len(when)} words lie in no volume{' at any delay' if steps else ''} and are left out: words run "
            f"from {when.min():g} to {when.max():g} s, volumes from {starts.min():g} to {starts.max() + step:g} s; are both "
            "on the same clock?",
            stacklevel=2,
        )

    def sampled(values: np.ndarray) -> np.ndarray:
        return np.concatenate([weight @ values.astype(np.float64) for weight in weights], axis=1)

    told = {
        "step": "words to volumes",
        "method": method,
        "tr_s": step,
        "times": times if isinstance(times, str) else "given",
        "n_words": len(when),
        "n_words_outside": n_outside,
    }
    if method == "lanczos":
        told |= {"window": window, "cutoff_hz": cutoff_hz or 1 / (2 * step)}
    coords: dict[str, Any] = dict(stimulus_coords(responses.stimuli))
    fields = {"stimuli": stimuli_fields(responses.stimuli), "words": words.provenance.get("stimuli", {})}
    return _remade(words, sampled, {**told, "delays": steps}, coords, steps, {**fields, "tr_s": step})


def with_delays(
    activations: Activations,
    delays: Sequence[int],
    *,
    runs: str | Sequence[Hashable] | np.ndarray | None = RUN,
) -> Activations:
    """Return activations whose features are delayed copies of those given: a regression then finds the response's shape.

    Parameters
    ----------
    activations
        One row a volume, in the order of time.
    delays
        Whole volumes: 2 = the brain answers 2 volumes after the feature. See `topobrain.stats.fir_delays`.
    runs
        Stimulus column, or labels, of runs that delays must not cross. A column ``run`` is used where there is one.

    Returns
    -------
    Activations
        The same layers, with every unit once a delay (coordinate ``delay``, in volumes; all units at the first delay
        come first). Copies have no place on a sheet, so layers lose theirs.
    """
    steps = check_delays(delays)
    labels = _run_labels(activations, runs)

    def delayed(values: np.ndarray) -> np.ndarray:
        return fir_delays(values, steps, labels)

    return _remade(activations, delayed, {"step": "delays", "delays": steps}, None, steps)


def with_hrf(
    activations: Activations,
    *,
    model: Kernel = "spm",
    tr_s: float | None = None,
    runs: str | Sequence[Hashable] | np.ndarray | None = RUN,
) -> Activations:
    """Return activations convolved with a haemodynamic response: one fixed shape instead of delays.

    Parameters
    ----------
    activations
        One row a volume, in the order of time.
    model
        ``"spm"`` or ``"glover"``, see `topobrain.stats.hrf_kernel`.
    tr_s
        Seconds from one volume to the next (default: as recorded by `words_to_volumes`, or from the column ``time_s``).
    runs
        Stimulus column, or labels, of runs: each starts from nothing.

    Returns
    -------
    Activations
        The same layers and sheets.
    """
    step = _volume_length(activations, tr_s)
    labels = _run_labels(activations, runs)

    def convolved(values: np.ndarray) -> np.ndarray:
        return convolve_hrf(values, step, model=model, runs=labels)

    return _remade(activations, convolved, {"step": "haemodynamic response", "model": model, "tr_s": step}, None, None)


def _remade(
    activations: Activations,
    change: Callable[[np.ndarray], np.ndarray],
    told: Mapping[str, Any],
    coords: dict[str, Any] | None,
    delays: list[int] | None,
    fields: Mapping[str, Any] | None = None,
) -> Activations:
    """Return activations with every layer changed, its labels and its history kept."""
    values = {layer: change(activations.values(layer)).astype(np.float32) for layer in activations.layers}
    sheets = activations.sheets
    if delays is not None:
        sheets = {layer: Sheet.none(array.shape[1]) for layer, array in values.items()}
    if coords is None:
        data = activations.data
        coords = {str(n): ("stimulus", c.values) for n, c in data.coords.items() if c.dims == ("stimulus",)}
    units: dict[str, Any] = dict(unit_coords(sheets))
    if delays is not None:
        delay = [np.repeat(delays, sheet.n_units // len(delays)) for sheet in sheets.values()]
        units["delay"] = ("unit", np.concatenate(delay))
    provenance = activations.provenance
    history = [*provenance.pop("time_series", []), dict(told)]
    data = xr.Dataset(
        {"value": (("stimulus", "unit"), np.concatenate(list(values.values()), axis=1))},
        coords={**coords, **units},
        attrs={
            **sheets_attribute(sheets),
            **Activations.attributes({**provenance, **(fields or {}), "time_series": history}),
        },
    )
    return Activations(data)


def _joined(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]], shape: tuple[int, int]) -> Any:
    from scipy.sparse import csr_array

    values, rows, columns = (np.concatenate(list(arrays)) for arrays in zip(*parts, strict=True))
    return csr_array((values, (rows, columns)), shape=shape)


def _matching_runs(words: Activations, responses: BrainResponses) -> tuple[np.ndarray, np.ndarray]:
    """Return the run of each volume and of each word, or raise where one has runs that the other has not."""
    volume_run, word_run = _labels(responses, RUN), _labels(words, RUN)
    n_volumes, n_words = responses.data.sizes["stimulus"], words.data.sizes["stimulus"]
    volume_names = [] if volume_run is None else list(dict.fromkeys(volume_run.tolist()))
    word_names = [] if word_run is None else list(dict.fromkeys(word_run.tolist()))
    if volume_run is not None and word_run is not None:
        for what, given, other, known in (
            ("words", word_names, "responses", volume_names),
            ("responses", volume_names, "words", word_names),
        ):
            missing = [name for name in given if name not in known]
            if missing:
                close = near(missing[0], known)
                guess = f" Did you mean {close[0]!r}?" if close else ""
                raise InputError(
                    f"run(s) {listed(map(repr, missing))} of the {what} are not among the runs of the {other}: "
                    f"{listed(map(repr, known))}.{guess} Leave those runs out of the {what}, or name runs alike"
                )
        return volume_run, word_run
    if len(volume_names) > 1:
        raise InputError(
            f"the responses have {len(volume_names)} runs, each with its own clock, but the words have no column {RUN!r} to "
            "say which run they were heard in"
        )
    if len(word_names) > 1:
        raise InputError(
            f"the words have {len(word_names)} runs, each with its own clock, but the responses have no column {RUN!r} to say "
            "which run a volume belongs to"
        )
    return np.zeros(n_volumes, dtype=object), np.zeros(n_words, dtype=object)


def _word_times(words: Activations, times: str | np.ndarray) -> np.ndarray:
    when = _column(words, times) if isinstance(times, str) else np.asarray(times)
    if when.dtype.kind not in "iuf":
        raise InputError(f"times are seconds, one number a word; got values of type {when.dtype}")
    when = when.astype(float)
    n_words = words.data.sizes["stimulus"]
    if when.shape != (n_words,):
        raise InputError(f"times have shape {when.shape}, expected one number for each of {n_words} words")
    if not np.isfinite(when).all():
        first = int(np.flatnonzero(~np.isfinite(when))[0])
        raise InputError(f"word {str(words.labels('stimulus')[first])!r} has no time: leave such words out")
    return when


def _column(result: Activations | BrainResponses, name: str) -> np.ndarray:
    """Return a numeric stimulus column."""
    columns = {str(n): c for n, c in result.data.coords.items() if c.dims == ("stimulus",)}
    if name not in columns:
        raise unknown(
            f"time column of the {result.kind}",
            name,
            [n for n in columns if columns[n].dtype.kind in "iuf"],
            "(in seconds)",
        )
    if columns[name].dtype.kind not in "iuf":
        numbers = [n for n in columns if columns[n].dtype.kind in "iuf"]
        raise InputError(
            f"column {name!r} of the {result.kind} holds text, not times in seconds. Columns of numbers: {listed(numbers)}"
        )
    return np.asarray(columns[name].values, dtype=float)


def _labels(result: Activations | BrainResponses, name: str) -> np.ndarray | None:
    return result.labels(name) if name in result.data.coords else None


def _run_labels(activations: Activations, runs: Any) -> Any:
    """Return run labels from a column's name (None where the default column is not there), or as they were given."""
    if not isinstance(runs, str):
        return runs
    if runs == RUN:
        return _labels(activations, RUN)
    return activations.labels(runs)


def _volume_length(result: Activations | BrainResponses, tr_s: float | None) -> float:
    """Return seconds a volume: as given, as recorded, or the usual step of ``time_s``."""
    if tr_s is not None:
        if not tr_s > 0:
            raise InputError(f"tr_s is the length of a volume in seconds, above 0; got {tr_s}")
        return float(tr_s)
    recorded = result.provenance.get("tr_s")
    if recorded:
        return float(recorded)
    if TIME not in result.data.coords or result.data.sizes["stimulus"] < 2:
        raise InputError(f"how long a volume lasts is not recorded here and there is no column {TIME!r}: give tr_s=")
    return float(np.median(np.diff(_column(result, TIME))))
