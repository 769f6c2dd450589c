"""How much do shuffled folds leak? Measured, by scoring the same data with contiguous folds."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr

from topobrain._checks import InputError, listed, near
from topobrain.activations import Activations
from topobrain.encoding.cross_validation import make_design
from topobrain.encoding.result import Encoding
from topobrain.encoding.scoring import Progress, Study, encode, prepare, run
from topobrain.responses import BrainResponses
from topobrain.results import Result

if TYPE_CHECKING:
    import pandas as pd

QUANTILES = (0.025, 0.975)

LEVEL = 0.05
"""A difference leaks where its p over all layers and regions is at most this."""


class Leakage(Result):
    """Scores with shuffled and with contiguous folds.

    ``shuffled contiguous difference low high (layer, region)``: region scores, shuffled minus contiguous, and the 95 %
    interval of that difference from independent bootstrap draws of the two (the folds differ, so draws cannot be
    paired: the interval is on the wide side). ``p_max`` of the same shape compares each difference with the largest one
    over all layers and regions that the draws give by chance: with many cells some interval lies above 0 anyway.
    """

    kind: ClassVar[str] = "leakage"
    schema: ClassVar[Mapping[str, tuple[str, ...]]] = dict.fromkeys(
        ("shuffled", "contiguous", "difference", "low", "high"), ("layer", "region")
    )

    def summary(self) -> pd.DataFrame:
        """Return one row a layer and ROI: ``layer roi shuffled contiguous difference low high p_max leaks``."""
        frame = self.data[list(self.schema)].to_dataframe().reset_index().rename(columns={"region": "roi"})
        frame = frame[["layer", "roi", *self.schema]]
        if "p_max" not in self.data:
            return frame.assign(leaks=frame["low"] > 0)
        p = self.data["p_max"].transpose("layer", "region").values.ravel()
        return frame.assign(p_max=p, leaks=p <= LEVEL)


def measure_leakage(
    activations: Activations,
    responses: BrainResponses,
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> Leakage:
    """Score with shuffled and with contiguous folds, to see what neighbours in time or text give away.

    A model that knows nothing but when a stimulus was shown scores well if the stimuli around it are in the training
    set. What shuffled folds score above contiguous ones is a measure of that.

    Parameters
    ----------
    activations, responses
        As in `encode`.
    n_bootstrap
        Draws of each interval, at least 1.
    seed
        Seed of the shuffled folds and of the draws.
    progress
        Called with (layers done, layers in all), where each layer counts twice.
    **options
        Further options of `encode` (``layers``, ``n_folds``, ``alphas``, ...), the same for both, with two exceptions.
        Unless ``gap`` is given, shuffled folds of a time series have no gap: a gap around every one of their test rows
        leaves nothing to train on. And nothing is permuted, whatever ``n_permutations``.

    Returns
    -------
    Leakage

    Raises
    ------
    InputError
        As in `encode`; ``folds`` given: the two schemes are what is compared; or an option that `encode` does not have.

    References
    ----------
    Feghhi et al. (2024), arXiv 2406.01538.
    """
    if "folds" in options:
        raise InputError("measure_leakage compares shuffled with contiguous folds: it takes no folds=")
    if n_bootstrap < 1:
        raise InputError(f"n_bootstrap must be 1 or more, got {n_bootstrap}")
    known = [name for name in inspect.signature(encode).parameters if name not in ("activations", "responses", "folds")]
    for name in options:
        if name not in known:
            close = near(name, known)
            guess = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise InputError(f"measure_leakage has no option {name!r}.{guess} Known: {listed(known, 30)}")
    options = {**options, "n_permutations": 0, "n_bootstrap": n_bootstrap, "seed": seed}
    gap = options.pop("gap", None)
    studies = [
        prepare(activations, responses, folds="shuffled", gap=0 if gap is None else gap, **options),
        prepare(activations, responses, folds="contiguous", gap=gap, **options),
    ]
    scored = []
    for number, study in enumerate(studies):

        def told(done: int, n_layers: int, before: int = number) -> None:
            if progress is not None:
                progress(before * n_layers + done, 2 * n_layers)

        scored.append(run(study, activations, told))
    return _compare(*scored)


def against_contiguous(result: Encoding, study: Study, activations: Activations) -> Encoding:
    """Return a result of shuffled folds with the contiguous scores beside it, and warn where they leak.

    The variable ``region_r_contiguous (layer, region)`` is added.
    """
    design = study.design
    plain = make_design(
        study.responses, design.groups, "contiguous",
        n_folds=len(design.outer), inner_folds=design.inner_folds, gap=design.gap,
        allow_duplicates=bool(study.further["allow_duplicates"]), seed=design.seed,
    )  # fmt: skip
    options = replace(study.options, n_permutations=0)
    contiguous = run(replace(study, design=plain, options=options), activations)
    found = _compare(result, contiguous)
    for _, row in found.summary().query("leaks").sort_values("difference", ascending=False).head(1).iterrows():
        warnings.warn(
            f"shuffled folds leak: layer {row.layer!r} scores r = {row.shuffled:.3f} in {row.roi} with shuffled folds and "
            f"{row.contiguous:.3f} with contiguous ones (difference {row.difference:.3f}, 95 % interval {row.low:.3f} to "
            f"{row.high:.3f}). Report the contiguous score",
            stacklevel=3,
        )
    data = result.data.assign(region_r_contiguous=(("layer", "region"), contiguous.data["region_r"].values))
    return Encoding(data)


def _compare(shuffled: Encoding, contiguous: Encoding) -> Leakage:
    first, second = (one.data["region_r"].values for one in (shuffled, contiguous))
    low, high = np.full((2, *first.shape), np.nan)
    a, b = (one.data["region_draws"].values for one in (shuffled, contiguous))
    if a.shape[-1] and b.shape[-1]:
        # against the draws in another order: equal seeds would pair draws of unlike folds
        draws = np.asarray(a - b[..., ::-1], dtype=np.float64)
        low, high = np.quantile(draws, QUANTILES, axis=-1)
        largest = _p_max(first - second, draws)
    else:
        largest = np.full(first.shape, np.nan)
    data = xr.Dataset(
        {
            name: (("layer", "region"), values)
            for name, values in {
                "shuffled": first, "contiguous": second, "difference": first - second, "low": low, "high": high, "p_max": largest,
            }.items()
        },
        coords={"layer": shuffled.data["layer"], "region": shuffled.data["region"]},
        attrs=Leakage.attributes({k: v for k, v in shuffled.provenance.items() if k != "versions"}),
    )  # fmt: skip
    return Leakage(data)


def _p_max(difference: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Return one-sided p against the largest studentised difference of any layer and region (the draws, centred)."""
    spread = draws.std(axis=-1)
    spread = np.where(spread > 0, spread, np.nan)
    chance = (draws - draws.mean(axis=-1, keepdims=True)) / spread[..., None]
    scored = np.isfinite(difference) & np.isfinite(spread)
    if not scored.any():
        return np.full(difference.shape, np.nan)
    largest = chance[scored].max(axis=0)
    count = (largest >= (difference / spread)[..., None]).sum(axis=-1)
    return np.asarray(np.where(scored, (1 + count) / (1 + largest.size), np.nan))
