import numpy as np
import pytest
import torch
from torch import nn

from topobrain._checks import InputError, UnknownNameError
from topobrain.extract import extract
from topobrain.models.laid_out import LaidOut
from topobrain.models.protocol import Model, Recording
from topobrain.models.torch_model import Encoded, TorchModel
from topobrain.nn import Remixing, self_organising_map
from topobrain.sheet import Sheet
from topobrain.stats import generic_topography
from topobrain.stimuli import StimulusSet
from topobrain.testing import check_model

TEXTS = ["a small dog sleeps", "cats", "rain falls on the roof", "she sells sea shells by the shore"]
WIDTH = 12


def encode(texts):
    words = [text.split() for text in texts]
    longest = max(map(len, words))
    word = np.array([[w if w < len(each) else -1 for w in range(longest)] for each in words])
    ids = [[1 + sum(map(ord, one)) % 49 for one in each] + [0] * (longest - len(each)) for each in words]
    return Encoded(torch.tensor(ids), word)


def tiny(name="tiny", seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Embedding(50, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 7))
    model = TorchModel(name, module, encode, {"1": Sheet.none(WIDTH), "2": Sheet.none(WIDTH), "3": Sheet.none(7)})
    model.provenance = {"trained_on": "nothing"}
    return model


def rotation(seed=0, sheet=None):
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((WIDTH, WIDTH)))[0]
    return Remixing(q, sheet or Sheet.grid(3, 4))


def shuffled(seed=0):
    return Sheet.grid(3, 4).with_places(np.random.default_rng(seed).permutation(WIDTH))


class Bare:
    """The least a model can be: arrays, no survey, no hash."""

    name = "bare"
    sheets = {"length": Sheet.none(4)}  # noqa: RUF012

    def record(self, stimuli, layers):
        values = np.array([[[len(s), s.count("a"), s.count("e"), len(s) ** 2]] for s in stimuli], dtype=np.float32)
        return Recording(dict.fromkeys(layers, values), np.zeros((len(stimuli), 1), dtype=int))


@pytest.mark.parametrize("layout", [shuffled(), rotation()], ids=["places", "re-mixing"])
def test_keeps_the_contract_of_a_model(layout):
    model = LaidOut(tiny(), {"2": layout})
    assert isinstance(model, Model)
    assert check_model(model).ok


def test_places_change_and_values_do_not():
    inner, sheet = tiny(), shuffled()
    model = LaidOut(inner, {"2": sheet})
    assert list(model.sheets) == ["1", "2", "3"]
    assert model.sheets["2"] == sheet
    assert model.sheets["1"] == Sheet.none(WIDTH)
    assert inner.sheets["2"] == Sheet.none(WIDTH)  # the wrapped model stays as it was
    expected, found = inner.record(TEXTS, ["1", "2"]), model.record(TEXTS, ["1", "2"])
    for layer in ("1", "2"):
        assert torch.equal(found.values[layer], expected.values[layer])
    assert np.array_equal(found.word, expected.word)


def test_remixed_layers_come_in_the_new_basis_and_lead_back():
    inner, mixing = tiny(), rotation()
    model = LaidOut(inner, {"2": mixing})
    assert model.sheets["2"] == Sheet.grid(3, 4)
    expected, found = inner.record(TEXTS, ["2", "3"]), model.record(TEXTS, ["2", "3"])
    assert found.values["2"].dtype == torch.float32
    assert np.allclose(found.values["2"], expected.values["2"].double().numpy() @ mixing.matrix, atol=1e-5)
    assert (mixing.invert(found.values["2"]) - expected.values["2"]).abs().max() < 1e-5
    assert torch.equal(found.values["3"], expected.values["3"])


def test_a_linear_read_out_tells_the_same_from_remixed_values():
    inner, mixing = tiny(), rotation()
    values = inner.record(TEXTS, ["2"]).values["2"][0].double()
    remixed = LaidOut(inner, {"2": mixing}).record(TEXTS, ["2"]).values["2"][0].double()
    weight = inner.module[3].weight.detach().double()
    logits = remixed @ torch.from_numpy(mixing.matrix).T @ weight.T
    assert torch.allclose(logits, values @ weight.T, atol=1e-5)
    assert torch.allclose(remixed @ remixed.T, values @ values.T, atol=1e-5)  # every similarity too


def test_the_rest_is_the_models_own():
    inner = tiny()
    model = LaidOut(inner, {"2": shuffled()})
    assert model.name == "tiny (laid out)"
    assert LaidOut(inner, {"2": shuffled()}, name="other").name == "other"
    assert model.device == inner.device
    assert model.encode is encode  # it tells whether a model reads texts or images
    assert model.survey(TEXTS).digest == inner.survey(TEXTS).digest
    assert model.provenance["trained_on"] == "nothing"
    assert model.provenance["laid_out"]["2"]["kind"] == "places"
    assert "laid_out" not in inner.provenance
    assert "layers ['2']" in repr(model)


def test_the_hash_covers_the_weights_and_every_layout():
    models = [
        LaidOut(tiny(), {"2": shuffled(0)}),
        LaidOut(tiny(), {"2": shuffled(1)}),
        LaidOut(tiny(seed=1), {"2": shuffled(0)}),
        LaidOut(tiny(), {"1": shuffled(0)}),
        LaidOut(tiny(), {"1": shuffled(0), "2": shuffled(0)}),
        LaidOut(tiny(), {"2": rotation(0)}),
        LaidOut(tiny(), {"2": rotation(1)}),
        LaidOut(tiny(), {"2": rotation(0, Sheet.grid(4, 3))}),
    ]
    hashes = [model.weights_hash() for model in models] + [tiny().weights_hash()]
    assert len(set(hashes)) == len(hashes)
    assert models[0].weights_hash() == LaidOut(tiny(), {"2": shuffled(0)}).weights_hash()
    assert models[5].weights_hash() == LaidOut(tiny(), {"2": rotation(0)}).weights_hash()
    assert models[4].weights_hash() == LaidOut(tiny(), {"2": shuffled(0), "1": shuffled(0)}).weights_hash()


def test_a_model_without_hash_and_survey_stays_one_without():
    model = LaidOut(Bare(), {"length": Remixing(np.eye(4)[[1, 0, 3, 2]], Sheet.grid(2, 2))})
    assert check_model(model, [tuple("a bee"), tuple("sea")]).ok
    for member in ("survey", "weights_hash", "device", "encode"):
        assert not hasattr(model, member)
    values = model.record(["a bee", "sea"], ["length"]).values["length"]
    assert values.dtype == np.float32
    assert values[:, 0].tolist() == [[1, 5, 25, 2], [1, 3, 9, 1]]


@pytest.mark.slow
def test_layouts_follow_into_activations_and_are_never_taken_from_another_layouts_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOPOBRAIN_CACHE", str(tmp_path))
    stimuli, found = StimulusSet(TEXTS), []
    for layout in (shuffled(0), shuffled(1), rotation(0), rotation(1)):
        activations = extract(LaidOut(tiny(), {"2": layout}, name="same"), stimuli)
        assert activations.sheet("2") == (layout.sheet if isinstance(layout, Remixing) else layout)
        found.append(activations.values("2"))
    plain = extract(tiny(), stimuli).values("2")
    assert np.array_equal(found[0], plain)
    assert np.array_equal(found[1], plain)
    for values, seed in zip(found[2:], (0, 1), strict=True):
        assert np.allclose(values, plain @ rotation(seed).matrix, atol=1e-5)


def test_bfloat16_extraction_remixes_in_float32():
    mixing = rotation()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inner = tiny().record(TEXTS, ["2"]).values["2"]
        found = LaidOut(tiny(), {"2": mixing}).record(TEXTS, ["2"]).values["2"]
    assert (mixing.invert(found) - inner).abs().max() < 1e-5


def test_from_recording_to_a_topographic_layout():
    """The three lines of the docstring: record, lay out, wrap."""
    words = [f"{a}{b}" for a in "abcdefghijkl" for b in "mnopqrstuvwx"]
    rng = np.random.default_rng(0)
    preferred = rng.permutation(36)

    class Tuned(Bare):
        name, sheets = "tuned", {"map": Sheet.none(36)}

        def record(self, stimuli, layers):
            place = np.array([[(ord(s[0]) - 97) / 2, (ord(s[1]) - 109) / 2] for s in stimuli])
            gap = place[:, None] - np.stack([preferred // 6, preferred % 6], axis=1)
            values = np.exp(-(gap**2).sum(axis=2) / 4)[:, None].astype(np.float32)
            return Recording(dict.fromkeys(layers, values), np.zeros((len(stimuli), 1), dtype=int))

    order = rng.permutation(len(words))
    first, second = (StimulusSet([words[i] for i in half]) for half in (order[:72], order[72:]))
    fitted = extract(Tuned(), first)
    layouts = {"map": self_organising_map(fitted.values("map"), Sheet.for_width(36))}
    held_out = extract(LaidOut(Tuned(), layouts), second)
    assert generic_topography(held_out.values("map"), held_out.sheet("map")) > 0.6
    assert generic_topography(held_out.values("map"), Sheet.for_width(36)) < 0.2


def test_bad_layouts_are_named():
    model = tiny()
    with pytest.raises(UnknownNameError, match=r"layer '4'.*Known: 1, 2, 3"):
        LaidOut(model, {"4": shuffled()})
    with pytest.raises(InputError, match="has 9 places, the layer 12 units"):
        LaidOut(model, {"2": Sheet.grid(3, 3)})
    with pytest.raises(InputError, match="has 12 places, the layer 7 units"):
        LaidOut(model, {"3": rotation()})
    with pytest.raises(InputError, match="is a ndarray, expected a Sheet or a Remixing"):
        LaidOut(model, {"2": np.arange(WIDTH)})
    with pytest.raises(InputError, match="no layout was given"):
        LaidOut(model, {})
    with pytest.raises(UnknownNameError, match="unknown layer 'x'"):
        LaidOut(model, {"2": shuffled()}).record(TEXTS, ["x"])
