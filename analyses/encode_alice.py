"""Predict what listeners' brains did during a story: word rate, length and frequency, then a language model on top.

Two targets, each in six regions: every listener by himself, and the mean over listeners, whose noise is far lower. The
figures in the data set's notes (.36 to .51 at 6 mm) are those of the mean. Beside every score stands what should fail: the same
features with the story begun at another time, and the same model untrained.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

import topobrain as tb
from analyses.model_families import draw, main
from topobrain.data.alice import START_S, load_words
from topobrain.data.surface_features import FEATURES, length_and_frequency
from topobrain.encoding.partition import Partition, partition_variance
from topobrain.stats.ceiling import noise_ceiling
from topobrain.stats.group_tests import SignFlip, sign_flip_test
from topobrain.stats.time_series import zscore_runs
from topobrain.time_series import words_to_volumes
from topobrain.word_surprisal import extract_words, word_surprisal

RATE, BASELINE = "word rate", "rate, length, frequency"
MEAN, EACH = "mean of listeners", "each listener"
RIGHT, WRONG = "right onset", "wrong onset"
GAIN = ("gain", "gain_low", "gain_high", "gain_p", "gain_p_max")
FIGURE = "fig13_alice"
NOTES = "words, as in the notes"
SUM: Literal["sum"] = "sum"
MEAN_OF_WORDS: Literal["mean"] = "mean"


@dataclass(frozen=True)
class Config:
    """What to predict, and from what.

    Parameters
    ----------
    resolution
        Radius of the regions.
    model
        Language model whose surprisal and layers are added, by name; its untrained self stands beside it.
    corpus
        Text whose word counts give the frequencies.
    delays
        Delays of every feature in volumes of 2 s.
    n_folds, gap
        Contiguous blocks, and volumes dropped around each.
    wrong_start_s
        Audio time at which a mistaken reader would put the first volume; it was at 20 s.
    alphas
        Penalties to choose from, inside the training volumes.
    fixed_alpha
        The one penalty, next to none, of a second fit of the baseline, which gives the figures of the data set's notes.
    layer
        Layer of the model whose variance is told apart from that of the baseline and of surprisal, with a penalty for each.
    out
        Folder of results and the table.
    n_bootstrap, n_permutations
        Of every score.
    seed
        Of bootstraps, permutations and the untrained model.
    """

    resolution: Literal["6mm", "10mm"] = "6mm"
    model: str = "stories260k"
    corpus: str = "brown"
    delays: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)
    n_folds: int = 6
    gap: int = 6
    wrong_start_s: float = 0.0
    alphas: tuple[float, ...] = tuple(float(a) for a in np.logspace(-1, 5, 13))
    fixed_alpha: float = 1.0
    layer: str = "layers.4"
    out: Path = Path("results/encode-alice")
    n_bootstrap: int = 1000
    n_permutations: int = 200
    seed: int = 0


def run(config: Config, tell: Callable[[str], None] = print, responses: tb.BrainResponses | None = None) -> Path:
    """Score everything; write results and two tables, draw; return the picture.

    Parameters
    ----------
    config
        What to do.
    tell
        Called with a line on each stage.
    responses
        Other responses to the story than all 27 listeners'.
    """
    responses = tb.load_responses("alice", resolution=config.resolution) if responses is None else responses
    targets = {MEAN: mean_of_listeners(responses), EACH: responses}
    story = Story.read(config, tell)
    rows = []
    for onset, start_s in ((RIGHT, START_S), (WRONG, config.wrong_start_s)):
        known = story.at_volumes(config, responses, start_s)
        for family, features in story.families(known).items():
            for target, brain in targets.items():
                tell(f"{family}, {onset}: {target}")
                scores = encode(config, family, features, brain)
                scores.save(config.out / f"{_slug(family)}_{_slug(onset)}_{_slug(target)}_{config.resolution}.nc")
                rows.append(table_of(scores).assign(family=family, onset=onset, target=target))
    tell("dividing the variance between baseline, surprisal and model")
    parts = unique_parts(config, story.at_volumes(config, responses, START_S), targets[MEAN])
    parts.save(config.out / f"partition_{config.resolution}.nc")
    parts.summary().to_csv(config.out / f"partition_{config.resolution}.csv", index=False)
    path = config.out / f"encode_alice_{config.resolution}.csv"
    order = ["target", "onset", "family", "features", "roi", "n_voxels", "ceiling", "r", "low", "high", "p", *GAIN]
    pd.concat(rows, ignore_index=True).reindex(columns=order).to_csv(path, index=False)
    return draw(config.out, FIGURE)


@dataclass(frozen=True)
class Story:
    """The words of the story and what is known of each.

    Attributes
    ----------
    heard, written
        The words as they were aligned (``do n't``), and as they are written (``don't``), which models read.
    length, frequency
        Letters and log10 frequency of each word heard.
    counted
        Length and log10 frequency as the data set's notes have them: ``'s`` has two characters, and is a word that the
        corpus never has by itself.
    surprisal
        Model name -> surprisal of each word written, in bits.
    layers
        Model name -> activations at each word written.
    """

    heard: tb.StimulusSet
    written: tb.StimulusSet
    length: np.ndarray
    frequency: np.ndarray
    counted: tuple[np.ndarray, np.ndarray]
    surprisal: dict[str, np.ndarray]
    layers: dict[str, tb.Activations]

    @classmethod
    def read(cls, config: Config, tell: Callable[[str], None]) -> Story:
        """Load the words and have the model, and its untrained self, read them."""
        heard, written = load_words("apart"), load_words("joined")
        corpus = tb.load_text(config.corpus)
        table = length_and_frequency(heard, corpus, corpus_name=config.corpus).values("features")
        length, frequency = (table[:, FEATURES.index(name)] for name in ("mean_word_length", "mean_log_frequency"))
        surprisal, layers = {}, {}
        for weights in (None, f"untrained:{config.seed}"):
            model = tb.load_model(config.model, weights=weights)
            tell(f"{model.name} reads {len(written)} words")
            bits = word_surprisal(model, written.texts)
            name = config.model if weights is None else f"{config.model} untrained"
            surprisal[name] = np.where(np.isnan(bits), np.nanmean(bits), bits)  # nothing comes before a first word
            layers[name] = extract_words(model, written)
        return cls(heard, written, length, frequency, _counted(heard, corpus), surprisal, layers)

    def at_volumes(self, config: Config, responses: tb.BrainResponses, start_s: float) -> dict[str, np.ndarray]:
        """Return everything known of the words, delayed (volume, feature), if the first volume was at ``start_s``."""
        heard = {"rate": np.ones(len(self.heard)), "frequency": self.frequency, "counted frequency": self.counted[1]}
        lengths = {"length": self.length, "counted length": self.counted[0]}
        written = {f"surprisal ({name})": bits for name, bits in self.surprisal.items()}
        for name, activations in self.layers.items():
            written |= {f"{name} {layer}": activations.values(layer) for layer in activations.layers}
        found: dict[str, np.ndarray] = {}
        for words, values, method in (
            (self.heard, heard, SUM), (self.heard, lengths, MEAN_OF_WORDS), (self.written, written, SUM),
        ):  # fmt: skip
            if values:
                columns = {name: array.reshape(len(words), -1) for name, array in values.items()}
                volumes = words_to_volumes(
                    tb.Activations.from_arrays(columns, words),
                    responses,
                    times=words.column("onset_s") - start_s + START_S,
                    method=method,
                    delays=config.delays,
                )
                found |= {name: volumes.values(name) for name in volumes.layers}
        return found

    def families(self, known: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
        """Return family -> feature set -> features, from what `at_volumes` gives."""
        baseline = _baseline(known)
        families = {"words": {RATE: known["rate"], BASELINE: baseline}, NOTES: {BASELINE: _baseline(known, "counted ")}}
        for name in self.surprisal:
            more = f"surprisal ({name})"
            families["words"][f"{BASELINE} + {more}"] = np.column_stack([baseline, known[more]])
        for name, activations in self.layers.items():
            families[name] = {BASELINE: baseline}
            for layer in activations.layers:
                values = known[f"{name} {layer}"]
                families[name] |= {layer: values, f"{BASELINE} + {layer}": np.column_stack([baseline, values])}
        return families


def _baseline(known: Mapping[str, np.ndarray], kind: str = "") -> np.ndarray:
    return np.column_stack([known["rate"], known[f"{kind}length"], known[f"{kind}frequency"]])


def mean_of_listeners(responses: tb.BrainResponses) -> tb.BrainResponses:
    """Return the mean time course of each region over listeners, z-scored first, with its noise ceiling."""
    regions = responses.rois
    stacked = np.stack([zscore_runs(responses.where(roi=roi).values).T for roi in regions], axis=2)
    fields = {k: v for k, v in responses.provenance.items() if k not in ("stimuli", "versions", "design")}
    return tb.BrainResponses.from_arrays(
        stacked.mean(axis=0),
        responses.stimuli,
        roi=regions,
        subject=f"mean of {len(stacked)}",
        ceiling=noise_ceiling(stacked),
        design="timeseries",
        provenance={**fields, "averaged": "over listeners, each z-scored; ceiling from the listeners as repeats"},
    )


def encode(config: Config, family: str, features: Mapping[str, np.ndarray], brain: tb.BrainResponses) -> tb.Encoding:
    """Encode by contiguous blocks with a gap."""
    source = {"model": {"name": family, "delays": list(config.delays), "wrong_start_s": config.wrong_start_s}}
    return tb.encode(
        tb.Activations.from_arrays(features, brain.stimuli, provenance=source),
        brain,
        alphas=[config.fixed_alpha] if family == NOTES else config.alphas,
        n_folds=config.n_folds,
        gap=config.gap,
        n_bootstrap=config.n_bootstrap,
        n_permutations=config.n_permutations,
        seed=config.seed,
    )


def table_of(scores: tb.Encoding) -> pd.DataFrame:
    """Return one row a feature set and region, with the gain over the baseline that the set contains.

    ``gain`` is the difference of r; its interval is over the bootstrap draws, which are the same stretches of the story for
    both sets. With several listeners, ``gain_p`` is that of a sign-flip test over them, and ``gain_p_max`` the same beside
    the largest of the regions.
    """
    table = scores.summary().rename(columns={"layer": "features"})
    base = scores.layers.index(BASELINE)
    found = []
    for i, name in enumerate(scores.layers):
        rows = [dict.fromkeys(GAIN, np.nan) for _ in scores.regions]
        if name.startswith(f"{BASELINE} + "):
            gain = scores.data["region_r"].values[i] - scores.data["region_r"].values[base]
            draws = scores.data["region_draws"].values[i] - scores.data["region_draws"].values[base]
            bounds = np.quantile(draws, [0.025, 0.975], axis=1) if draws.shape[1] else np.full((2, len(gain)), np.nan)
            test = _over_listeners(scores, i, base)
            for j, row in enumerate(rows):
                row |= {"gain": gain[j], "gain_low": bounds[0, j], "gain_high": bounds[1, j]}
                row |= {} if test is None else {"gain_p": test.p[j], "gain_p_max": test.p_max[j]}
        found += rows
    return pd.concat([table, pd.DataFrame(found)], axis=1)


def _over_listeners(scores: tb.Encoding, i: int, base: int) -> SignFlip | None:
    """Test the gain of one feature set over another in each region, listeners being the sample."""
    r = scores.data["r"].mean("fold").values
    subject, roi = scores.labels("subject"), scores.labels("roi")
    listeners = list(dict.fromkeys(subject.tolist()))
    if len(listeners) < 2:
        return None
    gains = np.full((len(listeners), len(scores.regions)), np.nan)
    for voxel in range(r.shape[1]):
        gains[listeners.index(subject[voxel]), scores.regions.index(roi[voxel])] = r[i, voxel] - r[base, voxel]
    return sign_flip_test(gains, seed=0)


def unique_parts(config: Config, known: Mapping[str, np.ndarray], responses: tb.BrainResponses) -> Partition:
    """Divide the variance explained between baseline, surprisal and a layer of the model, with a penalty for each."""
    bands = {
        "baseline": _baseline(known),
        "surprisal": known[f"surprisal ({config.model})"],
        "model": known[f"{config.model} {config.layer}"],
    }
    return partition_variance(
        {name: tb.Activations.from_arrays({name: values}, responses.stimuli) for name, values in bands.items()},
        responses,
        alphas=config.alphas,
        n_folds=config.n_folds,
        gap=config.gap,
        n_bootstrap=config.n_bootstrap,
        seed=config.seed,
    )


def _counted(words: tb.StimulusSet, corpus: list[str]) -> tuple[np.ndarray, np.ndarray]:
    counts = Counter(word for text in corpus for word in re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", text.lower()))
    seen = np.array([counts[word.lower()] + 1 for word in words.texts])
    return np.array([float(len(word)) for word in words.texts]), np.log10(seen / sum(counts.values()) * 1e6)


def _slug(text: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config), run)
