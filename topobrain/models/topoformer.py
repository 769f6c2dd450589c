"""Topoformer: a transformer encoder whose attention is laid out on a sheet."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from topobrain._checks import InputError, require_choice
from topobrain.models.text_encoder import TextEncoder
from topobrain.models.torch_model import INPUT, TorchModel
from topobrain.nn.pools import PoolKind, is_square, square_sheet
from topobrain.nn.spatial_querying import SpatialQuerying, head_sheet, head_width
from topobrain.nn.spatial_reweighting import SpatialReweighting
from topobrain.sheet import Sheet

VARIANTS: dict[str, tuple[bool, bool, bool]] = {
    "control": (False, False, False),
    "querying": (True, False, False),
    "reweighting": (False, True, False),
    "both": (True, True, False),
    "signed": (False, True, True),
    "signed-both": (True, True, True),
}
"""Variant -> whether it has spatial querying, spatial reweighting, and signed weights in the latter."""


@dataclass(frozen=True)
class TopographicConfig:
    """Size and topography of a topographic encoder; the defaults are the published one-layer model's.

    Parameters
    ----------
    vocab_size
        Tokens.
    width
        Units of queries, keys, values and output; a square number where they lie on one sheet.
    n_layers, ffn_width, max_length, dropout
        Blocks, hidden units of the feed-forward part, positions, dropout after each normalisation.
    querying
        Area fraction of spatial querying's disc; None for standard attention.
    reweighting
        Area fraction of spatial reweighting's disc; None for an ordinary dense output projection.
    signed
        Leave spatial reweighting's weights signed (ablation).
    n_heads, shared_sheet
        Attention heads (the published models have one), and whether they share one sheet instead of having one each.
    pool, wrapped
        Spatial querying's pool (``"disc"``, ``"gaussian"`` or ``"learned"``), and whether sheets are tori.
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
    n_heads: int = 1
    shared_sheet: bool = False
    pool: PoolKind = "disc"
    wrapped: bool = True


@dataclass(frozen=True)
class TopoformerConfig(TopographicConfig):
    """Size and topography of a `Topoformer` or `TopoformerClassifier`: those of `TopographicConfig`, and the classes.

    Parameters
    ----------
    n_classes
        Classes of a `TopoformerClassifier`; a `Topoformer` has none.
    """

    n_classes: int = 2

    @classmethod
    def tiny(cls, vocab_size: int, **changes: Any) -> TopoformerConfig:
        """Return a model of one layer and 64 units (8 x 8), for tests and quick training.

        >>> TopoformerConfig.tiny(100).width
        64
        """
        return cls(**{"vocab_size": vocab_size, "width": 64, "ffn_width": 128, "max_length": 128, **changes})


AnyConfig = TypeVar("AnyConfig", bound=TopographicConfig)


def as_variant(config: AnyConfig, name: str) -> AnyConfig:
    """Return a configuration turned into one of `VARIANTS`: the parts that the variant lacks are switched off.

    >>> as_variant(TopoformerConfig(vocab_size=9, querying=0.2), "querying").reweighting is None
    True
    """
    require_choice("variant", name, tuple(VARIANTS))
    querying, reweighting, signed = VARIANTS[name]
    for part, wanted in (("querying", querying), ("reweighting", reweighting)):
        if wanted and getattr(config, part) is None:
            raise InputError(f"variant {name!r} needs a disc's area fraction in {part!r}, the configuration has None")
    return replace(
        config,
        querying=config.querying if querying else None,
        reweighting=config.reweighting if reweighting else None,
        signed=signed,
    )


def variant(name: str, **size: Any) -> TopoformerConfig:
    """Return the published one-layer configuration of one variant; ``size`` holds `TopoformerConfig`'s other fields.

    ``control`` is standard attention; ``querying`` has spatial querying alone (fraction 0.1), ``reweighting`` spatial
    reweighting alone (0.3), ``both`` has both; ``signed`` and ``signed-both`` leave reweighting's weights signed. The
    degenerate control of the published code (attention of rank one, dense non-negative output) is
    ``variant("both", querying=pi / 2, reweighting=pi / 2)``.

    >>> config = variant("querying", vocab_size=1000)
    >>> config.querying, config.reweighting
    (0.1, None)
    """
    return as_variant(TopoformerConfig(**size), name)


class Heads(nn.ModuleList):
    """Pass units on head by head, so that each head can be recorded (and changed) on the sheet it has for itself."""

    def __init__(self, n_heads: int) -> None:
        super().__init__(nn.Identity() for _ in range(n_heads))

    def forward(self, units: Tensor) -> Tensor:
        """Return the units (..., unit) as they came."""
        return torch.cat([head(part) for head, part in zip(self, units.chunk(len(self), dim=-1), strict=True)], dim=-1)


class TopographicAttention(nn.Module):
    """Self-attention with optional spatial querying and reweighting; without both, standard attention.

    Parameters
    ----------
    config
        Size and topography.
    bias
        Whether queries, keys and values have a bias. The output always has one.
    initial_sd
        Standard deviation of a normal start of spatial reweighting (default: its own start).
    """

    def __init__(self, config: TopographicConfig, *, bias: bool = True, initial_sd: float | None = None) -> None:
        super().__init__()
        d = config.width
        head_width(d, config.n_heads)
        self.n_heads = config.n_heads
        self.query, self.key, self.value = nn.Linear(d, d, bias), nn.Linear(d, d, bias), nn.Linear(d, d, bias)
        self.query_heads: nn.Module = nn.Identity()
        self.key_heads: nn.Module = nn.Identity()
        if has_head_sheets(config):
            self.query_heads, self.key_heads = Heads(config.n_heads), Heads(config.n_heads)
        self.pool: nn.Module = nn.Identity()
        if config.querying is not None:
            self.pool = SpatialQuerying(
                d, config.querying, n_heads=config.n_heads, shared_sheet=config.shared_sheet, pool=config.pool,
                wrapped=config.wrapped,
            )  # fmt: skip
        self.output: nn.Module = nn.Linear(d, d)
        if config.reweighting is not None:
            self.output = SpatialReweighting(
                d, config.reweighting, signed=config.signed, wrapped=config.wrapped, initial_sd=initial_sd
            )

    def forward(self, states: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return attention output for states (stimulus, token, unit).

        ``visible``, boolean and broadcastable to (stimulus, token asking, token asked), hides tokens where False.
        """
        queries = self.pool(self.query_heads(self.query(states)))
        mixed = nn.functional.scaled_dot_product_attention(
            self._split(queries),
            self._split(self.key_heads(self.key(states))),
            self._split(self.value(states)),
            attn_mask=None if visible is None else visible[:, None],
        )
        attended: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return attended

    def _split(self, units: Tensor) -> Tensor:
        """Return (stimulus, token, unit) as (stimulus, head, token, unit of the head)."""
        return units.reshape(*units.shape[:2], self.n_heads, units.shape[2] // self.n_heads).transpose(1, 2)


def has_head_sheets(config: TopographicConfig) -> bool:
    """Whether every head's queries and keys lie on a sheet of their own."""
    return config.n_heads > 1 and not config.shared_sheet and is_square(head_width(config.width, config.n_heads))


def attention_sheets(config: TopographicConfig, path: str) -> dict[str, Sheet]:
    """Return the sheets of an attention's streams: module path -> sheet, in order of computation.

    Queries (before pooling), keys, values and output lie on one square sheet. With a sheet for each head, every head's
    queries and keys are a layer of their own, because one sheet cannot hold several tori: distances between heads mean
    nothing. Values and output stay on the sheet of all units, which is that of spatial reweighting.
    """
    sheets: dict[str, Sheet] = {}
    for stream in ("query", "key"):
        if has_head_sheets(config):
            one = head_sheet(config.width, config.n_heads, wrapped=config.wrapped)
            sheets.update({f"{path}.{stream}_heads.{head}": one for head in range(config.n_heads)})
        else:
            sheets[f"{path}.{stream}"] = whole_sheet(config)
    return {**sheets, f"{path}.value": whole_sheet(config), f"{path}.output": whole_sheet(config)}


def whole_sheet(config: TopographicConfig) -> Sheet:
    """Return the sheet of all units; where they fill no square, nothing is topographic and the grid is for show."""
    if is_square(config.width):
        return square_sheet(config.width, wrapped=config.wrapped)
    return Sheet.for_width(config.width)


def visible_tokens(input_ids: Tensor, attention_mask: Tensor | None, max_length: int) -> Tensor | None:
    """Return what an attention may look at (stimulus, 1, token), or None for everything; check the shapes."""
    if input_ids.ndim != 2 or input_ids.shape[1] > max_length:
        raise InputError(
            f"input_ids have shape {tuple(input_ids.shape)}, expected (stimulus, token) with at most {max_length} tokens"
        )
    if attention_mask is None:
        return None
    if attention_mask.shape != input_ids.shape:
        raise InputError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, expected that of input_ids "
            f"{tuple(input_ids.shape)}: one value a token, 0 for padding"
        )
    return attention_mask.bool()[:, None, :]


class TopoformerBlock(nn.Module):
    """Post-norm transformer block: attention, then a ReLU feed-forward part; dropout after each normalisation."""

    def __init__(self, config: TopographicConfig) -> None:
        super().__init__()
        self.attention = TopographicAttention(config)
        self.norm_attention = nn.LayerNorm(config.width)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.width, config.ffn_width), nn.ReLU(), nn.Linear(config.ffn_width, config.width)
        )
        self.norm_output = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return the block's output (stimulus, token, unit)."""
        states = self.dropout(self.norm_attention(states + self.attention(states, visible)))
        output: Tensor = self.dropout(self.norm_output(states + self.feed_forward(states)))
        return output


class TopoformerEncoder(nn.Module):
    """Post-norm encoder with learned positions: what `Topoformer` and `TopoformerClassifier` have in common.

    Parameters
    ----------
    config
        Size and topography.
    embedding_sd
        Standard deviation of the normal start of token and position embeddings.
    embedding_dropout
        Dropout of the embeddings.
    """

    def __init__(self, config: TopoformerConfig, *, embedding_sd: float, embedding_dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.max_length, config.width)
        self.embedding_dropout = nn.Dropout(embedding_dropout)
        self.blocks = nn.ModuleList(TopoformerBlock(config) for _ in range(config.n_layers))
        nn.init.normal_(self.tokens.weight, std=embedding_sd)
        nn.init.normal_(self.positions.weight, std=embedding_sd)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the last block's output (stimulus, token, unit) for ids and mask (stimulus, token).

        Where the mask is 0 there is padding, which no token sees; without a mask every token is real.
        """
        visible = visible_tokens(input_ids, attention_mask, self.config.max_length)
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        states = self.embedding_dropout(self.tokens(input_ids) + self.positions(place))
        for block in self.blocks:
            states = block(states, visible)
        return torch.as_tensor(states)


class Topoformer(TopoformerEncoder):
    """Encoder with learned positions and a masked-language-model head tied to the embedding.

    Parameters
    ----------
    config
        Size and topography. ``querying=None, reweighting=None`` is the non-topographic twin: standard attention with
        the same number of units.

    References
    ----------
    BinHuraib, Tuckute & Blauch (2024), Topoformer, arXiv 2510.18745.
    """

    def __init__(self, config: TopoformerConfig) -> None:
        super().__init__(config, embedding_sd=0.02)  # small, because the embedding is the output layer too
        self.head_bias = nn.Parameter(torch.zeros(config.vocab_size))

    def logits(self, states: Tensor) -> Tensor:
        """Return token logits (..., token) of encoder states."""
        return nn.functional.linear(states, self.tokens.weight, self.head_bias)


class TopoformerClassifier(TopoformerEncoder):
    r"""The published one-layer sentiment model: encoder, mean over real tokens, tanh, linear.

    It has 2,028,402 parameters and 400 a token of the vocabulary. Differences from the published code: the mean leaves
    padding out, and nothing attends to padding.

    Parameters
    ----------
    config
        Size, topography and number of classes; `variant` makes those of the published comparison.

    References
    ----------
    BinHuraib, Tuckute & Blauch (2024), Topoformer, arXiv 2510.18745.

    Examples
    --------
    >>> model = TopoformerClassifier(variant("both", vocab_size=30, width=36, ffn_width=72))
    >>> ids, mask = torch.tensor([[4, 5, 6], [7, 8, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    >>> model.class_logits(model(ids, mask), mask).shape
    torch.Size([2, 2])
    """

    def __init__(self, config: TopoformerConfig) -> None:
        if config.n_classes < 2:
            raise InputError(f"a classifier needs at least two classes, got n_classes={config.n_classes}")
        super().__init__(config, embedding_sd=1.0, embedding_dropout=config.dropout)
        self.classifier = nn.Linear(config.width, config.n_classes)

    def class_logits(self, states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return class logits (stimulus, class) of encoder states (stimulus, token, unit) and their mask."""
        logits: Tensor = self.classifier(torch.tanh(token_mean(states, attention_mask)))
        return logits


def token_mean(states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Return the mean over real tokens (stimulus, unit); 0 for a stimulus without any."""
    if attention_mask is None:
        return states.mean(dim=1)
    real = attention_mask.bool()[..., None]
    return states.masked_fill(~real, 0).sum(dim=1) / real.sum(dim=1).clamp(min=1)


def wrap_topoformer(
    name: str, module: Topoformer, tokenizer: Any, *, device: str | torch.device = "auto"
) -> TorchModel:
    """Wrap a Topoformer: embeddings, the attention streams (`attention_sheets`) and the output of every block."""
    return wrap_encoder(name, module, module.config, tokenizer, device=device)


def wrap_topoformer_classifier(
    name: str, module: TopoformerClassifier, tokenizer: Any, *, device: str | torch.device = "auto"
) -> TorchModel:
    """Wrap a sentiment model: embeddings, the attention streams (`attention_sheets`) and the output of every block."""
    return wrap_encoder(name, module, module.config, tokenizer, device=device)


def wrap_encoder(
    name: str, module: nn.Module, config: TopographicConfig, tokenizer: Any, *, device: str | torch.device = "auto"
) -> TorchModel:
    """Wrap an encoder whose blocks are ``blocks.I`` with an ``attention`` each."""
    whole = whole_sheet(config)
    sheets, paths = {"embeddings": whole}, {"embeddings": f"blocks.0{INPUT}"}
    for i in range(config.n_layers):
        sheets.update(attention_sheets(config, f"blocks.{i}.attention"))
        sheets[f"blocks.{i}"] = whole
    encoder = TextEncoder(tokenizer, config.max_length)
    return TorchModel(name, module, encoder, sheets, paths=paths, device=device)


def folded(module: nn.Module) -> nn.Module:
    """Return a copy whose topographic layers are ordinary ones with the same outputs: for inference at no extra cost.

    Spatial querying folds into the query weight, spatial reweighting becomes a dense layer with its effective weights. In
    the copy the layer ``query`` gives pooled queries. It cannot be trained further as a topographic model.

    Parameters
    ----------
    module
        Any network with `TopographicAttention` in it.
    """
    plain = copy.deepcopy(module)
    for part in plain.modules():
        if not isinstance(part, TopographicAttention):
            continue
        if isinstance(part.pool, SpatialQuerying):
            with torch.no_grad():
                part.query.weight.copy_(part.pool.fold(part.query.weight))
                if part.query.bias is not None:
                    part.query.bias.copy_(part.pool(part.query.bias))
            part.pool = nn.Identity()
        if isinstance(part.output, SpatialReweighting):
            weight, bias = part.output.weight.detach(), part.output.bias.detach()
            part.output = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
            with torch.no_grad():
                part.output.weight.copy_(weight)
                part.output.bias.copy_(bias)
    return plain
