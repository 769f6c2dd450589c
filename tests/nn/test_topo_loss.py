import math
import sys

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import nn

from topobrain._checks import InputError, UnknownNameError
from topobrain.nn import blur_matrix, topo_loss, topo_sheet
from topobrain.nn.topo_blur import anchor_axis, blur_on
from topobrain.sheet import Sheet

MODES = ("bilinear", "nearest", "nearest-exact", "area", "bicubic")


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def linear(n_in, n_out, seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(n_in, n_out, **options)


def value(weight, *arguments, **options):
    return topo_loss(weight, *arguments, **options).item()


def gradient(weight, *arguments, **options):
    leaf = weight.detach().clone().requires_grad_()
    topo_loss(leaf, *arguments, **options).backward()
    return leaf.grad


def plain(weight, matrix):
    """The definition, row by row, for a dense blur (unit, unit)."""
    blurred = matrix @ weight
    norms = np.linalg.norm(weight, axis=1) * np.linalg.norm(blurred, axis=1)
    inner = (weight * blurred).sum(axis=1)
    return 1 - np.mean(np.divide(inner, norms, out=np.zeros_like(inner), where=norms > 0))


# A. sheets and operators


@pytest.mark.parametrize(
    ("n_units", "grid"),
    [
        (1, (1, 1)), (10, (2, 5)), (12, (3, 4)), (20, (4, 5)), (25, (5, 5)), (30, (5, 6)), (48, (6, 8)), (50, (5, 10)),
        (64, (8, 8)), (100, (10, 10)), (128, (8, 16)), (192, (12, 16)), (256, (16, 16)), (384, (16, 24)),
        (512, (16, 32)), (576, (24, 24)), (640, (20, 32)), (768, (24, 32)), (1000, (25, 40)), (1024, (32, 32)),
        (1280, (32, 40)), (1536, (32, 48)), (1600, (40, 40)), (2048, (32, 64)), (2304, (48, 48)), (2560, (40, 64)),
        (3072, (48, 64)), (4096, (64, 64)), (5120, (64, 80)), (6400, (80, 80)), (8192, (64, 128)),
        (11008, (86, 128)), (14336, (112, 128)), (50257, (29, 1733)), (50304, (192, 262)),
    ],
)  # fmt: skip
def test_sheets_of_the_reference(n_units, grid):
    sheet = topo_sheet(n_units)
    assert (sheet.height, sheet.width) == grid
    assert sheet.places is None
    assert sheet.n_units == n_units == sheet.height * sheet.width


@pytest.mark.parametrize("n_units", [7, 11, 13, 1009])
def test_a_prime_number_of_units_gets_a_padded_sheet(n_units):
    sheet = topo_sheet(n_units)
    assert sheet == Sheet.for_width(n_units)
    assert sheet.height > 1
    assert sheet.height * sheet.width > n_units


def test_a_sheet_needs_a_unit():
    with pytest.raises(InputError, match="at least one unit"):
        topo_sheet(0)


EIGHT_TWO = [[4, 4, 0, 0, 0, 0, 0, 0], [3, 3, 1, 1, 0, 0, 0, 0], [1, 1, 3, 3, 0, 0, 0, 0], [0, 0, 3, 3, 1, 1, 0, 0]]


def test_rows_of_the_blur_of_eight_units_by_two():
    matrix = blur_matrix(Sheet.grid(1, 8), (1, 2))
    half = np.array(EIGHT_TWO) / 8
    assert np.abs(matrix - np.concatenate([half, half[::-1, ::-1]])).max() < 1e-12


@pytest.mark.parametrize(
    ("n", "factor", "columns", "first"),
    [
        (8, 3, [[1], [4]], [1, 1, 7 / 8, 5 / 8, 3 / 8, 1 / 8, 0, 0]),
        (8, 4, [[1, 2], [5, 6]], np.array([8, 8, 7, 5, 3, 1, 0, 0]) / 8),
        (9, 3, [[1], [4], [7]], [1, 1, 2 / 3, 1 / 3, 0, 0, 0, 0, 0]),
        (16, 5, [[2], [7], [12]], [1, 1, 1, 0.84375, 0.65625, 0.46875, 0.28125, 0.09375, 0, 0, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_anchors_and_weights_of_the_blur_along_one_axis(n, factor, columns, first):
    matrix = blur_matrix(Sheet.grid(1, n), (1, factor))
    read = np.flatnonzero(matrix.any(axis=0))
    assert read.tolist() == np.concatenate(columns).tolist()
    cells = np.stack([matrix[:, units].sum(axis=1) for units in columns], axis=1)
    assert np.abs(cells[:, 0] - first).max() < 1e-12
    assert np.abs(cells[:, -1] - np.array(first)[::-1]).max() < 1e-12  # the other end mirrors it
    assert np.abs(cells.sum(axis=1) - 1).max() < 1e-12
    for units in columns:  # units of one cell count alike
        assert np.ptp(matrix[:, units], axis=1).max() < 1e-12


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("factor", [(2, 3), (1.5, 2.7), (8, 8), (1, 12)])
def test_the_blur_is_the_interpolation_down_and_up(mode, factor):
    weight = normal(5, 96, dtype=torch.float64).view(1, 5, 8, 12)
    resize = nn.functional.interpolate
    low = resize(weight, scale_factor=(1 / factor[0], 1 / factor[1]), mode=mode)
    there_and_back = resize(low, size=(8, 12), mode=mode).view(5, 96).T.numpy()
    matrix = blur_matrix(Sheet.grid(8, 12), factor, mode)
    assert np.abs(matrix @ weight.view(5, 96).T.numpy() - there_and_back).max() < 1e-12


@pytest.mark.slow
def test_share_of_units_that_ever_enter_the_blur():
    shares = [(blur_matrix(Sheet.grid(48, 64), factor) != 0).any(axis=0).mean() for factor in (2, 3, 4, 5, 8)]
    assert shares == pytest.approx([1, 0.1094, 0.25, 0.0352, 0.0625], abs=5e-5)


def test_a_factor_whose_inverse_rounds_down_keeps_one_cell():
    assert 49 * (1 / 49) < 1
    down, up = anchor_axis(49, 49.0)
    assert down.shape == (1, 49)
    assert (up == 1).all()
    assert down[0, 24] == pytest.approx(1)


# B. the loss: definition, closed forms, invariances

SHEETS = {
    "full": Sheet.grid(6, 8),
    "moved": Sheet.grid(6, 8).with_places(np.random.default_rng(0).permutation(48)),
    "holes": Sheet(43, 6, 8),
    "scattered": Sheet(30, 6, 8).with_places(np.random.default_rng(1).permutation(48)[:30]),
}
RECIPES = {
    "bilinear": {"factor": (2, 3)},
    "nearest": {"factor": (2, 3), "interpolation": "nearest"},
    "area": {"factor": (2.5, 3), "interpolation": "area"},
    "bicubic": {"factor": (2, 2), "interpolation": "bicubic"},
    "gaussian": {"blur": "gaussian", "fwhm": (2.0, 1.3)},
}


@pytest.mark.parametrize("sheet", SHEETS.values(), ids=SHEETS)
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_loss_is_its_definition_on_any_sheet(sheet, recipe):
    weight = normal(sheet.n_units, 7)
    matrix = blur_matrix(sheet, recipe.get("factor", 4), **{k: v for k, v in recipe.items() if k != "factor"})
    counted = matrix.any(axis=1)  # a unit with nothing but holes in its kernel is not compared
    expected = 1 - (1 - plain(weight.numpy(), matrix)) * len(matrix) / counted.sum()
    assert value(weight, sheet, **recipe) == pytest.approx(expected, abs=1e-12)
    assert np.abs(matrix[counted].sum(axis=1) - 1).max() < 1e-12


@pytest.mark.parametrize("sheet", SHEETS.values(), ids=SHEETS)
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_gradients_and_their_gradients_are_right_on_any_sheet(sheet, recipe):
    weight = normal(sheet.n_units, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: topo_loss(w, sheet, **recipe), weight, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda w: topo_loss(w, sheet, **recipe), weight, fast_mode=True)
    bias = normal(sheet.n_units, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: topo_loss(w, sheet, **recipe), bias, fast_mode=True)


def test_gradcheck_of_every_entry():
    weight = normal(12, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: 3 * topo_loss(w, factor=(1.5, 2)), weight)
    assert torch.autograd.gradcheck(lambda w: topo_loss(w, factor=2, on="input"), normal(5, 12).requires_grad_())


@pytest.mark.parametrize("sheet", SHEETS.values(), ids=SHEETS)
def test_the_bias_loss_is_its_definition_on_any_sheet(sheet):
    bias, matrix = normal(sheet.n_units), blur_matrix(sheet, 2)
    counted = matrix.any(axis=1)
    one, other = bias.numpy()[counted], (matrix @ bias.numpy())[counted]
    expected = 1 - one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert value(bias, sheet, 2) == pytest.approx(expected, abs=1e-12)


def test_blocks_of_the_sheet_do_not_change_anything(monkeypatch):
    weight = normal(96, 10)
    whole, slope = value(weight, factor=2), gradient(weight, factor=2)
    module = sys.modules["topobrain.nn.topo_loss"]  # the package's name topo_loss is the function
    monkeypatch.setattr(module, "BLOCK", 1)
    assert len(module._blocks(weight.view(8, 12, 10))) == 8
    assert value(weight, factor=2) == pytest.approx(whole, abs=1e-14)
    assert (gradient(weight, factor=2) - slope).abs().max() < 1e-14


def test_the_loss_does_not_change_under_its_invariances_and_does_under_others():
    weight = normal(256, 64)
    grid = weight.view(16, 16, 64)
    loss = value(weight)
    same = {
        "scale": weight * 1000, "sign": -weight, "inputs": weight[:, torch.randperm(64)],
        "flip": grid.flip(0).reshape(256, 64), "mirror": grid.flip(1).reshape(256, 64),
        "transpose": grid.transpose(0, 1).reshape(256, 64),
    }  # fmt: skip
    for what, changed in same.items():
        assert value(changed) == pytest.approx(loss, abs=1e-12), what
    rng = np.random.default_rng(0)
    assert abs(value(weight[rng.permutation(256)]) - loss) > 1e-3
    assert abs(value(weight * torch.tensor(rng.uniform(0.1, 10, (256, 1)))) - loss) > 1e-3


@pytest.mark.parametrize("options", [{}, {"blur": "gaussian"}, {"factor": 3, "interpolation": "area"}])
def test_the_gradient_is_orthogonal_to_the_weights(options):
    weight = normal(48, 20)
    assert abs((gradient(weight, **options) * weight).sum().item()) < 1e-12


@pytest.mark.parametrize("sheet", SHEETS.values(), ids=SHEETS)
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_units_that_are_all_alike_cost_nothing(sheet, recipe):
    weight = normal(1, 9).expand(sheet.n_units, 9)
    assert value(weight, sheet, **recipe) == pytest.approx(0, abs=1e-12)
    assert value(torch.ones(sheet.n_units, dtype=torch.float64), sheet, **recipe) == pytest.approx(0, abs=1e-12)


def test_a_factor_of_one_costs_nothing():
    assert value(normal(64, 8), factor=1) == pytest.approx(0, abs=1e-12)


def test_a_unit_without_weights_counts_as_a_cosine_of_zero_and_keeps_the_gradient_finite():
    weight = normal(64, 8)
    weight[[0, 9, 27]] = 0  # 9 and 27 are no corners: others are blurred with them
    assert value(weight, factor=2) == pytest.approx(plain(weight.numpy(), blur_matrix(topo_sheet(64), 2)), abs=1e-12)
    slope = gradient(weight, factor=2)
    assert slope.isfinite().all()
    assert slope.abs().max() < 1
    assert value(torch.zeros(64, 8)) == 1
    assert (gradient(torch.zeros(64, 8)) == 0).all()
    assert value(torch.zeros(64)) == 1
    assert (gradient(torch.zeros(64)) == 0).all()


@pytest.mark.parametrize(
    ("n_units", "expected"),
    [
        (64, (0.537747, 0.946089, 0.876253, 0.984375, 0.968750)),
        (768, (0.546443, 0.910839, 0.877137, 0.974931, 0.968848)),
        (1000, (0.612192, 0.901744, 0.884315, 0.960000, 0.970196)),
    ],
)
def test_random_weights_cost_what_the_diagonal_of_the_blur_says(n_units, expected):
    weight = normal(n_units, 4096 * 768 // min(n_units, 768), dtype=torch.float32)
    for factor, loss in zip((2, 3, 4, 5, 8), expected, strict=True):
        matrix = blur_matrix(topo_sheet(n_units), factor)
        assert 1 - np.mean(np.diag(matrix) / np.linalg.norm(matrix, axis=1)) == pytest.approx(loss, abs=1e-6)
        assert value(weight, factor=factor) == pytest.approx(loss, abs=2e-3)


@pytest.fixture(scope="module")
def trained():
    """64 to 256 units, the topographic loss alone."""
    layer = linear(64, 256, seed=5, bias=False)
    optimiser = torch.optim.Adam(layer.parameters(), lr=1e-2)
    losses = []
    for _ in range(401):
        loss = topo_loss(layer.weight, factor=4)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return layer.weight.detach(), losses


def test_the_loss_falls_as_the_reference_does(trained):
    losses = trained[1]
    assert losses[0] == pytest.approx(0.874747, abs=2e-6)
    assert losses[1] == pytest.approx(0.742196, abs=1e-4)
    assert losses[10] == pytest.approx(0.158724, rel=0.02)
    for step, loss in ((50, 0.002561), (100, 0.001469), (200, 0.001133)):
        assert losses[step] == pytest.approx(loss, rel=0.1)


def test_the_optimum_has_as_many_directions_as_the_blur_has_cells(trained):
    rows = nn.functional.normalize(trained[0].double(), dim=1)
    energy = torch.linalg.svdvals(rows).square()
    assert (energy[:16].sum() / energy.sum()).item() > 0.995  # 16 x 16 units at pitch 4: 16 cells
    start = nn.functional.normalize(linear(64, 256, seed=5).weight.detach().double(), dim=1)
    energy = torch.linalg.svdvals(start).square()
    assert (energy[:16].sum() / energy.sum()).item() < 0.5


# C. the Gaussian


def test_on_a_torus_the_gaussian_sees_every_unit_alike():
    sheet, weight = Sheet.grid(8, 12, wrapped=True), normal(96, 5)
    rolled = weight.view(8, 12, 5).roll((1, 7), (0, 1)).reshape(96, 5)
    loss = value(weight, sheet, blur="gaussian", fwhm=2.5)
    assert value(rolled, sheet, blur="gaussian", fwhm=2.5) == pytest.approx(loss, abs=1e-12)
    assert abs(value(rolled, Sheet.grid(8, 12), blur="gaussian", fwhm=2.5) - loss) > 1e-3
    assert abs(value(rolled, sheet, 3) - value(weight, sheet, 3)) > 1e-3  # the anchors sit where they sit


@pytest.mark.parametrize(("wrapped", "mode"), [(True, "wrap"), (False, "constant")])
def test_the_gaussian_is_that_of_scipy(wrapped, mode):
    fwhm, sheet = 2.0, Sheet.grid(20, 24, wrapped=wrapped)
    sigma = fwhm / math.sqrt(8 * math.log(2))
    weight = normal(480, 6)

    def smooth(image):
        return scipy.ndimage.gaussian_filter(image, sigma, mode=mode, truncate=9, axes=(0, 1))

    # beyond the edge there are no units: divide by the share of the kernel that lies inside
    blurred = smooth(weight.view(20, 24, 6).numpy()) / smooth(np.ones((20, 24, 1)))
    assert (
        np.abs(blur_matrix(sheet, 4, blur="gaussian", fwhm=fwhm) @ weight.numpy() - blurred.reshape(480, 6)).max()
        < 1e-9
    )
    rows = nn.functional.cosine_similarity(weight, torch.from_numpy(blurred.reshape(480, 6)), dim=1)
    assert value(weight, sheet, blur="gaussian", fwhm=fwhm) == pytest.approx(1 - rows.mean().item(), abs=1e-9)


@pytest.mark.parametrize("sheet", [*SHEETS.values(), Sheet.grid(6, 8, wrapped=True)])
def test_the_gaussian_is_the_smoothing_of_the_sheet(sheet):
    matrix = blur_matrix(sheet, 4, blur="gaussian", fwhm=2.2)
    assert np.abs(matrix - sheet.smoothing(2.2)).max() < 1e-12


def test_the_gaussian_is_as_wide_as_the_triangle_of_the_anchors_unless_told():
    weight = normal(64, 8)
    assert value(weight, factor=(3, 4), blur="gaussian") == value(weight, blur="gaussian", fwhm=(3, 4))
    wider = [value(weight, blur="gaussian", fwhm=width) for width in (0.5, 1, 2, 4, 8)]
    assert wider == sorted(wider)  # unlike the anchors, a low-pass costs the more the wider it is


# D. shapes, precision, devices


def test_conv_channels_are_units_whatever_the_memory_format():
    conv = nn.Conv2d(6, 12, 3)
    flat = conv.weight.detach().flatten(1)
    assert value(conv.weight, factor=2) == value(flat, factor=2)
    lying = conv.weight.detach().contiguous(memory_format=torch.channels_last)
    assert value(lying, factor=2) == pytest.approx(value(flat, factor=2), abs=1e-6)
    assert torch.allclose(gradient(lying, factor=2).flatten(1), gradient(flat, factor=2))


def test_input_units_are_columns():
    weight = normal(10, 48)
    assert value(weight, factor=3, on="input") == value(weight.T, factor=3)
    assert torch.equal(gradient(weight, factor=3, on="input"), gradient(weight.T, factor=3).T)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_computed_in_single_precision(dtype):
    weight = linear(784, 256).weight.detach()
    half = weight.to(dtype)
    loss = topo_loss(half)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(value(half.double()), abs=1e-6)
    assert loss.item() == pytest.approx(value(weight), abs=1e-5)
    slope = gradient(half)
    assert slope.dtype == dtype
    assert torch.allclose(slope.double(), gradient(half.double()), rtol=1e-2, atol=1e-6)
    assert topo_loss(weight.double()).dtype == torch.float64


def test_autocast_changes_nothing():
    weight = normal(256, 32, dtype=torch.float32)
    loss, slope = value(weight), gradient(weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert value(weight) == loss
        assert torch.equal(gradient(weight), slope)
        assert value(weight[:, 0]) == value(weight[:, 0].double().float())


def test_gradients_come_to_the_weight_only_and_add_up():
    weight = normal(64, 5).requires_grad_()
    loss = topo_loss(weight, factor=2)
    (2 * loss).backward(retain_graph=True)
    once = weight.grad.clone()
    loss.backward()
    assert torch.allclose(weight.grad, 1.5 * once)
    assert torch.allclose(once, 2 * gradient(weight, factor=2))
    with torch.no_grad():
        assert not topo_loss(weight, factor=2).requires_grad
    assert not topo_loss(weight.detach(), factor=2).requires_grad


def test_changing_the_weight_before_the_gradient_is_noticed():
    weight = normal(64, 5).requires_grad_()
    loss = topo_loss(weight, factor=2)
    with torch.no_grad():
        weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_blur_first_met_in_inference_mode_can_train_later():
    blur_on.cache_clear()
    weight = normal(60, 5)
    with torch.inference_mode():
        loss = value(weight, factor=2.5)
    assert gradient(weight, factor=2.5).isfinite().all()
    assert value(weight, factor=2.5) == loss


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("unit", [0, 7, 21])  # an anchor or not
def test_a_weight_that_is_not_finite_is_never_silent(bad, unit):
    weight = normal(64, 5)
    weight[unit, 2] = bad
    assert math.isnan(value(weight, factor=3))
    assert math.isnan(value(weight[:, 2], factor=3))


def test_the_global_random_state_stays_untouched():
    before = torch.random.get_rng_state()
    value(normal(64, 5))
    assert torch.equal(torch.random.get_rng_state(), before)


# E. holes


def test_holes_take_no_part():
    """An 11-unit sheet is the 3 x 4 sheet whose last unit has no weights, but for the number of units."""
    weight = normal(11, 6)
    padded = torch.cat([weight, torch.zeros(1, 6, dtype=torch.float64)])
    for factor in (2, 3):
        expected = 1 - (1 - value(padded, Sheet.grid(3, 4), factor)) * 12 / 11
        assert value(weight, None, factor) == pytest.approx(expected, abs=1e-12)


def test_units_may_sit_anywhere():
    sheet, weight = SHEETS["moved"], normal(48, 6)
    lying = torch.empty_like(weight)
    lying[torch.from_numpy(sheet.cells)] = weight
    assert value(weight, sheet, 2) == pytest.approx(value(lying, Sheet.grid(6, 8), 2), abs=1e-12)
    assert torch.allclose(gradient(weight, sheet, 2), gradient(lying, Sheet.grid(6, 8), 2)[sheet.cells])


def test_a_sheet_whose_anchors_are_all_holes_is_refused():
    sheet = Sheet(2, 3, 3).with_places([0, 8])  # the only anchor of a 3 x 3 sheet at pitch 3 is its middle
    with pytest.raises(InputError, match="smaller factor"):
        topo_loss(normal(2, 5), sheet, 3)
    assert value(normal(2, 5), sheet, blur="gaussian") > 0


# F. what is refused


@pytest.mark.parametrize("factor", [math.nan, math.inf, 0, -2, 0.5, (2, 0.99), (1, 2, 3), "4", None, ()])
def test_impossible_factors_are_refused(factor):
    with pytest.raises(InputError, match=r"factor"):
        topo_loss(normal(64, 5), factor=factor)


@pytest.mark.parametrize(("factor", "axis"), [((9, 2), "height"), ((2, 17), "width"), (8.01, "height")])
def test_a_factor_beyond_the_sheet_is_told_the_largest(factor, axis):
    with pytest.raises(InputError, match=rf"the sheet's {axis}: 128 units lie on 8 x 16; the largest .* \(8, 16\)"):
        topo_loss(normal(128, 5), factor=factor)
    assert value(normal(128, 5), factor=(8, 16)) > 0
    assert value(normal(128, 1), factor=(3, 12)) >= 0  # the number of inputs has nothing to do with it


def test_near_names_are_offered():
    with pytest.raises(UnknownNameError, match="'bilinear'"):
        topo_loss(normal(64, 5), interpolation="linear")
    with pytest.raises(UnknownNameError, match="'gaussian'"):
        topo_loss(normal(64, 5), blur="gauss")
    with pytest.raises(UnknownNameError, match="output, input"):
        topo_loss(normal(64, 5), on="bias")


@pytest.mark.parametrize("fwhm", [0, -1, math.nan, math.inf, (1, 0), "wide"])
def test_impossible_widths_are_refused(fwhm):
    with pytest.raises(InputError, match="fwhm"):
        topo_loss(normal(64, 5), blur="gaussian", fwhm=fwhm)


def test_a_width_without_a_gaussian_is_refused():
    with pytest.raises(InputError, match="blur='gaussian'"):
        topo_loss(normal(64, 5), fwhm=2.0)


@pytest.mark.parametrize(
    ("weight", "options"),
    [
        (torch.tensor(1.0), {}),
        (torch.ones(0, 5), {}),
        (torch.ones(4, 0), {}),
        (torch.ones(64, 5, dtype=torch.int64), {}),
        (torch.ones(64, 5, dtype=torch.complex64), {}),
        (np.ones((64, 5)), {}),
        (torch.ones(64), {"on": "input"}),
        (torch.ones(64, 4, 3, 3), {"on": "input"}),
    ],
)
def test_other_than_weights_are_refused(weight, options):
    with pytest.raises(InputError, match="weight"):
        topo_loss(weight, **options)


def test_a_sheet_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"64 units, but .* \(48, 5\) has 48 output units; .* topo_sheet\(48\)"):
        topo_loss(normal(48, 5), Sheet.grid(8, 8))
    with pytest.raises(InputError, match="has 5 input units"):
        topo_loss(normal(48, 5), Sheet.grid(6, 8), on="input")
    with pytest.raises(InputError, match="needs a layout"):
        topo_loss(normal(48, 5), Sheet.none(48))


@pytest.mark.slow
def test_a_compiled_step_leaves_its_graph_for_the_loss():
    weight = normal(64, 5, dtype=torch.float32)
    step = torch.compile(lambda w: topo_loss(w * 2, factor=2), backend="eager")
    leaf = weight.clone().requires_grad_()
    loss = step(leaf)
    loss.backward()
    assert loss.item() == pytest.approx(value(weight, factor=2), abs=1e-6)
    assert torch.allclose(leaf.grad, gradient(weight, factor=2), atol=1e-7)
