import numpy as np
import pytest

from topobrain import stats
from topobrain._checks import InputError
from topobrain.sheet import Sheet
from topobrain.stats import DistanceBins
from topobrain.stats.smoothness import _smoothness


@pytest.fixture(scope="module")
def smooth():
    sheet = Sheet.grid(12, 14)
    return np.random.default_rng(0).standard_normal((80, 168)) @ sheet.smoothing(3.0).T, sheet


def slow_curve(matrix, sheet, bins):
    """Mean of a matrix in each bin, pair by pair."""
    total, count = np.zeros(bins.n_bins), np.zeros(bins.n_bins, dtype=int)
    distance = sheet.distances()
    for i in range(sheet.n_units):
        for j in range(i + 1, sheet.n_units):
            for k in range(bins.n_bins):
                last = k == bins.n_bins - 1 and abs(distance[i, j] - bins.high) < 1e-9
                inside = bins.edges[k] - 1e-9 <= distance[i, j] < bins.edges[k + 1] - 1e-9
                if (inside or last) and np.isfinite(matrix[i, j]):
                    total[k] += matrix[i, j]
                    count[k] += 1
    with np.errstate(invalid="ignore"):
        return total / count, count


@pytest.mark.parametrize("bins", [None, DistanceBins(0.0, 6.0, 6), DistanceBins(1.3, 1.9, 5)])
def test_a_curve_is_the_mean_of_its_pairs(bins):
    sheet = Sheet(34, 5, 7, spacing=1.0)
    matrix = np.random.default_rng(1).standard_normal((34, 34))
    matrix = matrix + matrix.T
    matrix[[3, 9], [9, 3]] = np.nan
    found = stats.distance_curve(matrix, sheet, bins=bins)
    bins = stats.distance_bins(sheet) if bins is None else bins
    value, count = slow_curve(matrix, sheet, bins)
    np.testing.assert_allclose(found.value, value, atol=1e-12)
    assert found.n_pairs.tolist() == count.tolist()
    assert (np.isnan(found.value) == (count == 0)).all()
    np.testing.assert_allclose(found.distance, (bins.edges[:-1] + bins.edges[1:]) / 2)


def test_bins_hold_their_lower_edge_and_the_last_one_both():
    bins = DistanceBins(1.0, 14.0, 20)
    for k, edge in enumerate(np.linspace(1.0, 14.0, 21)):
        assert bins.index(np.array([edge]))[0] == min(k, 19)
    assert bins.index(np.array([0.99, 14.01, 13.99])).tolist() == [-1, -1, 19]
    inside = np.random.default_rng(0).uniform(1, 14, 500)
    assert (bins.index(inside) == np.digitize(inside, bins.edges) - 1).all()


@pytest.mark.parametrize(
    ("sheet", "low", "high", "n_bins"),
    [
        (Sheet.grid(28, 28), 1, 14, 20),
        (Sheet.grid(48, 64, spacing=0.5), 0.5, 12, 20),
        (Sheet.grid(10, 12), 1, 5, 6),
        (Sheet.grid(1, 11), 1, 5, 6),
        (Sheet.grid(2, 2), 1, 2, 2),
    ],
)
def test_default_bins_run_from_neighbours_to_half_the_shorter_side(sheet, low, high, n_bins):
    assert stats.distance_bins(sheet) == DistanceBins(low, high, n_bins)
    assert stats.distance_bins(sheet, n_bins=9, low=0, high=60) == DistanceBins(0.0, 60.0, 9)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("side", [*range(4, 15), 20, 28])
def test_default_bins_leave_no_bin_of_a_sheet_empty(side, wrapped):
    sheet = Sheet.grid(side, side + 3, wrapped=wrapped, spacing=0.1)
    curve = stats.distance_curve(sheet.distances(), sheet)
    assert (curve.n_pairs > 0).all()


def test_curves_of_responses_and_of_selectivity_average_correlations_and_differences(smooth):
    values, sheet = smooth
    bins = DistanceBins(1.0, 9.0, 8)
    found = stats.response_correlation_curve(values, sheet, bins=bins)
    expected = stats.distance_curve(np.corrcoef(values.T), sheet, bins=bins)
    np.testing.assert_allclose(found.value, expected.value, atol=1e-12)
    maps = values[:3]
    curve = stats.selectivity_difference_curve(maps, sheet, bins=bins)
    assert curve.value.shape == curve.n_pairs.shape == (3, 8)
    for one, value in zip(maps, curve.value, strict=True):
        expected = stats.distance_curve(np.abs(one[:, None] - one), sheet, bins=bins)
        np.testing.assert_allclose(value, expected.value, atol=1e-12)
        np.testing.assert_allclose(stats.selectivity_difference_curve(one, sheet, bins=bins).value, value)


def test_units_without_a_value_leave_the_curve(smooth):
    values, sheet = smooth
    there = np.setdiff1d(np.arange(168), [0, 50, 51])
    holed = values.copy()
    holed[:, 0], holed[3, 50], holed[3, 51] = np.nan, np.nan, np.inf
    rows = sheet.distances()[np.ix_(there, there)]

    class Places:
        n_units = 165

        def distances(self):
            return rows

    bins = stats.distance_bins(sheet)
    t = values[3]
    correlation = stats.response_correlation_curve
    difference = stats.selectivity_difference_curve
    for found, expected in (
        (correlation(holed, sheet), correlation(values[:, there], Places(), bins=bins)),
        (difference(holed[3], sheet), difference(t[there], Places(), bins=bins)),
    ):
        np.testing.assert_allclose(found.value, expected.value, atol=1e-12)
        assert found.n_pairs.tolist() == expected.n_pairs.tolist()
    mixed = stats.selectivity_difference_curve(np.stack([values[3], holed[3]]), sheet)
    assert mixed.n_pairs[0].sum() > mixed.n_pairs[1].sum()
    np.testing.assert_allclose(mixed.value[1], found.value, atol=1e-12)


def test_nulls_are_the_curves_of_permuted_units(smooth):
    values, sheet = smooth
    orders = stats.layout_permutations(168, 4, seed=7)
    null = stats.selectivity_difference_curve_null(values[0], sheet, n_null=4, seed=7)
    np.testing.assert_allclose(null, [stats.selectivity_difference_curve(values[0, o], sheet).value for o in orders])
    null = stats.response_correlation_curve_null(values, sheet, n_null=4, seed=7)
    slow = [stats.response_correlation_curve(values[:, o], sheet).value for o in orders]
    np.testing.assert_allclose(null, slow, atol=1e-12)
    np.testing.assert_allclose(
        stats.distance_curve_null(np.corrcoef(values.T), sheet, n_null=4, seed=7), slow, atol=1e-12
    )
    tdann = stats.smoothness_tdann_null(values[0], sheet, n_null=4, seed=7)
    np.testing.assert_allclose(tdann, [stats.smoothness_tdann(values[0, o], sheet) for o in orders])
    toponets = stats.smoothness_toponets_null(values, sheet, n_null=4, seed=7)
    np.testing.assert_allclose(toponets, [stats.smoothness_toponets(values[:, o], sheet) for o in orders])


def test_units_without_a_value_stay_where_they_are_in_the_null(smooth):
    values, sheet = smooth
    holed, gone = values.copy(), [0, 50, 51]
    holed[:, gone] = np.nan
    there = np.setdiff1d(np.arange(168), gone)
    orders = stats.layout_permutations(165, 3, seed=1)
    moved = np.full((3, *values.shape), np.nan)
    for one, order in zip(moved, orders, strict=True):
        one[:, there] = values[:, there[order]]
    pairs = [
        (
            stats.selectivity_difference_curve_null(holed[0], sheet, n_null=3, seed=1),
            [stats.selectivity_difference_curve(one[0], sheet).value for one in moved],
        ),
        (
            stats.response_correlation_curve_null(holed, sheet, n_null=3, seed=1),
            [stats.response_correlation_curve(one, sheet).value for one in moved],
        ),
    ]
    matrix = np.full((168, 168), np.nan)
    matrix[np.ix_(there, there)] = np.corrcoef(values[:, there].T)
    pairs.append((stats.distance_curve_null(matrix, sheet, n_null=3, seed=1), pairs[1][1]))
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_null_band_of_a_curve_is_flat_and_holds_the_mean_of_all_pairs(smooth):
    values, sheet = smooth
    null = stats.response_correlation_curve_null(values, sheet, n_null=300, seed=0)
    alike = np.corrcoef(values.T)[np.triu_indices(168, k=1)]
    np.testing.assert_allclose(null.mean(axis=0), alike.mean(), atol=0.005)
    curve = stats.response_correlation_curve(values, sheet).value
    assert curve[0] > null[:, 0].max()
    assert curve[-1] < null[:, -1].min()


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([1.0, 2.0, 4.0], 0.75),
        ([4.0, 2.0, 1.0], 0.0),
        ([1.0, 2.0, np.nan, 8.0], 0.5),
        ([3.0, 3.0, 3.0], 1.0),
        ([3.0, np.nan, 5.0], 1.0),
        ([0.0, 0.0, 0.0], 1.0),
        ([np.nan, 1.0, 2.0], np.nan),
    ],
)
def test_smoothness_of_a_curve(curve, expected):
    assert _smoothness(np.array([curve]))[0] == pytest.approx(expected, nan_ok=True)


def test_smoothness_tdann_of_maps_known_in_closed_form():
    sheet = Sheet.grid(1, 40)
    ramp = np.arange(40.0)  # the difference of two units is their distance
    last = (31 * 9 + 30 * 10) / 61  # the last bin holds both its edges
    assert stats.smoothness_tdann(ramp, sheet, low=1, high=10, n_bins=9) == pytest.approx(1 - 1 / last)
    assert stats.smoothness_tdann(np.ones(40), sheet) == 1.0
    # from 0, the first bin holds no pair at all, and the curve ends before it began
    assert np.isnan(stats.smoothness_tdann(ramp, sheet, low=0, high=9, n_bins=90))


def test_smoothness_does_not_change_with_gain_offset_or_sign(smooth):
    values, sheet = smooth
    expected = stats.smoothness_tdann(values[0], sheet)
    assert stats.smoothness_tdann(-3 * values[0] + 7, sheet) == pytest.approx(expected, abs=1e-12)
    gains = np.random.default_rng(0).uniform(0.5, 2, 168)
    assert stats.smoothness_toponets(values * gains + 5, sheet) == pytest.approx(
        stats.smoothness_toponets(values, sheet)
    )


def test_smoothness_toponets_is_the_range_of_the_curve_and_exceeds_one_for_opposed_units():
    sheet = Sheet.grid(1, 30)
    phase = np.linspace(0, np.pi, 30)
    time = np.linspace(0, 20 * np.pi, 2000, endpoint=False)
    values = np.cos(time[:, None] + phase)  # units at the ends are opposed
    found = stats.smoothness_toponets(values, sheet, low=1, high=29, n_bins=28)
    curve = stats.response_correlation_curve(values, sheet, bins=DistanceBins(1.0, 29.0, 28)).value
    assert found == pytest.approx(np.ptp(curve))
    assert found > 1.9


def test_samples_of_all_units_give_the_value_of_all_pairs(smooth):
    values, sheet = smooth
    expected = stats.smoothness_tdann(values[0], sheet)
    assert stats.smoothness_tdann(values[0], sheet, n_samples=3, sample_size=168) == pytest.approx(expected)
    assert stats.smoothness_tdann(values[0], sheet, n_samples=3, sample_size=5000) == pytest.approx(expected)


def test_samples_follow_the_seed_come_near_all_pairs_and_leave_out_missing_units(smooth):
    values, sheet = smooth
    drawn = [stats.smoothness_tdann(values[0], sheet, n_samples=40, sample_size=100, seed=s) for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == pytest.approx(stats.smoothness_tdann(values[0], sheet), abs=0.05)
    holed = values[0].copy()
    holed[::2] = np.nan
    everything = stats.smoothness_tdann(holed, sheet, n_samples=1, sample_size=168)
    assert everything == pytest.approx(stats.smoothness_tdann(holed, sheet))
    maps = stats.smoothness_tdann(values[:2], sheet, n_samples=2, sample_size=168)
    np.testing.assert_allclose(maps, stats.smoothness_tdann(values[:2], sheet))


def test_what_cannot_be_measured_is_refused(smooth):
    values, sheet = smooth
    with pytest.raises(InputError, match="each of 168 units"):
        stats.smoothness_tdann(values[0, 1:], sheet)
    with pytest.raises(InputError, match="3 stimuli"):
        stats.smoothness_toponets(values[:2], sheet)
    with pytest.raises(InputError, match=r"Sheet\.for_width"):
        stats.smoothness_tdann(values[0], Sheet.none(168))
    with pytest.raises(InputError, match="symmetric"):
        stats.distance_curve(sheet.distances() + sheet.x, sheet)
    with pytest.raises(InputError, match=r"\(168, 168\)"):
        stats.distance_curve(values, sheet)
    with pytest.raises(InputError, match="one map at a time"):
        stats.smoothness_tdann_null(values[:2], sheet, n_null=5)
    with pytest.raises(InputError, match="other limits"):
        stats.smoothness_tdann(values[0], sheet, low=0.1, high=0.9)
    with pytest.raises(InputError, match="low < high"):
        stats.smoothness_tdann(values[0], sheet, low=5, high=2)
    with pytest.raises(InputError, match="two bins"):
        stats.smoothness_tdann(values[0], sheet, n_bins=1)
    with pytest.raises(InputError, match="n_samples"):
        stats.smoothness_tdann(values[0], sheet, n_samples=0)
    with pytest.raises(InputError, match="n_null"):
        stats.smoothness_toponets_null(values, sheet, n_null=1)
