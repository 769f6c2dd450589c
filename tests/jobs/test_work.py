from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_studies import QUICK, made_activations, made_responses
from stand_ins import stand_in

import topobrain
from topobrain._checks import DataFileError, InputError
from topobrain.encoding.parts import PartOptions, encode_part
from topobrain.jobs import JobError, PartsStore, run_job, work
from topobrain.jobs.studies import made_ready, together


@pytest.fixture
def ready(tmp_path):
    store = PartsStore(tmp_path / "store")
    store.open()
    return made_ready(made_activations(), made_responses(), store, label="gpt", voxel_chunk=4, options=QUICK), store


def test_a_job_keeps_what_encode_part_gives(ready):
    study, store = ready
    job = study.jobs[3]
    done = run_job(job)
    assert (done.key, done.reused) == (job.key, False)
    responses = study.study.responses
    voxels = together(responses)[job.start : job.stop]
    expected = encode_part(
        made_activations().values(job.layer), responses.values[:, voxels], study.study.design,
        study.order.roi[job.start : job.stop], n_regions=2, options=study.study.options,
    )  # fmt: skip
    found = store.part(job.key)
    assert found.keys() == expected.keys()
    assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)


def test_a_part_that_is_there_is_not_made_again(ready, monkeypatch):
    study, _ = ready
    run_job(study.jobs[0])
    monkeypatch.setattr(work, "encode_part", lambda *_, **__: pytest.fail("made again"))
    assert run_job(study.jobs[0]).reused


def test_a_damaged_part_is_made_again(ready):
    study, store = ready
    job = study.jobs[0]
    run_job(job)
    before = store.part_path(job.key).read_bytes()
    store.part_path(job.key).write_bytes(before[: len(before) // 2])
    with pytest.warns(UserWarning, match="computed again"):
        assert not run_job(job).reused
    assert store.part(job.key) is not None


def test_only_the_layer_and_the_voxels_of_the_job_are_read(ready, monkeypatch):
    import xarray as xr

    study, _ = ready
    read = []
    original = xr.backends.h5netcdf_.H5NetCDFArrayWrapper._getitem

    def counted(self, key):
        found = original(self, key)
        if np.ndim(found) == 2:
            read.append((self.variable_name, np.shape(found)))
        return found

    monkeypatch.setattr(xr.backends.h5netcdf_.H5NetCDFArrayWrapper, "_getitem", counted)
    job = study.jobs[-1]
    assert job.layer == "layer1"
    run_job(job)
    assert read == [("value", (60, 11)), ("value", (60, job.stop - job.start))]


def test_another_version_is_refused_with_both_versions(ready):
    study, _ = ready
    with pytest.raises(InputError, match=rf"has topobrain {topobrain.__version__}, the job was made by 0\.0\.9"):
        run_job(replace(study.jobs[0], version="0.0.9"))


def test_inputs_that_changed_since_the_plan_are_told(ready):
    study, _ = ready
    made_activations(seed=5).save(study.order.activations)
    with pytest.raises(DataFileError, match=r"the features in .* changed since the jobs were planned"):
        run_job(study.jobs[0])


def test_responses_that_changed_since_the_plan_are_told(ready):
    study, _ = ready
    made_responses(seed=5).save(study.order.responses)
    with pytest.raises(DataFileError, match=r"the responses in .* changed since the jobs were planned"):
        run_job(study.jobs[0])


def test_inputs_that_a_worker_does_not_see_are_told(ready):
    import os

    study, _ = ready
    os.unlink(study.order.responses)
    with pytest.raises(DataFileError, match=r"layer 'layer0'.*must lie on a file system that every worker sees"):
        run_job(study.jobs[0])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 90.0 GiB"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_want_of_memory_becomes_advice(ready, monkeypatch, error):
    def full(*_, **__):
        raise error

    monkeypatch.setattr(work, "encode_part", full)
    study, store = ready
    with pytest.raises(InputError, match=r"layer 'layer0'.*out of memory with 3 voxels.*--voxel-chunk 1") as raised:
        run_job(study.jobs[0])
    assert str(error).splitlines()[0] in str(raised.value)
    assert not list(store.directory.glob("parts/**/*.npz"))


def test_other_runtime_errors_are_no_want_of_memory(tmp_path):
    job = stand_in(tmp_path, 0)
    with pytest.raises(JobError, match="RuntimeError: shapes differ"), work.named(job), work.memory_advice(3):
        raise RuntimeError("shapes differ")


def test_errors_that_are_told_keep_their_kind(tmp_path):
    told = r"^model 'gpt', layer 'layer0', subject 's1', voxels 0-19: no disk$"
    with pytest.raises(DataFileError, match=told), work.named(stand_in(tmp_path, 0)):
        raise DataFileError("no disk")


def keys(activations=None, responses=None, **options):
    given = {**QUICK, **options}
    chunk = given.pop("voxel_chunk", 7)
    store = PartsStore("nowhere")
    study = made_ready(
        activations or made_activations(), responses or made_responses(), store,
        label="any", voxel_chunk=chunk, write=False, options=given,
    )  # fmt: skip
    return [job.key for job in study.jobs]


def test_the_key_covers_whatever_decides_a_part(monkeypatch):
    base = keys()
    assert len(set(base)) == 4
    assert keys() == base
    changed = made_responses().data.copy(deep=True)
    changed["value"][5, 0] += 1e-9
    others = {
        "features": keys(activations=made_activations(seed=1)),
        "folds": keys(n_folds=4),
        "inner folds": keys(inner_folds=4),
        "scheme": keys(folds="shuffled"),
        "seed": keys(seed=1),
        "penalties": keys(alphas=(1.0, 10.0)),
        "selection": keys(selection="gcv"),
        "permutations": keys(n_permutations=9),
        "voxels": keys(voxel_chunk=6)[:1],
    }
    for what, other in others.items():
        assert not set(other) & set(base), what
    one = keys(responses=topobrain.BrainResponses(changed))
    assert len(set(one) & set(base)) == 2  # the other subject's voxels are as they were
    monkeypatch.setattr(work, "NUMERICS", work.NUMERICS + 1)
    assert not set(keys()) & set(base)


def test_the_key_covers_the_memory_bound_only_where_rounding_may_choose_another_penalty():
    assert keys(max_memory="1 GiB") == keys(max_memory="2 GiB") == keys()  # auto: float64 where that is cheap
    for precision in ("mixed", "float32"):
        bound = keys(precision=precision, max_memory="1 GiB")
        assert not set(bound) & set(keys(precision=precision))
        assert bound == keys(precision=precision, max_memory=2**30)


@pytest.mark.parametrize("selection", ["kfold", "gcv", "loo"])
def test_a_memory_bound_moves_no_score_in_float64(selection):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((120, 150)).astype(np.float32)
    Y = X[:, :30] @ rng.standard_normal((30, 600)) + 8 * rng.standard_normal((120, 600))
    design = made_ready(
        made_activations(120), made_responses(120), PartsStore("nowhere"), label="any", voxel_chunk=None, write=False,
        options=QUICK,
    ).study.design  # fmt: skip
    made = {}
    for bound in (None, 3 * 2**20):
        options = PartOptions(
            alphas=tuple(np.logspace(-1, 5, 13)), selection=selection, precision="float64", n_bootstrap=10,
            max_memory=bound,
        )  # fmt: skip
        made[bound] = encode_part(X, Y, design, np.arange(600) % 2, n_regions=2, options=options)
    whole, bounded = made.values()
    assert np.array_equal(whole["alpha"], bounded["alpha"])
    assert np.abs(whole["r"] - bounded["r"]).max() < 1e-12
    assert np.abs(whole["draws"] - bounded["draws"]).max() < 1e-10  # sums over 300 voxels


def test_the_key_covers_the_kind_of_device_and_not_its_number():
    base = keys()
    assert keys(device="cpu") == base
    assert keys(device="cuda:1") == keys(device="cuda:0") == keys(device="cuda")
    assert not set(keys(device="cuda")) & set(base)


def test_the_key_covers_nothing_else():
    base = keys()
    named = made_activations()
    renamed = topobrain.Activations(named.data.assign_attrs(provenance="{}"))
    assert keys(activations=renamed) == base
    turned = topobrain.Activations(named.data.isel(stimulus=slice(None, None, -1)))
    assert keys(activations=turned) == base  # rows are matched by name
    assert keys(layers=["layer1"]) == base[2:]
