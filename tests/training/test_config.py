from __future__ import annotations

import itertools
import json
import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from topobrain._checks import InputError, UnknownNameError
from topobrain.training import TrainingConfig
from topobrain.training.sampling import Sampler, seed_of

BASE = TrainingConfig(learning_rate=2.0, warm_up=0.1, final_share=0.1)


@pytest.mark.parametrize(
    ("schedule", "share", "expected"),
    [
        ("cosine", 0.0, 0.0),
        ("cosine", 0.05, 1.0),
        ("cosine", 0.1, 2.0),
        ("cosine", 0.55, 2 * (0.1 + 0.9 / 2)),
        ("cosine", 0.325, 2 * (0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)),
        ("cosine", 1.0, 0.2),
        ("linear", 0.05, 1.0),
        ("linear", 0.1, 2.0),
        ("linear", 0.55, 2 * 0.55),
        ("linear", 1.0, 0.2),
        ("constant", 0.05, 1.0),
        ("constant", 0.1, 2.0),
        ("constant", 0.7, 2.0),
        ("constant", 1.0, 2.0),
        ("budget", 0.0, 0.5),
        ("budget", 0.25, 1.0),
        ("budget", 0.5, 1.5),
        ("budget", 0.75, 2.0),
        ("budget", 0.875, 1.0),
        ("budget", 1.0, 0.0),
    ],
)
def test_schedules_have_their_known_values(schedule: Any, share: float, expected: float) -> None:
    assert replace(BASE, schedule=schedule).rate(share) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "budget"])
def test_a_schedule_rises_once_and_then_never_again(schedule: Any) -> None:
    rates = [replace(BASE, schedule=schedule).rate(share) for share in np.linspace(0, 1, 401)]
    peak = int(np.argmax(rates))
    assert rates[peak] == pytest.approx(2.0)
    assert all(b >= a for a, b in itertools.pairwise(rates[: peak + 1]))
    assert all(b <= a for a, b in itertools.pairwise(rates[peak:]))


@pytest.mark.parametrize("warm_up", [0.0, 1.0])
def test_warm_ups_of_nothing_and_of_everything(warm_up: float) -> None:
    config = replace(BASE, schedule="constant", warm_up=warm_up)
    assert config.rate(0.5) == pytest.approx(2.0 if warm_up == 0 else 1.0)
    assert config.rate(1.0) == pytest.approx(2.0)
    assert config.rate(-1.0) == config.rate(0.0)
    assert config.rate(7.0) == config.rate(1.0)


def test_the_batch_grows_linearly_and_then_stays() -> None:
    config = TrainingConfig(steps=20, batch_size=32, ramp_steps=8)
    assert [config.batch_at(step) for step in range(10)] == [4, 8, 12, 16, 20, 24, 28, 32, 32, 32]
    assert [TrainingConfig(batch_size=32).batch_at(step) for step in (0, 1)] == [32, 32]
    assert min(TrainingConfig(batch_size=4, ramp_steps=100).batch_at(step) for step in range(100)) == 1


def test_plain_values_and_back() -> None:
    config = TrainingConfig(betas=(0.5, 0.6), clip=None, max_seconds=3.5, seed=7)
    plain = json.loads(json.dumps(config.to_dict()))
    assert TrainingConfig.from_dict(plain) == config
    assert set(plain) == {field.name for field in fields(TrainingConfig)}
    with pytest.raises(InputError, match="stepps"):
        TrainingConfig.from_dict({**plain, "stepps": 3})


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0}, {"steps": 1.5}, {"steps": True}, {"batch_size": 0}, {"micro_batch": 0}, {"seed": -1}, {"ramp_steps": -1},
        {"learning_rate": 0.0}, {"learning_rate": math.nan}, {"learning_rate": math.inf}, {"eps": -1.0}, {"clip": 0.0},
        {"clip": math.nan}, {"max_seconds": -1.0}, {"final_share": 1.5}, {"warm_up": math.nan}, {"weight_decay": -0.1},
        {"betas": (0.9, 1.0)}, {"betas": (0.9,)}, {"evaluate_every": 0}, {"checkpoint_every": 0}, {"keep_checkpoints": 0},
    ],
    ids=str,
)  # fmt: skip
def test_what_makes_no_sense_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        TrainingConfig(**change)


@pytest.mark.parametrize(
    ("change", "near"),
    [
        ({"optimiser": "adam"}, "adamw"),
        ({"schedule": "cosin"}, "cosine"),
        ({"mixed_precision": "fp8"}, "fp16"),
        ({"decayed": "matrix"}, "matrices"),
    ],
)
def test_unknown_choices_offer_near_ones(change: dict[str, Any], near: str) -> None:
    with pytest.raises(UnknownNameError, match=near):
        TrainingConfig(**change)


@pytest.mark.parametrize(("batch_size", "ramp_steps"), [(4, 0), (7, 0), (25, 0), (4, 6)])
def test_every_example_comes_once_an_epoch(batch_size: int, ramp_steps: int) -> None:
    sampler = Sampler(10, TrainingConfig(batch_size=batch_size, ramp_steps=ramp_steps, seed=3))
    dealt = np.concatenate([sampler.rows(step) for step in range(25)])
    for epoch in range(len(dealt) // 10):
        assert sorted(dealt[10 * epoch : 10 * (epoch + 1)]) == list(range(10))
    assert not np.array_equal(dealt[:10], dealt[10:20])
    assert [sampler.seen_before(step) for step in range(4)] == [
        sum(len(sampler.rows(earlier)) for earlier in range(step)) for step in range(4)
    ]


def test_a_step_s_examples_do_not_depend_on_the_steps_asked_for_before() -> None:
    config = TrainingConfig(batch_size=7, ramp_steps=3, seed=1)
    through = Sampler(10, config)
    expected = [through.rows(step).tolist() for step in range(12)]
    assert [Sampler(10, config).rows(step).tolist() for step in range(12)] == expected
    backwards = Sampler(10, config)
    assert [backwards.rows(step).tolist() for step in reversed(range(12))] == expected[::-1]
    assert Sampler(10, replace(config, seed=2)).rows(5).tolist() != expected[5]


def test_no_example_is_an_error() -> None:
    with pytest.raises(InputError, match="no example"):
        Sampler(0, TrainingConfig())


def test_seeds_are_well_mixed() -> None:
    seeds = {seed_of(a, b) for a in range(40) for b in range(40)}
    assert len(seeds) == 1600
    assert all(0 <= seed < 2**63 for seed in seeds)
