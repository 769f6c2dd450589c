"""Map how far back the units of models listen, and ask which published findings on integration windows hold.

Over runs of natural words: influence curves, the window fitted to each unit, its width. Over sentences of equal length:
whether windows stop at sentence ends (yoking). For a small pretrained model and for topographic models trained here, each
beside its twin and its untrained self. Windows are measured in the residual stream behind every block, where depth is
counted, and on the sheets that training laid out, where maps can be patchy: the order of units in the stream is arbitrary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

import topobrain as tb
from analyses.encode_language_network import Config as Training
from analyses.encode_language_network import Member, members
from analyses.integration_claims import BLOCK, Study, ambiguity, claims, tail
from analyses.localize_language import file_label
from analyses.model_families import Tell, draw, main
from analyses.train_topographic_pair import trained_layers
from topobrain._checks import InputError
from topobrain.data.word_sequences import load_sentence_sequences, load_word_runs, tagged_words
from topobrain.integration.integrating import SwapRule
from topobrain.integration.result import MAPS, Integration
from topobrain.integration.swaps import single_token_words
from topobrain.models.text_encoder import TextEncoder
from topobrain.selectivity.result import SPATIAL
from topobrain.stats.integration_windows import Normalise

FIGURE = "fig16_integration_windows"
EMBEDDINGS = "embeddings"
MOST_TRIES = 8
"""Times as many sequences are drawn, at the most, where some are too long for a model."""


# yoking_swap, yoking_normalise: first words are of other kinds than the rest, so swaps there are of another size, and under
# the published formula even an embedding has a yoking. Swaps of equal embedding distance ("embedding", "measured": the
# published way) avoid that if every word has one: with a vocabulary of 512 tokens more than a quarter have none. Dividing by
# each swap's own size is exact for any swap and every vocabulary.
#
# single_token: published is every word one token. Here 62 and 619 words of Brown are one (vocabularies of 512 and 2,048
# tokens), and none and ten of its sentences of twelve words consist of them. So words of any length are read, the mean over
# their tokens counts, and swaps have as many. First words are shorter than others, which has an effect on yoking: see
# docs/integration.md. Sentences of six such words do exist (106 for 2,048 tokens).


@dataclass(frozen=True)
class Config:
    """Which models, which sequences, and how windows are measured.

    Parameters
    ----------
    data
        ``"brown"``, or ``"template"`` for sequences of the template language (simulated; no file is needed).
    pretrained
        Models by name, each beside its untrained self.
    recipes
        Topographic causal models to train here (as in `topobrain train`), each beside its twin and its untrained self.
    size
        Size of the recipes' models.
    steps
        Training steps of the recipes (default: each recipe's own).
    models_from
        Folder of the trained models (default: ``out``); the one of `encode_language_network` holds them already.
    n_runs
        Runs of words.
    run_words
        Words of each run.
    n_sequences
        Sequences of sentences of equal length.
    n_sentences
        Sentences of each sequence.
    sentence_words
        Words of each sentence.
    max_lag
        Longest lag, in words.
    swap
        How words are swapped in runs of words (see `topobrain.integrate`).
    normalise
        What a change in runs of words is divided by (see `topobrain.integrate`).
    yoking_swap
        How words are swapped in sequences of sentences.
    yoking_normalise
        What a change in sequences of sentences is divided by.
    single_token
        Only sentences of words that are one token for the model.
    out
        Folder of results, tables and the figure.
    n_bootstrap
        Draws of sequences behind standard errors.
    n_null
        Draws of units in other places behind every map.
    seed
        Of training, sequences, swaps, bootstrap and null.
    device
        ``"auto"`` or a torch device.
    """

    data: Literal["brown", "template"] = "brown"
    pretrained: tuple[str, ...] = ("stories260k",)
    recipes: tuple[str, ...] = ("toponet-nanogpt", "topolm")
    size: str = "tiny"
    steps: int | None = None
    models_from: Path | None = None
    n_runs: int = 114
    run_words: int = 40
    n_sequences: int = 250
    n_sentences: int = 5
    sentence_words: int = 12
    max_lag: int = 20
    swap: SwapRule = "same-tag"
    normalise: Normalise = "measured"
    yoking_swap: SwapRule = "same-tag"
    yoking_normalise: Normalise = "swapped"
    single_token: bool = False
    out: Path = Path("results/integration")
    n_bootstrap: int = 100
    n_null: int = 1000
    seed: int = 0
    device: str = "auto"


def run(config: Config, tell: Tell = print) -> Path:
    """Train what is not there yet, measure every window, write files and tables, draw; return the picture."""
    config.out.mkdir(parents=True, exist_ok=True)
    home = config.models_from or config.out
    training = Training(
        pretrained=config.pretrained, recipes=config.recipes, size=config.size, steps=config.steps, out=home,
        seed=config.seed, device=config.device,
    )  # fmt: skip
    studies: list[Study] = []
    shown: list[dict[str, str]] = []
    for member in members(training, tell):
        if member.role == "model":
            place = home / member.model.name
            laid_out = trained_layers(place, member.model) if place.is_dir() else ()
            studies.append(Study(member.family, laid_out))
        study = studies[-1]
        layers = layers_of(member.model, study.laid_out)
        tell(f"{member.model.name}: windows over {config.n_runs} runs of words, {len(layers)} layers")
        study.runs[member.role] = windows_over_runs(config, member.model, layers)
        tell(f"{member.model.name}: yoking over {config.n_sequences} sequences of sentences")
        study.sentences[member.role] = windows_over_sentences(config, member.model, layers)
        write_windows(config.out, member, study)
        shown.append(_row_of(member, study))
    if not studies:
        raise InputError("there is no model to measure: name one in pretrained or recipes")
    pd.DataFrame(shown).to_csv(config.out / "models.csv", index=False)
    layers_table(studies).to_csv(config.out / "layers.csv", index=False)
    maps_table(studies).to_csv(config.out / "maps.csv", index=False)
    found = claims(studies)
    found.to_csv(config.out / "claims.csv", index=False)
    tell(f"claims: {', '.join(f'{n} {verdict}' for verdict, n in found['verdict'].value_counts().items())}")
    return draw(config.out, FIGURE)


def layers_of(model: tb.TorchModel, laid_out: Sequence[str]) -> list[str]:
    """Return the layers measured, in order: embeddings, the stream behind every block, and what training laid out."""
    found = [one for one in model.sheets if one == EMBEDDINGS or BLOCK.fullmatch(one) or one in laid_out]
    return found or list(model.sheets)


def windows_over_runs(config: Config, model: tb.TorchModel, layers: Sequence[str]) -> Integration:
    """Return windows over runs of natural words, which begin and end anywhere in a sentence."""

    def load(n: int) -> tb.StimulusSet:
        return load_word_runs(n=n, n_words=config.run_words, source=config.data, seed=config.seed)

    return _measured(config, model, layers, that_fit(model, load, config.n_runs), config.swap, config.normalise)


def windows_over_sentences(config: Config, model: tb.TorchModel, layers: Sequence[str]) -> Integration:
    """Return windows over sequences of sentences of equal length."""

    def load(n: int) -> tb.StimulusSet:
        return load_sentence_sequences(
            n=n, n_sentences=config.n_sentences, sentence_words=config.sentence_words, source=config.data,
            allowed=allowed_words(config, model), seed=config.seed,
        )  # fmt: skip

    sequences = that_fit(model, load, config.n_sequences)
    return _measured(config, model, layers, sequences, config.yoking_swap, config.yoking_normalise)


def _measured(
    config: Config,
    model: tb.TorchModel,
    layers: Sequence[str],
    sequences: tb.StimulusSet,
    swap: SwapRule,
    normalise: Normalise,
) -> Integration:
    return tb.integrate(
        model, sequences, swap=swap, normalise=normalise, layers=list(layers), max_lag=config.max_lag,
        n_bootstrap=config.n_bootstrap, n_null=config.n_null, seed=config.seed,
    )  # fmt: skip


def allowed_words(config: Config, model: tb.TorchModel) -> list[str] | None:
    """Return the words that sentences may have: all, or those that are one token."""
    if not config.single_token:
        return None
    words = sorted({word for one in tagged_words(config.data).values() for word in one})
    return [word for word, single in zip(words, single_token_words(model, words), strict=True) if single]


def that_fit(model: tb.TorchModel, load: Callable[[int], tb.StimulusSet], n: int) -> tb.StimulusSet:
    """Return n sequences that are short enough for the model, in the order they are drawn.

    With a swap of as many tokens, a sequence is as long as before.
    """
    encode = model.encode
    most = encode.max_length if isinstance(encode, TextEncoder) else None
    for times in (1, MOST_TRIES):
        sequences = load(times * n)
        if most is None or not isinstance(encode, TextEncoder):
            return sequences
        tokens = encode.tokenizer(list(sequences.texts), padding=False, truncation=False, verbose=False)["input_ids"]
        fit = [place for place, ids in enumerate(tokens) if len(ids) <= most]
        if len(fit) == len(sequences) == n:
            return sequences
        if len(fit) >= n:
            return sequences.take(fit[:n])
    raise InputError(
        f"{len(fit)} of {len(sequences)} sequences have at most the {most} tokens that {model.name!r} reads, {n} are needed: "
        "ask for fewer words in a sequence"
    )


def write_windows(out: Path, member: Member, study: Study) -> None:
    """Write ``integration_MODEL.nc`` (runs of words) and ``yoking_MODEL.nc`` (sentences)."""
    label = file_label(member.model.name)
    study.runs[member.role].save(out / f"integration_{label}.nc")
    study.sentences[member.role].save(out / f"yoking_{label}.nc")


def _row_of(member: Member, study: Study) -> dict[str, str]:
    trained = "topographic" if study.laid_out else "pretrained"
    return {
        "model": member.model.name,
        "file": file_label(member.model.name),
        "role": trained if member.role == "model" else member.role,
        "family": member.family,
    }


def layers_table(studies: Sequence[Study]) -> pd.DataFrame:
    """Return the summary of every layer of every model, over runs and over sentences."""
    rows = []
    for study, role, sequences, one in _every(studies):
        for row in one.summary().to_dict("records"):
            layer = str(row.pop("layer"))
            ends = {name: one.layer_interval(layer, name) for name in MAPS}
            intervals = {f"{name}_95_{end}": ends[name][n] for name in MAPS for n, end in enumerate(("low", "high"))}
            rows.append({"family": study.name, "role": role, "sequences": sequences, "layer": layer,
                         "laid_out": layer in study.laid_out, **row, **tail(one, layer), **intervals,
                         **(ambiguity(one, layer) if one.causal else {})})  # fmt: skip
    return pd.DataFrame(rows)


def maps_table(studies: Sequence[Study]) -> pd.DataFrame:
    """Return Moran's I of every map beside its layout null; yoking from sentences, everything else from runs."""
    rows = []
    for study, role, sequences, one in _every(studies):
        for layer in one.layers:
            for name in MAPS:
                if (name == "yoking") != (sequences == "sentences"):
                    continue
                known = np.isfinite(one.values(layer, name)).mean()  # type: ignore[arg-type]
                said = one.spatial(layer, name)
                rows.append({"family": study.name, "role": role, "layer": layer, "laid_out": layer in study.laid_out,
                             "map": name, "share_known": known, **{key: said[key] for key in SPATIAL}})  # fmt: skip
    return pd.DataFrame(rows)


def _every(studies: Sequence[Study]) -> Iterator[tuple[Study, str, str, Any]]:
    for study in studies:
        for role, one in study.runs.items():
            yield study, role, "runs", one
            yield study, role, "sentences", study.sentences[role]


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config), run)
