"""Arrays kept in files that are there whole or not at all, and that tell when they are damaged or another's."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import secrets
import socket
import time
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from topobrain._checks import DataFileError, InputError

SEAL = "seal"
"""Entry of every file: JSON with the file's key and a hash of everything else in it."""

LEFT_AFTER = 24 * 3600.0
"""Seconds after which a half-written file of another machine counts as left behind."""


def digest_of(arrays: Mapping[str, np.ndarray], **fields: object) -> str:
    """Return a hash of named arrays (type, shape and every value) and of plain fields."""
    found = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(json.dumps([name, array.dtype.str, list(array.shape)]).encode())
        found.update(array.reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def write_sealed(path: Path, arrays: Mapping[str, np.ndarray], key: str) -> None:
    """Write arrays under a temporary name, make sure that they are on the disk, and rename.

    Whoever reads at the same time sees the old file or the new one; of two who write at the same time the last one stays.

    Raises
    ------
    DataFileError
        The disk is full, or the folder cannot be written. Nothing is left behind.
    InputError
        An array of objects, which could only be kept as a pickle.
    """
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject or name == SEAL:
            raise InputError(f"array {name!r} of {path.name} cannot be kept: expected numbers or fixed-width text")
    plain = {name: np.asarray(array) for name, array in arrays.items()}
    seal = json.dumps({"key": key, "sha256": digest_of(plain)})
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **plain, **{SEAL: np.frombuffer(seal.encode(), dtype=np.uint8)})
    write_whole(path, content.getbuffer())


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write bytes under a temporary name, make sure that they are on the disk, and rename.

    Raises
    ------
    DataFileError
        The disk is full, or the folder cannot be written. Nothing is left behind.
    """
    # host, process and a random token: two processes, also of two machines, never share a temporary name
    token = f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name}.{token}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = (
            f": {len(content) / 2**20:.1f} MiB more are needed there; free space or name another store" if full else ""
        )
        raise DataFileError(f"cannot write {path}: {error.strerror or error}{advice}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_sealed(path: Path, key: str) -> dict[str, np.ndarray]:
    """Read arrays written by `write_sealed`.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    DataFileError
        The file is truncated or altered, is no file of this kind, or holds something with another key.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        seal = json.loads(arrays.pop(SEAL).tobytes())
        found, digest = seal["key"], seal["sha256"]
    except FileNotFoundError:
        raise
    except KeyError as error:
        raise DataFileError(f"{path} was not written by topobrain: it has no seal") from error
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataFileError(f"{path} cannot be read (truncated, or another format): {error}") from error
    if found != key:
        raise DataFileError(f"{path} holds {str(found)[:12]}..., expected {key[:12]}...: it belongs to another job")
    if digest != digest_of(arrays):
        raise DataFileError(f"{path} was altered: its content does not match its seal")
    return arrays


def file_digest(path: Path) -> str:
    """Return a hash of a file's bytes.

    Raises
    ------
    DataFileError
        The file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataFileError(f"{path} cannot be read: {error.strerror or error}") from error


def sweep(folder: Path) -> int:
    """Remove half-written files that killed processes left in a folder; return how many."""
    here, removed = socket.gethostname(), 0
    for left in folder.glob("**/.*.part"):
        host, _, rest = left.name.removesuffix(".part").partition(".npz.")[2].rpartition(".")[0].rpartition(".")
        try:
            gone = host == here and rest.isdigit() and not _runs(int(rest))
            if gone or time.time() - left.stat().st_mtime > LEFT_AFTER:
                left.unlink()
                removed += 1
        except OSError:  # another process was quicker, or it is not ours to remove
            continue
    return removed


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
