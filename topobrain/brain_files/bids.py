"""BIDS trees (raw data and derivatives): files by what their names say, tables of events and of confounds."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from topobrain._checks import DataFileError, InputError, listed, unknown

if TYPE_CHECKING:
    import pandas as pd

ENTITIES = {
    "subject": "sub",
    "session": "ses",
    "acquisition": "acq",
    "direction": "dir",
    "resolution": "res",
    "density": "den",
    "description": "desc",
    "hemisphere": "hemi",
    "atlas": "seg",
}
"""Long names of entities and their keys in file names; keys themselves are taken too."""

ORDER = ("sub", "ses", "task", "acq", "dir", "run", "echo", "hemi", "space", "res", "den", "seg", "label", "desc")
"""Entities in the order of BIDS file names, by which files are sorted."""

NUMBERED = ("run", "echo")
"""Entities whose values are numbers: ``run-1`` is ``run-01``."""


@dataclass(frozen=True)
class BidsFile:
    """One file of a BIDS tree.

    Parameters
    ----------
    path
        Where it lies.
    entities
        Key -> value of its name, in its order (``{"sub": "01", "task": "story", ...}``).
    suffix
        What stands after the entities (``"bold"``, ``"timeseries"``, ``"events"``).
    extension
        From the first dot on (``".nii.gz"``, ``".func.gii"``).
    """

    path: Path
    entities: Mapping[str, str]
    suffix: str
    extension: str


def parse_bids_name(path: str | os.PathLike[str]) -> BidsFile | None:
    """Return what a BIDS file name says, None if it is no such name.

    >>> parse_bids_name("sub-01_task-story_run-2_desc-confounds_timeseries.tsv").entities["run"]
    '2'
    """
    source = Path(path)
    stem, dot, rest = source.name.partition(".")
    *pairs, suffix = stem.split("_")
    split = [pair.partition("-") for pair in pairs]
    if not dot or not suffix or "-" in suffix or not all(key and dash and value for key, dash, value in split):
        return None
    return BidsFile(source, {key: value for key, _, value in split}, suffix, dot + rest)


def find_bids(
    root: str | os.PathLike[str],
    *,
    suffix: str | None = None,
    extension: str | Sequence[str] | None = None,
    **entities: Any,
) -> list[BidsFile]:
    """Return the files of a BIDS tree with the given entities, sorted by entities.

    Parameters
    ----------
    root
        A data set, or its derivatives.
    suffix, extension
        ``"bold"``; ``".nii.gz"``, or several.
    **entities
        ``subject="01"`` (or ``sub``; a leading ``sub-`` is taken off), ``session``, ``task``, ``run``, ``space``, ``hemi``,
        ``desc``, ...: a value, several, or None for files that must not have the entity. Left out: any. ``run=1`` also finds
        ``run-01``.

    Raises
    ------
    DataFileError
        ``root`` is no folder, or holds no file with a BIDS name.
    InputError
        ``root`` is no path.
    UnknownNameError
        An entity excludes every file that the others leave: its values among those are offered.
    """
    if not isinstance(root, str | os.PathLike):
        raise InputError(f"the BIDS folder is {root!r}: expected one path")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataFileError(f"no folder {folder}: expected a BIDS data set or its derivatives")
    wanted: dict[str, Any] = {ENTITIES.get(name, name): value for name, value in entities.items()}
    # A subject's own folder is looked through alone: trees of large studies hold millions of files.
    only = _texts(wanted.get("sub"), "sub")
    tops = [folder / f"sub-{only[0]}"] if len(only) == 1 and (folder / f"sub-{only[0]}").is_dir() else [folder]
    files = [
        found
        for top in tops
        for path in sorted(top.rglob("sub-*"))
        if (found := parse_bids_name(path)) and path.is_file()
    ]
    if not files:
        raise DataFileError(f"{folder} holds no file with a BIDS name (sub-<label>_..._<suffix>.<extension>)")
    filters: list[tuple[str, list[str | None], Any]] = []
    if suffix is not None:
        filters.append(("suffix", [suffix], lambda file: file.suffix))
    if extension is not None:
        several: list[str | None] = [extension] if isinstance(extension, str) else list(extension)
        filters.append(("extension", several, lambda file: file.extension))
    filters += [(key, _texts(value, key) or [None], partial(_entity, key=key)) for key, value in wanted.items()]
    for what, values, read in filters:
        left = [file for file in files if read(file) in values]
        if not left:
            there = sorted({str(read(file)) if read(file) is not None else "(none)" for file in files})
            shown = " or ".join("(none)" if value is None else value for value in values)
            raise unknown(f"BIDS {what} in {folder}", shown, there, _with(filters, what))
        files = left
    return sorted(files, key=_sort_key)


def _texts(value: Any, key: str) -> list[str | None]:
    if value is None:
        return []
    several = value if isinstance(value, list | tuple | set) else [value]
    return [_plain(str(one).removeprefix(f"{key}-"), key) for one in several]


def _plain(value: str, key: str) -> str:
    return str(int(value)) if key in NUMBERED and value.isdigit() else value


def _entity(file: BidsFile, key: str) -> str | None:
    value = file.entities.get(key)
    return None if value is None else _plain(value, key)


def _with(filters: Sequence[tuple[str, list[str | None], Any]], until: str) -> str:
    """Return what the files were already chosen by, in words."""
    before = []
    for what, values, _ in filters:
        if what == until:
            break
        before.append(f"{what}-{'/'.join('(none)' if value is None else value for value in values)}")
    return f"(among the files with {listed(before)})" if before else ""


def _sort_key(file: BidsFile) -> tuple[Any, ...]:
    def natural(text: str) -> tuple[Any, ...]:
        return tuple(
            (0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text) if part
        )

    return (*(natural(file.entities.get(key, "")) for key in ORDER), file.suffix, str(file.path))


def read_events(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read an ``events.tsv``: ``onset`` and ``duration`` in seconds, then the columns of the task; ``n/a`` is missing.

    Raises
    ------
    DataFileError
        The file is missing or no table.
    InputError
        It lacks a column, or an onset is no number.
    """
    frame = _read_tsv(path)
    for column in ("onset", "duration"):
        if column not in frame.columns:
            raise InputError(
                f"{path} has no column {column!r}, which events.tsv must have. Columns: {listed(frame.columns)}"
            )
    import pandas as pd

    if not pd.api.types.is_numeric_dtype(frame["onset"]) or frame["onset"].isna().any():
        raise InputError(f"{path}: column 'onset' holds something that is no number of seconds")
    infinite = ~np.isfinite(frame["onset"].to_numpy(dtype=np.float64))
    if infinite.any():
        row = int(infinite.argmax())
        raise InputError(
            f"{path}: onset of row {row} is {frame['onset'].iloc[row]}: expected seconds since the run began"
        )
    return frame


def read_confounds(path: str | os.PathLike[str], columns: Sequence[str]) -> pd.DataFrame:
    """Read columns of a ``desc-confounds_timeseries.tsv``.

    Derivatives and displacements have no value in the first volume (``n/a``): it becomes the column's mean. A missing value
    anywhere else is an error.

    Parameters
    ----------
    path
        The table.
    columns
        Names or shell patterns (``"trans_?"``, ``"a_comp_cor_0[0-4]"``, ``"cosine*"``), in the order wanted.

    Raises
    ------
    DataFileError
        The file is missing or no table.
    UnknownNameError
        A name or pattern fits no column.
    InputError
        A column holds a missing value after the first volume, or no numbers.
    """
    import pandas as pd

    frame = _read_tsv(path)
    chosen: dict[str, None] = {}
    for pattern in columns:
        fits = [str(name) for name in frame.columns if fnmatchcase(str(name), pattern)]
        if not fits:
            raise unknown(f"confound in {path}", pattern, frame.columns)
        chosen.update(dict.fromkeys(fits))
    found = frame[list(chosen)].copy()
    for name in found.columns:
        if not pd.api.types.is_numeric_dtype(found[name]):
            raise InputError(f"{path}: confound {name!r} is not numeric")
        absent = np.flatnonzero(found[name].isna())
        if len(absent) and (absent[-1] > 0 or len(found) == 1):
            raise InputError(
                f"{path}: confound {name!r} has no value in volume {absent[-1]} (only the first may lack one)"
            )
        found[name] = found[name].fillna(found[name].mean())
    return found


def _read_tsv(path: str | os.PathLike[str]) -> pd.DataFrame:
    import pandas as pd

    if not Path(path).is_file():
        raise DataFileError(f"no table {path}")
    try:
        return pd.read_csv(path, sep="\t", na_values=["n/a"], keep_default_na=False)
    except (ValueError, OSError, EOFError) as error:  # pandas' parse errors are ValueErrors
        raise DataFileError(f"{path} cannot be read as a table separated by tabs: {error}") from error


def files_beside(root: str | os.PathLike[str], file: BidsFile, suffix: str, **entities: str) -> list[BidsFile]:
    """Return the files of another suffix that belong to the same run."""
    own = {key: file.entities.get(key) for key in ("sub", "ses", "task", "acq", "dir", "run")}
    wanted = {key: value for key, value in own.items() if value is not None}
    try:
        found = find_bids(root, suffix=suffix, **wanted, **entities)
    except LookupError:
        return []
    return [f for f in found if all(f.entities.get(key) == value for key, value in own.items())]
