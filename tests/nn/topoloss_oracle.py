"""Losses and gradients of the authors' package, computed in a process of its own: it needs an older typeguard.

`python topoloss_oracle.py FOLDER` reads FOLDER/cases.json and writes FOLDER/answers.npz; the folder with the package
comes first on PYTHONPATH. Tests import the rest, which needs the package not.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

SAMPLE = 20_000
FACTS = ("loss", "weight_sum", "l2", "abs_sum", "first")


def build(case):
    """Return the layer of a case, with its default initialisation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case["seed"])
        if "k" in case:
            layer = nn.Conv2d(case["in"], case["out"], case["k"], groups=case.get("groups", 1), bias=False)
        else:
            layer = nn.Linear(case["in"], case["out"])
    return layer.to(getattr(torch, case.get("dtype", "float32")))


def facts(layer, on, loss):
    """Return loss and gradient in numbers, and every so-many-th entry of the gradient."""
    loss.backward()
    tensor = layer.bias if on == "bias" else layer.weight
    gradient = tensor.grad.flatten()
    numbers = [loss.item(), tensor.double().sum().item(), gradient.double().norm().item()]
    numbers += [gradient.double().abs().sum().item(), gradient[0].item()]
    return np.array(numbers), gradient[:: max(1, len(gradient) // SAMPLE)].numpy().copy()


def main(folder):
    from topoloss import LaplacianPyramid, LaplacianPyramidOnBias, LaplacianPyramidOnInput, TopoLoss

    torch.set_num_threads(1)
    kinds = {"output": LaplacianPyramid, "input": LaplacianPyramidOnInput, "bias": LaplacianPyramidOnBias}
    answers = {}
    for number, case in enumerate(json.loads((folder / "cases.json").read_text())):
        model = nn.Sequential(build(case))
        on = case.get("on", "output")
        term = kinds[on].from_layer(model, model[0], *case["factor"], interpolation=case.get("mode", "bilinear"))
        answers[f"facts_{number}"], answers[f"gradient_{number}"] = facts(model[0], on, TopoLoss([term]).compute(model))
    read = [loss.__dict__ for loss in TopoLoss.from_json(str(folder / "losses.json")).losses]
    np.savez(folder / "answers.npz", read=json.dumps(read), **answers)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
