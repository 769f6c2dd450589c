from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import topobrain.data as data
from topobrain._checks import InputError, UnknownNameError
from topobrain.data.langloc import load_langloc
from topobrain.data.token_counts import text_tokenizer, token_counts


def test_the_default_is_the_full_localizer(real_data: Path) -> None:
    assert load_langloc().digest() == load_langloc("full").digest()
    assert list(load_langloc().table.columns) == ["condition", "run", "set"]


@pytest.mark.parametrize("n_words", [1, 6, 12])
def test_the_first_words_of_both_conditions(n_words: int, real_data: Path) -> None:
    full, cut = load_langloc(), load_langloc("words", n_words=n_words)
    assert cut.ids == full.ids
    assert [text.split()[:n_words] for text in full.items] == [text.split() for text in cut.items]
    assert cut.provenance["n_words"] == n_words


def test_nonword_strings_can_have_the_tokens_of_sentences(real_data: Path) -> None:
    full, matched = load_langloc(), load_langloc("tokens", tokenizer="gpt2")
    table = token_counts(matched)
    assert abs(table["tokens"]["sentence"] - table["tokens"]["nonword"]) < 0.05
    # Every list by itself, too: what one string lacks the next one makes up for.
    tokens = matched.table.groupby(["run", "set", "condition"])["n_tokens"].mean().unstack()
    assert (tokens["sentence"] - tokens["nonword"]).abs().max() < 0.25
    is_sentence = full.column("condition") == "sentence"
    for kept, text, same in zip(matched.items, full.items, is_sentence, strict=True):
        assert kept == text if same else text.startswith(f"{kept} ")  # whole words, from the beginning
    assert matched.name == "langloc-tokens"
    assert matched.provenance["tokenizer"] == "gpt2"


@pytest.mark.slow
def test_matching_takes_any_callable(real_data: Path) -> None:
    tokenize = text_tokenizer("gpt2")
    given = load_langloc("tokens", tokenizer=lambda text: tokenize(text))
    assert given.items == load_langloc("tokens", tokenizer="gpt2").items
    assert given.provenance["tokenizer"] == "given"


def test_strings_that_are_no_longer_than_sentences_stay_whole(real_data: Path) -> None:
    full, matched = load_langloc(), load_langloc("tokens", tokenizer=str.split)  # 12 words each, 12 tokens each
    assert matched.items == full.items


@pytest.mark.slow
def test_the_published_cut(real_data: Path) -> None:
    cut, full = load_langloc("cut", tokenizer="gpt2"), load_langloc()
    tokenize = text_tokenizer("gpt2")
    assert {len(tokenize(text)) for text in cut.items} == {12}
    assert set(cut.column("n_tokens")) == {12}
    assert all(text.startswith(kept) for kept, text in zip(cut.items, full.items, strict=True))
    nonword = cut.where(condition="nonword")
    whole = [
        kept.split() == text.split()[: len(kept.split())] for kept, text in zip(cut.items, full.items, strict=True)
    ]
    assert not all(whole)  # it ends inside words
    assert np.mean([len(text.split()) for text in nonword.items]) < 7
    shorter = load_langloc("cut", tokenizer="gpt2", max_tokens=5)
    assert set(shorter.column("n_tokens")) == {5}
    assert shorter.provenance["max_tokens"] == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": "words"}, r"length='words' needs n_words from 1 to 12, got None"),
        ({"length": "words", "n_words": 13}, r"n_words from 1 to 12, got 13"),
        ({"n_words": 6}, r"n_words=6 belongs to length='words', not to length='full'"),
        ({"length": "tokens"}, r"length='tokens' needs the tokenizer that will read the text: tokenizer='gpt2'"),
        ({"length": "cut"}, r"length='cut' needs the tokenizer"),
        ({"tokenizer": "gpt2"}, r"tokenizer belongs to length='tokens' or 'cut', not to length='full'"),
        ({"length": "cut", "tokenizer": str.split}, r"needs a tokenizer that turns tokens back into text"),
        ({"length": "cut", "tokenizer": "gpt2", "max_tokens": 0}, r"max_tokens is 1 or more, got 0"),
        ({"max_tokens": 10}, r"max_tokens=10 belongs to length='cut', not to length='full'"),
    ],
)
def test_options_that_do_not_fit_together_are_explained(options: dict, message: str, store: Path) -> None:
    with pytest.raises(InputError, match=message):
        load_langloc(**options)


def test_an_unknown_length_or_option_offers_near_ones(store: Path) -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown length of the language localizer 'token'\. Did you mean 'tokens'"
    ):
        load_langloc("token")
    with pytest.raises(InputError, match=r"cannot load 'langloc': .*Did you mean 'n_words'\?"):
        data.load_stimuli("langloc", n_word=3)
