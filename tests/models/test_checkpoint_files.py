from __future__ import annotations

import argparse
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_files import Trap
from safetensors.torch import save_file
from torch import nn

from topobrain._checks import DataFileError
from topobrain.models.checkpoint_files import fit_state, read_checkpoint, strip_prefixes

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1.0, 2.0])}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth", "bin", "ckpt"])
@pytest.mark.parametrize("really", ["safetensors", "torch", "old torch"])
def test_the_content_tells_the_kind_of_file(suffix: str, really: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{suffix}"
    if really == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=really == "torch")
    found = read_checkpoint(path)
    same(found.tensors, STATE)
    assert found.nest == ""
    assert found.meta == {}


@pytest.mark.parametrize(
    ("wrap", "nest"),
    [
        (lambda s: {"model": s, "epoch": 3}, "model"),
        (lambda s: {"state_dict": s, "epoch": 3}, "state_dict"),
        (lambda s: {"model_state_dict": s, "epoch": 3}, "model_state_dict"),
        (lambda s: {"model": {"state_dict": s}, "epoch": 3}, "model/state_dict"),
        (lambda s: {"model": "resnet18", "state_dict": s, "epoch": 3}, "state_dict"),
        (lambda s: {**s, "epoch": 3}, ""),
    ],
)
def test_the_usual_nests_are_opened(wrap: Any, nest: str, tmp_path: Path) -> None:
    torch.save(wrap(STATE), tmp_path / "x.pt")
    found = read_checkpoint(tmp_path / "x.pt")
    same(found.tensors, STATE)
    assert found.nest == nest
    assert found.meta["epoch"] == 3


def test_plain_values_beside_the_weights_are_kept_and_training_state_is_not(tmp_path: Path) -> None:
    module = Net()
    optimizer = torch.optim.AdamW(module.parameters())
    module.layer(torch.zeros(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "model": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "model_args": {"n_layer": 2, "bias": False, "vocab_size": None, "dropout": 0.0},
        "best_val_loss": torch.tensor(3.5),
        "args": argparse.Namespace(model="vit_b_32", lr=0.003, sizes=(1, 2)),
        "history": torch.zeros(10),
    }
    torch.save(content, tmp_path / "x.pt")
    found = read_checkpoint(tmp_path / "x.pt")
    assert found.meta == {
        "model_args": {"n_layer": 2, "bias": False, "vocab_size": None, "dropout": 0.0},
        "best_val_loss": 3.5,
        "args": {"model": "vit_b_32", "lr": 0.003, "sizes": [1, 2]},
    }
    same(found.tensors, module.state_dict())


def test_counters_inside_the_weights_stay_tensors(tmp_path: Path) -> None:
    state = nn.BatchNorm2d(2).state_dict()
    torch.save(state, tmp_path / "x.pt")
    found = read_checkpoint(tmp_path / "x.pt")
    same(found.tensors, state)
    assert found.meta == {}


def test_the_metadata_of_safetensors_is_kept(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "x.safetensors", metadata={"format": "pt"})
    assert read_checkpoint(tmp_path / "x.safetensors").meta == {"format": "pt"}


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.", "module.module."]
)
def test_prefixes_of_wrappers_go(prefix: str, tmp_path: Path) -> None:
    torch.save({prefix + name: tensor for name, tensor in STATE.items()}, tmp_path / "x.pt")
    same(read_checkpoint(tmp_path / "x.pt").tensors, STATE)


def test_a_module_that_is_really_called_module_keeps_its_name() -> None:
    state = {"module.weight": torch.zeros(1), "head.weight": torch.ones(1)}
    same(strip_prefixes(state), state)
    assert strip_prefixes({}) == {}


def test_a_name_that_occurs_with_and_without_its_prefix_is_refused() -> None:
    with pytest.raises(DataFileError, match=r"names a tensor twice.*: weight"):
        strip_prefixes({"_orig_mod.weight": torch.zeros(1), "weight": torch.ones(1)})


def test_code_in_a_file_is_named_and_does_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "it ran"
    content = {"model": STATE, "extra": Trap(trace)}
    torch.save(content, tmp_path / "new.pt")
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(content, tmp_path / "four.pt", pickle_protocol=4)
    (tmp_path / "plain.bin").write_bytes(pickle.dumps(content))
    (tmp_path / "plain2.bin").write_bytes(pickle.dumps(content, protocol=2))
    for name in ("new.pt", "old.pt", "four.pt", "plain.bin", "plain2.bin"):
        with pytest.raises(DataFileError, match=r"holds code.*mkdir.*nothing in it was run.*safetensors") as caught:
            read_checkpoint(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "weights_only" not in str(caught.value)  # no advice to open it unsafely
    assert not trace.exists()
    with (tmp_path / "plain.bin").open("rb") as file:
        pickle.load(file)  # the trap does work where pickles are run
    assert trace.exists()


def test_old_text_pickles_are_refused_too(tmp_path: Path) -> None:
    trace = tmp_path / "it ran"
    (tmp_path / "x.pt").write_bytes(pickle.dumps(Trap(trace), protocol=0))
    with pytest.raises(DataFileError, match="text file"):
        read_checkpoint(tmp_path / "x.pt")
    assert not trace.exists()


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    for module in (nn.Linear(2, 2), Net(), {"model": Net()}):
        torch.save(module, tmp_path / "x.pt")
        with pytest.raises(DataFileError, match=r"whole pickled module \(.*Linear.*state_dict\(\)"):
            read_checkpoint(tmp_path / "x.pt")


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("net/data.pkl", "net/constants.pkl", "net/code/__torch__.py"):
            archive.writestr(name, b"x")
    (tmp_path / "x.pt").write_bytes(buffer.getvalue())
    with pytest.raises(DataFileError, match="TorchScript"):
        read_checkpoint(tmp_path / "x.pt")


def test_a_plain_pickle_of_tensors_is_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(pickle.dumps(STATE, protocol=2))
    with pytest.raises(DataFileError, match=r"pickle\.dump instead of torch\.save"):
        read_checkpoint(tmp_path / "x.bin")


@pytest.mark.parametrize("kind", ["safetensors", "torch", "old torch"])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_named(kind: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    state = {f"layer.{i}.weight": torch.full((20, 20), float(i)) for i in range(6)}
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "torch")
    raw = path.read_bytes()
    path.write_bytes(raw[: max(10, int(share * len(raw)))])
    with pytest.raises(DataFileError, match=r"x\.pt.*(truncated|damaged)"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 497\n", "Git-LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "is a web page"),
        (b"\n  <html><head></head></html>", "is a web page"),
        (b'{"error": "gated repository"}', "text file.*gated repository"),
        (b"Entry not found", "text file.*Entry not found"),
        (b"PK\x03\x04 but nothing else", "truncated or damaged"),
        (bytes(range(128, 256)) * 4, "truncated, damaged, or no torch weight file|pickle"),
    ],
)
def test_what_is_no_weight_file_is_told(content: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(DataFileError, match=what):
        read_checkpoint(tmp_path / "x.bin")


def test_other_archives_directories_and_missing_files_are_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    with pytest.raises(DataFileError, match=r"no torch weight file; it holds a\.npy"):
        read_checkpoint(tmp_path / "x.npz")
    with pytest.raises(DataFileError, match=r"is a directory.*x\.npz"):
        read_checkpoint(tmp_path)
    with pytest.raises(DataFileError, match=r"there is no weight file .*none\.pt"):
        read_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize("content", [{"weights": STATE, "epoch": 3}, {}, {"model": {}}])
def test_a_file_without_tensors_says_what_it_holds(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    found = ", ".join(content) or "none"
    with pytest.raises(
        DataFileError, match=f"holds no tensors at its top or under model.*found: .*{found.split(',')[0]}"
    ):
        read_checkpoint(tmp_path / "x.pt")


def test_a_lone_tensor_is_no_state_dict(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "x.pt")
    with pytest.raises(DataFileError, match="holds a Tensor, expected named tensors"):
        read_checkpoint(tmp_path / "x.pt")


def test_a_state_that_fits_is_loaded() -> None:
    module, other = Net(), Net()
    fit_state(module, other.state_dict(), path="here")
    same(module.state_dict(), other.state_dict())


def test_one_message_tells_all_that_does_not_fit_and_nothing_is_loaded() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = {
        "0.weight": torch.ones(2, 4),
        "0.bias": torch.ones(2),
        "1.weight": torch.ones(2, 2),
        "extra": torch.ones(1),
    }
    with pytest.raises(DataFileError) as caught:
        fit_state(module, state, path="some/file.pt")
    told = str(caught.value)
    for part in ("some/file.pt", "1.bias", "extra", "0.weight should be (2, 3), is (2, 4)", "Sequential"):
        assert part in told
    same(module.state_dict(), before)


def test_half_precision_weights_become_the_modules_own_type() -> None:
    module = Net()
    fit_state(module, {name: tensor.half() for name, tensor in Net().state_dict().items()}, path="here")
    assert module.layer.weight.dtype == torch.float32
