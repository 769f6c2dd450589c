from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_integrations import make_integration
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from analyses.localize_language import file_label
from figures import fig16_integration_windows as fig16
from figures.style import PAGE_INCHES, save
from topobrain.integration.result import Integration
from topobrain.plot import model_colour
from topobrain.plot.integration import STARTS
from topobrain.sheet import Sheet

LAYERS = ("blocks.0", "blocks.1", "blocks.2")
C = {"topographic": (0.1, 0.2, 0.4), "pretrained": (0.2, 0.3, 0.35), "twin": (0.1, 0.15, 0.3), "untrained": (0.02,) * 3}
FAMILIES = {"stories260k": ("pretrained",), "topolm-tiny": ("topographic", "twin", "untrained")}
CALLED = {"twin": "{}-control", "untrained": "{} (untrained)"}


def fill(folder: Path, families=tuple(FAMILIES), *, yoked=True, sheets=True, simulated=False) -> Path:
    rows = []
    for family, roles in ((family, FAMILIES[family]) for family in families):
        sheet = Sheet.grid(4, 6) if sheets and family == "topolm-tiny" else Sheet.none(24)
        for role in roles:
            name = CALLED.get(role, "{}").format(family)
            windows = {layer: (0.5, 3.0, c) for layer, c in zip(LAYERS, C[role], strict=True)}
            common = {"name": name, "sheet": sheet, "simulated": simulated, "unreliable": 2,
                      "morans": 0.4 if role == "topographic" else 0.01}  # fmt: skip
            make_integration(windows, spread=0.3, **common).save(folder / f"integration_{file_label(name)}.nc")
            if yoked:
                index = {layer: 0.2 * c if role != "untrained" else 0.0 for layer, (_, _, c) in windows.items()}
                made = make_integration(windows, yoking=index, sentence_words=4, n_sentences=3, **common)
                made.save(folder / f"yoking_{file_label(name)}.nc")
            rows.append({"family": family, "role": role, "model": name})
    pd.DataFrame(rows).to_csv(folder / "models.csv", index=False)
    return folder


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("integration"))


@pytest.fixture(scope="module")
def drawing(folder):
    made = fig16.draw(folder)
    yield made
    plt.close(made.figure)


def test_the_topographic_family_is_mapped_with_its_twin_and_its_untrained_self(drawing):
    rows = [ax for ax in drawing.figure.axes if ax.images]
    assert len(rows) == 15
    named = [ax.get_ylabel().split("\n")[0] for ax in rows if ax.get_ylabel()]
    assert named == ["topographic", "twin", "untrained"]
    assert "Moran's I 0.40" in rows[0].get_xlabel()
    assert "Moran's I 0.01" in rows[5].get_xlabel()
    # one scale for the three models
    ends = {ax.images[-1].get_clim() for ax in rows[::5]}
    assert ends == {(0.0, 1.0)}
    assert len({ax.images[-1].get_clim() for ax in rows[4::5]}) == 1
    assert "nothing known" in rows[11].get_xlabel()  # a of the untrained self, whose c is below .05


def test_the_yoking_drawn_is_that_over_sentences(drawing, folder):
    saved = Integration.load(folder / "yoking_topolm-tiny.nc")
    yoking = saved.values("blocks.1", "yoking")
    image = [ax for ax in drawing.figure.axes if ax.images][4].images[-1].get_array()
    assert np.allclose(np.ma.filled(image, np.nan).ravel(), yoking, equal_nan=True)
    assert np.isnan(yoking).sum() == 2
    steps = drawing.figure.axes[-1]
    assert STARTS in steps.get_legend_handles_labels()[1]
    assert [round(float(one.get_xdata()[0])) for one in steps.lines if one.get_linestyle() == ":"] == [4, 8]


def test_depth_has_a_row_a_family_in_the_colours_of_its_models(drawing):
    labelled = [ax for ax in drawing.figure.axes if ax.get_ylabel().endswith("median over units")]
    assert [ax.get_ylabel().split("\n")[0] for ax in labelled] == list(FAMILIES)
    for ax, name in zip(labelled, FAMILIES, strict=True):
        marks = [one for one in ax.lines if one.get_linestyle() == "None" and len(one.get_xdata()) == len(LAYERS)]
        assert to_hex(marks[0].get_color()).upper() == model_colour(name)
        assert marks[0].get_ydata()[-1] == pytest.approx(0.4 if name == "topolm-tiny" else 0.35, rel=0.15)


def test_the_table_holds_every_number_and_the_caption_says_how(drawing, tmp_path):
    table = drawing.numbers
    assert set(table["part"]) == {"map", "curve", "step"}
    row = table.query("role == 'topographic' and layer == 'blocks.2' and what == 'c'").iloc[0]
    assert row["median"] == pytest.approx(0.4, rel=0.1)
    assert (row["morans_i"], row["p_layout"]) == (0.4, 0.001)
    assert row["share_known"] == pytest.approx(22 / 24)
    assert table.query("part == 'curve' and at == 0")["median"].tolist() == [1.0] * 12
    steps = table.query("part == 'step' and role == 'topographic' and layer == 'blocks.2'").set_index("at")["median"]
    assert steps[[3, 4, 5]].tolist() == pytest.approx([-0.001, 0.08, -0.001])
    for words in (
        "114 sequences (word-runs)",
        "rule: same-tag",
        "blocks.1",
        "Grey, not known: a where c < .05",
        "4 words",
    ):
        assert words in drawing.caption
    assert "simulated" not in drawing.caption
    assert drawing.figure.get_size_inches()[0] == PAGE_INCHES
    assert save(drawing, tmp_path, "fig16").stat().st_size > 20_000
    assert (tmp_path / "fig16.csv").is_file()


def test_what_is_not_there_is_left_out(tmp_path):
    assert fig16.draw(tmp_path) is None
    drawing = fig16.draw(fill(tmp_path, ["topolm-tiny"], yoked=False, sheets=False, simulated=True))
    assert not any(ax.images for ax in drawing.figure.axes)
    assert "first words" not in drawing.caption
    assert "Moran" not in drawing.caption
    assert "(simulated)" in drawing.caption
    assert set(drawing.numbers["part"]) == {"map", "curve"}
    plt.close(drawing.figure)


def test_layers_are_spaced_from_first_to_last():
    assert fig16.spaced([str(i) for i in range(12)]) == ["0", "4", "7", "11"]
    assert fig16.spaced(["a", "b"]) == ["a", "b"]
