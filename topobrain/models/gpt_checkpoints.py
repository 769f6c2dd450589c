"""Convert published GPT checkpoints to topobrain's own modules.

==========  =================================================================================================
layout      what is in the file
==========  =================================================================================================
nanogpt     TopoNets' NanoGPT: ``model`` (``transformer.h.0.attn.c_attn.weight`` ..., compiled or not) beside
            ``model_args`` (``n_layer``, ``n_head``, ``n_embd``, ``block_size``, ``bias``, ``vocab_size``, ``dropout``)
topolm      TopoLM: the same tensors; ``model_args`` says ``n_embed`` and names a ``position_dir``
gpt2        transformers' GPT-2: weights of linear layers transposed, with biases
gpt_neo     transformers' GPT-Neo: ``transformer.h.0.attn.attention.q_proj.weight`` ...
==========  =================================================================================================

TopoLM keeps the places of its units outside the checkpoint, one pickled object a sheet (``layer.0.attn``,
``layer.0.mlp``, ...) with a tensor ``coordinates`` (unit, 2). Pickled classes are not read here; `read_positions` takes
the same coordinates as plain arrays.
"""

from __future__ import annotations

import math
import reprlib
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from topobrain._checks import DataFileError, InputError, listed, require_choice
from topobrain.models.checkpoint_fields import read_fields, read_number, read_whole
from topobrain.models.checkpoint_files import (
    Checkpoint,
    count_blocks,
    drop_tied_head,
    find_transformers_files,
    fit_state,
    read_checkpoint,
    require_finite,
    require_fit_unbuilt,
)
from topobrain.models.gpt import BRANCHES, GPT, GPTConfig
from topobrain.models.gpt_neo import GPTNeo, GPTNeoConfig, gpt_neo_config, gpt_neo_state
from topobrain.models.huggingface import initialise
from topobrain.sheet import Sheet

LAYOUTS = ("nanogpt", "topolm", "gpt2", "gpt_neo")
Layout = Literal["auto", "nanogpt", "topolm", "gpt2", "gpt_neo"]

TOP = {
    "wte.weight": "tokens.weight",
    "wpe.weight": "positions.weight",
    "ln_f.weight": "norm.weight",
    "ln_f.bias": "norm.bias",
}
BLOCK = {
    "ln_1": "norm_attention",
    "attn.c_attn": "attention.c_attn",
    "attn.c_proj": "attention.c_proj",
    "ln_2": "norm_mlp",
    "mlp.c_fc": "mlp.c_fc",
    "mlp.c_proj": "mlp.c_proj",
}
MASKS = (".attn.bias", ".attn.masked_bias", ".attn.attention.bias", ".attn.attention.masked_bias")
"""Causal masks that older versions saved beside the weights; the biases proper are ``attn.c_attn.bias`` and so on."""

ACTIVATIONS: dict[str, Literal["gelu", "gelu_tanh"]] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
BRANCH_NAMES = {"attention": "attn", "mlp": "mlp"}
"""Branch -> what TopoLM calls it in the names of its sheets."""

POSITIONS_HELP = (
    "TopoLM pickles them as objects of its own classes, which are not read here. In TopoLM's own environment: "
    "numpy.savez('positions.npz', **{name: layer.coordinates.cpu().numpy() for name, layer in positions.items()}) with "
    "its NetworkPositions' layer_positions as `positions`; then give positions='positions.npz'"
)


class ConvertedGPT(NamedTuple):
    """A checkpoint in topobrain's own names.

    Attributes
    ----------
    config
        Configuration of the `GPT` or `GPTNeo`.
    state
        Its state dict, float32.
    """

    config: GPTConfig | GPTNeoConfig
    state: dict[str, Tensor]


def convert_gpt(
    path: str | Path,
    layout: Layout = "auto",
    *,
    n_heads: int | None = None,
    positions: str | Path | None = None,
) -> ConvertedGPT:
    """Read a published GPT checkpoint as a configuration and a state dict of topobrain's modules.

    Parameters
    ----------
    path
        The weight file, or a directory of transformers' format. Nothing in it is run (see `read_checkpoint`).
    layout
        ``"nanogpt"``, ``"topolm"``, ``"gpt2"``, ``"gpt_neo"``, or ``"auto"``: told from the names in the file.
    n_heads
        Attention heads, where the file does not say (weights do not show them).
    positions
        TopoLM only: file of the units' places (`read_positions`), where the checkpoint does not hold them.

    Returns
    -------
    ConvertedGPT
        For ``GPT(config)`` or ``GPTNeo(config)``; `gpt_from_checkpoint` builds it.

    Raises
    ------
    DataFileError
        The file is missing, damaged or holds code; its layout is none of the known; tensors are missing, left over, of a
        wrong shape, at odds with the sizes that the file names, or hold NaN or infinite values.
    InputError
        ``n_heads`` is no whole number of at least 1, or not what the file says; ``positions`` for another layout.
    """
    require_choice("layout", layout, ("auto", *LAYOUTS))
    if n_heads is not None and (isinstance(n_heads, bool) or not isinstance(n_heads, int) or n_heads < 1):
        raise InputError(f"n_heads is a whole number of at least 1, got {n_heads!r}")
    source = Path(path).expanduser()
    if source.is_dir():
        _, source = find_transformers_files(source)
    checkpoint = read_checkpoint(source)
    known = detect_layout(checkpoint, path=source) if layout == "auto" else layout
    if positions is not None and known != "topolm":
        raise InputError(f"positions belong to TopoLM; {source} is read as {known!r}")
    require_finite({name: t for name, t in checkpoint.tensors.items() if not name.endswith(MASKS)}, path=source)
    beside = source.parent / "config.json"
    fields = read_fields(beside) if known in ("gpt2", "gpt_neo") and beside.is_file() else {}
    if known == "gpt_neo":
        return _from_gpt_neo(checkpoint, fields, n_heads, source)
    if known == "gpt2":
        return _from_gpt2(checkpoint, fields, n_heads, source)
    return _from_nanogpt(checkpoint, n_heads, source, topolm=known == "topolm", positions=positions)


def gpt_from_checkpoint(
    path: str | Path,
    layout: Layout = "auto",
    *,
    n_heads: int | None = None,
    positions: str | Path | None = None,
) -> GPT | GPTNeo:
    """Build the module of a published GPT checkpoint, in evaluation mode; parameters and errors as `convert_gpt`."""
    config, state = convert_gpt(path, layout, n_heads=n_heads, positions=positions)
    module = initialise(lambda: GPT(config) if isinstance(config, GPTConfig) else GPTNeo(config), "untrained")
    fit_state(module, state, path=path)
    return cast(GPT | GPTNeo, module.eval())


def detect_layout(checkpoint: Checkpoint, *, path: str | Path) -> str:
    """Return the layout of a checkpoint, told from the names and shapes of its tensors.

    Raises
    ------
    DataFileError
        None of the known layouts; the message tells what was seen.
    """
    tensors = _bare(checkpoint.tensors)
    if "h.0.attn.attention.q_proj.weight" in tensors:
        return "gpt_neo"
    projection, embedding = tensors.get("h.0.attn.c_attn.weight"), tensors.get("wte.weight")
    if projection is not None and embedding is not None and projection.ndim == embedding.ndim == 2:
        width = embedding.shape[1]
        if tuple(projection.shape) == (width, 3 * width):
            return "gpt2"
        if tuple(projection.shape) == (3 * width, width):
            arguments = _arguments(checkpoint)
            inside = any(name.startswith("positions.") for name in tensors)
            return "topolm" if inside or {"n_embed", "position_dir"} & set(arguments) else "nanogpt"
        raise DataFileError(
            f"{path} names its tensors as a GPT, but h.0.attn.c_attn.weight has shape {tuple(projection.shape)}; for its "
            f"{width} units expected {(3 * width, width)} (NanoGPT, TopoLM) or {(width, 3 * width)} (transformers' GPT-2)"
        )
    own = " It has topobrain's own names already." if "blocks.0.attention.c_attn.weight" in tensors else ""
    raise DataFileError(
        f"{path} has none of the layouts {', '.join(LAYOUTS)}.{own} It holds {len(checkpoint.tensors)} tensors: "
        f"{listed(checkpoint.tensors, 6)}; beside them: {listed(checkpoint.meta, 6)}"
    )


def _bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}


def _arguments(checkpoint: Checkpoint) -> dict[str, Any]:
    arguments = checkpoint.meta.get("model_args", {})
    return arguments if isinstance(arguments, dict) else {}


def _from_nanogpt(
    checkpoint: Checkpoint, n_heads: int | None, path: Path, *, topolm: bool, positions: str | Path | None
) -> ConvertedGPT:
    arguments = _arguments(checkpoint)
    tensors = _bare(checkpoint.tensors)
    placed = {name.removeprefix("positions."): t for name, t in tensors.items() if name.startswith("positions.")}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("positions.")}
    sizes = _sizes(tensors, path)
    told = {
        "vocab_size": arguments.get("vocab_size"),
        "width": arguments.get("n_embd", arguments.get("n_embed")),
        "n_layers": arguments.get("n_layer"),
        "context": arguments.get("block_size"),
        "bias": arguments.get("bias"),
    }
    _agree(sizes, told, "model_args", path)
    told_plainly = {key: value for key, value in arguments.items() if value is not None}
    heads = _heads(read_whole(arguments, "n_head", path=f"{path} (model_args)"), n_heads, path)
    state = _renamed(tensors, path)
    if topolm:
        if positions is None and not placed:
            raise DataFileError(
                f"{path} is a TopoLM checkpoint without the places of its units. {POSITIONS_HELP}. Or read the weights alone, "
                "laid out in unit order, with layout='nanogpt'"
            )
        coordinates = read_positions(positions) if positions is not None else _numpy(placed)
        state["cells"] = cells_of(coordinates, sizes["n_layers"], sizes["width"], path=positions or path)
    config = _config(
        path,
        **sizes,
        n_heads=heads,
        dropout=read_number(told_plainly, "dropout", 0.0, path=f"{path} (model_args)"),
        positions="permuted" if topolm else "row-major",
    )
    return _checked(config, state, path)


def _from_gpt2(checkpoint: Checkpoint, fields: dict[str, Any], n_heads: int | None, path: Path) -> ConvertedGPT:
    beside = path.parent / "config.json"
    if fields.get("model_type", "gpt2") != "gpt2":
        raise DataFileError(
            f"the config.json beside {path} describes a {fields['model_type']!r}, its tensors are a GPT-2's"
        )
    tensors = {
        name: tensor.T if tensor.ndim == 2 and ".c_" in name else tensor  # transformers stores them (in, out)
        for name, tensor in _bare(checkpoint.tensors).items()
    }
    fixed = {"layer_norm_epsilon": 1e-5, "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
    for key, value in fixed.items():
        if fields.get(key, value) != value:
            raise DataFileError(f"config.json beside {path} asks for {key} = {fields[key]!r}; this GPT has {value!r}")
    activation = str(fields.get("activation_function", "gelu_new"))
    if activation not in ACTIVATIONS:
        raise DataFileError(
            f"config.json beside {path} asks for activation {activation!r}; known: {listed(ACTIVATIONS)}"
        )
    sizes = _sizes(tensors, path)
    told = {"vocab_size": "vocab_size", "width": "n_embd", "n_layers": "n_layer", "context": "n_positions"}
    _agree(sizes, {ours: fields.get(theirs) for ours, theirs in told.items()}, "config.json", path)
    config = _config(
        path,
        **sizes,
        n_heads=_heads(read_whole(fields, "n_head", path=beside), n_heads, path),
        dropout=read_number(fields, "resid_pdrop", 0.0, path=beside),
        activation=ACTIVATIONS[activation],
    )
    return _checked(config, _renamed(tensors, path), path)


def _from_gpt_neo(checkpoint: Checkpoint, fields: dict[str, Any], n_heads: int | None, path: Path) -> ConvertedGPT:
    state = gpt_neo_state(checkpoint.tensors, path=path)
    try:
        vocab_size, width = state["transformer.wte.weight"].shape
        context = state["transformer.wpe.weight"].shape[0]
        hidden = state["transformer.h.0.mlp.c_fc.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise DataFileError(f"{path} has the layout gpt_neo, but no usable tensor {error}") from None
    sizes = {"vocab_size": vocab_size, "width": width, "n_layers": _depth(state, path), "context": context}
    told = {
        "vocab_size": "vocab_size", "width": "hidden_size", "n_layers": "num_layers", "context": "max_position_embeddings",
    }  # fmt: skip
    _agree(sizes, {ours: fields.get(theirs) for ours, theirs in told.items()}, "config.json", path)
    found = {theirs: sizes[ours] for ours, theirs in told.items()}
    heads = _heads(read_whole(fields, "num_heads", path=path.parent / "config.json"), n_heads, path)
    config = gpt_neo_config({"intermediate_size": hidden, **fields, **found, "num_heads": heads}, path=path)
    return _checked(config, state, path)


def _depth(tensors: Mapping[str, Tensor], path: Path) -> int:
    return count_blocks(tensors, r"(?:transformer\.)?h\.", path=path)


def _sizes(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Read sizes off the tensors themselves."""
    for name in ("wte.weight", "wpe.weight"):
        if name not in tensors or tensors[name].ndim != 2:
            raise DataFileError(f"{path} lacks the embedding transformer.{name}; it holds {listed(tensors, 6)}")
    return {
        "vocab_size": tensors["wte.weight"].shape[0],
        "width": tensors["wte.weight"].shape[1],
        "n_layers": _depth(tensors, path),
        "context": tensors["wpe.weight"].shape[0],
        "bias": any(name.endswith((".c_fc.bias", "ln_f.bias", ".c_attn.bias")) for name in tensors),
    }


def _agree(sizes: Mapping[str, Any], told: Mapping[str, Any], where: str, path: Path) -> None:
    wrong = [
        f"{key} is {reprlib.repr(told[key])} by {where}, {sizes[key]!r} by the tensors"
        for key in told
        if told[key] is not None and told[key] != sizes[key]
    ]
    if wrong:
        raise DataFileError(f"{path} contradicts itself: {'; '.join(wrong)}")


def _heads(told: int | None, given: int | None, path: Path) -> int:
    if told is not None and given is not None and told != given:
        raise InputError(f"{path} was made with {told} heads, n_heads={given} was asked for")
    heads = told if told is not None else given
    if heads is None:
        raise DataFileError(
            f"{path} does not say how many attention heads it has, and weights do not show it: give n_heads (GPT-2, NanoGPT "
            "and GPT-Neo-125M of width 768 have 12, TopoLM 16), or put the model's config.json beside the file"
        )
    return heads


def _config(path: Path, **sizes: Any) -> GPTConfig:
    try:
        return GPTConfig(**sizes)
    except InputError as error:
        raise DataFileError(f"{path} is no GPT that can be built: {error}") from None


def _renamed(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    tensors = drop_tied_head(tensors, head="lm_head.weight", embedding="wte.weight", path=path)
    state = {}
    for name, tensor in tensors.items():
        if not name.endswith(MASKS):
            state[_own_name(name)] = tensor.float().contiguous()
    return state


def _own_name(name: str) -> str:
    """Return our name of a tensor; an unknown name stays, so that the error on left-over tensors shows it."""
    if name in TOP:
        return TOP[name]
    parts = name.split(".")
    if len(parts) > 3 and parts[0] == "h":
        part, kind = ".".join(parts[2:-1]), parts[-1]
        if part in BLOCK and kind in ("weight", "bias"):
            return f"blocks.{parts[1]}.{BLOCK[part]}.{kind}"
    return name


def _checked(config: GPTConfig | GPTNeoConfig, state: dict[str, Tensor], path: Path) -> ConvertedGPT:
    """Raise now, with every misfit in one message, instead of when the module is built; costs no memory."""
    build = (lambda: GPT(config)) if isinstance(config, GPTConfig) else (lambda: GPTNeo(config))
    require_fit_unbuilt(build, state, path=path)
    return ConvertedGPT(config, state)


def read_positions(path: str | Path) -> dict[str, np.ndarray]:
    """Read the places of TopoLM's units from a file of plain arrays.

    Parameters
    ----------
    path
        ``.npz``, ``.npy``, ``.safetensors`` or a torch file of tensors. Either one array (sheet, unit, 2), its sheets in
        the order ``layer.0.attn``, ``layer.0.mlp``, ``layer.1.attn``, ..., or one array (unit, 2) a sheet under these names.
        The first column is x (the column on the sheet), the second y (the row), both in grid steps from 0.

    Returns
    -------
    dict
        Name of the sheet -> coordinates (unit, 2).

    Raises
    ------
    DataFileError
        Not such a file; pickled classes are refused.
    """
    source = Path(path).expanduser()
    if source.is_dir() or source.suffix == ".pkl":
        raise DataFileError(f"{source} is no file of plain arrays with the places of the units. {POSITIONS_HELP}")
    if source.suffix not in (".npz", ".npy"):
        return _numpy(read_checkpoint(source).tensors)
    try:
        found = np.load(source, allow_pickle=False)
        arrays = {"": found} if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataFileError(f"cannot read the places of the units in {source}: {error}") from error
    other = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if other:
        raise DataFileError(f"{source} holds what are no arrays: {listed(other, 4)}")
    return _by_sheet(arrays)


def _numpy(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return _by_sheet({name: tensor.double().numpy() for name, tensor in tensors.items()})


def _by_sheet(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Name the sheets of one stacked array, and take ``.coordinates`` off names."""
    if len(arrays) == 1:
        (array,) = arrays.values()
        if array.ndim == 3 and array.size:
            names = [f"layer.{i // 2}.{BRANCH_NAMES[BRANCHES[i % 2]]}" for i in range(len(array))]
            return dict(zip(names, array, strict=True))
    return {name.removesuffix(".coordinates"): array for name, array in arrays.items()}


def cells_of(coordinates: Mapping[str, np.ndarray], n_layers: int, width: int, *, path: str | Path) -> Tensor:
    """Return the cells (layer, branch, unit) of units whose coordinates are given sheet by sheet.

    Raises
    ------
    DataFileError
        A sheet is missing, or its coordinates do not put every unit into a cell of its own on the square grid.
    """
    side = math.isqrt(width)
    if side * side != width:
        raise DataFileError(f"{path}: TopoLM's sheets are squares, {width} units fill none; nearest: {side * side}")
    grid = Sheet.grid(side, side)
    expected = [[f"layer.{i}.{BRANCH_NAMES[branch]}" for branch in BRANCHES] for i in range(n_layers)]
    names = [name for row in expected for name in row]
    missing, left_over = [n for n in names if n not in coordinates], [n for n in coordinates if n not in names]
    if missing or left_over:
        raise DataFileError(
            f"{path} should place the units of {len(names)} sheets ({listed(names, 3)}): missing {listed(missing, 3)}; not "
            f"expected {listed(left_over, 3)}"
        )
    cells = np.empty((n_layers, len(BRANCHES), width), dtype=np.int64)
    for i, row in enumerate(expected):
        for j, name in enumerate(row):
            places = _whole_places(coordinates[name], width, f"{path}: sheet {name}")
            if places.min() < 0 or places.max() >= side:
                raise DataFileError(
                    f"{path}: coordinates of sheet {name} run from 0 to {side - 1} (grid steps), found {places.min():g} to "
                    f"{places.max():g}"
                )
            cells[i, j] = places[:, 1].astype(np.int64) * side + places[:, 0].astype(np.int64)
            try:
                grid.with_places(cells[i, j])
            except InputError as error:
                raise DataFileError(f"{path}: sheet {name}: {error}") from None
    return torch.from_numpy(cells)


def _whole_places(found: np.ndarray, width: int, sheet: str) -> np.ndarray:
    """Return the coordinates of a sheet as floats, or say what is wrong: their type, their shape or their values."""
    places = np.asarray(found)
    if places.dtype.kind not in "iuf":
        raise DataFileError(f"{sheet} should have coordinates that are real numbers, has values of type {places.dtype}")
    if places.shape != (width, 2):
        raise DataFileError(f"{sheet} should have whole coordinates of shape ({width}, 2), has shape {places.shape}")
    places = places.astype(float)
    odd = places[~np.isfinite(places) | (places != np.rint(places))]
    if odd.size:
        raise DataFileError(
            f"{sheet} should have whole coordinates (grid steps), but {odd.size} of {places.size} values are not whole "
            f"numbers: {listed((f'{value:g}' for value in odd), 4)}"
        )
    return places
