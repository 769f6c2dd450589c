"""Kernel ridge regression: responses predicted from similarities between stimuli, whatever they are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from topobrain._checks import InputError, require_choice
from topobrain.stats.correlation import column_correlation
from topobrain.stats.folds import Split
from topobrain.stats.ridge.design import (
    check_alphas,
    check_features,
    check_folds,
    check_nested,
    check_responses,
    in_memory,
    real_numbers,
    usable_voxels,
)
from topobrain.stats.ridge.fitting import choose_device
from topobrain.stats.ridge.nested import NestedFit

Kind = Literal["linear", "polynomial", "gaussian", "cosine"]
Selection = Literal["kfold", "gcv", "loo"]

KINDS = ("linear", "polynomial", "gaussian", "cosine")


def kernel(
    X: Float[np.ndarray, "stimulus feature"],
    X_new: Float[np.ndarray, "new_stimulus feature"] | None = None,
    *,
    kind: Kind = "linear",
    gamma: float | None = None,
    degree: int = 3,
    offset: float = 1.0,
) -> Float[np.ndarray, "new_stimulus stimulus"]:
    r"""How alike are stimuli, by their features?

    ``"linear"``: :math:`x^\top x'`; ``"polynomial"``: :math:`(\gamma x^\top x' + c)^d`; ``"gaussian"``:
    :math:`\exp(-\gamma \|x - x'\|^2)`; ``"cosine"``: :math:`x^\top x' / \|x\| \|x'\|` (0 for a row of zeros).

    Parameters
    ----------
    X
        Features (stimulus, feature).
    X_new
        Features of other stimuli (default: the same).
    kind
        Kind of kernel.
    gamma
        Default 1 / number of features, which looks at no stimulus, so nothing leaks from test to training rows.
    degree, offset
        d and c of the polynomial.

    Examples
    --------
    >>> kernel(np.array([[1.0, 2.0], [0.0, 3.0]])).tolist()
    [[5.0, 6.0], [6.0, 9.0]]
    """
    require_choice("kernel", kind, KINDS)
    X = check_features(X)
    new = X if X_new is None else check_features(X_new)
    if new.shape[1] != X.shape[1]:
        raise InputError(f"the new stimuli have {new.shape[1]} features, the others {X.shape[1]}")
    scale = 1 / X.shape[1] if gamma is None else float(gamma)
    if not scale > 0 or degree < 1:
        raise InputError(f"gamma must be above 0 and degree 1 or more, got {gamma} and {degree}")
    if kind == "gaussian":
        from scipy.spatial.distance import cdist

        return np.asarray(np.exp(-scale * cdist(new, X, "sqeuclidean")))
    if kind == "cosine":
        X, new = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300) for rows in (X, new))
    products = new @ X.T
    return np.asarray((scale * products + offset) ** degree if kind == "polynomial" else products)


@dataclass(frozen=True)
class KernelRidgeFit:
    """A fitted kernel ridge regression.

    Attributes
    ----------
    dual_coef
        Dual weights (training stimulus, voxel), on the centred kernel; NaN for unusable voxels.
    intercept
        Mean of the training responses (voxel,).
    alpha, loss, edge
        (voxel,), as in `RidgeFit`.
    column_means
        Mean of the training kernel over its rows (training stimulus,): what new rows are centred with.
    """

    dual_coef: np.ndarray
    intercept: np.ndarray
    alpha: np.ndarray
    loss: np.ndarray
    edge: np.ndarray
    column_means: np.ndarray

    def predict(self, K_new: Float[np.ndarray, "new_stimulus stimulus"]) -> Float[np.ndarray, "new_stimulus voxel"]:
        """Return predicted responses from the kernel between new and training stimuli."""
        K_new = np.asarray(K_new, dtype=np.float64)
        if K_new.ndim != 2 or K_new.shape[1] != len(self.dual_coef):
            raise InputError(
                f"the new kernel has shape {K_new.shape}, expected (new stimulus, training stimulus) with "
                f"{len(self.dual_coef)} training stimuli"
            )
        centred = K_new - self.column_means - K_new.mean(axis=1, keepdims=True) + self.column_means.mean()
        return np.asarray(centred @ self.dual_coef + self.intercept)


def kernel_ridge_cv(
    K: Float[np.ndarray, "stimulus stimulus"],
    Y: Float[np.ndarray, "stimulus voxel"],
    *,
    alphas: Sequence[float] | np.ndarray,
    folds: int | Sequence[Split] = 5,
    selection: Selection = "kfold",
    device: str | None = None,
) -> KernelRidgeFit:
    r"""Fit ridge regression on a precomputed kernel, with the penalty chosen for each voxel by cross-validation.

    Minimises :math:`\|y - Kc - b\|^2 + \alpha c^\top K c` with the kernel centred by its training rows (of inner folds too),
    so that the intercept b is not penalised. With the linear kernel it is `ridge_cv`. All arithmetic in float64.

    Parameters
    ----------
    K
        Similarities of the stimuli (stimulus, stimulus): symmetric, no negative eigenvalues after centring.
    Y
        Responses (stimulus, voxel). Voxels with a missing value, or constant ones, come back as NaN.
    alphas
        Penalties to choose from. One penalty fits without any choice.
    folds
        Inner folds: a number of contiguous folds, or (training, validation) rows.
    selection
        ``"kfold"``, ``"gcv"`` or ``"loo"``, as in `ridge_cv`.
    device
        Where torch computes (default the CPU).

    References
    ----------
    Saunders, Gammerman & Vovk (1998), ICML (the dual form); Schoelkopf, Smola & Mueller (1998), Neural Comput. 10:1299
    (centring in kernel space).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((40, 3)); Y = np.sin(X)
    >>> K = kernel(X, kind="gaussian")
    >>> fit = kernel_ridge_cv(K[:30, :30], Y[:30], alphas=[1e-3, 1e-1, 10.0])
    >>> bool(np.corrcoef(fit.predict(K[30:, :30])[:, 0], Y[30:, 0])[0, 1] > 0.9)
    True
    """
    K, Y, grid = _checked(K, Y, alphas, selection)
    rows = np.arange(len(K))
    splits = check_folds(folds, len(K)) if selection == "kfold" and grid.size > 1 else []
    voxels = np.flatnonzero(usable_voxels(Y))
    place, loss, spectrum = _choose(K, Y, voxels, rows, splits, grid, selection, device)
    dual = np.full(Y.shape, np.nan)
    mean = Y[:, voxels].mean(axis=0)
    U, values = (array.cpu().numpy() for array in (spectrum.vectors, spectrum.eigenvalues))
    dual[:, voxels] = U @ ((U.T @ (Y[:, voxels] - mean)) / (values[:, None] + grid[place]))
    full = np.full((4, Y.shape[1]), np.nan)
    full[:, voxels] = mean, grid[place], loss, _edge(place, grid.size)
    return KernelRidgeFit(dual, full[0], full[1], full[2], full[3], K.mean(axis=0))


def nested_kernel_ridge(
    K: Float[np.ndarray, "stimulus stimulus"],
    Y: Float[np.ndarray, "stimulus voxel"],
    *,
    alphas: Sequence[float] | np.ndarray,
    outer: Sequence[Split],
    inner: Sequence[Sequence[Split]],
    selection: Selection = "kfold",
    device: str | None = None,
) -> NestedFit:
    """Predict held-out responses from a precomputed kernel, with nested cross-validation.

    Parameters
    ----------
    K, Y, alphas, selection, device
        As in `kernel_ridge_cv`; K holds all stimuli, and training and test blocks are taken from it.
    outer, inner
        As in `nested_ridge`.

    Returns
    -------
    NestedFit
        As `nested_ridge` returns for features whose linear kernel K is.
    """
    K, Y, grid = _checked(K, Y, alphas, selection)
    outer, inner = check_nested(outer, inner, len(K), choosing=selection == "kfold" and grid.size > 1)
    usable = usable_voxels(Y)
    for train, _ in outer:
        usable &= np.ptp(np.where(usable, Y[train], 0.0), axis=0) > 0
    voxels = np.flatnonzero(usable)
    prediction = np.full(Y.shape, np.nan)
    r, alpha, loss, variance, edge = np.full((5, len(outer), Y.shape[1]), np.nan)
    for k, (train, test) in enumerate(outer):
        splits = [(train[a], train[b]) for a, b in inner[k]]
        place, least, spectrum = _choose(K, Y, voxels, train, splits, grid, selection, device, test)
        given = Y[np.ix_(train, voxels)]
        U, values, new = (array.cpu().numpy() for array in (spectrum.vectors, spectrum.eigenvalues, spectrum.rows))
        shrunk = (U.T @ (given - given.mean(axis=0))) / (values[:, None] + grid[place])
        prediction[np.ix_(test, voxels)] = new @ shrunk + given.mean(axis=0)
        r[k, voxels] = column_correlation(prediction[np.ix_(test, voxels)], Y[np.ix_(test, voxels)])
        alpha[k, voxels], loss[k, voxels], edge[k, voxels] = grid[place], least, _edge(place, grid.size)
        variance[k, voxels] = given.var(axis=0)
    return NestedFit(
        prediction=prediction, r=r, alpha=alpha, loss=loss, variance=variance, edge=edge, precision="float64",
        route="kernel", n_unusable=int((~usable).sum()),
    )  # fmt: skip


def _checked(
    K: np.ndarray, Y: np.ndarray, alphas: Sequence[float] | np.ndarray, selection: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    require_choice("selection", selection, ("kfold", "gcv", "loo"))
    K = np.asarray(in_memory(real_numbers(K, "the kernel")), dtype=np.float64)
    if K.ndim != 2 or K.shape[0] != K.shape[1] or K.size == 0:
        raise InputError(f"the kernel has shape {K.shape}, expected (stimulus, stimulus); see topobrain.stats.kernel")
    if not np.isfinite(K).all():
        row, column = np.argwhere(~np.isfinite(K))[0]
        raise InputError(f"the kernel holds {K[row, column]} at row {row}, column {column}")
    if np.abs(K - K.T).max() > 1e-6 * np.abs(K).max():
        raise InputError("the kernel is not symmetric: it must hold the similarity of every two stimuli")
    Y = np.asarray(in_memory(check_responses(Y, len(K))), dtype=np.float64)
    return K, Y, check_alphas(alphas)


def _choose(
    K: np.ndarray, Y: np.ndarray, voxels: np.ndarray, train: np.ndarray, splits: Sequence[Split], grid: np.ndarray,
    selection: str, device: str | None, test: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, Any]:  # fmt: skip
    """Return each usable voxel's place in the grid, its loss, and the spectrum of all training rows."""
    import torch

    from topobrain.stats.ridge.kernel_search import Choice, Spectrum, Targets, centre_kernel
    from topobrain.stats.ridge.workers import check_threads, working

    where = choose_device(device)

    def spectrum(rows: np.ndarray, new: np.ndarray) -> Any:
        blocks = (torch.from_numpy(K[np.ix_(some, rows)]).to(where) for some in (rows, new))
        return Spectrum.of_kernel(*centre_kernel(*blocks))

    whole = spectrum(train, train[:0] if test is None else test)
    choice = Choice.empty(1, len(voxels))
    if grid.size == 1 and selection == "kfold":
        choice.loss[:] = np.nan
    else:
        targets = Targets(Y, voxels, train, splits, torch.from_numpy(grid).to(where), selection)
        spectra = [spectrum(a, b) for a, b in splits] if selection == "kfold" else [whole]
        with working(check_threads(None)) as workers:
            targets.judge(spectra, 0, np.ones(1, dtype=bool), choice, workers)
    return choice.penalty[0], choice.loss[0], whole


def _edge(place: np.ndarray, n_penalties: int) -> Any:
    if n_penalties == 1:
        return np.zeros(len(place))
    return np.select([place == 0, place == n_penalties - 1], [-1.0, 1.0], 0.0)
