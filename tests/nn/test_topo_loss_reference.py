"""Equality with the authors' package: the numbers it printed once, and the package itself where it is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from topoloss_oracle import FACTS, build, facts

from topobrain.nn import topo_loss, topo_sheet
from topobrain.nn.topoloss_compat import LaplacianPyramid, LaplacianPyramidOnBias, TopoLoss

ORACLES = Path(sys.prefix) / "oracles"
INSTALL = f"pip install --no-deps --target {ORACLES} topoloss==0.0.2 torchtyping==0.1.5 einops==0.8.2 typeguard==2.13.3"

LINEAR_30_25, LINEAR_64_64 = {"in": 30, "out": 25}, {"in": 64, "out": 64}
LINEAR_784, C_FC, C_PROJ = {"in": 784, "out": 256}, {"in": 768, "out": 3072}, {"in": 3072, "out": 768}
WIDE, MODES = {"in": 64, "out": 768}, {"in": 96, "out": 576, "seed": 3, "dtype": "float64"}
CONV_64, CONV_512 = {"in": 64, "out": 64, "k": 3}, {"in": 512, "out": 512, "k": 3}
DEPTHWISE, BIAS, INPUT = {**CONV_64, "groups": 64}, {"in": 30, "out": 256, "on": "bias"}, {**C_PROJ, "on": "input"}

# layer, factor, loss, weight sum, gradient: l2 norm, sum of absolute values, first entry (topoloss 0.0.2, torch 2.13)
PRINTED = [
    (LINEAR_30_25, 2, 0.6883769, -0.601756, 0.37749657, 8.23169, 1.511424e-02),
    (LINEAR_30_25, 3, 1.0109440, -0.601756, 0.47514742, 9.20325, -2.678980e-03),
    (LINEAR_30_25, 4, 0.9282690, -0.601756, 0.43326561, 8.81975, 1.532886e-02),
    (LINEAR_64_64, 2, 0.5450253, -4.854797, 0.19637736, 10.15245, -1.387375e-03),
    (LINEAR_64_64, 3, 0.9628096, -4.854797, 0.32351287, 13.92387, 1.841801e-03),
    (LINEAR_64_64, 4, 0.8590959, -4.854797, 0.28038441, 13.77946, 4.611996e-03),
    (LINEAR_784, 2, 0.5426335, 11.015340, 0.09692224, 35.03442, -8.855457e-05),
    (LINEAR_784, 3, 0.9084951, 11.015340, 0.14569398, 48.22484, -9.671444e-05),
    (LINEAR_784, 4, 0.8760240, 11.015340, 0.14079986, 48.12577, -1.053134e-04),
    (C_FC, 2, 0.5485616, 20.630687, 0.02810811, 34.80582, 1.166987e-05),
    (C_FC, 3, 0.8948269, 20.630687, 0.04168507, 47.56992, -6.640192e-06),
    (C_FC, 4, 0.8777111, 20.630687, 0.04054282, 47.44987, -3.915917e-05),
    (C_FC, 5, 0.9757332, 20.630687, 0.04345146, 45.81008, -3.350090e-05),
    (C_FC, 8, 0.9685482, 20.630687, 0.04340239, 45.76142, -2.059222e-05),
    (C_FC, 16, 0.9922326, 20.630687, 0.04343694, 42.80502, -5.848073e-06),
    (C_PROJ, 2, 0.5472631, 10.315343, 0.05611709, 69.51963, 1.728280e-06),
    (C_PROJ, 3, 0.9104798, 10.315343, 0.08391579, 95.55070, 1.924861e-05),
    (C_PROJ, 4, 0.8770980, 10.315343, 0.08121155, 95.12472, -3.634351e-05),
    (C_PROJ, 5, 0.9744993, 10.315343, 0.08712309, 91.44491, -6.862946e-05),
    (C_PROJ, 8, 0.9685817, 10.315343, 0.08641222, 91.32707, 7.360813e-05),
    (C_PROJ, 16, 0.9940602, 10.315343, 0.08775797, 84.35990, 3.605823e-05),
    (WIDE, 1, 0.0, 5.827488, 0.0, 0.0, 0.0),
    (WIDE, 1.5, 0.4514804, 5.827488, 0.05615748, 9.98335, 3.310771e-05),
    (WIDE, (2, 4), 0.7641082, 5.827488, 0.07435203, 13.07640, -1.898373e-04),
    (WIDE, (4, 2), 0.7650880, 5.827488, 0.07427781, 13.08414, 1.728443e-04),
    (WIDE, (5, 7), 0.9897404, 5.827488, 0.08873028, 13.00015, 4.151002e-04),
    ({**MODES, "mode": "bilinear"}, 4, 0.871633564585, -17.597573, 0.09263619, 16.68187, -3.032549e-04),
    ({**MODES, "mode": "nearest"}, 4, 0.944096128944, -17.597573, 0.09859476, 16.94147, 2.891391e-04),
    ({**MODES, "mode": "nearest-exact"}, 4, 0.936951894823, -17.597573, 0.09911736, 16.95774, 2.292187e-04),
    ({**MODES, "mode": "area"}, 4, 0.751155157138, -17.597573, 0.06975940, 13.12034, 6.519265e-05),
    ({**MODES, "mode": "bicubic"}, 4, 0.904949544588, -17.597573, 0.09533947, 17.07380, -3.372617e-04),
    (CONV_64, 2, 0.5368743, 4.233618, 0.19309642, 29.92930, -8.195361e-04),
    (CONV_64, 3, 0.9493681, 4.233618, 0.29859916, 41.24459, -1.088622e-03),
    (CONV_64, 4, 0.8783221, 4.233618, 0.28361174, 41.53508, -4.867467e-04),
    (CONV_512, 2, 0.5453932, 8.422443, 0.06862349, 85.00875, -8.594269e-05),
    (CONV_512, 3, 0.9193743, 8.422443, 0.10326678, 117.03150, -4.538257e-05),
    (CONV_512, 4, 0.8773323, 8.422443, 0.09925236, 116.32411, 3.601117e-05),
    (DEPTHWISE, 2, 0.6296465, -1.946483, 0.22260790, 4.23175, -1.633874e-02),
    (BIAS, 2, 0.5882108, 0.353938, 0.55907640, 7.16555, -6.577864e-02),
    (INPUT, 2, 0.5478727, 10.315343, 0.05617411, 69.55994, -4.634907e-05),
    (BIAS, 3, 0.9361121, 0.353938, 0.90389250, 9.76281, -9.469375e-02),
    (INPUT, 3, 0.8923453, 10.315343, 0.08334010, 95.18294, 8.874199e-06),
    (BIAS, 4, 0.8861676, 0.353938, 0.75869380, 9.41833, 3.568021e-03),
    (INPUT, 4, 0.8765982, 10.315343, 0.08145719, 95.20356, 3.906256e-05),
]
COUNTS = (12, 20, 48, 50, 100, 128, 192, 384, 512, 640, 1000, 1280, 1600)  # units whose sheet is no square, and others


def case(layer, factor, **more):
    factor = factor if isinstance(factor, tuple) else (factor, factor)
    return {"seed": 0, **layer, "factor": [float(f) for f in factor], **more}


def drawn_cases():
    """Sheets, factors and layers that nobody chose; the package wants more inputs than factor_h, h >= factor_w."""
    draw = np.random.default_rng(0)
    cases = []
    for n_units in COUNTS:
        height = topo_sheet(n_units).height
        for dtype in ("float32", "float64"):
            factor = (round(draw.uniform(1, height), 2), round(draw.uniform(1, height), 2))
            mode = str(draw.choice(["bilinear", "nearest", "nearest-exact", "area", "bicubic"]))
            shape = {"in": int(draw.integers(45, 60)), "out": n_units, "seed": n_units, "mode": mode, "dtype": dtype}
            cases.append(case(shape, factor))
    few = [case({"in": n, "out": 100, "seed": n, "dtype": "float64"}, (1, 3)) for n in (1, 2, 3)]
    bias = [case({"in": 5, "out": 96, "seed": s, "dtype": "float64", "on": "bias"}, (2.5, 3)) for s in (1, 2)]
    return cases + few + bias


CASES = [case(layer, factor) for layer, factor, *_ in PRINTED] + drawn_cases()


def ours(one):
    layer, on = build(one), one.get("on", "output")
    tensor = layer.bias if on == "bias" else layer.weight
    side = "input" if on == "input" else "output"
    return facts(layer, on, topo_loss(tensor, None, tuple(one["factor"]), one.get("mode", "bilinear"), on=side))


@pytest.mark.parametrize("row", PRINTED, ids=lambda row: f"{row[0]} {row[1]}")
def test_losses_and_gradients_equal_the_numbers_the_package_printed(row):
    layer, factor, *printed = row
    numbers, _ = ours(case(layer, factor))
    found, expected = dict(zip(FACTS, numbers, strict=True)), dict(zip(FACTS, printed, strict=True))
    assert found["weight_sum"] == pytest.approx(expected["weight_sum"], abs=1e-5)  # the seeded weights are the same
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-12 if layer.get("dtype") else 2e-6)
    if factor == 1:
        assert found["l2"] < 1e-7
        assert found["abs_sum"] < 1e-5
        return
    assert found["l2"] == pytest.approx(expected["l2"], rel=1e-4)
    assert found["abs_sum"] == pytest.approx(expected["abs_sum"], rel=1e-4)
    assert found["first"] == pytest.approx(expected["first"], rel=1e-4, abs=1e-6 * expected["l2"])


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Answers of the package itself to every case, from one process that sees its older dependencies."""
    if not (ORACLES / "topoloss").is_dir():
        pytest.skip(f"the authors' package is not installed; make setup does it, or: {INSTALL}")
    folder = tmp_path_factory.mktemp("topoloss")
    (folder / "cases.json").write_text(json.dumps(CASES))
    TopoLoss(
        [LaplacianPyramid("0", 2.0, 3.0, "nearest", None), LaplacianPyramidOnBias("0", 4.0, 4.0, scale=0.5)]
    ).save_json(folder / "losses.json")
    script = Path(__file__).with_name("topoloss_oracle.py")
    environment = {**os.environ, "PYTHONPATH": str(ORACLES), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "answers.npz") as answers:
        return dict(answers)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: str(CASES[number]))
def test_losses_and_gradients_equal_the_package(package, number):
    one = CASES[number]
    double = one.get("dtype") == "float64"
    numbers, gradient = ours(one)
    theirs, their_gradient = package[f"facts_{number}"], package[f"gradient_{number}"]
    assert numbers[0] == pytest.approx(theirs[0], abs=1e-12 if double else 2e-6)
    size = np.linalg.norm(their_gradient)
    # with one input, or with factor 1, the gradient is 0 but for rounding
    assert np.linalg.norm(gradient - their_gradient) <= (1e-9 * size + 1e-12 if double else 1e-4 * size + 2e-8)
    assert numbers[2] == pytest.approx(theirs[2], rel=1e-9 if double else 1e-4, abs=1e-12 if double else 2e-8)


@pytest.mark.slow
def test_the_package_reads_the_losses_that_the_compatible_entry_saves(package):
    assert json.loads(str(package["read"])) == [
        {"layer_name": "0", "factor_h": 2.0, "factor_w": 3.0, "interpolation": "nearest", "scale": None},
        {"layer_name": "0", "factor_h": 4.0, "factor_w": 4.0, "interpolation": "bilinear", "scale": 0.5},
    ]


def test_the_table_covers_what_it_claims():
    assert len(PRINTED) == 44
    assert {layer.get("mode") for layer, *_ in PRINTED} >= {"bilinear", "nearest", "nearest-exact", "area", "bicubic"}
    assert torch.get_default_dtype() == torch.float32
