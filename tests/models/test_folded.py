from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from topobrain.models.architectures import build
from topobrain.models.topoformer import TopoformerConfig, as_variant, folded
from topobrain.models.topoformer_bert import TopoformerBertConfig

PLAIN = TopoformerConfig(vocab_size=50, width=36, n_layers=2, ffn_width=48, max_length=16)
CASES: dict[str, tuple[str, Any]] = {
    "one head": ("topoformer", PLAIN),
    "signed": ("topoformer", replace(PLAIN, signed=True)),
    "a grid a head": ("topoformer-classifier", replace(PLAIN, n_heads=4)),
    "learned pool": ("topoformer", replace(PLAIN, pool="learned")),
    "open border": ("topoformer", replace(PLAIN, pool="gaussian", wrapped=False)),
    "bert": ("topoformer-bert", TopoformerBertConfig.tiny(50)),
}


def flops(module: nn.Module, *inputs: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("case", CASES)
def test_a_folded_model_gives_the_same_at_the_cost_of_standard_attention(case: str) -> None:
    architecture, config = CASES[case]
    module = build(architecture, config).eval()
    control = build(architecture, as_variant(config, "control")).eval()
    ids = torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    visible = torch.arange(9)[None, :] < torch.tensor([9, 5])[:, None]
    plain = folded(module)
    with torch.no_grad():
        torch.testing.assert_close(plain(ids, visible)[visible], module(ids, visible)[visible], rtol=1e-5, atol=1e-5)
    assert flops(plain, ids, visible) == flops(control, ids, visible) < flops(module, ids, visible)
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in control.parameters())


def test_folding_leaves_the_model_itself_alone() -> None:
    module = build("topoformer", PLAIN)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    folded(module)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
