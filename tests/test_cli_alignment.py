from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import topobrain as tb
from topobrain.alignment import Alignment
from topobrain.alignment.principal import PrincipalComponents
from topobrain.alignment.spatial import SpatialAlignment
from topobrain.cli import main

FAST = ["--n-permutations", "8", "--n-bootstrap", "12", "--n-folds", "3"]
MODELS = """
import numpy as np, torch, topobrain as tb
def encode(texts):
    words = [t.split() for t in texts]
    longest = max(map(len, words))
    ids = torch.tensor([[len(w) % 16 for w in ws] + [0] * (longest - len(ws)) for ws in words])
    return ids, np.array([list(range(len(ws))) + [-1] * (longest - len(ws)) for ws in words])
def make(name, seed, layer="0", sheet=None):
    generator = torch.Generator().manual_seed(seed)
    part = torch.nn.Embedding(16, 16)
    with torch.no_grad():
        part.weight.copy_(torch.randn(16, 16, generator=generator))
    sheets = {layer: sheet or tb.Sheet.grid(4, 4, wrapped=True)}
    return tb.TorchModel(name, torch.nn.Sequential(part), encode, sheets, paths={layer: "0"})
def one(weights=None, device="auto"):
    return make("one" if weights is None else f"one ({weights})", 0 if weights is None else 5)
def two(): return make("two", 1, layer="other")
def flat(): return make("flat", 0, sheet=tb.Sheet.none(16))
def never(weights=None, device="auto"):
    model = make("never", 2 if weights is None else 3)
    def record(stimuli, layers):
        raise RuntimeError("the model ran")
    model.record = record
    return model
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with models and a table of responses."""
    (tmp_path / "made_align_models.py").write_text(MODELS)
    lines = ["item_id,sentence,IFG,MFG,AntTemp"]
    lines += [
        f"i{i},{'word ' * (1 + i % 7)}number {'x' * (i % 5 + 1)}{i},{i % 7 + 0.1 * i},{(i * 7) % 11},{(i * i) % 13}"
        for i in range(40)
    ]
    (tmp_path / "my.csv").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "made_align_models", raising=False)
    monkeypatch.setenv("TOPOBRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path


def arguments(model: str, *more: str, data: str = "my.csv") -> list[str]:
    return ["align", "--model", f"made_align_models:{model}", "--data", data, "--out", "out", *FAST, *more]


def placed_responses(n_voxels: int = 24) -> str:
    """The table's stimuli with voxels that have places, as a file."""
    table = tb.load_responses("my.csv")
    rng = np.random.default_rng(0)
    places = rng.uniform(-30, 30, (n_voxels, 3))
    made = tb.BrainResponses.from_arrays(
        rng.standard_normal((40, n_voxels)), table.stimuli, roi="IFG",
        voxel_coords={f"{axis}_mm": places[:, i] for i, axis in enumerate("xyz")},
    )  # fmt: skip
    made.save("placed.nc")
    return "placed.nc"


@pytest.mark.slow
def test_align_writes_a_result_with_its_controls(here, capsys):
    assert main(arguments("one", "--controls", "untrained", "made_align_models:two", "--n-components", "2")) == 0
    printed = capsys.readouterr()
    assert "alignment of one" in printed.out
    assert "responses: IFG, MFG, AntTemp (40 stimuli)" in printed.err
    found = Alignment.load(here / "out" / "alignment_one_my.nc")
    assert found.controls == ["untrained", "two"]
    assert found.data.sizes["component"] == 2
    assert found.method == "pls"
    kept = found.provenance["alignment"]
    assert (kept["n_permutations"], kept["n_bootstrap"], kept["n_folds"]) == (8, 12, 3)
    stimuli = tb.load_responses("my.csv").stimuli
    expected = tb.extract(tb.load_model("made_align_models:one"), stimuli)
    assert found.layers == expected.layers


@pytest.mark.slow
def test_json_is_one_object_with_every_row(here, capsys):
    assert main(arguments("one", "--method", "rsa", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert Path(found["result"]).name == "alignment_one_my_rsa.nc"
    assert [row["component"] for row in found["rows"]] == [1]
    assert {"r", "null_low", "p_max", "ceiling"} <= set(found["rows"][0])


@pytest.mark.slow
def test_spatial_scores_are_a_second_result(here, capsys):
    more = ["--spatial", "--n-null", "5", "--controls", "untrained"]
    assert main(arguments("one", *more, "--json", data=placed_responses())) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["kind"] for row in rows] == ["alignment", "spatial_alignment"]
    found = SpatialAlignment.load(here / "out" / "spatial_one_placed.nc")
    assert found.data.sizes["null"] == 5
    assert found.controls == ["untrained"]
    again = [*more, "--method", "pca", "--json"]
    assert main(arguments("one", *again, data="placed.nc")) == 0
    names = [Path(row["result"]).name for row in json.loads(capsys.readouterr().out)]
    assert names == ["alignment_one_placed_pca.nc", "spatial_one_placed_pca.nc"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--controls", "untrained", "untrained"], "two controls are named 'untrained'"),
        (["--weights", "untrained", "--controls", "untrained"], "leave untrained out"),
        (["--controls", "made_align_models:too"], "too"),
        (["--roi", "IFGor"], "Did you mean 'IFG'"),
        (["--layers", "9"], "unknown layer '9'"),
        (["--roi", ",,"], "--roi ',,' names nothing"),
        (["--spatial"], "places"),
        (["--method", "rsa", "--spatial"], "places"),
    ],
)
def test_what_cannot_be_is_told_before_a_model_runs(here, capsys, options, told):
    assert main(arguments("never", *options)) == 1
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


def test_too_many_components_are_told_with_the_largest_number(here, capsys):
    assert main(arguments("one", "--n-components", "4")) == 1
    assert "allow 3 at most" in capsys.readouterr().err


@pytest.mark.slow
def test_sheets_without_places_are_refused_for_the_spatial_part_alone(here, capsys):
    assert main(arguments("flat", "--spatial", data=placed_responses())) == 1
    assert "no layout" in capsys.readouterr().err
    assert main(arguments("flat")) == 0


def test_wrong_usage_exits_with_two(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["align", "--model", "m", "--data", "d", "--method", "plss"])
    assert stopped.value.code == 2


@pytest.mark.slow
def test_components_of_a_model_and_the_sentences_at_their_ends(here, capsys):
    command = ["components", "--model", "made_align_models:one", "--data", "my.csv", "--out", "out", "--n-null", "9"]
    assert main([*command, "--n-components", "2", "--ends", "1"]) == 0
    out = capsys.readouterr().out
    assert "principal_components of one" in out
    assert "0, component 2:" in out
    assert "high" in out
    found = PrincipalComponents.load(here / "out" / "components_one_my.nc")
    assert found.data.sizes["component"] == 2
    assert found.places == "unit"


def test_components_of_a_brain_need_no_model(here, capsys):
    with pytest.warns(UserWarning, match="smoothness"):
        assert (
            main(["components", "--data", "my.csv", "--roi", "IFG,MFG", "--n-null", "9", "--out", "out", "--json"]) == 0
        )
    found = json.loads(capsys.readouterr().out)
    assert Path(found["result"]).name == "components_brain_my.nc"
    assert [row["component"] for row in found["rows"]] == [1, 2]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "--data alone"),
        (["--stimuli", "langloc"], "--data alone"),
        (["--model", "made_align_models:never"], "give the model's stimuli"),
        (
            ["--model", "made_align_models:never", "--data", "my.csv", "--stimuli", "langloc"],
            "give the model's stimuli",
        ),
        (["--model", "made_align_models:never", "--data", "my.csv", "--roi", "IFG"], "choose voxels"),
    ],
)
def test_components_of_nothing_are_told(here, capsys, options, told):
    assert main(["components", *options]) == 1
    assert told in capsys.readouterr().err


def test_help_names_the_verbs(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert "align" in out
    assert "components" in out
