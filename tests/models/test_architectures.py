from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
import pytest
import torch
from every_architecture import CASES, NAMES, small_config, small_network
from torch import nn

from topobrain._checks import InputError, UnknownNameError
from topobrain.models.architectures import (
    ARCHITECTURES,
    architecture_of,
    build,
    build_config,
    find_architecture,
    plain_config,
    require_weights,
)
from topobrain.models.gpt import GPT, GPTConfig
from topobrain.models.resnet import ResNetConfig


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_whole(name: str) -> None:
    found = find_architecture(name)
    assert found.name == name
    assert is_dataclass(found.config)
    assert issubclass(found.module, nn.Module)
    assert callable(found.wrap)
    assert found.reads == ("images" if name in ("resnet", "vit") else "text")
    assert architecture_of(small_network(name)) == found


@pytest.mark.parametrize(
    ("given", "near"),
    [("gtp", "gpt"), ("GPT", "gpt"), ("resnet18", "resnet"), ("topoformer_bert", "topoformer-bert"), ("vti", "vit")],
)
def test_an_unknown_name_offers_near_ones(given: str, near: str) -> None:
    with pytest.raises(
        UnknownNameError, match=f"unknown architecture '{given}'.*Did you mean .*'{near}'.*Known: topof"
    ):
        find_architecture(given)
    with pytest.raises(UnknownNameError, match="unknown architecture"):
        build(given, None)


def test_a_network_of_ones_own_is_none_of_them() -> None:
    class GPT(nn.Linear):
        """Called the same."""

    for module in (nn.Linear(2, 2), GPT(2, 2)):
        with pytest.raises(
            InputError, match=r"is none of this project's networks \(topoformer, .*wrap it with TorchModel"
        ):
            architecture_of(module)


@pytest.mark.parametrize(("name", "changes"), CASES, ids=NAMES)
def test_a_configuration_survives_json(name: str, changes: dict[str, Any]) -> None:
    module = small_network(name, **changes)
    plain = plain_config(module)
    through = json.loads(json.dumps(plain, allow_nan=False))
    assert through == plain
    again = build_config(find_architecture(name), through)
    assert again == module.config
    assert hash(again) == hash(module.config)  # no list is left in it
    with torch.device("meta"):
        shapes = {key: t.shape for key, t in find_architecture(name).module(again).state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in module.state_dict().items()}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_seed_makes_the_weights_and_the_global_state_is_left_alone(name: str) -> None:
    config = small_config(name)
    torch.manual_seed(123)
    np.random.seed(123)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes()  # type: ignore[index]  # noqa: NPY002
    first, other = build(name, config, seed=4), build(name, config, seed=5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tobytes() == before[1]  # type: ignore[index]  # noqa: NPY002
    torch.manual_seed(321)  # whatever came before
    again = build(name, config, seed=4)
    drawn = [key for key, p in first.named_parameters() if not torch.equal(p, p.flatten()[:1].expand_as(p))]
    assert drawn
    for key in drawn:
        assert torch.equal(first.state_dict()[key], again.state_dict()[key])
        assert not torch.equal(first.state_dict()[key], other.state_dict()[key])


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("gpt", {"n_layer": 2}, r"unknown field of the gpt configuration 'n_layer'\. Did you mean 'n_layers'"),
        ("resnet", {"depth": "18"}, r"field 'depth' of the resnet configuration takes int, got '18'"),
        ("resnet", {"blur_pool": 1}, r"'blur_pool' .* takes bool, got 1"),
        ("resnet", {"mean": [0.5, 0.5, "x"]}, r"'mean' .* takes tuple\[float, \.\.\.\], got"),
        ("resnet", {"mean": 0.5}, r"'mean' .* takes tuple"),
        ("resnet", {"mean": [0.5]}, r"mean"),
        ("resnet", {"depth": 34}, r"depth 18 or 50, got 34"),
        ("vit", {"image_size": None}, r"'image_size' .* takes int, got None"),
        ("topoformer", {"width": 16}, r"topoformer configuration is not complete: .*vocab_size"),
        ("topoformer", {"vocab_size": 9, "querying": "0.1"}, r"'querying' .* takes float \| None, got '0\.1'"),
        ("topoformer", {"vocab_size": 9, "querying": float("nan")}, r"'querying' .* got nan"),
        ("topoformer-bert", {"vocab_size": 9.5}, r"takes int, got 9\.5"),
        ("gpt-neo", {"attention": [1]}, r"'attention'"),
    ],
)
def test_values_of_another_kind_are_refused(name: str, values: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        build_config(find_architecture(name), values)


def test_plain_values_of_the_right_kind_are_taken() -> None:
    config = build_config(find_architecture("resnet"), {"mean": [0, 0.5, 1], "std": (1, 1, 1), "depth": 50})
    assert config == ResNetConfig(depth=50, mean=(0.0, 0.5, 1.0), std=(1.0, 1.0, 1.0))
    topoformer = build_config(find_architecture("topoformer"), {"vocab_size": 9, "querying": 1, "reweighting": None})
    assert (topoformer.querying, topoformer.reweighting) == (1, None)


def test_a_misspelt_choice_offers_near_names() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'permuted'"):
        build_config(find_architecture("gpt"), {"positions": "permutation"})


def test_a_network_is_built_from_its_own_configuration_only() -> None:
    with pytest.raises(InputError, match="a resnet is built from a ResNetConfig, got a GPTConfig"):
        build("resnet", GPTConfig.tiny(30))
    with pytest.raises(InputError, match="a gpt is built from a GPTConfig, got a dict"):
        build("gpt", asdict(GPTConfig.tiny(30)))


@pytest.mark.parametrize("seed", [-1, 1.5, "x", 10**30])
def test_a_seed_that_is_none_is_refused(seed: Any) -> None:
    with pytest.raises(InputError, match="a whole number of at least 0"):
        build("gpt", GPTConfig.tiny(30), seed=seed)


def test_weights_are_none_or_untrained() -> None:
    for fine in (None, "untrained", "untrained:0", "untrained:123456789"):
        require_weights(fine)
    for wrong in ("", "Untrained", "untrained ", "untrained:", "untrained:-1", "untrained:1.0", "untrained:³", "none"):
        with pytest.raises(InputError, match="weights must be None"):
            require_weights(wrong)


def test_a_subclass_is_not_taken_for_what_it_extends() -> None:
    class Mine(GPT):
        pass

    with pytest.raises(InputError, match="Mine is none of"):
        architecture_of(Mine(GPTConfig.tiny(30)))
