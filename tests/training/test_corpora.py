from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_runs

from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.models.gpt2_tokenizer import load_gpt2_bpe
from topobrain.training import corpora
from topobrain.training.corpora import describe_corpus, documents, is_held_out, token_streams
from topobrain.training.vocabularies import train_bpe

WORDS = ("dog", "cat", "sings", "sleeps", "old", "garden")


def paragraphs(n: int = 300) -> list[str]:
    rng = np.random.default_rng(0)
    return [f"{number} {' '.join(rng.choice(WORDS, 6))}" for number in range(n)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(paragraphs()))
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOPOBRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_bpe(paragraphs(), 300)


def kept(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_blank_lines_separate_the_documents_of_a_plain_file(tmp_path: Path) -> None:
    path = tmp_path / "plain.txt"
    path.write_bytes("\ufeff\n\n one\r\ntwo \r\n \t\r\nthree\n\n\n\nfo\u00fcr\n".encode())
    assert list(documents(str(path))) == ["one\ntwo", "three", "fo\u00fcr"]


def test_a_long_document_is_cut_between_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "LONGEST_DOCUMENT", 10)
    path = tmp_path / "long.txt"
    path.write_text("\n".join(["12345678"] * 5))
    assert list(documents(str(path))) == ["12345678\n12345678"] * 2 + ["12345678"]


def test_corpora_are_joined_and_paths_may_hold_a_plus(tmp_path: Path) -> None:
    first, second = tmp_path / "c++.txt", tmp_path / "b.txt"
    first.write_text("one\n\ntwo")
    second.write_text("three")
    assert list(documents(str(first))) == ["one", "two"]
    first.rename(tmp_path / "a.txt")
    assert list(documents(f"{tmp_path / 'a.txt'} + {second}")) == ["one", "two", "three"]
    with pytest.raises(InputError, match="several joined by"):
        list(documents("brown+"))
    assert describe_corpus("brown") == {"name": "brown", "simulated": False}
    assert describe_corpus(f"{second}+simulated-text")["simulated"]


def test_names_stand_for_the_texts_of_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Any]] = []
    monkeypatch.setattr(corpora, "load_text", lambda name, **options: asked.append((name, options)) or [name])
    assert list(documents("imdb-unsup+brown+imdb")) == ["imdb", "brown", "imdb"]
    assert asked == [("imdb", {"split": "unsup"}), ("brown", {}), ("imdb", {})]


@pytest.mark.parametrize("name", ["bookcorpus+wikipedia", "fineweb-edu-10B", "brwn", "imdb-tset"])
def test_a_corpus_that_is_not_there_says_what_to_give(name: str, tokenizer: Any, cache: Path) -> None:
    for work in (lambda: list(documents(name)), lambda: token_streams(name, tokenizer)):
        with pytest.raises(UnknownNameError, match="can be given as a plain text file") as told:
            work()
    if name == "brwn":
        assert "Did you mean 'brown'" in str(told.value)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, DataFileError, "there is no text file"),
        (b"ok\n\n\xff\xfe broken", DataFileError, "cannot be read as UTF-8 text"),
        (b"", InputError, "has 0 documents: too few"),
        (b" \n\n \n", InputError, "has 0 documents: too few"),
        (b"just one document\nof two lines", InputError, "has 1 documents: too few for a held-out part of one in 20"),
    ],
    ids=["missing", "not UTF-8", "empty", "blank", "one document"],
)
def test_files_that_are_no_corpus(
    content: bytes | None, error: type[Exception], message: str, tmp_path: Path, tokenizer: Any, cache: Path
) -> None:
    path = tmp_path / "bad.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message) as told:
        token_streams(str(path), tokenizer)
    assert str(path) in str(told.value)
    assert not cache.exists() or kept(cache) == []


def test_a_folder_is_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=f"{tmp_path} cannot be read as UTF-8 text"):
        list(documents(str(tmp_path)))


def test_the_split_follows_from_the_text_alone() -> None:
    texts = paragraphs(4000)
    share = np.mean([is_held_out(text) for text in texts])
    assert share == pytest.approx(1 / 20, abs=0.01)
    for text in texts[:50]:
        assert is_held_out(text) == is_held_out(f"  {text.upper()}\n") == is_held_out(text.replace(" ", "  "))


def test_streams_hold_every_document_on_its_side(corpus: Path, tokenizer: Any, cache: Path) -> None:
    corpus.write_text("\n\n".join(paragraphs() * 2))  # every document twice
    streams = token_streams(str(corpus), tokenizer)
    expected: tuple[list[int], list[int]] = ([], [])
    for text in paragraphs() * 2:
        expected[is_held_out(text)].extend(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert streams.training.tolist() == expected[0]
    assert streams.held_out.tolist() == expected[1]
    texts = {text for text in paragraphs() if is_held_out(text)}
    assert texts
    training = tokenizer.decode(streams.training.tolist())
    assert not [text for text in texts if f"{text} " in training]
    assert streams.description == {
        "name": str(corpus), "simulated": False, "n_documents": 600, "n_tokens": len(expected[0]),
        "n_held_out_tokens": len(expected[1]),
    }  # fmt: skip


def test_tokens_are_mapped_from_the_disk_two_bytes_each(corpus: Path, tokenizer: Any, cache: Path) -> None:
    streams = token_streams(str(corpus), tokenizer)
    assert isinstance(streams.training, np.memmap)
    assert streams.training.dtype == np.uint16
    assert not streams.training.flags.writeable
    (folder,) = kept(cache)
    assert (cache / folder / "training.bin").stat().st_size == 2 * len(streams.training)


def test_documents_stream_through_the_tokenizer(
    corpus: Path, tokenizer: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read is never more than a chunk ahead of what was tokenised."""
    read, done, ahead = [0], [0], []

    def counted(name: str) -> Iterator[str]:
        for text in paragraphs():
            read[0] += 1
            ahead.append(read[0] - done[0])
            yield text

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __len__(self) -> int:
            return len(tokenizer)

        def __call__(self, texts: list[str], **options: Any) -> Any:
            done[0] += len(texts)
            return tokenizer(texts, **options)

    monkeypatch.setattr(corpora, "CHUNK", 7)
    monkeypatch.setattr(corpora, "documents", counted)
    chunked = token_streams(str(corpus), Counting())
    assert max(ahead) == 7
    assert done[0] == 300
    monkeypatch.undo()
    monkeypatch.setenv("TOPOBRAIN_CACHE", str(cache.parent.parent / "other"))
    np.testing.assert_array_equal(chunked.training, token_streams(str(corpus), tokenizer).training)


def test_end_of_text_ends_documents(corpus: Path, cache: Path) -> None:
    tokenizer = train_bpe(paragraphs(), 300)
    without = token_streams(str(corpus), tokenizer)
    tokenizer.eos_token = "[UNK]"  # the same words in another role are another stream
    ended = token_streams(str(corpus), tokenizer)
    n_held_out = sum(is_held_out(text) for text in paragraphs())
    assert len(ended.held_out) == len(without.held_out) + n_held_out
    assert (ended.held_out == tokenizer.unk_token_id).sum() == n_held_out
    assert ended.held_out[-1] == tokenizer.unk_token_id


def test_the_cache_knows_content_and_tokenizer(
    corpus: Path, tokenizer: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = token_streams(str(corpus), tokenizer)
    with monkeypatch.context() as patch:
        patch.setattr(corpora, "_tokenise", None)  # not called again
        again = token_streams(str(corpus), tokenizer)
    np.testing.assert_array_equal(first.training, again.training)
    assert len(kept(cache)) == 1
    token_streams(str(corpus), train_bpe(paragraphs(), 310))
    assert len(kept(cache)) == 2
    before = corpus.stat()
    corpus.write_text(corpus.read_text().replace("dog", "god"))  # as long, at the same time
    os.utime(corpus, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = token_streams(str(corpus), tokenizer)
    assert len(kept(cache)) == 3
    assert changed.training.tolist() != first.training.tolist()


@pytest.mark.parametrize("damage", ["cut", "no numbers", "half a folder"])
def test_a_damaged_cache_is_made_again(damage: str, corpus: Path, tokenizer: Any, cache: Path) -> None:
    first = token_streams(str(corpus), tokenizer)
    expected = first.training.tolist()
    (name,) = kept(cache)
    folder = cache / name
    if damage == "cut":
        content = (folder / "training.bin").read_bytes()
        (folder / "training.bin").unlink()  # the old one is still mapped
        (folder / "training.bin").write_bytes(content[:100])
    elif damage == "no numbers":
        (folder / "corpus.json").write_text('{"n_tok')
    else:
        (folder / "held_out.bin").unlink()
    (cache / f".{name}.1.part").mkdir()  # of a process that was killed
    assert token_streams(str(corpus), tokenizer).training.tolist() == expected
    assert kept(cache) == [name]


def test_an_interrupted_tokenisation_leaves_nothing(
    corpus: Path, tokenizer: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "CHUNK", 50)
    counter = itertools.count()

    def stop(text: str) -> bool:
        if next(counter) == 120:
            raise KeyboardInterrupt
        return is_held_out(text)

    with monkeypatch.context() as patch:
        patch.setattr(corpora, "is_held_out", stop)
        with pytest.raises(KeyboardInterrupt):
            token_streams(str(corpus), tokenizer)
    assert kept(cache) == []
    assert len(token_streams(str(corpus), tokenizer).training)


def test_a_cache_that_cannot_be_written_is_named(
    corpus: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TOPOBRAIN_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataFileError, match="cannot keep the tokens of"):
        token_streams(str(corpus), tokenizer)


@pytest.mark.slow
def test_two_processes_tokenise_once(start: Any, corpus: Path, tmp_path: Path) -> None:
    reports = [tmp_path / f"{number}" for number in range(2)]
    processes = [start(toy_runs.tokenising, corpus, tmp_path / "cache", report) for report in reports]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    (first, digest), (second, other) = (report.read_text().split() for report in reports)
    assert sorted([first, second]) == ["0", "1"]
    assert digest == other


@pytest.mark.slow
def test_corpora_of_the_store(real_data: Path, cache: Path) -> None:
    """WikiText-2 (validation) in GPT-2's tokens: all of them, and no document on both sides."""
    tokenizer = load_gpt2_bpe()
    streams = token_streams("wikitext2", tokenizer)
    texts = list(documents("wikitext2"))
    assert streams.description["n_documents"] == len(texts) > 1000
    total = len(streams.training) + len(streams.held_out)
    assert total == sum(len(tokenizer(text)["input_ids"]) + 1 for text in texts)
    assert 0.02 < len(streams.held_out) / total < 0.1
    sides = [
        {hashlib.sha256(text.encode()).hexdigest() for text in texts if is_held_out(text) == side}
        for side in (False, True)
    ]
    assert not sides[0] & sides[1]
