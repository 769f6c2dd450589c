"""Small studies for the tests of jobs."""

from __future__ import annotations

import numpy as np

import topobrain as tb

QUICK = {"n_bootstrap": 12, "n_permutations": 8, "alphas": (1.0, 100.0), "n_folds": 3, "inner_folds": 3}
"""Options of encode that keep a study quick."""


def made_activations(n: int = 60, widths: tuple[int, ...] = (8, 11), seed: int = 0) -> tb.Activations:
    rng = np.random.default_rng(seed)
    values = {f"layer{i}": rng.standard_normal((n, width)).astype(np.float32) for i, width in enumerate(widths)}
    return tb.Activations.from_arrays(values, sentences(n), provenance={"model": {"name": f"made-{seed}"}})


def made_responses(
    n: int = 60, n_voxels: int = 14, subjects: tuple[str, ...] = ("a", "b"), seed: int = 0
) -> tb.BrainResponses:
    """Responses that the first layer of `made_activations` predicts; voxels of the subjects alternate, one is unusable."""
    rng = np.random.default_rng([seed, 1])
    features = made_activations(n, seed=seed).values("layer0")
    values = features @ rng.standard_normal((features.shape[1], n_voxels)) + 2 * rng.standard_normal((n, n_voxels))
    values[3, 2] = np.nan
    return tb.BrainResponses.from_arrays(
        values, sentences(n),
        roi=["IFG" if voxel % 3 else "MFG" for voxel in range(n_voxels)],
        subject=[subjects[voxel % len(subjects)] for voxel in range(n_voxels)],
        ceiling=0.8,
    )  # fmt: skip


def sentences(n: int) -> tb.StimulusSet:
    return tb.StimulusSet([f"sentence number {i}" for i in range(n)], name="made")


def differences(one: tb.Result, other: tb.Result) -> dict[str, float]:
    """Return the largest difference of each variable that is not equal to the last bit (infinity where labels differ)."""
    assert set(one.data.variables) == set(other.data.variables)
    found = {}
    for name in one.data.variables:
        a, b = one.data[name].values, other.data[name].values
        if a.dtype.kind != "f":
            if not np.array_equal(a, b):
                found[str(name)] = np.inf
        elif not np.array_equal(a, b, equal_nan=True):
            assert np.array_equal(np.isnan(a), np.isnan(b)), name
            found[str(name)] = float(np.nanmax(np.abs(a - b)))
    return found
