"""Lateral kernels: fixed connections between neighbouring units, topography by architecture instead of by a loss."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from topobrain._checks import InputError, require_choice
from topobrain.sheet import Sheet

Kind = Literal["gaussian", "mexican-hat"]


def lateral_kernel(sheet: Sheet, *, kind: Kind = "gaussian", fwhm: float) -> Float[Tensor, "unit unit"]:
    r"""Return what each unit takes from every unit around it: row i holds the weights of unit i's inputs.

    ``"gaussian"``: :math:`\exp(-d^2 / 2\sigma^2)`, rows of sum 1, so that a unit at the border is no weaker.
    ``"mexican-hat"``: :math:`(1 - u) \exp(-u)` with :math:`u = d^2 / 2\sigma^2` (a Ricker wavelet: neighbours excite,
    units beyond :math:`\sqrt 2 \sigma = 0.6` fwhm inhibit), absolute values of each row of sum 1.

    Parameters
    ----------
    sheet
        Places of the units.
    kind
        Shape of the kernel.
    fwhm
        Full width at half maximum of the Gaussian, :math:`\sqrt{8 \ln 2}\,\sigma`, in the unit of the sheet's spacing.

    Returns
    -------
    Tensor
        float32 (unit, unit).

    References
    ----------
    Qian et al. (2026), LLCNN, with both shapes over the channels of a convolution (there zero or mirrored beyond the
    border, here renormalised).

    Examples
    --------
    >>> kernel = lateral_kernel(Sheet.grid(5, 5), fwhm=2.0)
    >>> bool(torch.allclose(kernel.sum(dim=1), torch.ones(25)))
    True
    """
    require_choice("lateral kernel", kind, ("gaussian", "mexican-hat"))
    sheet.require_layout("a lateral kernel")
    if not fwhm > 0 or not math.isfinite(fwhm):
        raise InputError(f"fwhm is the kernel's width, above 0; got {fwhm}")
    if kind == "gaussian":
        weights = sheet.smoothing(fwhm)
    else:
        sigma = fwhm / math.sqrt(8 * math.log(2))
        spread = sheet.distances() ** 2 / (2 * sigma**2)
        hat = (1 - spread) * np.exp(-spread)
        weights = hat / np.abs(hat).sum(axis=1, keepdims=True)
    return torch.from_numpy(weights.astype(np.float32))


class LateralKernel(nn.Module):
    """Pass outputs through a fixed `lateral_kernel`.

    Parameters
    ----------
    sheet
        Places of the units.
    kind, fwhm
        See `lateral_kernel`.
    axis
        Axis of the units: -1 for (stimulus, token, unit), 1 for the channels of (stimulus, channel, row, column).

    Examples
    --------
    >>> LateralKernel(Sheet.grid(4, 4), fwhm=2.0, axis=1)(torch.ones(2, 16, 3, 3)).shape
    torch.Size([2, 16, 3, 3])
    """

    kernel: Tensor

    def __init__(self, sheet: Sheet, *, kind: Kind = "gaussian", fwhm: float, axis: int = -1) -> None:
        super().__init__()
        self.sheet, self.kind, self.fwhm, self.axis = sheet, kind, float(fwhm), axis
        self.register_buffer("kernel", lateral_kernel(sheet, kind=kind, fwhm=fwhm))

    def forward(self, values: Tensor) -> Tensor:
        """Return the values after one pass of the kernel, same shape."""
        if not -values.ndim <= self.axis < values.ndim or values.shape[self.axis] != self.sheet.n_units:
            raise InputError(
                f"values have shape {tuple(values.shape)}, expected {self.sheet.n_units} units on axis {self.axis}"
            )
        mixed = values.movedim(self.axis, -1) @ self.kernel.to(values.dtype).T
        return mixed.movedim(-1, self.axis)

    def extra_repr(self) -> str:
        """Return the kernel's recipe."""
        return f"n_units={self.sheet.n_units}, kind={self.kind!r}, fwhm={self.fwhm}, axis={self.axis}"
