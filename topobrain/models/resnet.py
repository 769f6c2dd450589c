"""Residual networks (18 and 50 layers): the convolutional models of the topographic-loss studies."""

from __future__ import annotations

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
    mean_over_space,
    require_channels,
)
from topobrain.models.torch_model import TorchModel
from topobrain.sheet import Sheet

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
"""Depth -> blocks of each of the four stages."""

STEMS = ("imagenet", "small")

BLUR_MIN_CHANNELS = 16
"""Strided convolutions of fewer input channels are not blurred, as in the FFCV recipe (it spares the stem)."""


@dataclass(frozen=True)
class ResNetConfig:
    """Size of a residual network; every field is plain JSON.

    Parameters
    ----------
    depth
        18 (basic blocks) or 50 (bottleneck blocks).
    n_classes
        Classes.
    stem
        ``"imagenet"``: 7 x 7 convolution of stride 2 and max pooling of stride 2; ``"small"``: 3 x 3 convolution of
        stride 1 and no pooling, for images of about 32 x 32.
    width
        Channels of the first stage; the others have 2, 4 and 8 times as many (4 times more in bottleneck blocks).
    blur_pool
        Blur before every strided convolution of at least 16 input channels (see `BlurPoolConv`).
    zero_init_last
        Start the last normalisation of every block at 0, so that blocks start as the identity.
    image_size
        Side of the images, in pixels.
    mean, std
        Channel statistics the images are normalised with (outside the network).
    """

    depth: int = 18
    n_classes: int = 1000
    stem: str = "imagenet"
    width: int = 64
    blur_pool: bool = False
    zero_init_last: bool = False
    image_size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.depth not in BLOCKS:
            raise InputError(f"a ResNet here has depth 18 or 50, got {self.depth}")
        require_choice("stem", self.stem, STEMS)
        for name in ("n_classes", "width", "image_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be 1 or more, got {getattr(self, name)}")
        require_channels(self.mean, self.std)
        for name in ("mean", "std"):  # JSON has no tuples
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))

    @classmethod
    def tiny(cls, n_classes: int = 10) -> ResNetConfig:
        """Return a ResNet-18 with an eighth of the channels for 32 x 32 images, normalised as CIFAR-10."""
        return cls(n_classes=n_classes, stem="small", width=8, image_size=32, mean=CIFAR10_MEAN, std=CIFAR10_STD)


class BlurPoolConv(nn.Module):
    """A strided convolution behind a fixed low-pass filter.

    The filter is the outer product of (1, 2, 1) / 4 with itself, on every channel, with zero padding of 1 and stride 1:
    it removes the frequencies that the stride would fold back. Record this module; what it gives is what the
    convolution in it gives.

    Parameters
    ----------
    conv
        The convolution.

    References
    ----------
    Zhang (2019) Making convolutional networks shift-invariant again, ICML. The order (blur, then convolve with its
    stride) is that of the FFCV ImageNet recipe.
    """

    blur_filter: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.register_buffer("blur_filter", blur_kernel(conv.in_channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the convolution (image, channel, row, column) of the blurred input."""
        blurred = nn.functional.conv2d(maps, self.blur_filter, padding=1, groups=maps.shape[1])
        result: Tensor = self.conv(blurred)
        return result


def blur_kernel(n_channels: int) -> Tensor:
    """Return the low-pass filter of `BlurPoolConv` (channel, 1, 3, 3); it sums to 1 on every channel."""
    row = torch.tensor([1.0, 2.0, 1.0]) / 4
    return torch.outer(row, row).expand(n_channels, 1, 3, 3).clone()


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    expansion = 1
    convolutions = ("conv1", "conv2")

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _convolution(n_in, width, 3, stride), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = _convolution(width, width, 3), nn.BatchNorm2d(width)
        self.downsample = _shortcut(n_in, width * self.expansion, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the block's output (image, channel, row, column)."""
        residual = self.relu(self.bn1(self.conv1(maps)))
        residual = self.bn2(self.conv2(residual))
        shortcut = maps if self.downsample is None else self.downsample(maps)
        output: Tensor = self.relu(residual + shortcut)
        return output


class Bottleneck(nn.Module):
    """A 3 x 3 convolution between two of 1 x 1, beside a shortcut; the stride is that of the 3 x 3 convolution."""

    expansion = 4
    convolutions = ("conv1", "conv2", "conv3")

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        n_out = width * self.expansion
        self.conv1, self.bn1 = _convolution(n_in, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _convolution(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _convolution(width, n_out, 1), nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(n_in, n_out, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the block's output (image, channel, row, column)."""
        residual = self.relu(self.bn1(self.conv1(maps)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        shortcut = maps if self.downsample is None else self.downsample(maps)
        output: Tensor = self.relu(residual + shortcut)
        return output


def _convolution(n_in: int, n_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2, bias=False)


def _shortcut(n_in: int, n_out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and n_in == n_out:
        return None
    return nn.Sequential(_convolution(n_in, n_out, 1, stride), nn.BatchNorm2d(n_out))


class ResNet(nn.Module):
    """A residual network that classifies images.

    Parameters have the names of torchvision's networks, so that their weights can be loaded. Weights of convolutions
    start with He's normal distribution (fan out), normalisations as the identity.

    Parameters
    ----------
    config
        Size.

    References
    ----------
    He, Zhang, Ren & Sun (2016) Deep residual learning for image recognition, CVPR. The stride of bottleneck blocks is
    in their 3 x 3 convolution ("v1.5").

    Examples
    --------
    >>> net = ResNet(ResNetConfig.tiny(n_classes=5))
    >>> tuple(net(torch.zeros(2, 3, 32, 32)).shape)
    (2, 5)
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        imagenet = config.stem == "imagenet"
        kernel, stride = (7, 2) if imagenet else (3, 1)
        self.conv1 = _convolution(3, config.width, kernel, stride)
        self.bn1 = nn.BatchNorm2d(config.width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if imagenet else nn.Identity()
        block = BasicBlock if config.depth == 18 else Bottleneck
        n_in = config.width
        for stage, n_blocks in enumerate(BLOCKS[config.depth]):
            width = config.width * 2**stage
            blocks = []
            for index in range(n_blocks):
                blocks.append(block(n_in, width, 2 if stage > 0 and index == 0 else 1))
                n_in = width * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(n_in, config.n_classes)
        self._initialise()
        if config.blur_pool:
            _blur_strided(self)

    def _initialise(self) -> None:
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            elif self.config.zero_init_last and isinstance(part, BasicBlock | Bottleneck):
                nn.init.zeros_(_last_norm(part).weight)

    def forward(self, images: Tensor) -> Tensor:
        """Return class logits (image, class) of normalised images (image, 3, row, column)."""
        logits: Tensor = self.fc(self.features(images))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Return the pooled vector (image, unit) that the classifier reads."""
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for stage in range(1, 5):
            maps = self.get_submodule(f"layer{stage}")(maps)
        return torch.flatten(self.avgpool(maps), 1)


def _last_norm(block: BasicBlock | Bottleneck) -> nn.BatchNorm2d:
    return block.bn2 if isinstance(block, BasicBlock) else block.bn3


def _blur_strided(module: nn.Module) -> None:
    for name, part in list(module.named_children()):
        if isinstance(part, nn.Conv2d) and max(part.stride) > 1 and part.in_channels >= BLUR_MIN_CHANNELS:
            setattr(module, name, BlurPoolConv(part))
        else:
            _blur_strided(part)


def block_convolutions(module: ResNet, *, shortcuts: bool = False) -> dict[str, nn.Conv2d]:
    """Return the convolutions inside residual blocks, in depth order: the layers a topographic loss lays on sheets.

    Parameters
    ----------
    module
        The network.
    shortcuts
        Count the 1 x 1 convolutions of shortcuts too (ResNet-18: 19 instead of 16, ResNet-50: 52 instead of 48).

    Returns
    -------
    dict
        Dotted path to record -> the convolution itself. They differ where a convolution is wrapped in a `BlurPoolConv`:
        the wrapper is recorded, the weight is that of the convolution in it.

    Examples
    --------
    >>> list(block_convolutions(ResNet(ResNetConfig.tiny())))[:3]
    ['layer1.0.conv1', 'layer1.0.conv2', 'layer1.1.conv1']
    """
    found: dict[str, nn.Conv2d] = {}
    for path, part in module.named_modules():
        if not isinstance(part, BasicBlock | Bottleneck):
            continue
        shortcut = ("downsample.0",) if shortcuts and part.downsample is not None else ()
        for name in (*part.convolutions, *shortcut):
            conv = part.get_submodule(name)
            inner = conv.conv if isinstance(conv, BlurPoolConv) else conv
            if isinstance(inner, nn.Conv2d):
                found[f"{path}.{name}"] = inner
    return found


def wrap_resnet(
    name: str, module: ResNet, *, shortcuts: bool = False, crop: float = 1.0, device: str | torch.device = "auto"
) -> TorchModel:
    """Wrap a ResNet as a model of images whose units are channels.

    Layers, in depth order: every convolution of a residual block (``layer1.0.conv1``, before normalisation), the output
    of every block (``layer1.0``) and the pooled vector (``avgpool``). Maps are averaged over space, so that a unit is a
    channel; its sheet is the most square grid (8 x 8 for 64 channels).

    Parameters
    ----------
    name
        Name of the model.
    module
        The network. Its config says how images are resized and normalised.
    shortcuts
        Record the 1 x 1 convolutions of shortcuts too.
    crop
        Share of the shorter side of an image that is shown (see `ImageEncoder`).
    device
        ``"auto"`` or a torch device.

    References
    ----------
    Deb, Deb & Murty (2025) TopoNets, ICLR: the sheets are those of every convolution in every residual block.
    """
    config = module.config
    convolutions = block_convolutions(module, shortcuts=shortcuts)
    sheets: dict[str, Sheet] = {}
    for path, part in module.named_modules():
        if isinstance(part, BasicBlock | Bottleneck):
            inside = {layer: conv.out_channels for layer, conv in convolutions.items() if layer.startswith(f"{path}.")}
            sheets.update({layer: Sheet.for_width(n) for layer, n in inside.items()})
            sheets[path] = Sheet.for_width(_last_norm(part).num_features)
    sheets["avgpool"] = Sheet.for_width(module.fc.in_features)
    encoder = ImageEncoder(config.image_size, config.mean, config.std, crop=crop)
    return TorchModel(name, module, encoder, sheets, pools=dict.fromkeys(sheets, mean_over_space), device=device)
