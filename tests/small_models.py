"""Small stand-ins for the models that a run trains."""

from __future__ import annotations

import functools

import pytest


def make_tiny_models_quick(patch: pytest.MonkeyPatch) -> None:
    """Make the tiny Topoformers small and barely trained on little text: seconds instead of minutes."""
    from topobrain.training import tiny
    from topobrain.training.loop import TrainingConfig

    quick = TrainingConfig(steps=20, evaluate_every=10)
    patch.setattr(tiny, "TinyConfig", functools.partial(tiny.TinyConfig, width=36, ffn_width=36, training=quick))
    patch.setattr(tiny, "MAX_TEXTS", 2000)
