from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from topobrain import Sheet
from topobrain._checks import InputError, UnknownNameError
from topobrain.models.torch_model import Encoded, TorchModel, pick_device
from topobrain.testing import TEXTS, check_model

D = 6


def encode_words(texts: Sequence[Any]) -> Encoded:
    """Return one token a word, numbered by its length, right-padded with 0."""
    lengths = [len(text.split()) for text in texts]
    word = np.array([[w if w < n else -1 for w in range(max(lengths))] for n in lengths])
    ids = torch.zeros(word.shape, dtype=torch.int64)
    for row, text in enumerate(texts):
        ids[row, : lengths[row]] = torch.tensor([min(len(w), 15) for w in text.split()])
    return Encoded({"ids": ids, "mask": torch.from_numpy(word >= 0)}, word)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, D)
        layer = nn.TransformerEncoderLayer(D, 2, 8, dropout=0.5, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.register_buffer("shift", torch.zeros(D))
        self.out = nn.Linear(D, 4)
        self.gain = 1.0
        self.config = {"width": D}

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.encoder(self.embed(ids) + self.shift, src_key_padding_mask=~mask)
        return torch.as_tensor(self.out(states) * self.gain)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.GRU] | type[nn.LSTM]) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, D)
        self.cell = kind(D, 5, batch_first=True)

    def forward(self, ids: Tensor, mask: Tensor) -> Any:
        return self.cell(self.embed(ids))


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
        self.relu = nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm2d(2)
        self.out = nn.Linear(2 * 4 * 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return torch.as_tensor(self.out(self.norm(self.relu(self.conv(images))).flatten(1)))


def seeded(build: Callable[[], nn.Module]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return build()


def transformer(**options: Any) -> TorchModel:
    sheets = {"embed": Sheet.grid(2, 3), "encoder.layers.0": Sheet.grid(2, 3), "out": Sheet.none(4)}
    return TorchModel("transformer", seeded(Attention), encode_words, sheets, device="cpu", **options)


def images(n: int = 3) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (n, 6, 6, 3), dtype=np.uint8))


def encode_images(stimuli: Sequence[Any]) -> Encoded:
    pixels = torch.from_numpy(np.stack(stimuli)).permute(0, 3, 1, 2).float() / 255
    return Encoded(pixels, np.zeros((len(stimuli), 1), dtype=int))


def test_a_transformer_with_a_padding_mask_keeps_the_contract() -> None:
    model = transformer()
    model.module.train()  # dropout must be switched off while recording
    assert check_model(model).ok


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_the_output_of_a_recurrent_layer_is_the_first_of_its_tuple(kind: type[nn.GRU] | type[nn.LSTM]) -> None:
    module = seeded(lambda: Recurrent(kind))
    model = TorchModel("recurrent", module, encode_words, {"embed": Sheet.none(D), "cell": Sheet.none(5)}, device="cpu")
    assert check_model(model).ok
    inputs = encode_words(TEXTS).inputs
    assert isinstance(inputs, dict)
    with torch.no_grad():
        expected = module(**inputs)[0]
    torch.testing.assert_close(model.record(TEXTS, ["cell"]).values["cell"], expected)


def test_a_convolutional_network_on_images_has_one_token() -> None:
    module = seeded(Convolution)
    sheets = {"conv": Sheet.grid(4, 8), "out": Sheet.none(3)}
    model = TorchModel("cnn", module, encode_images, sheets, device="cpu")
    assert check_model(model, images()).ok
    recording = model.record(images(), ["conv"])
    with torch.no_grad():
        expected = module.conv(encode_images(images()).inputs)
    assert recording.word.tolist() == [[0], [0], [0]]
    torch.testing.assert_close(recording.values["conv"], expected.reshape(3, 1, -1))


def test_an_operation_in_place_further_on_does_not_reach_what_was_recorded() -> None:
    model = TorchModel("cnn", seeded(Convolution), encode_images, {"conv": Sheet.none(32)}, device="cpu")
    assert float(model.record(images(), ["conv"]).values["conv"].min()) < 0  # before the rectification


def test_a_path_with_input_records_what_goes_in() -> None:
    module = seeded(Attention)
    sheets = {"first": Sheet.none(D), "embed": Sheet.none(D), "last": Sheet.none(D), "second": Sheet.none(D)}
    paths = {"first": "encoder.layers.0:input", "last": "out:input", "second": "encoder.layers.1"}
    model = TorchModel("inputs", module, encode_words, sheets, paths=paths, device="cpu")
    values = model.record(TEXTS, list(sheets)).values
    assert torch.equal(values["first"], values["embed"])
    assert torch.equal(values["last"], values["second"])
    assert not torch.equal(values["first"], values["last"])


def test_an_input_given_by_keyword_is_recorded() -> None:
    class Block(nn.Module):
        def forward(self, other: Tensor, hidden_states: Tensor) -> Tensor:
            return hidden_states * 2

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.block = nn.Embedding(16, D), Block()

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            return torch.as_tensor(self.block(other=mask, hidden_states=self.embed(ids)))

    sheets = {"block:input": Sheet.none(D), "block": Sheet.none(D)}
    values = TorchModel("keyword", seeded(Net), encode_words, sheets, device="cpu").record(TEXTS, list(sheets)).values
    assert torch.equal(values["block"], 2 * values["block:input"])


def test_an_unknown_path_offers_near_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"encoder\.layer\.0.*Did you mean .*'encoder\.layers\.0'.*in Attention"):
        TorchModel("x", seeded(Attention), encode_words, {"encoder.layer.0": Sheet.none(D)})


def test_an_unknown_layer_offers_near_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"layer 'embedd'\. Did you mean 'embed'.*in model 'transformer'"):
        transformer().record(TEXTS, ["embedd"])


def test_a_width_that_does_not_fit_its_sheet_says_which_sheet_would() -> None:
    model = TorchModel("x", seeded(Attention), encode_words, {"out": Sheet.grid(3, 3)}, device="cpu")
    with pytest.raises(InputError, match=r"'out' of 'x' has 4 units, its sheet has 9 places; Sheet\.for_width\(4\)"):
        model.record(TEXTS, ["out"])


def test_an_output_without_token_axis_is_refused() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Embedding(16, D), nn.Linear(D, 4)

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            return torch.as_tensor(self.out(self.embed(ids).mean(dim=1)))

    model = TorchModel("x", seeded(Pooled), encode_words, {"out": Sheet.none(4)}, device="cpu")
    with pytest.raises(InputError, match=r"gave shape \(5, 4\); expected \(stimulus, token, unit\) = \(5, 17, 4\)"):
        model.record(TEXTS, ["out"])


def test_a_layer_never_reached_and_one_without_tensor_are_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.unused, self.empty = nn.Embedding(16, D), nn.Linear(2, 2), Empty()

        def forward(self, ids: Tensor, mask: Tensor) -> Any:
            return self.embed(ids), self.empty(ids)

    class Empty(nn.Module):
        def forward(self, ids: Tensor) -> tuple[()]:
            return ()

    sheets = {"unused": Sheet.none(2), "empty": Sheet.none(2)}
    model = TorchModel("odd", seeded(Odd), encode_words, sheets, device="cpu")
    with pytest.raises(InputError, match="layer 'unused' of 'odd' was not reached"):
        model.record(TEXTS, ["unused"])
    with pytest.raises(InputError, match="layer 'empty' gave a tuple, expected a tensor"):
        model.record(TEXTS, ["empty"])


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_every_part_is_restored(training: bool) -> None:
    model = transformer()
    model.module.train(training)
    model.module.encoder.layers[1].train(not training)  # type: ignore[union-attr,operator,index]
    before = {path: part.training for path, part in model.module.named_modules()}
    model.record(TEXTS, ["out"])
    assert {path: part.training for path, part in model.module.named_modules()} == before
    assert len(set(before.values())) == 2


def test_the_mode_of_a_part_that_switches_itself_is_restored() -> None:
    model = transformer()
    model.module.eval()
    model.module.out.register_forward_hook(lambda module, *_: module.train() and None)  # type: ignore[union-attr]
    model.record(TEXTS, ["out"])
    assert not any(part.training for part in model.module.modules())


def test_options_go_to_the_forward_and_those_of_a_call_before_them() -> None:
    class Scaled(Attention):
        def forward(self, ids: Tensor, mask: Tensor, scale: float = 1.0) -> Tensor:
            return torch.as_tensor(self.out(super().forward(ids, mask)[:, :, :1].expand(-1, -1, D) * scale))

    model = TorchModel("scaled", seeded(Scaled), encode_words, {"out": Sheet.none(4)}, device="cpu")
    seen = []
    model.module.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("scale")), with_kwargs=True
    )
    model.record(TEXTS, ["out"])
    model.options["scale"] = 3.0
    model.record(TEXTS, ["out"])
    model.record_encoded(model.encoded(TEXTS), ["out"], scale=5.0)
    assert seen == [None, 3.0, 5.0]


def test_an_error_in_the_forward_pass_leaves_no_hook_and_no_mode_behind() -> None:
    model = transformer()
    model.module.train()

    def fail(*_: object) -> None:
        raise RuntimeError("out of luck")

    handle = model.module.out.register_forward_pre_hook(fail)  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="out of luck"):
        model.record(TEXTS, list(model.sheets))
    handle.remove()
    for part in model.module.modules():
        assert part.training
        assert not part._forward_hooks
        assert not part._forward_pre_hooks
    model.record(TEXTS, list(model.sheets))
    assert not any(part._forward_hooks for part in model.module.modules())


def test_recording_needs_no_gradient_and_gives_float32() -> None:
    model = transformer()
    model.module.double()
    value = model.record(TEXTS, ["out"]).values["out"]
    assert value.dtype == torch.float32
    assert not value.requires_grad


def test_an_encoder_that_loses_a_stimulus_is_named() -> None:
    model = TorchModel("x", seeded(Attention), lambda s: encode_words(s[:1]), {"out": Sheet.none(4)}, device="cpu")
    with pytest.raises(InputError, match=r"encode of 'x' gave `word` of shape \(1, 3\) for 5 stimuli"):
        model.record(TEXTS, ["out"])


def test_a_model_needs_a_layer() -> None:
    with pytest.raises(InputError, match="at least one recordable layer"):
        TorchModel("x", nn.Linear(2, 2), encode_words, {})


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(InputError, match=f"device '{device}' cannot be used here"):
        pick_device(device)


def change_weight(model: TorchModel) -> None:
    with torch.no_grad():
        model.module.out.weight[0, 0] += 1e-6  # type: ignore[union-attr,index,operator]


def change_code(model: TorchModel) -> None:
    class Attention2(Attention):
        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            return super().forward(ids, mask) + 1

    model.module.__class__ = Attention2


CHANGES: dict[str, Callable[[Any], object]] = {
    "weight": change_weight,
    "buffer": lambda m: m.module.shift.add_(1e-6),
    "config": lambda m: m.module.config.update(width=D + 1),
    "plain attribute": lambda m: setattr(m.module, "gain", 2.0),
    "plain tensor": lambda m: setattr(m.module, "extra", torch.ones(2)),
    "activation function": lambda m: setattr(m.module, "activation", torch.tanh),
    "structure": lambda m: setattr(m.module, "out", nn.Sequential(m.module.out, nn.ReLU())),
    "precision": lambda m: m.module.double(),
    "code": change_code,
    "path": lambda m: m.paths.update(embed="out"),
    "options of the forward": lambda m: m.options.update(scale=2.0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_hash_changes_with(change: str) -> None:
    model = transformer()
    before = model.weights_hash()
    CHANGES[change](model)
    assert model.weights_hash() != before


def test_the_hash_stays_the_same_for_what_changes_no_number() -> None:
    model = transformer()
    before = model.weights_hash()
    model.record(TEXTS, list(model.sheets))
    model.module.train()
    model.name = "another name"
    model.module.to("cpu")
    assert model.weights_hash() == before
    assert transformer().weights_hash() == before


def test_the_hash_covers_every_tensor_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    model = transformer()
    first = model.weights_hash()
    seen = {first}
    for tensor in (*model.module.parameters(), *model.module.buffers()):
        with torch.no_grad():
            tensor.reshape(-1)[-1] += 1e-3
        seen.add(model.weights_hash())
    n_tensors = len(model.module.state_dict())
    assert len(seen) == n_tensors + 1
    for n_threads in (1, 2, 7):
        monkeypatch.setattr(torch, "get_num_threads", lambda n_threads=n_threads: n_threads)
        assert transformer().weights_hash() == first


def test_two_tensors_that_change_places_change_the_hash() -> None:
    model = transformer()
    before = model.weights_hash()
    norm = model.module.encoder.layers[0].norm1  # type: ignore[union-attr,index]
    norm.weight.data, norm.bias.data = norm.bias.data, norm.weight.data  # type: ignore[union-attr]
    assert model.weights_hash() != before


CODE = """
from torch import nn

class Base(nn.Module):
    def forward(self, x):
        return self.changed(x)

    def changed(self, x):
        return x + {}

class Part(Base):
    pass
"""


def test_the_hash_covers_the_code_of_inherited_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = []
    for version in ("1", "2", "1 "):
        (tmp_path / version).mkdir()
        (tmp_path / version / "own_layers.py").write_text(CODE.format(version.strip()))
        with monkeypatch.context() as patch:
            patch.syspath_prepend(tmp_path / version)
            patch.delitem(sys.modules, "own_layers", raising=False)
            module = nn.Sequential(importlib.import_module("own_layers").Part())
            hashes.append(TorchModel("own", module, encode_words, {"0": Sheet.none(2)}, device="cpu").weights_hash())
            sys.modules.pop("own_layers")
    assert hashes[0] == hashes[2] != hashes[1]


def test_the_hash_covers_code_without_a_file() -> None:
    hashes = []
    for version in ("1", "2", "1"):
        spelled: dict[str, Any] = {"__name__": "typed"}
        exec(CODE.format(version), spelled)
        module = nn.Sequential(spelled["Part"]())
        hashes.append(TorchModel("typed", module, encode_words, {"0": Sheet.none(2)}, device="cpu").weights_hash())
    assert hashes[0] == hashes[2] != hashes[1]


def test_survey_lengths_and_digest_follow_the_encoded_stimuli() -> None:
    model = transformer()
    survey = model.survey(TEXTS)
    assert survey.lengths.tolist() == [len(text.split()) for text in TEXTS]
    assert survey.digest == model.survey(list(TEXTS)).digest
    assert survey.digest != model.survey([*TEXTS[:-1], TEXTS[-1] + " again"]).digest
    assert survey.digest != model.survey(list(reversed(TEXTS))).digest


def test_token_counts_are_the_lengths_of_the_survey_without_a_reading() -> None:
    model = transformer()
    model.module.register_forward_hook(lambda *_: pytest.fail("the module was run"))  # type: ignore[arg-type]
    counts = model.token_counts(TEXTS)
    assert counts.tolist() == [len(text.split()) for text in TEXTS]
    assert counts.tolist() == transformer().survey(TEXTS).lengths.tolist()


@pytest.mark.parametrize("change", ["heads", "hook", "closure", "patched forward"])
def test_what_weights_and_code_do_not_show_still_changes_the_cached_entry(change):
    from functools import partial

    gain = 1.0

    def build(heads):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Embedding(9, 8), nn.TransformerEncoderLayer(8, heads, 8, batch_first=True))

        def encode(texts):
            ids = torch.tensor([[len(text) % 9, 3, 4] for text in texts])
            return Encoded(ids, np.tile(np.arange(3), (len(texts), 1)))

        return TorchModel("same", module, encode, {"1": Sheet.none(8)})

    stimuli = ["a b c", "ab b c", "abc b c"]
    plain, other = build(2), build(4 if change == "heads" else 2)
    if change == "hook":
        other.module[0].register_forward_hook(lambda module, args, output: output * 2)
    elif change == "closure":
        gain = 3.0
        other.module[0].register_forward_hook(partial(lambda factor, module, args, output: output * factor, gain))
    elif change == "patched forward":
        usual = other.module[1].forward
        other.module[1].forward = lambda *args, **kwargs: usual(*args, **kwargs) + 1
    assert plain.survey(stimuli).digest == build(2).survey(stimuli).digest
    assert plain.survey(stimuli).digest != other.survey(stimuli).digest
