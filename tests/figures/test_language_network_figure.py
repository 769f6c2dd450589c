from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_scores import make_encoding, make_partition
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from analyses.localize_language import file_label
from figures import fig12_language_network as fig12
from figures.style import PAGE_INCHES, save
from topobrain.plot import model_colour

ROIS = ("IFG", "netw")
CEILINGS = [0.5, 0.6]
FAMILIES = {
    "stories260k": {"model": [0.1, 0.4, 0.3], "untrained": [0.1, 0.12, 0.1]},
    "topolm-tiny": {"model": [0.2, 0.3], "twin": [0.2, 0.25], "untrained": [0.1, 0.1]},
}
NAMES = {"model": "{}", "twin": "{}-control", "untrained": "{} (untrained:0)"}
BASELINES = {"length and frequency": [0.15], "surprisal": [0.12]}


def fill(folder: Path) -> Path:
    rows = []

    def keep(name: str, family: str, role: str, scores: list[float], file: str) -> None:
        table = {roi: [value + 0.05 * (roi == "netw") for value in scores] for roi in ROIS}
        one = make_encoding(table, name=name, ceiling=CEILINGS)
        one.save(folder / f"encoding_{file_label(file)}.nc")
        rows.append(one.best().assign(family=family, role=role))

    for name, scores in BASELINES.items():
        # what the features of a baseline are called in its provenance is theirs: the file's name is what counts
        keep(f"{name} of words", name, "baseline", scores, name)
    for family, by_role in FAMILIES.items():
        for role, scores in by_role.items():
            name = NAMES[role].format(family)
            keep(name, family, role, scores, name)
            unique = {roi: [0.03 if role == "model" else -0.01, 0.05] for roi in ROIS}
            made = make_partition(unique, dict.fromkeys(ROIS, 0.02), name=name, ceiling=CEILINGS)
            made.save(folder / f"partition_{file_label(family)}_{role}.nc")
    pd.concat(rows).to_csv(folder / "best.csv", index=False)
    return folder


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def members(folder):
    return fig12.members_of(folder)


@pytest.fixture(scope="module")
def partitions(folder, members):
    return fig12.partitions_of(folder, members)


@pytest.fixture(scope="module")
def drawing(folder, members, partitions):
    with pytest.MonkeyPatch.context() as patch:  # what is read already
        patch.setattr(fig12, "members_of", {folder: members}.__getitem__)
        patch.setattr(fig12, "partitions_of", lambda results, read: {folder: partitions}[results])
        made = fig12.draw(folder)
    yield made
    plt.close(made.figure)


def drawn_points(ax, colour):
    """Values of the markers of a colour that stand alone."""
    return [
        float(one.get_ydata()[0])
        for one in ax.lines
        if len(one.get_ydata()) == 1 and to_hex(one.get_color()).upper() == colour
    ]


def test_every_model_is_known_by_family_and_role(members, partitions):
    assert [(one.family, one.role) for one in members] == [
        ("stories260k", "model"), ("stories260k", "untrained"),
        ("topolm-tiny", "model"), ("topolm-tiny", "twin"), ("topolm-tiny", "untrained"),
        ("length and frequency", "baseline"), ("surprisal", "baseline"),
    ]  # fmt: skip
    assert len(partitions) == 5


def test_the_network_shows_every_layer_beside_its_ceiling_and_the_baselines(drawing):
    axes = drawing.figure.axes
    first = next(ax for ax in axes if ax.get_title() == "stories260k")
    assert first.get_ylabel() == "held-out r, netw"
    assert np.allclose(first.lines[0].get_ydata(), [0.15, 0.45, 0.35])
    spans = [tuple(np.round(patch.get_y() + np.array([0, patch.get_height()]), 3)) for patch in first.patches]
    assert spans == [(0.15, 0.3), (0.12, 0.27)]  # 0.15 + 0.05 and 0.12 + 0.05 with their intervals
    last = next(ax for ax in axes if ax.get_title() == "topolm-tiny")
    twin = next(one for one in last.lines if one.get_label() == "topolm-tiny-control")
    assert twin.get_linestyle() == "--"
    (beside,) = last.child_axes
    assert beside.get_ylabel() == "r / noise ceiling"
    drawing.figure.canvas.draw()
    assert np.allclose(beside.get_ylim(), np.array(last.get_ylim()) / 0.6)


def test_chosen_layers_and_unique_variance_are_those_of_the_results(drawing):
    ifg = next(ax for ax in drawing.figure.axes if ax.get_title() == "IFG")
    assert drawn_points(ifg, model_colour("stories260k")) == pytest.approx([0.39])
    assert drawn_points(ifg, model_colour("topolm-tiny-control")) == pytest.approx([0.24])
    heights = {round(float(one.get_ydata()[0]), 3) for one in ifg.lines if one.get_linestyle() == "--"}
    assert heights == {0.5}
    unique = next(ax for ax in drawing.figure.axes if "unique" in ax.get_ylabel())
    lines = [one for one in unique.lines if to_hex(one.get_color()).upper() == model_colour("stories260k")]
    assert np.allclose(lines[0].get_ydata(), [0.03, 0.03])
    assert unique.get_ylim()[0] < -0.02  # intervals of the negative parts are in sight
    assert [tick.get_text() for tick in unique.get_xticklabels()] == ["IFG\nc² 0.25", "netw\nc² 0.36"]


def test_the_figure_fits_a_page_and_its_caption_says_how_it_was_made(drawing, tmp_path):
    assert drawing.figure.get_size_inches()[0] == PAGE_INCHES
    for said in (
        "20 sentences",
        "2 regions",
        "5 contiguous folds",
        "1,000 bootstrap draws",
        "500 permutations",
        "seed 0",
    ):
        assert said in drawing.caption
    assert "simulated" not in drawing.caption
    numbers = drawing.numbers
    assert set(numbers["part"]) == {"layers", "chosen in training folds", "partition"}
    row = numbers.query("part == 'partition' and component == 'model' and role == 'twin' and roi == 'IFG'")
    assert row["variance"].tolist() == pytest.approx([-0.01])
    path = save(drawing, tmp_path / "figures", "fig12_language_network")
    assert path.stat().st_size > 20_000


def test_without_partitions_the_rest_is_drawn(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("partition_*", "*topolm*"))
    made = make_encoding({roi: [0.1] for roi in ROIS}, name="surprisal", simulated=True)
    made.save(tmp_path / "encoding_surprisal.nc")
    drawing = fig12.draw(tmp_path)
    assert not any("unique" in ax.get_ylabel() for ax in drawing.figure.axes)
    assert "(simulated)" in drawing.figure.get_suptitle()
    assert "(simulated)" in drawing.caption
    plt.close(drawing.figure)
