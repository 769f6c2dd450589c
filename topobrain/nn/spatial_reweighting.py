"""Spatial reweighting: a locally connected, non-negative linear layer on the sheet."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from topobrain._checks import InputError
from topobrain.nn.pools import disc, disc_radius, same_recipe, square_sheet

INITIAL_GAIN = 10.0
"""The published layer multiplies the usual uniform start by ten in non-negative mode."""


class SpatialReweighting(nn.Module):
    r"""Linear layer whose weights reach only a disc of neighbouring units, non-negative unless ``signed``.

    :math:`y = (|W| \odot R)\, x + b`, R the disc mask on a torus. The constraint is a parametrisation: ``forward``
    never changes the stored weights, and no optimiser can leave it. Stored weights outside the disc are 0 and get no
    gradient, so that momentum and weight decay leave them at 0 too.

    Non-negative weights blur: this layer is smooth before any training, so show its topography beside the untrained
    one's. Local connectivity alone (``signed``) makes none.

    Parameters
    ----------
    d
        Units in and out; a square number.
    fraction
        The disc's share of the sheet's *area*; its radius is ``sqrt(fraction / pi)`` sides (`pools.disc_radius`).
    signed
        Leave the weights' sign free (an ablation).
    wrapped
        False for a sheet with an open border instead of a torus.
    initial_gain
        Weights start uniform in +-``initial_gain / sqrt(d)``; their absolute value counts unless ``signed``. The
        default is 10, and 1 (that of an ordinary linear layer) for signed weights.
    initial_sd
        Start from a normal distribution with this standard deviation instead (half-normal unless ``signed``), and the
        bias at 0: what the published BERT does (0.02).

    Raises
    ------
    InputError
        A fraction not in (0, 2 pi], units that fill no square, two starts at once.

    References
    ----------
    BinHuraib, Tuckute & Blauch (2024), Topoformer, arXiv 2510.18745.

    Examples
    --------
    >>> layer = SpatialReweighting(784, 0.3)
    >>> int((layer.weight > 0).sum()), bool((layer.weight < 0).any())
    (188944, False)
    """

    mask: Tensor

    def __init__(
        self,
        d: int,
        fraction: float,
        signed: bool = False,
        *,
        wrapped: bool = True,
        initial_gain: float | None = None,
        initial_sd: float | None = None,
    ) -> None:
        super().__init__()
        if initial_gain is not None and initial_sd is not None:
            raise InputError("give initial_gain (uniform start) or initial_sd (normal start), not both")
        for label, given in (("initial_gain", initial_gain), ("initial_sd", initial_sd)):
            if given is not None and not (math.isfinite(given) and given >= 0):
                raise InputError(f"{label} must be a number of at least 0, got {given}")
        self.sheet = square_sheet(d, wrapped=wrapped)
        disc_radius(fraction)  # refuses what is no share of an area
        self.fraction = float(fraction)
        self.signed = signed
        self.register_buffer("mask", torch.tensor(disc(self.sheet, fraction)))
        bound = 1 / math.sqrt(d)
        if initial_sd is not None:
            start, bias = torch.empty(d, d).normal_(0, initial_sd), torch.zeros(d)
        else:
            gain = (1.0 if signed else INITIAL_GAIN) if initial_gain is None else initial_gain
            start = torch.empty(d, d).uniform_(-bound, bound) * gain
            bias = torch.empty(d).uniform_(-bound, bound)
        self.raw_weight = nn.Parameter((start if signed else start.abs()) * self.mask)
        self.bias = nn.Parameter(bias)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        same_recipe(self.mask, state_dict.get(f"{prefix}mask"), f"{prefix}mask", self.extra_repr(), rest[-1])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def weight(self) -> Tensor:
        """Effective weight (unit out, unit in): exactly 0 outside the disc, at least 0 unless signed."""
        return (self.raw_weight if self.signed else self.raw_weight.abs()) * self.mask

    def forward(self, values: Tensor) -> Tensor:
        """Return reweighted values; the last axis is the unit."""
        if values.shape[-1] != self.sheet.n_units:
            raise InputError(
                f"values have {values.shape[-1]} units in their last axis, this layer {self.sheet.n_units}"
            )
        return nn.functional.linear(values, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the layer's recipe."""
        return f"d={self.sheet.n_units}, fraction={self.fraction}, signed={self.signed}, wrapped={self.sheet.wrapped}"
