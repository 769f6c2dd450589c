"""TorchModel: any `torch.nn.Module` as a model, recorded by the dotted paths of its modules."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import is_dataclass
from types import CodeType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from topobrain._checks import InputError, unknown
from topobrain.models.protocol import Recording, Survey
from topobrain.sheet import Sheet

INPUT = ":input"
"""Suffix of a path that records what goes into a module instead of what comes out."""

SURVEY_CHUNK = 1024
HASH_THREADS = 4
"""The most weights that are hashed side by side: as many are copied from an accelerator at once."""


class Encoded(NamedTuple):
    """One batch ready for a module.

    Attributes
    ----------
    inputs
        Keyword arguments of the module's forward, or one tensor passed as its first argument; first axis = stimulus.
    word
        int (stimulus, token): word number of each token, -1 for padding and special tokens.
    """

    inputs: Mapping[str, Tensor] | Tensor
    word: np.ndarray


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device to compute on: ``"auto"`` takes CUDA, then MPS, then the CPU."""
    if str(device) != "auto":
        try:
            chosen = torch.device(device)
            torch.empty(0, device=chosen)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device {str(device)!r} cannot be used here: {str(error).splitlines()[0]}") from error
        return chosen
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")


class TorchModel:
    """A torch module that can be recorded.

    Parameters
    ----------
    name
        Name used in titles and provenance.
    module
        Any `torch.nn.Module`.
    encode
        Stimuli -> `Encoded` (or a plain ``(inputs, word)`` pair). Padding must be on the right and masked in ``inputs``.
    sheets
        Layer -> sheet, in depth order. A layer is the dotted path of a submodule (``"blocks.0.attention.query"``) whose
        output is recorded; ``"blocks.0:input"`` records its input.
    paths
        Layer -> dotted path, for layers that should carry another name than their path.
    pools
        Layer -> function of the module's raw output, for layers whose output is not one value a unit: a map (image,
        channel, row, column) averaged over space has one unit a channel. Plain functions, so that their code is hashed.
    device
        ``"auto"`` (CUDA, MPS, else CPU) or a torch device.

    Examples
    --------
    >>> def encode(texts):
    ...     lengths = [len(t.split()) for t in texts]
    ...     word = np.array([[w if w < n else -1 for w in range(max(lengths))] for n in lengths])
    ...     ids = torch.tensor([[min(len(w), 9) for w in t.split()] + [0] * (word.shape[1] - n)
    ...                         for t, n in zip(texts, lengths)])
    ...     return Encoded(ids, word)
    >>> model = TorchModel("word lengths", nn.Sequential(nn.Embedding(10, 6)), encode, {"0": Sheet.grid(2, 3)})
    >>> tuple(model.record(["a small dog", "cats"], ["0"]).values["0"].shape)
    (2, 3, 6)
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        encode: Callable[[Sequence[Any]], Encoded | tuple[Any, np.ndarray]],
        sheets: Mapping[str, Sheet],
        *,
        paths: Mapping[str, str] | None = None,
        pools: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        if not sheets:
            raise InputError(f"model {name!r} needs at least one recordable layer in `sheets`")
        self.name = name
        self.encode = encode
        for layer, sheet in sheets.items():
            if not isinstance(sheet, Sheet):
                raise InputError(
                    f"layer {layer!r} of model {name!r} has {sheet!r} for a sheet: give Sheet.for_width(n_units), or "
                    "Sheet.none(n_units) for units without places"
                )
        self.sheets: dict[str, Sheet] = dict(sheets)
        self.paths = {layer: (paths or {}).get(layer, layer) for layer in self.sheets}
        known = [path for path, _ in module.named_modules() if path]
        for layer, path in self.paths.items():
            if path.removesuffix(INPUT) not in known:
                raise unknown(f"module path of layer {layer!r}", path, known, f"(in {type(module).__name__})")
        self.pools = dict(pools or {})
        for layer in self.pools:
            if layer not in self.sheets:
                raise unknown("layer of `pools`", layer, self.sheets, f"(in model {name!r})")
        self.device = pick_device(device)
        self.module = module.to(self.device)
        self.provenance: dict[str, Any] = {}
        """Further fields that results keep of the model (what it was trained on, ...)."""
        self.options: dict[str, Any] = {}
        """Further arguments of the module's forward, beside what ``encode`` gives."""

    def __repr__(self) -> str:
        n = sum(p.numel() for p in self.module.parameters())
        return f"TorchModel({self.name!r}, {len(self.sheets)} layers, {n:,} parameters, on {self.device})"

    def encoded(self, stimuli: Sequence[Any]) -> Encoded:
        """Return a batch of stimuli encoded, on the CPU, with shapes checked."""
        if not len(stimuli):
            raise InputError(f"there is no stimulus for {self.name!r} to read: expected one or more")
        inputs, word = self.encode(stimuli)
        word = np.asarray(word)
        if word.ndim != 2 or len(word) != len(stimuli):
            raise InputError(
                f"encode of {self.name!r} gave `word` of shape {word.shape} for {len(stimuli)} stimuli: expected "
                "(stimulus, token)"
            )
        return Encoded(inputs, word)

    def record(self, stimuli: Sequence[Any], layers: Sequence[str]) -> Recording:
        """Return the activations of some layers for a batch, as float32 tensors on the model's device.

        Raises
        ------
        UnknownNameError
            A layer that is not recordable.
        InputError
            A layer whose output does not fit its sheet or the tokens.
        """
        return self.record_encoded(self.encoded(stimuli), layers)

    def record_encoded(self, batch: Encoded, layers: Sequence[str], **options: Any) -> Recording:
        """Return the activations of some layers for a batch that is encoded already; `record` says the rest.

        Parameters
        ----------
        batch
            Inputs of the module and the word of each token.
        layers
            Layers to record.
        options
            Further arguments of the module's forward; they go before the model's own ``options``.
        """
        for layer in layers:
            if layer not in self.sheets:
                raise unknown("layer", layer, self.sheets, f"(in model {self.name!r})")
        inputs, word = batch
        options = {**self.options, **options}
        caught: dict[str, Tensor] = {}
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(_evaluating(self.module))
            stack.enter_context(
                _hooked(self.module, {layer: self.paths[layer] for layer in layers}, caught, self.pools)
            )
            if isinstance(inputs, Tensor):
                self.module(inputs.to(self.device), **options)
            else:
                self.module(**{key: value.to(self.device) for key, value in inputs.items()}, **options)
        missing = [layer for layer in layers if layer not in caught]
        if missing:
            raise InputError(f"layer {missing[0]!r} of {self.name!r} was not reached in the forward pass")
        return Recording({layer: self._shaped(layer, caught[layer], word) for layer in layers}, word)

    def _shaped(self, layer: str, output: Tensor, word: np.ndarray) -> Tensor:
        if word.shape[1] == 1:  # one token a stimulus (images, pooled vectors): every further axis is units
            output = output.reshape(len(word), 1, -1)
        if output.ndim != 3 or tuple(output.shape[:2]) != word.shape:
            raise InputError(
                f"layer {layer!r} of {self.name!r} gave shape {tuple(output.shape)}; expected (stimulus, token, unit) = "
                f"({word.shape[0]}, {word.shape[1]}, {self.sheets[layer].n_units})"
            )
        if output.shape[2] != self.sheets[layer].n_units:
            raise InputError(
                f"layer {layer!r} of {self.name!r} has {output.shape[2]} units, its sheet has "
                f"{self.sheets[layer].n_units} places; Sheet.for_width({output.shape[2]}) would fit"
            )
        return output.float()

    def survey(self, stimuli: Sequence[Any]) -> Survey:
        """Return the number of tokens of each stimulus, and a hash of the encoded stimuli and of what becomes of two."""
        sha = hashlib.sha256()
        tokens = self._count_tokens(stimuli, sha)
        order = np.argsort(tokens, kind="stable")
        for position in sorted({int(order[0]), int(order[len(order) // 2])}):
            self._probe(stimuli[position], sha)
        return Survey(tokens, sha.hexdigest())

    def token_counts(self, stimuli: Sequence[Any]) -> np.ndarray:
        """Return the number of tokens of each stimulus, as `survey` does, without the hash and so without a reading."""
        if any(is_lazy(tensor) for tensor in (*self.module.parameters(), *self.module.buffers())):
            self.record(stimuli[:1], list(self.sheets))  # such weights come into being with the first reading
        return self._count_tokens(stimuli, None)

    def _count_tokens(self, stimuli: Sequence[Any], sha: Any) -> np.ndarray:
        """Return the number of tokens of each stimulus; what they are encoded to goes into a hash, if there is one."""
        lengths = []
        # what an image counts for: one token may be a megabyte
        per_stimulus = int(getattr(self.encode, "tokens_per_stimulus", 1))
        chunk = max(1, SURVEY_CHUNK // per_stimulus)
        for start in range(0, len(stimuli), chunk):
            inputs, word = self.encoded(stimuli[start : start + chunk])
            if sha is not None:
                named = {"": inputs} if isinstance(inputs, Tensor) else inputs
                for key in sorted(named):
                    sha.update(f"{key}{tuple(named[key].shape)}{named[key].dtype}".encode())
                    sha.update(_bytes(named[key]))
                sha.update(word.astype(np.int64).tobytes())
            lengths.append(np.where(word >= 0, np.arange(1, word.shape[1] + 1), 1).max(axis=1))
        return np.asarray(np.concatenate(lengths) * per_stimulus)

    def _probe(self, stimulus: Any, sha: Any) -> None:
        """Add what the module really does with a stimulus to a hash.

        Weights and code do not tell everything: hooks, patched methods, closures and options of library modules change
        numbers too. Two stimuli in every process cost little, a stale cached result would cost a paper.
        """
        recording = TorchModel.record(self, [stimulus], list(self.sheets))
        inside = np.asarray(recording.word) >= 0
        for layer in self.sheets:
            sha.update(layer.encode() + _bytes(recording.values[layer][torch.from_numpy(inside)]))

    def weights_hash(self) -> str:
        """Return a hash of all in the module that changes the numbers: weights, buffers, settings, structure, code."""
        sha = hashlib.sha256()
        tensors = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        hashes = _hashes(tensors)
        for key in sorted(tensors):
            sha.update(f"{key}{tuple(tensors[key].shape)}{tensors[key].dtype}".encode() + hashes[key])
        sha.update(repr(self.module).encode())
        sha.update(repr(sorted(self.paths.items())).encode())
        if self.options:
            sha.update(_content(dict(sorted(self.options.items()))))
        if self.pools:
            sha.update(_content(dict(sorted(self.pools.items()))))
        sha.update(repr(getattr(self.module, "config", "")).encode())
        parts = dict(self.module.named_modules())
        for key, part in parts.items():
            if not _from_library(type(part)):
                settings = {name: value for name, value in vars(part).items() if name not in _MODULE_STATE}
                sha.update(key.encode() + _content(settings))
        classes = {cls for part in parts.values() for cls in type(part).__mro__ if cls is not object}
        for cls in sorted(classes, key=lambda c: (c.__module__, c.__qualname__)):
            sha.update(f"{cls.__module__}.{cls.__qualname__}".encode() + _code(cls))
        return sha.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    plain = tensor.detach().cpu().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else memoryview(b"")  # no copy


def _hashes(tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
    """Return the hash of each tensor's content, hashed side by side on as many threads as torch may use."""

    def digest(name: str) -> bytes:
        return hashlib.sha256(_bytes(tensors[name])).digest()

    names = sorted(tensors, key=lambda name: -tensors[name].nbytes)  # the largest first: no thread waits for it
    n_threads = min(torch.get_num_threads(), HASH_THREADS)
    if n_threads == 1:
        return {name: digest(name) for name in names}
    with ThreadPoolExecutor(n_threads) as pool:
        return dict(zip(names, pool.map(digest, names), strict=True))


_MODULE_STATE = frozenset({*vars(nn.Module()), "training", "config"})
"""Attributes every module has: weights and buffers are hashed by themselves, the mode is set while recording."""


def _from_library(cls: type) -> bool:
    return cls.__module__.split(".")[0] in ("torch", "transformers")


@functools.cache  # finding a class in its file parses the whole file
def _code(cls: type) -> bytes:
    """Return what identifies the code of a module class; library classes are covered by the library's version."""
    if _from_library(cls):
        version: str = __import__(cls.__module__.split(".")[0]).__version__
        return version.encode()
    try:
        return inspect.getsource(cls).encode()
    except (OSError, TypeError):  # typed into an interpreter: fall back on the compiled methods
        return _content({name: value for name, value in vars(cls).items() if callable(value)})


def _content(value: Any) -> bytes:
    """Return bytes that differ where a plain attribute (a gain, a mask, an activation function) differs."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)}{value.dtype}".encode() + _bytes(value)
    if isinstance(value, np.ndarray):
        return f"{value.shape}{value.dtype}{value.tolist()}".encode()
    if isinstance(value, Mapping):
        return b"{" + b",".join(repr(key).encode() + b":" + _content(item) for key, item in value.items()) + b"}"
    if isinstance(value, list | tuple):
        return b"[" + b",".join(_content(item) for item in value) + b"]"
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype):
        return repr(value).encode()
    value = getattr(value, "__code__", value)
    if isinstance(value, CodeType):
        return value.co_code + repr(value.co_names).encode() + _content(value.co_consts)
    if is_dataclass(value) and not isinstance(value, type):
        return repr(value).encode()
    named = value if hasattr(value, "__qualname__") else type(value)  # an address in memory would change every time
    return f"{getattr(named, '__module__', '')}.{named.__qualname__}".encode()


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Switch dropout and the like off, and restore every submodule's own mode afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    if any(training for _, training in modes):  # setting a module's attribute is slow: many parts, small batches
        module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            if part.training != training:
                part.training = training


@contextmanager
def _hooked(
    module: nn.Module,
    paths: Mapping[str, str],
    caught: dict[str, Tensor],
    pools: Mapping[str, Callable[[Tensor], Tensor]],
) -> Iterator[None]:
    handles = []

    def keep(layer: str, value: Any) -> None:
        while isinstance(value, list | tuple) and value:
            value = value[0]
        if isinstance(value, Mapping):
            value = next(iter(value.values()))
        if not isinstance(value, Tensor):
            raise InputError(
                f"layer {layer!r} gave a {type(value).__name__}, expected a tensor (or a tuple that starts with one)"
            )
        caught[layer] = pools[layer](value) if layer in pools else value
        caught[layer] = caught[layer].clone()  # an in-place operation further on must not reach what was recorded

    try:
        for layer, path in paths.items():
            part = module.get_submodule(path.removesuffix(INPUT))
            if path.endswith(INPUT):

                def before(_: nn.Module, args: Any, kwargs: Any, layer: str = layer) -> None:
                    keep(layer, args if args else kwargs.get("hidden_states", next(iter(kwargs.values()), None)))

                handles.append(part.register_forward_pre_hook(before, with_kwargs=True))
            else:

                def after(_: nn.Module, args: Any, output: Any, layer: str = layer) -> None:
                    keep(layer, output)

                handles.append(part.register_forward_hook(after))
        yield
    finally:
        for handle in handles:
            handle.remove()
