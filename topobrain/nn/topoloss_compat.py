"""The interface of the authors' package ``topoloss``, on topobrain's loss: scripts written for it change one import.

``from topobrain.nn.topoloss_compat import TopoLoss, LaplacianPyramid`` takes the place of ``from topoloss import ...``.
Names, arguments, their order and every number agree with release 0.0.2, and the schedulers with the unreleased version
after it, with these exceptions, each a defect of the original:

- ``factor_h`` is compared with the sheet's height and ``factor_w`` with its width (not with the number of inputs and
  the height): ``factor_w = 12`` on 8 x 16 works, ``factor_h = 12`` is refused with a reason.
- A factor below 1 is refused; so is a negative or infinite ``scale``.
- Several losses on one layer are all kept and all counted. The first of a layer keeps the layer's name, later ones get
  ``:bias`` or ``:input`` after it, and a number if that is taken too.
- No losses at all are refused at construction; if every ``scale`` is None, ``compute`` returns 0.
- A prime number of units lies on a padded sheet (`topobrain.nn.topo_sheet`), not on a line that no factor fits.
- ``from_layer`` refuses a layer that is not in the model at once; wrappers (data parallel, compiled) are seen through.
- ``strict_layer_type`` also lets GPT-2's Conv1D pass, a linear layer. Without it, transposed convolutions take their
  output channels as units, embeddings their dimensions; recurrent layers need ``custom_weight_attribute_name``, and the
  gates of an LSTM or GRU belong to one unit each.
- ``save_json`` leaves the losses as they are. With ``strict_layer_type=False`` it writes an object that holds it; else
  the original's list, which both packages read.
- Half-precision weights are computed in float32.
- The cosine schedule stays at its end and may also rise; a wrong ``mode`` is told at once; a schedule leaves losses with
  ``scale=None`` alone (the original switches them on); ``verbose`` goes to this module's logger.
- Errors are `topobrain`'s (`ValueError` and `LookupError`), not AssertionError.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from topobrain._checks import DataFileError, InputError, require_choice
from topobrain.nn.topo_loss import topo_loss
from topobrain.nn.topo_loss_terms import (
    Schedule,
    TopoTerm,
    find_layer,
    is_transformers_conv1d,
    layers,
    unit_weights,
    unwrapped,
)
from topobrain.nn.topo_loss_terms import TopoLoss as ModuleLoss
from topobrain.sheet import Sheet

logger = logging.getLogger(__name__)

MODES = {"linear": "linear", "cosine_decay": "cosine"}


@dataclass
class LaplacianPyramid:
    """A topographic loss on the output units of a layer; `topobrain.nn.TopoTerm` says what the fields mean."""

    layer_name: str
    factor_h: float
    factor_w: float
    interpolation: str = "bilinear"
    scale: float | None = 1.0
    custom_weight_attribute_name: str | None = None

    side: ClassVar[str] = "output"

    @classmethod
    def from_layer(
        cls,
        model: nn.Module,
        layer: nn.Module,
        factor_h: float,
        factor_w: float,
        scale: float | None = 1.0,
        interpolation: str = "bilinear",
        custom_weight_attribute_name: str | None = None,
    ) -> Self:
        """Return the loss on a layer of a model. Note that ``scale`` comes before ``interpolation`` here."""
        name = get_name_by_layer(model, layer)
        if cls.side == "bias":
            unit_weights(layer, "bias", custom_weight_attribute_name, name)  # a layer without one is told here
        return cls(name, factor_h, factor_w, interpolation, scale, custom_weight_attribute_name)

    def term(self) -> TopoTerm:
        """Return the loss as a term of topobrain's."""
        return TopoTerm(
            self.layer_name, self.factor_h, self.factor_w, self.scale, self.side,
            self.custom_weight_attribute_name, self.interpolation,
        )  # fmt: skip


@dataclass
class LaplacianPyramidOnBias(LaplacianPyramid):
    """A topographic loss on the bias of a layer: the whole sheet of biases is one vector."""

    side: ClassVar[str] = "bias"


@dataclass
class LaplacianPyramidOnInput(LaplacianPyramid):
    """A topographic loss on the input units of a linear layer."""

    side: ClassVar[str] = "input"


LOSSES = {cls.__name__: cls for cls in (LaplacianPyramid, LaplacianPyramidOnBias, LaplacianPyramidOnInput)}


class TopoLoss:
    """Topographic losses on several layers of a model.

    Parameters
    ----------
    losses
        At least one.
    strict_layer_type
        Refuse layers other than `torch.nn.Linear`, `torch.nn.Conv2d` and GPT-2's Conv1D.
    """

    def __init__(self, losses: Sequence[LaplacianPyramid], strict_layer_type: bool = True) -> None:
        self.losses = list(losses)
        self.strict_layer_type = strict_layer_type
        self._terms()

    def _terms(self) -> ModuleLoss:
        """Return the losses as they are now: schedules change their scales."""
        return ModuleLoss([loss.term() for loss in self.losses])

    def _names(self) -> list[str]:
        taken: set[str] = set()
        names = []
        for loss in self.losses:
            plain = [loss.layer_name, f"{loss.layer_name}:{loss.side}"]
            numbered = (f"{plain[1]}#{n}" for n in range(2, len(self.losses) + 2))
            names.append(next(name for name in (*plain, *numbered) if name not in taken))
            taken.add(names[-1])
        return names

    def check_layer_type(self, layer: nn.Module) -> None:
        """Raise unless a layer is linear or a two-dimensional convolution."""
        if not isinstance(layer, nn.Linear | nn.Conv2d) and not is_transformers_conv1d(layer):
            raise InputError(
                f"expected a Linear, a Conv2d or a Conv1D of transformers, got a {type(layer).__name__}; "
                "strict_layer_type=False lets other layers pass"
            )

    def get_layerwise_topo_losses(self, model: nn.Module, do_scaling: bool = True) -> dict[str, Tensor]:
        """Return the losses by name; ``do_scaling`` multiplies with the scales and leaves out losses without one."""
        if self.strict_layer_type:
            for loss in self.losses:
                self.check_layer_type(find_layer(model, loss.layer_name))
        terms = self._terms()
        labels = dict(zip(terms.labels, self._names(), strict=True))
        return {labels[label]: loss for label, loss in terms.layerwise(model, scaled=do_scaling).items()}

    def compute(self, model: nn.Module, reduce_mean: bool = True, do_scaling: bool = True) -> Any:
        """Return the mean of the losses (a scalar), or all of them by name."""
        losses = self.get_layerwise_topo_losses(model, do_scaling)
        if not reduce_mean:
            return losses
        if not losses:
            return self._terms().compute(model)
        first, *others = losses.values()
        total = first
        for loss in others:
            total = total + loss.to(first.device)
        return total / len(losses)

    def get_wandb_logging_dict(self, model: nn.Module) -> dict[str, float]:
        """Return the plain losses as numbers, those without a scale too, and their ``"mean"``."""
        with torch.no_grad():
            values = {name: loss.item() for name, loss in self.get_layerwise_topo_losses(model, False).items()}
        return {**values, "mean": sum(values.values()) / len(values)}

    def save_json(self, filename: str | Path) -> None:
        """Write the losses to a JSON file."""
        losses = []
        for loss in self.losses:
            fields = asdict(loss)
            if fields["custom_weight_attribute_name"] is None:
                del fields["custom_weight_attribute_name"]  # release 0.0.2 does not know it
            losses.append({**fields, "name": type(loss).__name__})
        whole = {"losses": losses, "strict_layer_type": self.strict_layer_type}
        Path(filename).write_text(json.dumps(losses if self.strict_layer_type else whole, indent=4))

    @classmethod
    def from_json(cls, filename: str | Path) -> TopoLoss:
        """Read the losses that `save_json`, or the original package, wrote."""
        content = _read_json(filename)
        strict = content.get("strict_layer_type", True) if isinstance(content, dict) else True
        losses = []
        for entry in content["losses"] if isinstance(content, dict) else content:
            fields = dict(entry)
            name = fields.pop("name", None)
            require_choice("loss", name, tuple(LOSSES))
            for field in fields:
                require_choice(f"field of a {name}", field, [known.name for known in dataclass_fields(LOSSES[name])])
            losses.append(LOSSES[name](**fields))
        return cls(losses, strict)


class TauScheduler:
    """Changes the scale of every loss that has one, step by step, from a start to an end value.

    Parameters
    ----------
    topo_loss
        What is scheduled.
    start_value, end_value
        Scales at step 0 and from step ``num_steps`` on.
    num_steps
        Steps on the way.
    mode
        ``"linear"`` or ``"cosine_decay"``.
    verbose
        Log every change.
    """

    def __init__(
        self,
        topo_loss: TopoLoss,
        start_value: float,
        end_value: float,
        num_steps: int,
        mode: str = "linear",
        verbose: bool = False,
    ) -> None:
        require_choice("mode", mode, tuple(MODES))
        if not isinstance(topo_loss, TopoLoss):
            raise InputError(f"expected a TopoLoss of this module, got a {type(topo_loss).__name__}")
        self.schedule = Schedule(start_value, end_value, num_steps, MODES[mode])
        self.topo_loss, self.mode, self.verbose = topo_loss, mode, verbose
        self.start_value, self.end_value, self.num_steps = start_value, end_value, num_steps
        self.current_step = 0

    def compute_value(self, current_step: int) -> float:
        """Return the scale at a step."""
        return self.schedule.at(current_step)

    def get_current_tau(self) -> float:
        """Return the scale that the next `step` sets."""
        return self.compute_value(self.current_step)

    def step(self, current_step: int | None = None) -> None:
        """Set the scales for the current (or the given) step and move on by one."""
        at = self.current_step if current_step is None else current_step
        self.current_step += 1
        value = self.compute_value(at)
        for loss in self.topo_loss.losses:
            if loss.scale is not None:
                if self.verbose:
                    logger.info("%s: scale %.4f -> %.4f at step %d", loss.layer_name, loss.scale, value, at)
                loss.scale = value

    def to_dict(self) -> dict[str, Any]:
        """Return the schedule as plain JSON values."""
        names = ("start_value", "end_value", "num_steps", "mode")
        return {name: getattr(self, name) for name in names}

    def save_json(self, filename: str | Path) -> None:
        """Write the schedule to a JSON file."""
        Path(filename).write_text(json.dumps(self.to_dict(), indent=4))

    @classmethod
    def from_json(cls, filename: str | Path, topo_loss: TopoLoss, verbose: bool = False) -> TauScheduler:
        """Read a schedule that `save_json` wrote."""
        return cls(topo_loss, **_read_json(filename), verbose=verbose)


class ChainedTauScheduler:
    """Schedules that follow each other; after the last, its end value stays.

    Parameters
    ----------
    schedulers
        At least one.
    """

    def __init__(self, schedulers: Sequence[TauScheduler]) -> None:
        if not schedulers:
            raise InputError("a chain needs at least one TauScheduler")
        self.schedulers = list(schedulers)
        self.current_step = 0

    def _active(self) -> tuple[TauScheduler, int]:
        """Return the schedule of the current step and the step within it."""
        step = self.current_step
        for scheduler in self.schedulers:
            if step < scheduler.num_steps:
                return scheduler, step
            step -= scheduler.num_steps
        return self.schedulers[-1], self.schedulers[-1].num_steps

    def get_current_tau(self) -> float:
        """Return the scale that the next `step` sets."""
        scheduler, step = self._active()
        return scheduler.compute_value(step)

    def step(self) -> None:
        """Set the scales for the current step and move on by one."""
        scheduler, step = self._active()
        scheduler.step(step)
        self.current_step += 1

    def save_json(self, filename: str | Path) -> None:
        """Write the schedules to a JSON file."""
        Path(filename).write_text(json.dumps([scheduler.to_dict() for scheduler in self.schedulers], indent=4))

    @classmethod
    def from_json(cls, filename: str | Path, topo_loss: TopoLoss, verbose: bool = False) -> ChainedTauScheduler:
        """Read schedules that `save_json` wrote."""
        return cls([TauScheduler(topo_loss, **fields, verbose=verbose) for fields in _read_json(filename)])


@dataclass
class GridDimensions2D:
    """Width and height of a sheet."""

    width: int
    height: int


def find_cortical_sheet_size(area: int) -> GridDimensions2D:
    """Return the most square exact grid of a number of units; a line for a prime."""
    height = next(h for h in range(math.isqrt(area), 0, -1) if area % h == 0)
    return GridDimensions2D(width=area // height, height=height)


def laplacian_pyramid_loss(
    cortical_sheet: Tensor, factor_w: float, factor_h: float, interpolation: str = "bilinear"
) -> Tensor:
    """Return the loss of unit vectors that lie on their sheet already: (height, width, e)."""
    if cortical_sheet.ndim != 3:
        raise InputError(f"a sheet of unit vectors is (height, width, e), got {tuple(cortical_sheet.shape)}")
    sheet = Sheet.grid(*cortical_sheet.shape[:2])
    return topo_loss(cortical_sheet.flatten(0, 1), sheet, (factor_h, factor_w), interpolation)


def laplacian_pyramid_loss_on_bias(
    cortical_sheet: Tensor, factor_w: float, factor_h: float, interpolation: str = "bilinear"
) -> Tensor:
    """Return the loss of biases that lie on their sheet already: (height, width)."""
    if cortical_sheet.ndim != 2:
        raise InputError(f"a sheet of biases is (height, width), got {tuple(cortical_sheet.shape)}")
    sheet = Sheet.grid(*cortical_sheet.shape)
    return topo_loss(cortical_sheet.flatten(), sheet, (factor_h, factor_w), interpolation)


def get_layer_by_name(model: nn.Module, layer_name: str) -> nn.Module:
    """Return the layer of a dotted path."""
    return find_layer(model, layer_name)


def get_name_by_layer(model: nn.Module, layer: nn.Module) -> str:
    """Return the dotted path of a layer, without the prefixes of wrappers."""
    for name, part in layers(model):
        if part is unwrapped(layer):
            return name
    raise InputError(f"the {type(layer).__name__} given is no layer of this {type(model).__name__}")


def _read_json(filename: str | Path) -> Any:
    try:
        return json.loads(Path(filename).read_text())
    except OSError as error:
        raise DataFileError(f"cannot read {filename}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise DataFileError(f"{filename} is not JSON: {error}") from None
