"""ImageEncoder: pictures to normalised image batches; and what makes one value a unit of a layer's output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topobrain._checks import InputError
from topobrain.models.torch_model import Encoded

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Channel statistics of ImageNet that nearly every published vision model was trained with (pixels in 0..1)."""

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Channel statistics of CIFAR-10 (pixels in 0..1)."""

TOKEN_SIDE = 16
"""An image counts in batches as one token for every square of this side, in pixels: `extract` bounds memory by it."""


class ImageEncoder:
    """Encode pictures as one batch of normalised images, each with one token of word 0.

    The shorter side is resized to ``size / crop`` pixels (bilinear, antialiased), the centre is cut out, and every
    channel is normalised: ``(pixel / 255 - mean) / std``.

    Parameters
    ----------
    size
        Side of the square image the model sees, in pixels.
    mean, std
        Channel statistics (red, green, blue) for pixels in 0..1.
    crop
        Share of the shorter side that is kept. The default shows the whole shorter side, as stimuli of experiments are
        meant to be seen; 0.875 is the usual evaluation on ImageNet (resize to 256, keep 224).

    Examples
    --------
    >>> encode = ImageEncoder(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    >>> images, word = encode([np.full((20, 30, 3), 255, dtype=np.uint8)])
    >>> tuple(images.shape), float(images.max()), word.tolist()
    ((1, 3, 8, 8), 1.0, [[0]])
    """

    reads = "images"
    """What the stimuli of a model with this encoder must be (see `topobrain.testing.check_model`)."""

    def __init__(
        self,
        size: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        *,
        crop: float = 1.0,
    ) -> None:
        if size < 1:
            raise InputError(f"an image needs a side of 1 pixel or more, got size={size}")
        if not 0 < crop <= 1:
            raise InputError(f"crop is the share of the shorter side that is kept, above 0 and at most 1; got {crop}")
        require_channels(mean, std)
        self.size = size
        self.mean = torch.tensor(mean, dtype=torch.float32).reshape(3, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32).reshape(3, 1, 1)
        self.crop = crop
        self.tokens_per_stimulus = max(1, round(size / TOKEN_SIDE)) ** 2
        """Tokens an image counts for in batches."""

    def __call__(self, images: Sequence[Any]) -> Encoded:
        """Return pictures (height, width, 3), or grey ones (height, width), as a batch (image, 3, size, size).

        Raises
        ------
        InputError
            A stimulus that is no picture: text, another shape, values out of range.
        """
        encoded = [self._one(picture(image, position)) for position, image in enumerate(images)]
        return Encoded(torch.stack(encoded), np.zeros((len(encoded), 1), dtype=np.int64))

    def _one(self, pixels: np.ndarray) -> Tensor:
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        height, width = image.shape[1:]
        short = round(self.size / self.crop)
        target = (
            max(short, round(height * short / min(height, width))),
            max(short, round(width * short / min(height, width))),
        )
        if target != (height, width):
            image = torch.nn.functional.interpolate(
                image[None], size=target, mode="bilinear", align_corners=False, antialias=True
            )[0]
        top, left = ((side - self.size) // 2 for side in target)
        image = image[:, top : top + self.size, left : left + self.size]
        return (image - self.mean) / self.std


def require_channels(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise unless there is a mean and a positive standard deviation for each of three channels."""
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != 3 or not np.isfinite(np.asarray(values, dtype=float)).all():
            raise InputError(f"{name} is one number for each of the 3 channels (pixels in 0..1), got {values!r}")
    if min(std) <= 0:
        raise InputError(f"std must be positive for every channel, got {std!r}")


def picture(image: Any, position: int = 0) -> np.ndarray:
    """Return a stimulus as a float32 picture (height, width, 3) in 0..1, or say why it is none.

    Parameters
    ----------
    image
        uint8 array (height, width, 3) or grey (height, width), or the same as floats in 0..1.
    position
        Which stimulus it is, for the error.

    Raises
    ------
    InputError
        Text, another shape or type, transparency, values out of range.
    """
    if isinstance(image, str):
        raise InputError(
            f"stimulus {position} is text ({image[:40]!r}), but this model reads images: uint8 arrays (height, width, 3)"
        )
    if not isinstance(image, np.ndarray):
        raise InputError(
            f"stimulus {position} is a {type(image).__name__}, expected an image as a uint8 array (height, width, 3); "
            "np.asarray(image) turns an opened picture file into one"
        )
    shape = image.shape
    if image.ndim == 3 and shape[2] in (2, 4):
        raise InputError(
            f"stimulus {position} has a transparent layer (shape {shape}): put it on the background it was shown on and "
            "give 3 channels; which background that is changes what the model sees, so nothing is assumed"
        )
    if image.ndim == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3):
        raise InputError(
            f"stimulus {position} has shape {shape}, channels first: give image.transpose(1, 2, 0), (height, width, 3)"
        )
    if image.ndim not in (2, 3) or (image.ndim == 3 and shape[2] not in (1, 3)) or 0 in shape:
        raise InputError(
            f"stimulus {position} has shape {shape}, expected an image (height, width, 3) or grey (height, width)"
        )
    if image.dtype == np.uint8:
        pixels = image.astype(np.float32) / 255
    elif image.dtype.kind == "f":
        if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
            raise InputError(
                f"stimulus {position} is a {image.dtype} image with values from {image.min():.3g} to {image.max():.3g}: "
                "floats must lie in 0..1; for 0..255 give image.round().astype(np.uint8)"
            )
        pixels = image.astype(np.float32)
    else:
        raise InputError(f"stimulus {position} is a {image.dtype} image, expected uint8 (or floats in 0..1)")
    grey = pixels if image.ndim == 3 else pixels[:, :, None]
    return np.broadcast_to(grey, (*shape[:2], 3))


# What becomes of a layer's raw output, so that one number a stimulus is left for every unit. These are plain functions:
# `TorchModel.weights_hash` covers their code.


def mean_over_space(output: Tensor) -> Tensor:
    """Return the mean of every channel (image, channel) of a map (image, channel, row, column): a unit is a channel."""
    return output.float().mean(dim=(2, 3))


def mean_over_patches(output: Tensor) -> Tensor:
    """Return the mean (image, unit) of token states (image, token, unit) without the first, the class token."""
    return output[:, 1:].float().mean(dim=1)


def class_token(output: Tensor) -> Tensor:
    """Return the states of the class token (image, unit), the first of token states (image, token, unit)."""
    return output[:, 0].float()
