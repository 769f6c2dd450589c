from __future__ import annotations

from pathlib import Path

import pytest
from made_studies import QUICK, made_activations, made_responses

from topobrain._checks import InputError, UnknownNameError
from topobrain.jobs import encode_all
from topobrain.jobs.plan import spoken
from topobrain.models import load_model


def shape_of(activations):
    """A model that has the sheets of some activations and does not run."""

    class Shape:
        name, sheets = "made-0", activations.sheets

        def record(self, stimuli, layers):
            pytest.fail("ran")

    return Shape()


def files(*folders: Path) -> set[Path]:
    return {path for folder in folders if folder.exists() for path in folder.rglob("*")}


def test_a_plan_counts_jobs_and_starts_nothing(tmp_path, monkeypatch, session_cache):
    monkeypatch.setattr("topobrain.jobs.fan_out.run_jobs", lambda *_, **__: pytest.fail("started"))
    before = files(session_cache)
    acts, brain, store = made_activations(), made_responses(), tmp_path / "store"
    plan = encode_all(
        [acts, made_activations(seed=1)], brain, voxel_chunk=4, store=store, n_workers=3, dry_run=True, **QUICK
    )
    assert len(plan.jobs) == 2 * 2 * 4  # models, layers, and two chunks of each subject
    assert {job.subject for job in plan.jobs} == {"a", "b"}
    assert [(job.start, job.stop) for job in plan.jobs[:4]] == [(0, 3), (3, 7)] * 2
    assert all(job.operations > 0 and job.memory > 0 and job.disk > 0 and job.done is False for job in plan.jobs)
    total = plan.totals()
    assert (total["jobs"], total["done"], total["workers"]) == (16, 0, 3)
    assert total["hours"] == pytest.approx(total["hours_one_process"] / 3, rel=0.2)
    assert total["memory_at_once"] == 3 * total["memory_per_job"]
    assert total["disk"] > sum(job.disk for job in plan.jobs)  # activations and responses come to it
    assert not store.exists()
    assert files(session_cache) == before
    assert len(plan.to_frame()) == 16
    assert [row["layer"] for row in plan.rows()] == ["layer0", "layer1"] * 2
    assert "16 jobs, 0 done" in str(plan)


def test_what_is_done_is_left_out_of_the_costs(tmp_path):
    acts, brain = made_activations(), made_responses()
    encode_all([acts], brain, layers=["layer0"], store=tmp_path, **QUICK)
    before = files(tmp_path)
    plan = encode_all([acts], brain, store=tmp_path, dry_run=True, **QUICK)
    assert [job.done for job in plan.jobs] == [True, True, False, False]
    assert plan.totals()["done"] == 2
    assert plan.rows()[0]["hours_one_process"] == 0.0
    assert files(tmp_path) == before


def test_a_model_by_name_is_planned_from_its_sheets_alone(tmp_path, monkeypatch):
    cache, name = tmp_path / "cache", "toponet-resnet18-tiny"  # trained on first use
    monkeypatch.setenv("TOPOBRAIN_CACHE", str(cache))
    plan = encode_all([name], made_responses(), dry_run=True, **QUICK)
    sheets = load_model(name, weights="untrained").sheets
    assert {job.layer: job.n_units for job in plan.jobs} == {layer: sheet.n_units for layer, sheet in sheets.items()}
    assert all(job.done is None for job in plan.jobs)
    assert {job.model for job in plan.jobs} == {name}
    assert "not known" in str(plan)
    assert not files(cache)


def test_the_plan_of_a_name_is_that_of_its_activations(tmp_path):
    brain = made_responses()
    acts = made_activations()

    options = {"voxel_chunk": 5, "dry_run": True, "layers": ["layer1"], "subjects": "b", **QUICK}
    by_name, by_values = (encode_all([model], brain, **options).jobs for model in (shape_of(acts), acts))
    assert len(by_name) == 2
    for one, other in zip(by_name, by_values, strict=True):
        same = ("model", "layer", "subject", "start", "stop", "n_units", "operations", "memory", "disk")
        assert all(getattr(one, name) == getattr(other, name) for name in same)


@pytest.mark.slow
def test_unknown_names_and_impossible_options_are_told():
    brain, model = made_responses(), shape_of(made_activations())
    with pytest.raises(UnknownNameError, match="Did you mean 'topoformer-tiny'"):
        encode_all(["topoformer-tny"], brain, dry_run=True)
    with pytest.raises(UnknownNameError, match="unknown layer 'nowhere'"):
        encode_all([model], brain, layers=["nowhere"], dry_run=True)
    with pytest.raises(InputError, match="folds"):
        encode_all([model], brain, n_folds=1, dry_run=True)
    with pytest.raises(InputError, match="at least"):
        encode_all([model], brain, max_memory="1 kB", dry_run=True, **QUICK)
    with pytest.raises(UnknownNameError, match="unknown selection 'nope'"):
        encode_all([model], brain, selection="nope", dry_run=True, **QUICK)
    with pytest.raises(InputError, match="seed must be whole numbers"):
        encode_all([model], brain, seed=1.5, dry_run=True, **QUICK)
    with pytest.raises(InputError, match="mask of units needs activations"):
        encode_all([model], brain, units=[True], dry_run=True)


def test_a_workers_number_comes_from_the_cluster_asked_for(tmp_path):
    plan = encode_all([made_activations()], made_responses(), scheduler="local:6", dry_run=True, **QUICK)
    assert plan.n_workers == 6


@pytest.mark.parametrize(
    ("hours", "said"),
    [(0.0, "less than a second"), (0.01, "36 s"), (0.5, "30 min"), (1.5, "90 min"), (20.0, "20.0 h")],
)
def test_hours_are_said_as_one_would(hours, said):
    assert spoken(hours) == said
