from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from topobrain import load_model
from topobrain._checks import DataFileError
from topobrain.models.llama2c import HEADER, build_llama, read_llama2c, read_tokenizer
from topobrain.testing import check_model

SIZES = {"dim": 16, "hidden_dim": 12, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 20, "seq_len": 16}


def checkpoint(path: Path, sizes: Mapping[str, int] = SIZES, *, shared: bool = True) -> dict[str, np.ndarray]:
    """Write a checkpoint the way llama2.c does and return its tensors."""
    dim, hidden, n, vocab = (sizes[key] for key in ("dim", "hidden_dim", "n_layers", "vocab_size"))
    kv, half = dim // sizes["n_heads"] * sizes["n_kv_heads"], dim // sizes["n_heads"] // 2
    rng = np.random.default_rng(0)
    shapes = {
        "embedding": (vocab, dim), "norm_attention": (n, dim), "wq": (n, dim, dim), "wk": (n, kv, dim),
        "wv": (n, kv, dim), "wo": (n, dim, dim), "norm_ffn": (n, dim), "w1": (n, hidden, dim), "w2": (n, dim, hidden),
        "w3": (n, hidden, dim), "norm": (dim,), "freq_real": (sizes["seq_len"], half),
        "freq_imaginary": (sizes["seq_len"], half),
    }  # fmt: skip
    if not shared:
        shapes["output"] = (vocab, dim)
    tensors = {key: rng.normal(0, 0.5, shape).astype("<f4") for key, shape in shapes.items()}
    written = {**sizes, "vocab_size": vocab if shared else -vocab}
    header = struct.pack("<7i", *(written[key] for key in HEADER))
    path.write_bytes(header + b"".join(array.tobytes() for array in tensors.values()))
    return tensors


def rms(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5) * weight


def rotate(x: np.ndarray) -> np.ndarray:
    """Rotate neighbouring pairs of each head, as run.c does: x (token, head, unit)."""
    n_tokens, _, size = x.shape
    out = np.empty_like(x)
    for i in range(0, size, 2):
        angle = np.arange(n_tokens) / 10000 ** (i / size)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        out[:, :, i] = x[:, :, i] * cos - x[:, :, i + 1] * sin
        out[:, :, i + 1] = x[:, :, i] * sin + x[:, :, i + 1] * cos
    return out


def forward(t: Mapping[str, np.ndarray], ids: list[int], sizes: Mapping[str, int] = SIZES) -> np.ndarray:
    """Compute logits (token, vocabulary) in plain numpy from the file's own tensors, after run.c."""
    t = {key: value.astype(np.float64) for key, value in t.items()}
    heads, groups = sizes["n_heads"], sizes["n_kv_heads"]
    size, n = sizes["dim"] // sizes["n_heads"], len(ids)
    x = t["embedding"][ids]
    for layer in range(sizes["n_layers"]):
        h = rms(x, t["norm_attention"][layer])
        q = rotate((h @ t["wq"][layer].T).reshape(n, heads, size))
        k = rotate((h @ t["wk"][layer].T).reshape(n, groups, size))
        v = (h @ t["wv"][layer].T).reshape(n, groups, size)
        mixed = np.zeros((n, heads, size))
        for head in range(heads):
            group = head * groups // heads
            scores = q[:, head] @ k[:, group].T / np.sqrt(size)
            scores[np.triu_indices(n, 1)] = -np.inf
            share = np.exp(scores - scores.max(axis=1, keepdims=True))
            mixed[:, head] = share / share.sum(axis=1, keepdims=True) @ v[:, group]
        x = x + mixed.reshape(n, -1) @ t["wo"][layer].T
        h = rms(x, t["norm_ffn"][layer])
        gate = h @ t["w1"][layer].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ t["w3"][layer].T)) @ t["w2"][layer].T
    return np.asarray(rms(x, t["norm"]) @ t.get("output", t["embedding"]).T)


@pytest.mark.parametrize("shared", [True, False])
def test_a_converted_checkpoint_computes_what_the_original_code_does(shared: bool, tmp_path: Path) -> None:
    tensors = checkpoint(tmp_path / "m.bin", shared=shared)
    header, state = read_llama2c(tmp_path / "m.bin")
    assert header == SIZES
    model = build_llama(header, state)
    ids = [1, 5, 3, 19, 7, 7, 0]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(logits, forward(tensors, ids), atol=2e-5)
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight) == shared


def test_tensors_land_where_they_belong(tmp_path: Path) -> None:
    tensors = checkpoint(tmp_path / "m.bin")
    _, state = read_llama2c(tmp_path / "m.bin")
    for name, key in (
        ("w1", "mlp.gate_proj"),
        ("w2", "mlp.down_proj"),
        ("w3", "mlp.up_proj"),
        ("wv", "self_attn.v_proj"),
    ):
        for layer in range(2):
            np.testing.assert_array_equal(state[f"model.layers.{layer}.{key}.weight"].numpy(), tensors[name][layer])
    assert state["model.layers.0.self_attn.k_proj.weight"].shape == (8, 16)


@pytest.mark.parametrize("cut", [1, 4, 1000])
def test_a_truncated_checkpoint_names_both_sizes(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    checkpoint(path)
    raw = path.read_bytes()
    path.write_bytes(raw[:-cut])
    with pytest.raises(DataFileError, match=f"has {len(raw) - cut} bytes, its header asks for {len(raw)}"):
        read_llama2c(path)


def test_a_checkpoint_with_bytes_left_over_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    checkpoint(path)
    path.write_bytes(path.read_bytes() + b"\0\0\0\0")
    with pytest.raises(DataFileError, match="another version"):
        read_llama2c(path)


def test_a_file_shorter_than_the_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(b"\1\2\3")
    with pytest.raises(DataFileError, match=r"has 3 bytes: no llama2\.c checkpoint"):
        read_llama2c(tmp_path / "m.bin")


@pytest.mark.parametrize(
    "wrong", [{"n_heads": 3}, {"n_kv_heads": 3}, {"n_layers": 0}, {"dim": -8}, {"seq_len": 10**9}], ids=str
)
def test_a_header_that_makes_no_sense_is_shown(wrong: dict[str, int], tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    checkpoint(path)
    header = struct.pack("<7i", *({**SIZES, **wrong}[key] for key in HEADER))
    path.write_bytes(header + path.read_bytes()[28:])
    with pytest.raises(DataFileError, match=r"no llama2\.c version-0 checkpoint: its header reads .*'seq_len'"):
        read_llama2c(path)


def test_a_file_of_the_later_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(b"24ka" + struct.pack("<i", 1) + bytes(248) + bytes(4000))
    with pytest.raises(DataFileError, match=r"no llama2\.c version-0"):
        read_llama2c(tmp_path / "m.bin")


PIECES = [
    "<unk>",
    "\n<s>\n",
    "\n</s>\n",
    *(f"<0x{byte:02X}>" for byte in range(256)),
    " ",
    "t",
    "h",
    "e",
    " t",
    "he",
    " the",
    "é",
    "a",
    "b",
    "c",
    "ab",
    "bc",
]
N_PIECES = len(PIECES)


def tokenizer_file(path: Path) -> Path:
    raw = struct.pack("<i", 10)
    scores = {" t": -1.0, "he": -2.0, " the": -3.0, "bc": -4.0, "ab": -5.0}
    for piece in PIECES:
        encoded = piece.encode()
        raw += struct.pack("<fi", scores.get(piece, -10.0), len(encoded)) + encoded
    path.write_bytes(raw)
    return path


def test_pieces_join_in_the_order_of_their_scores(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(tokenizer_file(tmp_path / "t.bin"), N_PIECES)
    assert tokenizer("the")["input_ids"] == [1, PIECES.index(" the")]
    assert tokenizer("th")["input_ids"] == [1, PIECES.index(" t"), PIECES.index("h")]
    assert tokenizer("abc")["input_ids"] == [1, *(PIECES.index(piece) for piece in (" ", "a", "bc"))]
    assert tokenizer("eé")["input_ids"] == [1, PIECES.index(" "), PIECES.index("e"), PIECES.index("é")]


@pytest.mark.parametrize("text", ["the", "the the", "eé", "Zebra 狗 🐕", "th  e", "a\nb", " the"])
def test_text_survives_the_round_trip(text: str, tmp_path: Path) -> None:
    tokenizer = read_tokenizer(tokenizer_file(tmp_path / "t.bin"), N_PIECES)
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("kept", [0, 3, 4, 9, 100, -1])
def test_a_truncated_tokenizer_is_refused(kept: int, tmp_path: Path) -> None:
    path = tokenizer_file(tmp_path / "t.bin")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataFileError, match=r"t\.bin"):
        read_tokenizer(path, N_PIECES)


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    path = tokenizer_file(tmp_path / "t.bin")
    with pytest.raises(DataFileError, match=r"10 bytes after its .* another vocabulary size"):
        read_tokenizer(path, N_PIECES - 1)
    with pytest.raises(DataFileError, match=r"no llama2\.c tokenizer"):
        read_tokenizer(path, N_PIECES + 1)


@pytest.fixture(scope="module")
def stories() -> Any:
    import os

    if not os.environ.get("TOPOBRAIN_DATA"):
        pytest.skip("TOPOBRAIN_DATA is not set")
    return load_model("stories260k", device="cpu")


@pytest.mark.slow
def test_stories_greedy_text_equals_the_published_one(real_data: Path, stories: Any) -> None:
    folder = real_data / "stories260k"
    published = (folder / "stories260K_upstream.md").read_text().split("-t 0.0\n")[1].split("\n```")[0]
    assert len(published) == 565
    header, state = read_llama2c(folder / "stories260K.bin")
    tokenizer = read_tokenizer(folder / "tok512.bin", header["vocab_size"])
    model = build_llama(header, state)
    with torch.no_grad():
        ids = model.generate(
            torch.tensor([[1]]), attention_mask=torch.ones(1, 1), max_new_tokens=256, do_sample=False, pad_token_id=2
        )
    text = tokenizer.decode(ids[0], skip_special_tokens=True).lstrip(" ")
    assert text[: len(published)] == published
    assert text == published


def test_stories_has_the_published_number_of_parameters(real_data: Path, stories: Any) -> None:
    assert sum(parameter.numel() for parameter in stories.module.parameters()) == 260_032
    assert list(stories.sheets) == ["embeddings", *(f"layers.{i}" for i in range(5))]
    assert {sheet.n_units for sheet in stories.sheets.values()} == {64}


def test_stories_keeps_the_contract(real_data: Path, stories: Any) -> None:
    assert check_model(stories).ok


@pytest.mark.parametrize(
    "text",
    ["Once upon a time, there was a little girl.", "Lily's mom said: \"Don't!\"", "Zoë saw 3 狗 🐕", "two  spaces"],
)
def test_stories_tokenizer_round_trip(text: str, real_data: Path, stories: Any) -> None:
    tokenizer = stories.encode.tokenizer
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_stories_untrained_is_another_model_of_the_same_size(real_data: Path, stories: Any) -> None:
    state = torch.get_rng_state()
    first, again = (load_model("stories260k", weights="untrained", device="cpu") for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.weights_hash() == again.weights_hash() != stories.weights_hash()  # type: ignore[attr-defined]
    assert first.name == "stories260k (untrained)"
    assert first.sheets == stories.sheets


def test_stories_refuses_a_text_longer_than_its_context(real_data: Path, stories: Any) -> None:
    with pytest.raises(ValueError, match="the model takes 512"):
        stories.record(["the " * 600], ["layers.0"])
