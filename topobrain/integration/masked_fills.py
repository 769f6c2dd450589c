"""What a masked language model would put where a word is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from topobrain._checks import DataFileError, InputError, listed
from topobrain.integration.candidates import split_marks, token_ids
from topobrain.models.directories import is_model_directory
from topobrain.models.huggingface import COUNTS_FROM_PADDING
from topobrain.models.registry import list_models, load_model
from topobrain.models.text_encoder import TextEncoder
from topobrain.models.torch_model import TorchModel, _evaluating, pick_device

BATCH_TOKENS = 1024
"""Tokens read at once: transformers' models give the logits of all of them, 120 MB for 30,000 words."""
CONTEXT_WORDS = 30
"""Words before and after a masked word that are shown where sentences are not known."""
WORD_STARTS = ("Ġ", "▁")
"""Signs in byte-level and SentencePiece vocabularies for the blank before a token."""


class MaskedReader(NamedTuple):
    """A masked language model: its name, module and tokenizer, and inputs -> logits (stimulus, token, token of the vocabulary).

    The logits are asked for with the places (stimulus, token) of the masks, so that none but theirs need be computed.
    """

    name: str
    module: nn.Module
    encode: TextEncoder
    device: torch.device
    logits: Callable[[Mapping[str, Tensor], Tensor], Tensor]


@dataclass(frozen=True)
class MaskedFills:
    """The fills of every position.

    Attributes
    ----------
    name
        Name of the masked model.
    words
        The whole words in lower-case letters that the model can put.
    ranked
        Iterates over positions (numbered through all sequences, in no special order), each with the numbers of its best
        fills in ``words``, best first. The word itself may be among them.
    """

    name: str
    words: list[str]
    ranked: Callable[[], Iterator[tuple[int, np.ndarray]]]


def find_fills(
    masked_model: TorchModel | str | Path,
    words: np.ndarray,
    sentence_words: np.ndarray,
    *,
    among: Collection[str] | None = None,
    n: int = 1000,
) -> MaskedFills:
    """Return what a masked language model would put at each position, the word itself hidden from it.

    Parameters
    ----------
    masked_model
        A masked language model of this project, its name or directory, or a directory or hub id in the format of
        transformers (``AutoModelForMaskedLM``).
    words
        Words (sequence, position), with the marks that hang on them; the marks are shown.
    sentence_words
        Words of a sentence (sequence,): the model sees the sentence of the word. 0 where that is not known: it sees up to
        30 words before and after.
    among
        Words that may be put (default: all whole words of the model).
    n
        Fills a position; all where there are fewer.

    Returns
    -------
    MaskedFills
        The words, and an iterator over positions that runs the model in batches.

    Raises
    ------
    InputError
        The model is no masked language model, or is one without whole words among its tokens.
    DataFileError
        A directory holds no masked language model, or cannot be read.
    """
    reader = load_masked_reader(masked_model)
    ids, whole = whole_words(reader)
    if not whole:
        raise InputError(f"no token of {reader.name!r} is a whole word in lower-case letters, so it cannot fill a gap")
    if among is not None:
        good = np.isin(np.array(whole, dtype=object), np.array(list(among), dtype=object))
        if not good.any():
            raise InputError(
                f"none of the {len(among)} words that may be put is one token of {reader.name!r} (one that is: {whole[-1]!r})"
            )
        ids, whole = ids[good], [word for word, fits in zip(whole, good, strict=True) if fits]
    n_fills = min(n, len(whole))

    def ranked() -> Iterator[tuple[int, np.ndarray]]:
        texts = masked_texts(words, sentence_words, str(reader.encode.tokenizer.mask_token))
        for places, logits in _read(reader, texts):
            yield from zip(places, logits[:, ids].topk(n_fills, dim=1).indices.cpu().numpy(), strict=True)

    return MaskedFills(reader.name, whole, ranked)


def masked_texts(words: np.ndarray, sentence_words: np.ndarray, mask: str) -> list[str]:
    """Return the context of each position (flat) with the word there replaced by a mask; marks that hang on it stay.

    >>> masked_texts(np.array([["a", "dog,", "and", "cats"]], dtype=object), np.array([2]), "[MASK]")
    ['[MASK] dog,', 'a [MASK],', '[MASK] cats', 'and [MASK]']
    """
    texts = []
    for row, length in zip(words, sentence_words, strict=True):
        for position, written in enumerate(row):
            if length:
                start = position - position % length
                stop = start + length
            else:
                start, stop = max(0, position - CONTEXT_WORDS), position + CONTEXT_WORDS + 1
            before, _, after = split_marks(str(written))
            texts.append(" ".join([*row[start:position], before + mask + after, *row[position + 1 : stop]]))
    return texts


def load_masked_reader(masked_model: TorchModel | str | Path) -> MaskedReader:
    """Return a masked language model ready to read, or say why this is none."""
    if isinstance(masked_model, str | Path):
        name = str(masked_model)
        if not is_model_directory(name) and name not in list_models():
            return _checked(_from_transformers(name.removeprefix("hf:")))
        model: Any = load_model(name)
    else:
        model = masked_model
    if not isinstance(model, TorchModel) or not isinstance(model.encode, TextEncoder):
        raise InputError(
            f"masked_model is a {type(model).__name__} that reads no text with a tokenizer; expected a masked language "
            "model such as load_model('topoformer-tiny'), or a directory in the format of AutoModelForMaskedLM"
        )
    module = model.module
    head: Any = getattr(module, "logits", None)
    if not callable(head):
        raise InputError(
            f"{model.name!r} has no logits of its tokens, so it cannot fill a gap; give a masked language model, or its "
            "directory in the format of AutoModelForMaskedLM"
        )

    def logits(inputs: Mapping[str, Tensor], places: Tensor) -> Tensor:
        output = module(**inputs)
        states = output if isinstance(output, Tensor) else output[0]
        found: Tensor = head(states[places[:, 0], places[:, 1]])
        return found

    return _checked(MaskedReader(model.name, module, model.encode, model.device, logits))


def _from_transformers(source: str) -> MaskedReader:
    """Load a hub id or a directory as AutoModelForMaskedLM does, the head's weights included."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    local = Path(source).expanduser()
    if local.is_dir() and not (local / "config.json").is_file():
        found = listed(sorted(path.name for path in local.iterdir()))
        raise DataFileError(f"{local} is no model directory: expected config.json in it, found: {found}")
    target = str(local) if local.is_dir() else source
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # what is missing is checked below
    try:
        tokenizer = AutoTokenizer.from_pretrained(target)
        with torch.random.fork_rng(devices=[]):
            module, report = AutoModelForMaskedLM.from_pretrained(target, dtype=torch.float32, output_loading_info=True)
    except Exception as error:  # transformers raises many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataFileError(f"cannot load {source!r} as a masked language model: {reason}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing:
        raise DataFileError(
            f"{source!r} holds no masked language model: its weights lack {len(missing)} tensors: {listed(missing, 3)}"
        )
    device = pick_device("auto")
    module = module.eval().to(device)

    def logits(inputs: Mapping[str, Tensor], places: Tensor) -> Tensor:
        found: Tensor = module(**inputs).logits
        return found[places[:, 0], places[:, 1]]

    limit = getattr(module.config, "max_position_embeddings", None)
    if limit is not None and module.config.model_type in COUNTS_FROM_PADDING:
        limit -= int(module.config.pad_token_id) + 1
    return MaskedReader(f"hf:{source}", module, TextEncoder(tokenizer, limit), device, logits)


def _checked(reader: MaskedReader) -> MaskedReader:
    """Raise unless the tokenizer has a mask and the model looks at what comes after it."""
    tokenizer = reader.encode.tokenizer
    if tokenizer.mask_token is None:
        raise InputError(
            f"the tokenizer of {reader.name!r} has no mask token, so the model is no masked language model"
        )
    mask = str(tokenizer.mask_token)
    _, several = whole_words(reader, limit=2)
    if len(several) == 2:
        found = [logits for _, logits in _read(reader, [f"{mask} {word}" for word in several])]
        first, second = torch.cat(found)
        if torch.allclose(first, second, rtol=1e-5, atol=1e-6):
            raise InputError(
                f"{reader.name!r} does not see what comes after a word (a causal model), so it cannot fill a gap; use a masked "
                "language model"
            )
    return reader


def whole_words(reader: MaskedReader, limit: int | None = None) -> tuple[np.ndarray, list[str]]:
    """Return the tokens that are whole words in lower-case letters behind a blank: their ids, and the words.

    Parameters
    ----------
    reader
        A masked language model.
    limit
        The most that are looked for.
    """
    tokenizer = reader.encode.tokenizer
    shown: dict[int, str] = {}
    for token, number in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        word = token[1:] if token.startswith(WORD_STARTS) else token
        if word.isalpha() and word == word.lower():
            shown.setdefault(number, word)
    # a token is a whole word if the word, read in a text, becomes this one token
    read = token_ids(reader.encode, list(shown.values()))
    whole = [number for number, ids in zip(shown, read, strict=True) if ids == [number]][:limit]
    return np.array(whole, dtype=int), [shown[number] for number in whole]


def _read(reader: MaskedReader, texts: Sequence[str]) -> Iterator[tuple[list[int], Tensor]]:
    """Yield the numbers of some texts, of like length, and the logits at their masks (text, token of the vocabulary)."""
    mask_id = reader.encode.tokenizer.mask_token_id
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    batch: list[int] = []
    longest = 0
    for number in [*order, None]:
        length = 0 if number is None else len(texts[number].split())
        if batch and (number is None or max(longest, length) * (len(batch) + 1) > BATCH_TOKENS):
            inputs, _ = reader.encode([texts[i] for i in batch])
            assert isinstance(inputs, Mapping)
            rows, columns = np.nonzero(inputs["input_ids"].numpy() == mask_id)
            if not np.array_equal(rows, np.arange(len(batch))):
                raise InputError(
                    f"the tokenizer of {reader.name!r} does not read its own mask in {texts[batch[0]][:60]!r}"
                )
            places = torch.from_numpy(np.stack([rows, columns], axis=1)).to(reader.device)
            on_device = {key: value.to(reader.device) for key, value in inputs.items()}
            with torch.inference_mode(), _evaluating(reader.module):
                yield batch, reader.logits(on_device, places).float()
            batch, longest = [], 0
        if number is not None:
            batch.append(number)
            longest = max(longest, length)
