"""Models others have trained: by name from their public places, or from a weight file at hand.

A name fetches its file into the data store and loads it there; ``weights="untrained"`` needs no file and no network. A
file in a published layout becomes a directory of this project with `import_checkpoint`. Importing this module loads no
torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from topobrain._checks import DataFileError, InputError, require_choice, unknown

if TYPE_CHECKING:
    from topobrain.models.torch_model import TorchModel


class Published(NamedTuple):
    """One published model.

    Attributes
    ----------
    manifest, file
        The data set of the store, and the weight file in it (None: the whole folder, in transformers' format).
    architecture, config
        What it is, for its untrained twin: a name of `topobrain.models.architectures`, and fields of its configuration.
    title
        One line for lists.
    """

    manifest: str
    file: str | None
    architecture: str
    config: dict[str, Any]
    title: str


def _toponets(
    manifest: str, pattern: str, taus: tuple[str, ...], architecture: str, config: dict[str, Any], what: str
) -> dict[str, Published]:
    stem = manifest.replace("toponets", "toponet")
    return {
        f"{stem}-tau{tau.removesuffix('.0')}": Published(
            manifest,
            pattern.format(tau),
            architecture,
            config,
            f"published TopoNet: {what}, tau {tau.removesuffix('.0')}",
        )
        for tau in taus
    }


_BLURRED_18, _BLURRED_50 = {"depth": 18, "blur_pool": True}, {"depth": 50, "blur_pool": True}
_IMAGENET, _FINEWEB = "trained on ImageNet", "trained on FineWeb-Edu"

PUBLISHED: dict[str, Published] = {
    **_toponets(
        "toponets-resnet18", "all_topo_tau_{}.pt", ("0.5", "1.0", "5.0", "10.0", "20.0", "50.0"), "resnet", _BLURRED_18,
        f"ResNet-18 {_IMAGENET}",
    ),
    **_toponets(
        "toponets-resnet50", "all_topo_tau_{}.pt", ("30.0",), "resnet", _BLURRED_50, f"ResNet-50 {_IMAGENET}"
    ),
    **_toponets("toponets-vit-b-32", "tau_{}.pt", ("10.0",), "vit", {}, f"ViT-B/32 {_IMAGENET}"),
    **_toponets(
        "toponets-nanogpt", "tau_{}.pt", ("0.5", "1.0", "3.0", "50.0"), "gpt", {}, f"NanoGPT {_FINEWEB}"
    ),
    "topolm": Published(
        "topolm", "topolm.pt", "gpt", {"width": 784, "n_heads": 16, "positions": "permuted"}, "published TopoLM (ask its authors)"
    ),
    "topolm-control": Published(
        "topolm", "control.pt", "gpt", {"width": 784, "n_heads": 16}, "its non-topographic control (ask its authors)"
    ),
    "gpt-neo-125m": Published("gpt-neo-125m", None, "gpt-neo", {}, "GPT-Neo 125M, with sheets for its hidden layers"),
    "resnet18": Published("torchvision-resnet18", "resnet18-f37072fd.pth", "resnet", {"depth": 18}, f"ResNet-18 {_IMAGENET}"),
    "resnet50": Published("torchvision-resnet50", "resnet50-11ad3fa6.pth", "resnet", {"depth": 50}, f"ResNet-50 {_IMAGENET}"),
    "vit-b-32": Published("torchvision-vit-b-32", "vit_b_32-d86f8d99.pth", "vit", {}, f"ViT-B/32 {_IMAGENET}"),
}  # fmt: skip
"""Name -> where it is published. Of the TopoNets no network with tau = 0 was released: see resnet18 and vit-b-32."""

ARCHITECTURE_NAMES: dict[str, tuple[str, dict[str, Any], str]] = {
    "nanogpt": ("gpt", {}, "NanoGPT of 124 million parameters"),
}
"""Networks whose weights nobody released: they load untrained, or after training."""

DESCRIPTIONS = {
    **{name: published.title for name, published in PUBLISHED.items()},
    **{
        name: f'{what}: no published weights, give weights="untrained"'
        for name, (_, _, what) in ARCHITECTURE_NAMES.items()
    },
}


def __getattr__(name: str) -> Callable[..., TorchModel]:
    # the registry names its loaders "module:attr"; these names have hyphens in them
    if name in PUBLISHED:
        return partial(load_published, name)
    if name in ARCHITECTURE_NAMES:
        return partial(_load_architecture, name)
    raise AttributeError(f"module 'topobrain.models.published' has no attribute {name!r}")


def load_published(name: str, *, weights: str | None = None, device: str = "auto") -> TorchModel:
    """Load a published model, fetching its file where the store does not have it.

    Parameters
    ----------
    name
        One of `PUBLISHED`.
    weights
        None for the published ones; ``"untrained"`` or ``"untrained:SEED"`` for the same network with random weights.
    device
        ``"auto"`` or a torch device.

    Raises
    ------
    UnknownNameError
        No such model.
    DataFileError
        The file cannot be had (no network, on request only) or read: the message says where to put it.
    """
    from topobrain.store import fetch
    from topobrain.store.manifest import load_manifests

    if name not in PUBLISHED:
        raise unknown("published model", name, PUBLISHED)
    published = PUBLISHED[name]
    if weights is not None:
        return _untrained(name, published.architecture, published.config, weights, device)
    try:
        found = fetch(published.manifest, None if published.file is None else [published.file])
    except DataFileError as error:
        hint = 'The same network with random weights needs no file: load_model(..., weights="untrained").'
        raise DataFileError(f"{error} {hint}") from error
    path = next(iter(found.values())).parent if published.file is None else found[published.file]
    places = "positions" in published.config
    if places or published.manifest != "topolm":
        module, tokenizer = _read(path, positions=_positions_beside(path) if places else None)
    else:  # the control has no sheets of its own: the weights alone, in unit order
        module, tokenizer = _read(path, "nanogpt")
    model = _wrapped(name, module, tokenizer, device)
    manifest = load_manifests()[published.manifest]
    model.provenance.update(
        data_set=manifest.name, weights_file=path.name, citation=manifest.citation, licence=manifest.licence
    )
    return model


def import_checkpoint(
    path: str | Path,
    directory: str | Path,
    *,
    name: str | None = None,
    layout: str = "auto",
    n_heads: int | None = None,
    positions: str | Path | None = None,
    trained_on: str = "unknown",
) -> Path:
    """Turn a weight file in a published layout into a model directory with safetensors; nothing in the file is run.

    Understood are the layouts of `topobrain.models.vision_checkpoints.convert_vision` and
    `topobrain.models.gpt_checkpoints.convert_gpt`: TopoNets (ResNet with blurred convolutions, ViT, NanoGPT), TopoLM,
    torchvision, and transformers (GPT-2, GPT-Neo, ResNet, ViT).

    Parameters
    ----------
    path
        The file, or a directory in transformers' format.
    directory
        Where to write; ``load_model(directory)`` reads it. Not where the file lies.
    name
        Name of the model (default: the file's).
    layout
        ``"auto"``: told from the names in the file. Else one that these two functions know; ``"nanogpt"`` reads a TopoLM
        without the places of its units.
    n_heads
        Attention heads, where neither file nor width tells.
    positions
        TopoLM's unit positions (see `topobrain.models.gpt_checkpoints.read_positions`).
    trained_on
        What the weights were trained on.

    Raises
    ------
    DataFileError
        The file is missing, damaged, holds code, or is of no known layout.
    InputError
        The number of heads is needed, or the directory is the file's own or another project's.
    UnknownNameError
        No such layout.
    """
    from topobrain.models.directories import save_model

    source = Path(path).expanduser().absolute()
    folder = source if source.is_dir() else source.parent
    if Path(directory).expanduser().resolve() == folder.resolve():
        raise InputError(f"the model would take the place of {source}: choose another directory than {directory}")
    module, tokenizer = _read(source, layout, n_heads=n_heads, positions=positions)
    label = name or (source.name if source.is_dir() else source.stem)
    provenance = {"weights_file": source.name}
    return save_model(
        Path(directory).expanduser(), label, module, tokenizer, trained_on=trained_on, provenance=provenance
    )


def _read(
    path: Path, layout: str = "auto", *, n_heads: int | None = None, positions: str | Path | None = None
) -> tuple[Any, Any]:
    """Return the module of a weight file, and its tokenizer (None for images)."""
    from topobrain.models import gpt_checkpoints, vision_checkpoints
    from topobrain.models.checkpoint_files import find_transformers_files, read_checkpoint

    layouts = dict.fromkeys([*gpt_checkpoints.LAYOUTS, *vision_checkpoints.LAYOUTS])
    require_choice("layout", layout, list(layouts))
    file = find_transformers_files(path)[1] if path.is_dir() else path
    of_gpt = layout in gpt_checkpoints.LAYOUTS
    if layout == "auto":
        checkpoint = read_checkpoint(file)
        of_gpt = not vision_checkpoints.is_vision(checkpoint.tensors)
        if of_gpt:
            _require_gpt(checkpoint, file)
        del checkpoint  # half a gigabyte or more, read again below
    if of_gpt:
        chosen: Any = layout
        gpt = gpt_checkpoints.gpt_from_checkpoint(path, chosen, n_heads=n_heads, positions=positions)
        return gpt, _tokenizer_beside(file.parent)
    if positions is not None:
        raise InputError(f"positions belong to TopoLM; {path} holds a network for images")
    config, state = vision_checkpoints.convert_vision(path, layout, n_heads=n_heads)
    return vision_checkpoints.build_vision(config, state), None


def _require_gpt(checkpoint: Any, file: Path) -> None:
    """Raise what speaks against a GPT; where nothing speaks for one either, name the other layouts too."""
    from topobrain.models import gpt_checkpoints, vision_checkpoints

    try:
        gpt_checkpoints.detect_layout(checkpoint, path=file)
    except DataFileError as error:
        if any(name.endswith(("wte.weight", ".c_attn.weight")) for name in checkpoint.tensors):
            raise
        others = ", ".join(vision_checkpoints.LAYOUTS[1:])
        raise DataFileError(f"{error}. Nor has it the layouts of networks for images: {others}") from None


def _tokenizer_beside(folder: Path) -> Any:
    """Return the tokenizer that lies beside weights, else GPT-2's: the published GPTs all read text with it."""
    from topobrain.models.gpt2_tokenizer import load_gpt2_bpe

    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        return load_gpt2_bpe()
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder))
    except Exception as error:  # transformers raises many kinds
        raise DataFileError(f"cannot read the tokenizer in {folder}: {error}") from error


def _positions_beside(path: Path) -> Path | None:
    places = (path.parent / f"positions{suffix}" for suffix in (".npz", ".npy", ".safetensors", ".pt"))
    return next((place for place in places if place.is_file()), None)


def _load_architecture(name: str, *, weights: str | None = None, device: str = "auto") -> TorchModel:
    architecture, config, what = ARCHITECTURE_NAMES[name]
    if weights is None:
        raise InputError(
            f'{what} has no published weights: load it with weights="untrained", or train it (`topobrain train --help`) and '
            "load its directory"
        )
    return _untrained(name, architecture, dict(config), weights, device)


def _untrained(name: str, architecture: str, fields: dict[str, Any], weights: str, device: str) -> TorchModel:
    from topobrain.models.architectures import build_config, find_architecture, require_weights
    from topobrain.models.directories import RANDOM_WEIGHTS
    from topobrain.models.huggingface import initialise

    require_weights(weights)
    found = find_architecture(architecture)
    config = build_config(found, fields)
    module = initialise(lambda: found.module(config), weights).eval()
    tokenizer = None
    if found.reads == "text":
        from topobrain.models.gpt2_tokenizer import load_gpt2_bpe

        tokenizer = load_gpt2_bpe()
    model = _wrapped(f"{name} ({weights})", module, tokenizer, device)
    model.provenance["trained_on"] = RANDOM_WEIGHTS
    return model


def _wrapped(name: str, module: Any, tokenizer: Any, device: str) -> TorchModel:
    from topobrain.models.architectures import architecture_of

    architecture = architecture_of(module)
    given = () if tokenizer is None else (tokenizer,)
    return architecture.wrap(name, module, *given, device=device)
