from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from made_scores import make_encoding, make_partition

from figures import fig12_language_network, fig13_alice

ROOT = Path(__file__).parents[2]


def test_a_folder_without_results_gives_no_figure(tmp_path):
    assert fig12_language_network.draw(tmp_path) is None
    assert fig13_alice.draw(tmp_path) is None


@pytest.mark.slow
def test_figures_of_encoding_results_need_no_torch(tmp_path):
    make_encoding({"netw": [0.1, 0.2]}, name="gpt").save(tmp_path / "encoding_gpt.nc")
    make_partition({"netw": [0.1, 0.2]}, {"netw": 0.1}, name="gpt").save(tmp_path / "partition_gpt_model.nc")
    (tmp_path / "best.csv").write_text("family,role\ngpt,model\n")
    code = (
        "import sys, pathlib; from figures import fig12_language_network as network, fig13_alice as alice; "
        f"folder = pathlib.Path({str(tmp_path)!r}); assert network.draw(folder) is not None; "
        "assert alice.draw(folder) is None; sys.exit('torch' in sys.modules)"
    )
    drawn = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert drawn.returncode == 0, drawn.stderr
