"""spatial_alignment: does where units and voxels lie matter for how a model and a brain agree?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from topobrain._checks import InputError, listed
from topobrain.activations import Activations
from topobrain.alignment.controls import control_layers, named_controls
from topobrain.alignment.result import Alignment
from topobrain.alignment.scoring import digest
from topobrain.alignment.spatial_assembling import assemble
from topobrain.alignment.spatial_result import SpatialAlignment
from topobrain.alignment.spatial_scoring import (
    DEFAULT_COMPONENTS,
    Brain,
    LayerSpatial,
    Model,
    SpatialOptions,
    WeightMaps,
    score_layer,
)
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
from topobrain.encoding.scoring import require_inputs, tell_small_folds
from topobrain.responses import BrainResponses
from topobrain.stats.sheet_to_cortex import INNER_FOLDS, PENALTIES, penalties

if TYPE_CHECKING:
    from jaxtyping import Bool

__all__ = ["SpatialAlignment", "spatial_alignment"]

Progress = Callable[[int, int], None]


def spatial_alignment(
    activations: Activations,
    responses: BrainResponses,
    *,
    alignment: Alignment | None = None,
    n_components: int | None = None,
    layers: Sequence[str] | str | None = None,
    controls: Mapping[str, Activations] | None = None,
    folds: FoldChoice = "auto",
    n_folds: int = 5,
    gap: int | None = None,
    targets: Mapping[str, Any] | None = None,
    units: Bool[np.ndarray, " unit"] | None = None,
    n_voxel_folds: int = 5,
    n_sheet_modes: int | None = None,
    n_cortex_modes: int | None = None,
    alphas: Sequence[float] = PENALTIES,
    within_regions: bool = False,
    n_null: int = 200,
    n_bootstrap: int = 1000,
    allow_duplicates: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> SpatialAlignment:
    """Does where units and voxels lie matter for how a model and a brain agree?

    Every other score of alignment (`align`, `encode`) stays the same when the units of a sheet change places. Two do not:

    * **The map from sheet to cortex** (`topobrain.stats.sheet_to_cortex_score`): a smooth map from the sheet to the cortex is
      fitted on training stimuli and training voxels and predicts other voxels' responses to other stimuli, beside the same
      fits with the places of units, and of voxels, shuffled. This is the test.
    * **Smoothness of paired weight maps** (`topobrain.stats.paired_smoothness`): are the weights of a shared component smooth on
      both sides? Necessary, and not enough: blur on both sides passes.

    Subjects are scored each by itself and then averaged, their places shuffled together: one permutation of the places of all
    subjects, of which each takes the order it induces on its own voxels. Where no two subjects share a place (native space),
    each is shuffled by itself; a rough map that such subjects share is then not in the null, and ``p_voxels`` is too small.
    The null of ``smoothness_p`` is shuffled together only for subjects with as many voxels, with the same consequence.

    Parameters
    ----------
    activations
        One row a stimulus: exactly the stimuli of ``responses``, in any order. Every layer needs a sheet.
    responses
        Brain responses (stimulus, voxel) whose voxels have places: vertices of a surface, ``x_mm y_mm z_mm`` or the grid of
        a volume (see `topobrain.alignment.cortical_places.voxel_places`), and at least 20 usable ones a subject.
    alignment
        The result of `align` for the same activations, responses and folds, whose weight maps are taken; those of controls are
        fitted by the same method. None fits PLS-SVD here.
    n_components
        Components whose maps are measured; by default 3, or as many as there are.
    layers
        Layers to score (default: all).
    controls
        Name -> activations of other models over the same stimuli: the untrained self, a twin without topography on a sheet of
        its own. Their layers are those of the same names, or else of the same place in the order.
    folds, n_folds, gap, targets, units, allow_duplicates
        As in `encode`. ``units`` is about the model, and about controls with the same layers of as many units;
        a warning names the others, of which all units are used.
    n_voxel_folds, n_sheet_modes, n_cortex_modes, alphas
        As in `topobrain.stats.sheet_to_cortex_score`.
    within_regions
        Shuffle voxels only within their ROI: what regions as wholes have to do with the model is then in the null as well.
    n_null
        Draws of each null.
    n_bootstrap
        Draws of the interval over test stimuli, 0 for none.
    seed
        Seed of everything random.
    progress
        Called with (layers done, layers in all), controls included.

    Returns
    -------
    SpatialAlignment

    Raises
    ------
    InputError
        A layer without a layout (named), voxels without places (ROI averages), a subject with fewer than 20 usable voxels,
        stimuli that differ between the two sides, an alignment of another model, brain or folds, a layer that is constant.
    """
    require_inputs(activations, responses)
    _check_counts(n_null=n_null, n_bootstrap=n_bootstrap, seed=seed)
    responses = chosen_voxels(responses, targets)
    names = chosen_layers(activations, layers)
    mask, rows = unit_mask(activations, units), match_stimuli(activations, responses)
    keys = [row_keys(layer_features(activations, layer, rows, mask)) for layer in names]
    design = make_design(
        responses, np.arange(len(rows)) if allow_duplicates else equal_rows(keys), folds,
        n_folds=n_folds, inner_folds=INNER_FOLDS, gap=gap, allow_duplicates=allow_duplicates, seed=seed,
    )  # fmt: skip
    models = [Model.of("the model", activations, names, names, rows, mask)]
    for name, control in named_controls(controls).items():
        models.append(_control(name, control, names, responses, None if units is None else (activations, mask)))
    brain = Brain.of(responses, design)
    given = (
        None if alignment is None
        else _given_weights(alignment, models[0], responses, names, n_components, design.outer.test_fold(len(rows)))
    )  # fmt: skip
    options = SpatialOptions(
        n_components, n_voxel_folds, n_sheet_modes, n_cortex_modes, tuple(float(a) for a in penalties(alphas)),
        within_regions, n_null, n_bootstrap, seed, **_fitted_by(alignment),
    )  # fmt: skip
    tell_small_folds(design)
    scored: list[dict[str, LayerSpatial]] = []
    for model in models:
        scored.append({})
        for layer in names:
            weights = given[layer] if given is not None and model is models[0] else None
            count = n_components if given is None else len(given[layer].r)
            scored[-1][layer] = score_layer(model, layer, brain, design, options, weights, count)
            if progress is not None:
                progress(sum(map(len, scored)), len(models) * len(names))
    return assemble(scored, list(controls or {}), activations, responses, brain, design, options)


def _check_counts(**counts: Any) -> None:
    for name, value in counts.items():
        least = 2 if name == "n_null" else 0
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise InputError(f"{name} must be a whole number of {least} or more, got {value!r}")


def _control(
    name: str, control: Any, layers: Sequence[str], responses: BrainResponses,
    chosen: tuple[Activations, np.ndarray] | None,
) -> Model:  # fmt: skip
    """Read a control; ``chosen`` are the model's activations and mask of units, where units are asked for."""
    own = control_layers(name, control, layers)
    try:
        rows = match_stimuli(control, responses)
    except InputError as error:
        raise InputError(f"control {name!r}: {error}") from error
    mask = unit_mask(control, None)
    if chosen is not None:
        model, asked = chosen
        if own == list(layers) and all(control.sheet(of).n_units == model.sheet(of).n_units for of in own):
            for layer in layers:
                mask[control.unit_slice(layer)] = asked[model.unit_slice(layer)]
        else:
            warnings.warn(
                f"units= is not applied to control {name!r}, which keeps all its units: its layers or their numbers of units "
                "are not the model's",
                stacklevel=3,
            )
    return Model.of(f"control {name!r}", control, layers, own, rows, mask)


def _fitted_by(alignment: Alignment | None) -> dict[str, Any]:
    """Return how the components of an alignment were fitted, to fit those of controls alike."""
    if alignment is None:
        return {}
    return {name: alignment.provenance["alignment"][name] for name in ("method", "regularization", "scale")}


def _given_weights(
    alignment: Any, model: Model, responses: BrainResponses, layers: Sequence[str], count: int | None,
    test_fold: np.ndarray,
) -> dict[str, WeightMaps]:  # fmt: skip
    """Return the weight maps of an alignment, checked to be one of this model, brain and folds."""
    if not isinstance(alignment, Alignment):
        raise InputError(f"alignment= is the result of align, got {type(alignment).__name__}")
    if "unit_weight" not in alignment.data:
        raise InputError(
            f"an alignment by {alignment.method!r} has no weight maps: take method='pls', 'cca' or 'pca', or leave alignment out"
        )
    missing = [layer for layer in layers if layer not in alignment.layers]
    if missing:
        raise InputError(
            f"the alignment lacks the layers {listed(missing)}; it has {listed(alignment.layers)}: choose with layers="
        )
    if alignment.data.sizes["voxel"] != responses.data.sizes["voxel"] or not np.array_equal(
        alignment.data["voxel"].values, responses.data["voxel"].values
    ):
        raise InputError(
            f"the alignment is of {alignment.data.sizes['voxel']} voxels and these responses have "
            f"{responses.data.sizes['voxel']}, or others: give both the same targets"
        )
    most = alignment.data.sizes["component"]
    if count is not None and count > most:
        raise InputError(f"n_components={count}, but the alignment has {most}")
    take, found = min(most, DEFAULT_COMPONENTS) if count is None else count, {}
    known = alignment.provenance["alignment"]
    if known.get("responses_sha256") != digest(responses.values):
        raise InputError(
            "the alignment was made with other responses than these: give the alignment of this brain (same stimuli in the "
            "same order, same values), or leave alignment out"
        )
    if not np.array_equal(alignment.data["test_fold"].values, test_fold):
        raise InputError(
            "the alignment was made with other folds than these: give both the same folds, n_folds, gap, seed and "
            "allow_duplicates, or leave alignment out"
        )
    for layer in layers:
        if alignment.sheet(layer).n_units != model.sheets[layer].n_units:
            raise InputError(f"layer {layer!r} has another number of units in the alignment")
        if known.get("features_sha256", {}).get(layer) != digest(model.used(layer)):
            raise InputError(
                f"the alignment was made with other activations of layer {layer!r} than these, or other units=: give the "
                "alignment of this model and these units, or leave alignment out"
            )
        i = alignment.layers.index(layer)
        found[layer] = WeightMaps(
            alignment.unit_weights(layer)[:take],
            np.asarray(alignment.data["voxel_weight"].values[i, :take]),
            np.asarray(alignment.data["r"].values[i, :take]),
        )
    return found
