from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import pytest
from made_alignments import make_alignment, make_components, make_spatial

from topobrain.report import build_report

R = {"blocks.0.attention.query": [0.31, 0.2], "blocks.0.attention.key": [0.17, 0.1]}


@pytest.mark.slow
def test_every_result_of_an_alignment_has_a_picture_and_a_table(tmp_path: Path) -> None:
    make_alignment(R, controls={"untrained": 0.1}, simulated=True).save(tmp_path / "alignment_m.nc")
    make_spatial({layer: values[0] for layer, values in R.items()}).save(tmp_path / "spatial_m.nc")
    make_components(R).save(tmp_path / "components_m.nc")
    make_components({"sub-1": 2}, brain=True).save(tmp_path / "components_brain.nc")
    page = build_report(tmp_path).read_text()
    assert page.count("data:image/png;base64,") == 4
    for words in (
        "Few dimensions shared with brain responses (simulated)",
        "Alignment that depends on where units and voxels lie",
        "Principal components",
        "It does not depend on where units lie",
    ):
        assert words in page
    assert "<td>0.310</td>" in page
    assert "<td>0.170</td>" in page
