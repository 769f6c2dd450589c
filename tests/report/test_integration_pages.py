from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import pytest
from made_brain_windows import make_brain_windows
from made_integrations import WINDOWS, make_integration

from topobrain.report import build_report


@pytest.mark.slow
def test_every_result_of_integration_has_pictures_and_a_table(tmp_path: Path) -> None:
    yoking = dict.fromkeys(WINDOWS, 0.05)
    make_integration(yoking=yoking, sentence_words=4, n_sentences=3, noisy=20, simulated=True).save(
        tmp_path / "integration_m.nc"
    )
    make_integration({"layer": (1, 1, 0.5)}, name="two-sided", causal=False).save(tmp_path / "integration_n.nc")
    page = build_report(tmp_path).read_text()
    assert page.count("data:image/png;base64,") == 7  # maps, curves, depth; steps of the first alone
    for words in (
        "how far back they listen",
        "(simulated)",
        "Fewer than half of the units have a window that is known in blocks.0, blocks.1, blocks.2",
        "The model reads the words that come after too",
        "Windows that stop at sentence ends jump up",
    ):
        assert words in page
    assert "<td>0.300</td>" in page


@pytest.mark.slow
def test_windows_of_regions_have_both_pictures_and_say_when_they_are_none(tmp_path: Path) -> None:
    make_brain_windows().save(tmp_path / "brain_windows_found.nc")
    make_brain_windows((0.01, 0.0), p=(0.4, 0.6), simulated=True).save(tmp_path / "brain_windows_none.nc")
    make_brain_windows((0.01, float("nan")), p=(float("nan"),) * 2, n_permutations=0).save(
        tmp_path / "brain_windows_plain.nc"
    )
    page = build_report(tmp_path).read_text()
    assert page.count("data:image/png;base64,") == 6  # over words and over seconds
    assert page.count("in no region does one predict better than no memory (smallest family-wise p 0.400)") == 2
    assert page.count("no null was drawn, so no window is told from none") == 2
    assert "Integration windows of brain regions" in page
    assert "exp 4 words" in page
