from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_alignments import make_alignment, make_spatial
from matplotlib import pyplot as plt
from matplotlib.collections import TriMesh
from matplotlib.colors import to_hex

from analyses.localize_language import file_label
from figures import fig15_spatial_alignment as fig15
from figures.style import PAGE_INCHES, save
from topobrain.plot.alignment import STAR

STREAMS = [f"blocks.0.attention.{name}" for name in ("query", "key")]
FAMILIES = {
    "topolm-tiny": {"blocks.0": 0.3, "blocks.1": 0.1},
    "topoformer-tiny": dict(zip(STREAMS, (0.2, 0.25), strict=True)),
}
CONTROLS = {"twin": 0.1, "untrained": 0.15}
PLANTED = {"topographic": 0.4, "shuffled units": 0.1, "unrelated": 0.0}


def fill(folder: Path) -> Path:
    tables = []
    vertices = {"vertex": np.arange(100, 140)}
    for family, r in FAMILIES.items():
        aligned = make_alignment({layer: [2 * value, value, 0.0] for layer, value in r.items()}, name=family, controls=CONTROLS,
                                 rois=("IFG",), voxels=40, voxel_coords=vertices, simulated=True)  # fmt: skip
        aligned.save(folder / f"alignment_{file_label(family)}.nc")
        tables.append(aligned.summary().assign(family=family))
        make_spatial(r, name=family, controls=CONTROLS, simulated=True).save(
            folder / f"spatial_{file_label(family)}.nc"
        )
    for case, value in PLANTED.items():
        label, p = file_label(case), 0.01 if case == "topographic" else 0.5
        make_alignment({"sheet": [0.8]}, name=case, simulated=True).save(folder / f"planted-alignment_{label}.nc")
        made = make_spatial({"sheet": value}, name=case, p_max=p, smoothness=value, simulated=True)
        made.save(folder / f"planted-spatial_{label}.nc")
    pd.concat(tables).to_csv(folder / "layers.csv", index=False)
    return folder


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("spatial"))


@pytest.fixture(scope="module")
def drawing(folder):
    made = fig15.draw(folder)
    yield made
    plt.close(made.figure)


def drawn(ax, look):
    return [
        float(one.get_ydata()[0])
        for one in ax.lines
        if len(one.get_ydata()) == 1 and to_hex(one.get_color()).upper() == look.colour
    ]


def test_planted_cases_are_in_order_and_told_apart_by_the_map_alone(drawing):
    assert drawing.numbers.query("part == 'planted'")["family"].unique().tolist() == list(PLANTED)
    pls, smooth, mapping = drawing.figure.axes[:3]
    assert drawn(pls, fig15.FOUND) == [0.8]
    assert drawn(pls, fig15.SILENT) == [0.8, 0.8]
    assert drawn(smooth, fig15.SILENT) == pytest.approx([0.1, 0.0])
    assert drawn(mapping, fig15.FOUND) == [0.4]
    stars = [round(float(one.get_xdata()[0])) for one in mapping.lines if one.get_marker() == STAR]
    assert stars == [0]
    assert len(mapping.patches) == 6
    assert all("(simulated)" in ax.get_title() for ax in (pls, smooth, mapping))


def test_families_share_a_scale_and_the_topoformers_maps_are_drawn(drawing):
    panels = [next(ax for ax in drawing.figure.axes if ax.get_title() == f"{name} (simulated)") for name in FAMILIES]
    assert panels[0].get_ylim() == panels[1].get_ylim()
    meshes = [ax for ax in drawing.figure.axes if any(isinstance(one, TriMesh) for one in ax.collections)]
    assert len(meshes) == 2
    assert any(ax.get_title(loc="left").startswith("component 2, r 0.25") for ax in drawing.figure.axes)


def test_the_caption_and_the_table_say_everything(drawing, tmp_path):
    assert drawing.figure.get_size_inches()[0] == PAGE_INCHES
    for words in (
        "alone tells the first case from the 2 others drawn",
        "blurred under noise that stays rough",
        "40 voxels with places",
        "41 draws each",
        "planted cases, simulated",
        f"topoformer-tiny in {STREAMS[1]}",
    ):
        assert words in drawing.caption
    assert "(simulated)" in drawing.figure.get_suptitle()
    numbers = drawing.numbers
    assert set(numbers["part"]) == {"planted", "mapping", "smoothness"}
    assert numbers.query("part == 'planted' and family == 'unrelated'")["pls_r"].tolist() == [0.8]
    assert numbers.query("part == 'mapping' and layer == 'blocks.1'")["r"].tolist() == [0.1]
    assert save(drawing, tmp_path, "fig15").stat().st_size > 20_000


def test_without_planted_cases_or_without_places_the_rest_is_drawn(folder, tmp_path):
    assert fig15.draw(tmp_path) is None
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("planted-*"))
    drawing = fig15.draw(tmp_path)
    assert "planted" not in drawing.caption
    plt.close(drawing.figure)
    for path in tmp_path.glob("spatial_*.nc"):
        path.unlink()
    assert fig15.draw(tmp_path) is None
