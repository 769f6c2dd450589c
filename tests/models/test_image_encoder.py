from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import topobrain as tb
from topobrain import Sheet
from topobrain._checks import InputError, UnknownNameError
from topobrain.models.image_encoder import ImageEncoder, class_token, mean_over_patches, mean_over_space, picture
from topobrain.models.torch_model import Encoded, TorchModel
from topobrain.testing import TEXTS, check_model, sample_stimuli

PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# --- pixels


def test_an_image_of_the_right_size_is_only_normalised() -> None:
    image = noise(9, 9, 3)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    images, word = ImageEncoder(9, mean, std)([image])
    assert isinstance(images, torch.Tensor)
    expected = (image / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(images[0].permute(1, 2, 0).numpy(), expected, atol=1e-6)
    assert images.dtype == torch.float32
    assert word.tolist() == [[0]]


@pytest.mark.parametrize(
    ("height", "width", "size", "crop"),
    [(40, 40, 16, 1.0), (30, 57, 16, 1.0), (57, 30, 16, 1.0), (20, 33, 24, 1.0), (64, 80, 28, 0.875), (8, 8, 12, 1.0)],
)
def test_resizing_equals_pillows_antialiased_bilinear(height: int, width: int, size: int, crop: float) -> None:
    image = noise(height, width, 3)
    images, _ = ImageEncoder(size, *PLAIN, crop=crop)([image])
    short = round(size / crop)
    scale = short / min(height, width)
    target = (max(short, round(width * scale)), max(short, round(height * scale)))
    left, top = ((side - size) // 2 for side in target)
    for channel in range(3):
        plane = Image.fromarray(image[:, :, channel].astype(np.float32), mode="F")
        resized = np.asarray(plane.resize(target, Image.Resampling.BILINEAR))[top : top + size, left : left + size]
        np.testing.assert_allclose(np.asarray(images[0, channel]) * 255, resized, atol=2e-3)


def test_a_crop_keeps_the_centre() -> None:
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    image[8:24, 8:24] = 255
    whole, _ = ImageEncoder(32, *PLAIN)([image])
    centre, _ = ImageEncoder(16, *PLAIN, crop=0.5)([image])
    assert float(np.asarray(whole).mean()) == 0.25
    assert float(np.asarray(centre).min()) == 1.0


def test_grey_is_the_same_in_every_channel_and_floats_are_as_good_as_bytes() -> None:
    grey = noise(10, 12)
    encode = ImageEncoder(8, *PLAIN)
    as_grey = np.asarray(encode([grey]).inputs)
    np.testing.assert_array_equal(as_grey, np.asarray(encode([np.stack([grey] * 3, axis=2)]).inputs))
    np.testing.assert_array_equal(as_grey, np.asarray(encode([grey[:, :, None]]).inputs))
    np.testing.assert_allclose(as_grey, np.asarray(encode([grey / 255]).inputs), atol=1e-6)
    assert as_grey.shape == (1, 3, 8, 8)


def test_a_view_and_its_copy_are_encoded_alike_and_left_alone() -> None:
    image = noise(20, 20, 3)
    view = image[::-1, ::2]
    kept = image.copy()
    encode = ImageEncoder(7)
    np.testing.assert_array_equal(np.asarray(encode([view]).inputs), np.asarray(encode([view.copy()]).inputs))
    np.testing.assert_array_equal(image, kept)


@pytest.mark.parametrize(
    ("stimulus", "message"),
    [
        ("a dog", r"stimulus 1 is text \('a dog'\), but this model reads images"),
        ([[1, 2], [3, 4]], r"stimulus 1 is a list, expected an image as a uint8 array"),
        (noise(8, 8, 4), r"transparent layer \(shape \(8, 8, 4\)\): put it on the background"),
        (noise(3, 8, 9), r"shape \(3, 8, 9\), channels first: give image\.transpose\(1, 2, 0\)"),
        (noise(8, 8, 5), r"shape \(8, 8, 5\), expected an image \(height, width, 3\)"),
        (noise(2, 8, 8, 3), r"shape \(2, 8, 8, 3\), expected an image"),
        (noise(8), r"shape \(8,\), expected an image"),
        (np.zeros((0, 8, 3), dtype=np.uint8), r"shape \(0, 8, 3\), expected an image"),
        (np.full((8, 8, 3), 200.0), r"float64 image with values from 200 to 200: floats must lie in 0\.\.1"),
        (np.full((8, 8, 3), -0.1), r"values from -0\.1 to -0\.1"),
        (np.full((8, 8, 3), np.nan), r"values from nan to nan"),
        (np.full((8, 8, 3), 200), r"is a int64 image, expected uint8"),
        (np.ones((8, 8, 3), dtype=bool), r"is a bool image, expected uint8"),
    ],
)
def test_what_is_no_picture_is_refused(stimulus: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageEncoder(8)([noise(8, 8, 3), stimulus])


def test_a_picture_of_three_columns_is_no_channels_first_image() -> None:
    assert picture(noise(3, 3, 3)).shape == (3, 3, 3)
    assert picture(noise(1, 9)).shape == (1, 9, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, r"size=0"),
        ({"size": 8, "crop": 0.0}, r"got 0\.0"),
        ({"size": 8, "crop": 1.5}, r"got 1\.5"),
        ({"size": 8, "mean": (0.5,)}, r"mean is one number for each of the 3 channels"),
        ({"size": 8, "std": (1.0, 1.0, 0.0)}, r"std must be positive"),
        ({"size": 8, "mean": (0.5, np.inf, 0.5)}, r"mean is one number for each"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageEncoder(**options)


# --- pooling of raw outputs


def test_pools_are_means_over_the_right_axis() -> None:
    maps = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert mean_over_space(maps).tolist() == [[5.5, 17.5]]
    states = torch.arange(12.0).reshape(1, 4, 3)
    assert mean_over_patches(states).tolist() == [[6.0, 7.0, 8.0]]
    assert class_token(states).tolist() == [[0.0, 1.0, 2.0]]


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        nn.init.constant_(self.conv.weight, 0.1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.relu(self.conv(images)) * 2)


def maximum(output: torch.Tensor) -> torch.Tensor:
    return output.amax(dim=(2, 3))


def pooled_model(pool: Any = mean_over_space, **options: Any) -> TorchModel:
    pools = {"conv": pool} if pool else None
    return TorchModel(
        "conv", Doubled(), ImageEncoder(8), {"conv": Sheet.grid(2, 2)}, pools=pools, device="cpu", **options
    )


def test_a_pool_makes_a_channel_a_unit() -> None:
    model = pooled_model()
    image = noise(8, 8, 3)
    found = model.record([image], ["conv"]).values["conv"]
    expected = model.module.conv(model.encode([image]).inputs).mean(dim=(2, 3)).detach()  # before the in-place ReLU
    torch.testing.assert_close(found[:, 0], expected)
    with pytest.raises(InputError, match=r"has 144 units, its sheet has 4 places"):
        pooled_model(None).record([image], ["conv"])


def test_pooling_is_part_of_the_models_hash() -> None:
    assert pooled_model().weights_hash() == pooled_model().weights_hash()
    assert pooled_model().weights_hash() != pooled_model(maximum).weights_hash()


def test_a_pool_of_an_unknown_layer_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown layer of `pools` 'conf'.*Did you mean 'conv'"):
        TorchModel("conv", Doubled(), ImageEncoder(8), {"conv": Sheet.grid(2, 2)}, pools={"conf": mean_over_space})


# --- in the library


def test_check_model_shows_pictures_to_a_model_of_images() -> None:
    model = pooled_model()
    assert check_model(model).ok
    shown = sample_stimuli(model)
    assert len({image.shape for image in shown}) == len(shown) >= 2
    assert all(np.array_equal(a, b) for a, b in zip(shown, sample_stimuli(model), strict=True))
    report = check_model(model, TEXTS, raises=False)
    assert all("this model reads images" in what for what in report.failed.values())


def test_check_model_names_the_picture_that_leaks() -> None:
    class Leaky(Doubled):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images - images.mean())

    model = TorchModel(
        "leaky", Leaky(), ImageEncoder(8), {"conv": Sheet.grid(2, 2)}, pools={"conv": mean_over_space}, device="cpu"
    )
    report = check_model(model, raises=False)
    assert set(report.failed) == {"same alone and in a batch"}
    assert "padding leaks: the image of shape (48, 48, 3) alone" in report.failed["same alone and in a batch"]


def test_images_are_extracted_in_batches_that_fit_memory() -> None:
    encode = ImageEncoder(64)
    assert encode.tokens_per_stimulus == 16
    sizes: list[int] = []

    def counted(images: Any) -> Encoded:
        sizes.append(len(images))
        return encode(images)

    counted.tokens_per_stimulus = encode.tokens_per_stimulus  # type: ignore[attr-defined]
    model = TorchModel(
        "conv", Doubled(), counted, {"conv": Sheet.grid(2, 2)}, pools={"conv": mean_over_space}, device="cpu"
    )
    stimuli = tb.StimulusSet([noise(20, 20, 3, seed=i) for i in range(10)])
    small = tb.extract(model, stimuli, batch_tokens=48, cache=False)
    assert max(sizes[-4:]) == 3
    assert model.survey(stimuli.items).lengths.tolist() == [16] * 10
    whole = tb.extract(model, stimuli, cache=False)
    np.testing.assert_allclose(small.values("conv"), whole.values("conv"), atol=1e-6)
    assert whole.values("conv").shape == (10, 4)
