"""Signals that ask a run to stop wait until what it is doing can be kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupt:
    """Whether a signal asked the run to stop."""

    asked = False


@contextmanager
def interrupts_wait() -> Iterator[Interrupt]:
    """Let Ctrl-C and SIGTERM wait for the end of a step, so that it can be kept; a second one stops at once."""
    found = Interrupt()
    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield found
        return

    def ask(number: int, frame: Any) -> None:
        if found.asked:
            raise KeyboardInterrupt
        found.asked = True

    chosen = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in chosen}
    ignored = {number for number in chosen if before[number] == signal.SIG_IGN}  # as a shell asks of background jobs
    try:
        for number in chosen:
            if number not in ignored:
                signal.signal(number, ask)
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
