"""Geometry of the discs and Gaussians that queries are pooled over."""

import math

import numpy as np
import pytest

from topobrain import Sheet
from topobrain._checks import InputError, UnknownNameError
from topobrain.nn import SpatialQuerying, SpatialReweighting
from topobrain.nn.pools import MAX_FRACTION, disc, disc_radius, gaussian, normalised_pool, square_sheet, square_torus


@pytest.mark.parametrize(
    ("d", "fraction", "k", "steps"),
    [
        (400, 0.1, 37, 3.57),
        (400, 0.2, 81, 5.05),
        (400, 0.3, 121, 6.18),
        (784, 0.1, 69, 5.00),
        (784, 0.3, 241, 8.65),
        (784, 1.0, 711, 15.80),
    ],
)
def test_disc_is_a_symmetric_mask_with_the_same_number_of_units_everywhere(d, fraction, k, steps):
    mask = disc(square_torus(d), fraction)
    assert set(np.unique(mask)) == {0, 1}
    assert np.array_equal(mask, mask.T)
    assert (np.diag(mask) == 1).all()
    assert (mask.sum(axis=1) == k).all()
    assert disc_radius(fraction) * math.isqrt(d) == pytest.approx(steps, abs=0.006)


def test_disc_equals_a_slow_loop_over_pairs():
    d, side, fraction = 49, 7, 0.25
    mask = disc(square_torus(d), fraction)
    for u in range(d):
        for v in range(d):
            gaps = [abs(u // side - v // side) / side, abs(u % side - v % side) / side]
            far = math.hypot(*(min(gap, 1 - gap) for gap in gaps))
            assert mask[u, v] == (far <= math.sqrt(fraction / math.pi))


def test_the_torus_is_at_most_a_half_diagonal_wide_and_a_disc_of_half_pi_covers_it():
    for d in (400, 784):
        sheet = square_torus(d)
        assert sheet.distances().max() / sheet.width == pytest.approx(0.70711, abs=1e-5)
        assert (disc(sheet, math.pi / 2) == 1).all()
        assert (disc(sheet, 1.5) == 0).any()
        assert np.array_equal(disc(sheet, 1e-4), np.eye(d))


@pytest.mark.parametrize(
    ("d", "fraction", "rank", "condition", "weak"),
    [
        (400, 0.1, 392, None, 0.090),
        (400, 0.2, 384, None, 0.170),
        (400, 0.3, 400, 2.2e3, 0.242),
        (784, 0.1, 784, 3.9e2, 0.071),
        (784, 0.3, 784, 4.0e3, 0.407),
        (784, 1.0, 784, 1.8e5, 0.871),
    ],
)
def test_rank_and_condition_of_the_disc(d, fraction, rank, condition, weak):
    values = np.linalg.eigvalsh(disc(square_torus(d), fraction).astype(float))
    size = np.abs(values)
    assert (size > 1e-9 * size.max()).sum() == rank
    assert (size < 0.01 * size.max()).mean() == pytest.approx(weak, abs=0.001)
    if condition is not None:
        assert size.max() / size.min() == pytest.approx(condition, rel=0.03)
        assert 0.48 < (values < 0).mean() < 0.515  # it rings


def test_an_open_border_changes_only_units_whose_disc_reaches_it():
    fraction, side = 0.1, 20
    torus, border = square_torus(400), square_sheet(400, wrapped=False)
    wrapped, cut = disc(torus, fraction), disc(border, fraction)
    assert not border.wrapped
    assert np.array_equal(cut, cut.T)
    reach = disc_radius(fraction) * side
    row, column = np.divmod(np.arange(400), side)
    inside = np.minimum.reduce([row, column, side - 1 - row, side - 1 - column]) >= math.floor(reach)
    assert 100 < inside.sum() < 300
    assert np.array_equal(wrapped[inside], cut[inside])
    assert (cut <= wrapped).all()
    assert (wrapped != cut).any(axis=1)[~inside].all()
    assert cut[0].sum() < 0.4 * wrapped[0].sum()  # a corner has a quarter of its disc
    assert (disc(border, MAX_FRACTION) == 1).all()


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.3, 1.5])
def test_gaussian_is_positive_definite_and_falls_with_distance(fraction, wrapped):
    sheet = square_sheet(196, wrapped=wrapped)
    kernel = gaussian(sheet, fraction)
    assert np.allclose(kernel, kernel.T, atol=1e-15)
    assert np.diag(kernel) == pytest.approx(1)
    assert (kernel > 0).all()
    values = np.linalg.eigvalsh(kernel)
    assert values.min() > -1e-13 * values.max()
    straight = sheet.distances()[0, :7]
    assert (np.diff(kernel[0, :7][np.argsort(straight)]) < 0).all()


@pytest.mark.slow
def test_gaussian_spreads_as_far_as_the_disc():
    sheet = square_torus(900)
    squared, ratios = sheet.distances()[0] ** 2, []
    for fraction in np.linspace(0.04, 0.12, 12):
        flat, bell = ((k[0] * squared).sum() / k[0].sum() for k in (disc(sheet, fraction), gaussian(sheet, fraction)))
        assert bell == pytest.approx((disc_radius(fraction) * 30) ** 2 / 2, rel=0.005)
        ratios.append(flat / bell)
    assert np.mean(ratios) == pytest.approx(1, abs=0.03)  # discs consist of whole units: each alone is off by some 10 %


def test_gaussian_on_a_torus_is_summed_over_all_ways_round():
    sheet, fraction = square_torus(25), 1.5
    sigma = disc_radius(fraction) * 5 / 2
    gap = np.arange(5)
    ways = np.arange(-50, 51) * 5
    axis = np.exp(-((gap[:, None] + ways) ** 2) / (2 * sigma**2)).sum(axis=1)
    expected = np.outer(axis, axis).ravel() / axis[0] ** 2
    assert gaussian(sheet, fraction)[0] == pytest.approx(expected, abs=1e-12)
    assert np.array_equal(gaussian(sheet, 1e-4).round(12), np.eye(25))


@pytest.mark.parametrize("kind", ["disc", "gaussian", "learned"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_pools_have_frobenius_norm_one(kind, wrapped):
    pool = normalised_pool(kind, square_sheet(100, wrapped=wrapped), 0.2)
    assert np.linalg.norm(pool.astype(float)) == pytest.approx(1, abs=1e-6)


def test_the_spacing_of_a_sheet_does_not_matter():
    near, far = Sheet.grid(10, 10, wrapped=True), Sheet.grid(10, 10, wrapped=True, spacing=2.5)
    for kernel in (disc, gaussian):
        assert np.allclose(kernel(near, 0.1), kernel(far, 0.1), atol=1e-12)


def test_kernels_given_out_can_be_changed_without_harm():
    sheet = square_torus(25)
    for kernel in (disc, gaussian):
        before = kernel(sheet, 0.3)
        kernel(sheet, 0.3)[:] = 7
        assert np.array_equal(kernel(sheet, 0.3), before)


@pytest.mark.parametrize(("d", "near"), [(768, 784), (399, 400), (401, 400), (2, 1), (3, 4)])
def test_other_than_square_numbers_are_answered_with_the_nearest(d, near):
    for kind in (SpatialQuerying, SpatialReweighting):
        with pytest.raises(InputError, match=f"nearest: {near}$"):
            kind(d, 0.1)


@pytest.mark.parametrize("fraction", [0.0, -0.1, -1, math.nan, math.inf, 6.3, 37])
def test_impossible_fractions_are_refused(fraction):
    for kind in (SpatialQuerying, SpatialReweighting):
        with pytest.raises(InputError, match="fraction is the disc's share"):
            kind(100, fraction)


def test_a_pool_of_unknown_kind_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'gaussian'"):
        SpatialQuerying(100, 0.1, pool="gausian")
