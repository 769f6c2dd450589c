from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_models import start

import topobrain as tb
from topobrain.cli import main
from topobrain.jobs import cluster, work

FAST = ["--n-permutations", "8", "--n-bootstrap", "12", "--n-folds", "3", "--inner-folds", "3"]
MODELS = """
import numpy as np, torch, topobrain as tb
def encode(texts):
    words = [t.split() for t in texts]
    longest = max(map(len, words))
    ids = torch.tensor([[len(w) % 16 for w in ws] + [0] * (longest - len(ws)) for ws in words])
    return ids, np.array([list(range(len(ws))) + [-1] * (longest - len(ws)) for ws in words])
def make(name, seed):
    generator = torch.Generator().manual_seed(seed)
    layer = torch.nn.Embedding(16, 9)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(16, 9, generator=generator))
    return tb.TorchModel(name, torch.nn.Sequential(layer), encode, {"0": tb.Sheet.grid(3, 3, wrapped=True)})
def one(): return make("one", 0)
def two(): return make("two", 1)
def never():
    model = make("never", 2)
    def record(stimuli, layers):
        raise RuntimeError("the model ran")
    model.record = record
    return model
"""
STOPPED = """
import sys, time
from pathlib import Path
from topobrain.cli import main
from topobrain.jobs import work
original, made = work.encode_part, []
def stopping(*arguments, **options):
    if made:
        Path("waiting").touch()
        time.sleep(60)
    made.append(1)
    return original(*arguments, **options)
work.encode_part = stopping
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with two models and a table of responses."""
    (tmp_path / "made_models.py").write_text(MODELS)
    lines = ["item_id,sentence,IFG,MFG"]
    lines += [
        f"i{i},{'word ' * (1 + i % 7)}number {'x' * (i % 5 + 1)}{i},{i % 7 + 0.1 * i},{(i * 7) % 11}" for i in range(40)
    ]
    (tmp_path / "my.csv").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "made_models", raising=False)
    monkeypatch.setenv("TOPOBRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path


def arguments(*models: str) -> list[str]:
    return ["encode", "--model", *(f"made_models:{name}" for name in models), "--data", "my.csv", "--out", "out", *FAST]


def encoding(name: str, folder: str = "out") -> tb.Encoding:
    return tb.Encoding.load(Path(folder) / f"encoding_{name}_my.nc")


@pytest.mark.slow
def test_several_models_are_each_saved_as_alone(here, capsys):
    assert main([*arguments("one", "two"), "--store", "store", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in found] == ["one", "two"]
    assert [Path(row["result"]).name for row in found] == ["encoding_one_my.nc", "encoding_two_my.nc"]
    assert [row["roi"] for row in found[0]["rows"]] == ["IFG", "MFG"]
    assert len(list((here / "store").glob("parts/*/*.npz"))) == 2
    together = encoding("two")
    assert main(arguments("two")) == 0  # one model on one machine: no store
    alone = encoding("two")
    assert together.data.drop_attrs().identical(alone.data.drop_attrs())
    assert "encoding of two" in capsys.readouterr().out


@pytest.mark.slow
def test_one_model_among_jobs_prints_as_without_them(here, capsys):
    assert main([*arguments("one"), "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert main([*arguments("one"), "--voxel-chunk", "1", "--json"]) == 0
    as_jobs = json.loads(capsys.readouterr().out)
    assert alone.keys() == as_jobs.keys()
    assert as_jobs["result"] == alone["result"]
    assert [row["r"] for row in as_jobs["rows"]] == pytest.approx([row["r"] for row in alone["rows"]], abs=1e-12)
    assert len(list((here / "cache" / "encoding").glob("parts/*/*.npz"))) == 2


def test_a_dry_run_prints_the_plan_and_starts_nothing(here, capsys):
    dry = [*arguments("one", "never"), "--voxel-chunk", "1", "--workers", "4", "--dry-run"]
    before = sorted(here.rglob("*"))
    assert main(dry) == 0
    printed = capsys.readouterr()
    assert "4 jobs, 0 done" in printed.out
    assert "4 workers" in printed.out
    assert "responses: IFG, MFG (40 stimuli)" in printed.err
    assert main([*dry, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in plan["rows"]] == ["one", "never"]
    assert plan["totals"]["jobs"] == 4
    assert plan["totals"]["memory_at_once"] == 4 * plan["totals"]["memory_per_job"] > 0
    assert plan["totals"]["hours_one_process"] > 0
    assert [path for path in sorted(here.rglob("*")) if "__pycache__" not in str(path)] == before


@pytest.mark.slow
def test_activation_files_stand_in_for_models(here):
    same = tb.extract(tb.load_model("made_models:one"), tb.load_responses("my.csv").stimuli).save(
        here / "acts" / "same.nc"
    )
    assert main(["encode", "--model", str(same), "--data", "my.csv", "--out", "out", *FAST]) == 0
    from_file = encoding("one")
    assert main([*arguments("one")]) == 0
    assert from_file.data.drop_attrs().identical(encoding("one").data.drop_attrs())
    assert main(["encode", "--model", str(same), "--data", "my.csv", "--dry-run", "--json", *FAST]) == 0


@pytest.mark.slow
def test_options_reach_the_result(here):
    options = [
        "--selection",
        "gcv",
        "--fit-precision",
        "mixed",
        "--max-memory",
        "1 GiB",
        "--seed",
        "3",
        "--layers",
        "0",
    ]
    for more in ([], ["--voxel-chunk", "1"]):
        assert main([*arguments("one"), *options, *more]) == 0
        kept = encoding("one").provenance["encoding"]
        wanted = {
            "n_folds": 3,
            "inner_folds": 3,
            "selection": "gcv",
            "precision": "mixed",
            "max_memory": "1 GiB",
            "seed": 3,
        }
        assert {key: kept[key] for key in wanted} == wanted


def saved_responses() -> tb.BrainResponses:
    """The table's responses as a file, with a stimulus column of passages of four stimuli each."""
    made = tb.load_responses("my.csv")
    passages = ("stimulus", [f"p{i // 4}" for i in range(40)])
    holes = ("stimulus", np.where(np.arange(40) == 7, np.nan, np.arange(40) // 4))
    with_passages = tb.BrainResponses(made.data.assign_coords(passage=passages, holes=holes))
    with_passages.save("brain.nc")
    return with_passages


@pytest.mark.parametrize("more", [[], ["--voxel-chunk", "1"]])
@pytest.mark.slow
def test_a_stimulus_column_of_loaded_responses_can_be_the_group(here, more):
    made = saved_responses()
    folder = ["--out", "out", *FAST, *more]
    assert main(["encode", "--model", "made_models:one", "--data", "brain.nc", "--group", "passage", *folder]) == 0
    found = tb.Encoding.load(here / "out" / "encoding_one_brain.nc")
    assert main(["encode", "--model", "made_models:one", "--data", "brain.nc", *folder]) == 0
    apart = tb.Encoding.load(here / "out" / "encoding_one_brain.nc")
    grouped = tb.BrainResponses(made.data.assign_coords(group=made.data["passage"]))
    acts = tb.extract(tb.load_model("made_models:one"), made.stimuli)
    options = {"n_permutations": 8, "n_bootstrap": 12, "n_folds": 3, "inner_folds": 3}
    expected = tb.encode(acts, grouped, **options)
    n_groups = [one.provenance["encoding"]["n_groups"] for one in (found, expected, apart)]
    assert n_groups[0] == n_groups[1] < n_groups[2]
    assert np.allclose(found.data["r"], expected.data["r"], atol=1e-12, rtol=0, equal_nan=True)
    assert not np.allclose(found.data["r"], apart.data["r"], equal_nan=True)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--group", "pasage"], "unknown stimulus column 'pasage'. Did you mean 'passage'?"),
        (["--group", "stimulus"], "unknown stimulus column 'stimulus'"),
        (["--group", "holes"], "1 of 40 stimuli have no value there, the first of them 'i7'"),
        (["--text", "sentence"], "--text 'sentence' names a column of a table"),
    ],
)
def test_columns_that_loaded_responses_cannot_give_are_told(here, capsys, options, told):
    saved_responses()
    assert main(["encode", "--model", "made_models:never", "--data", "brain.nc", *options, *FAST]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--roi", ",,"], "--roi ',,' names nothing"),
        (["--subject", ""], "--subject '' names nothing"),
        (["--layers", ","], "--layers ',' names nothing"),
        (["--scheduler", "local:0", "--dry-run"], "expected a number of processes"),
        (["--workers", "0"], "n_workers must be 1 or more, got 0"),
        (["--voxel-chunk", "0"], "voxel_chunk must be 1 or more, got 0"),
        (["--voxel-chunk", "0", "--dry-run"], "voxel_chunk must be 1 or more, got 0"),
        (["--max-memory", "lots", "--dry-run"], "max_memory 'lots' is no size"),
        (["--max-memory", "1 kB"], "too small"),
        (["--layers", "9", "--dry-run"], "unknown layer '9'"),
        (["--roi", "IFGor", "--dry-run"], "Did you mean 'IFG'"),
        (["--scheduler", "local:none"], "expected a number of processes"),
        (["--store", "my.csv"], "cannot write to the store"),
    ],
)
def test_what_cannot_be_is_told_and_ends_with_one(here, capsys, options, told):
    assert main([*arguments("one"), *options]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


def test_a_scheduler_that_does_not_answer_is_told_before_a_model_runs(here, capsys, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.3)
    assert main([*arguments("never"), "--scheduler", "tcp://127.0.0.1:9"]) == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in capsys.readouterr().err


def test_two_models_of_one_name_are_told(here, capsys):
    assert main([*arguments("one", "one"), "--store", "store"]) == 1
    assert "two of the models are named 'one'" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--voxel-chunk", "1"]])
def test_want_of_memory_is_told_with_advice(here, capsys, monkeypatch, more):
    def full(*_, **__):
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr(work, "encode_part", full)
    monkeypatch.setattr(tb, "encode", full)
    assert main([*arguments("one"), *more]) == 1
    told = capsys.readouterr().err
    assert "out of memory with" in told
    assert "--voxel-chunk 1" in told


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_what_is_done_is_used_again(here, capsys):
    command = [*arguments("one"), "--voxel-chunk", "1", "--store", "store"]
    running = start([sys.executable, "-c", STOPPED, *command], cwd=here)
    deadline = time.monotonic() + 120
    while not (here / "waiting").exists() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running.poll() is None, running.communicate()
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "run the same command again" in error
    assert "Traceback" not in error
    assert len(list((here / "store").glob("parts/*/*.npz"))) == 1
    assert not list((here / "store").glob("**/.*.part"))
    assert main([*command, "--dry-run"]) == 0
    assert main(command) == 0
    assert len(list((here / "store").glob("parts/*/*.npz"))) == 2


@pytest.mark.slow
def test_a_cluster_of_this_machine_scores_several_models(here, capsys):
    assert main([*arguments("one", "two"), "--scheduler", "local:1", "--store", "store"]) == 0
    first = encoding("one")
    assert main([*arguments("one", "two"), "--store", "other"]) == 0
    assert first.data.drop_attrs().identical(encoding("one").data.drop_attrs())
