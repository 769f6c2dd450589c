from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_scores import make_encoding, make_partition
from matplotlib import pyplot as plt

from figures import fig13_alice as fig13
from figures.style import PAGE_INCHES
from topobrain.plot import model_look

ROIS = ("LATL", "LPTL")
BASE = fig13.BASELINE
WORDS = {
    fig13.RATE: 0.3, BASE: 0.36, f"{BASE} + surprisal (stories260k)": 0.4, f"{BASE} + surprisal (stories260k untrained)": 0.37,
}  # fmt: skip
LAYERS = {BASE: 0.36, "embeddings": 0.3, "layers.0": 0.31, f"{BASE} + embeddings": 0.38, f"{BASE} + layers.0": 0.45}
FAMILIES = {
    fig13.WORDS: WORDS,
    fig13.NOTES: {BASE: 0.42},
    "stories260k": LAYERS,
    "stories260k untrained": {**LAYERS, f"{BASE} + layers.0": 0.35},
}


def fill(folder: Path) -> Path:
    rows = []
    for family, sets in FAMILIES.items():
        for onset in (fig13.RIGHT, fig13.WRONG):
            for target in (fig13.MEAN, fig13.EACH):
                scale = (onset == fig13.RIGHT) * (1.0 if target == fig13.MEAN else 0.5)
                if family != fig13.WORDS and onset == fig13.WRONG:
                    continue  # a folder of a run that was stopped: what is not there is not drawn
                one = make_encoding(
                    {roi: [scale * value for value in sets.values()] for roi in ROIS}, layers=list(sets), folds=6,
                    voxels=9 if target == fig13.EACH else 1, spread=0.1, ceiling=0.8 if target == fig13.MEAN else None,
                    options={"gap": 6},
                )  # fmt: skip
                one.save(folder / f"{'_'.join(map(fig13._slug, (family, onset, target)))}_6mm.nc")
                table = one.summary().rename(columns={"layer": "features"})
                own = table.loc[table["features"] == BASE].set_index("roi")["r"]
                added = table["features"].str.startswith(f"{BASE} + ")
                table["gain"] = np.where(added, table["r"] - table["roi"].map(own), np.nan)
                table = table.assign(gain_low=table["gain"] - 0.02, gain_high=table["gain"] + 0.02, gain_p_max=np.nan)
                if target == fig13.EACH:
                    table["gain_p_max"] = np.where(table["gain"] > 0.04, 0.001, 0.2)
                rows.append(table.assign(family=family, onset=onset, target=target))
    make_partition({roi: [0.1, -0.02] for roi in ROIS}, dict.fromkeys(ROIS, 0.03)).save(folder / "partition_6mm.nc")
    pd.concat(rows).to_csv(folder / "encode_alice_6mm.csv", index=False)
    return folder


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("alice"))


@pytest.fixture(scope="module")
def drawing(folder):
    made = fig13.draw(folder)
    yield made
    plt.close(made.figure)


MODEL = model_look("stories260k")


def markers(ax, label):
    handles, names = ax.get_legend_handles_labels()
    return np.asarray(handles[names.index(label)].get_ydata(), dtype=float)


def test_file_names_are_those_of_the_analysis():
    from analyses import encode_alice

    for text in (*FAMILIES, fig13.RIGHT, fig13.EACH):
        assert fig13._slug(text) == encode_alice._slug(text)
    for name in ("RATE", "BASELINE", "NOTES", "MEAN", "EACH", "RIGHT", "WRONG"):
        assert getattr(fig13, name) == getattr(encode_alice, name)


def test_listeners_their_mean_and_the_wrong_onset_stand_side_by_side(drawing):
    ax = next(one for one in drawing.figure.axes if one.get_title() == "LATL")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [
        "word rate", "+ length, frequency", "the same, one penalty", "+ surprisal", "+ surprisal, untrained", "+ stories260k",
        "+ untrained model",
    ]  # fmt: skip
    assert np.allclose(np.sort(markers(ax, "a listener")), 0.15 + np.linspace(-0.1, 0.1, 9))
    assert markers(ax, "each listener predicted, mean") == pytest.approx([0.15])
    assert markers(ax, "mean of listeners predicted") == pytest.approx([0.3])
    assert markers(ax, "wrong onset") == pytest.approx([0.0])
    filled = [one for one in ax.lines if one.get_marker() == MODEL.marker and one.get_markersize() == 5]
    assert [float(one.get_ydata()[0]) for one in filled] == pytest.approx([0.44, 0.37])  # the layers chosen
    names = ax.get_legend_handles_labels()[1]
    assert "noise ceiling, mean of listeners" in names
    assert "noise ceiling, each listener" not in names  # not known here


def test_what_surprisal_and_layers_add_is_drawn_with_its_interval(drawing):
    for target, scale in ((fig13.MEAN, 1.0), (fig13.EACH, 0.5)):
        ax = next(one for one in drawing.figure.axes if one.get_ylabel() == f"gain in r,\n{target}")
        assert markers(ax, "surprisal (stories260k)") == pytest.approx([0.04 * scale] * 2)
        assert markers(ax, "surprisal (stories260k untrained)") == pytest.approx([0.01 * scale] * 2)
        assert markers(ax, "layers of stories260k") == pytest.approx([0.02 * scale, 0.09 * scale])
        assert markers(ax, "layers, untrained model") == pytest.approx([0.02 * scale, -0.01 * scale])
        stars = [round(float(one.xy[1]), 3) for one in ax.texts if one.get_text() == "*"]
        assert stars == ([] if target == fig13.MEAN else [0.065] * 2)  # over listeners
        stems = [one for group in ax.collections for one in group.get_segments()]
        assert np.allclose(sorted({round(float(one[1, 1] - one[0, 1]), 6) for one in stems}), [0.04])


def test_the_parts_of_variance_are_drawn_below(drawing):
    ax = next(one for one in drawing.figure.axes if "variance" in one.get_ylabel())
    assert markers(ax, "only model") == pytest.approx([0.1, 0.1])
    assert markers(ax, "only baseline") == pytest.approx([-0.02, -0.02])
    assert not any("shared" in name for name in ax.get_legend_handles_labels()[1])


def test_caption_and_numbers_hold_what_is_drawn(drawing):
    assert drawing.figure.get_size_inches()[0] == PAGE_INCHES
    for said in (
        "6 contiguous folds",
        "6 volumes dropped",
        "regions of 6 mm",
        "1,000 bootstrap",
        "500 circular",
        "wrong time",
    ):
        assert said in drawing.caption
    parts = drawing.numbers.query("part == 'partition' and features == 'baseline' and roi == 'LATL'")
    assert parts["variance"].tolist() == pytest.approx([-0.02])
    listeners = drawing.numbers.query("part == 'listeners' and features == 'word rate' and roi == 'LPTL'")
    assert np.allclose(listeners["r"], 0.15 + np.linspace(-0.1, 0.1, 9))


def test_the_smaller_regions_are_drawn_where_both_are_there(folder, tmp_path):
    for path in folder.iterdir():
        if "words" in path.name or path.suffix == ".csv":
            for size in ("6mm", "10mm"):
                shutil.copy(path, tmp_path / path.name.replace("6mm", size))
    (tmp_path / f"{'_'.join(map(fig13._slug, ('words', fig13.RIGHT, fig13.EACH)))}_10mm.nc").unlink()
    drawing = fig13.draw(tmp_path)
    assert "6 mm" in drawing.caption
    plt.close(drawing.figure)
    for path in tmp_path.glob("*6mm*"):
        path.unlink()
    assert fig13.draw(tmp_path) is None  # a file that the table names is gone
