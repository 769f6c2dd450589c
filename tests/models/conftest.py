from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SENTENCES = [
    "The dog sleeps in the garden.",
    "Unbelievably, the grey cats of my neighbour's aunt don't chase mice at night!",
    "Rain falls on the roof and the river is rising.",
    "she sells sea shells by the shore",
    "An old man was reading his newspaper when the bell rang.",
    "Where are the children? They are playing outside.",
]
FAMILIES = ("gpt2", "gpt_neo", "llama", "bert", "roberta", "opt", "distilbert")
WIDTH, N_LAYERS, LONGEST = 24, 2, 64


def byte_level_tokenizer(special: list[str], *, roberta: bool = False) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = (
        processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
        if roberta
        else processors.ByteLevel(trim_offsets=False)
    )
    return tokenizer


def metaspace_tokenizer() -> Any:
    import json

    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()  # pieces never cross words
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=340, special_tokens=special[:3], show_progress=False)
    )
    # training knows no byte pieces: put them where sentencepiece has them, before the learned ones
    fields = json.loads(tokenizer.to_str())
    learned = sorted(fields["model"]["vocab"], key=fields["model"]["vocab"].get)[3:]
    fields["model"]["vocab"] = {piece: index for index, piece in enumerate([*special, *learned])}
    fields["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(fields))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def word_piece_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def family_tokenizer(family: str) -> Any:
    """Return a tokenizer of the family's own kind, as transformers' fast tokenizer."""
    from transformers import PreTrainedTokenizerFast

    if family in ("bert", "distilbert"):
        return PreTrainedTokenizerFast(
            tokenizer_object=word_piece_tokenizer(),
            pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
        )  # fmt: skip
    if family == "llama":
        return PreTrainedTokenizerFast(
            tokenizer_object=metaspace_tokenizer(), unk_token="<unk>", bos_token="<s>", eos_token="</s>"
        )
    if family in ("roberta", "opt"):
        return PreTrainedTokenizerFast(
            tokenizer_object=byte_level_tokenizer(["<s>", "<pad>", "</s>", "<unk>", "<mask>"], roberta=True),
            bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
            pad_token="<pad>", unk_token="<unk>", mask_token="<mask>",
        )  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_level_tokenizer(["<|endoftext|>"]),
        bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>",
    )  # fmt: skip


def family_model(family: str, n_tokens: int) -> Any:
    """Return a tiny randomly initialised model of the family, seeded, with the head its checkpoints come with."""
    import torch
    import transformers as tf

    common = {"vocab_size": n_tokens, "hidden_size": WIDTH, "num_attention_heads": 2}
    depth, inner = {"num_hidden_layers": N_LAYERS}, {"intermediate_size": 40}
    if family == "gpt2":
        config = tf.GPT2Config(
            vocab_size=n_tokens, n_embd=WIDTH, n_layer=3, n_head=2, n_positions=LONGEST, bos_token_id=0, eos_token_id=0
        )
        build: Callable[[Any], Any] = tf.GPT2LMHeadModel
    elif family == "gpt_neo":
        config = tf.GPTNeoConfig(
            vocab_size=n_tokens, hidden_size=WIDTH, num_layers=2, attention_types=[[["global", "local"], 1]],
            num_heads=2, intermediate_size=40, window_size=8, max_position_embeddings=LONGEST,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        build = tf.GPTNeoForCausalLM
    elif family == "llama":
        config = tf.LlamaConfig(
            **common, **depth, **inner, num_key_value_heads=1, max_position_embeddings=LONGEST, pad_token_id=None
        )
        build = tf.LlamaForCausalLM
    elif family == "bert":
        config = tf.BertConfig(**common, **depth, **inner, max_position_embeddings=LONGEST, pad_token_id=0)
        build = tf.BertModel
    elif family == "roberta":
        config = tf.RobertaConfig(
            **common, **depth, **inner, max_position_embeddings=LONGEST + 2, pad_token_id=1, bos_token_id=0,
            eos_token_id=2, type_vocab_size=1,
        )  # fmt: skip
        build = tf.RobertaForMaskedLM  # like the published one, it holds no pooler
    elif family == "opt":
        config = tf.OPTConfig(
            **common, **depth, ffn_dim=40, max_position_embeddings=LONGEST, word_embed_proj_dim=WIDTH, pad_token_id=1,
            bos_token_id=0, eos_token_id=2,
        )  # fmt: skip
        build = tf.OPTForCausalLM
    else:
        config = tf.DistilBertConfig(
            vocab_size=n_tokens, dim=WIDTH, n_layers=2, n_heads=2, hidden_dim=40, max_position_embeddings=LONGEST,
            pad_token_id=0,
        )  # fmt: skip
        build = tf.DistilBertForMaskedLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = build(config).eval()
        for parameter in model.parameters():  # larger than the usual start, so that layers do differ
            torch.nn.init.normal_(parameter, mean=0.0 if parameter.ndim > 1 else 0.5, std=0.2)
    return model


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the directory of a family's tiny checkpoint, in the format and with the files of published ones."""
    made: dict[str, Path] = {}

    def directory(family: str) -> Path:
        if family not in made:
            target = tmp_path_factory.mktemp(f"checkpoint-{family}")
            tokenizer = family_tokenizer(family)
            family_model(family, len(tokenizer)).save_pretrained(target)
            tokenizer.save_pretrained(target)
            made[family] = target
        return made[family]

    return directory


@pytest.fixture(scope="session")
def tokenizers() -> Callable[[str], Any]:
    made: dict[str, Any] = {}

    def tokenizer(family: str) -> Any:
        if family not in made:
            made[family] = family_tokenizer(family)
        return made[family]

    return tokenizer
