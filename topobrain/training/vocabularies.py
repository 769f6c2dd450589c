"""Vocabularies: tokenizers trained on a corpus, or GPT-2's from the store. All keep character offsets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

from topobrain._checks import require_choice
from topobrain.models.directories import wrap_tokenizer
from topobrain.models.gpt2_tokenizer import load_gpt2_bpe
from topobrain.training.masking import SPECIAL

Kind = Literal["bpe", "words", "wordpiece", "gpt2"]
WORD_START = "\u2581"


def make_vocabulary(kind: Kind, texts: Iterable[str], vocab_size: int) -> Any:
    """Return a transformers tokenizer.

    Parameters
    ----------
    kind
        ``"bpe"``: byte-level BPE trained on the texts. ``"words"``: their most frequent lower-case words and
        punctuation. ``"wordpiece"``: lower-case WordPiece. ``"gpt2"``: GPT-2's BPE from the data store (the texts and
        the size are not used).
    texts
        Training texts.
    vocab_size
        Most tokens.

    Raises
    ------
    UnknownNameError
        No such kind.
    """
    require_choice("vocabulary", kind, get_args(Kind))
    if kind == "gpt2":
        return load_gpt2_bpe()
    return {"bpe": train_bpe, "words": train_words, "wordpiece": train_wordpiece}[kind](texts, vocab_size)


def train_bpe(texts: Iterable[str], vocab_size: int) -> Any:
    """Train a byte-level BPE tokenizer: every text can be encoded, unknown words fall apart into known pieces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return wrap_tokenizer(tokenizer)


def train_words(texts: Iterable[str], vocab_size: int, *, min_frequency: int = 5) -> Any:
    """Collect lower-case words and punctuation marks that occur ``min_frequency`` times or more; others are [UNK]."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=list(SPECIAL), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return wrap_tokenizer(tokenizer)


def train_wordpiece(texts: Iterable[str], vocab_size: int) -> Any:
    """Train a lower-case WordPiece tokenizer, BERT's kind.

    The library's own trainer numbers the pieces inside words in the order of a randomly seeded hash table, so that two
    trainings differ. Its byte-pair trainer does not: words get a mark in front, and pieces without it become ``##`` pieces.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    normalizer, words = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    pairs = Tokenizer(models.BPE())
    pairs.normalizer = normalizers.Sequence([normalizer, normalizers.Replace(WORD_START, " ")])
    pairs.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.Metaspace(WORD_START, prepend_scheme="always", split=False)]
    )
    pairs.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False))
    pieces: dict[str, None] = dict.fromkeys(SPECIAL)
    for piece in sorted(pairs.get_vocab(), key=pairs.get_vocab().__getitem__):
        rest = piece.removeprefix(WORD_START)
        if len(rest) == 1 and rest == piece:  # a letter may open a word and stand in it
            pieces |= {rest: None, f"##{rest}": None}
        elif rest:
            pieces[f"##{rest}" if rest == piece else rest] = None
    vocab = {piece: number for number, piece in enumerate(list(pieces)[:vocab_size])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, words
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(SPECIAL))
    return wrap_tokenizer(tokenizer)
