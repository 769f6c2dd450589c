from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest

import topobrain as tb
from topobrain._checks import DataFileError, InputError
from topobrain.report import build_report

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


def fill(folder: Path, *, simulated: bool, name: str = "<m> & co") -> None:
    rng = np.random.default_rng(0)
    provenance = {"simulated": True} if simulated else {"name": "A study", "citation": "Nobody et al. (2000)"}
    stimuli = tb.StimulusSet([f"text {i}" for i in range(30)], {"condition": ["a", "b"] * 15}, provenance=provenance)
    sheets = dict.fromkeys(("l.0", "l.1"), tb.Sheet.grid(4, 4))
    acts = tb.Activations.from_arrays(
        {layer: rng.standard_normal((30, 16)) for layer in sheets}, stimuli, sheets=sheets,
        provenance={"model": {"name": name, "weights_sha256": "0123abcd"}},
    )  # fmt: skip
    brain = tb.BrainResponses.from_arrays(rng.standard_normal((30, 2)), stimuli, roi=["IFG", "MFG"], ceiling=0.6)
    tb.encode(acts, brain, n_permutations=20, n_bootstrap=20, n_folds=3, seed=7).save(folder / "encoding_m.nc")
    tb.localize(acts, tb.Contrast("language", on="a", off="b"), n_null=20).save(folder / "selectivity_m.nc")


@pytest.mark.slow
def test_the_page_holds_everything_and_loads_nothing(tmp_path):
    fill(tmp_path, simulated=False)
    page = build_report(tmp_path, title="My report").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "@import" not in page
    assert "<script" not in page
    assert "Nobody et al. (2000)" in page
    assert "0123abcd" in page
    assert "&#34;seed&#34;: 7" in page
    assert "&lt;m&gt; &amp; co" in page
    assert "<m>" not in page
    assert "Simulated data" not in page


@pytest.mark.slow
def test_numbers_of_the_page_are_those_of_the_result(tmp_path):
    fill(tmp_path, simulated=False)
    page = build_report(tmp_path).read_text()
    for r in tb.Encoding.load(tmp_path / "encoding_m.nc").summary()["r"]:
        assert f"<td>{r:.3f}</td>" in page


@pytest.mark.slow
def test_simulated_is_said_at_the_top_and_in_the_tables(tmp_path):
    fill(tmp_path, simulated=True)
    page = build_report(tmp_path).read_text()
    assert "Simulated data." in page
    assert "2 of 2 results" in page
    assert "Encoding of brain responses (simulated)" in page


@pytest.mark.slow
def test_figures_of_a_run_come_with_caption_and_numbers(tmp_path):
    fill(tmp_path, simulated=False)
    (tmp_path / "figures").mkdir()
    from matplotlib import pyplot as plt

    figure, _ = plt.subplots()
    figure.savefig(tmp_path / "figures" / "fig1.png")
    (tmp_path / "figures" / "fig1.txt").write_text("What it shows.")
    (tmp_path / "figures" / "fig1.csv").write_text("a,b\n0.12345,<x>\n")
    page = build_report(tmp_path).read_text()
    assert "What it shows." in page
    assert "<td>0.123</td>" in page
    assert "&lt;x&gt;" in page
    assert page.count("data:image/png;base64,") == 1


def test_a_folder_without_results_is_told(tmp_path):
    with pytest.raises(InputError, match="holds no result"):
        build_report(tmp_path)
    with pytest.raises(DataFileError, match="no results folder"):
        build_report(tmp_path / "gone")


def test_a_damaged_result_is_named(tmp_path):
    fill(tmp_path, simulated=False)
    path = tmp_path / "encoding_m.nc"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataFileError, match=r"encoding_m\.nc"):
        build_report(tmp_path)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")
def test_a_browser_shows_every_picture_and_asks_for_nothing(tmp_path):
    fill(tmp_path, simulated=True)
    page = build_report(tmp_path)
    probe = tmp_path / "probe.html"  # the page itself has no script: a copy asks the browser what it did
    question = """<script>addEventListener('load', () => { document.title = JSON.stringify({
        pictures: [...document.images].map(i => i.naturalWidth),
        loaded: performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).map(e => e.name),
        wide: document.documentElement.scrollWidth > innerWidth,
        text: document.body.innerText.includes('Simulated data.')}); })</script></body>"""
    probe.write_text(page.read_text().replace("</body>", question))
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--window-size=1200,900",
    ]  # fmt: skip
    seen = subprocess.run(
        [str(CHROMIUM), *options, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=120
    )
    title = re.search(r"<title>(.*?)</title>", seen.stdout)
    assert title is not None, seen.stderr[-500:]
    import json

    found = json.loads(title.group(1))
    assert len(found["pictures"]) == 2
    assert min(found["pictures"]) > 300
    assert found["loaded"] == []
    assert found["text"]
    assert not found["wide"], "the page must not scroll sideways"
