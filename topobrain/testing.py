"""The model contract as code: `check_model` tells what is wrong with a model before its numbers mislead anyone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from topobrain._checks import InputError, UnknownNameError
from topobrain.models.protocol import Model, Recording
from topobrain.sheet import Sheet

if TYPE_CHECKING:
    import pandas as pd

TEXTS = (
    "The dog sleeps.",
    "Unbelievably, the grey cats of my neighbour's aunt don't chase mice at night!",
    "Rain",
    "she sells sea shells by the shore",
    "in the rainy autumn of that year the old harbour master sold his boat to a stranger",
)
"""Sentences of very different lengths, with punctuation, capitals and words that fall into several tokens."""

SHAPES = ((48, 48, 3), (36, 60, 3), (90, 30, 3), (32, 32, 3))
"""Height, width and channels of the pictures that models of images are checked with."""

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Report:
    """What `check_model` found.

    Attributes
    ----------
    model
        Name of the model.
    passed
        Checks that held, in words.
    failed
        Check -> what went wrong.
    """

    model: str
    passed: tuple[str, ...]
    failed: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """Whether every check held."""
        return not self.failed

    def to_frame(self) -> pd.DataFrame:
        """Return one row a check."""
        import pandas as pd

        rows = [{"check": name, "ok": True, "what": ""} for name in self.passed]
        return pd.DataFrame(rows + [{"check": name, "ok": False, "what": what} for name, what in self.failed.items()])

    def __str__(self) -> str:
        lines = [f"{self.model}: {len(self.passed)} checks passed, {len(self.failed)} failed"]
        return "\n".join(lines + [f"  {name}: {what}" for name, what in self.failed.items()])


class _Failure(Exception):
    pass


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise _Failure(what)


def sample_stimuli(model: Model) -> list[Any]:
    """Return stimuli of different sizes that a model can read: `TEXTS`, or pictures of noise for a model of images.

    A model reads images if its encoder says ``reads = "images"``.
    """
    reads = getattr(getattr(model, "encode", None), "reads", "text")
    if reads != "images":
        return list(TEXTS)
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, shape, dtype=np.uint8) for shape in SHAPES]


def _said(stimulus: Any) -> str:
    return f"the image of shape {stimulus.shape}" if isinstance(stimulus, np.ndarray) else repr(stimulus)


def _array(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _numpy_state() -> tuple[Any, ...]:
    state: Any = np.random.get_state()  # noqa: NPY002
    return (state[1].tobytes(), *state[2:])  # a draw moves the place in the key long before the key itself


@dataclass
class _Checks:
    model: Model
    stimuli: Sequence[Any]
    layers: list[str] = field(default_factory=list)

    def record(self, stimuli: Sequence[Any]) -> tuple[dict[str, np.ndarray], np.ndarray, Recording]:
        recording = self.model.record(list(stimuli), self.layers)
        return {layer: _array(recording.values[layer]) for layer in self.layers}, np.asarray(recording.word), recording

    def sheets(self) -> None:
        _require(isinstance(self.model.sheets, Mapping) and len(self.model.sheets) > 0, "`sheets` names no layer")
        for layer, sheet in self.model.sheets.items():
            _require(
                isinstance(sheet, Sheet), f"the sheet of layer {layer!r} is a {type(sheet).__name__}, expected a Sheet"
            )
        values, _, _ = self.record(self.stimuli[:1])
        for layer, array in values.items():
            n = self.model.sheets[layer].n_units
            _require(array.shape[-1] == n, f"layer {layer!r} has {array.shape[-1]} units, its sheet {n} places")

    def shapes(self) -> None:
        values, word, _ = self.record(self.stimuli)
        _require(word.shape[0] == len(self.stimuli), f"{word.shape[0]} rows of `word` for {len(self.stimuli)} stimuli")
        for layer, array in values.items():
            expected = (*word.shape, self.model.sheets[layer].n_units)
            _require(array.shape == expected, f"layer {layer!r} has shape {array.shape}, expected {expected}")

    def dtype(self) -> None:
        values, _, _ = self.record(self.stimuli)
        for layer, array in values.items():
            _require(array.dtype == np.float32, f"layer {layer!r} is {array.dtype}, expected float32")
            _require(bool(np.isfinite(array).all()), f"layer {layer!r} holds values that are not finite")

    def words(self) -> None:
        _, word, _ = self.record(self.stimuli)
        for row, stimulus in zip(word, self.stimuli, strict=True):
            inside = row[row >= 0]
            _require(bool((row >= -1).all()), "`word` holds a number below -1")
            _require(inside.size > 0, f"no token of {_said(stimulus)} belongs to a word")
            _require(
                bool((np.diff(inside) >= 0).all()), f"word numbers of {_said(stimulus)} go backwards: {row.tolist()}"
            )
            if isinstance(stimulus, str):
                n_words = len(stimulus.split())
                found = np.unique(inside)
                _require(
                    np.array_equal(found, np.arange(n_words)),
                    f"{stimulus!r} has {n_words} words, its tokens carry word numbers {found.tolist()}",
                )
                self.words_of_the_beginning(stimulus, inside)
            else:
                _require(bool((inside == 0).all()), "an image has one token, of word 0")

    def words_of_the_beginning(self, text: str, inside: np.ndarray) -> None:
        """The first half of a text, alone, must give its words the tokens they have in the whole."""
        half = text.split()[: len(text.split()) // 2]
        if not half:
            return
        _, word, _ = self.record([" ".join(half)])
        alone = np.bincount(word[0][word[0] >= 0], minlength=len(half))
        whole = np.bincount(inside)[: len(half)]
        _require(
            np.array_equal(alone, whole),
            f"tokens a word differ between {text!r} ({whole.tolist()}) and its first half alone ({alone.tolist()})",
        )

    def deterministic(self) -> None:
        first, _, _ = self.record(self.stimuli)
        second, _, _ = self.record(self.stimuli)
        for layer in self.layers:
            _require(
                np.array_equal(first[layer], second[layer]), f"layer {layer!r} differs between two identical calls"
            )

    def global_state(self) -> None:
        import random

        import torch

        before = random.getstate(), _numpy_state(), torch.get_rng_state().clone()
        self.record(self.stimuli)
        _require(random.getstate() == before[0], "recording changes Python's global random state")
        _require(_numpy_state() == before[1], "recording changes numpy's global random state")
        _require(torch.equal(torch.get_rng_state(), before[2]), "recording changes torch's global random state")

    def batches(self) -> None:
        """Alone, in a batch, and in another order: the values of a stimulus's own tokens must not change."""
        together, word, _ = self.record(self.stimuli)
        backwards, word_back, _ = self.record(list(reversed(self.stimuli)))
        for row, stimulus in enumerate(self.stimuli):
            alone, word_alone, _ = self.record([stimulus])
            other = len(self.stimuli) - 1 - row
            own = word[row][word[row] >= 0]
            for what, found in (("alone", word_alone[0]), ("in another order", word_back[other])):
                _require(np.array_equal(found[found >= 0], own), f"words of {_said(stimulus)} differ {what}")
            for layer in self.layers:
                here = together[layer][row][word[row] >= 0]
                scale = max(float(np.abs(here).max()), 1e-30)
                one = float(np.abs(here - alone[layer][0][word_alone[0] >= 0]).max()) / scale
                _require(
                    one <= TOLERANCE,
                    f"padding leaks: {_said(stimulus)} alone and in a batch differ by {one:.2g} in layer {layer!r}",
                )
                two = float(np.abs(here - backwards[layer][other][word_back[other] >= 0]).max()) / scale
                _require(
                    two <= TOLERANCE,
                    f"{_said(stimulus)} depends on its place in the batch by {two:.2g} in layer {layer!r}",
                )

    def one_layer(self) -> None:
        values, _, _ = self.record(self.stimuli)
        layer = self.layers[-1]
        alone = self.model.record(list(self.stimuli), [layer])
        _require(set(alone.values) == {layer}, f"asked for {layer!r} alone, it recorded {sorted(alone.values)}")
        _require(
            np.allclose(_array(alone.values[layer]), values[layer], atol=TOLERANCE),
            f"layer {layer!r} differs when it is recorded alone",
        )

    def unknown_layer(self) -> None:
        name = "no such layer"
        try:
            self.model.record(list(self.stimuli[:1]), [name])
        except UnknownNameError:
            return
        except (LookupError, ValueError) as error:
            _require(name in str(error), f"an unknown layer raises {type(error).__name__} without naming it: {error}")
            return
        raise _Failure("an unknown layer is accepted without an error")


def check_model(model: Model, stimuli: Sequence[Any] | None = None, *, raises: bool = True) -> Report:
    """Check that a model keeps its contract with topobrain.

    Caught are: sheets that do not fit, wrong shapes or types, wrong word numbers, non-determinism, padding that leaks
    into values, values that depend on the rest of the batch, a changed global random state, and unknown layers that are
    accepted.

    Parameters
    ----------
    model
        Anything with ``name``, ``sheets`` and ``record``.
    stimuli
        At least two stimuli of different lengths (default: sentences, or pictures where the model's encoder says
        ``reads = "images"``).
    raises
        Raise if a check fails; otherwise the report says so.

    Returns
    -------
    Report

    Raises
    ------
    InputError
        A check failed: the message names each, with what was found.
    """
    shown = sample_stimuli(model) if stimuli is None else list(stimuli)
    if len(shown) < 2:
        raise InputError("check_model needs at least two stimuli of different lengths")
    missing = [part for part in ("name", "sheets", "record") if not hasattr(model, part)]
    if missing:
        raise InputError(
            f"{type(model).__name__} has no {', '.join(missing)}: a model has `name`, `sheets` and `record`"
        )
    checks = _Checks(model, shown, list(model.sheets) if isinstance(model.sheets, Mapping) else [])
    named: dict[str, Callable[[], None]] = {
        "sheets fit": checks.sheets,
        "shapes": checks.shapes,
        "float32 and finite": checks.dtype,
        "word numbers": checks.words,
        "deterministic": checks.deterministic,
        "global random state untouched": checks.global_state,
        "same alone and in a batch": checks.batches,
        "one layer alone": checks.one_layer,
        "unknown layer named": checks.unknown_layer,
    }
    passed, failed = [], {}
    for name, check in named.items():
        try:
            check()
        except _Failure as failure:
            failed[name] = str(failure)
        except Exception as error:  # whatever a stranger's model raises is a finding, not a crash
            failed[name] = f"{type(error).__name__}: {error}"
        else:
            passed.append(name)
    report = Report(str(model.name), tuple(passed), failed)
    if raises and failed:
        raise InputError(str(report))
    return report


class KernelModel:
    r"""A linear causal model of text whose integration windows are known in closed form.

    Unit u at word m is :math:`h_u[m] = \sum_{l \ge 0} w_u(l)\, e_u[m - l]` with the inputs e of the words. Words ``up`` and
    ``down`` are +1 and -1 for every unit, so that swapping one for the other changes the input equally at every word; any
    other word is a draw from a standard normal of its own for each unit. It is the planted truth of `integrate`.

    Parameters
    ----------
    kernels
        w (lag, unit), lags from 0 on; beyond the last one it is 0.
    reset
        Words after which the kernel starts anew, as at a sentence's start; None for never.
    sheet
        Places of the units (default: the most square grid).
    noise
        Standard deviation, relative to each value, of noise that differs from reading to reading: what rounding in low
        precision looks like.
    ahead
        Weight of the word that comes next, for a model that reads ahead.

    Examples
    --------
    >>> model = KernelModel(np.array([[1.0], [0.5]]))
    >>> model.record(["up up down"], ["units"]).values["units"][0, :, 0].tolist()
    [1.0, 1.5, -0.5]
    """

    def __init__(
        self, kernels: np.ndarray, *, reset: int | None = None, sheet: Sheet | None = None, noise: float = 0.0,
        ahead: float = 0.0,
    ) -> None:  # fmt: skip
        self.name = "planted windows"
        self.kernels = np.asarray(kernels, dtype=np.float64)
        self.reset, self.noise, self.ahead = reset, noise, ahead
        n_units = self.kernels.shape[1]
        self.sheets = {"units": Sheet.for_width(n_units) if sheet is None else sheet}
        self.provenance = {"simulated": True}
        self._rng = np.random.default_rng(0)
        self._inputs: dict[str, np.ndarray] = {"up": np.ones(n_units), "down": -np.ones(n_units)}

    def _input(self, word: str) -> np.ndarray:
        if word not in self._inputs:
            rng = np.random.default_rng(list(word.encode()))
            self._inputs[word] = rng.standard_normal((self.kernels.shape[1],))
        return self._inputs[word]

    def record(self, stimuli: Sequence[str], layers: Sequence[str]) -> Recording:
        """Return the units (stimulus, word, unit), in float64: what is planted here is exact."""
        words = [text.split() for text in stimuli]
        longest = max(len(each) for each in words)
        place = np.arange(longest)
        number = np.where(place < np.array([len(each) for each in words])[:, None], place, -1)
        inputs = np.zeros((len(words), longest, self.kernels.shape[1]))
        for row, each in enumerate(words):
            inputs[row, : len(each)] = [self._input(word) for word in each]
        values = np.zeros_like(inputs)
        since = place if self.reset is None else place % self.reset
        for lag, weight in enumerate(self.kernels[:longest]):
            reached = (since >= lag)[lag:, None]
            values[:, lag:] += reached * weight * inputs[:, : longest - lag]
        values[:, :-1] += self.ahead * inputs[:, 1:]
        values *= 1 + self.noise * self._rng.standard_normal(values.shape)
        return Recording(dict.fromkeys(layers, values), number)
