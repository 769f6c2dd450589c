"""Integration results with known content, made through their constructor: what is drawn is compared with what went in."""

from __future__ import annotations

import numpy as np
import xarray as xr

from topobrain.activations import sheets_attribute, unit_coords
from topobrain.integration.result import MAPS, Integration
from topobrain.sheet import Sheet

SHEET = Sheet.grid(4, 6, wrapped=True)
FORMS = ("exponential", "power", "mixture")
WINDOWS = {"blocks.0": (0.5, 4.0, 0.1), "blocks.1": (0.7, 1.0, 0.3), "blocks.2": (0.6, 0.7, 0.45)}
"""Layer -> (a, b, c)."""


def window(a, b, c, lags):
    lags = np.asarray(lags, dtype=float)[:, None]
    return c * (lags + 1) ** -a + (1 - c) * np.exp(-b * lags)


def half_width(theta):
    """First lag at one half, NaN where there is none."""
    found = np.full(theta.shape[1], np.nan)
    for unit, curve in enumerate(theta.T):
        below = np.flatnonzero(curve <= 0.5)
        if below.size:
            k = below[0]
            found[unit] = k - 1 + (curve[k - 1] - 0.5) / (curve[k - 1] - curve[k])
    return found


def make_integration(
    windows=None, *, name="m", sheet=SHEET, spread=0.0, yoking=None, sentence_words=None, n_sentences=5, max_lag=20,
    unreliable=0, noisy=0, beyond=0, causal=True, morans=0.4, n_null=1000, simulated=False, n_stimuli=114, seed=0,
):  # fmt: skip
    """``windows``: layer -> (a, b, c), each unit's c moved by a smooth map of height ``spread`` (a and b by half of it).

    ``yoking``: layer -> index, for sequences of ``n_sentences`` sentences of ``sentence_words`` words. Of every layer the
    first ``unreliable`` units have a reliability of .1, the next ``noisy`` ones an unknown fit, the next ``beyond`` ones a
    curve that never comes down to one half. Moran's I of every map is ``morans``, its null 0 with a standard deviation of .02.
    """
    windows = windows or WINDOWS
    layers, n = list(windows), sheet.n_units
    smooth = _smooth_map(sheet, seed)
    lags = np.arange(max_lag + 1) if causal else np.arange(-max_lag, max_lag + 1)
    parts = {key: [] for key in ("a", "b", "c", "theta", "width", "yoking", "reliability", "c_known")}
    for layer, (a, b, c) in windows.items():
        unit = {
            "a": np.maximum(a * (1 + 0.5 * spread * np.roll(smooth, 3)), 0.05),
            "b": np.maximum(b * (1 + 0.5 * spread * np.roll(smooth, 7)), 0.05),
            "c": np.clip(c * (1 + spread * smooth), 0, 1),
        }
        theta = window(**unit, lags=np.abs(lags))
        reliability = np.full(n, 0.95)
        reliability[:unreliable] = 0.1
        known = np.ones(n, dtype=bool)
        known[: unreliable + noisy] = False
        slow = slice(unreliable + noisy, unreliable + noisy + beyond)
        theta[:, slow] = np.linspace(1, 0.6, len(lags))[:, None] if causal else 0.6
        width = half_width(theta[lags >= 0])
        step = np.nan if yoking is None else yoking[layer]
        index = np.clip(step * (1 + spread * smooth), -1, 1) if yoking is not None else np.full(n, np.nan)
        for key, value in (*unit.items(), ("theta", theta), ("width", width), ("yoking", index),
                           ("reliability", reliability), ("c_known", known)):  # fmt: skip
            parts[key].append(value)
    flat = {key: np.concatenate(values, axis=-1) for key, values in parts.items()}
    fitted = flat["c_known"] if causal else np.zeros_like(flat["c_known"])
    if not causal:
        flat |= dict.fromkeys(("a", "b", "c"), np.full(flat["c"].shape, np.nan))
    n_units = flat["c"].size
    se = np.full(n_units, 0.002 if causal else np.nan)
    index = np.arange(n_units)
    best = np.where(fitted, np.where(index % 4 == 0, 0, 2), -1)
    known = {
        "a_known": fitted & (np.nan_to_num(flat["c"]) >= 0.05),
        "b_known": fitted & (np.nan_to_num(flat["c"]) <= 0.95),
        "c_known": fitted,
    }
    kept = ("a", "b", "c", "width", "yoking", "reliability")
    units = {
        **{key: flat[key] for key in kept}, **known, "r2": np.full(n_units, 0.99),
        "centre": (flat["theta"][lags > 0] * lags[lags > 0][:, None]).sum(0) / flat["theta"][lags > 0].sum(0),
        "influence": np.ones(n_units), "best_form": best, **dict.fromkeys(("a_se", "b_se", "c_se", "width_se"), se),
        "yoking_se": np.where(np.isfinite(flat["yoking"]), 0.001, np.nan),
    }  # fmt: skip
    n_words = sentence_words * n_sentences if sentence_words else 40
    step = np.full((n_words, len(layers)), np.nan)
    if yoking is not None:
        step[1:] = -0.001
        step[sentence_words::sentence_words] = list(yoking.values())
    spatial = _spatial(layers, sheet, morans if n_null else np.nan, causal, yoking is not None)
    data = {
        "theta": (("lag", "unit"), flat["theta"]),
        "theta_se": (("lag", "unit"), np.full(flat["theta"].shape, 0.002)),
        **{key: ("unit", value) for key, value in units.items()},
        **{key: (("form", "unit"), np.full((3, n_units), 1.0)) for key in ("bic", "held_out_loss")},
        "layer_reliability": ("layer_name", np.full(len(layers), 0.99)),
        "floor": ("layer_name", np.zeros(len(layers)) if causal else np.full(len(layers), np.nan)),
        "yoking_step": (("position", "layer_name"), step),
        **spatial,
    }
    coords = {
        **unit_coords(dict.fromkeys(layers, sheet)), "lag": lags, "form": np.array(FORMS, dtype=object),
        "map": np.array(MAPS, dtype=object), "layer_name": np.array(layers, dtype=object), "position": np.arange(n_words),
    }  # fmt: skip
    fields = {
        "model": {"name": name},
        "stimuli": {"name": "sentence-sequences" if sentence_words else "word-runs", "n_stimuli": n_stimuli,
                    "simulated": simulated},
        "integrate": {"causal": causal, "swap": {"rule": "same-tag", "seed": seed}, "normalise": "measured", "seed": seed,
                      "max_lag": max_lag, "max_se": 0.005, "n_bootstrap": 100, "n_null": n_null,
                      "sentence_words": sentence_words or 0},
    }  # fmt: skip
    attrs = {**sheets_attribute(dict.fromkeys(layers, sheet)), **Integration.attributes(fields)}
    return Integration(xr.Dataset(data, coords=coords, attrs=attrs))


def _smooth_map(sheet, seed):
    """A map (unit,) between -1 and 1, smooth on the sheet where there is one."""
    rng = np.random.default_rng(seed)
    if not sheet.has_layout:
        return rng.uniform(-1, 1, sheet.n_units)
    x, y = 2 * np.pi * sheet.x / sheet.width, 2 * np.pi * sheet.y / sheet.height
    waves = [np.cos(i * x + j * y + rng.uniform(0, 7)) / (i + j) for i in range(1, 4) for j in range(3)]
    total = np.sum(waves, axis=0)
    return total / np.abs(total).max()


def _spatial(layers, sheet, morans, causal, yoked):
    shape = (len(MAPS), len(layers))
    there = np.array([(one not in "abc" or causal) and (one != "yoking" or yoked) for one in MAPS])[:, None]
    kept = np.broadcast_to(there & sheet.has_layout & np.isfinite(morans), shape)
    values = {
        "morans_i": morans, "null_mean": 0.0, "null_sd": 0.02, "z": morans / 0.02,
        "p_layout": 0.001 if morans > 0.05 else 0.4, "corrected": morans,
    }  # fmt: skip
    return {key: (("map", "layer_name"), np.where(kept, value, np.nan)) for key, value in values.items()}
