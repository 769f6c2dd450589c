"""Spatial reweighting: a locally connected, non-negative linear layer on the sheet."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from topobrain.nn.spatial_querying import disc, square_torus

INITIAL_GAIN = 10.0
"""The reference multiplies the usual uniform start by ten in non-negative mode."""


class SpatialReweighting(nn.Module):
    r"""Linear layer whose weights reach only a disc of neighbouring units, non-negative unless ``signed``.

    :math:`y = (|W| \odot R)\, x + b`, R the disc mask on a torus. The constraint is a parametrisation: ``forward``
    never changes the stored weights.

    Parameters
    ----------
    d
        Units in and out; a square number.
    fraction
        The disc's share of the sheet's area; its radius is ``sqrt(fraction / pi)`` sides.
    signed
        Leave the weights' sign free (an ablation: local connectivity alone makes no topography).

    References
    ----------
    BinHuraib, Tuckute & Blauch (2024), Topoformer, arXiv 2510.18745.
    """

    mask: Tensor

    def __init__(self, d: int, fraction: float, signed: bool = False) -> None:
        super().__init__()
        self.sheet = square_torus(d)
        self.fraction = float(fraction)
        self.signed = signed
        self.register_buffer("mask", torch.from_numpy(disc(self.sheet, fraction)))
        bound = 1 / math.sqrt(d)
        start = torch.empty(d, d).uniform_(-bound, bound)
        self.raw_weight = nn.Parameter((start if signed else start.abs() * INITIAL_GAIN) * self.mask)
        self.bias = nn.Parameter(torch.empty(d).uniform_(-bound, bound))

    @property
    def weight(self) -> Tensor:
        """Effective weight (unit out, unit in): exactly 0 outside the disc, at least 0 unless signed."""
        return (self.raw_weight if self.signed else self.raw_weight.abs()) * self.mask

    def forward(self, values: Tensor) -> Tensor:
        """Return reweighted values; the last axis is the unit."""
        return nn.functional.linear(values, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the layer's recipe."""
        return f"d={self.sheet.n_units}, fraction={self.fraction}, signed={self.signed}"
