import math

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from topobrain import stats
from topobrain._checks import InputError, UnknownNameError
from topobrain.sheet import Sheet
from topobrain.stats.generic_topography import LEVELS, RADII


def white(d, n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d))


def smooth_on_torus(values, side, sigma):
    """Multiply the two-dimensional spectrum by exp(-sigma^2 w^2 / 2), w in radians a grid step."""
    w = 2 * np.pi * np.fft.fftfreq(side)
    gain = np.exp(-(sigma**2) * (w[:, None] ** 2 + w[None, :] ** 2) / 2)
    images = values.reshape(-1, side, side)
    return np.fft.ifft2(np.fft.fft2(images) * gain).real.reshape(values.shape)


def pairs_of(values, sheet):
    first, second = np.triu_indices(sheet.n_units, k=1)
    return sheet.distances()[first, second].round(12), np.corrcoef(values.T)[first, second]


REFERENCE = {  # d, sigma: t_g, and -Spearman at radius .1, .2, ... .8
    (400, 0): (-0.004, 0.005, -0.006, -0.008, -0.004, -0.004, -0.005, -0.004, -0.004),
    (400, 1): (0.560, 0.943, 0.955, 0.768, 0.549, 0.370, 0.313, 0.293, 0.292),
    (400, 2): (0.899, 0.943, 0.988, 0.986, 0.963, 0.881, 0.827, 0.804, 0.803),
    (400, 3): (0.976, 0.943, 0.988, 0.991, 0.990, 0.979, 0.972, 0.973, 0.973),
    (400, 5): (0.972, 0.943, 0.989, 0.989, 0.986, 0.966, 0.963, 0.969, 0.969),
    (784, 0): (-0.001, -0.003, -0.001, -0.002, 0.000, 0.002, -0.001, -0.001, -0.001),
    (784, 1): (0.410, 0.947, 0.814, 0.489, 0.311, 0.220, 0.174, 0.163, 0.163),
    (784, 2): (0.745, 0.951, 0.981, 0.942, 0.806, 0.648, 0.561, 0.536, 0.535),
    (784, 3): (0.917, 0.950, 0.984, 0.983, 0.963, 0.910, 0.861, 0.844, 0.844),
    (784, 5): (0.980, 0.952, 0.986, 0.990, 0.988, 0.979, 0.979, 0.982, 0.982),
}


@pytest.mark.parametrize(("d", "sigma"), REFERENCE)
@pytest.mark.slow
def test_reference_values_of_every_radius(d, sigma):
    side = math.isqrt(d)
    sheet, values = Sheet.grid(side, side, wrapped=True), smooth_on_torus(white(d, 1000), side, sigma)
    found = stats.generic_topography_by_radius(values, sheet)
    expected = REFERENCE[d, sigma]
    assert np.abs(found.value - expected[1:]).max() < 0.002
    assert stats.generic_topography(values, sheet) == pytest.approx(expected[0], abs=0.002)
    assert found.value.mean() == pytest.approx(stats.generic_topography(values, sheet), abs=1e-12)


@pytest.mark.slow
def test_a_hundred_thousand_pairs_come_near_all_of_them():
    sheet, values = Sheet.grid(28, 28, wrapped=True), smooth_on_torus(white(784, 1000), 28, 2)
    drawn = [stats.generic_topography(values, sheet, n_pairs=100_000, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn == pytest.approx([0.745] * 3, abs=0.01)
    by_radius = stats.generic_topography_by_radius(values, sheet, n_pairs=100_000)
    full = stats.generic_topography_by_radius(values, sheet)
    assert (by_radius.n_pairs == np.minimum(full.n_pairs, 100_000)).all()
    few = full.n_pairs <= 100_000  # where nothing had to be drawn, nothing changes
    assert few.sum() == 3
    np.testing.assert_allclose(by_radius.value[few], full.value[few], atol=1e-12)


@pytest.fixture(scope="module")
def patchy():
    return smooth_on_torus(white(144, 300), 12, 1.0), Sheet.grid(12, 12, wrapped=True)


def test_equals_a_slow_loop(patchy):
    values, sheet = patchy
    far, alike = pairs_of(values, sheet)
    radii = np.arange(2, 9) / 10
    expected = [-spearmanr(far[far <= 12 * m + 1e-9], alike[far <= 12 * m + 1e-9])[0] for m in radii]
    found = stats.generic_topography_by_radius(values, sheet, radii=radii)
    np.testing.assert_allclose(found.value, expected, atol=1e-9)
    assert found.n_pairs.tolist() == [(far <= 12 * m + 1e-9).sum() for m in radii]
    backwards = stats.generic_topography_by_radius(values, sheet, radii=radii[::-1])
    np.testing.assert_allclose(backwards.value, found.value[::-1], atol=1e-12)
    assert (backwards.n_pairs == found.n_pairs[::-1]).all()


@pytest.mark.parametrize("places", [None, np.random.default_rng(3).permutation(56)[:50]])
def test_every_form_equals_its_formula_on_a_sheet_with_holes(places):
    sheet = Sheet(50, 7, 8, spacing=0.5, places=None if places is None else tuple(places.tolist()))
    values = white(50, 40) @ Sheet.for_width(50).smoothing(2.0)
    far, alike = pairs_of(values, sheet)
    near = far <= 1.6
    for form, expected in (
        ("spearman", -spearmanr(far[near], alike[near])[0]),
        ("pearson", -pearsonr(far[near], alike[near])[0]),
        ("ratio", np.mean((alike[near] - alike[near].mean()) / alike[near].std() / far[near])),
    ):
        found = stats.generic_topography(values, sheet, max_distance=1.6, form=form)
        assert found == pytest.approx(expected, abs=1e-9), form
    everything = stats.generic_topography(values, sheet, max_distance=math.inf, form="pearson")
    assert everything == pytest.approx(-pearsonr(far, alike)[0], abs=1e-9)


def test_a_ratio_counts_distance_in_sides_for_shares_and_in_lengths_for_a_length(patchy):
    values, sheet = patchy
    wide = Sheet.grid(12, 12, wrapped=True, spacing=3.0)
    shares = [stats.generic_topography(values, s, form="ratio") for s in (sheet, wide)]
    lengths = [stats.generic_topography(values, s, form="ratio", max_distance=math.inf) for s in (sheet, wide)]
    assert shares[0] == pytest.approx(shares[1])
    assert lengths[0] == pytest.approx(3 * lengths[1])


def test_ignores_gain_offset_and_shifts_of_the_sheet(patchy):
    values, sheet = patchy
    rng = np.random.default_rng(1)
    expected = stats.generic_topography(values, sheet)
    changed = values * rng.uniform(0.1, 10, 144) + 100 * rng.standard_normal(144)
    shifted = np.roll(values.reshape(-1, 12, 12), (5, 3), axis=(1, 2)).reshape(values.shape)
    assert stats.generic_topography(changed, sheet) == pytest.approx(expected, abs=1e-6)
    assert stats.generic_topography(shifted, sheet) == pytest.approx(expected, abs=1e-9)
    assert stats.generic_topography(values, Sheet.grid(12, 12, wrapped=True, spacing=3.0)) == pytest.approx(expected)


def test_of_permuted_units_it_is_zero():
    sheet = Sheet.grid(20, 20, wrapped=True)
    values = smooth_on_torus(white(400, 1000), 20, 2.0)
    order = np.random.default_rng(0).permutation(400)
    assert abs(stats.generic_topography(values[:, order], sheet)) < 0.015
    assert stats.generic_topography(values, sheet) > 0.8


def test_a_radius_that_holds_a_single_distance_is_skipped():
    values, sheet = smooth_on_torus(white(100, 200), 10, 1.0), Sheet.grid(10, 10, wrapped=True)
    assert stats.generic_topography(values, sheet) == stats.generic_topography(values, sheet, radii=RADII[1:])
    by_radius = stats.generic_topography_by_radius(values, sheet)
    assert np.isnan(by_radius.value).tolist() == [True] + 7 * [False]
    assert np.isnan(stats.generic_topography_null_by_radius(values, sheet, n_null=3)[:, 0]).all()
    with pytest.raises(InputError, match="no radius"):
        stats.generic_topography(values, sheet, radii=[0.1])


@pytest.mark.parametrize("level", [0.0, 0.1, 1e5 + 1 / 3])
def test_constant_units_correlate_at_zero(patchy, level):
    values, sheet = patchy
    values = values.copy()
    values[:, [3, 4, 40, 90]] = level
    with np.errstate(invalid="ignore"):
        far, alike = pairs_of(np.where(np.ptp(values, axis=0) == 0, 0.0, values), sheet)
    near = far <= 3.6 + 1e-9
    expected = -spearmanr(far[near], np.nan_to_num(alike[near]))[0]
    assert stats.generic_topography(values, sheet, radii=[0.3]) == pytest.approx(expected, abs=1e-9)


def test_units_with_missing_values_leave():
    values, sheet = white(30, 50) @ Sheet.grid(5, 6).smoothing(2.0), Sheet.grid(5, 6)
    there = np.setdiff1d(np.arange(30), [2, 17, 18])
    holed = values.copy()
    holed[4, [2, 17]], holed[:, 18] = np.nan, np.inf
    far = sheet.distances()[np.ix_(there, there)][np.triu_indices(27, k=1)]
    alike = np.corrcoef(values[:, there].T)[np.triu_indices(27, k=1)]
    expected = -spearmanr(far.round(12), alike)[0]
    assert stats.generic_topography(holed, sheet, max_distance=math.inf) == pytest.approx(expected, abs=1e-9)
    null = stats.generic_topography_null(holed, sheet, n_null=4, seed=1)
    moved = np.full((4, 50, 30), np.nan)
    for one, order in zip(moved, stats.layout_permutations(27, 4, seed=1), strict=True):
        one[:, there] = values[:, there[order]]
    np.testing.assert_allclose(null, [stats.generic_topography(one, sheet) for one in moved], atol=1e-12)


def test_what_cannot_be_measured_is_refused(patchy):
    values, sheet = patchy
    with pytest.raises(InputError, match="144 units"):
        stats.generic_topography(values[:, 1:], sheet)
    with pytest.raises(InputError, match="3 stimuli"):
        stats.generic_topography(values[:2], sheet)
    with pytest.raises(InputError, match=r"Sheet\.for_width"):
        stats.generic_topography(values, Sheet.none(144))
    with pytest.raises(UnknownNameError, match="spearman"):
        stats.generic_topography(values, sheet, form="spearmann")
    with pytest.raises(InputError, match="positive"):
        stats.generic_topography(values, sheet, radii=[])
    with pytest.raises(InputError, match="positive"):
        stats.generic_topography(values, sheet, max_distance=-1.0)
    with pytest.raises(InputError, match="n_pairs"):
        stats.generic_topography(values, sheet, n_pairs=1)
    with pytest.raises(InputError, match="n_null"):
        stats.generic_topography_null(values, sheet, n_null=1)
    with pytest.raises(InputError, match="missing"):
        stats.generic_topography(np.full((5, 144), np.nan), sheet)


class Mesh:
    """Places without a grid."""

    n_units = 40

    def distances(self):
        places = np.random.default_rng(0).standard_normal((40, 3))
        return np.linalg.norm(places[:, None] - places[None], axis=-1)


def test_a_surface_has_lengths_but_no_sides():
    values = white(40, 60)
    with pytest.raises(InputError, match="max_distance"):
        stats.generic_topography(values, Mesh())
    far, alike = pairs_of(values, Mesh())
    expected = -spearmanr(far[far <= 2.0], alike[far <= 2.0])[0]
    assert stats.generic_topography(values, Mesh(), max_distance=2.0) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("form", ["spearman", "pearson", "ratio"])
def test_the_null_is_the_statistic_of_permuted_units(form):
    sheet = Sheet.grid(6, 7)
    values = np.random.default_rng(3).standard_normal((40, 42)) @ sheet.smoothing(2.0)
    values[:, 5] = 1.0  # a constant unit
    null = stats.generic_topography_null(values, sheet, n_null=5, seed=2, form=form)
    orders = stats.layout_permutations(42, 5, seed=2)
    slow = [stats.generic_topography(values[:, order], sheet, form=form) for order in orders]
    np.testing.assert_allclose(null, slow, atol=1e-12 if form == "spearman" else 2e-6)
    assert np.abs(null).max() < 0.25 * stats.generic_topography(values, sheet, form=form)


def test_the_null_by_radius_averages_to_the_null_and_can_be_drawn_from_fewer_pairs():
    sheet = Sheet.grid(9, 9)
    values = white(81, 30) @ sheet.smoothing(2.0).T
    by_radius = stats.generic_topography_null_by_radius(values, sheet, n_null=20, seed=3)
    assert by_radius.shape == (20, 8)
    np.testing.assert_allclose(
        np.nanmean(by_radius, axis=1), stats.generic_topography_null(values, sheet, n_null=20, seed=3)
    )
    drawn = stats.generic_topography_null(values, sheet, n_null=20, seed=3, n_pairs=300)
    orders = stats.layout_permutations(81, 20, seed=3)
    slow = [stats.generic_topography(values[:, order], sheet, n_pairs=300, seed=3) for order in orders]
    np.testing.assert_allclose(drawn, slow, atol=1e-12)


def test_rank_levels_of_a_large_sheet_move_the_null_by_less_than_a_thousandth():
    sheet = Sheet.grid(20, 20)  # 79,800 pairs share the levels
    values = smooth_on_torus(white(400, 300), 20, 2.0)
    by_radius = stats.generic_topography_null_by_radius(values, sheet, n_null=4, seed=5)
    assert sheet.n_units * (sheet.n_units - 1) / 2 > 9 * LEVELS
    for row, order in zip(by_radius, stats.layout_permutations(400, 4, seed=5), strict=True):
        exact = stats.generic_topography_by_radius(values[:, order], sheet).value
        assert 0 < np.abs(row - exact).max() < 1e-3


def test_few_levels_are_enough_even_where_most_units_are_silent():
    sheet = Sheet.grid(16, 16)
    values = smooth_on_torus(white(256, 100), 16, 1.5)
    values[:, np.random.default_rng(0).permutation(256)[:180]] = 0.0  # nine pairs of ten correlate at exactly 0
    null = stats.generic_topography_null(values, sheet, n_null=5, seed=1)
    orders = stats.layout_permutations(256, 5, seed=1)
    slow = [stats.generic_topography(values[:, order], sheet) for order in orders]
    np.testing.assert_allclose(null, slow, atol=1e-3)
