from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import topobrain.data as data
from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.data.floc import DOMAINS, load_floc


@pytest.mark.slow
def test_every_image_is_there(real_data: Path) -> None:
    stimuli = load_floc(16)
    assert len(stimuli) == 1584
    assert Counter(stimuli.column("category")) == dict.fromkeys(DOMAINS, 144)
    assert Counter(stimuli.column("condition")) == {
        "faces": 288, "bodies": 288, "places": 288, "characters": 288, "objects": 288, "scrambled": 144,
    }  # fmt: skip
    assert {(image.shape, image.dtype.name) for image in stimuli.items} == {((16, 16, 3), "uint8")}
    assert stimuli.ids[:3] == ["adult-1", "adult-2", "adult-3"]
    table = stimuli.table
    assert Counter(table["animacy"]) == {"animate": 576, "inanimate": 576, "neither": 432}
    assert set(table.loc[table["animacy"] == "animate", "category"]) == {"adult", "child", "body", "limb"}
    assert Counter(table["real_size"]) == {"big": 432, "small": 144, "neither": 1008}
    assert set(table.loc[table["real_size"] == "big", "category"]) == {"car", "corridor", "house"}
    halves = table.groupby("category")["half"].value_counts().unstack()
    assert (halves == 72).all(axis=None)


def test_pixels_are_those_of_the_file(real_data: Path) -> None:
    stimuli = load_floc(domains="places", n_per_category=2)
    assert {image.shape for image in stimuli.items} == {(224, 224, 3)}
    for label, image in zip(stimuli.ids, stimuli.items, strict=True):
        with Image.open(real_data / "floc_224" / label.split("-")[0] / f"{label}.jpg") as opened:
            np.testing.assert_array_equal(image[:, :, 0], np.asarray(opened))
        np.testing.assert_array_equal(image[:, :, 0], image[:, :, 2])


def test_a_draw_is_seeded_and_the_same_for_any_choice_of_domains(real_data: Path) -> None:
    faces = load_floc(8, domains="faces", n_per_category=5, seed=1)
    both = load_floc(8, domains=["objects", "faces"], n_per_category=5, seed=1)
    assert len(faces) == 10
    assert both.where(condition="faces").digest() == faces.digest()
    assert faces.digest() != load_floc(8, domains="faces", n_per_category=5, seed=2).digest()
    assert (both.provenance["n_per_category"], both.provenance["seed"], both.provenance["size_pixels"]) == (5, 1, 8)


def test_wrong_options_are_explained(real_data: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown domain of fLoc 'face'\. Did you mean 'faces'"):
        load_floc(domains="face")
    with pytest.raises(InputError, match=r"no domain was asked for"):
        load_floc(domains=[])
    with pytest.raises(InputError, match=r"n_per_category=145: category 'adult' has 144 images"):
        load_floc(n_per_category=145)
    with pytest.raises(InputError, match=r"size is a number of pixels, 1 or more; got 0"):
        load_floc(0)


@pytest.mark.slow
def test_missing_and_broken_images_are_explained(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataFileError, match=r"data set 'floc_224' lacks .* and no address is known"):
        data.load_stimuli("floc")
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"no image")
    monkeypatch.setattr("topobrain.data.floc.fetch", lambda _, files: dict.fromkeys(files, path))
    with pytest.raises(DataFileError, match=r"broken\.jpg cannot be read as an image"):
        data.load_stimuli("floc")
