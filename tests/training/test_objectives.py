from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from toy_runs import HALF, MASK, N_TOKENS, causal, gpt, images, masked, resnet, sentences, sequences, topoformer

from topobrain._checks import InputError
from topobrain.training import CausalLM, ImageClassification, SentenceClassification, objectives
from topobrain.training.masking import IGNORED
from topobrain.training.objectives import evaluate

ROWS = np.array([3, 0, 7, 7])


def test_causal_loss_is_torch_s_cross_entropy_of_the_next_token() -> None:
    objective, module = causal(), gpt(dropout=0.0).eval()
    batch = objective.batch(ROWS, held_out=False, seed=0)
    loss, right = objective.loss(module, batch)
    ids = torch.from_numpy(
        np.stack([np.asarray(objective.tokens[12 * row : 12 * row + 13]) for row in ROWS]).astype(np.int64)
    )
    states: Any = module(ids[:, :12])
    logits = states @ module.tokens.weight.T  # type: ignore[union-attr,operator]
    expected = cross_entropy(logits.reshape(-1, N_TOKENS), ids[:, 1:].reshape(-1), reduction="sum")
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert int(right) == int((logits.argmax(-1) == ids[:, 1:]).sum())
    assert objective.count(batch) == 4 * 12


def test_windows_follow_one_another_and_use_every_token_once_as_target() -> None:
    tokens = np.arange(50, dtype=np.uint16)
    objective = CausalLM(tokens, tokens[:20], 8)
    assert (objective.n_examples, objective.n_held_out) == (6, 2)
    ids = objective.batch(np.arange(6), held_out=False, seed=0)["ids"]
    assert ids[:, 1:].flatten().tolist() == list(range(1, 49))
    assert ids.dtype == torch.int64


@pytest.mark.parametrize(("n", "n_held_out", "part"), [(8, 50, "training"), (50, 3, "held-out"), (0, 50, "training")])
def test_a_corpus_shorter_than_a_context_says_what_fits(n: int, n_held_out: int, part: str) -> None:
    with pytest.raises(
        InputError, match=f"{part} part of the corpus has {min(n, n_held_out)} tokens, one window takes 8"
    ):
        CausalLM(np.zeros(n, np.uint16), np.zeros(n_held_out, np.uint16), 8)
    CausalLM(np.zeros(9, np.uint16), np.zeros(9, np.uint16), 8)


def test_sparse_prediction_equals_the_dense_computation() -> None:
    objective, module = masked(), topoformer(dropout=0.0).eval()
    batch = objective.batch(np.arange(30), held_out=False, seed=5)
    seen: list[int] = []
    logits_of = module.logits  # type: ignore[operator]

    class Counting(nn.Module):
        def forward(self, *given: Any) -> Any:
            return module(*given)

        def logits(self, states: torch.Tensor) -> Any:
            seen.append(states.numel() // states.shape[-1])
            return logits_of(states)

    loss, right = objective.loss(Counting().eval(), batch)
    visible = torch.arange(batch["ids"].shape[1])[None, :] < batch["lengths"][:, None]
    dense = logits_of(module(batch["ids"], visible))
    expected = cross_entropy(dense.flatten(0, 1), batch["targets"].flatten(), ignore_index=IGNORED, reduction="sum")
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    predicted = batch["targets"] != IGNORED
    assert int(right) == int(((dense.argmax(-1) == batch["targets"]) & predicted).sum())
    assert seen == [objective.count(batch)] == [int(predicted.sum())]  # no other position met the vocabulary


def test_masked_batches_follow_the_rule_and_the_seed() -> None:
    objective = masked(share=0.3)
    ids, lengths = sequences(100, 0)
    batch = objective.batch(np.arange(100), held_out=False, seed=1)
    predicted = batch["targets"] != IGNORED
    real = torch.arange(12)[None, :] < lengths[:, None]
    assert float(predicted.sum() / real.sum()) == pytest.approx(0.3, abs=0.05)
    assert torch.equal(batch["targets"][predicted], ids.long()[predicted])
    assert not bool((predicted & ~real).any())
    assert bool((batch["ids"] == MASK).any())
    again, other = (objective.batch(np.arange(100), held_out=False, seed=seed) for seed in (1, 2))
    assert torch.equal(batch["ids"], again["ids"])
    assert not torch.equal(batch["targets"], other["targets"])


@pytest.mark.parametrize("kind", ["masked", "sentences"])
def test_padding_never_counts(kind: str) -> None:
    torch.manual_seed(0)
    objective: Any = masked() if kind == "masked" else sentences()
    module = topoformer(dropout=0.0, kind="topoformer" if kind == "masked" else "topoformer-classifier").eval()
    batch = objective.batch(np.arange(20), held_out=False, seed=0)
    padding = torch.arange(12)[None, :] >= batch["lengths"][:, None]
    other = {**batch, "ids": torch.where(padding, 17, batch["ids"])}
    loss, right = objective.loss(module, batch)
    loss_other, right_other = objective.loss(module, other)
    assert torch.equal(loss, loss_other)
    assert int(right) == int(right_other)
    one_by_one = [objective.loss(module, {key: v[i : i + 1] for key, v in batch.items()}) for i in range(20)]
    assert float(loss.detach()) == pytest.approx(sum(float(part.detach()) for part, _ in one_by_one), rel=1e-5)
    assert int(right) == sum(int(part) for _, part in one_by_one)


def test_a_part_without_a_prediction_gives_zero_and_a_gradient() -> None:
    objective, module = masked(), topoformer()
    batch = objective.batch(np.arange(4), held_out=False, seed=0)
    batch["targets"] = torch.full_like(batch["targets"], IGNORED)
    loss, right = objective.loss(module, batch)
    loss.backward()
    assert (float(loss.detach()), int(right)) == (0.0, 0)


def test_sentences_are_scored_by_class() -> None:
    objective = sentences()
    module = topoformer(dropout=0.0, kind="topoformer-classifier").eval()
    batch = objective.batch(ROWS, held_out=False, seed=0)
    assert batch["labels"].tolist() == [int(objective.texts[0][row, 0]) % 2 for row in ROWS]
    loss, _ = objective.loss(module, batch)
    expected = 0.0
    for row in ROWS:
        n = int(objective.texts[1][row])
        ids = objective.texts[0][row : row + 1, :n].long()
        logits = module.class_logits(module(ids))  # type: ignore[operator]
        expected += float(cross_entropy(logits, objective.labels[row : row + 1].long()).detach())
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert objective.count(batch) == 4
    with pytest.raises(InputError, match="100 texts have 3 labels"):
        SentenceClassification(objective.texts, np.zeros(3), objective.held_out, np.zeros(20))


def test_images_are_normalised_and_channels_come_first() -> None:
    objective = images(augment=False)
    batch = objective.batch(ROWS, held_out=False, seed=0)
    pixels = objective.images.numpy()[ROWS].transpose(0, 3, 1, 2) / 255
    np.testing.assert_allclose(batch["images"].numpy(), (pixels - 0.5) / 0.5, atol=1e-6)
    assert batch["labels"].tolist() == (ROWS % 3).tolist()


def test_augmentation_only_shifts_and_flips() -> None:
    """Every augmented image is one of the 2 x 3 x 3 shifts (an eighth of 8 pixels) and flips of its original."""
    objective = images()
    rows = np.repeat(np.arange(10), 40)
    plain = images(augment=False).batch(np.arange(10), held_out=False, seed=0)["images"]
    moved = objective.batch(rows, held_out=False, seed=3)["images"]
    kinds = set()
    for number, image in enumerate(moved):
        padded = nn.functional.pad(plain[rows[number]], (1, 1, 1, 1))  # 0 is the mean after normalisation
        found = [
            (down, right, flip)
            for down in range(3)
            for right in range(3)
            for flip in (False, True)
            if torch.equal(image, _flipped(padded[:, down : down + 8, right : right + 8], flip))
        ]
        assert found, f"image {number} is no shift of its original"
        kinds.update(found[:1])
    assert len(kinds) == 18
    again = objective.batch(rows, held_out=False, seed=3)["images"]
    assert torch.equal(moved, again)
    assert not torch.equal(moved, objective.batch(rows, held_out=False, seed=4)["images"])


def _flipped(image: torch.Tensor, flip: bool) -> torch.Tensor:
    return image.flip(-1) if flip else image


def test_held_out_images_are_left_alone_and_smoothing_is_for_training() -> None:
    objective, plain = images(label_smoothing=0.2), images(augment=False)
    held_out = objective.batch(np.arange(15), held_out=True, seed=3)
    assert torch.equal(held_out["images"], plain.batch(np.arange(15), held_out=True, seed=0)["images"])
    module = resnet()
    for training, smoothing in ((True, 0.2), (False, 0.0)):
        module.train(training)
        loss, _ = objective.loss(module, held_out)
        expected = cross_entropy(
            module(held_out["images"]), held_out["labels"], label_smoothing=smoothing, reduction="sum"
        )
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_images_of_the_wrong_kind_are_errors() -> None:
    good = np.zeros((4, 8, 8, 3), np.uint8)
    labels = np.zeros(4, int)
    for bad in (good.astype(float), good[0]):
        with pytest.raises(InputError, match="images must be uint8"):
            ImageClassification(bad, labels, good, labels, mean=HALF, std=HALF)
    with pytest.raises(InputError, match="4 images have 3 labels"):
        ImageClassification(good, labels[:3], good, labels, mean=HALF, std=HALF)
    with pytest.raises(InputError, match="3 channels, their normalisation has 1 means"):
        ImageClassification(good, labels, good, labels, mean=(0.5,), std=HALF)


@pytest.mark.parametrize("make", [causal, masked, sentences, images])
def test_the_global_generator_is_left_alone(make: Any) -> None:
    objective = make()
    torch.manual_seed(0)
    before, numpy_before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    objective.batch(ROWS, held_out=False, seed=1)
    objective.batch(ROWS, held_out=True, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert str(np.random.get_state()) == numpy_before  # noqa: NPY002
    assert objective.describe()["n_examples"] == objective.n_examples


def test_evaluation_does_not_depend_on_how_it_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, module = masked(), topoformer()
    whole = evaluate(module, objective, seed=4)
    assert evaluate(module, objective, seed=4, micro_batch=3) == pytest.approx(whole, rel=1e-5)
    assert whole[2] == objective.count(objective.batch(np.arange(20), held_out=True, seed=objectives.seed_of(4, 0, 1)))
    monkeypatch.setattr(objectives, "EVALUATED_AT_ONCE", 6)
    alone = evaluate(module, objective, seed=4)
    shares = [evaluate(module, objective, seed=4, share=(process, 3)) for process in range(3)]
    assert tuple(sum(parts) for parts in zip(*shares, strict=True)) == pytest.approx(alone, rel=1e-6)
    assert evaluate(module, objective, seed=5)[0] != alone[0]


def test_evaluation_gives_the_mode_back_and_uses_no_dropout() -> None:
    module = gpt(dropout=0.5)
    module.train()
    first = evaluate(module, causal())
    assert module.training
    assert first == evaluate(module.eval(), causal())
    assert not module.training


def test_nothing_held_out_is_an_error() -> None:
    objective = sentences()
    objective.n_held_out = 0
    with pytest.raises(InputError, match="no held-out example"):
        evaluate(topoformer(kind="topoformer-classifier"), objective)
