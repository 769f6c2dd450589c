"""Test the field's claims on topographic models at small scale, over several seeds, beside untrained and control models.

Every model is trained by its recipe on real data of the store (the toy of one claim is simulated and says so), and the
generic topography statistic t_g of its layers is measured on stimuli it was not trained on, beside the same layers with
their units' places permuted, and beside the same model untrained. One run of the script picks up where another stopped;
several may share the claims.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import topobrain as tb
from analyses.held_out_stimuli import contrast_stimuli
from topobrain._checks import require_choice
from topobrain.models.architectures import build
from topobrain.models.directories import load_directory
from topobrain.models.topoformer import TopoformerConfig, variant, wrap_topoformer_classifier
from topobrain.training import Penalty, Recipe, TrainingConfig, find_recipe, run_recipe, train
from topobrain.training.loop import Run
from topobrain.training.objectives import SentenceClassification
from topobrain.training.recipe_run import Data, load_log, read_data

VARIANTS = ("control", "querying", "reweighting", "both", "signed")
TAUS = (0.0, 1.0, 10.0, 50.0)
STREAMS = ("query", "key", "value", "output")
CLAIMS = ("toy", "variants", "lm-tau", "images-tau", "imdb-tau", "topolm", "bert")


@dataclass(frozen=True)
class Config:
    """What to test.

    Parameters
    ----------
    out
        Folder of runs, rows and tables.
    claims
        ``toy``: Topoformer variants on a simulated topic task; ``variants``: the same on IMDB; ``lm-tau``,
        ``images-tau``, ``imdb-tau``: TopoLoss of growing strength; ``topolm``, ``bert``: the model and its twin.
    seeds
        Of weights, order of examples and dropout.
    n_null
        Layout permutations of each t_g.
    steps
        Training steps, instead of the recipes' own (a quick look).
    """

    out: Path = Path("results/claims")
    claims: tuple[str, ...] = CLAIMS
    seeds: tuple[int, ...] = (0, 1, 2)
    n_null: int = 50
    steps: int | None = None


@dataclass(frozen=True)
class _Case:
    """One model to train, and where its topography is measured."""

    claim: str
    label: str
    recipe: Recipe
    layers: tuple[str, ...]


def run(config: Config, tell: Callable[[str], None] = print) -> Path:
    """Train and measure what is not there yet; return the table of means over seeds."""
    for claim in config.claims:
        require_choice("claim", claim, CLAIMS)
        if claim == "toy":
            _run_toy(config, tell)
        else:
            _run_recipes(config, claim, tell)
    return summarise(config.out)


def summarise(out: Path) -> Path:
    """Write ``claims.csv`` (a row for each run and layer) and ``claims_summary.csv`` (means over layers, then over seeds)."""
    rows = [row for path in sorted((out / "rows").glob("*.json")) for row in json.loads(path.read_text())]
    table = pd.DataFrame(rows)
    table.to_csv(out / "claims.csv", index=False)
    numbers = ["t_g", "null_sd", "untrained_t_g", "loss", "accuracy"]
    keys = ["claim", "model", "stream"]
    table["order"] = table["claim"].map(CLAIMS.index) * 1000 + [
        float(model.removeprefix("tau ")) if model.startswith("tau ") else 0.0 for model in table["model"]
    ]
    table = table.sort_values("order", kind="stable")
    runs = table.groupby([*keys, "seed"], sort=False)[numbers].mean()  # layers of a stream count as one
    grouped = runs.groupby(keys, sort=False)
    summary = grouped.agg(["mean", "std"])
    summary.columns = [f"{name}_{what}" for name, what in summary.columns]
    summary.insert(0, "n_seeds", grouped.size())
    target = out / "claims_summary.csv"
    summary.reset_index().to_csv(target, index=False)
    return target


def _cases(claim: str) -> Iterator[_Case]:
    if claim == "variants":
        layers = tuple(f"blocks.0.attention.{stream}" for stream in STREAMS)
        for name in VARIANTS:
            yield _Case(claim, name, find_recipe("topoformer-imdb").variant(name), layers)
    elif claim == "imdb-tau":
        layers = tuple(f"blocks.0.attention.{stream}" for stream in STREAMS)
        control = find_recipe("topoformer-imdb").variant("control")
        penalised = replace(control, penalties=(Penalty("topoloss", layers, factor=(3.0, 3.0)),))
        for tau in TAUS:
            yield _Case(claim, f"tau {tau:g}", penalised.with_strength(tau), layers)
    elif claim in ("lm-tau", "topolm"):
        recipe = find_recipe("toponet-nanogpt" if claim == "lm-tau" else "topolm")
        parts = ("mlp.c_fc",) if claim == "lm-tau" else ("attention", "mlp")
        layers = tuple(f"blocks.{i}.{part}" for i in range(recipe.model["n_layers"]) for part in parts)
        for tau in TAUS if claim == "lm-tau" else (0.0, 2.5):
            yield _Case(claim, f"tau {tau:g}", recipe.with_strength(tau), layers)
    elif claim == "images-tau":
        recipe = find_recipe("toponet-resnet18")
        layers = tuple(f"layer{stage}.{block}.conv{i}" for stage in (3, 4) for block in (0, 1) for i in (1, 2))
        for tau in TAUS:
            yield _Case(claim, f"tau {tau:g}", recipe.with_strength(tau), layers)
    elif claim == "bert":
        recipe = find_recipe("topoformer-bert")
        blocks = range(recipe.model["n_layers"])
        layers = tuple(f"blocks.{i}.attention.{stream}" for i in blocks for stream in STREAMS)
        for name in ("control", "both"):
            yield _Case(claim, name, recipe.variant(name), layers)


def _run_recipes(config: Config, claim: str, tell: Callable[[str], None]) -> None:
    data: Data | None = None
    stimuli: tb.StimulusSet | None = None
    for seed in config.seeds:
        for case in _cases(claim):
            target = config.out / "rows" / f"{claim}_{case.label.replace(' ', '')}_seed{seed}.json"
            if target.is_file():
                continue
            recipe = case.recipe.with_training(seed=seed)
            if config.steps is not None:
                recipe = recipe.with_training(steps=config.steps)
            data = data or read_data(recipe)
            folder = config.out / "runs" / f"{claim}_{case.label.replace(' ', '')}_seed{seed}"
            run_recipe(recipe, folder, data=data, device="auto")
            stimuli = stimuli or _stimuli(recipe, data)
            log = load_log(folder).data
            scores = {
                "loss": float(log["test_loss"] if "test_loss" in log else log["held_out_loss"].values[-1]),
                "accuracy": float(
                    log["test_accuracy"] if "test_accuracy" in log else log["held_out_accuracy"].values[-1]
                ),
            }
            trained = load_directory(folder)
            untrained = load_directory(folder, weights=f"untrained:{seed}")
            rows = _measured(trained, untrained, stimuli, case.layers, config.n_null)
            _write(target, [{"claim": claim, "model": case.label, "seed": seed, **scores, **row} for row in rows])
            tell(f"{claim}, {case.label}, seed {seed}: accuracy {scores['accuracy']:.3f}, " + _line(rows))


def _measured(
    trained: tb.Model, untrained: tb.Model, stimuli: tb.StimulusSet, layers: tuple[str, ...], n_null: int
) -> list[dict[str, Any]]:
    """Return t_g of every layer beside its layout null and its untrained value."""
    found = [
        tb.topography(
            tb.extract(model, stimuli, layers=list(layers), cache=False), measures=["generic"], n_null=count
        ).summary()
        for model, count in ((trained, n_null), (untrained, 2))
    ]
    before = found[1].set_index("layer")["value"]
    return [
        {
            "layer": row.layer,
            "stream": row.layer.rsplit(".", 1)[-1] if row.layer.startswith("blocks") else "convolutions",
            "t_g": row.value,
            "null_mean": row.null_mean,
            "null_sd": row.null_sd,
            "p": row.p,
            "untrained_t_g": float(before[row.layer]),
            "n_stimuli": len(stimuli),
        }
        for row in found[0].itertuples()
    ]


def _stimuli(recipe: Recipe, data: Data) -> tb.StimulusSet:
    """Return stimuli the models were not trained on."""
    if recipe.objective in ("images", "sentences"):
        return contrast_stimuli(recipe, data.tokenizer)[0]
    return tb.load_stimuli("tuckute2024")


# The toy: sentences of a topic and of polar words; only the on-topic words decide. Simulated.

TOY = {"n_words": 400, "length": 16, "n_topics": 8, "n_training": 20_000, "n_test": 2000, "n_stimuli": 1000}


def toy_sentences(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return simulated sentences (sentence, token) and their labels.

    Each word has one of 8 topics and a polarity drawn from (-1, 0, 0, 1), fixed by a seed of its own; a sentence has a
    topic, every word comes from it with probability 0.5; the label says whether the polarities of on-topic words add up to
    more than 0.
    """
    words = np.random.default_rng(12345)
    topic_of = words.integers(0, TOY["n_topics"], TOY["n_words"])
    polarity = words.choice([-1, 0, 0, 1], TOY["n_words"])
    draw = np.random.default_rng(seed)
    topics = draw.integers(0, TOY["n_topics"], n)
    ids = draw.integers(0, TOY["n_words"], (n, TOY["length"]))
    on_topic = draw.random(ids.shape) < 0.5
    for topic in range(TOY["n_topics"]):
        own = np.flatnonzero(topic_of == topic)
        chosen = on_topic & (topics == topic)[:, None]
        ids[chosen] = own[draw.integers(0, len(own), int(chosen.sum()))]
    right = np.where(topic_of[ids] == topics[:, None], polarity[ids], 0).sum(axis=1)
    return ids, (right > 0).astype(int)


def _run_toy(config: Config, tell: Callable[[str], None]) -> None:
    import torch

    parts = [toy_sentences(n, seed) for seed, n in enumerate((TOY["n_training"], TOY["n_test"], TOY["n_stimuli"]))]
    tables = [
        (torch.from_numpy(ids.astype(np.int32)) + len(_SPECIAL), torch.full((len(ids),), TOY["length"]))
        for ids, _ in parts
    ]
    labels = [label for _, label in parts]
    objective = SentenceClassification(
        tables[0], labels[0], tables[1], labels[1], {"name": "simulated topics", "simulated": True}
    )
    texts = [" ".join(f"w{word}" for word in row) for row in parts[2][0]]
    stimuli = tb.StimulusSet(texts, name="simulated-topics", provenance={"simulated": True})
    tokenizer = _toy_tokenizer()
    layers = tuple(f"blocks.0.attention.{stream}" for stream in STREAMS)
    for seed in config.seeds:
        for name, fraction in (*((name, None) for name in VARIANTS), ("querying .3", 0.3)):
            target = config.out / "rows" / f"toy_{name.replace(' ', '')}_seed{seed}.json"
            if target.is_file():
                continue
            shape: TopoformerConfig = variant(
                name.split()[0],
                vocab_size=len(tokenizer),
                width=100,
                ffn_width=400,
                max_length=TOY["length"],
                dropout=0.0,
            )
            shape = shape if fraction is None else replace(shape, querying=fraction)
            settings = TrainingConfig(
                steps=config.steps or 900, batch_size=64, learning_rate=1e-3, schedule="constant", warm_up=0.0, clip=0.1,
                evaluate_every=10_000, seed=seed,
            )  # fmt: skip
            modules = [build("topoformer-classifier", shape, seed=seed) for _ in range(2)]
            log = train(modules[0], objective, settings, run=Run(f"toy {name}")).data
            models = [wrap_topoformer_classifier(f"toy {name}", module.eval(), tokenizer) for module in modules]
            scores = {
                "loss": float(log["held_out_loss"].values[-1]), "accuracy": float(log["held_out_accuracy"].values[-1]),
                "simulated": True,
            }  # fmt: skip
            rows = _measured(models[0], models[1], stimuli, layers, config.n_null)
            _write(target, [{"claim": "toy", "model": name, "seed": seed, **scores, **row} for row in rows])
            tell(f"toy (simulated), {name}, seed {seed}: accuracy {scores['accuracy']:.3f}, " + _line(rows))


_SPECIAL = ("[PAD]", "[UNK]", "[MASK]")


def _toy_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    from topobrain.models.directories import wrap_tokenizer

    words = [*_SPECIAL, *(f"w{i}" for i in range(TOY["n_words"]))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return wrap_tokenizer(tokenizer)


def _write(target: Path, rows: list[dict[str, Any]]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    part.write_text(json.dumps(rows, indent=1))
    part.replace(target)


def _line(rows: list[Mapping[str, Any]]) -> str:
    return "t_g " + ", ".join(
        f"{row['layer'].split('.', 2)[-1]} {row['t_g']:.2f} ({row['untrained_t_g']:.2f})" for row in rows
    )


def draw(out: Path) -> Path:
    """Draw the figure of what is there."""
    drawing = importlib.import_module("figures.fig7_topography_claims").draw(out)  # figures lie above analyses
    return Path(importlib.import_module("figures.style").save(drawing, out / "figures", "fig7_topography_claims"))


if __name__ == "__main__":
    import tyro

    chosen = tyro.cli(Config)
    table = run(chosen)
    print(pd.read_csv(table).to_string(index=False))
    print(f"table: {table.resolve()}\nfigure: {draw(chosen.out).resolve()}")
