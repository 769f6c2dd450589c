"""Noise ceilings: the highest correlation any model can reach with noisy responses."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from topobrain._checks import InputError


def noise_ceiling(repeats: Float[np.ndarray, "repeat stimulus voxel"]) -> Float[np.ndarray, " voxel"]:
    r"""How well could a perfect model predict the mean over repeats?

    The noise variance is the variance over repeats, averaged over stimuli; the signal variance is what remains of the
    variance of the mean, :math:`\sigma_s^2 = \max(0, \mathrm{var}(\bar y) - \sigma_n^2 / k)`. The ceiling, in Pearson
    r, is :math:`\sqrt{\sigma_s^2 / (\sigma_s^2 + \sigma_n^2 / k)}`.

    Parameters
    ----------
    repeats
        Responses (repeat, stimulus, voxel), k >= 2 repeats (or subjects seen as repeats).

    References
    ----------
    Allen et al. (2022), Nat. Neurosci. 25:116, methods, "noise ceiling".

    Examples
    --------
    >>> signal = np.arange(6.0)[None, :, None].repeat(2, axis=0)
    >>> float(noise_ceiling(signal)[0])
    1.0
    """
    values = np.asarray(repeats, dtype=np.float64)
    if values.ndim != 3 or len(values) < 2 or values.shape[1] < 3:
        raise InputError(
            f"repeats have shape {values.shape}: expected (repeat, stimulus, voxel), 2 repeats and 3 stimuli up"
        )
    noise = values.var(axis=0, ddof=1).mean(axis=0) / len(values)
    total = values.mean(axis=0).var(axis=0, ddof=1)
    signal = np.maximum(total - noise, 0.0)
    with np.errstate(invalid="ignore"):
        ceiling = np.sqrt(signal / (signal + noise))
    return np.asarray(ceiling, dtype=np.float64)


def spearman_brown(r: float | np.ndarray, factor: float = 2.0) -> np.ndarray:
    """Return the reliability of data ``factor`` times as long as those whose reliability is ``r``.

    >>> round(float(spearman_brown(0.5)), 4)
    0.6667
    """
    reliability = np.asarray(r, dtype=np.float64)
    return np.asarray(factor * reliability / (1 + (factor - 1) * reliability))
