"""Map sentiment on the streams of a Topoformer trained on film reviews, of its twin, and of its untrained selves.

Positive minus negative reviews of the test set, which no model was trained on. The task itself teaches a classifier to
tell them apart, so every unit may be selective; the question is whether selective units lie together, and whether more so
than those of random splits of the same reviews.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import topobrain as tb
from analyses.held_out_stimuli import imdb_reviews
from analyses.localize_language import file_label
from analyses.model_families import Mapper, draw, main, once_a_tokenizer, pair_of, trained_family, write_roles
from topobrain._checks import InputError
from topobrain.training import find_recipe

SENTIMENT = tb.Contrast("positive - negative", on="positive", off="negative")


@dataclass(frozen=True)
class Config:
    """What to train and to map.

    Parameters
    ----------
    recipe, size, steps
        The Topoformer (spatial querying and reweighting), as in `topobrain train`; its twin has standard attention.
    models
        Directories of a topographic model and its twin that are already trained, instead of the recipe.
    out
        Folder of models, results and the figure.
    layers
        Layers to map (default: the attention streams query, key, value and output).
    top
        Share of units that one half of the reviews selects and the other half measures.
    n_null
        Draws of every null.
    n_untrained
        Untrained selves, with different random weights.
    seed
        Of training, nulls and bootstraps.
    device
        ``"auto"`` or a torch device.
    """

    recipe: str = "topoformer-imdb"
    size: str = "tiny"
    steps: int | None = None
    models: tuple[Path, ...] = ()
    out: Path = Path("results/map-sentiment")
    layers: tuple[str, ...] = ()
    top: float = 0.01
    n_null: int = 1000
    n_untrained: int = 5
    seed: int = 0
    device: str = "auto"


def run(config: Config, tell: Callable[[str], None] = print, reviews: tb.StimulusSet | None = None) -> Path:
    """Train what is not there yet, map and measure every stream, draw; return the picture.

    Parameters
    ----------
    config
        What to do.
    tell
        Called with a line on each stage.
    reviews
        Other texts than IMDB's test reviews, with conditions ``positive`` and ``negative``.
    """
    recipe = find_recipe(config.recipe, config.size)
    if recipe.objective != "sentences":
        raise InputError(
            f"sentiment is mapped on a model that learnt it; the recipe {config.recipe!r} learns something else"
        )
    family = trained_family(config, pair_of(config, tell))
    mapper = Mapper(config.out, SENTIMENT, config.n_null, config.seed)

    if reviews is None:
        shown_to = once_a_tokenizer(lambda encode: imdb_reviews(encode.tokenizer, encode.max_length))
    else:
        given = reviews

        def shown_to(model: tb.TorchModel) -> tb.StimulusSet:
            return given

    found = mapper.family(family, "reviews", shown_to, tell)
    for role, model in family.shown():
        profile = tb.response_profile(found[role], SENTIMENT, split="odd-even", top=config.top, seed=config.seed)
        profile.save(config.out / f"profile-reviews_{file_label(model.name)}.nc")
    write_roles(config.out, [family])
    return draw(config.out, "fig9_sentiment_maps")


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config), run)
