"""The data store: a folder of verified files. What is there is used without a network; nothing in it is overwritten."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topobrain._checks import DataFileError, listed, unknown
from topobrain.store.manifest import DataFile, Manifest, load_manifests

VARIABLE = "TOPOBRAIN_DATA"
"""Environment variable naming the store: a folder that holds one folder a data set."""

TIMEOUT_S = 30
"""Seconds without an answer from a server before a download is given up."""

RECORD = ".sha256"
"""Suffix of the note beside a file whose hash nobody published: the hash of what was first fetched."""

UNVERIFIED = "unverified: no published hash"

_log = logging.getLogger(__name__)

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
        ``"verified"`` (every file is there with the right hash), ``"unverified"`` (every file is there, but the hash of
        some is not published), ``"missing"`` (none is there), ``"incomplete"`` (some are), or ``"altered"`` (a file that
        is there has another size or hash).
    files
        Path inside the data set -> ``"verified"``, ``"unverified: no published hash"`` (with what is known instead),
        ``"missing"``, or what is wrong with the file.
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
        details[file.path] = (_problem(path, file) or _standing(path, file)) if _there(path) else "missing"
    states = {"unverified" if what.startswith(UNVERIFIED) else what for what in details.values()}
    if states <= {"verified"}:
        return StoreStatus("verified", details)
    if states == {"unverified"} or states == {"unverified", "verified"}:
        return StoreStatus("unverified", details)
    if states - {"verified", "unverified", "missing"}:
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

    Of a file whose hash nobody published, the hash of what is first fetched (or found, placed by hand) is written beside
    it as ``<file>.sha256``; from then on that is the right one.

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
    for path, file in wanted.items():
        if file.sha256 is None and _recorded(found[path]) is None:
            with contextlib.suppress(OSError):  # placed by hand in a store that may only be read: it stays unrecorded
                _record(found[path], _sha256(found[path]))
                _log.warning("%s is %s (%s); its hash was recorded", found[path], UNVERIFIED, file.hash_words)
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
    wanted = _other_hash(path, file, actual)
    hashes = f"its sha256 is {actual}, expected {wanted or 'that one'}"
    if file.bytes is None:
        return "it is empty" if size == 0 else hashes if wanted else None
    if size < file.bytes:
        return f"it is truncated, {size} of {file.bytes} bytes; {hashes}"
    if size > file.bytes:
        return f"it has {size} bytes, expected {file.bytes}; {hashes}"
    return f"{hashes} (the size, {size} bytes, is right)" if wanted else None


def _other_hash(path: Path, file: DataFile, actual: str) -> str | None:
    """Return the hash that a file should have instead of its actual one, None if nothing speaks against that."""
    if file.sha256:
        return None if actual == file.sha256 else file.sha256
    if file.sha256_prefix and not actual.startswith(file.sha256_prefix):
        return f"one that begins with {file.sha256_prefix}"
    recorded = _recorded(path)
    if recorded in (None, actual):
        return None
    return f"{recorded}, which {path.name + RECORD} keeps from when the file was first used"


def _standing(path: Path, file: DataFile) -> str:
    """Return what is known of a file with nothing wrong about it."""
    if file.sha256:
        return "verified"
    prefix = f"its sha256 begins with {file.sha256_prefix} as published" if file.sha256_prefix else ""
    record = "the same as when it was first used" if _recorded(path) else "not recorded yet (fetch it once)"
    return f"{UNVERIFIED}; {', '.join(part for part in (prefix, record) if part)}"


def _recorded(path: Path) -> str | None:
    """Return the hash that was recorded for a file when it was first used, None if none was."""
    note = path.with_name(path.name + RECORD)
    try:
        words = note.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataFileError(f"cannot read {note}: {error}") from error
    if not words or not re.fullmatch(r"[0-9a-f]{64}", words[0]):
        raise DataFileError(
            f"{note} holds no sha256: it should hold the hash of {path.name} as it was first fetched. Delete it to record "
            "the file that is there now"
        )
    return words[0]


def _record(path: Path, sha256: str) -> None:
    """Write the hash of a file beside it, in the form that ``sha256sum --check`` reads."""
    note = path.with_name(path.name + RECORD)
    part = note.with_name(f"{note.name}.{os.getpid()}")
    try:
        part.write_text(f"{sha256}  {path.name}\n", encoding="utf-8")
        part.replace(note)
    finally:
        part.unlink(missing_ok=True)


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
        f"{_terms(manifest)} To place it by hand, save the file as {target} ({file.hash_words})."
        f"{_stand_in(manifest, [file.path])}"
    )
    downloader = pooch.HTTPDownloader(timeout=TIMEOUT_S)
    try:
        if file.sha256 is None:
            _download_unpublished(manifest, target, file, downloader)
            return
        pooch.retrieve(
            file.url,
            known_hash=f"sha256:{file.sha256}",
            fname=target.name,
            path=target.parent,
            downloader=downloader,
        )
    except requests.RequestException as error:  # before OSError and ValueError, which it also is
        raise DataFileError(
            f"{file.path} of data set {manifest.name!r} is not in {folder} and could not be downloaded: "
            f"tried {file.url} ({_reason(error)}).{_no_network(error)} {by_hand}"
        ) from error
    except DataFileError as error:
        raise DataFileError(f"{error} {by_hand}") from error
    except ValueError as error:  # pooch's complaint about the hash; the temporary file is gone
        raise DataFileError(
            f"{file.url} does not serve the {file.path} of data set {manifest.name!r} that is expected, nothing was "
            f"kept: {error} Expected sha256: {file.sha256}. {by_hand}"
        ) from error
    except OSError as error:
        raise DataFileError(f"cannot write {target}: {error.strerror or error}. {by_hand}") from error


def _download_unpublished(manifest: Manifest, target: Path, file: DataFile, downloader: Any) -> None:
    """Download a file whose hash nobody published, check what can be checked, and record the hash it has."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f"{target.name}.")
    os.close(handle)
    part = Path(name)
    try:
        downloader(file.url, name, None)
        sha256 = _sha256(part)
        other = _other_hash(target, file, sha256)  # of an earlier download, if one was recorded
        problem = _problem(part, file) or (f"its sha256 is {sha256}, expected {other}" if other else None)
        if problem:
            raise DataFileError(
                f"{file.url} does not serve the {file.path} of data set {manifest.name!r} that is expected, nothing was "
                f"kept: {problem}."
            )
        part.chmod(0o644)  # mkstemp's files are their owner's alone; those of a store may be shared
        _record(target, sha256)  # before the file itself: a file without its record would pass as anything
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            target.parent.rmdir()  # nothing came: an empty folder would look like a data set
    _log.warning("%s is %s (%s); it was recorded as %s", target, UNVERIFIED, file.hash_words, sha256)


def _reason(error: Exception) -> str:
    """Return an error in few words: requests nests three of them in one line."""
    text = str(error)
    if "Failed to resolve" in text or "Name or service not known" in text:
        return f"{type(error).__name__}: the name of the server cannot be resolved"
    return f"{type(error).__name__}: {text[:200]}"


def _no_network(error: Exception) -> str:
    import requests

    if isinstance(error, requests.ConnectionError | requests.Timeout):
        return " Nothing answered: there is no network here, or the server is down."
    return ""
