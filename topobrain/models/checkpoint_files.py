"""Read other people's weight files: tensors and plain values come out, and code in a file is refused, not run."""

from __future__ import annotations

import argparse
import contextlib
import math
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from topobrain._checks import DataFileError, listed
from topobrain.models.checkpoint_fields import PlainValues, key_text, read_fields

NESTS = ("model", "state_dict", "model_state_dict", "model_state")
"""Keys under which training scripts file the weights, looked up in this order, one inside another if need be."""

DEEPEST_NEST = 4
"""Nests opened, one inside another. A pickled dict may hold itself."""

LEAST_IN_A_BLOCK = 4
"""Tensors that a block of a transformer has at the least (two norms, two branches)."""

DENSE = frozenset(
    getattr(torch, name)
    for name in (
        "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
        "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool",
    )
)  # fmt: skip
"""Types of tensors that become float32 without losing anything but digits."""

TRANSFORMERS_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
COMPILED, PARALLEL = "_orig_mod.", "module."
CONVERT = (
    "Where it was made, and by someone who trusts it, the weights alone can be saved again: "
    "safetensors.torch.save_file(module.state_dict(), 'weights.safetensors') or torch.save(module.state_dict(), path)"
)


@dataclass(frozen=True)
class Checkpoint:
    """What a weight file held.

    Attributes
    ----------
    tensors
        Name -> tensor on the CPU, in the file's own types and names (without wrapper prefixes).
    meta
        Plain values found beside the tensors (``model_args``, ``epoch``, ...): text, numbers, booleans, None, lists and
        dicts of them; other values are left out, and those too deep or too many. A safetensors file's metadata is text
        only.
    nest
        Where the tensors lay: ``""`` at the top, else a path such as ``"model"`` or ``"checkpoint/state_dict"``.
    """

    tensors: dict[str, Tensor]
    meta: dict[str, Any] = field(default_factory=dict)
    nest: str = ""


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read the tensors of a safetensors or torch file (.safetensors, .pt, .pth, .bin, .ckpt), whatever it is named.

    The kind of file is told from its first bytes. Torch files are read with ``weights_only=True``, which unpickles
    tensors and plain values and refuses everything that would run. That claim rests on torch 2.6 or newer, which this
    package requires: up to torch 2.5.1 a file could be made that runs code all the same (CVE-2025-32434). A training
    script's nest around the weights is opened (`NESTS`), and prefixes that wrappers left in the names go
    (`strip_prefixes`).

    Parameters
    ----------
    path
        One file.

    Returns
    -------
    Checkpoint

    Raises
    ------
    DataFileError
        The file is missing, truncated, a saved web page or a Git-LFS pointer instead of the file, holds code or a whole
        pickled module, or holds no tensors, or one that is not dense, real and stored value by value.
    """
    source = Path(path).expanduser()
    if source.is_dir():
        found = listed(sorted(part.name for part in source.iterdir()))
        raise DataFileError(f"{source} is a directory; give one weight file of it (found: {found})")
    try:
        with source.open("rb") as file:
            head = file.read(512)
        size = source.stat().st_size
    except FileNotFoundError:
        raise DataFileError(f"there is no weight file {source}") from None
    except OSError as error:
        raise DataFileError(f"cannot read the weight file {source}: {error.strerror or error}") from error
    _refuse_other_content(source, head, size)
    if head[8:9] == b"{":
        tensors, meta = _read_safetensors(source, head, size)
        _require_dense(tensors, source)
        return Checkpoint(strip_prefixes(tensors, path=source), meta)
    content = _read_torch(source, head)
    if not isinstance(content, Mapping):
        raise DataFileError(f"{source} holds a {type(content).__name__}, expected named tensors (a state dict)")
    return _opened(source, content)


def strip_prefixes(tensors: Mapping[str, Tensor], *, path: str | Path = "the state dict") -> dict[str, Tensor]:
    """Return tensors under the names they have in the bare module.

    ``torch.compile`` leaves ``_orig_mod.`` in names, data-parallel wrappers put ``module.`` before every name.

    >>> sorted(strip_prefixes({"module._orig_mod.a": torch.zeros(1), "module._orig_mod.b": torch.zeros(1)}))
    ['a', 'b']
    """
    names = {name: name.replace(COMPILED, "") for name in tensors}
    while names and all(name.startswith(PARALLEL) for name in names.values()):
        names = {old: name.removeprefix(PARALLEL) for old, name in names.items()}
    stripped = {names[old]: tensor for old, tensor in tensors.items()}
    if len(stripped) < len(tensors):
        twice = [name for name, n in Counter(names.values()).items() if n > 1]
        raise DataFileError(f"{path} names a tensor twice, with and without a wrapper's prefix: {listed(twice, 3)}")
    return stripped


def drop_tied_head(tensors: Mapping[str, Tensor], *, head: str, embedding: str, path: str | Path) -> dict[str, Tensor]:
    """Return the tensors without a head that is the embedding once more.

    Raises
    ------
    DataFileError
        The head differs from the embedding, so it would be lost.
    """
    if head in tensors and embedding in tensors and not torch.equal(tensors[head], tensors[embedding]):
        shapes = [tuple(tensors[name].shape) for name in (head, embedding)]
        what = "another shape" if shapes[0] != shapes[1] else "other values"
        raise DataFileError(
            f"{path} has a head of its own: {head} {shapes[0]} has {what} than {embedding} {shapes[1]}; this model's head is "
            "tied to its embedding"
        )
    return {name: tensor for name, tensor in tensors.items() if name != head or embedding not in tensors}


def find_transformers_files(directory: str | Path) -> tuple[dict[str, Any], Path]:
    """Return the fields of ``config.json`` and the path of the weight file in a directory of transformers' format.

    Raises
    ------
    DataFileError
        One of them is missing or unreadable.
    """
    source = Path(directory).expanduser()
    found = listed(sorted(part.name for part in source.iterdir())) if source.is_dir() else "no such directory"
    config = source / "config.json"
    if not config.is_file():
        raise DataFileError(f"{source} is no model directory: expected config.json in it, found: {found}")
    weights = next((source / name for name in TRANSFORMERS_WEIGHTS if (source / name).is_file()), None)
    if weights is None:
        raise DataFileError(f"{source} holds no weights: expected {' or '.join(TRANSFORMERS_WEIGHTS)}, found: {found}")
    return read_fields(config), weights


def count_blocks(names: Iterable[str], start: str, *, path: str | Path) -> int:
    r"""Return how many blocks the names of a transformer's tensors have, before anything is built for them.

    >>> count_blocks(["h.0.a", "h.0.b", "h.0.c", "h.0.d", "head"], r"h\.", path="x.pt")
    1

    Parameters
    ----------
    names
        Names of tensors.
    start
        Regular expression of what stands before the number of a block.
    path
        Where they come from, for the message.

    Raises
    ------
    DataFileError
        The numbers are not 0, 1, 2, ..., or the blocks have hardly any tensors.
    """
    numbered = re.compile(rf"{start}(0|[1-9][0-9]*)\.")
    found = Counter(match[1] for name in names if (match := numbered.match(name)))
    expected = [str(number) for number in range(len(found))]
    missing = [number for number in expected if number not in found]
    if missing:
        odd = [number[:20] for number in set(found).difference(expected)]
        raise DataFileError(
            f"{path} names {len(found)} blocks, expected the numbers 0 to {len(found) - 1}: it lacks "
            f"{listed(missing, 4)} and has {listed(sorted(odd), 4)}"
        )
    if sum(found.values()) < LEAST_IN_A_BLOCK * len(found):
        raise DataFileError(
            f"{path} names {len(found)} blocks, but only {sum(found.values())} tensors in them; a transformer's block has "
            f"at least {LEAST_IN_A_BLOCK}"
        )
    return len(found)


def require_finite(tensors: Mapping[str, Tensor], *, path: str | Path) -> None:
    """Raise where weights would be NaN or infinite in float32, or a variance negative.

    Not for training, whose state may pass through such values: a published file with them is damaged, or of a run that
    diverged.

    Raises
    ------
    DataFileError
        Names the tensors and how many of their values are at fault.
    """
    wrong = []
    for name, tensor in tensors.items():
        if not tensor.numel() or not tensor.is_floating_point():
            continue
        values = tensor.float()
        low, high = values.aminmax()  # NaN where one value is NaN; no copy of the tensor, unlike isfinite
        if not math.isfinite(low) or not math.isfinite(high):
            n = int((~values.isfinite()).sum())
            wrong.append(f"{name} has {n} of {values.numel()} values that are NaN or infinite in float32")
        elif name.endswith("running_var") and low < 0:
            wrong.append(f"{name} has {int((values < 0).sum())} of {values.numel()} variances below 0")
    if wrong:
        raise DataFileError(
            f"the weights in {path} are damaged, or of a training run that diverged: {listed(wrong, 4)}"
        )


def fit_state(module: nn.Module, tensors: Mapping[str, Tensor], *, path: str | Path) -> None:
    """Load a state dict whole, or not at all.

    Parameters
    ----------
    module
        Takes the values; its own types and device stay.
    tensors
        One for every parameter and persistent buffer of the module, and no other.
    path
        Where they come from, for the message.

    Raises
    ------
    DataFileError
        Names are missing or left over, or shapes differ: all of it in one message, with nothing loaded.
    """
    require_fit(module, tensors, path=path)
    module.load_state_dict(dict(tensors))


def require_fit(module: nn.Module, tensors: Mapping[str, Tensor], *, path: str | Path) -> None:
    """Raise what `fit_state` would, without loading: names and shapes only, so the module may lie on the meta device."""
    own = module.state_dict()
    missing = [name for name in own if name not in tensors]
    left_over = [name for name in tensors if name not in own]
    shapes = [
        f"{name} should be {tuple(own[name].shape)}, is {tuple(tensors[name].shape)}"
        for name in own
        if name in tensors and own[name].shape != tensors[name].shape
    ]
    wrong = [
        f"{len(missing)} tensors are missing ({listed(missing, 4)})" if missing else "",
        f"{len(left_over)} tensors are not expected ({listed(left_over, 4)})" if left_over else "",
        f"{len(shapes)} tensors have another shape ({listed(shapes, 4)})" if shapes else "",
    ]
    if any(wrong):
        what = "; ".join(part for part in wrong if part)
        raise DataFileError(f"the weights in {path} do not fit {type(module).__name__}: {what}")


def require_fit_unbuilt(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor], *, path: str | Path) -> None:
    """Raise what `fit_state` would before any memory is taken: the sizes that a small file names may fill all there is.

    Parameters
    ----------
    build
        Makes the module; called on the meta device.
    tensors, path
        As in `fit_state`.
    """
    try:
        with torch.device("meta"), _NoDraws():
            module = build()
    except RuntimeError as error:  # a tensor of more bytes than can be counted
        raise DataFileError(f"the sizes that {path} names cannot be built: {error}") from None
    require_fit(module, tensors, path=path)


class _NoDraws(TorchFunctionMode):
    """Leaves out draws from normal distributions: without values they are nothing, but load seconds of torch's code."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.normal_, nn.init.normal_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _refuse_other_content(source: Path, head: bytes, size: int) -> None:
    if size == 0:
        raise DataFileError(f"{source} is empty")
    if head.startswith(LFS_POINTER):
        raise DataFileError(
            f"{source} is a Git-LFS pointer ({size} bytes), not the weights themselves: run `git lfs pull` where it was "
            "cloned, or download the file from the web page of the repository"
        )
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise DataFileError(
            f"{source} is a web page, not a weight file: the download was answered with a page (a login, an error, or "
            "the file's own page). Download it again with the link behind the download button"
        )
    with contextlib.suppress(UnicodeDecodeError):
        text = head.decode("utf-8")
        if not head.startswith((b"PK", b"\x80")) and all(c.isprintable() or c in "\r\n\t" for c in text):
            first = text.strip().splitlines()[:1] or [""]
            raise DataFileError(f"{source} is a text file, not a weight file; it begins: {first[0][:80]!r}")


def _read_safetensors(source: Path, head: bytes, size: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    header = struct.unpack("<Q", head[:8])[0]
    if 8 + header > size:
        raise DataFileError(f"{source} is truncated: its header alone takes {8 + header} bytes, the file has {size}")
    try:
        with safe_open(source, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            meta = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise DataFileError(f"{source} is a truncated or damaged safetensors file: {error}") from error
    if not tensors:
        raise DataFileError(f"{source} is a safetensors file without tensors")
    return tensors, meta


def _read_torch(source: Path, head: bytes) -> Any:
    if head.startswith(b"PK"):
        _refuse_other_archives(source)
    # Training scripts keep their command line as argparse.Namespace, a bare holder of plain values.
    allowed = torch.serialization.safe_globals([argparse.Namespace])
    try:
        # torch is given an open file, because it would trust the suffix of a path.
        with allowed, source.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on the file's pickle protocol: what is wrong is said below
            return torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch raises many kinds: UnpicklingError, EOFError, RuntimeError, KeyError, ...
        named = _code_named(source)
        if any(name.startswith("torch.nn.") for name in named):
            raise DataFileError(
                f"{source} holds a whole pickled module ({listed(named, 4)}), which only its own code could rebuild; it is "
                f"refused and nothing in it was run. {CONVERT}"
            ) from None
        if named:
            raise DataFileError(
                f"{source} is a pickle that holds code, not only tensors and plain values: it calls {listed(named, 4)}. It "
                f"is refused and nothing in it was run. {CONVERT}"
            ) from None
        if isinstance(error, pickle.UnpicklingError):
            raise DataFileError(
                f"{source} is a pickle that torch does not read as weights (written by pickle.dump instead of torch.save, or "
                f"damaged). {CONVERT}"
            ) from None
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise DataFileError(f"{source} is truncated, damaged, or no torch weight file: {reason}") from None


def _refuse_other_archives(source: Path) -> None:
    try:
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise DataFileError(f"{source} is truncated or damaged: its archive has no readable directory") from error
    if any(name.endswith("constants.pkl") for name in names) and any("/code/" in name for name in names):
        raise DataFileError(
            f"{source} is a TorchScript archive: code with its weights; it is refused and nothing in it was run. {CONVERT}"
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise DataFileError(f"{source} is an archive, but no torch weight file; it holds {listed(names, 4)}")


def _code_named(source: Path) -> list[str]:
    """Return what a pickle would import beyond what tensors and plain values need. Only reads opcodes: nothing runs."""
    names: dict[str, None] = {}
    with contextlib.suppress(OSError, zipfile.BadZipFile):
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                for entry in archive.namelist():
                    if entry.endswith("data.pkl"):
                        with archive.open(entry) as file:
                            names.update(dict.fromkeys(_imports(file)))
        else:
            with source.open("rb") as file:
                names.update(dict.fromkeys(_imports(file)))
    return [name for name in names if not _harmless(name)]


def _imports(file: IO[bytes]) -> Iterator[str]:
    """Yield ``module.name`` of every import in a file of one or more pickles (torch's old format has four)."""
    strings: list[str] = []
    memo: dict[int, str] = {}
    with contextlib.suppress(ValueError, KeyError, EOFError, UnicodeDecodeError, OSError, zipfile.BadZipFile):
        while True:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name in ("GLOBAL", "INST"):
                    yield str(argument).replace(" ", ".")
                elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
                    yield ".".join(strings[-2:])
                elif "UNICODE" in opcode.name or "STRING" in opcode.name:
                    strings.append(str(argument))
                elif opcode.name == "MEMOIZE":
                    memo[len(memo)] = strings[-1] if strings else ""
                elif opcode.name in ("BINPUT", "LONG_BINPUT", "PUT"):
                    memo[cast(int, argument)] = strings[-1] if strings else ""
                elif opcode.name in ("BINGET", "LONG_BINGET", "GET"):
                    strings.append(memo.get(cast(int, argument), ""))


def _harmless(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    tensor_part = module == "torch" or module in (
        "torch._utils",
        "torch._tensor",
        "torch.storage",
        "torch.serialization",
    )
    parameter = name == "torch.nn.parameter.Parameter"
    return (
        tensor_part
        or parameter
        or (module, attribute)
        in (
            ("collections", "OrderedDict"),
            ("argparse", "Namespace"),
            ("_codecs", "encode"),
        )
    )


def _opened(source: Path, content: Mapping[Any, Any]) -> Checkpoint:
    """Open the nests around the tensors, and keep the plain values that lie beside them."""
    meta: dict[str, Any] = {}
    nests: list[str] = []
    plain, opened = PlainValues(), {id(content)}
    inner: str | None = ""
    while inner is not None:
        within: dict[str, Any] = {
            key: content[key] for key in NESTS if key in content and id(content[key]) not in opened
        }
        room = DEEPEST_NEST - len(nests)
        inner = next((key for key, value in within.items() if _holds_tensors(value, room)), None)
        beside = {key: value for key, value in content.items() if key != inner}
        if inner is None:
            beside = {key: value for key, value in beside.items() if not isinstance(value, Tensor)}
        meta.update(plain.of_file(beside))
        if inner is not None:
            nests.append(inner)
            content = content[inner]
            opened.add(id(content))
    tensors = {key_text(key): value.detach() for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        found = listed(f"{key_text(key)} ({type(value).__name__})" for key, value in content.items())
        raise DataFileError(
            f"{source} holds no tensors at its top or under {listed(NESTS)}; found: {found}. If the weights lie under "
            "another name, save that part alone"
        )
    _require_dense(tensors, source)
    return Checkpoint(strip_prefixes(tensors, path=source), meta, "/".join(nests))


def _holds_tensors(value: Any, levels: int) -> bool:
    if not isinstance(value, Mapping) or levels < 1:
        return False
    inside = any(isinstance(item, Tensor) for item in value.values())
    return inside or any(_holds_tensors(value.get(key), levels - 1) for key in NESTS)


def _require_dense(tensors: Mapping[str, Tensor], source: Path) -> None:
    wrong = [f"{name} {fault}" for name, fault in ((name, _fault(tensor)) for name, tensor in tensors.items()) if fault]
    if wrong:
        raise DataFileError(
            f"{source} holds tensors that are no weights as they stand, expected dense tensors of real numbers, each value "
            f"stored: {listed(wrong, 4)}"
        )


def _fault(tensor: Tensor) -> str:
    """Return why a tensor cannot be taken as it is, or nothing."""
    if tensor.is_nested:
        return "is nested (tensors of several shapes in one)"
    if tensor.layout != torch.strided:
        return f"is sparse ({tensor.layout})"
    if tensor.device.type != "cpu":
        return f"has no values here (device {tensor.device})"
    if tensor.dtype not in DENSE:
        return f"is {'quantized' if tensor.is_quantized else 'of the type'} {tensor.dtype}"
    stored = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > stored:  # expanded: a file of some bytes would fill any memory
        return f"has shape {tuple(tensor.shape)}, but only {stored} bytes are stored"
    return ""
