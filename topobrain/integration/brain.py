"""brain_windows: how far back does a brain region listen, in words and in seconds?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from topobrain._checks import InputError, listed, near, require_choice
from topobrain.activations import Activations, stimuli_fields
from topobrain.encoding.assembling import region_numbers
from topobrain.encoding.cross_validation import Design, FoldChoice, make_design
from topobrain.encoding.matching import chosen_voxels, equal_rows, row_keys
from topobrain.encoding.parts import scorable
from topobrain.integration.brain_assembling import Found, assemble
from topobrain.integration.brain_inference import Choosing, bootstrap, null_outcomes, outcomes
from topobrain.integration.brain_kernels import WindowKernels
from topobrain.integration.brain_result import BrainWindows
from topobrain.integration.brain_search import narrowed, scaled, search
from topobrain.responses import BrainResponses
from topobrain.stats.folds import check_gap
from topobrain.stats.ridge import check_alphas
from topobrain.stats.time_series import Kernel, check_delays, convolve_events, run_slices
from topobrain.stimuli import StimulusSet
from topobrain.time_series import RUN, TIME, words_to_volumes

Features = Mapping[str, np.ndarray] | Activations

Shape = Literal["fir", "spm", "glover"]

ALPHAS = tuple(float(a) for a in np.logspace(-1, 5, 9))
"""Penalties to choose from, for features scaled to unit variance."""

ONSET = "onset_s"
"""Column of the words with their onsets in seconds."""

WORDS = 512
"""Words whose haemodynamic responses are made at once."""


@dataclass(frozen=True)
class _Options:
    """What decides the numbers, besides data and windows; see `brain_windows`."""

    response: str
    delays: list[int] | None
    alphas: list[float]
    n_folds: int
    inner_folds: int
    choose: str
    n_bootstrap: int
    n_permutations: int
    seed: int


def brain_windows(
    responses: BrainResponses,
    words: StimulusSet,
    *,
    features: Features | None = None,
    beside: Features | None = None,
    kernels: WindowKernels | None = None,
    response: Shape = "fir",
    delays: Sequence[int] = tuple(range(7)),
    alphas: Sequence[float] = ALPHAS,
    folds: FoldChoice = "contiguous",
    n_folds: int = 6,
    inner_folds: int = 4,
    gap: int | None = None,
    choose: Literal["roi", "voxel"] = "roi",
    targets: Mapping[str, Any] | None = None,
    n_bootstrap: int = 1000,
    n_permutations: int = 200,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> BrainWindows:
    r"""Find the integration window through which word features predict a recording best: :math:`h_m = \sum_l w(l)\,e_{m-l}`.

    A unit that integrates over words holds at each word a weighted sum of the words heard so far. Here the features of the
    words are seen through windows of the family that model units are fitted with, :math:`w(l) = c (l+1)^{-a} + (1-c)
    e^{-bl}`, over words or over the seconds between their onsets, and brought to the volumes of a recording. Each window
    gets a ridge regression of its own. The window is chosen inside the training volumes, so that the score on the others
    costs nothing for the choice; word rate stands beside at all times, without a window (as a constant, it has none over
    words).

    Parameters
    ----------
    responses
        A time series with the column ``time_s``; with several runs, also ``run``.
    words
        The words in order, with the column ``onset_s`` on the same clock; with several runs, also ``run``.
    features
        Name -> one value a word, or several (word, unit); or activations whose stimuli are the words. All of them are seen
        through the same window. Default: the words' length in characters. `word_features` makes more.
    beside
        Features of the same form that are not seen through a window, for instance length where surprisal is asked about.
    kernels
        Windows to choose from (default: `WindowKernels.grid`).
    response
        ``"fir"``: the haemodynamic response is found from delayed copies of each feature, low-passed (``"lanczos"`` of
        `words_to_volumes`: with sums, a word late in its volume is answered late, and a short window does the work of
        telling that); ``"spm"``, ``"glover"``: it is known. See the notes: delays can take the place of a window.
    delays
        Of ``"fir"``, in whole volumes.
    alphas
        Penalties to choose from, for features scaled to unit variance over the recording.
    folds, n_folds, inner_folds, gap
        As in `encode`; folds whose training volumes touch test volumes of the same run are refused.
    choose
        Who chooses the window of ``r_nested``: all voxels and subjects of an ROI together, or each voxel alone. The
        windows ``a b c`` are always each voxel's own.
    targets
        Keep only these voxels, e.g. ``{"roi": "LATL"}``.
    n_bootstrap
        Draws of the intervals. Voxels: blocks of 20 s of the held-out volumes are drawn. Regions of five subjects or more:
        subjects are drawn, and choose anew; of fewer subjects: blocks.
    n_permutations
        Of both nulls, 0 for none.
    seed
        Of draws and permutations.
    progress
        Called with (windows fitted, windows to fit).

    Returns
    -------
    BrainWindows

    Raises
    ------
    InputError
        Words without onsets, words outside the recording, folds without a gap, features that are constant or missing, fewer
        volumes than delays, no usable voxel.

    Notes
    -----
    *Nulls.* "Wider than no memory" (``p``, ``p_best``) needs responses in which no memory is true, not responses in which
    nothing is: the fit without memory stays where it is, what it leaves is shifted round by a random number of volumes
    within each run, and the whole search is repeated (Freedman & Lane; a shift keeps the autocorrelation of the noise).
    Permuting the order of the words would make every window that holds other words worse than it is, and so p too small.
    For ``p_r`` the responses themselves are shifted. All voxels are shifted alike, so the null keeps their correlation.

    *What cannot be told.* A volume of 2 s holds some six words, and for speech of even pace a window is one more
    convolution: delays of 0-12 s can imitate any window shorter than that, and then score as well without memory. What
    tells windows apart is what lies beyond the last delay, the irregular pace of speech, and a ridge regression's need to
    pay for flexibility. Planted in speech like Alice's (three words a second, 12 minutes, hardly any noise), exponential
    windows come back within a step of two, but score no more than .01 higher than no memory up to a half-life of 4 words,
    .03 at 8 and .1 at 16; and a power law and a mixture with the same tail are taken for each other. A haemodynamic
    response that is known (``"spm"``) brings every window of the grid back, but an error in its shape then looks like a
    window. Neither can tell a window from a haemodynamic tail that outlasts the delays.

    References
    ----------
    Skrill & Norman-Haignere (2023), NeurIPS 36:638 (the family); Jain & Huth (2018), NeurIPS 31 (context and encoding);
    Freedman & Lane (1983), J. Bus. Econ. Stat. 1:292.
    """
    _require_inputs(responses, words)
    require_choice("response", response, get_args(Shape))
    require_choice("choose", choose, ("roi", "voxel"))
    if min(n_bootstrap, n_permutations, seed) < 0:
        raise InputError(
            f"n_bootstrap, n_permutations and seed must be 0 or more; got {n_bootstrap}, {n_permutations}, {seed}"
        )
    responses, windows = chosen_voxels(responses, targets), WindowKernels.grid() if kernels is None else kernels
    steps = check_delays(delays) if response == "fir" else None
    _require_volumes(responses, steps)
    seen = _read(features, words, "features") or {"length": _length(words)}
    plain = _read(beside, words, "beside")
    designs = _designs(responses, words, seen, plain, windows, response, steps)
    design = _make_design(responses, designs[0], folds, n_folds=n_folds, inner_folds=inner_folds, gap=gap, seed=seed)
    grid = check_alphas(alphas)
    options = _Options(
        response, steps, grid.tolist(), len(design.outer), inner_folds, choose, n_bootstrap, n_permutations, seed
    )
    Y = responses.values.astype(np.float64)
    usable = scorable(Y, design)
    if not usable.any():
        raise InputError(
            f"none of {len(usable)} voxels can be scored: all have missing values or are constant in a fold"
        )
    regions, roi = region_numbers(responses)
    Y = (Y[:, usable] - Y[:, usable].mean(axis=0)) / Y[:, usable].std(axis=0)
    choosing = Choosing.of(windows, roi[usable], responses.labels("subject")[usable], len(regions), choose)
    splits = (design.outer.splits, design.inner_splits, grid)
    total = len(windows) * (2 if n_permutations else 1)
    tell = (lambda done, _: progress(done, total)) if progress is not None else None
    fits = search(designs, Y, *splits, predict=True, progress=tell)
    observed = outcomes(fits.inner[:, :, None], fits.r[:, :, None], choosing)
    null = null_outcomes(designs, Y, splits, fits, choosing, design.runs, n_permutations, seed)
    if progress is not None and n_permutations:
        progress(total, total)
    intervals, drawn_over = bootstrap(fits, observed, Y, design, choosing, n_bootstrap, seed)
    found = Found(fits, observed, null, intervals, drawn_over, choosing, usable)
    told = {
        **asdict(options), "gap": design.gap, "fold_scheme": design.outer.scheme,
        "features": {name: values.shape[1] for name, values in seen.items()},
        "beside": {name: values.shape[1] for name, values in plain.items()},
        "words": stimuli_fields(words), "words_per_s": _pace(words),
        "n_unusable_voxels": int((~usable).sum()), "targets": dict(targets or {}),
    }  # fmt: skip
    return assemble(found, responses, windows, regions, told)


def word_features(
    words: StimulusSet, corpus: list[str] | None = None, *, corpus_name: str = "corpus"
) -> dict[str, np.ndarray]:
    """Return what is plain to see of each word: its length and, with a corpus, its frequency.

    Parameters
    ----------
    words
        The words.
    corpus
        Texts whose word counts give the frequencies, e.g. ``tb.load_text("brown")``.
    corpus_name
        Its name.

    Returns
    -------
    dict
        ``length`` (characters) and ``frequency`` (log10 of counts per million, plus one for every word), each (word,).
    """
    from topobrain.data.surface_features import FEATURES, length_and_frequency

    found = {"length": _length(words)[:, 0]}
    if corpus is not None:
        table = length_and_frequency(words, corpus, corpus_name=corpus_name).values("features")
        found["frequency"] = table[:, FEATURES.index("mean_log_frequency")].astype(np.float64)
    return found


def _length(words: StimulusSet) -> np.ndarray:
    return np.array([[float(len(text.strip()))] for text in words.texts])


def _pace(words: StimulusSet) -> float:
    """Return words a second while there is speech: from the median time between onsets."""
    steps = np.diff(np.asarray(words.column(ONSET), dtype=float))
    return float(1 / np.median(steps[steps > 0])) if (steps > 0).any() else float("nan")


def _require_inputs(responses: Any, words: Any) -> None:
    if isinstance(responses, StimulusSet) and isinstance(words, BrainResponses):
        raise InputError("brain responses come first, words second")
    if not isinstance(responses, BrainResponses):
        raise InputError(f"expected BrainResponses, got {type(responses).__name__}: tb.load_responses reads them")
    if not isinstance(words, StimulusSet):
        raise InputError(
            f"words are a StimulusSet with one word a row and the column {ONSET!r}; got {type(words).__name__}. What a model "
            "does at the words goes into features="
        )
    if responses.design != "timeseries":
        raise InputError(
            f"responses are of design {responses.design!r}: windows need consecutive volumes (design='timeseries')"
        )
    if ONSET not in words.table.columns:
        close = near(ONSET, words.table.columns)
        guess = f" Did you mean {close[0]!r}? Rename it." if close else ""
        raise InputError(
            f"the words have no column {ONSET!r} with their onsets in seconds; they have {listed(words.table.columns)}.{guess}"
        )
    onset = words.column(ONSET)
    if onset.dtype.kind not in "iuf" or not np.isfinite(onset.astype(float)).all():
        raise InputError(f"column {ONSET!r} must hold a number of seconds for each word; leave words without onset out")
    runs = words.column(RUN) if RUN in words.table.columns else None
    for part in run_slices(len(words), runs):
        falls = np.flatnonzero(np.diff(onset[part].astype(float)) < 0)
        if falls.size:
            row = part.start + int(falls[0]) + 1
            raise InputError(
                f"word {row} ({words.texts[row]!r}) begins before the one in front of it: words must be in the order heard"
            )


def _require_volumes(responses: BrainResponses, delays: list[int] | None) -> None:
    n = responses.data.sizes["stimulus"]
    runs = responses.labels(RUN) if RUN in responses.data.coords else None
    longest = max(part.stop - part.start for part in run_slices(n, runs))
    if delays is not None and longest <= max(abs(d) for d in delays):
        raise InputError(
            f"the longest run has {longest} volumes, fewer than the delays reach over (up to {max(delays, key=abs)}): use "
            "fewer delays, or response='spm'"
        )


def _read(features: Features | None, words: StimulusSet, what: str) -> dict[str, np.ndarray]:
    """Return features name -> (word, unit) with mean 0 and unit variance over words, checked."""
    if features is None:
        return {}
    if isinstance(features, Activations):
        if features.labels("text").tolist() != words.texts:
            raise InputError(
                f"the activations in {what} are of other stimuli than the words: extract them from the words"
            )
        features = {layer: features.values(layer) for layer in features.layers}
    if not isinstance(features, Mapping) or not features:
        raise InputError(f"{what} map a name to values (word,) or (word, unit), one or more of them; got {features!r}")
    found = {}
    for name, given in features.items():
        values = np.asarray(given)
        if values.dtype.kind not in "iufb" or values.ndim not in (1, 2) or len(values) != len(words):
            raise InputError(
                f"feature {name!r} has {values.dtype} values of shape {values.shape}: expected numbers, one row for each of "
                f"{len(words)} words"
            )
        table = values.reshape(len(values), -1).astype(np.float64)
        if not np.isfinite(table).all():
            row = int(np.argwhere(~np.isfinite(table))[0, 0])
            raise InputError(
                f"feature {name!r} holds {table[row][~np.isfinite(table[row])][0]} at word {row} ({words.texts[row]!r}): fill "
                "such words in, for instance with the mean"
            )
        spread = np.ptp(table, axis=0)
        if not (spread > 0).any():
            raise InputError(
                f"feature {name!r} is the same for every word, so no window over words can change it: leave it out (word rate "
                "is always beside the features)"
            )
        table = table[:, spread > 0]
        found[str(name)] = (table - table.mean(axis=0)) / table.std(axis=0)
    return found


def _designs(
    responses: BrainResponses,
    words: StimulusSet,
    features: Mapping[str, np.ndarray],
    beside: Mapping[str, np.ndarray],
    kernels: WindowKernels,
    response: Shape,
    delays: list[int] | None,
) -> list[np.ndarray]:
    """Return what each window makes of the words at every volume (row, feature)."""
    onset = words.column(ONSET).astype(float)
    runs = words.column(RUN) if RUN in words.table.columns else None
    values = np.concatenate(list(features.values()), axis=1)
    plain = np.concatenate([np.ones((len(words), 1)), *beside.values()], axis=1)

    def delayed(table: np.ndarray) -> np.ndarray:
        made = words_to_volumes(
            Activations.from_arrays({"w": table}, words), responses, times=ONSET, method="lanczos", delays=delays
        )
        return made.values("w").astype(np.float64)

    first = delayed(plain)  # says whatever there is to say of words outside the recording
    at_volumes = delayed
    if response != "fir":
        weights = _response_weights(responses, onset, runs, response)
        first = weights @ plain

        def at_volumes(table: np.ndarray) -> np.ndarray:
            return np.asarray(weights @ table)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        made = (at_volumes(kernels.apply(k, values, onset, runs)) for k in range(len(kernels)))
        return [narrowed(scaled(np.concatenate([first, one], axis=1))) for one in made]


def _response_weights(
    responses: BrainResponses, onset: np.ndarray, runs: np.ndarray | None, response: Kernel
) -> np.ndarray:
    """Return the haemodynamic response of every volume to every word (row, word), onsets as they are."""
    starts = np.asarray(responses.data[TIME].values, dtype=float)
    weights = np.zeros((len(starts), len(onset)))
    several = runs is not None and RUN in responses.data.coords
    labels = responses.labels(RUN) if several else np.zeros(len(starts), dtype=object)
    for run in dict.fromkeys(labels.tolist()):
        rows = np.flatnonzero(labels == run)
        inside = np.flatnonzero(np.asarray(runs).astype(str) == run) if several else np.arange(len(onset))
        for begin in range(0, len(inside), WORDS):
            block = inside[begin : begin + WORDS]
            seen = convolve_events(onset[block], 0.0, np.eye(len(block)), starts[rows], model=response)
            weights[np.ix_(rows, block)] = seen
    return weights


def _make_design(responses: BrainResponses, delta: np.ndarray, folds: FoldChoice, **options: Any) -> Design:
    """Return folds as `encode` makes them; those that let neighbours in time face each other are refused."""
    repeats = equal_rows([row_keys(delta.astype(np.float32))])
    design = make_design(responses, repeats, folds, **options)
    if design.gap < 1:
        try:
            check_gap(design.outer, 1, np.zeros(len(repeats), dtype=int) if design.runs is None else design.runs)
        except InputError as error:
            raise InputError(
                "without a gap, training volumes touch test volumes of the same run, and what is slow in the noise would be "
                "predicted: leave gap= out (12 s), or hold out whole runs (column 'group' with the run, "
                "folds='leave-one-out')"
            ) from error
    return design
