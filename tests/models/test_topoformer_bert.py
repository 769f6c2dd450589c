"""The deep Topoformer."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch

from topobrain import Sheet
from topobrain._checks import InputError
from topobrain.models.huggingface import initialise
from topobrain.models.topoformer import as_variant
from topobrain.models.topoformer_bert import TopoformerBert, TopoformerBertConfig, wrap_topoformer_bert
from topobrain.nn import SpatialQuerying, SpatialReweighting
from topobrain.testing import TEXTS, check_model
from topobrain.training.vocabularies import train_bpe


def built(**changes: Any) -> TopoformerBert:
    config = TopoformerBertConfig.tiny(**{"vocab_size": 60, **changes})
    module = initialise(lambda: TopoformerBert(config), "untrained:3")
    assert isinstance(module, TopoformerBert)
    return module.eval()


def on_meta(config: TopoformerBertConfig) -> TopoformerBert:
    with torch.device("meta"):
        return TopoformerBert(config)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_number_of_parameters_of_the_published_size() -> None:
    module = on_meta(TopoformerBertConfig())
    assert count(module) == 133_345_857
    block: Any = module.blocks[0]
    assert count(block) == 6_689_872
    streams = block.attention
    assert sum(count(part) for part in (streams.query, streams.key, streams.value)) == 1_843_968
    assert (count(streams.output), count(block.projection)) == (615_440, 614_656)
    assert (count(block.feed_forward.expand), count(block.feed_forward.contract)) == (2_408_448, 1_204_224)
    assert count(block.norm_attention) + count(block.norm_feed_forward) == 3_136
    assert (count(module.tokens), count(module.positions), count(module.norm_embedding)) == (25_690_112, 1, 1_568)
    assert (count(module.norm_output), count(module.head)) == (1_568, 614_656)
    assert {part.eps for part in module.modules() if isinstance(part, torch.nn.LayerNorm)} == {1e-12}
    assert (len(module.blocks), block.attention.pool.fraction, streams.output.fraction) == (16, 0.3, 0.3)


def test_controls_by_configuration() -> None:
    control = as_variant(TopoformerBertConfig(), "control")
    identity, plain = on_meta(control), on_meta(replace(control, qkv_bias=True))
    assert count(identity) == 133_345_857
    assert count(plain) == 133_345_857 + 16 * 3 * 784
    assert not [p for p in identity.modules() if isinstance(p, SpatialQuerying | SpatialReweighting)]
    signed = as_variant(TopoformerBertConfig.tiny(60), "signed-both")
    assert (signed.signed, signed.querying, signed.reweighting) == (True, 0.3, 0.3)


@pytest.mark.parametrize("control", [False, True])
def test_output_equals_a_plain_rewriting(control: bool) -> None:
    changes = {"querying": None, "reweighting": None, "qkv_bias": True} if control else {}
    module = built(**changes).double()
    ids = torch.randint(3, 60, (1, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in module.parameters():  # norms and biases that do something
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)).double()
        found, p = module(ids)[0], {name: value.double() for name, value in module.state_dict().items()}

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            spread = x.var(dim=-1, keepdim=True, correction=0)
            return (x - x.mean(dim=-1, keepdim=True)) / (spread + 1e-12).sqrt() * p[f"{name}.weight"] + p[
                f"{name}.bias"
            ]

        table = np.zeros((7, 64))
        for t in range(7):
            for i in range(0, 64, 2):
                angle = t / 10000 ** (i / 64)
                table[t, i], table[t, i + 1] = math.sin(angle), math.cos(angle)
        positions = p["positions.scale"] * torch.from_numpy(table)
        x = norm(p["tokens.weight"][ids[0]] + positions, "norm_embedding")
        for i in range(2):
            at = f"blocks.{i}.attention"
            inner = norm(x, f"blocks.{i}.norm_attention")
            q, k, v = (
                inner @ p[f"{at}.{s}.weight"].T + p.get(f"{at}.{s}.bias", torch.zeros(64))
                for s in ("query", "key", "value")
            )
            mixed = torch.softmax(q @ p.get(f"{at}.pool.pool", torch.eye(64).double()) @ k.T / 8, dim=-1) @ v
            weight = (
                p[f"{at}.output.weight"] if control else p[f"{at}.output.raw_weight"].abs() * p[f"{at}.output.mask"]
            )
            fc_out = mixed @ weight.T + p[f"{at}.output.bias"]
            x = x + fc_out @ p[f"blocks.{i}.projection.weight"].T
            hidden = norm(x, f"blocks.{i}.norm_feed_forward") @ p[f"blocks.{i}.feed_forward.expand.weight"].T
            value, gate = hidden[:, :128], hidden[:, 128:]
            gelu = gate * (1 + torch.erf(gate / math.sqrt(2))) / 2
            x = x + (value * gelu) @ p[f"blocks.{i}.feed_forward.contract.weight"].T
        expected = norm(x, "norm_output")
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)  # the table of positions was made in float32
        logits = expected @ p["head.weight"].T @ p["tokens.weight"].T
        torch.testing.assert_close(module.logits(found), logits, rtol=1e-5, atol=1e-5)
    assert ("blocks.0.attention.query.bias" in p) == control


def test_the_start_is_as_published() -> None:
    module = built(vocab_size=500)
    for name, parameter in module.named_parameters():
        if name.endswith("raw_weight"):
            inside = parameter[parameter != 0]
            assert (inside > 0).all()
            assert inside.square().mean().sqrt().item() == pytest.approx(0.02, rel=0.1)
        elif parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
        elif name == "positions.scale":
            assert parameter.item() == pytest.approx(1 / 8)
        else:
            assert (parameter == float("norm" in name and name.endswith("weight"))).all(), name


def test_padding_and_missing_masks() -> None:
    module = built()
    ids = torch.randint(3, 60, (2, 6), generator=torch.Generator().manual_seed(2))
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    with torch.no_grad():
        padded = module(ids, mask)
        torch.testing.assert_close(
            module.logits(padded)[0, :4], module.logits(module(ids[:1, :4]))[0], atol=1e-5, rtol=0
        )
        torch.testing.assert_close(module(torch.where(mask.bool(), ids, 9), mask)[0, :4], padded[0, :4], atol=0, rtol=0)
        torch.testing.assert_close(module(ids)[1], padded[1], atol=1e-5, rtol=0)
        assert (module(ids)[0, :4] - padded[0, :4]).abs().max() > 1e-4
    with pytest.raises(InputError, match="at most 128 tokens"):
        module(torch.zeros(1, 129, dtype=torch.long))


def test_forward_changes_no_state_and_every_parameter_learns() -> None:
    module = built().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    ids = torch.randint(3, 60, (2, 6), generator=torch.Generator().manual_seed(2))
    loss = torch.nn.functional.cross_entropy(module.logits(module(ids)).flatten(0, 1), ids.flatten())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())
    assert loss.item() == pytest.approx(math.log(60), abs=0.2)  # the start predicts nothing


def test_dropout_is_a_field_of_the_configuration_without_weights() -> None:
    module, dropped = built().train(), built(dropout=0.5).train()
    ids = torch.arange(3, 9)[None]
    dropped.load_state_dict(module.state_dict())
    assert torch.equal(module(ids), module(ids))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert not torch.equal(dropped(ids), dropped(ids))
    assert torch.equal(dropped.eval()(ids), module(ids))


def test_configurations_are_plain_json_and_the_defaults_are_the_published() -> None:
    config = TopoformerBertConfig()
    assert TopoformerBertConfig(**json.loads(json.dumps(asdict(config)))) == config
    assert (config.vocab_size, config.width, config.n_layers, config.max_length) == (32768, 784, 16, 128)
    assert (config.ffn_width, config.querying, config.reweighting, config.n_heads) == (3072, 0.3, 0.3, 1)
    assert TopoformerBertConfig.tiny(50, n_layers=3).n_layers == 3
    with pytest.raises(InputError, match="must be even; got 7"):
        built(ffn_width=7)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"querying": None, "reweighting": None},
        {"n_heads": 4},
        {"n_heads": 4, "shared_sheet": True, "pool": "learned"},
    ],
    ids=str,
)
def test_the_contract_is_kept_and_streams_carry_their_sheets(changes: dict[str, Any]) -> None:
    tokenizer = train_bpe(list(TEXTS) * 3, 300)
    module = built(vocab_size=len(tokenizer), **changes)
    model = wrap_topoformer_bert("bert", module, tokenizer, device="cpu")
    assert check_model(model).ok
    if changes.get("n_heads") and not changes.get("shared_sheet"):
        assert model.sheets["blocks.1.attention.key_heads.3"] == Sheet.grid(4, 4, wrapped=True)
        return
    streams = [f"attention.{part}" for part in ("query", "key", "value", "output")]
    blocks = [[*(f"blocks.{i}.{stream}" for stream in streams), f"blocks.{i}"] for i in range(2)]
    assert list(model.sheets) == ["embeddings", *blocks[0], *blocks[1]]
    assert set(model.sheets.values()) == {Sheet.grid(8, 8, wrapped=True)}
    found = model.record(["the dog"], ["embeddings", "blocks.0.attention.query"]).values
    with torch.no_grad():
        block: Any = module.blocks[0]
        queries = block.attention.query(block.norm_attention(torch.as_tensor(found["embeddings"])))
    torch.testing.assert_close(torch.as_tensor(found["blocks.0.attention.query"]), queries)
