from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from topobrain import Sheet
from topobrain._checks import DataFileError, InputError
from topobrain.models.gpt_neo import (
    GPTNeo,
    GPTNeoConfig,
    gpt_neo_config,
    gpt_neo_from_transformers,
    gpt_neo_sheets,
    wrap_gpt_neo,
)
from topobrain.models.huggingface import initialise, load_huggingface
from topobrain.testing import check_model

TEXTS = ["The dog sleeps in the garden.", "Rain falls on the roof and the river is rising."]


@pytest.fixture
def directory(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint("gpt_neo"), tmp_path / "gpt_neo"))


def built(vocab_size: int = 330, **changes: Any) -> GPTNeo:
    module = initialise(lambda: GPTNeo(GPTNeoConfig.tiny(vocab_size, **changes)), "untrained:3")
    assert isinstance(module, GPTNeo)
    with torch.no_grad():  # a small start would leave the layers almost equal
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    return module.eval()


def test_the_default_is_the_published_125m_model() -> None:
    with torch.device("meta"):
        module = GPTNeo(GPTNeoConfig())
    assert sum(p.numel() for p in module.parameters()) == 125_198_592
    sheets = gpt_neo_sheets(module)
    parts = (".attn", ".mlp.c_fc", ".mlp", "")
    assert list(sheets) == ["embeddings", *(f"h.{i}{part}" for i in range(12) for part in parts)]
    assert sheets["h.11.mlp.c_fc"] == Sheet.grid(48, 64)
    assert sheets["h.0"] == Sheet.grid(24, 32)
    inner: Any = module.transformer.config
    assert (inner.window_size, inner.num_heads, inner.max_position_embeddings) == (256, 12, 2048)
    assert inner.attention_layers == ["global", "local"] * 6


def test_the_contract_is_kept(tokenizers: Callable[[str], Any]) -> None:
    tokenizer = tokenizers("gpt_neo")
    module = built(len(tokenizer), dropout=0.5, window=3)
    module.train()
    assert check_model(wrap_gpt_neo("little", module, tokenizer, device="cpu")).ok


def test_it_equals_transformers_on_a_directory(directory: Path) -> None:
    from transformers import GPTNeoForCausalLM

    module = gpt_neo_from_transformers(directory)
    original: Any = GPTNeoForCausalLM.from_pretrained(directory).eval()
    ids = torch.randint(330, (2, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 12:] = 0
    with torch.no_grad():
        expected = original(input_ids=ids, attention_mask=mask).logits
        found = module.logits(module(ids, mask))
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[0, :12], expected[0, :12], rtol=0, atol=1e-5)
    assert not module.training
    assert module.config.hidden == 40
    assert module.config.attention == ("global", "local")


def test_its_blocks_equal_those_of_the_hub_loader(directory: Path) -> None:
    hub = load_huggingface(str(directory), device="cpu")
    own = wrap_gpt_neo("x", gpt_neo_from_transformers(directory), hub.encode.tokenizer, device="cpu")  # type: ignore[attr-defined]
    layers = ["embeddings", "h.0", "h.1"]
    expected, found = hub.record(TEXTS, layers).values, own.record(TEXTS, layers).values
    inside = torch.from_numpy(hub.record(TEXTS, layers).word >= 0)
    for layer in layers:
        torch.testing.assert_close(found[layer][inside], expected[layer][inside], rtol=0, atol=1e-6)


def test_branches_are_recorded_before_they_join_the_stream(tokenizers: Callable[[str], Any]) -> None:
    tokenizer = tokenizers("gpt_neo")
    model = wrap_gpt_neo("x", built(len(tokenizer)), tokenizer, device="cpu")
    value = model.record(TEXTS[:1], list(model.sheets)).values
    stream = value["embeddings"]
    for i in range(2):
        stream = stream + value[f"h.{i}.attn"] + value[f"h.{i}.mlp"]
        torch.testing.assert_close(stream, value[f"h.{i}"], rtol=0, atol=1e-5)
    assert value["h.0.mlp.c_fc"].shape[-1] == 256


@pytest.mark.parametrize(("kind", "reaches"), [("global", True), ("local", False)])
def test_local_attention_sees_a_window_only(kind: str, reaches: bool) -> None:
    module = built(n_layers=1, attention=(kind,), window=4)
    ids = torch.randint(330, (1, 12), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[0, 2] = (ids[0, 2] + 1) % 330
    with torch.no_grad():
        gap = (module(ids) - module(changed)).abs().amax(dim=-1)[0]
    assert torch.all(gap[:2] == 0)
    assert torch.all(gap[2:6] > 1e-4)  # the token itself and the window of 4 that holds it
    assert bool((gap[6:] > 1e-4).all()) is reaches
    assert bool((gap[6:] == 0).all()) is not reaches


def test_a_sequence_longer_than_the_context_is_refused() -> None:
    with pytest.raises(InputError, match="129 tokens, this GPT-Neo takes 128"):
        built()(torch.zeros(1, 129, dtype=torch.long))


def test_a_configuration_is_plain_json() -> None:
    for config in (GPTNeoConfig(), GPTNeoConfig.tiny(99, attention=("local",))):
        assert GPTNeoConfig(**json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"width": 65}, "does not divide into 4 heads"),
        ({"window": 0}, "window of a GPT-Neo"),
        ({"attention": ("sparse",)}, "'global' or 'local'"),
        ({"attention": ()}, "'global' or 'local'"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        GPTNeoConfig.tiny(100, **changes)


def test_the_published_fields_give_the_default_configuration() -> None:
    fields = {
        "model_type": "gpt_neo", "activation_function": "gelu_new", "vocab_size": 50257, "hidden_size": 768,
        "num_layers": 12, "num_heads": 12, "intermediate_size": None, "max_position_embeddings": 2048,
        "window_size": 256, "attention_types": [[["global", "local"], 6]], "layer_norm_epsilon": 1e-5,
        "attention_layers": ["global", "local"] * 6,
    }  # fmt: skip
    assert gpt_neo_config(fields, path="config.json") == GPTNeoConfig()
    del fields["attention_layers"]
    assert gpt_neo_config(fields, path="config.json") == GPTNeoConfig()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model_type": "gpt2"}, "describes a 'gpt2', expected 'gpt_neo'"),
        ({"activation_function": "relu"}, "activation_function = 'relu'"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon = 1e-06"),
        ({"num_heads": None}, "n_heads of a GPT-Neo is a whole number"),
        (
            {"num_layers": 3, "attention_types": [[["global"], 3]], "attention_layers": ["global"] * 3},
            "13 tensors are missing .*h.2",
        ),
        ({"vocab_size": 77}, "another shape.*wte"),
        ({"attention_layers": [], "attention_types": []}, "global"),
    ],
)
def test_a_directory_that_does_not_fit_is_refused(changes: dict[str, Any], what: str, directory: Path) -> None:
    fields = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**fields, **changes}))
    with pytest.raises(DataFileError, match=what):
        gpt_neo_from_transformers(directory)


def test_missing_and_damaged_files_are_named(directory: Path, checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(DataFileError, match="describes a 'gpt2'"):
        gpt_neo_from_transformers(checkpoint("gpt2"))
    weights = directory / "model.safetensors"
    raw = weights.read_bytes()
    weights.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DataFileError, match=r"model\.safetensors.*truncated"):
        gpt_neo_from_transformers(directory)
    weights.unlink()
    with pytest.raises(DataFileError, match=r"holds no weights: expected model\.safetensors"):
        gpt_neo_from_transformers(directory)
    (directory / "config.json").write_text("{")
    (directory / "pytorch_model.bin").write_bytes(raw)
    with pytest.raises(DataFileError, match=r"cannot read .*config\.json"):
        gpt_neo_from_transformers(directory)
    with pytest.raises(DataFileError, match="no such directory"):
        gpt_neo_from_transformers(directory / "none")
