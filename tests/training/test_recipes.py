from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from topobrain._checks import InputError, UnknownNameError
from topobrain.models.architectures import build_config, find_architecture
from topobrain.models.topoformer import VARIANTS
from topobrain.nn import topo_sheet
from topobrain.nn.correlation_loss import largest_radius
from topobrain.training import Penalties, Recipe, find_recipe, list_recipes
from topobrain.training.penalties import unit_weights
from topobrain.training.recipes import SIZES

RECIPES = list_recipes()
IDS = [f"{recipe.name}-{recipe.size}" for recipe in RECIPES]
TEXT = [recipe.name for recipe in RECIPES if recipe.size == "paper" and recipe.architecture != "resnet"]


def built(recipe: Recipe, **changes: Any) -> nn.Module:
    """Build a recipe's network without its weights."""
    sizes = {} if recipe.objective == "images" else {"vocab_size": recipe.vocab_size}
    architecture = find_architecture(recipe.architecture)
    with torch.device("meta"):
        module: nn.Module = architecture.module(build_config(architecture, {**recipe.model, **sizes, **changes}))
    return module


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_every_recipe_comes_in_every_size() -> None:
    assert len(set(IDS)) == len(IDS)
    assert {recipe.name for recipe in RECIPES} == {
        "topoformer-imdb", "topoformer-bert", "toponet-resnet18", "toponet-nanogpt", "topolm",
    }  # fmt: skip
    for recipe in RECIPES:
        assert find_recipe(recipe.name, recipe.size) is recipe
        assert recipe.size in SIZES
        assert recipe.source
        assert recipe.notes
        assert recipe.topographic
        assert recipe.model_name == f"{recipe.name}-{recipe.size}"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("topoformer-bert", 133_345_857),
        ("toponet-nanogpt", 124_373_760),
        ("toponet-resnet18", 11_689_512),
        ("topoformer-imdb", 2_028_402 + 400 * 100_000),
        ("topolm", 50304 * 784 + 1024 * 784 + 12 * (12 * 784**2 + 2 * 784) + 784),
    ],
)
def test_the_paper_size_is_the_paper_s(name: str, expected: int) -> None:
    assert size(built(find_recipe(name, "paper"))) == expected


def test_a_vocabulary_of_any_size_adds_its_embedding() -> None:
    recipe = find_recipe("topoformer-imdb", "paper")
    assert size(built(recipe, vocab_size=9)) == 2_028_402 + 400 * 9


@pytest.mark.parametrize("recipe", RECIPES, ids=IDS)
def test_penalties_meet_layers_and_fit_their_sheets(recipe: Recipe) -> None:
    """With real weights where the network is small; else by sizes alone."""
    module = built(recipe)
    if recipe.architecture.startswith("topoformer"):
        assert not recipe.penalties
        return
    (penalty,) = recipe.penalties
    (layers,) = Penalties(module, [replace(penalty, kind="correlation", radius=None)]).layers
    expected = {"resnet": 16, "gpt": recipe.model.get("n_layers", 0) * len(penalty.layers)}[recipe.architecture]
    assert len(layers) == expected
    for path, part in layers.items():
        if penalty.kind == "correlation":
            sheet = topo_sheet(recipe.model["width"])
            assert penalty.radius is not None
            assert 2 <= penalty.radius <= largest_radius(sheet)
            assert recipe.model["positions"] == "permuted"
        else:
            sheet = topo_sheet(len(unit_weights(part, path)))
            assert all(1 <= f <= side for f, side in zip(penalty.factor, (sheet.height, sheet.width), strict=True))
            assert sheet.n_units == sheet.height * sheet.width


def test_sheets_of_the_published_layers() -> None:
    assert (topo_sheet(3072).height, topo_sheet(3072).width) == (48, 64)
    assert (topo_sheet(784).height, topo_sheet(784).width) == (28, 28)
    tiny, paper = (find_recipe("toponet-resnet18", size).penalties[0].factor for size in ("tiny", "paper"))
    assert (tiny, paper) == ((2.0, 2.0), (3.0, 3.0))  # sheets of 4 x 4 leave no other


@pytest.mark.parametrize("recipe", [r for r in RECIPES if r.size == "tiny"], ids=lambda r: r.name)
def test_the_twin_differs_in_topography_alone(recipe: Recipe) -> None:
    control = recipe.control()
    assert not control.topographic
    assert control.model_name == f"{recipe.name}-tiny-control"
    same = ("architecture", "objective", "corpus", "training", "vocabulary", "vocab_size", "length", "max_examples")
    assert all(getattr(recipe, name) == getattr(control, name) for name in same)
    assert size(built(recipe)) == size(built(control))
    assert [(p.kind, p.layers, p.strength) for p in control.penalties] == [
        (p.kind, p.layers, 0.0) for p in recipe.penalties
    ]
    kinds = {type(part).__name__ for part in built(control).modules()}
    assert not kinds & {"SpatialQuerying", "SpatialReweighting"}


@pytest.mark.parametrize("name", ["topoformer-imdb", "topoformer-bert"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_the_topoformer_s(name: str, variant: str) -> None:
    recipe = find_recipe(name).variant(variant)
    querying, reweighting, signed = VARIANTS[variant]
    parts = [type(part).__name__ for part in built(recipe).modules()]
    n_layers = recipe.model.get("n_layers", 1)
    assert parts.count("SpatialQuerying") == (n_layers if querying else 0)
    assert parts.count("SpatialReweighting") == (n_layers if reweighting else 0)
    assert recipe.model["signed"] == signed
    assert recipe.model_name == f"{name}-tiny-{variant}"
    assert recipe.topographic == (querying or reweighting)
    if variant == "control":
        assert built(recipe).config == built(find_recipe(name).control()).config


def test_strengths_variants_and_names_that_do_not_fit() -> None:
    recipe = find_recipe("toponet-nanogpt")
    stronger = recipe.with_strength(50)
    assert [penalty.strength for penalty in stronger.penalties] == [50]
    assert stronger.model_name == "toponet-nanogpt-tiny-tau50"
    assert replace(stronger, penalties=recipe.penalties) == recipe
    assert not recipe.with_strength(0).topographic
    for bad in (math.nan, -1.0, math.inf):
        with pytest.raises(InputError, match="strength"):
            recipe.with_strength(bad)
    with pytest.raises(InputError, match="no topographic loss whose strength"):
        find_recipe("topoformer-bert").with_strength(1)
    with pytest.raises(InputError, match="only Topoformers have variants"):
        recipe.variant("both")
    with pytest.raises(UnknownNameError, match="reweighting"):
        find_recipe("topoformer-bert").variant("reweigting")
    with pytest.raises(UnknownNameError, match="toponet-nanogpt"):
        find_recipe("toponet-nanogtp")
    with pytest.raises(UnknownNameError, match="paper"):
        find_recipe("topolm", "papers")


@pytest.mark.parametrize("recipe", RECIPES, ids=IDS)
def test_plain_values_and_back(recipe: Recipe) -> None:
    for each in (recipe, recipe.control(), recipe.with_training(steps=3, seed=5)):
        assert Recipe.from_dict(json.loads(json.dumps(each.to_dict()))) == each
    assert recipe.with_training(steps=3).training == replace(recipe.training, steps=3)


def test_plain_values_that_are_no_recipe() -> None:
    plain = find_recipe("topolm").to_dict()
    with pytest.raises(InputError, match=r"'stepps'|field of a recipe"):
        Recipe.from_dict({**plain, "stepps": 3})
    with pytest.raises(InputError, match="not complete"):
        Recipe.from_dict({key: value for key, value in plain.items() if key != "training"})


def test_frozen_configurations_do_not_share_what_can_change() -> None:
    recipe = find_recipe("toponet-nanogpt")
    recipe.control().model["width"] = 1  # type: ignore[index]
    assert find_recipe("toponet-nanogpt").model["width"] == 96
