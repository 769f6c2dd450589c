from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toy_runs import (
    CONFIG,
    N_TOKENS,
    TOPOLOSS,
    causal,
    gpt,
    images,
    masked,
    resnet,
    rows_of,
    sentences,
    topoformer,
    weights_hash,
)

from topobrain import load_result
from topobrain._checks import InputError
from topobrain.training import Run, TrainingConfig, TrainingLog, train
from topobrain.training import loop as room

FAST = replace(CONFIG, steps=20, batch_size=16, evaluate_every=10)


def trained(config: TrainingConfig = CONFIG, **options: Any) -> tuple[nn.Module, TrainingLog]:
    module = options.pop("module", None) or topoformer()
    return module, train(module, options.pop("objective", None) or masked(), config, **options)


@pytest.mark.parametrize("kind", ["causal", "masked", "masked control", "sentences", "images"])
@pytest.mark.slow
def test_the_loss_falls(kind: str) -> None:
    module, objective, guess = {
        "causal": (gpt, causal, N_TOKENS),
        "masked": (topoformer, masked, N_TOKENS),
        "masked control": (lambda: topoformer(topographic=False), masked, N_TOKENS),
        "sentences": (lambda: topoformer(kind="topoformer-classifier"), sentences, 2),
        "images": (resnet, images, 3),
    }[kind]
    module, log = trained(FAST, module=module(), objective=objective())  # type: ignore[operator]
    losses = log.data["train_loss"].values
    if kind != "images":
        assert losses[0] == pytest.approx(np.log(guess), abs=0.6)  # at first, as good as guessing
    assert losses[-5:].mean() < 0.9 * losses[0]
    assert log.data["held_out_loss"].values[-1] < 0.95 * log.data["held_out_loss"].values[0]
    assert log.data["held_out_accuracy"].values[-1] > log.data["held_out_accuracy"].values[0]
    assert not module.training


def test_the_log_names_steps_evaluations_and_everything_used(tmp_path: Path) -> None:
    run = Run(name="little", provenance={"corpus": {"name": "toy", "simulated": True}})
    config = replace(CONFIG, max_seconds=1000.0)
    _, log = trained(config, run=run, objective=causal(), module=gpt(), penalties=[TOPOLOSS])
    assert log.data["step"].values.tolist() == [1, 2, 3, 4, 5, 6]
    assert log.data["evaluation"].values.tolist() == [0, 3, 6]
    training = log.provenance["training"]
    assert {**config.to_dict()}.items() <= training.items()
    assert training["objective"] == "causal language model"
    assert training["corpus"] == {"name": "toy", "simulated": True}
    assert training["penalties"] == [TOPOLOSS.to_dict()]
    assert (training["device"], training["processes"], training["max_seconds"]) == ("cpu", 1, 1000.0)
    assert log.provenance["model"]["config"]["width"] == 16
    assert log.simulated
    summary = log.summary().iloc[0]
    assert (summary["model"], summary["steps"]) == ("little", 6)
    assert summary["held_out_loss_untrained"] == log.data["held_out_loss"].values[0]
    assert isinstance(load_result(log.save(tmp_path / "log.nc")), TrainingLog)


@pytest.mark.parametrize(("every", "expected"), [(4, [0, 4, 6]), (100, [0, 6]), (1, [0, 1, 2, 3, 4, 5, 6])])
def test_evaluation_repeats_no_step(every: int, expected: list[int]) -> None:
    _, log = trained(replace(CONFIG, evaluate_every=every))
    assert log.data["evaluation"].values.tolist() == expected


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_equal_seeds_give_equal_weights_and_losses(precision: Any) -> None:
    config = replace(CONFIG, mixed_precision=precision)
    torch.manual_seed(123)
    first, log = trained(config)
    torch.manual_seed(456)  # the state of the global generator must not matter, dropout or not
    again, log_again = trained(config)
    other, log_other = trained(replace(config, seed=1))
    assert weights_hash(first) == weights_hash(again) != weights_hash(other)
    np.testing.assert_array_equal(log.data["train_loss"].values, log_again.data["train_loss"].values)
    np.testing.assert_array_equal(log.data["held_out_loss"].values, log_again.data["held_out_loss"].values)
    assert not np.array_equal(log.data["train_loss"].values, log_other.data["train_loss"].values)


def test_how_often_it_is_evaluated_and_kept_does_not_change_training(tmp_path: Path) -> None:
    seldom, log = trained(replace(CONFIG, evaluate_every=100))
    often, log_often = trained(
        replace(CONFIG, evaluate_every=1, checkpoint_every=1), run=Run(directory=tmp_path), module=topoformer()
    )
    assert weights_hash(seldom) == weights_hash(often)
    assert log.data["held_out_loss"].values[-1] == log_often.data["held_out_loss"].values[-1]


@pytest.mark.parametrize("penalties", [[], [TOPOLOSS]])
def test_the_global_generator_is_left_alone(penalties: Any) -> None:
    torch.manual_seed(987)
    before, numpy_before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    trained(module=gpt(), objective=causal(), penalties=penalties)
    assert torch.equal(torch.get_rng_state(), before)
    assert str(np.random.get_state()) == numpy_before  # noqa: NPY002


def test_twins_see_the_same_batches_and_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = masked()
    seen: list[dict[str, torch.Tensor]] = []
    deal = objective.batch

    def watched(*given: Any, **options: Any) -> Any:
        seen.append(deal(*given, **options))
        return seen[-1]

    monkeypatch.setattr(objective, "batch", watched)
    trained(objective=objective)
    first, seen[:] = list(seen), []
    trained(objective=objective, module=topoformer(topographic=False))
    assert len(first) == len(seen) == 6 + 3
    for batch, other in zip(first, seen, strict=True):
        assert batch.keys() == other.keys()
        assert all(torch.equal(batch[key], other[key]) for key in batch)
    assert not torch.equal(first[1]["targets"], first[2]["targets"])


def test_twins_are_of_equal_size() -> None:
    a, b = topoformer(), topoformer(topographic=False)
    assert a.tokens.weight.shape == b.tokens.weight.shape  # type: ignore[union-attr]
    assert sum(p.numel() for p in a.parameters()) == sum(p.numel() for p in b.parameters())


@pytest.mark.parametrize("kind", ["causal", "masked", "sentences"])
@pytest.mark.slow
def test_micro_batches_make_the_step_of_one_big_batch(kind: str) -> None:
    """Gradients add up although the parts hold unequal numbers of predictions; 3 does not divide 8."""
    objective = {"causal": causal, "masked": masked, "sentences": sentences}[kind]()
    config = replace(CONFIG, steps=3, clip=None, evaluate_every=3, optimiser="sgd", learning_rate=0.1)
    logs, modules = [], []
    for size in (None, 1, 3, 8):
        module = (
            gpt(0.0)
            if kind == "causal"
            else topoformer(0.0, kind={"masked": "topoformer"}.get(kind, "topoformer-classifier"))
        )
        penalties = [TOPOLOSS] if kind == "causal" else []
        modules.append(module)
        logs.append(train(module, objective, replace(config, micro_batch=size), penalties=penalties))  # fmt: skip
    for module, log in zip(modules[1:], logs[1:], strict=True):
        for name in ("train_loss", "gradient_norm", "held_out_loss", "topography_loss"):
            np.testing.assert_allclose(log.data[name].values, logs[0].data[name].values, rtol=1e-5)
        for a, b in zip(modules[0].parameters(), module.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_one_step_is_the_optimiser_s_own() -> None:
    """Loss, gradient, clipping and AdamW by hand, against one step of the loop."""
    config = replace(CONFIG, steps=1, clip=0.05, schedule="constant", warm_up=0.0, weight_decay=0.1, evaluate_every=1)
    objective, module, mine = causal(), gpt(0.0), gpt(0.0)
    log = train(module, objective, config, penalties=[replace(TOPOLOSS, strength=0.5)])
    rows = np.random.default_rng([0, 0]).permutation(objective.n_examples)[:8]
    loss, right = objective.loss(mine.train(), objective.batch(rows, held_out=False, seed=0))
    from topobrain.nn import topo_loss

    penalty = topo_loss(mine.blocks[0].mlp.c_fc.weight, factor=2.0)  # type: ignore[union-attr,index]
    (loss / (8 * 12) + 0.5 * penalty).backward()
    norm = nn.utils.clip_grad_norm_(mine.parameters(), 0.05)
    torch.optim.AdamW(mine.parameters(), lr=1e-2, weight_decay=0.1).step()
    assert float(log.data["gradient_norm"][0]) == pytest.approx(float(norm), rel=1e-5)
    assert float(norm) > 0.05
    assert float(log.data["train_loss"][0]) == pytest.approx(float(loss.detach()) / 96, rel=1e-6)
    assert float(log.data["topography_loss"][0]) == pytest.approx(0.5 * float(penalty.detach()), rel=1e-6)
    assert right <= 96
    for a, b in zip(module.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_clipping_bounds_the_step_and_none_leaves_it() -> None:
    lengths = {}
    for clip in (None, 1e-3, 1e6):
        module, before = gpt(0.0), gpt(0.0)
        config = replace(
            CONFIG, steps=1, optimiser="sgd", momentum=0.0, learning_rate=1.0, schedule="constant", warm_up=0.0,
            weight_decay=0.0, clip=clip,
        )  # fmt: skip
        log = train(module, causal(), config)
        moved = sum(
            float((a - b).detach().square().sum())
            for a, b in zip(module.parameters(), before.parameters(), strict=True)
        )
        lengths[clip] = (moved**0.5, float(log.data["gradient_norm"][0]))
    assert lengths[1e-3][0] == pytest.approx(1e-3, rel=1e-2)
    assert lengths[None][0] == pytest.approx(lengths[None][1], rel=1e-3)
    assert lengths[None] == pytest.approx(lengths[1e6], rel=1e-6)
    assert len({round(norm, 5) for _, norm in lengths.values()}) == 1  # the norm that is told is the one before


def test_the_rate_follows_the_schedule_step_by_step() -> None:
    for schedule, shares in (("cosine", range(1, 7)), ("budget", range(6))):
        config = replace(CONFIG, schedule=schedule)
        _, log = trained(config)
        expected = [config.rate(share / 6) for share in shares]
        np.testing.assert_allclose(log.data["learning_rate"].values, expected, rtol=1e-9)


def test_the_batch_ramp_is_what_the_model_sees() -> None:
    sizes: list[int] = []
    module = topoformer()
    module.register_forward_hook(lambda part, given, _: sizes.append(len(given[0])) if part.training else None)
    trained(replace(CONFIG, ramp_steps=4), module=module)
    assert sizes == [2, 4, 6, 8, 8, 8]


def test_only_matrices_decay_where_asked() -> None:
    groups = {}
    for decayed in ("matrices", "all"):
        module = topoformer()
        optimiser = room._optimiser(module, replace(CONFIG, decayed=decayed, weight_decay=0.3))
        groups[decayed] = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
        names = {id(p): name for name, p in module.named_parameters()}
        assert set(groups[decayed]) == set(names)
        for key, value in groups[decayed].items():
            plain = names[key].endswith("bias") or "norm" in names[key]
            assert value == (0.0 if plain and decayed == "matrices" else 0.3), names[key]


def test_decay_shrinks_and_its_absence_does_not() -> None:
    """With a loss that has no gradient, AdamW only decays."""
    for decayed in ("matrices", "all"):
        objective = masked()
        objective.loss = lambda module, batch: (  # type: ignore[method-assign]
            0.0 * sum(p.sum() for p in module.parameters()),
            torch.tensor(0),
        )
        module, before = topoformer(0.0, topographic=False), topoformer(0.0, topographic=False)
        config = replace(
            CONFIG, steps=1, decayed=decayed, weight_decay=0.5, learning_rate=0.1, schedule="constant", warm_up=0.0
        )
        train(module, objective, config)
        for (name, a), b in zip(module.named_parameters(), before.parameters(), strict=True):
            shrinks = a.ndim > 1 or decayed == "all"
            torch.testing.assert_close(a, b * (0.95 if shrinks else 1.0), msg=name)


def test_half_precision_on_a_cpu_stays_close() -> None:
    _, log = trained(FAST, module=topoformer(0.0))
    module, half = trained(replace(FAST, mixed_precision="bf16"), module=topoformer(0.0))
    np.testing.assert_allclose(half.data["train_loss"].values, log.data["train_loss"].values, rtol=0.1)
    assert not np.array_equal(half.data["train_loss"].values, log.data["train_loss"].values)
    assert all(p.dtype == torch.float32 for p in module.parameters())


def test_penalties_on_weights_are_computed_in_full_precision() -> None:
    """Weights are float32 under bf16 too, so the first value of every penalty is the same number."""
    from topobrain.training import Penalty

    for kind in ("topoloss", "neighbour_cosine", "wiring"):
        first = []
        for precision in ("no", "bf16"):
            penalty = Penalty(kind, ("blocks.*.mlp.c_fc",), factor=(2.0, 2.0))  # type: ignore[arg-type]
            config = replace(CONFIG, steps=1, mixed_precision=precision)  # type: ignore[arg-type]
            first.append(float(train(gpt(0.0), causal(), config, penalties=[penalty]).data["topography_loss"][0]))
        assert first[0] == first[1], kind


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(InputError, match=r"fp16 needs a GPU; on a CPU take bf16"):
        trained(replace(CONFIG, mixed_precision="fp16"), run=Run(device="cpu"))


def test_a_time_budget_ends_a_run_regularly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that ticks a second a look: the run stops early, is evaluated and kept, and the rate ran out."""
    now = [100.0]

    def tick() -> float:
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(room.time, "monotonic", tick)
    config = replace(CONFIG, steps=1000, max_seconds=60.0, evaluate_every=1000, schedule="linear", final_share=0.0)
    module, log = trained(config, run=Run(directory=tmp_path))
    steps = log.data.sizes["step"]
    assert 5 < steps < 60
    assert log.data["evaluation"].values.tolist() == [0, steps]
    rates = log.data["learning_rate"].values
    assert rates[-1] < 0.1 * rates.max() < rates.max() == pytest.approx(1e-2, rel=0.1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()].count(f"step-{steps:08d}") == 1
    seconds = [json.loads(line)["seconds"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert seconds == sorted(seconds)
    assert seconds[-1] >= 60
    rows = rows_of(tmp_path)
    again, _ = trained(config, run=Run(directory=tmp_path))  # the budget is spent: nothing more is trained
    assert weights_hash(again) == weights_hash(module)
    assert rows_of(tmp_path) == rows


@pytest.mark.parametrize(("bad_at", "bad"), [(0, float("nan")), (2, float("inf"))])
def test_a_poisoned_batch_stops_the_run_and_names_the_step(
    bad_at: int, bad: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = masked()
    loss, calls = objective.loss, []

    def spoilt(module: Any, batch: Any) -> Any:
        value, hits = loss(module, batch)
        calls.append(module.training)
        return (value * bad if module.training and sum(calls) == bad_at + 1 else value), hits

    monkeypatch.setattr(objective, "loss", spoilt)
    module = topoformer()
    with pytest.raises(
        InputError, match=f"training diverged: the loss of little is {bad} at step {bad_at + 1}; the last good checkpoint is "
        f".*step-{bad_at:08d}. Lower the learning rate",
    ):  # fmt: skip
        train(module, objective, replace(CONFIG, checkpoint_every=1), run=Run("little", tmp_path))
    assert all(bool(torch.isfinite(p).all()) for p in module.parameters())
    assert [row[0] for row in rows_of(tmp_path) if row[1] == "training"] == list(range(1, bad_at + 1))


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_learning_rate_far_too_high_keeps_the_last_good_checkpoint(optimiser: Any, tmp_path: Path) -> None:
    from topobrain.training.checkpoints import load_checkpoint, newest_checkpoint

    config = replace(CONFIG, learning_rate=1e10, optimiser=optimiser, clip=None, checkpoint_every=1, steps=40)
    with pytest.raises(InputError, match=r"training diverged: .* at step ") as told:
        trained(config, run=Run("little", tmp_path), module=gpt(), objective=causal())
    newest = newest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    assert str(newest.path) in str(told.value)
    module = gpt()
    load_checkpoint(newest, module, None)
    assert all(bool(torch.isfinite(p).all()) for p in module.parameters())


def test_a_gradient_that_is_not_finite_stops_before_the_weights_do() -> None:
    """The square root's slope at 0 is infinite: the loss is finite, its gradient is not."""
    objective = masked()
    loss = objective.loss
    objective.loss = lambda module, batch: (  # type: ignore[method-assign]
        (loss(module, batch)[0] + (0 * module.tokens.weight.sum()).sqrt(), loss(module, batch)[1])
    )
    module = topoformer()
    before = weights_hash(module)
    with pytest.raises(InputError, match="gradient norm of model is nan at step 1"):
        train(module, objective, CONFIG)
    assert weights_hash(module) == before


def test_a_held_out_loss_that_is_not_finite_stops_too() -> None:
    objective = masked()
    loss = objective.loss
    objective.loss = lambda module, batch: (  # type: ignore[method-assign]
        loss(module, batch) if module.training else (torch.tensor(float("nan")), torch.tensor(0))
    )
    with pytest.raises(InputError, match="held-out loss of model is nan at step 0"):
        train(topoformer(), objective, CONFIG)


def test_topographic_constraints_hold_after_training() -> None:
    module, _ = trained()
    reweighting = module.blocks[0].attention.output  # type: ignore[union-attr,index]
    assert float(reweighting.weight.detach().min()) >= 0  # type: ignore[union-attr,operator]
    outside = reweighting.mask == 0  # type: ignore[union-attr]
    assert bool(outside.any())
    assert float(reweighting.weight.detach()[outside].abs().max()) == 0  # type: ignore[union-attr,index]
    before = topoformer().blocks[0].attention.pool.pool  # type: ignore[union-attr,index]
    assert torch.equal(module.blocks[0].attention.pool.pool, before)  # type: ignore[union-attr,arg-type,index]


def test_progress_is_told_every_step() -> None:
    seen: list[tuple[int, int, float]] = []
    _, log = trained(run=Run(progress=lambda *now: seen.append(now)))
    assert [(step, steps) for step, steps, _ in seen] == [(i, 6) for i in range(1, 7)]
    np.testing.assert_array_equal([loss for *_, loss in seen], log.data["train_loss"].values)


def test_nothing_is_written_without_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trained(replace(CONFIG, checkpoint_every=1))
    assert not list(tmp_path.iterdir())


def test_runs_of_several_precisions_follow_one_another() -> None:
    """Accelerate's state is the process'; no run may leave it to the next."""
    from accelerate.state import AcceleratorState, PartialState

    for precision in ("bf16", "no", "bf16"):
        _, log = trained(replace(CONFIG, steps=1, mixed_precision=precision))  # type: ignore[arg-type]
        assert log.provenance["training"]["mixed_precision"] == precision
    assert not AcceleratorState._shared_state
    assert not PartialState._shared_state
