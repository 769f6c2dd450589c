"""Map faces, bodies, places, characters and objects on a network trained on small photographs, its twin and untrained selves.

A ResNet-18 with a topographic loss on its convolutions sees the fLoc images at the size it was trained with. A unit is a
channel: what it gives is averaged over the picture. The network learnt the ten categories of CIFAR-10 (animals and
vehicles, no face, building or letter among its labels); it is not the ImageNet network of the TopoNets paper, and a map of
faces here says how features of ten other categories happen to treat faces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import topobrain as tb
from analyses.localize_language import file_label
from analyses.model_families import Mapper, draw, main, pair_of, trained_family, write_roles
from topobrain._checks import InputError, require_choice
from topobrain.training import find_recipe

DOMAINS = ("faces", "bodies", "places", "characters", "objects")
DOMAIN_CONTRASTS = tuple(
    tb.Contrast(domain, on=domain, off=tuple(other for other in DOMAINS if other != domain)) for domain in DOMAINS
)
"""Each domain against the other four, as in the localizer ``"floc"``."""

OTHER_CONTRASTS = (
    tb.Contrast("animacy", on="animate", off="inanimate", by="animacy"),
    tb.Contrast("real-world size", on="big", off="small", by="real_size"),
    tb.Contrast("car-instrument", on="car", off="instrument", by="category"),
)
"""The small side of real-world size is the instruments alone: the third contrast tells size from instruments."""

LATE_CONVOLUTIONS = tuple(f"layer{stage}.{block}.conv{n}" for stage in (3, 4) for block in (0, 1) for n in (1, 2))
VARIANT = "floc"


@dataclass(frozen=True)
class Config:
    """What to train and to map.

    Parameters
    ----------
    recipe, size, steps
        The topographic network, as in `topobrain train`; its twin sees the same pictures in the same order.
    models
        Directories of a topographic network and its twin that are already trained, instead of the recipe.
    out
        Folder of models, results and the figure.
    layers
        Layers to map: the eight convolutions of the last two stages. Earlier sheets have 16 and 32 units only.
    shown
        The layer whose maps and profiles are drawn; all layers are measured.
    top
        Share of the shown layer's units that one half of the images selects and the other half measures.
    n_per_category
        Images of each of the ten categories, drawn with the seed (default: all 144).
    n_null
        Draws of every null.
    n_untrained
        Untrained selves, with different random weights.
    seed
        Of training, nulls and bootstraps.
    device
        ``"auto"`` or a torch device.
    """

    recipe: str = "toponet-resnet18"
    size: str = "tiny"
    steps: int | None = None
    models: tuple[Path, ...] = ()
    out: Path = Path("results/map-categories")
    layers: tuple[str, ...] = LATE_CONVOLUTIONS
    shown: str = "layer3.1.conv2"
    top: float = 0.1
    n_per_category: int | None = None
    n_null: int = 1000
    n_untrained: int = 5
    seed: int = 0
    device: str = "auto"


def run(config: Config, tell: Callable[[str], None] = print, images: tb.StimulusSet | None = None) -> Path:
    """Train what is not there yet, map and measure every network, draw; return the picture.

    Parameters
    ----------
    config
        What to do.
    tell
        Called with a line on each stage.
    images
        Other pictures than fLoc's, with its columns ``condition category animacy real_size half``.
    """
    if find_recipe(config.recipe, config.size).objective != "images":
        raise InputError(
            f"categories of pictures need a network that sees: the recipe {config.recipe!r} is of another kind"
        )
    require_choice("shown layer", config.shown, config.layers)
    config.out.mkdir(parents=True, exist_ok=True)
    if images is None:  # before any training: a missing store is told at once
        side = int(find_recipe(config.recipe, config.size).model["image_size"])
        images = tb.load_localizer("floc", size=side, n_per_category=config.n_per_category, seed=config.seed).stimuli
    family = trained_family(config, pair_of(config, tell))
    mapper = Mapper(config.out, (*DOMAIN_CONTRASTS, *OTHER_CONTRASTS), config.n_null, config.seed)
    found = mapper.family(family, VARIANT, lambda _: images, tell)
    for role, model in family.shown():
        tell(f"holding out half of the images: {model.name}")
        write_held_out(config, model, found[role], images)
    write_roles(config.out, [family])
    return draw(config.out, "fig10_category_maps")


def write_held_out(config: Config, model: tb.TorchModel, acts: tb.Activations, images: tb.StimulusSet) -> None:
    """Write how far odd and even images agree, what selected units do in the other half, and the distance curve."""
    label = file_label(model.name)
    halves = {
        half: tb.localize(
            tb.extract(model, images.where(half=half), layers=list(config.layers)), DOMAIN_CONTRASTS, n_null=0
        )
        for half in ("odd", "even")
    }
    tb.topography(
        halves["odd"],
        against=halves["even"],
        measures=["map_correlation", "ssim"],
        n_null=config.n_null,
        seed=config.seed,
    ).save(config.out / f"halves_{label}.nc")
    even_handed = standardised(acts)
    for contrast in DOMAIN_CONTRASTS:
        tb.response_profile(
            even_handed, contrast, split="half", top=config.top, layer=config.shown, seed=config.seed
        ).save(config.out / f"profile-{contrast.name}_{label}.nc")
    tb.distance_curve(acts, n_bins=8, n_null=min(config.n_null, 200), seed=config.seed).save(
        config.out / f"distance_{label}.nc"
    )


def standardised(acts: tb.Activations) -> tb.Activations:
    """Return activations with mean 0 and standard deviation 1 for every unit over all images.

    Convolutions give every channel a level and a scale of its own, far larger than what images change: without this a
    profile would show the levels of the few selected channels. No unit's t changes by it.
    """
    data = acts.data.copy()
    values = data["value"].values.astype(np.float64)
    spread = values.std(axis=0)
    values = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    data["value"] = (data["value"].dims, values.astype(np.float32))
    fields = {key: value for key, value in acts.provenance.items() if key != "versions"}
    return tb.Activations(
        data.assign_attrs(tb.Activations.attributes({**fields, "standardised": "each unit, over all images"}))
    )


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config), run)
