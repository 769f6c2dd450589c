"""Scores of one layer on some voxels, in a form that adds up: parts of an encoding made one by one, or on many machines.

A part is a mapping of plain arrays, so it can be kept in an ``.npz`` file. Over regions it holds *sums* over usable
voxels, so parts of different voxels add up to what one run over all voxels gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from topobrain._checks import InputError, require_choice
from topobrain.encoding.cross_validation import Design
from topobrain.stats.bootstrap import bootstrap_scores
from topobrain.stats.permuted_refits import permuted_scores
from topobrain.stats.ridge import NestedFit, check_alphas, nested_ridge
from topobrain.stats.ridge.memory import parse_memory

Part = dict[str, np.ndarray]

Selection = Literal["kfold", "gcv", "loo"]

Precision = Literal["auto", "float64", "mixed", "float32"]

PER_FOLD = ("r", "alpha", "loss", "variance", "edge")
"""Arrays (fold, voxel) of a part."""

PER_VOXEL = ("usable", "at_least")
"""Arrays (voxel,) of a part."""

PER_REGION = ("draws", "null", "n_usable")
"""Sums over the usable voxels of each region: (fold, region, draw), (fold, region, permutation), (region,)."""


@dataclass(frozen=True)
class PartOptions:
    """What decides a part's numbers, besides its data and folds; see `encode` for the meaning of each."""

    alphas: tuple[float, ...]
    selection: Selection = "kfold"
    standardize: bool = True
    precision: Precision = "auto"
    n_bootstrap: int = 1000
    n_permutations: int = 0
    seed: int = 0
    device: str | None = None
    max_memory: int | str | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without data, so that a plan refuses what a run would."""
        require_choice("selection", self.selection, get_args(Selection))
        require_choice("precision", self.precision, get_args(Precision))
        counts = [getattr(self, name) for name in ("n_bootstrap", "n_permutations", "seed")]
        whole = [isinstance(one, int | np.integer) and not isinstance(one, bool) for one in counts]
        if not all(whole) or min(counts) < 0:
            more = "0 or more" if all(whole) else "whole numbers of 0 or more"
            raise InputError(f"n_bootstrap, n_permutations and seed must be {more}; got {', '.join(map(repr, counts))}")
        try:
            check_alphas(self.alphas)
        except InputError:
            raise
        except (TypeError, ValueError) as error:
            raise InputError(f"alphas must be numbers of at least 0, got {self.alphas!r}") from error
        parse_memory(self.max_memory)
        if self.device is not None:  # a torch.device too: kept in files as text
            object.__setattr__(self, "device", str(self.device))

    def engine(self) -> dict[str, Any]:
        """Return the options of the ridge engine."""
        fields = asdict(self)
        kept = ("alphas", "selection", "standardize", "precision", "device", "max_memory")
        return {name: fields[name] for name in kept}


def splits_for(design: Design, options: PartOptions) -> dict[str, Any]:
    """Return the outer and inner splits the engine needs; none inside where no penalty is chosen on folds."""
    needed = len(options.alphas) > 1 and options.selection == "kfold"
    inner = design.inner_splits if needed else [()] * len(design.outer)
    return {"outer": design.outer.splits, "inner": inner}


def scorable(Y: np.ndarray, design: Design) -> np.ndarray:
    """Return a mask (voxel,): no missing value, and variation in the training and test rows of every fold.

    A voxel that is constant in one fold has no score there, and so no mean over folds.
    """
    usable = np.isfinite(Y).all(axis=0)
    for train, test in design.outer:
        with np.errstate(invalid="ignore"):
            usable &= (np.ptp(Y[train], axis=0) > 0) & (np.ptp(Y[test], axis=0) > 0)
    return np.asarray(usable)


def without_unusable(Y: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Return responses with unusable voxels set to NaN, so that the engine passes them over."""
    return Y if usable.all() else np.where(usable, Y, np.nan).astype(Y.dtype, copy=False)


def encode_part(
    X: np.ndarray,
    Y: np.ndarray,
    design: Design,
    roi: np.ndarray,
    *,
    n_regions: int,
    options: PartOptions,
) -> Part:
    """Score one layer on some voxels.

    Parameters
    ----------
    X
        Features (stimulus, unit).
    Y
        Responses (stimulus, voxel).
    design
        Folds and groups.
    roi
        Region number of each voxel, of ``n_regions`` in the whole study.
    n_regions
        Number of regions.
    options
        Everything else that decides the numbers.
    """
    usable = scorable(Y, design)
    fit = nested_ridge(X, without_unusable(Y, usable), **splits_for(design, options), **options.engine())
    return score_part(fit, X, Y, usable, design, roi, n_regions=n_regions, options=options)


def score_part(
    fit: NestedFit,
    X: np.ndarray,
    Y: np.ndarray,
    usable: np.ndarray,
    design: Design,
    roi: np.ndarray,
    *,
    n_regions: int,
    options: PartOptions,
) -> Part:
    """Add intervals and null to the held-out predictions of one layer."""
    n_folds, n_voxels = fit.r.shape
    part: Part = {name: np.where(usable, getattr(fit, name), np.nan) for name in PER_FOLD}
    members = np.bincount(roi[usable], minlength=n_regions)
    part["precision"] = np.array([fit.precision])
    part |= {"usable": usable, "n_usable": members, "at_least": np.zeros(n_voxels, dtype=np.int64)}
    part["draws"] = np.zeros((n_folds, n_regions, options.n_bootstrap))
    part["null"] = np.zeros((n_folds, n_regions, options.n_permutations))
    part["largest"] = np.full(options.n_permutations, -np.inf)
    if options.n_bootstrap and design.one_block_a_fold:
        part["draws"] = drawn_folds(part["r"], roi, usable, n_regions, options)
    elif options.n_bootstrap and usable.any():
        draws = bootstrap_scores(
            fit.prediction, Y, design.outer, roi,
            n_regions=n_regions, n_bootstrap=options.n_bootstrap, blocks=design.blocks, seed=options.seed,
        )  # fmt: skip
        part["draws"] = draws.sums
    if options.n_permutations and usable.any():
        null = permuted_scores(
            X, Y, design.outer, part["alpha"], roi,
            n_regions=n_regions, observed=part["r"], standardize=options.standardize,
            n_permutations=options.n_permutations, scheme=design.exchange, seed=options.seed,
            max_memory=options.max_memory, device=options.device,
        )  # fmt: skip
        part["null"], part["at_least"], part["largest"] = null.sums, null.at_least, null.largest
    return part


def drawn_folds(r: np.ndarray, roi: np.ndarray, usable: np.ndarray, n_regions: int, options: PartOptions) -> np.ndarray:
    r"""Return sums (fold, region, draw) whose mean over folds spreads as the t distribution says for so few folds.

    Where a fold holds out one group as a whole (leave one run out), what varies is which groups there were. Folds drawn
    with replacement spread too little where there are few, so that their middle 95 % covers 83 % with five folds. Instead
    each draw weights the k folds by :math:`w = 1/k + (z - \bar z) / (s \sqrt{k (k - 1)})`, z normal (fold,) and
    :math:`s^2` a chi-square over its k - 1 degrees of freedom. Then :math:`\sum_f w_f r_f` is the mean plus a t variate
    of k - 1 degrees of freedom times its standard error, for any scores: of a region, a layer, a difference of two models,
    or a choice of layers. Weights come from the seed alone, so that voxels add up and draws of two results are paired.
    NaN with fewer than three folds.
    """
    n_folds = len(r)
    rng = np.random.default_rng(options.seed)
    normal = rng.standard_normal((options.n_bootstrap, n_folds))
    if n_folds < 3:
        weights = np.full_like(normal, np.nan)
    else:
        size = np.sqrt(rng.chisquare(n_folds - 1, size=(options.n_bootstrap, 1)) / (n_folds - 1))
        away = (normal - normal.mean(axis=1, keepdims=True)) / size
        weights = 1 + away * np.sqrt(n_folds / (n_folds - 1))  # k times w: the mean over folds is taken later
    members = (roi[:, None] == np.arange(n_regions)) & usable[:, None]
    sums = np.where(usable, r, 0.0) @ members
    return np.asarray(sums[:, :, None] * weights.T[:, None, :])


def join_voxels(parts: Sequence[Mapping[str, np.ndarray]]) -> Part:
    """Return one layer's part from parts of successive voxels.

    Raises
    ------
    InputError
        Parts of studies with other folds, regions or draws.
    """
    if not parts:
        raise InputError("there is no part to join")
    shapes = {tuple(part[name].shape for name in ("draws", "null")) for part in parts}
    if len(shapes) > 1:
        raise InputError(f"parts of different studies cannot be joined: their draws have the shapes {sorted(shapes)}")
    joined: Part = {name: np.concatenate([part[name] for part in parts], axis=-1) for name in (*PER_FOLD, *PER_VOXEL)}
    joined |= {name: np.sum([part[name] for part in parts], axis=0) for name in PER_REGION}
    joined["precision"] = np.unique(np.concatenate([part["precision"] for part in parts]))
    joined["largest"] = np.max([part["largest"] for part in parts], axis=0)
    return joined
