import numpy as np
import pytest

from topobrain import stats
from topobrain._checks import InputError, UnknownNameError
from topobrain.sheet import Sheet


def white(n_maps, n_units, seed=0):
    return np.random.default_rng(seed).standard_normal((n_maps, n_units))


@pytest.mark.parametrize("shape", [(28, 28), (12, 17), (5, 40)])
def test_power_adds_up_to_the_variance_of_the_map(shape):
    sheet, maps = Sheet.grid(*shape), 3 * white(4, shape[0] * shape[1]) + 100
    found = stats.radial_power(maps, sheet)
    assert found.n_modes.sum() == sheet.n_units - 1
    assert (found.n_modes > 0).all()
    np.testing.assert_allclose((found.power * found.n_modes).sum(axis=1) / sheet.n_units, maps.var(axis=1))
    np.testing.assert_allclose(stats.radial_power(maps[1], sheet).power, found.power[1])


def test_power_is_that_of_a_plain_transform_ring_by_ring():
    image = white(1, 30)[0].reshape(5, 6)
    rows, columns = np.indices((5, 6))
    total, count = {}, {}
    for ky in range(-2, 3):
        for kx in range(-3, 3):
            if (ky, kx) != (0, 0):
                amplitude = (image * np.exp(-2j * np.pi * (ky * rows / 5 + kx * columns / 6))).sum()
                ring = round(float(np.hypot(ky / 5, kx / 6)) * 5)
                total[ring] = total.get(ring, 0) + abs(amplitude) ** 2 / 30
                count[ring] = count.get(ring, 0) + 1
    found = stats.radial_power(image.ravel(), Sheet.grid(5, 6))
    rings = sorted(total)
    np.testing.assert_allclose(found.frequency, np.array(rings) / 5)
    np.testing.assert_allclose(found.power, [total[k] / count[k] for k in rings])


@pytest.mark.parametrize("k", [1, 3, 7, 12])
def test_a_sinusoid_has_its_power_at_its_frequency(k):
    sheet = Sheet.grid(24, 24, spacing=0.5)
    wave = np.cos(2 * np.pi * k * np.arange(24) / 24 + 0.3)
    for image in (np.tile(wave, (24, 1)), np.tile(wave, (24, 1)).T):
        found = stats.radial_power(image.ravel() - 5, sheet)
        assert found.frequency[found.power.argmax()] == pytest.approx(k / 24 / 0.5)
        np.testing.assert_allclose((found.power * found.n_modes)[k - 1], 576 * wave.var())
        assert stats.spectral_centroid(image.ravel(), sheet) == pytest.approx(k / 12)


def test_white_noise_is_flat():
    found = stats.radial_power(2 * white(400, 784), Sheet.grid(28, 28))
    assert np.abs(found.power.mean(axis=0) / 4 - 1).max() < 0.12
    centroid = stats.spectral_centroid(white(50, 784), Sheet.grid(28, 28)).mean()
    grid = np.hypot(*np.meshgrid(np.fft.fftfreq(28), np.fft.fftfreq(28)))
    assert centroid == pytest.approx(grid.sum() / 783, abs=0.003)
    assert centroid == pytest.approx(0.38, abs=0.01)


def test_smoothing_moves_power_to_low_frequencies_as_its_kernel_says():
    sheet = Sheet.grid(28, 28, wrapped=True)
    sigma = 4 / np.sqrt(8 * np.log(2))
    maps = white(300, 784)
    found = stats.radial_power(maps @ sheet.smoothing(4.0).T, sheet)
    gain = np.exp(-((2 * np.pi * found.frequency * sigma) ** 2))
    np.testing.assert_allclose(found.power.mean(axis=0)[:4], gain[:4], rtol=0.2)
    shares = [stats.low_frequency_share(m, sheet, below=0.1).mean() for m in (maps, maps @ sheet.smoothing(4.0).T)]
    assert shares[0] < 0.05
    assert shares[1] > 0.6
    assert stats.spectral_centroid(maps @ sheet.smoothing(4.0).T, sheet).mean() < 0.12


def test_low_frequency_share_counts_modes_up_to_its_limit():
    sheet, maps = Sheet.grid(16, 16), white(3, 256)
    assert stats.low_frequency_share(maps[0], sheet, below=1.0) == pytest.approx(1.0)
    assert stats.low_frequency_share(maps[0], sheet, below=1 / 17) == 0.0
    steps = [stats.low_frequency_share(maps[0], sheet, below=k / 16) for k in (1, 2, 4, 8)]
    assert steps == sorted(steps)
    amplitude = np.abs(np.fft.fft2(maps[0].reshape(16, 16) - maps[0].mean())) ** 2
    first = amplitude[0, 1] + amplitude[1, 0] + amplitude[0, -1] + amplitude[-1, 0]
    assert steps[0] == pytest.approx(first / amplitude.sum())
    np.testing.assert_allclose(
        stats.low_frequency_share(maps, sheet, below=0.2),
        [stats.low_frequency_share(one, sheet, below=0.2) for one in maps],
    )


def test_spectra_do_not_change_under_shifts_of_a_torus_or_gain():
    sheet, image = Sheet.grid(9, 8, wrapped=True), white(1, 72)[0].reshape(9, 8)
    expected = stats.radial_power(image.ravel(), sheet).power
    np.testing.assert_allclose(stats.radial_power(np.roll(image, (2, 5), (0, 1)).ravel(), sheet).power, expected)
    np.testing.assert_allclose(stats.radial_power(-3 * image.ravel() + 8, sheet).power, 9 * expected)


@pytest.mark.parametrize("level", [0.0, 0.1, 1e9 + 1 / 3])
def test_a_constant_map_has_no_power(level):
    sheet = Sheet.grid(7, 9)
    assert (stats.radial_power(np.full(63, level), sheet).power == 0).all()
    assert np.isnan(stats.spectral_centroid(np.full(63, level), sheet))
    assert np.isnan(stats.low_frequency_share(np.full(63, level), sheet, below=0.2))


def test_holes_and_missing_units_are_refused_or_filled_with_the_mean():
    sheet, values = Sheet.for_width(23), white(1, 23)[0]
    with pytest.raises(InputError, match=r'fill="mean"'):
        stats.radial_power(values, sheet)
    image = sheet.to_image(values)
    image[np.isnan(image)] = values.mean()
    filled = stats.radial_power(image.ravel(), Sheet.grid(sheet.height, sheet.width))
    np.testing.assert_allclose(stats.radial_power(values, sheet, fill="mean").power, filled.power)
    holed = np.append(values, np.full(sheet.height * sheet.width - 23, np.nan))
    full = Sheet.grid(sheet.height, sheet.width)
    np.testing.assert_allclose(stats.radial_power(holed, full, fill="mean").power, filled.power)
    with pytest.raises(InputError, match="places have no unit or no value"):
        stats.low_frequency_share(holed, full, below=0.2)
    with pytest.raises(InputError, match="no values at all"):
        stats.radial_power(np.full(23, np.nan), sheet, fill="mean")


def test_units_in_places_of_their_own_are_put_there():
    order = np.random.default_rng(0).permutation(30)
    image = white(1, 30)[0]
    expected = stats.radial_power(image, Sheet.grid(5, 6)).power
    np.testing.assert_allclose(stats.radial_power(image[order], Sheet.grid(5, 6).with_places(order)).power, expected)


def test_what_has_no_spectrum_is_refused():
    with pytest.raises(InputError, match="each of 30 units"):
        stats.radial_power(np.zeros(29), Sheet.grid(5, 6))
    with pytest.raises(InputError, match=r"Sheet\.for_width"):
        stats.radial_power(np.zeros(30), Sheet.none(30))
    with pytest.raises(InputError, match="two rows"):
        stats.radial_power(np.zeros(30), Sheet.grid(1, 30))
    with pytest.raises(UnknownNameError, match="refuse"):
        stats.radial_power(np.zeros(30), Sheet.grid(5, 6), fill="zero")
    with pytest.raises(InputError, match="below"):
        stats.low_frequency_share(np.zeros(30), Sheet.grid(5, 6), below=0)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("window", [1, 3, 4])
def test_window_entropy_equals_a_slow_loop(wrapped, window):
    sheet = Sheet.grid(7, 6, wrapped=wrapped)
    labels = np.random.default_rng(window).integers(-1, 4, 42)
    image = labels.reshape(7, 6)
    found = []
    for row in range(7 if wrapped else 8 - window):
        for column in range(6 if wrapped else 7 - window):
            part = image[np.arange(row, row + window)[:, None] % 7, np.arange(column, column + window) % 6].ravel()
            share = np.unique(part[part >= 0], return_counts=True)[1] / (part >= 0).sum()
            if share.size:
                found.append(-(share * np.log2(share)).sum())
    assert stats.window_entropy(labels, sheet, window=window) == pytest.approx(np.mean(found))


def test_window_entropy_has_its_limits_and_tells_patches_from_their_permutation():
    sheet = Sheet.grid(20, 20)
    patches = (np.indices((20, 20)) // 5).sum(axis=0).ravel() % 4
    assert stats.window_entropy(np.zeros(400, dtype=int), sheet, window=5) == 0
    assert stats.window_entropy(np.arange(400), sheet, window=5) == pytest.approx(np.log2(25))
    null = stats.window_entropy(patches[stats.layout_permutations(400, 50)], sheet, window=5)
    assert null.shape == (50,)
    assert stats.window_entropy(patches, sheet, window=5) < null.min() - 0.3
    assert np.isnan(stats.window_entropy(np.full(400, -1), sheet, window=5))
    renamed = np.array([7, 100, 3, 12])[patches]
    assert stats.window_entropy(renamed, sheet, window=5) == pytest.approx(
        stats.window_entropy(patches, sheet, window=5)
    )


def test_window_entropy_leaves_out_holes():
    sheet = Sheet.for_width(23)
    labels = np.random.default_rng(0).integers(0, 3, 23)
    full = np.append(labels, np.full(sheet.height * sheet.width - 23, -1))
    expected = stats.window_entropy(full, Sheet.grid(sheet.height, sheet.width), window=3)
    assert stats.window_entropy(labels, sheet, window=3) == pytest.approx(expected)


def test_labels_that_are_none_are_refused():
    sheet = Sheet.grid(5, 6)
    with pytest.raises(InputError, match="whole numbers"):
        stats.window_entropy(np.zeros(30), sheet, window=3)
    with pytest.raises(InputError, match="1 to 5"):
        stats.window_entropy(np.zeros(30, dtype=int), sheet, window=6)
    with pytest.raises(InputError, match="each of 30 units"):
        stats.window_entropy(np.zeros(31, dtype=int), sheet, window=3)
