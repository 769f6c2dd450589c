"""The study of picture categories, run by run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import topobrain as tb
from analyses.encode_haxby import CATEGORY, SHUFFLED, Config, category_models, run, with_ceiling
from topobrain._checks import InputError

CATEGORIES = ["bottle", "cat", "chair", "face", "house", "scissors", "scrambledpix", "shoe"]


def blocks(n_runs: int = 8, gain: float = 1.0, seed: int = 0, n_voxels: int = 40) -> tb.BrainResponses:
    """Blocks whose voxels follow the category, with noise of standard deviation 1; each run in an order of its own."""
    rng = np.random.default_rng(seed)
    pattern = rng.normal(size=(len(CATEGORIES), n_voxels)) * gain
    rows, values = [], []
    for number in range(n_runs):
        for category in rng.permutation(CATEGORIES):
            label = f"run{number:02d}"
            rows.append({"stimulus": f"{label}-{category}", "run": number, "category": category, "group": label})
            values.append(pattern[CATEGORIES.index(category)] + rng.normal(size=n_voxels))
    stimuli = tb.StimulusSet([str(row["category"]) for row in rows], pd.DataFrame(rows))
    return tb.BrainResponses.from_arrays(np.array(values), stimuli)


@pytest.mark.slow
def test_planted_categories_are_found_and_shuffled_ones_are_not(tmp_path: Path) -> None:
    config = Config(out=tmp_path, n_bootstrap=50, n_permutations=19)
    table = pd.read_csv(run(config, lambda _: None, blocks())).set_index("model")
    # signal and noise have the same variance: a block correlates with its category's response at sqrt(1/2)
    assert table.loc[CATEGORY, "ceiling"] == pytest.approx(np.sqrt(0.5), abs=0.03)
    assert table.loc[CATEGORY, "r"] == pytest.approx(np.sqrt(0.5), abs=0.12)
    assert abs(table.loc[SHUFFLED, "r"]) < 0.12
    assert table.loc[CATEGORY, "low"] <= table.loc[CATEGORY, "r"] <= table.loc[CATEGORY, "high"]
    assert table.loc[CATEGORY, "low"] < table.loc[CATEGORY, "high"]
    result = tb.load_result(tmp_path / "encoding_haxby.nc")
    fold = result.data["test_fold"].values
    assert [len(set(fold[i : i + 8])) for i in range(0, 64, 8)] == [1] * 8  # a run is tested at once
    assert len(set(fold)) == result.data.sizes["fold"] == 8  # and alone
    assert table.loc[CATEGORY, "r"] < table.loc[CATEGORY, "r_in_most_reliable_quarter"] < 1
    assert table.loc[CATEGORY, "ceiling_there"] > table.loc[CATEGORY, "ceiling"]


@pytest.mark.slow
def test_noise_follows_no_category(tmp_path: Path) -> None:
    noise = blocks(gain=0.0, n_voxels=400)
    table = pd.read_csv(run(Config(out=tmp_path, n_permutations=19), lambda _: None, noise)).set_index("model")
    assert (table["r"].abs() < 0.05).all()
    assert (table["r_in_most_reliable_quarter"].abs() < 0.1).all()


def test_models_say_what_a_category_says() -> None:
    stimuli = blocks().stimuli
    features = category_models(stimuli, seed=0)
    one_hot = features.values(CATEGORY)
    np.testing.assert_array_equal(one_hot.sum(axis=1), 1)
    assert [CATEGORIES[i] for i in one_hot.argmax(axis=1)] == list(stimuli.column("category"))
    mixed = features.values(SHUFFLED)
    for start in range(0, 64, 8):  # shuffled within runs: every run still has each category once
        np.testing.assert_array_equal(mixed[start : start + 8].sum(axis=0), 1)
    assert (mixed != one_hot).any()
    assert features.values("animate").mean() == pytest.approx(0.25)
    assert features.values("whole").mean() == pytest.approx(7 / 8)


def test_runs_without_a_category_have_no_ceiling() -> None:
    whole = blocks()
    with pytest.raises(InputError, match="one block of every category"):
        with_ceiling(tb.BrainResponses(whole.data.isel(stimulus=slice(1, None))))


@pytest.mark.slow
def test_the_real_slice(real_data: Path, tmp_path: Path) -> None:
    table = pd.read_csv(run(Config(out=tmp_path, n_bootstrap=200, n_permutations=99), lambda _: None)).set_index(
        "model"
    )
    assert table.loc[CATEGORY, "r"] == pytest.approx(0.237, abs=0.01)
    assert table.loc[CATEGORY, "p"] <= 0.05  # of 96 shifts only the true order scores as high, here drawn 3 times in 99
    assert table.loc[CATEGORY, "r_in_most_reliable_quarter"] == pytest.approx(0.561, abs=0.01)
    assert table.loc[CATEGORY, "ceiling_there"] == pytest.approx(0.641, abs=0.01)
    assert abs(table.loc[SHUFFLED, "r"]) < 0.06
    assert table.loc["animate", "r"] < table.loc[CATEGORY, "r"]
