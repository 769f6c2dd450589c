"""Result: an xarray.Dataset that knows what it is and where it came from; schema check, save, load."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import xarray as xr

from topobrain._checks import DataFileError, InputError, listed, unknown

if TYPE_CHECKING:
    import pandas as pd

KINDS = {
    "activations": "topobrain.activations:Activations",
    "responses": "topobrain.responses:BrainResponses",
    "selectivity": "topobrain.selectivity:Selectivity",
    "profile": "topobrain.selectivity:Profile",
    "topography": "topobrain.topography:Topography",
    "distance_curve": "topobrain.topography:DistanceCurve",
    "encoding": "topobrain.encoding:Encoding",
    "leakage": "topobrain.encoding:Leakage",
    "partition": "topobrain.encoding.partition:Partition",
    "alignment": "topobrain.alignment:Alignment",
    "principal_components": "topobrain.alignment.principal:PrincipalComponents",
    "spatial_alignment": "topobrain.alignment.spatial:SpatialAlignment",
    "comparison": "topobrain.encoding.comparison:Comparison",
    "integration": "topobrain.integration.result:Integration",
    "brain_windows": "topobrain.integration.brain_result:BrainWindows",
    "training": "topobrain.training.log:TrainingLog",
}
"""Result kinds and their classes, as strings: a class is imported when a file of its kind is opened."""


def versions() -> dict[str, str]:
    """Return the versions of topobrain, Python and the libraries that numbers depend on."""
    from topobrain import __version__

    return {"topobrain": __version__, "python": platform.python_version(), **_installed()}


@cache
def _installed() -> dict[str, str]:
    """Return library versions; asking costs 20 ms, as much as a small result."""
    return {name: version(name) for name in ("numpy", "scipy", "scikit-learn", "torch", "transformers", "xarray")}


def to_plain(value: Any) -> Any:
    """Return a value as plain JSON types: arrays become lists, NaN and infinity null, paths and other objects their text."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [to_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return to_plain(value.tolist())
    if isinstance(value, np.generic):
        return to_plain(value.item())
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return str(value)


def write_whole(target: Path, write: Callable[[Path], object]) -> None:
    """Have a file written under a temporary name beside it, then rename it: a reader never sees half a file.

    Raises
    ------
    DataFileError
        The directory cannot be written, or the disk is full. An existing file is left as it was.
    """
    part = target.with_name(f".{target.name}.{platform.node()}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        os.replace(part, target)
    except OSError as error:
        raise DataFileError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # the failure being reported may be that the directory is none
            part.unlink(missing_ok=True)


@dataclass(frozen=True, eq=False)
class Result:
    """A labelled result: one `xarray.Dataset` and its provenance.

    Subclasses state their ``kind`` and the variables (with dimensions) that must be present; both are checked when a
    result is built and when it is loaded.

    Parameters
    ----------
    data
        Dataset with the variables of the schema. ``data.attrs["provenance"]`` holds JSON text: versions, model name
        and weight hash, stimuli hash, the full configuration, the seed.
    """

    data: xr.Dataset
    kind: ClassVar[str] = ""
    schema: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __post_init__(self) -> None:
        for name, dims in self.schema.items():
            if name not in self.data.variables:
                present = listed(self.data.variables)
                raise InputError(f"a {self.kind} result needs the variable {name!r} {dims}; present: {present}")
            found = tuple(str(dim) for dim in self.data[name].dims)
            if found != dims:
                raise InputError(f"variable {name!r} of a {self.kind} result has axes {found}, expected {dims}")

    @staticmethod
    def attributes(provenance: Mapping[str, Any]) -> dict[str, str]:
        """Return dataset attributes holding the provenance, with the versions added."""
        return {"provenance": json.dumps(to_plain({**provenance, "versions": versions()}), sort_keys=True)}

    @property
    def provenance(self) -> dict[str, Any]:
        """Everything recorded on how the result was made."""
        fields: dict[str, Any] = json.loads(self.data.attrs.get("provenance", "{}"))
        return fields

    @property
    def simulated(self) -> bool:
        """Whether any of the data behind the result are simulated."""

        def found(fields: Any) -> bool:
            if isinstance(fields, dict):
                return bool(fields.get("simulated")) or any(found(value) for value in fields.values())
            return isinstance(fields, list) and any(found(value) for value in fields)

        return found(self.provenance)

    def labels(self, name: str) -> np.ndarray:
        """Return a coordinate as an array of strings, e.g. ``labels("layer")``."""
        if name not in self.data.coords:
            raise unknown(f"label of a {self.kind} result", name, list(self.data.coords))
        return np.array([str(value) for value in self.data[name].values], dtype=object)

    def to_frame(self) -> pd.DataFrame:
        """Return the schema's variables as one long table, an axis a column."""
        wanted = [name for name in self.schema if name in self.data.data_vars]
        return self.data[wanted].to_dataframe().reset_index()

    def summary(self) -> pd.DataFrame:
        """Return a tidy table of the result's main numbers."""
        return self.to_frame()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the result as netCDF4 under a temporary name, then rename it: a reader never sees half a file.

        Raises
        ------
        DataFileError
            The directory cannot be written, or the disk is full. An existing file is left as it was.
        """
        target = Path(path)
        data = self.data.copy()
        data.attrs = {**data.attrs, "kind": self.kind}
        write_whole(target, lambda part: data.to_netcdf(part, engine="h5netcdf"))
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a result of this class; `load_result` reads any kind."""
        result = load_result(path)
        if not isinstance(result, cls):
            raise InputError(f"{path} holds a {result.kind} result, expected {cls.kind}")
        return result


def load_result(path: str | os.PathLike[str], *, lazy: bool = False) -> Result:
    """Read a result file of any kind and check it against its schema.

    Parameters
    ----------
    path
        A ``.nc`` file written by `Result.save`.
    lazy
        Leave large arrays on disk and read them when they are used (the file then stays open).

    Raises
    ------
    DataFileError
        No such file, a truncated file, or a file that is no netCDF4.
    InputError
        A netCDF4 file that is no topobrain result, or one that lacks a variable of its schema.
    """
    source = Path(path)
    if not source.is_file():
        beside = sorted(p.name for p in source.parent.glob("*.nc")) if source.parent.is_dir() else []
        raise DataFileError(f"no result file {source}. Results in that directory: {listed(beside)}")
    try:
        data = xr.open_dataset(source, engine="h5netcdf")
        if not lazy:
            with data:
                data = data.load()
    except (OSError, ValueError, KeyError) as error:
        raise DataFileError(
            f"{source} is not a readable netCDF4 file (truncated, or another format): {error}"
        ) from error
    kind = str(data.attrs.get("kind", ""))
    if kind not in KINDS:
        raise InputError(
            f"{source} is a netCDF4 file but no topobrain result: its kind is {kind!r}, known: {listed(KINDS)}"
        )
    module, name = KINDS[kind].split(":")
    cls: type[Result] = getattr(importlib.import_module(module), name)
    return cls(data)
