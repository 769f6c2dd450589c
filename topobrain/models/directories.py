"""Model directories: config.json, model.safetensors and tokenizer.json, whole or not there, checked when read.

The configuration says everything a stranger needs to run the same model: architecture, sizes, pools and fractions, the
sheet of every layer, and the hash of the tokenizer. Loading compares them with what it built.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.models.architectures import (
    Architecture,
    architecture_of,
    build_config,
    find_architecture,
    plain_config,
    require_weights,
)
from topobrain.models.huggingface import initialise
from topobrain.models.torch_model import TorchModel
from topobrain.results import to_plain

FORMAT = "topobrain-model"
OLDER_FORMATS = {"topobrain-topoformer": "topoformer"}
"""Format of a directory written before the architecture was named in it -> its architecture."""

RANDOM_WEIGHTS = "nothing (random weights)"
"""What an untrained model says it was trained on."""

CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE = "config.json", "model.safetensors", "tokenizer.json"
SPECIAL_TOKENS = ("pad_token", "mask_token", "unk_token", "bos_token", "eos_token", "cls_token", "sep_token")
OWN_TOKENS = {"pad_token": "[PAD]", "mask_token": "[MASK]", "unk_token": "[UNK]"}
"""Special tokens of the tokenizers trained here."""


def save_model(
    directory: str | Path,
    name: str,
    module: nn.Module,
    tokenizer: Any = None,
    *,
    trained_on: str = "unknown",
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model directory; `load_directory` and ``load_model(directory)`` read it back.

    Parameters
    ----------
    directory
        Folder to write. Files of an earlier model in it are replaced; a folder that holds anything else keeps it.
    name
        Name of the model.
    module
        One of this project's networks (`topobrain.models.architectures`).
    tokenizer
        A fast transformers tokenizer; none for networks that read images.
    trained_on, provenance
        The corpus, and further fields kept with every result made from the model.

    Raises
    ------
    InputError
        A network of another project, text without a tokenizer (or images with one), or a directory that holds another
        project's model.
    DataFileError
        The disk is full or cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    architecture = architecture_of(module)
    if (tokenizer is None) == (architecture.reads == "text"):
        wanted = "give its tokenizer" if tokenizer is None else "it takes no tokenizer"
        raise InputError(f"a {architecture.name} reads {architecture.reads}: {wanted}")
    target = Path(directory)
    older = is_model_directory(target)
    if not older and (target / CONFIG_FILE).exists():
        raise InputError(f"{target / CONFIG_FILE} is not of this project: choose another directory for the model")
    part = target / f".part-{os.getpid()}"
    fields: dict[str, Any] = {
        "format": FORMAT,
        "architecture": architecture.name,
        "name": name,
        "trained_on": trained_on,
        "config": plain_config(module),
        "sheets": _sheets(_wrapped(architecture, name, module, tokenizer, _device(module))),
        "provenance": to_plain(dict(provenance or {})),
    }
    try:
        part.mkdir(parents=True, exist_ok=True)
        save_file({key: t.cpu().contiguous() for key, t in untied(module).items()}, part / WEIGHTS_FILE)
        (part / WEIGHTS_FILE).chmod(0o644)  # the library writes files for their owner alone
        fields["weights_sha256"] = file_sha256(part / WEIGHTS_FILE)
        if tokenizer is not None:
            # written here, because the tokenizer's own `save` raises bare Exception on a full disk
            content = tokenizer.backend_tokenizer.to_str(pretty=True)
            (part / TOKENIZER_FILE).write_text(content, encoding="utf-8")
            special = {key: getattr(tokenizer, key) for key in SPECIAL_TOKENS if getattr(tokenizer, key, None)}
            fields["tokenizer"] = {"sha256": file_sha256(part / TOKENIZER_FILE), "special": special}
        (part / CONFIG_FILE).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
        if older:  # stopped from here on, it is no model, rather than a mixed one
            for file in (CONFIG_FILE, TOKENIZER_FILE):
                (target / file).unlink(missing_ok=True)
        for file in (WEIGHTS_FILE, TOKENIZER_FILE, CONFIG_FILE):  # the configuration last: it makes the model complete
            if (part / file).exists():
                os.replace(part / file, target / file)
    except (OSError, SafetensorError) as error:
        raise DataFileError(
            f"cannot write the model to {target}: {getattr(error, 'strerror', None) or error}"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def is_model_directory(directory: str | Path) -> bool:
    """Whether a directory was written by `save_model`."""
    try:
        fields = json.loads((Path(directory) / CONFIG_FILE).read_text(encoding="utf-8"))
        return bool(fields["format"] == FORMAT or fields["format"] in OLDER_FORMATS)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def load_directory(directory: str | Path, *, weights: str | None = None, device: str = "auto") -> TorchModel:
    """Read a model directory, or build the same architecture with random weights.

    Parameters
    ----------
    directory
        Written by `save_model`.
    weights
        None for the saved weights, ``"untrained"`` or ``"untrained:SEED"`` for random ones.
    device
        ``"auto"`` or a torch device.

    Raises
    ------
    DataFileError
        A file is missing, truncated or altered, or does not fit the configuration.
    """
    from topobrain.models.checkpoint_files import read_checkpoint

    source = Path(directory)
    fields = _fields(source)
    name, trained_on, provenance = (
        str(fields["name"]),
        str(fields.get("trained_on", "unknown")),
        {**fields["provenance"]},
    )
    if weights is not None:
        name, trained_on = f"{name} ({weights})", RANDOM_WEIGHTS
        provenance.pop("weights_file", None)
    architecture, module = _built(source, fields, "untrained" if weights is None else weights)
    tokenizer = _tokenizer(source, fields) if architecture.reads == "text" else None
    if weights is None:
        _verify_weights(source / WEIGHTS_FILE, fields.get("weights_sha256"))
        restore(module, read_checkpoint(source / WEIGHTS_FILE).tensors, source / WEIGHTS_FILE)
    model = _wrapped(architecture, name, module.eval(), tokenizer, device)
    kept = fields.get("sheets")
    if kept is not None and kept != _sheets(model):
        raise DataFileError(
            f"the sheets in {source / CONFIG_FILE} are not those of the {architecture.name} it describes: the file was altered"
        )
    model.provenance.update(provenance)
    model.provenance["trained_on"] = trained_on
    return model


def untied(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by name, as they are (no copies); a tied parameter comes once."""
    state = module.state_dict()
    kept = {name: state[name] for name, _ in module.named_parameters()}
    tied = {tensor.data_ptr() for tensor in kept.values() if tensor.numel()}
    kept.update({name: t for name, t in state.items() if name not in kept and t.data_ptr() not in tied})
    return {name: tensor.detach() for name, tensor in kept.items()}


def restore(module: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Put weights back that `untied` returned, whole or not at all.

    Raises
    ------
    DataFileError
        Names or shapes differ.
    """
    from topobrain.models.checkpoint_files import fit_state

    state = module.state_dict()
    own = untied(module)
    aliases = {name: state[name] for name in state if name not in own}
    parameters = {tensor.data_ptr(): name for name, tensor in state.items() if name in own}
    complete = dict(tensors)
    for alias, tensor in aliases.items():  # a tied name takes the value of the name it is tied to
        source = parameters.get(tensor.data_ptr())
        if source in complete and alias not in complete:
            complete[alias] = complete[source]
    fit_state(module, complete, path=path)


def wrap_tokenizer(tokenizer: Any, special: Mapping[str, str] | None = None) -> Any:
    """Return a tokenizers object as a transformers tokenizer; by default with this project's own special tokens."""
    from transformers import PreTrainedTokenizerFast

    tokens = dict(OWN_TOKENS if special is None else special)  # empty: one more would be one more token to embed
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **tokens)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _verify_weights(path: Path, expected: str | None) -> None:
    """Weights of another save under this configuration (one was interrupted) would fit, and be wrong."""
    if expected is None or not path.is_file():
        return
    try:
        found = file_sha256(path)
    except OSError as error:
        raise DataFileError(f"cannot read {path}: {error.strerror or error}") from error
    if found != expected:
        raise DataFileError(
            f"{path} was altered or belongs to another save: its sha256 is {found}, expected {expected}"
        )


def _sheets(model: TorchModel) -> dict[str, Any]:
    return {layer: sheet.to_dict() for layer, sheet in model.sheets.items()}


def _device(module: nn.Module) -> str:
    return str(next((p.device for p in module.parameters()), "cpu"))


def _wrapped(architecture: Architecture, name: str, module: nn.Module, tokenizer: Any, device: str) -> TorchModel:
    if architecture.reads == "text":
        return architecture.wrap(name, module, tokenizer, device=device)
    return architecture.wrap(name, module, device=device)


def _fields(source: Path) -> dict[str, Any]:
    """Return what a configuration file says, with the fields that every format has."""
    path = source / CONFIG_FILE
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataFileError(f"{source} is no complete model directory: {error}") from error
    if not is_model_directory(source):
        raise DataFileError(f'{path} is not of this project: expected "format": {FORMAT!r}')
    whole: dict[str, Any] = {"name": source.name, "provenance": {}, "tokenizer": {}, **fields}
    whole["architecture"] = OLDER_FORMATS.get(whole["format"], whole.get("architecture", ""))
    for name in ("config", "provenance", "tokenizer"):
        if not isinstance(whole.get(name), dict):
            raise DataFileError(f"{path}: expected named fields under {name!r}, found {whole.get(name)!r}")
    return whole


def _built(source: Path, fields: Mapping[str, Any], weights: str) -> tuple[Architecture, nn.Module]:
    """Build the network that a configuration file describes, with random weights."""
    path = source / CONFIG_FILE
    try:
        architecture = find_architecture(str(fields["architecture"]))
        config = build_config(architecture, fields["config"])
    except (InputError, UnknownNameError) as error:
        raise DataFileError(f"{path} describes no model that can be built: {error}") from error
    require_weights(weights)
    try:
        return architecture, initialise(lambda: architecture.module(config), weights)
    except (
        InputError,
        RuntimeError,
        ValueError,
        ArithmeticError,
    ) as error:  # torch's own for sizes that make no tensor
        raise DataFileError(f"{path} describes no {architecture.name} that can be built: {error}") from error


def _tokenizer(source: Path, fields: Mapping[str, Any]) -> Any:
    from tokenizers import Tokenizer

    path = source / TOKENIZER_FILE
    kept: Mapping[str, Any] = fields["tokenizer"]
    try:
        found = file_sha256(path)
        if kept and found != kept.get("sha256"):
            raise DataFileError(
                f"{path} is not the tokenizer this model was trained with: its sha256 is {found}, expected {kept.get('sha256')}"
            )
        return wrap_tokenizer(Tokenizer.from_file(str(path)), kept.get("special"))
    except OSError as error:
        raise error if isinstance(error, DataFileError) else DataFileError(f"cannot read {path}: {error}") from error
    except Exception as error:  # the tokenizers library raises bare Exception
        raise DataFileError(f"cannot read {path}: {error}") from error
