import math

import numpy as np
import pytest
import torch

from topobrain._checks import InputError, UnknownNameError
from topobrain.nn import wiring_cost
from topobrain.nn.wiring_cost import connection_lengths
from topobrain.sheet import Sheet


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def shuffled(sheet, seed=0):
    return sheet.with_places(np.random.default_rng(seed).permutation(sheet.cells))


COSTS = {
    "linear": lambda w, d: abs(w) * d,
    "saturating": lambda w, d: w**2 * d / (1 + w**2),
    "quadratic": lambda w, d: w**2 * d**2 / (1 + w**2),
}


@pytest.mark.parametrize("form", COSTS)
@pytest.mark.parametrize("sheet", [Sheet.grid(3, 5), shuffled(Sheet.grid(3, 5, wrapped=True)), Sheet(15, 4, 5)])
def test_recurrent_cost_equals_the_formula_with_the_distances_of_the_sheet(form, sheet):
    weight = normal(15, 15)
    each = COSTS[form](weight.numpy(), sheet.distances())
    assert wiring_cost(weight, sheet, sheet, form=form).item() == pytest.approx(each.sum(), rel=1e-12)
    assert wiring_cost(weight, sheet, sheet, form=form, reduce="mean").item() == pytest.approx(each.mean(), rel=1e-12)


def test_the_first_axis_of_the_weight_is_the_unit_a_connection_reaches():
    sheet_in, sheet_out = Sheet.grid(1, 4), Sheet.grid(1, 4).with_places([3, 2, 1, 0])
    weight = torch.zeros(4, 4)
    weight[0, 0] = 2.0  # from cell 0 to cell 3
    assert wiring_cost(weight, sheet_in, sheet_out).item() == 6
    assert wiring_cost(weight, sheet_in, sheet_in).item() == 0


def test_sheets_of_other_sizes_are_stretched_centre_upon_centre():
    small, large = Sheet.grid(4, 4), Sheet.grid(8, 8)
    lengths = connection_lengths(large, small).numpy()
    assert lengths.shape == (16, 64)
    for unit in range(16):  # the four units below it are its nearest
        below = {(2 * (unit // 4) + i) * 8 + 2 * (unit % 4) + j for i in (0, 1) for j in (0, 1)}
        assert set(np.argsort(lengths[unit], kind="stable")[:4].tolist()) == below
        assert np.allclose(np.sort(lengths[unit])[:4], math.hypot(0.25, 0.25))
    assert np.allclose(connection_lengths(small, large).numpy().T, 2 * lengths)  # in steps of the larger sheet
    thin = Sheet.grid(4, 4, spacing=0.1)
    assert np.allclose(connection_lengths(thin, small).numpy(), small.distances())


def test_wrapping_needs_both_sheets():
    ring, line = Sheet.grid(1, 6, wrapped=True), Sheet.grid(1, 6)
    assert connection_lengths(ring, ring)[0].tolist() == [0, 1, 2, 3, 2, 1]
    assert connection_lengths(ring, line)[0].tolist() == [0, 1, 2, 3, 4, 5]
    half = Sheet.grid(1, 3, wrapped=True)
    assert connection_lengths(ring, half)[0].tolist() == [0.25, 0.25, 0.75, 1.25, 1.25, 0.75]


def test_offset_is_the_distance_between_the_sheets():
    sheet = Sheet.grid(2, 3)
    found = connection_lengths(sheet, sheet, offset=1.5).numpy()
    assert np.allclose(found, np.sqrt(sheet.distances() ** 2 + 1.5**2))
    weight = torch.eye(6)
    assert wiring_cost(weight, sheet, sheet).item() == 0
    assert wiring_cost(weight, sheet, sheet, offset=1.5).item() == pytest.approx(9)


def test_local_weights_are_cheaper_than_the_same_weights_at_random_places():
    sheet = Sheet.grid(8, 8)
    local = torch.from_numpy(np.exp(-sheet.distances()))
    for form in COSTS:
        here, there = (wiring_cost(local, sheet, other, form=form).item() for other in (sheet, shuffled(sheet)))
        assert here < 0.7 * there


@pytest.mark.parametrize("form", COSTS)
def test_gradient_is_that_of_the_function(form):
    sheet_in, sheet_out = Sheet.grid(2, 3), Sheet.grid(2, 2)
    weight = normal(4, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: wiring_cost(w, sheet_in, sheet_out, form=form, offset=0.3), (weight,))


def test_bad_input_is_named():
    sheet, other = Sheet.grid(2, 3), Sheet.grid(2, 2)
    with pytest.raises(InputError, match=r"\(6, 4\), expected \(unit out, unit in\) = \(4, 6\)"):
        wiring_cost(normal(6, 4), sheet, other)
    with pytest.raises(UnknownNameError, match="linear, saturating, quadratic"):
        wiring_cost(normal(4, 6), sheet, other, form="square")
    with pytest.raises(InputError, match="needs a layout"):
        wiring_cost(normal(4, 6), sheet, Sheet.none(4))
    with pytest.raises(InputError, match="not finite"):
        wiring_cost(torch.full((4, 6), torch.nan), sheet, other)
    for offset in (-1.0, math.nan):
        with pytest.raises(InputError, match="offset"):
            wiring_cost(normal(4, 6), sheet, other, offset=offset)
