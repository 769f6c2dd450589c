"""The gallery of language and sentiment maps, small: the scripts write what they promise, the figures draw what was saved."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import topobrain as tb
from analyses import map_language, map_sentiment, model_families
from analyses.train_topographic_pair import trained_layers
from figures import beside_nulls, fig8_language_maps, fig9_sentiment_maps
from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.data.token_counts import token_counts
from topobrain.models.architectures import build
from topobrain.models.directories import save_model
from topobrain.models.gpt import GPTConfig
from topobrain.models.topoformer import variant
from topobrain.training import find_recipe
from topobrain.training.recipe_run import RECIPE_FILE
from topobrain.training.vocabularies import train_bpe

STREAMS = [f"blocks.0.attention.{name}" for name in ("query", "key", "value", "output")]
QUICK = {"stimuli": "simulated", "pretrained": ()}
POSITIVE, NEGATIVE = ("lovely", "brilliant", "moving"), ("dull", "awful", "tedious")


def simulated_reviews(n: int = 60) -> tb.StimulusSet:
    """Return short texts in which a few words decide the sentiment."""
    rng = np.random.default_rng(0)
    sentiment = ["positive" if i % 2 else "negative" for i in range(n)]
    texts = [
        f"the {rng.choice(['film', 'story', 'cast'])} was {rng.choice(POSITIVE if s == 'positive' else NEGATIVE)} "
        f"and {rng.choice(['long', 'short', 'loud', 'new', 'old'])} number {i}"
        for i, s in enumerate(sentiment)
    ]
    return tb.StimulusSet(texts, {"condition": sentiment}, name="simulated-reviews", provenance={"simulated": True})


@pytest.fixture(scope="module")
def language_models(tmp_path_factory) -> tuple[Path, Path]:
    """Two tiny GPTs of one shape and tokenizer: the model and its twin."""
    folder = tmp_path_factory.mktemp("gpt")
    tokenizer = train_bpe(list(tb.load_stimuli("simulated-sentences").items), 400)
    places = []
    for seed, name in enumerate(("toy", "toy-twin")):
        config = GPTConfig(vocab_size=len(tokenizer), width=16, n_layers=1, n_heads=2, context=64, dropout=0.0)
        places.append(save_model(folder / name, name, build("gpt", config, seed=seed), tokenizer))
    return places[0], places[1]


@pytest.fixture(scope="module")
def sentiment_models(tmp_path_factory) -> tuple[Path, Path]:
    """A tiny Topoformer and its twin with standard attention."""
    folder = tmp_path_factory.mktemp("topoformer")
    tokenizer = train_bpe(list(simulated_reviews().items), 300)
    places = []
    for name in ("both", "control"):
        config = variant(name, vocab_size=len(tokenizer), width=36, ffn_width=36, max_length=32, dropout=0.0)
        module = build("topoformer-classifier", config, seed=0)
        places.append(save_model(folder / name, f"topoformer-{name}", module, tokenizer))
    return places[0], places[1]


@pytest.fixture(scope="module")
def language_run(language_models, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("language")
    config = map_language.Config(
        models=language_models, pretrained=(), stimuli="simulated", out=out, top=0.1, n_null=19, n_untrained=2
    )
    whole = tb.load_stimuli
    with pytest.MonkeyPatch.context() as patch:  # a sixth of the stimuli
        patch.setattr(tb, "load_stimuli", lambda name: whole(name, n=40))
        map_language.run(config, tell=lambda line: None)
    return out


@pytest.fixture(scope="module")
def sentiment_run(sentiment_models, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sentiment")
    config = map_sentiment.Config(models=sentiment_models, out=out, top=0.1, n_null=19, n_untrained=2)
    map_sentiment.run(config, tell=lambda line: None, reviews=simulated_reviews())
    return out


@pytest.mark.slow
def test_the_language_run_leaves_maps_topography_profiles_curves_and_a_picture(language_run):
    models = pd.read_csv(language_run / "models.csv").set_index("role")
    assert models["model"].to_dict() == {
        "topographic": "toy",
        "twin": "toy-twin",
        "untrained": "toy (untrained:0)",
    }
    for file in models["file"]:
        for kind in ("selectivity-full", "topography-full", "sets-full", "profile-full", "distance"):
            found = tb.load_result(language_run / f"{kind}_{file}.nc")
            assert found.simulated
    assert (language_run / "figures" / "fig8_language_maps.png").stat().st_size > 10_000
    assert set(pd.read_csv(language_run / "lengths.csv")["stimuli"]) == {"localizer, full", "profile"}


@pytest.mark.slow
def test_the_topographic_model_stands_beside_nulls_twin_and_untrained_selves(language_run):
    found = tb.load_result(language_run / "topography-full_toy.nc")
    assert found.nulls == ["layout", "labels", "untrained", "twin"]
    table = found.summary()
    maps = table[table["measure"] == "morans_i"].set_index("null")
    assert maps.loc[["layout", "labels"], "n_null"].tolist() == [19, 19]
    assert (maps.loc["untrained", "n_null"], maps.loc["twin", "n_null"]) == (2, 1)
    twin = tb.load_result(language_run / "topography-full_toy-twin.nc")
    assert twin.nulls == ["layout", "labels"]
    value = float(twin.data["value"].sel(measure="morans_i", contrast="language").values[0])
    assert maps.loc["twin", "null_mean"] == pytest.approx(value)
    assert set(table["measure"]) == set(model_families.MEASURES)


@pytest.mark.slow
def test_units_are_measured_on_other_stimuli_than_chose_them(language_run):
    profile = tb.load_result(language_run / "profile-full_toy.nc")
    assert profile.provenance["profile"]["measured"]["name"] == "simulated-swjn"
    assert set(profile.labels("condition")) == set(fig8_language_maps.PLACES["swjn"])
    sets = tb.load_result(language_run / "sets-full_toy.nc")
    assert sets.provenance["profile"]["split"] == "set"
    assert sets.data.sizes["fold"] > 2


@pytest.mark.slow
def test_the_figure_says_simulated_and_its_table_holds_the_saved_numbers(language_run):
    caption = (language_run / "figures" / "fig8_language_maps.txt").read_text()
    assert "(simulated)" in caption
    assert "19 layout and label permutations" in " ".join(caption.split())
    table = pd.read_csv(language_run / "figures" / "fig8_language_maps.csv")
    saved = tb.load_result(language_run / "topography-full_toy.nc").summary()
    shown = table[(table["part"] == "topography") & (table["model"] == "toy")]
    np.testing.assert_allclose(shown["value"], saved["value"], rtol=1e-5)
    np.testing.assert_allclose(shown["p"], saved["p"], rtol=1e-5)
    profile = tb.load_result(language_run / "profile-full_toy.nc").summary()
    rows = table[(table["variant"] == "full, swjn") & (table["model"] == "toy")]
    np.testing.assert_allclose(rows["value"], profile["response"], rtol=1e-5)


@pytest.mark.slow
def test_what_is_drawn_beside_a_value_are_its_nulls(language_run):
    import matplotlib.pyplot as plt

    models = beside_nulls.models_of(language_run)
    assert [one.role for one in models] == ["topographic", "twin", "untrained"]
    files = pd.read_csv(language_run / "models.csv").set_index("model")["file"]
    found = {name: tb.load_result(language_run / f"topography-full_{files[name]}.nc") for name, *_ in models}
    figure, ax = plt.subplots()
    beside_nulls.beside_nulls(ax, models, {"full": found}, "morans_i", "language")
    bars = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in ax.patches]
    expected = [
        tuple(float(one.beside(null).sel(measure="morans_i", contrast="language")[end].values[0])
              for end in ("null_low", "null_high"))
        for one in found.values() for null in ("layout", "labels")
    ]  # fmt: skip
    np.testing.assert_allclose(bars, expected, atol=1e-12)
    values = [line.get_ydata()[0] for line in ax.lines if line.get_marker() not in ("None", "")]
    cells = [one.data["value"].sel(measure="morans_i", contrast="language") for one in found.values()]
    np.testing.assert_allclose(values, [float(cell.values[0]) for cell in cells])
    plt.close(figure)


@pytest.mark.slow
def test_the_sentiment_run_maps_every_stream_of_model_twin_and_untrained_self(sentiment_run):
    models = pd.read_csv(sentiment_run / "models.csv")
    assert models["role"].tolist() == ["untrained", "twin", "topographic"]
    for file in models["file"]:
        found = tb.load_result(sentiment_run / f"selectivity-reviews_{file}.nc")
        assert found.layers == STREAMS
        assert found.contrasts == ["positive - negative"]
        profile = tb.load_result(sentiment_run / f"profile-reviews_{file}.nc")
        assert profile.provenance["profile"]["split"] == "odd-even"
    assert tb.load_result(sentiment_run / "topography-reviews_topoformer-both.nc").nulls == [
        "layout", "labels", "untrained", "twin",
    ]  # fmt: skip
    assert "(simulated)" in (sentiment_run / "figures" / "fig9_sentiment_maps.txt").read_text()


@pytest.mark.slow
def test_figures_draw_again_from_saved_results_alone(language_run, sentiment_run, tmp_path):
    import matplotlib.pyplot as plt

    for module, run in ((fig8_language_maps, language_run), (fig9_sentiment_maps, sentiment_run)):
        copy = tmp_path / run.name
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("figures"))
        drawing = module.draw(copy)
        assert drawing is not None
        name = module.__name__.split(".")[1]
        kept = pd.read_csv(run / "figures" / f"{name}.csv")
        assert len(drawing.numbers) == len(kept)
        np.testing.assert_allclose(drawing.numbers["value"].to_numpy(float), kept["value"], rtol=1e-5, equal_nan=True)
        plt.close(drawing.figure)


def test_a_folder_without_results_gives_no_figure(tmp_path):
    assert fig8_language_maps.draw(tmp_path) is None
    assert fig9_sentiment_maps.draw(tmp_path) is None


@pytest.mark.parametrize(
    ("config", "error", "told"),
    [
        (map_language.Config(stimuli="langlock"), UnknownNameError, "langloc"),
        (map_language.Config(recipe="toponet-nanogtp", **QUICK), UnknownNameError, "toponet-nanogpt"),
        (map_language.Config(models=(Path("one"),), **QUICK), InputError, "two directories; got 1"),
        (map_language.Config(stimuli="simulated", pretrained=("stories26k",)), UnknownNameError, "stories260k"),
    ],
)
@pytest.mark.slow
def test_wrong_options_are_told_before_anything_is_trained(config, error, told, tmp_path):
    with pytest.raises(error, match=told):
        map_language.run(replace(config, out=tmp_path / "out"), tell=lambda line: None)
    assert not list(tmp_path.rglob("*.nc"))


@pytest.mark.slow
def test_a_layer_that_a_model_does_not_have_is_told(language_models, tmp_path):
    config = map_language.Config(models=language_models, pretrained=(), stimuli="simulated", out=tmp_path,
                                 layers=("blocks.0.mlp.c_fcc",))  # fmt: skip
    with pytest.raises(UnknownNameError, match=r"blocks\.0\.mlp\.c_fc"):
        map_language.run(config, tell=lambda line: None)


def test_the_layers_mapped_are_those_that_the_loss_laid_out(language_models, sentiment_models, tmp_path):
    model = tb.load_model(language_models[0])
    for name, layers in (
        ("topolm", ("blocks.0.attention", "blocks.0.mlp")),
        ("toponet-nanogpt", ("blocks.0.mlp.c_fc",)),
    ):
        (tmp_path / RECIPE_FILE).write_text(json.dumps(find_recipe(name).to_dict()))
        assert trained_layers(tmp_path, model) == layers
    assert trained_layers(sentiment_models[0], tb.load_model(sentiment_models[0])) == tuple(STREAMS)


def test_sentiment_is_not_mapped_on_a_model_that_learnt_something_else(tmp_path):
    with pytest.raises(InputError, match="learns something else"):
        map_sentiment.run(map_sentiment.Config(recipe="topolm", out=tmp_path))


@pytest.mark.slow
def test_a_recipe_is_trained_once_and_then_found(tmp_path, monkeypatch):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(" ".join(tb.load_stimuli("simulated-sentences").items[i::20]) for i in range(20)))
    recipe = find_recipe("toponet-nanogpt")
    small = {**recipe.model, "width": 16, "n_layers": 1, "n_heads": 2, "context": 64}
    small_recipe = replace(recipe, corpus=str(corpus), vocab_size=300, length=8, model=small)
    monkeypatch.setattr(model_families, "find_recipe", lambda name, size: small_recipe)
    config = map_language.Config(out=tmp_path / "out", steps=2)
    lines: list[str] = []
    places = model_families.pair_of(config, lines.append)
    assert any("step 2/2" in line for line in lines)
    assert [tb.load_model(place).name for place in places] == ["toponet-nanogpt-tiny", "toponet-nanogpt-tiny-control"]
    for place in places:
        assert (tmp_path / "out" / f"training_{place.name}.nc").is_file()
    again: list[str] = []
    assert model_families.pair_of(config, again.append) == places
    assert not any("step 2/2" in line for line in again)


@pytest.mark.slow
def test_the_matched_localizer_has_the_tokens_of_the_model_that_reads_it(real_data):
    model = tb.load_model("stories260k")
    means = {
        variant_: token_counts(map_language.localizer("langloc", variant_)(model), model.encode.tokenizer)
        for variant_ in ("full", "tokens")
    }
    gap = {
        variant_: abs(one.loc["sentence", "tokens"] - one.loc["nonword", "tokens"]) for variant_, one in means.items()
    }
    assert gap["full"] > 5
    assert gap["tokens"] < 0.5


def test_a_damaged_data_set_is_told_before_anything_is_trained(store, tmp_path):
    damaged = store / "langloc_stimuli" / "fedorenko_stimuli.csv"
    damaged.parent.mkdir()
    damaged.write_text("not it")
    with pytest.raises(DataFileError, match=r"fedorenko_stimuli\.csv"):
        map_language.run(map_language.Config(out=tmp_path / "out"), tell=lambda line: None)
    assert not (tmp_path / "out").exists()
