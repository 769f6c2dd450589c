"""Shared components of two sets of responses: PLS-SVD and regularised canonical correlation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float

from topobrain._checks import InputError
from topobrain.stats.components import fix_signs
from topobrain.stats.ridge.memory import parse_memory
from topobrain.stats.shared_components.sides import BLOCK_VALUES, Columns, Coordinates, Side, few_coordinates, whitened

DIRECT = 256
"""Columns of the narrower side up to which the cross-product matrix itself is decomposed."""

NOTHING = 1e-6
"""Singular values below this share of the largest are rounding (of float32 data, say): the component does not exist."""


@dataclass(frozen=True)
class SharedComponents:
    """Directions of two spaces along which responses to the same stimuli covary.

    Attributes
    ----------
    x_weights
        (x unit, component): direction of each component among the units; the entry of largest absolute value is positive.
    y_weights
        (voxel, component): its direction among the voxels, turned with the first.
    singular_values
        (component,), the largest first: of :math:`X'Y` for `pls_svd`; (penalised) canonical correlations for `cca`.
    """

    x_weights: Float[np.ndarray, "unit component"]
    y_weights: Float[np.ndarray, "voxel component"]
    singular_values: Float[np.ndarray, " component"]


def pls_svd(
    X: Float[np.ndarray, "stimulus unit"],
    Y: Float[np.ndarray, "stimulus voxel"],
    n_components: int,
    *,
    scale: bool = True,
    max_memory: int | str | None = None,
) -> SharedComponents:
    r"""Along which few directions do units and voxels covary most?

    With columns centred and scaled, :math:`X'Y = U S V'`; the first columns of U and V are the weights. The route goes by
    shape: with few units or few voxels the cross-product matrix is decomposed; otherwise
    :math:`X' (Y Y') X = U S^2 U'` through the stimulus by stimulus matrix :math:`Y Y'` (and units through
    :math:`X X'` where they outnumber stimuli), and :math:`V = Y' X U S^{-1}`. The wider side is read a block of columns
    at a time; results are in float64.

    **Where units or voxels lie plays no part**: shuffling units shuffles their weights, and rotating units or voxels
    (``scale=False``; scaling depends on the axes) turns the weights and leaves singular values and scores as they were.

    Parameters
    ----------
    X
        Responses of units (stimulus, unit), float32 or float64, without missing values.
    Y
        Responses of voxels (stimulus, voxel), rows as in X.
    n_components
        How many: at most the number of units, of voxels, and of stimuli less one.
    scale
        Divide every column by its standard deviation (ddof 1). Constant columns get weight 0 either way.
    max_memory
        What working arrays may take beside X, Y and the weights, in bytes or as text, about.

    Returns
    -------
    SharedComponents
        Components that do not exist, since the data have fewer dimensions, have weights and singular values of 0.

    Raises
    ------
    InputError
        Arrays that do not fit together or have missing values, or more components than there can be.

    References
    ----------
    Bookstein (1994), Morphometrics; McIntosh et al. (1996), NeuroImage 3:143. Equal to
    `sklearn.cross_decomposition.PLSSVD` up to joint signs.

    Examples
    --------
    >>> latent = np.random.default_rng(0).standard_normal((50, 1))
    >>> found = pls_svd(latent * [1.0, 2.0, -1.0], latent * [3.0, -1.0], 1)
    >>> found.x_weights.round(3).ravel().tolist(), found.y_weights.round(3).ravel().tolist()
    ([0.577, 0.577, -0.577], [0.707, -0.707])
    """
    return _fit(X, Y, n_components, "pls", None, scale, max_memory)


def cca(
    X: Float[np.ndarray, "stimulus unit"],
    Y: Float[np.ndarray, "stimulus voxel"],
    n_components: int,
    *,
    regularization: float = 1.0,
    scale: bool = True,
    max_memory: int | str | None = None,
) -> SharedComponents:
    r"""Along which few directions do units and voxels correlate most, with a penalty on directions of little variance?

    PLS-SVD of whitened data: with covariances :math:`C_x, C_y, C_{xy}` (ddof 1),
    :math:`(C_x + \gamma_x I)^{-1/2} C_{xy} (C_y + \gamma_y I)^{-1/2} = U S V'`, and weights
    :math:`(C_x + \gamma_x I)^{-1/2} U`, :math:`(C_y + \gamma_y I)^{-1/2} V`. A side's :math:`\gamma` is ``regularization``
    times the mean of those of its eigenvalues that can differ from 0 (as many as columns that vary, or stimuli less one).
    0 is classical canonical correlation; far above 1 the directions become those of `pls_svd`. Everything runs through
    matrices of at most stimuli by stimuli.

    Parameters
    ----------
    X, Y, n_components, scale, max_memory
        As in `pls_svd`.
    regularization
        0 or more. 0 only where stimuli outnumber the dimensions of each side: otherwise any two sets of responses
        correlate perfectly in training.

    Returns
    -------
    SharedComponents
        Scores :math:`X w_x` and :math:`Y w_y` have variance one, and the singular values are their correlations, for a
        regularization of 0; both are smaller with a penalty.

    Raises
    ------
    InputError
        As `pls_svd`; a penalty below 0; none where dimensions are as many as stimuli.

    References
    ----------
    Hotelling (1936), Biometrika 28:321; Vinod (1976), J. Econometrics 4:147 (canonical ridge).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> shared = rng.standard_normal((200, 1))
    >>> X, Y = (np.hstack([shared + rng.standard_normal((200, 1)), rng.standard_normal((200, 2))]) for _ in range(2))
    >>> cca(X, Y, 2, regularization=0).singular_values.round(1).tolist()
    [0.5, 0.1]
    """
    return _fit(X, Y, n_components, "cca", check_regularization(regularization), scale, max_memory)


def _fit(
    X: np.ndarray, Y: np.ndarray, n_components: int, method: str, regularization: float | None, scale: bool,
    max_memory: int | str | None,
) -> SharedComponents:  # fmt: skip
    X, Y = check_responses(X, Y)
    n = len(X)
    check_components(n_components, X.shape[1], Y.shape[1], n)
    rows, none = np.arange(n), np.zeros(0, dtype=int)
    x, y = both_sides(X, Y, rows, none, scale, block_values(max_memory))
    a, b = prepared(x, y, n, method, regularization)
    return fit_sides(a, b, n_components, n, method).components


@dataclass(frozen=True)
class Fit:
    """Components of one set of training rows, and the scores of its test rows.

    Attributes
    ----------
    components
        Weights on standardised units and voxels.
    x_scores, y_scores
        (test stimulus, component).
    """

    components: SharedComponents
    x_scores: np.ndarray
    y_scores: np.ndarray


def both_sides(
    X: np.ndarray, Y: np.ndarray, train: np.ndarray, test: np.ndarray, scale: bool, block: int
) -> tuple[Columns, Columns]:
    """Return units and voxels, to be standardised by their training rows."""
    return (
        Columns(X, train, test, scale=scale, what="X", block_values=block),
        Columns(Y, train, test, scale=scale, what="Y", block_values=block),
    )


def prepared(x: Columns, y: Columns, n_train: int, method: str, regularization: float | None) -> tuple[Side, Side]:
    """Return the two sides whose cross-product a method decomposes."""
    if method != "cca":
        return x, y
    assert regularization is not None
    return whitened(x, n_train, regularization), whitened(y, n_train, regularization)


def fit_sides(x: Side, y: Side, n_components: int, n_train: int, method: str) -> Fit:
    """Fit components to the training rows of two sides and score their test rows.

    The narrower side is the one whose directions are solved for; the directions of the other follow from them.
    """
    turned = y.width < x.width and method != "pca"
    one, other = (y, x) if turned else (x, y)
    near = few_coordinates(one, n_train)
    if method == "pca":
        near_directions = principal_axes(near, n_components)
        far_directions = other.combine(near.train @ near_directions)
        sizes = np.linalg.norm(far_directions, axis=0)
        far_directions = far_directions / np.where(sizes > 0, sizes, 1.0)
    else:
        near_directions, far_directions, sizes = _shared_directions(near, other, n_components)
    near_scores, far_scores = near.project(near_directions), other.project(far_directions)
    near_weights, far_weights = near.weights(near_directions), other.weights(far_directions)
    if turned:
        near_scores, far_scores = far_scores, near_scores
        near_weights, far_weights = far_weights, near_weights
    signs = fix_signs(near_weights.T)
    if method == "cca":
        sizes = sizes / (n_train - 1)
    return Fit(
        SharedComponents(near_weights * signs, far_weights * signs, sizes), near_scores * signs, far_scores * signs
    )


def principal_axes(side: Coordinates, count: int) -> np.ndarray:
    """Return the directions of largest variance (coordinate, component); zeros beyond the rank."""
    values, vectors = _largest(side.train.T @ side.train, min(count, side.width))
    vectors = vectors * (values > NOTHING**2 * values.max(initial=0.0))
    return _padded(vectors, count)


def _shared_directions(near: Coordinates, far: Side, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return directions of both sides and singular values of their cross-product, the largest first, zeros beyond its rank."""
    found = min(count, near.width, far.width)
    if near.width <= DIRECT:
        left, sizes, right = scipy.linalg.svd(far.combine(near.train), full_matrices=False)
        far_directions, sizes, near_directions = left[:, :found], sizes[:found], right[:found].T
        exists = sizes > NOTHING * sizes.max(initial=0.0)
        near_directions, far_directions = near_directions * exists, far_directions * exists
    else:
        squared, near_directions = _largest(near.train.T @ (far.gram() @ near.train), found)
        exists = squared > NOTHING**2 * squared.max(initial=0.0)
        near_directions = near_directions * exists
        far_directions = far.combine(near.train @ near_directions)
        sizes = np.linalg.norm(far_directions, axis=0)  # more exact than roots of eigenvalues
        far_directions = far_directions / np.where(exists, sizes, 1.0)
    return _padded(near_directions, count), _padded(far_directions, count), _padded((sizes * exists)[None], count)[0]


def _largest(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest eigenvalues of a symmetric matrix, descending, and their vectors (dimension, component)."""
    if count < 1:
        return np.zeros(0), np.zeros((len(matrix), 0))
    size = len(matrix)
    values, vectors = scipy.linalg.eigh((matrix + matrix.T) / 2, subset_by_index=(size - count, size - 1))
    return values[::-1], vectors[:, ::-1]


def _padded(columns: np.ndarray, count: int) -> np.ndarray:
    return np.pad(columns, ((0, 0), (0, count - columns.shape[1])))


def block_values(max_memory: int | str | None) -> int:
    """Return how many standardised values to hold at a time: three copies of a block stay within the bound."""
    bound = parse_memory(max_memory)
    return BLOCK_VALUES if bound is None else max(1, min(BLOCK_VALUES, bound // 24))


def check_responses(X: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays, or raise: two axes, as many rows, two or more, real and finite."""
    sides = []
    for name, values, columns in (("X", X, "unit"), ("Y", Y, "voxel")):
        given = np.asarray(values)
        if given.ndim != 2 or given.shape[1] == 0:
            raise InputError(
                f"{name} has shape {given.shape}, expected (stimulus, {columns}) with one {columns} or more"
            )
        if given.dtype.kind not in "fiu":
            raise InputError(f"{name} has values of type {given.dtype}, expected real numbers")
        bad = int((~np.isfinite(given)).any(axis=0).sum())
        if bad:
            raise InputError(
                f"{name} has missing or infinite values in {bad} of {given.shape[1]} {columns}s: leave them out"
            )
        sides.append(given)
    if len(sides[0]) != len(sides[1]):
        raise InputError(f"X has {len(sides[0])} stimuli and Y has {len(sides[1])}: rows must be the same stimuli")
    return sides[0], sides[1]


def check_components(n_components: int, n_units: int, n_voxels: int, n_train: int) -> None:
    """Raise unless so many components can exist."""
    if isinstance(n_components, bool) or not isinstance(n_components, int | np.integer) or n_components < 1:
        raise InputError(f"n_components must be a whole number of 1 or more, got {n_components!r}")
    most = min(n_units, n_voxels, n_train - 1)
    if n_components > most:
        raise InputError(
            f"{n_components} components asked of {n_units} units, {n_voxels} voxels and {n_train} training stimuli: the "
            f"largest possible number is {most} (the least of units, voxels and training stimuli less one)"
        )


def check_regularization(regularization: float) -> float:
    """Return the penalty of canonical correlation, or raise."""
    if isinstance(regularization, bool) or not 0 <= regularization < float("inf"):
        raise InputError(f"regularization must be a finite number of 0 or more, got {regularization!r}")
    return float(regularization)
