"""Ridge regression with a cross-validated penalty for every voxel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from topobrain._checks import InputError, require_choice
from topobrain.stats.folds import Split
from topobrain.stats.ridge.design import (
    check_alphas,
    check_features,
    check_folds,
    check_matrix,
    check_responses,
    is_tensor,
)

if TYPE_CHECKING:
    import torch

SELECTIONS = ("kfold", "gcv", "loo")
PRECISIONS = ("auto", "float64", "mixed", "float32")


@dataclass(frozen=True)
class RidgeFit:
    """A fitted ridge regression. Arrays, or tensors where the responses were one.

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

    coef: Any
    intercept: Any
    alpha: Any
    loss: Any
    edge: Any

    def predict(self, X: Float[Any, "stimulus feature"]) -> Float[Any, "stimulus voxel"]:
        """Return predicted responses (stimulus, voxel)."""
        if is_tensor(self.coef):
            import torch

            X = torch.as_tensor(X).to(self.coef)
        else:
            X = np.asarray(X.cpu() if is_tensor(X) else X, dtype=np.float64)
        if X.ndim != 2 or X.shape[1] != self.coef.shape[0]:
            raise InputError(f"features have shape {tuple(X.shape)}, the fit has {self.coef.shape[0]} features")
        return X @ self.coef + self.intercept


def ridge_cv(
    X: Float[Any, "stimulus feature"],
    Y: Float[Any, "stimulus voxel"],
    *,
    alphas: Sequence[float] | np.ndarray,
    folds: int | Sequence[Split] = 5,
    selection: Literal["kfold", "gcv", "loo"] = "kfold",
    standardize: bool = False,
    precision: Literal["auto", "float64", "mixed", "float32"] = "auto",
    device: Any = None,
    max_memory: int | str | None = None,
) -> RidgeFit:
    r"""Fit ridge regression with the penalty chosen for each voxel by cross-validation.

    Minimises :math:`\|y - Xw - b\|^2 + \alpha \|w\|^2`; the intercept is not penalised. The primal or the dual form is
    taken from the shape.

    Parameters
    ----------
    X
        Features (stimulus, feature). Missing or infinite values raise.
    Y
        Responses (stimulus, voxel), array or tensor; the fit is the same kind. Voxels with a missing value, or constant
        ones, come back as NaN; the others are not affected.
    alphas
        Penalties to choose from. One penalty fits without any choice.
    folds
        Inner folds: a number of contiguous folds, or (train, validation) row pairs.
    selection
        ``"kfold"``: least mean squared error over all inner validation rows; ties go to the lowest penalty. Of 2,048 voxels
        and 8 penalties or more the least loss is searched for (`topobrain.stats.ridge.penalty_search`): a few losses of each
        voxel predict the others, and those that may be the least are computed.
        ``"gcv"``: generalised cross-validation in closed form; fast, but it treats rows as independent, so it ignores
        groups and time. ``"loo"``: leave-one-out in closed form; it ignores groups and time, too.
    standardize
        Divide features by their standard deviation over the training rows (of each inner fold too).
    precision
        ``"float64"``; ``"mixed"``: the penalty is chosen in float32, the fit is float64; ``"float32"``: all but means,
        sums of squares and correlations; ``"auto"``: float64 up to an estimate of 5e10 operations, then mixed.
    device
        Where to compute; default: where the tensors are, else the processor.
    max_memory
        Bytes, or a text such as ``"2 GiB"``, allocated at most beyond the inputs.

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
    X = check_matrix(X)
    Y = check_responses(Y, len(X))
    require_choice("selection", selection, SELECTIONS)
    require_choice("precision", precision, PRECISIONS)
    grid, rows = check_alphas(alphas), np.arange(len(X))
    inner: list[Split] = []
    if selection == "kfold" and grid.size > 1:
        inner = check_folds(folds, len(X))

    from topobrain.stats.ridge.running import fit_weights, make_task

    outer = [(rows, rows[:0])]
    task = make_task(
        X.shape, Y.shape[1], grid, outer, [inner], selection=selection, standardize=standardize, precision=precision,
        max_memory=max_memory, weights=True,
    )  # fmt: skip
    return fit_weights(task, X, Y, outer[0], inner, device)


def hat_matrices(
    X: Float[np.ndarray, "stimulus feature"],
    X_new: Float[np.ndarray, "new_stimulus feature"],
    alphas: Sequence[float] | np.ndarray,
    *,
    standardize: bool = False,
    precision: Literal["auto", "float64", "mixed", "float32"] = "auto",
) -> dict[float, np.ndarray]:
    """Return, for each penalty, the matrix (new_stimulus, stimulus) that turns training responses into predictions.

    Predictions are those of `ridge_cv` at that penalty, up to the mean of the training responses. In float64, except
    with ``precision="float32"``.
    """
    require_choice("precision", precision, PRECISIONS)
    X, X_new = check_features(X), check_features(X_new)
    if X.shape[1] != X_new.shape[1]:
        raise InputError(f"new features have shape {X_new.shape}, the training features {X.shape}")

    grid = check_alphas(alphas).tolist()

    from topobrain.stats.ridge.running import operators

    return operators(X, X_new, grid, standardize, precision == "float32")


def tensor_like(values: np.ndarray, like: Any) -> Any:
    """Return values as a tensor on the device of ``like`` if that is a tensor, else as they are."""
    if not is_tensor(like):
        return values
    import torch

    return torch.from_numpy(values).to(like.device)


def choose_device(device: Any, *given: Any) -> torch.device:
    """Return the device asked for, else that of the first tensor, else the processor; raise if it cannot be used."""
    import torch

    if device is None:
        device = next((values.device for values in given if is_tensor(values)), "cpu")
    try:
        found = torch.device(device)
        torch.ones(1, dtype=torch.float64, device=found).item()
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise InputError(
            f"device {str(device)!r} cannot be used here ({str(error).splitlines()[0]}); 'cpu' always can"
        ) from error
    return found
