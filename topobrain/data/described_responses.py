"""Loading the responses that a ``responses.toml`` describes."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from topobrain._checks import DataFileError, InputError, TopobrainError, listed, near
from topobrain.brain_files import responses_from_bids, side_by_side
from topobrain.data.responses_manifest import (
    KINDS,
    PATH_OPTIONS,
    WITH_TEXTS,
    ResponsesManifest,
    file_sha256,
    read_responses_manifest,
)
from topobrain.responses import BrainResponses, named_columns, read_table, whole_labels
from topobrain.stimuli import StimulusSet

if TYPE_CHECKING:
    import pandas as pd


def load_from_manifest(source: str | os.PathLike[str] | ResponsesManifest) -> BrainResponses:
    """Load the responses that a ``responses.toml`` describes.

    Raises
    ------
    DataFileError
        A file is missing, altered (both hashes are named) or cannot be read.
    InputError, UnknownNameError
        As `read_responses_manifest`, and what the reader of the kind complains about: the manifest is named.
    """
    manifest = source if isinstance(source, ResponsesManifest) else read_responses_manifest(source)
    _verify(manifest)
    try:
        return _load(manifest)
    except TopobrainError as error:
        raise type(error)(f"{manifest.source}: {error}") from error
    except (TypeError, ValueError, AttributeError) as error:  # an option of a type that its reader does not check
        raise InputError(
            f"{manifest.source}: cannot be read with [options] {dict(manifest.options)}: {error}"
        ) from error


def _load(manifest: ResponsesManifest) -> BrainResponses:
    responses, kind = manifest.responses, manifest.kind
    provenance = {
        "name": manifest.name,
        "licence": manifest.licence,
        **{key: responses[key] for key in ("citation", "doi", "origin", "title", "description") if key in responses},
        "access": "local",
        **({"simulated": True} if responses.get("simulated") else {}),
    }
    options = {key: _option(manifest, key, value) for key, value in manifest.options.items()}
    given = {"provenance": provenance, **_columns(manifest), **_ceiling(manifest), **options}
    if "design" in responses and "design" in inspect.signature(KINDS[kind]).parameters:
        given["design"] = responses["design"]
    people: list[str | None] = (
        [str(s) for s in responses["subjects"]] if "subjects" in responses else [responses.get("subject")]
    )
    parts = [_person(manifest, person, dict(given)) for person in people]
    return side_by_side(parts) if len(parts) > 1 else parts[0]


def _person(manifest: ResponsesManifest, person: str | None, given: dict[str, Any]) -> BrainResponses:
    """Load the files of one person, or of all if they lie in the same."""
    kind, files = manifest.kind, manifest.responses["files"]
    if kind == "bids":
        if not isinstance(files, str):
            raise InputError(
                f"key 'files' of [responses] is {files!r}: kind 'bids' takes one path, the derivatives' folder"
            )
        given["subject"] = person if person is not None else given.get("subject")
        if given["subject"] is None:
            raise InputError("key 'subject' (or 'subjects') of [responses] is missing: which person of the BIDS tree?")
        return responses_from_bids(_paths(manifest, files, ""), **given)
    paths = _paths(manifest, files, person or "")
    if kind in ("table", "long-table", "netcdf"):
        if not isinstance(paths, str):
            raise InputError(f"key 'files' of [responses] is {files!r}: kind {kind!r} reads one file (of each subject)")
        found = KINDS[kind](paths, **given)
        if person is None:
            return found
        return BrainResponses(found.data.assign_coords(subject=("voxel", [person] * found.data.sizes["voxel"])))
    stimuli, order = _stimuli(manifest)
    if order is not None:
        given["order"] = order
    if isinstance(paths, Mapping) and kind == "nifti":
        raise InputError(f"key 'files' of [responses] is {files!r}: kind 'nifti' takes a path or a list of paths")
    found = KINDS[kind](paths, stimuli, **({"subject": person} if person is not None else {}), **given)
    wanted = manifest.responses.get("ceiling")
    if isinstance(wanted, Mapping) and "method" in wanted and bool(found.data["ceiling"].isnull().all()):
        raise InputError(
            "key 'ceiling' of [responses] asks for repeats, but [stimuli] 'id' does not name every stimulus equally often, "
            "twice or more"
        )
    return found


def _stimuli(manifest: ResponsesManifest) -> tuple[StimulusSet, list[str] | None]:
    """Return the stimuli of images; and which stimulus each image belongs to, if some were repeated."""
    section = manifest.stimuli
    source = manifest.path(section["file"])
    frame: pd.DataFrame = named_columns(read_table(source), str(source))
    text = section.get("text", "sentence")
    for key in ("text", "id", "group"):
        column = section.get(key, text if key == "text" else None)
        if column is not None and column not in frame.columns:
            close = near(column, frame.columns)
            guess = f" Did you mean {close[0]!r}?" if close else ""
            raise InputError(
                f"key {key!r} of [stimuli] is {column!r}, which is no column of {source.name}.{guess} "
                f"Columns: {listed(frame.columns)}"
            )
    label = section.get("id")
    order = whole_labels(frame[label], "key 'id' of [stimuli]", str(source)).tolist() if label else None
    if "group" in section:
        whole_labels(frame[section["group"]], "key 'group' of [stimuli]", str(source))
    if order is not None:
        _require_one(frame, order, [text, section.get("group")], str(source))
    if order is not None and len(set(order)) < len(order):
        frame = frame.drop_duplicates(label)
    else:
        order = None
    empty = frame[text].isna() | (frame[text].astype(str).str.strip() == "")
    if empty.any():
        raise InputError(
            f"row {int(empty.to_numpy().argmax())} of {source} has an empty {text!r}: every stimulus needs text"
        )
    table = frame.drop(columns=[c for c in frame.columns if c == text or str(c).startswith("Unnamed")]).reset_index(
        drop=True
    )
    if label:
        table["stimulus"] = frame[label].astype(str).tolist()
        table = table.drop(columns=[label] if label != "stimulus" else [])
    if "group" in section:
        table["group"] = frame[section["group"]].astype(str).tolist()
    return StimulusSet(frame[text].astype(str).tolist(), table, name=manifest.name), order


def _require_one(frame: pd.DataFrame, order: list[str], columns: list[str | None], where: str) -> None:
    """Raise unless the rows of a repeated identifier agree in its text and group."""
    for column in columns:
        if column is None:
            continue
        first: dict[str, tuple[int, str]] = {}
        for row, (label, word) in enumerate(zip(order, frame[column].astype(str), strict=True)):
            at, known = first.setdefault(label, (row, word))
            if word != known:
                raise InputError(
                    f"stimulus {label!r} of {where} has several values in column {column!r}: {known!r} (row {at}) and {word!r} "
                    f"(row {row}); rows with one 'id' are repeats of one stimulus"
                )


def _columns(manifest: ResponsesManifest) -> dict[str, Any]:
    """Return what [stimuli] says of the columns of files that hold the texts themselves."""
    section, kind = manifest.stimuli, manifest.kind
    if kind not in WITH_TEXTS:
        return {}
    keys = {"text": "text", "id": "stimulus", "group": "group"}
    accepted = inspect.signature(KINDS[kind]).parameters
    found = {}
    for key, argument in keys.items():
        if key in section:
            if argument not in accepted:
                raise InputError(f"key {key!r} of [stimuli] has no meaning for kind {kind!r}")
            found[argument] = section[key]
    if "file" in section:
        raise InputError(f"key 'file' of [stimuli] has no meaning for kind {kind!r}: its files hold the texts")
    return found


def _ceiling(manifest: ResponsesManifest) -> dict[str, Any]:
    given, kind = manifest.responses.get("ceiling"), manifest.kind
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        given = {"value": given}
    ((way, value),) = given.items()
    if kind == "table":
        return {"ceilings": value}
    if way == "file":
        return {"ceiling": str(manifest.path(value))}
    return {} if way == "method" and kind != "long-table" else {"ceiling": float(value) if way == "value" else value}


def _option(manifest: ResponsesManifest, key: str, value: Any) -> Any:
    if key not in PATH_OPTIONS or (key == "names" and not isinstance(value, str)) or value in ("", None):
        return value
    return _paths(manifest, value, "")


def _paths(manifest: ResponsesManifest, written: Any, person: str) -> Any:
    """Return paths in the form they are written in (text, list, hemisphere -> ...), as texts on disk."""
    if isinstance(written, Mapping):
        return {key: _paths(manifest, value, person) for key, value in written.items()}
    if isinstance(written, list):
        return [_paths(manifest, value, person) for value in written]
    return str(manifest.path(str(written).replace("{subject}", person)))


def _verify(manifest: ResponsesManifest) -> None:
    for written, digest in manifest.sha256.items():
        path = manifest.path(written)
        if not path.is_file():
            raise DataFileError(f"{manifest.source}: {written} of [sha256] is missing ({path})")
        actual = file_sha256(path)
        if actual != digest:
            raise DataFileError(
                f"{manifest.source}: {path} is not the file that is meant: its sha256 is {actual}, expected {digest}"
            )
