"""The one-layer sentiment model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from topobrain import Sheet
from topobrain._checks import InputError
from topobrain.models.huggingface import initialise
from topobrain.models.topoformer import VARIANTS, TopoformerClassifier, variant, wrap_topoformer_classifier
from topobrain.nn import SpatialQuerying, SpatialReweighting
from topobrain.testing import TEXTS, check_model
from topobrain.training.vocabularies import train_bpe

SMALL = {"vocab_size": 60, "width": 36, "ffn_width": 48, "max_length": 16}


def built(name: str = "both", **changes: Any) -> TopoformerClassifier:
    module = initialise(lambda: TopoformerClassifier(variant(name, **{**SMALL, **changes})), "untrained:3")
    assert isinstance(module, TopoformerClassifier)
    return module.eval()


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        module = TopoformerClassifier(variant(name, vocab_size=1234))
    assert sum(p.numel() for p in module.parameters()) == 2_028_402 + 400 * 1234


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_variants_hold_the_layers_they_name(name: str) -> None:
    module = built(name)
    querying, reweighting, signed = VARIANTS[name]
    parts = [part for part in module.modules() if isinstance(part, SpatialQuerying)]
    layers = [part for part in module.modules() if isinstance(part, SpatialReweighting)]
    assert (len(parts), len(layers)) == (int(querying), int(reweighting))
    assert all(layer.signed == signed for layer in layers)
    assert [round(part.fraction, 3) for part in (*parts, *layers)] == [0.1] * querying + [0.3] * reweighting


def test_classes_are_read_from_the_mean_over_real_tokens() -> None:
    module = built(n_classes=3)
    states = torch.randn(2, 5, 36, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    means = torch.stack([states[0].mean(dim=0), states[1, :2].mean(dim=0)])
    expected = means.tanh() @ module.classifier.weight.T + module.classifier.bias
    torch.testing.assert_close(module.class_logits(states, mask), expected)
    torch.testing.assert_close(module.class_logits(states[:1]), expected[:1])
    torch.testing.assert_close(module.class_logits(states, mask.float()), expected)
    assert expected.shape == (2, 3)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_padding_does_not_change_class_logits(name: str) -> None:
    module = built(name, n_heads=4 if name == "both" else 1)
    ids = torch.randint(1, 60, (2, 6), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        alone = module.class_logits(module(ids))
        padded = torch.cat([ids, torch.full((2, 5), 7)], dim=1)
        mask = torch.cat([torch.ones(2, 6), torch.zeros(2, 5)], dim=1)
        torch.testing.assert_close(module.class_logits(module(padded, mask), mask), alone, rtol=0, atol=1e-5)
        assert (module.class_logits(module(padded)) - alone).abs().max() > 1e-4  # unless it is called real


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_batch_of_any_size_trains_and_inference_changes_nothing(n: int) -> None:
    module = built().train()
    ids, mask = torch.randint(1, 60, (n, 2)), torch.ones(n, 2)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    logits = module.class_logits(module(ids, mask), mask)
    assert logits.shape == (n, 2)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    torch.nn.functional.cross_entropy(logits, torch.zeros(n, dtype=torch.long)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_dropout_reaches_embeddings_and_is_off_in_evaluation() -> None:
    module, ids = built(), torch.ones(1, 4, dtype=torch.long)
    assert torch.equal(module(ids), module(ids))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert not torch.equal(module.train()(ids), module(ids))
        assert (module.embedding_dropout(torch.ones(10_000)) == 0).float().mean().item() == pytest.approx(0.1, abs=0.02)


def test_embeddings_start_as_published() -> None:
    module = built(vocab_size=2000)
    assert module.tokens.weight.std().item() == pytest.approx(1, abs=0.02)
    assert module.positions.weight.std().item() == pytest.approx(1, abs=0.1)


def test_a_review_without_tokens_has_finite_logits() -> None:
    module = built()
    states, mask = torch.randn(2, 3, 36), torch.tensor([[1, 1, 0], [0, 0, 0]])
    assert torch.equal(module.class_logits(states, mask)[1], module.classifier.bias)


@pytest.mark.parametrize("options", [{}, {"n_heads": 4}, {"wrapped": False}], ids=str)
@pytest.mark.parametrize("name", ["control", "both"])
def test_the_contract_is_kept(name: str, options: dict[str, Any]) -> None:
    tokenizer = train_bpe(list(TEXTS) * 3, 300)
    module = built(name, vocab_size=len(tokenizer), max_length=128, **options)
    model = wrap_topoformer_classifier("sentiment", module, tokenizer, device="cpu")
    assert check_model(model).ok
    assert model.sheets["blocks.0.attention.output"] == Sheet.grid(6, 6, wrapped=options.get("wrapped", True))
    one_head = ["embeddings", *(f"blocks.0.attention.{s}" for s in ("query", "key", "value", "output")), "blocks.0"]
    assert len(model.sheets) == 12 if options.get("n_heads") else list(model.sheets) == one_head


def test_a_single_class_is_refused() -> None:
    with pytest.raises(InputError, match="at least two classes"):
        TopoformerClassifier(variant("both", **SMALL, n_classes=1))
