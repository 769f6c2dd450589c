"""Training: one readable loop, objectives, and recipes with frozen configurations."""

__all__ = ["TinyConfig", "TrainingConfig", "TrainingLog", "train_masked_lm", "train_tiny_pair"]


def __getattr__(name: str) -> object:
    if name == "TrainingLog":
        from topobrain.training.log import TrainingLog

        return TrainingLog
    if name in ("TrainingConfig", "train_masked_lm"):
        from topobrain.training import loop

        return getattr(loop, name)
    if name in ("TinyConfig", "train_tiny_pair"):
        from topobrain.training import tiny

        return getattr(tiny, name)
    raise AttributeError(f"module 'topobrain.training' has no attribute {name!r}; public names: {', '.join(__all__)}")
