from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import topobrain.data as data
from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.data.tuckute2024 import PARTICIPANTS_FILE, ROIS, TRAIN, load_participants
from topobrain.stats.ceiling import noise_ceiling

PEOPLE = [*TRAIN, "797", "841"]
N = 9


@pytest.fixture
def responses() -> np.ndarray:
    """(person, region, sentence) with a shared signal."""
    generator = np.random.default_rng(0)
    return generator.standard_normal((1, 6, N)) + generator.standard_normal((len(PEOPLE), 6, N))


@pytest.fixture
def table(responses, tmp_path: Path) -> Path:
    """A table with the authors' columns: one row a person, region and sentence, an index column that pandas wrote."""
    rows = [
        {
            "item_id": f"{cond}.{s}" if cond != "B" else s + 1,
            "sentence": f"{cond} sentence {s}",
            "cond": cond,
            "cond_approach": f"{cond}_search" if cond != "B" else "B",
            "target_UID": int(person),
            "roi": region,
            "response_target": responses[p, r, s],
            "response_target_non_norm": 3.0,
            "log-prob-gpt2-xl_mean": -2.5 * s,
        }
        for p, person in enumerate(PEOPLE)
        for r, region in enumerate([*(f"lang_LH_{roi}" for roi in ROIS), "lang_RH_netw"][:7])
        for cond in (("B", "D") if person not in TRAIN else ("B",))
        for s in range(N if cond == "B" else 2)
        if r < 6
    ]
    frame = pd.DataFrame(rows)
    frame = pd.concat([frame, frame[frame["roi"] == "lang_LH_netw"].assign(roi="MD_LH_netw")])
    path = tmp_path / PARTICIPANTS_FILE
    frame.to_csv(path)
    return path


def test_single_people_have_a_column_each_and_the_ceiling_of_one(table: Path, responses) -> None:
    brain = data.load_responses("tuckute2024", participants="train", table=table)
    assert brain.values.shape == (N, 5 * 6)
    assert brain.subjects == list(TRAIN)
    assert brain.rois == list(ROIS)
    np.testing.assert_allclose(brain.where(subject="853", roi="IFG").values[:, 0], responses[1, 2])
    assert brain.labels("column")[0] == "lang_LH_netw"
    train = responses[:5].transpose(0, 2, 1)  # (repeat, stimulus, region)
    noise, mean = train.var(axis=0, ddof=1).mean(axis=0), train.mean(axis=0).var(axis=0, ddof=1)
    signal = np.maximum(mean - noise / 5, 0)
    np.testing.assert_allclose(brain.data["ceiling"].values[:6], np.sqrt(signal / (signal + noise)))
    assert brain.labels("stimulus")[0] == "1"
    assert brain.stimuli.column("log-prob-gpt2-xl_mean")[2] == -5.0
    assert brain.provenance["participants"] == list(TRAIN)
    assert brain.provenance["licence"].startswith("MIT")


def test_the_mean_of_people_has_the_ceiling_of_the_mean(table: Path, responses) -> None:
    brain = data.load_responses("tuckute2024", participants="train", table=table, average=True)
    np.testing.assert_allclose(brain.values, responses[:5].mean(axis=0).T)
    np.testing.assert_allclose(brain.data["ceiling"].values, noise_ceiling(responses[:5].transpose(0, 2, 1)))
    assert brain.subjects == ["mean of 5"]


def test_groups_numbers_and_conditions(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from topobrain.data.tuckute2024 import load_participants

    assert load_participants("evaluation", table=table).subjects == ["797", "841"]
    assert load_participants("all", table=table).subjects == PEOPLE
    one = load_participants([848], table=table)
    assert one.subjects == ["848"]
    assert np.isnan(one.data["ceiling"].values).all()
    assert load_participants("evaluation", table=table, conditions=["B", "D"]).values.shape == (N + 2, 12)
    with pytest.raises(UnknownNameError, match=r"participant of .*'849'\. Did you mean '848'"):
        load_participants(["849"], table=table)
    with pytest.raises(UnknownNameError, match=r"'trained'\. Did you mean 'train'"):
        load_participants("trained", table=table)
    with pytest.raises(UnknownNameError, match=r"cond of .*'X'"):
        load_participants(conditions=["X"], table=table)


def test_the_table_is_found_in_the_store_or_asked_for(store: Path, table: Path) -> None:
    with pytest.raises(DataFileError, match=r"no table of single people .*evlabwebapps\.mit\.edu.*data\.tar"):
        data.load_responses("tuckute2024", participants="train")
    (store / "tuckute2024").mkdir()
    table.rename(store / "tuckute2024" / PARTICIPANTS_FILE)
    assert data.load_responses("tuckute2024", participants="train").subjects == list(TRAIN)


def test_a_table_without_its_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("target_UID,roi,item_id,sentence,cond,response\n")
    with pytest.raises(InputError, match=r"no column 'response_target'\. Did you mean 'response'"):
        data.load_responses("tuckute2024", table=path)
    with pytest.raises(InputError, match="average=True is for single people"):
        data.load_responses("tuckute2024", average=True)


def test_the_mean_of_the_data_set_is_unchanged(real_data: Path) -> None:
    brain = data.load_responses("tuckute2024")
    assert brain.values.shape == (1000, 6)
    assert brain.subjects == ["mean of 5"]


def test_a_number_alone_is_answered_with_what_is_expected() -> None:
    with pytest.raises(InputError, match=r"participants is 848: expected 'train', .*\(\[848\]\)"):
        load_participants(848)
