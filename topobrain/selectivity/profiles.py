"""response_profile: what selected units do in stimuli that took no part in their selection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import xarray as xr

from topobrain._checks import InputError
from topobrain.activations import Activations
from topobrain.results import Result
from topobrain.selectivity.t_maps import stimulus_labels
from topobrain.stats.contrast import TTest
from topobrain.stats.selection import select_top
from topobrain.stimuli import Contrast

if TYPE_CHECKING:
    import pandas as pd

BY_CONDITION = ("mean", "low", "high", "control_mean", "control_low", "control_high")


class Profile(Result):
    """Responses of selected units to every condition, in stimuli that took no part in their selection.

    ``response (fold, condition)``: mean activation of the selected units; ``t (fold)``, ``p (fold)``: of the contrast in
    their mean response to the held-out stimuli (NaN where the measured stimuli lack a side of it); ``selected (fold,
    unit)``: the units. ``mean low high (condition)``: over folds, with a 95 % bootstrap interval over stimuli;
    ``control_mean control_low control_high (condition)``: as many random units in each layer, middle 95 % of the draws:
    how far units differ anyway. It is no test: selection and measurement exchange their stimuli between folds.
    """

    kind: ClassVar[str] = "profile"
    schema: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "response": ("fold", "condition"),
        "t": ("fold",),
        "p": ("fold",),
        "selected": ("fold", "unit"),
        **dict.fromkeys(BY_CONDITION, ("condition",)),
    }

    def summary(self) -> pd.DataFrame:
        """Return one row a condition: held-out response, interval, random units; the contrast's held-out t in every row."""
        import pandas as pd

        return pd.DataFrame(
            {
                "condition": self.labels("condition"),
                "response": self.data["mean"].values,
                "low": self.data["low"].values,
                "high": self.data["high"].values,
                "random_units": self.data["control_mean"].values,
                "random_low": self.data["control_low"].values,
                "random_high": self.data["control_high"].values,
                "held_out_t": float(self.data["t"].values.mean()),
                "n_units": int(self.data["selected"].values[0].sum()),
            }
        )


def response_profile(
    activations: Activations,
    contrast: Contrast,
    *,
    split: Literal["odd-even"] | str = "odd-even",
    measure: Activations | None = None,
    top: float | int = 0.01,
    layer: str | None = None,
    test: Literal["welch", "student"] = "welch",
    rectify: bool = False,
    n_control: int = 200,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Profile:
    """Select units on one part of the stimuli and measure them on the other.

    Parameters
    ----------
    activations
        Activations of the stimuli that select the units.
    contrast
        The contrast that selects them.
    split
        ``"odd-even"``: every other stimulus of each condition; or a stimulus column (``"set"``, ``"run"``): leave one of
        its values out. Not used with ``measure``.
    measure
        Activations of another stimulus set, in which the units are measured instead (select on the language localizer,
        measure on sentences, word lists, Jabberwocky and nonwords). Stimuli whose text occurs in ``activations`` too are
        left out of the measurement; provenance says how many.
    top
        Units to select by signed t: a share or an exact count.
    layer
        Select within this layer only.
    test, rectify
        As in `localize`; ``rectify`` selects by absolute activations, what is measured keeps its sign.
    n_control
        Draws of as many random units in each layer, 0 for none.
    n_bootstrap
        Bootstrap draws over stimuli for the interval, 0 for none.
    seed
        Seed of both.

    Returns
    -------
    Profile
        Without true selectivity the held-out t is about 0, however large t is in the stimuli of the selection.

    Raises
    ------
    InputError
        A split that leaves fewer than two stimuli on a side, a measured set of other layers or units.
    """
    if not isinstance(activations, Activations) or not isinstance(contrast, Contrast):
        raise InputError(
            "response_profile takes activations and one Contrast (of a localizer: .contrasts[0]), got "
            f"{type(activations).__name__} and {type(contrast).__name__}"
        )
    tests = TTest(test=test, rectify=rectify)
    if n_control < 0 or n_bootstrap < 0 or seed < 0:
        raise InputError(f"n_control, n_bootstrap and seed are at least 0; got {n_control}, {n_bootstrap} and {seed}")
    labels = stimulus_labels(activations, contrast.by)
    contrast.masks(labels)
    layers = [layer] if layer else activations.layers
    source = _columns(activations, layers)
    if measure is None:
        target, target_labels, folds, n_shared = source, labels, _folds(labels, contrast, activations, split), 0
    else:
        _require_same_units(activations, measure, layers)
        target, target_labels = _columns(measure, layers), stimulus_labels(measure, contrast.by)
        new = ~np.isin(measure.labels("text"), activations.labels("text"))
        n_shared = int((~new).sum())
        if not new.any():
            raise InputError("every measured stimulus also selected the units: nothing is held out; use split= instead")
        folds = [("all", np.ones(len(labels), dtype=bool), new)]
    groups = np.repeat(np.arange(len(layers)), [activations.sheet(name).n_units for name in layers])
    conditions = list(dict.fromkeys(target_labels.tolist()))
    on, off = (np.isin(labels, list(side)) for side in (contrast.on, contrast.off))
    target_on, target_off = (np.isin(target_labels, list(side)) for side in (contrast.on, contrast.off))
    rng = np.random.default_rng(seed)
    masks, tested, shown = [], [], np.full(len(target), np.nan)
    response = np.full((len(folds), len(conditions)), np.nan)
    control = np.full((len(folds), len(conditions), n_control), np.nan)
    drawn = np.full((len(folds), len(conditions), n_bootstrap), np.nan)
    for number, (_, selecting, measuring) in enumerate(folds):
        mask = select_top(tests.of_values(source[on & selecting], source[off & selecting]).t, top)
        mean = target[:, mask].mean(axis=1)
        shown[measuring] = mean[measuring]
        sides = mean[target_on & measuring, None], mean[target_off & measuring, None]
        tested.append(
            [float(value[0]) for value in TTest(test=test).of_values(*sides)]
            if min(map(len, sides)) >= 2
            else [np.nan, np.nan]
        )
        random = _random_means(target, mask, groups, n_control, rng)
        for place, condition in enumerate(conditions):
            rows = np.flatnonzero(measuring & (target_labels == condition))
            if rows.size:
                response[number, place] = mean[rows].mean()
                control[number, place] = random[rows].mean(axis=0)
                weights = rng.multinomial(rows.size, np.full(rows.size, 1 / rows.size), size=n_bootstrap)
                drawn[number, place] = weights @ mean[rows] / rows.size
        masks.append(mask)
    fields: dict[str, Any] = {key: value for key, value in activations.provenance.items() if key != "versions"}
    fields["profile"] = {
        "contrast": {"name": contrast.name, "on": contrast.on, "off": contrast.off, "by": contrast.by},
        "split": split if measure is None else None, "top": top, "layer": layer, "test": test, "rectify": rectify,
        "n_control": n_control, "n_bootstrap": n_bootstrap, "seed": seed,
        "measured": None if measure is None else measure.provenance.get("stimuli"), "n_left_out": n_shared,
    }  # fmt: skip
    ids = (measure or activations).labels("stimulus")
    data = xr.Dataset(
        {
            "response": (("fold", "condition"), response),
            "t": (("fold",), np.array([t for t, _ in tested])),
            "p": (("fold",), np.array([p for _, p in tested])),
            "selected": (("fold", "unit"), np.array(masks)),
            "stimulus_response": (("stimulus",), shown),
            **_by_condition(response, drawn, control),
        },
        coords={
            "fold": ("fold", np.array([str(name) for name, _, _ in folds], dtype=object)),
            "condition": ("condition", np.array(conditions, dtype=object)),
            "stimulus": ("stimulus", ids),
            "text": ("stimulus", (measure or activations).labels("text")),
            "stimulus_condition": ("stimulus", target_labels),
            "layer": ("unit", np.array(layers, dtype=object)[groups]),
        },
        attrs=Profile.attributes(fields),
    )
    return Profile(data)


def _columns(activations: Activations, layers: list[str]) -> np.ndarray:
    return np.concatenate([activations.values(name) for name in layers], axis=1).astype(np.float64)


def _folds(
    labels: np.ndarray, contrast: Contrast, activations: Activations, split: str
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return (name, selecting, measuring) rows of each part held out in turn."""
    if split == "odd-even":
        part = np.zeros(len(labels), dtype=object)
        for condition in np.unique(labels):
            rows = np.flatnonzero(labels == condition)
            part[rows] = np.arange(rows.size) % 2
    else:
        part = stimulus_labels(activations, split)
    parts = list(dict.fromkeys(part.tolist()))
    if len(parts) < 2:
        raise InputError(f"split {split!r} has one value only: nothing would be held out")
    for held_out in parts:
        test_rows = part == held_out
        for side in ("on", "off"):
            mask = np.isin(labels, list(getattr(contrast, side)))
            for where, rows in (("held-out", test_rows), ("selection", ~test_rows)):
                if (mask & rows).sum() < 2:
                    raise InputError(
                        f"split {split!r} leaves fewer than two {side!r} stimuli in the {where} part {held_out!r}"
                    )
    return [(str(name), part != name, part == name) for name in parts]


def _require_same_units(activations: Activations, measure: Activations, layers: list[str]) -> None:
    for name in layers:
        if measure.sheet(name).n_units != activations.sheet(name).n_units:
            raise InputError(
                f"layer {name!r} has {activations.sheet(name).n_units} units where they are selected and "
                f"{measure.sheet(name).n_units} where they are measured: give activations of one model"
            )
    models = [one.provenance.get("model", {}).get("weights_sha256") for one in (activations, measure)]
    if None not in models and models[0] != models[1]:
        raise InputError("the units are selected in one model and measured in another: their weights differ")


def _random_means(
    target: np.ndarray, mask: np.ndarray, groups: np.ndarray, n_control: int, rng: np.random.Generator
) -> np.ndarray:
    """Return mean responses (stimulus, draw) of random units, as many in every layer as the mask has.

    Selected units may be drawn too: leaving them out would make the band too narrow where nothing is selective.
    """
    present = np.isfinite(target).all(axis=0)
    choice = np.zeros((target.shape[1], n_control))
    for group in np.unique(groups[mask]):
        units = np.flatnonzero((groups == group) & present)
        wanted = int(mask[groups == group].sum())
        for draw in range(n_control):
            choice[rng.choice(units, size=wanted, replace=False), draw] = 1 / mask.sum()
    return np.asarray(np.where(np.isfinite(target), target, 0.0) @ choice)


def _by_condition(response: np.ndarray, drawn: np.ndarray, control: np.ndarray) -> dict[str, Any]:
    """Return means over folds, their bootstrap interval, and the band of random units, one a condition.

    A fold without stimuli of a condition says nothing about it.
    """
    with np.errstate(invalid="ignore"):
        measured = np.isfinite(response)
        n = measured.sum(axis=0)
        mean = np.where(measured, response, 0).sum(axis=0) / n
        band = {}
        for name, draws in (("bootstrap", drawn), ("control", control)):
            averaged = np.where(measured[:, :, None], draws, 0).sum(axis=0) / n[:, None]
            quantiles = np.percentile(averaged, [2.5, 97.5], axis=1) if draws.shape[2] else np.full((2, len(n)), np.nan)
            centre = averaged.mean(axis=1) if draws.shape[2] else np.full(len(n), np.nan)
            band[name] = (centre, *quantiles)
    columns = (mean, *band["bootstrap"][1:], *band["control"])
    return {name: (("condition",), column) for name, column in zip(BY_CONDITION, columns, strict=True)}
