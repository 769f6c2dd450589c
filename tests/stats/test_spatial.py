import numpy as np
import pytest
from scipy.stats import kstest, spearmanr

from topobrain import stats
from topobrain._checks import InputError
from topobrain.sheet import Sheet
from topobrain.stats import generic_topography, generic_topography_null
from topobrain.stats.nulls import layout_permutations


def white(d, n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d))


def smooth_on_torus(values, side, sigma):
    """Multiply the two-dimensional spectrum by exp(-sigma^2 w^2 / 2), w in radians a grid step."""
    w = 2 * np.pi * np.fft.fftfreq(side)
    gain = np.exp(-(sigma**2) * (w[:, None] ** 2 + w[None, :] ** 2) / 2)
    images = values.reshape(-1, side, side)
    return np.fft.ifft2(np.fft.fft2(images) * gain).real.reshape(values.shape)


@pytest.mark.parametrize("neighbours", ["queen", "rook"])
@pytest.mark.parametrize("shape", [(28, 28), (5, 9)])
def test_morans_i_equals_esda(neighbours, shape):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from esda import Moran
        from libpysal.weights import lat2W

        weights = lat2W(*shape, rook=neighbours == "rook")
        maps = white(shape[0] * shape[1], 4) + 100
        expected = [Moran(one, weights, transformation="B", permutations=0).I for one in maps]
    found = stats.morans_i(maps, Sheet.grid(*shape), neighbours=neighbours)
    assert np.allclose(found, expected, rtol=0, atol=1e-12)
    assert stats.morans_i(maps[0], Sheet.grid(*shape), neighbours=neighbours) == pytest.approx(found[0], abs=1e-15)


def test_missing_units_leave_the_graph_as_in_esda():
    import warnings

    sheet, values = Sheet.grid(6, 7), white(42, 1)[0]
    values[[0, 9, 30]] = np.nan
    keep = np.flatnonzero(np.isfinite(values))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from esda import Moran
        from libpysal.weights import lat2W, w_subset

        weights = w_subset(lat2W(6, 7, rook=False), keep.tolist())
        expected = Moran(values[keep], weights, transformation="B", permutations=0).I
    assert stats.morans_i(values, sheet) == pytest.approx(expected, abs=1e-12)


def test_maps_with_different_holes_are_each_scored_alone():
    sheet, maps = Sheet.grid(6, 6), white(36, 3)
    maps[0, 3], maps[2, 20:] = np.nan, np.nan
    assert np.allclose(stats.morans_i(maps, sheet), [stats.morans_i(one, sheet) for one in maps])


def test_places_beyond_the_units_of_a_padded_sheet_do_not_count():
    values = white(11, 1)[0]
    full = np.append(values, np.nan)
    assert stats.morans_i(values, Sheet.for_width(11)) == pytest.approx(stats.morans_i(full, Sheet.grid(3, 4)))


def test_morans_i_on_a_torus_equals_array_shifts_and_ignores_shifts():
    sheet, image = Sheet.grid(8, 9, wrapped=True), white(72, 1)[0].reshape(8, 9)
    z = image - image.mean()
    steps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    expected = sum((z * np.roll(z, step, (0, 1))).sum() for step in steps) / 8 / (z**2).sum()
    for shift in ((0, 0), (3, 0), (5, 7)):
        assert stats.morans_i(np.roll(image, shift, (0, 1)).ravel(), sheet) == pytest.approx(expected, abs=1e-14)


def test_morans_i_ignores_scale_and_offset():
    sheet, values = Sheet.grid(7, 7), white(49, 1)[0]
    assert stats.morans_i(-1e-6 * values + 50, sheet) == pytest.approx(stats.morans_i(values, sheet), rel=1e-6)


def test_white_noise_has_the_expected_mean_and_spread():
    found = stats.morans_i(white(784, 300), Sheet.grid(28, 28))
    assert found.mean() == pytest.approx(-1 / 783, abs=0.004)
    assert found.std() == pytest.approx(0.019, abs=0.003)


@pytest.mark.parametrize(
    ("fwhm", "normalised", "summed", "torus"),
    [
        (0, -0.001, -0.001, -0.001),
        (1, 0.069, 0.069, 0.068),
        (1.5, 0.370, 0.378, None),
        (2, 0.587, 0.606, 0.595),
        (3, 0.773, 0.806, 0.788),
        (4, 0.849, 0.889, 0.870),
        (8, 0.926, 0.974, 0.958),
    ],
)
def test_smoothing_alone_gives_the_known_floor(fwhm, normalised, summed, torus):
    noise, plane, ring = white(784, 400), Sheet.grid(28, 28), Sheet.grid(28, 28, wrapped=True)
    assert stats.morans_i(noise @ plane.smoothing(fwhm).T, plane).mean() == pytest.approx(normalised, abs=0.006)
    sigma = max(fwhm, 1e-3) / np.sqrt(8 * np.log(2))
    kernel = np.exp(-(plane.distances() ** 2) / (2 * sigma**2))
    assert stats.morans_i(noise @ kernel, plane).mean() == pytest.approx(summed, abs=0.006)
    if torus is not None:
        assert stats.morans_i(noise @ ring.smoothing(fwhm).T, ring).mean() == pytest.approx(torus, abs=0.006)


def test_maps_without_an_index_are_refused():
    sheet = Sheet.grid(4, 4)
    with pytest.raises(InputError, match="constant"):
        stats.morans_i(np.full(16, 0.1), sheet)
    with pytest.raises(InputError, match="constant"):
        stats.morans_i(np.stack([np.arange(16.0), np.full(16, 1e9 + 0.1)]), sheet)
    with pytest.raises(InputError, match="three units"):
        stats.morans_i(np.r_[1.0, 2.0, np.full(14, np.nan)], sheet)
    with pytest.raises(InputError, match="neighbours"):
        stats.morans_i(np.where(np.isin(np.arange(16), [0, 2, 8, 10]), np.arange(16.0), np.nan), sheet)
    with pytest.raises(InputError, match="each of 16 units"):
        stats.morans_i(np.zeros(15), sheet)
    with pytest.raises(InputError, match=r"Sheet\.for_width"):
        stats.morans_i(np.arange(16.0), Sheet.none(16))


def test_layout_null_is_the_index_of_noise_and_follows_the_seed():
    sheet = Sheet.grid(28, 28)
    values = smooth_on_torus(white(784, 1), 28, 2.0)[0]
    null = stats.layout_null(values, sheet, n_null=300, seed=1)
    assert stats.morans_i(values, sheet) > 0.8
    assert null.mean() == pytest.approx(-1 / 783, abs=0.004)
    assert null.std() == pytest.approx(0.019, abs=0.003)
    assert np.array_equal(null, stats.layout_null(values, sheet, n_null=300, seed=1))
    assert not np.array_equal(null, stats.layout_null(values, sheet, n_null=300, seed=2))


def test_layout_null_leaves_missing_units_where_they_are():
    sheet, values = Sheet.grid(4, 4), np.arange(16.0)
    values[[0, 1, 2, 3, 4]] = np.nan
    null = stats.layout_null(values, sheet, n_null=50)
    slow = []
    for order in stats.layout_permutations(11, 50):
        shuffled = values.copy()
        shuffled[5:] = values[5:][order]
        slow.append(stats.morans_i(shuffled, sheet))
    assert np.allclose(null, slow)


def test_layout_p_is_uniform_for_unstructured_maps():
    sheet, p = Sheet.grid(8, 8), []
    for seed, one in enumerate(white(64, 300)):
        p.append(
            stats.compare_with_null(stats.morans_i(one, sheet), stats.layout_null(one, sheet, n_null=99, seed=seed)).p
        )
    assert kstest(p, "uniform").pvalue > 0.01


@pytest.mark.parametrize(
    ("d", "sigma", "expected", "by_radius"),
    [
        (400, 0, -0.004, {0.1: 0.005, 0.4: -0.004}),
        (400, 1, 0.560, {0.1: 0.943, 0.3: 0.768, 0.8: 0.292}),
        (400, 2, 0.899, {0.2: 0.988, 0.5: 0.881, 0.7: 0.804}),
        (400, 5, 0.972, {0.1: 0.943, 0.6: 0.963}),
        (784, 1, 0.410, {0.1: 0.947, 0.3: 0.489, 0.8: 0.163}),
        (784, 3, 0.917, {0.2: 0.984, 0.5: 0.910}),
    ],
)
def test_generic_topography_reference_values(d, sigma, expected, by_radius):
    side = int(np.sqrt(d))
    sheet = Sheet.grid(side, side, wrapped=True)
    values = smooth_on_torus(white(d, 1000), side, sigma)
    assert stats.generic_topography(values, sheet) == pytest.approx(expected, abs=0.002)
    for radius, at in by_radius.items():
        assert stats.generic_topography(values, sheet, radii=[radius]) == pytest.approx(at, abs=0.002)


@pytest.fixture(scope="module")
def patchy():
    return smooth_on_torus(white(144, 300), 12, 1.0), Sheet.grid(12, 12, wrapped=True)


def test_generic_topography_equals_a_slow_loop(patchy):
    values, sheet = patchy
    pairs = np.triu_indices(144, k=1)
    far = (sheet.distances() / 12)[pairs]
    alike = np.corrcoef(values.T)[pairs]
    expected = [-spearmanr(far[far <= m + 1e-9].round(9), alike[far <= m + 1e-9])[0] for m in np.arange(2, 9) / 10]
    found = stats.generic_topography(values, sheet, radii=[0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    assert found == pytest.approx(np.mean(expected), abs=1e-9)


def test_generic_topography_ignores_gain_offset_and_shifts_of_the_sheet(patchy):
    values, sheet = patchy
    rng = np.random.default_rng(1)
    expected = stats.generic_topography(values, sheet)
    changed = values * rng.uniform(0.1, 10, 144) + 100 * rng.standard_normal(144)
    shifted = np.roll(values.reshape(-1, 12, 12), (5, 3), axis=(1, 2)).reshape(values.shape)
    assert stats.generic_topography(changed, sheet) == pytest.approx(expected, abs=1e-6)
    assert stats.generic_topography(shifted, sheet) == pytest.approx(expected, abs=1e-9)
    bigger = Sheet.grid(12, 12, wrapped=True, spacing=3.0)
    assert stats.generic_topography(values, bigger) == pytest.approx(expected, abs=1e-12)


def test_generic_topography_of_permuted_units_is_zero():
    sheet = Sheet.grid(20, 20, wrapped=True)
    values = smooth_on_torus(white(400, 1000), 20, 2.0)
    order = np.random.default_rng(0).permutation(400)
    assert abs(stats.generic_topography(values[:, order], sheet)) < 0.015
    assert stats.generic_topography(values, sheet) > 0.8


def test_a_radius_that_holds_a_single_distance_is_skipped():
    values, sheet = smooth_on_torus(white(100, 200), 10, 1.0), Sheet.grid(10, 10, wrapped=True)
    wide = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    assert stats.generic_topography(values, sheet) == stats.generic_topography(values, sheet, radii=wide)
    with pytest.raises(InputError, match="no radius"):
        stats.generic_topography(values, sheet, radii=[0.1])


@pytest.mark.parametrize("level", [0.0, 0.1, 1e5 + 1 / 3])
def test_constant_units_correlate_at_zero(patchy, level):
    values, sheet = patchy
    values = values.copy()
    values[:, [3, 4, 40, 90]] = level
    pairs = np.triu_indices(144, k=1)
    with np.errstate(invalid="ignore"):
        alike = np.nan_to_num(np.corrcoef(np.where(np.ptp(values, axis=0) == 0, 0.0, values).T))[pairs]
    far = (sheet.distances() / 12)[pairs]
    near = far <= 0.3 + 1e-9
    expected = -spearmanr(far[near].round(9), alike[near])[0]
    assert stats.generic_topography(values, sheet, radii=[0.3]) == pytest.approx(expected, abs=1e-9)


def test_responses_that_do_not_fit_are_refused(patchy):
    values, sheet = patchy
    with pytest.raises(InputError, match="144 units"):
        stats.generic_topography(values[:, 1:], sheet)
    with pytest.raises(InputError, match="3 stimuli"):
        stats.generic_topography(values[:2], sheet)
    with pytest.raises(InputError, match=r"Sheet\.for_width"):
        stats.generic_topography(values, Sheet.none(144))


def test_the_null_of_generic_topography_is_the_statistic_of_permuted_units():
    sheet = Sheet.grid(6, 7)
    values = np.random.default_rng(3).standard_normal((40, 42)) @ sheet.smoothing(2.0)
    values[:, 5] = 1.0  # a constant unit
    null = generic_topography_null(values, sheet, n_null=5, seed=2)
    orders = layout_permutations(42, 5, seed=2)
    np.testing.assert_allclose(null, [generic_topography(values[:, order], sheet) for order in orders], atol=1e-12)
    assert np.abs(null).max() < 0.2 < generic_topography(values, sheet)


def test_generic_topography_is_minus_spearman_averaged_over_radii():
    sheet = Sheet.grid(7, 7, wrapped=True)
    values = np.random.default_rng(4).standard_normal((30, 49)) @ sheet.smoothing(1.5)
    first, second = np.triu_indices(49, k=1)
    distance = (sheet.distances() / 7)[first, second].round(12)
    correlation = np.corrcoef(values.T)[first, second]
    expected = [
        -spearmanr(distance[distance <= m + 1e-9], correlation[distance <= m + 1e-9]).statistic
        for m in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # smaller radii hold one distance or none
    ]
    assert generic_topography(values, sheet) == pytest.approx(np.mean(expected), abs=1e-9)
