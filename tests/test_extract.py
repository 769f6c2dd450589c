from __future__ import annotations

import errno
import importlib
import itertools
import os
import signal
import subprocess
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import topobrain as tb
from topobrain import Activations, Recording, Sheet, StimulusSet, load_result
from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.extract import extract
from topobrain.models.torch_model import Encoded, TorchModel

room = importlib.import_module("topobrain.extract")
LAYERS = {"embed": Sheet.grid(2, 3), "mix": Sheet.for_width(10), "poison": Sheet.none(10)}


class Poison(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask[:, :, None], states, self.value)


class Net(nn.Module):
    """Embeds pieces of words, mixes in the sentence's masked mean, and fills padding with poison."""

    def __init__(self, poison: float = float("nan"), width: int = 10) -> None:
        super().__init__()
        self.embed, self.mix, self.poison = nn.Embedding(50, 6), nn.Linear(6, width), Poison(poison)
        self.register_buffer("shift", torch.zeros(6))

    def forward(self, ids: Tensor, mask: Tensor, content: Tensor) -> Tensor:
        states = self.embed(ids) + self.shift
        inside = mask[:, :, None]
        mean = torch.where(inside, states, 0.0).sum(dim=1, keepdim=True) / inside.sum(dim=1, keepdim=True)
        return torch.as_tensor(self.poison(torch.tanh(self.mix(states + mean)), content))


class Pieces:
    """Cuts words into pieces, puts special tokens (word -1) at both ends, pads on the right."""

    def __init__(self, size: int = 3) -> None:
        self.size = size

    def __call__(self, texts: Sequence[Any]) -> Encoded:
        rows = []
        for text in texts:
            row = [(1, -1)]
            for number, word in enumerate(text.split()):
                for start in range(0, len(word), self.size):
                    row.append((3 + sum(map(ord, word[start : start + self.size])) % 47, number))
            rows.append([*row, (2, -1)])
        longest = max(map(len, rows))
        ids, word = torch.zeros(len(rows), longest, dtype=torch.int64), np.full((len(rows), longest), -1)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor([token for token, _ in row])
            word[i, : len(row)] = [number for _, number in row]
            mask[i, : len(row)] = True
        # poison falls on special tokens too: only tokens of words may enter what is pooled
        return Encoded({"ids": ids, "mask": mask, "content": torch.from_numpy(word >= 0)}, word)


class Counted(TorchModel):
    """Remembers the batches it recorded; can fail at one of them, or wait in each."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.batches: list[tuple[str, ...]] = []
        self.fail_at: dict[int, BaseException] = {}
        self.wait_s = 0.0

    def record(self, stimuli: Sequence[Any], layers: Sequence[str]) -> Recording:
        self.batches.append(tuple(stimuli))
        if len(self.batches) in self.fail_at:
            raise self.fail_at[len(self.batches)]
        time.sleep(self.wait_s)
        return super().record(stimuli, layers)


def build(
    poison: float = float("nan"), *, encode: Any = None, name: str = "toy", sheets: Any = None, width: int = 10
) -> Counted:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Net(poison, width)
    return Counted(name, module, encode or Pieces(), sheets or LAYERS, device="cpu")


def sentences(n: int = 23, **options: Any) -> StimulusSet:
    rng = np.random.default_rng(1)
    words = ["dog", "elephant", "a", "unbelievably", "runs", "over", "it", "garden"]
    items = [" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(n)]
    table = {"condition": ["ab"[i % 2] for i in range(n)], "score": np.linspace(0, 1, n)}
    return StimulusSet(items, table, **{"name": "toy sentences", **options})


def by_hand(model: TorchModel, stimuli: StimulusSet, layers: Sequence[str], pooling: str) -> np.ndarray:
    """Pool one sentence at a time with plain loops."""
    rows = []
    for item in stimuli.items:
        recording = TorchModel.record(model, [item], layers)
        word = recording.word[0]
        tokens = [t for t in range(len(word)) if word[t] >= 0]
        groups = {
            "mean": [tokens],
            "last": [tokens[-1:]],
            "word": [[t for t in tokens if word[t] == w] for w in sorted({int(word[t]) for t in tokens})],
            "none": [[t] for t in tokens],
        }[pooling]
        for group in groups:
            parts = []
            for layer in layers:
                values = np.asarray(recording.values[layer])[0].astype(np.float64)
                parts.append(sum(values[t] for t in group) / len(group))
            rows.append(np.concatenate(parts))
    return np.array(rows)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own; returns the folder that activations go to."""
    monkeypatch.setenv("TOPOBRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "activations"


def files(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.nc")) if cache.is_dir() else []


def litter(cache: Path) -> list[str]:
    """What should not stay behind: anything but finished results and locks."""
    return [str(p) for p in cache.rglob("*") if p.suffix not in (".nc", ".lock") or p.name.startswith(".")]


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "last", "word", "none"])
@pytest.mark.slow
def test_pooling_equals_a_plain_loop_over_single_sentences(pooling: Any, cached: bool, cache: Path) -> None:
    model, stimuli = build(), sentences()
    found = extract(model, stimuli, pooling=pooling, batch_tokens=40, cache=cached)
    expected = by_hand(model, stimuli, list(LAYERS), pooling)
    value = found.data["value"].values
    assert value.dtype == np.float32
    assert value.shape == expected.shape
    np.testing.assert_allclose(value, expected, rtol=0, atol=2e-6)
    assert len({len(batch) for batch in model.batches}) > 1  # it did run in batches


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e9])
@pytest.mark.parametrize("pooling", ["mean", "last", "word", "none"])
def test_padding_and_special_tokens_never_enter(poison: float, pooling: Any) -> None:
    model, stimuli = build(poison), sentences()
    found = extract(model, stimuli, pooling=pooling, cache=False)
    clean = extract(build(0.0), stimuli, pooling=pooling, cache=False)
    np.testing.assert_array_equal(found.values("poison"), clean.values("poison"))


def test_rows_keep_the_order_and_labels_of_the_stimuli(cache: Path) -> None:
    stimuli = sentences().take([5, 3, 22, 0, 1, 9, 8])
    for cached in (True, False):
        found = extract(build(), stimuli, batch_tokens=12, cache=cached)
        assert found.labels("stimulus").tolist() == stimuli.ids
        assert found.labels("text").tolist() == list(stimuli.items)
        assert found.labels("condition").tolist() == list(stimuli.column("condition"))
        np.testing.assert_array_equal(found.data["score"].values, stimuli.column("score"))
        whole = extract(build(), sentences(), cache=False)
        np.testing.assert_allclose(
            found.data["value"].values, whole.data["value"].values[[5, 3, 22, 0, 1, 9, 8]], atol=2e-6
        )


@pytest.mark.parametrize("pooling", ["word", "none"])
def test_rows_of_words_and_tokens_say_where_they_come_from(pooling: Any) -> None:
    stimuli = StimulusSet(["a dog", "unbelievably"], {"stimulus": ["x", "y"], "condition": ["one", "two"]})
    found = extract(build(), stimuli, pooling=pooling, cache=False)
    n_pieces = 4 if pooling == "none" else 1
    assert found.labels("stimulus").tolist() == ["x/0", "x/1", *(f"y/{i}" for i in range(n_pieces))]
    assert found.labels("sentence").tolist() == ["x", "x"] + ["y"] * n_pieces
    assert found.labels("condition").tolist() == ["one", "one"] + ["two"] * n_pieces
    assert found.data["word"].values.tolist() == [0, 1] + [0] * n_pieces


@pytest.mark.parametrize("pooling", ["mean", "word"])
@pytest.mark.parametrize("batch_tokens", [1, 7, 100, 10**6])
def test_the_size_of_batches_does_not_matter(batch_tokens: int, pooling: Any) -> None:
    model = build()
    found = extract(model, sentences(), batch_tokens=batch_tokens, pooling=pooling, cache=False)
    whole = extract(build(), sentences(), batch_tokens=50, pooling=pooling, cache=False)
    np.testing.assert_allclose(found.data["value"].values, whole.data["value"].values, rtol=0, atol=1e-5)
    assert (batch_tokens == 1) == all(len(batch) == 1 for batch in model.batches)
    assert sum(len(batch) for batch in model.batches) == 23
    assert (batch_tokens == 10**6) == (len(model.batches) < 3)


@pytest.mark.parametrize("overhead", [0, 5, 40, 1000])
@pytest.mark.parametrize("batch_tokens", [12, 60, 10**6])
def test_batches_are_cut_where_least_is_computed(batch_tokens: int, overhead: int) -> None:
    rng = np.random.default_rng(overhead + batch_tokens)
    lengths = np.sort(rng.choice([2, 3, 7, 8, 20], 40))
    cuts = room.batch_cuts(lengths, batch_tokens, overhead)
    batches = np.split(lengths, cuts)
    assert all(len(batch) for batch in batches)
    assert all(len(batch) * batch[-1] <= batch_tokens or len(batch) == 1 for batch in batches)
    # every way of merging the five distinct lengths into runs, runs in as many parts as the limit makes necessary
    distinct, count = np.unique(lengths, return_counts=True)
    costs = []
    for chosen in itertools.product([False, True], repeat=4):
        edges = [0, *(i + 1 for i in range(4) if chosen[i]), 5]
        n_longest = [(int(count[a:b].sum()), int(distinct[b - 1])) for a, b in itertools.pairwise(edges)]
        costs.append(sum(n * top + overhead * -(-n // max(batch_tokens // top, 1)) for n, top in n_longest))
    assert sum(len(batch) * batch[-1] for batch in batches) + overhead * len(batches) <= min(costs)


def test_an_accelerator_gets_fuller_batches_than_a_cpu() -> None:
    class Elsewhere:
        device = "cuda"

        def __init__(self, inner: Counted) -> None:
            self.name, self.sheets, self.survey, self.record = inner.name, inner.sheets, inner.survey, inner.record

    here, there = build(), build()
    expected = extract(here, sentences(60), batch_tokens=1000, cache=False)
    found = extract(Elsewhere(there), sentences(60), batch_tokens=1000, cache=False)
    assert len(there.batches) < len(here.batches)
    np.testing.assert_allclose(found.data["value"].values, expected.data["value"].values, rtol=0, atol=1e-5)


def test_a_cpu_gets_no_batch_that_is_slow_for_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "CPU_BATCH_TOKENS", 90)
    model = build()
    extract(model, sentences(60), batch_tokens=10**6, cache=False)
    assert max(sum(model.survey(batch).lengths) for batch in model.batches) <= 90


def test_batches_hold_stimuli_of_about_equal_length_and_no_more_tokens_than_asked() -> None:
    model, stimuli = build(), sentences(60)
    extract(model, stimuli, batch_tokens=60, cache=False)
    sizes = [(len(batch), [int(n) for n in model.survey(batch).lengths]) for batch in model.batches]
    assert sum(n for n, _ in sizes) == 60
    assert all(n * max(lengths) <= 60 for n, lengths in sizes)
    assert all(max(a) <= min(b) for (_, a), (_, b) in itertools.pairwise(sizes))


def test_the_order_of_stimuli_does_not_matter() -> None:
    stimuli = sentences()
    back = list(reversed(range(len(stimuli))))
    forwards = extract(build(), stimuli, cache=False).data["value"].values
    backwards = extract(build(), stimuli.take(back), cache=False).data["value"].values
    np.testing.assert_allclose(forwards[back], backwards, rtol=0, atol=1e-5)


def test_images_have_one_row_each() -> None:
    class Eye:
        name, sheets = "eye", {"pixel": Sheet.grid(1, 3)}

        def record(self, stimuli: Sequence[Any], layers: Sequence[str]) -> Recording:
            values = np.stack([image.mean(axis=(0, 1)) for image in stimuli])[:, None].astype(np.float32)
            return Recording({"pixel": values}, np.zeros((len(stimuli), 1), dtype=int))

    images = list(np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8))
    found = extract(Eye(), StimulusSet(images))
    np.testing.assert_allclose(found.values("pixel"), [image.mean(axis=(0, 1)) for image in images], rtol=1e-6)


def test_bf16_is_recorded_and_close_to_float32() -> None:
    stimuli = sentences(60)
    full = extract(build(width=10), stimuli, cache=False)
    low = extract(build(width=10), stimuli, precision="bf16", cache=False)
    assert low.provenance["extraction"]["precision"] == "bf16"
    assert low.data["value"].dtype == np.float32
    a, b = full.values("mix"), low.values("mix")
    assert np.abs(a - b).max() > 1e-5  # it did run in bfloat16
    correlation = [np.corrcoef(a[:, unit], b[:, unit])[0, 1] for unit in range(a.shape[1])]
    assert min(correlation) > 0.99


@pytest.mark.parametrize(("capability", "warned"), [("AVX2", True), ("AVX512", False)])
def test_a_cpu_without_bfloat16_is_warned_of(capability: str, warned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        extract(build(), sentences(4), precision="bf16", cache=False)
        extract(build(), sentences(4), cache=False)
    assert [w.filename for w in caught if "imitates it" in str(w.message)] == ([__file__] if warned else [])


# --- what is asked for -----------------------------------------------------------------------------------------------


def test_layers_come_in_the_order_asked_for() -> None:
    found = extract(build(), sentences(), layers=["mix", "embed"], cache=False)
    assert found.layers == ["mix", "embed"]
    every = extract(build(), sentences(), layers="all", cache=False)
    assert every.layers == list(LAYERS)
    for layer in ("embed", "mix"):
        np.testing.assert_array_equal(found.values(layer), every.values(layer))
        assert found.sheet(layer) == LAYERS[layer]
    assert extract(build(), sentences(), layers="mix", cache=False).layers == ["mix"]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"layers": ["embedd"]}, UnknownNameError, r"'embedd'\. Did you mean 'embed'.*in model 'toy'"),
        ({"layers": ["embed", "embed"]}, InputError, "asked for twice"),
        ({"layers": []}, InputError, "no layer was asked for"),
        ({"pooling": "means"}, UnknownNameError, "unknown pooling 'means'. Did you mean 'mean'"),
        ({"precision": "fp16"}, UnknownNameError, "Known: float32, bf16"),
        ({"batch_tokens": 0}, InputError, "batch_tokens must be 1 or more, got 0"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    model = build()
    with pytest.raises(kind, match=message):
        extract(model, sentences(), **options)
    assert not model.batches


def test_an_empty_sentence_is_refused() -> None:
    with pytest.raises(InputError, match="stimulus 1 is empty"):
        StimulusSet(["a dog", " "])


def test_a_stimulus_without_any_word_token_is_named() -> None:
    class Dropping(Pieces):
        def __call__(self, texts: Sequence[Any]) -> Encoded:
            inputs, word = super().__call__(texts)
            return Encoded(inputs, np.where([[t == "the cat"] for t in texts], -1, word))

    with pytest.raises(InputError, match="no token of a word for stimulus 's0001'"):
        extract(build(encode=Dropping()), StimulusSet(["a dog", "the cat"]), cache=False)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_activations_that_are_not_finite_are_named(bad: float, cache: Path) -> None:
    class Failing(nn.Module):
        def forward(self, states: Tensor, mask: Tensor) -> Tensor:
            states = torch.where(mask[:, :, None], states, 0.0)
            states[states.abs().sum((1, 2)).argmax(), 1, 7] = bad
            return states

    for cached in (True, False):
        model = build()
        model.module.poison = Failing()
        with pytest.raises(InputError, match=r"layer 'poison' of 'toy' is -?(nan|inf) for stimulus 's00\d\d'"):
            extract(model, sentences(), cache=cached)
    assert not files(cache)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: _rows(r, 1), "recorded 1 stimuli of a batch"),
        (lambda r: Recording({"embed": r.values["embed"]}, r.word), "did not record layer 'mix'"),
        (lambda r: Recording({**r.values, "mix": r.values["mix"][:, :, :3]}, r.word), "has 3 units, its sheet 10"),
    ],
)
def test_a_model_that_breaks_its_contract_is_named(spoil: Callable[[Recording], Recording], message: str) -> None:
    class Spoilt(Counted):
        def record(self, stimuli: Sequence[Any], layers: Sequence[str]) -> Recording:
            return spoil(super().record(stimuli, layers))

    model = build()
    model.__class__ = Spoilt
    with pytest.raises(InputError, match=message):
        extract(model, sentences(), cache=False)


def _rows(recording: Recording, n: int) -> Recording:
    return Recording({layer: array[:n] for layer, array in recording.values.items()}, recording.word[:n])


def test_running_out_of_memory_says_what_to_lower() -> None:
    model = build()
    model.fail_at[1] = torch.OutOfMemoryError("no room")
    with pytest.raises(
        InputError, match=r"out of memory with a batch of [0-9]+ stimuli .*smaller batch_tokens \(now 2048\)"
    ):
        extract(model, sentences(), cache=False)


def test_provenance_keeps_every_option_and_hash() -> None:
    model, stimuli = build(), sentences(provenance={"simulated": True})
    fields = extract(model, stimuli, layers=["mix"], pooling="last", batch_tokens=99, cache=False).provenance
    assert fields["extraction"] == {
        "layers": ["mix"], "pooling": "last", "max_tokens": None, "precision": "float32", "batch_tokens": 99, "device": "cpu",
    }  # fmt: skip
    assert fields["model"] == {"name": "toy", "weights_sha256": model.weights_hash()}
    assert fields["stimuli"]["sha256"] == stimuli.digest()
    assert fields["stimuli"]["simulated"]
    assert fields["versions"]["torch"] == torch.__version__


def test_progress_counts_stimuli_with_and_without_cache(cache: Path) -> None:
    for cached in (False, True):
        seen: list[tuple[int, int]] = []
        extract(build(), sentences(), batch_tokens=30, cache=cached, progress=lambda *now, seen=seen: seen.append(now))
        assert seen[-1] == (23, 23)
        assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_the_global_generators_are_left_alone(cache: Path) -> None:
    before = str(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
    extract(build(), sentences())
    assert str(np.random.get_state()) == before[0]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


def test_the_public_name_is_the_function_whatever_was_imported_before() -> None:
    importlib.import_module("topobrain.topography")
    assert tb.extract is extract
    assert callable(tb.topography)


# --- the cache -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "word"])
@pytest.mark.slow
def test_the_second_call_does_not_run_the_model(pooling: Any, cache: Path) -> None:
    first = extract(build(), sentences(), pooling=pooling)
    model = build()
    second = extract(model, sentences(), pooling=pooling)
    assert model.batches == []
    np.testing.assert_array_equal(first.data["value"].values, second.data["value"].values)
    fresh = extract(build(), sentences(), pooling=pooling, cache=False)
    np.testing.assert_array_equal(second.data["value"].values, fresh.data["value"].values)
    assert set(second.data.coords) == set(fresh.data.coords)
    for name in fresh.data.coords:
        np.testing.assert_array_equal(second.data[name].values, fresh.data[name].values)
    assert second.provenance == fresh.provenance
    assert second.sheets == fresh.sheets
    assert len(files(cache)) == 1
    assert not litter(cache)


def test_a_cached_result_can_be_saved_and_read_again(cache: Path, tmp_path: Path) -> None:
    found = extract(build(), sentences())
    again = load_result(found.save(tmp_path / "kept.nc"))
    assert isinstance(again, Activations)
    np.testing.assert_array_equal(again.values("mix"), found.values("mix"))


def test_cache_false_neither_reads_nor_writes(cache: Path) -> None:
    extract(build(), sentences(), cache=False)
    assert not cache.exists()
    extract(build(), sentences())
    model = build()
    extract(model, sentences(), cache=False)
    assert model.batches


def changed(stimuli: StimulusSet, **columns: Any) -> StimulusSet:
    table = stimuli.table.reset_index().assign(**columns)
    return StimulusSet(stimuli.items, table, name=stimuli.name, provenance=stimuli.provenance)


def weights(model: Any) -> None:
    with torch.no_grad():
        model.module.mix.weight[0, 0] += 1e-3


def code(model: Any) -> None:
    class Other(Net):
        def forward(self, ids: Tensor, mask: Tensor, content: Tensor) -> Tensor:
            return super().forward(ids, mask, content)

    model.module.__class__ = Other


ITEMS = sentences().items
VARIANTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "layers": lambda m: {"layers": ["mix"]},
    "order of layers": lambda m: {"layers": ["poison", "mix", "embed"]},
    "pooling": lambda m: {"pooling": "last"},
    "precision": lambda m: {"precision": "bf16"},
    "batch_tokens": lambda m: {"batch_tokens": 2047},
    "weights": weights,  # type: ignore[dict-item]
    "buffers": lambda m: m.module.shift.add_(0.1) is None or {},
    "plain attribute": lambda m: setattr(m.module.poison, "value", 1.0) or {},
    "code": code,  # type: ignore[dict-item]
    "model name": lambda m: setattr(m, "name", "another") or {},
    "model provenance": lambda m: m.provenance.update(trained_on="something else") or {},
    "tokenizer": lambda m: setattr(m, "encode", Pieces(4)) or {},
    "sheets": lambda m: m.sheets.update(mix=Sheet.grid(5, 2)) or {},
    "text": lambda m: {"stimuli": StimulusSet([*ITEMS[:-1], "dog"], sentences().table, name="toy sentences")},
    "order of stimuli": lambda m: {"stimuli": sentences().take(range(22, -1, -1))},
    "identifiers": lambda m: {"stimuli": changed(sentences(), stimulus=[f"t{i}" for i in range(23)])},
    "table column": lambda m: {"stimuli": changed(sentences(), condition="c")},
    "small change of a table column": lambda m: {"stimuli": changed(sentences(), score=np.linspace(0, 1, 23) + 1e-14)},
    "type of a table column": lambda m: {
        "stimuli": changed(sentences(), score=[str(x) for x in np.linspace(0, 1, 23)])
    },
    "new table column": lambda m: {"stimuli": changed(sentences(), extra=1)},
    "name of the set": lambda m: {"stimuli": sentences(name="another")},
    "provenance of the set": lambda m: {"stimuli": sentences(provenance={"simulated": True})},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.slow
def test_no_entry_is_shared_when_this_changes(variant: str, cache: Path) -> None:
    extract(build(), sentences())
    assert len(files(cache)) == 1
    model = build()
    options = VARIANTS[variant](model) or {}
    stimuli = options.pop("stimuli", sentences())
    found = extract(model, stimuli, **options)
    assert model.batches
    assert len(files(cache)) == 2
    assert found.labels("stimulus").tolist()[: len(stimuli.ids)] == stimuli.ids
    again = build()
    VARIANTS[variant](again)
    extract(again, stimuli, **options)
    assert not again.batches


def test_what_does_not_change_the_numbers_shares_the_entry(cache: Path) -> None:
    extract(build(), sentences())
    model = build()
    model.module.train()
    found = extract(model, StimulusSet(ITEMS, pd.DataFrame(sentences().table), name="toy sentences"), progress=print)
    assert not model.batches
    assert found.layers == list(LAYERS)


def test_a_model_without_survey_or_hash_is_not_cached(cache: Path) -> None:
    inner = build()

    class Bare:
        name, sheets = "bare", LAYERS

        def record(self, stimuli: Sequence[Any], layers: Sequence[str]) -> Recording:
            return inner.record(stimuli, layers)

    class Half(Bare):
        def weights_hash(self) -> str:
            return "same"

    for model in (Bare(), Half()):
        for _ in range(2):
            n = len(inner.batches)
            found = extract(model, sentences())
            assert len(inner.batches) > n
        np.testing.assert_allclose(
            found.data["value"].values, by_hand(inner, sentences(), list(LAYERS), "mean"), rtol=0, atol=2e-6
        )
    assert not files(cache)


def test_one_layer_is_read_without_the_others(cache: Path) -> None:
    found = extract(build(), sentences())
    assert not found.data["value"]._in_memory
    np.testing.assert_allclose(found.values("mix"), by_hand(build(), sentences(), ["mix"], "mean"), rtol=0, atol=2e-6)
    assert not found.data["value"]._in_memory


def test_only_what_is_cached_costs_readings_beside_the_batches(cache: Path) -> None:
    for cached, extra in ((False, 0), (True, 2)):
        model = build()
        readings: list[int] = []
        model.module.register_forward_hook(lambda module, args, output, readings=readings: readings.append(len(output)))
        extract(model, sentences(), cache=cached)
        assert len(readings) == len(model.batches) + extra
        assert sum(readings) == 23 + extra


def test_a_cached_result_is_opened_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    def counted(path: Path, **options: Any) -> Any:
        opened.append(path)
        return load_result(path, **options)

    expected = extract(build(), sentences()).data["value"].values
    monkeypatch.setattr(room, "load_result", counted)
    np.testing.assert_array_equal(extract(build(), sentences()).data["value"].values, expected)
    assert opened == files(cache)


@pytest.mark.parametrize("cached", [True, False])
def test_weights_that_come_with_the_first_reading_are_hashed(cached: bool, cache: Path) -> None:
    def lazy() -> Counted:
        model = build()
        model.module.mix = nn.LazyLinear(10)
        return model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = lazy()
        found = extract(model, sentences(), cache=cached)
    assert found.provenance["model"]["weights_sha256"] == model.weights_hash()


# --- interruptions ---------------------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_where_it_stopped(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SHARD_BYTES", 1)  # every batch is a piece of its own
    whole = build()
    expected = extract(whole, sentences(), batch_tokens=30, cache=False).data["value"].values
    assert len(whole.batches) > 4
    model = build()
    model.fail_at[3] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        extract(model, sentences(), batch_tokens=30)
    assert not files(cache)
    again = build()
    found = extract(again, sentences(), batch_tokens=30)
    assert again.batches == whole.batches[2:]
    np.testing.assert_array_equal(found.data["value"].values, expected)
    assert not litter(cache)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "word", "none"])
def test_pieces_of_every_size_give_the_same_numbers(pooling: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = extract(build(), sentences(), batch_tokens=30, pooling=pooling, cache=False)
    for n_bytes in (1, 700, 3000):
        monkeypatch.setattr(room, "SHARD_BYTES", n_bytes)
        found = extract(build(), sentences(), batch_tokens=30, pooling=pooling)
        np.testing.assert_array_equal(found.data["value"].values, expected.data["value"].values)
        assert found.labels("stimulus").tolist() == expected.labels("stimulus").tolist()
        del found
        for path in files(cache):
            path.unlink()


def interrupted(batch: int, **options: Any) -> Counted:
    model = build()
    model.fail_at[batch] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        extract(model, sentences(), batch_tokens=30, **options)
    return model


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[200] ^= 0xFF  # in the values, where only a checksum notices
    path.write_bytes(bytes(raw))


def swap(path: Path) -> None:
    path.write_bytes((path.parent / "000001.npz").read_bytes())


@pytest.mark.parametrize("damage", [truncate, empty, flip, swap])
@pytest.mark.slow
def test_a_damaged_piece_is_made_again(
    damage: Callable[[Path], None], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "SHARD_BYTES", 1)
    first = interrupted(4)
    (piece,) = cache.rglob("000000.npz")
    damage(piece)
    again = build()
    found = extract(again, sentences(), batch_tokens=30)
    assert again.batches[0] == first.batches[0]
    assert again.batches[1] == first.batches[3]
    np.testing.assert_allclose(
        found.data["value"].values, by_hand(build(), sentences(), list(LAYERS), "mean"), rtol=0, atol=2e-6
    )


def test_pieces_of_another_size_are_not_mixed_up(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SHARD_BYTES", 1)
    interrupted(5)
    monkeypatch.setattr(room, "SHARD_BYTES", 10**6)
    found = extract(build(), sentences(), batch_tokens=30)
    np.testing.assert_allclose(
        found.data["value"].values, by_hand(build(), sentences(), list(LAYERS), "mean"), rtol=0, atol=2e-6
    )


def test_a_damaged_result_is_made_again(cache: Path) -> None:
    expected = extract(build(), sentences()).data["value"].values
    (path,) = files(cache)
    for damage in (truncate_half, empty):
        damage(path)
        model = build()
        found = extract(model, sentences())
        assert model.batches
        np.testing.assert_array_equal(found.data["value"].values, expected)
        found.data.close()


def truncate_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TOPOBRAIN_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(DataFileError, match=r"cannot write the activation cache in .*TOPOBRAIN_CACHE.*cache=False"):
        extract(build(), sentences())
    assert extract(build(), sentences(), cache=False).layers == list(LAYERS)


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("function", ["os.replace", "numpy.savez", "os.fsync", "h5netcdf.File.create_variable"])
def test_a_full_disk_leaves_nothing_half_written(function: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(function, full)
        with pytest.raises(DataFileError, match=r"No space left on device.*TOPOBRAIN_CACHE"):
            extract(build(), sentences())
    assert not files(cache)
    assert not list(cache.rglob("*.part"))
    model = build()
    found = extract(model, sentences())
    np.testing.assert_allclose(
        found.data["value"].values, by_hand(model, sentences(), list(LAYERS), "mean"), rtol=0, atol=2e-6
    )
    assert not litter(cache)


def test_a_disk_that_fills_up_later_keeps_what_was_done(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SHARD_BYTES", 1)
    replace, calls = os.replace, []

    def fills(*paths: Any) -> None:
        calls.append(paths)
        if len(calls) > 2:
            full()
        replace(*paths)

    first = build()
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fills)
        with pytest.raises(DataFileError, match="What was done so far is kept"):
            extract(first, sentences(), batch_tokens=30)
    again = build()
    extract(again, sentences(), batch_tokens=30)
    assert again.batches[0] == first.batches[2]


def test_an_error_of_the_model_is_not_blamed_on_the_cache(cache: Path) -> None:
    model = build()
    model.fail_at[1] = FileNotFoundError("vocabulary.txt is gone")
    with pytest.raises(FileNotFoundError, match=r"^vocabulary\.txt is gone$"):
        extract(model, sentences())


@pytest.mark.slow
def test_a_set_larger_than_memory_is_held_a_piece_at_a_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = {"mix": Sheet.none(2000)}
    small = StimulusSet(["dog"] * 4)
    extract(build(sheets=wide, width=2000), small).data.close()  # imports and caches are not what is measured
    many = StimulusSet([f"dog {i}" for i in range(1500)])
    whole = 1500 * 2000 * 4
    monkeypatch.setattr(room, "SHARD_BYTES", whole // 24)
    model = build(sheets=wide, width=2000)
    tracemalloc.start()
    try:
        found = extract(model, many, batch_tokens=200)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(model.batches) > 20
    assert peak < whole / 4
    assert found.data["value"].shape == (1500, 2000)
    row = by_hand(model, many.take([777]), ["mix"], "mean")
    np.testing.assert_allclose(found.data["value"][777].values, row[0], rtol=0, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_pieces_are_no_larger_than_the_limit(pooling: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    savez = np.savez

    def measured(stream: Any, **arrays: np.ndarray) -> None:
        sizes.append(arrays["values"].nbytes)
        savez(stream, **arrays)

    monkeypatch.setattr("numpy.savez", measured)
    monkeypatch.setattr(room, "SHARD_BYTES", 8000)
    extract(build(), sentences(200), batch_tokens=24, pooling=pooling)
    assert len(sizes) > 2
    assert max(sizes) <= 8000


# --- processes -------------------------------------------------------------------------------------------------------


def worker(wait_s: str, target: str) -> None:
    """Extract in a process of its own: one batch a piece, a line for each."""
    room.SHARD_BYTES = 1  # type: ignore[attr-defined]
    model = build()
    model.wait_s = float(wait_s)
    print("ready", flush=True)
    found = extract(model, sentences(), batch_tokens=30, progress=lambda *now: print("done", *now, flush=True))
    np.save(target, found.data["value"].values)
    print("recorded", len(model.batches), flush=True)


def start(target: Path, wait_s: float) -> subprocess.Popen[str]:
    program = f"import test_extract; test_extract.worker({str(wait_s)!r}, {str(target)!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment, cwd=Path(__file__).parent
    )


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stopped(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start(tmp_path / "never.npy", 0.3)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("done") and len(list(cache.rglob("0*.npz"))) >= 2:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    assert not files(cache)
    n_pieces = len(list(cache.rglob("0*.npz")))
    assert n_pieces >= 2
    monkeypatch.setattr(room, "SHARD_BYTES", 1)
    whole, model = build(), build()
    expected = extract(whole, sentences(), batch_tokens=30, cache=False)
    found = extract(model, sentences(), batch_tokens=30)
    assert model.batches == whole.batches[n_pieces:]
    np.testing.assert_array_equal(found.data["value"].values, expected.data["value"].values)
    assert len(files(cache)) == 1


@pytest.mark.slow
def test_two_processes_at_once_share_one_result(cache: Path, tmp_path: Path) -> None:
    targets = [tmp_path / f"{i}.npy" for i in range(2)]
    processes = [start(target, 0.1) for target in targets]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    n_batches = len(extract_batches())
    assert sorted(int(out.split()[-1]) for out in outputs) == [0, n_batches]  # one ran the model, one waited for it
    first, second = (np.load(target) for target in targets)
    np.testing.assert_array_equal(first, second)
    assert len(files(cache)) == 1
    assert not litter(cache)


def extract_batches() -> list[tuple[str, ...]]:
    model = build()
    extract(model, sentences(), batch_tokens=30, cache=False)
    return model.batches


@pytest.mark.slow
def test_a_token_limit_equals_shorter_texts_in_a_causal_model_and_tells_what_it_cut(real_data):
    model = tb.load_model("stories260k")
    stimuli = tb.StimulusSet(
        ["the little girl went to the park", "zarbix unglof wenpid toraxil"], {"condition": ["sentence", "nonword"]}
    )
    with pytest.warns(UserWarning, match=r"after 4 tokens.*sentence: 4\.0 tokens, .* words; nonword: 4\.0 tokens"):
        cut = tb.extract(model, stimuli, max_tokens=4, cache=False, layers=["layers.1"])
    whole = tb.extract(model, stimuli, pooling="none", cache=False, layers=["layers.1"])
    for stimulus in stimuli.ids:
        rows = whole.labels("sentence") == stimulus
        np.testing.assert_allclose(
            cut.data["value"].sel(stimulus=stimulus), whole.values("layers.1")[rows][:4].mean(axis=0), atol=1e-5
        )
    assert cut.data["n_tokens_read"].values.tolist() == [4, 4]
    table = tb.extract(model, stimuli, cache=False, layers=["layers.1"]).read_lengths()
    assert table["words"].tolist() == [7, 4]
    assert table.loc[1, "tokens"] > 8


def test_the_token_limit_is_part_of_the_cache_key(real_data, tmp_path, monkeypatch):
    monkeypatch.setenv("TOPOBRAIN_CACHE", str(tmp_path))
    model = tb.load_model("stories260k")
    stimuli = tb.StimulusSet(["one two three four five six", "seven eight nine ten"])
    full = tb.extract(model, stimuli, layers=["layers.0"])
    with pytest.warns(UserWarning, match="cut after 2"):
        cut = tb.extract(model, stimuli, layers=["layers.0"], max_tokens=2)
    assert cut.data["n_tokens_read"].values.tolist() == [2, 2]
    assert full.data["n_tokens_read"].values.min() > 2
