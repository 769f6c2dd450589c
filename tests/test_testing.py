from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from topobrain import Recording, Sheet
from topobrain._checks import InputError, unknown
from topobrain.testing import TEXTS, check_model

ALL = (
    "sheets fit", "shapes", "float32 and finite", "word numbers", "deterministic", "global random state untouched",
    "same alone and in a batch", "one layer alone", "unknown layer named",
)  # fmt: skip


class Right:
    """A right model to be spoilt: two tokens a word, a sentence's masked mean mixed into each token."""

    name = "toy"
    sheets: Any = {"token": Sheet.grid(2, 2), "context": Sheet.none(4)}  # noqa: RUF012

    def tokens(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        rows = [[(w, len(word), half) for w, word in enumerate(text.split()) for half in (0, 1)] for text in texts]
        longest = max(map(len, rows)) + 1  # one special token at the start
        word = np.full((len(rows), longest), -1)
        values = np.zeros((len(rows), longest, 4), dtype=np.float32)
        for i, row in enumerate(rows):
            for j, (w, length, half) in enumerate(row):
                word[i, j + 1] = w
                values[i, j + 1] = (length, half, w, 1)
        return values, word

    def context(self, values: np.ndarray, word: np.ndarray) -> np.ndarray:
        inside = (word >= 0)[:, :, None]
        mean = (values * inside).sum(axis=1, keepdims=True) / np.maximum(inside.sum(axis=1, keepdims=True), 1)
        return np.asarray(np.tanh(values / 4 + mean), dtype=np.float32)

    def wanted(self, layers: Sequence[str]) -> Sequence[str]:
        for layer in layers:
            if layer not in self.sheets:
                raise unknown("layer", layer, self.sheets)
        return layers

    def record(self, stimuli: Sequence[Any], layers: Sequence[str]) -> Recording:
        values, word = self.tokens(stimuli)
        found = {"token": values, "context": self.context(values, word)}
        return Recording({layer: found[layer] for layer in self.wanted(layers)}, word)


def failed(model: Any, stimuli: Sequence[Any] | None = None) -> set[str]:
    report = check_model(model, stimuli, raises=False)
    assert set(report.passed) | set(report.failed) == set(ALL)
    assert report.ok == (not report.failed)
    return set(report.failed)


def test_a_right_model_passes_every_check() -> None:
    report = check_model(Right())
    assert report.passed == ALL
    assert report.ok
    assert str(report) == "toy: 9 checks passed, 0 failed"
    assert report.to_frame()["ok"].all()


def test_the_mean_over_padding_is_caught() -> None:
    class Leaky(Right):
        def context(self, values: np.ndarray, word: np.ndarray) -> np.ndarray:
            return np.asarray(np.tanh(values / 4 + values.mean(axis=1, keepdims=True)), dtype=np.float32)

    assert failed(Leaky()) == {"same alone and in a batch"}
    report = check_model(Leaky(), raises=False)
    assert "padding leaks" in report.failed["same alone and in a batch"]
    assert "'context'" in report.failed["same alone and in a batch"]


def test_a_small_leak_is_caught() -> None:
    class Leaky(Right):
        def context(self, values: np.ndarray, word: np.ndarray) -> np.ndarray:
            return super().context(values, word) + np.float32(1e-3 * (word < 0).sum(axis=1))[:, None, None]

    assert failed(Leaky()) == {"same alone and in a batch"}


def test_subtracting_the_mean_of_the_batch_is_caught() -> None:
    class Dependent(Right):
        def context(self, values: np.ndarray, word: np.ndarray) -> np.ndarray:
            right = super().context(values, word)
            return right - right[:, 1:2].mean(axis=0, keepdims=True)

    assert failed(Dependent()) == {"same alone and in a batch"}


def test_batch_normalisation_left_in_training_mode_is_caught() -> None:
    class Normalising(Right):
        norm = torch.nn.BatchNorm1d(4).train()

        def context(self, values: np.ndarray, word: np.ndarray) -> np.ndarray:
            right = torch.from_numpy(super().context(values, word))
            with torch.no_grad():
                return np.asarray(self.norm(right.flatten(0, 1)).reshape(right.shape))

    assert "same alone and in a batch" in failed(Normalising())


def test_a_value_that_depends_on_the_place_in_the_batch_is_caught() -> None:
    class Placed(Right):
        def context(self, values: np.ndarray, word: np.ndarray) -> np.ndarray:
            right = super().context(values, word)
            right[1:] += 0.1 * (len(right) == len(TEXTS))
            return right

    report = check_model(Placed(), raises=False)
    assert set(report.failed) == {"same alone and in a batch"}


def test_dropout_left_on_is_caught() -> None:
    class Dropping(Right):
        def context(self, values: np.ndarray, word: np.ndarray) -> np.ndarray:
            right = torch.from_numpy(super().context(values, word))
            return np.asarray(torch.nn.functional.dropout(right, 0.1, training=True))

    assert {"deterministic", "global random state untouched"} <= failed(Dropping())


def test_a_difference_between_identical_calls_is_caught() -> None:
    class Drifting(Right):
        calls = 0

        def context(self, values: np.ndarray, word: np.ndarray) -> np.ndarray:
            self.calls += 1
            return super().context(values, word) + np.float32(self.calls * 1e-6)

    assert failed(Drifting()) == {"deterministic"}


@pytest.mark.parametrize("generator", ["python", "numpy", "torch"])
def test_a_global_generator_that_moves_is_caught(generator: str) -> None:
    class Drawing(Right):
        def record(self, stimuli: Sequence[Any], layers: Sequence[str]) -> Recording:
            {"python": random.random, "numpy": np.random.rand, "torch": lambda: torch.rand(1)}[generator]()
            return super().record(stimuli, layers)

    report = check_model(Drawing(), raises=False)
    assert set(report.failed) == {"global random state untouched"}
    assert generator.capitalize() in report.failed["global random state untouched"].title()


def test_checking_a_model_leaves_the_global_generators_alone() -> None:
    before = random.getstate(), str(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
    check_model(Right())
    assert random.getstate() == before[0]
    assert str(np.random.get_state()) == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


class OffByOne(Right):
    def tokens(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        values, word = super().tokens(texts)
        return values, np.where(word >= 0, word + 1, -1)


class TokensForWords(Right):
    def tokens(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        values, word = super().tokens(texts)
        return values, np.where(word >= 0, np.arange(word.shape[1]) - 1, -1)


class Backwards(Right):
    def tokens(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        values, word = super().tokens(texts)
        return values, np.where(word >= 0, word.max(axis=1, keepdims=True) - word, -1)


class BelowMinusOne(Right):
    def tokens(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        values, word = super().tokens(texts)
        return values, np.where(word >= 0, word, -100)


class NoWord(Right):
    def tokens(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        values, word = super().tokens(texts)
        return values, np.full_like(word, -1)


class LastWordLost(Right):
    def tokens(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        values, word = super().tokens(texts)
        return values, np.where(word == word.max(axis=1, keepdims=True), -1, word)


@pytest.mark.parametrize("model", [OffByOne, TokensForWords, Backwards, BelowMinusOne, NoWord, LastWordLost])
def test_wrong_word_numbers_are_caught(model: type[Right]) -> None:
    assert "word numbers" in failed(model())


def test_padding_marked_as_the_last_word_is_caught() -> None:
    class Marked(Right):
        def tokens(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
            values, word = super().tokens(texts)
            marked = np.where(word < 0, word.max(axis=1, keepdims=True), word)
            marked[:, 0] = -1
            return values, marked

    assert "same alone and in a batch" in failed(Marked())


def test_padding_marked_as_a_word_of_its_own_is_caught() -> None:
    class Marked(Right):
        def tokens(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
            values, word = super().tokens(texts)
            marked = np.where(word < 0, word.max(axis=1, keepdims=True) + 1, word)
            marked[:, 0] = -1
            return values, marked

    assert "word numbers" in failed(Marked())


def test_a_sheet_with_another_number_of_places_is_caught() -> None:
    class Misfit(Right):
        sheets = {"token": Sheet.grid(2, 3), "context": Sheet.none(4)}  # noqa: RUF012

    report = check_model(Misfit(), raises=False)
    assert {"sheets fit", "shapes"} <= set(report.failed)
    assert report.failed["sheets fit"] == "layer 'token' has 4 units, its sheet 6 places"


@pytest.mark.parametrize("sheets", [{}, {"token": (2, 2)}, ["token"]], ids=str)
def test_sheets_of_another_kind_are_caught(sheets: Any) -> None:
    class Odd(Right):
        pass

    Odd.sheets = sheets
    assert "sheets fit" in failed(Odd())


def test_a_layer_that_is_not_recorded_is_caught() -> None:
    class Forgetful(Right):
        def record(self, stimuli: Sequence[Any], layers: Sequence[str]) -> Recording:
            return super().record(stimuli, [layer for layer in layers if layer != "context"])

    assert "sheets fit" in failed(Forgetful())


def test_rows_that_do_not_match_the_stimuli_are_caught() -> None:
    class Losing(Right):
        def record(self, stimuli: Sequence[Any], layers: Sequence[str]) -> Recording:
            return super().record(stimuli[:1], layers)

    assert "shapes" in failed(Losing())


def test_double_precision_is_caught() -> None:
    class Double(Right):
        def context(self, values: np.ndarray, word: np.ndarray) -> np.ndarray:
            return super().context(values, word).astype(np.float64)

    report = check_model(Double(), raises=False)
    assert set(report.failed) == {"float32 and finite"}
    assert report.failed["float32 and finite"] == "layer 'context' is float64, expected float32"


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_caught(bad: float) -> None:
    class Bad(Right):
        def context(self, values: np.ndarray, word: np.ndarray) -> np.ndarray:
            right = super().context(values, word)
            right[:, 1, 0] = bad
            return right

    assert "float32 and finite" in failed(Bad())


def test_an_unknown_layer_that_is_accepted_is_caught() -> None:
    class Accepting(Right):
        def wanted(self, layers: Sequence[str]) -> Sequence[str]:
            return [layer for layer in layers if layer in self.sheets]

    assert failed(Accepting()) == {"unknown layer named"}


def test_an_unknown_layer_must_be_named_in_the_error() -> None:
    class Silent(Right):
        def wanted(self, layers: Sequence[str]) -> Sequence[str]:
            if any(layer not in self.sheets for layer in layers):
                raise ValueError("no")
            return layers

    class Naming(Right):
        def wanted(self, layers: Sequence[str]) -> Sequence[str]:
            return layers  # the dictionary's KeyError names the layer

    assert failed(Silent()) == {"unknown layer named"}
    assert failed(Naming()) == set()


def test_a_model_that_always_records_everything_is_caught() -> None:
    class Generous(Right):
        def record(self, stimuli: Sequence[Any], layers: Sequence[str]) -> Recording:
            self.wanted(layers)
            return super().record(stimuli, list(self.sheets))

    assert failed(Generous()) == {"one layer alone"}


def test_a_model_that_crashes_is_a_finding_not_a_crash() -> None:
    class Crashing(Right):
        def context(self, values: np.ndarray, word: np.ndarray) -> np.ndarray:
            raise ZeroDivisionError("oh")

    report = check_model(Crashing(), raises=False)
    assert report.failed["shapes"] == "ZeroDivisionError: oh"


def test_failures_raise_and_name_each_check() -> None:
    with pytest.raises(InputError, match=r"(?s)toy: .* failed.*word numbers: .*has 3 words, its tokens carry"):
        check_model(OffByOne())


def test_what_is_no_model_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="object has no name, sheets, record"):
        check_model(object())  # type: ignore[arg-type]


def test_one_stimulus_is_not_enough() -> None:
    with pytest.raises(InputError, match="at least two stimuli"):
        check_model(Right(), ["one"])


class Seeing:
    name = "seeing"
    sheets = {"pixel": Sheet.grid(1, 3)}  # noqa: RUF012
    last_word = 0

    def record(self, stimuli: Sequence[Any], layers: Sequence[str]) -> Recording:
        values = np.stack([image.mean(axis=(0, 1)) for image in stimuli])[:, None].astype(np.float32)
        found = {"pixel": values}
        return Recording({layer: found[layer] for layer in layers}, np.full((len(stimuli), 1), self.last_word))


def test_an_image_model_passes_and_its_only_word_is_0() -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8))
    assert failed(Seeing(), images) == set()
    wrong = Seeing()
    wrong.last_word = 1
    assert failed(wrong, images) == {"word numbers"}
