"""Cleaning time courses with nilearn: trends, filters, confounds, scale. Missing values stay missing."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from topobrain._checks import InputError, listed, near

if TYPE_CHECKING:
    import pandas as pd

CLEANERS = ("standardize", "detrend", "low_pass", "high_pass", "high_variance_confounds")
"""Options that mix the volumes of a voxel: one missing volume makes the whole voxel unknown."""


def require_options(options: Iterable[str], callable_: Any, what: str, ours: Iterable[str] = ()) -> None:
    """Raise with near names unless every option belongs to one of nilearn's callables."""
    known = [name for name in inspect.signature(callable_).parameters if name not in ("self", *ours)]
    for name in options:
        if name not in known:
            close = near(name, known)
            guess = f" Did you mean {close[0]!r}?" if close else ""
            raise InputError(f"{what} has no option {name!r}.{guess} Options: {listed(known, 40)}")


def mixes_volumes(options: Mapping[str, Any], confounds: Any = None) -> bool:
    """Return whether options make a value depend on the other volumes."""
    return confounds is not None or any(options.get(name) not in (None, False) for name in CLEANERS)


def clean_series(
    series: np.ndarray, options: Mapping[str, Any], confounds: pd.DataFrame | np.ndarray | None = None
) -> np.ndarray:
    """Return series (volume, voxel) cleaned with `nilearn.signal.clean`.

    A voxel with a missing value anywhere becomes NaN throughout if anything is to be done to it.

    Parameters
    ----------
    series
        Time courses (volume, voxel).
    options
        ``detrend``, ``standardize``, ``low_pass``, ``high_pass``, ``t_r``, ... of nilearn; nothing is done by default.
    confounds
        Time courses (volume, confound) to regress out.

    Raises
    ------
    InputError
        An option is not nilearn's, or nilearn refuses it (a filter without ``t_r``).
    """
    from nilearn import signal

    require_options(options, signal.clean, "cleaning (nilearn.signal.clean)", ("signals", "confounds", "kwargs"))
    if not mixes_volumes(options, confounds):
        return series
    if options.get("t_r") is None and any(options.get(name) is not None for name in ("low_pass", "high_pass")):
        raise InputError("a filter needs t_r, the time between volumes in seconds")  # nilearn would take 2.5 s
    settings = {"detrend": False, "standardize": None, **options}
    usable = np.isfinite(series).all(axis=0)
    cleaned = np.full(series.shape, np.nan, dtype=series.dtype)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of the next nilearn's defaults: all are given here
            if usable.any():
                cleaned[:, usable] = signal.clean(series[:, usable], confounds=confounds, **settings)
    except (ValueError, TypeError) as error:
        raise InputError(f"nilearn cannot clean the time courses: {error}") from error
    return cleaned
