"""Pereira et al. (2018): responses to sentences of passages and to concepts, as published and as brain-score packs them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from topobrain._checks import DataFileError, InputError, listed, near, require_choice, unknown
from topobrain.brain_files.assemblies import read_assembly
from topobrain.brain_files.places import side_by_side
from topobrain.responses import BrainResponses
from topobrain.stimuli import StimulusSet
from topobrain.store.files import fetch, find_manifest, store_directory

NAME = "pereira2018"
ASSEMBLY = "assy_Pereira2018_language.nc"
EXPERIMENTS = (
    "384sentences",
    "243sentences",
    "180concepts_sentences",
    "180concepts_pictures",
    "180concepts_wordclouds",
)
KINDS = ("data", "examples")
"""Beginnings of the files' names: ``data_`` files know the networks, ``examples_`` files two anatomical atlases."""

IMAGES = ("examples", "examples_passagesentences")
"""Variable of the responses (stimulus, voxel), in ``examples_`` and in ``data_`` files."""


def load_responses(
    experiment: str = "384sentences", *, atlas: str | None = "language", subjects: Sequence[str] | None = None
) -> BrainResponses:
    """Load responses from the authors' MATLAB files: one row a sentence or concept, one column a voxel.

    The files lie in ``$TOPOBRAIN_DATA/pereira2018/<person>/`` under their own names (``data_384sentences.mat`` or
    ``examples_384sentences.mat``). Of each person the ``data_`` file is read where it is there.

    Parameters
    ----------
    experiment
        ``"384sentences"``, ``"243sentences"``, ``"180concepts_sentences"``, ``"180concepts_pictures"``,
        ``"180concepts_wordclouds"``.
    atlas
        Which voxels: those in a region of an atlas of the file, named as the file names it, or of all atlases whose names
        begin so (``"language"`` for the left and the right language network; a voxel in several counts for the first).
        ``examples_`` files have ``"AAL"`` and ``"Gordon"``. None for every voxel.
    subjects
        Which people (default: all whose files are there).

    Returns
    -------
    BrainResponses
        float32; identifiers ``384sentences.0``, ``384sentences.1``, ... as brain-score counts them. For sentences the columns
        ``passage``, ``category`` (its topic) and ``group`` (the passage, which folds must not split); for concepts the text
        is the concept, whatever it was shown with. Voxel coordinates ``atlas``, ``column`` (in the file) and, where the file has
        them, ``i``, ``j``, ``k``. Noise ceiling unknown: every stimulus has one image.

    Raises
    ------
    DataFileError
        No file of the experiment is there, or one cannot be read.
    InputError
        A file lacks a variable, its sizes do not fit, or people saw different sentences.
    UnknownNameError
        No such experiment, person or atlas.

    References
    ----------
    Pereira et al. (2018) Nat Commun 9:963.
    """
    require_choice("experiment", experiment, EXPERIMENTS)
    found = _files(experiment)
    people = list(found) if subjects is None else [str(person) for person in subjects]
    for person in people:
        if person not in found:
            raise unknown(f"person of experiment {experiment}", person, found)
    parts = [read_person(found[person], experiment, atlas=atlas, subject=person) for person in people]
    return side_by_side(parts) if len(parts) > 1 else parts[0]


def load_brainscore(experiment: str = "384sentences", *, path: str | Path | None = None) -> BrainResponses:
    """Load the language network of 10 people as brain-score packs it (``Pereira2018.language``).

    Parameters
    ----------
    experiment
        ``"384sentences"`` or ``"243sentences"``. People who did not take part are left out.
    path
        The assembly (default: ``assy_Pereira2018_language.nc`` in the store).

    Returns
    -------
    BrainResponses
        Columns of the file, and ``group``: the passage. ``roi`` is the file's.

    Raises
    ------
    DataFileError, InputError, UnknownNameError
        As for `topobrain.brain_files.read_assembly`.

    References
    ----------
    Schrimpf et al. (2021) PNAS 118:e2105646118.
    """
    require_choice("experiment", experiment, EXPERIMENTS[:2])
    source = Path(path) if path is not None else fetch(NAME, [ASSEMBLY])[ASSEMBLY]
    manifest, _ = find_manifest(NAME)
    return read_assembly(
        source,
        select={"experiment": experiment},
        group="passage_label",
        provenance={**manifest.provenance(ASSEMBLY), "experiment": experiment},
    )


def read_person(path: Path, experiment: str, *, atlas: str | None, subject: str) -> BrainResponses:
    """Read one person's file of one experiment; parameters and errors are those of `load_responses`."""
    fields = _read_mat(path)
    key = next((name for name in IMAGES if name in fields), None)
    if key is None:
        raise InputError(f"{path} has no variable {' or '.join(IMAGES)}. Variables: {listed(fields)}")
    images = np.asarray(fields[key])
    stimuli = _concepts(fields, path, experiment) if "concepts" in experiment else _sentences(fields, path, experiment)
    if images.ndim != 2 or len(images) != len(stimuli):
        raise InputError(
            f"{path}: {key} has shape {images.shape}, expected (stimulus, voxel) with {len(stimuli)} stimuli"
        )
    meta = _need(fields, "meta", path)
    n_voxels = images.shape[1]
    roi, of_atlas = _regions(meta, atlas, n_voxels, path)
    inside = np.flatnonzero(of_atlas != "") if atlas is not None else np.arange(n_voxels)
    coords: dict[str, np.ndarray] = {"column": inside, "atlas": of_atlas[inside]}
    if "colToCoord" in _names(meta):
        places = np.asarray(_field(meta, "colToCoord"))
        if places.shape != (n_voxels, 3):
            raise InputError(f"{path}: meta.colToCoord has shape {places.shape}, expected ({n_voxels}, 3)")
        # MATLAB counts from 1.
        coords.update({name: places[inside, axis].astype(np.int64) - 1 for axis, name in enumerate("ijk")})
    manifest, _ = find_manifest(NAME)
    return BrainResponses.from_arrays(
        images[:, inside].astype(np.float32),
        stimuli,
        roi=roi[inside].tolist(),
        subject=subject,
        voxel_coords=coords,
        provenance={**manifest.provenance(), "experiment": experiment, "atlas": atlas or "none: every voxel"},
    )


def _files(experiment: str) -> dict[str, Path]:
    """Return person -> file of an experiment, those in the store; each is checked against the hash of its first use."""
    manifest, _ = find_manifest(NAME)
    wanted = [p for p in manifest.paths() if p.endswith(f"_{experiment}.mat")]
    folder = store_directory() / NAME
    found: dict[str, Path] = {}
    for kind in KINDS:
        # An archive may have been unpacked into a folder of its own name.
        for path in sorted(folder.rglob(f"{kind}_{experiment}.mat")) if folder.is_dir() else []:
            found.setdefault(path.parent.name, path)
    if not found:
        fetch(NAME, [path for path in wanted if "/data_" in path])  # says what is missing and where it comes from
    for path in found.values():
        inside = path.relative_to(folder).as_posix()
        if inside in wanted:
            fetch(NAME, [inside])
    return dict(sorted(found.items()))


def _read_mat(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    try:
        with path.open("rb") as stream:
            if b"MATLAB 7.3" in stream.read(64):
                raise DataFileError(
                    f"{path} is a MATLAB 7.3 file: save it as version 7 (save -v7), which is what the authors publish"
                )
        fields: dict[str, Any] = loadmat(str(path))
    except DataFileError:
        raise
    except Exception as error:  # scipy and zlib each have errors of their own
        raise DataFileError(f"{path} cannot be read as a MATLAB file (truncated?): {error}") from error
    return {name: value for name, value in fields.items() if not name.startswith("__")}


def _need(fields: Mapping[str, Any], name: str, path: Path) -> Any:
    if name not in fields:
        close = near(name, fields)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        raise InputError(f"{path} has no variable {name!r}.{guess} Variables: {listed(fields)}")
    return fields[name]


def _names(struct: Any) -> tuple[str, ...]:
    return tuple(np.asarray(struct).dtype.names or ())


def _field(struct: Any, name: str) -> Any:
    """Return a field of a 1 x 1 MATLAB struct."""
    return np.asarray(struct)[name].ravel()[0]


def _cells(array: Any) -> list[Any]:
    """Return a MATLAB cell array as a list, whatever its orientation."""
    return list(np.asarray(array, dtype=object).ravel())


def _text(cell: Any) -> str:
    """Return the text of a cell, which MATLAB may have wrapped more than once."""
    while isinstance(cell, np.ndarray):
        if cell.dtype.kind in "US" and cell.size == 1:
            return str(cell.ravel()[0]).strip()
        if cell.size == 0:
            return ""
        cell = cell.ravel()[0]
    return str(cell).strip()


def _indices(fields: Mapping[str, Any], name: str, n_rows: int, n_keys: int, path: Path) -> np.ndarray:
    """Return labels, counted from 1 in the file, as positions counted from 0."""
    labels = np.asarray(_need(fields, name, path)).ravel().astype(np.int64) - 1
    if labels.shape != (n_rows,) or labels.min() < 0 or labels.max() >= n_keys:
        raise InputError(
            f"{path}: {name} has {labels.size} labels from {labels.min() + 1} to {labels.max() + 1}; expected {n_rows} from 1 "
            f"to {n_keys}"
        )
    return labels


def _sentences(fields: Mapping[str, Any], path: Path, experiment: str) -> StimulusSet:
    texts = [_text(cell) for cell in _cells(_need(fields, "keySentences", path))]
    passages = [_text(cell) for cell in _cells(_need(fields, "keyPassages", path))]
    topics = [_text(cell) for cell in _cells(_need(fields, "keyPassageCategory", path))]
    of_sentence = _indices(fields, "labelsPassageForEachSentence", len(texts), len(passages), path)
    of_passage = _indices(fields, "labelsPassageCategory", len(passages), len(topics), path)
    table = {
        "stimulus": [f"{experiment}.{number}" for number in range(len(texts))],
        "passage": [passages[at] for at in of_sentence],
        "category": [topics[of_passage[at]] for at in of_sentence],
        "group": [f"{experiment}.passage{at + 1:03d}" for at in of_sentence],
    }
    return StimulusSet(texts, table, name=f"{NAME}-{experiment}")


def _concepts(fields: Mapping[str, Any], path: Path, experiment: str) -> StimulusSet:
    words = [_text(cell) for cell in _cells(_need(fields, "keyConcept", path))]
    n_rows = np.asarray(_need(fields, "labelsConcept", path)).size
    rows = _indices(fields, "labelsConcept", n_rows, len(words), path)
    table = {"stimulus": [f"180concepts.{at}" for at in rows], "concept": [words[at] for at in rows]}
    return StimulusSet([words[at] for at in rows], table, name=f"{NAME}-{experiment}")


def _atlases(meta: Any) -> dict[str, tuple[np.ndarray, list[str]]]:
    """Return atlas -> (label of each voxel from 1, 0 outside; names of its regions), in either form of the files."""
    names = _names(meta)
    if "atlases" in names:
        atlases = [_text(cell) for cell in _cells(_field(meta, "atlases"))]
        masks, regions = _cells(_field(meta, "roiMultimask")), _cells(_field(meta, "rois"))
        pairs = zip(masks, regions, strict=True)
        return {
            atlas: (_numbers(m), [_text(c) for c in _cells(r)]) for atlas, (m, r) in zip(atlases, pairs, strict=True)
        }
    found = {}
    for name in names:
        of = re.fullmatch(r"roiMultimask(\w+)", name)
        if of and f"rois{of.group(1)}" in names:
            regions = [_text(cell) for cell in _cells(_field(meta, f"rois{of.group(1)}"))]
            found[of.group(1)] = (_numbers(_field(meta, name)), regions)
    return found


def _numbers(mask: Any) -> np.ndarray:
    """Return a multimask as whole numbers, 0 outside (files say 0 or NaN)."""
    return np.nan_to_num(np.asarray(mask, dtype=np.float64).ravel(), nan=0.0).astype(np.int64)


def _regions(meta: Any, atlas: str | None, n_voxels: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return each voxel's region and atlas, ``""`` outside."""
    roi: np.ndarray = np.full(n_voxels, "all" if atlas is None else "", dtype=object)
    of: np.ndarray = np.full(n_voxels, "", dtype=object)
    if atlas is None:
        return roi, of
    known = _atlases(meta)
    chosen = [name for name in known if name.lower() == atlas.lower()]
    chosen = chosen or [name for name in known if name.lower().startswith(atlas.lower())]
    if not chosen:
        raise unknown(f"atlas of {path}", atlas, known, "atlas=None takes every voxel.")
    for name in chosen:
        labels, regions = known[name]
        if labels.shape != (n_voxels,) or labels.max(initial=0) > len(regions):
            raise InputError(
                f"{path}: atlas {name!r} has {labels.size} labels up to {labels.max(initial=0)} for {n_voxels} voxels and "
                f"{len(regions)} regions"
            )
        free = (labels > 0) & (of == "")
        roi[free] = [regions[label - 1] for label in labels[free]]
        of[free] = name
    if not (of != "").any():
        raise InputError(f"{path}: no voxel is in atlas {listed(chosen)}")
    return roi, of
