"""Notebooks run from top to bottom, on toy data, and what they say is what they computed."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import topobrain as tb

NOTEBOOKS = sorted((Path(__file__).parents[1] / "analyses" / "notebooks").glob("*.py"))
EXPLORE = next(path for path in NOTEBOOKS if path.stem == "explore_selectivity")


class Cell(NamedTuple):
    """A cell of a percent script: its kind, its tags and its source."""

    kind: str
    tags: str
    source: str
    line: int


def cells_of(path: Path) -> list[Cell]:
    """Split a percent script as jupytext does: at lines that begin with ``# %%``."""
    cells: list[Cell] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        head = re.match(r"# %%(?:\s+\[(\w+)\])?(?:\s+(.*))?$", line)
        if head:
            cells.append(Cell(head[1] or "code", head[2] or "", "", number))
        elif cells:
            cells[-1] = cells[-1]._replace(source=cells[-1].source + line + "\n")
    return cells


def run(path: Path, **parameters: Any) -> tuple[dict[str, Any], str]:
    """Execute the code cells in one namespace, with parameters set after the cell that is tagged so."""
    import matplotlib

    matplotlib.use("Agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    said = io.StringIO()
    with redirect_stdout(said):
        for cell in cells_of(path):
            if cell.kind == "code":
                blank = "\n" * cell.line  # so that an error names the notebook's line
                exec(compile(blank + cell.source, str(path), "exec"), names)
                if "parameters" in cell.tags:
                    names.update(parameters)
    return names, said.getvalue()


@pytest.fixture(autouse=True)
def no_figure_stays() -> Iterator[None]:
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_jupytext_would_read_it_as_a_percent_script(path):
    text = path.read_text(encoding="utf-8")
    head = re.match(r"# ---\n((?:#.*\n)+?)# ---\n", text)
    assert head is not None
    assert re.search(r"format_name: percent", head[1])
    assert re.search(r"extension: \.py", head[1])
    cells = cells_of(path)
    assert cells[0].kind == "markdown"
    assert {cell.kind for cell in cells} == {"code", "markdown"}
    for cell in cells:
        if cell.kind == "markdown":
            assert cell.source.strip().startswith('"""')
            assert cell.source.strip().endswith('"""')
        else:
            compile(cell.source, str(path), "exec")
    assert sum("parameters" in cell.tags for cell in cells) == 1


FROM_CENTRE = np.hypot(np.arange(64) // 8 - 2, np.arange(64) % 8 - 2)
"""Distance of each of 8 x 8 units from the middle of the planted bump, in grid steps."""


class Planted:
    """A model of one sheet with a bump of units that respond to words of sentences; or, untrained, at random."""

    def __init__(self, *, patchy: bool, selective: bool = True, noise: float = 1.0) -> None:
        self.name = "planted" if selective else "planted (untrained)"
        self.sheets = {"sheet": tb.Sheet.grid(8, 8)}
        rng = np.random.default_rng(3)
        gain = 2 * np.exp(-(FROM_CENTRE**2) / 8) - 1
        self.gain = (gain if patchy else rng.permutation(gain)) * (3.0 if selective else 0.0)
        self.noise = noise
        self.known = {
            word
            for text in tb.load_stimuli("simulated-langloc").where(condition="sentence").items
            for word in text.split()
        }

    def record(self, stimuli: Any, layers: Any) -> Any:
        n_words = max(len(text.split()) for text in stimuli)
        word = np.full((len(stimuli), n_words), -1)
        values = np.zeros((len(stimuli), n_words, 64), dtype=np.float32)
        for row, text in enumerate(stimuli):
            words = text.split()
            word[row, : len(words)] = np.arange(len(words))
            share = np.mean([one in self.known for one in words])
            seed = [len(self.name), *text.encode()]
            noise = self.noise * np.random.default_rng(seed).standard_normal(64)
            values[row, : len(words)] = share * self.gain + noise
        return tb.Recording(values={"sheet": values}, word=word)


def planted(patchy: bool):
    """Return a factory as `load_model` calls it."""

    def factory(*, weights: str | None = None, device: str = "auto") -> Planted:
        return Planted(patchy=patchy, selective=weights is None)

    return factory


def claims(said: str) -> list[bool]:
    return [
        line.strip().startswith("supported:") for line in said.splitlines() if re.match(r"\s+(NOT )?supported:", line)
    ]


@pytest.mark.slow
def test_a_planted_patch_is_found_and_the_claims_it_supports_are_made():
    names, said = run(EXPLORE, MODEL=planted(patchy=True), STIMULI="simulated-langloc", N_NULL=99)
    patch = np.flatnonzero(names["patch"])
    assert len(patch) == 6  # the tenth of 64 units with the highest t, all in one group
    assert FROM_CENTRE[patch].max() < 2.5
    clustered, trained, special, larger, held_out, learnt, _ = claims(said)
    assert all((clustered, trained, special, larger, held_out, learnt))
    assert f"Moran's I is {names['index']:.2f}" in said
    assert names["index"] == pytest.approx(float(tb.stats.morans_i(names["t"], names["sheet"])))
    assert f"{names['held_out_t']:.1f} in the others" in said


@pytest.mark.slow
def test_without_a_patch_the_claims_on_places_are_not_made_and_those_on_selectivity_are():
    names, said = run(EXPLORE, MODEL=planted(patchy=False), STIMULI="simulated-langloc", N_NULL=99)
    clustered, trained, special, _, held_out, learnt, _ = claims(said)
    assert not any((clustered, trained, special))
    assert held_out
    assert learnt
    assert "no more than where units change places" in said.replace("\n", " ")
    assert names["index"] < 0.2


@pytest.mark.slow
def test_simulated_stimuli_are_called_so_in_text_and_titles():
    import matplotlib.pyplot as plt

    _, said = run(EXPLORE, MODEL=planted(patchy=True), STIMULI="simulated-langloc", N_NULL=19)
    assert "(simulated)" in said
    assert "nothing about people" in said
    titled = [ax for number in plt.get_fignums() for ax in plt.figure(number).axes if ax.get_title()]
    assert len(titled) == 4
    for ax in titled:
        assert ax.get_title().count("simulated") == 1, ax.get_title()


@pytest.mark.slow
def test_the_sentences_shown_are_held_out_and_in_order():
    names, said = run(EXPLORE, MODEL=planted(patchy=True), STIMULI="simulated-langloc", N_NULL=19)
    shown = [*names["top"]["sentence"], *names["bottom"]["sentence"]]
    assert set(shown) <= set(names["measuring"].items)
    assert not set(shown) & set(names["selecting"].items)
    assert all(text in said for text in shown)
    ranked = names["ranked"]["response"].to_numpy()
    assert (np.diff(ranked) <= 0).all()
    by_text = dict(zip(names["new"].labels("text"), names["response"], strict=True))
    assert by_text[names["top"]["sentence"].iloc[0]] == max(by_text[text] for text in names["ranked"]["sentence"])


@pytest.mark.slow
def test_it_runs_as_it_is_where_there_are_no_real_data(store, tiny_models):
    names, said = run(EXPLORE, N_NULL=99)
    assert names["STIMULI"] == "simulated-langloc"
    assert names["MODEL"] == "topoformer-tiny"
    assert names["LAYER"] == "blocks.0.attention.query"
    assert "(simulated)" in said
    assert len(claims(said)) == 7


@pytest.mark.slow
def test_it_runs_on_a_pretrained_model_and_the_real_localizer(real_data):
    names, said = run(EXPLORE, MODEL="stories260k", N_NULL=99)
    assert names["STIMULI"] == "langloc"
    assert "simulated" not in said
    assert names["LAYER"] == "layers.4"
    clustered, trained, *_ = claims(said)
    assert not clustered  # its units have no sheet of their own: they lie in the order of their numbers
    assert not trained
