from __future__ import annotations

import numpy as np
import pytest
from made_studies import QUICK, made_activations, made_responses

from topobrain._checks import InputError
from topobrain.encoding.cross_validation import Design
from topobrain.encoding.parts import PartOptions, encode_part
from topobrain.encoding.scoring import prepare
from topobrain.jobs.costs import hours, job_cost, product_rate
from topobrain.jobs.sealed_files import write_sealed
from topobrain.jobs.studies import settled_options
from topobrain.stats.folds import make_folds
from topobrain.stats.ridge.memory import FoldSizes, memory_plan

ALPHAS = tuple(np.logspace(0, 7, 20).tolist())


def design(n: int, n_folds: int = 5) -> Design:
    return Design(make_folds(np.arange(n), n_folds), np.arange(n), 5, "contiguous", 0, False, 0)


def options(**changed) -> PartOptions:
    return PartOptions(**{"alphas": ALPHAS, "n_bootstrap": 0, "standardize": False, **changed})


def test_the_fit_counts_as_the_engine_counts_it():
    cost = job_cost(design(1000), 768, 10_000, 4, options())
    plan = memory_plan(FoldSizes.even(1000, 768, 10_000, 20))
    assert cost.operations == plan.flops
    assert cost.precision == plan.precision == "mixed"
    assert cost.memory > plan.total + 4 * 1000 * 768 + 8 * 1000 * 10_000


def test_permutations_draws_and_voxels_add_up():
    def count(v: int, **changed) -> float:
        return job_cost(design(200), 50, v, 2, options(precision="float64", **changed)).operations

    assert count(100, n_permutations=10) - count(100) == pytest.approx(10 * 5 * 2 * 160 * 40 * 100)
    assert count(100, n_bootstrap=10) - count(100) == pytest.approx(10 * 5 * 2 * 5 * 40 * 100)
    # what does not depend on voxels is paid by every job
    assert 2 * count(100) > count(200) > count(100)


def test_a_bound_on_memory_that_is_too_small_is_told_and_one_that_fits_is_kept():
    bound = memory_plan(FoldSizes.even(1000, 768, 10_000, 20)).total
    cost = job_cost(design(1000), 768, 10_000, 4, options(max_memory=bound))
    assert cost.memory <= bound + 4 * 1000 * 768 + 8 * 1000 * 10_000 + cost.disk
    with pytest.raises(InputError, match="too small"):
        job_cost(design(1000), 768, 10_000, 4, options(max_memory="1 MiB"))


def test_the_size_of_a_part_is_about_that_of_its_file(tmp_path):
    study = prepare(made_activations(), made_responses(n_voxels=40), **QUICK)
    X, Y = made_activations().values("layer0"), study.responses.values
    part = encode_part(X, Y, study.design, np.zeros(40, dtype=int), n_regions=1, options=study.options)
    write_sealed(tmp_path / "a.npz", part, "key")
    expected = job_cost(study.design, X.shape[1], 40, 1, study.options).disk
    assert (tmp_path / "a.npz").stat().st_size == pytest.approx(expected, rel=0.2)


def test_precision_is_chosen_for_all_voxels_at_once():
    many = settled_options(design(1000), {"small": 10, "large": 3072}, 100_000, options())
    assert [many[layer].precision for layer in ("small", "large")] == ["mixed", "mixed"]
    few = settled_options(design(100), {"small": 10}, 10, options(max_memory="1 GiB"))
    assert (few["small"].precision, few["small"].max_memory) == ("float64", "1 GiB")
    given = settled_options(design(100), {"small": 10}, 10, options(precision="float32"))
    assert given["small"].precision == "float32"


def test_hours_are_shared_and_no_job_is_divided():
    assert hours([3600.0] * 4) == pytest.approx(4.0)
    assert hours([3600.0] * 4, n_workers=2) == pytest.approx(2.0)
    assert hours([3 * 3600.0, 3600.0], n_workers=8) == pytest.approx(3.0)
    assert hours([]) == 0.0


def test_the_rate_is_that_of_a_machine():
    assert 1e7 < product_rate("float64", 0.01) < 1e15
    assert 1e7 < product_rate("float32", 0.01) < 1e15
