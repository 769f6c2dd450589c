"""Penalties: topographic losses added to a task by configuration, on the weights or the outputs of chosen layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn

from topobrain._checks import InputError, require_choice, unknown
from topobrain.nn import correlation_loss, neighbour_cosine_loss, topo_loss, topo_sheet, wiring_cost
from topobrain.nn.correlation_loss import neighbourhood_centres
from topobrain.nn.spatial_reweighting import SpatialReweighting
from topobrain.nn.topo_loss_terms import unit_weights as weights_of_layer
from topobrain.sheet import Sheet

KINDS = ("topoloss", "neighbour_cosine", "wiring", "correlation")


@dataclass(frozen=True)
class Penalty:
    """One topographic loss on one or more layers.

    Parameters
    ----------
    kind
        ``"topoloss"``, ``"neighbour_cosine"`` or ``"wiring"`` (on weights), or ``"correlation"`` (on outputs).
    layers
        Dotted paths of modules; ``*`` stands for any text (``"blocks.*.mlp.c_fc"``).
    strength
        Weight of the loss (the papers' tau, alpha or lambda).
    reduction
        Mean or sum over the layers.
    factor, interpolation, blur, fwhm, on
        Of `topobrain.nn.topo_loss`, and ``"bias"``; one factor stands for both directions.
    parameter
        The layer's tensor, where it is not called ``weight`` (``"weight_hh_l0"`` of a recurrent layer).
    radius, n_neighbourhoods
        Of `topobrain.nn.correlation_loss`; a radius of None takes the whole sheet.
    form
        Of `topobrain.nn.wiring_cost`.
    schedule, start
        ``"constant"``, or a ``"linear"`` or ``"cosine"`` way from ``start`` to ``strength`` over the run.
    """

    kind: Literal["topoloss", "neighbour_cosine", "wiring", "correlation"]
    layers: tuple[str, ...]
    strength: float = 1.0
    reduction: Literal["mean", "sum"] = "mean"
    factor: tuple[float, float] = (4.0, 4.0)
    interpolation: str = "bilinear"
    blur: Literal["anchor", "gaussian"] = "anchor"
    fwhm: float | None = None
    on: Literal["output", "input", "bias"] = "output"
    parameter: str | None = None
    radius: int | None = 5
    n_neighbourhoods: int = 5
    form: Literal["linear", "saturating", "quadratic"] = "linear"
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    start: float = 0.0

    def __post_init__(self) -> None:
        require_choice("topographic loss", self.kind, KINDS)
        require_choice("reduction", self.reduction, ("mean", "sum"))
        require_choice("schedule", self.schedule, ("constant", "linear", "cosine"))
        object.__setattr__(self, "layers", (self.layers,) if isinstance(self.layers, str) else tuple(self.layers))
        factor: Any = self.factor
        pair = (factor, factor) if isinstance(factor, int | float) else tuple(factor)
        object.__setattr__(self, "factor", tuple(float(f) for f in pair))
        if not self.layers:
            raise InputError(f"the penalty {self.kind!r} names no layer")
        require_choice("side of a layer", self.on, ("output", "input", "bias"))
        if self.on != "output" and self.kind != "topoloss":
            raise InputError(f"only topoloss can be taken on={self.on!r} units, {self.kind} is about output units")
        for name in ("strength", "start"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"the {name} of a penalty must be a number of at least 0, got {value}")

    def strength_at(self, share: float) -> float:
        """Return the strength when a ``share`` (0 to 1) of the run is done."""
        share = min(max(share, 0.0), 1.0)
        if self.schedule == "constant":
            return self.strength
        way = share if self.schedule == "linear" else (1 - math.cos(math.pi * share)) / 2
        return self.start + (self.strength - self.start) * way

    def to_dict(self) -> dict[str, Any]:
        """Return the penalty as plain JSON values."""
        return {**asdict(self), "layers": list(self.layers), "factor": list(self.factor)}


class Penalties:
    """The penalties of a module: finds the layers, watches the outputs it needs, adds up.

    Parameters
    ----------
    module
        The model.
    penalties
        What to add.
    sheets
        Sheets of layers by dotted path, where they are not `topobrain.nn.topo_sheet` of the layer's units.

    Raises
    ------
    UnknownNameError
        A pattern that matches no module.
    InputError
        A layer without a weight, or a loss that does not fit its sheet.
    """

    def __init__(
        self, module: nn.Module, penalties: Sequence[Penalty], sheets: Mapping[str, Sheet] | None = None
    ) -> None:
        self.penalties = tuple(penalties)
        self.sheets = dict(sheets or {})
        self.layers = [_matching(module, penalty) for penalty in self.penalties]
        self._caught: dict[str, Tensor] = {}
        with torch.no_grad():  # what does not fit is told before training starts
            for penalty, layers in zip(self.penalties, self.layers, strict=True):
                for path, part in layers.items():
                    if penalty.kind == "correlation":
                        self._check_neighbourhoods(penalty, path)
                    else:
                        self._on_weights(penalty, path, part)

    def on_weights(self, share: float) -> Tensor | float:
        """Return the penalties on weights; once a step, however many examples it has."""
        return self._total(share, lambda penalty: penalty.kind != "correlation", self._on_weights)

    def on_outputs(self, share: float, visible: Tensor | None, seed: int) -> Tensor | float:
        """Return the penalties on the outputs of the last forward pass.

        ``visible`` (stimulus, token) says which tokens are real. Neighbourhoods are drawn from the seed.
        """
        draws = torch.Generator().manual_seed(seed)

        def loss(penalty: Penalty, path: str, part: nn.Module) -> Tensor:
            if path not in self._caught:
                raise InputError(f"layer {path!r} gave no output that the correlation loss could be computed on")
            return self._on_outputs(penalty, path, self._caught[path], visible, draws)

        return self._total(share, lambda penalty: penalty.kind == "correlation", loss)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Catch the outputs that the penalties on outputs need, while the block runs."""
        handles = []
        for penalty, layers in zip(self.penalties, self.layers, strict=True):
            for path, part in layers.items() if penalty.kind == "correlation" else ():
                handles.append(part.register_forward_hook(self._keeper(path)))
        try:
            yield
        finally:
            self._caught.clear()
            for handle in handles:
                handle.remove()

    def _keeper(self, path: str) -> Any:
        def keep(_: nn.Module, args: Any, output: Any) -> None:
            self._caught[path] = output[0] if isinstance(output, tuple) else output

        return keep

    def _total(self, share: float, wanted: Any, loss: Any) -> Tensor | float:
        total: Tensor | float = 0.0
        for penalty, layers in zip(self.penalties, self.layers, strict=True):
            strength = penalty.strength_at(share)
            if wanted(penalty) and strength > 0:  # a control's penalties of strength 0 cost nothing
                values = [loss(penalty, path, part) for path, part in layers.items()]
                weight = strength / (len(values) if penalty.reduction == "mean" else 1)
                total = total + weight * torch.stack(values).sum()
        return total

    def sheet(self, path: str, n_units: int) -> Sheet:
        """Return the sheet of a layer's units."""
        sheet = self.sheets.get(path)
        return sheet if sheet is not None and sheet.n_units == n_units else topo_sheet(n_units)

    def _check_neighbourhoods(self, penalty: Penalty, path: str) -> None:
        """Raise if a radius does not fit a layer's sheet, where that is known before the layer gave an output."""
        if penalty.radius is None or path not in self.sheets:
            return
        try:
            neighbourhood_centres(self.sheets[path], penalty.radius)
        except InputError as error:
            raise InputError(f"{penalty.kind} on layer {path!r}: {error}") from None

    def _on_weights(self, penalty: Penalty, path: str, part: nn.Module) -> Tensor:
        weight = unit_weights(part, path, penalty.on, penalty.parameter)
        if not torch.isfinite(weight).all():
            return weight.sum() * torch.nan  # the loop tells of a run that diverged, and at which step
        sheet = self.sheet(path, len(weight)) if penalty.on != "input" else topo_sheet(len(weight))
        try:
            if penalty.kind == "topoloss":
                return topo_loss(
                    weight, sheet, penalty.factor, penalty.interpolation, blur=penalty.blur, fwhm=penalty.fwhm
                )
            if penalty.kind == "neighbour_cosine":
                return neighbour_cosine_loss(weight.flatten(1), sheet)
            inputs = weight.flatten(2).square().sum(dim=2).sqrt() if weight.ndim > 2 else weight
            n_inputs = inputs.shape[1]
            below = sheet if n_inputs == sheet.n_units else topo_sheet(n_inputs)
            return wiring_cost(inputs, below, sheet, form=penalty.form)
        except InputError as error:
            raise InputError(f"{penalty.kind} on layer {path!r}: {error}") from None

    def _on_outputs(
        self, penalty: Penalty, path: str, outputs: Tensor, visible: Tensor | None, draws: torch.Generator
    ) -> Tensor:
        if outputs.ndim == 4:  # a feature map: a unit is a channel, every place of every image a sample
            outputs = outputs.permute(0, 2, 3, 1)
        mask = None
        if visible is not None and outputs.ndim == 3 and tuple(outputs.shape[:2]) == tuple(visible.shape):
            mask = visible
        if not torch.isfinite(outputs if mask is None else outputs[mask]).all():
            return outputs.sum() * torch.nan  # the loop tells of a run that diverged, and at which step
        try:
            return correlation_loss(
                outputs, self.sheet(path, outputs.shape[-1]), radius=penalty.radius,
                n_neighbourhoods=penalty.n_neighbourhoods, generator=draws, mask=mask,
            )  # fmt: skip
        except InputError as error:
            raise InputError(f"{penalty.kind} on layer {path!r}: {error}") from None


def unit_weights(part: nn.Module, path: str, on: str = "output", parameter: str | None = None) -> Tensor:
    """Return a layer's weights with the units first: (unit, input, ...), or (unit,) for a bias.

    As `topobrain.nn.topo_loss_terms.unit_weights`, and also of convolutions in a blurring wrapper and of spatial
    reweighting (its effective weights).

    Raises
    ------
    InputError
        The layer has no such weights.
    """
    if isinstance(part, SpatialReweighting) and parameter is None and on != "bias":
        return part.weight if on == "output" else part.weight.T
    inner = getattr(part, "conv", None)
    if not isinstance(getattr(part, "weight", None), Tensor) and isinstance(inner, nn.Conv2d):
        part = inner
    return weights_of_layer(part, on, parameter, path)


def _matching(module: nn.Module, penalty: Penalty) -> dict[str, nn.Module]:
    parts = {path: part for path, part in module.named_modules() if path}
    found: dict[str, nn.Module] = {}
    for pattern in penalty.layers:
        matching = {path: part for path, part in parts.items() if fnmatchcase(path, pattern)}
        if not matching:
            raise unknown(f"layer of the penalty {penalty.kind!r}", pattern, parts, f"(in {type(module).__name__})")
        found.update(matching)
    return found
