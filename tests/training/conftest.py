from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[..., Any]]:
    """Start a function in a process of its own; what is slow to import is imported once for all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toy_runs"])
    started: list[Any] = []

    def run(work: Callable[..., Any], *given: Any) -> Any:
        process = context.Process(target=work, args=tuple(str(g) if isinstance(g, Path) else g for g in given))
        with pytest.MonkeyPatch.context() as patch:  # the server, which the first process starts, finds modules here
            patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]))
            process.start()
        started.append(process)
        return process

    yield run
    for process in started:
        if process.is_alive():
            process.kill()
            process.join()
