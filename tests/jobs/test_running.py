from __future__ import annotations

import os

import pytest
from stand_ins import fail_at_two, interrupt_at_two, mark, mark_slowly, stand_in

from topobrain._checks import InputError, UnknownNameError
from topobrain.jobs.running import run_jobs
from topobrain.jobs.work import JobError


def jobs(folder, n=5):
    return [stand_in(folder, number) for number in range(n)]


def processes(folder) -> set[int]:
    return {int(path.read_text()) for path in folder.glob("done-*")}


def test_one_worker_runs_in_this_process_in_order(tmp_path):
    told = []
    done = run_jobs(jobs(tmp_path), work=mark, progress=lambda *at: told.append(at), n_done=2)
    assert [one.key for one in done] == ["0", "1", "2", "3", "4"]
    assert told == [(3, 7), (4, 7), (5, 7), (6, 7), (7, 7)]
    assert processes(tmp_path) == {os.getpid()}


def test_threads_run_in_this_process(tmp_path):
    done = run_jobs(jobs(tmp_path), work=mark, n_workers=3, backend="threading")
    assert sorted(one.key for one in done) == ["0", "1", "2", "3", "4"]
    assert processes(tmp_path) == {os.getpid()}


@pytest.mark.slow
def test_processes_share_the_jobs(tmp_path):
    told = []
    done = run_jobs(jobs(tmp_path, 12), work=mark_slowly, n_workers=2, progress=lambda *at: told.append(at))
    assert sorted(int(one.key) for one in done) == list(range(12))
    assert told == [(number, 12) for number in range(1, 13)]
    ran = processes(tmp_path)
    assert os.getpid() not in ran
    assert 1 <= len(ran) <= 2


@pytest.mark.parametrize("options", [{}, {"n_workers": 2, "backend": "threading"}])
def test_an_unforeseen_error_names_its_job_and_what_was_done_stays(tmp_path, options):
    with pytest.raises(JobError) as raised:
        run_jobs(jobs(tmp_path), work=fail_at_two, **options)
    told = str(raised.value)
    assert told == "model 'gpt', layer 'layer2', subject 's1', voxels 0-19: ZeroDivisionError: by zero"
    assert (tmp_path / "done-0").exists()


@pytest.mark.slow
def test_an_error_in_another_process_names_its_job(tmp_path):
    with pytest.raises(JobError, match="layer 'layer2', subject 's1', voxels 0-19: ZeroDivisionError"):
        run_jobs(jobs(tmp_path), work=fail_at_two, n_workers=2)


def test_ctrl_c_ends_the_run_and_what_was_done_stays(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs(tmp_path), work=interrupt_at_two)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done-0", "done-1"]


def test_bad_numbers_and_names_are_told(tmp_path):
    with pytest.raises(InputError, match="n_workers must be 1 or more, got 0"):
        run_jobs(jobs(tmp_path), n_workers=0)
    with pytest.raises(UnknownNameError, match="Did you mean 'threading'"):
        run_jobs(jobs(tmp_path), backend="thread")  # type: ignore[arg-type]
    assert run_jobs([], work=mark) == []
