"""Token tables of texts, and the 80/10/10 corruption of masked language modelling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from topobrain._checks import InputError

SPECIAL = ("[PAD]", "[UNK]", "[MASK]")
IGNORED = -100
"""Target of tokens that are not predicted (torch's own default)."""


def token_table(texts: Sequence[str], tokenizer: Any, max_length: int) -> tuple[Tensor, Tensor]:
    """Return ids and lengths: int32 (text, token) padded at the end, and (text,). Longer texts are cut at ``max_length``.

    Raises
    ------
    InputError
        No text, or one of which the tokenizer leaves nothing.
    """
    if not texts:
        raise InputError("there is no text to train on")
    rows = [ids[:max_length] for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]
    lengths = [len(ids) for ids in rows]
    if min(lengths) == 0:
        raise InputError(f"the tokenizer leaves no token of text {lengths.index(0)}: {texts[lengths.index(0)][:60]!r}")
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0  # masked, so any id does
    table = torch.full((len(rows), max(lengths)), int(padding), dtype=torch.int32)
    for row, ids in enumerate(rows):
        table[row, : len(ids)] = torch.tensor(ids, dtype=torch.int32)
    return table, torch.tensor(lengths)


@dataclass(frozen=True)
class MaskRule:
    """Which tokens a masked language model predicts, and what replaces them.

    Parameters
    ----------
    mask_id
        The mask token.
    vocab_size
        Tokens.
    share
        Share of real tokens that is predicted: of these 80 % become the mask token, 10 % a random one, 10 % stay.
    first_ordinary
        First token that may stand in as a random one: those before it are special.
    """

    mask_id: int
    vocab_size: int
    share: float = 0.15
    first_ordinary: int = len(SPECIAL)

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"the share of masked tokens must lie above 0 and not above 1, got {self.share}")


def mask_tokens(ids: Tensor, visible: Tensor, rule: MaskRule, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Corrupt a batch for masked language modelling.

    Parameters
    ----------
    ids, visible
        Tokens and whether each is real (stimulus, token).
    rule, generator
        What is predicted and replaced, and the source of randomness.

    Returns
    -------
    corrupted, targets
        Both (stimulus, token); targets hold `IGNORED` where nothing is predicted. At least one token is predicted.

    References
    ----------
    Devlin et al. (2019), NAACL, section 3.1.
    """
    draw = torch.rand(ids.shape, generator=generator)
    chosen = (draw < rule.share) & visible
    if not chosen.any():
        chosen = visible & (draw == draw[visible].min())
    targets = torch.where(chosen, ids, torch.full_like(ids, IGNORED))
    fate = torch.rand(ids.shape, generator=generator)
    others = torch.randint(rule.first_ordinary, rule.vocab_size, ids.shape, generator=generator)
    corrupted = torch.where(chosen & (fate < 0.8), torch.full_like(ids, rule.mask_id), ids)
    return torch.where(chosen & (fate >= 0.9), others, corrupted), targets
