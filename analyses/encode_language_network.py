"""Score models on the responses of the human language network, beside everything a sceptic would ask for.

Every layer of every model is scored in every region, divided by the noise ceiling, and set beside the same architecture
untrained, its non-topographic twin, and a baseline of word length, word frequency and surprisal; what the model explains
beyond that baseline is measured with a penalty for each feature space. Layers are chosen inside the training folds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

import topobrain as tb
from analyses.localize_language import file_label
from analyses.model_families import Tell, draw, main, pair_of
from topobrain.data.surface_features import length_and_frequency
from topobrain.encoding.comparison import compare
from topobrain.encoding.partition import partition_variance
from topobrain.models.directories import load_directory
from topobrain.word_surprisal import surprisal_features

BIDIRECTIONAL = ("minilm", "topoformer", "bert")
"""Models whose every token has read the whole sentence: their tokens are averaged, of causal ones the last is taken."""

BASELINE = "length, frequency, surprisal"
FIGURE = "fig12_language_network"


@dataclass(frozen=True)
class Config:
    """Which models to score, and how.

    Parameters
    ----------
    pretrained
        Models by name, each beside its untrained self.
    recipes
        Topographic models to train here (as in `topobrain train`), each beside its twin and its untrained self.
    size, steps
        Of the recipes.
    responses
        Brain responses by name or file.
    corpus
        Text whose word counts give the frequencies.
    surprisal
        The language model whose surprisal is part of the baseline.
    pooling
        ``"auto"``: the last token of causal models, the mean over tokens of others.
    out
        Folder of models, results, tables and the figure.
    n_permutations, n_bootstrap
        Of every score.
    seed
        Of training, permutations and bootstraps.
    device
        ``"auto"`` or a torch device.
    """

    pretrained: tuple[str, ...] = ("stories260k",)
    recipes: tuple[str, ...] = ("toponet-nanogpt", "topoformer-imdb", "topolm")
    size: str = "tiny"
    steps: int | None = None
    responses: str = "tuckute2024"
    corpus: str = "brown"
    surprisal: str = "stories260k"
    pooling: Literal["auto", "last", "mean"] = "auto"
    out: Path = Path("results/language-network")
    n_permutations: int = 1000
    n_bootstrap: int = 1000
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class _Pairing:
    """What `pair_of` needs to know of one recipe."""

    recipe: str
    size: str
    steps: int | None
    models: tuple[Path, ...]
    out: Path
    seed: int
    device: str


@dataclass(frozen=True)
class Member:
    """A model, what it is to its family, and what it is compared with."""

    model: tb.TorchModel
    family: str
    role: Literal["model", "twin", "untrained"]


def run(config: Config, tell: Tell = print) -> Path:
    """Train what is not there yet, score everything, write tables, draw; return the picture."""
    responses = tb.load_responses(config.responses)
    corpus = tb.load_text(config.corpus)
    config.out.mkdir(parents=True, exist_ok=True)
    stimuli = responses.stimuli
    words = length_and_frequency(stimuli, corpus, corpus_name=config.corpus)
    surprise = surprisal_features(tb.load_model(config.surprisal, device=config.device), stimuli)
    baseline = {"length and frequency": words, "surprisal": surprise}
    scored: dict[tuple[str, str], tb.Encoding] = {}
    for name, features in baseline.items():
        scored[name, "baseline"] = _encode(config, features, responses, name)
    activations = {}
    for member in members(config, tell):
        name = member.model.name
        acts = tb.extract(member.model, stimuli, pooling=pooling_of(name, config.pooling))
        tell(f"scoring {name}: {len(acts.layers)} layers")
        scored[member.family, member.role] = _encode(config, acts, responses, name)
        activations[member.family, member.role] = acts
    write_tables(config, scored)
    for (family, role), acts in activations.items():
        chosen = most_chosen(scored[family, role])
        tell(f"partitioning the variance of {family} ({role}): {chosen}")
        partition = partition_variance(
            {"model": acts, **baseline}, responses,
            layers={"model": chosen}, n_bootstrap=config.n_bootstrap, seed=config.seed,
        )  # fmt: skip
        partition.save(config.out / f"partition_{file_label(family)}_{role}.nc")
    write_comparisons(config, scored)
    return draw(config.out, FIGURE)


def members(config: Config, tell: Tell) -> Iterator[Member]:
    """Yield every model: pretrained and untrained, trained here with twin and untrained."""
    for name in config.pretrained:
        yield Member(tb.load_model(name, device=config.device), name, "model")
        yield Member(tb.load_model(name, weights=f"untrained:{config.seed}", device=config.device), name, "untrained")
    for recipe in config.recipes:
        pair = pair_of(_Pairing(recipe, config.size, config.steps, (), config.out, config.seed, config.device), tell)
        model, twin = (load_directory(place, device=config.device) for place in pair)
        yield Member(model, model.name, "model")
        yield Member(twin, model.name, "twin")
        untrained = load_directory(pair[0], weights=f"untrained:{config.seed}", device=config.device)
        yield Member(untrained, model.name, "untrained")


def pooling_of(name: str, wanted: str) -> Literal["last", "mean"]:
    """Return how a model's tokens become one row."""
    if wanted == "auto":
        return "mean" if any(word in name for word in BIDIRECTIONAL) else "last"
    return "mean" if wanted == "mean" else "last"


def most_chosen(result: tb.Encoding, roi: str | None = None) -> str:
    """Return the layer that most training folds choose, in a region or over all of them."""
    chosen = result.data["best_layer"].values
    column = chosen.ravel() if roi is None else chosen[:, result.regions.index(roi)]
    return max(result.layers, key=lambda layer: (column == layer).sum())


def _encode(config: Config, features: tb.Activations, responses: tb.BrainResponses, name: str) -> tb.Encoding:
    result = tb.encode(
        features, responses,
        n_permutations=config.n_permutations, n_bootstrap=config.n_bootstrap, seed=config.seed,
    )  # fmt: skip
    result.save(config.out / f"encoding_{file_label(name)}.nc")
    return result


def write_tables(config: Config, scored: dict[tuple[str, str], tb.Encoding]) -> None:
    """Write ``layers.csv`` (every layer and region) and ``best.csv`` (the layer chosen inside the training folds)."""
    for name, table in (("layers", "summary"), ("best", "best")):
        rows = [getattr(one, table)().assign(family=family, role=role) for (family, role), one in scored.items()]
        frame = pd.concat(rows)
        frame[["family", "role", *[c for c in frame if c not in ("family", "role")]]].to_csv(
            config.out / f"{name}.csv", index=False
        )


def write_comparisons(config: Config, scored: dict[tuple[str, str], tb.Encoding]) -> None:
    """Write ``comparisons.csv``: each model against its untrained self, its twin and the baselines, paired."""
    rows = []
    for (family, role), one in scored.items():
        if role != "model":
            continue
        others = {f"{family} ({other})": scored.get((family, other)) for other in ("untrained", "twin")}
        others |= {name: found for (name, kind), found in scored.items() if kind == "baseline"}
        for name, other in others.items():
            if other is not None:
                found = compare(one, other, layer="best", names=(family, name))
                found.save(config.out / f"comparison_{file_label(family)}_{file_label(name)}.nc")
                rows.append(found.summary().assign(model=family, against=name))
    if rows:
        frame = pd.concat(rows)
        frame[["model", "against", *[c for c in frame if c not in ("model", "against")]]].to_csv(
            config.out / "comparisons.csv", index=False
        )


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config), run)
