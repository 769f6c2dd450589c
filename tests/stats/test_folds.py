import numpy as np
import pytest

from topobrain import stats
from topobrain._checks import InputError, UnknownNameError
from topobrain.stats.folds import check_gap, check_leaks, given_folds


def random_groups(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, rng.integers(3, 30), size=rng.integers(2, 25))
    groups = np.repeat(np.arange(len(sizes)), sizes)
    return rng.permutation(groups) if seed % 2 else groups


def held_together(splits, groups):
    return all(not set(groups[train]) & set(groups[test]) for train, test in splits)


@pytest.mark.parametrize("scheme", ["contiguous", "shuffled"])
def test_random_groups_are_never_split_and_every_row_is_tested_once(scheme):
    for seed in range(150):
        groups = random_groups(seed)
        n_groups = len(set(groups.tolist()))
        for n_folds in {2, (2 + n_groups) // 2, n_groups}:
            folds = stats.make_folds(groups, n_folds, scheme=scheme, seed=seed)
            assert len(folds) == n_folds
            assert np.array_equal(np.sort(np.concatenate([test for _, test in folds])), np.arange(len(groups)))
            assert all(test.size > 0 for _, test in folds)
            assert all(len(train) + len(test) == len(groups) for train, test in folds)
            assert held_together(folds, groups)


def test_independent_rows_give_contiguous_blocks_of_equal_size():
    folds = stats.make_folds(range(20), 5)
    assert [test.tolist() for _, test in folds] == [list(range(i, i + 4)) for i in range(0, 20, 4)]
    assert {len(test) for _, test in stats.make_folds(range(23), 5)} <= {4, 5}


def test_fold_sizes_stay_close_when_groups_are_small():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(100), rng.integers(1, 6, size=100))
    sizes = [len(test) for _, test in stats.make_folds(groups, 5)]
    assert max(sizes) - min(sizes) <= 6


def test_shuffled_folds_follow_the_seed():
    def blocks(seed):
        return [test.tolist() for _, test in stats.make_folds(range(30), 3, scheme="shuffled", seed=seed)]

    assert blocks(1) == blocks(1)
    assert blocks(1) != blocks(2)
    assert blocks(1) != [list(range(i, i + 10)) for i in (0, 10, 20)]


def test_gap_drops_exactly_that_many_training_rows_on_either_side():
    folds = stats.make_folds(range(40), 4, gap=3)
    train, test = folds.splits[1]
    assert test.tolist() == list(range(10, 20))
    assert train.tolist() == [*range(7), *range(23, 40)]
    assert folds.splits[0][0].tolist() == list(range(13, 40))


def test_gap_counts_in_positions_when_rows_are_a_subset():
    positions = np.array([0, 1, 2, 10, 11, 12, 13, 20])
    train, test = stats.make_folds(range(8), 4, gap=2, positions=positions).splits[0]
    assert test.tolist() == [0, 1]
    assert train.tolist() == [3, 4, 5, 6, 7]


def test_more_folds_than_groups_is_refused_with_the_count():
    with pytest.raises(InputError, match=r"in 3 groups.*2 to 3 folds"):
        stats.make_folds(["a", "a", "b", "c"], 4)
    with pytest.raises(InputError):
        stats.make_folds(range(10), 1)


def test_rows_of_a_single_group_cannot_be_held_out():
    with pytest.raises(InputError, match="one group"):
        stats.make_folds(["a"] * 5, 2)


def test_a_gap_that_eats_all_training_rows_is_refused():
    with pytest.raises(InputError, match="smaller gap"):
        stats.make_folds(range(10), 2, gap=20)
    with pytest.raises(InputError, match="gap"):
        stats.make_folds(range(10), 2, gap=-1)
    with pytest.raises(UnknownNameError, match="shuffled"):
        stats.make_folds(range(10), 2, scheme="shufled")


def test_test_fold_numbers_the_rows():
    assert stats.make_folds(range(6), 3).test_fold(6).tolist() == [0, 0, 1, 1, 2, 2]
    assert stats.Folds(((np.array([0, 1]), np.array([3])),), "given").test_fold(5).tolist() == [-1, -1, -1, 0, -1]


def test_duplicates_ignore_case_and_white_space():
    assert stats.duplicate_groups(["A dog", " a dog ", "a  dog", "cat"]).tolist() == [0, 0, 0, 1]
    assert stats.duplicate_groups([3, 1, 3]).tolist() == [0, 1, 0]


def test_merging_follows_chains():
    merged = stats.merge_groups(["a", "a", "b", "c", "d"], [0, 1, 1, 2, 2], [5, 6, 7, 8, 9])
    assert merged.tolist() == [0, 0, 0, 1, 1]
    with pytest.raises(InputError, match="3 rows, expected 2"):
        stats.merge_groups([0, 1], [0, 1, 2])


def test_merging_equals_a_slow_transitive_closure():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        a, b = rng.integers(0, 12, size=(2, 15))
        together = (a[:, None] == a) | (b[:, None] == b)
        for _ in range(15):
            together = (together.astype(int) @ together) > 0
        merged = stats.merge_groups(a, b)
        assert np.array_equal(merged[:, None] == merged, together)


def test_leaks_are_named():
    folds = stats.make_folds(range(6), 3)
    check_leaks(folds, np.arange(6), list("abcdef"), list("xxyyzz"))
    with pytest.raises(InputError, match=r"fold 0 has 1 stimulus\(s\).*: a dog"):
        check_leaks(folds, np.array([0, 1, 2, 3, 4, 0]), ["a dog", "b", "c", "d", "e", "A dog"], None)
    with pytest.raises(InputError, match=r"fold 0 has 1 group\(s\).*: p\..*allow_duplicates"):
        check_leaks(folds, np.arange(6), list("abcdef"), ["q", "p", "p", "r", "r", "r"])


# --- runs, gaps, and one group a fold


def slow_distance(row, test, positions, runs):
    near = [abs(positions[row] - positions[t]) for t in test if runs[t] == runs[row]]
    return min(near, default=np.inf)


@pytest.mark.parametrize("scheme", ["contiguous", "shuffled", "leave-one-out", "within-runs"])
def test_every_scheme_keeps_groups_whole_gaps_open_and_tests_each_row_once(scheme):
    made = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        runs = np.repeat(np.arange(3), rng.integers(12, 20, size=3))
        n = len(runs)
        groups = runs * 100 + np.concatenate([np.arange(k) // rng.integers(1, 4) for k in np.bincount(runs)])
        positions = np.cumsum(rng.uniform(0.5, 1.5, size=n))  # no clock stops here, so a gap could reach across
        gap = float(rng.uniform(0, 3)) if scheme != "shuffled" else 0.6
        n_folds = None if scheme == "leave-one-out" else 3
        try:
            folds = stats.make_folds(groups, n_folds, scheme=scheme, gap=gap, positions=positions, runs=runs, seed=seed)
        except InputError:
            continue  # a shuffled fold whose gap ate its training rows
        made += 1
        assert np.array_equal(np.sort(np.concatenate([test for _, test in folds])), np.arange(n))
        assert held_together(folds, groups)
        for train, test in folds:
            rest = np.setdiff1d(np.arange(n), test)
            kept = [row for row in rest if slow_distance(row, test, positions, runs) > gap]
            assert train.tolist() == kept
    assert made > 50


def test_leave_one_out_makes_a_fold_a_group_in_order():
    folds = stats.make_folds(["r2", "r2", "r1", "r3", "r1"], scheme="leave-one-out")
    assert [test.tolist() for _, test in folds] == [[0, 1], [2, 4], [3]]
    assert folds.scheme == "leave-one-out"
    assert len(stats.make_folds(range(5), 5, scheme="leave-one-out")) == 5
    with pytest.raises(InputError, match=r"one fold a group: 5 groups, but n_folds=3"):
        stats.make_folds(range(5), 3, scheme="leave-one-out")


def test_leaving_out_a_run_with_repeated_stimuli_leaves_out_what_hangs_together():
    runs, items = [1, 1, 2, 2, 3, 3], ["a", "b", "b", "c", "d", "e"]
    groups = stats.merge_groups(runs, stats.duplicate_groups(items))
    folds = stats.make_folds(groups, scheme="leave-one-out")
    assert [test.tolist() for _, test in folds] == [[0, 1, 2, 3], [4, 5]]


def test_a_gap_stops_at_the_border_of_a_run():
    runs = np.repeat(["a", "b"], 10)
    train, test = stats.make_folds(range(20), 4, gap=3, runs=runs).splits[1]
    assert test.tolist() == list(range(5, 10))
    assert train.tolist() == [0, 1, *range(10, 20)]
    assert stats.make_folds(range(20), 4, gap=3).splits[1][0].tolist() == [0, 1, *range(13, 20)]


def test_blocks_within_runs_test_a_part_of_every_run():
    runs = np.repeat([0, 1], [9, 6])
    train, test = stats.make_folds(range(15), 3, scheme="within-runs", runs=runs, gap=1).splits[1]
    assert test.tolist() == [3, 4, 5, 11, 12]
    assert train.tolist() == [0, 1, 7, 8, 9, 14]
    with pytest.raises(InputError, match="give runs="):
        stats.make_folds(range(15), 3, scheme="within-runs")
    with pytest.raises(InputError, match=r"a run of 2 rows in 2 groups into 3 folds"):
        stats.make_folds(range(8), 3, scheme="within-runs", runs=[0] * 6 + [1] * 2)
    with pytest.raises(InputError, match=r"row 5 lies in two runs.*leave-one-out"):
        stats.make_folds([0, 1, 2, 3, 4, 9, 9, 5, 6, 7, 8, 10], 2, scheme="within-runs", runs=[0] * 6 + [1] * 6)


def test_bad_labels_and_numbers_of_folds_are_named():
    with pytest.raises(InputError, match="needs a number of folds, 2 to 10"):
        stats.make_folds(range(10))
    with pytest.raises(InputError, match="runs have 3 labels for 10 rows"):
        stats.make_folds(range(10), 2, runs=[1, 2, 3])
    with pytest.raises(InputError, match="positions are one finite number a row: expected 10"):
        stats.make_folds(range(10), 2, gap=1, positions=[0, 1, 2])
    with pytest.raises(InputError, match="finite"):
        stats.make_folds(range(3), 2, gap=1, positions=[0.0, np.nan, 1.0])
    with pytest.raises(InputError, match="gap must be 0 or more rows, got nan"):
        stats.make_folds(range(10), 2, gap=float("nan"))


def test_given_folds_are_pairs_or_numbers():
    folds = given_folds([([0, 1], [2]), ([1, 2], [0])], 4)
    assert folds.scheme == "given"
    assert [test.tolist() for _, test in folds] == [[2], [0]]
    made = stats.make_folds(range(12), 3)
    again = given_folds(made.test_fold(12), 12)
    assert all(np.array_equal(a, b) for x, y in zip(made, again, strict=True) for a, b in zip(x, y, strict=True))
    assert len(given_folds(made, 12)) == 3


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ([([0, 1], [1, 2])], r"fold 0 has rows in both training and test: 1"),
        ([([0, 1], [2]), ([0, 1], [2])], "test rows do not overlap"),
        ([([0, 1], [9])], r"fold 0 is empty or names rows outside 0\.\.3"),
        ([([0, 1], [])], "fold 0 is empty"),
        ([5], r"fold 0 is no \(train, test\) pair"),
        ([], "one or more"),
        ([([0.5, 1.7], [2])], r"fold 0 is no .* rows must be whole numbers, got 0\.5, 1\.7"),
        ([([0, 1], [np.nan])], "whole numbers, got nan"),
        ([([True, False, True], [1])], r"np\.flatnonzero\(mask\)"),
        ([(["0", "1"], [2])], "values of type <U1"),
        ([([0, 1], [2]), ([1, 0, 1, 1], [3])], r"fold 1 names training rows more than once: 1;"),
        (np.array([0, 1]), "number 2 rows, expected 4"),
        (np.array([-1, -1, -1, -1]), "one or more"),
    ],
)
def test_folds_that_cannot_be_used_are_explained(splits, message):
    with pytest.raises(InputError, match=message):
        given_folds(splits, 4)


def test_numbers_of_folds_that_are_not_whole_are_refused():
    for n_folds in (2.5, 5.0, "5", True):
        for scheme in ("contiguous", "leave-one-out"):
            with pytest.raises(InputError, match="n_folds must be a whole number, 2 to 10"):
                stats.make_folds(range(10), n_folds, scheme=scheme)
    assert len(stats.make_folds(range(10), np.int64(5))) == 5
    assert given_folds([([0.0, 1.0], [2])], 3).splits[0][0].dtype == np.int64


def test_given_folds_that_keep_the_gap_pass():
    runs = np.repeat(["a", "b"], 20)
    check_gap(stats.make_folds(range(40), 4, gap=3, runs=runs), 3, runs)
    check_gap(given_folds([(np.arange(20), np.arange(20, 40))], 40), 6, runs)  # neighbours, but of two runs
    every_other = given_folds([(np.arange(0, 40, 2), np.arange(1, 40, 2))], 40)
    check_gap(every_other, 0, runs)
    check_gap(every_other, 3, np.arange(40))
    check_gap(every_other, 3, None, positions=10.0 * np.arange(40))


def test_given_folds_that_train_within_the_gap_are_named():
    runs = np.repeat(["a", "b"], 20)
    folds = given_folds([(np.arange(10, 40), np.arange(5)), (np.r_[0:20, 23:40], [20, 21])], 40)
    check_gap(folds, 1, runs)
    with pytest.raises(
        InputError, match=r"fold 1 trains on 2 row\(s\) within the gap of 3 .*row 23 is 2 from test row 21"
    ):
        check_gap(folds, 3, runs)
    with pytest.raises(
        InputError, match=r"fold 0 trains on 1 row\(s\) within the gap of 6 .*row 10 is 6 from test row 4"
    ):
        check_gap(folds, 6, runs)
    with pytest.raises(InputError, match=r"fold 1 .*row 19 is 1 from test row 20 of the same run.*gap=0"):
        check_gap(folds, 1, None)
    check_gap(folds, 1, None, positions=2 * np.arange(40))
    with pytest.raises(InputError, match="gap must be 0 or more"):
        check_gap(folds, -1, runs)
    with pytest.raises(InputError, match="name row 39, but runs or positions have 10 rows"):
        check_gap(folds, 1, runs[:10])
