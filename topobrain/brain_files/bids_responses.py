"""Time courses of a subject's runs from BIDS derivatives (fMRIPrep and its like)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from topobrain._checks import DataFileError, InputError, listed, near
from topobrain.brain_files.bids import ORDER, BidsFile, files_beside, find_bids, read_confounds, read_events
from topobrain.brain_files.cleaning import clean_series
from topobrain.brain_files.images import ImageLike, open_image, stacked_volumes
from topobrain.brain_files.places import hemisphere_name, in_volume, on_surface
from topobrain.brain_files.surfaces import SurfaceColumns, read_surface_values
from topobrain.brain_files.volumes import Extraction
from topobrain.responses import BrainResponses
from topobrain.stats.time_series import SAME_TIME
from topobrain.stimuli import StimulusSet

if TYPE_CHECKING:
    import pandas as pd

NOTHING_SAID = "(nothing)"
"""Text of a volume in which no event begins."""


def responses_from_bids(
    root: str | os.PathLike[str],
    *,
    subject: str,
    task: str,
    space: str | None = None,
    session: str | None = None,
    runs: Sequence[int | str] | None = None,
    desc: str | None = "preproc",
    events: str | os.PathLike[str] | None = None,
    text: str = "trial_type",
    confounds: Sequence[str] = (),
    t_r: float | None = None,
    mask: ImageLike | Mapping[str, Any] | None = None,
    labels: ImageLike | Mapping[str, Any] | None = None,
    names: Any = None,
    average: bool = False,
    provenance: Mapping[str, Any] | None = None,
    **options: Any,
) -> BrainResponses:
    """Which time courses hold a subject's runs of a task: one row a volume, runs one after the other?

    Reads ``sub-*_task-*_[run-*_]space-*_desc-preproc_bold.nii.gz``, or for a surface space both hemispheres of
    ``..._hemi-L_space-*_bold.func.gii``. Every run is cleaned on its own: confounds, trends and filters in one regression
    (nilearn). ``StartTime`` of the sidecar is the moment to which slice timing correction brought the first volume, its
    middle, on the clock of the events: volume n then lasts ``t_r`` seconds from ``StartTime - t_r / 2 + n t_r`` on. Without
    a ``StartTime`` (or with 0) it begins at ``n t_r``.

    Parameters
    ----------
    root
        The derivatives' folder (that of ``dataset_description.json``).
    subject, task, session, runs, space, desc
        Which files: see `find_bids`. ``space=None`` is only unambiguous where there is one.
    events
        The raw data set with the ``events.tsv``. A volume's text is then what column ``text`` says of the events that begin in
        it, as `topobrain.words_to_volumes` counts them, else ``"(nothing)"``. Without it every text is ``"(nothing)"``.
    text
        Column of the events.
    confounds
        Columns of ``desc-confounds_timeseries.tsv`` to regress out: names or patterns, see `read_confounds`.
    t_r
        Seconds between volumes (default: ``RepetitionTime`` of the sidecar, else of the image).
    mask
        Mask (volumes: image, default the runs' common ``desc-brain_mask`` where there are any; surfaces: by hemisphere).
    labels, names, average
        An atlas, as for `responses_from_nifti` and `responses_from_surface`.
    provenance
        Citation, licence, ...
    **options
        Of the masker or of `nilearn.signal.clean`: ``detrend``, ``standardize``, ``high_pass``, ``smoothing_fwhm``, ...

    Returns
    -------
    BrainResponses
        ``design="timeseries"``; stimulus columns ``run``, ``group`` (the run: folds must not split it), ``volume``, ``time_s``
        (start of the volume, in seconds on the clock of the events).

    Raises
    ------
    DataFileError
        A file is missing, truncated or no image.
    UnknownNameError
        No file has the entities: the nearest values are offered.
    InputError
        Several files fit where one must (name the space or session), a hemisphere is missing, runs lie on different grids, or
        a confound table has another number of rows than its run has volumes.

    References
    ----------
    Gorgolewski et al. (2016) Sci Data 3:160044; Esteban et al. (2019) Nat Methods 16:111.
    """
    chosen: dict[str, Any] = {"subject": subject, "task": task}
    chosen.update({k: v for k, v in (("session", session), ("run", runs), ("space", space)) if v is not None})
    found = [
        file
        for file in find_bids(root, suffix="bold", extension=(".nii.gz", ".nii", ".func.gii"), **chosen)
        if file.extension == ".func.gii" or desc is None or file.entities.get("desc") == desc
    ]
    if not found:
        raise DataFileError(f"{root} holds no desc-{desc} bold file of sub-{subject}, task {task}")
    grouped = _runs(found)
    seconds = [_timing(files[0], t_r) for files in grouped]
    if len({step for _, step in seconds}) > 1:
        raise InputError(f"runs have different times between volumes: {listed([step for _, step in seconds])} s")
    tables = [_confounds(root, files[0], confounds) for files in grouped] if confounds else None
    settings = {"t_r": seconds[0][1], **options} if options else {}
    where = found[0].entities.get("space")
    if any("hemi" in file.entities for file in found):
        taken = _surface_rows(
            grouped, SurfaceColumns(_sided(mask), _sided(labels), average, drop=True), tables, settings
        )
    else:
        if mask is None and labels is None:
            mask = _common_mask(root, grouped)
        taken = _volume_rows(grouped, Extraction(mask, labels, None, names, average, False, settings), tables)
    responses = BrainResponses.from_arrays(
        taken.values,
        _volumes_as_stimuli(grouped, taken.lengths, seconds, events, text),
        roi=taken.roi,
        subject=f"sub-{str(subject).removeprefix('sub-')}",
        design="timeseries",
        voxel_coords=taken.coords,
        provenance={
            "files": [file.path.name for file in found],
            "extraction": taken.words,
            "confounds": list(tables[0].columns) if tables else [],
            "tr_s": seconds[0][1],
            "space": where or "native",
            **(provenance or {}),
        },
    )
    return taken.placed(responses, where)


@dataclass(frozen=True)
class _Taken:
    """What was taken from the images of all runs."""

    values: np.ndarray
    lengths: list[int]
    coords: dict[str, np.ndarray]
    roi: Any
    words: dict[str, Any]
    placed: Callable[[BrainResponses, str | None], BrainResponses]


def _volume_rows(
    grouped: Sequence[Sequence[BidsFile]], extraction: Extraction, tables: Sequence[pd.DataFrame] | None
) -> _Taken:
    volumes = [stacked_volumes([files[0].path]) for files in grouped]
    lengths = [int(volume.shape[3]) for volume in volumes]
    _same_length(tables, lengths, grouped)
    values = extraction.rows(volumes, [str(files[0].path) for files in grouped], tables)
    first = volumes[0]

    def placed(responses: BrainResponses, space: str | None) -> BrainResponses:
        return in_volume(responses, first.affine, first.shape, space)

    return _Taken(values, lengths, extraction.coords, extraction.roi, extraction.words, placed)


def _surface_rows(
    grouped: Sequence[Sequence[BidsFile]],
    columns: SurfaceColumns,
    tables: Sequence[pd.DataFrame] | None,
    settings: Mapping[str, Any],
) -> _Taken:
    sides = [_both_sides(files) for files in grouped]
    lengths = [len(side["left"]) for side in sides]
    _same_length(tables, lengths, grouped)
    for number, side in enumerate(sides):
        for name, rows in side.items():
            if rows.shape[1] != sides[0][name].shape[1]:
                raise InputError(
                    f"{grouped[number][0].path.name} has {rows.shape[1]:,} vertices ({name}), the first run "
                    f"{sides[0][name].shape[1]:,}: expected one mesh"
                )
    whole = {name: np.concatenate([side[name] for side in sides]) for name in sides[0]}
    parts = np.split(columns.columns(whole), np.cumsum(lengths)[:-1])
    values = [clean_series(part, settings, tables[n] if tables else None) for n, part in enumerate(parts)]
    counts = {name: rows.shape[1] for name, rows in whole.items()}

    def placed(responses: BrainResponses, space: str | None) -> BrainResponses:
        return on_surface(responses, counts, space)

    coords = {
        "hemisphere": np.array(columns.hemisphere, dtype=object),
        "vertex": np.array(columns.vertex, dtype=np.int64),
    }
    words = {"n_vertices_left_out": columns.n_left_out, **settings}
    return _Taken(np.concatenate(values), lengths, coords, columns.roi, words, placed)


def _runs(found: Sequence[BidsFile]) -> list[list[BidsFile]]:
    """Return the files of each run (two hemispheres belong together), or raise if more than the run tells files apart."""
    groups: dict[tuple[str, str], list[BidsFile]] = {}
    for file in found:
        groups.setdefault((file.entities.get("ses", ""), file.entities.get("run", "")), []).append(file)
    for files in groups.values():
        for key in (*ORDER[2:], "extension"):
            values = {file.extension if key == "extension" else file.entities.get(key, "(none)") for file in files}
            if key not in ("run", "hemi") and len(values) > 1:
                raise InputError(
                    f"several files of one run fit: they differ in {key} ({listed(sorted(values))}). Name the one that is meant: "
                    f"{listed([file.path.name for file in files], 4)}"
                )
    return list(groups.values())


def _both_sides(files: Sequence[BidsFile]) -> dict[str, np.ndarray]:
    """Return hemisphere -> time courses (volume, vertex) of one run."""
    by_side = {hemisphere_name(file.entities["hemi"]): file for file in files if "hemi" in file.entities}
    for side, letter in (("left", "L"), ("right", "R")):
        if side not in by_side:
            raise InputError(f"the {side} hemisphere (hemi-{letter}) of {files[0].path.name} is missing")
    sides = {side: read_surface_values(by_side[side].path) for side in ("left", "right")}
    if len(sides["left"]) != len(sides["right"]):
        raise InputError(
            f"{by_side['left'].path.name} has {len(sides['left'])} volumes, {by_side['right'].path.name} {len(sides['right'])}"
        )
    return sides


def _sided(given: Any) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(f"a mask or atlas of a surface space is hemisphere -> file, got {given!r}")
    return given


def _confounds(root: str | os.PathLike[str], file: BidsFile, columns: Sequence[str]) -> pd.DataFrame:
    tables = [f for f in files_beside(root, file, "timeseries", desc="confounds") if f.extension == ".tsv"]
    if not tables:
        raise DataFileError(f"{file.path.name} has no desc-confounds_timeseries.tsv beside it in {root}")
    return read_confounds(tables[0].path, columns)


def _same_length(
    tables: Sequence[pd.DataFrame] | None, lengths: Sequence[int], grouped: Sequence[Sequence[BidsFile]]
) -> None:
    for n, table in enumerate(tables or ()):
        if len(table) != lengths[n]:
            raise InputError(
                f"the confounds of {grouped[n][0].path.name} have {len(table)} rows for {lengths[n]} volumes: expected one each"
            )


def _common_mask(root: str | os.PathLike[str], grouped: Sequence[Sequence[BidsFile]]) -> Any:
    """Return the voxels inside every run's brain mask; None where a run has none."""
    import nibabel

    places = []
    for files in grouped:
        space = files[0].entities.get("space")
        found = [
            f
            for f in files_beside(root, files[0], "mask", desc="brain")
            if f.extension in (".nii.gz", ".nii")
            and f.entities.get("space") == space
            and f.entities.get("res") == files[0].entities.get("res")
        ]
        if not found:
            return None
        places.append(found[0].path)
    images = stacked_volumes(places)
    return nibabel.Nifti1Image((images.get_fdata() > 0).all(axis=3).astype(np.int8), images.affine)


def _timing(file: BidsFile, t_r: float | None) -> tuple[float, float]:
    """Return ``StartTime``, the middle of the first volume (0 where it is not known), and the time between volumes (s)."""
    sidecar = file.path.with_name(file.path.name[: -len(file.extension)] + ".json")
    fields: dict[str, Any] = {}
    if sidecar.is_file():
        try:
            fields = json.loads(sidecar.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataFileError(f"{sidecar} is no readable JSON: {error}") from error
        if not isinstance(fields, dict):
            raise DataFileError(
                f"{sidecar} holds a {type(fields).__name__}: expected a JSON object with RepetitionTime, ..."
            )
        for key in ("RepetitionTime", "StartTime"):
            _require_seconds(fields.get(key), f"{key} of {sidecar}")
    _require_seconds(t_r, "t_r")
    step = t_r if t_r is not None else fields.get("RepetitionTime")
    if step is None and file.extension in (".nii", ".nii.gz"):
        zooms = open_image(file.path).header.get_zooms()
        step = float(zooms[3]) if len(zooms) > 3 else None
    if step is None or not float(step) > 0:
        raise InputError(
            f"the time between volumes of {file.path.name} is not known: give t_r= in seconds, or RepetitionTime in "
            f"{sidecar.name}"
        )
    return float(fields.get("StartTime", 0.0)), float(step)


def _require_seconds(given: Any, what: str) -> None:
    """Raise unless something is a finite number, or not given."""
    number = isinstance(given, int | float | np.number) and not isinstance(given, bool)
    if given is not None and not (number and np.isfinite(given)):
        raise InputError(f"{what} is {given!r}: expected seconds")


def _volumes_as_stimuli(
    grouped: Sequence[Sequence[BidsFile]],
    lengths: Sequence[int],
    seconds: Sequence[tuple[float, float]],
    events: str | os.PathLike[str] | None,
    text: str,
) -> StimulusSet:
    """Return one stimulus a volume, its text what the events that begin in it say."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for files, n_volumes, (middle, step) in zip(grouped, lengths, seconds, strict=True):
        start = middle - step / 2 if middle > 0 else middle  # of the first volume
        said: list[list[str]] = [[] for _ in range(n_volumes)]
        if events is not None:
            tables = [f for f in files_beside(events, files[0], "events") if f.extension == ".tsv"]
            if not tables:
                raise DataFileError(f"{events} has no events.tsv for {files[0].path.name}")
            table = read_events(tables[0].path)
            if text not in table.columns:
                close = near(text, table.columns)
                guess = f" Did you mean {close[0]!r}?" if close else ""
                raise InputError(f"{tables[0].path} has no column {text!r}.{guess} Columns: {listed(table.columns)}")
            for onset, word in zip(table["onset"], table[text], strict=True):
                volume = int(np.floor((float(onset) - start) / step + SAME_TIME))
                if 0 <= volume < n_volumes and not (isinstance(word, float) and np.isnan(word)):
                    said[volume].append(str(word))
        own = files[0].entities
        run = "_".join(f"{key}-{own[key]}" for key in ("ses", "run") if key in own) or "run-1"
        rows += [
            {
                "stimulus": f"{run}_volume-{volume:04d}",
                "text": " ".join(words) or NOTHING_SAID,
                "run": run,
                "group": run,
                "volume": volume,
                "time_s": start + step * volume,
            }
            for volume, words in enumerate(said)
        ]
    frame = pd.DataFrame(rows)
    name = f"sub-{grouped[0][0].entities['sub']}_task-{grouped[0][0].entities.get('task', '')}"
    return StimulusSet(frame["text"].tolist(), frame.drop(columns="text"), name=name)
