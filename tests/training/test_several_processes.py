"""Two real processes that share every batch, started as a user would."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_runs
from toy_runs import CONFIG, TOPOLOSS, causal, gpt, masked, rows_of, topoformer, weights_hash

from topobrain.training import Run, TrainingConfig, TrainingLog, train
from topobrain.training.recipe_run import load_log, run_recipe
from topobrain.training.recipes import find_recipe

pytestmark = pytest.mark.slow

PLAIN = replace(CONFIG, optimiser="sgd", learning_rate=0.1, steps=4, evaluate_every=2, checkpoint_every=2, clip=0.5)
NAMES = ("train_loss", "topography_loss", "gradient_norm", "held_out_loss", "held_out_accuracy", "learning_rate")


def several(name: str) -> tuple[Any, Any, TrainingConfig, list[Any]]:
    """Return the runs that one and two processes make; without dropout, which every process draws for itself."""
    return {
        "masked": (topoformer(0.0), masked(), PLAIN, []),
        "topoloss": (gpt(0.0), causal(), PLAIN, [TOPOLOSS]),
        "parts": (gpt(0.0), causal(), replace(PLAIN, micro_batch=3), [TOPOLOSS]),
        "odd": (topoformer(0.0), masked(), replace(PLAIN, batch_size=7, micro_batch=2), []),
        "ramp": (topoformer(0.0), masked(), replace(PLAIN, ramp_steps=8), []),  # begins with a single text
        "adamw": (topoformer(0.0), masked(), replace(PLAIN, optimiser="adamw", learning_rate=1e-3), []),
    }[name]


RUNS = ("masked", "topoloss", "parts", "odd", "ramp", "adamw")


def worker(directory: str) -> None:
    """Make every run, and the one that is kept twice: the second time there is nothing left to do."""
    import torch

    told: dict[str, Any] = {}
    for name in RUNS:
        module, objective, config, penalties = several(name)
        log = train(module, objective, config, penalties=penalties, run=Run(name, device="cpu"))
        told[name] = {
            "hash": weights_hash(module),
            "log": values(log),
            "training": log.provenance["training"]["processes"],
        }
    saves = []
    toy_runs.safetensors.torch.save_file = _noted(saves, toy_runs.safetensors.torch.save_file)
    for _ in range(2):
        module, objective, config, penalties = several("topoloss")
        log = train(
            module, objective, config, penalties=penalties, run=Run("kept", Path(directory) / "run", device="cpu")
        )
        told["kept"] = {"hash": weights_hash(module), "log": values(log), "saves": len(saves)}
    (Path(directory) / f"rank{os.environ['RANK']}.json").write_text(json.dumps(told))
    torch.distributed.destroy_process_group()


def _noted(calls: list[int], work: Any) -> Any:
    def noted(*given: Any, **options: Any) -> Any:
        calls.append(1)
        return work(*given, **options)

    return noted


def values(log: TrainingLog) -> dict[str, list[float]]:
    return {name: log.data[name].values.tolist() for name in NAMES}


def launch(arguments: list[str], directory: Path, **environment: str) -> str:
    """Run a command of two processes that talk over the loopback interface."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = [str(Path(__file__).parent), *filter(None, sys.path)]
    given = {
        **os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": os.pathsep.join(place),
        "CUDA_VISIBLE_DEVICES": "", **environment,
    }  # fmt: skip
    command = [sys.executable, "-m", *[str(port) if part == "PORT" else part for part in arguments]]
    done = subprocess.run(command, env=given, cwd=directory, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    directory = tmp_path_factory.mktemp("pair")
    script = directory / "script.py"
    script.write_text(f"import test_several_processes\n\ntest_several_processes.worker({str(directory)!r})\n")
    arguments = [
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-addr",
        "127.0.0.1",
        "--master-port",
        "PORT",
    ]
    launch([*arguments, str(script)], directory)
    return directory, [json.loads((directory / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_compute_what_one_does(name: str, pair: Any) -> None:
    _, ranks = pair
    module, objective, config, penalties = several(name)
    log = values(train(module, objective, config, penalties=penalties))
    assert ranks[0][name]["training"] == 2
    assert ranks[0][name] == ranks[1][name]  # to the last bit, weights too
    for column, alone in log.items():
        tolerance = 1e-5 if name != "adamw" else 1e-4  # a moment near 0 magnifies rounding
        np.testing.assert_allclose(ranks[0][name]["log"][column], alone, rtol=tolerance, err_msg=column)
    assert log["train_loss"][0] != log["train_loss"][-1]


def test_the_processes_predict_unequal_numbers_of_tokens() -> None:
    """Or the test above would pass with a mean of means."""
    _, objective, config, _ = several("masked")
    from topobrain.training.objectives import IGNORED
    from topobrain.training.sampling import Sampler, seed_of

    batch = objective.batch(Sampler(100, config).rows(0), held_out=False, seed=seed_of(0, 0))
    halves = [int((batch["targets"][part] != IGNORED).sum()) for part in (slice(0, 4), slice(4, 8))]
    assert halves[0] != halves[1]


def test_one_process_writes(pair: Any, tmp_path: Path) -> None:
    directory, ranks = pair
    assert ranks[0]["kept"]["hash"] == ranks[1]["kept"]["hash"] == ranks[0]["topoloss"]["hash"]
    assert ranks[0]["kept"]["log"] == ranks[1]["kept"]["log"] == ranks[0]["topoloss"]["log"]
    assert (ranks[0]["kept"]["saves"], ranks[1]["kept"]["saves"]) == (2 * 3, 0)  # at steps 0, 2 and 4, once
    run = directory / "run"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "step-00000000", "step-00000002", "step-00000004",
    ]  # fmt: skip
    steps = [row[0] for row in rows_of(run) if row[1] == "training"]
    assert steps == [1, 2, 3, 4]
    # one process can go on with what two began
    module, objective, config, penalties = several("topoloss")
    train(module, objective, config, penalties=penalties, run=Run("kept", run))
    assert weights_hash(module) == ranks[0]["kept"]["hash"]


def test_the_command_runs_on_two_processes(tmp_path: Path) -> None:
    """`accelerate launch -m topobrain.cli train` gives the losses of the recipe on one process.

    Its launcher of several processes is called ``--multi_gpu``, also where they are put on the CPU; ``--cpu`` starts one.
    """
    pytest.importorskip("topobrain.cli.training")
    corpus = tmp_path / "corpus.txt"
    words = np.random.default_rng(0).choice(["dog", "cat", "sings", "sleeps", "old", "garden"], (300, 12))
    corpus.write_text("\n\n".join(f"{i} " + " ".join(line) for i, line in enumerate(words)))
    arguments = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
                 "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "PORT",
                 "-m", "topobrain.cli", "train", "toponet-nanogpt", "--corpus", str(corpus), "--steps", "3",
                 "--batch-size", "6", "--device", "cpu"]  # fmt: skip
    launch([*arguments, "--out", str(tmp_path / "two")], tmp_path, TOPOBRAIN_CACHE=str(tmp_path / "cache"))
    recipe = replace(find_recipe("toponet-nanogpt"), corpus=str(corpus)).with_training(steps=3, batch_size=6)
    run_recipe(recipe, tmp_path / "one", device="cpu")
    one, two = (load_log(tmp_path / name) for name in ("one", "two"))
    for column, alone in values(one).items():
        np.testing.assert_allclose(two.data[column].values, alone, rtol=1e-4, err_msg=column)
    np.testing.assert_allclose(two.data["train_loss"].values[:1], one.data["train_loss"].values[:1], rtol=1e-5)
    assert two.provenance["training"]["processes"] == 2
    from topobrain import load_model
    from topobrain.testing import check_model

    assert check_model(load_model(tmp_path / "two", device="cpu")).ok
