"""``responses.toml``: a data set of one's own, described in a file instead of code.

A folder with a ``responses.toml`` in the store (``$TOPOBRAIN_DATA/<name>/responses.toml``) is a name for `load_responses`.
Paths in the file are relative to its folder.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from topobrain._checks import DataFileError, InputError, listed, near
from topobrain.brain_files import (
    read_assembly,
    responses_from_bids,
    responses_from_long_table,
    responses_from_nifti,
    responses_from_surface,
)
from topobrain.responses import BrainResponses

FILE = "responses.toml"

KINDS: dict[str, Callable[..., BrainResponses]] = {
    "table": BrainResponses.from_table,
    "long-table": responses_from_long_table,
    "nifti": responses_from_nifti,
    "gifti": responses_from_surface,
    "mgh": responses_from_surface,
    "cifti": responses_from_surface,
    "netcdf": read_assembly,
    "bids": responses_from_bids,
}
"""Kinds of files, and what reads them: its keyword arguments are the keys of the section ``[options]``."""

WITH_TEXTS = ("table", "long-table", "netcdf", "bids")
"""Kinds whose files hold the stimuli; the others need the section ``[stimuli]``."""

RESPONSES_KEYS = {
    "kind": str,
    "files": (str, list, dict),
    "subjects": list,
    "subject": str,
    "title": str,
    "description": str,
    "origin": str,
    "licence": str,
    "citation": str,
    "doi": str,
    "simulated": bool,
    "design": str,
    "ceiling": (int, float, dict),
}
"""Keys of the section ``[responses]`` and the types of their values."""

NUMBER = (int, float)
OPTION_TYPES: dict[str, Any] = {
    **dict.fromkeys(("value", "roi", "repeat", "space", "desc", "task", "text", "maps", "events", "medial_wall"), str),
    **dict.fromkeys(
        ("average", "average_subjects", "resample", "drop_missing", "detrend", "standardize_confounds"), bool
    ),
    **dict.fromkeys(("t_r", "high_pass", "low_pass"), NUMBER),
    **dict.fromkeys(("mask", "labels"), (str, dict)),
    **dict.fromkeys(("rois", "confounds"), list),
    "names": (str, list, dict),
    "runs": (list, int, str),
    "select": dict,
    "session": (str, int),
    "smoothing_fwhm": (int, float, list, str),
}
"""Types of the keys of the section ``[options]``; those that are not here go to nilearn as they are."""

OF_TEXTS = ("rois", "confounds")
"""Options that are lists of texts."""

STIMULI_KEYS = {"file": str, "text": str, "id": str, "group": str}
"""Keys of the section ``[stimuli]``."""

CEILING_KEYS = ("value", "rois", "column", "method", "file")
SECTIONS = ("responses", "stimuli", "options", "sha256")
PATH_OPTIONS = ("mask", "labels", "maps", "names", "events")
"""Options that are paths (or hemisphere -> path), relative to the file's folder like all others."""


@dataclass(frozen=True)
class ResponsesManifest:
    """One ``responses.toml``, checked.

    Parameters
    ----------
    source
        The file.
    responses, stimuli, options
        Its sections.
    sha256
        Path, as it is written elsewhere in the file, -> hash that it must have.
    """

    source: Path
    responses: Mapping[str, Any]
    stimuli: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the data set: that of its folder, or of the file if it has another name than ``responses.toml``."""
        return self.source.resolve().parent.name if self.source.name == FILE else self.source.stem

    @property
    def kind(self) -> str:
        """The kind of its files."""
        return str(self.responses["kind"])

    @property
    def title(self) -> str:
        """One line for lists and figures."""
        return str(self.responses.get("title", self.name))

    @property
    def licence(self) -> str:
        """Terms of use."""
        return str(self.responses.get("licence", "not stated"))

    def path(self, written: str) -> Path:
        """Return a path of the file as one on disk."""
        return self.source.parent / Path(written).expanduser()

    def files(self) -> list[Path]:
        """Return every file that can be named without reading the stimuli (folders and ``{stimulus}`` are left out)."""
        written = [*_strings(self.responses["files"]), *_strings({k: self.options.get(k, "") for k in PATH_OPTIONS})]
        written += [self.stimuli.get("file", ""), *self.sha256]
        ceiling = self.responses.get("ceiling")
        written += [str(ceiling.get("file", ""))] if isinstance(ceiling, Mapping) else []
        found: dict[Path, None] = {}
        for text in written:
            for one in self._expanded(text):
                if one and "{" not in one and self.path(one).suffix:
                    found[self.path(one)] = None
        return list(found)

    def state(self) -> str:
        """Return the state of the files: as `topobrain.store.StoreStatus`; ``"unverified"`` where some have no hash."""
        files = self.files()
        there = [file for file in files if file.exists()]
        hashes = {self.path(text): digest for text, digest in self.sha256.items()}
        if any(path.is_file() and file_sha256(path) != digest for path, digest in hashes.items()):
            return "altered"
        if len(there) < len(files):
            return "incomplete" if there else "missing"
        return "verified" if files and all(file in hashes for file in files) else "unverified"

    def row(self) -> dict[str, Any]:
        """Return the data set's line of `list_data`."""
        files = [file for file in self.files() if file.is_file()]
        return {
            "name": self.name,
            "kind": "responses",
            "access": "local",
            "status": self.state(),
            "n_files": len(self.files()),
            "megabytes": round(sum(file.stat().st_size for file in files) / 1e6, 3),
            "licence": self.licence,
            "title": self.title,
        }

    def _expanded(self, text: str) -> list[str]:
        subjects = [str(subject) for subject in self.responses.get("subjects", [])]
        texts = [text.replace("{subject}", subject) for subject in subjects] if "{subject}" in text else [text]
        for mark, letters in (("{hemi}", "LR"), ("{h}", ("lh", "rh"))):
            texts = [one.replace(mark, letter) for one in texts for letter in letters] if mark in text else texts
        return texts


def read_responses_manifest(source: str | os.PathLike[str]) -> ResponsesManifest:
    """Read a ``responses.toml`` (or the one in a folder), checking every key.

    Raises
    ------
    DataFileError
        No such file.
    InputError
        It is no TOML, or a key is missing, unknown, or of the wrong type: file, section and key are named.
    """
    path = Path(source).expanduser()
    path = path / FILE if path.is_dir() else path
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataFileError(f"cannot read {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a readable TOML file: {error}") from error
    _known_keys(path, "", fields, SECTIONS)
    for section in SECTIONS:
        if not isinstance(fields.get(section, {}), dict):
            raise InputError(f"{path}: {section} is {fields[section]!r}, expected a section [{section}]")
    responses = fields.get("responses")
    if responses is None:
        raise InputError(f"{path} has no section [responses]: expected kind, files, ...")
    _typed(path, "responses", responses, RESPONSES_KEYS)
    _typed(path, "stimuli", fields.get("stimuli", {}), STIMULI_KEYS)
    if "kind" not in responses:
        raise InputError(f"{path}: key 'kind' of [responses] is missing: expected one of {listed(KINDS)}")
    kind = responses["kind"]
    if kind not in KINDS:
        raise _bad(path, "responses", "kind", kind, KINDS)
    if "files" not in responses:
        raise InputError(f"{path}: key 'files' of [responses] is missing: which files hold the responses?")
    if responses.get("design", "events") not in ("events", "timeseries"):
        raise _bad(path, "responses", "design", responses["design"], ("events", "timeseries"))
    _check_ceiling(path, responses.get("ceiling"), kind)
    if kind not in WITH_TEXTS and "file" not in fields.get("stimuli", {}):
        raise InputError(
            f"{path}: files of kind {kind!r} hold no texts: expected a section [stimuli] with a key 'file'"
        )
    if "subject" in responses and "subjects" in responses:
        raise InputError(f"{path}: [responses] has 'subject' and 'subjects': expected one of them")
    if (
        "subjects" in responses
        and not any("{subject}" in text for text in _strings(responses["files"]))
        and kind != "bids"
    ):
        raise InputError(f"{path}: [responses] has 'subjects', but no {{subject}} in 'files' for them to fill")
    options = fields.get("options", {})
    accepted = _options_of(kind)
    _known_keys(path, "options", options, accepted, f"(those of kind {kind!r})")
    typed = {key: value for key, value in options.items() if key in OPTION_TYPES}
    _typed(path, "options", typed, OPTION_TYPES)
    for key, value in options.items():
        if key in OF_TEXTS and isinstance(value, list) and not all(isinstance(word, str) for word in value):
            raise InputError(f"{path}: key {key!r} of [options] is {value!r}, expected a list of texts")
    for name, parameter in inspect.signature(KINDS[kind]).parameters.items():
        needed = parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
        if needed and name in accepted and name not in options:
            raise InputError(f"{path}: key {name!r} of [options] is missing: kind {kind!r} needs it")
    for key, digest in fields.get("sha256", {}).items():
        if not isinstance(digest, str) or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise InputError(f"{path}: [sha256] of {key!r} is {digest!r}, expected 64 lower-case hexadecimal digits")
    return ResponsesManifest(path, responses, fields.get("stimuli", {}), options, fields.get("sha256", {}))


def local_manifests(store: Path) -> Iterator[tuple[Path, ResponsesManifest | InputError]]:
    """Yield every ``responses.toml`` in the store, or what is wrong with it, in the order of their names."""
    for path in sorted(store.glob(f"*/{FILE}")) if store.is_dir() else []:
        try:
            yield path, read_responses_manifest(path)
        except (InputError, DataFileError) as error:
            yield path, InputError(str(error))


def _check_ceiling(path: Path, given: Any, kind: str) -> None:
    """Raise unless a ceiling is one of the ways that a kind of files has."""
    if given is None:
        return
    ways = {
        "table": ("value", "rois"),
        "long-table": ("value", "rois", "column", "method"),
        "nifti": ("value", "rois", "file", "method"),
        "gifti": ("value", "rois", "method"),
        "netcdf": (),
        "bids": (),
    }.get(kind, ("value", "rois", "method"))
    if not isinstance(given, Mapping):
        given = {"value": given}
    if len(given) != 1:
        raise InputError(
            f"{path}: key 'ceiling' of [responses] is {dict(given)!r}: expected one of {listed(CEILING_KEYS)}"
        )
    ((way, value),) = given.items()
    if way not in ways:
        expected = listed(ways) if ways else "none: the files hold it, or it is not known"
        close = near(way, ways)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        raise InputError(
            f"{path}: key 'ceiling' of [responses] has {way!r}; for kind {kind!r} expected {expected}.{guess}"
        )
    methods = ("subjects", "repeats") if kind == "long-table" else ("repeats",)
    if way == "method" and value not in methods:
        raise _bad(path, "responses", "ceiling.method", value, methods)
    if way == "value" and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1):
        raise InputError(f"{path}: ceiling {value!r} is no correlation: expected a number from 0 to 1")
    if way == "rois" and not isinstance(value, Mapping):
        raise InputError(f"{path}: ceiling.rois is {value!r}, expected region = number")
    for name, number in value.items() if isinstance(value, Mapping) else ():
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 1:
            raise InputError(f"{path}: ceiling.rois.{name} is {number!r}, expected a number from 0 to 1")
    if way in ("column", "file") and not isinstance(value, str):
        raise InputError(f"{path}: ceiling.{way} is {value!r}, expected text")


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, which is read only once while it does not change."""
    facts = path.stat()
    return _hashed(path, facts.st_size, facts.st_mtime_ns)


@functools.lru_cache(maxsize=4096)  # a file that did not change is read once a process
def _hashed(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _strings(value: Any) -> list[str]:
    """Return every text inside lists and tables."""
    if isinstance(value, Mapping):
        return [text for item in value.values() for text in _strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return [value] if isinstance(value, str) else []


SET_ELSEWHERE = (
    "self",
    "cls",
    "table",
    "path",
    "images",
    "stimuli",
    "root",
    "subject",
    "design",
    "ceiling",
    "ceilings",
    "order",
    "provenance",
)
"""Arguments of the readers that have keys of their own outside [options]."""

OF_STIMULI = ("text", "stimulus", "group")
"""Arguments that [stimuli] sets: for kinds whose files hold the texts, they are no options."""


def _options_of(kind: str) -> list[str]:
    """Return the keys that [options] may have: the reader's arguments and nilearn's options that it passes on."""
    parameters = inspect.signature(KINDS[kind]).parameters
    taken = {*SET_ELSEWHERE, *OF_STIMULI} - ({"subject"} if kind == "long-table" else set())
    names = [name for name in parameters if name not in taken and name != "options"]
    if "options" not in parameters:
        return names
    cleaning = [
        "standardize",
        "detrend",
        "t_r",
        "high_pass",
        "low_pass",
        "standardize_confounds",
        "filter",
        "extrapolate",
    ]
    volumes = ["smoothing_fwhm", "high_variance_confounds", "mask_strategy", "mask_args", "strategy", "clean_args"]
    return list(dict.fromkeys([*names, *cleaning, *(volumes if kind in ("nifti", "bids") else [])]))


def _known_keys(path: Path, section: str, fields: Mapping[str, Any], known: Any, more: str = "") -> None:
    for key in fields:
        if key not in known:
            close = near(key, known)
            guess = f" Did you mean {close[0]!r}?" if close else ""
            where = f"key {key!r} of [{section}]" if section else f"section [{key}]"
            raise InputError(
                f"{path}: {where} is not known.{guess} Expected: {listed(known, 40)}{' ' + more if more else ''}"
            )


def _typed(path: Path, section: str, fields: Mapping[str, Any], types: Mapping[str, Any]) -> None:
    _known_keys(path, section, fields, list(types))
    for key, value in fields.items():
        expected = types[key]
        if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
            words = {
                str: "text",
                bool: "true or false",
                list: "a list",
                dict: "a table",
                int: "a number",
                float: "a number",
            }
            kinds = expected if isinstance(expected, tuple) else (expected,)
            shown = " or ".join(dict.fromkeys(words[kind] for kind in kinds))
            raise InputError(f"{path}: key {key!r} of [{section}] is {value!r}, expected {shown}")


def _bad(path: Path, section: str, key: str, value: Any, known: Any) -> InputError:
    close = near(value, known)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return InputError(f"{path}: key {key!r} of [{section}] is {value!r}, expected one of {listed(known)}.{guess}")
