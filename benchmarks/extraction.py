"""How fast are activations extracted, beside what a user would write or pick instead?

GPT-2 small and BERT base in size, with random weights, read sentences of 5 to 12 words; every way gives the mean and the
last token of the embeddings and of every block. ``tb.extract`` pools one way a call, so a row of its own has both. The
values of all ways are compared before the times are told: the last layer of transformers' GPT-2 comes after its final
normalisation, so there it is compared with the peers only. Everything runs turn by turn, in three processes, so that none
gains from what another did to the process: ours, the plain ways, and nnsight and TransformerLens (they lie apart, in
``.venv/peers``). Loops are linear in the number of sentences and read fewer. The floor counts the products of the blocks
on the true tokens, at the rate that one large product reaches in the same run.

    python -m benchmarks.extraction [--quick]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import topobrain as tb
from topobrain.models.huggingface import wrap_transformer

PEERS = Path(sys.prefix) / "peers"
RESULT = Path(__file__).parent / "results" / "extraction.json"
MODELS = ("gpt2-small", "bert-base")
BATCH = 32
TOLERANCE = 1e-4
SYLLABLES = [a + b for a in "bcdfghjklmnprstvwz" for b in "aeiou"]


class Pooled(NamedTuple):
    """Mean and last token of every layer (stimulus, layer, unit); None where a way gives only the other."""

    mean: np.ndarray | None
    last: np.ndarray | None


class Batch(NamedTuple):
    """Right-padded sentences."""

    rows: np.ndarray
    ids: Tensor
    mask: Tensor
    inside: Tensor
    """Tokens of words (stimulus, token): neither padding nor special."""


@dataclass
class Job:
    """A model with random weights, and sentences for it."""

    name: str
    module: Any
    """With its language-model head."""
    tokenizer: Any
    texts: list[str]
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> Any:
        """The module without its head."""
        return self.module.base_model

    @property
    def blocks(self) -> Any:
        """The blocks in depth order."""
        return self.base.h if hasattr(self.base, "h") else self.base.encoder.layer

    def keep(self, name: str, build: Callable[[], Any]) -> Any:
        """Return what was built before, or build it."""
        if name not in self.kept:
            self.kept[name] = build()
        return self.kept[name]

    @classmethod
    def of(cls, name: str, n: int, *, quick: bool) -> Job:
        """Build a model and ``n`` sentences: the same ones in every process."""
        from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

        torch.manual_seed(0)
        if name == "gpt2-small":
            module = GPT2LMHeadModel(GPT2Config(**({"n_layer": 3, "n_embd": 192, "n_head": 3} if quick else {})))
        else:
            small = {
                "num_hidden_layers": 3, "hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768
            }  # fmt: skip
            module = BertForMaskedLM(BertConfig(**(small if quick else {})))
        rng = np.random.default_rng(0)

        def word() -> str:
            return "".join(rng.choice(SYLLABLES, 2 if rng.random() < 0.2 else 1))  # a fifth of the words: two tokens

        texts = [" ".join(word() for _ in range(rng.integers(5, 13))) for _ in range(n)]
        return cls(name, module.eval(), tokenizer(special=name == "bert-base"), texts)

    def batches(self, size: int, *, by_length: bool) -> Iterator[Batch]:
        """Yield batches of so many sentences, in their order or sorted by length."""
        found = self.tokenizer(self.texts, return_special_tokens_mask=True)
        lengths = np.array([len(ids) for ids in found["input_ids"]])
        order = np.argsort(lengths, kind="stable") if by_length else np.arange(len(lengths))
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            padded = torch.zeros(3, len(rows), int(lengths[rows].max()), dtype=torch.int64)
            for place, row in enumerate(rows):
                n = int(lengths[row])
                padded[0, place, :n] = torch.tensor(found["input_ids"][row])
                padded[1, place, :n] = 1
                padded[2, place, :n] = 1 - torch.tensor(found["special_tokens_mask"][row])
            yield Batch(rows, padded[0], padded[1], padded[2].bool())

    def flops(self) -> float:
        """Return the operations of the blocks' products a sentence, on its true tokens."""
        lengths = np.array([len(ids) for ids in self.tokenizer(self.texts)["input_ids"]], dtype=float)
        weights = sum(p.numel() for name, p in self.blocks.named_parameters() if p.ndim == 2)
        width = int(self.base.config.hidden_size)
        return float(2 * weights * lengths.mean() + 4 * width * len(self.blocks) * (lengths**2).mean())


def tokenizer(*, special: bool) -> Any:
    """Return a fast tokenizer whose words are one or two syllables, a token each."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *SYLLABLES, *("##" + s for s in SYLLABLES)]
    inner = Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        inner.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    made = PreTrainedTokenizerFast(tokenizer_object=inner, **marks, bos_token="[CLS]", eos_token="[SEP]")
    folder = tempfile.TemporaryDirectory()  # TransformerLens reads its files again
    made.save_pretrained(folder.name)
    found = AutoTokenizer.from_pretrained(folder.name)
    found.folder = folder  # lives as long as the tokenizer
    return found


def gathered(job: Job, batches: Iterator[Batch], states: Callable[[Batch], list[Tensor]]) -> Pooled:
    """Pool every batch's hidden states (layer of (stimulus, token, unit)) into arrays in the sentences' order."""
    mean, last = None, None
    for batch in batches:
        with torch.inference_mode():
            weights = batch.inside / batch.inside.sum(1, keepdim=True)
            place = batch.inside.shape[1] - 1 - batch.inside.flip(1).int().argmax(1)
            found = states(batch)
            pooled = [torch.einsum("stu,st->su", layer, weights) for layer in found]
            final = [layer[torch.arange(len(place)), place] for layer in found]
        if mean is None or last is None:
            shape = (len(job.texts), len(found), found[0].shape[2])
            mean, last = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
        mean[batch.rows], last[batch.rows] = torch.stack(pooled, 1).numpy(), torch.stack(final, 1).numpy()
    return Pooled(mean, last)


def plain(job: Job, size: int, *, by_length: bool = True, head: bool = False, eager: bool = False) -> Pooled:
    """Read with transformers alone."""
    module = job.module if head else job.base
    module.set_attn_implementation("eager" if eager else "sdpa")

    def states(batch: Batch) -> list[Tensor]:
        options = {"attention_mask": batch.mask, "output_hidden_states": True}
        return list(module(input_ids=batch.ids, **options).hidden_states)

    return gathered(job, job.batches(size, by_length=by_length), states)


def extracted(job: Job, *poolings: str, precision: Any = "float32") -> Pooled:
    """Read with `topobrain.extract`."""
    job.base.set_attn_implementation("sdpa")
    model = job.keep("topobrain", lambda: wrap_transformer(job.name, job.base, job.tokenizer, device="cpu"))
    values: dict[str, np.ndarray | None] = {"mean": None, "last": None}
    for pooling in poolings:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that bfloat16 is slow on some CPUs is what is measured here
            found = tb.extract(model, tb.StimulusSet(job.texts), pooling=pooling, precision=precision, cache=False)  # type: ignore[arg-type]
        values[pooling] = found.data["value"].values.reshape(len(job.texts), len(model.sheets), -1)
    return Pooled(**values)


def by_nnsight(job: Job, size: int) -> Pooled:
    """Read with nnsight, saving what goes into the first block and comes out of each."""
    import nnsight

    job.base.set_attn_implementation("sdpa")
    wrapped = job.keep("nnsight", lambda: nnsight.NNsight(job.base))
    blocks = wrapped.h if hasattr(job.base, "h") else wrapped.encoder.layer

    def states(batch: Batch) -> list[Tensor]:
        with wrapped.trace(input_ids=batch.ids, attention_mask=batch.mask):
            found: Any = nnsight.save([])
            found.append(blocks[0].input)
            for block in blocks:
                found.append(block.output)
        return [value if isinstance(value, Tensor) else value[0] for value in found]

    return gathered(job, job.batches(size, by_length=size > 1), states)


def by_transformer_lens(job: Job, size: int, *, states_only: bool = False) -> Pooled:
    """Read with TransformerLens' cache of everything, or of the hidden states."""
    from transformer_lens.model_bridge import TransformerBridge

    def build() -> Any:  # on a model of its own: it changes the one it gets
        own = Job.of(job.name, 1, quick=len(job.blocks) == 3).module
        official = {"gpt2-small": "gpt2", "bert-base": "google-bert/bert-base-uncased"}[job.name]
        return TransformerBridge.boot_transformers(official, hf_model=own, tokenizer=job.tokenizer, device="cpu").eval()

    bridge = job.keep("TransformerLens", build)
    names = ["blocks.0.hook_resid_pre", *(f"blocks.{i}.hook_resid_post" for i in range(len(job.blocks)))]
    wanted = {"names_filter": names} if states_only else {}

    def states(batch: Batch) -> list[Tensor]:
        _, cache = bridge.run_with_cache(batch.ids, attention_mask=batch.mask, **wanted)
        return [cache[name] for name in names]

    return gathered(job, job.batches(size, by_length=size > 1), states)


WAYS: dict[str, Callable[[Job], Pooled]] = {
    "topobrain float32": lambda job: extracted(job, "mean"),
    "topobrain float32, mean and last": lambda job: extracted(job, "mean", "last"),
    "topobrain bf16": lambda job: extracted(job, "mean", precision="bf16"),
    "transformers, loop with head": lambda job: plain(job, 1, head=True),
    "transformers, loop": lambda job: plain(job, 1),
    "transformers, given order": lambda job: plain(job, BATCH, by_length=False),
    "transformers, sorted": lambda job: plain(job, BATCH),
    "transformers, sorted, with head": lambda job: plain(job, BATCH, head=True),
    "transformers, sorted, eager": lambda job: plain(job, BATCH, eager=True),
    "nnsight, loop": lambda job: by_nnsight(job, 1),
    "nnsight, sorted": lambda job: by_nnsight(job, BATCH),
    "TransformerLens, loop": lambda job: by_transformer_lens(job, 1),
    "TransformerLens, sorted": lambda job: by_transformer_lens(job, BATCH),
    "TransformerLens, sorted, states only": lambda job: by_transformer_lens(job, BATCH, states_only=True),
}


def memory_mb(key: str) -> float | None:
    """Return a field of the process's memory (``VmRSS`` now, ``VmHWM`` the peak), None where it cannot be had."""
    status = Path("/proc/self/status")
    found = re.search(rf"{key}:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) / 1e3 if found else None


def measured(call: Callable[[], Pooled]) -> tuple[dict[str, Any], Pooled]:
    """Return seconds, the memory taken beyond what was there before, and the values."""
    if Path("/proc/self/clear_refs").exists():
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = memory_mb("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    values = call()
    took = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    peak = memory_mb("VmHWM")
    return {**took, "peak_mb": None if peak is None or before is None else round(peak - before)}, values


def process_of(way: str) -> str:
    """Return which process a way runs in: ``"ours"``, ``"plain"`` or ``"peers"``."""
    return {"topobrain": "ours", "transformers,": "plain"}.get(way.split()[0], "peers")


def serve() -> None:
    """Answer (model, way, n, threads, file, quick) on standard input: a process of the plain ways, or of the peers."""
    answers, sys.stdout = sys.stdout, sys.stderr  # the peers may print
    job: Job | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        torch.set_num_threads(asked["threads"])
        if job is None or job.name != asked["model"]:
            job = Job.of(asked["model"], asked["all"], quick=asked["quick"])
        few = replace(job, texts=job.texts[: asked["n"]])
        try:
            took, values = measured(lambda: WAYS[asked["way"]](few))  # noqa: B023
            np.savez(asked["file"], mean=values.mean, last=values.last)
        except Exception as error:  # a peer that fails is told in the table
            took = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        answers.write(json.dumps(took) + "\n")
        answers.flush()


class Other:
    """Another process."""

    def __init__(self, folder: Path, *, peers: bool) -> None:
        self.file = folder / f"values-{peers}.npz"
        path = os.pathsep.join([*([str(PEERS)] if peers else []), str(Path(__file__).parents[1])])
        environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-m", "benchmarks.extraction", "--serve"]
        self.errors = (folder / f"errors-{peers}.txt").open("w")
        self.process = subprocess.Popen(
            command, stdin=-1, stdout=-1, stderr=self.errors, text=True, env=environment, cwd=Path(__file__).parents[1]
        )

    def ask(self, **question: Any) -> tuple[dict[str, Any], Pooled | None]:
        """Return what the other process measured, and its values."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({**question, "file": str(self.file)}) + "\n")
        self.process.stdin.flush()
        took = json.loads(self.process.stdout.readline())
        if "error" in took:
            return took, None
        with np.load(self.file) as found:
            return took, Pooled(found["mean"], found["last"])

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.errors.close()


def product_rate(dtype: torch.dtype, size: int) -> dict[str, float]:
    """Return GFLOP/s of a linear layer of so many units, a second of wall and of CPU: the best of five."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    best = {"wall": 0.0, "cpu": 0.0}
    for _ in range(5):
        wall, cpu = time.perf_counter(), time.process_time()
        torch.nn.functional.linear(a, b)
        took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        best = {clock: max(best[clock], 2e-9 * size**3 / max(took[clock], 1e-9)) for clock in best}
    return {clock: round(value, 1) for clock, value in best.items()}


def difference(way: str, model: str, values: Pooled, reference: Pooled) -> dict[str, float]:
    """Return the largest difference from `topobrain.extract` in float32, and the least correlation of a unit."""
    found: dict[str, float] = {}
    # transformers' own list ends with the normalised state, not with what the last block gives
    layers = slice(None, -1 if model == "gpt2-small" and way.startswith("transformers") else None)
    pairs = [(a, b) for a, b in zip(values, reference, strict=True) if a is not None and b is not None]
    found["largest"] = max(float(np.abs(a[:, layers] - b[: len(a), layers]).max()) for a, b in pairs)
    if "bf16" in way:
        a, b = (x[: len(pairs[0][0])].reshape(len(pairs[0][0]), -1) for x in pairs[0])
        a, b = a - a.mean(0), b - b.mean(0)
        found["least_correlation"] = float(((a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))).min())
    elif found["largest"] > TOLERANCE:
        raise SystemExit(f"{way} differs by {found['largest']:.1e} on {model}: the times would compare unlike things")
    return found


def compare(model: str, threads: int, options: argparse.Namespace, others: dict[str, Other]) -> list[dict[str, Any]]:
    """Return one row a way: medians over turns."""
    torch.set_num_threads(threads)
    job = Job.of(model, options.sentences, quick=options.quick)
    size = 512 if options.quick else 1024
    rates = {"float32": product_rate(torch.float32, size), "bf16": product_rate(torch.bfloat16, size // 4)}
    n_bf16 = len(job.texts) if rates["bf16"]["wall"] > rates["float32"]["wall"] else 2
    counts = {way: max(8, len(job.texts) // 4) if "loop" in way else len(job.texts) for way in WAYS}
    counts["topobrain bf16"] = n_bf16
    turns: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    reference = extracted(job, "mean", "last")
    differences: dict[str, dict[str, float]] = {}
    for turn in range(options.repeats + 1):
        for way, call in WAYS.items():
            n = counts[way] if turn else 8  # the first turn warms up
            where = process_of(way)
            if where == "ours":
                few = replace(job, texts=job.texts[:n])
                took, values = measured(lambda: call(few))  # noqa: B023
            elif where not in others or (turns[way] and "error" in turns[way][-1]):
                continue
            else:
                question = {"model": model, "way": way, "threads": threads, "quick": options.quick}
                took, values = others[where].ask(**question, n=n, all=len(job.texts))
            if values is not None:
                differences[way] = difference(way, model, values, reference)
            if turn or "error" in took:
                turns[way].append(took)
    floor = {clock: job.flops() / (1e9 * rates["float32"][clock]) for clock in ("wall", "cpu")}
    rows = [row(model, threads, way, counts[way], turns[way], differences.get(way), floor) for way in WAYS]
    ours = next(r for r in rows if r["way"] == "topobrain float32")
    for r in rows:
        if "cpu_ms" in r:
            r["times_topobrain_float32"] = {c: round(r[f"{c}_ms"] / ours[f"{c}_ms"], 2) for c in ("wall", "cpu")}
            r["product_rate_gflops"] = rates
    return rows


def row(
    model: str, threads: int, way: str, n: int, turns: list[dict[str, Any]], apart: Any, floor: dict[str, float]
) -> dict[str, Any]:
    """Return the medians of one way; times are milliseconds a sentence."""
    result: dict[str, Any] = {"model": model, "threads": threads, "way": way}
    result |= {"date": datetime.now(UTC).isoformat(timespec="seconds"), "turns": len(turns)}
    if not turns:
        return {**result, "note": "not installed"}
    if "error" in turns[-1]:
        return {**result, "note": turns[-1]["error"]}
    for clock in ("wall", "cpu"):
        values = [1e3 * turn[f"{clock}_s"] / n for turn in turns]
        result[f"{clock}_ms"] = round(statistics.median(values), 3)
        result[f"{clock}_ms_range"] = [round(min(values), 3), round(max(values), 3)]
        result[f"times_floor_{clock}"] = round(result[f"{clock}_ms"] / (1e3 * floor[clock]), 2)
    result["sentences"] = n
    result["sentences_per_second"] = round(1e3 / result["wall_ms"], 1)
    result["peak_mb"] = max((turn["peak_mb"] for turn in turns if turn["peak_mb"] is not None), default=None)
    result["difference"] = {key: float(f"{value:.3g}") for key, value in apart.items()} if apart else None
    return result


def main() -> None:
    """Measure, print a table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=None, help="default 200, with --quick 64")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--quick", action="store_true", help="small models, to see that it runs")
    parser.add_argument("--out", type=Path, default=None, help="default: results/extraction.json, nowhere with --quick")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    from transformers.utils import logging

    logging.set_verbosity_error()
    if options.serve:
        return serve()
    from benchmarks.topo_loss import machine

    options.sentences = options.sentences or (64 if options.quick else 200)
    before = {key: value for key, value in machine().items() if key != "threads"}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        others = {"plain": Other(Path(folder), peers=False)}
        if PEERS.is_dir():
            others["peers"] = Other(Path(folder), peers=True)
        for model in options.models:
            for threads in options.threads:
                rows += compare(model, threads, options, others)
        for other in others.values():
            other.close()
    packages = {p.name.split("-")[0]: p.name.split("-")[1].removesuffix(".dist") for p in PEERS.glob("*.dist-info")}
    result = {
        "benchmark": "activations of sentences, milliseconds a sentence, medians",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "sentences": options.sentences,
        "machine": before,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "numpy", "topobrain")},
            **{name: packages.get(name, "not installed") for name in ("nnsight", "transformer_lens")},
        },
        "rows": rows,
    }
    out = options.out or (None if options.quick else RESULT)
    if out is not None:
        if out.exists():  # models and threads that were not asked for keep their rows: ways are compared within these
            done = {(r["model"], r["threads"]) for r in rows}
            kept = [r for r in json.loads(out.read_text())["rows"] if (r["model"], r["threads"]) not in done]
            result["rows"] = sorted(kept + rows, key=lambda r: (MODELS.index(r["model"]), r["threads"]))
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write("\n".join(table(rows)) + "\n")
    return None


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of the table, a block a model and number of threads."""
    lines, block = [], None
    for r in rows:
        if block != (r["model"], r["threads"]):
            block = (r["model"], r["threads"])
            heads = f"{'sent./s':>9}{'CPU ms':>9}{'x ours':>8}{'x floor':>9}{'peak MB':>9}{'differs':>10}"
            lines += ["", f"{r['model'] + ', ' + str(r['threads']) + ' thread(s)':38}{heads}"]
        if "note" in r:
            lines.append(f"{r['way']:38}  {r['note']}")
            continue
        times = f"{r['sentences_per_second']:9.1f}{r['cpu_ms']:9.1f}{r['times_topobrain_float32']['cpu']:8.2f}"
        peak = "-" if r["peak_mb"] is None else f"{r['peak_mb']}"
        lines.append(f"{r['way']:38}{times}{r['times_floor_cpu']:9.2f}{peak:>9}{r['difference']['largest']:10.1e}")
    return lines


if __name__ == "__main__":
    main()
