"""Spectrum: at which spatial frequencies does a map vary, and how mixed are its labels within a window?"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from topobrain._checks import InputError, require_choice
from topobrain.stats.layout import Layout


class RadialSpectrum(NamedTuple):
    """Power of a map in rings of spatial frequency.

    Attributes
    ----------
    frequency
        Middle of each ring (ring,), in cycles per unit of the sheet's spacing; the first is the longest wave that fits
        the sheet's shorter side.
    power
        Mean squared Fourier amplitude of the modes in the ring, over the number of places: (ring,) or (map, ring), in
        squared units of the map. White noise of variance s^2 has s^2 in every ring.
    n_modes
        Modes in each ring (ring,); ``(power * n_modes).sum() / n_modes.sum()`` is nearly the map's variance, and
        ``(power * n_modes).sum() / n_places`` exactly (Parseval).
    """

    frequency: np.ndarray
    power: np.ndarray
    n_modes: np.ndarray


def radial_power(
    values: Float[np.ndarray, " unit"] | Float[np.ndarray, "map unit"],
    sheet: Layout,
    *,
    fill: Literal["refuse", "mean"] = "refuse",
) -> RadialSpectrum:
    r"""At which spatial frequencies does a map vary?

    :math:`P(k) = \mathrm{mean}_{f \in \mathrm{ring}\,k} |\hat x(f)|^2 / n` of the two-dimensional Fourier transform of
    the map less its mean, over rings one cycle per shorter side wide. The transform takes the sheet for a torus: an open
    sheet whose borders do not match gains some power at all frequencies.

    Parameters
    ----------
    values
        One map (unit,) or several (map, unit).
    sheet
        Places of the units.
    fill
        ``"refuse"`` raises where a place has no unit or a unit is NaN; ``"mean"`` puts the map's mean there, which
        adds no power of its own.

    Returns
    -------
    RadialSpectrum
        A constant map has power 0 everywhere.

    Raises
    ------
    InputError
        A sheet without layout or with fewer than two rows and columns, values of another size, missing values.

    References
    ----------
    Lu et al. (2025), All-TNN, Nature Human Behaviour: radial profile of the power spectrum of selectivity maps.

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> stripes = np.tile(np.cos(2 * np.pi * np.arange(16) / 4), 16)
    >>> spectrum = radial_power(stripes, Sheet.grid(16, 16))
    >>> float(spectrum.frequency[spectrum.power.argmax()])
    0.25
    """
    images = _images(values, sheet, fill)
    height, width = images.shape[1:]
    power, frequency = _power(images)
    side = min(height, width)
    # the mean is gone, so no mode needs the ring around 0; long waves along the longer side join the first ring
    ring = np.maximum(np.rint(frequency * side).astype(int), 1) - 1
    ring[0, 0] = -1
    n_modes = np.bincount(ring.ravel() + 1)[1:]
    total = np.stack([np.bincount(ring.ravel() + 1, weights=one.ravel())[1:] for one in power])
    found = total / n_modes
    rings = np.arange(1, len(n_modes) + 1) / side / sheet.spacing
    return RadialSpectrum(rings, found[0] if np.ndim(values) == 1 else found, n_modes)


def spectral_centroid(
    values: Float[np.ndarray, " unit"] | Float[np.ndarray, "map unit"],
    sheet: Layout,
    *,
    fill: Literal["refuse", "mean"] = "refuse",
) -> float | Float[np.ndarray, " map"]:
    """Return the mean spatial frequency of a map, each mode weighted by its power: low for a smooth map.

    In cycles per unit of the sheet's spacing, modes taken one by one; NaN for a constant map. White noise has about
    0.38 on a large square grid. Parameters as for `radial_power`.

    >>> from topobrain.sheet import Sheet
    >>> stripes = np.tile(np.cos(2 * np.pi * np.arange(16) / 8), 16)
    >>> round(spectral_centroid(stripes, Sheet.grid(16, 16)), 6)
    0.125
    """
    images = _images(values, sheet, fill)
    power, frequency = _power(images)
    found = _share(power, frequency / sheet.spacing)
    return float(found[0]) if np.ndim(values) == 1 else found


def low_frequency_share(
    values: Float[np.ndarray, " unit"] | Float[np.ndarray, "map unit"],
    sheet: Layout,
    *,
    below: float,
    fill: Literal["refuse", "mean"] = "refuse",
) -> float | Float[np.ndarray, " map"]:
    """Which share of a map's variance lies at spatial frequencies up to ``below``?

    Parameters
    ----------
    values, sheet, fill
        As for `radial_power`.
    below
        Highest frequency that counts as low, itself included, in cycles per unit of the sheet's spacing: 0.1 keeps
        waves of ten grid steps and longer.

    Returns
    -------
    float or array (map,)
        Between 0 and 1; NaN for a constant map.

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> x = 2 * np.pi * np.arange(16) / 16
    >>> both = np.tile(2 * np.cos(x) + np.cos(6 * x), 16)
    >>> round(low_frequency_share(both, Sheet.grid(16, 16), below=0.1), 6)
    0.8
    """
    if not below > 0:
        raise InputError(f"below must be a positive frequency in cycles per unit of spacing, got {below}")
    power, frequency = _power(_images(values, sheet, fill))
    found = _share(power, (frequency / sheet.spacing <= below * (1 + 1e-9)).astype(float))
    return float(found[0]) if np.ndim(values) == 1 else found


def window_entropy(
    labels: Shaped[np.ndarray, " unit"] | Shaped[np.ndarray, "map unit"], sheet: Layout, *, window: int
) -> float | Float[np.ndarray, " map"]:
    r"""How mixed are the preferences of units that lie within a window, averaged over windows?

    :math:`H = -\sum_c p_c \log_2 p_c` of the labels in a window of ``window`` x ``window`` places, averaged over all
    windows that lie on the sheet (on a torus, one a place): 0 bits if every window holds one label, up to
    :math:`\log_2` of the number of labels. Give permuted labels (map, unit) for its null.

    Parameters
    ----------
    labels
        Preference of each unit, any whole numbers (unit,) or (map, unit); -1 for a unit without one, which leaves.
    sheet
        Places of the units.
    window
        Rows and columns of the window, in grid steps, at most those of the sheet.

    Returns
    -------
    float or array (map,)
        Bits; NaN if no window holds a label.

    References
    ----------
    Lu et al. (2025), All-TNN, Nature Human Behaviour: sliding-window entropy of preference maps.

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> halves, checks = np.repeat([0, 1], 18), np.indices((6, 6)).sum(axis=0).ravel() % 2
    >>> [window_entropy(one, Sheet.grid(6, 6), window=2) for one in (halves, checks)]
    [0.2, 1.0]
    """
    given = np.asarray(labels)
    if given.dtype.kind not in "iu":
        raise InputError(f"labels are whole numbers, one a unit and -1 for none, got {given.dtype}")
    maps = _checked_maps(given, sheet).astype(np.int64)
    shortest = min(sheet.height, sheet.width)
    if window != int(window) or not 1 <= window <= shortest:
        raise InputError(f"window must be a whole number from 1 to {shortest}, got {window}")
    place = _unit_at(sheet)
    images = np.where(place >= 0, maps[:, np.maximum(place, 0)], -1)
    counts = np.stack(
        [_window_sums(images == label, window, sheet.wrapped) for label in np.unique(maps[maps >= 0])]
        or [_window_sums(images >= 0, window, sheet.wrapped)]
    )
    total = counts.sum(axis=0)
    share = counts / np.maximum(total, 1)
    entropy = -(share * np.log2(np.where(share > 0, share, 1.0))).sum(axis=0)
    held = total > 0
    n_windows = held.sum(axis=(1, 2))
    found = np.where(n_windows > 0, (entropy * held).sum(axis=(1, 2)) / np.maximum(n_windows, 1), np.nan)
    return float(found[0]) if given.ndim == 1 else found


def _checked_maps(values: np.ndarray, sheet: Layout) -> np.ndarray:
    maps = np.atleast_2d(values)
    if maps.ndim != 2 or maps.shape[1] != sheet.n_units or len(maps) == 0:
        raise InputError(f"values have shape {np.shape(values)}, expected one value for each of {sheet.n_units} units")
    return maps


def _unit_at(sheet: Layout) -> np.ndarray:
    """Return the unit in each place (height, width), -1 in holes."""
    return np.asarray(np.nan_to_num(sheet.to_image(np.arange(sheet.n_units, dtype=float)), nan=-1), dtype=np.int64)


def _images(values: np.ndarray, sheet: Layout, fill: str) -> np.ndarray:
    """Return maps less their mean as images (map, height, width), without missing values."""
    require_choice("fill", fill, ("refuse", "mean"))
    maps = _checked_maps(np.asarray(values, dtype=np.float64), sheet)
    place = _unit_at(sheet)
    if min(place.shape) < 2:
        raise InputError(
            f"a spectrum needs two rows and columns or more, got a sheet of {place.shape[0]} x {place.shape[1]}"
        )
    images = np.where(place >= 0, maps[:, np.maximum(place, 0)], np.nan)
    missing = ~np.isfinite(images)
    if missing.any():
        if fill == "refuse":
            raise InputError(
                f"a spectrum needs a value in every place, but {int(missing.any(axis=0).sum())} of {place.size} places have "
                'no unit or no value; fill="mean" puts the mean of the map there'
            )
        if missing.all(axis=(1, 2)).any():
            raise InputError("a map has no values at all: it has no spectrum")
    images[missing] = np.nan
    size = np.nansum(images**2, axis=(1, 2))
    images -= np.nanmean(images, axis=(1, 2), keepdims=True)
    images[missing] = 0.0
    images[(images**2).sum(axis=(1, 2)) <= 1e-24 * size] = 0.0  # a constant map leaves rounding error, not variation
    return images


def _power(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return squared amplitudes over the number of places (map, height, width), and cycles a grid step (height, width)."""
    height, width = images.shape[1:]
    power = np.abs(np.fft.fft2(images)) ** 2 / (height * width)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    return power, frequency


def _share(power: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the power-weighted mean of a weight over modes, NaN where there is no power."""
    total = power.sum(axis=(1, 2)) - power[:, 0, 0]
    part = (power * weight).sum(axis=(1, 2)) - power[:, 0, 0] * weight[0, 0]
    return np.where(total > 0, part / np.where(total > 0, total, 1.0), np.nan)


def _window_sums(flags: np.ndarray, window: int, wrapped: bool) -> np.ndarray:
    """Return counts (map, row, column) of flags (map, height, width) in each window."""
    images = flags.astype(np.int64)
    if wrapped:
        images = np.pad(images, ((0, 0), (0, window - 1), (0, window - 1)), mode="wrap")
    summed = np.pad(images.cumsum(axis=1).cumsum(axis=2), ((0, 0), (1, 0), (1, 0)))
    return np.asarray(
        summed[:, window:, window:]
        - summed[:, :-window, window:]
        - summed[:, window:, :-window]
        + summed[:, :-window, :-window]
    )
