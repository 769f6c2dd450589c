"""GPT-2's tokenizer, from the data store: NanoGPT, TopoLM and the TopoNets read text with it."""

from __future__ import annotations

from typing import Any

from topobrain.models.directories import wrap_tokenizer
from topobrain.store import fetch
from topobrain.store.gpt2_tokenizer import END_OF_TEXT, read_gpt2_bpe


def load_gpt2_bpe() -> Any:
    """Return GPT-2's byte-level BPE of 50,257 tokens as a transformers tokenizer.

    Raises
    ------
    DataFileError
        Its files are not in the store, or are damaged.
    """
    return wrap_tokenizer(read_gpt2_bpe(fetch("gpt2_bpe")), {"eos_token": END_OF_TEXT})


__all__ = ["END_OF_TEXT", "load_gpt2_bpe"]
