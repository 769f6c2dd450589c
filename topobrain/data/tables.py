"""Reading tables of stimuli, with complaints that name the file and the column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topobrain._checks import DataFileError, InputError, listed, near
from topobrain.stimuli import StimulusSet

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

SEPARATORS = {".csv": ",", ".tsv": "\t"}


def require_columns(frame: pd.DataFrame, needed: Sequence[str], source: Path) -> None:
    """Raise unless a table has every needed column; the message names the file and a near column.

    Raises
    ------
    InputError
        A column is missing.
    """
    for name in needed:
        if name not in frame.columns:
            close = near(name, frame.columns)
            guess = f" Did you mean {close[0]!r}?" if close else ""
            raise InputError(f"{source} has no column {name!r}.{guess} Columns: {listed(frame.columns)}")


def read_columns(source: Path, needed: Sequence[str], *, separator: str = ",") -> pd.DataFrame:
    """Read a table that needs certain columns; words such as "null" or "NA" stay words.

    Parameters
    ----------
    source
        CSV file, possibly compressed with gzip.
    needed
        Columns it must have.
    separator
        What stands between two columns.

    Raises
    ------
    DataFileError
        The file cannot be read as a table.
    InputError
        A column is missing.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(source, sep=separator, keep_default_na=False, encoding="utf-8")
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError, OSError, EOFError) as error:
        raise DataFileError(f"{source} cannot be read as a table: {error}") from error
    require_columns(frame, needed, source)
    return frame


def read_archive(source: Path, needed: Sequence[str]) -> dict[str, np.ndarray]:
    """Read arrays from a NumPy archive (``.npz``); pickled objects are refused.

    Raises
    ------
    DataFileError
        The file is no NumPy archive.
    InputError
        An array is missing.
    """
    import zipfile

    import numpy as np

    try:
        with np.load(source, allow_pickle=False) as archive:
            for name in needed:
                if name not in archive.files:
                    raise InputError(f"{source} has no array {name!r}. Arrays: {listed(archive.files)}")
            return {name: archive[name] for name in needed}
    except InputError:  # also a ValueError, like NumPy's own complaint below
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataFileError(f"{source} cannot be read as a NumPy archive: {error}") from error


def read_stimuli(path: Path, text: str = "sentence") -> StimulusSet:
    """Read a stimulus set from a table (CSV, TSV) or a text file with one stimulus a line.

    Parameters
    ----------
    path
        The file. The table's other columns become the stimulus table; ``stimulus``, where there is one, gives the
        identifiers.
    text
        Column of the stimulus texts.

    Raises
    ------
    DataFileError
        The file is missing, or of another format, or not UTF-8.
    InputError
        The text column is missing, or a stimulus is empty (row or line is named).
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        beside = (
            sorted(p.name for p in path.parent.iterdir() if p.suffix in (*SEPARATORS, ".txt"))
            if path.parent.is_dir()
            else []
        )
        raise DataFileError(f"no stimulus file {path}. Tables and texts in that directory: {listed(beside)}")
    provenance: dict[str, Any] = {"file": path.name}
    if suffix == ".txt":
        return StimulusSet(_read_lines(path), name=path.stem, provenance=provenance)
    if suffix not in SEPARATORS:
        raise DataFileError(f"{path} is no stimulus file topobrain reads: expected {listed([*SEPARATORS, '.txt'])}")
    frame = read_columns(path, [text], separator=SEPARATORS[suffix])
    texts = frame[text].astype(str)
    for row, item in enumerate(texts):
        if not item.strip():
            raise InputError(f"row {row + 1} of {path} has an empty {text!r}: every stimulus needs at least one word")
    # A column without a name is the row number that a spreadsheet or pandas wrote.
    keep = [name for name in frame.columns if name != text and not str(name).startswith("Unnamed: ")]
    return StimulusSet(texts.tolist(), frame[keep] if keep else None, name=path.stem, provenance=provenance)


def _read_lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataFileError(f"{path} is not UTF-8 text: {error}") from error
    while lines and not lines[-1].strip():
        lines.pop()  # blank lines at the end of a file are no stimuli
    if not lines:
        raise InputError(f"{path} holds no stimulus: expected one a line")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise InputError(f"line {number} of {path} is empty: expected one stimulus a line")
    return [line.strip() for line in lines]
