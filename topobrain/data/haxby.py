"""Haxby et al. (2001): one subject's ventral temporal responses to eight object categories."""

from __future__ import annotations

import itertools

import numpy as np

from topobrain._checks import InputError
from topobrain.data.tables import read_archive
from topobrain.responses import BrainResponses
from topobrain.stats.time_series import remove_drift, zscore_runs
from topobrain.stimuli import StimulusSet
from topobrain.store.files import fetch, find_manifest

FILE = "haxby_sub001_slice.npz"
BRAIN_SHARE = 0.4
"""A voxel counts as brain if its mean intensity exceeds this share of the brightest voxel's."""

REST = "rest"


def load_responses(delay: int = 0) -> BrainResponses:
    """Load block responses to eight object categories: one row a block of one category in one run.

    In each run a voxel's linear trend is removed and its time course z-scored over all volumes; a block is then the
    mean of its volumes.

    Parameters
    ----------
    delay
        Volumes (of 2.5 s) by which responses are read later than their labels. The default is none, because the labels
        of this file already include the haemodynamic delay: the category can be told from the first labelled volume on
        and no longer from the volume after the last, and a further 2 volumes cost a sixth of the decoding accuracy.

    Returns
    -------
    BrainResponses
        ``value (stimulus, voxel)`` with 96 blocks (12 runs of 8) and 446 voxels, in standard deviations of the run.
        The pictures themselves are not part of the data: a row's text is the name of its category, so texts repeat.
        Stimulus columns ``run``, ``category`` and ``group`` (the run, for folds); voxel coordinates ``row`` and
        ``column`` in the slice; noise ceiling unknown.

    Raises
    ------
    DataFileError
        The file is missing, altered or no archive.
    InputError
        An array is missing, or their lengths differ, or the delay leaves a block without volumes.

    References
    ----------
    Haxby et al. (2001) Science 293:2425.
    """
    import pandas as pd

    path = fetch("haxby2001")[FILE]
    arrays = read_archive(path, ["bold", "label", "run"])
    bold, labels, runs = arrays["bold"].astype(np.float64), arrays["label"].astype(str), arrays["run"]
    if bold.ndim != 3 or labels.shape != (len(bold),) or runs.shape != (len(bold),):
        raise InputError(
            f"{path}: bold {bold.shape}, label {labels.shape} and run {runs.shape} do not fit: expected "
            "(volume, row, column), (volume,), (volume,)"
        )
    mean = bold.mean(axis=0)
    brain = mean > BRAIN_SHARE * mean.max()
    values, rows = [], []
    for run in np.unique(runs):
        inside = np.flatnonzero(runs == run)
        series = zscore_runs(remove_drift(bold[inside][:, brain], order=1))
        for start, stop, category in _blocks(labels[inside]):
            if start + delay < 0 or stop + delay > len(series):
                raise InputError(f"delay={delay} volumes moves the {category} block of run {run} out of the run")
            values.append(series[start + delay : stop + delay].mean(axis=0))
            number = int(run) + 1
            rows.append(
                {
                    "stimulus": f"run{number:02d}-{category}",
                    "run": number,
                    "category": category,
                    "group": f"run{number:02d}",
                }
            )
    manifest, _ = find_manifest("haxby2001")
    provenance = manifest.provenance(FILE)
    stimuli = StimulusSet(
        [str(row["category"]) for row in rows], pd.DataFrame(rows), name="haxby2001", provenance=provenance
    )
    where = np.argwhere(brain)
    return BrainResponses.from_arrays(
        np.array(values),
        stimuli,
        roi="VT slice",
        subject="sub001",
        voxel_coords={"row": where[:, 0], "column": where[:, 1]},
        provenance={
            **provenance,
            "preprocessing": "linear trend removed and z-scored per run and voxel; mean of each block's volumes; "
            f"voxels above {BRAIN_SHARE:.0%} of the largest mean",
            "delay_volumes": delay,
        },
    )


def _blocks(labels: np.ndarray) -> list[tuple[int, int, str]]:
    """Return first volume, volume after the last, and category of each block of one run, rest left out."""
    changes = np.flatnonzero(labels[1:] != labels[:-1]) + 1
    edges = [0, *changes.tolist(), len(labels)]
    return [(start, stop, str(labels[start])) for start, stop in itertools.pairwise(edges) if labels[start] != REST]
