"""The study of story listening: figures of the data set's notes, and what must fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import topobrain as tb
from analyses import encode_alice
from analyses.encode_alice import BASELINE, MEAN, NOTES, RATE, RIGHT, WRONG, Config, Story
from topobrain.data.alice import START_S, load_words


def story_without_model() -> Story:
    heard = load_words("apart")
    corpus = tb.load_text("brown")
    counted = encode_alice._counted(heard, corpus)
    return Story(heard, load_words("joined"), *counted, counted, {}, {})


def scores(story: Story, resolution: str, start_s: float = START_S) -> tb.Encoding:
    config = Config(resolution=resolution, n_bootstrap=0, n_permutations=0)
    mean = encode_alice.mean_of_listeners(tb.load_responses("alice", resolution=resolution))
    return encode_alice.encode(config, NOTES, story.families(story.at_volumes(config, mean, start_s))[NOTES], mean)


@pytest.mark.slow
@pytest.mark.parametrize(("resolution", "low", "high"), [("6mm", 0.36, 0.51), ("10mm", 0.28, 0.45)])
def test_figures_of_the_notes_come_out(real_data: Path, resolution: str, low: float, high: float) -> None:
    r = scores(story_without_model(), resolution).data["region_r"].values[0]
    assert r.min() == pytest.approx(low, abs=0.01)
    assert r.max() == pytest.approx(high, abs=0.01)
    wrong = scores(story_without_model(), resolution, start_s=0.0).data["region_r"].values[0]
    assert abs(wrong.mean()) < 0.1
    assert wrong.max() < r.min()


def test_the_mean_of_listeners_has_the_ceiling_of_the_notes(real_data: Path) -> None:
    mean = encode_alice.mean_of_listeners(tb.load_responses("alice"))
    assert mean.values.shape == (362, 6)
    assert mean.subjects == ["mean of 27"]
    assert mean.design == "timeseries"
    ceiling = mean.data["ceiling"].values
    assert (ceiling.min(), ceiling.max()) == (pytest.approx(0.80, abs=0.01), pytest.approx(0.94, abs=0.01))


class QuickModel:
    """A stand-in for the language model: surprisal and layers that follow the words."""

    name = "quick"


@pytest.mark.slow
def test_everything_is_written(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reads(model: object, words: object) -> np.ndarray:
        return np.random.default_rng(0).gamma(2.0, size=len(words))  # type: ignore[arg-type]

    def extracts(model: object, words: tb.StimulusSet) -> tb.Activations:
        values = np.random.default_rng(1).normal(size=(len(words), 3))
        return tb.Activations.from_arrays({"layer": values}, words)

    monkeypatch.setattr(encode_alice, "word_surprisal", reads)
    monkeypatch.setattr(encode_alice, "extract_words", extracts)
    monkeypatch.setattr(encode_alice.tb, "load_model", lambda name, weights=None: QuickModel())
    config = Config(
        model="quick", layer="layer", alphas=(10.0, 1000.0), delays=(2, 3), n_folds=3, n_bootstrap=20, n_permutations=0,
        out=tmp_path, corpus="wikitext2",
    )  # fmt: skip
    told: list[str] = []
    brain = tb.load_responses("alice")
    path = encode_alice.run(config, told.append, brain.where(subject=brain.subjects[:3]))
    assert path.is_file()
    table = pd.read_csv(tmp_path / "encode_alice_6mm.csv")
    assert set(table["onset"]) == {RIGHT, WRONG}
    assert set(table["family"]) == {"words", NOTES, "quick", "quick untrained"}
    mine = table[(table["target"] == MEAN) & (table["onset"] == RIGHT) & (table["family"] == "words")]
    assert set(mine["features"]) == {
        RATE, BASELINE, f"{BASELINE} + surprisal (quick)", f"{BASELINE} + surprisal (quick untrained)",
    }  # fmt: skip
    assert (mine.groupby("features").size() == 6).all()
    gain = table[table["features"] == f"{BASELINE} + layer"].iloc[0]
    alike = (table[["target", "onset", "family", "roi"]] == gain[["target", "onset", "family", "roi"]]).all(axis=1)
    base = table[alike & (table["features"] == BASELINE)].iloc[0]
    assert gain["gain"] == pytest.approx(gain["r"] - base["r"], abs=1e-9)
    listeners = table[(table["target"] != MEAN) & table["features"].str.startswith(f"{BASELINE} + ")]
    assert listeners["gain_p"].between(0, 1).all()
    parts = pd.read_csv(tmp_path / "partition_6mm.csv")
    assert set(parts["component"]) >= {"baseline", "surprisal", "model", "total"}
    saved = sorted(p.name for p in tmp_path.glob("*.nc"))
    assert len(saved) == 4 * 2 * 2 + 1
    assert tb.load_result(tmp_path / "words_right-onset_mean-of-listeners_6mm.nc").layers[0] == RATE
