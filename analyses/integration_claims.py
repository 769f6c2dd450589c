"""Which published findings on integration windows hold here: each with its value, its interval and a verdict."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from topobrain.integration.result import MAPS, Integration
from topobrain.stats.contrast import fdr_bh
from topobrain.stats.integration_windows import fit_windows

Verdict = Literal["reproduced", "not", "cannot be told"]

BLOCK = re.compile(r"(blocks|layers)\.\d+")
"""Names of the residual stream behind each block: the layers over which depth is counted."""

ABOUT_ZERO = 0.01
"""Yoking below it is about 0: the published values of the first layers are 0 within .005, those of the last ones .07."""

DELTA = 0.05
"""Influence one word later below which a window is nearly a delta."""

HALF = 0.5
"""Share of a layer's units below which what is known of them says nothing of the layer."""

MOST_ORDERS = 5040
"""Orders of layers up to which all are tried (seven layers)."""

Z = 1.96


@dataclass(frozen=True)
class Study:
    """A model and its controls over both kinds of sequences.

    Parameters
    ----------
    name
        Of the trained model.
    runs, sentences
        Role (``"model"``, ``"twin"``, ``"untrained"``) -> windows over runs of words, and over sentences of equal length.
    laid_out
        Layers whose places training decided; none of models without topography.
    """

    name: str
    laid_out: tuple[str, ...] = ()
    runs: dict[str, Integration] = field(default_factory=dict)
    sentences: dict[str, Integration] = field(default_factory=dict)

    def of(self, role: str, name: str) -> Integration:
        """Return what a map is read from: yoking from sentences, everything else from runs."""
        return (self.sentences if name == "yoking" else self.runs)[role]

    @property
    def blocks(self) -> list[str]:
        """The residual stream behind each block, in order."""
        return [layer for layer in self.runs["model"].layers if BLOCK.fullmatch(layer)]


def claims(studies: Sequence[Study]) -> pd.DataFrame:
    """Return one row a finding: what was expected, the value found, its interval, p where there is one, the verdict.

    Intervals of medians are the middle 95 % over draws of sequences. Orders of layers have an exact permutation p, which
    cannot be below 1 / n! of n layers. Moran's I of two models differ if they do by more than 1.96 standard deviations of both
    layout nulls together.
    """
    rows: list[dict[str, Any]] = []
    for study in studies:
        rows += [{"family": study.name, **row} for row in (*_over_depth(study), *_of_untrained(study))]
        if study.laid_out:
            rows += [{"family": study.name, **row} for row in _of_maps(study)]
    lead = [
        "family",
        "claim",
        "map",
        "layer",
        "against",
        "n_layers",
        "value",
        "low",
        "high",
        "rho",
        "p",
        "verdict",
        "note",
    ]
    return pd.DataFrame(rows).reindex(columns=lead)


def exponential_tail(result: Integration, layer: str) -> np.ndarray:
    """Return a mask (unit,) of the units whose exponential outlasts their power law.

    In the published windows an exponential ends soon and a power law carries the tail. Where the tail is exponential, c is
    the weight of what ends at once: it says the opposite of what it says elsewhere, and cannot be compared with it.
    """
    a, b = (result.values(layer, name, masked=False) for name in ("a", "b"))
    with np.errstate(invalid="ignore"):
        return np.asarray(2.0**-a < np.exp(-b))  # values of both parts at lag 1


def ambiguity(result: Integration, layer: str) -> dict[str, float]:
    """Return in how many fitted units two windows fit equally well, and in how many the exponential outlasts the power law."""
    fit = fit_windows(result.curves(layer)[result.lags >= 0])
    known = np.isfinite(fit.c)
    if not known.any():
        return {"share_ambiguous": np.nan, "share_exponential_tail": np.nan}
    return {
        "share_ambiguous": float(fit.ambiguous[known].mean()),
        "share_exponential_tail": float(exponential_tail(result, layer)[known].mean()),
    }


def tail(result: Integration, layer: str) -> dict[str, float]:
    """Return the median over units of the influence one word later, and of its mean over all later words."""
    curves = result.curves(layer)[result.lags > 0]
    curves = curves[:, np.isfinite(curves).all(axis=0)]
    if not curves.size:
        return {"theta_1": np.nan, "tail": np.nan}
    return {"theta_1": float(np.median(curves[0])), "tail": float(np.median(curves.mean(axis=0)))}


def median_of(result: Integration, layer: str, name: Any) -> float:
    """Return the median over the units whose value is known."""
    values = result.values(layer, name)
    return float(np.nanmedian(values)) if np.isfinite(values).any() else np.nan


def order_p(values: np.ndarray, sign: int, seed: int = 0) -> tuple[float, float]:
    """Return Spearman's rho of values with their place, and how often layers in any order do as well in that direction."""
    n = len(values)
    if n < 2 or not np.isfinite(values).all() or np.ptp(values) == 0:
        return np.nan, np.nan
    ranks, places = rankdata(values), np.arange(n)

    def rho(order: np.ndarray) -> np.ndarray:
        return np.array([np.corrcoef(one, places)[0, 1] for one in np.atleast_2d(order)])

    own = float(rho(ranks)[0])
    if math.factorial(n) <= MOST_ORDERS:
        drawn = rho(np.array(list(itertools.permutations(ranks))))
        return own, float((sign * drawn >= sign * own - 1e-9).mean())
    rng = np.random.default_rng(seed)
    drawn = rho(np.array([rng.permutation(ranks) for _ in range(MOST_ORDERS - 1)]))
    return own, float((1 + (sign * drawn >= sign * own - 1e-9).sum()) / MOST_ORDERS)


def depth_verdict(sign: int, rho: float, p: float, low: float, high: float, n_layers: int) -> Verdict:
    """Return whether something rises (or falls) with depth.

    It does if layers rank that way and the last lies above the first by more than error; with four layers or more their
    order must do so too (p <= .05), with fewer no order can. It does not if the last layer lies clearly on the wrong side,
    or four layers or more rank against it.
    """
    if not np.isfinite([rho, low, high]).all():
        return "cannot be told"
    if sign < 0:
        low, high = -high, -low
    ordered = p <= 0.05 if n_layers >= 4 else sign * rho > 0
    if low > 0 and ordered:
        return "reproduced"
    return "not" if high < 0 or (n_layers >= 4 and sign * rho <= 0) else "cannot be told"


def _over_depth(study: Study) -> Iterator[dict[str, Any]]:
    blocks = study.blocks
    expected = {"c": (1, "rises"), "b": (-1, "falls"), "width": (1, "rises"), "yoking": (1, "rises")}
    for name, (sign, word) in expected.items():
        one = study.of("model", name)
        found = np.array([median_of(one, layer, name) for layer in blocks])
        rho, p = order_p(found, sign)
        low, high = one.layer_interval(blocks[-1], name, against=blocks[0])
        verdict, note = depth_verdict(sign, rho, p, low, high, len(blocks)), ""
        if name in ("b", "c"):
            why = _unreadable(one, blocks, name)
            verdict, note = ("cannot be told", f"{_listed(found)}; {why}") if why else (verdict, note)
        yield {
            "claim": f"{name} {word} with depth (last block less first)", "map": name, "n_layers": len(blocks),
            "value": found[-1] - found[0], "low": low, "high": high, "rho": rho, "p": p, "verdict": verdict,
            "note": (note or _listed(found)) + (_of_power_tails(one, blocks, sign) if name == "c" else ""),
        }  # fmt: skip
    sentences = study.sentences["model"]
    for which, layer in (("first", blocks[0]), ("last", blocks[-1])):
        value, (low, high) = median_of(sentences, layer, "yoking"), sentences.layer_interval(layer, "yoking")
        verdict = about_zero(value, low, high) if which == "first" else above_zero(low, high)
        claim = "yoking is about 0 in the first block" if which == "first" else "yoking is above 0 in the last block"
        yield {"claim": claim, "map": "yoking", "layer": layer, "n_layers": 1, "value": value, "low": low, "high": high,
               "verdict": verdict}  # fmt: skip


def _of_power_tails(result: Integration, blocks: Sequence[str], sign: int) -> str:
    """Return the medians of c over the units whose tail is a power law, and how they rank with depth."""
    found = np.full(len(blocks), np.nan)
    for at, layer in enumerate(blocks):
        values = result.values(layer, "c")[~exponential_tail(result, layer)]
        if np.isfinite(values).any():
            found[at] = np.nanmedian(values)
    rho, p = order_p(found, sign)
    return f"; of units with a power-law tail {_listed(found)}" + (
        f" (rho {rho:.2f}, p {p:.3f})" if np.isfinite(p) else ""
    )


def _listed(found: np.ndarray) -> str:
    return "medians " + " ".join(f"{value:.3f}" for value in found)


def _unreadable(result: Integration, blocks: Sequence[str], name: str) -> str:
    """Return in which of these layers a fitted parameter is known, and its tail a power law, in fewer than half of the units."""
    told = {
        layer: float((np.isfinite(result.values(layer, name)) & ~exponential_tail(result, layer)).mean())  # type: ignore[arg-type]
        for layer in blocks
    }
    return "; ".join(f"{layer}: told of {share:.0%} of the units" for layer, share in told.items() if share < HALF)


def about_zero(value: float, low: float, high: float) -> Verdict:
    """Return whether a value is about 0: within `ABOUT_ZERO`, and not merely unknown."""
    if abs(value) <= ABOUT_ZERO and max(abs(low), abs(high)) <= 2 * ABOUT_ZERO:
        return "reproduced"
    return "not" if low > ABOUT_ZERO or high < -ABOUT_ZERO else "cannot be told"


def above_zero(low: float, high: float) -> Verdict:
    """Return whether an interval lies above 0."""
    return "reproduced" if low > 0 else "not" if high < 0 else "cannot be told"


def _of_untrained(study: Study) -> Iterator[dict[str, Any]]:
    if "untrained" not in study.runs:
        return
    runs, sentences, own = study.runs["untrained"], study.sentences["untrained"], study.runs["model"]
    blocks = study.blocks
    found = np.array([median_of(sentences, layer, "yoking") for layer in blocks])
    if np.isfinite(found).any():
        at = int(np.nanargmax(np.abs(found)))
        value, (low, high) = found[at], sentences.layer_interval(blocks[at], "yoking")
        yield {"claim": "untrained: yoking is about 0 (block where it is largest)", "map": "yoking", "layer": blocks[at],
               "n_layers": len(blocks), "value": value, "low": low, "high": high,
               "verdict": about_zero(value, low, high)}  # fmt: skip
    after = [tail(runs, layer)["theta_1"] for layer in blocks]
    at = int(np.nanargmax(after))
    error = _error_at(runs, blocks[at], 1)
    low, high = after[at] - Z * error, after[at] + Z * error
    yield {"claim": "untrained: windows are nearly a delta (influence one word later, largest block)", "map": "theta_1",
           "layer": blocks[at], "n_layers": len(blocks), "value": after[at], "low": low, "high": high,
           "verdict": "reproduced" if high < DELTA else "not" if low > DELTA else "cannot be told"}  # fmt: skip
    gains = [tail(own, layer)["tail"] - tail(runs, layer)["tail"] for layer in blocks]
    at = int(np.nanargmin(gains))
    error = float(np.hypot(_error_at(own, blocks[at], None), _error_at(runs, blocks[at], None)))
    low, high = gains[at] - Z * error, gains[at] + Z * error
    yield {"claim": "training lengthens windows (mean influence over later words, block where least)", "map": "tail",
           "layer": blocks[at], "against": "untrained", "n_layers": len(blocks), "value": gains[at], "low": low,
           "high": high, "verdict": above_zero(low, high)}  # fmt: skip


def _error_at(result: Integration, layer: str, lag: int | None) -> float:
    """Return the median over units of the standard error at a lag, or the largest a mean over later lags can have."""
    errors = result.data["theta_se"].values[:, result.unit_slice(layer)]
    errors = errors[result.lags == lag][0] if lag is not None else errors[result.lags > 0].mean(axis=0)
    errors = errors[np.isfinite(errors)]
    return float(np.median(errors)) if errors.size else np.nan


def _of_maps(study: Study) -> list[dict[str, Any]]:
    """Return whether maps are patchy: against units in other places, the twin, and the untrained self.

    Of maps with fewer than half of their units nothing is said: which units are known is a map of its own.
    """
    rows: list[dict[str, Any]] = []
    for layer, name in itertools.product(study.laid_out, MAPS):
        every = {role: study.of(role, name) for role in study.runs}
        said = {role: one.spatial(layer, name) for role, one in every.items()}
        shares = {role: float(np.isfinite(one.values(layer, name)).mean()) for role, one in every.items()}  # type: ignore[arg-type]
        few = {role: f"{role}: {share:.0%} of the units known" for role, share in shares.items() if share < HALF}
        own = said["model"]
        base = {"map": name, "layer": layer, "n_layers": 1}
        low, high = (own["morans_i"] - own["null_mean"] + one * Z * own["null_sd"] for one in (-1, 1))
        rows.append({**base, "claim": "map is patchy", "against": "layout null", "value": own["morans_i"] - own["null_mean"],
                     "low": low, "high": high, "p": own["p_layout"], "note": few.get("model", "")})  # fmt: skip
        for role, other in said.items():
            if role != "model":
                note = "; ".join(few[one] for one in ("model", role) if one in few)
                rows.append(
                    {**base, "claim": "map is patchier", "against": role, **_difference(own, other), "note": note}
                )
    tested = [row for row in rows if row["against"] == "layout null" and not row["note"] and np.isfinite(row["p"])]
    if tested:
        for row, q in zip(tested, np.ravel(fdr_bh(np.array([row["p"] for row in tested]))), strict=True):
            row["verdict"], row["note"] = ("reproduced" if q <= 0.05 else "not"), f"q {q:.3f} over the family's maps"
    for row in rows:
        if "verdict" not in row or not np.isfinite(row["value"]) or "units known" in row["note"]:
            row["verdict"], row["note"] = "cannot be told", row["note"] or "the map does not vary"
    return rows


def _difference(own: Mapping[str, float], other: Mapping[str, float]) -> dict[str, Any]:
    """Return how much larger Moran's I is than a control's; what does not exceed it clearly is not patchier."""
    value = own["morans_i"] - other["morans_i"]
    error = Z * float(np.hypot(own["null_sd"], other["null_sd"]))
    verdict: Verdict = "cannot be told" if not np.isfinite(value) else "reproduced" if value > error else "not"
    return {"value": value, "low": value - error, "high": value + error, "verdict": verdict}
