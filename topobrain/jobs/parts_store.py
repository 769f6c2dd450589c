"""The parts of encoding studies on disk: written once, verified when read, used again after a crash."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from topobrain._checks import DataFileError
from topobrain.jobs.sealed_files import read_sealed, sweep, write_sealed

WHAT = """Parts of encoding studies, written by topobrain and used again when the same scores are asked for.
The folder may be deleted when results are saved: what it holds is then computed again.
"""


class PartsStore:
    """A folder that keeps what jobs need (``inputs``, ``orders``) and what they made (``parts``).

    A part's name is a hash of everything that decides its numbers, so a part that is there need never be made again,
    whichever study, process or machine asks. Several processes may use one store at the same time.

    Parameters
    ----------
    directory
        The folder. With a cluster, one that every worker sees under the same path.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory).expanduser().absolute()

    @property
    def inputs(self) -> Path:
        """Folder of the activations and responses that workers read."""
        return self.directory / "inputs"

    @property
    def mark(self) -> Path:
        """A file that says what the folder is; a process that sees it sees the store."""
        return self.directory / "README.txt"

    def part_path(self, key: str) -> Path:
        """Return where a part is kept."""
        return self.directory / "parts" / key[:2] / f"{key}.npz"

    def order_path(self, key: str) -> Path:
        """Return where an order (what all jobs of a study share) is kept."""
        return self.directory / "orders" / f"{key}.npz"

    def open(self) -> None:
        """Make the folder, check that it can be written, and clear what killed processes left half-written.

        Raises
        ------
        DataFileError
            The folder cannot be made or written.
        """
        probe = self.directory / f".{self.mark.name}.{os.getpid()}.part"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            probe.write_text(WHAT)
            os.replace(probe, self.mark)
        except OSError as error:
            raise DataFileError(
                f"cannot write to the store {self.directory}: {error.strerror or error}; name another folder"
            ) from error
        sweep(self.directory)

    def part(self, key: str) -> dict[str, np.ndarray] | None:
        """Return a part, None if it is not there; one that is damaged is told and counts as not there."""
        try:
            return read_sealed(self.part_path(key), key)
        except FileNotFoundError:
            return None
        except DataFileError as error:
            warnings.warn(f"{error}. It is computed again", stacklevel=2)
            return None

    def keep_part(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep a part; it appears whole or not at all."""
        write_sealed(self.part_path(key), arrays, key)

    def order(self, key: str) -> dict[str, np.ndarray]:
        """Return the arrays of an order.

        Raises
        ------
        DataFileError
            It is missing or damaged.
        """
        path = self.order_path(key)
        try:
            return read_sealed(path, key)
        except FileNotFoundError as error:
            raise DataFileError(
                f"there is no file {path}: the store must lie where this process, too, sees it under that path"
            ) from error

    def keep_order(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep an order, unless it is there undamaged."""
        try:
            read_sealed(self.order_path(key), key)
        except (FileNotFoundError, DataFileError):
            write_sealed(self.order_path(key), arrays, key)
