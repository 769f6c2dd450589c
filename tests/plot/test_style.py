from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from topobrain.models import list_models
from topobrain.models.registry import BUILTIN, RECIPES
from topobrain.plot.style import (
    DIVERGING,
    MISSING,
    PALETTE,
    UNTRAINED,
    model_colour,
    model_look,
    model_looks,
    model_marker,
    short_layer,
    short_layers,
)

# Viénot, Brettel & Mollon 1999, for linear RGB: what is left of a colour without the M or the L cones.
DEUTERANOPE = np.array([[0.29275, 0.70725, -0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]])
PROTANOPE = np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, -0.0], [0.00401, -0.00401, 1.0]])


def lab(colour, seen=None):
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = linear if seen is None else np.clip(seen @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.cbrt(np.maximum(xyz / np.array([0.9505, 1.0, 1.089]), 0.008856))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def difference(a, b, seen=None):
    return float(np.linalg.norm(lab(a, seen) - lab(b, seen)))


def test_a_model_keeps_its_colour_and_the_untrained_are_grey():
    assert model_colour("topoformer-tiny") == model_colour("topoformer-tiny-brown") == PALETTE[0]
    assert model_colour("topoformer-tiny-control") == PALETTE[1]
    for name in ("stories260k (untrained)", "toponet-nanogpt-tiny (untrained:3)", "untrained", "mine (untrained)"):
        assert model_colour(name) == UNTRAINED
        assert model_look(name).face == "white"
    assert model_marker("stories260k") == model_marker("stories260k (untrained)")
    assert model_colour("somebody's") == model_colour("somebody's")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_one_look_in_every_size(recipe):
    assert len({model_look(f"{recipe}-{size}") for size in ("tiny", "gpu", "paper")} | {model_look(recipe)}) == 1
    assert model_look(f"{recipe}-tiny-control").marker == "s"
    assert len({model_look(f"{recipe}-{size}-control") for size in ("tiny", "gpu", "paper")}) == 1


def test_no_two_known_models_look_alike():
    known = [name for name in list_models() if name in BUILTIN and not name.startswith("topoformer-tiny-brown")]
    published = {"topolm": "topolm-tiny", "topolm-control": "topolm-tiny-control"}  # one model in two sizes
    looks = {name: model_look(name) for name in known if published.get(name) not in known}
    assert len(looks) > 20
    assert len({look.colour for look in looks.values()}) == len(looks)


@pytest.mark.parametrize("seen", [None, DEUTERANOPE, PROTANOPE], ids=["all cones", "deuteranope", "protanope"])
def test_a_model_its_twin_and_its_untrained_self_can_be_told_apart(seen):
    for recipe in ("topoformer", *RECIPES):
        trio = [model_look(f"{recipe}-tiny{kind}") for kind in ("", "-control", " (untrained)")]
        for one, other in combinations(trio, 2):
            if difference(one.colour, other.colour, seen) < 15:  # then shape and fill do it
                assert (one.marker, one.face) != (other.marker, other.face)
        assert difference(trio[0].colour, trio[1].colour, seen) > 15


def test_a_stronger_loss_is_darker():
    lightness = [lab(model_colour(f"toponet-resnet18-tau{tau}"))[0] for tau in ("0.5", "1", "5", "10", "20", "50")]
    assert (np.diff(lightness) < -2).all()
    assert lab(model_colour("toponet-resnet18-tau500"))[0] == lightness[-1]


def test_unknown_models_of_one_picture_differ():
    names = ["a", "b", "c", "d", "e", "topoformer-tiny", "stories260k"]
    looks = model_looks(names)
    assert list(looks) == names
    assert len({look.colour for look in looks.values()}) == len(names)
    assert looks["stories260k"] == model_look("stories260k")
    many = model_looks([f"model {i}" for i in range(60)])  # more than there are looks: no error
    assert len(many) == 60


def test_an_unknown_twin_has_the_tint_of_its_model():
    looks = model_looks(["mine", "yours", "mine-control"])
    assert looks["mine-control"].colour not in (looks["mine"].colour, looks["yours"].colour)
    a, b = (np.array(to_rgb(looks[name].colour)) for name in ("mine", "mine-control"))
    white = (b - a) / (1 - a)
    assert np.allclose(white, white[0], atol=0.02)


def test_grey_is_no_colour_of_the_diverging_scale():
    from matplotlib import colormaps

    shades = colormaps[DIVERGING](np.linspace(0, 1, 256))
    assert min(difference(MISSING, tuple(shade[:3])) for shade in shades) > 6


@pytest.mark.parametrize(
    ("layer", "short"),
    [
        ("h.11", "11"),
        ("blocks.0", "block"),
        ("blocks.3", "3"),
        ("blocks.0.attention.query", "query"),
        ("blocks.2.attention.query", "2.query"),
        ("blocks.3.mlp.c_fc", "3.c_fc"),
        ("blocks.3.attention", "3.attention"),
        ("encoder.layer.3", "3"),
        ("encoder.layers.encoder_layer_3.mlp.0", "3.mlp.0"),
        ("encoder.layers.encoder_layer_3", "3"),
        ("encoder.ln", "ln"),
        ("layer3.1.conv2", "layer3.1.conv2"),
        ("layer4.0", "layer4.0"),
        ("avgpool", "avgpool"),
        ("embeddings", "emb"),
    ],
)
def test_layers_have_short_names(layer, short):
    assert short_layer(layer) == short


def test_short_names_of_one_picture_differ():
    streams = [f"blocks.{i}.attention.{s}" for i in range(2) for s in ("query", "key")]
    assert short_layers(streams) == ["0.query", "0.key", "1.query", "1.key"]
    assert short_layers(["embeddings", "blocks.0", "blocks.1"]) == ["emb", "0", "1"]
    assert short_layers(["a.3", "b.3", "c.4"]) == ["a.3", "b.3", "4"]
    assert short_layers(["blocks.0.attention.query", "blocks.0"]) == ["query", "block"]
