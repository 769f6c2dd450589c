from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import topobrain.data as data
from topobrain._checks import DataFileError, InputError
from topobrain.data.object_images import label_images, load_object_norms, load_objects92


def test_ninety_two_pictures(real_data: Path) -> None:
    stimuli = data.load_stimuli("objects92")
    table = stimuli.table
    assert {(image.shape, image.dtype.name) for image in stimuli.items} == {((175, 175, 3), "uint8")}
    assert Counter(table["condition"]) == {"animate": 48, "inanimate": 44}
    assert Counter(table["category"]) == {
        "human face": 12, "human bodypart": 12, "nonhuman face": 12, "nonhuman bodypart": 12,
        "natural inanimate": 23, "artificial inanimate": 21,
    }  # fmt: skip
    assert pd.crosstab(table["category"], table["part"]).loc["human face", "face"] == 12
    assert Counter(table["part"]) == {"face": 24, "body": 24, "none": 44}
    assert set(table.loc[table["condition"] == "inanimate", "part"]) == {"none"}
    assert {image.shape for image in load_objects92(20).items} == {(20, 20, 3)}


def test_a_broken_archive_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    with pytest.raises(DataFileError, match=r"data set 'kriegeskorte2008_92images' lacks k2008_92\.npz"):
        load_objects92()
    path = tmp_path / "objects.npz"
    monkeypatch.setattr("topobrain.data.object_images.fetch", lambda *_: {"objects.npz": path})
    good = {"images": np.zeros((2, 4, 4, 3), np.uint8), "category": ["a", "b"], "animal": [1, 0], "face": [1, 0]}
    np.savez(path, **{**good, "images": np.zeros((2, 4, 4), np.uint8)})
    with pytest.raises(InputError, match=r"objects\.npz: images are uint8 \(2, 4, 4\), expected uint8"):
        load_objects92()
    np.savez(path, **{**good, "category": ["a"]})
    with pytest.raises(InputError, match=r"objects\.npz: 2 images, 1 categories"):
        load_objects92()
    with pytest.raises(InputError, match=r"size is a number of pixels"):
        load_objects92(0)


def test_norms_of_every_concept(real_data: Path) -> None:
    norms = load_object_norms()
    assert norms.shape == (1854, 8)
    assert norms.index.is_unique
    assert norms.index[norms["size"].isna()].tolist() == [
        "baseball", "baseball bat", "baseball glove", "basketball", "basketball hoop", "crystal ball", "crystal2",
    ]  # fmt: skip
    assert norms.drop(columns="size").notna().all(axis=None)
    assert norms["lives"].between(1, 7).all()
    assert norms["size"].dropna().between(0, 520).all()
    # Known order of things, through the join of both files.
    assert norms.loc[["ant", "mouse1", "dog", "man", "car", "train"], "size"].is_monotonic_increasing
    assert norms.loc["bat1", "lives"] > 6 > 2 > norms.loc["bat2", "lives"]


def test_images_are_labelled_by_their_names(real_data: Path) -> None:
    labels = label_images(["Dog", "car", "rose", "acoustic_guitar", "bat", "zork", "baseball-bat", "ant", "bat1"])
    assert labels["concept"].tolist() == ["dog", "car", "rose", "", "", "", "baseball bat", "ant", "bat1"]
    assert labels["animacy"].tolist() == [
        "animate", "inanimate", "unclear", "unknown", "unknown", "unknown", "inanimate", "animate", "animate",
    ]  # fmt: skip
    assert labels["real_size"].tolist() == [
        "medium", "big", "small", "unknown", "unknown", "unknown", "unknown", "small", "small",
    ]  # fmt: skip
    assert labels["name"].tolist()[0] == "Dog"
    assert (labels["concept"] != "").mean() == pytest.approx(6 / 9)
    wide = label_images(["dog"], size_edges=(260.0, 265.0))
    assert wide["real_size"].tolist() == ["big"]


def test_wrong_names_and_edges_are_explained(real_data: Path) -> None:
    with pytest.raises(InputError, match=r"names must be a sequence of names, got one string"):
        label_images("dog")
    with pytest.raises(InputError, match=r"size_edges are \(small, big\) with small <= big"):
        label_images(["dog"], size_edges=(300.0, 200.0))
