"""A Dask cluster to run jobs on: reached or started, checked, and used through joblib.

joblib has a Dask backend of its own. It waits for ever for a task that Dask gave up (after its workers died four times,
as they do where memory runs out: joblib 1.6, distributed 2026.8), so the backend here tells such a task as an error.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from joblib.parallel import ParallelBackendBase

from topobrain._checks import InputError, TopobrainError, listed

CONNECT_SECONDS = 8.0
"""How long to wait for a scheduler, and for its first worker."""

FETCH_SECONDS = 10.0
"""How long a finished job's word (a few bytes) may travel before it counts as lost with its worker."""

INSTALL = "pip install 'topobrain[cluster]'"


class ClusterError(TopobrainError, ConnectionError):
    """A cluster that cannot be reached, has no workers, or was lost."""


@contextmanager
def connected(scheduler: str) -> Iterator[Any]:
    """Connect to a Dask scheduler while the block runs.

    Parameters
    ----------
    scheduler
        An address such as ``"tcp://10.0.0.1:8786"``, or ``"local:4"``: start four worker processes of one thread each on
        this machine, and stop them afterwards.

    Raises
    ------
    ClusterError
        Nothing answers at the address within `CONNECT_SECONDS`, or no worker is there.
    InputError
        An address that is none, or Dask is not installed.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise InputError(f"--scheduler needs Dask, which is not installed: {INSTALL}") from error
    number = check_scheduler(scheduler)
    if number is not None:
        with (
            LocalCluster(
                n_workers=number, threads_per_worker=1, processes=True, dashboard_address=":0"
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):  # fmt: skip
            yield client
        return
    try:
        client = Client(scheduler, set_as_default=False, timeout=CONNECT_SECONDS)
    except ValueError as error:
        raise InputError(f"scheduler {scheduler!r} is no address: {error}; expected tcp://HOST:PORT") from error
    except (OSError, TimeoutError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {scheduler} ({CONNECT_SECONDS:.0f} s): start one with `dask scheduler` and "
            "workers with `dask worker ADDRESS`, or use local:N"
        ) from error
    with _quiet("distributed.client"), client:
        yield client


def check_scheduler(scheduler: object) -> int | None:
    """Return the number of processes of ``"local:N"``, None for an address; raise for what is neither.

    >>> check_scheduler("local:2"), check_scheduler("tcp://10.0.0.1:8786")
    (2, None)
    """
    if isinstance(scheduler, str) and scheduler.startswith("local:"):
        number = scheduler.removeprefix("local:")
        if not number.isdecimal() or int(number) < 1:
            raise InputError(f"scheduler {scheduler!r}: expected a number of processes, as in 'local:2'")
        return int(number)
    if not isinstance(scheduler, str) or "://" not in scheduler:
        raise InputError(
            f"scheduler {scheduler!r} is no address: expected tcp://HOST:PORT, or local:N for N processes here"
        )
    return None


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a logger from printing the traceback of a lost connection, which is told as an error."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def check_workers(client: Any, seen: str) -> int:
    """Check that every worker has this version of topobrain and sees the store; return the number of their threads.

    Parameters
    ----------
    client
        The connected client.
    seen
        A file that every worker must see.

    Raises
    ------
    ClusterError
        There is no worker.
    InputError
        A worker with another version, without topobrain, or on a machine that does not see the store.
    """
    from topobrain import __version__
    from topobrain.jobs.work import NUMERICS

    address = client.scheduler.address
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except TimeoutError as error:
        raise ClusterError(
            f"the scheduler at {address} has no worker ({CONNECT_SECONDS:.0f} s): start one with `dask worker {address}`"
        ) from error

    def asked(
        path: str,
    ) -> tuple[str | None, int | None, bool]:  # sent by value: it must run where topobrain is missing
        import os

        try:
            import topobrain
            from topobrain.jobs import work
        except ImportError:
            return None, None, os.path.isfile(path)
        return topobrain.__version__, work.NUMERICS, os.path.isfile(path)

    found: dict[str, tuple[str | None, int | None, bool]] = client.run(asked, seen)
    for worker, (version, numerics, visible) in sorted(found.items()):
        if version is None:
            raise InputError(f"worker {worker} cannot import topobrain.jobs: install topobrain {__version__} there")
        if version != __version__ or numerics != NUMERICS:
            raise InputError(
                f"worker {worker} has topobrain {version} (numerics {numerics}), this process {__version__} (numerics "
                f"{NUMERICS}): install the same version, or scores would not belong together"
            )
        if not visible:
            raise InputError(
                f"worker {worker} does not see {seen}: put the store on a file system that all workers share (--store)"
            )
    return n_threads(client)


def n_threads(client: Any) -> int:
    """Return the number of threads of all workers."""
    return max(1, int(sum(client.ncores().values())))


@dataclass
class _Task:
    """A task that runs on the cluster: its job in words, and whom to tell of its end."""

    label: str
    tell: Callable[[Any], None]
    future: Any = None
    again: bool = False
    """Its result was lost with a worker: look for its end once more."""


@dataclass(frozen=True)
class _End:
    """What became of a task: its result, the error it ended with, or neither where the scheduler is gone."""

    task: _Task
    result: Any = None
    error: BaseException | None = None
    lost: bool = False


class ClusterBackend(ParallelBackendBase):  # type: ignore[misc]
    """joblib's way to a Dask cluster; a task that Dask gives up, or a scheduler that is lost, is an error, never a wait.

    Parameters
    ----------
    client
        A connected `distributed.Client`.
    """

    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(self, client: Any) -> None:
        super().__init__(nesting_level=0)
        self.client = client
        self.running: dict[str, _Task] = {}
        self.over = threading.Event()
        self.lock = threading.Lock()

    def effective_n_jobs(self, n_jobs: int) -> int:
        """Return the number of threads of all workers, and 2 for one: joblib runs "one job at a time" in this process."""
        return max(2, n_threads(self.client))

    def start_call(self) -> None:
        """Begin to watch: Dask tells the end of no task once the connection is gone, nor once a result was lost."""
        self.over = threading.Event()
        threading.Thread(target=self._watch, args=(self.over,), daemon=True).start()

    def stop_call(self) -> None:
        """Stop watching."""
        self.over.set()

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(0.2):
            connected = self.client.status in ("running", "connecting", "newly-created")
            for name, task in list(self.running.items()):
                if not connected:
                    self._tell(name, _End(task, lost=True))
                elif task.again and self._is_over(task.future):
                    task.again = False
                    self._ended(name, task, task.future)

    def _is_over(self, future: Any) -> bool:
        return future is not None and future.status in ("finished", "error", "cancelled")

    def _ended(self, name: str, task: _Task, future: Any) -> None:
        """Tell a task's end, or wait for it again: a result that died with its worker is computed anew by another."""
        end: _End | None = None
        try:
            if future.status == "finished":
                end = _End(task, result=future.result(timeout=FETCH_SECONDS))
            elif future.status == "error":
                end = _End(task, error=future.exception(timeout=FETCH_SECONDS))
            elif future.status == "cancelled":
                end = _End(task, lost=True)
        except (
            Exception
        ):  # what fetching a result raises: it was lost, the task failed meanwhile, or the connection did
            if self.client.status != "running":
                end = _End(task, lost=True)
        if end is None:
            task.future, task.again = future, True
        else:
            self._tell(name, end)

    def _tell(self, name: str, end: _End) -> None:
        """Tell the end of a task once, whoever of the two threads comes first."""
        with self.lock:
            task = self.running.pop(name, None)
        if task is not None:
            task.tell(end)

    def submit(self, func: Any, callback: Callable[[Any], None]) -> Any:
        """Hand a batch (of one job) to the cluster."""
        _, arguments, _ = func.items[0]
        name = f"encode-{uuid.uuid4().hex}"
        task = self.running[name] = _Task(listed(arguments), callback)
        task.future = self.client.submit(func, key=name, pure=False)
        task.future.add_done_callback(lambda future: self._ended(name, task, future))
        return task.future

    apply_async = submit  # the name before joblib 1.5

    def retrieve_result_callback(self, out: _End) -> Any:
        """Return a batch's result, or raise what became of it."""
        from distributed import KilledWorker

        from topobrain.jobs.work import KEPT

        if isinstance(out.error, KilledWorker):
            raise ClusterError(
                f"{out.task.label}: the workers that ran it died, one after another, most likely for want of memory. Use "
                f"workers with more memory, or a smaller --max-memory or --voxel-chunk; {KEPT}"
            )
        if out.error is not None:
            raise out.error
        if out.lost:
            raise ClusterError(
                f"{out.task.label}: the scheduler was lost while it ran. Parts that are done are kept: run the same again"
            )
        return out.result

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel what has not begun; what runs goes on and keeps its part."""
        with self.lock:
            left = [task.future for task in self.running.values() if task.future is not None]
            self.running.clear()
        if left and self.client.status == "running":
            self.client.cancel(left)
