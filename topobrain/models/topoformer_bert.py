"""TopoformerBert: the published deep Topoformer, a pre-norm masked language model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from topobrain._checks import InputError
from topobrain.models.topoformer import TopographicAttention, TopographicConfig, visible_tokens, wrap_encoder
from topobrain.models.torch_model import TorchModel

INITIAL_SD = 0.02
NORM_EPS = 1e-12
LONGEST_WAVE = 10000.0


@dataclass(frozen=True)
class TopoformerBertConfig(TopographicConfig):
    """Size and topography of a `TopoformerBert`: the fields of `TopographicConfig` with the published defaults.

    ``ffn_width`` is the width before the gate, which halves it. ``dropout`` applies to the embeddings and to what
    enters the residual stream; pretraining has none, fine-tuning 0.1 (``dataclasses.replace(config, dropout=0.1)``;
    dropout has no weights, so these load into either).

    Controls: ``querying=None, reweighting=None`` is plain attention with a dense output; with ``qkv_bias=True`` it has
    the published code's plain attention in full.

    Parameters
    ----------
    qkv_bias
        Give queries, keys and values a bias.
    """

    vocab_size: int = 32768
    width: int = 784
    n_layers: int = 16
    ffn_width: int = 3072
    max_length: int = 128
    dropout: float = 0.0
    querying: float | None = 0.3
    reweighting: float | None = 0.3
    qkv_bias: bool = False

    @classmethod
    def tiny(cls, vocab_size: int, **changes: Any) -> TopoformerBertConfig:
        """Return a model of two layers and 64 units (8 x 8), for tests and first steps.

        >>> TopoformerBertConfig.tiny(100).width
        64
        """
        return cls(**{"vocab_size": vocab_size, "width": 64, "n_layers": 2, "ffn_width": 256, **changes})


class ScaledSinusoid(nn.Module):
    r"""Fixed sinusoidal positions times one learned scale, which starts at :math:`1 / \sqrt d`.

    Even units hold :math:`\sin(t\,10000^{-i/d})`, the odd unit after unit i the cosine.

    References
    ----------
    Vaswani et al. (2017), section 3.5; Hua et al. (2022), arXiv 2202.10447 (the scale).
    """

    table: Tensor

    def __init__(self, max_length: int, d: int) -> None:
        super().__init__()
        rate = torch.exp(torch.arange(0, d, 2) * (-math.log(LONGEST_WAVE) / d))
        angle = torch.arange(max_length)[:, None] * rate
        table = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :d]
        self.register_buffer("table", table, persistent=False)
        self.scale = nn.Parameter(torch.tensor([1 / math.sqrt(d)]))

    def forward(self, n_tokens: int) -> Tensor:
        """Return the positions (token, unit) of a sequence."""
        return self.scale * self.table[:n_tokens]


class GatedFeedForward(nn.Module):
    """Feed-forward part whose hidden units are gated: half of them multiply the GELU of the other half. No biases."""

    def __init__(self, d: int, ffn_width: int) -> None:
        super().__init__()
        if ffn_width % 2:
            raise InputError(f"the gate halves ffn_width, so it must be even; got {ffn_width}")
        self.expand = nn.Linear(d, ffn_width, bias=False)
        self.contract = nn.Linear(ffn_width // 2, d, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """Return the part's output (stimulus, token, unit)."""
        values, gate = self.expand(states).chunk(2, dim=-1)
        contracted: Tensor = self.contract(values * nn.functional.gelu(gate))
        return contracted


class TopoformerBertBlock(nn.Module):
    """Pre-norm block: attention and a dense projection, then a gated feed-forward part, each added to the stream.

    The second, dense projection mixes all units before they enter the residual stream: the stream and the feed-forward
    part are not topographic, and places on the sheets of consecutive layers are unrelated.
    """

    def __init__(self, config: TopoformerBertConfig) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.attention = TopographicAttention(config, bias=config.qkv_bias, initial_sd=INITIAL_SD)
        self.projection = nn.Linear(config.width, config.width, bias=False)
        self.norm_feed_forward = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.feed_forward = GatedFeedForward(config.width, config.ffn_width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return the block's output (stimulus, token, unit)."""
        attended = self.projection(self.attention(self.norm_attention(states), visible))
        states = states + self.dropout(attended)
        output: Tensor = states + self.dropout(self.feed_forward(self.norm_feed_forward(states)))
        return output


class TopoformerBert(nn.Module):
    """Deep pre-norm Topoformer with a masked-language-model head tied to the embedding.

    The defaults of its configuration have 133,345,857 parameters, counting weights that the discs hold at 0.

    Parameters
    ----------
    config
        Size and topography.

    References
    ----------
    BinHuraib, Tuckute & Blauch (2024), Topoformer, arXiv 2510.18745; Geiping & Goldstein (2023), Cramming, arXiv
    2212.14034 (the architecture it modifies).

    Examples
    --------
    >>> model = TopoformerBert(TopoformerBertConfig.tiny(100))
    >>> model.logits(model(torch.tensor([[4, 5, 6]]))).shape
    torch.Size([1, 3, 100])
    """

    def __init__(self, config: TopoformerBertConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = ScaledSinusoid(config.max_length, config.width)
        self.norm_embedding = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(TopoformerBertBlock(config) for _ in range(config.n_layers))
        self.norm_output = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.head = nn.Linear(config.width, config.width, bias=False)
        for part in self.modules():  # spatial reweighting starts itself
            if isinstance(part, nn.Linear | nn.Embedding):
                nn.init.normal_(part.weight, std=INITIAL_SD)
            if isinstance(part, nn.Linear) and part.bias is not None:
                nn.init.zeros_(part.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the normalised output (stimulus, token, unit) for ids and mask (stimulus, token).

        Where the mask is 0 there is padding, which no token sees; without a mask every token is real.
        """
        visible = visible_tokens(input_ids, attention_mask, self.config.max_length)
        embedded = self.tokens(input_ids) + self.positions(input_ids.shape[1])
        states = self.dropout(self.norm_embedding(embedded))
        for block in self.blocks:
            states = block(states, visible)
        output: Tensor = self.norm_output(states)
        return output

    def logits(self, states: Tensor) -> Tensor:
        """Return token logits (..., token) of encoder states."""
        return nn.functional.linear(self.head(states), self.tokens.weight)


def wrap_topoformer_bert(
    name: str, module: TopoformerBert, tokenizer: Any, *, device: str | torch.device = "auto"
) -> TorchModel:
    """Wrap a TopoformerBert: embeddings, the attention streams (`attention_sheets`) and the output of every block.

    Embeddings and block outputs are laid out like the streams so that they can be compared with them; nothing makes
    the residual stream topographic.
    """
    return wrap_encoder(name, module, module.config, tokenizer, device=device)
