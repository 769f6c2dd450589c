"""Reading on from kept keys and values gives what reading from the beginning gives."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2Model

from topobrain import load_model
from topobrain._checks import InputError
from topobrain.models import TorchModel
from topobrain.models.gpt import GPT, GPTConfig, wrap_gpt
from topobrain.models.gpt_neo import GPTNeo, GPTNeoConfig, wrap_gpt_neo
from topobrain.models.huggingface import wrap_transformer
from topobrain.models.llama2c import load_stories260k
from topobrain.models.prefix_reuse import can_reuse_prefix, read_beginnings, read_on
from topobrain.models.torch_model import Encoded

TEXTS = ["the old dog sleeps near a door", "one small cat sees the birds in the garden again"]


@pytest.fixture(scope="module")
def tokenizer():
    return load_stories260k(device="cpu").encode.tokenizer


@pytest.fixture(scope="module", params=["gpt", "permuted gpt", "gpt-neo", "gpt-2", "stories260k"])
def model(request, tokenizer) -> TorchModel:
    torch.manual_seed(0)
    n = len(tokenizer)
    if request.param == "gpt":
        return wrap_gpt("gpt", GPT(GPTConfig.tiny(n)).eval(), tokenizer, device="cpu")
    if request.param == "permuted gpt":
        return wrap_gpt("gpt", GPT(GPTConfig.tiny(n, positions="permuted")).eval(), tokenizer, device="cpu")
    if request.param == "gpt-neo":
        return wrap_gpt_neo("neo", GPTNeo(GPTNeoConfig.tiny(n, window=4)).eval(), tokenizer, device="cpu")
    if request.param == "gpt-2":
        config = GPT2Config(vocab_size=n, n_embd=48, n_layer=3, n_head=4, n_positions=128)
        return wrap_transformer("gpt2", GPT2Model(config).eval(), tokenizer, device="cpu")
    return load_stories260k(device="cpu")


def rows_of(model, starts):
    """Return tails of the texts from the given tokens on, padded, and the texts they belong to."""
    inputs = model.encoded(TEXTS).inputs
    ids, n_tokens = inputs["input_ids"].numpy(), inputs["attention_mask"].numpy().sum(axis=1)
    sources = [number % len(TEXTS) for number in range(len(starts))]
    tails = [ids[s, start : n_tokens[s]].copy() for s, start in zip(sources, starts, strict=True)]
    for tail in tails:
        tail[0] = 300  # another token where the row begins
    longest = max(len(tail) for tail in tails)
    new, mask = np.zeros((len(tails), longest), dtype=np.int64), np.zeros((len(tails), longest), dtype=np.int64)
    for number, tail in enumerate(tails):
        new[number, : len(tail)], mask[number, : len(tail)] = tail, 1
    shown = Encoded(
        {"input_ids": torch.from_numpy(new), "attention_mask": torch.from_numpy(mask)}, np.where(mask, 0, -1)
    )
    return sources, tails, shown


@pytest.mark.parametrize("starts", [(4, 4, 4, 4), (2, 9, 5, 1), (0, 3, 1, 8)])
def test_reading_on_equals_reading_from_the_beginning(model, starts):
    layers = list(model.sheets)
    before = read_beginnings(model, TEXTS, layers)
    ids = before.batch.inputs["input_ids"].numpy()
    sources, tails, shown = rows_of(model, starts)
    found = read_on(model, before, sources, np.array(starts), shown, layers)
    for number, (source, start, tail) in enumerate(zip(sources, starts, tails, strict=True)):
        whole = torch.from_numpy(np.concatenate([ids[source, :start], tail])[None])
        inputs = {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
        expected = model.record_encoded(Encoded(inputs, np.zeros(whole.shape, dtype=int)), layers)
        for layer in layers:
            ours, theirs = found.values[layer][number, : len(tail)], expected.values[layer][0, start:]
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=2e-5 * float(theirs.abs().max())), (layer, number)


def test_what_was_kept_is_unchanged_by_reading_on(model):
    before = read_beginnings(model, TEXTS, list(model.sheets))
    kept = [keys.clone() for keys, _ in before.pairs]
    sources, _, shown = rows_of(model, (3, 2))
    first = read_on(model, before, sources, np.array([3, 2]), shown, list(model.sheets))
    second = read_on(model, before, sources, np.array([3, 2]), shown, list(model.sheets))
    for layer in model.sheets:
        assert torch.equal(first.values[layer], second.values[layer])
    for (keys, _), copy in zip(before.pairs, kept, strict=True):
        assert torch.equal(keys, copy)


def test_recording_a_beginning_is_recording(model):
    layers = list(model.sheets)
    plain, kept = model.record(TEXTS, layers), read_beginnings(model, TEXTS, layers).recording
    inside = torch.from_numpy(plain.word >= 0)
    for layer in layers:
        assert torch.allclose(plain.values[layer][inside], kept.values[layer][inside], atol=1e-5)


def test_a_model_that_cannot_read_on_says_so():
    model = load_model("topoformer-tiny", weights="untrained")
    assert not can_reuse_prefix(model)
    with pytest.raises(InputError, match="takes no past_key_values"):
        read_beginnings(model, TEXTS, list(model.sheets))


def test_a_gpt_refuses_a_mask_that_does_not_cover_what_came_before(tokenizer):
    model = wrap_gpt("gpt", GPT(GPTConfig.tiny(len(tokenizer))).eval(), tokenizer, device="cpu")
    before = read_beginnings(model, TEXTS, ["embeddings"])
    ids = torch.ones((2, 3), dtype=torch.long)
    with pytest.raises(InputError, match=r"attention_mask has shape \(2, 3\), expected \(2, 7\)"):
        model.module(ids, attention_mask=torch.ones_like(ids), past_key_values=before.cache([0, 1], np.array([4, 4])))


def test_a_gpt_refuses_positions_beyond_its_context(tokenizer):
    module = GPT(GPTConfig.tiny(len(tokenizer), context=8)).eval()
    ids = torch.ones((1, 3), dtype=torch.long)
    with pytest.raises(InputError, match="a sequence has 10 tokens, this GPT has positions for 8"):
        module(ids, position_ids=torch.tensor([[7, 8, 9]]))
