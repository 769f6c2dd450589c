from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_brain_windows import make_brain_windows
from made_integrations import make_integration
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from figures import fig17_brain_windows as fig17
from figures.style import PAGE_INCHES, save
from topobrain.plot.style import UNTRAINED, model_colour

ROOT = Path(__file__).parents[2]
SEARCHES = {("fir", "mean of listeners"): 0.02, ("spm", "mean of listeners"): 0.08, ("fir", "each listener"): -0.01}


def fill(folder: Path, searches=tuple(SEARCHES), *, models=True, size="6mm", simulated=False) -> Path:
    for (shape, target), gain in ((one, SEARCHES[one]) for one in searches):
        made = make_brain_windows((gain, 0.0), p=(0.02 if gain > 0.05 else 0.4, 0.9), subjects=9 if "each" in target else 1,
                                  simulated=simulated)  # fmt: skip
        made.save(folder / f"brain_windows_{shape}_{target.replace(' ', '-')}_{size}.nc")
    pd.DataFrame([{"story": "a", "n_words": 300, "mean_s": 0.5, "median_s": 0.3}]).to_csv(
        folder / "story.csv", index=False
    )
    if models:
        windows = {"embeddings": (1.0, 10.0, 0.0), "blocks.0": (1.0, 10.0, 0.0), "blocks.1": (0.8, 1.0, 0.9)}
        rows = []
        for role, name, options in (
            ("topographic", "topolm-tiny", {}),
            ("untrained", "topolm-tiny (untrained 0)", {"beyond": 18, "unreliable": 0}),
        ):
            make_integration(windows, name=name, max_lag=12, **options).save(folder / f"integration_{role}.nc")
            rows.append({"model": name, "role": role, "family": "topolm-tiny"})
        pd.DataFrame(rows).to_csv(folder / "models.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("brain_windows"))


@pytest.fixture(scope="module")
def drawing(folder):
    made = fig17.draw(folder)
    yield made
    plt.close(made.figure)


def test_a_folder_without_results_gives_no_figure(tmp_path):
    assert fig17.draw(tmp_path) is None


def test_names_are_those_of_the_analysis():
    from analyses import encode_alice, map_brain_windows

    assert (fig17.MEAN, fig17.EACH) == (encode_alice.MEAN, encode_alice.EACH)
    assert set(map_brain_windows.Config().responses) <= set(fig17.SHAPES)
    assert Path(fig17.__file__).stem == map_brain_windows.FIGURE


@pytest.mark.slow
def test_gains_of_every_search_stand_beside_their_null(drawing):
    words, seconds = (next(ax for ax in drawing.figure.axes if ax.get_title() == f"windows over {clock}")
                      for clock in ("words", "seconds"))  # fmt: skip
    for ax, scale in ((words, 1.0), (seconds, 0.5)):
        assert fig17.NULL_LABEL in ax.get_legend_handles_labels()[1]
        marks = [one for one in ax.lines if len(one.get_xdata()) == 2 and one.get_linestyle() == "None"]
        assert [one.get_ydata()[0] for one in marks] == pytest.approx([scale * g for g in SEARCHES.values()])
        assert [to_hex(one.get_markerfacecolor()) == "#ffffff" for one in marks] == [False, False, True]
        assert len(ax.patches) == 6
        assert np.allclose([bar.get_height() for bar in ax.patches], 0.08, atol=0.015)  # 3.9 sd of .02
        stars = [one for one in ax.texts if one.get_text() == "*"]
        assert len(stars) == 1
        assert stars[0].xy[1] == pytest.approx(scale * 0.08 + 0.02)


@pytest.mark.slow
def test_regions_and_sheets_share_an_axis_in_words_and_in_seconds(drawing):
    words, seconds = drawing.figure.axes[-2:]
    assert [one.get_text() for one in words.get_yticklabels()] == [
        "LATL", "LPTL", "topolm-tiny,\n2 layers", "untrained self",
    ]  # fmt: skip
    ticks = dict(zip([one.get_text() for one in words.get_xticklabels()], words.get_xticks(), strict=True))
    for ax, unit in ((words, 1.0), (seconds, 0.5)):
        marks = [one for one in ax.lines if one.get_marker() not in ("None", "")]
        regions, layers = marks[:6], marks[6:]
        assert len(layers) == 4  # embeddings know no other word
        expected = [4.0, 0.5] if ax is words else [8.0, None]
        for one in regions[::2]:
            assert one.get_xdata()[0] == pytest.approx(np.log2(expected[0]))
        none = next(one.get_xdata()[0] for one in ax.lines if one.get_linestyle() == "--")
        for one in regions[1::2]:
            assert one.get_xdata()[0] == none
        assert layers[0].get_xdata()[0] == pytest.approx(np.log2(unit * 0.5), abs=0.01)
        assert layers[1].get_xdata()[0] > layers[0].get_xdata()[0] + 1
        assert to_hex(layers[0].get_color()).upper() == model_colour("topolm-tiny").upper()
        assert to_hex(layers[2].get_color()).upper() == UNTRAINED
    # most of the untrained units never come down to one half
    beyond = [one for one in words.lines if one.get_marker() not in ("None", "")][-2:]
    assert [one.get_xdata()[0] for one in beyond] == [ticks["beyond"]] * 2


@pytest.mark.slow
def test_the_table_holds_every_number_and_the_caption_says_how(drawing, tmp_path):
    table = drawing.numbers
    assert set(table["part"]) == {"region", "profile", "model"}
    assert len(table.query("part == 'region'")) == 6
    row = table.query("part == 'region' and response == 'spm' and roi == 'LATL'").iloc[0]
    assert (row["gain"], row["gain_seconds"], row["p_max"]) == pytest.approx((0.08, 0.04, 0.02))
    assert row["null_gain_high_words"] == pytest.approx(0.04, abs=0.01)
    models = table.query("part == 'model' and role == 'topographic'").set_index("layer")
    assert np.allclose(models["median_seconds"], 0.5 * models["median_words"])
    assert models.loc["embeddings", "median_words"] == pytest.approx(0.5, abs=0.01)
    untrained = table.query("part == 'model' and role == 'untrained'")
    assert untrained["share_beyond"].tolist() == [0.75] * 3
    assert np.isinf(untrained["median_words"]).all()
    for said in ("9 listeners", "6 contiguous folds", "mean time a word, 0.500 s", "200 times",
                 "within 12 words", "1,000 draws, seed 0", "a-story"):  # fmt: skip
        assert said in drawing.caption
    assert "simulated" not in drawing.caption
    assert drawing.figure.get_size_inches()[0] == PAGE_INCHES
    assert save(drawing, tmp_path, "fig17").stat().st_size > 20_000
    assert (tmp_path / "fig17.csv").is_file()


@pytest.mark.slow
def test_without_models_and_story_only_regions_are_drawn(folder, tmp_path):
    fill(tmp_path, [("fir", "mean of listeners")], models=False, size="10mm", simulated=True)
    (tmp_path / "story.csv").unlink()
    drawing = fig17.draw(tmp_path)
    assert "10 mm" in drawing.caption
    assert "(simulated)" in drawing.caption
    assert "model units" not in drawing.caption
    assert set(drawing.numbers["part"]) == {"region", "profile"}
    assert fig17.time_of_a_word(tmp_path, fig17.searches_of(tmp_path)[0][0].found) == 0.25
    plt.close(drawing.figure)
    for path in folder.glob("brain_windows_*"):
        shutil.copy(path, tmp_path)
    searches, size = fig17.searches_of(tmp_path)
    assert size == "6mm"
    assert [(one.response, one.target) for one in searches] == list(SEARCHES)


@pytest.mark.slow
def test_the_figure_needs_no_torch(folder, tmp_path):
    for path in (folder / "models.csv", *folder.glob("integration_*"), *folder.glob("brain_windows_spm_*")):
        shutil.copy(path, tmp_path)
    code = (
        "import sys, pathlib; from figures import fig17_brain_windows as fig; "
        f"folder = pathlib.Path({str(tmp_path)!r}); found, _ = fig.searches_of(folder); "
        "assert len(fig.model_widths(fig.families_of(folder), 0.3)) == 6; fig.numbers_of(found, fig.model_widths([], 0.3)); "
        "sys.exit('torch' in sys.modules)"
    )
    drawn = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert drawn.returncode == 0, drawn.stderr
