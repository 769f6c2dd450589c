from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from topobrain import Sheet
from topobrain._checks import InputError, UnknownNameError
from topobrain.models.gpt import GPT, GPTConfig, gpt_sheets, wrap_gpt
from topobrain.models.huggingface import initialise
from topobrain.testing import check_model

KINDS: dict[str, dict[str, Any]] = {
    "nanogpt": {},
    "gpt2": {"bias": True, "activation": "gelu_tanh"},
    "topolm": {"positions": "permuted"},
}


@pytest.fixture
def tokenizer(tokenizers: Callable[[str], Any]) -> Any:
    return tokenizers("gpt2")


def built(vocab_size: int = 330, seed: int = 3, **changes: Any) -> GPT:
    module = initialise(lambda: GPT(GPTConfig.tiny(vocab_size, **changes)), f"untrained:{seed}")
    assert isinstance(module, GPT)
    with torch.no_grad():  # small published starts would leave the layers almost equal
        for name, parameter in module.named_parameters():
            if "norm" not in name:
                parameter.mul_(6)
    return module.eval()


def on_meta(config: GPTConfig) -> GPT:
    with torch.device("meta"):
        return GPT(config)


def ids(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(330, shape, generator=torch.Generator().manual_seed(seed))


def by_hand(module: GPT, tokens: torch.Tensor) -> np.ndarray:
    """The forward pass written once more, in float64 numpy, token by token and head by head."""
    weight = {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}
    config = module.config

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weight[f"{name}.weight"].T + weight.get(f"{name}.bias", 0.0)

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        z = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return z * weight[f"{name}.weight"] + weight.get(f"{name}.bias", 0.0)

    def gelu(x: np.ndarray) -> np.ndarray:
        if config.activation == "gelu":
            return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    size = config.width // config.n_heads
    rows = []
    for row in tokens.tolist():
        x = weight["tokens.weight"][row] + weight["positions.weight"][: len(row)]
        for i in range(config.n_layers):
            block = f"blocks.{i}"
            mixed = linear(normed(x, f"{block}.norm_attention"), f"{block}.attention.c_attn")
            out = np.zeros_like(x)
            for head in range(config.n_heads):
                q, k, v = (mixed[:, j * config.width + head * size :][:, :size] for j in range(3))
                for t in range(len(row)):
                    score = k[: t + 1] @ q[t] / math.sqrt(size)
                    share = np.exp(score - score.max())
                    out[t, head * size : (head + 1) * size] = share @ v[: t + 1] / share.sum()
            x = x + linear(out, f"{block}.attention.c_proj")
            hidden = gelu(linear(normed(x, f"{block}.norm_mlp"), f"{block}.mlp.c_fc"))
            x = x + linear(hidden, f"{block}.mlp.c_proj")
        rows.append(normed(x, "norm"))
    return np.stack(rows)


def test_nanogpt_has_the_published_number_of_parameters() -> None:
    assert sum(p.numel() for p in on_meta(GPTConfig()).parameters()) == 124_373_760


@pytest.mark.parametrize("config", [GPTConfig.topolm(), GPTConfig.tiny(100), GPTConfig.tiny(100, bias=True)], ids=str)
def test_parameters_counted_by_hand(config: GPTConfig) -> None:
    d, n = config.width, config.n_layers
    weights = (
        (config.vocab_size + config.context) * d + n * (3 * d * d + d * d + 4 * d * d + 4 * d * d) + (2 * n + 1) * d
    )
    biases = n * (3 * d + d + 4 * d + d) + (2 * n + 1) * d
    expected = weights + (biases if config.bias else 0)
    assert sum(p.numel() for p in on_meta(config).parameters()) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_the_forward_pass_equals_one_written_by_hand(kind: str) -> None:
    module = built(**KINDS[kind])
    with torch.no_grad():
        found = module(ids(2, 9))
    np.testing.assert_allclose(found.numpy(), by_hand(module, ids(2, 9)), atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_contract_is_kept(kind: str, tokenizer: Any) -> None:
    module = built(len(tokenizer), dropout=0.5, **KINDS[kind])
    module.train()
    assert check_model(wrap_gpt("little", module, tokenizer, device="cpu")).ok


def test_a_token_sees_itself_and_the_past_only() -> None:
    module, tokens = built(), ids(1, 12)
    changed = tokens.clone()
    changed[0, 5] = (tokens[0, 5] + 1) % 330
    with torch.no_grad():
        gap = (module(tokens) - module(changed)).abs().amax(dim=-1)[0]
    assert torch.all(gap[:5] == 0)
    assert torch.all(gap[5:] > 1e-3)


def test_padding_on_the_right_changes_nothing_and_stays_finite() -> None:
    module, tokens = built(), ids(2, 8)
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[0, 3:] = 0
    with torch.no_grad():
        padded = module(tokens, mask)
        alone = module(tokens[:1, :3])
    assert torch.isfinite(padded).all()
    torch.testing.assert_close(padded[0, :3], alone[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(padded, module(tokens, mask.bool()), rtol=0, atol=0)


@pytest.mark.parametrize("mask", [[[0, 1, 1]], [[1, 0, 1]], [[False, True, True]]])
def test_padding_before_a_token_is_refused(mask: Any) -> None:
    with pytest.raises(InputError, match="padding on the right"):
        built()(ids(1, 3), torch.tensor(mask))


def test_a_sequence_longer_than_the_context_is_refused(tokenizer: Any) -> None:
    module = built(len(tokenizer))
    assert module(ids(1, 128)).shape == (1, 128, 64)
    with pytest.raises(InputError, match="129 tokens, this GPT has positions for 128"):
        module(ids(1, 129))
    with pytest.raises(InputError, match="the model takes 128"):
        wrap_gpt("x", module, tokenizer).record(["dog " * 200], ["embeddings"])


def test_the_head_is_the_embedding() -> None:
    module = built()
    states = module(ids(1, 4))
    torch.testing.assert_close(module.logits(states), states @ module.tokens.weight.T)
    assert "head" not in " ".join(module.state_dict())
    module.logits(states)[..., 329].sum().backward()
    assert module.tokens.weight.grad is not None
    assert module.tokens.weight.grad[329].abs().sum() > 0


def test_the_start_is_the_published_one() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = GPT(GPTConfig(vocab_size=500, width=128, n_layers=8, n_heads=4, context=128, bias=True))
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            assert torch.all(parameter == 0)
        elif "norm" in name:
            assert torch.all(parameter == 1)
        else:
            expected = 0.02 / math.sqrt(2 * 8) if name.endswith("c_proj.weight") else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.05)
            assert abs(parameter.mean().item()) < 0.05 * expected


def test_dropout_acts_while_training_only() -> None:
    module = built(dropout=0.5)
    torch.testing.assert_close(module(ids(1, 6)), module(ids(1, 6)), rtol=0, atol=0)
    module.train()
    with torch.random.fork_rng(devices=[]):
        assert (module(ids(1, 6)) - module(ids(1, 6))).abs().max() > 1e-2


def test_without_bias_there_is_none() -> None:
    assert not [name for name in built().state_dict() if name.endswith("bias")]
    assert len([name for name in built(bias=True).state_dict() if name.endswith("bias")]) == 2 * 6 + 1


def test_layers_are_in_depth_order_with_their_sheets() -> None:
    sheets = gpt_sheets(on_meta(GPTConfig()))
    parts = (".attention", ".mlp.c_fc", ".mlp", "")
    assert list(sheets) == ["embeddings", *(f"blocks.{i}{part}" for i in range(12) for part in parts)]
    assert sheets["blocks.11.mlp.c_fc"] == Sheet.grid(48, 64)
    assert sheets["blocks.0.attention"] == sheets["embeddings"] == Sheet.grid(24, 32)
    assert gpt_sheets(built())["blocks.1.mlp.c_fc"] == Sheet.grid(16, 16)


def test_branches_are_recorded_before_they_join_the_stream(tokenizer: Any) -> None:
    model = wrap_gpt("x", built(len(tokenizer)), tokenizer, device="cpu")
    value = model.record(["The dog sleeps in the garden."], list(model.sheets)).values
    stream = value["embeddings"]
    for i in range(2):
        stream = stream + value[f"blocks.{i}.attention"] + value[f"blocks.{i}.mlp"]
        torch.testing.assert_close(stream, value[f"blocks.{i}"], rtol=0, atol=1e-5)
    assert (value["blocks.0.mlp.c_fc"] < -0.2).any()  # before the activation, whose smallest value is -0.17


def test_topolm_has_24_frozen_permuted_sheets_of_their_own() -> None:
    module = on_meta(GPTConfig.topolm())
    assert (module.config.width, module.config.n_heads, module.config.vocab_size) == (784, 16, 50304)
    sheets = gpt_sheets(module)
    branches = [sheets[f"blocks.{i}.{branch}"] for i in range(12) for branch in ("attention", "mlp")]
    assert len(set(branches)) == 24
    for sheet in branches:
        assert (sheet.n_units, sheet.height, sheet.width, sheet.wrapped) == (784, 28, 28, False)
        assert sheet.places is not None
        assert sorted(sheet.places) == list(range(784))
    assert sheets["blocks.0.mlp.c_fc"] == Sheet.for_width(3136)
    assert sheets["blocks.0"] == Sheet.grid(28, 28)
    assert "cells" in module.state_dict()
    assert "cells" not in dict(module.named_parameters())


def test_the_seed_draws_the_permutations_and_nothing_else() -> None:
    before = torch.get_rng_state()
    first, again, other = (built(positions="permuted", position_seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.cells, again.cells)
    assert (first.cells != other.cells).float().mean() > 0.9
    torch.testing.assert_close(first(ids(1, 5)), other(ids(1, 5)))
    torch.testing.assert_close(first(ids(1, 5)), built()(ids(1, 5)))  # and a layout changes no output


def test_sheets_follow_the_state_dict(tokenizer: Any) -> None:
    one, two = (built(len(tokenizer), positions="permuted", position_seed=seed) for seed in (1, 2))
    places = [wrap_gpt("x", module, tokenizer).sheets["blocks.1.mlp"] for module in (one, two)]
    assert places[0] != places[1]
    two.load_state_dict(one.state_dict())
    assert wrap_gpt("x", two, tokenizer).sheets["blocks.1.mlp"] == places[0]
    assert one.branch_sheet(1, "mlp").places == tuple(one.cells[1, 1].tolist())
    assert one.branch_sheet(1, "attention").places == tuple(one.cells[1, 0].tolist())
    with pytest.raises(UnknownNameError, match=r"unknown branch 'stream'.*attention, mlp"):
        one.branch_sheet(0, "stream")


def test_a_configuration_is_plain_json() -> None:
    for config in (GPTConfig(), GPTConfig.topolm(), GPTConfig.tiny(99)):
        assert GPTConfig(**json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"width": 65}, "does not divide into 4 heads; 5 heads would fit"),
        ({"n_layers": 0}, "n_layers of a GPT is a whole number of at least 1, got 0"),
        ({"context": 1.5}, "context of a GPT"),
        ({"dropout": 1.0}, "dropout is a share"),
        ({"activation": "relu"}, "unknown activation 'relu'"),
        ({"positions": "random"}, "unknown positions 'random'"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises((InputError, UnknownNameError), match=what):
        GPTConfig.tiny(100, **changes)


def test_another_models_tokenizer_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match=f"has {len(tokenizer)} tokens, the model knows {len(tokenizer) - 1}"):
        wrap_gpt("x", built(len(tokenizer) - 1), tokenizer)


def test_it_learns_a_sequence() -> None:
    module, tokens = built(), ids(1, 16)
    module.train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        logits = module.logits(module(tokens[:, :-1]))
        loss = torch.nn.functional.cross_entropy(logits[0], tokens[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 < losses[0]
