"""The study of the brain's windows: what it concludes where windows are known, and what it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_brain_windows import make_brain_windows

import topobrain as tb
from analyses import map_brain_windows
from analyses.encode_alice import EACH, MEAN
from analyses.map_brain_windows import Config, Search, claims, regions_table, run, story, wider
from topobrain.integration.brain_kernels import WindowKernels
from topobrain.integration.brain_result import BrainWindows

WIDER = "the window is wider than none (gain in held-out r)"


def searches(**options: object) -> list[Search]:
    return [Search(target, shape, make_brain_windows(**options)) for target in (MEAN, EACH) for shape in ("fir", "spm")]  # type: ignore[arg-type]


def said(table: pd.DataFrame, claim: str) -> pd.DataFrame:
    found = table[table["claim"].str.startswith(claim)]
    assert len(found)
    return found


def test_a_planted_window_is_found_and_none_is_not() -> None:
    table = claims(searches())
    found = said(table, WIDER).set_index(["target", "response", "clock", "roi"])
    assert len(found) == 2 * 2 * 2 * 2
    assert set(found.xs("LATL", level="roi")["verdict"]) == {"reproduced"}
    assert set(found.xs("LPTL", level="roi")["verdict"]) == {"cannot be told"}
    row = found.loc[(MEAN, "fir", "words", "LATL")]
    assert (row["value"], row["low"], row["high"], row["p_max"]) == pytest.approx((0.08, 0.06, 0.10, 0.01))
    assert row["note"] == "highest: exp 4 words, half width 4"
    assert found.loc[(MEAN, "fir", "seconds", "LATL"), "value"] == pytest.approx(0.04)
    assert set(said(table, "word features without memory")["verdict"]) == {"reproduced"}


def test_many_searches_are_corrected_for_their_number() -> None:
    whole = said(claims(searches()), "some region's window")
    assert whole["p_max"].tolist() == pytest.approx([0.04, 0.04])  # two responses, two clocks
    assert set(whole["verdict"]) == {"reproduced"}
    weaker = said(claims(searches(p=(0.02, 0.6))), "some region's window")
    assert weaker["p_max"].tolist() == pytest.approx([0.08, 0.08])
    assert set(weaker["verdict"]) == {"cannot be told"}
    assert weaker["note"].iloc[0] == "LATL, fir, words: p_max 0.020; times 4 searches"
    none = said(claims(searches(p=(np.nan, np.nan), n_permutations=0)), "some region's window").iloc[0]
    assert np.isnan(none["p_max"])
    assert none["verdict"] == "cannot be told"


def test_a_gain_needs_both_its_null_and_its_interval() -> None:
    assert wider(0.01, 0.04) == "reproduced"
    assert wider(-0.01, 0.04) == "cannot be told"
    assert wider(0.01, 0.06) == "cannot be told"
    assert wider(np.nan, 0.04) == "reproduced"  # no draws were asked for
    assert wider(0.01, np.nan) == "cannot be told"


def test_widths_differ_where_intervals_miss_each_other() -> None:
    alike = said(claims(searches()), "regions differ")
    assert set(alike["verdict"]) == {"cannot be told"}
    apart = make_brain_windows()
    apart.data["region_width_words_low"].values[:] = [3.0, 0.5]
    apart.data["region_width_words_high"].values[:] = [9.0, 2.0]
    found = said(claims([Search(MEAN, "fir", apart)]), "regions differ").set_index("clock")
    assert found.loc["words", "verdict"] == "reproduced"
    assert found.loc["words", "value"] == pytest.approx(3.5)
    assert found.loc["words", "note"] == "LPTL 0.5 [0.5, 2], LATL 4 [3, 9]"
    assert found.loc["seconds", "verdict"] == "cannot be told"
    one = said(claims([Search(MEAN, "fir", make_brain_windows((0.1, np.nan)))]), "regions differ")
    assert one["note"].tolist() == ["fewer than two regions have an interval"] * 2


def test_windows_that_hang_on_the_haemodynamic_response_are_told() -> None:
    claim = "the window is the same"
    assert set(said(claims(searches()), claim)["verdict"]) == {"reproduced"}
    other = [Search(MEAN, "fir", make_brain_windows()),
             Search(MEAN, "spm", make_brain_windows(chosen=("exp 16 words", "delta")))]  # fmt: skip
    found = said(claims(other), claim).set_index("clock")
    assert found.loc["words", "verdict"] == "not"
    assert found.loc["words", "value"] == 0.5
    assert found.loc["seconds", "verdict"] == "reproduced"  # two that both have no memory are alike
    assert not claims(other[:1])["claim"].str.startswith(claim).any()


def test_tables_name_whom_and_how_and_the_time_of_a_word() -> None:
    table = regions_table(searches())
    assert list(table)[:3] == ["target", "response", "roi"]
    assert len(table) == 8
    words = tb.StimulusSet(["a", "b", "c", "d"], {"onset_s": [0.0, 0.2, 0.4, 3.0]}, name="tale")
    row = story(words).iloc[0]
    assert (row["story"], row["n_words"], row["mean_s"], row["median_s"]) == (
        "tale",
        4,
        pytest.approx(1),
        pytest.approx(0.2),
    )


@pytest.mark.slow
def test_a_run_leaves_windows_tables_and_the_figure(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_brain_windows.tb, "load_text", lambda name: ["the cat and the dog, said Alice"])
    kernels = WindowKernels.grid(half_lives=(4, 32), exponents=(), mixed=False, half_lives_s=(4,), exponents_s=())
    brain = tb.load_responses("alice")
    config = Config(out=tmp_path, responses=("fir", "spm"), listeners_responses=("spm",), delays=(1, 2, 3), n_folds=3,
                    n_bootstrap=20, n_permutations=9, listeners_permutations=5)  # fmt: skip
    told: list[str] = []
    path = run(config, told.append, brain.where(subject=brain.subjects[:6], roi=["LATL", "LPTL"]), kernels)
    assert path.name == "fig17_brain_windows.png"
    assert path.stat().st_size > 20_000
    assert len(told) == 4
    found = BrainWindows.load(tmp_path / "brain_windows_spm_each-listener_6mm.nc")
    assert found.provenance["brain_windows"]["region_intervals_over"] == "subjects"
    assert set(found.provenance["brain_windows"]["features"]) == {"length", "frequency"}
    mean = BrainWindows.load(tmp_path / "brain_windows_fir_mean-of-listeners_6mm.nc")
    assert mean.data.sizes["voxel"] == 2
    assert mean.data.sizes["permutation"] == 9
    table = pd.read_csv(tmp_path / "regions.csv")
    assert table.groupby(["target", "response"], sort=False).size().tolist() == [2, 2, 2]
    verdicts = pd.read_csv(tmp_path / "brain_claims.csv")
    assert set(verdicts["verdict"]) <= {"reproduced", "not", "cannot be told"}
    assert pd.read_csv(tmp_path / "story.csv")["mean_s"].iloc[0] == pytest.approx(0.34, abs=0.005)
