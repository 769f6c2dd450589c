"""The simulated cohort: brain responses to sentences whose every weight, signal and noise ceiling is known.

Question answered: would the pipeline find the truth if it were there? Each subject has vertices of the left fsaverage5
cortex in five generic patches placed at the left language regions. With F the z-scored sentence features,

    signal = F W                      W (feature, voxel): the ROI's loading + smooth subject-specific variation
    value  = signal + mean over n_repeats of noise          noise smooth over the cortex, new for every repeat

The signal has variance 1 in every voxel and the noise variance R (1 / c^2 - 1) for R repeats, so that the best
possible model's Pearson correlation with ``value`` is in expectation exactly the ceiling c.

The responses are **simulated**: they say whether a method works, nothing about people.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from topobrain._checks import InputError, listed, unknown
from topobrain.data.nonwords import stream
from topobrain.data.template_language import load_sentences
from topobrain.responses import BrainResponses
from topobrain.stimuli import StimulusSet

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from scipy.sparse import csr_array

N_COARSE = 2562
"""Vertices of fsaverage4: the first ones of fsaverage5, icosahedral meshes nest."""


class Region(NamedTuple):
    """A patch: its central fsaverage5 vertex (left hemisphere) and its size in fsaverage4 vertices."""

    centre: int
    n_vertices: int


REGIONS: dict[str, Region] = {
    "IFGorb": Region(268, 41),
    "IFG": Region(1627, 46),
    "MFG": Region(1806, 57),
    "AntTemp": Region(1749, 86),
    "PostTemp": Region(1672, 110),
}
"""Where the patches lie. The centre is the vertex with the least squared geodesic distance to the rest of the largest
piece of the left parcel of that name, the size that parcel's fsaverage4 vertices, in the symmetrical language parcels
of Wolna et al. (2025; MIT licence). The posterior temporal parcel (209 vertices, long and bent) is cut to 110:
a patch is a disc. Only these numbers are used: the patches are generic discs, not the published parcels."""

NUMERIC_FEATURES = (
    "n_words",
    "mean_word_length",
    "polarity",
    "animacy",
    "plural",
    "concreteness",
    "depth",
    "passive",
)
"""Stimulus columns that are features as they stand."""
NEEDED_COLUMNS = (*NUMERIC_FEATURES, "tense", "topic")
SUBJECT_VARIATION = 0.7
"""Standard deviation of the subject-specific part of the weights, in units of the ROI loadings' own."""


class Features(NamedTuple):
    """The features responses are made of: ``values`` (stimulus, feature), z-scored, and their ``names``."""

    values: np.ndarray
    names: list[str]


def sentence_features(stimuli: StimulusSet) -> Features:
    """Return the z-scored features (stimulus, feature) behind the simulated responses.

    The numeric properties of the sentences, past tense (0, 1) and one indicator for every topic but the first in
    alphabetical order (all of them would sum to one, and weights would not be unique). Features that do not vary over
    the stimuli are left out.

    Parameters
    ----------
    stimuli
        Sentences with the columns `NEEDED_COLUMNS`, as `generate_sentences` makes them.

    Raises
    ------
    InputError
        Columns that are missing or not numeric, or sentences that differ in no feature.
    """
    missing = [name for name in NEEDED_COLUMNS if name not in stimuli.table.columns]
    if missing:
        raise InputError(
            f"the simulated cohort responds to properties of sentences, but stimulus set {stimuli.name!r} "
            f"has no column {listed(missing)}. generate_sentences and load_sentences make sets with all of them"
        )
    columns: dict[str, np.ndarray] = {}
    for name in NUMERIC_FEATURES:
        try:
            columns[name] = stimuli.column(name).astype(float)
        except (TypeError, ValueError):
            raise InputError(f"column {name!r} of stimulus set {stimuli.name!r} is not numeric") from None
        if not np.isfinite(columns[name]).all():
            raise InputError(f"column {name!r} of stimulus set {stimuli.name!r} has missing or infinite values")
    columns["past"] = (stimuli.column("tense").astype(str) == "past").astype(float)
    topic = stimuli.column("topic").astype(str)
    columns |= {f"topic_{name}": (topic == name).astype(float) for name in sorted(set(topic.tolist()))[1:]}
    varying = {name: column for name, column in columns.items() if np.ptp(column) > 0}
    if not varying:
        raise InputError(
            f"the {len(stimuli)} stimuli of {stimuli.name!r} differ in no feature: there is nothing to respond to"
        )
    values = np.stack(list(varying.values()), axis=1)
    return Features((values - values.mean(axis=0)) / values.std(axis=0), list(varying))


@lru_cache(maxsize=1)
def _cortex() -> tuple[np.ndarray, csr_array]:
    """Return the left fsaverage5 white surface: coordinates (vertex, 3) in mm and the graph of edge lengths in mm."""
    from nilearn.datasets import load_fsaverage
    from scipy.sparse import coo_array

    mesh = load_fsaverage(mesh="fsaverage5")["white_matter"].parts["left"]  # ships with nilearn, nothing is fetched
    places, faces = np.asarray(mesh.coordinates, dtype=np.float64), np.asarray(mesh.faces)
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    ends = np.unique(np.sort(ends, axis=1), axis=0)
    ends = np.concatenate([ends, ends[:, ::-1]])
    lengths = np.linalg.norm(places[ends[:, 0]] - places[ends[:, 1]], axis=1)
    return places, coo_array((lengths, (ends[:, 0], ends[:, 1])), shape=(len(places), len(places))).tocsr()


def _geodesic(sources: np.ndarray, limit: float = math.inf) -> np.ndarray:
    """Return distances (source, vertex) along the edges of the left white surface, in mm; inf beyond ``limit``."""
    from scipy.sparse.csgraph import dijkstra

    distances: np.ndarray = dijkstra(_cortex()[1], directed=False, indices=sources, limit=limit)
    return distances


def region_patches(sizes: Mapping[str, int]) -> dict[str, Int[np.ndarray, " vertex"]]:
    """Return the vertices of each patch, nearest to its centre first.

    A patch holds the fsaverage4 vertices nearest to its centre along the cortex, among those that are nearer to it
    than to any other region's centre: patches never overlap, and a patch does not depend on the other patches' sizes.

    Parameters
    ----------
    sizes
        ROI name (one of `REGIONS`) -> number of vertices.

    Raises
    ------
    UnknownNameError
        A name that is no region.
    InputError
        A size below 1, or more vertices than lie nearest to that centre.
    """
    for roi, size in sizes.items():
        if roi not in REGIONS:
            raise unknown("region of the simulated cohort", roi, REGIONS)
        if size < 1:
            raise InputError(f"region {roi!r} needs at least one voxel, got {size}")
    distances = _geodesic(np.array([region.centre for region in REGIONS.values()]))[:, :N_COARSE]
    owner = distances.argmin(axis=0)
    patches = {}
    for number, roi in enumerate(REGIONS):
        if roi not in sizes:
            continue
        own = np.flatnonzero(owner == number)
        if sizes[roi] > len(own):
            raise InputError(
                f"region {roi!r} has room for {len(own)} voxels before it meets its neighbours, got {sizes[roi]}"
            )
        patches[roi] = own[np.argsort(distances[number, own], kind="stable")][: sizes[roi]]
    return patches


def smoothing_matrix(vertices: np.ndarray, fwhm: float) -> Float[np.ndarray, "voxel voxel"]:
    """Return the matrix that turns independent unit noise into smooth unit noise over the cortex.

    Row i holds exp(-d_ij^2 / (2 sigma^2)) for the geodesic distance d_ij, divided by the root of the row's sum of
    squares, so that the variance stays 1 everywhere, also at a patch's edge.

    Parameters
    ----------
    vertices
        Vertex numbers (voxel,) of the left fsaverage5 surface.
    fwhm
        Full width at half maximum of the kernel, in mm; 0 gives the identity.
    """
    if fwhm == 0:
        return np.eye(len(vertices))
    sigma = fwhm / math.sqrt(8 * math.log(2))
    distances = _geodesic(vertices, limit=5 * sigma)[:, vertices]  # exp(-12.5) = 4e-6: beyond is nothing
    kernel = np.exp(-(distances**2) / (2 * sigma**2))
    normalised: np.ndarray = kernel / np.sqrt((kernel**2).sum(axis=1, keepdims=True))
    return normalised


def _sizes(voxels_per_roi: int | Mapping[str, int] | None) -> dict[str, int]:
    """Return the number of voxels of each region."""
    if voxels_per_roi is None:
        return {roi: region.n_vertices for roi, region in REGIONS.items()}
    if isinstance(voxels_per_roi, Mapping):
        if not voxels_per_roi:
            raise InputError("voxels_per_roi names no region")
        return {str(roi): int(size) for roi, size in voxels_per_roi.items()}
    return dict.fromkeys(REGIONS, int(voxels_per_roi))


def _ceiling_range(ceiling: float | tuple[float, float]) -> tuple[float, float]:
    """Return the lowest and highest noise ceiling, checked."""
    pair = (ceiling, ceiling) if isinstance(ceiling, int | float) else tuple(ceiling)
    if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= 1:
        raise InputError(
            f"ceiling must be a correlation above 0 and at most 1, or a pair (lowest, highest); got {ceiling!r}"
        )
    return float(pair[0]), float(pair[1])


def simulate_cohort(
    stimuli: StimulusSet | None = None,
    *,
    n_subjects: int = 4,
    voxels_per_roi: int | Mapping[str, int] | None = None,
    ceiling: float | tuple[float, float] = 0.6,
    n_repeats: int = 2,
    smoothness_mm: float = 12.0,
    seed: int = 0,
) -> BrainResponses:
    """Simulate the responses of a cohort to sentences.

    Parameters
    ----------
    stimuli
        Sentences with the columns `NEEDED_COLUMNS`; `load_sentences()` if not given.
    n_subjects
        Number of subjects. They share the places of their voxels and the ROIs' loadings, not the variation around
        them; a subject's weights do not depend on the number of subjects.
    voxels_per_roi
        Voxels a subject has in each ROI: one number, or ROI -> number (only these ROIs are simulated). By default the
        sizes in `REGIONS`, 340 together.
    ceiling
        Noise ceiling of the average over repeats, in Pearson r: one number, or (lowest, highest) for ceilings that
        vary smoothly over the cortex. 1 means no noise.
    n_repeats
        Presentations of each sentence.
    smoothness_mm
        Full width at half maximum, in mm along the cortex, of the kernel behind weights and noise. Neighbouring voxels
        lie 4 to 8 mm apart.
    seed
        Seed of everything random.

    Returns
    -------
    BrainResponses
        ``value`` (stimulus, voxel), the mean over repeats in units of the signal's standard deviation; coordinates
        ``subject``, ``roi``, ``ceiling`` (the true one), ``vertex`` (left fsaverage5) and ``x_mm y_mm z_mm`` (white
        surface). Further variables, the truth: ``feature_value`` (stimulus, feature), ``feature_name`` (feature),
        ``true_weight`` (feature, voxel), ``signal`` (stimulus, voxel), ``repeat_value`` (repeat, stimulus, voxel;
        float32). Provenance holds ``simulated=True`` and every option.

    Raises
    ------
    InputError
        Fewer than one subject, repeat or voxel, a ceiling outside (0, 1], or stimuli without the needed columns.
    UnknownNameError
        A region that is not in `REGIONS`.

    References
    ----------
    Ceiling of an average over repeats: signal variance 1, noise variance v, r = sqrt(1 / (1 + v / R)).
    """
    for name, count in (("n_subjects", n_subjects), ("n_repeats", n_repeats)):
        if count < 1 or count != int(count):
            raise InputError(f"{name} must be a whole number of at least 1, got {count}")
    if not 0 <= smoothness_mm < math.inf:
        raise InputError(f"smoothness_mm must be a length of at least 0, got {smoothness_mm}")
    lowest, highest = _ceiling_range(ceiling)
    sizes = _sizes(voxels_per_roi)
    if stimuli is None:
        stimuli = load_sentences()
    features, names = sentence_features(stimuli)
    patches = region_patches(sizes)
    vertices = np.concatenate(list(patches.values()))
    region = np.repeat(np.arange(len(patches)), [len(patch) for patch in patches.values()])
    smooth = smoothing_matrix(vertices, smoothness_mm)
    n_voxels = len(vertices)
    # one stream a region: a region's loadings do not depend on which others are simulated
    loading = np.stack([stream(seed, f"loading {roi}").standard_normal(len(names)) for roi in patches], axis=1)

    subjects = [f"sub-{number:02d}" for number in range(1, n_subjects + 1)]
    weights, signals, ceilings, repeats = [], [], [], []
    for subject in subjects:
        variation = stream(seed, f"weights {subject}").standard_normal((len(names), n_voxels)) @ smooth.T
        weight = loading[:, region] + SUBJECT_VARIATION * variation
        signal = features @ weight
        scale = signal.std(axis=0)
        weights.append(weight / scale)
        signals.append(signal / scale)
        ceilings.append(_ceiling_field(lowest, highest, smooth, stream(seed, f"ceiling {subject}")))
        noise_sd = np.sqrt(n_repeats * (1 / ceilings[-1] ** 2 - 1))
        noise = stream(seed, f"noise {subject}").standard_normal((n_repeats, len(stimuli), n_voxels))
        repeats.append(signals[-1] + noise_sd * (noise @ smooth.T))
    repeat_value = np.concatenate(repeats, axis=2)
    places = _cortex()[0][vertices]
    return BrainResponses.from_arrays(
        repeat_value.mean(axis=0),
        stimuli,
        roi=np.tile(np.repeat(list(patches), [len(patch) for patch in patches.values()]), n_subjects).tolist(),
        subject=np.repeat(subjects, n_voxels).tolist(),
        ceiling=np.concatenate(ceilings),
        voxel_coords={
            "vertex": np.tile(vertices, n_subjects),
            **{f"{axis}_mm": np.tile(places[:, i], n_subjects) for i, axis in enumerate("xyz")},
        },
        variables={
            "feature_value": (("stimulus", "feature"), features),
            "feature_name": (("feature",), np.array(names, dtype=object)),
            "true_weight": (("feature", "voxel"), np.concatenate(weights, axis=1)),
            "signal": (("stimulus", "voxel"), np.concatenate(signals, axis=1)),
            "repeat_value": (("repeat", "stimulus", "voxel"), repeat_value.astype(np.float32)),
        },
        provenance={
            "simulated": True,
            "name": "simulated cohort",
            "generator": "topobrain simulated cohort",
            "seed": int(seed),
            "n_subjects": int(n_subjects),
            "voxels_per_roi": sizes,
            "ceiling": [lowest, highest],
            "n_repeats": int(n_repeats),
            "smoothness_mm": float(smoothness_mm),
            "subject_variation": SUBJECT_VARIATION,
            "surface": "fsaverage5 left white surface as shipped with nilearn, fsaverage4 vertices",
            "regions": "generic discs at the left language regions; centres after Wolna et al. (2025) parcels",
            "licence": "BSD-3-Clause, generated by topobrain",
        },
    )


def _ceiling_field(lowest: float, highest: float, smooth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a ceiling for each voxel, uniform between the bounds over the cortex and as smooth as the rest."""
    from scipy.special import ndtr

    share = ndtr(smooth @ rng.standard_normal(len(smooth)))
    field: np.ndarray = lowest + (highest - lowest) * share
    return field


def load_cohort(**options: Any) -> BrainResponses:
    """Return the simulated cohort; the options are those of `simulate_cohort`.

    >>> load_cohort(n_subjects=1, voxels_per_roi=5).rois
    ['IFGorb', 'IFG', 'MFG', 'AntTemp', 'PostTemp']
    """
    return simulate_cohort(**options)
