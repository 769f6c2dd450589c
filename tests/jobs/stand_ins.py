"""Stand-ins for jobs and their work: importable, so that other processes can run them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from topobrain.jobs.work import Done, Job, named


def stand_in(folder: Path, number: int) -> Job:
    """Return a job whose key is a number; its order names what goes wrong."""
    return Job(
        key=str(number), store=str(folder), order="", model="gpt", layer=f"layer{number}", subject="s1",
        start=100, stop=120, first=100, features="", responses="", version="",
    )  # fmt: skip


def mark(job: Job) -> Done:
    """Leave a file that says which process ran the job."""
    (Path(job.store) / f"done-{job.key}").write_text(str(os.getpid()))
    return Done(job.key, 0.0, False)


def mark_slowly(job: Job) -> Done:
    """Do the same after long enough for other processes to take jobs too."""
    time.sleep(0.2)
    return mark(job)


def fail_at_two(job: Job) -> Done:
    """Mark every job but number 2, which raises something unforeseen."""
    with named(job):
        if job.key == "2":
            raise ZeroDivisionError("by zero")
        return mark(job)


def interrupt_at_two(job: Job) -> Done:
    """Mark every job but number 2, at which Ctrl-C is pressed."""
    if job.key == "2":
        raise KeyboardInterrupt
    return mark(job)


def die_at_two(job: Job) -> Done:
    """Mark every job but number 2, which takes its process down every time."""
    if job.key == "2":
        os.kill(os.getpid(), signal.SIGKILL)
    return mark(job)


def wait_for_go(job: Job) -> Done:
    """Say that a job waits, wait until it may go on, and mark it."""
    folder = Path(job.store)
    (folder / "waiting").touch()
    deadline = time.monotonic() + 60
    while not (folder / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return mark(job)
