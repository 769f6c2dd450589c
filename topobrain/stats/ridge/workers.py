"""Tasks side by side, each on one core; numbers of threads are put back afterwards. Loads torch."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from threadpoolctl import LibController, ThreadpoolController

from topobrain._allocation import keep_freed_memory
from topobrain._checks import InputError

Item = TypeVar("Item")
Done = TypeVar("Done")

_lock = threading.Lock()
_inside = 0
_before = 1
_blas_before: list[int] = []
_own = threading.local()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Let torch's and numpy's operations use one thread inside; afterwards the numbers of threads are what they were.

    Several threads may be inside at the same time: the last one out puts the numbers back. Inside another such block of the
    same thread, and in a worker's thread, nothing changes.
    """
    global _inside, _before, _blas_before
    if getattr(_own, "inside", False):
        yield
        return
    blas = _blas()
    counted, own = False, torch.get_num_threads()
    try:  # an interrupt may come at any moment
        with _lock:
            if _inside:
                own = _before
            else:
                _before, _blas_before = own, [library.get_num_threads() for library in blas]
            _inside, counted, _own.inside = _inside + 1, True, True
            for library in blas:
                _set_threads(library, 1)
            torch.set_num_threads(1)
        yield
    finally:
        _own.inside = False
        with _lock:
            _inside -= counted
            torch.set_num_threads(own)
            if counted and not _inside:
                for library, number in zip(blas, _blas_before, strict=True):
                    _set_threads(library, number)


@functools.cache
def _blas() -> list[LibController]:
    """Return the libraries that numpy's products and decompositions are from: to look for them takes ten milliseconds."""
    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


def _set_threads(library: LibController, number: int) -> None:
    """Set a library's number of threads from any thread: by itself threadpoolctl lets only the one that came first."""
    release = getattr(library, "clear_controlling_thread", None)  # newer versions only; older ones let any thread
    if release is not None:
        release(force=True)
    library.set_num_threads(number)
    if release is not None:
        release(force=True)


def _stay_on_one_thread() -> None:
    """Make the calling thread one of those that never use several threads."""
    torch.set_num_threads(1)
    _own.inside = True


def check_threads(threads: int | None) -> int:
    """Return the number of threads to use: the one given, else torch's."""
    if threads is None:
        return torch.get_num_threads()
    whole = isinstance(threads, int | float | np.integer | np.floating) and np.isfinite(threads)
    if isinstance(threads, bool) or not whole or int(threads) != threads or threads < 1:
        raise InputError(f"threads must be a whole number of 1 or more, got {threads!r}")
    return int(threads)


class Workers:
    """A few threads that share out tasks.

    Small decompositions gain nothing from a second core, and wide products lose a little to waiting: whole tasks side by
    side use every core, and give the same numbers for any number of threads.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, initializer=_stay_on_one_thread) if threads > 1 else None

    def each(self, task: Callable[[Item], Done], items: Iterable[Item]) -> list[Done]:
        """Return ``[task(item) for item in items]``; the first exception ends it."""
        if self._pool is None:
            return [task(item) for item in items]
        waiting = [self._pool.submit(task, item) for item in items]
        try:
            return [one.result() for one in waiting]
        except BaseException:
            for one in waiting:
                one.cancel()
            raise

    def close(self) -> None:
        """End the threads once their present tasks are done."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


@contextmanager
def working(threads: int, *, bounded: bool = False) -> Iterator[Workers]:
    """Give workers, with torch on one thread in each of them; ``bounded`` memory is not kept once freed."""
    if not bounded:
        keep_freed_memory()
    with one_thread_each():
        workers = Workers(threads)
        try:
            yield workers
        finally:
            workers.close()
