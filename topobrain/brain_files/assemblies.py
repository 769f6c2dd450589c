"""NetCDF assemblies in brain-score's layout: axes ``presentation`` and ``neuroid``, labels as plain coordinates."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from topobrain._checks import DataFileError, InputError, listed, near, unknown
from topobrain.brain_files.repeats import average_repeats
from topobrain.responses import BrainResponses, real_numbers
from topobrain.results import to_plain, write_whole
from topobrain.stimuli import StimulusSet

ROWS, COLUMNS = "presentation", "neuroid"
IDENTIFIERS = ("stimulus_id", "image_id")
TEXTS = ("sentence", "stimulus", "text", "word")
SUBJECTS = ("subject", "subject_UID", "animal")
REGIONS = ("roi", "region", "atlas")
OWN = ("voxel", "subject", "roi", "ceiling", "value", "stimulus", "text")
PLACE = ("affine", "shape", "space", "n_vertices_left", "n_vertices_right")
"""Attributes that say where voxels lie."""


def read_assembly(
    path: str | os.PathLike[str],
    *,
    select: Mapping[str, Any] | None = None,
    text: str | None = None,
    roi: str | None = None,
    group: str | None = None,
    drop_missing: bool = True,
    design: Literal["events", "timeseries"] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> BrainResponses:
    """Which responses does a brain-score assembly hold?

    The file holds one array with the axes ``presentation`` and ``neuroid`` (and perhaps ``time_bin``); the levels of their
    indexes lie beside it as coordinates, because netCDF has no MultiIndex. Coordinates that ``reset_index`` renamed
    (``stimulus_id_``, ``stimulus_id_reset``) and indexes that were compressed (CF's ``compress`` attribute) are read too.

    Parameters
    ----------
    path
        A ``.nc`` file (netCDF4 or netCDF3).
    select
        Coordinate -> the value, or several, to keep, on either axis: ``{"experiment": "384sentences"}``.
    text
        Coordinate of the texts (default: the first of ``sentence``, ``stimulus``, ``text``, ``word``; else the identifiers).
    roi
        Coordinate of the regions (default: the first of ``roi``, ``region``, ``atlas``).
    group
        Coordinate whose stimuli folds must not split (``passage_label``, ``story``).
    drop_missing
        Leave out neuroids without any value in what was selected: people who did not take part in an experiment.
    design
        ``"events"`` or ``"timeseries"`` (default: what the file says, else ``"events"``).
    provenance
        Citation, licence, ...

    Returns
    -------
    BrainResponses
        A stimulus presented more than once becomes one row with the mean, and where all were presented equally often the
        repeats give the noise ceiling. Other coordinates are kept on their axis.

    Raises
    ------
    DataFileError
        The file is missing, truncated, or no netCDF.
    InputError
        It has no such axes, several arrays or time bins, no identifiers or labels of neuroids, values that are no real
        numbers, or a stimulus without a label of its group.
    UnknownNameError
        A coordinate or one of its values is not there.

    References
    ----------
    Schrimpf et al. (2020) Neuron 108:413.
    """
    values, rows, columns, attributes = _open(Path(path))
    keep_rows, keep_columns = _selected(select or {}, rows, columns, str(path))
    values = values[np.ix_(keep_rows, keep_columns)]
    rows = {name: array[keep_rows] for name, array in rows.items()}
    columns = {name: array[keep_columns] for name, array in columns.items()}
    n_dropped = 0
    if drop_missing:
        there = ~np.isnan(values).all(axis=0)
        n_dropped = int((~there).sum())
        if not there.any():
            raise InputError(f"{path}: no neuroid has a value in what was selected")
        if n_dropped:
            values, columns = values[:, there], {name: array[there] for name, array in columns.items()}
    stimuli, order = _stimuli(rows, text, group, Path(path), attributes.get("stimulus_columns"))
    ceiling = real_numbers(f"coordinate 'ceiling' of {path}", columns["ceiling"]) if "ceiling" in columns else None
    if len(order) != len(stimuli):
        values, from_repeats, _ = average_repeats(values, order, stimuli.ids)
        ceiling = from_repeats if ceiling is None else ceiling
    regions = _chosen(columns, roi, REGIONS, "roi", str(path))
    people = _chosen(columns, None, SUBJECTS, "subject", str(path))
    rest = {
        name if name not in OWN else f"file_{name}": array
        for name, array in columns.items()
        if name not in (regions, people, "ceiling")
    }
    known = attributes.get("provenance", {})
    responses = BrainResponses.from_arrays(
        values,
        stimuli,
        roi=_words(columns[regions]).tolist() if regions else "all",
        subject=_words(columns[people]).tolist() if people else "group",
        ceiling=ceiling,
        design=design if design is not None else known.get("design", "events"),
        voxel_coords={name: array for name, array in rest.items() if name != "voxel"},
        provenance={
            **{k: v for k, v in known.items() if k not in ("versions", "stimuli", "design")},
            "file": Path(path).name,
            "identifier": attributes.get("identifier", Path(path).stem),
            "selected": dict(select or {}),
            "n_neuroids_without_values": n_dropped,
            **(provenance or {}),
        },
    )
    return BrainResponses(responses.data.assign_attrs({k: attributes[k] for k in PLACE if k in attributes}))


def write_assembly(responses: BrainResponses, path: str | os.PathLike[str], *, identifier: str | None = None) -> Path:
    """Write responses as an assembly that xarray's `open_dataarray` and brain-score's loader read.

    Parameters
    ----------
    responses
        What to write.
    path
        A ``.nc`` file; replaced only once it is whole.
    identifier
        Name of the assembly (default: the stimuli's name).

    Raises
    ------
    DataFileError
        The file cannot be written.
    """
    data = responses.data
    texts = responses.labels("text")
    rows: dict[str, Any] = {"stimulus_id": responses.labels("stimulus"), "stimulus": texts, "sentence": texts}
    own = {
        str(n): c.values for n, c in data.coords.items() if c.dims == ("stimulus",) and n not in ("stimulus", "text")
    }
    rows.update({name: array for name, array in own.items() if name != "stimulus_id"})  # identifiers are the file's key
    columns = {str(n): c.values for n, c in data.coords.items() if c.dims == ("voxel",) and n != "voxel"}
    numbers = data["voxel"].values.tolist()
    made = [f"{subject}.{number}" for subject, number in zip(responses.labels("subject"), numbers, strict=True)]
    columns.setdefault("neuroid_id", np.array(made, dtype=object))
    array = xr.DataArray(
        responses.values,
        dims=(ROWS, COLUMNS),
        coords={**{n: (ROWS, v) for n, v in rows.items()}, **{n: (COLUMNS, v) for n, v in columns.items()}},
        name="data",
        attrs={
            "identifier": identifier or str(responses.provenance.get("stimuli", {}).get("name", "responses")),
            "provenance": json.dumps(to_plain(responses.provenance), sort_keys=True),
            "stimulus_columns": json.dumps([name for name in own if name != "stimulus_id"]),
            **{key: data.attrs[key] for key in PLACE if key in data.attrs},
        },
    )
    target = Path(path)
    write_whole(target, lambda part: array.to_netcdf(part, engine="h5netcdf"))
    return target


def is_assembly(path: str | os.PathLike[str]) -> bool:
    """Return whether a netCDF file is an assembly and no result of topobrain's; False where it cannot be read."""
    try:
        with _dataset(Path(path)) as data:
            return "kind" not in data.attrs and {ROWS, COLUMNS} <= {str(dim) for dim in data.sizes}
    except DataFileError:
        return False


def _dataset(path: Path) -> xr.Dataset:
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.nc")) if path.parent.is_dir() else []
        raise DataFileError(f"no assembly {path}. netCDF files in that directory: {listed(beside)}")
    with path.open("rb") as stream:
        classic = stream.read(3) == b"CDF"
    try:
        return xr.open_dataset(path, engine="scipy" if classic else "h5netcdf")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataFileError(f"{path} is not a readable netCDF file (truncated, or another format): {error}") from error


def _open(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray], dict[str, Any]]:
    """Return values (presentation, neuroid), the labels of both axes and the file's attributes."""
    with _dataset(path) as data:
        try:
            data = data.load()
        except (OSError, ValueError, KeyError) as error:
            raise DataFileError(f"{path} cannot be read to its end (truncated?): {error}") from error
    arrays = [str(name) for name in data.variables if {ROWS, COLUMNS} <= set(data[name].dims)]
    if not arrays:
        shown = {str(name): tuple(str(d) for d in v.dims) for name, v in data.data_vars.items()}
        raise InputError(
            f"{path} is no assembly: no array has the axes {ROWS} and {COLUMNS}; it has {listed(shown.items(), 6)}"
        )
    if len(arrays) > 1:
        raise InputError(
            f"{path} holds several arrays with the axes {ROWS} and {COLUMNS}: {listed(arrays)}; expected one"
        )
    array = data[arrays[0]]
    for dim in array.dims:
        if dim not in (ROWS, COLUMNS):
            if array.sizes[dim] > 1:
                raise InputError(
                    f"{path}: axis {dim!r} has {array.sizes[dim]} steps: average or choose one first, expected 1"
                )
            array = array.isel({dim: 0})
    values = array.transpose(ROWS, COLUMNS).values
    if values.dtype.kind not in "fiub":
        seen = listed(values.ravel()[:3].tolist())
        raise InputError(f"{path}: array {arrays[0]!r} holds {values.dtype} ({seen}, ...): expected real numbers")
    labels: dict[str, dict[str, np.ndarray]] = {ROWS: {}, COLUMNS: {}}
    for axis in labels:
        for name, variable in data.variables.items():
            if variable.dims == (axis,) and name != axis and name != arrays[0]:
                labels[axis][str(name)] = np.asarray(variable.values)
        if axis in data.variables and "compress" in data[axis].attrs:
            levels = str(data[axis].attrs["compress"]).split()
            codes = np.unravel_index(data[axis].values.astype(int), [data.sizes[level] for level in levels])
            labels[axis].update({level: data[level].values[code] for level, code in zip(levels, codes, strict=True)})
        labels[axis] = _plain_names(labels[axis])
    if not labels[COLUMNS]:
        raise InputError(
            f"{path} says nothing about its {values.shape[1]} neuroids: expected coordinates on the axis {COLUMNS} "
            f"(neuroid_id, subject, roi, ...). On {ROWS} there are {listed(labels[ROWS])}"
        )
    if not labels[ROWS]:
        raise InputError(f"{path} names no stimuli: expected a coordinate {IDENTIFIERS[0]!r} on the axis {ROWS}")
    attributes = {**{str(k): v for k, v in data.attrs.items()}, **{str(k): v for k, v in array.attrs.items()}}
    for name, nothing in (("provenance", {}), ("stimulus_columns", None)):
        try:
            read = json.loads(attributes[name]) if name in attributes else nothing
        except (TypeError, ValueError):
            read = nothing
        attributes[name] = read if isinstance(read, dict | list) else nothing
    if not isinstance(attributes["provenance"], dict):
        attributes["provenance"] = {}
    return values, labels[ROWS], labels[COLUMNS], attributes


def _plain_names(labels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return labels without the endings that resetting an index leaves, where the plain name is free."""
    found = dict(labels)
    for name in labels:
        plain = name.removesuffix("_reset").rstrip("_")
        if plain and plain != name and plain not in found:
            found[plain] = found.pop(name)
    return found


def _selected(
    select: Mapping[str, Any], rows: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray], source: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions on both axes that a selection keeps."""
    n_rows, n_columns = (len(next(iter(axis.values()), [])) for axis in (rows, columns))
    keep = {"rows": np.ones(n_rows, dtype=bool), "columns": np.ones(n_columns, dtype=bool)}
    for name, wanted in select.items():
        axis = "rows" if name in rows else "columns" if name in columns else None
        if axis is None:
            raise unknown(f"coordinate of {source}", name, [*rows, *columns])
        labels = _words(rows[name] if axis == "rows" else columns[name])
        several = [str(w) for w in (wanted if isinstance(wanted, list | tuple | set | np.ndarray) else [wanted])]
        for word in several:
            if word not in set(labels.tolist()):
                raise unknown(f"{name} of {source}", word, sorted(set(labels.tolist())))
        keep[axis] &= np.isin(labels, several)
    for axis, kept in keep.items():
        if not kept.any():
            raise InputError(f"{source}: nothing is left of the {axis} with {dict(select)}")
    return np.flatnonzero(keep["rows"]), np.flatnonzero(keep["columns"])


def _words(array: np.ndarray) -> np.ndarray:
    """Return labels as text; whole numbers that netCDF made floats (for NaN) lose their ``.0``."""

    def word(value: Any) -> str:
        if isinstance(value, bytes):
            return value.decode(errors="replace")
        if isinstance(value, float | np.floating) and np.isfinite(value) and float(value).is_integer():
            return str(int(value))
        return str(value)

    return np.array([word(value) for value in array.tolist()], dtype=object)


def _chosen(
    labels: Mapping[str, np.ndarray], given: str | None, usual: Sequence[str], what: str, source: str
) -> str | None:
    if given is not None:
        if given not in labels:
            raise unknown(f"coordinate ({what}) of {source}", given, labels)
        return given
    return next((name for name in usual if name in labels), None)


def _stimuli(
    rows: Mapping[str, np.ndarray], text: str | None, group: str | None, path: Path, own: list[str] | None = None
) -> tuple[StimulusSet, list[str]]:
    """Return the stimuli in order of first appearance, and the identifier of every row.

    ``own`` names the columns of stimuli that `write_assembly` was given; a file from elsewhere repeats texts under the usual
    names.
    """
    import pandas as pd

    key = _chosen(rows, None, (*IDENTIFIERS, *TEXTS), "identifier", str(path))
    if key is None:
        close = near("stimulus_id", rows)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        raise InputError(
            f"{path} names no stimuli: expected a coordinate {IDENTIFIERS[0]!r}.{guess} There are: {listed(rows)}"
        )
    order = _words(rows[key]).tolist()
    usual = (
        ("stimulus",) if own is not None else TEXTS
    )  # `write_assembly` keeps the texts there, whatever else there is
    said = _chosen(rows, text, usual, "text", str(path)) or key
    first = {label: row for row, label in reversed(list(enumerate(order)))}
    ids = list(dict.fromkeys(order))
    at = [first[label] for label in ids]
    texts = _words(rows[said])
    for row, label in enumerate(order):
        if texts[row] != texts[first[label]]:
            raise InputError(f"{path}: stimulus {label!r} has two texts, {texts[first[label]]!r} and {texts[row]!r}")
    table = pd.DataFrame({"stimulus": ids})
    for name, array in rows.items():
        repeated = name in (key, "stimulus", "text", said) or (name in TEXTS and bool((_words(array) == texts).all()))
        if not repeated if own is None else name in own:
            table[str(name).replace(" ", "_").replace("/", "_")] = array[at]
    if group is not None:
        if group not in rows:
            raise unknown(f"coordinate (group) of {path}", group, rows)
        labels = _words(rows[group])
        absent = [row for row, label in enumerate(labels.tolist()) if label.strip().lower() in ("", "nan", "none")]
        if absent:
            raise InputError(f"{path}: row {absent[0]} (stimulus {order[absent[0]]!r}) has no {group!r} (group)")
        for row, label in enumerate(order):
            if labels[row] != labels[first[label]]:
                raise InputError(
                    f"{path}: stimulus {label!r} lies in two groups ({group}), {labels[first[label]]!r} and {labels[row]!r}"
                )
        table["group"] = labels[at]
    return StimulusSet(texts[at].tolist(), table, name=path.stem), order
