"""Converter from the llama2.c file format (version 0) to transformers' Llama, tokenizer included."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

from topobrain._checks import DataFileError
from topobrain.models.huggingface import initialise, wrap_transformer
from topobrain.models.torch_model import TorchModel
from topobrain.store import fetch

HEADER = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")
UNKNOWN, BOS, EOS, FIRST_BYTE = 0, 1, 2, 3


def read_llama2c(path: str | Path) -> tuple[dict[str, int], dict[str, torch.Tensor]]:
    """Read a llama2.c version-0 checkpoint.

    Parameters
    ----------
    path
        Seven little-endian int32 (the header), then float32 tensors one after another.

    Returns
    -------
    header, state
        The header's numbers, and a state dict in the names of transformers' ``LlamaForCausalLM``.

    Raises
    ------
    DataFileError
        The header makes no sense, or the file's length does not follow from it.
    """
    raw = Path(path).read_bytes()
    if len(raw) < 4 * len(HEADER):
        raise DataFileError(f"{path} has {len(raw)} bytes: no llama2.c checkpoint (truncated?)")
    h = dict(zip(HEADER, struct.unpack(f"<{len(HEADER)}i", raw[: 4 * len(HEADER)]), strict=True))
    shared = h["vocab_size"] > 0  # a negative size marks an output matrix of its own
    h["vocab_size"] = abs(h["vocab_size"])
    sizes_make_sense = all(0 < value < 10**7 for value in h.values())
    if not sizes_make_sense or h["dim"] % h["n_heads"] or h["n_heads"] % h["n_kv_heads"]:
        raise DataFileError(f"{path} is no llama2.c version-0 checkpoint: its header reads {h}")
    dim, hidden, n, vocab = h["dim"], h["hidden_dim"], h["n_layers"], h["vocab_size"]
    head = dim // h["n_heads"]
    kv = head * h["n_kv_heads"]
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("embedding", (vocab, dim)),
        ("input_layernorm", (n, dim)),
        ("q_proj", (n, dim, dim)),
        ("k_proj", (n, kv, dim)),
        ("v_proj", (n, kv, dim)),
        ("o_proj", (n, dim, dim)),
        ("post_attention_layernorm", (n, dim)),
        ("gate_proj", (n, hidden, dim)),
        ("down_proj", (n, dim, hidden)),
        ("up_proj", (n, hidden, dim)),
        ("norm", (dim,)),
        ("rotary_real", (h["seq_len"], head // 2)),
        ("rotary_imaginary", (h["seq_len"], head // 2)),
    ]
    if not shared:
        shapes.append(("output", (vocab, dim)))
    expected = 4 * (len(HEADER) + sum(int(np.prod(shape)) for _, shape in shapes))
    if len(raw) != expected:
        raise DataFileError(
            f"{path} has {len(raw)} bytes, its header asks for {expected}: truncated, or another version"
        )
    values, at = np.frombuffer(raw, dtype="<f4", offset=4 * len(HEADER)).copy(), 0
    parts: dict[str, torch.Tensor] = {}
    for name, shape in shapes:
        size = int(np.prod(shape))
        parts[name] = torch.from_numpy(values[at : at + size].reshape(shape))
        at += size
    state = {
        "model.embed_tokens.weight": parts["embedding"],
        "model.norm.weight": parts["norm"],
        "lm_head.weight": parts.get("output", parts["embedding"]),
    }
    for layer in range(n):
        prefix = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            state[f"{prefix}{name}.weight"] = parts[name][layer]
        for name in ("gate_proj", "up_proj", "down_proj"):
            state[f"{prefix}mlp.{name}.weight"] = parts[name][layer]
        for name in ("v_proj", "o_proj"):
            state[f"{prefix}self_attn.{name}.weight"] = parts[name][layer]
        for name, heads in (("q_proj", h["n_heads"]), ("k_proj", h["n_kv_heads"])):
            state[f"{prefix}self_attn.{name}.weight"] = _halves(parts[name][layer], heads)
    return h, state


def _halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder rotary pairs: llama2.c rotates neighbours (0,1),(2,3)..., transformers the two halves of a head."""
    out, width = weight.shape
    return weight.view(heads, out // heads // 2, 2, width).transpose(1, 2).reshape(out, width).contiguous()


def build_llama(header: dict[str, int], state: dict[str, torch.Tensor] | None, weights: str = "untrained") -> Any:
    """Return a ``LlamaForCausalLM`` with the given state, or seeded random weights where ``state`` is None."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=header["vocab_size"],
        hidden_size=header["dim"],
        intermediate_size=header["hidden_dim"],
        num_hidden_layers=header["n_layers"],
        num_attention_heads=header["n_heads"],
        num_key_value_heads=header["n_kv_heads"],
        max_position_embeddings=header["seq_len"],
        rms_norm_eps=1e-5,
        tie_word_embeddings=state is None or torch.equal(state["lm_head.weight"], state["model.embed_tokens.weight"]),
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=None,
    )
    module = initialise(lambda: LlamaForCausalLM(config), "untrained" if state is not None else weights)
    if state is not None:
        module.load_state_dict(state)
    return module.eval()


def read_tokenizer(path: str | Path, vocab_size: int) -> Any:
    """Read a llama2.c tokenizer file as a transformers tokenizer.

    The file holds a longest length (int32), then for every piece a float32 score, an int32 length and its bytes.
    sentencepiece's BPE joins the pair whose result scores best, so the merges follow from the pieces and their scores.

    Raises
    ------
    DataFileError
        The file ends early, or has bytes left over.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    raw, at = Path(path).read_bytes(), 4
    pieces: list[str] = []
    scores: list[float] = []
    try:
        for _ in range(vocab_size):
            score, length = struct.unpack_from("<fi", raw, at)
            at += 8
            encoded = raw[at : at + length]
            if length < 0 or len(encoded) != length:
                raise DataFileError(f"{path} ends inside piece {len(pieces)} of {vocab_size}: truncated")
            pieces.append(encoded.decode("utf-8").replace(" ", "\u2581"))
            scores.append(score)
            at += length
    except (struct.error, UnicodeDecodeError) as error:
        raise DataFileError(f"{path} is no llama2.c tokenizer of {vocab_size} pieces: {error}") from error
    if at != len(raw):
        raise DataFileError(f"{path} has {len(raw) - at} bytes after its {vocab_size} pieces: another vocabulary size?")
    pieces[UNKNOWN], pieces[BOS], pieces[EOS] = "<unk>", "<s>", "</s>"
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    merges = []
    for index, piece in enumerate(pieces):
        if index >= FIRST_BYTE + 256 and len(piece) > 1:
            splits = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
            merges += [(-scores[index], a, b) for a, b in splits if a in vocabulary and b in vocabulary]
    merges.sort(key=lambda merge: merge[0])
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[(a, b) for _, a, b in merges],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]  # a dummy leading space, as in training
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def load_stories260k(*, weights: str | None = None, device: str = "auto") -> TorchModel:
    """Load the pretrained 260,032-parameter story model from the store.

    ``weights="untrained"`` (or ``"untrained:SEED"``) gives the same architecture with random weights.
    """
    files = fetch("stories260k", ["stories260K.bin", "tok512.bin"])
    header, state = read_llama2c(files["stories260K.bin"])
    tokenizer = read_tokenizer(files["tok512.bin"], header["vocab_size"])
    module = build_llama(header, state if weights is None else None, weights or "untrained")
    name = "stories260k" + (f" ({weights})" if weights else "")
    return wrap_transformer(name, module.model, tokenizer, device=device)
