"""GPT-2's tokenizer, from the data store: NanoGPT, TopoLM and the TopoNets read text with it."""

from __future__ import annotations

from typing import Any

from topobrain._checks import DataFileError
from topobrain.models.directories import wrap_tokenizer
from topobrain.store import fetch

END_OF_TEXT = "<|endoftext|>"


def load_gpt2_bpe() -> Any:
    """Return GPT-2's byte-level BPE of 50,257 tokens as a transformers tokenizer.

    Raises
    ------
    DataFileError
        Its files are not in the store, or are damaged.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    files = fetch("gpt2_bpe")
    try:
        model = models.BPE.from_file(str(files["vocab.json"]), str(files["merges.txt"]))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise DataFileError(f"cannot read GPT-2's BPE from {files['vocab.json'].parent}: {error}") from error
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return wrap_tokenizer(tokenizer, {"eos_token": END_OF_TEXT})
