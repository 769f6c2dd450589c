"""Nested cross-validation: an outer fold scores, its training rows choose the penalty."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from topobrain._checks import InputError, require_choice
from topobrain.stats.folds import Split
from topobrain.stats.ridge.design import check_alphas, check_matrix, check_nested, check_responses
from topobrain.stats.ridge.fitting import PRECISIONS, SELECTIONS


@dataclass(frozen=True)
class NestedFit:
    """Held-out predictions and scores of a nested cross-validation.

    Arrays, or tensors where the responses were one.

    Attributes
    ----------
    prediction
        Held-out predictions (stimulus, voxel); NaN for rows never tested and for unusable voxels.
    r
        Pearson correlation of prediction and response over the test rows (fold, voxel), float64; NaN where the
        responses are constant over the test rows, 0 where the prediction is.
    alpha
        Chosen penalty (fold, voxel).
    loss
        Selection loss at the choice (fold, voxel): inner mean squared error, or the GCV score; NaN with one penalty.
    variance
        Variance of the training responses (fold, voxel): ``1 - loss / variance`` is the inner R2.
    edge
        -1 where the lowest penalty of the grid was chosen, 1 the highest, 0 inside (fold, voxel).
    precision
        Arithmetic used: ``"float64"``, ``"mixed"`` or ``"float32"``.
    route
        How the penalty was chosen, in a word, for the record.
    n_unusable
        Voxels that came back as NaN: a missing or infinite value, or constant over the training rows of a fold.
    """

    prediction: Any
    r: Any
    alpha: Any
    loss: Any
    variance: Any
    edge: Any
    precision: str
    route: str
    n_unusable: int


def nested_ridge(
    X: Float[Any, "stimulus feature"],
    Y: Float[Any, "stimulus voxel"],
    *,
    alphas: Sequence[float] | np.ndarray,
    outer: Sequence[Split],
    inner: Sequence[Sequence[Split]],
    selection: Literal["kfold", "gcv", "loo"] = "kfold",
    standardize: bool = False,
    precision: Literal["auto", "float64", "mixed", "float32"] = "auto",
    device: Any = None,
    max_memory: int | str | None = None,
    threads: int | None = None,
) -> NestedFit:
    """Score features by nested cross-validation: how well do they predict responses to stimuli left out?

    Each outer fold holds out its test rows; the penalty of each voxel is chosen inside its training rows, and the
    training rows are fitted again with it.

    Parameters
    ----------
    X
        Features (stimulus, feature), array or tensor. Missing or infinite values raise.
    Y
        Responses (stimulus, voxel), array (of any float type, also memory-mapped) or tensor; never copied whole.
    alphas
        Penalties to choose from. One penalty fits without any choice.
    outer
        (train, test) row pairs. A row tested by two folds keeps the later prediction.
    inner
        For each outer fold, (train, validation) pairs whose numbers count within its training rows; may be empty for
        ``"gcv"``, ``"loo"`` or one penalty.
    selection, standardize, precision, device, max_memory
        As in `ridge_cv`.
    threads
        Threads to use; default: torch's. Numbers are the same for any number of them; with ``max_memory``, to rounding.

    Returns
    -------
    NestedFit

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((40, 3)); Y = X @ rng.standard_normal((3, 2))
    >>> from topobrain.stats import make_folds
    >>> outer = list(make_folds(range(40), 4)); inner = [list(make_folds(range(len(a)), 3)) for a, _ in outer]
    >>> nested_ridge(X, Y, alphas=[1e-6, 1.0], outer=outer, inner=inner).r.round(3).min().item()
    1.0
    """
    options: dict[str, Any] = {
        "alphas": alphas, "outer": outer, "inner": inner, "selection": selection, "standardize": standardize,
        "precision": precision, "device": device, "max_memory": max_memory, "threads": threads,
    }  # fmt: skip
    return next(nested_ridge_layers({"": X}, Y, **options))[1]


def nested_ridge_layers(
    features: Mapping[str, Any],
    Y: Float[Any, "stimulus voxel"],
    *,
    alphas: Sequence[float] | np.ndarray,
    outer: Sequence[Split],
    inner: Sequence[Sequence[Split]],
    selection: Literal["kfold", "gcv", "loo"] = "kfold",
    standardize: bool = False,
    precision: Literal["auto", "float64", "mixed", "float32"] = "auto",
    device: Any = None,
    max_memory: int | str | None = None,
    threads: int | None = None,
) -> Iterator[tuple[str, NestedFit]]:
    """Yield the nested fit of each layer, in order: `nested_ridge` for many sets of features and the same responses.

    What only depends on responses and folds is done once, and as many layers run side by side as there are threads
    (each layer's numbers are those of `nested_ridge`).
    """
    require_choice("selection", selection, SELECTIONS)
    require_choice("precision", precision, PRECISIONS)
    if not features:
        raise InputError("no layer to score")
    checked = {layer: check_matrix(X) for layer, X in features.items()}
    n = len(next(iter(checked.values())))
    for layer, X in checked.items():
        if len(X) != n:
            raise InputError(f"layer {layer!r} has {len(X)} stimuli, the first one {n}")
    Y, grid = check_responses(Y, n), check_alphas(alphas)
    folds, within = check_nested(outer, inner, n, choosing=selection == "kfold" and grid.size > 1)

    from topobrain.stats.ridge.running import Run

    run = Run(
        grid, folds, within, selection=selection, standardize=standardize, precision=precision, device=device,
        max_memory=max_memory, threads=threads,
    )  # fmt: skip
    return run.layers(checked, Y)
