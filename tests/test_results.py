import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
import xarray as xr

from topobrain import results
from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.activations import Activations
from topobrain.responses import BrainResponses
from topobrain.results import Result, load_result
from topobrain.sheet import Sheet
from topobrain.stimuli import StimulusSet


@pytest.fixture
def acts():
    rng = np.random.default_rng(0)
    stimuli = StimulusSet(["a dog", "ein Mädchen", "東京"], {"condition": ["x", "y", "x"], "length": [2, 2, 1]})
    return Activations.from_arrays(
        {"one": rng.standard_normal((3, 6)), "two": rng.standard_normal((3, 4))},
        stimuli,
        sheets={"one": Sheet.grid(2, 3, wrapped=True)},
        provenance={"model": "toy", "seed": 3},
    )


def leftovers(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_saved_result_comes_back_unchanged(acts, tmp_path):
    path = acts.save(tmp_path / "deep" / "folder" / "acts.nc")
    again = load_result(path)
    assert type(again) is Activations
    assert again.data.drop_attrs().identical(acts.data.drop_attrs())
    assert again.provenance == acts.provenance
    assert again.sheets == acts.sheets
    assert again.labels("text").tolist() == ["a dog", "ein Mädchen", "東京"]
    assert again.data["length"].values.tolist() == [2, 2, 1]
    assert leftovers(path.parent) == ["acts.nc"]


def test_saving_the_loaded_result_again_gives_the_same(acts, tmp_path):
    once = load_result(acts.save(tmp_path / "a.nc"))
    twice = load_result(once.save(tmp_path / "a.nc"))
    assert twice.data.identical(once.data)


def test_lazy_values_are_read_when_used(acts, tmp_path):
    path = acts.save(tmp_path / "acts.nc")
    lazy = Activations.load(path), load_result(path, lazy=True)
    try:
        assert not lazy[1].data["value"].variable._in_memory
        assert lazy[0].data["value"].variable._in_memory
        assert np.array_equal(lazy[1].values("two"), acts.values("two"))
    finally:
        lazy[1].data.close()


def test_provenance_holds_versions_and_plain_values(acts):
    assert acts.provenance["model"] == "toy"
    assert acts.provenance["versions"]["numpy"] == np.__version__
    plain = results.to_plain({"a": np.arange(2), 1: (np.float32(0.5), None, float("nan")), "p": os, "s": {3}})
    assert json.loads(json.dumps(plain, allow_nan=False)) == {
        "a": [0, 1],
        "1": [0.5, None, None],
        "p": str(os),
        "s": [3],
    }


@pytest.mark.parametrize(
    ("provenance", "expected"),
    [
        ({}, False),
        ({"simulated": True}, True),
        ({"simulated": False, "stimuli": {"simulated": True}}, True),
        ({"sources": [{"a": 1}, {"simulated": True}]}, True),
        ({"simulated_by": "x"}, False),
    ],
)
def test_simulated_is_found_wherever_it_stands(provenance, expected):
    stimuli = StimulusSet(["a", "b", "c"])
    assert Activations.from_arrays({"l": np.eye(3)}, stimuli, provenance=provenance).simulated is expected


def test_schema_names_the_missing_variable_and_the_wrong_axes(acts):
    with pytest.raises(InputError, match="needs the variable 'value'"):
        Activations(acts.data.drop_vars("value"))
    with pytest.raises(InputError, match=r"\('unit', 'stimulus'\), expected \('stimulus', 'unit'\)"):
        Activations(acts.data.transpose("unit", "stimulus"))


def test_unknown_label_is_answered_with_near_names(acts):
    with pytest.raises(UnknownNameError, match="'layer'"):
        acts.labels("layers")


def test_every_kind_names_a_class_of_that_kind():
    import importlib

    for kind, place in results.KINDS.items():
        module, name = place.split(":")
        assert getattr(importlib.import_module(module), name).kind == kind


def test_loading_as_another_class_names_both_kinds(acts, tmp_path):
    path = acts.save(tmp_path / "acts.nc")
    assert isinstance(Result.load(path), Activations)
    with pytest.raises(InputError, match="holds a activations result, expected responses"):
        BrainResponses.load(path)


def test_a_missing_file_lists_its_neighbours(acts, tmp_path):
    acts.save(tmp_path / "acts.nc")
    with pytest.raises(DataFileError, match=r"acts\.nc"):
        load_result(tmp_path / "act.nc")
    with pytest.raises(DataFileError, match="none"):
        load_result(tmp_path / "nowhere" / "act.nc")
    with pytest.raises(DataFileError):
        load_result(tmp_path)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("keep", [0, 7, 100, 0.3, 0.6, 0.95])
def test_a_truncated_file_is_named(acts, tmp_path, keep, lazy):
    path = acts.save(tmp_path / "acts.nc")
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(DataFileError, match=r"acts\.nc is not a readable netCDF4"):
        load_result(path, lazy=lazy)


@pytest.mark.parametrize(
    "content", [b"not netCDF at all\n" * 40, b"CDF\x01" + bytes(200), b"\x89PNG\r\n\x1a\n" + bytes(50)]
)
def test_another_format_is_refused(tmp_path, content):
    path = tmp_path / "other.nc"
    path.write_bytes(content)
    with pytest.raises(DataFileError, match="netCDF4"):
        load_result(path)


@pytest.mark.filterwarnings("ignore:The 'phony_dims'")
def test_a_plain_hdf5_file_is_refused(tmp_path):
    path = tmp_path / "plain.nc"
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises((DataFileError, InputError), match=r"plain\.nc"):
        load_result(path)


def test_a_netcdf_file_of_somebody_else_is_refused(acts, tmp_path):
    xr.Dataset({"x": ("t", np.zeros(3))}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(InputError, match="no topobrain result"):
        load_result(tmp_path / "other.nc")


def test_a_file_without_a_variable_of_its_schema_is_refused(acts, tmp_path):
    acts.data.drop_vars("value").assign_attrs(kind="activations").to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with pytest.raises(InputError, match="'value'"):
        load_result(tmp_path / "a.nc")


def test_a_place_that_cannot_be_written_is_a_data_file_error(acts, tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.nc").mkdir()
    for target in (tmp_path / "file" / "acts.nc", tmp_path / "file" / "deep" / "acts.nc", tmp_path / "folder.nc"):
        with pytest.raises(DataFileError, match="cannot write"):
            acts.save(target)
    assert leftovers(tmp_path) == ["file", "folder.nc"]
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(acts, tmp_path, monkeypatch, failure):
    path = acts.save(tmp_path / "acts.nc")
    before = path.read_bytes()
    write = xr.Dataset.to_netcdf

    def half(self, target, **options):
        write(self, target, **options)
        raise failure

    monkeypatch.setattr(xr.Dataset, "to_netcdf", half)
    expected = DataFileError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        acts.only("two").save(path)
    assert path.read_bytes() == before
    assert leftovers(tmp_path) == ["acts.nc"]


def test_a_reader_never_sees_a_half_written_file_under_the_final_name(acts, tmp_path, monkeypatch):
    seen = []
    write = xr.Dataset.to_netcdf

    def watched(self, target, **options):
        write(self, target, **options)
        seen.append((tmp_path / "acts.nc").exists())

    monkeypatch.setattr(xr.Dataset, "to_netcdf", watched)
    acts.save(tmp_path / "acts.nc")
    assert seen == [False]
    assert leftovers(tmp_path) == ["acts.nc"]


def test_a_file_that_is_open_elsewhere_keeps_its_content_when_it_is_saved_over(acts, tmp_path):
    path = acts.save(tmp_path / "acts.nc")
    before = path.read_bytes()
    with path.open("rb") as reader:
        acts.only("two").save(path)
        assert reader.read() == before
    assert path.read_bytes() != before


@pytest.mark.slow
def test_reading_a_result_does_not_import_torch(acts, tmp_path):
    path = acts.save(tmp_path / "acts.nc")
    code = (
        "import sys; from topobrain.results import load_result; load_result(sys.argv[1]); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_frame_has_one_row_a_value(acts):
    frame = acts.to_frame()
    assert len(frame) == 30
    assert {"stimulus", "unit", "layer", "condition", "value"} <= set(frame.columns)
