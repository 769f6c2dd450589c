from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_models import start

import topobrain as tb
from topobrain.cli import main

FAST = ["--n-permutations", "20", "--n-bootstrap", "20"]
OWN_MODEL = """
import numpy as np, torch, topobrain as tb
def encode(texts):
    words = [t.split() for t in texts]
    longest = max(map(len, words))
    ids = torch.tensor([[len(w) % 16 for w in ws] + [0] * (longest - len(ws)) for ws in words])
    return ids, np.array([list(range(len(ws))) + [-1] * (longest - len(ws)) for ws in words])
def build(weights=None, device="cpu"):
    torch.manual_seed(0)
    sheets = {"0": tb.Sheet.grid(3, 3, wrapped=True)}
    return tb.TorchModel("own", torch.nn.Sequential(torch.nn.Embedding(16, 9)), encode, sheets, device=device)
def slow(weights=None, device="cpu"):
    import time
    model = build()
    record = model.record
    def wait(stimuli, layers):
        import pathlib
        pathlib.Path("recording").touch()
        time.sleep(60)
        return record(stimuli, layers)
    model.record = wait
    return model
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_model.py").write_text(OWN_MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_model", raising=False)
    return tmp_path


def table_of(path: Path, n: int = 40) -> Path:
    lines = ["item_id,sentence,IFG,MFG"]
    lines += [
        f"i{i},{'word ' * (1 + i % 7)}number {'x' * (i % 5 + 1)}{i},{i % 7 + 0.1 * i},{(i * 7) % 11}" for i in range(n)
    ]
    path.write_text("\n".join(lines))
    return path


def test_help_lists_the_verbs_and_answers_without_torch():
    code = (
        "import sys\nfrom topobrain.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as e:\n    print('code', e.code, 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for verb in ("models", "data", "extract", "localize", "encode", "reproduce", "report", "doctor"):
        assert verb in out
    assert "code 0 False" in out


def test_wrong_usage_exits_with_two(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["encode", "--modle", "x"])
    assert stopped.value.code == 2
    assert "--model" in capsys.readouterr().err


def test_models_are_listed(capsys):
    assert main(["models", "--json"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert {"topoformer-tiny", "topoformer-tiny-control", "stories260k", "minilm"} <= set(names)


def test_data_are_listed_with_their_status(store, capsys):
    assert main(["data", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["tuckute2024"]["status"] == "missing"
    assert rows["simulated"]["status"] == "generated"


def test_real_data_are_verified(real_data, capsys):
    assert main(["data", "verify", "tuckute2024"]) == 0
    assert "verified" in capsys.readouterr().out


def test_a_data_set_that_is_not_there_fails_its_verification(store, capsys):
    assert main(["data", "verify", "tuckute2024"]) == 1
    assert "missing" in capsys.readouterr().out


def test_fetch_without_a_name_is_told(capsys):
    assert main(["data", "fetch"]) == 1
    assert "name the data sets" in capsys.readouterr().err


def test_encode_writes_a_result_that_loads(own, capsys):
    assert (
        main(["encode", "--model", "own_model:build", "--data", str(table_of(own / "my.csv")), "--out", "out", *FAST])
        == 0
    )
    out = capsys.readouterr().out
    assert "encoding of own" in out
    assert "simulated" not in out
    result = tb.Encoding.load(own / "out" / "encoding_own_my.nc")
    assert result.labels("region").tolist() == ["IFG", "MFG"]
    assert result.provenance["encoding"]["n_permutations"] == 20


def test_encode_as_json_is_one_object(own, capsys):
    arguments = [
        "encode",
        "--model",
        "own_model:build",
        "--data",
        str(table_of(own / "my.csv")),
        "--roi",
        "MFG",
        "--json",
    ]
    assert main([*arguments, *FAST]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["roi"] for row in found["rows"]] == ["MFG"]
    assert Path(found["result"]).is_file()


@pytest.mark.slow
def test_extract_and_localize(own, capsys):
    stimuli = ["--stimuli", "simulated-langloc", "--out", "out"]
    assert main(["extract", "--model", "own_model:build", *stimuli]) == 0
    assert tb.Activations.load(own / "out" / "activations_own_simulated-langloc.nc").data.sizes["unit"] == 9
    assert main(["localize", "--model", "own_model:build", *stimuli, "--n-null", "50"]) == 0
    found = tb.Selectivity.load(own / "out" / "selectivity_own_simulated-langloc.nc")
    assert found.contrasts == ["sentence - nonword"]
    assert "simulated data" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "topoformer-tny", "--data", "simulated"], "Did you mean 'topoformer-tiny'"),
        (["--model", "own_model:build", "--data", "simulatd"], "Did you mean 'simulated'"),
        (["--model", "own_model:build", "--data", "simulated", "--layers", "O"], "unknown layer 'O'"),
        (["--model", "own_model:build", "--data", "simulated", "--roi", "IFGor"], "Did you mean 'IFGorb'"),
        (["--model", "own_model:bild", "--data", "simulated"], "Did you mean 'build'"),
        (["--model", "own_modle:build", "--data", "simulated"], "no module 'own_modle'"),
        (["--model", "own_model:build", "--data", "gone.csv"], "gone.csv"),
        (["--model", "own_model:build", "--data", "brain.nii.gz"], "is a brain image; a table was expected"),
        (["--model", "own_model:build", "--data", "simulated", "--device", "cuda:9"], "device 'cuda:9' cannot be used"),
    ],
)
def test_bad_names_end_with_one_and_a_near_name(own, capsys, arguments, told):
    (own / "brain.nii.gz").write_bytes(b"")
    assert main(["encode", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert told in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("item_id,sentense,IFG\n1,a b,0.1\n", "has no column 'sentence'. Did you mean 'sentense'?"),
        ("item_id,sentence,IFG\n1,,0.1\n", "row 0"),
        ("item_id,sentence\n1,a b\n", "no numeric response column"),
        ("", "cannot be read as a table"),
    ],
)
def test_a_bad_table_is_told(own, capsys, content, told):
    (own / "bad.csv").write_text(content)
    assert main(["encode", "--model", "own_model:build", "--data", "bad.csv"]) == 1
    assert told in capsys.readouterr().err


def test_an_error_as_json_is_json(own, capsys):
    assert main(["encode", "--model", "own_model:build", "--data", "simulatd", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["kind"] == "UnknownNameError"


def test_a_directory_that_cannot_be_written_is_told_before_the_model_runs(own, capsys):
    (own / "file").write_text("")
    arguments = ["encode", "--model", "own_model:slow", "--data", str(table_of(own / "my.csv")), "--out", "file/below"]
    assert main(arguments) == 1
    assert "cannot write to file/below" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_a_word(own):
    arguments = ["encode", "--model", "own_model:slow", "--data", str(table_of(own / "my.csv")), "--no-cache"]
    running = start([sys.executable, "-m", "topobrain.cli", *arguments], cwd=own)
    deadline = time.monotonic() + 120
    while not (own / "recording").exists() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert running.poll() is None, running.communicate()
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "stopped" in error
    assert "Traceback" not in error


def test_report_of_a_folder(own, capsys):
    main(["encode", "--model", "own_model:build", "--data", str(table_of(own / "my.csv")), "--out", "out", *FAST])
    assert main(["report", "out", "--title", "mine"]) == 0
    page = (own / "out" / "report.html").read_text()
    assert "<title>mine</title>" in page
    assert main(["report", "nowhere"]) == 1
    assert "no results folder nowhere" in capsys.readouterr().err


def test_doctor_says_ok_here_and_finds_an_unwritable_cache(tmp_path, monkeypatch, capsys, store):
    assert main(["doctor"]) == 0
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TOPOBRAIN_CACHE", str(tmp_path / "file" / "cache"))
    assert main(["doctor", "--json"]) == 1
    rows = {row["what"]: row for row in json.loads(capsys.readouterr().out.split("\n[", 1)[-1].join(["[", ""]))}
    assert rows["cache"]["state"] == "problem"


def test_output_into_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m topobrain.cli models | true"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, env=os.environ)
    assert "Traceback" not in done.stderr


def test_options_of_encode_reach_the_result(own):
    data = str(table_of(own / "my.csv"))
    options = ["--n-folds", "4", "--seed", "3", "--folds", "shuffled", "--n-permutations", "7", "--n-bootstrap", "9"]
    assert main(["encode", "--model", "own_model:build", "--data", data, *options]) == 0
    kept = tb.load_result(own / "results" / "encoding_own_my.nc").provenance["encoding"]
    wanted = {"n_folds": 4, "seed": 3, "folds": "shuffled", "n_permutations": 7, "n_bootstrap": 9}
    assert {key: kept[key] for key in wanted} == wanted


def test_groups_of_a_table_are_kept_whole(own):
    table = table_of(own / "my.csv").read_text().splitlines()
    grouped = [table[0] + ",passage", *(f"{line},p{i // 4}" for i, line in enumerate(table[1:]))]
    (own / "my.csv").write_text("\n".join(grouped))
    assert main(["encode", "--model", "own_model:build", "--data", "my.csv", "--group", "passage", *FAST]) == 0
    fold = tb.load_result(own / "results" / "encoding_own_my.nc").data["test_fold"].values
    assert all(len(set(fold[start : start + 4])) == 1 for start in range(0, 40, 4))
    assert len(set(fold)) == 5


def test_columns_taken_for_rois_and_those_that_cannot_be_scored_are_told(own, capsys):
    import pandas as pd

    frame = pd.read_csv(table_of(own / "my.csv"))
    frame.loc[3, "IFG"] = float("nan")
    frame["seen"] = True
    frame.to_csv(own / "my.csv")  # with pandas' own row numbers
    assert main(["encode", "--model", "own_model:build", "--data", "my.csv", "--out", "out", *FAST]) == 0
    told = capsys.readouterr().err
    assert "responses: IFG, MFG (40 stimuli)" in told
    assert "1 of 1 voxels of IFG have missing or constant values" in told
    assert main(["report", "out"]) == 0  # an ROI without a score is no reason to fail


def test_a_semicolon_table_is_told(own, capsys):
    (own / "semi.csv").write_text("sentence;IFG\na b;1\n")
    assert main(["encode", "--model", "own_model:build", "--data", "semi.csv"]) == 1
    assert "separated by semicolons" in capsys.readouterr().err


def test_numbers_that_are_not_known_are_null_in_json(own, capsys):
    arguments = ["encode", "--model", "own_model:build", "--data", str(table_of(own / "my.csv")), "--json", *FAST]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["ceiling"] is None
