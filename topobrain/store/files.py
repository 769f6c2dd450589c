"""The data store: a folder of verified files. What is there is used without a network; nothing in it is overwritten."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from topobrain._checks import DataFileError, listed, unknown
from topobrain.store.manifest import DataFile, Manifest, load_manifests

VARIABLE = "TOPOBRAIN_DATA"
"""Environment variable naming the store: a folder that holds one folder a data set."""

TIMEOUT_S = 30
"""Seconds without an answer from a server before a download is given up."""

# (path, size, mtime in ns) -> sha256: a file that did not change is hashed once a process, not once a load.
_hashes: dict[tuple[str, int, int], str] = {}


def store_directory() -> Path:
    """Return the folder of the store: ``$TOPOBRAIN_DATA``, else ``topobrain/data`` in the user's cache.

    The folder need not exist yet; reading from a ``TOPOBRAIN_DATA`` that is no folder is an error.
    """
    given = os.environ.get(VARIABLE, "").strip()
    if given:
        return Path(given).expanduser()
    import pooch

    return Path(pooch.os_cache("topobrain")) / "data"


def _opened_store() -> Path:
    """Return the folder of the store, or raise if the environment points to something else."""
    folder = store_directory()
    if os.environ.get(VARIABLE, "").strip() and not folder.is_dir():
        what = "a file" if folder.exists() else "missing"
        raise DataFileError(
            f"{VARIABLE} is {str(folder)!r}, which is {what}: expected a folder that holds one folder a data set. "
            f"Create it, or unset {VARIABLE} to use the cache"
        )
    return folder


@dataclass(frozen=True)
class StoreStatus:
    """State of a data set in the store.

    Parameters
    ----------
    state
        ``"verified"`` (every file is there with the right hash), ``"missing"`` (none is there), ``"incomplete"``
        (some are), or ``"altered"`` (a file that is there has another size or hash).
    files
        Path inside the data set -> ``"verified"``, ``"missing"``, or what is wrong with the file.
    """

    state: str
    files: Mapping[str, str]

    def __str__(self) -> str:
        return self.state


def status(manifest: Manifest, files: Iterable[str] | None = None) -> StoreStatus:
    """Say whether a data set is in the store and whether its files are the right ones; nothing is downloaded.

    Parameters
    ----------
    manifest
        The data set.
    files
        Paths to look at (default: all).

    Raises
    ------
    DataFileError
        ``TOPOBRAIN_DATA`` names no folder, or a file cannot be read.
    """
    folder = _opened_store() / manifest.name
    details: dict[str, str] = {}
    for file in _chosen(manifest, files):
        path = folder / file.path
        details[file.path] = (_problem(path, file) or "verified") if _there(path) else "missing"
    states = set(details.values())
    if states <= {"verified"}:
        return StoreStatus("verified", details)
    if states - {"verified", "missing"}:
        return StoreStatus("altered", details)
    return StoreStatus("missing" if states == {"missing"} else "incomplete", details)


def find_manifest(name: str) -> tuple[Manifest, list[str]]:
    """Return the data set of the given name, or the one that provides it, with the paths the name stands for.

    ``"text_corpora"`` is a data set with all its files; ``"brown"`` is one file of it.

    Raises
    ------
    UnknownNameError
        No manifest has or provides the name; near names are offered.
    """
    manifests = load_manifests()
    if name in manifests:
        return manifests[name], manifests[name].paths()
    for manifest in manifests.values():
        if any(part.name == name for part in manifest.provides):
            return manifest, manifest.paths(name)
    parts = [part.name for manifest in manifests.values() for part in manifest.provides]
    raise unknown("data set", name, dict.fromkeys([*manifests, *parts]), "`topobrain data list` shows them all.")


def fetch(name: str, files: Iterable[str] | None = None) -> dict[str, Path]:
    """Return the files of a data set, downloading those that are missing; every file returned has the right hash.

    Parameters
    ----------
    name
        Name of a data set, or one that can be loaded from it (``"brown"`` is a file of ``"text_corpora"``).
    files
        Paths inside the data set (default: all that the name stands for).

    Returns
    -------
    dict
        Path inside the data set -> path on disk, in the order of the manifest.

    Raises
    ------
    UnknownNameError
        No such data set, or no such file in it.
    DataFileError
        A file that is there is not the right one (it is left as it is), or a missing file cannot be had: the message
        says where it comes from and where to put it.
    """
    manifest, paths = find_manifest(name)
    return fetch_files(manifest, paths if files is None else files)


def fetch_files(manifest: Manifest, files: Iterable[str] | None = None) -> dict[str, Path]:
    """Do the work of `fetch` for a manifest at hand; same returns and errors."""
    folder = _opened_store() / manifest.name
    wanted = {file.path: file for file in _chosen(manifest, files)}
    found = {path: folder / path for path in wanted}
    missing = [file for path, file in wanted.items() if not _there(found[path])]
    # Every complaint that needs no network comes before the first download.
    for path, file in wanted.items():
        problem = _problem(found[path], file) if file not in missing else None
        if problem:
            raise DataFileError(
                f"{found[path]} is not the file of data set {manifest.name!r}: {problem}. It was left as it is; "
                "move it away (or restore it) and try again"
            )
    closed = [file.path for file in missing if file.url is None or manifest.access == "request"]
    if closed:
        raise DataFileError(_absence(manifest, folder, closed))
    for file in missing:
        _download(manifest, folder, file)
    return found


def _chosen(manifest: Manifest, files: Iterable[str] | None) -> list[DataFile]:
    """Return the files of a manifest at the given paths, in the manifest's order."""
    if files is None:
        return list(manifest.files)
    wanted = [files] if isinstance(files, str) else list(files)
    known = {file.path for file in manifest.files}
    for path in wanted:
        if path not in known:
            raise unknown(f"file of data set {manifest.name!r}", path, manifest.paths())
    return [file for file in manifest.files if file.path in set(wanted)]


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a folder on the way that may not be entered
        raise DataFileError(f"cannot look at {path}: {error.strerror or error}") from error


def _problem(path: Path, file: DataFile) -> str | None:
    """Return what is wrong with a file that is there, naming sizes and both hashes; None if it is the right one."""
    try:
        if not path.is_file():
            return "it is not a plain file"
        size, actual = path.stat().st_size, _sha256(path)
    except OSError as error:
        raise DataFileError(f"cannot read {path}: {error.strerror or error}") from error
    hashes = f"its sha256 is {actual}, expected {file.sha256}"
    if size < file.bytes:
        return f"it is truncated, {size} of {file.bytes} bytes; {hashes}"
    if size > file.bytes:
        return f"it has {size} bytes, expected {file.bytes}; {hashes}"
    return None if actual == file.sha256 else f"{hashes} (the size, {size} bytes, is right)"


def _sha256(path: Path) -> str:
    """Return the sha256 of a file; a file whose size and time of change are known from before is not read again."""
    facts = path.stat()
    key = (str(path.resolve()), facts.st_size, facts.st_mtime_ns)
    if key not in _hashes:
        with path.open("rb") as stream:
            _hashes[key] = hashlib.file_digest(stream, "sha256").hexdigest()
    return _hashes[key]


def _terms(manifest: Manifest) -> str:
    return f"Origin: {manifest.origin}. Licence: {manifest.licence}."


def _stand_in(manifest: Manifest, paths: Iterable[str]) -> str:
    """Return the hint at simulated data of the same form, or nothing."""
    missing = list(paths)
    names = [part.stand_in for part in manifest.provides if part.stand_in and any(part.holds(path) for path in missing)]
    shown = " or ".join(repr(name) for name in dict.fromkeys(names))
    return f" Simulated data of the same form need no file: {shown}." if names else ""


def _absence(manifest: Manifest, folder: Path, paths: list[str]) -> str:
    """Return the message for files that are missing and cannot be downloaded."""
    why = (
        "they must be requested from their authors"
        if manifest.access == "request"
        else "no address is known that serves exactly these files"
    )
    return (
        f"data set {manifest.name!r} lacks {listed(paths, 5)} in {folder}, and {why}. {_terms(manifest)} "
        f"Put the files into {folder}, or point {VARIABLE} to a folder that holds '{manifest.name}/'."
        f"{_stand_in(manifest, paths)}"
    )


def _download(manifest: Manifest, folder: Path, file: DataFile) -> None:
    """Download one missing file under a temporary name, check it, and only then give it its own name."""
    import pooch
    import requests

    target = folder / file.path
    by_hand = (
        f"{_terms(manifest)} To place it by hand, save the file as {target} (sha256 {file.sha256})."
        f"{_stand_in(manifest, [file.path])}"
    )
    try:
        pooch.retrieve(
            file.url,
            known_hash=f"sha256:{file.sha256}",
            fname=target.name,
            path=target.parent,
            downloader=pooch.HTTPDownloader(timeout=TIMEOUT_S),
        )
    except requests.RequestException as error:  # before OSError and ValueError, which it also is
        raise DataFileError(
            f"{file.path} of data set {manifest.name!r} is not in {folder} and could not be downloaded: "
            f"tried {file.url} ({type(error).__name__}: {error}). {by_hand}"
        ) from error
    except ValueError as error:  # pooch's complaint about the hash; the temporary file is gone
        raise DataFileError(
            f"{file.url} does not serve the {file.path} of data set {manifest.name!r} that is expected, nothing was "
            f"kept: {error} Expected sha256: {file.sha256}. {by_hand}"
        ) from error
    except OSError as error:
        raise DataFileError(f"cannot write {target}: {error.strerror or error}. {by_hand}") from error
