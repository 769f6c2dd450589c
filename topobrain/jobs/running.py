"""Run jobs here, in processes on this machine, or on a Dask cluster; each keeps its own part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np

from topobrain._checks import InputError, require_choice
from topobrain.jobs.work import Done, Job, run_job

Progress = Callable[[int, int], None]
Backend = Literal["loky", "threading"]


def run_jobs(
    jobs: Sequence[Job],
    *,
    n_workers: int = 1,
    backend: Backend = "loky",
    client: Any = None,
    progress: Progress | None = None,
    n_done: int = 0,
    work: Callable[[Job], Done] = run_job,
) -> list[Done]:
    """Run jobs through joblib and return what each says of itself, in the order they finished.

    Parameters
    ----------
    jobs
        What is to be done.
    n_workers
        Processes (or threads) on this machine; 1 runs the jobs one by one in this process.
    backend
        ``"loky"``: processes; ``"threading"``: threads of this process.
    client
        A connected Dask client: jobs run on its cluster instead.
    progress
        Called with (jobs done, jobs in all) after every job.
    n_done
        Jobs that were done before, for ``progress``.
    work
        What to do with a job.

    Raises
    ------
    InputError
        A number of workers below 1.
    JobError, DataFileError, ClusterError
        What went wrong in a job, naming it. Parts of the jobs that were done are kept.
    """
    require_count("n_workers", n_workers)
    require_choice("backend", backend, ("loky", "threading"))
    done: list[Done] = []
    if not jobs:
        return done
    import joblib

    with _chosen(n_workers, backend, client) as options:
        parallel = joblib.Parallel(batch_size=1, return_as="generator_unordered", **options)
        for one in parallel(joblib.delayed(work)(job) for job in jobs):
            done.append(one)
            if progress is not None:
                progress(n_done + len(done), n_done + len(jobs))
    return done


def require_count(what: str, given: object) -> None:
    """Raise unless ``given`` is a whole number of 1 or more."""
    if isinstance(given, bool) or not isinstance(given, int | np.integer):
        raise InputError(f"{what} must be a whole number of 1 or more, got {given!r}")
    if given < 1:
        raise InputError(f"{what} must be 1 or more, got {given}")


@contextmanager
def _chosen(n_workers: int, backend: Backend, client: Any) -> Iterator[dict[str, Any]]:
    """Choose joblib's backend while the block runs; yield what `joblib.Parallel` is given."""
    import joblib

    if client is not None:
        from topobrain.jobs.cluster import ClusterBackend

        with joblib.parallel_config(backend=ClusterBackend(client), n_jobs=-1):
            # short tasks ahead of the workers, so that none waits; long queues only make cancelling slow
            yield {"pre_dispatch": "3*n_jobs"}
    elif n_workers == 1:
        yield {"n_jobs": 1, "backend": "sequential"}
    else:
        inner = {"inner_max_num_threads": 1} if backend == "loky" else {}
        with joblib.parallel_config(backend=backend, n_jobs=n_workers, **inner):
            yield {"pre_dispatch": "2*n_jobs"}
