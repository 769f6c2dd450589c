from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_runs import rows_of

from topobrain import load_model
from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.models.directories import load_directory
from topobrain.testing import check_model
from topobrain.training import Recipe, find_recipe, list_recipes, recipe_run, run_recipe
from topobrain.training.checkpoints import newest_checkpoint
from topobrain.training.corpora import is_held_out
from topobrain.training.recipe_run import build_module, is_finished, load_log, read_data

WORDS = ("dog", "cat", "sings", "sleeps", "old", "garden", "a", "the")
TINY = [recipe for recipe in list_recipes() if recipe.size == "tiny"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of five sentences; some sentences occur in many documents."""
    rng = np.random.default_rng(0)
    lines = [f"{i} " + " ".join(rng.choice(WORDS, 6)) for i in range(600)]
    documents = ["\n".join([*lines[4 * i : 4 * i + 4], "the same Sentence everywhere"]) for i in range(150)]
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n\n".join(documents))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPOBRAIN_CACHE", str(tmp_path / "cache"))


def quick(recipe: Recipe, corpus: Path) -> Recipe:
    small = {"width": 16, "n_layers": 1}
    penalties = tuple(replace(p, radius=2) if p.kind == "correlation" else p for p in recipe.penalties)
    changed = replace(
        recipe, corpus=str(corpus), vocab_size=320, length=16, penalties=penalties, model={**recipe.model, **small}
    )
    return changed.with_training(steps=4, batch_size=8, evaluate_every=2, checkpoint_every=2)


def masked(corpus: Path) -> Recipe:
    return quick(find_recipe("topoformer-bert"), corpus)


def causal(corpus: Path) -> Recipe:
    return quick(find_recipe("toponet-nanogpt"), corpus)


def test_a_run_is_a_model_that_anyone_can_load(corpus: Path, tmp_path: Path) -> None:
    recipe = causal(corpus)
    seen: list[int] = []
    directory = run_recipe(recipe, tmp_path / "run", device="cpu", progress=lambda step, *_: seen.append(step))
    assert directory == tmp_path / "run"
    assert seen == [1, 2, 3, 4]
    assert sorted(path.name for path in directory.iterdir()) == [
        ".lock", "checkpoints", "config.json", "metrics.csv", "metrics.jsonl", "model.safetensors", "recipe.json",
        "tokenizer.json", "training.nc",
    ]  # fmt: skip
    model = load_model(directory, device="cpu")
    assert model.name == "toponet-nanogpt-tiny"
    assert check_model(model).ok
    assert Recipe.from_dict(json.loads((directory / "recipe.json").read_text())) == recipe
    log = load_log(directory)
    assert log.provenance["recipe"] == json.loads(json.dumps(recipe.to_dict()))
    assert log.provenance["corpus"] == {"name": str(corpus), "simulated": False}
    assert log.data.sizes["step"] == 4
    trained = load_directory(directory, device="cpu").module
    untrained = load_directory(directory, weights="untrained", device="cpu").module
    start = build_module(recipe, read_data(recipe).tokenizer)
    for (name, a), b, c in zip(trained.named_parameters(), untrained.parameters(), start.parameters(), strict=True):
        assert torch.equal(b, c), name  # what is called untrained is what training started from
        assert not torch.equal(a, b), name


def test_a_finished_run_is_not_run_again_and_not_overwritten(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = causal(corpus)
    assert not is_finished(tmp_path / "run")
    run_recipe(recipe, tmp_path / "run", device="cpu")
    assert is_finished(tmp_path / "run")
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    monkeypatch.setattr(recipe_run, "read_data", None)  # not called again
    assert run_recipe(recipe, tmp_path / "run", device="cpu") == tmp_path / "run"
    for other, field in (
        (recipe.with_training(steps=9), "training: steps was 4, now 9"),
        (recipe.with_strength(7.0), r"penalties: 1: strength was 1\.0, now 7\.0"),
        (recipe.control(), r"penalties: 1: strength was 1\.0, now 0\.0"),
    ):
        with pytest.raises(InputError, match=f"holds another finished run \\({field}"):
            run_recipe(other, tmp_path / "run", device="cpu")
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == files


@pytest.mark.slow
@pytest.mark.parametrize("where", ["training", "saving"])
def test_a_stopped_recipe_goes_on(where: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = masked(corpus)
    expected = run_recipe(recipe, tmp_path / "through", device="cpu")

    def stop(*now: Any, **_: Any) -> None:
        if where == "saving" or now[0] == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if where == "saving":  # everything is trained, and the model not yet written
            patch.setattr(recipe_run, "save_model", stop)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, tmp_path / "parts", device="cpu", progress=stop if where == "training" else None)
    assert not is_finished(tmp_path / "parts")
    directory = run_recipe(recipe, tmp_path / "parts", device="cpu")
    assert (directory / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
    assert rows_of(directory) == rows_of(expected)
    np.testing.assert_array_equal(
        load_log(directory).data["train_loss"].values, load_log(expected).data["train_loss"].values
    )


def test_another_run_s_directory_is_left_alone(corpus: Path, tmp_path: Path) -> None:
    def stop(step: int, steps: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_recipe(masked(corpus), tmp_path / "run", device="cpu", progress=stop)
    with pytest.raises(InputError, match=r"holds another run \(training: seed was 0, now 3"):
        run_recipe(masked(corpus).with_training(seed=3), tmp_path / "run", device="cpu")
    newest = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None
    assert newest.step == 2


@pytest.mark.slow
def test_twins_and_seeds_share_data_and_tokenizer(corpus: Path, tmp_path: Path) -> None:
    recipe = masked(corpus)
    data = read_data(recipe)
    for other in (recipe.control(), recipe.with_training(seed=5), recipe.variant("querying")):
        again = read_data(other)
        assert again.tokenizer.backend_tokenizer.to_str() == data.tokenizer.backend_tokenizer.to_str()
        for part in ("texts", "held_out"):
            assert torch.equal(getattr(again.objective, part)[0], getattr(data.objective, part)[0])
    shared = run_recipe(recipe.control(), tmp_path / "shared", data=data, device="cpu")
    alone = run_recipe(recipe.control(), tmp_path / "alone", device="cpu")
    assert (shared / "model.safetensors").read_bytes() == (alone / "model.safetensors").read_bytes()


def test_no_sentence_is_learnt_and_held_out(corpus: Path) -> None:
    """Also where documents on both sides hold the same sentence."""
    recipe = masked(corpus)
    data = read_data(recipe)
    sides: list[set[str]] = []
    for table, lengths in (data.objective.texts, data.objective.held_out):  # type: ignore[attr-defined]
        sides.append({data.tokenizer.decode(row[:n]) for row, n in zip(table.tolist(), lengths.tolist(), strict=True)})
    assert min(map(len, sides)) > 10
    assert not sides[0] & sides[1]
    documents = corpus.read_text().split("\n\n")
    learnt = {" ".join(line.lower().split()) for d in documents if not is_held_out(d) for line in d.splitlines()}
    held_out = {" ".join(line.lower().split()) for d in documents if is_held_out(d) for line in d.splitlines()}
    assert learnt & held_out == {"the same sentence everywhere"}
    assert sides[0] <= learnt
    assert sides[1] == held_out - learnt


def test_the_tokenizer_never_saw_a_held_out_document(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    make = recipe_run.make_vocabulary

    def watched(kind: Any, texts: Any, vocab_size: int) -> Any:
        seen.extend(texts)
        return make(kind, seen, vocab_size)

    monkeypatch.setattr(recipe_run, "make_vocabulary", watched)
    read_data(causal(corpus))
    assert seen
    assert not any(is_held_out(text) for text in seen)


@pytest.mark.parametrize("name", ["topoformer-bert", "toponet-nanogpt", "topolm"])
def test_corpora_of_the_papers_are_not_in_the_store(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from topobrain.training import recipe_run as room

    monkeypatch.setattr(room, "make_vocabulary", lambda kind, texts, size: list(itertools.islice(texts, 3)))
    for _ in range(2):
        with pytest.raises(UnknownNameError, match="can be given as a plain text file"):
            run_recipe(find_recipe(name, "paper"), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_images_and_classes_of_other_sets_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="images to train on are 'cifar10', got 'imagenet'"):
        run_recipe(find_recipe("toponet-resnet18", "paper"), tmp_path / "run", device="cpu")
    with pytest.raises(InputError, match="knows the corpus 'imdb', got 'brown'"):
        run_recipe(replace(find_recipe("topoformer-imdb"), corpus="brown"), tmp_path / "run", device="cpu")


@pytest.mark.parametrize(
    ("make", "content", "error", "message"),
    [
        (causal, "a b\n\nc d", InputError, "has 2 documents: too few"),
        (masked, "a b\n\nc d", InputError, "has too few lines of 4 to 24 words"),
        (masked, None, DataFileError, "there is no text file"),
        (causal, "\n\n".join(f"{i}" for i in range(60)), InputError, r"held-out part of the corpus has \d+ tokens, one window"),
    ],
    ids=["few documents", "few lines", "missing", "short"],
)  # fmt: skip
def test_corpora_too_small_are_told(make: Any, content: str | None, error: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "small.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(error, match=message):
        run_recipe(make(path), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": {"widht": 3}}, InputError, "'widht'.*Did you mean 'width'"),
        ({"vocabulary": "gpt2", "objective": "masked"}, InputError, "has no mask token"),
    ],
    ids=["field", "mask"],
)
def test_fields_that_do_not_fit_are_told(
    change: dict[str, Any], error: Any, message: str, corpus: Path, tmp_path: Path, real_data: Path
) -> None:
    with pytest.raises(error, match=message):
        run_recipe(replace(causal(corpus), **change), tmp_path / "run", device="cpu")


def test_a_directory_of_something_else_is_told(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(DataFileError, match="cannot write to"):
        run_recipe(causal(corpus), tmp_path / "file", device="cpu")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.fixture
def small_sets(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A little of the real data."""
    from topobrain.data import cifar10, corpora

    pictures, reviews = cifar10.load_cifar10, corpora.load_imdb_sentiment

    def some_reviews(split: Any) -> Any:
        texts, labels = reviews(split)
        chosen = np.arange(0, len(texts), 100)  # 247 of the 24,678 test reviews that occur nowhere else
        return [texts[i] for i in chosen], labels[chosen]

    monkeypatch.setattr(cifar10, "load_cifar10", lambda split, limit=None: pictures(split, limit=60))
    monkeypatch.setattr(corpora, "load_imdb_sentiment", some_reviews)
    monkeypatch.setattr(recipe_run, "MOST_HELD_OUT", 50)
    documents = recipe_run.documents
    monkeypatch.setattr(recipe_run, "documents", lambda name: itertools.islice(documents(name), 150))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", TINY, ids=lambda recipe: recipe.name)
def test_each_tiny_recipe_comes_to_a_model(
    recipe: Recipe, small_sets: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if recipe.objective == "causal":
        recipe = replace(recipe, corpus="wikitext2")
    recipe = recipe.with_training(steps=3, batch_size=8, evaluate_every=3)
    directory = run_recipe(recipe, tmp_path / "run", device="cpu")
    model = load_model(directory, device="cpu")
    assert model.name == recipe.model_name
    assert check_model(model).ok
    log = load_log(directory)
    assert log.data.sizes["step"] == 3
    assert not log.simulated
    assert bool(np.isfinite(log.data["train_loss"].values).all())
    assert bool((log.data["topography_loss"].values > 0).all()) == bool(recipe.penalties)
    assert ("test_accuracy" in log.data) == (recipe.objective in ("sentences", "images"))
    if "test_accuracy" in log.data:
        assert 0 <= float(log.data["test_accuracy"]) <= 1
        assert int(log.data["n_test"]) == {"sentences": 247, "images": 60}[recipe.objective]
    monkeypatch.setattr(recipe_run, "read_data", None)
    assert run_recipe(recipe, directory, device="cpu") == directory


@pytest.mark.slow
def test_parts_of_classified_data_are_disjoint(small_sets: None) -> None:
    """Reviews and pictures: what is learnt, what it is evaluated on, and the test set that is scored once."""
    data = read_data(find_recipe("topoformer-imdb"))
    parts = [data.objective.texts, data.objective.held_out, data.test.held_out]  # type: ignore[attr-defined,union-attr]
    rows = [{tuple(row) for row in table.tolist()} for table, _ in parts]
    assert all(not a & b for a, b in itertools.combinations(rows, 2))
    assert data.test is not None
    assert data.test.n_held_out == 247
    pictures = read_data(replace(find_recipe("toponet-resnet18"), max_examples=None))
    sets = [pictures.objective.images, pictures.objective.held_out, pictures.test.held_out]  # type: ignore[attr-defined,union-attr]
    keys = [{row.numpy().tobytes() for row in part} for part in sets]
    assert [len(part) for part in sets] == [54, 6, 60]
    assert all(not a & b for a, b in itertools.combinations(keys, 2))
