"""How fast is the nested ridge, beside himalaya and scikit-learn?

Five outer and five inner contiguous folds, 20 penalties from 1 to 1e7, a penalty a voxel; one outer fold is timed. Every
way runs in a process of its own, which makes the data, measures how fast large products and eigendecompositions are on
this machine at this moment, runs a tiny problem to warm up, then the real one. Its peak memory is told beside what it
held before it began (imports and data). The *floor* counts what K-fold choice needs: one eigendecomposition for every
inner fold and one to refit, on the smaller side; one rotation of the responses a fold; one product a penalty and fold.
A route with fewer operations than this usual one can lie below it. Leave-one-out and GCV do another job (no inner folds);
scikit-learn's RidgeCV chooses so.

Features are Gaussian with a spectrum k^-1 (``--spectrum white``: flat; a full run adds it for shape A) and mean variance
1; ridge does not see a rotation of features, so none is made. Responses mix 128 directions that are random over all
features with random weights, plus noise; their true share of variance is uniform in 0 to .6 over voxels.

    python -m benchmarks.encoding [--quick] [--shapes A B] [--threads 2] [--spectrum white]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

RESULT = Path(__file__).parent / "results" / "encoding.json"
SHAPES = {
    "A": (1000, 768, 10_000),
    "B": (1000, 3072, 10_000),
    "C": (627, 768, 13_000),
    "D": (5000, 1600, 5000),
    "many voxels": (1000, 3072, 100_000),
    "small": (200, 50, 300),
}
"""Stimuli, features, voxels."""
ALPHAS = np.logspace(0, 7, 20)
N_FOLDS = 5
TOP_LEVEL = ("A", "B", "C", "D")
ONE_THREAD = ("A", "C")
"""Shapes that run on one thread too unless told otherwise: the others would take half an hour more."""


class Data(NamedTuple):
    """Features, responses and folds of both levels."""

    X: np.ndarray
    Y: np.ndarray
    outer: list[tuple[np.ndarray, np.ndarray]]
    inner: list[list[tuple[np.ndarray, np.ndarray]]]


class Fit(NamedTuple):
    """What a way found on the first outer fold, one value a voxel; loss None where a way keeps none that compares."""

    r: np.ndarray
    alpha: np.ndarray
    loss: np.ndarray | None


def contiguous(n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (training, held-out) rows of contiguous folds."""
    rows = np.arange(n)
    return [(np.setdiff1d(rows, test), test) for test in np.array_split(rows, N_FOLDS)]


def make_data(shape: tuple[int, int, int], spectrum: str, seed: int = 0) -> Data:
    """Return float32 data with planted weights, made without large temporaries."""
    n, p, v = shape
    rng = np.random.default_rng(seed)
    scale = np.arange(1, p + 1) ** -0.5 if spectrum == "k^-1" else np.ones(p)
    X = rng.standard_normal((n, p), dtype=np.float32)
    X *= (scale / np.sqrt((scale**2).mean())).astype(np.float32)
    directions = X @ rng.standard_normal((p, 128), dtype=np.float32)
    directions /= directions.std(axis=0)
    share = rng.uniform(0, 0.6, v).astype(np.float32)
    Y = np.empty((n, v), dtype=np.float32)
    for start in range(0, v, 2048):
        some = slice(start, start + 2048)
        signal = directions @ rng.standard_normal((128, len(share[some])), dtype=np.float32)
        Y[:, some] = signal / signal.std(axis=0) * np.sqrt(share[some])
        Y[:, some] += np.sqrt(1 - share[some]) * rng.standard_normal(Y[:, some].shape, dtype=np.float32)
    outer = contiguous(n)
    return Data(X, Y, outer, [contiguous(len(train)) for train, _ in outer])


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Pearson's r of every column, sums in float64."""
    a, b = a - a.mean(axis=0, dtype=np.float64), b - b.mean(axis=0, dtype=np.float64)
    norm = np.sqrt(np.einsum("ij,ij->j", a, a) * np.einsum("ij,ij->j", b, b))
    return np.asarray(np.einsum("ij,ij->j", a, b) / np.where(norm > 0, norm, np.inf))


# --- the ways --------------------------------------------------------------------------------------------------------


def by_topobrain(data: Data, precision: Any, selection: Any = "kfold", **options: Any) -> Fit:
    """Score the first outer fold with `topobrain.stats.nested_ridge`."""
    from topobrain.stats import nested_ridge

    given = {"alphas": ALPHAS, "outer": data.outer[:1], "inner": data.inner[:1], **options}
    found = nested_ridge(data.X, data.Y, **given, selection=selection, precision=precision)
    return Fit(found.r[0], found.alpha[0], found.loss[0] if selection == "kfold" else None)


def by_himalaya(data: Data, backend: str, kind: str) -> Fit:
    """Score the first outer fold with himalaya's cross-validated ridge."""
    import himalaya.backend
    import himalaya.kernel_ridge
    import himalaya.ridge
    from sklearn.model_selection import PredefinedSplit

    here = himalaya.backend.set_backend(backend)
    (train, test), folds = data.outer[0], np.empty(len(data.outer[0][0]), dtype=int)
    for number, (_, held_out) in enumerate(data.inner[0]):
        folds[held_out] = number
    room = himalaya.ridge.RidgeCV if kind == "RidgeCV" else himalaya.kernel_ridge.KernelRidgeCV
    model = room(alphas=ALPHAS.astype(np.float32), fit_intercept=True, cv=PredefinedSplit(folds))
    X, Y = here.asarray(data.X), here.asarray(data.Y)
    model.fit(X[train], Y[train])
    prediction = here.to_numpy(model.predict(X[test]))
    r = correlation(prediction, data.Y[test])
    # himalaya's score is the negative mean squared error, averaged over folds
    return Fit(r, here.to_numpy(model.best_alphas_), -here.to_numpy(model.cv_scores_).reshape(-1))


def by_ridge_cv(data: Data) -> Fit:
    """Score the first outer fold with scikit-learn's RidgeCV: leave-one-out in closed form, in float64."""
    from sklearn.linear_model import RidgeCV

    train, test = data.outer[0]
    model = RidgeCV(alphas=ALPHAS, alpha_per_target=True, fit_intercept=True)
    model.fit(data.X[train].astype(np.float64), data.Y[train].astype(np.float64))
    return Fit(correlation(model.predict(data.X[test]), data.Y[test]), model.alpha_, None)


def by_folds(data: Data) -> Fit:
    """Score with scikit-learn's Ridge, a fit a fold and penalty, on the first of the inner folds only."""
    from sklearn.linear_model import Ridge

    (train, test), (fit, held_out) = data.outer[0], data.inner[0][0]
    X, Y = data.X[train], data.Y[train]
    losses = []
    for alpha in ALPHAS:
        wrong = Ridge(alpha).fit(X[fit], Y[fit]).predict(X[held_out]) - Y[held_out]
        losses.append((wrong**2).mean(axis=0))
    choice = np.argmin(losses, axis=0)
    r = np.empty(len(choice))
    for one in np.unique(choice):
        voxels = np.flatnonzero(choice == one)
        prediction = Ridge(ALPHAS[one]).fit(X, Y[:, voxels]).predict(data.X[test]).reshape(len(test), -1)
        r[voxels] = correlation(prediction, data.Y[np.ix_(test, voxels)])
    return Fit(r, ALPHAS[choice], None)


WAYS: dict[str, Callable[[Data], Fit]] = {
    "topobrain float32": lambda data: by_topobrain(data, "float32"),
    "topobrain mixed": lambda data: by_topobrain(data, "mixed"),
    "topobrain float64": lambda data: by_topobrain(data, "float64"),
    "himalaya RidgeCV torch": lambda data: by_himalaya(data, "torch", "RidgeCV"),
    "himalaya RidgeCV numpy": lambda data: by_himalaya(data, "numpy", "RidgeCV"),
    "himalaya KernelRidgeCV torch": lambda data: by_himalaya(data, "torch", "KernelRidgeCV"),
    "scikit-learn Ridge, one inner fold": by_folds,
    "topobrain gcv": lambda data: by_topobrain(data, "float32", "gcv"),
    "topobrain loo": lambda data: by_topobrain(data, "float32", "loo"),
    "scikit-learn RidgeCV": by_ridge_cv,
}
REFERENCE = {"K-fold": "topobrain float64", "leave-one-out": "scikit-learn RidgeCV"}
INNER_FOLDS_RUN = {"scikit-learn Ridge, one inner fold": 1}
WHITE_WAYS = ("topobrain float32", "topobrain mixed", "topobrain float64", "himalaya RidgeCV torch")
"""Ways that a full run also tries on features with a flat spectrum (shape A)."""
QUICK_SKIPS = ("himalaya RidgeCV numpy", "scikit-learn Ridge, one inner fold")


def job_of(way: str) -> str:
    """Return how a way chooses its penalties."""
    closed = ("topobrain gcv", "topobrain loo", "scikit-learn RidgeCV")
    return "leave-one-out" if way in closed else "K-fold"


# --- in a process of its own -----------------------------------------------------------------------------------------


class Clock:
    """Wall and CPU seconds of a block."""

    def __enter__(self) -> Clock:
        self.start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self.start[0], time.process_time() - self.start[1]

    def seconds(self) -> dict[str, float]:
        """Return both, rounded."""
        return {"wall_s": round(self.wall, 4), "cpu_s": round(self.cpu, 4)}


def timed(call: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Return seconds and the result."""
    with Clock() as clock:
        result = call()
    return clock.seconds(), result


def resident_mb() -> float:
    """Return what the process holds now; where that cannot be had, its peak."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1]) / 1e3  # type: ignore[index]
    return peak_mb()


def peak_mb() -> float:
    """Return the largest size the process had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def rates(size: int) -> dict[str, dict[str, float]]:
    """Return GFLOP/s of a square product in torch, best of three: dtype -> a second of wall and of CPU."""
    import torch

    found = {}
    for dtype in (torch.float32, torch.float64):
        a, b = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
        took = [timed(lambda: a @ b)[0] for _ in range(4)][1:]  # noqa: B023
        operations = 2e-9 * size**3
        found[str(dtype).removeprefix("torch.")] = {
            "wall": round(operations / min(t["wall_s"] for t in took), 1),
            "cpu": round(operations / max(min(t["cpu_s"] for t in took), 1e-4), 1),
        }
    return found


def floor(shape: tuple[int, int, int], n_alphas: int = len(ALPHAS)) -> tuple[float, list[int]]:
    """Return GFLOP of the products of one outer fold, and the sizes of the eigendecompositions."""
    n, p, v = shape
    train = n - n // N_FOLDS
    fit, held_out = train - train // N_FOLDS, train // N_FOLDS

    def rotation(rows: int) -> float:
        return 2.0 * rows * rows * v if rows < p else 2.0 * p * (rows + p) * v

    inner = rotation(fit) + n_alphas * 2.0 * held_out * min(fit, p) * v
    last = rotation(train) + 2.0 * (n - train) * min(train, p) * v
    return (N_FOLDS * inner + last) / 1e9, [min(fit, p)] * N_FOLDS + [min(train, p)]


def floor_seconds(shape: tuple[int, int, int], speed: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return the least seconds of one outer fold, a dtype and clock: products at the rate measured, plus decompositions."""
    import torch

    gflop, sizes = floor(shape)
    found: dict[str, dict[str, float]] = {}
    for name in speed:
        spent = {"wall": 0.0, "cpu": 0.0}
        for size in sorted(set(sizes)):
            half = torch.randn(size, size + 8, dtype=getattr(torch, name))
            gram = half @ half.T
            took = min((timed(lambda: torch.linalg.eigh(gram))[0] for _ in range(2)), key=lambda t: t["cpu_s"])  # noqa: B023
            for clock in spent:
                spent[clock] += sizes.count(size) * took[f"{clock}_s"]
        found[name] = {clock: round(spent[clock] + gflop / speed[name][clock], 4) for clock in spent}
    return found


def one(asked: dict[str, Any]) -> dict[str, Any]:
    """Run one way on one shape and return what it took; its scores go to a file."""
    shape = tuple(asked["shape"])
    data = make_data(shape, asked["spectrum"])
    call = WAYS[asked["way"]]
    warm_up = make_data((60, 20 if shape[1] < shape[0] else 80, 40), asked["spectrum"])
    call(warm_up)
    before = resident_mb()
    turns = [timed(lambda: call(data))]
    peak = peak_mb()
    while turns[0][0]["wall_s"] < 2 and len(turns) < asked["repeats"]:
        turns.append(timed(lambda: call(data)))
    fit: Fit = turns[0][1]
    np.savez(asked["file"], **{name: value for name, value in fit._asdict().items() if value is not None})
    speed = rates(1536 if max(shape) > 2000 else 768)
    return {
        **{key: round(statistics.median(took[key] for took, _ in turns), 4) for key in ("wall_s", "cpu_s")},
        "turns": len(turns),
        "held_before_mb": round(before),
        "peak_mb": round(peak),
        "peak_beyond_mb": round(peak - before),
        "mean_r": round(float(np.nanmean(fit.r)), 5),
        "gflops": speed,
        "floor_s": floor_seconds(shape, speed),
    }


# --- further cases, each in a process of its own ---------------------------------------------------------------------


def case_many_voxels(shape: tuple[int, int, int], spectrum: str) -> dict[str, Any]:
    """100,000 voxels in a bounded memory."""
    data = make_data(shape, spectrum)
    by_topobrain(make_data((60, 80, 40), spectrum), "float32")
    before = resident_mb()
    took, _ = timed(lambda: by_topobrain(data, "float32", max_memory="2 GiB"))
    return {**took, "held_before_mb": round(before), "peak_mb": round(peak_mb()), "max_memory": "2 GiB"}


def case_layers(shape: tuple[int, int, int], spectrum: str) -> dict[str, Any]:
    """13 layers in one call beside one."""
    from topobrain.stats import nested_ridge_layers

    data = make_data(shape, spectrum)
    rng = np.random.default_rng(1)
    layers = {f"layer {i}": data.X + 0.1 * i * rng.standard_normal(data.X.shape, dtype=np.float32) for i in range(13)}
    options = {"alphas": ALPHAS, "outer": data.outer[:1], "inner": data.inner[:1], "precision": "float32"}
    by_topobrain(make_data((60, 80, 40), spectrum), "float32")
    single, _ = timed(lambda: by_topobrain(data, "float32"))
    thirteen, _ = timed(lambda: [fit.r for _, fit in nested_ridge_layers(layers, data.Y, **options)])
    return {"one": single, "thirteen": thirteen, "ratio": ratio(thirteen, single), "peak_mb": round(peak_mb())}


def case_permutations(shape: tuple[int, int, int], spectrum: str) -> dict[str, Any]:
    """1,000 permutations at the chosen penalties beside the fit itself, all five outer folds."""
    from topobrain.stats import nested_ridge, permuted_scores
    from topobrain.stats.folds import given_folds

    data = make_data(shape, spectrum)
    options = {"alphas": ALPHAS, "outer": data.outer, "inner": data.inner, "precision": "float32"}
    by_topobrain(make_data((60, 80, 40), spectrum), "float32")
    fitted, fit = timed(lambda: nested_ridge(data.X, data.Y, **options))
    roi = np.arange(shape[2]) % 6
    folds = given_folds(data.outer, shape[0])
    observed = fit.r.mean(axis=0)
    permuted, _ = timed(
        lambda: permuted_scores(
            data.X, data.Y, folds, fit.alpha, roi, n_regions=6, observed=observed, n_permutations=1000
        )
    )
    return {"fit": fitted, "permutations": permuted, "ratio": ratio(permuted, fitted), "peak_mb": round(peak_mb())}


def case_alphas(shape: tuple[int, int, int], spectrum: str) -> dict[str, Any]:
    """100 penalties beside 20."""
    data = make_data(shape, spectrum)
    by_topobrain(make_data((60, 80, 40), spectrum), "float32")
    twenty, few = timed(lambda: by_topobrain(data, "float32"))
    hundred, many = timed(lambda: by_topobrain(data, "float32", alphas=np.logspace(0, 7, 100)))
    apart = float(np.abs(np.nan_to_num(few.r) - np.nan_to_num(many.r)).mean())
    return {"twenty": twenty, "hundred": hundred, "ratio": ratio(hundred, twenty), "mean_r_moves": round(apart, 5)}


def case_small(shape: tuple[int, int, int], spectrum: str) -> dict[str, Any]:
    """A problem too small for two threads: the best of 20."""
    data = make_data(shape, spectrum)
    took = [timed(lambda: by_topobrain(data, "float32"))[0] for _ in range(21)][1:]
    return {key: min(t[key] for t in took) for key in ("wall_s", "cpu_s")}


CASES: dict[str, tuple[Callable[..., dict[str, Any]], str]] = {
    "100,000 voxels": (case_many_voxels, "many voxels"),
    "13 layers": (case_layers, "C"),
    "1,000 permutations": (case_permutations, "A"),
    "100 penalties": (case_alphas, "A"),
    "small problem": (case_small, "small"),
}


def ratio(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    """Return the ratio of two times, a clock."""
    return {clock: round(a[f"{clock}_s"] / b[f"{clock}_s"], 2) for clock in ("wall", "cpu")}


# --- the process that asks -------------------------------------------------------------------------------------------


def asked(threads: int, **question: Any) -> dict[str, Any]:
    """Ask a fresh process; an error is an answer."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(threads)), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "benchmarks.encoding", "--answer", json.dumps({**question, "threads": threads})]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1])
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"ended with {done.returncode}"]
        return {"error": reason[0][:200]}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def answer(question: dict[str, Any]) -> None:
    """Answer on standard output."""
    import torch

    torch.set_num_threads(question["threads"])
    warnings.simplefilter("ignore")
    shape, spectrum = tuple(question["shape"]), question["spectrum"]
    found = CASES[question["case"]][0](shape, spectrum) if "case" in question else one(question)
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def agreement(way: str, fits: dict[str, dict[str, np.ndarray]]) -> dict[str, Any] | None:
    """Return how far a way's choices and scores lie from those of the reference of its kind."""
    reference = REFERENCE[job_of(way)]
    if way == reference or way not in fits or reference not in fits or way in INNER_FOLDS_RUN:
        return None
    a, b = fits[way], fits[reference]
    same = np.isclose(a["alpha"], b["alpha"], rtol=1e-4)
    found: dict[str, Any] = {"reference": reference, "same_alpha": round(float(same.mean()), 5)}
    if same.any():
        found["largest_r_difference_at_same_alpha"] = float(f"{np.abs(a['r'] - b['r'])[same].max():.2g}")
    if "loss" in a and "loss" in b:
        found["largest_relative_loss_difference"] = float(f"{np.abs(a['loss'] / b['loss'] - 1).max():.2g}")
    return found


def compare(
    letter: str, threads: int, spectrum: str, options: argparse.Namespace, folder: Path
) -> list[dict[str, Any]]:
    """Return one row a way for one shape and number of threads."""
    shape = shape_of(letter, options.quick)
    rows, fits = [], {}
    for way in options.ways:
        file = folder / "fit.npz"
        found = asked(threads, way=way, shape=shape, spectrum=spectrum, repeats=3, file=str(file))
        row = {"shape": letter, "n_p_v": list(shape), "spectrum": spectrum, "threads": threads, "way": way}
        row |= {"choice": job_of(way), **found}
        rows.append(row)
        if "error" in found:
            continue
        with np.load(file) as saved:
            fits[way] = dict(saved)
        if way in INNER_FOLDS_RUN:  # four more inner folds like the one that ran; the refit is small beside them
            row["measured_s"] = {clock: found[f"{clock}_s"] for clock in ("wall", "cpu")}
            for clock in ("wall", "cpu"):
                row[f"{clock}_s"] = round(found[f"{clock}_s"] * N_FOLDS / INNER_FOLDS_RUN[way], 3)
        if job_of(way) == "K-fold":
            dtype = "float64" if "float64" in way else "float32"
            row["times_floor"] = {c: round(row[f"{c}_s"] / found["floor_s"][dtype][c], 2) for c in ("wall", "cpu")}
    ours = {job: next((r for r in rows if r["way"] == way and "wall_s" in r), None) for job, way in OURS.items()}
    for row in rows:
        row["agreement"] = agreement(row["way"], fits)
        best = ours[row["choice"]]
        if best is not None and "wall_s" in row:
            row["times_ours"] = ratio(row, best)
    return rows


OURS = {"K-fold": "topobrain mixed", "leave-one-out": "topobrain gcv"}
"""What the others are compared with."""


def shape_of(letter: str, quick: bool) -> tuple[int, int, int]:
    """Return stimuli, features and voxels; a fifth of each in a quick run."""
    n, p, v = SHAPES[letter]
    return (n // 5, p // 5, v // 5) if quick and letter != "small" else (n, p, v)


def further(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row a further case; the small problem on one thread and on all asked for."""
    rows = []
    for name, (_, letter) in CASES.items():
        for threads in sorted({1, max(options.threads)}) if name == "small problem" else [max(options.threads)]:
            shape = shape_of(letter, options.quick)
            found = asked(threads, case=name, shape=shape, spectrum=options.spectrum)
            rows.append({"case": name, "shape": letter, "n_p_v": list(shape), "threads": threads, **found})
    return rows


def table(rows: list[dict[str, Any]], cases: list[dict[str, Any]]) -> list[str]:
    """Return the lines of the table."""
    lines, block = [], None
    for r in rows:
        if block != (r["shape"], r["threads"], r["spectrum"]):
            block = (r["shape"], r["threads"], r["spectrum"])
            title = f"{r['shape']} {'x'.join(map(str, r['n_p_v']))} {r['spectrum']}, {r['threads']} thread(s)"
            heads = f"{'wall s':>9}{'CPU s':>9}{'x ours':>8}{'x floor':>9}{'MB more':>9}{'MB':>7}"
            lines += ["", f"{title:36}{heads}{'same alpha':>12}{'|dr|':>9}{'loss':>9}"]
        if "error" in r:
            lines.append(f"{r['way']:36}  {r['error']}")
            continue
        ours = f"{r['times_ours']['cpu']:8.2f}" if "times_ours" in r else f"{'-':>8}"
        above = f"{r['times_floor']['cpu']:9.2f}" if "times_floor" in r else f"{'-':>9}"
        line = f"{r['way']:36}{r['wall_s']:9.2f}{r['cpu_s']:9.2f}{ours}{above}{r['peak_beyond_mb']:9}{r['peak_mb']:7}"
        if a := r["agreement"]:
            numbers = (a.get("largest_r_difference_at_same_alpha"), a.get("largest_relative_loss_difference"))
            line += f"{a['same_alpha']:12.4f}" + "".join(f"{'-' if x is None else f'{x:.0e}':>9}" for x in numbers)
        lines.append(line)
    lines.append("")
    for case in cases:
        told = {key: value for key, value in case.items() if key not in ("case", "shape", "n_p_v")}
        lines.append(f"{case['case']} ({'x'.join(map(str, case['n_p_v']))}): {json.dumps(told)}")
    return lines


def main() -> None:
    """Measure, print a table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shapes", nargs="*", choices=TOP_LEVEL, default=None, help="default all; none at all: only the further cases"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=None, help="default 2, and 1 for the shapes A and C")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=None)
    parser.add_argument("--spectrum", choices=("k^-1", "white"), default="k^-1")
    parser.add_argument("--no-cases", action="store_true", help="leave out layers, permutations and the like")
    parser.add_argument("--quick", action="store_true", help="shape B at a fifth in every direction, one thread")
    parser.add_argument("--out", type=Path, default=None, help="default: results/encoding.json, nowhere with --quick")
    parser.add_argument("--answer", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        return answer(options.answer)
    from benchmarks.topo_loss import machine

    before = {key: value for key, value in machine().items() if key != "threads"}
    shapes = options.shapes if options.shapes is not None else (["B"] if options.quick else list(TOP_LEVEL))
    wanted = options.threads
    options.threads = wanted or ([1] if options.quick else [1, 2])
    options.ways = options.ways or [way for way in WAYS if not (options.quick and way in QUICK_SKIPS)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for letter in shapes:
            for threads in options.threads:
                if wanted or options.quick or threads > 1 or letter in ONE_THREAD:
                    rows += compare(letter, threads, options.spectrum, options, Path(folder))
        if not (options.shapes or options.quick or options.spectrum == "white"):
            options.ways = [way for way in options.ways if way in WHITE_WAYS]
            rows += compare("A", max(options.threads), "white", options, Path(folder))
    cases = [] if options.no_cases else further(options)
    packages = ("numpy", "scipy", "torch", "himalaya", "scikit-learn", "topobrain")
    result = {
        "benchmark": "nested ridge, seconds an outer fold, 20 penalties, 5 inner folds, a penalty a voxel",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "spectrum": options.spectrum,
        "machine": before,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "rows": rows,
        "cases": cases,
    }
    out = options.out or (None if options.quick else RESULT)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write("\n".join(table(rows, cases)) + "\n")
    return None


if __name__ == "__main__":
    main()
