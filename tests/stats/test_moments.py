import numpy as np
import pytest

from topobrain import stats
from topobrain._checks import InputError
from topobrain.stats import moments


def data(n=40, units=23, groups=4, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((n, units)) * rng.uniform(0.1, 5, units) + 3 * rng.standard_normal(units)
    return values.astype(dtype), rng.integers(-1, groups, n)


def by_hand(values, codes, groups):
    rows = [np.asarray(values, dtype=np.float64)[codes == group] for group in range(groups)]
    mean = np.stack([part.mean(axis=0) for part in rows])
    return mean, np.stack([((part - part.mean(axis=0)) ** 2).sum(axis=0) for part in rows])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_moments_equal_numpy(dtype, order):
    values, codes = data(dtype=dtype)
    found = stats.group_moments(np.asarray(values, order=order), codes, 4)
    mean, m2 = by_hand(values, codes, 4)
    assert found.n.tolist() == [int((codes == group).sum()) for group in range(4)]
    assert np.allclose(found.mean, mean, rtol=1e-13, atol=1e-13)
    assert np.allclose(found.m2, m2, rtol=1e-12, atol=0)
    assert found.mean.dtype == found.m2.dtype == np.float64


def test_the_size_of_blocks_does_not_matter(monkeypatch):
    values, codes = data()
    whole = stats.group_moments(values, codes, 4)
    monkeypatch.setattr(moments, "UNIT_BLOCK", 5)
    parts = stats.group_moments(values, codes, 4)
    assert np.allclose(parts.mean, whole.mean, rtol=1e-14)
    assert np.allclose(parts.m2, whole.m2, rtol=1e-13)


def test_a_memory_map_is_read_as_an_array_is(tmp_path):
    values, codes = data(dtype=np.float32)
    values.tofile(tmp_path / "values.bin")
    mapped = np.memmap(tmp_path / "values.bin", dtype=np.float32, mode="r", shape=values.shape)
    assert np.array_equal(stats.group_moments(mapped, codes, 4).m2, stats.group_moments(values, codes, 4).m2)


@pytest.mark.parametrize("order", ["mixed", "together"])
def test_groups_whose_stimuli_lie_together_or_apart_are_the_same(order):
    values, codes = data()
    where = (
        np.argsort(codes, kind="stable") if order == "together" else np.random.default_rng(1).permutation(len(codes))
    )
    found, expected = stats.group_moments(values[where], codes[where], 4), stats.group_moments(values, codes, 4)
    assert np.allclose(found.mean, expected.mean, rtol=1e-13)
    assert np.allclose(found.m2, expected.m2, rtol=1e-12)


def test_a_large_offset_costs_no_precision():
    noise = np.random.default_rng(0).standard_normal((300, 50))
    for values in ((noise + 1e6).astype(np.float32), noise + 1e9):
        exact = values.astype(np.longdouble)
        found = stats.group_moments(values, np.zeros(300, dtype=int), 1)
        expected = ((exact - exact.mean(axis=0)) ** 2).sum(axis=0)
        assert np.allclose(found.m2[0], expected.astype(float), rtol=1e-11, atol=0)


def test_an_outlier_that_happens_to_come_first_costs_no_precision():
    values = np.random.default_rng(0).standard_normal((300, 50))
    values[0] = 1e8
    exact = values.astype(np.longdouble)
    found = stats.group_moments(values, np.zeros(300, dtype=int), 1)
    assert np.allclose(found.m2[0], ((exact - exact.mean(axis=0)) ** 2).sum(axis=0).astype(float), rtol=1e-11, atol=0)


@pytest.mark.parametrize(
    ("level", "dtype"),
    [(level, dtype) for level in (0.0, 0.1, 1 / 3, 1e6 + 0.1, -1e30) for dtype in (np.float32, np.float64)]
    + [(1e300, np.float64)],
)
def test_a_constant_unit_has_no_spread_at_all_however_it_is_put_together(level, dtype):
    values = np.full((30, 3), level, dtype=dtype)
    codes = np.arange(30) % 3
    whole = stats.group_moments(values, codes, 3)
    stream = stats.StreamedMoments(3, 3)
    for rows in np.array_split(np.arange(30), 7):
        stream.add(values[rows], codes[rows])
    for found in (whole, stream.result()):
        assert (found.m2 == 0).all()
        assert (found.side([2, 0, 1]).m2 == 0).all()
        assert (found.side([2, 0, 1]).mean == values[0]).all()


@pytest.mark.parametrize("seed", range(5))
def test_batches_of_any_size_and_order_give_what_one_call_gives(seed):
    values, codes = data(seed=seed)
    values += 1e4
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(codes))
    stream = stats.StreamedMoments(4, values.shape[1])
    for rows in np.split(order, np.sort(rng.integers(0, len(codes) + 1, 6))):  # some are empty
        stream.add(values[rows], codes[rows])
    found, expected = stream.result(), stats.group_moments(values, codes, 4)
    assert np.array_equal(found.n, expected.n)
    assert np.allclose(found.mean, expected.mean, rtol=1e-14)
    assert np.allclose(found.m2, expected.m2, rtol=1e-10)


def test_merging_is_the_same_both_ways_and_leaves_its_parts_alone():
    values, codes = data()
    first, second = (stats.group_moments(values[rows], codes[rows], 4) for rows in (slice(0, 9), slice(9, None)))
    before = first.mean.copy()
    there, back = first.merge(second), second.merge(first)
    assert np.allclose(there.mean, back.mean, rtol=1e-13)
    assert np.allclose(there.m2, back.m2, rtol=1e-13)
    assert np.array_equal(first.mean, before, equal_nan=True)


def test_an_empty_group_adds_nothing():
    values, codes = data()
    codes[codes == 2] = -1
    found = stats.group_moments(values, codes, 4)
    assert found.n[2] == 0
    assert np.isnan(found.mean[2]).all()
    merged = found.merge(stats.group_moments(values[:0], codes[:0], 4))
    assert np.array_equal(merged.m2, found.m2, equal_nan=True)
    assert np.array_equal(found.side([1, 2]).mean, found.side(1).mean)
    assert found.side(2).n == 0


def test_a_side_is_the_moments_of_its_stimuli():
    values, codes = data()
    side = stats.group_moments(values, codes, 4).side([0, 3, 1])
    rows = np.asarray(values)[np.isin(codes, [0, 1, 3])]
    assert side.n == len(rows)
    assert np.allclose(side.mean, rows.mean(axis=0), rtol=1e-13, atol=1e-13)
    assert np.allclose(side.m2, rows.var(axis=0) * len(rows), rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_spoils_its_unit_in_its_group_only(bad):
    values, codes = data()
    row = int(np.flatnonzero(codes == 1)[2])
    values[row, 5] = bad
    values[np.flatnonzero(codes == -1)[0], 7] = bad
    found = stats.group_moments(values, codes, 4)
    for array in (found.mean, found.m2):
        assert np.argwhere(~np.isfinite(array)).tolist() == [[1, 5]]
        assert np.isnan(array[1, 5])
    merged = found.merge(found)
    assert np.argwhere(np.isnan(merged.m2)).tolist() == [[1, 5]]
    assert np.flatnonzero(np.isnan(found.side([0, 1]).m2)).tolist() == [5]


def test_input_that_does_not_fit_is_refused():
    values, codes = data()
    with pytest.raises(InputError, match="expected \\(stimulus, unit\\)"):
        stats.group_moments(values[0], codes, 4)
    with pytest.raises(InputError, match="40 stimuli"):
        stats.group_moments(values, codes[1:], 4)
    with pytest.raises(InputError, match="whole number"):
        stats.group_moments(values, codes.astype(float), 4)
    for wrong, groups in ((codes - 1, 4), (codes, 3), (codes, 0)):
        with pytest.raises(InputError, match="between -1"):
            stats.group_moments(values, wrong, groups)
    found = stats.group_moments(values, codes, 4)
    for groups, message in (([0, 4], "0, 1, ..."), ([-1], "0, 1, ..."), ([1, 1], "different"), ([0.5], "whole")):
        with pytest.raises(InputError, match=message):
            found.side(groups)
    with pytest.raises(InputError, match="merged"):
        found.merge(stats.group_moments(values[:, 1:], codes, 4))
    with pytest.raises(InputError, match="those before it have 23"):
        stats.StreamedMoments(4, 23).add(values[:, 1:], codes)
    with pytest.raises(InputError, match="expected \\(group,\\)"):
        stats.Moments(found.n[1:], found.mean, found.m2)
