"""integrate: how far back each unit of a model listens."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from topobrain._checks import InputError, require_choice, unknown
from topobrain.activations import sheets_attribute, stimuli_fields, unit_coords
from topobrain.extract import Precision, warn_of_slow_bf16
from topobrain.integration.measuring import Study, measure_windows
from topobrain.integration.reading import (
    Direction,
    Reader,
    Reading,
    Row,
    blocks_of_sequences,
    find_direction,
    pick_reader,
)
from topobrain.integration.result import MAPS, Integration
from topobrain.integration.swaps import Swaps, make_swaps
from topobrain.models.protocol import Model
from topobrain.stats.integration_windows import (
    FORMS,
    SKIPPED,
    InfluenceSums,
    LagWindow,
    Normalise,
    group_of_sequences,
)
from topobrain.stats.ridge.memory import parse_memory, readable
from topobrain.stimuli import StimulusSet

Progress = Callable[[int, int], None]
SwapRule = Literal["same-tag", "embedding", "probable", "improbable", "random"]

DEFAULT_MEMORY = 2**28
"""Bytes that sums of influence may take where no bound is given."""

FEW_GROUPS = 10
"""Groups of sequences below which standard errors are rough."""

FLOOR_SEQUENCES = 32
"""Sequences of which one swap is read in float32 too, where the rest is read in lower precision."""

FEWEST_LAGS = 3

FEWEST = 4
"""Sequences below which there are no halves and no parts to hold out."""


def integrate(
    model: Model,
    sequences: StimulusSet,
    *,
    swap: SwapRule | Swaps = "same-tag",
    masked_model: Any = None,
    max_lag: int = 20,
    layers: Sequence[str] | str | None = None,
    normalise: Normalise = "measured",
    n_bootstrap: int = 100,
    n_null: int = 1000,
    held_out_folds: int = 5,
    max_se: float = 0.005,
    precision: Precision = "float32",
    batch_tokens: int = 2048,
    max_memory: int | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Integration:
    r"""Find out how far back each unit listens, by swapping words and looking how long it notices.

    Every word of every sequence is swapped once. What a swap at word k changes in a unit at word m, averaged over
    sequences, is :math:`D[k, m]`; the influence curve is the median over measured words of
    :math:`\theta(\mathrm{lag}) = D[m - \mathrm{lag}, m] / D[m, m]`, to which
    :math:`c (\mathrm{lag} + 1)^{-a} + (1 - c) e^{-b\,\mathrm{lag}}` is fitted. A causal model is read on from the swapped word
    only, all swaps of a sequence together; no value is kept for every swap, word and unit.

    Parameters
    ----------
    model
        A model that reads text. If it reads ahead too, curves have lags on both sides and no window is fitted.
    sequences
        Texts of equally many words (``load_stimuli("word-runs")``, ``load_stimuli("sentence-sequences")``). Where a column
        ``sentence_words`` gives the words of a sentence, yoking to sentence starts is measured.
    swap
        The rule that chooses the words put in (see `make_swaps`), or `Swaps` made before.
    masked_model
        The masked language model of the rules ``"probable"`` and ``"improbable"``.
    max_lag
        Longest lag, in words.
    layers
        Layers to measure (default: all).
    normalise
        Divide by the influence of a swap of the measured word itself (``"measured"``, as published), or of the swapped word
        (``"swapped"``), which takes swaps of unequal size out exactly.
    n_bootstrap
        Draws of sequences behind standard errors; 0 for none, and then nothing is masked for noise.
    n_null
        Draws of the layout null of each map; 0 for none.
    held_out_folds
        Parts of the sequences held out in turn for the choice among exponential, power law and mixture.
    max_se
        Standard error of a curve above which its fit counts as unknown.
    precision
        As in `extract`. What rounding changes is measured on swaps of words with themselves (and in low precision on a few
        swaps that are read in float32 too), and taken out.
    batch_tokens
        The most tokens a batch (a CPU takes 768 at the most).
    max_memory
        What sums of influence may take, in bytes or as text (default ``"256 MiB"``). Sequences are summed in as many groups
        as fit, and these are what is resampled; the result tells how many.
    seed
        Seed of swaps, halves, bootstrap and null.
    progress
        Called with (sequences done, sequences in all).

    Returns
    -------
    Integration

    Raises
    ------
    InputError
        Sequences of unequal length or shorter than the lags, swaps of other sequences, a word without a token of its own, a
        memory bound too small, or a model that no swap changes.
    UnknownNameError
        A layer that the model does not have.

    References
    ----------
    Skrill & Norman-Haignere (2023), Large language models transition from integrating across position-yoked, exponential
    windows to structure-yoked, power-law windows, NeurIPS 36:638.
    """
    chosen = _chosen_layers(model, layers)
    n_words, sentence_words = _shape_of(sequences)
    max_lag = _checked_lag(max_lag)
    _check_numbers(n_bootstrap, n_null, held_out_folds, seed)
    if isinstance(max_se, bool) or not isinstance(max_se, int | float | np.number) or not max_se >= 0:
        raise InputError(f"max_se is a standard error of 0 or more, got {max_se!r}")
    if isinstance(batch_tokens, bool) or not isinstance(batch_tokens, int | np.integer) or batch_tokens < 1:
        raise InputError(f"batch_tokens is a whole number of 1 or more, got {batch_tokens!r}")
    if progress is not None and not callable(progress):
        raise InputError(f"progress is a function of (sequences done, sequences in all), got {progress!r}")
    if isinstance(swap, Swaps) and masked_model is not None:
        raise InputError("masked_model= chooses words for a rule; these swaps are made already")
    require_choice("normalise", normalise, get_args(Normalise))
    require_choice("precision", precision, get_args(Precision))
    if precision == "bf16":
        warn_of_slow_bf16(model)
    one_sided = LagWindow(n_words, max_lag, step_lags=_step_lags(sentence_words, n_words, max_lag))
    if isinstance(swap, Swaps):
        swaps = swap
        _require_fit(swaps, sequences, n_words)
    else:
        swaps = make_swaps(model, sequences, swap, masked_model=masked_model, seed=seed)
    reading = Reading(model, chosen, [" ".join(t.split()) for t in sequences.texts], one_sided, precision, batch_tokens)
    first = _first_rows(swaps, reading.texts, n_words)
    direction = find_direction(reading, first)
    if not direction.causal:
        window = _two_sided(model, chosen, direction, n_words, max_lag)
        reading = Reading(model, chosen, reading.texts, window, precision, batch_tokens)
    reader = pick_reader(reading, first, causal=direction.causal)
    sheets = {layer: model.sheets[layer] for layer in chosen}
    sums = _sums(reading.window, len(sequences), sum(sheet.n_units for sheet in sheets.values()), max_memory)
    _read(reader(reading), swaps, sums, progress)
    study = Study(sums, sheets, normalise, direction, sentence_words, seed)
    found = measure_windows(study, n_bootstrap=n_bootstrap, n_null=n_null, folds=held_out_folds, max_se=max_se)
    options = {
        "max_lag": max_lag, "normalise": normalise, "n_bootstrap": n_bootstrap, "n_null": n_null,
        "held_out_folds": held_out_folds, "max_se": max_se, "precision": precision, "batch_tokens": batch_tokens,
        "seed": seed, "layers": chosen, "causal": direction.causal, "before_the_swap": direction.before.tolist(),
        "n_sequences": len(sequences), "n_words": n_words, "sentence_words": sentence_words,
        "n_groups": len(sums.n_sequences), "null": "layout",
        "swap": {
            **swaps.provenance, "rule": swaps.rule, "seed": swaps.seed, "sha256": swaps.digest(),
            "share_of_fallbacks": float(swaps.fallback.mean()),
        },
    }  # fmt: skip
    weights = model.weights_hash() if hasattr(model, "weights_hash") else None
    provenance = {
        "model": {"name": model.name, "weights_sha256": weights, **getattr(model, "provenance", {})},
        "stimuli": stimuli_fields(sequences),
        "integrate": options,
    }
    coords = {
        "lag": ("lag", reading.window.lags),
        "form": ("form", np.array(FORMS, dtype=object)),
        "map": ("map", np.array(MAPS, dtype=object)),
        "layer_name": ("layer_name", np.array(chosen, dtype=object)),
        "position": ("position", np.arange(n_words)),
        **unit_coords(sheets),
    }
    attrs = {**sheets_attribute(sheets), **Integration.attributes(provenance)}
    return Integration(xr.Dataset(found, coords=coords, attrs=attrs))


def _chosen_layers(model: Model, layers: Sequence[str] | str | None) -> list[str]:
    if not hasattr(model, "sheets") or not hasattr(model, "record"):
        raise InputError(f"integrate reads a model, got {type(model).__name__}: load_model(...) makes one")
    known = list(model.sheets)
    if layers is None or layers == "all":
        return known
    if not isinstance(layers, str | Sequence):
        raise InputError(f"layers are names of {known}, got {layers!r}")
    names = [layers] if isinstance(layers, str) else list(layers)
    if not names or len(set(names)) != len(names):
        raise InputError(f"layers are one or more different names of {known}; got {names}")
    for name in names:
        if name not in known:
            raise unknown("layer", name, known, f"(in model {model.name!r})")
    return names


def _shape_of(sequences: StimulusSet) -> tuple[int, int]:
    """Return the words of a sequence and of a sentence (0 without sentence structure), checked."""
    if not isinstance(sequences, StimulusSet):
        raise InputError(
            f"integrate reads a StimulusSet, got {type(sequences).__name__}: load_stimuli('word-runs') or "
            "load_stimuli('sentence-sequences') makes one, or StimulusSet(texts)"
        )
    counts = np.array([len(text.split()) for text in sequences.texts])
    if len(set(counts.tolist())) > 1:
        odd = int(np.flatnonzero(counts != np.bincount(counts).argmax())[0])
        raise InputError(
            f"sequences need equally many words: most have {np.bincount(counts).argmax()}, {sequences.ids[odd]!r} has "
            f"{counts[odd]}"
        )
    if len(sequences) < FEWEST:
        raise InputError(
            f"{len(sequences)} sequences are too few for halves and held-out parts; {FEWEST} or more are needed"
        )
    if "sentence_words" not in sequences.table.columns:
        return int(counts[0]), 0
    lengths = set(sequences.column("sentence_words").tolist())
    if len(lengths) > 1:
        raise InputError(f"sentences need one length for all sequences; column sentence_words holds {sorted(lengths)}")
    (given,) = lengths
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 0:
        raise InputError(f"sentence_words is a whole number of words, 0 for runs without sentences; got {given!r}")
    words = int(given)
    if words and counts[0] % words:
        raise InputError(f"sequences of {counts[0]} words do not divide into sentences of {words}")
    return int(counts[0]), words


def _step_lags(sentence_words: int, n_words: int, max_lag: int) -> int:
    """Return the lags that yoking averages over: none without sentences, or with a single one."""
    if sentence_words < 2 or n_words < 2 * sentence_words:
        return 0
    if sentence_words - 2 > max_lag:
        raise InputError(
            f"yoking to sentences of {sentence_words} words needs lags up to {sentence_words - 2}, max_lag is {max_lag}"
        )
    return sentence_words - 1


def _checked_lag(max_lag: int) -> int:
    if isinstance(max_lag, bool) or not isinstance(max_lag, int | np.integer):
        raise InputError(f"max_lag is a whole number of words, got {max_lag!r}")
    if max_lag < FEWEST_LAGS:
        raise InputError(
            f"max_lag is {max_lag}: three parameters of a window need lags up to {FEWEST_LAGS} words or more"
        )
    return int(max_lag)


def _check_numbers(n_bootstrap: int, n_null: int, held_out_folds: int, seed: int) -> None:
    for name, value in (("n_bootstrap", n_bootstrap), ("n_null", n_null), ("held_out_folds", held_out_folds)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0 or value == 1:
            raise InputError(f"{name} is 0 for none, or a whole number of 2 or more; got {value!r}")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed is a whole number of 0 or more, got {seed!r}")


def _require_fit(swaps: Swaps, sequences: StimulusSet, n_words: int) -> None:
    if swaps.words.shape != (len(sequences), n_words):
        raise InputError(
            f"these swaps are for {swaps.words.shape[0]} sequences of {swaps.words.shape[1]} words, expected "
            f"{len(sequences)} of {n_words}"
        )
    given = np.array([text.split() for text in sequences.texts], dtype=object)
    other = np.argwhere(given != swaps.originals)
    if other.size:
        s, k = other[0]
        raise InputError(
            f"these swaps are for other sequences: word {k} of {sequences.ids[s]!r} is {given[s, k]!r}, the swaps replace "
            f"{swaps.originals[s, k]!r}"
        )


def _first_rows(swaps: Swaps, texts: Sequence[str], n_words: int) -> list[Row]:
    """Return a few swaps, late enough in the sequence for words before them to show whether a model reads ahead."""
    positions = sorted({n_words // 2, 3 * n_words // 4, n_words - 1})
    return [
        Row(s, k, _swapped(texts[s], k, swaps.words[s, k]), True) for s in range(min(2, len(texts))) for k in positions
    ]


def _swapped(text: str, position: int, word: str) -> str:
    words = text.split(" ")
    words[position] = word
    return " ".join(words)


def _sums(window: LagWindow, n_sequences: int, n_units: int, max_memory: int | str | None) -> InfluenceSums:
    """Return empty sums with as many groups as memory allows; in float64 where that leaves a group for every sequence."""
    bound = parse_memory(max_memory) or DEFAULT_MEMORY
    if n_sequences * InfluenceSums.bytes_a_group(window, n_units, "float64") <= bound:
        return InfluenceSums(window, n_sequences, n_units, "float64")
    each = InfluenceSums.bytes_a_group(window, n_units)
    n_groups = min(n_sequences, bound // each)
    if n_groups < FEWEST:
        raise InputError(
            f"sums of influence of {n_units} units need {readable(FEWEST * each)} for {FEWEST} groups of sequences, "
            f"max_memory is {readable(bound)}: give more, or measure fewer layers at a time"
        )
    if n_groups < min(FEW_GROUPS, n_sequences):
        warnings.warn(
            f"{n_sequences} sequences are summed in {n_groups} groups, which is all that {readable(bound)} hold: standard errors "
            "from so few are rough; give more max_memory, or measure fewer layers at a time",
            stacklevel=3,
        )
    return InfluenceSums(window, int(n_groups), n_units)


def _two_sided(model: Model, layers: Sequence[str], direction: Direction, n_words: int, max_lag: int) -> LagWindow:
    """Return lags on both sides, or say why they are needed where sequences are too short for them."""
    try:
        return LagWindow(n_words, max_lag, two_sided=True)
    except InputError as error:
        worst = int(np.argmax(direction.before))
        raise InputError(
            f"{model.name!r} reads ahead (before a swapped word, layer {layers[worst]!r} changes by "
            f"{direction.before[worst]:.1e} of what it changes at it), so lags are taken on both sides: {error}"
        ) from None


def _read(reader: Reader, swaps: Swaps, sums: InfluenceSums, progress: Progress | None) -> None:
    """Read every swap once and add up what it changes."""
    reading = reader.reading
    window, n_sequences = reading.window, len(reading.texts)
    group = group_of_sequences(n_sequences, len(sums.n_sequences))
    # the first word has no blank before it, so that its swap may have another number of tokens
    positions = range(1 if window.step_lags else SKIPPED, window.n_words)
    floor, n_floor = np.zeros(sums.n_units), 0
    for block in blocks_of_sequences(reading, n_sequences):
        rows = [Row(s, k, _swapped(reading.texts[s], k, swaps.words[s, k]), True) for s in block for k in positions]
        # a word swapped with itself, at another place in each sequence: what changes is rounding
        rows += [Row(s, int(window.measured[s % window.measured.size]), reading.texts[s], False) for s in block]
        for row, change in reader.changes(block, rows):
            if row.swapped:
                sums.add(int(group[row.sequence]), row.position, change)
            else:
                floor += change.mean(axis=0)
                n_floor += 1
        np.add.at(sums.n_sequences, group[list(block)], 1)
        if progress is not None:
            progress(block[-1] + 1, n_sequences)
    sums.floor = floor / n_floor
    if reading.precision != "float32":
        sums.floor = np.maximum(sums.floor, _low_precision_floor(reader, swaps))


def _low_precision_floor(reader: Reader, swaps: Swaps) -> np.ndarray:
    """Return what low precision adds to small changes (unit,): the root of the mean square it adds at the longer lags.

    Swapping a word with itself does not show it: equal tokens round equally, and only where something changed a little do
    rounded values part by more than they should. So a few swaps are read in float32 too.
    """
    reading = reader.reading
    last = reading.window.n_words - 1 - reading.window.max_lag
    sequences = range(min(FLOOR_SEQUENCES, len(reading.texts)))
    rows = [Row(s, last, _swapped(reading.texts[s], last, swaps.words[s, last]), True) for s in sequences]
    late = reading.window.max_lag // 2
    power = []
    for one in (reader, type(reader)(reading.in_float32())):
        power.append(np.mean([change[-late:] ** 2 for _, change in one.changes(sequences, rows)], axis=(0, 1)))
    added: np.ndarray = np.sqrt(np.maximum(power[0] - power[1], 0))
    return added
