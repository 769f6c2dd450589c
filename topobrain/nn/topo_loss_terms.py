"""TopoLoss over a whole module: which layers, which blur, how strong, and strengths that change with the step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from topobrain._checks import InputError, listed, require_choice, unknown
from topobrain.nn.topo_blur import check_recipe
from topobrain.nn.topo_loss import DEFAULT_FACTOR, topo_loss
from topobrain.sheet import Sheet

SIDES = ("output", "input", "bias")
REDUCTIONS = ("mean", "sum")
SHAPES = ("linear", "cosine")
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Names under which data-parallel, compiled, sharded and checkpointed modules hold the module they wrap."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
TABLES = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class TopoTerm:
    """One topographic loss on one layer.

    Parameters
    ----------
    layer
        Dotted path of the layer in the model, as `torch.nn.Module.named_modules` gives it; prefixes of data-parallel
        and compiled wrappers may be there or not.
    factor_h, factor_w
        Pitch of the blur down and across the sheet, in units.
    strength
        What the loss is multiplied with (the paper's tau). None only logs: the term is in neither the sum nor the
        number of terms that a mean divides by.
    on
        ``"output"`` units, ``"input"`` units, or the ``"bias"`` of the output units.
    parameter
        The tensor of the layer, where it is not called ``weight`` or ``bias``: ``"weight_hh_l0"`` of a recurrent
        layer, say. Stacked blocks (the gates of an LSTM or GRU, query, key and value of
        `torch.nn.MultiheadAttention`) belong to one unit each: its vector holds its row of every block.
    interpolation, blur, fwhm, sheet
        As in `topobrain.nn.topo_loss`.

    Raises
    ------
    InputError
        A factor below 1, a strength that is negative or not finite.
    UnknownNameError
        A side, interpolation or blur that does not exist.
    """

    layer: str
    factor_h: float = DEFAULT_FACTOR
    factor_w: float = DEFAULT_FACTOR
    strength: float | None = 1.0
    on: str = "output"
    parameter: str | None = None
    interpolation: str = "bilinear"
    blur: str = "anchor"
    fwhm: float | tuple[float, float] | None = None
    sheet: Sheet | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.layer, str):
            raise InputError(f"a layer is named by its dotted path, got {type(self.layer).__name__}")
        if isinstance(self.fwhm, list):  # as JSON keeps a pair
            object.__setattr__(self, "fwhm", tuple(self.fwhm))
        require_choice("side of a layer", self.on, SIDES)
        check_recipe((self.factor_h, self.factor_w), self.interpolation, self.blur, self.fwhm)
        for name in ("factor_h", "factor_w"):
            object.__setattr__(self, name, float(getattr(self, name)))  # NumPy's numbers are not JSON
        if self.strength is not None:
            object.__setattr__(self, "strength", _strength(self.strength, f"the strength of layer {self.layer!r}"))

    @property
    def label(self) -> str:
        """Name of the term in logs: the layer, with the side and the parameter where they are not the usual ones."""
        if self.on == "output" and self.parameter is None:
            return self.layer
        return ":".join([self.layer, self.on] + ([self.parameter] if self.parameter else []))

    def loss(self, module: nn.Module) -> Tensor:
        """Return this term's loss on a module, not multiplied with its strength."""
        layer = find_layer(module, self.layer)
        weight = unit_weights(layer, self.on, self.parameter, self.layer)
        factor = (self.factor_h, self.factor_w)
        try:
            return topo_loss(weight, self.sheet, factor, self.interpolation, blur=self.blur, fwhm=self.fwhm)
        except InputError as error:
            raise InputError(f"topographic loss on layer {self.label!r}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Return the term as plain JSON values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        fwhm = list(self.fwhm) if isinstance(self.fwhm, tuple) else self.fwhm
        return {**values, "fwhm": fwhm, "sheet": None if self.sheet is None else self.sheet.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TopoTerm:
        """Rebuild a term from `to_dict`; fields that are not given take their defaults."""
        known = [field.name for field in fields(cls)]
        for name in values:
            require_choice("field of a topographic term", name, known)
        if "layer" not in values:
            raise InputError(f"a topographic term needs a 'layer'; got {listed(values)}")
        sheet = values.get("sheet")
        return cls(**{**values, "sheet": Sheet.from_dict(sheet) if isinstance(sheet, Mapping) else sheet})


@dataclass(frozen=True)
class TopoLoss:
    r"""Topographic losses on several layers of a model, to be added to the task's loss.

    :math:`\frac1K \sum_k \tau_k L_k` over the K terms whose strength is not None, or the plain sum.

    Parameters
    ----------
    terms
        At least one. Any number of terms may lie on one layer; each has a label of its own.
    reduction
        ``"mean"`` divides by K, as the authors do, so that the strength a layer feels is tau / K; ``"sum"`` does not.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 36))
    >>> losses = TopoLoss([TopoTerm("0", 2, 2, strength=3.0), TopoTerm("0", 2, 2, on="bias", strength=None)])
    >>> sorted(losses.layerwise(model)), losses.compute(model).shape
    (['0', '0:bias'], torch.Size([]))

    References
    ----------
    Deb, Deb & Murty (2025), TopoNets, ICLR, arXiv 2501.16396.
    """

    terms: tuple[TopoTerm, ...]
    reduction: str = "mean"

    def __init__(self, terms: Any, reduction: str = "mean") -> None:
        object.__setattr__(self, "terms", tuple(terms))
        object.__setattr__(self, "reduction", reduction)
        require_choice("reduction", reduction, REDUCTIONS)
        if not self.terms:
            raise InputError("a topographic loss needs at least one term, for instance TopoTerm('layer')")
        for term in self.terms:
            if not isinstance(term, TopoTerm):
                raise InputError(f"terms are TopoTerm objects, got {type(term).__name__}")

    @property
    def labels(self) -> tuple[str, ...]:
        """One label a term, in order; terms that would share one are numbered (``fc``, ``fc#2``)."""
        seen: dict[str, int] = {}
        labels = []
        for term in self.terms:
            seen[term.label] = seen.get(term.label, 0) + 1
            labels.append(term.label if seen[term.label] == 1 else f"{term.label}#{seen[term.label]}")
        return tuple(labels)

    def compute(self, module: nn.Module, *, multiplier: float | Mapping[str, float] = 1.0) -> Tensor:
        """Return the total to add to the task's loss; 0, without a gradient, if every term only logs.

        Parameters
        ----------
        module
            The model, or any wrapper of it.
        multiplier
            Number that every strength is multiplied with, for instance ``Schedule(...).at(step)``, or one a label.
            Labels that are not given keep their strength.

        Raises
        ------
        UnknownNameError
            A layer that the model does not have.
        InputError
            A layer without a layout of its units, or a factor that exceeds it.
        """
        losses = list(self.layerwise(module, scaled=True, multiplier=multiplier).values())
        if not losses:
            first = self.terms[0]
            weight = unit_weights(find_layer(module, first.layer), first.on, first.parameter, first.layer)
            return torch.zeros((), device=weight.device)
        total = losses[0]
        for loss in losses[1:]:
            total = total + loss.to(total.device)  # layers of one model may live on several devices
        return total / len(losses) if self.reduction == "mean" else total

    def layerwise(
        self, module: nn.Module, scaled: bool = False, *, multiplier: float | Mapping[str, float] = 1.0
    ) -> dict[str, Tensor]:
        """Return every term's loss by label.

        ``scaled`` multiplies with the strengths (times ``multiplier``) and leaves out the terms that only log;
        otherwise the plain losses of all terms come back.
        """
        factors = self._multipliers(multiplier)
        losses = {}
        for label, term in zip(self.labels, self.terms, strict=True):
            if not scaled:
                losses[label] = term.loss(module)
            elif term.strength is not None:
                losses[label] = term.loss(module) * (term.strength * factors[label])
        return losses

    def _multipliers(self, multiplier: float | Mapping[str, float]) -> dict[str, float]:
        labels = self.labels
        if not isinstance(multiplier, Mapping):
            return dict.fromkeys(labels, _strength(multiplier, "a multiplier"))
        for label in multiplier:
            require_choice("term", label, labels)
        return {label: _strength(multiplier.get(label, 1.0), f"the multiplier of {label!r}") for label in labels}

    def with_strength(self, strength: float) -> TopoLoss:
        """Return the same loss with one strength on every term that has one; terms that only log still only log."""
        terms = [term if term.strength is None else replace(term, strength=strength) for term in self.terms]
        return TopoLoss(terms, self.reduction)

    def to_dict(self) -> dict[str, Any]:
        """Return the loss as plain JSON values."""
        return {"terms": [term.to_dict() for term in self.terms], "reduction": self.reduction}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TopoLoss:
        """Rebuild a loss from `to_dict`."""
        for name in values:
            require_choice("field of a topographic loss", name, ("terms", "reduction"))
        if "terms" not in values:
            raise InputError("a topographic loss needs 'terms'")
        return cls([TopoTerm.from_dict(term) for term in values["terms"]], values.get("reduction", "mean"))


@dataclass(frozen=True)
class Schedule:
    """A number that goes from ``start`` to ``end`` in ``steps`` steps and stays there.

    ``"linear"``: start + (end - start) t / T. ``"cosine"``: end + (start - end) (1 + cos(pi t / T)) / 2, either way.

    >>> [round(Schedule(0.0, 10.0, 4, shape).at(step), 2) for shape in ("linear", "cosine") for step in (0, 1, 4, 8)]
    [0.0, 2.5, 10.0, 10.0, 0.0, 1.46, 10.0, 10.0]
    """

    start: float
    end: float
    steps: int
    shape: str = "linear"

    def __post_init__(self) -> None:
        require_choice("shape of a schedule", self.shape, SHAPES)
        _strength(self.start, "the start of a schedule")
        _strength(self.end, "the end of a schedule")
        if not self.steps >= 1 or not math.isfinite(self.steps):
            raise InputError(f"a schedule takes at least one step, got {self.steps}")

    def at(self, step: float) -> float:
        """Return the number at a step: ``start`` up to step 0, ``end`` from the last step on."""
        if math.isnan(step):
            raise InputError("a step is a number, got NaN")
        share = min(max(step / self.steps, 0.0), 1.0)
        if share == 1.0:
            return self.end
        way = share if self.shape == "linear" else (1 - math.cos(math.pi * share)) / 2
        return self.start + (self.end - self.start) * way


def find_layer(module: nn.Module, path: str) -> nn.Module:
    """Return the layer at a dotted path, looking through data-parallel, compiled and similar wrappers.

    Raises
    ------
    UnknownNameError
        There is no such layer; near names are offered.
    """
    current = module
    for name in path.split(".") if path else ():
        inside: nn.Module | None = current
        while inside is not None and name not in inside._modules:
            inside = _wrapped(inside)
        if inside is not None and isinstance(found := inside._modules[name], nn.Module):
            current = found
        elif name not in WRAPPERS:  # a path that was written for the wrapped model also fits the bare one
            known = [inner for inner, part in layers(module) if next(part.parameters(False), None) is not None]
            raise unknown("layer", path, known)
    return unwrapped(current)


def layers(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield every module with its dotted path, as if there were no wrappers."""
    bare = unwrapped(module)
    yield path, bare
    for name, child in bare._modules.items():
        if child is not None:
            yield from layers(child, f"{path}.{name}" if path else name)


def unwrapped(module: nn.Module) -> nn.Module:
    """Return what data-parallel, compiled and similar wrappers hold; other modules as they are."""
    while (inner := _wrapped(module)) is not None:
        module = inner
    return module


def _wrapped(module: nn.Module) -> nn.Module | None:
    """Return what a wrapper wraps, or None: a wrapper's only child has one of the known names."""
    children = list(module._modules.items())
    return children[0][1] if len(children) == 1 and children[0][0] in WRAPPERS else None


def unit_weights(layer: nn.Module, on: str = "output", parameter: str | None = None, name: str = "") -> Tensor:
    """Return a layer's weights with the units of one side first: (unit, anything), or (unit,) for a bias.

    Knows Linear, convolutions of any dimension (units are channels), transposed convolutions, the Conv1D of
    transformers' GPT-2 (in, out), embeddings (units are the embedding's dimensions), and with ``parameter`` recurrent
    layers and MultiheadAttention. Of other layers ``parameter`` names a tensor (unit, anything).

    Raises
    ------
    InputError
        A layer whose units are not known, without the tensor, or without units on that side.
    """
    kind, where = type(layer).__name__, f"layer {name!r}" if name else "the layer"
    if parameter is None and not _has_own_layout(layer):
        own = [key for key, _ in layer.named_parameters(recurse=False)]
        inside = [key for key, part in layer.named_modules() if key and _has_own_layout(part)]
        ways = [f"name the tensor with parameter=, one of {listed(own)}"] if own else []
        ways += [f"take a layer inside it ({listed(inside, 4)})"] if inside else []
        raise InputError(f"{where} is a {kind}, whose units are not known: {', or '.join(ways) or 'it has no weights'}")
    attribute = parameter or ("bias" if on == "bias" else "weight")
    tensor = getattr(layer, attribute, None)
    if not isinstance(tensor, Tensor):
        raise InputError(
            f"{where} ({kind}) has no {attribute!r}; it has {listed(key for key, _ in layer.named_parameters())}"
        )
    if nn.parameter.is_lazy(tensor):
        raise InputError(f"{where} ({kind}) is lazy: let it see an input first, so that it knows its shape")
    blocks = _n_blocks(layer, attribute)
    if on == "bias":
        if tensor.ndim != 1 or blocks > 1:
            raise InputError(f"a bias has one value a unit; {attribute!r} of {where} ({kind}) is {tuple(tensor.shape)}")
        return tensor
    if tensor.ndim < 2:
        raise InputError(
            f"{attribute!r} of {where} ({kind}) is {tuple(tensor.shape)}: units need a vector each; for one value a "
            "unit take on='bias'"
        )
    return _units_first(layer, tensor, on, blocks, where)


def _units_first(layer: nn.Module, tensor: Tensor, on: str, blocks: int, where: str) -> Tensor:
    """Return a layer's tensor with its output or input units first."""
    kind = type(layer).__name__
    if on == "input" and isinstance(layer, TABLES):
        raise InputError(f"{where} is an {kind}: its inputs are tokens, which have no places on a sheet")
    groups = getattr(layer, "groups", 1)
    if on == "input" and isinstance(layer, CONVOLUTIONS + TRANSPOSED) and groups > 1:
        raise InputError(
            f"{where} is a {kind} with {groups} groups: its input units reach different outputs, so their weights "
            "cannot be compared"
        )
    if isinstance(layer, TRANSPOSED) and on == "output":  # (in, out / groups, kernel)
        split = tensor.reshape(groups, -1, *tensor.shape[1:])
        return split.transpose(1, 2).flatten(0, 1)
    inputs_first = isinstance(layer, TRANSPOSED + TABLES) or is_transformers_conv1d(layer)
    if (on == "input") != inputs_first:
        return tensor.transpose(0, 1)
    return tensor.reshape(blocks, -1, *tensor.shape[1:]).transpose(0, 1).flatten(1) if blocks > 1 else tensor


def _has_own_layout(layer: nn.Module) -> bool:
    """Return whether it is known where a layer keeps its units in its weight."""
    known = (nn.Linear, nn.Bilinear, *CONVOLUTIONS, *TRANSPOSED, *TABLES)
    return isinstance(layer, known) or is_transformers_conv1d(layer)


def is_transformers_conv1d(layer: nn.Module) -> bool:
    """Return whether a layer is the linear layer of GPT-2; importing transformers for that would cost seconds."""
    return any(cls.__name__ == "Conv1D" and cls.__module__.startswith("transformers.") for cls in type(layer).__mro__)


def _n_blocks(layer: nn.Module, attribute: str) -> int:
    """Return how many rows of a tensor belong to each unit: gates of a recurrent layer, query, key and value."""
    if isinstance(layer, RECURRENT) and attribute.startswith(("weight_ih", "weight_hh", "bias_ih", "bias_hh")):
        return 4 if isinstance(layer, nn.LSTM | nn.LSTMCell) else 3 if isinstance(layer, nn.GRU | nn.GRUCell) else 1
    return 3 if isinstance(layer, nn.MultiheadAttention) and attribute.startswith("in_proj") else 1


def _strength(value: object, what: str) -> float:
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not (math.isfinite(number) and number >= 0):
        raise InputError(f"{what} is a finite number of at least 0, got {value!r}")
    return number
