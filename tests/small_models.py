"""Small stand-ins for the models that a run trains, and processes that Ctrl-C reaches."""

from __future__ import annotations

import functools
import signal
import subprocess
from typing import Any

import pytest


def make_tiny_models_quick(patch: pytest.MonkeyPatch) -> None:
    """Make the tiny Topoformers small and barely trained on little text: seconds instead of minutes."""
    from topobrain.training import tiny
    from topobrain.training.loop import TrainingConfig

    quick = TrainingConfig(steps=20, evaluate_every=10)
    patch.setattr(tiny, "TinyConfig", functools.partial(tiny.TinyConfig, width=36, ffn_width=36, training=quick))
    patch.setattr(tiny, "MAX_TEXTS", 2000)
    patch.setattr(tiny, "N_HELD_OUT", 200)
    load_text = tiny.load_text

    def some_texts(name: str) -> list[str]:
        return load_text(name, n_sentences=3000) if name == "simulated-text" else load_text(name)

    patch.setattr(tiny, "load_text", some_texts)


def start(arguments: list[str], **options: Any) -> subprocess.Popen[str]:
    """Start a process whose output is read and that SIGINT reaches, even where this one was started in the background.

    A shell without job control starts background commands with SIGINT ignored; children inherit that.
    """

    def listen() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listen, **options
    )
