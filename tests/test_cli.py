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
    for verb in ("models", "data", "train", "extract", "localize", "encode", "reproduce", "report", "doctor"):
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


@pytest.mark.slow
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
@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_output_into_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m topobrain.cli models | true"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, env=os.environ)
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_options_of_encode_reach_the_result(own):
    data = str(table_of(own / "my.csv"))
    options = ["--n-folds", "4", "--seed", "3", "--folds", "shuffled", "--n-permutations", "7", "--n-bootstrap", "9"]
    assert main(["encode", "--model", "own_model:build", "--data", data, *options]) == 0
    kept = tb.load_result(own / "results" / "encoding_own_my.nc").provenance["encoding"]
    wanted = {"n_folds": 4, "seed": 3, "folds": "shuffled", "n_permutations": 7, "n_bootstrap": 9}
    assert {key: kept[key] for key in wanted} == wanted


@pytest.mark.slow
def test_groups_of_a_table_are_kept_whole(own):
    table = table_of(own / "my.csv").read_text().splitlines()
    grouped = [table[0] + ",passage", *(f"{line},p{i // 4}" for i, line in enumerate(table[1:]))]
    (own / "my.csv").write_text("\n".join(grouped))
    assert main(["encode", "--model", "own_model:build", "--data", "my.csv", "--group", "passage", *FAST]) == 0
    fold = tb.load_result(own / "results" / "encoding_own_my.nc").data["test_fold"].values
    assert all(len(set(fold[start : start + 4])) == 1 for start in range(0, 40, 4))
    assert len(set(fold)) == 5


@pytest.mark.slow
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


# --- training, and importing weights


@pytest.fixture
def text(tmp_path, monkeypatch):
    """A plain text file to train on, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(
        "\n\n".join(f"the {i} old dogs of house {i * i} sleep in the sun" for i in range(300))
    )
    return tmp_path / "text.txt"


QUICK = ["--steps", "2", "--batch-size", "4", "--device", "cpu"]


def test_without_a_recipe_the_recipes_are_listed(capsys):
    assert main(["train", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["recipe"] for row in rows} == {
        "topoformer-imdb", "topoformer-bert", "toponet-resnet18", "toponet-nanogpt", "topolm",
    }  # fmt: skip
    assert {row["size"] for row in rows} == {"tiny", "gpu", "paper"}
    assert len(rows) == 15
    assert main(["train"]) == 0
    shown = capsys.readouterr().out
    assert all(row["recipe"] in shown for row in rows)
    assert "no, give --corpus" in shown
    assert any(row["source"].startswith("Rathi et al. (2025)") for row in rows)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["topoformer-imbd"], "Did you mean 'topoformer-imdb'"),
        (["topolm", "--tau", "nan"], "a number of at least 0, got nan"),
        (["topolm", "--tau", "-1"], "a number of at least 0, got -1.0"),
        (["topolm", "--tau", "inf"], "a number of at least 0, got inf"),
        (["topoformer-imdb", "--tau", "3"], "topoformer-imdb has no topographic loss"),
        (["toponet-resnet18", "--variant", "both"], "toponet-resnet18 is a resnet: only Topoformers have variants"),
        (["topoformer-bert", "--variant", "singed"], "Did you mean 'signed'"),
        (["topolm", "--control", "--tau", "1"], "it takes neither --tau nor --variant"),
        (["topoformer-bert", "--control", "--variant", "signed"], "it takes neither --tau nor --variant"),
        (["topolm", "--steps", "0"], "steps must be a whole number of at least 1, got 0"),
        (["topolm", "--seed", "-1"], "seed must be a whole number of at least 0, got -1"),
        (["topolm", "--max-seconds", "0"], "max_seconds must be a number above 0"),
        (["topolm", "--corpus", "brwon"], "Did you mean 'brown'"),
        (["topolm", "--corpus", "gone.txt"], "there is no text file gone.txt"),
        (["topolm", "--corpus", "text.txt", "--device", "cuda:9"], "device 'cuda:9' cannot be used"),
        (["toponet-resnet18", "--corpus", "text.txt"], "images to train on are 'cifar10', got 'text.txt'"),
    ],
)
def test_a_run_that_cannot_be_is_told(text, capsys, arguments, told):
    assert main(["train", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert told in error


def test_an_unknown_size_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "topolm", "--size", "tyny"])
    assert stopped.value.code == 2
    assert "tiny" in capsys.readouterr().err


@pytest.mark.slow
def test_training_on_a_text_of_ones_own(text, capsys):
    arguments = ["train", "topolm", "--corpus", "text.txt", *QUICK, "--tau", "0.5"]
    assert main([*arguments, "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert "step 2/2, loss" in printed.err
    directory = Path(found["directory"])
    assert directory == text.parent / "runs" / "topolm-tiny-tau0.5-seed0"
    assert found["result"] == str(directory / "training.nc")
    assert found["model"] == "topolm-tiny-tau0.5"
    assert found["simulated"] is False
    assert len(found["rows"]) == 1
    assert {"config.json", "model.safetensors", "tokenizer.json", "training.nc", "recipe.json"} <= {
        path.name for path in directory.iterdir()
    }
    model = tb.load_model(str(directory), device="cpu")
    assert model.name == "topolm-tiny-tau0.5"
    # the same command again: nothing is trained, the same is said
    before = (directory / "model.safetensors").stat().st_mtime_ns
    assert main([*arguments, "--json"]) == 0
    again = capsys.readouterr()
    assert json.loads(again.out) == found
    assert "step" not in again.err
    assert (directory / "model.safetensors").stat().st_mtime_ns == before
    # another run does not fit into its directory
    assert main([*arguments, "--out", str(directory), "--seed", "1"]) == 1
    assert "holds another finished run (training: " in capsys.readouterr().err
    assert main([*arguments, "--steps", "3"]) == 1
    assert "choose another directory" in capsys.readouterr().err
    # what was trained can be used by every other verb
    (text.parent / "stimuli.csv").write_text("item_id,sentence\na,the old dogs\nb,the sun\n")
    assert main(["extract", "--model", str(directory), "--stimuli", "stimuli.csv", "--layers", "blocks.0.mlp"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("option", "name"), [(["--control"], "control"), (["--variant", "signed"], "signed")])
def test_twins_and_variants_have_directories_of_their_own(text, capsys, option, name):
    arguments = ["train", "topoformer-bert", "--corpus", "text.txt", *QUICK, "--seed", "2", *option]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert f"topoformer-bert-tiny-{name}" in shown
    directory = text.parent / "runs" / f"topoformer-bert-tiny-{name}-seed2"
    config = json.loads((directory / "config.json").read_text())["config"]
    assert (config["querying"], config["reweighting"], config["signed"]) == (
        (None, None, False) if name == "control" else (None, 0.3, True)
    )


@pytest.mark.slow
def test_training_on_real_text(real_data, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["train", "toponet-nanogpt", "--corpus", "inaugural", *QUICK, "--out", str(out), "--json"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    log = tb.load_result(out / "training.nc")
    assert log.provenance["corpus"] == {"name": "inaugural", "simulated": False}
    assert log.data.sizes["step"] == 2
    assert found["rows"][0]
    config = json.loads((out / "config.json").read_text())
    assert config["trained_on"] == "inaugural"
    assert config["config"]["vocab_size"] == 2048


@pytest.mark.slow
def test_ctrl_c_ends_a_training_that_the_same_command_goes_on_with(text):
    arguments = [
        "train",
        "toponet-nanogpt",
        "--corpus",
        str(text),
        "--batch-size",
        "4",
        "--device",
        "cpu",
        "--steps",
        "24",
    ]
    command = [sys.executable, "-m", "topobrain.cli", *arguments, "--out", "run"]
    # a checkpoint comes with the first step, and Ctrl-C as soon as it is there
    running = start(command, cwd=text.parent)
    deadline = time.monotonic() + 120
    checkpoints = text.parent / "run" / "checkpoints"
    while not any(checkpoints.glob("step*")) and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert running.poll() is None, running.communicate()
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=60)
    assert running.returncode == 130, error
    assert "stopped. Results and activations that were finished are kept" in error
    assert "Traceback" not in error
    assert not (text.parent / "run" / "training.nc").exists()
    assert main([*arguments, "--out", "run"]) == 0
    assert main([*arguments, "--out", "whole"]) == 0
    stopped, whole = (tb.load_result(Path(name) / "training.nc").data for name in ("run", "whole"))
    assert stopped["train_loss"].values.tolist() == whole["train_loss"].values.tolist()
    hashes = {tb.load_model(name, device="cpu").weights_hash() for name in ("run", "whole")}
    assert len(hashes) == 1


@pytest.fixture
def resnet_file(tmp_path, monkeypatch):
    """A tiny file of weights in torchvision's layout."""
    import torch

    from topobrain.models.architectures import build
    from topobrain.models.resnet import ResNetConfig

    monkeypatch.chdir(tmp_path)
    torch.save(build("resnet", ResNetConfig(n_classes=3, width=4)).state_dict(), tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth"


def test_a_weight_file_becomes_a_model_directory(resnet_file, capsys):
    assert main(["models", "import", str(resnet_file), "model", "--name", "mine", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    model = tb.load_model("model", device="cpu")
    n = sum(p.numel() for p in model.module.parameters())
    directory = str(resnet_file.parent / "model")
    assert row == {"model": "mine", "parameters": n, "layers": len(model.sheets), "directory": directory}
    assert main(["models", "import", str(resnet_file), "other"]) == 0
    assert "resnet18" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["import"], "topobrain models import FILE DIRECTORY"),
        (["import", "resnet18.pth"], "topobrain models import FILE DIRECTORY"),
        (["import", "resnet18.pth", "a", "b"], "topobrain models import FILE DIRECTORY"),
        (["import", "gone.pth", "model"], "there is no weight file"),
        (["import", "broken.pth", "model"], "is a text file, not a weight file"),
        (["import", "resnet18.pth", "."], "choose another directory"),
        (["import", "resnet18.pth", "broken.pth"], "cannot write the model to broken.pth"),
        (["import", "resnet18.pth", "model", "--layout", "nanogtp"], "Did you mean 'nanogpt'"),
        (["import", "resnet18.pth", "model", "--positions", "places.npz"], "positions belong to TopoLM"),
        (["list", "resnet18.pth"], "did you mean `topobrain models import FILE DIRECTORY`"),
    ],
)
def test_an_import_that_cannot_be_is_told(resnet_file, capsys, arguments, told):
    (resnet_file.parent / "broken.pth").write_text("not weights")
    assert main(["models", *arguments]) == 1
    assert told in capsys.readouterr().err
    assert not (resnet_file.parent / "model").exists()


def test_every_model_is_listed_with_what_it_is(capsys):
    from topobrain.models import list_models

    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} >= {*list_models(), "hf:<id or directory>", "<directory>"}
    assert {"topolm-tiny", "topolm-tiny-control", "toponet-vit-b-32-tau10", "nanogpt"} <= {row["name"] for row in rows}
    assert all(row["what"] for row in rows)
    assert main(["models"]) == 0
    assert "toponet-resnet50-tau30" in capsys.readouterr().out


def test_a_file_whose_hash_nobody_published_passes_verification(store, resnet_file, capsys):
    import shutil

    from topobrain.store import fetch

    (store / "toponets-resnet50").mkdir()
    file = store / "toponets-resnet50" / "all_topo_tau_30.0.pt"
    shutil.copy(resnet_file, file)
    for _ in range(2):  # before and after its own hash is recorded
        assert main(["data", "verify", "toponets-resnet50", "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert rows == [{"name": "toponets-resnet50", "status": "unverified", "files": 1}]
        fetch("toponets-resnet50")
    assert main(["data", "verify"]) == 0
    file.write_bytes(b"other weights")
    capsys.readouterr()
    for names in (["toponets-resnet50"], []):
        assert main(["data", "verify", *names]) == 1
        assert "all_topo_tau_30.0.pt" in capsys.readouterr().out
