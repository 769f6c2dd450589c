import numpy as np
import pytest
from scipy.stats import chisquare, kstest, pearsonr

from topobrain import stats
from topobrain._checks import InputError, UnknownNameError
from topobrain.sheet import Sheet


def test_fields_equal_their_formulas():
    null = np.random.default_rng(0).standard_normal(99) * 0.1 + 0.2
    found = stats.compare_with_null(0.5, null)
    assert found.value == 0.5
    assert found.null_mean == pytest.approx(null.mean())
    assert found.null_sd == pytest.approx(null.std(ddof=1))
    assert found.z == pytest.approx((0.5 - null.mean()) / null.std(ddof=1))
    assert found.p == (1 + (null >= 0.5).sum()) / 100
    assert found.corrected == pytest.approx((0.5 - null.mean()) / (1 - null.mean()))


def test_p_never_reaches_zero_and_ties_count_against_the_value():
    assert stats.compare_with_null(9.0, np.zeros(19)).p == 1 / 20
    assert stats.compare_with_null(0.3, np.array([0.1 + 0.2, 0.0, 0.0])).p == 2 / 4
    assert stats.compare_with_null(-1.0, np.zeros(19)).p == 1


def test_p_is_uniform_when_the_value_comes_from_the_null():
    rng = np.random.default_rng(0)
    p = [stats.compare_with_null(draw[0], draw[1:]).p for draw in rng.standard_normal((500, 200))]
    assert kstest(p, "uniform").pvalue > 0.01


def test_a_null_without_spread_has_no_z():
    found = stats.compare_with_null(1.0, np.zeros(5))
    assert np.isnan(found.z)
    assert found.corrected == 1


def test_missing_values_stay_missing():
    assert np.isnan(stats.compare_with_null(np.nan, np.arange(3.0))[3:]).all()
    assert np.isnan(stats.compare_with_null(1.0, np.array([0.0, np.nan]))[3:]).all()


@pytest.mark.parametrize("null", [np.zeros(1), np.zeros((3, 3))])
def test_a_null_needs_draws(null):
    with pytest.raises(InputError, match="two draws"):
        stats.compare_with_null(0.0, null)


def test_layout_permutations_are_permutations_that_follow_the_seed():
    orders = stats.layout_permutations(50, 200, seed=3)
    assert (np.sort(orders, axis=1) == np.arange(50)).all()
    assert np.array_equal(orders, stats.layout_permutations(50, 200, seed=3))
    assert not np.array_equal(orders, stats.layout_permutations(50, 200, seed=4))
    assert len(np.unique(orders, axis=0)) == 200
    assert np.abs(orders.mean(axis=0) - 24.5).max() < 5
    with pytest.raises(InputError, match="n_null"):
        stats.layout_permutations(5, 1)


def test_the_other_tails():
    null = np.arange(10.0)
    assert stats.compare_with_null(1.0, null, alternative="less").p == 3 / 11
    assert stats.compare_with_null(1.0, null, alternative="greater").p == 10 / 11
    assert stats.compare_with_null(1.0, null, alternative="two-sided").p == 6 / 11
    assert stats.compare_with_null(4.5, null, alternative="two-sided").p == 1
    assert stats.compare_with_null(1.0, null, alternative="less").z == stats.compare_with_null(1.0, null).z
    with pytest.raises(UnknownNameError, match="two-sided"):
        stats.compare_with_null(1.0, null, alternative="two sided")


@pytest.mark.parametrize("n_null", [2, 3, 19, 99, 100, 255, 999, 1000])
def test_product_permutations_are_permutations_and_as_many_as_asked_for(n_null):
    drawn = stats.product_permutations(40, n_null, seed=3)
    orders = drawn.orders()
    assert orders.shape == (n_null, 40)
    assert (np.sort(orders, axis=1) == np.arange(40)).all()
    assert len(np.unique(orders, axis=0)) == n_null  # so none is drawn twice, and none is ...
    assert not (orders == np.arange(40)).all(axis=1).any()  # ... the identity
    assert (drawn.first[0] == np.arange(40)).all()
    assert (drawn.second[0] == np.arange(40)).all()
    assert np.array_equal(orders, stats.product_permutations(40, n_null, seed=3).orders())
    assert not np.array_equal(orders, stats.product_permutations(40, n_null, seed=4).orders())


def test_product_permutations_are_uniform_and_independent_in_pairs():
    code = []  # which of the 6 permutations of three units each draw is, over many seeds
    for seed in range(1200):
        orders = stats.product_permutations(3, 255, seed=seed).orders()
        code.append(orders[:, 0] * 2 + (orders[:, 1] > orders[:, 2]))
    code = np.array(code)
    rng, p_one, p_two = np.random.default_rng(0), [], []
    # pairs that share factors (neighbours in the table) and others
    pairs = [(0, 1), (0, 15), (14, 15), (15, 16), (100, 101), (100, 116), *rng.choice(255, (40, 2), replace=False)]
    for a, b in pairs:
        p_one.append(chisquare(np.bincount(code[:, a], minlength=6)).pvalue)
        p_two.append(chisquare(np.bincount(code[:, a] * 6 + code[:, b], minlength=36)).pvalue)
    assert min(p_one) > 0.01 / len(pairs)
    assert min(p_two) > 0.01 / len(pairs)
    assert kstest(p_two, "uniform").pvalue > 0.01


def test_counts_of_product_permutations_scatter_as_those_of_independent_ones():
    sheet, values = Sheet.grid(5, 6), np.random.default_rng(1).standard_normal(30)
    many = stats.layout_null(values, sheet, n_null=20000, orders=stats.layout_permutations(30, 20000))
    nulls = np.array([stats.layout_null(values, sheet, n_null=99, seed=seed) for seed in range(600)])
    for share in (0.5, 0.9, 0.98):
        count = (nulls >= np.quantile(many, share)).sum(axis=1)
        error = np.sqrt(share * (1 - share) * (1 / (99 * 600) + 1 / 20000))
        assert count.mean() / 99 == pytest.approx(1 - share, abs=4 * error)
        assert count.var() == pytest.approx(99 * share * (1 - share), rel=0.25)
    assert nulls.mean(axis=1).std() == pytest.approx(many.std() / np.sqrt(99), rel=0.1)
    assert nulls.std(axis=1, ddof=1).mean() == pytest.approx(many.std(), rel=0.02)


def test_product_permutations_need_draws():
    with pytest.raises(InputError, match="n_null"):
        stats.product_permutations(5, 1)


def test_torus_shifts_equal_rolled_maps():
    first, second = np.random.default_rng(0).standard_normal((2, 5, 8)) + 30
    found = stats.torus_shifts(first, second)
    for down in range(5):
        for right in range(8):
            rolled = np.roll(second, (down, right), axis=(0, 1))
            assert found[down, right] == pytest.approx(np.corrcoef(first.ravel(), rolled.ravel())[0, 1], abs=1e-12)
    assert np.unravel_index(stats.torus_shifts(np.roll(first, (3, 2), (0, 1)), first).argmax(), (5, 8)) == (3, 2)


def test_the_torus_test_is_the_rank_among_all_shifts():
    sheet = Sheet.grid(6, 7, wrapped=True)
    first, second = np.random.default_rng(0).standard_normal((2, 42))
    second += 0.3 * first
    r = stats.torus_shifts(sheet.to_image(first), sheet.to_image(second)).ravel()
    found = stats.torus_test(first, second, sheet, alternative="greater")
    assert found.value == pytest.approx(np.corrcoef(first, second)[0, 1])
    assert found.p == (r >= r[0] - 1e-12).mean()
    assert found.null_mean == pytest.approx(r[1:].mean())
    assert stats.torus_test(first, first, sheet, alternative="greater").p == 1 / 42
    assert stats.torus_test(first, -first, sheet, alternative="less").p == 1 / 42
    # the units' numbers do not matter, only where they sit
    places = np.random.default_rng(1).permutation(42)
    moved = stats.torus_test(first[places], second[places], sheet.with_places(places), alternative="greater")
    assert moved == pytest.approx(found)


def test_a_map_with_a_period_ties_with_itself():
    sheet, stripes = Sheet.grid(4, 8, wrapped=True), np.tile([0.0, 1, 2, 1], 8)
    assert stats.torus_test(stripes, stripes, sheet, alternative="greater").p == 8 / 32  # 4 rows and 2 columns alike


def test_agreement_of_smooth_maps_is_judged_fairly():
    sheet = Sheet.grid(16, 16, wrapped=True)
    maps = sheet.smooth(np.random.default_rng(0).standard_normal((600, 256)), 4).reshape(300, 2, 256)
    p = np.array([stats.torus_test(*pair, sheet).p for pair in maps])
    assert (p <= 0.05).mean() == pytest.approx(0.05, abs=0.035)
    assert kstest(p, "uniform").pvalue > 0.01
    naive = np.array([pearsonr(*pair).pvalue for pair in maps])
    assert (naive <= 0.05).mean() > 0.3  # units are not independent: this is what the null is for


def test_maps_without_shifts_are_refused():
    sheet, values = Sheet.grid(4, 4, wrapped=True), np.arange(16.0)
    with pytest.raises(InputError, match="open sheet"):
        stats.torus_test(values, values, Sheet.grid(4, 4))
    with pytest.raises(InputError, match="each of 16 units"):
        stats.torus_test(values, values[1:], sheet)
    with pytest.raises(InputError, match="constant"):
        stats.torus_test(values, np.full(16, 0.1), sheet)
    with pytest.raises(InputError, match="missing"):
        stats.torus_test(values, np.where(values == 3, np.nan, values), sheet)
    with pytest.raises(InputError, match="one shape"):
        stats.torus_shifts(np.ones((2, 3)), np.ones((3, 2)))
