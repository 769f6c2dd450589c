from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from topobrain import Recording, Sheet, list_models, load_model
from topobrain._checks import DataFileError, InputError, UnknownNameError

SOURCE = """
import numpy as np
from topobrain import Recording, Sheet


class Counter:
    name = "counter"
    sheets = {"length": Sheet.grid(1, 2)}

    def __init__(self, weights=None, device="auto"):
        self.weights, self.device_given = weights, device

    def record(self, stimuli, layers):
        n = max(len(s.split()) for s in stimuli)
        word = np.array([[w if w < len(s.split()) else -1 for w in range(n)] for s in stimuli])
        return Recording({"length": np.zeros((*word.shape, 2), dtype=np.float32)}, word)


def make():
    return Counter()


def only_weights(weights=None):
    return Counter(weights)


def broken(weights=None, device="auto"):
    raise TypeError("the weights are of another kind")


ready = Counter()
number = 3


def gives_text(weights=None, device="auto"):
    return "text"
"""


class Ready:
    name = "ready"
    sheets = {"a": Sheet.grid(1, 2)}  # noqa: RUF012

    def record(self, stimuli: Sequence[Any], layers: Sequence[str]) -> Recording:
        return Recording({}, np.zeros((len(stimuli), 1), dtype=int))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module of one's own in the current directory; returns its name."""
    import sys

    name = f"own_models_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    return name


def distribution(folder: Path, name: str, lines: list[str], source: str = SOURCE) -> Path:
    """Lay out an installed distribution with entry points of the group topobrain.models."""
    package = folder / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(source)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[topobrain.models]\n" + "\n".join(lines) + "\n")
    return folder


def test_an_unknown_name_offers_near_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"'topoformer-tinny'\. Did you mean 'topoformer-tiny'.*hf:<hub id"):
        load_model("topoformer-tinny")


def test_builtin_names_are_listed_with_a_line_each() -> None:
    models = list_models()
    assert {"topoformer-tiny", "topoformer-tiny-control", "stories260k", "minilm"} <= set(models)
    assert {"topolm", "toponet-resnet18-tau10", "toponet-nanogpt-tau0.5", "gpt-neo-125m", "vit-b-32"} <= set(models)
    assert all(models.values())
    assert all("\n" not in what and len(what) < 120 for what in models.values())


def test_every_recipe_has_a_tiny_model_and_its_twin() -> None:
    from topobrain.models.registry import RECIPES
    from topobrain.training.recipes import list_recipes

    assert set(RECIPES) == {recipe.name for recipe in list_recipes()}
    for recipe in RECIPES:
        assert {f"{recipe}-tiny", f"{recipe}-tiny-control"} <= set(list_models())


def test_near_names_are_offered_of_published_models_too() -> None:
    for given, near in (
        ("toponet-resnet18-tau100", "toponet-resnet18-tau10"),
        ("topolm-tiny-contrl", "topolm-tiny-control"),
    ):
        with pytest.raises(UnknownNameError, match=f"Did you mean .*'{near}'"):
            load_model(given)


@pytest.mark.parametrize("attribute", ["Counter", "make", "only_weights", "ready"])
def test_a_factory_class_or_model_in_the_current_directory_is_found(here: str, attribute: str) -> None:
    model = load_model(f"{here}:{attribute}")
    assert model.name == "counter"
    assert model.record(["a b"], ["length"]).word.tolist() == [[0, 1]]


def test_a_factory_gets_weights_and_device(here: str) -> None:
    model: Any = load_model(f"{here}:Counter", weights="untrained:3", device="cpu")
    assert (model.weights, model.device_given) == ("untrained:3", "cpu")
    model = load_model(f"{here}:only_weights", weights="untrained")
    assert (model.weights, model.device_given) == ("untrained", "auto")


def test_weights_for_a_factory_that_takes_none(here: str) -> None:
    with pytest.raises(
        InputError, match=f"factory of {here}:make takes no `weights`, so it has no 'untrained' variant"
    ):
        load_model(f"{here}:make", weights="untrained")
    with pytest.raises(InputError, match="takes no `device`"):
        load_model(f"{here}:make", device="cpu")
    with pytest.raises(InputError, match="already a model"):
        load_model(f"{here}:ready", weights="untrained")


def test_an_error_inside_a_factory_is_its_own(here: str) -> None:
    with pytest.raises(TypeError, match="of another kind"):
        load_model(f"{here}:broken", weights="untrained")


def test_a_factory_that_gives_no_model(here: str) -> None:
    with pytest.raises(InputError, match=f"{here}:gives_text gave a str without name, sheets, record"):
        load_model(f"{here}:gives_text")
    with pytest.raises(InputError, match=f"{here}:number is a int"):
        load_model(f"{here}:number")


def test_an_unknown_attribute_or_module_is_named(here: str) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'Counter'"):
        load_model(f"{here}:counter_")
    with pytest.raises(InputError, match="there is no module 'no_such_module_of_mine'"):
        load_model("no_such_module_of_mine:make")


def test_a_missing_import_inside_the_module_is_not_mistaken_for_the_module(here: str, tmp_path: Path) -> None:
    (tmp_path / f"{here}_b.py").write_text("import a_package_that_is_not_there\n")
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        load_model(f"{here}_b:make")


def test_objects_classes_and_callables_need_no_name() -> None:
    ready = Ready()
    assert load_model(ready) is ready
    assert isinstance(load_model(Ready), Ready)
    assert isinstance(load_model(lambda: Ready()), Ready)
    assert isinstance(load_model(lambda **options: Ready(), weights="untrained"), Ready)


def test_a_bare_torch_module_is_told_how_to_become_a_model() -> None:
    with pytest.raises(InputError, match=r"is a torch module: wrap it with topobrain\.TorchModel"):
        load_model(nn.Linear(2, 2))


def test_something_that_is_no_model_at_all() -> None:
    with pytest.raises(InputError, match="expected a model, or a factory"):
        load_model(3)
    with pytest.raises(InputError, match="gave a object without name, sheets, record"):
        load_model(object)


def test_a_model_of_another_distribution_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = distribution(tmp_path, "toy_plugin", ["counter = toy_plugin:Counter", "ready-made = toy_plugin:ready"])
    monkeypatch.syspath_prepend(folder)
    assert load_model("counter").name == "counter"
    assert load_model("ready-made").name == "counter"
    assert "toy_plugin" in list_models()["counter"]
    with pytest.raises(UnknownNameError, match="Did you mean 'counter'"):
        load_model("countr")


def test_a_plugin_is_not_imported_before_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = distribution(tmp_path, "toy_late", ["late = toy_late:make"], source="raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(folder)
    assert "late" in list_models()
    with pytest.raises(RuntimeError, match="imported"):
        load_model("late")


def test_two_distributions_with_one_name_clash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(distribution(tmp_path / "a", "toy_one", ["same = toy_one:make"]))
    monkeypatch.syspath_prepend(distribution(tmp_path / "b", "toy_two", ["same = toy_two:make"]))
    with pytest.raises(InputError, match=r"two distributions name a model 'same': toy_(one|two) and toy_(one|two)"):
        load_model("same")


def test_a_distribution_may_not_take_the_name_of_a_builtin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(distribution(tmp_path, "toy_thief", ["minilm = toy_thief:make"]))
    for name in ("minilm", "anything"):
        with pytest.raises(InputError, match="toy_thief names a model 'minilm', which is built in"):
            load_model(name)
    with pytest.raises(InputError, match="rename it"):
        list_models()


def test_an_untrained_variant_with_the_same_weights_is_refused(tmp_path, monkeypatch):
    code = (
        "import numpy as np, torch, topobrain as tb\n"
        "def encode(texts):\n"
        "    return torch.zeros(len(texts), 1, dtype=torch.long), np.zeros((len(texts), 1), dtype=int)\n"
        "def build(seed, device):\n"
        "    torch.manual_seed(seed)\n"
        "    return tb.TorchModel('mine', torch.nn.Sequential(torch.nn.Embedding(3, 4)), encode, {'0': tb.Sheet.none(4)})\n"
        "def deaf(weights=None, device='cpu'):\n"
        "    return build(0, device)\n"
        "def hears(weights=None, device='cpu'):\n"
        "    return build(1 if weights else 0, device)\n"
    )
    (tmp_path / "variants.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match="it ignores them"):
        load_model("variants:deaf", weights="untrained")
    assert load_model("variants:hears").name == "mine"
    assert load_model("variants:hears", weights="untrained").name == "mine (untrained)"


def test_a_plug_in_that_cannot_be_loaded_is_named(tmp_path, monkeypatch):
    (tmp_path / "half_made.py").write_text("x = 1\n")
    info = tmp_path / "half_made-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: half-made\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[topobrain.models]\nhalf = half_made:bild\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=r"half_made:bild of the distribution half-made, which cannot be loaded.*bild"):
        load_model("half")


@pytest.mark.parametrize("name", ["", "hf:"])
def test_no_name_is_told(name):
    with pytest.raises(InputError, match="no model was named"):
        load_model(name)


# --- models trained here by their recipes when first asked for


@pytest.fixture
def quick_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Recipes of two steps on a little text, and an empty cache; returns the names of the models that were trained."""
    from topobrain.training import recipe_models, recipes

    (tmp_path / "text.txt").write_text(
        "\n\n".join(f"the {i} old dogs of house {i * i} sleep in the sun" for i in range(200))
    )
    monkeypatch.setenv("TOPOBRAIN_CACHE", str(tmp_path / "cache"))
    trained: list[str] = []
    train = recipe_models.run_recipe

    def small(name: str, size: str) -> Any:
        recipe = recipes.find_recipe(name, size)
        sizes = {"width": 64, "n_layers": 1, "n_heads": 2}
        return replace(
            recipe, corpus=str(tmp_path / "text.txt"), vocab_size=320, length=16, model={**recipe.model, **sizes},
            training=replace(recipe.training, steps=2, batch_size=4, evaluate_every=2, seed=3),
        )  # fmt: skip

    def watched(recipe: Any, *places: Any, **options: Any) -> Path:
        trained.append(recipe.model_name)
        return train(recipe, *places, **options)

    monkeypatch.setattr(recipe_models, "find_recipe", small)
    monkeypatch.setattr(recipe_models, "run_recipe", watched)
    return trained


@pytest.mark.slow
def test_a_recipe_is_trained_on_first_use_and_found_afterwards(
    quick_recipes: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from topobrain.training import recipe_run

    first: Any = load_model("topolm-tiny", device="cpu")
    assert "training topolm-tiny (first use only): step 2/2" in capsys.readouterr().err
    assert first.name == "topolm-tiny"
    assert first.provenance["trained_on"].endswith("text.txt")
    assert first.provenance["recipe"] == {"name": "topolm", "size": "tiny", "seed": 3}
    twin: Any = load_model("topolm-tiny-control", device="cpu")
    assert twin.name == "topolm-tiny-control"
    assert list(twin.sheets) == list(first.sheets)
    assert twin.weights_hash() != first.weights_hash()
    capsys.readouterr()
    monkeypatch.setattr(recipe_run, "train", None)  # a second use must not train
    monkeypatch.setattr(recipe_run, "read_data", None)
    assert load_model("topolm-tiny", device="cpu").weights_hash() == first.weights_hash()  # type: ignore[attr-defined]
    assert capsys.readouterr().err == ""
    assert quick_recipes == ["topolm-tiny", "topolm-tiny-control", "topolm-tiny"]


@pytest.mark.parametrize("name", ["topolm-tiny", "toponet-nanogpt-tiny-control", "topoformer-bert-tiny-control"])
def test_random_weights_need_no_training(name: str, quick_recipes: list[str]) -> None:
    before: Any = load_model(name, weights="untrained:7", device="cpu")
    assert quick_recipes == []
    trained: Any = load_model(name, device="cpu")
    after: Any = load_model(name, weights="untrained:7", device="cpu")  # now from the directory
    assert before.name == after.name == f"{name} (untrained:7)"
    assert before.weights_hash() == after.weights_hash() != trained.weights_hash()
    assert before.sheets == after.sheets == trained.sheets
    assert before.survey(["the old dogs"]).digest == after.survey(["the old dogs"]).digest
    assert before.provenance["trained_on"] == after.provenance["trained_on"] == "nothing (random weights)"


def test_wrong_weights_are_told_before_anything_is_trained(quick_recipes: list[str], tmp_path: Path) -> None:
    for weights in ("", "trained", "untrained:x"):
        with pytest.raises(InputError, match="weights must be None, 'untrained' or 'untrained:SEED'"):
            load_model("topolm-tiny", weights=weights)
    assert not (tmp_path / "cache").exists()
    assert quick_recipes == []


def test_a_cache_that_cannot_be_written_is_told(
    quick_recipes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TOPOBRAIN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataFileError, match=r"cannot keep the trained model in .*file/cache/models"):
        load_model("topolm-tiny")


def test_a_second_process_waits_for_the_model(
    quick_recipes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock, Timeout

    from topobrain.training import recipe_models

    def held(recipe: Any, directory: Path, **_: Any) -> None:
        with pytest.raises(Timeout):
            FileLock(f"{directory}.lock", timeout=0).acquire()
        raise InputError("seen")

    monkeypatch.setattr(recipe_models, "run_recipe", held)
    with pytest.raises(InputError, match="seen"):
        load_model("topolm-tiny")
