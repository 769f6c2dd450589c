"""Surprisal of words in context, against plain softmax; activations of words in context, against `extract`."""

import numpy as np
import pytest
import torch

import topobrain as tb
from topobrain._checks import InputError
from topobrain.models.gpt import GPT, GPTConfig, wrap_gpt
from topobrain.word_surprisal import (
    FEATURES,
    extract_words,
    language_head,
    surprisal_features,
    word_surprisal,
    word_windows,
)

TEXT = "the old dog saw a small bird on the gate and ran after it but the bird flew off over the wall"
WORDS = TEXT.split()


def letters_tokenizer():
    """A tokenizer whose tokens are single characters: words of several tokens, counts that are known."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", " ", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def small_gpt(context=48):
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=28, context=context, width=16, n_layers=2, n_heads=2, dropout=0.0)
    module = GPT(config)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(8)  # sharp predictions: surprisal that is the same everywhere would test nothing
    torch.random.set_rng_state(torch_state)
    return wrap_gpt("small", module.eval(), letters_tokenizer(), device="cpu")


def plain_surprisal(model, words, logits):
    """Softmax over the vocabulary, token by token, the whole text in one window."""
    inputs, word = model.encoded([" ".join(words)])
    with torch.no_grad():
        output = model.module(**inputs)
        states = output if isinstance(output, torch.Tensor) else output.last_hidden_state
        scores = logits(states)[0].double().numpy()
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    bits = np.full(len(words), 0.0)
    for t in range(word.shape[1]):
        if word[0, t] >= 0:
            bits[word[0, t]] += np.nan if t == 0 else -np.log2(p[t - 1, int(inputs["input_ids"][0, t])])
    return bits


@pytest.mark.slow
def test_a_short_text_equals_the_plain_softmax():
    model = small_gpt(context=200)
    found = word_surprisal(model, WORDS)
    expected = plain_surprisal(model, WORDS, model.module.logits)
    assert np.isnan(found[0])  # nothing comes before the first word
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.nanstd(found) > 1


def test_each_word_of_a_long_text_is_read_with_as_much_context_as_fits():
    model = small_gpt(context=48)
    words = WORDS * 4
    windows = word_windows(model, words, stride_tokens=1)
    found = word_surprisal(model, words, stride_tokens=1)
    assert [w.first for w in windows[1:]] == [w.stop for w in windows[:-1]]
    assert windows[0].first == 0
    assert windows[-1].stop == len(words)
    for window in windows[1:]:
        assert len(window.text(words)) <= 48
        assert len(" ".join(words[max(0, window.start - 1) : window.stop])) > 48  # one word more would not fit
        alone = plain_surprisal(model, words[window.start : window.stop], model.module.logits)
        np.testing.assert_allclose(found[window.first : window.stop], alone[window.first - window.start :], rtol=1e-5)


def test_longer_strides_keep_the_context_they_promise():
    model = small_gpt(context=48)
    words = WORDS * 5
    for stride in (8, 16, 40):
        for window in word_windows(model, words, stride_tokens=stride)[1:]:
            assert len(" ".join(words[window.first : window.stop])) <= stride
            shown = len(" ".join(words[max(0, window.start - 1) : window.first]))
            assert shown > 48 - stride - 8  # the longest word with its blank
    assert len(word_windows(model, WORDS[:5])) == 1


@pytest.mark.parametrize("stride", [44, 47, 48])
def test_no_word_but_the_first_is_read_without_context(stride):
    model = small_gpt(context=48)
    words = WORDS * 3
    windows = word_windows(model, words, stride_tokens=stride)
    assert [w.first for w in windows] == [0, *[w.stop for w in windows[:-1]]]
    assert windows[-1].stop == len(words)
    assert all(window.start < window.first for window in windows[1:])
    assert all(len(window.text(words)) <= 48 for window in windows)
    bits = word_surprisal(model, words, stride_tokens=stride)
    assert np.isfinite(bits[1:]).all()
    with pytest.raises(InputError, match=r"word 1 \('b{24}'\) and the one before it have more than the 48 tokens"):
        word_windows(model, ["a" * 30, "b" * 24])
    assert len(word_windows(model, ["a" * 23, "b" * 24])) == 1


def test_batches_do_not_change_surprisal(monkeypatch):
    model = small_gpt()
    words = WORDS * 3
    together = word_surprisal(model, words)
    monkeypatch.setattr("topobrain.word_surprisal.BATCH_TOKENS", 1)
    np.testing.assert_allclose(word_surprisal(model, words), together, rtol=1e-4)


def test_sentences_get_four_numbers():
    model = small_gpt()
    sentences = tb.StimulusSet([" ".join(WORDS[:4]), " ".join(WORDS[4:12])])
    found = surprisal_features(model, sentences)
    for row, words in zip(found.values("surprisal"), (WORDS[:4], WORDS[4:12]), strict=True):
        bits = word_surprisal(model, words)[1:]
        np.testing.assert_allclose(row, [bits.mean(), bits.sum(), bits.max(), bits[-1]], rtol=1e-5)
    assert found.sheet("surprisal").n_units == len(FEATURES)
    assert found.provenance["model"]["name"] == "surprisal of small"
    with pytest.raises(InputError, match="'s0001' has one word"):
        surprisal_features(model, tb.StimulusSet(["a dog", "cat"]))


def test_words_in_context_are_those_of_extract_where_the_text_fits():
    model = small_gpt(context=200)
    words = tb.StimulusSet(WORDS, {"onset_s": np.arange(len(WORDS), dtype=float)})
    found = extract_words(model, words, cache=False)
    whole = tb.extract(model, tb.StimulusSet([" ".join(WORDS)]), pooling="word", cache=False)
    for layer in found.layers:
        np.testing.assert_allclose(found.values(layer), whole.values(layer), atol=1e-6)
    assert found.data["onset_s"].values.tolist() == list(range(len(WORDS)))
    assert found.layers == list(model.sheets)


def test_words_of_windows_come_from_the_window_where_they_are_new():
    model = small_gpt(context=48)
    words = WORDS * 4
    found = extract_words(model, tb.StimulusSet(words), layers=["blocks.1"], cache=False).values("blocks.1")
    for window in word_windows(model, words):
        shown = tb.StimulusSet([window.text(words)])
        alone = tb.extract(model, shown, layers=["blocks.1"], pooling="word", cache=False).values("blocks.1")
        np.testing.assert_allclose(found[window.first : window.stop], alone[window.first - window.start :], atol=1e-5)


def test_what_cannot_be_read_is_named():
    model = small_gpt()
    with pytest.raises(InputError, match="word 1 is 'two words'"):
        word_surprisal(model, ["one", "two words"])
    with pytest.raises(InputError, match="no word to read"):
        word_surprisal(model, [])
    with pytest.raises(InputError, match=r"context_tokens is 99, but 'small' takes 48"):
        word_surprisal(model, WORDS, context_tokens=99)
    with pytest.raises(InputError, match="stride_tokens must be 1 to 48"):
        word_surprisal(model, WORDS, stride_tokens=0)
    with pytest.raises(InputError, match=r"word 0 \('abcdefghijkl'\) alone has more than the 8 tokens"):
        word_surprisal(model, ["abcdefghijkl"], context_tokens=8)


def test_models_that_see_what_comes_after_or_have_no_logits_are_refused():
    model = small_gpt()
    forward = model.module.forward
    model.module.forward = lambda input_ids, attention_mask=None: (
        forward(input_ids) + forward(input_ids.flip(1)).flip(1)
    )
    with pytest.raises(InputError, match="reads what comes after a word too"):
        word_surprisal(model, WORDS[:6])
    pixels = tb.TorchModel("pixels", torch.nn.Sequential(torch.nn.Linear(2, 2)), len, {"0": tb.Sheet.none(2)})
    with pytest.raises(InputError, match="'pixels' reads no text with a tokenizer"):
        word_surprisal(pixels, WORDS)
    headless = small_gpt()
    headless.module.logits = None
    with pytest.raises(InputError, match=r"no next-token logits .* logits\(states\)"):
        language_head(headless)


@pytest.mark.slow
def test_stories260k_expects_a_story(real_data):
    model = tb.load_model("stories260k", device="cpu")
    text = "Once upon a time there was a little girl named Lily."
    story = text.split()
    found = word_surprisal(model, story)
    np.testing.assert_allclose(found, plain_surprisal(model, story, language_head(model)), rtol=1e-4, atol=1e-4)
    n_tokens = model.encoded([" ".join(story)]).word.shape[1] - 1
    assert found.sum() * np.log(2) / n_tokens == pytest.approx(0.398, abs=0.02)  # nats a token, as in the data's notes
    rng = np.random.default_rng(0)
    assert word_surprisal(model, rng.permutation(story).tolist()).sum() > 5 * found.sum()
