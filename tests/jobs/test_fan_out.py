from __future__ import annotations

import numpy as np
import pytest
from made_studies import QUICK, differences, made_activations, made_responses

import topobrain as tb
from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.jobs import PartsStore, encode_all, work
from topobrain.jobs.studies import chunks_of, file_of, together
from topobrain.stats.ridge.workers import one_thread_each


def encode_alone(*arguments, **options) -> tb.Encoding:
    """`encode`, on one thread as jobs are."""
    with one_thread_each():
        return tb.encode(*arguments, **options)


@pytest.fixture
def count(monkeypatch):
    """Count the parts that are made."""
    made = []
    original = work.encode_part

    def counted(*arguments, **options):
        made.append(arguments[1].shape[1])
        return original(*arguments, **options)

    monkeypatch.setattr(work, "encode_part", counted)
    return made


def test_one_chunk_a_study_equals_encode_to_the_last_bit(tmp_path):
    acts, brain = made_activations(), made_responses(subjects=("a",))
    (found,) = encode_all([acts], brain, store=tmp_path, **QUICK)
    assert differences(found, encode_alone(acts, brain, **QUICK)) == {}
    assert np.isfinite(found.data["r"].values).any()


@pytest.mark.slow
def test_chunks_of_interleaved_subjects_equal_encode(tmp_path, count):
    acts, brain = made_activations(), made_responses()
    (found,) = encode_all([acts], brain, store=tmp_path, voxel_chunk=3, **QUICK)
    assert count == [2, 2, 3, 2, 2, 3] * 2
    whole = encode_alone(acts, brain, **QUICK)
    off = differences(found, whole)
    # sums over chunks round differently, and so do products of other widths: the last bits, and float32 where it is stored
    assert max(off.values(), default=0.0) < 1e-7
    for name in ("alpha", "p", "region_p", "best_layer", "region_voxels", "ceiling", "roi", "subject"):
        assert name not in off
    assert np.abs(found.data["r"].values - whole.data["r"].values)[:, :, [0, 1, 3]].max() < 1e-13
    mine, theirs = found.provenance["encoding"], whole.provenance["encoding"]
    assert mine == theirs


@pytest.mark.slow
def test_several_models_come_back_in_order_each_as_alone(tmp_path):
    brain, models = made_responses(), [made_activations(seed=seed) for seed in (1, 0)]
    found = encode_all(models, brain, store=tmp_path, **QUICK)
    assert [one.provenance["model"]["name"] for one in found] == ["made-1", "made-0"]
    for one, acts in zip(found, models, strict=True):
        (alone,) = encode_all([acts], brain, store=tmp_path / "other", **QUICK)
        assert differences(one, alone) == {}


def test_layers_and_subjects_are_chosen(tmp_path):
    acts, brain = made_activations(), made_responses()
    (found,) = encode_all([acts], brain, layers="layer1", subjects="b", store=tmp_path, **QUICK)
    assert found.layers == ["layer1"]
    assert set(found.labels("subject")) == {"b"}
    expected = encode_alone(acts, brain, layers=["layer1"], targets={"subject": ["b"]}, **QUICK)
    assert differences(found, expected) == {}
    with pytest.raises(UnknownNameError, match="unknown subject 'c'"):
        encode_all([acts], brain, subjects=["c"], store=tmp_path, **QUICK)


def test_files_are_read_where_they_are_and_other_activations_are_put_into_the_store(tmp_path):
    acts, brain, store = made_activations(), made_responses(), tmp_path / "store"
    path = acts.save(tmp_path / "acts.nc")
    (from_file,) = encode_all([path], brain, store=store, **QUICK)
    assert not list(store.glob("inputs/activations_*"))
    (from_memory,) = encode_all([acts], brain, store=store, **QUICK)
    assert len(list(store.glob("inputs/activations_*.nc"))) == 1
    assert differences(from_file, from_memory) == {}


def test_part_of_a_file_is_no_file(tmp_path):
    path = made_activations().save(tmp_path / "acts.nc")
    lazy = tb.load_result(path, lazy=True)
    assert file_of(lazy) == path
    assert file_of(lazy.only("layer1")) is None
    assert file_of(tb.Activations(lazy.data.isel(stimulus=slice(0, 10)))) is None
    assert file_of(tb.load_result(path)) is None
    assert file_of(made_activations()) is None


def test_parts_are_used_again_by_later_and_larger_studies(tmp_path, count):
    acts, brain = made_activations(), made_responses()
    (first,) = encode_all([acts], brain, layers=["layer0"], store=tmp_path, **QUICK)
    told = []
    found = encode_all(
        [acts, made_activations(seed=1)], brain, store=tmp_path, progress=lambda *at: told.append(at), **QUICK
    )
    assert told[0] == (2, 8)
    assert told[-1] == (8, 8)
    assert len(count) == 8
    assert np.array_equal(found[0].data["r"].values[:1], first.data["r"].values, equal_nan=True)


@pytest.mark.slow
def test_a_crash_loses_nothing_that_was_done(tmp_path, monkeypatch):
    acts, brain, original = made_activations(), made_responses(), work.encode_part
    made = []

    def stopping(*arguments, **options):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr(work, "encode_part", stopping)
    with pytest.raises(KeyboardInterrupt):
        encode_all([acts], brain, voxel_chunk=4, store=tmp_path, **QUICK)
    assert len(list(tmp_path.glob("parts/*/*.npz"))) == 3
    assert not list(tmp_path.glob("**/.*.part"))
    made.clear()
    monkeypatch.setattr(work, "encode_part", lambda *a, **o: made.append(1) or original(*a, **o))
    (found,) = encode_all([acts], brain, voxel_chunk=4, store=tmp_path, **QUICK)
    assert len(made) == 8 - 3
    (whole,) = encode_all([acts], brain, voxel_chunk=4, store=tmp_path / "fresh", **QUICK)
    assert differences(found, whole) == {}


def test_a_damaged_part_is_told_and_made_again(tmp_path, count):
    acts, brain = made_activations(), made_responses()
    (first,) = encode_all([acts], brain, store=tmp_path, **QUICK)
    damaged = sorted(tmp_path.glob("parts/*/*.npz"))[0]
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.warns(UserWarning, match="computed again"):
        (again,) = encode_all([acts], brain, store=tmp_path, **QUICK)
    assert len(count) == 4 + 1
    assert differences(first, again) == {}


@pytest.mark.parametrize("which", ["activations", "responses"])
def test_a_damaged_input_in_the_store_heals(tmp_path, which):
    acts, brain = made_activations(), made_responses()
    (first,) = encode_all([acts], brain, store=tmp_path, **QUICK)
    (path,) = tmp_path.glob(f"inputs/{which}_*.nc")
    whole, values = path.read_bytes(), (acts if which == "activations" else brain).data["value"].values
    at = whole.index(np.ascontiguousarray(values[:1, :1] if which == "responses" else values[0]).tobytes())
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    for part in tmp_path.glob("parts/*/*.npz"):
        part.unlink()
    with pytest.warns(UserWarning, match="was altered or not finished"):
        (again,) = encode_all([acts], brain, store=tmp_path, **QUICK)
    assert differences(first, again) == {}
    encode_all([acts], brain, store=tmp_path, **QUICK)  # whole again: nothing to tell


def test_an_input_without_its_hash_is_written_again(tmp_path):
    acts, brain = made_activations(), made_responses()
    encode_all([acts], brain, store=tmp_path, **QUICK)
    (beside,) = tmp_path.glob("inputs/activations_*.nc.sha256")
    beside.unlink()
    with pytest.warns(UserWarning, match="not finished"):
        encode_all([acts], brain, store=tmp_path, **QUICK)
    assert beside.is_file()


def test_parts_are_used_again_under_another_memory_bound(tmp_path, count):
    acts, brain = made_activations(), made_responses()
    (first,) = encode_all([acts], brain, store=tmp_path, **QUICK)
    (again,) = encode_all([acts], brain, store=tmp_path, max_memory="1 GiB", **QUICK)
    assert len(count) == 4
    assert differences(first, again) == {}


def test_a_part_that_vanished_is_told(tmp_path, monkeypatch):
    import topobrain.jobs.fan_out as fan_out

    monkeypatch.setattr(fan_out, "run_jobs", lambda *_, **__: [])
    with pytest.raises(DataFileError, match="its part is not in"):
        encode_all([made_activations()], made_responses(), store=tmp_path, **QUICK)


@pytest.mark.filterwarnings("ignore:shuffled folds leak")
def test_shuffled_folds_are_compared_with_contiguous_ones_as_in_encode(tmp_path):
    acts, brain = made_activations(), made_responses(subjects=("a",))
    (found,) = encode_all([acts], brain, folds="shuffled", store=tmp_path, **QUICK)
    assert "region_r_contiguous" in found.data
    assert differences(found, encode_alone(acts, brain, folds="shuffled", **QUICK)) == {}


@pytest.mark.slow
def test_two_processes_give_the_same_bits(tmp_path):
    acts, brain = made_activations(), made_responses()
    (here,) = encode_all([acts], brain, voxel_chunk=4, store=tmp_path / "here", **QUICK)
    (there,) = encode_all([acts], brain, voxel_chunk=4, store=tmp_path / "there", n_workers=2, **QUICK)
    assert differences(here, there) == {}


def test_bad_options_are_told_before_anything_is_written(tmp_path):
    acts, brain, store = made_activations(), made_responses(), tmp_path / "store"
    for options, told in (
        ({"n_permutation": 3}, "Did you mean 'n_permutations'"),
        ({"n_workers": 0}, "n_workers must be 1 or more"),
        ({"subjects": "a", "targets": {"subject": "a"}}, "say the same"),
    ):
        with pytest.raises((InputError, UnknownNameError), match=told):
            encode_all([acts], brain, store=store, **options)
    for models in ("gpt2", acts):
        with pytest.raises(InputError, match="expected a list"):
            encode_all(models, brain, store=store)  # type: ignore[arg-type]
    assert not store.exists()
    with pytest.raises(InputError, match="no model was given"):
        encode_all([], brain, store=store)


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"selection": "gvc"}, "Did you mean 'gcv'"),
        ({"precision": "float46"}, "Did you mean 'float64'"),
        ({"n_bootstrap": 2.5}, r"must be whole numbers of 0 or more; got 2\.5"),
        ({"n_permutations": -1}, "must be 0 or more"),
        ({"alphas": (-1.0,)}, "alphas must be finite and at least 0"),
        ({"max_memory": "lots"}, "is no size"),
        ({"layers": []}, r"layers=\[\] leaves nothing to score"),
        ({"voxel_chunk": 0}, "voxel_chunk must be 1 or more, got 0"),
        ({"voxel_chunk": 1.5}, r"voxel_chunk must be a whole number of 1 or more, got 1\.5"),
        ({"voxel_chunk": True}, "voxel_chunk must be a whole number"),
        ({"n_workers": "2"}, "n_workers must be a whole number of 1 or more, got '2'"),
        ({"scheduler": "local:0"}, "expected a number of processes"),
        ({"scheduler": 3}, "scheduler 3 is no address"),
        ({"scheduler": "10.0.0.1:8786"}, "is no address"),
    ],
)
def test_a_plan_refuses_what_a_run_refuses(tmp_path, count, options, told, dry_run):
    for model in (made_activations(), tmp_path / "acts.nc"):
        if model == tmp_path / "acts.nc":
            made_activations().save(model)
        with pytest.raises((InputError, UnknownNameError), match=told):
            encode_all([model], made_responses(), store=tmp_path / "store", dry_run=dry_run, **{**QUICK, **options})
    assert count == []


def test_a_plan_of_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="no model was given"):
        encode_all([], made_responses(), store=tmp_path, dry_run=True)


def test_a_file_that_is_no_activations_is_told(tmp_path):
    path = made_responses().save(tmp_path / "brain.nc")
    with pytest.raises(InputError, match="holds a responses result, expected activations"):
        encode_all([path], made_responses(), store=tmp_path)


def test_chunks_cover_every_voxel_once_subject_by_subject():
    brain = made_responses(n_voxels=15, subjects=("b", "a", "c"))
    turn, chunks = together(brain), chunks_of(brain, 2)
    assert np.array_equal(np.sort(turn), np.arange(15))
    covered = np.concatenate([np.arange(chunk.start, chunk.stop) for chunk in chunks])
    assert np.array_equal(covered, np.arange(15))
    for chunk in chunks:
        assert set(brain.labels("subject")[turn[chunk.start : chunk.stop]]) == {chunk.subject}
        assert 1 <= chunk.n_voxels <= 2
    assert [chunk.n_voxels for chunk in chunks_of(brain, None)] == [5, 5, 5]
    assert [chunk.subject for chunk in chunks_of(brain, None)] == ["b", "a", "c"]


def test_orders_of_one_study_are_one_file(tmp_path):
    acts, brain = made_activations(), made_responses()
    for _ in range(2):
        encode_all([acts], brain, store=tmp_path, voxel_chunk=3, **QUICK)
    assert len(list(PartsStore(tmp_path).directory.glob("orders/*.npz"))) == 1
    assert len(list(tmp_path.glob("inputs/*.nc"))) == 2
