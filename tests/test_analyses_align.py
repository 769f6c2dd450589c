"""The study of low-dimensional alignment, small: what it writes, and what it says of responses without places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import topobrain as tb
from analyses import align_language_network, planted_cases
from analyses.align_language_network import Config, Family, has_places, run, targets_of, wanted
from analyses.encode_language_network import Member
from analyses.model_streams import with_streams
from topobrain.alignment import Alignment
from topobrain.alignment.principal import PrincipalComponents
from topobrain.alignment.spatial import SpatialAlignment
from topobrain.models.architectures import build
from topobrain.models.gpt import GPTConfig, wrap_gpt
from topobrain.models.topoformer import TopoformerConfig, wrap_topoformer
from topobrain.training.vocabularies import train_bpe

TEXTS = [f"the {noun} {verb} {i}" for i, (noun, verb) in enumerate((n, v) for n in "abcdefghij" for v in "klmno")]
QUICK = {"pretrained": (), "methods": ("pls", "cka"), "n_permutations": 9, "n_bootstrap": 9, "n_null": 9}


def toy(name: str, seed: int) -> tb.TorchModel:
    """A model whose one layer tells words by their last letter."""
    generator = torch.Generator().manual_seed(seed)
    part = torch.nn.Embedding(128, 16)
    with torch.no_grad():
        part.weight.copy_(torch.randn(128, 16, generator=generator))

    def encode(texts: list[str]) -> tuple[torch.Tensor, np.ndarray]:
        words = [text.split() for text in texts]
        ids = torch.tensor([[ord(word[-1]) % 128 for word in one] for one in words])
        return ids, np.tile(np.arange(4), (len(texts), 1))

    return tb.TorchModel(name, torch.nn.Sequential(part), encode, {"0": tb.Sheet.grid(4, 4, wrapped=True)})


def toy_members(training: object, tell: object) -> list[Member]:
    names = {"toy": "model", "toy-control": "twin", "toy (untrained:0)": "untrained"}
    (training.out / "toy").mkdir(exist_ok=True)  # type: ignore[attr-defined]
    return [Member(toy(name, seed), "toy", role) for seed, (name, role) in enumerate(names.items())]  # type: ignore[arg-type]


def responses(n_voxels: int, *, placed: bool) -> tb.BrainResponses:
    rng = np.random.default_rng(0)
    places = {f"{axis}_mm": rng.uniform(-30, 30, n_voxels) for axis in "xyz"} if placed else None
    roi = "patch" if placed else ["netw", *(f"roi{i}" for i in range(n_voxels - 1))]
    stimuli = tb.StimulusSet(TEXTS, name="toy")
    return tb.BrainResponses.from_arrays(
        rng.standard_normal((len(TEXTS), n_voxels)),
        stimuli,
        roi=roi,
        voxel_coords=places,
        provenance={"simulated": placed},
    )


def with_coordinates(coords: dict[str, np.ndarray], attrs: dict[str, object]) -> tb.BrainResponses:
    made = tb.BrainResponses.from_arrays(
        np.random.default_rng(0).standard_normal((len(TEXTS), 4)),
        tb.StimulusSet(TEXTS),
        roi="patch",
        voxel_coords=coords,
    )
    made.data.attrs.update(attrs)
    return made


def on_an_unknown_surface() -> tb.BrainResponses:
    """Vertex numbers, and no word on which surface."""
    return with_coordinates({"vertex": np.arange(4)}, {})


def in_a_volume() -> tb.BrainResponses:
    return with_coordinates({axis: np.arange(4) for axis in "ijk"}, {"affine": np.eye(4).ravel()})


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(align_language_network, "members", toy_members)
    monkeypatch.setenv("TOPOBRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.filterwarnings("error:components of:UserWarning")  # run says it itself
def test_regions_give_alignment_and_say_that_the_rest_needs_voxels(toys: Path) -> None:
    responses(4, placed=False).save(toys / "table.nc")
    told: list[str] = []
    path = run(Config(data=str(toys / "table.nc"), out=toys / "out", **QUICK), told.append)
    assert path.name == "fig14_alignment.png"
    assert "has regions and no voxels with places" in told[0]
    one = Alignment.load(toys / "out" / "alignment_toy.nc")
    assert one.controls == ["twin", "untrained"]
    assert one.labels("roi").tolist() == ["roi0", "roi1", "roi2"]  # the network's mean is aligned by itself
    assert Alignment.load(toys / "out" / "network_toy.nc").labels("roi").tolist() == ["netw"]
    assert Alignment.load(toys / "out" / "alignment-cka_toy.nc").method == "cka"
    assert PrincipalComponents.load(toys / "out" / "components_brain.nc").places == "voxel"
    assert not list((toys / "out").glob("*spatial*"))
    table = pd.read_csv(toys / "out" / "layers.csv")
    assert set(table["score"]) == {"alignment", "alignment-cka", "network"}
    assert table["laid_out"].all()
    smooth = pd.read_csv(toys / "out" / "smoothness.csv")
    assert set(smooth["role"]) == {"model", "twin", "untrained"}
    assert (smooth["null_low"] < smooth["null_high"]).all()
    weights = one.unit_weights("0")[0]
    row = smooth.query("role == 'model' and component == 1").iloc[0]
    assert row["morans_i"] == pytest.approx(float(tb.stats.morans_i(weights, one.sheet("0"))), abs=1e-5)


@pytest.mark.slow
def test_voxels_with_places_give_what_depends_on_them(toys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    responses(24, placed=True).save(toys / "voxels.nc")
    monkeypatch.setattr(planted_cases, "KINDS", ("topographic",))
    told: list[str] = []
    path = run(Config(data=str(toys / "voxels.nc"), out=toys / "out", **QUICK), told.append)
    assert path.name == "fig15_spatial_alignment.png"
    assert not any("no voxels" in line for line in told)
    found = SpatialAlignment.load(toys / "out" / "spatial_toy.nc")
    assert found.controls == ["twin", "untrained"]
    assert found.simulated
    planted = SpatialAlignment.load(toys / "out" / "planted-spatial_topographic.nc")
    assert planted.simulated
    assert planted.data["p"].values[0] == pytest.approx(0.1)  # the smallest of nine draws
    assert not (toys / "out" / "network_toy.nc").exists()


def test_what_is_aligned_follows_from_the_responses() -> None:
    table, voxels = responses(4, placed=False), responses(24, placed=True)
    assert (has_places(table), has_places(voxels)) == (False, True)
    assert not has_places(on_an_unknown_surface())
    assert has_places(in_a_volume())
    assert targets_of(voxels) == {"alignment": {}}
    found = list(wanted(Config(methods=("pls", "rsa"), n_components=2), targets_of(table)))
    assert [one[:2] for one in found] == [("alignment", "pls"), ("alignment-rsa", "rsa"), ("network", "pls")]
    assert found[0][2] == {"targets": {"roi": ["roi0", "roi1", "roi2"]}, "n_components": 2}
    assert "n_components" not in found[1][2]
    assert Family("m", tb.extract, {}, ()).laid_out == ()  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_gpt_gives_queries_keys_and_values_apart() -> None:
    tokenizer = train_bpe(TEXTS, 300)
    config = GPTConfig(vocab_size=len(tokenizer), width=16, n_layers=2, n_heads=2, context=32, dropout=0.0)
    model = wrap_gpt("gpt", build("gpt", config, seed=0), tokenizer, device="cpu")
    streams = with_streams(model)
    inside = [f"blocks.0.attention.{name}" for name in ("query", "key", "value")]
    assert [layer for layer in streams.sheets if layer in inside] == inside
    assert list(streams.sheets).index("blocks.0.attention") == 4
    words = ["the dog sleeps"]
    found = streams.record(words, list(streams.sheets)).values
    for layer, value in model.record(words, list(model.sheets)).values.items():
        assert torch.equal(found[layer], value)
    joined = model.module.blocks[0].attention.c_attn
    caught: list[torch.Tensor] = []
    handle = joined.register_forward_hook(lambda *given: caught.append(given[2]))
    model.record(words, ["blocks.0"])
    handle.remove()
    assert torch.equal(torch.cat([found[layer] for layer in inside], dim=-1), caught[0])
    assert with_streams(toy("toy", 0)).sheets.keys() == {"0"}


def same_as_hooked(model: tb.TorchModel, inside: dict[str, str]) -> None:
    """Every stream of ``inside`` (layer -> module, written out here) is what that module gave, and no two are alike."""
    streams, words = with_streams(model), ["the little dog sleeps"]
    assert set(inside) <= set(streams.sheets)
    parts = dict(model.module.named_modules())
    caught: dict[str, torch.Tensor] = {}

    def keep(layer: str) -> Callable[..., None]:
        return lambda module, given, output: caught.update({layer: output.detach().clone()})

    handles = [parts[path].register_forward_hook(keep(layer)) for layer, path in inside.items()]
    model.record(words, [next(reversed(model.sheets))])
    for handle in handles:
        handle.remove()
    found = streams.record(words, list(inside)).values
    for layer, value in caught.items():
        assert torch.equal(found[layer].reshape(-1), value.reshape(-1)), layer
        assert streams.sheets[layer].n_units == value.shape[-1]
    kinds = list(caught.values())
    assert not any(a.shape == b.shape and torch.equal(a, b) for i, a in enumerate(kinds) for b in kinds[:i])


@pytest.mark.slow
def test_a_llama_gives_every_stream_as_its_modules_do(real_data: Path) -> None:
    inside = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
    model = tb.load_model("stories260k", device="cpu")
    block = model.paths["layers.1"]
    wanted = {f"layers.1.attention.{stream}": f"{block}.self_attn.{part}" for stream, part in inside.items()}
    same_as_hooked(model, wanted | {"layers.1.mlp": f"{block}.mlp"})


def test_a_topoformer_gives_every_stream_as_its_modules_do() -> None:
    tokenizer = train_bpe(TEXTS, 300)
    module = build("topoformer", TopoformerConfig.tiny(len(tokenizer)), seed=0)
    wanted = {f"blocks.0.attention.{stream}": f"blocks.0.attention.{stream}"
              for stream in ("query", "key", "value", "output")}  # fmt: skip
    same_as_hooked(
        wrap_topoformer("topoformer-tiny", module, tokenizer, device="cpu"),
        wanted | {"blocks.0.mlp": "blocks.0.feed_forward"},
    )
