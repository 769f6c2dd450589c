from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from topobrain._checks import InputError
from topobrain.models.text_encoder import TextEncoder, words_of_text, words_of_tokens

FAMILIES = ("gpt2", "llama", "bert", "roberta")
TEXTS = {
    "a word of several tokens": "Unbelievably extraordinary",
    "punctuation attached": 'Well, "yes" (he said): go!',
    "apostrophes": "The aunt's dogs don't mind, o'clock",
    "leading spaces": "   The dog",
    "double spaces": "The  dog   sleeps",
    "trailing space": "The dog ",
    "newline": "The dog\nsleeps\n\nnow",
    "tab": "The\tdog",
    "accents": "Café déjà naïve Ångström",
    "combining accents": "Cafe\u0301 here",
    "CJK": "狗 在 睡觉 now",
    "emoji": "good 🐕‍🦺 dog 😀!",
    "capitals": "THE DOG SLEEPS",
    "a word alone": "dog",
    "no-break space": "The\u00a0dog",
    "numbers": "In 1984, 3.14 of 2,000",
}

Tokenizers = Callable[[str], Any]


def expected_words(tokenizer: Any, text: str) -> list[int]:
    """Word of each token found another way: by the end of its characters, or by the space it is made of."""
    encoded = tokenizer(text, return_offsets_mapping=True)
    special = tokenizer.num_special_tokens_to_add()
    words = []
    for (start, stop), token in zip(encoded["offset_mapping"], encoded["input_ids"], strict=True):
        if special and token in tokenizer.all_special_ids and token != tokenizer.unk_token_id:
            words.append(-1)
        elif text[start:stop].strip():
            first = start + len(text[start:stop]) - len(text[start:stop].lstrip())
            words.append(len(text[: first + 1].split()) - 1)
        else:
            words.append(len(text[:start].split()) if text[start:].strip() else -1)
    return words


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", TEXTS)
def test_every_token_gets_its_word(family: str, case: str, tokenizers: Tokenizers) -> None:
    text, tokenizer = TEXTS[case], tokenizers(family)
    inputs, word = TextEncoder(tokenizer)([text])
    assert isinstance(inputs, dict)
    assert word.shape == tuple(inputs["input_ids"].shape)
    assert word[0].tolist() == expected_words(tokenizer, text)
    assert sorted(set(word[0].tolist()) - {-1}) == list(range(len(text.split())))
    assert inputs["attention_mask"].all()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokens_of_a_word_spell_it(family: str, tokenizers: Tokenizers) -> None:
    text, tokenizer = TEXTS["punctuation attached"], tokenizers(family)
    inputs, word = TextEncoder(tokenizer)([text])
    for number, expected in enumerate(text.split()):
        ids = inputs["input_ids"][0][torch.from_numpy(word[0] == number)]
        spelled = tokenizer.decode(ids.tolist()).replace(" ", "").replace("[UNK]", "")
        assert spelled.lower() in expected.lower()
        if family != "bert":  # byte level and byte fallback lose nothing
            assert spelled == expected


def test_known_word_numbers_of_a_byte_level_tokenizer(tokenizers: Tokenizers) -> None:
    encoder = TextEncoder(tokenizers("gpt2"))
    _, word = encoder(["The dog  sleeps "])
    tokens = tokenizers("gpt2").convert_ids_to_tokens(encoder(["The dog  sleeps "]).inputs["input_ids"][0])
    first_of_sleeps = next(i for i, token in enumerate(tokens) if i > 1 and "s" in token)
    assert tokens[first_of_sleeps - 1] == "Ġ"
    assert word[0][first_of_sleeps - 1] == 2  # the second of two spaces goes with the word that follows
    assert tokens[-1] == "Ġ"
    assert word[0][-1] == -1  # nothing follows


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_special_tokens_belong_to_no_word(family: str, tokenizers: Tokenizers) -> None:
    _, word = TextEncoder(tokenizers(family))(["The dog sleeps"])
    assert word[0][0] == -1
    assert word[0][-1] == -1
    assert (word[0][1:-1] >= 0).all()


def test_only_the_start_is_special_for_llama(tokenizers: Tokenizers) -> None:
    _, word = TextEncoder(tokenizers("llama"))(["The dog sleeps"])
    assert word[0][0] == -1
    assert (word[0][1:] >= 0).all()


def test_lower_casing_keeps_the_places_of_characters(tokenizers: Tokenizers) -> None:
    encoder = TextEncoder(tokenizers("bert"))
    upper, lower = encoder(["THE DOG SLEEPS"]), encoder(["the dog sleeps"])
    assert torch.equal(upper.inputs["input_ids"], lower.inputs["input_ids"])
    assert np.array_equal(upper.word, lower.word)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_is_on_the_right_masked_and_of_no_word(family: str, tokenizers: Tokenizers) -> None:
    encoder = TextEncoder(tokenizers(family))
    texts = ["dog", "The dog sleeps in the garden."]
    inputs, word = encoder(texts)
    for row, text in enumerate(texts):
        alone = encoder([text])
        n = alone.word.shape[1]
        assert torch.equal(inputs["input_ids"][row, :n], alone.inputs["input_ids"][0])
        assert np.array_equal(word[row, :n], alone.word[0])
        assert inputs["attention_mask"][row].tolist() == [1] * n + [0] * (word.shape[1] - n)
        assert (word[row, n:] == -1).all()
    assert not inputs["attention_mask"].all()


def test_the_limit_counts_special_tokens(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers("bert")
    assert TextEncoder(tokenizer, 5)(["the dog the"]).word.shape == (1, 5)
    with pytest.raises(InputError, match="6 tokens, the model takes 5: 'the dog the dog'"):
        TextEncoder(tokenizer, 5)(["the dog the dog"])


def test_an_image_is_refused(tokenizers: Tokenizers) -> None:
    with pytest.raises(InputError, match="stimulus 1 is a ndarray, but this model reads text"):
        TextEncoder(tokenizers("gpt2"))(["dog", np.zeros((2, 2, 3), dtype=np.uint8)])


def test_a_text_that_leaves_no_token_is_refused(tokenizers: Tokenizers) -> None:
    with pytest.raises(InputError, match="leaves no token of stimulus"):
        TextEncoder(tokenizers("bert"))(["\u200b"])  # a zero-width space, which the normaliser drops


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(InputError, match=r"Slow gives no character offsets.*tokenizer\.json"):
        TextEncoder(Slow())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a bc", [0, -1, 1, 1]),
        ("  a", [-1, -1, 0]),
        ("a \n b ", [0, -1, -1, -1, 1, -1]),
        ("狗在 b", [0, 0, -1, 1]),
        ("a\u3000b", [0, -1, 1]),
        (" ", [-1]),
    ],
)
def test_words_of_characters(text: str, expected: list[int]) -> None:
    assert words_of_text(text).tolist() == expected


def test_a_token_across_two_words_counts_with_the_first() -> None:
    assert words_of_tokens("a b c", [(0, 3), (3, 5)], [0, 0]).tolist() == [0, 2]


def test_a_special_token_with_characters_of_its_own_is_no_word() -> None:
    assert words_of_tokens("a b", [(0, 1), (1, 3)], [1, 0]).tolist() == [-1, 1]
