from __future__ import annotations

import errno
import multiprocessing
import os
import time

import numpy as np
import pytest

from topobrain._checks import DataFileError, InputError
from topobrain.jobs import sealed_files
from topobrain.jobs.sealed_files import digest_of, read_sealed, sweep, write_sealed

ARRAYS = {"r": np.linspace(-1, 1, 12).reshape(3, 4), "usable": np.array([True, False]), "none": np.zeros((2, 0, 3))}


def test_what_was_written_is_read(tmp_path):
    write_sealed(tmp_path / "below" / "a.npz", ARRAYS, "key")
    found = read_sealed(tmp_path / "below" / "a.npz", "key")
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    assert [path.name for path in (tmp_path / "below").iterdir()] == ["a.npz"]


@pytest.mark.parametrize("kept", [0, 10, 200, -1])
def test_a_truncated_file_is_told(tmp_path, kept):
    path = tmp_path / "a.npz"
    write_sealed(path, ARRAYS, "key")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataFileError, match=r"a\.npz cannot be read"):
        read_sealed(path, "key")


def test_the_file_of_another_job_is_told(tmp_path):
    write_sealed(tmp_path / "a.npz", ARRAYS, "other")
    with pytest.raises(DataFileError, match="belongs to another job"):
        read_sealed(tmp_path / "a.npz", "key")


def test_a_file_of_other_origin_is_told(tmp_path):
    np.savez(tmp_path / "a.npz", r=np.zeros(3))
    with pytest.raises(DataFileError, match="has no seal"):
        read_sealed(tmp_path / "a.npz", "key")
    (tmp_path / "b.npz").write_text("not an archive")
    with pytest.raises(DataFileError, match="cannot be read"):
        read_sealed(tmp_path / "b.npz", "key")


def test_an_altered_array_is_told(tmp_path):
    path = tmp_path / "a.npz"
    write_sealed(path, ARRAYS, "key")
    with np.load(path) as file:
        altered = {name: file[name] for name in file.files}
    altered["r"] = altered["r"] + 1e-15
    np.savez(path, **altered)
    with pytest.raises(DataFileError, match="was altered"):
        read_sealed(path, "key")


def test_a_pickle_is_neither_written_nor_read(tmp_path):
    with pytest.raises(InputError, match="expected numbers"):
        write_sealed(tmp_path / "a.npz", {"labels": np.array(["a", None], dtype=object)}, "key")
    np.savez(tmp_path / "b.npz", labels=np.array(["a", None], dtype=object))
    with pytest.raises(DataFileError):
        read_sealed(tmp_path / "b.npz", "key")
    assert not (tmp_path / "a.npz").exists()


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_sealed(tmp_path / "a.npz", ARRAYS, "key")
    monkeypatch.setattr(sealed_files.os, "fsync", full)
    with pytest.raises(DataFileError, match=r"No space left on device: 0\.0 MiB more are needed there; free space"):
        write_sealed(tmp_path / "a.npz", {"r": np.ones(5)}, "key")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    assert np.array_equal(read_sealed(tmp_path / "a.npz", "key")["r"], ARRAYS["r"])  # the old one stays


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataFileError, match="cannot write"):
        write_sealed(tmp_path / "file" / "a.npz", ARRAYS, "key")


def test_an_interruption_leaves_no_half_file(tmp_path, monkeypatch):
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sealed_files.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_sealed(tmp_path / "a.npz", ARRAYS, "key")
    assert list(tmp_path.iterdir()) == []


def _write_often(folder, number, n_times):
    for i in range(n_times):
        write_sealed(folder / "a.npz", {"r": np.full(2000, number * 1000.0 + i)}, "key")


def test_processes_that_write_the_same_file_never_leave_a_broken_one(tmp_path):
    _write_often(tmp_path, 0, 1)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_often, args=(tmp_path, number, 40)) for number in (1, 2)]
    for writer in writers:
        writer.start()
    seen = set()
    deadline = time.monotonic() + 60
    while any(writer.is_alive() for writer in writers) and time.monotonic() < deadline:
        values = read_sealed(tmp_path / "a.npz", "key")["r"]  # raises for a broken one
        assert (values == values[0]).all()
        seen.add(float(values[0]))
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert float(read_sealed(tmp_path / "a.npz", "key")["r"][0]) in (1039.0, 2039.0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path):
    import socket
    import subprocess

    ended = subprocess.Popen(["true"])
    ended.wait()
    write_sealed(tmp_path / "parts" / "a.npz", ARRAYS, "key")
    here = socket.gethostname()
    left = tmp_path / "parts" / f".a.npz.{here}.{ended.pid}.00ff.part"
    written_now = tmp_path / "parts" / f".a.npz.{here}.{os.getpid()}.00ff.part"
    elsewhere = tmp_path / "parts" / f".a.npz.another-host.{ended.pid}.00ff.part"
    old = tmp_path / ".b.npz.another-host.1.00ff.part"
    for path in (left, written_now, elsewhere, old):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert sweep(tmp_path) == 2
    assert not left.exists()
    assert not old.exists()
    assert written_now.exists()
    assert elsewhere.exists()
    assert (tmp_path / "parts" / "a.npz").exists()


def test_the_hash_covers_names_types_shapes_and_values():
    base = {"a": np.arange(6.0)}
    others = [
        {"b": np.arange(6.0)}, {"a": np.arange(6)}, {"a": np.arange(6.0).reshape(2, 3)}, {"a": np.arange(6.0) + 1},
        {"a": np.arange(6.0), "b": np.zeros(0)},
    ]  # fmt: skip
    assert len({digest_of(arrays) for arrays in (base, *others)}) == 6
    assert digest_of(base) == digest_of({"a": np.arange(12.0)[:6]})
    assert digest_of({"a": np.arange(6.0)[::2]}) == digest_of({"a": np.array([0.0, 2.0, 4.0])})
    assert digest_of(base) != digest_of(base, n_regions=2)
