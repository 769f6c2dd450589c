"""Other people's vision weights: what network a file is of, and its weights under this project's names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from topobrain._checks import DataFileError, InputError, listed, require_choice
from topobrain.models.checkpoint_fields import read_fields, read_number, read_numbers, read_whole
from topobrain.models.checkpoint_files import (
    count_blocks,
    fit_state,
    read_checkpoint,
    require_finite,
    require_fit_unbuilt,
)
from topobrain.models.huggingface import initialise
from topobrain.models.resnet import BLOCKS, ResNet, ResNetConfig, blur_kernel, wrap_resnet
from topobrain.models.torch_model import TorchModel
from topobrain.models.vit import ViT, ViTConfig, wrap_vit

VisionConfig = ResNetConfig | ViTConfig
Config = TypeVar("Config", ResNetConfig, ViTConfig)

LAYOUTS = ("auto", "resnet", "resnet-blurpool", "vit", "transformers-resnet", "transformers-vit")
"""Whose names the tensors have: ``resnet`` and ``vit`` are torchvision's, ``resnet-blurpool`` is the FFCV recipe's that the
TopoNets were trained with, the others are those of transformers."""

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
"""Width -> attention heads of the published sizes of vision transformers (tiny, small, base, large, huge). The number
cannot be told from the tensors."""

STATISTICS = {"image_mean": "mean", "image_std": "std"}
"""What a preprocessor of transformers calls the statistics of the images -> what our configs call them."""

_MARKS = {
    "resnet-blurpool": r"layer[0-9]+\.[0-9]+\..*\.blur_filter",
    "resnet": r"layer[1-4]\.[0-9]+\.(conv|bn)[0-9]\..+",
    "vit": r"conv_proj\..+|encoder\.layers\.encoder_layer_[0-9]+\..+",
    "transformers-resnet": r"(resnet\.)?(embedder\.embedder|encoder\.stages\.[0-9]+)\..+",
    "transformers-vit": r"(vit\.)?embeddings\.(patch_embeddings\.projection\..+|cls_token)",
}
"""Names that only this layout has; the first that occurs decides. Several, so that no single missing tensor hides it."""


def convert_vision(
    path: str | Path, layout: str = "auto", *, n_heads: int | None = None
) -> tuple[VisionConfig, dict[str, Tensor]]:
    """Read a file of vision weights: which network they are of, and its state dict.

    Understood are residual networks and vision transformers as torchvision names them (also inside a training script's
    dictionary, under ``model``), the FFCV recipe's residual networks with blurred strided convolutions (the TopoNets'),
    and transformers' ``ResNetForImageClassification`` and ``ViTForImageClassification``. No code in the file runs (see
    `read_checkpoint`).

    Parameters
    ----------
    path
        A weight file, or a directory with ``model.safetensors`` or ``pytorch_model.bin``. A ``config.json`` of
        transformers beside it is read.
    layout
        One of `LAYOUTS`; ``"auto"`` tells from the names.
    n_heads
        Attention heads of a vision transformer of an unusual width (see `HEADS`).

    Returns
    -------
    config, state
        `ResNetConfig` or `ViTConfig`, and a state dict that fits the network of that config whole. The side of a
        ResNet's images is not in its weights: 224 for its ImageNet stem, 32 for its small one.

    Raises
    ------
    DataFileError
        The file cannot be read, its names are of no known layout, tensors are missing, left over or of another shape, or
        hold NaN, infinite values or negative variances; a field of the config beside it is no number.
    InputError
        The number of heads is needed, or ``n_heads`` is no whole number of at least 1.
    """
    require_choice("layout", layout, LAYOUTS)
    if n_heads is not None and (isinstance(n_heads, bool) or not isinstance(n_heads, int) or n_heads < 1):
        raise InputError(f"n_heads is a whole number of at least 1, got {n_heads!r}")
    source = _weight_file(Path(path).expanduser())
    tensors = read_checkpoint(source).tensors
    found = _layout(tensors, source)
    if layout not in ("auto", found):
        raise DataFileError(f"{source} has the layout {found!r}, not {layout!r}; first names: {listed(tensors, 4)}")
    require_finite(tensors, path=source)
    beside = _config_beside(source) if found.startswith("transformers") else {}
    config: VisionConfig
    if found.endswith("vit"):
        named = _renamed(tensors, _TORCHVISION_VIT if found == "vit" else _TRANSFORMERS_VIT)
        named = _stacked_attention(named, source)
        config = _vit_config(named, source, n_heads, beside)
    else:
        named = _renamed(tensors, _TRANSFORMERS_RESNET) if found == "transformers-resnet" else dict(tensors)
        config = _resnet_config(named, source, beside)
        _check_blur(named, source)
        for name in [name for name in named if name.endswith(".running_var")]:  # some converters leave the counters out
            named.setdefault(name.replace("running_var", "num_batches_tracked"), torch.tensor(0))
    require_fit_unbuilt(lambda: _unseeded(config), named, path=source)
    module = _network(config)
    fit_state(module, named, path=source)
    return config, module.state_dict()


def build_vision(
    config: VisionConfig, state: Mapping[str, Tensor] | None = None, weights: str = "untrained"
) -> ResNet | ViT:
    """Return the network of a config in evaluation mode, with the given state dict or seeded random weights."""
    module = _network(config, weights)
    if state is not None:
        fit_state(module, state, path="the given state dict")
    return module


def load_vision(
    path: str | Path,
    *,
    name: str | None = None,
    layout: str = "auto",
    n_heads: int | None = None,
    weights: str | None = None,
    device: str | torch.device = "auto",
) -> TorchModel:
    """Load a file of vision weights as a model of images (see `convert_vision`, `wrap_resnet` and `wrap_vit`).

    Parameters
    ----------
    path, layout, n_heads
        As in `convert_vision`.
    name
        Name of the model (default: the file's name).
    weights
        None for the weights of the file; ``"untrained"`` or ``"untrained:SEED"`` for the same network with random ones.
    device
        ``"auto"`` or a torch device.
    """
    config, state = convert_vision(path, layout, n_heads=n_heads)
    module = build_vision(config, state if weights is None else None, weights or "untrained")
    label = (name or Path(path).stem) + (f" ({weights})" if weights else "")
    model = (
        wrap_resnet(label, module, device=device)
        if isinstance(module, ResNet)
        else wrap_vit(label, module, device=device)
    )
    model.provenance["weights_file"] = Path(path).name if weights is None else "none (random weights)"
    return model


def _weight_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return path / name
    found = listed(sorted(part.name for part in path.iterdir()))
    raise DataFileError(
        f"{path} holds neither model.safetensors nor pytorch_model.bin; found: {found}. Give one weight file"
    )


def _layout(tensors: Mapping[str, Tensor], source: Path) -> str:
    for layout, mark in _MARKS.items():
        if any(re.fullmatch(mark, name) for name in tensors):
            return layout
    raise DataFileError(
        f"{source} holds no vision network known here (residual network or vision transformer of torchvision, FFCV or "
        f"transformers); its first names: {listed(tensors, 6)}"
    )


def is_vision(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a name occurs that only vision networks known here have."""
    return any(re.fullmatch(mark, name) for mark in _MARKS.values() for name in tensors)


def _config_beside(source: Path) -> dict[str, Any]:
    """Return transformers' config of the weights, and the image statistics of its preprocessor, where they lie beside."""
    fields: dict[str, Any] = {}
    for name in ("config.json", "preprocessor_config.json"):
        path = source.parent / name
        if path.is_file():
            content = read_fields(path)
            if name == "config.json":
                fields.update(content)
            fields.update({key: read_numbers(content, key, path=path) for key in STATISTICS if key in content})
    if fields.get("hidden_act", "") not in ("", "gelu", "relu"):
        raise DataFileError(
            f"{source}: the activation {fields['hidden_act']!r} is not known here, expected 'gelu' or 'relu'"
        )
    for option in ("downsample_in_bottleneck", "downsample_in_first_stage"):
        if fields.get(option):
            raise DataFileError(f"{source}: a ResNet with {option}=true is not known here")
    return fields


# (pattern, replacement) of names, tried in order; the first that matches renames.
_TORCHVISION_VIT = ((r"(encoder\..*\.mlp)\.linear_1\.", r"\1.0."), (r"(encoder\..*\.mlp)\.linear_2\.", r"\1.3."))
"""The feed-forward parts of the files that torchvision published first had other names."""

_BLOCK = r"(?:vit\.)?(?:encoder\.layer|layers)\.([0-9]+)"
_TRANSFORMERS_VIT = (
    (r"(?:vit\.)?embeddings\.cls_token", "class_token"),
    (r"(?:vit\.)?embeddings\.position_embeddings", "encoder.pos_embedding"),
    (r"(?:vit\.)?embeddings\.patch_embeddings\.projection\.", "conv_proj."),
    (_BLOCK + r"\.layernorm_before\.", r"encoder.layers.encoder_layer_\1.ln_1."),
    (_BLOCK + r"\.layernorm_after\.", r"encoder.layers.encoder_layer_\1.ln_2."),
    (_BLOCK + r"\.attention\.(?:attention\.query|q_proj)\.", r"encoder.layers.encoder_layer_\1.self_attention.q."),
    (_BLOCK + r"\.attention\.(?:attention\.key|k_proj)\.", r"encoder.layers.encoder_layer_\1.self_attention.k."),
    (_BLOCK + r"\.attention\.(?:attention\.value|v_proj)\.", r"encoder.layers.encoder_layer_\1.self_attention.v."),
    (_BLOCK + r"\.attention\.(?:output\.dense|o_proj)\.", r"encoder.layers.encoder_layer_\1.self_attention.out_proj."),
    (_BLOCK + r"\.(?:intermediate\.dense|mlp\.fc1)\.", r"encoder.layers.encoder_layer_\1.mlp.0."),
    (_BLOCK + r"\.(?:output\.dense|mlp\.fc2)\.", r"encoder.layers.encoder_layer_\1.mlp.3."),
    (r"(?:vit\.)?layernorm\.", "encoder.ln."),
    (r"classifier\.", "heads.head."),
)
_PART = (
    r"(?:resnet\.)?encoder\.stages\.([0-9]{1,3})\.layers\.([0-9]+)\.(layer\.([0-9]{1,3})|shortcut)\."
    r"(convolution|normalization)\.(\w+)"
)


def _residual_name(match: re.Match[str]) -> str:
    stage, block, where, index, kind, rest = match.groups()
    if where == "shortcut":
        part = f"downsample.{0 if kind == 'convolution' else 1}"
    else:
        part = f"{'conv' if kind == 'convolution' else 'bn'}{int(index) + 1}"
    return f"layer{int(stage) + 1}.{block}.{part}.{rest}"


_TRANSFORMERS_RESNET = (
    (r"(?:resnet\.)?embedder\.embedder\.convolution\.", "conv1."),
    (r"(?:resnet\.)?embedder\.embedder\.normalization\.", "bn1."),
    (_PART, _residual_name),
    (r"classifier\.1\.", "fc."),
)


def _renamed(tensors: Mapping[str, Tensor], rules: Any) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        rule = next((rule for rule in rules if re.match(rule[0], name)), None)
        renamed[name if rule is None else re.sub(rule[0], rule[1], name, count=1)] = tensor
    return renamed


def _stacked_attention(tensors: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Return tensors with separate queries, keys and values stacked into one projection."""
    stacked = dict(tensors)
    for name in tensors:
        match = re.fullmatch(r"(.*self_attention)\.q\.(weight|bias)", name)
        if match:
            parts = [f"{match[1]}.{part}.{match[2]}" for part in "qkv"]
            missing = [part for part in parts if part not in tensors]
            if missing:
                raise DataFileError(f"{source} has queries but not {listed(missing)}")
            shapes = {tuple(tensors[part].shape) for part in parts}
            if len(shapes) > 1:
                raise DataFileError(
                    f"{source}: queries, keys and values of {match[1]} have different shapes: {listed(shapes)}"
                )
            stacked[f"{match[1]}.in_proj_{match[2]}"] = torch.cat([stacked.pop(part).float() for part in parts])
    return stacked


def _shape(tensors: Mapping[str, Tensor], name: str, n_axes: int, source: Path) -> tuple[int, ...]:
    if name not in tensors:
        raise DataFileError(f"{source} lacks the tensor {name}; it has {listed(tensors, 6)}")
    shape = tuple(tensors[name].shape)
    if len(shape) != n_axes or 0 in shape:
        raise DataFileError(f"{source}: {name} has shape {shape}, expected {n_axes} axes")
    return shape


def _resnet_config(tensors: Mapping[str, Tensor], source: Path, beside: Mapping[str, Any]) -> ResNetConfig:
    width, _, kernel, _ = _shape(tensors, "conv1.weight", 4, source)
    n_classes, _ = _shape(tensors, "fc.weight", 2, source)
    counts = tuple(len({n.split(".")[1] for n in tensors if n.startswith(f"layer{stage}.")}) for stage in range(1, 5))
    bottleneck = any(name.startswith("layer1.0.conv3.") for name in tensors)
    depth = 50 if bottleneck else 18
    if counts != BLOCKS[depth]:
        raise DataFileError(
            f"{source} is a residual network of {listed(counts)} {'bottleneck' if bottleneck else 'basic'} blocks a stage; "
            f"known here are ResNet-18 ({listed(BLOCKS[18])} basic) and ResNet-50 ({listed(BLOCKS[50])} bottleneck)"
        )
    if kernel not in (3, 7):
        raise DataFileError(
            f"{source}: the stem has a kernel of side {kernel}, expected 7 (ImageNet) or 3 (small images)"
        )
    config = ResNetConfig(
        depth=depth, n_classes=n_classes, stem="imagenet" if kernel == 7 else "small", width=width,
        blur_pool=any(name.endswith(".blur_filter") for name in tensors), image_size=224 if kernel == 7 else 32,
    )  # fmt: skip
    return _with_statistics(config, beside, source)


def _vit_config(
    tensors: Mapping[str, Tensor], source: Path, n_heads: int | None, beside: Mapping[str, Any]
) -> ViTConfig:
    width, _, patch, _ = _shape(tensors, "conv_proj.weight", 4, source)
    n_tokens = _shape(tensors, "encoder.pos_embedding", 3, source)[1]
    mlp_width, _ = _shape(tensors, "encoder.layers.encoder_layer_0.mlp.0.weight", 2, source)
    n_classes, _ = _shape(tensors, "heads.head.weight", 2, source)
    side = math.isqrt(max(n_tokens - 1, 0))
    if side < 1 or side**2 != n_tokens - 1:
        raise DataFileError(f"{source} has {n_tokens} positions, expected a square number of patches and a class token")
    told = read_whole(beside, "num_attention_heads", path=source.parent / "config.json")
    heads = n_heads or told or HEADS.get(width)
    if heads is None:
        raise InputError(
            f"the number of attention heads of {source} is not in its weights, and {width} is no usual width "
            f"({listed(HEADS)}): give n_heads=, or put transformers' config.json beside the file"
        )
    n_layers = count_blocks(tensors, r"encoder\.layers\.encoder_layer_", path=source)
    eps = read_number(beside, "layer_norm_eps", 1e-6, path=source.parent / "config.json")
    try:
        config = ViTConfig(
            image_size=patch * side, patch_size=patch, width=width, n_layers=n_layers, n_heads=heads, mlp_width=mlp_width,
            n_classes=n_classes, norm_eps=eps,
        )  # fmt: skip
    except InputError as error:
        raise DataFileError(f"{source} is no vision transformer that can be built: {error}") from None
    return _with_statistics(config, beside, source)


def _with_statistics(config: Config, beside: Mapping[str, Any], source: Path) -> Config:
    given: dict[str, Any] = {new: beside[old] for old, new in STATISTICS.items() if old in beside}
    try:
        return replace(config, **given)
    except InputError as error:
        raise DataFileError(f"the statistics of the images beside {source} cannot be used: {error}") from None


def _check_blur(tensors: Mapping[str, Tensor], source: Path) -> None:
    for name, filters in tensors.items():
        if not name.endswith(".blur_filter"):
            continue
        if filters.shape[1:] != (1, 3, 3) or not torch.allclose(filters.float(), blur_kernel(len(filters)), atol=1e-3):
            raise DataFileError(f"{source}: {name} is another low-pass filter than (1, 2, 1) x (1, 2, 1) / 16")


def _network(config: VisionConfig, weights: str = "untrained") -> ResNet | ViT:
    # Drawing weights that a file then replaces costs less than torch's machinery for modules without memory.
    return cast(ResNet | ViT, initialise(lambda: _unseeded(config), weights).eval())


def _unseeded(config: VisionConfig) -> ResNet | ViT:
    return ResNet(config) if isinstance(config, ResNetConfig) else ViT(config)
