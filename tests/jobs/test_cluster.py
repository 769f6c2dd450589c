from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from made_studies import QUICK, differences, made_activations, made_responses
from stand_ins import die_at_two, fail_at_two, mark, stand_in, wait_for_go

import topobrain
from topobrain._checks import InputError
from topobrain.jobs import JobError, cluster, encode_all
from topobrain.jobs.cluster import ClusterError, check_workers, connected
from topobrain.jobs.running import run_jobs

pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def two_workers():
    """The address of a cluster of two worker processes."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as running:
        yield running.scheduler_address


def wait_on_marks(folder: str) -> None:
    """Make every job of this worker leave a mark with its process and wait until it may go on."""
    from topobrain.jobs import work

    original = work.encode_part

    def waiting(*arguments, **options):
        (Path(folder) / f"running-{os.getpid()}").touch()
        deadline = time.monotonic() + 60
        while not (Path(folder) / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        return original(*arguments, **options)

    work.encode_part = waiting


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_changes_nothing(tmp_path, two_workers):
    acts, brain = made_activations(), made_responses()
    (here,) = encode_all([acts], brain, voxel_chunk=4, store=tmp_path / "here", **QUICK)
    found = []

    def run() -> None:
        found.extend(encode_all([acts], brain, voxel_chunk=4, store=tmp_path / "there", scheduler=two_workers, **QUICK))

    with connected(two_workers) as client:
        client.run(wait_on_marks, str(tmp_path))
        running = threading.Thread(target=run)
        running.start()
        deadline = time.monotonic() + 120
        while not (marks := sorted(tmp_path.glob("running-*"))) and running.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert marks, "no job began"
        killed = int(marks[0].name.removeprefix("running-"))
        assert killed in client.run(os.getpid).values()
        os.kill(killed, signal.SIGKILL)  # in the middle of its job
        (tmp_path / "go").touch()
        running.join(timeout=180)
        assert not running.is_alive()
        assert killed not in client.run(os.getpid).values()
    assert len(found) == 1
    assert differences(found[0], here) == {}
    assert not list((tmp_path / "there").glob("**/.*.part"))


@pytest.mark.slow
def test_a_result_that_dies_with_its_worker_is_computed_anew(tmp_path, two_workers, monkeypatch):
    jobs = [stand_in(tmp_path, number) for number in range(3)]
    killed = []
    ended = cluster.ClusterBackend._ended

    def kill_first(backend, name, task, future):
        if not killed and future.status == "finished":  # finished, and not fetched yet
            (holder,) = backend.client.who_has([future])[future.key]
            killed.append(backend.client.run(os.getpid, workers=[holder])[holder])
            os.kill(killed[0], signal.SIGKILL)
            deadline = time.monotonic() + 30
            while future.status == "finished" and time.monotonic() < deadline:
                time.sleep(0.02)
            assert future.status != "finished"
        ended(backend, name, task, future)

    monkeypatch.setattr(cluster.ClusterBackend, "_ended", kill_first)
    with connected(two_workers) as client:
        client.wait_for_workers(2, timeout=60)
        done = run_jobs(jobs, work=mark, client=client)
    assert killed
    assert sorted(one.key for one in done) == [job.key for job in jobs]


@pytest.mark.slow
def test_an_error_on_a_worker_names_its_job(tmp_path, two_workers):
    jobs = [stand_in(tmp_path, number) for number in range(5)]
    with (
        connected(two_workers) as client,
        pytest.raises(JobError, match="layer 'layer2', subject 's1', voxels 0-19: Zero"),
    ):
        run_jobs(jobs, work=fail_at_two, client=client)


@pytest.mark.slow
def test_a_worker_of_another_version_is_refused_with_both(tmp_path, two_workers):
    (tmp_path / "seen").touch()

    def pretend(version: str) -> None:
        import topobrain

        topobrain.__version__ = version

    with connected(two_workers) as client:
        client.wait_for_workers(2, timeout=60)
        assert check_workers(client, str(tmp_path / "seen")) == 2
        one = sorted(client.scheduler_info(n_workers=-1)["workers"])[0]
        client.run(pretend, "0.0.9", workers=[one])
        with pytest.raises(
            InputError, match=rf"worker {one} has topobrain 0\.0\.9.*this process {topobrain.__version__}"
        ):
            encode_all([made_activations()], made_responses(), store=tmp_path, scheduler=two_workers, **QUICK)
        client.run(pretend, topobrain.__version__, workers=[one])
        with pytest.raises(InputError, match=r"does not see .*nowhere: put the store on a file system"):
            check_workers(client, str(tmp_path / "nowhere"))


@pytest.mark.slow
def test_a_cluster_started_for_the_run_gives_the_same_bits(tmp_path):
    acts, brain = made_activations(), made_responses()
    (here,) = encode_all([acts], brain, store=tmp_path / "here", **QUICK)
    told = []
    (there,) = encode_all(
        [acts], brain, store=tmp_path / "there", scheduler="local:2", progress=lambda *at: told.append(at), **QUICK
    )
    assert differences(here, there) == {}
    assert told == [(number, 4) for number in range(5)]


ONE_WORKER = """
import sys, time
from distributed import LocalCluster
sys.path[:0] = {paths!r}
with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=":0") as running:
    print(running.scheduler_address, flush=True)
    time.sleep(300)
"""


@pytest.mark.slow
def test_a_scheduler_that_is_lost_in_the_middle_is_told(tmp_path):
    code = ONE_WORKER.format(paths=sys.path)
    scheduler = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)

    def lose() -> None:
        deadline = time.monotonic() + 120
        while not (tmp_path / "waiting").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        scheduler.kill()

    try:
        assert scheduler.stdout is not None
        address = scheduler.stdout.readline().strip()
        with connected(address) as client:
            losing = threading.Thread(target=lose)
            losing.start()
            with pytest.raises(ClusterError, match=r"layer 'layer0'.*the scheduler was lost while it ran"):
                run_jobs([stand_in(tmp_path, number) for number in range(4)], work=wait_for_go, client=client)
            losing.join()
    finally:
        scheduler.kill()
        scheduler.communicate()


def test_a_scheduler_that_does_not_answer_is_told_with_its_address(tmp_path, monkeypatch):
    assert cluster.CONNECT_SECONDS <= 10
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.3)
    with pytest.raises(ClusterError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9 .*dask scheduler"):
        encode_all([made_activations()], made_responses(), store=tmp_path, scheduler="tcp://127.0.0.1:9", **QUICK)


@pytest.mark.parametrize(
    ("scheduler", "told"),
    [
        ("local:0", "expected a number of processes"),
        ("local:two", "expected a number of processes"),
        ("10.0.0.1:8786", "expected tcp://HOST:PORT"),
        ("ftp://10.0.0.1:8786", "expected tcp://HOST:PORT"),
    ],
)
def test_an_address_that_is_none_is_told(tmp_path, scheduler, told):
    with pytest.raises(InputError, match=told):
        encode_all([made_activations()], made_responses(), store=tmp_path, scheduler=scheduler, **QUICK)


def test_a_scheduler_without_workers_is_told(tmp_path, monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as running,
        pytest.raises(ClusterError, match="has no worker"),
    ):
        encode_all([made_activations()], made_responses(), store=tmp_path, scheduler=running.scheduler_address)


def test_dask_that_is_not_installed_is_told(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'topobrain\[cluster\]'"):
        encode_all([made_activations()], made_responses(), store=tmp_path, scheduler="local:2", **QUICK)


@pytest.mark.slow
def test_a_job_that_takes_every_worker_down_ends_with_advice(tmp_path, two_workers):
    # last of the tests on this cluster: Dask does not replace a worker that dies while it starts
    jobs = [stand_in(tmp_path, number) for number in range(4)]
    with (
        connected(two_workers) as client,
        # a job that waited on the same workers may be named in its place
        pytest.raises(ClusterError, match=r"layer 'layer\d'.*the workers that ran it died"),
    ):
        run_jobs(jobs, work=die_at_two, client=client)
