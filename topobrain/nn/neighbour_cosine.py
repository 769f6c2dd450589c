"""Neighbour-cosine loss: do neighbouring units have alike weights?"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topobrain._checks import InputError
from topobrain.sheet import Sheet


def neighbour_cosine_loss(
    weight: Float[Tensor, "unit ..."], sheet: Sheet, *, bias: Float[Tensor, " unit"] | None = None
) -> Float[Tensor, ""]:
    r"""How unlike are the weights of units that lie side by side? 0 if they point the same way, 1 if opposite.

    :math:`\tfrac12 (1 - \tfrac12 (\overline{\cos}_{right} + \overline{\cos}_{down}))`: the cosine of each unit's weight
    vector with that of its right neighbour, averaged over the sheet, and the same for the neighbour below. Random
    weights give 0.5; the length of a weight vector does not matter.

    Parameters
    ----------
    weight
        Weights of the units, the first axis the unit: (unit, input) or (unit, channel, row, column).
    sheet
        Places of the units. On a torus the last column's right neighbour is the first column; an open sheet has no
        neighbours beyond its border. Pairs that touch a hole do not count.
    bias
        Biases (unit,), appended to the weight vectors as one more input, as in the reference.

    Returns
    -------
    Tensor
        Scalar in [0, 1], differentiable. A unit without weights (all 0) has cosine 0 with its neighbours. A sheet of
        one row (or column) has neighbours in one direction only: the mean of that direction is taken.

    Raises
    ------
    InputError
        A sheet without layout or of another size, weights that are not finite, no two units side by side.

    References
    ----------
    Lu et al. (2025), All-TNN, Nature Human Behaviour: alpha 1, 10 or 100 times this loss, bias included.

    Examples
    --------
    >>> weight = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> round(neighbour_cosine_loss(weight, Sheet.grid(2, 2)).item(), 3)  # right: 1 and -1, down: 0 and 0
    0.5
    """
    sheet.require_layout("the neighbour-cosine loss")
    if weight.ndim < 2 or len(weight) != sheet.n_units:
        raise InputError(
            f"weight has shape {tuple(weight.shape)}, expected (unit, input, ...) with the sheet's {sheet.n_units} units"
        )
    vectors = weight.flatten(start_dim=1)
    if bias is not None:
        if bias.shape != (sheet.n_units,):
            raise InputError(f"bias has shape {tuple(bias.shape)}, expected ({sheet.n_units},)")
        vectors = torch.cat([vectors, bias.to(vectors.dtype).to(vectors.device)[:, None]], dim=1)
    if not bool(torch.isfinite(vectors).all()):
        unit = int((~torch.isfinite(vectors)).any(dim=1).nonzero()[0])
        raise InputError(f"weights of unit {unit} are not finite")
    vectors = vectors if vectors.dtype == torch.float64 else vectors.float()
    largest = vectors.detach().abs().amax(dim=1, keepdim=True)
    vectors = vectors / torch.where(largest == 0, torch.ones_like(largest), largest)  # squares must not overflow
    square = vectors.square().sum(dim=1, keepdim=True)
    empty = square.detach() == 0
    directions = torch.where(empty, torch.zeros_like(vectors), vectors / torch.where(empty, 1.0, square).sqrt())
    means = [
        (directions[here] * directions[there]).sum(dim=1).mean()
        for here, there in (side_by_side(sheet, 0, 1), side_by_side(sheet, 1, 0))
        if len(here)
    ]
    if not means:
        raise InputError("no two units of this sheet lie side by side: the neighbour-cosine loss is not defined")
    return (1 - torch.stack(means).mean()) / 2


def side_by_side(sheet: Sheet, down: int, right: int) -> tuple[np.ndarray, np.ndarray]:
    """Return units and their neighbours so many rows down and columns to the right, as two arrays (pair,).

    >>> [units.tolist() for units in side_by_side(Sheet.grid(1, 3), 0, 1)]
    [[0, 1], [1, 2]]
    """
    unit_at = np.full((sheet.height, sheet.width), -1)
    unit_at.flat[sheet.cells] = np.arange(sheet.n_units)
    beside = np.roll(unit_at, (-down, -right), axis=(0, 1))
    if not sheet.wrapped:
        beside[sheet.height - down :], beside[:, sheet.width - right :] = -1, -1
    pairs = (unit_at >= 0) & (beside >= 0) & (unit_at != beside)  # a torus of one column would pair a unit with itself
    return unit_at[pairs], beside[pairs]
