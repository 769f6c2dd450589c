"""encode: score every layer of a model on brain responses."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from topobrain._checks import InputError
from topobrain.activations import Activations
from topobrain.encoding.assembling import assemble, region_numbers
from topobrain.encoding.cross_validation import Design, FoldChoice, make_design
from topobrain.encoding.matching import (
    chosen_layers,
    chosen_voxels,
    equal_rows,
    layer_features,
    match_stimuli,
    row_keys,
    unit_mask,
)
from topobrain.encoding.parts import Part, PartOptions, scorable, score_part, splits_for, without_unusable
from topobrain.encoding.result import Encoding
from topobrain.responses import BrainResponses
from topobrain.stats.ridge import check_alphas, nested_ridge_layers

if TYPE_CHECKING:
    from jaxtyping import Bool

ALPHAS = tuple(float(a) for a in np.logspace(-1, 7, 17))
"""Default penalties, for standardised features: from almost none to almost constant predictions."""

FEW_STIMULI = 10
"""Fewer test stimuli in a fold are warned of: the standard error of r is a third."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Study:
    """An encoding study before anything is fitted: what every layer and voxel shares.

    Attributes
    ----------
    layers
        The layers to score.
    rows
        For each stimulus of the responses, its row in the activations.
    mask
        Which units predict, over all units.
    responses
        The responses to score.
    design
        Folds and groups.
    options
        What decides the numbers.
    further
        Options to keep with the result that are spent already (targets, ...).
    """

    layers: list[str]
    rows: np.ndarray
    mask: np.ndarray
    responses: BrainResponses
    design: Design
    options: PartOptions
    further: dict[str, Any]


def prepare(
    activations: Activations,
    responses: BrainResponses,
    *,
    layers: Sequence[str] | str | None = None,
    alphas: Sequence[float] | np.ndarray = ALPHAS,
    folds: FoldChoice = "auto",
    n_folds: int = 5,
    inner_folds: int = 5,
    targets: Mapping[str, Any] | None = None,
    units: np.ndarray | None = None,
    gap: int | None = None,
    allow_duplicates: bool = False,
    seed: int = 0,
    **options: Any,
) -> Study:
    """Match stimuli, choose layers and voxels, and make the folds of an encoding study; nothing is fitted.

    Parameters are those of `encode`; ``options`` are those of `PartOptions`.

    Raises
    ------
    InputError
        Whatever makes the study impossible: differing stimuli, leaking folds, impossible options.
    """
    require_inputs(activations, responses)
    responses = chosen_voxels(responses, targets)
    counts = {name: options.get(name, 0) for name in ("n_bootstrap", "n_permutations")} | {"seed": seed}
    if min(counts.values()) < 0:
        raise InputError(
            f"n_bootstrap, n_permutations and seed must be 0 or more; got {', '.join(map(str, counts.values()))}"
        )
    names = chosen_layers(activations, layers)
    rows = match_stimuli(activations, responses)
    mask = unit_mask(activations, units)
    grid = check_alphas(alphas)
    keys = [row_keys(layer_features(activations, layer, rows, mask)) for layer in names]
    repeats = np.arange(len(rows)) if allow_duplicates else equal_rows(keys)
    design = make_design(
        responses, repeats, folds,
        n_folds=n_folds, inner_folds=inner_folds, gap=gap, allow_duplicates=allow_duplicates, seed=seed,
    )  # fmt: skip
    further = {
        "targets": dict(targets or {}),
        "n_units_used": int(mask.sum()),
        "allow_duplicates": allow_duplicates,
        "duplicate_feature_rows": {name: len(rows) - len(set(key)) for name, key in zip(names, keys, strict=True)},
    }
    made = PartOptions(alphas=tuple(grid.tolist()), seed=seed, **options)
    return Study(names, rows, mask, responses, design, made, further)


def require_inputs(activations: Any, responses: Any) -> None:
    """Raise unless activations come first and brain responses second."""
    if isinstance(activations, BrainResponses) and isinstance(responses, Activations):
        raise InputError("activations come first, brain responses second")
    if not isinstance(activations, Activations):
        raise InputError(
            f"expected Activations, got {type(activations).__name__}: make them with tb.extract(model, responses.stimuli), or "
            "from arrays with Activations.from_arrays({'layer': values}, responses.stimuli)"
        )
    if not isinstance(responses, BrainResponses):
        raise InputError(f"expected BrainResponses, got {type(responses).__name__}: tb.load_responses reads them")


def tell_small_folds(design: Design) -> None:
    """Warn where a fold tests so few stimuli that its correlation says little."""
    small = min(len(test) for _, test in design.outer)
    if small < FEW_STIMULI:
        warnings.warn(
            f"a fold tests {small} stimuli: r of so few swings widely by chance, and the interval does not cover all of that; "
            "permutations (n_permutations) tell what chance gives",
            stacklevel=3,
        )


def encode(
    activations: Activations,
    responses: BrainResponses,
    *,
    layers: Sequence[str] | str | None = None,
    alphas: Sequence[float] | np.ndarray = ALPHAS,
    folds: FoldChoice = "auto",
    n_folds: int = 5,
    inner_folds: int = 5,
    selection: Literal["kfold", "gcv", "loo"] = "kfold",
    standardize: bool = True,
    targets: Mapping[str, Any] | None = None,
    units: Bool[np.ndarray, " unit"] | None = None,
    gap: int | None = None,
    n_bootstrap: int = 1000,
    n_permutations: int = 0,
    allow_duplicates: bool = False,
    precision: Literal["auto", "float64", "mixed", "float32"] = "auto",
    device: str | None = None,
    max_memory: int | str | None = None,
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
        ``"auto"`` and ``"contiguous"``: blocks in the order of the stimuli; ``"leave-one-out"``: each group (run,
        passage, subject) is held out once; ``"shuffled"``: seeded random folds, which leak between neighbours in time,
        so it is never the default: the leak is measured and told; a number: that many contiguous folds; or explicit
        (train, test) row pairs, or the fold number of each row.
    n_folds, inner_folds
        Number of outer and inner folds; with ``folds="auto"`` at most as many as there are groups.
    selection
        ``"kfold"``, ``"gcv"`` or ``"loo"``, see `topobrain.stats.ridge_cv`. The last two are closed forms that treat
        stimuli as independent.
    standardize
        Scale each unit to unit variance over the training stimuli.
    targets
        Keep only these voxels, e.g. ``{"roi": "IFG"}`` or ``{"subject": ["sub-01"]}``.
    units
        Boolean mask over all units (for instance ``Selectivity.select``): only these predict.
    gap
        Rows dropped from training around each test block; by default 12 s of a time series (6 volumes where its ``tr_s`` is not
        known), else 0. It does not reach across the borders of runs (stimulus column ``run``). Explicit folds of a time
        series must keep it; ``gap=0`` lets them do without.
    n_bootstrap
        Draws of the interval over stimuli, 0 for none. Where a fold tests a single group (leave one run out), the
        interval is Student's over folds (NaN with fewer than three).
    n_permutations
        Permutations of the responses for p and the null band, 0 for none; each is fitted again, with the penalties of the
        true fit. Responses to passages and time series are shifted round instead of shuffled.
    allow_duplicates
        Allow explicit folds that split duplicated stimuli or groups, and do not keep stimuli together whose features are
        equal in every layer (different sentences may end in the same token, which is all an embedding layer sees).
        Where the responses have groups, the groups alone then decide: a picture may come again in another run.
    precision
        ``"float64"``; ``"mixed"``: penalties are chosen in float32, fits and predictions made in float64; ``"float32"``;
        ``"auto"``: float64 where that is cheap, else mixed.
    device
        ``"cpu"``, ``"cuda"``, ...; by default the CPU.
    max_memory
        Bound on what the fits allocate beyond their inputs: bytes, or text such as ``"2 GiB"``.
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
        Stimuli that differ between the two sides (named), leaking folds, too few stimuli, a memory bound too small.

    Warns
    -----
    UserWarning
        Shuffled folds score higher than contiguous ones by more than chance: neighbours leak. Or a fold tests fewer than ten
        stimuli, or a layer predicts all stimuli alike.

    References
    ----------
    Naselaris et al. (2011), NeuroImage 56:400; Feghhi et al. (2024), arXiv 2406.01538 (shuffled folds leak).
    """
    study = prepare(
        activations, responses,
        layers=layers, alphas=alphas, folds=folds, n_folds=n_folds, inner_folds=inner_folds, targets=targets,
        units=units, gap=gap, allow_duplicates=allow_duplicates, seed=seed,
        selection=selection, standardize=standardize, n_bootstrap=n_bootstrap, n_permutations=n_permutations,
        precision=precision, device=device, max_memory=max_memory,
    )  # fmt: skip
    tell_small_folds(study.design)
    result = run(study, activations, progress)
    if study.design.outer.scheme == "shuffled":
        from topobrain.encoding.leakage import against_contiguous

        result = against_contiguous(result, study, activations)
    return result


def run(study: Study, activations: Activations, progress: Progress | None = None) -> Encoding:
    """Fit and score every layer of a study in this process."""
    Y, (regions, roi) = study.responses.values, region_numbers(study.responses)
    usable = scorable(Y, study.design)
    features = {layer: layer_features(activations, layer, study.rows, study.mask) for layer in study.layers}
    parts: dict[str, Part] = {}
    fits = nested_ridge_layers(
        features, without_unusable(Y, usable), **splits_for(study.design, study.options), **study.options.engine()
    )
    for done, (layer, fit) in enumerate(fits, start=1):
        parts[layer] = score_part(
            fit, features[layer], Y, usable, study.design, roi, n_regions=len(regions), options=study.options
        )
        if progress is not None:
            progress(done, len(study.layers))
    return assemble(
        parts, study.responses, study.design, study.options, source=activations.provenance, further=study.further
    )
