"""Permutation nulls of cross-validated correlations: refitted to permuted responses."""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from topobrain._checks import InputError
from topobrain.stats.block_permutations import FEWEST_ROWS, block_orders
from topobrain.stats.folds import Folds
from topobrain.stats.permuted_orders import Scheme, permuted_rows
from topobrain.stats.regions import check_regions, region_columns, region_means
from topobrain.stats.ridge.memory import parse_memory

TOLERANCE = 3e-4
"""How far `permuted_scores` may move a voxel's score, about, over permutations; a null is far wider."""

EXACT_SUMS = 1.5 * 2**14
"""Added to a score and taken away again, this leaves a multiple of 2**-38: sums of such, below 2**15 in size, are exact in
float64, so that they are the same in any order, whatever thread comes first."""


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
    all permutations. At penalty :math:`\alpha` the centred predictions of a fold are :math:`M_\alpha y_{train}`, so voxels of
    one penalty share one operator. Tiles of them are shared out among as many threads as torch has (`torch.get_num_threads`);
    any number of threads gives the same numbers.

    Where it is cheaper, :math:`M_\alpha` is replaced by :math:`U U' M_\alpha` with its leading left singular vectors, and both
    sides of the correlation are taken in these coordinates. What is left out is orthogonal to what is kept, so that it moves
    a score over :math:`n` test stimuli by about its share of the Frobenius norm over :math:`\sqrt{n}`; the fewest vectors are
    kept for which that is at most ``tolerance``. The null hardly feels it: each permutation is scored with predictions that
    are a little other, but as good. With 600 stimuli, 300 planted voxels and 1,000 permutations, the default moves p by .0006
    on average (its Monte Carlo error is .008), the spread of region nulls by .03 %, and the 95 % point of the best voxel's r
    by .0001 of .17; 1e-3 would move p by .0013, 3e-3 by .003.

    At such a tolerance what blocks add is kept in float16 where the processor sums that up fast, in float32 (`table_dtype`): it
    moves scores by 1e-5. All other products are in float32, sums of squares of responses and sums over voxels in float64.

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
        What working arrays of all threads may take beside X and Y, in bytes or as text (default ``"1 GiB"``, or what is
        needed if that is more); voxels are taken in chunks that keep it.
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
    roi = check_regions(roi, Y.shape[1], n_regions)
    alpha = _check_penalties(alpha, len(folds), Y.shape[1])
    true = _check_observed(observed, alpha)
    max_memory = parse_memory(max_memory)

    import torch

    from topobrain.stats.permuted_correlations import PermutedFits
    from topobrain.stats.ridge.workers import check_threads, working

    voxels = np.flatnonzero(np.isfinite(Y).all(axis=0) & np.isfinite(alpha).all(axis=0))
    tally = _Tally(true, orders, roi, n_regions, voxels)
    with working(check_threads(None) if torch.device(device or "cpu").type == "cpu" else 1) as workers:
        share = tolerance * np.sqrt(sum(len(test) for _, test in folds))
        fits = PermutedFits(
            X, folds, orders, blocks, standardize=standardize, share=share, device=device or "cpu", workers=workers
        )
        step = fits.plan(voxels.size, max(len(np.unique(own)) for own in alpha), max_memory)
        for start in range(0, voxels.size, step):
            chunk = voxels[start : start + step]
            targets = Y[:, chunk] - Y[:, chunk].mean(axis=0)
            spread = targets.std(axis=0)
            targets = (targets / np.where(spread > 0, spread, 1.0)).astype(np.float32)
            tally.open(chunk)
            fits.score(targets, alpha[:, chunk], tally.add)
            tally.close()
    return tally.scores()


def _check_penalties(alpha: np.ndarray, n_folds: int, n_voxels: int) -> np.ndarray:
    """Return penalties (fold, voxel) as float64, or raise."""
    if np.shape(alpha) != (n_folds, n_voxels):
        raise InputError(f"alpha has shape {np.shape(alpha)}, expected {n_folds} folds x {n_voxels} voxels")
    alpha = np.asarray(alpha, dtype=np.float64)
    wrong = (alpha < 0) | np.isinf(alpha)
    if wrong.any():
        raise InputError(
            f"penalties must be finite and 0 or more, or NaN to leave a voxel out; {int(wrong.sum())} of {alpha.size} "
            f"are not, e.g. {alpha[wrong][0]}"
        )
    return alpha


def _check_observed(observed: np.ndarray | None, alpha: np.ndarray) -> np.ndarray:
    """Return true scores (fold, voxel), NaN where none are given, or raise."""
    n_voxels = alpha.shape[1]
    true = np.full(n_voxels, np.nan) if observed is None else np.asarray(observed, dtype=np.float64)
    if true.shape not in ((n_voxels,), alpha.shape):
        raise InputError(
            f"observed has shape {true.shape}, expected a score for each of {n_voxels} voxels, or of each fold and voxel"
        )
    return np.broadcast_to(true, alpha.shape)


class _Tally:
    """Sums, counts and maxima of scores that come tile by tile, from several threads.

    Parameters
    ----------
    true
        True scores (fold, voxel), NaN where unknown.
    orders
        (permutation, stimulus).
    roi, n_regions
        As in `permuted_scores`.
    voxels
        Those that are scored.
    """

    def __init__(
        self, true: np.ndarray, orders: np.ndarray, roi: np.ndarray, n_regions: int, voxels: np.ndarray
    ) -> None:
        self.true, self.roi, self.voxels = true, roi, voxels
        self.unmoved = np.flatnonzero((orders == np.arange(orders.shape[1])).all(axis=1))
        self.sums = np.zeros((len(true), n_regions, len(orders)))
        self.at_least = np.full(len(roi), np.nan)
        self.largest = np.full(len(orders), -np.inf)
        self.chunk, self.total = voxels[:0], np.zeros((0, len(orders)), dtype=np.float32)
        self._lock = threading.Lock()

    def open(self, chunk: np.ndarray) -> None:
        """Begin with other voxels; their numbers count within these from now on."""
        self.chunk, self.total = chunk, np.zeros((len(chunk), len(self.largest)), dtype=np.float32)

    def add(self, fold: int, own: np.ndarray, r: np.ndarray) -> None:
        """Count in scores (permutation, voxel); folds have to come in order, the tiles of one in any."""
        import torch

        known = self.true[fold, self.chunk[own]]
        if self.unmoved.size:
            r[self.unmoved] = np.where(np.isfinite(known), known, r[self.unmoved])
        self.total[own] += r.T / np.float32(len(self.true))
        regions, column = np.unique(self.roi[self.chunk[own]], return_inverse=True)
        exact = torch.from_numpy(r).double()
        exact += EXACT_SUMS
        exact -= EXACT_SUMS
        if self.unmoved.size:  # added at the end, to the last digit
            exact[torch.from_numpy(self.unmoved)] *= torch.from_numpy(np.where(np.isfinite(known), 0.0, 1.0))
        sums = (torch.from_numpy(region_columns(column, len(regions))).T @ exact.T).numpy()
        with self._lock:
            self.sums[fold, regions] += sums

    def close(self) -> None:
        """Compare the voxels' mean scores over folds with the true ones."""
        known = self.true.mean(axis=0)[self.chunk]
        reached = (self.total >= (known - 1e-6)[:, None]).sum(axis=1)
        self.at_least[self.chunk] = np.where(np.isfinite(known), reached, np.nan)
        best = self.total.max(axis=0).astype(np.float64)
        if self.unmoved.size:  # to the last digit
            scores = np.where(np.isfinite(known)[:, None], known[:, None], self.total[:, self.unmoved])
            best[self.unmoved] = scores.max(axis=0)
        self.largest = np.maximum(self.largest, best)

    def scores(self) -> PermutedScores:
        """Return what was counted."""
        roi, n_regions = self.roi[self.voxels], self.sums.shape[1]
        if self.unmoved.size:
            for fold, known in enumerate(self.true[:, self.voxels]):
                weights = np.where(np.isfinite(known), known, 0.0)
                own = np.bincount(roi, weights=weights, minlength=n_regions)
                self.sums[fold][:, self.unmoved] += own[:, None]
        return PermutedScores(self.sums, np.bincount(roi, minlength=n_regions), self.at_least, self.largest)
