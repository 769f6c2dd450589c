from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import topobrain.data as data
from topobrain._checks import InputError, UnknownNameError
from topobrain.data.sentiment import PARTS, load_imdb, load_sentiment, mended


@pytest.mark.parametrize(
    ("part", "positive", "negative"),
    [
        ("sst-dev", 444, 428),
        ("sst-test", 909, 912),
        ("sst-train", 3606, 3305),
        ("mr", 5331, 5331),
        ("customer-reviews", 2400, 1365),
        ("mpqa", 2333, 5907),
    ],
)
def test_counts_of_the_parts(part: str, positive: int, negative: int, real_data: Path) -> None:
    stimuli = data.load_stimuli("sentiment", part=part)
    assert Counter(stimuli.column("condition")) == {"positive": positive, "negative": negative}
    assert len(set(stimuli.items)) == len(stimuli)
    halves = stimuli.table.groupby("condition")["half"].value_counts().unstack()
    assert (halves["odd"] - halves["even"]).between(0, 1).all()
    assert list(stimuli.provenance["files"]) == [PARTS[part]]


def test_labels_are_not_turned_round(real_data: Path) -> None:
    stimuli = load_sentiment("sst-dev")
    bad = stimuli.items.index("one long string of cliches .")
    assert stimuli.column("condition")[bad] == "negative"
    assert sum("delightful" in text for text in stimuli.where(condition="positive").items) > sum(
        "delightful" in text for text in stimuli.where(condition="negative").items
    )


def test_garbled_letters_are_mended(real_data: Path) -> None:
    assert mended("rancid crÃ¨me brÃ»lÃ©e") == "rancid crème brûlée"
    assert mended("clichés \x97 and") == "clichés — and"
    assert mended("naïve café — 日本") == "naïve café — 日本"
    for part in ("sst-test", "mr"):
        letters = {letter for text in load_sentiment(part).items for letter in text}
        assert not letters & {chr(code) for code in range(0x80, 0xA0)}
        assert "é" in letters
        assert "Ã" not in letters


def test_a_draw_is_balanced_seeded_and_in_order(real_data: Path) -> None:
    whole, drawn = load_sentiment("sst-dev"), load_sentiment("sst-dev", n=20, seed=3)
    assert Counter(drawn.column("condition")) == {"positive": 20, "negative": 20}
    assert drawn.digest() == load_sentiment("sst-dev", n=20, seed=3).digest()
    assert drawn.digest() != load_sentiment("sst-dev", n=20, seed=4).digest()
    where = [whole.ids.index(label) for label in drawn.ids]
    assert where == sorted(where)
    assert [whole.items[position] for position in where] == list(drawn.items)
    assert (drawn.provenance["n"], drawn.provenance["seed"]) == (20, 3)


def test_wrong_options_are_explained(real_data: Path) -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown part of the sentiment sets 'sst_test'\. Did you mean 'sst-test'"
    ):
        load_sentiment("sst_test")
    with pytest.raises(InputError, match=r"n=429 texts of each condition: sst-dev has 428 negative ones"):
        load_sentiment("sst-dev", n=429)
    with pytest.raises(InputError, match=r"n=0 texts"):
        load_sentiment("sst-dev", n=0)


def test_another_label_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "part.tsv"
    path.write_text("label\ttext\n1\tgood\n2\tfair\n")
    monkeypatch.setattr("topobrain.data.sentiment.fetch", lambda *_: {PARTS["sst-test"]: path})
    with pytest.raises(
        InputError, match=r"row 2 of .*part\.tsv has label 2, expected 0 \(negative\) or 1 \(positive\)"
    ):
        load_sentiment()


# --- film reviews: a few of our own making, in the form of the files


@pytest.fixture
def reviews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {}
    for split in ("train", "test"):
        lines = [
            {"text": f"film {i} of {split}<br /><br />was {'good' if i % 2 else 'bad'}", "label": i % 2}
            for i in range(12)
        ]
        lines.append({"text": "a review in both parts", "label": 1})
        paths[f"{split}.jsonl.gz"] = tmp_path / f"{split}.jsonl.gz"
        with gzip.open(paths[f"{split}.jsonl.gz"], "wt") as stream:
            stream.write("\n".join(json.dumps(line) for line in lines))
    monkeypatch.setattr("topobrain.data.corpora.fetch", lambda *_: paths)


def test_film_reviews(reviews: None) -> None:
    stimuli = data.load_stimuli("imdb-sentiment", n=None)
    assert Counter(stimuli.column("condition")) == {"positive": 6, "negative": 6}  # the one of both parts is left out
    assert all(text.endswith("good") for text in stimuli.where(condition="positive").items)
    assert stimuli.items[0] == "film 0 of test\nwas bad"
    assert stimuli.provenance["split"] == "test"
    assert Counter(load_imdb("train", n=None).column("condition")) == {"positive": 7, "negative": 6}


def test_film_reviews_cut_after_whole_words(reviews: None) -> None:
    stimuli = load_imdb(n=2, n_words=5)
    assert len(stimuli) == 4
    assert {len(text.split()) for text in stimuli.items} == {5}
    assert stimuli.items[0].split()[2:] == ["of", "test", "was"]
    with pytest.raises(InputError, match=r"n_words is 1 or more, got 0"):
        load_imdb(n_words=0)
    with pytest.raises(UnknownNameError, match=r"unknown split of IMDB 'unsup'"):
        load_imdb("unsup")


def test_halves_alternate_within_a_condition_of_a_sorted_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "part.tsv"
    path.write_text("label\ttext\n" + "".join(f"{int(i < 5)}\ttext {i}\n" for i in range(10)))
    monkeypatch.setattr("topobrain.data.sentiment.fetch", lambda *_: {PARTS["mr"]: path})
    table = load_sentiment("mr").table
    np.testing.assert_array_equal(table["half"], ["odd", "even", "odd", "even", "odd"] * 2)
