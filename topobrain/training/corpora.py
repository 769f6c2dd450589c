"""Corpora as examples: documents that stream, a held-out part kept apart, and tokens kept on the disk.

Which part a document belongs to follows from its own text, so that repeated documents never fall on both sides and the
split is the same for every tokenizer, seed and order.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from topobrain._checks import DataFileError, InputError, unknown
from topobrain.data import TEXT, load_text
from topobrain.store import cache_directory
from topobrain.store.files import find_manifest

HELD_OUT_ONE_IN = 20
CHUNK = 1000
LONGEST_DOCUMENT = 200_000
"""Characters after which a document of a plain text file is cut at the next line, so that no file must fit memory."""

SIMULATED = "simulated-text"
_HINT = (
    "topobrain holds the corpora named here; any other can be given as a plain text file (a path, or a name that ends in "
    ".txt): `topobrain train RECIPE --corpus FILE`."
)
IMDB_SPLITS = ("train", "test", "unsup")
_IMDB = tuple(f"imdb-{split}" for split in IMDB_SPLITS)
PARTS = ("training", "held_out")


class TokenStreams(NamedTuple):
    """A corpus as tokens.

    Attributes
    ----------
    training, held_out
        Token ids (token,), memory-mapped; documents follow one another, with the end-of-text token between them.
    description
        Name, numbers and whether it is simulated.
    """

    training: np.ndarray
    held_out: np.ndarray
    description: dict[str, Any]


def documents(corpus: str) -> Iterator[str]:
    """Yield a corpus document by document.

    Parameters
    ----------
    corpus
        A name (``"brown"``, ``"wikitext2"``, ``"imdb-unsup"``, ...), a plain text file (a document ends at a blank line),
        or several of either joined by ``+``.

    Raises
    ------
    UnknownNameError
        No such corpus.
    DataFileError
        A file is missing or is no UTF-8 text.
    """
    for part in _parts(corpus):
        path = _text_file(part)
        if path is not None:
            yield from _file_documents(path)
        elif part.startswith("imdb-") and part.removeprefix("imdb-") in IMDB_SPLITS:
            yield from load_text("imdb", split=part.removeprefix("imdb-"))
        else:
            yield from _named_documents(part)


def is_held_out(document: str) -> bool:
    """Whether a document belongs to the held-out part (one in twenty, by its text alone)."""
    digest = hashlib.sha256(" ".join(document.lower().split()).encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0


def describe_corpus(corpus: str) -> dict[str, Any]:
    """Return what results say of a corpus."""
    return {"name": corpus, "simulated": SIMULATED in _parts(corpus)}


def token_streams(corpus: str, tokenizer: Any) -> TokenStreams:
    """Return a corpus as two streams of tokens, tokenised once and kept in the cache.

    Documents stream through the tokenizer: neither texts nor tokens need to fit memory.

    Parameters
    ----------
    corpus
        As for `documents`.
    tokenizer
        A fast transformers tokenizer. Its end-of-text token, where it has one, ends every document.

    Raises
    ------
    InputError
        A corpus too short to have a held-out part.
    DataFileError
        The cache cannot be written.
    """
    from filelock import FileLock

    dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    folder = cache_directory() / "tokens" / _key(corpus, tokenizer, dtype)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            fields = _kept_fields(folder, dtype)
            if fields is None:
                _tokenise(corpus, tokenizer, dtype, folder)
                fields = _kept_fields(folder, dtype)
            if fields is None:
                raise DataFileError(f"the tokens of {corpus!r} in {folder} are not what was just written")
            streams = [np.memmap(folder / f"{part}.bin", dtype=dtype, mode="r") for part in PARTS]
    except DataFileError:
        raise
    except OSError as error:
        raise DataFileError(
            f"cannot keep the tokens of {corpus!r} in {folder.parent}: {error.strerror or error}"
        ) from error
    return TokenStreams(streams[0], streams[1], {**describe_corpus(corpus), **fields})


def _parts(corpus: str) -> list[str]:
    if _text_file(corpus.strip()) is not None and Path(corpus.strip()).expanduser().is_file():
        return [corpus.strip()]  # a path may hold a plus sign
    parts = [part.strip() for part in corpus.split("+")]
    if not all(parts):
        raise InputError(f"a corpus is a name, a text file, or several joined by '+'; got {corpus!r}")
    return parts


def _text_file(part: str) -> Path | None:
    looks_like_one = os.sep in part or part.endswith((".txt", ".text", ".md"))
    return Path(part).expanduser() if looks_like_one else None


def require_corpus(corpus: str) -> None:
    """Raise unless every part of a corpus has a name here, or is a file: told before anything long begins.

    Raises
    ------
    UnknownNameError
        No such corpus; near names are offered.
    DataFileError
        No such file.
    """
    for part in _parts(corpus):
        path = _text_file(part)
        if path is not None and not path.is_file():
            raise DataFileError(f"there is no text file {path}")
        if path is None and part not in (*TEXT, *_IMDB):
            raise unknown("text corpus", part, [*TEXT, *_IMDB], _HINT)


def _named_documents(name: str) -> list[str]:
    require_corpus(name)
    return load_text(name)


def _file_documents(path: Path) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8-sig") as stream:  # some editors begin a file with a mark that is no text
            lines: list[str] = []
            size = 0
            for line in stream:
                if (not line.strip() or size > LONGEST_DOCUMENT) and lines:
                    yield "".join(lines).strip()
                    lines, size = [], 0
                if line.strip():
                    lines.append(line)
                    size += len(line)
            if lines:
                yield "".join(lines).strip()
    except FileNotFoundError:
        raise DataFileError(f"there is no text file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataFileError(f"{path} cannot be read as UTF-8 text: {error}") from error


def _key(corpus: str, tokenizer: Any, dtype: Any) -> str:
    from importlib.metadata import version

    words = tokenizer.backend_tokenizer.to_str()
    fields = [np.dtype(dtype).str, HELD_OUT_ONE_IN, version("tokenizers"), words, tokenizer.eos_token_id]
    for part in _parts(corpus):
        path = _text_file(part)
        if path is None:  # the store only gives files of the published hash
            fields += [part, *_published_hashes(part)]
            continue
        try:
            with open(path, "rb") as stream:
                fields.append(hashlib.file_digest(stream, "sha256").hexdigest())
        except FileNotFoundError:
            raise DataFileError(f"there is no text file {path}") from None
        except OSError as error:
            raise DataFileError(f"cannot read the text file {path}: {error.strerror or error}") from error
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:24]


def _published_hashes(name: str) -> list[str | None]:
    if name == SIMULATED or (name not in TEXT and not name.startswith("imdb-")):
        return []
    manifest, paths = find_manifest(name.partition("-")[0])
    return [file.sha256 for file in manifest.files if file.path in paths]


def _kept_fields(folder: Path, dtype: Any) -> dict[str, Any] | None:
    """Return what is known of tokens in the cache; None if they are not there, or cut short."""
    try:
        fields: dict[str, Any] = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        counts = [fields["n_tokens"], fields["n_held_out_tokens"]]
        sizes = [(folder / f"{part}.bin").stat().st_size // np.dtype(dtype).itemsize for part in PARTS]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return fields if counts == sizes else None


def _tokenise(corpus: str, tokenizer: Any, dtype: Any, folder: Path) -> None:
    import shutil

    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    end = tokenizer.eos_token_id
    counts = {"training": 0, "held_out": 0}
    n_documents = 0
    for left in folder.parent.glob(f".{folder.name}.*.part"):  # of a killed process: this one holds the lock
        shutil.rmtree(left, ignore_errors=True)
    try:
        part.mkdir()
        with open(part / "training.bin", "wb") as training, open(part / "held_out.bin", "wb") as held_out:
            texts = documents(corpus)
            while chunk := list(islice(texts, CHUNK)):
                n_documents += len(chunk)
                rows = tokenizer(chunk, add_special_tokens=False, verbose=False)["input_ids"]
                for text, ids in zip(chunk, rows, strict=True):
                    name, stream = ("held_out", held_out) if is_held_out(text) else ("training", training)
                    ended = [*ids, end] if end is not None else ids
                    stream.write(np.asarray(ended, dtype=dtype).tobytes())
                    counts[name] += len(ended)
        if not all(counts.values()):
            raise InputError(
                f"corpus {corpus!r} has {n_documents} documents: too few for a held-out part of one in {HELD_OUT_ONE_IN}; "
                "blank lines separate documents"
            )
        fields = {"n_documents": n_documents, "n_tokens": counts["training"], "n_held_out_tokens": counts["held_out"]}
        (part / "corpus.json").write_text(json.dumps(fields), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
