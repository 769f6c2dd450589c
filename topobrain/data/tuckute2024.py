"""Tuckute et al. (2024): responses of the language network to 1,000 sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from topobrain._checks import DataFileError, InputError, listed, unknown
from topobrain.brain_files.long_tables import responses_from_long_table
from topobrain.data.tables import read_columns
from topobrain.responses import BrainResponses
from topobrain.stimuli import StimulusSet
from topobrain.store.files import fetch, find_manifest, store_directory

if TYPE_CHECKING:
    import pandas as pd

RESPONSES_FILE = "bold_response_LH.csv"
CEILINGS_FILE = "noise_ceilings.csv"
PREFIX = "lang_LH_"
ROIS = ("netw", "IFGorb", "IFG", "MFG", "AntTemp", "PostTemp")
"""The network (weighted by voxels: not the mean of the other five) and its five regions."""

PARTICIPANTS_FILE = "brain-lang-data_participant_20230728.csv"
"""The authors' table of single people, as it lies in the archive they serve."""

PARTICIPANTS_SOURCE = "https://evlabwebapps.mit.edu/public_data/tuckute2024_driving_suppressing/data.tar (28 MB)"
TRAIN = ("848", "853", "865", "875", "876")
"""The five people whose mean responses to the 1,000 baseline sentences models are fitted to."""


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


def load_responses(
    participants: str | Sequence[str | int] | None = None, *, table: str | Path | None = None, average: bool = False
) -> BrainResponses:
    """Load fMRI responses to 1,000 sentences, with noise ceilings.

    Parameters
    ----------
    participants
        None for the mean of the five people that is part of the data set. ``"train"``, or their numbers, for single people
        from the authors' table: see `load_participants`.
    table, average
        For single people only: see `load_participants`.

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
    if participants is not None or table is not None:
        return load_participants("train" if participants is None else participants, table=table, average=average)
    if average:
        raise InputError(
            "average=True is for single people (participants='train'): what is loaded without is their mean"
        )
    paths = fetch("tuckute2024", [RESPONSES_FILE, CEILINGS_FILE])
    columns = [PREFIX + roi for roi in ROIS]
    frame = read_columns(paths[RESPONSES_FILE], ["item_id", "sentence", *columns])
    of_regions = read_columns(paths[CEILINGS_FILE], ["roi", "noise_ceiling_r"])
    ceilings = dict(zip(of_regions["roi"], of_regions["noise_ceiling_r"], strict=True))
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


def load_participants(
    participants: str | Sequence[str | int] = "train",
    *,
    table: str | Path | None = None,
    conditions: Sequence[str] = ("B",),
    average: bool = False,
) -> BrainResponses:
    """Load the responses of single people, one column a person and region.

    The authors' table has one row a person, region and sentence. Columns read: ``target_UID`` (person), ``roi``
    (``lang_LH_netw`` and the five regions), ``item_id``, ``sentence``, ``cond`` (``B`` baseline, ``D`` drive, ``S`` suppress)
    and ``response_target`` (BOLD; every voxel z-scored within a session before averaging). Other columns that are constant
    for a sentence (ratings, surprisal) become stimulus columns.

    Parameters
    ----------
    participants
        ``"train"`` (848, 853, 865, 875, 876), ``"evaluation"`` (everybody else in the table), ``"all"``, or numbers.
    table
        The table (default: ``tuckute2024/brain-lang-data_participant_20230728.csv`` in the store).
    conditions
        Which sentences: values of ``cond``.
    average
        The mean over people instead of each.

    Returns
    -------
    BrainResponses
        ``roi`` as in `load_responses`, ``column`` the name in the file. The noise ceiling sees people as repeats: that of one
        person, or with ``average`` that of their mean (`topobrain.stats.noise_ceiling`).

    Raises
    ------
    DataFileError
        The table is missing: the message says where the authors serve it.
    InputError
        It lacks a column, or ``participants`` is neither text nor a list.
    UnknownNameError
        A person or condition is not in it.
    """
    import pandas as pd

    if not isinstance(participants, Iterable):
        raise InputError(
            f"participants is {participants!r}: expected 'train', 'evaluation', 'all', or a list of numbers ([{participants}])"
        )
    source = Path(table) if table is not None else store_directory() / "tuckute2024" / PARTICIPANTS_FILE
    if not source.is_file():
        raise DataFileError(
            f"no table of single people {source}. The authors serve it inside {PARTICIPANTS_SOURCE}: unpack it and save "
            f"data/{PARTICIPANTS_FILE} there, or name it with table="
        )
    needed = ["target_UID", "roi", "item_id", "sentence", "cond", "response_target"]
    frame = read_columns(source, needed)
    frame["target_UID"] = frame["target_UID"].astype(str)
    present = list(dict.fromkeys(frame["target_UID"]))
    groups = {
        "train": [p for p in TRAIN if p in present],
        "evaluation": [p for p in present if p not in TRAIN],
        "all": present,
    }
    if isinstance(participants, str):
        if participants not in groups and participants not in present:
            raise unknown("participants", participants, [*groups, *present])
        chosen = groups.get(participants, [participants])
    else:
        chosen = [str(number) for number in participants]
        for number in chosen:
            if number not in present:
                raise unknown(f"participant of {source}", number, present)
    if not chosen:
        raise InputError(f"{source} holds none of the {participants} participants; it has {listed(present)}")
    regions = ["lang_LH_" + roi for roi in ROIS]
    frame = frame[frame["target_UID"].isin(chosen) & frame["roi"].isin(regions)]
    if frame.empty:
        raise InputError(f"{source} has no row of {listed(chosen)} in the regions {listed(regions)}")
    frame = frame.assign(response_target=pd.to_numeric(frame["response_target"], errors="coerce"))
    several = len(chosen) > 1
    manifest, _ = find_manifest("tuckute2024")
    provenance: dict[str, Any] = {**manifest.provenance(), "file": source.name, "participants": chosen}
    responses = responses_from_long_table(
        frame,
        value="response_target",
        stimulus="item_id",
        subject="target_UID",
        select={"cond": list(conditions)},
        ceiling="subjects" if several else None,
        average_subjects=average and several,
        provenance=provenance,
    )
    columns = responses.labels("roi")
    data = responses.data.assign_coords(
        column=("voxel", columns),
        roi=("voxel", np.array([name.removeprefix(PREFIX) for name in columns], dtype=object)),
    )
    return BrainResponses(data)


def _stimuli(frame: pd.DataFrame) -> StimulusSet:
    import pandas as pd

    manifest, _ = find_manifest("tuckute2024")
    return StimulusSet(
        frame["sentence"].astype(str).tolist(),
        pd.DataFrame({"stimulus": frame["item_id"].astype(str)}),
        name="tuckute2024",
        provenance=manifest.provenance(RESPONSES_FILE),
    )
