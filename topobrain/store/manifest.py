"""Manifests: what each data set is, where it comes from, and the hash of every file of it."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from topobrain._checks import DataFileError, InputError, listed, near, require_choice

ACCESS = ("public", "request", "generated")
"""Who may have the files: anyone, those who ask the authors, or nobody needs them (topobrain makes them)."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{6,63}")


@dataclass(frozen=True)
class DataFile:
    """One file of a data set.

    Parameters
    ----------
    path
        Where the file lies inside the data set's folder, with forward slashes.
    sha256
        Its sha256, 64 lower-case hexadecimal digits; None where nobody published it. The store then keeps the hash of
        the file it first gets, and holds every later use to it.
    bytes
        Its size in bytes; None where it is not known.
    url
        Address of a file with exactly this hash; None where no such address is known (derived files).
    sha256_prefix
        The first digits of the hash, where only they are published.
    """

    path: str
    sha256: str | None
    bytes: int | None
    url: str | None = None
    sha256_prefix: str | None = None

    @property
    def hash_words(self) -> str:
        """What is known of the hash, in words."""
        if self.sha256:
            return f"sha256 {self.sha256}"
        if self.sha256_prefix:
            return f"only the beginning of its sha256 is published: {self.sha256_prefix}"
        return "no hash of it is published"


@dataclass(frozen=True)
class Part:
    """A name under which a data set, or some of its files, can be loaded.

    Parameters
    ----------
    name
        What is given to `load_stimuli`, `load_responses` or `load_text`.
    files
        Shell patterns of the files it reads.
    title
        One line for lists and figures.
    stand_in
        Name of simulated data of the same form, which need no file; None where there are none.
    licence
        Licence of these files, where the data set's own differs from file to file.
    """

    name: str
    files: tuple[str, ...]
    title: str
    stand_in: str | None = None
    licence: str | None = None

    def holds(self, path: str) -> bool:
        """Return whether a file of the data set belongs to this part."""
        return any(fnmatch(path, pattern) for pattern in self.files)


@dataclass(frozen=True)
class Manifest:
    """What one data set is, where it comes from, and its files.

    Parameters
    ----------
    name
        Name of the data set and of its folder in the store.
    title, description
        One line, and a few.
    kind
        ``"text"``, ``"stimuli"``, ``"responses"``, ``"images"``, ``"model"``, ``"parcels"``, ...
    origin, licence, citation
        Where the files come from, under which terms, and what to cite.
    access
        ``"public"``, ``"request"`` or ``"generated"``.
    simulated
        Whether the data are simulated.
    files
        Every file.
    provides
        The names that can be loaded from the files.
    doi
        Digital object identifier of the citation, if it has one.
    """

    name: str
    title: str
    kind: str
    description: str
    origin: str
    licence: str
    citation: str
    access: str
    simulated: bool
    files: tuple[DataFile, ...]
    provides: tuple[Part, ...] = field(default=())
    doi: str | None = None

    @property
    def n_bytes(self) -> int:
        """Size of all files together, in bytes; files of unknown size count nothing."""
        return sum(file.bytes or 0 for file in self.files)

    def paths(self, part: str | None = None) -> list[str]:
        """Return the paths of all files, or of those that the part of the given name reads."""
        chosen = next((p for p in self.provides if p.name == part), None)
        return [file.path for file in self.files if chosen is None or chosen.holds(file.path)]

    def provenance(self, *paths: str) -> dict[str, Any]:
        """Return what stimuli and responses keep of their source; with paths, also the sha256 of those files."""
        fields: dict[str, Any] = {
            "name": self.name,
            "citation": self.citation,
            "licence": self.licence,
            "access": self.access,
        }
        if self.doi:
            fields["doi"] = self.doi
        if self.simulated:
            fields["simulated"] = True
        if paths:
            fields["files"] = {file.path: file.sha256 for file in self.files if file.path in paths}
        return fields


def manifest_directory() -> Path:
    """Return the folder of the manifests: inside the installed package, or at the top of a checkout."""
    inside = Path(__file__).parent / "manifests"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "data_manifests"


def load_manifests(directory: Path | None = None) -> dict[str, Manifest]:
    """Read every manifest, name -> `Manifest`, in the order of the names.

    Parameters
    ----------
    directory
        Folder of ``<name>.toml`` files (default: those shipped with topobrain).

    Raises
    ------
    DataFileError
        The folder is missing or holds no manifest.
    InputError
        A manifest is no TOML, or lacks a field, has an unknown one, or one of the wrong form: file and field are named.
    """
    return dict(_load_all(manifest_directory() if directory is None else Path(directory)))


@functools.cache  # the largest manifest lists 1,584 files; every load of a data set would parse it again
def _load_all(directory: Path) -> Mapping[str, Manifest]:
    sources = sorted(directory.glob("*.toml")) if directory.is_dir() else []
    if not sources:
        raise DataFileError(
            f"no data manifest in {directory}: expected one <name>.toml a data set; reinstall topobrain"
        )
    manifests = {source.stem: read_manifest(source) for source in sources}
    owner: dict[str, str] = {}
    for manifest in manifests.values():
        for part in manifest.provides:
            other = owner.setdefault(part.name, manifest.name)
            if other != manifest.name or (part.name in manifests and part.name != manifest.name):
                raise InputError(
                    f"{directory / manifest.name}.toml provides {part.name!r}, the name of another data set"
                )
    return manifests


def read_manifest(source: Path) -> Manifest:
    """Read one manifest file, checking every field.

    Raises
    ------
    InputError
        The file is no TOML, or a field is missing, unknown or of the wrong form: file and field are named.
    """
    try:
        fields = tomllib.loads(source.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{source} is not a readable TOML file: {error}") from error
    table = _Table(source, "", fields)
    manifest = Manifest(
        **{key: table.text(key) for key in ("name", "title", "kind", "description", "origin", "licence", "citation")},
        access=table.text("access"),
        simulated=table.typed("simulated", bool, "true or false"),
        files=tuple(_data_file(entry) for entry in table.tables("files")),
        provides=tuple(_part(entry) for entry in table.tables("provides", optional=True)),
        doi=table.text("doi") if "doi" in fields else None,
    )
    table.done()
    require_choice(f"value of field 'access' in {source}", manifest.access, ACCESS)
    if manifest.name != source.stem:
        raise InputError(f"{source}: field 'name' is {manifest.name!r}, expected the file's own name {source.stem!r}")
    if not manifest.files and manifest.access != "generated":
        raise InputError(f"{source}: field 'files' is empty, expected at least one file")
    paths = manifest.paths()
    twice = sorted({path for path in paths if paths.count(path) > 1}) if len(set(paths)) < len(paths) else []
    if twice:
        raise InputError(f"{source}: field 'files' lists a path more than once: {listed(twice, 3)}")
    for part in manifest.provides:
        for pattern in part.files:
            if not any(fnmatch(path, pattern) for path in paths):
                raise InputError(f"{source}: field 'provides', name {part.name!r}: no listed file matches {pattern!r}")
    return manifest


def _data_file(entry: _Table) -> DataFile:
    path = entry.text("path")
    # Where no hash is published the size, as a rule, is not either: then both may be left out.
    sha256 = (entry.typed("sha256", str, "text") or None) if "sha256" in entry.fields else None
    size = entry.typed("bytes", int, "a whole number") if "bytes" in entry.fields or sha256 else None
    url = entry.text("url") if "url" in entry.fields else None
    prefix = entry.text("sha256_prefix") if "sha256_prefix" in entry.fields else None
    entry.done()
    pure = PurePosixPath(path)
    # A path that climbs out of the folder would let a manifest write anywhere.
    if pure.is_absolute() or ".." in pure.parts or "\\" in path or pure.as_posix() != path:
        raise entry.error("path", f"is {path!r}, expected a plain path inside the data set's folder")
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise entry.error("sha256", f"is {sha256!r}, expected 64 lower-case hexadecimal digits")
    if prefix is not None and (sha256 is not None or not _PREFIX.fullmatch(prefix)):
        raise entry.error(
            "sha256_prefix", f"is {prefix!r}, expected the first 6 or more digits of a hash that is not known whole"
        )
    if size is not None and size < 0:
        raise entry.error("bytes", f"is {size}, expected a size of 0 or more")
    if url is not None and not url.startswith(("https://", "http://")):
        raise entry.error("url", f"is {url!r}, expected an http(s) address")
    return DataFile(path, sha256, size, url, prefix)


def _part(entry: _Table) -> Part:
    name, title = entry.text("name"), entry.text("title")
    files = entry.typed("files", list, "a list of file patterns")
    stand_in = entry.text("stand_in") if "stand_in" in entry.fields else None
    licence = entry.text("licence") if "licence" in entry.fields else None
    entry.done()
    if not files or not all(isinstance(pattern, str) for pattern in files):
        raise entry.error("files", f"is {files!r}, expected a list of file patterns")
    return Part(name, tuple(files), title, stand_in, licence)


@dataclass
class _Table:
    """A TOML table being read: every error names the file and the field, and no field goes unread."""

    source: Path
    where: str
    fields: dict[str, Any]
    read: set[str] = field(default_factory=set)

    def error(self, key: str, problem: str) -> InputError:
        return InputError(f"{self.source}: field {self.where + key!r} {problem}")

    def typed(self, key: str, kind: type, expected: str) -> Any:
        if key not in self.fields:
            raise self.error(key, f"is missing; present: {listed(self.fields)}")
        self.read.add(key)
        value = self.fields[key]
        # TOML's booleans are Python ints too; they are no sizes.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(key, f"is {value!r}, expected {expected}")
        return value

    def text(self, key: str) -> str:
        value: str = self.typed(key, str, "text")
        if not value.strip():
            raise self.error(key, "is empty")
        return value

    def tables(self, key: str, *, optional: bool = False) -> list[_Table]:
        if optional and key not in self.fields:
            return []
        entries = self.typed(key, list, "a list of tables")
        for position, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise self.error(f"{key}[{position}]", f"is {entry!r}, expected a table")
        return [_Table(self.source, f"{key}[{position}].", entry) for position, entry in enumerate(entries)]

    def done(self) -> None:
        """Raise if a field was never read: a misspelt optional field would otherwise be lost in silence."""
        for key in self.fields:
            if key not in self.read:
                guess = near(key, KNOWN_FIELDS)
                raise self.error(key, f"is not known.{f' Did you mean {guess[0]!r}?' if guess else ''}")


KNOWN_FIELDS = tuple(dict.fromkeys([*Manifest.__annotations__, *DataFile.__annotations__, *Part.__annotations__]))
"""Every field a manifest may have, at any level: near names are offered from it."""
