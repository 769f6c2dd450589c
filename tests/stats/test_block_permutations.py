"""Permutations of blocks: a group, sums from a table, and an honest null."""

import numpy as np
import pytest
import torch

from topobrain import stats
from topobrain._checks import InputError
from topobrain.stats import permuted_scores
from topobrain.stats.block_permutations import BLOCKS, FEWEST_ROWS, block_orders
from topobrain.stats.permuted_orders import permuted_rows


@pytest.mark.parametrize("n_rows", [400, 627, 1000, 1013])
def test_every_order_holds_every_row_once_and_moves_blocks_as_wholes(n_rows):
    orders = block_orders(n_rows, 50, seed=3)
    rows = orders.rows
    assert np.array_equal(np.sort(rows, axis=1), np.tile(np.arange(n_rows), (50, 1)))
    assert len(orders.blocks) in BLOCKS
    assert orders.rest.size < len(orders.blocks)
    held = {tuple(block) for block in orders.blocks.tolist()}
    for row in rows[:5]:
        for place in orders.blocks:
            assert tuple(row[place].tolist()) in held


def test_orders_of_one_dealing_are_a_group():
    orders = block_orders(420, 2, seed=0)
    first, second = orders.rows
    both = first[second]
    held = {tuple(block) for block in orders.blocks.tolist()}
    assert all(tuple(both[place].tolist()) in held for place in orders.blocks)
    back = np.argsort(first)
    assert all(tuple(back[place].tolist()) in held for place in orders.blocks)


def test_orders_depend_on_the_seed_alone_and_differ():
    first, again, other = (block_orders(500, 20, seed=seed).rows for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(np.unique(first, axis=0)) == 20


@pytest.mark.parametrize("n_rows", [400, 437])
def test_a_table_adds_up_to_the_product_with_permuted_values(n_rows):
    rng = np.random.default_rng(0)
    orders = block_orders(n_rows, 7, seed=0)
    weights, values = (
        torch.from_numpy(rng.standard_normal((5, n_rows))),
        torch.from_numpy(rng.standard_normal((n_rows, 3))),
    )
    table = orders.table(orders.placed(weights), orders.dealt(values))
    for row, entries in zip(orders.rows, orders.entries(), strict=True):
        assert torch.allclose(table[torch.from_numpy(entries)].sum(dim=0), weights @ values[row], atol=1e-10)


def test_blocks_are_dealt_at_random():
    blocks = np.sort(block_orders(449, 1, seed=3).blocks, axis=1)
    assert (np.diff(blocks, axis=1) > 1).mean() > 0.8  # hardly a row is beside its neighbour in the true order


def test_rows_left_over_change_places():
    orders = block_orders(449, 200, seed=3)
    assert orders.rest.size == 8
    given = orders.rows[:, orders.rest]
    assert np.array_equal(np.sort(given, axis=1), np.tile(np.sort(orders.rest), (200, 1)))
    assert (given != orders.rest).mean() == pytest.approx(7 / 8, abs=0.04)
    assert len(np.unique(given, axis=0)) > 190


def test_too_few_rows_are_refused():
    with pytest.raises(InputError, match="19 rows cannot be dealt into 20 blocks"):
        block_orders(19, 5, seed=0)


@pytest.mark.parametrize("n_permutations", [0, -1, 2.0, True])
def test_no_permutations_are_refused(n_permutations):
    with pytest.raises(InputError, match="n_permutations must be a whole number of 1 or more"):
        block_orders(400, n_permutations, 0)


def study(n_rows, n_voxels, seed, signal=0.0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_rows, 8))
    Y = signal * X @ rng.standard_normal((8, n_voxels)) + rng.standard_normal((n_rows, n_voxels))
    folds = stats.make_folds(range(n_rows), 4)
    return X, Y, folds


def refitted(X, Y, folds, penalties):
    """Return r (fold, voxel) of ridge regressions fitted one by one with numpy."""
    found = np.empty((len(folds), Y.shape[1]))
    for fold, (train, test) in enumerate(folds):
        mean = X[train].mean(axis=0)
        centred, target = X[train] - mean, Y[train] - Y[train].mean(axis=0)
        gram = centred.T @ centred
        for penalty in np.unique(penalties[fold]):
            own = np.flatnonzero(penalties[fold] == penalty)
            weights = np.linalg.solve(gram + penalty * np.eye(X.shape[1]), centred.T @ target[:, own])
            predicted, wanted = (X[test] - mean) @ weights, Y[np.ix_(test, own)]
            predicted, wanted = predicted - predicted.mean(axis=0), wanted - wanted.mean(axis=0)
            size = np.linalg.norm(predicted, axis=0) * np.linalg.norm(wanted, axis=0)
            found[fold, own] = (predicted * wanted).sum(axis=0) / size
    return found


def test_scores_from_blocks_equal_fitting_and_scoring_anew():
    X, Y, folds = study(FEWEST_ROWS, 20, 0, signal=0.3)
    alphas = np.array([0.5, 40.0])
    chosen = np.tile(alphas[np.arange(20) % 2], (len(folds), 1))
    found = permuted_scores(X, Y, folds, chosen, np.arange(20), n_regions=20, n_permutations=6, seed=5)
    for number, order in enumerate(block_orders(len(Y), 6, seed=5).rows):
        expected = refitted(X, Y[order], folds, chosen)
        assert np.abs(found.sums[:, :, number] - expected).max() < 2e-3


def test_the_null_of_blocks_is_as_wide_as_that_of_free_permutations():
    X, Y, folds = study(500, 60, 1, signal=0.2)
    chosen = np.full((len(folds), 60), 10.0)
    blocked = permuted_scores(X, Y, folds, chosen, np.arange(60), n_regions=60, n_permutations=400)
    r = np.zeros((60, 100))
    for draw, order in enumerate(permuted_rows(500, 100, "stimuli", 9)):
        r[:, draw] = refitted(X, Y[order], folds, chosen).mean(axis=0)
    ours = blocked.sums.mean(axis=0)
    true = refitted(X, Y, folds, chosen).mean()
    assert r.mean() == pytest.approx(0, abs=0.004)
    # one block in twenty stays in its place, and with it what is true of its rows
    assert -0.004 < ours.mean() < true / BLOCKS[0] + 0.004
    assert (ours.std(axis=1) / r.std(axis=1)).mean() == pytest.approx(1, abs=0.08)


@pytest.mark.slow
def test_p_values_of_noise_are_uniform():
    p = []
    for seed in range(40):
        X, Y, folds = study(FEWEST_ROWS, 25, seed)
        chosen = np.full((len(folds), 25), 50.0)
        observed = refitted(X, Y, folds, chosen)
        found = permuted_scores(
            X, Y, folds, chosen, np.zeros(25, dtype=int), n_regions=1, observed=observed, n_permutations=199, seed=seed
        )
        p += ((1 + found.at_least) / 200).tolist()
    share = np.mean(np.array(p) <= 0.05)
    assert 0.03 < share < 0.07  # 1,000 tests: .05 +- .007
    assert np.mean(p) == pytest.approx(0.5, abs=0.04)
