import numpy as np
import pytest
from scipy import stats as scipy_stats

from topobrain import stats
from topobrain._checks import InputError, UnknownNameError
from topobrain.stats import label_permutations

TESTS = {"student": stats.student_t, "welch": stats.welch_t}


def noise(n_on, n_off, units, seed=0, whole=False):
    rng = np.random.default_rng(seed)
    values = (
        rng.integers(0, 4, (n_on + n_off, units)).astype(float) if whole else rng.standard_normal((n_on + n_off, units))
    )
    values[:n_on, : units // 2] += 1
    return values[:n_on], values[n_on:]


ALTERNATIVES = ("two-sided", "greater", "less")


def by_loop(on, off, labels, test):
    """t-maps of one labelling after the other."""
    pooled = np.concatenate([on, off])
    maps = np.stack([TESTS[test](pooled[label], pooled[~label]).t for label in labels])
    # a perfect separation, which has no t of its own, is as extreme as can be
    difference = np.stack([pooled[label].mean(axis=0) - pooled[~label].mean(axis=0) for label in labels])
    return np.where(np.isnan(maps), np.where(difference > 0, np.inf, -np.inf), maps)


def p_values(t, maps, alternative):
    """p and family-wise p beside permuted maps, ties up to rounding, the observed map added."""
    step = 1e-9 * (1 + np.abs(t))
    n = len(maps) + 1
    greater = (1 + (maps >= t - step).sum(axis=0)) / n
    less = (1 + (maps <= t + step).sum(axis=0)) / n
    p = {"greater": greater, "less": less, "two-sided": np.minimum(1, 2 * np.minimum(greater, less))}[alternative]
    extreme = {"greater": maps, "less": -maps, "two-sided": np.abs(maps)}[alternative].max(axis=1)
    size = {"greater": t, "less": -t, "two-sided": np.abs(t)}[alternative]
    return p, (1 + (extreme[:, None] >= size - step).sum(axis=0)) / n


@pytest.mark.parametrize("test", ["student", "welch"])
@pytest.mark.parametrize("sizes", [(15, 15), (11, 20)])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.slow
def test_p_equals_a_loop_over_the_same_permutations(test, sizes, whole):
    on, off = noise(*sizes, 12, whole=whole)
    maps = by_loop(on, off, stats.permuted_labels(*sizes, 1050, seed=3), test)
    t = TESTS[test](on, off).t
    for alternative in ALTERNATIVES:
        found = stats.label_permutation_test(on, off, n_permutations=1050, test=test, alternative=alternative, seed=3)
        p, p_max = p_values(t, maps, alternative)
        assert found.n_permutations == 1050
        assert np.array_equal(found.t, t)
        assert np.array_equal(found.p, p)
        assert np.array_equal(found.p_max, p_max)


def mean_difference(a, b, axis):
    return a.mean(axis=axis) - b.mean(axis=axis)


def students(a, b, axis):
    return scipy_stats.ttest_ind(a, b, axis=axis).statistic


def welchs(a, b, axis):
    return scipy_stats.ttest_ind(a, b, axis=axis, equal_var=False).statistic


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize(
    ("test", "statistic"), [("student", students), ("student", mean_difference), ("welch", welchs)]
)
@pytest.mark.parametrize("sizes", [(4, 4), (4, 5), (6, 3)])
def test_enumerated_p_equals_scipy_exactly(test, statistic, sizes, alternative):
    on, off = noise(*sizes, 9, seed=1)
    expected = scipy_stats.permutation_test(
        (on, off), statistic, vectorized=True, n_resamples=1000, alternative=alternative, axis=0
    )
    found = stats.label_permutation_test(on, off, n_permutations=1000, test=test, alternative=alternative)
    assert found.n_permutations == len(expected.null_distribution)
    assert np.array_equal(found.p, expected.pvalue)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("sizes", [(5, 5), (4, 6)])
def test_ties_are_counted_as_scipy_counts_them(sizes, alternative):
    on, off = noise(*sizes, 40, seed=2, whole=True)
    varies = np.isfinite(stats.student_t(on, off).t)
    expected = scipy_stats.permutation_test(
        (on, off), mean_difference, vectorized=True, n_resamples=np.inf, alternative=alternative, axis=0
    )
    found = stats.label_permutation_test(on, off, alternative=alternative, exact=True)
    assert np.array_equal(found.p[varies], expected.pvalue[varies])
    # random permutations that meet the ties in float32 first
    drawn = stats.label_permutation_test(on, off, n_permutations=5000, alternative=alternative, exact=False)
    assert np.abs(drawn.p - expected.pvalue)[varies].max() < 0.06


def test_float32_products_decide_nothing_that_float64_would_decide_otherwise(monkeypatch):
    on, off = noise(40, 40, 300, seed=4)
    on[:, :100], off[:, :100] = np.round(on[:, :100]), np.round(off[:, :100])  # many ties
    fast = stats.label_permutation_test(on, off, n_permutations=2000)
    monkeypatch.setattr(label_permutations, "FLOAT32_STIMULI", 0)
    slow = stats.label_permutation_test(on, off, n_permutations=2000)
    assert np.array_equal(fast.p, slow.p)
    assert np.array_equal(fast.p_max, slow.p_max)


@pytest.mark.parametrize("test", ["student", "welch"])
def test_blocks_do_not_matter(monkeypatch, test):
    on, off = noise(14, 17, 50, seed=5)
    whole = stats.label_permutation_test(on, off, n_permutations=1500, test=test)
    monkeypatch.setattr(label_permutations, "UNIT_BLOCK", 7)
    monkeypatch.setattr(label_permutations, "LABEL_BLOCK", 33)
    parts = stats.label_permutation_test(on, off, n_permutations=1500, test=test)
    assert np.array_equal(whole.p, parts.p)
    assert np.array_equal(whole.p_max, parts.p_max)


def test_order_of_units_scale_and_offset_do_not_matter():
    on, off = noise(14, 17, 50, seed=6)
    base = stats.label_permutation_test(on, off, n_permutations=1500)
    units = np.random.default_rng(0).permutation(50)
    moved = stats.label_permutation_test(on[:, units] * 37 + 1e5, off[:, units] * 37 + 1e5, n_permutations=1500)
    assert np.array_equal(moved.p, base.p[units])
    assert np.array_equal(moved.p_max, base.p_max[units])
    flipped = stats.label_permutation_test(-on, -off, n_permutations=1500)
    assert np.array_equal(flipped.p, base.p)


def test_order_of_stimuli_does_not_matter_where_all_partitions_are_counted():
    on, off = noise(4, 5, 30, seed=7)
    base = stats.label_permutation_test(on, off)
    moved = stats.label_permutation_test(on[::-1], off[[2, 0, 4, 1, 3]])
    swapped = stats.label_permutation_test(off, on)
    for other in (moved, swapped):
        assert np.array_equal(other.p, base.p)
        assert np.array_equal(other.p_max, base.p_max)


@pytest.mark.parametrize(("test", "sizes"), [("student", (20, 20)), ("welch", (13, 27))])
@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_p_is_uniform_on_noise(test, sizes, alternative):
    rng = np.random.default_rng(8)
    on, off = rng.standard_normal((sizes[0], 1500)), rng.standard_normal((sizes[1], 1500))
    found = stats.label_permutation_test(on, off, n_permutations=999, test=test, alternative=alternative)
    assert scipy_stats.kstest(found.p, "uniform").pvalue > 0.01
    assert np.abs(found.p - TESTS[test](on, off, alternative=alternative).p).max() < 0.15


def test_the_family_wise_p_errs_in_one_of_twenty_noise_maps():
    rng = np.random.default_rng(9)
    hits = []
    for seed in range(300):
        common = rng.standard_normal((24, 1))
        values = 0.5 * common + rng.standard_normal((24, 30))
        found = stats.label_permutation_test(values[:12], values[12:], n_permutations=99, seed=seed)
        hits.append(found.p_max.min() <= 0.05)
        assert (found.p_max >= found.p / 2 - 1e-12).all()
    assert 0.02 < np.mean(hits) < 0.09


def test_planted_units_are_found_and_no_others():
    rng = np.random.default_rng(10)
    planted = np.arange(200) < 20
    on = rng.standard_normal((240, 200)) + planted
    found = stats.label_permutation_test(on, rng.standard_normal((240, 200)), n_permutations=1999)
    assert (found.p[planted] == 2 / 2000).all()
    assert np.array_equal(found.p_max <= 0.01, planted)
    assert (found.p[planted][:, None] < found.p[~planted]).mean() > 0.99


def test_units_without_t_have_no_p_and_count_in_no_maximum():
    on, off = noise(10, 10, 8, seed=11)
    base = stats.label_permutation_test(on[:, :4], off[:, :4], n_permutations=1500)
    on[:, 4], off[:, 4] = 0.1, 0.1
    on[:, 5], off[:, 5] = 2.0, 1.0
    on[3, 6] = np.nan
    off[2, 7] = np.inf
    found = stats.label_permutation_test(on, off, n_permutations=1500)
    assert np.isnan([found.t[4:], found.p[4:], found.p_max[4:]]).all()
    assert np.array_equal(found.p[:4], base.p)
    assert np.array_equal(found.p_max[:4], base.p_max)
    nothing = stats.label_permutation_test(on[:, 4:], off[:, 4:])
    assert np.isnan(nothing.p_max).all()


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("n_pairs", [6, 9])
def test_pairs_that_swap_equal_scipy_exactly(n_pairs, alternative):
    on, off = noise(n_pairs, n_pairs, 7, seed=12)
    names = [f"pair {number}" for number in range(n_pairs)]
    order = np.random.default_rng(0).permutation(n_pairs)
    expected = scipy_stats.permutation_test(
        (on, off), mean_difference, permutation_type="samples", vectorized=True, n_resamples=1000,
        alternative=alternative, axis=0,
    )  # fmt: skip
    found = stats.label_permutation_test(
        on, off[order], n_permutations=1000, alternative=alternative, pairs=names + [names[i] for i in order]
    )
    assert found.n_permutations == 2**n_pairs
    assert np.array_equal(found.p, expected.pvalue)


@pytest.mark.parametrize("test", ["student", "welch"])
@pytest.mark.slow
def test_random_swaps_of_pairs_equal_a_loop_and_keep_pairs_apart(test):
    on, off = noise(14, 14, 6, seed=13)
    pairs = np.concatenate([np.arange(14), np.arange(14)[::-1]])
    labels = stats.permuted_labels(14, 14, 1200, seed=5, pairs=pairs)
    assert all((np.sort(pairs[label]) == np.arange(14)).all() for label in labels[:50])
    assert abs(labels.mean(axis=0) - 0.5).max() < 0.06
    found = stats.label_permutation_test(on, off, n_permutations=1200, test=test, seed=5, pairs=pairs)
    p, p_max = p_values(found.t, by_loop(on, off, labels, test), "two-sided")
    assert np.array_equal(found.p, p)
    assert np.array_equal(found.p_max, p_max)


def test_pairs_find_what_large_differences_between_pairs_hide():
    rng = np.random.default_rng(14)
    item = 10 * rng.standard_normal((30, 5))
    on, off = item + rng.standard_normal((30, 5)) + 1, item + rng.standard_normal((30, 5))
    names = np.tile(np.arange(30), 2)
    assert stats.label_permutation_test(on, off, n_permutations=2000).p.min() > 0.5
    assert stats.label_permutation_test(on, off, n_permutations=2000, pairs=names).p.max() < 0.02


def test_labels_are_seeded_fair_and_leave_the_global_generator_alone():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    labels = stats.permuted_labels(5, 8, 4000, seed=1)
    assert np.array_equal(labels, stats.permuted_labels(5, 8, 4000, seed=1))
    assert not np.array_equal(labels, stats.permuted_labels(5, 8, 4000, seed=2))
    assert (labels.sum(axis=1) == 5).all()
    assert abs(labels.mean(axis=0) - 5 / 13).max() < 0.03
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("sizes", [(9, 9), (7, 12)])
@pytest.mark.parametrize(
    "test",
    [
        stats.TTest(),
        stats.TTest(test="student"),
        stats.TTest(ddof=0, zero_variance="zero"),
        stats.TTest(test="student", ddof=0, rectify=True),
    ],
    ids=str,
)
def test_permuted_maps_are_the_t_maps_of_permuted_labels(sizes, test, monkeypatch):
    monkeypatch.setattr(label_permutations, "UNIT_BLOCK", 4)
    rng = np.random.default_rng(15)
    values = 5 + rng.standard_normal((25, 10))
    values[:, 2] = 0.3
    values[:, 6] = np.arange(25) == 4  # constant on both sides wherever stimulus 4 is left out
    side = rng.permutation(np.repeat([0, 1, -1], [*sizes, 25 - sum(sizes)]))
    maps = stats.permuted_t_maps(values, side == 0, side == 1, n_permutations=40, seed=2, test=test)
    pooled = np.concatenate([values[side == 0], values[side == 1]])
    for found, label in zip(maps, stats.permuted_labels(*sizes, 40, seed=2), strict=True):
        assert np.allclose(found, test.of_values(pooled[label], pooled[~label]).t, rtol=1e-9, atol=1e-9, equal_nan=True)


def test_a_unit_that_a_permutation_makes_constant_within_both_sides_follows_the_policy():
    values = np.array([[1.0], [1.0], [0.0], [0.0]]) + np.array([[0.0, 0.1]])
    on = np.array([True, False, True, False])
    for policy, expected in (("nan", np.nan), ("zero", 0.0)):
        test = stats.TTest(zero_variance=policy)
        maps = stats.permuted_t_maps(values, on, ~on, n_permutations=60, test=test)
        labels = stats.permuted_labels(2, 2, 60)
        pure = labels[:, 0] == labels[:, 2]  # pooled, the unit is 1, 0, 1, 0
        assert pure.any()
        assert np.array_equal(np.unique(maps[pure]), [expected], equal_nan=True)
        assert np.isfinite(maps[~pure]).all()


def test_permuted_maps_keep_missing_values_in_their_unit():
    values = np.random.default_rng(16).standard_normal((20, 4))
    values[3, 1], values[5, 2] = np.nan, np.inf
    on = np.arange(20) < 10
    maps = stats.permuted_t_maps(values, on, ~on, n_permutations=7)
    assert np.isnan(maps).all(axis=0).tolist() == np.isnan(maps).any(axis=0).tolist() == [False, True, True, False]


def test_permuted_maps_of_pairs_swap_within_pairs():
    rng = np.random.default_rng(17)
    values = rng.standard_normal((16, 3))
    on = np.arange(16) % 2 == 0
    pairs = np.arange(16) // 2
    maps = stats.permuted_t_maps(values, on, ~on, n_permutations=30, pairs=pairs)
    labels = stats.permuted_labels(8, 8, 30, pairs=np.tile(np.arange(8), 2))
    pooled = np.concatenate([values[on], values[~on]])
    expected = np.stack([stats.welch_t(pooled[label], pooled[~label]).t for label in labels])
    assert np.allclose(maps, expected, rtol=1e-9)


def test_input_that_does_not_fit_is_refused():
    on, off = noise(6, 6, 4)
    with pytest.raises(InputError, match="off side has shape"):
        stats.label_permutation_test(on, off[:1])
    with pytest.raises(InputError, match="4 and 3 units"):
        stats.label_permutation_test(on, off[:, 1:])
    with pytest.raises(UnknownNameError, match="welch"):
        stats.label_permutation_test(on, off, test="welsh")
    with pytest.raises(UnknownNameError, match="greater"):
        stats.label_permutation_test(on, off, alternative="great")
    with pytest.raises(InputError, match="n_permutations"):
        stats.label_permutation_test(on, off, n_permutations=0)
    with pytest.raises(InputError, match="exact must be"):
        stats.label_permutation_test(on, off, exact="always")
    big = noise(30, 30, 2)
    with pytest.raises(InputError, match=r"1.18e\+17 partitions"):
        stats.label_permutation_test(*big, exact=True)
    for pairs, message in ((range(11), "11 pair names"), ([1] * 12, "one stimulus on each side")):
        with pytest.raises(InputError, match=message):
            stats.label_permutation_test(on, off, pairs=list(pairs))
    with pytest.raises(InputError, match="one stimulus on each side"):
        stats.label_permutation_test(on, off[:5], pairs=[*range(6), *range(5)])
    values, side = np.concatenate([on, off]), np.arange(12) < 6
    with pytest.raises(InputError, match="on both sides"):
        stats.permuted_t_maps(values, side, np.ones(12, dtype=bool), n_permutations=3)
    with pytest.raises(InputError, match="12 stimuli"):
        stats.permuted_t_maps(values, side[1:], ~side, n_permutations=3)
    with pytest.raises(InputError, match="1 and 6 stimuli"):
        stats.permuted_t_maps(values, np.arange(12) == 0, ~side, n_permutations=3)
