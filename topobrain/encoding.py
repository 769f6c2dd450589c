"""encode: how well a model's units predict brain responses to stimuli the fit never saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Literal, ParamSpec, TypeVar

import numpy as np
import xarray as xr

from topobrain._checks import InputError, listed, require_choice
from topobrain.activations import Activations
from topobrain.responses import BrainResponses
from topobrain.results import Result
from topobrain.stats.correlation import column_correlation
from topobrain.stats.folds import Folds, check_leaks, duplicate_groups, make_folds, merge_groups
from topobrain.stats.resampling import bootstrap_correlation, permutation_null
from topobrain.stats.ridge import check_alphas, ridge_cv, usable_voxels

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Bool

ALPHAS = tuple(float(a) for a in np.logspace(-1, 7, 17))
"""Default penalties, for standardised features: from almost none to almost constant predictions."""

TIME_GAP = 6
"""Volumes dropped around a test block of a time series: the haemodynamic response's reach at TR 2 s."""

TIME_BLOCK = 10
"""Volumes that the bootstrap draws together in a time series."""

REGION = ("r", "low", "high", "p", "null_low", "null_high")

Progress = Callable[[int, int], None]
P = ParamSpec("P")
T = TypeVar("T")


class Encoding(Result):
    """Encoding scores of every layer.

    ``r alpha (layer, fold, voxel)``: Pearson r on held-out stimuli and the penalty chosen; ``ceiling (voxel)``.
    ``region_r region_low region_high region_p region_null_low region_null_high (layer, region)``: mean over folds and
    over the voxels of an ROI, its 95 % bootstrap interval over stimuli, and where permutations were asked for, its
    one-sided p and the middle 95 % of the permuted scores.
    """

    kind: ClassVar[str] = "encoding"
    schema: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "r": ("layer", "fold", "voxel"),
        "alpha": ("layer", "fold", "voxel"),
        "ceiling": ("voxel",),
        "roi": ("voxel",),
        "subject": ("voxel",),
        **{f"region_{name}": ("layer", "region") for name in REGION},
        "region_ceiling": ("region",),
    }

    @property
    def layers(self) -> list[str]:
        """The layers, in depth order."""
        return [str(layer) for layer in self.data["layer"].values]

    @property
    def normalized(self) -> xr.DataArray:
        """Mean r over folds divided by the voxel's noise ceiling (layer, voxel), never clipped; NaN without a ceiling above 0."""
        return self.data["r"].mean("fold") / self.data["ceiling"].where(self.data["ceiling"] > 0)

    def summary(self) -> pd.DataFrame:
        """Return one row a layer and ROI: ``layer roi n_voxels r ceiling normalized low high p``.

        ``normalized`` is the region's r divided by its mean ceiling; ``low`` and ``high`` bound r, not ``normalized``.
        """
        import pandas as pd

        rows = []
        for i, layer in enumerate(self.layers):
            for j, region in enumerate(self.labels("region")):
                value = {name: float(self.data[f"region_{name}"].values[i, j]) for name in REGION}
                ceiling = float(self.data["region_ceiling"].values[j])
                rows.append(
                    {
                        "layer": layer,
                        "roi": region,
                        "n_voxels": int(self.data["region_voxels"].values[j]),
                        "r": value["r"],
                        "ceiling": ceiling,
                        "normalized": value["r"] / ceiling if ceiling > 0 else np.nan,
                        "low": value["low"],
                        "high": value["high"],
                        "p": value["p"],
                        "null_low": value["null_low"],
                        "null_high": value["null_high"],
                    }
                )
        return pd.DataFrame(rows)

    def best_layer(self, roi: str) -> str:
        """Return the layer of the highest r in an ROI. Chosen on the scores it reports: its own score is optimistic."""
        regions = self.labels("region").tolist()
        if roi not in regions:
            raise InputError(f"no ROI {roi!r} in this result; it has {listed(regions)}")
        scores = self.data["region_r"].values[:, regions.index(roi)]
        if not np.isfinite(scores).any():
            raise InputError(f"ROI {roi!r} has no voxel that can be scored (missing or constant values)")
        return self.layers[int(np.nanargmax(scores))]


def _one_blas_thread(verb: Callable[P, T]) -> Callable[P, T]:
    """Run a verb with one BLAS thread: its matrices are small, and threads that wait for each other cost tenfold."""

    @wraps(verb)
    def limited(*args: P.args, **kwargs: P.kwargs) -> T:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(limits=1, user_api="blas"):
            return verb(*args, **kwargs)

    return limited


@dataclass(frozen=True)
class _Design:
    """Folds and groups shared by all layers."""

    outer: Folds
    groups: np.ndarray
    inner_folds: int
    inner_scheme: Literal["contiguous", "shuffled"]
    gap: int
    time_series: bool
    seed: int

    def inner(self, train: np.ndarray) -> Folds:
        groups = self.groups[train]
        n = min(self.inner_folds, len(np.unique(groups)))
        return make_folds(groups, n, scheme=self.inner_scheme, gap=self.gap, positions=train, seed=self.seed)

    @property
    def blocks(self) -> np.ndarray:
        """Rows the bootstrap draws together."""
        return np.arange(len(self.groups)) // TIME_BLOCK if self.time_series else self.groups

    @property
    def exchange(self) -> Literal["stimuli", "circular"]:
        """How the permutation null may exchange rows."""
        independent = len(np.unique(self.groups)) == len(self.groups)
        return "stimuli" if independent and not self.time_series else "circular"


@_one_blas_thread
def encode(
    activations: Activations,
    responses: BrainResponses,
    *,
    layers: Sequence[str] | str | None = None,
    alphas: Sequence[float] | np.ndarray = ALPHAS,
    folds: Literal["auto", "contiguous", "shuffled"] | int | Sequence[tuple[np.ndarray, np.ndarray]] = "auto",
    n_folds: int = 5,
    inner_folds: int = 5,
    selection: Literal["kfold", "gcv"] = "kfold",
    standardize: bool = True,
    targets: Mapping[str, Any] | None = None,
    units: Bool[np.ndarray, " unit"] | None = None,
    gap: int | None = None,
    n_bootstrap: int = 1000,
    n_permutations: int = 0,
    allow_duplicates: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Encoding:
    """Predict brain responses from activations by nested cross-validated ridge regression, layer by layer.

    For every outer fold, each voxel's penalty is chosen by cross-validation inside the training stimuli, the fit is
    repeated on all of them, and the held-out stimuli are predicted. Everything (centring, scaling, penalties) is
    learned from training stimuli only. Stimuli that share a ``group`` (passage, run), and duplicated stimuli, stay on
    one side of every split, at both levels.

    Parameters
    ----------
    activations
        One row a stimulus: exactly the stimuli of ``responses``, in any order.
    responses
        Brain responses (stimulus, voxel). Voxels with a missing value and constant voxels score NaN and are counted.
    layers
        Layers to score (default: all).
    alphas
        Penalties to choose from, on the scale of standardised features.
    folds
        ``"auto"`` and ``"contiguous"``: blocks in the order of the stimuli; ``"shuffled"``: seeded random folds, which
        leak between neighbours in time, so it is never the default; a number: that many contiguous folds; or explicit
        (train, test) row pairs.
    n_folds, inner_folds
        Number of outer and inner folds.
    selection
        ``"kfold"`` or ``"gcv"``, see `topobrain.stats.ridge_cv`.
    standardize
        Scale each unit to unit variance over the training stimuli.
    targets
        Keep only these voxels, e.g. ``{"roi": "IFG"}`` or ``{"subject": ["sub-01"]}``.
    units
        Boolean mask over all units (for instance ``Selectivity.select``): only these predict.
    gap
        Rows dropped from training around each test block; default 6 for time series, else 0.
    n_bootstrap
        Draws of the interval over stimuli, 0 for none.
    n_permutations
        Permutations of the responses for p and the null band, 0 for none; each is fitted again, with the penalties of the
        true fit. Responses to passages and time series are shifted round instead of shuffled.
    allow_duplicates
        Allow explicit folds that split duplicated stimuli or groups, and do not keep stimuli together whose features are
        equal in every layer (different sentences may end in the same token, which is all an embedding layer sees).
    seed
        Seed of shuffled folds, bootstrap and permutations.
    progress
        Called with (layers done, layers in all).

    Returns
    -------
    Encoding

    Raises
    ------
    InputError
        Stimuli that differ between the two sides (named), leaking folds, too few stimuli.

    References
    ----------
    Naselaris et al. (2011), NeuroImage 56:400; Feghhi et al. (2024), arXiv 2406.01538 (shuffled folds leak).
    """
    if targets:
        unknown_keys = set(targets) - {"roi", "subject"}
        if unknown_keys:
            raise InputError(f"targets may name 'roi' and 'subject', got {sorted(unknown_keys)}")
        responses = responses.where(**targets)
    if min(n_bootstrap, n_permutations, seed) < 0:
        raise InputError(
            f"n_bootstrap, n_permutations and seed must be 0 or more; got {n_bootstrap}, {n_permutations} and {seed}"
        )
    wanted = activations.layers if layers is None or layers == "all" else layers
    names = [wanted] if isinstance(wanted, str) else [str(layer) for layer in wanted]
    if not names:
        raise InputError(f"no layer to score; the activations have {listed(activations.layers)}")
    for name in names:
        activations.sheet(name)  # unknown layers raise with near names
    rows = match_stimuli(activations, responses)
    mask = _unit_mask(activations, units)
    grid = check_alphas(alphas)
    Y = responses.values
    features = {layer: activations.values(layer)[rows][:, mask[activations.unit_slice(layer)]] for layer in names}
    repeats = np.arange(len(Y)) if allow_duplicates else _equal_rows(features)
    design = _design(responses, repeats, folds, n_folds, inner_folds, gap, allow_duplicates, seed)
    usable = usable_voxels(Y)
    for train, test in design.outer:  # a voxel constant in one fold has no score there, so no mean over folds
        usable &= (np.ptp(Y[train], axis=0) > 0) & (np.ptp(Y[test], axis=0) > 0)
    regions = responses.rois
    roi = np.array([regions.index(label) for label in responses.labels("roi")])
    shape = (len(names), len(design.outer), Y.shape[1])
    r, alpha, edge = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros((len(names), 2))
    region = {name: np.full((len(names), len(regions)), np.nan) for name in REGION}
    duplicate_rows = {}
    for i, layer in enumerate(names):
        X = features[layer].astype(np.float64)
        if X.shape[1] == 0:
            raise InputError(f"the unit mask keeps no unit of layer {layer!r}; name the layers to score with layers=")
        duplicate_rows[layer] = len(X) - len(np.unique(X, axis=0))
        prediction = np.full(Y.shape, np.nan)
        edges = []
        for k, (train, test) in enumerate(design.outer):
            fit = ridge_cv(
                X[train],
                np.where(usable, Y[train], np.nan),
                alphas=grid,
                folds=design.inner(train).splits if grid.size > 1 and selection == "kfold" else (),
                selection=selection,
                standardize=standardize,
            )
            prediction[test] = fit.predict(X[test])
            r[i, k, usable] = column_correlation(prediction[np.ix_(test, usable)], Y[np.ix_(test, usable)])
            alpha[i, k] = fit.alpha
            edges.append(fit.edge[usable])
        edge[i] = [(np.array(edges) == side).mean() if usable.any() else np.nan for side in (-1, 1)]
        _score_regions(region, i, r[i], prediction, Y, design, roi, n_bootstrap, seed)
        if n_permutations:
            null = permutation_null(
                X, Y, design.outer, alpha[i], roi, standardize=standardize,
                n_permutations=n_permutations, scheme=design.exchange, seed=seed,
            )  # fmt: skip
            count = (null >= region["r"][i] - 1e-12).sum(axis=0)
            region["p"][i] = np.where(np.isfinite(region["r"][i]), (1 + count) / (1 + n_permutations), np.nan)
            region["null_low"][i], region["null_high"][i] = np.quantile(null, [0.025, 0.975], axis=0)
        if progress is not None:
            progress(i + 1, len(names))
    return _result(
        activations, responses, names, design, r, alpha, edge, region, regions, roi, usable,
        {
            "layers": names, "alphas": grid.tolist(), "selection": selection, "standardize": standardize,
            "targets": dict(targets or {}), "n_units_used": int(mask.sum()),
            "n_bootstrap": n_bootstrap, "n_permutations": n_permutations,
            "allow_duplicates": allow_duplicates, "seed": seed,
            "duplicate_feature_rows": duplicate_rows,
        },
    )  # fmt: skip


def match_stimuli(activations: Activations, responses: BrainResponses) -> np.ndarray:
    """Return, for each stimulus of the responses, its row in the activations; both must hold the same stimuli.

    Raises
    ------
    InputError
        A stimulus missing on one side, or one whose text differs; it is named.
    """
    have = {str(label): row for row, label in enumerate(activations.labels("stimulus"))}
    want = responses.labels("stimulus").tolist()
    missing, extra = [s for s in want if s not in have], sorted(set(have) - set(want))
    if missing or extra:
        parts = []
        if missing:
            parts.append(f"{len(missing)} stimuli of the responses have no activations: {listed(missing, 3)}")
        if extra:
            parts.append(f"{len(extra)} stimuli of the activations have no response: {listed(extra, 3)}")
        raise InputError("; ".join(parts) + ". Extract from responses.stimuli to make them match")
    rows = np.array([have[s] for s in want])
    shown, seen = responses.labels("text"), activations.labels("text")[rows]
    differs = np.flatnonzero(shown != seen)
    if differs.size:
        first = int(differs[0])
        raise InputError(
            f"{differs.size} stimuli have other texts in the activations than in the responses; {want[first]!r} is "
            f"{str(seen[first])!r} to the model and {str(shown[first])!r} to the people"
        )
    return rows


def _unit_mask(activations: Activations, units: np.ndarray | None) -> np.ndarray:
    n_units = activations.data.sizes["unit"]
    if units is None:
        return np.ones(n_units, dtype=bool)
    mask = np.asarray(units)
    if mask.dtype != bool or mask.shape != (n_units,):
        raise InputError(
            f"units must be a boolean mask over all {n_units} units, got {mask.dtype} of shape {mask.shape}"
        )
    return mask


def _equal_rows(features: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return a group number a row; rows that are equal in every layer share one."""
    layers = [np.ascontiguousarray(values) for values in features.values()]
    return duplicate_groups([b"".join(values[row].tobytes() for values in layers) for row in range(len(layers[0]))])


def _design(
    responses: BrainResponses,
    repeats: np.ndarray,
    folds: Any,
    n_folds: int,
    inner_folds: int,
    gap: int | None,
    allow_duplicates: bool,
    seed: int,
) -> _Design:
    texts = responses.labels("text").tolist()
    labels = responses.labels("group") if "group" in responses.data.coords else None
    time_series = responses.design == "timeseries"
    # a silent volume of a time series is no repeated stimulus: time is kept apart by contiguous folds and the gap
    alike = np.arange(len(texts)) if time_series else merge_groups(duplicate_groups(texts), repeats)
    groups = alike if labels is None else merge_groups(labels, alike)
    reach = (TIME_GAP if time_series else 0) if gap is None else gap
    scheme: Literal["contiguous", "shuffled"] = "shuffled" if folds == "shuffled" else "contiguous"
    if isinstance(folds, int | np.integer):
        n_folds, folds = int(folds), "contiguous"
    if not isinstance(folds, str | Sequence | Folds):
        raise InputError(
            f"folds must be 'auto', 'contiguous', 'shuffled', a number or (train, test) pairs, got {folds!r}"
        )
    if isinstance(folds, str):
        require_choice("folds", folds, ("auto", "contiguous", "shuffled"))
        outer = make_folds(groups, n_folds, scheme=scheme, gap=reach, seed=seed)
    else:
        outer = _given_folds(folds, len(texts))
        if not allow_duplicates:
            check_leaks(outer, alike, texts, None if labels is None else labels.tolist())
    small = min(len(test) for _, test in outer)
    if small < 3:
        raise InputError(f"a fold tests {small} stimuli: a correlation needs at least 3, use fewer folds")
    return _Design(outer, groups, inner_folds, scheme, reach, time_series, seed)


def _given_folds(folds: Any, n_rows: int) -> Folds:
    splits = []
    for number, pair in enumerate(folds):
        try:
            train, test = (np.asarray(rows, dtype=np.int64).reshape(-1) for rows in pair)
        except (TypeError, ValueError) as error:
            raise InputError(f"fold {number} is no (train, test) pair of row numbers: {error}") from error
        if (
            train.size < 2
            or test.size == 0
            or min(train.min(), test.min()) < 0
            or max(train.max(), test.max()) >= n_rows
        ):
            raise InputError(f"fold {number} is empty or names rows outside 0..{n_rows - 1}")
        if np.intersect1d(train, test).size:
            raise InputError(
                f"fold {number} has rows in both training and test: {listed(np.intersect1d(train, test), 5)}"
            )
        splits.append((train, test))
    tested = np.concatenate([test for _, test in splits]) if splits else np.zeros(0)
    if not splits or len(np.unique(tested)) != len(tested):
        raise InputError("folds must be one or more (train, test) pairs whose test rows do not overlap")
    return Folds(tuple(splits), "given")


def _score_regions(
    region: dict[str, np.ndarray], i: int, r: np.ndarray, prediction: np.ndarray, Y: np.ndarray, design: _Design,
    roi: np.ndarray, n_bootstrap: int, seed: int,
) -> None:  # fmt: skip
    n_regions = region["r"].shape[1]
    for j in range(n_regions):
        scores = r[:, roi == j].mean(axis=0)
        if np.isfinite(scores).any():
            region["r"][i, j] = np.nanmean(scores)
    if n_bootstrap:
        draws = bootstrap_correlation(
            prediction, Y, design.outer, roi, n_bootstrap=n_bootstrap, blocks=design.blocks, seed=seed
        )
        region["low"][i], region["high"][i] = np.quantile(draws, [0.025, 0.975], axis=0)


def _result(
    activations: Activations, responses: BrainResponses, names: list[str], design: _Design, r: np.ndarray,
    alpha: np.ndarray, edge: np.ndarray, region: dict[str, np.ndarray], regions: list[str], roi: np.ndarray,
    usable: np.ndarray, options: dict[str, Any],
) -> Encoding:  # fmt: skip
    ceiling = np.asarray(responses.data["ceiling"].values, dtype=float)

    def mean_ceiling(j: int) -> float:
        values = ceiling[(roi == j) & usable]
        return float(values.mean()) if values.size else np.nan  # known for all of a region's voxels, or not known

    fields = {key: value for key, value in activations.provenance.items() if key not in ("versions", "stimuli")}
    brain = {key: value for key, value in responses.provenance.items() if key != "versions"}
    options = {
        **options,
        "folds": design.outer.scheme,
        "n_folds": len(design.outer),
        "inner_folds": design.inner_folds,
        "gap": design.gap,
        "n_groups": len(np.unique(design.groups)),
        "permutation_scheme": design.exchange,
        "interval": "95 % bootstrap over stimuli",
        "dtype": "float64",
        "blas_threads": 1,
        "n_unusable_voxels": int((~usable).sum()),
        "share_at_lowest_alpha": dict(zip(names, edge[:, 0].round(4).tolist(), strict=True)),
        "share_at_highest_alpha": dict(zip(names, edge[:, 1].round(4).tolist(), strict=True)),
    }
    data = xr.Dataset(
        {
            "r": (("layer", "fold", "voxel"), r),
            "alpha": (("layer", "fold", "voxel"), alpha),
            "ceiling": (("voxel",), ceiling),
            **{f"region_{name}": (("layer", "region"), array) for name, array in region.items()},
            "region_ceiling": (("region",), np.array([mean_ceiling(j) for j in range(len(regions))])),
            "test_fold": (("stimulus",), design.outer.test_fold(len(design.groups))),
            "group": (("stimulus",), design.groups),
            "region_voxels": (("region",), np.array([int((usable & (roi == j)).sum()) for j in range(len(regions))])),
        },
        coords={
            "layer": ("layer", np.array(names, dtype=object)),
            "fold": ("fold", np.arange(r.shape[1])),
            "region": ("region", np.array(regions, dtype=object)),
            "stimulus": ("stimulus", responses.labels("stimulus")),
            **{
                str(name): ("voxel", coord.values)
                for name, coord in responses.data.coords.items()
                if coord.dims == ("voxel",) and name != "ceiling"
            },
        },
        attrs=Encoding.attributes({**fields, "responses": brain, "encoding": options}),
    )
    return Encoding(data)
