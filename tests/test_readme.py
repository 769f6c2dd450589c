"""The README's Python runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import pytest

README = Path(__file__).parents[1] / "README.md"
STORY, MAPS, WINDOWS, OWN_LOOP, OWN_MODEL = (
    block for block in re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)


def test_the_story_has_at_most_ten_lines():
    assert len(STORY.strip().splitlines()) <= 10


@pytest.mark.slow
def test_the_story_on_real_data(real_data, tiny_models, tmp_path, capsys):
    names = {}
    exec(STORY, names)
    assert (tmp_path / "results" / "encoding.nc").is_file()
    table = names["enc"].summary()
    assert table["roi"].nunique() == 6
    assert {"layer", "roi", "r", "ceiling", "normalized", "low", "high", "p"} <= set(table)
    assert "netw" in capsys.readouterr().out
    assert not names["enc"].simulated


@pytest.mark.slow
def test_the_story_without_data(store, tiny_models, tmp_path):
    told = 'write `"simulated-langloc"` for `"langloc"` and `"simulated"` for `"tuckute2024"`'
    assert told in README.read_text().replace("\n", " ")
    names = {}
    exec(STORY.replace('"langloc"', '"simulated-langloc"').replace('"tuckute2024"', '"simulated"'), names)
    assert (tmp_path / "results" / "encoding.nc").is_file()
    assert names["enc"].simulated
    assert names["lang"].simulated


@pytest.mark.slow
def test_maps_beside_their_nulls(store, tiny_models):
    names = {}
    exec(MAPS, names)
    table = names["found"].summary()
    assert set(table["null"]) == {"layout", "labels"}
    assert table["p"].notna().all()


@pytest.mark.slow
def test_windows_on_real_data(real_data):
    names = {}
    exec(WINDOWS.replace("n=114", "n=6"), names)
    assert names["windows"].causal
    width = names["windows"].summary()["width"]
    assert width.iloc[-1] > width.iloc[0] + 0.1


def test_the_loss_in_a_loop_of_ones_own():
    names = {}
    exec(OWN_LOOP, names)
    assert names["net"][0].weight.grad.abs().sum() > 0
    assert 2 < names["topography"].compute(names["net"]).item() < 3  # tau 3 times about .876 for random weights


@pytest.mark.slow
def test_the_model_of_ones_own(store, capsys):
    names = {}
    exec(OWN_MODEL, names)
    assert "9 checks passed, 0 failed" in capsys.readouterr().out
    assert names["scores"].layers == ["0", "2"]


@pytest.mark.slow
def test_the_model_of_ones_own_from_the_command_line(store, tmp_path, capsys):
    from topobrain.cli import main

    (tmp_path / "my_model.py").write_text(OWN_MODEL.split("print(")[0])
    options = ["--n-permutations", "20", "--n-bootstrap", "20", "--roi", "IFG", "--out", "o"]
    assert main(["encode", "--model", "my_model:build", "--data", "simulated", *options]) == 0
    assert "encoding of my model (simulated data)" in capsys.readouterr().out


@pytest.mark.slow
def test_the_sheet_of_a_frozen_model_in_the_docs(real_data):
    page = README.parent / "docs" / "topographic_models.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S)
    names = {}
    exec(block, names)
    assert names["t_g"] > 0.25 > 5 * names["null"].std()
    assert names["laid_out"].sheets["layers.2"] == names["sheet"]
