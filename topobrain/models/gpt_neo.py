"""GPT-Neo: a causal transformer with alternating global and local attention, computed by transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from topobrain._checks import DataFileError, InputError, listed
from topobrain.models.checkpoint_fields import read_number
from topobrain.models.checkpoint_files import (
    drop_tied_head,
    find_transformers_files,
    fit_state,
    read_checkpoint,
    require_finite,
)
from topobrain.models.gpt import require_vocabulary
from topobrain.models.huggingface import initialise
from topobrain.models.text_encoder import TextEncoder
from topobrain.models.torch_model import INPUT, TorchModel
from topobrain.sheet import Sheet


@dataclass(frozen=True)
class GPTNeoConfig:
    """Size of a GPT-Neo; plain values, the defaults are the published 125M model's.

    Parameters
    ----------
    vocab_size, width, n_layers, n_heads, context
        Tokens, units of the residual stream, blocks, attention heads, positions.
    hidden
        Units of a block's hidden layer; None for ``4 * width``.
    attention
        ``"global"`` or ``"local"`` for each block; a shorter pattern is repeated.
    window
        Tokens that local attention sees.
    dropout
        After the embedding, in the attention and at the end of each branch, while training.
    """

    vocab_size: int = 50257
    width: int = 768
    n_layers: int = 12
    n_heads: int = 12
    context: int = 2048
    hidden: int | None = None
    attention: tuple[str, ...] = ("global", "local")
    window: int = 256
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "n_layers", "n_heads", "context", "window"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} of a GPT-Neo is a whole number of at least 1, got {value!r}")
        if self.width % self.n_heads:
            raise InputError(f"width {self.width} does not divide into {self.n_heads} heads")
        object.__setattr__(self, "attention", tuple(self.attention))  # JSON knows lists only
        if not self.attention or not set(self.attention) <= {"global", "local"}:
            raise InputError(f"attention names 'global' or 'local' for each block, got {self.attention}")

    @property
    def hidden_width(self) -> int:
        """Units of a block's hidden layer."""
        return self.hidden or 4 * self.width

    @classmethod
    def tiny(cls, vocab_size: int, **changes: Any) -> GPTNeoConfig:
        """Return a GPT-Neo of 2 blocks and width 64, for tests and quick training; its hidden sheets are 16 x 16."""
        small = {"width": 64, "n_layers": 2, "n_heads": 4, "context": 128, "window": 16}
        return cls(**{"vocab_size": vocab_size, **small, **changes})


class GPTNeo(nn.Module):
    """GPT-Neo with its head tied to the embedding; the names of its tensors are those of transformers.

    References
    ----------
    Black et al. (2021), GPT-Neo, doi 10.5281/zenodo.5297715.
    """

    def __init__(self, config: GPTNeoConfig) -> None:
        super().__init__()
        from transformers import GPTNeoConfig as TransformersConfig
        from transformers import GPTNeoModel

        self.config = config
        pattern = [config.attention[i % len(config.attention)] for i in range(config.n_layers)]
        inner = TransformersConfig(
            vocab_size=config.vocab_size,
            max_position_embeddings=config.context,
            hidden_size=config.width,
            num_layers=config.n_layers,
            attention_types=[[pattern, 1]],
            num_heads=config.n_heads,
            intermediate_size=config.hidden_width,
            window_size=config.window,
            activation_function="gelu_new",
            resid_dropout=config.dropout,
            embed_dropout=config.dropout,
            attention_dropout=config.dropout,
            bos_token_id=None,
            eos_token_id=None,
        )
        self.transformer: nn.Module = GPTNeoModel(inner)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
    ) -> Tensor:
        """Return the normalised last states (stimulus, token, unit) for ids (stimulus, token), padding on the right.

        ``position_ids``, ``past_key_values`` (a `transformers.Cache`) and ``use_cache`` are those of transformers' models.

        Raises
        ------
        InputError
            A sequence is longer than the context.
        """
        highest = input_ids.shape[1] - 1 if position_ids is None else int(position_ids.max())
        if highest >= self.config.context:
            raise InputError(f"a sequence has {highest + 1} tokens, this GPT-Neo takes {self.config.context}")
        output = self.transformer(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
            past_key_values=past_key_values, use_cache=use_cache,
        )  # fmt: skip
        states: Tensor = output.last_hidden_state
        return states

    def logits(self, states: Tensor) -> Tensor:
        """Return next-token logits (..., token of the vocabulary) of states (..., unit)."""
        embedding: Any = self.transformer.get_submodule("wte")
        return nn.functional.linear(states, embedding.weight)


def gpt_neo_sheets(module: GPTNeo) -> dict[str, Sheet]:
    """Return the recordable layers of a GPT-Neo in depth order, each laid out in unit order on its most square grid."""
    stream, hidden = Sheet.for_width(module.config.width), Sheet.for_width(module.config.hidden_width)
    sheets = {"embeddings": stream}
    for i in range(module.config.n_layers):
        sheets |= {f"h.{i}.attn": stream, f"h.{i}.mlp.c_fc": hidden, f"h.{i}.mlp": stream, f"h.{i}": stream}
    return sheets


def wrap_gpt_neo(name: str, module: GPTNeo, tokenizer: Any, *, device: str | torch.device = "auto") -> TorchModel:
    """Wrap a GPT-Neo and its tokenizer; the layers are those of `gpt_neo_sheets`.

    Branch outputs (``h.0.attn``, ``h.0.mlp``) are recorded before they are added to the stream, ``h.0.mlp.c_fc`` before
    its activation function.

    Raises
    ------
    InputError
        The tokenizer has more tokens than the model.
    """
    require_vocabulary(tokenizer, module.config.vocab_size)
    sheets = gpt_neo_sheets(module)
    paths = {layer: f"transformer.{layer}" for layer in sheets} | {"embeddings": f"transformer.h.0{INPUT}"}
    return TorchModel(name, module, TextEncoder(tokenizer, module.config.context), sheets, paths=paths, device=device)


def gpt_neo_config(fields: dict[str, Any], *, path: str | Path) -> GPTNeoConfig:
    """Return the size that a transformers ``config.json`` of a GPT-Neo names.

    Raises
    ------
    DataFileError
        A field is missing, or asks for what `GPTNeo` does not do.
    """
    kind = fields.get("model_type", "gpt_neo")
    if kind != "gpt_neo":
        raise DataFileError(f"{path} describes a {kind!r}, expected 'gpt_neo'")
    fixed = {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}
    for key, value in fixed.items():
        if fields.get(key, value) != value:
            raise DataFileError(f"{path} asks for {key} = {fields[key]!r}; GPT-Neo is built with {value!r}")
    layers = _attention_kinds(fields, path)
    shortest = next((n for n in range(1, len(layers) + 1) if layers == (layers[:n] * len(layers))[: len(layers)]), 0)
    hidden = fields.get("intermediate_size")
    try:
        return GPTNeoConfig(
            vocab_size=fields["vocab_size"],
            width=fields["hidden_size"],
            n_layers=fields["num_layers"],
            n_heads=fields["num_heads"],
            context=fields["max_position_embeddings"],
            hidden=None if hidden == 4 * fields["hidden_size"] else hidden,
            attention=tuple(layers[:shortest]),
            window=fields.get("window_size", 256),
            dropout=read_number(fields, "resid_dropout", 0.0, path=path),
        )
    except KeyError as error:
        raise DataFileError(f"{path} lacks the field {error.args[0]!r}; it has {listed(sorted(fields))}") from None
    except InputError as error:
        raise DataFileError(f"{path}: {error}") from None


def _attention_kinds(fields: dict[str, Any], path: str | Path) -> list[str]:
    """Return the kind of attention of each block, by either of the two fields that name it."""
    given = fields.get("attention_layers")
    try:
        if given:
            return [str(kind) for kind in given]
        types = fields.get("attention_types", [[["global", "local"], 1]])
        most = int(fields.get("num_layers", 1))  # more repeats than blocks would only fill memory
        return [str(kind) for kinds, n in types for _ in range(min(n, most)) for kind in kinds]
    except (TypeError, ValueError):
        raise DataFileError(f"{path} gives attention_layers or attention_types that are no lists of kinds") from None


def gpt_neo_state(tensors: dict[str, Tensor], *, path: str | Path) -> dict[str, Tensor]:
    """Return the state of a `GPTNeo` from transformers' tensors, with or without head and ``transformer.`` prefix.

    Raises
    ------
    DataFileError
        The head differs from the embedding.
    """
    masks = ("attn.attention.bias", "attn.attention.masked_bias")  # older versions saved the causal masks too
    kept = {name: tensor.float() for name, tensor in tensors.items() if not name.endswith(masks)}
    named = {
        name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}": tensor
        for name, tensor in kept.items()
    }
    return drop_tied_head(named, head="lm_head.weight", embedding="transformer.wte.weight", path=path)


def gpt_neo_from_transformers(directory: str | Path) -> GPTNeo:
    """Read a GPT-Neo from a directory of transformers' format (``config.json`` and the weights), ready to record.

    Raises
    ------
    DataFileError
        A file is missing, damaged, of another architecture, or does not fit the configuration.
    """
    fields, weights = find_transformers_files(directory)
    config = gpt_neo_config(fields, path=Path(directory) / "config.json")
    module = initialise(lambda: GPTNeo(config), "untrained")
    state = gpt_neo_state(read_checkpoint(weights).tensors, path=weights)
    require_finite(state, path=weights)
    fit_state(module, state, path=weights)
    return cast(GPTNeo, module.eval())
