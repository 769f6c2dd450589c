"""The plan of memory: what is promised is kept, and a bound that is too small says what would fit."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from topobrain import stats
from topobrain._checks import InputError
from topobrain.stats.ridge import FoldSizes, memory_plan, nested_ridge
from topobrain.stats.ridge.memory import parse_memory, readable
from topobrain.stats.ridge.running import fit_nested, make_task
from topobrain.stats.ridge.spectrum import Basis
from topobrain.stats.ridge.targets import Targets
from topobrain.stats.ridge.workers import working

SIZES = FoldSizes.even(1000, 3072, 10_000, 20)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, None), (1024, 1024), ("2 GiB", 2 << 30), ("1.5mb", 1_500_000), ("64 kib", 64 << 10), ("7", 7)],
)
def test_sizes_are_read(given, expected):
    assert parse_memory(given) == expected


@pytest.mark.parametrize("given", ["much", "2 parsecs", -1, 0, "0 GiB", float("nan"), True])
def test_sizes_that_are_none_are_refused(given):
    with pytest.raises(InputError, match="max_memory"):
        parse_memory(given)


def test_sizes_are_written():
    assert readable(1536) == "1.50 KiB"
    assert readable(12) == "12 bytes"


def test_the_issue_s_bounds_are_kept_on_paper():
    assert memory_plan(SIZES, threads=2).total < 2**30
    huge = FoldSizes.even(1000, 3072, 100_000, 20)
    plan = memory_plan(huge, threads=2, max_memory="3 GiB")
    assert plan.total < 3 * 2**30
    assert plan.precision == "mixed"


def test_a_bound_makes_tiles_smaller_before_it_gives_up():
    free, bound = memory_plan(SIZES), memory_plan(SIZES, max_memory="230 MiB")
    assert bound.total <= 230 * 2**20 < free.total
    assert bound.tile < free.tile or bound.alphas < free.alphas
    with pytest.raises(InputError, match="at least") as error:
        memory_plan(SIZES, max_memory="50 MiB")
    assert "predictions (76.29 MiB)" in str(error.value)
    least = float(str(error.value).split("at least ")[1].split()[0])
    assert memory_plan(SIZES, max_memory=f"{least + 0.01} MiB").total <= (least + 0.01) * 2**20


def test_more_work_is_estimated_for_more_of_everything():
    base = memory_plan(SIZES).flops
    for more in (
        FoldSizes.even(2000, 3072, 10_000, 20),
        FoldSizes.even(1000, 6000, 10_000, 20),
        FoldSizes.even(1000, 3072, 20_000, 20),
        FoldSizes.even(1000, 3072, 10_000, 40),
        FoldSizes.even(1000, 3072, 10_000, 20, n_outer=8),
    ):
        assert memory_plan(more).flops > base
    assert memory_plan(SIZES, selection="gcv").flops < base < memory_plan(SIZES, standardize=True).flops


@pytest.mark.parametrize("shape", [(200, 60), (150, 400)])
@pytest.mark.parametrize("selection", ["kfold", "gcv", "loo"])
@pytest.mark.slow
def test_a_bounded_fit_gives_the_same_numbers(shape, selection):
    rng = np.random.default_rng(0)
    X = rng.standard_normal(shape)
    Y = X[:, :50] @ rng.standard_normal((50, 700)) + 9 * rng.standard_normal((shape[0], 700))
    outer = list(stats.make_folds(range(shape[0]), 3))
    inner = [list(stats.make_folds(range(len(a)), 3)) for a, _ in outer]
    options = {
        "alphas": np.logspace(0, 5, 8), "outer": outer, "inner": inner, "selection": selection, "precision": "mixed",
        "threads": 1,
    }  # fmt: skip
    free = nested_ridge(X, Y, **options)
    with pytest.raises(InputError, match="at least") as error:
        nested_ridge(X, Y, max_memory="100 KiB", **options)
    least = str(error.value).split("at least ")[1].split(" are")[0]
    number, unit = least.split()
    bound = nested_ridge(X, Y, max_memory=f"{float(number) + 0.01} {unit}", **options)
    same = bound.alpha == free.alpha
    assert same.mean() > 0.999  # a near tie may fall the other way
    assert np.allclose(bound.loss, free.loss, rtol=1e-5)
    assert np.allclose(bound.r[same], free.r[same], atol=1.4e-6)


def test_prediction_operators_are_in_the_plan_or_not_made(monkeypatch):
    sizes = FoldSizes.even(1000, 3072, 10_000, 100, n_outer=2)
    need = 100 * 500 * 500 * 8
    free = memory_plan(sizes)
    assert free.operators >= need
    least = memory_plan(sizes, max_memory="280 MiB")
    assert least.total <= 280 * 2**20
    held = sum(least.parts.get(name, 0) for name in ("triangles", "operators being made", "prediction operators"))
    assert least.operators == held < need

    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((80, 100)), rng.standard_normal((80, 300))
    outer = list(stats.make_folds(range(80), 2))
    inner = [list(stats.make_folds(range(40), 3))] * 2
    task = make_task(X.shape, 300, np.logspace(0, 3, 4), outer, inner, selection="kfold", standardize=False,
                     precision="float64", max_memory=None)  # fmt: skip
    made = []
    filters = Basis.filters
    monkeypatch.setattr(Basis, "filters", lambda basis, alphas: made.append(len(alphas)) or filters(basis, alphas))
    results, counts = [], []
    for operators in (2**30, 0):
        made.clear()
        with working(1) as workers:
            rows, where = np.arange(80), torch.device("cpu")
            targets = Targets(Y, [train for train, _ in outer], rows, where, workers, 512)
            own = replace(task, plan=replace(task.plan, operators=operators))
            results.append(fit_nested(own, X, Y, targets, outer, inner, where, workers))
        counts.append(len(made))
    assert counts[0] > counts[1]
    assert np.allclose(results[0].prediction, results[1].prediction)


def test_weights_are_made_without_a_block_of_all_penalties():
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((60, 900)), rng.standard_normal((60, 400)).astype(np.float32)
    stats.ridge_cv(X, Y, alphas=[1.0, 2.0])
    tracemalloc.start()
    fit = stats.ridge_cv(X, Y, alphas=np.logspace(0, 5, 30))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert fit.coef.nbytes == 900 * 400 * 8
    assert peak < 3 * fit.coef.nbytes


def test_ridge_cv_says_what_weights_take():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="weights"):
        stats.ridge_cv(
            rng.standard_normal((20, 3000)), rng.standard_normal((20, 500)), alphas=[1.0, 2.0], max_memory="1 MiB"
        )
