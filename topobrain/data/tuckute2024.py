"""Tuckute et al. (2024): responses of the language network to 1,000 sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from topobrain._checks import InputError, listed
from topobrain.data.tables import read_columns
from topobrain.responses import BrainResponses
from topobrain.stimuli import StimulusSet
from topobrain.store.files import fetch, find_manifest

if TYPE_CHECKING:
    import pandas as pd

RESPONSES_FILE = "bold_response_LH.csv"
CEILINGS_FILE = "noise_ceilings.csv"
PREFIX = "lang_LH_"
ROIS = ("netw", "IFGorb", "IFG", "MFG", "AntTemp", "PostTemp")
"""The network (weighted by voxels: not the mean of the other five) and its five regions."""


def load_stimuli() -> StimulusSet:
    """Load the 1,000 sentences alone, in the order of `load_responses`; identifiers ``B.1`` to ``B.1000``.

    Raises
    ------
    DataFileError
        The file is missing or altered.
    InputError
        The file lacks a column.
    """
    path = fetch("tuckute2024", [RESPONSES_FILE])[RESPONSES_FILE]
    return _stimuli(read_columns(path, ["item_id", "sentence"]))


def load_responses() -> BrainResponses:
    """Load fMRI responses to 1,000 sentences, with noise ceilings.

    Returns
    -------
    BrainResponses
        ``value (stimulus, voxel)`` with 1,000 sentences and 6 regions: BOLD, z-scored for each voxel and session,
        averaged over the voxels of a region and over 5 participants (no unit). ``roi`` is ``netw``, ``IFGorb``,
        ``IFG``, ``MFG``, ``AntTemp``, ``PostTemp``; ``column`` is the name in the file; ``ceiling`` is in Pearson r,
        for the mean of the participants.

    Raises
    ------
    DataFileError
        A file is missing or altered.
    InputError
        A file lacks a column, or a region has no noise ceiling.

    References
    ----------
    Tuckute et al. (2024) Nat Hum Behav, doi:10.1038/s41562-023-01783-7.
    """
    paths = fetch("tuckute2024", [RESPONSES_FILE, CEILINGS_FILE])
    columns = [PREFIX + roi for roi in ROIS]
    frame = read_columns(paths[RESPONSES_FILE], ["item_id", "sentence", *columns])
    table = read_columns(paths[CEILINGS_FILE], ["roi", "noise_ceiling_r"])
    ceilings = dict(zip(table["roi"], table["noise_ceiling_r"], strict=True))
    lacking = [column for column in columns if column not in ceilings]
    if lacking:
        raise InputError(
            f"{paths[CEILINGS_FILE]} has no noise ceiling for {listed(lacking)}; it has {listed(ceilings)}"
        )
    manifest, _ = find_manifest("tuckute2024")
    return BrainResponses.from_arrays(
        frame[columns].to_numpy(dtype=np.float64),
        _stimuli(frame),
        roi=list(ROIS),
        subject="mean of 5",
        ceiling=np.array([ceilings[column] for column in columns], dtype=np.float64),
        voxel_coords={"column": np.array(columns, dtype=object)},
        provenance=manifest.provenance(RESPONSES_FILE, CEILINGS_FILE),
    )


def _stimuli(frame: pd.DataFrame) -> StimulusSet:
    import pandas as pd

    manifest, _ = find_manifest("tuckute2024")
    return StimulusSet(
        frame["sentence"].astype(str).tolist(),
        pd.DataFrame({"stimulus": frame["item_id"].astype(str)}),
        name="tuckute2024",
        provenance=manifest.provenance(RESPONSES_FILE),
    )
