"""Correlation loss: do neighbouring units respond alike? An activation loss that makes a layer topographic."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from topobrain._checks import InputError, require_choice
from topobrain.sheet import Sheet

MIN_UNITS = 3
"""Units a neighbourhood needs: fewer give one pair of units, and one pair has no correlation with its distance."""


def correlation_loss(
    outputs: Float[Tensor, "*sample unit"],
    sheet: Sheet,
    *,
    radius: int | None = None,
    n_neighbourhoods: int = 5,
    reduce: Literal["mean", "max"] = "mean",
    mask: Bool[Tensor, "*sample"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    r"""Do units respond the more alike, the closer they lie? 0 if exactly so, 0.5 by chance, 1 if the reverse.

    In each neighbourhood :math:`\tfrac12 (1 - \mathrm{Pearson}_{i<j}(r_{ij}, 1 / (1 + d_{ij})))`, with
    :math:`r_{ij}` the Pearson correlation of two units' outputs over all samples and :math:`d_{ij}` their distance on
    the sheet. The loss does not change when a unit's outputs are scaled by a positive number or shifted.

    Parameters
    ----------
    outputs
        Outputs of the units, the last axis the unit: (sample, unit) or (stimulus, token, unit). Half precision is
        computed in float32, also under autocast: correlations of bfloat16 sums would be noise.
    sheet
        Places of the units. Distances count in the unit of its ``spacing``, so a sheet in millimetres asks for a
        faster fall-off, over grid steps, than one in grid steps.
    radius
        None takes the whole sheet as one neighbourhood. A number of grid steps draws square neighbourhoods: units
        less than ``radius`` rows and columns from a centre, 5 giving 9 x 9 = 81 units. Centres lie so that no
        neighbourhood crosses the border of an open sheet; on a torus every cell is a centre.
    n_neighbourhoods
        Different neighbourhoods drawn for this call, or all of them if there are no more.
    reduce
        ``"mean"`` over the neighbourhoods, or ``"max"``: the worst of them.
    mask
        True for samples that count, shape of ``outputs`` without its last axis: leave padding out.
    generator
        Source of the neighbourhoods, on the CPU; needed with a ``radius``. The global random state stays untouched.

    Returns
    -------
    Tensor
        Scalar in [0, 1], differentiable.

    Raises
    ------
    InputError
        A sheet without layout or of another size, fewer than three samples, values that are not finite, a radius
        beyond the sheet.

    Notes
    -----
    A unit whose outputs do not vary (a dead unit) correlates at 0 with every other and receives no gradient; if no pair
    of units differs in its correlation, the loss is 0.5. Nothing larger than (unit, unit) of one neighbourhood is
    formed.

    References
    ----------
    Rathi et al. (2025), TopoLM, ICLR 2025: radius 5, five neighbourhoods a sheet and step, branch outputs before the
    residual addition, summed over sheets. Margalit et al. (2024), Neuron: the loss for vision.

    Examples
    --------
    >>> noise = torch.randn(2000, 100, generator=torch.Generator().manual_seed(0))
    >>> round(correlation_loss(noise, Sheet.grid(10, 10)).item(), 1)
    0.5
    >>> draws = torch.Generator().manual_seed(0)
    >>> 0.3 < correlation_loss(noise, Sheet.grid(10, 10), radius=3, generator=draws).item() < 0.7
    True
    """
    require_choice("reduction", reduce, ("mean", "max"))
    sheet.require_layout("the correlation loss")
    samples = _samples(outputs, sheet, mask)
    if radius is None:
        neighbourhoods = [np.arange(sheet.n_units)]
    else:
        neighbourhoods = draw_neighbourhoods(sheet, radius, n_neighbourhoods, generator)
    losses = []
    with torch.autocast(samples.device.type, enabled=False):
        for units in neighbourhoods:
            chosen = samples if len(units) == sheet.n_units else samples[:, torch.from_numpy(units).to(samples.device)]
            losses.append(_neighbourhood_loss(chosen, pair_distances(sheet, units)))
    stacked = torch.stack(losses)
    return stacked.mean() if reduce == "mean" else stacked.max()


def pair_correlation_loss(r: Float[Tensor, " pair"], d: Float[Tensor, " pair"]) -> Float[Tensor, ""]:
    r"""Return :math:`\tfrac12 (1 - \mathrm{Pearson}(r, 1 / (1 + d)))` over pairs of units.

    Parameters
    ----------
    r
        Correlation of each pair of units.
    d
        Their distance. Pairs whose correlations, or whose distances, are all equal give 0.5.

    >>> d = torch.tensor([1.0, 2.0, 5.0])
    >>> [pair_correlation_loss(sign / (1 + d), d).item() for sign in (1, -1)]
    [0.0, 1.0]
    """
    if r.shape != d.shape or r.ndim != 1 or len(r) < 2:
        raise InputError(
            f"correlations {tuple(r.shape)} and distances {tuple(d.shape)} must be one of each for at least two pairs"
        )
    values = _wide(r)
    nearness = 1 / (1 + d.to(values.dtype).to(values.device))  # in this order: some devices know no float64
    pearson = (_standardised(values[:, None]) * _standardised(nearness[:, None])).sum()
    return 0.5 * (1 - pearson.clamp(-1, 1))


def activation_decay(
    outputs: Float[Tensor, "*sample unit"], mask: Bool[Tensor, "*sample"] | None = None
) -> Float[Tensor, ""]:
    """Return the sum of squared outputs over units, averaged over samples (tokens): the cost of activity.

    Parameters
    ----------
    outputs
        Outputs, the last axis the unit.
    mask
        True for samples that count.
    """
    energy = _wide(outputs).square().sum(dim=-1)
    if mask is not None:
        energy = energy[_fitting_mask(outputs, mask)]
    if energy.numel() == 0:
        raise InputError("activation_decay needs at least one sample, the mask leaves none")
    return energy.mean()


def largest_radius(sheet: Sheet) -> int:
    """Return the largest radius whose neighbourhoods fit the sheet: 2 * radius - 1 rows and columns."""
    return (min(sheet.height, sheet.width) + 1) // 2


def neighbourhood_centres(sheet: Sheet, radius: int) -> np.ndarray:
    """Return the cells that may be the centre of a neighbourhood, ``row * width + column``, ascending.

    On an open sheet these are (height - 2 (radius - 1)) x (width - 2 (radius - 1)) cells, on a torus all. Cells whose
    neighbourhood holds fewer than three units, because of holes, are left out.
    """
    sheet.require_layout("a neighbourhood")
    most = largest_radius(sheet)
    if radius != int(radius) or not 2 <= radius <= most:
        legal = f"a whole number from 2 to {most}" if most >= 2 else "none: the sheet is too narrow for any radius"
        raise InputError(
            f"radius {radius} does not fit a sheet of {sheet.height} x {sheet.width}; legal: {legal} "
            "(radius=None takes the whole sheet)"
        )
    margin = 0 if sheet.wrapped else radius - 1
    rows, columns = np.arange(margin, sheet.height - margin), np.arange(margin, sheet.width - margin)
    centres = (rows[:, None] * sheet.width + columns[None, :]).ravel()
    if sheet.n_units < sheet.height * sheet.width:
        taken = np.zeros((sheet.height, sheet.width), dtype=int)
        taken.flat[sheet.cells] = 1
        side = 2 * radius - 1
        counts = np.lib.stride_tricks.sliding_window_view(taken, (side, side)).sum(axis=(2, 3))
        centres = centres[counts.ravel() >= MIN_UNITS]
        if not centres.size:
            raise InputError(f"no neighbourhood of radius {radius} holds {MIN_UNITS} units: take a larger one")
    return centres


def neighbourhood(sheet: Sheet, centre: int, radius: int) -> np.ndarray:
    """Return the units less than ``radius`` rows and columns from a cell, ascending by cell from the top left."""
    steps = np.arange(1 - radius, radius)
    rows, columns = centre // sheet.width + steps, centre % sheet.width + steps
    if sheet.wrapped:
        rows, columns = rows % sheet.height, columns % sheet.width
    unit_at = np.full(sheet.height * sheet.width, -1)
    unit_at[sheet.cells] = np.arange(sheet.n_units)
    units: np.ndarray = unit_at[(rows[:, None] * sheet.width + columns[None, :]).ravel()]
    return units[units >= 0]


def draw_neighbourhoods(
    sheet: Sheet, radius: int, n_neighbourhoods: int, generator: torch.Generator | None
) -> list[np.ndarray]:
    """Return the units of different random neighbourhoods, as `correlation_loss` draws them."""
    centres = neighbourhood_centres(sheet, radius)
    if n_neighbourhoods < 1:
        raise InputError(f"n_neighbourhoods must be 1 or more, got {n_neighbourhoods}")
    if generator is None or generator.device.type != "cpu":
        given = "none" if generator is None else f"one on {generator.device}"
        raise InputError(
            f"random neighbourhoods need a generator on the CPU, got {given}: make one before training, "
            "generator = torch.Generator().manual_seed(0), and pass it in every step"
        )
    order = torch.randperm(len(centres), generator=generator)[:n_neighbourhoods]
    return [neighbourhood(sheet, int(centre), radius) for centre in centres[order.numpy()]]


def pair_distances(sheet: Sheet, units: np.ndarray) -> np.ndarray:
    """Return the distances of some units' pairs i < j, in the order of ``numpy.triu_indices``.

    `Sheet.distances` would form all pairs of the sheet; a training step needs those of a few neighbourhoods.
    """
    first, second = np.triu_indices(len(units), k=1)
    gaps = []
    for position, cells in ((sheet.x[units], sheet.width), (sheet.y[units], sheet.height)):
        gap = np.abs(position[first] - position[second])
        gaps.append(np.minimum(gap, cells * sheet.spacing - gap) if sheet.wrapped else gap)
    return np.asarray(np.hypot(*gaps))


def _neighbourhood_loss(outputs: Tensor, distances: np.ndarray) -> Tensor:
    normed = _standardised(outputs)
    first, second = torch.triu_indices(outputs.shape[1], outputs.shape[1], offset=1, device=outputs.device)
    r = (normed.T @ normed)[first, second]
    return pair_correlation_loss(r, torch.from_numpy(distances).to(r.dtype).to(r.device))


def _standardised(values: Tensor) -> Tensor:
    """Return columns centred and of length one; a column that is constant up to rounding becomes zeros.

    The square root's argument is replaced before it is taken, so that a constant column has gradient 0, not NaN.
    """
    largest = values.detach().abs().amax(dim=0, keepdim=True)
    values = values / torch.where(largest == 0, torch.ones_like(largest), largest)  # squares must not overflow
    centred = values - values.mean(dim=0, keepdim=True)
    square = centred.square().sum(dim=0, keepdim=True)
    size = values.detach().square().sum(dim=0, keepdim=True)
    rounding = 16 * torch.finfo(values.dtype).eps
    constant = square.detach() <= rounding**2 * size
    length = torch.where(constant, torch.ones_like(square), square).sqrt()
    return torch.where(constant, torch.zeros_like(centred), centred / length)


def _samples(outputs: Tensor, sheet: Sheet, mask: Tensor | None) -> Tensor:
    if outputs.ndim < 2 or outputs.shape[-1] != sheet.n_units:
        raise InputError(
            f"outputs have shape {tuple(outputs.shape)}, expected (..., unit) with the sheet's {sheet.n_units} units last"
        )
    if sheet.n_units < MIN_UNITS:
        raise InputError(f"the correlation loss needs at least {MIN_UNITS} units, the sheet has {sheet.n_units}")
    kept = outputs.reshape(-1, sheet.n_units) if mask is None else outputs[_fitting_mask(outputs, mask)]
    if len(kept) < 3:
        raise InputError(
            f"a correlation needs at least 3 samples, got {len(kept)}{'' if mask is None else ' (masked)'}"
        )
    if not bool(torch.isfinite(kept).all()):
        unit = int((~torch.isfinite(kept)).any(dim=0).nonzero()[0])
        raise InputError(f"outputs of unit {unit} are not finite; padding that may hold anything belongs in the mask")
    return _wide(kept)


def _fitting_mask(outputs: Tensor, mask: Tensor) -> Tensor:
    if mask.dtype != torch.bool or mask.shape != outputs.shape[:-1]:
        raise InputError(
            f"mask must be boolean of shape {tuple(outputs.shape[:-1])}, got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    return mask.to(outputs.device)


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
