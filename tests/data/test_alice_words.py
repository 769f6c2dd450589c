from pathlib import Path

import numpy as np
import pytest

import topobrain as tb
from topobrain._checks import InputError, UnknownNameError
from topobrain.data.alice import load_words
from topobrain.time_series import words_to_volumes


def test_every_word_has_its_time(real_data: Path) -> None:
    words = load_words()
    assert len(words) == 2127
    assert len({word.lower() for word in words.items}) == 601
    assert words.items[:5] == ("Alice", "was", "beginning", "to", "get")
    assert words.items[-1] == "cake"
    onset, offset = words.column("onset_s"), words.column("offset_s")
    assert (onset[0], onset[-1]) == (pytest.approx(20.0589, abs=1e-4), pytest.approx(742.9759, abs=1e-4))
    assert (offset > onset).all()
    assert words.provenance["licence"] == "CC BY 4.0"


def test_clitics_can_be_written_as_in_print(real_data: Path) -> None:
    apart, joined = load_words(), load_words("joined")
    assert len(joined) == 2101
    assert "".join(apart.items) == "".join(joined.items)
    assert {"don't", "what's", "I'm", "she'll"} <= set(joined.items)
    assert not {"n't", "'s", "'m"} & set(joined.items)
    assert set(joined.column("onset_s")) <= set(apart.column("onset_s"))
    assert joined.column("offset_s")[-1] == apart.column("offset_s")[-1]
    first = joined.items.index("what's")
    at = apart.items.index("'s")
    assert joined.column("onset_s")[first] == apart.column("onset_s")[at - 1]
    assert joined.column("offset_s")[first] == apart.column("offset_s")[at]
    with pytest.raises(UnknownNameError, match=r"unknown way to write clitics 'split'\. Known: apart, joined"):
        load_words("split")


def test_words_and_volumes_share_a_clock(real_data: Path) -> None:
    words, brain = load_words(), tb.load_responses("alice")
    ones = tb.Activations.from_arrays({"rate": np.ones((len(words), 1))}, words)
    rate = words_to_volumes(ones, brain).values("rate")[:, 0]
    np.testing.assert_array_equal(rate, brain.data["n_words"].values)
    assert rate.sum() == 2127


def test_words_out_of_order_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "words.csv"
    path.write_text("onset_s,offset_s,word\n1.0,1.5,a\n3.0,3.5,dog\n2.0,2.5,barks\n")
    monkeypatch.setattr("topobrain.data.alice.fetch", lambda *_: {"words.csv": path})
    with pytest.raises(InputError, match=r"words\.csv: the word of row 3 begins before"):
        load_words()
