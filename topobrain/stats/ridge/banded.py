"""Banded ridge: a penalty for every feature space and voxel, so that one large band does not set the penalty of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from topobrain._checks import InputError, listed, require_choice
from topobrain.stats.folds import Split
from topobrain.stats.ridge.design import check_alphas, check_features, check_responses, in_memory
from topobrain.stats.ridge.fitting import choose_device

Selection = Literal["kfold", "gcv", "loo"]
Scale = Literal["none", "trace"]
Precision = Literal["auto", "float64", "mixed", "float32"]

CONCENTRATIONS = (1.0, 0.3, 0.1)
"""Dirichlet concentrations that draws take turns with: anywhere on the simplex, to mostly one band."""


@dataclass(frozen=True)
class NestedBandedFit:
    r"""Held-out predictions of a banded ridge regression.

    Attributes
    ----------
    bands
        Names of the feature spaces, in order.
    prediction
        (stimulus, voxel); NaN for rows never tested and for unusable voxels.
    r
        Pearson r on the held-out rows (fold, voxel); NaN where the responses are constant there.
    alpha
        Penalty that each band came to have (fold, band, voxel), on the features as given (as divided by their standard
        deviation, with ``standardize``): the fit is the least of :math:`\|y - \sum_b X_b w_b\|^2 + \sum_b \alpha_b
        \|w_b\|^2`; infinite where a band was switched off.
    weight
        Share of each band in the chosen kernel (fold, band, voxel); shares sum to 1.
    loss
        Selection loss of the choice (fold, voxel): inner mean squared error, or the closed-form score. NaN where
        nothing was to be chosen.
    variance
        Of the training responses (fold, voxel): 1 - loss / variance is the inner R2.
    edge
        -1 where the lowest penalty of the grid was chosen, 1 the highest, 0 inside (fold, voxel).
    intercept
        Mean of the training responses (fold, voxel).
    band_prediction
        Each band's part of the prediction about the intercept (band, stimulus, voxel), or None: the parts and the
        intercept of the row's fold add up to ``prediction``.
    precision
        ``"float64"``, ``"mixed"`` or ``"float32"``.
    n_unusable
        Voxels that came back as NaN: a missing or infinite value, or constant over the training rows of a fold.
    """

    bands: tuple[str, ...]
    prediction: np.ndarray
    r: np.ndarray
    alpha: np.ndarray
    weight: np.ndarray
    loss: np.ndarray
    variance: np.ndarray
    edge: np.ndarray
    intercept: np.ndarray
    band_prediction: np.ndarray | None
    precision: str
    n_unusable: int


@dataclass(frozen=True)
class BandedFit:
    """A fitted banded ridge regression.

    Attributes
    ----------
    coef
        Band -> weights (feature, voxel) on the features as given; NaN for unusable voxels.
    intercept
        (voxel,).
    alpha, weight
        Penalty and share of each band (band, voxel), as in `NestedBandedFit`.
    loss, edge
        (voxel,), as in `NestedBandedFit`.
    """

    coef: dict[str, np.ndarray]
    intercept: np.ndarray
    alpha: np.ndarray
    weight: np.ndarray
    loss: np.ndarray
    edge: np.ndarray

    def predict(self, features: Mapping[str, np.ndarray]) -> Float[np.ndarray, "stimulus voxel"]:
        """Return predicted responses (stimulus, voxel)."""
        return np.asarray(sum(self.predict_bands(features).values()) + self.intercept)

    def predict_bands(self, features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return each band's part (stimulus, voxel); with the intercept they add up to the prediction."""
        if set(features) != set(self.coef):
            raise InputError(f"the fit has the bands {listed(self.coef)}; got {listed(features)}")
        parts = {}
        for band, coef in self.coef.items():
            X = np.asarray(features[band], dtype=np.float64)
            if X.ndim != 2 or X.shape[1] != len(coef):
                raise InputError(f"band {band!r} has shape {X.shape}, the fit has {len(coef)} features")
            parts[band] = X @ coef
        return parts


def band_weights(n_bands: int, n_weights: int, *, seed: int = 0) -> Float[np.ndarray, "weight band"]:
    """Return the candidate shares of bands: every band alone, all alike, then seeded draws from the simplex.

    Parameters
    ----------
    n_bands
        Number of bands.
    n_weights
        Number of candidates; at least ``n_bands + 1`` (1 for one band).
    seed
        Seed of the Dirichlet draws, whose concentrations take turns (1, 0.3, 0.1: anywhere, to mostly one band).

    Examples
    --------
    >>> band_weights(2, 3).tolist()
    [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]
    """
    if n_bands == 1:
        return np.ones((1, 1))
    if n_weights < n_bands + 1:
        raise InputError(
            f"{n_bands} bands need n_weights of {n_bands + 1} or more (each band alone, and all alike), got {n_weights}"
        )
    rng = np.random.default_rng(seed)
    draws = [
        rng.dirichlet(np.full(n_bands, CONCENTRATIONS[number % len(CONCENTRATIONS)]))
        for number in range(n_weights - n_bands - 1)
    ]
    return np.array([*np.eye(n_bands), np.full(n_bands, 1 / n_bands), *draws])


def nested_banded_ridge(
    features: Mapping[str, Float[np.ndarray, "stimulus _"]],
    Y: Float[np.ndarray, "stimulus voxel"],
    *,
    alphas: Sequence[float] | np.ndarray,
    outer: Sequence[Split],
    inner: Sequence[Sequence[Split]],
    n_weights: int | Float[np.ndarray, "weight band"] = 30,
    seed: int = 0,
    selection: Selection = "kfold",
    standardize: bool = False,
    scale: Scale = "none",
    precision: Precision = "auto",
    max_memory: int | str | None = None,
    device: str | None = None,
    band_predictions: bool = False,
) -> NestedBandedFit:
    r"""Predict held-out responses from several feature spaces, each with a penalty of its own for every voxel.

    With one penalty for all, a space of 768 features drowns one of 3: the small one is shrunk as hard as the large one
    needs. Here a candidate gives each band a share :math:`w_b` (they sum to 1), bands are weighed into one kernel
    :math:`K = \sum_b w_b X_b X_b^\top`, and ridge regression with penalty :math:`\alpha` on it is banded ridge with
    penalties :math:`\alpha_b = \alpha / w_b`. Candidates (`band_weights`) and penalties are tried in the inner folds, and each
    voxel takes its best pair. The shares of one band alone are among the candidates, so any band can be switched off.

    The work is that of as many nested fits as there are candidates: decompositions are made once a candidate and fold for
    all voxels, which are streamed in tiles. ``selection="gcv"`` has no product a penalty and is many times faster, but
    treats rows as independent.

    Parameters
    ----------
    features
        Band name -> (stimulus, feature), all of the same stimuli. Missing or infinite values raise.
    Y
        Responses (stimulus, voxel). Voxels with a missing value, or constant in a training fold, come back as NaN.
    alphas
        Penalties to choose from.
    outer
        (training, test) rows.
    inner
        For each outer fold, (training, validation) rows counted within its training rows; not read by the closed forms.
    n_weights
        Number of candidates, or the candidates themselves (weight, band), each row of 0 or more summing to 1.
    seed
        Seed of the candidates.
    selection
        ``"kfold"``, ``"gcv"`` or ``"loo"`` (leave-one-out in closed form), as in `ridge_cv`. Ties go to the earlier
        candidate (single bands come first) and the lower penalty.
    standardize
        Divide features by their standard deviation over training rows, of inner folds too.
    scale
        ``"trace"``: divide each band by the root of its total variance over the outer training rows first, so that equal
        shares mean equal power whatever the number of features, and penalties count in units of one stimulus. ``"none"``:
        not.
    precision
        ``"float64"``; ``"mixed"`` and ``"float32"``: the products of K-fold selection in float32, the rest in float64;
        ``"auto"``: float64 up to 5e10 operations (a second or two), else mixed.
    max_memory
        Bound on what is allocated beyond the inputs, in bytes or as text (``"2 GiB"``).
    device
        Where torch computes (default the CPU).
    band_predictions
        Whether each band's part of the prediction is kept, too.

    Returns
    -------
    NestedBandedFit

    Raises
    ------
    InputError
        Bands of different stimuli, missing features, impossible penalties or shares, too little memory.

    References
    ----------
    Nunez-Elizalde, Huth & Gallant (2019), NeuroImage 197:482 (banded ridge as Tikhonov regression); Dupre la Tour,
    Eickenberg, Nunez-Elizalde & Gallant (2022), NeuroImage 264:119728 (random search over the simplex of kernel weights).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> small, large = rng.standard_normal((60, 1)), rng.standard_normal((60, 40))
    >>> rows = np.arange(60); outer = [(rows[:40], rows[40:])]; inner = [[(rows[:20], rows[20:40])]]
    >>> fit = nested_banded_ridge({"small": small, "large": large}, 2 * small, alphas=[0.1, 10], outer=outer, inner=inner)
    >>> fit.weight[0, :, 0].tolist(), bool(fit.r[0, 0] > 0.999)
    ([1.0, 0.0], True)
    """
    bands = check_bands(features)
    if isinstance(n_weights, int | np.integer):
        weights = band_weights(len(bands), int(n_weights), seed=seed)
    else:
        weights = _check_weights(n_weights, len(bands))
    models = np.ones((1, len(weights)), dtype=bool)
    task = _task(bands, alphas, weights, models, selection, standardize, scale, precision, max_memory, device)
    fit: NestedBandedFit = task.nested(_targets(Y, bands), outer, inner, band_predictions)[0]
    return fit


def nested_banded_models(
    features: Mapping[str, Float[np.ndarray, "stimulus _"]],
    Y: Float[np.ndarray, "stimulus voxel"],
    models: Sequence[Sequence[str]],
    *,
    alphas: Sequence[float] | np.ndarray,
    outer: Sequence[Split],
    inner: Sequence[Sequence[Split]],
    n_weights: int = 30,
    seed: int = 0,
    selection: Selection = "kfold",
    standardize: bool = False,
    scale: Scale = "none",
    precision: Precision = "auto",
    max_memory: int | str | None = None,
    device: str | None = None,
    band_predictions: bool = False,
) -> dict[tuple[str, ...], NestedBandedFit]:
    """Fit models of different sets of bands, sharing what they share.

    Candidates are drawn on the face of every model (``n_weights`` on each, single bands once), and a model chooses among all
    candidates that give nothing to bands it has not: so a larger model can always choose what a smaller one chose, and
    each candidate's decompositions and losses are computed once for all models.

    Parameters
    ----------
    features, Y, alphas, outer, inner, seed, selection, standardize, scale, precision, max_memory, device
        As in `nested_banded_ridge`.
    models
        The bands of each model.
    n_weights
        Candidates on the face of each model.
    band_predictions
        Whether each band's part of the prediction is kept, for models of all bands.

    Returns
    -------
    dict
        Bands of a model, in the order of ``features`` -> its fit. A fit's axes ``band`` hold all bands; those that it has
        not have weight 0.
    """
    bands = check_bands(features)
    names = list(bands)
    keys = []
    for model in models:
        missing = [band for band in model if band not in bands]
        if missing or not model:
            raise InputError(f"a model has the bands {listed(model)}; known bands: {listed(names)}")
        keys.append(tuple(band for band in names if band in model))
    if not keys:
        raise InputError("no model to fit")
    drawn = [np.eye(len(bands))[[names.index(band) for key in keys for band in key]]]
    for key in keys:
        if len(key) > 1:
            face = np.zeros((n_weights - len(key) if n_weights > len(key) else 0, len(bands)))
            face[:, [names.index(band) for band in key]] = band_weights(len(key), n_weights, seed=seed)[len(key) :]
            drawn.append(face)
    stacked = np.concatenate(drawn)
    weights = stacked[np.sort(np.unique(stacked, axis=0, return_index=True)[1])]
    allowed = np.array(
        [[all(name in key or w == 0 for name, w in zip(names, row, strict=True)) for row in weights] for key in keys]
    )
    task = _task(bands, alphas, weights, allowed, selection, standardize, scale, precision, max_memory, device)
    return dict(zip(keys, task.nested(_targets(Y, bands), outer, inner, band_predictions), strict=True))


def banded_ridge_cv(
    features: Mapping[str, Float[np.ndarray, "stimulus _"]],
    Y: Float[np.ndarray, "stimulus voxel"],
    *,
    alphas: Sequence[float] | np.ndarray,
    folds: int | Sequence[Split] = 5,
    n_weights: int | Float[np.ndarray, "weight band"] = 30,
    seed: int = 0,
    selection: Selection = "kfold",
    standardize: bool = False,
    scale: Scale = "none",
    precision: Precision = "auto",
    max_memory: int | str | None = None,
    device: str | None = None,
) -> BandedFit:
    """Fit banded ridge regression with each voxel's penalties chosen by cross-validation: one level, with weights.

    Parameters
    ----------
    features, Y, alphas, n_weights, seed, selection, standardize, scale, precision, max_memory, device
        As in `nested_banded_ridge`.
    folds
        Inner folds: a number of contiguous folds, or (training, validation) rows.

    Returns
    -------
    BandedFit
        With ``.predict`` and ``.predict_bands``.
    """
    bands = check_bands(features)
    if isinstance(n_weights, int | np.integer):
        weights = band_weights(len(bands), int(n_weights), seed=seed)
    else:
        weights = _check_weights(n_weights, len(bands))
    models = np.ones((1, len(weights)), dtype=bool)
    task = _task(bands, alphas, weights, models, selection, standardize, scale, precision, max_memory, device)
    fit: BandedFit = task.fit(_targets(Y, bands), folds)
    return fit


def check_bands(features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the bands as float64 arrays of equal length, or raise naming the band."""
    if not features:
        raise InputError("no band: features map a band's name to its (stimulus, feature) array")
    bands = {}
    for name, values in features.items():
        try:
            bands[str(name)] = check_features(values)
        except InputError as error:
            raise InputError(f"band {name!r}: {error}") from error
    lengths = {name: len(values) for name, values in bands.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(
            f"bands must have the same stimuli; their rows: {listed(f'{n} {c}' for n, c in lengths.items())}"
        )
    if len(bands) < len(features):
        raise InputError(f"band names must differ, got {listed(features)}")
    return bands


def _check_weights(weights: np.ndarray, n_bands: int) -> np.ndarray:
    array = np.ascontiguousarray(weights, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != n_bands or len(array) == 0:
        raise InputError(f"weights have shape {array.shape}, expected (weight, band) with {n_bands} bands")
    if not np.isfinite(array).all() or (array < 0).any() or not np.allclose(array.sum(axis=1), 1, rtol=0, atol=1e-9):
        raise InputError("each row of weights must be shares of 0 or more that sum to 1")
    return array


def _targets(Y: Any, bands: Mapping[str, np.ndarray]) -> np.ndarray:
    array = in_memory(check_responses(Y, len(next(iter(bands.values())))))
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _task(
    bands: Mapping[str, np.ndarray], alphas: Any, weights: np.ndarray, models: np.ndarray, selection: str,
    standardize: bool, scale: str, precision: str, max_memory: int | str | None, device: str | None,
) -> Any:  # fmt: skip
    """Check the options; torch is loaded only here."""
    require_choice("selection", selection, ("kfold", "gcv", "loo"))
    require_choice("scale", scale, ("none", "trace"))
    require_choice("precision", precision, ("auto", "float64", "mixed", "float32"))
    grid = check_alphas(alphas)
    from topobrain.stats.ridge.banded_fitting import BandedTask

    return BandedTask(
        bands,
        grid,
        weights,
        models,
        selection,
        standardize,
        scale == "trace",
        precision,
        max_memory,
        str(choose_device(device)),
    )
