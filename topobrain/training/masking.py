"""Masked language modelling: subword tokenizer, token tables, and the 80/10/10 corruption."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from topobrain._checks import InputError
from topobrain.models.topoformer import wrap_tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[MASK]")
IGNORED = -100
"""Target of tokens that are not predicted (torch's own default)."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """Train a byte-level BPE tokenizer: every text can be encoded, unknown words fall apart into known pieces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return wrap_tokenizer(tokenizer)


def token_table(texts: Sequence[str], tokenizer: Any, max_length: int) -> tuple[Tensor, Tensor]:
    """Return ids and lengths: (text, token) padded with [PAD], and (text,). Longer texts are cut at ``max_length``."""
    if not texts:
        raise InputError("there is no text to train on")
    rows = [ids[:max_length] for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]
    longest = max(len(ids) for ids in rows)
    table = torch.full((len(rows), longest), int(tokenizer.pad_token_id))
    for row, ids in enumerate(rows):
        table[row, : len(ids)] = torch.tensor(ids)
    return table, torch.tensor([len(ids) for ids in rows])


def mask_tokens(
    ids: Tensor, visible: Tensor, *, mask_id: int, vocab_size: int, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Corrupt a batch for masked language modelling.

    Of the real tokens, ``share`` are predicted: 80 % of these become [MASK], 10 % a random token, 10 % stay.

    Parameters
    ----------
    ids, visible
        Tokens and whether each is real (stimulus, token).
    mask_id, vocab_size, share, generator
        The mask token, the vocabulary, the share predicted, and the source of randomness.

    Returns
    -------
    corrupted, targets
        Both (stimulus, token); targets hold `IGNORED` where nothing is predicted. At least one token is predicted.

    References
    ----------
    Devlin et al. (2019), NAACL, section 3.1.
    """
    draw = torch.rand(ids.shape, generator=generator)
    chosen = (draw < share) & visible
    if not chosen.any():
        chosen = visible & (draw == draw[visible].min())
    targets = torch.where(chosen, ids, torch.full_like(ids, IGNORED))
    fate = torch.rand(ids.shape, generator=generator)
    others = torch.randint(len(SPECIAL), vocab_size, ids.shape, generator=generator)
    corrupted = torch.where(chosen & (fate < 0.8), torch.full_like(ids, mask_id), ids)
    return torch.where(chosen & (fate >= 0.9), others, corrupted), targets
