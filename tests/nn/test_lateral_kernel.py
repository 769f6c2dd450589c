import math

import numpy as np
import pytest
import torch

from topobrain._checks import InputError, UnknownNameError
from topobrain.nn import LateralKernel, lateral_kernel
from topobrain.sheet import Sheet


def test_gaussian_kernel_halves_at_half_its_width_and_keeps_constants():
    sheet = Sheet.grid(15, 15, wrapped=True)
    kernel = lateral_kernel(sheet, fwhm=4.0)
    assert (kernel[0, 2] / kernel[0, 0]).item() == pytest.approx(0.5, abs=1e-6)
    assert torch.allclose(kernel, kernel.T)
    for open_sheet in (Sheet.grid(6, 7), Sheet(40, 6, 7).with_places(np.random.default_rng(0).permutation(42)[:40])):
        assert torch.allclose(lateral_kernel(open_sheet, fwhm=3.0).sum(dim=1), torch.ones(open_sheet.n_units))


def test_mexican_hat_excites_near_and_inhibits_further_out():
    sheet = Sheet.grid(15, 15, wrapped=True)
    fwhm = 4.0
    kernel, distance = lateral_kernel(sheet, kind="mexican-hat", fwhm=fwhm).numpy(), sheet.distances()
    zero = math.sqrt(2) * fwhm / math.sqrt(8 * math.log(2))
    assert (kernel[distance < zero - 1e-6] > 0).all()
    assert (kernel[(distance > zero + 1e-6) & (distance < 6)] < 0).all()
    assert np.allclose(np.abs(kernel).sum(axis=1), 1, atol=1e-6)
    assert kernel.sum(axis=1) == pytest.approx(np.zeros(225), abs=0.01)  # a Ricker wavelet has no mean


def test_module_mixes_the_axis_of_the_units():
    sheet, values = Sheet.grid(3, 4), torch.randn(2, 12, 5, 6, generator=torch.Generator().manual_seed(0))
    kernel = lateral_kernel(sheet, kind="mexican-hat", fwhm=2.0)
    channels = LateralKernel(sheet, kind="mexican-hat", fwhm=2.0, axis=1)
    assert torch.allclose(channels(values), torch.einsum("ij,bjhw->bihw", kernel, values), atol=1e-6)
    last = LateralKernel(sheet, kind="mexican-hat", fwhm=2.0)
    tokens = values.permute(0, 2, 3, 1)
    assert torch.allclose(last(tokens), channels(values).permute(0, 2, 3, 1), atol=1e-6)
    assert list(channels.parameters()) == []
    assert "kernel" in channels.state_dict()
    assert "mexican-hat" in repr(channels)


def test_bad_kernels_are_named():
    with pytest.raises(UnknownNameError, match="mexican-hat"):
        lateral_kernel(Sheet.grid(3, 3), kind="mexican", fwhm=1.0)
    for fwhm in (0.0, -1.0, math.inf):
        with pytest.raises(InputError, match="fwhm"):
            lateral_kernel(Sheet.grid(3, 3), fwhm=fwhm)
    with pytest.raises(InputError, match="needs a layout"):
        lateral_kernel(Sheet.none(9), fwhm=1.0)
    for shape, axis in (((2, 8), -1), ((9,), 1)):
        with pytest.raises(InputError, match=f"9 units on axis {axis}"):
            LateralKernel(Sheet.grid(3, 3), fwhm=1.0, axis=axis)(torch.ones(shape))
