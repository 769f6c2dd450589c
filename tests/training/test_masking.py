from __future__ import annotations

import pytest
import torch
from torch import Tensor

from topobrain._checks import InputError
from topobrain.training.masking import IGNORED, SPECIAL, MaskRule, mask_tokens, token_table
from topobrain.training.vocabularies import train_bpe

VOCABULARY, MASK = 1000, 2


def corrupted(n: int = 400, share: float = 0.15, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    ids = torch.full((n, 60), 7)
    visible = torch.arange(60)[None, :] < torch.randint(20, 61, (n, 1), generator=torch.Generator().manual_seed(9))
    ids[~visible] = 0
    rule = MaskRule(MASK, VOCABULARY, share)
    changed, targets = mask_tokens(ids, visible, rule, torch.Generator().manual_seed(seed))
    return ids, visible, changed, targets


@pytest.mark.parametrize("share", [0.15, 0.4])
def test_the_share_of_real_tokens_is_predicted(share: float) -> None:
    _, visible, _, targets = corrupted(share=share)
    found = (targets != IGNORED).sum() / visible.sum()
    assert float(found) == pytest.approx(share, abs=0.01)


def test_fifteen_percent_is_the_default_and_shares_outside_are_errors() -> None:
    assert MaskRule(MASK, VOCABULARY).share == 0.15
    assert MaskRule(MASK, VOCABULARY).first_ordinary == len(SPECIAL)
    for share in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="share of masked tokens"):
            MaskRule(MASK, VOCABULARY, share)


def test_eighty_ten_ten() -> None:
    _, _, changed, targets = corrupted(1500)
    fate = changed[targets != IGNORED]
    assert len(fate) > 8000
    assert float((fate == MASK).float().mean()) == pytest.approx(0.8, abs=0.015)
    assert float((fate == 7).float().mean()) == pytest.approx(0.1, abs=0.012)
    assert float(((fate != MASK) & (fate != 7)).float().mean()) == pytest.approx(0.1, abs=0.012)


def test_only_real_tokens_are_touched_and_targets_are_the_originals() -> None:
    ids, visible, changed, targets = corrupted()
    predicted = targets != IGNORED
    assert not (predicted & ~visible).any()
    assert torch.equal(changed[~predicted], ids[~predicted])
    assert torch.equal(targets[predicted], ids[predicted])


def test_random_tokens_are_ordinary_and_spread() -> None:
    _, _, changed, targets = corrupted(1500)
    others = changed[(targets != IGNORED) & (changed != MASK) & (changed != 7)]
    assert int(others.min()) >= len(SPECIAL)
    assert int(others.max()) < VOCABULARY
    assert len(others.unique()) > 400


def test_the_generator_alone_decides() -> None:
    before = torch.get_rng_state()
    first, again, other = corrupted(seed=1), corrupted(seed=1), corrupted(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[2], again[2])
    assert torch.equal(first[3], again[3])
    assert not torch.equal(first[3], other[3])


@pytest.mark.parametrize("seed", range(20))
def test_at_least_one_real_token_is_predicted(seed: int) -> None:
    visible = torch.tensor([[True, True, False, False], [True, False, False, False]])
    ids = torch.tensor([[5, 6, 0, 0], [8, 0, 0, 0]])
    _, targets = mask_tokens(ids, visible, MaskRule(MASK, 20, 1e-9), torch.Generator().manual_seed(seed))
    predicted = targets != IGNORED
    assert int(predicted.sum()) == 1
    assert bool(visible[predicted].all())


def test_the_table_pads_with_the_padding_token_and_cuts_at_the_limit() -> None:
    texts = ["the dog sleeps", "a", "the dog sleeps in the garden of the old man"]
    tokenizer = train_bpe(texts * 3, 290)
    table, lengths = token_table(texts, tokenizer, 8)
    assert table.shape == (3, 8)
    for row, text in enumerate(texts):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:8]
        assert int(lengths[row]) == len(ids)
        assert table[row].tolist() == ids + [tokenizer.pad_token_id] * (8 - len(ids))
    assert int(lengths[2]) == 8


def test_no_text_is_an_error() -> None:
    with pytest.raises(InputError, match="no text to train on"):
        token_table([], None, 8)


def test_a_text_without_tokens_is_named() -> None:
    tokenizer = train_bpe(["the dog sleeps"] * 3, 290)
    with pytest.raises(InputError, match="no token of text 1: ''"):
        token_table(["the dog", ""], tokenizer, 8)
