"""Reading sequences with one word swapped: in batches, and for causal models from the swapped word on only."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from topobrain._checks import InputError
from topobrain.extract import CPU_BATCH_TOKENS, Precision
from topobrain.models.prefix_reuse import ReadBeginnings, can_reuse_prefix, read_beginnings, read_on
from topobrain.models.protocol import Model, Recording
from topobrain.models.text_encoder import TextEncoder
from topobrain.models.torch_model import Encoded, TorchModel
from topobrain.stats.integration_windows import LagWindow

FULL_WIDTH = 768
"""Width of the model for which `CPU_BATCH_TOKENS` was measured."""

CHECKED_ROWS = 3
"""Rows of each batch of sequences that are cut into tokens as a whole, to check that cutting the swapped word alone is as
good: it is where words are cut apart first, as most tokenizers do."""

AHEAD = 1e-3
"""Change of a word before the swapped one, relative to that of the swapped word, above which a model reads ahead: in
float32 a causal model has less than 1e-5."""

ROUNDING = 1e-5
"""Change of a unit, relative to its largest size, that rounding in float32 may make: batches of other shapes add up in other
orders."""

SAME_CHANGE = 1e-3
"""Difference, relative to the largest change, up to which reading on and reading whole agree."""


class Row(NamedTuple):
    """One sequence to be read with one word swapped (or, to measure rounding, with none)."""

    sequence: int
    position: int
    text: str
    swapped: bool


class Change(NamedTuple):
    """What one swap changed: |original - swapped| at the words around it (word, unit)."""

    row: Row
    values: np.ndarray


class Reader(Protocol):
    """Reads rows that belong to a few sequences and says what each swap changed."""

    reading: Reading

    def __init__(self, reading: Reading) -> None: ...

    def changes(self, sequences: Sequence[int], rows: Sequence[Row]) -> Iterator[Change]:
        """Yield the change of every row, in any order; all rows belong to the given sequences."""
        ...


@dataclass(frozen=True)
class Reading:
    """What is read: a model, its layers, the sequences and the words measured.

    Parameters
    ----------
    model, layers
        The model and the layers to record.
    texts
        The sequences, words joined by single blanks.
    window
        Which words around a swap are measured.
    precision
        As in `extract`.
    batch_tokens
        The most tokens a batch.
    """

    model: Model
    layers: Sequence[str]
    texts: Sequence[str]
    window: LagWindow
    precision: Precision = "float32"
    batch_tokens: int = 2048

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return torch.device(str(getattr(self.model, "device", "cpu")))

    @property
    def limit(self) -> int:
        """The most tokens of a batch on the model's device."""
        if self.device.type != "cpu":
            return self.batch_tokens
        # what slows a large batch down on a CPU is the memory of its values, so narrow models take more tokens
        widest = max(self.model.sheets[layer].n_units for layer in self.layers)
        return max(CPU_BATCH_TOKENS, min(self.batch_tokens, CPU_BATCH_TOKENS * FULL_WIDTH // widest))

    def in_float32(self) -> Reading:
        """Return the same reading in full precision."""
        return replace(self, precision="float32")

    def lowered(self) -> AbstractContextManager[Any]:
        """Return the context in which the model runs at the precision asked for."""
        low = self.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if low else nullcontext()

    def word_means(self, recording: Recording, word: np.ndarray, first: np.ndarray, n_words: int) -> Tensor:
        """Return the mean over the tokens of each word (row, word, unit) of all layers, ``n_words`` from ``first`` on."""
        wanted = np.asarray(first)[:, None] + np.arange(n_words)[None, :]
        match = word[:, None, :] == wanted[:, :, None]
        count = match.sum(axis=2, keepdims=True)
        device = torch.as_tensor(recording.values[self.layers[0]]).device
        inside = torch.as_tensor(match.any(axis=1), device=device)[:, :, None]
        means = []
        for layer in self.layers:
            values = torch.as_tensor(recording.values[layer])
            values = values if values.dtype == torch.float64 else values.float()
            weights = torch.as_tensor(match / np.maximum(count, 1), device=device).to(values.dtype)
            means.append(torch.bmm(weights, torch.where(inside, values, torch.zeros_like(values[:1, :1, :1]))))
        return torch.cat(means, dim=2)

    def require_words(self, text: str, word: np.ndarray) -> None:
        """Raise unless every word of a sequence has a token of its own."""
        present = set(word[word >= 0].tolist())
        lacking = [n for n in range(self.window.n_words) if n not in present]
        if lacking or len(present) != self.window.n_words:
            words = text.split()
            shown = f"word {lacking[0]} ({words[lacking[0]]!r}) has none" if lacking else f"it gives {len(present)}"
            raise InputError(
                f"every one of the {self.window.n_words} words of a sequence needs a token of its own in "
                f"{self.model.name!r}; {shown}: {text[:60]!r}..."
            )


class PrefixReader:
    """Reads a causal model on from the swapped word, with the keys and values of what comes before used again."""

    def __init__(self, reading: Reading) -> None:
        assert isinstance(reading.model, TorchModel)
        self.reading, self.model = reading, reading.model
        self.spliced = True

    def changes(self, sequences: Sequence[int], rows: Sequence[Row]) -> Iterator[Change]:
        """Yield the change of every row."""
        reading, window = self.reading, self.reading.window
        with reading.lowered():
            before = read_beginnings(self.model, [reading.texts[s] for s in sequences], reading.layers)
        word = np.asarray(before.batch.word)
        for number, s in enumerate(sequences):
            reading.require_words(reading.texts[s], word[number])
        original = reading.word_means(before.recording, word, np.zeros(len(sequences), dtype=int), window.n_words)
        at = {s: number for number, s in enumerate(sequences)}
        tails = self._tails(rows, before, [at[row.sequence] for row in rows])
        for batch in _batches(tails, reading.limit, self.model.encode.max_length):  # type: ignore[attr-defined]
            yield from self._changed(batch, before, original)

    def _tails(self, rows: Sequence[Row], before: ReadBeginnings, sources: Sequence[int]) -> list[_Tail]:
        """Return the tokens of each row from where it differs from its sequence to its last measured word."""
        if self.spliced:
            tails = self._spliced(rows, before, sources)
            checked = range(0, len(rows), max(1, len(rows) // CHECKED_ROWS))
            whole = self._whole([rows[n] for n in checked], before, [sources[n] for n in checked])
            if all(one.same(tails[n]) for one, n in zip(whole, checked, strict=True)):
                return tails
            self.spliced = False  # this tokenizer looks beyond the words beside a word
        return self._whole(rows, before, sources)

    def _spliced(self, rows: Sequence[Row], before: ReadBeginnings, sources: Sequence[int]) -> list[_Tail]:
        """Return tails whose swapped word was cut into tokens between its neighbours, all else as in the sequence."""
        encoder = self.model.encode
        assert isinstance(encoder, TextEncoder)
        assert not isinstance(before.batch.inputs, Tensor)
        known, known_word = before.batch.inputs["input_ids"].numpy(), np.asarray(before.batch.word)
        texts, places = [], []
        for row in rows:
            words = row.text.split(" ")
            first = max(row.position - 1, 0)
            texts.append(" ".join(words[first : row.position + 2]))
            places.append(row.position - first)
        inputs, word = encoder(texts)
        assert not isinstance(inputs, Tensor)
        ids, tails = inputs["input_ids"].numpy(), []
        first_token = [_first_tokens(one, self.reading.window.n_words) for one in known_word]
        for number, (row, source, place) in enumerate(zip(rows, sources, places, strict=True)):
            new = ids[number][word[number] == place]
            last = self.reading.window.around(row.position)[-1]
            start, after, stop = first_token[source][[row.position, row.position + 1, last + 1]]
            tails.append(
                _Tail(
                    row, source, int(start), np.concatenate([new, known[source, after:stop]]),
                    np.concatenate([np.full(len(new), row.position), known_word[source, after:stop]]),
                )
            )  # fmt: skip
        return tails

    def _whole(self, rows: Sequence[Row], before: ReadBeginnings, sources: Sequence[int]) -> list[_Tail]:
        """Return tails of rows that were cut into tokens from their first word on."""
        inputs, word = self.model.encoded([row.text for row in rows])
        assert not isinstance(inputs, Tensor)
        assert not isinstance(before.batch.inputs, Tensor)
        ids, known = inputs["input_ids"].numpy(), before.batch.inputs["input_ids"].numpy()
        known_word = np.asarray(before.batch.word)
        tails = []
        for number, (row, source) in enumerate(zip(rows, sources, strict=True)):
            self.reading.require_words(row.text, word[number])
            shared = min(ids.shape[1], known.shape[1])
            differs = np.flatnonzero(ids[number, :shared] != known[source, :shared])
            # from the first token of the swapped word, or from an earlier one where the swap changed how words are cut
            start = int(np.flatnonzero(known_word[source] == row.position)[0])
            start = min(start, int(differs[0])) if differs.size else start
            last = self.reading.window.around(row.position)[-1]
            stop = int(np.flatnonzero(word[number] == last)[-1]) + 1
            tails.append(_Tail(row, source, start, ids[number, start:stop], word[number, start:stop]))
        return tails

    def _changed(self, batch: Sequence[_Tail], before: ReadBeginnings, original: Tensor) -> Iterator[Change]:
        reading = self.reading
        longest = max(len(tail.ids) for tail in batch)
        ids = np.full((len(batch), longest), self.model.encode.pad_id, dtype=np.int64)  # type: ignore[attr-defined]
        mask = np.zeros((len(batch), longest), dtype=np.int64)
        word = np.full((len(batch), longest), -1)
        for number, tail in enumerate(batch):
            ids[number, : len(tail.ids)], mask[number, : len(tail.ids)] = tail.ids, 1
            word[number, : len(tail.ids)] = tail.word
        shown = Encoded({"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}, word)
        with reading.lowered():
            found = read_on(
                self.model, before, [tail.source for tail in batch], np.array([tail.start for tail in batch]), shown,
                reading.layers,
            )  # fmt: skip
        yield from _differences(
            reading, found, word, [tail.row for tail in batch], [tail.source for tail in batch], original
        )


class _Tail(NamedTuple):
    """A row from its first token that may differ on."""

    row: Row
    source: int
    start: int
    ids: np.ndarray
    word: np.ndarray

    def same(self, other: _Tail) -> bool:
        """Whether two ways to cut a row gave the same tokens."""
        alike = np.array_equal(self.ids, other.ids) and np.array_equal(self.word, other.word)
        return self.start == other.start and alike


def _first_tokens(word: np.ndarray, n_words: int) -> np.ndarray:
    """Return the first token of each word, and the end of the last word (word + 1,)."""
    at = np.flatnonzero(word >= 0)
    first = at[np.searchsorted(word[at], np.arange(n_words))]
    return np.append(first, at[-1] + 1)


class WholeReader:
    """Reads every swapped sequence as a whole."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading

    def changes(self, sequences: Sequence[int], rows: Sequence[Row]) -> Iterator[Change]:
        """Yield the change of every row."""
        reading, window = self.reading, self.reading.window
        texts = [reading.texts[s] for s in sequences]
        with reading.lowered():
            known = reading.model.record(texts, list(reading.layers))
        word = np.asarray(known.word)
        for number, text in enumerate(texts):
            reading.require_words(text, word[number])
        original = reading.word_means(known, word, np.zeros(len(texts), dtype=int), window.n_words)
        at = {s: number for number, s in enumerate(sequences)}
        most = max(1, reading.limit // max(1, word.shape[1]))
        for batch in (rows[start : start + most] for start in range(0, len(rows), most)):
            with reading.lowered():
                found = reading.model.record([row.text for row in batch], list(reading.layers))
            for number, row in enumerate(batch):
                reading.require_words(row.text, np.asarray(found.word)[number])
            yield from _differences(
                reading, found, np.asarray(found.word), batch, [at[row.sequence] for row in batch], original
            )


def _batches(tails: Sequence[_Tail], limit: int, context: int | None) -> Iterator[list[_Tail]]:
    """Yield rows of about equal length, longest first, at most so many padded tokens together, within the model's context."""
    ordered = sorted(tails, key=lambda one: (-len(one.ids), one.start))
    while ordered:
        longest = len(ordered[0].ids)
        n_rows, latest = max(1, limit // longest), np.inf if context is None else context - longest
        batch, later = [ordered[0]], list[_Tail]()
        for one in ordered[1:]:
            (batch if len(batch) < n_rows and one.start <= latest else later).append(one)
        yield batch
        ordered = later


def _differences(
    reading: Reading, found: Recording, word: np.ndarray, rows: Sequence[Row], sources: Sequence[int], original: Tensor
) -> Iterator[Change]:
    """Yield |original - swapped| of each row at the words around its swap."""
    around = [reading.window.around(row.position) for row in rows]
    first = np.array([words[0] for words in around])
    n_words = max(words.size for words in around)
    means = reading.word_means(found, word, first, n_words)
    # words beyond a row's last one are compared with something and never looked at
    at = torch.as_tensor(np.minimum(first[:, None] + np.arange(n_words), reading.window.n_words - 1))
    own = original[torch.as_tensor(list(sources))[:, None].to(original.device), at.to(original.device)]
    changes = (means - own).abs_().cpu().numpy()
    finite = bool(np.isfinite(changes).all())
    for number, (row, words) in enumerate(zip(rows, around, strict=True)):
        change = changes[number, : words.size]
        if not finite and not np.isfinite(change).all():
            unit = int(np.argwhere(~np.isfinite(change))[0][1])
            widths = np.cumsum([reading.model.sheets[layer].n_units for layer in reading.layers])
            layer = reading.layers[int(np.searchsorted(widths, unit, side="right"))]
            raise InputError(f"layer {layer!r} of {reading.model.name!r} is not finite for {row.text[:60]!r}...")
        yield Change(row, change)


class Direction(NamedTuple):
    """Whether a model reads ahead.

    Attributes
    ----------
    causal
        Whether words before a swapped one stay as they were.
    before
        The largest change before a swapped word, relative to the median change at it (layer,).
    """

    causal: bool
    before: np.ndarray


def find_direction(reading: Reading, rows: Sequence[Row]) -> Direction:
    """Return whether a model reads ahead, from a few rows read whole in float32."""
    whole = LagWindow(reading.window.n_words, (reading.window.n_words - 3) // 2, two_sided=True)
    wide = Reading(reading.model, reading.layers, reading.texts, whole, "float32", reading.batch_tokens)
    reader = WholeReader(wide)
    earlier, own = [], []
    for change in reader.changes(sorted({row.sequence for row in rows}), rows):
        here = int(change.row.position - whole.around(change.row.position)[0])
        earlier.append(change.values[:here].max(axis=0, initial=0.0))
        own.append(change.values[here])
    rounding = ROUNDING * _largest(wide, sorted({row.sequence for row in rows}))
    edges = np.cumsum([0, *(reading.model.sheets[layer].n_units for layer in reading.layers)])
    largest, size = np.max(earlier, axis=0), np.mean(own, axis=0)
    largest[largest <= rounding] = 0.0
    before = []
    for start, stop in itertools.pairwise(edges):
        moves = size[start:stop] > rounding[start:stop]
        typical = float(np.median(size[start:stop][moves])) if moves.any() else 0.0
        most = float(largest[start:stop].max())
        before.append(most / typical if typical > 0 else (0.0 if most == 0 else np.inf))
    ratio = np.array(before)
    return Direction(bool((ratio < AHEAD).all()), ratio)


def _largest(reading: Reading, sequences: Sequence[int]) -> np.ndarray:
    """Return the largest size of each unit in some sequences (unit,): its rounding is a share of it."""
    recording = reading.model.record([reading.texts[s] for s in sequences], list(reading.layers))
    inside = np.asarray(recording.word) >= 0
    values = [torch.as_tensor(recording.values[layer]).cpu().numpy()[inside] for layer in reading.layers]
    return np.concatenate([np.abs(one).max(axis=0) for one in values])


def pick_reader(reading: Reading, rows: Sequence[Row], *, causal: bool) -> type[PrefixReader] | type[WholeReader]:
    """Return the fastest way to read swaps with a model that gives what reading whole gives, tried on a few rows in float32."""
    if not causal or not can_reuse_prefix(reading.model):
        return WholeReader
    exact = reading.in_float32()
    sequences = sorted({row.sequence for row in rows})
    whole = {change.row: change.values for change in WholeReader(exact).changes(sequences, rows)}
    try:
        found = {change.row: change.values for change in PrefixReader(exact).changes(sequences, rows)}
    except InputError:
        raise
    except Exception as error:  # whatever a module of someone else does with keys and values it did not make
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    else:
        size = max(float(change.max()) for change in whole.values())
        apart = max(float(np.abs(found[row] - change).max()) for row, change in whole.items())
        if apart <= SAME_CHANGE * size:
            return PrefixReader
        reason = f"changes differ by {apart:.1e} of {size:.1e}"
    warnings.warn(
        f"{reading.model.name!r} cannot read on from what it read before ({reason}): every swapped sequence is read from its "
        "beginning, which takes several times as long",
        stacklevel=3,
    )
    return WholeReader


def blocks_of_sequences(reading: Reading, n_sequences: int) -> list[range]:
    """Return the sequences read together: as many as fill two batches with their swaps."""
    tokens = reading.window.n_words * reading.window.around(reading.window.n_words // 2).size
    size = max(1, round(2 * reading.limit / tokens))
    return [range(start, min(start + size, n_sequences)) for start in range(0, n_sequences, size)]
