"""Stimuli that a recipe's models were not trained on, and the contrast that their selectivity is shown for."""

from __future__ import annotations

from typing import Any

import numpy as np

import topobrain as tb
from topobrain.data.corpora import load_imdb_sentiment
from topobrain.training import Recipe

ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")
VEHICLES = ("airplane", "automobile", "ship", "truck")
REVIEWS_A_CLASS = 500


def contrast_stimuli(recipe: Recipe, tokenizer: Any) -> tuple[tb.StimulusSet, tb.Contrast]:
    """Return stimuli with conditions, and their contrast.

    Sentences against nonword strings for language models, positive against negative test reviews for sentiment models,
    animals against vehicles among test images for models of images.
    """
    if recipe.objective == "images":
        return tb.load_stimuli("cifar10", split="test", limit=1000), tb.Contrast(
            "animals - vehicles", on=ANIMALS, off=VEHICLES
        )
    if recipe.objective == "sentences":
        return imdb_reviews(tokenizer, recipe.length), tb.Contrast("positive - negative", on="positive", off="negative")
    return tb.load_stimuli("langloc"), tb.Contrast("sentence - nonword", on="sentence", off="nonword")


def imdb_reviews(tokenizer: Any, length: int) -> tb.StimulusSet:
    """Return the first 500 test reviews of each sentiment, each cut at the whole word before ``length`` tokens."""
    texts, labels = load_imdb_sentiment("test")
    chosen = [i for label in (0, 1) for i in np.flatnonzero(labels == label)[:REVIEWS_A_CLASS]]
    cut = [_first_tokens(texts[i], tokenizer, length) for i in chosen]
    sentiment = ["positive" if labels[i] else "negative" for i in chosen]
    return tb.StimulusSet(cut, {"condition": sentiment}, name="imdb-test-1000")


def _first_tokens(text: str, tokenizer: Any, length: int) -> str:
    offsets = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False, verbose=False)["offset_mapping"]
    if len(offsets) <= length:
        return text
    end = offsets[length][0]
    return text[:end].rstrip() if text[end - 1].isspace() else text[:end].rsplit(None, 1)[0]
