"""Tiny files in the layouts of published weights, as their authors' own programs write them; and hostile ones."""

from __future__ import annotations

import argparse
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from test_vision import images, seeded
from torch import Tensor, nn

from topobrain.models.resnet import ResNet, ResNetConfig
from topobrain.models.vit import ViT, ViTConfig

VOCAB, WIDTH, LAYERS, HEADS, CONTEXT = 330, 16, 2, 4, 24
SIDE = 4
SHEETS = [f"layer.{i}.{branch}" for i in range(LAYERS) for branch in ("attn", "mlp")]
ARGUMENTS = {
    "n_layer": LAYERS, "n_head": HEADS, "n_embd": WIDTH, "block_size": CONTEXT, "bias": False, "vocab_size": VOCAB,
    "dropout": 0.0,
}  # fmt: skip

RESNET = ResNetConfig(n_classes=5, width=16)
RESNET_50 = ResNetConfig(depth=50, n_classes=5, width=4)
VIT = ViTConfig(image_size=32, patch_size=8, width=32, n_layers=2, n_heads=4, mlp_width=64, n_classes=5)


class Trap:
    """An object whose unpickling makes a directory: the trace that code in a file ran."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


# --- GPTs


def nanogpt_tensors(
    bias: bool = False, seed: int = 0, *, vocab_size: int = VOCAB, context: int = CONTEXT
) -> dict[str, Tensor]:
    """Random tensors under the names of the published NanoGPT."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int, mean: float = 0.0) -> Tensor:
        return mean + 0.3 * torch.randn(shape, generator=rng)

    tensors = {"transformer.wte.weight": draw(vocab_size, WIDTH), "transformer.wpe.weight": draw(context, WIDTH)}
    for i in range(LAYERS):
        block = f"transformer.h.{i}"
        tensors[f"{block}.ln_1.weight"] = draw(WIDTH, mean=1.0)
        tensors[f"{block}.attn.c_attn.weight"] = draw(3 * WIDTH, WIDTH)
        tensors[f"{block}.attn.c_proj.weight"] = draw(WIDTH, WIDTH)
        tensors[f"{block}.ln_2.weight"] = draw(WIDTH, mean=1.0)
        tensors[f"{block}.mlp.c_fc.weight"] = draw(4 * WIDTH, WIDTH)
        tensors[f"{block}.mlp.c_proj.weight"] = draw(WIDTH, 4 * WIDTH)
    tensors["transformer.ln_f.weight"] = draw(WIDTH, mean=1.0)
    if bias:
        for name in [n for n in tensors if ".h." in n or "ln_f" in n]:
            tensors[name.replace(".weight", ".bias")] = draw(len(tensors[name]))
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]
    return tensors


def write_nanogpt(path: Path, tensors: dict[str, Tensor] | None = None, **changes: Any) -> Path:
    """Write the nest of the published training script: compiled names, sizes, optimiser and progress."""
    state = nanogpt_tensors() if tensors is None else tensors
    arguments = {key: value for key, value in {**ARGUMENTS, **changes}.items() if value != "leave out"}
    content = {
        "model": {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
        "optimizer": {
            "state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3)}},
            "param_groups": [{"lr": 6e-4}],
        },
        "model_args": arguments,
        "iter_num": 20000,
        "best_val_loss": torch.tensor(3.07),
        "config": {"dataset": "fineweb", "compile": True},
    }
    return saved(path, content)


def write_topolm(path: Path, tensors: dict[str, Tensor] | None = None, **changes: Any) -> Path:
    """Write what TopoLM's training script does: its own name of the width, losses and a folder of positions beside it."""
    extra = {"n_embed": WIDTH, "alpha": 2.5, "position_dir": "gpt2-positions-5-5", "accum": "mean", "head_loss": False}
    return write_nanogpt(path, tensors, n_embd="leave out", **{**extra, **changes})


def shuffled(seed: int = 0) -> dict[str, np.ndarray]:
    """Coordinates (unit, 2) of every sheet: x in the first column, y in the second."""
    rng = np.random.default_rng(seed)
    grid = np.array([[x, y] for x in range(SIDE) for y in range(SIDE)], dtype=np.float32)
    return {name: rng.permutation(grid) for name in SHEETS}


# --- vision


def state_of(config: Any) -> dict[str, Tensor]:
    """Random tensors under torchvision's names (and the FFCV recipe's, where the config blurs)."""
    build = ResNet if isinstance(config, ResNetConfig) else ViT
    return OrderedDict(seeded(lambda: build(config), seed=1).state_dict())


def training_dictionary(state: dict[str, Tensor], config: ViTConfig = VIT) -> dict[str, Any]:
    """What torchvision's training script saves: weights, their running mean, optimiser, progress and command line."""
    module = seeded(lambda: ViT(config))
    optimizer = torch.optim.AdamW(module.parameters())
    module(images(1, config.image_size)).sum().backward()
    optimizer.step()
    return {
        "model": state,
        "model_ema": {"n_averaged": torch.tensor(3), **{f"module.{k}": v * 2 for k, v in state.items()}},
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"last_epoch": 299},
        "epoch": 299,
        "args": argparse.Namespace(model="vit_b_32", lr=0.003, opt="adamw", world_size=8),
        "scaler": {"scale": 65536.0},
    }


def randomised(module: nn.Module) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        for name, tensor in module.state_dict().items():
            if tensor.dtype.is_floating_point:
                tensor.uniform_(0.5, 1.5) if "var" in name else tensor.normal_(std=0.1).add_(0.3 * ("norm" in name))
    return module.eval()


def transformers_vit(**options: Any) -> Any:
    from transformers import ViTConfig as TheirConfig
    from transformers import ViTForImageClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return randomised(
        ViTForImageClassification(
            TheirConfig(**{**sizes, "image_size": 32, "patch_size": 8, "num_labels": 5, **options})
        )
    )


def transformers_resnet(kind: str) -> Any:
    from transformers import ResNetConfig as TheirConfig
    from transformers import ResNetForImageClassification

    depths, sizes = ((2, 2, 2, 2), (8, 16, 32, 64)) if kind == "basic" else ((3, 4, 6, 3), (32, 64, 128, 256))
    config = TheirConfig(embedding_size=8, hidden_sizes=list(sizes), depths=list(depths), layer_type=kind, num_labels=5)
    return randomised(ResNetForImageClassification(config))
