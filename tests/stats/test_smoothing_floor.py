import numpy as np
import pytest

from topobrain import stats
from topobrain._checks import InputError
from topobrain.sheet import Sheet


def white(d, n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d))


@pytest.mark.parametrize(
    ("fwhm", "floor"),
    [(0, -0.001), (1, 0.068), (1.2, 0.176), (1.5, 0.373), (2, 0.596), (3, 0.791), (4, 0.873), (6, 0.938), (8, 0.961)],
)
def test_the_closed_form_equals_the_table(fwhm, floor):
    assert stats.smoothing_floor(fwhm, 784) == pytest.approx(floor, abs=1e-3)


def test_without_smoothing_the_floor_is_the_expectation_of_noise():
    assert stats.smoothing_floor(0, 100) == pytest.approx(-1 / 99, abs=1e-12)
    assert stats.smoothing_floor(1e-3, 100) == pytest.approx(-1 / 99, abs=1e-12)


def test_kernels_as_wide_as_the_sheet_have_no_floor():
    with pytest.raises(InputError, match="one blob"):
        stats.smoothing_floor(20, 100)
    for fwhm in (-1, np.inf, np.nan):
        with pytest.raises(InputError, match="fwhm"):
            stats.smoothing_floor(fwhm, 100)
    with pytest.raises(InputError, match="three units"):
        stats.smoothing_floor(1, 2)


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
    assert stats.morans_i(plane.smooth(noise, fwhm), plane).mean() == pytest.approx(normalised, abs=0.006)
    assert stats.morans_i(plane.smooth(noise, fwhm, edges="sum"), plane).mean() == pytest.approx(summed, abs=0.006)
    if torus is not None:
        assert stats.morans_i(ring.smooth(noise, fwhm), ring).mean() == pytest.approx(torus, abs=0.006)
        assert stats.smoothing_floor(fwhm, 784) == pytest.approx(
            torus, abs=0.0045
        )  # within 0.003, and the table rounds


@pytest.mark.parametrize("edges", ["normalised", "sum"])
def test_smoothed_noise_has_a_corrected_index_of_zero(edges):
    sheet = Sheet.grid(28, 28)
    null = stats.morans_i(sheet.smooth(white(784, 200), 2, edges=edges), sheet)
    values = stats.morans_i(sheet.smooth(white(784, 200, seed=1), 2, edges=edges), sheet)
    corrected = [stats.compare_with_null(value, null).corrected for value in values]
    assert np.mean(corrected) == pytest.approx(0, abs=0.03)


def test_a_planted_patch_stands_above_the_floor_by_the_known_amount():
    sheet, patch = Sheet.grid(28, 28), np.zeros((28, 28))
    patch[9:19, 9:19] = 6
    values = white(784, 1)[0] + patch.ravel()
    raw = stats.morans_i_test(values, sheet, n_null=200)
    assert raw.value == pytest.approx(0.70, abs=0.03)
    assert raw.null_mean == pytest.approx(-0.001, abs=0.005)
    permuted = values[stats.layout_permutations(784, 100)]
    null = stats.morans_i(sheet.smooth(permuted, 2, edges="sum"), sheet)  # permuted first, then smoothed
    smoothed = stats.compare_with_null(stats.morans_i(sheet.smooth(values, 2, edges="sum"), sheet), null)
    assert smoothed.value == pytest.approx(0.966, abs=0.01)
    assert smoothed.null_mean == pytest.approx(0.603, abs=0.02)
    assert smoothed.null_sd == pytest.approx(0.031, abs=0.01)
    assert smoothed.corrected == pytest.approx(0.91, abs=0.03)
