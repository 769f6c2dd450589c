import numpy as np
import pytest
import torch

from topobrain._checks import InputError
from topobrain.nn import neighbour_cosine_loss
from topobrain.sheet import Sheet


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def oracle(weight, sheet):
    """Walk over the cells one by one."""
    vectors = weight.flatten(1).numpy()
    unit_at = {int(cell): unit for unit, cell in enumerate(sheet.cells)}
    means = []
    for down, right in ((0, 1), (1, 0)):
        found = []
        for cell, unit in unit_at.items():
            row, column = cell // sheet.width + down, cell % sheet.width + right
            if sheet.wrapped:
                row, column = row % sheet.height, column % sheet.width
            inside = row < sheet.height and column < sheet.width
            other = unit_at.get(row * sheet.width + column) if inside else None
            if other is not None and other != unit:
                found.append(cosine(vectors[unit], vectors[other]))
        if found:
            means.append(np.mean(found))
    return (1 - np.mean(means)) / 2


def shuffled(sheet):
    return sheet.with_places(np.random.default_rng(0).permutation(sheet.cells))


@pytest.mark.parametrize(
    "sheet",
    [
        Sheet.grid(4, 6),
        Sheet.grid(4, 6, wrapped=True),
        shuffled(Sheet.grid(4, 6)),
        shuffled(Sheet.grid(4, 6, wrapped=True)),
        Sheet(24, 5, 6).with_places(np.random.default_rng(1).permutation(30)[:24]),
        Sheet.grid(1, 24),
        Sheet.grid(1, 24, wrapped=True),
        Sheet.grid(2, 12, wrapped=True),
    ],
)
def test_equals_a_walk_over_the_cells(sheet):
    weight = normal(24, 3, 2, 2)
    assert neighbour_cosine_loss(weight, sheet).item() == pytest.approx(oracle(weight, sheet), abs=1e-12)


def test_equal_weights_give_zero_opposite_ones_one_and_random_ones_a_half():
    sheet = Sheet.grid(20, 20, wrapped=True)
    same = normal(1, 9) * torch.rand(400, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    checks = torch.from_numpy(1.0 - 2 * (np.indices((20, 20)).sum(axis=0).ravel() % 2))[:, None]
    assert neighbour_cosine_loss(same, sheet).item() == pytest.approx(0, abs=1e-12)
    assert neighbour_cosine_loss(same * checks, sheet).item() == pytest.approx(1, abs=1e-12)
    assert neighbour_cosine_loss(normal(400, 100), sheet).item() == pytest.approx(0.5, abs=0.01)


def test_borders_join_on_a_torus_only():
    weight = torch.ones(9, 2, dtype=torch.float64)
    weight[[0, 3, 6]] *= -1  # the first column
    open_sheet, torus = Sheet.grid(3, 3), Sheet.grid(3, 3, wrapped=True)
    assert neighbour_cosine_loss(weight, open_sheet).item() == pytest.approx((1 - (0 + 1) / 2) / 2)
    assert neighbour_cosine_loss(weight, torus).item() == pytest.approx((1 - (-1 / 3 + 1) / 2) / 2)


def test_the_bias_is_one_more_input():
    weight, bias, sheet = normal(12, 5), normal(12, seed=1), Sheet.grid(3, 4)
    appended = torch.cat([weight, bias[:, None]], dim=1)
    found = neighbour_cosine_loss(weight, sheet, bias=bias)
    assert found.item() == pytest.approx(neighbour_cosine_loss(appended, sheet).item(), abs=1e-14)
    assert abs((found - neighbour_cosine_loss(weight, sheet)).item()) > 1e-3


def test_length_of_a_vector_does_not_matter_and_empty_units_count_as_orthogonal():
    weight, sheet = normal(12, 5), Sheet.grid(3, 4)
    scale = torch.arange(1, 13, dtype=torch.float64)[:, None]
    assert torch.allclose(neighbour_cosine_loss(weight * scale, sheet), neighbour_cosine_loss(weight, sheet))
    assert neighbour_cosine_loss(torch.zeros(12, 5), sheet).item() == 0.5
    weight[5] = 0
    weight.requires_grad_()
    (slope,) = torch.autograd.grad(neighbour_cosine_loss(weight, sheet), weight)
    assert torch.isfinite(slope).all()


def test_gradient_is_that_of_the_function():
    weight, bias = normal(8, 3).requires_grad_(), normal(8, seed=1).requires_grad_()
    sheet = Sheet.grid(2, 4)
    assert torch.autograd.gradcheck(lambda w, b: neighbour_cosine_loss(w, sheet, bias=b), (weight, bias))


def test_bad_input_is_named():
    sheet = Sheet.grid(3, 4)
    with pytest.raises(InputError, match=r"\(11, 5\).*12 units"):
        neighbour_cosine_loss(normal(11, 5), sheet)
    with pytest.raises(InputError, match=r"expected \(unit, input"):
        neighbour_cosine_loss(normal(12), sheet)
    with pytest.raises(InputError, match=r"bias has shape \(3,\)"):
        neighbour_cosine_loss(normal(12, 5), sheet, bias=normal(3))
    with pytest.raises(InputError, match="needs a layout"):
        neighbour_cosine_loss(normal(12, 5), Sheet.none(12))
    broken = normal(12, 5)
    broken[7, 2] = torch.nan
    with pytest.raises(InputError, match="unit 7 are not finite"):
        neighbour_cosine_loss(broken, sheet)
    apart = Sheet(2, 3, 3).with_places([0, 8])
    with pytest.raises(InputError, match="side by side"):
        neighbour_cosine_loss(normal(2, 5), apart)
