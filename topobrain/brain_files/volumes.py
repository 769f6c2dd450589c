"""Volume images (NIfTI) become responses, through nilearn's maskers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from topobrain._checks import InputError, listed, near
from topobrain.brain_files.cleaning import mixes_volumes, require_options
from topobrain.brain_files.images import (
    ImageLike,
    as_list,
    grid_words,
    image_data,
    named,
    open_image,
    require_rows,
    same_grid,
    stacked_volumes,
)
from topobrain.brain_files.places import VOLUME_COORDS, in_volume
from topobrain.brain_files.repeats import average_repeats
from topobrain.responses import BrainResponses, read_table, real_numbers
from topobrain.stimuli import StimulusSet

OURS = (
    *("mask_img", "labels_img", "maps_img", "labels", "lut", "runs", "dtype", "reports", "verbose", "cmap"),
    *("memory", "memory_level", "target_affine", "target_shape", "resampling_target", "keep_masked_labels"),
    *("keep_masked_maps", "background_label", "allow_overlap"),
)
"""Options of nilearn's maskers that topobrain sets itself (images are resampled with ``resample=``, and only masks)."""

LABEL_LIMIT = 2**31
"""Labels are kept in 32 bits with a sign."""


def responses_from_nifti(
    images: ImageLike | Sequence[ImageLike] | Mapping[str, ImageLike],
    stimuli: StimulusSet,
    *,
    mask: ImageLike | None = None,
    labels: ImageLike | None = None,
    maps: ImageLike | None = None,
    names: Mapping[int, str] | Sequence[str] | str | Path | None = None,
    average: bool = True,
    resample: bool = False,
    order: Sequence[str] | None = None,
    subject: str = "group",
    ceiling: float | np.ndarray | Mapping[str, float] | ImageLike | None = None,
    design: Literal["events", "timeseries"] = "events",
    space: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    **options: Any,
) -> BrainResponses:
    """Which responses do volume images hold: one row an image, one column a voxel or a region?

    * ``mask`` alone: every voxel of the mask (`nilearn.maskers.NiftiMasker`). Without a mask nilearn computes one from the
      first image or run (``mask_strategy="background"``, which is made for BOLD and guesses badly on betas).
    * ``labels``: the mean of each region (`nilearn.maskers.NiftiLabelsMasker`), over the voxels that have values in every
      image; or, with ``average=False``, every voxel that has a label, with the region as its ``roi``.
    * ``maps``: the weight of each probabilistic map (`nilearn.maskers.NiftiMapsMasker`, least squares).

    nilearn turns missing values into zeros; here a voxel without a value stays NaN. Where an option mixes volumes
    (``detrend``, ``standardize``, filters) such a voxel is NaN throughout its run. Smoothing counts missing voxels as 0.

    Parameters
    ----------
    images
        One 4D image; one 3D image a stimulus; several 4D images one after the other (runs: cleaned one by one); a mapping
        of stimulus identifiers to images; or a template such as ``"betas/{stimulus}.nii.gz"``.
    stimuli
        The stimuli of the volumes, in order.
    mask
        Mask image: voxels that are not 0.
    labels, maps
        Atlas: whole numbers, 0 for background; or 4D with one map a region.
    names
        Names of the regions: label -> name, a table with columns ``index`` and ``name`` (BIDS ``_dseg.tsv``), or, for
        ``maps``, one name a map. Default: the numbers.
    average
        Whether ``labels`` gives means of regions or their voxels.
    resample
        Whether a mask or atlas on another grid may be resampled to the images (nearest neighbour; maps linearly). The
        images themselves are never resampled.
    order
        Stimulus identifier of each volume, where stimuli were repeated or the volumes lie in another order: repeats are
        averaged, and where all have equally many, they give the noise ceiling.
    subject
        Whose brain it is.
    ceiling
        Noise ceiling in Pearson r: one number, one a voxel or region, region -> number, or an image of it.
    design
        ``"events"`` (one volume a stimulus) or ``"timeseries"`` (consecutive volumes).
    space
        Name of the space the images lie in (``"MNI152NLin2009cAsym"``), kept for later.
    provenance
        Citation, licence, ``simulated=True``, ...
    **options
        Of the masker: ``smoothing_fwhm`` (mm), ``detrend``, ``standardize``, ``t_r`` (s), ``high_pass`` (Hz),
        ``mask_strategy``, ``strategy``, ...

    Returns
    -------
    BrainResponses
        Voxel coordinates ``i``, ``j``, ``k`` (for voxels), attributes ``affine``, ``shape``, ``space``: what `save_map`
        needs. float32 unless the images are stored in float64.

    Raises
    ------
    DataFileError
        A file is missing, truncated, or no image.
    InputError
        Grids differ, there are not as many volumes as stimuli, a mask is empty, a label has no name, a value is infinite,
        or an option is not the masker's.

    Examples
    --------
    >>> import nibabel
    >>> betas = nibabel.Nifti1Image(np.arange(24.0).reshape(2, 2, 2, 3), np.eye(4))
    >>> mask = nibabel.Nifti1Image(np.eye(2, dtype="int8")[..., None].repeat(2, axis=2), np.eye(4))
    >>> brain = responses_from_nifti(betas, StimulusSet(["a", "b", "c"]), mask=mask)
    >>> brain.values[0].tolist(), brain.data["i"].values.tolist()
    ([0.0, 3.0, 18.0, 21.0], [0, 0, 1, 1])
    """
    given = as_list(images, stimuli)
    several_runs = len(given) > 1 and all(len(getattr(open_image(image), "shape", ())) == 4 for image in given)
    runs = [stacked_volumes([image]) for image in given] if several_runs else [stacked_volumes(given)]
    extraction = Extraction(mask, labels, maps, names, average, resample, options)
    values = extraction.rows(runs, [named(image) for image in given])
    rows = list(order) if order is not None else stimuli.ids
    require_rows(len(values), rows, given)
    counts: list[int] = []
    if order is not None:
        values, from_repeats, counts = average_repeats(values, rows, stimuli.ids)
        ceiling = from_repeats if ceiling is None else ceiling
    responses = BrainResponses.from_arrays(
        values,
        stimuli,
        roi=extraction.roi,
        subject=subject,
        ceiling=extraction.ceiling(ceiling),
        design=design,
        voxel_coords=extraction.coords,
        provenance={
            "files": [Path(named(image)).name for image in given][:1000],
            "extraction": extraction.words,
            **({"repeats": sorted(set(counts))} if counts else {}),
            **({"space": space} if space else {}),
            **(provenance or {}),
        },
    )
    return in_volume(responses, runs[0].affine, runs[0].shape, space)


@dataclass
class Extraction:
    """How columns are taken from volumes; after `rows` it knows what they are.

    Parameters are those of `responses_from_nifti`.
    """

    mask: ImageLike | None = None
    labels: ImageLike | None = None
    maps: ImageLike | None = None
    names: Mapping[int, str] | Sequence[str] | str | Path | None = None
    average: bool = True
    resample: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    roi: list[str] | str = "all"
    coords: dict[str, np.ndarray] = field(default_factory=dict)
    words: dict[str, Any] = field(default_factory=dict)
    _inside: np.ndarray | None = None
    _grid: Any = None

    def rows(self, runs: Sequence[Any], files: Sequence[str], confounds: Sequence[Any] | None = None) -> np.ndarray:
        """Return the responses (volume, column) of one or more runs, one below the other.

        Parameters
        ----------
        runs
            4D images of one grid; each is cleaned on its own.
        files
            Where they come from, for messages.
        confounds
            Time courses to regress out, one table (volume, confound) a run.
        """
        from nilearn import maskers

        if self.labels is not None and self.maps is not None:
            raise InputError("both labels and maps were given: expected one atlas")
        for number, run in enumerate(runs):
            if not same_grid(runs[0], run):
                raise InputError(
                    f"run {number + 1} ({files[min(number, len(files) - 1)]}) lies on another grid than the first: "
                    f"{grid_words(run)}, against {grid_words(runs[0])}"
                )
        of_regions = (self.labels is not None and self.average) or self.maps is not None
        kind = (
            maskers.NiftiMasker
            if not of_regions
            else maskers.NiftiMapsMasker
            if self.maps is not None
            else maskers.NiftiLabelsMasker
        )
        require_options(self.options, kind.__init__, kind.__name__, OURS)
        require_finite(runs, files)
        self.words = {"masker": kind.__name__, **{k: v for k, v in self.options.items() if v is not None}}
        whole = [confounds[n] if confounds is not None else None for n in range(len(runs))]
        return self._region_rows(kind, runs, whole) if of_regions else self._voxel_rows(kind, runs, whole)

    def ceiling(self, given: Any) -> np.ndarray | float | None:
        """Return a ceiling one a column, from any of the forms that are taken."""
        if given is None or isinstance(given, int | float):
            return given
        if isinstance(given, np.ndarray | list | tuple):
            return real_numbers("ceiling", given)
        if isinstance(given, Mapping):
            known = set(self.roi)
            for name in given:
                if name not in known:
                    close = near(name, sorted(known))
                    guess = f" Did you mean {close[0]!r}?" if close else ""
                    raise InputError(f"a ceiling is given for {name!r}, which is no region.{guess}")
            return real_numbers("ceiling", [given.get(name, np.nan) for name in self.roi])
        if self._inside is None:
            raise InputError("a ceiling image needs voxels: regions take one number each (region -> ceiling)")
        image = stacked_volumes([given])
        if image.shape[:3] != self._inside.shape or image.shape[3] != 1:
            raise InputError(f"{named(given)} has shape {image.shape}, expected one volume of {self._inside.shape}")
        if not same_grid(image, self._grid):
            raise InputError(
                f"the ceiling {named(given)} lies on another grid than the images: {grid_words(image)}, against "
                f"{grid_words(self._grid)}. Resample it first (nilearn.image.resample_to_img)"
            )
        return np.asarray(image.get_fdata()[..., 0][self._inside], dtype=np.float64)

    def _voxel_rows(self, kind: Any, runs: Sequence[Any], confounds: Sequence[Any]) -> np.ndarray:
        inside, regions = self._mask_on(runs[0]), None
        if self.labels is not None:
            regions, words = self._labels_on(runs[0])
            inside = (regions != 0) if inside is None else inside & (regions != 0)
        if inside is not None:
            require_some(inside, named(self.mask if self.mask is not None else self.labels))
        rows = []
        for run, confound in zip(runs, confounds, strict=True):
            if inside is None:
                masker = fitted(kind(reports=False, **self.options), without_nan(run))
                inside = np.asarray(masker.mask_img_.dataobj) != 0
                require_some(inside, "the mask that nilearn computed")
                self.words["mask"] = f"computed by nilearn ({self.options.get('mask_strategy', 'background')})"
            masker = fitted(kind(mask_img=like(inside.astype(np.int8), run), reports=False, **self._without_strategy()))
            absent = np.isnan(image_data(run)[inside]).T
            found = transformed(masker, without_nan(run), confound)
            if mixes_volumes(self.options, confound):
                absent = np.broadcast_to(absent.any(axis=0), absent.shape)
            found[absent] = np.nan
            rows.append(found)
        assert inside is not None
        where = np.argwhere(inside)
        self.coords = {name: where[:, axis].astype(np.int64) for axis, name in enumerate(VOLUME_COORDS)}
        if regions is not None:
            self.roi = [words[number] for number in regions[inside].tolist()]
        self._inside, self._grid = inside, runs[0]
        return np.concatenate(rows) if len(rows) > 1 else rows[0]

    def _without_strategy(self) -> dict[str, Any]:
        return {name: value for name, value in self.options.items() if name not in ("mask_strategy", "mask_args")}

    def _region_rows(self, kind: Any, runs: Sequence[Any], confounds: Sequence[Any]) -> np.ndarray:
        inside = self._mask_on(runs[0])
        usable = np.logical_and.reduce([np.isfinite(image_data(run)).all(axis=3) for run in runs])
        if inside is not None:
            require_some(inside, named(self.mask))
        kept = usable if inside is None else usable & inside
        take = self._maps_on if self.maps is not None else self._regions_on
        names, empty, covered, atlas = take(runs[0], kept)
        self.words["n_voxels_without_values"] = int((covered & ~usable & (True if inside is None else inside)).sum())
        if len(empty) == len(names):
            raise InputError("no region of the atlas has a voxel with values in every image (inside the mask)")
        rows = []
        for run, confound in zip(runs, confounds, strict=True):
            masker = kind(**atlas, mask_img=like(kept.astype(np.int8), run), reports=False, **self.options)
            rows.append(transformed(fitted(masker), without_nan(run), confound))
        found = np.concatenate(rows) if len(rows) > 1 else rows[0]
        # A region outside the images stays in the result, unknown: which regions there are must not depend on a subject.
        columns = np.full((len(found), len(names)), np.nan, dtype=found.dtype)
        columns[:, [name not in empty for name in names]] = found
        self.roi = names
        self.words["regions_without_voxels"] = empty
        return columns

    def _regions_on(self, image: Any, kept: np.ndarray) -> tuple[list[str], list[str], np.ndarray, dict[str, Any]]:
        """Return the regions' names, those without a voxel in ``kept``, the voxels of any, and what nilearn is given."""
        regions, words = self._labels_on(image)
        left = set(np.unique(regions[kept]).tolist())
        empty = [name for number, name in words.items() if number not in left]
        # Labels that the mask empties are taken out here: nilearn drops their columns, with a warning.
        atlas = np.where(np.isin(regions, list(left)), regions, 0)
        return list(words.values()), empty, regions != 0, {"labels_img": like(atlas, image)}

    def _maps_on(self, image: Any, kept: np.ndarray) -> tuple[list[str], list[str], np.ndarray, dict[str, Any]]:
        atlas = self._on_grid(self.maps, image, "continuous", "atlas of maps")
        if len(atlas.shape) != 4:
            raise InputError(f"{named(self.maps)} has shape {atlas.shape}: expected 4D, one map a region")
        data = image_data(atlas)
        n_maps = data.shape[3]
        if self.names is not None and (isinstance(self.names, str | Path | Mapping) or len(self.names) != n_maps):
            raise InputError(f"names gives {self.names!r} for {n_maps} maps: expected a list of one name each")
        names = [str(n) for n in self.names] if self.names is not None else [str(n + 1) for n in range(n_maps)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"names are not unique: {listed(twice, 5)} name more than one map of {named(self.maps)}")
        left = [bool((data[..., n][kept] != 0).any()) for n in range(n_maps)]
        empty = [name for name, some in zip(names, left, strict=True) if not some]
        return names, empty, (data != 0).any(axis=3), {"maps_img": like(data[..., left], image)}

    def _labels_on(self, image: Any) -> tuple[np.ndarray, dict[int, str]]:
        """Return the atlas on the images' grid, and label -> name."""
        atlas = self._on_grid(self.labels, image, "nearest", "atlas")
        data = np.asarray(atlas.dataobj)
        data = data[..., 0] if data.ndim == 4 and data.shape[3] == 1 else data
        if data.ndim != 3 or not np.isfinite(data).all() or (data != np.round(data)).any():
            raise InputError(
                f"{named(self.labels)} is no atlas of labels: expected a 3D image of whole numbers (0 for background), "
                f"got shape {data.shape}. An atlas of probabilities is read with maps="
            )
        if np.abs(data.astype(np.float64)).max(initial=0.0) >= LABEL_LIMIT:
            raise InputError(
                f"{named(self.labels)} has the label {data.ravel()[np.abs(data.astype(np.float64)).argmax()]:.0f}: expected "
                f"whole numbers below 2^31. Number its regions anew"
            )
        regions = data.astype(np.int32)
        numbers = [number for number in np.unique(regions).tolist() if number]
        if not numbers:
            raise InputError(f"{named(self.labels)} holds no label: every voxel is 0")
        return regions, label_names(self.names, numbers, named(self.labels))

    def _mask_on(self, image: Any) -> np.ndarray | None:
        if self.mask is None:
            return None
        mask = self._on_grid(self.mask, image, "nearest", "mask")
        data = np.asarray(mask.dataobj)
        data = data[..., 0] if data.ndim == 4 and data.shape[3] == 1 else data
        if data.ndim != 3:
            raise InputError(f"{named(self.mask)} has shape {data.shape}: expected a mask of one volume")
        self.words["mask"] = Path(named(self.mask)).name
        return np.asarray((data != 0) & np.isfinite(data))

    def _on_grid(self, given: ImageLike, image: Any, interpolation: str, what: str) -> Any:
        opened = open_image(given, what)
        if not hasattr(opened, "affine"):
            raise InputError(f"the {what} is {type(given).__name__}: expected a volume image (a file, or nibabel's)")
        if same_grid(opened, image):
            return opened
        if not self.resample:
            raise InputError(
                f"the {what} {named(given)} lies on another grid than the images: {grid_words(opened)}, against "
                f"{grid_words(image)}. Resample it, or let resample=True do it ({interpolation})"
            )
        from nilearn.image import resample_img

        self.words["resampled"] = [*self.words.get("resampled", []), Path(named(given)).name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return resample_img(
                opened, target_affine=image.affine, target_shape=image.shape[:3], interpolation=interpolation
            )


def label_names(
    names: Mapping[int, str] | Sequence[str] | str | Path | None, numbers: Sequence[int], source: str
) -> dict[int, str]:
    """Return label -> name for every label of an atlas; names of labels that are not there are no error.

    Raises
    ------
    InputError
        A label has no name, or two have the same.
    """
    if names is None:
        return {number: str(number) for number in numbers}
    if isinstance(names, str | Path):
        table = read_table(names)
        for column in ("index", "name"):
            if column not in table.columns:
                raise InputError(
                    f"{names} has no column {column!r}: expected index and name. Columns: {listed(table.columns)}"
                )
        known = {int(i): str(name) for i, name in zip(table["index"], table["name"], strict=True)}
    elif isinstance(names, Mapping):
        known = {int(i): str(name) for i, name in names.items()}
    else:
        raise InputError(
            f"names of labels are {names!r}: expected label -> name, or a table with columns index and name"
        )
    lacking = [number for number in numbers if number not in known]
    if lacking:
        raise InputError(f"labels {listed(lacking, 8)} of {source} have no name; named are {listed(known, 20)}")
    used = [known[number] for number in numbers]
    twice = sorted({name for name in used if used.count(name) > 1})
    if twice:
        raise InputError(f"names are not unique: {listed(twice, 5)} name more than one label of {source}")
    return {number: known[number] for number in numbers}


def require_finite(runs: Sequence[Any], files: Sequence[str]) -> None:
    """Raise at the first infinite value, naming file, volume and voxel: nilearn would turn it into zero."""
    for number, run in enumerate(runs):
        data = image_data(run)
        for volume in range(data.shape[3]):
            bad = np.isinf(data[..., volume])
            if bad.any():
                place = tuple(int(x) for x in np.argwhere(bad)[0])
                source = files[number] if len(files) == len(runs) else files[0] if len(files) == 1 else files[volume]
                raise InputError(f"{source} holds an infinite value in volume {volume} at voxel {place}")


def require_some(inside: np.ndarray, what: str) -> None:
    """Raise if a mask is empty."""
    if not inside.any():
        raise InputError(f"{what} is empty: no voxel is left")


def like(data: np.ndarray, image: Any) -> Any:
    """Return data as an image on another image's grid."""
    import nibabel

    return nibabel.Nifti1Image(data, image.affine)


def without_nan(image: Any) -> Any:
    """Return an image with zeros for missing values: nilearn writes them into the array that it is given."""
    data = image_data(image)
    return like(np.nan_to_num(data, nan=0.0), image) if np.isnan(data).any() else image


def fitted(masker: Any, image: Any | None = None) -> Any:
    """Fit a masker, with nilearn's complaints as ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return masker.fit(image) if image is not None else masker.fit()
    except (ValueError, TypeError) as error:
        raise InputError(f"nilearn cannot fit {type(masker).__name__}: {error}") from error


def transformed(masker: Any, image: Any, confounds: Any) -> np.ndarray:
    """Return what a fitted masker takes from a 4D image, as (volume, column), with nilearn's complaints as ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = np.array(masker.transform(image, confounds=confounds))
    except (ValueError, TypeError) as error:
        raise InputError(f"{type(masker).__name__} cannot read the images: {error}") from error
    return found.reshape(image.shape[3], -1)
