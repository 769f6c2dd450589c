from __future__ import annotations

import argparse
import io
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_files import Trap
from safetensors.torch import save_file
from torch import nn

from topobrain._checks import DataFileError
from topobrain.models.checkpoint_files import (
    count_blocks,
    fit_state,
    read_checkpoint,
    require_finite,
    require_fit_unbuilt,
    strip_prefixes,
)

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


# --- files made to do harm: they hold themselves, or promise more than is stored


def in_itself(key: str) -> dict[str, Any]:
    content: dict[str, Any] = dict(STATE)
    content[key] = content
    return content


def in_each_other() -> dict[str, Any]:
    outer: dict[str, Any] = {"epoch": 3}
    outer["model"] = {"state_dict": outer, "model": outer}
    return outer


def chained(depth: int) -> dict[str, Any]:
    content: dict[str, Any] = dict(STATE)
    for _ in range(depth):
        content = {"model": content}
    return content


@pytest.mark.parametrize("key", ["model", "state_dict", "me"])
def test_a_dict_that_holds_itself_is_read_once(key: str, tmp_path: Path) -> None:
    torch.save(in_itself(key), tmp_path / "x.pt")
    found = read_checkpoint(tmp_path / "x.pt")
    same(found.tensors, STATE)
    assert (found.nest, found.meta) == ("", {})


def test_nests_without_an_end_hold_no_tensors(tmp_path: Path) -> None:
    torch.save(chained(4), tmp_path / "x.pt")
    assert read_checkpoint(tmp_path / "x.pt").nest == "model/model/model/model"
    for content in (in_each_other(), chained(5), chained(100)):
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(DataFileError, match="holds no tensors"):
            read_checkpoint(tmp_path / "x.pt")


def self_referring() -> dict[str, Any]:
    mapping: dict[str, Any] = {"lr": 0.1}
    mapping["me"] = mapping
    items: list[Any] = [1]
    items += [items, items]
    held = argparse.Namespace(lr=0.1)
    held.me = held
    return {"mapping": mapping, "items": items, "held": held}


def deep(kind: str, levels: int = 900) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = {"a": value} if kind == "dict" else [value] if kind == "list" else argparse.Namespace(a=value)
    return value


def test_values_beside_the_weights_that_have_no_end_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = sys.getrecursionlimit()
    often: Any = [1, 2]
    for _ in range(30):
        often = [often] * 10  # 2 * 10^30 numbers in a few hundred bytes
    content = {"model": STATE, "kept": {"lr": [1, [2, {"a": 3}]]}, **self_referring(), "often": often, "epoch": 3}
    content |= {kind: deep(kind) for kind in ("dict", "list", "namespace")}
    sys.setrecursionlimit(20_000)
    try:
        torch.save(content, tmp_path / "x.pt")
    finally:
        sys.setrecursionlimit(limit)
    monkeypatch.setattr("topobrain.models.checkpoint_fields.MOST_VALUES", 1000)
    found = read_checkpoint(tmp_path / "x.pt")
    same(found.tensors, STATE)
    assert found.meta == {"kept": {"lr": [1, [2, {"a": 3}]]}}  # nothing after the value that used up the file's share
    del content["often"]
    sys.setrecursionlimit(20_000)
    try:
        torch.save(content, tmp_path / "x.pt")
    finally:
        sys.setrecursionlimit(limit)
    assert read_checkpoint(tmp_path / "x.pt").meta == {"kept": {"lr": [1, [2, {"a": 3}]]}, "epoch": 3}


def test_a_value_that_several_keys_share_is_kept_under_each(tmp_path: Path) -> None:
    shared = [1, 2]
    torch.save({"model": STATE, "a": shared, "b": {"c": shared, "d": [shared, shared]}}, tmp_path / "x.pt")
    meta = read_checkpoint(tmp_path / "x.pt").meta
    assert meta == {"a": [1, 2], "b": {"c": [1, 2], "d": [[1, 2], [1, 2]]}}


def test_numbers_that_are_of_no_use_are_left_out(tmp_path: Path) -> None:
    odd = {"long": 10**600, "unreal": torch.tensor(1j), "elsewhere": torch.tensor(1.0, device="meta"), 10**600: 1}
    torch.save({"model": STATE, **odd, "epoch": 3, 7: True}, tmp_path / "x.pt")
    meta = read_checkpoint(tmp_path / "x.pt").meta
    assert meta.pop("a int") == 1
    assert meta == {"epoch": 3, "7": True}


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: torch.zeros(1).expand(10**12, 16), r"b has shape \(1000000000000, 16\), but only 4 bytes are stored"),
        (lambda: torch.zeros(1).expand(2), r"shape \(2,\), but only 4 bytes"),
        (lambda: torch.as_strided(torch.zeros(10), (8, 3), (1, 1)), r"shape \(8, 3\), but only 40 bytes"),
        (lambda: torch.zeros(2, device="meta"), r"b has no values here \(device meta\)"),
        (lambda: torch.eye(3).to_sparse(), r"b is sparse \(torch\.sparse_coo\)"),
        (lambda: torch.eye(3).to_sparse_csr(), r"b is sparse \(torch\.sparse_csr\)"),
        (lambda: torch.ones(2, dtype=torch.complex64), r"b is of the type torch\.complex64"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "b is nested"),
    ],
)
@pytest.mark.parametrize("nest", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_a_tensor_that_is_not_dense_and_real_is_named(
    make: Callable[[], torch.Tensor], what: str, nest: bool, tmp_path: Path
) -> None:
    state = {"a": torch.ones(2), "b": make()}
    torch.save({"model": state} if nest else state, tmp_path / "x.pt")
    with pytest.raises(DataFileError, match=what) as caught:
        read_checkpoint(tmp_path / "x.pt")
    assert str(tmp_path / "x.pt") in str(caught.value)
    assert "a has" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_quantized_tensors_are_named(tmp_path: Path) -> None:
    torch.save({"a": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)}, tmp_path / "x.pt")
    with pytest.raises(DataFileError, match=r"a is quantized torch\.qint8"):
        read_checkpoint(tmp_path / "x.pt")


def test_complex_tensors_of_safetensors_are_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, dtype=torch.complex64)}, tmp_path / "x.safetensors")
    with pytest.raises(DataFileError, match=r"a is of the type torch\.complex64"):
        read_checkpoint(tmp_path / "x.safetensors")


def test_parts_of_larger_tensors_and_every_real_type_are_read(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    state = {"row": whole[1], "column": whole[:, 1], "turned": whole.T, "one": whole[0, 0], "none": whole[:0]}
    state["parameter"] = nn.Parameter(whole)
    for kind in ("float64", "float16", "bfloat16", "float8_e4m3fn", "int64", "int8", "uint8", "bool"):
        state[kind] = torch.ones(3).to(getattr(torch, kind))
    torch.save(state, tmp_path / "x.pt")
    found = read_checkpoint(tmp_path / "x.pt").tensors
    assert {name: (t.shape, t.dtype) for name, t in found.items()} == {n: (t.shape, t.dtype) for n, t in state.items()}
    assert all(torch.equal(found[name].float(), tensor.float()) for name, tensor in state.items())


# --- what a network needs before it is built


def block_names(*numbers: object, parts: int = 6) -> list[str]:
    return [f"h.{number}.{part}" for number in numbers for part in range(parts)]


def test_blocks_are_counted() -> None:
    assert count_blocks([*block_names(*range(12)), "h", "h.x.y", "wte.weight"], r"h\.", path="p") == 12
    assert count_blocks(["wte.weight"], r"h\.", path="p") == 0
    assert count_blocks([*block_names(0), "h.²", "h.².x", "h.٣.x", "h.07.x", "h.-1.x"], r"h\.", path="p") == 1


@pytest.mark.parametrize(
    ("names", "what"),
    [
        ([*block_names(0, 1), "h.3000000.x"], r"p names 3 blocks, .* 0 to 2: it lacks 2 and has 3000000"),
        ([*block_names(0, 1), f"h.{'9' * 5000}.x"], r"it lacks 2 and has 99999999999999999999$"),
        (block_names(1, 2), r"it lacks 0 and has 2"),
        (block_names(*range(20_000), parts=1), r"names 20000 blocks, but only 20000 tensors in them"),
    ],
)
def test_block_numbers_that_are_no_count_are_refused(names: list[str], what: str) -> None:
    with pytest.raises(DataFileError, match=what):
        count_blocks(names, r"h\.", path="p")


def test_values_that_are_no_weights_are_counted() -> None:
    bad = torch.ones(2, 3)
    bad[0] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    require_finite(
        {"a": torch.ones(3), "n": torch.tensor(3), "none": torch.ones(0), "b": torch.ones(2).half()}, path="p"
    )
    require_finite(
        {"bn.running_var": torch.zeros(2), "a": torch.tensor([-1.0]), "bn.running_mean": -torch.ones(2)}, path="p"
    )
    for tensors, what in (
        ({"a": torch.ones(3), "b": bad}, r"p are damaged.*: b has 3 of 6 values that are NaN or infinite"),
        ({"a": torch.tensor(torch.nan)}, "a has 1 of 1 values"),
        ({"a": bad.bfloat16()}, "a has 3 of 6 values"),
        (
            {"a": torch.tensor([1.0, 1e300], dtype=torch.float64)},
            "a has 1 of 2 values that are NaN or infinite in float32",
        ),
        ({"bn.running_var": torch.tensor([1.0, -1e-6, -2.0])}, r"bn\.running_var has 2 of 3 variances below 0"),
        ({"a": bad, "bn.running_var": -torch.ones(1)}, "a has 3 of 6 .*, bn.running_var has 1 of 1"),
    ):
        with pytest.raises(DataFileError, match=what):
            require_finite(tensors, path="p")


def test_training_may_still_load_what_is_not_finite() -> None:
    module = Net()
    fit_state(module, {"layer.weight": torch.full((2, 3), torch.nan), "layer.bias": torch.zeros(2)}, path="here")
    assert module.layer.weight.isnan().all()


def test_a_misfit_is_told_before_memory_is_taken() -> None:
    before = torch.get_rng_state()
    require_fit_unbuilt(Net, Net().state_dict(), path="p")
    torch.set_rng_state(before)
    with pytest.raises(
        DataFileError, match=r"in p do not fit Linear: .*weight should be \(10000000, 10000000\), is \(1, 1\)"
    ):
        require_fit_unbuilt(
            lambda: nn.Linear(10**7, 10**7), {"weight": torch.ones(1, 1), "bias": torch.ones(10**7)}, path="p"
        )  # 400 terabytes
    with pytest.raises(DataFileError, match=r"sizes that p names cannot be built: .*overflow"):
        require_fit_unbuilt(lambda: nn.Linear(2**40, 2**40), {}, path="p")
    assert torch.equal(torch.get_rng_state(), before)
