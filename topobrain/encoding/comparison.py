"""compare: does one model predict the brain better than another, and does that hold across subjects?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import xarray as xr

from topobrain._checks import InputError, listed, unknown
from topobrain.encoding.assembling import OVER_GROUPS
from topobrain.encoding.result import Encoding
from topobrain.results import Result
from topobrain.stats.contrast import fdr_bh
from topobrain.stats.group_tests import (
    Scale,
    SignFlip,
    bootstrap_subjects,
    percentile_interval,
    sign_flip_test,
    t_interval,
)

if TYPE_CHECKING:
    import pandas as pd

MIN_SUBJECTS = 5
"""Fewer subjects have fewer than 32 sign patterns: no p below 0.05 on two sides."""

BEST = "best"

PER_REGION = ("r_a", "r_b", "difference", "low", "high", "p", "p_max", "q")
PER_SUBJECTS = ("mean", "low", "high", "t", "p", "p_max", "q")

SAME_OPTIONS = ("folds", "n_folds", "gap", "targets", "n_bootstrap", "seed", "responses_sha256")
"""What two encodings must share, besides their labels, for their scores and draws to be paired."""

OWN_FIELDS = ("versions", "noise_ceiling")
"""Provenance of responses that may differ: no difference of scores depends on it."""


class Comparison(Result):
    """Differences in score of two fits on the same responses, folds and stimuli: first minus second.

    ``r_a r_b difference low high p p_max q (layer, region)``: scores of both, their difference, its 95 % bootstrap
    interval over stimuli (both models scored on the same drawn stimuli), a two-sided bootstrap p, the family-wise p
    over the regions of a row, and Benjamini-Hochberg q over them. Where a fold holds out a single group, a t interval
    over folds and a sign-flip test over folds instead. ``subject_difference (layer, subject, region)``, and
    where a region has at least five subjects ``subjects_mean subjects_low subjects_high subjects_t subjects_p
    subjects_p_max subjects_q (layer, region)``: their mean with a bootstrap interval over subjects, and a two-sided
    sign-flip test. ``layer_a layer_b (layer)`` name what was compared.
    """

    kind: ClassVar[str] = "comparison"
    schema: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **dict.fromkeys(PER_REGION, ("layer", "region")),
        "subject_difference": ("layer", "subject", "region"),
        **{f"subjects_{name}": ("layer", "region") for name in PER_SUBJECTS},
        "layer_a": ("layer",),
        "layer_b": ("layer",),
    }

    def summary(self) -> pd.DataFrame:
        """Return one row a pair of layers and ROI, with all that was tested."""
        import pandas as pd

        names = (*PER_REGION, *(f"subjects_{name}" for name in PER_SUBJECTS))
        rows = []
        for i in range(self.data.sizes["layer"]):
            for j, region in enumerate(self.labels("region")):
                labels = {side: str(self.data[side].values[i]) for side in ("layer_a", "layer_b")}
                values = {name: float(self.data[name].values[i, j]) for name in names}
                rows.append({**labels, "roi": region, **values})
        return pd.DataFrame(rows)


def compare(
    a: Encoding,
    b: Encoding,
    *,
    layer: tuple[str, str] | Literal["best"] | None = None,
    names: tuple[str, str] = ("a", "b"),
    scale: Scale = "raw",
    n_flips: int = 10_000,
    seed: int = 0,
) -> Comparison:
    r"""Compare two fits that were scored on the same responses, stimuli, folds and seed.

    The comparison is of these fits: interval and p cover the sampling of held-out stimuli, not that of training stimuli.
    Two models that are equally good at large differ once they are fitted to one training set, and the more so the more
    features there are for a stimulus: with as many features as stimuli (200 of each), 15 to 20 % of such pairs had p of
    .05 or less; with 300 stimuli and 5 features, 6 %. A small p says that the first fit predicts other stimuli
    better than the second, not that its model would after training on other stimuli.

    Both results hold their scores in bootstrap draws of the test stimuli; with the same seed and folds, draw by draw
    they are of the same stimuli. So the differences of the draws give an interval of the difference, in which the
    difficulty of stimuli that both models share cancels. The two-sided p counts how often the draws, centred on the
    observed difference :math:`d`, lie as far out: :math:`p = (1 + \#\{|d^* - d| \ge |d|\}) / (1 + n)`; for the
    family-wise p, :math:`|d^* - d|` and :math:`|d|` are divided by the draws' standard deviation and the largest over
    regions counts.

    Where a fold holds out a single group (leave one run out), its stimuli are not drawn and the folds' differences are
    what varies: the interval is Student's over folds (NaN with fewer than three), p and p_max a two-sided sign-flip test
    over folds, all k folds' signs exchangeable. With k folds p is no less than :math:`2^{1-k}`: .25 with three, .0625
    with five. Six folds are the fewest that can give p of .05 or less.

    Parameters
    ----------
    a, b
        Results of `encode` with ``n_bootstrap`` above 0. The difference is ``a`` minus ``b``.
    layer
        A layer of each; ``"best"``: for every fold and region the layers chosen inside the training stimuli; None: each
        layer with its namesake, or the only layer of each.
    names
        What to call the two in the table and the provenance.
    scale
        ``"fisher-z"`` tests differences of Fisher's z over subjects instead of differences of r.
    n_flips
        Sign patterns of the tests over subjects and over folds: all if there are no more.
    seed
        Seed of random sign patterns and of the bootstrap over subjects.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        The two differ in stimuli, responses, folds, groups, bootstrap draws or seed (named), or a layer must be chosen.
    """
    _same_study(a, b)
    pairs, labels = _pairs(a, b, layer)
    regions = a.regions
    shape = (len(pairs), len(regions))
    found = {name: np.full(shape, np.nan) for name in PER_REGION}
    of_subjects = {name: np.full(shape, np.nan) for name in PER_SUBJECTS}
    over_folds = _over_groups(a)
    subjects = list(dict.fromkeys(a.labels("subject").tolist()))
    by_subject = np.full((len(pairs), len(subjects), len(regions)), np.nan)
    for i, (first, second) in enumerate(pairs):
        found["r_a"][i], draws_a = _scores(a, first)
        found["r_b"][i], draws_b = _scores(b, second)
        found["difference"][i] = found["r_a"][i] - found["r_b"][i]
        if over_folds:
            by_fold = _fold_scores(a, first) - _fold_scores(b, second)
            found["low"][i], found["high"][i] = t_interval(by_fold)
            if len(by_fold) > 1:
                flips = sign_flip_test(by_fold, n_flips=n_flips, seed=seed)
                found["p"][i], found["p_max"][i] = flips.p, flips.p_max
        else:
            draws = (draws_a - draws_b).T  # (draw, region)
            found["low"][i], found["high"][i] = percentile_interval(draws)
            found["p"][i], found["p_max"][i] = _bootstrap_p(found["difference"][i], draws)
        found["q"][i] = fdr_bh(found["p"][i])
        table_a, table_b = _subject_scores(a, first, scale), _subject_scores(b, second, scale)
        by_subject[i] = table_a - table_b
        for name, values in _over_subjects(by_subject[i], n_flips=n_flips, seed=seed).items():
            of_subjects[name][i] = values
    data = xr.Dataset(
        {
            **{name: (("layer", "region"), values) for name, values in found.items()},
            "subject_difference": (("layer", "subject", "region"), by_subject),
            **{f"subjects_{name}": (("layer", "region"), values) for name, values in of_subjects.items()},
        },
        coords={
            "layer": ("layer", np.array(labels, dtype=object)),
            "layer_a": ("layer", np.array([BEST if one is None else one for one, _ in pairs], dtype=object)),
            "layer_b": ("layer", np.array([BEST if other is None else other for _, other in pairs], dtype=object)),
            "region": ("region", np.array(regions, dtype=object)),
            "subject": ("subject", np.array(subjects, dtype=object)),
        },
        attrs=Comparison.attributes(
            {
                "a": {"name": names[0], **_without_versions(a)},
                "b": {"name": names[1], **_without_versions(b)},
                "comparison": {
                    "scale": scale, "n_flips": n_flips, "seed": seed, "min_subjects": MIN_SUBJECTS,
                    "difference": f"{names[0]} - {names[1]}",
                    "interval": OVER_GROUPS if over_folds else "95 % paired bootstrap over stimuli",
                    "test": "sign flips over held-out groups" if over_folds else "paired bootstrap over stimuli",
                    "covers": "the sampling of held-out stimuli, not of training stimuli",
                },
            }
        ),
    )  # fmt: skip
    return Comparison(data)


def group_scores(
    encoding: Encoding, *, scale: Scale = "raw", n_flips: int = 10_000, n_bootstrap: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """Return scores over subjects: does each layer predict each region in people at large?

    Each subject's score in a region is the mean over folds and its voxels there. The family-wise p takes the largest t
    over all layers and regions.

    Parameters
    ----------
    encoding
        A result over voxels of several subjects.
    scale
        ``"fisher-z"`` tests and averages Fisher's z; means are turned back to r.
    n_flips
        Sign patterns of the one-sided sign-flip test: all if there are no more.
    n_bootstrap
        Draws of subjects for the 95 % interval.
    seed
        Seed of random sign patterns and draws.

    Returns
    -------
    DataFrame
        One row a layer and ROI: ``layer roi n_subjects r low high t p p_max q``; the test is NaN with fewer than five
        subjects.
    """
    import pandas as pd

    tables = [_subject_scores(encoding, layer, scale) for layer in encoding.layers]
    n_subjects, n_regions = tables[0].shape
    wide = np.concatenate(tables, axis=1)  # all layers and regions of a subject flip together
    if n_subjects < 2:
        raise InputError(f"this needs several subjects, and the result has {n_subjects}")
    found = _over_subjects(wide, n_flips=n_flips, seed=seed, n_bootstrap=n_bootstrap, alternative="greater")
    back = np.tanh if scale == "fisher-z" else np.asarray
    rows = []
    for i, layer in enumerate(encoding.layers):
        for j, region in enumerate(encoding.regions):
            place = i * n_regions + j
            rows.append(
                {
                    "layer": layer,
                    "roi": region,
                    "n_subjects": int(np.isfinite(wide[:, place]).sum()),
                    "r": float(back(found["mean"][place])),
                    "low": float(back(found["low"][place])),
                    "high": float(back(found["high"][place])),
                    **{name: float(found[name][place]) for name in ("t", "p", "p_max", "q")},
                }
            )
    return pd.DataFrame(rows)


def _same_study(a: Encoding, b: Encoding) -> None:
    """Raise, naming what differs, unless the scores of two results are paired."""
    differs = []
    for name, what in (("stimulus", "stimuli"), ("region", "regions"), ("subject", "subjects of voxels")):
        if not np.array_equal(a.labels(name), b.labels(name)):
            differs.append(f"{what} ({listed(a.labels(name), 3)} against {listed(b.labels(name), 3)})")
    roi_a, roi_b = a.labels("roi"), b.labels("roi")
    if roi_a.shape != roi_b.shape:
        differs.append(f"voxels ({len(roi_a)} against {len(roi_b)})")
    elif not np.array_equal(roi_a, roi_b):
        differs.append("ROIs of voxels")
    for name, what in (("test_fold", "folds"), ("group", "groups"), ("region_voxels", "usable voxels of regions")):
        if not np.array_equal(a.data[name].values, b.data[name].values):
            differs.append(what)
    options_a, options_b = (one.provenance.get("encoding", {}) for one in (a, b))
    for name in SAME_OPTIONS:
        if options_a.get(name) != options_b.get(name):
            differs.append(f"{name} ({options_a.get(name)!r} against {options_b.get(name)!r})")
    brain_a, brain_b = (dict(one.provenance.get("responses", {})) for one in (a, b))
    for name in sorted(set(brain_a) | set(brain_b)):
        if name not in OWN_FIELDS and brain_a.get(name) != brain_b.get(name):
            differs.append(f"responses (their {name})")
    if differs:
        raise InputError(f"the two results cannot be compared, they differ in: {'; '.join(differs)}")
    if not a.data.sizes.get("draw", 0):
        raise InputError("the results hold no bootstrap draws: encode with n_bootstrap above 0")


def _pairs(
    a: Encoding, b: Encoding, layer: tuple[str, str] | str | None
) -> tuple[list[tuple[str | None, str | None]], list[str]]:
    """Return the layers to compare (None stands for those chosen inside the training folds) and a label for each pair."""
    if layer == BEST:
        for side, result in (("first", a), ("second", b)):
            if not np.isfinite(result.data["best_r"].values).any():
                raise InputError(
                    f"the {side} result chose no layer inside its training folds (one penalty leaves no inner score)"
                )
        return [(None, None)], [BEST]
    if layer is None:
        if a.layers == b.layers:
            return [(name, name) for name in a.layers], a.layers
        if len(a.layers) == len(b.layers) == 1:
            layer = (a.layers[0], b.layers[0])
        else:
            raise InputError(
                f"the results have different layers ({listed(a.layers, 4)} against {listed(b.layers, 4)}): "
                "name a pair, layer=(of the first, of the second), or take layer='best'"
            )
    if isinstance(layer, str) or len(layer) != 2:
        raise InputError(f"layer must be a pair (of the first, of the second), 'best' or None, got {layer!r}")
    for name, result in zip(layer, (a, b), strict=True):
        if name not in result.layers:
            raise unknown("layer", name, result.layers)
    first, second = layer
    return [(first, second)], [first if first == second else f"{first} - {second}"]


def _scores(encoding: Encoding, layer: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return a layer's scores (region,) and draws (region, draw)."""
    if layer is None:
        r, draws = encoding.data["best_r"].values, encoding.data["best_draws"].values
    else:
        row = encoding.layers.index(layer)
        r, draws = encoding.data["region_r"].values[row], encoding.data["region_draws"].values[row]
    return np.asarray(r, dtype=np.float64), np.asarray(draws, dtype=np.float64)


def _over_groups(encoding: Encoding) -> bool:
    """Return whether each fold of a result holds out a single group, so that folds are what varies."""
    return str(encoding.provenance.get("encoding", {}).get("interval", "")).endswith("held-out groups")


def _voxel_scores(encoding: Encoding, layer: str | None) -> np.ndarray:
    """Return r of a layer, or of the layers chosen inside the training folds (fold, voxel); NaN without a choice."""
    r = np.asarray(encoding.data["r"].values)
    if layer is not None:
        return np.asarray(r[encoding.layers.index(layer)])
    found, roi, folds = np.full(r.shape[1:], np.nan), encoding.labels("roi"), np.arange(r.shape[1])
    for j, region in enumerate(encoding.regions):
        chosen = [str(name) for name in encoding.data["best_layer"].values[:, j]]
        if all(chosen):
            inside = roi == region
            found[:, inside] = r[[encoding.layers.index(name) for name in chosen], folds][:, inside]
    return found


def _fold_scores(encoding: Encoding, layer: str | None) -> np.ndarray:
    """Return each fold's mean r over the usable voxels of each region (fold, region); NaN without one."""
    r, roi = _voxel_scores(encoding, layer), encoding.labels("roi")
    scored = np.isfinite(r).all(axis=0)
    table = np.full((len(r), len(encoding.regions)), np.nan)
    for j, region in enumerate(encoding.regions):
        inside = scored & (roi == region)
        if inside.any():
            table[:, j] = r[:, inside].mean(axis=1)
    return table


def _subject_scores(encoding: Encoding, layer: str | None, scale: Scale) -> np.ndarray:
    """Return each subject's mean r in each region (subject, region), as Fisher's z where asked for; NaN without voxels."""
    regions, owner, roi = encoding.regions, encoding.labels("subject"), encoding.labels("roi")
    mean = _voxel_scores(encoding, layer).mean(axis=0)
    subjects = list(dict.fromkeys(owner.tolist()))
    table = np.full((len(subjects), len(regions)), np.nan)
    for i, subject in enumerate(subjects):
        for j, region in enumerate(regions):
            values = mean[(owner == subject) & (roi == region)]
            if np.isfinite(values).any():
                table[i, j] = np.nanmean(values)
    if scale == "fisher-z":
        if (np.abs(table) >= 1).any():
            raise InputError("Fisher's z needs correlations between -1 and 1, ends excluded")
        return np.asarray(np.arctanh(table))
    return table


def _bootstrap_p(difference: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two-sided p and family-wise p (region,) from draws (draw, region) centred on the observed differences."""
    told = np.isfinite(difference) & np.isfinite(draws).all(axis=0)
    p, p_max = np.full((2, len(difference)), np.nan)
    if not told.any():
        return p, p_max
    away = np.abs(draws[:, told] - difference[told])
    size = np.abs(difference[told])
    spread = draws[:, told].std(axis=0)
    n = len(draws)
    p[told] = (1 + (away >= size).sum(axis=0)) / (1 + n)
    with np.errstate(invalid="ignore", divide="ignore"):  # without spread, nothing or everything is far out
        largest = np.nanmax(np.where(spread > 0, away / spread, 0.0), axis=1)
        relative = np.where(spread > 0, size / spread, np.where(size > 0, np.inf, 0.0))
    p_max[told] = (1 + (largest[:, None] >= relative).sum(axis=0)) / (1 + n)
    return p, p_max


def _over_subjects(
    table: np.ndarray,
    *,
    n_flips: int,
    seed: int,
    n_bootstrap: int = 10_000,
    alternative: Literal["two-sided", "greater", "less"] = "two-sided",
) -> dict[str, np.ndarray]:
    """Return mean, interval and sign-flip test of each column with enough subjects, NaN elsewhere."""
    found = {name: np.full(table.shape[1], np.nan) for name in PER_SUBJECTS}
    enough = np.isfinite(table).sum(axis=0) >= MIN_SUBJECTS
    counted = np.isfinite(table).sum(axis=0) >= 2
    if counted.any():
        draws = bootstrap_subjects(table[:, counted], n_bootstrap=n_bootstrap, seed=seed)
        found["mean"][counted] = np.nanmean(table[:, counted], axis=0)
        found["low"][counted], found["high"][counted] = percentile_interval(draws)
    if enough.any():
        test: SignFlip = sign_flip_test(table[:, enough], alternative=alternative, n_flips=n_flips, seed=seed)
        for name in ("t", "p", "p_max", "q"):
            found[name][enough] = getattr(test, name)
    return found


def _without_versions(encoding: Encoding) -> dict[str, Any]:
    return {key: value for key, value in encoding.provenance.items() if key != "versions"}
