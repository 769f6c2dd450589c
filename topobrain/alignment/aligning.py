"""align: which few dimensions do a model and a brain share?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from topobrain._checks import InputError, require_choice
from topobrain.activations import Activations
from topobrain.alignment.assembling import assemble
from topobrain.alignment.ceilings import CeilingChoice, allowed_ceilings, component_ceiling
from topobrain.alignment.controls import control_layers, named_controls
from topobrain.alignment.result import Alignment
from topobrain.alignment.scoring import SIMILARITIES, LayerScores, Method, Options, ceiling_score, digest, score_layer
from topobrain.encoding.cross_validation import FoldChoice, make_design
from topobrain.encoding.matching import (
    chosen_layers,
    chosen_voxels,
    equal_rows,
    layer_features,
    match_stimuli,
    row_keys,
    unit_mask,
)
from topobrain.encoding.parts import scorable
from topobrain.encoding.scoring import require_inputs, tell_small_folds
from topobrain.responses import BrainResponses
from topobrain.stats.folds import Folds
from topobrain.stats.shared_components import most_components

if TYPE_CHECKING:
    from jaxtyping import Bool

DEFAULT_COMPONENTS = 10
"""Components where no number is given, or as many as the data allow."""

LEAST_PATTERN = 3
"""Voxels that a correlation distance needs: over two, every correlation is 1 or -1."""

Progress = Callable[[int, int], None]


def align(
    activations: Activations,
    responses: BrainResponses,
    *,
    method: Method = "pls",
    n_components: int | None = None,
    layers: Sequence[str] | str | None = None,
    controls: Mapping[str, Activations] | None = None,
    folds: FoldChoice = "auto",
    n_folds: int = 5,
    gap: int | None = None,
    targets: Mapping[str, Any] | None = None,
    units: Bool[np.ndarray, " unit"] | None = None,
    scale: bool = True,
    regularization: float = 1.0,
    n_permutations: int = 1000,
    n_bootstrap: int = 1000,
    ceiling: CeilingChoice = "auto",
    allow_duplicates: bool = False,
    max_memory: int | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Alignment:
    r"""Find the few dimensions that a model's layers and a brain share, and test them on stimuli left out.

    PLS-SVD: with units and voxels centred and scaled by their training stimuli, :math:`X^\top Y = U S V^\top`; component c
    scores the correlation of :math:`X u_c` with :math:`Y v_c` over the held-out stimuli. The null permutes stimuli and repeats
    everything; stimuli change places only where they train and test in the same folds, the same ones in all folds.

    Signs are fixed by the largest weight among the units. A component beyond the rank of the data (a region that is the mean of
    others adds none) has no score: NaN.

    **None of these scores depends on the sheet**: shuffling units over their places changes nothing, nor does any rotation of
    units or voxels where they are not scaled one by one (``scale=False``). What is topographic about an alignment is the matter
    of `spatial_alignment`.

    Parameters
    ----------
    activations
        One row a stimulus: exactly the stimuli of ``responses``, in any order.
    responses
        Brain responses (stimulus, voxel). Voxels with a missing value, or constant in a fold, are left out and counted.
    method
        ``"pls"``; ``"cca"``: canonical correlation with ridge regularisation; ``"pca"``: the model's own principal components,
        each with the direction of voxels that covaries most with it; ``"rsa"``: Spearman correlation of the two sets of
        dissimilarities between stimuli; ``"cka"``: centred linear kernel alignment, unbiased. The last two compare whole sets
        of stimuli, without folds or components.
    n_components
        Components; by default 10, or as many as stimuli, units and voxels allow.
    layers
        Layers to align (default: all).
    controls
        Name -> activations of other models over the same stimuli: the untrained self, a twin without topography. Their layers
        are those of the same name, or else of the same place in the order.
    folds, n_folds, gap, targets, units, allow_duplicates
        As in `encode`. ``units`` is about the model, not about controls.
    scale
        Divide units and voxels by their standard deviation over the training stimuli.
    regularization
        Of ``"cca"``: added to the covariance's eigenvalues, in units of their mean; 0 is classical canonical correlation.
    n_permutations
        Permutations of the stimuli, for p and the null band; 0 for none. Responses to passages and time series are shifted
        round instead.
    n_bootstrap
        Draws of the intervals over test stimuli; 0 for none. Weights are held fixed and folds drawn each for itself, so with 60
        to 120 stimuli the 95 % intervals cover about 80 % of replications.
    ceiling
        ``"subjects"``: how well the voxels of all other subjects do in the place of the model, for one subject at a time (a good
        model of all subjects together can do better: above 1 after normalising); ``"split-half"``: how well one
        half of the repeats does, lengthened by Spearman-Brown; ``"voxels"``: from the noise ceilings of the voxels, their noise
        taken to be correlated as their responses are; ``"none"``; ``"auto"``: the first of these that the responses allow.
    max_memory
        Bound on working arrays of the null: bytes, or text such as ``"2 GiB"``.
    seed
        Seed of shuffled folds, bootstrap and permutations.
    progress
        Called with (layers done, layers in all), controls included.

    Returns
    -------
    Alignment

    Raises
    ------
    InputError
        Stimuli that differ between the two sides (named), more components than the data allow (the largest number is told),
        controls with other layers, no usable voxel or unit, leaking folds.

    References
    ----------
    McIntosh et al. (1996), NeuroImage 3:143 (PLS); Vinod (1976), J. Econom. 4:147 (ridge CCA); Kriegeskorte et al. (2008),
    Front. Syst. Neurosci. 2:4 (RSA); Kornblith et al. (2019), ICML (CKA).
    """
    require_inputs(activations, responses)
    require_choice("method", method, get_args(Method))
    _check_counts(n_permutations=n_permutations, n_bootstrap=n_bootstrap, seed=seed)
    if not isinstance(scale, bool | np.bool_):
        raise InputError(f"scale must be True or False, got {scale!r}")
    real = isinstance(regularization, int | float | np.number) and not isinstance(regularization, bool)
    if not (real and np.isfinite(regularization) and regularization >= 0):
        raise InputError(f"regularization must be a number of 0 or more, got {regularization!r}")
    responses = chosen_voxels(responses, targets)
    names = chosen_layers(activations, layers)
    mask = unit_mask(activations, units)
    rows = match_stimuli(activations, responses)
    features = {layer: layer_features(activations, layer, rows, mask) for layer in names}
    for layer, X in features.items():
        _check_features(layer, X)
    repeats = np.arange(len(rows)) if allow_duplicates else equal_rows([row_keys(X) for X in features.values()])
    design = make_design(
        responses, repeats, folds, n_folds=n_folds, gap=gap, allow_duplicates=allow_duplicates, seed=seed
    )
    tell_small_folds(design)
    others = {name: _control_features(name, one, responses, names) for name, one in named_controls(controls).items()}
    Y = responses.values
    usable = scorable(Y, design)
    _tell_voxels(Y, usable, method)
    allowed_ceilings(ceiling, responses, usable, method)  # what is impossible is told before the work
    every = [X for one in (features, *others.values()) for X in one.values()]
    count = _n_components(n_components, method, every, int(usable.sum()), design.outer)
    options = Options(method, count, float(regularization), scale, n_permutations, n_bootstrap, seed)
    wanted, total, done = Y[:, usable].astype(np.float64), len(names) * (1 + len(others)), 0
    scored: list[dict[str, LayerScores]] = []
    for one in (features, *others.values()):
        scored.append({})
        for layer, X in one.items():
            scored[-1][layer] = score_layer(X, wanted, design, options, max_memory)
            done += 1
            if progress is not None:
                progress(done, total)

    def score(one: np.ndarray, two: np.ndarray, within: Folds) -> np.ndarray:
        return ceiling_score(one, two, within, options)

    limit = component_ceiling(ceiling, responses, usable, design.outer, count, score, method)
    shown = {layer: digest(X) for layer, X in features.items()}
    return assemble(scored, list(others), activations, responses, design, mask, usable, options, limit, shown)


def _check_features(layer: str, X: np.ndarray) -> None:
    wrong = ~np.isfinite(X).all(axis=0)
    if wrong.any():
        raise InputError(
            f"layer {layer!r} has missing or infinite values in {int(wrong.sum())} of {wrong.size} units, the first is unit "
            f"{int(np.flatnonzero(wrong)[0])}: leave them out with units="
        )
    if not (np.ptp(X, axis=0) > 0).any():
        raise InputError(
            f"layer {layer!r} answers every stimulus alike: there is nothing to align; leave it out with layers="
        )


def _tell_voxels(Y: np.ndarray, usable: np.ndarray, method: str) -> None:
    """Raise where too few voxels are usable, and warn where some are not."""
    n_left_out = int((~usable).sum())
    if not usable.any():
        empty = np.flatnonzero(np.isnan(Y).all(axis=1))
        more = f"; stimulus row {int(empty[0])} is missing in all of them: leave it out" if empty.size else ""
        raise InputError(
            f"none of {len(usable)} voxels can be aligned: each has a missing value or is constant over the stimuli of a fold"
            + more
        )
    if method == "rsa" and usable.sum() < LEAST_PATTERN:
        raise InputError(
            f"rsa compares patterns over {LEAST_PATTERN} voxels or more, {int(usable.sum())} are usable: take method='cka' or "
            "'pls'"
        )
    if n_left_out:
        warnings.warn(
            f"{n_left_out} of {len(usable)} voxels are left out: a missing value, or constant over the stimuli of a fold",
            stacklevel=3,
        )


def _check_counts(**counts: Any) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise InputError(f"{name} must be a whole number of 0 or more, got {value!r}")


def _n_components(given: int | None, method: str, features: Sequence[np.ndarray], n_voxels: int, folds: Folds) -> int:
    """Return the number of components, checked against what the smallest layer allows."""
    if given is not None and (isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 1):
        raise InputError(f"n_components must be a whole number of 1 or more, got {given!r}")
    if method in SIMILARITIES:
        if given not in (None, 1):
            raise InputError(f"method {method!r} has no components: leave n_components out")
        return 1
    most = min(most_components(X.shape, (len(X), n_voxels), folds) for X in features)
    if given is not None and given > most:
        raise InputError(
            f"n_components={given}, but stimuli, units and voxels allow {most} at most ({n_voxels} usable voxels, "
            f"{min(X.shape[1] for X in features)} units in the smallest layer, {min(len(train) for train, _ in folds)} "
            "training stimuli in the smallest fold)"
        )
    return min(DEFAULT_COMPONENTS, most) if given is None else int(given)


def _control_features(
    name: str, control: Any, responses: BrainResponses, layers: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return a control's features under the model's layer names, in the order of the responses."""
    chosen = control_layers(name, control, layers)
    try:
        rows = match_stimuli(control, responses)
    except InputError as error:
        raise InputError(f"control {name!r}: {error}") from error
    everything = unit_mask(control, None)
    found = {}
    for layer, other in zip(layers, chosen, strict=True):
        found[layer] = layer_features(control, other, rows, everything)
        _check_features(f"{other}' of control '{name}", found[layer])
    return found
