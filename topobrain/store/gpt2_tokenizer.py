"""GPT-2's byte-level BPE from the store: models read text with it, and data sets count its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topobrain._checks import DataFileError
from topobrain.store.files import fetch

END_OF_TEXT = "<|endoftext|>"


def read_gpt2_bpe(files: Mapping[str, Path] | None = None) -> Any:
    """Return GPT-2's byte-level BPE of 50,257 tokens as a tokenizers object.

    Parameters
    ----------
    files
        ``vocab.json`` and ``merges.txt`` (default: those of the store).

    Raises
    ------
    DataFileError
        The files are not in the store, or are damaged.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    found = fetch("gpt2_bpe") if files is None else files
    try:
        model = models.BPE.from_file(str(found["vocab.json"]), str(found["merges.txt"]))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise DataFileError(f"cannot read GPT-2's BPE from {found['vocab.json'].parent}: {error}") from error
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer
