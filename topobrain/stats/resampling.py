"""Bootstrap intervals and permutation nulls of cross-validated correlations, as matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from topobrain._checks import InputError, require_choice
from topobrain.stats.block_permutations import FEWEST_ROWS, BlockOrders, block_orders
from topobrain.stats.correlation import unit_norm
from topobrain.stats.folds import Folds, duplicate_groups
from topobrain.stats.ridge import hat_matrices
from topobrain.stats.ridge.memory import parse_memory, readable

if TYPE_CHECKING:
    import torch

VOXEL_TILE = 1024
"""Voxels worked on at a time: wide enough for full-speed products, small enough to stay in a processor's cache."""

PRODUCT_VALUES = 2**20
"""Values of one product of permuted responses: bounds memory, and keeps products in a processor's cache."""

DEFAULT_MEMORY = 2**30
"""Bytes that permuted scores may take where no bound is given."""

TABLE_VOXELS, TABLE_OUTPUTS = 16, 32
"""Voxels and outputs of one table of blocks: it then stays in a processor's cache."""

FLOAT32_BLOCKS = 30
"""Blocks a fold must test for its bootstrap to run in float32: draws of very few stimuli cancel too much."""

TOLERANCE = 1e-4
"""How far `permuted_scores` may move a voxel's score, about, over permutations; a null is far wider."""

Scheme = Literal["stimuli", "circular"]


class ScoreDraws(NamedTuple):
    """Bootstrap draws of region scores, as sums, so that the draws of voxel chunks add up.

    Attributes
    ----------
    sums
        Sum over a region's usable voxels of Pearson r in the drawn stimuli (fold, region, draw).
    n_usable
        Voxels in each sum (region,).
    """

    sums: np.ndarray
    n_usable: np.ndarray


class PermutedScores(NamedTuple):
    """Scores under permuted responses, as sums, counts and maxima, so that those of voxel chunks combine.

    Attributes
    ----------
    sums
        Sum over a region's usable voxels of Pearson r (fold, region, permutation).
    n_usable
        Voxels in each sum (region,).
    at_least
        Number of permutations whose mean r over folds reaches the observed one (voxel,); NaN for unusable voxels and
        where no observed score is given. A voxel's p is ``(1 + at_least) / (1 + n_permutations)``.
    largest
        Largest mean r over folds of any usable voxel (permutation,), -inf without usable voxels: the null of the
        family-wise p. Chunks of voxels combine by their maximum.
    """

    sums: np.ndarray
    n_usable: np.ndarray
    at_least: np.ndarray
    largest: np.ndarray


def _usable(prediction: np.ndarray, target: np.ndarray, folds: Folds) -> np.ndarray:
    """Return a mask (voxel,) of voxels that have a correlation in every fold, the ones a region's score averages."""
    usable = np.ones(target.shape[1], dtype=bool)
    for _, test in folds:
        usable &= np.isfinite(target[test]).all(axis=0) & np.isfinite(prediction[test]).all(axis=0)
        usable &= (unit_norm(np.where(usable, target[test], 0.0)) != 0).any(axis=0)
    return usable


def _check_regions(roi: np.ndarray, n_voxels: int, n_regions: int) -> np.ndarray:
    numbers = np.asarray(roi)
    if numbers.shape != (n_voxels,) or (numbers.size and (numbers.min() < 0 or numbers.max() >= n_regions)):
        raise InputError(
            f"roi has shape {numbers.shape}: expected a region number from 0 to {n_regions - 1} for each of "
            f"{n_voxels} voxels"
        )
    return numbers


def _region_columns(roi: np.ndarray, n_regions: int) -> np.ndarray:
    """Return a matrix (voxel, region) whose product sums voxels into regions."""
    return np.asarray(roi[:, None] == np.arange(n_regions), dtype=np.float64)


def bootstrap_counts(
    folds: Folds, n_rows: int, *, n_bootstrap: int, blocks: np.ndarray | None = None, seed: int = 0
) -> list[np.ndarray]:
    """Return, for each fold, how often each test row is drawn (bootstrap, test row).

    Blocks of rows are drawn with replacement inside each test fold. The draws depend on seed, folds and blocks only,
    so scores of several models on the same folds can be compared draw by draw.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(n_rows) if blocks is None else np.asarray(blocks)
    counts = []
    for _, test in folds:
        codes = duplicate_groups(labels[test].tolist())
        n_blocks = int(codes.max()) + 1
        counts.append(rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=n_bootstrap)[:, codes])
    return counts


def bootstrap_scores(
    prediction: Float[np.ndarray, "stimulus voxel"],
    target: Float[np.ndarray, "stimulus voxel"],
    folds: Folds,
    roi: Int[np.ndarray, " voxel"],
    *,
    n_regions: int,
    n_bootstrap: int = 1000,
    blocks: Int[np.ndarray, " stimulus"] | None = None,
    seed: int = 0,
) -> ScoreDraws:
    """Resample stimuli, fold by fold: what each region would have scored on other test stimuli.

    As `bootstrap_correlation`, before the means over folds and voxels are taken. Moments of a draw are products of its
    counts with the responses, the predictions and their products; in float32 where every fold tests at least
    `FLOAT32_BLOCKS` blocks (within 1e-6 of float64), else in float64.

    Parameters
    ----------
    prediction, target, folds, n_bootstrap, blocks, seed
        As in `bootstrap_correlation`.
    roi
        Region number of each voxel, from 0 to ``n_regions - 1``.
    n_regions
        Number of regions, also of those that have no voxel here.

    Returns
    -------
    ScoreDraws
    """
    roi = _check_regions(roi, target.shape[1], n_regions)
    counts = bootstrap_counts(folds, len(target), n_bootstrap=n_bootstrap, blocks=blocks, seed=seed)
    labels = np.arange(len(target)) if blocks is None else np.asarray(blocks)
    few = any(len(np.unique(labels[test])) < FLOAT32_BLOCKS for _, test in folds)
    dtype, least = (np.float64, 1e-12) if few else (np.float32, 1e-5)
    voxels = np.flatnonzero(_usable(prediction, target, folds))
    sums = np.zeros((len(folds), n_regions, n_bootstrap))
    for number, ((_, test), count) in enumerate(zip(folds, counts, strict=True)):
        share = (count / count.sum(axis=1, keepdims=True)).astype(dtype)
        for start in range(0, voxels.size, VOXEL_TILE):
            tile = voxels[start : start + VOXEL_TILE]
            # centred first: sums of squares of raw values would cancel badly for responses with a large offset
            p, y = (unit_norm(values[np.ix_(test, tile)]).astype(dtype) for values in (prediction, target))
            r = _drawn_correlation(share, p, y, least)
            sums[number] += (r @ _region_columns(roi[tile], n_regions)).T
    return ScoreDraws(sums, np.bincount(roi[voxels], minlength=n_regions))


def _drawn_correlation(share: np.ndarray, p: np.ndarray, y: np.ndarray, least: float) -> np.ndarray:
    """Return Pearson r (draw, voxel) of two (stimulus, voxel) arrays with stimuli weighted by (draw, stimulus)."""
    moments = share @ np.hstack([p, y, p * p, y * y, p * y])
    mean_p, mean_y, square_p, square_y, product = np.split(moments, 5, axis=1)
    # a draw that repeats one value has no variance, whatever rounding leaves
    var_p, var_y = square_p - mean_p**2, square_y - mean_y**2
    told = (var_p > least * square_p) & (var_y > least * square_y)
    size = np.sqrt(np.where(told, var_p * var_y, 1.0))
    return np.asarray(np.where(told, (product - mean_p * mean_y) / size, 0.0), dtype=np.float64)


def bootstrap_correlation(
    prediction: Float[np.ndarray, "stimulus voxel"],
    target: Float[np.ndarray, "stimulus voxel"],
    folds: Folds,
    roi: Int[np.ndarray, " voxel"],
    *,
    n_bootstrap: int = 1000,
    blocks: Int[np.ndarray, " stimulus"] | None = None,
    seed: int = 0,
) -> Float[np.ndarray, "bootstrap roi"]:
    """Resample stimuli to see how far the mean score of a region could lie.

    Stimuli (or whole blocks of them) are drawn with replacement inside each test fold; every draw gives Pearson r of
    every voxel and fold, averaged over folds and over the voxels of a region. Predictions are not refitted, so the
    interval covers the sampling of test stimuli, not of training stimuli.

    Parameters
    ----------
    prediction
        Held-out predictions (stimulus, voxel); rows never tested may be NaN.
    target
        Responses (stimulus, voxel).
    folds
        The outer folds behind the predictions.
    roi
        Region number of each voxel, 0, 1, ...
    n_bootstrap
        Number of draws.
    blocks
        Rows with equal numbers are drawn together (groups, duplicates, stretches of a time series).
    seed
        Seed of the draws.

    Returns
    -------
    array (bootstrap, roi)
        NaN for a region without usable voxels.
    """
    draws = bootstrap_scores(
        prediction, target, folds, roi, n_regions=int(np.max(roi)) + 1, n_bootstrap=n_bootstrap, blocks=blocks,
        seed=seed,
    )  # fmt: skip
    return np.asarray(region_means(draws.sums, draws.n_usable).mean(axis=0).T)


def region_means(sums: Float[np.ndarray, "fold region draw"], n_usable: np.ndarray) -> np.ndarray:
    """Return means over usable voxels (fold, region, draw); NaN for a region without usable voxels."""
    count = np.where(n_usable > 0, n_usable, np.nan)
    return np.asarray(sums / count[:, None])


def permuted_rows(n: int, n_permutations: int, scheme: Scheme, seed: int) -> Int[np.ndarray, "permutation stimulus"]:
    """Return, for each permutation, the row whose response each stimulus is given.

    ``"stimuli"`` permutes all rows; ``"circular"`` shifts them round by a random number of rows, from none to all but
    one. There are only ``n`` shifts, and the true order is one of them: without it, p would go below the ``1 / n`` that
    so few shifts allow.
    """
    require_choice("permutation scheme", scheme, ("stimuli", "circular"))
    if n_permutations < 1:
        raise InputError(f"n_permutations must be 1 or more, got {n_permutations}")
    rng = np.random.default_rng(seed)
    if scheme == "stimuli":
        return rng.permuted(np.tile(np.arange(n), (n_permutations, 1)), axis=1)
    return np.asarray((np.arange(n) + rng.integers(0, n, size=(n_permutations, 1))) % n)


MOST_FIXED = 0.2
"""Share of rows in groups that no other group has the size of, up to which whole groups can be permuted."""


def permuted_groups(
    groups: np.ndarray, n_permutations: int, rng: np.random.Generator
) -> Int[np.ndarray, "permutation row"] | None:
    """Return orders that permute groups of equal size as wholes, rows within each in order; None where too few can move.

    Parameters
    ----------
    groups
        Group of each row (passage, repeated stimulus).
    n_permutations, rng
        Number of orders, and where they come from.
    """
    codes = duplicate_groups(np.asarray(groups).tolist())
    members = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    orders = np.tile(np.arange(len(codes)), (n_permutations, 1))
    n_fixed = 0
    for size in sorted({len(rows) for rows in members}):
        alike = np.stack([rows for rows in members if len(rows) == size])
        if len(alike) < 2:
            n_fixed += alike.size
            continue
        drawn = rng.permuted(np.tile(np.arange(len(alike)), (n_permutations, 1)), axis=1)
        orders[:, alike.ravel()] = alike[drawn].reshape(n_permutations, -1)
    return None if n_fixed > MOST_FIXED * len(codes) else orders


def permutation_null(
    X: Float[np.ndarray, "stimulus feature"],
    Y: Float[np.ndarray, "stimulus voxel"],
    folds: Folds,
    alpha: Float[np.ndarray, "fold voxel"],
    roi: Int[np.ndarray, " voxel"],
    *,
    standardize: bool = False,
    n_permutations: int = 1000,
    scheme: Scheme = "stimuli",
    seed: int = 0,
) -> Float[np.ndarray, "permutation roi"]:
    """Give the stimuli wrong responses, fit again, and score again: what a region would score by chance.

    Responses change places over all rows, and every fold is refitted to the permuted training responses with the
    penalties chosen for the true ones. (Permuting held-out rows under fixed predictions would be cheaper, but it misses
    that folds share training rows, and its p-values are too small.) At a given penalty predictions are linear in the
    responses, so a refit is one matrix product a fold and penalty.

    Parameters
    ----------
    X, Y
        Features and responses.
    folds
        The outer folds.
    alpha
        Penalty of each fold and voxel, 0 or more; NaN leaves a voxel out.
    roi
        Region number of each voxel, 0, 1, ...
    standardize
        As in `ridge_cv`.
    n_permutations
        Number of permutations.
    scheme
        ``"stimuli"`` for independent stimuli; ``"circular"`` shifts all responses round by a random number of rows (none
        included) and so keeps the order within passages and time series; p is then about ``1 / n`` at the least.
    seed
        Seed of the permutations.

    Returns
    -------
    array (permutation, roi)
        Null scores; NaN for a region without usable voxels.
    """
    found = permuted_scores(
        X, Y, folds, alpha, roi, n_regions=int(np.max(roi)) + 1, standardize=standardize,
        n_permutations=n_permutations, scheme=scheme, seed=seed, tolerance=0.0,
    )  # fmt: skip
    return np.asarray(region_means(found.sums, found.n_usable).mean(axis=0).T)


def permuted_scores(
    X: Float[np.ndarray, "stimulus feature"],
    Y: Float[np.ndarray, "stimulus voxel"],
    folds: Folds,
    alpha: Float[np.ndarray, "fold voxel"],
    roi: Int[np.ndarray, " voxel"],
    *,
    n_regions: int,
    observed: Float[np.ndarray, "*fold voxel"] | None = None,
    standardize: bool = False,
    n_permutations: int = 1000,
    scheme: Scheme = "stimuli",
    seed: int = 0,
    max_memory: int | str | None = None,
    device: str | None = None,
    tolerance: float = TOLERANCE,
) -> PermutedScores:
    r"""Refit and score permuted responses: chance scores of regions, of every voxel, and of the best voxel.

    As `permutation_null`, with savings. Of ``FEWEST_ROWS`` independent stimuli or more, blocks of random stimuli are permuted
    as wholes (`BlockOrders`): still an exact test, and what a block adds to the predictions at a place is worked out once for
    all permutations. At penalty :math:`\alpha` the centred predictions of a fold are
    :math:`M_\alpha y_{train}`, so voxels of one penalty share one product a permutation. Responses are permuted a tile
    of voxels at a time, rows of it copied within a processor's cache. And most chosen penalties leave few effective
    dimensions: where that is cheaper, :math:`M_\alpha` is replaced by :math:`U U' M_\alpha` with its leading left
    singular vectors, and both sides of the correlation are taken in these coordinates. What is left out is orthogonal
    to what is kept, so that it moves a score over :math:`n` test stimuli by about its share of the Frobenius norm over
    :math:`\sqrt{n}`; the fewest vectors are kept for which that is at most ``tolerance``. Products in float32, sums of
    squares of responses and sums over voxels in float64.

    Parameters
    ----------
    X, Y, folds, alpha, standardize, n_permutations, scheme, seed
        As in `permutation_null`.
    roi
        Region number of each voxel, from 0 to ``n_regions - 1``.
    n_regions
        Number of regions, also of those that have no voxel here.
    observed
        The voxels' true r, for ``at_least``: of each fold (fold, voxel), or their mean (voxel,). A permutation that happens
        to be the true order is given these scores, so that rounding does not decide whether it reaches them.
    max_memory
        What working arrays may take beside X and Y, in bytes or as text (default ``"1 GiB"``); voxels are taken in chunks
        that keep it.
    device
        Torch device of the products, e.g. ``"cuda"`` (default: the processor).
    tolerance
        Standard deviation, over permutations, by which leaving out small dimensions may move a voxel's score (twice that
        where one dimension dominates); 0 for none left out. The spread of the scores themselves is about ``n ** -0.5``.

    Returns
    -------
    PermutedScores

    Raises
    ------
    InputError
        No permutation, arrays that do not fit together, a negative or infinite penalty, or a memory bound that not even
        one voxel fits in.
    """
    blocks = None
    if scheme == "stimuli" and tolerance > 0 and len(Y) >= FEWEST_ROWS and n_permutations > 0:
        blocks = block_orders(len(Y), n_permutations, seed)
    orders = permuted_rows(len(Y), n_permutations, scheme, seed) if blocks is None else blocks.rows
    n_voxels = Y.shape[1]
    roi = _check_regions(roi, n_voxels, n_regions)
    if np.shape(alpha) != (len(folds), n_voxels):
        raise InputError(f"alpha has shape {np.shape(alpha)}, expected {len(folds)} folds x {n_voxels} voxels")
    alpha = np.asarray(alpha, dtype=np.float64)
    wrong = (alpha < 0) | np.isinf(alpha)
    if wrong.any():
        raise InputError(
            f"penalties must be finite and 0 or more, or NaN to leave a voxel out; {int(wrong.sum())} of {alpha.size} "
            f"are not, e.g. {alpha[wrong][0]}"
        )
    true = np.full(n_voxels, np.nan) if observed is None else np.asarray(observed, dtype=np.float64)
    if true.shape not in ((n_voxels,), np.shape(alpha)):
        raise InputError(
            f"observed has shape {true.shape}, expected a score for each of {n_voxels} voxels, or of each fold and voxel"
        )
    true = np.broadcast_to(true, alpha.shape)
    reference = true.mean(axis=0)
    unmoved = np.flatnonzero((orders == np.arange(len(Y))).all(axis=1))
    voxels = np.flatnonzero(np.isfinite(Y).all(axis=0) & np.isfinite(alpha).all(axis=0))
    sums = np.zeros((len(folds), n_regions, n_permutations))
    at_least, largest = np.full(n_voxels, np.nan), np.full(n_permutations, -np.inf)
    share = tolerance * np.sqrt(sum(len(test) for _, test in folds))
    work = _Work(orders, blocks, share, device, parse_memory(max_memory) or DEFAULT_MEMORY)
    step = work.chunk(len(Y), voxels.size)
    for start in range(0, voxels.size, step):
        chunk = voxels[start : start + step]
        targets = Y[:, chunk] - Y[:, chunk].mean(axis=0)
        spread = targets.std(axis=0)
        targets = (targets / np.where(spread > 0, spread, 1.0)).astype(np.float32)
        total = np.zeros((n_permutations, chunk.size), dtype=np.float32)
        for number, (train, test) in enumerate(folds):
            for own, r in work.scores(X, targets, train, test, alpha[number, chunk], standardize):
                known = true[number, chunk[own]]
                r[unmoved] = np.where(np.isfinite(known), known, r[unmoved])
                total[:, own] += r / len(folds)
                sums[number] += (r @ _region_columns(roi[chunk[own]], n_regions)).T
        known = reference[chunk]
        reached = (total >= known - 1e-6).sum(axis=0)
        at_least[chunk] = np.where(np.isfinite(known), reached, np.nan)
        best = total.max(axis=1).astype(np.float64)
        best[unmoved] = np.where(np.isfinite(known), known, total[unmoved]).max(axis=1)  # to the last digit
        largest = np.maximum(largest, best)
    return PermutedScores(sums, np.bincount(roi[voxels], minlength=n_regions), at_least, largest)


class _Operator(NamedTuple):
    """What turns responses into the two sides of a correlation: ``given @ y_train`` and ``wanted @ y_test``.

    ``wanted`` is None where it is the identity. Both sides have the same inner products as centred predictions and
    centred responses; predictions are scaled to size one for white responses.
    """

    given: np.ndarray
    wanted: np.ndarray | None


def _operator(hat: np.ndarray, share: float) -> _Operator | None:
    """Return a prediction operator (test, train) with its means over test rows taken out, or None if nothing is left.

    ``share`` is the part of its Frobenius norm that may be left out.
    """
    centred = hat - hat.mean(axis=0)
    size = np.linalg.norm(centred)
    if size <= 1e-12:
        return None
    centred = centred / size
    n_test, n_train = centred.shape
    if share > 0:
        values, vectors = np.linalg.eigh(centred @ centred.T)
        left_out = np.cumsum(np.maximum(values, 0.0))  # eigenvalues ascend, and sum to 1
        rank = max(1, int((left_out > share**2).sum()))
        if rank * (n_train + n_test) < n_test * n_train:  # in a basis, the test responses cost a product too
            basis = np.ascontiguousarray(vectors[:, -rank:].T)
            return _Operator(basis @ centred, basis)
    return _Operator(centred, None)


class _Work:
    """Permuted scores of one fold at a time: which permutations, how exact, where, and within which memory."""

    def __init__(
        self, orders: np.ndarray, blocks: BlockOrders | None, share: float, device: str | None, max_memory: int
    ) -> None:
        self.orders, self.blocks, self.share = orders, blocks, share
        self.device, self.max_memory = device or "cpu", max_memory

    def chunk(self, n_rows: int, n_voxels: int) -> int:
        """Return how many voxels can be worked on at once."""
        n_permutations = len(self.orders)
        fixed = 16 * self.orders.size + 40 * PRODUCT_VALUES + 24 * n_permutations * VOXEL_TILE
        each = 20 * n_rows + 8 * n_permutations
        if fixed + each > self.max_memory:
            raise InputError(
                f"max_memory is {readable(self.max_memory)}: {n_permutations} permutations of {n_rows} stimuli need "
                f"{readable(fixed + each)} or more"
            )
        return max(1, min(n_voxels, (self.max_memory - fixed) // each))

    def scores(
        self,
        X: np.ndarray,
        targets: np.ndarray,
        train: np.ndarray,
        test: np.ndarray,
        alpha: np.ndarray,
        standardize: bool,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield, tile by tile, voxel numbers and their scores in one fold (permutation, voxel)."""
        import torch

        penalties = np.unique(alpha)
        together = max(1, self.max_memory // 8 // (8 * train.size * test.size))  # operators held at a time
        inside = torch.zeros(self.orders.shape, dtype=torch.float64, device=self.device)
        inside.scatter_(1, self._at(self.orders[:, test]), 1.0)
        for first in range(0, penalties.size, together):
            hats = hat_matrices(X[train], X[test], penalties[first : first + together], standardize=standardize)
            for penalty, hat in hats.items():
                operator = _operator(np.asarray(hat, dtype=np.float64), self.share)
                own = np.flatnonzero(alpha == penalty)
                for start in range(0, own.size, VOXEL_TILE):
                    tile = own[start : start + VOXEL_TILE]
                    if operator is None:
                        yield tile, np.zeros((len(self.orders), tile.size))
                        continue
                    responses = self._at(targets[:, tile])
                    r = self._correlations(operator, responses, train, test) / self._size(inside, responses, test.size)
                    yield tile, r.double().cpu().numpy()

    def _at(self, values: np.ndarray) -> torch.Tensor:
        import torch

        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    @staticmethod
    def _size(inside: torch.Tensor, responses: torch.Tensor, n_test: int) -> torch.Tensor:
        """Return the norm of the permuted, centred test responses (permutation, voxel); inf where they are constant."""
        wide = responses.double()
        square = inside @ (wide * wide)
        variance = square - (inside @ wide) ** 2 / n_test
        return variance.masked_fill_(variance <= 1e-12 * square, float("inf")).sqrt_().float()

    def _correlations(
        self, operator: _Operator, responses: torch.Tensor, train: np.ndarray, test: np.ndarray
    ) -> torch.Tensor:
        """Return inner products of predictions of size one with test responses (permutation, voxel)."""
        import torch

        if self.blocks is not None:
            return self._from_blocks(self.blocks, operator, responses, train, test)
        n_voxels, rows = responses.shape[1], np.concatenate([train, test])
        batch = max(1, PRODUCT_VALUES // (rows.size * n_voxels))
        given = self._at(operator.given.astype(np.float32))
        basis = None if operator.wanted is None else self._at(operator.wanted.astype(np.float32))
        found = []
        for start in range(0, len(self.orders), batch):
            part = self.orders[start : start + batch, rows]
            moved = responses.index_select(0, self._at(part.T.reshape(-1))).view(rows.size, -1)
            predicted, wanted = given @ moved[: train.size], moved[train.size :]
            if basis is not None:
                wanted = basis @ wanted
            size, along = (predicted * predicted).sum(dim=0), (predicted * wanted).sum(dim=0)
            found.append(_along_predictions(along, size).view(len(part), n_voxels))
        return torch.cat(found)

    def _from_blocks(
        self, blocks: BlockOrders, operator: _Operator, responses: torch.Tensor, train: np.ndarray, test: np.ndarray
    ) -> torch.Tensor:
        """Return what `_correlations` returns, predictions added up from what each block gives at each place."""
        import torch

        add_up = torch.nn.functional.embedding_bag
        entries = self._at(blocks.entries())
        given = self._placed(operator.given, train, len(responses))
        wanted = None if operator.wanted is None else self._placed(operator.wanted, test, len(responses))
        placed = self._at(self.orders[:, test])
        shape = (len(entries), responses.shape[1])
        along, size = torch.zeros(shape, device=responses.device), torch.zeros(shape, device=responses.device)
        for start in range(0, shape[1], TABLE_VOXELS):
            voxels = slice(start, min(start + TABLE_VOXELS, shape[1]))
            columns = responses[:, voxels].contiguous()
            for first in range(0, len(given), TABLE_OUTPUTS):
                outputs = slice(first, min(first + TABLE_OUTPUTS, len(given)))
                tables = [blocks.table(side[outputs], columns) for side in (given, wanted) if side is not None]
                sides = [add_up(entries, table.flatten(1), mode="sum").view(-1, *table.shape[1:]) for table in tables]
                predicted = sides[0]
                if wanted is None:
                    target = columns.index_select(0, placed[:, outputs].reshape(-1)).view_as(predicted)
                else:
                    target = sides[1]
                along[:, voxels] += (predicted * target).sum(dim=1)
                size[:, voxels] += predicted.square_().sum(dim=1)
        return _along_predictions(along, size)

    def _placed(self, weights: np.ndarray, rows: np.ndarray, n_rows: int) -> torch.Tensor:
        """Return weights (output, row) for all rows, 0 at those that have none."""
        placed = np.zeros((len(weights), n_rows), dtype=np.float32)
        placed[:, rows] = weights
        return self._at(placed)


def _along_predictions(along: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Return inner products with predictions scaled to size one; 0 where a prediction is rounding."""
    import torch

    # predictions for white responses have size about 1
    return torch.where(size > 1e-12, along / size.clamp_min(1e-12).sqrt(), torch.zeros_like(along))
