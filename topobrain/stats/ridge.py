"""Ridge regression with a cross-validated penalty for every voxel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from topobrain._checks import InputError, require_choice
from topobrain.stats.folds import Split, make_folds

VOXEL_TILE = 1024
"""Voxels solved at a time: bounds memory, and is wide enough for full-speed products."""


@dataclass(frozen=True)
class RidgeFit:
    """A fitted ridge regression.

    Attributes
    ----------
    coef
        Weights (feature, voxel) on the features as given; NaN for unusable voxels.
    intercept
        (voxel,).
    alpha
        Chosen penalty (voxel,); NaN for unusable voxels (a missing value, or constant over the training rows).
    loss
        Selection loss at the chosen penalty (voxel,): mean squared error over the inner validation rows, or the GCV
        score.
    edge
        -1 where the lowest penalty of the grid was chosen, 1 the highest, 0 inside (voxel,).
    """

    coef: np.ndarray
    intercept: np.ndarray
    alpha: np.ndarray
    loss: np.ndarray
    edge: np.ndarray

    def predict(self, X: Float[np.ndarray, "stimulus feature"]) -> Float[np.ndarray, "stimulus voxel"]:
        """Return predicted responses (stimulus, voxel)."""
        X = np.asarray(X, dtype=np.float64)
        if X.ndim != 2 or X.shape[1] != self.coef.shape[0]:
            raise InputError(f"features have shape {X.shape}, the fit has {self.coef.shape[0]} features")
        prediction: np.ndarray = X @ self.coef + self.intercept
        return prediction


@dataclass(frozen=True)
class _Scaling:
    """Mean and scale of features, from training rows only."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, X: np.ndarray, standardize: bool) -> _Scaling:
        mean, scale = X.mean(axis=0), X.std(axis=0)
        # a feature that is constant up to rounding carries nothing: centred it is (nearly) zero, so leave its scale alone
        tiny = scale <= 1e-10 * np.maximum(np.abs(mean), np.abs(X).max(axis=0, initial=0.0))
        return cls(np.where(tiny, X[0], mean), np.where(tiny, 1.0, scale) if standardize else np.ones(X.shape[1]))

    def apply(self, X: np.ndarray) -> np.ndarray:
        return np.asarray((X - self.mean) / self.scale)


@dataclass(frozen=True)
class _Spectrum:
    """Eigen-decomposition of a centred design on its smaller side.

    For every penalty, predictions are ``project(X) @ (rotated / (eigenvalues + alpha))``: one decomposition serves all
    penalties and all voxels.
    """

    design: np.ndarray
    eigenvalues: np.ndarray
    vectors: np.ndarray
    dual: bool

    @classmethod
    def of(cls, X: np.ndarray) -> _Spectrum:
        from scipy.linalg import eigh

        dual = X.shape[0] < X.shape[1]
        values, vectors = eigh(X @ X.T if dual else X.T @ X)
        keep = values > max(values[-1], 0.0) * np.finfo(np.float64).eps * max(X.shape)
        return cls(X, values[keep], vectors[:, keep], dual)

    def rotate(self, Y: np.ndarray) -> np.ndarray:
        """Return targets in the eigenbasis (rank, voxel)."""
        return np.asarray(self.vectors.T @ (Y if self.dual else self.design.T @ Y))

    def project(self, X: np.ndarray) -> np.ndarray:
        """Return new rows in the eigenbasis (stimulus, rank)."""
        return np.asarray((X @ self.design.T if self.dual else X) @ self.vectors)

    def weights(self, shrunk: np.ndarray) -> np.ndarray:
        """Return primal weights (feature, voxel) from shrunk rotated targets."""
        weights = self.vectors @ shrunk
        return np.asarray(self.design.T @ weights if self.dual else weights)

    def shrink(self, rotated: np.ndarray, alpha: np.ndarray | float) -> np.ndarray:
        """Return rotated targets shrunk by one penalty, or by one a voxel."""
        return np.asarray(rotated / (self.eigenvalues[:, None] + alpha))


def check_features(X: np.ndarray) -> np.ndarray:
    """Return features as float64, or raise naming the first missing or infinite value."""
    X = np.asarray(X, dtype=np.float64)
    if X.ndim != 2 or 0 in X.shape:
        raise InputError(f"features have shape {X.shape}, expected (stimulus, feature) with at least one of each")
    if not np.isfinite(X).all():
        row, column = np.argwhere(~np.isfinite(X))[0]
        raise InputError(f"features hold {X[row, column]} at row {row}, column {column}: remove or fill it first")
    return X


def check_alphas(alphas: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return penalties sorted from low to high, or raise."""
    grid = np.unique(np.asarray(alphas, dtype=np.float64))
    if grid.size == 0 or not np.isfinite(grid).all() or (grid < 0).any():
        raise InputError(
            f"alphas must be finite and at least 0, one or more of them; got {np.asarray(alphas).tolist()}"
        )
    return grid


def usable_voxels(Y: np.ndarray) -> np.ndarray:
    """Return a mask (voxel,) of voxels without missing values that are not constant."""
    usable: np.ndarray = np.isfinite(Y).all(axis=0)
    spread = np.zeros(Y.shape[1])
    spread[usable] = np.ptp(Y[:, usable], axis=0)
    return usable & (spread > 0)


def ridge_cv(
    X: Float[np.ndarray, "stimulus feature"],
    Y: Float[np.ndarray, "stimulus voxel"],
    *,
    alphas: Sequence[float] | np.ndarray,
    folds: int | Sequence[Split] = 5,
    selection: Literal["kfold", "gcv"] = "kfold",
    standardize: bool = False,
) -> RidgeFit:
    r"""Fit ridge regression with the penalty chosen for each voxel by cross-validation.

    Minimises :math:`\|y - Xw - b\|^2 + \alpha \|w\|^2`; the intercept is not penalised. The primal or the dual form is
    taken from the shape. All arithmetic in float64.

    Parameters
    ----------
    X
        Features (stimulus, feature). Missing or infinite values raise.
    Y
        Responses (stimulus, voxel). Voxels with a missing value, or constant ones, come back as NaN; the others are
        not affected.
    alphas
        Penalties to choose from. One penalty fits without any choice.
    folds
        Inner folds: a number of contiguous folds, or (train, validation) row pairs.
    selection
        ``"kfold"``: least mean squared error over all inner validation rows; ties go to the lowest penalty.
        ``"gcv"``: generalised cross-validation in closed form; fast, but it treats rows as independent, so it ignores
        groups and time.
    standardize
        Divide features by their standard deviation over the training rows (of each inner fold too).

    Returns
    -------
    RidgeFit

    References
    ----------
    Hoerl & Kennard (1970), Technometrics 12:55; Golub, Heath & Wahba (1979), Technometrics 21:215.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((50, 3)); w = np.array([[1.0], [-2.0], [0.5]])
    >>> ridge_cv(X, X @ w, alphas=[1e-6, 1.0, 100.0]).coef.round(3).ravel().tolist()
    [1.0, -2.0, 0.5]
    """
    X, Y = check_features(X), np.asarray(Y, dtype=np.float64)
    if Y.ndim != 2 or len(Y) != len(X):
        raise InputError(f"responses have shape {Y.shape}, expected (stimulus, voxel) with {len(X)} stimuli")
    require_choice("selection", selection, ("kfold", "gcv"))
    grid, usable = check_alphas(alphas), usable_voxels(Y)
    targets = Y[:, usable]
    scaling = _Scaling.of(X, standardize)
    design = scaling.apply(X)
    spectrum = _Spectrum.of(design)
    n_usable = targets.shape[1]
    if n_usable == 0:
        choice, loss = np.zeros(0, dtype=int), np.zeros(0)
    elif selection == "gcv":
        choice, loss = _choose_gcv(spectrum, targets, grid)
    elif grid.size == 1:
        choice, loss = np.zeros(n_usable, dtype=int), np.full(n_usable, np.nan)
    else:
        splits = list(make_folds(np.arange(len(X)), folds)) if isinstance(folds, int) else list(folds)
        choice, loss = _choose_kfold(X, targets, grid, splits, standardize)
    mean = targets.mean(axis=0)
    shrunk = spectrum.shrink(spectrum.rotate(targets - mean), grid[choice])
    weights = spectrum.weights(shrunk) / scaling.scale[:, None]
    edge = np.where(choice == 0, -1, np.where(choice == grid.size - 1, 1, 0)) if grid.size > 1 else np.zeros(n_usable)

    def spread(values: np.ndarray) -> np.ndarray:
        full = np.full((*values.shape[:-1], Y.shape[1]), np.nan)
        full[..., usable] = values
        return full

    return RidgeFit(
        coef=spread(weights),
        intercept=spread(mean - scaling.mean @ weights),
        alpha=spread(grid[choice]),
        loss=spread(loss),
        edge=spread(edge.astype(float)),
    )


def hat_matrices(
    X: Float[np.ndarray, "stimulus feature"],
    X_new: Float[np.ndarray, "new_stimulus feature"],
    alphas: Sequence[float] | np.ndarray,
    *,
    standardize: bool = False,
) -> dict[float, np.ndarray]:
    """Return, for each penalty, the matrix (new_stimulus, stimulus) that turns training responses into predictions.

    Predictions are those of `ridge_cv` at that penalty, up to the mean of the training responses.
    """
    scaling = _Scaling.of(check_features(X), standardize)
    spectrum = _Spectrum.of(scaling.apply(X))
    rows = spectrum.project(scaling.apply(check_features(X_new)))
    basis = spectrum.rotate(np.eye(len(X)))
    return {float(alpha): rows @ spectrum.shrink(basis, float(alpha)) for alpha in alphas}


def _choose_kfold(
    X: np.ndarray, Y: np.ndarray, grid: np.ndarray, splits: Sequence[Split], standardize: bool
) -> tuple[np.ndarray, np.ndarray]:
    total = np.zeros((grid.size, Y.shape[1]))
    n_validated = 0
    for train, validation in splits:
        scaling = _Scaling.of(X[train], standardize)
        spectrum = _Spectrum.of(scaling.apply(X[train]))
        rows = spectrum.project(scaling.apply(X[validation]))
        n_validated += len(validation)
        for start in range(0, Y.shape[1], VOXEL_TILE):
            tile = slice(start, start + VOXEL_TILE)
            mean = Y[train, tile].mean(axis=0)
            rotated = spectrum.rotate(Y[train, tile] - mean)
            wanted = Y[validation, tile] - mean
            for index, alpha in enumerate(grid):
                total[index, tile] += ((wanted - rows @ spectrum.shrink(rotated, alpha)) ** 2).sum(axis=0)
    choice: Int[np.ndarray, " voxel"] = total.argmin(axis=0)
    return choice, total[choice, np.arange(Y.shape[1])] / n_validated


def _choose_gcv(spectrum: _Spectrum, Y: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n = len(Y)
    centred = Y - Y.mean(axis=0)
    rotated = spectrum.rotate(centred)
    left = rotated if spectrum.dual else rotated / np.sqrt(spectrum.eigenvalues)[:, None]
    outside = (centred**2).sum(axis=0) - (left**2).sum(axis=0)
    score = np.empty((grid.size, Y.shape[1]))
    for index, alpha in enumerate(grid):
        keep = alpha / (spectrum.eigenvalues + alpha)
        freedom = 1 - (1 + (1 - keep).sum()) / n  # the intercept takes one degree of freedom
        residual = np.maximum(outside, 0) + ((keep[:, None] * left) ** 2).sum(axis=0)
        score[index] = residual / n / freedom**2 if freedom > 0 else np.inf
    choice: np.ndarray = score.argmin(axis=0)
    return choice, score[choice, np.arange(Y.shape[1])]
