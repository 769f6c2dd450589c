from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from topobrain import TorchModel, load_model
from topobrain._checks import DataFileError, InputError
from topobrain.testing import check_model

FAMILIES = ("gpt2", "gpt_neo", "llama", "bert", "roberta", "opt", "distilbert")
BLOCKS = {
    "gpt2": "h", "gpt_neo": "h", "llama": "layers", "bert": "encoder.layer", "roberta": "encoder.layer",
    "opt": "decoder.layers", "distilbert": "transformer.layer",
}  # fmt: skip
NORM_AFTER_LAST = {"gpt2": "ln_f", "gpt_neo": "ln_f", "llama": "norm", "opt": "decoder.final_layer_norm"}
SENTENCE = "The grey cats don't chase mice at night!"

Checkpoint = Callable[[str], Path]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_keeps_the_contract(family: str, checkpoint: Checkpoint) -> None:
    model = load_model(f"hf:{checkpoint(family)}")
    report = check_model(model)
    assert report.ok
    assert model.name == f"hf:{checkpoint(family)}"


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_the_embeddings_and_every_block(family: str, checkpoint: Checkpoint) -> None:
    model = load_model(f"hf:{checkpoint(family)}")
    n_blocks = 3 if family == "gpt2" else 2
    assert list(model.sheets) == ["embeddings", *(f"{BLOCKS[family]}.{i}" for i in range(n_blocks))]
    assert {(sheet.height, sheet.width) for sheet in model.sheets.values()} == {(4, 6)}


@pytest.mark.parametrize("family", FAMILIES)
def test_values_equal_the_hidden_states_of_transformers(family: str, checkpoint: Checkpoint) -> None:
    from transformers import AutoModel, AutoTokenizer

    directory = checkpoint(family)
    reference = AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
    inputs = AutoTokenizer.from_pretrained(directory)(SENTENCE, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        hidden = reference(**inputs, output_hidden_states=True).hidden_states
    model = load_model(f"hf:{directory}")
    layers = list(model.sheets)
    values = model.record([SENTENCE], layers).values
    assert len(hidden) == len(layers)
    for layer, expected in zip(layers[:-1], hidden[:-1], strict=True):
        torch.testing.assert_close(values[layer], expected, rtol=0, atol=1e-6)
    last = values[layers[-1]].clone()
    if family in NORM_AFTER_LAST:  # transformers' last hidden state has been through the final norm, a block's has not
        assert not torch.allclose(last, hidden[-1], atol=1e-2)
        with torch.no_grad():
            last = reference.get_submodule(NORM_AFTER_LAST[family])(last)
    torch.testing.assert_close(last, hidden[-1], rtol=0, atol=1e-5)
    for before, after in itertools.pairwise(layers):
        assert not torch.allclose(values[before], values[after], atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_keys_and_values_are_kept_and_no_bit_depends_on_it(family: str, checkpoint: Checkpoint) -> None:
    model = load_model(f"hf:{checkpoint(family)}")
    assert isinstance(model, TorchModel)
    kept = []
    model.module.register_forward_hook(
        lambda module, args, output: kept.append(output.get("past_key_values") is not None)
    )
    texts, layers = [SENTENCE, "A dog."], list(model.sheets)
    without = model.record(texts, layers).values
    model.options.clear()
    usual = model.record(texts, layers).values
    for layer in layers:
        assert torch.equal(without[layer], usual[layer])
    assert kept == [False, family in ("gpt2", "gpt_neo", "llama", "opt")]


@pytest.mark.parametrize("family", ["gpt2", "roberta"])
def test_untrained_weights_are_reproducible_and_their_own(family: str, checkpoint: Checkpoint) -> None:
    source = f"hf:{checkpoint(family)}"
    state = torch.get_rng_state()
    published = load_model(source)
    first, again = load_model(source, weights="untrained"), load_model(source, weights="untrained")
    other = load_model(source, weights="untrained:1")
    assert torch.equal(torch.get_rng_state(), state)
    hashes = [model.weights_hash() for model in (published, first, again, other)]  # type: ignore[attr-defined]
    assert hashes[1] == hashes[2]
    assert len(set(hashes)) == 3
    assert first.name == f"{source} (untrained)"
    assert not first.module.training  # type: ignore[attr-defined]


def test_loading_twice_gives_the_same_hash_although_the_checkpoint_lacks_a_pooler(checkpoint: Checkpoint) -> None:
    hashes = set()
    with torch.random.fork_rng(devices=[]):
        for seed in (1, 2):
            torch.manual_seed(seed)
            state = torch.get_rng_state()
            hashes.add(load_model(checkpoint("roberta")).weights_hash())  # type: ignore[attr-defined]
            assert torch.equal(torch.get_rng_state(), state)
    assert len(hashes) == 1


def test_weights_of_another_kind_are_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match=r"untrained:SEED.*'random'"):
        load_model(f"hf:{checkpoint('gpt2')}", weights="random")


def test_a_directory_needs_no_prefix(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = checkpoint("bert")
    monkeypatch.chdir(directory.parent)
    for name in (directory, str(directory), directory.name, f"hf:{directory.name}"):
        model = load_model(name)
        assert isinstance(model, TorchModel)
        assert list(model.sheets)[1] == "encoder.layer.0"


@pytest.mark.parametrize("family", ["gpt2", "roberta", "bert", "llama", "opt"])
def test_a_text_too_long_names_its_tokens_and_the_limit(family: str, checkpoint: Checkpoint) -> None:
    model = load_model(f"hf:{checkpoint(family)}")
    n_special = {"gpt2": 0, "llama": 1, "roberta": 2, "bert": 2, "opt": 2}[family]
    fits = " ".join(["the"] * (64 - n_special))
    longest = model.record([fits], ["embeddings"])
    assert longest.word.shape == (1, 64)
    with pytest.raises(InputError, match=r"has 65 tokens, the model takes 64: 'the the"):
        model.record(["the", fits + " the"], ["embeddings"])


def test_a_directory_without_config_says_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataFileError, match=r"expected config\.json in it, found: notes\.txt"):
        load_model(tmp_path)


def test_a_path_that_does_not_exist_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="no such directory"):
        load_model(f"hf:{tmp_path / 'nowhere'}")


@pytest.mark.parametrize("kept", [0, 4, 1000])
def test_truncated_weights_are_named(kept: int, checkpoint: Checkpoint, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint("gpt2"), broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(DataFileError, match=f"cannot load the model in {broken}: .+"):
        load_model(broken)
    assert load_model(broken, weights="untrained").name.endswith("(untrained)")


def test_weights_that_lack_a_layer_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(checkpoint("gpt2"), broken)
    state = load_file(broken / "model.safetensors")
    kept = {key: value for key, value in state.items() if ".h.1.attn." not in key}
    assert 0 < len(kept) < len(state)
    save_file(kept, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataFileError, match=r"h\.1\.attn"):
        load_model(broken)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_a_damaged_json_file_is_a_data_file_error(file: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint("gpt2"), broken)
    (broken / file).write_text((broken / file).read_text()[:40])
    with pytest.raises(DataFileError, match=str(broken)):
        load_model(broken)


def test_a_hub_id_without_network_tells_the_way_out() -> None:
    with pytest.raises(DataFileError, match=r"'nobody/no-such-model' from the Hugging Face hub .*hf:/path/to/no-such"):
        load_model("hf:nobody/no-such-model")


def test_an_encoder_decoder_is_refused(tokenizers: Callable[[str], Any], tmp_path: Path) -> None:
    from transformers import T5Config, T5Model

    tokenizer = tokenizers("llama")
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    T5Model(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for weights in (None, "untrained"):
        with pytest.raises(InputError, match="encoder-decoder"):
            load_model(tmp_path, weights=weights)


def test_the_hash_does_not_depend_on_where_the_directory_lies(checkpoint: Checkpoint, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint("gpt2"), copy)
    first, second = load_model(checkpoint("gpt2")), load_model(copy)
    assert first.weights_hash() == second.weights_hash()  # type: ignore[attr-defined]
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "layer_norm_epsilon": 0.01}))
    changed = load_model(copy)
    assert first.weights_hash() != changed.weights_hash()  # type: ignore[attr-defined]
    a, b = (m.record([SENTENCE], ["h.0"]).values["h.0"].numpy() for m in (first, changed))
    assert np.abs(a - b).max() > 1e-4
