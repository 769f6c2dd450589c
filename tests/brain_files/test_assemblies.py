from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.brain_files import is_assembly, read_assembly, write_assembly
from topobrain.responses import BrainResponses
from topobrain.stats.ceiling import noise_ceiling
from topobrain.stimuli import StimulusSet


def pereira_like() -> xr.DataArray:
    """Two experiments of two people, one of whom took part in one only, with the coordinates brain-score uses."""
    generator = np.random.default_rng(0)
    values = generator.standard_normal((6, 5))
    values[4:, 3:] = np.nan
    experiment = ["384sentences"] * 4 + ["243sentences"] * 2
    sentences = [f"Sentence number {n}." for n in range(6)]
    return xr.DataArray(
        values,
        dims=("presentation", "neuroid"),
        coords={
            "experiment": ("presentation", experiment),
            "stimulus_num": ("presentation", [0, 1, 2, 3, 0, 1]),
            "stimulus_id": ("presentation", [f"{e}.{n}" for e, n in zip(experiment, [0, 1, 2, 3, 0, 1], strict=True)]),
            "sentence": ("presentation", sentences),
            "stimulus": ("presentation", sentences),
            "passage_label": ("presentation", ["bee", "bee", "oak", "oak", "rain", "rain"]),
            "story": ("presentation", ["384sentences.a"] * 4 + ["243sentences.b"] * 2),
            "subject": ("neuroid", ["018", "018", "018", "199", "199"]),
            "voxel_num": ("neuroid", [0, 1, 2, 0, 1]),
            "neuroid_id": ("neuroid", ["018.0", "018.1", "018.2", "199.0", "199.1"]),
            "atlas": ("neuroid", ["language"] * 5),
            "roi": ("neuroid", ["LH_IFG", "LH_IFG", "LH_PostTemp", "LH_IFG", "LH_MFG"]),
        },
        name="data",
        attrs={"identifier": "Pereira2018.language"},
    )


def flat(assembly: xr.DataArray, path: Path, engine: str = "h5netcdf", **options: object) -> Path:
    """Write as brain-score does: the MultiIndex is reset, its levels are plain coordinates."""
    index = {dim: [n for n, c in assembly.coords.items() if c.dims == (dim,)] for dim in assembly.dims}
    assembly.set_index(index).reset_index(list(assembly.dims)).to_dataset(name="data").to_netcdf(
        path, engine=engine, **options
    )
    return path


@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
def test_an_assembly_becomes_responses(tmp_path: Path, engine: str) -> None:
    source = pereira_like()
    path = flat(source, tmp_path / "assy.nc", engine)
    brain = read_assembly(path, select={"experiment": "384sentences"}, group="passage_label")
    np.testing.assert_array_equal(brain.values, source.values[:4])
    assert brain.labels("stimulus").tolist() == [f"384sentences.{n}" for n in range(4)]
    assert brain.labels("text").tolist() == source["sentence"].values[:4].tolist()
    assert brain.stimuli.column("group").tolist() == ["bee", "bee", "oak", "oak"]
    assert brain.rois == ["LH_IFG", "LH_PostTemp", "LH_MFG"]
    assert brain.labels("subject").tolist() == ["018"] * 3 + ["199"] * 2
    assert brain.labels("neuroid_id").tolist() == source["neuroid_id"].values.tolist()
    assert brain.data["voxel_num"].values.tolist() == [0, 1, 2, 0, 1]
    assert brain.provenance["selected"] == {"experiment": "384sentences"}


def test_people_who_did_not_take_part_are_left_out_and_counted(tmp_path: Path) -> None:
    path = flat(pereira_like(), tmp_path / "assy.nc")
    brain = read_assembly(path, select={"experiment": "243sentences"})
    assert brain.subjects == ["018"]
    assert brain.provenance["n_neuroids_without_values"] == 2
    assert read_assembly(path, select={"experiment": "243sentences"}, drop_missing=False).values.shape == (2, 5)
    whole = read_assembly(path)
    assert whole.values.shape == (6, 5)
    assert np.isnan(whole.values[4:, 3:]).all()


def test_endings_that_reset_indexes_left_and_axes_in_another_order_are_read(tmp_path: Path) -> None:
    source = pereira_like()
    renamed = source.rename({"stimulus_id": "stimulus_id_", "roi": "roi_reset"}).transpose("neuroid", "presentation")
    brain = read_assembly(flat(renamed, tmp_path / "assy.nc"))
    assert brain.labels("stimulus")[0] == "384sentences.0"
    assert brain.rois[0] == "LH_IFG"
    np.testing.assert_array_equal(brain.values, source.values)


def test_a_compressed_index_is_read(tmp_path: Path) -> None:
    """CF's "compression by gathering": the axis holds codes into the product of its levels."""
    data = xr.Dataset(
        {
            "data": (("presentation", "neuroid"), np.arange(6.0).reshape(2, 3)),
            "neuroid": ("neuroid", [0, 3, 2], {"compress": "subject roi"}),
            "subject": ("subject", ["s1", "s2"]),
            "roi": ("roi", ["a", "b"]),
            "stimulus_id": ("presentation", ["x", "y"]),
        }
    )
    data.to_netcdf(tmp_path / "assy.nc", engine="h5netcdf")
    brain = read_assembly(tmp_path / "assy.nc")
    assert brain.labels("subject").tolist() == ["s1", "s2", "s2"]
    assert brain.labels("roi").tolist() == ["a", "b", "a"]


def test_repeated_presentations_are_averaged_and_give_the_ceiling(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    shown = generator.standard_normal((1, 4, 3)) + 0.5 * generator.standard_normal((3, 4, 3))
    source = xr.DataArray(
        shown.reshape(12, 3, 1),
        dims=("presentation", "neuroid", "time_bin"),
        coords={
            "image_id": ("presentation", [f"im{n}" for n in range(4)] * 3),
            "repetition": ("presentation", np.repeat([0, 1, 2], 4)),
            "object_name": ("presentation", ["cat", "dog", "car", "cup"] * 3),
            "region": ("neuroid", ["V4", "V4", "IT"]),
            "animal": ("neuroid", ["m1", "m2", "m2"]),
            "time_bin_start": ("time_bin", [70]),
        },
    )
    source.to_dataset(name="data").to_netcdf(tmp_path / "assy.nc", engine="h5netcdf")
    brain = read_assembly(tmp_path / "assy.nc")
    np.testing.assert_allclose(brain.values, shown.mean(axis=0))
    np.testing.assert_allclose(brain.data["ceiling"].values, noise_ceiling(shown))
    assert brain.labels("text").tolist() == ["im0", "im1", "im2", "im3"]
    assert brain.stimuli.column("object_name").tolist() == ["cat", "dog", "car", "cup"]
    assert brain.subjects == ["m1", "m2"]
    assert brain.rois == ["V4", "IT"]
    several = source.isel(time_bin=[0, 0])
    several.to_dataset(name="data").to_netcdf(tmp_path / "bins.nc", engine="h5netcdf")
    with pytest.raises(InputError, match="axis 'time_bin' has 2 steps"):
        read_assembly(tmp_path / "bins.nc")


@pytest.fixture
def brain() -> BrainResponses:
    table = {"stimulus": ["a", "b", "c"], "group": ["p", "p", "q"], "length": [2, 2, 1]}
    stimuli = StimulusSet(["one dog", "two cats", "red"], table)
    return BrainResponses.from_arrays(
        np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32),
        stimuli,
        roi=["IFG", "IFG", "MFG", "MFG"],
        subject=["s1", "s1", "s1", "s2"],
        ceiling=[0.5, np.nan, 0.25, 1.0],
        voxel_coords={"i": np.arange(4), "j": np.arange(4), "k": np.arange(4)},
        provenance={"licence": "CC0", "simulated": True},
    )


def test_what_is_written_is_what_brain_score_reads(brain, tmp_path: Path) -> None:
    path = write_assembly(brain, tmp_path / "deep" / "assy.nc", identifier="Toy2024.language")
    array = xr.open_dataarray(path, engine="h5netcdf")  # one variable, as brain-score's loader expects
    assert array.dims == ("presentation", "neuroid")
    assert array.attrs["identifier"] == "Toy2024.language"
    # Its loader makes a MultiIndex of every coordinate without an index, on both axes.
    levels = {dim: [n for n, c in array.coords.items() if c.dims == (dim,)] for dim in array.dims}
    assembly = array.set_index(levels)
    assert {"stimulus_id", "stimulus", "sentence", "group"} <= set(assembly.indexes["presentation"].names)
    assert {"neuroid_id", "subject", "roi", "ceiling"} <= set(assembly.indexes["neuroid"].names)
    np.testing.assert_array_equal(assembly.sel(stimulus_id="b").values.squeeze(), brain.values[1])
    assert assembly.sel(subject="s2").sizes["neuroid"] == 1
    assert array["neuroid_id"].values.tolist() == ["s1.0", "s1.1", "s1.2", "s2.3"]


def test_writing_and_reading_change_nothing(brain, tmp_path: Path) -> None:
    placed = BrainResponses(brain.data.assign_attrs(affine=np.eye(4).ravel(), shape=np.array([4, 4, 4]), space="T1w"))
    again = read_assembly(write_assembly(placed, tmp_path / "assy.nc"))
    np.testing.assert_array_equal(again.values, brain.values)
    assert again.values.dtype == np.float32
    np.testing.assert_array_equal(again.data["ceiling"].values, brain.data["ceiling"].values)
    for name in ("stimulus", "text", "group", "length", "roi", "subject", "i"):
        assert again.labels(name).tolist() == brain.labels(name).tolist()
    assert again.simulated
    assert again.provenance["licence"] == "CC0"
    assert again.data.attrs["shape"].tolist() == [4, 4, 4]


def test_assemblies_are_told_from_results(brain, tmp_path: Path) -> None:
    assert is_assembly(write_assembly(brain, tmp_path / "assy.nc"))
    assert not is_assembly(brain.save(tmp_path / "result.nc"))
    assert not is_assembly(tmp_path / "none.nc")


def test_what_is_no_assembly_is_explained(brain, tmp_path: Path) -> None:
    path = flat(pereira_like(), tmp_path / "assy.nc")
    with pytest.raises(UnknownNameError, match=r"experiment of .*'384sentence'\. Did you mean '384sentences'"):
        read_assembly(path, select={"experiment": "384sentence"})
    with pytest.raises(UnknownNameError, match=r"unknown coordinate .* 'experimnt'\. Did you mean 'experiment'"):
        read_assembly(path, select={"experimnt": "384sentences"})
    with pytest.raises(UnknownNameError, match=r"coordinate \(group\) .*'passage'\. Did you mean 'passage_label'"):
        read_assembly(path, group="passage")
    with pytest.raises(UnknownNameError, match=r"coordinate \(roi\) .*'rois'\. Did you mean 'roi'"):
        read_assembly(path, roi="rois")
    with pytest.raises(InputError, match="nothing is left of the rows"):
        read_assembly(path, select={"experiment": "243sentences", "passage_label": "oak"})
    with pytest.raises(DataFileError, match=r"no assembly .*asy\.nc\. netCDF files in that directory: assy\.nc"):
        read_assembly(tmp_path / "asy.nc")
    with pytest.raises(InputError, match="is no assembly: no array has the axes presentation and neuroid"):
        read_assembly(brain.save(tmp_path / "result.nc"))
    whole = path.read_bytes()
    (tmp_path / "half.nc").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataFileError, match=r"half\.nc"):
        read_assembly(tmp_path / "half.nc")
    flat(pereira_like().drop_vars(["stimulus_id", "sentence", "stimulus"]), tmp_path / "anonymous.nc")
    with pytest.raises(
        InputError, match=r"names no stimuli: expected a coordinate 'stimulus_id'\. Did you mean 'stimulus_num'"
    ):
        read_assembly(tmp_path / "anonymous.nc")
    two = pereira_like()
    two["stimulus_id"] = ("presentation", ["x"] * 6)
    with pytest.raises(InputError, match="stimulus 'x' has two texts"):
        read_assembly(flat(two, tmp_path / "two.nc"))


def test_parquet_and_assembly_agree(brain, tmp_path: Path) -> None:
    """The same responses through two formats."""
    frame = pd.DataFrame(brain.values[:, :2], columns=["IFG", "MFG"])
    frame.insert(0, "sentence", brain.labels("text"))
    frame.to_parquet(tmp_path / "brain.parquet")
    table = BrainResponses.from_table(tmp_path / "brain.parquet")
    again = read_assembly(write_assembly(table, tmp_path / "assy.nc"))
    np.testing.assert_array_equal(again.values, table.values)
    assert table.values.dtype == np.float64


def test_the_design_is_the_arguments_else_the_files(brain, tmp_path: Path) -> None:
    path = write_assembly(brain, tmp_path / "events.nc")
    assert read_assembly(path).design == "events"
    assert read_assembly(path, design="timeseries").design == "timeseries"
    course = BrainResponses.from_arrays(brain.values, brain.stimuli, design="timeseries")
    path = write_assembly(course, tmp_path / "series.nc")
    assert read_assembly(path).design == "timeseries"
    assert read_assembly(path, design="events").design == "events"


def test_columns_that_repeat_the_text_are_kept(tmp_path: Path) -> None:
    texts = ["face", "house", "cat"]
    table = {"category": texts, "word": texts, "sentence": ["x", "y", "z"], "stimulus_id": [7, 8, 9]}
    source = BrainResponses.from_arrays(np.eye(3), StimulusSet(texts, {"stimulus": ["b1", "b2", "b3"], **table}))
    again = read_assembly(write_assembly(source, tmp_path / "assy.nc"))
    assert again.labels("text").tolist() == texts
    assert again.labels("stimulus").tolist() == ["b1", "b2", "b3"]
    for name in ("category", "word", "sentence"):
        assert again.labels(name).tolist() == table[name]


def test_values_and_ceilings_that_are_no_numbers_are_named(brain, tmp_path: Path) -> None:
    array = xr.open_dataarray(write_assembly(brain, tmp_path / "assy.nc"), engine="h5netcdf").load()
    text = xr.DataArray(np.full(array.shape, "high", dtype=object), coords=array.coords, dims=array.dims, name="data")
    text.to_netcdf(tmp_path / "text.nc", engine="h5netcdf")
    with pytest.raises(
        InputError, match=r"text\.nc: array 'data' holds .*\(high, high, high, \.\.\.\): expected real numbers"
    ):
        read_assembly(tmp_path / "text.nc")
    array["ceiling"] = ("neuroid", np.array(["0.5", "low", "0.5", "0.5"], dtype=object))
    array.to_netcdf(tmp_path / "ceiling.nc", engine="h5netcdf")
    with pytest.raises(InputError, match=r"coordinate 'ceiling' of .*ceiling\.nc holds '0\.5': expected real numbers"):
        read_assembly(tmp_path / "ceiling.nc")


def test_axes_without_labels_are_explained(brain, tmp_path: Path) -> None:
    array = xr.open_dataarray(write_assembly(brain, tmp_path / "assy.nc"), engine="h5netcdf").load()
    bare = array.drop_vars([name for name, c in array.coords.items() if c.dims == ("neuroid",)])
    bare.to_netcdf(tmp_path / "bare.nc", engine="h5netcdf")
    with pytest.raises(
        InputError, match=r"says nothing about its 4 neuroids: expected coordinates on the axis neuroid"
    ):
        read_assembly(tmp_path / "bare.nc")
    bare = array.drop_vars([name for name, c in array.coords.items() if c.dims == ("presentation",)])
    bare.to_netcdf(tmp_path / "bare.nc", engine="h5netcdf")
    with pytest.raises(
        InputError, match=r"names no stimuli: expected a coordinate 'stimulus_id' on the axis presentation"
    ):
        read_assembly(tmp_path / "bare.nc")


def test_a_stimulus_has_one_group(tmp_path: Path) -> None:
    array = pereira_like()
    passages = array["passage_label"].values.astype(object)
    flat(array.assign_coords(passage_label=("presentation", ["", *passages[1:]])), tmp_path / "none.nc")
    with pytest.raises(InputError, match=r"row 0 \(stimulus .*\) has no 'passage_label' \(group\)"):
        read_assembly(tmp_path / "none.nc", group="passage_label")
