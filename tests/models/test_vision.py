from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import topobrain as tb
from topobrain._checks import InputError, UnknownNameError
from topobrain.models.resnet import BlurPoolConv, ResNet, ResNetConfig, block_convolutions, blur_kernel, wrap_resnet
from topobrain.models.torch_model import TorchModel
from topobrain.models.vit import SelfAttention, ViT, ViTConfig, wrap_vit
from topobrain.testing import check_model, sample_stimuli

TINY_50 = ResNetConfig(depth=50, n_classes=5, width=8, image_size=64)


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> Any:
    """Build a module whose normalisations are not the identity: those of a fresh one hide mistakes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                assert part.running_mean is not None
                assert part.running_var is not None
                part.running_mean.normal_(std=0.3)
                part.running_var.uniform_(0.5, 2.0)
            if isinstance(part, nn.BatchNorm2d | nn.LayerNorm):
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, std=0.1)
    return module.eval()


def images(n: int, size: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 3, size, size)).astype(np.float32))


def n_parameters(build: Callable[[], nn.Module]) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


# --- sizes and names


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (lambda: ResNet(ResNetConfig()), 11_689_512),
        (lambda: ResNet(ResNetConfig(depth=50)), 25_557_032),
        (lambda: ResNet(ResNetConfig(depth=50, blur_pool=True)), 25_557_032),
        (lambda: ViT(ViTConfig()), 88_224_232),
    ],
)
def test_parameter_counts_are_the_published_ones(build: Callable[[], nn.Module], count: int) -> None:
    assert n_parameters(build) == count


def test_names_are_those_of_torchvision() -> None:
    with torch.device("meta"):
        resnet, vit = ResNet(ResNetConfig()).state_dict(), ViT(ViTConfig()).state_dict()
    assert len(resnet) == 122
    assert {
        "conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "layer2.0.downsample.0.weight",
        "layer2.0.downsample.1.num_batches_tracked", "layer4.1.bn2.bias", "fc.weight", "fc.bias",
    } <= set(resnet)  # fmt: skip
    assert tuple(resnet["layer2.0.downsample.0.weight"].shape) == (128, 64, 1, 1)
    assert len(vit) == 152
    block = "encoder.layers.encoder_layer_11."
    assert {
        "class_token", "conv_proj.weight", "conv_proj.bias", "encoder.pos_embedding", "encoder.ln.weight",
        "heads.head.weight", f"{block}ln_1.weight", f"{block}self_attention.in_proj_weight",
        f"{block}self_attention.in_proj_bias", f"{block}self_attention.out_proj.weight", f"{block}ln_2.bias",
        f"{block}mlp.0.weight", f"{block}mlp.3.bias",
    } <= set(vit)  # fmt: skip
    assert tuple(vit["encoder.pos_embedding"].shape) == (1, 50, 768)


@pytest.mark.parametrize(
    "config",
    [
        ResNetConfig.tiny(7),
        TINY_50,
        ResNetConfig(blur_pool=True, zero_init_last=True),
        ViTConfig.tiny(7),
        ViTConfig(dropout=0.1),
    ],
)
def test_configs_survive_json(config: ResNetConfig | ViTConfig) -> None:
    assert type(config)(**json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ResNetConfig(depth=34), r"depth 18 or 50, got 34"),
        (lambda: ResNetConfig(width=0), r"width must be 1 or more"),
        (lambda: ResNetConfig(mean=(0.5,)), r"mean is one number for each"),
        (lambda: ViTConfig(patch_size=30), r"side 224 cannot be cut into patches of side 30"),
        (lambda: ViTConfig(n_heads=7), r"768 units cannot be shared by 7 heads"),
        (lambda: ViTConfig(n_layers=0), r"n_layers must be 1 or more"),
    ],
)
def test_impossible_configs_are_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()


def test_an_unknown_stem_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"'imagenett'\. Did you mean 'imagenet'"):
        ResNetConfig(stem="imagenett")


# --- residual networks, recomputed from their weights


def recomputed(net: ResNet, x: Tensor) -> Tensor:
    """The network again as plain functions of its state dict."""
    w = net.state_dict()

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        if f"{name}.blur_filter" in w:
            padded = F.pad(x, (1, 1, 1, 1))
            x = sum(
                weight * padded[:, :, i : i + x.shape[2], j : j + x.shape[3]]
                for i, row in enumerate((1 / 4, 1 / 2, 1 / 4))
                for j, weight in enumerate(np.array((1 / 4, 1 / 2, 1 / 4)) * row)
            )
            name = f"{name}.conv"
        kernel = w[f"{name}.weight"]
        return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var, gain, bias = (w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        scaled = (x - mean[:, None, None]) / torch.sqrt(var + 1e-5)[:, None, None]
        return scaled * gain[:, None, None] + bias[:, None, None]

    imagenet = net.config.stem == "imagenet"
    x = norm("bn1", conv("conv1", x, 2 if imagenet else 1)).clamp(min=0)
    if imagenet:
        x = F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)  # nothing is below 0
    last = 2 if net.config.depth == 18 else 3
    for stage in range(1, 5):
        for index in range(99):
            block = f"layer{stage}.{index}"
            if f"{block}.bn1.weight" not in w:
                break
            stride = 2 if stage > 1 and index == 0 else 1
            y = x
            for part in range(1, last + 1):
                y = norm(f"{block}.bn{part}", conv(f"{block}.conv{part}", y, stride if part == last - 1 else 1))
                y = y.clamp(min=0) if part < last else y
            if f"{block}.downsample.1.weight" in w:
                x = norm(f"{block}.downsample.1", conv(f"{block}.downsample.0", x, stride))
            x = (x + y).clamp(min=0)
    return x.mean(dim=(2, 3)) @ w["fc.weight"].T + w["fc.bias"]


@pytest.mark.parametrize("blur", [False, True])
@pytest.mark.parametrize("config", [replace(ResNetConfig.tiny(5), width=16), TINY_50, replace(TINY_50, stem="small")])
def test_forward_equals_a_recomputation_from_the_weights(config: ResNetConfig, blur: bool) -> None:
    net = seeded(lambda: ResNet(replace(config, blur_pool=blur)))
    x = images(2, 32)
    with torch.no_grad():
        found, expected = net(x), recomputed(net, x)
    assert found.shape == (2, 5)
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_blur_changes_the_output() -> None:
    """The recomputation above would not notice if both left it out."""
    config = replace(ResNetConfig.tiny(5), width=16)
    plain, blurred = seeded(lambda: ResNet(config)), seeded(lambda: ResNet(replace(config, blur_pool=True)))
    x = images(1, 32)
    assert not torch.allclose(plain(x), blurred(x), atol=1e-3)
    weights = plain.state_dict()
    for name, tensor in blurred.state_dict().items():
        if not name.endswith("blur_filter"):
            torch.testing.assert_close(weights[name.replace(".conv.weight", ".weight")], tensor)


@pytest.mark.parametrize(
    ("depth", "wrapped"),
    [
        (18, {f"layer{s}.0.{part}" for s in (2, 3, 4) for part in ("conv1", "downsample.0")}),
        (50, {f"layer{s}.0.{part}" for s in (2, 3, 4) for part in ("conv2", "downsample.0")}),
    ],
)
def test_every_strided_convolution_but_the_stem_is_blurred(depth: int, wrapped: set[str]) -> None:
    with torch.device("meta"):
        net = ResNet(ResNetConfig(depth=depth, blur_pool=True))
    assert {path for path, part in net.named_modules() if isinstance(part, BlurPoolConv)} == wrapped
    assert "layer2.0.downsample.0.conv.weight" in net.state_dict()
    assert "conv1.weight" in net.state_dict()


def test_the_blur_filter_is_the_binomial_one() -> None:
    kernel = blur_kernel(3)
    assert tuple(kernel.shape) == (3, 1, 3, 3)
    assert (kernel[1, 0] * 16).tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    conv = nn.Conv2d(16, 16, 1, stride=2, bias=False)
    nn.init.dirac_(conv.weight)
    checkers = torch.ones(1, 16, 8, 8)
    checkers[:, :, ::2, 1::2] = checkers[:, :, 1::2, ::2] = -1
    assert float(conv(checkers).detach().abs().min()) == 1  # aliased to a constant
    assert float(BlurPoolConv(conv)(checkers).detach()[:, :, 1:, 1:].abs().max()) == 0


def test_initial_weights() -> None:
    net = ResNet(replace(ResNetConfig.tiny(), width=64)).requires_grad_(False)
    weight = net.get_submodule("layer2.1.conv1").weight
    assert float(weight.std()) == pytest.approx(np.sqrt(2 / (128 * 9)), rel=0.02)
    assert float(net.get_submodule("layer1.0.bn2").weight.min()) == 1
    zero = ResNet(replace(ResNetConfig.tiny(), zero_init_last=True)).requires_grad_(False)
    for stage in range(1, 5):
        assert float(zero.get_submodule(f"layer{stage}.1.bn2").weight.abs().max()) == 0
        assert float(zero.get_submodule(f"layer{stage}.1.bn1").weight.min()) == 1
    block = zero.eval().get_submodule("layer1.0")
    x = images(1, 8).abs().repeat(1, 3, 1, 1)[:, :8]
    torch.testing.assert_close(block(x), x)
    zero_50 = ResNet(replace(TINY_50, zero_init_last=True)).requires_grad_(False)
    assert float(zero_50.get_submodule("layer1.0.bn3").weight.abs().max()) == 0


def test_evaluation_does_not_depend_on_the_batch() -> None:
    net = seeded(lambda: ResNet(ResNetConfig.tiny()))
    x = images(3, 32)
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]))
    net.train()
    assert not torch.allclose(net(x)[1:2], net(x[1:2]), atol=1e-3)


@pytest.mark.parametrize(
    ("depth", "blur", "without", "all_of_them"), [(18, False, 16, 19), (50, False, 48, 52), (18, True, 16, 19)]
)
def test_the_convolutions_of_residual_blocks(depth: int, blur: bool, without: int, all_of_them: int) -> None:
    with torch.device("meta"):
        net = ResNet(ResNetConfig(depth=depth, blur_pool=blur))
    found = block_convolutions(net, shortcuts=True)
    assert (len(block_convolutions(net)), len(found)) == (without, all_of_them)
    assert all(isinstance(conv, nn.Conv2d) for conv in found.values())
    assert {"conv1", "fc"}.isdisjoint(found)
    for path, conv in found.items():
        outer = net.get_submodule(path)
        assert outer is conv or (isinstance(outer, BlurPoolConv) and outer.conv is conv)


def resnet(**changes: Any) -> TorchModel:
    config = replace(ResNetConfig.tiny(5), **changes)
    return wrap_resnet("tiny ResNet", seeded(lambda: ResNet(config)), device="cpu")


@pytest.mark.parametrize("changes", [{}, {"width": 16, "blur_pool": True}, {"depth": 50, "width": 4}])
@pytest.mark.slow
def test_a_wrapped_resnet_keeps_the_contract(changes: dict[str, Any]) -> None:
    assert check_model(resnet(**changes)).ok


def test_layers_of_a_resnet_come_in_depth_order_with_their_sheets() -> None:
    model = resnet()
    assert list(model.sheets)[:7] == [
        "layer1.0.conv1", "layer1.0.conv2", "layer1.0", "layer1.1.conv1", "layer1.1.conv2", "layer1.1", "layer2.0.conv1"
    ]  # fmt: skip
    assert list(model.sheets)[-1] == "avgpool"
    assert len(model.sheets) == 16 + 8 + 1
    with torch.device("meta"):
        large = ResNet(ResNetConfig(depth=50))
    sheets = wrap_resnet("r50", large.to_empty(device="cpu"), shortcuts=True, device="cpu").sheets
    assert len(sheets) == 52 + 16 + 1
    shown = ("layer1.0.conv1", "layer1.0.downsample.0", "layer4.0.conv2", "layer4.2", "avgpool")
    places = [(sheets[name].height, sheets[name].width) for name in shown]
    assert places == [(8, 8), (16, 16), (16, 32), (32, 64), (32, 64)]


def test_a_unit_is_a_channel_averaged_over_space() -> None:
    model = resnet(width=16, blur_pool=True)
    shown = sample_stimuli(model)
    found = model.record(shown, list(model.sheets)).values
    x = model.encode(shown).inputs
    kept: dict[str, Tensor] = {}
    block = model.module.get_submodule("layer2.0")
    block.get_submodule("conv1").register_forward_hook(lambda _m, _i, out: kept.update(conv1=out.clone()))
    block.register_forward_hook(lambda _m, _i, out: kept.update(block=out.clone()))
    with torch.no_grad():
        pooled = model.module.features(x)
    assert kept["conv1"].shape[1:] == (32, 16, 16)
    torch.testing.assert_close(found["layer2.0.conv1"][:, 0], kept["conv1"].mean(dim=(2, 3)))
    torch.testing.assert_close(found["layer2.0"][:, 0], kept["block"].mean(dim=(2, 3)))
    torch.testing.assert_close(found["avgpool"][:, 0], pooled)


def test_normalisation_is_that_of_the_config() -> None:
    shown = sample_stimuli(resnet())
    one, other = resnet(), resnet(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert not torch.allclose(
        one.record(shown, ["avgpool"]).values["avgpool"], other.record(shown, ["avgpool"]).values["avgpool"]
    )
    assert one.weights_hash() != other.weights_hash()  # its config is part of it


# --- vision transformer


def test_attention_equals_torchs() -> None:
    mine = seeded(lambda: SelfAttention(24, 4))
    theirs = nn.MultiheadAttention(24, 4, batch_first=True)
    theirs.load_state_dict(mine.state_dict())
    states = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 5, 24)).astype(np.float32))
    torch.testing.assert_close(
        mine(states), theirs(states, states, states, need_weights=False)[0], rtol=1e-5, atol=1e-5
    )


def test_blocks_equal_torchs_pre_norm_layers() -> None:
    config = ViTConfig.tiny(5)
    net = seeded(lambda: ViT(config))
    x = images(2, 32)
    patches = torch.stack(
        [x[:, :, i : i + 8, j : j + 8].flatten(1) for i in range(0, 32, 8) for j in range(0, 32, 8)], dim=1
    )
    states = patches @ net.conv_proj.weight.flatten(1).T + net.conv_proj.bias
    states = torch.cat([net.class_token.expand(2, -1, -1), states], dim=1) + net.encoder.pos_embedding
    for block in net.encoder.layers.values():
        layer = nn.TransformerEncoderLayer(
            32, 4, 64, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
        )
        names = {
            "linear1": "mlp.0",
            "linear2": "mlp.3",
            "norm1": "ln_1",
            "norm2": "ln_2",
            "self_attn": "self_attention",
        }
        own = block.state_dict()
        layer.load_state_dict(
            {name: own[name.replace(name.split(".")[0], names[name.split(".")[0]], 1)] for name in layer.state_dict()}
        )
        states = layer(states)
    expected = net.heads["head"](F.layer_norm(states, (32,), net.encoder.ln.weight, net.encoder.ln.bias, 1e-6)[:, 0])
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-4)


def test_a_vit_refuses_images_of_another_size() -> None:
    with pytest.raises(InputError, match=r"reads images \(image, 3, 32, 32\), got \(1, 3, 40, 40\)"):
        seeded(lambda: ViT(ViTConfig.tiny()))(images(1, 40))


def vit(**options: Any) -> TorchModel:
    return wrap_vit("tiny ViT", seeded(lambda: ViT(ViTConfig.tiny(5))), device="cpu", **options)


@pytest.mark.parametrize("tokens", ["patches", "class"])
def test_a_wrapped_vit_keeps_the_contract(tokens: str) -> None:
    assert check_model(vit(tokens=tokens)).ok


def test_layers_of_a_vit_come_in_depth_order_with_their_sheets() -> None:
    block = "encoder.layers.encoder_layer_"
    expected = [f"{block}0.mlp.0", f"{block}0", f"{block}1.mlp.0", f"{block}1", "encoder.ln"]
    assert list(vit().sheets) == ["embeddings", *expected]
    assert list(vit(tokens="class").sheets) == expected
    with torch.device("meta"):
        large = ViT(ViTConfig(n_layers=1))
    sheet = wrap_vit("large", large.to_empty(device="cpu"), device="cpu").sheets[f"{block}0.mlp.0"]
    assert (sheet.height, sheet.width) == (48, 64)
    with pytest.raises(UnknownNameError, match=r"unknown tokens 'patch'\. Did you mean 'patches'"):
        vit(tokens="patch")


def test_units_of_a_vit_are_means_over_patches_or_the_class_token() -> None:
    patches, cls = vit(), vit(tokens="class")
    shown = sample_stimuli(patches)
    layer = "encoder.ln"
    with torch.no_grad():
        states = patches.module.states(patches.encode(shown).inputs)
    torch.testing.assert_close(patches.record(shown, [layer]).values[layer][:, 0], states[:, 1:].mean(dim=1))
    torch.testing.assert_close(cls.record(shown, [layer]).values[layer][:, 0], states[:, 0])
    assert patches.weights_hash() != cls.weights_hash()


# --- in the library


@pytest.mark.parametrize("build", [resnet, vit])
@pytest.mark.slow
def test_pictures_go_through_extraction(build: Callable[[], TorchModel]) -> None:
    model = build()
    rng = np.random.default_rng(1)
    dark = [rng.integers(0, 60, (32, 32, 3), dtype=np.uint8) for _ in range(6)]
    light = [rng.integers(190, 256, (32, 32, 3), dtype=np.uint8) for _ in range(6)]
    stimuli = tb.StimulusSet([*dark, *light], {"condition": ["dark"] * 6 + ["light"] * 6})
    activations = tb.extract(model, stimuli)
    assert activations.layers == list(model.sheets)
    result = tb.localize(activations, tb.Contrast("light", on="light", off="dark"))
    assert np.abs(result.values(list(model.sheets)[-1])).max() > 5
    with pytest.raises(InputError, match="this model reads images"):
        tb.extract(model, tb.StimulusSet(["a dog"]))
