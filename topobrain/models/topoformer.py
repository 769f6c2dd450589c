"""Topoformer: a transformer encoder whose attention is laid out on a sheet."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from topobrain._checks import DataFileError, InputError
from topobrain.models.huggingface import initialise
from topobrain.models.text_encoder import TextEncoder
from topobrain.models.torch_model import INPUT, TorchModel
from topobrain.nn.spatial_querying import SpatialQuerying, square_torus
from topobrain.nn.spatial_reweighting import SpatialReweighting

FORMAT = "topobrain-topoformer"
CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE = "config.json", "model.safetensors", "tokenizer.json"


@dataclass(frozen=True)
class TopoformerConfig:
    """Size and topography of a Topoformer; the defaults are the published one-layer model's.

    Parameters
    ----------
    vocab_size
        Tokens.
    width
        Units of queries, keys, values and output; a square number, one head.
    n_layers, ffn_width, max_length, dropout
        Blocks, hidden units of the feed-forward part, positions, dropout after each normalisation.
    querying
        Area fraction of spatial querying's disc; None for standard attention.
    reweighting
        Area fraction of spatial reweighting's disc; None for an ordinary dense output projection.
    signed
        Leave spatial reweighting's weights signed (ablation).
    """

    vocab_size: int
    width: int = 400
    n_layers: int = 1
    ffn_width: int = 1600
    max_length: int = 256
    dropout: float = 0.1
    querying: float | None = 0.1
    reweighting: float | None = 0.3
    signed: bool = False


class TopographicAttention(nn.Module):
    """Single-head self-attention with optional spatial querying and reweighting."""

    def __init__(self, config: TopoformerConfig) -> None:
        super().__init__()
        d = config.width
        self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.pool = nn.Identity() if config.querying is None else SpatialQuerying(d, config.querying)
        self.output: nn.Module = (
            nn.Linear(d, d)
            if config.reweighting is None
            else SpatialReweighting(d, config.reweighting, signed=config.signed)
        )

    def forward(self, states: Tensor, visible: Tensor) -> Tensor:
        """Return attention output for states (stimulus, token, unit); ``visible`` (stimulus, 1, token) masks padding."""
        queries = self.pool(self.query(states))
        mixed = nn.functional.scaled_dot_product_attention(
            queries, self.key(states), self.value(states), attn_mask=visible
        )
        attended: Tensor = self.output(mixed)
        return attended


class TopoformerBlock(nn.Module):
    """Post-norm transformer block: attention, then a ReLU feed-forward part; dropout after each normalisation."""

    def __init__(self, config: TopoformerConfig) -> None:
        super().__init__()
        self.attention = TopographicAttention(config)
        self.norm_attention = nn.LayerNorm(config.width)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.width, config.ffn_width), nn.ReLU(), nn.Linear(config.ffn_width, config.width)
        )
        self.norm_output = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: Tensor, visible: Tensor) -> Tensor:
        """Return the block's output (stimulus, token, unit)."""
        states = self.dropout(self.norm_attention(states + self.attention(states, visible)))
        output: Tensor = self.dropout(self.norm_output(states + self.feed_forward(states)))
        return output


class Topoformer(nn.Module):
    """Encoder with learned positions and a masked-language-model head tied to the embedding.

    Parameters
    ----------
    config
        Size and topography. ``querying=None, reweighting=None`` is the non-topographic twin: standard single-head
        attention with the same number of units.

    References
    ----------
    BinHuraib, Tuckute & Blauch (2024), Topoformer, arXiv 2510.18745.
    """

    def __init__(self, config: TopoformerConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.max_length, config.width)
        self.blocks = nn.ModuleList(TopoformerBlock(config) for _ in range(config.n_layers))
        self.head_bias = nn.Parameter(torch.zeros(config.vocab_size))
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the last block's output (stimulus, token, unit) for ids and mask (stimulus, token)."""
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        states = self.tokens(input_ids) + self.positions(place)
        visible = attention_mask.bool()[:, None, :]
        for block in self.blocks:
            states = block(states, visible)
        return torch.as_tensor(states)

    def logits(self, states: Tensor) -> Tensor:
        """Return token logits (..., token) of encoder states."""
        return nn.functional.linear(states, self.tokens.weight, self.head_bias)


def wrap_topoformer(
    name: str, module: Topoformer, tokenizer: Any, *, device: str | torch.device = "auto"
) -> TorchModel:
    """Wrap a Topoformer: embeddings, the four attention streams and the output of every block, all on the torus."""
    paths = {"embeddings": f"blocks.0{INPUT}"}
    for i in range(module.config.n_layers):
        streams = [f"blocks.{i}.attention.{part}" for part in ("query", "key", "value", "output")]
        paths.update({path: path for path in [*streams, f"blocks.{i}"]})
    sheets = dict.fromkeys(paths, square_torus(module.config.width))
    encoder = TextEncoder(tokenizer, module.config.max_length)
    return TorchModel(name, module, encoder, sheets, paths=paths, device=device)


def save_topoformer(
    directory: str | Path, name: str, module: Topoformer, tokenizer: Any, *, trained_on: str = "unknown"
) -> Path:
    """Write a Topoformer as safetensors, config.json and tokenizer.json; `load_topoformer` reads it back."""
    from safetensors.torch import save_file

    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    save_file(state, target / WEIGHTS_FILE)
    tokenizer.backend_tokenizer.save(str(target / TOKENIZER_FILE))
    fields = {"format": FORMAT, "name": name, "trained_on": trained_on, "config": asdict(module.config)}
    (target / CONFIG_FILE).write_text(json.dumps(fields, indent=2) + "\n")
    return target


def is_topoformer(directory: str | Path) -> bool:
    """Whether a directory was written by `save_topoformer`."""
    try:
        return bool(json.loads((Path(directory) / CONFIG_FILE).read_text())["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def load_topoformer(directory: str | Path, *, weights: str | None = None, device: str = "auto") -> TorchModel:
    """Read a Topoformer written by `save_topoformer`, or the same architecture with random weights.

    Raises
    ------
    DataFileError
        A file is missing, truncated, or does not fit the configuration.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    source = Path(directory)
    try:
        fields = json.loads((source / CONFIG_FILE).read_text())
        config = TopoformerConfig(**fields["config"])
        tokenizer = wrap_tokenizer(Tokenizer.from_file(str(source / TOKENIZER_FILE)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataFileError(f"{source} is no complete Topoformer directory: {error}") from error
    except Exception as error:  # the tokenizers library raises bare Exception
        raise DataFileError(f"cannot read {source / TOKENIZER_FILE}: {error}") from error
    module = initialise(lambda: Topoformer(config), weights or "untrained")
    if not isinstance(module, Topoformer):
        raise InputError(f"{source} does not describe a Topoformer")
    if weights is None:
        try:
            module.load_state_dict(load_file(source / WEIGHTS_FILE))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise DataFileError(f"cannot read the weights {source / WEIGHTS_FILE}: {error}") from error
    name = str(fields["name"]) + (f" ({weights})" if weights else "")
    model = wrap_topoformer(name, module.eval(), tokenizer, device=device)
    model.provenance["trained_on"] = "nothing (random weights)" if weights else str(fields.get("trained_on", "unknown"))
    return model


def wrap_tokenizer(tokenizer: Any) -> Any:
    """Return a tokenizers object as a transformers tokenizer with this model's special tokens."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", mask_token="[MASK]", unk_token="[UNK]"
    )
