from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import topobrain.data as data
from topobrain._checks import InputError, UnknownNameError
from topobrain.data.token_counts import text_cutter, text_tokenizer, token_counts
from topobrain.stimuli import StimulusSet

TWO = StimulusSet(["one two three", "aaaa bbb cc", "a b"], {"condition": ["real", "odd", "odd"]})


def syllables(text: str) -> list[str]:
    """Pieces of two letters that never span two words, as byte pairs never do."""
    return [piece for word in text.split() for piece in re.findall(r"..?", word)]


def test_counts_of_a_tokenizer_whose_answers_are_known() -> None:
    table = token_counts(TWO, syllables, cut=4)
    assert table.index.tolist() == ["real", "odd"]
    assert table.loc["real"].tolist() == [1, 3.0, 7.0, 7, 7, 4.0, 2.0]
    # "aaaa bbb cc": 2 + 2 + 1 tokens, two words end within four; "a b": one token a word, both kept.
    assert table.loc["odd"].tolist() == [2, 2.5, 3.5, 2, 5, 3.0, 2.0]


def test_a_cut_inside_the_first_word_keeps_none() -> None:
    assert token_counts(TWO, syllables, cut=1)["words_kept"].tolist() == [0.0, 0.5]


def test_words_kept_equal_a_count_word_by_word() -> None:
    generator = np.random.default_rng(0)
    texts = [" ".join("x" * int(n) for n in generator.integers(1, 9, size=15)) for _ in range(20)]
    stimuli = StimulusSet(texts, {"condition": ["all"] * 20})
    for cut in (1, 5, 12, 1000):
        expected = [
            max((n for n in range(16) if len(syllables(" ".join(text.split()[:n]))) <= cut), default=0)
            for text in texts
        ]
        assert token_counts(stimuli, syllables, cut=cut).loc["all", "words_kept"] == np.mean(expected)


def test_any_form_of_tokenizer_counts_the_same() -> None:
    class Encoding:
        def __init__(self, ids: list[str]) -> None:
            self.ids = ids

    class Fast:
        def encode(self, text: str) -> Encoding:
            return Encoding(syllables(text))

        def decode(self, ids: list[str]) -> str:
            return "".join(ids)

    def called(text: str) -> dict[str, list[str]]:
        return {"input_ids": syllables(text), "attention_mask": [], "offsets": []}

    expected = token_counts(TWO, syllables)
    for tokenizer in (Fast(), called):
        assert token_counts(TWO, tokenizer).equals(expected)
    assert text_cutter(Fast())("aaaa", 1) == "aa"


def test_what_cannot_be_counted_is_explained() -> None:
    with pytest.raises(InputError, match=r"cut is a number of tokens, 1 or more; got 0"):
        token_counts(TWO, syllables, cut=0)
    with pytest.raises(InputError, match=r"tokenizer is 'gpt2', .*; got 'gpt3'"):
        token_counts(TWO, "gpt3")
    with pytest.raises(InputError, match=r"the tokenizer gave a int, expected a sequence"):
        token_counts(TWO, lambda text: len(text))
    with pytest.raises(UnknownNameError, match=r"unknown stimulus column 'conditions'\. Did you mean 'condition'"):
        token_counts(TWO, syllables, by="conditions")
    images = StimulusSet([np.zeros((2, 2, 3), dtype=np.uint8)] * 2, {"condition": ["a", "b"]})
    with pytest.raises(InputError, match="holds images"):
        token_counts(images, syllables)
    with pytest.raises(InputError, match=r"a cut inside a word needs a tokenizer that turns tokens back into text"):
        text_cutter(syllables)


def test_token_statistics_of_the_language_localizer(real_data: Path) -> None:
    table = token_counts(data.load_stimuli("langloc"))
    assert table[["n", "tokens_min", "tokens_max"]].to_numpy().tolist() == [[240, 12, 17], [240, 17, 36]]
    # Sums over 240 stimuli: 12.779, 24.254 tokens; 11.354 and 5.963 whole words of twelve within twelve tokens.
    np.testing.assert_array_equal((table["tokens"] * 240).round(6), [3067, 5821])
    np.testing.assert_array_equal((table["words_kept"] * 240).round(6), [2725, 1431])
    assert table["words"].tolist() == [12.0, 12.0]
    assert table["tokens_kept"].tolist() == [12.0, 12.0]
    spaced = token_counts(data.load_stimuli("langloc"), leading_space=True)
    np.testing.assert_allclose(spaced["tokens"], [12.738, 24.583], atol=5e-4)


def test_words_kept_equal_those_by_the_places_of_the_tokens(real_data: Path) -> None:
    from topobrain.store.gpt2_tokenizer import read_gpt2_bpe

    tokenizer = read_gpt2_bpe()
    stimuli = data.load_stimuli("langloc").take(range(0, 480, 7))
    kept = []
    for text in stimuli.items:
        end = tokenizer.encode(text).offsets[11][1]
        kept.append(sum(match.end() <= end for match in re.finditer(r"\S+", text)))
    table = token_counts(stimuli, tokenizer)
    assert (table["words_kept"] * table["n"]).sum() == pytest.approx(sum(kept))


@pytest.mark.slow  # imports the models
def test_the_models_read_text_with_the_same_tokenizer(real_data: Path) -> None:
    from topobrain.models.gpt2_tokenizer import load_gpt2_bpe

    text = "Just the barest suggestion, chitments oy orls tror wendert."
    assert list(text_tokenizer("gpt2")(text)) == load_gpt2_bpe()(text)["input_ids"]
