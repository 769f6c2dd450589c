"""Wiring cost: how much wire do a layer's connections need?"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from topobrain._checks import InputError, require_choice
from topobrain.sheet import Sheet


def wiring_cost(
    weight: Float[Tensor, "unit_out unit_in"],
    sheet_in: Sheet,
    sheet_out: Sheet,
    *,
    form: Literal["linear", "saturating", "quadratic"] = "linear",
    offset: float = 0.0,
    reduce: Literal["sum", "mean"] = "sum",
) -> Float[Tensor, ""]:
    r"""How far do a layer's connections reach, weighted by their strength?

    With d the length of each connection: ``"linear"`` :math:`\sum |w| d`; ``"saturating"``
    :math:`\sum w^2 d / (1 + w^2)`, where a strong connection costs its length and no more; ``"quadratic"``
    :math:`\sum w^2 d^2 / (1 + w^2)`, which punishes long ones.

    Parameters
    ----------
    weight
        Weights (unit out, unit in), as in `torch.nn.Linear`; for recurrent weights both sheets are the same.
    sheet_in, sheet_out
        Places of the units a connection leaves and reaches: see `connection_lengths`.
    form
        Which of the three costs.
    offset
        Distance between the two sheets, which lie one above the other: the length of the shortest connection.
    reduce
        ``"sum"`` over connections as in the reference, or ``"mean"``, which does not grow with the layer.

    Returns
    -------
    Tensor
        Scalar of at least 0, differentiable, in the unit of ``sheet_out.spacing`` (its square if quadratic).

    Raises
    ------
    InputError
        Sheets without layout or of other sizes than the weight, weights that are not finite, a negative offset.

    References
    ----------
    Blauch, Behrmann & Plaut (2022), PNAS 119:e2112566119, interactive topographic network. There a sheet has side 1
    (``spacing=1 / side``) and the cost a factor of .001 to 10.

    Examples
    --------
    >>> line = Sheet.grid(1, 3)
    >>> wiring_cost(torch.tensor([[0.0, 0.0, -2.0]]).repeat(3, 1), line, line).item()  # lengths 2, 1, 0
    6.0
    """
    require_choice("form of the wiring cost", form, ("linear", "saturating", "quadratic"))
    require_choice("reduction", reduce, ("sum", "mean"))
    expected = (sheet_out.n_units, sheet_in.n_units)
    if tuple(weight.shape) != expected:
        raise InputError(f"weight has shape {tuple(weight.shape)}, expected (unit out, unit in) = {expected}")
    if not bool(torch.isfinite(weight).all()):
        raise InputError("the weights are not finite")
    weight = weight if weight.dtype == torch.float64 else weight.float()
    length = connection_lengths(sheet_in, sheet_out, offset=offset, dtype=weight.dtype, device=weight.device)
    if form == "linear":
        cost = weight.abs() * length
    else:
        share = (weight / torch.hypot(weight, torch.ones_like(weight))).square()  # w^2 / (1 + w^2), without overflow
        cost = share * (length if form == "saturating" else length.square())
    return cost.sum() if reduce == "sum" else cost.mean()


def connection_lengths(
    sheet_in: Sheet,
    sheet_out: Sheet,
    *,
    offset: float = 0.0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "unit_out unit_in"]:
    """Return the distance between every unit of one sheet and every unit of another that lies above it.

    Both sheets cover the same area. Where they differ in size or spacing, ``sheet_in`` is stretched to the extent of
    ``sheet_out``, centre upon centre: under one unit of a 4 x 4 sheet lie four of an 8 x 8 sheet. Distances are Euclidean,
    in the unit of ``sheet_out.spacing``, and go the short way round if both sheets are wrapped.

    >>> connection_lengths(Sheet.grid(1, 4), Sheet.grid(1, 2)).tolist()
    [[0.25, 0.25, 0.75, 1.25], [1.25, 0.75, 0.25, 0.25]]
    """
    for sheet in (sheet_in, sheet_out):
        sheet.require_layout("a wiring length")
    if not offset >= 0 or not math.isfinite(offset):
        raise InputError(f"offset is the distance between the sheets, at least 0; got {offset}")
    wrapped = sheet_in.wrapped and sheet_out.wrapped
    squares = torch.full((sheet_out.n_units, sheet_in.n_units), float(offset) ** 2, dtype=dtype, device=device)
    axes = (
        (sheet_in.x, sheet_in.width, sheet_out.x, sheet_out.width),
        (sheet_in.y, sheet_in.height, sheet_out.y, sheet_out.height),
    )
    for position_in, n_in, position_out, n_out in axes:  # vectors travel to the device, the matrix is made there
        extent = n_out * sheet_out.spacing
        below = torch.from_numpy((position_in / sheet_in.spacing + 0.5) * (extent / n_in)).to(
            device=device, dtype=dtype
        )
        above = torch.from_numpy(position_out + 0.5 * sheet_out.spacing).to(dtype).to(device)
        gap = (above[:, None] - below[None, :]).abs()
        squares += (torch.minimum(gap, extent - gap) if wrapped else gap).square()
    return squares.sqrt()
