"""Vision transformer (ViT-B/32 and smaller): images as sequences of patches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from topobrain._checks import InputError, require_choice
from topobrain.models.image_encoder import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageEncoder,
    class_token,
    mean_over_patches,
    require_channels,
)
from topobrain.models.torch_model import INPUT, TorchModel
from topobrain.sheet import Sheet

BLOCKS = "encoder.layers.encoder_layer_"
"""Path of a block without its number."""

TOKENS = {"patches": mean_over_patches, "class": class_token}
"""Which token states make a unit's value, and the function that picks them."""


@dataclass(frozen=True)
class ViTConfig:
    """Size of a vision transformer; the defaults are ViT-B/32, every field is plain JSON.

    Parameters
    ----------
    image_size, patch_size
        Side of the images and of a patch, in pixels; the first is a multiple of the second.
    width, n_layers, n_heads, mlp_width
        Units of a token, blocks, attention heads, hidden units of the feed-forward part.
    n_classes
        Classes.
    dropout
        Share of units dropped in training.
    norm_eps
        Constant that layer normalisation adds to the variance.
    mean, std
        Channel statistics the images are normalised with (outside the network).
    """

    image_size: int = 224
    patch_size: int = 32
    width: int = 768
    n_layers: int = 12
    n_heads: int = 12
    mlp_width: int = 3072
    n_classes: int = 1000
    dropout: float = 0.0
    norm_eps: float = 1e-6
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "width", "n_layers", "n_heads", "mlp_width", "n_classes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be 1 or more, a whole number, got {value!r}")
        if self.image_size % self.patch_size:
            raise InputError(f"an image of side {self.image_size} cannot be cut into patches of side {self.patch_size}")
        if self.width % self.n_heads:
            raise InputError(f"{self.width} units cannot be shared by {self.n_heads} heads")
        if not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise InputError(f"dropout is a share from 0 to below 1, got {self.dropout!r}")
        if not isinstance(self.norm_eps, int | float) or not 0 < self.norm_eps < math.inf:
            raise InputError(f"norm_eps is a positive finite number, got {self.norm_eps!r}")
        require_channels(self.mean, self.std)
        for name in ("mean", "std"):  # JSON has no tuples
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))

    @property
    def n_tokens(self) -> int:
        """Patches of an image, and the class token."""
        return int((self.image_size // self.patch_size) ** 2) + 1

    @classmethod
    def tiny(cls, n_classes: int = 10) -> ViTConfig:
        """Return two blocks of 32 units for 32 x 32 images in 16 patches, normalised as CIFAR-10."""
        return cls(
            image_size=32, patch_size=8, width=32, n_layers=2, n_heads=4, mlp_width=64, n_classes=n_classes,
            mean=CIFAR10_MEAN, std=CIFAR10_STD,
        )  # fmt: skip


class SelfAttention(nn.Module):
    """Multi-head self-attention with queries, keys and values from one stacked projection (3 x width rows)."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Return attention output (image, token, unit)."""
        n_images, n_tokens, width = states.shape
        stacked = nn.functional.linear(states, self.in_proj_weight, self.in_proj_bias)
        parts = stacked.reshape(n_images, n_tokens, 3, self.n_heads, width // self.n_heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(queries, keys, values)
        output: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(n_images, n_tokens, width))
        return output


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a feed-forward part with exact GELU."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        d, hidden = config.width, config.mlp_width
        self.ln_1 = nn.LayerNorm(d, eps=config.norm_eps)
        self.self_attention = SelfAttention(d, config.n_heads)
        self.dropout = nn.Dropout(config.dropout)
        self.ln_2 = nn.LayerNorm(d, eps=config.norm_eps)
        self.mlp = nn.Sequential(
            nn.Linear(d, hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(hidden, d),
            nn.Dropout(config.dropout),
        )
        for index in (0, 3):
            nn.init.xavier_uniform_(self.get_submodule(f"mlp.{index}").get_parameter("weight"))
            nn.init.normal_(self.get_submodule(f"mlp.{index}").get_parameter("bias"), std=1e-6)

    def forward(self, states: Tensor) -> Tensor:
        """Return the block's output (image, token, unit)."""
        states = states + self.dropout(self.self_attention(self.ln_1(states)))
        output: Tensor = states + self.mlp(self.ln_2(states))
        return output


class Encoder(nn.Module):
    """Learned positions, blocks, and a last normalisation."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.empty(1, config.n_tokens, config.width).normal_(std=0.02))
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleDict({f"encoder_layer_{i}": Block(config) for i in range(config.n_layers)})
        self.ln = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, states: Tensor) -> Tensor:
        """Return normalised states (image, token, unit) of token embeddings."""
        states = self.dropout(states + self.pos_embedding)
        for block in self.layers.values():
            states = block(states)
        output: Tensor = self.ln(states)
        return output


class ViT(nn.Module):
    """A vision transformer that classifies images by a class token.

    Parameters have the names of torchvision's networks, so that their weights can be loaded.

    Parameters
    ----------
    config
        Size.

    References
    ----------
    Dosovitskiy et al. (2021) An image is worth 16x16 words, ICLR, equations 1-4.

    Examples
    --------
    >>> net = ViT(ViTConfig.tiny(n_classes=5))
    >>> tuple(net(torch.zeros(2, 3, 32, 32)).shape)
    (2, 5)
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        d = config.width
        self.class_token = nn.Parameter(torch.zeros(1, 1, d))
        self.conv_proj = nn.Conv2d(3, d, config.patch_size, stride=config.patch_size)
        self.encoder = Encoder(config)
        self.heads = nn.ModuleDict({"head": nn.Linear(d, config.n_classes)})
        nn.init.trunc_normal_(self.conv_proj.weight, std=1 / math.sqrt(3 * config.patch_size**2))
        if self.conv_proj.bias is not None:
            nn.init.zeros_(self.conv_proj.bias)
        nn.init.trunc_normal_(self.heads["head"].get_parameter("weight"), std=0.02)
        nn.init.zeros_(self.heads["head"].get_parameter("bias"))

    def forward(self, images: Tensor) -> Tensor:
        """Return class logits (image, class) of normalised images (image, 3, row, column)."""
        logits: Tensor = self.heads["head"](self.states(images)[:, 0])
        return logits

    def states(self, images: Tensor) -> Tensor:
        """Return the normalised states (image, token, unit) of the class token and of every patch, row by row.

        Raises
        ------
        InputError
            Images of another size: the learned positions are those of one size.
        """
        size = self.config.image_size
        if images.shape[1:] != (3, size, size):
            raise InputError(f"this ViT reads images (image, 3, {size}, {size}), got {tuple(images.shape)}")
        patches = self.conv_proj(images).flatten(2).transpose(1, 2)
        first = self.class_token.expand(len(images), -1, -1)
        states: Tensor = self.encoder(torch.cat([first, patches], dim=1))
        return states


def wrap_vit(
    name: str, module: ViT, *, tokens: str = "patches", crop: float = 1.0, device: str | torch.device = "auto"
) -> TorchModel:
    """Wrap a vision transformer as a model of images whose units are those of a token.

    Layers, in depth order: ``embeddings`` (patches with their positions), and for every block the first linear layer of
    its feed-forward part (``encoder.layers.encoder_layer_0.mlp.0``, before GELU; 48 x 64 units in ViT-B/32) and its
    output (``encoder.layers.encoder_layer_0``); at last ``encoder.ln``.

    Parameters
    ----------
    name
        Name of the model.
    module
        The network. Its config says how images are resized and normalised.
    tokens
        What a unit's value is: ``"patches"``, its mean over the patches (without the class token), as convolutional maps
        are averaged over space; or ``"class"``, its value at the class token, which the classifier reads. The class
        token starts equal for every image, so with ``"class"`` there is no layer ``embeddings``.
    crop
        Share of the shorter side of an image that is shown (see `ImageEncoder`).
    device
        ``"auto"`` or a torch device.
    """
    require_choice("tokens", tokens, list(TOKENS))
    config = module.config
    paths = {"embeddings": f"{BLOCKS}0{INPUT}"} if tokens == "patches" else {}
    sheets = {layer: Sheet.for_width(config.width) for layer in paths}
    for i in range(config.n_layers):
        sheets[f"{BLOCKS}{i}.mlp.0"] = Sheet.for_width(config.mlp_width)
        sheets[f"{BLOCKS}{i}"] = Sheet.for_width(config.width)
    sheets["encoder.ln"] = Sheet.for_width(config.width)
    encoder = ImageEncoder(config.image_size, config.mean, config.std, crop=crop)
    pools = dict.fromkeys(sheets, TOKENS[tokens])
    return TorchModel(name, module, encoder, sheets, paths=paths, pools=pools, device=device)
