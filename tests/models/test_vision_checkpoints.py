from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from published_files import (
    RESNET,
    RESNET_50,
    VIT,
    Trap,
    saved,
    state_of,
    training_dictionary,
    transformers_resnet,
    transformers_vit,
)
from safetensors.torch import save_file
from test_vision import images, seeded
from torch import Tensor, nn

from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.models.image_encoder import CIFAR10_MEAN, CIFAR10_STD
from topobrain.models.resnet import ResNet, ResNetConfig
from topobrain.models.vision_checkpoints import build_vision, convert_vision, load_vision
from topobrain.models.vit import ViT
from topobrain.testing import check_model


def same_network(path: Path, config: Any, state: dict[str, Tensor], **options: Any) -> None:
    """The file is recognised as that config, and its network computes the same."""
    found, tensors = convert_vision(path, **options)
    assert found == config
    assert list(tensors) == list(state)
    x = images(2, 32)
    original = seeded(lambda: ResNet(config) if isinstance(config, ResNetConfig) else ViT(config), seed=1)
    with torch.no_grad():
        torch.testing.assert_close(build_vision(found, tensors)(x), original(x), rtol=0, atol=0)


# --- torchvision's layouts


@pytest.mark.parametrize(
    "config", [RESNET, RESNET_50, replace(RESNET, stem="small", image_size=32), replace(RESNET, n_classes=2)]
)
@pytest.mark.slow
def test_a_plain_residual_state_dict(tmp_path: Path, config: ResNetConfig) -> None:
    state = state_of(config)
    same_network(saved(tmp_path / "resnet.pth", state), config, state)
    save_file(state, tmp_path / "resnet.safetensors")
    same_network(tmp_path / "resnet.safetensors", config, state, layout="resnet")


def test_a_plain_vit_state_dict(tmp_path: Path) -> None:
    state = state_of(VIT)
    same_network(saved(tmp_path / "vit.pth", state), VIT, state, n_heads=4)


def test_the_feed_forward_names_of_the_first_published_vits(tmp_path: Path) -> None:
    state = state_of(VIT)
    old = {name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): t for name, t in state.items()}
    assert old.keys() != state.keys()
    same_network(saved(tmp_path / "vit.pth", old), VIT, state, n_heads=4)


def test_a_training_scripts_dictionary_with_its_command_line(tmp_path: Path) -> None:
    state = state_of(VIT)
    same_network(saved(tmp_path / "tau_10.0.pt", training_dictionary(state)), VIT, state, n_heads=4)


def test_heads_follow_from_a_usual_width_and_are_asked_for_otherwise(tmp_path: Path) -> None:
    usual = replace(VIT, width=192, n_heads=3, n_layers=1, mlp_width=8)
    assert convert_vision(saved(tmp_path / "usual.pt", state_of(usual)))[0] == usual
    with pytest.raises(InputError, match=r"32 is no usual width \(192, 384, 768, 1024, 1280\): give n_heads="):
        convert_vision(saved(tmp_path / "vit.pt", state_of(VIT)))


# --- the FFCV recipe's layout


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("config", [replace(RESNET, blur_pool=True), replace(RESNET_50, width=16, blur_pool=True)])
@pytest.mark.slow
def test_blurred_strided_convolutions(tmp_path: Path, config: ResNetConfig, prefix: str) -> None:
    state = state_of(config)
    assert tuple(state["layer2.0.downsample.0.blur_filter"].shape[1:]) == (1, 3, 3)
    path = saved(tmp_path / "all_topo_tau_10.0.pt", {prefix + name: tensor for name, tensor in state.items()})
    same_network(path, config, state)
    same_network(path, config, state, layout="resnet-blurpool")


def test_another_low_pass_filter_is_refused(tmp_path: Path) -> None:
    state = state_of(replace(RESNET, blur_pool=True))
    state["layer2.0.conv1.blur_filter"] = torch.full((16, 1, 3, 3), 1 / 9)
    with pytest.raises(DataFileError, match=r"layer2\.0\.conv1\.blur_filter is another low-pass filter"):
        convert_vision(saved(tmp_path / "w.pt", state))


def test_a_blur_missing_on_one_convolution_is_noticed(tmp_path: Path) -> None:
    state = state_of(replace(RESNET, blur_pool=True))
    state["layer3.0.conv1.weight"] = state.pop("layer3.0.conv1.conv.weight")
    del state["layer3.0.conv1.blur_filter"]
    with pytest.raises(
        DataFileError, match=r"do not fit ResNet: 2 tensors are missing \(layer3\.0\.conv1\.blur_filter"
    ):
        convert_vision(saved(tmp_path / "w.pt", state))


def test_half_precision_and_missing_counters(tmp_path: Path) -> None:
    state = state_of(replace(RESNET, blur_pool=True))
    half = {name: t.half() for name, t in state.items() if not name.endswith("num_batches_tracked")}
    config, found = convert_vision(saved(tmp_path / "w.pt", half))
    assert config.blur_pool
    assert found["conv1.weight"].dtype == torch.float32
    assert int(found["bn1.num_batches_tracked"]) == 0
    torch.testing.assert_close(found["fc.weight"], state["fc.weight"], rtol=1e-3, atol=1e-3)


# --- transformers, an independent implementation of both


def logits_of(folder: Path, **options: Any) -> Tensor:
    module = build_vision(*convert_vision(folder, **options))
    with torch.no_grad():
        return module(images(2, 32))


@pytest.mark.parametrize("options", [{}, {"layer_norm_eps": 1e-2}, {"hidden_size": 36, "num_attention_heads": 6}])
def test_a_vit_gives_the_logits_of_transformers(tmp_path: Path, options: dict[str, Any]) -> None:
    theirs = transformers_vit(**options)
    theirs.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = theirs(images(2, 32)).logits
    assert float(expected.std()) > 0.05
    torch.testing.assert_close(logits_of(tmp_path), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_a_resnet_gives_the_logits_of_transformers(tmp_path: Path, kind: str) -> None:
    theirs = transformers_resnet(kind)
    theirs.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = theirs(images(2, 32)).logits
    assert float(expected.std()) > 1e-3
    torch.testing.assert_close(logits_of(tmp_path), expected, rtol=1e-3, atol=1e-4)


def test_both_generations_of_transformers_names(tmp_path: Path) -> None:
    """Published files have the names that transformers had before version 5."""
    theirs = transformers_vit()
    new = {
        "layers.": "encoder.layer.", "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key", "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
    }  # fmt: skip
    state = theirs.state_dict()
    in_memory = {name: tensor for name, tensor in state.items() if "q_proj" in name or "query" in name}
    assert in_memory
    published = {}
    for name, tensor in state.items():
        for now, before in new.items():
            name = name.replace(now, before)
        published[name] = tensor
    with torch.no_grad():
        expected = theirs(images(2, 32)).logits
    for number, content in enumerate((state, published)):
        path = saved(tmp_path / f"{number}.bin", content)
        config, _ = convert_vision(path, "transformers-vit", n_heads=4)
        assert config.norm_eps == 1e-6  # no config beside the file: what this layout has there is not known
        torch.testing.assert_close(logits_of(path, n_heads=4), expected, rtol=1e-4, atol=1e-4)


def test_image_statistics_beside_the_weights_are_read(tmp_path: Path) -> None:
    transformers_vit().save_pretrained(tmp_path)
    statistics = {"image_mean": list(CIFAR10_MEAN), "image_std": list(CIFAR10_STD), "size": 32}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(statistics))
    config, _ = convert_vision(tmp_path)
    assert (config.mean, config.std) == (CIFAR10_MEAN, CIFAR10_STD)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_act": "swish"}, r"activation 'swish' is not known"),
        ({"downsample_in_bottleneck": True}, r"downsample_in_bottleneck=true is not known"),
    ],
)
def test_options_of_transformers_that_are_not_known_here(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    transformers_resnet("basic").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **fields}))
    with pytest.raises(DataFileError, match=message):
        convert_vision(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataFileError, match=r"cannot read .*config\.json"):
        convert_vision(tmp_path)


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        ("config", {"layer_norm_eps": None}, r"config\.json gives layer_norm_eps = None, expected a finite number"),
        ("config", {"layer_norm_eps": "x"}, r"config\.json gives layer_norm_eps = 'x'"),
        ("config", {"layer_norm_eps": -1}, r"norm_eps is a positive finite number, got -1"),
        (
            "config",
            {"num_attention_heads": "2"},
            r"config\.json gives num_attention_heads = '2', expected a whole number",
        ),
        ("config", {"num_attention_heads": True}, r"gives num_attention_heads = True"),
        ("config", {"num_attention_heads": 0}, r"gives num_attention_heads = 0"),
        (
            "config",
            {"num_attention_heads": 5},
            r"no vision transformer that can be built: 32 units cannot be shared by 5",
        ),
        ("config", {"image_mean": "abc"}, r"config\.json gives image_mean = 'abc', expected a list of numbers"),
        ("config", ["a"], r"config\.json holds a list, expected named fields"),
        (
            "preprocessor_config",
            {"image_mean": None},
            r"preprocessor_config\.json gives image_mean = None, expected a list",
        ),
        ("preprocessor_config", {"image_std": ["a", "b", "c"]}, r"gives image_std = 'a', expected a finite number"),
        ("preprocessor_config", {"image_std": [0, 1, 1]}, r"statistics of the images beside .* std must be positive"),
        ("preprocessor_config", {"image_mean": [0.5]}, r"statistics of the images beside .* 3 channels"),
        ("preprocessor_config", [1], r"preprocessor_config\.json holds a list, expected named fields"),
    ],
)
def test_fields_beside_a_vit_that_cannot_be_used_are_named(
    tmp_path: Path, file: str, fields: Any, message: str
) -> None:
    path = tmp_path / f"{file}.json"
    base = {"num_attention_heads": 4, "layer_norm_eps": 1e-6} if file == "config" else {}
    path.write_text(json.dumps({**base, **fields} if isinstance(fields, dict) else fields))
    state = {name: tensor.contiguous() for name, tensor in transformers_vit().state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(DataFileError, match=message):
        convert_vision(tmp_path, n_heads=None if file == "config" else 4)


# --- files that are not what they should be


def test_wrong_tensors_are_named_all_at_once(tmp_path: Path) -> None:
    state = state_of(RESNET)
    del state["layer1.0.bn1.weight"], state["layer4.1.conv2.weight"]
    state["layer1.0.conv1.weight"] = torch.zeros(16, 16, 5, 5)
    state["head.weight"] = torch.zeros(3)
    with pytest.raises(DataFileError) as caught:
        convert_vision(saved(tmp_path / "w.pt", state))
    message = str(caught.value)
    assert f"the weights in {tmp_path / 'w.pt'} do not fit ResNet" in message
    assert "2 tensors are missing (layer1.0.bn1.weight, layer4.1.conv2.weight)" in message
    assert "1 tensors are not expected (head.weight)" in message
    assert "layer1.0.conv1.weight should be (16, 16, 3, 3), is (16, 16, 5, 5)" in message


def dropped(state: dict[str, Tensor], *starts: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith(starts)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: dropped(state_of(RESNET), "fc."), r"lacks the tensor fc\.weight"),
        (
            lambda: dropped(state_of(RESNET), "layer3.1."),
            r"of 2, 2, 1, 2 basic blocks a stage; known here are ResNet-18",
        ),
        (lambda: {**state_of(RESNET), "conv1.weight": torch.zeros(16, 3, 5, 5)}, r"stem has a kernel of side 5"),
        (
            lambda: {**state_of(RESNET), "conv1.weight": torch.zeros(16, 3)},
            r"conv1\.weight has shape \(16, 3\), expected 4",
        ),
        (lambda: dropped(state_of(VIT), "heads."), r"lacks the tensor heads\.head\.weight"),
        (
            lambda: {**state_of(VIT), "encoder.pos_embedding": torch.zeros(1, 16, 32)},
            r"has 16 positions, expected a square",
        ),
        (
            lambda: dropped(state_of(VIT), "encoder.layers.encoder_layer_0.mlp"),
            r"lacks the tensor encoder\.layers\.enc",
        ),
        (
            lambda: {"transformer.wte.weight": torch.zeros(4, 4)},
            r"no vision network known here .*transformer\.wte\.weight",
        ),
        (lambda: {"model": {"epoch": 3}}, r"holds no tensors"),
        (
            lambda: state_of(VIT) | {f"encoder.layers.encoder_layer_{i}.x": torch.zeros(1) for i in range(500)},
            r"names 500 blocks, but only 524 tensors in them",
        ),
        (
            lambda: {**state_of(VIT), "encoder.layers.encoder_layer_3000000.x": torch.zeros(1)},
            r"names 3 blocks, .* it lacks 2 and has 3000000",
        ),
        (
            lambda: {**state_of(VIT), "encoder.layers.encoder_layer_².x": torch.zeros(1)},
            r"not expected \(encoder\.layers\.encoder_layer_²\.x\)",
        ),
        (
            lambda: {**state_of(VIT), "conv_proj.weight": torch.zeros(10**6, 3, 1, 1)},  # 12 terabytes of attention
            r"do not fit ViT: .*class_token should be \(1, 1, 1000000\)",
        ),
        (
            lambda: {**state_of(RESNET), "conv1.weight": torch.zeros(10**6, 3, 3, 3)},
            r"do not fit ResNet: .* tensors have another shape \(conv1\.weight|bn1\.weight should be \(1000000,\)",
        ),
        (
            lambda: {**state_of(RESNET), "fc.weight": torch.zeros(1).expand(10**9, 128)},
            r"fc\.weight has shape \(1000000000, 128\), but only 4 bytes are stored",
        ),
        (
            lambda: {**state_of(VIT), "encoder.pos_embedding": torch.zeros(1).expand(1, 10**10 + 1, 32)},
            r"encoder\.pos_embedding has shape .* but only 4 bytes are stored",
        ),
        (
            lambda: {**state_of(RESNET), "conv1.weight": torch.zeros(16, 3, 7, 7, dtype=torch.complex64)},
            r"conv1\.weight is of the type torch\.complex64",
        ),
        (
            lambda: {**state_of(RESNET), "layer1.0.conv2.weight": torch.full((16, 16, 3, 3), torch.nan)},
            r"damaged.* layer1\.0\.conv2\.weight has 2304 of 2304 values that are NaN",
        ),
        (
            lambda: {**state_of(RESNET), "bn1.running_var": torch.linspace(-1, 1, 16)},
            r"damaged.* bn1\.running_var has 8 of 16 variances below 0",
        ),
    ],
)
@pytest.mark.slow
def test_files_that_do_not_fit_say_why(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DataFileError, match=message):
        convert_vision(saved(tmp_path / "w.pt", content()), n_heads=4)


@pytest.mark.parametrize("n_heads", [0, -2, True, 2.0, "4"])
def test_heads_that_are_no_count_are_the_askers_fault(n_heads: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"n_heads is a whole number of at least 1, got {n_heads!r}"):
        convert_vision(saved(tmp_path / "w.pt", state_of(VIT)), n_heads=n_heads)


@pytest.mark.parametrize(
    "changes",
    [{"n_heads": True}, {"n_layers": 2.0}, {"width": "32"}, {"dropout": "0"}, {"norm_eps": None}, {"norm_eps": 0.0}],
)
def test_sizes_of_another_type_make_no_config(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(changes))} .*got {next(iter(changes.values()))!r}"):
        replace(VIT, **changes)


def test_a_transformers_vit_without_keys(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in transformers_vit().state_dict().items() if ".k" not in name}
    with pytest.raises(DataFileError, match=r"has queries but not encoder\.layers\.encoder_layer_0\.self_attention\.k"):
        convert_vision(saved(tmp_path / "w.pt", state), n_heads=4)


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    target = tmp_path / "pwned"
    inside = saved(tmp_path / "inside.pt", {"model": state_of(VIT), "args": Trap(target)})
    with pytest.raises(DataFileError, match=r"holds code, not only tensors"):
        convert_vision(inside)
    bare = tmp_path / "bare.pt"
    bare.write_bytes(pickle.dumps(Trap(target)))
    with pytest.raises(DataFileError, match=r"refused and nothing in it was run"):
        convert_vision(bare)
    whole = saved(tmp_path / "whole.pt", nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(DataFileError, match=r"whole pickled module"):
        convert_vision(whole)
    assert not target.exists()


def test_a_truncated_file_and_an_empty_folder(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pt", state_of(VIT))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataFileError, match=r"truncated or damaged"):
        convert_vision(path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataFileError, match=r"holds neither model\.safetensors nor pytorch_model\.bin; found: none"):
        convert_vision(tmp_path / "folder")


def test_a_layout_that_was_asked_for_must_be_the_files(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pt", state_of(RESNET))
    with pytest.raises(DataFileError, match=r"has the layout 'resnet', not 'vit'"):
        convert_vision(path, "vit")
    with pytest.raises(UnknownNameError, match=r"unknown layout 'resnet-blurpol'\. Did you mean 'resnet-blurpool'"):
        convert_vision(path, "resnet-blurpol")


# --- as models


def test_a_file_becomes_a_model_of_images(tmp_path: Path) -> None:
    state = state_of(replace(RESNET, blur_pool=True, stem="small", image_size=32))
    path = saved(tmp_path / "all_topo_tau_10.0.pt", state)
    before = torch.get_rng_state()
    model = load_vision(path, name="topo", device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert check_model(model).ok
    assert model.name == "topo"
    assert model.provenance["weights_file"] == "all_topo_tau_10.0.pt"
    assert "layer2.0.conv1" in model.sheets
    untrained = load_vision(path, weights="untrained", device="cpu")
    assert untrained.name == "all_topo_tau_10.0 (untrained)"
    assert untrained.weights_hash() != model.weights_hash()
    assert untrained.weights_hash() == load_vision(path, weights="untrained:0", device="cpu").weights_hash()
    assert list(untrained.sheets) == list(model.sheets)


def test_a_vit_file_becomes_a_model_of_images(tmp_path: Path) -> None:
    model = load_vision(saved(tmp_path / "vit.pt", state_of(VIT)), n_heads=4, device="cpu")
    assert check_model(model).ok
    assert "encoder.layers.encoder_layer_0.mlp.0" in model.sheets


def test_building_takes_either_weights_or_a_seed() -> None:
    a, b, c = (build_vision(VIT, weights=f"untrained:{seed}") for seed in (1, 1, 2))
    assert torch.equal(a.conv_proj.weight, b.conv_proj.weight)
    assert not torch.equal(a.conv_proj.weight, c.conv_proj.weight)
    assert not a.training
