import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from topobrain._checks import InputError, UnknownNameError
from topobrain.nn import activation_decay, correlation_loss, pair_correlation_loss
from topobrain.nn.correlation_loss import draw_neighbourhoods, neighbourhood, neighbourhood_centres, pair_distances
from topobrain.sheet import Sheet


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


def moved(sheet, seed=0):
    """The sheet with its units shuffled over its cells."""
    return sheet.with_places(np.random.default_rng(seed).permutation(sheet.cells))


def oracle(outputs, sheet, units=None):
    """The same quantity from numpy's own correlation and the sheet's own distances."""
    units = np.arange(sheet.n_units) if units is None else units
    first, second = np.triu_indices(len(units), k=1)
    r = np.corrcoef(np.asarray(outputs)[:, units].T)[first, second]
    d = sheet.distances()[units][:, units][first, second]
    return 0.5 * (1 - np.corrcoef(r, 1 / (1 + d))[0, 1])


def data_with_correlation(matrix, n_samples, seed=0):
    """Samples whose correlation matrix is exactly this one."""
    white = np.random.default_rng(seed).standard_normal((n_samples, len(matrix)))
    basis = np.linalg.qr(white - white.mean(axis=0))[0]
    return torch.from_numpy(basis @ np.linalg.cholesky(matrix).T)


SHEETS = {
    "planar": Sheet.grid(7, 9),
    "torus": Sheet.grid(7, 8, wrapped=True),
    "shuffled": moved(Sheet.grid(7, 9)),
    "shuffled torus": moved(Sheet.grid(8, 7, wrapped=True)),
    "holes": moved(Sheet(50, 7, 9)),
    "millimetres": Sheet.grid(7, 7, spacing=0.4),
}


@pytest.mark.parametrize("sheet", SHEETS.values(), ids=SHEETS)
def test_equals_an_independent_computation_on_every_kind_of_sheet(sheet):
    outputs = normal(40, sheet.n_units)
    assert correlation_loss(outputs, sheet).item() == pytest.approx(oracle(outputs, sheet), abs=1e-12)
    found = correlation_loss(outputs, sheet, radius=3, generator=generator(5))
    drawn = draw_neighbourhoods(sheet, 3, 5, generator(5))
    assert len(drawn) == 5
    assert found.item() == pytest.approx(np.mean([oracle(outputs, sheet, units) for units in drawn]), abs=1e-12)


def test_maximum_takes_the_worst_neighbourhood():
    sheet, outputs = SHEETS["shuffled"], normal(40, 63)
    each = [oracle(outputs, sheet, units) for units in draw_neighbourhoods(sheet, 3, 4, generator(1))]
    options = {"radius": 3, "n_neighbourhoods": 4}
    worst = correlation_loss(outputs, sheet, reduce="max", generator=generator(1), **options)
    assert worst.item() == pytest.approx(max(each), abs=1e-12)
    assert correlation_loss(outputs, sheet, generator=generator(1), **options) < worst


def test_is_zero_where_correlation_is_one_over_one_plus_distance():
    for sheet in (SHEETS["planar"], SHEETS["shuffled"], SHEETS["holes"]):
        outputs = data_with_correlation(1 / (1 + sheet.distances()), 200)
        assert correlation_loss(outputs, sheet).item() == pytest.approx(0, abs=1e-12)
        assert correlation_loss(outputs, sheet, radius=3, generator=generator()).item() == pytest.approx(0, abs=1e-12)
        assert correlation_loss(outputs, moved(sheet, 9)).item() > 0.4


def test_is_one_half_on_white_noise():
    noise = normal(2000, 784, dtype=torch.float32)
    for sheet in (Sheet.grid(28, 28), Sheet.grid(28, 28, wrapped=True)):
        assert correlation_loss(noise, sheet).item() == pytest.approx(0.5, abs=0.01)


def test_pairs_give_zero_one_half_and_one():
    d = torch.rand(50, generator=generator(), dtype=torch.float64) * 9 + 1
    near = 1 / (1 + d)
    assert pair_correlation_loss(near, d).item() == pytest.approx(0, abs=1e-12)
    assert pair_correlation_loss(-near, d).item() == pytest.approx(1, abs=1e-12)
    assert pair_correlation_loss(3 * near - 0.2, d).item() == pytest.approx(0, abs=1e-12)
    assert pair_correlation_loss(torch.full_like(d, 0.3), d).item() == 0.5
    assert pair_correlation_loss(near, torch.ones_like(d)).item() == 0.5
    r = normal(50)
    expected = 0.5 * (1 - np.corrcoef(r, near)[0, 1])
    assert pair_correlation_loss(r, d).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shapes", [((3,), (4,)), ((2, 2), (2, 2)), ((1,), (1,))])
def test_pairs_that_do_not_match_are_refused(shapes):
    with pytest.raises(InputError, match="at least two pairs"):
        pair_correlation_loss(torch.ones(shapes[0]), torch.ones(shapes[1]))


def test_scale_and_shift_of_any_unit_do_not_matter_but_its_sign_does():
    sheet, outputs = SHEETS["planar"], normal(60, 63)
    scale, shift = torch.rand(63, generator=generator(1), dtype=torch.float64) * 50 + 0.01, 100 * normal(63, seed=2)
    loss = correlation_loss(outputs, sheet)
    assert correlation_loss(outputs * scale + shift, sheet).item() == pytest.approx(loss.item(), abs=1e-10)
    outputs[:, 5] *= -1
    assert abs((correlation_loss(outputs, sheet) - loss).item()) > 1e-5


@pytest.mark.slow
def test_gradient_is_that_of_the_function():
    sheet, outputs = Sheet.grid(3, 4), normal(9, 12).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: correlation_loss(x, sheet), (outputs,))
    for reduce in ("mean", "max"):
        assert torch.autograd.gradcheck(
            lambda x, reduce=reduce: correlation_loss(x, sheet, radius=2, reduce=reduce, generator=generator(3)),
            (outputs,),
        )


def test_a_step_down_the_gradient_lowers_the_loss():
    sheet, outputs = Sheet.grid(5, 5), normal(30, 25).requires_grad_()
    loss = correlation_loss(outputs, sheet)
    (slope,) = torch.autograd.grad(loss, outputs)
    assert correlation_loss(outputs - 0.1 * slope / slope.norm(), sheet) < loss


def test_dead_units_correlate_at_zero_and_leave_finite_gradients():
    sheet, outputs = Sheet.grid(4, 4), normal(50, 16)
    outputs[:, 3], outputs[:, 7] = 0.0, 0.1  # 0.1 cannot be centred exactly
    outputs.requires_grad_()
    loss = correlation_loss(outputs, sheet)
    with np.errstate(invalid="ignore"):
        r = np.nan_to_num(np.corrcoef(outputs.detach().numpy().T))
    r[7] = r[:, 7] = 0
    first, second = np.triu_indices(16, k=1)
    expected = 0.5 * (1 - np.corrcoef(r[first, second], 1 / (1 + sheet.distances()[first, second]))[0, 1])
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    (slope,) = torch.autograd.grad(loss, outputs)
    assert torch.isfinite(slope).all()
    assert (slope[:, [3, 7]] == 0).all()
    assert (slope[:, 0] != 0).all()


def test_all_units_dead_is_one_half_without_gradient():
    outputs = torch.full((20, 16), 0.1, requires_grad=True)
    loss = correlation_loss(outputs, Sheet.grid(4, 4))
    assert loss.item() == 0.5
    assert (torch.autograd.grad(loss, outputs)[0] == 0).all()


def test_tokens_count_as_samples_and_masked_padding_does_not():
    sheet, outputs = Sheet.grid(4, 5), normal(6, 7, 20)
    assert correlation_loss(outputs, sheet).item() == correlation_loss(outputs.reshape(42, 20), sheet).item()
    mask = torch.rand(6, 7, generator=generator(1)) > 0.4
    expected = oracle(outputs[mask], sheet)
    padded = outputs.clone()
    padded[~mask] = torch.nan  # padding may hold anything
    padded.requires_grad_()
    loss = correlation_loss(padded, sheet, mask=mask)
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    (slope,) = torch.autograd.grad(loss, padded)
    assert (slope[~mask] == 0).all()
    assert (slope[mask] != 0).any(dim=1).all()


def test_half_precision_and_autocast_are_computed_in_float32():
    sheet, outputs = Sheet.grid(6, 6), normal(500, 36, dtype=torch.float32) + 3
    coarse = outputs.bfloat16()
    exact = correlation_loss(coarse.double(), sheet).item()
    assert correlation_loss(coarse, sheet).item() == pytest.approx(exact, abs=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = correlation_loss(outputs, sheet)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(correlation_loss(outputs.double(), sheet).item(), abs=1e-5)


# neighbourhoods


@pytest.mark.parametrize(("side", "radius", "units", "centres"), [(28, 5, 81, 400), (28, 10, 361, 100), (9, 5, 81, 1)])
def test_number_of_units_and_centres_on_an_open_sheet(side, radius, units, centres):
    sheet = Sheet.grid(side, side)
    found = neighbourhood_centres(sheet, radius)
    assert len(found) == centres == (side - 2 * (radius - 1)) ** 2
    assert {len(neighbourhood(sheet, centre, radius)) for centre in found} == {units}


@pytest.mark.parametrize("name", ["planar", "torus", "shuffled", "shuffled torus", "holes"])
def test_a_neighbourhood_holds_the_units_below_the_chebyshev_radius(name):
    sheet = SHEETS[name]
    centres = neighbourhood_centres(sheet, 3)
    assert len(centres) == (sheet.height * sheet.width if sheet.wrapped else 3 * 5)
    for centre in centres:
        down, right = abs(sheet.y - centre // sheet.width), abs(sheet.x - centre % sheet.width)
        if sheet.wrapped:
            down, right = np.minimum(down, sheet.height - down), np.minimum(right, sheet.width - right)
        expected = np.flatnonzero(np.maximum(down, right) < 3)
        assert sorted(neighbourhood(sheet, centre, 3)) == expected.tolist()


@pytest.mark.parametrize("sheet", SHEETS.values(), ids=SHEETS)
def test_distances_of_some_units_are_those_of_the_sheet(sheet):
    units = np.random.default_rng(0).permutation(sheet.n_units)[:20]
    first, second = np.triu_indices(20, k=1)
    assert np.allclose(pair_distances(sheet, units), sheet.distances()[units[first], units[second]], atol=1e-12)


def test_neighbourhoods_are_different_random_and_leave_the_global_state_alone():
    sheet = Sheet.grid(10, 10)
    state = torch.get_rng_state()
    draws = generator(0)
    sets = [{tuple(units) for units in draw_neighbourhoods(sheet, 3, 5, draws)} for _ in range(20)]
    assert all(len(drawn) == 5 for drawn in sets)
    assert len(set.union(*sets)) > 30  # of 36
    assert torch.equal(torch.get_rng_state(), state)
    again = {tuple(units) for units in draw_neighbourhoods(sheet, 3, 5, generator(0))}
    assert again == sets[0]
    assert len(draw_neighbourhoods(sheet, 3, 99, generator(0))) == 36


def test_neighbourhoods_of_holes_are_never_drawn():
    sheet = Sheet(9, 10, 10).with_places([0, 1, 2, 10, 11, 12, 20, 21, 22])  # one occupied corner
    assert neighbourhood_centres(sheet, 2).tolist() == [11, 12, 13, 21, 22, 31]
    assert math.isfinite(correlation_loss(normal(20, 9), sheet, radius=2, generator=generator()).item())
    with pytest.raises(InputError, match="take a larger one"):
        neighbourhood_centres(Sheet(4, 10, 10).with_places([0, 9, 90, 99]), 2)


# the calibration fixture


@pytest.fixture(scope="module")
def white_fields():
    return np.random.default_rng(0).standard_normal((500, 28, 28))


CALIBRATION = {
    "constant": {0: 0.499, 1: 0.450, 2: 0.199, 3: 0.110, 4: 0.067, 6: 0.037, 8: 0.037},
    "wrap": {0: 0.500, 1: 0.449, 2: 0.188, 3: 0.097, 4: 0.054, 6: 0.029, 8: 0.038},
}


@pytest.mark.parametrize("fwhm", [0, 1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("mode", ["constant", "wrap"])
def test_calibration_on_smoothed_noise(white_fields, mode, fwhm):
    sigma = fwhm / math.sqrt(8 * math.log(2))
    fields = gaussian_filter(white_fields, (0, sigma, sigma), mode=mode, truncate=8) if fwhm else white_fields
    sheet = Sheet.grid(28, 28, wrapped=mode == "wrap")
    loss = correlation_loss(torch.from_numpy(fields.reshape(500, 784)), sheet).item()
    assert loss == pytest.approx(CALIBRATION[mode][fwhm], abs=0.01)


# bad input


def test_bad_input_is_named():
    sheet, outputs = Sheet.grid(4, 4), normal(10, 16)
    with pytest.raises(InputError, match=r"\(10, 15\).*16 units"):
        correlation_loss(outputs[:, :15], sheet)
    with pytest.raises(InputError, match="needs a layout"):
        correlation_loss(outputs, Sheet.none(16))
    with pytest.raises(InputError, match="at least 3 samples, got 2"):
        correlation_loss(outputs[:2], sheet)
    with pytest.raises(InputError, match=r"got 2 \(masked"):
        correlation_loss(outputs, sheet, mask=torch.arange(10) < 2)
    with pytest.raises(InputError, match=r"boolean of shape \(10,\)"):
        correlation_loss(outputs, sheet, mask=torch.ones(10))
    with pytest.raises(InputError, match="at least 3 units"):
        correlation_loss(outputs[:, :2], Sheet.grid(1, 2))
    with pytest.raises(UnknownNameError, match="mean, max"):
        correlation_loss(outputs, sheet, reduce="maximum")
    with pytest.raises(InputError, match="n_neighbourhoods"):
        correlation_loss(outputs, sheet, radius=2, n_neighbourhoods=0, generator=generator())
    with pytest.raises(InputError, match="need a generator"):
        correlation_loss(outputs, sheet, radius=2)
    for value in (torch.nan, torch.inf):
        broken = outputs.clone()
        broken[4, 6] = value
        with pytest.raises(InputError, match="unit 6 are not finite"):
            correlation_loss(broken, sheet)


@pytest.mark.parametrize(
    ("shape", "wrapped", "largest"), [((28, 28), False, 14), ((9, 30), False, 5), ((9, 9), True, 5), ((8, 8), True, 4)]
)
def test_the_largest_radius_works_and_the_next_is_answered_with_it(shape, wrapped, largest):
    sheet = Sheet.grid(*shape, wrapped=wrapped)
    outputs = normal(5, sheet.n_units)
    assert math.isfinite(correlation_loss(outputs, sheet, radius=largest, generator=generator()).item())
    for radius in (largest + 1, 1, 0):
        with pytest.raises(InputError, match=f"radius {radius} .*from 2 to {largest} "):
            correlation_loss(outputs, sheet, radius=radius, generator=generator())


def test_a_line_has_no_legal_radius():
    with pytest.raises(InputError, match="too narrow"):
        correlation_loss(normal(5, 9), Sheet.grid(1, 9), radius=2, generator=generator())


def test_activation_decay_sums_over_units_and_averages_over_tokens():
    outputs = normal(3, 4, 5)
    mask = torch.tensor([[True, True, False, False], [True, False, False, False], [True, True, True, True]])
    assert activation_decay(outputs).item() == pytest.approx((outputs.numpy() ** 2).sum() / 12)
    expected = (outputs[mask].numpy() ** 2).sum() / 7
    assert activation_decay(outputs, mask).item() == pytest.approx(expected)
    with pytest.raises(InputError, match="mask leaves none"):
        activation_decay(outputs, torch.zeros(3, 4, dtype=torch.bool))
