"""Time series on plain arrays: delays, haemodynamic responses, drift, and words sampled to volumes.

Rows are volumes in the order they were taken. ``runs`` labels them where there are several runs, whose rows follow each
other: nothing here ever reaches from one run into another.

Missing values stay where they are. A NaN in a feature reaches the volumes that the feature reaches and no others; a time
course with a NaN is NaN throughout that run after drift removal or z-scoring, and all others are unchanged.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Int, Shaped

from topobrain._checks import InputError, listed, require_choice

Kernel = Literal["spm", "glover"]
Sampling = Literal["sum", "mean", "lanczos"]

KERNEL_S = 32.0
"""Length of a haemodynamic kernel in seconds: what comes later is nothing."""

SAME_TIME = 1e-6
"""Part of a volume by which two times that mean the same may differ: rounding of onsets, sums of a TR."""

PAUSE = 1.5
"""Volumes of time from one volume's start to the next one's from which on there was a pause between them."""

GAMMAS: dict[str, tuple[float, float, float, float]] = {
    "spm": (6.0, 16.0, 1.0, 0.167),
    "glover": (6.0, 12.0, 0.9, 0.48),
}
"""Kernel -> times of peak and undershoot in seconds, dispersion of both gammas, size of the undershoot (nilearn's numbers)."""


def run_slices(n_rows: int, runs: Sequence[Hashable] | np.ndarray | None = None) -> list[slice]:
    """Return the rows of each run, in order; one slice where ``runs`` is None.

    Raises
    ------
    InputError
        There is not one label a row, or a run goes on after another one began.

    Examples
    --------
    >>> run_slices(4, ["a", "a", "b", "b"])
    [slice(0, 2, None), slice(2, 4, None)]
    """
    if runs is None:
        return [slice(0, n_rows)]
    labels = [str(label) for label in np.asarray(runs).tolist()]
    if len(labels) != n_rows:
        raise InputError(f"runs have {len(labels)} labels for {n_rows} rows: expected one each")
    starts = [row for row in range(n_rows) if row == 0 or labels[row] != labels[row - 1]]
    seen: set[str] = set()
    for row in starts:
        if labels[row] in seen:
            raise InputError(
                f"run {labels[row]!r} goes on at row {row} after another run began: rows of a run must follow each other in "
                "time order, or neighbours in time cannot be told"
            )
        seen.add(labels[row])
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], n_rows], strict=True)]


def fir_delays(
    X: Float[np.ndarray, "volume feature"],
    delays: Sequence[int] | Int[np.ndarray, " delay"],
    runs: Sequence[Hashable] | np.ndarray | None = None,
) -> Float[np.ndarray, "volume delayed_feature"]:
    r"""Return copies of the features delayed by whole volumes, so that a regression can find the response's shape.

    .. math:: X'_{t, (d, f)} = X_{t - d, f}

    Parameters
    ----------
    X
        Features (volume, feature).
    delays
        Whole volumes; 2 means that the brain's response comes 2 volumes after the feature, -1 that it comes one before.
    runs
        Run of each volume: where ``t - d`` lies outside the run, the feature is 0.

    Returns
    -------
    ndarray
        (volume, delay x feature): all features at the first delay, then all at the second, ... Same dtype as ``X``.

    Raises
    ------
    InputError
        Delays that are no whole numbers, occur twice, or reach out of every run.

    Examples
    --------
    >>> fir_delays(np.array([[1.0], [2.0], [3.0]]), [0, 1, -1]).tolist()
    [[1.0, 0.0, 2.0], [2.0, 1.0, 3.0], [3.0, 2.0, 0.0]]
    """
    X = _matrix(X, "features")
    steps = check_delays(delays)
    parts = run_slices(len(X), runs)
    longest = max(part.stop - part.start for part in parts)
    far = [d for d in steps if abs(d) >= longest]
    if far:
        raise InputError(
            f"delays of {listed(far)} volumes reach out of every run: the longest run has {longest} volumes"
        )
    n_features = X.shape[1]
    delayed = np.zeros((len(X), len(steps) * n_features), dtype=X.dtype)
    for number, d in enumerate(steps):
        columns = slice(number * n_features, (number + 1) * n_features)
        for part in parts:
            length = part.stop - part.start
            if abs(d) >= length:
                continue
            to, source = (d, 0) if d > 0 else (0, -d)
            count = length - abs(d)
            first, origin = part.start + to, part.start + source
            delayed[first : first + count, columns] = X[origin : origin + count]
    return delayed


def check_delays(delays: Sequence[int] | np.ndarray) -> list[int]:
    """Return delays as whole numbers, or say what is wrong with them."""
    steps = np.asarray(delays)
    if steps.ndim != 1 or steps.size == 0 or steps.dtype.kind not in "iu":
        raise InputError(f"delays are whole numbers of volumes, one or more (for instance range(7)); got {delays!r}")
    if len(np.unique(steps)) != len(steps):
        raise InputError(f"a delay was given twice: {steps.tolist()}")
    return [int(d) for d in steps]


def hrf_kernel(
    tr_s: float, *, model: Kernel = "spm", oversampling: int = 1, length_s: float = KERNEL_S
) -> Float[np.ndarray, " sample"]:
    r"""Return a haemodynamic response function, sampled, with sum 1.

    The difference of two gamma densities, a peak and an undershoot:
    :math:`h(t) = g(t; p/s, s) - r\, g(t; u/s, s)` with (p, u, s, r) = (6 s, 16 s, 1 s, .167) for SPM's canonical
    response and (6 s, 12 s, .9 s, .48) for Glover's.

    Parameters
    ----------
    tr_s
        Seconds from one volume to the next.
    model
        ``"spm"`` or ``"glover"``.
    oversampling
        Samples a volume. The grid is nilearn's: its first sample lies one step before the response begins.
    length_s
        Length in seconds.

    Returns
    -------
    ndarray
        (sample,), one every ``tr_s / oversampling`` seconds.

    Raises
    ------
    InputError
        A time step or a length that is not above 0, or a grid so coarse or short that it misses the response.

    References
    ----------
    Friston et al. (1998) NeuroImage 7:30; Glover (1999) NeuroImage 9:416, eq. 1.
    """
    from scipy.stats import gamma

    require_choice("haemodynamic response", model, get_args(Kernel))
    if not (tr_s > 0 and length_s > 0 and oversampling >= 1):
        raise InputError(
            f"tr_s and length_s are seconds above 0, oversampling is 1 or more; got {tr_s}, {length_s}, {oversampling}"
        )
    step = tr_s / oversampling
    times = np.linspace(0.0, length_s, round(length_s / step)) - step
    peak, undershoot, scale, ratio = GAMMAS[model]
    values = gamma.pdf(times, peak / scale, scale=scale) - ratio * gamma.pdf(times, undershoot / scale, scale=scale)
    total = values.sum()
    if not total > 0.05 / step:  # the area under the samples is .83 (spm) or .52 (glover) on a fine grid
        raise InputError(
            f"a haemodynamic response sampled every {step:g} s for {length_s:g} s has {len(values)} samples, which miss its "
            f"peak (5 to 6 s): use a step of some seconds (tr_s / oversampling) and a length_s of about {KERNEL_S:g}"
        )
    kernel: np.ndarray = values / total
    return kernel


def _height(times: np.ndarray, model: str) -> np.ndarray:
    """Return a haemodynamic response of area 1 at some times after its begin."""
    from scipy.stats import gamma

    peak, undershoot, scale, ratio = GAMMAS[model]
    values = gamma.pdf(times, peak / scale, scale=scale) - ratio * gamma.pdf(times, undershoot / scale, scale=scale)
    height: np.ndarray = np.where(times <= KERNEL_S, values, 0.0) / _gamma_area(np.array(KERNEL_S), model)
    return height


def _area(times: np.ndarray, model: str) -> np.ndarray:
    """Return its area up to some times, in closed form: no grid is needed and no onset rounded."""
    area: np.ndarray = _gamma_area(np.clip(times, 0.0, KERNEL_S), model) / _gamma_area(np.array(KERNEL_S), model)
    return area


def _gamma_area(times: np.ndarray, model: str) -> np.ndarray:
    from scipy.special import gammainc

    peak, undershoot, scale, ratio = GAMMAS[model]
    return np.asarray(gammainc(peak / scale, times / scale) - ratio * gammainc(undershoot / scale, times / scale))


def convolve_events(
    onsets: Sequence[float] | Float[np.ndarray, " event"],
    durations: Sequence[float] | Float[np.ndarray, " event"] | float,
    amplitudes: Shaped[np.ndarray, "event ..."] | Sequence[float],
    frame_times: Float[np.ndarray, " volume"],
    *,
    model: Kernel = "spm",
) -> Float[np.ndarray, "volume ..."]:
    r"""Return the response at every volume to events of known onset, duration and size.

    An event is a box of its duration, convolved with a haemodynamic response of area 1 s:
    :math:`y(t) = \sum_e a_e [H(t - o_e) - H(t - o_e - d_e)]` with H the kernel's integral, so that an event that never
    ends is answered by its amplitude. An event of duration 0 is an impulse of area 1 s: :math:`a_e h(t - o_e)`.
    Nothing is rounded to a grid.

    Parameters
    ----------
    onsets, durations
        Seconds, on the clock of ``frame_times``; events before the first volume reach in. One duration may serve all.
    amplitudes
        Size of each event (event,), or several features of it (event, feature).
    frame_times
        Time of each volume in seconds, of one run.
    model
        ``"spm"`` or ``"glover"``, see `hrf_kernel`.

    Returns
    -------
    ndarray
        (volume,) or (volume, feature), float64.

    Raises
    ------
    InputError
        Values that are missing or infinite, durations below 0, lengths that differ.
    """
    require_choice("haemodynamic response", model, get_args(Kernel))
    onset, size = np.asarray(onsets, dtype=float), np.asarray(amplitudes, dtype=float)
    duration = np.broadcast_to(np.asarray(durations, dtype=float), onset.shape)
    frames = np.asarray(frame_times, dtype=float)
    if onset.ndim != 1 or size.ndim not in (1, 2) or len(size) != len(onset) or frames.ndim != 1:
        raise InputError(
            f"events need one onset, duration and amplitude each, and frame_times one number a volume; got onsets {onset.shape}, "
            f"amplitudes {size.shape}, frame_times {frames.shape}"
        )
    for name, values in (("onsets", onset), ("durations", duration), ("amplitudes", size), ("frame_times", frames)):
        if not np.isfinite(values).all():
            raise InputError(f"{name} hold a missing or infinite value: leave such events out")
    if (duration < 0).any():
        raise InputError(f"durations are seconds, 0 or more; the shortest given is {duration.min()}")
    response = np.zeros((len(frames), *size.shape[1:]))
    block = max(1, 2**20 // max(len(frames), 1))  # events at a time: bounds the (volume, event) weights to 8 MiB
    for start in range(0, len(onset), block):
        part = slice(start, start + block)
        since = frames[:, None] - onset[part]
        lasts = np.broadcast_to(duration[part], since.shape)
        reached = (since > 0) & (since < KERNEL_S + lasts)  # most volumes are out of an event's reach
        weights = np.zeros(since.shape)
        at, long = since[reached], lasts[reached]
        weights[reached] = np.where(long > 0, _area(at, model) - _area(at - long, model), _height(at, model))
        response += weights @ size[part]
    return response


def convolve_hrf(
    X: Float[np.ndarray, "volume feature"],
    tr_s: float,
    *,
    model: Kernel = "spm",
    runs: Sequence[Hashable] | np.ndarray | None = None,
) -> Float[np.ndarray, "volume feature"]:
    """Return features convolved with a haemodynamic response: the drive of a volume is spread over its ``tr_s`` seconds.

    Parameters
    ----------
    X
        Features (volume, feature), for instance words a volume.
    tr_s
        Seconds from one volume to the next.
    model
        ``"spm"`` or ``"glover"``, see `hrf_kernel`.
    runs
        Run of each volume: every run starts from nothing.

    Returns
    -------
    ndarray
        (volume, feature), float64, at the volumes' starts. A feature that stays 1 ends at 1.
    """
    require_choice("haemodynamic response", model, get_args(Kernel))
    X = _matrix(X, "features").astype(np.float64)
    if not tr_s > 0:
        raise InputError(f"tr_s is the seconds from one volume to the next, above 0; got {tr_s}")
    reach = int(np.ceil(KERNEL_S / tr_s))
    weights = np.diff(_area(tr_s * np.arange(reach + 1), model))
    response = np.zeros(X.shape)
    for part in run_slices(len(X), runs):
        for back, weight in enumerate(weights[: part.stop - part.start - 1], start=1):
            response[part.start + back : part.stop] += weight * X[part.start : part.stop - back]
    return response


def drift_basis(
    n_volumes: int, *, order: int | None = None, cutoff_s: float | None = None, tr_s: float | None = None
) -> Float[np.ndarray, "volume regressor"]:
    r"""Return slow regressors of time: Legendre polynomials, cosines, or both.

    Parameters
    ----------
    n_volumes
        Volumes of one run.
    order
        Highest polynomial order; 0 is the mean alone, 1 a line.
    cutoff_s, tr_s
        Longest period kept, in seconds, and seconds a volume: the mean and all cosines
        :math:`\cos(\pi k (t + 1/2) / n)` with :math:`k \le 2 n\, tr / cutoff`.

    Raises
    ------
    InputError
        Neither ``order`` nor ``cutoff_s``, an order that is no whole number, a cut-off without ``tr_s``, as many regressors
        as volumes.

    References
    ----------
    Ashburner & Friston, in Frackowiak et al. (2004) Human Brain Function (the discrete cosine set).
    """
    if order is None and cutoff_s is None:
        raise InputError("say what drift is: order= (polynomial), cutoff_s= (cosines of longer periods), or both")
    parts = []
    if order is not None:
        if not isinstance(order, int | np.integer) or isinstance(order, bool) or order < 0:
            raise InputError(f"order of the drift must be a whole number, 0 or more, got {order!r}")
        # Legendre polynomials are nearly orthogonal here, plain powers of time are not.
        parts.append(np.polynomial.legendre.legvander(np.linspace(-1.0, 1.0, n_volumes), order))
    if cutoff_s is not None:
        if tr_s is None or not (tr_s > 0 and cutoff_s > 0):
            raise InputError(f"a cut-off of {cutoff_s} s needs tr_s, the seconds of a volume, both above 0; got {tr_s}")
        count = min(n_volumes - 1, int(np.floor(2 * n_volumes * tr_s / cutoff_s)))
        time, k = np.arange(n_volumes)[:, None] + 0.5, np.arange(0 if order is None else 1, count + 1)
        parts.append(np.cos(np.pi / n_volumes * time * k))
    basis: np.ndarray = np.concatenate(parts, axis=1)
    if basis.shape[1] >= n_volumes:
        raise InputError(
            f"{basis.shape[1]} drift regressors leave nothing of {n_volumes} volumes: use a lower order or a longer cut-off"
        )
    return basis


def remove_drift(
    series: Float[np.ndarray, "volume voxel"],
    *,
    order: int | None = None,
    cutoff_s: float | None = None,
    tr_s: float | None = None,
    runs: Sequence[Hashable] | np.ndarray | None = None,
) -> Float[np.ndarray, "volume voxel"]:
    """Return time courses less their least-squares fit by slow regressors, run by run; the mean goes too.

    Parameters
    ----------
    series
        (volume, voxel).
    order, cutoff_s, tr_s
        What drift is, see `drift_basis`.
    runs
        Run of each volume.

    Returns
    -------
    ndarray
        float64. A time course that is nothing but drift in a run (constant, a line) is exactly 0 there, one with a missing
        value is NaN there.
    """
    series = _matrix(series, "series").astype(np.float64)
    left = np.full(series.shape, np.nan)
    for part in run_slices(len(series), runs):
        there = series[part]
        basis = drift_basis(len(there), order=order, cutoff_s=cutoff_s, tr_s=tr_s)
        whole = np.isfinite(there).all(axis=0)
        if not whole.any():
            continue
        known = there[:, whole]
        residual = known - basis @ np.linalg.lstsq(basis, known, rcond=None)[0]
        rounding = np.abs(residual).max(axis=0) <= 1e-11 * np.abs(known).max(axis=0)
        left[part, whole] = np.where(rounding, 0.0, residual)
    return left


def zscore_runs(
    X: Float[np.ndarray, "volume column"], runs: Sequence[Hashable] | np.ndarray | None = None
) -> Float[np.ndarray, "volume column"]:
    """Return columns with mean 0 and standard deviation 1 within every run.

    Parameters
    ----------
    X
        Features or time courses (volume, column).
    runs
        Run of each volume.

    Returns
    -------
    ndarray
        float64. A column that is constant in a run is 0 there, one with a missing value is NaN there.

    Notes
    -----
    A run that is partly held out lends its mean and scale to both sides of the split. That is no leak of what a stimulus
    did, but a reason to hold out whole runs, or to let `encode` centre and scale from training rows.
    """
    X = _matrix(X, "columns").astype(np.float64)
    if len(X) == 0:
        raise InputError("there are 0 rows to z-score: expected at least one volume")
    scored = np.empty(X.shape)
    for part in run_slices(len(X), runs):
        there = X[part]
        centred = there - there.mean(axis=0)
        constant = np.ptp(there, axis=0) == 0
        scored[part] = np.where(constant, 0.0, centred / np.where(constant, 1.0, there.std(axis=0)))
    return scored


def sampling_weights(
    times: Float[np.ndarray, " event"],
    volume_times: Float[np.ndarray, " volume"],
    tr_s: float,
    *,
    method: Sampling = "sum",
    window: float = 3.0,
    cutoff_hz: float | None = None,
) -> Any:
    r"""Return the sparse weights (volume, event) that take features of words, or other events, to volumes of one run.

    ``"sum"``: 1 where the event lies in the volume, from its start to the next one's; a feature becomes a rate. An event
    that comes less than a millionth of ``tr_s`` before a volume begins in it. Where the next volume starts more than
    1.5 ``tr_s`` later (a pause), the volume ends after ``tr_s``.
    ``"mean"``: those weights divided by the number of events in the volume; a volume without any gets 0.
    ``"lanczos"``: with :math:`u = 2 f\,(t_v - t_e)`, t_v the middle of the volume and f the cut-off,
    :math:`w = \mathrm{sinc}(u)\,\mathrm{sinc}(u / a)` for :math:`|u| < a`, else 0, times :math:`2 f\, tr`: like the sum, but
    low-passed, so that fast changes do not fold into slow ones. At the default cut-off, half the sampling rate, an event's
    weights add up to 1 within 1 %.

    Parameters
    ----------
    times
        Time of each event in seconds, in any order.
    volume_times
        Start of each volume in seconds, on the same clock, rising.
    tr_s
        Length of a volume in seconds.
    method
        One of the three above.
    window
        Lobes a of the Lanczos kernel on either side.
    cutoff_hz
        Cut-off f of the Lanczos filter (default: ``1 / (2 tr_s)``).

    Returns
    -------
    scipy.sparse.csr_array
        (volume, event); ``weights @ features`` gives (volume, feature). Events outside all volumes have no weight.

    Raises
    ------
    InputError
        Times that are missing or do not rise, a length or cut-off that is not above 0.

    References
    ----------
    LeBel et al. (2023) Sci Data 10:555; Huth et al. (2016) Nature 532:453 (Lanczos resampling of word features).

    Examples
    --------
    >>> weights = sampling_weights(np.array([0.5, 1.0, 2.0]), np.array([0.0, 2.0]), 2.0)
    >>> (weights @ np.array([[1.0], [2.0], [5.0]])).tolist()
    [[3.0], [5.0]]
    """
    from scipy.sparse import csr_array

    require_choice("sampling method", method, get_args(Sampling))
    when, starts = np.asarray(times, dtype=float), np.asarray(volume_times, dtype=float)
    cutoff = 1 / (2 * tr_s) if cutoff_hz is None and tr_s > 0 else cutoff_hz
    if cutoff is None or not (tr_s > 0 and window > 0 and cutoff > 0):
        raise InputError(f"tr_s, window and cutoff_hz must be above 0; got {tr_s}, {window} and {cutoff_hz}")
    if when.ndim != 1 or starts.ndim != 1 or not (np.isfinite(when).all() and np.isfinite(starts).all()):
        raise InputError("times and volume_times are one finite number an event or a volume")
    if len(starts) == 0 or (np.diff(starts) <= 0).any():
        raise InputError("volume_times must rise, one or more; sample runs one by one, each on its own clock")
    if method == "lanczos":
        reach = window / (2 * cutoff)
        centre = starts + tr_s / 2
        first = np.searchsorted(centre, when - reach, side="right")
        stop = np.searchsorted(centre, when + reach, side="left")
    else:
        # An onset written in milliseconds and a volume time summed up from a TR differ in the last bits: without room for
        # that, a word at the very start of a volume would be given to the one before, or to none.
        late = when + SAME_TIME * tr_s
        ends = np.append(starts[1:], starts[-1] + tr_s)
        ends = np.where(ends - starts > PAUSE * tr_s, starts + tr_s, ends)
        first = np.maximum(np.searchsorted(starts, late, side="right") - 1, 0)
        stop = first + ((late >= starts[first]) & (late < ends[first]))
    count = np.maximum(stop - first, 0)
    event = np.repeat(np.arange(len(when)), count)
    volume = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - first, count)
    if method == "lanczos":
        u = 2 * cutoff * (starts[volume] + tr_s / 2 - when[event])
        weight = np.sinc(u) * np.sinc(u / window) * (2 * cutoff * tr_s)
    else:
        weight = np.ones(len(volume))
        if method == "mean":
            weight /= np.bincount(volume, minlength=len(starts))[volume]
    return csr_array((weight, (volume, event)), shape=(len(starts), len(when)))


def _matrix(given: Any, what: str) -> np.ndarray:
    values = np.asarray(given)
    if values.ndim != 2 or values.dtype.kind not in "iufb":
        raise InputError(
            f"{what} must be numbers in two axes, (volume, column); got {values.dtype} of shape {values.shape}"
        )
    return values
