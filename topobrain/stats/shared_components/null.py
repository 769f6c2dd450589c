"""What shared components would score by chance: stimuli permuted, everything fitted and scored again."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from topobrain._checks import InputError, require_choice
from topobrain.stats.folds import Folds
from topobrain.stats.permuted_orders import DEFAULT_MEMORY, Scheme, permuted_groups
from topobrain.stats.ridge.memory import parse_memory, readable
from topobrain.stats.shared_components.eigenvectors import BLOCK, LeadingEigenvectors
from topobrain.stats.shared_components.fitting import (
    NOTHING,
    block_values,
    both_sides,
    prepared,
    principal_axes,
)
from topobrain.stats.shared_components.held_out import Method, check_study, score_correlation
from topobrain.stats.shared_components.sides import Coordinates, Side, few_coordinates

BATCH_BYTES = 2**26
"""What the work on one batch of permutations may take: more gains no speed."""


def component_orders(
    n_stimuli: int, folds: Folds, n_permutations: int, *, scheme: Scheme = "stimuli",
    groups: np.ndarray | None = None, seed: int = 0,
) -> Int[np.ndarray, "permutation stimulus"]:  # fmt: skip
    """Return, for each permutation, the row whose response each stimulus is given.

    Only stimuli that train and test in the same folds change places, so that every fold keeps its training and its test
    stimuli, with their means and standard deviations; and two folds pair the same stimuli, so that scores of different
    folds hang together as the true ones do. (Orders drawn for each fold by itself would make mean scores over folds vary
    too little, and p too small.)

    Parameters
    ----------
    n_stimuli
        Number of rows.
    folds
        Training and test rows.
    n_permutations
        Number of permutations.
    scheme
        ``"stimuli"`` permutes each set of such stimuli; ``"circular"`` shifts each round by a random number of rows, none
        included, which keeps the order of a time series.
    groups
        Group of each row (passages, repeats of a stimulus): with ``"circular"``, groups of equal size change places as wholes
        where there are enough of them; a shift would tear them apart, and p would be too small.
    seed
        Seed. Orders depend on the number of stimuli, the folds, the scheme and the seed only, so that layers and models can
        be compared permutation by permutation.

    Raises
    ------
    InputError
        No permutation, or folds in which no two stimuli can change places.

    Examples
    --------
    >>> from topobrain.stats import make_folds
    >>> orders = component_orders(6, make_folds(range(6), 2), 100)
    >>> sorted(set(orders[:, :3].ravel().tolist())), orders.shape
    ([0, 1, 2], (100, 6))
    """
    require_choice("permutation scheme", scheme, ("stimuli", "circular"))
    if isinstance(n_permutations, bool) or not isinstance(n_permutations, int | np.integer) or n_permutations < 1:
        raise InputError(f"n_permutations must be a whole number of 1 or more, got {n_permutations!r}")
    role = np.zeros((n_stimuli, len(folds)), dtype=np.int8)
    for number, (train, test) in enumerate(folds):
        role[train, number], role[test, number] = 1, 2
    kind = np.unique(role, axis=0, return_inverse=True)[1].reshape(-1)
    if np.bincount(kind).max() < 2:
        raise InputError("no two stimuli train and test in the same folds, so none can change places: use fewer folds")
    rng = np.random.default_rng(seed)
    orders = np.empty((n_permutations, n_stimuli), dtype=np.int64)
    for number in range(kind.max() + 1):
        rows = np.flatnonzero(kind == number)
        if scheme == "stimuli":
            orders[:, rows] = rng.permuted(np.tile(rows, (n_permutations, 1)), axis=1)
        else:
            whole = None if groups is None else permuted_groups(np.asarray(groups)[rows], n_permutations, rng)
            if whole is not None:
                orders[:, rows] = rows[whole]
                continue
            shift = rng.integers(0, rows.size, size=(n_permutations, 1))
            orders[:, rows] = rows[(np.arange(rows.size) + shift) % rows.size]
    return orders


def component_null(
    X: Float[np.ndarray, "stimulus unit"],
    Y: Float[np.ndarray, "stimulus voxel"],
    folds: Folds,
    n_components: int,
    *,
    method: Method = "pls",
    regularization: float = 1.0,
    scale: bool = True,
    n_permutations: int = 1000,
    scheme: Scheme = "stimuli",
    groups: np.ndarray | None = None,
    seed: int = 0,
    max_memory: int | str | None = None,
) -> Float[np.ndarray, "permutation fold component"]:
    r"""Give the stimuli wrong responses, fit again, and score again: what would the components score by chance?

    Responses change places as `component_orders` says. Means, standard deviations and the Gram matrices
    :math:`K = Y_{tr} Y_{tr}'` and :math:`K_{te} = Y_{te} Y_{tr}'` are then the same numbers in another order, so the
    voxels are read once: for a permutation :math:`\pi` the weights of units are the leading eigenvectors of
    :math:`X' K_{\pi\pi} X` and the scores of voxels :math:`K_{te,\pi} X u / s`. Eigenvectors come from products alone,
    in float64, many permutations in one product (block Lanczos); where voxels are fewer than units the two
    sides change parts. Equal to `held_out_components` of permuted responses.

    Parameters
    ----------
    X, Y, folds, n_components, method, regularization, scale
        As in `held_out_components`.
    n_permutations, scheme, groups, seed
        As in `component_orders`.
    max_memory
        What working arrays may take beside X and Y, in bytes or as text (default ``"1 GiB"``).

    Returns
    -------
    array (permutation, fold, component)
        Held-out Pearson r. With the mean over folds, p of a component is the share of permutations (the true order counted
        among them) that reach its score; with the largest over components (and layers), the family-wise p.

    Raises
    ------
    InputError
        As `held_out_components` and `component_orders`; a memory bound below what stimulus by stimulus matrices take.

    References
    ----------
    McIntosh & Lobaugh (2004), NeuroImage 23:S250 (permutation test of PLS); Westfall & Young (1993) (maximum over tests).
    """
    X, Y, penalty = check_study(X, Y, folds, n_components, method, regularization)
    orders = component_orders(len(X), folds, n_permutations, scheme=scheme, groups=groups, seed=seed)
    bound = parse_memory(max_memory) or DEFAULT_MEMORY
    block = block_values(bound // 4)
    found = np.empty((n_permutations, len(folds), n_components))
    for number, (train, test) in enumerate(folds):
        _check_memory(bound, train.size, test.size)
        x, y = both_sides(X, Y, train, test, scale, block)
        place = np.full(len(X), -1)
        place[train], place[test] = np.arange(train.size), np.arange(test.size)
        inside = _Orders(place[orders[:, train]], place[orders[:, test]])
        work: _Scores
        if method == "pca":
            work = _AlongAxes(few_coordinates(x, train.size), y, n_components)
        else:
            a, b = prepared(x, y, train.size, method, penalty)
            if b.width < a.width:  # pairs (i, order[i]) are pairs (inverse[j], j)
                a, b, inside = b, a, inside.inverse()
            work = _Shared(few_coordinates(a, train.size), b, n_components)
        step = max(1, min(BATCH_BYTES, bound // 4) // work.memory())
        for start in range(0, n_permutations, step):
            found[start : start + step, number] = work.correlations(inside.part(slice(start, start + step)))
    return found


def _check_memory(bound: int, n_train: int, n_test: int) -> None:
    """Raise unless the matrices of one fold fit: two of training rows by training rows, one of test by training rows."""
    need = 8 * n_train * (4 * n_train + n_test)
    if need > bound:
        raise InputError(
            f"max_memory is {readable(bound)}: {n_train} training and {n_test} test stimuli need {readable(need)} or more"
        )


class _Orders:
    """Orders of the training rows and of the test rows of a fold (permutation, row), numbered within the fold."""

    def __init__(self, train: np.ndarray, test: np.ndarray) -> None:
        self.train, self.test = train, test
        self.train_inverse = np.argsort(train, axis=1)

    def inverse(self) -> _Orders:
        """Return the orders that undo these."""
        return _Orders(self.train_inverse, np.argsort(self.test, axis=1))

    def part(self, which: slice) -> _Orders:
        """Return some of the permutations."""
        return _Orders(self.train[which], self.test[which])


class _Scores(Protocol):
    """Held-out scores of one fold under permutations."""

    def memory(self) -> int:
        """Return bytes that one permutation takes."""

    def correlations(self, orders: _Orders) -> np.ndarray:
        """Return held-out r (permutation, component)."""


def _moved(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return values (permutation, component, row) with the rows of each permutation in its own order."""
    return np.take_along_axis(values, rows[:, None, :], axis=2)


def _times(values: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return values (permutation, component, row) times a matrix, as one large product."""
    return np.asarray((values.reshape(-1, values.shape[2]) @ matrix).reshape(*values.shape[:2], -1))


class _AlongAxes:
    """The leading principal axes of one side, which no permutation changes, against the other."""

    def __init__(self, near: Coordinates, far: Side, n_components: int) -> None:
        axes = principal_axes(near, n_components)
        self._train, self._test = (near.train @ axes).T, (near.test @ axes).T
        self._test_gram = np.ascontiguousarray(far.test_gram().T)

    def memory(self) -> int:
        """As `_Scores.memory`."""
        return int(32 * (self._train.size + self._test.size))

    def correlations(self, orders: _Orders) -> np.ndarray:
        """As `_Scores.correlations`."""
        # row i goes with row order[i] of the far side: sums over i of train[i] far[order[i]]
        placed = self._train[:, orders.train_inverse].transpose(1, 0, 2)
        far = _moved(_times(placed, self._test_gram), orders.test)
        return score_correlation(np.broadcast_to(self._test, far.shape), far)


class _Shared:
    """Components solved for on the near side; the far side is seen through its Gram matrices."""

    def __init__(self, near: Coordinates, far: Side, n_components: int) -> None:
        self._train, self._test = near.train, np.ascontiguousarray(near.test.T)
        self._turned = np.ascontiguousarray(near.train.T)
        self._gram, self._test_gram = far.gram(), np.ascontiguousarray(far.test_gram().T)
        self._count = n_components
        self._solver = LeadingEigenvectors(near.width, min(n_components, near.width))

    def memory(self) -> int:
        """As `_Scores.memory`."""
        rows = BLOCK if self._solver.by_products else self._solver.n_dimensions
        n_train, n_test = self._test_gram.shape
        return self._solver.memory() + int(32 * (rows + self._count) * (n_train + n_test))

    def correlations(self, orders: _Orders) -> np.ndarray:
        """As `_Scores.correlations`."""

        def cross_product(numbers: np.ndarray, rows: np.ndarray) -> np.ndarray:
            placed = _moved(_times(rows, self._turned), orders.train_inverse[numbers])
            return _times(_moved(_times(placed, self._gram), orders.train[numbers]), self._train)

        values, vectors = self._solver.find(cross_product, len(orders.train))
        placed = _moved(_times(vectors, self._turned), orders.train_inverse)
        far = _moved(_times(placed, self._test_gram), orders.test)
        r = score_correlation(_times(vectors, self._test), far)
        r[values <= NOTHING**2 * values[:, :1]] = 0.0
        return np.pad(r, ((0, 0), (0, self._count - r.shape[1])))
