from __future__ import annotations

import functools
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from topobrain import load_model
from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.models.directories import load_directory
from topobrain.models.topoformer import Topoformer
from topobrain.testing import check_model
from topobrain.training import MaskedLM, TinyConfig, TrainingConfig, tiny, train_tiny_pair
from topobrain.training.recipe_run import load_log

CONFIG = TinyConfig(
    vocab_size=320, width=16, ffn_width=24, max_length=64, training=TrainingConfig(steps=20, batch_size=8)
)
NAMES = ["topoformer-tiny", "topoformer-tiny-control"]


def texts(n: int = 1200, **_: Any) -> list[str]:
    words = ["dog", "cat", "bird", "sleeps", "sings", "in", "the", "garden", "old", "a"]
    rng = np.random.default_rng(0)
    return [f"{' '.join(rng.choice(words, 5))} {i}" for i in range(n)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own, and a short corpus in place of the usual one; returns the folder of models."""
    monkeypatch.setenv("TOPOBRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tiny, "load_text", lambda name: texts())
    return tmp_path / "cache" / "models"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pair trained once on the template language."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOPOBRAIN_CACHE", str(tmp_path_factory.mktemp("pair")))
        patch.setattr(tiny, "MAX_TEXTS", 2000)
        patch.setattr(tiny, "load_text", functools.partial(tiny.load_text, n_sentences=3000))
        return train_tiny_pair(CONFIG, device="cpu")


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock")


@pytest.mark.slow
def test_the_pair_is_two_complete_models(pair: dict[str, Path]) -> None:
    assert list(pair) == NAMES
    for name, directory in pair.items():
        assert sorted(p.name for p in directory.iterdir()) == [
            "config.json", "model.safetensors", "tokenizer.json", "training.nc",
        ]  # fmt: skip
        model = load_model(directory)
        assert model.name == name
        assert check_model(model).ok


@pytest.mark.slow
def test_only_the_first_of_the_pair_is_topographic(pair: dict[str, Path]) -> None:
    configs = [load_directory(directory).module.config for directory in pair.values()]
    assert [(c.querying, c.reweighting) for c in configs] == [(0.1, 0.3), (None, None)]  # type: ignore[union-attr]
    topographic, control = configs
    assert replace(topographic, querying=None, reweighting=None) == control  # type: ignore[type-var,arg-type]
    tokenizers = {(directory / "tokenizer.json").read_text() for directory in pair.values()}
    assert len(tokenizers) == 1


@pytest.mark.slow
def test_logs_say_the_texts_are_simulated_and_how_it_was_trained(pair: dict[str, Path]) -> None:
    for name, directory in pair.items():
        log = load_log(directory)
        assert log.simulated
        assert log.provenance["model"]["name"] == name
        assert log.data.sizes["step"] == 20
        assert np.isfinite(log.data["train_loss"].values).all()


@pytest.mark.slow
def test_untrained_weights_are_those_training_started_from(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, torch.Tensor]] = []
    train = tiny.train

    def watched(module: Topoformer, *rest: Any, **options: Any) -> Any:
        started.append({key: value.clone() for key, value in module.state_dict().items()})
        return train(module, *rest, **options)

    monkeypatch.setattr(tiny, "train", watched)
    pair = train_tiny_pair(CONFIG, device="cpu")
    for directory, state in zip(pair.values(), started, strict=True):
        untrained, trained = load_directory(directory, weights="untrained"), load_directory(directory)
        assert untrained.name == f"{trained.name} (untrained)"
        for key, value in untrained.module.state_dict().items():
            assert torch.equal(value, state[key]), key
        assert not torch.equal(trained.module.tokens.weight, state["tokens.weight"])  # type: ignore[union-attr,arg-type]


@pytest.mark.slow
def test_twins_are_trained_on_the_same_data_and_start(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []
    train = tiny.train

    def watched(module: Topoformer, objective: MaskedLM, config: Any, **options: Any) -> Any:
        batches = [objective.batch(np.arange(8), held_out=held_out, seed=1) for held_out in (False, True)]
        seen.append((objective, batches, config, module.config.vocab_size))
        return train(module, objective, config, **options)

    monkeypatch.setattr(tiny, "train", watched)
    pair = train_tiny_pair(CONFIG, device="cpu")
    (objective, batches, *rest), (other, other_batches, *other_rest) = seen
    assert rest == other_rest
    for part in ("texts", "held_out"):
        assert all(torch.equal(a, b) for a, b in zip(getattr(objective, part), getattr(other, part), strict=True))
    for batch, other_batch in zip(batches, other_batches, strict=True):
        assert all(torch.equal(batch[key], other_batch[key]) for key in batch)
    assert objective.rule == other.rule
    assert objective.rule.share == CONFIG.mask_share
    texts, held_out = ({tuple(row) for row in table[0].tolist()} for table in (objective.texts, objective.held_out))
    assert not texts & held_out  # nothing held out is trained on
    assert len({(directory / "tokenizer.json").read_bytes() for directory in pair.values()}) == 1


@pytest.mark.slow
def test_a_trained_pair_is_found_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not tiny.is_trained(CONFIG, True)
    first = train_tiny_pair(CONFIG, device="cpu")
    assert tiny.is_trained(CONFIG, True)
    assert tiny.is_trained(CONFIG, False)
    monkeypatch.setattr(tiny, "_train", None)  # not called again
    assert train_tiny_pair(CONFIG, device="cpu") == first
    assert len(left(cache)) == 2


@pytest.mark.slow
def test_training_twice_gives_the_same_files(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train_tiny_pair(CONFIG, device="cpu")
    monkeypatch.setenv("TOPOBRAIN_CACHE", str(tmp_path / "second"))
    second = train_tiny_pair(CONFIG, device="cpu")
    for name in NAMES:
        for file in ("model.safetensors", "tokenizer.json", "config.json"):
            assert (first[name] / file).read_bytes() == (second[name] / file).read_bytes()


@pytest.mark.parametrize(
    "change",
    [{"width": 25}, {"vocab_size": 321}, {"querying": 0.2}, {"corpus": "brown"}, {"training": TrainingConfig(seed=1)}],
    ids=str,
)
def test_every_part_of_the_recipe_has_its_own_directory(change: dict[str, Any]) -> None:
    changed = replace(CONFIG, **change)
    assert changed.digest() != CONFIG.digest()
    assert tiny.trained_directory(changed, True) != tiny.trained_directory(CONFIG, True)
    assert TinyConfig().digest() == TinyConfig().digest()


def test_real_corpora_are_in_the_name() -> None:
    config = tiny.tiny_for("brown", steps=7)
    assert (config.corpus, config.vocab_size, config.training.steps) == ("brown", 8000, 7)
    assert tiny.model_name(config, True) == "topoformer-tiny-brown"
    assert tiny.model_name(config, False) == "topoformer-tiny-brown-control"


@pytest.mark.slow
def test_an_interrupted_training_leaves_nothing_and_the_next_works(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(name: str, step: int, steps: int, loss: float) -> None:
        if step == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_tiny_pair(CONFIG, device="cpu", progress=stop)
    assert left(cache) == []
    with monkeypatch.context() as patch:

        def fail(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("os.replace", fail)
        with pytest.raises(DataFileError, match="No space left on device"):
            train_tiny_pair(CONFIG, device="cpu")
    assert left(cache) == []
    pair = train_tiny_pair(CONFIG, device="cpu")
    assert left(cache) == sorted(directory.name for directory in pair.values())


@pytest.mark.slow
def test_a_half_written_directory_is_trained_again(cache: Path) -> None:
    half = tiny.trained_directory(CONFIG, True)
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    (cache / f".{half.name}.1.part").mkdir()  # of a process that was killed
    pair = train_tiny_pair(CONFIG, device="cpu")
    assert load_directory(pair[NAMES[0]]).name == NAMES[0]
    assert left(cache) == sorted(directory.name for directory in pair.values())


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TOPOBRAIN_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataFileError, match="cannot keep the trained model in"):
        train_tiny_pair(CONFIG)


@pytest.mark.parametrize("n", [0, 10, 999])
def test_a_corpus_too_short_is_an_error(n: int, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "load_text", lambda name: texts(n))
    with pytest.raises(InputError, match=f"corpus 'simulated-text' has {n} texts, training needs at least 1000"):
        train_tiny_pair(CONFIG)
    assert left(cache) == []


def test_an_unknown_corpus_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(UnknownNameError, match="brwn"):
        tiny.corpus_texts(replace(CONFIG, corpus="brwn"))


def test_repeated_texts_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "load_text", lambda name: texts(1100) * 3)
    given, held_out = tiny.corpus_texts(CONFIG)
    assert len(given) + len(held_out) == 1100
    assert len({*given, *held_out}) == 1100


def test_the_seed_alone_chooses_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "load_text", lambda name: texts())
    other = replace(CONFIG, training=replace(CONFIG.training, seed=1))
    assert tiny.corpus_texts(CONFIG) == tiny.corpus_texts(CONFIG)
    assert tiny.corpus_texts(CONFIG) != tiny.corpus_texts(other)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_the_registered_names_load_the_pair(
    name: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tiny, "TinyConfig", lambda: CONFIG)
    model = load_model(name, device="cpu")
    assert model.name == name
    captured = capsys.readouterr()
    assert f"training {name} (first use only): step 20/20" in captured.err
    assert not captured.out
    untrained: Any = load_model(name, weights="untrained", device="cpu")
    assert untrained.name == f"{name} (untrained)"
    assert untrained.weights_hash() != model.weights_hash()  # type: ignore[attr-defined]
    assert not capsys.readouterr().err
    has_pool = any(type(part).__name__ == "SpatialQuerying" for part in untrained.module.modules())
    assert has_pool == (name == NAMES[0])
    assert left(cache) == [tiny.trained_directory(CONFIG, name == NAMES[0]).name]


def worker(counter: str, cache: str) -> None:
    """Train the pair in a process of its own and note what it trained."""
    os.environ["TOPOBRAIN_CACHE"] = cache
    tiny.load_text = lambda name: texts()  # type: ignore[assignment]
    trained: list[str] = []
    original = tiny._train

    def noted(config: TinyConfig, name: str, *rest: Any) -> None:
        trained.append(name)
        original(config, name, *rest)

    tiny._train = noted
    pair = train_tiny_pair(replace(CONFIG, training=replace(CONFIG.training, steps=60)), device="cpu")
    hashes = [load_directory(directory, device="cpu").weights_hash() for directory in pair.values()]
    Path(counter).write_text("\n".join([",".join(trained), *hashes]))


@pytest.mark.slow
def test_two_processes_train_each_model_once(start: Any, cache: Path, tmp_path: Path) -> None:
    notes = [tmp_path / f"{i}.txt" for i in range(2)]
    processes = [start(worker, note, cache.parent) for note in notes]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    (first, *hashes), (second, *others) = (note.read_text().split("\n") for note in notes)
    assert sorted(name for line in (first, second) for name in line.split(",") if name) == NAMES
    assert hashes == others
    assert len(left(cache)) == 2
