from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from made_scores import make_comparison, make_encoding, make_leakage, make_partition

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


def page_of(folder: Path) -> str:
    """The page of a folder whose picture is there already: nothing is drawn."""
    (folder / "figures").mkdir()
    (folder / "figures" / "fig1.png").write_bytes(b"a picture")
    return build_report(folder).read_text()


def warnings_of(page: str) -> list[str]:
    found = re.search(r'<ul class="warnings">(.*?)</ul>', page, re.DOTALL)
    return re.findall(r"<li>(.*?)</li>", found.group(1), re.DOTALL) if found else []


SCORES = {"IFG": [0.1, 0.412], "MFG": [0.333, 0.2]}


@pytest.mark.slow
def test_the_headline_is_the_layer_chosen_inside_the_training_folds(tmp_path):
    made = make_encoding(SCORES, name="gpt")
    made.save(tmp_path / "encoding_gpt.nc")
    page = page_of(tmp_path)
    headline = page[page.index('<h2 id="scores">') : page.index('<h2 id="figures">')]
    assert "chosen inside the training folds" in headline
    for row in made.best().itertuples():
        assert f"<td>{row.r:.3f}</td>" in headline
    assert "blocks.1 (5)" in headline
    assert "0.412" not in headline  # the largest of the scores reported
    assert "<td>0.412</td>" in page
    assert warnings_of(page) == []


@pytest.mark.slow
def test_given_folds_and_allowed_duplicates_are_told(tmp_path):
    made = {
        "m": {"folds": "given"},
        "n": {"folds": "contiguous", "allow_duplicates": True},
        "o": {"folds": "contiguous"},
    }
    for name, options in made.items():
        make_encoding(SCORES, name=name, options=options).save(tmp_path / f"encoding_{name}.nc")
    first, second = warnings_of(page_of(tmp_path))
    assert "encoding_m.nc" in first
    assert "Folds were given, not made here" in first
    assert "encoding_n.nc" in second
    assert "allow_duplicates was set" in second


def test_shuffled_folds_are_told_in_sight_with_the_contiguous_score_beside(tmp_path):
    contiguous = np.array([[0.05, 0.3], [0.011, 0.19]])
    made = make_encoding(SCORES, options={"folds": "shuffled"}, further={"region_r_contiguous": contiguous})
    made.save(tmp_path / "encoding_m.nc")
    make_encoding(SCORES, name="bare", options={"folds": "shuffled"}).save(tmp_path / "encoding_n.nc")
    page = page_of(tmp_path)
    assert "<td>shuffled</td>" in page[page.index('<h2 id="scores">') : page.index('<h2 id="figures">')]
    first, second = warnings_of(page)
    assert "encoding_m.nc" in first
    assert "layer blocks.1 in IFG scores r = 0.412 with shuffled folds and 0.011 with contiguous ones" in first
    assert "do not report these scores alone" in second
    assert "<th>r_contiguous</th>" in page
    rows = re.findall(r"<tr>(.*?)</tr>", page[page.index('id="tables"') :], re.DOTALL)
    row = next(one for one in rows if "<td>blocks.1</td>" in one and "<td>IFG</td>" in one)
    assert "<td>0.412</td>\n      <td>0.011</td>" in row


def test_closed_forms_and_penalties_at_the_edge_of_the_grid_are_told(tmp_path):
    options = {
        "selection_note": "gcv treats stimuli as independent",
        "share_at_lowest_alpha": {"blocks.0": 0.1, "blocks.1": 0.34},
        "share_at_highest_alpha": {"blocks.0": 0.9, "blocks.1": None},
    }
    make_encoding(SCORES, options=options).save(tmp_path / "encoding_m.nc")
    note, lowest, highest = warnings_of(page_of(tmp_path))
    assert "gcv treats stimuli as independent" in note
    assert "lowest penalty of the grid was chosen for more than 10% of fits in blocks.1 (34%)" in lowest
    assert "blocks.0" not in lowest
    assert "blocks.0 (90%)" in highest


def test_without_a_choice_inside_the_training_folds_it_is_said(tmp_path):
    make_encoding(SCORES, best=None).save(tmp_path / "encoding_m.nc")
    (line,) = warnings_of(page_of(tmp_path))
    assert "no layer could be" in line


@pytest.mark.slow
def test_partitions_comparisons_and_leaks_have_tables_and_pictures(tmp_path):
    make_partition({"IFG": [0.0412, 0.05]}, {"IFG": 0.02}, name="gpt").save(tmp_path / "partition_gpt.nc")
    make_comparison({"IFG": [0.1234]}, names=("gpt", "twin")).save(tmp_path / "comparison_gpt.nc")
    make_leakage({"IFG": [0.3456]}, {"IFG": [0.1]}).save(tmp_path / "leakage_gpt.nc")
    page = build_report(tmp_path).read_text()
    assert page.count("data:image/png;base64,") == 3
    for number in ("0.041", "0.123", "0.346"):
        assert f"<td>{number}</td>" in page
    assert "<td>gpt - twin</td>" in page
    for title in ("each feature space explains", "Differences between encoding models", "What shuffled folds leak"):
        assert title in page


@pytest.mark.slow
def test_the_spread_over_many_voxels_is_drawn_too(tmp_path):
    make_encoding(SCORES, voxels=30, spread=0.1).save(tmp_path / "encoding_m.nc")
    page = build_report(tmp_path).read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "Spread over voxels" in page


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
