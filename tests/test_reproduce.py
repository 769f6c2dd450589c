"""The reproduction, small: the same code as `make reproduce`, with barely trained models and few permutations."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pandas as pd
import pytest
from small_models import make_tiny_models_quick, start

import topobrain as tb
from analyses import reproduce
from topobrain._checks import DataFileError, InputError, UnknownNameError

ROOT = Path(__file__).parents[1]
QUICK = {"training_steps": 20, "n_permutations": 5, "n_bootstrap": 20}


@pytest.fixture(scope="module")
def simulated_run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        make_tiny_models_quick(patch)
        return reproduce.run(reproduce.Config(out=tmp_path_factory.mktemp("run"), **QUICK)).parent


@pytest.mark.slow
def test_a_run_leaves_results_figures_and_a_report(simulated_run):
    names = {path.name for path in simulated_run.glob("*.nc")}
    for model in ("topoformer-tiny", "topoformer-tiny-control", "topoformer-tiny__untrained"):
        assert {f"selectivity_{model}.nc", f"encoding_{model}.nc", f"topography_{model}.nc"} <= names
    pictures = sorted(path.stem for path in simulated_run.glob("figures/*.png"))
    assert pictures == sorted(reproduce.FIGURES)
    for picture in pictures:
        assert len(pd.read_csv(simulated_run / "figures" / f"{picture}.csv")) > 0
        assert "simulated" in (simulated_run / "figures" / f"{picture}.txt").read_text().lower()
    page = (simulated_run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(pictures)
    assert "Simulated data." in page
    assert not list(simulated_run.glob(".*part*"))


@pytest.mark.slow
def test_every_result_of_a_simulated_run_says_so(simulated_run):
    for path in simulated_run.glob("*.nc"):
        assert tb.load_result(path).simulated, path.name


@pytest.mark.slow
def test_the_truth_of_the_simulation_is_found(simulated_run):
    scores = tb.Encoding.load(simulated_run / "encoding_true_features.nc").summary()
    assert scores["normalized"].between(0.93, 1.05).all()
    table = pd.read_csv(simulated_run / "recovered_weights.csv")
    assert table["true_weight"].corr(table["recovered_weight"]) > 0.95


@pytest.mark.slow
def test_a_second_run_does_nothing_and_a_damaged_file_is_made_again(simulated_run, capsys):
    config = reproduce.Config(out=simulated_run, **QUICK)
    before = {path: path.stat().st_mtime_ns for path in simulated_run.glob("*.nc")}
    with pytest.MonkeyPatch.context() as patch:
        make_tiny_models_quick(patch)
        reproduce.run(config)
        out = capsys.readouterr().out
        assert out.count("up to date") == 10
        assert {path: path.stat().st_mtime_ns for path in simulated_run.glob("*.nc")} == before
        assert "report.html" in out
        damaged = simulated_run / "selectivity_topoformer-tiny.nc"
        damaged.write_bytes(b"x")
        reproduce.run(config)
    out = capsys.readouterr().out
    assert out.count("up to date") in (
        8,
        9,
    )  # the localization ran again; the figures only if its file came out different
    assert tb.load_result(damaged).kind == "selectivity"


@pytest.mark.slow
def test_a_real_data_set_is_drawn_beside_a_pretrained_model(real_data, tiny_models, tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "PRETRAINED", ("stories260k",))
    out = tmp_path / "real"
    reproduce.run(reproduce.Config(data="tuckute2024", out=out, **QUICK))
    found = tb.Encoding.load(out / "encoding_stories260k.nc")
    assert set(found.labels("region")) == {"netw", "IFGorb", "IFG", "MFG", "AntTemp", "PostTemp"}
    assert not found.simulated
    assert "simulated" not in (out / "figures" / "fig2_encoding.txt").read_text().lower()
    page = (out / "report.html").read_text()
    assert "Tuckute" in page
    assert "Simulated data." not in page
    assert not (out / "figures" / "fig4_cortex_and_truth.png").exists()


@pytest.mark.parametrize(
    ("config", "error", "told"),
    [
        ({"data": "tuckute2023"}, UnknownNameError, "Did you mean 'tuckute2024'"),
        ({"data": "gone.csv"}, DataFileError, "gone.csv"),
        ({"models": ("stories26k",)}, UnknownNameError, "Did you mean 'stories260k'"),
    ],
)
def test_a_wrong_name_is_told_before_anything_is_computed(tmp_path, config, error, told):
    with pytest.raises(error, match=told):
        reproduce.run(reproduce.Config(out=tmp_path / "o", **QUICK, **config))
    assert not list((tmp_path / "o").glob("*.nc"))


def test_missing_real_data_are_told_with_what_to_do(store, tmp_path):
    with pytest.raises(DataFileError, match="TOPOBRAIN_DATA"):
        reproduce.run(reproduce.Config(data="tuckute2024", out=tmp_path / "o"))


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataFileError, match="cannot write results to"):
        reproduce.run(reproduce.Config(out=tmp_path / "file" / "below"))


def test_two_runs_into_one_folder_do_not_mix(tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / ".lock"), pytest.raises(InputError, match="another run is writing"):
        reproduce.run(reproduce.Config(out=tmp_path))


@pytest.mark.slow
def test_ctrl_c_keeps_finished_steps(tmp_path):
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import pytest, small_models; small_models.make_tiny_models_quick(pytest.MonkeyPatch())\n"
        "import sys; from analyses import reproduce\n"
        f"c = reproduce.Config(out=__import__('pathlib').Path({str(tmp_path / 'o')!r}), training_steps=5, n_permutations=5)\n"
        "sys.exit(reproduce.main(c))"
    )
    environment = {**os.environ, "TOPOBRAIN_CACHE": str(tmp_path / "cache"), "PYTHONUNBUFFERED": "1"}
    running = start([sys.executable, "-c", code], cwd=ROOT, env=environment)
    assert running.stdout is not None
    for line in running.stdout:
        if line.startswith("[ 2/") and line.rstrip().endswith(" s"):
            break
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=60)
    assert running.returncode == 130, error
    assert "Finished steps are kept" in error
    done = json.loads((tmp_path / "o" / "steps.json").read_text())
    assert len(done) >= 2
    assert not list((tmp_path / "o").rglob("*.part"))


def test_results_of_others_are_neither_deleted_nor_mixed_in(tmp_path):
    mine = tmp_path / "encoding.nc"
    mine.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"results that no reproduction made \(encoding\.nc\)"):
        reproduce.run(reproduce.Config(out=tmp_path))
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize("content", ["[]", "{", "null"])
def test_a_damaged_ledger_counts_as_none(tmp_path, content):
    (tmp_path / "steps.json").write_text(content)
    assert reproduce.Ledger(tmp_path).done == {}


def test_results_of_an_earlier_configuration_are_forgotten(tmp_path):
    ledger = reproduce.Ledger(tmp_path)
    for name in ("kept", "old"):
        (tmp_path / f"{name}.nc").write_text(name)
        ledger.record(reproduce.Step(name, {}, list), [tmp_path / f"{name}.nc"], 0.0)
    ledger.forget({"kept"})
    assert [path.name for path in tmp_path.glob("*.nc")] == ["kept.nc"]
    assert set(ledger.done) == {"kept"}


def test_what_encoding_reads_of_responses_decides_whether_a_step_is_up_to_date():
    import numpy as np

    def responses(texts=("a", "b", "c"), **options):
        return tb.BrainResponses.from_arrays(np.eye(3), tb.StimulusSet(list(texts)), **options)

    usual = reproduce.responses_digest(responses())
    assert reproduce.responses_digest(responses()) == usual
    for other in (
        responses(("a", "b", "d")),
        responses(roi=list("xyz")),
        responses(ceiling=0.5),
        responses(design="timeseries"),
    ):
        assert reproduce.responses_digest(other) != usual
