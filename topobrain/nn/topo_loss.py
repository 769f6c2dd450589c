"""TopoLoss: do neighbouring units have alike weights? A weight loss that lays a layer's units out on a sheet."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from topobrain._checks import InputError, require_choice
from topobrain.nn.topo_blur import Blur, BlurRecipe, blur_on, topo_sheet
from topobrain.sheet import Sheet

DEFAULT_FACTOR = 4.0
"""Of the authors' MNIST example; the factors of the paper's models are not known."""
BLOCK = 2**19
"""Numbers a block of a blurred sheet holds on a CPU: 2 MB in float32."""
EPS = 1e-8
"""A vector no longer than this has no direction: it counts as a cosine of 0 and gets no gradient of its own."""


def topo_loss(
    weight: Float[Tensor, " unit *inputs"],
    sheet: Sheet | None = None,
    factor: float | tuple[float, float] = DEFAULT_FACTOR,
    interpolation: str = "bilinear",
    *,
    blur: str = "anchor",
    fwhm: float | tuple[float, float] | None = None,
    on: str = "output",
) -> Float[Tensor, ""]:
    r"""Do neighbouring units have alike weights? 0 if every unit points where its blurred surroundings do, up to 2.

    With :math:`w_i` the weights of unit i and :math:`b = B w` the sheet blurred,
    :math:`L = 1 - \frac1N \sum_i \cos(w_i, b_i)`. A one-dimensional ``weight`` (a bias) is one vector over the sheet:
    :math:`L = 1 - \cos(w, B w)`.

    Parameters
    ----------
    weight
        (unit, anything): the weight of a `torch.nn.Linear` (out, in) or a `torch.nn.Conv2d` (out, in / groups, kernel
        height, kernel width), whose units are its channels; or a bias (unit,). `TopoTerm` knows other layers, whose
        weights lie otherwise.
    sheet
        Places of the units; `topo_sheet` of their number if not given. Cells without a unit take no part: they are
        neither compared nor blurred in.
    factor
        Pitch f of the blur in units, at least 1; a pair is (down, across the sheet). At most the sheet's size.
    interpolation
        Of the anchor blur: ``"bilinear"``, ``"nearest"``, ``"nearest-exact"``, ``"area"`` or ``"bicubic"``.
    blur
        ``"anchor"`` resizes the sheet down by ``factor`` and up again, as the reference does: it interpolates between
        anchor units on a lattice of that pitch, is no low-pass filter, and ignores that a sheet is wrapped.
        ``"gaussian"`` is a true low-pass, the same at every unit of a torus and renormalised at open edges.
    fwhm
        Full width at half maximum of the Gaussian, in grid steps; a pair is (down, across). ``factor`` if not given,
        the width of the triangle that bilinear interpolation spreads an anchor with.
    on
        ``"output"`` takes units along the first axis, ``"input"`` the columns of a (out, in) weight as input units.

    Returns
    -------
    Tensor
        Scalar in [0, 2], differentiable twice in ``weight`` only. Computed in float32 (float64 for a float64 weight),
        also under autocast: half precision is off in the third digit.

    Raises
    ------
    InputError
        A factor below 1 or beyond the sheet, a sheet of another size or without layout, a weight of the wrong shape.
    UnknownNameError
        An interpolation, blur or side that does not exist.

    Notes
    -----
    The loss is homogeneous of degree 0 in all weights and sees neither the order of the inputs nor, for
    ``"anchor"``, most units: it is not monotone in ``factor``. Zero loss forces a weight of rank at most
    ``floor(height / f) * floor(width / f)``. A weight that is not finite gives a NaN loss. On CUDA, torch's switch for
    TF32 applies to the products in here as to all others.

    Two deviations from the reference: a factor below 1 is refused, and a unit whose weights (or surroundings) are
    shorter than 1e-8 gets no gradient of its own, where the reference sends one of the order of 1e8.

    References
    ----------
    Deb, Deb & Murty (2025), TopoNets: High Performing Vision and Language Models with Brain-Like Topography, ICLR,
    arXiv 2501.16396. Numbers equal those of their package ``topoloss`` 0.0.2.

    Examples
    --------
    >>> round(topo_loss(torch.randn(256, 784, generator=torch.Generator().manual_seed(0)), factor=4).item(), 2)
    0.88
    >>> topo_loss(torch.ones(256, 784)).item() < 1e-6
    True
    """
    if torch.compiler.is_compiling():  # building the blur is no business of a compiler: leave the graph for this loss
        outside: Any = torch.compiler.disable(_computed)  # type: ignore[no-untyped-call]
        return outside(weight, sheet, factor, interpolation, blur, fwhm, on)  # type: ignore[no-any-return]
    return _computed(weight, sheet, factor, interpolation, blur, fwhm, on)


def _computed(
    weight: Tensor, sheet: Sheet | None, factor: object, interpolation: str, blur: str, fwhm: object, on: str
) -> Tensor:
    """Check everything, then compute; the body of `topo_loss`."""
    require_choice("side of a layer", on, ("output", "input"))
    rows = _rows(weight, on)
    sheet = topo_sheet(len(rows)) if sheet is None else sheet
    if len(rows) != sheet.n_units:
        raise InputError(
            f"the sheet has {sheet.n_units} units, but a weight of shape {tuple(weight.shape)} has {len(rows)} {on} "
            f"units; leave the sheet out or give topo_sheet({len(rows)})"
        )
    recipe = BlurRecipe.of(sheet, factor, interpolation, blur, fwhm)
    with _full_precision(weight.device):
        rows = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
        operator = blur_on(recipe, rows.device, rows.dtype)
        if weight.ndim == 1:
            return _bias_loss(rows, operator)
        loss: Tensor = _UnitLoss.apply(rows, operator)  # type: ignore[no-untyped-call]
        return loss


def _rows(weight: Tensor, on: str) -> Tensor:
    """Return a weight as (unit, e), or refuse it."""
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        kind = weight.dtype if isinstance(weight, Tensor) else type(weight).__name__
        raise InputError(f"a weight is a tensor of floating-point numbers, got {kind}")
    shape = tuple(weight.shape)
    if weight.ndim == 0 or weight.numel() == 0:
        raise InputError(f"a weight is (unit, inputs...) or a bias (unit,), got shape {shape}")
    if on == "output":
        return weight.flatten(1) if weight.ndim > 1 else weight[:, None]
    if weight.ndim != 2:
        raise InputError(f"on='input' takes the columns of a (out, in) weight as units, got shape {shape}")
    return weight.T


def _full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context that keeps products of this device out of half precision."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


class _UnitLoss(torch.autograd.Function):
    """One minus the mean cosine of units and their blurred surroundings, with its gradient in closed form.

    With s = 1 / (|w||b|) and c the cosine of each unit,
    dL/dw = -1/N [ B'(s w - c b / |b|^2) + s b - c w / |w|^2 ]. Only U' acts on full-size arrays: as B = U D, the first
    term is D' [ U' diag(s) w - (U' diag(c / |b|^2) U) D w ].
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, blur: Blur) -> Tensor:
        grid = blur.to_grid(rows)
        spread = blur.spread_rows(blur.gather(grid))
        norm_w, norm_b, inner = grid.new_empty(3, *grid.shape[:2])
        for some in _blocks(grid):
            blurred = blur.spread_columns(spread[some])
            norm_w[some] = torch.linalg.vector_norm(grid[some], dim=2)
            norm_b[some] = torch.linalg.vector_norm(blurred, dim=2)
            inner[some] = blurred.mul_(grid[some]).sum(dim=2)
        inverse_w, inverse_b = _inverse(norm_w), _inverse(norm_b)
        if blur.sign is not None:
            inverse_b *= blur.sign
        cosine = inner * inverse_w * inverse_b
        ctx.blur = blur
        ctx.save_for_backward(rows, grid, spread, cosine, inverse_w, inverse_b)
        loss: Tensor = 1 - cosine.sum() / blur.n_counted
        return loss

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None]:
        blur: Blur = ctx.blur
        rows, grid, spread, cosine, inverse_w, inverse_b = ctx.saved_tensors
        with _full_precision(rows.device):
            if torch.is_grad_enabled():  # a gradient of the gradient is wanted
                return torch.autograd.grad(_traced_loss(rows, blur), rows, above[0], create_graph=True)[0], None
            outside = above[0] / -blur.n_counted
            across = inverse_w * inverse_b * outside
            shrink_b = cosine * inverse_b.square() * outside
            shrink_w = cosine * inverse_w.square() * outside
            back = blur.up_w.T  # (cell column, unit column), scaled below by a weight for every unit of every sheet row
            rows_back, gradient = torch.empty_like(spread), torch.empty_like(grid)
            for some in _blocks(grid):
                torch.bmm(back * across[some, None, :], grid[some], out=rows_back[some])
                rows_back[some].baddbmm_((back * shrink_b[some, None, :]) @ blur.up_w, spread[some], alpha=-1)
                torch.bmm(blur.up_w * across[some, :, None], spread[some], out=gradient[some])
                gradient[some].addcmul_(grid[some], shrink_w[some, :, None], value=-1)
            low = blur.up_h.T @ rows_back.view(blur.height, -1)
            blur.scatter_add(gradient, low.view(len(low), *spread.shape[1:]))
            return blur.to_units(gradient), None


def _blocks(grid: Tensor) -> list[slice]:
    """Return slices over the rows of a sheet: on a CPU small enough for its cache, elsewhere the whole sheet.

    The blurred sheet is as large as the weight and only met row by row; making it anew is cheaper than fetching it.
    """
    size = len(grid) if grid.device.type != "cpu" else max(1, BLOCK // grid[0].numel())
    return [slice(start, start + size) for start in range(0, len(grid), size)]


def _inverse(norm: Tensor) -> Tensor:
    """Return 1 / norm, and 0 where there is no direction."""
    return torch.where(norm > EPS, norm.reciprocal(), 0.0)


def _traced_loss(rows: Tensor, blur: Blur) -> Tensor:
    """Return the loss in operations torch can differentiate any number of times."""
    grid = blur.to_grid(rows)
    blurred = blur(grid)
    cosine = torch.linalg.vecdot(grid, blurred) * _traced_inverse(grid) * _traced_inverse(blurred)
    loss: Tensor = 1 - (cosine if blur.sign is None else cosine * blur.sign).sum() / blur.n_counted
    return loss


def _traced_inverse(grid: Tensor) -> Tensor:
    square = torch.linalg.vecdot(grid, grid)
    alive = square > EPS**2  # the derivative of a root at 0 is NaN, so those never reach it
    return torch.where(alive, torch.where(alive, square, 1.0).rsqrt(), 0.0)


def _bias_loss(rows: Tensor, blur: Blur) -> Tensor:
    """Return one minus the cosine of one value a unit, all units together, and their blurred sheet."""
    grid = blur.to_grid(rows)
    blurred = blur(grid)
    if blur.renormalise is not None and blur.sign is not None:
        blurred = blurred * blur.renormalise[..., None]
        grid = grid * blur.sign.square()[..., None]  # units without surroundings take no part
    both = torch.stack([grid.flatten(), blurred.flatten()])[:, None, :]
    inverse = _traced_inverse(both)
    cosine: Tensor = (both[0] @ both[1].T)[0, 0] * inverse[0, 0] * inverse[1, 0]
    return 1 - cosine
