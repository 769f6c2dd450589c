"""Models: what can be recorded, how torch modules become models, and how they are found by name."""

from topobrain.models.protocol import Model, Recording
from topobrain.models.registry import list_models, load_model

__all__ = ["Encoded", "LaidOut", "Model", "Recording", "TextEncoder", "TorchModel", "list_models", "load_model"]


def __getattr__(name: str) -> object:
    # torch takes over a second to import: only those who wrap a module pay for it
    if name in ("TorchModel", "Encoded"):
        from topobrain.models import torch_model

        return getattr(torch_model, name)
    if name == "LaidOut":
        from topobrain.models.laid_out import LaidOut

        return LaidOut
    if name == "TextEncoder":
        from topobrain.models.text_encoder import TextEncoder

        return TextEncoder
    raise AttributeError(f"module 'topobrain.models' has no attribute {name!r}; public names: {', '.join(__all__)}")
