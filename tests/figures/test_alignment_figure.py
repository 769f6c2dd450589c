from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_alignments import make_alignment
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from analyses.localize_language import file_label
from figures import fig14_alignment as fig14
from figures.style import PAGE_INCHES, save
from topobrain.plot import model_colour
from topobrain.sheet import Sheet

ROIS = ("IFG", "MFG", "AntTemp")
STREAMS = [f"blocks.0.attention.{name}" for name in ("query", "key")]
FAMILIES = {
    "stories260k": ({"layers.0": [0.3, 0.1], "layers.1": [0.2, 0.05]}, {"untrained": 0.2}, ()),
    "topoformer-tiny": (
        {"embeddings": [0.4, 0.0], STREAMS[0]: [0.1, 0.05], STREAMS[1]: [0.25, 0.02]}, {"twin": 0.02, "untrained": 0.05}, STREAMS,
    ),
}  # fmt: skip


def fill(folder: Path, families=FAMILIES, *, simulated: bool = False) -> Path:
    tables, smooth = [], []
    for family, (r, controls, laid) in families.items():
        common = {"name": family, "controls": controls, "simulated": simulated}
        one = make_alignment(r, rois=ROIS, sheet=Sheet.grid(4, 6), **common)
        one.save(folder / f"alignment_{file_label(family)}.nc")
        summary = one.summary()
        tables.append(summary.assign(family=family, laid_out=summary["layer"].isin(laid)))
        alone = {layer: values[:1] for layer, values in r.items()}
        make_alignment(alone, rois=("netw",), **common).save(folder / f"network_{file_label(family)}.nc")
        similar = make_alignment(alone, rois=ROIS, method="cka", weights=False, **common)
        similar.save(folder / f"alignment-cka_{file_label(family)}.nc")
        for layer in laid:
            for role, value in {"model": 0.5, **dict.fromkeys(controls, 0.01)}.items():
                row = {"family": family, "role": role, "layer": layer, "component": 1, "morans_i": value, "p": 0.01}
                smooth.append(row | {"null_mean": -0.001, "null_low": -0.1, "null_high": 0.1})
    pd.concat(tables).to_csv(folder / "layers.csv", index=False)
    pd.DataFrame(smooth).to_csv(folder / "smoothness.csv", index=False)
    return folder


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("alignment"))


@pytest.fixture(scope="module")
def families(folder):
    return fig14.families_of(folder)


@pytest.fixture(scope="module")
def drawing(folder, families):
    with pytest.MonkeyPatch.context() as patch:  # what is read already
        patch.setattr(fig14, "families_of", {folder: families}.__getitem__)
        made = fig14.draw(folder)
    yield made
    plt.close(made.figure)


def titled(drawing, title):
    return next(ax for ax in drawing.figure.axes if ax.get_title().split("\n")[0] == title)


@pytest.mark.slow
def test_families_have_their_results_in_the_order_of_the_table(families):
    assert [one.name for one in families] == list(FAMILIES)
    assert [list(one.others) for one in families] == [["pls", "cka"]] * 2
    assert all(one.network is not None and one.network.data.sizes["voxel"] == 1 for one in families)
    assert fig14.most_topographic(families).name == "topoformer-tiny"


@pytest.mark.slow
def test_the_layer_of_the_maps_is_one_that_training_laid_out(folder, families):
    shown = fig14.most_topographic(families).pls
    assert fig14.laid_out(folder, "topoformer-tiny") == STREAMS
    assert fig14.best_layer(shown, STREAMS) == STREAMS[1]
    assert fig14.best_layer(shown, []) == "embeddings"


@pytest.mark.slow
def test_every_layer_stands_above_all_its_components_and_the_network(drawing):
    top = titled(drawing, "stories260k")
    colour = model_colour("stories260k")
    drawn = [one.get_ydata() for one in top.lines if to_hex(one.get_color()).upper() == colour]
    assert any(np.allclose(one, [0.3, 0.2]) for one in drawn if len(one) == 2)
    strips = [ax for ax in drawing.figure.axes if ax.images and ax.images[0].get_array().shape == (3, 2)]
    assert np.allclose(strips[0].images[0].get_array(), [[0.3, 0.2], [0.1, 0.05], [0.3, 0.2]])
    assert [tick.get_text() for tick in strips[0].get_yticklabels()] == ["1", "2", "network"]
    dots = {(x, y) for line in strips[0].lines if line.get_marker() == "." for x, y in line.get_xydata()}
    assert dots == {(0, 0), (1, 0), (0, 1), (0, 2), (1, 2)}  # p is small above a null of .08


def test_differences_and_smoothness_are_those_of_the_results(drawing):
    less = titled(drawing, "model less untrained")
    values = [
        float(one.get_ydata()[0])
        for one in less.lines
        if len(one.get_ydata()) == 1 and to_hex(one.get_color()).upper() == model_colour("stories260k")
    ]
    assert values == pytest.approx([0.2, 0.2])
    assert [tick.get_text() for tick in less.get_xticklabels()] == ["PLS", "CKA"]
    smooth = titled(drawing, "component 1, layers laid out by training")
    assert [tick.get_text() for tick in smooth.get_xticklabels()] == ["query", "key"]
    assert len(smooth.patches) == 6
    above = next(ax.get_title(loc="left") for ax in drawing.figure.axes if "r 0.25" in ax.get_title(loc="left"))
    assert above == "component 1, r 0.25, p_max = .001\nMoran's I 0.50, p = .010 (null 0.00)"


@pytest.mark.slow
def test_the_page_and_the_caption_say_how_it_was_made(drawing, tmp_path):
    assert drawing.figure.get_size_inches()[0] == PAGE_INCHES
    said = (
        "of the layers laid out by training",
        "so that the largest unit weight is positive",
        "the high end drive the regions less",
        "12 stimuli",
        "3 regions",
        "5 contiguous folds",
        "1,000 bootstrap draws",
        "500 permutations",
        "depends on where units lie",
    )
    for words in said:
        assert words in drawing.caption
    assert "simulated" not in drawing.caption
    assert set(drawing.numbers["part"]) == {"score", "smoothness of unit weights"}
    row = drawing.numbers.query("family == 'stories260k' and target == 'network mean' and layer == 'layers.1'")
    assert row["r"].tolist() == [0.2]
    assert save(drawing, tmp_path, "fig14").stat().st_size > 20_000


@pytest.mark.slow
def test_nothing_is_drawn_of_an_empty_folder_and_simulated_is_said(tmp_path):
    assert fig14.draw(tmp_path) is None
    laid_out = {name: one for name, one in FAMILIES.items() if name == "topoformer-tiny"}
    drawing = fig14.draw(fill(tmp_path, laid_out, simulated=True))
    assert "(simulated)" in drawing.figure.get_suptitle()
    assert "(simulated)" in drawing.caption
    plt.close(drawing.figure)
    assert not any(fig14.IN_ORDER in ax.get_xlabel() for ax in drawing.figure.axes)
    (tmp_path / "smoothness.csv").unlink()
    table = pd.read_csv(tmp_path / "layers.csv")
    table.assign(laid_out=False).to_csv(tmp_path / "layers.csv", index=False)
    bare = fig14.draw(tmp_path)
    assert not any("Moran" in ax.get_ylabel() for ax in bare.figure.axes)
    assert sum(fig14.IN_ORDER in ax.get_xlabel() for ax in bare.figure.axes) == 2
    assert "nobody laid out" in bare.caption
    plt.close(bare.figure)
