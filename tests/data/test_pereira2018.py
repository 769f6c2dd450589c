from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy.io import savemat

import topobrain.data as data
from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.store.manifest import load_manifests

N_VOXELS = 7
SENTENCES = ["A bee flies.", "It makes honey.", "An oak grows.", "It is old.", "Rain falls."]
PASSAGES = ["Bee", "Oak", "Rain"]
TOPICS = ["Animal", "Weather"]


def cells(values: list, *, row: bool = False, wrapped: bool = False) -> np.ndarray:
    """A MATLAB cell array, as savemat writes it: a column, or a row of cells that hold cells."""
    array = np.empty((1, len(values)) if row else (len(values), 1), dtype=object)
    for n, value in enumerate(values):
        inner = np.array([value], dtype=object) if wrapped else value
        array[(0, n) if row else (n, 0)] = inner
    return array


def column(numbers: list) -> np.ndarray:
    return np.array(numbers, dtype=float)[:, None]


def geometry() -> dict[str, object]:
    places = np.stack([np.arange(N_VOXELS) + 1, np.arange(N_VOXELS) + 2, np.full(N_VOXELS, 3)], axis=1)
    return {"dimx": 10.0, "dimy": 10.0, "dimz": 5.0, "colToCoord": places.astype(float)}


def anatomical() -> dict[str, object]:
    """``meta`` of an ``examples_`` file: two anatomical atlases in fields of their own."""
    return {
        **geometry(),
        "roiMultimaskAAL": column([1, 1, 2, 2, 0, 0, 2]),
        "roiMultimaskGordon": column([0, 1, 1, 0, 0, 0, 0]),
        "roisAAL": cells(["Precentral_L", "Precentral_R"]),
        "roisGordon": cells(["ROI1_Default_L"]),
    }


def networks() -> dict[str, object]:
    """``meta`` of a ``data_`` file: atlases in lists, voxels outside are NaN."""
    nan = np.nan
    return {
        **geometry(),
        "atlases": cells(["AAL", "languageLH", "languageRH", "DMN"]),
        "rois": cells([cells(["Precentral_L"]), cells(["LH_IFG", "LH_MFG"]), cells(["RH_IFG"]), cells(["dmn"])]),
        "roiMultimask": cells(
            [
                column([1] * 7),
                column([1, nan, 2, nan, nan, nan, nan]),
                column([1, nan, nan, 1, nan, nan, nan]),
                column([nan] * 6 + [1]),
            ]
        ),
    }


def write(folder: Path, person: str, kind: str = "data", seed: int = 0, **changes: object) -> Path:
    images = np.random.default_rng(seed).standard_normal((len(SENTENCES), N_VOXELS))
    fields: dict[str, object] = {
        "examples" if kind == "examples" else "examples_passagesentences": images,
        "keySentences": cells(SENTENCES),
        "labelsSentences": column([1, 2, 3, 4, 5]),
        "labelsPassageForEachSentence": column([1, 1, 2, 2, 3]),
        "labelsPassageCategory": column([1, 1, 2]),
        "keyPassages": cells(PASSAGES),
        "keyPassageCategory": cells(TOPICS, row=True, wrapped=True),
        "meta": anatomical() if kind == "examples" else networks(),
        **changes,
    }
    path = folder / person / f"{kind}_384sentences.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {name: value for name, value in fields.items() if value is not None}, do_compression=True)
    return path


@pytest.fixture
def folder(store: Path) -> Path:
    (store / "pereira2018").mkdir()
    return store / "pereira2018"


def images(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((len(SENTENCES), N_VOXELS)).astype(np.float32)


def test_the_language_networks_of_everybody_are_read(folder: Path) -> None:
    write(folder, "P01", seed=1)
    write(folder, "M02", seed=2)
    brain = data.load_responses("pereira2018")
    assert brain.labels("subject").tolist() == ["M02"] * 3 + ["P01"] * 3
    np.testing.assert_array_equal(brain.values, np.hstack([images(2)[:, [0, 2, 3]], images(1)[:, [0, 2, 3]]]))
    assert brain.values.dtype == np.float32
    assert brain.labels("roi").tolist() == ["LH_IFG", "LH_MFG", "RH_IFG"] * 2  # voxel 0 is in both: the first counts
    assert brain.labels("atlas").tolist()[:3] == ["languageLH", "languageLH", "languageRH"]
    assert brain.labels("text").tolist() == SENTENCES
    assert brain.labels("stimulus").tolist() == [f"384sentences.{n}" for n in range(5)]
    assert brain.stimuli.column("passage").tolist() == ["Bee", "Bee", "Oak", "Oak", "Rain"]
    assert brain.stimuli.column("category").tolist() == ["Animal"] * 4 + ["Weather"]
    assert len(set(brain.stimuli.column("group"))) == 3
    assert [brain.data[n].values[1] for n in ("column", *"ijk")] == [2, 2, 3, 2]  # MATLAB counts from 1
    assert brain.provenance["access"] == "request"


def test_other_atlases_and_every_voxel(folder: Path) -> None:
    write(folder, "P01", seed=1)
    assert data.load_responses("pereira2018", atlas="languageRH").labels("roi").tolist() == ["RH_IFG"] * 2
    assert data.load_responses("pereira2018", atlas="dmn").data["column"].values.tolist() == [6]
    whole = data.load_responses("pereira2018", atlas=None)
    np.testing.assert_array_equal(whole.values, images(1))
    assert whole.rois == ["all"]
    with pytest.raises(UnknownNameError, match=r"'langage'\. Did you mean 'languageRH'.*atlas=None takes every voxel"):
        data.load_responses("pereira2018", atlas="langage")


def test_examples_files_know_two_anatomical_atlases(folder: Path) -> None:
    write(folder, "P01", "examples", seed=3)
    brain = data.load_responses("pereira2018", atlas="AAL")
    assert brain.labels("roi").tolist() == ["Precentral_L"] * 2 + ["Precentral_R"] * 3
    np.testing.assert_array_equal(brain.values, images(3)[:, [0, 1, 2, 3, 6]])
    assert data.load_responses("pereira2018", atlas="Gordon").data["column"].values.tolist() == [1, 2]
    with pytest.raises(UnknownNameError, match=r"'language'.*Known: AAL, Gordon"):
        data.load_responses("pereira2018")
    write(folder, "P01", "data", seed=4)  # knows the networks: it is preferred
    np.testing.assert_array_equal(data.load_responses("pereira2018").values, images(4)[:, [0, 2, 3]])


def test_concepts_have_no_passages(folder: Path) -> None:
    fields = {
        "examples": np.arange(21.0).reshape(3, 7),
        "keyConcept": cells(["ability", "apple", "war"]),
        "labelsConcept": column([1, 3, 2]),
        "meta": anatomical(),
    }
    (folder / "M01").mkdir()
    savemat(folder / "M01" / "examples_180concepts_pictures.mat", fields)
    brain = data.load_responses("pereira2018", experiment="180concepts_pictures", atlas=None)
    assert brain.labels("text").tolist() == ["ability", "war", "apple"]
    assert "group" not in brain.data.coords


def test_people_can_be_chosen_and_archives_may_lie_in_folders_of_their_name(folder: Path) -> None:
    write(folder, "P01", seed=1)
    write(folder / "M02", "M02", seed=2)
    assert data.load_responses("pereira2018", subjects=["M02"]).subjects == ["M02"]
    with pytest.raises(UnknownNameError, match=r"person of experiment 384sentences 'P02'\. Did you mean 'P01'"):
        data.load_responses("pereira2018", subjects=["P02"])
    with pytest.raises(UnknownNameError, match=r"experiment '380sentences'\. Did you mean '384sentences'"):
        data.load_responses("pereira2018", experiment="380sentences")


def test_people_who_saw_other_sentences_are_not_joined(folder: Path) -> None:
    write(folder, "P01")
    write(folder, "M02", keySentences=cells([*SENTENCES[:4], "Snow falls."]))
    with pytest.raises(InputError, match=r"'384sentences.4' is 'Snow falls\.' for M02 and 'Rain falls\.' for P01"):
        data.load_responses("pereira2018")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"examples_passagesentences": None}, "has no variable examples or examples_passagesentences"),
        ({"examples_passagesentences": np.zeros((4, N_VOXELS))}, r"has shape \(4, 7\), expected .* with 5 stimuli"),
        ({"keySentences": None}, "has no variable 'keySentences'"),
        ({"labelsPassageForEachSentence": column([1, 1, 2, 2, 9])}, "labels from 1 to 9; expected 5 from 1 to 3"),
        ({"meta": {**networks(), "colToCoord": np.zeros((3, 3))}}, r"colToCoord has shape \(3, 3\)"),
        ({"meta": {**anatomical(), "roiMultimaskAAL": column([9] * 7)}}, "up to 9 for 7 voxels and 2 regions"),
    ],
)
def test_a_file_that_does_not_fit_is_named(folder: Path, changes: dict[str, object], message: str) -> None:
    path = write(folder, "P01", **changes)
    with pytest.raises(InputError, match=message) as caught:
        data.load_responses("pereira2018", atlas="AAL")
    assert str(path) in str(caught.value)


def test_broken_files_are_named(folder: Path) -> None:
    path = write(folder, "P01")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataFileError, match=r"data_384sentences\.mat cannot be read as a MATLAB file"):
        data.load_responses("pereira2018")
    newer = write(folder, "M02")
    newer.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + whole)
    with pytest.raises(DataFileError, match=r"is a MATLAB 7\.3 file: save it as version 7"):
        data.load_responses("pereira2018", subjects=["M02"])


def test_a_file_that_changes_after_its_first_use_is_refused(folder: Path) -> None:
    write(folder, "P01", seed=1)
    data.load_responses("pereira2018")
    write(folder, "P01", seed=2)
    with pytest.raises(DataFileError, match="is not the file of data set 'pereira2018'"):
        data.load_responses("pereira2018")


def test_without_files_the_message_says_where_they_come_from(store: Path) -> None:
    with pytest.raises(
        DataFileError, match=r"lacks P01/data_384sentences\.mat.*must be requested.*evlab\.mit\.edu.*'simulated'"
    ):
        data.load_responses("pereira2018")
    with pytest.raises(DataFileError, match=r"lacks assy_Pereira2018_language\.nc"):
        data.load_responses("pereira2018-brainscore")


def test_the_manifest_lists_who_took_part() -> None:
    paths = load_manifests()["pereira2018"].paths("pereira2018")
    counts = {e: sum(p.endswith(f"/examples_{e}.mat") for p in paths) for e in ("384sentences", "243sentences")}
    assert counts == {"384sentences": 8, "243sentences": 6}
    assert sum("180concepts_sentences" in p for p in paths) == 32


def test_the_assembly_of_brain_score_is_read(folder: Path) -> None:
    values = np.random.default_rng(0).standard_normal((4, 3))
    values[2:, 2] = np.nan
    experiment = ["384sentences", "384sentences", "243sentences", "243sentences"]
    array = xr.DataArray(
        values,
        dims=("presentation", "neuroid"),
        coords={
            "experiment": ("presentation", experiment),
            "stimulus_id": ("presentation", ["384sentences.0", "384sentences.1", "243sentences.0", "243sentences.1"]),
            "stimulus": ("presentation", SENTENCES[:4]),
            "sentence": ("presentation", SENTENCES[:4]),
            "passage_label": ("presentation", ["Bee", "Bee", "Oak", "Oak"]),
            "passage_category": ("presentation", ["Animal"] * 4),
            "story": ("presentation", ["x"] * 4),
            "subject": ("neuroid", ["018", "018", "199"]),
            "atlas": ("neuroid", ["language"] * 3),
            "roi": ("neuroid", ["LH_IFG", "LH_MFG", "LH_IFG"]),
            "neuroid_id": ("neuroid", ["018.0", "018.1", "199.0"]),
            "col_to_coord_1": ("neuroid", [1, 2, 3]),
        },
    )
    array.to_dataset(name="data").to_netcdf(folder / "assy_Pereira2018_language.nc", engine="h5netcdf")
    brain = data.load_responses("pereira2018-brainscore", experiment="243sentences")
    np.testing.assert_array_equal(brain.values, values[2:, :2])
    assert brain.stimuli.column("group").tolist() == ["Oak", "Oak"]
    assert brain.rois == ["LH_IFG", "LH_MFG"]
    assert data.load_responses("pereira2018-brainscore").values.shape == (2, 3)
    assert brain.provenance["citation"].startswith("Pereira")
