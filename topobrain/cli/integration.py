"""The verb on how far back units listen: integrate."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from topobrain._checks import InputError
from topobrain.cli.alignment import finish_all
from topobrain.cli.output import ExtractionProgress, finish
from topobrain.cli.selectivity import told_once
from topobrain.cli.verbs import ModelRun

if TYPE_CHECKING:
    import topobrain

HIDDEN = (
    "r2",
    "centre",
    "share_exponential",
    "share_power",
    "share_mixture",
    "null_mean_c",
    "null_sd_c",
    "z_c",
    "corrected_c",
)
"""Columns of the summary that are only in the JSON."""

MANY_FALLBACKS = 0.05
"""Share of swaps that the rule had no word for, above which that is said."""

HALF = 0.5


@dataclass(frozen=True, kw_only=True)
class Integrate(ModelRun):
    """Find how far back each unit listens, by swapping words: window, width, yoking to sentence starts, maps beside nulls."""

    model: str
    """A registered name (topobrain models), hf:<id or directory>, a model directory, or module:factory."""
    data: str = "word-runs"
    """word-runs, sentence-sequences (both from the Brown corpus in the store; simulated-word-runs and
    simulated-sentence-sequences need nothing), or a file of your own: a .txt with a sequence a line, all of equally many
    words, or a table with the columns sentence and tags."""
    swap: Literal["same-tag", "embedding", "probable", "improbable", "random"] = "same-tag"
    """Rule that chooses the words put in. probable and improbable need --masked-model; texts without tags take random or
    embedding."""
    masked_model: str | None = None
    """Masked language model of the rules probable and improbable: a name, or a directory."""
    candidates: str | None = None
    """Words that may be swapped in: brown, template, or a file with words (default: all words of the corpus the sequences
    are from; of a file of your own, its own words)."""
    max_lag: int | None = None
    """Longest lag, in words (default 20; for a model that reads ahead, what fits on both sides of a word)."""
    n_sequences: int | None = None
    """Sequences (default: 114 runs of words, 250 of sentences, all of a file)."""
    n_words: int | None = None
    """Words of a run (default 40), or of a sentence (default 12)."""
    words: Literal["all", "single-token"] = "all"
    """single-token: only sequences whose words are one known token each of the model's tokenizer (not of a file)."""
    unknown_words: Literal["raise", "keep"] = "raise"
    """What to do with words that the tokenizer does not know: say so and stop, or keep them as its unknown token."""
    untrained: bool = False
    """Measure the same architecture with random weights as well (a second result)."""
    normalise: Literal["measured", "swapped"] = "measured"
    """Divide by the influence of a swap of the measured word itself, or of the swapped word."""
    n_bootstrap: int = 100
    """Draws of sequences behind standard errors; 0 for none, and then nothing is masked for noise."""
    n_null: int = 1000
    """Draws of the layout null of each map."""
    max_se: float = 0.005
    """Standard error of a curve above which its window counts as unknown."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16 is faster and less exact; what rounding changes is measured and taken out."""
    max_memory: str | None = None
    """Bound on the sums of influence, as in "2 GiB" (default 256 MiB)."""
    seed: int = 0
    """Seed of everything drawn at random."""

    def run(self) -> int:
        """Integrate and save."""
        import topobrain as tb

        if self.untrained and self.weights is not None:
            raise InputError(f"--weights {self.weights} is untrained already: leave --untrained out")
        if self.swap in ("probable", "improbable") and self.masked_model is None:
            raise InputError(f"--swap {self.swap} needs a masked language model to say which words are: --masked-model")
        options = self.sequence_options()
        sequences = tb.load_stimuli(self.data, **options)
        self.require_tags(sequences)
        if "sentence_words" in sequences.table.columns and sequences.column("sentence_words").any():
            self.tell_of_sizes()
        models = [self.loaded(self.model)]
        if self.words == "single-token":
            sequences = tb.load_stimuli(self.data, **options, allowed=self.single_tokens(models[0]))
        if self.untrained:
            models.append(tb.load_model(self.model, weights="untrained", device=self.device))
        usual = {"swap": "same-tag", "normalise": "measured", "words": "all"}
        label = (Path(self.data).stem, *(getattr(self, name) for name in usual if getattr(self, name) != usual[name]))
        paths = [self.target("integration", model.name, *label) for model in models]
        found = {}
        for model, path in zip(models, paths, strict=True):
            with told_once():
                found[path] = self.integrated(model, sequences)
            found[path].save(path)  # kept, whatever the second model does
        if len(found) == 1:
            return finish(found[paths[0]], paths[0], self.as_json, hide=HIDDEN)
        return finish_all(dict(found), self.as_json, hide=HIDDEN)

    def integrated(self, model: topobrain.Model, sequences: topobrain.StimulusSet) -> topobrain.Integration:
        """Return the windows of one model."""
        from topobrain.integration.integrating import FEWEST_LAGS, integrate
        from topobrain.integration.swaps import make_swaps
        from topobrain.stats.integration_windows import SKIPPED

        try:
            swaps = make_swaps(
                model, sequences, self.swap, masked_model=self.masked_model, candidates=self.given_candidates(),
                unknown=self.unknown_words, seed=self.seed,
            )  # fmt: skip
        except InputError as error:
            if "candidates" not in str(error):
                raise
            raise InputError(f"{error} On the command line: --candidates brown, or a file with words") from None
        share = float(swaps.fallback.mean())
        if share > MANY_FALLBACKS:
            _note(f"{share:.0%} of the swaps are fallbacks: the rule {self.swap} had no word there")
        max_lag = 20 if self.max_lag is None else self.max_lag

        def found(max_lag: int) -> topobrain.Integration:
            with ExtractionProgress(f"swapping words for {model.name}") as told:
                return integrate(
                    model, sequences, swap=swaps, max_lag=max_lag, layers=self.chosen(),
                    normalise=self.normalise, n_bootstrap=self.n_bootstrap, n_null=self.n_null, max_se=self.max_se,
                    precision=self.precision, batch_tokens=self.batch_tokens, max_memory=self.max_memory, seed=self.seed,
                    progress=told,
                )  # fmt: skip

        try:
            result = found(max_lag)
        except InputError as error:
            fits = (swaps.words.shape[1] - SKIPPED - 1) // 2
            if "reads ahead" not in str(error) or self.max_lag is not None or fits < FEWEST_LAGS:
                raise
            result = found(fits)
        self.tell_what_is_known(result)
        return result

    def tell_what_is_known(self, result: topobrain.Integration) -> None:
        """Say why a table may be empty."""
        if not result.causal:
            _note(
                f"{result.provenance['model']['name']} reads ahead: no window is fitted, curves have lags up to "
                f"{int(result.lags[-1])} words on both sides (tb.plot.integration_curves)"
            )
        elif self.n_bootstrap and not result.data["c_known"].values.mean() >= HALF:
            _note(
                f"the window of more than half of the units is not known: their curves have a standard error above "
                f"{self.max_se:g}, or no power law to weigh; more sequences help (--n-sequences), or --max-se"
            )

    def given_candidates(self) -> list[str] | None:
        """Return the words that may be swapped in, None for the usual ones."""
        from topobrain.data.word_sequences import SOURCES, tagged_words

        if self.candidates is None:
            return None
        if self.candidates in SOURCES:
            return sorted({word for words in tagged_words(self.candidates).values() for word in words})
        path = Path(self.candidates)
        if not path.is_file():
            raise InputError(f"--candidates is {' or '.join(SOURCES)} or a file with words, got {self.candidates!r}")
        return sorted(set(path.read_text(encoding="utf-8").split()))

    def sequence_options(self) -> dict[str, Any]:
        """Return the options of the sequences' loader."""
        named = self.data.endswith(("word-runs", "sentence-sequences"))
        if not named:
            given = {"--n-sequences": self.n_sequences, "--n-words": self.n_words}
            said = [name for name, value in given.items() if value is not None]
            said += ["--words"] * (self.words != "all")
            if said:
                raise InputError(f"{' and '.join(said)}: {self.data} has its own sequences; leave it out")
            return {}
        words = "sentence_words" if self.data.endswith("sentence-sequences") else "n_words"
        options = {"n": self.n_sequences, words: self.n_words, "seed": self.seed}
        return {name: value for name, value in options.items() if value is not None}

    def require_tags(self, sequences: topobrain.StimulusSet) -> None:
        """Tell before a model runs that a rule needs what these sequences do not have."""
        if self.swap == "same-tag" and "tags" not in sequences.table.columns:
            raise InputError(
                f"--swap same-tag needs the word tags of the sequences, and {self.data} has none: give a table with a column "
                "tags (one blank-separated tag a word), or --swap random or embedding"
            )

    def tell_of_sizes(self) -> None:
        """Say that yoking compares swaps at different words of a sentence, which differ in size."""
        if self.normalise != "swapped":
            _note(
                "first words of sentences may be changed more by their swaps than others, which looks like yoking in every "
                "layer; --normalise swapped takes the size of swaps out"
            )

    def single_tokens(self, model: topobrain.Model) -> list[str]:
        """Return the words of the sequences' source that are one known token of a model."""
        from topobrain.data.word_sequences import tagged_words
        from topobrain.integration.swaps import single_token_words

        source = "template" if self.data.startswith("simulated") else "brown"
        known = sorted({word for words in tagged_words(source).values() for word in words})
        return [word for word, single in zip(known, single_token_words(model, known), strict=True) if single]


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
