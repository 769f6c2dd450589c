from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from topobrain import load_result
from topobrain._checks import InputError
from topobrain.models.huggingface import initialise
from topobrain.models.topoformer import Topoformer, TopoformerConfig
from topobrain.training import TrainingConfig, TrainingLog, loop, train_masked_lm
from topobrain.training.masking import IGNORED, train_tokenizer

SUBJECTS, VERBS, PLACES = ("dog", "cat", "bird", "child"), ("sleeps", "sings", "eats"), ("garden", "house", "park")
TEXTS = [f"the {s} {v} in the {p}" for s in SUBJECTS for v in VERBS for p in PLACES]
HELD_OUT = TEXTS[::5]
CONFIG = TrainingConfig(steps=60, batch_size=16, learning_rate=1e-2, clip=1.0, evaluate_every=30)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(TEXTS, 300)


def fresh(tokenizer: Any, *, topographic: bool = True, dropout: float = 0.1) -> Topoformer:
    shape = TopoformerConfig(
        vocab_size=len(tokenizer), width=16, ffn_width=32, max_length=32, dropout=dropout,
        querying=0.3 if topographic else None, reweighting=0.5 if topographic else None,
    )  # fmt: skip
    module = initialise(lambda: Topoformer(shape), "untrained:0")
    assert isinstance(module, Topoformer)
    return module


def train(tokenizer: Any, config: TrainingConfig = CONFIG, **options: Any) -> tuple[Topoformer, TrainingLog]:
    module = options.pop("module", None) or fresh(tokenizer)
    return module, train_masked_lm(module, tokenizer, TEXTS, HELD_OUT, config, device="cpu", **options)


SHORT = replace(CONFIG, steps=6, evaluate_every=3)


@pytest.mark.parametrize("topographic", [True, False])
def test_the_loss_falls(topographic: bool, tokenizer: Any) -> None:
    module, log = train(tokenizer, module=fresh(tokenizer, topographic=topographic))
    losses = log.data["train_loss"].values
    assert losses[0] == pytest.approx(np.log(len(tokenizer)), abs=0.6)  # at first, as good as guessing
    assert losses[-10:].mean() < 0.6 * losses[0]
    held_out = log.data["held_out_loss"].values
    assert held_out[-1] < 0.6 * held_out[0]
    assert log.data["held_out_accuracy"].values[-1] > log.data["held_out_accuracy"].values[0]
    assert not module.training


def test_the_log_names_steps_evaluations_and_everything_used(tokenizer: Any, tmp_path: Path) -> None:
    _, log = train(tokenizer, SHORT, name="little", provenance={"corpus": {"name": "toy", "simulated": True}})
    assert log.data["step"].values.tolist() == [1, 2, 3, 4, 5, 6]
    assert log.data["evaluation"].values.tolist() == [0, 3, 6]
    assert log.provenance["training"]["learning_rate"] == SHORT.learning_rate
    assert log.provenance["training"]["objective"] == "masked language model"
    assert log.provenance["model"]["config"]["width"] == 16
    assert log.simulated
    summary = log.summary().iloc[0]
    assert (summary["model"], summary["steps"]) == ("little", 6)
    assert summary["held_out_loss_untrained"] == log.data["held_out_loss"].values[0]
    assert isinstance(load_result(log.save(tmp_path / "log.nc")), TrainingLog)


def test_evaluation_repeats_no_step_when_the_last_is_a_multiple(tokenizer: Any) -> None:
    _, log = train(tokenizer, replace(SHORT, evaluate_every=4))
    assert log.data["evaluation"].values.tolist() == [0, 4, 6]


def test_equal_seeds_give_equal_weights_and_losses(tokenizer: Any) -> None:
    torch.manual_seed(123)
    first, log = train(tokenizer, SHORT)
    torch.manual_seed(456)  # the state of the global generator must not matter, dropout or not
    again, log_again = train(tokenizer, SHORT)
    other, log_other = train(tokenizer, replace(SHORT, seed=1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    np.testing.assert_array_equal(log.data["train_loss"].values, log_again.data["train_loss"].values)
    np.testing.assert_array_equal(log.data["held_out_loss"].values, log_again.data["held_out_loss"].values)
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    assert not np.array_equal(log.data["train_loss"].values, log_other.data["train_loss"].values)


def test_how_often_it_is_evaluated_does_not_change_training(tokenizer: Any) -> None:
    seldom, log = train(tokenizer, replace(SHORT, evaluate_every=100))
    often, log_often = train(tokenizer, replace(SHORT, evaluate_every=1))
    assert all(torch.equal(a, b) for a, b in zip(seldom.parameters(), often.parameters(), strict=True))
    assert log.data["held_out_loss"].values[-1] == log_often.data["held_out_loss"].values[-1]


def test_the_global_generator_is_left_alone(tokenizer: Any) -> None:
    torch.manual_seed(987)
    before, numpy_before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    train(tokenizer, SHORT)
    assert torch.equal(torch.get_rng_state(), before)
    assert str(np.random.get_state()) == numpy_before  # noqa: NPY002


def test_twins_see_the_same_batches_and_masks(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    mask_tokens = loop.mask_tokens

    def watched(ids: Tensor, visible: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        result = mask_tokens(ids, visible, **options)
        seen.append(result)
        return result

    monkeypatch.setattr(loop, "mask_tokens", watched)
    train(tokenizer, SHORT, module=fresh(tokenizer))
    first, seen[:] = list(seen), []
    train(tokenizer, SHORT, module=fresh(tokenizer, topographic=False))
    assert len(first) == len(seen) == 6 + 3
    for (a, target_a), (b, target_b) in zip(first, seen, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(target_a, target_b)
        assert bool((target_a != IGNORED).any())


def test_equal_seeds_start_twins_from_equal_embeddings(tokenizer: Any) -> None:
    a, b = fresh(tokenizer), fresh(tokenizer, topographic=False)
    assert a.tokens.weight.shape == b.tokens.weight.shape
    assert sum(p.numel() for p in a.parameters()) == sum(p.numel() for p in b.parameters())


@pytest.mark.parametrize(("bad_at", "bad"), [(0, float("nan")), (2, float("inf"))])
def test_a_run_that_diverges_names_the_step(
    bad_at: int, bad: float, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    step_loss, calls = loop._step_loss, []

    def spoilt(module: Topoformer, *rest: Any) -> Any:
        loss, n, hits = step_loss(module, *rest)
        if module.training:
            calls.append(1)
        return (loss * bad if module.training and len(calls) == bad_at + 1 else loss), n, hits

    monkeypatch.setattr(loop, "_step_loss", spoilt)
    with pytest.raises(InputError, match=f"training diverged: the loss of little is {bad} at step {bad_at}; lower"):
        train(tokenizer, SHORT, name="little")


def test_a_learning_rate_far_too_high_is_an_error_not_a_model_of_nans(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="training diverged"):
        train(tokenizer, replace(CONFIG, learning_rate=1e38))


def test_topographic_constraints_hold_after_training(tokenizer: Any) -> None:
    module, _ = train(tokenizer, SHORT)
    reweighting = module.blocks[0].attention.output
    assert float(reweighting.weight.detach().min()) >= 0  # type: ignore[union-attr,operator]
    outside = reweighting.mask == 0  # type: ignore[union-attr]
    assert bool(outside.any())
    assert float(reweighting.weight.detach()[outside].abs().max()) == 0  # type: ignore[union-attr,index]
    before = fresh(tokenizer).blocks[0].attention.pool.pool  # type: ignore[union-attr]
    assert torch.equal(module.blocks[0].attention.pool.pool, before)  # type: ignore[union-attr,arg-type]


def test_progress_is_told_every_step(tokenizer: Any) -> None:
    seen: list[tuple[int, int, float]] = []
    _, log = train(tokenizer, SHORT, progress=lambda *now: seen.append(now))
    assert [(step, steps) for step, steps, _ in seen] == [(i, 6) for i in range(1, 7)]
    np.testing.assert_array_equal([loss for *_, loss in seen], log.data["train_loss"].values)


def test_the_rate_warms_up_then_falls_to_a_tenth() -> None:
    rates = [loop._rate(step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1)
    assert int(np.argmax(rates)) in (9, 10)
    assert rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_no_texts_are_an_error(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="no text to train on"):
        train_masked_lm(fresh(tokenizer), tokenizer, [], HELD_OUT, SHORT)
