"""The study of integration windows, small: what it writes, and what it concludes where the windows are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_integrations import make_integration

import topobrain as tb
from analyses import map_integration_windows
from analyses.encode_language_network import Member
from analyses.integration_claims import (
    Study,
    about_zero,
    above_zero,
    ambiguity,
    claims,
    depth_verdict,
    median_of,
    order_p,
    tail,
)
from analyses.map_integration_windows import Config, layers_of, maps_table, run, that_fit
from topobrain._checks import InputError
from topobrain.data.template_language import generate_sentences
from topobrain.integration.result import MAPS, Integration
from topobrain.models.architectures import build
from topobrain.models.gpt import GPTConfig, wrap_gpt
from topobrain.training.vocabularies import train_bpe

RISING = {f"blocks.{n}": (0.6, b, c) for n, (b, c) in enumerate([(4.0, 0.1), (2.0, 0.2), (1.0, 0.3), (0.7, 0.4)])}
YOKING = {f"blocks.{n}": value for n, value in enumerate([0.0, 0.03, 0.05, 0.07])}
NONE = dict.fromkeys(YOKING, 0.0)
QUICK = {"n_runs": 4, "run_words": 12, "n_sequences": 4, "n_sentences": 3, "sentence_words": 5, "max_lag": 4,
         "n_bootstrap": 4, "n_null": 9, "pretrained": ()}  # fmt: skip


def with_draws(one: Integration) -> Integration:
    """Medians of layers in 41 draws: those of the units, up to .004 above and below, in turn from layer to layer."""
    middle = np.array([[median_of(one, layer, name) for layer in one.layers] for name in MAPS])
    wave = np.linspace(-0.004, 0.004, 41)[None, :, None] * (-1.0) ** np.arange(len(one.layers))
    return Integration(one.data.assign(layer_draws=(("map", "draw", "layer_name"), middle[:, None, :] + wave)))


def study(windows=None, yoking=None, *, morans=0.4, untrained=None, laid_out=("blocks.2",)) -> Study:
    """A model with known windows, a twin with maps of no order, and an untrained self that forgets at once."""
    made = Study("m", laid_out)
    delta = dict.fromkeys(YOKING, (3.0, 8.0, 0.06))
    given = {"model": (windows or RISING, yoking or YOKING, morans), "twin": (windows or RISING, NONE, 0.02),
             "untrained": (untrained or delta, NONE, 0.01)}  # fmt: skip
    for role, (one, yoked, moran) in given.items():
        made.runs[role] = with_draws(make_integration(one, name=role, morans=moran))
        made.sentences[role] = with_draws(
            make_integration(one, name=role, morans=moran, yoking=yoked, sentence_words=4)
        )
    return made


def verdicts(table: pd.DataFrame) -> dict[str, str]:
    return {f"{row.claim.split(' (')[0]}": row.verdict for row in table.itertuples() if "map is" not in row.claim}


def test_planted_findings_are_found() -> None:
    table = claims([study()])
    assert set(verdicts(table).values()) == {"reproduced"}
    assert set(table["family"]) == {"m"}
    depth = table[table["claim"].str.startswith("c rises")].iloc[0]
    assert depth["value"] == pytest.approx(0.3)
    assert (depth["rho"], depth["n_layers"]) == (pytest.approx(1), 4)
    assert depth["p"] == pytest.approx(1 / 24)
    assert depth["high"] - depth["value"] == pytest.approx(0.95 * 0.008)
    assert depth["value"] - depth["low"] == pytest.approx(0.95 * 0.008)
    falls = table[table["claim"].str.startswith("b falls")].iloc[0]
    assert falls["value"] == pytest.approx(-3.3)


def test_the_opposite_is_told_from_what_cannot_be_told() -> None:
    turned = dict(zip(RISING, reversed(RISING.values()), strict=True))
    said = verdicts(claims([study(turned, dict(zip(YOKING, reversed(YOKING.values()), strict=True)))]))
    assert {said[f"{name} with depth"] for name in ("c rises", "b falls", "width rises", "yoking rises")} == {"not"}
    assert said["yoking is about 0 in the first block"] == "not"
    assert said["yoking is above 0 in the last block"] == "cannot be told"  # 0, and its error
    # what is untrained may listen as far: then training lengthened nothing
    said = verdicts(claims([study(untrained=RISING)]))
    assert said["training lengthens windows"] == "cannot be told"
    assert said["untrained: windows are nearly a delta"] == "not"


def test_a_tail_that_is_exponential_makes_c_unreadable() -> None:
    slow = {layer: (10.0, 0.02, 0.97 - 0.1 * n) for n, layer in enumerate(RISING)}
    one = make_integration(slow)
    assert ambiguity(one, "blocks.0") == {"share_ambiguous": 0, "share_exponential_tail": 1}
    assert ambiguity(make_integration(RISING), "blocks.2") == {"share_ambiguous": 0, "share_exponential_tail": 0}
    table = claims([study(slow)])
    said = table[table["claim"].str.startswith("c rises")].iloc[0]
    assert said["verdict"] == "cannot be told"
    assert "blocks.3: told of 0% of the units" in said["note"]


def test_maps_are_compared_with_units_in_other_places_and_with_each_control() -> None:
    table = claims([study()])
    maps = table[table["claim"].str.startswith("map is")]
    assert set(maps["verdict"]) == {"reproduced"}
    assert maps["against"].value_counts().to_dict() == {"layout null": 5, "twin": 5, "untrained": 5}
    twin = maps[(maps["against"] == "twin") & (maps["map"] == "c")].iloc[0]
    assert twin["value"] == pytest.approx(0.38)
    assert twin["value"] - twin["low"] == pytest.approx(1.96 * np.hypot(0.02, 0.02))
    alike = claims([study(morans=0.03)])
    alike = alike[alike["claim"] == "map is patchier"]
    assert set(alike["verdict"]) == {"not"}
    few = study()
    few.runs["twin"] = make_integration(RISING, noisy=13)
    few = claims([few]).query("claim == 'map is patchier' and against == 'twin' and map == 'c'").iloc[0]
    assert (few["verdict"], few["note"]) == ("cannot be told", "twin: 46% of the units known")
    assert not claims([study(laid_out=())])["claim"].str.startswith("map is").any()


def test_maps_of_the_table_take_yoking_from_sentences() -> None:
    table = maps_table([study()])
    assert len(table) == 3 * 4 * 5
    assert table.query("role == 'model'")["morans_i"].eq(0.4).all()
    assert table.query("layer == 'blocks.2'")["laid_out"].all()
    assert table["laid_out"].sum() == 15


@pytest.mark.parametrize(
    ("sign", "rho", "p", "low", "high", "n", "expected"),
    [
        (1, 1.0, 0.04, 0.1, 0.3, 4, "reproduced"),
        (-1, -1.0, 0.04, -0.3, -0.1, 4, "reproduced"),
        (1, 0.4, 0.3, 0.1, 0.3, 5, "cannot be told"),  # the last above the first, but in no order
        (1, 1.0, 0.5, 0.1, 0.3, 2, "reproduced"),  # two layers: only their difference speaks
        (1, 1.0, 0.5, -0.1, 0.3, 2, "cannot be told"),
        (1, -1.0, 1.0, -0.3, 0.1, 2, "cannot be told"),
        (1, -1.0, 1.0, -0.3, 0.1, 4, "not"),
        (1, 0.5, 0.2, -0.3, -0.1, 4, "not"),
        (1, np.nan, np.nan, np.nan, np.nan, 4, "cannot be told"),
    ],
)
def test_depth_is_judged_by_order_and_by_the_difference(sign, rho, p, low, high, n, expected) -> None:
    assert depth_verdict(sign, rho, p, low, high, n) == expected


def test_orders_of_layers_have_an_exact_p() -> None:
    assert order_p(np.arange(5.0), 1) == (pytest.approx(1), pytest.approx(1 / 120))
    assert order_p(np.arange(5.0), -1)[1] == 1
    assert order_p(np.array([1.0, 2.0, 4.0, 3.0]), 1)[1] == pytest.approx(4 / 24)  # itself, and three as good or better
    assert order_p(np.arange(9.0), 1)[1] == pytest.approx(1 / 5040, abs=1e-3)
    assert np.isnan(order_p(np.array([1.0, np.nan, 2.0]), 1)).all()
    assert np.isnan(order_p(np.ones(4), 1)).all()


def test_values_near_zero() -> None:
    assert about_zero(0.002, -0.01, 0.014) == "reproduced"
    assert about_zero(0.002, -0.05, 0.054) == "cannot be told"  # not known well enough
    assert about_zero(-0.07, -0.12, -0.02) == "not"
    assert [above_zero(*ends) for ends in ((0.1, 0.2), (-0.1, 0.2), (-0.2, -0.1))] == [
        "reproduced", "cannot be told", "not",
    ]  # fmt: skip


def test_medians_are_over_known_units() -> None:
    one = make_integration({"blocks.0": (0.5, 2.0, 0.3)}, noisy=20)
    assert median_of(one, "blocks.0", "c") == pytest.approx(0.3)
    one = make_integration({"blocks.0": (0.5, 2.0, 0.3)}, noisy=24)
    assert np.isnan(median_of(one, "blocks.0", "c"))
    curve = 0.3 * np.arange(1, 22.0) ** -0.5 + 0.7 * np.exp(-2 * np.arange(21.0))
    found = tail(one, "blocks.0")
    assert (found["theta_1"], found["tail"]) == (pytest.approx(curve[1]), pytest.approx(curve[1:].mean()))


def gpt(name: str, seed: int, *, context: int = 128) -> tb.TorchModel:
    """An untrained GPT that reads the template language."""
    tokenizer = train_bpe(generate_sentences(200, seed=0).texts, 300)
    config = GPTConfig(vocab_size=len(tokenizer), width=16, n_layers=2, n_heads=2, context=context, dropout=0.0)
    return wrap_gpt(name, build("gpt", config, seed=seed), tokenizer, device="cpu")


def gpt_members(training: object, tell: object) -> list[Member]:
    (training.out / "gpt").mkdir(exist_ok=True)  # type: ignore[attr-defined]
    names = {"gpt": "model", "gpt-control": "twin", "gpt (untrained:0)": "untrained"}
    return [Member(gpt(name, seed), "gpt", role) for seed, (name, role) in enumerate(names.items())]  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_run_leaves_windows_tables_and_the_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_integration_windows, "members", gpt_members)
    told: list[str] = []
    path = run(Config(data="template", out=tmp_path, **QUICK), told.append)  # type: ignore[arg-type]
    assert path.name == "fig16_integration_windows.png"
    assert path.stat().st_size > 20_000
    runs = Integration.load(tmp_path / "integration_gpt.nc")
    yoked = Integration.load(tmp_path / "yoking_gpt-control.nc")
    assert runs.layers == ["embeddings", "blocks.0.mlp.c_fc", "blocks.0", "blocks.1.mlp.c_fc", "blocks.1"]
    assert runs.simulated
    assert runs.provenance["integrate"]["normalise"] == "measured"
    assert yoked.provenance["integrate"]["normalise"] == "swapped"
    assert yoked.provenance["integrate"]["sentence_words"] == 5
    models = pd.read_csv(tmp_path / "models.csv")
    assert models["role"].tolist() == ["topographic", "twin", "untrained"]
    layers = pd.read_csv(tmp_path / "layers.csv")
    assert len(layers) == 3 * 2 * 5
    assert layers.query("layer == 'embeddings'")["theta_1"].eq(0).all()  # a word's embedding knows no other word
    assert layers.query("layer == 'embeddings' and sequences == 'sentences'")["yoking"].dropna().eq(0).all()
    assert set(layers.query("laid_out")["layer"]) == {"blocks.0.mlp.c_fc", "blocks.1.mlp.c_fc"}
    said = pd.read_csv(tmp_path / "claims.csv")
    assert set(said["verdict"]) <= {"reproduced", "not", "cannot be told"}
    assert said["verdict"].notna().all()
    assert (said["claim"] == "map is patchy").sum() == 10
    assert "simulated" in path.with_suffix(".txt").read_text()


@pytest.mark.slow
def test_sequences_are_short_enough_for_the_model() -> None:
    model = gpt("short", 0, context=34)

    def load(n: int) -> tb.StimulusSet:
        return tb.load_stimuli("simulated-word-runs", n=n, n_words=10)

    def tokens(texts: list[str]) -> list[int]:
        return [len(ids) for ids in model.encode.tokenizer(texts)["input_ids"]]  # type: ignore[attr-defined]

    every = tokens(list(load(40).texts))
    assert min(every) < 34 < max(every)
    found = that_fit(model, load, 5)
    assert len(found) == 5
    assert max(tokens(list(found.texts))) <= 34
    with pytest.raises(InputError, match="at most the 34 tokens that 'short' reads, 5 are needed"):
        that_fit(model, lambda n: tb.load_stimuli("simulated-word-runs", n=n, n_words=30), 5)
    assert list(that_fit(gpt("long", 0), load, 5).texts) == list(load(5).texts)
    assert layers_of(model, ("blocks.0.mlp",)) == ["embeddings", "blocks.0.mlp", "blocks.0", "blocks.1"]


def test_no_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model"):
        run(Config(data="template", pretrained=(), recipes=(), out=tmp_path), lambda line: None)
