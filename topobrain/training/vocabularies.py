"""Vocabularies: tokenizers trained on a corpus, or GPT-2's from the store. All keep character offsets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

from topobrain._checks import require_choice
from topobrain.models.directories import wrap_tokenizer
from topobrain.models.gpt2_tokenizer import load_gpt2_bpe
from topobrain.training.masking import SPECIAL

Kind = Literal["bpe", "words", "wordpiece", "gpt2"]


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
    """Train a lower-case WordPiece tokenizer, BERT's kind."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return wrap_tokenizer(tokenizer)
