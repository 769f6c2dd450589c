"""Generalised cross-validation from products made beside the decomposition: what projecting the rows would give."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from topobrain.stats import make_folds, nested_ridge
from topobrain.stats.ridge import closed_form, memory
from topobrain.stats.ridge.memory import FoldSizes, memory_plan

GRID = np.logspace(-2, 5, 12)


def tall(seed=0, n=300, p=40, v=60):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) * np.arange(1, p + 1) ** -0.5 + rng.standard_normal(p)
    Y = X @ rng.standard_normal((p, v)) * rng.uniform(0, 1, v) + 3 * rng.standard_normal((n, v)) + 10
    return X, Y


def fit(X, Y, **options):
    outer = list(make_folds(range(len(X)), 4))
    given = {"alphas": GRID, "outer": outer, "inner": [[]] * 4, "selection": "gcv", "precision": "float64", **options}
    return nested_ridge(X, Y, **given)


@pytest.fixture
def crossings(monkeypatch):
    """Count the folds whose products were made, and those whose products were used."""
    count = {"made": 0, "used": 0}
    made, used = closed_form.Crossed.tasks, closed_form.Crossed.ready

    def tasks(self, tile):
        count["made"] += 1
        return made(self, tile)

    def ready(self, basis):
        count["used"] += 1
        return used(self, basis)

    monkeypatch.setattr(closed_form.Crossed, "tasks", tasks)
    monkeypatch.setattr(closed_form.Crossed, "ready", ready)
    return count


def projected(monkeypatch, X, Y, **options):
    with monkeypatch.context() as patch:
        patch.setattr(memory, "EIGH_PRODUCTS", -(10**9))
        return fit(X, Y, **options)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize(("precision", "atol"), [("float64", 1e-10), ("float32", 2e-5)])
def test_products_give_what_projections_give(precision, atol, standardize, crossings, monkeypatch):
    X, Y = tall()
    X[:, 3] = 7.0  # constant
    Y[5, 2], Y[:, 4] = np.nan, 1.0
    options = {"precision": precision, "standardize": standardize}
    found = fit(X, Y, **options)
    assert crossings == {"made": 4, "used": 4}
    wanted = projected(monkeypatch, X, Y, **options)
    assert crossings["made"] == 4
    assert np.isnan(found.r[:, [2, 4]]).all()
    assert found.n_unusable == 2
    assert np.array_equal(found.alpha, wanted.alpha, equal_nan=True)
    for name in ("r", "prediction", "loss"):
        assert np.allclose(getattr(found, name), getattr(wanted, name), rtol=atol, atol=atol, equal_nan=True), name


def test_predictions_are_those_of_ridge_at_the_chosen_penalties(crossings):
    X, Y = tall(v=5)
    found = fit(X, Y)
    assert crossings["used"] == 4
    for (train, test), alphas in zip(make_folds(range(len(X)), 4), found.alpha, strict=True):
        wanted = Ridge(alphas).fit(X[train], Y[train]).predict(X[test])
        assert np.allclose(found.prediction[test], wanted, rtol=1e-9)


def test_the_number_of_threads_changes_nothing():
    X, Y = tall(n=1500, p=300, v=1300)
    one, two = (fit(X, Y, precision="float32", threads=threads) for threads in (1, 2))
    assert np.array_equal(one.alpha, two.alpha)
    assert np.array_equal(one.r, two.r)


def test_weak_directions_are_projected_in_float64(crossings, monkeypatch):
    X, Y = tall()
    X[:, -5:] *= 1e-5
    options = {"precision": "float32", "alphas": [1e-9, 1e-3, 1.0]}
    found = fit(X, Y, **options)
    assert crossings == {"made": 4, "used": 0}
    assert np.array_equal(found.r, projected(monkeypatch, X, Y, **options).r)


def test_products_are_made_only_where_they_pay_and_fit():
    sizes = FoldSizes.even(5000, 1600, 5000, 20)
    roomy = memory_plan(sizes, selection="gcv", precision="float32")
    assert roomy.crossed
    assert roomy.parts["products of features and responses"] == 4 * 1600 * (5000 + 4000)
    last = ("products of features and responses", "prediction operators")
    without = sum(size for name, size in roomy.parts.items() if name not in last)
    assert not memory_plan(sizes, selection="gcv", precision="float32", max_memory=without + 2**20).crossed
    assert memory_plan(sizes, selection="gcv", precision="float32", max_memory=roomy.total).crossed
    for other in (
        FoldSizes.even(5000, 1600, 50_000, 20),
        FoldSizes.even(1000, 768, 100, 20),
        FoldSizes.even(100, 300, 50, 20),
    ):
        assert not memory_plan(other, selection="gcv", precision="float32").crossed
    assert not memory_plan(sizes, selection="kfold", precision="float32").crossed


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_responses_in_float32_keep_their_digits_far_from_zero(offset):
    X, Y = tall()
    Y = (Y - 10 + offset).astype(np.float32)
    exact = fit(X, Y.astype(np.float64))
    found = fit(X, Y, precision="float32")
    assert np.allclose(found.r, exact.r, atol=1e-5)
    assert np.allclose(found.alpha, exact.alpha)


@pytest.mark.parametrize("size", [1e-40, 1e-36, 1e-20, 1e20, 1e36])
def test_the_scale_of_float32_responses_does_not_matter(size):
    X, Y = tall()
    Y = ((Y - 10) * size).astype(np.float32)
    exact, found = fit(X, Y.astype(np.float64) / size), fit(X, Y, precision="float32")
    assert np.allclose(found.r, exact.r, atol=1e-5 if size > 1e-38 else 1e-2)  # predictions of 1e-40 have few digits
    assert np.array_equal(found.alpha, exact.alpha)


@pytest.mark.parametrize("precision", ["float32", "mixed"])
@pytest.mark.parametrize("selection", ["kfold", "gcv"])
def test_training_rows_far_from_the_other_rows_keep_their_digits(selection, precision):
    """Two sessions whose features differ by an offset; each is trained on alone."""
    X, Y = tall(n=240, p=30, v=40)
    X[:120] += 1e5
    rows = np.arange(240)
    outer = [(rows[120:], rows[:120]), (rows[:120], rows[120:])]
    options = {"outer": outer, "inner": [list(make_folds(range(120), 4))] * 2, "selection": selection}
    exact, found = fit(X, Y, **options), fit(X, Y, precision=precision, **options)
    assert np.array_equal(found.alpha, exact.alpha)
    assert np.allclose(found.loss, exact.loss, rtol=1e-5)
    if precision == "mixed":  # predictions in float32 hold the other session's offset
        assert np.allclose(found.r, exact.r, atol=1e-6)
