"""estimate_ceiling: how well could any model predict these responses?"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from topobrain._checks import InputError, listed, require_choice
from topobrain.activations import stimuli_fields
from topobrain.encoding.cross_validation import FoldChoice, make_design
from topobrain.encoding.parts import scorable, without_unusable
from topobrain.encoding.scoring import ALPHAS
from topobrain.responses import BrainResponses
from topobrain.stats.ceiling import inter_subject_correlation, noise_ceiling, split_half
from topobrain.stats.folds import duplicate_groups
from topobrain.stats.ridge import nested_ridge

METHODS = ("repeats", "split-half", "leave-one-subject-out", "across-subjects")

Method = Literal["repeats", "split-half", "leave-one-subject-out", "across-subjects"]


class _Estimate(NamedTuple):
    """Ceilings of the voxels that come back, what else is known of them, and how they were made."""

    responses: BrainResponses
    ceiling: np.ndarray
    coords: dict[str, np.ndarray]
    fields: dict[str, Any]


def estimate_ceiling(
    responses: BrainResponses,
    *,
    method: Method,
    over: Literal["repeats", "subjects"] = "repeats",
    average: bool = False,
    match: str | None = None,
    n_splits: int = 1000,
    folds: FoldChoice = "auto",
    n_folds: int = 5,
    inner_folds: int = 5,
    gap: int | None = None,
    allow_duplicates: bool = False,
    alphas: Sequence[float] | np.ndarray = ALPHAS,
    seed: int = 0,
) -> BrainResponses:
    """Estimate the noise ceiling of every voxel and fill it in.

    A ceiling belongs to the values that are to be predicted: that of single trials is lower than that of their mean.
    So the ceiling is that of the rows and voxels that come back, which are those given unless ``average`` is set.

    Parameters
    ----------
    responses
        Responses (stimulus, voxel), with repeated stimuli or several subjects.
    method
        ``"repeats"``: variance over repeats against variance over stimuli (`topobrain.stats.noise_ceiling`).
        ``"split-half"``: agreement of halves of the repeats, lengthened by Spearman-Brown (`split_half`).
        ``"leave-one-subject-out"``: correlation of each subject with the mean of the others, a lower bound; the
        correlation with the mean of all, an upper bound, comes along as the voxel coordinate ``ceiling_upper``
        (`inter_subject_correlation`).
        ``"across-subjects"``: held-out correlation of each subject's voxels with what ridge regression predicts from
        all voxels of the other subjects in response to the same stimuli: a model of the brain that is other brains.
    over
        What counts as a repeat for the first two methods: rows with equal text, or subjects.
    average
        Average over these repeats, and return the means with their ceiling: one row a stimulus, or one subject named
        ``"group"``.
    match
        Voxel coordinate by which the voxels of subjects correspond (``"vertex"``, ...), once a subject. Without it the
        n-th voxel of an ROI corresponds to the n-th voxel of that ROI, which is right for ROI averages and for voxels
        listed in the order of a common space.
    n_splits
        Splits of ``"split-half"``: all if there are no more, else so many random ones.
    folds, n_folds, inner_folds, gap, allow_duplicates, alphas
        Of ``"across-subjects"``, as in `encode`: give those of the encoding whose ceiling it is.
    seed
        Seed of random splits and shuffled folds.

    Returns
    -------
    BrainResponses
        With ``ceiling`` filled in: NaN where it is negative (counted in the provenance under ``noise_ceiling``) or
        cannot be estimated. The methods that compare subjects keep negative values in the voxel coordinate
        ``ceiling_raw``: means over voxels are to be taken of these.

    Raises
    ------
    InputError
        No repeated stimuli, fewer than two subjects, voxels that do not correspond.

    References
    ----------
    Allen et al. (2022), Nat. Neurosci. 25:116; Nili et al. (2014), PLoS Comput. Biol. 10:e1003553; Schrimpf et al.
    (2021), PNAS 118:e2105646118 (prediction from other subjects).
    """
    require_choice("method", method, METHODS)
    require_choice("repeats", over, ("repeats", "subjects"))
    if average and method not in ("repeats", "split-half"):
        raise InputError(f"average=True goes with the methods 'repeats' and 'split-half', not with {method!r}")
    if method == "leave-one-subject-out":
        made = _inter_subject(responses, match)
    elif method == "across-subjects":
        options = {
            "folds": folds, "n_folds": n_folds, "inner_folds": inner_folds, "gap": gap,
            "allow_duplicates": allow_duplicates, "seed": seed,
        }  # fmt: skip
        made = _across_subjects(responses, alphas, options)
    else:
        made = _from_repeats(responses, method, over, average, match, n_splits, seed)
    negative = made.ceiling < 0
    ceiling = np.where(negative, np.nan, made.ceiling)
    fields = {"method": method, **made.fields}
    fields["n_negative"] = int(negative.sum()) + int(made.fields.get("n_negative", 0))
    fields["n_unknown"] = int(np.isnan(ceiling).sum())
    coords = {"ceiling": ceiling, **made.coords}
    data = made.responses.data.assign_coords({name: ("voxel", values) for name, values in coords.items()})
    data.attrs = {
        **data.attrs,
        **BrainResponses.attributes({**made.responses.provenance, "noise_ceiling": fields}),
    }
    return BrainResponses(data)


def _from_repeats(
    responses: BrainResponses, method: str, over: str, average: bool, match: str | None, n_splits: int, seed: int
) -> _Estimate:
    if over == "subjects":
        stacked, column = _by_subject(responses, match)
        back = _group(responses, stacked, column) if average else responses
        place = np.arange(stacked.shape[2]) if average else column
    else:
        stacked, first = _by_text(responses)
        back = _mean_rows(responses, stacked, first) if average else responses
        place = np.arange(stacked.shape[2])
    if method == "split-half":
        stacked = _even(stacked)
    averaged = None if average else 1
    fields: dict[str, Any] = {"over": over, "n_repeats": len(stacked), "n_stimuli": stacked.shape[1], "of": "means"}
    if not average:
        fields["of"] = "single trials" if over == "repeats" else "single subjects"
    if method == "repeats":
        return _Estimate(back, noise_ceiling(stacked, averaged=averaged)[place], {}, fields)
    halves = split_half(stacked, n_splits=n_splits, seed=seed, averaged=averaged)
    fields |= {"n_splits": halves.n_splits, "exact": halves.exact, "seed": seed}
    fields["n_negative"] = int((halves.reliability[place] < 0).sum())
    return _Estimate(back, halves.ceiling[place], {}, fields)


def _by_text(responses: BrainResponses) -> tuple[np.ndarray, np.ndarray]:
    """Return rows with equal text as (repeat, stimulus, voxel), filled up with NaN, and each stimulus's first row."""
    if responses.design == "timeseries":
        raise InputError("volumes of a time series with equal texts are no repeats of a stimulus: use over='subjects'")
    codes = duplicate_groups(responses.labels("text").tolist())
    counts = np.bincount(codes)
    if counts.max() < 2:
        raise InputError(
            f"none of {len(codes)} stimuli is repeated (has the text of another row): nothing tells signal from noise"
        )
    order = np.argsort(codes, kind="stable")
    rank = np.empty(len(codes), dtype=int)
    rank[order] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    stacked = np.full((counts.max(), len(counts), responses.data.sizes["voxel"]), np.nan)
    stacked[rank, codes] = responses.values
    return stacked, np.flatnonzero(rank == 0)


def _even(stacked: np.ndarray) -> np.ndarray:
    """Return the stimuli that were repeated, each as often as the least repeated of them."""
    given = (~np.isnan(stacked)).any(axis=2).sum(axis=0)
    return stacked[: given[given >= 2].min(initial=len(stacked)), given >= 2]


def _mean_rows(responses: BrainResponses, stacked: np.ndarray, first: np.ndarray) -> BrainResponses:
    given = np.isfinite(stacked)
    with np.errstate(invalid="ignore"):
        mean = np.where(given, stacked, 0.0).sum(axis=0) / given.sum(axis=0)
    data = responses.data[["value"]].isel(stimulus=first)
    data = data.assign(value=(("stimulus", "voxel"), mean))
    data.attrs = dict(responses.data.attrs)
    shown = stimuli_fields(BrainResponses(data).stimuli)
    data.attrs.update(BrainResponses.attributes({**responses.provenance, "stimuli": shown}))
    return BrainResponses(data)


def _by_subject(responses: BrainResponses, match: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return responses as (subject, stimulus, column), NaN where a subject lacks one, and each voxel's column."""
    subjects, owner = responses.subjects, responses.labels("subject")
    if len(subjects) < 2:
        raise InputError(f"this ceiling compares subjects, and the responses have {len(subjects)}: {listed(subjects)}")
    roi = responses.labels("roi")
    keys: list[Hashable] = []
    if match is None:
        seen: dict[tuple[str, str], int] = {}
        for label in zip(owner.tolist(), roi.tolist(), strict=True):
            seen[label] = seen.get(label, -1) + 1
            keys.append((label[1], seen[label]))
        for region in responses.rois:
            sizes = {subject: seen.get((subject, region), -1) + 1 for subject in subjects}
            if len(set(sizes.values())) > 1:
                counted = listed(f"{subject}: {size}" for subject, size in sizes.items())
                raise InputError(
                    f"subjects have different numbers of voxels in ROI {region!r} ({counted}), so their order does not "
                    "tell which correspond: name a voxel coordinate of a common space with match="
                )
    else:
        keys = list(responses.labels(match).tolist())
        if responses.data[match].dims != ("voxel",):
            raise InputError(
                f"match={match!r} is no coordinate of voxels: it has the axes {responses.data[match].dims}"
            )
        for subject in subjects:
            own = [key for key, of in zip(keys, owner, strict=True) if of == subject]
            if len(set(own)) < len(own):
                raise InputError(
                    f"subject {subject!r} has several voxels with the same {match!r}: they cannot be told apart"
                )
    column = duplicate_groups(keys) if match is None else np.unique(np.array(keys), return_inverse=True)[1]
    stacked = np.full((len(subjects), responses.data.sizes["stimulus"], int(column.max()) + 1), np.nan)
    number = np.array([subjects.index(subject) for subject in owner])
    stacked[number, :, column] = responses.values.T
    return stacked, column


def _group(responses: BrainResponses, stacked: np.ndarray, column: np.ndarray) -> BrainResponses:
    """Return the mean over subjects of corresponding voxels."""
    given = np.isfinite(stacked)
    with np.errstate(invalid="ignore"):
        mean = np.where(given, stacked, 0.0).sum(axis=0) / given.sum(axis=0)
    first = np.unique(column, return_index=True)[1]
    data = responses.data[["value"]].isel(voxel=first)
    data.attrs = dict(responses.data.attrs)
    data = data.assign(value=(("stimulus", "voxel"), mean))
    return BrainResponses(
        data.assign_coords(
            subject=("voxel", np.full(len(first), "group", dtype=object)), voxel=("voxel", np.arange(len(first)))
        )
    )


def _inter_subject(responses: BrainResponses, match: str | None) -> _Estimate:
    stacked, column = _by_subject(responses, match)
    found = inter_subject_correlation(stacked)
    subjects = responses.subjects
    number = np.array([subjects.index(subject) for subject in responses.labels("subject")])
    upper = found.upper[number, column]
    return _Estimate(
        responses,
        found.lower[number, column],
        {"ceiling_raw": found.lower[number, column], "ceiling_upper": upper},
        {"n_subjects": len(subjects), "match": match or "order in the ROI", "of": "single subjects, lower bound"},
    )


def _across_subjects(
    responses: BrainResponses, alphas: Sequence[float] | np.ndarray, options: dict[str, Any]
) -> _Estimate:
    subjects, owner = responses.subjects, responses.labels("subject")
    if len(subjects) < 2:
        raise InputError(f"this ceiling compares subjects, and the responses have {len(subjects)}: {listed(subjects)}")
    Y = responses.values
    design = make_design(responses, np.arange(len(Y)), **options)
    usable = scorable(Y, design)
    inner = design.inner_splits if np.unique(np.asarray(alphas)).size > 1 else [()] * len(design.outer)
    ceiling = np.full(Y.shape[1], np.nan)
    for subject in subjects:
        own = owner == subject
        others = Y[:, ~own & usable]
        if others.shape[1] == 0 or not usable[own].any():
            continue
        fit = nested_ridge(
            others, without_unusable(Y[:, own], usable[own]),
            alphas=alphas, outer=design.outer.splits, inner=inner, standardize=True,
        )  # fmt: skip
        ceiling[own] = np.asarray(fit.r).mean(axis=0)
    fields = {
        "n_subjects": len(subjects), "folds": design.outer.scheme, "n_folds": len(design.outer), "gap": design.gap,
        "inner_folds": design.inner_folds, "alphas": np.unique(np.asarray(alphas, dtype=float)).tolist(),
        "of": "single subjects, predicted from the others", "seed": options["seed"],
        "allow_duplicates": options["allow_duplicates"],
    }  # fmt: skip
    return _Estimate(responses, ceiling, {"ceiling_raw": ceiling}, fields)
