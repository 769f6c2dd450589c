"""A small network of every architecture, and some in which more is switched on."""

from __future__ import annotations

from typing import Any

import torch

from topobrain.models.architectures import ARCHITECTURES, build, find_architecture
from topobrain.models.torch_model import TorchModel
from topobrain.testing import TEXTS
from topobrain.training.vocabularies import train_bpe

CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ARCHITECTURES),
    ("topoformer", {"querying": None, "reweighting": None}),
    ("topoformer", {"n_heads": 4, "pool": "learned", "signed": True, "wrapped": False}),
    ("topoformer-classifier", {"n_classes": 5, "n_layers": 2}),
    ("topoformer-bert", {"qkv_bias": True, "querying": None}),
    ("gpt", {"positions": "permuted", "position_seed": 3, "bias": True, "activation": "gelu_tanh"}),
    ("gpt-neo", {"attention": ["local"], "hidden": 48}),
    ("resnet", {"blur_pool": True, "width": 16}),
    ("resnet", {"depth": 50, "stem": "imagenet", "width": 4, "image_size": 40}),
    ("vit", {"n_layers": 1, "norm_eps": 1e-5}),
]
NAMES = [f"{name} {' '.join(changes)}".strip() for name, changes in CASES]


def small_tokenizer() -> Any:
    return train_bpe(list(TEXTS) * 3, 300)


def small_config(name: str, n_tokens: int = 300, **changes: Any) -> Any:
    """Return the tiny configuration of an architecture, with changes (lists become tuples, as from JSON)."""
    from dataclasses import asdict

    from topobrain.models.architectures import build_config

    architecture = find_architecture(name)
    config = architecture.config.tiny(n_tokens if architecture.reads == "text" else 5)
    return build_config(architecture, {**asdict(config), **changes})


def small_network(name: str, n_tokens: int = 300, *, seed: int = 0, **changes: Any) -> Any:
    """Return a network none of whose weights and running statistics is what a fresh one of another seed would have."""
    module = build(name, small_config(name, n_tokens, **changes), seed=seed)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 2.0, generator=draws)
            elif key.endswith("running_mean") or (tensor.dtype.is_floating_point and tensor.ndim == 1):
                tensor.add_(0.2 * torch.randn(tensor.shape, generator=draws))
    return module


def wrapped(name: str, module: Any, tokenizer: Any, *, label: str = "little") -> TorchModel:
    architecture = find_architecture(name)
    given = (tokenizer,) if architecture.reads == "text" else ()
    return architecture.wrap(label, module, *given, device="cpu")
