"""Map the language localizer on a topographic language model, its twin and untrained selves, and a pretrained model.

Every map and measure stands beside its nulls: units that change places, stimuli that change sides, the same architecture
untrained, the twin without topography. The localizer is shown in full and matched in tokens; the units it selects are
measured on sentences, word lists, Jabberwocky and nonword strings that took no part in selecting them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

import topobrain as tb
from analyses.localize_language import file_label
from analyses.model_families import (
    Family,
    Mapper,
    Tell,
    draw,
    main,
    once_a_tokenizer,
    pair_of,
    trained_family,
    write_roles,
)
from topobrain._checks import require_choice

LANGUAGE = tb.Contrast("language", on="sentence", off="nonword")
VARIANTS = ("full", "tokens")


@dataclass(frozen=True)
class Config:
    """What to train and to map.

    Parameters
    ----------
    recipe, size, steps
        The topographic model, as in `topobrain train`; its twin is trained on the same data in the same order.
    models
        Directories of a topographic model and its twin that are already trained, instead of the recipe.
    pretrained
        Further models by name, each beside its untrained self; all their layers are mapped.
    stimuli
        ``"langloc"`` (the real localizer, in full and matched in tokens), or ``"simulated"`` (template language).
    out
        Folder of models, results and the figure.
    layers
        Layers of the pair (default: those the recipe lays out).
    top
        Share of units that the localizer selects for the response profiles, over the mapped layers together.
    n_null
        Draws of every null.
    n_untrained
        Untrained selves, with different random weights.
    seed
        Of training, nulls and bootstraps.
    device
        ``"auto"`` or a torch device.
    """

    recipe: str = "toponet-nanogpt"
    size: str = "tiny"
    steps: int | None = None
    models: tuple[Path, ...] = ()
    pretrained: tuple[str, ...] = ("stories260k",)
    stimuli: Literal["langloc", "simulated"] = "langloc"
    out: Path = Path("results/map-language")
    layers: tuple[str, ...] = ()
    top: float = 0.01
    n_null: int = 1000
    n_untrained: int = 5
    seed: int = 0
    device: str = "auto"


def run(config: Config, tell: Tell = print) -> Path:
    """Train what is not there yet, map and measure every model, draw; return the picture."""
    require_choice("set of stimuli", config.stimuli, ("langloc", "simulated"))
    profiled = tb.load_stimuli("swjn" if config.stimuli == "langloc" else "simulated-swjn")
    shown = {variant: localizer(config.stimuli, variant) for variant in VARIANTS}
    others = _pretrained_families(config)  # what is missing is told now, not after training
    families = [trained_family(config, pair_of(config, tell)), *others]
    mapper = Mapper(config.out, LANGUAGE, config.n_null, config.seed)
    mapper.out.mkdir(parents=True, exist_ok=True)
    lengths = []
    for family in families:
        measured = {role: tb.extract(model, profiled, layers=list(family.layers)) for role, model in family.shown()}
        for variant in _variants(config, family):
            found = mapper.family(family, variant, shown[variant], tell)
            for role, model in family.shown():
                acts, label = found[role], file_label(model.name)
                for name, how in (("sets", {"split": "set"}), ("profile", {"measure": measured[role]})):
                    profile = tb.response_profile(acts, LANGUAGE, top=config.top, seed=config.seed, **how)
                    profile.save(config.out / f"{name}-{variant}_{label}.nc")
                if variant == "full":
                    tb.distance_curve(acts, n_null=min(config.n_null, 200), seed=config.seed).save(
                        config.out / f"distance_{label}.nc"
                    )
                lengths.append(acts.read_lengths().assign(model=model.name, stimuli=f"localizer, {variant}"))
        for role, model in family.shown():
            lengths.append(measured[role].read_lengths().assign(model=model.name, stimuli="profile"))
    pd.concat(lengths).to_csv(config.out / "lengths.csv", index=False)
    write_roles(config.out, families)
    return draw(config.out, "fig8_language_maps")


def _pretrained_families(config: Config) -> list[Family]:
    families = []
    for name in config.pretrained:
        model = tb.load_model(name, device=config.device)
        untrained = tuple(
            tb.load_model(name, weights=f"untrained:{config.seed + number}", device=config.device)
            for number in range(config.n_untrained)
        )
        families.append(Family("pretrained", model, None, untrained, tuple(model.sheets)))
    return families


def _variants(config: Config, family: Family) -> tuple[str, ...]:
    if config.stimuli == "simulated" or getattr(family.model.encode, "tokenizer", None) is None:
        return ("full",)
    return VARIANTS


def localizer(stimuli: str, variant: str) -> Callable[[tb.TorchModel], tb.StimulusSet]:
    """Return what shows a model the localizer: in full, or matched in the tokens of the model's own tokenizer."""
    if stimuli == "simulated":
        whole = tb.load_stimuli("simulated-langloc")
        return lambda model: whole
    if variant == "full":
        whole = tb.load_localizer("language").stimuli
        return lambda model: whole
    return once_a_tokenizer(
        lambda encode: tb.load_localizer("language", length="tokens", tokenizer=encode.tokenizer).stimuli
    )


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config), run)
