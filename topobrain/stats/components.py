"""Principal components: along which few directions of unit space do responses vary most?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float

from topobrain._checks import InputError

SIGN_TOLERANCE = 1e-9
"""Weights whose absolute values differ by less than this share are tied, so that rounding decides no sign."""

RANK_TOLERANCE = 1e-12
"""Components with less than this share of the largest variance are rounding error."""


@dataclass(frozen=True)
class Components:
    """Principal components of responses.

    Attributes
    ----------
    weights
        (component, unit): orthonormal directions, signs by `fix_signs`; 0 for units that do not vary.
    scores
        (stimulus, component): the responses, centred (and scaled), along each direction.
    explained
        (component,): share of the variance of all units.
    mean, sd
        (unit,): what was taken away from each unit, and what it was divided by (1 without scaling).
    """

    weights: Float[np.ndarray, "component unit"]
    scores: Float[np.ndarray, "stimulus component"]
    explained: Float[np.ndarray, " component"]
    mean: Float[np.ndarray, " unit"]
    sd: Float[np.ndarray, " unit"]

    def project(self, values: Float[np.ndarray, "stimulus unit"]) -> Float[np.ndarray, "stimulus component"]:
        """Return the scores of further stimuli: centred and scaled by the numbers of the fit."""
        given = np.asarray(values, dtype=np.float64)
        if given.ndim != 2 or given.shape[1] != len(self.mean):
            raise InputError(f"values have shape {given.shape}, expected (stimulus, {len(self.mean)} units)")
        return np.asarray(((given - self.mean) / self.sd) @ self.weights.T)


def fix_signs(weights: Float[np.ndarray, "component unit"]) -> Float[np.ndarray, " component"]:
    """Return the sign (1 or -1) by which to multiply each component: its largest weight becomes positive.

    A direction and its opposite are the same component, and which of them a solver returns is chance. The rule used
    everywhere here: the weight of largest absolute value is positive; of several tied ones, the first. Weights within
    a billionth of the largest count as tied, so that two solvers that differ by rounding agree.

    Parameters
    ----------
    weights
        One row a component. Missing weights are passed over.

    Returns
    -------
    array (component,)
        1.0 or -1.0; 1.0 for a row of zeros.

    Raises
    ------
    InputError
        Anything but two axes.

    Examples
    --------
    >>> fix_signs([[0.1, -0.9, 0.3], [0.5, -0.5, 0.0]]).tolist()
    [-1.0, 1.0]
    """
    given = np.asarray(weights, dtype=np.float64)
    if given.ndim != 2:
        raise InputError(f"weights have shape {given.shape}, expected (component, unit)")
    signs = np.ones(len(given))
    for row, one in enumerate(np.nan_to_num(given)):
        size = np.abs(one)
        if size.size and size.max() > 0:
            leading = one[int(np.argmax(size >= (1 - SIGN_TOLERANCE) * size.max()))]
            signs[row] = 1.0 if leading > 0 else -1.0
    return signs


def principal_components(
    X: Float[np.ndarray, "stimulus unit"], n_components: int, *, scale: bool = False
) -> Components:
    r"""Along which few directions of unit space do responses vary most?

    With :math:`X_c` the responses less each unit's mean, :math:`X_c = U S V^\top`: the rows of :math:`V^\top` are the
    weights (a map over units), :math:`U S` the scores, :math:`s_k^2 / \sum_j s_j^2` the share of variance explained.
    Nothing here depends on where units lie: permuting units permutes the weights alike.

    The eigenvectors come from the smaller of the two Gram matrices (stimuli or units), and a small singular value
    decomposition in the space they span removes what squaring lost.

    Parameters
    ----------
    X
        Responses (stimulus, unit), two stimuli or more, any real numbers.
    n_components
        How many, at most the number of stimuli less one and the number of units that vary. Responses of still lower
        rank (copies of a stimulus) have components of no variance at all: their weights and scores are 0.
    scale
        Divide each unit by its standard deviation (ddof 1), so that each counts alike however large its responses.

    Returns
    -------
    Components
        In float64, the largest first.

    Raises
    ------
    InputError
        Another shape, too few stimuli, missing values, no unit that varies, or too many components.

    References
    ----------
    Jolliffe (2002), Principal Component Analysis, ch. 3; equal to `sklearn.decomposition.PCA` up to sign.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = np.outer(rng.standard_normal(50), [2.0, -3.0, 1.0]) + 0.01 * rng.standard_normal((50, 3))
    >>> found = principal_components(X, 2)
    >>> found.explained.round(3).tolist(), found.weights[0].round(1).tolist()
    ([1.0, 0.0], [-0.5, 0.8, -0.3])
    """
    centred, mean, sd, varies = _standardised(X, scale)
    n_stimuli, n_units = centred.shape
    largest = min(n_stimuli - 1, int(varies.sum()))
    if isinstance(n_components, bool) or not isinstance(n_components, int | np.integer) or n_components < 1:
        raise InputError(f"n_components is a whole number of 1 or more, got {n_components!r}")
    if n_components > largest:
        raise InputError(
            f"{n_components} components of {n_stimuli} stimuli and {int(varies.sum())} units that vary: at most {largest} "
            "exist (the smaller of stimuli less one and such units)"
        )
    used = centred[:, varies]
    # products of squares neither over- nor underflow at this scale
    size = float(np.abs(used).max())
    used = used / size
    by_stimuli = n_stimuli <= used.shape[1]
    gram = used @ used.T if by_stimuli else used.T @ used
    first = len(gram) - n_components
    basis = scipy.linalg.eigh(gram, subset_by_index=[first, len(gram) - 1])[1]
    if by_stimuli:
        turned, singular, directions = np.linalg.svd(basis.T @ used, full_matrices=False)
        left = basis @ turned
    else:
        left, singular, turned = np.linalg.svd(used @ basis, full_matrices=False)
        directions = turned @ basis.T
    variance = singular**2
    none = variance <= RANK_TOLERANCE * variance[0]
    variance[none], directions[none], left[:, none] = 0.0, 0.0, 0.0
    weights = np.zeros((n_components, n_units))
    weights[:, varies] = directions
    signs = fix_signs(weights)
    return Components(
        weights=weights * signs[:, None],
        scores=left * (singular * size * signs),
        explained=variance / float((used**2).sum()),
        mean=mean,
        sd=sd,
    )


def _standardised(X: np.ndarray, scale: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return responses less their means (and over their spread), both numbers, and which units vary."""
    given = np.asarray(X, dtype=np.float64)
    if given.ndim != 2 or len(given) < 2 or given.shape[1] == 0:
        raise InputError(f"X has shape {given.shape}, expected (2 stimuli or more, 1 unit or more)")
    if not np.isfinite(given).all():
        n_bad = int((~np.isfinite(given)).any(axis=0).sum())
        raise InputError(f"{n_bad} of {given.shape[1]} units have missing or infinite values: leave them out first")
    mean = given.mean(axis=0)
    centred = given - mean
    # a unit whose spread is rounding error beside its own size does not vary
    largest = np.abs(given).max(axis=0)
    varies = np.abs(centred).max(axis=0) > 1e-12 * largest
    if not varies.any():
        raise InputError(f"none of {given.shape[1]} units varies over the {len(given)} stimuli")
    centred[:, ~varies] = 0.0
    sd = np.ones(given.shape[1])
    if scale:
        size = np.abs(centred[:, varies]).max(axis=0)  # squares of the rest neither over- nor underflow
        sd[varies] = size * (centred[:, varies] / size).std(axis=0, ddof=1)
        centred = centred / sd
    return centred, mean, sd, varies
