from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from topobrain._checks import DataFileError, UnknownNameError
from topobrain.models import gpt2_tokenizer
from topobrain.models.gpt import GPTConfig, wrap_gpt
from topobrain.models.gpt2_tokenizer import END_OF_TEXT, load_gpt2_bpe
from topobrain.training.masking import SPECIAL
from topobrain.training.vocabularies import make_vocabulary, train_bpe, train_wordpiece, train_words

TEXTS = ["the Dog sleeps, the cat sings"] * 6 + ["a bird sings in the garden"] * 4 + ["rarely"]
ODD = ("Zoë saw 狗 🐕", "the dog", "l'été  twice\tand\nlines", "")


def test_the_tokenizer_knows_every_text_and_its_special_tokens() -> None:
    tokenizer = train_bpe(["the dog sleeps"] * 3, 290)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == [0, 1, 2]
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id) == (0, 1, 2)
    for text in ODD:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids).removeprefix(" ") == text
    assert len(train_bpe(TEXTS, 300)) <= 300


def test_words_are_lower_case_and_rare_ones_unknown() -> None:
    tokenizer = train_words(TEXTS, 100)
    assert tokenizer.tokenize("The dog, the CAT") == ["the", "dog", ",", "the", "cat"]
    assert tokenizer.tokenize("rarely the bird") == ["[UNK]", "the", "[UNK]"]  # seen once, and four times
    assert len(train_words(TEXTS, 6)) == 6
    kept = train_words(TEXTS, 100, min_frequency=1)
    assert "[UNK]" not in kept.tokenize("rarely the bird")
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == [0, 1, 2]


def test_wordpiece_falls_apart_into_pieces() -> None:
    tokenizer = train_wordpiece(TEXTS, 60)
    assert tokenizer.tokenize("The") == ["the"]
    assert tokenizer.decode(tokenizer("the dog")["input_ids"]) == "the dog"
    assert any(piece.startswith("##") for piece in tokenizer.tokenize("dogsings"))
    assert len(tokenizer) <= 60


@pytest.mark.parametrize("kind", ["bpe", "words", "wordpiece"])
def test_training_is_repeatable_and_offsets_point_into_the_text(kind: Any) -> None:
    first, again = (make_vocabulary(kind, iter(TEXTS), 290) for _ in range(2))
    assert first.backend_tokenizer.to_str() == again.backend_tokenizer.to_str()
    text = "the Dog sleeps"
    spans = first(text, return_offsets_mapping=True)["offset_mapping"]
    assert "".join(text[a:b] for a, b in spans).replace(" ", "") == "theDogsleeps"


def test_unknown_kinds_and_damaged_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="wordpiece"):
        make_vocabulary("wordpeice", TEXTS, 10)  # type: ignore[arg-type]
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_text("{")
    monkeypatch.setattr(
        gpt2_tokenizer, "fetch", lambda _: {name: tmp_path / name for name in ("vocab.json", "merges.txt")}
    )
    with pytest.raises(DataFileError, match=f"cannot read GPT-2's BPE from {tmp_path}"):
        load_gpt2_bpe()


def test_gpt2_s_ids_are_transformers(real_data: Path) -> None:
    from transformers import GPT2Tokenizer

    folder = real_data / "gpt2_bpe"
    theirs = GPT2Tokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    ours = make_vocabulary("gpt2", iter(()), 7)
    assert len(ours) == len(theirs) == 50257
    letters = np.random.default_rng(0).choice(list("ab é狗🐕 \n\t'0.,ABstx"), (40, 60))
    texts = [*ODD, "It's 3.14 isn't it?  We'll see…", "Hello world", *("".join(row) for row in letters)]
    for text in texts:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"], text
    assert ours("Hello world")["input_ids"] == [15496, 995]
    assert ours.eos_token_id == ours.convert_tokens_to_ids(END_OF_TEXT) == theirs.eos_token_id == 50256
    assert ours.mask_token_id is None


def test_a_model_reads_in_gpt2_s_tokens(real_data: Path) -> None:
    """Without a padding token of its own, padding is still invisible."""
    from toy_runs import build

    from topobrain.testing import check_model

    config = GPTConfig(vocab_size=50304, width=8, n_layers=1, n_heads=2, context=64)
    model = wrap_gpt("toy", build("gpt", config), load_gpt2_bpe(), device="cpu")
    assert check_model(model).ok
