import numpy as np
import pytest
from scipy.stats import kstest

from topobrain import stats
from topobrain._checks import InputError, UnknownNameError
from topobrain.sheet import Sheet


def smooth_maps(n_maps, sheet, fwhm=3.0, seed=0):
    return np.random.default_rng(seed).standard_normal((n_maps, sheet.n_units)) @ sheet.smoothing(fwhm).T


@pytest.mark.parametrize("shape", [(28, 28), (30, 17)])
@pytest.mark.parametrize(("sigma", "offset", "data_range"), [(1.5, 0.5, None), (2.2, -4.0, 6.0), (0.8, 1000.0, None)])
def test_ssim_equals_scikit_image_on_full_windows(shape, sigma, offset, data_range):
    from skimage.metrics import structural_similarity

    sheet = Sheet.grid(*shape)
    a, b = smooth_maps(2, sheet) + offset
    joint = max(a.max(), b.max()) - min(a.min(), b.min())
    expected = structural_similarity(
        a.reshape(shape),
        b.reshape(shape),
        gaussian_weights=True,
        sigma=sigma,
        use_sample_covariance=False,
        data_range=joint if data_range is None else data_range,
    )
    found = stats.ssim(a, b, sheet, sigma=sigma, data_range=data_range, level="zero", border="valid")
    assert found == pytest.approx(expected, abs=1e-12 if offset < 10 else 1e-7)  # squares of 1000 cost it digits
    assert abs(expected) < 0.9 or offset > 10


def test_signed_maps_resemble_their_own_negative_unless_the_lowest_value_counts_as_dark():
    from skimage.metrics import structural_similarity

    sheet = Sheet.grid(20, 20)
    a = smooth_maps(1, sheet, 5.0)[0]
    image, options = a.reshape(20, 20), {"gaussian_weights": True, "use_sample_covariance": False}
    signed = structural_similarity(image, -image, data_range=2 * np.abs(a).max(), **options)
    assert signed > 0.5
    assert stats.ssim(a, -a, sheet, level="zero", border="valid") == pytest.approx(signed, abs=1e-12)
    lifted = image + np.abs(a).max(), -image + np.abs(a).max()
    expected = structural_similarity(*lifted, data_range=2 * np.abs(a).max(), **options)
    assert stats.ssim(a, -a, sheet, border="valid") == pytest.approx(expected, abs=1e-12)
    assert expected < -0.4


def slow_ssim(a, b, sheet, sigma):
    """Every window by its own sums over all units."""
    both = np.isfinite(a) & np.isfinite(b)
    gap_y = np.abs(sheet.y[:, None] - sheet.y)
    gap_x = np.abs(sheet.x[:, None] - sheet.x)
    if sheet.wrapped:
        gap_y, gap_x = np.minimum(gap_y, sheet.height - gap_y), np.minimum(gap_x, sheet.width - gap_x)
    reach = int(3.5 * sigma + 0.5)
    weight = np.exp(-(gap_y**2 + gap_x**2) / (2 * sigma**2)) * ((gap_y <= reach) & (gap_x <= reach)) * both
    weight /= weight.sum(axis=1, keepdims=True)
    data_range = np.ptp(np.concatenate([a[both], b[both]]))
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    found = []
    lowest = min(a[both].min(), b[both].min())
    x, y = np.where(both, a - lowest, 0), np.where(both, b - lowest, 0)
    for w in weight[both]:
        mx, my = w @ x, w @ y
        vx, vy, c = w @ (x - mx) ** 2, w @ (y - my) ** 2, w @ ((x - mx) * (y - my))
        found.append((2 * mx * my + c1) * (2 * c + c2) / (mx**2 + my**2 + c1) / (vx + vy + c2))
    return np.mean(found)


@pytest.mark.parametrize(
    "sheet",
    [
        Sheet.grid(12, 14),
        Sheet.grid(13, 15, wrapped=True),
        Sheet.for_width(131),
        Sheet.grid(9, 10).with_places(np.random.default_rng(1).permutation(90)),
    ],
)
def test_ssim_equals_a_slow_loop_with_normalised_windows(sheet):
    a, b = smooth_maps(2, sheet) + 0.3
    assert stats.ssim(a, b, sheet) == pytest.approx(slow_ssim(a, b, sheet, 1.5), abs=1e-12)
    if not sheet.wrapped:
        a[[3, 4, 20]], b[[4, 60]] = np.nan, np.inf
        assert stats.ssim(a, b, sheet) == pytest.approx(slow_ssim(a, b, sheet, 1.5), abs=1e-12)


def test_ssim_is_one_for_equal_maps_symmetric_and_falls_with_noise():
    sheet = Sheet.grid(16, 18)
    a, b, noise = smooth_maps(3, sheet)
    assert stats.ssim(a, a, sheet) == pytest.approx(1.0, abs=1e-12)
    assert stats.ssim(a, b, sheet) == pytest.approx(stats.ssim(b, a, sheet))
    falling = [stats.ssim(a, a + level * noise, sheet) for level in (0.0, 0.2, 0.5, 1.0)]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] < 0.9
    assert stats.ssim(a, -a, sheet) < -0.4
    assert stats.ssim(5 * a, 5 * b, sheet) == pytest.approx(stats.ssim(a, b, sheet))


def test_windows_are_as_wide_as_the_spacing_says_and_the_range_counts():
    a, b = smooth_maps(2, Sheet.grid(16, 18))
    fine = Sheet.grid(16, 18, spacing=0.5)
    assert stats.ssim(a, b, fine, sigma=1.0) == pytest.approx(stats.ssim(a, b, Sheet.grid(16, 18), sigma=2.0))
    sheet = Sheet.grid(16, 18)
    wide = stats.ssim(a, b, sheet, data_range=1e3 * np.ptp(a))
    assert wide > 0.99 > stats.ssim(a, b, sheet)


def test_many_maps_are_compared_at_once():
    sheet = Sheet.grid(9, 10)
    maps = smooth_maps(300, sheet)  # more than one batch
    maps[5, 7] = np.nan
    found = stats.ssim(maps[0], maps, sheet)
    assert found[0] == pytest.approx(1.0)
    np.testing.assert_allclose(found[[1, 5, 299]], [stats.ssim(maps[0], maps[k], sheet) for k in (1, 5, 299)])
    r = stats.map_correlation(maps[0], maps)
    assert r[0] == pytest.approx(1.0)
    np.testing.assert_allclose(r[1], np.corrcoef(maps[0], maps[1])[0, 1])
    there = np.isfinite(maps[5])
    np.testing.assert_allclose(r[5], np.corrcoef(maps[0, there], maps[5, there])[0, 1])


def test_maps_without_a_correlation_have_none():
    ramp = np.arange(6.0)
    assert np.isnan(stats.map_correlation(ramp, np.full(6, 0.1)))
    assert np.isnan(stats.map_correlation(np.full(6, 0.1), ramp))
    assert np.isnan(stats.map_correlation(ramp, np.where(ramp < 2, ramp, np.nan)))
    assert stats.map_correlation(ramp, -ramp + 1e6) == pytest.approx(-1.0)


def test_ssim_of_maps_without_a_common_unit_is_not_a_number():
    sheet, ramp = Sheet.grid(2, 3), np.arange(6.0)
    assert np.isnan(stats.ssim(np.where(ramp < 3, ramp, np.nan), np.where(ramp < 3, np.nan, ramp), sheet))
    assert np.isnan(stats.ssim(ramp, ramp, sheet, border="valid"))  # no window fits


def test_torus_null_is_every_shift_once():
    sheet = Sheet.grid(6, 7, wrapped=True)
    a, b = smooth_maps(2, sheet, 2.0)
    shifts = [(dy, dx) for dy in range(6) for dx in range(7)][1:]
    moved = [np.roll(b.reshape(6, 7), shift, axis=(0, 1)).ravel() for shift in shifts]
    found = stats.map_similarity_null(a, b, sheet, null="torus")
    np.testing.assert_allclose(found, [stats.map_correlation(a, one) for one in moved], atol=1e-12)
    found = stats.map_similarity_null(a, b, sheet, null="torus", measure="ssim")
    np.testing.assert_allclose(found, [stats.ssim(a, one, sheet) for one in moved], atol=1e-12)
    order = np.random.default_rng(0).permutation(42)
    elsewhere = sheet.with_places(order)
    again = stats.map_similarity_null(a[order], b[order], elsewhere, null="torus", measure="ssim")
    np.testing.assert_allclose(again, found, atol=1e-12)


@pytest.mark.parametrize("measure", ["correlation", "ssim"])
def test_layout_null_permutes_the_first_map_and_smooths_after(measure):
    sheet = Sheet.grid(7, 8)
    kernel = sheet.smoothing(2.5)
    a, b = np.random.default_rng(0).standard_normal((2, 56))
    measured = {"correlation": stats.map_correlation, "ssim": lambda x, y: stats.ssim(x, y, sheet)}[measure]
    orders = stats.layout_permutations(56, 6, seed=4)
    options = {"measure": measure, "n_null": 6, "seed": 4}
    found = stats.map_similarity_null(a, kernel @ b, sheet, smooth=lambda maps: maps @ kernel.T, **options)
    np.testing.assert_allclose(found, [measured(kernel @ a[o], kernel @ b) for o in orders], atol=1e-12)
    a[[2, 9]] = np.nan
    there = np.isfinite(a)
    found = stats.map_similarity_null(a, b, sheet, **options)
    for value, order in zip(found, stats.layout_permutations(54, 6, seed=4), strict=True):
        moved = a.copy()
        moved[there] = a[there][order]
        assert value == pytest.approx(measured(moved, b), abs=1e-12)


def test_p_of_unrelated_smooth_maps_is_uniform_under_shifts_and_not_under_plain_permutations():
    sheet = Sheet.grid(14, 14, wrapped=True)
    maps = smooth_maps(400, sheet, 5.0)
    shifted, plain = [], []
    for a, b in maps.reshape(200, 2, 196):
        r = stats.map_correlation(a, b)
        shifted.append(stats.compare_with_null(r, stats.map_similarity_null(a, b, sheet, null="torus")).p)
        plain.append(stats.compare_with_null(r, stats.map_similarity_null(a, b, sheet, n_null=99)).p)
    assert kstest(shifted, "uniform").pvalue > 0.01
    assert np.mean(np.array(plain) < 0.05) > 0.2  # autocorrelation makes a plain permutation reject far too often


def test_a_shared_pattern_is_found_by_either_null_and_measure():
    sheet = Sheet.grid(16, 16, wrapped=True)
    shared, one, other = np.random.default_rng(5).standard_normal((3, 256))
    kernel = sheet.smoothing(2.5)
    a, b = shared + 0.7 * one, kernel @ (shared + 0.7 * other)
    for measure in ("correlation", "ssim"):
        measured = (
            stats.map_correlation(kernel @ a, b) if measure == "correlation" else stats.ssim(kernel @ a, b, sheet)
        )
        layout = stats.map_similarity_null(a, b, sheet, measure=measure, n_null=99, smooth=lambda maps: maps @ kernel.T)
        torus = stats.map_similarity_null(kernel @ a, b, sheet, measure=measure, null="torus")
        assert stats.compare_with_null(measured, layout).p == 0.01, measure
        assert stats.compare_with_null(measured, torus).p < 0.01, measure


def test_what_cannot_be_compared_is_refused():
    sheet, ramp = Sheet.grid(4, 5), np.arange(20.0)
    with pytest.raises(InputError, match="20 units"):
        stats.ssim(ramp, ramp[1:], sheet)
    with pytest.raises(InputError, match="each of 20 units"):
        stats.map_correlation(ramp, ramp[1:])
    with pytest.raises(InputError, match=r"Sheet\.for_width"):
        stats.ssim(ramp, ramp, Sheet.none(20))
    with pytest.raises(InputError, match="data_range"):
        stats.ssim(np.ones(20), np.ones(20), sheet)
    assert stats.ssim(np.ones(20), np.ones(20), sheet, data_range=1.0) == pytest.approx(1.0)
    with pytest.raises(InputError, match="sigma"):
        stats.ssim(ramp, ramp, sheet, sigma=0)
    with pytest.raises(InputError, match="data_range"):
        stats.ssim(ramp, ramp, sheet, data_range=-1.0)
    with pytest.raises(UnknownNameError, match="valid"):
        stats.ssim(ramp, ramp, sheet, border="vlaid")
    with pytest.raises(UnknownNameError, match="lowest"):
        stats.ssim(ramp, ramp, sheet, level="highest")
    with pytest.raises(UnknownNameError, match="ssim"):
        stats.map_similarity_null(ramp, ramp, sheet, measure="sim")
    with pytest.raises(UnknownNameError, match="torus"):
        stats.map_similarity_null(ramp, ramp, sheet, null="tor")
    with pytest.raises(InputError, match="wrapped"):
        stats.map_similarity_null(ramp, ramp, sheet, null="torus")
    with pytest.raises(InputError, match="smooth="):
        stats.map_similarity_null(ramp, ramp, Sheet.grid(4, 5, wrapped=True), null="torus", smooth=lambda maps: maps)
