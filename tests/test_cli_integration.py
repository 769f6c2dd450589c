from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import topobrain as tb
from topobrain._checks import InputError
from topobrain.cli import main
from topobrain.cli.integration import Integrate
from topobrain.integration.result import Integration

FAST = ["--n-bootstrap", "4", "--n-null", "9", "--max-lag", "6", "--n-sequences", "6"]
RUNS = ["--data", "simulated-word-runs", "--n-words", "14", *FAST]
SENTENCES = ["--data", "simulated-sentence-sequences", "--n-words", "6", *FAST]
MODELS = """
import numpy as np, torch, topobrain as tb
from torch import nn
def encode(texts):
    # a word is a token, its number a hash of its letters
    words = [t.split() for t in texts]
    longest = max(map(len, words))
    ids = [[sum(map(ord, w)) % 61 for w in ws] + [0] * (longest - len(ws)) for ws in words]
    return torch.tensor(ids), np.array([list(range(len(ws))) + [-1] * (longest - len(ws)) for ws in words])
class Causal(nn.Module):
    # h[m] = sum over lags of exp(-rate lag) e[m - lag]
    def __init__(self, seed, rate):
        super().__init__()
        self.table, self.memory = nn.Embedding(61, 12), nn.Identity()
        self.rate = rate
        with torch.no_grad():
            self.table.weight.copy_(torch.randn(61, 12, generator=torch.Generator().manual_seed(seed)))
    def forward(self, ids):
        e = self.table(ids)
        n = e.shape[1]
        lag = (torch.arange(n)[:, None] - torch.arange(n)[None]).float()
        kernel = torch.exp(-self.rate * lag.clamp(min=0)) * (lag >= 0)
        return self.memory(torch.einsum("ml,blu->bmu", kernel, e))
def make(name, seed, rate, sheet=None):
    sheet = sheet or tb.Sheet.grid(3, 4)
    sheets = {"table": sheet, "memory": sheet}
    return tb.TorchModel(name, Causal(seed, rate), encode, sheets, paths={key: key for key in sheets})
def one(weights=None, device="auto"):
    return make("one", 0, 0.5) if weights is None else make(f"one ({weights})", 5, 40.0)
def never(weights=None, device="auto"):
    model = make("never", 2, 1.0)
    def record(stimuli, layers):
        raise RuntimeError("the model ran")
    model.record = record
    return model
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with models, and texts without tags."""
    (tmp_path / "made_integration_models.py").write_text(MODELS)
    rng = np.random.default_rng(0)
    words = np.array(["dog", "cat", "runs", "sleeps", "red", "old", "house", "tree", "by", "on"])
    (tmp_path / "own.txt").write_text("\n".join(" ".join(rng.choice(words, 12)) for _ in range(8)))
    (tmp_path / "uneven.txt").write_text("one two three\nfour five\none two three\ntwo three four\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "made_integration_models", raising=False)
    monkeypatch.setenv("TOPOBRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path


def arguments(model: str, *more: str) -> list[str]:
    return ["integrate", "--model", f"made_integration_models:{model}", "--out", "out", *more]


@pytest.mark.slow
def test_integrate_writes_windows_and_prints_a_row_a_layer(here, capsys):
    assert main(arguments("one", *RUNS)) == 0
    printed = capsys.readouterr()
    assert "integration of one (simulated data)" in printed.out
    found = Integration.load(here / "out" / "integration_one_simulated-word-runs.nc")
    assert found.layers == ["table", "memory"]
    options = found.provenance["integrate"]
    assert (options["n_bootstrap"], options["n_null"], options["max_lag"], options["swap"]["rule"]) == (
        4,
        9,
        6,
        "same-tag",
    )
    assert found.provenance["stimuli"]["n_stimuli"] == 6
    # a table looks at its own word alone, a memory of rate .5 halves after more than a word
    table, memory = found.summary()["width"]
    assert table == pytest.approx(0.5)
    assert memory > 1
    assert "memory" in printed.out


def test_json_is_one_object_and_layers_are_chosen(here, capsys):
    assert main(arguments("one", *RUNS, "--layers", "memory", "--swap", "random", "--json", "--seed", "3")) == 0
    found = json.loads(capsys.readouterr().out)
    assert Path(found["result"]).name == "integration_one_simulated-word-runs_random.nc"
    assert [row["layer"] for row in found["rows"]] == ["memory"]
    assert {"c", "a", "b", "width", "yoking", "share_known", "morans_i_c", "share_mixture"} <= set(found["rows"][0])
    assert Integration.load(found["result"]).provenance["integrate"]["seed"] == 3


@pytest.mark.slow
def test_the_untrained_self_is_a_second_result(here, capsys):
    assert main(arguments("one", *SENTENCES, "--untrained", "--json")) == 0
    printed = capsys.readouterr()
    assert "--normalise swapped takes the size of swaps out" in printed.err
    rows = json.loads(printed.out)
    assert [row["model"] for row in rows] == ["one", "one (untrained)"]
    names = [Path(row["result"]).name for row in rows]
    assert names == [f"integration_{name}_simulated-sentence-sequences.nc" for name in ("one", "one__untrained_")]
    trained, bare = (Integration.load(row["result"]) for row in rows)
    assert trained.provenance["integrate"]["sentence_words"] == 6
    assert np.nanmedian(trained.data["width"].values[12:]) > np.nanmedian(bare.data["width"].values[12:])
    assert np.isfinite(trained.data["yoking"].values).all()


@pytest.mark.slow
def test_texts_of_ones_own_need_no_tags_with_random_swaps(here, capsys):
    fast = ["--n-bootstrap", "4", "--n-null", "0", "--max-lag", "4"]
    assert main(arguments("one", "--data", "own.txt", "--swap", "random", *fast)) == 0
    assert "integration of one\n" in capsys.readouterr().out
    assert (here / "out" / "integration_one_own_random.nc").is_file()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--data", "own.txt"], "--swap random or embedding"),
        (["--data", "own.txt", "--n-words", "9", "--n-sequences", "2"], "--n-sequences and --n-words"),
        (["--data", "own.txt", "--words", "single-token"], "--words"),
        (["--data", "uneven.txt", "--swap", "random"], "equal"),
        ([*RUNS, "--swap", "probable"], "--masked-model"),
        ([*RUNS, "--weights", "untrained", "--untrained"], "leave --untrained out"),
        ([*RUNS, "--layers", "memroy"], "Did you mean 'memory'"),
        ([*RUNS, "--max-lag", "20"], "20"),
        (["--data", "simulated-word-run"], "Did you mean 'simulated-word-runs'"),
    ],
)
def test_what_cannot_be_is_told_before_a_model_runs(here, capsys, options, told):
    assert main(arguments("never", *options)) == 1
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


def test_brown_that_is_not_there_names_the_set_that_needs_no_file(here, store, capsys):
    assert main(arguments("never", "--json")) == 1
    said = json.loads(capsys.readouterr().out)
    assert "simulated-word-runs" in said["error"]
    assert said["kind"] == "DataFileError"


def test_wrong_usage_exits_with_two_and_help_names_the_verb(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["integrate", "--model", "m", "--swap", "sametag"])
    assert stopped.value.code == 2
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "integrate" in capsys.readouterr().out


@pytest.mark.slow
def test_a_model_with_a_tokenizer_reads_words_of_its_own(here, tiny_models, capsys):
    model = tb.load_model("topoformer-tiny")
    command = ["integrate", "--model", "topoformer-tiny", *RUNS, "--words", "single-token"]
    command += ["--out", "out", "--max-lag", "5", "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    result = Integration.load(found["result"])
    assert result.layers == list(model.sheets)
    assert not result.causal  # a masked model reads both ways
    assert result.lags.min() == -5


def test_candidates_are_a_source_or_a_file(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("the dog ran\nhome the dog")
    given = {"model": "m", "data": "d", "out": tmp_path}
    assert Integrate(**given).given_candidates() is None
    assert Integrate(**given, candidates=str(words)).given_candidates() == ["dog", "home", "ran", "the"]
    assert "the" in Integrate(**given, candidates="template").given_candidates()
    with pytest.raises(InputError, match="--candidates is brown or template or a file"):
        Integrate(**given, candidates="bron").given_candidates()
