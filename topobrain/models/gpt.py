"""GPT: a causal transformer of the GPT-2 kind; NanoGPT, TopoNets' NanoGPT, TopoLM and GPT-2 by configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from topobrain._checks import InputError, require_choice
from topobrain.models.text_encoder import TextEncoder
from topobrain.models.torch_model import INPUT, TorchModel
from topobrain.sheet import Sheet

INIT_STD = 0.02
BRANCHES = ("attention", "mlp")
"""The two branches of a block, in the order in which `GPT.cells` keeps the places of their units."""


@dataclass(frozen=True)
class GPTConfig:
    """Size and kind of a GPT; plain values, the defaults are NanoGPT's (124,373,760 parameters).

    Parameters
    ----------
    vocab_size
        Tokens. The default is GPT-2's 50,257 padded to a multiple of 64.
    width, n_layers, n_heads
        Units of the residual stream, blocks, attention heads. The hidden layer of a block has ``4 * width`` units.
    context
        Positions: the longest sequence, in tokens.
    bias
        Whether linear layers and layer norms have biases.
    dropout
        After the embedding, in the attention and at the end of each branch, while training.
    activation
        ``"gelu"`` (exact) or ``"gelu_tanh"`` (GPT-2's approximation).
    positions
        Where the units of the branch outputs sit: ``"row-major"``, or ``"permuted"``: every sheet is an independent random
        permutation of the grid, frozen and kept in the state dict (`GPT.cells`).
    position_seed
        Draws the permutations.
    """

    vocab_size: int = 50304
    width: int = 768
    n_layers: int = 12
    n_heads: int = 12
    context: int = 1024
    bias: bool = False
    dropout: float = 0.0
    activation: Literal["gelu", "gelu_tanh"] = "gelu"
    positions: Literal["row-major", "permuted"] = "row-major"
    position_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "n_layers", "n_heads", "context"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} of a GPT is a whole number of at least 1, got {value!r}")
        if self.width % self.n_heads:
            near = [n for n in range(1, self.width + 1) if self.width % n == 0]
            best = min(near, key=lambda n: abs(n - self.n_heads))
            raise InputError(f"width {self.width} does not divide into {self.n_heads} heads; {best} heads would fit")
        if not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise InputError(f"dropout is a share from 0 to below 1, got {self.dropout!r}")
        require_choice("activation", self.activation, ("gelu", "gelu_tanh"))
        require_choice("positions", self.positions, ("row-major", "permuted"))

    @classmethod
    def topolm(cls) -> GPTConfig:
        """Return TopoLM's configuration: width 784, 16 heads, 24 independently permuted sheets of 28 x 28."""
        return cls(width=784, n_heads=16, positions="permuted")

    @classmethod
    def tiny(cls, vocab_size: int, **changes: Any) -> GPTConfig:
        """Return a GPT of 2 blocks and width 64, for tests and quick training; its hidden sheets are 16 x 16."""
        return cls(**{"vocab_size": vocab_size, "width": 64, "n_layers": 2, "n_heads": 4, "context": 128, **changes})


class CausalAttention(nn.Module):
    """Multi-head self-attention in which a token sees itself and what came before."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.n_heads, self.dropout, self.layer = config.n_heads, config.dropout, layer
        self.c_attn = nn.Linear(config.width, 3 * config.width, bias=config.bias)
        self.c_proj = nn.Linear(config.width, config.width, bias=config.bias)
        self.after = nn.Dropout(config.dropout)

    def forward(self, states: Tensor, past: Any = None, visible: Tensor | None = None) -> Tensor:
        """Return the branch's output (stimulus, token, unit), before it is added to the stream.

        ``past`` takes the keys and values of these tokens and gives back those of all tokens so far; ``visible`` (stimulus,
        1, token asking, token asked) then says which of them a token may look at.
        """
        query, key, value = (
            part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in self.c_attn(states).chunk(3, dim=-1)
        )
        if past is not None:
            key, value = past.update(key, value, self.layer)
        mixed = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=visible, dropout_p=self.dropout if self.training else 0.0,
            is_causal=visible is None,
        )  # fmt: skip
        output: Tensor = self.after(self.c_proj(mixed.transpose(1, 2).flatten(2)))
        return output


class MLP(nn.Module):
    """Feed-forward branch; its hidden layer ``c_fc`` is the one TopoLoss lays out."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.width, 4 * config.width, bias=config.bias)
        self.activation = nn.GELU(approximate="tanh" if config.activation == "gelu_tanh" else "none")
        self.c_proj = nn.Linear(4 * config.width, config.width, bias=config.bias)
        self.after = nn.Dropout(config.dropout)

    def forward(self, states: Tensor) -> Tensor:
        """Return the branch's output (stimulus, token, unit), before it is added to the stream."""
        output: Tensor = self.after(self.c_proj(self.activation(self.c_fc(states))))
        return output


class GPTBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(config.width, bias=config.bias)
        self.attention = CausalAttention(config, layer)
        self.norm_mlp = nn.LayerNorm(config.width, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, states: Tensor, past: Any = None, visible: Tensor | None = None) -> Tensor:
        """Return the stream after both branches (stimulus, token, unit)."""
        states = states + self.attention(self.norm_attention(states), past, visible)
        output: Tensor = states + self.mlp(self.norm_mlp(states))
        return output


class GPT(nn.Module):
    r"""Causal transformer with learned positions, pre-norm blocks and a head tied to the embedding.

    Weights start at :math:`N(0, 0.02^2)`, the two projections of a block that write into the stream at
    :math:`0.02 / \sqrt{2 n_{layers}}`, so that the stream's variance does not grow with depth; biases start at 0.

    Parameters
    ----------
    config
        `GPTConfig()` is NanoGPT, `GPTConfig.topolm()` TopoLM.

    Attributes
    ----------
    cells
        int64 (layer, branch, unit): the cell, ``row * width + column``, of each unit of the attention and MLP outputs.
        Only with ``positions="permuted"``; part of the state dict, so weights and sheets never part.

    References
    ----------
    Radford et al. (2019), Language models are unsupervised multitask learners (GPT-2), section 2.3.
    Deb, Deb & Murty (2025), TopoNets, arXiv 2501.16396. Rathi et al. (2025), TopoLM, arXiv 2410.11516.
    """

    cells: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.after = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(GPTBlock(config, layer) for layer in range(config.n_layers))
        self.norm = nn.LayerNorm(config.width, bias=config.bias)
        if config.positions == "permuted":
            self.register_buffer("cells", _permutations(config))
        self._initialise()

    def _initialise(self) -> None:
        into_the_stream = INIT_STD / math.sqrt(2 * self.config.n_layers)
        for path, part in self.named_modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                nn.init.normal_(part.weight, std=into_the_stream if path.endswith("c_proj") else INIT_STD)
            if isinstance(part, nn.Linear) and part.bias is not None:
                nn.init.zeros_(part.bias)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
    ) -> Tensor:
        """Return the normalised last states (stimulus, token, unit) for ids (stimulus, token).

        A causal model never sees what is on a token's right, so padding there needs no mask; ``attention_mask`` (1 = token,
        0 = padding) is then only checked.

        Parameters
        ----------
        input_ids, attention_mask
            Tokens (stimulus, token); the mask covers the tokens of ``past_key_values`` too, which it may hide.
        position_ids
            Position of each token (stimulus, token); from 0 on if not given.
        past_key_values
            A `transformers.Cache` with the keys and values of the tokens before, to which those of these tokens are added.
        use_cache
            Changes nothing; taken because transformers' models take it.

        Raises
        ------
        InputError
            A sequence is longer than the context, or padding stands before a token.
        """
        before = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        length = before + input_ids.shape[1]
        highest = length - 1 if position_ids is None else int(position_ids.max())
        if highest >= self.config.context:
            raise InputError(f"a sequence has {highest + 1} tokens, this GPT has positions for {self.config.context}")
        visible = None
        if before:
            visible = _visible(before, input_ids, attention_mask)
        elif attention_mask is not None and bool((attention_mask.int().diff(dim=1) > 0).any()):
            raise InputError("padding stands before a token; a GPT takes padding on the right only")
        places = self.positions.weight[before:length] if position_ids is None else self.positions(position_ids)
        states = self.after(self.tokens(input_ids) + places)
        for block in self.blocks:
            states = block(states, past_key_values, visible)
        output: Tensor = self.norm(states)
        return output

    def logits(self, states: Tensor) -> Tensor:
        """Return next-token logits (..., token of the vocabulary) of states (..., unit)."""
        return nn.functional.linear(states, self.tokens.weight)

    def branch_sheet(self, layer: int, branch: str) -> Sheet:
        """Return the sheet on which the units of a branch's output sit (``"attention"`` or ``"mlp"`` of a block)."""
        require_choice("branch", branch, BRANCHES)
        sheet = Sheet.for_width(self.config.width)
        if self.config.positions == "row-major":
            return sheet
        return sheet.with_places(self.cells[layer, BRANCHES.index(branch)].cpu().numpy())


def _visible(before: int, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return what tokens that follow ``before`` others may look at (stimulus, 1, token asking, token asked)."""
    length = before + input_ids.shape[1]
    place = torch.arange(length, device=input_ids.device)
    earlier = place[None, :] <= place[before:, None]
    if attention_mask is None:
        return earlier[None, None].expand(len(input_ids), 1, -1, -1)
    if tuple(attention_mask.shape) != (len(input_ids), length):
        raise InputError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, expected ({len(input_ids)}, {length}): one value for "
            "each token before and each new one"
        )
    return earlier[None, None] & attention_mask.bool()[:, None, None, :]


def _permutations(config: GPTConfig) -> Tensor:
    rng = np.random.default_rng(config.position_seed)
    shape = (config.n_layers, len(BRANCHES), 1)
    return torch.from_numpy(rng.permuted(np.tile(np.arange(config.width), shape), axis=-1))


def gpt_sheets(module: GPT) -> dict[str, Sheet]:
    """Return the recordable layers of a GPT in depth order, each with its sheet.

    Branch outputs and hidden layers have places of their own (`GPT.branch_sheet`; ``c_fc`` row-major on its most square
    grid, 48 x 64 for 3072 units). The stream has none: it is laid out in unit order, so that maps can be looked at and
    compared with their layout null.
    """
    stream = Sheet.for_width(module.config.width)
    hidden = Sheet.for_width(4 * module.config.width)
    sheets = {"embeddings": stream}
    for i in range(module.config.n_layers):
        sheets[f"blocks.{i}.attention"] = module.branch_sheet(i, "attention")
        sheets[f"blocks.{i}.mlp.c_fc"] = hidden
        sheets[f"blocks.{i}.mlp"] = module.branch_sheet(i, "mlp")
        sheets[f"blocks.{i}"] = stream
    return sheets


def wrap_gpt(name: str, module: GPT, tokenizer: Any, *, device: str | torch.device = "auto") -> TorchModel:
    """Wrap a GPT and its tokenizer; the layers are those of `gpt_sheets`.

    Branch outputs (``blocks.0.attention``, ``blocks.0.mlp``) are recorded before they are added to the stream,
    ``blocks.0.mlp.c_fc`` before its activation function.

    Raises
    ------
    InputError
        The tokenizer has more tokens than the model.
    """
    require_vocabulary(tokenizer, module.config.vocab_size)
    sheets = gpt_sheets(module)
    encoder = TextEncoder(tokenizer, module.config.context)
    return TorchModel(name, module, encoder, sheets, paths={"embeddings": f"blocks.0{INPUT}"}, device=device)


def require_vocabulary(tokenizer: Any, vocab_size: int) -> None:
    """Raise if a tokenizer makes tokens that a model of ``vocab_size`` tokens does not know."""
    if len(tokenizer) > vocab_size:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} tokens, the model knows {vocab_size}: this is another model's tokenizer"
        )
