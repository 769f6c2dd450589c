"""Does a smooth map from a model's sheet to the cortex predict voxels and stimuli that it was not fitted on?

How well a model's activations predict brain responses (ridge, PLS, CCA) does not change when its units change places. This
score does, and it stands beside the same fits with the places of units, and of voxels, shuffled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from topobrain._checks import InputError
from topobrain.stats.correlation import unit_norm
from topobrain.stats.folds import Folds, Split, given_folds, make_folds
from topobrain.stats.layout import Layout
from topobrain.stats.nulls import layout_permutations
from topobrain.stats.paired_smoothness import PairedSmoothness, exceedance, paired_smoothness
from topobrain.stats.spatial_modes import cortex_modes, require_places, sheet_modes

__all__ = ["MappingScore", "PairedSmoothness", "paired_smoothness", "sheet_to_cortex_score"]

SHEET_MODES = 9
"""Default number of modes of a sheet, see `sheet_to_cortex_score`: few enough that shuffled ones do not see everything."""

CORTEX_MODES = 12
"""Default number of modes of the cortex."""

PENALTIES = tuple(float(a) for a in np.logspace(-3, 3, 7))
"""Default penalties, in units of the mean squared singular value of the modes at training voxels: from almost none to all."""

INNER_FOLDS = 3
"""Parts of the training stimuli, and of the training voxels, that the penalty is chosen on."""

NEGLIGIBLE = 1e-9
"""Directions of the summaries with less than this share of the strongest one's variance are rounding errors."""

LEAST_VOXELS = 20
"""Fewer voxels say too little of a map: a fifth of them is held out, and the rest must carry several modes."""

LEAST_UNITS = 16
"""Fewer units have no smooth modes to speak of."""

_DRAW_BYTES = 64 * 2**20
"""Memory for the draws worked on together."""


class MappingScore(NamedTuple):
    """How well a smooth map from sheet to cortex predicts voxels and stimuli held out, beside its nulls.

    Attributes
    ----------
    r
        Pearson r over held-out stimuli, mean over folds and held-out voxels.
    null_units, null_voxels
        The same (null,) with the places of units, and of voxels, shuffled, and everything fitted again.
    p_units, p_voxels
        One-sided p against each.
    p
        The larger of both: a topographic alignment needs both.
    excess
        r less the mean of the higher null.
    fold_r
        r of each stimulus fold, mean over voxels (fold,).
    voxel_r
        r of each voxel, mean over stimulus folds (voxel,); NaN for voxels left out.
    prediction
        Held-out predictions (stimulus, voxel) in the unit of the responses; NaN where there is none.
    penalty
        The penalty chosen (stimulus fold, voxel fold).
    n_units, n_voxels
        Units and voxels used; constant ones and voxels with missing values are left out.
    n_sheet_modes, n_cortex_modes
        Modes used.
    """

    r: float
    null_units: np.ndarray
    null_voxels: np.ndarray
    p_units: float
    p_voxels: float
    p: float
    excess: float
    fold_r: np.ndarray
    voxel_r: np.ndarray
    prediction: np.ndarray
    penalty: np.ndarray
    n_units: int
    n_voxels: int
    n_sheet_modes: int
    n_cortex_modes: int


def sheet_to_cortex_score(
    X: Float[np.ndarray, "stimulus unit"],
    sheet: Layout,
    Y: Float[np.ndarray, "stimulus voxel"],
    places: Float[np.ndarray, "voxel dimension"],
    *,
    stimulus_folds: Sequence[Split] | Folds,
    inner_folds: Sequence[Sequence[Split]] | None = None,
    n_voxel_folds: int = 5,
    n_sheet_modes: int | None = None,
    n_cortex_modes: int | None = None,
    alphas: Sequence[float] = PENALTIES,
    regions: Int[np.ndarray, " voxel"] | None = None,
    voxel_orders: Int[np.ndarray, "null voxel"] | None = None,
    n_null: int = 200,
    seed: int = 0,
) -> MappingScore:
    r"""Does a smooth map from the sheet to the cortex predict responses of voxels and to stimuli it was not fitted on?

    The weight of unit i for voxel j is :math:`W_{ij} = \sum_{ab} G_{ab} B_a(i) D_b(j)` with the slowest modes B of the sheet
    (`sheet_modes`) and D of the cortex (`cortex_modes`): near units have like weights, and near voxels too. G is fitted on
    training stimuli and training voxels; a held-out voxel is predicted from its place alone, by X B G D'. Units and voxels
    are scaled, and the penalty is chosen, on training stimuli and training voxels only.

    The same fits with the places of units shuffled, and with those of voxels shuffled, are the nulls: X and Y, their ridge,
    PLS and CCA scores, and the number of parameters stay exactly the same. What is above both nulls is due to places.

    The summaries X B are whitened over the training stimuli. A fit then knows which maps the modes span and not how strong
    each is, so that *blur of everything the sheet carries*, noise included, which only weakens the finer modes, gains nothing.
    (Without whitening, non-topographic models blurred over their sheet passed ``p_units`` < .05 in 10 to 55 % of 20 simulated
    data sets, more with more modes; with it in 0 to 5 %.)

    What it cannot show. *Blur of the signal under noise that stays rough* passes, since such a sheet cannot be told from a
    smooth one: units in random places whose signal alone was blurred, with noise of 2 SD, were found in 95 % of 20 data sets.
    So does, less often, roughness added after a blur of everything: noise of .2 SD 5 %, of .5 SD 35 %, the sign alone 25 %
    (nothing added, or a rectifier: 0 %). *Maps that do not match*, drawn independently on both sides over the same latents, are
    found in 20 of 20 data sets, with an excess of .139 beside .114 for corresponding maps, since G is free. The score asks
    whether the shared signal is coded smoothly on both sides, and nothing beyond that of whether near goes to near.

    Blur of the *responses* makes cortex smooth for any statistic: ``p_voxels`` then says only that maps are smooth, and
    everything rests on ``p_units``. A model with few dimensions and little noise of its own is read as well from shuffled
    places, since any few summaries see all of it: places then cannot matter, and the score stays at its null although maps are
    smooth (0 of 40 found without noise in the units, all 40 with noise of .3 of the signal). A map that is rougher than the
    modes is missed.

    Measured on simulated data (`planted_alignment`; 14 x 14 units, 150 stimuli, 120 voxels, 99 draws; share of data sets with
    p < .05, where chance gives .04). Topographic (40 data sets each): 1.00 at r .24; .90 on a torus and .93 on an open sheet at
    r .08; .82 at r .06 for fields half as broad. Not topographic (100 each): shuffled units .03, shuffled voxels .05, unrelated
    .02, blurred .00; another 100 of shuffled units on an open sheet .10, and .055 of 800 smaller ones at p <= .05.

    Parameters
    ----------
    X
        Activations. Constant units are left out.
    sheet
        Places of the units. Mirror images and, wrapped, shifts of the sheet leave the score as it is.
    Y
        Responses. Voxels with a missing value, or constant in a fold, are left out.
    places
        Coordinates of the voxels, in mm.
    stimulus_folds
        Training and test stimuli.
    inner_folds
        For each of them, folds within its training stimuli (rows counted within these), on which the penalty is chosen; three
        contiguous ones if not given.
    n_voxel_folds
        Folds of the voxels, drawn with ``seed``; held-out voxels lie among the training voxels. They are drawn over the
        order of the voxels: the same voxels in another order give a slightly different r (.269 and .280 in one case).
    n_sheet_modes
        Most modes of the sheet, see `sheet_modes`: 9 by default, the constant and waves of up to one cycle along both sides of
        a wrapped sheet. More find finer maps but let shuffled summaries see more of the model.
    n_cortex_modes
        Modes of the cortex, see `cortex_modes`: 12 by default, fewer below 60 voxels.
    alphas
        Penalties on G to choose from, in units of the mean squared singular value of the modes at training voxels.
    regions
        Label of each voxel: places of voxels are then shuffled within labels only, so that differences between regions as
        wholes are in the null too.
    voxel_orders
        Permutations of the voxels, one a draw, in place of drawn ones and of ``regions``: for subjects that are shuffled
        together. Voxels left out are skipped (`induced_orders`).
    n_null, seed
        Draws of each null, and the seed of folds and draws. 200 draws of both at 300 stimuli x 400 units x 300 voxels take
        about 3 s.

    Returns
    -------
    MappingScore

    Raises
    ------
    InputError
        A sheet without layout, fewer than 20 usable voxels (ROI averages are no map), missing places or activations, fewer than
        3 test stimuli, more modes than half the units or voxels.

    Examples
    --------
    >>> from topobrain.sheet import Sheet
    >>> from topobrain.stats import make_folds, planted_alignment
    >>> sheet = Sheet.grid(10, 10, wrapped=True)
    >>> folds = make_folds(range(80), 4)
    >>> for kind in ("topographic", "shuffled units"):
    ...     found = planted_alignment(sheet, kind, n_stimuli=80, n_voxels=50)
    ...     made = sheet_to_cortex_score(found.X, sheet, found.Y, found.places, stimulus_folds=folds, n_null=39)
    ...     print(kind, bool(made.p < 0.05), bool(made.excess > 0.05))
    topographic True True
    shuffled units False False
    """
    grid = penalties(alphas)
    study = _Study.of(X, Y, places, stimulus_folds, inner_folds, n_voxel_folds, seed)
    sheet_basis = sheet_modes(sheet, _sheet_count(n_sheet_modes, study), units=study.units)
    cortex_basis = cortex_modes(study.places, _cortex_count(n_cortex_modes, study))
    fits = _Fits(study, sheet_basis, cortex_basis, grid)
    r, prediction, penalty = fits.true()
    labels = np.zeros(study.n_voxels) if regions is None else _region_labels(regions, study)
    if voxel_orders is None:
        moved = shuffled_within(labels, n_null, seed=seed)
    else:
        moved = induced_orders(_given_orders(voxel_orders, n_null, study), np.flatnonzero(study.voxels))
    null_units = fits.null(layout_permutations(study.n_units, n_null, seed=seed), "units")
    null_voxels = fits.null(moved, "voxels")
    score = float(r.mean())
    p_units, p_voxels = (float(exceedance(score, null)) for null in (null_units, null_voxels))
    voxel_r = np.full(Y.shape[1], np.nan)
    voxel_r[study.voxels] = r.mean(axis=0)
    return MappingScore(
        r=score,
        null_units=null_units,
        null_voxels=null_voxels,
        p_units=p_units,
        p_voxels=p_voxels,
        p=max(p_units, p_voxels),
        excess=score - max(float(null_units.mean()), float(null_voxels.mean())),
        fold_r=r.mean(axis=1),
        voxel_r=voxel_r,
        prediction=prediction,
        penalty=penalty,
        n_units=study.n_units,
        n_voxels=study.n_voxels,
        n_sheet_modes=sheet_basis.shape[1],
        n_cortex_modes=cortex_basis.shape[1],
    )


def shuffled_within(labels: np.ndarray, n_null: int, *, seed: int = 0) -> Int[np.ndarray, "null voxel"]:
    """Return permutations of voxels (null, voxel) that exchange only voxels of one label.

    >>> bool((np.array([0, 0, 1, 1])[shuffled_within(np.array([0, 0, 1, 1]), 3)] == [0, 0, 1, 1]).all())
    True
    """
    found = np.tile(np.arange(len(labels)), (n_null, 1))
    for number, label in enumerate(np.unique(labels)):
        inside = np.flatnonzero(labels == label)
        found[:, inside] = inside[layout_permutations(inside.size, n_null, seed=seed + number)]
    return found


def induced_orders(orders: np.ndarray, members: np.ndarray) -> Int[np.ndarray, "null member"]:
    """Return the permutations of some places (null, member) that permutations of all (null, place) induce on them.

    From each member the permutation is followed until it lands on a member again. Uniform permutations induce uniform ones.

    >>> induced_orders(np.array([[1, 2, 3, 0]]), np.array([0, 2]))
    array([[1, 0]])
    """
    there = np.zeros(orders.shape[1], dtype=bool)
    there[members] = True
    number = np.zeros(orders.shape[1], dtype=np.int64)
    number[members] = np.arange(len(members))
    found = orders[:, members]
    while not (inside := there[found]).all():
        found = np.where(inside, found, np.take_along_axis(orders, found, axis=1))
    return np.asarray(number[found])


def penalties(alphas: Sequence[float]) -> Float[np.ndarray, " penalty"]:
    """Return penalties as numbers, checked."""
    try:
        grid = np.asarray(alphas, dtype=np.float64)
    except (TypeError, ValueError):
        grid = np.zeros(0)
    if grid.ndim != 1 or not grid.size or not np.isfinite(grid).all() or (grid <= 0).any():
        raise InputError(f"alphas are one or more penalties above 0, got {alphas!r}")
    return grid


def _require_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputError(f"{name} must be a whole number, got {value!r}")


@dataclass(frozen=True)
class _Fold:
    """One fold of stimuli: both sides scaled on its training rows, and the rows of its inner fits."""

    train: np.ndarray
    test: np.ndarray
    inner: tuple[Split, ...]
    x: np.ndarray
    y: np.ndarray
    y_mean: np.ndarray
    y_scale: np.ndarray


@dataclass(frozen=True)
class _Study:
    """The data of one mapping: which units and voxels take part, and the folds of both stimuli and voxels."""

    folds: tuple[_Fold, ...]
    places: np.ndarray
    units: np.ndarray
    voxels: np.ndarray
    voxel_fold: np.ndarray
    inner_voxel_fold: np.ndarray
    n_stimuli: int

    @property
    def n_units(self) -> int:
        return int(self.units.sum())

    @property
    def n_voxels(self) -> int:
        return int(self.voxels.sum())

    @classmethod
    def of(
        cls, X: np.ndarray, Y: np.ndarray, places: np.ndarray, stimulus_folds: Sequence[Split] | Folds,
        inner_folds: Sequence[Sequence[Split]] | None, n_voxel_folds: int, seed: int,
    ) -> _Study:  # fmt: skip
        x, y = np.asarray(X, dtype=np.float64), np.asarray(Y, dtype=np.float64)
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
            raise InputError(f"X has shape {x.shape} and Y {y.shape}: expected (stimulus, unit) and (stimulus, voxel)")
        if not np.isfinite(x).all():
            raise InputError("X holds values that are missing or infinite")
        splits = given_folds(stimulus_folds, len(x)).splits
        least = min(len(test) for _, test in splits)
        if least < 3:
            raise InputError(f"a fold tests {least} stimuli: a correlation needs at least 3, use fewer folds")
        units = np.asarray(np.ptp(x, axis=0) > 0)
        voxels = np.isfinite(y).all(axis=0)
        with np.errstate(invalid="ignore"):
            for rows in (rows for split in splits for rows in split):
                voxels &= np.ptp(y[rows], axis=0) > 0
        n_voxels = int(voxels.sum())
        if n_voxels < LEAST_VOXELS:
            raise InputError(
                f"{n_voxels} of {voxels.size} voxels can be used (no missing value, none constant in a fold): a map from "
                f"sheet to cortex needs at least {LEAST_VOXELS}. Region averages are no map: it needs voxels with their places"
            )
        if units.sum() < LEAST_UNITS:
            raise InputError(f"{int(units.sum())} of {units.size} units vary: a map of the sheet needs {LEAST_UNITS}")
        _require_whole("n_voxel_folds", n_voxel_folds)
        if not 2 <= n_voxel_folds <= n_voxels // 2:
            raise InputError(
                f"n_voxel_folds must lie between 2 and {n_voxels // 2} (half the voxels), got {n_voxel_folds}"
            )
        inner = _inner_splits(splits, inner_folds)
        where = np.asarray(places)
        if where.ndim != 2 or len(where) != voxels.size:
            raise InputError(f"places have shape {where.shape}, expected coordinates for each of {voxels.size} voxels")
        rng = np.random.default_rng(seed)
        labels = [rng.permutation(np.arange(n_voxels) % n) for n in (n_voxel_folds, max(map(len, inner)))]
        folds = tuple(
            _scaled(x[:, units], y[:, voxels], train, test, tuple(within))
            for (train, test), within in zip(splits, inner, strict=True)
        )
        return cls(folds, require_places(where[voxels]), units, np.asarray(voxels), labels[0], labels[1], len(x))


def _inner_splits(splits: Sequence[Split], inner_folds: Sequence[Sequence[Split]] | None) -> list[tuple[Split, ...]]:
    """Return the rows of the inner fits of each fold, counted within its training rows."""
    if inner_folds is None:
        return [make_folds(range(len(train)), INNER_FOLDS).splits for train, _ in splits]
    found = [given_folds(within, len(train)).splits for within, (train, _) in zip(inner_folds, splits, strict=True)]
    if len({len(within) for within in found}) > 1:
        n_inner = min(map(len, found))
        return [within[:n_inner] for within in found]
    return found


def _scaled(x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, inner: tuple[Split, ...]) -> _Fold:
    """Scale both sides by means and standard deviations of the training rows."""
    x_scale, y_scale = x[train].std(axis=0), y[train].std(axis=0)
    x_scale[x_scale <= 1e-12 * np.abs(x[train]).max(axis=0)] = np.inf  # constant in training: carries nothing
    y_mean = y[train].mean(axis=0)
    scaled = (x - x[train].mean(axis=0)) / x_scale
    return _Fold(train, test, inner, scaled, (y - y_mean) / y_scale, y_mean, y_scale)


def _sheet_count(asked: int | None, study: _Study) -> int:
    """Return how many modes of the sheet to use."""
    most = study.n_units // 2
    if asked is None:
        return min(SHEET_MODES, most)
    _require_whole("n_sheet_modes", asked)
    if not 2 <= asked <= most:
        raise InputError(
            f"n_sheet_modes must lie between 2 and {most} (half of the {study.n_units} units), got {asked}"
        )
    return asked


def _cortex_count(asked: int | None, study: _Study) -> int:
    """Return how many modes of the cortex to use."""
    most = study.n_voxels // 2
    if asked is None:
        return max(3, min(CORTEX_MODES, study.n_voxels // 5))
    _require_whole("n_cortex_modes", asked)
    if not 2 <= asked <= most:
        raise InputError(
            f"n_cortex_modes must lie between 2 and {most} (half of the {study.n_voxels} voxels), got {asked}"
        )
    return asked


def _region_labels(regions: np.ndarray, study: _Study) -> np.ndarray:
    labels = np.asarray(regions)
    if labels.shape != study.voxels.shape:
        raise InputError(
            f"regions have shape {labels.shape}, expected one label for each of {study.voxels.size} voxels"
        )
    try:
        return np.asarray(np.unique(labels[study.voxels], return_inverse=True)[1])
    except TypeError as error:
        raise InputError(
            "regions are labels of one kind, a number or a text for each voxel; some are missing"
        ) from error


def _given_orders(orders: np.ndarray, n_null: int, study: _Study) -> np.ndarray:
    given = np.asarray(orders)
    if given.shape != (n_null, study.voxels.size) or (np.sort(given, axis=1) != np.arange(study.voxels.size)).any():
        raise InputError(
            f"voxel_orders must be {n_null} permutations of {study.voxels.size} voxels, got shape {given.shape}"
        )
    return given


@dataclass(frozen=True)
class _Part:
    """The cortex side of a fit, in the eigenbasis of the modes' Gram matrix over the training voxels.

    ``fit`` and ``test`` (voxel, mode) are the modes at training and at held-out voxels, 0 elsewhere; ``power`` (mode,)
    the eigenvalues; ``gram`` (mode, mode) that over the held-out voxels.
    """

    fit: np.ndarray
    test: np.ndarray
    power: np.ndarray
    gram: np.ndarray

    @classmethod
    def of(cls, modes: np.ndarray, train: np.ndarray, test: np.ndarray) -> _Part:
        power, turn = np.linalg.eigh(modes[train].T @ modes[train])
        turned = modes @ turn
        held = np.where(test[:, None], turned, 0.0)
        return cls(np.where(train[:, None], turned, 0.0), held, np.maximum(power, 0.0), held.T @ held)


@dataclass(frozen=True)
class _Cross:
    """The sheet side of a fit: summaries of the sheet, whitened over the training stimuli.

    ``fit`` (draw, mode, voxel) are the products of summaries and responses over training stimuli, ``test`` the summaries at
    the test stimuli (draw, stimulus, mode).
    """

    fit: np.ndarray
    test: np.ndarray

    @classmethod
    def of(cls, z: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, orders: np.ndarray | None) -> _Cross:
        mean = z[:, train].mean(axis=1, keepdims=True)
        known = z[:, train] - mean
        power, turn = np.linalg.eigh(known.swapaxes(1, 2) @ known)
        there = power > NEGLIGIBLE * power[:, -1:]
        # whitened: a fit knows which maps the modes of the sheet span, not how strong each of them is, see the score
        turn = turn * np.where(there, 1 / np.sqrt(np.where(there, power, 1.0)), 0.0)[:, None, :]
        product = (known @ turn).swapaxes(1, 2) @ (y[train] - y[train].mean(axis=0))
        return cls(_reordered(product, orders), (z[:, test] - mean) @ turn)


def _reordered(product: np.ndarray, orders: np.ndarray | None) -> np.ndarray:
    """Return products (draw, mode, voxel) of responses that changed places: one a permutation (draw, voxel)."""
    return product if orders is None else np.asarray(product[0][:, orders].swapaxes(0, 1), order="C")


class _Fits:
    """Fits of G by ridge for the true places and for draws of the nulls.

    With whitened summaries Z of the training stimuli, Z'Z = 1, and the modes of the training voxels, D = P t R', ridge gives
    G = (Z'Y P)_ab t_b / (t_b^2 + penalty) R'. All that a draw costs are products of small matrices: stimuli never meet
    voxels more than once a fold.
    """

    def __init__(self, study: _Study, sheet_basis: np.ndarray, cortex_basis: np.ndarray, alphas: np.ndarray) -> None:
        self.study, self.basis, self.alphas = study, sheet_basis, alphas
        fold, inner = study.voxel_fold, study.inner_voxel_fold
        numbers = range(int(fold.max()) + 1)
        self.held = [np.flatnonzero(fold == g) for g in numbers]
        self.outer = [_Part.of(cortex_basis, fold != g, fold == g) for g in numbers]
        self.inner = [
            [_Part.of(cortex_basis, (fold != g) & (inner != k), (fold != g) & (inner == k)) for g in numbers]
            for k in range(int(inner.max()) + 1)
        ]

    def true(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return r (fold, voxel), the held-out predictions (stimulus, voxel), and the penalties (fold, voxel fold)."""
        study = self.study
        prediction = np.full((study.n_stimuli, study.voxels.size), np.nan)
        r, penalty = [], []
        for fold in study.folds:
            z = (fold.x @ self.basis)[None]
            cross = _Cross.of(z, fold.y, fold.train, fold.test, None)
            weights, chosen = self._weights(z, fold, cross, None)
            at_voxels = self._spread(weights)[0]
            r.append(self._correlated(fold, cross, at_voxels[None], None)[0])
            made = fold.y_mean + fold.y_scale * (cross.test[0] @ at_voxels)
            prediction[np.ix_(fold.test, np.flatnonzero(study.voxels))] = made
            penalty.append(self.alphas[chosen[0]])
        return np.stack(r), prediction, np.stack(penalty)

    def null(self, orders: Int[np.ndarray, "null place"], side: str) -> Float[np.ndarray, " null"]:
        """Return the score of every permutation of the places of units or voxels."""
        found = np.zeros(len(orders))
        per_draw = 8 * 6 * self.basis.shape[1] * max(self.study.n_voxels, self.study.n_units, self.study.n_stimuli)
        step = max(1, _DRAW_BYTES // per_draw)
        for fold in self.study.folds:
            for start in range(0, len(orders), step):
                rows = slice(start, start + step)
                if side == "units":
                    z = self._summaries(fold.x, orders[rows])
                    moved = None
                else:
                    z = (fold.x @ self.basis)[None]
                    moved = orders[rows]
                cross = _Cross.of(z, fold.y, fold.train, fold.test, moved)
                weights, _ = self._weights(z, fold, cross, moved)
                r = self._correlated(fold, cross, self._spread(weights), moved)
                found[rows] += r.mean(axis=1) / len(self.study.folds)
        return found

    def _summaries(self, x: np.ndarray, orders: np.ndarray) -> np.ndarray:
        """Return X B (draw, stimulus, mode) for units in other places, all draws in one product."""
        moved = self.basis[orders].transpose(1, 0, 2)
        product = x @ moved.reshape(len(moved), -1)
        return np.ascontiguousarray(product.reshape(len(x), len(orders), -1).swapaxes(0, 1))

    def _weights(
        self, z: np.ndarray, fold: _Fold, cross: _Cross, orders: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return G (draw, voxel fold, sheet mode, cortex mode), both sides turned, and the number of its penalty."""
        loss = np.zeros((1, 1, 1))
        x_rows, y_rows = z[:, fold.train], fold.y[fold.train]
        for parts, (train, test) in zip(self.inner, fold.inner, strict=True):
            inside = _Cross.of(x_rows, y_rows, train, test, orders)
            held = y_rows[test] - y_rows[train].mean(axis=0)
            target = _reordered(inside.test.swapaxes(1, 2) @ held, orders)
            loss = loss + self._losses(inside, target, parts)
        chosen = np.argmin(loss, axis=2) if len(self.alphas) > 1 else np.zeros(np.shape(loss)[:2], dtype=int)
        products = _projected(cross.fit, [part.fit for part in self.outer])
        power = np.stack([part.power for part in self.outer])
        penalty = self.alphas[chosen] * power.mean(axis=1)
        return products / (power[:, None, :] + penalty[:, :, None, None]), chosen

    def _losses(self, inside: _Cross, target: np.ndarray, parts: Sequence[_Part]) -> np.ndarray:
        """Return the squared error on held-out stimuli and voxels, less a constant (draw, voxel fold, penalty)."""
        products = _projected(inside.fit, [part.fit for part in parts])
        wanted = _projected(target, [part.test for part in parts])
        gram_x = (inside.test.swapaxes(1, 2) @ inside.test)[:, None]
        gram_d = np.stack([part.gram for part in parts])
        power = np.stack([part.power for part in parts])[:, None, :]
        mean = power.mean(axis=2, keepdims=True)
        found = []
        for alpha in self.alphas:
            weights = products / (power + alpha * mean)
            found.append(np.einsum("mgab,mgab->mg", weights, gram_x @ weights @ gram_d - 2 * wanted))
        return np.stack(found, axis=2)

    def _spread(self, weights: np.ndarray) -> np.ndarray:
        """Return the weights of the sheet's modes for every voxel, each from the fit without it (draw, mode, voxel)."""
        found = np.empty((*weights.shape[:1], weights.shape[2], self.study.n_voxels))
        for g, (held, part) in enumerate(zip(self.held, self.outer, strict=True)):
            found[:, :, held] = weights[:, g] @ part.test[held].T
        return found

    def _correlated(self, fold: _Fold, cross: _Cross, at_voxels: np.ndarray, orders: np.ndarray | None) -> np.ndarray:
        """Return r of predictions and responses over the test stimuli (draw, voxel)."""
        centred = cross.test - cross.test.mean(axis=1, keepdims=True)
        target = _reordered(centred.swapaxes(1, 2) @ unit_norm(fold.y[fold.test]), orders)
        gram = centred.swapaxes(1, 2) @ centred
        dot = np.einsum("mav,mav->mv", at_voxels, target)
        length = np.sqrt(np.maximum(np.einsum("mav,mav->mv", at_voxels, gram @ at_voxels), 0.0))
        # a prediction that does not vary predicts nothing: 0
        return np.asarray(np.divide(dot, length, out=np.zeros_like(dot), where=length > 1e-12))


def _projected(products: np.ndarray, modes: Sequence[np.ndarray]) -> np.ndarray:
    """Return products with voxels (draw, mode, voxel) as products with the modes of each voxel fold (draw, fold, mode, mode)."""
    stacked = np.concatenate(modes, axis=1)
    found = (products @ stacked).reshape(*products.shape[:2], len(modes), -1)
    return np.asarray(found.transpose(0, 2, 1, 3), order="C")
