import numpy as np
import pytest

from topobrain._checks import InputError
from topobrain.pooling import cut_words, pooling_weights, whole_words

WORD = np.array([[-1, 0, 0, 1, 2, 2, -1], [0, 1, 1, 1, 2, -1, -1]])  # a special token first, padding last


def test_every_row_is_a_mean_of_its_tokens():
    for pooling, n_rows in (("mean", 2), ("last", 2), ("word", 6), ("none", 10)):
        weights, rows = pooling_weights(WORD, pooling)
        assert weights.shape == (n_rows, 7)
        np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
        assert (weights[WORD[rows.stimulus] < 0] == 0).all()


def test_rows_know_how_much_text_went_in():
    _, rows = pooling_weights(WORD, "mean")
    assert rows.n_tokens.tolist() == [5, 5]
    assert rows.n_words.tolist() == [3, 3]
    _, rows = pooling_weights(WORD, "word")
    assert rows.n_tokens.tolist() == [5] * 6


def test_a_cut_counts_whole_words_only_and_leaves_special_tokens_uncounted():
    cut = cut_words(WORD, 3)
    assert cut.tolist() == [[-1, 0, 0, 1, -1, -1, -1], [0, 1, 1, -1, -1, -1, -1]]
    assert whole_words(WORD, cut).tolist() == [2, 1]
    weights, rows = pooling_weights(WORD, "last", 3)
    assert weights.argmax(axis=1).tolist() == [3, 2]
    assert rows.n_tokens.tolist() == [3, 3]
    np.testing.assert_array_equal(pooling_weights(WORD, "mean", 99)[0], pooling_weights(WORD, "mean")[0])
    with pytest.raises(InputError, match="max_tokens"):
        cut_words(WORD, 0)


def test_without_padding_no_word_is_lost():
    word = np.array([[0, 1, 2]])
    assert whole_words(word, cut_words(word, 3)).tolist() == [3]


def test_uncut_words_are_counted_as_cut_ones_are():
    rng = np.random.default_rng(0)
    word = rng.integers(-1, 6, (40, 9))  # in any order, with gaps: no word has to be next to its own
    word[0], word[1] = -1, 0
    assert whole_words(word, word).tolist() == whole_words(word, word.copy()).tolist()
    assert whole_words(word, word)[:2].tolist() == [0, 1]
