"""Models recorded stream by stream: queries, keys, values, attention output and MLP of every block."""

from __future__ import annotations

import torch

import topobrain as tb

LLAMA = {"query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj",
         "output": "self_attn.o_proj"}  # fmt: skip
"""Stream -> path inside a block of a Llama; queries and keys are taken before positions are turned into them."""


def first_third(joined: torch.Tensor) -> torch.Tensor:
    """Return the first third of the last axis."""
    return joined.chunk(3, dim=-1)[0]


def second_third(joined: torch.Tensor) -> torch.Tensor:
    """Return the second third of the last axis."""
    return joined.chunk(3, dim=-1)[1]


def last_third(joined: torch.Tensor) -> torch.Tensor:
    """Return the last third of the last axis."""
    return joined.chunk(3, dim=-1)[2]


THIRDS = {"query": first_third, "key": second_third, "value": last_third}
"""Stream -> its part of what a GPT's joint projection gives."""


def with_streams(model: tb.TorchModel) -> tb.TorchModel:
    """Return a model that records every stream of its blocks besides the layers it has, in the order of computation.

    Streams without places of their own are laid out in unit order on the most square grid, so that their maps can be looked
    at and compared with their layout null. A model of another make than a Llama, a GPT or a Topoformer stays as it is.

    Parameters
    ----------
    model
        A model of sentences.
    """
    parts = dict(model.module.named_modules())
    sheets: dict[str, tb.Sheet] = {}
    paths: dict[str, str] = {}
    pools = dict(model.pools)

    def add(layer: str, path: str, n_units: int) -> None:
        sheets[layer], paths[layer] = tb.Sheet.for_width(n_units), path

    for layer, sheet in model.sheets.items():
        path = model.paths[layer]
        if f"{path}.self_attn.q_proj" in parts:
            for stream, inside in LLAMA.items():
                add(f"{layer}.attention.{stream}", f"{path}.{inside}", parts[f"{path}.{inside}"].out_features)
            add(f"{layer}.mlp", f"{path}.mlp", sheet.n_units)
        elif f"{path}.c_attn" in parts:
            for stream, third in THIRDS.items():
                add(f"{layer}.{stream}", f"{path}.c_attn", parts[f"{path}.c_attn"].out_features // 3)
                pools[f"{layer}.{stream}"] = third
        elif f"{path}.feed_forward" in parts:
            add(f"{layer}.mlp", f"{path}.feed_forward", sheet.n_units)
        sheets[layer], paths[layer] = sheet, path
    if list(sheets) == list(model.sheets):
        return model
    found = tb.TorchModel(model.name, model.module, model.encode, sheets, paths=paths, pools=pools, device=model.device)
    found.provenance = dict(model.provenance)
    return found
